"""Modes of disks, in vSphere's words: what is part of snapshots, and what a guest's writes last.

What is written to a nonpersistent disk goes to a file without a name, which ends with the cell; of
a suspended VM it is kept beside the memory.
"""

from __future__ import annotations

from typing import Final

from casemate.machine.facts import DiskSpec, VmConfig

PERSISTENT: Final = "persistent"
INDEPENDENT: Final = "independent_persistent"
FORGETFUL: Final = "independent_nonpersistent"
MODES: Final = (PERSISTENT, INDEPENDENT, FORGETFUL)
"""Modes that disks can have."""
_OLDER: Final = {"nonpersistent": FORGETFUL}
REDONE: Final = ("undoable", "append")
"""Older modes of VMware, with a log of changes that is kept or undone at power-off."""


def known_mode(mode: str) -> str:
    """Return the mode that a name stands for, or nothing: VMware's older ``nonpersistent`` too."""
    mode = _OLDER.get(mode, mode)
    return mode if mode in MODES else ""


def mode_refusal(mode: str) -> tuple[str, str]:
    """Return why a disk does not have a mode, and what does the same."""
    if mode in REDONE:
        return (
            f"the older mode {mode} asks at power-off whether to keep what was written",
            "Make the disk persistent and take a snapshot, which can be reverted to or removed.",
        )
    return f"no disk is {mode[:40]!r} here", f"Choose one of {', '.join(MODES)}."


def in_snapshots(disk: DiskSpec) -> bool:
    """Tell whether a disk is part of its VM's snapshots."""
    return disk.kind == "disk" and disk.mode == PERSISTENT


def forgets(disk: DiskSpec) -> bool:
    """Tell whether a disk is, after every run, what it was before."""
    return disk.kind == "disk" and disk.mode == FORGETFUL


def scratch_name(disk: DiskSpec) -> str:
    """Return what stands for the file that has no name, above a disk that forgets."""
    return f"scratch {disk.controller}-{disk.unit}"


def is_forgetful(config: VmConfig) -> bool:
    """Tell whether a VM has a disk that forgets."""
    return any(forgets(disk) for disk in config.disks)


def has_independent(config: VmConfig) -> bool:
    """Tell whether a VM has a disk that no snapshot has."""
    return any(disk.kind == "disk" and not in_snapshots(disk) for disk in config.disks)


def changes_mode(before: VmConfig, after: VmConfig) -> bool:
    """Tell whether a disk that stays has another mode."""
    modes = {disk.file_name: disk.mode for disk in before.disks}
    return any(modes.get(disk.file_name, disk.mode) != disk.mode for disk in after.disks)
