"""The boot image: one signed EFI program that holds Linux, its command line and the first root.

Firmware verifies it as a whole (Secure Boot) and measures it as a whole (PCR 4); systemd's stub in
it measures every part once more by name (PCR 11) and starts Linux. Sources: UAPI group, "Unified
Kernel Image"; systemd-stub(7).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from casemate.formats.authenticode import sign_image
from casemate.formats.pe import add_sections
from casemate.image.debian import Packages
from casemate.image.linux import Kernel
from casemate.image.pki import Signer
from casemate.image.tree import File

STUB_PACKAGE: Final = "systemd-boot-efi"
STUB: Final = "usr/lib/systemd/boot/efi/linuxx64.efi.stub"

COMMAND_LINE: Final = (
    "console=tty0",
    "console=ttyS0,115200",
    "quiet",
    "loglevel=3",
    "panic=10",
    "module.sig_enforce=1",
    "lockdown=integrity",
    "init_on_alloc=1",
    "slab_nomerge",
    "randomize_kstack_offset=on",
    "vsyscall=none",
    "debugfs=off",
)
"""Linux's options: hardened, silent unless something fails, and a restart after a panic."""


@dataclass(frozen=True, slots=True)
class BootImage:
    """A signed boot image and the parts in it, in the stub's order of measuring."""

    data: bytes
    sections: dict[str, bytes]


def make_boot_image(
    packages: Packages, kernel: Kernel, initrd: bytes, build: str, signer: Signer
) -> BootImage:
    """Put a boot image together and sign it. Same inputs, same bytes.

    Args:
        packages: bring the stub.
        kernel: what it starts.
        initrd: the first root.
        build: what the image calls itself.
        signer: whose CA stands in the machine's db.

    Raises:
        HostError: the stub's package is missing.
    """
    (stub,) = (node for node in packages.node(STUB) if isinstance(node, File))
    release = f'NAME="Casemate"\nID=casemate\nVERSION_ID={build}\nPRETTY_NAME="Casemate {build}"\n'
    sections = {
        ".linux": kernel.image(),
        ".osrel": release.encode(),
        ".cmdline": " ".join(COMMAND_LINE).encode(),
        ".initrd": initrd,
        ".uname": kernel.release.encode(),
    }
    image = add_sections(stub.read(), sections)
    return BootImage(sign_image(image, signer.certificate, signer.key), sections)
