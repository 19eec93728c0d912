"""vmx files by strangers: read the same by everybody, or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import FormatError, LimitError
from casemate.formats import vmx
from casemate.formats.vmx import Vmx

NAMES = st.from_regex(r"[A-Za-z0-9_.:\-]{1,20}", fullmatch=True).filter(
    lambda name: name.lower() != ".encoding"
)
VALUES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)
ENTRIES = st.lists(
    st.tuples(NAMES, VALUES), max_size=12, unique_by=lambda entry: entry[0].lower()
).map(lambda entries: Vmx(tuple(entries)))


@given(ENTRIES)
def test_what_is_written_is_read_back(document):
    assert vmx.parse(vmx.write(document)) == document


@given(st.binary(max_size=400))
def test_whatever_the_bytes_only_our_error(data):
    try:
        vmx.parse(data)
    except FormatError:
        return


@given(st.text(alphabet='ab.|"=# \t\r\n\\2C\x00é', max_size=80))
def test_whatever_the_near_misses_only_our_error(text):
    try:
        vmx.parse(text.encode())
    except FormatError:
        return


def test_a_file_as_vmware_writes_it():
    document = vmx.parse(
        b'#!/usr/bin/vmware\r\n.encoding = "windows-1252"\r\nconfig.version = "8"\r\n\r\n'
        b'displayName = "B\xfccher |22alpha|22 |7C"\r\nmemSize = 512\r\n'
        b'scsi0:0.fileName = "a#b.vmdk"\r\n'
        b"  numvcpus=2  # two\r\n"
    )
    assert document.get("DISPLAYNAME") == 'Bücher "alpha" |'
    assert document.get("memsize") == "512"
    assert document.get("scsi0:0.filename") == "a#b.vmdk"
    assert document.get("numvcpus") == "2"
    assert document.get("absent", "none") == "none"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b'a = "1"\nA = "2"', "vmx-duplicate"),
        (b'.encoding = "UTF-8"\n.ENCODING = "Shift_JIS"', "vmx-duplicate"),
        (b'.encoding = "Shift_JIS"\na = "\x83\x7c22"', "vmx-encoding"),
        (b'.encoding = "UTF-16"', "vmx-encoding"),
        (b'a = "\xff"', "vmx-text"),
        (b'a = "one" b = "two"', "vmx-line"),
        (b'a = "unfinished', "vmx-line"),
        (b"just words", "vmx-line"),
        (b' = "nameless"', "vmx-line"),
        (b'a b = "c"', "vmx-line"),
        (b'a = "|2"', "vmx-escape"),
        (b'a = "|zz"', "vmx-escape"),
        (b'a = "|"', "vmx-escape"),
        (b'a = "|00"', "malformed"),
        (b"\x7fELF\x02\x01\x01", "vmx-line"),
    ],
)
def test_an_ambiguous_or_broken_file_is_refused(data, code):
    with pytest.raises(FormatError) as caught:
        vmx.parse(data)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "data",
    [
        b"#" * (vmx.SIZE_LIMIT + 1),
        b"\n" * vmx.LINE_LIMIT,
        b'a = "' + b"x" * (vmx.VALUE_LIMIT + 1) + b'"',
        b"n" * (vmx.NAME_LIMIT + 1) + b' = "1"',
    ],
)
def test_a_flood_is_refused(data):
    with pytest.raises(LimitError):
        vmx.parse(data)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("piece", [b" ", b"\t", b'"', b"|", b"a ", b"= "])
def test_no_line_takes_long(piece):
    data = b"a = " + piece * (vmx.SIZE_LIMIT // (2 * len(piece))) + b'"#" "'
    with pytest.raises(FormatError):
        vmx.parse(data)


@pytest.mark.parametrize(
    "entry", [("a b", "1"), ("", "1"), (".encoding", "x"), ("a", "\0"), ("a", "\ud800")]
)
def test_nothing_is_written_that_could_not_be_read(entry):
    with pytest.raises(FormatError):
        vmx.write(Vmx((entry,)))
