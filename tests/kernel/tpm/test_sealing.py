"""Sealing, with a real TPM program: only this TPM, and only while the PCRs are as they were."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from casemate.errors import TpmError
from casemate.kernel.home import Home
from casemate.kernel.tpm import swtpm
from casemate.kernel.tpm.device import Tpm
from casemate.kernel.tpm.sealing import seal, unseal
from casemate.policy.sealing import BANK, KEY_SIZE, SEALED_PCRS

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("root_only")]

SECRET = secrets.token_bytes(KEY_SIZE)


def start(place: Path) -> Iterator[Tpm]:
    home = Home(place)
    home.create()
    swtpm.manufacture(home)
    process = swtpm.start(home)
    try:
        with Tpm.embedded(process.path) as device:
            device.startup()
            yield device
    finally:
        process.stop()


@pytest.fixture
def tpm(tmp_path: Path) -> Iterator[Tpm]:
    yield from start(tmp_path / "h")


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Tpm]:
    yield from start(tmp_path / "o")


def test_a_key_comes_back_until_a_sealed_pcr_changes(tpm: Tpm) -> None:
    values = tpm.read_pcrs([BANK], SEALED_PCRS)[BANK]
    public, private = seal(tpm, SECRET, values)
    assert SECRET not in public + private
    for _ in range(4):  # nothing is left behind in the TPM's few places
        assert unseal(tpm, public, private, SEALED_PCRS) == SECRET
    tpm.extend(8, {BANK: bytes(32)})
    assert unseal(tpm, public, private, SEALED_PCRS) == SECRET
    tpm.extend(7, {BANK: bytes(32)})
    for _ in range(4):
        with pytest.raises(TpmError) as caught:
            unseal(tpm, public, private, SEALED_PCRS)
        assert caught.value.code == "seal-pcrs"


def test_who_listens_on_the_wires_sees_the_key_neither_go_nor_come(
    tpm: Tpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = tmp_path / "wires.pcap"
    monkeypatch.setenv("TCTI_PCAP_FILE", str(heard))
    values = tpm.read_pcrs([BANK], SEALED_PCRS)[BANK]
    tpm.close()
    place = Home(tmp_path / "h")
    with Tpm("pcap", f"swtpm:path={swtpm.socket_path(place)}", kind="swtpm") as device:
        public, private = seal(device, SECRET, values)
        assert unseal(device, public, private, SEALED_PCRS) == SECRET
    recorded = heard.read_bytes()
    assert private in recorded
    assert SECRET not in recorded


def test_a_key_can_be_sealed_for_values_that_are_still_to_come(tpm: Tpm) -> None:
    values = tpm.read_pcrs([BANK], SEALED_PCRS)[BANK]
    tpm.extend(7, {BANK: b"\1" * 32})
    later = tpm.read_pcrs([BANK], SEALED_PCRS)[BANK]
    public, private = seal(tpm, SECRET, values)
    with pytest.raises(TpmError):
        unseal(tpm, public, private, SEALED_PCRS)
    public, private = seal(tpm, SECRET, later)
    assert unseal(tpm, public, private, SEALED_PCRS) == SECRET


def test_another_tpm_gives_nothing_back(tpm: Tpm, other: Tpm) -> None:
    public, private = seal(tpm, SECRET, tpm.read_pcrs([BANK], SEALED_PCRS)[BANK])
    with pytest.raises(TpmError) as caught:
        unseal(other, public, private, SEALED_PCRS)
    assert caught.value.code == "seal-foreign"


@pytest.mark.parametrize("part", [0, 1])
def test_a_changed_blob_is_nobodys(tpm: Tpm, part: int) -> None:
    blobs = [bytearray(one) for one in seal(tpm, SECRET, tpm.read_pcrs([BANK], [7])[BANK])]
    blobs[part][len(blobs[part]) // 2] ^= 1
    with pytest.raises(TpmError) as caught:
        unseal(tpm, bytes(blobs[0]), bytes(blobs[1]), [7])
    assert caught.value.code == "seal-foreign"
    with pytest.raises(TpmError):
        unseal(tpm, b"", b"\xff", [7])
