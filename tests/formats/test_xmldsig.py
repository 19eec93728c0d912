"""Signatures in XML: what xmlsec1 signs is accepted, and nothing that was bent afterwards."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import CasemateError, FormatError, LimitError, SignatureError
from casemate.formats.rim import parse_rim
from casemate.formats.xmlcanon import Method, canonical, read
from casemate.formats.xmldsig import verify_enveloped
from casemate.policy.exchange import accept_rim
from casemate.policy.trust import Anchor, Level, TrustStore
from casemate.testing.pki import NOW, shared_pki

XMLSEC = Path("/usr/bin/xmlsec1")
DSIG = "http://www.w3.org/2000/09/xmldsig#"
MORE = "http://www.w3.org/2001/04/xmldsig-more#"
SHA256 = "http://www.w3.org/2001/04/xmlenc#sha256"
DOCUMENT = """<?xml version="1.0" encoding="UTF-8"?>
<!-- a comment -->
<SoftwareIdentity xmlns="http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
  xmlns:SHA256="http://www.w3.org/2001/04/xmlenc#sha256" xmlns:z="urn:z" xmlns:a="urn:a"
  name="BIOS &lt;1&gt; &quot;x&quot; &#9;&amp;" tagId="1" version='01' xml:lang="en"
  z:b="2" a:c="1">
  <Entity xmlns:z="urn:other" name="Example" role="tagCreator" z:x="1"/><!-- gone -->
  <Meta xmlns="" a:platform="\u00fc"><x xmlns="urn:q"/></Meta>
  <Payload><Directory name="rim">text &#13; <![CDATA[<&>]]>
    <File SHA256:hash="{digest}" name="Example.rimel" size="3"/>
  </Directory></Payload>
  {signature}
</SoftwareIdentity>
"""
SIGNATURE = """<{p}Signature xmlns{c}="http://www.w3.org/2000/09/xmldsig#"><{p}SignedInfo>
<{p}CanonicalizationMethod Algorithm="{canon}"/><{p}SignatureMethod Algorithm="{method}"/>
<{p}Reference URI=""><{p}Transforms>
<{p}Transform Algorithm="http://www.w3.org/2000/09/xmldsig#enveloped-signature"/>{more}
</{p}Transforms><{p}DigestMethod Algorithm="{digest}"/><{p}DigestValue/></{p}Reference>
</{p}SignedInfo><{p}SignatureValue/><{p}KeyInfo><{p}X509Data/></{p}KeyInfo></{p}Signature>"""

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def certificate(key: Key) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "maker")])
    return (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(7)
        .not_valid_before(NOW - timedelta(days=1)).not_valid_after(NOW + timedelta(days=9000))
        .sign(key, hashes.SHA256())
    )  # fmt: skip


def pem(key: Key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


Sign = Callable[..., bytes]


@pytest.fixture(scope="session")
def keys() -> dict[str, Key]:
    return {
        "rsa": rsa.generate_private_key(65537, 2048),
        "ecdsa": ec.generate_private_key(ec.SECP384R1()),
        "weak": rsa.generate_private_key(65537, 1024),
    }


@pytest.fixture
def sign(tmp_path: Path, keys: dict[str, Key]) -> Sign:
    """Let xmlsec1 sign a document."""
    if not XMLSEC.exists():
        pytest.skip("needs the Debian package xmlsec1")

    def work(
        key: Key | None = None,
        chain: bytes = b"",
        *,
        canon: str = Method.C14N_10.value,
        method: str = "rsa-sha256",
        more: str = "",
        prefix: str = "ds:",
        digest: str = SHA256,
        document: str = DOCUMENT,
    ) -> bytes:
        own = key or keys["rsa"]
        (tmp_path / "key.pem").write_bytes(pem(own))
        (tmp_path / "cert.pem").write_bytes(
            chain or certificate(own).public_bytes(serialization.Encoding.PEM)
        )
        text = SIGNATURE.format(
            p=prefix,
            c=":" + prefix[:-1] if prefix else "",
            canon=canon,
            method=method if ":" in method else MORE + method,
            digest=digest,
            more=f'<{prefix}Transform Algorithm="{more}"/>' if more else "",
        )
        source, target = tmp_path / "in.xml", tmp_path / "out.xml"
        source.write_text(document.format(signature=text, digest="ab" * 32))
        key_files = f"{tmp_path}/key.pem,{tmp_path}/cert.pem"
        words = [str(XMLSEC), "--sign", "--privkey-pem", key_files, "--output", str(target)]
        subprocess.run([*words, str(source)], check=True, capture_output=True, timeout=30)
        return target.read_bytes()

    return work


def refused(data: bytes, *more: x509.Certificate) -> str:
    with pytest.raises((SignatureError, FormatError)) as caught:
        verify_enveloped(data, *more)
    return caught.value.code


@pytest.mark.parametrize("canon", list(Method))
@pytest.mark.parametrize("more", [None, *Method])
@pytest.mark.parametrize("prefix", ["ds:", ""])
def test_what_xmlsec_signs_is_accepted(
    sign: Sign, canon: Method, more: Method | None, prefix: str
) -> None:
    data = sign(canon=canon.value, more=more.value if more else "", prefix=prefix)
    assert verify_enveloped(data)[0].serial_number == 7
    assert parse_rim(data).has_xmldsig


@pytest.mark.parametrize("size", ["256", "384", "512"])
@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_algorithms(sign: Sign, keys: dict[str, Key], kind: str, size: str) -> None:
    data = sign(keys[kind], method=f"{kind}-sha{size}")
    assert verify_enveloped(data)


def test_any_change_is_found(sign: Sign) -> None:
    data = sign()
    for old, new, code in (
        (b'size="3"', b'size="4"', "content-changed"),
        (b'xml:lang="en"', b'xml:lang="de"', "signature-invalid"),  # it is part of SignedInfo too
        (b"<Payload>", b"<Payload> ", "content-changed"),
        (b'xmlns="urn:q"', b'xmlns="urn:r"', "content-changed"),
        (b'xmlns:a="urn:a"', b'xmlns:a="urn:b"', "signature-invalid"),
        (b"<ds:SignedInfo>", b"<ds:SignedInfo> ", "signature-invalid"),
    ):
        assert old in data
        assert refused(data.replace(old, new, 1)) == code
    assert verify_enveloped(data.replace(b"<!-- gone -->", b""))  # comments are not signed
    assert verify_enveloped(data.replace(b"version='01'", b'version = "01"'))


def test_signature_by_another_key_is_refused(sign: Sign, keys: dict[str, Key]) -> None:
    data = sign()
    assert refused(data, certificate(keys["weak"])) == "weak-algorithm"
    assert refused(data, certificate(rsa.generate_private_key(65537, 2048))) == "signature-invalid"
    assert refused(data, certificate(keys["ecdsa"])) == "signature-unsupported"
    bare = data[: data.index(b"<ds:KeyInfo>")] + data[data.index(b"</ds:KeyInfo>") + 13 :]
    assert refused(bare) == "signer-missing"
    assert verify_enveloped(bare, certificate(keys["rsa"]))


def test_what_is_not_exactly_one_signature_over_the_whole_is_refused(sign: Sign) -> None:
    data = sign()
    signature = data[data.index(b"<ds:Signature ") : data.index(b"</ds:Signature>") + 15]
    reference = data[data.index(b"<ds:Reference") : data.index(b"</ds:Reference>") + 15]
    enveloped = f"{DSIG}enveloped-signature".encode()
    c14n = Method.C14N_10.value.encode()
    for bent, code in (
        (data.replace(signature, b""), "signature-missing"),
        (data.replace(signature, signature * 2), "signature-missing"),
        (data.replace(signature, b"<a:Box>" + signature + b"</a:Box>"), "signature-missing"),
        (data.replace(reference, b""), "signature-invalid"),
        (data.replace(reference, reference * 2), "signature-invalid"),
        (data.replace(b'URI=""', b'URI="#x"'), "signature-invalid"),
        (data.replace(enveloped, b"urn:xslt"), "signature-invalid"),
        (data.replace(c14n, c14n + b"#WithComments", 1), "signature-unsupported"),
        (data.replace(b"rsa-sha256", b"rsa-sha1"), "weak-algorithm"),
        (data.replace(b"<ds:SignatureValue>", b"<ds:SignatureValue>?"), "rim-malformed"),
    ):
        assert bent != data
        assert refused(bent) == code


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"more": Method.C14N_10.value + "#WithComments"}, "signature-unsupported"),
        ({"digest": DSIG + "sha1"}, "weak-algorithm"),
        ({"method": DSIG + "rsa-sha1"}, "weak-algorithm"),
    ],
    ids=["comments", "sha1-digest", "sha1"],
)
def test_rightly_signed_but_otherwise_than_is_checked_here(
    sign: Sign, options: dict[str, str], code: str
) -> None:
    assert refused(sign(**options)) == code


def test_maker_that_may_vouch_for_references_is_believed_and_others_not(sign: Sign) -> None:
    pki = shared_pki()
    trust = TrustStore(
        tuple(
            Anchor(one.certificate, frozenset({Level(level)})) for level, one in pki.issuers.items()
        )
    )
    for level, good in (("certified", True), ("community", False)):
        signer = pki.signers[level]
        assert isinstance(signer.key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
        data = sign(signer.key, signer.pem, method="ecdsa-sha256")
        if good:
            rim, subject = accept_rim(data, b"", trust, NOW)
            assert rim.files[0].name == "Example.rimel"
            assert level in subject
        else:
            with pytest.raises(SignatureError, match="not references"):
                accept_rim(data, b"", trust, NOW)


def test_xml_from_strangers_is_bounded_and_plain() -> None:
    for data, kind in (
        (b'<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>', FormatError),
        (b"<?php x?><x/>", FormatError),
        (b"<x" * 40 + b"/>", FormatError),
        (b"<x>" * 40 + b"</x>" * 40, LimitError),
        (b"<x>" + b"<y/>" * (1 << 17) + b"</x>", LimitError),
        (b'<a:x xmlns:a="u" xmlns:b="u" a:c="1" b:c="2"/>', FormatError),
        (b"<x>" + b" " * (5 << 20) + b"</x>", LimitError),
        (b"<x" + b"".join(b' xmlns:a%d="u"' % n for n in range(65)) + b"/>", LimitError),
        (b"<x" + b"".join(b' a%d="u"' % n for n in range(257)) + b"/>", LimitError),
    ):
        with pytest.raises(kind):
            read(data)


@given(
    st.binary(max_size=200) | st.text(alphabet="<>/x:='\" &;#![]CDAT-", max_size=80).map(str.encode)
)
def test_whatever_the_bytes_only_our_errors_come_out(data: bytes) -> None:
    with suppress(CasemateError):
        verify_enveloped(data)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40))
def test_canonical_form_is_read_back_as_itself(text: str) -> None:
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    node = read(f'<x b="{escaped}" a="1">{escaped.replace("]]>", "]]&gt;")}</x>'.encode())
    once = canonical(node, Method.C14N_10)
    assert canonical(read(once), Method.C14N_10) == once
