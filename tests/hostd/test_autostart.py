"""Automatic start over SOAP."""

from __future__ import annotations

from casemate.calls.autostart import SetAutoStart
from casemate.machine.autostart import AutoStartDefaults, AutoStartEntry
from casemate.vim25.values import MoRef

MANAGER = MoRef("HostAutoStartManager", "ha-autostart-mgr")
VM = MoRef("VirtualMachine", "1")
INFO = (
    '<powerInfo><key type="VirtualMachine">{}</key><startOrder>1</startOrder>'
    "<startDelay>10</startDelay><waitForHeartbeat>no</waitForHeartbeat>"
    "<startAction>PowerOn</startAction><stopDelay>-1</stopDelay>"
    "<stopAction>{}</stopAction></powerInfo>"
)


def test_vms_that_start_with_the_host_are_set_and_shown(play) -> None:
    async def story(host) -> None:
        defaults = "<defaults><enabled>true</enabled><startDelay>7</startDelay></defaults>"
        spec = f"<spec>{defaults}{INFO.format('1', 'GuestShutdown')}</spec>"
        assert (await host.root.call("ReconfigureAutostart", MANAGER, spec)).status == 200
        asked = host.kernel.asked[-1]
        assert isinstance(asked, SetAutoStart)
        assert asked.defaults == AutoStartDefaults(enabled=True, start_delay=7)
        entry = AutoStartEntry("1", 1, 10, "powerOn", "no", -1, "guestShutdown")
        assert asked.entries == (entry,)
        shown = await host.root.call("Fetch", MANAGER, "<prop>config</prop>")
        for part in (
            "<enabled>true</enabled>",
            "<startDelay>7</startDelay>",
            '<key type="VirtualMachine">1</key>',
            "<stopAction>guestShutdown</stopAction>",
        ):
            assert part in shown.text
        for method in ("AutoStartPowerOn", "AutoStartPowerOff"):
            assert (await host.root.call(method, MANAGER)).status == 200
            assert (await host.reader.call(method, MANAGER)).fault == "NoPermission"
        unknown = f"<spec>{INFO.format('99', 'none')}</spec>"
        reply = await host.root.call("ReconfigureAutostart", MANAGER, unknown)
        assert reply.fault == "ManagedObjectNotFound"

    play(story)
