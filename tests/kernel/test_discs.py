"""Discs that are changed under a guest which holds its drive: it never ends up empty."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from casemate.errors import HostError
from casemate.kernel.cells.directory import VmDirectory
from casemate.kernel.cells.hotplug import Hotplug
from casemate.machine.facts import DiskSpec
from casemate.machine.planstorage import node_name

OLD = DiskSpec("old.iso", "cdrom", "raw", 0, "ide1", 0)
NEW = DiskSpec("new.iso", "cdrom", "raw", 0, "ide1", 0)


class Drive:
    """A QEMU with one drive; ``closes``: how often the guest closes the tray in between."""

    def __init__(self, closes: int, refused: str = "") -> None:
        self.closes, self.refused = closes, refused
        self.inside: str | None = node_name("old.iso")
        self.open = False
        self.nodes = {node_name("old.iso")}
        self.sets: dict[int, str] = {0: node_name("old.iso")}

    async def execute(self, command: str, **told: object) -> object:
        match command:
            case "blockdev-open-tray" | "blockdev-close-tray":
                self.open = "open" in command
            case "blockdev-remove-medium":
                if self.closes:
                    self.closes -= 1
                    self.open = False
                self._demand_open()
                self.inside = None
            case "blockdev-insert-medium":
                self._demand_open()
                if told["node-name"] == self.refused:
                    raise HostError("refused", code="qmp-refused")
                self.inside = str(told["node-name"])
            case "blockdev-add":
                self.nodes.add(str(told["node-name"]))
            case "blockdev-del":
                self.nodes.remove(str(told["node-name"]))
            case "query-fdsets":
                return [{"fdset-id": n, "fds": [{"opaque": o}]} for n, o in self.sets.items()]
            case "remove-fd":
                del self.sets[int(str(told["fdset-id"]))]
        return {}

    async def execute_with(self, _descriptor: int, _command: str, **told: object) -> object:
        self.sets[number := len(self.sets)] = str(told["opaque"])
        return {"fdset-id": number}

    def _demand_open(self) -> None:
        if not self.open:
            raise HostError("Tray of the device is not open", code="qmp-refused")


def swapped(place: Path, drive: Drive) -> None:
    for name in ("old.iso", "new.iso"):
        (place / name).write_bytes(bytes(2048))

    async def body() -> None:
        with VmDirectory(place) as directory:
            await Hotplug(drive, directory, None).swap(OLD, NEW)  # type: ignore[arg-type]

    asyncio.run(body())


@pytest.mark.parametrize("closes", [0, 1, 2])
def test_a_guest_that_closes_the_tray_meanwhile_gets_the_new_disc(tmp_path, closes):
    drive = Drive(closes)
    swapped(tmp_path, drive)
    assert (drive.inside, drive.open) == (node_name("new.iso"), False)
    assert drive.nodes == {node_name("new.iso")}


@pytest.mark.parametrize(("closes", "refused"), [(3, ""), (0, node_name("new.iso"))])
def test_a_disc_that_cannot_be_changed_is_in_the_drive_as_before(tmp_path, closes, refused):
    drive = Drive(closes, refused)
    with pytest.raises(HostError):
        swapped(tmp_path, drive)
    assert (drive.inside, drive.open) == (node_name("old.iso"), False)
    assert drive.nodes == {node_name("old.iso")}
    assert list(drive.sets.values()) == [node_name("old.iso")]
