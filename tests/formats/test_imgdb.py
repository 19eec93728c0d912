"""The image database: reproducible, complete, and with nothing beside it."""

from __future__ import annotations

import contextlib
import io
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import FormatError, LimitError
from casemate.formats.compressed import gunzip, gzip
from casemate.formats.descriptor import VibType, write_descriptor
from casemate.formats.imgdb import (
    PROFILE_ROOT,
    VIB_ROOT,
    DbVib,
    ImageDb,
    ImageProfile,
    parse_imgdb,
    write_imgdb,
)
from casemate.formats.tarball import EntryKind, TarEntry, parse_tar
from casemate.formats.tarwrite import write_tar
from casemate.testing.vibs import make_descriptor

MADE = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)


def vib(name: str = "demo", **files: str) -> DbVib:
    payloads = {payload: b"data of " + payload.encode() for payload in files or {"demo": ""}}
    descriptor = write_descriptor(make_descriptor(payloads=payloads, name=name))
    return DbVib(descriptor, b"signature of " + name.encode(), files or {"demo": "demo.v00"})


def image(*vibs: DbVib) -> ImageDb:
    return ImageDb(
        ImageProfile(
            name="Casemate-1.0 (standard)",
            vendor="CSM",
            acceptance_level="partner",
            creation_time=MADE,
            vib_ids=tuple(one.descriptor.vib_id for one in vibs),
            description="for tests",
        ),
        vibs,
    )


GOOD = image(vib("esx-base", b="b.b00", k="k.b00"), vib("demo"), vib("alpha", a="a.v00"))


def rewritten(change: Callable[[dict[str, bytes]], None]) -> bytes:
    """The good database with its files changed."""
    files = {e.path: bytes(e.data) for e in parse_tar(gunzip(write_imgdb(GOOD), 1 << 20))}
    change(files)
    return gzip(write_tar(TarEntry(path, data=data) for path, data in files.items()))


def path_of(index: int, suffix: str) -> str:
    return f"{VIB_ROOT}{GOOD.vibs[index].stem}{suffix}"


def profile(old: bytes, new: bytes) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        path = next(path for path in files if path.startswith(PROFILE_ROOT))
        assert old in files[path]
        files[path] = files[path].replace(old, new, 1)

    return change


def test_what_is_written_is_read_back_in_the_profiles_order():
    data = write_imgdb(GOOD)
    assert parse_imgdb(data) == GOOD
    assert write_imgdb(parse_imgdb(data)) == data
    assert parse_imgdb(data).profile.vib_ids == GOOD.profile.vib_ids


def test_nothing_in_it_tells_when_or_by_whom_it_was_written():
    with tarfile.open(fileobj=io.BytesIO(write_imgdb(GOOD))) as archive:
        members = archive.getmembers()
    assert [one.name for one in members] == sorted(one.name for one in members)
    assert {(one.mtime, one.uid, one.gid, one.uname, one.mode) for one in members} == {
        (0, 0, 0, "", 0o644)
    }
    assert any(one.name == PROFILE_ROOT + "Casemate-1.0--standard-.xml" for one in members)


def test_system_tar_reads_it(tmp_path):
    (tmp_path / "imgdb.tgz").write_bytes(write_imgdb(GOOD))
    subprocess.run(["tar", "xzf", "imgdb.tgz"], cwd=tmp_path, check=True, timeout=60)
    stored = tmp_path / VIB_ROOT / f"{GOOD.vibs[0].stem}.pkcs7"
    assert stored.read_bytes() == GOOD.vibs[0].signature


def test_every_boot_file_has_one_owner():
    owners = GOOD.owners()
    assert sorted(owners) == ["a.v00", "b.b00", "demo.v00", "k.b00"]
    owner, payload = owners["k.b00"]
    assert (owner.descriptor.name, payload.name) == ("esx-base", "k")


def test_a_locker_vib_may_have_no_boot_files():
    descriptor = write_descriptor(make_descriptor(type=VibType.LOCKER))
    assert DbVib(descriptor, b"", {}).files == {}


HOSTILE: dict[str, tuple[str, Callable[[dict[str, bytes]], None]]] = {
    "a descriptor is missing": ("imgdb-missing", lambda f: f.pop(path_of(0, ".xml"))),
    "a signature is missing": ("imgdb-missing", lambda f: f.pop(path_of(0, ".pkcs7"))),
    "a VIB that no profile lists": (
        "imgdb-entry",
        lambda f: f.update({VIB_ROOT + "evil-0.xml": b"<vib/>"}),
    ),
    "a file elsewhere": ("imgdb-entry", lambda f: f.update({"etc/passwd": b""})),
    "no profile": (
        "imgdb-profile",
        lambda f: f.pop(next(p for p in f if p.startswith(PROFILE_ROOT))),
    ),
    "two profiles": ("imgdb-profile", lambda f: f.update({PROFILE_ROOT + "b.xml": b"<x/>"})),
    "a descriptor that was exchanged": (
        "imgdb-files",
        lambda f: f.update({path_of(0, ".xml"): GOOD.vibs[1].descriptor_bytes}),
    ),
    "a descriptor with one more byte": (
        "imgdb-missing",
        lambda f: f.update({path_of(0, ".xml"): GOOD.vibs[0].descriptor_bytes + b"\n"}),
    ),
    "a profile that drops a VIB": (
        "imgdb-missing",
        profile(b"<vib-id>CSM_bootbank_demo_1.0.0-1</vib-id>", b""),
    ),
    "a profile that maps a boot file twice": (
        "imgdb-files",
        profile(b'boot-name="k.b00"', b'boot-name="B.B00"'),
    ),
    "a profile that maps a payload twice": (
        "imgdb-files",
        profile(b'payload-name="k"', b'payload-name="b"'),
    ),
    "a profile that forgets a payload": (
        "imgdb-files",
        profile(b'<payload payload-name="k" boot-name="k.b00"/>', b""),
    ),
    "a profile that maps a payload nobody has": (
        "imgdb-files",
        profile(b'payload-name="k"', b'payload-name="x"'),
    ),
    "a boot file that is a path": (
        "boot-file-name",
        profile(b'boot-name="k.b00"', b'boot-name="../k"'),
    ),
    "a level that does not exist": (
        "imgdb-profile",
        profile(b"<acceptancelevel>partner", b"<acceptancelevel>root"),
    ),
    "a profile name that paints": ("imgdb-profile", profile(b"Casemate-1.0", b"a&#x9b;1m")),
    "a time that is no time": ("imgdb-profile", profile(b"2026-02-03", b"soon")),
    "two levels, so that readers differ": (
        "imgdb-profile",
        profile(b"<vendor>", b"<acceptancelevel>certified</acceptancelevel><vendor>"),
    ),
    "a profile of something else": (
        "imgdb-profile",
        lambda f: f.update({next(p for p in f if p.startswith(PROFILE_ROOT)): b"<bulletin/>"}),
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_is_refused_for_its_own_reason(name):
    code, change = HOSTILE[name]
    with pytest.raises(FormatError) as caught:
        parse_imgdb(rewritten(change))
    assert caught.value.code == code, caught.value


def test_a_link_in_the_database_is_refused():
    link = TarEntry(path_of(0, ".xml"), EntryKind.SYMLINK, target="/etc/shadow")
    with pytest.raises(FormatError) as caught:
        parse_imgdb(gzip(write_tar([link])))
    assert caught.value.code == "imgdb-entry"


def test_a_database_that_unpacks_to_a_gigabyte_is_refused():
    with pytest.raises(LimitError):
        parse_imgdb(gzip(bytes(80 << 20)))


def test_a_profile_must_list_what_the_database_holds():
    with pytest.raises(FormatError):
        replace(GOOD, vibs=GOOD.vibs[:1])


@given(st.binary(max_size=1024), st.booleans())
def test_whatever_the_bytes_only_our_error_escapes(data, packed):
    with contextlib.suppress(FormatError):
        parse_imgdb(gzip(data) if packed else data)


@given(st.data())
def test_whatever_is_changed_only_our_error_escapes(data):
    tar = gunzip(write_imgdb(GOOD), 1 << 20)
    at = data.draw(st.integers(0, len(tar) - 1))
    broken = tar[:at] + data.draw(st.binary(min_size=1, max_size=8)) + tar[at + 4 :]
    with contextlib.suppress(FormatError):
        parse_imgdb(gzip(broken))
