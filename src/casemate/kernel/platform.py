"""Reads what ``policy.platform`` judges; sets the baseline of sysctls, and takes it back."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Final

from casemate.errors import FormatError, HostError, NotFoundError
from casemate.kernel.sys import landlock
from casemate.policy import platform

_TEXT_LIMIT: Final = 1 << 20  # bytes: /proc/cpuinfo of the largest machines


def read_texts(root: Path = Path("/")) -> dict[str, str]:
    """Return path → content of everything that the rules look at and that is there."""
    texts = {platform.LANDLOCK: str(landlock.version())}
    for path in platform.FILES:
        with contextlib.suppress(OSError):
            place = root / path.lstrip("/")
            texts[path] = _symbols(place) if path == platform.KALLSYMS else _text(place)
    with contextlib.suppress(OSError):
        for place in sorted((root / platform.VULNERABILITIES.lstrip("/")).iterdir()):
            texts[platform.VULNERABILITIES + place.name] = _text(place)
    return texts


def apply(record: Path, root: Path = Path("/")) -> dict[str, tuple[str, int]]:
    """Set every sysctl that is weaker than the baseline.

    Args:
        record: file that keeps what was there before, for ``undo``; never overwritten by a
            second run.
        root: where /proc is.

    Returns:
        Path → (value before, value now) of what was changed.

    Raises:
        HostError: not root, or the record cannot be kept.
    """
    texts = read_texts(root)
    wanted = platform.to_set(texts)
    before = {path: texts[path].strip() for path in wanted}
    kept = _recorded(record) if record.exists() else {}
    try:
        fresh = record.with_name(f".{record.name}.new")
        fresh.write_text(json.dumps(before | kept, indent=1))
        fresh.replace(record)
    except OSError as error:
        raise HostError(
            f"what is changed cannot be kept: {error.strerror}", component=str(record)
        ) from error
    changed = {}
    for path, value in wanted.items():
        if _write(root / path.lstrip("/"), str(value)):
            changed[path] = (before[path], value)
    return changed


def undo(record: Path, root: Path = Path("/")) -> dict[str, str]:
    """Put back what ``apply`` changed; return path → value of what was put back.

    A setting that Linux lets nobody weaken again before a restart stays as it is.

    Raises:
        NotFoundError: nothing was changed.
        FormatError: the record is damaged.
    """
    if not record.exists():
        raise NotFoundError(
            "Nothing was changed here.",
            code="nothing-applied",
            component=str(record),
            remedy="Run casemate hardening audit --apply first.",
        )
    allowed = {sysctl.path for sysctl in platform.SYSCTLS}
    back = {
        path: value
        for path, value in _recorded(record).items()
        if path in allowed and _write(root / path.lstrip("/"), value)
    }
    record.unlink()
    return back


def _recorded(record: Path) -> dict[str, str]:
    try:
        values = json.loads(record.read_text())
        return {str(path): str(int(value)) for path, value in values.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise FormatError("the record of changes is damaged", component=str(record)) from error


def _write(place: Path, value: str) -> bool:
    try:
        descriptor = os.open(place, os.O_WRONLY | os.O_CLOEXEC | os.O_TRUNC)
        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)
    except PermissionError as error:
        if os.geteuid() != 0:
            raise HostError(
                f"{place} cannot be set: {error.strerror}",
                component=str(place),
                remedy="Run this as root.",
            ) from error
        return False
    except OSError:
        return False
    return True


def _text(place: Path) -> str:
    with place.open("rb") as file:
        return file.read(_TEXT_LIMIT).decode("utf-8", "replace")


def _symbols(place: Path) -> str:
    """Return the line of the kernel's first byte: the whole list takes megabytes."""
    with place.open("rb") as file:
        for _, line in zip(range(1 << 18), file, strict=False):
            if line.endswith(b" _text\n"):
                return line.decode("ascii", "replace")
    return ""
