"""The kernel notices what is done to its audit log, whatever is written there."""

from __future__ import annotations

import os
import resource
import threading

import pytest

from casemate.errors import Finding, HostError
from casemate.kernel import auditlog
from casemate.kernel.store import Store

from .auditstore import CUTS, codes, cut, fill, reopened


@pytest.mark.parametrize(
    "attack",
    [
        *CUTS,
        ("UPDATE audit SET user='nobody' WHERE number=190",),
        ("UPDATE audit SET user=x'00' WHERE number=190",),
        ("UPDATE audit_chain SET digest='text' WHERE number=200",),
        ("DROP TABLE audit_chain",),
    ],
)
def test_watch_finds_what_is_done_to_the_end_of_the_log(
    small: Store, attack: tuple[str, ...]
) -> None:
    fill(small, (float(n) for n in range(180)))
    again = reopened(small)
    look = again.audit.watch(again.path)
    assert look() == ()
    fill(again, (float(n) for n in range(180, 200)))
    assert look() == ()
    cut(again, attack)
    (finding,) = look()
    assert finding.code == "audit-log"
    again.close()


EMPTIED = ("DELETE FROM audit", "DELETE FROM audit_chain")
FORGED = ["'x y'", "'5'", "'5 zz'", "'5 00'", f"'-1 {'00' * 32}'", f"'{'9' * 5000} {'00' * 32}'"]


@pytest.mark.parametrize("anchor", [*FORGED, "CAST(x'ff' AS TEXT)"])
def test_nonsense_in_the_store_does_not_end_the_watch(small: Store, anchor: str) -> None:
    fill(small, (float(n) for n in range(5)))
    look = small.audit.watch(small.path)
    cut(small, (*EMPTIED, f"INSERT OR REPLACE INTO value VALUES ('audit-anchor',{anchor})"))
    assert [finding.code for finding in look()] == ["audit-log"]


@pytest.mark.parametrize("anchor", FORGED)
@pytest.mark.parametrize("emptied", [(), EMPTIED])
def test_nonsense_in_the_store_keeps_no_kernel_from_its_start_and_shows(
    small: Store, anchor: str, emptied: tuple[str, ...]
) -> None:
    fill(small, (float(n) for n in range(5)))
    forged = f"INSERT OR REPLACE INTO value VALUES ('audit-anchor',{anchor})"
    again = reopened(small, (*emptied, forged))
    assert again.audit.broken() == 1
    fill(again, [9.0] * 2)
    assert again.audit.broken() == 1
    again.close()


@pytest.mark.parametrize(
    "attack",
    [
        "UPDATE value SET value='x' WHERE name='audit-key'",
        "UPDATE sqlite_sequence SET seq='x' WHERE name='audit'",
        "UPDATE sqlite_sequence SET seq=1<<62 WHERE name='audit'",
        "INSERT INTO audit_chain VALUES (1<<62, x'00')",
    ],
)
def test_nonsense_about_the_head_keeps_no_host_from_its_evidence(small: Store, attack: str) -> None:
    fill(small, (float(n) for n in range(5)))
    known = small.audit.heads(0)[0]
    again = reopened(small, (attack,))
    fill(again, [9.0])
    assert [one.number for one in again.audit.heads(known.number)] == [6, 5]
    assert codes(known, again) == (["audit-changed"] if "audit-key" in attack else [])
    again.close()


@pytest.mark.parametrize(
    "attack",
    [
        ("UPDATE value SET value=CAST(x'ff' AS TEXT) WHERE name='audit-key'",),
        (
            "DROP TABLE audit_chain",
            "CREATE TABLE audit_chain (number TEXT, digest BLOB)",
            "INSERT INTO audit_chain VALUES ('', x'00')",
        ),
    ],
)
def test_store_that_cannot_be_understood_is_refused_with_a_remedy(
    small: Store, attack: tuple[str, ...]
) -> None:
    fill(small, [1.0])
    with pytest.raises(HostError) as refused:
        reopened(small, attack)
    assert refused.value.remedy


def test_host_without_descriptors_is_not_said_to_have_a_changed_log(small: Store) -> None:
    fill(small, [1.0])
    look = small.audit.watch(small.path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        found = [[finding.code for finding in look()] for _ in range(auditlog.UNREAD + 1)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found == [[]] * (auditlog.UNREAD - 1) + [["audit-log-unread"]] * 2
    assert look() == ()


def test_store_that_was_taken_away_shows_at_once(small: Store) -> None:
    fill(small, [1.0])
    look = small.audit.watch(small.path)
    small.path.rename(small.path.with_name("elsewhere"))
    assert [finding.code for finding in look()] == ["audit-log"]


INSIDE = [
    ("UPDATE audit SET user='alice'",),
    ("UPDATE audit SET user='alice' WHERE number=162",),
    ("DELETE FROM audit WHERE number<170", "DELETE FROM audit_chain WHERE number<170"),
    ("DELETE FROM audit WHERE number=180", "DELETE FROM audit_chain WHERE number=180"),
    ("DELETE FROM audit WHERE number>195", "DELETE FROM audit_chain WHERE number>195"),
]


@pytest.mark.parametrize("attack", INSIDE)
@pytest.mark.parametrize("looked", [5, 1000])
def test_log_that_is_changed_while_the_kernel_is_off_is_found_by_the_next_kernel(
    small: Store, monkeypatch: pytest.MonkeyPatch, attack: tuple[str, ...], looked: int
) -> None:
    monkeypatch.setattr(auditlog, "LOOKED", looked)
    fill(small, (float(n) for n in range(200)))
    known = small.audit.heads(0)[0]
    again = reopened(small, attack)
    look = again.audit.watch(again.path)
    fill(again, [300.0])
    for _ in range(3):  # it stays true, also where later looks are at the end alone
        assert [finding.code for finding in look()] == ["audit-log"]
    # The digests of the entries are what they were: only the host can tell.
    assert codes(known, again) == (["audit-unproven"] if "195" in attack[0] else [])
    again.close()


@pytest.mark.parametrize("attack", INSIDE)
def test_entries_of_an_earlier_kernel_that_are_changed_while_this_one_runs_show(
    small: Store, attack: tuple[str, ...]
) -> None:
    fill(small, (float(n) for n in range(200)))
    again = reopened(small)
    look = again.audit.watch(again.path)
    assert look() == ()
    fill(again, [300.0])
    cut(again, attack)
    assert [finding.code for finding in look()] == ["audit-log"]
    again.close()


@pytest.mark.parametrize(("number", "missing"), [(180, True), (202, False), (1 << 40, False)])
@pytest.mark.parametrize("restarted", [False, True])
def test_entry_that_is_put_in_beside_the_chain_shows(
    small: Store, number: int, *, missing: bool, restarted: bool
) -> None:
    fill(small, (float(n) for n in range(200)))
    look = small.audit.watch(small.path)
    assert look() == ()
    gone = [
        f"DELETE FROM {table} WHERE number=180" for table in ("audit", "audit_chain") if missing
    ]
    put = f"INSERT INTO audit VALUES ({number}, 1.0, 'alice', 'PowerOn', '1', '', 'ok')"
    cut(small, (*gone, put))
    assert small.audit.broken() == number
    assert [finding.code for finding in look()] == ["audit-log"]
    if restarted:
        again = reopened(small)
        assert [finding.code for finding in again.audit.watch(again.path)()] == ["audit-log"]
        again.close()


def test_old_entry_that_is_changed_while_the_kernel_runs_is_found_by_the_next_kernel(
    small: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditlog, "LOOKED", 5)
    fill(small, (float(n) for n in range(200)))
    look = small.audit.watch(small.path)
    assert look() == ()
    cut(small, ("UPDATE audit SET user='alice' WHERE number=180",))
    assert look() == ()
    again = reopened(small)
    assert [finding.code for finding in again.audit.watch(again.path)()] == ["audit-log"]
    again.close()


def test_watch_is_not_misled_by_what_is_written_and_pruned_while_it_looks(small: Store) -> None:
    look, over = small.audit.watch(small.path), threading.Event()
    found: list[Finding] = []

    def watch() -> None:
        while not over.is_set():
            found.extend(look())

    thread = threading.Thread(target=watch)
    thread.start()
    fill(small, (float(n) for n in range(300)))
    over.set()
    thread.join()
    assert found == []
    assert look() == ()
