"""What a process can no longer do behind its call filter and its rules about files."""

from __future__ import annotations

import json
import mmap
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from casemate.errors import HostError
from casemate.kernel import confine
from casemate.kernel.sys import landlock, seccomp
from casemate.kernel.sys.process import no_new_privileges
from casemate.kernel.sys.spawn import Program, call_in_child, kill, wait_gone
from casemate.machine.callfilters import FRONT_END, PRIVILEGED, CallFilter
from casemate.machine.processplan import APP, HOSTD, PLUGIN, FileRule, ProcessPlan

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("root_only")]


def behind(wall: Callable[[], object], **attempts: Callable[[], object]) -> dict[str, str]:
    """Put up a wall in a child, and tell how each attempt fares there."""

    def body() -> bytes:
        no_new_privileges()
        wall()
        fared = {}
        for name, attempt in attempts.items():
            try:
                attempt()
                fared[name] = "done"
            except OSError as error:
                fared[name] = os.strerror(error.errno or 0)
        return json.dumps(fared).encode()

    return dict(json.loads(call_in_child(body, what="walls", timeout=100)))


def start_thread() -> None:
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()


def test_the_front_end_makes_threads_but_no_processes_and_no_code():
    fared = behind(
        lambda: seccomp.apply(FRONT_END),
        thread=start_thread,
        fork=os.fork,
        run=lambda: os.execv("/usr/bin/true", ["true"]),
        both=lambda: mmap.mmap(-1, 4096, prot=7),
        library=lambda: mmap.mmap(-1, 4096, prot=5),
        become=lambda: os.setresuid(1, 1, 1),
        memory_file=lambda: os.memfd_create("x"),
        network=lambda: socket.socket().close(),
    )
    assert {name for name, how in fared.items() if how == "done"} == {
        "thread",
        "library",
        "network",
    }


def test_the_privileged_filter_refuses_writable_code_whatever_mdwe_does():
    fared = behind(
        lambda: seccomp.apply(PRIVILEGED),
        both=lambda: mmap.mmap(-1, 4096, prot=7),
        data=lambda: mmap.mmap(-1, 4096, prot=3),
        fork=lambda: os.fork() or os._exit(0),
    )
    assert fared == {"both": "Operation not permitted", "data": "done", "fork": "done"}


def test_files_outside_of_the_rules_are_out_of_reach(tmp_path):
    if not landlock.version():
        pytest.skip("this Linux kernel has no Landlock")
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for place in (inside, outside):
        place.mkdir()
        (place / "file").write_text("x")
    rules = [(str(inside), landlock.READ), ("/usr", landlock.RUN), ("/absent", landlock.READ)]
    fared = behind(
        lambda: landlock.restrict(rules),
        read=(inside / "file").read_text,
        write=lambda: (inside / "file").write_text("y"),
        make=(inside / "new").touch,
        other=(outside / "file").read_text,
        listing=lambda: list(outside.iterdir()),
        connect=lambda: socket.create_connection(("127.0.0.1", 9)),
    )
    assert fared.pop("read") == "done"
    assert set(fared.values()) == {"Permission denied"}


@pytest.mark.parametrize(
    "plan",
    [
        ProcessPlan("x", APP.domain, APP.walls, uid=0, calls=PRIVILEGED),
        ProcessPlan("x", APP.domain, APP.walls, uid=APP.uid, calls=CallFilter(refused=())),
        ProcessPlan("x", HOSTD.domain, APP.walls, uid=HOSTD.uid, files=(FileRule("/"),)),
    ],
)
def test_a_plan_that_lacks_something_is_not_carried_out(plan):
    with pytest.raises(HostError) as caught:
        confine.enter(plan)
    assert caught.value.code == "plan-process"


@pytest.mark.parametrize("plan", [HOSTD, PLUGIN], ids=lambda plan: plan.name)
def test_a_service_fills_no_disk_and_locks_no_memory(plan: ProcessPlan) -> None:
    child = confine.start(plan, Program(("/usr/bin/sleep", "60")))
    try:
        lines = Path(f"/proc/{child.pid}/limits").read_text().splitlines()
    finally:
        kill(child.pidfd)
        assert wait_gone(child.pidfd, 60)
        os.close(child.pidfd)
        os.waitpid(child.pid, 0)
    limits = {line[:26].strip(): line[26:].split()[:2] for line in lines}
    assert limits["Max file size"] == [str(64 << 20)] * 2
    for name in ("Max locked memory", "Max msgqueue size", "Max realtime priority"):
        assert limits[name] == ["0", "0"], name
    assert limits["Max open files"] == [str(plan.open_files)] * 2
