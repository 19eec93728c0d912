"""TPM_ALG_IDs and curves that the structures here name (TPM 2.0 Library, part 2; TCG registry)."""

from __future__ import annotations

from typing import Final

from casemate.formats.algorithms import ALGORITHMS, NAME_BY_ID
from casemate.formats.reader import Reader

ALG_RSA: Final = 0x0001
ALG_NULL: Final = 0x0010
ALG_ECC: Final = 0x0023
SCHEMES: Final = {
    0x0014: "rsassa",
    0x0015: "rsaes",
    0x0016: "rsapss",
    0x0017: "oaep",
    0x0018: "ecdsa",
    0x0019: "ecdh",
    0x001B: "sm2",
    0x001C: "ecschnorr",
}
SCHEME_IDS: Final = {name: number for number, name in SCHEMES.items()}
CIPHERS: Final = {0x0006: "aes", 0x0013: "sm4", 0x0026: "camellia"}
CIPHER_IDS: Final = {name: number for number, name in CIPHERS.items()}
MODES: Final = {0x0040: "ctr", 0x0041: "ofb", 0x0042: "cbc", 0x0043: "cfb", 0x0044: "ecb"}
MODE_IDS: Final = {name: number for number, name in MODES.items()}
CURVES: Final = {
    0x0001: "p192",
    0x0002: "p224",
    0x0003: "p256",
    0x0004: "p384",
    0x0005: "p521",
    0x0010: "bn256",
    0x0020: "sm2",
}
CURVE_IDS: Final = {name: number for number, name in CURVES.items()}
KDFS: Final = {0x0007: "mgf1", 0x0020: "kdf1_sp800_56a", 0x0021: "kdf2", 0x0022: "kdf1_sp800_108"}
KDF_IDS: Final = {name: number for number, name in KDFS.items()}

MAX_DIGEST: Final = 64
"""Bytes of the longest digest (SHA-512)."""
MAX_NAME: Final = 2 + MAX_DIGEST
"""Bytes of the longest name: algorithm and digest."""
MAX_KEY: Final = 512
"""Bytes of the largest RSA modulus or signature (RSA-4096)."""


def read_hash(reader: Reader) -> str:
    """Read a TPMI_ALG_HASH and return its name."""
    number = reader.u16be()
    name = NAME_BY_ID.get(number)
    if name is None:
        raise reader.error(f"hash algorithm 0x{number:04x} is unknown")
    return name


def hash_id(name: str) -> bytes:
    """Return the TPM_ALG_ID of a hash as big-endian bytes."""
    return ALGORITHMS[name].id.to_bytes(2, "big")


def read_named(reader: Reader, names: dict[int, str], what: str) -> str:
    """Read a 16-bit identifier that ``names`` must know."""
    number = reader.u16be()
    name = names.get(number)
    if name is None:
        raise reader.error(f"{what} 0x{number:04x} is unknown")
    return name


def tpm2b(data: bytes) -> bytes:
    """Return a TPM2B: big-endian 16-bit size, then the bytes."""
    return len(data).to_bytes(2, "big") + data


def untpm2b(data: bytes, what: str = "TPM2B") -> bytes:
    """Return the content of bytes that are exactly one TPM2B.

    Raises:
        FormatError: the size is not that of what follows.
    """
    reader = Reader(data, what)
    content = reader.tpm2b(0xFFFF)
    reader.end()
    return content
