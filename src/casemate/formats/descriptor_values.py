"""The descriptor of a VIB as values: what it is, what it needs, and the checksums of its payloads.

The signature of a VIB is over the descriptor's bytes, and the descriptor binds the payloads.
Every value is checked when it is made, so a descriptor that exists is within ESXi's limits and
can be written; elements this module does not know are skipped, because newer builders add some.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from casemate.errors import FormatError, LimitError

MAX_NAME: Final = 35
"""Characters of a name and of a version."""
MAX_VENDOR: Final = 40
MAX_SUMMARY: Final = 80
MAX_URL_KEY: Final = 20
MAX_DESCRIPTION: Final = 16_384
"""Characters; real ones are a few sentences."""
MAX_TEXT: Final = 1_024
"""Characters of a tag, a URL, a path, a platform's property."""
MAX_PAYLOADS: Final = 512
MAX_PAYLOAD_SIZE: Final = 16 << 30
"""Bytes of one payload."""

ACCEPTANCE_LEVELS: Final = ("certified", "accepted", "partner", "community")
RELATIONS: Final = ("<<", "<=", "=", ">=", ">>")
PAYLOAD_TYPES: Final = (
    "boot",
    "bootloader",
    "bootisobios",
    "bootisoefi",
    "erofs",
    "insttar",
    "tgz",
    "upgrade",
    "vgz",
)
"""ESXi's payload types, and ``erofs``: a read-only file system image, mounted as it is."""
CHECKSUM_SIZES: Final = {"sha-1": 20, "sha-256": 32, "sha-384": 48, "sha-512": 64}
"""Bytes of a checksum by its type; SHA-1 is read because real VIBs carry it, never relied on."""

_NAME: Final = re.compile(r"[0-9A-Za-z_.-]+", re.ASCII)
_VENDOR: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z .,&+()-]*", re.ASCII)
_PAYLOAD: Final = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.+-]{0,14}", re.ASCII)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u2028\u2029]")
_PLAIN_PATH: Final = re.compile(
    r"(?:(?!\.\.?/)[!-.0-\[\]-~]+/)*(?!\.\.?/?\Z)[!-.0-\[\]-~]+/?", re.ASCII
)
"""Nearly every path of every file list; the others are looked at more closely."""
_PROSE_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class VibType(StrEnum):
    """Where a VIB's payloads go."""

    BOOTBANK = "bootbank"
    LOCKER = "locker"
    TOOLS = "tools"
    META = "meta"


@dataclass(frozen=True, slots=True)
class Url:
    """A page about the VIB, by the kind of page (``kb``, ``license``)."""

    key: str
    href: str

    def __post_init__(self) -> None:
        _line(self.key, MAX_URL_KEY, "URL key")
        _line(self.href, MAX_TEXT, "URL")


@dataclass(frozen=True, slots=True)
class Constraint:
    """``name``, optionally with a relation and a version."""

    name: str
    relation: str = ""
    version: str = ""

    def __post_init__(self) -> None:
        _line(self.name, MAX_TEXT, "constraint name", empty=False)
        _line(self.version, MAX_TEXT, "constraint version")
        if self.relation and self.relation not in RELATIONS:
            raise _bad("descriptor-constraint", f"{self.relation!r} is not a relation.")
        if bool(self.relation) != bool(self.version):
            raise _bad(
                "descriptor-constraint", f"{self.name} has a relation or a version, but not both."
            )

    def __str__(self) -> str:
        return f"{self.name} {self.relation} {self.version}".rstrip()


@dataclass(frozen=True, slots=True)
class SoftwarePlatform:
    """A product the VIB is for; an empty property matches any."""

    product_line: str
    version: str = ""
    locale: str = ""

    def __post_init__(self) -> None:
        for value in (self.product_line, self.version, self.locale):
            _line(value, MAX_TEXT, "platform")


@dataclass(frozen=True, slots=True)
class Checksum:
    """A checksum of a payload: ``process`` ``gunzip`` means of the unpacked bytes."""

    type: str
    value: bytes
    process: str = ""

    def __post_init__(self) -> None:
        size = CHECKSUM_SIZES.get(self.type)
        if size is None:
            raise _bad("descriptor-checksum", f"{self.type!r} is not a checksum type.")
        if len(self.value) != size:
            raise _bad("descriptor-checksum", f"A {self.type} checksum has the wrong length.")
        if self.process not in {"", "gunzip"}:
            raise _bad("descriptor-checksum", f"{self.process!r} is not a verify process.")


@dataclass(frozen=True, slots=True)
class PayloadInfo:
    """A payload as the descriptor announces it; ``size`` is that of the archive member, bytes."""

    name: str
    type: str
    size: int
    checksums: tuple[Checksum, ...]

    def __post_init__(self) -> None:
        if not _PAYLOAD.fullmatch(self.name):
            raise _bad("descriptor-payload", f"{self.name!r} cannot be a payload's name.")
        if self.type not in PAYLOAD_TYPES:
            raise _bad("descriptor-payload", f"{self.type!r} is not a payload type.")
        if not 0 <= self.size <= MAX_PAYLOAD_SIZE:
            raise _bad("descriptor-payload", f"Payload {self.name} has the size {self.size}.")
        kinds = [(one.type, one.process) for one in self.checksums]
        if len(set(kinds)) != len(kinds):
            raise _bad("descriptor-checksum", f"Payload {self.name} has two checksums of one kind.")

    def checksum(self, kind: str, process: str = "") -> bytes | None:
        """Return the checksum of this type over this form, None when there is none."""
        return next(
            (one.value for one in self.checksums if (one.type, one.process) == (kind, process)),
            None,
        )


@dataclass(frozen=True, slots=True)
class Descriptor:
    """All that a VIB says about itself; field order is that of the file."""

    name: str
    version: str
    vendor: str
    summary: str
    release_date: datetime
    type: VibType = VibType.BOOTBANK
    description: str = ""
    urls: tuple[Url, ...] = ()
    depends: tuple[Constraint, ...] = ()
    conflicts: tuple[Constraint, ...] = ()
    replaces: tuple[Constraint, ...] = ()
    provides: tuple[Constraint, ...] = ()
    compatible_with: tuple[Constraint, ...] = ()
    tags: tuple[str, ...] = ()
    install_needs_maintenance: bool = False
    remove_needs_maintenance: bool = False
    hardware_vendors: tuple[str, ...] = ()
    software_platforms: tuple[SoftwarePlatform, ...] = ()
    files: tuple[str, ...] = ()
    acceptance_level: str = "community"
    live_install_allowed: bool = False
    live_remove_allowed: bool = False
    cimom_restart: bool = False
    stateless_ready: bool = False
    overlay: bool = False
    payloads: tuple[PayloadInfo, ...] = ()

    def __post_init__(self) -> None:
        for value, what in ((self.name, "name"), (self.version, "version")):
            if not _NAME.fullmatch(value) or len(value) > MAX_NAME:
                raise _bad(
                    "descriptor-name",
                    f"{value[:64]!r} cannot be a VIB's {what}: 1 to {MAX_NAME} letters, digits, "
                    "'-', '_' or '.'.",
                )
        if not _VENDOR.fullmatch(self.vendor) or len(self.vendor) > MAX_VENDOR:
            raise _bad("descriptor-name", f"{self.vendor[:64]!r} cannot be a vendor's name.")
        _line(self.summary, MAX_SUMMARY, "summary")
        _prose(self.description)
        if self.release_date.tzinfo is None:
            raise _bad("descriptor-date", "The release date has no offset from UTC.")
        if self.acceptance_level not in ACCEPTANCE_LEVELS:
            raise _bad(
                "descriptor-level", f"{self.acceptance_level[:64]!r} is not an acceptance level."
            )
        for value in (*self.tags, *self.hardware_vendors):
            _line(value, MAX_TEXT, "tag", empty=False)
        for path in self.files:
            check_path(path)
        if len(self.payloads) > MAX_PAYLOADS:
            raise LimitError(
                f"The descriptor lists more than {MAX_PAYLOADS} payloads.",
                code="descriptor-limit",
            )
        names = [payload.name for payload in self.payloads]
        if len(set(names)) != len(names):
            raise _bad("descriptor-payload", "Two payloads have the same name.")

    @property
    def vib_id(self) -> str:
        """The id, ``vendor_type_name_version``."""
        return f"{self.vendor}_{self.type}_{self.name}_{self.version}"

    def payload(self, name: str) -> PayloadInfo | None:
        """Return the payload of this name."""
        return next((one for one in self.payloads if one.name == name), None)


def check_path(path: str) -> None:
    """Raise unless a path is relative, plain, and stays below its root.

    Raises:
        FormatError: Code ``path``.
    """
    if len(path) <= MAX_TEXT and _PLAIN_PATH.fullmatch(path):
        return
    _line(path, MAX_TEXT, "path", empty=False)
    if path.startswith("/") or "\\" in path:
        raise _bad("path", f"The path {path!r} is not relative and plain.")
    if any(part in {"", ".", ".."} for part in path.rstrip("/").split("/")):
        raise _bad("path", f"The path {path!r} leaves its directory or is not in normal form.")


def _line(value: str, limit: int, what: str, *, empty: bool = True) -> None:
    if len(value) > limit:
        raise LimitError(
            f"The {what} {value[:32]!r}... has more than {limit} characters.",
            code="descriptor-limit",
        )
    if _CONTROL.search(value) or value != value.strip() or not (value or empty):
        raise _bad("descriptor-text", f"{value[:64]!r} cannot be a {what}.")


def _prose(value: str) -> None:
    if len(value) > MAX_DESCRIPTION:
        raise LimitError(
            f"The description has more than {MAX_DESCRIPTION} characters.",
            code="descriptor-limit",
        )
    if _PROSE_CONTROL.search(value) or value != value.strip(" \t\n"):
        raise _bad("descriptor-text", "The description has characters that no text has.")


def _bad(code: str, reason: str) -> FormatError:
    return FormatError(reason, code=code)
