"""What firmware did before us: its event log, and whether Secure Boot was in force.

The log is read from where Linux keeps it; its words are believed by nobody here. That Secure Boot
was on is a security option which is measured again, and a verifier compares PCR 7 as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from casemate.errors import BootError
from casemate.formats import eventlog
from casemate.formats.eventtypes import EV_EFI_VARIABLE_DRIVER_CONFIG
from casemate.formats.uefi import parse_variable

LOG = Path("/sys/kernel/security/tpm0/binary_bios_measurements")
LOG_LIMIT = 16 << 20
"""Bytes: real logs have 20 to 100 KiB."""


@dataclass(frozen=True, slots=True)
class Firmware:
    """Firmware's log with its banks in log order; empty where no firmware measured anything."""

    log: bytes = b""
    banks: tuple[str, ...] = ()
    secure_boot: bool = False


NO_FIRMWARE = Firmware()
"""On an installed Linux the host's measurements begin with the launch."""


def read_firmware(path: Path = LOG) -> Firmware:
    """Read firmware's log. Raises BootError where there is none, FormatError where it is bad."""
    try:
        with path.open("rb") as stream:
            data = stream.read(LOG_LIMIT)
    except OSError as error:
        raise BootError(
            f"firmware's event log cannot be read: {error.strerror}",
            code="firmware-log",
            component="firmware",
            remedy="Switch the TPM on in the firmware's setup, as TPM 2.0 with the agile log.",
        ) from error
    log = eventlog.parse(data)
    enforced = [
        variable.data == b"\1"
        for event in log.events
        if event.type == EV_EFI_VARIABLE_DRIVER_CONFIG
        and (variable := parse_variable(event.data)).name == "SecureBoot"
    ]
    return Firmware(data, log.banks, enforced == [True])
