"""Signed permissions to break a hardening rule: one JSON file, its CMS signature beside the body.

    {"policy":{"format":"casemate-hardening-1","waivers":[{"path","rule","reason"}]},"signature":PEM}

What is signed (detached CMS) are the exact bytes of the inner object as they stand in the file,
as in a reference manifest. Whoever may sign a reference may sign a waiver: both vouch for every
component. Each waiver in force is measured like a trust anchor, as a security option whose text
names rule, file and reason, so no verifier can overlook one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from casemate.errors import AcceptanceError, CasemateError, Finding, FormatError, SignatureError
from casemate.formats.cms import verify_detached
from casemate.formats.text import escape
from casemate.policy.hardening import Waiver
from casemate.policy.levels import Level
from casemate.policy.trust import TrustStore, verify_signer

FORMAT: Final = "casemate-hardening-1"
WAIVER_LEVEL: Final = Level.CERTIFIED
MAX_SIZE: Final = 1 << 18
"""Bytes of a policy: a waiver takes some 200."""
MAX_WAIVERS: Final = 256
PLACE: Final = "hardening"
"""Directory below ``trust/`` with the policies, ``*.json``."""
OPTION: Final = "hardeningWaiver"
"""The security option that names a waiver in force."""

_HEAD: Final = b'{"policy":'
_MIDDLE: Final = b',"signature":'
_TAIL: Final = b"}\n"
_NAMES: Final = frozenset({"path", "rule", "reason"})


def write_body(waivers: Iterable[Waiver]) -> bytes:
    """Return the bytes that are to be signed."""
    rows = [{"path": w.path, "rule": w.rule, "reason": w.reason} for w in waivers]
    body = {"format": FORMAT, "waivers": sorted(rows, key=lambda row: (row["path"], row["rule"]))}
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def write_policy(body: bytes, signature: bytes) -> bytes:
    """Join a body and its signature (PEM) to a file."""
    return _HEAD + body + _MIDDLE + json.dumps(signature.decode("ascii")).encode() + _TAIL


def read_policy(
    data: bytes, trust: TrustStore, now: datetime, *, component: str = "policy"
) -> tuple[Waiver, ...]:
    """Verify a policy and return its waivers.

    Args:
        data: the file.
        trust: anchors; the signer must be one that may sign certified components.
        now: for the validity of the signer.
        component: the file's name, for errors.

    Raises:
        FormatError: it is not a policy, or is ambiguous (``policy-malformed``).
        SignatureError: unsigned, changed, or by somebody who may not waive.
    """
    body, signature = _split(data, component)
    if not signature:
        raise SignatureError("It is not signed.", code="policy-unsigned", component=component)
    signed = verify_detached(signature, body, component=component)
    try:
        verify_signer(signed, WAIVER_LEVEL, trust, now, component=component)
    except AcceptanceError as error:
        raise SignatureError(
            "Its signer may sign components of a lower level, but no waivers.",
            code="signer-untrusted",
            component=component,
            remedy=f"Sign it with a key of the level {WAIVER_LEVEL}.",
        ) from error
    return _waivers(body, component)


def read_policies(
    files: Iterable[tuple[str, bytes]], trust: TrustStore, now: datetime
) -> tuple[Waiver, ...]:
    """Return the waivers of all policies (name, content), each once, by path and rule.

    Raises as ``read_policy``: a policy that cannot be trusted is never passed over.
    """
    found = {
        waiver for name, data in files for waiver in read_policy(data, trust, now, component=name)
    }
    return tuple(sorted(found, key=lambda waiver: (waiver.path, waiver.rule, waiver.reason)))


def option_text(waiver: Waiver) -> str:
    """Return a waiver as the security option that is measured."""
    return f"{OPTION} = {waiver.rule} {waiver.path}: {waiver.reason}"


def option_finding(text: str) -> Finding | None:
    """Return what a verifier is told of a measured security option that is a waiver."""
    name, separator, value = text.partition(" = ")
    if name != OPTION or not separator:
        return None
    rule, _, rest = value.partition(" ")
    path, _, reason = rest.partition(": ")
    return Finding(
        "hardening-waived",
        escape(path),
        f"The signed policy lets it break the hardening rule {escape(rule)!r}: {escape(reason)}",
        "Replace the component by one that keeps the rule, then remove the waiver.",
    )


def _split(data: bytes, component: str) -> tuple[bytes, bytes]:
    if len(data) > MAX_SIZE:
        raise _bad(f"It has more than {MAX_SIZE} bytes.", component)
    middle = data.rfind(_MIDDLE)
    if not (data.startswith(_HEAD) and data.endswith(_TAIL) and middle > 0):
        raise _bad("It is not a policy with a signature.", component)
    try:
        signature = json.loads(data[middle + len(_MIDDLE) : -len(_TAIL)])
    except (ValueError, RecursionError) as error:
        raise _bad("Its signature is not a string.", component) from error
    if not isinstance(signature, str) or not signature.isascii():
        raise _bad("Its signature is not PEM.", component)
    return data[len(_HEAD) : middle], signature.encode()


def _waivers(body: bytes, component: str) -> tuple[Waiver, ...]:
    try:
        value = json.loads(body, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _bad("Its body is not JSON with unique names.", component) from error
    if not isinstance(value, dict) or set(value) != {"format", "waivers"}:
        raise _bad("Its body has other fields than format and waivers.", component)
    rows = value["waivers"]
    if value["format"] != FORMAT or not isinstance(rows, list) or len(rows) > MAX_WAIVERS:
        raise _bad(f"It is not of format {FORMAT} with at most {MAX_WAIVERS} waivers.", component)
    found = []
    for row in rows:
        if not isinstance(row, dict) or set(row) != _NAMES:
            raise _bad("A waiver has other fields than path, rule and reason.", component)
        if not all(isinstance(text, str) and text.isprintable() for text in row.values()):
            raise _bad("A waiver's fields are not printable strings.", component)
        try:
            found.append(Waiver(**row))
        except CasemateError as error:
            raise _bad(error.reason, component) from error
    return tuple(found)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _bad(reason: str, component: str) -> FormatError:
    return FormatError(reason, code="policy-malformed", component=component)
