"""The reference manifest: every event and every PCR that a clean boot of an image must give.

One JSON file, ``{"manifest":{...},"signature":"-----BEGIN PKCS7-----..."}`` and a newline. What is
signed (detached CMS) are the exact bytes of the inner object as they stand in the file, so nobody
has to agree on a canonical form to verify it; we write it with sorted names and no spaces. An
unsigned manifest has an empty signature. Who may sign it is policy (``policy.references``).

The inner object::

    format          "casemate-reference-1"
    profile         {"name", "vendor"}
    acceptanceLevel the host level of the image profile
    build           of boot.cfg
    serial          counts up with each image: an older reference never replaces a newer one
    created         RFC 3339, UTC
    algorithms      the banks, in log order
    events          in log order: {"pcr", "type", "data" (hex), "digests" {bank: hex}, "component"};
                    component is null, or {"file", "vib", "name", "version", "vendor", "level",
                    "signer"}, empty strings for a file that no VIB brings
    pcrs            {bank: {index: hex}}: what the events replay to; zero where none extends it
    mayVary         words of the command line (before ``=``) that may differ per host
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NoReturn, TypeVar

from casemate.errors import FormatError, LimitError
from casemate.formats.algorithms import ALGORITHMS
from casemate.formats.eventlog import PCR_COUNT, Event, replay_events

FORMAT: Final = "casemate-reference-1"
MAX_SIZE: Final = 16 << 20
"""Bytes of a manifest: 200 components take about 0.3 MiB."""
MAX_EVENTS: Final = 8_192
"""Events of one boot."""
MAX_TEXT: Final = 4_096
"""Characters of one string value."""

_HEAD: Final = b'{"manifest":'
_MIDDLE: Final = b',"signature":"'
_TAIL: Final = b'"}\n'
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"
_U32: Final = 0xFFFFFFFF

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ComponentRef:
    """Where a component comes from; empty strings where no VIB brings it."""

    file_name: str
    vib_id: str = ""
    vib_name: str = ""
    vib_version: str = ""
    vib_vendor: str = ""
    level: str = ""
    signer: str = ""


@dataclass(frozen=True, slots=True)
class ExpectedEvent:
    """An event that must stand in the log, and the component it is about."""

    event: Event
    component: ComponentRef | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """Reference values; ``created`` is aware and whole seconds."""

    profile_name: str
    profile_vendor: str
    acceptance_level: str
    build: str
    serial: int
    created: datetime
    algorithms: tuple[str, ...]
    events: tuple[ExpectedEvent, ...]
    pcrs: Mapping[str, Mapping[int, bytes]]
    may_vary: tuple[str, ...] = ()

    @property
    def indexes(self) -> tuple[int, ...]:
        """The PCRs with an expected value, ascending."""
        return tuple(sorted(self.pcrs[self.algorithms[0]]))

    @property
    def launched(self) -> bool:
        """Whether a D-RTM launch belongs to the boot."""
        return any(expected.event.pcr == 17 for expected in self.events)  # noqa: PLR2004 (PCR 17)


@dataclass(frozen=True, slots=True)
class SignedManifest:
    """A manifest, the exact bytes that are signed, and the signature (PEM, unverified)."""

    manifest: Manifest
    body: bytes
    signature: bytes


def expected_pcrs(
    replayed: Mapping[str, Mapping[int, bytes]], indexes: Iterable[int]
) -> dict[str, dict[int, bytes]]:
    """Complete replayed values: zero for those of ``indexes`` that no event extends."""
    wanted = set(indexes)
    return {
        bank: {
            pcr: values.get(pcr, bytes(ALGORITHMS[bank].size))
            for pcr in sorted(wanted | set(values))
        }
        for bank, values in replayed.items()
    }


def write_body(manifest: Manifest) -> bytes:
    """Return the bytes to sign."""
    value = {
        "format": FORMAT,
        "profile": {"name": manifest.profile_name, "vendor": manifest.profile_vendor},
        "acceptanceLevel": manifest.acceptance_level,
        "build": manifest.build,
        "serial": manifest.serial,
        "created": manifest.created.astimezone(UTC).strftime(_TIME),
        "algorithms": list(manifest.algorithms),
        "events": [_event_out(expected) for expected in manifest.events],
        "pcrs": {
            bank: {str(pcr): value.hex() for pcr, value in values.items()}
            for bank, values in manifest.pcrs.items()
        },
        "mayVary": list(manifest.may_vary),
    }
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def write_manifest(body: bytes, signature: bytes) -> bytes:
    """Return the file: the body from ``write_body``, and its signature as PEM."""
    return _HEAD + body + _MIDDLE + json.dumps(signature.decode())[1:-1].encode() + _TAIL


def parse_manifest(data: bytes) -> SignedManifest:
    """Read a manifest and check that it is consistent: its events replay to its PCRs.

    Raises:
        FormatError: ``reference-malformed`` or ``reference-inconsistent``.
        LimitError: larger than the stated limits.
    """
    if len(data) > MAX_SIZE:
        raise LimitError(f"a reference manifest of {len(data)} bytes: the limit is {MAX_SIZE}")
    middle = data.rfind(_MIDDLE)
    if not data.startswith(_HEAD) or not data.endswith(_TAIL) or middle < 0:
        _bad("it is not a manifest followed by its signature")
    body = data[len(_HEAD) : middle]
    signature = _json(b'"' + data[middle + len(_MIDDLE) : -len(_TAIL)] + b'"')
    if not isinstance(signature, str):
        _bad("the signature is not text")
    try:
        pem = signature.encode("ascii")
    except UnicodeEncodeError:
        _bad("the signature is not PEM text")
    return SignedManifest(_manifest(_json(body)), body, pem)


def _json(data: bytes) -> object:
    try:
        return json.loads(data, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise FormatError(
            f"reference manifest: not JSON: {type(error).__name__}", code="reference-malformed"
        ) from error


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("doubled name")
    return result


def _bad(reason: str) -> NoReturn:
    raise FormatError(
        f"reference manifest: {reason}",
        code="reference-malformed",
        remedy="Make the reference again from the image: casemate image reference.",
    )


def _manifest(value: object) -> Manifest:
    fields = _fields(
        value,
        "format profile acceptanceLevel build serial created algorithms events pcrs mayVary",
    )
    if fields["format"] != FORMAT:
        _bad("it is of another format")
    profile = _fields(fields["profile"], "name vendor")
    algorithms = _list(fields["algorithms"], _bank)
    if not algorithms or len(set(algorithms)) != len(algorithms):
        _bad("it has no algorithms, or one twice")
    events = _list(fields["events"], lambda item: _event(item, algorithms))
    if not events:
        _bad("it expects no event at all")
    pcrs = _pcrs(fields["pcrs"])
    if set(pcrs) != set(algorithms):
        _bad("its PCR values are not those of its algorithms")
    manifest = Manifest(
        profile_name=_text(profile["name"]),
        profile_vendor=_text(profile["vendor"]),
        acceptance_level=_text(fields["acceptanceLevel"]),
        build=_text(fields["build"]),
        serial=_number(fields["serial"], 1 << 53),
        created=_time(_text(fields["created"])),
        algorithms=algorithms,
        events=events,
        pcrs=pcrs,
        may_vary=_list(fields["mayVary"], _text),
    )
    replayed = replay_events([e.event for e in events], algorithms)
    if expected_pcrs(replayed, manifest.indexes) != manifest.pcrs:
        raise FormatError(
            "reference manifest: its events do not replay to its PCR values",
            code="reference-inconsistent",
            remedy="Make the reference again from the image: casemate image reference.",
        )
    return manifest


def _event_out(expected: ExpectedEvent) -> dict[str, object]:
    event, component = expected.event, expected.component
    return {
        "pcr": event.pcr,
        "type": event.type,
        "data": event.data.hex(),
        "digests": {str(bank): value.hex() for bank, value in event.digests},
        "component": component
        and {
            "file": component.file_name,
            "vib": component.vib_id,
            "name": component.vib_name,
            "version": component.vib_version,
            "vendor": component.vib_vendor,
            "level": component.level,
            "signer": component.signer,
        },
    }


def _event(value: object, algorithms: tuple[str, ...]) -> ExpectedEvent:
    fields = _fields(value, "pcr type data digests component")
    digests = _fields(fields["digests"], " ".join(algorithms))
    values = tuple((bank, _hex(digests[bank])) for bank in algorithms)
    if any(len(digest) != ALGORITHMS[bank].size for bank, digest in values):
        _bad("a digest has the wrong size")
    event = Event(
        _number(fields["pcr"], PCR_COUNT - 1),
        _number(fields["type"], _U32),
        values,
        _hex(fields["data"]),
    )
    if fields["component"] is None:
        return ExpectedEvent(event)
    part = _fields(fields["component"], "file vib name version vendor level signer")
    texts = (part[key] for key in ("file", "vib", "name", "version", "vendor", "level", "signer"))
    return ExpectedEvent(event, ComponentRef(*map(_text, texts)))


def _pcrs(value: object) -> dict[str, dict[int, bytes]]:
    if not isinstance(value, dict):
        _bad("pcrs is not an object")
    return {
        _bank(bank): {_index(pcr): _hex(digest) for pcr, digest in _items(values)}
        for bank, values in value.items()
    }


def _items(value: object) -> list[tuple[object, object]]:
    if not isinstance(value, dict):
        _bad("the values of a bank are not an object")
    return list(value.items())


def _index(value: object) -> int:
    if not isinstance(value, str) or value not in {str(pcr) for pcr in range(PCR_COUNT)}:
        _bad("a PCR has no such number")
    return int(value)


def _fields(value: object, names: str) -> dict[str, object]:
    if not isinstance(value, dict) or set(value) != set(names.split()):
        _bad(f"expected an object with {names}")
    return value


def _list(value: object, convert: Callable[[object], T]) -> tuple[T, ...]:
    if not isinstance(value, list):
        _bad("expected a list")
    if len(value) > MAX_EVENTS:
        raise LimitError(f"reference manifest: a list of {len(value)}: the limit is {MAX_EVENTS}")
    return tuple(map(convert, value))


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        _bad("expected a string of sensible length")
    return value


def _bank(value: object) -> str:
    if not isinstance(value, str) or value not in ALGORITHMS:
        _bad("an algorithm is unknown")
    return value


def _number(value: object, highest: int) -> int:
    if type(value) is not int or not 0 <= value <= highest:
        _bad("a number is out of range")
    return value


def _hex(value: object) -> bytes:
    if not isinstance(value, str) or value != value.lower() or not value.isascii():
        _bad("expected lower-case hexadecimal digits")
    try:
        return bytes.fromhex(value)
    except ValueError:
        _bad("expected hexadecimal digits")


def _time(value: str) -> datetime:
    try:
        return datetime.strptime(value, _TIME).replace(tzinfo=UTC)
    except ValueError:
        _bad("created is not a time in UTC")
