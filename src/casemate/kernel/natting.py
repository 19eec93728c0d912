"""Which guest behind NAT has which address: chosen once, kept in the store, told to the servers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from casemate.calls.networks import SetNat
from casemate.errors import ArgumentError, Finding
from casemate.kernel.files import write_file
from casemate.kernel.home import Home
from casemate.kernel.leasing import Leasing
from casemate.kernel.store import Store
from casemate.machine.nat import (
    NAME_SERVERS,
    Nat,
    choose_network,
    give_addresses,
    name_servers_in,
    reachable_server,
)
from casemate.machine.networkplan import Card, Router, served
from casemate.machine.networks import Networks, SwitchFact

_VALUE: Final = "nat-addresses"
RESOLVERS: Final = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
"""Where name servers are found; the second where the first names a resolver of the machine."""


class Natting:
    """The addresses of all switches with NAT.

    ``identifier`` is the home's; ``names``: the name servers that the machine itself asks.
    """

    def __init__(
        self,
        store: Store,
        leasing: Leasing,
        identifier: str,
        names: Callable[[], tuple[str, ...]],
    ) -> None:
        self._store = store
        self._leasing = leasing
        self._identifier = identifier
        self._names = names
        self._given = _read(store.value(_VALUE))

    def findings(self) -> tuple[Finding, ...]:
        """Return why guests get no address, where they get none."""
        return self._leasing.findings()

    def wanted(
        self, switch: SwitchFact, request: SetNat, networks: Networks, taken: Iterable[str]
    ) -> Nat:
        """Return what a request makes of a switch's NAT. Raises LimitError, ArgumentError."""
        before = switch.nat or Nat("")
        network = request.network or before.network
        if not network:
            others = [nat.network for nat in networks.with_nat().values()]
            network = choose_network(f"{self._identifier} {switch.name}", [*taken, *others])
        servers = request.name_servers
        return replace(
            before,
            network=network,
            reach_host=before.reach_host if request.reach_host is None else request.reach_host,
            name_servers=before.name_servers if servers is None else servers,
        )

    def give(self, networks: Networks, cards: Iterable[Card]) -> Mapping[str, Mapping[str, str]]:
        """Return, by switch, the addresses of cards; those of new cards are kept in the store."""
        present = tuple(cards)
        given = {
            switch.name: dict(
                give_addresses(
                    switch.nat,
                    self._given.get(switch.name, {}),
                    served(networks, switch, present),
                )
            )
            for switch in networks.switches
            if switch.nat is not None
        }
        if given != self._given:
            self._store.set_value(_VALUE, json.dumps(given))
        self._given = given  # its order says who has been away longest
        return given

    async def listen(self, routers: Iterable[Router]) -> None:
        """Have an interface for the server of each router. Raises HostError."""
        await self._leasing.listen(routers)

    async def tell(self, routers: Iterable[Router]) -> None:
        """Have a server for each router, which knows what holds now."""
        await self._leasing.tell(routers, self._names())

    async def close(self) -> None:
        """End the servers."""
        await self._leasing.close()


def note_name_servers(home: Home, places: Iterable[Path] = RESOLVERS) -> None:
    """Write down, for guests behind NAT, which name servers this machine asks."""
    for place in places:
        try:
            found = name_servers_in(place.read_text())
        except (OSError, ValueError):
            continue
        if found:
            write_file(home.name_servers, "\n".join(found).encode())
            return
    home.name_servers.unlink(missing_ok=True)


def read_name_servers(place: Path) -> tuple[str, ...]:
    """Return the name servers that a launcher found, as far as guests can reach them."""
    try:
        lines = place.read_text().split()
    except (OSError, ValueError):
        return ()
    return tuple(filter(reachable_server, lines))[:NAME_SERVERS]


def _read(text: str | None) -> dict[str, dict[str, str]]:
    """Return what was stored, in its order. Raises ArgumentError."""
    try:
        value = json.loads(text or "{}")
        return {
            str(switch): {str(mac): str(address) for mac, address in given.items()}
            for switch, given in value.items()
        }
    except (ValueError, AttributeError) as error:
        raise ArgumentError(
            f"the stored addresses cannot be read: {error}", argument=_VALUE
        ) from error
