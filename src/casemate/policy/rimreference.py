"""A TCG RIM as a reference: the maker's signed manifest, and the event log that it lists.

Manifest, log and signatures are kept as they came, in one JSON object, and all of it is checked
whenever it is read. Only a signer who may vouch for every component counts.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509

from casemate.errors import FormatError
from casemate.formats.eventlog import EventLog, incomplete_banks
from casemate.formats.eventreview import WARNINGS, review
from casemate.formats.manifest import MAX_SIZE, Manifest
from casemate.formats.rim import support_log
from casemate.policy.exchange import accept_rim
from casemate.policy.hostpolicy import reference_from_log
from casemate.policy.references import REFERENCE_LEVEL
from casemate.policy.trust import TrustStore

FORMAT: Final = "casemate-rim-1"
AHEAD: Final = timedelta(days=1)
"""How far the clock of who put it together may be ahead."""
MAX_NAME: Final = 256
"""Characters of the reference's name and of the log's."""
_BYTES: Final = ("rim", "log", "signature", "signer")
_WRONG: Final = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, OSError,
                 RecursionError)  # fmt: skip
_HEAD: Final = f'{{"format":"{FORMAT}"'.encode()


@dataclass(frozen=True, slots=True)
class RimReference:
    """A RIM to be used as a reference.

    Attributes:
        name: what the machines that it is for are called: their image profile.
        created: when it was put together; whole seconds, aware. A later one replaces it.
        rim: the manifest.
        log_name: by which name the manifest lists the log.
        log: the event log.
        signature: a detached signature over the manifest; empty: the one inside counts.
        signer: the PEM certificate of who signed inside, where the manifest does not bring it.
    """

    name: str
    created: datetime
    rim: bytes
    log_name: str
    log: bytes
    signature: bytes = b""
    signer: bytes = b""

    @property
    def identifier(self) -> str:
        """SHA-256 of what it says, whenever it was put together."""
        parts = (self.name.encode(), self.rim, self.log_name.encode(), self.log)
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def write_rim_reference(one: RimReference) -> bytes:
    """Return it as it is sent and kept."""
    texts = {"name": one.name, "created": int(one.created.timestamp()), "logName": one.log_name}
    parts = {key: base64.b64encode(getattr(one, key)).decode() for key in _BYTES}
    return json.dumps({"format": FORMAT, **texts, **parts}, separators=(",", ":")).encode() + b"\n"


def is_rim_reference(data: bytes) -> bool:
    """Tell whether a reference is one of these."""
    return data.startswith(_HEAD)


def parse_rim_reference(data: bytes) -> RimReference:
    """Read one; nothing of it is checked yet. Raises FormatError (``rim-malformed``)."""
    if len(data) > MAX_SIZE:
        raise _bad(f"it has {len(data)} bytes")
    try:
        value = json.loads(data)
        parts = {key: base64.b64decode(value.pop(key), validate=True) for key in _BYTES}
        created = datetime.fromtimestamp(value.pop("created"), UTC)
        names = value.pop("name"), value.pop("logName")
        if value != {"format": FORMAT} or not all(map(_is_name, names)) or created.microsecond:
            raise _bad("it has what it should not have")
    except _WRONG as error:
        raise _bad("it is not what was put together here") from error
    return RimReference(
        names[0], created, parts["rim"], names[1], parts["log"], parts["signature"], parts["signer"]
    )


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME and value.isprintable()


def accept_rim_reference(
    one: RimReference, trust: TrustStore, now: datetime
) -> tuple[Manifest, str]:
    """Return what hosts are compared with, and the subject of the manifest's signer.

    Raises:
        SignatureError: as ``accept_rim`` says.
        DigestError: ``reference-digest``: the log is not the one that the manifest lists.
        FormatError: as ``parse_rim`` and ``inspected`` say; ``rim-signer``: no certificate;
            ``rim-malformed``: it is of a time to come, and none after it would count.
    """
    if one.created > now + AHEAD:
        raise _bad(f"it says that it was made at {one.created:%Y-%m-%d %H:%M}")
    signer = _certificate(one.signer) if one.signer else None
    rim, subject = accept_rim(one.rim, one.signature, trust, now, signer)
    log = support_log(rim, one.log_name, one.log)
    vendor = ", ".join(rim.creators)[:MAX_NAME]
    build = rim.version[:MAX_NAME] or f"{one.created:%Y%m%d}"
    return inspected(log, blank(one.name, vendor, build, one.created)), subject


def blank(name: str, vendor: str, build: str, created: datetime) -> Manifest:
    """Return a reference that says nothing yet; its serial number is its time."""
    level, serial = REFERENCE_LEVEL.value, int(created.timestamp())
    return Manifest(name, vendor, level, build, serial, created, (), (), {})


def inspected(log: EventLog, base: Manifest) -> Manifest:
    """Return a log that is known to be good as a reference.

    Raises:
        FormatError: a code of ``review``: the log contradicts itself; ``log-bank``.
    """
    wrong = [one for one in review(log) if one.code not in WARNINGS]
    if wrong:
        raise FormatError(f"{wrong[0].component}: {wrong[0].reason}", code=wrong[0].code)
    made = reference_from_log(log, base)
    if not made.algorithms or incomplete_banks(log) & set(made.algorithms):
        raise FormatError("the log has no whole bank that is strong enough", code="log-bank")
    return made


def _certificate(pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise FormatError(f"the signer's certificate: {error}", code="rim-signer") from error


def _bad(reason: str) -> FormatError:
    return FormatError(
        f"the RIM reference: {reason}",
        code="rim-malformed",
        component="reference",
        remedy="Upload manifest and log again.",
    )
