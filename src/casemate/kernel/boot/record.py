"""What the loader hands to the kernel: the event log as written so far, and what was loaded.

Three files under run/boot: ``eventlog.bin`` (the TCG log), ``components.json``, ``boot.json``.
They are handed over, not trusted: a log that does not replay to the TPM's PCRs shows by itself.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from casemate.errors import BootError
from casemate.kernel.files import write_file
from casemate.machine.facts import ComponentFact


@dataclass(frozen=True, slots=True)
class BootRecord:
    """One boot: which bank, which image, when (Unix seconds), with which options.

    ``layers`` are the loop devices of the visor root: name, number, device and inode of the memory;
    ``trees`` the layers that were laid out from archives: name, digest.
    """

    bank: str
    profile: str
    vendor: str
    build: str
    acceptance_level: str
    command_line: str
    boot_time: float
    drtm: bool
    banks: tuple[str, ...]
    taints: tuple[str, ...] = ()
    layers: tuple[tuple[str, int, int, int], ...] = ()
    trees: tuple[tuple[str, str], ...] = ()


def write_record(
    place: Path, record: BootRecord, components: list[ComponentFact], log: bytes
) -> None:
    """Write the three files."""
    rows = [
        {k: v.hex() if isinstance(v, bytes) else v for k, v in asdict(c).items()}
        for c in components
    ]
    write_file(place / "eventlog.bin", log)
    write_file(place / "components.json", json.dumps(rows, indent=1).encode())
    write_file(place / "boot.json", json.dumps(asdict(record), indent=1).encode())


def read_record(place: Path) -> tuple[BootRecord, tuple[ComponentFact, ...], bytes]:
    """Read the three files back. Raises BootError when they are not whole."""
    try:
        head = json.loads((place / "boot.json").read_bytes())
        rows = json.loads((place / "components.json").read_bytes())
        log = (place / "eventlog.bin").read_bytes()
        record = _record(head)
        components = tuple(_component(row) for row in rows)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise BootError(
            f"the record of this boot cannot be read: {error}", component=str(place)
        ) from error
    return record, components, log


def _record(head: dict[str, object]) -> BootRecord:
    known = {f.name for f in fields(BootRecord)}
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in head.items() if k in known}
    return BootRecord(**values)  # type: ignore[arg-type]  # what is missing or odd shows later


def _component(row: dict[str, object]) -> ComponentFact:
    plain = {k: v for k, v in row.items() if k not in ("sha256", "sha384")}
    digests = {k: bytes.fromhex(str(row[k])) for k in ("sha256", "sha384")}
    return ComponentFact(**plain, **digests)  # type: ignore[arg-type]  # checked by the constructor
