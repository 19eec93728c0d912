"""What would happen: make changes on a copy of the tree, and compare who gets what."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from casemate.errors import CasemateError, Finding
from casemate.sched.admission import Change, Resource, admit
from casemate.sched.divvy import Division
from casemate.sched.ledger import Health, health
from casemate.sched.tree import Tree


@dataclass(frozen=True, slots=True)
class WhatIf:
    """The outcome of changes that were not made.

    Attributes:
        before: division of the tree as it is.
        after: division after the admitted changes.
        admitted: the changes that would be made, in order.
        refusal: why the next one would be refused; None when all are admitted. Like vSphere's own
            multi-object calls, changes are made one at a time and stop at the first refusal.
        state: health of the tree afterwards.
    """

    before: Division
    after: Division
    admitted: tuple[Change, ...]
    refusal: Finding | None
    state: Health

    @property
    def moved(self) -> dict[str, tuple[int, int]]:
        """What each VM that gets another amount has before and after; 0 where it does not run."""
        old, new = self.before.vms(), self.after.vms()
        pairs = {vm: (old.get(vm, 0), new.get(vm, 0)) for vm in sorted(old | new)}
        return {vm: pair for vm, pair in pairs.items() if pair[0] != pair[1]}


def what_if(
    tree: Tree,
    changes: Iterable[Change],
    resource: Resource,
    divide: Callable[[Tree], Division],
) -> WhatIf:
    """Replay changes under the rules of admission.

    Args:
        tree: the tree as it is; it stays as it is.
        changes: what to try, in order.
        resource: which resource the tree is of.
        divide: how to divide a tree, with demands bound in; VMs that are gone must not matter.
    """
    before = divide(tree)
    admitted = []
    refusal = None
    for change in changes:
        try:
            tree = admit(tree, change, resource)
        except CasemateError as error:
            refusal = error.finding()
            break
        admitted.append(change)
    return WhatIf(before, divide(tree), tuple(admitted), refusal, health(tree))
