"""The auditor knows every process of a host, acts on what it sees twice, and only then."""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Never

import pytest

from casemate.errors import Finding
from casemate.kernel import auditor as a
from casemate.kernel.processes import Process, age, newest, process, processes, read_texts
from casemate.machine import domains
from casemate.machine.planaudit import UID_BASE
from casemate.machine.processplan import APP_UID, HOSTD_UID, TPM_UID

KERNEL = os.getpid()


def identified(uid: int, pid: int = 500, parent: int = 1, *others: Process) -> a.Subject:
    one = Process(pid, parent, uid, 7)
    return a._identify(one, {other.pid: other for other in (one, *others)}, None)


@pytest.mark.parametrize(
    ("subject", "name", "domain"),
    [
        (identified(0, 1, 0), "init", domains.SUPER),
        (identified(0, KERNEL), "kernel", domains.SUPER),
        (identified(0, 500, KERNEL), "starting", domains.SUPER),
        (identified(0, 501, 500, Process(500, KERNEL, 0, 7)), "starting", domains.SUPER),
        (identified(HOSTD_UID), "hostd", domains.HOSTD),
        (identified(TPM_UID), "swtpm", domains.TPM),
        (identified(APP_UID), "app", domains.APP),
        (identified(UID_BASE + 5), "starting VM", domains.VM),
        (identified(0, 500, 0), "process 500", None),
        (identified(0, 501, 500, Process(500, 1, 1000, 7)), "process 501", None),
        (identified(1000), "process 500", None),
    ],
)
def test_each_process_is_known_by_who_it_is_and_who_started_it(subject, name, domain):
    assert (subject.name, subject.domain) == (name, domain)


class Watched(a.Auditor):
    """An auditor whose eyes are told what to see, and whose hands only note."""

    def __init__(self, subject: a.Subject, *seen: tuple[Finding, ...]) -> None:
        self.measured: list[str] = []
        self.stopped: list[str] = []
        super().__init__(lambda: (), self.note_measured, self.note_stopped)
        self._subject, self._seen = subject, list(seen)

    async def note_measured(self, text: str) -> None:
        self.measured.append(text)

    async def note_stopped(self, vm: str) -> None:
        self.stopped.append(vm)

    def subjects(self) -> tuple[a.Subject, ...]:
        return (self._subject,)

    def _findings(self, subject: a.Subject) -> tuple[Finding, ...]:
        assert subject is self._subject
        return self._seen.pop(0) if self._seen else ()

    def look_at(self) -> None:
        for subject, found in self._suspects(self.subjects()):
            asyncio.run(self._confirm(subject, found))


CELL = a.Subject(Process(500, 1, UID_BASE, 7), "VM 1", domains.VM, "1")
BAD = Finding("process-alias", "VM 1", "code was written", "end it")
OTHER = Finding("process-identity", "VM 1", "another user", "end it")


def test_what_is_seen_once_was_a_start():
    watched = Watched(CELL, (BAD,), ())
    watched.look_at()
    assert (watched.findings(), watched.measured, watched.stopped) == ((), [], [])


def test_what_is_seen_twice_is_measured_once_and_ended_until_it_is_gone():
    watched = Watched(CELL, (BAD,), (BAD, OTHER), (BAD,), (BAD,))
    watched.look_at()
    watched.look_at()
    assert watched.findings() == (BAD,)
    assert watched.measured == ["hardeningViolation = process-alias VM 1: code was written"]
    assert watched.stopped == ["1", "1"]


class Puzzled(a.Auditor):
    """An auditor that cannot make sense of what a process shows."""

    def __init__(self) -> None:
        super().__init__(lambda: (), self.ignore, self.ignore)

    async def ignore(self, _: str) -> None: ...

    def audit(self, subject: a.Subject) -> None:
        raise ValueError(subject.name)


def test_a_process_that_shows_nonsense_ends_no_audit_and_is_not_taken_for_good():
    ((subject, (found,)),) = Puzzled()._suspects([CELL])
    assert (subject, found.code) == (CELL, "process-unjudged")


def test_a_domain_that_only_warns_is_left_running():
    init = a.Subject(Process(1, 0, 0, 7), "init", domains.SUPER)
    watched = Watched(init, (BAD,), (BAD,))
    watched.look_at()
    assert len(watched.measured) == 1
    assert watched.stopped == []


def test_a_measured_violation_has_a_bounded_length():
    text = a.option_text(Finding("process-alias", "VM 1", "x" * 9999, ""))
    assert len(text) <= 300


def test_a_process_that_is_started_has_a_number_that_was_not_the_newest_before():
    before = newest()
    with subprocess.Popen(["/bin/true"]) as child:
        assert newest() != before
        assert child.wait() == 0


def test_a_process_that_is_started_is_judged_before_all_others_are_again(monkeypatch):
    monkeypatch.setattr(a, "EVERY_SECONDS", 3600.0)
    monkeypatch.setattr(a, "NEW_SECONDS", 0.01)
    auditor = Watched(CELL)
    auditor.subjects = lambda: tuple(
        a.Subject(one, "one", domains.VM) for one in processes() if one.parent == os.getpid()
    )

    async def story() -> None:
        judged: asyncio.Queue[list[int]] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def judge(fresh: Iterable[a.Subject]) -> list[Never]:
            loop.call_soon_threadsafe(judged.put_nowait, [one.process.pid for one in fresh])
            return []

        auditor._suspects = judge
        watching = asyncio.create_task(auditor.run())
        try:
            async with asyncio.timeout(60):
                await judged.get()
                child = await asyncio.create_subprocess_exec("/bin/sleep", "999")
                try:
                    while child.pid not in await judged.get():
                        pass
                finally:
                    child.kill()
                    await child.wait()
        finally:
            watching.cancel()

    asyncio.run(story())


def test_processes_are_read_and_those_that_ended_are_not_there():
    child = subprocess.Popen(["/bin/sleep", "999"])
    try:
        found = process(child.pid)
        assert found is not None
        assert (found.parent, found.uid) == (os.getpid(), os.getuid())
        assert 0 <= age(found) < 600
        assert child.pid in {one.pid for one in processes()}
    finally:
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process(child.pid) is None
    child.wait()


def test_a_process_that_is_about_to_begin_its_program_is_judged_afterwards(monkeypatch):
    child = subprocess.Popen(["/bin/sleep", "999"])
    try:
        seen = process(child.pid)
        assert seen is not None
        shown = replace(read_texts(child.pid), auxv=bytes(64))
        monkeypatch.setattr(a, "read_texts", lambda _pid: shown)
        auditor = a.Auditor(lambda: (), no_measure, no_stop)
        subject = a.Subject(seen, "x", domains.APP)
        assert auditor.audit(subject) is None
        monkeypatch.setattr(a, "age", lambda _process: a.BEGIN_SECONDS)
        report = auditor.audit(subject)
        assert report is not None
        assert "process-random-addresses" in {finding.code for finding in report.findings}
    finally:
        child.kill()
        child.wait()


def test_a_process_that_is_started_to_be_measured_is_no_intruder():
    child = subprocess.Popen(["/bin/sleep", "999"])
    try:
        auditor = a.Auditor(lambda: (), no_measure, no_stop)
        assert child.pid in {one.process.pid for one in auditor.subjects()}
        auditor.probes.add(child.pid)
        assert child.pid not in {one.process.pid for one in auditor.subjects()}
    finally:
        child.kill()
        child.wait()


def test_a_layer_is_known_by_the_device_that_lists_of_mappings_show(tmp_path):
    """One file of the layer is enough; a layer without code is nobody's."""
    code = tmp_path / "layer/opt/vendor/tool"
    code.parent.mkdir(parents=True)
    code.write_bytes(b"x")
    (tmp_path / "data/usr/share").mkdir(parents=True)
    (tmp_path / "data/usr/share/file").write_bytes(b"x")
    with code.open("rb") as file, contextlib.closing(mmap.mmap(file.fileno(), 1, prot=1)):
        lines = Path("/proc/self/maps").read_text().splitlines()
    (shown,) = {line.split()[3] for line in lines if line.endswith(str(code))}
    assert a.code_devices([tmp_path / "layer"], ()) == {shown}
    assert a.code_devices([tmp_path / "data"], ()) == set()


async def no_measure(_text: str) -> None:
    raise AssertionError


async def no_stop(_vm: str) -> None:
    raise AssertionError
