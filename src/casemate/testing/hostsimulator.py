"""HostSimulator: hostd over a FakeKernel on a loopback port with TLS, for any vSphere client."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from casemate.hostd.app import make_app
from casemate.hostd.main import endpoint_of, make_server, no_delay, tls_context
from casemate.testing.fakekernel import FakeKernel
from casemate.testing.serving import START_SECONDS, serving


def write_certificate(directory: Path) -> tuple[Path, Path]:
    """Write a new self-signed certificate for the loopback and its key; returns both paths."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName(
                [
                    x509.DNSName("localhost"),
                    x509.IPAddress(ipaddress.IPv4Address("127.0.0.1")),
                ]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    cert_path, key_path = directory / "host.crt", directory / "host.key"
    cert_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert_path, key_path


class HostSimulator:
    """A running host: ``port`` on 127.0.0.1, ``kernel`` behind it."""

    def __init__(self, kernel: FakeKernel | None = None) -> None:
        self.kernel = kernel or FakeKernel()
        self.port = 0
        self.certificate = b""
        self._loop: asyncio.AbstractEventLoop | None = None

    def run_in_kernel_loop(self, action: object) -> None:
        """Run ``action()`` in the host's loop and wait for it."""
        if self._loop is None or not callable(action):
            raise RuntimeError("the simulator is not running")
        done = threading.Event()

        def run() -> None:
            action()
            done.set()

        self._loop.call_soon_threadsafe(run)
        if not done.wait(START_SECONDS):
            raise TimeoutError("the host did not run the action")

    @contextlib.contextmanager
    def running(self) -> Iterator[HostSimulator]:
        """Run the host for the duration of a ``with`` block."""
        with (
            tempfile.TemporaryDirectory() as directory,
            socket.create_server(("127.0.0.1", 0)) as listener,
        ):
            no_delay(listener)
            cert_path, key_path = write_certificate(Path(directory))
            self.certificate = cert_path.read_bytes()
            self.port = int(listener.getsockname()[1])
            app = make_app(
                self.kernel,
                clock=lambda: dt.datetime.now(dt.UTC),
                ticks=time.monotonic,
                endpoint=endpoint_of(cert_path, self.port),
            )
            server = make_server(app, tls_context(cert_path, key_path))
            with serving(server, listener) as self._loop:
                yield self
