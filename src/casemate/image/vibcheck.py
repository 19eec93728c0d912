"""The whole content of a VIB file, judged without a host: what ``vib verify`` says about payloads.

A finding makes the VIB bad. A warning tells of a VIB that is sound but that no host of ours would
install as it is: a payload that is no archive although its type says so, or an empty file list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from casemate.errors import CasemateError, Finding
from casemate.formats.tarball import EntryKind
from casemate.formats.vib import Vib
from casemate.image.hardening import judge_vib
from casemate.policy.hardening import Waiver
from casemate.policy.levels import Level
from casemate.policy.vibcontent import ARCHIVES, LAYERS, looks_like_archive, read_archive
from casemate.policy.vibpaths import check_list, check_places

_DAMAGED: Final = frozenset({"gzip", "xz", "tar-header", "tar-truncated"})


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found."""

    findings: tuple[Finding, ...]
    warnings: tuple[Finding, ...]


def examine(vib: Vib, waivers: Iterable[Waiver]) -> Examination:
    """Look into every payload of a VIB: hostile archives, files in forbidden places, programs.

    Raises:
        HostError: a program that unpacks payloads is missing.
    """
    descriptor = vib.descriptor
    level = Level(descriptor.acceptance_level)
    findings: list[Finding] = []
    warnings: list[Finding] = []
    listing: dict[str, list[str]] = {}
    _, refused = judge_vib(vib, waivers, listing)
    findings += [error.finding() for error in refused]
    for payload in descriptor.payloads:
        data = vib.payloads[payload.name]
        if payload.type not in ARCHIVES:
            continue
        try:
            entries = read_archive(payload.type, data, component=descriptor.vib_id)
        except CasemateError as error:
            if error.code in _DAMAGED and not looks_like_archive(data):
                reason = f"Payload {payload.name} is of the type {payload.type} and no archive."
                warnings.append(replace(error.finding(), code="no-archive", reason=reason))
            else:
                findings.append(error.finding())
            continue
        listing[payload.name] = [
            entry.path for entry in entries if entry.kind is not EntryKind.DIRECTORY
        ]
    found = [path for paths in listing.values() for path in paths]
    _check(findings, lambda: check_places((*descriptor.files, *found), level, descriptor.vib_id))
    layers = [one.name for one in descriptor.payloads if one.type in LAYERS]
    if layers and set(listing) == {one.name for one in descriptor.payloads}:
        _check(
            findings if descriptor.files else warnings,
            lambda: check_list(descriptor.files, found, descriptor.vib_id),
        )
    return Examination(tuple(findings), tuple(warnings))


def _check(told: list[Finding], check: Callable[[], None]) -> None:
    try:
        check()
    except CasemateError as error:
        told.append(error.finding())
