from __future__ import annotations

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import ArgumentError, HostError
from casemate.image.tree import File, Folder, Link, by_path, merged, normalise, write_tree

NAMES = st.text("abcd", min_size=1, max_size=3)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


@pytest.mark.parametrize("path", ["", "/etc/passwd", "a/../b", "../a", "a//b", "./a", "a/", ".."])
def test_a_path_that_leaves_the_root_is_refused(path):
    with pytest.raises(ArgumentError):
        by_path([File(path, b"")])


def test_two_contents_for_one_path_are_refused_and_the_same_twice_is_not():
    with pytest.raises(ArgumentError, match="twice"):
        by_path([File("a", b"1"), File("a", b"2")])
    assert list(by_path([File("a", b"1"), File("a", b"1")])) == ["a"]


@given(st.lists(PATHS))
def test_nodes_come_in_path_order(paths):
    assert list(by_path(Folder(path) for path in paths)) == sorted(set(paths))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/lib/x86_64-linux-gnu/libc.so.6", "usr/lib/x86_64-linux-gnu/libc.so.6"),
        ("/lib64/ld-linux-x86-64.so.2", "usr/lib64/ld-linux-x86-64.so.2"),
        ("/bin/busybox", "usr/bin/busybox"),
        ("/usr/bin/swtpm", "usr/bin/swtpm"),
        ("/library/x", "library/x"),
    ],
)
def test_paths_are_merged_as_debian_merges_them(path, expected):
    assert merged(path) == expected


def test_nothing_in_a_tree_is_writable_setuid_or_sticky(tmp_path):
    evil = tmp_path / "evil"
    evil.write_bytes(b"x")
    evil.chmod(0o6777)
    nodes = by_path(
        [File("bin/evil", evil, executable=True), File("etc/x", b""), Folder("tmp"), Link("l", "x")]
    )
    place = tmp_path / "root"
    place.mkdir(mode=0o777)
    write_tree(nodes, place)
    (place / "bin/evil").chmod(0o6777)
    (place / "tmp").chmod(0o1777)
    assert normalise(place) == ("bin/evil", "etc/x", "l")
    for entry in (place, *place.rglob("*")):
        if not entry.is_symlink():
            mode = stat.S_IMODE(entry.stat().st_mode)
            assert mode in {0o444, 0o555}
    assert str((place / "l").readlink()) == "x"


def test_a_vanished_file_is_our_own_error(tmp_path):
    with pytest.raises(HostError, match="cannot be read"):
        File("a", tmp_path / "gone").read()


def test_a_fingerprint_changes_with_content_mode_and_kind(tmp_path):
    source = tmp_path / "f"
    source.write_bytes(b"one")
    seen = {
        File("a", source).fingerprint(),
        File("a", source, executable=True).fingerprint(),
        File("a", b"one").fingerprint(),
        File("a", b"two").fingerprint(),
        Link("a", "one").fingerprint(),
        Folder("a").fingerprint(),
    }
    source.write_bytes(b"three")
    seen.add(File("a", source).fingerprint())
    assert len(seen) == 7
