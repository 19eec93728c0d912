"""Log and PCRs stay in step, whatever ends between them."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from casemate.calls.messages import Quote
from casemate.errors import TpmError
from casemate.formats.eventlog import parse, replay
from casemate.kernel.boot.record import BootRecord, write_record
from casemate.kernel.journal import Journal
from casemate.kernel.measurements import Measurements
from casemate.policy.measure import BANKS, BootMeasurer
from casemate.testing.faketpm import FakeTpm


class Chip:
    """What Measurements needs of a TPM, over FakeTpm; ``budget`` extends, then it is gone."""

    kind = "fake"

    def __init__(self, budget: int = 1000) -> None:
        self.fake = FakeTpm(BANKS)
        self.fake.hash_launch(b"loader")
        self.budget = budget
        self.inside = self.most = 0
        self.answers = threading.Event()
        self.answers.set()

    def extend(self, pcr: int, digests: Mapping[str, bytes], locality: int = 0) -> None:
        if self.budget == 0:
            raise TpmError("gone", code="tpm-gone")
        self.budget -= 1
        self.fake.extend(pcr, digests, locality)

    def read_pcrs(self, banks: Sequence[str], pcrs: Sequence[int]) -> dict[str, dict[int, bytes]]:
        values = self.fake.values()
        return {bank: {pcr: values[bank][pcr] for pcr in pcrs} for bank in banks}

    def quote(
        self, nonce: bytes, banks: Sequence[str], _pcrs: Sequence[int]
    ) -> tuple[bytes, bytes]:
        self.inside += 1
        self.most = max(self.most, self.inside)
        assert self.answers.wait(60)
        self.inside -= 1
        return nonce, banks[0].encode()

    def shutdown(self) -> None: ...

    def close(self) -> None: ...


MEASURER = BootMeasurer(BANKS)


def begun(place: Path, chip: Chip) -> bytes:
    """Leave the record of a boot whose log is in step with the chip."""
    launch = {bank: hashlib.new(bank, b"loader").digest() for bank in BANKS}
    journal = Journal(place, MEASURER.header())
    journal.settle([one.event for one in MEASURER.launch("b.b00", launch)])
    for one in MEASURER.command_line("b.b00"):
        chip.extend(one.event.pcr, dict(one.event.digests), one.locality)
        journal.settle([one.event])
    record = BootRecord("bootbank", "p", "v", "1", "partner", "", 0.0, drtm=True, banks=BANKS)
    write_record(place, record, [], journal.log)
    return journal.log


def in_step(log: bytes, chip: Chip) -> bool:
    values = chip.fake.values()
    return all(
        values[bank][pcr] == value
        for bank, pcrs in replay(parse(log)).items()
        for pcr, value in pcrs.items()
    )


@pytest.mark.parametrize("done", range(5))
def test_a_kill_after_any_extend_is_repaired_by_the_next_kernel(tmp_path: Path, done: int) -> None:
    chip = Chip()
    log = begun(tmp_path, chip)
    planned = (*MEASURER.boot_complete(), *MEASURER.security_option("A = B"))
    Journal(tmp_path, log).intend([one.event for one in planned])
    for one in planned[:done]:
        chip.extend(one.event.pcr, dict(one.event.digests), one.locality)
    again = Journal(tmp_path, (tmp_path / "eventlog.bin").read_bytes())
    again.recover(chip, BANKS)  # type: ignore[arg-type]
    assert in_step(again.log, chip)
    assert again.complete == (done > 0)
    assert (tmp_path / "eventlog.bin").read_bytes() == again.log
    assert not (tmp_path / "eventlog.next").exists()


def test_boot_complete_is_measured_once_however_often_the_kernel_starts(tmp_path: Path) -> None:
    chip = Chip()
    begun(tmp_path, chip)

    async def life() -> None:
        measurements = Measurements(tmp_path, lambda: chip)  # type: ignore[arg-type, return-value]
        await measurements.start()
        await measurements.boot_complete()
        assert measurements.complete
        await measurements.close()

    for _ in range(3):
        asyncio.run(life())
        assert in_step((tmp_path / "eventlog.bin").read_bytes(), chip)


@pytest.mark.parametrize("budget", range(3))
def test_a_tpm_that_goes_away_in_the_middle_leaves_what_it_took_in_the_log(
    tmp_path: Path, budget: int
) -> None:
    chip = Chip()
    begun(tmp_path, chip)
    chip.budget = budget

    async def life() -> None:
        measurements = Measurements(tmp_path, lambda: chip)  # type: ignore[arg-type, return-value]
        await measurements.start()
        if budget < 2:
            with pytest.raises(TpmError):
                await measurements.security_option("A = B")
            assert measurements.lost
        else:
            await measurements.security_option("A = B")

    asyncio.run(life())
    assert in_step((tmp_path / "eventlog.bin").read_bytes(), chip)


def test_clients_that_hang_up_never_bring_two_threads_to_the_tpm(tmp_path: Path) -> None:
    chip = Chip()
    begun(tmp_path, chip)

    async def life() -> None:
        measurements = Measurements(tmp_path, lambda: chip)  # type: ignore[arg-type, return-value]
        await measurements.start()
        chip.answers.clear()
        for _ in range(4):
            asking = asyncio.ensure_future(measurements.quote(Quote(bytes(16), ("sha256",), (14,))))
            await asyncio.sleep(0.01)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        chip.answers.set()
        await measurements.quote(Quote(bytes(16), ("sha256",), (14,)))
        await measurements.close()

    asyncio.run(life())
    assert chip.most == 1


def test_a_cancelled_measurement_is_made_and_logged_all_the_same(tmp_path: Path) -> None:
    chip = Chip()
    begun(tmp_path, chip)

    async def life() -> None:
        measurements = Measurements(tmp_path, lambda: chip)  # type: ignore[arg-type, return-value]
        await measurements.start()
        asking = asyncio.ensure_future(measurements.security_option("A = B"))
        await asyncio.sleep(0)
        asking.cancel()
        await measurements.close()

    asyncio.run(life())
    log = (tmp_path / "eventlog.bin").read_bytes()
    assert in_step(log, chip)
    assert b"A = B" in log
