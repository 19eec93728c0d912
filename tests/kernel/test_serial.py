"""Serial ports of real guests: to a file, to a terminal with a ticket, and floods of both."""

from __future__ import annotations

import asyncio

import pytest

from casemate.calls import messages as m
from casemate.calls import vmconsole as c
from casemate.calls import vms
from casemate.errors import HostError, NotFoundError
from casemate.hostd.kernelclient import RefusedError
from casemate.kernel.accounts import LOCAL_ROOT
from casemate.kernel.cells import console
from casemate.machine.facts import SerialSpec

from .test_consoles import Bench
from .vmbench import Host, make

# Real mode: what comes on the first port is echoed there and written to the second.
COPY_CODE = bytes.fromhex("bafd03 ec a801 74f8 baf803 ec ee baf802 ee ebed")
COPY_SECTOR = COPY_CODE.ljust(510, b"\0") + b"\x55\xaa"
PORTS = (
    SerialSpec(0, "pipe", "com1"),
    SerialSpec(1, "file", "said.log"),
    SerialSpec(3, "none"),
)


async def ticket(host: Host, vm: str, serial: int) -> str:
    request = c.AcquireTicket("", vm, serial=serial)
    return str((await host.handlers[c.AcquireTicket](request, LOCAL_ROOT)).ticket)


async def until_file(host: Host, text: bytes) -> None:
    file = host.datastore / "one" / "said.log"
    for _ in range(2000):
        if file.exists() and text in file.read_bytes():
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{text!r} does not arrive")


@pytest.mark.host
def test_what_is_typed_with_a_ticket_reaches_the_guest_and_its_file_before_and_after_a_restart(
    vmhost,
):
    async def typed(host: Host, vm: str, text: bytes) -> None:
        bench = Bench(host)
        async with bench.served() as link:
            reader, writer = await link.console(await ticket(host, vm, 0), "192.0.2.1")
            said = b""
            while text not in said:
                writer.write(text)
                said += await asyncio.wait_for(reader.read(100), 60)
            writer.close()
            with pytest.raises(NotFoundError):
                await ticket(host, vm, 2)
            with pytest.raises(NotFoundError):
                await ticket(host, vm, 3)
            used = await ticket(host, vm, 0)
            _, other = await link.console(used, "192.0.2.1")
            with pytest.raises(RefusedError):
                await link.console(used, "192.0.2.1")
            other.close()
        await until_file(host, text)

    async def first() -> str:
        async with vmhost.up(keep=True) as host:
            vm = await make(host, code=COPY_SECTOR, serials=PORTS)
            await host.ask(m.PowerOn("", vm))
            await typed(host, vm, b"one")
        return vm

    async def second(vm: str) -> None:
        async with vmhost.up() as host:
            for state in await host.cells.adopt_all():
                host.adopted(state)
            await typed(host, vm, b"two")
            await host.ask(m.PowerOff("", vm))
            copy = await host.ask(vms.CloneVm("", vm, "copy"))
            assert host.vm(copy).config.serials == PORTS
            assert "said.log" not in host.files("copy")
            for each in (vm, copy):
                await host.ask(vms.DestroyVm("", each))

    vm = asyncio.run(first())
    asyncio.run(second(vm))
    assert list(vmhost.datastore.iterdir()) == []
    assert vmhost.left_behind() == []


def test_a_guest_that_floods_its_file_fills_no_datastore(tmp_path, monkeypatch):
    monkeypatch.setattr(console, "FILE_LIMIT", 1000)
    keep = console.file_keeper(tmp_path, "said.log")
    written = b""
    for number in range(300):
        piece = b"%d," % number
        written += piece
        keep(piece * 3)
    sizes = [file.stat().st_size for file in tmp_path.iterdir()]
    assert len(sizes) == 2
    assert sum(sizes) <= 2 * (1000 + 12)
    end = (tmp_path / "said.log.1").read_bytes() + (tmp_path / "said.log").read_bytes()
    assert end.endswith(b"299,299,299,")


def test_a_file_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "secret").write_text("x")
    (tmp_path / "vm").mkdir()
    (tmp_path / "vm" / "said.log").symlink_to(tmp_path / "secret")
    with pytest.raises(HostError):
        console.file_keeper(tmp_path / "vm", "said.log")(b"y")
    assert (tmp_path / "secret").read_text() == "x"
