"""Taking VIBs into use without a restart: verified first, then measured, then switched to at once.

Whatever fails before the switch is complete leaves in use what was in use before.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from casemate.errors import CasemateError, HostError
from casemate.formats.descriptor import Descriptor
from casemate.formats.imgdb import DbVib, ImageDb, ImageProfile, parse_imgdb, write_imgdb
from casemate.kernel.boot.layers import LayerFact
from casemate.kernel.files import write_file
from casemate.kernel.packages import Package
from casemate.kernel.softwareplan import Plan
from casemate.kernel.stream import FactStream
from casemate.kernel.sys.memfd import mapped, sealed_bytes
from casemate.machine.facts import ComponentFact
from casemate.policy.acceptance import verify_payload
from casemate.policy.levels import Level
from casemate.policy.measure import measured_digests

RECORD: Final = "live.tgz"
"""File beside the record of the boot: an image database of the VIBs installed live since."""
BEFORE: Final = "live-before.tgz"
"""The record as it was, while a change is made; empty where there was none."""


class Mounter(Protocol):
    """What mounts live payloads: ``kernel.layers``."""

    def inspect(
        self, kind: str, image: bytes | memoryview, descriptor: Descriptor, level: Level
    ) -> tuple[str, ...]:
        """Return what a payload of this type brings."""

    def stage(self, name: str, sealed: int, kind: str) -> None:
        """Mount a payload of a type where nobody sees it yet."""

    def discard(self) -> None:
        """Take away what was staged and not switched to."""

    def prepare(self, names: Sequence[str]) -> None:
        """Write down what ``switch`` will be asked to do."""

    def switch(self, names: Sequence[str]) -> None:
        """Make these payloads the live ones."""

    def recover(self) -> bool:
        """Finish or undo a switch that a killed kernel left; tell whether one was undone."""

    def names(self) -> frozenset[str]:
        """Return what is live."""

    def facts(self) -> tuple[LayerFact, ...]:
        """Return what tells the live layers from all others."""


class Measurer(Protocol):
    """What measures at run time: ``kernel.measurements``."""

    async def runtime_component(self, fact: ComponentFact, digests: Mapping[str, bytes]) -> None:
        """Measure what is loaded after Boot Complete."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A payload in sealed memory that was verified there; ``fact`` says what it is."""

    fact: ComponentFact
    kind: str
    descriptor: int
    digests: dict[str, bytes]


class Live:
    """The VIBs installed live. ``changed`` is called when others are in use."""

    def __init__(
        self,
        record: Path,
        layers: Mounter,
        measurer: Measurer,
        banks: Sequence[str],
        stream: FactStream,
        changed: Callable[[], None],
    ) -> None:
        self._record = record
        self._layers = layers
        self._measurer = measurer
        self._banks = tuple(banks)
        self._stream = stream
        self._changed = changed

    def recover(self) -> None:
        """Bring mounts and record in step after a kernel was killed amid a change."""
        before = self._record.with_name(BEFORE)
        if self._layers.recover() and before.exists():
            if before.stat().st_size:
                before.replace(self._record)
            else:
                self._record.unlink(missing_ok=True)
        before.unlink(missing_ok=True)

    def vibs(self) -> list[DbVib]:
        """Return the VIBs that were installed live in this boot and still are in use."""
        if not self._record.exists():
            return []
        names = self._layers.names()
        return [
            vib
            for vib in parse_imgdb(self._record.read_bytes()).vibs
            if names.issuperset(vib.files.values())
        ]

    def seal(self, plan: Plan) -> tuple[Ready, ...]:
        """Return the payloads of a change, copied into sealed memory and verified there.

        The caller releases them. Raises CasemateError where one is not what its VIB says.
        """
        ready: list[Ready] = []
        try:
            for vib in plan.database.vibs:
                if vib.descriptor in plan.change.installed:
                    package = plan.packages[vib.descriptor.vib_id]
                    for payload, name in vib.files.items():
                        ready.append(self._seal(package, payload, name))
        except BaseException:
            release(ready)
            raise
        return tuple(ready)

    async def take(
        self,
        ready: Sequence[Ready],
        removed: Sequence[Descriptor],
        new: Sequence[DbVib],
        profile: ImageProfile,
    ) -> None:
        """Measure what ``seal`` returned, and put it in the place of the removed VIBs.

        Raises:
            CasemateError: It could not be measured or mounted; what was in use still is.
        """
        before = self.vibs()
        kept = [vib for vib in before if vib.descriptor not in removed]
        after = [*kept, *new]
        for one in ready:
            await self._measurer.runtime_component(one.fact, one.digests)
        await asyncio.to_thread(self._switch, ready, before, after, profile)
        names = {name for vib in after for name in vib.files.values()}
        for vib in before:
            for name in vib.files.values():
                if name not in names:
                    self._stream.retract(ComponentFact, name)
        for one in ready:
            self._stream.publish(one.fact)

    def _seal(self, package: Package, payload: str, name: str) -> Ready:
        verdict, vib = package.verdict, package.vib
        descriptor = sealed_bytes(vib.payloads[payload], name)
        try:
            with mapped(descriptor) as view:
                digests = measured_digests(view, self._banks)
                verify_payload(
                    vib.descriptor,
                    payload,
                    size=len(view),
                    sha256=hashlib.sha256(view).digest(),
                    uncompressed_sha256=digests["sha256"],
                )
                fact = ComponentFact(
                    file_name=name,
                    vib_id=vib.descriptor.vib_id,
                    vib_name=vib.descriptor.name,
                    vib_version=vib.descriptor.version,
                    vib_vendor=vib.descriptor.vendor,
                    acceptance_level=verdict.level.value,
                    signer=verdict.signer,
                    pcr=13,
                    drtm_pcr=20,
                    sha256=digests["sha256"],
                    sha384=digests.get("sha384", b""),
                    size=len(view),
                )
        except BaseException:
            os.close(descriptor)
            raise
        announced = vib.descriptor.payload(payload)
        return Ready(fact, announced.type if announced else "", descriptor, digests)

    def _switch(
        self,
        ready: Sequence[Ready],
        before: Sequence[DbVib],
        after: Sequence[DbVib],
        profile: ImageProfile,
    ) -> None:
        try:
            for one in ready:
                self._layers.stage(one.fact.file_name, one.descriptor, one.kind)
            known = self._record.read_bytes() if self._record.exists() else b""
            self._write(self._record.with_name(BEFORE), known)
            self._layers.prepare(_names(after))
            self._note(after, profile)
            try:
                self._layers.switch(_names(after))
            except CasemateError:
                self._note(before, profile)
                raise
            self._record.with_name(BEFORE).unlink()
            self._changed()
        finally:
            self._layers.discard()

    def _note(self, vibs: Sequence[DbVib], profile: ImageProfile) -> None:
        ids = tuple(vib.descriptor.vib_id for vib in vibs)
        database = ImageDb(replace(profile, vib_ids=ids), tuple(vibs))
        self._write(self._record, write_imgdb(database))

    @staticmethod
    def _write(place: Path, content: bytes) -> None:
        try:
            write_file(place, content)
        except OSError as error:
            raise HostError(
                f"The record of the live VIBs cannot be written: {error.strerror}.",
                component=str(place),
            ) from error


def release(ready: Iterable[Ready]) -> None:
    """Give up sealed payloads; what is mounted keeps its memory."""
    for one in ready:
        os.close(one.descriptor)


def _names(vibs: Sequence[DbVib]) -> list[str]:
    return [name for vib in vibs for name in vib.files.values()]
