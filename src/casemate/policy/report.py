"""The vSphere attestation report of a measured boot, made from the raw event log.

``HostSystem.QueryTpmAttestationReport`` has no nonce and no signature: it shows what the log says.
A verifier judges the quote and the raw log, and compares this view with them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from casemate.errors import FormatError
from casemate.formats import eventlog, tagged
from casemate.formats.eventlog import Event
from casemate.formats.eventtypes import EV_EVENT_TAG, EV_NO_ACTION, TXT_HASH_START
from casemate.vim25.values import Obj

EVENT_LIMIT = 1000
"""Events of one report: ESXi's kernel records no more, and marks a longer log as unreliable."""

METHODS: Mapping[str, str] = {
    "sha1": "SHA1",
    "sha256": "SHA256",
    "sha384": "SHA384",
    "sha512": "SHA512",
    "sm3_256": "SM3_256",
}
"""Our names of the algorithms, and the API's."""

PREBOOT = "TPM_EVENT_LOG_PREBOOT"
"""The component name of events from before the visor, as ESXi shows them."""


VISOR_PCRS = (*range(11, 15), *range(17, 23))
"""The PCRs that belong to the visor's own layouts: what is in them has to be in the log."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The VIB that a component comes from."""

    name: str = ""
    version: str = ""
    vendor: str = ""


def pcr_values(values: Mapping[int, bytes], bank: str = "sha256") -> tuple[Obj, ...]:
    """Return PCR values as HostTpmDigestInfo, ascending."""
    return tuple(
        Obj(
            "HostTpmDigestInfo",
            digestMethod=METHODS[bank],
            digestValue=value,
            objectName=f"PCR {index}",
            pcrNumber=index,
        )
        for index, value in sorted(values.items())
    )


def attestation_report(
    log: bytes,
    values: Mapping[int, bytes],
    origins: Mapping[str, Origin],
    *,
    complete: bool,
    bank: str = "sha256",
) -> Obj:
    """Return the HostTpmAttestationReport.

    Args:
        log: the raw TCG event log.
        values: the TPM's PCR values of the bank.
        origins: component file name to the VIB it comes from.
        complete: whether the boot was completed and everything in it is accounted for.
        bank: the bank to show.

    Raises:
        FormatError: the log cannot be read.
    """
    parsed = eventlog.parse(log)
    extending = [event for event in parsed.events if event.type != EV_NO_ACTION]
    shown = [event for event in extending if event.digest(bank) is not None]
    replayed = eventlog.replay_events(extending, (bank,))[bank]
    explained = all(values.get(index) == value for index, value in replayed.items()) and all(
        index in replayed or _untouched(values.get(index, b"")) for index in VISOR_PCRS
    )
    whole = len(shown) == len(extending) <= EVENT_LIMIT
    return Obj(
        "HostTpmAttestationReport",
        tpmPcrValues=pcr_values(values, bank),
        tpmEvents=tuple(_entry(event, bank, origins) for event in shown[:EVENT_LIMIT]),
        tpmLogReliable=complete and whole and explained,
    )


def _untouched(value: bytes) -> bool:
    """Tell whether a PCR has its value after a reset: zeros, or ones where no launch happened."""
    return not value.strip(b"\0") or not value.strip(b"\xff")


def _entry(event: Event, bank: str, origins: Mapping[str, Origin]) -> Obj:
    digest = event.digest(bank) or b""
    return Obj(
        "HostTpmEventLogEntry",
        pcrIndex=event.pcr,
        eventDetails=_details(event, origins).replace(
            dataHash=digest, dataHashMethod=METHODS[bank]
        ),
    )


def _details(event: Event, origins: Mapping[str, Origin]) -> Obj:
    if event.type not in {EV_EVENT_TAG, TXT_HASH_START}:
        return _component(PREBOOT, {})
    try:
        item = tagged.parse_tagged(event.data)
    except FormatError:
        return _component(PREBOOT, {})
    return _tagged(item, origins)


def _tagged(item: tagged.TaggedEvent, origins: Mapping[str, Origin]) -> Obj:
    if item.tag == tagged.TAG_MOD:
        return _component(_text(item.data), origins)
    if item.tag == tagged.TAG_VERSION:
        return Obj("HostTpmVersionEventDetails", version=item.data)
    if item.tag == tagged.TAG_BOOT_COMPLETE:
        return Obj("HostTpmBootCompleteEventDetails")
    name, field = _TEXT_TYPES.get(item.tag, _OPTION)
    return Obj(name, **{field: _text(item.data)})


_OPTION = ("HostTpmBootSecurityOptionEventDetails", "bootSecurityOption")
_TEXT_TYPES = {
    tagged.TAG_BOOT_OPT: ("HostTpmOptionEventDetails", "optionsFileName"),
    tagged.TAG_CMD_OPT: ("HostTpmCommandEventDetails", "commandLine"),
    tagged.TAG_SYSTEM_VERSION: ("HostTpmSystemVersionEventDetails", "systemVersion"),
    tagged.TAG_TAG: ("HostTpmNvTagEventDetails", "bootSecurityOption"),
    tagged.TAG_SIGNER: ("HostTpmSignerEventDetails", "bootSecurityOption"),
}


def _component(name: str, origins: Mapping[str, Origin]) -> Obj:
    origin = origins.get(name, Origin())
    return Obj(
        "HostTpmSoftwareComponentEventDetails",
        componentName=name,
        vibName=origin.name,
        vibVersion=origin.version,
        vibVendor=origin.vendor,
    )


def _text(data: bytes) -> str:
    """Return measured bytes as text; a certificate, also behind a text and NUL, as its SHA-256."""
    head, nul, rest = data.partition(b"\0")
    shown = _printable(head)
    if shown is None:
        return f"sha256:{hashlib.sha256(data).hexdigest()}"
    if nul and rest:
        return f"{shown} sha256:{hashlib.sha256(rest).hexdigest()}"
    return shown


def _printable(data: bytes) -> str | None:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() else None
