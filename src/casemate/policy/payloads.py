"""The hardening rules for the files of a payload, wherever the files come from.

Image builder, ``vib verify``, loader and audit differ in how they get at the files; what they ask
is the same, and is asked here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from casemate.errors import FormatError, VerificationError
from casemate.formats.elf import is_elf, parse_elf
from casemate.policy.hardening import Report, Waiver, check
from casemate.policy.levels import Level

MAGIC: Final = b"\x7fELF"
"""How every ELF file begins."""


def check_file(
    path: str, content: bytes | memoryview, level: Level, waivers: Iterable[Waiver] = ()
) -> Report | None:
    """Return the report of one file, or None when it is not ELF.

    Args:
        path: absolute, as it will be in the visor root.
        content: the whole file.
        level: acceptance level of the VIB that brings it.
        waivers: of the signed policies.

    Raises:
        FormatError: it claims to be ELF, and cannot be read as such (``elf-...``).
    """
    if not is_elf(content):
        return None
    return check(parse_elf(content), path, level, waivers)


def enforce_file(
    path: str,
    content: bytes | memoryview,
    level: Level,
    waivers: Iterable[Waiver] = (),
    *,
    component: str,
) -> Report | None:
    """As ``check_file``, but refuse a file that breaks a required rule.

    Args:
        path: as ``check_file``.
        content: as ``check_file``.
        level: as ``check_file``.
        waivers: as ``check_file``.
        component: the payload or VIB, named in the sentence.

    Raises:
        VerificationError: names payload, file and rule; code ``hardening-RULE`` or ``elf-...``.
    """
    try:
        report = check_file(path, content, level, waivers)
    except FormatError as error:
        raise VerificationError(
            f"{component} brings {path}, which cannot be read as a program: {error.reason}",
            code=error.code,
            component=path,
            remedy="Build the file again; no host loads what it cannot judge.",
        ) from error
    if report is None or report.accepted:
        return report
    first, *others = report.refusals
    more = f" It breaks {len(others)} more of the required rules." if others else ""
    raise VerificationError(
        f"{component} brings {path}, which breaks the hardening rule {first.rule!r}:"
        f" {first.reason}{more}",
        code=f"hardening-{first.rule}",
        component=path,
        remedy=first.remedy,
    )
