"""Files that are named to esxcli: the kernel is lent those of this machine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from casemate.errors import HostError, NotSupportedError
from casemate.kernel.files import write_file
from casemate.kernel.home import find_home


@contextmanager
def placed(place: str, home: str | None) -> Iterator[str]:
    """Give the name under which the kernel finds a file: files of this machine are lent to it."""
    if place.startswith(("http:", "https:", "ftp:")):
        raise NotSupportedError(
            "This host fetches nothing by itself.",
            component=place,
            remedy="Download the file and give its path.",
        )
    path = Path(place.removeprefix("file://"))
    if place.startswith(("[", "/vmfs/volumes/")) and not path.is_file():
        yield place
        return
    staging = find_home(home).run / "staging"
    try:
        data = path.read_bytes()
        name = f"{os.getpid()}-{hashlib.sha256(data).hexdigest()[:16]}"
        staging.mkdir(exist_ok=True, mode=0o700)
        write_file(staging / name, data, mode=0o600)
    except OSError as error:
        raise HostError(
            f"{place} cannot be read: {error.strerror}.",
            component=place,
            remedy="Check the file's name and its permissions.",
        ) from error
    try:
        yield f"staging:{name}"
    finally:
        (staging / name).unlink(missing_ok=True)
