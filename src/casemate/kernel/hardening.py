"""Answers for the audit of a host's hardening: everything in one report, and the domains."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Iterable, Mapping
from pathlib import Path

from casemate.calls.hardening import (
    DomainRow,
    HardeningAudit,
    HardeningReply,
    SecpolicyList,
    SecpolicyReply,
)
from casemate.errors import ArgumentError, CasemateError, Finding, FormatError
from casemate.formats.imgdb import ImageDb, parse_imgdb
from casemate.kernel import platform
from casemate.kernel.accounts import Session
from casemate.kernel.auditor import Auditor
from casemate.kernel.boot.elfcheck import files, program
from casemate.kernel.boot.loader import IMAGE_DATABASE, read_trust, read_waivers
from casemate.kernel.entropy import LAUNCH_LIMIT, measure_entropy
from casemate.kernel.host import Handler
from casemate.machine.domains import DOMAINS
from casemate.policy import platform as rules
from casemate.policy.entropy import LEAST_LAUNCHES
from casemate.policy.hardening import Waiver, Weight
from casemate.policy.hardeningreport import (
    Area,
    EntropyRow,
    Outcome,
    Row,
    component_rows,
    entropy_rows,
    process_rows,
    score,
    skipped,
    violation_rows,
)
from casemate.policy.isolation import EMULATED
from casemate.policy.levels import Level
from casemate.policy.payloads import check_file


class Hardening:
    """The handlers. ``bank`` is the boot bank that runs, ``root`` the visor root."""

    def __init__(
        self,
        auditor: Auditor,
        accelerator: str,
        bank: Path,
        trust: Path,
        root: Path = Path("/"),
    ) -> None:
        self._auditor = auditor
        self._emulated = accelerator == "tcg"
        self._bank = bank
        self._trust = trust
        self._root = root
        self._components: tuple[Row, ...] = ()
        self._busy = asyncio.Lock()

    def handlers(self) -> dict[type, Handler]:
        """Return the requests that are answered here."""
        return {HardeningAudit: self._audit, SecpolicyList: self._list}

    def findings(self) -> tuple[Finding, ...]:
        """Return what the status tells."""
        return (*self._auditor.findings(), *((EMULATED,) if self._emulated else ()))

    async def _audit(self, request: HardeningAudit, _: Session) -> HardeningReply:
        if request.launches and not LEAST_LAUNCHES <= request.launches <= LAUNCH_LIMIT:
            raise ArgumentError(
                f"the number of launches is 0, or {LEAST_LAUNCHES} to {LAUNCH_LIMIT}",
                argument="launches",
            )
        async with self._busy:
            return await asyncio.to_thread(self._report, request.launches)

    async def _list(self, _request: SecpolicyList, _: Session) -> SecpolicyReply:
        present: dict[str, list[tuple[str, int]]] = {}
        for subject in await asyncio.to_thread(self._auditor.subjects):
            if subject.domain is not None:
                pair = (subject.name, subject.process.pid)
                present.setdefault(subject.domain.name, []).append(pair)
        return SecpolicyReply(
            tuple(
                DomainRow(
                    domain.name,
                    domain.enforcement.value,
                    domain.about,
                    tuple(sorted(wall.value for wall in domain.walls)),
                    tuple(present.get(domain.name, ())),
                )
                for domain in DOMAINS
            )
        )

    def _report(self, launches: int) -> HardeningReply:
        if not self._components:
            self._components = self._component_rows()
        measured: tuple[EntropyRow, ...] = ()
        if launches:
            measured = measure_entropy(launches, self._auditor.probes)
            entropy = entropy_rows(measured)
        else:
            entropy = (skipped(Area.ENTROPY, "No launches were asked for.", "Use --launches 64."),)
        rows = (
            *self._components,
            *(row for report in self._auditor.look() for row in process_rows(report)),
            *entropy,
            *rules.judge(platform.read_texts(self._root)),
            _isolation(emulated=self._emulated),
        )
        seen = self._auditor.findings()
        violations = tuple((one.code, one.component, one.reason, one.remedy) for one in seen)
        whole = score((*rows, *violation_rows(seen)))
        return HardeningReply(rows, measured, whole, violations)

    def _component_rows(self) -> tuple[Row, ...]:
        """Judge every program of the visor root once: nothing in it can change."""
        db = parse_imgdb((self._bank / IMAGE_DATABASE).read_bytes())
        top = str(self._root).rstrip("/")
        paths = sorted(files(top))
        return judge_files(
            ((path[len(top) :], path) for path, _, _ in paths), owners(db), self._waivers()
        )

    def _waivers(self) -> tuple[Waiver, ...]:
        store, _ = read_trust(self._trust)
        return read_waivers(self._trust, store, dt.datetime.now(dt.UTC))


def _isolation(*, emulated: bool) -> Row:
    return Row(
        Area.PLATFORM,
        EMULATED.component,
        "cpu",
        "hardware-isolation",
        Weight.ADVISORY,
        Outcome.FAILED if emulated else Outcome.PASSED,
        EMULATED.reason if emulated else "",
        EMULATED.remedy if emulated else "",
    )


def owners(db: ImageDb) -> dict[str, tuple[str, Level]]:
    """Return path → (name, level) of the VIB that brings it."""
    return {
        f"/{path.lstrip('/')}": (vib.descriptor.name, Level(vib.descriptor.acceptance_level))
        for vib in db.vibs
        for path in vib.descriptor.files
    }


def judge_files(
    paths: Iterable[tuple[str, str]],
    known: Mapping[str, tuple[str, Level]],
    waivers: tuple[Waiver, ...],
) -> tuple[Row, ...]:
    """Return the rows of every ELF file among pairs of path inside the root, and path here.

    A file that no VIB brings is judged as strictly as a community component, and named.
    """
    rows: list[Row] = []
    for path, place in paths:
        view = program(place)
        if view is None:
            continue
        vib, level = known.get(path, ("", Level.COMMUNITY))
        try:
            report = check_file(path, view, level, waivers)
        except FormatError as error:
            rows.append(_unreadable(path, vib, error))
            continue
        if report is not None:
            rows += component_rows(report, vib)
    return tuple(rows)


def _unreadable(path: str, vib: str, error: CasemateError) -> Row:
    return Row(
        Area.COMPONENTS,
        path,
        vib,
        "readable",
        Weight.REQUIRED,
        Outcome.FAILED,
        error.reason,
        error.remedy,
    )
