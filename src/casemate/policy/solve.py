"""Which VIBs an image consists of after a change: dependencies, conflicts, replacements.

A small deterministic search: same question, same answer. A VIB that is wanted takes the place of
the one with its name and of those it replaces; what it depends on and nobody brings is taken from
the depots, newest first; a choice that leads nowhere is taken back. What is wrong at the end is an
error in ESXi's words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from casemate.errors import ArgumentError, LimitError, NotFoundError, StateError
from casemate.formats.descriptor import Constraint, Descriptor, VibType
from casemate.policy.levels import Level
from casemate.policy.versions import satisfies, version_key

MAX_TRIES: Final = 10_000
"""Candidates looked at in one search: real depots need less than ten."""
BASE: Final = ("casemate-boot", "casemate-kernel")
"""Without one of these an image does not boot; they are replaced, never removed."""

Image = Mapping[str, Descriptor]
"""VIBs by name, in order."""


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of an image; each VIB by its descriptor. ``result`` is the new image."""

    result: tuple[Descriptor, ...]
    installed: tuple[Descriptor, ...]
    removed: tuple[Descriptor, ...]
    skipped: tuple[Descriptor, ...]

    @property
    def empty(self) -> bool:
        """Whether nothing changes."""
        return not (self.installed or self.removed)

    @property
    def live(self) -> bool:
        """Whether the VIBs allow the change without a restart."""
        return all(one.live_install_allowed for one in self.installed) and all(
            one.live_remove_allowed for one in self.removed
        )

    @property
    def needs_maintenance(self) -> bool:
        """Whether a VIB asks for maintenance mode."""
        return any(one.install_needs_maintenance for one in self.installed) or any(
            one.remove_needs_maintenance for one in self.removed
        )


def install(
    installed: Sequence[Descriptor],
    wanted: Sequence[Descriptor],
    available: Sequence[Descriptor] = (),
    *,
    update: bool = False,
    force: bool = False,
) -> Change:
    """Return what installing some VIBs makes of an image.

    Args:
        installed: The present image in order.
        wanted: VIBs asked for, by name unique.
        available: What dependencies may be taken from.
        update: Only VIBs that are installed in an older version are taken; others are skipped.
        force: Do not look at dependencies and conflicts, and admit older versions.

    Raises:
        StateError: ``dependency`` or ``conflict``.
        ArgumentError: Two wanted VIBs have one name, or it is a VIB of ESXi for its locker.
        LimitError: The search takes too long.
    """
    names = [one.name for one in wanted]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ArgumentError(f"Two VIBs named {twice} were given.", argument="vib", component=twice)
    before = {one.name: one for one in installed}
    taken, skipped = [], []
    for one in wanted:
        present = before.get(one.name)
        newer = present is None or version_key(one.version) > version_key(present.version)
        if present == one or (update and present is None) or not (newer or force):
            skipped.append(one)
        else:
            taken.append(one)
    after = _with(before, taken)
    if not force:
        after = _Search(available).complete(after)
        _check(after)
    return _change(before, after, skipped)


def remove(installed: Sequence[Descriptor], names: Iterable[str], *, force: bool = False) -> Change:
    """Return what removing VIBs by name makes of an image.

    Raises:
        NotFoundError: ``no-match``.
        StateError: Others depend on them, or the host would not boot without them.
    """
    before = {one.name: one for one in installed}
    after = dict(before)
    for name in names:
        if name not in before:
            raise NotFoundError(
                f"[NoMatchError] No VIB matching {name!r} was found.",
                code="no-match",
                component=name,
                remedy="List what is installed: esxcli software vib list.",
            )
        if name in BASE:
            raise StateError(
                f"{name} belongs to the base of the host and cannot be removed.",
                code="base-vib",
                component=name,
                remedy="Update it instead.",
            )
        after.pop(name, None)
    if not force:
        _check(after)
    return _change(before, after, ())


def replace_all(
    installed: Sequence[Descriptor], profile: Sequence[Descriptor], *, force: bool = False
) -> Change:
    """Return what installing a whole image profile makes of an image: just its VIBs.

    Raises:
        StateError: The profile is not complete.
    """
    before = {one.name: one for one in installed}
    after = {one.name: one for one in profile}
    if not force:
        _check(after)
    return _change(before, after, ())


def problems(image: Iterable[Descriptor]) -> Iterator[tuple[str, str, str]]:
    """Yield (code, VIB id, sentence) of what is wrong with an image."""
    vibs = tuple(image)
    by_name: dict[str, Descriptor] = {}
    for one in vibs:
        if one.name in by_name:
            yield "duplicate", one.vib_id, f"The image has two VIBs named {one.name}."
        by_name[one.name] = one
    for name in BASE:
        if name not in by_name:
            yield "base-missing", name, f"The image lacks {name}, without which it does not boot."
    for one in vibs:
        for need in one.depends:
            if not _met(need, vibs):
                sentence = (
                    f"VIB {one.vib_id} requires {need}, but the requirement cannot be satisfied "
                    "within the ImageProfile."
                )
                yield "dependency", one.vib_id, sentence
        for enemy in _conflicts(one, vibs):
            yield "conflict", one.vib_id, f"VIB {one.vib_id} conflicts with {enemy.vib_id}."


def provides(vib: Descriptor, constraint: Constraint) -> bool:
    """Tell whether a VIB is, or brings, what a constraint names."""
    if vib.name == constraint.name and satisfies(constraint, vib.version):
        return True
    return any(
        one.name == constraint.name
        and (satisfies(constraint, one.version) if one.version else not constraint.relation)
        for one in vib.provides
    )


def preference(vib: Descriptor) -> tuple[object, ...]:
    """Return what sorts candidates, best last: version, level, then the name of the vendor."""
    return (version_key(vib.version), Level(vib.acceptance_level).rank, vib.vendor, vib.vib_id)


@dataclass(slots=True)
class _Search:
    available: Sequence[Descriptor]
    tries: int = 0

    def complete(self, image: dict[str, Descriptor]) -> dict[str, Descriptor]:
        """Return the image with what it lacks, or as it is when nothing completes it."""
        found = self._complete(image)
        return image if found is None else found

    def _complete(self, image: dict[str, Descriptor]) -> dict[str, Descriptor] | None:
        """Try the candidates of the first unmet need, deepest first; an explicit stack."""
        waiting = [image]
        while waiting:
            present = waiting.pop()
            vibs = tuple(present.values())
            need = next((n for v in vibs for n in v.depends if not _met(n, vibs)), None)
            if need is None:
                if not any(_conflicts(one, vibs) for one in vibs):
                    return present
                continue
            for candidate in sorted(
                (one for one in self.available if provides(one, need)), key=preference
            ):
                self.tries += 1
                if self.tries > MAX_TRIES:
                    raise LimitError(
                        f"No solution was found within {MAX_TRIES} steps.",
                        code="solver-limit",
                        component=str(need),
                        remedy="Name the VIBs to install one by one.",
                    )
                old = present.get(candidate.name)
                if old is None or version_key(candidate.version) > version_key(old.version):
                    waiting.append(_with(present, [candidate]))
        return None


def _with(image: Image, taken: Iterable[Descriptor]) -> dict[str, Descriptor]:
    """Return the image with VIBs put in: in the place of their namesakes, else at the end."""
    after = dict(image)
    for one in taken:
        for other in tuple(after.values()):
            if other.name != one.name and any(provides(other, gone) for gone in one.replaces):
                del after[other.name]
        after[one.name] = one
    return after


def _met(need: Constraint, vibs: Iterable[Descriptor]) -> bool:
    return any(provides(one, need) for one in vibs)


def _conflicts(vib: Descriptor, vibs: Iterable[Descriptor]) -> list[Descriptor]:
    return [
        other
        for other in vibs
        if other is not vib and any(provides(other, enemy) for enemy in vib.conflicts)
    ]


def _check(image: Image) -> None:
    for one in image.values():
        if one.type is not VibType.BOOTBANK and one.type is not VibType.META:
            raise ArgumentError(
                f"{one.vib_id} is of the type {one.type}; this host has no place for it.",
                argument="vib",
                component=one.vib_id,
            )
    found = next(problems(image.values()), None)
    if found is not None:
        code, vib_id, sentence = found
        raise StateError(
            f"[DependencyError] {sentence}",
            code=code,
            component=vib_id,
            remedy="Install what it needs with it, or remove what is in its way.",
        )


def _change(before: Image, after: Image, skipped: Iterable[Descriptor]) -> Change:
    return Change(
        result=tuple(after.values()),
        installed=tuple(one for name, one in after.items() if before.get(name) != one),
        removed=tuple(one for name, one in before.items() if after.get(name) != one),
        skipped=tuple(skipped),
    )
