"""The demo guest: a small Linux that boots from an ordinary disk to a prompt on its serial port.

Made from Debian packages: kernel of linux-image-cloud-amd64, user space of busybox-static, boot
loader syslinux. The whole guest runs from RAM and needs no disk driver; it answers the power
button and has its network drivers.
"""

from __future__ import annotations

import hashlib
import re
import struct
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from importlib import resources
from pathlib import Path
from typing import Final
from uuid import UUID, uuid5

from casemate.errors import HostError
from casemate.formats import vmdk, vmx
from casemate.formats.modinfo import parse_modinfo
from casemate.image import tools
from casemate.image.cpio import Entry, device, folder, link, program, write_cpio
from casemate.image.debian import Packages
from casemate.image.erofs import NAMESPACE

KERNEL_PACKAGE: Final = "linux-image-cloud-amd64"
BUSYBOX: Final = "usr/bin/busybox"
MBR: Final = "usr/lib/syslinux/mbr/mbr.bin"
READY: Final = "casemate demo ready"
"""What the guest prints when it is up."""

SECTOR: Final = 512
DISK_SECTORS: Final = 40 * 2048
"""40 MiB: kernel and first root take 17."""
PARTITION_START: Final = 2048
"""Sectors; where every partitioning tool puts the first partition."""
FAT16_LBA: Final = 0x0E
ACTIVE: Final = 0x80
BOOT_SIGNATURE: Final = b"\x55\xaa"
PARTITION_ENTRY: Final = 446
SERIAL: Final = "ca5e3a7e"
"""Volume serial number of the FAT file system."""
SOURCE_DATE: Final = "1793491200"
"""2026-11-01: the date of the files on the disk."""

MODULES: Final = (
    "drivers/acpi/button.ko",
    "drivers/input/evdev.ko",
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_pci_legacy_dev.ko",
    "drivers/virtio/virtio_pci_modern_dev.ko",
    "drivers/virtio/virtio_pci.ko",
    "drivers/virtio/virtio_balloon.ko",
    "net/core/failover.ko",
    "drivers/net/net_failover.ko",
    "drivers/net/virtio_net.ko",
    "drivers/net/vmxnet3/vmxnet3.ko",
)
"""What drives the guest's devices, and all that those modules need."""

APPLETS: Final = (
    *("cat", "cttyhack", "dmesg", "free", "grep", "head", "hostname", "ifconfig", "insmod", "ip"),
    *("ls", "mount", "ping", "poweroff", "ps", "reboot", "setsid", "sh", "sleep", "top", "udhcpc"),
    *("uname", "uptime", "vi", "wget"),
)

BOOT_CONFIGURATION: Final = """\
DEFAULT demo
PROMPT 0
TIMEOUT 0
LABEL demo
  LINUX /vmlinuz
  INITRD /root.img
  APPEND console=ttyS0,115200 quiet loglevel=3 panic=10
"""


@dataclass(frozen=True, slots=True)
class DemoGuest:
    """Where the demo guest lies."""

    vmx: Path
    disk: Path


def write_demo(
    place: Path, *, name: str = "demo", memory_mib: int = 256, packages: Packages | None = None
) -> DemoGuest:
    """Write the demo guest's files: ``<name>.vmx``, ``<name>.vmdk``, ``<name>-flat.vmdk``.

    Args:
        place: the VM's directory; made when absent.
        name: of the VM and of its files.
        memory_mib: memory of the VM.
        packages: Debian packages to build from.

    Raises:
        HostError: a package or a program is missing, or the place cannot be written.
    """
    packages = packages or Packages()
    flat = place / f"{name}-flat.vmdk"
    try:
        place.mkdir(parents=True, exist_ok=True)
        write_disk(flat, boot_files(packages), _host_file(packages, "syslinux-common", MBR))
        (place / f"{name}.vmdk").write_bytes(vmdk.write(_disk_descriptor(flat.name)))
        configuration = place / f"{name}.vmx"
        configuration.write_bytes(vmx.write(vmx.Vmx(tuple(_settings(name, memory_mib)))))
    except OSError as error:
        raise HostError(
            f"The demo guest cannot be written: {error.strerror}.",
            code="demo-write",
            component=str(error.filename or place),
            remedy="Make room on its disk, or run as root.",
        ) from error
    return DemoGuest(configuration, flat)


def boot_files(packages: Packages) -> dict[str, bytes]:
    """Return the files of the guest's boot file system by name.

    Raises:
        HostError: a package is missing.
    """
    release = kernel_release(packages)
    kernel = _host_file(packages, f"linux-image-{release}", f"boot/vmlinuz-{release}")
    return {
        "vmlinuz": kernel,
        "root.img": write_cpio(first_root(packages, release)),
        "syslinux.cfg": BOOT_CONFIGURATION.encode(),
    }


def kernel_release(packages: Packages) -> str:
    """Return the newest installed cloud kernel's release, such as ``6.1.0-56-cloud-amd64``.

    Raises:
        HostError: none is installed.
    """
    packages.version(KERNEL_PACKAGE)
    pattern = re.compile(r"linux-image-((\d+)\.(\d+)\.(\d+)-(\d+)-cloud-amd64)")
    found = [match for name in packages.versions if (match := pattern.fullmatch(name))]
    if not found:
        raise HostError(
            "No cloud kernel is installed.",
            code="package-missing",
            component=KERNEL_PACKAGE,
            remedy=f"Install it again (apt-get install --reinstall {KERNEL_PACKAGE}).",
        )
    return max(found, key=lambda match: tuple(map(int, match.groups()[1:])))[1]


def first_root(
    packages: Packages, release: str, modules: Sequence[str] = MODULES
) -> Iterator[Entry]:
    """Yield the entries of the guest's root file system, with these Linux modules.

    Raises:
        HostError: a package is missing.
    """
    for path in ("bin", "dev", "lib", "proc", "sys", "run", "tmp"):
        yield folder(path)
    yield device("dev/console", 5, 1)
    yield program("bin/busybox", _host_file(packages, "busybox-static", BUSYBOX))
    for applet in APPLETS:
        yield link(f"bin/{applet}", "busybox")
    script = resources.files("casemate.image") / "demo-init.sh"
    yield program("init", script.read_bytes())
    source = f"usr/lib/modules/{release}/kernel"
    package = f"linux-image-{release}"
    files = [_host_file(packages, package, f"{source}/{module}") for module in modules]
    for number, (name, data) in enumerate(in_order(files)):
        yield program(f"lib/{number:02}-{name}.ko", data)


def in_order(modules: Sequence[bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of Linux modules, each after those that it needs.

    Raises HostError where one is needed that is not among them.
    """
    infos = [(parse_modinfo(data), data) for data in modules]
    by_name = {info.name: data for info, data in infos}
    needs = {info.name: sorted(info.depends) for info, _ in infos}
    for name in TopologicalSorter(needs).static_order():
        if name not in by_name:
            raise HostError(
                f"A Linux module of the guest needs {name}, which is not given to it.",
                code="module-missing",
                component=name,
                remedy="Build on Debian 12, whose packages this version knows.",
            )
        yield name, by_name[name]


def write_disk(disk: Path, files: dict[str, bytes], mbr: bytes) -> None:
    """Write a raw disk with one bootable FAT partition.

    Args:
        disk: file to write.
        files: its files by name.
        mbr: code of the master boot record, at most 440 bytes.

    Raises:
        HostError: a program is missing or failed.
    """
    count = DISK_SECTORS - PARTITION_START
    entry = struct.pack(
        "<B3sB3sII", ACTIVE, b"\0\x02\0", FAT16_LBA, b"\xff\xff\xff", PARTITION_START, count
    )
    disk.unlink(missing_ok=True)
    with disk.open("wb") as stream:
        stream.truncate(DISK_SECTORS * SECTOR)
        stream.write(mbr[:440].ljust(PARTITION_ENTRY, b"\0") + entry)
        stream.seek(SECTOR - len(BOOT_SIGNATURE))
        stream.write(BOOT_SIGNATURE)
    offset = PARTITION_START * SECTOR
    environment = {"SOURCE_DATE_EPOCH": SOURCE_DATE, "MTOOLS_SKIP_CHECK": "1"}
    drive = f"{disk}@@{offset}"
    tools.run(
        *("mformat", "-i", drive, "-T", str(count), "-h", "16", "-s", "63"),
        *("-H", str(PARTITION_START), "-c", "4", "-N", SERIAL, "-v", "DEMO", "::"),
        environment=environment,
    )
    with tempfile.TemporaryDirectory() as temporary:
        for name, data in sorted(files.items()):
            copy = Path(temporary, name)
            copy.write_bytes(data)
            tools.run("mcopy", "-i", drive, copy, f"::{name}", environment=environment)
    tools.run("syslinux", "--install", "--offset", str(offset), disk, environment=environment)


def _disk_descriptor(extent: str) -> vmdk.Vmdk:
    cylinders = DISK_SECTORS // (16 * 63)
    return vmdk.Vmdk(
        vmdk.CreateType.MONOLITHIC_FLAT,
        extent,
        DISK_SECTORS,
        adapter="ide",
        ddb=(
            ("ddb.geometry.cylinders", str(cylinders)),
            ("ddb.geometry.heads", "16"),
            ("ddb.geometry.sectors", "63"),
            ("ddb.virtualHWVersion", "21"),
        ),
    )


def _settings(name: str, memory_mib: int) -> Iterator[tuple[str, str]]:
    """Yield a VMX file's entries as VMware writes them."""
    identifier = uuid5(NAMESPACE, f"vm {name}")
    yield from (
        ("config.version", "8"),
        ("virtualHW.version", "21"),
        ("displayName", name),
        ("annotation", "Boots Linux from RAM; its console is the serial port."),
        ("guestOS", "other6xlinux-64"),
        ("firmware", "bios"),
        ("uuid.bios", _vmware_uuid(identifier)),
        ("numvcpus", "1"),
        ("memSize", str(memory_mib)),
        ("sata0.present", "TRUE"),
        ("sata0:0.present", "TRUE"),
        ("sata0:0.fileName", f"{name}.vmdk"),
        ("ethernet0.present", "TRUE"),
        ("ethernet0.virtualDev", "vmxnet3"),
        ("ethernet0.networkName", "VM Network"),
        ("ethernet0.addressType", "static"),
        ("ethernet0.address", _mac_address(name)),
        ("serial0.present", "TRUE"),
        ("serial0.fileType", "file"),
        ("serial0.fileName", "serial.log"),
    )


def _vmware_uuid(identifier: UUID) -> str:
    octets = identifier.bytes.hex(" ")
    return f"{octets[:23]}-{octets[24:]}"


def _mac_address(name: str) -> str:
    """Return an address of VMware's range for static ones, 00:50:56:00:00:00 to 3f:ff:ff."""
    first, second, third = hashlib.sha256(name.encode()).digest()[:3]
    return f"00:50:56:{first & 0x3F:02x}:{second:02x}:{third:02x}"


def _host_file(packages: Packages, package: str, path: str) -> bytes:
    """Return a file that a package brought."""
    if path not in packages.paths(package):
        raise HostError(
            f"The Debian package {package} has no /{path}.",
            code="file-missing",
            component=path,
            remedy="Build on Debian 12, whose packages this version knows.",
        )
    return (packages.root / path).read_bytes()
