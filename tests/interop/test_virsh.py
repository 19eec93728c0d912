"""libvirt's ESX driver, unmodified, against a host over TLS: ``virsh -c esx://``."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import termios
import time
from collections.abc import Iterator

import pytest

from casemate.machine.facts import PowerState
from casemate.testing.fakekernel import PASSWORD, FakeKernel
from casemate.testing.hostsimulator import HostSimulator

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(shutil.which("virsh") is None, reason="no virsh here"),
]
SECONDS = 200.0


def echoes(terminal: int) -> bool:
    return bool(termios.tcgetattr(terminal)[3] & termios.ECHO)


def virsh(host: HostSimulator, *arguments: str) -> str:
    """Run a command; virsh asks for the password on its terminal and nowhere else."""
    uri = f"esx://root@127.0.0.1:{host.port}/?no_verify=1"
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            os.environ["LC_ALL"] = "C"
            os.execvp("virsh", ["virsh", "-c", uri, *arguments])
        finally:
            os._exit(127)
    shown, deadline, asked = b"", time.monotonic() + SECONDS, False
    try:
        while time.monotonic() < deadline:
            if select.select([terminal], [], [], 0.3)[0]:
                try:
                    data = os.read(terminal, 1 << 16)
                except OSError:
                    break
                shown += data
            elif b"assword" in shown and not asked and not echoes(terminal):
                # Only now: what is typed before the echo is off is thrown away.
                os.write(terminal, PASSWORD.encode() + b"\n")
                asked = True
        else:
            os.kill(pid, signal.SIGKILL)
    finally:
        _, status = os.waitpid(pid, 0)
        os.close(terminal)
    text = shown.decode(errors="replace").replace("\r", "")
    assert os.waitstatus_to_exitcode(status) == 0, text
    return text


@pytest.fixture(scope="module")
def host() -> Iterator[HostSimulator]:
    with HostSimulator(FakeKernel(vms=3)).running() as running:
        yield running


def test_virsh_lists_shows_starts_and_stops(host: HostSimulator) -> None:
    listed = virsh(host, "list", "--all")
    assert all(f"vm{number}" in listed for number in (1, 2, 3))
    info = virsh(host, "dominfo", "vm1")
    assert "564d0000-0000-4000-8000-000000000001" in info
    assert "262144 KiB" in info
    virsh(host, "start", "vm1")
    assert host.kernel.vm("1").power is PowerState.POWERED_ON
    assert "running" in virsh(host, "domstate", "vm1")
    virsh(host, "destroy", "vm1")
    assert host.kernel.vm("1").power is PowerState.POWERED_OFF


def test_virsh_takes_a_snapshot_and_names_the_host(host: HostSimulator) -> None:
    virsh(host, "snapshot-create-as", "vm2", "first")
    assert "first" in virsh(host, "snapshot-list", "vm2")
    assert "fake" in virsh(host, "hostname")


def test_virsh_shows_the_virtual_switches_with_their_port_groups(host: HostSimulator) -> None:
    assert "vSwitch0" in virsh(host, "net-list", "--all")
    assert "<portgroup name='VM Network'>" in virsh(host, "net-dumpxml", "vSwitch0")
