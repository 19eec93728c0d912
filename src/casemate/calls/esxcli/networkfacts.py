"""What the kernel says of networks, for those who list them."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass

from casemate.calls.esxcli.tree import ask
from casemate.calls.messages import Snapshot, SnapshotReply
from casemate.machine.facts import Fact, NicSpec, PowerState, VmFact
from casemate.machine.hardware import HardwareFact, HostNic, linked
from casemate.machine.hotnotes import card_numbers
from casemate.machine.networks import Networks, PortGroupFact, SwitchFact
from casemate.machine.teaming import ALL_UP, LinkState, UplinksFact, bound, port_number


@dataclass(frozen=True, slots=True)
class Present:
    """What the kernel says of networks now."""

    networks: Networks
    vms: tuple[VmFact, ...]
    nics: tuple[HostNic, ...]
    links: LinkState = ALL_UP

    @classmethod
    def of(cls, facts: Iterable[Fact]) -> Present:
        """Return the part of the facts that is about networks."""
        known = tuple(facts)
        networks = Networks(
            tuple(fact for fact in known if isinstance(fact, SwitchFact)),
            tuple(fact for fact in known if isinstance(fact, PortGroupFact)),
        )
        nics = tuple(nic for fact in known if isinstance(fact, HardwareFact) for nic in fact.nics)
        told = next((fact for fact in known if isinstance(fact, UplinksFact)), None)
        return cls(
            networks,
            tuple(fact for fact in known if isinstance(fact, VmFact)),
            nics if told is None else linked(nics, networks.teams(), told.down),
            ALL_UP if told is None else told.state,
        )

    def uplink(self, vm: VmFact, number: int) -> str:
        """Return the uplink that a card of a running VM is bound to; empty where to none."""
        nic = vm.config.nics[number]
        if not self.networks.has(nic.network):
            return ""
        team = self.networks.team(self.networks.group(nic.network))
        port = port_number(vm.vm, card_numbers(vm.config)[number])
        return bound(team, port, nic.mac, self.links) if nic.mac else ""

    def cards(self, group: str) -> list[tuple[VmFact, int, NicSpec]]:
        """Return the cards in a port group."""
        return [
            (vm, number, nic)
            for vm in self.vms
            for number, nic in enumerate(vm.config.nics)
            if nic.network == group
        ]

    def live(self, group: str) -> list[tuple[VmFact, int, NicSpec]]:
        """Return the cards of running VMs in a port group."""
        return [card for card in self.cards(group) if card[0].power is PowerState.POWERED_ON]


def present() -> Generator[object, object, Present]:
    """Ask the kernel what there is."""
    reply = yield from ask(Snapshot(), SnapshotReply)
    return Present.of(reply.facts)
