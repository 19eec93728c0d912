"""Plans the power-on of a VM: its configuration and the host's abilities give a CellPlan.

QEMU gets no path of the host but its firmware: disks are open descriptors in fd sets, their
format is stated and never probed, the sockets for QMP and the console are listening ones that a
restarted kernel can connect to again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from casemate.errors import ArgumentError
from casemate.machine import peripherals, serialports
from casemate.machine.bootorder import boot_words
from casemate.machine.cellplan import (
    CellPlan,
    CgroupTargets,
    Hardening,
    Isolation,
    Limit,
    Listener,
    PassedFile,
    PassedTap,
    Peer,
    Scratch,
)
from casemate.machine.facts import VmConfig
from casemate.machine.guestcpu import check_masks
from casemate.machine.hotnotes import (
    MODULES,
    PORTS,
    added,
    at_start,
    memory_id,
    module_id,
    port_id,
)
from casemate.machine.hotplug import (
    HOT_MEMORY_MIB,
    cores_per_socket,
    most_cpus,
    takes_memory,
)
from casemate.machine.planaudit import SANDBOX, UID_BASE, UID_END, checked
from casemate.machine.plancards import card_words
from casemate.machine.planfirmware import RUN_PLACE, direct_boot, firmware_words, secure_boot
from casemate.machine.planstorage import (
    FIRST_FD,
    DiskSource,
    file_size,
    forgetting,
    is_read_only,
    storage,
)
from casemate.machine.planvtpm import QEMU_TPM_FD, TPM_PEER, has_vtpm, vtpm_options
from casemate.machine.vmconfig import disk_shares, saved_scratch

QEMU: Final = "/usr/bin/qemu-system-x86_64"
DOMAIN: Final = "regularVMDom"
"""The security domain of VMs, as ESXi names it."""
QMP_SOCKET: Final = "qmp.sock"
CONSOLE_SOCKET: Final = "console.sock"
AGENT_SOCKET: Final = "agent.sock"
AGENT_CHANNEL: Final = "agent"
_QMP_FD: Final = 3
_CONSOLE_FD: Final = 4
_AGENT_FD: Final = 6
# MiB of translated code that TCG keeps per VM.
_TB_SIZE: Final = 32
# MiB beyond guest memory, measured after a Linux boot: 31 (KVM) and 85 (TCG), and room for
# requests in flight; the video card's memory comes to that, and each vCPU's thread and state.
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


@dataclass(frozen=True, slots=True)
class HostSide:
    """What the host brings: ``accelerator`` is ``tcg`` or ``kvm``; ``cpu_mhz`` of one thread.

    ``resume``: the guest's memory comes from a file before it runs. ``cards``: numbers of the
    network cards that there is an interface for.
    """

    accelerator: str
    cpu_mhz: int
    uid: int
    resume: bool = False
    cards: frozenset[int] = frozenset()


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
    extra = dict(peripherals.entries_of(config))
    check_masks(extra)
    if not UID_BASE <= host.uid < UID_END:
        raise ArgumentError(f"{host.uid} is not a uid for cells", argument="uid")
    direct, shown = direct_boot(extra)
    disks = tuple(forgetting(source) for source in disks)
    layers = tuple(layer for disk in disks for layer in disk.layers)
    fds = {layer.file_name: FIRST_FD + at for at, layer in enumerate(layers)}
    if len(fds) != len(layers):
        raise ArgumentError("two disks are in one file", argument="disks", component=config.name)
    firmware, nvram = firmware_words(config, extra, FIRST_FD + len(fds))
    came = added(config) if host.resume else at_start(len(config.nics))
    numbers = came.cards or tuple(range(len(config.nics)))
    first_tap = FIRST_FD + len(fds) + len(nvram)
    taps = tuple(
        PassedTap(first_tap + at, card) for at, card in enumerate(sorted(host.cards & set(numbers)))
    )
    kept = saved_scratch(config) if host.resume else {}
    cell_mib = cell_memory(config, host.accelerator)
    plan = CellPlan(
        vm=vm,
        domain=DOMAIN,
        accelerator=host.accelerator,
        argv=(
            QEMU,
            *_machine(vm, config, host, _board(config, extra)),
            *peripherals.usb_words(extra),
            *_channels(),
            *serialports.words(config),
            *firmware,
            *boot_words(extra),
            *vtpm_options(config),
            *storage(disks, config.drives, extra, fds, came),
            *card_words(config, taps, extra, came),
            *_screen(extra),
            *_agent(),
            *direct,
            *(["-incoming", "defer"] if host.resume else []),
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
        passed=(
            *(
                PassedFile(
                    fd=fds[layer.file_name],
                    file_name=kept.get(layer.file_name, layer.file_name),
                    writable=layer in disks and not is_read_only(layer),
                    minimum_size=layer.offset + layer.size if layer.format == "raw" else 0,
                    scratch=layer.size if layer.scratch and not kept else 0,
                )
                for layer in layers
            ),
            *nvram,
        ),
        listeners=(
            Listener(_QMP_FD, QMP_SOCKET),
            Listener(_CONSOLE_FD, CONSOLE_SOCKET),
            Listener(_AGENT_FD, AGENT_SOCKET),
            *(Listener(fd, name) for fd, name in serialports.listeners(config)),
        ),
        rlimits=(
            (Limit.CORE, 0),
            (Limit.NOFILE, _DESCRIPTORS),
            (Limit.NPROC, _THREADS + most_cpus(config)),
            (Limit.FSIZE, file_size(disks, cell_mib)),
            (Limit.MEMLOCK, 0),
        ),
        cgroup=CgroupTargets(
            cpu_shares=config.cpu_allocation.shares,
            cpu_quota=_quota(config.cpu_allocation.limit, host.cpu_mhz),
            memory_bytes=cell_mib << 20,
            pids=_THREADS + most_cpus(config),
            disk_shares=disk_shares(config),
        ),
        peers=(Peer(QEMU_TPM_FD, TPM_PEER),) if has_vtpm(config) else (),
        taps=taps,
    )
    return checked(plan, config.name)


def cell_memory(config: VmConfig, accelerator: str) -> int:
    """Return the MiB of a cell: the guest's memory, and what QEMU needs beside it."""
    video = peripherals.video_mib(peripherals.entries_of(config))
    beside = _OVERHEAD[accelerator] + video + _OVERHEAD_PER_CPU * most_cpus(config)
    return config.memory_mib + beside


def _memory(config: VmConfig, *, resume: bool) -> Iterator[str]:
    """The guest's memory; one that wakes up has the modules that it fell asleep with."""
    if not takes_memory(config):
        yield from ("-m", f"{config.memory_mib}M")
        return
    modules = added(config).memory if resume else ()
    base = config.memory_mib - sum(modules)
    yield from ("-m", f"{base}M,slots={MODULES},maxmem={base + HOT_MEMORY_MIB}M")
    for number, size in enumerate(modules):
        backend = f"memory-backend-ram,id={memory_id(number)},size={size}M,dump=off,merge=off"
        yield from ("-object", backend)
        yield from ("-device", f"pc-dimm,id={module_id(number)},memdev={memory_id(number)}")


def _machine(vm: str, config: VmConfig, host: HostSide, board: str) -> Iterator[str]:
    """The board, its CPUs and memory, and how QEMU itself is bound."""
    tcg = host.accelerator == "tcg"
    yield from ("-nodefaults", "-no-user-config")
    yield from ("-sandbox", SANDBOX)
    yield from ("-name", f"vm-{vm}")
    yield from ("-machine", board)
    yield from ("-accel", f"tcg,split-wx=on,tb-size={_TB_SIZE}" if tcg else "kvm")
    yield from ("-cpu", "max" if tcg else "host")
    processors = f"cpus={config.cpus},maxcpus={most_cpus(config)}"
    if (cores := cores_per_socket(config)) > 1:
        processors += f",cores={cores}"
    yield from ("-smp", processors)
    yield from _memory(config, resume=host.resume)
    if config.uuid:
        yield from ("-uuid", config.uuid)
    yield from ("-display", "none")
    yield from ("-rtc", "base=utc")
    yield from ("-action", "panic=pause,reboot=reset,shutdown=poweroff,watchdog=reset")
    # Ports for cards and controllers that come while the VM runs: the board's own takes none.
    for number in range(PORTS):
        yield from ("-device", f"pcie-root-port,id={port_id(number)},chassis={number + 1}")
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


def _agent() -> Iterator[str]:
    """A port that an agent in the guest may listen on, by the name that it knows."""
    channel = f"socket,id={AGENT_CHANNEL},fd={_AGENT_FD},server=on,wait=off"
    yield from ("-chardev", channel)
    yield from ("-device", "virtio-serial-pci,id=ports")
    port = f"virtserialport,bus=ports.0,chardev={AGENT_CHANNEL},name=org.qemu.guest_agent.0"
    yield from ("-device", port)


def _screen(extra: dict[str, str]) -> Iterator[str]:
    """A screen that nobody sees until the kernel hands a viewer's connection over, and a pointer.

    Without ``svga.present`` the VM has its serial port alone.
    """
    yield from ("-vnc", "none")
    if extra.get(peripherals.SCREEN, "").lower() == "false":
        return
    yield from ("-device", f"VGA,vgamem_mb={peripherals.video_mib(extra)}")
    yield from ("-device", "qemu-xhci,id=usb")
    yield from ("-device", "usb-tablet,bus=usb.0")


def _board(config: VmConfig, extra: dict[str, str]) -> str:
    """The board; Secure Boot keeps its variables where only system management mode writes."""
    words = ["q35", "mem-merge=off", "dump-guest-core=off", "vmport=off"]
    if config.firmware == "efi":
        words += ["pflash0=uefi", "pflash1=nvram"]
        if secure_boot(extra):
            words.append("smm=on")
    return ",".join(words)


def _quota(limit_mhz: int, cpu_mhz: int) -> int:
    """Turn a limit in MHz into microseconds of CPU per period; -1 stays no limit."""
    if limit_mhz < 0:
        return -1
    return max(limit_mhz * _PERIOD // max(cpu_mhz, 1), _QUOTA_LEAST)
