"""nftables: what may come in from an interface, as one table for each interface.

A table is replaced in one transaction: there is no moment in which an interface has no filter.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any, Final

from casemate.kernel.sys.netlink import failing
from casemate.machine.networkplan import Filter

_NETDEV: Final = 5
_INGRESS: Final = 0
_DROP: Final = 0
_ACCEPT: Final = 1
_BEGIN: Final = 0x10
_END: Final = 0x11
_LINK_LAYER: Final = 0
_EQUAL: Final = 0
_UNEQUAL: Final = 1
_CHAIN: Final = "ingress"
# Offsets in a frame: destination, source, type; the tag's control information.
_DESTINATION: Final = (0, 6)
_FIRST_OCTET: Final = (0, 1)
_SOURCE: Final = (6, 6)
_TYPE: Final = (12, 2)
_TAG: Final = (14, 2)
_CUSTOMER_TAG: Final = b"\x81\x00"
_SERVICE_TAG: Final = b"\x88\xa8"
_GROUP_BIT: Final = b"\x01"
_VLAN_BITS: Final = b"\x0f\xff"
_SWITCHES: Final = b"\x01\x80\xc2\x00\x00\x00"
_SWITCHES_BITS: Final = b"\xff\xff\xff\xff\xff\xf0"
Expression = dict[str, Any]


class PacketFilters:
    """A connection to nftables; to be used in one thread."""

    def __init__(self) -> None:
        with failing("this Linux has no nftables"):
            from pyroute2.netlink.nfnetlink import nftsocket  # noqa: PLC0415 (as in ``netlink``)

            self._kinds: Any = nftsocket
            self._socket: Any = nftsocket.NFTSocket(nfgen_family=_NETDEV)

    def close(self) -> None:
        """End the connection; the filters stay."""
        self._socket.close()

    def names(self) -> set[str]:
        """Return the interfaces that have a table."""
        with failing("the packet filters cannot be listed"):
            request = self._kinds.nft_table_msg()
            found = list(self._socket.request_get(request, self._kinds.NFT_MSG_GETTABLE))
        return {str(message.get_attr("NFTA_TABLE_NAME")) for message in found}

    def put(self, wanted: Filter, indexes: dict[str, int]) -> None:
        """Replace the filter of an interface; ``indexes``: the numbers of those that it names.

        Raises:
            HostError: Linux refuses; the filter is then as it was.
        """
        kinds, table = self._kinds, wanted.name
        hook = [
            ("NFTA_HOOK_HOOKNUM", _INGRESS),
            ("NFTA_HOOK_PRIORITY", 0),
            ("NFTA_HOOK_DEV", table),
        ]
        chain = [
            ("NFTA_CHAIN_TABLE", table),
            ("NFTA_CHAIN_NAME", _CHAIN),
            ("NFTA_CHAIN_HOOK", {"attrs": hook}),
            ("NFTA_CHAIN_TYPE", "filter"),
            ("NFTA_CHAIN_POLICY", _ACCEPT),
        ]
        messages = [
            *self._fresh(table),
            self._message(kinds.nft_table_msg, kinds.NFT_MSG_NEWTABLE, _table(table)),
            self._message(kinds.nft_chain_msg, kinds.NFT_MSG_NEWCHAIN, chain),
        ]
        for expressions in _rules(wanted, indexes):
            rule = [
                ("NFTA_RULE_TABLE", table),
                ("NFTA_RULE_CHAIN", _CHAIN),
                ("NFTA_RULE_EXPRESSIONS", expressions),
            ]
            messages.append(self._message(kinds.nft_rule_msg, kinds.NFT_MSG_NEWRULE, rule))
        self._commit(messages, table)

    def drop(self, name: str) -> None:
        """Remove the filter of an interface, if it has one."""
        self._commit(self._fresh(name), name)

    def _fresh(self, table: str) -> list[Any]:
        """Return what removes a table whether it is there or not."""
        kinds = self._kinds
        return [
            self._message(kinds.nft_table_msg, kinds.NFT_MSG_NEWTABLE, _table(table)),
            self._message(kinds.nft_table_msg, kinds.NFT_MSG_DELTABLE, _table(table), make=False),
        ]

    def _message(self, kind: Any, number: int, attributes: Any, *, make: bool = True) -> Any:  # noqa: ANN401 (the library's)
        from pyroute2.netlink import (  # noqa: PLC0415
            NLM_F_ACK,
            NLM_F_APPEND,
            NLM_F_CREATE,
            NLM_F_REQUEST,
        )
        from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_NFTABLES  # noqa: PLC0415

        message = kind()
        message["attrs"] = attributes
        message["nfgen_family"] = _NETDEV
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


def _table(name: str) -> list[tuple[str, str]]:
    return [("NFTA_TABLE_NAME", name)]


def _rules(wanted: Filter, indexes: dict[str, int]) -> Iterator[list[Expression]]:
    """Yield the rules of a filter, in order; a frame that none drops comes in."""
    yield [_load(_TYPE), _compare(_EQUAL, _SERVICE_TAG), _verdict(_DROP)]
    if not wanted.tags:
        yield [_load(_TYPE), _compare(_EQUAL, _CUSTOMER_TAG), _verdict(_DROP)]
    else:
        differs = [_compare(_UNEQUAL, vlan.to_bytes(2, "big")) for vlan in wanted.tags]
        yield [
            *(_load(_TYPE), _compare(_EQUAL, _CUSTOMER_TAG)),
            *(_load(_TAG), _mask(_VLAN_BITS)),
            *differs,
            _verdict(_DROP),
        ]
    if wanted.source:
        yield [_load(_SOURCE), _compare(_UNEQUAL, _octets(wanted.source)), _verdict(_DROP)]
    if wanted.guest:
        yield [
            *(_load(_DESTINATION), _mask(_SWITCHES_BITS)),
            *(_compare(_EQUAL, _SWITCHES), _verdict(_DROP)),
        ]
    for mirror in wanted.mirrors:
        yield [
            *(_load(_FIRST_OCTET), _mask(_GROUP_BIT), _compare(_EQUAL, b"\0")),
            *(_load(_DESTINATION), _compare(_UNEQUAL, _octets(mirror.mac))),
            _store(struct.pack("=I", indexes[mirror.name])),
            _expression("dup", sreg_dev=1),
        ]


def _octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _expression(name: str, **values: object) -> Expression:
    fields = [(f"NFTA_{name.upper()}_{key.upper()}", value) for key, value in values.items()]
    return {"attrs": [("NFTA_EXPR_NAME", name), ("NFTA_EXPR_DATA", {"attrs": fields})]}


def _data(value: bytes) -> Expression:
    return {"attrs": [("NFTA_DATA_VALUE", value)]}


def _load(part: tuple[int, int]) -> Expression:
    offset, length = part
    return _expression("payload", dreg=1, base=_LINK_LAYER, offset=offset, len=length)


def _mask(bits: bytes) -> Expression:
    return _expression(
        "bitwise",
        sreg=1,
        dreg=1,
        len=len(bits),
        mask=_data(bits),
        xor=_data(bytes(len(bits))),
    )


def _compare(how: int, value: bytes) -> Expression:
    return _expression("cmp", sreg=1, op=how, data=_data(value))


def _store(value: bytes) -> Expression:
    return _expression("immediate", dreg=1, data=_data(value))


def _verdict(code: int) -> Expression:
    verdict = {"attrs": [("NFTA_VERDICT_CODE", code)]}
    return _expression("immediate", dreg=0, data={"attrs": [("NFTA_DATA_VERDICT", verdict)]})
