"""Requests about the host's TLS certificate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from casemate.calls.messages import Empty


@dataclass(frozen=True, slots=True)
class PemReply:
    """A PKCS#10 request in PEM."""

    pem: str


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """Ask for a certificate of the host's present key; ``address`` as common name if not empty."""

    session: str
    address: str = ""
    names: tuple[str, ...] = ()
    reply: ClassVar = PemReply
    privilege: ClassVar[str] = "Certificate.Manage"


@dataclass(frozen=True, slots=True)
class InstallCertificate:
    """Replace the certificate (PEM, with its chain) and restart hostd; it must be of the key."""

    session: str
    pem: str
    why: str = ""
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "Certificate.Manage"


REQUESTS: tuple[type, ...] = (InstallCertificate, SigningRequest)
