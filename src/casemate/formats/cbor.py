"""CBOR from strangers: bounded, without cycles, and without anything that is decoded for them.

RFC 8949. Indefinite lengths, doubled map keys and shared references are refused; tags stay tags,
so no date, number, address or regular expression is built from hostile text.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, Final

import cbor2

from casemate.errors import FormatError, LimitError

MAX_SIZE: Final = 8 << 20
"""Bytes; a reference for a whole image has some hundred KiB."""
MAX_DEPTH: Final = 32
"""Nested arrays, maps and tags."""


def _keep(tag: int) -> Any:  # noqa: ANN401  # cbor2 has no type for it
    return lambda value, _immutable: cbor2.CBORTag(tag, value)


_BUILT_IN: Final = (
    *range(6),
    *(25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799),
)
PLAIN_TAGS: Final[Mapping[int, Any]] = {tag: _keep(tag) for tag in _BUILT_IN}
"""For cbor2: leave every tag that it knows as a tag."""


def decode_cbor(data: bytes, *, what: str) -> Any:  # noqa: ANN401  # any CBOR value
    """Decode exactly one item.

    Raises:
        FormatError: ``cbor-malformed``.
        LimitError: larger than ``MAX_SIZE``.
    """
    if len(data) > MAX_SIZE:
        raise LimitError(f"{what}: {len(data)} bytes, at most {MAX_SIZE} are allowed")
    stream = io.BytesIO(data)
    value = _next(stream, what)
    if stream.tell() != len(data):
        raise FormatError(f"{what}: something follows its end", code="cbor-malformed")
    return value


def decode_cbor_sequence(data: bytes, *, what: str) -> list[Any]:
    """Decode a sequence of items (RFC 8742).

    Raises:
        FormatError: ``cbor-malformed``.
        LimitError: larger than ``MAX_SIZE``.
    """
    if len(data) > MAX_SIZE:
        raise LimitError(f"{what}: {len(data)} bytes, at most {MAX_SIZE} are allowed")
    stream = io.BytesIO(data)
    values = []
    while stream.tell() < len(data):
        values.append(_next(stream, what))
    return values


def _next(stream: io.BytesIO, what: str) -> Any:  # noqa: ANN401  # any CBOR value
    decoder = cbor2.CBORDecoder(
        stream,
        semantic_decoders=PLAIN_TAGS,
        max_depth=MAX_DEPTH,
        allow_indefinite=False,
        allow_duplicate_keys=False,
        read_size=1,
    )
    try:
        return decoder.decode()
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError, EOFError) as e:
        raise FormatError(f"{what}: it is no CBOR that we take: {e}", code="cbor-malformed") from e


def encode_cbor(value: object) -> bytes:
    """Encode deterministically (RFC 8949, section 4.2)."""
    return cbor2.dumps(value, canonical=True)
