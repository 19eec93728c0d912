"""What a layer may hold, and archives laid out as layers: nothing reaches past its own files."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from tests.kernel.sys.test_mounts import sealed

from casemate.errors import AcceptanceError
from casemate.formats.compressed import gzip
from casemate.formats.tarball import EntryKind, TarEntry
from casemate.formats.tarwrite import write_tar
from casemate.kernel.boot.contents import check_layer
from casemate.kernel.boot.layers import unpack
from casemate.kernel.sys import mounts
from casemate.kernel.sys.loops import loop_device
from casemate.policy.levels import Level
from casemate.policy.vibcontent import read_archive
from casemate.testing.vibs import make_descriptor

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("root_only")]

FILES = ("opt/acme/code",)


def opaque(tree: Path) -> None:
    os.setxattr(tree / "opt", "trusted.overlay.opaque", b"y")


def redirected(tree: Path) -> None:
    os.setxattr(tree / "opt/acme", "trusted.overlay.redirect", b"/usr/bin")


def whiteout(tree: Path) -> None:
    os.mknod(tree / "opt/gone", 0o020000, os.makedev(0, 0))


def closed(tree: Path) -> None:
    (tree / "opt").chmod(0o700)


def everybodys(tree: Path) -> None:
    (tree / "opt").chmod(0o777)


def of_others(tree: Path) -> None:
    os.chown(tree / "opt", 1000, 1000)


def setuid(tree: Path) -> None:
    (tree / FILES[0]).chmod(0o4755)


def hidden(tree: Path) -> None:
    (tree / "opt/acme/more").write_bytes(b"")


def elsewhere(tree: Path) -> None:
    (tree / "etc").mkdir()
    (tree / "etc/passwd").symlink_to("/opt/acme/code")


ATTACKS = {
    opaque: "payload-file",
    redirected: "payload-file",
    whiteout: "payload-file",
    closed: "payload-file",
    everybodys: "payload-file",
    of_others: "payload-file",
    setuid: "payload-file",
    hidden: "file-not-listed",
    elsewhere: "path-not-allowed",
}


@pytest.mark.parametrize("attack", [None, *ATTACKS], ids=lambda one: one.__name__ if one else "")
def test_a_layer_that_would_change_what_lies_below_it_is_refused(in_child, tmp_path, attack):
    tree = tmp_path / "tree"
    (tree / "opt/acme").mkdir(parents=True)
    (tree / FILES[0]).write_bytes(b"code")
    for folder in (tree, tree / "opt", tree / "opt/acme"):
        folder.chmod(0o755)
    if attack:
        attack(tree)
    packed = tmp_path / "image"
    command = ["mkfs.erofs", "-T0", "--quiet", str(packed), str(tree)]
    subprocess.run(command, check=True, capture_output=True, timeout=30)

    def look() -> str:
        top = tmp_path / "top"
        top.mkdir()
        descriptor = sealed(packed)
        with loop_device(descriptor, "image") as device:
            mounts.erofs(device, top)
        os.close(descriptor)
        try:
            check_layer(top, replace(make_descriptor(), files=FILES), Level.PARTNER)
        except AcceptanceError as error:
            return error.code
        return ""

    assert in_child(look) == ATTACKS.get(attack, "")


def test_an_archive_becomes_a_read_only_layer_of_root(in_child, tmp_path):
    data = gzip(
        write_tar(
            [
                TarEntry("opt/acme/run", data=b"#!/bin/sh\n" * 2000, mode=0o1777, owner=1000),
                TarEntry("opt/acme/data", data=b"", mode=0o600, owner=1000),
                TarEntry("opt/acme/again", EntryKind.HARDLINK, target="opt/acme/run"),
                TarEntry("opt/link", EntryKind.SYMLINK, target="acme/run"),
                TarEntry("opt/empty", EntryKind.DIRECTORY, mode=0o700),
            ]
        )
    )
    entries = read_archive("tgz", data)

    def look() -> dict[str, object]:
        os.umask(0o077)
        top = tmp_path / "top"
        top.mkdir()
        unpack(entries, top)
        try:
            (top / "opt/new").write_bytes(b"")
        except OSError as error:
            refused = error.strerror
        facts = {
            str(path.relative_to(top)): (oct(path.lstat().st_mode), path.lstat().st_uid)
            for path in sorted(top.rglob("*"))
        }
        return {
            "refused": refused,
            "facts": facts,
            "content": len((top / "opt/link").read_bytes()),
            "links": (top / "opt/acme/run").stat().st_nlink,
            "free": os.statvfs(top).f_bavail,
        }

    told = in_child(look)
    assert told["refused"] == "Read-only file system"
    assert told["facts"] == {
        "opt": ("0o40755", 0),
        "opt/acme": ("0o40755", 0),
        "opt/acme/again": ("0o100555", 0),
        "opt/acme/data": ("0o100444", 0),
        "opt/acme/run": ("0o100555", 0),
        "opt/empty": ("0o40755", 0),
        "opt/link": ("0o120777", 0),
    }
    assert (told["content"], told["links"]) == (20_000, 2)
    assert told["free"] < 16
