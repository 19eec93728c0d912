"""Who may make VMs may not therefore fill every datastore, or read files of any."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from casemate.calls import messages as m
from casemate.calls import vms as c
from casemate.calls.leases import OpenImport
from casemate.errors import CasemateError, PermissionDeniedError, StateError
from casemate.kernel.accounts import Accounts
from casemate.kernel.admin import Admin
from casemate.kernel.home import HOSTD_UID
from casemate.kernel.host import About, Kernel
from casemate.kernel.inventory import Inventory
from casemate.kernel.leases import Leases
from casemate.kernel.logins import Logins
from casemate.kernel.ova import Ova
from casemate.kernel.server import Caller
from casemate.kernel.store import Store
from casemate.kernel.stream import FactStream
from casemate.kernel.vms import Vms
from casemate.machine.facts import DatastoreFact, DiskSpec, VmConfig
from casemate.policy.privileges import Role
from casemate.policy.rights import ROOT, Permission

from .registering import allowed, registered

PASSWORD = "Correct-Horse-7"
SPACE, BROWSE, FILES = "Datastore.AllocateSpace", "Datastore.Browse", "Datastore.FileManagement"
NEW = VmConfig("new", "", "[datastore1]", "otherGuest", 1, 16, "bios")
DISK = DiskSpec("", "disk", "vmdk", 8 << 20, "scsi0", 0)


class Asker:
    """A kernel with one VM, and an account with a role of the test's."""

    def __init__(self, place: Path) -> None:
        volumes = place / "volumes"
        (volumes / "datastore1" / "one").mkdir(parents=True)
        text = 'displayName = "one"\nguestOS = "other"\nmemSize = "16"\nvirtualHW.version = "21"\n'
        (volumes / "datastore1" / "one" / "one.vmx").write_text(text)
        self.store, stream = Store(place / "casemate.db"), FactStream()
        accounts = Accounts(self.store, lambda: 1000.0)
        host = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
        self.inventory = Inventory(self.store, stream, volumes, host)
        self.inventory.publish_all(1000, 1000)
        accounts.set_password("someone", "", PASSWORD, "NoAccess")
        self.admin = Admin(self.store, stream, accounts, Logins(accounts, lambda: 1000.0))
        nothing = SimpleNamespace()
        self.kernel = Kernel(
            self.store,
            stream,
            accounts,
            self.inventory,
            nothing,  # type: ignore[arg-type]
            lambda _: nothing,  # type: ignore[arg-type, return-value]
            About("", "", 0.0),
            lambda: 1000.0,
        )
        self.kernel.govern(self.admin.demand)
        vms = Vms(replace(self.kernel.vms, admit=allowed), self.kernel.check)
        self.kernel.add(vms.handlers())
        self.kernel.add(Ova(self.kernel.vms, vms, self.kernel.check).handlers())
        self.kernel.add(Leases(self.kernel.vms, vms, lambda: 0.0).handlers())
        self.vm = registered(self.inventory, "[datastore1] one/one.vmx")
        self.session, _ = accounts.login("someone", PASSWORD, "192.0.2.1")

    def may(self, *privileges: str) -> None:
        self.admin.rights.put_role(Role(77, "test", "test", frozenset(privileges)))
        self.admin.rights.put(Permission(ROOT, "someone", 77, propagate=True))

    def ask(self, request: object) -> None:
        async def body() -> None:
            await self.kernel.handle(request, Caller(HOSTD_UID, 1))
            await self.kernel.vms.tasks.drain()

        asyncio.run(body())


@pytest.fixture
def asker(tmp_path: Path) -> Iterator[Asker]:
    made = Asker(tmp_path)
    yield made
    made.store.close()


def _config(asker: Asker) -> VmConfig:
    return asker.inventory.vm(asker.vm).config


REQUESTS: dict[str, tuple[Callable[[Asker], object], tuple[str, ...]]] = {
    "create": (lambda one: c.CreateVm(one.session, NEW), (SPACE,)),
    "register": (lambda one: m.RegisterVm(one.session, "[datastore1] two/two.vmx"), (BROWSE,)),
    "clone": (lambda one: c.CloneVm(one.session, one.vm, "copy"), (SPACE,)),
    "new disk": (
        lambda one: c.ReconfigureVm(
            one.session, one.vm, _config(one), replace(_config(one), disks=(DISK,))
        ),
        (SPACE,),
    ),
    "import": (lambda one: c.ImportVm(one.session, "[datastore1] new.ova"), (BROWSE, SPACE)),
    "lease": (lambda one: OpenImport(one.session, NEW), (SPACE,)),
    "export": (lambda one: c.ExportVm(one.session, one.vm, "[datastore1] one.ova"), (FILES,)),
}


@pytest.mark.parametrize(
    ("request_of", "lacking", "others"),
    [
        pytest.param(of, one, tuple({*needed} - {one}), id=f"{name}-{one}")
        for name, (of, needed) in REQUESTS.items()
        for one in needed
    ],
)
def test_without_the_privilege_on_the_datastore_nothing_is_made_or_read(
    asker: Asker, request_of: Callable[[Asker], object], lacking: str, others: tuple[str, ...]
) -> None:
    request = request_of(asker)
    own = type(request).privilege  # type: ignore[attr-defined]
    asker.may(own, *others)
    with pytest.raises(PermissionDeniedError) as caught:
        asker.ask(request)
    assert caught.value.privilege == lacking
    # What somebody has elsewhere does not count where the datastore itself gives nothing.
    (store,) = asker.inventory.datastores()
    entity = (DatastoreFact.__name__.removesuffix("Fact"), store.datastore)
    asker.may(own, *others, lacking)
    asker.admin.rights.put(Permission(entity, "someone", -5, propagate=True))
    with pytest.raises(PermissionDeniedError):
        asker.ask(request)


def test_with_the_privilege_a_vm_is_made(asker: Asker) -> None:
    asker.may(c.CreateVm.privilege, SPACE)
    asker.ask(c.CreateVm(asker.session, NEW))
    assert {fact.config.name for fact in asker.inventory.vms()} == {"one", "new"}


def test_nothing_is_admitted_while_nobody_says_what_the_host_can_give(asker: Asker) -> None:
    fact = asker.inventory.vm(asker.vm)
    with pytest.raises(StateError):
        asker.kernel.vms.admit(fact, fact.config)


def test_a_change_that_takes_no_space_needs_no_right_to_it(asker: Asker) -> None:
    asker.may(c.ReconfigureVm.privilege)
    before = _config(asker)
    after = replace(before, annotation="changed")
    asker.ask(c.ReconfigureVm(asker.session, asker.vm, before, after))
    assert _config(asker).annotation == "changed"


def test_a_datastore_that_there_is_not_is_no_way_around(asker: Asker) -> None:
    asker.may(c.CreateVm.privilege)
    for path in ("[nowhere]", "", "nonsense"):
        with pytest.raises(CasemateError):
            asker.ask(c.CreateVm(asker.session, replace(NEW, vmx_path=path)))
