"""What was refused is in the audit log, and nobody fills it with long words."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from casemate.calls import messages as m
from casemate.calls.admin import ReadLog
from casemate.errors import CasemateError, LoginError, NotAuthenticatedError, PermissionDeniedError
from casemate.kernel import store as stores
from casemate.kernel.accounts import Accounts
from casemate.kernel.admin import Admin
from casemate.kernel.home import HOSTD_UID
from casemate.kernel.host import About, Kernel
from casemate.kernel.inventory import Inventory
from casemate.kernel.logins import Logins
from casemate.kernel.logs import DOUBTED, Logs
from casemate.kernel.server import Caller
from casemate.kernel.store import AuditEntry, Store
from casemate.kernel.stream import FactStream

HOSTD = Caller(HOSTD_UID, 1)
PASSWORD = "Correct-Horse-7"


class Asked:
    """A kernel without VMs and TPM, its store, and an account that may do nothing."""

    def __init__(self, place: Path) -> None:
        self.store, stream = Store(place / "casemate.db"), FactStream()
        accounts = Accounts(self.store, lambda: 1000.0)
        inventory = Inventory(self.store, stream, place, "6ba7b810-9dad-11d1-80b4-00c04fd430c8")
        accounts.set_password("someone", "", PASSWORD, "NoAccess")
        admin = Admin(
            self.store, stream, accounts, Logins(accounts, lambda: 1000.0), lambda: 1000.0
        )
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
        found = self.store.audit_entries(1, 100)
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


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store that keeps 40 entries, or 20 that are old, and looks at every fourth."""
    for name, value in (("ROWS", 40), ("KEPT", 20), ("SECONDS", 1000.0), ("PRUNED", 4)):
        monkeypatch.setattr(stores, f"AUDIT_{name}", value)
    store = Store(tmp_path / "casemate.db")
    # Hundreds of entries: that each is on the disk is not what is looked at here.
    store._db.execute("PRAGMA synchronous=OFF")
    yield store
    store.close()


def fill(store: Store, times: Iterable[float]) -> None:
    for time in times:
        store.audit(time, "root", "PowerOn", "1", "", "ok")


def kept(store: Store) -> list[int]:
    return [entry.number for entry in store.audit_entries(1, 1000)]


def test_the_audit_log_keeps_so_many_entries_and_their_chain(small: Store) -> None:
    fill(small, (float(n) for n in range(200)))
    assert kept(small) == list(range(161, 201))
    assert small.audit_broken() is None


def test_old_entries_go_but_a_clock_that_jumps_empties_no_log(small: Store) -> None:
    fill(small, (float(n) for n in range(30)))
    fill(small, [1e9] * 2)
    assert kept(small) == list(range(13, 33))
    assert small.audit_broken() is None


@pytest.mark.parametrize("number", [161, 162, 200])
def test_a_changed_entry_shows_after_others_were_taken_out(small: Store, number: int) -> None:
    fill(small, (float(n) for n in range(200)))
    small._db.execute("UPDATE audit SET user='nobody' WHERE number=?", (number,))
    assert small.audit_broken() == number


def test_the_beginning_of_what_is_kept_cannot_be_taken_out_unseen(small: Store) -> None:
    fill(small, (float(n) for n in range(200)))
    for table in ("audit", "audit_chain"):
        small._db.execute(f"DELETE FROM {table} WHERE number<165")
    assert small.audit_broken() == 161


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
