"""The host's PCI devices, disks and network cards as /sys tells them."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from casemate.calls.hardware import PassthroughReply, PlanPassthrough
from casemate.kernel.accounts import Session
from casemate.machine.hardware import HardwareFact, HostDisk, HostNic, NumaNode, PciDevice
from casemate.machine.passthrough import plan_passthrough

_SECTOR: Final = 512
"""Bytes in which /sys counts the size of a disk, whatever its own sectors are."""
_TEXT_LIMIT: Final = 256
_ADDRESS: Final = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")


class Devices:
    """The inventory, read once, and what can be done with it."""

    def __init__(self, root: Path = Path("/sys")) -> None:
        self.fact = read_devices(root)

    def handlers(self) -> dict[type, Callable[..., Awaitable[object]]]:
        """Return what answers which request."""
        return {PlanPassthrough: self._plan}

    async def _plan(self, request: PlanPassthrough, _: Session) -> PassthroughReply:
        plan = plan_passthrough(request.address, self.fact)
        return PassthroughReply(plan.group, plan.rebind, plan.device)


def read_devices(root: Path = Path("/sys")) -> HardwareFact:
    """Read the inventory; what cannot be read is left empty."""
    dmi = root / "class/dmi/id"
    groups = root / "kernel/iommu_groups"
    return HardwareFact(
        pci=tuple(_pci(place) for place in _sorted(root / "bus/pci/devices")),
        disks=tuple(
            _disk(place)
            for place in _sorted(root / "block")
            # Loop devices, RAM disks and device-mapper have no device behind them.
            if (place / "device").exists()
        ),
        nics=tuple(
            _nic(place) for place in _sorted(root / "class/net") if (place / "device").exists()
        ),
        numa=tuple(_node(place) for place in _sorted(root / "devices/system/node", "node[0-9]*")),
        iommu=groups.is_dir() and any(groups.iterdir()),
        system_vendor=_text(dmi / "sys_vendor"),
        system_model=_text(dmi / "product_name"),
        bios_version=_text(dmi / "bios_version"),
    )


def _pci(place: Path) -> PciDevice:
    group = _target(place / "iommu_group")
    return PciDevice(
        address=place.name,
        vendor=_number(place / "vendor"),
        device=_number(place / "device"),
        subsystem_vendor=_number(place / "subsystem_vendor"),
        subsystem_device=_number(place / "subsystem_device"),
        device_class=_number(place / "class"),
        driver=_target(place / "driver"),
        iommu_group=int(group) if group.isdecimal() else -1,
        numa_node=_number(place / "numa_node", -1),
    )


def _disk(place: Path) -> HostDisk:
    device = place / "device"
    return HostDisk(
        name=place.name,
        model=_text(device / "model"),
        vendor=_text(device / "vendor"),
        serial=_text(device / "serial") or _text(place / "serial"),
        capacity=_number(place / "size") * _SECTOR,
        block_size=_number(place / "queue/logical_block_size", _SECTOR),
        rotational=_number(place / "queue/rotational") != 0,
        removable=_number(place / "removable") != 0,
        pci_address=_pci_address(device),
    )


def _nic(place: Path) -> HostNic:
    speed = _number(place / "speed", 0)
    return HostNic(
        name=place.name,
        mac=_text(place / "address"),
        driver=_target(place / "device/driver"),
        speed_mbps=max(0, speed),
        full_duplex=_text(place / "duplex") == "full",
        link_up=_text(place / "operstate") == "up",
        mtu=_number(place / "mtu"),
        pci_address=_pci_address(place / "device"),
    )


def _node(place: Path) -> NumaNode:
    memory = re.search(r"MemTotal:\s+(\d+) kB", _text(place / "meminfo", 1 << 14))
    return NumaNode(
        number=int(place.name.removeprefix("node")),
        threads=_ranges(_text(place / "cpulist")),
        memory=int(memory[1]) << 10 if memory else 0,
    )


def _ranges(text: str) -> tuple[int, ...]:
    """Read a list like ``0-3,8``."""
    found: list[int] = []
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


def _sorted(place: Path, pattern: str = "*") -> list[Path]:
    return sorted(place.glob(pattern)) if place.is_dir() else []


def _target(link: Path) -> str:
    """Return the name of what a link leads to, empty where there is none."""
    try:
        return link.readlink().name
    except OSError:
        return ""


def _pci_address(device: Path) -> str:
    """Return the address of the PCI function that a device hangs on."""
    found = _ADDRESS.findall(str(device.resolve()))
    return str(found[-1]) if found else ""


def _text(place: Path, limit: int = _TEXT_LIMIT) -> str:
    try:
        return place.read_text(errors="replace")[:limit].strip()
    except OSError:
        return ""


def _number(place: Path, default: int = 0) -> int:
    text = _text(place)
    try:
        return int(text, 0)
    except ValueError:
        return default
