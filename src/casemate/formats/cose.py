"""COSE_Sign1 (RFC 9052): one signature over a payload, as signed CoRIMs carry it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import cbor2
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from casemate.errors import FormatError, SignatureError
from casemate.formats.cbor import decode_cbor, encode_cbor
from casemate.formats.certificates import load_certificate

TAG_SIGN1: Final = 18
ALGORITHM: Final = 1
CRITICAL: Final = 2
CONTENT_TYPE: Final = 3
KEY_ID: Final = 4
X5CHAIN: Final = 33
MAX_CHAIN: Final = 8
"""Certificates in one header."""
MIN_RSA_BITS: Final = 2048
_PARTS: Final = 4
_ECDSA: Final[Mapping[int, tuple[str, hashes.HashAlgorithm]]] = {
    -7: ("secp256r1", hashes.SHA256()),
    -35: ("secp384r1", hashes.SHA384()),
    -36: ("secp521r1", hashes.SHA512()),
}
_PSS: Final[Mapping[int, hashes.HashAlgorithm]] = {
    -37: hashes.SHA256(),
    -38: hashes.SHA384(),
    -39: hashes.SHA512(),
}
_EDDSA: Final = -8
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class Sign1:
    """A COSE_Sign1; ``protected`` are the signed header's bytes, ``header`` what they say."""

    protected: bytes
    header: Mapping[Any, Any]
    unprotected: Mapping[Any, Any]
    payload: bytes
    signature: bytes

    @property
    def content_type(self) -> str | int | None:
        """What the signed header says the payload is."""
        value = self.header.get(CONTENT_TYPE)
        return value if isinstance(value, str | int) else None

    def certificates(self) -> tuple[x509.Certificate, ...]:
        """Return the certificates of ``x5chain``, the signer's first; unverified.

        Raises:
            FormatError: they cannot be read.
        """
        value = self.header.get(X5CHAIN, self.unprotected.get(X5CHAIN, ()))
        items = (value,) if isinstance(value, bytes) else value
        if not isinstance(items, list | tuple) or len(items) > MAX_CHAIN:
            raise _bad("its certificates are no list")
        if not all(isinstance(item, bytes) for item in items):
            raise _bad("its certificates are no bytes")
        return tuple(load_certificate(item, component="reference") for item in items)


def _bad(reason: str) -> FormatError:
    return FormatError(f"COSE_Sign1: {reason}", code="cose-malformed")


def parse_sign1(data: bytes) -> Sign1:
    """Read a tagged COSE_Sign1 with its payload inside.

    Raises:
        FormatError: ``cose-malformed``, ``cbor-malformed``; also for critical headers, none of
            which we know.
    """
    item = decode_cbor(data, what="COSE_Sign1")
    if not isinstance(item, cbor2.CBORTag) or item.tag != TAG_SIGN1:
        raise _bad("it is not tagged as one")
    parts = item.value
    if not isinstance(parts, list | tuple) or len(parts) != _PARTS:
        raise _bad("it has not four parts")
    protected, unprotected, payload, signature = parts
    if not all(isinstance(one, bytes) for one in (protected, payload, signature)):
        raise _bad("header, payload or signature are no bytes")
    header = decode_cbor(protected, what="COSE header") if protected else {}
    if not isinstance(header, Mapping) or not isinstance(unprotected, Mapping):
        raise _bad("its headers are no maps")
    if CRITICAL in header:
        raise _bad("it has critical headers, which nobody here understands")
    return Sign1(protected, header, unprotected, payload, signature)


def verify_sign1(message: Sign1, key: PublicKey) -> None:
    """Check the signature; the algorithm must be in the signed header and fit the key.

    Raises:
        SignatureError: ``signature-invalid``, ``alg-mismatch``, ``weak-algorithm``.
    """
    algorithm = message.header.get(ALGORITHM)
    if type(algorithm) is not int:
        raise SignatureError("the COSE signature names no algorithm", code="alg-mismatch")
    signed = _to_be_signed(message.protected, message.payload)
    try:
        if isinstance(key, ec.EllipticCurvePublicKey) and algorithm in _ECDSA:
            _verify_ecdsa(key, message.signature, signed, algorithm)
        elif isinstance(key, rsa.RSAPublicKey) and algorithm in _PSS:
            if key.key_size < MIN_RSA_BITS:
                raise SignatureError("an RSA key that is too short", code="weak-algorithm")
            chosen = _PSS[algorithm]
            scheme = padding.PSS(padding.MGF1(chosen), chosen.digest_size)
            key.verify(message.signature, signed, scheme, chosen)
        elif isinstance(key, ed25519.Ed25519PublicKey) and algorithm == _EDDSA:
            key.verify(message.signature, signed)
        else:
            raise SignatureError(
                f"a COSE signature of algorithm {algorithm!r} does not belong to this key",
                code="alg-mismatch",
            )
    except (InvalidSignature, UnsupportedAlgorithm):
        raise SignatureError("the COSE signature is wrong") from None


def _verify_ecdsa(
    key: ec.EllipticCurvePublicKey, signature: bytes, signed: bytes, algorithm: int
) -> None:
    curve, chosen = _ECDSA[algorithm]
    size = (key.curve.key_size + 7) // 8
    if key.curve.name != curve or len(signature) != 2 * size:
        raise SignatureError("the COSE signature is not of this curve", code="alg-mismatch")
    r, s = int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
    key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(chosen))


def _to_be_signed(protected: bytes, payload: bytes) -> bytes:
    """Return the Sig_structure (RFC 9052, section 4.4) without external data."""
    return encode_cbor(["Signature1", protected, b"", payload])


def sign1(
    payload: bytes,
    key: ec.EllipticCurvePrivateKey,
    *,
    content_type: str,
    header: Mapping[int, object] | None = None,
    chain: tuple[bytes, ...] = (),
) -> bytes:
    """Return a signed message (ES256, ES384 or ES512 by the key's curve).

    Args:
        payload: the bytes to sign.
        key: on P-256, P-384 or P-521.
        content_type: what the payload is.
        header: more signed header values.
        chain: certificates (DER), the signer's first, put into the signed header.

    Raises:
        SignatureError: ``weak-algorithm``: another curve.
    """
    algorithm = next((a for a, (name, _) in _ECDSA.items() if name == key.curve.name), None)
    if algorithm is None:
        raise SignatureError(f"no COSE algorithm for {key.curve.name}", code="weak-algorithm")
    values: dict[int, object] = {ALGORITHM: algorithm, CONTENT_TYPE: content_type}
    values |= dict(header or {})
    if chain:
        values[X5CHAIN] = list(chain) if len(chain) > 1 else chain[0]
    protected = encode_cbor(values)
    chosen = _ECDSA[algorithm][1]
    der = key.sign(_to_be_signed(protected, payload), ec.ECDSA(chosen, deterministic_signing=True))
    size = (key.curve.key_size + 7) // 8
    signature = b"".join(number.to_bytes(size, "big") for number in decode_dss_signature(der))
    return encode_cbor(cbor2.CBORTag(TAG_SIGN1, [protected, {}, payload, signature]))
