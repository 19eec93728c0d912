"""Acceptance levels: their order, and the names ESXi's interfaces give them."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Level(StrEnum):
    """Acceptance levels, strictest first, under the names that descriptors use.

    They are strings, so ``<`` compares letters: ask ``admits`` for the order.
    """

    CERTIFIED = "certified"
    ACCEPTED = "accepted"
    PARTNER = "partner"
    COMMUNITY = "community"

    @property
    def rank(self) -> int:
        """3 for certified down to 0 for community."""
        return _RANKS[self]

    @property
    def api_name(self) -> str:
        """The name in the vSphere API (HostImageAcceptanceLevel)."""
        return _API_NAMES[self]

    @property
    def display_name(self) -> str:
        """The name that esxcli prints and takes."""
        return _DISPLAY_NAMES[self]

    def admits(self, other: Level) -> bool:
        """Return whether a host (or image) of this level may carry a VIB of the other."""
        return other.rank >= self.rank


def level_from_name(name: str) -> Level | None:
    """Return the level by any of its three names, None when it is none; case counts."""
    return _BY_NAME.get(name)


_RANKS: Final = {level: rank for rank, level in enumerate(reversed(Level))}
_API_NAMES: Final = {
    Level.CERTIFIED: "vmware_certified",
    Level.ACCEPTED: "vmware_accepted",
    Level.PARTNER: "partner",
    Level.COMMUNITY: "community",
}
_DISPLAY_NAMES: Final = {
    Level.CERTIFIED: "VMwareCertified",
    Level.ACCEPTED: "VMwareAccepted",
    Level.PARTNER: "PartnerSupported",
    Level.COMMUNITY: "CommunitySupported",
}
_BY_NAME: Final = {
    name: level
    for level in Level
    for name in (level.value, _API_NAMES[level], _DISPLAY_NAMES[level])
}
