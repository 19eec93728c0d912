"""What a machine in QEMU tells, read from its serial console."""

from __future__ import annotations

from pathlib import Path

import pytest

from casemate.errors import BootError
from casemate.image.vm import Hardware, Machine

START, READY = b'{"stage": "start", "uptime": 1}\r\n', b'{"stage": "ready"}\r\n'


class On(Machine):
    """A machine that is on, or was: what it says is in its log already."""

    def __init__(self, place: Path, said: bytes, *, on: bool = True) -> None:
        super().__init__(place, Hardware())
        self._on = on
        self.serial.write_bytes(said)
        (place / "qemu.log").write_bytes(b"qemu: no such thing\n")

    def running(self) -> bool:
        return self._on

    def say(self, words: bytes) -> None:
        with self.serial.open("ab") as stream:
            stream.write(words)


def test_a_boot_is_told_up_to_its_end_whatever_firmware_says_before(tmp_path: Path) -> None:
    machine = On(
        tmp_path, b"\x1b[2JBdsDxe: loading\r\n" + START + b'{"stage": 1\r\n' + READY + START
    )
    assert [fact["stage"] for fact in machine.told()] == ["start", "ready"]


def test_the_bar_of_an_installer_is_progress(tmp_path: Path) -> None:
    bars = b"\r  write   [####....]  50%\r  write   [########] 100%\r\n\r\n"
    machine = On(tmp_path, START + bars + b'{"stage": "refused"}\n')
    told = [(fact["stage"], fact.get("percent")) for fact in machine.told()]
    assert told == [("start", None), ("progress", 50), ("progress", 100), ("refused", None)]


def test_who_is_asked_may_think_as_long_as_he_likes(tmp_path: Path) -> None:
    machine = On(tmp_path, b'{"stage": "locked", "reason": "PCR 7"}\r\n   > ')
    told = machine.told(0.0)
    assert next(told)["stage"] == "locked"
    machine.say(READY)
    assert next(told)["stage"] == "ready"


def test_a_machine_that_hangs_is_told_with_its_last_words(tmp_path: Path) -> None:
    machine = On(tmp_path, START + b"\x1b[0mBdsDxe: failed to load: Access Denied\r\n\r\n")
    with pytest.raises(BootError, match=r"failed to load: Access Denied$") as refused:
        list(machine.told(0.0))
    assert refused.value.code == "boot-hangs"


def test_a_machine_that_went_off_is_told_with_the_words_of_qemu(tmp_path: Path) -> None:
    with pytest.raises(BootError, match="no such thing"):
        list(On(tmp_path, START, on=False).told())


def test_a_terminal_that_connects_is_shown_the_last_screen(tmp_path: Path) -> None:
    machine = On(tmp_path, b"old\x1b[2Jolder\x1b[2J\x1b[Hnew\r\n" + START)
    assert machine.last_screen() == b"\x1b[2J\x1b[Hnew\r\n"
    machine.say(b"x" * (1 << 20))
    assert set(machine.last_screen()) == {ord("x")}
    machine.serial.unlink()
    assert machine.last_screen() == b""
