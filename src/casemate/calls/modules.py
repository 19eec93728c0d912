"""Requests about what VIBs bring to be loaded: Linux modules, and plug-ins of the kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from casemate.calls.messages import Empty

CONFIG = "Host.Config.Settings"
"""vSphere's privilege for changing modules (HostKernelModuleSystem)."""
NO_MODULE = "no-module"
"""Code of the refusal where no VIB brings a module of the name."""


@dataclass(frozen=True, slots=True)
class Module:
    """A module: its file, the VIB that brings it, who signed it, and what is set for it.

    ``status`` is "Signed", or why it would not be loaded. ``digest`` is the SHA-256
    of the file, ``fingerprint`` that of the signer's certificate, both hexadecimal. ``parameters``
    are (name, type, description); ``options`` what is set; ``provides`` the interfaces that it is
    for. Of a plug-in ``file`` is the manifest, and the digest covers all its files.
    """

    name: str
    file: str
    loaded: bool
    enabled: bool
    license: str
    version: str
    depends: tuple[str, ...]
    vib: str
    vib_version: str
    level: str
    status: str
    issuer: str
    digest: str
    fingerprint: str
    parameters: tuple[tuple[str, str, str], ...]
    options: str
    kind: str = ""
    provides: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModulesReply:
    """Modules, by name; ``refusal`` says why this machine loads none, if it does not."""

    modules: tuple[Module, ...]
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class ModuleList:
    """The Linux modules and plug-ins of the running image; ``name`` asks for one alone."""

    session: str = ""
    name: str = ""
    reply: ClassVar = ModulesReply
    privilege: ClassVar[str] = "System.Read"
    audited: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class ModuleLoad:
    """Load a module, and what it depends on, with the options that are set; or a plug-in."""

    session: str
    name: str
    why: str = ""
    reply: ClassVar = Empty
    privilege: ClassVar[str] = CONFIG


@dataclass(frozen=True, slots=True)
class ModuleSet:
    """Set whether a module is loaded at every start (``enabled``), or its ``options``.

    None leaves as it is. Options are ``name=value``, apart by spaces, in force at the next load.
    """

    session: str
    name: str
    enabled: bool | None = None
    options: str | None = None
    why: str = ""
    reply: ClassVar = Empty
    privilege: ClassVar[str] = CONFIG


REQUESTS: tuple[type, ...] = (ModuleList, ModuleLoad, ModuleSet)
