"""What a new machine tells once: shown by the direct console until somebody logs in. RAM only."""

from __future__ import annotations

import os

from casemate.kernel.files import write_file
from casemate.kernel.home import CONSOLE_UID, Home

NAME = "first"


def add_first_words(home: Home, *lines: str) -> None:
    """Add lines to what the console shows; nobody but the console can read them."""
    home.console.mkdir(exist_ok=True, mode=0o700)
    os.chown(home.console, CONSOLE_UID, CONSOLE_UID)
    path = home.console / NAME
    before = path.read_text() if path.exists() else ""
    content = before + "".join(f"{line}\n" for line in lines)
    write_file(path, content.encode(), mode=0o600, owner=CONSOLE_UID)
