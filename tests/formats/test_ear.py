"""Attestation results: what a relying party may rely on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import CasemateError, Finding, FormatError, LimitError, SignatureError
from casemate.formats.ear import (
    Ear,
    Section,
    Submodule,
    Tier,
    TrustVector,
    claims,
    issue,
    tier_of,
    verify,
)

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP256R1())
KEYS = {"k1": KEY.public_key()}
FOUND = Finding("component-changed", "k.b00", "a reason", "a remedy")


def _ear(**changes: Any) -> Ear:
    values: dict[str, Any] = {
        "issued": NOW,
        "expires": NOW + timedelta(minutes=5),
        "developer": "casemate",
        "build": "1",
        "submodules": {
            Section.VIBS.value: Submodule(
                Tier.CONTRAINDICATED, TrustVector(executables=96), "esx 7", (FOUND,)
            ),
            Section.IDENTITY.value: Submodule(
                Tier.AFFIRMING, TrustVector(instance_identity=2, hardware=2)
            ),
        },
        "nonce": "bm9uY2U",
        "subject": "host-1",
    }
    return Ear(**(values | changes))


def test_what_is_issued_is_what_is_verified() -> None:
    ear = _ear()
    assert verify(issue(ear, KEY, key_id="k1"), KEYS, NOW, nonce="bm9uY2U") == ear
    assert ear.status is Tier.CONTRAINDICATED


def test_not_appraised_is_never_affirming() -> None:
    good, none = Submodule(Tier.AFFIRMING), Submodule(Tier.NONE)
    assert _ear(submodules={"a": good}).status is Tier.AFFIRMING
    assert _ear(submodules={"a": good, "b": none}).status is Tier.NONE
    assert _ear(submodules={}).status is Tier.NONE


@pytest.mark.parametrize(
    ("claim", "tier"),
    [
        (-128, Tier.CONTRAINDICATED),
        (-97, Tier.CONTRAINDICATED),
        (-96, Tier.WARNING),
        (-33, Tier.WARNING),
        (-32, Tier.AFFIRMING),
        (-2, Tier.AFFIRMING),
        (-1, Tier.NONE),
        (1, Tier.NONE),
        (2, Tier.AFFIRMING),
        (31, Tier.AFFIRMING),
        (32, Tier.WARNING),
        (95, Tier.WARNING),
        (96, Tier.CONTRAINDICATED),
        (127, Tier.CONTRAINDICATED),
    ],
)
def test_tiers_have_the_borders_of_ar4si(claim: int, tier: Tier) -> None:
    assert tier_of(claim) is tier


def _code(token: str, now: datetime = NOW, **kwargs: Any) -> str:
    with pytest.raises((FormatError, SignatureError)) as caught:
        verify(token, KEYS, now, **kwargs)
    return caught.value.code


def test_tokens_of_strangers_and_forgers_are_refused() -> None:
    body = claims(_ear())
    other = ec.generate_private_key(ec.SECP256R1())
    secret = "x" * 64
    assert _code(jwt.encode(body, other, "ES256", {"kid": "k1"})) == "signature-invalid"
    assert _code(jwt.encode(body, KEY, "ES256", {"kid": "k2"})) == "signer-untrusted"
    assert _code(jwt.encode(body, "", "none", {"kid": "k1"})) == "weak-algorithm"
    assert _code(jwt.encode(body, secret, "HS256", {"kid": "k1"})) == "weak-algorithm"
    token = issue(_ear(), KEY, key_id="k1")
    head, _, tail = token.split(".")
    assert _code(f"{head}.e30.{tail}") == "signature-invalid"
    assert _code("a.b.c") == "ear-malformed"
    with pytest.raises(LimitError):
        verify("x" * (1 << 21), KEYS, NOW)
    with pytest.raises(SignatureError):
        issue(_ear(), ec.generate_private_key(ec.SECP384R1()), key_id="k1")


def test_tokens_out_of_time_or_for_another_request_are_refused() -> None:
    token = issue(_ear(), KEY, key_id="k1")
    assert _code(token, NOW + timedelta(minutes=5)) == "ear-expired"
    assert _code(token, NOW - timedelta(minutes=3)) == "ear-expired"
    assert _code(token, nonce="b3RoZXI") == "ear-nonce"


@pytest.mark.parametrize(
    "change",
    [
        {"eat_profile": "tag:example.com,2026:other"},
        {"submods": {}},
        {"submods": []},
        {"submods": {"a": {"ear.status": "fine"}}},
        {"submods": {"a": {"ear.status": "none", "ear.trustworthiness-vector": {"x": 2}}}},
        {"submods": {"a": {"ear.status": "none", "ear.trustworthiness-vector": {"hardware": 128}}}},
        {"submods": {"a": {"ear.status": "none", "casemate.findings": {}}}},
        {"iat": 1.5},
        {"exp": 10**30},
        {"exp": None},
        {"sub": 5},
        {"eat_nonce": ["a"]},
    ],
)
def test_signed_nonsense_is_refused(change: dict[str, Any]) -> None:
    assert _code(jwt.encode(claims(_ear()) | change, KEY, "ES256", {"kid": "k1"})) in {
        "ear-malformed",
        "ear-expired",
    }


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda b: b.decode("latin-1")))
def test_any_text_is_refused_by_our_own_errors(text: str) -> None:
    with pytest.raises(CasemateError):
        verify(text, KEYS, NOW)
