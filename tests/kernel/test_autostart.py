"""VMs that start and stop with the host, with real cells."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from casemate.calls import autostart as c
from casemate.errors import ArgumentError, NotFoundError
from casemate.kernel.autostart import AutoStarter
from casemate.machine.autostart import AutoStartDefaults, AutoStartEntry
from casemate.machine.facts import PowerState, TaskFact
from casemate.machine.power import Operation

from .vmbench import Host, make

pytestmark = pytest.mark.host


def test_vms_start_one_after_the_other_and_stop_in_reverse_whatever_fails_between(on):
    async def body(host: Host) -> None:
        waited: list[float] = []

        async def wait(seconds: float) -> None:
            waited.append(seconds)
            await asyncio.sleep(0.01)

        names = ("one", "two", "three")
        vms = [await make(host, name) for name in names]
        starter = AutoStarter(host.context, host.power, host.stream, wait)
        host.handlers |= starter.handlers()
        entries = (
            AutoStartEntry(vms[0], 3, 30, "powerOn", stop_action="guestShutdown", stop_delay=1),
            AutoStartEntry(vms[1], 2, start_action="powerOn"),
            AutoStartEntry(vms[2], 1, 10, "powerOn", stop_action="suspend"),
        )
        (host.datastore / "two" / "two-flat.vmdk").unlink()
        defaults = AutoStartDefaults(enabled=False, start_delay=20)
        await host.ask(c.SetAutoStart("", defaults, entries))
        with pytest.raises(NotFoundError):
            await host.ask(c.SetAutoStart("", None, (AutoStartEntry("99"),)))
        with pytest.raises(ArgumentError):
            await host.ask(c.SetAutoStart("", None, (replace(entries[0], order=-7),)))
        await starter.boot()
        assert not host.cells.running()
        # A new kernel knows it still.
        starter = AutoStarter(host.context, host.power, host.stream, wait)
        host.handlers |= starter.handlers()
        await host.ask(c.SetAutoStart("", replace(defaults, enabled=True)))
        await starter.boot()
        assert [state.vm for state in host.cells.running()] == [vms[2], vms[0]]
        assert waited == [10, 30]
        await starter.boot()
        assert waited == [10, 30]
        await starter.shut_down(1.0)
        powers = [host.vm(vm).power for vm in vms]
        off, suspended = PowerState.POWERED_OFF, PowerState.SUSPENDED
        assert powers == [off, off, suspended]

    on(body)


def test_a_start_that_is_no_longer_waited_for_is_told_as_it_ended(on):
    async def body(host: Host) -> None:
        vm = await make(host)
        starter = AutoStarter(host.context, host.power, host.stream)
        host.handlers |= starter.handlers()
        on_boot = (AutoStartEntry(vm, 1, start_action="powerOn"),)
        await host.ask(c.SetAutoStart("", AutoStartDefaults(enabled=True), on_boot))
        starter.run_boot()
        await asyncio.sleep(0)
        tasks = [one for one in host.stream.facts() if isinstance(one, TaskFact)]
        (started,) = [one for one in tasks if one.operation == Operation.POWER_ON]
        await starter.close()
        await host.ended(started.task)
        assert host.vm(vm).power is PowerState.POWERED_ON
        await host.cells.power_off(vm)

    on(body)
