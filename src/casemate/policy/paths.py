"""Path patterns for policies: simple enough that no pattern takes long or means more than it says.

``*`` stands for any characters within one path component; ``**`` as the last component stands for
everything below; all other characters stand for themselves. A measured path that is not absolute,
or that has ``.``, ``..`` or empty components, matches nothing: it could lead anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from casemate.errors import ArgumentError

MAX_PATTERN: Final = 4096
"""Bytes of a pattern: PATH_MAX."""
MAX_PATTERNS: Final = 10_000
"""Patterns of one policy."""
_BELOW: Final = b"**"
_DOTS: Final = frozenset({b"", b".", b".."})


@dataclass(frozen=True, slots=True)
class PathSet:
    """Compiled patterns: whole paths, whole trees, and patterns by number of components."""

    literal: frozenset[bytes] = frozenset()
    trees: frozenset[bytes] = frozenset()
    patterns: tuple[tuple[bytes, ...], ...] = ()

    def __contains__(self, path: object) -> bool:
        """Tell whether a measured path is matched by a pattern."""
        if not isinstance(path, bytes) or not path.startswith(b"/"):
            return False
        parts = path[1:].split(b"/")
        if not _DOTS.isdisjoint(parts):
            return False
        if path in self.literal:
            return True
        place = path.rfind(b"/")
        while place > 0:
            if path[:place] in self.trees:
                return True
            place = path.rfind(b"/", 0, place)
        return any(_matches(pattern, parts) for pattern in self.patterns)


def compile_paths(patterns: Iterable[str]) -> PathSet:
    """Compile patterns.

    Raises:
        ArgumentError: ``policy-pattern`` (not absolute, ``..`` inside, ``**`` elsewhere than at
            the end), ``policy-too-wide`` (matches every file), ``policy-limit``.
    """
    literal: set[bytes] = set()
    trees: set[bytes] = set()
    globs: list[tuple[bytes, ...]] = []
    for count, text in enumerate(patterns, 1):
        if count > MAX_PATTERNS or len(text) > MAX_PATTERN:
            raise _refuse(text, "it is too long, or there are too many", "policy-limit")
        raw = text.encode("utf-8", "surrogateescape")
        parts = raw[1:].split(b"/")
        _check(text, raw, parts)
        if b"*" not in raw:
            literal.add(raw)
        elif parts[-1] == _BELOW and b"*" not in raw[:-2]:
            trees.add(raw[:-3])
        else:
            globs.append(tuple(parts))
    return PathSet(frozenset(literal), frozenset(trees), tuple(globs))


def _check(text: str, raw: bytes, parts: list[bytes]) -> None:
    if not raw.startswith(b"/"):
        raise _refuse(text, "it does not begin with /; regular expressions are not accepted")
    if not _DOTS.isdisjoint(parts):
        raise _refuse(text, "a component is empty, . or ..")
    if any(_BELOW in part and part != _BELOW for part in parts) or _BELOW in parts[:-1]:
        raise _refuse(text, "** may only be the last component")
    if not any(part.strip(b"*") for part in parts):
        raise _refuse(text, "it matches files everywhere", "policy-too-wide")


def _refuse(text: str, why: str, code: str = "policy-pattern") -> ArgumentError:
    error = ArgumentError(f"the pattern {text[:200]!r} is refused: {why}", argument="pattern")
    error.code = code
    error.remedy = "Write an absolute path, with * inside a component or /** at the end."
    return error


def _matches(pattern: tuple[bytes, ...], parts: list[bytes]) -> bool:
    if pattern[-1] == _BELOW:
        head = pattern[:-1]
        if len(parts) <= len(head):
            return False
    elif len(pattern) != len(parts):
        return False
    else:
        head = pattern
    return all(map(_component, head, parts))


def _component(pattern: bytes, text: bytes) -> bool:
    """Match one component: each run between stars is found as early as possible, once."""
    first, *rest = pattern.split(b"*")
    if not rest:
        return pattern == text
    last = rest.pop()
    if not text.startswith(first) or not text.endswith(last):
        return False
    position, end = len(first), len(text) - len(last)
    for run in rest:
        place = text.find(run, position, max(end, position))
        if place < 0:
            return False
        position = place + len(run)
    return position <= end
