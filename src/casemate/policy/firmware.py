"""Appraisal of what firmware measured: PCR 0-7, event by event, without any reference.

A quote proves digests and their order within a PCR, never an event's type (TCG PC Client Platform
Firmware Profile 1.06, section 10). A liar may therefore call a measured boot loader something that
nobody looks at. So each PCR takes only the event types that belong there, the separator that ends
firmware's part stands in each PCR once, and what the digest contradicts is a finding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from casemate.errors import Finding, FormatError
from casemate.formats import eventtypes as ev
from casemate.formats.algorithms import digest
from casemate.formats.eventdata import (
    SEPARATOR_SIZE,
    SIGNATURE_VARIABLES,
    Claim,
    Separator,
    Text,
    decode,
    describe,
    judge,
)
from casemate.formats.eventlog import Event, EventLog
from casemate.formats.eventreview import WARNINGS, review
from casemate.formats.uefi import UefiVariable
from casemate.policy.firmwaretypes import CCEL_PCRS, legal_pcrs

FIRMWARE_PCRS: Final = range(8)
SECURE_BOOT_PCR: Final = 7
BOOT_LOADER_PCR: Final = 4
OPTION_ROM_PCRS: Final = frozenset({2, 3})
SECURE_BOOT_VARIABLES: Final = SIGNATURE_VARIABLES | {"SecureBoot", "AuditMode", "DeployedMode"}
SEPARATORS: Final = (bytes(4), b"\xff\xff\xff\xff")
MAX_FINDINGS: Final = 1000
"""Findings of one log; a hostile one could make tens of thousands."""
_DEBUG: Final = {
    "UEFI Debug Mode": ("firmware-debug", "firmware runs in debug mode"),
    "DMA Protection Disabled": ("dma-protection-off", "firmware does not protect against DMA"),
}
_REMEDY_LOG: Final = "Do not trust this log. Get it again from the host; keep quote and log."
_REMEDY_SETUP: Final = "Change it in the firmware's setup and boot again, or allow it by policy."


class Registers(StrEnum):
    """What the numbers in a log mean: PCRs, or the measurement registers of Intel TDX."""

    PCR = "pcr"
    CCEL = "ccel"


@dataclass(frozen=True, slots=True)
class FirmwareRules:
    """What a policy may ask of firmware beyond a well-formed log."""

    require_secure_boot: bool = False
    allow_debug: bool = False
    allow_dma: bool = False
    registers: Registers | None = None


@dataclass(frozen=True, slots=True)
class FirmwareResult:
    """What came out; ``secure_boot`` is None where no proven event says it."""

    findings: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    secure_boot: bool | None
    registers: Registers


def registers_of(log: EventLog) -> Registers:
    """Tell PCRs from TDX registers: a CCEL has one bank, SHA-384, and registers 0-4 only."""
    known = all(event.pcr in CCEL_PCRS for event in log.events)
    twice = any(event.type == ev.EV_SEPARATOR and event.pcr not in {1, 2} for event in log.events)
    is_ccel = log.banks == ("sha384",) and known and not twice and log.events
    return Registers.CCEL if is_ccel else Registers.PCR


def appraise_firmware(log: EventLog, rules: FirmwareRules | None = None) -> FirmwareResult:
    """Judge the events of PCR 0-7 by what must hold on any machine.

    Codes of findings: ``unknown-event-type``, ``illegal-type-for-pcr``, ``duplicate-separator``,
    ``event-order``, ``firmware-debug``, ``dma-protection-off``, ``secure-boot-off``, and those of
    ``formats.eventreview`` (``event-data``, ``firmware-error``). Codes of warnings:
    ``missing-exit-boot-services``, ``separator-missing``, ``separator-unusual``,
    ``secure-boot-variable``, ``event-type-vendor``, ``no-action-digest``, ``bank-incomplete``.
    """
    chosen = rules or FirmwareRules()
    judge_ = _Judge(log, chosen)
    findings: list[Finding] = []
    warnings: list[Finding] = []
    for one in review(log):
        (warnings if one.code in WARNINGS else findings).append(one)
    for is_finding, one in judge_.run():
        (findings if is_finding else warnings).append(one)
    if chosen.require_secure_boot and judge_.secure_boot is not True:
        findings.append(
            Finding(
                "secure-boot-off",
                "Secure Boot",
                "the log proves no Secure Boot, which the policy asks for",
                _REMEDY_SETUP,
            )
        )
    return FirmwareResult(
        tuple(findings[:MAX_FINDINGS]),
        tuple(warnings[:MAX_FINDINGS]),
        judge_.secure_boot,
        judge_.registers,
    )


class _Judge:
    def __init__(self, log: EventLog, rules: FirmwareRules) -> None:
        self._log = log
        self._rules = rules
        self.registers = rules.registers or registers_of(log)
        self._bank = next((b for b in ("sha256", "sha384", "sha512") if b in log.banks), "")
        self._bank = self._bank or (log.banks[0] if log.banks else "")
        self._separators = {digest(self._bank, one) for one in SEPARATORS} if self._bank else set()
        self._ended: set[int] = set()
        self.secure_boot: bool | None = None

    def run(self) -> Iterator[tuple[bool, Finding]]:
        first = self._log.count - len(self._log.events)
        seen: set[int] = set()
        for index, event in enumerate(self._log.events, first):
            if event.type == ev.EV_NO_ACTION or event.pcr not in FIRMWARE_PCRS:
                continue
            seen.add(event.pcr)
            yield from self._event(event, f"event {index}")
        if self.registers is Registers.PCR:
            yield from self._missing(seen - self._ended)

    def _event(self, event: Event, component: str) -> Iterator[tuple[bool, Finding]]:
        yield from self._type(event, component)
        if event.type == ev.EV_SEPARATOR:
            yield from self._separator(event, component)
            return
        if event.pcr > 1 and event.digest(self._bank) in self._separators:
            yield (
                True,
                Finding(
                    "duplicate-separator",
                    component,
                    f"a separator of PCR {event.pcr} is called {ev.event_name(event.type)}",
                    _REMEDY_LOG,
                ),
            )
        if event.type == ev.EV_EFI_VARIABLE_DRIVER_CONFIG:
            yield from self._variable(event, component)
        elif event.type in {ev.EV_EFI_ACTION, ev.EV_ACTION}:
            yield from self._action(event, component)

    def _type(self, event: Event, component: str) -> Iterator[tuple[bool, Finding]]:
        pcrs = legal_pcrs(event.type)
        where = self._stands_for(event.pcr)
        name = ev.event_name(event.type)
        if pcrs is None:
            # Option ROMs have event types of their own; their data, where proven, is all there is.
            vendor = event.pcr in OPTION_ROM_PCRS and judge(event, self._bank) is Claim.PROVEN
            code = "event-type-vendor" if vendor else "unknown-event-type"
            reason = f"PCR {event.pcr} was extended by an event of unknown type {name}"
            yield not vendor, Finding(code, component, reason, _REMEDY_LOG)
        elif pcrs.isdisjoint(where):
            yield (
                True,
                Finding(
                    "illegal-type-for-pcr",
                    component,
                    f"an event of type {name} does not belong into PCR {event.pcr}",
                    _REMEDY_LOG,
                ),
            )

    def _stands_for(self, register: int) -> frozenset[int]:
        if self.registers is Registers.CCEL:
            return CCEL_PCRS.get(register, frozenset())
        return frozenset((register,))

    def _separator(self, event: Event, component: str) -> Iterator[tuple[bool, Finding]]:
        if event.pcr in self._ended:
            yield (
                True,
                Finding(
                    "duplicate-separator",
                    component,
                    f"PCR {event.pcr} has a second separator: what stands between them may have "
                    "been measured by something else than firmware",
                    _REMEDY_LOG,
                ),
            )
        self._ended.add(event.pcr)
        if len(event.data) != SEPARATOR_SIZE or (
            decode(event) != Separator(1) and event.data not in SEPARATORS
        ):
            yield (
                False,
                Finding(
                    "separator-unusual",
                    component,
                    f"the separator of PCR {event.pcr} says {describe(event)!r}",
                    "Nothing to do where this machine's firmware is known to do so.",
                ),
            )

    def _variable(self, event: Event, component: str) -> Iterator[tuple[bool, Finding]]:
        try:
            variable = decode(event)
        except FormatError:
            return
        if not isinstance(variable, UefiVariable) or variable.name not in SECURE_BOOT_VARIABLES:
            return
        if event.pcr in self._ended:
            yield (
                True,
                Finding(
                    "event-order",
                    component,
                    f"the variable {variable.name} was measured after the separator of "
                    f"PCR {event.pcr}, when it no longer came from firmware",
                    _REMEDY_LOG,
                ),
            )
        elif variable.name == "SecureBoot" and SECURE_BOOT_PCR in self._stands_for(event.pcr):
            # Elsewhere nobody may have quoted it, and who says two things has not said this one.
            if judge(event, self._bank) is Claim.PROVEN:
                self.secure_boot = variable.data == b"\1" and self.secure_boot is not False
            if len(variable.data) != 1:
                yield (
                    False,
                    Finding(
                        "secure-boot-variable",
                        component,
                        f"the variable SecureBoot has {len(variable.data)} bytes instead of 1",
                        "Update the machine's firmware; Secure Boot counts as off.",
                    ),
                )

    def _action(self, event: Event, component: str) -> Iterator[tuple[bool, Finding]]:
        text = decode(event)
        if not isinstance(text, Text) or text.text not in _DEBUG:
            return
        code, reason = _DEBUG[text.text]
        rules = self._rules
        allowed = rules.allow_debug if code == "firmware-debug" else rules.allow_dma
        yield not allowed, Finding(code, component, reason, _REMEDY_SETUP)

    def _missing(self, pcrs: Iterable[int]) -> Iterator[tuple[bool, Finding]]:
        for pcr in sorted(pcrs):
            boot = pcr == BOOT_LOADER_PCR
            yield (
                False,
                Finding(
                    "missing-exit-boot-services" if boot else "separator-missing",
                    f"PCR {pcr}",
                    f"PCR {pcr} has no separator, so it is open where firmware's part ends",
                    "Nothing to do where this machine's firmware is known to do so.",
                ),
            )


Quoted = Mapping[str, Mapping[int, bytes]]


def compare_quoted(
    log: EventLog,
    quoted: Quoted,
    replayed: Quoted,
    pcrs: Sequence[int] = tuple(FIRMWARE_PCRS),
) -> tuple[Finding, ...]:
    """Compare what a log replays to with what was quoted, in every quoted bank.

    Codes: ``log-bank`` (a quoted bank is not in the log, or not whole), ``replay-mismatch``,
    ``quote-behind-log`` (the quoted value is one that the log passes through: a race, ask again).
    """
    events: dict[int, list[Event]] = defaultdict(list)
    for event in log.events:
        if event.type != ev.EV_NO_ACTION:
            events[event.pcr].append(event)
    findings: list[Finding] = []
    for bank, values in quoted.items():
        wanted = [pcr for pcr in pcrs if pcr in values]
        if wanted and (bank not in replayed or _incomplete(events, wanted, bank)):
            findings.append(
                Finding(
                    "log-bank",
                    "event log",
                    f"the log does not cover bank {bank}, which was quoted",
                    "Let firmware measure into this bank, or appraise another one.",
                )
            )
            continue
        for pcr in wanted:
            start = b"\0" * len(values[pcr])
            if values[pcr] == replayed[bank].get(pcr, start):
                continue
            findings.append(_mismatch(events[pcr], bank, pcr, values[pcr], replayed[bank]))
    return tuple(findings)


def _incomplete(events: Mapping[int, Sequence[Event]], pcrs: Iterable[int], bank: str) -> bool:
    return any(event.digest(bank) is None for pcr in pcrs for event in events.get(pcr, ()))


def _mismatch(
    events: Sequence[Event], bank: str, pcr: int, quoted: bytes, replayed: Mapping[int, bytes]
) -> Finding:
    for locality in (0, 3, 4) if pcr == 0 else (0,):
        value = bytes(len(quoted) - 1) + bytes((locality,))
        for event in events:
            if value == quoted:
                return Finding(
                    "quote-behind-log",
                    f"PCR {pcr}",
                    f"the log has events that PCR {pcr} had not seen when it was quoted",
                    "Ask for quote and log again; if it stays so, do not trust this host.",
                )
            value = digest(bank, value + (event.digest(bank) or b""))
    found = replayed.get(pcr)
    return Finding(
        "replay-mismatch",
        f"PCR {pcr}",
        f"PCR {pcr} is {quoted.hex()} in bank {bank}, the log leads to "
        f"{found.hex() if found else 'nothing'}",
        _REMEDY_LOG,
    )
