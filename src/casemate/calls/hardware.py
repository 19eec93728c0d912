"""Requests about the host's devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class PassthroughReply:
    """What giving a device to a VM takes: its IOMMU group, and (address, driver) to be freed."""

    group: int
    rebind: tuple[tuple[str, str], ...]
    device: str


@dataclass(frozen=True, slots=True)
class PlanPassthrough:
    """What giving a PCI device to a VM would take; refused where the host cannot do it."""

    session: str
    address: str
    reply: ClassVar = PassthroughReply
    privilege: ClassVar[str] = "System.Read"
    audited: ClassVar[bool] = False


REQUESTS: tuple[type, ...] = (PlanPassthrough,)
