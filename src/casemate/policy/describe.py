"""What an event of the visor's boot is about: the name by which it is compared and shown.

The data of an event proves nothing by itself. For most tags the data is what was measured, and
``contradiction`` checks that; the file name of a module is only a name until the digest beside it
equals the one that a signed reference has under that name.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from casemate.errors import FormatError
from casemate.formats import tagged
from casemate.formats.algorithms import digest
from casemate.formats.eventlog import Event
from casemate.formats.eventtypes import EV_EVENT_TAG, TXT_HASH_START, event_name
from casemate.formats.text import escape
from casemate.policy import aboutfirmware
from casemate.policy.measure import BOOT_COMPLETE, TAG_TRUST_ANCHOR

TEXT_LIMIT = 512
"""Characters of a description: the rest of a longer text is cut off."""

REMEMBERED, REMEMBERED_SIZE = 4096, 2048
"""Descriptions kept, and bytes of data up to which they are: hosts of a fleet boot alike."""


class Kind(StrEnum):
    """What an event is about."""

    LAUNCH = "launch"
    COMPONENT = "component"
    BOOT_OPTION_FILE = "boot-option-file"
    COMMAND_LINE = "boot-option"
    SECURITY_OPTION = "security-option"
    ASSET_TAG = "asset-tag"
    SIGNER = "signer"
    TRUST_ANCHOR = "trust-anchor"
    VERSION = "version"
    SYSTEM_VERSION = "system-version"
    BOOT_COMPLETE = "boot-complete"
    SECURE_BOOT = aboutfirmware.SECURE_BOOT
    BOOT_LOADER = aboutfirmware.BOOT_LOADER
    BOOT_IMAGE = aboutfirmware.BOOT_IMAGE
    OTHER = "event"


FIRMWARE_KINDS = frozenset(map(Kind, aboutfirmware.KINDS))
"""Compared by digest alone: the data of these events is not what was measured."""


@dataclass(frozen=True, slots=True)
class Description:
    """``name`` identifies the event within its kind, ``text`` is what to show of it.

    Both are safe to print; ``raw`` is the undecoded data of the tagged event.
    """

    kind: Kind
    name: str
    text: str
    raw: bytes = b""

    @property
    def key(self) -> tuple[str, str]:
        """What makes an expected and a found event the same thing."""
        return self.kind.value, self.name


_FILES = {tagged.TAG_MOD: Kind.COMPONENT, tagged.TAG_BOOT_OPT: Kind.BOOT_OPTION_FILE}
_CERTIFICATES = {tagged.TAG_SIGNER: Kind.SIGNER, TAG_TRUST_ANCHOR: Kind.TRUST_ANCHOR}


def describe(event: Event) -> Description:
    """Say what an event is about. Never raises: what is not understood is of kind OTHER."""
    if len(event.data) <= REMEMBERED_SIZE:
        return _remembered(event.type, event.data)
    return _decoded(event.type, event.data)


def _decoded(event_type: int, data: bytes) -> Description:
    if event_type in {EV_EVENT_TAG, TXT_HASH_START}:
        try:
            item = tagged.parse_tagged(data)
            return _describe(item, launch=event_type == TXT_HASH_START)
        except FormatError:
            pass
    if (known := aboutfirmware.about_firmware(event_type, data)) is not None:
        kind, name = known
        return Description(Kind(kind), name, name, data)
    return Description(Kind.OTHER, event_name(event_type), event_name(event_type), data)


_remembered = lru_cache(REMEMBERED)(_decoded)


def contradiction(event: Event) -> bool:
    """Tell whether the event's data is not what its digests say, where the data was measured."""
    if event.type != EV_EVENT_TAG:
        return False
    try:
        item = tagged.parse_tagged(event.data)
    except FormatError:
        return True
    if item.tag in _FILES or item.tag in aboutfirmware.LINUX_TAGS:
        return False
    return any(
        isinstance(bank, str) and digest(bank, item.data) != value for bank, value in event.digests
    )


def _describe(item: tagged.TaggedEvent, *, launch: bool) -> Description:
    data = item.data
    if item.tag in _FILES:
        name = _text(data)
        return Description(Kind.LAUNCH if launch else _FILES[item.tag], name, name, data)
    if item.tag in _CERTIFICATES:
        levels, certificate = b"", data
        if item.tag == TAG_TRUST_ANCHOR:
            levels, _, certificate = data.partition(b"\0")
        mark = hashlib.sha256(certificate).hexdigest()
        text = f"certificate {mark[:16]}" + (f" for {_text(levels)}" if levels else "")
        return Description(_CERTIFICATES[item.tag], mark, text, data)
    return _text_event(item.tag, data)


def _text_event(tag: int, data: bytes) -> Description:  # noqa: PLR0911 (one return a tag)
    match tag:
        case tagged.TAG_CMD_OPT:
            text = _text(data)
            return Description(Kind.COMMAND_LINE, text.partition(" ")[0], text, data)
        case tagged.TAG_SECURITY_OPTION:
            text = _text(data)
            return Description(Kind.SECURITY_OPTION, text.partition(" = ")[0], text, data)
        case tagged.TAG_VERSION:
            record = tagged.parse_version(data)
            text = f"{record.component} {record.version}"
            return Description(Kind.VERSION, escape(record.file_name), escape(text), data)
        case tagged.TAG_SYSTEM_VERSION:
            return Description(Kind.SYSTEM_VERSION, "system version", _text(data), data)
        case tagged.TAG_TAG:
            return Description(Kind.ASSET_TAG, "asset tag", _text(data), data)
        case tagged.TAG_BOOT_COMPLETE if data == BOOT_COMPLETE:
            return Description(Kind.BOOT_COMPLETE, "Boot Complete", "Boot Complete", data)
        case _ if tag in aboutfirmware.LINUX_TAGS:
            name = aboutfirmware.LINUX_TAGS[tag]
            return Description(Kind.BOOT_IMAGE, name, name, data)
        case _:
            return Description(Kind.OTHER, f"tag {tag}", f"tagged event {tag}", data)


def _text(data: bytes) -> str:
    body = data[:-1] if data.endswith(b"\0") else data
    return escape(body.decode("utf-8", "replace"))[:TEXT_LIMIT]
