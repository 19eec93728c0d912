"""How many hosts a verifier can attest: appraisals a second, and whole attestations over HTTPS.

Usage: .venv/bin/python bench/verifier.py [--database postgresql://...] [--hosts N] [--seconds S]

Agents in miniature (paper-thin: a software key instead of a TPM) push over TLS to one verifier
process. What counts on a shared machine is the processor time of the verifier, so both are given.
"""

from __future__ import annotations

import argparse
import http.client
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
from casemate.policy.appraise import appraise
from casemate.policy.tpmidentity import check_identity
from casemate.testing.minifleet import HonestHost
from casemate.testing.pki import NOW, issue, shared_pki
from casemate.testing.smallhost import SmallHost, SmallImage, ek_maker, sign_reference
from casemate.ui.verifier import render
from casemate.verifier import store
from casemate.verifier.app import make_app, make_server
from casemate.verifier.enrol import Wanted, token_digest
from casemate.verifier.judge import Candidate, Judge
from casemate.verifier.service import Service, Settings

NONCE = b"n" * 32
MACHINES = 40
"""Machines with a TPM of their own; larger fleets have several names for each."""
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
    ready.set()
    stop.wait()
    server.should_exit = True
    thread.join()
    service.close()


class Agent:
    """One host that pushes over one connection; ``tokens``: it speaks for as many hosts."""

    def __init__(self, port: int, tokens: list[str]) -> None:
        self.host = HonestHost(SmallHost())
        self.all = [{"authorization": f"Bearer {token}"} for token in tokens]
        self.asked: list[dict | None] = [None] * len(tokens)
        self.headers = self.all[0]
        self.turn = 0
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.connection = http.client.HTTPSConnection("127.0.0.1", port, context=context)

    def post(self, path: str, body: bytes = b"") -> dict:
        self.connection.request("POST", "/agent/v1" + path, body, self.headers)
        answer = self.connection.getresponse()
        data = json.loads(answer.read())
        assert answer.status == 200, data
        return data

    def enrol(self) -> None:
        shown = self.post("/identity", wire.encode(self.host.identity()))
        del shown["known"]
        challenge = wire.decode(ActivateCredential, json.dumps(shown).encode())
        self.post("/activate", wire.encode(self.host.activate(challenge)))

    def round(self) -> str:
        mine = self.turn % len(self.all)
        self.headers = self.all[mine]
        self.turn += 1
        asked = self.asked[mine] or self.post("/nonce")
        quote = Quote(bytes.fromhex(asked["nonce"]), tuple(asked["banks"]), tuple(asked["pcrs"]))
        body = wire.encode(self.host.evidence(quote))
        told = self.post(f"/evidence?nonce={asked['nonce']}", body)
        self.asked[mine] = told if "nonce" in told else None
        return told["state"]


def drive(
    port: int, tokens: list[list[str]], seconds: float, go: Event, result: Queue[int]
) -> None:
    agents = [Agent(port, mine) for mine in tokens]
    for agent in agents:
        agent.enrol()
    result.put(-1)
    go.wait()
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        assert agents[count % len(agents)].round() == "trusted"
        count += 1
    result.put(count)


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
    workers = 4
    clients = [
        fork.Process(target=drive, args=(port, tokens[n::workers], seconds, go, result))
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
    cpu = sum(_cpu(server.pid) for server in servers)
    go.set()
    total = sum(result.get(timeout=120 + seconds) for _ in clients)
    cpu = sum(_cpu(server.pid) for server in servers) - cpu
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
        "attestations a second and core of the verifier": total / cpu,
        "verifier processes": processes,
    }


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
        rows.append((hosts, found["processor time of the verifier each, ms"]))
        print(f"{hosts:6} hosts {rows[-1][1]:6.2f} ms, {found['attestations a second']:6.0f}/s")
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
        'text-anchor="middle" font-family="sans-serif"><title>Processor time of the verifier for '
        'one attestation, by size of the fleet</title><rect width="640" height="330" fill="#fff"/>'
        '<path d="M60 30V280H600" fill="none" stroke="#000"/>'
        f'<polyline points="{line}" fill="none" stroke="#05a" stroke-width="2"/>{labels}'
        '<text x="330" y="322">hosts</text></svg>\n'
    )


def _cpu(pid: int | None) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


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
