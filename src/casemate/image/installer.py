"""The installer: a signed boot image of its own that holds the disk to install, on an ISO.

It is the boot image with another command line and one archive more behind its first root: the
program that installs, mke2fs, the disk as the sectors that hold something, and the file of an
unattended installation. So firmware's signature covers all that runs and all that is written, and
Linux needs no driver for the medium. The ISO boots as a CD (El Torito) and, written to a stick or
a disk as it is, by its EFI system partition; it is made without root and without a mount, and the
same inputs give the same bytes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from casemate.errors import HostError
from casemate.formats.authenticode import sign_image
from casemate.formats.elf import parse_elf
from casemate.formats.gpt import SECTOR
from casemate.formats.osrelease import BOOT_IMAGE, SECTION, write_release
from casemate.formats.pe import add_sections
from casemate.formats.sparsedisk import pack_disk
from casemate.image import tools
from casemate.image.bootreference import read_boot_image
from casemate.image.cpio import ALIGNMENT, Entry, write_cpio
from casemate.image.debian import TRIPLET, Packages
from casemate.image.disk import BOOT_PATH, MEBIBYTE, SOURCE_DATE, offset_of, write_fat
from casemate.image.host import sources
from casemate.image.initrd import IDENTITY_DIGITS, LINKER, compile_modules, entries
from casemate.image.modules import closure
from casemate.image.pki import Signer
from casemate.image.runtime import THIRD_PARTY
from casemate.image.tree import File, Node, by_path, write_tree
from casemate.image.uki import COMMAND_LINE, read_stub

PROGRAM: Final = "casemate.kernel.boot.installer"
START: Final = f"#!/usr/bin/casemate-python -IBm{PROGRAM}\n".encode()
FIRST: Final = "rdinit=/installer"
"""Linux's option: its first program is this one instead of the loader."""
PLACE: Final = "installation"
FILE_SYSTEM_MAKER: Final = "usr/sbin/mke2fs"
_HAD: Final = frozenset({"libc.so.6", Path(LINKER).name})
"""Libraries that the first root has anyway."""
VOLUME: Final = "CASEMATE"
_ROOM: Final = 8
"""MiB of the EFI system partition beside the installer: tables, folders."""
_LEAST: Final = 40
"""MiB: FAT32 has 65,525 clusters at least."""
_TABLES: Final = 64
"""A FAT32 file system's tables take less than the 64th part of it."""
_READ_ME: Final = (
    "This medium installs Casemate. Boot a machine from it, as a CD or copied byte by byte to a\n"
    "USB stick; its firmware needs UEFI Secure Boot with the keys that the image was signed with.\n"
)


@dataclass(frozen=True, slots=True)
class Unattended:
    """What an installer does without asking; ``settings`` are signed, for the first start."""

    disk: str
    overwrite: bool
    reboot: bool
    settings: bytes = b""


def build_installer(
    home: Path,
    bank: Path,
    disk: Path,
    signer: Signer,
    packages: Packages,
    unattended: Unattended | None = None,
) -> bytes:
    """Return the installer: an EFI program, signed. Same inputs, same bytes.

    Args:
        home: its cache takes intermediate files, its keys vouch for the boot image.
        bank: has the boot image that the installer is made from.
        disk: what ``image disk`` wrote.
        signer: whose CA stands in the machine's db.
        packages: bring mke2fs and the stub.
        unattended: what it does without asking; it asks where there is nothing.

    Raises:
        HostError: a package or program is missing, or the disk cannot be read.
        FormatError, NotFoundError: the bank has no boot image.
    """
    parts = read_boot_image(home, bank / BOOT_IMAGE).parts
    more = dict(_files(disk, unattended))
    with tempfile.TemporaryDirectory(dir=home / "cache") as temporary:
        stage = Path(temporary)
        write_tree(by_path(_nodes(packages)), stage)
        compile_modules(stage)
        found = [*entries(stage), *_own(more)]
    first = parts[".initrd"]
    whole = first + bytes(-len(first) % ALIGNMENT) + write_cpio(found)
    identity = hashlib.sha256(whole).hexdigest()[:IDENTITY_DIGITS]
    sections = {
        ".linux": parts[".linux"],
        SECTION: write_release("installer", identity),
        ".cmdline": " ".join((*COMMAND_LINE, FIRST)).encode(),
        ".initrd": whole,
    }
    return sign_image(add_sections(read_stub(packages), sections), signer.certificate, signer.key)


def write_iso(out: Path, program: bytes) -> None:
    """Write the ISO with an installer; replaced as a whole.

    Raises:
        HostError: a program is missing or failed, or the file cannot be written.
    """
    fresh = out.with_name(f".{out.name}.new")
    try:
        with tempfile.TemporaryDirectory(dir=out.parent) as temporary:
            place = Path(temporary)
            image, partition, tree = place / "boot.efi", place / "efi.img", place / "tree"
            image.write_bytes(program)
            tree.mkdir()
            (tree / "README.TXT").write_text(_READ_ME, "ascii")
            for path in (tree / "README.TXT", tree):
                os.utime(path, (int(SOURCE_DATE), int(SOURCE_DATE)))
            needed = (1 + len(program) // MEBIBYTE) * (_TABLES + 1) // _TABLES + _ROOM
            size = max(needed, _LEAST)
            with partition.open("wb") as stream:
                stream.truncate(size * MEBIBYTE)
            write_fat(partition, 0, size * MEBIBYTE // SECTOR, VOLUME, {BOOT_PATH: image})
            tools.run(
                *("xorriso", "-no_rc", "-as", "mkisofs", "-o", fresh, "-V", VOLUME, "-r"),
                *("-append_partition", "2", "0xef", partition, "-appended_part_as_gpt"),
                *("-e", "--interval:appended_partition_2:all::", "-no-emul-boot"),
                *("-boot-load-size", "1", "-partition_offset", "16", tree),
                environment={"SOURCE_DATE_EPOCH": SOURCE_DATE},
            )
        fresh.rename(out)
    except OSError as error:
        raise HostError(
            f"The ISO cannot be written: {error.strerror}.",
            code="disk-write",
            component=str(error.filename or out),
            remedy="Make room on its disk.",
        ) from error
    finally:
        fresh.unlink(missing_ok=True)


def _files(disk: Path, unattended: Unattended | None) -> Iterator[tuple[str, bytes]]:
    """Yield what the installer finds in its place, by name."""
    end = offset_of(disk, "datastore1")
    try:
        with disk.open("rb") as stream:
            sectors = os.fstat(stream.fileno()).st_size // SECTOR
            yield "disk", pack_disk(sectors, _used(stream.fileno(), end))
    except OSError as error:
        raise HostError(
            f"{disk} cannot be read: {error.strerror}.",
            component=str(disk),
            remedy="Build it: casemate image disk.",
        ) from error
    if unattended is not None:
        plan = {
            "disk": unattended.disk,
            "overwrite": unattended.overwrite,
            "reboot": unattended.reboot,
        }
        yield "plan.json", json.dumps(plan, sort_keys=True).encode()
        if unattended.settings:
            yield "settings", unattended.settings


def _used(disk: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield first sector and content of what is no hole, up to a place, in pieces of 1 MiB."""
    place = 0
    while place < end:
        try:
            start = os.lseek(disk, place, os.SEEK_DATA) // SECTOR * SECTOR
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return
        hole = -(-os.lseek(disk, start, os.SEEK_HOLE) // SECTOR) * SECTOR
        place = min(hole, start + MEBIBYTE, end)
        if start < place:
            yield start // SECTOR, os.pread(disk, place - start, start)


def _own(files: Mapping[str, bytes]) -> Iterator[Entry]:
    yield Entry(PLACE, stat.S_IFDIR | 0o755)
    for name, data in files.items():
        yield Entry(f"{PLACE}/{name}", stat.S_IFREG | 0o400, data)
    yield Entry("installer", stat.S_IFREG | 0o755, START)


def _nodes(packages: Packages) -> Iterator[Node]:
    """Yield the installer's modules, mke2fs, and the libraries of that."""
    own = dict(sources())
    for path in sorted(closure(PROGRAM, own)):
        yield File(f"{THIRD_PARTY}/casemate/{path}", own[path])
    waiting = [FILE_SYSTEM_MAKER]
    seen = set(_HAD)
    while waiting:
        for node in packages.node(waiting.pop()):
            yield node
            for name in parse_elf(node.read()).needed if isinstance(node, File) else ():
                if name not in seen:
                    seen.add(name)
                    waiting.append(f"usr/lib/{TRIPLET}/{name}")
