"""Attestation and endorsement keys in software: what a TPM would do with them."""

from __future__ import annotations

import hmac
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from casemate.errors import TpmError
from casemate.formats.reader import Reader
from casemate.formats.tpm import (
    Attributes,
    EccKey,
    Public,
    RsaKey,
    Scheme,
    Signature,
    Symmetric,
    untpm2b,
)
from casemate.formats.tpm.credential import (
    Credential,
    ecdh_seed,
    identity_cipher,
    identity_hmac,
    oaep,
    storage_cipher,
)
from casemate.formats.tpm.public import AK_ATTRIBUTES

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

EK_ATTRIBUTES: Final = (
    Attributes.FIXED_TPM
    | Attributes.FIXED_PARENT
    | Attributes.SENSITIVE_DATA_ORIGIN
    | Attributes.ADMIN_WITH_POLICY
    | Attributes.RESTRICTED
    | Attributes.DECRYPT
)
EK_POLICY: Final = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
"""PolicySecret(endorsement), the authorization of the TCG's low-range EK templates."""
_CURVES: Final = {"secp256r1": "p256", "secp384r1": "p384", "secp521r1": "p521"}
_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
}


def public_numbers(private: PrivateKey) -> RsaKey | EccKey:
    """Return a private key's public part as TPM structures hold it."""
    if isinstance(private, rsa.RSAPrivateKey):
        rsa_numbers = private.public_key().public_numbers()
        modulus = rsa_numbers.n.to_bytes(private.key_size // 8, "big")
        exponent = 0 if rsa_numbers.e == 65537 else rsa_numbers.e  # noqa: PLR2004  # the default
        return RsaKey(private.key_size, exponent, modulus)
    numbers = private.public_key().public_numbers()
    size = (private.curve.key_size + 7) // 8
    x, y = numbers.x.to_bytes(size, "big"), numbers.y.to_bytes(size, "big")
    return EccKey(_CURVES[private.curve.name], None, x, y)


class SoftKey:
    """An attestation key; P-256 unless ``private`` is given."""

    def __init__(
        self,
        private: PrivateKey | None = None,
        *,
        hash_name: str = "sha256",
        scheme: str | None = None,
        attributes: Attributes = AK_ATTRIBUTES | Attributes.USER_WITH_AUTH,
    ) -> None:
        self._private = private or ec.generate_private_key(ec.SECP256R1())
        self.hash = hash_name
        natural = "rsassa" if isinstance(self._private, rsa.RSAPrivateKey) else "ecdsa"
        fixed = Scheme(scheme or natural, hash_name)
        key = public_numbers(self._private)
        self.public = Public("sha256", attributes, b"", None, fixed, key)

    def sign(self, data: bytes) -> Signature:
        """Sign ``data`` with the key's fixed scheme."""
        scheme = self.public.scheme
        assert scheme is not None
        algorithm = _HASHES[self.hash]
        if isinstance(self._private, rsa.RSAPrivateKey):
            pad: padding.AsymmetricPadding = padding.PKCS1v15()
            if scheme.name == "rsapss":
                pad = padding.PSS(padding.MGF1(algorithm), algorithm.digest_size)
            return Signature(scheme.name, self.hash, (self._private.sign(data, pad, algorithm),))
        size = (self._private.curve.key_size + 7) // 8
        numbers = decode_dss_signature(self._private.sign(data, ec.ECDSA(algorithm)))
        return Signature("ecdsa", self.hash, tuple(n.to_bytes(size, "big") for n in numbers))


class SoftEk:
    """An endorsement key after the TCG's templates; P-256 unless ``private`` is given."""

    def __init__(self, private: PrivateKey | None = None, *, hash_name: str = "sha256") -> None:
        self._private = private or ec.generate_private_key(ec.SECP256R1())
        bits = 128 if hash_name == "sha256" else 256
        cipher = Symmetric("aes", bits, "cfb")
        key = public_numbers(self._private)
        self.public = Public(hash_name, EK_ATTRIBUTES, EK_POLICY, cipher, None, key)

    def activate(self, credential: Credential, ak_name: bytes) -> bytes:
        """Return the secret of a challenge (TPM2_ActivateCredential).

        Raises:
            TpmError: ``integrity``: made for another EK or another AK, or changed.
            FormatError: not a credential.
        """
        algorithm = self.public.name_algorithm
        seed = self._seed(credential.encrypted_secret)
        reader = Reader(credential.blob, "credential")
        integrity = reader.tpm2b(64)
        encrypted = reader.rest()
        expected = identity_hmac(algorithm, seed, encrypted + ak_name)
        if not hmac.compare_digest(integrity, expected):
            raise TpmError("the credential is not for these keys", code="integrity")
        cipher = identity_cipher(algorithm, storage_cipher(self.public), seed, ak_name).decryptor()
        return untpm2b(cipher.update(encrypted) + cipher.finalize())

    def _seed(self, encrypted: bytes) -> bytes:
        if isinstance(self._private, rsa.RSAPrivateKey):
            try:
                return self._private.decrypt(encrypted, oaep(self.public.name_algorithm))
            except ValueError:
                raise TpmError("the credential is not for this key", code="integrity") from None
        reader = Reader(encrypted, "ephemeral point")
        x, y = reader.tpm2b(66), reader.tpm2b(66)
        reader.end()
        numbers = (int.from_bytes(x, "big"), int.from_bytes(y, "big"))
        point = ec.EllipticCurvePublicNumbers(*numbers, self._private.curve).public_key()
        return ecdh_seed(self.public, self._private.exchange(ec.ECDH(), point), x)
