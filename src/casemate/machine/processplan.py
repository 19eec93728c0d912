"""How each process of a host is confined, as values; the cells of VMs have ``machine.cellplan``.

The kernel refuses to carry out a plan that lacks a wall of its domain, so no process can be
started that is less confined than its domain promises.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from casemate.errors import Finding
from casemate.machine import domains
from casemate.machine.callfilters import FRONT_END, LISTENER, NEVER, PRIVILEGED, CallFilter
from casemate.machine.callfilters import PLUGIN as PLUGIN_CALLS
from casemate.machine.domains import Domain, Wall

HOSTD_UID: Final = 64000
"""uid and gid of hostd; written into the visor root's /etc/passwd by the image."""
TPM_UID: Final = 64001
"""uid and gid of the embedded TPM's process."""
APP_UID: Final = 64002
"""uid and gid of short-lived programs that the kernel runs."""
CONSOLE_UID: Final = 64003
"""uid and gid of the direct console on a machine of its own."""
PLUGIN_UID: Final = 64004
"""uid and gid of the processes in which plug-ins of the kernel run."""
DHCP_UID: Final = 64005
"""uid and gid of the servers that give guests their addresses."""
TERMINALS: Final = ("tty1", "ttyS0")
"""Device names of a machine's terminals: screen and first serial line."""
SERVICE_UIDS: Final = range(64000, 64016)
LOG_BYTES: Final = 64 << 20
"""What a service may write to one file: its log alone, which is turned at a quarter of that."""
PLACE: Final = "/var/lib/casemate"
"""Where the home appears inside the visor root."""


@dataclass(frozen=True, slots=True)
class FileRule:
    """What Landlock allows below a path: reading, and perhaps running or changing."""

    path: str
    run: bool = False
    change: bool = False


@dataclass(frozen=True, slots=True)
class ProcessPlan:
    """One process. ``module`` is what the interpreter of the image runs; empty for programs.

    ``uid`` None keeps root. ``calls`` None means that the program filters its own system calls;
    ``own_filter`` then names the option by which it does.
    """

    name: str
    domain: Domain
    walls: frozenset[Wall]
    module: str = ""
    uid: int | None = None
    calls: CallFilter | None = None
    own_filter: str = ""
    files: tuple[FileRule, ...] = ()
    open_files: int = 0
    core_bytes: int = 0
    memory: int = 0
    """Bytes of addresses that it may use at most; 0: no limit of its own."""
    processor_seconds: int = 0
    """Of a processor's time, after which Linux ends it; 0: no limit."""
    file_bytes: int = 0
    """Up to which it may write to any file; 0: no limit."""


INIT: Final = ProcessPlan(
    "init", domains.SUPER, domains.SUPER.walls, "casemate.kernel.start", calls=PRIVILEGED
)
KERNEL: Final = ProcessPlan(
    "kernel", domains.SUPER, domains.SUPER.walls, "casemate.kernel", calls=PRIVILEGED
)
HOSTD: Final = ProcessPlan(
    "hostd",
    domains.HOSTD,
    domains.HOSTD.walls,
    "casemate.hostd",
    uid=HOSTD_UID,
    calls=FRONT_END,
    files=(
        FileRule("/usr"),
        FileRule("/etc"),
        FileRule("/dev/null", change=True),
        FileRule("/dev/urandom"),
        FileRule(f"{PLACE}/run/calls"),
        FileRule(f"{PLACE}/state/tls"),
    ),
    open_files=8192,
    file_bytes=LOG_BYTES,
)
CONSOLE: Final = ProcessPlan(
    "console",
    domains.CONSOLE,
    domains.CONSOLE.walls,
    "casemate.console",
    uid=CONSOLE_UID,
    calls=FRONT_END,
    files=(
        FileRule("/usr"),
        FileRule("/etc"),
        FileRule("/dev/null", change=True),
        FileRule("/dev/urandom"),
        *(FileRule(f"/dev/{name}", change=True) for name in TERMINALS),
        FileRule(f"{PLACE}/run/calls"),
        FileRule(f"{PLACE}/run/console", change=True),
        FileRule(f"{PLACE}/state/tls"),
    ),
    open_files=64,
    file_bytes=LOG_BYTES,
)
DHCP: Final = ProcessPlan(
    "dhcp",
    domains.DHCP,
    domains.DHCP.walls,
    "casemate.kernel.dhcpd",
    uid=DHCP_UID,
    calls=LISTENER,
    files=(FileRule("/usr"), FileRule("/etc"), FileRule("/dev/null", change=True)),
    open_files=16,
    file_bytes=LOG_BYTES,
)
APP: Final = ProcessPlan(
    "app", domains.APP, domains.APP.walls, uid=APP_UID, calls=PRIVILEGED, open_files=256
)
PLUGIN: Final = ProcessPlan(
    "plugin",
    domains.PLUGIN,
    domains.PLUGIN.walls,
    "casemate.kernel.plugins.process",
    uid=PLUGIN_UID,
    calls=PLUGIN_CALLS,
    files=(
        FileRule("/usr"),
        FileRule("/etc"),
        FileRule("/dev/null", change=True),
        FileRule("/dev/urandom"),
    ),
    open_files=256,
    memory=1 << 30,
    processor_seconds=3600,
    file_bytes=LOG_BYTES,
)

PLANS: Final = (INIT, KERNEL, HOSTD, CONSOLE, DHCP, APP, PLUGIN)


def swtpm_plan(state: str, sockets: str) -> ProcessPlan:
    """Return the plan of the embedded TPM: it changes two directories and reads its libraries."""
    return ProcessPlan(
        "swtpm",
        domains.TPM,
        domains.TPM.walls,
        uid=TPM_UID,
        own_filter="--seccomp",
        files=(
            *(FileRule(path, run=True) for path in ("/usr", "/lib", "/lib64")),
            *(FileRule(path) for path in ("/etc", "/proc", "/dev/urandom", "/dev/random")),
            FileRule("/dev/null", change=True),
            FileRule(state, change=True),
            FileRule(sockets, change=True),
        ),
        open_files=64,
    )


def plan_named(name: str) -> ProcessPlan | None:
    """Return the plan of one of the host's own processes."""
    return next((plan for plan in PLANS if plan.name == name), None)


def audit_process(plan: ProcessPlan) -> tuple[Finding, ...]:
    """Return what is wrong with a plan; nothing, if it may be carried out."""
    return tuple(
        Finding("plan-process", plan.name, reason, "Report this as a defect: the plan is wrong.")
        for reason in _problems(plan)
    )


def _problems(plan: ProcessPlan) -> Iterator[str]:
    for wall in sorted(plan.domain.walls - plan.walls):
        yield f"the plan lacks {wall}"
    if Wall.CALL_FILTER in plan.walls:
        yield from _filter_problems(plan)
    if Wall.FILE_RULES in plan.walls and not plan.files:
        yield "the plan has no rules about files"
    if any(rule.change and rule.run for rule in plan.files):
        yield "the plan lets files be changed and run in one place"
    if any(rule.path == "/" for rule in plan.files):
        yield "the plan gives the whole root"
    if Wall.IDENTITY in plan.walls and plan.uid not in SERVICE_UIDS:
        yield f"{plan.uid} is no identity of services"
    if Wall.IDENTITY not in plan.walls and plan.domain is not domains.SUPER:
        yield "only superDom keeps root"
    if Wall.IDENTITY in plan.walls and plan.module and not plan.file_bytes:
        yield "the plan lets files grow without end"
    if plan.core_bytes:
        yield "the plan allows core dumps"


def _filter_problems(plan: ProcessPlan) -> Iterator[str]:
    if plan.calls is None:
        if not plan.own_filter:
            yield "the plan has no filter of system calls"
        return
    if lacking := set(NEVER) - set(plan.calls.refused):
        yield f"the filter does not refuse {min(lacking)}"
    if starts := {"execve", "execveat", "fork", "vfork", "clone3"} & set(plan.calls.allowed):
        yield f"the filter allows {min(starts)}"
