"""Which modules of this project a program imports, read from its sources without running them."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from casemate.errors import NotFoundError

PACKAGE = "casemate"


def module_name(path: str) -> str:
    """Return the dotted name of a source below the package's directory.

    >>> module_name("kernel/boot/__init__.py")
    'casemate.kernel.boot'
    """
    parts = (PACKAGE, *PurePosixPath(path).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(source: bytes) -> Iterator[str]:
    """Yield the names of this project that a source imports, wherever in it.

    ``from casemate.a import b`` yields both ``casemate.a`` and ``casemate.a.b``, which may be a
    module or not.
    """
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found = [alias.name for alias in names]
            case ast.ImportFrom(module=str() as module, names=names, level=0):
                found = [module, *(f"{module}.{alias.name}" for alias in names)]
            case _:
                continue
        yield from (name for name in found if f"{name}.".startswith(f"{PACKAGE}."))


def closure(entry: str, sources: Mapping[str, bytes]) -> frozenset[str]:
    """Return the paths of all modules that a module needs, itself and all packages included.

    Args:
        entry: dotted name of the program's module.
        sources: path below the package's directory to content.

    Raises:
        NotFoundError: the program is not among the sources.
    """
    paths = {module_name(path): path for path in sources if path.endswith(".py")}
    if entry not in paths:
        raise NotFoundError(f"There is no module {entry}.", component=entry)
    found: set[str] = set()
    waiting = [entry]
    while waiting:
        name = waiting.pop()
        if name in paths and name not in found:
            found.add(name)
            waiting += imported(sources[paths[name]])
            if name != PACKAGE:
                waiting.append(name.rpartition(".")[0])
    return frozenset(paths[name] for name in found)
