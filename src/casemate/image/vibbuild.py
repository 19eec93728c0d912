"""Builds a VIB from a directory and a short TOML file, and signs it: what a driver vendor needs.

The TOML names what a descriptor says; everything but name, version, vendor and summary has a
default::

    name = "acme-net"
    version = "1.0.0-1"
    vendor = "ACM"
    summary = "Network driver for ACME cards"
    description = ""
    level = "partner"                     # certified, accepted, partner or community (default)
    release-date = 2026-11-01T00:00:00Z   # default: SOURCE_DATE_EPOCH, else it must stand here
    depends = ["casemate-kernel >= 0.1"]  # also: conflicts, replaces, provides
    tags = ["driver", "module"]
    live-install = true                   # also: live-remove, overlay, stateless-ready,
                                          # maintenance-install, maintenance-remove
    payload = "acmenet"                   # name of the payload: at most 8 letters and digits
    type = "erofs"                        # or "tgz"

    [urls]
    kb = "https://example.org/acme-net"

Same directory, same TOML: same bytes.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from casemate.errors import ArgumentError, FormatError, HostError
from casemate.formats.cms import (
    KeyElsewhere,
    PrivateKey,
    sign_detached,
    verify_detached,
    with_time_stamp,
)
from casemate.formats.compressed import gzip
from casemate.formats.descriptor import (
    Checksum,
    Constraint,
    Descriptor,
    PayloadInfo,
    Url,
    write_descriptor,
)
from casemate.formats.tarball import EntryKind, TarEntry
from casemate.formats.tarwrite import write_tar
from casemate.formats.timestamp import token_of, write_query
from casemate.formats.vib import parse_vib, write_vib
from casemate.image.erofs import write_erofs
from casemate.image.tree import PROGRAM_MODE, File, Folder, Link, Node, by_path
from casemate.policy.levels import Level
from casemate.policy.vibpaths import check_places

MAX_RECIPE: Final = 256 << 10
"""Bytes of the TOML file."""

_CONSTRAINT: Final = re.compile(r"(\S+)(?:\s*(<<|<=|=|>=|>>)\s*(\S+))?")
_RELATIONSHIPS: Final = ("depends", "conflicts", "replaces", "provides")
_SWITCHES: Final = {
    "live-install": "live_install_allowed",
    "live-remove": "live_remove_allowed",
    "overlay": "overlay",
    "stateless-ready": "stateless_ready",
    "maintenance-install": "install_needs_maintenance",
    "maintenance-remove": "remove_needs_maintenance",
}
_TEXTS: Final = ("name", "version", "vendor", "summary")
_KNOWN: Final = frozenset(
    {*_TEXTS, *_RELATIONSHIPS, *_SWITCHES}
    | {"description", "level", "release-date", "tags", "payload", "type", "urls"}
)


def build_vib(root: Path, recipe: bytes, *, released: datetime | None, scratch: Path) -> bytes:
    """Return an unsigned VIB whose one payload holds a directory.

    Args:
        root: the directory; its content appears at the root of a booted host.
        recipe: the TOML file's bytes.
        released: release date where the TOML gives none, aware.
        scratch: directory for temporary files.

    Raises:
        ArgumentError: the TOML is wrong, and where.
        FormatError: a value does not fit a descriptor.
        AcceptanceError: a file lies where the level may not write.
        HostError: the directory cannot be read, or mkfs.erofs is missing.
    """
    facts = _facts(recipe)
    name, kind = _payload_name(facts), str(facts.get("type", "erofs"))
    nodes = by_path(_nodes(root))
    match kind:
        case "erofs":
            with tempfile.TemporaryDirectory(dir=scratch) as temporary:
                image = Path(temporary, "payload")
                files = write_erofs(
                    str(facts["name"]), nodes, image, compiled=False, scratch=scratch
                )
                data = image.read_bytes()
            checksums: tuple[Checksum, ...] = ()
        case "tgz":
            archive = write_tar(_entries(nodes))
            data, files = gzip(archive), tuple(p for p, n in nodes.items() if _is_file(n))
            checksums = (Checksum("sha-256", hashlib.sha256(archive).digest(), "gunzip"),)
        case _:
            raise _wrong("type", f"{kind!r} is neither erofs nor tgz")
    announced = PayloadInfo(
        name, kind, len(data), (Checksum("sha-256", hashlib.sha256(data).digest()), *checksums)
    )
    descriptor = _descriptor(facts, announced, files, released)
    check_places(files, Level(descriptor.acceptance_level), descriptor.vib_id)
    return write_vib(write_descriptor(descriptor), b"", [(name, data)])


def sign_vib(
    data: bytes,
    certificates: bytes,
    key: bytes,
    *,
    now: datetime,
    password: bytes | None = None,
) -> bytes:
    """Return the VIB with a signature; one that was there is replaced.

    Args:
        data: the VIB.
        certificates: PEM: the signer's first, then those between it and the trust anchor.
        key: private key, PEM.
        now: signing time, aware.
        password: of the key, when it is encrypted.

    Raises:
        FormatError: VIB, certificate or key cannot be read.
        SignatureError: the key is weak or not the certificate's.
    """
    try:
        loaded = serialization.load_pem_private_key(key, password)
    except (ValueError, TypeError) as error:
        raise FormatError(
            f"The private key cannot be read: {error}.",
            code="private-key",
            remedy="Give an RSA or EC private key as PEM, and its password if it has one.",
        ) from error
    if not isinstance(loaded, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise FormatError(
            "The private key is neither RSA nor EC.",
            code="private-key",
            remedy="Sign with RSA of 2048 bits or more, or with a NIST curve.",
        )
    return sign_with_key(data, certificates, loaded, now=now)


def sign_with_key(
    data: bytes, certificates: bytes, key: PrivateKey | KeyElsewhere, *, now: datetime
) -> bytes:
    """As ``sign_vib``, with a key that is loaded already, or lies in a token."""
    try:
        signer, *chain = x509.load_pem_x509_certificates(certificates)
    except ValueError as error:
        raise FormatError(
            "The certificate file holds no PEM certificate.",
            code="certificate",
            remedy="Give the signer's certificate, then its issuers, as PEM.",
        ) from error
    vib = parse_vib(data)
    signature = sign_detached(vib.descriptor_bytes, signer, key, chain, signing_time=now)
    return write_vib(vib.descriptor_bytes, signature, vib.payloads.items())


def sign_with(data: bytes, signature: bytes) -> bytes:
    """Return the VIB with a signature that was made elsewhere, such as in an HSM.

    Args:
        data: the VIB.
        signature: detached CMS over the exact descriptor, PEM or DER, with the certificates.

    Raises:
        FormatError: the VIB cannot be read.
        SignatureError: the signature is not over this VIB's descriptor.
    """
    vib = parse_vib(data)
    verify_detached(signature, vib.descriptor_bytes, component=vib.descriptor.vib_id)
    return write_vib(vib.descriptor_bytes, signature, vib.payloads.items())


def stamp_query(data: bytes) -> bytes:
    """Return the request (RFC 3161, DER) to stamp a VIB's signature.

    Raises:
        FormatError: the VIB cannot be read.
        SignatureError: it is not signed, or its signature does not fit.
    """
    vib = parse_vib(data)
    signed = verify_detached(vib.signature, vib.descriptor_bytes, component=vib.descriptor.vib_id)
    return write_query(signed.signature)


def stamp_vib(data: bytes, reply: bytes) -> bytes:
    """Return the VIB with an authority's time stamp; one that was there is replaced.

    Args:
        data: the signed VIB.
        reply: the authority's reply to ``stamp_query``, or its token alone, DER.

    Raises:
        FormatError: VIB or reply cannot be read, or the authority refused.
        SignatureError: the time stamp is for another signature.
    """
    vib = parse_vib(data)
    component = vib.descriptor.vib_id
    signature = with_time_stamp(
        vib.signature, token_of(reply, component=component), component=component
    )
    return write_vib(vib.descriptor_bytes, signature, vib.payloads.items())


def _facts(recipe: bytes) -> dict[str, object]:
    if len(recipe) > MAX_RECIPE:
        raise ArgumentError(f"The TOML has more than {MAX_RECIPE} bytes.", argument="toml")
    try:
        facts = tomllib.loads(recipe.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ArgumentError(f"The TOML cannot be read: {error}.", argument="toml") from error
    if unknown := sorted(facts.keys() - _KNOWN):
        raise _wrong(unknown[0], "it is not a key of a VIB's TOML")
    for key in _TEXTS:
        if not isinstance(facts.get(key), str):
            raise _wrong(key, "it must be given, as text")
    return facts


def _descriptor(
    facts: Mapping[str, object],
    payload: PayloadInfo,
    files: tuple[str, ...],
    released: datetime | None,
) -> Descriptor:
    date = facts.get("release-date", released)
    if not isinstance(date, datetime):
        raise _wrong("release-date", "it must be given, as a date with time")
    level = str(facts.get("level", "community"))
    if level not in set(Level):
        raise _wrong("level", f"{level!r} is no acceptance level")
    urls = facts.get("urls", {})
    if not isinstance(urls, dict):
        raise _wrong("urls", "it must be a table")
    more: dict[str, Any] = {
        **{key: _constraints(facts, key) for key in _RELATIONSHIPS},
        **{field: _switch(facts, key) for key, field in _SWITCHES.items()},
    }
    return Descriptor(
        name=str(facts["name"]),
        version=str(facts["version"]),
        vendor=str(facts["vendor"]),
        summary=str(facts["summary"]),
        description=str(facts.get("description", "")),
        release_date=date if date.tzinfo else date.replace(tzinfo=UTC),
        urls=tuple(Url(str(key), str(href)) for key, href in sorted(urls.items())),
        tags=_texts(facts, "tags"),
        files=files,
        acceptance_level=level,
        payloads=(payload,),
        **more,
    )


def _constraints(facts: Mapping[str, object], key: str) -> tuple[Constraint, ...]:
    found = []
    for text in _texts(facts, key):
        match = _CONSTRAINT.fullmatch(text.strip())
        if match is None:
            raise _wrong(key, f"{text[:64]!r} is not 'name' or 'name >= version'")
        found.append(Constraint(match[1], match[2] or "", match[3] or ""))
    return tuple(found)


def _texts(facts: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = facts.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise _wrong(key, "it must be a list of texts")
    return tuple(value)


def _switch(facts: Mapping[str, object], key: str) -> bool:
    value = facts.get(key, False)
    if not isinstance(value, bool):
        raise _wrong(key, "it must be true or false")
    return value


def _payload_name(facts: Mapping[str, object]) -> str:
    plain = re.sub(r"[^0-9A-Za-z]", "", str(facts["name"])).lower()[:8]
    name = facts.get("payload", plain)
    if not isinstance(name, str) or not re.fullmatch(r"[0-9A-Za-z_]{1,8}", name, re.ASCII):
        raise _wrong("payload", "a payload's name has 1 to 8 letters, digits and '_'")
    return name


def _nodes(root: Path) -> Iterator[Node]:
    if not root.is_dir():
        raise HostError(
            f"{root} is not a directory.",
            code="unreadable",
            component=str(root),
            remedy="Name the directory whose content the VIB shall bring.",
        )
    for place in sorted(root.rglob("*")):
        path = str(place.relative_to(root))
        if place.is_symlink():
            yield Link(path, str(place.readlink()))
        elif place.is_file():
            yield File(path, place, executable=bool(place.stat().st_mode & 0o100))
        elif not place.is_dir():
            raise HostError(
                f"{place} is neither file, link nor directory: no VIB can bring it.",
                code="unreadable",
                component=path,
                remedy="Remove it.",
            )
        elif not any(place.iterdir()):
            yield Folder(path)


def _entries(nodes: Mapping[str, Node]) -> Iterator[TarEntry]:
    for path, node in nodes.items():
        match node:
            case Folder():
                yield TarEntry(path, EntryKind.DIRECTORY, mode=PROGRAM_MODE)
            case Link():
                yield TarEntry(path, EntryKind.SYMLINK, mode=0o777, target=node.target)
            case File():
                yield TarEntry(path, data=node.read(), mode=0o555 if node.executable else 0o444)


def _is_file(node: Node) -> bool:
    return not isinstance(node, Folder)


def _wrong(key: str, why: str) -> ArgumentError:
    error = ArgumentError(f"In the TOML, {key!r}: {why}.", argument=key, component=key)
    error.remedy = "Correct the TOML; casemate vib build --help says what it may hold."
    return error
