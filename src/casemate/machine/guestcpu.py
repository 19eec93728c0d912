"""What a guest's CPU must offer: memory protection is not for the guest's owner to switch off.

A vmx file can mask CPUID bits: ``cpuid.80000001.edx = "---- ---- ---0 ----..."``, 32 characters
for bits 31 to 0 (blanks and colons do not count), where ``0`` clears the bit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from casemate.errors import ArgumentError

# (leaf, register, bit) of each protection, Intel SDM volume 2, CPUID.
_PROTECTIONS: Final = {
    ("80000001", "edx", 20): "NX",
    ("7", "ebx", 7): "SMEP",
    ("7", "ebx", 20): "SMAP",
    ("7", "ecx", 2): "UMIP",
}
_NAME: Final = re.compile(r"cpuid\.([0-9a-f]{1,8})(?:\.[0-9]+)?\.(e[abcd]x)(?:\.(?:amd|intel))?")
_BITS: Final = 32


def check_masks(entries: Mapping[str, str]) -> None:
    """Refuse masks that take NX, SMEP, SMAP or UMIP from the guest.

    Args:
        entries: vmx entries by name, in any case.

    Raises:
        ArgumentError: ``weak-cpu``, or a mask that is not 32 bits long.
    """
    for name, value in entries.items():
        match = _NAME.fullmatch(name.lower())
        if match is None:
            continue
        leaf = match[1].lstrip("0") or "0"
        mask = re.sub(r"[ :]", "", value)
        if len(mask) != _BITS:
            raise ArgumentError(f"{name} is a mask of {len(mask)} bits, not 32", argument=name)
        for (its_leaf, register, bit), protection in _PROTECTIONS.items():
            if (leaf, match[2]) == (its_leaf, register) and mask[_BITS - 1 - bit] == "0":
                error = ArgumentError(
                    f"{name} hides {protection} from the guest, which then runs without"
                    " memory protection",
                    argument=name,
                )
                error.code = "weak-cpu"
                error.remedy = f"Remove the line {name} from the vmx file."
                raise error
