"""nftables over netlink: transactions, and the expressions that rules are made of.

A transaction is carried out as a whole: there is no moment in which an interface has no filter.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from casemate.kernel.sys.netlink import failing

IPV4: Final = 2
NETDEV: Final = 5
"""Families of tables: routed packets; frames that come in from an interface."""
DROP: Final = 0
ACCEPT: Final = 1
EQUAL: Final = 0
UNEQUAL: Final = 1
LINK_LAYER: Final = 0
NETWORK_LAYER: Final = 1
TRANSPORT_LAYER: Final = 2
CAME_IN_BY: Final = 6
GOES_OUT_BY: Final = 7
PROTOCOL: Final = 16
FOR_WHOM: Final = 19
"""Keys of ``meta``: names of interfaces, the protocol over IPv4, whom the frame was for."""
FOR_US: Final = b"\0"
ESTABLISHED: Final = 2
RELATED: Final = 4
NEW: Final = 8
"""Bits of a connection's state."""
_CT_STATE: Final = 0
_INVERTED: Final = 1
_PACKETS: Final = 0
_BYTES: Final = 1
RETURN: Final = -5
_JUMP: Final = -3
_AT_ONCE: Final = 1024
"""Elements of a set in one message, which has room for 64 KiB."""
_BEGIN: Final = 0x10
_END: Final = 0x11
_NAME_BYTES: Final = 16
Expression = dict[str, Any]
Rule = list[Expression]


@dataclass(frozen=True, slots=True)
class Known:
    """Values that rules look for at once, however many there are; all of one length."""

    name: str
    values: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain and its rules; what none of them drops is let through.

    ``hook``: the number of the place where packets meet it, or None for one that others jump to.
    ``kind``: ``filter`` or ``nat``. ``known``: what its rules look values up in.
    """

    name: str
    rules: tuple[Rule, ...]
    hook: int | None = None
    priority: int = 0
    kind: str = "filter"
    device: str = ""
    known: tuple[Known, ...] = ()


class Nftables:
    """A connection to nftables; to be used in one thread. ``family``: of what it lists."""

    def __init__(self, family: int) -> None:
        with failing("this Linux has no nftables"):
            from pyroute2.netlink.nfnetlink import nftsocket  # noqa: PLC0415 (as in ``netlink``)

            self._kinds: Any = nftsocket
            self._socket: Any = nftsocket.NFTSocket(nfgen_family=family)

    def close(self) -> None:
        """End the connection; what was made stays."""
        self._socket.close()

    def tables(self) -> set[str]:
        """Return the names of the tables."""
        return {str(one.get_attr("NFTA_TABLE_NAME")) for one in self._list("table")}

    def chains(self) -> set[tuple[str, str]]:
        """Return (table, chain) of all chains."""
        return {
            (str(one.get_attr("NFTA_CHAIN_TABLE")), str(one.get_attr("NFTA_CHAIN_NAME")))
            for one in self._list("chain")
        }

    def _list(self, what: str) -> list[Any]:
        with failing("the packet filters cannot be listed"):
            request = getattr(self._kinds, f"nft_{what}_msg")()
            number = getattr(self._kinds, f"NFT_MSG_GET{what.upper()}")
            return list(self._socket.request_get(request, number))

    def put(self, tables: Iterable[tuple[int, str, tuple[Chain, ...]]], component: str) -> None:
        """Replace tables, each given as family, name and chains; those without chains are removed.

        Raises:
            HostError: Linux refuses; all are then as they were.
        """
        messages: list[Any] = []
        for family, name, chains in tables:
            messages += self._fresh(family, name)
            if chains:
                messages += self._whole(family, name, chains)
        self._commit(messages, component)

    def _fresh(self, family: int, table: str) -> list[Any]:
        """Return what removes a table whether it is there or not."""
        kinds, named = self._kinds, [("NFTA_TABLE_NAME", table)]
        return [
            self._message(family, kinds.nft_table_msg, kinds.NFT_MSG_NEWTABLE, named),
            self._message(family, kinds.nft_table_msg, kinds.NFT_MSG_DELTABLE, named, make=False),
        ]

    def _whole(self, family: int, table: str, chains: tuple[Chain, ...]) -> Iterator[Any]:
        kinds = self._kinds
        named = [("NFTA_TABLE_NAME", table)]
        yield self._message(family, kinds.nft_table_msg, kinds.NFT_MSG_NEWTABLE, named)
        for number, known in enumerate(known for chain in chains for known in chain.known):
            yield from self._set(family, table, known, number + 1)
        for chain in chains:
            parts = _chain(table, chain)
            yield self._message(family, kinds.nft_chain_msg, kinds.NFT_MSG_NEWCHAIN, parts)
        for chain in chains:
            for expressions in chain.rules:
                rule = [
                    ("NFTA_RULE_TABLE", table),
                    ("NFTA_RULE_CHAIN", chain.name),
                    ("NFTA_RULE_EXPRESSIONS", expressions),
                ]
                yield self._message(family, kinds.nft_rule_msg, kinds.NFT_MSG_NEWRULE, rule)

    def _set(self, family: int, table: str, known: Known, number: int) -> Iterator[Any]:
        kinds = self._kinds
        what: list[tuple[str, object]] = [
            ("NFTA_SET_TABLE", table),
            ("NFTA_SET_NAME", known.name),
            ("NFTA_SET_KEY_LEN", len(known.values[0])),
            ("NFTA_SET_ID", number),
        ]
        yield self._message(family, kinds.nft_set_msg, kinds.NFT_MSG_NEWSET, what)
        for start in range(0, len(known.values), _AT_ONCE):
            values = known.values[start : start + _AT_ONCE]
            elements = [{"attrs": [("NFTA_SET_ELEM_KEY", _data(value))]} for value in values]
            part = [
                ("NFTA_SET_ELEM_LIST_TABLE", table),
                ("NFTA_SET_ELEM_LIST_SET", known.name),
                ("NFTA_SET_ELEM_LIST_SET_ID", number),
                ("NFTA_SET_ELEM_LIST_ELEMENTS", elements),
            ]
            kind = kinds.nft_set_elem_list_msg
            yield self._message(family, kind, kinds.NFT_MSG_NEWSETELEM, part)

    def _message(
        self,
        family: int,
        kind: Any,  # noqa: ANN401 (the library's)
        number: int,
        attributes: object,
        *,
        make: bool = True,
    ) -> Any:  # noqa: ANN401 (the library's)
        from pyroute2.netlink import (  # noqa: PLC0415
            NLM_F_ACK,
            NLM_F_APPEND,
            NLM_F_CREATE,
            NLM_F_REQUEST,
        )
        from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_NFTABLES  # noqa: PLC0415

        message = kind()
        message["attrs"] = attributes
        message["nfgen_family"] = family
        message["header"]["type"] = NFNL_SUBSYS_NFTABLES << 8 | number
        flags = NLM_F_REQUEST | NLM_F_ACK
        message["header"]["flags"] = flags | (NLM_F_CREATE | NLM_F_APPEND if make else 0)
        return message

    def _commit(self, messages: Iterable[Any], component: str) -> None:
        async def send() -> None:
            batch = [_edge(_BEGIN), *messages, _edge(_END)]
            async for _ in self._socket.asyncore.nlm_request_batch(batch):
                pass

        with failing(f"the packet filter of {component} cannot be set", component):
            self._socket.asyncore.event_loop.run_until_complete(send())


def _edge(kind: int) -> Any:  # noqa: ANN401 (the library's message)
    from pyroute2.netlink import NLM_F_REQUEST  # noqa: PLC0415
    from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_NFTABLES, nfgen_msg  # noqa: PLC0415

    message = nfgen_msg()
    message["res_id"] = NFNL_SUBSYS_NFTABLES
    message["header"]["type"] = kind
    message["header"]["flags"] = NLM_F_REQUEST
    return message


def _chain(table: str, chain: Chain) -> list[tuple[str, object]]:
    parts: list[tuple[str, object]] = [
        ("NFTA_CHAIN_TABLE", table),
        ("NFTA_CHAIN_NAME", chain.name),
    ]
    if chain.hook is not None:
        hook: list[tuple[str, object]] = [
            ("NFTA_HOOK_HOOKNUM", chain.hook),
            ("NFTA_HOOK_PRIORITY", chain.priority),
        ]
        if chain.device:
            hook.append(("NFTA_HOOK_DEV", chain.device))
        parts += [
            ("NFTA_CHAIN_HOOK", {"attrs": hook}),
            ("NFTA_CHAIN_TYPE", chain.kind),
            ("NFTA_CHAIN_POLICY", ACCEPT),
        ]
    return parts


def expression(name: str, **values: object) -> Expression:
    """Return an expression with its attributes, by their names without the prefix."""
    fields = [(f"NFTA_{name.upper()}_{key.upper()}", value) for key, value in values.items()]
    return {"attrs": [("NFTA_EXPR_NAME", name), ("NFTA_EXPR_DATA", {"attrs": fields})]}


def load(offset: int, length: int, base: int = LINK_LAYER) -> Expression:
    """Take bytes of the packet."""
    return expression("payload", dreg=1, base=base, offset=offset, len=length)


def mask(bits: bytes) -> Expression:
    """Keep these bits of what was taken."""
    return expression(
        "bitwise", sreg=1, dreg=1, len=len(bits), mask=_data(bits), xor=_data(bytes(len(bits)))
    )


def compare(how: int, value: bytes) -> Expression:
    """End the rule unless what was taken is (un)equal to a value."""
    return expression("cmp", sreg=1, op=how, data=_data(value))


def among(known: str, *, inverted: bool = False) -> Expression:
    """End the rule unless what was taken is (not, if ``inverted``) among known values."""
    flags = {"flags": {"NFT_LOOKUP_F_INV"}} if inverted else {}
    return expression("lookup", sreg=1, set=known, **flags)


def meta(key: int) -> Expression:
    """Take something about the packet that is not in it."""
    return expression("meta", dreg=1, key=key)


def interface(key: int, how: int, name: str) -> Rule:
    """End the rule unless the packet comes or goes by an interface; ``cm-*`` means all such."""
    whole = name.encode()[:-1] if name.endswith("*") else name.encode().ljust(_NAME_BYTES, b"\0")
    return [meta(key), compare(how, whole)]


def states(bits: int, how: int = UNEQUAL) -> Rule:
    """End the rule unless the connection is in one of these states (``EQUAL``: in none)."""
    value = bits.to_bytes(4, sys.byteorder)
    return [expression("ct", dreg=1, key=_CT_STATE), mask(value), compare(how, bytes(4))]


def store(value: bytes) -> Expression:
    """Have a value for what comes next."""
    return expression("immediate", dreg=1, data=_data(value))


def verdict(code: int, chain: str = "") -> Expression:
    """Say what becomes of the packet."""
    parts: list[tuple[str, object]] = [("NFTA_VERDICT_CODE", code)]
    if chain:
        parts.append(("NFTA_VERDICT_CHAIN", chain))
    return expression(
        "immediate", dreg=0, data={"attrs": [("NFTA_DATA_VERDICT", {"attrs": parts})]}
    )


def jump(chain: str) -> Expression:
    """Go on in another chain, and then after this rule."""
    return verdict(_JUMP, chain)


def packets_over(rate: int, burst: int) -> Expression:
    """End the rule unless there are more packets a second, after ``burst`` at once."""
    return _over(_PACKETS, rate, burst)


def bytes_over(rate: int, burst: int) -> Expression:
    """End the rule unless there are more bytes a second, after ``burst`` at once."""
    return _over(_BYTES, rate, burst)


def _over(kind: int, rate: int, burst: int) -> Expression:
    return expression("limit", rate=rate, unit=1, burst=burst, type=kind, flags=_INVERTED)


def connections_over(count: int) -> Expression:
    """End the rule unless there are more connections of those that came this far."""
    return expression("connlimit", count=count, flags={"NFT_LIMIT_F_INV"})


def _data(value: bytes) -> Expression:
    return {"attrs": [("NFTA_DATA_VALUE", value)]}
