"""Working out a change of software: from what is asked for to a judged image and its files."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from casemate.calls.software import SoftwareChange
from casemate.errors import AcceptanceError, ArgumentError, CasemateError, NotFoundError, StateError
from casemate.formats.bootcfg import BootCfg
from casemate.formats.compressed import content_digest
from casemate.formats.depot import DepotVib
from casemate.formats.descriptor import Descriptor, PayloadInfo
from casemate.formats.imgdb import DbVib, ImageDb, ImageProfile
from casemate.kernel.home import Home
from casemate.kernel.imagestate import Image, Images, Situation
from casemate.kernel.packages import (
    MAX_DEPOTS,
    Judge,
    Package,
    Sources,
    judge_package,
    matching,
)
from casemate.kernel.transaction import BankFile
from casemate.policy import solve
from casemate.policy.acceptance import check_level, excuse, verify_payload
from casemate.policy.levels import Level
from casemate.policy.newimage import NewVib, mark_of, new_image, unchecked_marks
from casemate.policy.options import with_boot_option
from casemate.policy.versions import version_key
from casemate.policy.vibcontent import unpacked_limit


@dataclass(frozen=True, slots=True)
class Plan:
    """A change that was judged: the new image and its files."""

    change: solve.Change
    config: BootCfg
    database: ImageDb
    files: tuple[BankFile, ...]
    situation: Situation
    packages: Mapping[str, Package]


class Planner:
    """Works changes out. ``judge_at`` gives the judge of an acceptance level."""

    def __init__(
        self,
        home: Home,
        images: Images,
        sources: Sources,
        judge_at: Callable[[Level], Judge],
        now: Callable[[], dt.datetime],
    ) -> None:
        self._home = home
        self._images = images
        self._sources = sources
        self._judge_at = judge_at
        self._now = now

    def prepare(self, request: SoftwareChange, *, in_maintenance: bool) -> Plan:
        """Work a change out and judge everything that would be in the new image."""
        situation = self._images.situation()
        base = situation.base
        judge = self._judge_at(Level(base.database.profile.acceptance_level))
        present = [vib.descriptor for vib in base.database.vibs]
        packages, profile, change = self._wanted(request, present, judge)
        if change.needs_maintenance and not request.dry_run and not in_maintenance:
            raise StateError(
                "[MaintenanceModeError] This change requires the host to be in maintenance mode.",
                code="maintenance-mode",
                component=", ".join(one.vib_id for one in change.installed)[:200],
                remedy="Enter maintenance mode, then try again.",
            )
        _check_succession(change, packages)
        if not request.force:
            _check_overlaps(change)
        vibs = tuple(self._members(change, base, packages, judge))
        config, database = new_image(
            base.config,
            base.database,
            vibs,
            profile=profile,
        )
        files = tuple(self._files(database, packages, situation))
        return Plan(change, config, database, files, situation, packages)

    def _wanted(
        self, request: SoftwareChange, present: Sequence[Descriptor], judge: Judge
    ) -> tuple[dict[str, Package], ImageProfile | None, solve.Change]:
        """Return the judged packages by VIB id, the profile, and the change."""
        if request.action == "remove":
            if not request.names:
                raise ArgumentError("No VIB was named.", argument="vibname")
            names = [matching(name, present)[0].name for name in request.names]
            return {}, None, solve.remove(present, names, force=request.force)
        if len(request.depots) > MAX_DEPOTS:
            raise ArgumentError(f"More than {MAX_DEPOTS} depots were given.", argument="depot")
        no_check = request.no_sig_check
        given = [
            judge_package(self._sources.vib(one), judge, no_sig_check=no_check, component=one)
            for one in request.vibs
        ]
        shelf = {
            one.descriptor.vib_id: (place, one)
            for place in request.depots
            for one in self._sources.depot(place).vibs
        }
        listed = [one.descriptor for _, one in shelf.values()]
        packages = {one.vib.descriptor.vib_id: one for one in given}
        profile, chosen = self._chosen(request, listed)
        wanted = [*(one.vib.descriptor for one in given), *chosen]
        if not wanted:
            raise ArgumentError("Neither a VIB nor a depot was given.", argument="viburl")
        if request.action == "profile-install":
            change = solve.replace_all(present, wanted, force=request.force)
        else:
            update = request.action == "update"
            change = solve.install(present, wanted, listed, update=update, force=request.force)
            profile = None
        for one in change.installed:
            if one.vib_id not in packages:
                packages[one.vib_id] = self._fetch(
                    *shelf[one.vib_id], judge, no_sig_check=request.no_sig_check
                )
        return packages, profile, change

    def _chosen(
        self, request: SoftwareChange, listed: Sequence[Descriptor]
    ) -> tuple[ImageProfile | None, list[Descriptor]]:
        """Return what the request means of the depots' VIBs."""
        if request.action.startswith("profile-"):
            profile = self._profile(request)
            return profile, [matching(vib_id, listed)[0] for vib_id in profile.vib_ids]
        if request.names:
            return None, [_newest(matching(name, listed)) for name in request.names]
        return None, list(_newest_each(listed))

    def _fetch(self, place: str, entry: DepotVib, judge: Judge, *, no_sig_check: bool) -> Package:
        data = self._sources.from_depot(place, entry)
        package = judge_package(data, judge, no_sig_check=no_sig_check, component=entry.path)
        # Metadata has elements of its own beside the descriptor's, so values are compared.
        if package.vib.descriptor != entry.descriptor:
            raise StateError(
                f"{entry.path} in {place} is not the VIB that the depot announces.",
                code="depot-changed",
                component=entry.descriptor.vib_id,
                remedy="Get the bundle again from its source.",
            )
        return package

    def _profile(self, request: SoftwareChange) -> ImageProfile:
        for place in request.depots:
            for profile in self._sources.depot(place).profiles:
                if request.names == (profile.name,):
                    return profile
        raise NotFoundError(
            f"[NoMatchError] No image profile {' '.join(request.names)!r} was found.",
            code="no-match",
            component="profile",
            remedy="Name a depot and one of its profiles.",
        )

    def _members(
        self,
        change: solve.Change,
        base: Image,
        packages: Mapping[str, Package],
        judge: Judge,
    ) -> Iterable[NewVib]:
        """Yield the VIBs of the new image; those that stay are judged again."""
        known = {vib.descriptor.vib_id: vib for vib in base.database.vibs}
        marks = unchecked_marks(base.config.kernelopt)
        for one in change.result:
            package = packages.get(one.vib_id)
            if package is not None and one in change.installed:
                vib = package.vib
                yield NewVib(one, vib.descriptor_bytes, vib.signature, package.unchecked)
                continue
            old = known[one.vib_id]
            unchecked = mark_of(old.descriptor_bytes) in marks
            try:
                judge.verdict(old.descriptor_bytes, old.signature)
            except CasemateError as error:
                if not unchecked:
                    raise
                excuse(error, old.descriptor)
            yield NewVib(one, old.descriptor_bytes, old.signature, unchecked)

    def _files(
        self, database: ImageDb, packages: Mapping[str, Package], situation: Situation
    ) -> Iterable[BankFile]:
        base = situation.base
        before = {vib.descriptor.vib_id: vib for vib in base.database.vibs}
        for vib in database.vibs:
            package = packages.get(vib.descriptor.vib_id)
            for payload in vib.descriptor.payloads:
                if payload.name not in vib.files:
                    continue
                name = vib.files[payload.name]
                if package is not None and package.vib.descriptor_bytes == vib.descriptor_bytes:
                    data = package.vib.payloads[payload.name]
                    yield BankFile(name, hashlib.sha256(data).digest(), len(data), data)
                    continue
                old = before[vib.descriptor.vib_id].files[payload.name]
                places = tuple(
                    self._home.path / bank / file
                    for bank, file in ((base.bank, old), (situation.running.bank, old))
                )
                digest = payload.checksum("sha-256") or self._hashed(places[0], vib, payload)
                yield BankFile(name, digest, payload.size, places)

    def _hashed(self, path: Path, vib: DbVib, payload: PayloadInfo) -> bytes:
        """Return the SHA-256 of a file whose descriptor only tells that of its content."""
        data = path.read_bytes()
        own = hashlib.sha256(data).digest()
        limit = unpacked_limit(vib.descriptor, payload.name)
        unpacked = content_digest(data, "sha256", limit, component=path.name)
        verify_payload(
            vib.descriptor, payload.name, size=len(data), sha256=own, uncompressed_sha256=unpacked
        )
        return own

    def relevel(self, level: Level) -> Plan | None:
        """Return the plan that gives the host another acceptance level; None when it has it."""
        situation = self._images.situation()
        base = situation.base
        if base.database.profile.acceptance_level == level.value:
            return None
        vibs = _kept(base)
        for vib in vibs:
            if not vib.unchecked:
                own = Level(vib.descriptor.acceptance_level)
                check_level(own, level, vib.descriptor.vib_id)
        return self._again(situation, base.config, vibs, level)

    def reoption(self, name: str, value: str) -> Plan | None:
        """Return the plan that gives the host another boot option; None when it has it.

        Raises ArgumentError, StateError.
        """
        situation = self._images.situation()
        base = situation.base
        line = with_boot_option(base.config.kernelopt, name, value)
        if line.split() == base.config.kernelopt.split():
            return None
        return self._again(situation, replace(base.config, kernelopt=line), _kept(base), None)

    def _again(
        self, situation: Situation, config: BootCfg, vibs: list[NewVib], level: Level | None
    ) -> Plan:
        """Plan an image of the same VIBs under another configuration or level."""
        config, database = new_image(
            config, situation.base.database, vibs, level=level.value if level else None
        )
        change = solve.Change(tuple(one.descriptor for one in vibs), (), (), ())
        files = tuple(self._files(database, {}, situation))
        return Plan(change, config, database, files, situation, {})


def _kept(base: Image) -> list[NewVib]:
    marks = unchecked_marks(base.config.kernelopt)
    return [
        NewVib(
            vib.descriptor,
            vib.descriptor_bytes,
            vib.signature,
            unchecked=mark_of(vib.descriptor_bytes) in marks,
        )
        for vib in base.database.vibs
    ]


def _check_succession(change: solve.Change, packages: Mapping[str, Package]) -> None:
    """Raise where a VIB takes the place of one of a stricter level: a name is no credential."""
    for new in change.installed:
        level = packages[new.vib_id].verdict.level
        for old in change.removed:
            succeeds = new.name == old.name or any(
                solve.provides(old, gone) for gone in new.replaces
            )
            if succeeds and not Level(old.acceptance_level).admits(level):
                raise AcceptanceError(
                    f"VIB {new.vib_id} counts as {level} and cannot take the place of "
                    f"{old.vib_id}, which is {old.acceptance_level}.",
                    code="level-lowered",
                    component=new.vib_id,
                    remedy="Ask the provider for a VIB of the same level, or remove the old one "
                    "first.",
                )


def _check_overlaps(change: solve.Change) -> None:
    """Raise where a new VIB brings a file that another one brings, unless one is an overlay."""
    owners: dict[str, Descriptor] = {}
    new = set(change.installed)
    for one in change.result:
        for path in one.files:
            other = owners.setdefault(path, one)
            if other is one or not ({one, other} & new) or one.overlay or other.overlay:
                continue
            raise StateError(
                f"[FileConflictError] {one.vib_id} and {other.vib_id} both bring {path[:200]}.",
                code="file-conflict",
                component=one.vib_id,
                remedy="Ask the provider for a VIB that keeps to files of its own.",
            )


def _newest(vibs: Sequence[Descriptor]) -> Descriptor:
    return max(vibs, key=lambda one: version_key(one.version))


def _newest_each(vibs: Sequence[Descriptor]) -> Iterable[Descriptor]:
    for name in dict.fromkeys(one.name for one in vibs):
        yield _newest([one for one in vibs if one.name == name])
