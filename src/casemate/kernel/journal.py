"""The event log on disk, in step with the PCRs whatever happens between them.

What is about to be extended is written down first (``eventlog.next``), then extended, then becomes
the log (``eventlog.bin``). A kernel that finds an intention left over asks the TPM how far its
predecessor came: of the prefixes of the intended log, the one that replays to the PCRs is the log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from casemate.formats.eventlog import Event, parse, replay, write_event
from casemate.formats.eventtypes import EV_EVENT_TAG
from casemate.formats.tagged import TAG_BOOT_COMPLETE, TaggedEvent, write_tagged
from casemate.kernel.files import write_file
from casemate.kernel.tpm.device import Tpm
from casemate.policy.measure import BOOT_COMPLETE

_COMPLETE = write_tagged(TaggedEvent(TAG_BOOT_COMPLETE, BOOT_COMPLETE))
_log = logging.getLogger(__name__)


class Journal:
    """The log of this boot under ``place``."""

    def __init__(self, place: Path, log: bytes) -> None:
        self._file = place / "eventlog.bin"
        self._next = place / "eventlog.next"
        self.log = log

    @property
    def complete(self) -> bool:
        """Tell whether Boot Complete has been measured."""
        return any(
            event.type == EV_EVENT_TAG and event.data == _COMPLETE
            for event in parse(self.log).events
        )

    def intend(self, events: Sequence[Event]) -> None:
        """Write down what is about to be extended."""
        write_file(self._next, self.log + b"".join(map(write_event, events)))

    def settle(self, events: Sequence[Event]) -> None:
        """Append what has been extended; the intention is done with."""
        self.log += b"".join(map(write_event, events))
        write_file(self._file, self.log)
        self._next.unlink(missing_ok=True)

    def recover(self, tpm: Tpm, banks: Sequence[str]) -> None:
        """Finish what a former kernel began. Raises TpmError."""
        if not self._next.exists():
            return
        known = parse(self.log).events
        added = parse(self._next.read_bytes()).events[len(known) :]
        pcrs = sorted({event.pcr for event in added})
        actual = tpm.read_pcrs(banks, pcrs)
        for candidate in _prefixes(added):
            log = self.log + b"".join(map(write_event, candidate))
            values = replay(parse(log))
            if all(
                values[bank].get(pcr, bytes(len(actual[bank][pcr]))) == actual[bank][pcr]
                for bank in banks
                for pcr in pcrs
            ):
                _log.info("%d of %d begun measurements had been made", len(candidate), len(added))
                self.settle(candidate)
                return
        _log.error("the PCRs hold something that no begun measurement explains")
        self._next.unlink()


def _prefixes(events: Sequence[Event]) -> Iterator[Sequence[Event]]:
    for count in range(len(events), -1, -1):
        yield events[:count]
