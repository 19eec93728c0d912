"""Enters the layers of a boot bank as the one root there is, and runs a program: for tests.

Arguments: the bank, then the program and its arguments. Run under ``unshare --mount --pid
--fork``: everything that is mounted ends with the process.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PR_SET_NO_NEW_PRIVS, PR_SET_MDWE = 38, 65


def mount(*arguments: str) -> None:
    """Mount, or fail loudly."""
    subprocess.run(["mount", *arguments], check=True)


def main() -> None:
    bank, *command = sys.argv[1:]
    mount("--make-rprivate", "/")
    base = Path(tempfile.mkdtemp(dir="/run"))
    mount("-t", "tmpfs", "none", str(base))
    layers = []
    for payload in sorted(Path(bank).iterdir()):
        if payload.suffix not in {".v00", ".b00"} or payload.name == "b.b00":
            continue
        layers.append(base / payload.name)
        layers[-1].mkdir()
        mount("-t", "erofs", "-o", "loop,ro,nosuid,nodev", str(payload), str(layers[-1]))
    root = base / "root"
    root.mkdir()
    lower = ":".join(map(str, layers))
    mount("-t", "overlay", "-o", f"ro,nosuid,nodev,lowerdir={lower}", "overlay", str(root))
    mount("-t", "proc", "proc", str(root / "proc"))
    mount("--rbind", "/dev", str(root / "dev"))
    os.chroot(root)
    os.chdir("/")
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((PR_SET_NO_NEW_PRIVS, 1), (PR_SET_MDWE, 1)):
        if libc.prctl(option, value, 0, 0, 0):
            raise OSError(ctypes.get_errno(), f"prctl {option}")
    os.execve(command[0], command, {"PATH": "/usr/bin"})


if __name__ == "__main__":
    main()
