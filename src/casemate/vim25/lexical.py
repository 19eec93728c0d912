"""Plain values from their text on the wire: XML Schema's lexical forms, strictly."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from functools import partial

from casemate.errors import FormatError
from casemate.vim25.values import Value

_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")
_REAL = re.compile(r"[+-]?([0-9]{1,64}(\.[0-9]{0,64})?|\.[0-9]{1,64})([eE][+-]?[0-9]{1,4})?")
_TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,12}))?"
    r"(Z|[+-][0-9]{2}:[0-9]{2})?"
)


def _integer(bits: int, text: str) -> int:
    value = text.strip()
    if not _INTEGER.fullmatch(value):
        raise FormatError(f"{value:.40} is not a number")
    number = int(value)
    if not -(1 << bits - 1) <= number < 1 << bits - 1:
        raise FormatError(f"{value} does not fit into {bits} bits")
    return number


def _boolean(text: str) -> bool:
    value = text.strip()
    if value not in {"true", "false", "1", "0"}:
        raise FormatError(f"{value:.40} is not a boolean")
    return value in {"true", "1"}


def _real(text: str) -> float:
    value = text.strip()
    if value in {"INF", "-INF", "NaN"}:
        return {"INF": math.inf, "-INF": -math.inf, "NaN": math.nan}[value]
    if not _REAL.fullmatch(value):
        raise FormatError(f"{value:.40} is not a number")
    return float(value)


def _binary(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError("not base64") from error


def parse_time(text: str) -> datetime:
    """Return the time that an XML Schema dateTime says. Raises FormatError."""
    value = text.strip()
    match = _TIME.fullmatch(value)
    if match is None:
        raise FormatError(f"{value:.40} is not a time")
    zone = match[8]
    offset = timedelta()
    if zone and zone != "Z":
        offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[4:6]))
        offset = -offset if zone[0] == "-" else offset
    year, month, day, hour, minute, second = (int(match[place]) for place in range(1, 7))
    micro = int((match[7] or "0")[:6].ljust(6, "0"))
    try:
        moment = datetime(year, month, day, hour, minute, second, micro, timezone(offset))
        return moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise FormatError(f"{value:.40} is not a time") from error


_PRIMITIVE: Mapping[str, Callable[[str], Value]] = {
    "boolean": _boolean,
    "byte": partial(_integer, 8),
    "short": partial(_integer, 16),
    "int": partial(_integer, 32),
    "long": partial(_integer, 64),
    "float": _real,
    "double": _real,
    "string": str,
    "anyURI": str.strip,
    "base64Binary": _binary,
    "dateTime": parse_time,
}


def primitive(name: str, text: str) -> Value:
    """Return the value of a primitive type (``types.XSD_TYPES``). Raises FormatError."""
    return _PRIMITIVE[name](text)
