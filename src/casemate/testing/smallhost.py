"""A host in miniature: a signed image in memory, booted on a FakeTpm, answering a verifier.

Everything is made by the product's own code except the TPM and its maker, so what a verifier gets
is byte for byte what a real host gives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from casemate.formats.bootcfg import BootCfg, BootModule
from casemate.formats.cms import sign_detached
from casemate.formats.descriptor import Descriptor, write_descriptor
from casemate.formats.descriptor_values import Checksum, PayloadInfo
from casemate.formats.eventlog import Event, write_event
from casemate.formats.imgdb import DbVib, ImageDb, ImageProfile, write_imgdb
from casemate.formats.manifest import Manifest, write_body, write_manifest
from casemate.formats.tpm import Credential, write_public, write_signature
from casemate.policy.acceptance import verify_vib
from casemate.policy.appraise import Evidence
from casemate.policy.explain import ComponentClaim
from casemate.policy.levels import Level
from casemate.policy.measure import (
    BANKS,
    DRTM_PCRS,
    LOCALITY_LAUNCH,
    STATIC_PCRS,
    BootMeasurer,
    Component,
    Launch,
    Option,
    PlannedEvent,
    TrustAnchor,
    boot_steps,
    measured_digests,
)
from casemate.policy.predict import Bank, predict
from casemate.policy.tpmidentity import EK_USAGE, Claim
from casemate.policy.trust import Anchor, TrustStore
from casemate.testing.faketpm import FakeTpm
from casemate.testing.pki import NOW, Identity, issue, shared_pki
from casemate.testing.softkeys import SoftEk, SoftKey

TPM_MANUFACTURER: Final = x509.ObjectIdentifier("2.23.133.2.1")
KERNEL: Final = "b.b00"
PCRS: Final = STATIC_PCRS + DRTM_PCRS
VIBS: Final[Mapping[str, tuple[tuple[str, ...], str]]] = {
    "casemate-boot": (("b.b00",), "certified"),
    "casemate-kernel": (("k.b00", "useropts.gz"), "certified"),
    "qemu": (("qemu.v00", "qemu.v01"), "accepted"),
    "nic-driver": (("nic.v00",), "partner"),
}
"""VIB name to its boot files and acceptance level; payloads are called like the files."""


@dataclass(frozen=True, slots=True)
class SmallImage:
    """A boot bank: ``versions`` by VIB name, ``contents`` by boot file name."""

    versions: Mapping[str, str] = field(default_factory=dict)
    contents: Mapping[str, bytes] = field(default_factory=dict)
    kernelopt: str = "bootUUID=1"
    levels: Mapping[str, str] = field(default_factory=dict)

    def content(self, file_name: str) -> bytes:
        """Return a payload; it depends on its VIB's version unless stated otherwise."""
        if file_name in self.contents:
            return self.contents[file_name]
        name = next(name for name, (files, _) in VIBS.items() if file_name in files)
        return f"{file_name} of version {self.versions.get(name, '2.0-1')}".encode()

    def db_vib(self, name: str) -> DbVib:
        """Return a signed VIB as the image database holds it."""
        files, level = VIBS[name]
        payloads = tuple(
            PayloadInfo(
                file_name.replace(".", "-"),
                "boot",
                len(self.content(file_name)),
                (Checksum("sha-256", hashlib.sha256(self.content(file_name)).digest()),),
            )
            for file_name in files
        )
        descriptor = Descriptor(
            name=name,
            version=self.versions.get(name, "2.0-1"),
            vendor="Casemate",
            summary=name,
            release_date=datetime(2026, 2, 1, tzinfo=UTC),
            acceptance_level=self.levels.get(name, level),
            payloads=payloads,
        )
        data = write_descriptor(descriptor)
        names = {file_name.replace(".", "-"): file_name for file_name in files}
        return DbVib(data, shared_pki().sign(data, level), names)

    def db(self) -> ImageDb:
        """Return the image database."""
        vibs = tuple(self.db_vib(name) for name in VIBS)
        profile = ImageProfile(
            "small",
            "Casemate",
            "partner",
            datetime(2026, 2, 1, tzinfo=UTC),
            tuple(vib.descriptor.vib_id for vib in vibs),
        )
        return ImageDb(profile, vibs)

    def cfg(self) -> BootCfg:
        """Return boot.cfg."""
        files = [name for files, _ in VIBS.values() for name in files if name != KERNEL]
        return BootCfg(
            kernel=KERNEL,
            modules=tuple(BootModule(name) for name in (*files, "imgdb.tgz")),
            kernelopt=self.kernelopt,
            build="1",
            updated=7,
        )

    def files(self) -> dict[str, bytes]:
        """Return the boot files by name."""
        files = {name: self.content(name) for names, _ in VIBS.values() for name in names}
        return {**files, "imgdb.tgz": write_imgdb(self.db())}

    def bank(self, banks: Sequence[str] = BANKS) -> Bank:
        """Return what prediction needs; the signatures are verified on the way."""
        db = self.db()
        signers = {}
        for vib in db.vibs:
            verdict = verify_vib(
                vib.descriptor_bytes, vib.signature, trust_store(), Level.PARTNER, NOW
            )
            signers[vib.descriptor.vib_id] = (verdict.signer, verdict.signer_certificate_der)
        digests = {name: measured_digests(data, banks) for name, data in self.files().items()}
        return Bank(self.cfg(), db, digests, anchors(), signers)

    def reference(self) -> Manifest:
        """Return the reference values of this image."""
        return predict(self.bank(), created=NOW)


@cache
def trust_store() -> TrustStore:
    """Return the store of the small hosts: one issuing CA a level."""
    return TrustStore(
        tuple(
            Anchor(identity.certificate, frozenset({Level(level)}))
            for level, identity in shared_pki().issuers.items()
        )
    )


def anchors() -> tuple[TrustAnchor, ...]:
    """Return the store's anchors as they are measured."""
    return tuple(
        TrustAnchor(tuple(sorted(level.value for level in anchor.levels)), anchor.der)
        for anchor in trust_store().anchors
    )


def sign_reference(manifest: Manifest, level: str = "certified") -> bytes:
    """Return the manifest's file, signed by the signer of a level."""
    body = write_body(manifest)
    pki = shared_pki()
    signer = pki.signers[level]
    signature = sign_detached(
        body, signer.certificate, signer.key, [pki.issuers[level].certificate], signing_time=NOW
    )
    return write_manifest(body, signature)


@cache
def ek_maker() -> Identity:
    """Return the CA of the maker of the small hosts' TPMs."""
    return issue("TPM maker", authority=True)


def ek_certificate(ek: SoftEk, maker: Identity | None = None) -> bytes:
    """Return an EK certificate (DER) after the TCG's profile."""
    maker = maker or ek_maker()
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(maker.certificate.subject)
        .public_key(ek.public.crypto_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=30))
        .not_valid_after(NOW + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([EK_USAGE]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName(
                [
                    x509.DirectoryName(
                        x509.Name([x509.NameAttribute(TPM_MANUFACTURER, "id:12345678")])
                    )
                ]
            ),
            critical=True,
        )
    )
    certificate = builder.sign(maker.key, hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.DER)


class SmallHost:
    """A host that booted ``image``; ``log`` may be tampered with before it answers.

    ``audit`` holds what stands for each entry of its audit log.
    """

    def __init__(
        self, image: SmallImage | None = None, *, drtm: bool = True, banks: Sequence[str] = BANKS
    ) -> None:
        self.image = image or SmallImage()
        self.tpm = FakeTpm(banks)
        self.ek = SoftEk()
        self.ak = SoftKey()
        self.drtm = drtm
        self.measurer = BootMeasurer(banks, drtm=drtm)
        self.log: list[Event] = []
        self.audit: list[bytes] = []
        self.files = self.image.files()
        self._boot()

    def reboot(self, image: SmallImage | None = None) -> None:
        """Reset the TPM and boot again, another image if one is given."""
        self.image = image or self.image
        self.files = self.image.files()
        self.measurer = BootMeasurer(self.measurer.algorithms, drtm=self.drtm)
        self.tpm.restart()
        self.log = []
        self._boot()

    def _boot(self) -> None:
        if self.measurer.measure(Launch(KERNEL), self._digests(KERNEL)):
            self._launch(self.files[KERNEL])
        bank = self.image.bank(self.measurer.algorithms)
        signers = {vib_id: certificate for vib_id, (_, certificate) in bank.signers.items()}
        for step in boot_steps(bank.cfg, bank.db, bank.anchors, signers):
            digests = None
            if isinstance(step, Launch | Component | Option):
                digests = self._digests(step.file_name)
            self.extend(self.measurer.measure(step, digests))

    def _launch(self, code: bytes) -> None:
        self.tpm.hash_launch(code)

    def activate(self, blob: bytes, secret: bytes) -> bytes:
        """Answer a credential challenge."""
        return self.ek.activate(Credential(blob, secret), self.ak.public.name())

    def _digests(self, file_name: str) -> dict[str, bytes]:
        return measured_digests(self.files[file_name], self.measurer.algorithms)

    def extend(self, planned: Sequence[PlannedEvent]) -> None:
        """Extend and log, as the loader does."""
        for one in planned:
            if one.locality != LOCALITY_LAUNCH:
                digests = {str(bank): value for bank, value in one.event.digests}
                self.tpm.extend(one.event.pcr, digests, one.locality)
            self.log.append(one.event)

    def claim(self) -> Claim:
        """Return what the host says about its TPM."""
        return Claim(
            ek_certificate(self.ek), write_public(self.ek.public), write_public(self.ak.public)
        )

    def log_bytes(self) -> bytes:
        """Return the event log."""
        return self.measurer.header() + b"".join(map(write_event, self.log))

    def evidence(
        self, nonce: bytes, pcrs: Sequence[int] = PCRS, *, banks: Sequence[str] | None = None
    ) -> Evidence:
        """Return fresh evidence."""
        wanted = self.measurer.algorithms if banks is None else tuple(banks)
        attest, signature = self.tpm.quote(nonce, dict.fromkeys(wanted, pcrs), self.ak)
        values = self.tpm.values()
        return Evidence(
            ((attest, write_signature(signature)),),
            {bank: {pcr: values[bank][pcr] for pcr in sorted(pcrs)} for bank in wanted},
            self.log_bytes(),
            self.claims(),
        )

    def claims(self) -> tuple[ComponentClaim, ...]:
        """Return what the host says that it loaded."""
        return tuple(
            ComponentClaim(
                file_name,
                name,
                self.image.versions.get(name, "2.0-1"),
                self._digests(file_name)["sha256"],
            )
            for name, (files, _) in VIBS.items()
            for file_name in files
        )


def with_log(evidence: Evidence, log: bytes) -> Evidence:
    """Return the evidence with another log."""
    return replace(evidence, log=log)
