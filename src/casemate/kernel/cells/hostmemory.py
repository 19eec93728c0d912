"""The host's own processes: their control group, and what memory there is beside them.

Linux counts the pages of programs as available, because it can read them again. A host whose
programs are dropped that way stands still though memory seems free: it was seen to, with two
guests and memory for one and a half. So on a machine of its own the host's processes form a group
that version 2 protects, and what is kept for it, and what QEMU has mapped, is not handed out.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from casemate.kernel.sys.libc import from_os_error

HOST_GROUP: Final = "casemate-host"
KEPT: Final = 256 << 20
"""Bytes of the host's processes that are never taken: twice what they were measured to hold."""
WEIGHT: Final = 2000
"""Of the host's processes together; all VMs weigh as much for each processor. With a twentieth of
that, a guest that never rests left an API that hardly answered."""
_MOUNT: Final = Path("/sys/fs/cgroup")
_OWN: Final = Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True)
class HostMemory:
    """Bytes of memory the host has, and could hand out now."""

    total: int
    free: int


def join_host_group(mount: Path = _MOUNT) -> None:
    """Put the calling process, and all that it will start, into the group of the host.

    Must come before programs of the host are first read: a page belongs to the group that read it.
    Raises HostError.
    """
    group = mount / HOST_GROUP
    try:
        (mount / "cgroup.subtree_control").write_text("+cpu +memory")
        group.mkdir(exist_ok=True)
        (group / "memory.min").write_text(str(KEPT))
        (group / "cpu.weight").write_text(str(WEIGHT))
        (group / "cgroup.procs").write_text("0")
    except OSError as error:
        raise from_os_error("the host gets no control group", error, component="cgroup") from error


def read_host_memory(
    vms: Path | None = None,
    meminfo: Path = Path("/proc/meminfo"),
    mount: Path = _MOUNT,
    own: Path = _OWN,
) -> HostMemory:
    """Read how much memory the host has and could hand out.

    Args:
        vms: the control group that all VMs are in, where there is one.
        meminfo: Linux's own numbers.
        mount: where control groups of version 2 are.
        own: tells the control group of the calling process.
    """
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB$", meminfo.read_text(), re.MULTILINE))
    taken = _protected(mount, own) + (_mapped(vms) if vms is not None else 0)
    return HostMemory(
        int(found["MemTotal"]) << 10, max(0, (int(found["MemAvailable"]) << 10) - taken)
    )


def _protected(mount: Path, own: Path) -> int:
    """Return the bytes of files that Linux keeps for the calling process's group."""
    with suppress(OSError, ValueError, KeyError):
        (name,) = re.findall(r"^0::/(.+)$", own.read_text(), re.MULTILINE)
        group = mount / name
        minimum = (group / "memory.min").read_text().strip()
        held = int((group / "memory.current").read_text())
        values = _statistics(group)
        files = values["active_file"] + values["inactive_file"]
        kept = held if minimum == "max" else int(minimum)
        return min(files, max(0, kept - (held - files)))
    return 0


def _mapped(vms: Path) -> int:
    """Return the bytes of files that QEMUs have mapped: of their programs, not of their RAM."""
    with suppress(OSError, ValueError, KeyError):
        values = _statistics(vms)
        old = "total_" if "total_mapped_file" in values else ""
        mapped = values["total_mapped_file" if old else "file_mapped"]
        return max(0, mapped - values[f"{old}shmem"])
    return 0


def _statistics(group: Path) -> dict[str, int]:
    rows = (line.split() for line in (group / "memory.stat").read_text().splitlines())
    return {name: int(value) for name, value in rows}
