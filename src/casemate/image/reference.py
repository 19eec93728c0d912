"""Reference values of an image: from VIBs, boot.cfg and trust anchors, without booting anything.

Every VIB and payload is verified on the way, exactly as the loader does it: a reference never
vouches for what a host would refuse.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Final

from casemate.errors import HostError, NotFoundError
from casemate.formats.cms import sign_detached
from casemate.formats.eventlog import Event
from casemate.formats.imgdb import ImageDb
from casemate.formats.manifest import Manifest, write_body, write_manifest
from casemate.formats.vib import Vib, parse_vib
from casemate.image.pki import load_signer
from casemate.image.profile import DATABASE, read_bank
from casemate.policy.acceptance import verify_payload, verify_vib
from casemate.policy.bootsteps import measured_anchors
from casemate.policy.hardening import Waiver
from casemate.policy.levels import Level
from casemate.policy.measure import BANKS, measured_digests
from casemate.policy.predict import Bank, predict
from casemate.policy.references import REFERENCE_LEVEL
from casemate.policy.revocation import (
    NOTHING_REVOKED,
    Revocations,
    measured_text,
    verify_revocations,
)
from casemate.policy.revocation import PLACE as REVOKED
from casemate.policy.trust import CLOCKS, MODULE_KEYS, TrustStore, trust_from_files
from casemate.policy.waivers import PLACE, option_text, read_policies

WORKERS: Final = 2
"""Files hashed at a time: hashing uses both cores of a small machine."""


def write_reference(
    home: Path,
    bank: Path,
    out: Path,
    *,
    now: datetime,
    vibs: Path | None = None,
    firmware: Sequence[Event] = (),
) -> Manifest:
    """Compute, sign and write the reference of a boot bank.

    Args:
        home: gives trust anchors and the signing key of the development PKI.
        bank: directory with boot.cfg and the image database, and the payloads unless ``vibs``.
        out: the file to write.
        now: time of signing, aware.
        vibs: directory of VIB files to take the payloads from.
        firmware: what firmware measures before the loader, on a machine that boots by itself.

    Raises:
        NotFoundError: a bank, payload, VIB or key is missing.
        HostError: a file cannot be read or written.
        CasemateError: what the loader would refuse; see ``policy.acceptance``.
    """
    manifest = predict_bank(home / "trust", bank, now=now, vibs=vibs, firmware=firmware)
    body = write_body(manifest)
    signer = load_signer(home, REFERENCE_LEVEL)
    signature = sign_detached(body, signer.certificate, signer.key, signer.chain, signing_time=now)
    fresh = out.with_name(f".{out.name}.new")
    try:
        fresh.write_bytes(write_manifest(body, signature))
        fresh.rename(out)
    except OSError as error:
        raise HostError(
            f"The reference cannot be written: {error.strerror}.", component=str(out)
        ) from error
    return manifest


def predict_bank(
    trust: Path,
    bank: Path,
    *,
    now: datetime,
    vibs: Path | None = None,
    firmware: Sequence[Event] = (),
) -> Manifest:
    """Compute the reference of a boot bank; arguments and errors as for ``write_reference``."""
    cfg, db = read_bank(bank)
    store = read_trust(trust)
    level = Level(db.profile.acceptance_level)
    revoked, revocation_option = read_revocations(trust, store, now)
    signers: dict[str, tuple[str, bytes]] = {}
    for vib in db.vibs:
        verdict = verify_vib(vib.descriptor_bytes, vib.signature, store, level, now, revoked)
        if verdict.signer_certificate_der:
            signers[vib.descriptor.vib_id] = (verdict.signer, verdict.signer_certificate_der)
    sources = _sources(db, bank) if vibs is None else _vib_sources(db, vibs)
    names = [cfg.kernel, *(module.name for module in cfg.modules if module.name != DATABASE)]
    with ThreadPoolExecutor(WORKERS) as pool:
        hashed = pool.map(lambda name: _hash(name, sources, db), names)
        digests = dict(zip(names, hashed, strict=True))
    digests[DATABASE] = measured_digests(_read(bank / DATABASE), BANKS)
    anchors = measured_anchors(store)
    waivers = tuple(option_text(waiver) for waiver in read_waivers(trust, store, now))
    options = (*waivers, *revocation_option)
    return predict(
        Bank(cfg, db, digests, anchors, signers, options),
        created=now,
        drtm=not firmware,
        firmware=firmware,
    )


def read_revocations(
    trust: Path, store: TrustStore, now: datetime
) -> tuple[Revocations, tuple[str, ...]]:
    """Read the revocation list, and the security option that a boot measures for it.

    Raises:
        CasemateError: it is there and cannot be trusted.
    """
    path = trust.joinpath(*REVOKED)
    if not path.exists():
        return NOTHING_REVOKED, ()
    data = _read(path)
    revoked = verify_revocations(data, store, now)
    return revoked, (measured_text(data, revoked),)


def read_trust(trust: Path) -> TrustStore:
    """Read the anchors of a trust directory: one folder a level. Raises NotFoundError."""
    store = trust_from_files(
        ((level, _read(path)) for level in Level for path in sorted((trust / level).glob("*.pem"))),
        (_read(path) for path in sorted((trust / CLOCKS).glob("*.pem"))),
        (_read(path) for path in sorted((trust / MODULE_KEYS).glob("*.pem"))),
    )
    if not store.anchors:
        raise NotFoundError(
            f"{trust} holds no trust anchor.",
            code="no-anchors",
            component=str(trust),
            remedy="Make the development PKI first: casemate trust init.",
        )
    return store


def read_waivers(trust: Path, store: TrustStore, now: datetime) -> tuple[Waiver, ...]:
    """Read the signed hardening policies of a trust directory. Raises as ``read_policies``."""
    found = sorted((trust / PLACE).glob("*.json"))
    return read_policies(((path.name, _read(path)) for path in found), store, now)


Source = Path | memoryview


def _sources(db: ImageDb, bank: Path) -> dict[str, Source]:
    return {name: bank / name for name in db.owners()}


def _vib_sources(db: ImageDb, vibs: Path) -> dict[str, Source]:
    """Find by descriptor, among VIB files, those that the database lists."""
    wanted = {vib.descriptor_bytes: vib for vib in db.vibs}
    found: dict[str, Source] = {}
    for vib in _parsed(vibs):
        listed = wanted.pop(vib.descriptor_bytes, None)
        if listed is not None:
            found |= {name: vib.payloads[part] for part, name in listed.files.items()}
    if wanted:
        vib_id = min(vib.descriptor.vib_id for vib in wanted.values())
        raise NotFoundError(
            f"{vibs} holds no VIB {vib_id}, which the image database lists.",
            component=vib_id,
            remedy="Build the image again: casemate image build.",
        )
    return found


def _parsed(vibs: Path) -> Iterator[Vib]:
    for path in sorted(vibs.glob("*.vib")):
        yield parse_vib(_read(path), component=path.name)


def _hash(name: str, sources: Mapping[str, Source], db: ImageDb) -> dict[str, bytes]:
    owner = db.owners().get(name)
    if owner is None:
        raise NotFoundError(
            f"boot.cfg names {name}, which no VIB of the image brings.",
            code="unrecognized-tardisk",
            component=name,
            remedy="Remove it from boot.cfg, or build the image again.",
        )
    vib, payload = owner
    source = sources[name]
    data = _read(source) if isinstance(source, Path) else source
    digests = measured_digests(data, BANKS)
    verify_payload(
        vib.descriptor,
        payload.name,
        size=len(data),
        sha256=hashlib.sha256(data).digest(),
        uncompressed_sha256=digests["sha256"],
    )
    return digests


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise NotFoundError(
            f"{path} cannot be read: {error.strerror}.",
            component=path.name,
            remedy="Build the image again: casemate image build.",
        ) from error
