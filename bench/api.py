"""The vSphere API of a host beside vcsim, in one run: reads, waits, logins, mixed load, memory.

``python bench/api.py [VMS]``. vcsim is built from Debian's govmomi (``bench/vcsim``). Both serve
plain HTTP on the loopback to the same raw client, which sends the same bytes and looks at nothing
but lengths; they take turns. Ours is hostd over the fake kernel, in a process of its own; the
passwords of one account are checked as the kernel does it, by argon2 in another process.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import uvicorn
from argon2 import PasswordHasher

from casemate.calls.messages import Login
from casemate.hostd.app import make_app
from casemate.hostd.http import Protocol
from casemate.hostd.main import KEEP_ALIVE_SECONDS, no_delay
from casemate.kernel.background import yielding
from casemate.kernel.logins import LOGINS_AT_ONCE
from casemate.testing.fakekernel import PASSWORD, READER, USER, FakeKernel

R = TypeVar("R")

SECONDS = 4.0
WAITS = 30
LOGINS = 30
LOAD_SECONDS = 6.0
WHOLE_EVERY, POWER_EVERY, LOGIN_EVERY = 0.2, 0.05, 0.5
"""Seconds between what others do under mixed load: read a summary of all VMs, power, log in."""
GOALS = {"3 properties": 5.0, "summary": 5.0, "config": 5.0}
GOAL_WAIT_MS, GOAL_MIB = 3.0, 80.0

ENVELOPE = (
    '<?xml version="1.0" encoding="UTF-8"?><soapenv:Envelope '
    'xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" '
    'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
    'xmlns:xsd="http://www.w3.org/2001/XMLSchema"><soapenv:Body>{}</soapenv:Body></soapenv:Envelope>'
)
PATHS = {
    "3 properties": ("name", "runtime.powerState", "summary.config.vmPathName"),
    "summary": ("summary",),
    "config": ("config",),
}


class Client:
    """One connection that stays open."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")
        self.cookie = ""

    def call(self, name: str, this: tuple[str, str], inner: str = "") -> bytes:
        """Send one call and return the body of the answer."""
        kind, key = this
        call = f'<{name} xmlns="urn:vim25"><_this type="{kind}">{key}</_this>{inner}</{name}>'
        return self.raw(self.request(call))

    def request(self, call: str) -> bytes:
        """Return the bytes of a request."""
        body = ENVELOPE.format(call).encode()
        head = (
            "POST /sdk HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/xml\r\n"
            f'SOAPAction: "urn:vim25/6.5"\r\nContent-Length: {len(body)}\r\n'
        )
        if self.cookie:
            head += f"Cookie: {self.cookie}\r\n"
        return head.encode() + b"\r\n" + body

    def raw(self, request: bytes) -> bytes:
        """Send bytes and return the body of the answer."""
        self._socket.sendall(request)
        length, chunked = 0, False
        status = self._file.readline()
        while (line := self._file.readline().lower()) not in {b"\r\n", b""}:
            if line.startswith(b"content-length:"):
                length = int(line.split(b":")[1])
            elif line.startswith(b"transfer-encoding:") and b"chunked" in line:
                chunked = True
            elif line.startswith(b"set-cookie:"):
                self.cookie = line.decode().partition(":")[2].partition(";")[0].strip()
        body = self._chunks() if chunked else self._file.read(length)
        if b" 200 " not in status:
            raise RuntimeError(body[-600:].decode(errors="replace"))
        return body

    def _chunks(self) -> bytes:
        pieces = []
        while size := int(self._file.readline(), 16):
            pieces.append(self._file.read(size))
            self._file.readline()
        self._file.readline()
        return b"".join(pieces)

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self._socket.close()


class Peer:
    """A server under test: its process, its address, its credentials."""

    def __init__(self, name: str, command: list[str], user: str, password: str) -> None:
        self.name, self._user, self._password = name, user, password
        begin = time.perf_counter()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().decode().strip()
        self.start_seconds = time.perf_counter() - begin
        self.client = self.connect()
        self.view = self._view()

    def connect(self) -> Client:
        """Return a client that has logged in."""
        client = Client(self.address)
        self.login(client)
        return client

    def login(self, client: Client, user: str = "") -> None:
        """Log in, and out before."""
        manager = ("SessionManager", "ha-sessionmgr")
        if client.cookie:
            client.call("Logout", manager)
        client.cookie = ""
        given = f"<userName>{user or self._user}</userName><password>{self._password}</password>"
        client.call("Login", manager, given)

    def _view(self) -> str:
        made = self.client.call(
            "CreateContainerView",
            ("ViewManager", "ViewManager"),
            '<container type="Folder">ha-folder-root</container><type>VirtualMachine</type>'
            "<recursive>true</recursive>",
        ).decode()
        return re.search(r'type="ContainerView"[^>]*>([^<]+)<', made)[1]

    def spec(self, paths: tuple[str, ...]) -> str:
        """Return the specification of all VMs by way of the view."""
        wanted = "".join(f"<pathSet>{path}</pathSet>" for path in paths)
        return (
            f"<propSet><type>VirtualMachine</type>{wanted}</propSet>"
            f'<objectSet><obj type="ContainerView">{self.view}</obj><skip>true</skip>'
            '<selectSet xsi:type="TraversalSpec"><name>v</name><type>ContainerView</type>'
            "<path>view</path><skip>false</skip></selectSet></objectSet>"
        )

    def reader(self, paths: tuple[str, ...], vms: int) -> Callable[[], None]:
        """Return what reads these properties of all VMs once."""
        collector = '<_this type="PropertyCollector">ha-property-collector</_this>'
        request = self.client.request(
            f'<RetrievePropertiesEx xmlns="urn:vim25">{collector}<specSet>{self.spec(paths)}'
            "</specSet><options/></RetrievePropertiesEx>"
        )
        found = self.client.raw(request).count(b"<objects>")
        assert found == vms, (self.name, found)

        def read() -> None:
            self.client.raw(request)

        return read

    @property
    def memory(self) -> float:
        """Resident memory in MiB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024

    @property
    def cpu(self) -> float:
        """Processor seconds that the server has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def waits(self) -> list[float]:
        """Return milliseconds from sending a change to the waiting client's answer."""
        waiter, changer = self.connect(), self.connect()
        collector = ("PropertyCollector", "ha-property-collector")
        self.view, kept = self._view_of(waiter), self.view
        spec = self.spec(("runtime.powerState",))
        self.view = kept
        partial = "<partialUpdates>true</partialUpdates>"
        waiter.call("CreateFilter", collector, f"<spec>{spec}</spec>{partial}")
        told = waiter.call("WaitForUpdatesEx", collector, "<version></version>").decode()
        key = re.search(r'<obj type="VirtualMachine"[^>]*>([^<]+)<', told)[1]
        first = re.search(r"<val[^>]*>(powered\w+)<", told)[1]
        steps = ("PowerOffVM_Task", "PowerOnVM_Task")
        turns = steps if first == "poweredOn" else steps[::-1]
        times = []
        for number in range(WAITS):
            version = re.findall(r"<version>([^<]+)<", told)[-1]
            answers: list[tuple[float, str]] = []

            def wait(version: str = version, answers: list[tuple[float, str]] = answers) -> None:
                body = waiter.call("WaitForUpdatesEx", collector, f"<version>{version}</version>")
                answers.append((time.perf_counter(), body.decode()))

            thread = threading.Thread(target=wait)
            thread.start()
            time.sleep(0.05)
            begin = time.perf_counter()
            changer.call(turns[number % 2], ("VirtualMachine", key))
            thread.join()
            times.append((answers[0][0] - begin) * 1000)
            told = answers[0][1]
        waiter.close()
        changer.close()
        return times

    def _view_of(self, client: Client) -> str:
        kept, self.client = self.client, client
        try:
            return self._view()
        finally:
            self.client = kept

    def logins(self) -> list[float]:
        """Return milliseconds of one login each."""
        client, times = Client(self.address), []
        for _ in range(LOGINS):
            begin = time.perf_counter()
            self.login(client)
            times.append((time.perf_counter() - begin) * 1000)
            client.call("Logout", ("SessionManager", "ha-sessionmgr"))
            client.cookie = ""
        client.close()
        return times

    def others(self) -> list[tuple[float, Callable[[], object]]]:
        """Return what others do under mixed load, each with the seconds between two of it."""
        reader, changer, comer = self.connect(), self.connect(), self.connect()
        view, kept = self._view_of(reader), self.view
        self.view = view
        whole = reader.request(
            '<RetrievePropertiesEx xmlns="urn:vim25"><_this type="PropertyCollector">'
            f"ha-property-collector</_this><specSet>{self.spec(('summary',))}</specSet><options/>"
            "</RetrievePropertiesEx>"
        )
        self.view = kept
        key, on = self.some_vm()
        steps = [("VirtualMachine", key)] * 2
        turns = itertools.cycle(
            [("PowerOffVM_Task", steps[0]), ("PowerOnVM_Task", steps[1])][:: 1 if on else -1]
        )
        return [
            (WHOLE_EVERY, lambda: reader.raw(whole)),
            (POWER_EVERY, lambda: changer.call(*next(turns))),
            (LOGIN_EVERY, lambda: self.login(comer)),
        ]

    def logging_in(self) -> list[tuple[float, Callable[[], object]]]:
        """Return clients that log in again and again, one after the other."""
        user = READER if self.name == "casemate" else self._user

        def comer() -> Callable[[], object]:
            client = Client(self.address)
            return lambda: self.login(client, user)

        return [(0.0, comer()) for _ in range(LOGINS_AT_ONCE)]

    def some_vm(self) -> tuple[str, bool]:
        """Return a VM and whether it runs."""
        told = self.client.raw(
            self.client.request(
                '<RetrievePropertiesEx xmlns="urn:vim25"><_this type="PropertyCollector">'
                "ha-property-collector</_this><specSet>"
                f"{self.spec(('runtime.powerState',))}</specSet><options/></RetrievePropertiesEx>"
            )
        ).decode()
        key = re.search(r'<obj type="VirtualMachine"[^>]*>([^<]+)<', told)[1]
        return key, re.search(r"<val[^>]*>(powered\w+)<", told)[1] == "poweredOn"

    def small(self) -> list[Callable[[], object]]:
        """Return small calls of a session that is in use."""
        key, _ = self.some_vm()
        paths = "".join(f"<pathSet>{path}</pathSet>" for path in PATHS["3 properties"])
        one = self.client.request(
            '<RetrievePropertiesEx xmlns="urn:vim25"><_this type="PropertyCollector">'
            "ha-property-collector</_this><specSet><propSet><type>VirtualMachine</type>"
            f'{paths}</propSet><objectSet><obj type="VirtualMachine">{key}</obj></objectSet>'
            "</specSet><options/></RetrievePropertiesEx>"
        )
        service = ("ServiceInstance", "ServiceInstance")
        return [lambda: self.client.raw(one), lambda: self.client.call("CurrentTime", service)]

    def stop(self) -> None:
        """End the process."""
        self.client.close()
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process.wait(30)


def rates(peers: list[Peer], readers: list[Callable[[], None]]) -> list[tuple[float, float]]:
    """Return requests a second, and a second of the server's processor; they take turns."""
    counts, spent, worked = [0] * len(peers), [0.0] * len(peers), [0.0] * len(peers)
    while min(spent) < SECONDS:
        for place, read in enumerate(readers):
            begin, before = time.perf_counter(), peers[place].cpu
            while (took := time.perf_counter() - begin) < 0.5:
                read()
                counts[place] += 1
            spent[place] += took
            worked[place] += peers[place].cpu - before
    return [
        (count / took, count / max(work, 0.01))
        for count, took, work in zip(counts, spent, worked, strict=True)
    ]


def delays(
    calls: list[Callable[[], object]], others: list[tuple[float, Callable[[], object]]]
) -> list[float]:
    """Return milliseconds of single calls while others do their part."""
    over = threading.Event()

    def go_on(every: float, step: Callable[[], object]) -> None:
        due = time.perf_counter()
        while not over.is_set():
            step()
            due = max(due + every, time.perf_counter())
            over.wait(due - time.perf_counter())

    threads = [threading.Thread(target=go_on, args=one) for one in others]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    times: list[float] = []
    end = time.perf_counter() + LOAD_SECONDS
    while (begin := time.perf_counter()) < end:
        calls[len(times) % len(calls)]()
        times.append((time.perf_counter() - begin) * 1000)
        time.sleep(0.002)
    over.set()
    for thread in threads:
        thread.join()
    return times


def late(times: list[float]) -> str:
    """Return median and 99th percentile."""
    return f"{statistics.median(times):.1f} and {statistics.quantiles(times, n=100)[98]:.1f} ms"


_HASHER = PasswordHasher()


def check_password(hashed: str) -> bool:
    """Check the password as the kernel does."""
    return _HASHER.verify(hashed, PASSWORD)


class Hashing(FakeKernel):
    """Checks the second account's passwords where the kernel does: in another process."""

    def __init__(self, vms: int) -> None:
        super().__init__(vms=vms, delay=0)
        self._hash = _HASHER.hash(PASSWORD)
        self._turn = asyncio.Semaphore(LOGINS_AT_ONCE)
        context = multiprocessing.get_context("spawn")
        self._workers = ProcessPoolExecutor(LOGINS_AT_ONCE, context, yielding)

    async def ask(self, request: object, kind: type[R]) -> R:
        """See ``KernelLink.ask``."""
        if isinstance(request, Login) and request.user == READER:
            loop = asyncio.get_running_loop()
            async with self._turn:
                await loop.run_in_executor(self._workers, check_password, self._hash)
        return await super().ask(request, kind)

    async def close(self) -> None:
        """See ``KernelLink.close``."""
        self._workers.shutdown()
        await super().close()


def serve(vms: int) -> None:
    """Be our server, until the input ends."""

    async def whole() -> None:
        app = make_app(Hashing(vms), clock=lambda: datetime.now(UTC), ticks=time.monotonic)
        config = uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            loop="asyncio",
            log_config=None,
            access_log=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
        server = uvicorn.Server(config)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            no_delay(listener)
            print(f"127.0.0.1:{listener.getsockname()[1]}", flush=True)
            ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
            ended.add_done_callback(lambda _: setattr(server, "should_exit", True))
            await server.serve(sockets=[listener])

    asyncio.run(whole())


def build(place: Path) -> Path:
    """Build vcsim and return the program."""
    program = place / "vcsim"
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode"}
    environment.setdefault("GOCACHE", str(Path.home() / ".cache" / "go-build"))
    subprocess.run(
        ["go", "build", "-o", str(program), "."],
        cwd=Path(__file__).parent / "vcsim",
        env=environment,
        check=True,
    )
    return program


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["--serve"]:
        serve(int(sys.argv[2]))
        return
    vms = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as directory:
        program = build(Path(directory))
        us = Peer("casemate", [sys.executable, __file__, "--serve", str(vms)], USER, PASSWORD)
        sim = Peer("vcsim", [str(program), "-vms", str(vms)], "user", "pass")
        peers = [us, sim]
        try:
            compare(peers, vms)
        finally:
            for peer in peers:
                peer.stop()


def compare(peers: list[Peer], vms: int) -> None:
    """Print every comparison."""
    for peer in peers:
        print(f"{peer.name}: {vms} VMs served after {peer.start_seconds:.1f} s")
    for what, paths in PATHS.items():
        ours, theirs = rates(peers, [peer.reader(paths, vms) for peer in peers])
        print(
            f"RetrievePropertiesEx, {what}: {ours[0]:.1f}/s, vcsim {theirs[0]:.1f}/s; "
            f"without the client {ours[1]:.1f} and {theirs[1]:.1f} a processor second, "
            f"{ours[1] / theirs[1]:.1f} times (goal {GOALS[what]})"
        )
    mine, other = (statistics.median(peer.waits()) for peer in peers)
    print(f"change to WaitForUpdatesEx: {mine:.1f} ms (goal {GOAL_WAIT_MS}), vcsim {other:.1f} ms")
    mine, other = (statistics.median(peer.logins()) for peer in peers)
    print(f"login without the password's hash: {mine:.2f} ms, vcsim {other:.2f} ms")
    mine, other = (late(delays(peer.small(), peer.others())) for peer in peers)
    print(f"single calls under mixed load, median and p99: {mine}, vcsim {other}")
    quiet, busy = (
        [late(delays(peer.small(), peer.logging_in() if one else [])) for peer in peers]
        for one in (False, True)
    )
    print(f"single calls, nothing else going on: {quiet[0]}, vcsim {quiet[1]}")
    print(
        f"... while others log in, {LOGINS_AT_ONCE} at a time, ours with argon2: {busy[0]}, ",
        end="",
    )
    print(f"vcsim without: {busy[1]}")
    mine, other = (peer.memory for peer in peers)
    print(f"memory: {mine:.0f} MiB (goal {GOAL_MIB:.0f}), vcsim {other:.0f} MiB")


if __name__ == "__main__":
    main()
