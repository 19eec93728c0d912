"""Carries out the plan of a process: what is done before exec, and what only works after it.

Linux forgets "not dumpable" at exec, and a filter that refuses exec cannot stand before it. So the
host's own Python processes begin with ``kernel.enter``, which puts up the rest.
"""

from __future__ import annotations

import resource
from collections.abc import Callable

from casemate.errors import HostError
from casemate.kernel.sys import landlock, seccomp
from casemate.kernel.sys.process import (
    no_new_privileges,
    not_dumpable,
    randomize_addresses,
    refuse_writable_code,
)
from casemate.kernel.sys.spawn import Child, Identity, Program, spawn
from casemate.machine.processplan import FileRule, ProcessPlan, audit_process

_NONE = (resource.RLIMIT_MEMLOCK, resource.RLIMIT_MSGQUEUE, resource.RLIMIT_RTPRIO)
"""What no process with an identity of its own needs any of."""


def start(
    plan: ProcessPlan,
    program: Program,
    *,
    prepare: Callable[[], None] = lambda: None,
) -> Child:
    """Start a program as the plan says.

    Args:
        plan: refused if its audit finds anything.
        program: what to execute.
        prepare: namespaces and mounts, in the child, with the caller's rights.

    Raises:
        HostError: the plan lacks something, or a step failed; nothing was started.
    """
    _check(plan)

    def before() -> None:
        prepare()
        if not plan.module and plan.files:
            landlock.restrict(map(_rule, plan.files))
        randomize_addresses()
        no_new_privileges()
        refuse_writable_code()
        if not plan.module and plan.calls is not None:
            seccomp.apply(plan.calls)

    limits = {resource.RLIMIT_CORE: plan.core_bytes}
    wanted = {
        resource.RLIMIT_NOFILE: plan.open_files,
        resource.RLIMIT_AS: plan.memory,
        resource.RLIMIT_CPU: plan.processor_seconds,
        resource.RLIMIT_FSIZE: plan.file_bytes,
    }
    limits |= {kind: limit for kind, limit in wanted.items() if limit}
    if plan.uid is not None:
        limits |= dict.fromkeys(_NONE, 0)
    identity = Identity(plan.uid, plan.uid) if plan.uid is not None else None
    return spawn(program, identity=identity, rlimits=limits, prepare=before)


def enter(plan: ProcessPlan) -> None:
    """Put up, around the calling process, the walls that stand only after exec.

    Raises:
        HostError: the plan lacks something, or a step failed; the caller must not go on.
    """
    _check(plan)
    no_new_privileges()
    refuse_writable_code()
    not_dumpable()
    if plan.files:
        landlock.restrict(map(_rule, plan.files))
    if plan.calls is not None:
        seccomp.apply(plan.calls)


def _check(plan: ProcessPlan) -> None:
    for finding in audit_process(plan):
        raise HostError(
            finding.reason, code=finding.code, component=finding.component, remedy=finding.remedy
        )


def _rule(rule: FileRule) -> tuple[str, int]:
    if rule.change:
        return rule.path, landlock.CHANGE
    return rule.path, landlock.RUN if rule.run else landlock.READ
