"""Which part of the kernel is given to which: each function puts one topic together."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import Certificate

from casemate import __version__
from casemate.errors import HostError
from casemate.kernel.accounts import LOCAL_ROOT, Accounts
from casemate.kernel.admin import Admin
from casemate.kernel.auditor import Auditor
from casemate.kernel.autostart import AutoStarter
from casemate.kernel.ballooning import Balloons
from casemate.kernel.boot.settings import Settings
from casemate.kernel.cells.cgroups import Cgroups
from casemate.kernel.cells.diskweight import weigher
from casemate.kernel.cells.hostmemory import read_host_memory
from casemate.kernel.cells.probe import Accelerator
from casemate.kernel.cells.qmp import Qmp
from casemate.kernel.consoles import Consoles
from casemate.kernel.datastores import Datastores
from casemate.kernel.decisions import Decisions
from casemate.kernel.devices import Devices
from casemate.kernel.encryption import Encryption
from casemate.kernel.endorsement import Endorsement
from casemate.kernel.foreigndisks import ForeignDisks
from casemate.kernel.groups import Groups
from casemate.kernel.guests import Guests
from casemate.kernel.hardening import Hardening
from casemate.kernel.hardware import Hardware
from casemate.kernel.home import Home
from casemate.kernel.host import Handler, Kernel
from casemate.kernel.hostends import HostEnds
from casemate.kernel.integrity import Integrity
from casemate.kernel.inventory import Inventory
from casemate.kernel.leases import Leases
from casemate.kernel.leasing import Leasing
from casemate.kernel.loading import Gate, Loading
from casemate.kernel.measurements import Measurements
from casemate.kernel.metering import Meter
from casemate.kernel.modules import Modules
from casemate.kernel.natting import Natting, read_name_servers
from casemate.kernel.networksettings import NetworkSettings
from casemate.kernel.ova import Ova
from casemate.kernel.plugins.registry import Plugins
from casemate.kernel.poolcalls import PoolCalls
from casemate.kernel.pools import Pools
from casemate.kernel.roots import visor_root
from casemate.kernel.scheduler import Scheduler
from casemate.kernel.servercert import ServerCertificate
from casemate.kernel.snapshots import Snapshots
from casemate.kernel.software import Place, Software
from casemate.kernel.statistics import Statistics
from casemate.kernel.store import Store
from casemate.kernel.stream import FactStream
from casemate.kernel.switching import Switching
from casemate.kernel.sys.memfd import is_sealed, mapped
from casemate.kernel.tpm.device import Tpm
from casemate.kernel.tpm.swtpm import socket_path
from casemate.kernel.transfers import Transfers
from casemate.kernel.uplinks import open_uplink
from casemate.kernel.virtualdisks import VirtualDisks
from casemate.kernel.vmpower import VmPower
from casemate.kernel.vms import Vms
from casemate.kernel.wires import Wires
from casemate.machine.facts import HostFact, VmFact
from casemate.machine.governance import OptionFact
from casemate.machine.power import Operation
from casemate.policy.options import booted_with

MOUNTS = 5
"""Descriptor of the mounts that the boot made: see ``kernel.start``."""
NAMESPACE = Path("/run/casemate-network")
"""Keeps the network namespace of VMs while kernels come and go; it ends with the host."""


def host_fact(
    settings: Settings,
    home: Home,
    hardware: Hardware,
    measurements: Measurements,
    accelerator: Accelerator,
) -> HostFact:
    """Describe the host as it is now."""
    record = measurements.record
    return HostFact(
        name=settings.host_name,
        uuid=hardware.uuid,
        product_version=__version__,
        build=record.build,
        boot_time=record.boot_time,
        cpu_model=hardware.cpu_model,
        cpu_vendor=hardware.cpu_vendor,
        cpu_mhz=hardware.cpu_mhz,
        cpu_packages=hardware.packages,
        cpu_cores=hardware.cores,
        cpu_threads=hardware.threads,
        memory_size=hardware.memory_size,
        numa_nodes=hardware.numa_nodes,
        acceptance_level=record.acceptance_level,
        image_profile=record.profile,
        image_vendor=record.vendor,
        tpm_version="2.0",
        drtm_type="none",
        accelerator=accelerator.name,
        accelerator_reason=accelerator.reason,
        taints=record.taints,
        state_sealed=settings.own_machine,
        name_servers=read_name_servers(home.name_servers),
    )


def open_tpm(settings: Settings, home: Home) -> Tpm:
    """Open the TPM that the boot was measured into. Raises TpmError."""
    return Tpm.hardware() if settings.own_machine else Tpm.embedded(socket_path(home))


def resources(
    kernel: Kernel, pools: Pools, inventory: Inventory, cgroups: Cgroups, boot_time: float
) -> tuple[Scheduler, Statistics]:
    """Put together what shares the hardware out, and what measures it."""

    async def control(vm: str) -> Qmp:
        return await kernel.cells.control(vm, Operation.RESET)

    scheduler = Scheduler(
        pools,
        Groups(cgroups, os.cpu_count() or 1),
        Meter(cgroups),
        Balloons(control),
        Decisions(time.time),
        time.monotonic,
        lambda: read_host_memory(cgroups.all_vms),
    )
    statistics = Statistics(inventory, pools, scheduler, control, time.time, boot_time)

    def disk_weigher(fact: VmFact) -> str:
        return weigher(cgroups.directories(fact.vm), inventory.directory(fact))

    calls = PoolCalls(
        *(pools, scheduler, inventory, kernel.check),
        kernel.vms.tasks.demand_free,
        disk_weigher,
    )
    kernel.add(calls.handlers())
    kernel.add(statistics.handlers())
    return scheduler, statistics


def hardened(
    kernel: Kernel, measurements: Measurements, accelerator: str, bank: Path, store: Store
) -> tuple[Auditor, Integrity]:
    """Add the audit of all processes, and of the log; the caller runs it."""
    auditor = Auditor(kernel.cells.running, measurements.security_option, kernel.cells.power_off)
    integrity = Integrity(measurements, first=noted_mounts())
    auditor.also(integrity.look)
    auditor.also(store.audit.watch(store.path))
    measurements.heads = store.audit.heads
    audit = Hardening(auditor, accelerator, bank, bank.parent / "trust")
    kernel.add(audit.handlers())
    kernel.watch(audit.findings)
    return auditor, integrity


def noted_mounts(descriptor: int = MOUNTS) -> str:
    """Return the mounts that the boot made, as init keeps them. Raises HostError."""
    if not is_sealed(descriptor):
        raise HostError("init did not hand over the mounts of the boot", component="init")
    with mapped(descriptor) as view:
        return bytes(view).decode()


def devices_of(kernel: Kernel, stream: FactStream) -> Devices:
    """Tell what devices the host has."""
    devices = Devices()
    stream.publish(devices.fact)
    kernel.add(devices.handlers())
    return devices


def network(
    settings: Settings,
    home: Home,
    store: Store,
    stream: FactStream,
    inventory: Inventory,
    devices: Devices,
    statistics: Statistics,
) -> Switching:
    """Put together what connects VMs."""
    nics = frozenset(nic.name for nic in devices.fact.nics)
    wires = Wires(NAMESPACE, settings.identifier, home.nat)
    natting = Natting(
        store,
        Leasing(wires.open_listener),
        settings.identifier,
        lambda: read_name_servers(home.name_servers),
    )
    statistics.watch(wires.traffic)
    return Switching(store, stream, inventory, wires, lambda: nics, natting)


def life_of_vms(
    kernel: Kernel,
    pools: Pools,
    stream: FactStream,
    switching: Switching,
) -> tuple[AutoStarter, Switching, Guests]:
    """Hook up what makes, runs, connects, copies and removes VMs.

    Returns what starts them with the host, what connects them, and what asks their guests.
    """
    context = replace(kernel.vms, admit=pools.admit_config, network=switching)
    power, vms = VmPower(context), Vms(context, kernel.check)
    starter = AutoStarter(context, power, stream)
    guests = Guests(context)
    for topic in (power, vms, starter, switching, guests):
        kernel.add(topic.handlers())
    kernel.add(Ova(context, vms, kernel.check).handlers())

    def alive(key: str) -> bool:
        return key == LOCAL_ROOT.key or stream.fact("SessionFact", key) is not None

    kernel.add(Leases(context, vms, time.monotonic, alive).handlers())
    kernel.add(Snapshots(context, power, guests, kernel.check).handlers())
    kernel.add(Consoles(context, time.monotonic, kernel.check, alive).handlers())
    kernel.watch(switching.findings)
    kernel.cells.wire(switching.connect)
    kernel.on_exit(switching.ended)
    switching.follow(context.show_links)
    return starter, switching, guests


def files(kernel: Kernel, inventory: Inventory, accounts: Accounts, plugins: Plugins) -> None:
    """Hook up the files of datastores."""
    datastores = Datastores(inventory, kernel.vms.tasks, kernel.check)
    datastores.sweep()
    kernel.add(datastores.handlers())
    kernel.add(VirtualDisks(datastores, ForeignDisks(plugins)).handlers())
    kernel.add(Transfers(datastores, accounts.session, kernel.check).handlers())


def governed(kernel: Kernel, admin: Admin, stream: FactStream, measurements: Measurements) -> None:
    """Hook up who may do what, and tell what the boot decided about it."""
    for name, value in booted_with(measurements.record.command_line).items():
        stream.publish(OptionFact(name, value))
    kernel.govern(admin.demand)
    kernel.add(admin.handlers())


def agents(
    settings: Settings, home: Home, measurements: Measurements, stream: FactStream
) -> dict[type, Handler]:
    """Return the handlers of the machine itself: agents, end, network, secrets."""
    ends = HostEnds(own_machine=settings.own_machine)
    certificate = ServerCertificate(home.tls, settings.host_name, ends.restart_agents)
    sealed = settings.own_machine
    encryption = Encryption(
        home, sealed=sealed, with_tpm=measurements.with_tpm, told=partial(state_needs, stream)
    )
    network = NetworkSettings(home, own_machine=settings.own_machine)
    return {
        **ends.handlers(),
        **network.handlers(),
        **certificate.handlers(),
        **encryption.handlers(),
    }


def state_needs(stream: FactStream, needed: bool) -> None:  # noqa: FBT001 (a callback)
    """Publish whether the state can only be opened with execInstalledOnly."""
    for fact in stream.facts():
        if isinstance(fact, HostFact):
            stream.publish(replace(fact, state_needs_exec_installed_only=needed))


async def packages(
    kernel: Kernel,
    place: Place,
    stream: FactStream,
    switching: Switching,
    measurements: Measurements,
    auditor: Auditor,
    integrity: Integrity,
) -> Plugins:
    """Hook up what changes the host's software, and load what it brings to be loaded."""
    store = kernel.vms.store
    software = Software(place, store, stream, measurements, changed=auditor.extend)
    loop = asyncio.get_running_loop()

    def measure_key(certificate: Certificate) -> None:
        work = measurements.module_key(certificate.public_bytes(Encoding.DER))
        asyncio.run_coroutine_threadsafe(work, loop).result()

    integrity.follow(software.live_layers)
    gate = Gate(software.judge_in_use, integrity.confirm, measure_key)
    modules = Modules(visor_root, software.in_use, place.home.trust, gate)

    def tap(name: str) -> int:
        return asyncio.run_coroutine_threadsafe(switching.open_uplink(name), loop).result()

    uplink = partial(open_uplink, tap=tap)
    plugins = Plugins(visor_root, software.in_use, gate, software.waivers, uplink)
    switching.accept(plugins.uplinks)
    plugins.follow(lambda: loop.call_soon_threadsafe(switching.renew))
    loading = Loading((modules, plugins), store)
    kernel.add({**software.handlers(), **loading.handlers()})
    await loading.load_enabled()
    measurements.find_certificate = Endorsement(measurements, plugins).find
    return plugins
