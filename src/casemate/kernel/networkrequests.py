"""What requests for switches and port groups ask for, as changes of the host's networks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from casemate.calls import networks as c
from casemate.calls.messages import Empty
from casemate.kernel.accounts import Session
from casemate.kernel.natting import Natting
from casemate.kernel.networkchanges import (
    changed_group,
    changed_switch,
    made_group,
    made_switch,
)
from casemate.kernel.wires import Wires
from casemate.machine.networks import Networks

Request = Callable[..., Awaitable[object]]
Change = Callable[[Networks], Networks]


class NetworkRequests:
    """Answers requests by a ``change``, which is wired and kept or fails as a whole.

    ``free``: network cards that may be uplinks; ``used``: port groups of registered VMs' cards.
    """

    def __init__(
        self,
        change: Callable[[Change], Awaitable[Empty]],
        free: Callable[[], frozenset[str]],
        used: Callable[[], frozenset[str]],
        natting: Natting,
        wires: Wires,
    ) -> None:
        self._change, self._free, self._used = change, free, used
        self._natting, self._wires = natting, wires

    def handlers(self) -> dict[type, Request]:
        """Return what answers which request."""
        return {
            c.AddSwitch: self._add_switch,
            c.UpdateSwitch: self._update_switch,
            c.RemoveSwitch: self._remove_switch,
            c.SetNat: self._set_nat,
            c.AddPortGroup: self._add_group,
            c.UpdatePortGroup: self._update_group,
            c.RemovePortGroup: self._remove_group,
        }

    async def _add_switch(self, request: c.AddSwitch, _: Session) -> Empty:
        switch = made_switch(request)
        return await self._change(lambda now: now.with_switch(switch, self._free()))

    async def _update_switch(self, request: c.UpdateSwitch, _: Session) -> Empty:
        def change(now: Networks) -> Networks:
            switch = changed_switch(now.switch(request.name), request)
            return now.changed_switch(switch, self._free())

        return await self._change(change)

    async def _remove_switch(self, request: c.RemoveSwitch, _: Session) -> Empty:
        return await self._change(lambda now: now.without_switch(request.name, self._used()))

    async def _set_nat(self, request: c.SetNat, _: Session) -> Empty:
        taken = await self._wires.networks() if request.on else frozenset()

        def change(now: Networks) -> Networks:
            before = now.switch(request.switch)
            nat = self._natting.wanted(before, request, now, taken) if request.on else None
            return now.changed_switch(replace(before, nat=nat), self._free())

        return await self._change(change)

    async def _add_group(self, request: c.AddPortGroup, _: Session) -> Empty:
        return await self._change(lambda now: now.with_group(made_group(request)))

    async def _update_group(self, request: c.UpdatePortGroup, _: Session) -> Empty:
        def change(now: Networks) -> Networks:
            group = changed_group(now.group(request.group), request)
            return now.changed_group(request.group, group, self._used())

        return await self._change(change)

    async def _remove_group(self, request: c.RemovePortGroup, _: Session) -> Empty:
        return await self._change(lambda now: now.without_group(request.name, self._used()))
