"""The machine's hardware as the host sees it, read once at start from /proc and /sys."""

from __future__ import annotations

import os
import re
import uuid
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Hardware:
    """CPU and memory inventory; memory in bytes, frequency in MHz."""

    cpu_model: str
    cpu_vendor: str
    cpu_mhz: int
    packages: int
    cores: int
    threads: int
    memory_size: int
    numa_nodes: int
    uuid: str


def _number(text: str, pattern: str, default: float) -> float:
    found = re.search(pattern, text, re.MULTILINE)
    return float(found[1]) if found else default


def _word(text: str, pattern: str, default: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    return found[1].strip() if found else default


def read_hardware(home_id: str) -> Hardware:
    """Read the inventory; ``home_id`` stands in where the machine tells no UUID of its own."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    threads = len(re.findall(r"^processor\s*:", cpuinfo, re.MULTILINE)) or os.cpu_count() or 1
    packages = len(set(re.findall(r"^physical id\s*:\s*(\d+)", cpuinfo, re.MULTILINE))) or 1
    per_package = int(_number(cpuinfo, r"^cpu cores\s*:\s*(\d+)", threads / packages))
    memory_kib = _number(Path("/proc/meminfo").read_text(), r"^MemTotal:\s*(\d+)", 0)
    nodes = len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))) or 1
    try:
        system = uuid.UUID(Path("/sys/class/dmi/id/product_uuid").read_text().strip())
    except (OSError, ValueError):
        system = uuid.uuid5(uuid.NAMESPACE_OID, home_id)
    return Hardware(
        cpu_model=_word(cpuinfo, r"^model name\s*:\s*(.+)$", "unknown CPU"),
        cpu_vendor={"GenuineIntel": "intel", "AuthenticAMD": "amd"}.get(
            _word(cpuinfo, r"^vendor_id\s*:\s*(.+)$", ""), "unknown"
        ),
        cpu_mhz=int(_number(cpuinfo, r"^cpu MHz\s*:\s*([\d.]+)", 1000.0)),
        packages=packages,
        cores=max(packages * per_package, 1),
        threads=threads,
        memory_size=int(memory_kib) * 1024,
        numa_nodes=nodes,
        uuid=str(system),
    )
