"""Tasks that have ended when their call returns, with a result that is data: a session's own."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Final

from casemate.hostd.registry import Context
from casemate.vim25 import types
from casemate.vim25.faults import FaultError
from casemate.vim25.values import MoRef, Obj, Value

KEPT: Final = 16
"""Tasks with results that a session may still read; older ones are forgotten."""


class OwnTask:
    """One of them."""

    def __init__(self, ref: MoRef, info: Obj) -> None:
        self.ref = ref
        self._info = info

    def properties(self) -> Mapping[str, Value]:
        """See ``Own``."""
        return {"info": self._info}

    def close(self) -> None:
        """See ``Own``."""


def ended(context: Context, method: str, entity: MoRef, outcome: Value | FaultError) -> MoRef:
    """Keep a task of ``method`` on an entity with its result or fault; return it."""
    session, now = context.who, context.replica.clock()
    kept = [ref for ref, own in session.own.items() if isinstance(own, OwnTask)]
    for old in kept[: max(0, len(kept) - KEPT + 1)]:
        session.drop(old)
    declared = types.method(method)
    operation = f"{declared.owner}.{method.removesuffix('_Task')}"
    key = f"haTask-{entity.value}-vim.{operation}-{secrets.token_hex(8)}"
    fault = outcome if isinstance(outcome, FaultError) else None
    ref = MoRef("Task", key)
    info = Obj(
        "TaskInfo",
        key=key,
        task=ref,
        name=declared.name,
        descriptionId=operation,
        entity=entity,
        entityName=context.replica.world.entity_name(entity),
        state="success" if fault is None else "error",
        cancelled=False,
        cancelable=False,
        error=None if fault is None else fault.localized(),
        result=None if isinstance(outcome, FaultError) else outcome,
        reason=Obj("TaskReasonUser", userName=session.user),
        queueTime=now,
        startTime=now,
        completeTime=now,
        eventChainId=0,
    )
    session.add(OwnTask(ref, info))
    return ref
