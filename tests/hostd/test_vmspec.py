"""Specifications of VMs: what is asked for costs no more than its size."""

from __future__ import annotations

import pytest

from casemate.errors import LimitError
from casemate.hostd.vmspec import CHANGES_LIMIT, changed
from casemate.testing.fakefacts import fake_vm
from casemate.vim25.values import Obj


def entries(*pairs: tuple[str, str]) -> Obj:
    options = tuple(Obj("OptionValue", key=key, value=value) for key, value in pairs)
    return Obj("VirtualMachineConfigSpec", extraConfig=options)


def test_entries_are_told_apart_without_regard_to_case_and_an_empty_one_goes() -> None:
    config = fake_vm(1).config
    first = changed(entries(("Guestinfo.A", "1"), ("guestinfo.b", "2")), config, ()).config
    assert dict(first.extra) == {**dict(config.extra), "Guestinfo.A": "1", "guestinfo.b": "2"}
    then = entries(("GUESTINFO.a", "3"), ("GuestInfo.B", ""), ("guestinfo.b", "4"))
    assert dict(changed(then, first, ()).config.extra) == {
        **dict(config.extra),
        "Guestinfo.A": "3",
        "guestinfo.b": "4",
    }


def test_many_entries_are_not_compared_each_with_each() -> None:
    compared = 0

    class Name(str):
        __slots__ = ()

        def lower(self) -> str:
            nonlocal compared
            compared += 1
            return super().lower()

    many = entries(*((Name(f"guestinfo.{number}"), "x") for number in range(300)))
    assert len(changed(many, fake_vm(1).config, ()).config.extra) >= 300
    assert compared < 3000


def test_more_devices_than_a_vm_has_are_refused() -> None:
    device = Obj("VirtualDisk", key=-1, capacityInKB=1)
    change = Obj("VirtualDeviceConfigSpec", operation="add", device=device)
    spec = Obj("VirtualMachineConfigSpec", deviceChange=(change,) * (CHANGES_LIMIT + 1))
    with pytest.raises(LimitError):
        changed(spec, fake_vm(1).config, ())
