from __future__ import annotations

import io
import os
import shutil
import zipfile

import pytest

from casemate.errors import HostError
from casemate.image import tools
from casemate.image.erofs import compile_modules, write_erofs, zip_bytes
from casemate.image.runtime import closure
from casemate.image.tree import File, Folder, Link, by_path, write_tree

needs_erofs = pytest.mark.skipif(
    shutil.which("mkfs.erofs", path=tools.SEARCH_PATH) is None,
    reason="erofs-utils is not installed",
)
needs_python = pytest.mark.skipif(
    shutil.which("python3.11", path=tools.SEARCH_PATH) is None, reason="python3.11 is not installed"
)
EROFS_MAGIC = bytes.fromhex("e2e1f5e0")
SOURCE = b"""\
CHOICES = {"alpha", "beta", "gamma", "delta", "epsilon"}
def pick(word: str = "alpha") -> bool:
    return word in {"one", "two", "three", None, 4} and word in CHOICES
"""


def small():
    return by_path(
        [
            File("usr/lib/python3/dist-packages/small/__init__.py", SOURCE),
            File("usr/lib/python3/dist-packages/small/more.py", SOURCE * 3),
            File("usr/bin/tool", b"\x7fELF", executable=True),
            Link("usr/bin/alias", "tool"),
            Folder("proc"),
        ]
    )


@needs_erofs
@needs_python
def test_built_twice_at_different_places_and_times_the_bytes_are_the_same(tmp_path):
    images = []
    for name in ("one", "another-and-longer-place"):
        place = tmp_path / name
        place.mkdir()
        files = write_erofs("small", small(), place / "image", compiled=True, scratch=place)
        os.utime(place, (1, 1))
        images.append((place / "image").read_bytes())
    assert images[0] == images[1]
    assert images[0][1024:1028] == EROFS_MAGIC
    assert files == (
        "usr/bin/alias",
        "usr/bin/tool",
        "usr/lib/python3/dist-packages/small/__init__.py",
        "usr/lib/python3/dist-packages/small/__pycache__/__init__.cpython-311.pyc",
        "usr/lib/python3/dist-packages/small/__pycache__/more.cpython-311.pyc",
        "usr/lib/python3/dist-packages/small/more.py",
    )


@needs_erofs
def test_another_name_gives_another_volume(tmp_path):
    for name in ("a", "b"):
        write_erofs(name, small(), tmp_path / name, compiled=False, scratch=tmp_path)
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()


@needs_python
def test_compiled_modules_know_their_final_place_and_not_where_they_were_made(tmp_path):
    write_tree(small(), tmp_path)
    compile_modules(tmp_path)
    compiled = list(tmp_path.rglob("*.pyc"))
    assert len(compiled) == 2
    for path in compiled:
        data = path.read_bytes()
        assert str(tmp_path).encode() not in data
        assert b"/usr/lib/python3/dist-packages/small/" in data
        # PEP 552: 1 is "checked by hash", without bit 1 it is never compared with the source.
        assert data[4:8] == b"\x01\0\0\0"


@needs_python
def test_a_module_that_does_not_compile_stops_the_build(tmp_path):
    path = "usr/lib/python3/dist-packages/broken.py"
    write_tree({path: File(path, b"def (")}, tmp_path)
    with pytest.raises(HostError, match="broken"):
        compile_modules(tmp_path)


def test_the_loader_s_zip_is_stored_sorted_and_without_time():
    nodes = {"b.py": File("b.py", b"2"), "a.py": File("a.py", b"1")}
    data = zip_bytes(nodes)
    assert data == zip_bytes(dict(reversed(nodes.items())))
    entries = zipfile.ZipFile(io.BytesIO(data)).infolist()
    assert [entry.filename for entry in entries] == ["a.py", "b.py"]
    assert all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}


def test_an_absent_program_names_its_package():
    tools_missing = "no-such-program"
    with pytest.raises(HostError) as caught:
        tools.run(tools_missing)
    assert caught.value.code == "tool-missing"
    assert "apt-get install" in caught.value.remedy


def test_a_failing_program_is_quoted():
    with pytest.raises(HostError, match="status 1") as caught:
        tools.run("false")
    assert caught.value.code == "tool-failed"


def test_a_hanging_program_is_ended():
    with pytest.raises(HostError) as caught:
        tools.run("sleep", "30", timeout=0.1)
    assert caught.value.code == "tool-timeout"


def test_programs_do_not_see_our_environment(monkeypatch):
    monkeypatch.setenv("LD_PRELOAD_SECRET", "x")
    assert b"LD_PRELOAD_SECRET" not in tools.run("env")


def test_an_uninstalled_project_is_our_own_error():
    with pytest.raises(HostError) as caught:
        closure("no-such-project-at-all")
    assert caught.value.code == "requirement-missing"
