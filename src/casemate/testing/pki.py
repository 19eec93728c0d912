"""A small PKI in memory, for tests: a root, one issuing CA and one signer per acceptance level.

Keys are elliptic-curve keys, made once per process. Times are around ``MADE``; nothing here
reads a clock.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from casemate.formats.cms import PrivateKey, sign_detached

MADE: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""When every certificate of the test PKI begins."""
SIGNED: Final = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
"""When test signatures claim to be made."""
NOW: Final = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
"""What tests usually take for the present."""
LEVELS: Final = ("certified", "accepted", "partner", "community")


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: PrivateKey

    @property
    def pem(self) -> bytes:
        """The certificate as PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The private key as unencrypted PKCS #8 PEM."""
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


@dataclass(frozen=True, slots=True)
class Pki:
    """Root, and by level the issuing CA and a signer below it."""

    root: Identity
    issuers: Mapping[str, Identity]
    signers: Mapping[str, Identity]

    def sign(self, content: bytes, level: str, *, signing_time: datetime = SIGNED) -> bytes:
        """Return a PEM signature by the level's signer, its issuing CA embedded."""
        signer = self.signers[level]
        return sign_detached(
            content,
            signer.certificate,
            signer.key,
            [self.issuers[level].certificate],
            signing_time=signing_time,
        )


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def issue(
    common_name: str,
    issuer: Identity | None = None,
    *,
    authority: bool = False,
    key: PrivateKey | None = None,
    begins: datetime = MADE,
    ends: datetime = MADE + timedelta(days=3650),
    purposes: tuple[x509.ObjectIdentifier, ...] = (ExtendedKeyUsageOID.CODE_SIGNING,),
    digest: hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | None = None,
) -> Identity:
    """Return a new certificate, self-signed without an issuer.

    ``purposes`` are the extended key usages of one that is not an authority.
    """
    own = key or new_key()
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Casemate tests"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )
    signing = issuer.key if issuer else own
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()),
            critical=False,
        )
        .add_extension(
            x509.KeyUsage(
                digital_signature=not authority,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=authority,
                crl_sign=authority,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    if purposes and not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    return Identity(builder.sign(signing, digest or hashes.SHA256()), own)


@functools.cache
def shared_pki() -> Pki:
    """Return the PKI of this process; made on first use."""
    root = issue("Root", authority=True)
    issuers = {level: issue(f"Issuing CA {level}", root, authority=True) for level in LEVELS}
    signers = {level: issue(f"Signer {level}", issuers[level]) for level in LEVELS}
    return Pki(root, issuers, signers)
