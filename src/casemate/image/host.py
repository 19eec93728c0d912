"""The recipes of a host: which VIBs there are, what each one brings, and at which level.

Levels: what this project wrote is *certified*; what Debian built and this project only chose and
packed is *accepted*, the third-party Python packages included. The image profile is *partner*,
as on ESXi, so that a vendor's signed driver can be added without lowering anything.

There is no ld.so.cache: every library lies where the dynamic linker looks anyway, and a cache
would tie the base to whatever else happens to be installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

import casemate
from casemate.image.accounts import skeleton
from casemate.image.debian import TRIPLET, Packages, vib_version
from casemate.image.fapi import BINDING, stand_in
from casemate.image.files import Form, Recipe, assign
from casemate.image.modules import closure
from casemate.image.runtime import THIRD_PARTY, interpreter, third_party
from casemate.image.tree import File, Node, by_path

LIBRARIES: Final = f"usr/lib/{TRIPLET}"
BASE: Final = "base-libs"
PROJECT_VERSION: Final = f"{casemate.__version__}-1"

LOADER: Final = "casemate.kernel.boot.stage"
"""The loader's program. Its VIB holds what it imports and nothing else: it is measured first."""

KERNEL_ROOMS: Final = ("formats", "vim25", "policy", "sched", "machine", "calls", "kernel")
"""The kernel's room and those below it, which hostd shares."""

KERNEL_FILES: Final = frozenset({"__init__.py", "errors.py"})
HOSTD_ROOMS: Final = ("hostd", "ui", "console")

BASE_PACKAGES_FILES: Final = (
    f"{LIBRARIES}/ld-linux-x86-64.so.2",
    "usr/lib64/ld-linux-x86-64.so.2",
    f"{LIBRARIES}/libc.so.6",
    f"{LIBRARIES}/libgcc_s.so.1",
    f"{LIBRARIES}/libseccomp.so.2",
    f"{LIBRARIES}/libtss2-tcti-device.so.0",
    f"{LIBRARIES}/libtss2-tcti-swtpm.so.0",
)
"""What is loaded by name at run time, so that no NEEDED entry leads to it."""

QEMU_PROGRAMS: Final = ("usr/bin/qemu-system-x86_64", "usr/bin/qemu-img")
QEMU_MODULES: Final = (
    "accel-tcg-x86_64.so",
    "hw-display-virtio-gpu.so",
    "hw-display-virtio-gpu-pci.so",
    "hw-display-virtio-vga.so",
)
QEMU_DATA: Final = frozenset(
    {
        "kvmvapic.bin",
        "linuxboot.bin",
        "linuxboot_dma.bin",
        "multiboot.bin",
        "multiboot_dma.bin",
        "pvh.bin",
    }
)
FIRMWARE: Final = {
    "seabios": (
        "usr/share/seabios/bios-256k.bin",
        "usr/share/seabios/vgabios-stdvga.bin",
        "usr/share/seabios/vgabios-virtio.bin",
        "usr/share/seabios/vgabios-vmware.bin",
        "usr/share/seabios/vgabios-ramfb.bin",
    ),
    "ipxe-qemu": (
        "usr/lib/ipxe/qemu/efi-e1000.rom",
        "usr/lib/ipxe/qemu/efi-e1000e.rom",
        "usr/lib/ipxe/qemu/efi-virtio.rom",
        "usr/lib/ipxe/qemu/efi-vmxnet3.rom",
    ),
}
UEFI_FIRMWARE: Final = frozenset(
    {
        "usr/share/OVMF/OVMF_CODE_4M.fd",
        "usr/share/OVMF/OVMF_CODE_4M.ms.fd",
        "usr/share/OVMF/OVMF_CODE_4M.secboot.fd",
        "usr/share/OVMF/OVMF_VARS_4M.fd",
        "usr/share/OVMF/OVMF_VARS_4M.ms.fd",
    }
)


def recipes(packages: Packages, scratch: Path) -> tuple[Recipe, ...]:
    """Return the complete recipes of a host, in boot order.

    Args:
        packages: of the building machine.
        scratch: directory for intermediate files.

    Raises:
        HostError: a package, a program or a library is missing.
    """
    rough = (*project_recipes(), *system_recipes(packages, scratch))
    return assign(rough, packages, base=BASE)


def project_recipes() -> Iterator[Recipe]:
    """Yield the VIBs made of this project's own sources."""
    own = dict(sources())
    yield Recipe(
        name="casemate-boot",
        boot_name="b.b00",
        version=PROJECT_VERSION,
        summary="Loader: verifies, measures and mounts every other component",
        description="The part of Casemate that a D-RTM launch measures. Needs Python alone.",
        level="certified",
        nodes=by_path(File(f"casemate/{path}", own[path]) for path in closure(LOADER, own)),
        form=Form.ZIP,
    )
    yield Recipe(
        name="casemate-kernel",
        boot_name="k.b00",
        version=PROJECT_VERSION,
        summary="Kernel: runs and isolates virtual machines, keeps the TPM and the store",
        description="The only process of a host with privileges, and what it is made of.",
        level="certified",
        nodes=_modules(own, KERNEL_ROOMS, KERNEL_FILES),
        requires=frozenset({"python", "python-libs", "qemu", "swtpm", BASE}),
        compiled=True,
    )
    yield Recipe(
        name="casemate-hostd",
        boot_name="hostd.v00",
        version=PROJECT_VERSION,
        summary="Front end: serves the vSphere API and the pages of the host",
        description="Runs without privileges and reaches the kernel through its calls alone.",
        level="certified",
        nodes=_modules(own, HOSTD_ROOMS),
        requires=frozenset({"casemate-kernel", "python", "python-libs", BASE}),
        compiled=True,
    )


def system_recipes(packages: Packages, scratch: Path) -> Iterator[Recipe]:
    """Yield the VIBs made of Debian packages and of third-party Python packages."""

    def recipe(
        name: str, boot_name: str, package: str, summary: str, nodes: Iterable[Node], *needs: str
    ) -> Recipe:
        version = packages.version(package)
        return Recipe(
            name=name,
            boot_name=boot_name,
            version=vib_version(version),
            summary=summary,
            description=f"Built from Debian package {package} {version}.",
            level="accepted",
            nodes=by_path(nodes),
            requires=frozenset(needs),
            compiled=name == "python",
        )

    base = (node for path in BASE_PACKAGES_FILES for node in packages.node(path))
    yield recipe(
        BASE,
        "baselibs.v00",
        "libc6",
        "C library, shared libraries, accounts and mount points",
        (*skeleton(casemate.__version__), *base),
    )
    yield recipe(
        "python",
        "python3.v00",
        "libpython3.11",
        "Python as a position-independent program, with its standard library",
        interpreter(packages, scratch),
        BASE,
    )
    yield Recipe(
        name="python-libs",
        boot_name="pylibs.v00",
        version=PROJECT_VERSION,
        summary="Third-party Python packages of the kernel and of hostd",
        description="The closure of the project's pinned requirements.",
        level="accepted",
        nodes=by_path(_third_party(scratch)),
        requires=frozenset({"python", BASE}),
        compiled=True,
    )
    yield recipe(
        "swtpm",
        "swtpm.v00",
        "swtpm",
        "Embedded TPM 2.0",
        packages.nodes("swtpm", lambda path: path == "usr/bin/swtpm"),
    )
    yield recipe(
        "firmware",
        "firmware.v00",
        "seabios",
        "Firmware of virtual machines: BIOS, UEFI, option ROMs",
        _firmware(packages),
    )
    yield recipe(
        "qemu",
        "qemu.v00",
        "qemu-system-x86",
        "QEMU: the machine emulator that runs in each cell",
        _qemu(packages),
        "firmware",
    )


def _third_party(scratch: Path) -> Iterator[Node]:
    """Yield the Python packages, and the stand-in for what one of them is linked to in vain."""
    found = tuple(third_party(scratch))
    yield from found
    binding = next(n for n in found if isinstance(n, File) and n.path.endswith(BINDING))
    yield stand_in(binding.read(), scratch)


def sources() -> Iterator[tuple[str, bytes]]:
    """Yield path (relative to the package) and content of this project's files, sorted."""
    yield from _walk(resources.files("casemate"), "")


def _modules(
    own: Mapping[str, bytes], rooms: Iterable[str], files: frozenset[str] = frozenset()
) -> dict[str, Node]:
    beginnings = tuple(f"{room}/" for room in rooms)
    return by_path(
        File(f"{THIRD_PARTY}/casemate/{path}", content)
        for path, content in own.items()
        if path in files or path.startswith(beginnings)
    )


def _walk(place: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
    for entry in sorted(place.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            if entry.name != "__pycache__":
                yield from _walk(entry, f"{prefix}{entry.name}/")
        elif not entry.name.endswith((".pyc", ".c", "~")):
            yield f"{prefix}{entry.name}", entry.read_bytes()


def _exactly(paths: Iterable[str]) -> Callable[[str], bool]:
    return frozenset(paths).__contains__


def _firmware(packages: Packages) -> Iterator[Node]:
    for package, paths in FIRMWARE.items():
        yield from packages.nodes(package, _exactly(paths))
    yield from packages.nodes(
        "qemu-system-data", _exactly(f"usr/share/qemu/{name}" for name in QEMU_DATA)
    )
    if "ovmf" in packages.versions:
        yield from packages.nodes("ovmf", UEFI_FIRMWARE.__contains__)


def _qemu(packages: Packages) -> Iterator[Node]:
    for path in QEMU_PROGRAMS:
        yield from packages.node(path)
    for name in QEMU_MODULES:
        yield from packages.node(f"{LIBRARIES}/qemu/{name}")
    yield from packages.nodes(
        "qemu-system-data", lambda path: path.startswith("usr/share/qemu/keymaps/")
    )
