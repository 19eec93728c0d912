"""Hash algorithms as the TCG registry numbers them, under the names used all over Casemate."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

from casemate.errors import NotSupportedError


class Algorithm(NamedTuple):
    """A hash algorithm of a log or TPM: TPM_ALG_ID and digest size in bytes."""

    id: int
    size: int

    @property
    def name(self) -> str | int:
        """Its name, or the bare number of an algorithm unknown to us."""
        return NAME_BY_ID.get(self.id, self.id)


ALGORITHMS: Mapping[str, Algorithm] = MappingProxyType(
    {
        "sha1": Algorithm(0x0004, 20),
        "sha256": Algorithm(0x000B, 32),
        "sha384": Algorithm(0x000C, 48),
        "sha512": Algorithm(0x000D, 64),
        "sm3_256": Algorithm(0x0012, 32),
        "sha3_256": Algorithm(0x0027, 32),
        "sha3_384": Algorithm(0x0028, 48),
        "sha3_512": Algorithm(0x0029, 64),
    }
)
"""By name: TCG Algorithm Registry, table 3."""

NAME_BY_ID: Mapping[int, str] = MappingProxyType({a.id: name for name, a in ALGORITHMS.items()})


class Hash(Protocol):
    """A running hash, as hashlib has it."""

    def digest(self) -> bytes:
        """Return the digest."""
        ...


_HASHLIB_NAMES = {"sm3_256": "sm3"}
_DIRECT: dict[str, Callable[[bytes], Hash]] = {
    "sha1": hashlib.sha1,
    "sha256": hashlib.sha256,
    "sha384": hashlib.sha384,
    "sha512": hashlib.sha512,
}


def hash_function(name: str) -> Callable[[bytes], Hash]:
    """Return the constructor of the named hash.

    Raises:
        NotSupportedError: this build of Python or OpenSSL does not have it.
    """
    direct = _DIRECT.get(name)
    if direct is not None:
        return direct
    inner = _HASHLIB_NAMES.get(name, name)
    if inner not in hashlib.algorithms_available:
        raise NotSupportedError(
            f"this machine cannot compute {name}",
            code="algorithm-unavailable",
            component=name,
            remedy="Install an OpenSSL that has it, or appraise another bank.",
        )
    return lambda data: hashlib.new(inner, data)


def digest(name: str, data: bytes) -> bytes:
    """Hash ``data`` with the named algorithm."""
    return hash_function(name)(data).digest()
