"""What was refused is in the audit log, and nobody fills it with long words."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from casemate.calls import messages as m
from casemate.calls.admin import ReadLog
from casemate.errors import (
    CasemateError,
    LoginError,
    NotAuthenticatedError,
    PermissionDeniedError,
)
from casemate.kernel import auditlog
from casemate.kernel.accounts import Accounts
from casemate.kernel.admin import Admin
from casemate.kernel.auditlog import AuditEntry
from casemate.kernel.home import HOSTD_UID
from casemate.kernel.host import About, Kernel
from casemate.kernel.inventory import Inventory
from casemate.kernel.logins import Logins
from casemate.kernel.logs import CUT, DOUBTED, Logs
from casemate.kernel.server import Caller
from casemate.kernel.store import Store
from casemate.kernel.stream import FactStream

from .auditstore import CUTS, codes, cut, fill, reopened

HOSTD = Caller(HOSTD_UID, 1)
PASSWORD = "Correct-Horse-7"


class Asked:
    """A kernel without VMs and TPM, its store, and an account that may do nothing."""

    def __init__(self, place: Path) -> None:
        self.store, stream = Store(place / "casemate.db"), FactStream()
        accounts = Accounts(self.store, lambda: 1000.0)
        inventory = Inventory(self.store, stream, place, "6ba7b810-9dad-11d1-80b4-00c04fd430c8")
        accounts.set_password("someone", "", PASSWORD, "NoAccess")
        admin = Admin(self.store, stream, accounts, Logins(accounts, lambda: 1000.0))
        nothing = SimpleNamespace()
        self.kernel = Kernel(
            self.store,
            stream,
            accounts,
            inventory,
            nothing,  # type: ignore[arg-type]
            lambda _: nothing,  # type: ignore[arg-type, return-value]
            About("", "", 0.0),
            lambda: 1000.0,
        )
        self.kernel.govern(admin.demand)
        self.session, _ = accounts.login("someone", PASSWORD, "192.0.2.1")

    def refused(self, request: object, kind: type[CasemateError]) -> list[AuditEntry]:
        """Send a request that is refused, and return what is in the log then."""
        with pytest.raises(kind):
            asyncio.run(self.kernel.handle(request, HOSTD))
        found = self.store.audit.entries(1, 100)
        self.store.close()
        return found


def test_who_asks_for_what_he_may_not_do_is_in_the_audit_log(tmp_path: Path) -> None:
    asked = Asked(tmp_path)
    (entry,) = asked.refused(m.PowerOn(asked.session, "1"), PermissionDeniedError)
    assert (entry.user, entry.action, entry.object) == ("someone", "PowerOn", "1")
    assert entry.outcome.startswith("refused")


def test_strangers_do_not_fill_the_audit_log(tmp_path: Path) -> None:
    assert Asked(tmp_path).refused(m.PowerOn("made up", "1"), NotAuthenticatedError) == []


def test_a_name_without_end_takes_no_room_in_the_audit_log(tmp_path: Path) -> None:
    (entry,) = Asked(tmp_path).refused(m.Login("x" * 100_000, "p", "y" * 100_000), LoginError)
    assert len(entry.user) + len(entry.why) < 1000


def kept(store: Store) -> list[int]:
    return [entry.number for entry in store.audit.entries(1, 1000)]


def test_the_audit_log_keeps_so_many_entries_and_their_chain(small: Store) -> None:
    fill(small, (float(n) for n in range(200)))
    assert kept(small) == list(range(161, 201))
    assert small.audit.broken() is None


def test_old_entries_go_but_a_clock_that_jumps_empties_no_log(small: Store) -> None:
    fill(small, (float(n) for n in range(30)))
    fill(small, [1e9] * 2)
    assert kept(small) == list(range(13, 33))
    assert small.audit.broken() is None


@pytest.mark.parametrize("number", [161, 162, 200])
def test_a_changed_entry_shows_after_others_were_taken_out(small: Store, number: int) -> None:
    fill(small, (float(n) for n in range(200)))
    small._db.execute("UPDATE audit SET user='nobody' WHERE number=?", (number,))
    assert small.audit.broken() == number


def test_the_beginning_of_what_is_kept_cannot_be_taken_out_unseen(small: Store) -> None:
    fill(small, (float(n) for n in range(200)))
    for table in ("audit", "audit_chain"):
        small._db.execute(f"DELETE FROM {table} WHERE number<165")
    assert small.audit.broken() == 161


def test_what_is_read_of_the_log_has_its_own_numbers(small: Store, tmp_path: Path) -> None:
    fill(small, (float(n) for n in range(200)))
    read = Logs(small, tmp_path).handlers()[ReadLog]
    reply = asyncio.run(read(ReadLog("", "audit", 1, 5), None))
    assert (reply.start, reply.end, len(reply.lines)) == (161, 200, 5)


@pytest.mark.parametrize("start", [1, 161, 170, 180])
@pytest.mark.parametrize(
    ("attack", "shown"),
    [
        ("UPDATE audit SET user='nobody' WHERE number=180", 180),
        ("DELETE FROM audit WHERE number=180", 181),
        ("DELETE FROM audit_chain WHERE number=180", 180),
    ],
)
def test_who_reads_the_log_is_told_what_does_not_fit(
    small: Store, tmp_path: Path, start: int, attack: str, shown: int
) -> None:
    fill(small, (float(n) for n in range(200)))
    read = Logs(small, tmp_path).handlers()[ReadLog]

    def doubted() -> list[int]:
        reply = asyncio.run(read(ReadLog("", "audit", start, 30), None))
        return [int(one.split()[1]) for one in reply.lines if one.endswith(DOUBTED)]

    assert doubted() == []
    small._db.execute(attack)
    assert doubted() == [shown]


@pytest.mark.parametrize("attack", CUTS)
def test_end_that_is_taken_out_shows_at_once_and_after_more_was_written(
    small: Store, tmp_path: Path, attack: tuple[str, ...]
) -> None:
    fill(small, (float(n) for n in range(200)))
    cut(small, attack)
    assert small.audit.broken() == 196
    assert small.audit.broken(180, 30) == 196
    assert small.audit.broken(161, 20) is None  # not looked at
    read = Logs(small, tmp_path).handlers()[ReadLog]
    reply = asyncio.run(read(ReadLog("", "audit", 180, 30), None))
    doubted = [one for one in reply.lines if one.endswith((DOUBTED, CUT.format(200)))]
    assert len(doubted) == 1
    assert doubted[0].split()[1] in {"195", "196"}
    fill(small, [300.0] * 2)
    assert small.audit.broken() in {196, 201}


def test_whole_log_that_is_taken_out_shows(small: Store, tmp_path: Path) -> None:
    fill(small, (float(n) for n in range(9)))
    cut(small, ("DELETE FROM audit", "DELETE FROM audit_chain"))
    read = Logs(small, tmp_path).handlers()[ReadLog]
    reply = asyncio.run(read(ReadLog("", "audit", 1, 30), None))
    assert reply.lines == (CUT.format(9),)


def test_entries_that_somebody_else_adds_at_the_end_show(small: Store) -> None:
    fill(small, (float(n) for n in range(20)))
    entry = AuditEntry(21, 20.0, "root", "Nothing", "", "", "ok")
    digest = auditlog._chained(small.audit.head.digest, entry)
    small._db.execute("INSERT INTO audit VALUES (21, 20.0, 'root', 'Nothing', '', '', 'ok')")
    small._db.execute("INSERT INTO audit_chain VALUES (21, ?)", (digest,))
    assert small.audit.broken() == 21
    fill(small, [30.0])  # it takes the place
    assert small.audit.broken() is None


@pytest.mark.parametrize("attack", CUTS)
def test_end_that_is_deleted_while_the_kernel_is_off_shows(
    small: Store, attack: tuple[str, ...]
) -> None:
    fill(small, (float(n) for n in range(200)))
    again = reopened(small, attack)
    assert again.audit.broken() == 196
    again.close()


def test_whoever_remembers_the_head_notices_a_log_that_was_made_anew(small: Store) -> None:
    fill(small, (float(n) for n in range(200)))
    known = small.audit.heads(0)[0]
    assert codes(known, small) == []
    fill(small, [300.0] * 3)
    assert codes(known, small) == []
    forgetful = "UPDATE sqlite_sequence SET seq=195 WHERE name='audit'"
    again = reopened(small, (*CUTS[0], forgetful))
    assert again.audit.broken() is None  # the host alone cannot know
    assert codes(known, again) == ["audit-truncated"]
    fill(again, [400.0] * 30)
    assert again.audit.broken() is None
    assert codes(known, again) == ["audit-changed"]
    again.close()


def test_digests_of_entries_are_shown_to_nobody(small: Store) -> None:
    fill(small, (float(n) for n in range(9)))
    kept = {bytes(row[0]) for row in small._db.execute("SELECT digest FROM audit_chain")}
    for number in range(-1, 12):
        shown = small.audit.heads(number)
        assert [one.number for one in shown] == ([9, number] if 0 < number < 9 else [9])
        assert not kept & {one.digest for one in shown}


@pytest.mark.parametrize("start", [1, 150, 165])
def test_who_reads_the_log_is_told_that_its_beginning_is_gone(
    small: Store, tmp_path: Path, start: int
) -> None:
    fill(small, (float(n) for n in range(200)))
    for table in ("audit", "audit_chain"):
        small._db.execute(f"DELETE FROM {table} WHERE number<165")
    read = Logs(small, tmp_path).handlers()[ReadLog]
    reply = asyncio.run(read(ReadLog("", "audit", start, 30), None))
    assert [one.endswith(DOUBTED) for one in reply.lines] == [True, *[False] * 29]
