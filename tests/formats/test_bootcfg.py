"""boot.cfg: what is written is read back; what would boot something else is refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import FormatError, LimitError
from casemate.formats.bootcfg import (
    BootCfg,
    BootModule,
    BootState,
    parse_bootcfg,
    patch_state,
    write_bootcfg,
)

REAL = b"""bootstate=0
title=Loading VMware ESXi
timeout=5
prefix=
kernel=b.b00
kernelopt=autoPartition=FALSE
modules=jumpstrt.gz --- useropts.gz --- features.gz --- k.b00 --- lsi_mr3.v00 --- imgdb.tgz
build=8.0.3-0.0.24022510
updated=2
nobootif=0
"""

FILE_NAMES = st.from_regex(r"[0-9a-z_-]{1,8}(\.[0-9a-z_-]{1,3})?", fullmatch=True)
VALUES = (
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=40)
    .map(str.strip)
    .filter(lambda text: "---" not in text)
)


@st.composite
def configurations(draw) -> BootCfg:
    names = draw(st.lists(FILE_NAMES, min_size=1, max_size=6, unique_by=str.lower))
    return BootCfg(
        kernel=names[0],
        modules=tuple(BootModule(name, draw(VALUES)) for name in names[1:]),
        title=draw(VALUES),
        kernelopt=draw(VALUES),
        build=draw(VALUES),
        updated=draw(st.integers(0, 10**18 - 1)),
        bootstate=draw(st.sampled_from(BootState)),
        timeout=draw(st.integers(0, 999)),
        prefix=draw(VALUES),
        extra=tuple(draw(st.dictionaries(st.sampled_from(["nobootif", "crypto"]), VALUES)).items()),
    )


@given(configurations())
def test_what_is_written_is_read_back(config):
    data = write_bootcfg(config)
    assert parse_bootcfg(data) == config
    assert write_bootcfg(parse_bootcfg(data)) == data


def test_a_real_file_is_read():
    config = parse_bootcfg(REAL)
    assert config.bootstate is BootState.VALID
    assert config.updated == 2
    assert [module.name for module in config.files] == [
        *("b.b00", "jumpstrt.gz", "useropts.gz", "features.gz"),
        *("k.b00", "lsi_mr3.v00", "imgdb.tgz"),
    ]
    assert config.files[0].options == "autoPartition=FALSE"
    assert config.extra == (("nobootif", "0"),)
    assert write_bootcfg(config) == REAL


@given(configurations(), st.sampled_from([s for s in BootState if s >= 0]))
def test_a_new_state_changes_one_byte_of_the_first_sector(config, state):
    data = write_bootcfg(config)
    if config.bootstate is BootState.UNDEFINED:
        with pytest.raises(FormatError):
            patch_state(data, state)
        return
    patched = patch_state(data, state)
    assert parse_bootcfg(patched).bootstate is state
    changed = [at for at, (old, new) in enumerate(zip(data, patched, strict=True)) if old != new]
    assert len(changed) <= 1
    assert all(at < 512 for at in changed)


@pytest.mark.parametrize(
    ("code", "data"),
    [
        ("bootcfg-kernel", b""),
        ("bootcfg-kernel", b"# kernel=b.b00\n"),
        ("bootcfg-line", b"kernel=b.b00\nevil\n"),
        ("bootcfg-line", b"kernel=b.b00\nKERNEL=x\n"),
        ("bootcfg-line", b"kernel=b.b00\n\xff\xfe=x\n"),
        ("bootcfg-duplicate", b"kernel=b.b00\nkernel=evil.b00\n"),
        ("bootcfg-duplicate", b"kernel=b.b00\nmodules=k.b00 --- k.b00\n"),
        ("bootcfg-duplicate", b"kernel=b.b00\nmodules=k.b00 --- K.B00\n"),
        ("boot-file-name", b"kernel=/etc/passwd\n"),
        ("boot-file-name", b"kernel=../altboot/b.b00\n"),
        ("boot-file-name", b"kernel=..\n"),
        ("boot-file-name", b"kernel=longername.b00\n"),
        ("boot-file-name", b"kernel=b.b00\nmodules=k.b00 ---  --- s.b00\n"),
        ("boot-file-name", b"kernel=b.b00\nmodules=a/b.v00\n"),
        ("bootcfg-value", b"kernel=b.b00\nupdated=-1\n"),
        ("bootcfg-value", b"kernel=b.b00\nupdated=0x10\n"),
        ("bootcfg-value", b"kernel=b.b00\nupdated=" + b"9" * 100 + b"\n"),
        ("bootcfg-value", b"kernel=b.b00\ntitle=a\x1b[2Jb\n"),
        ("bootcfg-state", b"kernel=b.b00\nbootstate=4\n"),
        ("bootcfg-state", b"kernel=b.b00\nbootstate=-1\n"),
        ("bootcfg-state", b"kernel=b.b00\nbootstate=00\n"),
        ("bootcfg-state", b"kernel=b.b00\ntitle=" + b"x" * 600 + b"\nbootstate=0\n"),
        ("bootcfg-limit", b"kernel=b.b00\n" + b"#" * (1 << 17)),
    ],
    ids=repr,
)
def test_what_would_boot_something_else_is_refused(code, data):
    with pytest.raises(FormatError) as caught:
        parse_bootcfg(data)
    assert caught.value.code == code, caught.value
    assert caught.value.component == "boot.cfg"


def test_two_thousand_modules_are_refused():
    with pytest.raises(LimitError):
        BootCfg("b.b00", tuple(BootModule(f"m{number}") for number in range(2000)))


@given(st.binary(max_size=1024) | st.text(max_size=400).map(lambda t: b"kernel=b\n" + t.encode()))
def test_whatever_the_bytes_only_our_error_escapes(data):
    with contextlib.suppress(FormatError):
        parse_bootcfg(data)


@pytest.mark.parametrize("space", ["\u2003", "\u00a0", "\u0085", "\u200b", "\t"])
def test_no_character_that_some_readers_take_for_a_space_gets_in(space: str) -> None:
    text = f"kernel=b.b00\nkernelopt=bootUUID=x{space}noSigCheck=0123\nbootstate=0\n"
    with pytest.raises(FormatError):
        parse_bootcfg(text.encode())
