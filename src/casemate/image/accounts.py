"""The /etc of a visor root: the accounts of its processes, and little else.

Nobody logs in here: every account is locked and has no shell. The uids are those the kernel
uses (``casemate.kernel.home``); a test holds the two together. Cells have uids without a name:
they are many, and differ between the homes of one machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from casemate.image.tree import File, Folder, Link, Node

HOSTD_UID: Final = 64000
TPM_UID: Final = 64001
CONSOLE_UID: Final = 64003
NOBODY_UID: Final = 65534
DHCP_UID: Final = 64005
NO_SHELL: Final = "/usr/sbin/nologin"

MOUNT_POINTS: Final = (
    "dev",
    "mnt",
    "proc",
    "run",
    "sys",
    "tmp",
    "var/lib/casemate",
    "var/log",
    "var/tmp",
    "vmfs/volumes",
)
"""Empty directories on which init and the cells mount what is theirs."""

MERGED_LINKS: Final = (
    Link("bin", "usr/bin"),
    Link("sbin", "usr/sbin"),
    Link("lib", "usr/lib"),
    Link("lib64", "usr/lib64"),
    Link("var/run", "../run"),
)

NSSWITCH: Final = """\
passwd: files
group: files
shadow: files
hosts: files
services: files
protocols: files
"""

HOSTS: Final = "127.0.0.1 localhost\n::1 localhost\n"


def accounts() -> tuple[tuple[str, int, str], ...]:
    """Return (name, uid and gid, what for) of every account, in uid order."""
    return (
        ("root", 0, "kernel"),
        ("hostd", HOSTD_UID, "vSphere front end"),
        ("tpm", TPM_UID, "embedded TPM"),
        ("console", CONSOLE_UID, "direct console"),
        ("dhcp", DHCP_UID, "addresses of guests"),
        ("nobody", NOBODY_UID, "nobody"),
    )


def skeleton(version: str) -> Iterator[Node]:
    """Yield the configuration files, the links of merged /usr, and the empty mount points.

    Args:
        version: of the product, for os-release.
    """
    known = accounts()
    passwd = "".join(f"{n}:x:{uid}:{uid}:{use}:/:{NO_SHELL}\n" for n, uid, use in known)
    group = "".join(f"{n}:x:{uid}:\n" for n, uid, _ in known)
    release = (
        f'NAME="Casemate"\nID=casemate\nVERSION_ID={version}\nPRETTY_NAME="Casemate {version}"\n'
    )
    for path, text in (
        ("etc/passwd", passwd),
        ("etc/group", group),
        ("etc/nsswitch.conf", NSSWITCH),
        ("etc/hosts", HOSTS),
        ("usr/lib/os-release", release),
    ):
        yield File(path, text.encode())
    yield Link("etc/os-release", "../usr/lib/os-release")
    yield from MERGED_LINKS
    for place in MOUNT_POINTS:
        yield Folder(place)
