"""Who may do what: roles, permissions, accounts, lockdown, options, the audit chain, logs."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from casemate.calls import admin as a
from casemate.calls import files as f
from casemate.calls.messages import Logout, PowerOn
from casemate.errors import (
    ArgumentError,
    CasemateError,
    LimitError,
    LoginError,
    NotAuthenticatedError,
    NotFoundError,
    PermissionDeniedError,
    StateError,
)
from casemate.kernel import logs
from casemate.kernel.accounts import CONSOLE, FREE_FAILURES, LOCAL_ROOT, Accounts
from casemate.kernel.admin import Admin
from casemate.kernel.logins import WAITING_OF_ONE, Logins
from casemate.kernel.logs import COUNT_LIMIT, Logs
from casemate.kernel.store import Store
from casemate.kernel.stream import FactStream
from casemate.machine.facts import Allocation, DatastoreFact, Fact, PoolFact, VmFact
from casemate.machine.governance import SessionFact
from casemate.policy import options
from casemate.testing.fakefacts import fake_vm

PASSWORD = "Correct-Horse-7"
POWER = "VirtualMachine.Interact.PowerOn"


class World:
    def __init__(self, place: Path) -> None:
        self.place = place
        self.store = Store(place / "casemate.db")
        self.stream = FactStream()
        self.accounts = Accounts(self.store, lambda: 1000.0)
        if self.store.account("root") is None:
            self.accounts.set_password("root", "Administrator", PASSWORD, "Admin")
        self.stream.publish(PoolFact("pool1", "a", "ha-root-pool", Allocation(), Allocation()))
        self.stream.publish(fake_vm(1))
        self.admin = Admin(
            self.store, self.stream, self.accounts, Logins(self.accounts, lambda: 1000.0)
        )

    def do(self, request: object) -> object:
        return asyncio.run(self.admin.handlers()[type(request)](request, LOCAL_ROOT))

    def login(self, user: str, password: str = PASSWORD):
        return self.accounts.login(user, password, "192.0.2.1")

    def may(self, user: str, privilege: str, request: object) -> bool:
        _, session = self.login(user)
        try:
            self.admin.demand(session, privilege, request)
        except PermissionDeniedError:
            return False
        return True

    def someone(self, role: int, kind: str = "Folder", entity: str = "ha-folder-root") -> None:
        self.do(a.CreateAccount("", "someone", "Some One", PASSWORD))
        self.do(a.SetPermission("", kind, entity, "someone", role, propagate=True))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.store.close()


def test_a_new_account_may_do_nothing_at_all(world: World) -> None:
    world.do(a.CreateAccount("", "someone", "", PASSWORD))
    assert not world.may("someone", "System.View", PowerOn("", "1"))
    assert world.may("root", POWER, PowerOn("", "1"))


def test_a_permission_on_one_datastore_reaches_no_other(world: World) -> None:
    world.do(a.AddRole("", "files", ("Datastore.Browse", "Datastore.FileManagement")))
    (role,) = {r.number for r in world.admin.rights.roles.values() if r.name == "files"}
    world.someone(role, "Datastore", "one")
    for privilege, kind in (
        ("Datastore.Browse", f.SearchFiles),
        ("Datastore.FileManagement", f.DeleteFile),
    ):
        assert world.may("someone", privilege, kind("", "one", "x"))
        assert not world.may("someone", privilege, kind("", "two", "x"))


def test_a_permission_on_one_vm_reaches_no_other(world: World) -> None:
    role = world.do(a.AddRole("", "operator", ("System.Read", POWER))).role
    world.someone(role, "VirtualMachine", "1")
    assert world.may("someone", POWER, PowerOn("", "1"))
    assert not world.may("someone", POWER, PowerOn("", "2"))
    assert not world.may("someone", "Sessions.TerminateSession", a.TerminateSession("", "x"))


def test_a_vm_inherits_along_its_pool_as_well_as_its_folder(world: World) -> None:
    world.someone(-1, "ResourcePool", "ha-root-pool")
    assert world.may("someone", POWER, PowerOn("", "1"))


def test_the_nearest_permission_decides_even_when_it_gives_less(world: World) -> None:
    world.someone(-1)
    world.do(a.SetPermission("", "VirtualMachine", "1", "someone", -5, propagate=False))
    assert not world.may("someone", POWER, PowerOn("", "1"))
    assert world.may("someone", POWER, PowerOn("", "2"))


def test_what_does_not_propagate_stays_where_it_is(world: World) -> None:
    world.do(a.CreateAccount("", "someone", "", PASSWORD))
    world.do(a.SetPermission("", "Folder", "ha-folder-vm", "someone", -1, propagate=False))
    assert not world.may("someone", POWER, PowerOn("", "1"))


@pytest.mark.parametrize(
    ("kind", "entity", "fact"),
    [
        ("VirtualMachine", "1", VmFact),
        ("ResourcePool", "pool1", PoolFact),
        ("Datastore", "store1", DatastoreFact),
    ],
)
def test_permissions_on_what_is_gone_go_with_it(
    world: World, kind: str, entity: str, fact: type[Fact]
) -> None:
    world.stream.publish(DatastoreFact("store1", "one", "/nowhere", 1, 1))
    world.someone(-1, kind, entity)
    assert world.stream.fact("PermissionFact", f"{kind}:{entity}:someone") is not None
    world.stream.retract(fact, entity)
    assert world.stream.fact("PermissionFact", f"{kind}:{entity}:someone") is None
    left = (*world.admin.rights.all(), *world.store.permissions())
    assert {one.principal for one in left} == {"root"}


def test_the_last_administrator_stays_one(world: World) -> None:
    for request in (
        a.RemovePermission("", "Folder", "ha-folder-root", "root"),
        a.SetPermission("", "Folder", "ha-folder-root", "root", -2, propagate=True),
        a.RemoveAccount("", "root"),
    ):
        with pytest.raises(StateError, match="last administrator"):
            world.do(request)
    world.someone(-1)
    world.do(a.RemovePermission("", "Folder", "ha-folder-root", "root"))


def test_everything_outlives_a_restart(world: World, tmp_path: Path) -> None:
    role = world.do(a.AddRole("", "operator", (POWER,))).role
    world.someone(role, "VirtualMachine", "1")
    world.do(a.SetOption("", options.LOCK_FAILURES, "3"))
    world.do(a.SetLockdownExceptions("", ("root",)))
    world.do(a.SetLockdown("", "lockdownNormal"))
    world.store.close()
    again = World(tmp_path)
    assert again.accounts.rules.free_failures == 3
    with pytest.raises(PermissionDeniedError):
        again.login("someone")
    again.do(a.SetLockdown("", "lockdownDisabled"))
    assert again.may("someone", POWER, PowerOn("", "1"))
    again.store.close()
    world.store = Store(tmp_path / "other.db")


def test_removing_a_role_takes_what_it_gave_and_its_number_never_comes_back(world: World) -> None:
    first = world.do(a.AddRole("", "operator", (POWER,))).role
    world.someone(first)
    with pytest.raises(StateError):
        world.do(a.RemoveRole("", first, fail_if_used=True))
    world.do(a.RemoveRole("", first, fail_if_used=False))
    assert not world.may("someone", POWER, PowerOn("", "1"))
    assert world.do(a.AddRole("", "other", ())).role != first


@pytest.mark.parametrize(
    "request_",
    [
        a.AddRole("", "Admin", ()),
        a.AddRole("", "", ()),
        a.AddRole("", "x\n", ()),
        a.AddRole("", "x", ("no privilege",)),
        a.UpdateRole("", -1, "Admin", ()),
        a.UpdateRole("", 99, "x", ()),
        a.RemoveRole("", -2, fail_if_used=False),
        a.SetPermission("", "Folder", "ha-folder-root", "nobody", -1, propagate=True),
        a.SetPermission("", "Folder", "ha-folder-root", "root", 99, propagate=True),
        a.RemovePermission("", "Folder", "ha-folder-vm", "root"),
        a.CreateAccount("", "root", "", PASSWORD),
        a.CreateAccount("", "UPPER", "", PASSWORD),
        a.CreateAccount("", "../x", "", PASSWORD),
        a.CreateAccount("", "x", "", "short"),
        a.CreateAccount("", "x", "", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
        a.CreateAccount("", "someone", "", "Someone-is-here-7"),
        a.CreateAccount("", "x", "a\x00b", PASSWORD),
        a.UpdateAccount("", "nobody", "", PASSWORD),
        a.RemoveAccount("", "nobody"),
        a.TerminateSession("", "nothing"),
        a.SetOption("", "No.Such", "1"),
        a.SetOption("", options.LOCK_FAILURES, "0"),
        a.SetOption("", options.LOCK_FAILURES, "five"),
        a.SetOption("", options.LOCK_FAILURES, "9" * 40),
        a.SetOption("", options.EXEC_INSTALLED_ONLY, "FALSE"),
        a.SetOption("", options.WELCOME, "x" * 5000),
        a.SetMessage("", "\x1b[2J"),
        a.SetLockdown("", "open"),
        a.SetLockdown("", "lockdownStrict"),
        a.SetLockdownExceptions("", ("nobody",)),
    ],
    ids=repr,
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(world: World, request_: object) -> None:
    before = world.stream.facts()
    with pytest.raises(CasemateError) as caught:
        world.do(request_)
    assert isinstance(caught.value, ArgumentError | NotFoundError | StateError)
    assert world.stream.facts() == before


def test_in_lockdown_only_exceptions_pass_and_open_sessions_stop_working(world: World) -> None:
    world.someone(-1)
    _, session = world.login("someone")
    world.do(a.SetLockdownExceptions("", ("root",)))
    world.do(a.SetLockdown("", "lockdownNormal"))
    with pytest.raises(PermissionDeniedError):
        world.admin.demand(session, "System.View", PowerOn("", "1"))
    world.admin.demand(session, "System.View", Logout("x"))
    with pytest.raises(PermissionDeniedError):
        world.login("someone")
    assert world.may("root", POWER, PowerOn("", "1"))
    world.admin.demand(LOCAL_ROOT, POWER, PowerOn("", "1"))


def test_in_strict_lockdown_even_local_root_only_looks_but_can_end_it(world: World) -> None:
    world.do(a.SetLockdownExceptions("", ("root",)))
    world.do(a.SetLockdown("", "lockdownStrict"))
    with pytest.raises(PermissionDeniedError):
        world.admin.demand(LOCAL_ROOT, POWER, PowerOn("", "1"))
    world.admin.demand(LOCAL_ROOT, "System.Read", PowerOn("", "1"))
    end = a.SetLockdown("", "lockdownDisabled")
    world.admin.demand(LOCAL_ROOT, end.privilege, end)
    with pytest.raises(StateError):
        world.do(a.SetLockdownExceptions("", ()))


def test_in_normal_lockdown_an_administrator_works_in_front_of_the_host(world: World) -> None:
    world.someone(-2)
    world.do(a.SetLockdown("", "lockdownNormal"))
    _, session = world.accounts.login("root", PASSWORD, CONSOLE)
    world.admin.demand(session, POWER, PowerOn("", "1"))
    with pytest.raises(PermissionDeniedError):
        world.login("root")
    with pytest.raises(PermissionDeniedError):
        world.accounts.login("someone", PASSWORD, CONSOLE)


def test_strict_lockdown_closes_the_console_to_everybody(world: World) -> None:
    _, session = world.accounts.login("root", PASSWORD, CONSOLE)
    world.do(a.SetLockdownExceptions("", ("root",)))
    world.do(a.SetLockdown("", "lockdownStrict"))
    with pytest.raises(PermissionDeniedError):
        world.accounts.login("root", PASSWORD, CONSOLE)
    with pytest.raises(PermissionDeniedError):
        world.admin.demand(session, POWER, PowerOn("", "1"))


def test_a_new_password_ends_the_sessions_of_the_old_one(world: World) -> None:
    handle, _ = world.login("root")
    world.do(a.ChangePassword("root", PASSWORD, "Another-Horse-8", "192.0.2.1"))
    with pytest.raises(NotAuthenticatedError):
        world.accounts.session(handle)
    with pytest.raises(LoginError):
        world.login("root")
    world.login("root", "Another-Horse-8")


def test_guessing_an_old_password_counts_as_guessing(world: World) -> None:
    for _ in range(5):
        with pytest.raises(LoginError):
            world.do(a.ChangePassword("root", "guess", "Another-Horse-8", "192.0.2.1"))
    with pytest.raises(LoginError):
        world.login("root")


@pytest.mark.parametrize("user", ["root", "nobody"])
def test_guesses_at_old_passwords_cost_five_checks_whether_or_not_there_is_the_account(
    world: World, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    checked: list[str] = []

    def verify(hashed: str, _password: str) -> str:
        checked.append(hashed)
        return ""

    monkeypatch.setattr(world.accounts, "verify", verify)
    for _ in range(50):
        with pytest.raises(LoginError):
            world.do(a.ChangePassword(user, "guess", "Another-Horse-8", "192.0.2.1"))
    assert len(checked) == FREE_FAILURES


def test_flood_of_old_passwords_holds_up_nobody_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []

    def verify(hashed: str, password: str) -> str:
        checked.append(password)
        return hashed if password == PASSWORD else ""

    monkeypatch.setattr(world.accounts, "verify", verify)
    flood = [
        a.ChangePassword(f"name{number}", "guess", "Another-Horse-8", "192.0.2.1")
        for number in range(1000)
    ]
    honest = a.ChangePassword("root", PASSWORD, "Another-Horse-8", "192.0.2.2")
    *answers, changed = together(world, *flood, honest)
    assert not isinstance(changed, Exception)
    assert sum(isinstance(one, LimitError) for one in answers) == 1000 - WAITING_OF_ONE
    assert len(checked) == WAITING_OF_ONE + 1


@pytest.mark.parametrize("new", ["Short-1", "all small letters", "Root-is-my-name-1", "a" * 300])
def test_new_password_of_ones_own_is_as_good_as_any_other(world: World, new: str) -> None:
    handle, _ = world.login("root")
    with pytest.raises(ArgumentError):
        world.do(a.ChangePassword("root", PASSWORD, new, "192.0.2.1"))
    world.accounts.session(handle)
    world.login("root")


def test_a_terminated_session_is_gone_and_told(world: World) -> None:
    handle, session = world.login("root")
    assert world.stream.fact("SessionFact", session.key) is not None
    told = world.stream.subscribe().queue
    world.do(a.TerminateSession("", session.key))
    assert world.stream.fact("SessionFact", session.key) is None
    with pytest.raises(NotAuthenticatedError):
        world.accounts.session(handle)
    assert revocations(told) == [session.key]


def revocations(told) -> list[str]:
    """Return the sessions of which the stream has said that they are revoked."""
    replies = [told.get_nowait() for _ in range(told.qsize())]
    facts = [one.fact for one in replies if isinstance(one.fact, SessionFact)]
    return [fact.key for fact in facts if fact.revoked]


def test_a_new_password_revokes_sessions_and_a_logout_does_not(world: World) -> None:
    handle, _ = world.login("root")
    told = world.stream.subscribe().queue
    world.accounts.logout(handle)
    assert revocations(told) == []
    _, session = world.login("root")
    told = world.stream.subscribe().queue
    world.do(a.UpdateAccount("", "root", "Root", "Another-Horse-8"))
    assert revocations(told) == [session.key]


def test_no_fact_holds_a_secret(world: World) -> None:
    handle, _ = world.login("root")
    told = repr(world.stream.facts())
    assert handle not in told
    assert "argon2" not in told


@pytest.mark.parametrize(
    "attack",
    [
        "UPDATE audit SET user='nobody' WHERE number=2",
        "DELETE FROM audit WHERE number=2",
        "DELETE FROM audit_chain WHERE number=2",
        "UPDATE audit SET outcome='ok' WHERE number=3",
    ],
)
def test_a_changed_audit_log_shows(world: World, attack: str) -> None:
    for number in range(4):
        world.store.audit.append(
            1.5 * number, "root", "PowerOn", str(number), "because", "refused: x"
        )
    assert world.store.audit.broken() is None
    with sqlite3.connect(world.place / "casemate.db") as database:
        database.execute(attack)
    database.close()
    assert world.store.audit.broken() in {2, 3}


def test_logs_are_read_in_bounds_and_by_name_only(world: World, tmp_path: Path) -> None:
    (tmp_path / "kernel.log").write_text("".join(f"line {n}\n" for n in range(3000)))
    (tmp_path / "secret.log").write_text("secret")
    world.store.audit.append(0.0, "root", "PowerOn", "1", "", "ok")
    logs = Logs(world.store, tmp_path)

    def read(log: str, start: int, count: int) -> a.LogReply:
        request = a.ReadLog("", log, start, count)
        return asyncio.run(logs.handlers()[a.ReadLog](request, LOCAL_ROOT))

    assert read("kernel", 11, 2) == a.LogReply(11, 3000, ("line 10", "line 11"))
    assert len(read("kernel", -5, 10**9).lines) == COUNT_LIMIT
    assert read("kernel", 5000, 5).lines == ()
    assert read("init", 1, 5).lines == ()
    assert "root PowerOn 1: ok" in read("audit", 1, 5).lines[0]
    for name in ("secret", "../casemate.db", ""):
        with pytest.raises(NotFoundError):
            read(name, 1, 1)


def together(world: World, *requests: object) -> list[object]:
    """Answer requests at one time; returns replies and refusals."""

    async def body() -> list[object]:
        handlers = world.admin.handlers()
        asked = [handlers[type(one)](one, LOCAL_ROOT) for one in requests]
        return await asyncio.gather(*asked, return_exceptions=True)

    return asyncio.run(body())


OTHER = "Battery-Staple-9"


def test_of_two_who_make_one_account_the_second_does_not_set_its_password(world: World) -> None:
    first, second = together(
        world,
        a.CreateAccount("", "someone", "", PASSWORD),
        a.CreateAccount("", "someone", "", OTHER),
    )
    assert not isinstance(first, CasemateError)
    assert isinstance(second, ArgumentError)
    world.login("someone")


def test_an_account_that_is_removed_while_it_is_changed_stays_removed(world: World) -> None:
    world.someone(-1)
    changed, _ = together(
        world, a.UpdateAccount("", "someone", "", OTHER), a.RemoveAccount("", "someone")
    )
    assert isinstance(changed, NotFoundError)
    with pytest.raises(LoginError):
        world.login("someone", OTHER)


def test_who_knows_the_old_password_does_not_undo_its_replacement(world: World) -> None:
    world.someone(-1)
    changed, replaced = together(
        world,
        a.ChangePassword("someone", PASSWORD, "Intruders-Own-3", "192.0.2.1"),
        a.UpdateAccount("", "someone", "", OTHER),
    )
    assert isinstance(changed, LoginError)
    assert not isinstance(replaced, CasemateError)
    world.login("someone", OTHER)


def test_a_log_without_end_keeps_its_end_and_takes_bounded_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "READ_LIMIT", 100)
    path = tmp_path / "hostd.log"
    with path.open("ab", buffering=0) as writer:
        writer.write(b"x" * 1000 + b"the end")
        logs._turn(path)
        assert (path.stat().st_size, (tmp_path / "hostd.log.1").stat().st_size) == (0, 100)
        assert (tmp_path / "hostd.log.1").read_bytes().endswith(b"the end")
        writer.write(b"goes on")
    logs._turn(path)
    assert path.read_bytes() == b"goes on"


def test_who_gets_the_name_of_a_removed_account_is_no_exception_of_the_lockdown(
    world: World,
) -> None:
    world.someone(-1)
    world.do(a.SetLockdownExceptions("", ("root", "someone")))
    world.do(a.SetLockdown("", "lockdownNormal"))
    world.do(a.RemoveAccount("", "someone"))
    world.someone(-1)
    with pytest.raises(PermissionDeniedError):
        world.login("someone")
    world.login("root")
