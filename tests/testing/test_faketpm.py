"""The fake TPM keeps a real one's locality rules."""

from __future__ import annotations

import hashlib

import pytest

from casemate.errors import TpmError
from casemate.testing.faketpm import FakeTpm

D = {"sha256": hashlib.sha256(b"x").digest()}


def test_drtm_pcrs_are_all_ones_until_a_launch() -> None:
    fake = FakeTpm(("sha256",))
    values = fake.values()["sha256"]
    assert all(values[pcr] == b"\xff" * 32 for pcr in range(17, 23))
    assert values[0] == values[23] == bytes(32)
    fake.hash_launch(b"mle")
    values = fake.values()["sha256"]
    assert values[17] == hashlib.sha256(bytes(32) + hashlib.sha256(b"mle").digest()).digest()
    assert all(values[pcr] == bytes(32) for pcr in range(18, 23))
    fake.restart()
    assert fake.values()["sha256"][17] == b"\xff" * 32


@pytest.mark.parametrize(
    ("pcr", "localities"),
    [(0, "01234"), (17, "234"), (18, "234"), (19, "23"), (20, "123"), (21, "2"), (22, "2")],
)
def test_an_extend_from_a_wrong_locality_is_refused(pcr: int, localities: str) -> None:
    for locality in range(5):
        fake = FakeTpm(("sha256",))
        before = fake.values()
        if str(locality) in localities:
            fake.extend(pcr, D, locality)
            assert fake.values() != before
        else:
            with pytest.raises(TpmError) as caught:
                fake.extend(pcr, D, locality)
            assert caught.value.code == "locality"
            assert fake.values() == before


def test_resets_by_locality() -> None:
    fake = FakeTpm(("sha256",))
    fake.extend(16, D)
    fake.reset(16)
    assert fake.values()["sha256"][16] == bytes(32)
    fake.reset(20, locality=2)
    for pcr, locality in ((0, 0), (17, 4), (19, 2), (20, 0)):
        with pytest.raises(TpmError):
            fake.reset(pcr, locality)


@pytest.mark.parametrize(
    ("pcr", "digests"), [(24, D), (-1, D), (0, {"sha256": b""}), (0, {"sha1": bytes(20)})]
)
def test_values_that_a_tpm_refuses(pcr: int, digests: dict[str, bytes]) -> None:
    with pytest.raises(TpmError) as caught:
        FakeTpm(("sha256",)).extend(pcr, digests)
    assert caught.value.code == "value"


def test_startup_locality_and_hcrtm_show_in_pcr_0() -> None:
    assert FakeTpm(("sha1",), locality=3).values()["sha1"][0] == bytes(19) + b"\3"
    start = bytes(31) + b"\4" + hashlib.sha256(b"crtm").digest()
    assert FakeTpm(hcrtm=b"crtm").values()["sha256"][0] == hashlib.sha256(start).digest()
