"""An OVA goes out and comes back with the same disk; one made by an attacker makes no VM."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from casemate.calls import messages as m
from casemate.calls import vms as c
from casemate.errors import ArgumentError
from casemate.machine.facts import NicSpec

from .vmbench import COUNTING_SECTOR, MIB, Host, RefusedTaskError, config, disk, make, printed

pytestmark = pytest.mark.host
OUT = "[datastore1] one.ova"


async def exported(host: Host) -> Path:
    vm = await make(host, annotation="<note> & more", nics=(NicSpec("", "LAN", "vmxnet3"),))
    noise = random.Random(1).randbytes(200_000)
    with (host.datastore / "one/one-flat.vmdk").open("r+b") as stream:
        stream.seek(3 * MIB + 777)
        stream.write(noise)
        stream.seek(8 * MIB - 3)
        stream.write(b"end")
    await host.ask(c.ExportVm("", vm, OUT))
    return host.datastore / "one.ova"


def remade(archive: Path, change) -> None:
    """Write an archive anew; ``change(name, content)`` gives name and content, or None."""
    with tarfile.open(archive) as old:
        members = [(info.name, old.extractfile(info).read()) for info in old]
    out = BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as new:
        for name, content in members:
            changed = change(name, content)
            if changed is not None:
                info = tarfile.TarInfo(changed[0])
                info.size = len(changed[1])
                new.addfile(info, BytesIO(changed[1]))
    archive.write_bytes(out.getvalue())


def test_a_file_system_that_takes_a_part_of_what_is_written_loses_nothing(on, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda to, data, at: real(to, data[: -(-len(data) // 2)], at))

    async def body(host: Host) -> None:
        await exported(host)
        await host.ask(c.ImportVm("", OUT, "two"))
        one, two = (host.datastore / f"{name}/{name}-flat.vmdk" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()

    on(body)


def test_an_ova_goes_out_and_comes_back_bit_equal_in_its_disk(on):
    async def body(host: Host) -> None:
        archive = await exported(host)
        with tarfile.open(archive) as opened:
            assert [info.name for info in opened] == ["one.ovf", "one.mf", "one-disk1.vmdk"]
        copy = await host.ask(c.ImportVm("", OUT, "two"))
        one, two = host.vm("1").config, host.vm(copy).config
        assert (two.name, two.annotation, two.cpus, two.memory_mib) == (
            "two",
            "<note> & more",
            one.cpus,
            one.memory_mib,
        )
        assert [(nic.network, nic.model) for nic in two.nics] == [("LAN", "vmxnet3")]
        assert two.uuid != one.uuid
        digests = {
            hashlib.sha256((host.datastore / place).read_bytes()).hexdigest()
            for place in ("one/one-flat.vmdk", "two/two-flat.vmdk")
        }
        assert len(digests) == 1
        with pytest.raises(RefusedTaskError, match="host-eexist"):
            await host.ask(c.ExportVm("", "1", OUT))
        with pytest.raises(ArgumentError):
            await host.ask(c.ExportVm("", "1", "[datastore1] ../one.ova"))

    on(body)


def swapped(old: bytes, new: bytes):
    def change(name: str, content: bytes):
        return name, content.replace(old, new) if name.endswith(".ovf") else content

    return change


def without_manifest(change):
    return lambda name, content: None if name.endswith(".mf") else change(name, content)


ATTACKS = {
    "a changed descriptor": swapped(b"one", b"two"),
    "a changed disk": lambda n, d: (n, d[:-1] + b"x" if n.endswith("vmdk") else d),
    "a lacking disk": lambda n, d: None if n.endswith("vmdk") else (n, d),
    "a file beside the manifest": lambda n, d: (n if n != "one.mf" else "two.ovf", d),
    "a path out": lambda n, d: (n if n != "one-disk1.vmdk" else "../../etc/passwd", d),
    "an absolute path": lambda n, d: (n if n != "one-disk1.vmdk" else "/etc/passwd", d),
    "a reference out": without_manifest(swapped(b'"one-disk1.vmdk"', b'"../one-disk1.vmdk"')),
    "another capacity": without_manifest(swapped(b"8388608", b"999936")),
    "a huge capacity": without_manifest(swapped(b"8388608", b"9" * 18)),
    "entities": without_manifest(swapped(b"<Envelope", b'<!DOCTYPE x [<!ENTITY a "b">]><Envelope')),
    "no controller": without_manifest(swapped(b"rasd:Parent>", b"rasd:Other>")),
    "a cut disk": without_manifest(lambda n, d: (n, d[:-1536] if n.endswith("vmdk") else d)),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_ova_made_by_an_attacker_makes_no_vm_and_leaves_nothing(on, attack):
    async def body(host: Host) -> None:
        archive = await exported(host)
        remade(archive, ATTACKS[attack])
        with pytest.raises(RefusedTaskError) as caught:
            await host.ask(c.ImportVm("", OUT, "two"))
        assert caught.value.fault.code != "internal"
        assert sorted(entry.name for entry in host.datastore.iterdir()) == ["one", "one.ova"]
        assert len(host.inventory.vms()) == 1

    on(body)


def test_links_and_devices_in_an_ova_are_refused(on):
    async def body(host: Host) -> None:
        archive = await exported(host)
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE):
            with tarfile.open(archive, "w", format=tarfile.USTAR_FORMAT) as new:
                info = tarfile.TarInfo("one.ovf")
                info.type, info.linkname = kind, "/etc/shadow"
                new.addfile(info)
            with pytest.raises(RefusedTaskError, match="ova-kind"):
                await host.ask(c.ImportVm("", OUT))

    on(body)


@pytest.mark.parametrize("form", ["vmdk", "qcow2"])
def test_a_disk_with_snapshots_goes_out_as_its_guest_sees_it(on, form):
    async def body(host: Host) -> None:
        vm = await host.ask(c.CreateVm("", config(disks=(disk(format=form),))))
        if form == "vmdk":
            (host.datastore / "one/one-flat.vmdk").write_bytes(
                COUNTING_SECTOR.ljust(8 * MIB, b"\0")
            )
        else:
            plain = host.place / "plain"
            plain.write_bytes(COUNTING_SECTOR.ljust(8 * MIB, b"\0"))
            words = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", plain]
            subprocess.run([*words, host.datastore / "one/one.qcow2"], check=True)  # noqa: ASYNC221  (a moment)
        for number in (1, 2):
            await host.ask(c.CreateSnapshot("", vm, f"before {number}"))
            await host.ask(m.PowerOn("", vm))
            await printed(host, vm, b"%d\n" % number)
            await host.ask(m.PowerOff("", vm))
        await host.ask(c.ExportVm("", vm, OUT))
        copy = await host.ask(c.ImportVm("", OUT, "two"))
        assert (host.datastore / "two/two-flat.vmdk").read_bytes()[512] == 2
        await host.ask(m.PowerOn("", copy))
        await printed(host, copy, b"3\n")

    on(body)
