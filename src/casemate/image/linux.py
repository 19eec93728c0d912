"""Linux as VIBs: the modules a host needs, and each provider's drivers in a VIB of their own.

The kernel itself is in the boot image (``image.uki``); here are its modules, out of the same
Debian package, with their own signatures on them. Beside them lies an index for the program that
loads drivers: what each module needs, and which devices it drives.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from casemate.errors import HostError
from casemate.formats.modinfo import ModuleInfo, parse_modinfo
from casemate.image.debian import Packages, vib_version
from casemate.image.files import Recipe
from casemate.image.tree import File, Node, by_path

KERNEL_PACKAGE: Final = "linux-image-cloud-amd64"
INDEX_PLACE: Final = "usr/lib/casemate/drivers"
BUSES: Final = ("pci:", "virtio:", "vmbus:", "cpu:", "acpi:")
"""Beginnings of the aliases that are kept: those by which devices are found at boot."""

CORE: Final = (
    *("loop", "overlay", "erofs", "vfat", "nls_cp437", "nls_ascii", "nls_utf8", "sd_mod"),
    *("kvm_intel", "kvm_amd", "efivarfs"),
    *("tun", "bridge", "nf_tables", "nft_dup_netdev", "8021q"),
    *("nft_limit", "veth", "nft_chain_nat", "nft_ct", "nft_masq", "nft_connlimit"),
)
"""What a host needs whatever hardware it has."""

EARLY: Final = (
    *("virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "vmw_pvscsi"),
    *("loop", "overlay", "erofs", "vfat", "nls_cp437", "nls_ascii", "efivarfs"),
    *("dm_crypt", "xts", "ecb", "aesni_intel"),
)
"""What the loader needs to find the boot banks and to mount what they hold; the rest of it (NVMe,
SATA, ext4, TPM) is built into Debian's cloud kernel."""


@dataclass(frozen=True, slots=True)
class Provider:
    """Somebody's drivers: the VIB's name, its file in the bank, who, and the modules."""

    vib: str
    boot_name: str
    who: str
    modules: tuple[str, ...]


PROVIDERS: Final = (
    Provider(
        "drivers-virtio",
        "virtio.v00",
        "OASIS virtio",
        ("virtio_pci", "virtio_blk", "virtio_scsi", "virtio_net", "virtio_balloon", "virtio_rng"),
    ),
    Provider("drivers-vmware", "vmware.v00", "VMware", ("vmxnet3", "vmw_pvscsi", "vmw_balloon")),
    Provider("drivers-amazon", "amazon.v00", "Amazon", ("ena",)),
    Provider("drivers-google", "google.v00", "Google", ("gve",)),
    Provider("drivers-intel", "intel.v00", "Intel", ("ixgbevf",)),
)


@dataclass(frozen=True, slots=True)
class Module:
    """A module of the kernel package; ``path`` is merged."""

    path: str
    data: bytes
    info: ModuleInfo


class Kernel:
    """The installed cloud kernel and its modules.

    Args:
        packages: of the building machine.

    Raises:
        HostError: no cloud kernel is installed.
    """

    def __init__(self, packages: Packages) -> None:
        self._packages = packages
        self.release = newest_release(packages)
        self.package = f"linux-image-{self.release}"
        pattern = re.compile(rf"usr/lib/modules/{re.escape(self.release)}/kernel/(.+/)?([^/]+)\.ko")
        self._paths = {
            match[2].replace("-", "_"): path
            for path in packages.paths(self.package)
            if (match := pattern.fullmatch(path))
        }
        self._read: dict[str, Module] = {}

    @property
    def version(self) -> str:
        """The package's version as a VIB's."""
        return vib_version(self._packages.version(self.package))

    def image(self) -> bytes:
        """Return the kernel itself, as Debian signed it."""
        return (self._packages.root / f"boot/vmlinuz-{self.release}").read_bytes()

    def module(self, name: str) -> Module | None:
        """Return a module; None where the kernel has no such one, or has it built in.

        Raises:
            FormatError: its file is damaged.
        """
        if name not in self._read and name in self._paths:
            path = self._paths[name]
            data = (self._packages.root / path).read_bytes()
            self._read[name] = Module(path, data, parse_modinfo(data))
        return self._read.get(name)

    def closure(self, names: Iterable[str]) -> dict[str, Module]:
        """Return modules with all that they need, by name, needed ones first."""
        found: dict[str, Module] = {}

        def add(name: str) -> None:
            module = self.module(name)
            if module is not None and name not in found:
                for need in module.info.depends:
                    add(need.replace("-", "_"))
                found[name] = module

        for name in names:
            add(name)
        return found


def newest_release(packages: Packages) -> str:
    """Return the release of the newest installed cloud kernel. Raises HostError."""
    pattern = re.compile(r"linux-image-((\d+)\.(\d+)\.(\d+)-(\d+)-cloud-amd64)")
    found = [match for name in packages.versions if (match := pattern.fullmatch(name))]
    if not found:
        raise HostError(
            "No cloud kernel is installed.",
            code="package-missing",
            component=KERNEL_PACKAGE,
            remedy=f"Install it (apt-get install {KERNEL_PACKAGE}), or run make up.",
        )
    return max(found, key=lambda match: tuple(map(int, match.groups()[1:])))[1]


def linux_recipes(packages: Packages) -> Iterator[Recipe]:
    """Yield the recipes of the kernel's modules: those of all machines, then each provider's.

    A module that several need is with those of all machines.

    Raises:
        HostError: no cloud kernel is installed.
    """
    kernel = Kernel(packages)
    named = {name: one.vib for one in PROVIDERS for name in one.modules}
    everything = kernel.closure([*CORE, *named])
    users: dict[str, set[str]] = {name: set() for name in everything}
    for one in PROVIDERS:
        for name in kernel.closure(one.modules):
            users[name].add(one.vib)
    owner = {
        name: named.get(name) or (next(iter(vibs)) if len(vibs) == 1 else "linux")
        for name, vibs in users.items()
    }
    owner |= dict.fromkeys(kernel.closure(CORE), "linux")
    yield _recipe(kernel, "linux", "linux.v00", "Linux", everything, owner)
    for one in PROVIDERS:
        yield _recipe(kernel, one.vib, one.boot_name, one.who, everything, owner)


def index(modules: Mapping[str, Module]) -> bytes:
    """Return what a host must know to load these modules: JSON, name to file, needs, devices."""
    facts = {
        name: {
            "file": f"/{module.path}",
            "depends": [need.replace("-", "_") for need in module.info.depends],
            "aliases": sorted(one for one in module.info.aliases if one.startswith(BUSES)),
        }
        for name, module in sorted(modules.items())
    }
    return json.dumps(facts, indent=1, sort_keys=True).encode()


def _recipe(
    kernel: Kernel,
    vib: str,
    boot_name: str,
    who: str,
    everything: Mapping[str, Module],
    owner: Mapping[str, str],
) -> Recipe:
    own = {name: module for name, module in everything.items() if owner[name] == vib}
    nodes: list[Node] = [File(module.path, module.data) for module in own.values()]
    nodes.append(File(f"{INDEX_PLACE}/{vib}.json", index(own)))
    summary = "Modules of all machines" if vib == "linux" else f"Drivers: {who}"
    return Recipe(
        name=vib,
        boot_name=boot_name,
        version=kernel.version,
        summary=f"{summary}, of Linux {kernel.release}",
        description=f"Built from Debian package {kernel.package}; modules keep its signatures.",
        level="accepted",
        nodes=by_path(nodes),
        requires=frozenset() if vib == "linux" else frozenset({"linux"}),
    )
