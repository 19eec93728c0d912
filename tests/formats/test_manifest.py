"""The reference manifest: what is written reads back, whatever else is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import CasemateError, FormatError, LimitError
from casemate.formats import manifest as format_
from casemate.formats.manifest import parse_manifest, write_body, write_manifest
from casemate.testing.smallhost import SmallImage, sign_reference

REFERENCE = SmallImage().reference()
FILE = sign_reference(REFERENCE)


def test_what_is_written_reads_back_the_same() -> None:
    signed = parse_manifest(FILE)
    assert signed.manifest == REFERENCE
    assert signed.body == write_body(REFERENCE)
    assert write_manifest(signed.body, signed.signature) == FILE


def test_the_file_is_json_for_everybody_else() -> None:
    value = json.loads(FILE)
    assert set(value) == {"manifest", "signature"}
    assert value["signature"].startswith("-----BEGIN PKCS7-----\n")
    assert value["manifest"]["pcrs"]["sha256"]["17"] == REFERENCE.pcrs["sha256"][17].hex()


def test_same_values_give_the_same_bytes() -> None:
    assert write_body(REFERENCE) == write_body(SmallImage().reference())


def tampered(path: str, value: object) -> bytes:
    """Replace what the path (names and numbers) leads to; ``...`` removes it."""
    body = json.loads(write_body(REFERENCE))
    *way, last = [int(step) if step.isdigit() else step for step in path.split("/")]
    place = body
    for step in way:
        place = place[step]
    key = last if isinstance(place, list) else str(last)
    if value is ...:
        del place[key]
    else:
        place[key] = value
    return write_manifest(json.dumps(body, separators=(",", ":")).encode(), b"")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("format", "other"),
        ("events", []),
        ("algorithms", []),
        ("algorithms", ["sha256", "sha256"]),
        ("algorithms", ["crc32"]),
        ("serial", -1),
        ("serial", True),
        ("created", "yesterday"),
        ("extra", 1),
        ("build", ...),
        ("events/0/pcr", 24),
        ("events/0/data", "zz"),
        ("events/0/data", "AB"),
        ("events/0/digests/sha384", ...),
        ("events/0/digests/sha256", "00"),
        ("pcrs/sha384", ...),
        ("pcrs/sha256/x", "00" * 32),
        ("pcrs/sha256", []),
        ("pcrs", None),
    ],
)
def test_a_malformed_manifest_is_refused(path: str, value: object) -> None:
    with pytest.raises(FormatError) as caught:
        parse_manifest(tampered(path, value))
    assert caught.value.code == "reference-malformed"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("events/3", ...),
        ("pcrs/sha256/13", "00" * 32),
        ("pcrs/sha384/22", "11" * 48),
        ("pcrs/sha384/17", ...),
        ("events/0/digests/sha256", "00" * 32),
    ],
)
def test_events_that_do_not_replay_to_the_pcrs_are_refused(path: str, value: object) -> None:
    with pytest.raises(FormatError) as caught:
        parse_manifest(tampered(path, value))
    assert caught.value.code == "reference-inconsistent"


def test_a_manifest_beyond_the_limit_is_refused() -> None:
    with pytest.raises(LimitError):
        parse_manifest(b'{"manifest":' + b" " * format_.MAX_SIZE)


@given(st.binary(max_size=200))
def test_any_bytes_give_only_our_error(data: bytes) -> None:
    with pytest.raises(CasemateError):
        parse_manifest(b'{"manifest":' + data)


@given(st.integers(0, len(FILE) - 1), st.integers(1, 255))
def test_any_changed_byte_is_our_error_or_leaves_other_bytes_to_verify(
    place: int, bits: int
) -> None:
    data = FILE[:place] + bytes([FILE[place] ^ bits]) + FILE[place + 1 :]
    try:
        signed = parse_manifest(data)
    except CasemateError:
        return
    original = parse_manifest(FILE)
    assert (signed.body, signed.signature) != (original.body, original.signature)


@given(st.text(max_size=20).filter(lambda t: t.isprintable()))
def test_any_name_survives(name: str) -> None:
    changed = replace(REFERENCE, profile_name=name)
    assert parse_manifest(write_manifest(write_body(changed), b"")).manifest == changed
