"""Differences in words: one finding a thing, with what was expected, what was found, what to do.

A changed component shows in two PCRs, in its version record and in the image database; it is one
finding all the same, named after its VIB.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from casemate.errors import Finding
from casemate.formats.eventlog import Event
from casemate.formats.manifest import ComponentRef, ExpectedEvent
from casemate.formats.text import escape
from casemate.policy.compare import Change, Difference
from casemate.policy.describe import FIRMWARE_KINDS, Kind, contradiction, describe
from casemate.policy.processaudit import VIOLATION

IMAGE_DATABASE = "imgdb.tgz"
"""It changes with every VIB, so it is named only where nothing else explains its change."""

GOOD = "good"
UNPROVEN = "unproven"

_FILES = frozenset({Kind.LAUNCH, Kind.COMPONENT, Kind.BOOT_OPTION_FILE, Kind.VERSION})
_REMEDY_IMAGE = (
    "Boot the image of the reference; if this image is meant, make its reference: "
    "casemate image reference."
)
_REMEDY_FALSIFIED = (
    "Do not trust this host: the TPM proves another log. Boot it again from a good image."
)
_NOUNS = {
    Kind.COMMAND_LINE: "the boot options",
    Kind.SECURITY_OPTION: "the security option",
    Kind.ASSET_TAG: "the asset tag",
    Kind.SIGNER: "the signer",
    Kind.TRUST_ANCHOR: "the trust anchor",
    Kind.SYSTEM_VERSION: "the system version",
    Kind.SECURE_BOOT: "the Secure Boot setting",
    Kind.BOOT_LOADER: "what firmware started, the",
    Kind.BOOT_IMAGE: "the part of the boot image",
    Kind.OTHER: "the event",
}


@dataclass(frozen=True, slots=True)
class ComponentClaim:
    """What the host says about a component; ``digest`` (SHA-256) ties it to the log."""

    file_name: str
    vib_name: str
    vib_version: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class ComponentResult:
    """One line of the verdict: a component, what it should be, and what was found.

    ``status`` is ``good``, ``unproven`` (its PCR does not follow from the log), or a change.
    Digests are of the first bank; ``claimed_version`` is what the host says it found.
    """

    component: ComponentRef
    pcrs: tuple[int, ...]
    status: str
    expected: bytes | None
    found: bytes | None
    claimed_version: str = ""


def explain(
    unlike: Sequence[Difference], falsified: frozenset[int], claims: Iterable[ComponentClaim] = ()
) -> tuple[Finding, ...]:
    """Return one finding for each thing that differs.

    Args:
        unlike: from ``compare.differences``.
        falsified: PCRs whose quoted value is the expected one although the log differs.
        claims: the host's own words about what it loaded.
    """
    known = tuple(claims)
    groups: dict[str, list[Difference]] = {}
    for one in unlike:
        if one.about.kind in _FILES:
            groups.setdefault(_group(one), []).append(one)
    database = groups.get(IMAGE_DATABASE)
    if database and len(groups) > 1 and all(d.change is Change.CHANGED for d in database):
        del groups[IMAGE_DATABASE]
    return (
        *(_component(members, falsified, known) for members in groups.values()),
        *(_event(one, falsified) for one in unlike if one.about.kind not in _FILES),
    )


def component_table(
    expected: Sequence[ExpectedEvent],
    unlike: Sequence[Difference],
    unproven: frozenset[int],
    claims: Iterable[ComponentClaim] = (),
) -> tuple[ComponentResult, ...]:
    """Return one result for each expected component in boot order, then what was added."""
    known = tuple(claims)
    changes: dict[str, Difference] = {}
    for one in unlike:
        if one.about.kind in _FILES - {Kind.VERSION}:
            changes.setdefault(one.about.name, one)
    rows: dict[str, ComponentResult] = {}
    for item in expected:
        about = describe(item.event)
        if about.kind not in _FILES - {Kind.VERSION} or item.component is None:
            continue
        row = rows.get(about.name)
        pcrs = (*(row.pcrs if row else ()), item.event.pcr)
        first = item.event.digests[0][1]
        change = changes.get(about.name)
        if change is not None and change.change is not Change.REORDERED:
            found = change.found.digests[0][1] if change.found else None
            version = _claimed(change.found, known)
            row = ComponentResult(item.component, pcrs, change.change.value, first, found, version)
        else:
            status = UNPROVEN if unproven.intersection(pcrs) else GOOD
            row = ComponentResult(item.component, pcrs, status, first, first)
        rows[about.name] = row
    added = (
        ComponentResult(
            ComponentRef(one.about.name),
            one.pcrs,
            Change.ADDED.value,
            None,
            one.found.digests[0][1] if one.found else None,
            _claimed(one.found, known),
        )
        for one in unlike
        if one.change is Change.ADDED and one.about.kind in _FILES - {Kind.VERSION}
    )
    return (*rows.values(), *added)


def _group(one: Difference) -> str:
    if one.component is not None and one.component.vib_id:
        return one.component.vib_id
    return one.about.name


def _component(
    members: Sequence[Difference], falsified: frozenset[int], claims: Sequence[ComponentClaim]
) -> Finding:
    order = tuple(Change)
    first = min(members, key=lambda d: (d.about.kind is Kind.VERSION, order.index(d.change)))
    lies = any(falsified.intersection(one.pcrs) for one in members)
    others = dict.fromkeys(d.about.name for d in members if d.about.name != first.about.name)
    same = {
        pcr
        for d in members
        if (d.about.name, d.change) == (first.about.name, first.change)
        and d.about.kind is not Kind.VERSION
        for pcr in d.pcrs
    }
    parts = [_sentence(first, same or first.pcrs, claims)]
    if others:
        parts.append(f"the same goes for {', '.join(others)}")
    if lies:
        parts.append("but the TPM has seen the expected boot: the log was falsified")
    component = first.component
    name = first.about.name
    if component is not None and component.vib_id:
        name = f"{first.about.name} ({component.vib_id})"
    return Finding(
        _code(first, lies=lies),
        name,
        "; ".join(parts),
        _REMEDY_FALSIFIED if lies else _REMEDY_IMAGE,
    )


def _code(one: Difference, *, lies: bool) -> str:
    if one.change is Change.REORDERED:
        return "log-events-reordered" if lies else "events-reordered"
    if lies:
        return f"log-event-{one.change.value}"
    if one.change is Change.RENAMED or _text_only(one):
        return "event-data"
    if one.change is Change.ADDED and one.late and one.about.kind in _FILES:
        return "runtime-component"
    if one.about.kind is Kind.BOOT_COMPLETE and one.change is Change.REMOVED:
        return "boot-incomplete"
    kind = Kind.COMPONENT if one.about.kind in _FILES else one.about.kind
    return "hardening-violation" if _is_violation(one) else f"{kind.value}-{one.change.value}"


def _sentence(one: Difference, pcrs: Iterable[int], claims: Sequence[ComponentClaim]) -> str:
    where = "PCR " + " and ".join(map(str, sorted(pcrs)))
    what = _expected_component(one)
    expected = _digest(one.expected)
    match one.change:
        case Change.CHANGED:
            version = _claimed(one.found, claims)
            said = f" (the host says version {version})" if version else ""
            return f"expected {what}, {expected}; found {_digest(one.found)}{said} in {where}"
        case Change.REMOVED:
            return f"expected {what}, {expected}; it is not in {where}"
        case Change.ADDED:
            version = _claimed(one.found, claims)
            said = f" (the host says version {version})" if version else ""
            when = "after Boot Complete" if one.late else "during the boot"
            return (
                f"{one.about.name}, {_digest(one.found)}{said}, was loaded {when} ({where}); "
                "the reference does not know it"
            )
        case Change.RENAMED:
            return f"expected {what}; the log calls it {one.found_about.name} in {where}"
        case Change.REORDERED:
            return f"{what} does not stand in its place in {where}"


def _expected_component(one: Difference) -> str:
    ref = one.component
    if ref is None or not ref.vib_id:
        return one.about.name
    return f"{one.about.name} of {ref.vib_name} {ref.vib_version} by {ref.vib_vendor}"


def _event(one: Difference, falsified: frozenset[int]) -> Finding:
    lies = bool(falsified.intersection(one.pcrs))
    code = _code(one, lies=lies)
    where = "PCR " + " and ".join(map(str, one.pcrs))
    noun = _NOUNS.get(one.about.kind, one.about.name)
    reason = _event_reason(one, noun, where)
    if lies:
        reason += "; but the TPM has seen the expected boot: the log was falsified"
    elif code == "event-data":
        reason += "; its digest is unchanged, so the text in the log was falsified"
    return Finding(
        code,
        one.about.name,
        reason,
        _REMEDY_FALSIFIED if lies or code == "event-data" else _remedy(one),
    )


def _event_reason(one: Difference, noun: str, where: str) -> str:
    if one.about.kind is Kind.BOOT_COMPLETE and one.change is Change.REMOVED:
        return f"the boot was not completed: Boot Complete is missing in {where}"
    if one.about.kind in FIRMWARE_KINDS and one.change is Change.CHANGED:
        return (
            f"{noun} {one.about.name} should be {_digest(one.expected)} and is "
            f"{_digest(one.found)} in {where}"
        )
    match one.change:
        case Change.CHANGED | Change.RENAMED:
            return f"{noun} should be {one.about.text!r} and is {one.found_about.text!r} in {where}"
        case Change.REMOVED:
            return f"{noun} {one.about.text!r} is missing in {where}"
        case Change.ADDED:
            return f"{noun} {one.about.text!r} is in {where}; the reference does not know it"
        case Change.REORDERED:
            return f"{noun} {one.about.text!r} does not stand in its place in {where}"


def _is_violation(one: Difference) -> bool:
    """Tell whether it says what a host's auditor saw in a running process."""
    return (
        one.about.kind is Kind.SECURITY_OPTION
        and one.change is Change.ADDED
        and one.about.name == VIOLATION
    )


def _remedy(one: Difference) -> str:
    if _is_violation(one):
        return (
            "Look at the host: casemate status says what to do. It stays so until the host boots "
            "again, and finds the same no more."
        )
    match one.about.kind:
        case Kind.COMMAND_LINE | Kind.SECURITY_OPTION:
            return (
                "Set the option back (esxcli system settings kernel set) and boot again, or make a "
                "new reference."
            )
        case Kind.SIGNER | Kind.TRUST_ANCHOR:
            return "Look at casemate trust list on the host; remove what you do not trust."
        case Kind.SECURE_BOOT:
            return "Switch Secure Boot on in the firmware's setup, with the keys of the reference."
        case Kind.BOOT_COMPLETE:
            return "Wait until the host has booted; if it does not, look at casemate boot log."
        case _:
            return _REMEDY_IMAGE


def _text_only(one: Difference) -> bool:
    if one.found is None or one.expected is None:
        return bool(one.found and contradiction(one.found))
    same = one.found.digests == one.expected.digests
    return same or contradiction(one.found)


def _claimed(found: Event | None, claims: Sequence[ComponentClaim]) -> str:
    digest = found.digest("sha256") if found else None
    if digest is None:
        return ""
    return next((escape(c.vib_version) for c in claims if c.digest == digest), "")


def _digest(event: Event | None) -> str:
    if event is None or not event.digests:
        return "nothing"
    bank, value = event.digests[0]
    return f"{bank} {value.hex()}"
