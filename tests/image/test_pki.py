from __future__ import annotations

import datetime as dt
import itertools
import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from casemate.errors import ArgumentError, CasemateError, FormatError, NotFoundError
from casemate.formats.cms import sign_detached, verify_detached
from casemate.image import pki
from casemate.policy.levels import Level
from casemate.policy.trust import trust_from_files, verify_signer

NOW = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)


def store(home):
    return trust_from_files((a.level, a.path.read_bytes()) for a in pki.list_anchors(home))


def signed(home, level):
    signer = pki.load_signer(home, level)
    signature = sign_detached(
        b"content", signer.certificate, signer.key, signer.chain, signing_time=NOW
    )
    return verify_detached(signature, b"content")


def test_private_keys_are_readable_by_the_owner_alone(made_pki):
    place = made_pki / "pki"
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    keys = list(place.glob("*.key"))
    assert len(keys) == 9
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}


def test_made_again_nothing_changes(signing_home):
    before = {path: path.read_bytes() for path in signing_home.rglob("*") if path.is_file()}
    assert not pki.initialise(signing_home, now=NOW)
    assert before == {p: p.read_bytes() for p in signing_home.rglob("*") if p.is_file()}


def test_what_was_lost_is_made_again_and_the_rest_kept(signing_home):
    (signing_home / "pki/partner-signer.key").unlink()
    root = (signing_home / "pki/root.pem").read_bytes()
    assert pki.initialise(signing_home, now=NOW)
    assert (signing_home / "pki/root.pem").read_bytes() == root
    verify_signer(signed(signing_home, Level.PARTNER), Level.PARTNER, store(signing_home), NOW)


@pytest.mark.parametrize("level", list(Level))
def test_a_signer_may_give_its_own_level(made_pki, level):
    verify_signer(signed(made_pki, level), level, store(made_pki), NOW)


@pytest.mark.parametrize(("signer", "declared"), [*itertools.permutations(Level, 2)])
def test_a_signer_may_give_no_other_level(made_pki, signer, declared):
    with pytest.raises(CasemateError):
        verify_signer(signed(made_pki, signer), declared, store(made_pki), NOW)


def test_a_signer_can_sign_nothing_but_code_and_no_certificates(made_pki):
    certificate = pki.load_signer(made_pki, Level.CERTIFIED).certificate
    extensions = certificate.extensions
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x509.ExtendedKeyUsageOID.CODE_SIGNING]


def test_an_issuing_ca_cannot_make_another_ca(made_pki):
    for level in Level:
        certificate = pki.load_certificate(made_pki / f"pki/{level}-ca.pem")
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        assert constraints.ca
        assert constraints.path_length == 0


def test_a_signer_s_own_certificate_is_no_anchor(signing_home):
    with pytest.raises(ArgumentError, match="not the certificate of a CA"):
        pki.add_anchor(signing_home, signing_home / "pki/partner-signer.pem", [Level.PARTNER])


def test_a_stranger_s_ca_gives_the_levels_it_was_added_for(signing_home, tmp_path):
    source = tmp_path / "vendor.der"
    certificate = pki.load_certificate(signing_home / "pki/partner-ca.pem")
    source.write_bytes(certificate.public_bytes(serialization.Encoding.DER))
    added = pki.add_anchor(signing_home, source, [Level.PARTNER, Level.COMMUNITY])
    assert [anchor.level for anchor in added] == [Level.PARTNER, Level.COMMUNITY]
    names = {(anchor.level, anchor.path.name) for anchor in pki.list_anchors(signing_home)}
    assert {(Level.PARTNER, "vendor.pem"), (Level.COMMUNITY, "vendor.pem")} <= names
    verify_signer(signed(signing_home, Level.PARTNER), Level.COMMUNITY, store(signing_home), NOW)


@pytest.mark.parametrize("name", ["-x.pem", ".hidden", "a b.pem", "ü.pem"])
def test_a_name_that_could_be_something_else_is_refused(signing_home, tmp_path, name):
    source = tmp_path / name
    source.write_bytes((signing_home / "pki/partner-ca.pem").read_bytes())
    with pytest.raises(ArgumentError, match="cannot name"):
        pki.add_anchor(signing_home, source, [Level.PARTNER])


def test_a_damaged_anchor_is_loud(signing_home):
    (signing_home / "trust/partner/bad.pem").write_bytes(b"-----BEGIN CERTIFICATE-----\nx")
    with pytest.raises(FormatError, match="no certificate"):
        pki.list_anchors(signing_home)


def test_without_a_pki_the_remedy_is_named(tmp_path):
    with pytest.raises(NotFoundError) as caught:
        pki.load_signer(tmp_path, Level.CERTIFIED)
    assert "casemate trust init" in caught.value.remedy
