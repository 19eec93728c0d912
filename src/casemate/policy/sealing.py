"""What the key of a host's state is sealed to, and the recovery key beside it.

The state is encrypted; its key is sealed to this TPM and to PCRs: 7 (Secure Boot and its keys), and
where asked 15, which holds the boot option execInstalledOnly. A recovery key, kept by a person,
opens a second copy. The model is ESXi's (7.0 U2 and later).
Sources: TPM 2.0 Library, part 3, TPM2_PolicyPCR; NIST SP 800-38D; RFC 5869.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from casemate.errors import ArgumentError, VerificationError
from casemate.formats.algorithms import ALGORITHMS
from casemate.policy.bootsteps import EXEC_INSTALLED_ONLY
from casemate.policy.measure import EXEC_PCR, BootMeasurer

BANK: Final = "sha256"
SECURE_BOOT_PCR: Final = 7
SEALED_PCRS: Final = (SECURE_BOOT_PCR,)
"""What every state is sealed to."""
KEY_SIZE: Final = 64
"""Bytes of the state's key: two AES-256 keys, as XTS wants them."""
RECOVERY_SIZE: Final = 32
"""Bytes of a recovery key; people see 16 groups of six digits."""
NONCE_SIZE: Final = 12
GROUPS: Final = 16
EXEC_TRUE: Final = f"{EXEC_INSTALLED_ONLY} = TRUE"

_POLICY_PCR: Final = 0x17F
_CHECK: Final = 11
"""Every group is a multiple: one wrong digit, or two swapped ones, are noticed at once."""
_GROUP_DIGITS: Final = 6


def policy_digest(values: Mapping[int, bytes]) -> bytes:
    """Return the policy that is fulfilled when these PCRs of the SHA-256 bank have these values."""
    selected = bytearray(3)
    for pcr in values:
        selected[pcr // 8] |= 1 << pcr % 8
    together = hashlib.sha256(b"".join(values[pcr] for pcr in sorted(values))).digest()
    selection = struct.pack(">IHB3s", 1, ALGORITHMS[BANK].id, len(selected), bytes(selected))
    start = bytes(hashlib.sha256().digest_size) + struct.pack(">I", _POLICY_PCR)
    return hashlib.sha256(start + selection + together).digest()


def required_pcrs(*, exec_installed_only: bool) -> tuple[int, ...]:
    """Return the PCRs that a state is sealed to."""
    return (*SEALED_PCRS, EXEC_PCR) if exec_installed_only else SEALED_PCRS


def exec_value() -> bytes:
    """Return PCR 15 of a machine that booted with execInstalledOnly."""
    (planned,) = BootMeasurer((BANK,)).sealed_option(EXEC_TRUE)
    measured = dict(planned.event.digests)[BANK]
    return hashlib.sha256(bytes(len(measured)) + measured).digest()


def can_seal(pcrs: Iterable[int], present: Mapping[int, bytes]) -> bool:
    """Tell whether a state may be sealed to these PCRs as they are: never to an option that is off.

    Secure Boot's may be any: whoever opened the state by its recovery key said so.
    """
    return EXEC_PCR not in pcrs or present.get(EXEC_PCR) == exec_value()


def recovery_text(key: bytes) -> str:
    """Return a recovery key as people write it down."""
    numbers = struct.unpack(f">{GROUPS}H", key)
    return "-".join(f"{number * _CHECK:0{_GROUP_DIGITS}}" for number in numbers)


def parse_recovery(text: str) -> bytes:
    """Return the recovery key that somebody typed; anything may part the groups.

    Raises:
        ArgumentError: code ``recovery-key``; which group is wrong, never what it holds.
    """
    digits = "".join(one for one in text[:512] if one.isascii() and one.isdigit())
    if len(digits) != GROUPS * _GROUP_DIGITS:
        raise _mistyped(f"A recovery key has {GROUPS} groups of {_GROUP_DIGITS} digits.")
    numbers = []
    for place in range(GROUPS):
        group = int(digits[place * _GROUP_DIGITS : (place + 1) * _GROUP_DIGITS])
        number, rest = divmod(group, _CHECK)
        if rest or number > 0xFFFF:  # noqa: PLR2004 (two bytes)
            raise _mistyped(f"Group {place + 1} of the recovery key was mistyped.")
        numbers.append(number)
    return struct.pack(f">{GROUPS}H", *numbers)


def wrap(key: bytes, recovery: bytes, identifier: str, nonce: bytes) -> bytes:
    """Return the state's key, encrypted for the recovery key of this identifier."""
    return AESGCM(_wrapping(recovery, identifier)).encrypt(nonce, key, identifier.encode())


def unwrap(box: bytes, recovery: bytes, identifier: str, nonce: bytes) -> bytes:
    """Return the state's key.

    Raises:
        VerificationError: it is the recovery key of another host, or the box was changed.
    """
    try:
        return AESGCM(_wrapping(recovery, identifier)).decrypt(nonce, box, identifier.encode())
    except InvalidTag as error:
        raise VerificationError(
            "This is not the recovery key of this state.",
            code="recovery-key",
            component="state",
            remedy=f"Give the one with the recovery ID {identifier}.",
        ) from error


def difference(
    sealed: Sequence[tuple[str, str]], present: Sequence[tuple[str, str]]
) -> tuple[str, ...]:
    """Return the names of what firmware measured otherwise, in order of the log.

    Each sequence holds name and digest (hex) of firmware's events in the sealed PCRs.
    """
    names = dict.fromkeys(name for name, _ in (*sealed, *present))
    return tuple(
        name
        for name in names
        if [one for one in sealed if one[0] == name] != [one for one in present if one[0] == name]
    )


def explanation(
    pcrs: Iterable[int], sealed: Sequence[tuple[str, str]], present: Sequence[tuple[str, str]]
) -> tuple[str, ...]:
    """Return what changed in these PCRs: firmware's measurements by name, and the option."""
    option = (f"{EXEC_INSTALLED_ONLY}, which must be TRUE",) if EXEC_PCR in pcrs else ()
    return (*difference(sealed, present), *option)


def _wrapping(recovery: bytes, identifier: str) -> bytes:
    info = b"casemate state key " + identifier.encode()
    return HKDF(hashes.SHA256(), 32, salt=None, info=info).derive(recovery)


def _mistyped(reason: str) -> ArgumentError:
    return ArgumentError(reason, argument="recovery key")
