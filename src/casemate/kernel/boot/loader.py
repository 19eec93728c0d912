"""The loader: from a boot bank to a visor root, one pass per component.

It is what the D-RTM launch measures: it runs from the sealed copy of b.b00 that was hashed into
PCR 17. For each component, in boot.cfg's order:

    (1) read it once into sealed memory and hash it there, all banks at once
    (2) measure: extend the PCRs and append to the log, from one and the same value
    (3) verify: signature, acceptance level and payload hash
    (4) make the sealed bytes a layer, judge what it holds against the places that its level may
        write, and every program and library in it: one that breaks a required hardening rule is
        refused (this goes on beside the next components)
    (5) when all are good, join the layers to the visor root

A component that fails (3) or (4) has been measured, then is refused; the boot of this bank ends.
Which events (2) leaves, and in which order, is decided by ``policy.measure`` alone.
"""

from __future__ import annotations

import datetime as dt
import hmac
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from casemate.errors import BootError, CasemateError, DigestError, SignatureError
from casemate.formats.bootcfg import BootCfg, parse_bootcfg
from casemate.formats.erofs import ErofsImage
from casemate.formats.eventlog import write_event
from casemate.formats.imgdb import ImageDb, parse_imgdb
from casemate.kernel.boot.component import Reader, Sealed
from casemate.kernel.boot.contents import check_layer
from casemate.kernel.boot.elfcheck import LayerJudge
from casemate.kernel.boot.firmware import NO_FIRMWARE, Firmware
from casemate.kernel.boot.layers import VisorRoot, magic_of
from casemate.kernel.boot.progress import Progress
from casemate.kernel.sys.memfd import mapped
from casemate.machine.facts import ComponentFact
from casemate.policy.acceptance import VibVerdict, excuse, verify_listed, verify_payload
from casemate.policy.bootsteps import boot_steps, measured_anchors
from casemate.policy.hardening import Waiver
from casemate.policy.levels import Level
from casemate.policy.measure import LOCALITY_LAUNCH, BootMeasurer, PlannedEvent, module_pcrs
from casemate.policy.newimage import mark_of, taint_of, unchecked_marks
from casemate.policy.revocation import (
    NOTHING_REVOKED,
    Revocations,
    measured_text,
    verify_revocations,
)
from casemate.policy.revocation import PLACE as REVOKED
from casemate.policy.steps import (
    BootComplete,
    Component,
    Launch,
    Option,
    SecurityOption,
    Step,
    TrustAnchor,
)
from casemate.policy.trust import CLOCKS, MODULE_KEYS, TrustStore, trust_from_files
from casemate.policy.vibcontent import ARCHIVES, read_archive
from casemate.policy.vibpaths import check_places, restricted
from casemate.policy.waivers import PLACE, option_text, read_policies

IMAGE_DATABASE = "imgdb.tgz"
_CFG_LIMIT = 1 << 16  # bytes: ESXi's boot.cfg is below 16 KiB with 200 modules


class Extender(Protocol):
    """What the loader needs of a TPM."""

    def extend(self, pcr: int, digests: Mapping[str, bytes], locality: int = 0) -> None:
        """Extend one PCR in every bank."""


@dataclass(slots=True)
class Loaded:
    """The result: the log so far, the table of components, and where the layers lie."""

    cfg: BootCfg
    db: ImageDb
    log: bytearray
    components: list[ComponentFact] = field(default_factory=list)
    taints: list[str] = field(default_factory=list)


def read_bootcfg(bank: Path) -> BootCfg:
    """Read the bank's boot.cfg. Raises BootError where there is none, FormatError where bad."""
    try:
        with (bank / "boot.cfg").open("rb") as file:
            return parse_bootcfg(file.read(_CFG_LIMIT + 1))
    except OSError as error:
        raise BootError(
            f"{bank.name} has no readable boot.cfg: {error.strerror}",
            code="bank-empty",
            component=bank.name,
        ) from error


def read_trust(directory: Path) -> tuple[TrustStore, tuple[TrustAnchor, ...]]:
    """Read the anchors: one PEM file each, in a directory named after the level it may give.

    Those of time stamp authorities, and of module keys, lie in directories of their own.

    Returns the store, and the anchors as they are measured (levels and DER).
    """
    entries: list[tuple[Level, bytes]] = []
    for level in Level:
        place = directory / level.value
        entries += [(level, path.read_bytes()) for path in sorted(place.glob("*.pem"))]
    if not entries:
        raise BootError(
            "there is no trust anchor at all",
            code="no-anchors",
            component=str(directory.name),
            remedy="Run casemate trust init, or put a certificate into trust/<level>/.",
        )
    clocks = [path.read_bytes() for path in sorted((directory / CLOCKS).glob("*.pem"))]
    modules = [path.read_bytes() for path in sorted((directory / MODULE_KEYS).glob("*.pem"))]
    store = trust_from_files(entries, clocks, modules)
    return store, measured_anchors(store)


def read_waivers(trust: Path, store: TrustStore, now: dt.datetime) -> tuple[Waiver, ...]:
    """Read the signed hardening policies. Raises for one that cannot be trusted."""
    found = sorted((trust / PLACE).glob("*.json"))
    return read_policies(((path.name, path.read_bytes()) for path in found), store, now)


def read_revocations(
    trust: Path, store: TrustStore, now: dt.datetime
) -> tuple[Revocations, tuple[str, ...]]:
    """Read the revocation list, and the security option that shows it; both empty without one.

    Raises for a list that cannot be trusted: nobody knows what it should have said.
    """
    try:
        data = trust.joinpath(*REVOKED).read_bytes()
    except FileNotFoundError:
        return NOTHING_REVOKED, ()
    revoked = verify_revocations(data, store, now)
    return revoked, (measured_text(data, revoked),)


class Loader:
    """Boots one bank into ``visor``. ``now`` is the wall clock, for signers' validity.

    Our events continue the log of ``firmware``, where one measured before us.
    """

    def __init__(
        self,
        bank: Path,
        trust: Path,
        tpm: Extender,
        measurer: BootMeasurer,
        now: dt.datetime,
        progress: Progress,
        firmware: Firmware = NO_FIRMWARE,
    ) -> None:
        self._bank = bank
        self._trust = trust
        self._tpm = tpm
        self._measurer = measurer
        self._now = now
        self._progress = progress
        self._firmware = firmware
        self._refusals: dict[str, CasemateError] = {}
        self._verdicts: dict[str, VibVerdict] = {}

    def load(self, visor: VisorRoot, launch: Mapping[str, bytes]) -> Loaded:
        """Do it. ``launch`` holds the digests of b.b00 that the D-RTM launch used.

        Raises the error of the first component that fails, after measuring it.
        """
        with ExitStack() as stack:
            reader = stack.enter_context(Reader(self._bank, self._measurer.algorithms))
            cfg = read_bootcfg(self._bank)
            reader.announce([IMAGE_DATABASE, cfg.kernel, *(m.name for m in cfg.modules)])
            db = parse_imgdb(reader.get(IMAGE_DATABASE).content())
            store, anchors = read_trust(self._trust)
            loaded = Loaded(cfg, db, bytearray(self._firmware.log or self._measurer.header()))
            revoked, revocation_option = read_revocations(self._trust, store, self._now)
            self._verify_signatures(loaded, store, revoked)
            waivers = read_waivers(self._trust, store, self._now)
            signers = {
                vib_id: verdict.signer_certificate_der
                for vib_id, verdict in self._verdicts.items()
                if verdict.signer_certificate_der
            }
            steps = tuple(
                boot_steps(
                    cfg,
                    db,
                    anchors,
                    signers,
                    secure_boot=self._firmware.secure_boot,
                    waivers=[*map(option_text, waivers), *revocation_option],
                )
            )
            total = sum(isinstance(step, Component | Option) for step in steps)
            judge = stack.enter_context(LayerJudge(waivers))
            for step in steps:
                match step:
                    case BootComplete():
                        break
                    case Launch():
                        self._measure(loaded, step, launch)
                    case Component() | Option():
                        sealed = reader.get(step.file_name)
                        self._measure(loaded, step, sealed.digests)
                        self._verify(step, sealed)
                        if step.file_name == cfg.kernel:
                            check_launched(step.file_name, launch, sealed.digests)
                        self._mount(step, sealed, visor, judge)
                        reader.release(step.file_name)
                        self._note(loaded, step, sealed, total)
                    case SecurityOption(text):
                        self._measure(loaded, step, None)
                        if self._firmware.log:
                            self._extend(loaded, self._measurer.sealed_option(text))
                    case _:
                        self._measure(loaded, step, None)
            judge.conclude()
            return loaded

    def _verify_signatures(self, loaded: Loaded, store: TrustStore, revoked: Revocations) -> None:
        """Judge every descriptor; a refusal is kept until its first file has been measured.

        A VIB that the (measured) kernel options name may lack a good signature, and taints the
        host; not where firmware verifies what it boots.
        """
        host_level = Level(loaded.db.profile.acceptance_level)
        unchecked = unchecked_marks("" if self._firmware.secure_boot else loaded.cfg.kernelopt)
        for vib in loaded.db.vibs:
            try:
                if self._firmware.secure_boot and not vib.signature:
                    raise SignatureError(
                        "Under UEFI Secure Boot every VIB must be signed; this one is not.",
                        code="signature-missing",
                        component=vib.descriptor.vib_id,
                    )
                try:
                    verdict = verify_listed(vib, store, host_level, self._now, revoked)
                except CasemateError as error:
                    if mark_of(vib.descriptor_bytes) not in unchecked:
                        raise
                    verdict = excuse(error, vib.descriptor)
                    loaded.taints.append(taint_of(vib.descriptor.vib_id))
            except CasemateError as error:
                for file_name in vib.files.values():
                    self._refusals[file_name] = error
            else:
                self._verdicts[verdict.descriptor.vib_id] = verdict

    def _measure(self, loaded: Loaded, step: Step, digests: Mapping[str, bytes] | None) -> None:
        self._extend(loaded, self._measurer.measure(step, digests))

    def _extend(self, loaded: Loaded, events: Iterable[PlannedEvent]) -> None:
        for planned in events:
            extend(self._tpm, planned)
            loaded.log += write_event(planned.event)

    def _verify(self, step: Component | Option, sealed: Sealed) -> None:
        if (refusal := self._refusals.get(step.file_name)) is not None:
            raise refusal
        if step.vib is None or step.payload is None:
            if step.file_name != IMAGE_DATABASE:
                raise BootError(
                    f"no VIB of the image brings {step.file_name}",
                    code="unrecognized-tardisk",
                    component=step.file_name,
                    remedy="Remove it from boot.cfg, or install the VIB that it belongs to.",
                )
            return
        verdict = self._verdicts[step.vib.vib_id]
        check_places(verdict.descriptor.files, verdict.level, step.vib.vib_id)
        verify_payload(
            verdict.descriptor,
            step.payload,
            size=sealed.size,
            sha256=sealed.sha256,
            uncompressed_sha256=sealed.digests["sha256"],
        )

    def _mount(
        self, step: Component | Option, sealed: Sealed, visor: VisorRoot, judge: LayerJudge
    ) -> None:
        """Make a component a layer, and have every program in it judged."""
        if step.vib is None or step.payload is None:
            return
        verdict = self._verdicts[step.vib.vib_id]
        announced = verdict.descriptor.payload(step.payload)
        kind = announced.type if announced else ""
        image: ErofsImage | None = None
        with mapped(sealed.descriptor) as view:
            if kind in ARCHIVES:
                entries = read_archive(kind, view, component=step.file_name)
                layer: Path | None = visor.add_archive(step.file_name, entries)
                del entries
            else:
                layer = visor.add(sealed, magic_of(view))
                image = ErofsImage(view)
            if layer is None:
                return
            if restricted(verdict.level):
                check_layer(layer, verdict.descriptor, verdict.level)
            judge.submit(layer, verdict.level, step.file_name, image)

    def _note(self, loaded: Loaded, step: Component | Option, sealed: Sealed, total: int) -> None:
        verdict = self._verdicts.get(step.vib.vib_id) if step.vib else None
        static, drtm = (14, 21) if isinstance(step, Option) else module_pcrs(step.file_name)
        fact = ComponentFact(
            file_name=step.file_name,
            vib_id=step.vib.vib_id if step.vib else "",
            vib_name=step.vib.name if step.vib else "",
            vib_version=step.vib.version if step.vib else "",
            vib_vendor=step.vib.vendor if step.vib else "",
            acceptance_level=verdict.level.value if verdict else "",
            signer=verdict.signer if verdict else "",
            pcr=static,
            drtm_pcr=drtm,
            sha256=sealed.digests.get("sha256", b""),
            sha384=sealed.digests.get("sha384", b""),
            size=sealed.size,
        )
        loaded.components.append(fact)
        self._progress.tell(
            "component",
            number=len(loaded.components),
            total=total,
            file=fact.file_name,
            vib=fact.vib_name,
            version=fact.vib_version,
            provider=fact.signer,
            level=fact.acceptance_level,
            pcr=f"{fact.pcr} {fact.drtm_pcr}",
            sha256=fact.sha256.hex(),
            size=fact.size,
        )


def verify_loader(bank: Path, trust: Path, name: str, sha256: bytes, size: int) -> None:
    """Verify the loader's file before it is run: signature, level and payload hash of its VIB.

    Raises BootError where no VIB brings it, VerificationError where it is not what was signed.
    """
    with Reader(bank, ("sha256",)) as reader:
        db = parse_imgdb(reader.get(IMAGE_DATABASE).content())
    owner = db.owners().get(name)
    if owner is None:
        raise BootError(
            f"no VIB of the image brings {name}", code="unrecognized-tardisk", component=name
        )
    vib, payload = owner
    store, _ = read_trust(trust)
    now = dt.datetime.now(dt.UTC)
    level = Level(db.profile.acceptance_level)
    verdict = verify_listed(vib, store, level, now)
    verify_payload(verdict.descriptor, payload.name, size=size, sha256=sha256)


def check_launched(name: str, launched: Mapping[str, bytes], verified: Mapping[str, bytes]) -> None:
    """Refuse a loader that is not the one that was launched. Raises DigestError."""
    for algorithm, digest in launched.items():
        if not hmac.compare_digest(digest, verified.get(algorithm, b"")):
            raise DigestError(
                f"{name} is not the file that was launched: it changed meanwhile.",
                code="loader-changed",
                component=name,
                remedy="Find out who writes into the boot bank, then boot again.",
            )


def extend(tpm: Extender, planned: PlannedEvent) -> None:
    """Extend what the event says; the launch was extended by the TPM itself."""
    if planned.locality != LOCALITY_LAUNCH:
        digests = {str(name): value for name, value in planned.event.digests}
        tpm.extend(planned.event.pcr, digests, planned.locality)
