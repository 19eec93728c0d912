"""NIC teaming: which uplink of its switch a card is bound to, as ESXi's standard switches choose.

Pure choices: what the policies say and which uplinks have a link gives one uplink for each card.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from casemate.errors import ArgumentError, NotSupportedError

BY_PORT: Final = "loadbalance_srcid"
BY_ADDRESS: Final = "loadbalance_srcmac"
BY_ORDER: Final = "failover_explicit"
BY_IP: Final = "loadbalance_ip"
"""vSphere's names of how uplinks are chosen; the last is refused."""
BALANCING: Final = (BY_PORT, BY_ADDRESS, BY_ORDER)
_ANNOUNCEMENT: Final = bytes.fromhex("0001080006040003")
"""RFC 903: Ethernet, IPv4, six and four octets, a request that asks for its own address."""
_FRAME: Final = 60
"""Bytes of the shortest Ethernet frame, without its check sum."""


@dataclass(frozen=True, slots=True)
class Teaming:
    """What a switch or a port group says; None: a port group as its switch, a switch as ESXi.

    ``balancing`` is vSphere's name of a policy. ``notify``: physical switches are told which uplink
    leads to a card. ``failback``: an uplink whose link is back takes its place again. ``active``
    and ``standby`` say the order of uplinks together; those in neither are not used.
    """

    balancing: str | None = None
    notify: bool | None = None
    failback: bool | None = None
    active: tuple[str, ...] | None = None
    standby: tuple[str, ...] | None = None

    @property
    def orders(self) -> bool:
        """Tell whether it says an order of uplinks."""
        return self.active is not None or self.standby is not None


AS_ABOVE: Final = Teaming()
"""What a new switch and a new port group say."""


@dataclass(frozen=True, slots=True)
class Team:
    """What is in force in a port group; ``unused``: uplinks of its switch that it never takes."""

    balancing: str
    notify: bool
    failback: bool
    active: tuple[str, ...]
    standby: tuple[str, ...]
    unused: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LinkState:
    """Uplinks without a link now; all that lost one since the host started, last back last."""

    down: frozenset[str] = frozenset()
    late: tuple[str, ...] = ()

    def seen(
        self, uplinks: frozenset[str], down: frozenset[str], known: frozenset[str]
    ) -> LinkState:
        """Return what is known after a look at these uplinks; others are forgotten.

        ``known``: those of the look before: an uplink that never had a link has lost none.
        """
        lost = (down - self.down) & known
        back = (self.down - down) & set(self.late)
        last = sorted(lost | back)
        kept = (name for name in self.late if name in uplinks and name not in last)
        return LinkState(down, (*kept, *(name for name in last if name in uplinks)))


@dataclass(frozen=True, slots=True)
class UplinksFact:
    """What is known of the links of uplinks that are in teams, as ``LinkState``."""

    down: tuple[str, ...] = ()
    late: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """There is one."""
        return "uplinks"

    @property
    def lost(self) -> frozenset[str]:
        """Those that have not the link that they had."""
        return frozenset(self.down) & frozenset(self.late)

    @property
    def state(self) -> LinkState:
        """What uplinks are chosen by."""
        return LinkState(frozenset(self.down), self.late)


ALL_UP: Final = LinkState()


def check_teaming(teaming: Teaming, uplinks: tuple[str, ...], before: Teaming = AS_ABOVE) -> None:
    """Check what somebody says of a team; an order that was said ``before`` may stay as it is.

    Raises:
        NotSupportedError: It balances by the hash of IP addresses.
        ArgumentError: It names what is no uplink of the switch, or one twice, or no such policy.
    """
    if teaming.balancing == BY_IP:
        raise NotSupportedError(
            "Route based on IP hash needs a static port channel (EtherChannel) on the physical"
            " switch, and one bond of the uplinks here: this host binds each card to one uplink.",
            code="ip-hash",
            component="network",
            remedy="Route by the originating port (loadbalance_srcid, esxcli: portid).",
        )
    if teaming.balancing is not None and teaming.balancing not in BALANCING:
        raise ArgumentError(
            f"{teaming.balancing[:40]!r} is none of {', '.join(BALANCING)}",
            argument="policy.nicTeaming.policy",
        )
    named = (*(teaming.active or ()), *(teaming.standby or ()))
    if (teaming.active, teaming.standby) == (before.active, before.standby):
        return
    strange = [name for name in named if name not in uplinks]
    if strange or len(set(named)) < len(named):
        what = f"{strange[0][:40]!r} is no uplink of it" if strange else "an uplink is named twice"
        raise ArgumentError(what, argument="policy.nicTeaming.nicOrder")


def in_force(whole: Teaming, own: Teaming, uplinks: tuple[str, ...]) -> Team:
    """Return what holds in a port group; uplinks that the switch has no more are left out."""
    order = own if own.orders else whole
    active, standby = order.active or (), order.standby or ()
    if not order.orders:
        active = uplinks
    active = tuple(name for name in active if name in uplinks)
    standby = tuple(name for name in standby if name in uplinks)
    return Team(
        own.balancing or whole.balancing or BY_PORT,
        _first(own.notify, whole.notify),
        _first(own.failback, whole.failback),
        active,
        standby,
        tuple(name for name in uplinks if name not in {*active, *standby}),
    )


def _first(own: bool | None, whole: bool | None) -> bool:  # noqa: FBT001 (three values of one kind)
    """Return what is said; ESXi says yes to both where nobody says anything."""
    if own is not None:
        return own
    return whole is not False


def over(before: Teaming, change: Teaming) -> Teaming:
    """Return what was said before with what a change says; None in it stays."""
    order = change if change.orders else before
    return Teaming(
        before.balancing if change.balancing is None else change.balancing,
        before.notify if change.notify is None else change.notify,
        before.failback if change.failback is None else change.failback,
        order.active,
        order.standby,
    )


def changed(
    before: Teaming, change: Teaming, uplinks: tuple[str, ...], whole: Teaming = AS_ABOVE
) -> Teaming:
    """Return what was said before with what somebody types; ``whole``: a port group's switch's.

    Of the two lists of uplinks the one that is not given stays, without those that the other has.
    """
    team, active, standby = in_force(whole, before, uplinks), change.active, change.standby
    if active is not None and standby is None:
        standby = tuple(name for name in team.standby if name not in active)
    elif standby is not None and active is None:
        active = tuple(name for name in team.active if name not in standby)
    return over(before, replace(change, active=active, standby=standby))


def choices(team: Team, port: int, mac: str, state: LinkState = ALL_UP) -> tuple[str, ...]:
    """Return the uplinks that a card may take, the best first, whether they have a link or not.

    Where cards are spread, each has an active uplink of its own, after it the standby ones, and
    then those of the others. Without failback what was lost once waits behind all that was not.
    """
    order = (*team.active, *team.standby)
    if team.balancing != BY_ORDER and team.active:
        number = int(mac.replace(":", ""), 16) if team.balancing == BY_ADDRESS else port
        first = number % len(team.active)
        others = (*team.active[first + 1 :], *team.active[:first])
        order = (team.active[first], *team.standby, *others)
    if team.failback:
        return order
    late = tuple(name for name in state.late if name in order)
    return (*(name for name in order if name not in late), *late)


def port_number(vm: str, card: int) -> int:
    """Return the number of a card's port: those of VMs that came one after the other differ."""
    return int(vm) + card


def bound(team: Team, port: int, mac: str, state: LinkState = ALL_UP) -> str:
    """Return the uplink of a card; empty where its port group takes none.

    ``port`` is the number of its port, ``mac`` its address. What becomes of other uplinks does not
    move a card from one that it is bound to and that has a link, but for its return to a better.
    """
    found = choices(team, port, mac, state)
    return next((name for name in found if name not in state.down), next(iter(found), ""))


def announcement(mac: str) -> bytes:
    """Return the frame by which switches learn where an address is: RARP, as ESXi sends it."""
    own = bytes.fromhex(mac.replace(":", ""))
    asked = _ANNOUNCEMENT + own + bytes(4) + own + bytes(4)
    return (b"\xff" * 6 + own + b"\x80\x35" + asked).ljust(_FRAME, b"\0")
