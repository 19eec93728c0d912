"""EK certificates and their authorities in memory, in the shapes that vendors ship.

``shape`` of ``ek``: ``plain``; ``header`` (the TCG's seven bytes); ``padded``; ``unsorted`` (a SET
in the subject in the wrong order); ``critical`` (an unknown critical extension); ``oaep`` (the key
marked as OAEP only). And some that no vendor should: ``resorted`` (the unsorted one put in order
after it was signed), ``no-usage``, ``ca``, ``no-name``, ``pss`` and ``pss-bare`` (by an RSA key
with PSS, the latter without its parameters). ``odd`` bends one in all the ways that strict readers
refuse, or mistake.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
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
    key: PrivateKey

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


def authority(
    name: str, issuer: Authority | None = None, *, key: PrivateKey | None = None
) -> Authority:
    """Return a new CA, self-signed without an issuer."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    above = issuer.certificate.subject if issuer else _name(name)
    builder = _builder(_name(name), above, key, 20_000).add_extension(
        x509.BasicConstraints(ca=True, path_length=None), critical=True
    )
    above_key = issuer.key if issuer else key
    return Authority(builder.sign(above_key, _hash(above_key)), key)


def _hash(key: PrivateKey) -> hashes.SHA256 | hashes.SHA384:
    large = isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP384R1)
    return hashes.SHA384() if large else hashes.SHA256()


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
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32) if shape.startswith("pss") else None
    signed = builder.sign(issuer.key, _hash(issuer.key), rsa_padding=pss)
    made = signed.public_bytes(serialization.Encoding.DER)
    made = _bent(made, shape, issuer)
    stored = made
    if shape == "header":
        stored = b"\x10\x01\x00" + (len(made) + 2).to_bytes(2, "big") + b"\x10\x02" + made
    if shape in {"header", "padded"}:
        stored += b"\xff" * 300
    return MadeEk(made, stored, own)


def _bent(made: bytes, shape: str, issuer: Authority) -> bytes:
    if shape == "unsorted":
        return _resign(made, _swap_set, issuer)
    if shape == "resorted":
        return _swap(_resign(made, _swap_set, issuer))
    if shape == "pss-bare":
        return _without_parameters(made)
    if shape == "oaep":
        return _resign(made, _mark_oaep, issuer)
    return made


@dataclass(frozen=True, slots=True)
class Odd:
    """What is odd about a certificate that a vendor made.

    Attributes:
        serial: any number; below zero where its first bit was taken for a sign.
        criticals: content of the BOOLEAN ``critical`` of each extension; None: there is none.
        strings: tag and encoding of the TPM's three attributes.
        one_set: whether they stand in one SET, as they came.
        more_names: DER of other names beside that of the TPM.
        header: whether the TCG's seven bytes stand before it.
        after: bytes of the NV index after it.
    """

    serial: int = 1
    criticals: tuple[bytes | None, ...] = (None,)
    strings: tuple[tuple[int, str], ...] = ((0x0C, "utf-8"),)
    one_set: bool = False
    more_names: bytes = b""
    header: bool = False
    after: bytes = b""


TPM: Final = {
    "2.23.133.2.1": ("manufacturer", "id:53544D20"),
    "2.23.133.2.2": ("model", "ST33HTPHAHD4"),
    "2.23.133.2.3": ("version", "id:00010102"),
}


def odd(issuer: Authority, how: Odd, *, key: PrivateKey | None = None) -> MadeEk:
    """Return an EK certificate by ``issuer`` that is right, and looks wrong."""
    plain = ek(issuer, key=key)

    def change(tbs: bytes) -> bytes:
        raws = [field.raw for field in der.read_tlv(tbs).items()]
        size = how.serial.bit_length() // 8 + 1
        raws[1] = der.write_tlv(der.INTEGER, how.serial.to_bytes(size, "big", signed=True))
        raws[7] = der.write_tlv(0xA3, der.write_tlv(der.SEQUENCE, _odd_extensions(how)))
        return der.write_tlv(der.SEQUENCE, b"".join(raws))

    made = _resign(plain.der, change, issuer)
    stored = made + how.after
    if how.header:
        stored = b"\x10\x01\x00" + (len(stored) + 2).to_bytes(2, "big") + b"\x10\x02" + stored
    return MadeEk(made, stored, plain.key)


def _odd_extensions(how: Odd) -> bytes:
    usage = der.write_tlv(der.OBJECT_ID, bytes.fromhex("6781050801"))
    parts = {
        "551d25": der.write_tlv(der.SEQUENCE, usage),
        "551d13": der.write_tlv(der.SEQUENCE, b""),
        "551d11": der.write_tlv(der.SEQUENCE, _odd_name(how) + how.more_names),
    }
    out = b""
    for n, (oid, value) in enumerate(parts.items()):
        flag = how.criticals[n % len(how.criticals)]
        critical = b"" if flag is None else der.write_tlv(der.BOOLEAN, flag)
        head = der.write_tlv(der.OBJECT_ID, bytes.fromhex(oid)) + critical
        out += der.write_tlv(der.SEQUENCE, head + der.write_tlv(der.OCTET_STRING, value))
    return out


def _odd_name(how: Odd) -> bytes:
    pairs = []
    for n, (oid, (_, text)) in enumerate(TPM.items()):
        tag, encoding = how.strings[n % len(how.strings)]
        kind = der.write_tlv(der.OBJECT_ID, bytes.fromhex("67810502") + bytes([int(oid[-1])]))
        value = der.write_tlv(tag, text.encode(encoding))
        pairs.append(der.write_tlv(der.SEQUENCE, kind + value))
    groups = [b"".join(pairs)] if how.one_set else pairs
    name = b"".join(der.write_tlv(der.SET, group) for group in groups)
    return der.write_tlv(0xA4, der.write_tlv(der.SEQUENCE, name))


def _tpm_name() -> x509.SubjectAlternativeName:
    pairs = [x509.NameAttribute(x509.ObjectIdentifier(oid), text) for oid, (_, text) in TPM.items()]
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


def _without_parameters(certificate: bytes) -> bytes:
    """Leave the parameters of the signature's algorithm out, in both places."""
    tbs, algorithm, signature = _parts(certificate)
    bare = der.write_tlv(der.SEQUENCE, algorithm.items()[0].raw)
    changed = der.write_tlv(der.SEQUENCE, tbs.content.replace(algorithm.raw, bare, 1))
    return der.write_tlv(der.SEQUENCE, changed + bare + signature.raw)


def _parts(certificate: bytes) -> tuple[der.Tlv, ...]:
    return der.read_tlv(certificate).items()


def _swap(certificate: bytes) -> bytes:
    tbs, algorithm, signature = _parts(certificate)
    return der.write_tlv(der.SEQUENCE, _swap_set(tbs.raw) + algorithm.raw + signature.raw)


def _resign(certificate: bytes, change: Changer, issuer: Authority) -> bytes:
    tbs, algorithm, _ = _parts(certificate)
    changed = change(tbs.raw)
    key = issuer.key
    if isinstance(key, rsa.RSAPrivateKey):
        signature = key.sign(changed, padding.PKCS1v15(), hashes.SHA256())
    else:
        signature = key.sign(changed, ec.ECDSA(_hash(key)))
    bits = der.write_tlv(der.BIT_STRING, b"\0" + signature)
    return der.write_tlv(der.SEQUENCE, changed + algorithm.raw + bits)
