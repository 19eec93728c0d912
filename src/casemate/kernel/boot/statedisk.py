"""The host's state on a machine of its own: encrypted, its key sealed to TPM and Secure Boot.

    first start   a key, sealed and boxed for a recovery key; an empty file system out of the boot
                  image, never what lies on the disk: nobody plants accounts there; settings that
                  an installation left are moved in, and verified by who uses them
    every start   the TPM gives the key back while PCR 7 (and 15, where asked) is what it was
    otherwise     the reason is shown, by name, and the recovery key asked for; then sealed anew,
                  but never to an option that is off: it is asked for until the option is on again

The record lies in both boot banks as ``state.key``; the newest counts. Removing it leads to a new,
empty state, never to an old one.
"""

from __future__ import annotations

import os
import secrets
import struct
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from casemate.errors import BootError, CasemateError, TpmError
from casemate.formats.eventlog import parse
from casemate.formats.eventtypes import EV_EFI_VARIABLE_AUTHORITY, EV_EFI_VARIABLE_DRIVER_CONFIG
from casemate.formats.statekey import FILE, SIZE_LIMIT, Sealed, StateKey
from casemate.formats.statekey import parse_state_key as parse_key
from casemate.formats.statekey import write_state_key as write_key
from casemate.formats.uefi import parse_variable
from casemate.kernel.boot import handedover
from casemate.kernel.boot.firmware import Firmware
from casemate.kernel.boot.firstwords import add_first_words
from casemate.kernel.boot.lastword import folded
from casemate.kernel.boot.progress import Progress
from casemate.kernel.files import write_file
from casemate.kernel.home import Home
from casemate.kernel.sys.libc import from_os_error
from casemate.kernel.tpm.device import Tpm
from casemate.kernel.tpm.sealing import seal, unseal
from casemate.policy import sealing

TEMPLATE = Path("/state.ext4")
BLOCK = 4096
ATTEMPTS = 5
"""Recovery keys that may be tried before the machine must be started again."""
RECOVERY = "recovery.key"
"""File in the state: the recovery key, for those who may see the state anyway."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the state needs of the machine; replaced in tests.

    ``crypt(device, key)`` gives the decrypted device, ``mount(device)`` mounts it at the home's
    state, ``ask(question)`` gets a line from the console.
    """

    crypt: Callable[[Path, bytes], Path]
    mount: Callable[[Path], object]
    ask: Callable[[str], str]


def open_state(
    device: Path, home: Home, tpm: Tpm, firmware: Firmware, progress: Progress, around: Surroundings
) -> None:
    """Mount the state.

    Raises:
        BootError: ``state-sealed``: the TPM does not give the key, and nobody gave the recovery
            key.
        TpmError, HostError: the TPM or Linux refuses.
    """
    record = read_record(home)
    pcrs = [pcr for pcr, _ in record.sealed.pcrs] if record else sealing.SEALED_PCRS
    values = tpm.read_pcrs([sealing.BANK], pcrs)[sealing.BANK]
    events = firmware_events(firmware)
    if record is None:
        key = secrets.token_bytes(sealing.KEY_SIZE)
        sealed = seal_state(tpm, key, values, events)
        record = new_record(key, secrets.token_bytes(sealing.RECOVERY_SIZE), sealed)
        write_record(home, record)
    else:
        key, anew = _key(record, tpm, values, events, progress, around.ask)
        if anew and sealing.can_seal(pcrs, values):
            sealed = seal_state(tpm, key, values, events)
            record = replace(record, serial=record.serial + 1, sealed=sealed)
            write_record(home, record)
    view = around.crypt(device, key)
    handed = handedover.take(device)
    if record.fresh:
        write_template(TEMPLATE, view)
        recovery = secrets.token_bytes(sealing.RECOVERY_SIZE)
        record = replace(new_record(key, recovery, record.sealed), serial=record.serial + 1)
        around.mount(view)
        if handed:
            write_file(home.state / handedover.FIRST, handed, mode=0o600)
        text = sealing.recovery_text(recovery)
        write_recovery(home, {record.recovery_id: text})
        write_record(home, replace(record, fresh=False))
        progress.tell("state", recoveryId=record.recovery_id, recoveryKey=text)
        groups = text.split("-")
        add_first_words(
            home,
            f"Recovery key {record.recovery_id}:",
            *("  " + "-".join(groups[start : start + 8]) for start in (0, 8)),
        )
    else:
        around.mount(view)
    if handed:  # also where the first start was cut off before it came here
        handedover.erase(device)


def new_record(key: bytes, recovery: bytes, sealed: Sealed) -> StateKey:
    """Return the record of a state whose file system is still to be written."""
    identifier = str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))
    nonce = secrets.token_bytes(sealing.NONCE_SIZE)
    box = sealing.wrap(key, recovery, identifier, nonce)
    return StateKey(1, identifier, nonce, box, sealed, fresh=True)


def seal_state(
    tpm: Tpm, key: bytes, values: dict[int, bytes], events: tuple[tuple[str, str], ...]
) -> Sealed:
    """Seal the state's key to PCRs; ``events`` explain a later difference. Raises TpmError."""
    public, private = seal(tpm, key, values)
    return Sealed(tuple(sorted(values.items())), public, private, events)


def read_record(home: Home) -> StateKey | None:
    """Return the newest readable record of the banks."""
    found = []
    for bank in home.banks:
        with suppress(OSError, CasemateError), (bank / FILE).open("rb") as stream:
            found.append(parse_key(stream.read(SIZE_LIMIT + 1)))
    return max(found, key=lambda one: one.serial, default=None)


def write_record(home: Home, record: StateKey) -> None:
    """Write the record into both banks."""
    for bank in home.banks:
        write_file(bank / FILE, write_key(record))


def write_recovery(home: Home, keys: Mapping[str, str]) -> None:
    """Keep recovery keys, by the ids of their records, in the (encrypted) state."""
    content = "".join(f"{identifier} {text}\n" for identifier, text in keys.items())
    write_file(home.state / RECOVERY, content.encode(), mode=0o600)


def read_recovery(home: Home, record: StateKey) -> str:
    """Return the recovery key of a record; empty where another one is kept, or none."""
    try:
        lines = (home.state / RECOVERY).read_text().splitlines()
    except (OSError, ValueError):
        return ""
    keys = {identifier: text for identifier, _, text in (line.partition(" ") for line in lines)}
    return keys.get(record.recovery_id, "")


def firmware_events(firmware: Firmware) -> tuple[tuple[str, str], ...]:
    """Return name and digest of what firmware measured into the sealed PCRs."""
    if not firmware.log:
        return ()
    found = []
    for event in parse(firmware.log).events:
        if event.pcr in sealing.SEALED_PCRS:
            digest = dict(event.digests).get(sealing.BANK, b"").hex()
            found.append((_name(event.type, event.data), digest))
    return tuple(found)


def write_template(template: Path, device: Path) -> None:
    """Write an empty file system: block numbers (u32) and blocks, as the image has them.

    Raises BootError where it does not fit.
    """
    size = 4 + BLOCK
    with template.open("rb") as source, device.open("r+b") as target:
        while row := source.read(size):
            (number,) = struct.unpack_from("<I", row)
            target.seek(number * BLOCK)
            try:
                target.write(row[4:])
                target.flush()
            except OSError as error:
                raise BootError(
                    f"the state partition cannot take its file system: {error.strerror}",
                    code="state-size",
                    component="state",
                    remedy="Install the image on a disk with the partitions it was built with.",
                ) from error
        try:
            # The record will say that the file system is there.
            os.fsync(target.fileno())
        except OSError as error:
            raise from_os_error("the state is not kept", error, component="state") from error


def _key(
    record: StateKey,
    tpm: Tpm,
    values: dict[int, bytes],
    events: tuple[tuple[str, str], ...],
    progress: Progress,
    ask: Callable[[str], str],
) -> tuple[bytes, bool]:
    """Return the key, and whether it must be sealed anew."""
    sealed = record.sealed
    try:
        return unseal(tpm, sealed.public, sealed.private, [pcr for pcr, _ in sealed.pcrs]), False
    except TpmError as error:
        if error.code not in {"seal-pcrs", "seal-foreign"}:
            raise
        reason = error.reason
        if error.code == "seal-pcrs":
            pcrs = [pcr for pcr, value in sealed.pcrs if values.get(pcr) != value]
            changed = sealing.explanation(pcrs, sealed.events, events)
            what = f" Changed: {', '.join(changed)}." if changed else ""
            reason = (
                f"PCR {', '.join(map(str, pcrs)) or '7'} is not what the state was sealed to.{what}"
            )
    progress.tell("locked", reason=reason, recoveryId=record.recovery_id)
    told = (
        f"The state of this host stays encrypted: {reason}",
        f"Undo the change and restart, or give the recovery key {record.recovery_id}:",
    )
    question = "\n\n" + "\n\n".join(map(folded, told)) + "\n   > "
    for left in reversed(range(ATTEMPTS)):
        try:
            recovery = sealing.parse_recovery(ask(question))
            return sealing.unwrap(record.box, recovery, record.recovery_id, record.nonce), True
        except CasemateError as error:
            question = f"\n{folded(f'{error.reason} Try again, {left} times at most.')}\n   > "
    raise BootError(
        reason,
        code="state-sealed",
        component="state",
        remedy="Undo the change in the firmware's setup, or restart and give the recovery key.",
    )


def _name(kind: int, data: bytes) -> str:
    if kind in {EV_EFI_VARIABLE_DRIVER_CONFIG, EV_EFI_VARIABLE_AUTHORITY}:
        with suppress(CasemateError):
            name = parse_variable(data).name
            return f"authority from {name}" if kind == EV_EFI_VARIABLE_AUTHORITY else name
    return f"event {kind:#x}"
