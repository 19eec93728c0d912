"""PropertyCollector: selection, paging, filters, versions, waiting."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import cast

import pytest

from casemate.calls.messages import FactReply, Login, SessionReply
from casemate.hostd import filters
from casemate.hostd.methods import collector
from casemate.hostd.reader import Reader
from casemate.hostd.replica import Replica
from casemate.hostd.selection import Selector
from casemate.hostd.session import Sessions
from casemate.hostd.soap import PART_SIZE
from casemate.hostd.views import ListView
from casemate.hostd.world import World
from casemate.machine.autostart import AutoStartEntry, AutoStartFact
from casemate.machine.facts import HostFact, PowerState, TaskFact, TaskState, VmFact
from casemate.machine.governance import PermissionFact
from casemate.testing.fakefacts import BOOT_TIME, DATASTORE, fake_vm
from casemate.testing.fakekernel import PASSWORD, READER, USER, FakeKernel
from casemate.testing.soapclient import Reply
from casemate.vim25 import decode
from casemate.vim25.shapes import Kind, TypeRef
from casemate.vim25.values import MoRef, Obj
from casemate.vim25.versions import NEWEST

COLLECTOR = MoRef("PropertyCollector", "ha-property-collector")
VIEWS = MoRef("ViewManager", "ViewManager")

CHILDREN = (
    '<selectSet xsi:type="TraversalSpec"><name>kids</name><type>Folder</type>'
    "<path>childEntity</path><skip>false</skip><selectSet><name>kids</name></selectSet>"
    "<selectSet><name>folders</name></selectSet></selectSet>"
    '<selectSet xsi:type="TraversalSpec"><name>folders</name><type>Datacenter</type>'
    "<path>vmFolder</path><skip>false</skip><selectSet><name>kids</name></selectSet></selectSet>"
)


def prop_set(kind: str, *paths: str, every: bool = False) -> str:
    inner = "<all>true</all>" if every else "".join(f"<pathSet>{p}</pathSet>" for p in paths)
    return f"<propSet><type>{kind}</type>{inner}</propSet>"


def object_set(ref: MoRef, select: str = "", *, skip: bool = False) -> str:
    skipped = "<skip>true</skip>" if skip else ""
    return f'<objectSet><obj type="{ref.type}">{ref.value}</obj>{skipped}{select}</objectSet>'


def fake_task(key: str) -> TaskFact:
    return TaskFact(
        key, "1", "VirtualMachine", "powerOn", TaskState.RUNNING, 0, BOOT_TIME, "root", BOOT_TIME
    )


def vm(number: int) -> MoRef:
    return MoRef("VirtualMachine", str(number))


def names(reply: Reply) -> list[str]:
    assert reply.status == 200, reply.text
    return re.findall(r'<obj type="\w+">([^<]*)</obj>', reply.text)


async def retrieve(client, *parts: str) -> Reply:
    return await client.call(
        "RetrieveProperties", COLLECTOR, f"<specSet>{''.join(parts)}</specSet>"
    )


ROOT = MoRef("Folder", "ha-folder-root")


def test_traversal_walks_by_names_and_matches_subclasses(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        reply = await retrieve(
            host.root, prop_set("ManagedEntity", "name"), object_set(ROOT, CHILDREN)
        )
        assert names(reply) == ["ha-folder-root", "ha-datacenter", "ha-folder-vm", "1", "2"]

    play(story)


def test_skipped_objects_are_walked_but_not_reported(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        reply = await retrieve(
            host.root, prop_set("Folder", "name"), object_set(ROOT, CHILDREN, skip=True)
        )
        assert names(reply) == ["ha-folder-vm"]

    play(story)


def test_several_property_sets_of_one_object_merge(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        reply = await retrieve(
            host.root,
            prop_set("ManagedEntity", "name"),
            prop_set("VirtualMachine", "runtime.powerState", "name"),
            object_set(vm(1)),
        )
        assert reply.text.count("<propSet>") == 2

    play(story)


def test_a_traversal_that_goes_in_circles_ends(play: Callable[..., None]) -> None:
    circle = (
        '<selectSet xsi:type="TraversalSpec"><name>up</name><type>ManagedEntity</type><path>parent'
        "</path><selectSet><name>up</name></selectSet><selectSet><name>down</name></selectSet>"
        '</selectSet><selectSet xsi:type="TraversalSpec"><name>down</name><type>Folder</type>'
        "<path>childEntity</path><selectSet><name>up</name></selectSet></selectSet>"
    )

    async def story(host) -> None:
        reply = await retrieve(
            host.root, prop_set("ManagedEntity", "name"), object_set(vm(1), circle)
        )
        assert len(names(reply)) == len(set(names(reply))) == 5

    play(story)


@pytest.mark.parametrize(
    ("parts", "fault"),
    [
        ((prop_set("Nope", "name"), object_set(ROOT)), "InvalidArgument"),
        ((prop_set("AboutInfo", "name"), object_set(ROOT)), "InvalidArgument"),
        ((prop_set("Folder", "nope"), object_set(ROOT)), "InvalidProperty"),
        ((prop_set("Folder", "name..x"), object_set(ROOT)), "InvalidProperty"),
        ((prop_set("Folder"), object_set(MoRef("Folder", "x"))), "ManagedObjectNotFound"),
        (
            (prop_set("Folder"), object_set(ROOT, "<selectSet><name>nope</name></selectSet>")),
            "InvalidArgument",
        ),
        (
            (
                prop_set("Folder"),
                object_set(
                    ROOT,
                    '<selectSet xsi:type="TraversalSpec"><type>Folder</type><path>nope</path>'
                    "</selectSet>",
                ),
            ),
            "InvalidProperty",
        ),
    ],
)
def test_senseless_selections_are_refused(
    parts: tuple[str, ...], fault: str, play: Callable[..., None]
) -> None:
    async def story(host) -> None:
        assert (await retrieve(host.root, *parts)).fault == fault

    play(story)


def test_nobody_can_walk_the_inventory_without_a_session(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        reply = await retrieve(host.anonymous, prop_set("Folder", "name"), object_set(ROOT))
        assert reply.fault == "NotAuthenticated"

    play(story)


def test_unreadable_properties_are_missing_not_fatal(play: Callable[..., None]) -> None:
    manager = MoRef("SessionManager", "ha-sessionmgr")

    async def story(host) -> None:
        parts = (prop_set("SessionManager", "defaultLocale", "sessionList"), object_set(manager))
        reply = await retrieve(host.anonymous, *parts)
        assert "<name>defaultLocale</name>" in reply.text
        assert "<missingSet><path>sessionList</path>" in reply.text
        assert 'xsi:type="NotAuthenticated"' in reply.text
        reply = await retrieve(host.reader, *parts)
        assert 'xsi:type="NoPermission"' in reply.text
        reply = await retrieve(host.root, *parts)
        assert "missingSet" not in reply.text

    play(story)


def test_paths_into_keyed_arrays_are_answered_under_their_own_name(
    play: Callable[..., None],
) -> None:
    async def story(host) -> None:
        path = "config.hardware.device[2000].capacityInKB"
        reply = await retrieve(host.root, prop_set("VirtualMachine", path), object_set(vm(1)))
        assert f'<name>{path}</name><val xsi:type="xsd:long">4194304</val>' in reply.text

    play(story)


def test_pages_follow_each_other_until_the_end(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        spec = (
            f"<specSet>{prop_set('ManagedEntity', 'name')}{object_set(ROOT, CHILDREN)}</specSet>"
            "<options><maxObjects>4</maxObjects></options>"
        )
        first = await host.root.call("RetrievePropertiesEx", COLLECTOR, spec)
        token = re.search(r"<token>(\d+)</token>", first.text)[1]
        rest = await host.root.call(
            "ContinueRetrievePropertiesEx", COLLECTOR, f"<token>{token}</token>"
        )
        assert len(names(first)) == 4
        assert names(rest) == ["2"]
        assert "<token>" not in rest.text
        again = await host.root.call(
            "ContinueRetrievePropertiesEx", COLLECTOR, f"<token>{token}</token>"
        )
        assert again.fault == "InvalidArgument"

    play(story)


def test_nothing_selected_is_no_value_at_all(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        spec = f"<specSet>{prop_set('HostSystem', 'name')}{object_set(ROOT)}</specSet><options/>"
        reply = await host.root.call("RetrievePropertiesEx", COLLECTOR, spec)
        assert '<RetrievePropertiesExResponse xmlns="urn:vim25"></Retrieve' in reply.text

    play(story)


async def filter_on(client, *parts: str) -> str:
    spec = f"<spec>{''.join(parts)}</spec><partialUpdates>false</partialUpdates>"
    reply = await client.call("CreateFilter", COLLECTOR, spec)
    assert reply.status == 200, reply.text
    return re.search(r'type="PropertyFilter">([^<]*)<', reply.text)[1]


async def wait(client, version: str = "", options: str = "") -> Reply:
    inner = f"<version>{version}</version><options>{options}</options>"
    return await client.call("WaitForUpdatesEx", COLLECTOR, inner)


def version_of(reply: Reply) -> str:
    return re.search(r"<version>(\d+)</version>", reply.text)[1]


TOLD = r'<kind>(\w+)</kind><obj type="VirtualMachine">(\d+)<'
NOW = "<maxWaitSeconds>0</maxWaitSeconds>"
STATE = ("VirtualMachine", "runtime.powerState")


def test_first_answer_is_the_whole_state_then_only_changes(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        await filter_on(host.root, prop_set(*STATE), object_set(vm(1)), object_set(vm(2)))
        first = await wait(host.root)
        assert first.text.count("<kind>enter</kind>") == 2
        again = await wait(host.root, version_of(first), NOW)
        assert "returnval" not in again.text
        task = asyncio.ensure_future(wait(host.root, version_of(first)))
        await asyncio.sleep(0.02)
        assert not task.done()
        host.kernel.state(replace(fake_vm(1), power=PowerState.POWERED_ON))
        changed = await task
        assert names(changed) == ["1"]
        assert changed.text.count("<changeSet>") == 1
        assert ">poweredOn</val>" in changed.text

    play(story)


def test_a_change_of_other_properties_wakes_nobody(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        await filter_on(host.root, prop_set(*STATE), object_set(vm(1)))
        first = await wait(host.root)
        host.kernel.state(replace(fake_vm(1), cpu_usage_mhz=5))
        await asyncio.sleep(0.02)
        assert "returnval" not in (await wait(host.root, version_of(first), NOW)).text

    play(story)


def test_objects_enter_and_leave_a_view(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        made = await host.root.call(
            "CreateContainerView",
            VIEWS,
            '<container type="Folder">ha-folder-root</container><type>VirtualMachine</type>'
            "<recursive>true</recursive>",
        )
        view = MoRef("ContainerView", re.search(r">(session\[[^<]*)<", made.text)[1])
        select = (
            '<selectSet xsi:type="TraversalSpec"><type>ContainerView</type><path>view</path>'
            "<skip>false</skip></selectSet>"
        )
        await filter_on(
            host.root, prop_set("VirtualMachine", "name"), object_set(view, select, skip=True)
        )
        first = await wait(host.root)
        assert names(first) == ["1", "2"]
        host.kernel.state(fake_vm(3))
        host.kernel.retract(VmFact, "1")
        second = await wait(host.root, version_of(first))
        third = await wait(host.root, version_of(second), NOW)
        both = second.text + third.text
        assert '<kind>enter</kind><obj type="VirtualMachine">3</obj>' in both
        assert '<kind>leave</kind><obj type="VirtualMachine">1</obj>' in both

    play(story)


@pytest.mark.parametrize(
    ("container", "recursive", "direct"),
    [
        ('"Folder">ha-folder-root', ["1", "2"], []),
        ('"Folder">ha-folder-vm', ["1", "2"], ["1", "2"]),
        ('"Folder">ha-folder-host', ["1", "2"], []),
        ('"Folder">ha-folder-datastore', [], []),
        ('"ComputeResource">ha-compute-res', ["1", "2"], []),
        ('"ResourcePool">ha-root-pool', ["1", "2"], ["1", "2"]),
        ('"HostSystem">ha-host', ["1", "2"], ["1", "2"]),
    ],
)
def test_a_vm_is_in_its_folder_its_pool_and_on_the_host(
    container: str, recursive: list[str], direct: list[str], play: Callable[..., None]
) -> None:
    async def story(host) -> None:
        for whole, wanted in (("true", recursive), ("false", direct)):
            inner = f"<container type={container}</container><type>VirtualMachine</type>"
            made = await host.root.call(
                "CreateContainerView", VIEWS, f"{inner}<recursive>{whole}</recursive>"
            )
            view = MoRef("ContainerView", re.search(r">(session\[[^<]*)<", made.text)[1])
            got = await host.root.call("Fetch", view, "<prop>view</prop>")
            assert sorted(re.findall(r'type="VirtualMachine"[^>]*>(\d+)<', got.text)) == wanted

    play(story)


def test_tasks_of_a_list_leave_when_they_are_forgotten(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        tasks = [fake_task("a"), fake_task("b")]
        host.kernel.state(*tasks)
        refs = [MoRef("Task", task.task) for task in tasks]
        for ref in refs:
            for _ in range(10_000):
                if not (await retrieve(host.root, prop_set("Task"), object_set(ref))).fault:
                    break
                await asyncio.sleep(0.002)
        members = "".join(f'<obj type="Task">{ref.value}</obj>' for ref in refs)
        made = await host.root.call("CreateListView", VIEWS, members)
        view = MoRef("ListView", re.search(r">(session\[[^<]*)<", made.text)[1])
        select = (
            '<selectSet xsi:type="TraversalSpec"><type>ListView</type><path>view</path>'
            "<skip>false</skip></selectSet>"
        )
        await filter_on(host.root, prop_set("Task", "info.state"), object_set(view, select))
        first = await wait(host.root)
        assert set(names(first)) == {ref.value for ref in refs}
        host.kernel.retract(TaskFact, "a")
        second = await wait(host.root, version_of(first))
        assert '<kind>leave</kind><obj type="Task">a</obj>' in second.text
        assert names(second) == ["a"]

    play(story)


def test_new_tasks_are_no_new_inventory(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        world = World()
        for fact in host.kernel.all(HostFact):
            world.fold(FactReply("", 1, "HostFact", fact.key, fact))
        before = world.structure
        task = fake_task("t")
        change = world.fold(FactReply("", 2, "TaskFact", "t", task))
        assert not change.structure
        assert world.structure == before
        assert {MoRef("Task", "t"), MoRef("TaskManager", "ha-taskmgr"), vm(1)} == change.touched

    play(story)


def test_a_long_answer_comes_in_parts_and_is_whole(play: Callable[..., None]) -> None:
    many = 600

    async def story(host) -> None:
        every = [object_set(vm(number)) for number in range(1, many + 1)]
        reply = await retrieve(host.root, prop_set("VirtualMachine", "name", "config"), *every)
        assert len(reply.text.encode()) == int(reply.headers["content-length"]) > 4 * PART_SIZE
        assert names(reply) == [str(number) for number in range(1, many + 1)]
        assert "snowman ☃" in reply.text

    kernel = FakeKernel(vms=many)
    odd = fake_vm(7)
    kernel.state(replace(odd, config=replace(odd.config, name="snowman ☃")))
    play(story, kernel)


def test_many_updates_come_in_parts(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        await filter_on(
            host.root, prop_set("VirtualMachine", "name"), *map(object_set, map(vm, range(1, 6)))
        )
        seen: list[str] = []
        version = ""
        for _ in range(3):
            reply = await wait(host.root, version, "<maxObjectUpdates>2</maxObjectUpdates>" + NOW)
            if "returnval" not in reply.text:
                break
            version = version_of(reply)
            seen += names(reply)
        assert seen == ["1", "2", "3", "4", "5"]

    play(story, FakeKernel(vms=5))


def test_of_objects_that_were_named_only_the_one_that_ends_leaves(
    play: Callable[..., None],
) -> None:
    async def story(host) -> None:
        every = [object_set(vm(number)) for number in (1, 2, 3)]
        await filter_on(host.root, prop_set("VirtualMachine", "name"), *every)
        first = await wait(host.root)
        host.kernel.retract(VmFact, "2")
        second = await wait(host.root, version_of(first))
        assert re.findall(r"<kind>(\w+)</kind>", second.text) == ["leave"]
        assert names(second) == ["2"]
        host.kernel.state(fake_vm(2))
        third = await wait(host.root, version_of(second))
        assert '<kind>enter</kind><obj type="VirtualMachine">2</obj>' in third.text

    play(story, FakeKernel(vms=3))


def test_a_wait_that_is_overtaken_while_it_gathers_loses_nothing(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Others get their turn after every object.
    monkeypatch.setattr(filters, "TURN_SECONDS", -1.0)
    many = 30

    async def story(host) -> None:
        every = [object_set(vm(number)) for number in range(1, many + 1)]
        await filter_on(host.root, prop_set("VirtualMachine", "name"), *every)
        first = asyncio.ensure_future(wait(host.root))
        for _ in range(12):
            await asyncio.sleep(0)
        assert not first.done()
        host.kernel.retract(VmFact, "7")
        told: dict[str, str] = {}
        version = ""
        for _ in range(4):
            reply = await wait(host.root, version, NOW)
            if "returnval" in reply.text:
                version = version_of(reply)
                told |= {key: kind for kind, key in re.findall(TOLD, reply.text)}
        assert (await first).fault == "RequestCanceled"
        told.pop("7", None)
        assert told == {str(n): "enter" for n in range(1, many + 1) if n != 7}
        assert "returnval" not in (await wait(host.root, version, NOW)).text

    play(story, FakeKernel(vms=many))


def test_an_old_version_is_refused(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        await filter_on(host.root, prop_set(*STATE), object_set(vm(1)))
        await wait(host.root)
        assert (await wait(host.root, "77")).fault == "InvalidCollectorVersion"

    play(story)


@pytest.mark.parametrize(
    "options",
    ["<maxWaitSeconds>-1</maxWaitSeconds>", "<maxObjectUpdates>0</maxObjectUpdates>"],
)
def test_impossible_waits_are_refused(options: str, play: Callable[..., None]) -> None:
    async def story(host) -> None:
        assert (await wait(host.root, "", options)).fault == "InvalidArgument"

    play(story)


def test_a_wait_can_be_cancelled(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        waiting = asyncio.ensure_future(wait(host.root))
        for _ in range(10_000):
            await asyncio.sleep(0.02)
            await host.root.call("CancelWaitForUpdates", COLLECTOR)
            if waiting.done():
                break
        assert (await waiting).fault == "RequestCanceled"

    play(story)


def test_a_filter_made_during_a_wait_is_seen(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        waiting = asyncio.ensure_future(wait(host.root))
        await asyncio.sleep(0.02)
        await filter_on(host.root, prop_set(*STATE), object_set(vm(1)))
        assert names(await waiting) == ["1"]

    play(story)


def test_a_destroyed_filter_is_silent(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        key = await filter_on(host.root, prop_set(*STATE), object_set(vm(1)))
        await host.root.call("DestroyPropertyFilter", MoRef("PropertyFilter", key))
        assert "returnval" not in (await wait(host.root, "", NOW)).text

    play(story)


def test_filters_of_other_sessions_do_not_exist(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        key = await filter_on(host.root, prop_set(*STATE), object_set(vm(1)))
        ref = MoRef("PropertyFilter", key)
        reply = await host.reader.call("DestroyPropertyFilter", ref)
        assert reply.fault == "ManagedObjectNotFound"

    play(story)


def test_list_views_answer_what_does_not_exist(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        made = await host.root.call("CreateListView", VIEWS)
        view = MoRef("ListView", re.search(r">(session\[[^<]*)<", made.text)[1])
        added = await host.root.call(
            "ModifyListView",
            view,
            '<add type="VirtualMachine">1</add><add type="VirtualMachine">99</add>',
        )
        assert ">99<" in added.text
        got = await host.root.call("Fetch", view, "<prop>view</prop>")
        assert ">1<" in got.text
        assert ">99<" not in got.text

    play(story)


@pytest.mark.parametrize(
    ("method", "inner", "expected"),
    [
        ("FindByInventoryPath", "<inventoryPath>ha-datacenter/vm/vm2</inventoryPath>", "2"),
        (
            "FindByInventoryPath",
            "<inventoryPath>/ha-datacenter/vm/</inventoryPath>",
            "ha-folder-vm",
        ),
        ("FindByInventoryPath", "<inventoryPath>ha-datacenter/vm/nope/x</inventoryPath>", ""),
        ("FindByUuid", f"<uuid>{fake_vm(2).config.uuid.upper()}</uuid><vmSearch>1</vmSearch>", "2"),
        ("FindByUuid", "<uuid>x</uuid><vmSearch>true</vmSearch>", ""),
        (
            "FindByDatastorePath",
            (
                '<datacenter type="Datacenter">ha-datacenter</datacenter>'
                "<path>[datastore1] vm1/vm1.vmx</path>"
            ),
            "1",
        ),
        ("FindChild", '<entity type="Folder">ha-folder-vm</entity><name>vm1</name>', "1"),
        ("FindByDnsName", "<dnsName>fake.example</dnsName><vmSearch>0</vmSearch>", "ha-host"),
        ("FindByIp", "<ip>192.0.2.1</ip><vmSearch>0</vmSearch>", ""),
    ],
)
def test_search_finds(method: str, inner: str, expected: str, play: Callable[..., None]) -> None:
    async def story(host) -> None:
        reply = await host.root.call(method, MoRef("SearchIndex", "ha-searchindex"), inner)
        found = re.search(r"<returnval[^>]*>([^<]*)</returnval>", reply.text)
        assert reply.status == 200
        assert (found[1] if found else "") == expected

    play(story)


def test_what_is_kept_together_follows_its_object_and_the_askers_rights(
    play: Callable[..., None],
) -> None:
    async def story(host) -> None:
        async def read(client) -> str:
            reply = await client.call("RetrievePropertiesEx", COLLECTOR, KEPT_TOGETHER)
            return reply.text

        for client in (host.root, host.reader):
            assert [await read(client) for _ in range(3)].count(await read(client)) == 3
        vm = host.kernel.vm("1")
        host.kernel.state(replace(vm, config=replace(vm.config, name="renamed")))
        for _ in range(10_000):
            if ">renamed<" in (told := await read(host.reader)):
                break
            await asyncio.sleep(0.002)
        assert ">renamed<" in told
        assert ">vm2<" in told
        host.kernel.retract(PermissionFact, f"Folder:ha-folder-root:{READER}")
        for _ in range(10_000):
            if ">renamed<" not in (told := await read(host.reader)):
                break
            await asyncio.sleep(0.002)
        assert ">renamed<" not in told
        assert ">vm2<" not in told
        assert ">renamed<" in await read(host.root)

    play(story)


KEPT_TOGETHER = (
    "<specSet><propSet><type>VirtualMachine</type><pathSet>name</pathSet>"
    "<pathSet>runtime.powerState</pathSet></propSet>"
    '<objectSet><obj type="Folder">ha-folder-vm</obj><skip>true</skip>'
    '<selectSet xsi:type="TraversalSpec"><type>Folder</type><path>childEntity</path></selectSet>'
    "</objectSet></specSet><options/>"
)


SEARCH = MoRef("SearchIndex", "ha-searchindex")
DATACENTER = '<datacenter type="Datacenter">ha-datacenter</datacenter>'


async def hidden_vm_1(host, *facts: PermissionFact) -> None:
    """Give the reader other permissions than on everything, and wait until they hold."""
    host.kernel.retract(PermissionFact, f"Folder:ha-folder-root:{READER}")
    host.kernel.state(*facts)
    for _ in range(10_000):
        if (await host.reader.call("Fetch", vm(1), "<prop>name</prop>")).fault == "NoPermission":
            return
        await asyncio.sleep(0.002)
    raise AssertionError


def test_search_finds_no_vm_that_the_asker_may_not_see(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        one = PermissionFact("VirtualMachine", "2", READER, -2, propagate=True)
        await hidden_vm_1(host, one)
        for number, shown in ((1, False), (2, True)):
            one = fake_vm(number).config
            for method, inner in (
                ("FindByUuid", f"<uuid>{one.uuid}</uuid><vmSearch>true</vmSearch>"),
                ("FindAllByUuid", f"<uuid>{one.uuid}</uuid><vmSearch>true</vmSearch>"),
                (
                    "FindByInventoryPath",
                    f"<inventoryPath>ha-datacenter/vm/{one.name}</inventoryPath>",
                ),
                (
                    "FindByDatastorePath",
                    f"{DATACENTER}<path>[datastore1] {one.name}/{one.name}.vmx</path>",
                ),
                (
                    "FindChild",
                    f'<entity type="Folder">ha-folder-vm</entity><name>{one.name}</name>',
                ),
            ):
                reply = await host.reader.call(method, SEARCH, inner)
                assert reply.status == 200, reply.text
                assert (f">{number}<" in reply.text) is shown, (method, reply.text)

    play(story)


NAMING = (
    (MoRef("Folder", "ha-folder-vm"), "childEntity"),
    (MoRef("ResourcePool", "ha-root-pool"), "vm"),
    (MoRef("HostSystem", "ha-host"), "vm"),
    (MoRef("HostSystem", "ha-host"), "config.autoStart"),
    (MoRef("HostAutoStartManager", "ha-autostart-mgr"), "config"),
    (MoRef("TaskManager", "ha-taskmgr"), "recentTask"),
    (MoRef("Datastore", DATASTORE.datastore), "vm"),
    (MoRef("Network", "HaNetwork-VM Network"), "vm"),
)
MENTIONS = re.compile(r'type="VirtualMachine"[^>]*>([^<]+)<|type="Task"[^>]*>task-([^<]+)<')


def test_lists_name_no_vm_that_the_asker_may_not_see(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        async def named(client, ref: MoRef, path: str) -> list[str]:
            got = await client.call("Fetch", ref, f"<prop>{path}</prop>")
            assert got.status == 200, got.text
            return ["".join(one) for one in MENTIONS.findall(got.text)]

        host.kernel.state(
            AutoStartFact(entries=(AutoStartEntry("1"), AutoStartEntry("2"))),
            *(replace(fake_task(f"task-{number}"), entity=str(number)) for number in (1, 2)),
        )
        await hidden_vm_1(
            host,
            PermissionFact("Folder", "ha-folder-root", READER, -2, propagate=True),
            PermissionFact("VirtualMachine", "1", READER, -5, propagate=True),
        )
        for ref, path in NAMING:
            # In turns: what is kept for one is not what another reads.
            assert await named(host.root, ref, path) == ["1", "2"], (ref, path)
            assert await named(host.reader, ref, path) == ["2"], (ref, path)
            assert await named(host.root, ref, path) == ["1", "2"], (ref, path)
        made = await host.reader.call(
            "CreateContainerView",
            VIEWS,
            '<container type="Folder">ha-folder-root</container>'
            "<type>VirtualMachine</type><recursive>true</recursive>",
        )
        name = re.search(r'<returnval type="ContainerView">([^<]+)<', made.text)[1]
        assert await named(host.reader, MoRef("ContainerView", name), "view") == ["2"]

    play(story)


def test_the_latest_event_is_of_no_vm_that_the_asker_may_not_see(
    play: Callable[..., None],
) -> None:
    async def story(host) -> None:
        async def latest(client) -> str:
            manager = MoRef("EventManager", "ha-eventmgr")
            got = await client.call("Fetch", manager, "<prop>latestEvent</prop>")
            assert got.status == 200, got.text
            return got.text

        await hidden_vm_1(
            host,
            PermissionFact("Folder", "ha-folder-root", READER, -2, propagate=True),
            PermissionFact("VirtualMachine", "1", READER, -5, propagate=True),
        )
        for number in (2, 1):
            known = host.kernel.vm(str(number))
            name = f"renamed{number}"
            host.kernel.state(replace(known, config=replace(known.config, name=name)))
            for _ in range(10_000):
                if name in await latest(host.root):
                    break
                await asyncio.sleep(0.002)
        assert "renamed1" in await latest(host.root)
        told = await latest(host.reader)
        assert "renamed1" not in told
        assert "renamed2" in told
        assert "renamed1" in await latest(host.root)

    play(story)


def test_who_may_view_nothing_walks_to_no_vm(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        nothing = PermissionFact("Folder", "ha-folder-root", READER, -5, propagate=True)
        await hidden_vm_1(host, nothing)
        found = await host.reader.call(
            "FindByUuid",
            SEARCH,
            f"<uuid>{fake_vm(1).config.uuid}</uuid><vmSearch>true</vmSearch>",
        )
        assert found.status == 200
        assert ">1<" not in found.text

    play(story)


def test_a_traversal_that_names_another_a_thousand_times_takes_it_once(
    play: Callable[..., None],
) -> None:
    async def story(host) -> None:
        again = "<selectSet><name>kids</name></selectSet>"
        spec = prop_set("ManagedEntity", "name") + object_set(
            ROOT, CHILDREN.replace(again, again * 1000)
        )
        body = decode.fragment(f"<spec>{spec}</spec>", TypeRef(Kind.DATA, "PropertyFilterSpec"))
        assert isinstance(body, Obj)
        replica = Replica(lambda: datetime.now(UTC))
        stream = host.kernel.facts()
        while len(replica.world.vms) < 2 or not replica.world.permissions:
            if (told := await anext(stream)) is not None:
                replica.fold(told)
        sessions = Sessions(host.kernel, lambda: datetime.now(UTC))
        login = await host.kernel.ask(Login(USER, PASSWORD, "192.0.2.1"), SessionReply)
        reader = Reader(replica, sessions, sessions.open(login, "", ""), NEWEST)
        selector = Selector(body)
        assert len(selector.select(reader)) == 5
        assert selector.steps < 100

    play(story)


def test_many_small_specifications_are_no_way_around_the_limit(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(host) -> None:
        one = f"<specSet>{prop_set('Folder', 'name')}{object_set(ROOT)}</specSet>"
        good = await host.reader.call("RetrieveProperties", COLLECTOR, one * 20)
        assert names(good) == [ROOT.value] * 20
        monkeypatch.setattr(filters, "STEP_LIMIT", 30)
        assert (await host.reader.call("RetrieveProperties", COLLECTOR, one * 20)).fault

    play(story)


def test_filters_of_a_session_together_remember_no_more_than_so_much(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "WEIGHT_LIMIT", 10)

    async def story(host) -> None:
        spec = prop_set("VirtualMachine", "name", "runtime", "summary") + object_set(vm(1))
        inner = f"<spec>{spec}</spec><partialUpdates>false</partialUpdates>"
        made = [await host.root.call("CreateFilter", COLLECTOR, inner) for _ in range(3)]
        assert [one.status == 200 for one in made] == [True, True, False]
        assert "remember up to" in made[2].text
        other = await host.reader.call("CreateFilter", COLLECTOR, inner)
        assert other.status == 200
        first = re.search(r">(session[^<]+)<", made[0].text)[1]
        await host.root.call("DestroyPropertyFilter", MoRef("PropertyFilter", first))
        assert (await host.root.call("CreateFilter", COLLECTOR, inner)).status == 200

    play(story)


def test_a_specification_has_no_more_paths_than_an_object_could(
    play: Callable[..., None],
) -> None:
    async def story(host) -> None:
        paths = (f"config.hardware.device[{number}]" for number in range(1001))
        reply = await retrieve(host.reader, prop_set("VirtualMachine", *paths), object_set(vm(1)))
        assert "1000 paths" in reply.text

    play(story)


def test_a_list_of_strangers_costs_no_comparison_of_each_with_each() -> None:
    compared = 0

    class Watched(MoRef):
        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return tuple.__eq__(self, other)

        __hash__ = MoRef.__hash__

    class OfEven:
        def exists(self, ref: MoRef) -> bool:
            return int(ref.value) % 2 == 0

    many = tuple(Watched("VirtualMachine", str(number)) for number in range(400))
    view = ListView(MoRef("ListView", "x"), ())
    assert view.change(many, (), cast("Reader", OfEven())) == many[1::2]
    assert tuple(view.members) == many[::2]
    assert compared < 10_000
