"""The coverage of the API as text: every method of vim25, served or refused, and how.

``docs/api.md`` is this page; a test keeps it true.
"""

from __future__ import annotations

from collections.abc import Iterator

from casemate.hostd.registry import VCENTER_ONLY, Registry, Ring, Served
from casemate.vim25 import hidden, types

_RINGS = {
    Ring.VMS: "Ring A: managing virtual machines",
    Ring.HOST: "Ring B: governing the host",
    Ring.COMPATIBILITY: "Ring C: compatibility (off unless booted with `apiCompatibility=TRUE`)",
}

_HEAD = """# The vSphere API of a Casemate host

Written by `tools/api`; `casemate api list` prints the same table.

Every method of the API is either declared below, with the privilege it demands and the requests
that it may send to the kernel, or refused: the same for everybody, the administrator included.
A declared method whose last column is not empty is on the list but not offered by this host, and
answers `NotSupported` with that reason.

Rings A and B are always there. Ring C answers `MethodNotFound` unless `kernelopt` of boot.cfg has
the word `apiCompatibility=TRUE`, which `esxcli system settings kernel set -s apiCompatibility -v
TRUE` puts there for the next start. That line is measured: a host that serves more than its
reference says is found by the verifier. `VMkernel.Boot.apiCompatibility` (an advanced option) and
`esxcli system settings kernel list` tell what is in force.
"""


def names() -> tuple[str, ...]:
    """Return all methods of vim25 and the hidden ones that are served, ascending."""
    return tuple(sorted({*types.method_owners(), *hidden.METHODS}))


def page(registry: Registry) -> str:
    """Return the coverage page as Markdown."""
    declared = sorted(registry, key=lambda one: (one.ring, one.owner, one.name))
    offered = [one for one in declared if not one.lacking and one.ring is not Ring.COMPATIBILITY]
    others = [name for name in names() if registry.get(name) is None]
    plain = [name for name in others if name not in VCENTER_ONLY]
    counts = (
        f"Of {len(names())} methods {len(declared)} are declared and {len(offered)} offered; "
        f"{len(others)} are refused: {len(plain)} with `MethodNotFound`, {len(VCENTER_ONLY)} "
        "that a host leaves to a management server with `NotSupported`.\n"
    )
    parts = [_HEAD, counts]
    for ring, title in _RINGS.items():
        rows = [one for one in declared if one.ring is ring]
        parts.append(f"## {title}\n\n{_table(rows)}")
    parts.append("## Refused with `NotSupported`\n\n" + _wrapped(sorted(VCENTER_ONLY)))
    parts.append("## Refused with `MethodNotFound`\n\n" + _wrapped(plain))
    return "\n".join(parts)


def _table(rows: list[Served]) -> str:
    head = "| object | method | privilege | calls | not offered because |\n|---|---|---|---|---|\n"
    return head + "".join(f"| {' | '.join(cells(one))} |\n" for one in rows)


def cells(one: Served) -> tuple[str, str, str, str, str]:
    """Return object, method, privilege with rule, calls, and why it is not offered."""
    privilege = f"{one.privilege}; {one.rule}" if one.rule else one.privilege
    calls = ", ".join(call.__name__ for call in one.calls)
    return one.owner, one.name, privilege, calls, one.lacking


def _wrapped(words: list[str]) -> str:
    return "\n".join(_lines(words)) + "\n"


def _lines(words: list[str]) -> Iterator[str]:
    line = ""
    for word in words:
        if len(line) + len(word) > 96:  # noqa: PLR2004  (the width of the page)
            yield line.rstrip()
            line = ""
        line += f"{word} "
    yield line.rstrip()
