"""Power operations: on, off and suspend, with what has to be made before a VM can start."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import Final

from casemate.calls import messages as m
from casemate.calls import vms as c
from casemate.errors import CasemateError, HostError, NotSupportedError
from casemate.formats import uefivars
from casemate.formats.vmdk import CreateType
from casemate.kernel.accounts import Session
from casemate.kernel.cells import blocks, disks, memory, scratch
from casemate.kernel.cells.directory import VmDirectory
from casemate.kernel.cells.qmp import Qmp
from casemate.kernel.host import Handler
from casemate.kernel.tasks import Job
from casemate.kernel.vmcontext import SUSPENDED, VmContext, roomy, stem, with_addresses
from casemate.kernel.vmmaking import demand_all_found
from casemate.machine.bootorder import SETUP, forces_setup
from casemate.machine.facts import PowerState, VmConfig, VmFact
from casemate.machine.hotnotes import added, at_start, with_added
from casemate.machine.planfirmware import nvram_name, secure_boot
from casemate.machine.planvtpm import has_vtpm, state_file
from casemate.machine.power import Operation
from casemate.machine.vmconfig import (
    is_template,
    saved_memory,
    saved_scratch,
    with_saved_memory,
)

# Variables of a new UEFI machine in the visor root, without and with Secure Boot's keys.
_UEFI_VARIABLES: Final = {
    False: Path("/usr/share/OVMF/OVMF_VARS_4M.fd"),
    True: Path("/usr/share/OVMF/OVMF_VARS_4M.ms.fd"),
}


class VmPower:
    """Handlers of power operations."""

    def __init__(self, context: VmContext) -> None:
        self._context = context

    def handlers(self) -> dict[type, Handler]:
        """Return the handlers by request."""
        return {
            m.PowerOn: self._power_on,
            m.PowerOff: self._power_off,
            c.SuspendVm: self._suspend,
        }

    async def power_on(self, fact: VmFact) -> None:
        """Start a VM, or wake it up.

        Raises:
            CasemateError: Its files, its configuration, or the host do not let it; it stays off
                or suspended.
        """
        if is_template(fact.config):
            raise NotSupportedError(
                "a template is not powered on",
                component=fact.config.name,
                remedy="Make it a VM again first: MarkAsVirtualMachine.",
            )
        with self._context.open(fact) as directory:
            config = await asyncio.to_thread(_prepared, directory, fact.config)
            if config != fact.config:
                fact = self._context.rewrite(directory, fact, config)
            saved = saved_memory(fact.config)
            if not saved:
                state = await self._context.cells.power_on(
                    fact.vm, fact.config, self._context.inventory.directory(fact)
                )
                self._context.now_running(fact, state)
                await self._context.plug(fact.vm, fact.config)
                return
            handle = directory.open_file(saved)
            try:
                memory.check(handle, saved)
                state = await self._context.cells.power_on(
                    fact.vm, fact.config, directory.path, memory=handle
                )
            finally:
                os.close(handle)
            self._context.now_running(fact, state)
            # From here on the disks change: the memory fits them no more.
            fact = self._context.inventory.vm(fact.vm)
            fact = self._context.forget_memory(directory, fact)
            await self._context.plug(fact.vm, fact.config)

    async def suspend(self, fact: VmFact, job: Job) -> None:
        """Save a running VM's memory and stop it.

        Raises:
            CasemateError: No space, QEMU gave up, or the job was cancelled; the VM runs on.
        """
        name = f"{stem(fact.config)}-{os.urandom(4).hex()}{SUSPENDED}"
        after = with_saved_memory(fact.config, name)
        qmp = await self._context.cells.control(fact.vm, Operation.SUSPEND)
        with self._context.open(fact) as directory:
            handle = directory.open_new(name)
            try:
                report = roomy(directory, name, job.report)
                await memory.save(qmp, handle, len(added(fact.config).memory), report)
                await asyncio.to_thread(os.fsync, handle)
                for layer, kept in saved_scratch(after).items():
                    await self._keep(directory, qmp, fact, layer, kept)
                self._context.rewrite(directory, fact, after)
            except BaseException:
                for made in (name, *saved_scratch(after).values()):
                    directory.remove(made)
                await qmp.execute("cont")
                raise
            finally:
                os.close(handle)
        await self._context.cells.power_off(fact.vm)

    async def _keep(
        self, directory: VmDirectory, qmp: Qmp, fact: VmFact, layer: str, name: str
    ) -> None:
        """Keep what was written to a disk that forgets, above which ``layer`` is."""
        descriptor = await blocks.descriptor_of(qmp, layer)
        if descriptor is None or not fact.pid:
            raise HostError(f"QEMU does not know {layer}", code="scratch-foreign", component=name)
        await asyncio.to_thread(scratch.keep, directory, fact.pid, descriptor, name)

    async def power_off(self, fact: VmFact) -> None:
        """Stop a VM at once; a suspended one forgets its memory."""
        if fact.power is PowerState.SUSPENDED:
            with self._context.open(fact) as directory:
                self._context.forget_memory(directory, fact)
            return
        await self._context.cells.power_off(fact.vm)

    async def _power_on(self, request: m.PowerOn, session: Session) -> m.TaskReply:
        fact = self._context.demand(request.vm, Operation.POWER_ON)

        async def work(fact: VmFact) -> str:
            await self.power_on(fact)
            return ""

        return self._context.start(fact, Operation.POWER_ON, session, work)

    async def _power_off(self, request: m.PowerOff, session: Session) -> m.TaskReply:
        fact = self._context.demand(request.vm, Operation.POWER_OFF)

        async def work(fact: VmFact) -> str:
            await self.power_off(fact)
            return ""

        return self._context.start(fact, Operation.POWER_OFF, session, work)

    async def _suspend(self, request: c.SuspendVm, session: Session) -> m.TaskReply:
        fact = self._context.demand(request.vm, Operation.SUSPEND)

        async def work(fact: VmFact, job: Job) -> str:
            await self.suspend(fact, job)
            return ""

        return self._context.start_long(fact, Operation.SUSPEND, session, work)


def _prepared(directory: VmDirectory, config: VmConfig) -> VmConfig:
    """Make what a VM lacks to start.

    UEFI variables, a TPM, deltas above disks that are frozen, addresses of its network cards: a
    file of somebody else's may name none, and no two cards may have one.

    Raises:
        FileMissingError: A disk or disc is not there.
        CasemateError: Something cannot be made, or is not in order.
    """
    demand_all_found(directory, config)
    if config.firmware == "efi" and not directory.exists(nvram_name(config)):
        directory.make(nvram_name(config), [(0, _variables(config))])
    if not saved_memory(config):
        config = with_added(config, at_start(len(config.nics)))
    extra = {name.lower(): value for name, value in config.extra}
    if forces_setup(extra):
        config = _to_setup(directory, config)
    if has_vtpm(config) and not directory.exists(state_file(config)):
        directory.make(state_file(config), ())
    specs = tuple(
        replace(disk, file_name=directory.make_delta(disk))
        if _is_frozen(directory, disk.file_name)
        else disk
        for disk in config.disks
    )
    return replace(config, disks=specs, nics=with_addresses(config, config))


def _to_setup(directory: VmDirectory, config: VmConfig) -> VmConfig:
    """Send the next start of a UEFI machine into its firmware's setup, once."""
    if config.firmware != "efi":
        raise NotSupportedError(
            "the BIOS of VMs has no setup",
            component=config.name,
            remedy=f"Remove {SETUP}; bios.bootDelay offers its menu.",
        )
    name = nvram_name(config)
    image = directory.read(name, uefivars.SIZE_LIMIT)
    wanted = uefivars.BOOT_TO_SETUP.to_bytes(8, "little")
    made = uefivars.with_variable(image, uefivars.OS_INDICATIONS, uefivars.GLOBAL, wanted)
    directory.write(name, made)
    extra = tuple(entry for entry in config.extra if entry[0].lower() != SETUP.lower())
    return replace(config, extra=extra)


def _variables(config: VmConfig) -> bytes:
    extra = {name.lower(): value for name, value in config.extra}
    path = _UEFI_VARIABLES[secure_boot(extra)]
    try:
        return path.read_bytes()
    except OSError as error:
        raise HostError(
            f"this host has no UEFI firmware: {error.strerror}",
            code="firmware-missing",
            component=config.name,
            remedy="Build the image with the Debian package ovmf installed.",
        ) from error


def _is_frozen(directory: VmDirectory, name: str) -> bool:
    """Tell whether a disk is one that can be read only: it is written to a delta."""
    if not name.lower().endswith(".vmdk"):
        return False
    try:
        return disks.describe(directory, name).create_type is CreateType.STREAM_OPTIMIZED
    except CasemateError:
        return False
