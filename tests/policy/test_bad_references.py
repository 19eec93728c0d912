"""Bad inputs, references and policies: entries BI-096 to BI-100 of the catalogue, a test each."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import cbor2
import pytest

from casemate.errors import (
    DigestError,
)
from casemate.formats import eventtypes as ev
from casemate.formats.cbor import encode_cbor
from casemate.formats.corim import parse_corim
from casemate.formats.eventlog import (
    write,
)
from casemate.formats.rim import check_support
from casemate.policy.exchange import accept_corim, accept_rim
from casemate.policy.language import parse_policy
from casemate.policy.signedtext import SignedText, check_newer, verify_signed
from casemate.policy.trust import TrustStore
from casemate.testing.expect import refused
from casemate.testing.firmwarelogs import event, image, machine
from casemate.testing.pki import NOW, shared_pki
from casemate.testing.smallhost import trust_store

PKI = shared_pki()
POLICY = b'policy "p" version 3\npcr 0 per-host\n'


def test_bi_096_references_unsigned_unknown_expired_or_old() -> None:
    trust = trust_store()

    def check(signature: bytes, store: TrustStore = trust) -> str:
        text = SignedText(POLICY, signature)
        return refused(lambda: verify_signed(text, store, NOW, component="reference"))

    good = PKI.sign(POLICY, "certified")
    assert verify_signed(SignedText(POLICY, good), trust, NOW, component="reference")
    assert check(b"") == "signature-missing"
    assert check(good, TrustStore()) == "signer-untrusted"
    late = PKI.sign(POLICY, "certified", signing_time=NOW - timedelta(days=365 * 40))
    assert check(late) in {"signing-time", "signer-expired", "signature-invalid"}
    assert refused(lambda: check_newer(4, 3, component="reference")) == "rollback"


def _rim(log: bytes) -> bytes:
    value = hashlib.sha256(log).hexdigest()
    return (
        '<SoftwareIdentity xmlns="http://standards.iso.org/iso/19770/-2/2015/schema.xsd" '
        'xmlns:SHA256="http://www.w3.org/2001/04/xmlenc#sha256" name="x" tagId="t" version="1">'
        f'<Payload><File name="x.rimel" size="{len(log)}" SHA256:hash="{value}"/></Payload>'
        "</SoftwareIdentity>"
    ).encode()


def test_bi_097_support_file_that_is_not_the_listed_one() -> None:
    log = write(machine())
    raw = _rim(log)
    rim, _ = accept_rim(raw, PKI.sign(raw, "certified"), trust_store(), NOW)
    check_support(rim, "x.rimel", log)
    changed = write(machine(event(4, ev.EV_EFI_BOOT_SERVICES_APPLICATION, image(), b"evil")))
    for data in (changed, log[:-1] + b"\1", b""):
        with pytest.raises(DigestError) as caught:
            check_support(rim, "x.rimel", data)
        assert caught.value.code == "reference-digest"


def test_bi_098_hostile_xml() -> None:
    body = _rim(b"x")
    bomb = b'<!DOCTYPE l [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;">]>'
    outside = b'<!DOCTYPE l SYSTEM "file:///etc/passwd">'
    for head in (bomb, outside):
        raw = head + body
        signed = PKI.sign(raw, "certified")
        assert (
            refused(lambda r=raw, s=signed: accept_rim(r, s, trust_store(), NOW)) == "xml-doctype"
        )
    wrapped = b"<wrap>" + body + b"</wrap>"
    signed = PKI.sign(wrapped, "certified")
    assert refused(lambda: accept_rim(wrapped, signed, trust_store(), NOW)) == "rim-malformed"


def test_bi_099_reference_values_without_key_digest_or_class() -> None:
    good = {0: "k", 1: {2: [[1, bytes(32)]]}}
    for environment, measured in (
        ({0: {1: "ACME"}}, {1: good[1]}),
        ({0: {1: "ACME"}}, {0: "k", 1: {11: "name"}}),
        ({}, good),
    ):
        comid = {1: {0: "id"}, 4: {0: [[environment, [measured]]]}}
        raw = encode_cbor(cbor2.CBORTag(501, {0: "c", 1: [cbor2.CBORTag(506, encode_cbor(comid))]}))
        assert refused(lambda data=raw: parse_corim(data)) == "reference-incomplete"
        assert refused(lambda data=raw: accept_corim(data, trust_store(), NOW)) == (
            "reference-incomplete"
        )


def test_bi_100_references_and_policies_that_accept_everything() -> None:
    head = 'policy "p" version 1\n'
    for text, code in (
        (head, "policy-empty"),
        (head + "pcr 0-23 excluded", "policy-empty"),
        (head + 'pcr 0 per-host\nruntime exclude "/**"', "policy-too-wide"),
    ):
        assert refused(lambda t=text: parse_policy(t.encode())) == code
    empty = _rim(b"x").replace(b"<File", b"<Other").replace(b"<Payload>", b"<Payload><Directory/>")
    signed = PKI.sign(empty, "certified")
    code = refused(lambda: accept_rim(empty, signed, trust_store(), NOW))
    assert code in {"reference-empty", "rim-malformed"}
