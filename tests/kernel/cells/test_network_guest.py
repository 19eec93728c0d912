"""Two Linux guests on one port group reach each other; moved apart they do not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from casemate.calls import networks as c
from casemate.errors import HostError
from casemate.image.cpio import program, write_cpio
from casemate.image.debian import Packages
from casemate.image.demo import boot_files, first_root, kernel_release
from casemate.kernel.accounts import LOCAL_ROOT
from casemate.kernel.inventory import Inventory
from casemate.kernel.store import Store
from casemate.kernel.stream import FactStream
from casemate.kernel.switching import Switching
from casemate.kernel.wires import Wires
from casemate.machine.facts import NicSpec

from .conftest import until

pytestmark = [pytest.mark.host, pytest.mark.guest, pytest.mark.timeout(300)]

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
UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"


def write_guest(place: Path, packages: Packages) -> None:
    entries = [
        program("init", INIT) if entry.path == "init" else entry
        for entry in first_root(packages, kernel_release(packages))
    ]
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
        switching = Switching(store, stream, inventory, wires, frozenset)
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
