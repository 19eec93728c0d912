"""What a VM begins with: its firmware and the variables of that, or a Linux kernel itself."""

from __future__ import annotations

from typing import Final

from casemate.errors import ArgumentError
from casemate.formats.vmdk import is_plain_name
from casemate.machine.cellplan import PassedFile, ShownFile
from casemate.machine.facts import VmConfig
from casemate.machine.planaudit import UEFI_CODE
from casemate.machine.planstorage import FIRST_FD, as_json

RUN_PLACE: Final = "/run/vm"
"""The directory of a cell in which it runs, and sees what it is shown."""
_APPEND_LIMIT: Final = 2047


def secure_boot(extra: dict[str, str]) -> bool:
    """Tell whether the VM (vmx entries by lower-case name) verifies what it boots."""
    return extra.get("uefi.secureboot.enabled", "").lower() == "true"


def nvram_name(config: VmConfig) -> str:
    """Return the file of a UEFI machine's variables, in its directory, named as VMware does."""
    return config.vmx_path.rpartition("/")[2].removesuffix(".vmx") + ".nvram"


def firmware_words(
    config: VmConfig, extra: dict[str, str], fd: int
) -> tuple[tuple[str, ...], tuple[PassedFile, ...]]:
    """UEFI: the code is the visor root's and read-only, the variables are the VM's own."""
    if config.firmware != "efi":
        return (), ()
    code = {"driver": "file", "filename": UEFI_CODE[secure_boot(extra)], "read-only": True}
    variables = {"driver": "file", "filename": f"/dev/fdset/{fd - FIRST_FD}"}
    words = [
        *("-add-fd", f"fd={fd},set={fd - FIRST_FD}"),
        *(
            "-blockdev",
            as_json({"driver": "raw", "node-name": "uefi", "read-only": True, "file": code}),
        ),
        *("-blockdev", as_json({"driver": "raw", "node-name": "nvram", "file": variables})),
    ]
    if secure_boot(extra):
        words += ["-global", "driver=cfi.pflash01,property=secure,value=on"]
    return tuple(words), (PassedFile(fd, nvram_name(config), writable=True, minimum_size=1),)


def direct_boot(extra: dict[str, str]) -> tuple[tuple[str, ...], tuple[ShownFile, ...]]:
    """Boot a Linux kernel of the VM's directory without a boot loader, where the vmx says so.

    Raises ArgumentError: it names what is no file of the directory, or options that cannot be.
    """
    kernel, initrd = extra.get("casemate.kernel", ""), extra.get("casemate.initrd", "")
    append = extra.get("casemate.append", "")
    if not kernel:
        if initrd or append:
            raise ArgumentError("casemate.initrd without a kernel", argument="casemate.kernel")
        return (), ()
    for name, value in (("casemate.kernel", kernel), ("casemate.initrd", initrd)):
        if value and not is_plain_name(value):
            raise ArgumentError(
                f"{value[:80]!r} is not a file of the VM's own directory", argument=name
            )
    if len(append) > _APPEND_LIMIT or not append.isprintable():
        raise ArgumentError(
            f"not up to {_APPEND_LIMIT} printable characters", argument="casemate.append"
        )
    words = ["-kernel", f"{RUN_PLACE}/kernel"]
    shown = [ShownFile(kernel, f"{RUN_PLACE}/kernel")]
    if initrd:
        words += ["-initrd", f"{RUN_PLACE}/initrd"]
        shown.append(ShownFile(initrd, f"{RUN_PLACE}/initrd"))
    if append:
        words += ["-append", append]
    return tuple(words), tuple(shown)
