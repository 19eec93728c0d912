"""hostd as a process of its own: an inherited socket, the kernel behind its calls socket."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pyVim.connect import Disconnect, SmartConnect
from pyVim.task import WaitForTask
from pyVmomi import vim

from casemate.testing.fakekernel import PASSWORD, USER, FakeKernel
from casemate.testing.fakesocket import serving
from casemate.testing.hostsimulator import write_certificate

pytestmark = pytest.mark.interop

START_LIMIT = 60.0
"""Seconds; on an idle machine it takes about 0.4."""


@dataclass
class Process:
    """The running process and how to reach it."""

    popen: subprocess.Popen[bytes]
    port: int
    log: Path


@pytest.fixture
def kernel_socket(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "calls"
    stop: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
    ready = threading.Event()

    async def run() -> None:
        async with serving(FakeKernel(), path):
            end = asyncio.Event()
            stop.append((asyncio.get_running_loop(), end))
            ready.set()
            await end.wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert ready.wait(60)
    yield path
    loop, end = stop[0]
    loop.call_soon_threadsafe(end.set)
    thread.join(60)


@pytest.fixture
def hostd(tmp_path: Path, kernel_socket: Path) -> Iterator[Process]:
    certificate, key = write_certificate(tmp_path)
    certificate.rename(tmp_path / "rui.crt")
    key.rename(tmp_path / "rui.key")
    log = tmp_path / "hostd.log"
    with socket.create_server(("127.0.0.1", 0)) as listener, log.open("wb") as errors:
        fd = listener.fileno()
        argv = [sys.executable, "-I", "-m", "casemate.hostd", "--socket-fd", str(fd)]
        argv += ["--calls", str(kernel_socket), "--tls", str(tmp_path)]
        popen = subprocess.Popen(argv, pass_fds=[fd], stderr=errors, cwd="/")
        try:
            yield Process(popen, int(listener.getsockname()[1]), log)
        finally:
            popen.kill()
            popen.wait()


def connect(port: int) -> vim.ServiceInstance:
    return SmartConnect(
        host="127.0.0.1", port=port, user=USER, pwd=PASSWORD, disableSslCertValidation=True
    )


def test_hostd_serves_a_client_soon_after_its_start_and_stops_on_term(hostd: Process) -> None:
    begun = time.monotonic()
    # The listening socket exists before the process: the connection waits in it.
    si = connect(hostd.port)
    assert time.monotonic() - begun < START_LIMIT
    vm = si.content.searchIndex.FindByInventoryPath("ha-datacenter/vm/vm1")
    assert WaitForTask(vm.PowerOnVM_Task()) == "success"
    Disconnect(si)
    si._stub.DropConnections()
    hostd.popen.send_signal(signal.SIGTERM)
    assert hostd.popen.wait(60) in {0, -signal.SIGTERM}
    assert b"Traceback" not in hostd.log.read_bytes()


def test_old_tls_is_refused(hostd: Process) -> None:
    si = connect(hostd.port)
    si._stub.DropConnections()
    probe = ["openssl", "s_client", "-connect", f"127.0.0.1:{hostd.port}", "-tls1_1"]
    old = subprocess.run(probe, input=b"", capture_output=True, timeout=60, check=False)
    assert old.returncode != 0
