"""What travels along the chain launcher, loader, init, kernel: plain values, one JSON argument."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from casemate.errors import BootError
from casemate.kernel.home import INSIDE, Home

PYTHON = "/usr/bin/casemate-python"
"""The interpreter of the visor root."""

ENVIRONMENT = {
    "PATH": "/usr/bin",
    "LANG": "C.UTF-8",
    "HOME": "/",
    "MALLOC_ARENA_MAX": "1",
}
"""The whole environment of every process that runs from the visor root.

One arena of memory for all threads, which take turns in Python anyway: with an arena each, what one
thread has freed no other takes, and a kernel is ten MiB larger.
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """One boot. Descriptors are inherited: the progress pipe, the API's socket, sealed b.b00.

    ``own_machine`` tells that firmware started the loader: the TPM is the machine's, and the
    host's end is the machine's end.
    """

    home: str
    bank: str
    host_name: str
    api: str
    progress: int
    listener: int
    loader: int
    boot_time: float
    launch_digests: dict[str, str]
    drtm: bool = True
    own_machine: bool = False

    def dump(self) -> str:
        """Return the JSON text."""
        return json.dumps(asdict(self))

    @property
    def home_inside(self) -> Home:
        """The home as seen inside the visor root, with the identifier of the real one."""
        return Home(INSIDE)

    @property
    def identifier(self) -> str:
        """The identifier of the home."""
        return Home(Path(self.home)).identifier


def load_settings(text: str) -> Settings:
    """Parse the JSON text. Raises BootError."""
    try:
        return Settings(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise BootError(f"the boot settings cannot be read: {error}") from error
