"""The signature of a file as ``security.ima`` holds it and signed IMA templates show it.

Linux ``security/integrity/integrity.h``, struct signature_v2_hdr: u8 type, u8 version, u8 hash
algorithm, u32 key id, u16 size (big-endian), signature. Version 2 signs the file's digest, version
3 the hash of (type, algorithm, digest), for fs-verity digests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from casemate.errors import FormatError, SignatureError
from casemate.formats.algorithms import digest
from casemate.formats.imafields import Measurement
from casemate.formats.reader import Reader

KeyringKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

DIGEST_SIGNATURE: Final = 3
VERITY_SIGNATURE: Final = 6
_VERSIONS: Final = {DIGEST_SIGNATURE: 2, VERITY_SIGNATURE: 3}
MAX_SIGNATURE: Final = 1024
"""Bytes: RSA of 8192 bits."""
_ALGORITHMS: Final = {2: "sha1", 4: "sha256", 5: "sha384", 6: "sha512"}
"""Linux ``hash_algo`` numbers of what is ever used."""
_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}


@dataclass(frozen=True, slots=True)
class FileSignature:
    """A parsed signature; ``key_id`` is 4 bytes."""

    type: int
    algorithm: str
    key_id: bytes
    value: bytes


def parse_file_signature(data: bytes) -> FileSignature:
    """Read a signature header and its signature.

    Raises:
        FormatError: ``ima-signature``: another type or version, or sizes that do not fit.
    """
    reader = Reader(data, "IMA signature", code="ima-signature")
    kind, version, algorithm = reader.u8(), reader.u8(), reader.u8()
    if _VERSIONS.get(kind) != version:
        raise reader.error(f"type {kind}, version {version}")
    if algorithm not in _ALGORITHMS:
        raise reader.error(f"hash algorithm {algorithm}")
    key_id, value = reader.take(4), reader.tpm2b(MAX_SIGNATURE)
    reader.end()
    return FileSignature(kind, _ALGORITHMS[algorithm], key_id, value)


def key_id_of(key: KeyringKey) -> bytes:
    """Return the id by which signatures name a key: the end of the SHA-1 of its bits."""
    if isinstance(key, rsa.RSAPublicKey):
        encoding, form = serialization.Encoding.DER, serialization.PublicFormat.PKCS1
    else:
        encoding = serialization.Encoding.X962
        form = serialization.PublicFormat.UncompressedPoint
    return digest("sha1", key.public_bytes(encoding, form))[-4:]


def verify_file_signature(signature: FileSignature, measured: Measurement, key: KeyringKey) -> None:
    """Check that ``key`` signed the measured digest.

    Raises:
        SignatureError: ``ima-signature``: a wrong signature, a weak hash, or one that does not
            belong to the measured digest.
    """
    algorithm = _HASHES.get(signature.algorithm)
    if algorithm is None:
        raise _wrong(f"the signature relies on {signature.algorithm}")
    if measured.algorithm != signature.algorithm and signature.type == DIGEST_SIGNATURE:
        raise _wrong(
            f"a signature over a {signature.algorithm} digest of a file that was "
            f"measured by {measured.algorithm}"
        )
    message = measured.digest
    if signature.type == VERITY_SIGNATURE:
        numbers = {name: number for number, name in _ALGORITHMS.items()}
        if measured.algorithm not in numbers:
            raise _wrong(f"a file that was measured by {measured.algorithm}")
        head = bytes((VERITY_SIGNATURE, numbers[measured.algorithm]))
        message = digest(signature.algorithm, head + message)
    if len(message) != algorithm.digest_size:
        raise _wrong("the digest has not the size of its algorithm")
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature.value, message, padding.PKCS1v15(), Prehashed(algorithm))
        else:
            key.verify(signature.value, message, ec.ECDSA(Prehashed(algorithm)))
    except InvalidSignature:
        raise _wrong("the signature is not over this file by this key") from None


def _wrong(reason: str) -> SignatureError:
    return SignatureError(reason, code="ima-signature")


def as_keyring_key(key: object) -> KeyringKey:
    """Return a key that file signatures can be checked with.

    Raises:
        FormatError: neither RSA nor an elliptic curve.
    """
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise FormatError("a key of a kind that IMA does not use", code="ima-keyring")
    return key
