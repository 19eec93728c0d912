"""Which event types belong into which of PCR 0-7.

TCG PC Client Platform Firmware Profile 1.06, sections 2.3.4 and 10.4.1, widened where shipped
firmware (option ROMs, legacy boot, OpenPOWER) is known to differ. PCR 4 and 7, where a retyped
event would hide a boot loader or a key, take only what the profile gives them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from casemate.formats import eventtypes as ev

_ALL: Final = frozenset(range(8))
_CODE: Final = frozenset({0, 2, 4})
_CONFIG: Final = frozenset({1, 3, 5, 7})
_OPEN: Final = _ALL - {4, 7}

_LEGAL: Final[Mapping[int, frozenset[int]]] = {
    ev.EV_PREBOOT_CERT: _OPEN,
    ev.EV_POST_CODE: frozenset({0, 1, 2, 3}),
    ev.EV_POST_CODE2: frozenset({0, 1, 2, 3}),
    ev.EV_SEPARATOR: _ALL,
    ev.EV_ACTION: _ALL,
    ev.EV_EVENT_TAG: _ALL - {7},
    ev.EV_S_CRTM_CONTENTS: frozenset({0}),
    ev.EV_S_CRTM_VERSION: frozenset({0}),
    ev.EV_CPU_MICROCODE: frozenset({0, 1}),
    ev.EV_PLATFORM_CONFIG_FLAGS: _OPEN,
    ev.EV_TABLE_OF_DEVICES: frozenset({0, 1, 2, 3}),
    ev.EV_COMPACT_HASH: _ALL - {7},
    ev.EV_IPL: frozenset({4, 5}),
    ev.EV_IPL_PARTITION_DATA: frozenset({5}),
    ev.EV_NONHOST_CODE: frozenset({0, 2}),
    ev.EV_NONHOST_CONFIG: frozenset({1, 3}),
    ev.EV_NONHOST_INFO: frozenset({0, 1, 2, 3}),
    ev.EV_OMIT_BOOT_DEVICE_EVENTS: frozenset({4, 5}),
    ev.EV_EFI_VARIABLE_DRIVER_CONFIG: _CONFIG,
    ev.EV_EFI_VARIABLE_BOOT: frozenset({1, 5}),
    ev.EV_EFI_VARIABLE_BOOT2: frozenset({1, 5}),
    ev.EV_EFI_BOOT_SERVICES_APPLICATION: frozenset({2, 4}),
    ev.EV_EFI_BOOT_SERVICES_DRIVER: _CODE,
    ev.EV_EFI_RUNTIME_SERVICES_DRIVER: _CODE,
    ev.EV_EFI_GPT_EVENT: frozenset({5}),
    ev.EV_EFI_GPT_EVENT2: frozenset({5}),
    ev.EV_EFI_ACTION: _ALL,
    ev.EV_EFI_PLATFORM_FIRMWARE_BLOB: frozenset({0, 1, 2, 3}),
    ev.EV_EFI_PLATFORM_FIRMWARE_BLOB2: frozenset({0, 1, 2, 3}),
    ev.EV_EFI_HANDOFF_TABLES: frozenset({0, 1}),
    ev.EV_EFI_HANDOFF_TABLES2: frozenset({0, 1}),
    ev.EV_EFI_HCRTM_EVENT: frozenset({0}),
    ev.EV_EFI_VARIABLE_AUTHORITY: frozenset({7}),
    ev.EV_EFI_SPDM_FIRMWARE_BLOB: frozenset({2}),
    ev.EV_EFI_SPDM_FIRMWARE_CONFIG: frozenset({3}),
    ev.EV_EFI_SPDM_DEVICE_POLICY: frozenset({7}),
    ev.EV_EFI_SPDM_DEVICE_AUTHORITY: frozenset({7}),
}

CCEL_PCRS: Final[Mapping[int, frozenset[int]]] = {
    0: frozenset({0}),
    1: frozenset({0, 1, 7}),
    2: frozenset({2, 3, 4, 5, 6}),
    3: _ALL,
    4: _ALL,
}
"""The PCRs that each measurement register of an Intel TDX guest stands for (0 MRTD, 1-4 RTMR)."""


def legal_pcrs(event_type: int) -> frozenset[int] | None:
    """Return the PCRs into which a type belongs, None for a type that nobody defined or uses."""
    return _LEGAL.get(event_type)
