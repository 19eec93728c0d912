"""Datastore paths: what is read, and that nothing leads out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import DatastorePathError
from casemate.formats import datastorepath


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("[datastore1] a/b.vmdk", ("datastore1", "a/b.vmdk")),
        ("[datastore1]a/b.vmdk", ("datastore1", "a/b.vmdk")),
        ("[my store (1)]   a b/", ("my store (1)", "a b")),
        ("[datastore1]", ("datastore1", "")),
        ("[datastore1] ", ("datastore1", "")),
    ],
)
def test_paths_are_read(path: str, expected: tuple[str, str]) -> None:
    assert datastorepath.parse(path) == expected


@pytest.mark.parametrize(
    "path",
    [
        "",
        "a",
        "[]",
        "[a/b] c",
        "[a] ../b",
        "[a] b/../c",
        "[a] /etc/passwd",
        "[a] b//c",
        "[a] ./b",
        "[a] b\x00c",
        "[a] b\\c",
        "[a] .casemate-1",
        "[a] " + "x" * 256,
        "[a] " + "x/" * 33,
        "[a] \ud800",
    ],
)
def test_other_texts_are_none(path: str) -> None:
    with pytest.raises(DatastorePathError):
        datastorepath.parse(path)


@given(st.text(max_size=60) | st.from_regex(r"\[a\] [a./\\ ]{0,20}", fullmatch=True))
def test_whatever_the_text_every_name_stays_below(path: str) -> None:
    try:
        _, below = datastorepath.parse(path)
    except DatastorePathError:
        return
    for name in filter(None, below.split("/")):
        assert name not in {".", ".."}
        assert "\x00" not in name
    assert not below.startswith("/")
    assert datastorepath.parse(datastorepath.show("a", below)) == ("a", below)
