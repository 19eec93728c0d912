"""Firmware's informative structures: what EV_NO_ACTION and SPDM events say beside their digests.

TCG PC Client Platform Firmware Profile 1.06, sections 10.4.5 and 10.2.7. Nothing here is measured
as it stands, so nothing here proves anything; it is read to be shown. Integers are little-endian.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from casemate.formats.reader import Reader

CODE: Final = "event-data"
SIGNATURE_SIZE: Final = 16
_PLATFORM: Final = b"SP800-155 Event\0"
_PLATFORMS: Final = (b"SP800-155 Event2", b"SP800-155 Event3")
_COMPONENT: Final = b"H-CRTM CompMeas\0"
_NV: Final = (b"NvIndexInstance\0", b"NvIndexDynamic\0\0")
_SPDM: Final = b"SPDM Device Sec\0"
_SPDM2: Final = b"SPDM Device Sec2"
_DEVICE_TYPES: Final = {0: "device", 1: "PCI device", 2: "USB device"}
_AUTH_STATES: Final = {
    0: "authenticated",
    1: "not authenticated",
    2: "no binding",
    3: "no signature",
    4: "invalid",
    0xFF: "no SPDM",
}


@dataclass(frozen=True, slots=True)
class Informative:
    """What an informative event is (its signature), and the rest as a line of text."""

    signature: str
    text: str = ""


def parse_informative(data: bytes) -> Informative | None:
    """Read the data of EV_NO_ACTION, except StartupLocality; None where it has no signature.

    Raises:
        FormatError: ``event-data``: shorter than its signature promises.
    """
    head = data[:SIGNATURE_SIZE]
    name = head.split(b"\0", 1)[0]
    if len(name) < 6 or not name.isascii() or not name.decode("ascii").isprintable():  # noqa: PLR2004  # the shortest is H-CRTM
        return None
    reader = Reader(data[SIGNATURE_SIZE:], name.decode("ascii"), code=CODE)
    text = ""
    if head == _PLATFORM and reader.left:
        text = _manifest(reader)
    elif head in _PLATFORMS:
        text = _manifest(reader)
        parts = [_string(reader) for _ in range(4)]
        reader.skip(4)
        parts.append(_string(reader))
        text = f"{' '.join(filter(None, parts))} ({text})"
    elif head == _COMPONENT:
        text = _string(reader)
    elif head in _NV:
        version = reader.u16le()
        text = f"version {version}, {reader.left} bytes"
    return Informative(name.decode("ascii"), text)


def _manifest(reader: Reader) -> str:
    vendor, guid = reader.u32le(), UUID(bytes_le=reader.take(16))
    return f"manifest {guid} of vendor {vendor}"


def _string(reader: Reader) -> str:
    return reader.take(reader.u8()).split(b"\0", 1)[0].decode("utf-8", "replace")


def parse_spdm(data: bytes) -> Informative:
    """Read DEVICE_SECURITY_EVENT_DATA, of either version, as far as it names the device.

    Raises:
        FormatError: ``event-data``.
    """
    reader = Reader(data, "SPDM device event", code=CODE)
    signature = reader.take(SIGNATURE_SIZE)
    if signature == _SPDM:
        reader.skip(4)
        algorithm, device = reader.u32le(), reader.u32le()
        index, specification = reader.u8(), reader.u8()
        size = reader.u16le()
        reader.skip(size)
        what = f"measurement block {index} of {size} bytes"
        how = f"hash 0x{algorithm:x}, specification {specification}"
    elif signature == _SPDM2:
        reader.skip(2)
        state = reader.u8()
        reader.skip(5)
        device, kind, size = reader.u32le(), reader.u32le(), reader.u32le()
        reader.skip(8)
        path = reader.u64le()
        reader.skip(path)
        reader.skip(size)
        what = {0: "measurement block", 1: "certificate chain"}.get(kind, f"sub-header {kind}")
        what = f"{what} of {size} bytes"
        how = _AUTH_STATES.get(state, f"state {state}")
    else:
        raise reader.error("it has no signature")
    named = _DEVICE_TYPES.get(device, f"device of type {device}")
    return Informative(signature.split(b"\0", 1)[0].decode("ascii"), f"{named}: {what}, {how}")
