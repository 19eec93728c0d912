"""A TCG RIM as a reference: it counts with a trusted signature and the log it lists, or not."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import CasemateError, FormatError
from casemate.policy.rimreference import (
    RimReference,
    accept_rim_reference,
    is_rim_reference,
    parse_rim_reference,
    write_rim_reference,
)
from casemate.testing.pki import NOW, shared_pki
from casemate.testing.rims import write_rim
from casemate.testing.smallhost import SmallHost, trust_store

LOG = SmallHost().log_bytes()
RIM = write_rim(LOG)
CREATED = NOW.replace(microsecond=0)
GOOD = RimReference(
    "small", CREATED, RIM, "Example.rimel", LOG, shared_pki().sign(RIM, "certified")
)
SENT = write_rim_reference(GOOD)


def refused(one: RimReference) -> str:
    with pytest.raises(CasemateError) as caught:
        accept_rim_reference(one, trust_store(), NOW)
    return caught.value.code


def test_a_signed_rim_and_its_log_are_a_reference() -> None:
    assert is_rim_reference(SENT)
    assert parse_rim_reference(SENT) == GOOD
    manifest, subject = accept_rim_reference(GOOD, trust_store(), NOW)
    assert "certified" in subject
    assert (manifest.profile_name, manifest.profile_vendor) == ("small", "Example Inc")
    assert (manifest.build, manifest.serial) == ("01", int(CREATED.timestamp()))
    assert manifest.events
    assert "sha1" not in manifest.algorithms
    assert replace(GOOD, created=CREATED - timedelta(1)).identifier == GOOD.identifier
    assert replace(GOOD, name="other").identifier != GOOD.identifier


def test_what_is_not_signed_listed_or_of_today_is_refused() -> None:
    assert refused(replace(GOOD, signature=b"")) == "signature-missing"
    stranger = replace(GOOD, signature=shared_pki().sign(RIM, "community"))
    assert refused(stranger) == "signer-untrusted"
    assert refused(replace(GOOD, rim=RIM + b"\n")) == "content-changed"
    assert refused(replace(GOOD, log=LOG + b"\0")) == "reference-digest"
    assert refused(replace(GOOD, log_name="other.rimel")) == "reference-digest"
    assert refused(replace(GOOD, created=CREATED + timedelta(days=2))) == "rim-malformed"
    assert refused(replace(GOOD, signer=b"no certificate")) == "rim-signer"
    noise = write_rim(b"no log")
    signed = shared_pki().sign(noise, "certified")
    assert refused(replace(GOOD, rim=noise, signature=signed, log=b"no log"))


@given(st.data())
def test_any_damage_is_read_or_refused(data: st.DataObject) -> None:
    made = bytearray(SENT)
    for _ in range(data.draw(st.integers(1, 3))):
        made[data.draw(st.integers(0, len(made) - 1))] = data.draw(st.integers(0, 255))
    try:
        parse_rim_reference(bytes(made))
    except CasemateError:
        return


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"name": "a\nb"},
        {"name": 1},
        {"created": 1e300},
        {"created": "now"},
        {"created": 1.5},
        {"log": "?"},
        {"more": 1},
        {"format": "casemate-rim-2"},
    ],
)
def test_what_was_not_put_together_here_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(FormatError) as caught:
        parse_rim_reference(json.dumps(json.loads(SENT) | change).encode())
    assert caught.value.code == "rim-malformed"
    with pytest.raises(FormatError):
        parse_rim_reference(b"[]")
