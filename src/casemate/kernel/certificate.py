"""The host's TLS certificate: made on first start, replaceable by putting another in its place."""

from __future__ import annotations

import datetime as dt
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from casemate.kernel.files import write_file

LIFETIME = dt.timedelta(days=825)
"""Longest lifetime that common clients accept for a server certificate."""


def ensure_certificate(directory: Path, host_name: str, owner: int, now: dt.datetime) -> Path:
    """Make ``rui.crt`` and ``rui.key`` (ESXi's names) unless both are there; return the directory.

    The key is readable by ``owner`` (hostd's uid) and nobody else.
    """
    certificate, key_file = directory / "rui.crt", directory / "rui.key"
    if certificate.exists() and key_file.exists():
        return directory
    directory.mkdir(parents=True, exist_ok=True, mode=0o755)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Casemate"),
            x509.NameAttribute(NameOID.COMMON_NAME, host_name[:64]),
        ]
    )
    names = [
        x509.DNSName(host_name),
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ]
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    write_file(key_file, secret, mode=0o400, owner=owner)
    write_file(certificate, signed.public_bytes(serialization.Encoding.PEM), mode=0o444)
    return directory
