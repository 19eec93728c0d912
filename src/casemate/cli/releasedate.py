"""The date that built files carry."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from casemate.errors import ArgumentError
from casemate.image.build import RELEASED


def released() -> datetime:
    """Return the release date: SOURCE_DATE_EPOCH where it is set, else this version's own.

    Raises:
        ArgumentError: SOURCE_DATE_EPOCH is no number of seconds.
    """
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if text is None:
        return RELEASED
    try:
        return datetime.fromtimestamp(int(text), UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise ArgumentError(
            "SOURCE_DATE_EPOCH must be a number of seconds since 1970.",
            argument="SOURCE_DATE_EPOCH",
        ) from error
