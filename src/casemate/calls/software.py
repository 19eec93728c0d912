"""What can be asked about the host's software: what is installed, and changing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from casemate.calls.messages import Empty

IMAGE = "Host.Config.Image"
"""vSphere's privilege for changing a host's image."""


@dataclass(frozen=True, slots=True)
class InstalledVib:
    """A VIB of an image: what its descriptor says, and what its signature says of it.

    ``acceptance_level`` is the level in force; ``signature`` is "Succeeded", or why it is not good;
    ``fingerprint`` the SHA-256 of the signer's certificate.
    Dates are ISO 8601; relations are texts such as ``name >= 1.0``.
    """

    vib_id: str
    name: str
    version: str
    type: str
    vendor: str
    acceptance_level: str
    summary: str
    description: str
    urls: tuple[tuple[str, str], ...]
    creation_date: str
    install_date: str
    depends: tuple[str, ...]
    conflicts: tuple[str, ...]
    replaces: tuple[str, ...]
    provides: tuple[str, ...]
    maintenance_mode_required: bool
    hardware_platforms: tuple[str, ...]
    live_install_allowed: bool
    live_remove_allowed: bool
    stateless_ready: bool
    overlay: bool
    tags: tuple[str, ...]
    payloads: tuple[tuple[str, str, str], ...]
    signer: str
    anchor: str
    signing_time: str
    signature: str
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class SoftwareReply:
    """An image: its profile and VIBs. ``rebooting`` tells that it boots next, and runs not yet.

    ``kernel_options`` are those of boot.cfg.
    """

    bank: str
    profile: str
    vendor: str
    acceptance_level: str
    created: str
    build: str
    rebooting: bool
    taints: tuple[str, ...]
    vibs: tuple[InstalledVib, ...]
    kernel_options: str = ""


@dataclass(frozen=True, slots=True)
class ChangeReply:
    """What a change did, or would do; VIB ids. ``live`` ones are in use already."""

    message: str
    installed: tuple[str, ...]
    removed: tuple[str, ...]
    skipped: tuple[str, ...]
    reboot_required: bool
    live: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ValidationReply:
    """What is wrong with an image: (code, VIB, sentence, remedy); nothing when it is good."""

    profile: str
    findings: tuple[tuple[str, str, str, str], ...]


@dataclass(frozen=True, slots=True)
class DepotReply:
    """What depots hold: their VIBs, and the names of their image profiles."""

    vibs: tuple[InstalledVib, ...]
    profiles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LevelReply:
    """An acceptance level under the name that esxcli uses."""

    level: str


@dataclass(frozen=True, slots=True)
class SoftwareList:
    """The running image, or (``rebooting``) the one that boots next."""

    session: str = ""
    rebooting: bool = False
    reply: ClassVar = SoftwareReply
    privilege: ClassVar[str] = "System.Read"
    audited: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class SoftwareValidate:
    """Check the running image: signatures, levels, dependencies."""

    session: str = ""
    reply: ClassVar = ValidationReply
    privilege: ClassVar[str] = "System.Read"
    audited: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class DepotList:
    """Look into offline bundles, given as datastore paths."""

    session: str
    depots: tuple[str, ...]
    reply: ClassVar = DepotReply
    privilege: ClassVar[str] = "System.Read"
    audited: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class SoftwareChange:
    """Change the image that boots next, and install live what allows it.

    ``action``: install, update or remove VIBs; profile-install or profile-update. ``vibs`` and
    ``depots`` are datastore paths; ``names`` VIBs in a depot or to remove, or a profile's name.
    """

    session: str
    action: str
    vibs: tuple[str, ...] = ()
    depots: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    dry_run: bool = False
    force: bool = False
    no_sig_check: bool = False
    no_live_install: bool = False
    why: str = ""
    reply: ClassVar = ChangeReply
    privilege: ClassVar[str] = IMAGE


@dataclass(frozen=True, slots=True)
class AcceptanceGet:
    """The host's acceptance level, as it will be after the next boot."""

    session: str = ""
    reply: ClassVar = LevelReply
    privilege: ClassVar[str] = "System.Read"
    audited: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class AcceptanceSet:
    """Set the host's acceptance level, by the name that esxcli uses; in force at the next boot."""

    session: str
    level: str
    why: str = ""
    reply: ClassVar = LevelReply
    privilege: ClassVar[str] = IMAGE


@dataclass(frozen=True, slots=True)
class BootOptionSet:
    """Set a boot option; in force, and measured, from the next boot on."""

    session: str
    name: str
    value: str
    why: str = ""
    reply: ClassVar = Empty
    privilege: ClassVar[str] = IMAGE


@dataclass(frozen=True, slots=True)
class BootRollback:
    """Make the other boot bank boot next; the running one does not boot again."""

    session: str = ""
    why: str = ""
    reply: ClassVar = Empty
    privilege: ClassVar[str] = IMAGE


REQUESTS: tuple[type, ...] = (
    AcceptanceGet,
    AcceptanceSet,
    BootOptionSet,
    BootRollback,
    DepotList,
    SoftwareChange,
    SoftwareList,
    SoftwareValidate,
)
