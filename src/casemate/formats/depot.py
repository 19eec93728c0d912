"""Offline bundles: a zip with an index, metadata of its VIBs and image profiles, and the VIBs.

Layout as VMware's::

    index.xml               vendors of the depot
    vendor-index.xml        what metadata.zip is for
    metadata.zip            vmware.xml (bulletins), vibs/*.xml, profiles/*.xml
    vib20/NAME/VIBID.vib

Reading trusts none of it: the VIBs themselves are what counts, each is taken apart and judged like
one that came alone, and the metadata only says where they lie. Entries are read one by one,
within limits, from memory or from a file.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Final

from casemate.errors import FormatError, LimitError
from casemate.formats.descriptor import Descriptor, parse_descriptor
from casemate.formats.imgdb import ImageProfile
from casemate.formats.vib import parse_vib
from casemate.formats.xmltree import Element, parse_xml, write_xml

MAX_ENTRIES: Final = 8_192
"""Entries of a bundle and of its metadata; ESXi's own have about 300."""
MAX_METADATA: Final = 64 << 20
"""Bytes of metadata.zip, and of what it unpacks to; ESXi's has 1 MiB."""
MAX_VIB: Final = 4 << 30
"""Bytes of one VIB."""
MAX_INDEX: Final = 1 << 20

_PRODUCT: Final = "embeddedEsx"
_VERSION: Final = "8.*"
_ZIP_DATE: Final = (1980, 1, 1, 0, 0, 0)
_PATH: Final = re.compile(r"(?!/)(?:[0-9A-Za-z_.+()-]+/)*[0-9A-Za-z_.+()-]+", re.ASCII)
_UNSAFE: Final = re.compile(r"[^0-9A-Za-z_.-]")


@dataclass(frozen=True, slots=True)
class DepotVib:
    """A VIB of a bundle: what its metadata says; size in bytes, SHA-256 of the file."""

    descriptor: Descriptor
    path: str
    size: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Depot:
    """A bundle's content."""

    vendor: str
    vibs: tuple[DepotVib, ...]
    profiles: tuple[ImageProfile, ...]


def parse_depot(file: IO[bytes], *, component: str = "") -> Depot:
    """Read a bundle's metadata.

    Args:
        file: The open bundle; it must allow seeking.
        component: What errors say they are about.

    Raises:
        FormatError: Not a bundle, or one whose parts do not fit (codes ``depot-*``, ``zip``).
        LimitError: Larger than this module's limits.
    """
    with _zip(file, component) as outer:
        root = parse_xml(_read(outer, "index.xml", MAX_INDEX), component="index.xml")
        vendor = _vendor(root)
        metadata = _read(outer, "metadata.zip", MAX_METADATA)
        with _zip(io.BytesIO(metadata), "metadata.zip") as inner:
            vibs = tuple(_vibs(inner))
            profiles = tuple(_profiles(inner))
        names = set(outer.namelist())
    for vib in vibs:
        if vib.path not in names:
            raise _bad("depot-missing", f"The bundle lacks {vib.path}, which its metadata lists.")
    return Depot(vendor, vibs, profiles)


def read_vib(file: IO[bytes], vib: DepotVib, *, component: str = "") -> bytes:
    """Return the file of a VIB, compared with what the metadata says.

    Raises:
        FormatError: It is another file (code ``depot-changed``), or the zip is damaged.
        LimitError: It is larger than ``MAX_VIB``.
    """
    with _zip(file, component) as outer:
        data = _read(outer, vib.path, min(vib.size, MAX_VIB))
    if len(data) != vib.size or hashlib.sha256(data).digest() != vib.sha256:
        raise _bad("depot-changed", f"{vib.path} is not the file that the metadata describes.")
    return data


def write_depot(vibs: Iterable[bytes], profiles: Iterable[ImageProfile], *, vendor: str) -> bytes:
    """Return a bundle of VIB files: same input, same bytes.

    Raises:
        FormatError: One of them is no VIB, or two have the same id.
    """
    files: dict[str, bytes] = {}
    metadata: dict[str, bytes] = {}
    listed: list[Element] = []
    for data in vibs:
        vib = parse_vib(data)
        one = vib.descriptor
        path = f"vib20/{one.name}/{_slug(one.vib_id)}.vib"
        if path in files:
            raise _bad("depot-duplicate", f"{one.vib_id} was given twice.")
        files[path] = data
        entry = parse_xml(vib.descriptor_bytes)
        digest = hashlib.sha256(data).hexdigest()
        entry.children += [
            Element("relative-path", {}, text=path),
            Element("packed-size", {}, text=str(len(data))),
            Element(
                "checksum",
                {},
                [
                    Element("checksum-type", {}, text="sha-256"),
                    Element("checksum", {}, text=digest),
                ],
            ),
        ]
        stem = f"{one.name}-{hashlib.sha256(vib.descriptor_bytes).hexdigest()[:16]}"
        metadata[f"vibs/{stem}.xml"] = write_xml(entry)
        listed.append(_bulletin_vib(one, path, len(data), digest))
    for profile in profiles:
        metadata[f"profiles/{_slug(profile.name)}.xml"] = write_xml(_profile_tree(profile))
    metadata["vmware.xml"] = write_xml(_response(vendor, listed))
    index = write_xml(_vendor_index())
    metadata["vendor-index.xml"] = index
    files |= {
        "index.xml": write_xml(_index(vendor)),
        "vendor-index.xml": index,
        "metadata.zip": _pack(metadata),
    }
    return _pack(files)


@contextmanager
def _zip(file: IO[bytes], component: str) -> Iterator[zipfile.ZipFile]:
    """Open a zip and turn everything that damaged ones raise into our errors."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_ENTRIES:
                raise LimitError(
                    f"It has more than {MAX_ENTRIES} entries.",
                    code="zip-limit",
                    component=component,
                )
            names = [entry.filename for entry in entries]
            if len(set(names)) != len(names):
                raise _bad("depot-duplicate", "It has two entries of the same name.", component)
            for name in names:
                if not _PATH.fullmatch(name.rstrip("/")) or ".." in name.split("/"):
                    raise _bad("depot-path", f"{name[:200]!r} is no path in a bundle.", component)
            yield archive
    except (
        *(zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError),
        *(ValueError, struct.error, OverflowError, OSError, IndexError, KeyError),
    ) as error:
        raise FormatError(
            f"It is not a sound zip archive: {error}.", code="zip", component=component
        ) from error


def _read(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """Return one entry; the announced size is not believed."""
    try:
        entry = archive.getinfo(name)
    except KeyError:
        raise _bad("depot-missing", f"The bundle lacks {name}.") from None
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _bad("zip", f"{name} is packed in an uncommon way.")
    with archive.open(entry) as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise LimitError(f"{name} has more than {limit} bytes.", code="bomb", component=name)
    return data


def _vendor(root: Element) -> str:
    listed = root.find("vendor") if root.tag == "vendorList" else None
    name = listed.find("name") if listed is not None else None
    if name is None or len(name.text) > 64:  # noqa: PLR2004 (characters: no vendor's name is longer)
        raise _bad("depot-index", "Its index.xml names no vendor.")
    return name.text


def _vibs(archive: zipfile.ZipFile) -> Iterator[DepotVib]:
    total = 0
    seen: set[str] = set()
    for name in sorted(archive.namelist()):
        if not (name.startswith("vibs/") and name.endswith(".xml")):
            continue
        data = _read(archive, name, MAX_METADATA - total)
        total += len(data)
        root = parse_xml(data, component=name)
        descriptor = parse_descriptor(data, component=name)
        if descriptor.vib_id in seen:
            raise _bad("depot-duplicate", f"The metadata lists {descriptor.vib_id} twice.", name)
        seen.add(descriptor.vib_id)
        yield _vib(root, descriptor, name)


def _vib(root: Element, descriptor: Descriptor, name: str) -> DepotVib:
    path, size, checksum = (root.find(tag) for tag in ("relative-path", "packed-size", "checksum"))
    if path is None or size is None or checksum is None or not _PATH.fullmatch(path.text):
        raise _bad("depot-metadata", "It does not say where its VIB lies.", name)
    kind, value = checksum.find("checksum-type"), checksum.find("checksum")
    if kind is None or value is None or kind.text != "sha-256":
        raise _bad("depot-metadata", "It has no SHA-256 checksum of its VIB.", name)
    if not (size.text.isascii() and size.text.isdecimal() and len(size.text) < 16):  # noqa: PLR2004
        raise _bad("depot-metadata", "It does not say how large its VIB is.", name)
    try:
        digest = bytes.fromhex(value.text)
    except ValueError:
        raise _bad("depot-metadata", "Its checksum is not hexadecimal.", name) from None
    return DepotVib(descriptor, path.text, int(size.text), digest)


def _profiles(archive: zipfile.ZipFile) -> Iterator[ImageProfile]:
    for name in sorted(archive.namelist()):
        if name.startswith("profiles/") and name.endswith(".xml"):
            yield _profile(parse_xml(_read(archive, name, MAX_INDEX), component=name), name)


def _profile(root: Element, name: str) -> ImageProfile:
    def text(tag: str) -> str:
        found = root.find(tag)
        return "" if found is None else found.text

    listed = root.find("viblist")
    try:
        created = datetime.fromisoformat(text("creationtime"))
    except ValueError:
        raise _bad("depot-profile", "Its creation time is not ISO 8601.", name) from None
    ids = [one.find("vib-id") for one in (listed.all("vib") if listed is not None else ())]
    return ImageProfile(
        name=text("name"),
        vendor=text("vendor"),
        acceptance_level=text("acceptancelevel"),
        creation_time=created if created.tzinfo else created.replace(tzinfo=UTC),
        vib_ids=tuple(one.text for one in ids if one is not None),
        description=text("description"),
    )


def _profile_tree(profile: ImageProfile) -> Element:
    texts = {
        "name": profile.name,
        "vendor": profile.vendor,
        "acceptancelevel": profile.acceptance_level,
        "creationtime": profile.creation_time.isoformat(),
        "description": profile.description,
    }
    vibs = [Element("vib", {}, [Element("vib-id", {}, text=one)]) for one in profile.vib_ids]
    leaves = [Element(tag, {}, text=value) for tag, value in texts.items()]
    return Element("imageprofile", {}, [*leaves, Element("viblist", {}, vibs)])


def _bulletin_vib(vib: Descriptor, path: str, size: int, digest: str) -> Element:
    checksum = [
        Element("checksumType", {}, text="sha-256"),
        Element("checksum", {}, text=digest),
    ]
    return Element(
        "vib",
        {},
        [
            Element("vibVersion", {}, text="1.4.5"),
            Element("vibID", {}, text=vib.vib_id),
            Element("name", {}, text=vib.name),
            Element("version", {}, text=vib.version),
            Element("vendor", {}, text=vib.vendor),
            Element(
                "vibFile",
                {},
                [
                    Element("relativePath", {}, text=path),
                    Element("packedSize", {}, text=str(size)),
                    Element("checksum", {}, checksum),
                ],
            ),
        ],
    )


def _response(vendor: str, vibs: list[Element]) -> Element:
    return Element(
        "metadataResponse",
        {},
        [
            Element("version", {}, text="3.0"),
            Element(
                "bulletin",
                {},
                [
                    Element("id", {}, text=f"{_slug(vendor)}-bundle"),
                    Element("vendor", {}, text=vendor),
                    Element("releaseType", {}, text="extension"),
                    Element("vibList", {}, vibs),
                ],
            ),
        ],
    )


def _index(vendor: str) -> Element:
    content = [
        Element("name", {}, text="VMware ESX"),
        Element("type", {}, text="http://www.vmware.com/depotmanagement/esx"),
    ]
    return Element(
        "vendorList",
        {},
        [
            Element(
                "vendor",
                {},
                [
                    Element("name", {}, text=vendor),
                    Element("code", {}, text=_slug(vendor)),
                    Element("indexfile", {}, text="vendor-index.xml"),
                    Element("relativePath", {}),
                    Element("content", {}, content),
                ],
            )
        ],
    )


def _vendor_index() -> Element:
    texts = {
        "productId": _PRODUCT,
        "version": _VERSION,
        "locale": "",
        "url": "metadata.zip",
    }
    leaves = [Element(tag, {}, text=text) for tag, text in texts.items()]
    return Element("metaList", {}, [Element("metadata", {}, leaves)])


def _pack(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in sorted(files.items()):
            entry = zipfile.ZipInfo(name, _ZIP_DATE)
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, data)
    return buffer.getvalue()


def _slug(text: str) -> str:
    return _UNSAFE.sub("-", text)


def _bad(code: str, reason: str, component: str = "") -> FormatError:
    return FormatError(reason, code=code, component=component)
