"""Identity, activation and evidence as JSON: what hostd serves and a verifier reads.

The objects mirror the classes of ``calls.messages``: names in camelCase, bytes as standard base64,
tuples as lists, and the components of the running image as ``ComponentFact`` objects.

======  ==============================  =======================  ==================
method  path                            body                     answer
======  ==============================  =======================  ==================
GET     /attestation/v1/identity        -                        ``IdentityReply``
POST    /attestation/v1/activate        ``ActivateCredential``   ``ActivationReply``
POST    /attestation/v1/evidence        ``Quote``                ``EvidenceReply``
======  ==============================  =======================  ==================

Decoding is strict: unknown, missing or doubled fields and values of another type are refused.
"""

from __future__ import annotations

import base64
import binascii
import json
import types
import typing
from dataclasses import fields, is_dataclass
from functools import cache
from typing import TypeVar

from casemate.calls.messages import (
    ActivateCredential,
    ActivationReply,
    EvidenceReply,
    IdentityReply,
    Quote,
)
from casemate.errors import FormatError, LimitError
from casemate.machine.facts import ComponentFact

PREFIX = "/attestation/v1/"
IDENTITY_PATH = PREFIX + "identity"
ACTIVATE_PATH = PREFIX + "activate"
EVIDENCE_PATH = PREFIX + "evidence"

BODY_LIMIT = 16 << 20
"""Bytes of one JSON body: a 4 MiB event log in base64, with the components, twice over."""

REQUEST_LIMIT = 64 << 10
"""Bytes of one request: a nonce or a credential challenge is far smaller."""

Message = IdentityReply | ActivateCredential | ActivationReply | Quote | EvidenceReply
M = TypeVar("M", IdentityReply, ActivateCredential, ActivationReply, Quote, EvidenceReply)


@cache
def _hints(kind: type) -> dict[str, object]:
    return dict(typing.get_type_hints(kind))


@cache
def _names(kind: type) -> dict[str, str]:
    """JSON name to field name."""
    return {_camel(field.name): field.name for field in fields(kind)}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def encode(message: Message) -> bytes:
    """Encode a message as a JSON body."""
    return json.dumps(_plain(message), separators=(",", ":")).encode()


def decode(kind: type[M], body: bytes, *, limit: int = BODY_LIMIT) -> M:
    """Decode a JSON body into a message. Raises FormatError, LimitError."""
    if len(body) > limit:
        raise LimitError(f"body of {len(body)} bytes: the limit is {limit}")
    try:
        value = json.loads(body, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not JSON: {type(error).__name__}", code="bad-json") from error
    return typing.cast("M", _object(kind, value, kind.__name__))


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("doubled name")
    return result


def _no_constant(text: str) -> object:
    raise ValueError(text)


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return {_camel(f.name): _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _object(kind: type, value: object, where: str) -> object:
    if not isinstance(value, dict):
        raise FormatError(f"{where}: expected an object")
    names = _names(kind)
    if set(value) != set(names):
        name = min(set(value) ^ set(names))
        raise FormatError(f"{where}: {'missing' if name in names else 'unknown'} field {name!r}")
    hints = _hints(kind)
    return kind(
        **{
            names[key]: _value(hints[names[key]], item, f"{where}.{key}")
            for key, item in value.items()
        }
    )


@cache
def _shape(hint: object) -> tuple[str, tuple[object, ...]]:
    """Return how a type is decoded: looked up once, since evidence has hundreds of values."""
    if isinstance(hint, types.UnionType):
        return "object", (ComponentFact,)
    if typing.get_origin(hint) is tuple:
        return "tuple", typing.get_args(hint)
    if not isinstance(hint, type):
        raise FormatError(f"cannot decode {hint!r}")
    if is_dataclass(hint):
        return "object", (hint,)
    return {bytes: "bytes", float: "float"}.get(hint, "plain"), (hint,)


def _value(hint: object, value: object, where: str) -> object:
    shape, kinds = _shape(hint)
    if shape == "bytes":
        return _bytes(value, where)
    if shape == "tuple":
        return _items(kinds, value, where)
    kind = typing.cast("type", kinds[0])
    if shape == "object":
        return _object(kind, value, where)
    if shape == "float" and type(value) is int:
        return _float(value, where)
    if type(value) is not kind:
        raise FormatError(f"{where}: expected {kind.__name__}, found {type(value).__name__}")
    return value


def _items(kinds: tuple[object, ...], value: object, where: str) -> tuple[object, ...]:
    if not isinstance(value, list):
        raise FormatError(f"{where}: expected a list")
    if kinds[-1] is Ellipsis:
        return tuple([_value(kinds[0], item, where) for item in value])
    if len(kinds) != len(value):
        raise FormatError(f"{where}: expected {len(kinds)} items, found {len(value)}")
    return tuple([_value(kind, item, where) for kind, item in zip(kinds, value, strict=True)])


def _bytes(value: object, where: str) -> bytes:
    if not isinstance(value, str):
        raise FormatError(f"{where}: expected base64 text")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError(f"{where}: not base64") from error


def _float(value: int, where: str) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise FormatError(f"{where}: number out of range") from error
