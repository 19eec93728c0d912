"""What the payloads of a VIB bring: read, compared with its file list, allowed at its level.

Archives (``tgz``, ``vgz``) are read here; an EROFS image is read by whoever can mount or unpack it.
The file list is part of the signed descriptor, so a payload that holds more than it says hides
something.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from casemate.errors import FormatError
from casemate.formats.compressed import first_bytes
from casemate.formats.descriptor import Descriptor
from casemate.formats.tarball import BLOCK, EntryKind, TarEntry, parse_tar, parse_tgz
from casemate.formats.vib import Vib
from casemate.formats.vmtar import parse_vgz
from casemate.policy.hardening import Waiver
from casemate.policy.levels import Level
from casemate.policy.payloads import enforce_file
from casemate.policy.vibpaths import check_list, check_places

ARCHIVES: Final = frozenset({"tgz", "vgz"})
"""Types of payloads that are unpacked to a layer of the visor root."""
LAYERS: Final = ARCHIVES | {"erofs"}
"""Types of payloads that become a layer of the visor root."""
ARCHIVE_LIMIT: Final = 1 << 30
"""Bytes that an archive may unpack to: it stays unpacked in RAM for as long as the host runs."""
CONTENT_LIMIT: Final = 4 << 30
"""Bytes that another payload may unpack to; it is hashed as it unpacks."""

_MAGIC_AT: Final = 257
_MAGICS: Final = frozenset({b"ustar", b"visor"})
_READERS: Final[dict[str, Callable[..., tuple[TarEntry, ...]]]] = {
    "tgz": parse_tgz,
    "vgz": parse_vgz,
}


def unpacked_limit(descriptor: Descriptor, payload: str) -> int:
    """Return how many bytes a payload may unpack to."""
    announced = descriptor.payload(payload)
    return ARCHIVE_LIMIT if announced and announced.type in ARCHIVES else CONTENT_LIMIT


def read_archive(
    kind: str, data: bytes | memoryview, *, component: str = ""
) -> tuple[TarEntry, ...]:
    """Return what an archive of this payload type holds.

    Raises:
        FormatError: it must not be unpacked, as ``parse_tgz``, ``parse_vgz`` and ``parse_tar`` say.
        LimitError: it unpacks to more than ``ARCHIVE_LIMIT`` bytes.
    """
    try:
        if kind == "insttar":
            return parse_tar(data, component=component)
        return _READERS[kind](data, limit=ARCHIVE_LIMIT, component=component)
    except FormatError as error:
        error.component = error.component or component
        raise


def looks_like_archive(data: bytes | memoryview) -> bool:
    """Tell whether compressed data begins as a tar or vmtar does, whatever follows."""
    start = first_bytes(data, BLOCK)
    return start[_MAGIC_AT : _MAGIC_AT + 5] in _MAGICS


def judge_archive(
    kind: str,
    data: bytes | memoryview,
    descriptor: Descriptor,
    level: Level,
    waivers: Iterable[Waiver] = (),
) -> tuple[str, ...]:
    """Return the files and links of an archive after judging every program in it.

    Raises:
        FormatError: as ``read_archive``.
        VerificationError: a program breaks a required hardening rule.
    """
    known = tuple(waivers)
    entries = read_archive(kind, data, component=descriptor.vib_id)
    for entry in entries:
        if entry.kind is EntryKind.FILE:
            enforce_file(f"/{entry.path}", entry.data, level, known, component=descriptor.vib_id)
    return tuple(entry.path for entry in entries if entry.kind is not EntryKind.DIRECTORY)


def check_content(vib: Vib, level: Level, look: Callable[[str, memoryview], Iterable[str]]) -> None:
    """Compare what the payloads bring with what is listed and allowed.

    Args:
        vib: the VIB.
        level: the level that counts for it.
        look: gives the files of a payload of one of the types ``LAYERS``, having judged them.

    Raises:
        AcceptanceError: ``path-not-allowed``, ``file-not-listed`` or ``file-missing``.
        CasemateError: what ``look`` raised.
    """
    descriptor = vib.descriptor
    check_places(descriptor.files, level, descriptor.vib_id)
    found = list(_found(vib, look))
    check_places(found, level, descriptor.vib_id)
    known = {payload.type for payload in descriptor.payloads} <= {*LAYERS, "insttar"}
    if vib.payloads and known:
        check_list(descriptor.files, found, descriptor.vib_id)


def _found(vib: Vib, look: Callable[[str, memoryview], Iterable[str]]) -> Iterator[str]:
    kinds = {payload.name: payload.type for payload in vib.descriptor.payloads}
    for name, data in vib.payloads.items():
        if kinds[name] in LAYERS:
            yield from look(kinds[name], data)
        elif kinds[name] == "insttar":
            for entry in read_archive("insttar", data, component=vib.descriptor.vib_id):
                if entry.kind is not EntryKind.DIRECTORY:
                    yield entry.path
