"""The references in force: signed, never rolled back, old and new side by side during an update."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from casemate.errors import CasemateError, NotFoundError, VerificationError
from casemate.formats.ekcert import LenientCertificate
from casemate.formats.manifest import Manifest, parse_manifest
from casemate.machine.fleet import StoredReference
from casemate.policy.levels import Level
from casemate.policy.newimage import UPDATED
from casemate.policy.references import verify_reference
from casemate.policy.rimreference import (
    accept_rim_reference,
    is_rim_reference,
    parse_rim_reference,
)
from casemate.policy.tpmidentity import load_ek_roots
from casemate.policy.trust import TrustStore, trust_from_files
from casemate.verifier import audit, rulestore
from casemate.verifier.database import Database, Transaction
from casemate.verifier.judge import Candidate

OVERLAP = timedelta(hours=24)
"""How long hosts may still run the image before, once a new reference is there."""


RECHECK = timedelta(minutes=1)
"""How long a checked signature counts without being looked at again: some ms for each."""


class Anchors:
    """What a verifier trusts on its own word: ``trust/<level>/*.pem`` and ``trust/ek/*``.

    Read when asked, at most every ``interval`` seconds, so an anchor put there counts soon.
    """

    def __init__(self, place: Path) -> None:
        self.place = place

    def trust(self) -> TrustStore:
        """Return who may vouch for references."""
        return trust_from_files(
            (level, path.read_bytes())
            for level in Level
            for path in sorted((self.place / level).glob("*.pem"))
        )

    def ek_mark(self) -> tuple[tuple[str, int, int], ...]:
        """Return what changes when a maker of TPMs is pinned, or is no more."""
        found = [(path.name, path.stat()) for path in sorted((self.place / "ek").glob("*"))]
        return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in found)

    def ek_roots(self) -> tuple[LenientCertificate, ...]:
        """Return the pinned makers of TPMs. Raises FormatError."""
        files = sorted((self.place / "ek").glob("*"))
        return load_ek_roots(
            path.read_bytes() for path in files if path.suffix in {".pem", ".crt", ".der"}
        )


@dataclass(frozen=True, slots=True)
class Age:
    """When signatures were last checked: signers expire, and are revoked, without a new version."""

    checked: datetime | None = None

    def young(self, now: datetime) -> bool:
        """Tell whether what was found then still counts."""
        return self.checked is not None and timedelta(0) <= now - self.checked < RECHECK


class ReferenceBook:
    """Verified references by identifier, read again when the version changes, and with time."""

    def __init__(
        self, database: Database, anchors: Anchors, clock: Callable[[], datetime] | None = None
    ) -> None:
        self._database = database
        self._anchors = anchors
        self._clock = clock or (lambda: datetime.now(UTC))
        self._turn = threading.Lock()
        self._version = -1
        self._age = Age()
        self._known: dict[str, tuple[StoredReference, Manifest]] = {}

    def add(self, body: bytes, who: str, overlap: timedelta = OVERLAP) -> StoredReference:
        """Verify a signed reference and put it in force; those before it run out.

        Raises:
            FormatError, SignatureError, DigestError: as ``parse_manifest`` and
                ``verify_reference`` say, or ``accept_rim_reference``.
            VerificationError: ``reference-rollback``: older than one that is in force.
        """
        identifier, manifest, signer = _read(body, self._anchors.trust(), self._clock())
        with self._database.exclusive("audit") as step:
            now = step.now()
            known = rulestore.references(step, whole=False)
            line = profile_line(manifest.profile_name)
            same = [one for one in known if profile_line(one.profile) == line]
            found = next((one for one in known if one.identifier == identifier), None)
            if found is not None:
                return found
            newest = max((one.serial for one in same), default=0)
            if manifest.serial < newest:
                raise VerificationError(
                    f"the reference has serial {manifest.serial}; serial {newest} of "
                    f"{manifest.profile_name} was here before",
                    code="reference-rollback",
                    component=manifest.profile_name,
                    remedy="Make a new reference of the image: casemate image reference.",
                )
            for one in same:
                if one.until is None:
                    rulestore.limit_reference(step, one.identifier, now + overlap.total_seconds())
            added = StoredReference(
                identifier,
                manifest.profile_name,
                manifest.build,
                manifest.serial,
                signer,
                now,
                who,
                None,
                body,
            )
            rulestore.put_reference(step, added)
            rulestore.next_policy(step)
            audit.append(step, who, "reference-add", identifier[:16], manifest.profile_name)
        return added

    def check(self, body: bytes) -> Candidate:
        """Verify a signed reference without putting it in force; raises as ``add``."""
        identifier, manifest, _ = _read(body, self._anchors.trust(), self._clock())
        return Candidate(identifier, manifest)

    def withdraw(self, identifier: str, who: str, why: str) -> StoredReference:
        """End a reference at once; ``identifier`` may be shortened. Raises NotFoundError."""
        with self._database.exclusive("audit") as step:
            found = find(step, identifier)
            rulestore.limit_reference(step, found.identifier, step.now())
            rulestore.next_policy(step)
            audit.append(step, who, "reference-withdraw", found.identifier[:16], why)
        return found

    def in_force(
        self, step: Transaction, profile: str, version: int | None = None
    ) -> tuple[Candidate, ...]:
        """Return the references that apply to hosts of a profile (empty: all), newest first.

        ``version`` is the policy version in force where the caller has just read it.
        """
        self._refresh(step, version)
        now = step.now()
        return tuple(
            Candidate(name, manifest)
            for name, (one, manifest) in self._known.items()
            if (one.until is None or one.until > now)
            and profile_line(profile) in {"", profile_line(one.profile)}
        )

    def manifest(self, step: Transaction, identifier: str) -> Manifest | None:
        """Return a verified reference, in force or not."""
        self._refresh(step)
        known = self._known.get(identifier)
        return known[1] if known else None

    def _refresh(self, step: Transaction, version: int | None = None) -> None:
        version = rulestore.policy_version(step) if version is None else version
        with self._turn:
            if version == self._version and self._age.young(self._clock()):
                return
            trust, now = self._anchors.trust(), self._clock()
            self._known = {
                one.identifier: (one, manifest)
                for one in rulestore.references(step)
                if (manifest := _verified(one.body, trust, now)) is not None
            }
            self._version, self._age = version, Age(now)


def profile_line(profile: str) -> str:
    """Return what a profile was before its updates: hosts of one line follow each other."""
    return profile.removeprefix(UPDATED)


def _verified(body: bytes, trust: TrustStore, now: datetime) -> Manifest | None:
    """Return the manifest; None where the store holds what this verifier's anchors do not back."""
    try:
        return _read(body, trust, now)[1]
    except CasemateError:
        return None


def _read(body: bytes, trust: TrustStore, now: datetime) -> tuple[str, Manifest, str]:
    """Verify a signed manifest, or a RIM; return identifier, what it says, and its signer."""
    if is_rim_reference(body):
        rim = parse_rim_reference(body)
        return (rim.identifier, *accept_rim_reference(rim, trust, now))
    signed = parse_manifest(body)
    signer = verify_reference(signed, trust, now)
    return hashlib.sha256(signed.body).hexdigest(), signed.manifest, signer


def find(step: Transaction, identifier: str) -> StoredReference:
    """Return the reference whose identifier begins so. Raises NotFoundError."""
    hits = [
        one
        for one in rulestore.references(step, whole=False)
        if identifier and one.identifier.startswith(identifier)
    ]
    if len(hits) != 1:
        raise NotFoundError(
            f"{'several references begin' if hits else 'no reference begins'} with {identifier!r}",
            component=identifier,
            remedy="List them: casemate verifier reference list.",
        )
    return hits[0]
