"""``casemate agent``: a host proves itself to a verifier by calling it, from behind any NAT.

It needs a secret from ``casemate verifier enroll NAME --push``, and something with a TPM: the
attestation endpoints of a Casemate host (usually on this machine), or this Linux machine itself,
its TPM and the firmware's event log.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from casemate.calls import evidence as wire
from casemate.calls.messages import (
    ActivateCredential,
    ActivationReply,
    BankValues,
    EvidenceReply,
    IdentityReply,
    Quote,
)
from casemate.cli.attest import split_address
from casemate.errors import (
    AppraisalError,
    ArgumentError,
    CasemateError,
    HostError,
    LimitError,
    NotFoundError,
)
from casemate.formats.text import escape
from casemate.formats.tpm import parse_attest, parse_signature
from casemate.formats.tpm.attest import check_pcr_values
from casemate.kernel.tpm.device import Tpm
from casemate.verifier.bus import BusClient, Place
from casemate.verifier.client import HostClient
from casemate.verifier.endpoints import AGENT

EVENT_LOG = Path("/sys/kernel/security/tpm0/binary_bios_measurements")
IMA_LIST = Path("/sys/kernel/security/ima/binary_runtime_measurements")
IMA_LIMIT = 8 << 20
"""Bytes of an IMA list: some 60,000 records."""
SNAPSHOTS = 16
"""Tries to quote and read PCRs while nothing changes: a quote takes up to half a second."""
SECRET = "CASEMATE_AGENT_SECRET"  # noqa: S105 (the name of a variable)
TIMEOUT = 30.0
RETRY_SECONDS = 10.0
"""Pause after a failure: the verifier may be restarting."""

ANSWER_LIMIT = 1 << 20


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


class ThisMachine:
    """This Linux machine: its TPM, and the log that its firmware and boot loader have written."""

    def __init__(self, tpm: Tpm, log: Path = EVENT_LOG, measurements: Path = IMA_LIST) -> None:
        self._tpm = tpm
        self._identity: IdentityReply | None = None
        self._log = log
        self._measurements = measurements

    def identity(self) -> IdentityReply:
        """Say who the TPM is; asked once, since a hardware TPM makes its RSA EK in some seconds."""
        if self._identity is None:
            ek, maker = self._tpm.ek(), self._tpm.maker()
            self._identity = IdentityReply(
                ek.certificate,
                ek.public,
                self._tpm.ak(),
                maker.manufacturer,
                maker.firmware_version,
                "hardware",
            )
        return self._identity

    def activate(self, request: ActivateCredential) -> ActivationReply:
        """Answer a credential challenge."""
        secret = self._tpm.activate_credential(request.credential_blob, request.encrypted_secret)
        return ActivationReply(secret)

    def evidence(self, request: Quote) -> EvidenceReply:
        """Give fresh evidence: one quote, and values and log of about the same moment."""
        quotes, values = self._snapshot(request)
        try:
            log = self._log.read_bytes()
        except OSError as error:
            raise HostError(
                f"the firmware's event log cannot be read: {error.strerror}",
                component=str(self._log),
                remedy="Run the agent as root, with securityfs mounted.",
            ) from error
        return EvidenceReply(
            quotes=quotes,
            pcrs=tuple(BankValues(bank, tuple(one.items())) for bank, one in values.items()),
            log=log,
            components=(),
            boot_complete=True,
            taken=time.time(),
            measurements=self._ima(),
        )

    def _snapshot(
        self, request: Quote
    ) -> tuple[tuple[tuple[bytes, bytes], ...], dict[str, dict[int, bytes]]]:
        """Return quotes and values of one moment: IMA may extend PCR 10 between two commands."""
        banks = [bank for bank in request.banks if bank in self._tpm.banks()]
        for _ in range(SNAPSHOTS):
            quote = self._tpm.quote(request.nonce, banks, request.pcrs)
            values = self._tpm.read_pcrs(banks, request.pcrs)
            if _agree(quote, values):
                return (quote,), values
        raise HostError(
            f"the PCRs changed each of {SNAPSHOTS} times that they were quoted",
            code="pcrs-busy",
            component="TPM",
            remedy="The agent tries again by itself; let IMA measure less (its policy).",
        )

    def _ima(self) -> bytes:
        """Return the IMA list, read after the quote: it may only be longer than what was quoted."""
        try:
            with self._measurements.open("rb") as file:
                data = file.read(IMA_LIMIT + 1)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise HostError(
                f"the IMA list cannot be read: {error.strerror}",
                component=str(self._measurements),
                remedy="Run the agent as root, with securityfs mounted.",
            ) from error
        if len(data) > IMA_LIMIT:
            raise LimitError(
                f"an IMA list of more than {IMA_LIMIT} bytes",
                component=str(self._measurements),
                remedy="Let IMA measure less (its policy), or boot the machine again.",
            )
        return data


def _agree(pair: tuple[bytes, bytes], values: dict[str, dict[int, bytes]]) -> bool:
    """Tell whether values that were read after a quote are those that it covers."""
    quote, algorithm = parse_attest(pair[0]).quoted(), str(parse_signature(pair[1]).hash)
    try:
        check_pcr_values(quote, values, algorithm)
    except AppraisalError:
        return False
    return True


class Posting(Protocol):
    """A way to the verifier's endpoints for agents."""

    def post(self, path: str, body: bytes = b"") -> dict[str, Any]:
        """Send something and return the answer."""
        ...


def _refused(name: str, status: int, value: dict[str, Any]) -> HostError:
    said = value.get("error", {})
    return HostError(
        f"{name} refused: {escape(str(said.get('reason', status)))}",
        code=str(said.get("code", "refused"))[:64],
        component=name,
        remedy=escape(str(said.get("remedy", "Look at the verifier."))),
    )


class OverNats:
    """The same endpoints over a NATS server; raises as ``Verifier``."""

    def __init__(self, place: Place, secret: str) -> None:
        self._name = place.url
        self._client = BusClient(place, secret)

    def post(self, path: str, body: bytes = b"") -> dict[str, Any]:
        """Send something and return the answer."""
        operation, _, nonce = path.removeprefix("/").partition("?nonce=")
        status, value = self._client.ask(operation, body, nonce)
        if status != http.client.OK:
            raise _refused(self._name, status, value)
        return value

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


class Verifier:
    """The verifier's endpoints for agents. Raises HostError, or what the verifier refuses with."""

    def __init__(self, url: str, secret: str, ca: Path | None) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname:
            raise ArgumentError("the verifier is https://HOST:PORT", argument="verifier")
        context = ssl.create_default_context(cafile=str(ca) if ca else None)
        self._name = parts.netloc
        self._secret = secret
        self._connection = http.client.HTTPSConnection(
            parts.hostname, parts.port or 443, timeout=TIMEOUT, context=context
        )

    def post(self, path: str, body: bytes = b"") -> dict[str, Any]:
        """Send something and return the answer."""
        headers = {"authorization": f"Bearer {self._secret}", "content-type": "application/json"}
        try:
            self._connection.request("POST", AGENT + path, body, headers)
            response = self._connection.getresponse()
            data = response.read(ANSWER_LIMIT)
            value = json.loads(data)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._connection.close()
            raise HostError(
                f"{self._name} does not answer: {error}",
                code="unreachable",
                component=self._name,
                remedy="Check the verifier's address, and its certificate with --ca.",
            ) from error
        if response.status != http.client.OK:
            raise _refused(self._name, response.status, value)
        return dict(value)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class AnyOf:
    """Several verifiers of one fleet: the one that answered last is called first."""

    def __init__(self, ways: Sequence[Verifier]) -> None:
        self._ways = list(ways)

    def post(self, path: str, body: bytes = b"") -> dict[str, Any]:
        """Send something and return the answer; raises what the last one raised."""
        for left in range(len(self._ways) - 1, -1, -1):
            try:
                return self._ways[0].post(path, body)
            except HostError as error:
                if not left or error.code not in _ELSEWHERE:
                    raise
                self._ways.append(self._ways.pop(0))
        raise AssertionError

    def close(self) -> None:
        """Close the connections."""
        for way in self._ways:
            way.close()


_ELSEWHERE = frozenset({"unreachable", "database"})
"""What another verifier may not suffer from."""


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
            print(f"{told['state']}: {escape(str(told.get('verdict', '')))}", flush=True)
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
        quote = Quote(bytes.fromhex(asked["nonce"]), tuple(asked["banks"]), tuple(asked["pcrs"]))
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
