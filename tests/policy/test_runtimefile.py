"""Runtime policies in files: what they say, and what is refused on upload."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import CasemateError, FormatError
from casemate.policy.language import parse_policy
from casemate.policy.runtimefile import FORMAT, parse_runtime
from casemate.testing.pki import shared_pki

HEX = "ab" * 32
SIGNER = shared_pki().signers["partner"]
GOOD: dict[str, Any] = {
    "format": FORMAT,
    "version": 4,
    "digests": {
        "/bin/ls": [f"sha256:{HEX}", f"verity:sha256:{HEX}"],
        "kexec-cmdline": [f"sha384:{'cd' * 48}"],
    },
    "keys": [SIGNER.pem.decode()],
}


def _parse(**changes: Any) -> Any:
    return parse_runtime(json.dumps(GOOD | changes).encode())


def test_digests_keys_and_the_settings_of_the_host_policy() -> None:
    policy = parse_policy(
        b'policy "p" version 1\npcr 0 per-host\nruntime exclude "/tmp/**"\n'
        b"runtime violations reject\nruntime kernel before-5.8\n"
    )
    found = parse_runtime(json.dumps(GOOD).encode(), policy)
    assert found.digests[b"/bin/ls"] == {
        b"sha256:\0" + bytes.fromhex(HEX),
        b"verity:sha256:\0" + bytes.fromhex(HEX),
    }
    assert found.keys[0].key == SIGNER.certificate.public_key()
    assert found.keys[0].not_after == SIGNER.certificate.not_valid_after_utc
    assert b"/tmp/x" in found.excludes
    assert (found.version, found.reject_violations, found.old_kernel) == (4, True, True)


def test_bare_keys_have_no_end() -> None:
    pem = SIGNER.key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert _parse(keys=[pem.decode()]).keys[0].not_after is None


EDWARDS = ed25519.Ed25519PrivateKey.generate().public_key()
EDWARDS_PEM = EDWARDS.public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
).decode()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"digests": {}, "keys": []}, "runtime-empty"),
        ({"digests": {"/bin/ls": []}}, "runtime-empty"),
        ({"digests": {"/bin/ls": ["sha1:" + "ab" * 20]}}, "runtime-weak"),
        ({"digests": {"/bin/ls": ["md5:" + "ab" * 16]}}, "runtime-malformed"),
        ({"digests": {"/bin/ls": ["sha256:ab"]}}, "runtime-malformed"),
        ({"digests": {"/bin/ls": ["sha256:zz"]}}, "runtime-malformed"),
        ({"digests": {"/bin/ls": [5]}}, "runtime-malformed"),
        ({"digests": {"": [f"sha256:{HEX}"]}}, "runtime-malformed"),
        ({"digests": []}, "runtime-malformed"),
        ({"keys": ["x"]}, "ima-keyring"),
        ({"keys": ["-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----"]}, "ima-keyring"),
        ({"keys": [EDWARDS_PEM]}, "ima-keyring"),
        ({"keys": [5]}, "runtime-malformed"),
        ({"version": True}, "runtime-malformed"),
        ({"format": "other"}, "runtime-malformed"),
        ({"more": 1}, "runtime-malformed"),
    ],
)
def test_what_says_nothing_or_too_much_is_refused(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(FormatError) as caught:
        _parse(**changes)
    assert caught.value.code == code


@given(st.binary(max_size=100) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(CasemateError):
        parse_runtime(data)
    with pytest.raises(CasemateError):
        parse_runtime(b"[" * 100_000)
