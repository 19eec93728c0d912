"""Where a host keeps its things: the layout of a home, and who may look into it.

Several homes can run on one machine; everything that a host makes outside its home (cgroups,
the name of its namespaces) carries the home's ``identifier``.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from casemate.errors import HostError
from casemate.machine import processplan

DEFAULT_HOME = Path("/var/lib/casemate")

CONSOLE_UID = processplan.CONSOLE_UID
"""uid and gid of the direct console on a machine of its own."""

HOSTD_UID = processplan.HOSTD_UID
"""uid and gid of hostd; written into the visor root's /etc/passwd by the image."""

TPM_UID = processplan.TPM_UID
"""uid and gid of the embedded TPM's process."""

INSIDE = Path("/var/lib/casemate")
"""Where the home appears inside the visor root."""


@dataclass(frozen=True, slots=True)
class Home:
    """A home directory. ``path`` is absolute."""

    path: Path

    @property
    def identifier(self) -> str:
        """Eight hex digits that tell this home from others on the machine."""
        return hashlib.sha256(str(self.path).encode()).hexdigest()[:8]

    @property
    def banks(self) -> tuple[Path, Path]:
        """The two boot banks."""
        return self.path / "bootbank", self.path / "altbootbank"

    @property
    def trust(self) -> Path:
        """Trust anchors by acceptance level, and EK roots under ``ek``."""
        return self.path / "trust"

    @property
    def pki(self) -> Path:
        """The development PKI, where there is one."""
        return self.path / "pki"

    @property
    def tpm(self) -> Path:
        """State of the embedded TPM."""
        return self.path / "tpm"

    @property
    def state(self) -> Path:
        """What the kernel keeps: database and TLS certificate."""
        return self.path / "state"

    @property
    def database(self) -> Path:
        """The kernel's store."""
        return self.state / "casemate.db"

    @property
    def tls(self) -> Path:
        """Certificate and key of hostd."""
        return self.state / "tls"

    @property
    def run(self) -> Path:
        """Sockets, logs and the record of the running host."""
        return self.path / "run"

    @property
    def calls_socket(self) -> Path:
        """The kernel's calls socket."""
        return self.run / "calls" / "kernel.sock"

    @property
    def cells(self) -> Path:
        """Run-time state of cells."""
        return self.run / "cells"

    @property
    def log(self) -> Path:
        """Logs of init, kernel and hostd."""
        return self.run / "log"

    @property
    def boot_record(self) -> Path:
        """What the loader hands to the kernel: event log, components, bank."""
        return self.run / "boot"

    @property
    def console(self) -> Path:
        """What only the direct console shows: the first password, until somebody logs in."""
        return self.run / "console"

    @property
    def running(self) -> Path:
        """The record of the running host: init's pid and start time, port, name."""
        return self.run / "host.json"

    @property
    def nat(self) -> Path:
        """A file that is there while this home may have something in the machine's network."""
        return self.run / "nat"

    @property
    def name_servers(self) -> Path:
        """The name servers that the machine asks, one a line, as the launcher found them."""
        return self.run / "name-servers"

    @property
    def volumes(self) -> Path:
        """Datastores."""
        return self.path / "volumes"

    @property
    def reference(self) -> Path:
        """The signed reference values of the built image."""
        return self.path / "reference.json"

    def create(self) -> None:
        """Make the directories that are lacking. Raises HostError."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o755)
            for place, mode in (
                (self.trust, 0o755),
                (self.state, 0o711),
                (self.run, 0o755),
                (self.calls_socket.parent, 0o755),
                (self.cells, 0o711),
                (self.log, 0o755),
                (self.boot_record, 0o755),
                (self.volumes, 0o755),
                (self.volumes / "datastore1", 0o755),
                *((bank, 0o755) for bank in self.banks),
            ):
                place.mkdir(exist_ok=True, mode=mode)
        except OSError as error:
            raise HostError(
                f"the home {self.path} cannot be made: {error.strerror}",
                component=str(self.path),
                remedy="Choose another place with --home, or run as root.",
            ) from error


def find_home(option: str | None) -> Home:
    """Return the home named by the option, by CASEMATE_HOME, or the default."""
    return Home(Path(option or os.environ.get("CASEMATE_HOME") or DEFAULT_HOME).resolve())
