"""The host's software: what is installed, and changing it as one transaction.

A change is worked out on the image that boots next, everything in the result is judged as the
loader will judge it, and the result is written to the bank that does not run
(``kernel.transaction``). Where VIBs allow it they are also taken into use at once
(``kernel.live``).
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from casemate.calls import software as s
from casemate.calls.messages import Empty
from casemate.errors import (
    ArgumentError,
    CasemateError,
)
from casemate.formats.imgdb import DbVib
from casemate.formats.vib import parse_vib
from casemate.kernel.accounts import Session
from casemate.kernel.boot.bank import read_banks, write_states, write_tried
from casemate.kernel.boot.component import read_component
from casemate.kernel.boot.firmwareboot import recorded
from casemate.kernel.boot.layers import LayerFact
from casemate.kernel.boot.loader import read_revocations, read_trust, read_waivers
from casemate.kernel.home import Home
from casemate.kernel.imagestate import Image, Images
from casemate.kernel.layers import Layers
from casemate.kernel.live import RECORD, Live, Mounter, release
from casemate.kernel.measurements import Measurements
from casemate.kernel.packages import (
    MAX_DEPOTS,
    Judge,
    Sources,
)
from casemate.kernel.softwareplan import Plan, Planner
from casemate.kernel.store import Store
from casemate.kernel.stream import FactStream
from casemate.kernel.transaction import Disk, write_bank
from casemate.kernel.vibfacts import describe
from casemate.machine.facts import HostFact
from casemate.policy import solve
from casemate.policy.acceptance import VibVerdict, verify_payload
from casemate.policy.banks import plan_rollback
from casemate.policy.hardening import Waiver
from casemate.policy.levels import Level, level_from_name
from casemate.policy.newimage import mark_of, unchecked_marks
from casemate.policy.vibcontent import LAYERS

_log = logging.getLogger(__name__)
DATES: Final = "software.install-dates"
"""Name in the store: JSON, VIB id to the date it was installed."""
ACTIONS: Final = ("install", "update", "remove", "profile-install", "profile-update")
REBOOT: Final = (
    "The update completed successfully, but the system needs to be rebooted for the changes to be "
    "effective."
)
DONE: Final = "Operation finished successfully."
IN_USE: Final = (
    "In use at once by the kernel and by VMs that are powered on from now on; VMs that run keep"
    " what they were started with."
)
LATER: Final = (
    "The update completed successfully, but could not be taken into use without a restart ({}); "
    "the system needs to be rebooted for the changes to be effective."
)
UNCHANGED: Final = "Host is not changed."
DRY_RUN: Final = "Dryrun only, host not changed. The following installers will be applied: "
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """The home and the bank that runs; what finds datastore paths; Unix seconds."""

    home: Home
    bank: str
    resolve: Callable[[str], Path]
    clock: Callable[[], float]


class Software:
    """Answers the requests about software."""

    def __init__(
        self,
        place: Place,
        store: Store,
        stream: FactStream,
        measurements: Measurements,
        *,
        layers: Mounter | None = None,
        disk: Disk | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._home = place.home
        self._bank = place.bank
        self._images = Images(place.home, place.bank)
        self._store = store
        self._stream = stream
        self._measurements = measurements
        self._sources = Sources(place.resolve, place.home.run / "staging")
        self._clock = place.clock
        self._layers = layers or Layers(self._waivers)
        self._live = Live(
            place.home.boot_record / RECORD,
            self._layers,
            measurements,
            measurements.record.banks,
            stream,
            changed,
        )
        self._live.recover()
        self._planner = Planner(place.home, self._images, self._sources, self._judge, self._now)
        self._disk = disk or Disk()
        self._lock = asyncio.Lock()
        # One look at whole VIBs at a time: each may take a gigabyte.
        self._looking = asyncio.Lock()

    def handlers(self) -> dict[type, Callable[..., Awaitable[object]]]:
        """Return the handlers of this topic."""
        return {
            s.AcceptanceGet: self._acceptance,
            s.AcceptanceSet: self._set_acceptance,
            s.BootOptionSet: self._set_option,
            s.BootRollback: self._rollback,
            s.DepotList: self._depots,
            s.SoftwareChange: self._change,
            s.SoftwareList: self._list,
            s.SoftwareValidate: self._validate,
        }

    def in_use(self) -> list[DbVib]:
        """Return the VIBs of the running image and those that were installed live."""
        return [*self._images.running().database.vibs, *self._live.vibs()]

    def judge_in_use(self, vib: DbVib) -> VibVerdict:
        """Judge a VIB that is in use again, as one that is installed now. Raises CasemateError."""
        level = Level(self._images.running().database.profile.acceptance_level)
        return self._judge(level).verdict(vib.descriptor_bytes, vib.signature)

    def live_layers(self) -> tuple[LayerFact, ...]:
        """Return what tells the layers of VIBs that were installed live from all others."""
        return self._layers.facts()

    def waivers(self) -> tuple[Waiver, ...]:
        """Return the hardening waivers in force."""
        return self._waivers()

    async def _list(self, request: s.SoftwareList, _: Session) -> s.SoftwareReply:
        image = self._images.upcoming() if request.rebooting else self._images.running()
        return await asyncio.to_thread(self._describe, image, self._dates())

    async def _validate(self, _request: s.SoftwareValidate, _: Session) -> s.ValidationReply:
        async with self._looking:
            return await asyncio.to_thread(self._findings)

    async def _depots(self, request: s.DepotList, _: Session) -> s.DepotReply:
        async with self._looking:
            return await asyncio.to_thread(self._look, request.depots)

    async def _acceptance(self, _request: s.AcceptanceGet, _: Session) -> s.LevelReply:
        level = self._images.upcoming().database.profile.acceptance_level
        return s.LevelReply(Level(level).display_name)

    async def _set_acceptance(self, request: s.AcceptanceSet, _: Session) -> s.LevelReply:
        level = level_from_name(request.level)
        if level is None or level.display_name != request.level:
            names = ", ".join(one.display_name for one in Level)
            raise ArgumentError(
                f"{request.level!r} is no acceptance level; there are {names}.", argument="level"
            )
        await self._rewrite(lambda: self._planner.relevel(level))
        return s.LevelReply(level.display_name)

    async def _set_option(self, request: s.BootOptionSet, _: Session) -> Empty:
        await self._rewrite(lambda: self._planner.reoption(request.name, request.value))
        return Empty()

    async def _rewrite(self, prepare: Callable[[], Plan | None]) -> None:
        """Write the same VIBs anew under another configuration, unless nothing would change."""
        async with self._lock:
            plan = await asyncio.to_thread(prepare)
            if plan is not None:
                await asyncio.to_thread(self._write, plan)

    async def _rollback(self, _request: s.BootRollback, _: Session) -> Empty:
        async with self._lock:
            plan = plan_rollback(read_banks(self._home), self._bank)
            write_states(self._home, plan.states)
            self._start_next(plan.bank.name)
        return Empty()

    async def _change(self, request: s.SoftwareChange, _: Session) -> s.ChangeReply:
        if request.action not in ACTIONS:
            raise ArgumentError(f"{request.action!r} is no action.", argument="action")
        async with self._lock:
            plan = await asyncio.to_thread(
                self._planner.prepare, request, in_maintenance=self._in_maintenance()
            )
            change = plan.change
            live = self._goes_live(plan, request)
            if change.empty:
                return _reply(change, UNCHANGED, reboot=False)
            if request.dry_run:
                installers = ["BootBankInstaller", *(["LiveImageInstaller"] if live else [])]
                return _reply(change, f"{DRY_RUN}[{', '.join(installers)}]", reboot=not live)
            if not live:
                await asyncio.to_thread(self._write, plan)
                self._note_dates(plan)
                return _reply(change, REBOOT, reboot=True)
            return await self._go_live(plan)

    async def _go_live(self, plan: Plan) -> s.ChangeReply:
        """Write the bank, and take the change into use; nothing is touched before all is verified.

        What cannot be measured or mounted waits for the next boot.
        """
        change = plan.change
        profile = plan.situation.running.database.profile
        new = [vib for vib in plan.database.vibs if vib.descriptor in change.installed]
        ready = await asyncio.to_thread(self._live.seal, plan)
        try:
            await asyncio.to_thread(self._write, plan)
            self._note_dates(plan)
            try:
                await self._live.take(ready, change.removed, new, profile)
            except CasemateError as error:
                _log.warning("the change is not in use: %s", error.reason)
                return _reply(change, LATER.format(error.reason.rstrip(".")), reboot=True)
        finally:
            release(ready)
        ids = tuple(one.vib_id for one in change.installed)
        return _reply(change, f"{DONE} {IN_USE}" if ids else DONE, reboot=False, live=ids)

    def _write(self, plan: Plan) -> None:
        situation = plan.situation
        write_bank(
            self._disk,
            self._home.path / situation.target,
            plan.config,
            plan.database,
            plan.files,
            serial=situation.serial,
        )
        self._start_next(situation.target)

    def _start_next(self, bank: str) -> None:
        """Have firmware start a bank's own boot image, where firmware starts this host at all.

        What firmware does not take, the present boot image does at the next start.
        """
        firmware = recorded(self._home)
        if firmware is not None:
            try:
                firmware.once(bank)
            except CasemateError as error:
                _log.warning("%s", error.reason)
            else:
                write_tried(self._home, bank)

    def _goes_live(self, plan: Plan, request: s.SoftwareChange) -> bool:
        """Tell whether the change can also be made without a restart."""
        change, base = plan.change, plan.situation.base
        live = {vib.descriptor.vib_id for vib in self._live.vibs()}
        level = Level(plan.situation.running.database.profile.acceptance_level)
        active = {*plan.situation.running.database.profile.vib_ids, *live}
        return (
            change.live
            and not request.no_live_install
            and not any(one.unchecked for one in plan.packages.values())
            and all(level.admits(one.verdict.level) for one in plan.packages.values())
            and active == set(base.database.profile.vib_ids)
            and all(one.vib_id in live for one in change.removed)
            and all(payload.type in LAYERS for one in change.installed for payload in one.payloads)
        )

    def _describe(self, image: Image, dates: Mapping[str, str]) -> s.SoftwareReply:
        profile = image.database.profile
        judge = self._judge(Level(profile.acceptance_level))
        marks = unchecked_marks(image.config.kernelopt)
        vibs = list(image.database.vibs)
        if not image.next:
            vibs += self._live.vibs()
        rows = tuple(
            describe(
                vib,
                judge,
                dates.get(vib.descriptor.vib_id) or f"{profile.creation_time:%Y-%m-%d}",
                unchecked=mark_of(vib.descriptor_bytes) in marks,
            )
            for vib in vibs
        )
        return s.SoftwareReply(
            bank=image.bank,
            profile=profile.name,
            vendor=profile.vendor,
            acceptance_level=Level(profile.acceptance_level).display_name,
            created=profile.creation_time.isoformat(),
            build=image.config.build,
            rebooting=image.next,
            taints=() if image.next else self._measurements.record.taints,
            vibs=rows,
            kernel_options=image.config.kernelopt,
        )

    def _findings(self) -> s.ValidationReply:
        image = self._images.running()
        judge = self._judge(Level(image.database.profile.acceptance_level))
        found = [
            (code, vib_id, sentence, "Install what is lacking, or remove what is in the way.")
            for code, vib_id, sentence in solve.problems(v.descriptor for v in image.database.vibs)
        ]
        for vib in image.database.vibs:
            try:
                judge.verdict(vib.descriptor_bytes, vib.signature)
                for payload, name in vib.files.items():
                    self._check_file(image, vib, payload, name)
            except CasemateError as error:
                one = error.finding()
                found.append((one.code, vib.descriptor.vib_id, one.reason, one.remedy))
        return s.ValidationReply(image.database.profile.name, tuple(found))

    def _check_file(self, image: Image, vib: DbVib, payload: str, name: str) -> None:
        sealed = read_component(self._home.path / image.bank, name, ("sha256",))
        os.close(sealed.descriptor)
        verify_payload(
            vib.descriptor,
            payload,
            size=sealed.size,
            sha256=sealed.sha256,
            uncompressed_sha256=sealed.digests["sha256"],
        )

    def _look(self, places: Sequence[str]) -> s.DepotReply:
        if len(places) > MAX_DEPOTS:
            raise ArgumentError(f"More than {MAX_DEPOTS} depots were given.", argument="depot")
        judge = self._judge(Level.COMMUNITY)
        rows, profiles = [], []
        for place in places:
            depot = self._sources.depot(place)
            profiles += [one.name for one in depot.profiles]
            for entry in depot.vibs:
                vib = parse_vib(self._sources.from_depot(place, entry), component=entry.path)
                listed = DbVib(
                    vib.descriptor_bytes,
                    vib.signature,
                    dict.fromkeys(vib.payloads, "any.v00"),
                )
                rows.append(describe(listed, judge, ""))
        return s.DepotReply(tuple(rows), tuple(profiles))

    def _judge(self, level: Level) -> Judge:
        now = self._now()
        store, _ = read_trust(self._home.trust)
        revoked, _ = read_revocations(self._home.trust, store, now)
        return Judge(store, revoked, level, now, self._layers.inspect)

    def _waivers(self) -> tuple[Waiver, ...]:
        store, _ = read_trust(self._home.trust)
        return read_waivers(self._home.trust, store, self._now())

    def _now(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self._clock(), dt.UTC)

    def _in_maintenance(self) -> bool:
        return any(
            isinstance(fact, HostFact) and fact.in_maintenance_mode for fact in self._stream.facts()
        )

    def _dates(self) -> dict[str, str]:
        found = json.loads(self._store.value(DATES) or "{}")
        return {str(key): str(value) for key, value in found.items()}

    def _note_dates(self, plan: Plan) -> None:
        """Remember when the new VIBs came; the others came with the image that had them first."""
        base = plan.situation.base.database.profile
        dates = dict.fromkeys(base.vib_ids, f"{base.creation_time:%Y-%m-%d}") | self._dates()
        dates |= {one.vib_id: f"{self._now():%Y-%m-%d}" for one in plan.change.installed}
        kept = {one.vib_id for one in plan.change.result} | set(base.vib_ids)
        noted = {vib_id: date for vib_id, date in dates.items() if vib_id in kept}
        self._store.set_value(DATES, json.dumps(noted))


def _reply(
    change: solve.Change, message: str, *, reboot: bool, live: tuple[str, ...] = ()
) -> s.ChangeReply:
    return s.ChangeReply(
        message,
        tuple(one.vib_id for one in change.installed),
        tuple(one.vib_id for one in change.removed),
        tuple(one.vib_id for one in change.skipped),
        reboot,
        live,
    )
