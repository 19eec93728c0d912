"""SIGKILL anything at any moment: `casemate down` leaves nothing, `casemate up` works again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable

import pytest
from tests.host.conftest import COMMAND, TestHost, descendants, left_behind

pytestmark = [pytest.mark.host, pytest.mark.timeout(600)]

KERNEL = "kernel.enter kernel"
HOSTD = "kernel.enter hostd"


def until(true: Callable[[], bool], seconds: float = 100) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.1)


def answers(host: TestHost) -> bool:
    status, told = host.casemate("status")
    return status == 0 and told["state"] == "running"


@pytest.mark.parametrize("victim", [KERNEL, HOSTD, "swtpm", "casemate.kernel.start"])
def test_after_a_kill_down_leaves_nothing_and_up_works_again(host: TestHost, victim: str) -> None:
    host.up("--no-demo")
    os.kill(host.child(victim), signal.SIGKILL)
    time.sleep(0.3)
    assert host.casemate("down", "--force")[0] == 0
    until(lambda: left_behind(host.home) == [])
    assert host.up("--no-demo")["attestation"] == "trusted"


def test_a_killed_kernel_comes_back_and_the_same_boot_is_still_trusted(host: TestHost) -> None:
    host.up("--no-demo")
    before = host.child(KERNEL)
    os.kill(before, signal.SIGKILL)
    until(lambda: any(KERNEL in w and p != before for p, w in descendants(host.first_process)))
    until(lambda: answers(host))
    until(lambda: host.attest()[0] == 0)


def test_a_killed_hostd_comes_back_on_the_same_port(host: TestHost) -> None:
    host.up("--no-demo")
    os.kill(host.child(HOSTD), signal.SIGKILL)
    until(lambda: host.attest()[0] == 0)


def test_a_killed_tpm_is_told_and_proves_nothing_any_more(host: TestHost) -> None:
    host.up("--no-demo")
    tpm = host.child("swtpm")
    os.kill(tpm, signal.SIGKILL)
    until(lambda: all(pid != tpm for pid, _ in descendants(host.first_process)))
    status, verdict = host.attest()
    assert status == 2
    assert "verdict" not in verdict or verdict["verdict"] == "undecided"
    assert "TPM" in host.casemate("status")[1]["attestation"]


@pytest.mark.parametrize("seed", range(6))
def test_up_killed_at_any_moment_leaves_nothing_after_down(host: TestHost, seed: int) -> None:
    chance = random.Random(seed)
    with subprocess.Popen(
        [str(COMMAND), "--home", str(host.home), "up", "--port", "0", "--no-demo", "--json"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as up:
        time.sleep(chance.uniform(0.3, 3.0))
        up.kill()
    host.casemate("down", "--force")
    until(lambda: left_behind(host.home) == [])
    assert host.up("--no-demo")["attestation"] == "trusted"


@pytest.mark.guest
def test_a_vm_outlives_kernel_and_hostd_and_its_own_kill_is_noticed(host: TestHost) -> None:
    assert host.up()["attestation"] == "trusted"
    (vm,) = host.casemate("status")[1]["vms"]
    assert vm["power"] == "poweredOn"
    qemu = host.child("qemu-system")
    for victim in (KERNEL, HOSTD):
        os.kill(host.child(victim), signal.SIGKILL)
    until(lambda: answers(host))
    (again,) = host.casemate("status")[1]["vms"]
    assert (again["pid"], again["power"]) == (vm["pid"], "poweredOn")
    assert host.child("qemu-system") == qemu
    os.kill(qemu, signal.SIGKILL)
    until(lambda: host.casemate("status")[1]["vms"][0]["power"] == "poweredOff")
    assert host.casemate("vm", "on", vm["name"])[0] == 0
    assert host.casemate("vm", "off", vm["name"])[0] == 0


def test_two_ups_at_once_make_one_host(host: TestHost) -> None:
    arguments = [str(COMMAND), "--home", str(host.home), "up", "--port", "0", "--no-demo", "--json"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with (
        subprocess.Popen(arguments, **pipes) as first,
        subprocess.Popen(arguments, **pipes) as other,
    ):  # type: ignore[call-overload]
        told = sorted([first.communicate()[0], other.communicate()[0]], key=len)
        ended = sorted([first.returncode, other.returncode])
    # The second one comes in the way of the first, or finds its work done.
    assert ended in ([0, 2], [0, 0])
    assert ended == [0, 0] or "at work already" in told[0]
    assert sum(KERNEL in words for _, words in descendants(host.first_process)) == 1
    assert host.casemate("up", "--port", "0", "--no-demo")[0] == 0
