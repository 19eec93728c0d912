"""``state.key`` in a boot bank: the key of the host's state, sealed, and boxed for recovery.

JSON; nothing in it is secret, and nothing in it is believed without the TPM.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from casemate.errors import FormatError

FILE: Final = "state.key"
SIZE_LIMIT: Final = 64 << 10
"""Bytes; ours have about 2 KiB."""
VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Sealed:
    """A key that only one TPM gives back, and only while its PCRs have these values.

    ``public`` and ``private`` are TPM2B_PUBLIC and TPM2B_PRIVATE; ``events`` name and digest (hex)
    of what firmware had measured into these PCRs, for explanations only.
    """

    pcrs: tuple[tuple[int, bytes], ...]
    public: bytes
    private: bytes
    events: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class StateKey:
    """The record. ``fresh`` tells that the state's file system is not completely written yet."""

    serial: int
    recovery_id: str
    nonce: bytes
    box: bytes
    sealed: Sealed
    fresh: bool = False


def write_state_key(key: StateKey) -> bytes:
    """Return the file."""
    sealed = key.sealed
    return json.dumps(
        {
            "version": VERSION,
            "serial": key.serial,
            "fresh": key.fresh,
            "recovery": {
                "id": key.recovery_id,
                "nonce": key.nonce.hex(),
                "box": key.box.hex(),
            },
            "sealed": {
                "pcrs": {str(pcr): value.hex() for pcr, value in sealed.pcrs},
                "public": sealed.public.hex(),
                "private": sealed.private.hex(),
                "events": [list(pair) for pair in sealed.events],
            },
        },
        indent=1,
    ).encode()


def parse_state_key(data: bytes) -> StateKey:
    """Return what a file says.

    Raises:
        FormatError: it is no such file (``state-key``).
    """
    if len(data) > SIZE_LIMIT:
        raise FormatError("it is too large", code="state-key", component=FILE)
    try:
        facts = json.loads(data)
        sealed, recovery = facts["sealed"], facts["recovery"]
        if facts["version"] != VERSION:
            raise FormatError(
                f"version {facts['version']!r}"[:80], code="state-key", component=FILE
            )
        pcrs = tuple(sorted((int(pcr), bytes.fromhex(v)) for pcr, v in sealed["pcrs"].items()))
        if not pcrs or not all(0 <= pcr < 24 and len(v) == 32 for pcr, v in pcrs):  # noqa: PLR2004
            raise FormatError("PCRs that cannot be", code="state-key", component=FILE)
        return StateKey(
            serial=int(facts["serial"]),
            recovery_id=str(UUID(recovery["id"])),
            nonce=bytes.fromhex(recovery["nonce"]),
            box=bytes.fromhex(recovery["box"]),
            sealed=Sealed(
                pcrs,
                bytes.fromhex(sealed["public"]),
                bytes.fromhex(sealed["private"]),
                tuple((str(name), str(digest)) for name, digest in sealed["events"]),
            ),
            fresh=facts["fresh"] is True,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(f"it makes no sense: {error!r}"[:200], code="state-key") from error
