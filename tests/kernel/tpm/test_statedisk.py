"""The state of a machine: empty at first, its own TPM's afterwards, nobody's when things change."""

from __future__ import annotations

import asyncio
import json
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from casemate.calls.encryption import (
    EncryptionReply,
    EncryptionSet,
    RecoveryList,
    RecoveryReply,
    RecoveryRotate,
)
from casemate.errors import BootError, StateError
from casemate.formats.statekey import FILE
from casemate.kernel.boot import handedover, statedisk
from casemate.kernel.boot.firmware import NO_FIRMWARE
from casemate.kernel.boot.progress import Progress
from casemate.kernel.boot.statedisk import RECOVERY, Surroundings, open_state, read_record
from casemate.kernel.encryption import Encryption
from casemate.kernel.home import Home
from casemate.kernel.tpm import swtpm
from casemate.kernel.tpm.device import Tpm
from casemate.policy.measure import BootMeasurer
from casemate.policy.sealing import BANK

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("root_only")]

EMPTY = b"an empty file system".ljust(4096, b"\0")


@dataclass
class Host:
    """A home, a device, and a TPM that each start powers up anew; keys that devices were given."""

    home: Home
    device: Path
    answers: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    mounted: int = 0

    def start(
        self,
        *,
        secure_boot: bytes = b"\1" * 32,
        option: str = "TRUE",
        tpm_of: Home | None = None,
    ) -> list[object]:
        """Start the host with Secure Boot's PCR extended by this; return what was told.

        ``option`` is the value of execInstalledOnly, empty for a loader that does not measure it.
        """
        reading, writing = os.pipe()
        process = swtpm.start(tpm_of or self.home)
        try:
            with Tpm.embedded(process.path) as tpm:
                tpm.startup()
                tpm.extend(7, {BANK: secure_boot})
                measure_option(tpm, option)
                around = Surroundings(self._crypt, self._mount, self._ask)
                open_state(self.device, self.home, tpm, NO_FIRMWARE, Progress(writing), around)
        finally:
            process.stop()
            os.close(writing)
            with open(reading, "rb") as stream:  # noqa: PTH123 (a descriptor)
                told = [json.loads(line) for line in stream]
        return told

    def _crypt(self, device: Path, key: bytes) -> Path:
        self.keys.append(key)
        return device

    def _mount(self, _view: Path) -> None:
        self.mounted += 1

    def _ask(self, question: str) -> str:
        self.asked.append(question)
        return self.answers.pop(0) if self.answers else ""

    def ask(self, request: object, *, option: str = "TRUE") -> object:
        """Ask the running host, which booted with the option, about its encryption."""
        process = swtpm.start(self.home)
        try:
            with Tpm.embedded(process.path) as tpm:
                tpm.startup()
                tpm.extend(7, {BANK: b"\1" * 32})
                measure_option(tpm, option)

                async def with_tpm(work: Callable[[Tpm], object]) -> object:
                    return work(tpm)

                encryption = Encryption(
                    self.home, sealed=True, with_tpm=with_tpm, told=lambda _: None
                )
                return asyncio.run(encryption.handlers()[type(request)](request, None))
        finally:
            process.stop()


def measure_option(tpm: Tpm, value: str) -> None:
    """Measure execInstalledOnly as the loader does."""
    text = f"execInstalledOnly = {value}"
    for planned in BootMeasurer((BANK,)).sealed_option(text) if value else ():
        tpm.extend(planned.event.pcr, dict(planned.event.digests))


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Home]:
    made = []
    for name in ("a", "b"):
        home = Home(tmp_path_factory.mktemp(name))
        home.create()
        swtpm.manufacture(home)
        made.append(home)
    return made[0], made[1]


@pytest.fixture
def host(
    homes: tuple[Home, Home], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Host]:
    template, device = tmp_path / "template", tmp_path / "device"
    template.write_bytes(struct.pack("<I", 2) + EMPTY)
    device.write_bytes(b"what somebody planted".ljust(1 << 16, b"\xee"))
    monkeypatch.setattr(statedisk, "TEMPLATE", template)
    yield Host(homes[0], device)
    for bank in homes[0].banks:
        (bank / FILE).unlink(missing_ok=True)


def test_a_state_is_made_once_and_comes_back_by_itself(host: Host) -> None:
    (told,) = host.start()
    assert isinstance(told, dict)
    assert told["stage"] == "state"
    assert host.device.read_bytes()[8192:12288] == EMPTY
    kept = (host.home.state / RECOVERY).read_text().split()
    assert kept == [told["recoveryId"], told["recoveryKey"]]
    host.device.write_bytes(b"used")
    assert host.start() == []
    assert host.keys[0] == host.keys[1]
    assert host.device.read_bytes() == b"used"
    assert (host.mounted, host.asked) == (2, [])


def test_a_start_that_was_cut_before_the_state_was_whole_makes_it_again(host: Host) -> None:
    mount = host._mount
    host._mount = lambda _view: (_ for _ in ()).throw(BootError("power cut"))  # type: ignore[method-assign]
    with pytest.raises(BootError, match="power cut"):
        host.start()
    host._mount = mount  # type: ignore[method-assign]
    host.device.write_bytes(bytes(1 << 16))
    (told,) = host.start()
    assert isinstance(told, dict)
    assert "recoveryKey" in told
    assert host.device.read_bytes()[8192:12288] == EMPTY
    assert host.start() == []


def test_settings_of_an_installation_move_into_the_state_that_is_made(host: Host) -> None:
    mount = host._mount
    host._mount = lambda _view: (_ for _ in ()).throw(BootError("power cut"))  # type: ignore[method-assign]
    host.device.write_bytes(bytes(1 << 20) + handedover.pack(b"signed"))
    with pytest.raises(BootError, match="power cut"):
        host.start()
    host._mount = mount  # type: ignore[method-assign]
    host.start()
    place = host.home.state / handedover.FIRST
    assert place.read_bytes() == b"signed"
    assert not any(host.device.read_bytes()[-handedover.PLACE_SIZE :])
    place.unlink()


def test_settings_that_somebody_plants_later_are_erased_and_not_used(host: Host) -> None:
    host.device.write_bytes(bytes(2 << 20))
    host.start()
    with host.device.open("r+b") as stream:
        stream.seek(1 << 20)
        stream.write(handedover.pack(b"planted"))
    host.start()
    assert not (host.home.state / handedover.FIRST).exists()
    assert not any(host.device.read_bytes()[-handedover.PLACE_SIZE :])


def stages(told: list[object]) -> list[object]:
    """Return what was told by name alone."""
    return [one["stage"] for one in told if isinstance(one, dict)]


def test_secure_boot_switched_off_stops_the_start_until_the_recovery_key_is_given(
    host: Host,
) -> None:
    (told,) = host.start()
    assert isinstance(told, dict)
    with pytest.raises(BootError) as caught:
        host.start(secure_boot=b"\2" * 32)
    assert caught.value.code == "state-sealed"
    assert "PCR 7 is not what the state was sealed to" in caught.value.reason
    assert told["recoveryId"] in host.asked[0]
    assert host.mounted == 1
    before = read_record(host.home)
    host.answers = ["111111", str(told["recoveryKey"])]
    assert stages(host.start(secure_boot=b"\2" * 32)) == ["locked"]
    after = read_record(host.home)
    assert before is not None
    assert after is not None
    assert after.serial == before.serial + 1
    # From now on the changed machine is the one that the state belongs to.
    host.asked.clear()
    assert host.start(secure_boot=b"\2" * 32) == []
    assert host.asked == []
    assert len(set(host.keys)) == 1


def test_a_disk_in_another_machine_keeps_its_secrets(host: Host, homes: tuple[Home, Home]) -> None:
    (told,) = host.start()
    assert isinstance(told, dict)
    with pytest.raises(BootError, match="another TPM"):
        host.start(tpm_of=homes[1])
    host.answers = [str(told["recoveryKey"])]
    assert stages(host.start(tpm_of=homes[1])) == ["locked"]
    assert len(set(host.keys)) == 1


def test_without_its_record_a_state_starts_empty_and_under_another_key(host: Host) -> None:
    host.start()
    for bank in host.home.banks:
        (bank / FILE).unlink()
    host.device.write_bytes(b"planted".ljust(1 << 16, b"\xee"))
    (told,) = host.start()
    assert isinstance(told, dict)
    assert host.keys[0] != host.keys[1]
    assert host.device.read_bytes()[8192:12288] == EMPTY


def test_a_new_recovery_key_opens_the_state_and_the_old_one_does_not(host: Host) -> None:
    (told,) = host.start()
    assert isinstance(told, dict)
    new = host.ask(RecoveryRotate())
    shown = host.ask(RecoveryList())
    assert isinstance(new, RecoveryReply)
    assert shown == new
    host.answers = [str(told["recoveryKey"]), new.key]
    assert stages(host.start(secure_boot=b"\2" * 32)) == ["locked"]
    assert new.recovery_id in host.asked[0]
    assert "This is not the recovery key" in host.asked[1]
    assert len(set(host.keys)) == 1


def test_one_lost_or_damaged_record_is_made_good_by_the_other_bank(host: Host) -> None:
    host.start()
    first, second = host.home.banks
    (first / FILE).write_bytes(b"{")
    assert host.start() == []
    (second / FILE).write_bytes((second / FILE).read_bytes())
    assert read_record(host.home) is not None


def test_a_boot_with_the_required_option_off_is_refused_by_name_and_opened_by_the_key(
    host: Host,
) -> None:
    (told,) = host.start()
    assert isinstance(told, dict)
    set_ = host.ask(EncryptionSet("", require_exec_installed_only=True))
    assert isinstance(set_, EncryptionReply)
    assert set_.require_exec_installed_only
    assert host.start() == []
    for option in ("FALSE", ""):
        with pytest.raises(BootError) as caught:
            host.start(option=option)
        assert caught.value.code == "state-sealed"
        assert caught.value.reason == (
            "PCR 15 is not what the state was sealed to."
            " Changed: execInstalledOnly, which must be TRUE."
        )
        assert told["recoveryId"] in host.asked[-statedisk.ATTEMPTS]
    # The key opens the state once; the requirement stays.
    host.answers = [str(told["recoveryKey"])]
    assert stages(host.start(option="FALSE")) == ["locked"]
    with pytest.raises(BootError, match="PCR 15 is not"):
        host.start(option="FALSE")
    host.asked.clear()
    assert host.start() == []
    assert host.asked == []
    assert len(set(host.keys)) == 1


def test_a_changed_secure_boot_is_sealed_anew_and_the_option_still_required(host: Host) -> None:
    (told,) = host.start()
    assert isinstance(told, dict)
    host.ask(EncryptionSet("", require_exec_installed_only=True))
    host.answers = [str(told["recoveryKey"])]
    assert stages(host.start(secure_boot=b"\2" * 32)) == ["locked"]
    assert host.start(secure_boot=b"\2" * 32) == []
    with pytest.raises(BootError, match="PCR 15 is not"):
        host.start(secure_boot=b"\2" * 32, option="FALSE")


@pytest.mark.parametrize("option", ["FALSE", ""])
def test_a_host_that_runs_without_the_option_cannot_require_it(host: Host, option: str) -> None:
    host.start(option=option)
    before = read_record(host.home)
    with pytest.raises(StateError) as caught:
        host.ask(EncryptionSet("", require_exec_installed_only=True), option=option)
    assert caught.value.code == "exec-installed-only-off"
    assert read_record(host.home) == before
    assert host.start(option=option) == []


def test_a_requirement_that_is_taken_back_lets_the_option_be_off(host: Host) -> None:
    host.start()
    host.ask(EncryptionSet("", require_exec_installed_only=True))
    host.ask(EncryptionSet("", require_exec_installed_only=False))
    assert host.start(option="FALSE") == []
    assert host.asked == []
