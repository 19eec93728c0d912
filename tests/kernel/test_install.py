"""The built disk on another disk: the same bytes, and nothing lost that nobody gave up."""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from casemate.errors import CasemateError, FormatError, HostError, LimitError, StateError
from casemate.formats.gpt import EFI_SYSTEM, HEAD, SECTOR, Entry, parse_gpt, write_gpt
from casemate.image.disk import ALIGNMENT, MEBIBYTE, Layout
from casemate.image.erofs import NAMESPACE
from casemate.kernel.boot import handedover
from casemate.kernel.boot.install import image_source, install
from casemate.kernel.boot.targets import choose, targets

NAMES = [part.name for part in Layout().partitions()]
STORE = 8
"""MiB of the datastore: what an ext4 with a journal needs."""
SECTORS = (1 + len(NAMES) + STORE) * ALIGNMENT
NOISE = b"\xa5" * MEBIBYTE


def write_image(place: Path, names: list[str]) -> bytes:
    """Write a disk with partitions of 1 MiB, the last one larger, and return its bytes."""
    sizes = [1] * (len(names) - 1) + [STORE]
    entries = [
        Entry(EFI_SYSTEM, NAMESPACE, (1 + number) * ALIGNMENT, size * ALIGNMENT, name)
        for number, (name, size) in enumerate(zip(names, sizes, strict=True))
    ]
    first, last = write_gpt(NAMESPACE, SECTORS, entries)
    inside = b"".join(bytes([65 + number]) * MEBIBYTE for number in range(len(names) - 1))
    data = first.ljust(MEBIBYTE, b"\0") + inside
    data = data.ljust(SECTORS * SECTOR - len(last), b"\0") + last
    place.write_bytes(data)
    return data


@pytest.fixture
def image(tmp_path: Path) -> Path:
    place = tmp_path / "disk.img"
    write_image(place, NAMES)
    return place


def put(image: Path, target: Path, *, overwrite: bool = True, settings: bytes = b"") -> None:
    """Install with identifiers that follow from a counter."""
    count = itertools.count(1)
    with image_source(image) as source:
        install(
            source,
            target,
            overwrite=overwrite,
            settings=settings,
            random=lambda size: next(count).to_bytes(size, "big"),
        )


@pytest.mark.parametrize("more", [0, MEBIBYTE, 5 * MEBIBYTE + SECTOR, 33 * SECTOR])
def test_the_image_is_written_whole_whatever_was_there_and_the_datastore_takes_the_rest(
    image, tmp_path, more
):
    target = tmp_path / "target"
    size = SECTORS * SECTOR + more
    target.write_bytes((NOISE * (size // MEBIBYTE + 1))[:size])
    put(image, target)
    written, wanted = target.read_bytes(), image.read_bytes()
    assert len(written) == size
    inside = slice(HEAD, len(NAMES) * MEBIBYTE)
    assert written[inside] == wanted[inside]
    entries = parse_gpt(written[:HEAD])
    assert [entry.name for entry in entries] == NAMES
    store = entries[-1]
    assert store.sectors == ((size // SECTOR - 33) // ALIGNMENT - len(NAMES)) * ALIGNMENT
    place = tmp_path / "datastore"
    place.write_bytes(written[store.start * SECTOR :][: store.sectors * SECTOR])
    found = subprocess.run(["dumpe2fs", "-h", place], check=True, capture_output=True, text=True)
    assert f"Filesystem UUID:          {store.guid}" in found.stdout
    assert f"Block count:              {store.sectors // 8}" in found.stdout
    first, last = write_gpt(UUID(bytes=written[568:584][::-1]), size // SECTOR, entries)
    assert written[-33 * SECTOR :][:-SECTOR] == last[:-SECTOR]
    assert written[2 * SECTOR : HEAD] == first[2 * SECTOR :]


def test_two_disks_of_one_image_have_nothing_in_common_that_names_them(image, tmp_path):
    heads = []
    for name in ("one", "two"):
        target = tmp_path / name
        target.write_bytes(bytes(SECTORS * SECTOR))
        with image_source(image) as source:
            install(source, target, overwrite=False)
        heads.append(target.read_bytes()[:HEAD])
    guids = [{entry.guid for entry in parse_gpt(head)} | {head[568:584]} for head in heads]
    assert len(guids[0]) == len(NAMES) + 1
    assert not guids[0] & guids[1]


def test_every_fat_volume_gets_a_number_of_its_own(image, tmp_path):
    data = bytearray(image.read_bytes())
    for start in (MEBIBYTE, MEBIBYTE + 6 * SECTOR, 2 * MEBIBYTE):
        data[start + 82 : start + 90] = b"FAT32   "
    data[MEBIBYTE + 50 : MEBIBYTE + 52] = b"\6\0"
    image.write_bytes(data)
    target = tmp_path / "target"
    target.write_bytes(bytes(SECTORS * SECTOR))
    put(image, target)
    written = target.read_bytes()
    numbers = [written[start + 67 : start + 71] for start in (MEBIBYTE, 2 * MEBIBYTE)]
    assert len({*numbers, b"AAAA", b"BBBB"}) == 4
    assert written[MEBIBYTE + 6 * SECTOR + 67 :][:4] == numbers[0]
    assert written[3 * MEBIBYTE :][:MEBIBYTE] == b"C" * MEBIBYTE


def test_settings_lie_behind_the_state_and_are_gone_once_erased(image, tmp_path):
    target, state = tmp_path / "target", tmp_path / "state"
    target.write_bytes(bytes(SECTORS * SECTOR))
    put(image, target, settings=b"signed")
    state.write_bytes(target.read_bytes()[4 * MEBIBYTE : 5 * MEBIBYTE])
    assert handedover.take(state) == b"signed"
    handedover.erase(state)
    assert not any(state.read_bytes()[-handedover.PLACE_SIZE :])
    assert handedover.take(state) == b""
    with pytest.raises(LimitError):
        put(image, target, settings=bytes(handedover.LIMIT + 1))


@pytest.mark.parametrize("place", [0, 510, 65_536 + 64, -1, -SECTOR, -600_000])
def test_a_disk_that_holds_something_stays_as_it_is(image, tmp_path, place):
    target = tmp_path / "target"
    data = bytearray(SECTORS * SECTOR)
    data[place] = 1
    target.write_bytes(data)
    with pytest.raises(StateError) as caught:
        put(image, target, overwrite=False)
    assert caught.value.code == "disk-not-empty"
    assert target.read_bytes() == data


def test_a_disk_too_small_stays_as_it_is(image, tmp_path):
    target = tmp_path / "target"
    target.write_bytes(bytes(SECTORS * SECTOR - 1))
    with pytest.raises(HostError) as caught:
        put(image, target)
    assert caught.value.code == "disk-size"
    assert not any(target.read_bytes())


def test_an_installation_cut_off_leaves_a_disk_that_does_not_boot(image, tmp_path, monkeypatch):
    target = tmp_path / "target"
    target.write_bytes(image.read_bytes())
    real, count = os.pwrite, iter(range(100))

    def failing(disk: int, data: bytes, place: int) -> int:
        if next(count) == 6:
            raise OSError(5, "Input/output error")
        return real(disk, data, place)

    monkeypatch.setattr(os, "pwrite", failing)
    with pytest.raises(HostError):
        put(image, target)
    with pytest.raises(FormatError):
        parse_gpt(target.read_bytes()[:HEAD])


@pytest.mark.parametrize("lost", range(2, 5))
def test_a_disk_that_does_not_keep_what_is_written_is_found_and_does_not_boot(
    image, tmp_path, monkeypatch, lost
):
    target = tmp_path / "target"
    target.write_bytes(bytes(SECTORS * SECTOR))
    real = os.pwrite

    def forgetful(disk: int, data: bytes, place: int) -> int:
        return len(data) if place == lost * MEBIBYTE else real(disk, data, place)

    monkeypatch.setattr(os, "pwrite", forgetful)
    with pytest.raises(HostError, match=f"MiB {lost} ") as caught:
        put(image, target)
    assert caught.value.code == "disk-differs"
    assert not any(target.read_bytes()[:HEAD])


@pytest.mark.parametrize("names", [NAMES[:-1], [*NAMES[:-1], "data"]])
def test_another_disk_is_not_taken_for_the_image(tmp_path, names):
    other, target = tmp_path / "other", tmp_path / "target"
    write_image(other, names)
    target.write_bytes(bytes(SECTORS * SECTOR))
    with pytest.raises(FormatError):
        put(other, target)
    assert not any(target.read_bytes())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(length=st.integers(0, SECTORS * SECTOR - 1))
def test_an_image_cut_short_is_not_installed(image, length):
    cut, target = image.with_name("cut"), image.with_name("target")
    cut.write_bytes(image.read_bytes()[:length])
    with target.open("wb") as stream:
        stream.truncate(SECTORS * SECTOR)
    with pytest.raises(CasemateError):
        put(cut, target)
    assert not any(target.read_bytes())


def add(place: Path, name: str, **facts: str) -> None:
    facts = {"size": "4096", "ro": "0", "removable": "0", "queue/logical_block_size": "512"} | facts
    (place / name / "device").mkdir(parents=True)
    (place / name / "queue").mkdir()
    for file, text in facts.items():
        (place / name / file).write_text(f"{text}\n")


def test_only_whole_writable_disks_are_offered(tmp_path):
    add(tmp_path, "sdb", **{"device/model": "Fast"})
    add(tmp_path, "sda", removable="1")
    add(tmp_path, "sr0", ro="1")
    add(tmp_path, "sdc", size="0")
    add(tmp_path, "sdd", **{"queue/logical_block_size": "4096"})
    add(tmp_path, "sdb1", partition="1")
    (tmp_path / "loop0").mkdir()
    found = targets(tmp_path)
    assert [(one.name, one.model, one.size) for one in found] == [
        ("sda", "", 4096 * SECTOR),
        ("sdb", "Fast", 4096 * SECTOR),
    ]
    assert choose(found, "").name == "sdb"
    assert choose(found, "sda").path == Path("/dev/sda")
    with pytest.raises(HostError, match="no disk sdx"):
        choose(found, "sdx")
