"""The first root of a machine that boots by itself: the loader and just what it needs.

It is part of the signed boot image, so that firmware has verified and measured it before it runs:
Python as a position-independent program, the loader's modules compiled, the modules of Linux that
lead to the boot banks, and the trust anchors by which everything else is judged.
"""

from __future__ import annotations

import hashlib
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from casemate.formats.elf import parse_elf
from casemate.image import tools
from casemate.image.accounts import MERGED_LINKS
from casemate.image.cpio import Entry, device, folder, link, program, write_cpio
from casemate.image.debian import TRIPLET
from casemate.image.disk import state_template
from casemate.image.erofs import MODULE_PLACES
from casemate.image.files import Recipe
from casemate.image.host import sources
from casemate.image.linux import EARLY, INDEX_PLACE, Kernel, index
from casemate.image.modules import closure
from casemate.image.runtime import INTERPRETER, STANDARD_LIBRARY, THIRD_PARTY
from casemate.image.tree import File, Link, Node, by_path, write_tree

LOADER: Final = "casemate.kernel.boot.bare"
START: Final = f"#!/usr/bin/casemate-python -IBm{LOADER}\n".encode()
"""The machine's first program; Linux gives the interpreter one word, so options come in one."""

THIRD_PARTY_USED: Final = ("_cffi_backend", "cffi", "cryptography", "tpm2_pytss")
"""What the loader imports of others: signatures, and the TPM."""

UNUSED: Final = frozenset(
    {
        *(
            "asyncio",
            "concurrent/futures/process.py",
            "dbm",
            "html",
            "http/server.py",
            "mailbox.py",
        ),
        *("multiprocessing", "pickletools.py", "pydoc.py", "sqlite3", "tarfile.py", "unittest"),
        *(
            "mailbox.py",
            "wsgiref",
            "xml/dom",
            "xml/etree",
            "xmlrpc",
            "zoneinfo",
            "_pydecimal.py",
            "decimal.py",
        ),
    }
)
"""Parts of the standard library that the loader never imports."""

UNUSED_EXTENSIONS: Final = ("_codecs", "_decimal", "_multibytecodec", "_sqlite3", "_zoneinfo")
ENCODINGS: Final = frozenset(
    f"{name}.py" for name in ("__init__", "aliases", "ascii", "latin_1", "utf_16_le", "utf_8")
)
"""What the loader decodes: everything of its own is ASCII or UTF-8, firmware's is UTF-16."""

EK_ROOTS: Final = "ek"
"""Whom a verifier trusts about TPMs; no business of the host's."""
TRUSTED: Final = frozenset({".pem", ".json"})
"""Anchors, and signed waivers of hardening rules."""

LIBRARIES: Final = f"usr/lib/{TRIPLET}/"
LINKER: Final = "usr/lib64/ld-linux-x86-64.so.2"
"""The dynamic linker under the name that every program has in it."""
LOADED_BY_NAME: Final = (*("ld-linux-x86-64.so.2", "libgcc_s.so.1", "libtss2-tcti-device.so.0"),)
"""No ELF header leads to these: the dynamic linker, the end of threads, the way to the TPM."""

STATE_TEMPLATE: Final = "state.ext4"
IDENTITY_FILE: Final = "image"
IDENTITY_DIGITS: Final = 16
PLACES: Final = ("dev", "proc", "root", "run", "sys", "tmp")
COMPRESSION: Final = ("-15", "-T2", "--quiet", "--no-progress")
"""zstd: a little larger than its best in a fraction of the time, and as quick to unpack."""


@dataclass(frozen=True, slots=True)
class FirstRoot:
    """The first root, compressed, and the identity of the boot image that it is for."""

    data: bytes
    identity: str


def write_initrd(
    recipes: Sequence[Recipe], kernel: Kernel, trust: Path, scratch: Path, more: bytes = b""
) -> FirstRoot:
    """Return the first root. Same inputs, same bytes.

    The loader in it knows the boot image's identity, which follows from everything else in it.

    Args:
        recipes: complete, of the host's VIBs.
        kernel: whose modules go in.
        trust: directory of trust anchors, one folder a level.
        scratch: directory for intermediate files.
        more: whatever else of the boot image makes it another one.

    Raises:
        HostError: a program or file is missing.
    """
    with tempfile.TemporaryDirectory(dir=scratch) as temporary:
        stage = Path(temporary, "root")
        stage.mkdir()
        write_tree(by_path(_nodes(recipes, kernel, trust)), stage)
        (stage / STATE_TEMPLATE).write_bytes(state_template(scratch))
        compile_modules(stage)
        archive = Path(temporary, "initrd")
        found = tuple(entries(stage))
        hashed = hashlib.sha256(write_cpio(found))
        hashed.update(kernel.image() + more)
        identity = hashed.hexdigest()[:IDENTITY_DIGITS]
        named = Entry(IDENTITY_FILE, stat.S_IFREG | 0o444, f"{identity}\n".encode())
        archive.write_bytes(write_cpio([*found, named]))
        packed = Path(temporary, "initrd.zst")
        tools.run("zstd", *COMPRESSION, "-o", packed, archive)
        return FirstRoot(packed.read_bytes(), identity)


def _nodes(recipes: Sequence[Recipe], kernel: Kernel, trust: Path) -> Iterator[Node]:
    by_name = {recipe.name: recipe for recipe in recipes}
    programs = [
        *(n for path, n in by_name["python"].nodes.items() if _wanted_of_python(path)),
        *(n for path, n in by_name["python-libs"].nodes.items() if _wanted_of_others(path)),
    ]
    yield from programs
    yield from _libraries(programs, recipes)
    own = dict(sources())
    for path in closure(LOADER, own):
        yield File(f"{THIRD_PARTY}/casemate/{path}", own[path])
    modules = kernel.closure(EARLY)
    yield from (File(module.path, module.data) for module in modules.values())
    yield File(f"{INDEX_PLACE}/early.json", index(modules))
    for anchor in sorted(trust.glob("*/*")):
        if anchor.parent.name != EK_ROOTS and anchor.suffix in TRUSTED:
            yield File(f"trust/{anchor.parent.name}/{anchor.name}", anchor.read_bytes())
    yield File("init", START, executable=True)
    yield from (one for one in MERGED_LINKS if not one.path.startswith("var"))


def _libraries(programs: Iterable[Node], recipes: Iterable[Recipe]) -> Iterator[Node]:
    """Yield the shared libraries that programs need, and those that are loaded by name."""
    known = {path: node for recipe in recipes for path, node in recipe.nodes.items()}
    places = {PurePosixPath(path).name: path for path in known if path.startswith(LIBRARIES)}
    yield known[LINKER]
    waiting = [node for node in programs if isinstance(node, File)]
    names = list(LOADED_BY_NAME)
    found: set[str] = set()
    while waiting or names:
        if waiting:
            node = waiting.pop()
            names += parse_elf(node.read()).needed if node.is_elf() else ()
            continue
        path = places.get(names.pop(), "")
        while path and path not in found:
            found.add(path)
            node_or_link = known[path]
            yield node_or_link
            if isinstance(node_or_link, Link):
                path = places.get(PurePosixPath(node_or_link.target).name, "")
            elif isinstance(node_or_link, File):
                waiting.append(node_or_link)


def _wanted_of_python(path: str) -> bool:
    place = PurePosixPath(path)
    if not place.is_relative_to(STANDARD_LIBRARY):
        return path == INTERPRETER
    inside = place.relative_to(STANDARD_LIBRARY)
    if inside.parts[0] == "lib-dynload":
        return not inside.name.startswith(UNUSED_EXTENSIONS)
    if inside.parts[0] == "encodings":
        return inside.name in ENCODINGS
    return not any(str(part) in UNUSED for part in (inside, *inside.parents))


def _wanted_of_others(path: str) -> bool:
    place = PurePosixPath(path)
    if not place.is_relative_to(THIRD_PARTY):
        return False
    return place.relative_to(THIRD_PARTY).parts[0].partition(".")[0] in THIRD_PARTY_USED


def compile_modules(stage: Path) -> None:
    """Put compiled modules in the place of their sources: half the size, and no time at boot."""
    places = [stage / place for place in MODULE_PLACES if (stage / place).is_dir()]
    tools.run(
        "python3.11",
        *("-S", "-s", "-P", "-m", "compileall", "-q", "-f", "-b", "-j1"),
        *("--invalidation-mode", "unchecked-hash", "-s", stage, "-p", "/"),
        *places,
        environment={"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    for place in places:
        for source in place.rglob("*.py"):
            source.unlink()


def entries(stage: Path) -> Iterator[Entry]:
    """Yield the archive's entries, folders before what they hold."""
    paths: Mapping[str, Path] = {
        str(path.relative_to(stage)): path
        for path in stage.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
    folders = {str(parent) for path in paths for parent in PurePosixPath(path).parents}
    for name in sorted((folders | set(PLACES)) - {"."}):
        yield folder(name)
    yield device("dev/console", 5, 1)
    yield from _files(sorted(paths.items()))


def _files(paths: Iterable[tuple[str, Path]]) -> Iterator[Entry]:
    for name, path in paths:
        if path.is_symlink():
            yield link(name, str(path.readlink()))
        elif path.stat().st_mode & 0o100:
            yield program(name, path.read_bytes())
        else:
            yield Entry(name, stat.S_IFREG | 0o444, path.read_bytes())
