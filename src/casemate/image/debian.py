"""Debian's package database: which package brings which file, and in which version."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from casemate.errors import HostError
from casemate.image.tree import File, Link, Node, merged

TRIPLET: Final = "x86_64-linux-gnu"
LINK_DEPTH: Final = 8
"""Symbolic links followed from one path; the deepest chain of a Debian library has three."""

VERSION_LENGTH: Final = 35
"""Characters: the limit of a VIB's version."""


class Packages:
    """The packages installed below a root directory.

    Args:
        root: "/" on a host; a small imitation in tests.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root
        self._info = root / "var/lib/dpkg/info"

    @functools.cached_property
    def versions(self) -> dict[str, str]:
        """Version of every installed package, by name."""
        status = self.root / "var/lib/dpkg/status"
        try:
            text = status.read_text(encoding="utf-8")
        except OSError as error:
            raise HostError(
                f"The package database cannot be read: {error.strerror}.",
                code="not-debian",
                component=str(status),
                remedy="Build images on Debian 12.",
            ) from error
        found: dict[str, str] = {}
        for paragraph in text.split("\n\n"):
            fields = dict(re.findall(r"^(Package|Version|Status): (.+)$", paragraph, re.MULTILINE))
            if fields.get("Status", "").endswith(" installed") and "Version" in fields:
                found[fields["Package"]] = fields["Version"]
        return found

    def version(self, package: str) -> str:
        """Return the installed version of a package.

        Raises:
            HostError: it is not installed (``package-missing``).
        """
        try:
            return self.versions[package]
        except KeyError:
            raise HostError(
                f"The Debian package {package} is not installed.",
                code="package-missing",
                component=package,
                remedy=f"Install it (apt-get install {package}), or run make up.",
            ) from None

    def paths(self, package: str) -> tuple[str, ...]:
        """Return the merged paths that a package brings, directories included, sorted."""
        self.version(package)
        for name in (f"{package}.list", f"{package}:amd64.list"):
            listing = self._info / name
            if listing.is_file():
                return _merged_lines(listing)
        raise HostError(
            f"The file list of the Debian package {package} is missing.",
            code="package-damaged",
            component=package,
            remedy=f"Install it again (apt-get install --reinstall {package}).",
        )

    @functools.cached_property
    def owners(self) -> dict[str, str]:
        """Package of every path that packages brought (one of them for shared directories)."""
        found: dict[str, str] = {}
        for listing in sorted(self._info.glob("*.list")):
            package = listing.name.removesuffix(".list").partition(":")[0]
            found.update(dict.fromkeys(_merged_lines(listing), package))
        return found

    def nodes(self, package: str, wanted: Callable[[str], bool]) -> Iterator[Node]:
        """Yield the files and links of a package whose path is wanted."""
        for path in self.paths(package):
            if wanted(path):
                yield from self.node(path)

    def node(self, path: str) -> Iterator[Node]:
        """Yield one path of the host as a node, and what it links to, down to the file.

        Raises:
            HostError: the path is absent, or no package brought it (``file-unowned``): what
                nobody packaged must not get into an image by accident.
        """
        place = self.root / self._owned(path)
        for _ in range(LINK_DEPTH):
            if not place.is_symlink():
                break
            target = str(place.readlink())
            yield Link(path, target)
            if not target.startswith("/"):
                target = f"{PurePosixPath(path).parent}/{target}"
            path = merged(_collapse(target))
            place = self.root / self._owned(path)
        if place.is_symlink() or not place.exists():
            raise HostError(
                f"/{path} is missing, though a package brought it.",
                code="file-missing",
                component=path,
                remedy="Install its package again (apt-get install --reinstall).",
            )
        if place.is_file():
            yield File(path, place, executable=bool(place.stat().st_mode & 0o100))

    def _owned(self, path: str) -> str:
        if path in self.owners:
            return path
        raise HostError(
            f"No Debian package brought /{path}.",
            code="file-unowned",
            component=path,
            remedy="Remove it, or install the package that should bring it.",
        )


def vib_version(version: str) -> str:
    """Return a Debian version as a VIB version: no epoch, letters a VIB may have, 35 of them.

    >>> vib_version("1:7.2+dfsg-7+deb12u18+b3")
    '7.2.dfsg-7.deb12u18.b3'
    """
    plain = re.sub(r"[^0-9A-Za-z.-]", ".", version.partition(":")[2] or version)
    return (plain if "-" in plain else f"{plain}-1")[:VERSION_LENGTH].rstrip(".-")


def _merged_lines(listing: Path) -> tuple[str, ...]:
    lines = listing.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    return tuple(sorted({merged(line) for line in lines if line.strip("/.")}))


def _collapse(path: str) -> str:
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in {"", "."}:
            parts.append(part)
    return "/".join(parts)
