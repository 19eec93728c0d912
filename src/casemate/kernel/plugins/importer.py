"""Imports a plug-in's modules from verified bytes, and nothing else but the standard library.

It runs in the plug-in's own process. The kernel hands over what it verified: source and bytecode
in sealed memory, and for ELF the digest of what lies in the visor root, which is read-only. After
``install`` there is no other way to import: ``sys.path`` is empty, and a name that is neither the
plug-in's nor the standard library's is refused.
"""

from __future__ import annotations

import hashlib
import hmac
import marshal
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import (
    BuiltinImporter,
    ExtensionFileLoader,
    FrozenImporter,
    ModuleSpec,
    PathFinder,
)
from importlib.util import MAGIC_NUMBER, spec_from_loader
from types import CodeType, ModuleType
from typing import Final

from casemate.errors import DigestError, FormatError, VerificationError
from casemate.kernel.sys.memfd import is_sealed, mapped

_HEADER: Final = 16
"""Bytes before the code of a .pyc file (PEP 552)."""
_EXTENSIONS: Final = "lib-dynload"


@dataclass(frozen=True, slots=True)
class Verified:
    """A module that may be imported: ``kind`` is source, bytecode or elf.

    ``descriptor`` is of the sealed bytes; an ELF file is loaded from ``path``.
    """

    module: str
    kind: str
    path: str
    package: bool
    descriptor: int
    sha256: str


class VerifiedImporter(MetaPathFinder, Loader):
    """Finds and loads the modules of one plug-in."""

    def __init__(self, modules: Iterable[Verified]) -> None:
        self._modules = {one.module: one for one in modules}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how to load a module of the plug-in.

        Raises:
            DigestError: Its bytes are not those that were verified.
            VerificationError: They could still be changed.
        """
        del path, target
        found = self._modules.get(fullname)
        if found is None:
            return None
        if found.kind == "elf":
            _demand(found, _file_digest(found.path))
            return spec_from_loader(fullname, ExtensionFileLoader(fullname, found.path))
        return ModuleSpec(fullname, self, origin=found.path, is_package=found.package)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Leave the making of the module to Python: None says so."""
        del spec
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Run a module's code in it. Raises as ``find_spec``, and what the code raises."""
        exec(self._code(self._modules[module.__name__]), module.__dict__)  # noqa: S102 (this is what an importer does)

    @staticmethod
    def _code(one: Verified) -> CodeType:
        if not is_sealed(one.descriptor):
            raise VerificationError(
                f"{one.path} could be changed after it was verified.",
                code="not-sealed",
                component=one.path,
            )
        with mapped(one.descriptor) as view:
            data = bytes(view)
        _demand(one, hashlib.sha256(data).hexdigest())
        if one.kind == "source":
            return compile(data, f"/{one.path}", "exec", dont_inherit=True)
        if data[: len(MAGIC_NUMBER)] != MAGIC_NUMBER:
            raise FormatError(
                f"{one.path} is bytecode of another Python.",
                code="plugin-files",
                component=one.path,
                remedy="Bring the source, or compile it with the host's Python 3.11.",
            )
        code = marshal.loads(data[_HEADER:])  # noqa: S302 (verified bytes, in a confined process)
        if not isinstance(code, CodeType):
            raise FormatError(f"{one.path} holds no code.", component=one.path)
        return code


class StandardLibrary(MetaPathFinder):
    """Finds modules of the standard library, in its own directory alone."""

    def __init__(self) -> None:
        place = os.path.dirname(os.__file__)  # noqa: PTH120 (pathlib is not needed here)
        self._places = [place, f"{place}/{_EXTENSIONS}"]

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how to load a module of the standard library."""
        if fullname.partition(".")[0] not in sys.stdlib_module_names:
            return None
        places = self._places if path is None else list(path)
        found = PathFinder.find_spec(fullname, places, target)
        origin = os.path.realpath(found.origin or "/") if found is not None else ""
        return found if origin.startswith(f"{os.path.realpath(self._places[0])}/") else None


class Refusal(MetaPathFinder):
    """Refuses every other module, with the reason."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Raise ImportError."""
        del path, target
        raise ModuleNotFoundError(
            f"No verified payload of this plug-in brings the module {fullname}, and it is not of "
            "the standard library.",
            name=fullname,
        )


def install(modules: Iterable[Verified]) -> None:
    """Make these modules, and the standard library's, the only ones that can be imported."""
    sys.path.clear()
    sys.path_importer_cache.clear()
    sys.meta_path[:] = [
        BuiltinImporter,
        FrozenImporter,
        StandardLibrary(),
        VerifiedImporter(modules),
        Refusal(),
    ]


def _demand(one: Verified, digest: str) -> None:
    if not hmac.compare_digest(digest, one.sha256):
        raise DigestError(
            f"{one.path} is not what was verified.", code="plugin-changed", component=one.path
        )


def _file_digest(path: str) -> str:
    with open(path, "rb") as file:  # noqa: PTH123 (pathlib is not needed for anything else here)
        return hashlib.file_digest(file, "sha256").hexdigest()
