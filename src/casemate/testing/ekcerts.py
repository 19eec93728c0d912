"""EK certificates and their authorities in memory, in the shapes that vendors ship.

``shape`` of ``ek``: ``plain``; ``header`` (the TCG's seven bytes); ``padded``; ``unsorted`` (a SET
in the subject in the wrong order); ``critical`` (an unknown critical extension); ``oaep`` (the key
marked as OAEP only). And some that no vendor should: ``resorted`` (the unsorted one put in order
after it was signed), ``no-usage``, ``ca``, ``no-name``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from casemate.formats import der
from casemate.formats.ekcert import EK_USAGE

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
BEGIN: Final = datetime(2024, 1, 1, tzinfo=UTC)
NOW: Final = datetime(2026, 6, 1, tzinfo=UTC)
Changer = Callable[[bytes], bytes]
SHAPES: Final = ("plain", "header", "padded", "unsorted", "critical")
_SERIALS = iter(range(1000, 1_000_000))


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA of a TPM maker."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(serialization.Encoding.DER)


@dataclass(frozen=True, slots=True)
class MadeEk:
    """An EK certificate: ``der`` without, ``nv`` with header or padding."""

    der: bytes
    nv: bytes
    key: PrivateKey

    @property
    def certificate(self) -> x509.Certificate:
        """The certificate, where a strict reader takes it."""
        return x509.load_der_x509_certificate(self.der)

    def as_authority(self) -> Authority:
        """Misuse the EK as a CA."""
        assert isinstance(self.key, ec.EllipticCurvePrivateKey)
        return Authority(self.certificate, self.key)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PrivateKey, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(next(_SERIALS))
        .not_valid_before(BEGIN)
        .not_valid_after(BEGIN + timedelta(days=days))
    )


@functools.cache
def _shared_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def authority(name: str, issuer: Authority | None = None) -> Authority:
    """Return a new CA, self-signed without an issuer."""
    key = ec.generate_private_key(ec.SECP256R1())
    above = issuer.certificate.subject if issuer else _name(name)
    builder = _builder(_name(name), above, key, 20_000).add_extension(
        x509.BasicConstraints(ca=True, path_length=None), critical=True
    )
    return Authority(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


def crl(issuer: Authority, serials: Sequence[int]) -> bytes:
    """Return a revocation list, DER."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(BEGIN)
        .next_update(BEGIN + timedelta(days=5000))
    )
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW)
        builder = builder.add_revoked_certificate(entry.build())
    signed = builder.sign(issuer.key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.DER)


def ek(issuer: Authority, *, key: PrivateKey | None = None, shape: str = "plain") -> MadeEk:
    """Return an EK certificate by ``issuer``; the key is shared unless given."""
    own = key or _shared_key()
    subject = x509.Name([])
    if shape in {"unsorted", "resorted"}:
        pair = [
            x509.NameAttribute(NameOID.COMMON_NAME, "a"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "b"),
        ]
        subject = x509.Name([x509.RelativeDistinguishedName(pair)])
    builder = _builder(subject, issuer.certificate.subject, own, 3650)
    if shape != "no-usage":
        usage = x509.ExtendedKeyUsage([x509.ObjectIdentifier(EK_USAGE)])
        builder = builder.add_extension(usage, critical=False)
    builder = builder.add_extension(
        x509.BasicConstraints(ca=shape == "ca", path_length=None), critical=True
    )
    if shape != "no-name":
        builder = builder.add_extension(_tpm_name(), critical=True)
    if shape == "critical":
        strange = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\x05\x00")
        builder = builder.add_extension(strange, critical=True)
    made = builder.sign(issuer.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    if shape == "unsorted":
        made = _resign(made, _swap_set, issuer)
    elif shape == "resorted":
        made = _swap(_resign(made, _swap_set, issuer))
    elif shape == "oaep":
        made = _resign(made, _mark_oaep, issuer)
    stored = made
    if shape == "header":
        stored = b"\x10\x01\x00" + (len(made) + 2).to_bytes(2, "big") + b"\x10\x02" + made
    if shape in {"header", "padded"}:
        stored += b"\xff" * 300
    return MadeEk(made, stored, own)


def _tpm_name() -> x509.SubjectAlternativeName:
    values = {
        "2.23.133.2.1": "id:53544D20",
        "2.23.133.2.2": "ST33HTPHAHD4",
        "2.23.133.2.3": "id:00010102",
    }
    pairs = [x509.NameAttribute(x509.ObjectIdentifier(oid), text) for oid, text in values.items()]
    return x509.SubjectAlternativeName([x509.DirectoryName(x509.Name(pairs))])


def _swap_set(tbs: bytes) -> bytes:
    """Put the two attributes of the one SET with two into the other order."""
    fields = list(der.read_tlv(tbs).items())
    subject = fields[5]
    (group,) = subject.items()
    first, second = group.items()
    turned = der.write_tlv(der.SET, second.raw + first.raw)
    raws = [field.raw for field in fields]
    raws[5] = der.write_tlv(der.SEQUENCE, turned)
    return der.write_tlv(der.SEQUENCE, b"".join(raws))


def _mark_oaep(tbs: bytes) -> bytes:
    fields = list(der.read_tlv(tbs).items())
    _, bits = fields[6].items()
    algorithm = der.write_tlv(der.SEQUENCE, bytes.fromhex("06092a864886f70d0101073000"))
    raws = [field.raw for field in fields]
    raws[6] = der.write_tlv(der.SEQUENCE, algorithm + bits.raw)
    return der.write_tlv(der.SEQUENCE, b"".join(raws))


def _parts(certificate: bytes) -> tuple[der.Tlv, ...]:
    return der.read_tlv(certificate).items()


def _swap(certificate: bytes) -> bytes:
    tbs, algorithm, signature = _parts(certificate)
    return der.write_tlv(der.SEQUENCE, _swap_set(tbs.raw) + algorithm.raw + signature.raw)


def _resign(certificate: bytes, change: Changer, issuer: Authority) -> bytes:
    tbs, algorithm, _ = _parts(certificate)
    changed = change(tbs.raw)
    signature = issuer.key.sign(changed, ec.ECDSA(hashes.SHA256()))
    bits = der.write_tlv(der.BIT_STRING, b"\0" + signature)
    return der.write_tlv(der.SEQUENCE, changed + algorithm.raw + bits)
