"""From which of our own sources a home's image was built: an image is not built anew by itself."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from casemate.image.host import sources

PLACE: Final = Path("cache/image/sources")
"""In a home: the digest of the sources of its last build, hexadecimal."""


def source_digest() -> str:
    """Return one digest over the files of this project that a host is built from."""
    digest = hashlib.sha256()
    for path, content in sources():
        digest.update(f"{hashlib.sha256(content).hexdigest()}  {path}\n".encode())
    return digest.hexdigest()


def note_sources(home: Path) -> None:
    """Remember from which sources the home's image was just built. Raises OSError."""
    (home / PLACE).write_text(source_digest())


def built_from_others(home: Path) -> bool:
    """Tell whether the home's image was built from sources that have changed since.

    One that was built elsewhere was built from none of ours.
    """
    try:
        noted = (home / PLACE).read_text()
    except OSError:
        return False
    return noted != source_digest()
