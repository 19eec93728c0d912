"""``casemate vib build``, ``sign``, ``stamp`` and ``bundle``: what a provider of VIBs needs."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from casemate.cli.trust import add_common
from casemate.errors import ArgumentError, HostError
from casemate.formats.depot import write_depot
from casemate.formats.imgdb import ImageProfile
from casemate.formats.vib import Vib, parse_vib
from casemate.image.pkcs11 import token_key
from casemate.image.pki import load_signer
from casemate.image.vibbuild import (
    build_vib,
    sign_vib,
    sign_with,
    sign_with_key,
    stamp_query,
    stamp_vib,
)
from casemate.kernel.files import write_file
from casemate.kernel.home import find_home
from casemate.policy.levels import Level


def register(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to those of ``casemate vib``."""
    build = actions.add_parser("build", help="make an unsigned VIB of a directory")
    build.add_argument("directory", type=Path, help="what the VIB brings, as seen from /")
    build.add_argument("--toml", type=Path, required=True, help="name, version, level and so on")
    build.add_argument("--out", type=Path, help="file to write (default: NAME-VERSION.vib)")
    build.set_defaults(func=_build)
    sign = actions.add_parser("sign", help="sign a VIB (default: with this home's own key)")
    sign.add_argument("file", type=Path, help="the VIB")
    sign.add_argument("--key", type=Path, help="private key, PEM")
    sign.add_argument("--cert", type=Path, help="the signer's certificate and its issuers, PEM")
    sign.add_argument("--external", type=Path, help="a detached CMS signature made elsewhere")
    sign.add_argument("--export", type=Path, help="write what is to be signed elsewhere, and end")
    sign.add_argument(
        "--pkcs11", metavar="MODULE", type=Path, help="library of a PKCS #11 token to sign with"
    )
    sign.add_argument("--token", help="label of the token")
    sign.add_argument("--key-label", help="label of the key in it")
    sign.add_argument("--pin-file", type=Path, help="file with the PIN (default: ask for it)")
    sign.add_argument("--out", type=Path, help="file to write (default: the VIB itself)")
    sign.set_defaults(func=_sign)
    stamp = actions.add_parser("stamp", help="have a time stamp authority prove when it was signed")
    stamp.add_argument("file", type=Path, help="the signed VIB")
    way = stamp.add_mutually_exclusive_group(required=True)
    way.add_argument("--query", type=Path, help="write what an authority is to be asked, and end")
    way.add_argument("--reply", type=Path, help="the authority's reply, or its token alone")
    stamp.add_argument("--out", type=Path, help="file to write (default: the VIB itself)")
    stamp.set_defaults(func=_stamp)
    bundle = actions.add_parser("bundle", help="put VIBs into an offline bundle")
    bundle.add_argument("out", type=Path, help="zip file to write")
    bundle.add_argument("files", type=Path, nargs="+", help="the VIBs")
    bundle.add_argument("--vendor", required=True, help="who publishes the bundle")
    bundle.add_argument("--profile", help="name of an image profile of just these VIBs")
    bundle.set_defaults(func=_bundle)
    for action in (build, sign, stamp, bundle):
        add_common(action)


def _build(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="casemate-vib-") as scratch:
        data = build_vib(
            options.directory,
            _read(options.toml),
            released=_released(),
            scratch=Path(scratch),
        )
    vib = parse_vib(data)
    name = f"{vib.descriptor.name}-{vib.descriptor.version}.vib"
    return _write(options.out or Path(name), data, vib, as_json=options.json)


def _sign(options: argparse.Namespace) -> int:
    data = _read(options.file)
    vib = parse_vib(data, component=options.file.name)
    if options.export is not None:
        return _write(options.export, vib.descriptor_bytes, vib, as_json=options.json)
    if options.external is not None:
        signed = sign_with(data, _read(options.external))
    elif options.pkcs11 is not None:
        signed = _sign_in_token(data, options)
    elif options.key is not None and options.cert is not None:
        signed = sign_vib(data, _read(options.cert), _read(options.key), now=datetime.now(UTC))
    elif options.key is None and options.cert is None:
        signed = _sign_here(data, vib, options.home if "home" in options else None)
    else:
        raise ArgumentError("--key and --cert belong together.", argument="key")
    return _write(options.out or options.file, signed, parse_vib(signed), as_json=options.json)


def _stamp(options: argparse.Namespace) -> int:
    data = _read(options.file)
    if options.query is not None:
        return _write(options.query, stamp_query(data), parse_vib(data), as_json=options.json)
    stamped = stamp_vib(data, _read(options.reply))
    return _write(options.out or options.file, stamped, parse_vib(stamped), as_json=options.json)


def _bundle(options: argparse.Namespace) -> int:
    files = [_read(path) for path in options.files]
    vibs = [
        parse_vib(data, component=path.name)
        for data, path in zip(files, options.files, strict=True)
    ]
    ids = tuple(vib.descriptor.vib_id for vib in vibs)
    profiles = []
    if options.profile is not None:
        loosest = min(
            (Level(vib.descriptor.acceptance_level) for vib in vibs), key=lambda one: one.rank
        )
        profiles.append(ImageProfile(options.profile, options.vendor, loosest, _released(), ids))
    data = write_depot(files, profiles, vendor=options.vendor)
    try:
        write_file(options.out, data)
    except OSError as error:
        raise _unusable(options.out, "written", error) from error
    if options.json:
        print(json.dumps({"file": str(options.out), "vibs": list(ids)}))
    else:
        print(f"{len(ids)} VIBs: {options.out}")
    return 0


def _sign_here(data: bytes, vib: Vib, home: str | None) -> bytes:
    """Sign with the home's development key of the level that the VIB claims."""
    signer = load_signer(find_home(home).path, Level(vib.descriptor.acceptance_level))
    chain = b"".join(
        one.public_bytes(serialization.Encoding.PEM) for one in (signer.certificate, *signer.chain)
    )
    key = signer.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return sign_vib(data, chain, key, now=datetime.now(UTC))


def _sign_in_token(data: bytes, options: argparse.Namespace) -> bytes:
    """Sign with a key in a token; the PIN comes from a file or is asked for, never as argument."""
    if not options.token or not options.key_label:
        raise ArgumentError("--pkcs11 needs --token and --key-label.", argument="token")
    if options.pin_file is not None:
        pin = _read(options.pin_file).decode("utf-8", "replace").strip()
    else:
        pin = getpass.getpass(f"PIN of {options.token}: ")
    with token_key(options.pkcs11, options.token, options.key_label, pin) as key:
        certificates = key.certificate() if options.cert is None else _read(options.cert)
        return sign_with_key(data, certificates, key, now=datetime.now(UTC))


def _released() -> datetime:
    """Return SOURCE_DATE_EPOCH, else the present: who wants the same bytes twice says when."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if text.isascii() and text.isdecimal():
        return datetime.fromtimestamp(int(text), UTC)
    return datetime.now(UTC).replace(microsecond=0)


def _write(path: Path, data: bytes, vib: Vib, *, as_json: bool) -> int:
    try:
        write_file(path, data)
    except OSError as error:
        raise _unusable(path, "written", error) from error
    if as_json:
        facts = {"file": str(path), "id": vib.descriptor.vib_id, "signed": bool(vib.signature)}
        print(json.dumps(facts))
    else:
        state = "signed" if vib.signature else "unsigned"
        print(f"{vib.descriptor.vib_id} ({vib.descriptor.acceptance_level}, {state}): {path}")
    return 0


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unusable(path, "read", error) from error


def _unusable(path: Path, what: str, error: OSError) -> HostError:
    return HostError(
        f"{path} cannot be {what}: {error.strerror}.",
        code="unreadable",
        component=str(path),
        remedy="Check the file's name and its permissions.",
    )
