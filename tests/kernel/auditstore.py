"""A small audit log in a store, and what somebody does to it who can write there."""

from __future__ import annotations

from collections.abc import Iterable

from casemate.kernel.store import Store
from casemate.policy.auditheads import LogHead, check_log

CUTS = [
    ("DELETE FROM audit WHERE number>195", "DELETE FROM audit_chain WHERE number>195"),
    ("DELETE FROM audit WHERE number>195",),
    ("DELETE FROM audit_chain WHERE number>195",),
]


def fill(store: Store, times: Iterable[float]) -> None:
    for time in times:
        store.audit.append(time, "root", "PowerOn", "1", "", "ok")


def cut(store: Store, attack: Iterable[str]) -> None:
    for statement in attack:
        store._db.execute(statement)


def reopened(store: Store, attack: Iterable[str] = ()) -> Store:
    cut(store, attack)
    store.close()
    return Store(store.path)


def codes(known: LogHead | None, store: Store) -> list[str]:
    shown = store.audit.heads(known.number if known else 0)
    return [finding.code for finding in check_log(known, shown)]
