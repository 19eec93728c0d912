"""What a guest's agent says, in the words of the API. None of it is checked by anybody."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from casemate.hostd.objects.devices import nic_key
from casemate.hostd.world import World
from casemate.machine.facts import PowerState, VmFact
from casemate.vim25.values import Obj, Value

_ABSENT: Mapping[str, Value] = {
    "toolsStatus": "toolsNotInstalled",
    "toolsVersionStatus": "guestToolsNotInstalled",
    "toolsVersionStatus2": "guestToolsNotInstalled",
    "toolsRunningStatus": "guestToolsNotRunning",
}
_PRESENT: Mapping[str, Value] = {
    "toolsStatus": "toolsOk",
    "toolsVersionStatus": "guestToolsUnmanaged",
    "toolsVersionStatus2": "guestToolsUnmanaged",
    "toolsRunningStatus": "guestToolsRunning",
}
_LINK_LOCAL = "fe80:"


def tools(vm: VmFact) -> Mapping[str, Value]:
    """Return whether an agent runs."""
    return _PRESENT if vm.guest.agent else _ABSENT


def heartbeat(vm: VmFact) -> str:
    """Return the guest's heartbeat: ``gray`` where nobody sends one."""
    return "green" if vm.guest.agent else "gray"


def addresses(vm: VmFact) -> Iterator[str]:
    """Yield the guest's addresses, IPv4 first, those of one link last."""
    found = [address.partition("/")[0] for one in vm.guest.interfaces for address in one.addresses]
    yield from sorted(found, key=lambda text: (text.startswith(_LINK_LOCAL), ":" in text))


def names(vm: VmFact) -> Mapping[str, Value]:
    """Return name and first address, as summary and guest have them."""
    return {"hostName": vm.guest.host_name or None, "ipAddress": next(addresses(vm), None)}


def guest_info(world: World, vm: VmFact) -> Obj:
    """Return GuestInfo."""
    running = vm.power is PowerState.POWERED_ON
    return Obj(
        "GuestInfo",
        guestState="running" if running else "notRunning",
        guestId=vm.config.guest_id if vm.guest.agent else None,
        guestOperationsReady=False,
        interactiveGuestOperationsReady=False,
        guestStateChangeSupported=vm.guest.agent,
        toolsVersion="0",
        net=tuple(_nics(world, vm)) if running else (),
        **names(vm),
        **tools(vm),
    )


def _nics(world: World, vm: VmFact) -> Iterator[Obj]:
    """Yield the VM's cards with the addresses that the guest tells, then cards it made itself."""
    told = {one.mac: one.addresses for one in vm.guest.interfaces}
    for number, nic in enumerate(vm.config.nics):
        connected = nic.connected and nic.network in world.port_groups
        yield _nic(
            nic.mac,
            told.pop(nic.mac, ()),
            connected=connected,
            network=nic.network,
            key=nic_key(number),
        )
    for mac, others in told.items():
        yield _nic(mac, others, connected=True, network=None, key=-1)


def _nic(mac: str, told: tuple[str, ...], *, connected: bool, network: str | None, key: int) -> Obj:
    return Obj(
        "GuestNicInfo",
        network=network,
        ipAddress=tuple(address.partition("/")[0] for address in told),
        macAddress=mac,
        connected=connected,
        deviceConfigId=key,
        ipConfig=Obj("NetIpConfigInfo", ipAddress=tuple(map(_address, told))) if told else None,
    )


def _address(address: str) -> Obj:
    text, _, prefix = address.partition("/")
    return Obj(
        "NetIpConfigInfoIpAddress", ipAddress=text, prefixLength=int(prefix), state="preferred"
    )
