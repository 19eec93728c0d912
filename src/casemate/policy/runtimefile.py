"""The file of a runtime policy: accepted digests and keys, as JSON, signed like a policy.

::

    {"format": "casemate-runtime-1", "version": 4,
     "digests": {"/usr/bin/x": ["sha256:<hex>", ...], ...},
     "keys": ["<PEM certificate or public key>", ...]}

A buffer or key ring has its name where a file has its path. What is left out, and what is asked of
violations and kernels, is in the policy language (``policy.language``).
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Mapping
from typing import Final, NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from casemate.errors import FormatError, LimitError
from casemate.formats.algorithms import ALGORITHMS
from casemate.formats.certificates import load_certificate
from casemate.formats.imasign import as_keyring_key
from casemate.policy.ima import RuntimePolicy, TrustedKey
from casemate.policy.language import Policy
from casemate.policy.paths import compile_paths
from casemate.policy.trust import subject_of

FORMAT: Final = "casemate-runtime-1"
MAX_SIZE: Final = 64 << 20
"""Bytes: half a million digests."""
MAX_KEYS: Final = 256
_KINDS: Final = frozenset({"ima", "verity"})
_WEAK: Final = frozenset({"sha1"})


def parse_runtime(data: bytes, policy: Policy | None = None) -> RuntimePolicy:
    """Read a runtime policy without its signature.

    Args:
        data: the JSON text.
        policy: the host policy whose settings apply.

    Raises:
        FormatError: ``runtime-malformed``, ``runtime-empty`` (it knows no file and no key, or has
            an empty list), ``runtime-weak`` (SHA-1), ``ima-keyring``, ``certificate``.
        LimitError: larger than any.
    """
    if len(data) > MAX_SIZE:
        raise LimitError(f"a runtime policy of {len(data)} bytes")
    try:
        body = json.loads(data, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise FormatError(
            f"runtime policy: not JSON: {type(error).__name__}", code="runtime-malformed"
        ) from error
    if not isinstance(body, dict) or set(body) != {"format", "version", "digests", "keys"}:
        _bad("expected format, version, digests and keys")
    version, digests, keys = body["version"], body["digests"], body["keys"]
    if body["format"] != FORMAT or type(version) is not int or version < 0:
        _bad("it is of another format, or has no version")
    if not isinstance(digests, dict) or not isinstance(keys, list) or len(keys) > MAX_KEYS:
        _bad("digests is no object, or keys is no list")
    if not digests and not keys:
        _bad("it knows no file and no key", "runtime-empty")
    return RuntimePolicy(
        version,
        _digests(digests),
        compile_paths(policy.runtime_excludes if policy else ()),
        tuple(map(_key, keys)),
        policy.reject_violations if policy else False,
        policy.old_kernel if policy else False,
    )


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("doubled name")
    return result


def _bad(reason: str, code: str = "runtime-malformed") -> NoReturn:
    raise FormatError(
        f"runtime policy: {reason}",
        code=code,
        component="runtime policy",
        remedy="Write it again from the files of the image.",
    )


def _digests(table: Mapping[str, object]) -> dict[bytes, frozenset[bytes]]:
    result: dict[bytes, frozenset[bytes]] = {}
    for path, values in table.items():
        if not isinstance(values, list) or not path:
            _bad("a path without a list of digests")
        if not values:
            _bad(f"{path[:100]!r} has an empty list of digests", "runtime-empty")
        name = path.encode("utf-8", "surrogateescape")
        result[name] = frozenset(_digest(path, value) for value in values)
    return result


def _digest(path: str, value: object) -> bytes:
    if not isinstance(value, str):
        _bad(f"{path[:100]!r} has a digest that is no text")
    label, _, digits = value.rpartition(":")
    kind, _, algorithm = label.rpartition(":")
    if algorithm in _WEAK:
        _bad(f"{path[:100]!r} has a digest that can be forged", "runtime-weak")
    if algorithm not in ALGORITHMS or (kind and kind not in _KINDS):
        _bad(f"{path[:100]!r} has a digest of an unknown algorithm")
    try:
        raw = bytes.fromhex(digits)
    except ValueError:
        raw = b""
    if len(raw) != ALGORITHMS[algorithm].size:
        _bad(f"{path[:100]!r} has a digest of the wrong size")
    return label.encode("ascii") + b":\0" + raw


def _key(value: object) -> TrustedKey:
    if not isinstance(value, str) or not value.isascii():
        _bad("a key that is no PEM text")
    raw = value.encode("ascii")
    try:
        if "BEGIN CERTIFICATE" in value:
            der = _pem(value)
            certificate = load_certificate(der, component="runtime policy")
            key = as_keyring_key(certificate.public_key())
            return TrustedKey(subject_of(certificate), key, certificate.not_valid_after_utc)
        return TrustedKey("a bare key", as_keyring_key(serialization.load_pem_public_key(raw)))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise FormatError(f"runtime policy: a key: {error}", code="ima-keyring") from error


def _pem(text: str) -> bytes:
    lines = [line.strip() for line in text.strip().splitlines()]
    return binascii.a2b_base64("".join(lines[1:-1]), strict_mode=True)
