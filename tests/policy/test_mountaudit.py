"""Mounts that are not those of the boot: each told, and what the kernel mounts itself is not."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import FormatError
from casemate.policy.mountaudit import audit_mounts, parse_mounts

FIRST = """\
30 1 0:40 / / ro,nosuid,nodev,relatime - overlay overlay ro,lowerdir=/a:/b
31 30 0:41 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
32 30 0:42 / /run rw,nosuid,nodev,noexec,relatime shared:5 - tmpfs tmpfs rw,size=65536k
33 30 8:1 /home /var/lib/casemate rw,nosuid,nodev,noexec - ext4 /dev/sda1 rw
"""


ATTACKS = {
    "a program mounted over ours": (
        FIRST + "40 30 8:1 /evil /usr/bin/casemate-python rw - ext4 /dev/sda1 rw\n",
        "mount-added",
    ),
    "a root mounted over the root": (
        FIRST + "40 30 0:50 / / rw - tmpfs tmpfs rw\n",
        "mount-added",
    ),
    "a root that can be written": (FIRST.replace("/ / ro,", "/ / rw,"), "mount-opened"),
    "a home that can be executed": (
        FIRST.replace("rw,nosuid,nodev,noexec - ext4", "rw,nosuid,nodev - ext4"),
        "mount-opened",
    ),
    "a home of another place": (FIRST.replace("/home /var", "/evil /var"), "mount-changed"),
    "a mount that was moved": (FIRST.replace(" /run rw", " /mnt rw"), "mount-changed"),
    "a mount that is gone": ("".join(FIRST.splitlines(keepends=True)[:3]), "mount-gone"),
    "a file system of programs in the home": (
        FIRST + "40 33 8:1 /x /var/lib/casemate/x rw,nosuid,nodev - ext4 /dev/sda1 rw\n",
        "mount-added",
    ),
    "a mount beside the place of live VIBs": (
        FIRST + "40 32 0:50 / /run/liver rw - tmpfs tmpfs rw\n",
        "mount-added",
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_is_told(name):
    now, code = ATTACKS[name]
    found = list(audit_mounts(parse_mounts(FIRST), parse_mounts(now)))
    assert [one.code for one in found] == [code]
    assert found[0].reason
    assert found[0].remedy


def test_the_same_mounts_and_those_of_live_vibs_are_none():
    live = "41 32 0:4 net:[4026532] /run/casemate-network rw shared:9 - nsfs nsfs rw\n"
    live += "42 33 8:2 / /var/lib/casemate/volumes/a rw,noexec - ext4 /dev/sdb1 rw\n"
    live += "40 32 7:3 / /run/live/acme.v00 ro - erofs /dev/loop3 ro\n"
    assert list(audit_mounts(parse_mounts(FIRST), parse_mounts(FIRST + live))) == []
    assert list(audit_mounts(parse_mounts(FIRST + live), parse_mounts(FIRST))) == []


def test_a_path_with_a_space_is_read_as_it_is():
    (mount,) = parse_mounts("1 0 0:1 / /a\\040b rw - tmpfs x rw\n")
    assert mount.place == "/a b"


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_in_our_own_words(text):
    with suppress(FormatError):
        assert len(parse_mounts(text)) == len(text.splitlines())
