"""Every served method against a role that has every privilege but the one it demands; lockdown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from casemate.hostd.methods.table import REGISTRY
from casemate.hostd.objects import catalog
from casemate.hostd.objects.governance import privilege_ids
from casemate.hostd.registry import Served
from casemate.hostd.world import World
from casemate.machine.governance import LockdownFact, LockdownMode, PermissionFact, RoleFact
from casemate.testing.fakekernel import PASSWORD, READER, FakeKernel
from casemate.testing.hostile import Hostile
from casemate.vim25 import types
from casemate.vim25.values import MoRef

ROLE = 77
ANONYMOUS = "System.Anonymous"
IMPLIED = {"System.View", "System.Read"}
"""Whoever holds any permission may see that there is an inventory; a role can do without the other,
but then its user sees nothing to call."""


async def receivers(kernel: FakeKernel) -> dict[str, MoRef]:
    """Return an object of every type that a quiet host has."""
    world = World()
    async for reply in kernel.facts():
        if reply is not None:
            world.fold(reply)
            if len(world.vms) == 2:
                break
    return {ref.type: ref for ref in catalog.objects(world)}


def demanding(found: dict[str, MoRef]) -> list[tuple[Served, MoRef]]:
    """Return the offered methods that demand a privilege, each with an object that has it."""
    chosen = []
    for served in REGISTRY:
        method = types.method(served.name)
        owner = served.owner if types.is_subtype(served.owner, method.owner) else method.owner
        ref = next((one for kind, one in found.items() if types.is_subtype(kind, owner)), None)
        offered = REGISTRY.offered(served.name)
        if offered and not served.lacking and served.privilege != ANONYMOUS and ref:
            chosen.append((served, ref))
    return chosen


def changes(kernel: FakeKernel, since: int) -> list[object]:
    quiet = {"Quote", "Login", "Logout", "ResumeSession"}
    return [one for one in kernel.asked[since:] if type(one).__name__ not in quiet]


def test_whoever_lacks_one_privilege_gets_no_permission_and_nothing_happens(
    play: Callable[..., None],
) -> None:
    async def story(host) -> None:
        cases = demanding(await receivers(host.kernel))
        assert len(cases) > 100
        by_privilege: dict[str, list[tuple[Served, MoRef]]] = {}
        for served, ref in cases:
            by_privilege.setdefault(served.privilege, []).append((served, ref))
        root = PermissionFact("Folder", "ha-folder-root", READER, ROLE, propagate=True)
        for privilege, group in by_privilege.items():
            if privilege in IMPLIED:
                continue
            rest = tuple(one for one in privilege_ids() if one != privilege)
            host.kernel.state(RoleFact(ROLE, "all but one", rest), root)
            await settled(host, privilege)
            before = len(host.kernel.asked)
            for served, ref in group:
                reply = await host.reader.call(served.name, ref)
                assert (served.name, reply.fault) == (served.name, "NoPermission"), reply.text
                assert f"<privilegeId>{privilege}</privilegeId>" in reply.text, served.name
            assert changes(host.kernel, before) == []

    play(story)


async def settled(host, privilege: str) -> None:
    """Wait until the role is what was stated."""
    manager = MoRef("AuthorizationManager", "ha-authmgr")

    async def shown() -> bool:
        reply = await host.root.call("Fetch", manager, "<prop>roleList</prop>")
        entry = reply.text.partition("all but one")[2].partition("</AuthorizationRole>")[0]
        return bool(entry) and f">{privilege}<" not in entry

    for _ in range(10_000):
        if await shown():
            return
        await asyncio.sleep(0.002)
    raise AssertionError(privilege)


def test_in_lockdown_only_the_exceptions_pass(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        cases = demanding(await receivers(host.kernel))
        for mode in (LockdownMode.NORMAL, LockdownMode.STRICT):
            host.kernel.state(LockdownFact(mode, (READER,)))
            manager = MoRef("HostAccessManager", "ha-host-access-manager")
            for _ in range(10_000):
                reply = await host.reader.call("Fetch", manager, "<prop>lockdownMode</prop>")
                if mode.value in reply.text:
                    break
                await asyncio.sleep(0.002)
            before = len(host.kernel.asked)
            for served, ref in cases:
                if served.name == "Logout":
                    continue
                reply = await host.root.call(served.name, ref)
                assert (served.name, reply.fault) == (served.name, "NoPermission")
            assert changes(host.kernel, before) == []
            clock = await host.reader.call("CurrentTime", MoRef(*["ServiceInstance"] * 2))
            assert clock.status == 200

    play(story)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_a_reader_sends_the_kernel_is_asked_for_nothing_more(
    seed: int, play: Callable[..., None]
) -> None:
    async def story(host) -> None:
        found = await receivers(host.kernel)
        ids = [(ref.type, ref.value) for ref in found.values()]
        hostile, kernel = Hostile(seed, ids), host.kernel
        before, answered = len(kernel.asked), 0
        for served in sorted(REGISTRY, key=lambda one: one.name):
            if served.waits or served.name in {"Login", "Logout", "CloneSession"}:
                continue
            for _ in range(3):
                method = types.method(served.name)
                kind, key = hostile.receiver(method)
                reply = await host.reader.call(
                    served.name, MoRef(kind, key), hostile.parameters(method)
                )
                answered += reply.status == 200
        given = {"System.Anonymous", "System.View", "System.Read"}
        asked = [one for one in kernel.asked[before:] if type(one).privilege not in given]
        assert asked == []
        assert answered > 20

    play(story)


def test_a_user_without_any_permission_reads_nothing(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        host.kernel.retract(PermissionFact, f"Folder:ha-folder-root:{READER}")
        found = await receivers(host.kernel)
        for _ in range(10_000):
            reply = await host.reader.call("Fetch", found["HostSystem"], "<prop>name</prop>")
            if reply.fault:
                break
            await asyncio.sleep(0.002)
        before = len(host.kernel.asked)
        for served, ref in demanding(found):
            if served.name == "Logout":
                continue
            reply = await host.reader.call(served.name, ref)
            assert (served.name, reply.fault) == (served.name, "NoPermission")
        assert changes(host.kernel, before) == []
        assert (await host.reader.login(READER, PASSWORD)).status == 200

    play(story)
