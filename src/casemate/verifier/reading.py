"""Reading evidence: what stays the same from round to round is decoded once, and need not be sent.

A host's PCR values, log and components change when it boots; quotes are new in every round. The
stable part of a body is known by its SHA-256: under it what was decoded is remembered, whatever
compares it is, and an agent may send the digest instead of the part. An IMA list only grows: an
agent may send what is new, and size and digest of what it sent before. Nothing is believed of
bytes that would not be believed if they were sent: what is judged and kept is the whole.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from casemate.calls import evidence as wire
from casemate.calls.messages import EvidenceReply
from casemate.errors import CasemateError, NotFoundError
from casemate.policy.appraise import Evidence
from casemate.verifier.client import evidence_of

REMEMBERED = 4096
"""Stable parts kept: some 40 KiB each, as they came and decoded."""

LARGEST = 128 << 10
"""Bytes of a part that is remembered: a firmware log has 20 to 60 KiB."""


@dataclass(frozen=True, slots=True)
class Read:
    """Decoded evidence; ``key`` is the digest of its stable part, empty where it has none."""

    evidence: Evidence
    key: bytes = b""


class Reader:
    """Reads bodies; safe to use from several threads."""

    def __init__(self, size: int = REMEMBERED) -> None:
        self._size = size
        self._known: OrderedDict[bytes, tuple[bytes, Evidence]] = OrderedDict()
        self._turn = threading.Lock()

    def whole(self, body: bytes, last: Callable[[], bytes]) -> bytes:
        """Return a body as it would be if all had been sent, and not digests.

        ``last`` gives the host's evidence of the round before, empty where there is none.

        Raises:
            NotFoundError: ``send-whole``: something is not known here.
            FormatError: there is no place for what is missing.
        """
        lacks = wire.continues(body)
        if lacks is not None:
            size, digest = lacks
            first = _list_of(last())[:size]
            if len(first) != size or hashlib.sha256(first).digest() != digest:
                raise _unknown()
            body = wire.complete(body, first)
        place = wire.shortened(body)
        if place is None:
            return body
        begin, end, same = place
        with self._turn:
            known = self._known.get(same)
        part = known[0] if known is not None else _part_of(last())
        if known is None and hashlib.sha256(part).digest() != same:
            raise _unknown()
        return body[:begin] + part + body[end:]

    def read(self, body: bytes) -> Read:
        """Decode a body. Raises FormatError, LimitError."""
        place = wire.split(body)
        if place is None:
            return Read(evidence_of(wire.decode(EvidenceReply, body)))
        begin, end = place
        part = body[begin:end]
        key = hashlib.sha256(part).digest()
        stable = self._stable(key, part)
        fresh = wire.decode(wire.Fresh, body[:begin] + body[end:])
        evidence = Evidence(
            fresh.quotes,
            stable.pcrs,
            stable.log,
            stable.claims,
            fresh.accelerator,
            fresh.measurements,
            fresh.heads,
        )
        return Read(evidence, key)

    def _stable(self, key: bytes, part: bytes) -> Evidence:
        with self._turn:
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
                return known[1]
        decoded = wire.decode(wire.Stable, b"{" + part[1:] + b"}")
        values = (decoded.pcrs, decoded.log, decoded.components)
        made = evidence_of(EvidenceReply((), *values, boot_complete=True, taken=0.0))
        if len(part) > LARGEST:
            return made
        with self._turn:
            self._known[key] = part, made
            while len(self._known) > self._size:
                self._known.popitem(last=False)
        return made


def _part_of(body: bytes) -> bytes:
    place = wire.split(body)
    return b"" if place is None else body[place[0] : place[1]]


def _list_of(body: bytes) -> bytes:
    try:
        return wire.decode(EvidenceReply, body).measurements if body else b""
    except CasemateError:
        return b""


def _unknown() -> NotFoundError:
    return NotFoundError(
        "this part of the evidence is not known here",
        code="send-whole",
        component="evidence",
        remedy="Send the evidence whole; the nonce is still good.",
    )
