"""Whatever is sent, there is an answer: a result or a fault, soon, and nothing piles up.

CASEMATE_FUZZ sets the number of calls.
"""

from __future__ import annotations

import gc
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from casemate.hostd.methods.table import REGISTRY
from casemate.hostd.objects import catalog
from casemate.hostd.viewjson import SESSION_HEADER
from casemate.testing.fakekernel import PASSWORD, FakeKernel
from casemate.testing.hostile import Hostile
from casemate.vim25 import types
from casemate.vim25.values import MoRef
from casemate.vim25.xmlnodes import SIZE_LIMIT

CASES = int(os.environ.get("CASEMATE_FUZZ", "10000"))
ROUND = 500
SECONDS = 60.0
GROWTH = 50 << 20
UNSAFE = {"Logout", "TerminateSession", "ChangeLockdownMode"}
"""Calls that end the session that goes on asking."""

NAMES = sorted(one.name for one in REGISTRY if one.name not in UNSAFE and not one.waits)
IDS = [
    *((ref.type, ref.value) for ref in catalog.SINGLETONS),
    *(("VirtualMachine", str(number)) for number in (1, 2, 3, 99)),
    ("Folder", "ha-folder-root"),
    ("Folder", "ha-folder-vm"),
    ("HostSystem", "ha-host"),
    ("ResourcePool", "ha-root-pool"),
    ("Datacenter", "ha-datacenter"),
    ("Network", "HaNetwork-VM Network"),
    ("VirtualMachineSnapshot", "1-snapshot-1"),
    ("Task", "none"),
]


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def check(name: str, reply, started: float) -> None:
    assert reply.status in {200, 204, 500}, name
    assert "internal error" not in reply.text, (name, reply.text[-2000:])
    assert "Traceback" not in reply.text
    assert time.monotonic() - started < SECONDS, name


def rounds(play: Callable[..., None], ask: Callable[..., object]) -> None:
    before = 0
    for number in range(max(1, CASES // 2 // ROUND)):

        async def story(host, number: int = number) -> None:
            await ask(host, number)

        play(story, FakeKernel(delay=0))
        if number == 1:
            gc.collect()
            before = resident()
    gc.collect()
    assert not before or resident() - before < GROWTH


@pytest.mark.timeout(600)
def test_soap_calls_bent_in_every_way_get_an_answer(play: Callable[..., None]) -> None:
    async def ask(host, number: int) -> None:
        chosen = random.Random(number)
        hostile = Hostile(number, IDS)
        for _ in range(ROUND):
            method = types.method(chosen.choice(NAMES))
            kind, key = hostile.receiver(method)
            inner = hostile.parameters(method)
            if len(inner) > SIZE_LIMIT:
                continue
            started = time.monotonic()
            reply = await host.root.call(method.name, MoRef(kind, key), inner)
            check(method.name, reply, started)
            if reply.fault == "NotAuthenticated":
                await host.root.login("root", PASSWORD)

    rounds(play, ask)


JSON = (None, True, -1, 2**64, 1.5, "x", "A" * 3000, [], {}, [[]], {"_typeName": "Nothing"})


def bent(chosen: random.Random, depth: int) -> object:
    if depth <= 0 or chosen.random() < 0.4:
        return chosen.choice(JSON)
    if chosen.random() < 0.3:
        return [bent(chosen, depth - 1) for _ in range(chosen.randrange(3))]
    kind = chosen.choice(types.data_names())
    fields = types.data_type(kind).fields
    some = chosen.sample(fields, min(len(fields), 3))
    return {"_typeName": kind, **{field.name: bent(chosen, depth - 1) for field in some}}


@pytest.mark.timeout(600)
def test_json_calls_bent_in_every_way_get_an_answer(play: Callable[..., None]) -> None:
    async def ask(host, number: int) -> None:
        chosen = random.Random(number)
        session = host.root.cookie
        for _ in range(ROUND):
            method = types.method(chosen.choice([n for n in NAMES if n != "Fetch"]))
            fitting = [one for one in IDS if types.is_subtype(one[0], method.owner)] or IDS
            kind, key = chosen.choice(fitting)
            body = {one.name: bent(chosen, 4) for one in method.parameters}
            started = time.monotonic()
            reply = await host.root.send(
                "POST",
                f"/sdk/vim25/9.1.0.0/{kind}/{key.replace(' ', '%20')}/{method.name}",
                json.dumps(body).encode(),
                {SESSION_HEADER: session},
            )
            check(method.name, reply, started)
            session = reply.headers.get(SESSION_HEADER, session)

    rounds(play, ask)
