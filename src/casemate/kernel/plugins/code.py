"""The code of a plug-in: its files, copied out of the visor root into sealed memory."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Final, Self

from casemate.errors import FormatError, VerificationError
from casemate.formats.pluginmanifest import MANIFEST, PluginManifest, parse_manifest
from casemate.kernel.sys.files import open_beneath, open_directory
from casemate.kernel.sys.memfd import mapped, sealed_copy
from casemate.policy.hardening import Waiver
from casemate.policy.levels import Level
from casemate.policy.payloads import enforce_file

PLACE: Final = "usr/lib/vmware/plugins/"
"""Where VIBs of all levels may bring plug-ins: a directory each."""
MAX_FILES: Final = 64
"""Files of code of one plug-in: each takes a descriptor of its process."""
MAX_FILE: Final = 16 << 20
"""Bytes of one file; the largest extension module of Python's own has two MiB."""


class CodeKind(StrEnum):
    """What a file of code is."""

    SOURCE = "source"
    BYTECODE = "bytecode"
    ELF = "elf"


_KINDS: Final = {".py": CodeKind.SOURCE, ".pyc": CodeKind.BYTECODE, ".so": CodeKind.ELF}


@dataclass(frozen=True, slots=True)
class CodeFile:
    """A module: its dotted name, its path in the visor root, its bytes in sealed memory."""

    module: str
    kind: CodeKind
    path: str
    package: bool
    sealed: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class PluginCode:
    """A plug-in in sealed memory; ``digest`` covers every file with its path. To be closed."""

    manifest: PluginManifest
    files: tuple[CodeFile, ...]
    digest: str

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the memory back."""
        for one in self.files:
            os.close(one.sealed)


def plugin_of(path: str) -> str:
    """Return the name of the plug-in that a file of a VIB belongs to; empty if to none."""
    name, separator, _ = path.removeprefix(PLACE).partition("/")
    return name if path.startswith(PLACE) and separator else ""


def read_plugin(
    root: Path, name: str, paths: Iterable[str], level: Level, waivers: Sequence[Waiver] = ()
) -> PluginCode:
    """Read a plug-in out of the visor root, and judge it.

    Args:
        root: The visor root.
        name: The plug-in.
        paths: Its files, as the VIB's descriptor lists them.
        level: Acceptance level of the VIB.
        waivers: Of the signed policies.

    Raises:
        FormatError: ``plugin-manifest``, ``plugin-files``.
        VerificationError: A program breaks a required hardening rule (``hardening-...``), or is
            ELF that cannot be read.
        HostError: A file is a link or cannot be read.
    """
    place = f"{PLACE}{name}/"
    listed = sorted(path for path in paths if path.startswith(place))
    if f"{place}{MANIFEST}" not in listed:
        raise _bad(name, f"its VIB lists no {MANIFEST}")
    digest = hashlib.sha256()
    with ExitStack() as stack:
        top = open_directory(root)
        stack.callback(os.close, top)
        manifest: PluginManifest | None = None
        files: list[CodeFile] = []
        for path in listed:
            sealed = _sealed(top, path)
            stack.callback(os.close, sealed)
            with mapped(sealed) as view:
                own = hashlib.sha256(view).digest()
                digest.update(f"{own.hex()}  {path}\n".encode())
                enforce_file(f"/{path}", view, level, waivers, component=name)
                if path == f"{place}{MANIFEST}":
                    manifest = parse_manifest(bytes(view), component=name)
            kind = _KINDS.get(PurePosixPath(path).suffix)
            if kind is not None:
                module, package = _module(name, path.removeprefix(place), kind)
                files.append(CodeFile(module, kind, path, package, sealed, own))
        _check(name, manifest, files)
        kept = tuple(
            CodeFile(f.module, f.kind, f.path, f.package, os.dup(f.sealed), f.sha256) for f in files
        )
    if manifest is None:
        raise _bad(name, f"it has no {MANIFEST}")
    return PluginCode(manifest, kept, digest.hexdigest())


def _check(name: str, manifest: PluginManifest | None, files: Sequence[CodeFile]) -> None:
    if manifest is not None and manifest.name != name:
        raise _bad(name, f"its {MANIFEST} calls it {manifest.name}")
    if len(files) > MAX_FILES:
        raise _bad(name, f"it has more than {MAX_FILES} files of code")
    names = [one.module for one in files]
    for module in names:
        if names.count(module) > 1:
            raise _bad(name, f"two of its files are the module {module}")
        if module.partition(".")[0] in sys.stdlib_module_names or module.startswith("casemate"):
            raise _bad(name, f"its module {module} has a name that is taken")
    if manifest is not None and manifest.module not in names:
        raise _bad(name, f"it has no module {manifest.module}")


def _module(name: str, path: str, kind: CodeKind) -> tuple[str, bool]:
    """Return the dotted name of a file's module, and whether it is a package."""
    *folders, last = path.split("/")
    stem = last.partition(".")[0] if kind is CodeKind.ELF else last.rpartition(".")[0]
    package = stem == "__init__"
    parts = folders if package else [*folders, stem]
    if not parts or not all(part.isidentifier() and part.isascii() for part in parts):
        raise _bad(name, f"{path} can be no module's file")
    return ".".join(parts), package


def _sealed(top: int, path: str) -> int:
    source = open_beneath(top, path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(source).st_mode):
            raise VerificationError(f"{path} is no file.", code="plugin-files", component=path)
        return sealed_copy(source, PurePosixPath(path).name, limit=MAX_FILE)
    finally:
        os.close(source)


def _bad(name: str, why: str) -> FormatError:
    return FormatError(
        f"The plug-in {name} cannot be used: {why}.",
        code="plugin-files",
        component=name,
        remedy="Ask its provider for a good one; docs/plugins.md describes what belongs there.",
    )
