"""Replacing the host's certificate: only one of its own key, and valid now."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from casemate.calls.certificates import InstallCertificate, SigningRequest
from casemate.errors import ArgumentError
from casemate.kernel import servercert
from casemate.kernel.accounts import LOCAL_ROOT
from casemate.kernel.certificate import ensure_certificate
from casemate.kernel.servercert import ServerCertificate

NOW = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


class Lab:
    def __init__(self, place: Path) -> None:
        self.place = ensure_certificate(place, "host.example", -1, NOW)
        self.restarts = 0
        made = ServerCertificate(self.place, "host.example", self._restart, lambda: NOW)
        self._handlers = made.handlers()

    def _restart(self) -> None:
        self.restarts += 1

    async def ask(self, request):
        return await self._handlers[type(request)](request, LOCAL_ROOT)

    def signed(self, csr: x509.CertificateSigningRequest, *, until=NOW + DAY, key=None) -> str:
        authority = ec.generate_private_key(ec.SECP256R1())
        made = (
            x509.CertificateBuilder()
            .subject_name(csr.subject)
            .issuer_name(x509.Name([]))
            .public_key(key.public_key() if key else csr.public_key())
            .serial_number(7)
            .not_valid_before(NOW - 2 * DAY)
            .not_valid_after(until)
            .sign(authority, hashes.SHA256())
        )
        return made.public_bytes(serialization.Encoding.PEM).decode()


def requested(lab: Lab, **more) -> x509.CertificateSigningRequest:
    reply = asyncio.run(lab.ask(SigningRequest("", **more)))
    return x509.load_pem_x509_csr(reply.pem.encode())


def test_a_request_is_of_the_host_s_key_and_has_its_names(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    csr = requested(lab, address="192.0.2.7", names=("other.example",))
    assert csr.is_signature_valid
    present = x509.load_pem_x509_certificate((tmp_path / "rui.crt").read_bytes())
    assert csr.public_key() == present.public_key()
    names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["host.example", "other.example"]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("192.0.2.7")]


@pytest.mark.parametrize("name", ["a b", "../x", "x" * 300, "a\nb", "ä.example"])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArgumentError):
        requested(Lab(tmp_path), names=(name,))


def test_a_certificate_of_the_request_is_installed_and_hostd_restarts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servercert, "RESTART_SECONDS", 0.0)
    lab = Lab(tmp_path)
    pem = lab.signed(requested(lab))

    async def story() -> None:
        await lab.ask(InstallCertificate("", pem))
        await asyncio.sleep(0.01)

    asyncio.run(story())
    assert (tmp_path / "rui.crt").read_text() == pem
    assert lab.restarts == 1


def test_any_other_certificate_changes_nothing(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    before = (tmp_path / "rui.crt").read_bytes()
    csr = requested(lab)
    stranger = ec.generate_private_key(ec.SECP256R1())
    key = (tmp_path / "rui.key").read_text()
    for pem in (
        lab.signed(csr, key=stranger),
        lab.signed(csr, until=NOW - DAY),
        "",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        key,
        lab.signed(csr) * 9,
        "x" * (servercert.PEM_LIMIT + 1),
    ):
        with pytest.raises(ArgumentError):
            asyncio.run(lab.ask(InstallCertificate("", pem)))
    assert (tmp_path / "rui.crt").read_bytes() == before
    assert lab.restarts == 0
