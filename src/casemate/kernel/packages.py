"""VIBs on their way into the host: read from a datastore or a depot, and judged completely.

What comes out can boot: signature, level, revocation, every payload's digest, the files in it
(listed, in places the level may write, nothing but plain files and links), and the hardening of its
programs. The loader asks the same again at every boot.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Final

from casemate.errors import ArgumentError, CasemateError, NotFoundError
from casemate.formats.compressed import content_digest
from casemate.formats.depot import Depot, DepotVib, parse_depot, read_vib
from casemate.formats.descriptor import Descriptor
from casemate.formats.vib import Vib, parse_vib
from casemate.policy.acceptance import VibVerdict, excuse, verify_payload, verify_vib
from casemate.policy.levels import Level
from casemate.policy.revocation import Revocations
from casemate.policy.trust import TrustStore
from casemate.policy.vibcontent import check_content, unpacked_limit

MAX_VIB: Final = 1 << 30
"""Bytes of a VIB file; it is held in memory while it is judged."""
MAX_DEPOTS: Final = 16

_VOLUMES: Final = re.compile(r"/vmfs/volumes/([^/\[\]]+)/(.+)")
_STAGED: Final = re.compile(r"staging:([0-9A-Za-z_-]{1,64})")


@dataclass(frozen=True, slots=True)
class Judge:
    """Everything that a VIB is judged by. ``inspect`` gives the (judged) files of a payload."""

    store: TrustStore
    revoked: Revocations
    level: Level
    now: datetime
    inspect: Callable[[str, bytes | memoryview, Descriptor, Level], tuple[str, ...]]

    def verdict(self, vib: bytes, signature: bytes, *, level: Level | None = None) -> VibVerdict:
        """Judge descriptor and signature."""
        return verify_vib(vib, signature, self.store, level or self.level, self.now, self.revoked)


@dataclass(frozen=True, slots=True)
class Package:
    """A VIB that was judged good, or (``unchecked``) whose signature nobody asked about."""

    vib: Vib
    verdict: VibVerdict
    unchecked: bool = False


class Sources:
    """Where VIBs come from: ``resolve`` turns ``[datastore] path`` into a file."""

    def __init__(self, resolve: Callable[[str], Path], staging: Path) -> None:
        self._resolve = resolve
        self._staging = staging

    def vib(self, place: str) -> bytes:
        """Return the bytes of a VIB file. Raises NotFoundError, ArgumentError."""
        with self._open(place) as file:
            data = file.read(MAX_VIB + 1)
        if len(data) > MAX_VIB:
            raise ArgumentError(f"{place} has more than {MAX_VIB} bytes.", argument="viburl")
        return data

    def depot(self, place: str) -> Depot:
        """Return what an offline bundle says it holds."""
        with self._open(place) as file:
            return parse_depot(file, component=place)

    def from_depot(self, place: str, one: DepotVib) -> bytes:
        """Return the bytes of a VIB in a bundle."""
        with self._open(place) as file:
            return read_vib(file, one, component=place)

    @contextmanager
    def _open(self, place: str) -> Iterator[IO[bytes]]:
        if staged := _STAGED.fullmatch(place):
            path = self._staging / staged[1]
        else:
            volume = _VOLUMES.fullmatch(place)
            path = self._resolve(f"[{volume[1]}] {volume[2]}" if volume else place)
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise NotFoundError(
                f"{place} cannot be read: {error.strerror}.",
                component=place,
                remedy="Upload it to a datastore, and give its path: [datastore1] folder/file.",
            ) from error
        with open(handle, "rb") as file:  # noqa: PTH123 (a descriptor, not a path)
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise ArgumentError(f"{place} is not a file.", argument="viburl", component=place)
            yield file


def judge_package(data: bytes, judge: Judge, *, no_sig_check: bool, component: str) -> Package:
    """Judge a whole VIB.

    Args:
        data: The file.
        judge: What it is judged by.
        no_sig_check: Let a missing or bad signature, and the level, pass.
        component: The file's name, for errors.

    Raises:
        CasemateError: The first thing found wrong.
    """
    vib = parse_vib(data, component=component)
    unchecked = False
    try:
        verdict = judge.verdict(vib.descriptor_bytes, vib.signature)
    except CasemateError as error:
        if not no_sig_check:
            raise
        verdict = excuse(error, vib.descriptor)
        unchecked = True
    for name, payload in vib.payloads.items():
        verify_payload(
            vib.descriptor,
            name,
            size=len(payload),
            sha256=hashlib.sha256(payload).digest(),
            uncompressed_sha256=content_digest(
                payload,
                "sha256",
                unpacked_limit(vib.descriptor, name),
                component=f"{vib.descriptor.vib_id} {name}",
            ),
        )
    descriptor, level = vib.descriptor, verdict.level
    check_content(vib, level, lambda kind, image: judge.inspect(kind, image, descriptor, level))
    return Package(vib, verdict, unchecked)


def matching(wanted: str, vibs: Iterable[Descriptor]) -> list[Descriptor]:
    """Return the VIBs that ``name``, ``name:version``, ``vendor:name[:version]`` means.

    Raises:
        NotFoundError: ``no-match``.
    """
    parts = wanted.split(":")
    found = [
        one
        for one in vibs
        if parts in ([one.name], [one.name, one.version], [one.vendor, one.name])
        or parts == [one.vendor, one.name, one.version]
        or wanted == one.vib_id
    ]
    if not found:
        raise NotFoundError(
            f"[NoMatchError] No VIB matching {wanted!r} was found.",
            code="no-match",
            component=wanted,
            remedy="List what there is: esxcli software sources vib list.",
        )
    return found
