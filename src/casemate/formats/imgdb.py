"""The image database ``imgdb.tgz``: which VIBs make up a bank's image, and under which names.

A gzipped tar of ``var/db/esximg/vibs/<name>-<hash>.xml`` with ``.pkcs7`` beside it, descriptor and
signature exactly as they came, and one ``var/db/esximg/profiles/<profile>.xml`` that lists the VIBs
in order and, by VIB, the boot file of each payload. The hash is the first 8 bytes of the
descriptor's SHA-256. Nothing else may be in it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from casemate.errors import FormatError, LimitError
from casemate.formats.bootcfg import check_file_name
from casemate.formats.cms_checks import MAX_SIGNATURE
from casemate.formats.compressed import gzip
from casemate.formats.descriptor import Descriptor, PayloadInfo, VibType, parse_descriptor
from casemate.formats.descriptor_values import ACCEPTANCE_LEVELS
from casemate.formats.tarball import EntryKind, TarEntry, parse_tgz
from casemate.formats.tarwrite import write_tar
from casemate.formats.xmltree import Element, parse_xml, write_xml

VIB_ROOT: Final = "var/db/esximg/vibs/"
PROFILE_ROOT: Final = "var/db/esximg/profiles/"
MAX_VIBS: Final = 2_048
"""VIBs of one image; ESXi's own images have about 150."""
MAX_UNPACKED: Final = 64 << 20
"""Bytes of the unpacked database; ESXi's are about 3 MiB."""
MAX_PROFILE_NAME: Final = 80
MAX_PROFILE_VENDOR: Final = 40
MAX_DESCRIPTION: Final = 1_024

_PROFILE_NAME: Final = re.compile(r"[0-9A-Za-z(][0-9A-Za-z ()_.+-]*", re.ASCII)
_UNSAFE: Final = re.compile(r"[^0-9A-Za-z_.-]")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class ImageProfile:
    """An image: its name, maker, acceptance level, and the ids of its VIBs in order."""

    name: str
    vendor: str
    acceptance_level: str
    creation_time: datetime
    vib_ids: tuple[str, ...]
    description: str = ""

    def __post_init__(self) -> None:
        if not _PROFILE_NAME.fullmatch(self.name) or len(self.name) > MAX_PROFILE_NAME:
            raise _bad("imgdb-profile", f"{self.name[:128]!r} cannot be an image profile's name.")
        for value, limit in (
            (self.vendor, MAX_PROFILE_VENDOR),
            (self.description, MAX_DESCRIPTION),
        ):
            if len(value) > limit or _CONTROL.search(value) or value != value.strip():
                raise _bad("imgdb-profile", f"{value[:64]!r} does not fit in a profile.")
        if self.acceptance_level not in ACCEPTANCE_LEVELS:
            raise _bad(
                "imgdb-profile", f"{self.acceptance_level[:64]!r} is not an acceptance level."
            )
        if self.creation_time.tzinfo is None:
            raise _bad("imgdb-profile", "The creation time has no offset from UTC.")
        if len(set(self.vib_ids)) != len(self.vib_ids):
            raise _bad("imgdb-profile", "The profile lists a VIB twice.")


@dataclass(frozen=True, slots=True)
class DbVib:
    """A VIB of the image: descriptor and signature as they came, boot file by payload name."""

    descriptor_bytes: bytes
    signature: bytes
    files: Mapping[str, str]
    descriptor: Descriptor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        descriptor = parse_descriptor(self.descriptor_bytes)
        object.__setattr__(self, "descriptor", descriptor)
        payloads = {payload.name for payload in descriptor.payloads}
        strangers = set(self.files) - payloads
        homeless = payloads - set(self.files)
        if strangers or (homeless and descriptor.type is VibType.BOOTBANK):
            raise FormatError(
                "Boot files and payloads do not match: "
                f"{', '.join(sorted(strangers or homeless))}.",
                code="imgdb-files",
                component=descriptor.vib_id,
            )
        for name in self.files.values():
            check_file_name(name)
        if len(self.signature) > MAX_SIGNATURE:
            raise LimitError(
                f"The signature has more than {MAX_SIGNATURE} bytes.",
                code="imgdb-limit",
                component=descriptor.vib_id,
            )

    @property
    def stem(self) -> str:
        """Name of its files in the database, without suffix."""
        digest = hashlib.sha256(self.descriptor_bytes).digest()[:8].hex()
        return f"{self.descriptor.name}-{digest}"


@dataclass(frozen=True, slots=True)
class ImageDb:
    """A profile and its VIBs, in the same order; no boot file belongs to two payloads."""

    profile: ImageProfile
    vibs: tuple[DbVib, ...]

    def __post_init__(self) -> None:
        if len(self.vibs) > MAX_VIBS:
            raise LimitError(f"The image has more than {MAX_VIBS} VIBs.", code="imgdb-limit")
        if tuple(vib.descriptor.vib_id for vib in self.vibs) != self.profile.vib_ids:
            raise _bad("imgdb-profile", "The profile lists other VIBs than the database holds.")
        names = [name.lower() for vib in self.vibs for name in vib.files.values()]
        if len(set(names)) != len(names):
            raise _bad("imgdb-files", "Two payloads have the same boot file.")

    def owners(self) -> dict[str, tuple[DbVib, PayloadInfo]]:
        """Return by boot file name the VIB and the payload it comes from."""
        return {
            vib.files[payload.name]: (vib, payload)
            for vib in self.vibs
            for payload in vib.descriptor.payloads
            if payload.name in vib.files
        }


def parse_imgdb(data: bytes | memoryview, *, component: str = "imgdb.tgz") -> ImageDb:
    """Return the database.

    Raises:
        FormatError: Not such an archive, incomplete, or with anything beside it (codes
            ``imgdb-*``, ``gzip``, ``tar-*``, ``xml-*``, ``descriptor-*``).
        LimitError: Larger than this module's limits.
    """
    try:
        return _parse(data, component)
    except FormatError as error:
        error.component = error.component or component
        raise


def write_imgdb(database: ImageDb) -> bytes:
    """Return ``imgdb.tgz``: same values, same bytes, whenever and by whomever."""
    slug = _UNSAFE.sub("-", database.profile.name)
    entries = [TarEntry(f"{PROFILE_ROOT}{slug}.xml", data=_write_profile(database))]
    for vib in database.vibs:
        entries.append(TarEntry(f"{VIB_ROOT}{vib.stem}.xml", data=vib.descriptor_bytes))
        entries.append(TarEntry(f"{VIB_ROOT}{vib.stem}.pkcs7", data=vib.signature))
    return gzip(write_tar(sorted(entries, key=lambda entry: entry.path)))


def _parse(data: bytes | memoryview, component: str) -> ImageDb:
    contents: dict[str, bytes] = {}
    profiles: list[bytes] = []
    for entry in parse_tgz(data, limit=MAX_UNPACKED, component=component):
        if entry.kind is EntryKind.DIRECTORY:
            continue
        if entry.kind is not EntryKind.FILE:
            raise _bad("imgdb-entry", f"{entry.path} is a link.")
        folder, name = entry.path.rpartition("/")[::2]
        if folder + "/" == PROFILE_ROOT and name.endswith(".xml"):
            profiles.append(bytes(entry.data))
        elif folder + "/" == VIB_ROOT:
            contents[name] = bytes(entry.data)
        else:
            raise _bad("imgdb-entry", f"{entry.path} has no place in an image database.")
    if len(profiles) != 1:
        raise _bad("imgdb-profile", f"It holds {len(profiles)} image profiles instead of one.")
    root = parse_xml(profiles[0], component=component)
    if root.tag != "imageprofile":
        raise _bad("imgdb-profile", "The profile's XML is something else.")
    listed = root.find("viblist")
    vibs = tuple(
        _vib(element, contents) for element in (listed.all("vib") if listed is not None else ())
    )
    if contents:
        raise _bad("imgdb-entry", f"{min(contents)} belongs to no VIB of the profile.")
    profile = ImageProfile(
        name=_text(root, "name"),
        vendor=_text(root, "vendor"),
        acceptance_level=_text(root, "acceptancelevel"),
        creation_time=_time(_text(root, "creationtime")),
        vib_ids=tuple(vib.descriptor.vib_id for vib in vibs),
        description=_text(root, "description"),
    )
    return ImageDb(profile, vibs)


def _vib(element: Element, contents: dict[str, bytes]) -> DbVib:
    """Take the VIB that a profile element lists out of ``contents``."""
    stem = _text(element, "file")
    try:
        descriptor, signature = contents.pop(f"{stem}.xml"), contents.pop(f"{stem}.pkcs7")
    except KeyError as error:
        raise _bad("imgdb-missing", f"The database lacks {str(error.args[0])[:64]!r}.") from None
    payloads = element.find("payloads")
    rows = [
        (row.attributes.get("payload-name", ""), row.attributes.get("boot-name", ""))
        for row in (payloads.all("payload") if payloads is not None else ())
    ]
    if len(dict(rows)) != len(rows):
        raise _bad("imgdb-files", f"The profile names a payload of {stem[:64]!r} twice.")
    vib = DbVib(descriptor, signature, dict(rows))
    if (vib.stem, vib.descriptor.vib_id) != (stem, _text(element, "vib-id")):
        raise _bad("imgdb-missing", f"{stem[:64]!r} holds another VIB than the profile lists.")
    return vib


def _write_profile(database: ImageDb) -> bytes:
    profile = database.profile
    vibs = [
        Element(
            "vib",
            {},
            [
                Element("vib-id", {}, text=vib.descriptor.vib_id),
                Element("file", {}, text=vib.stem),
                Element(
                    "payloads",
                    {},
                    [
                        Element("payload", {"payload-name": name, "boot-name": file_name})
                        for name, file_name in sorted(vib.files.items())
                    ],
                ),
            ],
        )
        for vib in database.vibs
    ]
    texts = {
        "name": profile.name,
        "vendor": profile.vendor,
        "acceptancelevel": profile.acceptance_level,
        "creationtime": profile.creation_time.isoformat(),
        "description": profile.description,
    }
    leaves = [Element(tag, {}, text=text) for tag, text in texts.items()]
    return write_xml(Element("imageprofile", {}, [*leaves, Element("viblist", {}, vibs)]))


def _text(parent: Element, tag: str) -> str:
    found = parent.all(tag)
    if len(found) > 1:
        raise _bad("imgdb-profile", f"The profile has two <{tag}>.")
    return found[0].text if found else ""


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise _bad("imgdb-profile", f"{text[:64]!r} is not an ISO 8601 time.") from None


def _bad(code: str, reason: str) -> FormatError:
    return FormatError(reason, code=code)
