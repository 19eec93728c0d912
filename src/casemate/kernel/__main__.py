"""The kernel's main program: puts store, TPM, cells and calls together and serves.

casemate-python -I -B -m casemate.kernel SETTINGS
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from dataclasses import replace
from typing import Any

from casemate.errors import CasemateError
from casemate.kernel.accounts import Accounts
from casemate.kernel.admin import Admin
from casemate.kernel.assembly import (
    agents,
    devices_of,
    files,
    governed,
    hardened,
    host_fact,
    life_of_vms,
    network,
    open_tpm,
    packages,
    resources,
)
from casemate.kernel.autostart import AutoStarter
from casemate.kernel.boot.bank import write_complete
from casemate.kernel.boot.firmwareboot import recorded
from casemate.kernel.boot.progress import Progress
from casemate.kernel.boot.settings import Settings, load_settings
from casemate.kernel.cells.cgroups import detect
from casemate.kernel.cells.manager import Cells
from casemate.kernel.cells.probe import probe_accelerator
from casemate.kernel.hardware import read_hardware
from casemate.kernel.home import CONSOLE_UID, HOSTD_UID, Home
from casemate.kernel.host import About, Kernel
from casemate.kernel.init import configure_log
from casemate.kernel.inventory import Inventory
from casemate.kernel.logs import Logs
from casemate.kernel.maintenance import Maintenance
from casemate.kernel.measurements import Measurements
from casemate.kernel.pools import Pools, capacity_of
from casemate.kernel.roots import visor_root
from casemate.kernel.server import CallsServer
from casemate.kernel.software import Place
from casemate.kernel.store import Store
from casemate.kernel.stream import FactStream

_PROGRESS = 4
_HOSTD_SECONDS = 150.0
"""Until hostd must have subscribed; an emulated machine on a busy one takes a minute."""
_GUEST_SECONDS = 10.0
"""For one guest to shut down with the host."""
_log = logging.getLogger("kernel")


async def until_stopped(stopping: asyncio.Event, loops: asyncio.Future[Any]) -> None:
    """Wait for the signal to stop.

    A kernel whose audit, say, has ended must not serve on as if it went on: what a part in the
    background raises is raised here, and init starts the kernel anew; the VMs run on.
    """
    told = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait((told, loops), return_when=asyncio.FIRST_COMPLETED)
        if not told.done():
            loops.result()
    finally:
        told.cancel()


async def end(loops: asyncio.Future[Any]) -> None:
    """Cancel what runs in the background, and wait until it has ended."""
    loops.cancel()
    await asyncio.gather(loops, return_exceptions=True)


async def wind_down(kernel: Kernel, maintenance: Maintenance, starter: AutoStarter) -> None:
    """Stop the VMs, those that start with the host in their order."""
    maintenance.stop()
    await starter.shut_down(_GUEST_SECONDS)
    await kernel.stop()


def callers(settings: Settings) -> frozenset[int]:
    """Return the uids that may call: on a machine of its own the direct console as well."""
    return frozenset({0, HOSTD_UID, *((CONSOLE_UID,) if settings.own_machine else ())})


def told_to_stop() -> asyncio.Event:
    """Return what is set when a signal asks to stop."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    return stopping


async def serve(settings: Settings, home: Home) -> None:
    """Serve until TERM; then power the VMs off and return."""
    progress = Progress(_PROGRESS if settings.progress >= 0 else -1)
    stopping = told_to_stop()
    probing = asyncio.ensure_future(asyncio.to_thread(probe_accelerator))
    store, stream = Store(home.database), FactStream()
    hardware = read_hardware(settings.identifier)
    measurements = Measurements(home.boot_record, lambda: open_tpm(settings, home))
    await measurements.start()
    inventory = Inventory(store, stream, home.volumes, hardware.uuid)
    cgroups = detect(settings.identifier)
    accelerator = await probing
    measurements.accelerator = accelerator.name
    accounts = Accounts(store, time.time)
    capacity = capacity_of(hardware.cpu_mhz, hardware.cores, hardware.memory_size, accelerator.name)
    pools = Pools(store, stream, inventory, capacity)
    maintenance, logs = (
        Maintenance(store, stream, lambda: kernel.vms.tasks),
        Logs(store, home.log),
    )
    kernel = Kernel(
        store,
        stream,
        accounts,
        inventory,
        measurements,
        lambda on_exit: Cells(
            home.run,
            visor_root,
            cgroups,
            accelerator,
            on_exit,
            cpu_mhz=hardware.cpu_mhz,
            admission=maintenance.guarded(pools.starting),
            volumes=home.volumes,
        ),
        About(settings.home, settings.api, settings.boot_time),
        time.time,
    )
    host = host_fact(settings, home, hardware, measurements, accelerator)
    stream.publish(replace(host, in_maintenance_mode=maintenance.on))
    for component in measurements.components:
        stream.publish(component)
    inventory.publish_all(capacity.cpu_mhz, capacity.memory >> 20)
    devices = devices_of(kernel, stream)
    scheduler, statistics = resources(kernel, pools, inventory, cgroups, settings.boot_time)
    governed(kernel, Admin(store, stream, accounts, kernel.logins), stream, measurements)
    starter, switching, guests = life_of_vms(
        kernel,
        pools,
        stream,
        network(settings, home, store, stream, inventory, devices, statistics),
    )
    kernel.add(
        {
            **maintenance.handlers(),
            **logs.handlers(),
            **agents(settings, home, measurements, stream),
        }
    )
    watch = hardened(kernel, measurements, accelerator.name, home.path / settings.bank, store)
    place = Place(home, settings.bank, inventory.resolve, time.time)
    plugins = await packages(kernel, place, stream, switching, measurements, *watch)
    files(kernel, inventory, accounts, plugins)
    await kernel.adopt()
    await switching.start(kernel.running())
    pools.publish()
    server = CallsServer(home.calls_socket, callers(settings), stream, kernel.handle)
    await server.start(HOSTD_UID)
    loops = asyncio.gather(
        *(
            part.run()
            for part in (scheduler, statistics, watch[0], guests, switching, plugins, logs)
        )
    )
    try:
        if not measurements.complete:
            await _complete(home, settings, stream, measurements, progress)
            starter.run_boot()
        await until_stopped(stopping, loops)
        _log.info("stopping")
        await wind_down(kernel, maintenance, starter)
    finally:
        await end(loops)
        await server.stop()
        await switching.close(part=stopping.is_set())
        await measurements.close()
        store.close()


async def _complete(
    home: Home,
    settings: Settings,
    stream: FactStream,
    measurements: Measurements,
    progress: Progress,
) -> None:
    """Wait for hostd to listen to the stream, measure Boot Complete, mark the bank as good."""
    progress.tell("services")
    async with asyncio.timeout(_HOSTD_SECONDS):
        await stream.subscribed.wait()
    await measurements.boot_complete()
    write_complete(home, settings.bank)
    firmware = recorded(home)
    if firmware is not None:
        try:
            firmware.keep(settings.bank)
        except CasemateError as error:
            _log.warning("%s", error.reason)
    progress.tell("ready", api=settings.api)
    _log.info("boot complete")


def main() -> int:
    """Run the kernel."""
    configure_log("kernel")
    settings = load_settings(sys.argv[1])
    asyncio.run(serve(settings, settings.home_inside))
    return 0


if __name__ == "__main__":
    sys.exit(main())
