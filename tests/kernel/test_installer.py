"""The installer's questions: which disk, and that nothing is written without its name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from casemate.errors import BootError, HostError
from casemate.kernel.boot import installer
from casemate.kernel.boot.drivers import Drivers
from casemate.kernel.boot.installer import Plan, asked, planned, read_plan
from casemate.kernel.boot.installscreen import WIDTH, Screen
from casemate.kernel.boot.targets import Target
from casemate.kernel.sys.power import Power

ONE = Target("vda", 20 << 30, "A disk with a rather long name of its maker", removable=False)
TWO = Target("sda", 8 << 30, "", removable=True)


@pytest.fixture
def console(tmp_path: Path) -> Path:
    path = tmp_path / "console"
    path.touch()
    return path


@pytest.fixture
def choose(console: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Target]:
    """Let somebody type answers in front of a machine with two disks."""

    def typed(*answers: str, disks: tuple[Target, ...] = (ONE, TWO)) -> Target:
        waiting = iter(answers)
        monkeypatch.setattr(installer, "ask", lambda _question: next(waiting))
        monkeypatch.setattr(installer, "found", lambda _drivers, _started: disks)
        monkeypatch.setattr(installer, "LOOK_SECONDS", 0.0)
        monkeypatch.setattr(installer, "end_machine", ended)
        screen = Screen([console, console.with_name("gone")])
        screen.open()
        return asked(screen, Drivers(console.parent), None)

    return typed


def ended(how: Power) -> None:
    raise BootError(how.name)


@pytest.mark.parametrize(
    ("answers", "wanted"),
    [
        (["1", "vda"], ONE),
        (["2", "sda"], TWO),
        (["sda", "sda"], TWO),
        (["9", "", "sdx", "r", "1", "vda"], ONE),
        (["1", "y", "1", "", "2", "vda", "1", "vda"], ONE),
    ],
)
def test_a_disk_is_written_only_after_its_own_name_was_typed(choose, answers, wanted):
    assert choose(*answers) == wanted


def test_a_person_sees_what_there_is_and_what_would_be_lost(choose, console):
    choose("2", "vda", "1", "vda")
    shown = console.read_text()
    assert "20.0 GiB" in shown
    assert "removable" in shown
    assert "Everything on sda (disk, 8192 MiB, removable) will be lost." in shown
    assert "nothing was written" in shown
    assert all(len(line) <= WIDTH + 20 for line in shown.splitlines())


def test_an_answer_never_acts_on_the_terminal(choose, console):
    choose("\x1b[2J\x07", "1", "vda")
    assert "\x1b[2J" not in console.read_text()


def test_whoever_stops_gets_a_machine_switched_off(choose):
    with pytest.raises(BootError, match="OFF"):
        choose("q")


def test_an_unattended_installation_waits_for_its_disk_and_then_says_which_is_lacking(
    monkeypatch,
):
    monkeypatch.setattr(installer, "found", lambda _drivers, _started: (TWO, ONE))
    drivers = Drivers(Path("/nonexistent"))
    assert planned(Plan("", overwrite=False, reboot=False), drivers, None) == ONE
    monkeypatch.setattr(installer, "DISK_SECONDS", 0.0)
    with pytest.raises(HostError, match="no disk nvme0n1"):
        planned(Plan("nvme0n1", overwrite=True, reboot=True), drivers, None)


def test_the_medium_itself_is_no_target(tmp_path, monkeypatch):
    partition = UUID(int=7 << 64)
    medium, other = tmp_path / "medium", tmp_path / "other"
    medium.write_bytes(bytes(1200) + partition.bytes_le + bytes(9000))
    other.write_bytes(bytes(9000))
    disks = tuple(Target(str(path), 9000, "", removable=False) for path in (medium, other))
    monkeypatch.setattr(installer, "targets", lambda: disks)
    monkeypatch.setattr(installer, "present", tuple)
    drivers = Drivers(tmp_path)
    assert installer.found(drivers, partition) == disks[1:]
    assert installer.found(drivers, None) == disks


def test_a_plan_is_what_the_image_was_built_with(tmp_path):
    path = tmp_path / "plan.json"
    assert read_plan(path) is None
    path.write_text(json.dumps({"disk": "", "overwrite": True, "reboot": False}))
    assert read_plan(path) == Plan("", overwrite=True, reboot=False)


def test_progress_is_shown_in_its_place_and_ends_at_the_whole(console):
    screen = Screen([console])
    screen.open()
    for done in (0, 0, 5, 10):
        screen.progress("write", done, 10)
    lines = console.read_bytes().decode().split("\r")
    assert [line.split()[-1] for line in lines if line.strip()] == ["0%", "50%", "100%"]
