"""What an installation chose for a new host, used once, at the first start.

It comes from a disk that anybody may have written to. It counts only if it is signed by somebody
who may vouch for every component: who can write to the disk cannot thereby choose root's password.
"""

from __future__ import annotations

import datetime as dt

from casemate.errors import HostError
from casemate.formats.hostsettings import SIZE_LIMIT, FirstSettings, parse_first
from casemate.kernel.boot.handedover import FIRST
from casemate.kernel.boot.loader import read_trust
from casemate.kernel.home import Home
from casemate.policy.signedtext import split_signed, verify_signed

COMPONENT = "settings"


def first_settings(home: Home, now: dt.datetime) -> FirstSettings:
    """Return the settings that lie in the state, verified.

    Raises:
        HostError: they cannot be read.
        SignatureError: they are unsigned, changed, or signed by somebody who may not.
        FormatError: they are none.
    """
    try:
        with (home.state / FIRST).open("rb") as stream:
            signed = split_signed(stream.read(SIZE_LIMIT + 1))
    except OSError as error:
        raise HostError(f"they cannot be read: {error.strerror}", component=COMPONENT) from error
    store, _ = read_trust(home.trust)
    verify_signed(signed, store, now, component=COMPONENT)
    return parse_first(signed.body)
