"""The host's virtual switches: kept in the store, told as facts, and wired as planned.

The cards of running VMs are known here from their start to their end, so that every change of a
switch, a port group or a card is one new plan and one look at what differs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final

from casemate.calls.messages import Empty
from casemate.errors import CasemateError, Finding, HostError, InUseError
from casemate.kernel.inventory import Inventory
from casemate.kernel.natting import Natting
from casemate.kernel.networkchanges import tell_networks
from casemate.kernel.networkrequests import NetworkRequests, Request
from casemate.kernel.networkstore import keep_networks, load_networks
from casemate.kernel.store import Store
from casemate.kernel.stream import FactStream
from casemate.kernel.teaming import Teaming
from casemate.kernel.wires import Wires
from casemate.machine.facts import VmConfig
from casemate.machine.hotnotes import card_numbers
from casemate.machine.networkplan import Card, needs_tags
from casemate.machine.networks import AddressFact, Networks
from casemate.machine.wiring import plan_network

LOOK_SECONDS: Final = 10.0
"""Between two looks at what the machine's own network has become."""
_log = logging.getLogger(__name__)


class Switching:
    """All switches, port groups and connected cards.

    ``nics``: the host's that may be uplinks; ``natting`` gives addresses to those behind NAT.
    """

    def __init__(
        self,
        store: Store,
        stream: FactStream,
        inventory: Inventory,
        wires: Wires,
        nics: Callable[[], frozenset[str]],
        natting: Natting,
    ) -> None:
        self._natting = natting
        self._store = store
        self._stream = stream
        self._inventory = inventory
        self._wires = wires
        self._team = Teaming(wires, stream)
        self._nics = nics
        self._networks = load_networks(store)
        self._cards: dict[str, tuple[Card, ...]] = {}
        self._changing = asyncio.Lock()
        self._lives: dict[str, object] = {}
        self._jobs: set[asyncio.Task[None]] = set()
        self._lost: HostError | None = None
        self._nat_lost: HostError | None = None
        self._own: frozenset[str] = frozenset()
        self._addresses: frozenset[AddressFact] = frozenset()
        self._followers: list[Callable[[str], Awaitable[None]]] = []
        self._begun = False
        self._drivers: Callable[[], frozenset[str]] = frozenset
        tell_networks(stream, Networks(), self._networks)

    @property
    def networks(self) -> Networks:
        """The switches and port groups as they are."""
        return self._networks

    def handlers(self) -> dict[type, Request]:
        """Return what answers which request."""
        return NetworkRequests(
            self._change, self._free, self._used, self._natting, self._wires
        ).handlers()

    def live(self, config: VmConfig) -> tuple[bool, ...]:
        """Tell which cards are connected when the VM runs."""
        return tuple(
            nic.connected and self._lost is None and self._networks.has(nic.network)
            for nic in config.nics
        )

    def follow(self, changed: Callable[[str], Awaitable[None]]) -> None:
        """Tell this which running VM has a card whose port group has come."""
        self._followers.append(changed)

    def accept(self, drivers: Callable[[], frozenset[str]]) -> None:
        """Let interfaces be uplinks that plug-ins serve."""
        self._drivers = drivers

    async def open_uplink(self, name: str) -> int:
        """Make an interface that may be an uplink, and return its descriptor. Raises HostError."""
        return await self._wires.open_tap(name, header=False)

    def renew(self) -> None:
        """Wire everything again: a plug-in made its interface anew."""
        if self._begun and self._lost is None:
            self._later()

    def findings(self) -> tuple[Finding, ...]:
        """Return why there is no network, where there is none."""
        lost = tuple(error.finding() for error in (self._lost, self._nat_lost) if error)
        return lost + self._natting.findings() + self._team.findings(self._networks)

    async def start(self, running: Mapping[str, VmConfig]) -> None:
        """Wire what there is; ``running``: the VMs that a former kernel started.

        A host that cannot have bridges runs its VMs with their cards unplugged, and says so.
        """
        self._cards = {vm: _cards(vm, config) for vm, config in running.items()}
        self._begun = True
        try:
            await self._look()
            await self._wire(self._networks)
        except HostError as error:
            self._lost = HostError(
                f"VMs have no network: {error.reason}",
                code="network-lost",
                component=error.component or "network",
                remedy=error.remedy,
            )
            _log.error("%s", self._lost.reason)

    async def _look(self) -> None:
        """Find out which addresses the machine itself has now."""
        self._own = await self._wires.occupied()
        found = frozenset(await self._wires.addresses())
        for address in found:
            self._stream.publish(address)
        for key in {gone.key for gone in self._addresses} - {kept.key for kept in found}:
            self._stream.retract(AddressFact, key)
        self._addresses = found

    async def run(self) -> None:
        """Follow the links of teams; look at the machine's addresses and NAT now and then."""
        await asyncio.gather(self._team.follow(self._fail_over), self._mend())

    async def _mend(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                async with self._changing:
                    if self._lost is None:
                        await self._look()
                    if self._networks.with_nat():
                        await self._wire(self._networks)
                await self._fail_over()
            except CasemateError as error:
                _log.warning("%s", error.reason)

    async def _fail_over(self) -> None:
        """Bind cards to other uplinks where links have come or gone. Raises HostError."""
        async with self._changing:
            if self._lost is None and await self._team.look(self._networks):
                await self._wire(self._networks)

    async def close(self, *, part: bool = False) -> None:
        """Let go of the wires, which stay as they are; ``part``: but for what the machine has."""
        if self._jobs:
            await asyncio.wait(tuple(self._jobs))
        self._team.close()
        await self._natting.close()
        if part:
            try:
                await self._wires.part()
            except CasemateError as error:
                _log.warning("%s", error.reason)
        await self._wires.close()

    @contextlib.asynccontextmanager
    async def connect(self, vm: str, config: VmConfig) -> AsyncIterator[Mapping[int, int]]:
        """Give the interfaces of a VM's cards, by number, for as long as it takes to start it.

        Raises:
            InUseError: Another running VM has the address of one of its cards.
            HostError: An interface cannot be made.
        """
        if self._lost is not None or not config.nics:
            yield {}
            return
        cards = _cards(vm, config)
        taps: dict[int, int] = {}
        try:
            async with self._changing:
                self._check_addresses(vm, cards)
                for card in cards:
                    taps[card.number] = await self._wires.open_tap(card.tap)
                self._cards[vm] = cards
                await self._wire(self._networks)
            yield taps
        except BaseException:
            self._cards.pop(vm, None)
            self._later()
            raise
        finally:
            for tap in taps.values():
                os.close(tap)

    @contextlib.asynccontextmanager
    async def more(self, vm: str, config: VmConfig) -> AsyncIterator[Mapping[int, int]]:
        """Give the interfaces of the cards that come to a running VM, by number.

        Raises:
            InUseError: Another running VM has the address of one of them.
            HostError: An interface cannot be made.
        """
        before, cards = self._cards.get(vm, ()), _cards(vm, config)
        new = cards[len(before) :]
        if self._lost is not None or not new:
            yield {}
            return
        life = self._lives.setdefault(vm, object())
        taps: dict[int, int] = {}
        try:
            async with self._changing:
                self._check_addresses(vm, cards)
                for card in new:
                    taps[card.number] = await self._wires.open_tap(card.tap)
                self._cards[vm] = cards
                await self._wire(self._networks)
            yield taps
        except BaseException:
            if self._lives.get(vm) is life:
                self._cards[vm] = before
            else:
                # It has ended meanwhile, and has no cards any more.
                self._cards.pop(vm, None)
            self._later()
            raise
        finally:
            for tap in taps.values():
                os.close(tap)

    async def changed(self, vm: str, config: VmConfig) -> None:
        """Connect the cards of a running VM as its configuration says now. Raises HostError."""
        async with self._changing:
            if vm not in self._cards:
                return
            before, cards = self._cards[vm], _cards(vm, config)
            self._check_addresses(vm, cards)
            self._cards[vm] = cards
            try:
                await self._wire(self._networks)
            except BaseException:
                if vm in self._cards:
                    self._cards[vm] = before
                raise

    def ended(self, vm: str) -> None:
        """Take note that a VM runs no more."""
        self._lives.pop(vm, None)
        if self._cards.pop(vm, None) is not None:
            self._later()

    def _later(self) -> None:
        """Clean up after a VM, beside everything else."""

        async def clean() -> None:
            async with self._changing:
                await self._wire(self._networks)

        self._beside(clean())

    def _beside(self, *works: Awaitable[None]) -> None:
        """Do something beside everything else; where it fails, the log says so."""

        async def whole(work: Awaitable[None]) -> None:
            try:
                await work
            except CasemateError as error:
                _log.warning("%s", error.reason)

        for work in works:
            job = asyncio.ensure_future(whole(work))
            self._jobs.add(job)
            job.add_done_callback(self._jobs.discard)

    def _check_addresses(self, vm: str, cards: tuple[Card, ...]) -> None:
        taken = {c.mac: c.vm for all_of in self._cards.values() for c in all_of if c.vm != vm}
        for card in cards:
            if card.mac in taken:
                raise InUseError(
                    f"the running VM {taken[card.mac]} has the address {card.mac} too",
                    name=card.mac,
                )

    def _free(self) -> frozenset[str]:
        """Return the network cards by which nobody reaches the host itself."""
        return (self._nics() | self._drivers()) - self._own

    def _used(self) -> frozenset[str]:
        """Return the port groups that registered VMs have cards in."""
        return frozenset(nic.network for vm in self._inventory.vms() for nic in vm.config.nics)

    async def _change(self, change: Callable[[Networks], Networks]) -> Empty:
        """Wire a changed host, then keep the change; a host that cannot be so stays as it was."""
        async with self._changing:
            before = self._networks
            if self._lost is None:
                # A card may have got an address since the host started.
                await self._look()
            after = change(before)
            if self._lost is not None:
                raise self._lost
            if needs_tags(after) and not await self._wires.can_tag():
                raise HostError(
                    "this Linux does not know VLAN tags, which an uplink or VLAN 4095 needs",
                    code="vlan-tags",
                    component="8021q",
                    remedy="Load the Linux driver 8021q, or use VLANs without an uplink.",
                )
            try:
                await self._wire(after, strict=after.with_nat() != before.with_nat())
                keep_networks(self._store, after)
            except BaseException:
                with contextlib.suppress(CasemateError):
                    await self._wire(before)
                raise
            self._networks = after
            tell_networks(self._stream, before, after)
            for vm, cards in self._cards.items():
                if any(after.has(card.group) != before.has(card.group) for card in cards):
                    self._beside(*(changed(vm) for changed in self._followers))
        return Empty()

    async def _wire(self, networks: Networks, *, strict: bool = False) -> None:
        """Wire a host; where NAT alone cannot be had it is left out, unless ``strict``."""
        cards = [card for cards in self._cards.values() for card in cards]
        await self._team.look(networks)
        given, state = self._natting.give(networks, cards), self._team.state
        plan = plan_network(networks, cards, given, state)
        try:
            await self._natting.listen(plan.routers)
            await self._wires.apply(plan)
        except HostError as error:
            if strict or not plan.routers:
                raise
            plan = plan_network(networks.without_nat(), cards, state=state)
            await self._natting.listen(())
            await self._wires.apply(plan)
            if self._nat_lost is None:
                _log.error("NAT: %s", error.reason)
            self._nat_lost = HostError(
                f"guests have no NAT: {error.reason}",
                code="nat-lost",
                component=error.component or "network",
                remedy=error.remedy,
            )
        else:
            self._nat_lost = None
        await self._natting.tell(plan.routers)
        await self._team.tell(plan)


def _cards(vm: str, config: VmConfig) -> tuple[Card, ...]:
    return tuple(
        Card(vm, number, nic.mac, nic.network, nic.connected)
        for number, nic in zip(card_numbers(config), config.nics, strict=True)
    )
