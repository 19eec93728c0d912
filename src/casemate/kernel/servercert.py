"""Replacing the host's TLS certificate: a request for its key, and what comes back signed."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import re
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from casemate.calls import certificates as c
from casemate.calls.messages import Empty
from casemate.errors import ArgumentError, HostError
from casemate.kernel.accounts import Session
from casemate.kernel.files import write_file

PEM_LIMIT: Final = 1 << 16
"""Characters of a certificate with its chain."""
CHAIN_LIMIT: Final = 8
NAME_LIMIT: Final = 32
RESTART_SECONDS: Final = 1.0
"""Until hostd restarts: the answer goes out first."""
_NAME: Final = re.compile(r"(\*\.)?[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63}){0,8}")


class ServerCertificate:
    """Handlers of the requests. ``restart`` makes hostd read the certificate again."""

    def __init__(
        self,
        directory: Path,
        host_name: str,
        restart: Callable[[], None],
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._directory = directory
        self._host_name = host_name
        self._now = now
        self._restart = restart

    def handlers(self) -> dict[type, Callable[..., Awaitable[object]]]:
        """Return the handlers by request."""
        return {c.SigningRequest: self._request, c.InstallCertificate: self._install}

    async def _request(self, request: c.SigningRequest, _: Session) -> c.PemReply:
        key = self._key()
        names = dict.fromkeys([self._host_name, *request.names])
        subject = [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Casemate"),
            x509.NameAttribute(NameOID.COMMON_NAME, (request.address or self._host_name)[:64]),
        ]
        signed = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name(subject))
            .add_extension(
                x509.SubjectAlternativeName(_alternatives([*names, request.address])),
                critical=False,
            )
            .sign(key, hashes.SHA256())
        )
        return c.PemReply(signed.public_bytes(serialization.Encoding.PEM).decode())

    async def _install(self, request: c.InstallCertificate, _: Session) -> Empty:
        chain = _parsed(request.pem)
        now = self._now()
        if not chain[0].not_valid_before_utc <= now <= chain[0].not_valid_after_utc:
            raise _wrong("it is not valid now")
        if _public(chain[0].public_key()) != _public(self._key().public_key()):
            raise _wrong("it is of another key than the host's")
        pem = b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain)
        write_file(self._directory / "rui.crt", pem, mode=0o444)
        asyncio.get_running_loop().call_later(RESTART_SECONDS, self._restart)
        return Empty()

    def _key(self) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
        try:
            data = (self._directory / "rui.key").read_bytes()
            key = serialization.load_pem_private_key(data, None)
        except (OSError, ValueError, TypeError) as error:
            raise HostError("the host's key cannot be read", code="tls-key") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
            raise HostError("the host's key is of an unusual kind", code="tls-key")
        return key


def _alternatives(names: Iterable[str]) -> list[x509.GeneralName]:
    """Return names and addresses as a certificate holds them."""
    found: list[x509.GeneralName] = []
    wanted = [name for name in names if name]
    if len(wanted) > NAME_LIMIT:
        raise ArgumentError(f"a certificate has at most {NAME_LIMIT} names", argument="spec")
    for name in wanted:
        with contextlib.suppress(ValueError):
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
            continue
        if not _NAME.fullmatch(name):
            raise ArgumentError(f"{name[:80]!r} is no name of a host", argument="spec")
        found.append(x509.DNSName(name))
    return found


def _parsed(pem: str) -> list[x509.Certificate]:
    if len(pem) > PEM_LIMIT or not pem.isascii():
        raise _wrong("it is too long or no text")
    try:
        chain = x509.load_pem_x509_certificates(pem.encode())
    except ValueError as error:
        raise _wrong("it is no certificate in PEM") from error
    if not 1 <= len(chain) <= CHAIN_LIMIT:
        raise _wrong("its chain is too long")
    return chain


def _public(key: object) -> bytes:
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise _wrong("its key is of an unusual kind")
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _wrong(why: str) -> ArgumentError:
    return ArgumentError(f"The certificate is not installed: {why}.", argument="cert")
