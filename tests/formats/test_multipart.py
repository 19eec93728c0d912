"""Forms with files: what a browser sends is read, everything else is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import CasemateError, FormatError, LimitError
from casemate.formats.multipart import MAX_PARTS, Part, is_multipart, parse_form

MARK = "----WebKitFormBoundaryx1"
TYPE = f"multipart/form-data; boundary={MARK}"
NAMES = st.text("abcdefgäé_-%22", min_size=1, max_size=8)


def written(fields: list[tuple[str, Part]], mark: str = MARK) -> bytes:
    out = b""
    for name, part in fields:
        out += f'--{mark}\r\nContent-Disposition: form-data; name="{name}"'.encode()
        if part.file is not None:
            out += f'; filename="{part.file}"\r\nContent-Type: text/plain'.encode()
        out += b"\r\n\r\n" + part.data + b"\r\n"
    return out + f"--{mark}--\r\n".encode()


@given(
    st.dictionaries(
        NAMES, st.builds(Part, st.binary(max_size=90), st.none() | NAMES), max_size=MAX_PARTS
    )
)
def test_what_is_written_is_read_again(fields: dict[str, Part]) -> None:
    assert parse_form(written(list(fields.items())), TYPE) == fields


@given(st.binary(max_size=120), st.integers(0, 120), st.integers(0, 120))
def test_any_damage_is_read_or_refused(noise: bytes, begin: int, end: int) -> None:
    good = written([("a", Part(b"1")), ("b", Part(b"2\r\n--x", "n"))])
    for data in (noise, good[:begin] + noise + good[end:]):
        try:
            parse_form(data, TYPE)
        except CasemateError:
            continue


@pytest.mark.parametrize(
    "data",
    [
        b"",
        written([])[:-5],
        b"before" + written([("a", Part(b"1"))]),
        written([("a", Part(b"1"))]) + b"after",
        written([("a", Part(b"1"))])[:-8],
        written([("a", Part(b"1")), ("a", Part(b"2"))]),
        written([('a"; name="b', Part(b"1"))]),
        written([("a", Part(b"1"))]).replace(b"name=", b"mane="),
        written([("a", Part(b"1"))]).replace(b"\r\n\r\n", b"\r\n"),
        written([("a", Part(b"1"))]).replace(b"\r\n\r\n", b"\r\nx: " + b"x" * 4096 + b"\r\n\r\n"),
        written([("a", Part(b"1"))]).replace(b'"a"', b'"\xff"'),
    ],
)
def test_forms_that_no_browser_sends_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError) as caught:
        parse_form(data, TYPE)
    assert caught.value.code == "form-malformed"


def test_fields_without_end_are_refused() -> None:
    many = [(f"f{n}", Part(b"")) for n in range(MAX_PARTS + 1)]
    assert len(parse_form(written(many[:-1]), TYPE)) == MAX_PARTS
    with pytest.raises(LimitError):
        parse_form(written(many), TYPE)
    with pytest.raises(LimitError):
        parse_form(written([("a", Part(b""))] * 1000), TYPE)


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", "multipart/form-data", f"{TYPE}; x=y", "multipart/form-data; boundary="],
)
def test_types_without_a_boundary_are_refused(kind: str) -> None:
    with pytest.raises(FormatError):
        parse_form(written([]), kind)


def test_boundaries_may_stand_in_quotes() -> None:
    data = written([("a", Part(b"1"))], "a b")
    assert parse_form(data, 'multipart/form-data; boundary="a b"') == {"a": Part(b"1")}
    assert is_multipart(TYPE.upper())
    assert not is_multipart("application/x-www-form-urlencoded")
