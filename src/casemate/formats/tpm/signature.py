"""TPMT_SIGNATURE, and the check of a signature over TPM-made bytes.

TPM 2.0 Library part 2, section 11.3. All integers are big-endian.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from casemate.errors import SignatureError
from casemate.formats.reader import Reader
from casemate.formats.tpm import ids
from casemate.formats.tpm.public import EccKey, Public, RsaKey

_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature: scheme (``rsassa``, ``rsapss``, ``ecdsa``), hash, and its numbers.

    ``values`` holds one big-endian number for RSA, and r and s for ECDSA.
    """

    scheme: str
    hash: str
    values: tuple[bytes, ...]


def parse_signature(data: bytes | memoryview) -> Signature:
    """Read exactly one TPMT_SIGNATURE (RSASSA, RSAPSS or ECDSA).

    Raises:
        FormatError: anything else.
    """
    reader = Reader(data, "TPMT_SIGNATURE")
    scheme = ids.read_named(reader, ids.SCHEMES, "signature scheme")
    if scheme not in {"rsassa", "rsapss", "ecdsa"}:
        raise reader.error(f"{scheme} is no signature scheme for quotes")
    hash_name = ids.read_hash(reader)
    count = 2 if scheme == "ecdsa" else 1
    values = tuple(reader.tpm2b(ids.MAX_KEY) for _ in range(count))
    reader.end()
    return Signature(scheme, hash_name, values)


def write_signature(signature: Signature) -> bytes:
    """Return the TPMT_SIGNATURE's bytes."""
    head = ids.SCHEME_IDS[signature.scheme].to_bytes(2, "big") + ids.hash_id(signature.hash)
    return head + b"".join(map(ids.tpm2b, signature.values))


def verify_quote_signature(public: Public, attest: bytes, signature: Signature) -> None:
    """Check that ``public`` signed exactly the bytes ``attest``.

    Raises:
        SignatureError: ``weak-alg`` (SHA-1 or an unusual hash), ``alg-mismatch`` (not the key's
            kind or fixed scheme), ``signature-invalid``.
        FormatError, AppraisalError: the key itself is unusable, as ``Public.crypto_key`` says.
    """
    algorithm = _HASHES.get(signature.hash)
    if algorithm is None:
        raise SignatureError(
            f"the signature relies on {signature.hash}",
            code="weak-alg",
            remedy="Make an attestation key with SHA-256 or SHA-384.",
        )
    key_is_ecc = isinstance(public.key, EccKey)
    fixed = public.scheme
    if key_is_ecc != (signature.scheme == "ecdsa") or (
        fixed is not None and (fixed.name, fixed.hash) != (signature.scheme, signature.hash)
    ):
        raise SignatureError(
            f"a {signature.scheme}/{signature.hash} signature does not belong to this key",
            code="alg-mismatch",
        )
    key = public.crypto_key()
    try:
        if isinstance(key, rsa.RSAPublicKey):
            _verify_rsa(key, public, attest, signature, algorithm)
        else:
            _verify_ecdsa(key, attest, signature, algorithm)
    except InvalidSignature:
        raise SignatureError("the signature over the attestation data is wrong") from None


def _verify_rsa(
    key: rsa.RSAPublicKey,
    public: Public,
    attest: bytes,
    signature: Signature,
    algorithm: hashes.HashAlgorithm,
) -> None:
    (value,) = signature.values
    if isinstance(public.key, RsaKey) and len(value) != len(public.key.modulus):
        raise SignatureError("the signature has not the size of the key")
    pad: padding.AsymmetricPadding = padding.PKCS1v15()
    if signature.scheme == "rsapss":
        # The salt's size is the TPM's choice: the hash's size or the largest that fits.
        pad = padding.PSS(padding.MGF1(algorithm), padding.PSS.AUTO)
    key.verify(value, attest, pad, algorithm)


def _verify_ecdsa(
    key: ec.EllipticCurvePublicKey,
    attest: bytes,
    signature: Signature,
    algorithm: hashes.HashAlgorithm,
) -> None:
    size = (key.curve.key_size + 7) // 8
    numbers = [int.from_bytes(value, "big") for value in signature.values]
    if any(len(value) > size for value in signature.values) or 0 in numbers:
        raise SignatureError("the signature's numbers are out of range")
    r, s = numbers
    key.verify(encode_dss_signature(r, s), attest, ec.ECDSA(algorithm))
