"""Plans the power-on of a VM: its configuration and the host's abilities give a CellPlan.

QEMU gets no path of the host but its firmware: disks are open descriptors in fd sets, their
format is stated and never probed, the sockets for QMP and the console are listening ones that a
restarted kernel can connect to again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from casemate.errors import ArgumentError, HostError, NotSupportedError
from casemate.formats.vmdk import is_plain_name
from casemate.machine.cellplan import (
    CellPlan,
    CgroupTargets,
    Hardening,
    Isolation,
    Limit,
    Listener,
    PassedFile,
    Scratch,
    ShownFile,
)
from casemate.machine.facts import DiskSpec, VmConfig
from casemate.machine.guestcpu import check_masks
from casemate.machine.planaudit import SANDBOX, UID_BASE, UID_END, audit

QEMU: Final = "/usr/bin/qemu-system-x86_64"
DOMAIN: Final = "regularVMDom"
"""The security domain of VMs, as ESXi names it."""
RUN_PLACE: Final = "/run/vm"
QMP_SOCKET: Final = "qmp.sock"
CONSOLE_SOCKET: Final = "console.sock"
_QMP_FD: Final = 3
_CONSOLE_FD: Final = 4
_FIRST_DISK_FD: Final = 10
# MiB of translated code that TCG keeps per VM.
_TB_SIZE: Final = 32
# MiB beyond guest memory, measured after a Linux boot: 31 (KVM) and 85 (TCG), and room for
# requests in flight; each vCPU adds its thread and state.
_OVERHEAD: Final = {"kvm": 160, "tcg": 256}
_OVERHEAD_PER_CPU: Final = 8
# Threads: vCPUs, main loop and RCU, and the pool for disk requests (64).
_THREADS: Final = 96
_DESCRIPTORS: Final = 256
_SCRATCH_SIZE: Final = 16 << 20
_RUN_SIZE: Final = 1 << 20
# cpu.cfs_period_us and the period of cpu.max.
_PERIOD: Final = 100_000
_QUOTA_LEAST: Final = 1000
# Bytes: the limit of a file's size counts for the memory file of translated code too.
_FILE_SIZE_LEAST: Final = 2 * _TB_SIZE << 20
_AHCI_PORTS: Final = 6
_APPEND_LIMIT: Final = 2047
_SCSI_DEVICES: Final = {
    "lsilogic": "lsi53c895a",
    "lsisas1068": "mptsas1068",
    "pvscsi": "pvscsi",
}
_NIC_DEVICES: Final = {
    "e1000": "e1000",
    "e1000e": "e1000e",
    "vmxnet3": "vmxnet3",
    "virtio": "virtio-net-pci",
}
_NO_NETWORK: Final = frozenset({"none", "hostonly"})


@dataclass(frozen=True, slots=True)
class DiskSource:
    """Where a disk's sectors are: ``size`` bytes from ``offset`` on in ``file_name``.

    ``format`` is ``raw`` or ``qcow2``, stated by configuration and never found by probing.
    """

    disk: DiskSpec
    file_name: str
    size: int
    offset: int = 0
    read_only: bool = False
    format: str = "raw"


@dataclass(frozen=True, slots=True)
class HostSide:
    """What the host brings: ``accelerator`` is ``tcg`` or ``kvm``; ``cpu_mhz`` of one thread."""

    accelerator: str
    cpu_mhz: int
    uid: int


def cell_uid(slot: int, vm: str) -> int:
    """Return the uid of a VM's cell: ``slot`` tells the homes of one machine apart."""
    if not vm.isascii() or not vm.isdigit():
        raise ArgumentError(f"{vm!r} is not the id of a VM", argument="vm")
    return UID_BASE + (slot % 0x10000) * 0x1000 + int(vm) % 0x1000


def plan_power_on(
    vm: str, config: VmConfig, disks: tuple[DiskSource, ...], host: HostSide
) -> CellPlan:
    """Plan the start of a VM.

    Raises:
        ArgumentError: The configuration asks for something that cannot be, or must not be.
        NotSupportedError: The configuration asks for what this host does not offer.
        HostError: The plan lacks hardening (``plan-...``): a defect, and never carried out.
    """
    extra = {name.lower(): value for name, value in config.extra}
    check_masks(extra)
    if config.firmware != "bios":
        raise NotSupportedError(
            f"firmware {config.firmware!r} is not offered by this host",
            component=config.name,
            remedy='Set firmware = "bios" in the vmx file.',
        )
    if not UID_BASE <= host.uid < UID_END:
        raise ArgumentError(f"{host.uid} is not a uid for cells", argument="uid")
    direct, shown = _direct_boot(extra)
    overhead = _OVERHEAD[host.accelerator] + _OVERHEAD_PER_CPU * config.cpus
    plan = CellPlan(
        vm=vm,
        domain=DOMAIN,
        accelerator=host.accelerator,
        argv=(
            QEMU,
            *_machine(vm, config, host.accelerator),
            *_channels(),
            *_storage(disks, extra),
            *_network(config),
            *direct,
        ),
        env=(("LC_ALL", "C"),),
        uid=host.uid,
        gid=host.uid,
        cwd=RUN_PLACE,
        isolation=frozenset(Isolation),
        hardening=frozenset(Hardening),
        scratch=(
            Scratch("/tmp", _SCRATCH_SIZE, 0o1777),  # noqa: S108 (the cell's own, empty)
            Scratch("/run", _RUN_SIZE, 0o755),
        ),
        devices=("null", "zero", "urandom", *(["kvm"] if host.accelerator == "kvm" else [])),
        shown=shown,
        passed=tuple(
            PassedFile(
                fd=_FIRST_DISK_FD + number,
                file_name=source.file_name,
                writable=not _is_read_only(source),
                minimum_size=source.offset + source.size if source.format == "raw" else 0,
            )
            for number, source in enumerate(disks)
        ),
        listeners=(Listener(_QMP_FD, QMP_SOCKET), Listener(_CONSOLE_FD, CONSOLE_SOCKET)),
        rlimits=(
            (Limit.CORE, 0),
            (Limit.NOFILE, _DESCRIPTORS),
            (Limit.NPROC, _THREADS + config.cpus),
            (Limit.FSIZE, _file_size(disks)),
            (Limit.MEMLOCK, 0),
        ),
        cgroup=CgroupTargets(
            cpu_shares=config.cpu_allocation.shares,
            cpu_quota=_quota(config.cpu_allocation.limit, host.cpu_mhz),
            memory_bytes=(config.memory_mib + overhead) << 20,
            pids=_THREADS + config.cpus,
        ),
    )
    findings = audit(plan)
    if findings:
        raise HostError(
            findings[0].reason,
            code=findings[0].code,
            component=config.name,
            remedy=findings[0].remedy,
        )
    return plan


def _machine(vm: str, config: VmConfig, accelerator: str) -> Iterator[str]:
    """The board, its CPUs and memory, and how QEMU itself is bound."""
    tcg = accelerator == "tcg"
    yield from ("-nodefaults", "-no-user-config")
    yield from ("-sandbox", SANDBOX)
    yield from ("-name", f"vm-{vm}")
    yield from ("-machine", "q35,mem-merge=off,dump-guest-core=off,vmport=off")
    yield from ("-accel", f"tcg,split-wx=on,tb-size={_TB_SIZE}" if tcg else "kvm")
    yield from ("-cpu", "max" if tcg else "host")
    yield from ("-smp", str(config.cpus))
    yield from ("-m", f"{config.memory_mib}M")
    if config.uuid:
        yield from ("-uuid", config.uuid)
    yield from ("-display", "none")
    yield from ("-rtc", "base=utc")
    yield from ("-action", "panic=pause,reboot=reset,shutdown=poweroff,watchdog=reset")
    yield from ("-device", "pvpanic")
    yield from ("-object", "rng-builtin,id=rng")
    yield from ("-device", "virtio-rng-pci,rng=rng")
    yield from ("-device", "virtio-balloon-pci,deflate-on-oom=on,free-page-reporting=on")


def _channels() -> Iterator[str]:
    """QMP and the console, both on listening sockets that the cell inherits."""
    yield from ("-chardev", f"socket,id=qmp,fd={_QMP_FD},server=on,wait=off")
    yield from ("-mon", "chardev=qmp,mode=control")
    yield from ("-chardev", f"socket,id=console,fd={_CONSOLE_FD},server=on,wait=off")
    yield from ("-serial", "chardev:console")
    # The guest waits for "cont", so that nothing it prints is lost and nothing runs unwatched.
    yield "-S"


def _storage(disks: tuple[DiskSource, ...], extra: dict[str, str]) -> Iterator[str]:
    """Disks and CD images, each an open descriptor in an fd set of its own."""
    controllers: set[str] = set()
    ports = iter(range(_AHCI_PORTS))
    for number, source in enumerate(disks):
        node = f"disk{number}"
        yield from ("-add-fd", f"fd={_FIRST_DISK_FD + number},set={number}")
        yield from ("-blockdev", _block_node(node, number, source))
        bus = source.disk.controller.rstrip("0123456789")
        if bus == "scsi" and source.disk.controller not in controllers:
            controllers.add(source.disk.controller)
            model = extra.get(f"{source.disk.controller}.virtualdev", "lsilogic").lower()
            if model not in _SCSI_DEVICES:
                raise ArgumentError(
                    f"no controller {model[:40]!r}",
                    argument=f"{source.disk.controller}.virtualDev",
                )
            yield from ("-device", f"{_SCSI_DEVICES[model]},id={source.disk.controller}")
        yield from ("-device", _disk_device(node, number, source, bus, ports))


def _block_node(node: str, number: int, source: DiskSource) -> str:
    """Return the block layer's description: a stated format over a passed descriptor."""
    read_only = _is_read_only(source)
    description: dict[str, object] = {
        "driver": source.format,
        "node-name": node,
        "read-only": read_only,
        "file": {
            "driver": "file",
            "filename": f"/dev/fdset/{number}",
            "read-only": read_only,
            "discard": "unmap",
        },
    }
    if source.format == "raw":
        description |= {"offset": source.offset, "size": source.size}
    elif source.format == "qcow2":
        description["backing"] = None
    else:
        raise NotSupportedError(
            f"disks of format {source.format[:40]!r} are not offered", component=source.file_name
        )
    return json.dumps(description, separators=(",", ":"))


def _disk_device(node: str, number: int, source: DiskSource, bus: str, ports: Iterator[int]) -> str:
    """Return the device that the guest sees."""
    kind = "cd" if source.disk.kind == "cdrom" else "hd"
    tail = f"drive={node},bootindex={number}"
    match bus:
        case "ide" | "sata":
            port = next(ports, None)
            if port is None:
                raise NotSupportedError(
                    f"more than {_AHCI_PORTS} IDE and SATA drives are not offered",
                    component=source.file_name,
                    remedy="Attach some of them to a SCSI controller.",
                )
            return f"ide-{kind},bus=ide.{port},{tail}"
        case "scsi":
            return f"scsi-{kind},bus={source.disk.controller}.0,scsi-id={source.disk.unit},{tail}"
        case "nvme" if kind == "hd":
            return f"nvme,serial={node},{tail}"
        case "virtio" if kind == "hd":
            return f"virtio-blk-pci,{tail}"
    raise NotSupportedError(
        f"a {source.disk.kind} on {source.disk.controller} is not offered",
        component=source.file_name,
    )


def _network(config: VmConfig) -> Iterator[str]:
    """Network cards: in a namespace without any interface, the guest reaches QEMU's own stack."""
    if not config.nics:
        yield from ("-nic", "none")
    for number, nic in enumerate(config.nics):
        if nic.network.lower() in _NO_NETWORK:
            yield from ("-netdev", f"hubport,id=net{number},hubid={number}")
        else:
            yield from ("-netdev", f"user,id=net{number},restrict=on")
        mac = f",mac={nic.mac}" if nic.mac else ""
        device = _NIC_DEVICES.get(nic.model)
        if device is None:
            raise NotSupportedError(f"no network card {nic.model[:40]!r}", component=config.name)
        yield from ("-device", f"{device},netdev=net{number},romfile={mac}")


def _direct_boot(extra: dict[str, str]) -> tuple[tuple[str, ...], tuple[ShownFile, ...]]:
    """Boot a Linux kernel of the VM's directory without a boot loader, where the vmx says so."""
    kernel, initrd = extra.get("casemate.kernel", ""), extra.get("casemate.initrd", "")
    append = extra.get("casemate.append", "")
    if not kernel:
        if initrd or append:
            raise ArgumentError("casemate.initrd without a kernel", argument="casemate.kernel")
        return (), ()
    for name, value in (("casemate.kernel", kernel), ("casemate.initrd", initrd)):
        if value and not is_plain_name(value):
            raise ArgumentError(
                f"{value[:80]!r} is not a file of the VM's own directory", argument=name
            )
    if len(append) > _APPEND_LIMIT or not append.isprintable():
        raise ArgumentError(
            f"not up to {_APPEND_LIMIT} printable characters", argument="casemate.append"
        )
    words = ["-kernel", f"{RUN_PLACE}/kernel"]
    shown = [ShownFile(kernel, f"{RUN_PLACE}/kernel")]
    if initrd:
        words += ["-initrd", f"{RUN_PLACE}/initrd"]
        shown.append(ShownFile(initrd, f"{RUN_PLACE}/initrd"))
    if append:
        words += ["-append", append]
    return tuple(words), tuple(shown)


def _is_read_only(source: DiskSource) -> bool:
    return source.read_only or source.disk.kind == "cdrom"


def _file_size(disks: tuple[DiskSource, ...]) -> int:
    """Bytes up to which any file may be written: the end of the largest disk (and its tables)."""
    ends = [
        source.offset + source.size + (0 if source.format == "raw" else source.size // 8)
        for source in disks
        if not _is_read_only(source)
    ]
    return max([*ends, _FILE_SIZE_LEAST])


def _quota(limit_mhz: int, cpu_mhz: int) -> int:
    """Turn a limit in MHz into microseconds of CPU per period; -1 stays no limit."""
    if limit_mhz < 0:
        return -1
    return max(limit_mhz * _PERIOD // max(cpu_mhz, 1), _QUOTA_LEAST)
