"""The steps of a boot, as values: what can happen between power on and Boot Complete."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class VibIdentity:
    """The VIB a component comes from, as its descriptor says: the level is declared, not proven."""

    vib_id: str
    name: str
    version: str
    vendor: str
    level: str


@dataclass(frozen=True, slots=True)
class Launch:
    """The D-RTM launch hashes the loader into PCR 17."""

    file_name: str


@dataclass(frozen=True, slots=True)
class TrustAnchor:
    """A certificate that may vouch for VIBs of these acceptance levels."""

    levels: tuple[str, ...]
    certificate: bytes


@dataclass(frozen=True, slots=True)
class CommandLine:
    """``file options`` as boot.cfg gives them."""

    text: str


@dataclass(frozen=True, slots=True)
class SecurityOption:
    """``KEY = VALUE``."""

    text: str


@dataclass(frozen=True, slots=True)
class Signer:
    """The certificate that signed a VIB, once, before the first file it vouches for."""

    certificate: bytes


@dataclass(frozen=True, slots=True)
class Version:
    """The version record of a core module."""

    file_name: str
    component: str
    product: str
    product_version: str


@dataclass(frozen=True, slots=True)
class Component:
    """A file that is measured and loaded; ``vib`` is None where no VIB brings it."""

    file_name: str
    vib: VibIdentity | None
    payload: str | None


@dataclass(frozen=True, slots=True)
class Option:
    """An option file: read, never executed."""

    file_name: str
    vib: VibIdentity | None
    payload: str | None


@dataclass(frozen=True, slots=True)
class SystemVersion:
    """The whole image in one line."""

    text: str


@dataclass(frozen=True, slots=True)
class BootComplete:
    """Everything that belongs to the boot has been measured."""


Step = (
    Launch
    | TrustAnchor
    | CommandLine
    | SecurityOption
    | Signer
    | Version
    | Component
    | Option
    | SystemVersion
    | BootComplete
)
