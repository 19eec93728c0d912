"""Who may sign what: levels, anchors, paths and times."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa

from casemate.errors import AcceptanceError, FormatError, SignatureError
from casemate.formats.cms import sign_bare, sign_detached, verify_detached
from casemate.policy.levels import Level, level_from_name
from casemate.policy.trust import GRACE, TrustStore, trust_from_files, verify_signer
from casemate.testing.pki import LEVELS, MADE, NOW, SIGNED, Identity, issue, shared_pki
from casemate.testing.vibs import judge, make_vib, trust_of

CONTENT = b"content"
DAY = timedelta(days=1)


def signed_by(identity: Identity, *chain: Identity, at: datetime = SIGNED):
    signature = sign_detached(
        CONTENT,
        identity.certificate,
        identity.key,
        [one.certificate for one in chain],
        signing_time=at,
    )
    return verify_detached(signature, CONTENT)


def code_of(signed, store: TrustStore, level: Level = Level.PARTNER, now: datetime = NOW) -> str:
    with pytest.raises((SignatureError, AcceptanceError)) as caught:
        verify_signer(signed, level, store, now)
    return caught.value.code


def one_level(identity: Identity, *levels: Level) -> TrustStore:
    return trust_from_files((level, identity.pem) for level in levels or (Level.PARTNER,))


# Rows: what the VIB claims; columns: who signed it. Each CA may give its own level alone.
@pytest.mark.parametrize(("claimed", "signer"), list(product(LEVELS, LEVELS)))
def test_a_signer_gives_the_level_of_its_ca_and_no_other(claimed, signer):
    pki = shared_pki()
    signed = verify_detached(pki.sign(CONTENT, signer), CONTENT)
    if claimed == signer:
        anchor = verify_signer(signed, Level(claimed), trust_of(pki), NOW)
        assert anchor.certificate == pki.issuers[signer].certificate
    else:
        assert code_of(signed, trust_of(pki), Level(claimed)) == "level-not-backed"


@pytest.mark.parametrize(("host", "vib"), list(product(Level, Level)))
def test_a_host_carries_its_level_and_stricter_ones(host, vib):
    allowed = list(Level).index(vib) <= list(Level).index(host)
    assert host.admits(vib) == allowed
    if allowed:
        assert judge(make_vib(vib), host_level=host).level is vib
        return
    with pytest.raises(AcceptanceError) as caught:
        judge(make_vib(vib), host_level=host)
    assert caught.value.reason == (
        f"VIB CSM_bootbank_demo_1.0.0-1's acceptance level is {vib}, which is not compliant "
        f"with the ImageProfile acceptance level {host}"
    )
    assert "esxcli software acceptance set" in caught.value.remedy


def test_every_name_of_a_level_leads_to_it():
    for level in Level:
        for name in (level.value, level.api_name, level.display_name):
            assert level_from_name(name) is level
    assert level_from_name("PARTNERSUPPORTED") is None
    assert [level.rank for level in Level] == [3, 2, 1, 0]


def test_a_certificate_in_two_directories_gives_both_levels():
    ca = shared_pki().issuers["certified"]
    store = one_level(ca, Level.CERTIFIED, Level.PARTNER)
    assert len(store.anchors) == 1
    signed = verify_detached(shared_pki().sign(CONTENT, "certified"), CONTENT)
    for level in (Level.CERTIFIED, Level.PARTNER):
        assert verify_signer(signed, level, store, NOW).levels == {Level.CERTIFIED, Level.PARTNER}
    assert code_of(signed, store, Level.ACCEPTED) == "level-not-backed"


def test_an_intermediate_ca_is_found_in_the_signature():
    root = one_level(shared_pki().root)
    signer, ca = shared_pki().signers["partner"], shared_pki().issuers["partner"]
    assert verify_signer(signed_by(signer, ca), Level.PARTNER, root, NOW).subject.startswith(
        "CN=Root"
    )
    assert code_of(signed_by(signer), root) == "signer-untrusted"


def test_certificates_that_do_not_belong_to_the_path_do_no_harm():
    signer, ca = shared_pki().signers["partner"], shared_pki().issuers["partner"]
    others = [issue(f"Other {number}", authority=True) for number in range(8)]
    store = one_level(shared_pki().root)
    assert verify_signer(signed_by(signer, *others, ca), Level.PARTNER, store, NOW)


def test_a_path_that_is_too_long_is_not_followed():
    chain = [shared_pki().root]
    for number in range(6):
        chain.append(issue(f"CA {number}", chain[-1], authority=True))
    signer = issue("Deep", chain[-1])
    assert code_of(signed_by(signer, *chain[1:]), one_level(chain[0])) == "signer-untrusted"
    assert verify_signer(signed_by(signer, *chain[4:]), Level.PARTNER, one_level(chain[3]), NOW)


def vendor_root() -> Identity:
    """A signing root as ESXi has it: CA:TRUE, not critical, no key usage, no purpose."""
    key = rsa.generate_private_key(3, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Certified VIB Signing")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(0xC8A7CB6CA4E32FC0)
        .not_valid_before(MADE)
        .not_valid_after(MADE + 7300 * DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=False)
    )
    return Identity(builder.sign(key, hashes.SHA512()), key)


def test_a_root_that_signs_vibs_itself_is_trusted_where_it_is_an_anchor():
    root = vendor_root()
    store = one_level(root, Level.CERTIFIED)
    assert verify_signer(signed_by(root), Level.CERTIFIED, store, NOW)
    assert code_of(signed_by(root), store, Level.PARTNER) == "level-not-backed"
    assert code_of(signed_by(vendor_root()), store, Level.CERTIFIED) == "signer-purpose"


def test_a_ca_without_key_usage_may_be_an_anchor():
    root = vendor_root()
    signer = issue("Below", root)
    assert verify_signer(signed_by(signer), Level.PARTNER, one_level(root), NOW)


def test_a_vib_outlives_its_signers_certificate():
    ca = shared_pki().issuers["partner"]
    signer = issue("Short", ca, ends=SIGNED + DAY)
    store = one_level(ca)
    later = NOW + 1500 * DAY
    assert verify_signer(signed_by(signer), Level.PARTNER, store, later)
    assert code_of(signed_by(signer, at=SIGNED + 2 * DAY), store) == "signer-expired"


def test_without_a_signing_time_validity_is_judged_now():
    ca = shared_pki().issuers["partner"]
    signer = issue("Bare", ca, ends=NOW - DAY)
    signature = sign_bare(CONTENT, signer.certificate, signer.key)
    signed = verify_detached(signature, CONTENT, certificates=[signer.certificate])
    store = one_level(ca)
    assert verify_signer(signed, Level.PARTNER, store, NOW - 2 * DAY)
    assert code_of(signed, store, now=NOW) == "signer-expired"


def test_a_clock_a_little_behind_is_tolerated_a_wrong_one_is_named():
    signed = verify_detached(shared_pki().sign(CONTENT, "partner"), CONTENT)
    store = trust_of(shared_pki())
    assert verify_signer(signed, Level.PARTNER, store, SIGNED - timedelta(minutes=9))
    with pytest.raises(SignatureError) as caught:
        verify_signer(signed, Level.PARTNER, store, datetime(2000, 1, 1, tzinfo=UTC))
    assert caught.value.code == "clock-wrong"
    assert "2000-01-01" in caught.value.reason
    assert "clock" in caught.value.remedy


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is absent")
def test_a_certificate_signed_with_sha1_is_refused(tmp_path):
    ca = issue("RSA CA", authority=True, key=rsa.generate_private_key(65537, 2048))
    signer = issue("SHA-1", ca)
    (tmp_path / "ca.pem").write_bytes(ca.pem)
    (tmp_path / "ca.key").write_bytes(ca.key_pem)
    (tmp_path / "key").write_bytes(signer.key_pem)
    (tmp_path / "ext").write_text("extendedKeyUsage=codeSigning\n")
    for command in (
        "req -new -key key -subj /CN=weak -out csr",
        "x509 -req -in csr -CA ca.pem -CAkey ca.key -set_serial 7 -sha1 -extfile ext -out weak.pem",
    ):
        arguments = ["openssl", *command.split()]
        subprocess.run(arguments, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    weak = x509.load_pem_x509_certificate((tmp_path / "weak.pem").read_bytes())
    moment = weak.not_valid_before_utc + DAY
    signed = signed_by(Identity(weak, signer.key), at=moment)
    assert code_of(signed, one_level(ca), now=moment) == "weak-algorithm"


@pytest.mark.parametrize("data", [b"", b"hello", b"\x30\x03\x02\x01\x05", b"-----BEGIN X-----"])
def test_an_anchor_file_that_holds_no_certificate_is_loud(data):
    with pytest.raises(FormatError) as caught:
        trust_from_files([(Level.PARTNER, data)])
    assert caught.value.code == "trust-anchor"


def test_an_anchor_with_a_weak_key_is_refused():
    weak = issue("Weak", authority=True, key=rsa.generate_private_key(65537, 1024))
    with pytest.raises(FormatError) as caught:
        trust_from_files([(Level.PARTNER, weak.pem)])
    assert "weak key" in caught.value.reason


def test_several_certificates_in_one_file_are_all_anchors():
    both = shared_pki().root.pem + shared_pki().issuers["partner"].pem
    assert len(trust_from_files([(Level.PARTNER, both)]).anchors) == 2


def test_an_old_keys_signing_time_is_believed_for_a_while_and_not_for_ever():
    ends = shared_pki().signers["partner"].certificate.not_valid_after_utc
    assert judge(make_vib(), now=ends + GRACE).signer
    with pytest.raises(SignatureError) as caught:
        judge(make_vib(), now=ends + GRACE + timedelta(days=1))
    assert caught.value.code == "signer-expired"
