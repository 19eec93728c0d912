"""One attestation over HTTPS, against a host that answers as hostd does, or lies."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from casemate.calls.messages import (
    ActivateCredential,
    ActivationReply,
    EvidenceReply,
    IdentityReply,
    Quote,
)
from casemate.cli.attest import attest_once, split_address
from casemate.cli.main import main
from casemate.errors import ArgumentError, HostError, SignatureError, TpmError
from casemate.policy.appraise import Verdict
from casemate.testing.minifleet import HonestHost, Respond
from casemate.testing.pki import NOW, issue, shared_pki
from casemate.testing.smallhost import (
    SmallHost,
    SmallImage,
    ek_certificate,
    ek_maker,
    sign_reference,
)
from casemate.verifier import client


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[Respond], int]]:
    """Serve answers over HTTPS with a certificate that nobody knows."""
    identity = issue("stranger")
    certificate = tmp_path / "tls.pem"
    certificate.write_bytes(identity.pem + identity.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    servers: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def start(respond: Respond) -> int:
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

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name in the library
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        servers.append((server, thread))
        return int(server.server_address[1])

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A verifier's home: reference, EK roots, and the anchors that vouch for the reference."""
    place = tmp_path / "home"
    (place / "trust" / "ek").mkdir(parents=True)
    (place / "trust" / "certified").mkdir()
    (place / "trust" / "ek" / "maker.pem").write_bytes(ek_maker().pem)
    (place / "trust" / "certified" / "ca.pem").write_bytes(shared_pki().issuers["certified"].pem)
    (place / "reference.json").write_bytes(sign_reference(SmallImage().reference()))
    return place


def ask(home: Path, port: int) -> tuple[Verdict, list[str]]:
    appraisal = attest_once(
        "127.0.0.1", port, home / "reference.json", home / "trust" / "ek", NOW.timestamp()
    )
    return appraisal.verdict, [finding.code for finding in appraisal.findings]


def test_an_honest_host_is_trusted(home: Path, serve: Callable[[Respond], int]) -> None:
    assert ask(home, serve(HonestHost(SmallHost()))) == (Verdict.TRUSTED, [])


def test_another_image_is_found(home: Path, serve: Callable[[Respond], int]) -> None:
    host = SmallHost(SmallImage(versions={"qemu": "1.0-1"}))
    assert ask(home, serve(HonestHost(host))) == (Verdict.UNTRUSTED, ["component-changed"])


def test_a_tpm_of_an_unknown_maker_is_refused(home: Path, serve: Callable[[Respond], int]) -> None:
    class Stranger(HonestHost):
        def identity(self) -> IdentityReply:
            forged = ek_certificate(self.host.ek, issue("Unknown maker", authority=True))
            return replace(super().identity(), ek_certificate=forged)

    assert ask(home, serve(Stranger(SmallHost()))) == (Verdict.UNTRUSTED, ["ek-untrusted"])


def test_a_host_that_shows_another_tpms_ek_cannot_answer_the_challenge(
    home: Path, serve: Callable[[Respond], int]
) -> None:
    other = SmallHost()

    class Impostor(HonestHost):
        def identity(self) -> IdentityReply:
            claim = other.claim()
            return replace(
                super().identity(), ek_certificate=claim.ek_certificate, ek_public=claim.ek_public
            )

    assert ask(home, serve(Impostor(SmallHost()))) == (Verdict.UNTRUSTED, ["activation"])


def test_a_guessed_secret_is_refused(home: Path, serve: Callable[[Respond], int]) -> None:
    class Guesser(HonestHost):
        def activate(self, request: ActivateCredential) -> ActivationReply:
            return replace(super().activate(request), secret=bytes(32))

    assert ask(home, serve(Guesser(SmallHost()))) == (Verdict.UNTRUSTED, ["activation"])


def test_a_software_key_in_place_of_the_ak_is_refused(
    home: Path, serve: Callable[[Respond], int]
) -> None:
    other = SmallHost()

    class Forger(HonestHost):
        def evidence(self, request: Quote) -> EvidenceReply:
            return HonestHost(other).evidence(request)

    assert ask(home, serve(Forger(SmallHost()))) == (Verdict.UNTRUSTED, ["signature-invalid"])


def test_evidence_recorded_earlier_is_refused(home: Path, serve: Callable[[Respond], int]) -> None:
    class Recorder(HonestHost):
        first: EvidenceReply | None = None

        def evidence(self, request: Quote) -> EvidenceReply:
            self.first = self.first or super().evidence(request)
            return self.first

    host = Recorder(SmallHost())
    port = serve(host)
    assert ask(home, port) == (Verdict.TRUSTED, [])
    assert ask(home, port) == (Verdict.UNTRUSTED, ["stale-nonce"])


def test_a_pcr_sent_twice_is_refused(home: Path, serve: Callable[[Respond], int]) -> None:
    class Doubler(HonestHost):
        def evidence(self, request: Quote) -> EvidenceReply:
            reply = super().evidence(request)
            return replace(reply, pcrs=(*reply.pcrs, reply.pcrs[0]))

    assert ask(home, serve(Doubler(SmallHost()))) == (Verdict.UNTRUSTED, ["malformed"])


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"<html>", b"\xff" * 100])
def test_an_answer_that_is_no_message_is_untrusted(
    home: Path, serve: Callable[[Respond], int], body: bytes
) -> None:
    verdict, _ = ask(home, serve(lambda _path, _body: (200, body)))
    assert verdict is Verdict.UNTRUSTED


@pytest.mark.parametrize(
    ("status", "body"), [(503, b"no json"), (404, b"[]"), (422, b'{"error":{"code":1}}')]
)
def test_a_refusal_is_no_verdict(
    home: Path, serve: Callable[[Respond], int], status: int, body: bytes
) -> None:
    with pytest.raises(HostError):
        ask(home, serve(lambda _path, _body: (status, body)))


def test_a_host_that_asks_to_wait_is_asked_again(
    home: Path, serve: Callable[[Respond], int]
) -> None:
    honest = HonestHost(SmallHost())
    refusals = [(429, b"{}")]

    def busy(path: str, body: bytes) -> tuple[int, bytes]:
        return refusals.pop() if refusals else honest(path, body)

    assert ask(home, serve(busy)) == (Verdict.TRUSTED, [])


def test_a_tpm_in_failure_is_no_verdict(home: Path, serve: Callable[[Respond], int]) -> None:
    class Broken(HonestHost):
        def identity(self) -> IdentityReply:
            raise TpmError("the TPM is in failure mode", code="tpm-failure")

    with pytest.raises(HostError) as caught:
        ask(home, serve(Broken(SmallHost())))
    assert caught.value.code == "tpm-failure"


def test_nobody_there_is_no_verdict(home: Path) -> None:
    with pytest.raises(HostError) as caught:
        ask(home, 1)
    assert caught.value.code == "unreachable"


@pytest.mark.parametrize(
    ("level", "code"), [("partner", "signer-untrusted"), ("community", "signer-untrusted")]
)
def test_a_reference_by_somebody_who_may_not_vouch_is_refused(
    home: Path, level: str, code: str
) -> None:
    issuer = shared_pki().issuers[level]
    (home / "trust" / level).mkdir()
    (home / "trust" / level / "ca.pem").write_bytes(issuer.pem)
    (home / "reference.json").write_bytes(sign_reference(SmallImage().reference(), level))
    with pytest.raises(SignatureError) as caught:
        ask(home, 1)
    assert caught.value.code == code


def test_a_changed_reference_is_refused(home: Path) -> None:
    path = home / "reference.json"
    path.write_bytes(path.read_bytes().replace(b'"serial":7', b'"serial":9'))
    with pytest.raises(SignatureError) as caught:
        ask(home, 1)
    assert caught.value.code == "reference-changed"


def test_an_unsigned_reference_is_refused(home: Path) -> None:
    path = home / "reference.json"
    head, _, _ = path.read_bytes().rpartition(b',"signature":"')
    path.write_bytes(head + b',"signature":""}\n')
    with pytest.raises(SignatureError) as caught:
        ask(home, 1)
    assert caught.value.code == "reference-unsigned"


def test_the_command_prints_the_agreed_shape(
    home: Path, serve: Callable[[Respond], int], capsys: pytest.CaptureFixture[str]
) -> None:
    good = serve(HonestHost(SmallHost()))
    bad = serve(HonestHost(SmallHost(SmallImage(kernelopt="bootUUID=1 [red]x"))))
    for port, verdict, status in ((good, "trusted", 0), (bad, "untrusted", 1), (1, "undecided", 2)):
        words = ["--home", str(home), "attest", f"127.0.0.1:{port}"]
        assert main([*words, "--json"]) == status
        value = json.loads(capsys.readouterr().out)
        assert value["verdict"] == verdict
        assert bool(value["findings"]) == (verdict != "trusted")
        for finding in value["findings"]:
            assert set(finding) == {"code", "component", "reason", "remedy"}
        assert len(value["components"]) == (0 if port == 1 else 7)
        assert main(words) == status
        text = capsys.readouterr().out
        assert verdict in text
        if port == bad:
            assert "boot-option-changed" in text
            assert "[red]x" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("host", ("host", 443)),
        ("host:8443", ("host", 8443)),
        ("[::1]", ("::1", 443)),
        ("[::1]:99", ("::1", 99)),
    ],
)
def test_an_address_is_split(text: str, expected: tuple[str, int]) -> None:
    assert split_address(text) == expected


@pytest.mark.parametrize("text", ["", ":1", "h:", "h:0", "h:65536", "h:x", "[::1", "[::1]x", "[]"])
def test_a_senseless_address_is_refused(text: str) -> None:
    with pytest.raises(ArgumentError):
        split_address(text)


def test_a_head_that_comes_too_late_is_no_answer(
    serve: Callable[[Respond], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[float] = []

    class Clock:
        @staticmethod
        def monotonic() -> float:
            begun.append(time.monotonic())
            return begun[0] if len(begun) == 1 else begun[0] + 1e6

    monkeypatch.setattr(client, "time", Clock)
    asked = client.HostClient("127.0.0.1", serve(lambda _path, _body: (200, b"")))
    try:
        with pytest.raises(HostError, match="takes too long"):
            asked.identity()
    finally:
        asked.close()


def test_a_host_that_says_nothing_is_given_up_when_all_its_time_is_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        # Each answer alone might take longer than this test.
        asked = client.HostClient("127.0.0.1", port, timeout=3600.0)
        try:
            asked.within(0.2)
            for _ in range(3):
                with pytest.raises(HostError) as caught:
                    asked.identity()
                assert caught.value.code == "unreachable"
        finally:
            asked.close()
