"""How many hosts a verifier can attest: appraisals a second, and whole attestations over HTTPS.

Usage: .venv/bin/python bench/verifier.py [--database postgresql://...] [--hosts N] [--seconds S]
    [--processes N] [--curve FILE.svg]

An attestation is whole: a request over TLS with evidence for a nonce of this verifier, quotes
checked, log and values judged, the verdict with its evidence committed to the disk, the nonce
spent, and the answer sent with the next nonce. Agents are thin as paper: a software key instead of
a TPM, and what stays the same is sent once. They stand for other machines, so what counts is the
processor time of verifier and PostgreSQL together; how many were seen in a second says how busy
this machine was.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import logging
import math
import multiprocessing
import os
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path

from casemate.calls import evidence as wire
from casemate.calls.messages import ActivateCredential, Quote
from casemate.formats.tpm import write_signature
from casemate.policy.appraise import appraise
from casemate.policy.measure import BANKS
from casemate.policy.tpmidentity import check_identity
from casemate.testing.minifleet import HonestHost
from casemate.testing.pki import NOW, issue, shared_pki
from casemate.testing.smallhost import PCRS, SmallHost, SmallImage, ek_maker, sign_reference
from casemate.ui.verifier import render
from casemate.verifier import store
from casemate.verifier.app import make_app, make_server, settle
from casemate.verifier.database import Postgres
from casemate.verifier.enrol import Wanted, token_digest
from casemate.verifier.judge import Candidate, Judge
from casemate.verifier.service import Service, Settings

NONCE = b"n" * 32
MACHINES = 40
"""Machines with a TPM of their own; larger fleets have several names for each."""
CONNECTIONS = 4
"""Connections of one machine; each speaks for a part of the hosts that share its TPM."""
CADENCE = 10.0
"""Seconds between two rounds: 10,000 hosts are then 1,000 rounds a second."""
SIZES = (100, 300, 1000, 3000, 10_000)


def timed(call: Callable[[], object], count: int = 500) -> float:
    """Return milliseconds of processor time of one call."""
    call()
    began = time.process_time()
    for _ in range(count):
        call()
    return (time.process_time() - began) / count * 1000


def appraisals() -> dict[str, float]:
    host, reference = SmallHost(), SmallImage().reference()
    identity = check_identity(host.claim(), (ek_maker().certificate,), NOW)
    evidence = host.evidence(NONCE)
    judge, candidates = Judge(), (Candidate("reference", reference),)
    return {
        "events": len(host.log),
        "quotes": len(evidence.quotes),
        "appraisal of unknown evidence, ms": timed(
            lambda: appraise(evidence, reference, identity, NONCE)
        ),
        "appraisal of a log seen before, ms": timed(
            lambda: judge.judge(evidence, candidates, identity, NONCE)
        ),
    }


def serve(place: Path, database: str, listener: socket.socket, ready: Event, stop: Event) -> None:
    logging.disable(logging.CRITICAL)
    service = Service(Settings(place, database))
    server = make_server(make_app(service, render), place / "tls.crt", place / "tls.key")
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    settle()
    ready.set()
    stop.wait()
    server.should_exit = True
    thread.join()
    service.close()


class Paper:
    """A host thin as paper: its answer is made once, and for each nonce only signed anew."""

    def __init__(self) -> None:
        self.host = HonestHost(SmallHost())
        self.blank = bytes(range(32))
        reply = self.host.evidence(Quote(self.blank, BANKS, PCRS))
        self.attests = [attest for attest, _ in reply.quotes]
        self.rest = wire.encode(replace(reply, quotes=())).removeprefix(b'{"quotes":[]')
        self.short = wire.shorten(b'{"quotes":[]' + self.rest)[0].removeprefix(b'{"quotes":[]')

    def answer(self, nonce: bytes, *, whole: bool = False) -> bytes:
        quotes = []
        for attest in self.attests:
            fresh = attest.replace(self.blank, nonce)
            signature = write_signature(self.host.host.ak.sign(fresh))
            quotes.append([base64.b64encode(one).decode() for one in (fresh, signature)])
        text = json.dumps({"quotes": quotes}, separators=(",", ":"))
        return text.encode().removesuffix(b"}") + (self.rest if whole else self.short)


class Agent:
    """A connection of one host; ``tokens``: it speaks for as many hosts."""

    def __init__(self, paper: Paper, tokens: list[str]) -> None:
        self.paper = paper
        self.tokens = tokens
        self.asked: list[dict | None] = [None] * len(tokens)
        self.turn = 0

    async def connect(self, port: int) -> None:
        self.port = port
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)

    async def post(self, token: str, path: str, body: bytes = b"") -> dict:
        head = (
            f"POST /agent/v1{path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {token}\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        self.writer.write(head.encode() + body)
        try:
            answer = await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:  # it was closed while nothing was said
            await self.connect(self.port)
            self.writer.write(head.encode() + body)
            answer = await self.reader.readuntil(b"\r\n\r\n")
        size = int(answer.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        data = json.loads(await self.reader.readexactly(size))
        assert answer.startswith(b"HTTP/1.1 200"), data
        return data

    async def enrol(self) -> None:
        token, host = self.tokens[0], self.paper.host
        shown = await self.post(token, "/identity", wire.encode(host.identity()))
        del shown["known"]
        challenge = wire.decode(ActivateCredential, json.dumps(shown).encode())
        await self.post(token, "/activate", wire.encode(host.activate(challenge)))

    async def round(self) -> str:
        mine = self.turn % len(self.tokens)
        self.turn += 1
        asked = self.asked[mine] or await self.post(self.tokens[mine], "/nonce")
        body = self.paper.answer(bytes.fromhex(asked["nonce"]), whole=self.turn == 1)
        told = await self.post(self.tokens[mine], f"/evidence?nonce={asked['nonce']}", body)
        self.asked[mine] = told if "nonce" in told else None
        return told["state"]

    async def until(self, end: float) -> int:
        count = 0
        while time.monotonic() < end:
            assert await self.round() == "trusted"
            count += 1
        return count


def drive(
    port: int,
    tokens: list[list[str]],
    seconds: float,
    go: Event,
    result: Queue[int],
    questions: Path,
) -> None:
    """Be some machines; ``questions`` has the first nonce of each host: all rounds are alike."""

    async def work() -> None:
        papers = [Paper() for _ in tokens]
        agents = [
            Agent(paper, mine[n::CONNECTIONS])
            for paper, mine in zip(papers, tokens, strict=True)
            for n in range(min(CONNECTIONS, len(mine)))
        ]
        for agent in agents:
            await agent.connect(port)
        first = {id(agent.paper): agent for agent in reversed(agents)}
        for agent in first.values():
            await agent.enrol()
        result.put(-1)
        await asyncio.to_thread(go.wait)
        asked = json.loads(await asyncio.to_thread(questions.read_text))
        for agent in agents:
            agent.asked = [asked[token] for token in agent.tokens]
        end = time.monotonic() + seconds
        counts = await asyncio.gather(*(agent.until(end) for agent in agents))
        result.put(sum(counts))

    asyncio.run(work())


def attestations(database: str, hosts: int, seconds: float, processes: int = 1) -> dict[str, float]:
    place = Path(tempfile.mkdtemp(prefix="casemate-bench-"))
    for name, pem in (("certified", shared_pki().issuers["certified"].pem), ("ek", ek_maker().pem)):
        (place / "trust" / name).mkdir(parents=True)
        (place / "trust" / name / "ca.pem").write_bytes(pem)
    identity = issue("verifier")
    (place / "tls.crt").write_bytes(identity.pem)
    (place / "tls.key").write_bytes(identity.key_pem)
    service = Service(Settings(place, database))
    service.book.add(sign_reference(SmallImage().reference()), "bench")
    real = min(hosts, MACHINES)
    names = [f"bench-{os.getpid()}-{hosts}-{n}" for n in range(real)]
    first = [service.enrolment.invite(Wanted(name, cadence=CADENCE), "bench")[1] for name in names]
    tokens = [[token, *(f"{token}-{n}" for n in range(k, hosts, real) if n >= real)]
              for k, token in enumerate(first)]  # fmt: skip
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    port = listener.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    ready, stop, go = fork.Event(), fork.Event(), fork.Event()
    result: Queue[int] = fork.Queue()
    servers = [
        fork.Process(target=serve, args=(place, database, listener, ready, stop))
        for _ in range(processes)
    ]
    for server in servers:
        server.start()
    ready.wait()
    workers = 2
    clients = [
        fork.Process(
            target=drive,
            args=(port, tokens[n::workers], seconds, go, result, place / "questions"),
        )
        for n in range(workers)
    ]
    for client in clients:
        client.start()
    for _ in clients:
        assert result.get(timeout=120) == -1
    for name in names:
        service.enrolment.approve(name, "bench")
    for name, mine in zip(names, tokens, strict=True):
        populate(service, name, mine[1:])
    (place / "questions").write_text(
        json.dumps({t: question(service, t) for m in tokens for t in m})
    )
    spent = cost(servers, service)
    go.set()
    total = sum(result.get(timeout=120 + seconds) for _ in clients)
    cpu, store_cpu = (
        after - before for before, after in zip(spent, cost(servers, service), strict=True)
    )
    for client in clients:
        client.join()
    stop.set()
    for server in servers:
        server.join()
    service.close()
    return {
        "hosts": hosts,
        "attestations a second": total / seconds,
        "processor time of the verifier each, ms": cpu / total * 1000,
        "processor time of PostgreSQL each, ms": store_cpu / total * 1000,
        "attestations a second on two cores": 2 * total / (cpu + store_cpu),
        "verifier processes": processes,
    }


def question(service: Service, token: str) -> dict[str, object]:
    """Return what a host would be asked in the answer to an earlier round."""
    _, asked = service.rounds.ask(token_digest(token))
    assert asked is not None
    return {"nonce": asked.nonce.hex(), "banks": asked.banks, "pcrs": asked.pcrs}


def populate(service: Service, name: str, tokens: list[str]) -> None:
    """Add hosts that answer with the TPM of an enrolled one: thin as paper, whole as records."""
    with service.database.transaction() as step:
        host = store.get_host(step, name)
        for n, token in enumerate(tokens):
            store.add_host(
                step,
                replace(host, name=f"{name}-{n}", ek=f"{host.ek}-{n}", token=token_digest(token)),
            )


def curve(database: str, seconds: float, processes: int, out: Path) -> None:
    """Measure fleets of several sizes, print and plot what an attestation costs."""
    rows = []
    for hosts in SIZES:
        found = attestations(database, hosts, seconds, processes)
        own = found["processor time of the verifier each, ms"]
        rows.append((hosts, own + found["processor time of PostgreSQL each, ms"]))
        print(
            f"{hosts:6} hosts: verifier {own:5.2f} ms, with PostgreSQL {rows[-1][1]:5.2f} ms,"
            f" {found['attestations a second on two cores']:6.0f}/s on two cores,"
            f" {found['attestations a second']:6.0f}/s seen",
            flush=True,
        )
    out.write_text(plot(rows))
    print(f"Wrote {out}")


def plot(rows: list[tuple[int, float]]) -> str:
    """Return an SVG: processor time of an attestation (ms) over the size of the fleet (log)."""
    high = max(cost for _, cost in rows) * 1.2
    low, last = math.log10(rows[0][0]), math.log10(rows[-1][0])
    at = [
        (60 + 520 * (math.log10(hosts) - low) / (last - low), 280 - 250 * cost / high)
        for hosts, cost in rows
    ]
    line = " ".join(f"{x:.0f},{y:.0f}" for x, y in at)
    labels = "".join(
        f'<circle cx="{x:.0f}" cy="{y:.0f}" r="4"/><text x="{x:.0f}" y="300">{hosts:,}</text>'
        f'<text x="{x:.0f}" y="{y - 10:.0f}">{cost:.2f} ms</text>'
        for (hosts, cost), (x, y) in zip(rows, at, strict=True)
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 330" font-size="12" '
        'text-anchor="middle" font-family="sans-serif"><title>Processor time of verifier and '
        "PostgreSQL for one attestation, by size of the fleet</title>"
        '<rect width="640" height="330" fill="#fff"/>'
        '<path d="M60 30V280H600" fill="none" stroke="#000"/>'
        f'<polyline points="{line}" fill="none" stroke="#05a" stroke-width="2"/>{labels}'
        '<text x="330" y="322">hosts</text></svg>\n'
    )


def cost(
    servers: list[multiprocessing.process.BaseProcess], service: Service
) -> tuple[float, float]:
    """Return the processor time in seconds of the verifiers, and of PostgreSQL on this machine."""
    own = sum(_cpu(server.pid) for server in servers)
    if not isinstance(service.database, Postgres):
        return own, 0.0
    with service.database.transaction() as step:
        (backend,) = step.one("SELECT pg_backend_pid()") or (0,)
    postmaster = _stat(backend)[1]
    pids = [int(one.name) for one in Path("/proc").iterdir() if one.name.isdigit()]
    return own, sum(_cpu(pid) for pid in pids if _stat(pid)[1] == postmaster)


def _stat(pid: int) -> list[str]:
    """Return the fields of a process from its state on."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["", ""]


def _cpu(pid: int | None) -> float:
    words = _stat(pid or 0)
    return sum(map(int, words[11:13])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", default="")
    parser.add_argument("--hosts", type=int, default=40)
    parser.add_argument("--processes", type=int, default=1, help="verifiers on one PostgreSQL")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--curve", type=Path, help="measure several sizes and plot into this SVG")
    options = parser.parse_args()
    if options.curve:
        curve(options.database, options.seconds, options.processes, options.curve)
        return
    for name, value in {
        **appraisals(),
        **attestations(options.database, options.hosts, options.seconds, options.processes),
    }.items():
        print(f"{name:50} {value:10.2f}")


if __name__ == "__main__":
    main()
