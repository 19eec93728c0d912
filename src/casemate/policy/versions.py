"""Order of VIB versions.

ESXi does not publish its rule; this one is that of RPM without its special characters, and gives
the documented examples their order. A version is cut into runs of digits and runs of letters;
everything else only separates. Runs are compared pairwise: numbers by value, letters by their
codes, a number is newer than letters. Where all pairs are equal the version with more runs is
newer. ``1.0`` and ``1-0`` are therefore equal, and ``1.0a`` is newer than ``1.0``.
"""

from __future__ import annotations

import re
from typing import Final

from casemate.formats.descriptor import Constraint

_RUN: Final = re.compile(r"[0-9]+|[A-Za-z]+", re.ASCII)

Key = tuple[tuple[int, int, str], ...]
"""What sorts as versions do."""


def version_key(version: str) -> Key:
    """Return a value that compares as the version does."""
    return tuple(
        (1, int(run), "") if run[0].isdecimal() else (0, 0, run) for run in _RUN.findall(version)
    )


def satisfies(constraint: Constraint, version: str) -> bool:
    """Tell whether a version is what the constraint asks for."""
    if not constraint.relation:
        return True
    ours, theirs = version_key(version), version_key(constraint.version)
    match constraint.relation:
        case "<<":
            return ours < theirs
        case "<=":
            return ours <= theirs
        case "=":
            return ours == theirs
        case ">=":
            return ours >= theirs
        case _:
            return ours > theirs
