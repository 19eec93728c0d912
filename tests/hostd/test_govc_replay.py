"""What govc was recorded to send, played against a host: every command that can work does."""

from __future__ import annotations

import asyncio
import lzma
import re
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.hostd.replay import OK, WAITS, Call, Command, Player, commands

from casemate.calls.certificates import PemReply, SigningRequest
from casemate.hostd.app import make_app
from casemate.testing.fakefacts import fake_vm
from casemate.testing.fakekernel import PASSWORD, USER, FakeKernel
from casemate.testing.soapclient import Reply, SoapClient

COMMANDS = 199
REFUSED = {
    "datastore_create": "MethodNotFound",
    "device_boot_ls": "InvalidArgument",
    "device_clock": "NotSupported",
    "device_floppy": "NotSupported",
    "device_serial": "NotSupported",
    "dvs": "NotSupported",
    "guest_ps": "MethodNotFound",
    "host_disconnect": "NotSupported",
    "host_reconnect": "NotSupported",
    "license_decode": "MethodNotFound",
    "option_set": "InvalidName",
    "permissions_rm": "AuthMinimumAdminPermission",
    "permissions_set": "AuthMinimumAdminPermission",
    "session_ticket": "MethodNotFound",
    "vm_clone": "NotSupported",
    "vm_console": "MethodNotFound",
    "vm_migrate": "NotSupported",
}
"""What is not offered here, or not in the state that the recording made, and the fault for it.

Secure Boot is asked of a VM with a BIOS, a serial port of a port of the network, and the only
administrator is to lose its role.
"""
UNTOLD = frozenset(
    {
        *("availableField", "configIssue", "customValue", "declaredAlarmState", "disabledMethod"),
        *("tag", "triggeredAlarmState", "value"),
    }
)
"""Properties that the recorded server shows as empty lists where all are asked for."""
CEASED = frozenset({"vm_unregister"})
"""A command during which another one's last wait was recorded."""

_SET = re.compile(r"<name>([\w.\[\]\"]+)</name>(?:<op>\w+</op>)?<val")


@pytest.fixture(scope="module")
def recording(corpus: Path) -> list[Command]:
    """All commands in the order in which they were run."""
    file = corpus / "vim" / "govc-trace.txt.xz"
    if not file.exists():
        pytest.skip("public corpus absent: vim/govc-trace.txt.xz")
    return list(commands(lzma.decompress(file.read_bytes()).decode()))


def difference(call: Call, reply: Reply) -> str:
    """What is worse here than it was there: a fault, a failed task, properties that lack."""
    if call.status not in (OK, 201):
        return ""
    if reply.status not in (OK, 201):
        return reply.fault or f"{call.path} {reply.status}"
    if call.method in WAITS:
        failed = ">error<" in reply.text and ">error<" not in call.answer
        return reply.text[-500:] if failed and "recentTask" not in reply.text else ""
    if call.method.startswith("RetrieveProperties"):
        lacking = set(_SET.findall(call.answer)) - set(_SET.findall(reply.text)) - UNTOLD
        return " ".join(sorted(lacking))
    return ""


async def played(command: Command, player: Player) -> str:
    """Play a command until something is worse than it was, as its client would stop there."""
    for call in command.calls:
        reply = await player.play(call)
        if command.name not in CEASED and (found := difference(call, reply)):
            return f"{found} ({call.method or call.path})"
    return ""


def test_each_command_that_can_work_here_gets_what_it_asks_for(
    recording: list[Command], tmp_path: Path
) -> None:
    (tmp_path / "datastore1").mkdir()
    kernel = FakeKernel(vms=0, delay=0.0, volumes=tmp_path)
    kernel.answer(SigningRequest, lambda _: PemReply("-----BEGIN CERTIFICATE REQUEST-----"))
    for number in (1, 2):
        one = fake_vm(number)
        config = replace(one.config, name=f"ha-host_VM{number - 1}")
        kernel.state(replace(one, config=config))
    words = {
        "LocalDS_0": "datastore1",
        "localhost.localdomain": "fake.example",
        "<userName>user</userName><password>pass</password>": (
            f"<userName>{USER}</userName><password>{PASSWORD}</password>"
        ),
    }

    async def story() -> dict[str, str]:
        app = make_app(kernel, clock=lambda: datetime.now(UTC), ticks=time.monotonic)
        found = {}
        ids: dict[tuple[str, str], tuple[str, str]] = {}
        async with app.router.lifespan_context(app):
            for command in recording:
                player = Player(SoapClient(app), words, ids)
                found[command.name] = await played(command, player)
        await kernel.close()
        return found

    found = asyncio.run(asyncio.wait_for(story(), 600))
    assert len(found) == COMMANDS
    worse = {name: what for name, what in found.items() if what}
    assert {name: what.partition(" ")[0] for name, what in worse.items()} == REFUSED, worse
