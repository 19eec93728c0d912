"""The direct console's page of the network: what is kept, and what holds from the next start on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from casemate.calls.console import NetworkReply, ReadNetwork, SetNetwork
from casemate.calls.messages import Empty
from casemate.errors import NotSupportedError
from casemate.formats.hostsettings import host_network
from casemate.kernel.accounts import Session
from casemate.kernel.home import Home
from casemate.kernel.hostnetwork import keep_network, read_network


class NetworkSettings:
    """Answers the direct console; what it changes holds from the next start on."""

    def __init__(self, home: Home, *, own_machine: bool) -> None:
        self._home = home
        self._own_machine = own_machine

    def handlers(self) -> dict[type, Callable[..., Awaitable[object]]]:
        """Return the handlers of this topic."""
        return {ReadNetwork: self._read, SetNetwork: self._set}

    async def _read(self, _request: ReadNetwork, _: Session) -> NetworkReply:
        self._demand_own()
        known = read_network(self._home)
        own = known.address
        return NetworkReply(
            known.host_name,
            str(own.ip) if own else "",
            str(own.netmask) if own else "",
            str(known.gateway or ""),
        )

    async def _set(self, request: SetNetwork, _: Session) -> Empty:
        self._demand_own()
        words = (request.host_name, request.address, request.netmask, request.gateway)
        keep_network(self._home, host_network(*words))
        return Empty()

    def _demand_own(self) -> None:
        if not self._own_machine:
            raise NotSupportedError(
                "This host is a guest of another system, which has the network.",
                code="not-own-machine",
                remedy="Change it there.",
            )
