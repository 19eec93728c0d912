"""``casemate hardware``: the host's devices, and whether one can be given to a VM."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from rich.table import Table

from casemate.calls import messages as m
from casemate.calls.hardware import PassthroughReply, PlanPassthrough
from casemate.cli.calls import Calls
from casemate.cli.terminal import PlainConsole
from casemate.errors import NotFoundError
from casemate.kernel.home import find_home
from casemate.machine.hardware import HardwareFact


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands."""
    hardware = commands.add_parser("hardware", help="devices of the host, PCI passthrough")
    actions = hardware.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="PCI devices, disks, network cards").set_defaults(func=_list)
    plan = actions.add_parser("passthrough", help="what giving a device to a VM would take")
    plan.add_argument("address", help="PCI address, e.g. 0000:00:03.0")
    plan.set_defaults(func=_plan)
    for parser in actions.choices.values():
        parser.add_argument("--json", action="store_true", help="print as JSON")


def _list(options: argparse.Namespace) -> int:
    with Calls(find_home(options.home).calls_socket) as calls:
        facts = calls.ask(m.Snapshot(), m.SnapshotReply).facts
    found = next((fact for fact in facts if isinstance(fact, HardwareFact)), None)
    if found is None:
        raise NotFoundError("the host has told nothing of its devices", component="hardware")
    if options.json:
        print(json.dumps(asdict(found)))
        return 0
    console = PlainConsole()
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for title in ("device", "what", "driver", "details"):
        table.add_column(title, overflow="fold")
    for device in found.pci:
        ids = f"{device.vendor:04x}:{device.device:04x} class {device.device_class >> 8:04x}"
        group = "" if device.iommu_group < 0 else f", IOMMU group {device.iommu_group}"
        table.add_row(device.address, "PCI", device.driver or "-", ids + group)
    for disk in found.disks:
        size = f"{disk.capacity >> 30} GiB {disk.model or disk.serial}"
        table.add_row(disk.name, "disk", "-", size.strip())
    for nic in found.nics:
        speed = f"{nic.speed_mbps} Mb/s" if nic.speed_mbps else "speed unknown"
        state = f"up, {speed}" if nic.link_up else "down"
        table.add_row(nic.name, "NIC", nic.driver or "-", f"{nic.mac} {state}")
    console.print(table)
    able = "can" if found.iommu else "cannot (no IOMMU)"
    console.print(f"\nDevices {able} be given to VMs.")
    return 0


def _plan(options: argparse.Namespace) -> int:
    with Calls(find_home(options.home).calls_socket) as calls:
        plan = calls.ask(PlanPassthrough("", options.address), PassthroughReply)
    if options.json:
        print(json.dumps(asdict(plan)))
        return 0
    print(f"{options.address} is in IOMMU group {plan.group}.")
    for address, driver in plan.rebind:
        print(f"  {address}: from {driver or 'no driver'} to vfio-pci")
    return 0
