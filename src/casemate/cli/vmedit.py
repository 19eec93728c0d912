"""``casemate vm create|change|clone|export|import``: what a VM is made of."""

from __future__ import annotations

import argparse
from dataclasses import replace

from casemate.calls import vms as c
from casemate.cli.vmtasks import find_vm, run, say, size
from casemate.errors import ArgumentError
from casemate.kernel.home import find_home
from casemate.machine import serialports
from casemate.machine.facts import Allocation, DiskSpec, NicSpec, SerialSpec, VmConfig

WHY = "command line"
_MIB = 20
_CONTROLLER = "sata0"
_UNITS = 30


def add_parsers(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands."""
    create = actions.add_parser("create", help="make a VM")
    create.add_argument("name")
    create.add_argument("--datastore", default="datastore1", help="default: datastore1")
    create.add_argument("--cpus", type=int, default=1, help="vCPUs (default: 1)")
    create.add_argument("--memory", default="256M", help="default: 256M")
    create.add_argument("--firmware", choices=("bios", "efi"), default="bios")
    create.add_argument("--secure-boot", action="store_true", help="efi: start signed code only")
    create.add_argument("--vtpm", action="store_true", help="a TPM 2.0 for the guest")
    create.add_argument("--guest", default="otherguest", help="guest id (default: otherguest)")
    create.set_defaults(func=_create)
    change = actions.add_parser("change", help="change what a VM is made of")
    change.add_argument("vm", help="name or id")
    change.add_argument("--name")
    change.add_argument("--annotation")
    change.add_argument("--cpus", type=int)
    change.add_argument("--memory")
    change.add_argument("--extend-disk", nargs=2, action="append", metavar=("FILE", "SIZE"))
    change.add_argument("--detach-disk", action="append", default=[], metavar="FILE")
    change.add_argument("--destroy-disk", action="append", default=[], metavar="FILE")
    change.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="an entry of the vmx file"
    )
    change.set_defaults(func=_change)
    change.add_argument("--remove-nic", action="append", default=[], type=int, metavar="N")
    change.add_argument("--move-nic", nargs=2, action="append", default=[], metavar=("N", "GROUP"))
    for word, help_text in (("plug", "connect card N"), ("unplug", "disconnect card N")):
        change.add_argument(
            f"--{word}-nic", action="append", default=[], type=int, metavar="N", help=help_text
        )
    change.add_argument("--remove-serial", action="append", default=[], type=int, metavar="N")
    for parser in (create, change):
        parser.add_argument(
            "--serial",
            action="append",
            default=[],
            metavar="file:NAME.log|pipe:NAME",
            help="add a serial port: to a file of its directory, or for vm console --serial",
        )
        parser.add_argument(
            "--nic", action="append", default=[], metavar="GROUP", help="add a card in a port group"
        )
        parser.add_argument("--disk", action="append", default=[], metavar="SIZE", help="add one")
        parser.add_argument("--qcow2", action="store_true", help="make QCOW2 disks, not flat ones")
        parser.add_argument("--thick", action="store_true", help="reserve the space of flat disks")
    clone = actions.add_parser("clone", help="copy a powered-off VM")
    clone.add_argument("vm", help="name or id")
    clone.add_argument("name", help="of the copy")
    clone.set_defaults(func=_clone)
    export = actions.add_parser("export", help="write a powered-off VM as an OVA file")
    export.add_argument("vm", help="name or id")
    export.add_argument("path", help="datastore path, e.g. '[datastore1] demo.ova'")
    export.set_defaults(func=_export)
    importing = actions.add_parser("import", help="make a VM of an OVA file")
    importing.add_argument("path", help="datastore path, e.g. '[datastore1] demo.ova'")
    importing.add_argument("--name", default="", help="default: the name that the file says")
    importing.set_defaults(func=_import)


def _create(options: argparse.Namespace) -> int:
    wanted = {"uefi.secureBoot.enabled": options.secure_boot, "vtpm.present": options.vtpm}
    extra = tuple((name, "TRUE") for name, given in wanted.items() if given)
    config = VmConfig(
        name=options.name,
        uuid="",
        vmx_path=f"[{options.datastore}]",
        guest_id=options.guest,
        cpus=options.cpus,
        memory_mib=size(options.memory) >> _MIB,
        firmware=options.firmware,
        disks=_new_disks(options, ()),
        nics=tuple(NicSpec("", network, "vmxnet3") for network in options.nic),
        cpu_allocation=Allocation(),
        memory_allocation=Allocation(),
        extra=extra,
        serials=_serials(options.serial, ()),
    )
    home = find_home(options.home)
    vm = run(home, c.CreateVm("", config, thin=not options.thick, why=WHY))
    say(options, f"{options.name} is made: VM {vm}", {"vm": vm})
    return 0


def _change(options: argparse.Namespace) -> int:
    home = find_home(options.home)
    fact = find_vm(home, options.vm)
    before = fact.config
    gone = set(options.detach_disk) | set(options.destroy_disk)
    larger = {name: size(text) for name, text in options.extend_disk or ()}
    unknown = (gone | set(larger)) - {disk.file_name for disk in before.disks}
    if unknown:
        raise ArgumentError(f"the VM has no disk {min(unknown)!r}", argument="disk")
    disks = tuple(
        replace(disk, capacity=larger.get(disk.file_name, disk.capacity))
        for disk in before.disks
        if disk.file_name not in gone
    )
    given = {
        "name": options.name,
        "annotation": options.annotation,
        "cpus": options.cpus,
        "memory_mib": None if options.memory is None else size(options.memory) >> _MIB,
    }
    ports = tuple(port for port in before.serials if port.number not in options.remove_serial)
    config = replace(
        before,
        serials=_serials(options.serial, ports),
        **{name: value for name, value in given.items() if value is not None},
        disks=(*disks, *_new_disks(options, disks)),
        nics=_changed_nics(options, before.nics),
        extra=_entries(before, options.set),
    )
    request = c.ReconfigureVm(
        "",
        fact.vm,
        before,
        config,
        destroy=tuple(options.destroy_disk),
        thin=not options.thick,
        why=WHY,
    )
    run(home, request)
    say(options, f"{config.name} is changed", {"vm": fact.vm})
    return 0


def _clone(options: argparse.Namespace) -> int:
    home = find_home(options.home)
    fact = find_vm(home, options.vm)
    vm = run(home, c.CloneVm("", fact.vm, options.name, WHY))
    say(options, f"{options.name} is a copy of {fact.config.name}: VM {vm}", {"vm": vm})
    return 0


def _export(options: argparse.Namespace) -> int:
    home = find_home(options.home)
    fact = find_vm(home, options.vm)
    path = run(home, c.ExportVm("", fact.vm, options.path, WHY))
    say(options, f"{fact.config.name} is in {path}", {"path": path})
    return 0


def _import(options: argparse.Namespace) -> int:
    home = find_home(options.home)
    vm = run(home, c.ImportVm("", options.path, options.name, WHY))
    say(options, f"imported as VM {vm}", {"vm": vm})
    return 0


def _new_disks(options: argparse.Namespace, present: tuple[DiskSpec, ...]) -> tuple[DiskSpec, ...]:
    """Return the disks to be made, in free slots of the first SATA controller."""
    taken = {disk.unit for disk in present if disk.controller == _CONTROLLER}
    free = (unit for unit in range(_UNITS) if unit not in taken)
    kind = "qcow2" if options.qcow2 else "vmdk"
    return tuple(
        DiskSpec("", "disk", kind, size(text), _CONTROLLER, unit)
        for text, unit in zip(options.disk, free, strict=False)
    )


def _changed_nics(options: argparse.Namespace, present: tuple[NicSpec, ...]) -> tuple[NicSpec, ...]:
    """Return the cards (counted from 0) with some moved, plugged, unplugged, removed, added."""
    moved = {_card(number): group for number, group in options.move_nic}
    plugged, unplugged = set(options.plug_nic), set(options.unplug_nic)
    gone = set(options.remove_nic)
    unknown = (set(moved) | plugged | unplugged | gone) - set(range(len(present)))
    if unknown:
        raise ArgumentError(f"the VM has no network card {min(unknown)}", argument="nic")
    kept = (
        replace(
            nic,
            network=moved.get(number, nic.network),
            connected=(nic.connected or number in plugged) and number not in unplugged,
        )
        for number, nic in enumerate(present)
        if number not in gone
    )
    return (*kept, *(NicSpec("", group, "vmxnet3") for group in options.nic))


def _serials(added: list[str], present: tuple[SerialSpec, ...]) -> tuple[SerialSpec, ...]:
    """Return the ports with some added, each at the first free number."""
    ports = {port.number: port for port in present}
    for text in added:
        kind, _, target = text.partition(":")
        free = [number for number in range(serialports.PORTS) if number not in ports]
        if kind not in {serialports.FILE, serialports.PIPE} or not free:
            raise ArgumentError(
                f"{text[:80]!r} is neither file:NAME.log nor pipe:NAME, or one port too many",
                argument="serial",
            )
        ports[free[0]] = SerialSpec(free[0], kind, target)
    return tuple(ports[number] for number in sorted(ports))


def _card(text: str) -> int:
    if not text.isdecimal():
        raise ArgumentError(f"{text[:20]!r} is not the number of a card", argument="nic")
    return int(text)


def _entries(config: VmConfig, settings: list[str]) -> tuple[tuple[str, str], ...]:
    """Return the extra entries with some set; one without a value is removed."""
    values = dict(config.extra)
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not name or not equals:
            raise ArgumentError(f"{setting!r} is not NAME=VALUE", argument="set")
        known = next((key for key in values if key.lower() == name.lower()), name)
        if value:
            values[known] = value
        else:
            values.pop(known, None)
    return tuple(values.items())
