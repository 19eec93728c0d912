"""What keeps VMs apart, and what is said where that is less than it should be."""

from __future__ import annotations

from typing import Final

from casemate.errors import Finding

TCG: Final = "tcg"
"""What a host calls the emulated processor in its evidence."""

EMULATED: Final = Finding(
    "tcg-isolation",
    "virtual machines",
    "QEMU emulates the processor (TCG), and its makers promise no isolation by that: the cell"
    " around each QEMU is the only wall.",
    "Use a machine with hardware virtualisation (KVM).",
)
"""What is said of a host without usable KVM, wherever its findings are shown."""
