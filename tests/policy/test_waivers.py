"""A hardening rule is waived by a signed policy alone, and never in secret."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import CasemateError, FormatError, SignatureError
from casemate.policy import waivers as w
from casemate.policy.hardening import RULES, Waiver
from casemate.testing.pki import NOW, shared_pki
from casemate.testing.vibs import trust_of

WAIVER = Waiver("/usr/bin/old", "pie", "its maker is gone")


def policy(*entries: Waiver, level: str = "certified") -> bytes:
    body = w.write_body(entries)
    return w.write_policy(body, shared_pki().sign(body, level))


def read(data: bytes):
    return w.read_policy(data, trust_of(shared_pki()), NOW)


def code_of(data: bytes) -> str:
    with pytest.raises((SignatureError, FormatError)) as caught:
        read(data)
    return caught.value.code


def test_a_signed_policy_gives_its_waivers():
    assert read(policy(WAIVER)) == (WAIVER,)


@pytest.mark.parametrize("level", ["accepted", "partner", "community"])
def test_a_signer_of_a_lower_level_waives_nothing(level):
    assert code_of(policy(WAIVER, level=level)) == "signer-untrusted"


def test_an_unsigned_policy_waives_nothing():
    assert code_of(w.write_policy(w.write_body([WAIVER]), b"")) == "policy-unsigned"


def test_a_changed_policy_waives_nothing():
    assert code_of(policy(WAIVER).replace(b"/usr/bin/old", b"/usr/bin/new")) == "content-changed"


@pytest.mark.parametrize(
    "body",
    [
        {"format": "casemate-hardening-2", "waivers": []},
        {"format": w.FORMAT, "waivers": [{"path": "/x", "rule": "pie"}]},
        {"format": w.FORMAT, "waivers": [{"path": "x", "rule": "pie", "reason": "r"}]},
        {"format": w.FORMAT, "waivers": [{"path": "/x", "rule": "all", "reason": "r"}]},
        {"format": w.FORMAT, "waivers": [{"path": "/x", "rule": "pie", "reason": "a\nb"}]},
        {"format": w.FORMAT, "waivers": [], "more": 1},
        [],
    ],
)
def test_a_signed_policy_of_another_shape_is_refused(body):
    data = json.dumps(body).encode()
    signed = w.write_policy(data, shared_pki().sign(data, "certified"))
    assert code_of(signed) == "policy-malformed"


def test_a_name_that_stands_twice_is_refused():
    data = b'{"format":"casemate-hardening-1","waivers":[],"waivers":[]}'
    assert code_of(w.write_policy(data, shared_pki().sign(data, "certified"))) == "policy-malformed"


@given(st.binary(max_size=300) | st.binary(max_size=99).map(lambda b: policy(WAIVER)[:200] + b))
def test_any_other_bytes_give_our_error(data):
    with pytest.raises(CasemateError):
        read(data)


@given(
    st.sampled_from([rule.code for rule in RULES]),
    st.from_regex(r"/[a-z/.: ]{1,40}", fullmatch=True),
)
def test_a_measured_waiver_tells_the_verifier_rule_and_file(rule, path):
    finding = w.option_finding(w.option_text(Waiver(path, rule, "because")))
    assert finding is not None
    assert finding.code == "hardening-waived"
    assert repr(rule) in finding.reason


def test_other_security_options_are_no_waivers():
    assert w.option_finding("execInstalledOnly = TRUE") is None
