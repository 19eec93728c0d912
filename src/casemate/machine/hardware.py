"""The devices of the host, as facts. See ``machine.facts``."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class PciDevice:
    """A PCI function; the ids are those of configuration space, ``iommu_group`` -1: none."""

    address: str
    vendor: int
    device: int
    subsystem_vendor: int
    subsystem_device: int
    device_class: int
    driver: str
    iommu_group: int
    numa_node: int


@dataclass(frozen=True, slots=True)
class HostDisk:
    """A disk of the host; ``capacity`` in bytes."""

    name: str
    model: str
    vendor: str
    serial: str
    capacity: int
    block_size: int
    rotational: bool
    removable: bool
    pci_address: str


@dataclass(frozen=True, slots=True)
class HostNic:
    """A physical network card of the host; ``speed_mbps`` 0: no link or unknown."""

    name: str
    mac: str
    driver: str
    speed_mbps: int
    full_duplex: bool
    link_up: bool
    mtu: int
    pci_address: str


def linked(
    nics: Iterable[HostNic], teams: Container[str], down: Container[str]
) -> tuple[HostNic, ...]:
    """Return network cards with the links that those in ``teams`` have now."""
    return tuple(
        replace(nic, link_up=nic.name not in down) if nic.name in teams else nic for nic in nics
    )


@dataclass(frozen=True, slots=True)
class NumaNode:
    """A NUMA node: its processors and memory (bytes)."""

    number: int
    threads: tuple[int, ...]
    memory: int


@dataclass(frozen=True, slots=True)
class HardwareFact:
    """The host's devices. ``iommu``: devices can be given to VMs."""

    pci: tuple[PciDevice, ...]
    disks: tuple[HostDisk, ...]
    nics: tuple[HostNic, ...]
    numa: tuple[NumaNode, ...]
    iommu: bool
    system_vendor: str = ""
    system_model: str = ""
    bios_version: str = ""

    @property
    def key(self) -> str:
        """The managed object id of the host they belong to."""
        return "ha-host"
