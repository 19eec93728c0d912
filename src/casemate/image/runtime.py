"""The Python that runs on a host: launcher, standard library, third-party packages."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from importlib import metadata, resources
from pathlib import Path, PurePosixPath
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from casemate.errors import HostError
from casemate.image import tools
from casemate.image.debian import TRIPLET, Packages
from casemate.image.tree import File, Node

INTERPRETER: Final = "usr/bin/casemate-python"
STANDARD_LIBRARY: Final = "usr/lib/python3.11"
THIRD_PARTY: Final = "usr/lib/python3/dist-packages"

PYTHON_PACKAGES: Final = ("libpython3.11", "libpython3.11-minimal", "libpython3.11-stdlib")

UNUSED_MODULES: Final = frozenset(
    {
        "__phello__",
        "_aix_support.py",
        "antigravity.py",
        "config-3.11-x86_64-linux-gnu",
        "curses",
        "dbm",
        "distutils",
        "ensurepip",
        "idlelib",
        "lib2to3",
        "pydoc.py",
        "pydoc_data",
        "sitecustomize.py",
        "test",
        "this.py",
        "tkinter",
        "turtle.py",
        "turtledemo",
        "venv",
        "webbrowser.py",
        "wsgiref",
    }
)
"""What a host never imports: tests, terminals, installers, desktop things."""

UNUSED_EXTENSIONS: Final = (
    "_crypt",
    "_ctypes_test",
    "_curses",
    "_dbm",
    "_test",
    "_tkinter",
    "_xx",
    "audioop",
    "nis",
    "ossaudiodev",
    "readline",
    "xxlimited",
)
"""Beginnings of the names of extension modules that a host never imports."""

FIND_LIBRARY: Final = f"{STANDARD_LIBRARY}/ctypes/util.py"
"""The one module of the standard library that is replaced: see ``find_library``."""

LAUNCHER_FLAGS: Final = (
    "-O2",
    "-fPIE",
    "-pie",
    "-D_FORTIFY_SOURCE=2",
    "-fstack-protector-strong",
    "-Wall",
    "-Werror",
    "-Wl,-z,relro",
    "-Wl,-z,now",
    "-Wl,-z,noexecstack",
    "-Wl,--build-id=sha1",
    "-s",
)

COMMAND_LINE_ONLY: Final = frozenset({"rich"})
"""Requirements of the project that only the command line has; it stays outside of the image."""

UNUSED_PARTS: Final = frozenset({"tests", "test", "__pycache__", "__pyinstaller"})
UNUSED_RECORDS: Final = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"})
"""What an installer notes about its own work: times and places of the building machine."""

UNUSED_SUFFIXES: Final = frozenset({".pyc", ".pyi", ".c", ".h", ".cc", ".pyx", ".pxd", ".pth"})


def interpreter(packages: Packages, scratch: Path) -> Iterator[Node]:
    """Yield the launcher, libpython and the standard library.

    Args:
        packages: of the host.
        scratch: directory for the compiler's output.

    Raises:
        HostError: a package or the compiler is missing.
    """
    yield File(INTERPRETER, launcher(packages, scratch), executable=True)
    yield File(FIND_LIBRARY, (resources.files("casemate.image") / "find_library.py").read_bytes())
    for package in PYTHON_PACKAGES:
        yield from packages.nodes(package, _wanted_of_python)


def launcher(packages: Packages, scratch: Path) -> bytes:
    """Compile the position-independent launcher and return it.

    Raises:
        HostError: libpython or the compiler is missing, or compiling failed.
    """
    packages.version(PYTHON_PACKAGES[0])
    library = packages.root / f"usr/lib/{TRIPLET}/libpython3.11.so.1.0"
    with tempfile.TemporaryDirectory(dir=scratch) as temporary:
        place = Path(temporary)
        source = resources.files("casemate.image") / "launcher.c"
        (place / "launcher.c").write_bytes(source.read_bytes())
        tools.run("gcc", *LAUNCHER_FLAGS, "-o", "launcher", "launcher.c", library, cwd=place)
        return (place / "launcher").read_bytes()


def third_party(scratch: Path, project: str = "casemate") -> Iterator[Node]:
    """Yield the packages that a project needs at run time, without tests and installer records.

    Args:
        scratch: directory for what has to be stripped.
        project: name of an installed distribution.

    Raises:
        HostError: a requirement is not installed.
    """
    for distribution in closure(project):
        for entry in distribution.files or ():
            path = PurePosixPath(entry)
            if not _wanted_of_wheel(path):
                continue
            source = Path(str(distribution.locate_file(entry)))
            node = File(f"{THIRD_PARTY}/{path}", source, executable=False)
            yield _without_debug(node, scratch) if path.suffix == ".so" else node


def closure(project: str) -> tuple[metadata.Distribution, ...]:
    """Return the distributions that a project needs at run time, sorted by name, without itself.

    Raises:
        HostError: a requirement is not installed (``requirement-missing``).
    """
    found: dict[str, metadata.Distribution] = {}
    waiting = [(project, frozenset({""}))]
    while waiting:
        name, extras = waiting.pop()
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError as error:
            raise HostError(
                f"The Python package {name} is not installed.",
                code="requirement-missing",
                component=name,
                remedy="Run make up: it installs the pinned requirements.",
            ) from error
        known = canonicalize_name(name)
        if known in found and extras <= {""}:
            continue
        found[known] = distribution
        for line in distribution.requires or ():
            need = Requirement(line)
            applies = need.marker is None or any(
                need.marker.evaluate({"extra": extra}) for extra in extras
            )
            unused = name == project and need.name in COMMAND_LINE_ONLY
            if applies and not unused and canonicalize_name(need.name) not in found:
                waiting.append((need.name, frozenset({"", *need.extras})))
    del found[canonicalize_name(project)]
    return tuple(found[name] for name in sorted(found))


def _wanted_of_python(path: str) -> bool:
    if path.startswith(f"usr/lib/{TRIPLET}/libpython"):
        return True
    place = PurePosixPath(path)
    if not place.is_relative_to(STANDARD_LIBRARY):
        return False
    if path == FIND_LIBRARY:
        return False
    first, *rest = place.relative_to(STANDARD_LIBRARY).parts or ("",)
    if first == "lib-dynload":
        return bool(rest) and not rest[0].startswith(UNUSED_EXTENSIONS)
    return first not in UNUSED_MODULES and place.suffix == ".py"


def _wanted_of_wheel(path: PurePosixPath) -> bool:
    return not (
        ".." in path.parts
        or path.is_absolute()
        or UNUSED_PARTS.intersection(path.parts)
        or path.suffix in UNUSED_SUFFIXES
        or path.name in UNUSED_RECORDS
    )


def _without_debug(node: File, scratch: Path) -> File:
    """Return an extension module without debug sections, which name places of its builder."""
    content = node.read()
    if b".debug_info\0" not in content:
        return node
    with tempfile.TemporaryDirectory(dir=scratch) as temporary:
        copy = Path(temporary, "module.so")
        copy.write_bytes(content)
        tools.run("strip", "--strip-debug", "--enable-deterministic-archives", copy)
        return File(node.path, copy.read_bytes())
