"""Hosts in miniature that answer over real HTTPS as hostd and the kernel do."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from casemate.calls import evidence as wire
from casemate.calls.messages import (
    ActivateCredential,
    ActivationReply,
    BankValues,
    EvidenceReply,
    IdentityReply,
    Quote,
)
from casemate.errors import CasemateError
from casemate.machine.facts import ComponentFact
from casemate.policy.auditheads import LogHead
from casemate.testing.pki import issue
from casemate.testing.smallhost import SmallHost

Respond = Callable[[str, bytes], tuple[int, bytes]]


class HonestHost:
    """What hostd and the kernel answer, over a SmallHost; one request at a time, as a TPM does."""

    def __init__(self, host: SmallHost) -> None:
        self.host = host
        self.turn = threading.Lock()

    def __call__(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Answer a request with status and body."""
        with self.turn:
            try:
                return 200, self.answer(path, body)
            except CasemateError as error:
                said = {"error": {"code": error.code, "reason": error.reason}}
                return 422, json.dumps(said).encode()

    def answer(self, path: str, body: bytes) -> bytes:
        """Answer a request."""
        if path == wire.IDENTITY_PATH:
            return wire.encode(self.identity())
        if path == wire.ACTIVATE_PATH:
            return wire.encode(self.activate(wire.decode(ActivateCredential, body)))
        return wire.encode(self.evidence(wire.decode(Quote, body)))

    def identity(self) -> IdentityReply:
        """Say who the TPM is."""
        claim = self.host.claim()
        return IdentityReply(
            claim.ek_certificate, claim.ek_public, claim.ak_public, "TEST", "1", "fake"
        )

    def activate(self, request: ActivateCredential) -> ActivationReply:
        """Answer a credential challenge."""
        return ActivationReply(
            self.host.activate(request.credential_blob, request.encrypted_secret)
        )

    def evidence(self, request: Quote) -> EvidenceReply:
        """Give fresh evidence."""
        got = self.host.evidence(request.nonce, request.pcrs, banks=request.banks)
        return EvidenceReply(
            quotes=got.quotes,
            pcrs=tuple(
                BankValues(bank, tuple(values.items())) for bank, values in got.pcrs.items()
            ),
            log=got.log,
            components=tuple(
                ComponentFact(
                    file_name=one.file_name,
                    vib_id="",
                    vib_name=one.vib_name,
                    vib_version=one.vib_version,
                    vib_vendor="",
                    acceptance_level="",
                    signer="",
                    pcr=13,
                    drtm_pcr=20,
                    sha256=one.digest,
                    sha384=b"",
                    size=0,
                )
                for one in got.claims
            ),
            boot_complete=True,
            taken=0.0,
            heads=self._heads(request.entry),
        )

    def _heads(self, entry: int) -> tuple[LogHead, ...]:
        audit = self.host.audit
        wanted = [n for n in (len(audit), entry) if 0 < n <= len(audit)]
        return tuple(LogHead(n, audit[n - 1]) for n in dict.fromkeys(wanted))


class HttpsHost:
    """An HTTPS server on a port of its own; ``poll``: seconds until it sees that it shall close."""

    def __init__(self, respond: Respond, place: Path, poll: float = 0.05) -> None:
        certificate = place / "mini-tls.pem"
        if not certificate.exists():
            identity = issue("stranger")
            certificate.write_bytes(identity.pem + identity.key_pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.do_POST()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                status, answer = respond(self.path, body)
                self.send_response(status)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name in the library)
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(poll,), daemon=True
        )
        self._thread.start()
        self.port = int(self._server.server_address[1])

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class MiniFleet:
    """Many small hosts on this machine; ``addresses`` by name."""

    def __init__(self, count: int, place: Path) -> None:
        self.hosts = {f"host-{number:03}": SmallHost() for number in range(1, count + 1)}
        self._servers = {
            name: HttpsHost(HonestHost(host), place) for name, host in self.hosts.items()
        }
        self.addresses = {name: f"127.0.0.1:{one.port}" for name, one in self._servers.items()}

    def silence(self, name: str) -> None:
        """Take a host off the network."""
        self._servers.pop(name).close()

    def close(self) -> None:
        """Stop all hosts."""
        for one in self._servers.values():
            one.close()
