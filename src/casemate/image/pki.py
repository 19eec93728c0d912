"""The development PKI: a root, one issuing CA and one code-signing certificate per level.

It lies under ``<home>/pki`` and is made on first use; a production signer is given its own
certificates and keys elsewhere. The anchor of a level is that level's issuing CA and no other:
a CA that may give a strict level does not thereby give a looser one. Somebody's CA that should
give several levels is added to each of them by name (``casemate trust add --level``).
"""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from casemate.errors import ArgumentError, FormatError, HostError, NotFoundError
from casemate.policy.levels import Level

ORGANISATION: Final = "Casemate Development"
KEY_BITS: Final = 3072
"""RSA: good until 2030 and beyond (NIST SP 800-57), and deterministic in PKCS #1 v1.5."""

SECURE_BOOT_KEYS: Final = {
    "secureboot-pk": None,
    "secureboot-kek": None,
    "secureboot-ca": None,
    "secureboot-signer": "secureboot-ca",
}
"""Secure Boot's keys and who issues them: owner, exchange key, and the CA that firmware trusts."""

ROOT_DAYS: Final = 7300
ISSUER_DAYS: Final = 3650
SIGNER_DAYS: Final = 1825
BACKDATED: Final = dt.timedelta(hours=1)
"""Certificates begin a little before they are made: clocks differ."""

SECURE_BOOT: Final = "secureboot"
"""What the names of Secure Boot's keys begin with."""

KEY_MODE: Final = 0o600
CERTIFICATE_MODE: Final = 0o644
ANCHOR_PREFIX: Final = "casemate-dev"
MAX_ANCHOR: Final = 64 << 10
"""Bytes of a file with one certificate; real ones have two to four thousand."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Signer:
    """What signs VIBs of one level: certificate, private key, and the chain below the anchor."""

    certificate: x509.Certificate
    key: rsa.RSAPrivateKey
    chain: tuple[x509.Certificate, ...]


@dataclass(frozen=True, slots=True)
class AnchorFile:
    """A certificate that a home trusts for one level."""

    level: Level
    path: Path
    certificate: x509.Certificate

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, in hex."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()


def initialise(
    home: Path,
    *,
    now: dt.datetime,
    progress: Callable[[str, int, int], None] = lambda _what, _done, _of: None,
) -> bool:
    """Make what a home lacks of the development PKI, and its trust anchors.

    Args:
        home: the home directory; made when absent.
        now: beginning of the new certificates, aware.
        progress: called with what is being made, how many are done, and of how many.

    Returns:
        Whether anything was made.

    Raises:
        HostError: the directories cannot be written.
        FormatError: a file of the PKI is damaged.
    """
    place = home / "pki"
    steps: list[tuple[str, str | None]] = [("root", None)]
    for level in Level:
        steps += [(f"{level}-ca", "root"), (f"{level}-signer", f"{level}-ca")]
    made = False
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        for index, (name, issuer) in enumerate(steps):
            progress(name, index, len(steps))
            made |= _ensure(place, name, issuer, now)
        progress("anchors", len(steps), len(steps))
        for level in Level:
            certificate = load_certificate(place / f"{level}-ca.pem")
            made |= _write_anchor(home, level, f"{ANCHOR_PREFIX}-{level}", certificate)
    except OSError as error:
        raise HostError(
            f"The PKI cannot be written: {error.strerror}.",
            code="pki-write",
            component=str(error.filename or place),
            remedy="Run as root, or choose another home with --home.",
        ) from error
    return made


def initialise_secure_boot(home: Path, *, now: dt.datetime) -> bool:
    """Make what a home lacks of its Secure Boot keys: PK, KEK, and the CA and signer of images.

    Args:
        home: the home directory; made when absent.
        now: beginning of the new certificates, aware.

    Returns:
        Whether anything was made.

    Raises:
        HostError: the directory cannot be written.
        FormatError: a file of it is damaged.
    """
    place = home / "pki"
    made = False
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name, issuer in SECURE_BOOT_KEYS.items():
            made |= _ensure(place, name, issuer, now)
    except OSError as error:
        raise HostError(
            f"The PKI cannot be written: {error.strerror}.",
            code="pki-write",
            component=str(error.filename or place),
            remedy="Run as root, or choose another home with --home.",
        ) from error
    return made


def load_boot_signer(home: Path) -> Signer:
    """Return what signs boot images in this home's PKI; errors as for ``load_signer``."""
    place = home / "pki"
    return Signer(
        load_certificate(place / "secureboot-signer.pem"),
        _load_key(place / "secureboot-signer.key"),
        (load_certificate(place / "secureboot-ca.pem"),),
    )


def load_signer(home: Path, level: Level) -> Signer:
    """Return what signs VIBs of a level in this home's PKI.

    Raises:
        NotFoundError: there is no PKI yet.
        FormatError: a file of it is damaged.
    """
    place = home / "pki"
    certificate = load_certificate(place / f"{level}-signer.pem")
    return Signer(
        certificate,
        _load_key(place / f"{level}-signer.key"),
        (load_certificate(place / f"{level}-ca.pem"),),
    )


def add_anchor(home: Path, source: Path, levels: Iterable[Level]) -> tuple[AnchorFile, ...]:
    """Trust a CA certificate for the given levels.

    Args:
        home: the home directory.
        source: file with one PEM or DER certificate; its name names the anchor.
        levels: what signers below this CA may give.

    Raises:
        ArgumentError: the certificate is no CA, or the file's name cannot name an anchor.
        FormatError: the file holds no certificate.
    """
    certificate = load_certificate(source)
    _require_ca(certificate, source)
    name = source.stem
    if not _NAME.fullmatch(name):
        raise ArgumentError(f"{name!r} cannot name a trust anchor.", argument="file")
    added = []
    for level in levels:
        _write_anchor(home, level, name, certificate)
        added.append(AnchorFile(level, home / "trust" / level / f"{name}.pem", certificate))
    return tuple(added)


def list_anchors(home: Path) -> tuple[AnchorFile, ...]:
    """Return a home's trust anchors, strictest level first, then by name.

    Raises:
        FormatError: an anchor is no certificate: better loud than trusted by half.
    """
    return tuple(
        AnchorFile(level, path, load_certificate(path))
        for level in Level
        for path in sorted((home / "trust" / level).glob("*.pem"))
    )


def load_certificate(path: Path) -> x509.Certificate:
    """Read one certificate, PEM or DER.

    Raises:
        NotFoundError: the file is absent.
        FormatError: it holds no certificate.
        HostError: it cannot be read.
    """
    data = _read(path)
    try:
        if data.startswith(b"-----"):
            return x509.load_pem_x509_certificate(data)
        return x509.load_der_x509_certificate(data)
    except ValueError as error:
        raise FormatError(
            f"{path} holds no certificate.",
            code="certificate",
            component=path.name,
            remedy="Give one CA certificate, PEM or DER.",
        ) from error


def _ensure(place: Path, name: str, issuer: str | None, now: dt.datetime) -> bool:
    """Make certificate and key unless both are there; the certificate comes last."""
    certificate_path, key_path = place / f"{name}.pem", place / f"{name}.key"
    if certificate_path.exists() and key_path.exists():
        return False
    key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
    if issuer is None:
        above, above_key = None, key
    else:
        above = load_certificate(place / f"{issuer}.pem")
        above_key = _load_key(place / f"{issuer}.key")
    certificate = _certificate(name, key.public_key(), above, now).sign(above_key, hashes.SHA256())
    encoded_key = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    _write(key_path, encoded_key, KEY_MODE)
    _write(certificate_path, _pem(certificate), CERTIFICATE_MODE)
    return True


def _certificate(
    name: str, key: rsa.RSAPublicKey, issuer: x509.Certificate | None, now: dt.datetime
) -> x509.CertificateBuilder:
    """Return an unsigned certificate: a root, an issuing CA or a code signer, by its name."""
    authority = not name.endswith("-signer")
    days = ROOT_DAYS if issuer is None else ISSUER_DAYS if authority else SIGNER_DAYS
    subject = _subject(name)
    issuer_key = key if issuer is None else issuer.public_key()
    if not isinstance(issuer_key, rsa.RSAPublicKey):
        raise FormatError("The issuer's key is not RSA.", component=name)
    usage = dict.fromkeys(
        (
            *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
            *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
        ),
        False,
    )
    usage |= {"key_cert_sign": True, "crl_sign": True} if authority else {"digital_signature": True}
    path_length = (1 if issuer is None else 0) if authority else None
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.BasicConstraints(authority, path_length), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False
        )
    )
    if authority:
        return builder
    return builder.add_extension(
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=True
    )


def _subject(name: str) -> x509.Name:
    words = {"ca": "Issuing CA", "signer": "VIB Signing", "pk": "Platform Key", "kek": "KEK"}
    first, _, second = name.partition("-")
    kind = words.get(second, "CA")
    if first == SECURE_BOOT:
        first, kind = "Secure Boot", "Image Signing" if second == "signer" else kind
    common = f"{ORGANISATION} {first[:1].upper()}{first[1:]} {kind}"
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _require_ca(certificate: x509.Certificate, source: Path) -> None:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, ValueError):
        constraints = x509.BasicConstraints(ca=False, path_length=None)
    if not constraints.ca:
        raise ArgumentError(
            f"{source} is not the certificate of a CA, so nothing can be signed below it.",
            argument="file",
        )


def _write_anchor(home: Path, level: Level, name: str, certificate: x509.Certificate) -> bool:
    path = home / "trust" / level / f"{name}.pem"
    if path.exists() and path.read_bytes() == _pem(certificate):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, _pem(certificate), CERTIFICATE_MODE)
    return True


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _load_key(path: Path) -> rsa.RSAPrivateKey:
    try:
        key = serialization.load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError) as error:
        raise FormatError(f"{path} holds no private key.", component=path.name) from error
    if not isinstance(key, rsa.RSAPrivateKey):
        raise FormatError(f"The key in {path} is not RSA.", component=path.name)
    return key


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_ANCHOR)
    except FileNotFoundError:
        raise NotFoundError(
            f"{path} does not exist.",
            component=path.name,
            remedy="Make the development PKI first: casemate trust init.",
        ) from None
    except OSError as error:
        raise HostError(f"{path} cannot be read: {error.strerror}.", component=path.name) from error


def _write(path: Path, data: bytes, mode: int) -> None:
    """Write a file in one step, never readable by others for a moment longer than it should."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.rename(path)
