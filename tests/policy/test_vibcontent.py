"""What archives in VIBs try: each refused with its own reason, by verifier and installer."""

from __future__ import annotations

import io
import lzma
import struct
import tarfile
from collections.abc import Callable
from dataclasses import replace

import pytest

from casemate.errors import CasemateError
from casemate.formats.compressed import gzip
from casemate.formats.descriptor import write_descriptor
from casemate.formats.vib import parse_vib, write_vib
from casemate.image.vibcheck import examine
from casemate.policy import vibcontent
from casemate.policy.levels import Level
from casemate.policy.vibcontent import check_content, judge_archive
from casemate.testing.elves import Elf
from casemate.testing.pki import shared_pki
from casemate.testing.vibs import announce, make_descriptor

GOOD = ("opt/acme/code",)


def tar(*members: tuple[str, bytes | None, dict[str, object]], mode: int = tarfile.GNU_FORMAT):
    """Make a tar with the standard library: it writes what we would not."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=mode) as archive:
        for name, data, changes in members:
            info = tarfile.TarInfo(name)
            info.size = len(data or b"")
            for key, value in changes.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data or b""))
    return buffer.getvalue()


def file(name: str, data: bytes = b"x", **changes: object):
    return (name, data, changes)


def special(name: str, kind: bytes, **changes: object):
    return (name, None, {"type": kind, **changes})


def tgz(*members, listed: tuple[str, ...] = GOOD, level: str = "partner", kind: str = "tgz"):
    return vib(gzip(tar(*members)), listed=listed, level=level, kind=kind)


def vib(data: bytes, *, listed: tuple[str, ...] = GOOD, level: str = "partner", kind: str = "tgz"):
    descriptor = write_descriptor(
        replace(make_descriptor(level), files=listed, payloads=(announce("demo", data, kind),))
    )
    return write_vib(descriptor, shared_pki().sign(descriptor, level), [("demo", data)])


def vmtar(offset: int, size: int, body: bytes = bytes(512)) -> bytes:
    head = bytearray(tar(file("opt/acme/code", b""))[:512])
    head[124:136] = f"{size:011o}\0".encode()
    head[257:264] = b"visor  "
    head[496:500] = struct.pack("<I", offset)
    head[148:156] = b" " * 8
    head[148:156] = f"{sum(head):06o}\0 ".encode()
    return gzip(bytes(head) + bytes(512) + body)


CODE = file("opt/acme/code")
ATTACKS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a path that climbs out": ("tar-path", lambda: tgz(file("../../etc/passwd"))),
    "a path that climbs out from inside": ("tar-path", lambda: tgz(file("opt/../../etc/passwd"))),
    "an absolute path": ("tar-path", lambda: tgz(file("/etc/passwd"))),
    "a backslash in a path": ("tar-path", lambda: tgz(file("opt\\..\\x"))),
    "a newline in a path": ("tar-path", lambda: tgz(file("opt/a\nb"))),
    "a path of five thousand bytes": ("tar-limit", lambda: tgz(file("opt/" + "d/" * 2500 + "x"))),
    "a long name that climbs out": ("tar-path", lambda: tgz(file("opt/" + "a" * 200 + "/../../x"))),
    "a path twice": ("tar-duplicate", lambda: tgz(CODE, file("opt/acme/./code", b"other"))),
    "a file where a directory is": (
        "tar-link",
        lambda: tgz(CODE, file("opt/acme/code/more")),
    ),
    "a file written through a link": (
        "tar-link",
        lambda: tgz(special("opt/acme", tarfile.SYMTYPE, linkname="/etc"), file("opt/acme/passwd")),
    ),
    "a link that climbs above the root": (
        "tar-link",
        lambda: tgz(special("opt/x", tarfile.SYMTYPE, linkname="../../etc/shadow")),
    ),
    "a hard link to a file of the host": (
        "tar-link",
        lambda: tgz(special("opt/acme/code", tarfile.LNKTYPE, linkname="etc/shadow")),
    ),
    "a hard link that climbs out": (
        "tar-path",
        lambda: tgz(special("opt/acme/code", tarfile.LNKTYPE, linkname="../etc/shadow")),
    ),
    "a link to nowhere": ("tar-path", lambda: tgz(special("opt/x", tarfile.SYMTYPE))),
    "a block device": (
        "tar-type",
        lambda: tgz(special("opt/sda", tarfile.BLKTYPE, devmajor=8, devminor=0)),
    ),
    "a device that hides a file of the host": (
        "tar-type",
        lambda: tgz(special("opt/gone", tarfile.CHRTYPE, devmajor=0, devminor=0)),
    ),
    "a pipe": ("tar-type", lambda: tgz(special("opt/pipe", tarfile.FIFOTYPE))),
    "a continued volume": ("tar-type", lambda: tgz(special("opt/more", b"M"))),
    "a sparse file": ("tar-type", lambda: tgz(special("opt/sparse", b"S"))),
    "a program with root's rights": ("tar-mode", lambda: tgz(file(*GOOD, mode=0o4755))),
    "a program with a group's rights": ("tar-mode", lambda: tgz(file(*GOOD, mode=0o2755))),
    "data behind the end of the archive": (
        "tar-header",
        lambda: vib(gzip(tar(CODE) + b"hidden" * 100)),
    ),
    "an archive cut within a file": (
        "tar-truncated",
        lambda: vib(gzip(tar(file("opt/acme/code", bytes(2000)))[:1024])),
    ),
    "a second gzip member": ("gzip", lambda: vib(gzip(tar(CODE)) + gzip(b"hidden"))),
    "a bomb": ("bomb", lambda: vib(gzip(bytes(5 << 20)))),
    "a bomb in xz": (
        "bomb",
        lambda: vib(lzma.compress(bytes(5 << 20)), kind="vgz"),
    ),
    "a vmtar whose data lie among its headers": (
        "vmtar-data",
        lambda: vib(vmtar(0x100, 64), kind="vgz"),
    ),
    "a vmtar whose data lie outside": (
        "vmtar-data",
        lambda: vib(vmtar(0x7FFFFFFF, 64), kind="vgz"),
    ),
    "a file above what a partner may write": (
        "path-not-allowed",
        lambda: tgz(file("etc/passwd"), listed=("etc/passwd",)),
    ),
    "a file that only the archive has, in a forbidden place": (
        "path-not-allowed",
        lambda: tgz(CODE, file("usr/bin/casemate-python")),
    ),
    "a service of a community VIB": (
        "path-not-allowed",
        lambda: tgz(file("etc/init.d/x"), listed=("etc/init.d/x",), level="community"),
    ),
    "a file that is not listed": ("file-not-listed", lambda: tgz(CODE, file("opt/acme/more"))),
    "a listed file that is not there": (
        "file-missing",
        lambda: tgz(CODE, listed=(*GOOD, "opt/acme/more")),
    ),
    "a program with a stack that can be executed": (
        "hardening-nx-stack",
        lambda: tgz(file("opt/acme/code", Elf(stack=7).build())),
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_is_refused_by_installer_and_verifier_for_one_reason(name, monkeypatch):
    monkeypatch.setattr(vibcontent, "ARCHIVE_LIMIT", 4 << 20)
    code, make = ATTACKS[name]
    parsed = parse_vib(make())
    level = Level(parsed.descriptor.acceptance_level)
    with pytest.raises(CasemateError) as caught:
        check_content(
            parsed, level, lambda kind, data: judge_archive(kind, data, parsed.descriptor, level)
        )
    assert caught.value.code == code, caught.value
    assert caught.value.finding().remedy
    assert examine(parsed, ()).findings[0].code == code


@pytest.mark.parametrize("kind", ["tgz", "vgz"])
def test_a_plain_tar_passes_under_either_name(kind):
    parsed = parse_vib(
        tgz(
            CODE,
            special("opt/l", tarfile.SYMTYPE, linkname="acme/code"),
            listed=(*GOOD, "opt/l"),
            kind=kind,
        )
    )
    looked = examine(parsed, ())
    assert (looked.findings, looked.warnings) == ((), ())
    level = Level.PARTNER
    check_content(
        parsed, level, lambda kind, data: judge_archive(kind, data, parsed.descriptor, level)
    )


def test_a_vmtar_passes():
    looked = examine(parse_vib(vib(vmtar(1024, 64), kind="vgz")), ())
    assert (looked.findings, looked.warnings) == ((), ())


@pytest.mark.parametrize(
    ("data", "listed", "code"),
    [
        (b"text", GOOD, "no-archive"),
        (gzip(b"text"), GOOD, "no-archive"),
        (gzip(tar(CODE)), (), "file-not-listed"),
    ],
)
def test_what_is_sound_but_cannot_be_installed_is_told_as_a_warning(data, listed, code):
    looked = examine(parse_vib(vib(data, listed=listed)), ())
    assert [one.code for one in looked.warnings] == [code]
    assert looked.findings == ()
