"""One attestation of one host, over HTTPS: challenge, evidence, verdict.

The host's certificate is not looked at: evidence proves itself, by a nonce made here, a key that
answered a challenge made here, and the TPM maker's certificate. Whoever sits in between can only
pass on the proof of a real TPM in that state, or break it.
"""

from __future__ import annotations

import http.client
import io
import json
import math
import secrets
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from casemate.calls import evidence as wire
from casemate.calls.messages import (
    ActivateCredential,
    ActivationReply,
    EvidenceReply,
    IdentityReply,
    Quote,
)
from casemate.errors import (
    AppraisalError,
    CasemateError,
    FormatError,
    HostError,
    LimitError,
    NotFoundError,
    VerificationError,
)
from casemate.formats.ekcert import LenientCertificate
from casemate.formats.manifest import Manifest, parse_manifest
from casemate.formats.text import escape
from casemate.formats.tpm import ENTROPY_SIZE
from casemate.machine.facts import ComponentFact
from casemate.policy.appraise import Appraisal, Evidence, appraise, refused
from casemate.policy.explain import ComponentClaim
from casemate.policy.levels import Level
from casemate.policy.references import verify_reference
from casemate.policy.tpmidentity import (
    SECRET_SIZE,
    Claim,
    TpmIdentity,
    check_activation,
    check_identity,
    load_ek_roots,
    make_challenge,
)
from casemate.policy.trust import trust_from_files

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

NONCE_SIZE = 32
"""Bytes of a nonce: beyond guessing, within what every TPM takes."""

TIMEOUT = 20.0
"""Seconds for one whole answer; a slow hardware TPM quotes in one."""

SHORT_WAIT = 1.0
"""Seconds until the next try where a busy host does not say how long to wait."""

ATTEMPTS = 3
"""Rounds where log and quote were taken at different moments."""

_TIMING = frozenset({"quote-behind-log", "log-incomplete"})
_UNPROCESSABLE = 422

M = TypeVar("M", IdentityReply, ActivationReply, EvidenceReply)


@dataclass(frozen=True, slots=True)
class Trusted:
    """What a verifier goes by: a verified reference, its signer, and the pinned EK roots."""

    reference: Manifest
    signer: str
    ek_roots: tuple[LenientCertificate, ...]


@dataclass(frozen=True, slots=True)
class Attestation:
    """The outcome: the verdict, and the TPM that gave it where its identity was proven."""

    appraisal: Appraisal
    identity: TpmIdentity | None = None


class RefusedError(CasemateError):
    """The host's TPM or kernel refused a request that was well-formed."""


def load_trusted(reference: Path, ek_roots: Path, trust: Path, now: datetime) -> Trusted:
    """Read and verify what the verifier goes by.

    Args:
        reference: the signed reference manifest.
        ek_roots: directory of EK issuers' certificates (``*.pem``, ``*.crt``, ``*.der``).
        trust: directory with one folder of anchors a level; they vouch for the reference.
        now: the present, aware.

    Raises:
        NotFoundError, FormatError, SignatureError: it cannot be read, or not be trusted.
    """
    store = trust_from_files(
        (level, _read(path)) for level in Level for path in sorted((trust / level).glob("*.pem"))
    )
    signed = parse_manifest(_read(reference))
    signer = verify_reference(signed, store, now)
    files = [path for path in sorted(ek_roots.glob("*")) if path.suffix in {".pem", ".crt", ".der"}]
    roots = load_ek_roots(map(_read, files))
    if not roots:
        raise NotFoundError(
            f"{ek_roots} holds no certificate of a TPM maker",
            code="ek-roots",
            component=str(ek_roots),
            remedy="Put the TPM maker's CA certificate there, or name another with --ek-roots.",
        )
    return Trusted(signed.manifest, signer, roots)


class _Until(io.RawIOBase):
    """What a socket gives until a moment: a host that sends a byte now and then holds nobody."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, deadline: float) -> None:
        super().__init__()
        self._raw = raw
        self._sock = sock
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer takes too long")
        self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def _responses_until(deadline: float) -> type[http.client.HTTPResponse]:
    class Response(http.client.HTTPResponse):
        def __init__(self, sock: socket.socket, *given: Any, **named: Any) -> None:  # noqa: ANN401  (as http.client declares it)
            super().__init__(sock, *given, **named)
            self.fp = io.BufferedReader(_Until(self.fp.detach(), sock, deadline))

    return Response


class HostClient:
    """Speaks to the attestation endpoints of one host.

    Every method raises HostError (``unreachable``, ``host-refused``) where the host gave no
    answer, and FormatError or LimitError where it gave none that can be read.
    """

    def __init__(self, host: str, port: int, *, timeout: float = TIMEOUT) -> None:
        self._name = f"{host}:{port}"
        self._timeout = timeout
        self._over = math.inf
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # see the module's first words
        self._connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=context)

    def within(self, seconds: float) -> None:
        """Have all answers from now on within so many seconds together."""
        self._over = time.monotonic() + seconds

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def identity(self) -> IdentityReply:
        """Ask for the TPM's identity."""
        return self._ask(IdentityReply, "GET", wire.IDENTITY_PATH, None)

    def activate(self, request: ActivateCredential) -> ActivationReply:
        """Send a credential challenge. Raises AppraisalError where the TPM cannot answer it."""
        try:
            return self._ask(ActivationReply, "POST", wire.ACTIVATE_PATH, wire.encode(request))
        except RefusedError as error:
            raise AppraisalError(
                f"the TPM could not answer the challenge for its keys: {error.reason}",
                code="activation",
                component="TPM",
                remedy="Ask again; if it stays so, EK and AK are not of one TPM: do not trust it.",
            ) from error

    def evidence(self, request: Quote) -> EvidenceReply:
        """Ask for fresh evidence."""
        return self._ask(EvidenceReply, "POST", wire.EVIDENCE_PATH, wire.encode(request))

    def _ask(self, kind: type[M], method: str, path: str, body: bytes | None) -> M:
        deadline = min(time.monotonic() + self._timeout, self._over)
        while True:
            try:
                status, wait, data = self._exchange(method, path, body, deadline)
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                raise HostError(
                    f"{self._name} does not answer: {str(error) or type(error).__name__}",
                    code="unreachable",
                    component=self._name,
                    remedy="Check name and port, and that the host is up: casemate status.",
                ) from error
            if status == http.client.OK:
                return wire.decode(kind, data)
            if status != http.client.TOO_MANY_REQUESTS or time.monotonic() + wait > deadline:
                raise self._refusal(status, data)
            time.sleep(wait)

    def _exchange(
        self, method: str, path: str, body: bytes | None, deadline: float
    ) -> tuple[int, float, bytes]:
        """Return status, seconds that the host asks to wait, and body of one answer."""
        headers = {"content-type": "application/json"} if body else {}
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer takes too long")
        self._connection.timeout = left
        if self._connection.sock is not None:
            self._connection.sock.settimeout(left)
        self._connection.response_class = _responses_until(deadline)
        self._connection.request(method, path, body, headers)
        response = self._connection.getresponse()
        asked = response.getheader("retry-after", "")
        wait = float(asked) if asked.isascii() and asked.isdigit() else SHORT_WAIT
        return response.status, wait, self._body(response, deadline)

    def _body(self, response: http.client.HTTPResponse, deadline: float) -> bytes:
        parts: list[bytes] = []
        size = 0
        while chunk := response.read1(1 << 16):
            parts.append(chunk)
            size += len(chunk)
            if size > wire.BODY_LIMIT:
                self._connection.close()
                raise LimitError(f"an answer of more than {wire.BODY_LIMIT} bytes")
            if time.monotonic() > deadline:
                raise TimeoutError("the answer takes too long")
        response.close()  # read1 leaves that open, and the connection busy
        return b"".join(parts)

    def _refusal(self, status: int, data: bytes) -> CasemateError:
        try:
            said = json.loads(data)["error"]
            code, reason = escape(str(said["code"]))[:64], escape(str(said["reason"]))[:512]
        except (ValueError, KeyError, TypeError, RecursionError):
            code, reason = "host-refused", "no reason given"
        kind = RefusedError if status == _UNPROCESSABLE else HostError
        return kind(
            f"{self._name} answered {status}: {reason}",
            code=code,
            component=self._name,
            remedy="Look at the host: casemate status, and the logs in its home.",
        )


def attest(client: HostClient, trusted: Trusted, now: datetime) -> Attestation:
    """Challenge a host and judge its answers.

    Raises HostError where it gave none: that is no verdict.
    """
    identity: TpmIdentity | None = None
    try:
        identity, _ = prove_identity(client, trusted.ek_roots, now)
        appraisal = _one_round(client, trusted.reference, identity)
        for _ in range(ATTEMPTS - 1):
            if not _TIMING.intersection(finding.code for finding in appraisal.findings):
                break
            appraisal = _one_round(client, trusted.reference, identity)
    except (VerificationError, FormatError) as error:
        appraisal = refused(error, "identity" if identity is None else "evidence")
    except RefusedError as error:
        raise HostError(
            error.reason, code=error.code, component=error.component, remedy=error.remedy
        ) from error
    return Attestation(appraisal, identity)


def attest_once(host: str, port: int, trusted: Trusted, now: datetime | None = None) -> Attestation:
    """Attest one host over a connection of its own; raises as ``attest``."""
    client = HostClient(host, port)
    try:
        return attest(client, trusted, now or datetime.now(UTC))
    finally:
        client.close()


def prove_identity(
    client: HostClient, roots: Sequence[LenientCertificate], now: datetime
) -> tuple[TpmIdentity, IdentityReply]:
    """Ask a host who its TPM is, and let it prove that EK and AK are of one TPM.

    Raises what ``check_identity`` and ``check_activation`` raise, and HostError.
    """
    reply = client.identity()
    claim = Claim(reply.ek_certificate, reply.ek_public, reply.ak_public)
    identity = check_identity(claim, roots, now)
    secret = secrets.token_bytes(SECRET_SIZE)
    challenge = make_challenge(identity, secret, secrets.token_bytes(ENTROPY_SIZE))
    answer = client.activate(ActivateCredential(challenge.blob, challenge.encrypted_secret))
    check_activation(answer.secret, secret)
    return identity, reply


def _one_round(client: HostClient, reference: Manifest, identity: TpmIdentity) -> Appraisal:
    nonce = secrets.token_bytes(NONCE_SIZE)
    reply = client.evidence(Quote(nonce, reference.algorithms, reference.indexes))
    return appraise(evidence_of(reply), reference, identity, nonce)


def evidence_of(reply: EvidenceReply) -> Evidence:
    """Return a host's answer as it is judged. Raises FormatError where it says a thing twice."""
    values: dict[str, dict[int, bytes]] = {}
    for bank in reply.pcrs:
        if bank.algorithm in values or len(dict(bank.values)) != len(bank.values):
            raise FormatError("a PCR or a bank was sent twice", component="evidence")
        values[bank.algorithm] = dict(bank.values)
    return Evidence(
        reply.quotes,
        values,
        reply.log,
        _claims(reply),
        reply.accelerator,
        reply.measurements,
        reply.heads,
    )


def _claims(reply: EvidenceReply) -> tuple[ComponentClaim, ...]:
    return tuple(
        ComponentClaim(fact.file_name, fact.vib_name, fact.vib_version, fact.sha256)
        for fact in reply.components
        if isinstance(fact, ComponentFact)
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise NotFoundError(
            f"{path} cannot be read: {error.strerror}",
            component=str(path),
            remedy="Name the signed reference of the host's image with --reference.",
        ) from error
