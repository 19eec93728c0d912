"""Boot banks: which one boots, what its state becomes, and what happens when it fails.

The rules are ESXi's. The bank with the highest ``updated`` boots, unless it is not usable. A new
image starts as UPGRADING; its first boot makes it DIRTY; only a boot that completes makes it
VALID. A bank found DIRTY therefore failed once: it becomes INVALID and the other bank boots.
States are written before the boot goes on, so a power cut at any point leads to a bank that works.

Everything here is values; the caller reads the banks and writes the states.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from casemate.errors import BootError, Finding, StateError
from casemate.formats.bootcfg import BootCfg, BootState

TRIED: Final = "imagetried"
"""Key of a bank's boot.cfg: its boot image was asked for, and has not completed a boot yet."""

_REMEDY: Final = "Install a good image: casemate image build, then casemate up."


@dataclass(frozen=True, slots=True)
class Bank:
    """A bank as it was read: its boot.cfg, or why there is none."""

    name: str
    config: BootCfg | None
    problem: Finding | None = None


@dataclass(frozen=True, slots=True)
class BootPlan:
    """What to boot.

    ``states`` are to be written first, by bank name. ``others`` may be tried when ``bank`` fails,
    best first. ``findings`` say why better banks were passed over.
    """

    bank: Bank
    others: tuple[Bank, ...]
    states: tuple[tuple[str, BootState], ...]
    findings: tuple[Finding, ...]


def next_state(state: BootState) -> BootState:
    """Return the state a bank has once its boot begins.

    UPGRADING becomes DIRTY; DIRTY becomes INVALID, which means that it must not boot.
    """
    return _NEXT[state]


def plan_boot(banks: Iterable[Bank]) -> BootPlan:
    """Choose a bank.

    Raises:
        BootError: No bank can boot (code ``no-bank``); the reason names each bank's.
    """
    usable: list[Bank] = []
    states: list[tuple[str, BootState]] = []
    findings: list[Finding] = []
    for bank in sorted(banks, key=_serial, reverse=True):
        finding = _unusable(bank)
        if finding is None:
            usable.append(bank)
            continue
        findings.append(finding)
        states += _begun(bank)
    if not usable:
        raise _no_bank(findings)
    return _plan(usable, states, findings)


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """What to do where every bank has a boot image of its own, which firmware starts.

    ``start`` tells that the machine must start again with the image of ``plan.bank``; the bank may
    be booted at once otherwise. The images of the banks in ``failed`` did not start.
    """

    plan: BootPlan
    start: bool
    failed: tuple[str, ...] = ()


def plan_image(banks: Iterable[Bank], images: Mapping[str, str], running: str) -> ImagePlan:
    """Choose a bank and the boot image that boots it.

    A bank is booted by its own image only. One whose image was asked for (``TRIED``), and that
    another image finds here all the same, has an image that firmware refuses or that Linux dies in.

    Args:
        banks: as they were read.
        images: bank to the identity of the boot image in it; empty or absent where it has none.
        running: identity of the image that runs.

    Raises:
        BootError: No bank can boot (code ``no-bank``).
    """
    left = list(banks)
    failed: list[str] = []
    while True:
        plan = plan_boot(left)
        bank = plan.bank
        if images.get(bank.name, "") in ("", running):
            return ImagePlan(plan, bool(failed), tuple(failed))
        if bank.config is None or TRIED not in dict(bank.config.extra):
            return ImagePlan(plan, True, tuple(failed))
        failed.append(bank.name)
        gone = replace(bank, config=replace(bank.config, bootstate=BootState.INVALID))
        left[left.index(bank)] = gone


def mark_tried(config: BootCfg) -> BootCfg:
    """Return the configuration of a bank whose boot image is asked for."""
    return replace(config, extra=(*_untried(config), (TRIED, "1")))


def after_failure(plan: BootPlan, failure: Finding) -> BootPlan:
    """Return the plan after the chosen bank failed to boot, in the same boot.

    The failed bank becomes INVALID when it was a new image on trial, and stays VALID when it once
    worked: what made it fail (a wrong clock, a host without its device) may pass.

    Raises:
        BootError: No other bank is left (code ``no-bank``).
    """
    findings = (*plan.findings, replace(failure, component=plan.bank.name))
    if not plan.others:
        raise _no_bank(findings)
    on_trial = plan.bank.config is not None and plan.bank.config.bootstate is not BootState.VALID
    states = [(plan.bank.name, BootState.INVALID)] if on_trial else []
    return _plan(plan.others, states, findings)


def mark_complete(config: BootCfg) -> BootCfg:
    """Return the configuration of a bank whose boot completed."""
    return replace(config, bootstate=BootState.VALID, extra=_untried(config))


def plan_rollback(banks: Iterable[Bank], running: str) -> BootPlan:
    """Return the plan that makes the other bank boot next: the running one becomes INVALID.

    Raises:
        StateError: No other bank could boot (code ``no-rollback``).
    """
    others = [bank for bank in banks if bank.name != running]
    try:
        plan = plan_boot(others)
    except BootError as error:
        raise StateError(
            f"There is nothing to roll back to. {error.reason}",
            code="no-rollback",
            component=running,
            remedy="Install the image that you want: esxcli software profile update.",
        ) from error
    return replace(plan, states=((running, BootState.INVALID), *plan.states))


def stage(banks: Sequence[Bank], running: str, config: BootCfg) -> tuple[str, BootCfg]:
    """Return the bank that a new image goes to, and its configuration: newest, and on trial.

    Raises:
        StateError: There is no bank beside the running one (code ``no-bank``).
    """
    others = [bank for bank in banks if bank.name != running]
    if not others:
        raise StateError(
            "There is no second boot bank for the new image.",
            code="no-bank",
            component=running,
            remedy="Make the directory altbootbank in the host's home.",
        )
    newest = max(_serial(bank) for bank in banks)
    target = min(others, key=_serial)
    return target.name, replace(config, updated=newest + 1, bootstate=BootState.UPGRADING)


_NEXT: Final = {
    BootState.UNDEFINED: BootState.INVALID,
    BootState.VALID: BootState.VALID,
    BootState.UPGRADING: BootState.DIRTY,
    BootState.DIRTY: BootState.INVALID,
    BootState.INVALID: BootState.INVALID,
}
_REASONS: Final = {
    BootState.UNDEFINED: ("bank-undefined", "says nothing about its state"),
    BootState.DIRTY: ("bank-dirty", "did not complete its last boot"),
    BootState.INVALID: ("bank-invalid", "failed before, or was rolled back"),
}
"""The states in which a bank must not boot, with code and reason."""


def _untried(config: BootCfg) -> tuple[tuple[str, str], ...]:
    return tuple(pair for pair in config.extra if pair[0] != TRIED)


def _plan(
    usable: Sequence[Bank],
    states: Sequence[tuple[str, BootState]],
    findings: Sequence[Finding],
) -> BootPlan:
    chosen = usable[0]
    begun = (*states, *_begun(chosen))
    return BootPlan(chosen, tuple(usable[1:]), begun, tuple(findings))


def _begun(bank: Bank) -> list[tuple[str, BootState]]:
    """Return the state to write as the boot begins, when it differs from the present one."""
    if bank.config is None or bank.config.bootstate is BootState.UNDEFINED:
        return []
    state = next_state(bank.config.bootstate)
    return [(bank.name, state)] if state is not bank.config.bootstate else []


def _serial(bank: Bank) -> int:
    return -1 if bank.config is None else bank.config.updated


def _unusable(bank: Bank) -> Finding | None:
    """Return why a bank must not boot, None when it may."""
    config = bank.config
    if config is None:
        return bank.problem or Finding(
            "bank-empty", bank.name, f"{bank.name} has no boot.cfg.", _REMEDY
        )
    if config.updated < 1:
        return Finding("bank-empty", bank.name, f"{bank.name} was never installed.", _REMEDY)
    if config.bootstate not in _REASONS:
        return None
    code, why = _REASONS[config.bootstate]
    return Finding(code, bank.name, f"{bank.name} {why}.", _REMEDY)


def _no_bank(findings: Iterable[Finding]) -> BootError:
    reasons = [f"{finding.component}: {finding.reason}" for finding in findings]
    return BootError(
        f"No boot bank can boot. {' '.join(reasons) or 'There is none.'}",
        code="no-bank",
        remedy=_REMEDY,
    )
