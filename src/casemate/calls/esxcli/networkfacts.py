"""What the kernel says of networks, for those who list them."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass

from casemate.calls.esxcli.tree import ask
from casemate.calls.messages import Snapshot, SnapshotReply
from casemate.machine.facts import Fact, NicSpec, PowerState, VmFact
from casemate.machine.hardware import HardwareFact, HostNic
from casemate.machine.networks import Networks, PortGroupFact, SwitchFact


@dataclass(frozen=True, slots=True)
class Present:
    """What the kernel says of networks now."""

    networks: Networks
    vms: tuple[VmFact, ...]
    nics: tuple[HostNic, ...]

    @classmethod
    def of(cls, facts: Iterable[Fact]) -> Present:
        """Return the part of the facts that is about networks."""
        known = tuple(facts)
        return cls(
            Networks(
                tuple(fact for fact in known if isinstance(fact, SwitchFact)),
                tuple(fact for fact in known if isinstance(fact, PortGroupFact)),
            ),
            tuple(fact for fact in known if isinstance(fact, VmFact)),
            tuple(nic for fact in known if isinstance(fact, HardwareFact) for nic in fact.nics),
        )

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
