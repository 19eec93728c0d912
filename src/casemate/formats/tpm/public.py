"""TPMT_PUBLIC: a TPM key's public area, its name, and what makes it fit to attest.

TPM 2.0 Library part 2, section 12.2. All integers are big-endian.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from functools import lru_cache
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from casemate.errors import AppraisalError, FormatError
from casemate.formats import algorithms
from casemate.formats.reader import Reader
from casemate.formats.tpm import ids

DEFAULT_EXPONENT: Final = 65537
MIN_RSA_BITS: Final = 2048
MAX_ECC: Final = 66
"""Bytes of a coordinate on the largest curve (P-521)."""

_CURVES: Final[dict[str, ec.EllipticCurve]] = {
    "p256": ec.SECP256R1(),
    "p384": ec.SECP384R1(),
    "p521": ec.SECP521R1(),
}


class Attributes(IntFlag):
    """TPMA_OBJECT."""

    FIXED_TPM = 1 << 1
    ST_CLEAR = 1 << 2
    FIXED_PARENT = 1 << 4
    SENSITIVE_DATA_ORIGIN = 1 << 5
    USER_WITH_AUTH = 1 << 6
    ADMIN_WITH_POLICY = 1 << 7
    NO_DA = 1 << 10
    ENCRYPTED_DUPLICATION = 1 << 11
    RESTRICTED = 1 << 16
    DECRYPT = 1 << 17
    SIGN = 1 << 18
    X509_SIGN = 1 << 19


AK_ATTRIBUTES: Final = (
    Attributes.FIXED_TPM
    | Attributes.FIXED_PARENT
    | Attributes.SENSITIVE_DATA_ORIGIN
    | Attributes.RESTRICTED
    | Attributes.SIGN
)
"""What an attestation key must have: made in this TPM, never leaves it, signs only TPM data."""


@dataclass(frozen=True, slots=True)
class Symmetric:
    """TPMT_SYM_DEF_OBJECT: cipher name, key size in bits, mode name."""

    cipher: str
    bits: int
    mode: str


@dataclass(frozen=True, slots=True)
class Scheme:
    """A signing or encryption scheme or KDF and its hash (None: the scheme has none)."""

    name: str
    hash: str | None = None


@dataclass(frozen=True, slots=True)
class RsaKey:
    """RSA parameters and modulus; ``exponent`` 0 means 65537."""

    bits: int
    exponent: int
    modulus: bytes


@dataclass(frozen=True, slots=True)
class EccKey:
    """ECC parameters and point; coordinates are big-endian as the TPM gave them."""

    curve: str
    kdf: Scheme | None
    x: bytes
    y: bytes

    @property
    def size(self) -> int:
        """Bytes of a coordinate on this curve.

        Raises:
            AppraisalError: ``weak-key``: not a curve that we use.
        """
        return (self._known().key_size + 7) // 8

    def _known(self) -> ec.EllipticCurve:
        curve = _CURVES.get(self.curve)
        if curve is None:
            raise AppraisalError(f"a key on curve {self.curve} is not accepted", code="weak-key")
        return curve

    @property
    def crypto_curve(self) -> ec.EllipticCurve:
        """The curve as cryptography has it; raises as ``size`` does."""
        return self._known()


@dataclass(frozen=True, slots=True)
class Public:
    """A public area."""

    name_algorithm: str
    attributes: Attributes
    policy: bytes
    symmetric: Symmetric | None
    scheme: Scheme | None
    key: RsaKey | EccKey

    def name(self) -> bytes:
        """Return the key's TPM name: the name algorithm's id and the hash of the public area."""
        number = ids.hash_id(self.name_algorithm)
        return number + algorithms.digest(self.name_algorithm, write_public(self))

    def crypto_key(self) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey:
        """Return the key as cryptography has it.

        Raises:
            FormatError: the numbers make no key (point off the curve, even modulus).
            AppraisalError: ``weak-key``: a curve that we do not use.
        """
        return _crypto_key(self.key)


@lru_cache(maxsize=1024)
def _crypto_key(key: RsaKey | EccKey) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey:
    """Return the key; a host's key is the same in every round."""
    try:
        if isinstance(key, RsaKey):
            modulus = int.from_bytes(key.modulus, "big")
            exponent = key.exponent or DEFAULT_EXPONENT
            return rsa.RSAPublicNumbers(exponent, modulus).public_key()
        x, y = int.from_bytes(key.x, "big"), int.from_bytes(key.y, "big")
        return ec.EllipticCurvePublicNumbers(x, y, key.crypto_curve).public_key()
    except ValueError as error:
        raise FormatError(f"TPMT_PUBLIC: its numbers make no key: {error}") from None


def parse_public(data: bytes | memoryview) -> Public:
    """Read exactly one TPMT_PUBLIC of an RSA or ECC key.

    Raises:
        FormatError: anything else.
    """
    reader = Reader(data, "TPMT_PUBLIC")
    kind = reader.u16be()
    if kind not in {ids.ALG_RSA, ids.ALG_ECC}:
        raise reader.error(f"object type 0x{kind:04x} is neither RSA nor ECC")
    name_algorithm = ids.read_hash(reader)
    attributes = Attributes(reader.u32be())
    policy = reader.tpm2b(ids.MAX_DIGEST)
    symmetric = _read_symmetric(reader)
    scheme = _read_scheme(reader)
    key: RsaKey | EccKey
    if kind == ids.ALG_RSA:
        key = RsaKey(reader.u16be(), reader.u32be(), reader.tpm2b(ids.MAX_KEY))
        if len(key.modulus) * 8 != key.bits:
            raise reader.error(f"a modulus of {len(key.modulus)} bytes in a {key.bits} bit key")
    else:
        curve = ids.read_named(reader, ids.CURVES, "curve")
        kdf = _read_kdf(reader)
        key = EccKey(curve, kdf, reader.tpm2b(MAX_ECC), reader.tpm2b(MAX_ECC))
    reader.end()
    return Public(name_algorithm, attributes, policy, symmetric, scheme, key)


def _read_symmetric(reader: Reader) -> Symmetric | None:
    number = reader.u16be()
    if number == ids.ALG_NULL:
        return None
    if number not in ids.CIPHERS:
        raise reader.error(f"cipher 0x{number:04x} is unknown")
    return Symmetric(
        ids.CIPHERS[number], reader.u16be(), ids.read_named(reader, ids.MODES, "cipher mode")
    )


def _read_scheme(reader: Reader) -> Scheme | None:
    number = reader.u16be()
    if number == ids.ALG_NULL:
        return None
    if number not in ids.SCHEMES:
        raise reader.error(f"scheme 0x{number:04x} is unknown")
    name = ids.SCHEMES[number]
    return Scheme(name, None if name == "rsaes" else ids.read_hash(reader))


def _read_kdf(reader: Reader) -> Scheme | None:
    number = reader.u16be()
    if number == ids.ALG_NULL:
        return None
    if number not in ids.KDFS:
        raise reader.error(f"key derivation 0x{number:04x} is unknown")
    return Scheme(ids.KDFS[number], ids.read_hash(reader))


def write_public(public: Public) -> bytes:
    """Return the TPMT_PUBLIC's bytes; ``write_public(parse_public(x)) == x``."""
    key = public.key
    rsa_key = isinstance(key, RsaKey)
    parts = [
        _u16(ids.ALG_RSA if rsa_key else ids.ALG_ECC),
        ids.hash_id(public.name_algorithm),
        int(public.attributes).to_bytes(4, "big"),
        ids.tpm2b(public.policy),
    ]
    symmetric = public.symmetric
    if symmetric is None:
        parts.append(_u16(ids.ALG_NULL))
    else:
        parts += (
            _u16(ids.CIPHER_IDS[symmetric.cipher]),
            _u16(symmetric.bits),
            _u16(ids.MODE_IDS[symmetric.mode]),
        )
    parts.append(_scheme(public.scheme, ids.SCHEME_IDS))
    if isinstance(key, RsaKey):
        parts += (_u16(key.bits), key.exponent.to_bytes(4, "big"), ids.tpm2b(key.modulus))
    else:
        parts += (_u16(ids.CURVE_IDS[key.curve]), _scheme(key.kdf, ids.KDF_IDS))
        parts += (ids.tpm2b(key.x), ids.tpm2b(key.y))
    return b"".join(parts)


def _u16(value: int) -> bytes:
    return value.to_bytes(2, "big")


def _scheme(scheme: Scheme | None, numbers: dict[str, int]) -> bytes:
    if scheme is None:
        return _u16(ids.ALG_NULL)
    return _u16(numbers[scheme.name]) + (ids.hash_id(scheme.hash) if scheme.hash else b"")


def check_attestation_key(public: Public) -> None:
    """Refuse a key whose quotes would prove nothing.

    It must be restricted and sign-only, born in its TPM and bound to it, with a fixed signature
    scheme; RSA of at least 2048 bits with exponent 65537, or P-256, P-384, P-521; no SHA-1.

    Raises:
        AppraisalError: ``ak-attributes``, ``weak-key`` or ``weak-alg``.
    """
    missing = AK_ATTRIBUTES & ~public.attributes
    if missing:
        raise AppraisalError(
            f"the attestation key lacks {missing.name or int(missing)}", code="ak-attributes"
        )
    if public.attributes & Attributes.DECRYPT:
        raise AppraisalError("the attestation key can decrypt as well", code="ak-attributes")
    key, scheme = public.key, public.scheme
    if scheme is None or scheme.name not in {"rsassa", "rsapss", "ecdsa"}:
        raise AppraisalError(
            "the attestation key has no fixed signature scheme", code="ak-attributes"
        )
    if "sha1" in {scheme.hash, public.name_algorithm}:
        raise AppraisalError("the attestation key relies on SHA-1", code="weak-alg")
    if isinstance(key, EccKey):
        weak = key.curve not in _CURVES
    else:
        weak = key.bits < MIN_RSA_BITS or key.exponent not in {0, DEFAULT_EXPONENT}
    if weak:
        raise AppraisalError("the attestation key is too weak", code="weak-key")
    public.crypto_key()
