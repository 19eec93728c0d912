"""Two Linux guests on one port group reach each other; moved apart they do not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.kernel.test_nat import OUTSIDE, PORT, World, listener, start_plain

from casemate.calls import networks as c
from casemate.errors import HostError
from casemate.image.cpio import program, write_cpio
from casemate.image.debian import Packages
from casemate.image.demo import boot_files, first_root, kernel_release
from casemate.kernel.accounts import LOCAL_ROOT
from casemate.kernel.inventory import Inventory
from casemate.kernel.leasing import Leasing
from casemate.kernel.natting import Natting
from casemate.kernel.store import Store
from casemate.kernel.stream import FactStream
from casemate.kernel.switching import Switching
from casemate.kernel.wires import Wires
from casemate.machine.facts import NicSpec

from .conftest import until

pytestmark = [pytest.mark.host, pytest.mark.guest, pytest.mark.timeout(600)]

# Tells of every answer, and of the first silence after one.
INIT = b"""#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /lib/*.ko; do insmod "$module"; done
for word in $(cat /proc/cmdline); do
    case $word in
    demo.own=*) own=${word#*=} ;;
    demo.peer=*) peer=${word#*=} ;;
    esac
done
ip link set eth0 up
ip addr add "$own/24" dev eth0
while :; do
    if ping -c 1 -W 1 "$peer" >/dev/null; then
        [ "$state" = heard ] || echo "heard $peer" >/dev/ttyS0
        state=heard
    else
        [ "$state" != heard ] || echo "silence" >/dev/ttyS0
        state=silence
    fi
    sleep 1
done
"""
# Asks for an address, and pulls a page from where its gateway leads.
ASKING = b"""#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /lib/*.ko; do insmod "$module"; done
for word in $(cat /proc/cmdline); do
    case $word in
    demo.page=*) page=${word#*=} ;;
    esac
done
ip link set eth0 up
udhcpc -i eth0 -f -q -t 20 -s /bin/bound >/dev/ttyS0 2>&1
while :; do
    wget -q -O - "$page" >/dev/ttyS0 2>&1
    sleep 1
done
"""
BOUND = b"""#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add "$ip/$mask" dev "$interface"
ip route add default via "$router"
echo "bound to $ip by $serverid, names $dns" >/dev/ttyS0
"""
UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"


def write_guest(place: Path, packages: Packages, init: bytes = INIT) -> None:
    entries = [
        program("init", init) if entry.path == "init" else entry
        for entry in first_root(packages, kernel_release(packages))
    ]
    entries.append(program("bin/bound", BOUND))
    place.mkdir()
    for name, data in (
        ("kernel", boot_files(packages)["vmlinuz"]),
        ("initrd", write_cpio(entries)),
    ):
        (place / name).write_bytes(data)
        (place / name).chmod(0o644)


def test_two_guests_on_a_port_group_talk_until_one_is_moved_to_another_vlan(bench, tmp_path):
    packages = Packages()
    try:
        for name in ("one", "two"):
            write_guest(tmp_path / name, packages)
    except HostError as error:
        pytest.skip(f"needs what the demo guest is made of: {error.reason}")

    def config(own: int, peer: int, model: str, network: str = "VM Network"):
        return bench.config(
            memory_mib=256,
            disks=(),
            nics=(NicSpec(f"00:50:56:00:00:{own:02x}", network, model),),
            extra=(
                ("casemate.kernel", "kernel"),
                ("casemate.initrd", "initrd"),
                (
                    "casemate.append",
                    f"console=ttyS0 quiet demo.own=10.0.0.{own} demo.peer=10.0.0.{peer}",
                ),
            ),
        )

    async def body():
        store, stream = Store(tmp_path / "casemate.db"), FactStream()
        (tmp_path / "volumes").mkdir()
        inventory = Inventory(store, stream, tmp_path / "volumes", UUID)
        wires = Wires(None)
        natting = Natting(store, Leasing(wires.open_listener), "00000000", tuple)
        switching = Switching(store, stream, inventory, wires, frozenset, natting)
        await switching.start({})
        add = c.AddPortGroup("", "apart", "vSwitch0", 20)
        await switching.handlers()[c.AddPortGroup](add, LOCAL_ROOT)
        async with bench.cells() as cells:
            cells.wire(switching.connect)
            await cells.power_on("1", config(1, 2, "vmxnet3"), tmp_path / "one")
            await cells.power_on("2", config(2, 1, "vmxnet3"), tmp_path / "two")
            logs = [cells.console_log(vm) for vm in ("1", "2")]

            def said(text: bytes) -> bool:
                return all(log.exists() and text in log.read_bytes() for log in logs)

            await until(lambda: said(b"heard 10.0.0."), 200)
            await switching.changed("2", config(2, 1, "vmxnet3", "apart"))
            await until(lambda: said(b"silence"), 60)
        for vm in ("1", "2"):
            switching.ended(vm)
        assert not [name for name in await wires.links() if name.startswith("t")]
        await switching.close()
        store.close()
        assert bench.leftovers() == []

    asyncio.run(body())


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.0 200 OK\r\n\r\nthe page of the outside\n")
    await writer.drain()
    writer.close()


def test_a_guest_behind_nat_asks_for_its_address_and_pulls_a_page_from_outside(bench, tmp_path):
    try:
        write_guest(tmp_path / "one", Packages(), ASKING)
    except HostError as error:
        pytest.skip(f"needs what the demo guest is made of: {error.reason}")
    config = bench.config(
        memory_mib=256,
        disks=(),
        nics=(NicSpec("00:50:56:00:00:01", "VM Network", "virtio"),),
        extra=(
            ("casemate.kernel", "kernel"),
            ("casemate.initrd", "initrd"),
            ("casemate.append", f"console=ttyS0 quiet demo.page=http://{OUTSIDE}:{PORT}/"),
        ),
    )

    async def body():
        world = World()
        web = await asyncio.start_server(serve, sock=world.outside.now(listener, "tcp"))
        store, stream = Store(tmp_path / "casemate.db"), FactStream()
        (tmp_path / "volumes").mkdir()
        inventory = Inventory(store, stream, tmp_path / "volumes", UUID)
        wires = world.machine.now(Wires, None, "0badcafe")
        natting = Natting(
            store, Leasing(wires.open_listener, start_plain), "0badcafe", lambda: ("192.0.2.53",)
        )
        switching = Switching(store, stream, inventory, wires, frozenset, natting)
        await switching.start({})
        await switching.handlers()[c.SetNat](
            c.SetNat("", "vSwitch0", on=True, network="10.77.0.0/24"), LOCAL_ROOT
        )
        async with bench.cells() as cells:
            cells.wire(switching.connect)
            await cells.power_on("1", config, tmp_path / "one")
            log = cells.console_log("1")

            def said(text: bytes) -> bool:
                return log.exists() and text in log.read_bytes()

            await until(lambda: said(b"bound to 10.77.0.2 by 10.77.0.1, names 192.0.2.53"), 200)
            await until(lambda: said(b"the page of the outside"), 100)
            assert world.trapped() == []
        switching.ended("1")
        await switching.close(part=True)
        assert world.tables() == set()
        assert not world.forwarding()
        web.close()
        await web.wait_closed()
        store.close()
        await world.close()
        assert bench.leftovers() == []

    asyncio.run(body())
