"""A fleet of hosts, each with its own swtpm, under verifiers that are killed and restarted.

Usage, as root: .venv/bin/python bench/fleet.py [--sqlite] [--hosts N] [--seconds S] [--cadence C]

Every second host answers over HTTPS of its own; the others run the code of `casemate agent`. With
PostgreSQL, two verifiers; one is killed, and another takes its place a minute later; PostgreSQL is
restarted the hard way. A tenth of the hosts is tampered with at random times. In the end it is
checked that every tampered host was found within one cadence with the right component named, that
nobody else was accused, that no round which was answered is missing, and that every host was asked
until the end.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from casemate.cli import agent, agentways
from casemate.errors import CasemateError
from casemate.testing.minifleet import HonestHost, HttpsHost
from casemate.testing.pki import shared_pki
from casemate.testing.smallhost import SmallImage, sign_reference
from casemate.testing.swtpmhost import SwtpmHost
from casemate.verifier import audit, roundstore
from casemate.verifier.database import Database, open_database
from casemate.verifier.schema import SCHEMA

COMMAND = Path(sys.executable).parent / "casemate"
CROWDS = 4
"""Processes in which the hosts live."""
ATTACKS = {
    "qemu.v00": SmallImage(contents={"qemu.v00": b"back door"}),
    "nic.v00": SmallImage(contents={"nic.v00": b"older driver"}, versions={"nic-driver": "1.0-1"}),
    "boot-option-changed": SmallImage(kernelopt="bootUUID=1 noSecurity=TRUE"),
}


class Crowd:
    """Hosts of one process; they answer or call until told to end."""

    def __init__(self, place: Path, names: list[str], ports: list[int], end: Connection) -> None:
        self.place, self.names, self.ports, self.end = place, names, ports, end
        self.hosts: dict[str, SwtpmHost] = {}
        self.stopped = threading.Event()
        self.answered: dict[str, int] = {}

    def run(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        authority = self.place / "ca"
        authority.mkdir(parents=True)
        addresses, servers, threads = {}, [], []
        for name in self.names:
            host = self.hosts[name] = SwtpmHost(self.place / name, authority)
            if not pushes(name):
                servers.append(HttpsHost(HonestHost(host), self.place, poll=2.0))
                addresses[name] = f"127.0.0.1:{servers[-1].port}"
        self.end.send(addresses)
        while True:
            what, name, value = self.end.recv()
            if what == "push":
                threads.append(threading.Thread(target=self.agent, args=(name, value)))
                threads[-1].start()
            elif what == "tamper":
                self.hosts[name].reboot(ATTACKS[value])
                self.end.send(time.time())
            else:
                break
        self.stopped.set()
        for thread in threads:
            thread.join()
        for server in servers:
            server.close()
        for host in self.hosts.values():
            host.close()
        self.end.send(self.answered)

    def agent(self, name: str, secret: str) -> None:
        """Do what `casemate agent` does; where one verifier does not answer, call the next."""
        ways = [Way(port, secret) for port in self.ports]
        random.shuffle(ways)
        verifier = agentways.AnyOf(ways)
        prover = agent.Prover(HonestHost(self.hosts[name]), verifier)
        self.stopped.wait(random.uniform(0, 5))
        while not self.stopped.is_set():
            try:
                told = prover.round()
                pending = told["state"] == "pending"
                self.answered[name] = self.answered.get(name, 0) + (not pending)
                wait = 5.0 if pending else float(told["wait"])
            except CasemateError:
                wait = 1.0
            self.stopped.wait(wait)
        verifier.close()


class Way(agentways.Verifier):
    """A verifier whose certificate is not looked at: this machine made it a moment ago."""

    def __init__(self, port: int, secret: str) -> None:
        super().__init__(f"https://127.0.0.1:{port}", secret, None)
        self._connection = http.client.HTTPSConnection(
            "127.0.0.1", port, timeout=30, context=unchecked()
        )


def pushes(name: str) -> bool:
    return int(name.rpartition("-")[2]) % 2 == 0


def unchecked() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class PostgresServer:
    """A real PostgreSQL with its defaults: what it has committed is on the disk."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.tool = str(max(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl")))
        place.mkdir()
        shutil.chown(place, "postgres", "postgres")
        self.call("initdb", "-s", "-D", str(place / "data"), "-o", "-A trust")
        self.start()
        self.url = f"postgresql:///postgres?host={place}&user=postgres"

    def call(self, *words: str) -> None:
        subprocess.run(
            ["runuser", "-u", "postgres", "--", self.tool, *words],
            check=True,
            timeout=120,
            cwd="/",
            stdout=subprocess.DEVNULL,
        )

    def start(self) -> None:
        data, log = str(self.place / "data"), str(self.place / "log")
        self.call("-D", data, "-l", log, "-o", f"-c listen_addresses='' -k {self.place}", "start")

    def restart(self) -> None:
        self.stop()
        time.sleep(3)
        self.start()

    def stop(self) -> None:
        self.call("-D", str(self.place / "data"), "-m", "immediate", "-w", "stop")


@dataclass
class Running:
    """A verifier started as its operator would."""

    process: subprocess.Popen[str]
    port: int
    password: str


def verifier(place: Path, database: str, trust: Path, port: int) -> Running:
    words = [str(COMMAND), "verifier", "up", "--state", str(place), "--port", str(port),
             "--address", "127.0.0.1", "--trust", str(trust), "--json"]  # fmt: skip
    if database:
        words += ["--database", database]
    place.mkdir(exist_ok=True)
    with (place / "log").open("a") as log:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout
    told = json.loads(process.stdout.readline())
    return Running(process, port, told.get("password", ""))


class Rest:
    """The verifier's REST interface, as an operator's script uses it."""

    def __init__(self, port: int, password: str) -> None:
        self.port, self.headers = port, {}
        session = self.call("POST", "/login", {"user": "admin", "password": password})["session"]
        self.headers = {"authorization": f"Bearer {session}"}

    def call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        raw = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        link = http.client.HTTPSConnection("127.0.0.1", self.port, context=unchecked(), timeout=60)
        link.request(method, "/api/v1" + path, raw, self.headers)
        answer = link.getresponse()
        data = json.loads(answer.read())
        link.close()
        assert answer.status == 200, data
        return data


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def run(options: argparse.Namespace, place: Path) -> bool:
    names = [f"host-{n:03}" for n in range(1, options.hosts + 1)]
    ports = [free_port() for _ in range(1 if options.sqlite else 2)]
    reference = sign_reference(SmallImage().reference())
    crowds, where, addresses = gather(place, names, ports)
    trust = anchors(place, names)
    server = None if options.sqlite else PostgresServer(place / "pg")
    url = server.url if server else ""
    verifiers = [verifier(place / f"v{n}", url, trust, port) for n, port in enumerate(ports)]
    rest = Rest(ports[0], verifiers[0].password)
    rest.call("POST", "/references", reference)
    database = open_database(url or str(place / "v0" / "verifier.db"), SCHEMA)
    enrol(rest, options.cadence, where, addresses)
    while count_states(database) != {"trusted": len(names)}:
        time.sleep(1)
    say("all are trusted; the clock runs")
    story = Story(options, names, where, database)
    story.tell(server, verifiers, place, url, trust)
    pipes = list(dict.fromkeys(where.values()))
    for pipe in pipes:
        pipe.send(("end", "", ""))
    answered = {name: count for pipe in pipes for name, count in pipe.recv().items()}
    for crowd in crowds:
        crowd.join()
    for one in verifiers:
        one.process.terminate()
        one.process.wait()
    good = story.judge(answered)
    database.close()
    if server:
        server.stop()
    return good


def gather(
    place: Path, names: list[str], ports: list[int]
) -> tuple[list[multiprocessing.process.BaseProcess], dict[str, Connection], dict[str, str]]:
    """Start all hosts; return their processes, whom to tell what, and the addresses to pull."""
    fork = multiprocessing.get_context("fork")
    where, crowds = {}, []
    for n in range(CROWDS):
        mine, theirs = fork.Pipe()
        crowd = Crowd(place / f"c{n}", names[n::CROWDS], ports, theirs)
        crowds.append(fork.Process(target=crowd.run))
        crowds[-1].start()
        where |= dict.fromkeys(names[n::CROWDS], mine)
    pipes = dict.fromkeys(where.values())
    addresses = {name: address for pipe in pipes for name, address in pipe.recv().items()}
    say(f"{len(names)} hosts with a TPM each are up")
    return crowds, where, addresses


def anchors(place: Path, names: list[str]) -> Path:
    """Write what the verifiers trust; return where."""
    trust = place / "trust"
    for level in ("certified", "ek"):
        (trust / level).mkdir(parents=True)
    (trust / "certified" / "ca.pem").write_bytes(shared_pki().issuers["certified"].pem)
    for n in range(CROWDS):
        for root in (place / f"c{n}" / names[n] / "trust" / "ek").iterdir():
            shutil.copyfile(root, trust / "ek" / f"{n}-{root.name}")
    return trust


def enrol(
    rest: Rest, cadence: float, where: dict[str, Connection], addresses: dict[str, str]
) -> None:
    for name, pipe in where.items():
        body: dict[str, object] = {"name": name, "cadence": cadence}
        more = {"push": True} if pushes(name) else {"address": addresses[name]}
        told = rest.call("POST", "/hosts", body | more)
        if pushes(name):
            pipe.send(("push", name, told["token"]))
    say("enrolled")
    for name in where:
        while True:
            with suppress(AssertionError):  # its agent has not called yet
                rest.call("POST", f"/hosts/{name}/approve")
                break
            time.sleep(0.5)


def count_states(database: Database) -> dict[str, int]:
    with database.transaction() as step:
        return dict(step.all("SELECT state, count(*) FROM host GROUP BY state"))


class Story:
    """What happens to the fleet in its ten minutes, and whether it was seen."""

    def __init__(
        self,
        options: argparse.Namespace,
        names: list[str],
        where: dict[str, Connection],
        database: Database,
    ) -> None:
        self.options, self.names, self.where, self.database = options, names, where, database
        self.dice = random.Random(options.seed)
        self.tampered: dict[str, tuple[float, str]] = {}
        self.began = self.ended = 0.0
        self.rounds_before: set[int] = set()

    def tell(
        self, server: PostgresServer | None, verifiers: list[Running], place: Path, url: str,
        trust: Path,
    ) -> None:  # fmt: skip
        seconds, cadence = self.options.seconds, self.options.cadence
        victims = self.dice.sample(self.names, max(1, len(self.names) // 10))
        plan: list[tuple[float, str, str]] = [
            (self.dice.uniform(0, seconds - 1.5 * cadence), "tamper", name) for name in victims
        ]
        if server:
            plan += [(0.3 * seconds, "kill", ""), (0.3 * seconds + 60, "replace", ""),
                     (0.6 * seconds, "restart", "")]  # fmt: skip
        self.began = time.time()
        for at, what, name in sorted(plan):
            time.sleep(max(0.0, self.began + at - time.time()))
            if what == "tamper":
                attack = list(ATTACKS)[len(self.tampered) % len(ATTACKS)]
                self.where[name].send((what, name, attack))
                self.tampered[name] = (self.where[name].recv(), attack)
            elif what == "kill":
                self.remember()
                verifiers[1].process.send_signal(signal.SIGKILL)
                verifiers[1].process.wait()
            elif what == "replace":
                verifiers[1] = verifier(place / "v1", url, trust, verifiers[1].port)
            elif server:
                self.remember()
                server.restart()
            say(f"{what} {name} {self.tampered.get(name, ('', ''))[1]}; {self.states()}")
        time.sleep(max(0.0, self.began + seconds - time.time()))
        self.ended = time.time()
        say(f"over; {self.states()}")

    def states(self) -> dict[str, int]:
        return count_states(self.database)

    def remember(self) -> None:
        """Note what stands in the store now: all of it must stand there in the end."""
        with self.database.transaction() as step:
            rows = step.all("SELECT number FROM round WHERE outcome<>'good' OR number/10*10=number")
        self.rounds_before |= {int(row[0]) for row in rows}

    def judge(self, answered: dict[str, int]) -> bool:
        with self.database.transaction() as step:
            rows = step.all(
                "SELECT number, host, time, outcome, state, result FROM round ORDER BY time"
            )
            alarms = step.all("SELECT host, code, sentence FROM alarm")
            lines = audit.check(step)
        by_host: dict[str, list[Any]] = {name: [] for name in self.names}
        for row in rows:
            by_host[row[1]].append(row)
        delays, wrong, named = [], [], 0
        for name, (at, attack) in self.tampered.items():
            bad = next((row for row in by_host[name] if row[3] == "bad"), None)
            if bad is None:
                wrong.append(f"{name} was not found")
                continue
            delays.append(float(bad[2]) - at)
            with self.database.transaction() as step:
                kept = roundstore.latest_round(step, name, bad[0])
            named += kept is not None and attack.encode() in kept.result
        accused = sorted({a[0] for a in alarms if a[0] and a[0] not in self.tampered})
        gaps = [
            max(b - a for a, b in zip(times, [*times[1:], self.ended], strict=True))
            for name in self.names
            if (times := [self.began, *(float(row[2]) for row in by_host[name])])
        ]
        lost = self.rounds_before - {int(row[0]) for row in rows}
        missing = {
            name: (count, len(by_host[name]))
            for name, count in answered.items()
            if len(by_host[name]) < count
        }
        late = [one for one in delays if one > self.options.cadence]
        usual = f"{statistics.median(delays):.1f}, {max(delays):.1f}"
        others = [code.partition(":")[0] for host, code, _ in alarms if not host]
        for what, value in (
            ("hosts; cadence, s", f"{len(self.names)}; {self.options.cadence:g}"),
            ("rounds", len(rows)),
            ("tampered, found, rightly named", f"{len(self.tampered)}, {len(delays)}, {named}"),
            ("found after, s: median, longest", usual),
            ("found later than one cadence", len(late)),
            ("hosts accused wrongly", accused),
            ("alarms about verifiers", others),
            ("longest time between two rounds, s", f"{max(gaps):.1f}"),
            ("the same, median of hosts", f"{statistics.median(gaps):.1f}"),
            ("rounds lost; answered, but not there", f"{len(lost)}; {missing}"),
            ("lines of the audit log, all hold", lines),
        ):
            print(f"{what:40} {value}")
        return not (wrong or accused or lost or missing or late) and named == len(self.tampered)


def main() -> int:
    """Run the story and print what was seen; 1 where something is not as promised."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sqlite", action="store_true", help="one verifier on SQLite")
    parser.add_argument("--hosts", type=int, default=int(os.environ.get("CASEMATE_FLEET", "200")))
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--cadence", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="fleet-"))
    place.chmod(0o755)
    good = run(options, place)
    if good:
        shutil.rmtree(place)
    else:
        print(f"left for a look: {place}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
