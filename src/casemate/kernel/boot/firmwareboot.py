"""Which boot image the machine's firmware starts next: its variables, changed as little as can be.

Each bank with a boot image of its own has a boot option. A new image is tried once (BootNext): if
firmware refuses it, or Linux in it ends before it says anything, the next start is that of the
bank that completed last (BootOrder), without anybody's doing.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

from casemate.errors import FormatError, HostError
from casemate.formats.bootoption import option_name, parse_order, write_order
from casemate.formats.efivars import BOOT_SERVICE, GLOBAL, LOADER, NON_VOLATILE, RUNTIME
from casemate.kernel.files import write_file
from casemate.kernel.home import Home

VARIABLES = Path("/sys/firmware/efi/efivars")
ATTRIBUTES = NON_VOLATILE | BOOT_SERVICE | RUNTIME
VARIABLE_LIMIT = 64 << 10
"""Bytes of a variable that is read; a boot option has some hundred."""
OPTIONS = 0x200
"""Numbers of options that are looked through."""
RECORD = "bootoptions.json"
"""File in the record of the boot: bank to its boot option, in hex."""


class FirmwareBoot:
    """The boot options of a machine's banks.

    Args:
        options: bank to EFI_LOAD_OPTION.
        place: where the firmware's variables are mounted.
    """

    def __init__(self, options: Mapping[str, bytes], place: Path | None = None) -> None:
        self._options = dict(options)
        self._place = place or VARIABLES

    def once(self, bank: str) -> None:
        """Have a bank's boot image started next, once. Raises HostError."""
        self._write("BootNext", write_order((self._number(bank, self._present()),)))

    def keep(self, bank: str) -> None:
        """Have a bank's boot image started from now on, the other after it. Raises HostError."""
        present = self._present()
        number = self._number(bank, present)
        ours = self._options.values()
        known = {n for n, content in present.items() if content in ours} - {number}
        try:
            others = parse_order(self._read("BootOrder") or b"")
        except FormatError:
            others = ()
        first = [one for one in others if one in known]
        rest = [one for one in others if one not in known and one != number]
        self._write("BootOrder", write_order((number, *first, *rest)))

    def record(self, home: Home) -> None:
        """Keep the options with the record of the boot."""
        facts = {bank: option.hex() for bank, option in self._options.items()}
        write_file(home.boot_record / RECORD, json.dumps(facts).encode())

    def _present(self) -> dict[int, bytes]:
        """Return the options that there are; each reading costs the whole machine a moment."""
        read = ((number, self._read(option_name(number))) for number in range(OPTIONS))
        return {number: content for number, content in read if content is not None}

    def _number(self, bank: str, present: Mapping[int, bytes]) -> int:
        """Return the number of a bank's option, which is written where it is lacking."""
        content = self._options.get(bank)
        if content is None:
            raise HostError(
                f"Firmware cannot start {bank}: the disk has no such partition.",
                code="boot-option",
                component=bank,
                remedy="Install the image again.",
            )
        number = next((n for n, known in present.items() if known == content), None)
        if number is None:
            number = next((n for n in range(OPTIONS) if n not in present), OPTIONS)
            self._write(option_name(number), content)
        return number

    def _path(self, name: str) -> Path:
        return self._place / f"{name}-{GLOBAL}"

    def _read(self, name: str) -> bytes | None:
        try:
            with self._path(name).open("rb") as stream:
                return stream.read(VARIABLE_LIMIT)[4:]
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _failed(name, error) from error

    def _write(self, name: str, content: bytes) -> None:
        """Write a variable in one piece, as firmware takes it; flash is spared where it is so."""
        if self._read(name) == content:
            return
        try:
            handle = os.open(
                self._path(name), os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644
            )
            try:
                os.write(handle, struct.pack("<I", ATTRIBUTES) + content)
            finally:
                os.close(handle)
        except OSError as error:
            raise _failed(name, error) from error


def started_partition(place: Path = VARIABLES) -> UUID | None:
    """Return the partition that the boot image came from, as systemd's stub tells; None: it cannot.

    Raises FormatError where it tells nonsense (``boot-variable``).
    """
    try:
        with (place / f"LoaderDevicePartUUID-{LOADER}").open("rb") as stream:
            text = stream.read(VARIABLE_LIMIT)[4:].decode("utf-16-le").rstrip("\0")
        return UUID(text)
    except OSError:
        return None
    except ValueError as error:
        raise FormatError(
            "firmware's word about the partition that it started is none",
            code="boot-variable",
            component="LoaderDevicePartUUID",
        ) from error


def recorded(home: Home) -> FirmwareBoot | None:
    """Return what the loader recorded; None where no firmware starts our banks."""
    try:
        facts = json.loads((home.boot_record / RECORD).read_bytes())
        return FirmwareBoot({str(b): bytes.fromhex(o) for b, o in facts.items()})
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _failed(name: str, error: OSError) -> HostError:
    return HostError(
        f"Firmware's variable {name} cannot be read or changed: {error.strerror}.",
        code="boot-variable",
        component=name,
        remedy="Choose the boot entry of the other bank in the firmware's menu.",
    )
