"""Virtual switches in FakeKernel: the real rules, no wires."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from casemate.calls import networks as c
from casemate.calls.messages import Empty
from casemate.errors import CasemateError, NamedError
from casemate.hostd.kernelclient import RefusedError
from casemate.machine.facts import Fact, FaultFact, VmFact
from casemate.machine.nat import Nat
from casemate.machine.networks import FIRST, Networks, PortGroupFact, SwitchFact

NICS = frozenset({"eth7", "eth8", "eth9"})
"""Network cards that may be uplinks."""


class States(Protocol):
    """What the fake switches need of the fake kernel."""

    def state(self, *facts: Fact) -> None:
        """State facts."""

    def retract(self, kind: type, key: str) -> None:
        """State that an object is gone."""

    def machines(self) -> tuple[VmFact, ...]:
        """Return all VMs."""


class FakeNetworks:
    """Answers the requests of ``calls.networks``."""

    def __init__(self, kernel: States) -> None:
        self._kernel = kernel
        self._networks = FIRST

    def answers(self) -> dict[type, Callable[[object], object]]:
        """Return the answer to each request."""
        return dict.fromkeys(c.REQUESTS, self._answer)

    def _answer(self, request: object) -> Empty:
        try:
            after = self._changed(request)
        except CasemateError as error:
            details = (("name", error.name),) if isinstance(error, NamedError) else ()
            if argument := getattr(error, "argument", ""):
                details = (("invalidProperty", str(argument)),)
            fault = FaultFact(error.fault, error.code, error.reason, error.remedy, details)
            raise RefusedError(fault) from error
        before, self._networks = self._networks, after
        for group in set(before.groups) - set(after.groups):
            self._kernel.retract(PortGroupFact, group.key)
        for switch in set(before.switches) - set(after.switches):
            self._kernel.retract(SwitchFact, switch.key)
        for new_switch in after.switches:
            self._kernel.state(new_switch)
        for new_group in after.groups:
            self._kernel.state(new_group)
        return Empty()

    def _changed(self, request: object) -> Networks:
        now = self._networks
        used = {nic.network for vm in self._kernel.machines() for nic in vm.config.nics}
        match request:
            case c.AddSwitch():
                made = SwitchFact(
                    request.name,
                    0,
                    request.ports,
                    request.mtu,
                    request.uplinks,
                    request.security,
                    shaping=request.shaping,
                    teaming=request.teaming,
                )
                return now.with_switch(made, NICS)
            case c.UpdateSwitch() | c.SetNat():
                before = now.switch(getattr(request, "switch", "") or getattr(request, "name", ""))
                given = {
                    name: value
                    for name in ("ports", "mtu", "uplinks", "security", "shaping", "teaming")
                    if (value := getattr(request, name, None)) is not None
                }
                if isinstance(request, c.SetNat):
                    nat = Nat(request.network or "10.1.2.0/24", request.reach_host is True)
                    given = {"nat": nat if request.on else None}
                return now.changed_switch(replace(before, **given), NICS)
            case c.RemoveSwitch():
                return now.without_switch(request.name, used)
            case c.AddPortGroup():
                group = PortGroupFact(
                    request.name,
                    request.switch,
                    request.vlan,
                    request.security,
                    request.shaping,
                    request.teaming,
                )
                return now.with_group(group)
            case c.UpdatePortGroup():
                old = now.group(request.group)
                given = {
                    name: value
                    for name in ("name", "switch", "vlan", "security", "shaping", "teaming")
                    if (value := getattr(request, name)) is not None
                }
                return now.changed_group(request.group, replace(old, **given), used)
            case c.RemovePortGroup():
                return now.without_group(request.name, used)
            case _:
                raise AssertionError(request)
