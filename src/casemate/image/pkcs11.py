"""Signing with a key that never leaves its token: smart cards, HSMs, SoftHSM (PKCS #11).

The library that talks to tokens (python-pkcs11) is only needed where somebody signs that way, so it
is looked for when it is wanted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from casemate.errors import ArgumentError, HostError, NotFoundError, NotSupportedError

_OTHER_WAY: Final = (
    "Install python-pkcs11, or write the descriptor with --export, sign it where the token is "
    "(detached CMS, SHA-256, certificates included), and give the result to --external."
)


class TokenKey:
    """A private key in a token that somebody logged in to."""

    def __init__(self, library: Any, session: Any, label: str) -> None:  # noqa: ANN401 (python-pkcs11 has no types)
        self._library = library
        self._session = session
        self._label = label
        self._key = self._find(library.ObjectClass.PRIVATE_KEY, "private key")
        if self._key.key_type not in (library.KeyType.RSA, library.KeyType.EC):
            raise NotSupportedError(
                f"The key {label} is neither RSA nor EC.",
                code="private-key",
                component=label,
                remedy="Sign with RSA of 2048 bits or more, or with a NIST curve.",
            )

    def certificate(self) -> bytes:
        """Return the certificate (PEM) that lies beside the key. Raises NotFoundError."""
        found = self._find(self._library.ObjectClass.CERTIFICATE, "certificate")
        certificate = x509.load_der_x509_certificate(found[self._library.Attribute.VALUE])
        return certificate.public_bytes(serialization.Encoding.PEM)

    def sign_message(self, message: bytes, digest: str) -> bytes:
        """Return the signature of a message: RSA PKCS #1 v1.5, or ECDSA as DER.

        Raises HostError.
        """
        mechanism = self._library.Mechanism
        try:
            if self._key.key_type == self._library.KeyType.RSA:
                name = f"{digest.upper()}_RSA_PKCS"
                return bytes(self._key.sign(message, mechanism=mechanism[name]))
            hashed = hashlib.new(digest, message).digest()
            raw = bytes(self._key.sign(hashed, mechanism=mechanism.ECDSA))
        except self._library.PKCS11Error as error:
            raise _failed("The token does not sign", error, self._label) from error
        half = len(raw) // 2
        return encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))

    def _find(self, kind: object, what: str) -> Any:  # noqa: ANN401 (python-pkcs11 has no types)
        attribute = self._library.Attribute
        wanted = {attribute.CLASS: kind, attribute.LABEL: self._label}
        found = list(self._session.get_objects(wanted))
        if len(found) != 1:
            raise NotFoundError(
                f"The token has {len(found)} objects of the kind {what} with the label "
                f"{self._label!r}, not one.",
                code="token-object",
                component=self._label,
                remedy="Give the label of one key; give the certificate with --cert.",
            )
        return found[0]


@contextmanager
def token_key(module: Path, token: str, label: str, pin: str) -> Iterator[TokenKey]:
    """Log in to a token and give its key.

    Args:
        module: the PKCS #11 library of the token's maker.
        token: the token's label.
        label: the key's label.
        pin: the user's.

    Raises:
        NotSupportedError: python-pkcs11 is not installed, or the key is of another kind.
        NotFoundError: there is no such token or key.
        ArgumentError: the PIN is wrong.
        HostError: library or token fail.
    """
    try:
        library = import_module("pkcs11")
    except ImportError as error:
        raise NotSupportedError(
            "This installation has no library that talks to PKCS #11 tokens.",
            code="pkcs11",
            component=str(module),
            remedy=_OTHER_WAY,
        ) from error
    exceptions = import_module("pkcs11.exceptions")
    try:
        found = library.lib(str(module)).get_token(token_label=token)
        session = found.open(user_pin=pin)
    except (exceptions.NoSuchToken, exceptions.MultipleTokensReturned) as error:
        raise NotFoundError(
            f"{module.name} knows no token, or several, with the label {token!r}.",
            code="token",
            component=token,
            remedy="Plug it in; the tools of its maker list tokens and their labels.",
        ) from error
    except (exceptions.PinIncorrect, exceptions.PinLenRange, exceptions.PinInvalid) as error:
        raise ArgumentError("The PIN is wrong.", argument="pin-file", component=token) from error
    except (library.PKCS11Error, OSError, RuntimeError) as error:
        raise _failed(f"{module.name} cannot be used", error, token) from error
    with session:
        yield TokenKey(library, session, label)


def _failed(what: str, error: Exception, component: str) -> HostError:
    return HostError(
        f"{what}: {type(error).__name__} {error}".rstrip(),
        code="token-failed",
        component=component,
        remedy="Check the token with the tools of its maker.",
    )
