"""The attestation endpoints: anyone may ask this host for proof, within limits.

Paths and JSON are in ``calls.evidence``. There is no login: a proof that only users may ask for
would be worth little. What it costs is bounded instead: TPM commands are slow, so they run one
at a time, and each client and all together may only ask so often.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
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
from casemate.hostd.soap import GoneError, peer_of, read_body, send_response

NONCE_SIZES = range(16, 65)
"""Bytes of a nonce: enough to be unique, no more than a TPM takes."""

BANKS = frozenset({"sha1", "sha256", "sha384", "sha512", "sm3_256"})
PCR_COUNT = 24

CLIENT_RATE, CLIENT_BURST = 1.0, 10.0
"""Requests a second, and at once, of one address."""

TOTAL_RATE, TOTAL_BURST = 5.0, 30.0
"""Requests a second, and at once, of all together."""

CLIENTS_KEPT = 1000
"""Addresses remembered; the one that was seen longest ago is forgotten."""


@dataclass(slots=True)
class _Bucket:
    level: float
    stamp: float


class RateLimit:
    """Token buckets, one per client and one for all. ``clock`` gives seconds that only grow."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._clients: OrderedDict[str, _Bucket] = OrderedDict()
        self._total = _Bucket(TOTAL_BURST, clock())

    def admit(self, client: str) -> bool:
        """Count one request; False: too many."""
        bucket = self._clients.setdefault(client, _Bucket(CLIENT_BURST, self._clock()))
        self._clients.move_to_end(client)
        while len(self._clients) > CLIENTS_KEPT:
            self._clients.popitem(last=False)
        return self._take(bucket, CLIENT_RATE, CLIENT_BURST) and self._take(
            self._total, TOTAL_RATE, TOTAL_BURST
        )

    def _take(self, bucket: _Bucket, rate: float, burst: float) -> bool:
        now = self._clock()
        bucket.level = min(burst, bucket.level + (now - bucket.stamp) * rate)
        bucket.stamp = now
        if bucket.level < 1:
            return False
        bucket.level -= 1
        return True


class ProofEndpoint:
    """ASGI application for everything below ``/attestation/v1/``."""

    def __init__(self, link: KernelLink, clock: Callable[[], float]) -> None:
        self._link = link
        self._limit = RateLimit(clock)
        self._turn = asyncio.Semaphore(1)
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
        if not self._limit.admit(peer_of(scope)):
            await _refuse(send, 429, _TOO_MANY)
            return
        try:
            body = await read_body(receive, evidence.REQUEST_LIMIT)
            async with self._turn:
                answer = await handler(body)
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
