"""What a machine needs for a dynamic launch of the boot image: by tboot, or by Secure Launch.

Either takes Linux and the first root as files of a boot loader, not as one signed program: so both
are taken out of the boot image. What the processor runs first is the owner's to put beside them:
Intel's SINIT, or for AMD's SKINIT TrenchBoot's Secure Kernel Loader. Sources: tboot 1.10.5,
``howto_use.md`` and ``vlp.txt``; TrenchBoot's documentation of GRUB's ``slaunch``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from casemate.errors import FormatError, HostError, NotFoundError
from casemate.formats.pe import Pe, parse_pe
from casemate.formats.tbootpolicy import LaunchModule, module_digest, write_policy

LINUX: Final = "linux"
FIRST_ROOT: Final = "initrd"
POLICY: Final = "tboot.pol"
MENU: Final = "tboot.cfg"
SECURE_LAUNCH_MENU: Final = "slaunch.cfg"
ROOM: Final = "/casemate"
"""Where the menu looks for the files, on the partition that GRUB starts from."""
LAUNCHED: Final = ("intel_iommu=on", "noefi")
"""Added to Linux's options: DMA is kept out, and firmware's services ended with the launch."""
SECURE_LAUNCHES: Final = (
    ("Intel TXT", "SINIT.bin", "intel_iommu=on"),
    ("AMD SKINIT", "skl.bin", "amd_iommu=force_enable"),
)
"""A technique, the module that its instruction measures and starts, and how DMA is kept out."""
ROOT_PCR: Final = 19
LINUX_PCR: Final = 18


@dataclass(frozen=True, slots=True)
class Launch:
    """What was written: the files, Linux's options, and what tboot extends, by PCR."""

    files: tuple[Path, ...]
    command_line: str
    digests: dict[int, bytes]


def write_launch(boot: Path, out: Path) -> Launch:
    """Write the files of a launch: Linux, first root, GRUB's menu entries, tboot's policy.

    Args:
        boot: the boot image.
        out: directory, made when absent.

    Raises:
        NotFoundError: there is no boot image.
        FormatError: it is none.
        HostError: a file cannot be written.
    """
    try:
        data = boot.read_bytes()
    except OSError as error:
        raise NotFoundError(
            f"{boot} cannot be read: {error.strerror}.",
            component=boot.name,
            remedy="Build it: casemate image disk.",
        ) from error
    image = parse_pe(data)
    linux, root, line = (_part(image, data, name) for name in (".linux", ".initrd", ".cmdline"))
    own = line.rstrip(b"\0").decode()
    options = " ".join((own, *LAUNCHED))
    digests = {LINUX_PCR: module_digest(options, linux), ROOT_PCR: module_digest("", root)}
    modules = (
        LaunchModule(None, digests[LINUX_PCR]),
        LaunchModule(ROOT_PCR, digests[ROOT_PCR]),
    )
    contents = {
        LINUX: linux,
        FIRST_ROOT: root,
        POLICY: write_policy(modules),
        MENU: menu_entry(options).encode(),
        SECURE_LAUNCH_MENU: "".join(
            secure_launch_entry(*one[:2], f"{own} {one[2]}") for one in SECURE_LAUNCHES
        ).encode(),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (out / name).write_bytes(content)
    except OSError as error:
        raise HostError(
            f"The launch cannot be written: {error.strerror}.", component=str(out)
        ) from error
    return Launch(tuple(out / name for name in contents), options, digests)


def _part(image: Pe, data: bytes, name: str) -> bytes:
    found = image.section(data, name)
    if found is None:
        raise FormatError(f"it has no part {name}, so it is no boot image")
    return found


def menu_entry(options: str) -> str:
    """Return GRUB's menu entry. Module 0 is Linux, 1 the first root; SINIT comes last."""
    return f"""menuentry "Casemate, measured launch (Intel TXT)" {{
	insmod multiboot2
	multiboot2 {ROOM}/tboot.gz logging=serial,memory
	module2 {ROOM}/{LINUX} {options}
	module2 {ROOM}/{FIRST_ROOT}
	module2 {ROOM}/SINIT.bin
}}
"""


def secure_launch_entry(technique: str, module: str, options: str) -> str:
    """Return the menu entry of a GRUB that knows ``slaunch``, for a Linux with Secure Launch.

    GRUB gives Linux to the module, which measures it into PCR 17 and 18; Linux itself measures its
    options and the first root.
    """
    return f"""menuentry "Casemate, measured launch (Secure Launch, {technique})" {{
	slaunch
	slaunch_module {ROOM}/{module}
	linux {ROOM}/{LINUX} {options}
	initrd {ROOM}/{FIRST_ROOT}
}}
"""
