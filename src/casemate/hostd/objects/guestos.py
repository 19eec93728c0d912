"""Guest systems: the API's ids, the words of vmx files for them, and their names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Final

from casemate.vim25 import types

_NAMES: Final[Mapping[str, str]] = {
    "dos": "Microsoft MS-DOS",
    "winNetStandard": "Microsoft Windows Server 2003",
    "winNetEnterprise": "Microsoft Windows Server 2003",
    "winXPPro": "Microsoft Windows XP Professional",
    "winLonghorn": "Microsoft Windows Server 2008",
    "winVista": "Microsoft Windows Vista",
    "windows7": "Microsoft Windows 7",
    "windows7Server": "Microsoft Windows Server 2008 R2",
    "windows8": "Microsoft Windows 8.x",
    "windows8Server": "Microsoft Windows Server 2012",
    "windows9": "Microsoft Windows 10",
    "windows9Server": "Microsoft Windows Server 2016",
    "windows11": "Microsoft Windows 11",
    "windows12": "Microsoft Windows 12",
    "windowsHyperV": "Microsoft Windows Hyper-V",
    "windows2019srv": "Microsoft Windows Server 2019",
    "windows2019srvNext": "Microsoft Windows Server 2022",
    "windows2022srvNext": "Microsoft Windows Server 2025",
    "freebsd": "FreeBSD Pre-11 versions",
    "centos": "CentOS 4/5 or later",
    "oracleLinux": "Oracle Linux 4/5 or later",
    "sles": "SUSE Linux Enterprise 8/9",
    "suse": "SUSE Linux Enterprise",
    "opensuse": "SUSE openSUSE",
    "ubuntu": "Ubuntu Linux",
    "fedora": "Red Hat Fedora",
    "coreos": "CoreOS Linux",
    "vmwarePhoton": "VMware Photon OS",
    "rockylinux": "Rocky Linux",
    "almalinux": "AlmaLinux",
    "amazonlinux": "Amazon Linux",
    "flatcar": "Flatcar Container Linux",
    "genericLinux": "Other Linux",
    "otherLinux": "Other Linux",
    "other24xLinux": "Other 2.4.x Linux",
    "other26xLinux": "Other 2.6.x Linux",
    "other3xLinux": "Other 3.x Linux",
    "other4xLinux": "Other 4.x Linux",
    "other5xLinux": "Other 5.x Linux",
    "other6xLinux": "Other 6.x or later Linux",
    "other7xLinux": "Other 7.x or later Linux",
    "darwin": "Apple Mac OS X",
    "other": "Other",
}
_FAMILIES: Final[Mapping[str, str]] = {
    "rhel": "Red Hat Enterprise Linux",
    "centos": "CentOS",
    "oracleLinux": "Oracle Linux",
    "sles": "SUSE Linux Enterprise",
    "debian": "Debian GNU/Linux",
    "freebsd": "FreeBSD",
    "asianux": "Asianux",
    "amazonlinux": "Amazon Linux",
    "solaris": "Oracle Solaris",
    "darwin": "Apple macOS (Darwin kernel)",
    "vmkernel": "VMware ESXi",
}
_ID: Final = re.compile(r"([A-Za-z0-9]+?)_?(64)?Guest(64)?")
_NUMBERED: Final = re.compile(r"([A-Za-z]+)([0-9]+)")
_VMX_WORDS: Final[Mapping[str, str]] = {
    "windows8srv64": "windows8Server64Guest",
    "windows9srv64": "windows9Server64Guest",
    "windows7srv64": "windows7Server64Guest",
    "winserver2003": "winNetEnterpriseGuest",
    "linux": "otherLinuxGuest",
}
"""Words of vmx files that are not the API's id in another spelling."""


@cache
def names() -> Mapping[str, str]:
    """Return the name of every guest system that the API has an id for."""
    ids = types.enum_type("VirtualMachineGuestOsIdentifier").values
    return {guest: _name(guest) for guest in ids}


def guest_id(word: str) -> str:
    """Return the API's id for the word of a vmx file; an unknown word is returned as it is."""
    if word in names():
        return word
    plain = _plain(word)
    return _VMX_WORDS.get(plain) or _by_word().get(plain, word)


def full_name(word: str) -> str:
    """Return the name of a guest system; an unknown word is its own name."""
    return names().get(guest_id(word), word)


def family(guest: str) -> str:
    """Return the family of a guest system, in the API's words."""
    if guest.startswith("win"):
        return "windowsGuest"
    if guest.startswith("darwin"):
        return "darwinGuestFamily"
    if guest.startswith("solaris"):
        return "solarisGuest"
    other = ("dos", "freebsd", "netware", "os2", "eCom", "open", "unixWare", "vmkernel", "crx")
    return "otherGuestFamily" if guest.startswith(("otherGuest", *other)) else "linuxGuest"


@cache
def _by_word() -> Mapping[str, str]:
    return {_plain(guest): guest for guest in names()}


def _plain(word: str) -> str:
    return re.sub(r"[_\-]", "", word.lower()).replace("guest", "")


def _name(guest: str) -> str:
    found = _ID.fullmatch(guest)
    if found is None:
        return guest
    bits = "64-bit" if found[2] or found[3] else "32-bit"
    name = _NAMES.get(found[1])
    if name is None and (numbered := _NUMBERED.fullmatch(found[1])):
        family_name = _FAMILIES.get(numbered[1])
        number = ".".join(numbered[2]) if numbered[2] == "65" else numbered[2]
        name = f"{family_name} {number}" if family_name else None
    if name is None:
        name = found[1]
    elif found[1] == "dos" or found[1].startswith("vmkernel"):
        return name
    return f"{name} ({bits})"
