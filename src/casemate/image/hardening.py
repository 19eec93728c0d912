"""The hardening rules at build time and over VIB files: before anything is packed or installed."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from casemate.errors import CasemateError, FormatError, VerificationError
from casemate.formats.elf import is_elf
from casemate.formats.tarball import EntryKind, parse_tar, parse_tgz
from casemate.formats.vib import Vib
from casemate.image import tools
from casemate.image.files import Recipe
from casemate.image.tree import File
from casemate.policy.hardening import Report, Waiver
from casemate.policy.levels import Level
from casemate.policy.payloads import MAGIC, enforce_file

EROFS_MAGIC: Final = b"\xe2\xe1\xf5\xe0"
_SUPERBLOCK: Final = 1024
_GZIP: Final = b"\x1f\x8b"
_SETID: Final = stat.S_ISUID | stat.S_ISGID


def enforce_recipe(recipe: Recipe, waivers: Iterable[Waiver] = ()) -> tuple[Report, ...]:
    """Judge every program and library that a recipe packs.

    Raises:
        VerificationError: one breaks a required rule; the VIB must not be built.
        HostError: a file cannot be read.
    """
    known, level = tuple(waivers), Level(recipe.level)
    reports = (
        enforce_file(f"/{path}", node.read(), level, known, component=recipe.name)
        for path, node in recipe.nodes.items()
        if isinstance(node, File) and node.is_elf()
    )
    return tuple(report for report in reports if report is not None)


def judge_vib(
    vib: Vib, waivers: Iterable[Waiver] = (), listing: dict[str, list[str]] | None = None
) -> tuple[tuple[Report, ...], tuple[CasemateError, ...]]:
    """Judge every program and library of a VIB, by its declared level.

    Args:
        vib: the VIB.
        waivers: of the signed policies.
        listing: gets the files and links of each payload that is an EROFS image, by its name.

    Returns:
        The reports of good files, and one error for each file that breaks a required rule.

    Raises:
        HostError: a program that unpacks payloads is missing.
    """
    known, level = tuple(waivers), Level(vib.descriptor.acceptance_level)
    reports: list[Report] = []
    refused: list[CasemateError] = []
    for name, data in vib.payloads.items():
        try:
            paths: list[str] = []
            if listing is not None and is_erofs(data):
                listing[name] = paths
            for path, content in programs(name, data, paths):
                try:
                    report = enforce_file(
                        path, content, level, known, component=vib.descriptor.vib_id
                    )
                except VerificationError as error:
                    refused.append(error)
                else:
                    reports += [report] if report is not None else []
        except FormatError as error:
            refused.append(error)
    return tuple(reports), tuple(refused)


def is_erofs(data: bytes | memoryview) -> bool:
    """Tell whether a payload is an EROFS image."""
    return bytes(data[_SUPERBLOCK : _SUPERBLOCK + 4]) == EROFS_MAGIC


def programs(
    name: str, data: bytes | memoryview, paths: list[str] | None = None
) -> Iterator[tuple[str, bytes | memoryview]]:
    """Yield path and content of every ELF file in a payload: an EROFS image, a tar, or itself one.

    ``paths`` gets all files and links of an EROFS image.

    Raises:
        FormatError: an EROFS image that cannot be unpacked (``erofs-broken``), or that holds what
            no VIB may bring (``payload-file``).
        HostError: the program that unpacks them is missing.
    """
    view = memoryview(data)
    if is_elf(view):
        yield f"/{name}", view
    elif is_erofs(view):
        yield from _of_image(name, view, [] if paths is None else paths)
    else:
        yield from _of_tar(view)


def _of_tar(view: memoryview) -> Iterator[tuple[str, bytes | memoryview]]:
    try:
        entries = parse_tgz(view) if bytes(view[:2]) == _GZIP else parse_tar(view)
    except FormatError:
        # No host loads what is neither EROFS nor a tar, so there is nothing to judge.
        return
    for entry in entries:
        if entry.kind is EntryKind.FILE and is_elf(entry.data):
            yield f"/{entry.path}", entry.data


def _unpack(image: Path, root: Path) -> bool:
    """Unpack an EROFS image.

    The program ends well where it could not even read the superblock; nothing is unpacked then.
    """
    try:
        tools.run(
            "fsck.erofs", f"--extract={root}", "--no-preserve-owner", "--preserve-perms", image
        )
    except CasemateError:
        return False
    return any(root.iterdir())


def _of_image(
    name: str, view: memoryview, paths: list[str]
) -> Iterator[tuple[str, bytes | memoryview]]:
    tools.find("fsck.erofs")
    with tempfile.TemporaryDirectory() as temporary:
        image, root = Path(temporary, "image"), Path(temporary, "root")
        image.write_bytes(view)
        root.mkdir()
        if not _unpack(image, root):
            raise FormatError(
                f"The payload {name} is a damaged EROFS image.",
                code="erofs-broken",
                component=name,
            )
        for place, folders, names in os.walk(root):
            folders.sort()
            links = [folder for folder in folders if Path(place, folder).is_symlink()]
            for file in sorted([*names, *links]):
                path = Path(place, file)
                mode = path.lstat().st_mode
                if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)) or mode & _SETID:
                    raise FormatError(
                        f"The payload {name} holds {path.relative_to(root)}, which is a device, "
                        "a pipe, a socket, or runs with another's rights.",
                        code="payload-file",
                        component=name,
                    )
                paths.append(str(path.relative_to(root)))
                if stat.S_ISLNK(mode):
                    continue
                with path.open("rb") as stream:
                    head = stream.read(len(MAGIC))
                    if head == MAGIC:
                        yield f"/{path.relative_to(root)}", head + stream.read()
