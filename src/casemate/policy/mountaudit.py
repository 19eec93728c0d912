"""Whether the mounts of a host still are those that its boot made: texts of /proc in, findings out.

Layout: proc(5), /proc/PID/mountinfo.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from casemate.errors import Finding, FormatError

MAX_TEXT: Final = 16 << 20
"""Characters of a list of mounts: Linux allows 100,000 mounts, a host has some dozens."""
LIVE: Final = ("/run/live", "/run/visor", "/run/look")
"""Where the kernel mounts what is installed live, and what it looks into."""
DATA: Final = ("/run", "/var/lib/casemate", "/tmp", "/sys")  # noqa: S108 (looked at, not written)
"""Where data may be mounted at any time: nothing on it can be executed."""
_NAMESPACE: Final = "nsfs"
_LIVE: Final = tuple(f"{place}/" for place in LIVE)
_DATA: Final = tuple(f"{place}/" for place in DATA)
_OCTAL: Final = re.compile(r"\\([0-7]{3})")
_WALLS: Final = ("ro", "nosuid", "nodev", "noexec")
_BEFORE_DASH: Final = 6


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount: where, its id, which part of which file system, with which restrictions."""

    place: str
    number: int
    device: str
    part: str
    kind: str
    restrictions: frozenset[str]
    options: frozenset[str]


def parse_mounts(text: str) -> tuple[Mount, ...]:
    """Read a list of mounts. Raises FormatError (``mountinfo``)."""
    if len(text) > MAX_TEXT:
        raise FormatError("the list of mounts is too long", code="mountinfo")
    try:
        return tuple(_mount(line) for line in text.splitlines())
    except (ValueError, IndexError) as error:
        raise FormatError(
            f"the list of mounts cannot be read: {error}", code="mountinfo"
        ) from error


def audit_mounts(first: Iterable[Mount], now: Iterable[Mount]) -> Iterator[Finding]:
    """Yield what differs from the mounts at the start.

    Args:
        first: mounts when the kernel started, just after the visor root was entered.
        now: mounts of the same namespace now.
    """
    before = _by_number(first)
    seen = set()
    for mount in now:
        seen.add(mount.number)
        known = before.get(mount.number)
        if known is None:
            if not _may_come_and_go(mount):
                yield _finding(
                    "mount-added",
                    mount.place,
                    f"A file system ({mount.kind}) was mounted over {mount.place}.",
                )
            continue
        if (known.place, known.device, known.part, known.kind) != (
            *(mount.place, mount.device, mount.part),
            mount.kind,
        ):
            yield _finding(
                "mount-changed", mount.place, f"The mount {known.place} is another one now."
            )
        lost = (known.restrictions | known.options) & set(_WALLS) - (
            mount.restrictions | mount.options
        )
        if lost or not known.restrictions & set(_WALLS) <= mount.restrictions:
            gone = sorted(lost or (known.restrictions - mount.restrictions) & set(_WALLS))
            yield _finding(
                "mount-opened", mount.place, f"{mount.place} is no longer {', '.join(gone)}."
            )
    for number, known in before.items():
        if number not in seen and not _may_come_and_go(known):
            yield _finding("mount-gone", known.place, f"{known.place} was unmounted.")


def _may_come_and_go(mount: Mount) -> bool:
    """Tell whether a mount hides nothing of the visor root and lets nothing new be executed."""
    harmless = "noexec" in mount.restrictions or mount.kind == _NAMESPACE
    return mount.place.startswith(_LIVE) or (harmless and mount.place.startswith(_DATA))


def _by_number(mounts: Iterable[Mount]) -> Mapping[int, Mount]:
    return {mount.number: mount for mount in mounts}


def _mount(line: str) -> Mount:
    words = line.split(" ")
    dash = words.index("-", _BEFORE_DASH)
    return Mount(
        place=_plain(words[4]),
        number=int(words[0]),
        device=words[2],
        part=_plain(words[3]),
        kind=words[dash + 1],
        restrictions=frozenset(words[5].split(",")),
        options=frozenset(words[dash + 3].split(",")),
    )


def _plain(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def _finding(code: str, place: str, reason: str) -> Finding:
    return Finding(
        code,
        place,
        reason,
        "Find out who did it; boot the host again to have it as it was measured.",
    )
