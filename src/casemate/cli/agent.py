"""``casemate agent``: a host proves itself to a verifier by calling it, from behind any NAT.

It needs a secret from ``casemate verifier enroll NAME --push``, and something with a TPM: the
attestation endpoints of a Casemate host (usually on this machine), or this Linux machine itself,
its TPM and the firmware's event log.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from casemate.calls import evidence as wire
from casemate.calls.messages import (
    ActivateCredential,
    ActivationReply,
    EvidenceReply,
    IdentityReply,
    Quote,
)
from casemate.cli.agentways import AnyOf, OverNats, Posting, Verifier
from casemate.cli.attest import split_address
from casemate.cli.thismachine import EVENT_LOG, IMA_LIST, ThisMachine
from casemate.errors import (
    ArgumentError,
    CasemateError,
    HostError,
    NotFoundError,
)
from casemate.formats.text import escape
from casemate.kernel.tpm.device import Tpm
from casemate.verifier.bus import Place
from casemate.verifier.client import HostClient

SECRET = "CASEMATE_AGENT_SECRET"  # noqa: S105 (the name of a variable)
RETRY_SECONDS = 10.0
"""Pause after a failure: the verifier may be restarting."""


class Source(Protocol):
    """Something with a TPM."""

    def identity(self) -> IdentityReply:
        """Say who the TPM is."""
        ...

    def activate(self, request: ActivateCredential) -> ActivationReply:
        """Answer a credential challenge."""
        ...

    def evidence(self, request: Quote) -> EvidenceReply:
        """Give fresh evidence."""
        ...


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``agent``."""
    parser = commands.add_parser("agent", help="prove this machine, or a host, to a verifier")
    parser.add_argument(
        "--verifier",
        metavar="URL",
        action="append",
        help="https://HOST:PORT; several of one fleet: the next is called when one is away",
    )
    parser.add_argument("--nats", metavar="URL", help="tls://HOST:PORT of a NATS server instead")
    parser.add_argument("--nats-credentials", type=Path, help="file with NATS credentials")
    parser.add_argument(
        "--secret-file", type=Path, help=f"file with the agent's secret (else ${SECRET})"
    )
    parser.add_argument("--ca", type=Path, help="certificate that vouches for it")
    parser.add_argument(
        "--host", metavar="HOST[:PORT]", help="speak for a Casemate host instead of this machine"
    )
    parser.add_argument("--tpm", type=Path, default=Path("/dev/tpmrm0"), help="TPM device")
    parser.add_argument("--log", type=Path, default=EVENT_LOG, help="firmware's event log")
    parser.add_argument("--ima", type=Path, default=IMA_LIST, help="IMA list, binary")
    parser.add_argument("--once", action="store_true", help="one round, then end")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.set_defaults(func=_agent)


def _agent(options: argparse.Namespace) -> int:
    secret = _secret(options.secret_file)
    if bool(options.verifier) == bool(options.nats):
        raise ArgumentError("name --verifier, or --nats", argument="verifier")
    verifier = (
        OverNats(Place(options.nats, options.ca, options.nats_credentials), secret)
        if options.nats
        else AnyOf([Verifier(url, secret, options.ca) for url in options.verifier])
    )
    try:
        return _prove(options, verifier)
    finally:
        verifier.close()


def _prove(options: argparse.Namespace, verifier: Posting) -> int:
    if options.host:
        client = HostClient(*split_address(options.host))
        try:
            return run(client, verifier, options)
        finally:
            client.close()
    with Tpm.hardware(options.tpm) as tpm:
        return run(ThisMachine(tpm, options.log, options.ima), verifier, options)


def run(source: Source, verifier: Posting, options: argparse.Namespace) -> int:
    """Go on for ever, or for one round; returns 0 where the last state was good."""
    prover = Prover(source, verifier)
    while True:
        try:
            told = prover.round()
        except CasemateError as error:
            if options.once:
                raise
            told = {"state": "error", "verdict": error.reason, "wait": RETRY_SECONDS}
        if options.json:
            print(json.dumps(told), flush=True)
        else:
            print(escape(f"{told['state']}: {told.get('verdict', '')}"), flush=True)
        if options.once:
            return 0 if told["state"] == "trusted" else 1
        time.sleep(float(told["wait"]))


@dataclass(frozen=True, slots=True)
class _Sent:
    """What the verifier has: digest of the stable part, size and digest of the IMA list."""

    part: bytes = b""
    size: int = 0
    list: bytes = b""

    def shorten(self, body: bytes, reply: EvidenceReply) -> tuple[bytes, bytes]:
        """Return a body without what was sent before, and the digest of its stable part."""
        first = reply.measurements[: self.size]
        if self.size and hashlib.sha256(first).digest() == self.list:
            body = wire.continued(reply, self.size)
        short, digest = wire.shorten(body)
        return (short if digest == self.part else body), digest


class Prover:
    """Rounds of one host: what need not be said again is not."""

    def __init__(self, source: Source, verifier: Posting) -> None:
        self._source = source
        self._verifier = verifier
        self._shown = False
        self._asked: dict[str, Any] = {}
        self._sent = _Sent()

    def round(self) -> dict[str, Any]:
        """Prove the host once; after anything but a good answer all begins anew."""
        asked, self._asked = self._asked, {}
        shown, self._shown = self._shown, False
        if not shown:
            self._show()
        if "nonce" not in asked:
            asked = self._verifier.post("/nonce")
        if "nonce" not in asked:
            return {**asked, "verdict": "waits for approval by an operator"}
        banks, pcrs, entry = tuple(asked["banks"]), tuple(asked["pcrs"]), asked.get("entry", 0)
        quote = Quote(bytes.fromhex(asked["nonce"]), banks, pcrs, entry)
        reply = self._source.evidence(quote)
        told = self._send(f"/evidence?nonce={asked['nonce']}", reply)
        self._shown = told["state"] == "trusted"
        self._asked = told if "nonce" in told else {}
        return told

    def _send(self, path: str, reply: EvidenceReply) -> dict[str, Any]:
        """Send evidence; of what was sent before its digest, where the verifier has it."""
        body = wire.encode(reply)
        sent, self._sent = self._sent, _Sent()
        told: dict[str, Any] | None = None
        short, digest = sent.shorten(body, reply)
        if len(short) < len(body):
            try:
                told = self._verifier.post(path, short)
            except HostError as error:
                if error.code != "send-whole":
                    raise
        if told is None:
            told = self._verifier.post(path, body)
        size = len(reply.measurements)
        self._sent = _Sent(digest, size, hashlib.sha256(reply.measurements).digest())
        return told

    def _show(self) -> None:
        """Show the TPM; where the verifier does not know it yet, answer its challenge."""
        shown = self._verifier.post("/identity", wire.encode(self._source.identity()))
        if not shown["known"]:
            del shown["known"]
            challenge = wire.decode(ActivateCredential, json.dumps(shown).encode())
            self._verifier.post("/activate", wire.encode(self._source.activate(challenge)))


def _secret(path: Path | None) -> str:
    if path is None:
        secret = os.environ.get(SECRET, "")
    else:
        try:
            secret = path.read_text().strip()
        except OSError as error:
            raise NotFoundError(f"{path} cannot be read: {error.strerror}") from error
    if not secret:
        raise ArgumentError(f"give the secret with --secret-file or ${SECRET}", argument="secret")
    return secret
