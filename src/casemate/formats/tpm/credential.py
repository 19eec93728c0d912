"""MakeCredential in software: a challenge that only the TPM with this EK and this AK can answer.

TPM 2.0 Library part 1, section 24 and annexes B.10.4 and C.6.4: a seed is given to the EK (RSA
OAEP, or one-pass ECDH), a cipher key and an HMAC key are derived from it, and the AK's name is
bound in by both.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from casemate.errors import AppraisalError, FormatError
from casemate.formats.algorithms import ALGORITHMS, digest
from casemate.formats.tpm import ids
from casemate.formats.tpm.public import MIN_RSA_BITS, Attributes, EccKey, Public, RsaKey, Symmetric

ENTROPY_SIZE: Final = 80
"""Random bytes that ``make_credential`` wants: 64 bits more than the largest curve's order."""
_EK_ATTRIBUTES: Final = Attributes.FIXED_TPM | Attributes.RESTRICTED | Attributes.DECRYPT
_IDENTITY: Final = b"IDENTITY\0"
_STORAGE: Final = b"STORAGE\0"
_INTEGRITY: Final = b"INTEGRITY\0"

OAEP_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "sha1": hashes.SHA1(),  # noqa: S303  # old EK templates name it; OAEP does not lean on it
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}


@dataclass(frozen=True, slots=True)
class Credential:
    """The challenge, as contents of TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET (no outer size)."""

    blob: bytes
    encrypted_secret: bytes


def kdfa(algorithm: str, key: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    """Derive a key with HMAC in counter mode (SP 800-108); ``label`` ends with a NUL."""
    tail = label + context + bits.to_bytes(4, "big")
    size = bits // 8
    out = b""
    counter = 0
    while len(out) < size:
        counter += 1
        out += hmac.digest(key, counter.to_bytes(4, "big") + tail, algorithm)
    return out[:size]


def kdfe(algorithm: str, shared: bytes, label: bytes, parties: bytes, bits: int) -> bytes:
    """Derive a key from an ECDH value (SP 800-56A); ``parties`` is partyU's x, then partyV's."""
    size = bits // 8
    out = b""
    counter = 0
    while len(out) < size:
        counter += 1
        out += digest(algorithm, counter.to_bytes(4, "big") + shared + label + parties)
    return out[:size]


def make_credential(ek: Public, ak_name: bytes, secret: bytes, *, entropy: bytes) -> Credential:
    """Make a challenge that reveals ``secret`` to the TPM that holds ``ek`` and the named AK.

    Args:
        ek: the endorsement key's public area, restricted and for decryption.
        ak_name: the attestation key's name, as ``Public.name`` gives it.
        secret: at most as long as a digest of the EK's name algorithm.
        entropy: ``ENTROPY_SIZE`` fresh random bytes. (OAEP's own salt comes from OpenSSL.)

    Raises:
        FormatError: a secret, name or entropy of the wrong size.
        AppraisalError: ``ek-unusable`` or ``weak-key``: not a key that can receive a challenge.
    """
    algorithm = ek.name_algorithm
    size = ALGORITHMS[algorithm].size
    if not 0 < len(secret) <= size or len(entropy) != ENTROPY_SIZE or len(ak_name) > ids.MAX_NAME:
        raise FormatError("credential: secret, entropy or name has the wrong size")
    symmetric = storage_cipher(ek)
    key = ek.crypto_key()
    if isinstance(key, rsa.RSAPublicKey):
        seed = entropy[:size]
        encrypted = key.encrypt(seed, oaep(algorithm))
    else:
        seed, encrypted = _share_seed(ek, key, entropy)
    blob = seal_identity(algorithm, symmetric, seed, ak_name, secret)
    return Credential(blob, encrypted)


def storage_cipher(ek: Public) -> Symmetric:
    """Return the cipher with which the EK protects what it is given: AES in CFB mode.

    Raises:
        AppraisalError: ``weak-key``, or ``ek-unusable``: not a restricted decryption key of a TPM,
            another cipher, or a hash without OAEP support.
    """
    symmetric = ek.symmetric
    if isinstance(ek.key, RsaKey) and ek.key.bits < MIN_RSA_BITS:
        raise AppraisalError("the endorsement key is too weak", code="weak-key")
    if (
        symmetric is None
        or _EK_ATTRIBUTES & ~ek.attributes
        or (symmetric.cipher, symmetric.mode) != ("aes", "cfb")
        or symmetric.bits not in {128, 192, 256}
        or ek.name_algorithm not in OAEP_HASHES
    ):
        raise AppraisalError("the endorsement key cannot receive a challenge", code="ek-unusable")
    return symmetric


def oaep(algorithm: str) -> padding.OAEP:
    """Return the OAEP padding for credentials: label IDENTITY, one hash throughout."""
    chosen = OAEP_HASHES[algorithm]
    return padding.OAEP(padding.MGF1(chosen), chosen, _IDENTITY)


def _share_seed(ek: Public, key: ec.EllipticCurvePublicKey, entropy: bytes) -> tuple[bytes, bytes]:
    order = key.curve.group_order
    ephemeral = ec.derive_private_key(1 + int.from_bytes(entropy, "big") % (order - 1), key.curve)
    point = ephemeral.public_key().public_numbers()
    size = (key.curve.key_size + 7) // 8
    x, y = point.x.to_bytes(size, "big"), point.y.to_bytes(size, "big")
    seed = ecdh_seed(ek, ephemeral.exchange(ec.ECDH(), key), x)
    return seed, ids.tpm2b(x) + ids.tpm2b(y)


def ecdh_seed(ek: Public, shared: bytes, ephemeral_x: bytes) -> bytes:
    """Derive the seed of an ECC credential from the ECDH value and both x coordinates."""
    if not isinstance(ek.key, EccKey):
        raise AppraisalError("not an ECC endorsement key", code="ek-unusable")
    size = ek.key.size
    parties = ephemeral_x.rjust(size, b"\0") + ek.key.x.rjust(size, b"\0")
    bits = ALGORITHMS[ek.name_algorithm].size * 8
    return kdfe(ek.name_algorithm, shared, _IDENTITY, parties, bits)


def seal_identity(
    algorithm: str, symmetric: Symmetric, seed: bytes, ak_name: bytes, secret: bytes
) -> bytes:
    """Return TPMS_ID_OBJECT: HMAC over ciphertext and name, then the ciphertext."""
    cipher = identity_cipher(algorithm, symmetric, seed, ak_name).encryptor()
    encrypted = cipher.update(ids.tpm2b(secret)) + cipher.finalize()
    return ids.tpm2b(identity_hmac(algorithm, seed, encrypted + ak_name)) + encrypted


def identity_cipher(
    algorithm: str, symmetric: Symmetric, seed: bytes, ak_name: bytes
) -> Cipher[CFB]:
    """Return the cipher of the identity; its zero IV is safe, as a key is used once."""
    key = kdfa(algorithm, seed, _STORAGE, ak_name, symmetric.bits)
    return Cipher(AES(key), CFB(bytes(16)))


def identity_hmac(algorithm: str, seed: bytes, message: bytes) -> bytes:
    """Return the integrity value of a credential."""
    key = kdfa(algorithm, seed, _INTEGRITY, b"", ALGORITHMS[algorithm].size * 8)
    return hmac.digest(key, message, algorithm)
