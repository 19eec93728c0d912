"""Reading evidence: what stays the same from round to round is decoded once, and need not be sent.

A host's PCR values, log and components change when it boots; quotes are new in every round. The
stable part of a body is known by its SHA-256: under it what was decoded is remembered, whatever
compares it is, and an agent may send the digest instead of the part. Nothing is believed of a part
that would not be believed if it were sent: the quotes cover its values, and they cover its log.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass

from casemate.calls import evidence as wire
from casemate.calls.messages import EvidenceReply
from casemate.errors import NotFoundError
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

    def whole(self, body: bytes) -> bytes:
        """Return a body as it would be if its stable part had been sent, and not its digest.

        Raises:
            NotFoundError: ``send-whole``: it is not known here.
        """
        place = wire.shortened(body)
        if place is None:
            return body
        begin, end, same = place
        with self._turn:
            known = self._known.get(same)
        if known is None:
            raise NotFoundError(
                "this part of the evidence is not known here",
                code="send-whole",
                component="evidence",
                remedy="Send the evidence whole; the nonce is still good.",
            )
        return body[:begin] + known[0] + body[end:]

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
