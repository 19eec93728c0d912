"""The attestation endpoints: anyone may ask this host for proof, within limits.

Paths and JSON are in ``calls.evidence``. There is no login: a proof that only users may ask for
would be worth little. What it costs is bounded instead: TPM commands are slow, so they run one
at a time, and each peer and all together may only ask so often.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from casemate.calls import evidence
from casemate.calls.messages import (
    ActivateCredential,
    ActivationReply,
    EvidenceReply,
    Identity,
    IdentityReply,
    Quote,
)
from casemate.errors import ArgumentError, CasemateError, FormatError, LimitError, NotFoundError
from casemate.hostd.kernelclient import KernelLink, RefusedError
from casemate.hostd.limits import Bucket, PerPeer, Rate
from casemate.hostd.soap import GoneError, peer_of, read_body, send_response
from casemate.policy.quotas import peer_of_address

NONCE_SIZES = range(16, 65)
"""Bytes of a nonce: enough to be unique, no more than a TPM takes."""

BANKS = frozenset({"sha1", "sha256", "sha384", "sha512", "sm3_256"})
PCR_COUNT = 24

CLIENT = Rate(1.0, 10.0)
"""Requests of one peer."""

TOTAL = Rate(5.0, 30.0)
"""Requests of all peers together, beside what familiar ones are sure of."""

FAMILIAR = Rate(1 / 20, 4.0)
"""Requests that a familiar peer is sure of, whoever else asks: verifiers pause longer."""

FAMILIAR_KEPT = 64
"""Familiar peers: together they are sure of three requests a second, which a TPM can bear."""

FAMILIAR_SECONDS = 86_400.0
"""A peer that has not asked for so long gives its place to another."""

WAITING = 16
"""Requests that wait for the TPM at once, beside those of familiar peers."""


@dataclass(slots=True)
class _Familiar:
    bucket: Bucket
    seen: float


class RateLimit:
    """Who may ask now. ``clock`` gives seconds that only grow.

    Strangers share a total and can use it up; whoever was admitted before they came has a small
    share of its own, so a flood keeps no verifier away that has been here. A place is never taken
    from a familiar peer that still asks.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._each = PerPeer(CLIENT, clock)
        self._total = Bucket(TOTAL, clock())
        self._familiar: dict[str, _Familiar] = {}

    def admit(self, address: str, *, busy: bool = False) -> bool:
        """Count one request; False: too many. ``busy``: only familiar peers may ask."""
        now, peer = self._clock(), peer_of_address(address)
        if not self._each.take(address):
            return False
        known = self._familiar.get(peer)
        if known is not None:
            known.seen = now
        if not busy and self._total.take(now):
            self._welcome(peer, now)
            return True
        return known is not None and known.bucket.take(now)

    def _welcome(self, peer: str, now: float) -> None:
        if peer in self._familiar:
            return
        if len(self._familiar) >= FAMILIAR_KEPT:
            longest = min(self._familiar, key=lambda one: self._familiar[one].seen)
            if now - self._familiar[longest].seen < FAMILIAR_SECONDS:
                return
            del self._familiar[longest]
        self._familiar[peer] = _Familiar(Bucket(FAMILIAR, now), now)


class ProofEndpoint:
    """ASGI application for everything below ``/attestation/v1/``."""

    def __init__(self, link: KernelLink, clock: Callable[[], float]) -> None:
        self._link = link
        self._limit = RateLimit(clock)
        self._turn = asyncio.Semaphore(1)
        self._waiting = 0
        self._handlers: dict[tuple[str, str], Callable[[bytes], Awaitable[bytes]]] = {
            ("GET", evidence.IDENTITY_PATH): self._identity,
            ("POST", evidence.ACTIVATE_PATH): self._activate,
            ("POST", evidence.EVIDENCE_PATH): self._evidence,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        handler = self._handlers.get((scope["method"], scope["path"]))
        if handler is None:
            await _refuse(send, 404, NotFoundError("There is no such resource."))
            return
        if not self._limit.admit(peer_of(scope), busy=self._waiting >= WAITING):
            await _refuse(send, 429, _TOO_MANY)
            return
        try:
            body = await read_body(receive, evidence.REQUEST_LIMIT)
            answer = await self._in_turn(handler, body)
        except GoneError:
            return
        except TimeoutError:
            await _refuse(send, 408, FormatError("The request took too long.", code="timeout"))
        except LimitError as error:
            await _refuse(send, 413, error)
        except (FormatError, ArgumentError) as error:
            await _refuse(send, 400, error)
        except RefusedError as error:
            await _refuse(send, 422, error)
        except CasemateError as error:
            await _refuse(send, 503, error)
        else:
            await send_response(send, 200, answer, _HEADERS)

    async def _in_turn(self, handler: Callable[[bytes], Awaitable[bytes]], body: bytes) -> bytes:
        self._waiting += 1
        try:
            async with self._turn:
                return await handler(body)
        finally:
            self._waiting -= 1

    async def _identity(self, _body: bytes) -> bytes:
        return evidence.encode(await self._link.ask(Identity(), IdentityReply))

    async def _activate(self, body: bytes) -> bytes:
        request = evidence.decode(ActivateCredential, body, limit=evidence.REQUEST_LIMIT)
        return evidence.encode(await self._link.ask(request, ActivationReply))

    async def _evidence(self, body: bytes) -> bytes:
        request = evidence.decode(Quote, body, limit=evidence.REQUEST_LIMIT)
        if len(request.nonce) not in NONCE_SIZES:
            raise ArgumentError("A nonce has 16 to 64 bytes.", argument="nonce")
        if not request.banks or not set(request.banks) <= BANKS:
            raise ArgumentError("Unknown bank.", argument="banks")
        if not request.pcrs or not set(request.pcrs) <= set(range(PCR_COUNT)):
            raise ArgumentError("PCRs are 0 to 23.", argument="pcrs")
        return evidence.encode(await self._link.ask(request, EvidenceReply))


_HEADERS = {
    "content-type": "application/json",
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
}


_TOO_MANY = CasemateError(
    "Too many requests.", code="too-many-requests", remedy="Wait a second, then ask again."
)


async def _refuse(send: Send, status: int, error: CasemateError) -> None:
    headers = dict(_HEADERS)
    if status == 429:  # noqa: PLR2004  (too many requests)
        headers["retry-after"] = "1"
    told = {"code": error.code, "reason": error.reason, "remedy": error.remedy}
    body = json.dumps({"error": told}).encode()
    await send_response(send, status, body, headers)
