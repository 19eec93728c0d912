"""CoRIM: reference values for any kind of machine, as CBOR (draft-ietf-rats-corim).

Read and written is what reference values need: the manifest with its validity, CoMID tags, and in
them the reference triples (environment, measurements). Other tags and triples are counted, not
interpreted. A reference value without a class, a key or a digest would match too much or nothing:
it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import cbor2

from casemate.errors import FormatError, LimitError
from casemate.formats.cbor import decode_cbor, encode_cbor
from casemate.formats.der import oid_text

CONTENT_TYPE: Final = "application/rim+cbor"
CONTENT_TYPES: Final = frozenset({CONTENT_TYPE, "application/corim-unsigned+cbor"})
TAG_CORIM: Final = 501
TAG_COMID: Final = 506
_TAG_OLD_WRAPPER: Final = 500
_TAG_TIME: Final = 1
_TAG_UUID: Final = 37
_TAG_OID: Final = 111
_TAG_UEID: Final = 550
_TAG_SVN: Final = frozenset({552, 553})
_TAG_BYTES: Final = 560
_TAG_MASKED: Final = 563
_READ: Final = frozenset({0, 1, 2, 4, 11, 14})
"""Keys of measured values: version, svn, digests, raw, name, integrity registers."""
_UUID_SIZE: Final = 16
MAX_MEASUREMENTS: Final = 100_000
"""Measurements of one CoRIM."""

DIGEST_NAMES: Final[Mapping[int, str]] = {1: "sha256", 7: "sha384", 8: "sha512"}
"""IANA Named Information Hash Algorithm numbers of what we compare; weaker ones are refused."""
_SIZES: Final = {"sha256": 32, "sha384": 48, "sha512": 64}
_NUMBERS: Final = {name: number for number, name in DIGEST_NAMES.items()}

Digests = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Environment:
    """What the values are about; ``class_id`` and ``instance`` as text with their kind."""

    class_id: str = ""
    vendor: str = ""
    model: str = ""
    layer: int | None = None
    index: int | None = None
    instance: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Expected values of one thing.

    ``registers`` maps a PCR (or name) to its digests. ``others`` are the keys of values that are
    not read: flags, masks, addresses, keys.
    """

    key: str
    digests: Digests = ()
    name: str = ""
    version: str = ""
    svn: int | None = None
    raw: bytes | None = None
    registers: Mapping[int | str, Digests] = field(default_factory=dict)
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReferenceTriple:
    """An environment and what is measured in it."""

    environment: Environment
    measurements: tuple[Measurement, ...]


@dataclass(frozen=True, slots=True)
class Comid:
    """A concise module identifier; ``others`` counts triples of other kinds."""

    tag_id: str
    version: int
    references: tuple[ReferenceTriple, ...]
    others: int = 0


@dataclass(frozen=True, slots=True)
class Corim:
    """A manifest; ``others`` counts tags of other kinds. Times are aware, or None."""

    id: str
    comids: tuple[Comid, ...]
    profile: str = ""
    not_before: datetime | None = None
    not_after: datetime | None = None
    others: int = 0


def parse_corim(data: bytes) -> Corim:
    """Read an unsigned CoRIM.

    Raises:
        FormatError: ``corim-malformed``, ``reference-incomplete`` (no class, key or value),
            ``reference-empty`` (no digests), ``reference-weak`` (a digest that can be forged),
            ``cbor-malformed``.
        LimitError: more than ``MAX_MEASUREMENTS``.
    """
    value = decode_cbor(data, what="CoRIM")
    while isinstance(value, cbor2.CBORTag) and value.tag in {_TAG_OLD_WRAPPER, TAG_CORIM}:
        value = value.value
    body = _map(value)
    comids: list[Comid] = []
    others = 0
    for tag in _list(body.get(1)):
        if not isinstance(tag, cbor2.CBORTag) or not isinstance(tag.value, bytes):
            raise _bad("a tag of an unknown form")
        if tag.tag == TAG_COMID:
            comids.append(_comid(_map(decode_cbor(tag.value, what="CoMID"))))
        else:
            others += 1
    count = sum(len(t.measurements) for comid in comids for t in comid.references)
    if count > MAX_MEASUREMENTS:
        raise LimitError(f"CoRIM: {count} measurements, at most {MAX_MEASUREMENTS} are allowed")
    validity = _map(body.get(4, {}))
    return Corim(
        _identifier(body.get(0)),
        tuple(comids),
        _identifier(body[3]) if 3 in body else "",  # noqa: PLR2004  # the profile's key
        _time(validity.get(0)),
        _time(validity.get(1)),
        others,
    )


def _bad(reason: str, code: str = "corim-malformed") -> FormatError:
    return FormatError(
        f"CoRIM: {reason}",
        code=code,
        component="reference",
        remedy="Get the reference again from its author.",
    )


def _map(value: object) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise _bad("a map is missing")
    return value


def _list(value: object) -> Sequence[Any]:
    if not isinstance(value, list | tuple) or not value:
        raise _bad("a list is missing or empty")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _bad("a text is missing")
    return value


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 64:
        raise _bad("a number is missing or out of range")
    return value


def _identifier(value: object) -> str:
    """Return text, UUID, OID or bytes as text that tells them apart."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    kind, content = (value.tag, value.value) if isinstance(value, cbor2.CBORTag) else (0, value)
    if not isinstance(content, bytes):
        return _text(content)
    if kind == _TAG_OID:
        return f"oid:{oid_text(content)}"
    if kind in {0, _TAG_UUID} and len(content) == _UUID_SIZE:
        return f"uuid:{UUID(bytes=content)}"
    return ("ueid:" if kind == _TAG_UEID else "bytes:") + content.hex()


def _time(value: object) -> datetime | None:
    if value is None:
        return None
    if isinstance(value, cbor2.CBORTag) and value.tag == _TAG_TIME:
        value = value.value
    try:
        return datetime.fromtimestamp(_number(value), UTC)
    except (OverflowError, ValueError, OSError):
        raise _bad("a time is out of range") from None


def _comid(body: Mapping[Any, Any]) -> Comid:
    identity = _map(body.get(1))
    triples = _map(body.get(4))
    references = triples.get(0, ())
    return Comid(
        _identifier(identity.get(0)),
        _number(identity.get(1, 0)),
        tuple(map(_triple, _list(references))) if references else (),
        sum(len(v) for key, v in triples.items() if key != 0 and isinstance(v, list | tuple)),
    )


def _triple(value: object) -> ReferenceTriple:
    parts = _list(value)
    if len(parts) != 2:  # noqa: PLR2004  # environment and measurements
        raise _bad("a reference triple has not two parts")
    measurements = parts[1] if isinstance(parts[1], list | tuple) else [parts[1]]
    return ReferenceTriple(
        _environment(_map(parts[0])), tuple(_measurement(_map(one)) for one in _list(measurements))
    )


def _environment(body: Mapping[Any, Any]) -> Environment:
    kind = _map(body.get(0, {}))
    if not kind:
        raise _bad("a reference value without a class", "reference-incomplete")
    return Environment(
        _identifier(kind[0]) if 0 in kind else "",
        _text(kind.get(1, "")),
        _text(kind.get(2, "")),
        _number(kind[3]) if 3 in kind else None,  # noqa: PLR2004  # the map's keys
        _number(kind[4]) if 4 in kind else None,  # noqa: PLR2004
        _identifier(body[1]) if 1 in body else "",
        _identifier(body[2]) if 2 in body else "",  # noqa: PLR2004
    )


def _measurement(body: Mapping[Any, Any]) -> Measurement:
    if 0 not in body:
        raise _bad("a reference value without a key", "reference-incomplete")
    values = _map(body.get(1))
    key = _identifier(body[0])
    registers = {
        _register(name): _digests(key, digests)
        for name, digests in _map(values.get(14, {})).items()
    }
    svn, raw = values.get(1), values.get(4)
    found = Measurement(
        key,
        _digests(key, values[2]) if 2 in values else (),  # noqa: PLR2004  # the map's keys
        _text(values.get(11, "")),
        _text(_map(values.get(0, {0: ""})).get(0, "")),
        _number(svn.value if isinstance(svn, cbor2.CBORTag) and svn.tag in _TAG_SVN else svn)
        if svn is not None
        else None,
        _raw(raw),
        registers,
        (*(str(one) for one in values if one not in _READ), *_masked(raw)),
    )
    if not found.digests and not registers and found.raw is None and found.svn is None:
        raise _bad(f"the reference value {key[:64]!r} has no digest", "reference-incomplete")
    return found


def _raw(value: object) -> bytes | None:
    if value is None:
        return None
    content = value.value if isinstance(value, cbor2.CBORTag) else value
    if _masked(value) and isinstance(content, list | tuple) and len(content) == 2:  # noqa: PLR2004  # value and mask
        content = content[0]
    if not isinstance(content, bytes):
        raise _bad("a raw value is no bytes")
    return content


def _masked(value: object) -> tuple[str, ...]:
    return ("mask",) if isinstance(value, cbor2.CBORTag) and value.tag == _TAG_MASKED else ()


def _register(value: object) -> int | str:
    return value if isinstance(value, str) else _number(value)


def _digests(key: str, value: object) -> Digests:
    if not isinstance(value, list | tuple) or not value:
        raise _bad(
            f"the reference value {key[:64]!r} has an empty list of digests", "reference-empty"
        )
    found: list[tuple[str, bytes]] = []
    for item in value:
        if not isinstance(item, list | tuple) or len(item) != 2:  # noqa: PLR2004  # a pair
            raise _bad("a digest is no pair")
        number, digest = item
        name = DIGEST_NAMES.get(number) if type(number) is int else _named(number)
        if name is None:
            raise _bad(f"a digest of algorithm {str(number)[:32]!r}", "reference-weak")
        if not isinstance(digest, bytes) or len(digest) != _SIZES[name]:
            raise _bad(f"a {name} digest of the wrong size")
        found.append((name, digest))
    return tuple(found)


def _named(value: object) -> str | None:
    name = value.replace("-", "") if isinstance(value, str) else ""
    return name if name in _SIZES else None


def write_corim(corim: Corim) -> bytes:
    """Return an unsigned CoRIM; ``parse_corim(write_corim(x)) == x`` for text identifiers."""
    body: dict[int, object] = {
        0: corim.id,
        1: [cbor2.CBORTag(TAG_COMID, encode_cbor(_comid_out(one))) for one in corim.comids],
    }
    if corim.profile:
        body[3] = corim.profile
    validity = {
        key: cbor2.CBORTag(_TAG_TIME, int(time.timestamp()))
        for key, time in ((0, corim.not_before), (1, corim.not_after))
        if time is not None
    }
    if validity:
        body[4] = validity
    return encode_cbor(cbor2.CBORTag(TAG_CORIM, body))


def _comid_out(comid: Comid) -> dict[int, object]:
    return {
        1: {0: comid.tag_id, 1: comid.version},
        4: {
            0: [
                [_environment_out(t.environment), [_measurement_out(m) for m in t.measurements]]
                for t in comid.references
            ]
        },
    }


def _environment_out(one: Environment) -> dict[int, object]:
    kind = {0: one.class_id, 1: one.vendor, 2: one.model, 3: one.layer, 4: one.index}
    result: dict[int, object] = {0: {k: v for k, v in kind.items() if v not in {"", None}}}
    result |= {k: v for k, v in ((1, one.instance), (2, one.group)) if v}
    return result


def _measurement_out(one: Measurement) -> dict[int, object]:
    values: dict[int, object] = {}
    if one.version:
        values[0] = {0: one.version}
    if one.svn is not None:
        values[1] = one.svn
    if one.digests:
        values[2] = _digests_out(one.digests)
    if one.raw is not None:
        values[4] = cbor2.CBORTag(_TAG_BYTES, one.raw)
    if one.name:
        values[11] = one.name
    if one.registers:
        values[14] = {key: _digests_out(digests) for key, digests in one.registers.items()}
    return {0: one.key, 1: values}


def _digests_out(digests: Digests) -> list[list[object]]:
    return [[_NUMBERS[name], value] for name, value in digests]
