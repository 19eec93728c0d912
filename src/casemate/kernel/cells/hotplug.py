"""Changes the hardware of a running cell: disks and cards come and go, vCPUs come."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from casemate.errors import HostError, PowerStateError, TimedOutError
from casemate.kernel.cells import blocks, disks, jail
from casemate.kernel.cells.directory import VmDirectory
from casemate.kernel.cells.memory import modules
from casemate.kernel.cells.qmp import Qmp
from casemate.machine.cellplan import PassedFile
from casemate.machine.facts import DiskSpec, DriveSpec, PowerState, VmConfig
from casemate.machine.hotnotes import added, card_numbers, memory_id, module_id, port_of
from casemate.machine.hotplug import Held, HotChange
from casemate.machine.plancards import card_device, card_id, netdev
from casemate.machine.planstorage import (
    FIRST_FD,
    DiskSource,
    block_node,
    controller_device,
    device_id,
    hot_device,
    is_read_only,
    node_name,
)

# Seconds for QEMU to let go of a disk whose device is gone, and between tries.
_LET_GO: Final = 5.0
CONSENT: Final = 20.0
"""Seconds for a guest to let go of a card or controller: Linux takes one, a busy one more."""
_PAUSE: Final = 0.05
# A guest that closes its drive while the disc is changed does so once or twice.
_TRAY_TRIES: Final = 3


class Hotplug:
    """The hardware of one running cell. ``volumes`` holds the datastores."""

    def __init__(self, qmp: Qmp, directory: VmDirectory, volumes: Path | None) -> None:
        self._qmp = qmp
        self._directory = directory
        self._volumes = volumes

    async def apply(self, change: HotChange, config: VmConfig, taps: Mapping[int, int]) -> None:
        """Make the change, or none of it.

        Args:
            change: What comes and goes.
            config: What the VM is made of then, with a note of it.
            taps: Open interfaces of the cards that come, by number.

        Raises:
            CasemateError: QEMU refuses, or a file is not in order; what was done is undone.
        """
        # vCPUs are never taken out again, so all else that can be refused comes before them.
        await self._free_slots(change.cpus)
        async with contextlib.AsyncExitStack() as undo:
            for was, now in change.swapped:
                await self.swap(was, now)
                undo.push_async_callback(self.swap, now, was)
            for name in change.controllers:
                await self.add_controller(name, config)
                undo.push_async_callback(self._unplug, name)
            for number in change.cards:
                await self.add_card(number, config, taps.get(number))
                undo.push_async_callback(self.remove_card, number)
            for disk in change.added:
                await self.add(disk)
                undo.push_async_callback(self.remove, disk)
            await self.add_memory(change.memory_mib)
            await self.add_cpus(change.cpus)
            for disk in change.removed:
                await self.remove(disk)
                undo.push_async_callback(self.add, disk)
            for name in change.unplugged:
                await self.release(name, f"SCSI controller {name}", name)
            if change.card_gone is not None:
                await self.release_card(change.card_gone)
            undo.pop_all()

    async def add(self, disk: DiskSpec) -> None:
        """Attach a disk."""
        source = await self._open(disk)
        try:
            await self._qmp.execute("device_add", **hot_device(source))
        except BaseException:
            await self._close(source)
            raise

    async def add_controller(self, name: str, config: VmConfig) -> None:
        """Add a SCSI controller, at the port that the note in the configuration says."""
        extra = {key.lower(): value for key, value in config.extra}
        port = port_of(name, added(config))
        await self._qmp.execute(
            "device_add", driver=controller_device(name, extra), id=name, bus=port
        )

    async def add_card(self, number: int, config: VmConfig, tap: int | None) -> None:
        """Add a network card on an open interface, or on none."""
        nic, net = config.nics[card_numbers(config).index(number)], netdev(number)
        if tap is None:
            await self._qmp.execute("netdev_add", type="hubport", id=net, hubid=number)
        else:
            await self._qmp.execute_with(tap, "getfd", fdname=net)
            await self._qmp.execute("netdev_add", type="tap", id=net, fd=net)
        card = {"driver": card_device(nic), "id": card_id(number), "netdev": net, "romfile": ""}
        port = port_of(f"ethernet{number}", added(config))
        try:
            await self._qmp.execute("device_add", **card, mac=nic.mac, bus=port)
        except BaseException:
            await self._qmp.execute("netdev_del", id=net)
            raise

    async def remove_card(self, number: int) -> None:
        """Take a network card back that came just now."""
        await self._unplug(card_id(number))
        await self._qmp.execute("netdev_del", id=netdev(number))

    async def release_card(self, number: int) -> None:
        """Take a network card from its guest, which has to let go of it.

        Raises:
            TimedOutError: The guest does not; the card stays until it does.
            HostError: QEMU cannot be asked.
        """
        await self.release(card_id(number), f"network card {number}", f"ethernet{number}")
        await self._qmp.execute("netdev_del", id=netdev(number))

    async def release(self, device: str, what: str, component: str) -> None:
        """Take a device out of its port, which its guest has to let go of.

        Raises:
            TimedOutError: The guest does not; the device stays until it does.
            HostError: QEMU cannot be asked.
        """
        # QEMU refuses to ask a guest that it has asked already; whether it goes then counts.
        with contextlib.suppress(HostError):
            await self._qmp.execute("device_del", id=device)
        for _ in range(int(CONSENT / _PAUSE)):
            if device not in await self._devices():
                return
            await asyncio.sleep(_PAUSE)
        raise TimedOutError(
            f"the guest does not let go of {what}, which stays",
            code="card-held",
            component=component,
            remedy="Let the guest's system end its use, or power the VM off; then try again.",
        )

    async def _devices(self) -> set[str]:
        """Return QEMU's names of the devices that have one."""
        answer = await self._qmp.execute("qom-list", path="/machine/peripheral")
        found = [one for one in answer if isinstance(one, dict)] if isinstance(answer, list) else []
        return {str(one.get("name")) for one in found}

    async def _unplug(self, device: str) -> None:
        """Take a device out of its port; a guest that has not noticed it yet cannot hold it."""
        await self._qmp.execute("device_del", id=device)

    async def remove(self, disk: DiskSpec) -> None:
        """Detach a disk; what the guest has in its caches is lost, as when a cable is pulled."""
        source = disks.resolve(self._directory, (disk,))[0]
        await self._qmp.execute("device_del", id=device_id(disk))
        await self._close(source)

    async def swap(self, was: Held, now: Held) -> None:
        """Put another disc into a CD drive, or take it out; the guest sees that it was changed.

        Raises:
            CasemateError: The image is not in order, or QEMU refuses; the old disc is in then.
        """
        old = self._resolved(was)
        new = await self._open(now) if isinstance(now, DiskSpec) else None
        drive = device_id(now)
        try:
            await self._load(drive, new)
        except BaseException:
            with contextlib.suppress(HostError):
                await self._load(drive, old)
            if new is not None:
                await self._close(new)
            raise
        if old is not None:
            await self._close(old)

    async def _load(self, drive: str, disc: DiskSource | None) -> None:
        """Exchange what is in a drive, whether its guest has locked it or closes it again."""
        for left in reversed(range(_TRAY_TRIES)):
            try:
                await self._qmp.execute("blockdev-open-tray", id=drive, force=True)
                await self._qmp.execute("blockdev-remove-medium", id=drive)
                if disc is not None:
                    node = {"node-name": node_name(disc.file_name)}
                    await self._qmp.execute("blockdev-insert-medium", id=drive, **node)
            except HostError:
                # The guest may have closed the tray in between.
                if not left:
                    raise
                await asyncio.sleep(_PAUSE)
            else:
                await self._qmp.execute("blockdev-close-tray", id=drive)
                return

    def _resolved(self, held: Held) -> DiskSource | None:
        if isinstance(held, DriveSpec):
            return None
        return disks.resolve(self._directory, (held,))[0]

    async def add_cpus(self, count: int) -> None:
        """Add vCPUs, the next ones of the board.

        Raises:
            PowerStateError: The VM was not started with room for them.
        """
        for number, slot in await self._free_slots(count):
            props = slot.get("props")
            where = props if isinstance(props, dict) else {}
            await self._qmp.execute(
                "device_add", driver=slot.get("type"), id=f"cpu-{number}", **where
            )

    async def _free_slots(self, count: int) -> list[tuple[int, dict[str, object]]]:
        """Return the next free places for vCPUs, numbered. Raises PowerStateError."""
        if not count:
            return []
        answer = await self._qmp.execute("query-hotpluggable-cpus")
        slots = [one for one in answer if isinstance(one, dict)] if isinstance(answer, list) else []
        free = [one for one in slots if "qom-path" not in one]
        if len(free) < count:
            raise PowerStateError(
                "the VM was not started with room for more vCPUs",
                requested=PowerState.POWERED_OFF,
                existing=PowerState.POWERED_ON,
            )
        # QEMU names the last one first.
        return list(enumerate(reversed(free), len(slots) - len(free)))[:count]

    async def add_memory(self, mib: int) -> None:
        """Put another module of memory in.

        Raises:
            PowerStateError: The VM was not started with sockets for it, or all are taken.
        """
        if not mib:
            return
        number = await modules(self._qmp)
        backend, size = memory_id(number), mib << 20
        more = {"qom-type": "memory-backend-ram", "id": backend, "size": size}
        await self._qmp.execute("object-add", **more, dump=False, merge=False)
        try:
            module = {"driver": "pc-dimm", "id": module_id(number), "memdev": backend}
            await self._qmp.execute("device_add", **module)
        except HostError as error:
            await self._qmp.execute("object-del", id=backend)
            raise PowerStateError(
                "the VM has no socket for more memory until it is powered off",
                requested=PowerState.POWERED_OFF,
                existing=PowerState.POWERED_ON,
            ) from error

    async def _open(self, disk: DiskSpec) -> DiskSource:
        """Hand a disk with all its layers over to QEMU."""
        source = disks.resolve(self._directory, (disk,))[0]
        fds: dict[str, int] = {}
        try:
            for layer in source.layers:
                passed = PassedFile(
                    fd=-1,
                    file_name=layer.file_name,
                    writable=layer is source and not is_read_only(layer),
                    minimum_size=layer.offset + layer.size if layer.format == "raw" else 0,
                )
                handle = jail.open_disk(self._directory.fd, self._volumes, passed)
                try:
                    number = await blocks.hand_over(self._qmp, handle, layer.file_name)
                finally:
                    os.close(handle)
                fds[layer.file_name] = FIRST_FD + number
            await self._qmp.execute("blockdev-add", **block_node(source, fds))
        except BaseException:
            await self._forget(fds)
            raise
        return source

    async def _close(self, source: DiskSource) -> None:
        """Let QEMU close a disk, once its device has let go of it."""
        node = {"node-name": node_name(source.file_name)}
        for _ in range(int(_LET_GO / _PAUSE)):
            try:
                await self._qmp.execute("blockdev-del", **node)
            except HostError:
                await asyncio.sleep(_PAUSE)
            else:
                break
        await self._forget([layer.file_name for layer in source.layers])

    async def _forget(self, names: dict[str, int] | list[str]) -> None:
        for name in names:
            with contextlib.suppress(HostError):
                await blocks.take_back(self._qmp, name)
