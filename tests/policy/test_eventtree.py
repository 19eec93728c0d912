"""The event tree tells other machines' events by their types, and what their digests prove."""

from __future__ import annotations

import hashlib

from casemate.formats import eventtypes as ev
from casemate.formats.eventrecords import Event
from casemate.policy.eventtree import INFORMATION, NOT_APPRAISED, event_rows
from casemate.testing.smallhost import SmallImage


def _event(event_type: int, data: bytes, measured: bytes | None = None, pcr: int = 5) -> Event:
    value = hashlib.sha256(data if measured is None else measured).digest()
    return Event(pcr, event_type, (("sha256", value),), data)


def test_events_of_firmware_and_boot_loader_are_told_by_their_data() -> None:
    action = b"Calling EFI Application from Boot Option"
    events = (
        _event(ev.EV_EFI_ACTION, action),
        _event(ev.EV_EFI_ACTION, action, b"another"),
        _event(ev.EV_IPL, b"grub_cmd: <script>\x1b[1m", b"<script>", pcr=8),
        _event(ev.EV_NO_ACTION, b"StartupLocality\0\3", pcr=0),
    )
    rows, missing = event_rows(events, None)
    assert missing == ()
    assert [row.text for row in rows] == [
        "Calling EFI Application from Boot Option",
        "Calling EFI Application from Boot Option",
        "grub_cmd: <script>\\x1b[1m",
        "startup locality 3",
    ]
    assert [row.proven for row in rows] == [True, False, True, True]
    assert {row.verdict for row in rows} == {NOT_APPRAISED}
    rows, _ = event_rows(events, SmallImage().reference())
    assert rows[3].verdict == INFORMATION
