"""Who may have a VM use files outside of its directory; what names them cannot be slipped in."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from casemate.calls.vms import CreateSnapshot, ReconfigureVm, RevertToSnapshot
from casemate.errors import (
    CasemateError,
    DatastorePathError,
    FormatError,
    PermissionDeniedError,
)
from casemate.formats.datastorepath import beside, full, local
from casemate.kernel import vms
from casemate.kernel.accounts import LOCAL_ROOT, Session
from casemate.kernel.cells.directory import VmDirectory
from casemate.kernel.elsewhere import demand_elsewhere, used_by_others
from casemate.kernel.inventory import Inventory
from casemate.kernel.snapshots import Snapshots
from casemate.kernel.store import Store
from casemate.kernel.stream import FactStream
from casemate.kernel.tasks import Tasks
from casemate.kernel.vmcontext import VmContext
from casemate.kernel.vms import Vms
from casemate.machine.facts import DiskSpec, VmConfig, VmFact

from .registering import allowed, registered

UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
DATA = "/vmfs/volumes/second/shared/data.vmdk"
IMAGE = "/vmfs/volumes/second/iso/tools.iso"
LOOK, WRITE, SPACE = "Datastore.Browse", "Datastore.FileManagement", "Datastore.AllocateSpace"


class Rights:
    """Somebody with some privileges on the datastore ``second``."""

    def __init__(self, inventory: Inventory, *given: str) -> None:
        self.store = inventory.place_of("[second]")
        self.given = given
        self.asked: list[str] = []

    def check(self, _: Session, privilege: str, what: object) -> None:
        self.asked.append(privilege)
        if what != self.store or privilege not in self.given:
            raise PermissionDeniedError("no", privilege=privilege)


@pytest.fixture
def inventory(tmp_path: Path) -> Iterator[Inventory]:
    for name in ("datastore1/one", "second/shared"):
        (tmp_path / "volumes" / name).mkdir(parents=True)
    store = Store(tmp_path / "casemate.db")
    made = Inventory(store, FactStream(), tmp_path / "volumes", UUID)
    made.publish_all(1000, 1000)
    yield made
    store.close()


def disk(name: str = "", kind: str = "disk", wanted: str = "") -> DiskSpec:
    form = "raw" if kind == "cdrom" else "vmdk"
    return DiskSpec(name, kind, form, 512, "ide0", 0, wanted=wanted)


def config(*disks: DiskSpec) -> VmConfig:
    return VmConfig("one", "", "[datastore1] one/one.vmx", "other", 1, 16, "bios", disks=disks)


@pytest.mark.parametrize(
    ("one", "needed"),
    [
        (disk(DATA), (LOOK, WRITE)),
        (disk(wanted=DATA), (SPACE, WRITE)),
        (disk(wanted="[second]"), (SPACE, WRITE)),
        (disk(IMAGE, "cdrom"), (LOOK,)),
        (disk("one.vmdk"), ()),
        (disk(wanted="one.vmdk"), ()),
    ],
)
def test_each_file_elsewhere_takes_what_its_guest_does_with_it(inventory, one, needed):
    demand_elsewhere(Rights(inventory, *needed).check, inventory, LOCAL_ROOT, config(one))
    for lacking in needed:
        left = Rights(inventory, *(set(needed) - {lacking}))
        with pytest.raises(PermissionDeniedError) as refused:
            demand_elsewhere(left.check, inventory, LOCAL_ROOT, config(one))
        assert refused.value.privilege == lacking


def test_what_a_vm_has_already_takes_nothing_until_it_is_removed_with_its_file(inventory):
    nobody, before = Rights(inventory), config(disk(DATA))
    demand_elsewhere(nobody.check, inventory, LOCAL_ROOT, before, before)
    demand_elsewhere(nobody.check, inventory, LOCAL_ROOT, config(), before, ("one.vmdk",))
    with pytest.raises(PermissionDeniedError):
        demand_elsewhere(nobody.check, inventory, LOCAL_ROOT, config(), before, (DATA,))
    larger = config(replace(disk(DATA), capacity=1024))
    with pytest.raises(PermissionDeniedError) as refused:
        demand_elsewhere(nobody.check, inventory, LOCAL_ROOT, larger, before)
    assert refused.value.privilege == SPACE
    # What it read as a disc it does not write as a disk.
    image = IMAGE.replace(".iso", ".img")
    with pytest.raises(PermissionDeniedError):
        demand_elsewhere(
            nobody.check,
            inventory,
            LOCAL_ROOT,
            config(disk(image)),
            config(disk(image, "cdrom")),
        )


def test_a_datastore_that_is_not_there_is_said_so(inventory):
    wanted = config(disk("/vmfs/volumes/third/a/data.vmdk"))
    with pytest.raises(DatastorePathError, match="third"):
        demand_elsewhere(lambda *_: None, inventory, LOCAL_ROOT, wanted)


def test_a_registered_file_names_no_disk_that_its_asker_may_not_use(inventory, tmp_path):
    place = tmp_path / "volumes/datastore1/one"
    (place / "one.vmx").write_text(
        'displayName = "one"\nguestOS = "other"\nide0:0.present = "TRUE"\n'
        f'ide0:0.fileName = "{DATA}"\n'
    )
    nobody, seen = Rights(inventory), []

    def allow(fact: VmFact) -> None:
        seen.append(fact.config.disks[0].file_name)
        demand_elsewhere(nobody.check, inventory, LOCAL_ROOT, fact.config)

    with pytest.raises(PermissionDeniedError):
        asyncio.run(inventory.register("[datastore1] one/one.vmx", allow=allow))
    assert (inventory.vms(), seen) == ((), [DATA])


@pytest.mark.parametrize("name", ["a.vmdk", DATA, "/vmfs/volumes/datastore1/one/a.vmdk"])
def test_a_file_has_one_name_in_a_vm_and_one_in_full(name):
    path = "[datastore1] one/one.vmx"
    known = local(name, path)
    assert local(full(known, path), path) == known
    assert full(known, path).startswith("/vmfs/volumes/")
    assert beside(known, "b") == local(beside(full(name, path), "b"), path)


@pytest.mark.parametrize("path", ["[datastore1]", "[datastore1] one", "one/one.vmx", "../one.vmx"])
def test_nothing_is_beside_a_file_that_is_not_there_yet(path):
    name = "/vmfs/volumes/datastore1/a.vmdk"
    assert local(name, path) == name
    assert full("a.vmdk", path) == "a.vmdk"


def test_an_unknown_privilege_is_no_privilege(inventory):
    with pytest.raises(CasemateError):
        demand_elsewhere(
            Rights(inventory, "Datastore").check, inventory, LOCAL_ROOT, config(disk(DATA))
        )


def test_no_file_goes_while_a_vm_that_may_need_it_cannot_be_read(inventory, tmp_path):
    nothing = SimpleNamespace()
    context = VmContext(
        *(inventory, nothing, nothing, nothing),  # type: ignore[arg-type]
        lambda: 0.0,
        allowed,
    )
    place = tmp_path / "volumes/datastore1/one"
    with VmDirectory(place) as directory:
        directory.make_disk("base.vmdk", disk(), thin=True)
    for name in ("one", "two"):
        text = f'displayName = "{name}"\nguestOS = "other"\nide0:0.present = "TRUE"\n'
        (place / f"{name}.vmx").write_text(f'{text}ide0:0.fileName = "base.vmdk"\n')
        registered(inventory, f"[datastore1] one/{name}.vmx")
    own = next(fact for fact in inventory.vms() if fact.config.name == "one")
    assert "base.vmdk" in used_by_others(context, own)
    (place / "two.vmx").write_text("no file of a VM")
    # A start of the kernel shows such a VM without disks.
    inventory.publish_all(1000, 1000)
    with pytest.raises(FormatError, match=r"two\.vmx"):
        used_by_others(context, own)
    two = next(fact for fact in inventory.vms() if fact.config.name == "two")
    inventory.unregister(two.vm)
    (place / "two.vmx").unlink()
    assert "base.vmdk" not in used_by_others(context, own)


def test_a_disk_that_another_vm_takes_while_it_is_let_go_stays(inventory, tmp_path, monkeypatch):
    volumes = tmp_path / "volumes"
    with VmDirectory(volumes / "datastore1/one", volumes=volumes) as directory:
        directory.make_disk(DATA, replace(disk(DATA), capacity=1 << 20), thin=True)
    for name, named in (
        ("one", f'ide0:0.present = "TRUE"\nide0:0.fileName = "{DATA}"\n'),
        ("two", ""),
    ):
        place = volumes / "datastore1" / name
        place.mkdir(exist_ok=True)
        text = f'displayName = "{name}"\nguestOS = "other"\nvirtualHW.version = "21"\n{named}'
        (place / f"{name}.vmx").write_text(text)
    one, two = (registered(inventory, f"[datastore1] {name}/{name}.vmx") for name in ("one", "two"))
    nothing = SimpleNamespace()
    stream = FactStream()
    tasks = Tasks(stream, lambda: 0.0)
    context = VmContext(inventory, nothing, tasks, nothing, lambda: 0.0, allowed)
    reconfigure = Vms(context, lambda *_: None).handlers()[ReconfigureVm]
    begun, end = threading.Event(), threading.Event()
    really = vms.make_disks

    def slowly(directory, config, *rest, **more):
        if config.name == "one":
            begun.set()
            assert end.wait(120)
        return really(directory, config, *rest, **more)

    async def change(vm: str, *names: str, destroy: tuple[str, ...] = ()) -> None:
        before = inventory.vm(vm).config
        after = replace(before, disks=tuple(map(disk, names)))
        await reconfigure(ReconfigureVm("", vm, before, after, destroy), LOCAL_ROOT)

    async def story() -> None:
        await change(one, destroy=(DATA,))
        try:
            assert await asyncio.to_thread(begun.wait, 120)
            await change(two, DATA)
            for _ in range(10_000):
                if inventory.vm(two).config.disks:
                    break
                await asyncio.sleep(0.01)
        finally:
            end.set()
        await tasks.drain()
        assert sorted(one.name for one in (volumes / "second/shared").iterdir()) == [
            *("data-flat.vmdk", "data.vmdk")
        ]
        assert inventory.vm(one).config.disks == ()
        await change(two, destroy=(DATA,))
        await tasks.drain()
        assert list((volumes / "second/shared").iterdir()) == []

    monkeypatch.setattr(vms, "make_disks", slowly)
    asyncio.run(asyncio.wait_for(story(), 240))


def test_who_reverts_is_asked_for_what_no_snapshot_is_of_and_nothing_else(inventory, tmp_path):
    volumes = tmp_path / "volumes"
    place = volumes / "datastore1/one"
    with VmDirectory(place, volumes=volumes) as directory:
        directory.make_disk(DATA, replace(disk(DATA), capacity=1 << 20), thin=True)
    (place / "one.vmx").write_text(
        'displayName = "one"\nguestOS = "other"\nvirtualHW.version = "21"\n'
        f'ide0:0.present = "TRUE"\nide0:0.fileName = "{DATA}"\n'
    )
    vm = registered(inventory, "[datastore1] one/one.vmx")
    tasks, nothing, nobody = Tasks(FactStream(), lambda: 0.0), SimpleNamespace(), Rights(inventory)
    context = VmContext(inventory, nothing, tasks, nothing, lambda: 0.0, allowed)
    handlers = Snapshots(context, nothing, nothing, nobody.check).handlers()

    async def story() -> None:
        await handlers[CreateSnapshot](CreateSnapshot("", vm, "now"), LOCAL_ROOT)
        await tasks.drain()
        (former,) = inventory.vm(vm).config.disks
        await handlers[RevertToSnapshot](RevertToSnapshot("", vm), LOCAL_ROOT)
        await tasks.drain()
        assert inventory.vm(vm).config.disks != (former,)
        assert nobody.asked == []
        (state,) = place.glob("*.vmsn")
        state.write_text(state.read_text().replace("data.vmdk", "others.vmdk"))
        with pytest.raises(PermissionDeniedError):
            await handlers[RevertToSnapshot](RevertToSnapshot("", vm), LOCAL_ROOT)

    asyncio.run(asyncio.wait_for(story(), 240))
