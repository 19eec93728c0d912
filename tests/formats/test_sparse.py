"""Sparse disks read at any place, against qemu-img; damaged ones find only our own error."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from casemate.errors import CasemateError
from casemate.formats.sparse import Read, read_qcow2, read_sparse

KIB = 1 << 10
SIZE = 3 * 1024 * KIB + 512
FORMS = {
    "qcow2": ["-O", "qcow2"],
    "qcow2 old": ["-O", "qcow2", "-o", "compat=0.10"],
    "qcow2 small": ["-O", "qcow2", "-o", "cluster_size=4096"],
    "qcow2 packed": ["-O", "qcow2", "-c"],
    "vmdk": ["-O", "vmdk", "-o", "subformat=monolithicSparse"],
    "vmdk stream": ["-O", "vmdk", "-o", "subformat=streamOptimized"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    """Make one content with holes in every form."""
    if shutil.which("qemu-img") is None:
        pytest.skip("needs qemu-img")
    place = tmp_path_factory.mktemp("sparse")
    plain = bytearray(SIZE)
    numbers = random.Random(7)
    for _ in range(12):
        at = numbers.randrange(SIZE - 70_000)
        plain[at : at + numbers.randrange(70_000)] = numbers.randbytes(1000)
    plain = plain[:SIZE].ljust(SIZE, b"\7")
    (place / "plain").write_bytes(plain)
    found = {}
    for form, words in FORMS.items():
        found[form] = place / form.replace(" ", "-")
        convert = ["qemu-img", "convert", "-f", "raw", *words, place / "plain", found[form]]
        subprocess.run(convert, check=True, capture_output=True, timeout=60)
    return place / "plain", found


def reader(form: str, data: bytes, below: Read | None = None) -> Read:
    def file(offset: int, size: int) -> bytes:
        return data[offset : offset + size]

    more = {} if below is None else {"below": below}
    if form.startswith("qcow2"):
        return read_qcow2(file, **more)
    return read_sparse(file, len(data), **more)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_reads_as_what_it_was_made_of(made, form):
    source, files = made
    plain = source.read_bytes()
    read = reader(form, files[form].read_bytes())
    whole = read(0, SIZE + 5000)
    assert whole[:SIZE] == plain
    assert not any(whole[SIZE:])
    numbers = random.Random(1)
    for _ in range(60):
        at, size = numbers.randrange(SIZE), numbers.randrange(200_000)
        assert read(at, size)[: SIZE - at] == plain[at : at + size]


@pytest.mark.parametrize("form", ["qcow2", "vmdk"])
def test_what_a_delta_does_not_have_is_read_below_it(made, form):
    source, files = made
    plain = source.read_bytes()
    below = b"\x55" * SIZE
    read = reader(form, files[form].read_bytes(), lambda at, size: below[at : at + size])
    whole = read(0, SIZE)
    own = [at for at in range(0, SIZE - 1, 4 * KIB) if whole[at] != 0x55]
    assert own
    assert all(whole[at] == plain[at] for at in own)
    assert 0x55 in whole


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    form=st.sampled_from(sorted(FORMS)),
    at=st.integers(0, 300_000),
    damage=st.binary(min_size=1, max_size=24),
)
def test_damage_finds_only_our_own_error_and_no_more_bytes_than_asked_for(made, form, at, damage):
    data = bytearray(made[1][form].read_bytes())
    at %= len(data)
    data[at : at + len(damage)] = damage
    try:
        read = reader(form, bytes(data))
        assert len(read(0, SIZE)) <= SIZE
    except CasemateError:
        return
