"""What a clean boot of a bank must leave behind, computed without booting it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from casemate.errors import FormatError
from casemate.formats.bootcfg import BootCfg
from casemate.formats.eventlog import Event, replay_events
from casemate.formats.imgdb import ImageDb
from casemate.formats.manifest import ComponentRef, ExpectedEvent, Manifest, expected_pcrs
from casemate.policy.measure import (
    BANKS,
    DRTM_PCRS,
    STATIC_PCRS,
    BootMeasurer,
    Component,
    Launch,
    Option,
    Step,
    TrustAnchor,
    Version,
    boot_steps,
)

MAY_VARY = ("bootUUID",)
"""Words of the command line that ESXi sets per host."""


@dataclass(frozen=True, slots=True)
class Bank:
    """What a boot bank and the trust beside it hold.

    ``digests`` maps a boot file's name to what ``measured_digests`` gives for it; ``signers`` a
    VIB's id to name and certificate (DER) of its verified signer (unsigned VIBs are absent);
    ``waivers`` are the security options of the hardening waivers in force.
    """

    cfg: BootCfg
    db: ImageDb
    digests: Mapping[str, Mapping[str, bytes]]
    anchors: tuple[TrustAnchor, ...]
    signers: Mapping[str, tuple[str, bytes]]
    waivers: tuple[str, ...] = ()


def predict(
    bank: Bank,
    *,
    created: datetime,
    serial: int | None = None,
    algorithms: Sequence[str] = BANKS,
    drtm: bool = True,
    firmware: Sequence[Event] = (),
    may_vary: Sequence[str] = MAY_VARY,
) -> Manifest:
    """Compute the reference values of a boot bank.

    Args:
        bank: what will be booted.
        created: when the reference is made, aware.
        serial: of the reference; boot.cfg's ``updated`` where None.
        algorithms: the PCR banks.
        drtm: whether the host launches the loader by D-RTM.
        firmware: what firmware measures before the loader, where it verifies the loader.
        may_vary: words of the command line that may differ per host.

    Raises:
        FormatError: ``digest-missing``: a file of boot.cfg was not hashed.
    """
    cfg, db, digests, signers = bank.cfg, bank.db, bank.digests, bank.signers
    measurer = BootMeasurer(algorithms, drtm=drtm)
    certificates = {vib_id: certificate for vib_id, (_, certificate) in signers.items()}
    steps = tuple(
        boot_steps(
            cfg, db, bank.anchors, certificates, secure_boot=bool(firmware), waivers=bank.waivers
        )
    )
    refs = _component_refs(steps, signers)
    events = [ExpectedEvent(event) for event in firmware]
    for step in steps:
        name = step.file_name if isinstance(step, Launch | Component | Option | Version) else None
        if isinstance(step, Launch | Component | Option) and step.file_name not in digests:
            raise FormatError(
                f"boot.cfg names {step.file_name}, which is not in the bank",
                component=step.file_name,
                code="digest-missing",
                remedy="Build the image again: casemate image build.",
            )
        planned = measurer.measure(step, digests.get(name) if name else None)
        component = refs.get(name) if name else None
        events += (ExpectedEvent(one.event, component) for one in planned)
    replayed = replay_events([e.event for e in events], algorithms)
    return Manifest(
        profile_name=db.profile.name,
        profile_vendor=db.profile.vendor,
        acceptance_level=db.profile.acceptance_level,
        build=cfg.build,
        serial=cfg.updated if serial is None else serial,
        created=created.replace(microsecond=0),
        algorithms=tuple(algorithms),
        events=tuple(events),
        pcrs=expected_pcrs(replayed, STATIC_PCRS + DRTM_PCRS if drtm else STATIC_PCRS),
        may_vary=tuple(may_vary),
    )


def _component_refs(
    steps: Iterable[Step], signers: Mapping[str, tuple[str, bytes]]
) -> dict[str, ComponentRef]:
    refs: dict[str, ComponentRef] = {}
    for step in steps:
        if isinstance(step, Component | Option):
            vib = step.vib
            refs[step.file_name] = (
                ComponentRef(step.file_name)
                if vib is None
                else ComponentRef(
                    step.file_name,
                    vib.vib_id,
                    vib.name,
                    vib.version,
                    vib.vendor,
                    vib.level,
                    signers.get(vib.vib_id, ("", b""))[0],
                )
            )
    return refs
