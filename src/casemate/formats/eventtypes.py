"""Event types of TCG logs: PC Client Platform Firmware Profile, Intel TXT, tboot, Secure Launch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

EV_PREBOOT_CERT: Final = 0x0
EV_POST_CODE: Final = 0x1
EV_UNUSED: Final = 0x2
EV_NO_ACTION: Final = 0x3
EV_SEPARATOR: Final = 0x4
EV_ACTION: Final = 0x5
EV_EVENT_TAG: Final = 0x6
EV_S_CRTM_CONTENTS: Final = 0x7
EV_S_CRTM_VERSION: Final = 0x8
EV_CPU_MICROCODE: Final = 0x9
EV_PLATFORM_CONFIG_FLAGS: Final = 0xA
EV_TABLE_OF_DEVICES: Final = 0xB
EV_COMPACT_HASH: Final = 0xC
EV_IPL: Final = 0xD
EV_IPL_PARTITION_DATA: Final = 0xE
EV_NONHOST_CODE: Final = 0xF
EV_NONHOST_CONFIG: Final = 0x10
EV_NONHOST_INFO: Final = 0x11
EV_OMIT_BOOT_DEVICE_EVENTS: Final = 0x12
EV_POST_CODE2: Final = 0x13

TXT_PCR_MAPPING: Final = 0x401
TXT_HASH_START: Final = 0x402
TXT_COMBINED_HASH: Final = 0x403
TXT_MLE_HASH: Final = 0x404
TXT_BIOSAC_REG_DATA: Final = 0x40A
TXT_CPU_SCRTM_STAT: Final = 0x40B
TXT_LCP_CONTROL_HASH: Final = 0x40C
TXT_ELEMENTS_HASH: Final = 0x40D
TXT_STM_HASH: Final = 0x40E
TXT_OSSINITDATA_CAP_HASH: Final = 0x40F
TXT_SINIT_PUBKEY_HASH: Final = 0x410
TXT_LCP_HASH: Final = 0x411
TXT_LCP_DETAILS_HASH: Final = 0x412
TXT_LCP_AUTHORITIES_HASH: Final = 0x413
TXT_NV_INFO_HASH: Final = 0x414
TXT_COLD_BOOT_BIOS_HASH: Final = 0x415
TXT_KM_HASH: Final = 0x416
TXT_BPM_HASH: Final = 0x417
TXT_KM_INFO_HASH: Final = 0x418
TXT_BPM_INFO_HASH: Final = 0x419
TXT_BOOT_POL_HASH: Final = 0x41A
TXT_CAP_VALUE: Final = 0x4FF
TBOOT_MODULE: Final = 0x501
SLAUNCH_EVENT: Final = 0x502
SLAUNCH_START: Final = 0x503
SLAUNCH_END: Final = 0x504

EV_EFI_VARIABLE_DRIVER_CONFIG: Final = 0x80000001
EV_EFI_VARIABLE_BOOT: Final = 0x80000002
EV_EFI_BOOT_SERVICES_APPLICATION: Final = 0x80000003
EV_EFI_BOOT_SERVICES_DRIVER: Final = 0x80000004
EV_EFI_RUNTIME_SERVICES_DRIVER: Final = 0x80000005
EV_EFI_GPT_EVENT: Final = 0x80000006
EV_EFI_ACTION: Final = 0x80000007
EV_EFI_PLATFORM_FIRMWARE_BLOB: Final = 0x80000008
EV_EFI_HANDOFF_TABLES: Final = 0x80000009
EV_EFI_PLATFORM_FIRMWARE_BLOB2: Final = 0x8000000A
EV_EFI_HANDOFF_TABLES2: Final = 0x8000000B
EV_EFI_VARIABLE_BOOT2: Final = 0x8000000C
EV_EFI_GPT_EVENT2: Final = 0x8000000D
EV_EFI_HCRTM_EVENT: Final = 0x80000010
EV_EFI_VARIABLE_AUTHORITY: Final = 0x800000E0
EV_EFI_SPDM_FIRMWARE_BLOB: Final = 0x800000E1
EV_EFI_SPDM_FIRMWARE_CONFIG: Final = 0x800000E2
EV_EFI_SPDM_DEVICE_POLICY: Final = 0x800000E3
EV_EFI_SPDM_DEVICE_AUTHORITY: Final = 0x800000E4

CEL_CONTENT: Final = 0x10000
"""Content of a canonical event log that is no PC Client event; no log in TCG form has this type."""

EVENT_NAMES: Mapping[int, str] = MappingProxyType(
    {
        value: name
        for name, value in list(globals().items())
        if name.startswith(("EV_", "TXT_", "TBOOT_", "SLAUNCH_", "CEL_"))
    }
)
"""Names by number."""


def event_name(event_type: int) -> str:
    """Return the name of an event type, or its number in hexadecimal."""
    return EVENT_NAMES.get(event_type) or f"0x{event_type:08x}"
