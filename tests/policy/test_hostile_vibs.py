"""Every way of smuggling something in with a VIB that we know, each refused with its own reason."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from casemate.errors import CasemateError
from casemate.formats import cms_asn1
from casemate.formats.ar import write_ar
from casemate.formats.cms import sign_bare, sign_detached
from casemate.formats.descriptor import Checksum, write_descriptor
from casemate.formats.vib import parse_vib, write_vib
from casemate.policy.levels import Level
from casemate.policy.trust import TrustStore, trust_from_files
from casemate.testing.pki import MADE, NOW, SIGNED, Identity, issue, new_key, shared_pki
from casemate.testing.vibs import PAYLOADS, judge, make_descriptor, make_vib, trust_of

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Case:
    """An attack: the bytes, and the circumstances in which they arrive."""

    code: str
    data: Callable[[], bytes]
    host: Level = Level.PARTNER
    now: datetime = NOW
    trust: Callable[[], TrustStore] | None = None


def signed(descriptor: bytes, level: str = "partner") -> bytes:
    return shared_pki().sign(descriptor, level)


def signed_vib(descriptor: bytes, payloads=PAYLOADS) -> bytes:
    return write_vib(descriptor, signed(descriptor), payloads.items())


def xml(**changes: str) -> bytes:
    """A good descriptor with text replaced: ``xml(old="new")`` by regular expression."""
    text = write_descriptor(make_descriptor()).decode()
    for old, new in changes.items():
        text = re.sub(PATTERNS[old], new.replace("\\", r"\\"), text, count=1, flags=re.DOTALL)
    return text.encode()


PATTERNS = {
    "head": r"<\?xml[^>]*\?>",
    "name": r"<name>[^<]*</name>",
    "version": r"<version>[^<]*</version>",
    "vendor": r"<vendor>[^<]*</vendor>",
    "type": r"<type>[^<]*</type>",
    "level": r"<acceptance-level>[^<]*</acceptance-level>",
    "date": r"<release-date>[^<]*</release-date>",
    "overlay": r"<overlay>[^<]*</overlay>",
    "summary": r"<summary>[^<]*</summary>",
    "files": r"<file-list/>",
    "checksum": r"<checksum .*?</checksum>",
    "payload": r'name="demo" type="tgz"',
    "size": r'size="[0-9]*"',
    "depends": r"<depends/>",
    "root": r"<vib version",
}


def by(
    identity: Identity, *chain: Identity, at: datetime = SIGNED, level: str = "partner"
) -> bytes:
    descriptor = write_descriptor(make_descriptor(level))
    signature = sign_detached(
        descriptor,
        identity.certificate,
        identity.key,
        [one.certificate for one in chain],
        signing_time=at,
    )
    return write_vib(descriptor, signature, PAYLOADS.items())


def issuer(level: str = "partner") -> Identity:
    return shared_pki().issuers[level]


def edited(data: bytes, offset: int, value: bytes) -> bytes:
    return data[:offset] + value + data[offset + len(value) :]


def flipped_signature() -> bytes:
    vib = parse_vib(make_vib())
    lines = vib.signature.split(b"\n")
    row = lines[-4]
    lines[-4] = (b"A" if row[:1] != b"A" else b"B") + row[1:]
    return write_vib(vib.descriptor_bytes, b"\n".join(lines), vib.payloads.items())


def with_signature(signature: bytes) -> bytes:
    return write_vib(write_descriptor(make_descriptor()), signature, PAYLOADS.items())


def changed_descriptor() -> bytes:
    vib = parse_vib(make_vib())
    changed = vib.descriptor_bytes.replace(b"<overlay>false", b"<overlay>true")
    return write_vib(changed, vib.signature, vib.payloads.items())


def raw_members(*members: tuple[str, bytes]) -> bytes:
    return write_ar(members)


def good_parts() -> tuple[tuple[str, bytes], ...]:
    descriptor = write_descriptor(make_descriptor())
    return (
        ("descriptor.xml", descriptor),
        ("sig.pkcs7", signed(descriptor)),
        *PAYLOADS.items(),
    )


def checksums(*checks: Checksum, data: bytes = PAYLOADS["demo"]) -> bytes:
    good = make_descriptor(payloads={"demo": data})
    payload = replace(good.payloads[0], checksums=checks)
    return signed_vib(write_descriptor(replace(good, payloads=(payload,))), {"demo": data})


def below_old_root() -> TrustStore:
    return trust_from_files([(Level.PARTNER, OLD_ROOT.pem)])


def forged(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    """A VIB by a key that we would not sign with: a good signature with the certificate swapped."""
    real = issue("Weak", issuer(), key=key)
    stand_in = issue("Stand-in", issuer())
    twin = (
        x509.CertificateBuilder()
        .subject_name(real.certificate.subject)
        .issuer_name(stand_in.certificate.issuer)
        .public_key(key.public_key())
        .serial_number(stand_in.certificate.serial_number)
        .not_valid_before(MADE)
        .not_valid_after(MADE + 365 * DAY)
        .sign(issuer().key, real.certificate.signature_hash_algorithm)
    )
    descriptor = write_descriptor(make_descriptor())
    with_both = sign_detached(
        descriptor, stand_in.certificate, stand_in.key, [twin], signing_time=SIGNED
    )
    return write_vib(descriptor, drop_first_certificate(with_both), PAYLOADS.items())


def drop_first_certificate(pem: bytes) -> bytes:
    der = base64.b64decode(b"".join(pem.split(b"\n")[1:-2]))
    info = asn1.decode_der(cms_asn1.ContentInfo, der)
    info.content.certificates = info.content.certificates[1:]
    return asn1.encode_der(info)


def weak_rsa() -> bytes:
    return forged(rsa.generate_private_key(65537, 1024))


def odd_curve() -> bytes:
    return forged(ec.generate_private_key(ec.SECP256K1()))


OLD_ROOT = issue("Old root", authority=True, ends=MADE + 30 * DAY)
OLD_CA = issue("Old CA", shared_pki().root, authority=True, ends=MADE + 30 * DAY)


def root_for_partner() -> TrustStore:
    return trust_from_files([(Level.PARTNER, shared_pki().root.pem)])


SHA256 = hashlib.sha256(PAYLOADS["demo"]).digest()

CASES: dict[str, Case] = {
    # The container.
    "an empty file": Case("ar-magic", lambda: b""),
    "a zip that calls itself a VIB": Case("ar-magic", lambda: b"PK\x03\x04" + bytes(100)),
    "an archive with nothing in it": Case("vib-order", lambda: b"!<arch>\n"),
    "a VIB cut in the middle of a header": Case("ar-header", lambda: make_vib()[:30]),
    "a VIB cut in the middle of its payload": Case("ar-truncated", lambda: make_vib()[:-3]),
    "bytes hidden after the last member": Case("ar-header", lambda: make_vib() + b"evil"),
    "a whole member hidden after the payloads": Case(
        "payload-unknown", lambda: raw_members(*good_parts(), ("extra", b"evil"))
    ),
    "a byte hidden in the padding": Case(
        "ar-padding",
        lambda: make_vib(payloads={"demo": b"odd"})[:-1] + b"!",
    ),
    "a member size that is negative": Case(
        "ar-header", lambda: edited(make_vib(), 8 + 48, b"-1        ")
    ),
    "a member size in hexadecimal": Case(
        "ar-header", lambda: edited(make_vib(), 8 + 48, b"0x10      ")
    ),
    "a member whose owner is not a number": Case(
        "ar-header", lambda: edited(make_vib(), 8 + 28, b"root  ")
    ),
    "a member with a path for a name": Case(
        "ar-name", lambda: edited(make_vib(), 8, b"../../etc/passwd")
    ),
    "a member name from a long-name table": Case(
        "ar-name", lambda: edited(make_vib(), 8, b"/0              ")
    ),
    "a member without a name": Case("ar-name", lambda: edited(make_vib(), 8, b" " * 16)),
    "the signature before the descriptor": Case(
        "vib-order", lambda: raw_members(*(good_parts()[i] for i in (1, 0, 2)))
    ),
    "a payload before the signature": Case(
        "vib-order", lambda: raw_members(*(good_parts()[i] for i in (0, 2, 1)))
    ),
    "no signature member at all": Case(
        "vib-order", lambda: raw_members(good_parts()[0], good_parts()[2])
    ),
    "two descriptors": Case("vib-duplicate", lambda: raw_members(good_parts()[0], *good_parts())),
    "two signatures": Case("vib-duplicate", lambda: raw_members(*good_parts(), good_parts()[1])),
    "two payloads of one name": Case(
        "vib-duplicate", lambda: raw_members(*good_parts(), ("demo", b"evil"))
    ),
    "a payload that is missing": Case("payload-missing", lambda: raw_members(*good_parts()[:2])),
    "a payload that was repacked under another name": Case(
        "payload-unknown", lambda: raw_members(*good_parts()[:2], ("payload1", PAYLOADS["demo"]))
    ),
    "a signature file of two megabytes": Case("vib-limit", lambda: with_signature(bytes(2 << 20))),
    "a descriptor of five megabytes": Case(
        "vib-limit", lambda: write_vib(b"<vib>" + b" " * (5 << 20), b"", ())
    ),
    # The descriptor.
    "a descriptor that is not XML": Case("xml-syntax", lambda: signed_vib(b"name: demo")),
    "an empty descriptor": Case("xml-syntax", lambda: signed_vib(b"")),
    "a descriptor with a billion laughs": Case(
        "xml-doctype",
        lambda: signed_vib(
            xml(head='<!DOCTYPE v [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>', summary="<s>&b;</s>")
        ),
    ),
    "a descriptor that reads a file of the host": Case(
        "xml-doctype",
        lambda: signed_vib(xml(head='<!DOCTYPE v [<!ENTITY p SYSTEM "file:///etc/shadow">]>')),
    ),
    "a descriptor with an entity nobody declared": Case(
        "xml-syntax", lambda: signed_vib(xml(summary="<summary>&evil;</summary>"))
    ),
    "a descriptor nested a thousand deep": Case(
        "xml-limit", lambda: signed_vib(b"<a>" * 1000 + b"</a>" * 1000)
    ),
    "a descriptor with a hundred thousand elements": Case(
        "xml-limit", lambda: signed_vib(b"<vib>" + b"<a/>" * 100_000 + b"</vib>")
    ),
    "a descriptor in UTF-16": Case(
        "xml-syntax", lambda: signed_vib(xml(head="").decode().encode("utf-16"))
    ),
    "a descriptor with a NUL byte": Case(
        "xml-syntax", lambda: signed_vib(xml(summary="<summary>\x00</summary>"))
    ),
    "a descriptor of something else": Case(
        "descriptor-root", lambda: signed_vib(b"<bulletin></bulletin>")
    ),
    "two names, so that readers differ": Case(
        "descriptor-ambiguous",
        lambda: signed_vib(xml(name="<name>demo</name><name>esx-base</name>")),
    ),
    "two acceptance levels, so that readers differ": Case(
        "descriptor-ambiguous",
        lambda: signed_vib(
            xml(
                level="<acceptance-level>community</acceptance-level>"
                "<acceptance-level>certified</acceptance-level>"
            )
        ),
    ),
    "no name": Case("descriptor-incomplete", lambda: signed_vib(xml(name=""))),
    "no vendor": Case("descriptor-incomplete", lambda: signed_vib(xml(vendor=""))),
    "a name that climbs out of its directory": Case(
        "descriptor-name", lambda: signed_vib(xml(name="<name>../../etc/cron.d/x</name>"))
    ),
    "a name of 36 characters": Case(
        "descriptor-name", lambda: signed_vib(xml(name=f"<name>{'n' * 36}</name>"))
    ),
    "a version with a shell command": Case(
        "descriptor-name", lambda: signed_vib(xml(version="<version>1;reboot</version>"))
    ),
    "a vendor with an underscore that would forge an id": Case(
        "descriptor-name", lambda: signed_vib(xml(vendor="<vendor>VMW_bootbank_x</vendor>"))
    ),
    "a summary that paints the terminal": Case(
        "descriptor-text",
        lambda: signed_vib(xml(summary="<summary>a&#x9b;31mred</summary>")),
    ),
    "a summary of 81 characters": Case(
        "descriptor-limit", lambda: signed_vib(xml(summary=f"<summary>{'s' * 81}</summary>"))
    ),
    "an acceptance level that does not exist": Case(
        "descriptor-level",
        lambda: signed_vib(xml(level="<acceptance-level>Certified</acceptance-level>")),
    ),
    "a type that does not exist": Case(
        "descriptor-type", lambda: signed_vib(xml(type="<type>rootkit</type>"))
    ),
    "a release date that is no date": Case(
        "descriptor-date", lambda: signed_vib(xml(date="<release-date>yesterday</release-date>"))
    ),
    "a switch that is neither true nor false": Case(
        "descriptor-boolean", lambda: signed_vib(xml(overlay="<overlay>maybe</overlay>"))
    ),
    "a constraint with an unknown relation": Case(
        "descriptor-constraint",
        lambda: signed_vib(
            xml(depends='<depends><constraint name="x" relation="!=" version="1"/></depends>')
        ),
    ),
    "a file list that leaves the root": Case(
        "path",
        lambda: signed_vib(xml(files="<file-list><file>opt/../../etc/passwd</file></file-list>")),
    ),
    "a file list with an absolute path": Case(
        "path", lambda: signed_vib(xml(files="<file-list><file>/etc/passwd</file></file-list>"))
    ),
    "a payload type that nobody unpacks": Case(
        "descriptor-payload", lambda: signed_vib(xml(payload='name="demo" type="exe"'))
    ),
    "a payload whose name is a path": Case(
        "descriptor-payload", lambda: signed_vib(xml(payload='name="../demo" type="tgz"'))
    ),
    "a payload whose announced size is smaller": Case(
        "payload-size", lambda: signed_vib(xml(size='size="3"'))
    ),
    "a payload whose size is a thousand digits": Case(
        "descriptor-payload", lambda: signed_vib(xml(size=f'size="{"9" * 1000}"'))
    ),
    "a checksum that is not hexadecimal": Case(
        "descriptor-checksum",
        lambda: signed_vib(xml(checksum='<checksum checksum-type="sha-256">zz</checksum>')),
    ),
    "a checksum that is cut short": Case(
        "descriptor-checksum",
        lambda: signed_vib(xml(checksum='<checksum checksum-type="sha-256">00</checksum>')),
    ),
    "a checksum of an unknown type": Case(
        "descriptor-checksum",
        lambda: signed_vib(xml(checksum='<checksum checksum-type="crc32">00000000</checksum>')),
    ),
    "two checksums of one kind, so that readers differ": Case(
        "descriptor-checksum",
        lambda: signed_vib(
            xml(checksum=2 * f'<checksum checksum-type="sha-256">{SHA256.hex()}</checksum>')
        ),
    ),
    # The payloads.
    "a payload changed in one byte": Case(
        "payload-changed",
        lambda: signed_vib(
            write_descriptor(make_descriptor()), {"demo": PAYLOADS["demo"][:-1] + b"X"}
        ),
    ),
    "a payload without any checksum": Case("payload-unbound", checksums),
    "a payload bound by SHA-1 alone": Case(
        "payload-unbound",
        lambda: checksums(Checksum("sha-1", hashlib.sha1(PAYLOADS["demo"]).digest())),
    ),
    "a payload whose content differs from the signed content": Case(
        "payload-changed",
        lambda: checksums(
            Checksum("sha-256", hashlib.sha256(b"good").digest(), "gunzip"),
            data=gzip.compress(b"evil", mtime=0),
        ),
    ),
    "a payload that unpacks to a hundred megabytes": Case(
        "bomb",
        lambda: make_vib(payloads={"demo": gzip.compress(bytes(100 << 20), mtime=0)}),
    ),
    # The signature.
    "an unsigned VIB that says partner": Case(
        "signature-missing",
        lambda: write_vib(write_descriptor(make_descriptor()), b"", PAYLOADS.items()),
    ),
    "an unsigned VIB that says certified, on a community host": Case(
        "signature-missing",
        lambda: write_vib(write_descriptor(make_descriptor("certified")), b"", PAYLOADS.items()),
        host=Level.COMMUNITY,
    ),
    "an unsigned community VIB on a partner host": Case(
        "level-too-low",
        lambda: write_vib(write_descriptor(make_descriptor("community")), b"", PAYLOADS.items()),
    ),
    "a signature that is one space": Case("signature-malformed", lambda: with_signature(b" ")),
    "a signature of random text": Case("signature-malformed", lambda: with_signature(b"trust me")),
    "a PEM block of something else": Case(
        "signature-malformed", lambda: with_signature(shared_pki().root.pem)
    ),
    "a PEM block that never ends": Case(
        "signature-malformed", lambda: with_signature(signed(b"x")[:-20])
    ),
    "two PEM blocks": Case(
        "signature-malformed", lambda: with_signature(signed(b"x") + signed(b"y"))
    ),
    "text before the PEM block": Case(
        "signature-malformed", lambda: with_signature(b"hello\n" + signed(b"x"))
    ),
    "a genuine signature over another descriptor": Case(
        "descriptor-changed",
        lambda: with_signature(signed(write_descriptor(make_descriptor("certified")))),
    ),
    "a descriptor edited after signing": Case("descriptor-changed", changed_descriptor),
    "a newline appended to a signed descriptor": Case(
        "descriptor-changed",
        lambda: write_vib(
            write_descriptor(make_descriptor()) + b"\n",
            signed(write_descriptor(make_descriptor())),
            PAYLOADS.items(),
        ),
    ),
    "a signature with one changed byte": Case("signature-invalid", flipped_signature),
    "a signature that embeds no certificate": Case(
        "signer-missing",
        lambda: with_signature(
            sign_bare(
                write_descriptor(make_descriptor()),
                shared_pki().signers["partner"].certificate,
                shared_pki().signers["partner"].key,
            )
        ),
    ),
    # The signer.
    "a stranger's self-signed certificate": Case("signer-untrusted", lambda: by(issue("Stranger"))),
    "a stranger's CA with the name of ours": Case(
        "signer-untrusted",
        lambda: by(
            issue("Signer partner", issue("Issuing CA partner", authority=True)),
        ),
    ),
    "our CA's name, a stranger's key": Case(
        "signer-untrusted",
        lambda: by(
            issue("Signer", Identity(issuer().certificate, new_key())),
            issuer(),
        ),
    ),
    "a signer who plays CA": Case(
        "signer-untrusted",
        lambda: by(
            issue("Below a signer", shared_pki().signers["partner"]),
            shared_pki().signers["partner"],
            issuer(),
        ),
    ),
    "a signer on a host without any anchor": Case("signer-untrusted", make_vib, trust=TrustStore),
    "a web server's certificate from our CA": Case(
        "signer-purpose",
        lambda: by(issue("www", issuer(), purposes=(ExtendedKeyUsageOID.SERVER_AUTH,)), issuer()),
    ),
    "a certificate without any purpose": Case(
        "signer-purpose", lambda: by(issue("anything", issuer(), purposes=()), issuer())
    ),
    "an issuing CA that signs by itself, below the root": Case(
        "signer-purpose", lambda: by(issuer()), trust=root_for_partner
    ),
    "a signature made after the certificate ended": Case(
        "signer-expired",
        lambda: by(issue("Late", issuer(), ends=MADE + 10 * DAY), issuer()),
    ),
    "a signature made before the certificate began": Case(
        "signing-time",
        lambda: by(issue("Early", issuer(), begins=SIGNED), issuer(), at=SIGNED - DAY),
    ),
    "a signature from the future": Case(
        "clock-wrong", lambda: by(shared_pki().signers["partner"], issuer(), at=NOW + DAY)
    ),
    "a host whose clock stands in 1970": Case(
        "clock-wrong", make_vib, now=datetime(1970, 1, 1, tzinfo=UTC)
    ),
    "a CA that ended before the signature": Case(
        "signer-expired",
        lambda: by(issue("Below old CA", OLD_CA), OLD_CA),
        trust=root_for_partner,
    ),
    "an anchor that ended before the signature": Case(
        "signer-expired",
        lambda: by(issue("Below old root", OLD_ROOT)),
        trust=below_old_root,
    ),
    "an RSA key of 1024 bits": Case("weak-algorithm", weak_rsa),
    "a curve that nobody reviewed": Case("algorithm-unsupported", odd_curve),
    # The level.
    "a partner's signer who says certified": Case(
        "level-not-backed",
        lambda: by(shared_pki().signers["partner"], issuer(), level="certified"),
    ),
    "a community signer who says partner": Case(
        "level-not-backed",
        lambda: by(shared_pki().signers["community"], issuer("community")),
    ),
    "a certified signer who says partner without being bound to it": Case(
        "level-not-backed",
        lambda: by(shared_pki().signers["certified"], issuer("certified")),
    ),
    "a signed community VIB on a partner host": Case(
        "level-too-low", lambda: make_vib("community")
    ),
    "a partner VIB on a certified host": Case("level-too-low", make_vib, host=Level.CERTIFIED),
}


@pytest.mark.parametrize("name", CASES)
def test_is_refused_for_its_own_reason(name: str) -> None:
    case = CASES[name]
    trust = case.trust() if case.trust else trust_of(shared_pki())
    with pytest.raises(CasemateError) as caught:
        judge(case.data(), trust, case.host, case.now)
    assert caught.value.code == case.code, caught.value
    finding = caught.value.finding()
    assert finding.reason
    assert finding.remedy


def test_there_are_enough_attacks_and_they_are_told_apart() -> None:
    assert len(CASES) >= 60
    assert len({case.code for case in CASES.values()}) >= 40


def test_what_is_not_an_attack_passes() -> None:
    verdict = judge(make_vib())
    assert verdict.level is Level.PARTNER
    assert verdict.signer == "CN=Signer partner,O=Casemate tests"
    assert verdict.anchor == "CN=Issuing CA partner,O=Casemate tests"
    assert verdict.signing_time == SIGNED
