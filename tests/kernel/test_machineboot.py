"""The first program of a machine: whatever goes wrong has a name, and another bank boots."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import BootError, CasemateError, DigestError
from casemate.formats.bootcfg import BootCfg, BootState, write_bootcfg
from casemate.formats.bootoption import Place, parse_order, write_option, write_order
from casemate.formats.osrelease import SECTION, write_release
from casemate.formats.pe import add_sections
from casemate.kernel import start
from casemate.kernel.boot import firmwareboot
from casemate.kernel.boot.bank import read_bank, read_banks, read_images, write_complete
from casemate.kernel.boot.bare import Attempt, choose, refuse
from casemate.kernel.boot.firmwareboot import FirmwareBoot, recorded
from casemate.kernel.boot.lastword import COLUMNS, folded, named, say
from casemate.kernel.boot.progress import Progress
from casemate.kernel.home import Home
from casemate.kernel.start import end_trial
from casemate.kernel.sys.power import Power
from casemate.policy.banks import TRIED, plan_boot
from casemate.testing.smallpe import small_pe

OPTIONS = {
    name: write_option(f"Casemate {name}", Place(n, 2048 * n, 2048, UUID(int=n)), "\\boot.efi")
    for n, name in ((2, "bootbank"), (3, "altbootbank"))
}
GUID = "8be4df61-93ca-11d2-aa0d-00e098032b8c"


@dataclass
class Machine:
    """A home with two banks, firmware's variables as files, and what was told and done."""

    home: Home
    variables: Path
    ended: list[Power] = field(default_factory=list)

    @property
    def firmware(self) -> FirmwareBoot:
        return FirmwareBoot(OPTIONS, self.variables)

    def bank(self, name: str, state: BootState, updated: int, image: str = "") -> None:
        config = BootCfg("b.b00", updated=updated, bootstate=state)
        place = self.home.path / name
        (place / "boot.cfg").write_bytes(write_bootcfg(config))
        if image:
            content = add_sections(small_pe(), {SECTION: write_release("1", image)})
            (place / "boot.efi").write_bytes(content)

    def state(self, name: str) -> BootState:
        config = read_bank(self.home, name).config
        assert config is not None
        return config.bootstate

    def variable(self, name: str) -> bytes:
        return (self.variables / f"{name}-{GUID}").read_bytes()[4:]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    home, variables = Home(tmp_path / "home"), tmp_path / "efivars"
    home.create()
    variables.mkdir()
    return Machine(home, variables)


def failing(machine: Machine, error: BaseException) -> list[dict[str, object]]:
    """Let the boot of the newest bank fail; return what was told on the console."""
    reading, writing = os.pipe()
    attempt = Attempt(
        Progress(writing), machine.home, plan_boot(read_banks(machine.home)), machine.firmware
    )
    refuse(attempt, named(error, "boot loader"), machine.ended.append, lambda _: None)
    os.close(writing)
    with open(reading, "rb") as stream:  # noqa: PTH123 (a descriptor)
        return [json.loads(line) for line in stream]


@given(st.uuids(), st.integers(0, 100))
def test_the_name_of_a_key_stays_whole_wherever_the_line_ends(name: UUID, before: int) -> None:
    text = f"{'a ' * before}Give the recovery key {name}: it was shown once."
    assert str(name) in folded(text)
    assert all(len(line) <= COLUMNS for line in folded(text).splitlines())


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (
            DigestError("It is changed.", code="payload-changed", component="k.b00"),
            "payload-changed",
        ),
        (KeyError("vib"), "unforeseen"),
        (RecursionError("too deep"), "unforeseen"),
        (MemoryError(), "unforeseen"),
        (KeyboardInterrupt(), "unforeseen"),
        (SystemExit(1), "unforeseen"),
    ],
)
def test_whatever_ends_the_loader_has_a_name_marks_the_bank_and_restarts(
    machine: Machine, error: BaseException, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.bank("bootbank", BootState.VALID, 2)
    machine.bank("altbootbank", BootState.VALID, 1)
    (told,) = failing(machine, error)
    assert (told["stage"], told["code"]) == ("refused", code)
    assert f"The boot was refused ({code})" in capsys.readouterr().err
    assert machine.state("bootbank") is BootState.INVALID
    assert machine.ended == [Power.RESTART]
    assert parse_order(machine.variable("BootNext")) == (0,)
    assert machine.variable("Boot0000") == OPTIONS["altbootbank"]


def test_an_unforeseen_error_names_its_place() -> None:
    def broken() -> None:
        raise ValueError("a  reason\nof two lines")

    with pytest.raises(ValueError, match="reason") as caught:
        broken()
    error = named(caught.value, "boot loader")
    assert "ValueError in broken, line" in error.reason
    assert error.reason.endswith("a reason of two lines")


def test_the_only_bank_keeps_its_state_and_the_reason_stays(machine: Machine) -> None:
    machine.bank("bootbank", BootState.VALID, 2)
    (told,) = failing(machine, ValueError("x"))
    assert told["code"] == "unforeseen"
    assert machine.state("bootbank") is BootState.VALID
    assert machine.ended == []


def test_a_failure_before_a_bank_was_chosen_stays_on_the_console(machine: Machine) -> None:
    attempt = Attempt(Progress(-1), machine.home)
    refuse(attempt, BootError("no disk"), machine.ended.append, lambda _: None)
    assert machine.ended == []


def test_a_bank_that_cannot_be_marked_is_told_and_not_hidden(machine: Machine) -> None:
    machine.bank("bootbank", BootState.VALID, 2)
    machine.bank("altbootbank", BootState.VALID, 1)

    def gone(_: Power) -> None:
        raise BootError("Linux refuses to restart")

    plan = plan_boot(read_banks(machine.home))
    refuse(Attempt(Progress(-1), machine.home, plan), BootError("x"), gone, lambda _: None)


def test_a_newer_boot_image_is_started_once_and_given_up_when_it_does_not_come(
    machine: Machine,
) -> None:
    machine.bank("bootbank", BootState.VALID, 1, "old")
    machine.bank("altbootbank", BootState.UPGRADING, 2, "new")
    assert read_images(machine.home) == {"bootbank": "old", "altbootbank": "new"}
    attempt = Attempt(Progress(-1), machine.home, firmware=machine.firmware)
    assert choose(machine.home, "old", attempt, machine.ended.append).bank.name == "altbootbank"
    assert machine.ended == [Power.RESTART]
    assert machine.variable("Boot0000") == OPTIONS["altbootbank"]
    # Firmware refused it, and started the old one again.
    assert choose(machine.home, "old", attempt, machine.ended.append).bank.name == "bootbank"
    assert machine.state("altbootbank") is BootState.INVALID
    assert machine.ended == [Power.RESTART, Power.RESTART]
    # With a clean TPM the old bank boots.
    assert choose(machine.home, "old", attempt, machine.ended.append).bank.name == "bootbank"
    assert len(machine.ended) == 2


def test_a_boot_image_that_came_up_boots_its_bank_and_leaves_no_mark(machine: Machine) -> None:
    machine.bank("bootbank", BootState.VALID, 1, "old")
    machine.bank("altbootbank", BootState.UPGRADING, 2, "new")
    attempt = Attempt(Progress(-1), machine.home, firmware=machine.firmware)
    choose(machine.home, "old", attempt, machine.ended.append)
    assert choose(machine.home, "new", attempt, machine.ended.append).bank.name == "altbootbank"
    write_complete(machine.home, "altbootbank")
    config = read_bank(machine.home, "altbootbank").config
    assert config is not None
    assert (config.bootstate, TRIED in dict(config.extra)) == (BootState.VALID, False)


@pytest.mark.parametrize("variables", [False, True])
def test_where_firmware_cannot_be_told_the_present_image_boots_its_own_bank(
    machine: Machine, *, variables: bool
) -> None:
    machine.bank("bootbank", BootState.VALID, 1, "old")
    machine.bank("altbootbank", BootState.UPGRADING, 2, "new")
    firmware = FirmwareBoot(OPTIONS, machine.variables / "absent") if variables else None
    attempt = Attempt(Progress(-1), machine.home, firmware=firmware)
    assert choose(machine.home, "old", attempt, machine.ended.append).bank.name == "bootbank"
    assert machine.ended == []


def test_a_damaged_boot_image_is_nobodys(machine: Machine) -> None:
    machine.bank("bootbank", BootState.VALID, 1)
    (machine.home.path / "bootbank" / "boot.efi").write_bytes(b"MZ and nothing more")
    assert read_images(machine.home) == {"bootbank": "damaged", "altbootbank": ""}


def test_the_bank_that_completed_is_first_and_others_keep_their_order(machine: Machine) -> None:
    for number, content in ((0, b"shell"), (1, OPTIONS["bootbank"]), (2, b"network")):
        path = machine.variables / f"Boot{number:04X}-{GUID}"
        path.write_bytes(bytes(4) + content)
    (machine.variables / f"BootOrder-{GUID}").write_bytes(bytes(4) + write_order((0, 1, 2)))
    machine.firmware.keep("altbootbank")
    assert parse_order(machine.variable("BootOrder")) == (3, 1, 0, 2)
    assert machine.variable("Boot0003") == OPTIONS["altbootbank"]
    before = (machine.variables / f"BootOrder-{GUID}").stat().st_mtime_ns
    machine.firmware.keep("altbootbank")
    assert (machine.variables / f"BootOrder-{GUID}").stat().st_mtime_ns == before


def test_what_the_loader_records_the_kernel_finds(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firmwareboot, "VARIABLES", machine.variables)
    assert recorded(machine.home) is None
    machine.firmware.record(machine.home)
    found = recorded(machine.home)
    assert found is not None
    found.once("bootbank")
    assert machine.variable("Boot0000") == OPTIONS["bootbank"]
    with pytest.raises(CasemateError, match="no such partition"):
        found.once("third")


@pytest.mark.parametrize(
    ("state", "ends"), [(BootState.VALID, False), (BootState.DIRTY, True), (None, True)]
)
def test_a_boot_that_does_not_complete_in_time_ends_the_trial(
    machine: Machine, state: BootState | None, monkeypatch: pytest.MonkeyPatch, *, ends: bool
) -> None:
    console = machine.variables / "console"
    console.touch()
    monkeypatch.setattr(start, "CONSOLES", (console,))
    if state is not None:
        machine.bank("bootbank", state, 1)
    end_trial(machine.home, "bootbank", machine.ended.append)
    assert machine.ended == ([Power.RESTART] if ends else [])
    assert ("boot-late" in console.read_text()) == ends


def test_a_refusal_stands_on_every_console_that_is_there(tmp_path: Path) -> None:
    error = BootError("word " * 60, code="payload-changed", component="k.b00", remedy="Do this.")
    screen, line = tmp_path / "tty1", tmp_path / "ttyS0"
    say(error, (screen, tmp_path / "none/tty2", line))
    assert screen.read_text() == line.read_text()
    assert "payload-changed" in screen.read_text()
    assert "k.b00" in screen.read_text()
    assert "Do this." in screen.read_text()
    assert max(map(len, screen.read_text().splitlines())) < 80


def test_the_screen_shows_the_stages_in_words_and_no_secret(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    with (tmp_path / "screen").open("wb") as screen:
        progress = Progress(writing, screen.fileno())
        progress.tell("component", file="k.b00", vib="casemate-kernel", version="1-1", pcr="12")
        progress.tell("network", address="")
        progress.tell("account", user="root", password="first secret")
        progress.tell("state", recoveryKey="second secret")
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as told:
        stages = [json.loads(line)["stage"] for line in told]
    shown = (tmp_path / "screen").read_text()
    assert stages == ["component", "network", "account", "state"]
    assert "k.b00         casemate-kernel 1-1" in shown
    assert "Network: none" in shown
    assert "secret" not in shown
    assert capfd.readouterr() == ("", "")
