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

Decoding is strict: unknown, missing or doubled fields and values of another type are refused; only
fields that have a default may be missing. So a verifier is updated before its hosts.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import cache
from typing import TypeVar

from casemate.calls.messages import (
    ActivateCredential,
    ActivationReply,
    BankValues,
    EvidenceReply,
    IdentityReply,
    Quote,
)
from casemate.errors import FormatError, LimitError
from casemate.machine.facts import ComponentFact, Fact
from casemate.policy.auditheads import LogHead

PREFIX = "/attestation/v1/"
IDENTITY_PATH = PREFIX + "identity"
ACTIVATE_PATH = PREFIX + "activate"
EVIDENCE_PATH = PREFIX + "evidence"

BODY_LIMIT = 16 << 20
"""Bytes of one JSON body: a 4 MiB event log in base64, with the components, twice over."""

REQUEST_LIMIT = 64 << 10
"""Bytes of one request: a nonce or a credential challenge is far smaller."""


@dataclass(frozen=True, slots=True)
class Fresh:
    """What of an ``EvidenceReply`` is new in every round."""

    quotes: tuple[tuple[bytes, bytes], ...]
    boot_complete: bool
    taken: float
    heads: tuple[LogHead, ...] = ()
    accelerator: str = ""
    measurements: bytes = b""


@dataclass(frozen=True, slots=True)
class Stable:
    """What of an ``EvidenceReply`` stays the same while nothing is measured."""

    pcrs: tuple[BankValues, ...]
    log: bytes
    components: tuple[Fact, ...]


Message = IdentityReply | ActivateCredential | ActivationReply | Quote | EvidenceReply
M = TypeVar(
    "M", IdentityReply, ActivateCredential, ActivationReply, Quote, EvidenceReply, Fresh, Stable
)


Decoder = Callable[[object], object]


class _MismatchError(Exception):
    """A value of another shape; the fields on the way to it are added as it is passed up."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.path: list[str] = []


@cache
def _names(kind: type) -> dict[str, str]:
    """JSON name to field name."""
    return {_camel(field.name): field.name for field in fields(kind)}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def encode(message: Message) -> bytes:
    """Encode a message as a JSON body; hosts without an audit log are asked for no entry of it."""
    value = typing.cast("dict[str, object]", _plain(message))
    if isinstance(message, Quote) and not message.entry:
        del value["entry"]
    return json.dumps(value, separators=(",", ":")).encode()


def decode(kind: type[M], body: bytes, *, limit: int = BODY_LIMIT) -> M:
    """Decode a JSON body into a message. Raises FormatError, LimitError."""
    if len(body) > limit:
        raise LimitError(f"body of {len(body)} bytes: the limit is {limit}")
    try:
        value = json.loads(body, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not JSON: {type(error).__name__}", code="bad-json") from error
    return typing.cast("M", _message(kind, value))


_BEGINS, ENDS = b',"pcrs":', b',"bootComplete":'


_SAME = b',"same":"'
_SAME_SIZE = len(_SAME) + 2 * hashlib.sha256().digest_size + 1


def shorten(body: bytes) -> tuple[bytes, bytes]:
    """Return a body with the SHA-256 of its stable part instead of the part, and that digest.

    Both are empty where the body has no such part.
    """
    place = split(body)
    if place is None:
        return b"", b""
    begin, end = place
    digest = hashlib.sha256(body[begin:end]).digest()
    return body[:begin] + _SAME + digest.hex().encode() + b'"' + body[end:], digest


def shortened(body: bytes) -> tuple[int, int, bytes] | None:
    """Return where in a body a digest stands for the stable part, and the digest; else None."""
    end = body.find(ENDS)
    begin = end - _SAME_SIZE
    if begin < 0 or body[begin : begin + len(_SAME)] != _SAME:
        return None
    try:
        return begin, end, bytes.fromhex(body[begin + len(_SAME) : end - 1].decode())
    except ValueError:
        return None


_LIST = b',"measurements":"'
_AFTER = b',"after":"'
_AFTER_SIZE = len(_AFTER) + 2 * (4 + hashlib.sha256().digest_size) + 2


def continued(reply: EvidenceReply, size: int) -> bytes:
    """Encode evidence whose IMA list lacks its first ``size`` bytes; their SHA-256 is said."""
    first = reply.measurements[:size]
    body = encode(replace(reply, measurements=reply.measurements[size:]))
    before = (size.to_bytes(4, "big") + hashlib.sha256(first).digest()).hex()
    return body.removesuffix(b"}") + _AFTER + before.encode() + b'"}'


def continues(body: bytes) -> tuple[int, bytes] | None:
    """Return how many bytes its IMA list lacks, and their SHA-256; None where it lacks none."""
    end = len(body) - _AFTER_SIZE
    if end < 0 or body[end : end + len(_AFTER)] != _AFTER or not body.endswith(b'"}'):
        return None
    try:
        before = bytes.fromhex(body[end + len(_AFTER) : -2].decode())
    except ValueError:
        return None
    return int.from_bytes(before[:4], "big"), before[4:]


def complete(body: bytes, first: bytes) -> bytes:
    """Put the first bytes of its IMA list into a body that ``continues``. Raises FormatError."""
    end = len(body) - _AFTER_SIZE
    start = body.rfind(_LIST, 0, end)
    if start < 0 or body[end - 1 : end] != b'"':
        raise FormatError("the evidence has no IMA list to go on with")
    try:
        rest = _bytes(body[start + len(_LIST) : end - 1].decode("latin-1"))
    except _MismatchError as error:
        raise FormatError(f"measurements: {error}") from error
    whole = base64.b64encode(first + bytes(typing.cast("bytes", rest)))
    return body[:start] + _LIST + whole + b'"}'


def split(body: bytes) -> tuple[int, int] | None:
    """Return where in an ``EvidenceReply`` its stable part lies; None where ``encode`` made none.

    The stable part begins with a comma. Without it the body is a ``Fresh``, and it is a ``Stable``
    within braces: whoever decodes both has decoded the body.
    """
    begin = body.find(_BEGINS)
    end = body.find(ENDS, begin)
    if begin < 0 or end < 0 or body.find(_BEGINS[1:], begin + 2) >= 0:
        return None
    if body.find(ENDS[1:]) != end + 1 or body.find(ENDS[1:], end + 2) >= 0:
        return None
    return begin, end


def _message(kind: type, value: object) -> object:
    try:
        return _decoder(kind)(value)
    except _MismatchError as error:
        where = ".".join((kind.__name__, *reversed(error.path)))
        raise FormatError(f"{where}: {error}") from error


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


@cache
def _decoder(hint: object) -> Decoder:
    """Return how a type is decoded: made once, since evidence has hundreds of values."""
    if isinstance(hint, types.UnionType):
        return _decoder(ComponentFact)
    if typing.get_origin(hint) is tuple:
        return _tuple_decoder(typing.get_args(hint))
    if not isinstance(hint, type):
        raise FormatError(f"cannot decode {hint!r}")
    if is_dataclass(hint):
        return _object_decoder(hint)
    return {bytes: _bytes, float: _float}.get(hint) or _plain_decoder(hint)


def _object_decoder(kind: type) -> Decoder:
    hints = typing.get_type_hints(kind)
    decoders = {json: _decoder(hints[name]) for json, name in _names(kind).items()}
    wanted = decoders.keys()
    optional = {_camel(f.name) for f in fields(kind) if f.default is not MISSING}
    names = _names(kind)

    def decode_object(value: object) -> object:
        if not isinstance(value, dict):
            raise _MismatchError("expected an object")
        if value.keys() != wanted and (odd := value.keys() ^ wanted) - (optional - value.keys()):
            name = min(odd - (optional - value.keys()))
            raise _MismatchError(f"{'missing' if name in wanted else 'unknown'} field {name!r}")
        result = {}
        for key, item in value.items():
            try:
                result[names[key]] = decoders[key](item)
            except _MismatchError as error:
                error.path.append(key)
                raise
        return kind(**result)

    return decode_object


def _tuple_decoder(kinds: tuple[object, ...]) -> Decoder:
    if kinds[-1] is Ellipsis:
        inner = _decoder(kinds[0])

        def decode_list(value: object) -> object:
            if not isinstance(value, list):
                raise _MismatchError("expected a list")
            return tuple([inner(item) for item in value])

        return decode_list
    decoders = [_decoder(kind) for kind in kinds]

    def decode_items(value: object) -> object:
        if not isinstance(value, list) or len(value) != len(decoders):
            raise _MismatchError(f"expected a list of {len(decoders)} items")
        return tuple([one(item) for one, item in zip(decoders, value, strict=True)])

    return decode_items


def _plain_decoder(kind: type) -> Decoder:
    def decode_plain(value: object) -> object:
        if type(value) is not kind:
            raise _MismatchError(f"expected {kind.__name__}, found {type(value).__name__}")
        return value

    return decode_plain


def _bytes(value: object) -> object:
    if not isinstance(value, str):
        raise _MismatchError("expected base64 text")
    try:
        return binascii.a2b_base64(value, strict_mode=True)
    except ValueError as error:
        raise _MismatchError("not base64") from error


def _float(value: object) -> object:
    if type(value) is not int and type(value) is not float:
        raise _MismatchError(f"expected float, found {type(value).__name__}")
    try:
        return float(value)
    except OverflowError as error:
        raise _MismatchError("number out of range") from error
