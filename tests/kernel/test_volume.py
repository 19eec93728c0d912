"""A datastore's files: nothing outside is reached, and nothing half-done is seen."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from casemate.calls.files import SearchFiles
from casemate.errors import (
    DatastorePathError,
    FileError,
    FileLockedError,
    FileMissingError,
    FilePresentError,
    LimitError,
    SpaceError,
)
from casemate.kernel import datastores
from casemate.kernel.sys.files import lock
from casemate.kernel.volume import Volume


@pytest.fixture
def place(tmp_path: Path) -> Path:
    made = tmp_path / "volumes/store"
    (made / "a").mkdir(parents=True)
    (made / "a/file").write_bytes(b"content")
    (tmp_path / "volumes/secret").write_bytes(b"secret")
    (made / "out").symlink_to("..")
    (made / "link").symlink_to("../secret")
    (made / "a/here").symlink_to("file")
    os.mkfifo(made / "pipe")
    return made


@pytest.fixture
def volume(place: Path) -> Iterator[Volume]:
    with Volume("store", place) as opened:
        yield opened


def read(volume: Volume, path: str) -> bytes:
    handle = volume.open_read(path)
    try:
        return os.read(handle, 100)
    finally:
        os.close(handle)


def test_only_files_and_folders_are_shown(volume: Volume) -> None:
    assert [entry.name for entry, _ in volume.entries("")] == ["a"]
    assert [entry.name for entry, _ in volume.entries("a")] == ["file"]
    assert read(volume, "a/file") == b"content"


def test_a_file_whose_name_is_no_text_hides_no_other(volume: Volume, place: Path) -> None:
    for name in (b"\xff\xfe", b"a\nb", b"a\\b"):
        (place / "a" / os.fsdecode(name)).write_bytes(b"x")
    assert [entry.name for entry, _ in volume.entries("a")] == ["file"]


ATTACKS = ("out/secret", "link", "a/here", "../secret", "a/../../secret", "/etc/passwd", "pipe", "")


@pytest.mark.parametrize("path", ATTACKS)
def test_no_path_leads_to_anything_else(volume: Volume, place: Path, path: str) -> None:
    def write() -> None:
        with volume.writing(path, force=True) as handle:
            os.write(handle, b"planted")

    for attempt in (
        lambda: read(volume, path),
        write,
        lambda: volume.remove(path),
        lambda: volume.move(path, volume, "a/moved", force=True),
        lambda: volume.move("a/file", volume, path, force=True),
        lambda: volume.copy("a/file", volume, path, force=True),
        lambda: volume.copy(path, volume, "a/copied", force=True),
    ):
        with pytest.raises((FileError, DatastorePathError)):
            attempt()
    assert (place.parent / "secret").read_bytes() == b"secret"
    assert sorted(entry.name for entry in place.iterdir()) == ["a", "link", "out", "pipe"]
    assert sorted(entry.name for entry in (place / "a").iterdir()) == ["file", "here"]


def test_a_folder_whose_link_leads_out_is_removed_without_what_it_leads_to(
    volume: Volume, place: Path
) -> None:
    (place / "a/out").symlink_to("../..")
    volume.remove("a")
    assert not (place / "a").exists()
    assert (place.parent / "secret").exists()


def test_a_file_is_whole_or_not_there(volume: Volume, place: Path) -> None:
    with volume.writing("a/new", force=False) as handle:
        os.write(handle, b"new")
        assert not volume.exists("a/new")
        assert [entry.name for entry, _ in volume.entries("a")] == ["file"]
    assert read(volume, "a/new") == b"new"

    def broken() -> None:
        with volume.writing("a/new", force=True) as handle:
            os.write(handle, b"half")
            raise FileError("no more", file="")

    with pytest.raises(FileError):
        broken()
    assert read(volume, "a/new") == b"new"
    assert sorted(entry.name for entry in (place / "a").iterdir()) == ["file", "here", "new"]


def test_nothing_is_replaced_unasked_and_no_folder_ever(volume: Volume) -> None:
    volume.make_folder("b", parents=False)
    for attempt in (
        lambda: volume.move("a/file", volume, "b", force=True),
        lambda: volume.copy("a/file", volume, "b", force=True),
        lambda: volume.make_folder("b", parents=True),
        lambda: volume.copy("a", volume, "b", force=True),
    ):
        with pytest.raises(FilePresentError):
            attempt()
    volume.copy("a/file", volume, "b/file", force=False)
    with pytest.raises(FilePresentError):
        volume.copy("a/file", volume, "b/file", force=False)
    volume.copy("a/file", volume, "b/file", force=True)
    with pytest.raises(FileError):
        volume.copy("a", volume, "a/below", force=False)
    with pytest.raises(FileError):
        volume.move("a", volume, "a/below", force=False)


def test_what_is_in_use_is_neither_read_nor_replaced_nor_removed(
    volume: Volume, place: Path
) -> None:
    handle = os.open(place / "a/file", os.O_RDWR)
    try:
        lock(handle, "file", exclusive=True)
        volume.make_folder("b", parents=False)
        with volume.writing("b/other", force=True):
            pass
        for attempt in (
            lambda: read(volume, "a/file"),
            lambda: volume.remove("a/file"),
            lambda: volume.move("a/file", volume, "b/file", force=True),
            lambda: volume.move("b/other", volume, "a/file", force=True),
            lambda: volume.copy("b/other", volume, "a/file", force=True),
        ):
            with pytest.raises(FileLockedError):
                attempt()
    finally:
        os.close(handle)


def test_what_a_killed_kernel_left_is_swept_and_nothing_else(volume: Volume, place: Path) -> None:
    (place / "a/.casemate-1").write_bytes(b"half")
    (place / ".casemate-2").write_bytes(b"half")
    (place / "a/.hidden").write_bytes(b"kept")
    volume.sweep()
    left = {str(path.relative_to(place)) for path in place.rglob("*")}
    assert left == {"a", "a/.hidden", "a/file", "a/here", "link", "out", "pipe"}


def test_more_than_the_space_there_is_is_refused_before_it_comes(volume: Volume) -> None:
    with pytest.raises(SpaceError) as raised:
        volume.demand_space(1 << 60, "[store] x")
    assert raised.value.datastore == "store"


def test_a_missing_file_is_named(volume: Volume) -> None:
    for path in ("b", "b/c", "a/file/c"):
        with pytest.raises(FileMissingError) as raised:
            read(volume, path)
        assert raised.value.file == f"[store] {path}"


def test_a_copy_ends_when_others_have_taken_the_space_meanwhile(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken(_amount: int) -> None:
        monkeypatch.setattr("casemate.kernel.sys.space.SPARE", 1 << 62)

    with pytest.raises(SpaceError):
        volume.copy("a/file", volume, "a/copy", force=False, step=taken)
    assert not volume.exists("a/copy")
    assert sorted(one.name for one in (volume.path / "a").iterdir()) == ["file", "here"]


def test_a_search_that_finds_nothing_ends_as_well(
    volume: Volume, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datastores, "SEEN_LIMIT", 20)
    for number in range(21):
        (place / f"a/{number}").touch()
    request = SearchFiles("", "store", "a", ("nothing",))
    wanted = datastores._pattern(request.patterns, any_case=False)
    with pytest.raises(LimitError):
        tuple(datastores._search(volume, request, wanted))
