"""Every method of the API is served or refused, in the stated order, and there is no third case."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from casemate.hostd.methods.table import REGISTRY
from casemate.hostd.objects import catalog
from casemate.hostd.registry import VCENTER_ONLY, Ring
from casemate.hostd.wellknown import (
    ROOT_FOLDER,
)
from casemate.hostd.world import (
    World,
)
from casemate.machine.governance import OptionFact
from casemate.policy.options import API_COMPATIBILITY
from casemate.testing.fakekernel import FakeKernel
from casemate.vim25 import types
from casemate.vim25.values import MoRef

ANONYMOUS = {
    "RetrieveServiceContent",
    "Login",
    "ChangePassword",
    "Fetch",
    "RetrieveProperties",
    "RetrievePropertiesEx",
}
OWN = {
    "PropertyFilter": "DestroyPropertyFilter",
    "ListView": "ModifyListView ResetListView",
    "View": "DestroyView",
}
SESSION_BOUND = {name for names in OWN.values() for name in names.split()}
NAMES = sorted({*types.method_owners(), "Fetch"})


def receiver(name: str) -> MoRef:
    """An existing object of the method's type, or at least a well-formed reference."""
    served = REGISTRY.get(name)
    owner = served.owner if served else types.method(name).owner
    known = (
        *catalog.SINGLETONS,
        ROOT_FOLDER,
        MoRef("HostSystem", "ha-host"),
        MoRef("VirtualMachine", "1"),
    )
    for ref in known:
        if types.is_subtype(ref.type, owner):
            return ref
    return MoRef(owner, "none")


def exists(ref: MoRef) -> bool:
    return ref in catalog.SINGLETONS or ref.value in {"ha-host", "1", ROOT_FOLDER.value}


def test_nobody_who_has_not_logged_in_gets_further_than_that(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        for name in NAMES:
            if name in ANONYMOUS:
                continue
            reply = await host.anonymous.call(name, receiver(name))
            assert (name, reply.status, reply.fault) == (name, 500, "NotAuthenticated")
        assert not [
            one for one in host.kernel.asked if type(one).__name__ not in {"Login", "Quote"}
        ]

    play(story)


def test_every_method_is_served_or_refused_even_for_the_administrator(
    play: Callable[..., None],
) -> None:
    async def story(host) -> None:
        for name in NAMES:
            if REGISTRY.offered(name) is not None:
                continue
            reply = await host.root.call(name, receiver(name))
            expected = "NotSupported" if name in VCENTER_ONLY else "MethodNotFound"
            assert (name, reply.status, reply.fault) == (name, 500, expected)

    play(story)


def test_ring_c_is_there_when_the_host_was_booted_with_it(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        ring = [one.name for one in REGISTRY if one.ring is Ring.COMPATIBILITY]
        assert ring
        for name in ring:
            reply = await host.root.call(name, receiver(name))
            assert (name, reply.fault) == (name, "MethodNotFound")
        host.kernel.state(OptionFact(API_COMPATIBILITY, "TRUE"))
        manager = MoRef("OptionManager", "ha-adv-options")
        wanted = f"<name>{API_COMPATIBILITY}</name>"
        for _ in range(5000):
            if ">TRUE<" in (await host.root.call("QueryOptions", manager, wanted)).text:
                break
            await asyncio.sleep(0.005)
        for name in ring:
            reply = await host.root.call(name, receiver(name))
            assert (name, reply.fault) != (name, "MethodNotFound")
        change = (
            f"<changedValue><key>{API_COMPATIBILITY}</key>"
            '<value xsi:type="xsd:string">FALSE</value></changedValue>'
        )
        assert (await host.root.call("UpdateOptions", manager, change)).status == 500

    play(story)


def test_without_the_privilege_nothing_happens(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        before = len(host.kernel.asked)
        denied = 0
        for served in REGISTRY:
            if served.privilege.startswith("System.") or not REGISTRY.offered(served.name):
                continue
            if not exists(receiver(served.name)):
                continue
            denied += 1
            reply = await host.reader.call(served.name, receiver(served.name))
            assert (served.name, reply.fault) == (served.name, "NoPermission")
            assert served.privilege in reply.text
        assert denied >= 7
        after = [one for one in host.kernel.asked[before:] if type(one).__name__ != "Quote"]
        assert not after

    play(story)


@pytest.mark.parametrize("served", list(REGISTRY), ids=lambda served: served.name)
def test_the_declared_privilege_is_the_published_one(served) -> None:
    method = types.method(served.name)
    assert types.is_subtype(method.owner, served.owner) or types.is_subtype(
        served.owner, method.owner
    )
    if method.privilege is not None:
        assert served.privilege == method.privilege


@pytest.mark.parametrize("served", list(REGISTRY), ids=lambda served: served.name)
def test_a_declared_call_demands_the_same_privilege_of_the_kernel(served) -> None:
    for request in served.calls:
        if request.privilege not in {"System.Anonymous", "System.View"}:
            assert request.privilege == served.privilege or request.privilege in served.rule


def test_vcenter_only_methods_exist_and_are_not_served() -> None:
    for name in VCENTER_ONLY:
        assert name in types.method_owners()
        assert REGISTRY.get(name) is None


def test_an_object_that_is_gone_is_named(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        reply = await host.root.call("PowerOnVM_Task", MoRef("VirtualMachine", "99"))
        assert reply.fault == "ManagedObjectNotFound"
        assert '<obj type="VirtualMachine">99</obj>' in reply.text

    play(story)


def test_a_receiver_of_another_type_is_refused(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        for ref in (MoRef("HostSystem", "ha-host"), MoRef("HostSystem", "1")):
            reply = await host.root.call("PowerOnVM_Task", ref)
            assert reply.fault in {"InvalidArgument", "ManagedObjectNotFound"}

    play(story)


def test_an_id_is_never_echoed_as_markup(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        ref = MoRef("VirtualMachine", "&lt;b&gt;")
        reply = await host.root.call("PowerOnVM_Task", ref)
        assert "<b>" not in reply.text
        assert "&lt;b&gt;" in reply.text

    play(story)


def test_every_property_of_every_object_can_be_read_at_old_and_new_versions(
    play: Callable[..., None],
) -> None:
    async def story(host) -> None:
        world = World()
        async for reply in FakeKernel().facts():
            if reply is None:
                continue
            world.fold(reply)
            if len(world.vms) == 2:
                break
        for action in ('"urn:vim25/9.1.0.0"', '"urn:vim25/6.5"', ""):
            host.root.action = action
            for ref in catalog.objects(world):
                for declared in types.managed_type(ref.type).properties:
                    got = await host.root.call("Fetch", ref, f"<prop>{declared.name}</prop>")
                    named = (ref, declared.name, got.fault)
                    assert got.status == 200 or got.fault == "InvalidProperty", named
                    if action.startswith('"urn:vim25/9'):
                        assert got.status == 200, named
                        if not (declared.optional or declared.type.array):
                            assert "<returnval" in got.text, named

    play(story)
