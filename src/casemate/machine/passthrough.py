"""Giving a PCI device to a VM through VFIO: what has to be done, or why it cannot be.

A device can be given away only together with its whole IOMMU group: what shares a group can reach
each other's memory past the IOMMU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from casemate.errors import HostError, NotFoundError, NotSupportedError
from casemate.machine.hardware import HardwareFact, PciDevice

_BRIDGE: Final = 0x06
_DRIVER: Final = "vfio-pci"


@dataclass(frozen=True, slots=True)
class PassthroughPlan:
    """The group, the devices that must leave the drivers they have now, and QEMU's argument."""

    group: int
    rebind: tuple[tuple[str, str], ...]
    device: str


def plan_passthrough(address: str, hardware: HardwareFact) -> PassthroughPlan:
    """Plan to give the device at ``address`` to a VM.

    Raises:
        NotFoundError: There is no such device.
        NotSupportedError: ``no-iommu``: the host could not keep it from other memory.
        HostError: ``device-busy``: the host itself needs something of its group.
    """
    wanted = next((one for one in hardware.pci if one.address == address), None)
    if wanted is None:
        raise NotFoundError(f"there is no PCI device {address[:20]!r}", component=address[:20])
    if not hardware.iommu or wanted.iommu_group < 0:
        raise NotSupportedError(
            f"PCI device {address} cannot be given to a VM: this host has no IOMMU in use, so a "
            "VM could reach all memory through it",
            code="no-iommu",
            component=address,
            remedy="Turn on VT-d or AMD-Vi in the firmware, and intel_iommu=on or amd_iommu=on.",
        )
    group = [one for one in hardware.pci if one.iommu_group == wanted.iommu_group]
    members = [one for one in group if one.device_class >> 16 != _BRIDGE or one is wanted]
    used = {disk.pci_address for disk in hardware.disks}
    used |= {nic.pci_address for nic in hardware.nics if nic.link_up}
    for one in members:
        if one.device_class >> 16 == _BRIDGE or one.address in used:
            raise HostError(
                f"the host itself uses {one.address} of IOMMU group {wanted.iommu_group}",
                code="device-busy",
                component=address,
                remedy="Free that device, or put the wanted one into a slot with its own group.",
            )
    return PassthroughPlan(
        wanted.iommu_group,
        tuple((one.address, one.driver) for one in members if _rebound(one)),
        f"vfio-pci,host={address}",
    )


def _rebound(device: PciDevice) -> bool:
    return device.driver != _DRIVER
