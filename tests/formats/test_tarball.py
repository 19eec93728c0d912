"""Tar archives from strangers: what is dangerous is refused, and tarfile agrees on the rest."""

from __future__ import annotations

import contextlib
import gzip as stdlib_gzip
import io
import lzma
import struct
import tarfile
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import FormatError, LimitError
from casemate.formats.compressed import content_digest, gunzip, gzip, unxz
from casemate.formats.tarball import (
    BLOCK,
    EntryKind,
    TarEntry,
    check_tree,
    header_sum,
    parse_tar,
    parse_tgz,
)
from casemate.formats.tarwrite import write_tar
from casemate.formats.vmtar import parse_vgz, parse_vmtar

SEGMENTS = st.from_regex(r"[0-9A-Za-z_-][0-9A-Za-z_.-]{0,30}", fullmatch=True)
PATHS = st.lists(SEGMENTS, min_size=1, max_size=4).map("/".join)


@st.composite
def entries(draw) -> list[TarEntry]:
    """Entries that may stand together in one archive."""
    made = {}
    for path in draw(st.lists(PATHS, max_size=5, unique=True)):
        if any(path.startswith(f"{p}/") or p.startswith(f"{path}/") for p in made):
            continue
        kind = draw(st.sampled_from([EntryKind.FILE, EntryKind.DIRECTORY, EntryKind.SYMLINK]))
        made[path] = TarEntry(
            path,
            kind,
            data=draw(st.binary(max_size=1200)) if kind is EntryKind.FILE else b"",
            mode=draw(st.integers(0, 0o1777)),
            owner=draw(st.integers(0, 0o7777777)),
            group=draw(st.integers(0, 0o7777777)),
            mtime=draw(st.integers(0, 0o77777777777)),
            target=draw(PATHS.filter(lambda p: len(p) <= 100)) if kind == "symlink" else "",
        )
    return list(made.values())


@given(entries())
def test_what_is_written_is_read_back(listed):
    assert list(parse_tar(write_tar(listed))) == listed


@given(entries())
def test_tarfile_reads_what_we_write(listed):
    with tarfile.open(fileobj=io.BytesIO(write_tar(listed))) as archive:
        assert [member.name for member in archive] == [entry.path for entry in listed]


@given(entries(), st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_we_read_what_tarfile_writes(listed, form):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for entry in listed:
            archive.addfile(member(entry), io.BytesIO(entry.data))
    assert list(parse_tar(buffer.getvalue())) == listed


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_read(form):
    listed = [
        TarEntry("a" * 90 + "/" + "é" * 120, data=b"x"),
        TarEntry("link", EntryKind.SYMLINK, target="t" * 150, mode=0o777),
    ]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for entry in listed:
            archive.addfile(member(entry), io.BytesIO(entry.data))
    assert list(parse_tar(buffer.getvalue())) == listed


def member(entry: TarEntry) -> tarfile.TarInfo:
    info = tarfile.TarInfo(entry.path)
    info.type = {"file": tarfile.REGTYPE, "directory": tarfile.DIRTYPE}.get(
        entry.kind, tarfile.SYMTYPE
    )
    info.mode, info.uid, info.gid, info.mtime = entry.mode, entry.owner, entry.group, entry.mtime
    info.size, info.linkname = len(entry.data), entry.target
    return info


def raw(name: str, flag: bytes = b"0", data: bytes = b"", target: str = "", **more) -> bytes:
    """A header as an attacker writes it, with its data."""
    block = bytearray(BLOCK)
    block[: len(name.encode())] = name.encode()
    block[100:108] = f"{more.get('mode', 0o644):07o}\0".encode()
    block[108:124] = b"0000000\x000000000\0"
    block[124:136] = more.get("size", f"{len(data):011o}\0".encode())
    block[136:148] = b"00000000000\0"
    block[156:157] = flag
    block[157 : 157 + len(target)] = target.encode()
    block[257:265] = more.get("magic", b"ustar\x0000")
    block[496:500] = struct.pack("<I", more.get("offset", 0))
    block[148:156] = f"{header_sum(bytes(block)):06o}\0 ".encode()
    return bytes(block) + data + bytes(-len(data) % BLOCK)


def pax(text: bytes) -> bytes:
    return raw("pax", b"x", text)


END = bytes(1024)
HOSTILE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "an absolute path": ("tar-path", lambda: raw("/etc/passwd")),
    "a path that climbs": ("tar-path", lambda: raw("opt/../../etc/passwd")),
    "a path with a backslash": ("tar-path", lambda: raw("opt\\..\\x")),
    "a path with an escape sequence": ("tar-path", lambda: raw("a\x1b[2J")),
    "a long name that climbs": (
        "tar-path",
        lambda: raw("././@LongLink", b"L", b"../../etc/passwd\0") + raw("x"),
    ),
    "a pax path that climbs": ("tar-path", lambda: pax(b"21 path=../../../etc\n") + raw("x")),
    "a file without a name": ("tar-path", lambda: raw("")),
    "a path twice": ("tar-duplicate", lambda: raw("a", data=b"1") + raw("a", data=b"2")),
    "a path twice in another spelling": ("tar-duplicate", lambda: raw("a/b") + raw("./a//b")),
    "a file below a link that leads out": (
        "tar-link",
        lambda: raw("opt", b"2", target="/etc") + raw("opt/passwd"),
    ),
    "a file below a file": ("tar-link", lambda: raw("a") + raw("a/b")),
    "a file where a directory was": ("tar-link", lambda: raw("a/b") + raw("a")),
    "a link where a directory was": (
        "tar-link",
        lambda: raw("a/b/c") + raw("a/b", b"2", target="/etc") + raw("a/b/d"),
    ),
    "a hard link to a file of the host": (
        "tar-path",
        lambda: raw("x", b"1", target="/etc/shadow"),
    ),
    "a hard link to what is not there": ("tar-link", lambda: raw("x", b"1", target="y")),
    "a hard link to a link": (
        "tar-link",
        lambda: raw("y", b"2", target="/etc/shadow") + raw("x", b"1", target="y"),
    ),
    "a link without a target": ("tar-path", lambda: raw("x", b"2")),
    "a character device": ("tar-type", lambda: raw("dev/mem", b"3")),
    "a block device": ("tar-type", lambda: raw("dev/sda", b"4")),
    "a pipe": ("tar-type", lambda: raw("fifo", b"6")),
    "a volume label": ("tar-type", lambda: raw("label", b"V")),
    "a continued volume": ("tar-type", lambda: raw("x", b"M")),
    "a sparse file of GNU": ("tar-type", lambda: raw("x", b"S")),
    "a sparse file of pax": ("tar-type", lambda: pax(b"22 GNU.sparse.major=1\n") + raw("x")),
    "a set-user-id file": ("tar-mode", lambda: raw("su", mode=0o4755)),
    "a set-group-id file": ("tar-mode", lambda: raw("wall", mode=0o2755)),
    "a directory that carries data": ("tar-header", lambda: raw("d", b"5", b"data")),
    "a size that is not a number": ("tar-header", lambda: raw("x", size=b"zzzzzzzzzzz\0")),
    "a size past the end": ("tar-truncated", lambda: raw("x", size=b"77777777777\0")),
    "a binary size of an exabyte": (
        "tar-truncated",
        lambda: raw("x", size=b"\x80\0\0\0" + b"\x0f" * 8),
    ),
    "a pax size of a thousand digits": (
        "tar-header",
        lambda: pax(b"1011 size=" + b"9" * 1000 + b"\n") + raw("x"),
    ),
    "a pax record that lies about its length": ("tar-header", lambda: pax(b"99 path=x\n")),
    "a pax record without a newline": ("tar-header", lambda: pax(b"9 path=xy") + raw("x")),
    "a global header that renames everything": (
        "tar-header",
        lambda: raw("pax", b"g", b"14 path=/etc/\n") + raw("x"),
    ),
    "two long names for one entry": (
        "tar-header",
        lambda: raw("l", b"L", b"one\0") + raw("l", b"L", b"two\0") + raw("x"),
    ),
    "a long name for nothing": ("tar-header", lambda: raw("l", b"L", b"one\0")),
    "a long name of a megabyte": ("tar-limit", lambda: raw("l", b"L", b"a" * (1 << 20))),
    "a path of five thousand bytes": (
        "tar-limit",
        lambda: raw("l", b"L", b"a" * 5000) + raw("x"),
    ),
    "a header with a wrong sum": ("tar-header", lambda: b"x" + raw("a")[1:]),
    "bytes after the end": ("tar-header", lambda: raw("a") + END + b"evil"),
    "an archive cut within a header": ("tar-truncated", lambda: raw("a") + raw("b")[:100]),
    "an archive cut within a file": ("tar-truncated", lambda: raw("a", data=b"x" * 600)[:-600]),
    "not a tar at all": ("tar-header", lambda: b"PK\x03\x04" + bytes(600)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_is_refused_for_its_own_reason(name):
    code, make = HOSTILE[name]
    with pytest.raises(FormatError) as caught:
        parse_tar(make() if "end" in name or "cut" in name else make() + END)
    assert caught.value.code == code, caught.value


def test_many_files_in_a_deep_directory_cost_no_walk_each():
    walked = 0

    class Path(str):
        __slots__ = ()

        def rpartition(self, separator):
            nonlocal walked
            walked += 1
            return tuple(map(Path, super().rpartition(separator)))

    deep = "a/" * 1000
    check_tree(TarEntry(Path(f"{deep}{number}")) for number in range(100))
    assert walked < 2000


def test_pax_headers_are_read_one_after_the_other():
    many = b"".join(b"%d k%04d=v\n" % (len(b"12 k0000=v\n"), number) for number in range(1000))
    [entry] = parse_tar(pax(many + b"10 path=b\n") + raw("a") + END)
    assert entry.path == "b"


def test_more_entries_than_any_archive_has_are_refused():
    one = raw("x", b"g")
    with pytest.raises(LimitError):
        parse_tar(one * 140_000)


@given(st.binary(max_size=2048))
@pytest.mark.parametrize("parse", [parse_tar, parse_tgz, parse_vmtar, parse_vgz])
def test_whatever_the_bytes_only_our_error_escapes(parse, data):
    with contextlib.suppress(FormatError):
        parse(data)


@given(entries(), st.data())
def test_whatever_is_changed_only_our_error_escapes(listed, data):
    good = write_tar(listed)
    at = data.draw(st.integers(0, len(good) - 1))
    with contextlib.suppress(FormatError):
        parse_tar(good[:at] + data.draw(st.binary(max_size=16)) + good[at + 8 :])


def vmtar(*files: tuple[str, bytes]) -> bytes:
    """An archive as ESXi writes it: all headers, then all data on pages."""
    offset = 4096
    heads, body = b"", b""
    for name, data in files:
        heads += raw(name, magic=b"visor  \0", size=f"{len(data):011o}\0".encode(), offset=offset)
        body += data + bytes(-len(data) % 4096)
        offset += len(data) + (-len(data) % 4096)
    return heads + bytes(4096 - len(heads)) + body


FILES = (("usr/lib/vmware/vmkmod/demo", b"\x7fELF" + bytes(5000)), ("etc/demo.conf", b"a=1"))


@pytest.mark.parametrize("pack", [gzip, lambda data: lzma.compress(data, lzma.FORMAT_XZ)])
def test_a_vgz_payload_is_read(pack):
    found = parse_vgz(pack(vmtar(*FILES)))
    assert [(entry.path, bytes(entry.data)) for entry in found] == list(FILES)


@pytest.mark.parametrize(
    ("offset", "size"),
    [(256, 100), (4096, 1 << 20), (0xFFFFFFFF, 1)],
    ids=["among the headers", "past the end", "far outside"],
)
def test_vmtar_data_that_lies_elsewhere_is_refused(offset, size):
    head = raw("x", magic=b"visor  \0", size=f"{size:011o}\0".encode(), offset=offset)
    with pytest.raises(FormatError) as caught:
        parse_vmtar(head + bytes(8192))
    assert caught.value.code == "vmtar-data"


def test_vmtar_files_that_share_data_are_refused():
    heads = b"".join(
        raw(name, magic=b"visor  \0", size=b"00000000144\0", offset=4096) for name in "ab"
    )
    with pytest.raises(FormatError) as caught:
        parse_vmtar(heads + bytes(8192))
    assert caught.value.code == "vmtar-data"


@given(st.binary(max_size=5000))
def test_gzip_is_the_same_every_time_and_everybody_reads_it(data):
    packed = gzip(data)
    assert packed == gzip(data)
    assert packed[4:8] == bytes(4)
    assert stdlib_gzip.decompress(packed) == data
    assert gunzip(packed, len(data)) == data
    assert content_digest(packed, "sha256", len(data)) == content_digest(data, "sha256", 0)


@pytest.mark.parametrize("unpack", [gunzip, lambda d, n: content_digest(d, "sha256", n)])
@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda data: data[:-1], "gzip"),
        (lambda data: data + b"x", "gzip"),
        (lambda data: data + data, "gzip"),
        (lambda data: data[:-8] + bytes(8), "gzip"),
        (lambda data: data[:12], "gzip"),
    ],
    ids=["cut", "trailed by a byte", "trailed by another member", "wrong sum", "almost nothing"],
)
def test_gzip_that_is_not_whole_is_refused(unpack, change, code):
    with pytest.raises(FormatError) as caught:
        unpack(change(gzip(b"whole" * 40_000)), 1 << 20)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "unpack",
    [
        lambda: gunzip(gzip(bytes(50 << 20)), 1 << 20),
        lambda: content_digest(gzip(bytes(50 << 20)), "sha256", 1 << 20),
        lambda: unxz(lzma.compress(bytes(50 << 20)), 1 << 20),
    ],
    ids=["gunzip", "content_digest", "unxz"],
)
def test_a_bomb_is_stopped_at_the_limit(unpack):
    with pytest.raises(LimitError) as caught:
        unpack()
    assert caught.value.code == "bomb"
