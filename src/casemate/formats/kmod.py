r"""The signature that a Linux module carries at its end.

    content | PKCS #7 (DER) | struct module_signature (12 bytes) | "~Module signature appended~\n"

Source: Linux, include/linux/module_signature.h and scripts/sign-file.c. Only signatures of the type
PKCS #7 exist since Linux 4.3; their other fields must be zero.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from casemate.errors import FormatError, LimitError
from casemate.formats.cms_checks import MAX_SIGNATURE

MARK: Final = b"~Module signature appended~\n"
_FOOT: Final = struct.Struct(">BBBBB3xI")
_PKCS7: Final = 2


@dataclass(frozen=True, slots=True)
class SignedModule:
    """A module: what is signed, and its signature (DER), empty when there is none."""

    content: memoryview
    signature: bytes


def split_module(data: bytes | memoryview, *, component: str = "") -> SignedModule:
    """Take a module and its signature apart.

    Raises:
        FormatError: The mark is there, but no signature fits before it (``module-signature``).
        LimitError: The signature is larger than any real one.
    """
    view = memoryview(data).cast("B").toreadonly()
    if bytes(view[-len(MARK) :]) != MARK:
        return SignedModule(view, b"")
    body = view[: -len(MARK)]
    if len(body) < _FOOT.size:
        raise _bad("it ends before the signature's description", component)
    algorithm, digest, kind, signer_length, key_length, size = _FOOT.unpack(body[-_FOOT.size :])
    reserved = bytes(body[-_FOOT.size + 5 : -_FOOT.size + 8])
    body = body[: -_FOOT.size]
    if kind != _PKCS7 or algorithm or digest or signer_length or key_length or any(reserved):
        raise _bad("its signature is not of the type PKCS #7", component)
    if size > MAX_SIGNATURE:
        raise LimitError(
            f"The signature has more than {MAX_SIGNATURE} bytes.",
            code="module-signature",
            component=component,
        )
    if not 0 < size <= len(body):
        raise _bad("its signature is longer than the file, or empty", component)
    return SignedModule(body[:-size], bytes(body[-size:]))


def join_module(content: bytes, signature: bytes) -> bytes:
    """Return the module with the signature appended."""
    return content + signature + _FOOT.pack(0, 0, _PKCS7, 0, 0, len(signature)) + MARK


def _bad(why: str, component: str) -> FormatError:
    return FormatError(
        f"The module's signature cannot be read: {why}.",
        code="module-signature",
        component=component,
    )
