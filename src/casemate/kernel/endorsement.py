"""The certificate of a TPM's endorsement key where it is not in its usual place.

A TPM plug-in knows where its maker put it. What the plug-in says is taken only when it is a
certificate for the very key; and a verifier asks who issued it in any case.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from casemate.errors import ArgumentError, CasemateError, FormatError
from casemate.formats.ekcert import parse_lenient
from casemate.formats.tpm import parse_public
from casemate.kernel.measurements import Measurements
from casemate.kernel.plugins.runner import Session
from casemate.kernel.tpm.device import Maker

INDEXES: Final = range(0x01C00000, 0x01C10000)
"""NV indexes that hold endorsement keys' certificates and what belongs to them (TCG)."""
MAX_INDEXES: Final = 16

_log = logging.getLogger(__name__)


class Lender(Protocol):
    """What lends plug-ins: ``kernel.plugins.registry``."""

    def tpm(self, maker: str) -> tuple[str, str] | None:
        """Return the loaded plug-in that knows TPMs of this maker, and the id of its VIB."""

    def use(self, name: str, told: Mapping[str, Any]) -> AbstractContextManager[Session]:
        """Run it until the block ends."""


class Endorsement:
    """Asks plug-ins; each VIB's only once, since anybody may ask for the identity of a host."""

    def __init__(self, measurements: Measurements, plugins: Lender) -> None:
        self._measurements = measurements
        self._plugins = plugins
        self._known: dict[tuple[str, str], bytes] = {}
        self._lock = asyncio.Lock()

    async def find(self, maker: Maker, public: bytes) -> bytes:
        """Return the certificate (DER) of this key (TPMT_PUBLIC); empty where nobody has it."""
        found = await asyncio.to_thread(self._plugins.tpm, maker.manufacturer)
        if found is None:
            return b""
        async with self._lock:
            if found not in self._known:
                try:
                    self._known[found] = await self._ask(found[0], maker, public)
                except CasemateError as error:
                    _log.warning("%s", error.reason)
                    self._known[found] = b""
            return self._known[found]

    async def _ask(self, name: str, maker: Maker, public: bytes) -> bytes:
        told = {"maker": maker.manufacturer, "firmware": maker.firmware_version}
        indexes = await asyncio.to_thread(self._indexes, name, told)
        contents = await self._measurements.with_tpm(
            lambda tpm: {index: tpm.read_nv(index) for index in indexes}
        )
        certificate = await asyncio.to_thread(self._certificate, name, told, public, contents)
        if certificate:
            demand_certificate(certificate, public, name)
        return certificate

    def _indexes(self, name: str, told: Mapping[str, Any]) -> tuple[int, ...]:
        with self._plugins.use(name, told) as session:
            words, _ = session.ask({"call": "indexes"})
        wanted = words.get("indexes")
        if not isinstance(wanted, list) or len(wanted) > MAX_INDEXES:
            raise ArgumentError(f"The plug-in {name} wants no list of few.", argument="indexes")
        if not all(isinstance(one, int) and one in INDEXES for one in wanted):
            raise ArgumentError(
                f"The plug-in {name} wants to see what is no certificate's.", argument="indexes"
            )
        return tuple(wanted)

    def _certificate(
        self, name: str, told: Mapping[str, Any], public: bytes, contents: Mapping[int, bytes]
    ) -> bytes:
        parts = (public, *contents.values())
        question = {
            "call": "certificate",
            "indexes": list(contents),
            "sizes": [len(part) for part in parts],
        }
        with self._plugins.use(name, told) as session:
            return session.ask(question, b"".join(parts))[1]


def demand_certificate(certificate: bytes, public: bytes, name: str) -> None:
    """Raise FormatError unless this is a certificate for the key."""
    key = parse_public(public).crypto_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    theirs = parse_lenient(certificate).public_key.public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    if not hmac.compare_digest(spki, theirs):
        raise FormatError(
            f"The plug-in {name} brings the certificate of another key.",
            code="plugin-message",
            component=name,
        )
