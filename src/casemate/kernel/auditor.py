"""Watches every process of the host while it runs: on its start, and again and again.

A violation that is seen twice in a row is true: it is logged, measured (so that a verifier learns
of it from the TPM, whatever the host says afterwards), shown in the status, and in an enforcing
domain the process is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import stat
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from casemate.errors import CasemateError, Finding
from casemate.kernel.boot.visor import LAYERS
from casemate.kernel.cells.manager import CellState
from casemate.kernel.layers import LIVE
from casemate.kernel.processes import Process, age, namespaces, newest, processes, read_texts
from casemate.kernel.roots import VISOR, visor_root
from casemate.kernel.sys import spawn
from casemate.kernel.sys.views import view_of
from casemate.machine import domains
from casemate.machine.domains import Domain, Enforcement, Wall
from casemate.machine.planaudit import TPM_UID_END, UID_BASE, UID_END
from casemate.machine.planvtpm import TPM_UID_OFFSET
from casemate.machine.processplan import (
    APP_UID,
    CONSOLE_UID,
    DHCP_UID,
    HOSTD_UID,
    PLUGIN_UID,
    TPM_UID,
)
from casemate.policy.processaudit import VIOLATION, Expected, ProcessReport, audit_process

EVERY_SECONDS: Final = 5.0
"""Between two looks at all processes: a look takes about a millisecond a process."""
NEW_SECONDS: Final = 0.5
"""Between two looks for processes that were started."""
BEGIN_SECONDS: Final = 30.0
"""Within which a new process has begun its program, however busy the machine is: amid that Linux
shows its memory and not yet where it begins."""
AGAIN_SECONDS: Final = 0.05
"""Until a violation is looked at again: a process that is just being started has none by then."""
CODE_PLACES: Final = (
    *("/usr/bin", "/usr/lib/x86_64-linux-gnu", "/usr/lib/python3*"),
    *("/opt", "/usr/lib/vmware"),
)
"""Where payloads of all levels bring programs and libraries."""
_TEXT: Final = 300  # characters of a measured violation
_APART: Final = {Wall.MOUNTS: "mnt", Wall.PROCESSES: "pid", Wall.NETWORK: "net"}
_INIT: Final = 1
_SERVICES: Final = {
    HOSTD_UID: ("hostd", domains.HOSTD),
    CONSOLE_UID: ("console", domains.CONSOLE),
    DHCP_UID: ("dhcp", domains.DHCP),
    TPM_UID: ("swtpm", domains.TPM),
    APP_UID: ("app", domains.APP),
    PLUGIN_UID: ("plug-in", domains.PLUGIN),
}
# A guest's TPM has all the walls of its VM, and ends with it.
_GUEST_TPM: Final = replace(domains.VM, name=domains.TPM.name, dual_mapped=frozenset())
_log = logging.getLogger("auditor")


@dataclass(frozen=True, slots=True)
class Subject:
    """A process and what it is; ``vm`` is the id of the VM of a cell."""

    process: Process
    name: str
    domain: Domain | None
    vm: str = ""


def code_layers() -> tuple[Path, ...]:
    """Return the layers of the visor root, those of VIBs installed live too; "/" without any."""
    found = (path for place in (LAYERS, LIVE) if place.is_dir() for path in place.iterdir())
    return tuple(found) or (VISOR,)


def code_devices(layers: Iterable[Path], roots: Iterable[Path] = (VISOR,)) -> frozenset[str]:
    """Return the devices of programs and libraries, as lists of mappings show them.

    Linux before 6.8 shows the device of a file's own layer there, so one file of each layer with
    code is mapped and looked at; later ones show that of the joined root.
    """
    found = {_device(root.stat().st_dev) for root in roots}
    for layer in layers:
        path = _any_code(layer)
        if path is not None:
            with contextlib.suppress(OSError):
                found |= _mapped_devices(path)
    return frozenset(found)


def _any_code(layer: Path) -> Path | None:
    """Return a file in a place of code; None where the layer has none."""
    for pattern in CODE_PLACES:
        for place in layer.glob(pattern.lstrip("/")):
            for above, _, names in os.walk(place):
                for name in names:
                    path = Path(above, name)
                    status = path.lstat()
                    if stat.S_ISREG(status.st_mode) and status.st_size:
                        return path
    return None


def _mapped_devices(path: Path) -> set[str]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        view = view_of(descriptor)
        maps = Path("/proc/self/maps").read_text()
        del view
        return set(re.findall(rf" (\S+) \d+ +{re.escape(str(path))}", maps))
    finally:
        os.close(descriptor)


def _device(number: int) -> str:
    return f"{os.major(number):02x}:{os.minor(number):02x}"


class Auditor:
    """Looks, and acts on what it sees.

    Args:
        cells: the running cells.
        measure: extends a security option.
        stop: powers a VM off.
    """

    def __init__(
        self,
        cells: Callable[[], Iterable[CellState]],
        measure: Callable[[str], Awaitable[None]],
        stop: Callable[[str], Awaitable[None]],
    ) -> None:
        self._cells = cells
        self._measure = measure
        self._stop = stop
        self._devices: frozenset[str] = frozenset()
        self.extend()
        self._host = namespaces("self")
        self._violations: dict[tuple[int, int, str], Finding] = {}
        self._checks: list[Callable[[], tuple[Finding, ...]]] = []
        self.probes: set[int] = set()
        """Processes that are started only to measure their addresses, and end in milliseconds."""

    def extend(self) -> None:
        """Accept programs of VIBs installed live as well."""
        self._devices |= code_devices(code_layers(), (VISOR, visor_root()))

    def also(self, check: Callable[[], tuple[Finding, ...]]) -> None:
        """Ask this, too, at every look at everything: it tells of no process, and ends none."""
        self._checks.append(check)

    def findings(self) -> tuple[Finding, ...]:
        """Return every violation since the kernel started."""
        return tuple(self._violations.values())

    def subjects(self) -> tuple[Subject, ...]:
        """Return all processes of the host and what they are."""
        present = {one.pid: one for one in processes()}
        by_pid = {state.pid: state for state in self._cells()}
        by_uid = {state.uid: state for state in by_pid.values()}
        found = []
        for one in present.values():
            if one.pid in self.probes:
                continue
            above = one.uid - TPM_UID_OFFSET
            state = by_pid.get(one.pid) or by_uid.get(one.uid) or by_uid.get(above)
            found.append(_identify(one, present, state))
        return tuple(found)

    def audit(self, subject: Subject) -> ProcessReport | None:
        """Judge one process; None when it is gone, or only about to begin its program.

        Raises:
            CasemateError: it cannot be judged.
        """
        texts = read_texts(subject.process.pid)
        if texts is None or subject.domain is None:
            return None
        if not any(texts.auxv) and age(subject.process) < BEGIN_SECONDS:
            return None
        return audit_process(texts, self._expected(subject, subject.domain))

    def look(self) -> tuple[ProcessReport, ...]:
        """Judge every process once."""
        reports = (self.audit(subject) for subject in self.subjects() if subject.domain)
        return tuple(report for report in reports if report is not None)

    async def run(self) -> None:
        """Watch until cancelled."""
        known: set[tuple[int, int]] = set()
        due, seen = 0.0, ""
        loop = asyncio.get_running_loop()
        while True:
            everything, last = loop.time() >= due, newest()
            if everything:
                due = loop.time() + EVERY_SECONDS
            if everything or last != seen:
                known = await self._watch(known, everything=everything)
            seen = last
            await asyncio.sleep(NEW_SECONDS)

    async def _watch(
        self, known: set[tuple[int, int]], *, everything: bool
    ) -> set[tuple[int, int]]:
        """Judge what is new, or everything; return what is known now."""
        subjects = await asyncio.to_thread(self.subjects)
        fresh = [s for s in subjects if everything or _key(s) not in known]
        for subject, found in await asyncio.to_thread(self._suspects, fresh):
            await self._confirm(subject, found)
        for check in self._checks if everything else ():
            if await asyncio.to_thread(check):
                await self._confirm_check(check)
        return {_key(subject) for subject in subjects}

    async def _confirm_check(self, check: Callable[[], tuple[Finding, ...]]) -> None:
        await asyncio.sleep(AGAIN_SECONDS)
        for finding in await asyncio.to_thread(check):
            await self._tell((0, 0, f"{finding.code} {finding.component}"), finding)

    async def _tell(self, key: tuple[int, int, str], finding: Finding) -> None:
        """Log and measure a violation, once."""
        if key in self._violations:
            return
        self._violations[key] = finding
        _log.error("%s %s: %s", finding.code, finding.component, finding.reason)
        try:
            await self._measure(option_text(finding))
        except CasemateError as error:
            _log.error("the violation was not measured: %s", error.reason)

    def _suspects(self, subjects: Iterable[Subject]) -> list[tuple[Subject, tuple[Finding, ...]]]:
        pairs = ((subject, self._findings(subject)) for subject in subjects)
        return [(subject, found) for subject, found in pairs if found]

    def _findings(self, subject: Subject) -> tuple[Finding, ...]:
        if subject.domain is None:
            # Threads of Linux itself have no memory of their own.
            if read_texts(subject.process.pid) is None:
                return ()
            return (
                Finding(
                    "process-unknown",
                    subject.name,
                    f"A process of uid {subject.process.uid} is none that this host starts.",
                    "End it; find out who started it.",
                ),
            )
        try:
            report = self.audit(subject)
        except CasemateError as error:
            return (error.finding(),)
        except Exception:  # noqa: BLE001  (whatever one shows of itself, the others are audited)
            _log.exception("%s cannot be judged", subject.name)
            return (
                Finding(
                    "process-unjudged",
                    subject.name,
                    "What Linux shows of this process cannot be read.",
                    "Find out what runs in it.",
                ),
            )
        return report.findings if report else ()

    async def _confirm(self, subject: Subject, first: tuple[Finding, ...]) -> None:
        await asyncio.sleep(AGAIN_SECONDS)
        pid, began = _key(subject)
        again = next((s for s in self.subjects() if _key(s) == (pid, began)), None)
        if again is None:
            return
        codes = {finding.code for finding in first}
        confirmed = [f for f in self._findings(again) if f.code in codes]
        for finding in confirmed:
            await self._tell((pid, began, finding.code), finding)
        if confirmed:
            # Told once, ended as often as it takes.
            await self._enforce(again)

    async def _enforce(self, subject: Subject) -> None:
        if subject.domain and subject.domain.enforcement is not Enforcement.ENFORCING:
            return
        _log.error("ending %s (process %d)", subject.name, subject.process.pid)
        try:
            if subject.vm:
                await self._stop(subject.vm)
            else:
                _kill(subject.process)
        except CasemateError as error:
            _log.error("%s was not ended: %s", subject.name, error.reason)

    def _expected(self, subject: Subject, domain: Domain) -> Expected:
        return Expected(
            name=subject.name,
            domain=domain.name,
            uid=subject.process.uid if Wall.IDENTITY in domain.walls else None,
            devices=self._devices if Wall.VISOR_ROOT in domain.walls else frozenset(),
            dual_mapped=domain.dual_mapped,
            apart=frozenset(_APART[wall] for wall in domain.walls if wall in _APART),
            host=self._host,
        )


def option_text(finding: Finding) -> str:
    """Return a violation as the security option that is measured."""
    return f"{VIOLATION} = {finding.code} {finding.component}: {finding.reason}"[:_TEXT]


def _identify(one: Process, present: dict[int, Process], cell: CellState | None) -> Subject:
    if one.uid in _SERVICES:
        return Subject(one, *_SERVICES[one.uid])
    if UID_BASE <= one.uid < UID_END:
        vm = cell.vm if cell else ""
        return Subject(one, f"VM {vm}" if vm else "starting VM", domains.VM, vm)
    if UID_END <= one.uid < TPM_UID_END:
        vm = cell.vm if cell else ""
        return Subject(one, f"TPM of VM {vm}" if vm else "starting TPM", _GUEST_TPM, vm)
    if one.uid == 0 and one.pid in (_INIT, os.getpid()):
        return Subject(one, "init" if one.pid == _INIT else "kernel", domains.SUPER)
    if one.uid == 0 and _descends(one, present):
        return Subject(one, "starting", domains.SUPER)
    return Subject(one, f"process {one.pid}", None)


def _descends(one: Process, present: dict[int, Process]) -> bool:
    """Tell whether a root process was forked by init or by the kernel, however far up."""
    for _ in range(8):
        if one.parent in (_INIT, os.getpid()):
            return True
        above = present.get(one.parent)
        if above is None or above.uid != 0:
            return False
        one = above
    return False


def _key(subject: Subject) -> tuple[int, int]:
    return subject.process.pid, subject.process.began


def _kill(one: Process) -> None:
    pidfd = spawn.open_process(one.pid)
    try:
        spawn.kill(pidfd)
    finally:
        os.close(pidfd)
