"""The boot image: one signed EFI program that holds Linux, its command line and the first root.

Firmware verifies it as a whole (Secure Boot) and measures it as a whole (PCR 4); systemd's stub in
it measures every part once more by name (PCR 11) and starts Linux. Sources: UAPI group, "Unified
Kernel Image"; systemd-stub(7).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from casemate.formats.authenticode import sign_image
from casemate.formats.osrelease import BOOT_IMAGE, SECTION, write_release
from casemate.formats.pe import add_sections
from casemate.image.debian import Packages
from casemate.image.files import Form, Recipe
from casemate.image.initrd import FirstRoot
from casemate.image.linux import Kernel
from casemate.image.pki import Signer
from casemate.image.tree import File, by_path
from casemate.policy.newimage import BOOT_VIB

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
    packages: Packages, kernel: Kernel, first: FirstRoot, version: str, signer: Signer
) -> BootImage:
    """Put a boot image together and sign it. Same inputs, same bytes.

    Args:
        packages: bring the stub.
        kernel: what it starts.
        first: the first root, with the identity of the image.
        version: what the image calls itself.
        signer: whose CA stands in the machine's db.

    Raises:
        HostError: the stub's package is missing.
    """
    sections = {
        ".linux": kernel.image(),
        SECTION: write_release(version, first.identity),
        ".cmdline": " ".join(COMMAND_LINE).encode(),
        ".initrd": first.data,
        ".uname": kernel.release.encode(),
    }
    image = add_sections(read_stub(packages), sections)
    return BootImage(sign_image(image, signer.certificate, signer.key), sections)


def read_stub(packages: Packages) -> bytes:
    """Return systemd's stub. Raises HostError where its package is missing."""
    (stub,) = (node for node in packages.node(STUB) if isinstance(node, File))
    return stub.read()


def boot_recipe(boot: BootImage, version: str, identity: str) -> Recipe:
    """Return the VIB of a boot image: a bank's own, which firmware starts.

    Args:
        boot: the signed image.
        version: of the VIB.
        identity: which image it is.
    """
    return Recipe(
        name=BOOT_VIB,
        boot_name=BOOT_IMAGE,
        version=version,
        summary="Boot image: Linux and the loader, signed for UEFI Secure Boot",
        description=f"Boot image {identity}; firmware verifies it and measures it into PCR 4.",
        level="accepted",
        nodes=by_path([File(BOOT_IMAGE, boot.data)]),
        requires=frozenset({"linux"}),
        form=Form.FILE,
    )
