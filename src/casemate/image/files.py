"""Which file belongs to which VIB, and which VIB needs which other one.

Two sources decide it: a recipe names its own files (from package file lists), and the shared
libraries follow from the NEEDED entries of every program and library, transitively. A library
that only one recipe reaches goes into that recipe; one that several reach goes into the base. So
every file is in exactly one VIB, and the dependencies between VIBs are those of their ELF files.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from casemate.errors import ArgumentError, HostError
from casemate.formats.elf import parse_elf
from casemate.image.debian import TRIPLET
from casemate.image.tree import File, Node, by_path, merged

LIBRARY_PLACES: Final = (f"usr/lib/{TRIPLET}", "usr/lib", "usr/lib64")
"""Where Debian's dynamic linker looks when there is no cache, in its order."""


class Form(StrEnum):
    """What a payload is: a file system, the loader's zip, or one file as it is."""

    LAYER = "erofs"
    ZIP = "zip"
    FILE = "file"


class Library(Protocol):
    """Finds host files; :class:`casemate.image.debian.Packages` is one."""

    @property
    def owners(self) -> Container[str]:
        """The paths that packages brought."""

    def node(self, path: str) -> Iterable[Node]:
        """Yield a host path, then what it links to, as nodes; the file comes last."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What one VIB is made of.

    Args:
        name: the VIB's name.
        boot_name: 8.3 name of its payload in a boot bank.
        version: the VIB's version.
        summary: one line of at most 80 characters.
        description: what it is and where it came from.
        level: the acceptance level it is signed for.
        nodes: its entries, by path.
        requires: VIBs that it needs; given for reasons no ELF header shows (an interpreter, data
            files), completed from the ELF headers by :func:`assign`.
        compiled: whether its Python modules are compiled.
        form: what the payload is; only a file system becomes a part of the visor root.
    """

    name: str
    boot_name: str
    version: str
    summary: str
    description: str
    level: str
    nodes: Mapping[str, Node]
    requires: frozenset[str] = frozenset()
    compiled: bool = False
    form: Form = Form.LAYER


def exactly_one(recipes: Iterable[Recipe]) -> dict[str, str]:
    """Return the one recipe of every path of the visor root.

    Raises:
        ArgumentError: a path is in two recipes.
    """
    owner: dict[str, str] = {}
    for recipe in recipes:
        if recipe.form is not Form.LAYER:
            continue
        for path in recipe.nodes:
            other = owner.setdefault(path, recipe.name)
            if other != recipe.name:
                raise ArgumentError(
                    f"{path} is both in {other} and in {recipe.name}.", argument="recipes"
                )
    return owner


def assign(recipes: Sequence[Recipe], host: Library, *, base: str) -> tuple[Recipe, ...]:
    """Complete recipes by the shared libraries they reach, and by their dependencies.

    Args:
        recipes: with their own files only.
        host: where libraries that no recipe names come from.
        base: name of the recipe that gets what several need.

    Raises:
        ArgumentError: a path is in two recipes.
        HostError: a library is nowhere (``library-missing``).
        FormatError: a program or library is damaged.
    """
    owner = exactly_one(recipes)
    own = by_path(node for r in recipes if r.form is Form.LAYER for node in r.nodes.values())
    closure = _Closure(host, own)
    reached: dict[str, set[str]] = defaultdict(set)
    for recipe in recipes:
        for library in closure.reach(recipe, owner):
            reached[library].add(recipe.name)
    for library, names in reached.items():
        owner.setdefault(library, next(iter(names)) if len(names) == 1 else base)
    added: dict[str, list[Node]] = defaultdict(list)
    for library, nodes in closure.libraries.items():
        added[owner[library]] += nodes
    complete = [
        dataclasses.replace(recipe, nodes=by_path([*recipe.nodes.values(), *added[recipe.name]]))
        for recipe in recipes
    ]
    exactly_one(complete)
    return tuple(
        dataclasses.replace(
            recipe,
            requires=(recipe.requires | {owner[library] for library in closure.direct(recipe)})
            - {recipe.name},
        )
        for recipe in complete
    )


class _Closure:
    """Follows NEEDED entries. A library is known by the path of its file, links resolved.

    ``libraries`` holds what was found so far: a library's links and file.
    """

    def __init__(self, host: Library, own: Mapping[str, Node]) -> None:
        self.libraries: dict[str, list[Node]] = {}
        self._host = host
        self._own = own
        self._needs: dict[str, tuple[str, ...]] = {}

    def direct(self, recipe: Recipe) -> Iterator[str]:
        """Yield the libraries that the programs and libraries of a recipe name."""
        if recipe.form is Form.LAYER:
            for node in recipe.nodes.values():
                yield from self._of(node)

    def reach(self, recipe: Recipe, owner: Container[str]) -> set[str]:
        """Return the libraries without an owner that a recipe reaches, directly or not."""
        found: set[str] = set()
        waiting = [library for library in self.direct(recipe) if library not in owner]
        while waiting:
            library = waiting.pop()
            if library not in found:
                found.add(library)
                needs = self._of(self.libraries[library][-1])
                waiting += [need for need in needs if need not in owner]
        return found

    def _of(self, node: Node) -> tuple[str, ...]:
        if not isinstance(node, File) or not node.is_elf():
            return ()
        if node.path not in self._needs:
            facts = parse_elf(node.read())
            runpath = (facts.runpath or "").split(":")
            places = [merged(place) for place in runpath if place.startswith("/")]
            self._needs[node.path] = tuple(
                self._find(name, [*places, *LIBRARY_PLACES], node) for name in facts.needed
            )
        return self._needs[node.path]

    def _find(self, name: str, places: Iterable[str], wanted_by: File) -> str:
        for place in places:
            path = f"{place}/{name}"
            if isinstance(own := self._own.get(path), File):
                return own.path
            if path in self._host.owners:
                nodes = list(self._host.node(path))
                known = self.libraries.setdefault(nodes[-1].path, [])
                # The file stays last, whatever other names link to it.
                known[:0] = [node for node in nodes if node not in known]
                return nodes[-1].path
        raise HostError(
            f"The library {name}, which /{wanted_by.path} needs, is nowhere.",
            code="library-missing",
            component=name,
            remedy="Install the Debian package that brings it.",
        )
