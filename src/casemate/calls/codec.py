"""Framing and encoding of the calls: four bytes of length (big-endian), then one CBOR map.

A frame is ``{"id": n, "is": "PowerOn", "of": {...}}``. Decoding is strict: the class must be in the
given vocabulary, every field must have exactly its annotated type, unknown or missing fields are
refused. Sans-I/O: bytes in, values out; ``FrameReader`` answers ``None`` for "need more".
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from functools import cache

import cbor2

from casemate.errors import FormatError, LimitError
from casemate.formats.cbor import PLAIN_TAGS

FRAME_LIMIT = 16 << 20
"""Bytes of one frame: an event log at its own limit, twice, with room (a fleet's largest reply)."""

REQUEST_LIMIT = 2 << 20
"""Bytes of a frame with a request: two .vmx files at their limit, with room. What is decoded takes
up to sixty times as much memory, and who asks may be anybody."""

_NESTED = 64
"""Depth of the CBOR itself: each value of ``DEPTH_LIMIT`` is two maps and a list."""

DEPTH_LIMIT = 12
"""Nesting of values: the deepest message (evidence with components) needs six."""


@cache
def _hints(kind: type) -> dict[str, object]:
    return dict(typing.get_type_hints(kind))


@cache
def _optional(kind: type) -> frozenset[str]:
    return frozenset(
        f.name for f in fields(kind) if f.default is not MISSING or f.default_factory is not MISSING
    )


def plain(value: object) -> object:
    """Turn a message or fact into plain CBOR values."""
    if is_dataclass(value) and not isinstance(value, type):
        return {
            "is": type(value).__name__,
            "of": {f.name: plain(getattr(value, f.name)) for f in fields(value)},
        }
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, StrEnum):
        return value.value
    return value


def _tuple(hint: object, value: object, where: str, depth: int) -> tuple[object, ...]:
    if not isinstance(value, list):
        raise FormatError(f"{where}: expected a list")
    args = typing.get_args(hint)
    if len(args) == 2 and args[1] is Ellipsis:  # noqa: PLR2004  (tuple[X, ...] has two arguments)
        return tuple(_value(args[0], item, where, depth + 1) for item in value)
    if len(value) != len(args):
        raise FormatError(f"{where}: expected {len(args)} items, found {len(value)}")
    return tuple(_value(arg, item, where, depth + 1) for arg, item in zip(args, value, strict=True))


def _union(hint: object, value: object, where: str, depth: int) -> object:
    options = typing.get_args(hint)
    if value is None:
        if type(None) in options:
            return None
        raise FormatError(f"{where}: a value is required")
    classes = {o.__name__: o for o in options if isinstance(o, type) and is_dataclass(o)}
    if classes and isinstance(value, dict):
        name = value.get("is")
        if not isinstance(name, str) or name not in classes:
            raise FormatError(f"{where}: no such class here")
        return _value(classes[name], value, where, depth)
    rest = [o for o in options if o is not type(None) and o not in classes.values()]
    if len(rest) == 1:
        return _value(rest[0], value, where, depth)
    raise FormatError(f"{where}: value of no allowed type")


def _value(hint: object, value: object, where: str, depth: int) -> object:
    if depth > DEPTH_LIMIT:
        raise LimitError(f"{where}: nested deeper than {DEPTH_LIMIT}")
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return _union(hint, value, where, depth)
    if typing.get_origin(hint) is tuple:
        return _tuple(hint, value, where, depth)
    if not isinstance(hint, type):
        raise FormatError(f"{where}: cannot decode {hint!r}")
    if is_dataclass(hint):
        return _object(hint, value, where, depth)
    if issubclass(hint, StrEnum):
        if not isinstance(value, str) or value not in {m.value for m in hint}:
            raise FormatError(f"{where}: not one of {hint.__name__}")
        return hint(value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise FormatError(f"{where}: expected {hint.__name__}, found {type(value).__name__}")
    return value


def _object(kind: type, value: object, where: str, depth: int) -> object:
    if not isinstance(value, dict) or set(value) != {"is", "of"} or value["is"] != kind.__name__:
        raise FormatError(f"{where}: expected a {kind.__name__}")
    body = value["of"]
    if not isinstance(body, dict):
        raise FormatError(f"{where}: expected the fields of a {kind.__name__}")
    wanted = {f.name for f in fields(kind)}
    if extra := set(map(str, body)) - wanted:
        raise FormatError(f"{where}: unknown field {min(extra)!r}")
    if lacking := wanted - set(body) - _optional(kind):
        raise FormatError(f"{where}: field {min(lacking)!r} is missing")
    hints = _hints(kind)
    return kind(
        **{k: _value(hints[k], v, f"{kind.__name__}.{k}", depth + 1) for k, v in body.items()}
    )


def encode_request(number: int, request: object) -> bytes:
    """Encode one frame with a request. Raises LimitError when it is too large to send."""
    return encode(number, request, REQUEST_LIMIT)


def encode(number: int, message: object, limit: int = FRAME_LIMIT) -> bytes:
    """Encode one frame. Raises LimitError when the message is too large to send."""
    body = cbor2.dumps({"id": number, **typing.cast("dict[str, object]", plain(message))})
    if len(body) > limit:
        raise LimitError(f"message of {len(body)} bytes: the limit is {limit}")
    return len(body).to_bytes(4, "big") + body


def decode(body: bytes, vocabulary: Iterable[type]) -> tuple[int, object]:
    """Decode the body of one frame into (id, message). Raises FormatError, LimitError."""
    try:
        frame = cbor2.loads(
            body,
            semantic_decoders=PLAIN_TAGS,
            max_depth=_NESTED,
            allow_indefinite=False,
            allow_duplicate_keys=False,
        )
    except (cbor2.CBORError, ValueError, TypeError, RecursionError, MemoryError, EOFError) as error:
        raise FormatError(f"not CBOR: {type(error).__name__}") from error
    if not isinstance(frame, Mapping) or set(frame) != {"id", "is", "of"}:
        raise FormatError("a frame has id, is and of")
    number, name = frame["id"], frame["is"]
    kinds = {kind.__name__: kind for kind in vocabulary}
    if type(number) is not int or not isinstance(name, str) or name not in kinds:
        raise FormatError("no such message")
    return number, _object(kinds[name], {"is": name, "of": frame["of"]}, name, 0)


class FrameReader:
    """Collects bytes and gives out the bodies of whole frames."""

    def __init__(self, limit: int = FRAME_LIMIT) -> None:
        self._buffer = bytearray()
        self._limit = limit

    def feed(self, data: bytes) -> None:
        """Add received bytes. Raises LimitError when a frame announces too many."""
        self._buffer += data
        if len(self._buffer) >= 4:  # noqa: PLR2004  (the length field)
            size = int.from_bytes(self._buffer[:4], "big")
            if size > self._limit:
                raise LimitError(f"frame of {size} bytes: the limit is {self._limit}")

    def rest(self) -> bytes:
        """Return what came after the last whole body."""
        return bytes(self._buffer)

    def next(self) -> bytes | None:
        """Return the next whole body, or None for "need more"."""
        if len(self._buffer) < 4:  # noqa: PLR2004  (the length field)
            return None
        size = int.from_bytes(self._buffer[:4], "big")
        if size > self._limit:
            raise LimitError(f"frame of {size} bytes: the limit is {self._limit}")
        if len(self._buffer) < 4 + size:
            return None
        body = bytes(self._buffer[4 : 4 + size])
        del self._buffer[: 4 + size]
        return body
