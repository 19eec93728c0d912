"""VMs brought in and out disk by disk: whose lease, what it holds, and how it ends."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest

from casemate.calls import leases as c
from casemate.calls.codec import encode
from casemate.calls.messages import PowerOn
from casemate.errors import BusyError, CasemateError, NotFoundError, StateError
from casemate.formats import streamvmdk
from casemate.hostd.kernelclient import RefusedError, Transfer
from casemate.kernel import leases
from casemate.kernel.accounts import LOCAL_ROOT
from casemate.kernel.leases import LEASE_LIMIT, LEASE_SECONDS, Leases
from casemate.kernel.server import carry_out

from .vmbench import MIB, Host, RefusedTaskError, config, disk, make

pytestmark = pytest.mark.host
OTHER = replace(LOCAL_ROOT, key="other")


class Lab:
    """Leases over a host of VMs, with a clock of its own."""

    def __init__(self, host: Host) -> None:
        self.now = 0.0
        self.host = host
        self.open = {LOCAL_ROOT.key}
        self.leases = Leases(host.context, host.vms, lambda: self.now, self.open.__contains__)

    async def ask(self, request, session=LOCAL_ROOT):
        return await self.leases.handlers()[type(request)](request, session)

    @asynccontextmanager
    async def transfer(self, request) -> AsyncIterator[Transfer]:
        here, there = socket.socketpair()
        ours, theirs = [await asyncio.open_connection(sock=one) for one in (here, there)]

        async def serve() -> None:
            await theirs[0].readexactly(len(encode(1, request)))
            await carry_out(self.ask(request), *theirs, 1)
            theirs[1].close()

        serving = asyncio.ensure_future(serve())
        transfer = Transfer(*ours)
        try:
            await transfer.begin(request)
            yield transfer
        finally:
            await transfer.close()
            await serving

    async def send(self, vm: str, name: str, content: bytes) -> None:
        async with self.transfer(c.ImportDisk("", vm, name)) as transfer:
            for start in range(0, len(content), 70_000):
                await transfer.write(content[start : start + 70_000])
            await transfer.end()


def packed(content: bytes) -> bytes:
    pieces = streamvmdk.write(
        len(content), lambda at, size: content[at : at + size], name="disk.vmdk"
    )
    return b"".join(pieces)


CONTENT = random.Random(5).randbytes(300_000).ljust(8 * MIB, b"\0")


def test_a_disk_goes_out_and_in_bit_equal_and_the_vm_is_held_meanwhile(on):
    async def body(host: Host) -> None:
        lab = Lab(host)
        vm = await make(host)
        (host.datastore / "one/one-flat.vmdk").write_bytes(CONTENT)
        lent = await lab.ask(c.OpenExport("", vm))
        with pytest.raises(BusyError):
            await host.ask(PowerOn("", vm))
        out = bytearray()
        async with lab.transfer(c.ExportDisk("", vm, lent.disks[0].file_name)) as transfer:
            while piece := await transfer.read():
                out += piece
        await lab.ask(c.CloseLease("", vm, complete=True))
        lent = await lab.ask(c.OpenImport("", config("two", disks=(disk(),))))
        name = lent.disks[0].file_name
        with pytest.raises(RefusedError, match="not a streamOptimized"):
            await lab.send(lent.vm, name, packed(bytes(range(256)) * (8 * MIB // 256))[:90_000])
        with pytest.raises(RefusedError):
            await lab.send(lent.vm, name, packed(CONTENT[: 4 * MIB]))
        await lab.send(lent.vm, name, bytes(out) + b"\0" * 5_000_000)
        assert (host.datastore / "two/two-flat.vmdk").read_bytes() == CONTENT
        await lab.ask(c.CloseLease("", lent.vm, complete=True))
        await host.ask(PowerOn("", lent.vm))

    on(body)


def test_a_lease_is_its_session_s_alone_and_gives_its_own_disks_only(on):
    async def body(host: Host) -> None:
        lab = Lab(host)
        vm = await make(host)
        with pytest.raises(NotFoundError):
            await lab.ask(c.ImportDisk("", vm, "one.vmdk"))
        await lab.ask(c.OpenExport("", vm))
        for request in (
            c.KeepLease("", vm, 5),
            c.CloseLease("", vm, complete=True),
            c.ExportDisk("", vm, "one.vmdk"),
        ):
            with pytest.raises(NotFoundError):
                await lab.ask(request, OTHER)
        for request in (
            c.ImportDisk("", vm, "one.vmdk"),
            c.ExportDisk("", vm, "../x.vmdk"),
            c.ExportDisk("", vm, "one.vmx"),
        ):
            with pytest.raises(NotFoundError):
                await lab.ask(request)
        await lab.ask(c.CloseLease("", vm, complete=True))
        with pytest.raises(NotFoundError):
            await lab.ask(c.ExportDisk("", vm, "one.vmdk"))

    on(body)


def test_a_disk_on_its_way_out_ends_with_the_session(on):
    async def body(host: Host) -> None:
        lab = Lab(host)
        vm = await make(host, disks=(disk(capacity=64 * MIB),))
        noise = random.Random(6).randbytes(64 * MIB)
        (host.datastore / "one/one-flat.vmdk").write_bytes(noise)
        lent = await lab.ask(c.OpenExport("", vm))
        async with lab.transfer(c.ExportDisk("", vm, lent.disks[0].file_name)) as transfer:
            taken = len(await transfer.read())
            lab.open.clear()
            with pytest.raises(RefusedTaskError, match="cancelled"):
                await host.ended(lent.task)
            with suppress(CasemateError):
                while piece := await transfer.read():
                    taken += len(piece)
        assert taken < len(noise) // 2

    on(body)


def test_many_imports_at_once_are_no_more_than_there_may_be(on):
    async def body(host: Host) -> None:
        lab = Lab(host)
        asked = [
            lab.ask(c.OpenImport("", config(f"vm{number}", disks=())))
            for number in range(LEASE_LIMIT + 5)
        ]
        replies = await asyncio.gather(*asked, return_exceptions=True)
        lent = [one for one in replies if isinstance(one, c.LeaseReply)]
        assert len(lent) == LEASE_LIMIT
        assert {type(one) for one in replies} == {c.LeaseReply, StateError}
        for one in lent:
            await lab.ask(c.CloseLease("", one.vm, complete=False))
        assert host.inventory.vms() == ()

    on(body)


def test_a_disk_s_directory_stays_open_while_a_thread_reads_in_it(on, monkeypatch):
    inside, go_on, errors = threading.Event(), threading.Event(), []

    def slow(directory, _source, _name, _told):
        inside.set()
        go_on.wait(100)
        try:
            os.fstat(directory.fd)
        except OSError as error:
            errors.append(error)
        yield b""

    async def body(host: Host) -> None:
        monkeypatch.setattr(leases, "packed", slow)
        lab = Lab(host)
        vm = await make(host)
        lent = await lab.ask(c.OpenExport("", vm))
        transfer = await lab.ask(c.ExportDisk("", vm, lent.disks[0].file_name))
        here, there = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=here)
        running = asyncio.ensure_future(transfer.run(reader, writer, lambda _: None))
        await asyncio.to_thread(inside.wait, 100)
        running.cancel()
        await asyncio.sleep(0.02)
        running.cancel()
        await asyncio.sleep(0.02)
        assert not running.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert errors == []
        writer.close()
        there.close()
        await lab.ask(c.CloseLease("", vm, complete=True))

    on(body)


def test_an_import_that_is_not_completed_leaves_nothing(on):
    async def body(host: Host) -> None:
        lab = Lab(host)
        lent = await lab.ask(c.OpenImport("", config("two", disks=(disk(),))))
        await lab.ask(c.CloseLease("", lent.vm, complete=False))
        silent = await lab.ask(c.OpenImport("", config("three", disks=(disk(),))))
        lab.now += LEASE_SECONDS - 1
        await lab.ask(c.KeepLease("", silent.vm, 30))
        lab.now += LEASE_SECONDS - 1
        await asyncio.sleep(0.3)
        assert host.vm(silent.vm)
        lab.now += 2
        with pytest.raises(RefusedTaskError, match="lease-over"):
            await host.ended(silent.task)
        broken = await lab.ask(c.OpenImport("", config("four", disks=(disk(),))))
        async with lab.transfer(c.ImportDisk("", broken.vm, broken.disks[0].file_name)) as transfer:
            await transfer.write(packed(CONTENT)[:100_000])
            with pytest.raises(StateError):
                await lab.ask(c.CloseLease("", broken.vm, complete=True))
        host.tasks.cancel(broken.task)
        with pytest.raises(RefusedTaskError, match="cancelled"):
            await host.ended(broken.task)
        orphan = await lab.ask(c.OpenImport("", config("five", disks=(disk(),))))
        lab.open.clear()
        with pytest.raises(RefusedTaskError, match="cancelled"):
            await host.ended(orphan.task)
        assert host.inventory.vms() == ()
        assert list(host.datastore.iterdir()) == []

    on(body)
