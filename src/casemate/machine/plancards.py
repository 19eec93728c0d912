"""The network cards of a VM as QEMU is told of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from casemate.errors import NotSupportedError
from casemate.machine.bootorder import boot_cards, card_index
from casemate.machine.cellplan import PassedTap
from casemate.machine.facts import NicSpec, VmConfig
from casemate.machine.hotnotes import Added, port_of

_NIC_DEVICES: Final = {
    "e1000": "e1000",
    "e1000e": "e1000e",
    "vmxnet3": "vmxnet3",
    "virtio": "virtio-net-pci",
}


def netdev(card: int) -> str:
    """Return QEMU's name of what a network card is connected to."""
    return f"net{card}"


def card_id(card: int) -> str:
    """Return QEMU's name of a network card in a port."""
    return f"card-{card}"


def card_device(nic: NicSpec) -> str:
    """Return QEMU's name of a card's model. Raises NotSupportedError."""
    device = _NIC_DEVICES.get(nic.model)
    if device is None:
        raise NotSupportedError(f"no network card {nic.model[:40]!r}", component="nic")
    return device


def card_words(
    config: VmConfig, taps: tuple[PassedTap, ...], extra: dict[str, str], came: Added
) -> Iterator[str]:
    """Network cards, each on its interface of the host; one without has nobody to talk to.

    One that the VM boots from has QEMU's own option ROM for its model.
    """
    booted = boot_cards(len(config.nics), extra)
    if not config.nics:
        yield from ("-nic", "none")
    fds = {tap.card: tap.fd for tap in taps}
    numbers = came.cards or tuple(range(len(config.nics)))
    for place, (number, nic) in enumerate(zip(numbers, config.nics, strict=True)):
        if number in fds:
            yield from ("-netdev", f"tap,id={netdev(number)},fd={fds[number]}")
        else:
            yield from ("-netdev", f"hubport,id={netdev(number)},hubid={number}")
        port = port_of(f"ethernet{number}", came)
        bus = f",bus={port},id={card_id(number)}" if port else ""
        mac = f",mac={nic.mac}" if nic.mac else ""
        device = card_device(nic)
        rom = ",romfile="
        if place in booted:
            rom = f",bootindex={card_index(place, len(config.disks), extra)}"
        yield from ("-device", f"{device},netdev={netdev(number)}{rom}{mac}{bus}")
