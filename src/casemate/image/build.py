"""Builds the host's image: every VIB, signed at its level, and a boot bank that holds them.

Same sources, packages and signers give the same bytes. A payload is built again only when what
goes into it changed; a payload from the cache is hashed again before it is used.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import casemate
from casemate.errors import HostError
from casemate.formats.cms import sign_detached
from casemate.formats.descriptor import (
    Checksum,
    Constraint,
    Descriptor,
    PayloadInfo,
    write_descriptor,
)
from casemate.formats.vib import write_vib
from casemate.image.debian import Packages
from casemate.image.erofs import write_erofs, zip_bytes
from casemate.image.files import Form, Recipe
from casemate.image.hardening import enforce_recipe
from casemate.image.host import recipes
from casemate.image.pki import Signer, initialise, load_signer
from casemate.image.profile import BuiltVib, make_profile, write_bank
from casemate.image.provenance import note_sources
from casemate.image.tree import File
from casemate.policy.levels import Level

VENDOR: Final = "Casemate"
PROFILE_NAME: Final = f"Casemate-{casemate.__version__}-standard"
BOOTABLE_PROFILE_NAME: Final = f"Casemate-{casemate.__version__}-bootable"
"""Of an image that brings Linux along."""
PROFILE_LEVEL: Final = "partner"
RELEASED: Final = datetime(2026, 11, 1, tzinfo=UTC)
"""Release date of this version; stands in every descriptor."""

RECIPE_FORMAT: Final = 2
"""Raised when the same entries would give other payload bytes: a cached payload is then old."""

Progress = Callable[[str, int, int], None]
"""Called with what was done last, how many steps are done, and of how many."""


@dataclass(frozen=True, slots=True)
class Payload:
    """A payload's bytes and what a descriptor says of them; ``sha256`` in hex."""

    path: Path
    size: int
    sha256: str
    sha384: str
    files: tuple[str, ...]
    cached: bool


@dataclass(frozen=True, slots=True)
class Image:
    """A built image."""

    vibs: tuple[BuiltVib, ...]
    build: str
    bank: Path
    written: bool
    payloads: tuple[tuple[Recipe, Payload], ...]


def build_image(
    home: Path,
    out: Path,
    *,
    now: datetime,
    released: datetime = RELEASED,
    packages: Packages | None = None,
    plan: Sequence[Recipe] | None = None,
    bank: Path | None = None,
    progress: Progress = lambda _what, _done, _of: None,
) -> Image:
    """Build all VIBs of a host and install them into the home's first boot bank.

    Args:
        home: holds the PKI (made when absent), the cache and the boot banks.
        out: directory for the VIBs.
        now: for certificates that have to be made.
        released: release date in the descriptors.
        packages: Debian packages to build from.
        plan: what to build, when it is not a host's own recipes.
        bank: the boot bank to fill, when it is not the home's first.
        progress: told about every step.

    Raises:
        HostError: the machine lacks a package or a program, or a directory cannot be written.
        VerificationError: a program or library breaks a required hardening rule.
    """
    packages = packages or Packages()
    initialise(home, now=now)
    scratch = home / "cache" / "image"
    with _writing(out):
        scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
        out.mkdir(parents=True, exist_ok=True)
    plan = plan or recipes(packages, scratch)
    for recipe in plan:
        enforce_recipe(recipe)
    toolchain = " ".join(packages.version(name) for name in ("erofs-utils", "python3.11"))
    payloads = _payloads(plan, scratch, toolchain, progress)
    signers = {level: load_signer(home, level) for level in {Level(r.level) for r in plan}}
    with _writing(out):
        vibs = tuple(
            make_vib(recipe, payloads[recipe.name], signers[Level(recipe.level)], out, released)
            for recipe in plan
        )
    build = f"{casemate.__version__}-{_identity(vibs)}"
    profile = make_profile(
        vibs, name=_profile_name(plan), vendor=VENDOR, level=PROFILE_LEVEL, created=released
    )
    bank = bank or home / "bootbank"
    written = write_bank(bank, vibs, profile, build=build)
    with _writing(scratch):
        note_sources(home)
    progress(str(bank), len(plan) + 1, len(plan) + 1)
    pairs = tuple((recipe, payloads[recipe.name]) for recipe in plan)
    return Image(vibs, build, bank, written, pairs)


def make_vib(
    recipe: Recipe, payload: Payload, signer: Signer, out: Path, released: datetime
) -> BuiltVib:
    """Describe, sign and write one VIB.

    The signing time is the release date, or the beginning of the signer's certificate where
    that is later: a signature made again has the same bytes.
    """
    part = recipe.boot_name.partition(".")[0]
    descriptor = write_descriptor(
        Descriptor(
            name=recipe.name,
            version=recipe.version,
            vendor=VENDOR,
            summary=recipe.summary,
            description=recipe.description,
            release_date=released,
            depends=tuple(Constraint(name) for name in sorted(recipe.requires)),
            files=payload.files,
            acceptance_level=recipe.level,
            stateless_ready=True,
            payloads=(
                PayloadInfo(
                    part,
                    "erofs" if recipe.form is Form.LAYER else "boot",
                    payload.size,
                    (
                        Checksum("sha-256", bytes.fromhex(payload.sha256)),
                        Checksum("sha-384", bytes.fromhex(payload.sha384)),
                    ),
                ),
            ),
        )
    )
    signature = sign_detached(
        descriptor,
        signer.certificate,
        signer.key,
        signer.chain,
        signing_time=max(released, signer.certificate.not_valid_before_utc),
    )
    path = out / f"{recipe.name}.vib"
    _replace(path, write_vib(descriptor, signature, [(part, payload.path.read_bytes())]))
    return BuiltVib(descriptor, signature, {part: recipe.boot_name}, {part: payload.path}, path)


def make_payload(recipe: Recipe, cache: Path, toolchain: str) -> Payload:
    """Return the payload of a recipe, from the cache where its inputs are the same.

    Args:
        recipe: complete.
        cache: directory of payloads and of what is known about them.
        toolchain: versions of the programs that shape a payload.

    Raises:
        HostError: a program failed, or the cache cannot be written.
    """
    key = _key(recipe, toolchain)
    path, record = cache / f"{recipe.name}-{key}.payload", cache / f"{recipe.name}-{key}.json"
    if (known := _cached(path, record)) is not None:
        return known
    for stale in cache.glob(f"{recipe.name}-{'?' * len(key)}.*"):
        stale.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        fresh = Path(temporary, "payload")
        files: tuple[str, ...] = ()
        match recipe.form:
            case Form.ZIP:
                fresh.write_bytes(zip_bytes(recipe.nodes))
            case Form.FILE:
                (node,) = recipe.nodes.values()
                fresh.write_bytes(node.read() if isinstance(node, File) else b"")
            case Form.LAYER:
                files = write_erofs(
                    recipe.name, recipe.nodes, fresh, compiled=recipe.compiled, scratch=cache
                )
        payload = _describe(path, fresh.read_bytes(), files, cached=False)
        fresh.rename(path)
    facts = {"sha256": payload.sha256, "files": files}
    record.write_text(json.dumps(facts), encoding="utf-8")
    return payload


def _profile_name(plan: Sequence[Recipe]) -> str:
    return BOOTABLE_PROFILE_NAME if any(r.name == "linux" for r in plan) else PROFILE_NAME


def _payloads(
    plan: Sequence[Recipe], cache: Path, toolchain: str, progress: Progress
) -> dict[str, Payload]:
    """Build payloads, as many at a time as there are processors, and report each one."""
    total = len(plan) + 1
    done: dict[str, Payload] = {}
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        largest_first = sorted(plan, key=lambda recipe: len(recipe.nodes), reverse=True)
        jobs = {pool.submit(make_payload, r, cache, toolchain): r.name for r in largest_first}
        progress("", 0, total)
        for job in concurrent.futures.as_completed(jobs):
            done[jobs[job]] = job.result()
            progress(jobs[job], len(done), total)
    return done


def _key(recipe: Recipe, toolchain: str) -> str:
    """Return what identifies the inputs of a payload, 16 hex digits."""
    lines = [f"{RECIPE_FORMAT} {toolchain} {recipe.name} {recipe.compiled} {recipe.form}"]
    lines += [f"{path} {node.fingerprint()}" for path, node in sorted(recipe.nodes.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _cached(path: Path, record: Path) -> Payload | None:
    """Return a cached payload whose bytes are still those that were recorded."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        facts = json.loads(record.read_text(encoding="utf-8"))
        payload = _describe(path, path.read_bytes(), tuple(facts["files"]), cached=True)
        if payload.sha256 == facts["sha256"]:
            return payload
    return None


def _describe(path: Path, data: bytes, files: tuple[str, ...], *, cached: bool) -> Payload:
    return Payload(
        path,
        len(data),
        hashlib.sha256(data).hexdigest(),
        hashlib.sha384(data).hexdigest(),
        files,
        cached,
    )


def _identity(vibs: Sequence[BuiltVib]) -> str:
    """Return eight hex digits that follow from what the VIBs say of their payloads."""
    together = hashlib.sha256()
    for vib in vibs:
        together.update(hashlib.sha256(vib.descriptor).digest())
    return together.hexdigest()[:8]


def _replace(path: Path, data: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == data:
            return
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(data)
    fresh.rename(path)


@contextlib.contextmanager
def _writing(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HostError(
            f"{error.filename or place} cannot be written: {error.strerror}.",
            code="image-write",
            component=str(place),
            remedy="Make room on its disk, or run as root.",
        ) from error
