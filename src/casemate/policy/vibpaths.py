"""Where a VIB of a level may put files: the looser the level, the less of the system it may touch.

The rules are ESXi's. A VIB of the two upper levels may write anywhere; the others only below the
places listed here. Paths are relative to the root, as a descriptor's file list gives them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from casemate.errors import AcceptanceError
from casemate.policy.levels import Level

COMMUNITY_PLACES: Final = (
    "etc/cim",
    "etc/config",
    "etc/vmware/driver.map.d",
    "etc/vmware/firewall",
    "etc/vmware/pciid",
    "etc/vmware/service",
    "etc/vmware/shutdown",
    "etc/vmware/vm-support",
    "opt",
    "usr/lib/cim",
    "usr/lib/hostprofiles",
    "usr/lib/pycim",
    "usr/lib/vmware",
    "usr/lib/vmware-debug",
    "usr/libexec/jumpstart/plugins",
    "usr/share/hwdata/driver.pciids.d",
    "var/lib/sfcb/registration",
)
PARTNER_PLACES: Final = (
    *COMMUNITY_PLACES,
    "etc/init.d",
    "etc/vmware/backup.conf",
    "etc/vmware/oem.xml",
    "etc/vmware/support",
    "etc/vmware/vmware.lic",
)
_PLACES: Final = {Level.COMMUNITY: COMMUNITY_PLACES, Level.PARTNER: PARTNER_PLACES}


def restricted(level: Level) -> bool:
    """Tell whether VIBs of this level may write to certain places only."""
    return level in _PLACES


def allowed(path: str, level: Level) -> bool:
    """Tell whether a VIB of this level may bring this path; a directory above a place may be."""
    places = _PLACES.get(level)
    if places is None:
        return True
    return any(path == place or path.startswith(f"{place}/") for place in places)


def check_places(files: Iterable[str], level: Level, vib_id: str) -> None:
    """Raise unless every file lies where a VIB of this level may put files.

    Raises:
        AcceptanceError: ``path-not-allowed``, naming the first file in the way.
    """
    for path in files:
        if not allowed(path.rstrip("/"), level):
            raise AcceptanceError(
                f"A {level} VIB may not bring the file {path[:200]}.",
                code="path-not-allowed",
                component=vib_id,
                remedy="Put it below opt/, usr/lib/vmware/ or another place that this level may "
                "write, or have the VIB signed at a higher level.",
            )


def check_list(files: Iterable[str], found: Iterable[str], vib_id: str) -> None:
    """Raise unless a payload brings just the files that the descriptor lists.

    Args:
        files: The descriptor's file list.
        found: Paths of files and links that the payloads really hold.
        vib_id: What errors say they are about.

    Raises:
        AcceptanceError: ``file-not-listed`` or ``file-missing``.
    """
    listed, present = {path.rstrip("/") for path in files}, set(found)
    check_listed(listed, present, vib_id)
    if lacking := sorted(listed - present):
        raise AcceptanceError(
            f"The descriptor lists {lacking[0][:200]}, which no payload holds.",
            code="file-missing",
            component=vib_id,
        )


def check_listed(files: Iterable[str], found: Iterable[str], vib_id: str) -> None:
    """Raise unless everything that a payload brings is listed in the descriptor.

    Raises:
        AcceptanceError: ``file-not-listed``.
    """
    if hidden := sorted(set(found) - {path.rstrip("/") for path in files}):
        raise AcceptanceError(
            f"A payload holds {hidden[0][:200]}, which the descriptor does not list.",
            code="file-not-listed",
            component=vib_id,
            remedy="Do not use it: its signed list of files hides what it brings.",
        )
