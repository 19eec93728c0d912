"""The advanced options of a host: which exist, of what kind, within which bounds.

Names are those of ESXi where the meaning is the same. Values travel and are stored as text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from casemate.errors import ArgumentError, StateError

TEXT_LIMIT = 4096
"""Characters of an option that is text: a message of the day."""


@dataclass(frozen=True, slots=True)
class Option:
    """An option; ``low`` and ``high`` bound a number, text has no bounds but its length.

    Text with ``choices`` is one of them.
    """

    name: str
    label: str
    default: str
    low: int = 0
    high: int = 0
    number: bool = False
    read_only: bool = False
    choices: tuple[str, ...] = ()
    why: str = ""
    """Why the bounds are what they are, where that is not plain."""


LOCK_FAILURES = "Security.AccountLockFailures"
UNLOCK_TIME = "Security.AccountUnlockTime"
SESSION_TIMEOUT = "Config.HostAgent.vmacore.soap.sessionTimeout"
LOG_LEVEL = "Config.HostAgent.log.level"
WELCOME = "Annotations.WelcomeMessage"
MESSAGE = "Config.Etc.motd"
SHARE_FORCE_SALTING = "Mem.ShareForceSalting"
EXEC_INSTALLED_ONLY = "VMkernel.Boot.execInstalledOnly"
API_COMPATIBILITY = "VMkernel.Boot.apiCompatibility"

LOG_LEVELS = ("none", "quiet", "panic", "error", "warning", "info", "verbose", "trivia")
"""From nothing to everything, in ESXi's words."""

DAY = 86400

OPTIONS: Mapping[str, Option] = {
    option.name: option
    for option in (
        Option(
            LOCK_FAILURES,
            "Wrong passwords in a row after which an account locks",
            "5",
            low=1,
            high=100,
            number=True,
        ),
        Option(
            UNLOCK_TIME,
            "Longest time in seconds for which an account locks",
            "900",
            low=15,
            high=86400,
            number=True,
        ),
        Option(
            SESSION_TIMEOUT,
            "Minutes after which an idle session ends",
            "30",
            low=1,
            high=1440,
            number=True,
        ),
        Option(
            LOG_LEVEL,
            "What the front end of the API writes to its log",
            "info",
            choices=LOG_LEVELS,
        ),
        Option(
            SHARE_FORCE_SALTING,
            "Share no memory pages between VMs (2): each is salted with the VM's own identity",
            "2",
            low=2,
            high=2,
            number=True,
            why="memory of one VM is never merged with another's (mem-merge=off), and nothing here"
            " would merge it",
        ),
        *(
            Option(name, f"{label}; kept, but there is none here", default, high=high, number=True)
            for name, label, default, high in (
                ("UserVars.SuppressShellWarning", "Do not warn of an open shell", "0", 1),
                ("UserVars.ESXiShellTimeOut", "Seconds for which a shell may be opened", "0", DAY),
                (
                    "UserVars.ESXiShellInteractiveTimeOut",
                    "Seconds after which an idle shell ends",
                    "0",
                    DAY,
                ),
                ("UserVars.SuppressHyperthreadWarning", "Do not warn of hyper-threads", "0", 1),
            )
        ),
        Option(WELCOME, "Shown to everybody before they log in", ""),
        Option(MESSAGE, "Message of the day, shown to those who are logged in", ""),
        Option(
            EXEC_INSTALLED_ONLY,
            "Execute only what an installed VIB brought; a property of this host's mounts",
            "TRUE",
            read_only=True,
        ),
        Option(
            API_COMPATIBILITY,
            "Serve the methods of the API that are there for compatibility alone; a boot option",
            "FALSE",
            read_only=True,
        ),
    )
}


@dataclass(frozen=True, slots=True)
class BootOption:
    """A word of ``kernelopt`` in boot.cfg: its type as esxcli names it, and its default."""

    name: str
    kind: str
    description: str
    default: str
    fixed: str = ""
    """Why nobody sets it, or nothing."""


BOOT_OPTIONS: Mapping[str, BootOption] = {
    option.name: option
    for option in (
        BootOption(
            "execInstalledOnly",
            "Bool",
            "Execute only what installed VIBs bring.",
            "TRUE",
            fixed="It is how the mounts of this host are made: what no VIB brings is never "
            "executed. Pack it as a VIB and install that.",
        ),
        BootOption("apiCompatibility", "Bool", "Serve the API's methods of ring C.", "FALSE"),
        BootOption(
            "noSigCheck",
            "String",
            "VIBs that are used without a good signature.",
            "",
            fixed="Installing a VIB with --no-sig-check sets it, and removing that VIB resets it.",
        ),
    )
}
"""What ``kernelopt`` decides, by name."""


def with_boot_option(command_line: str, name: str, value: str) -> str:
    """Return a ``kernelopt`` that says so; an option that has its default is left out.

    Raises ArgumentError (no such option or value), StateError (``option-fixed``).
    """
    option = BOOT_OPTIONS.get(name)
    if option is None:
        raise ArgumentError(
            f"There is no boot option {name:.100}; there are {', '.join(BOOT_OPTIONS)}.",
            argument="setting",
            component=name,
        )
    kept = [word for word in command_line.split() if word.partition("=")[0] != name]
    if option.kind == "Bool" and value.upper() not in {"TRUE", "FALSE"}:
        raise ArgumentError(
            f"{name} is TRUE or FALSE, not {value:.100}.", argument="value", component=name
        )
    if option.fixed and value.upper() != option.default:
        raise StateError(
            f"{name} cannot be set to {value:.100}.",
            code="option-fixed",
            component=name,
            remedy=option.fixed,
        )
    if value.upper() != option.default:
        kept.append(f"{name}={value.upper()}")
    return " ".join(kept)


def booted_with(command_line: str) -> dict[str, str]:
    """Return the options that the kernel's command line decides, as they are in force.

    The line is ``kernelopt`` of boot.cfg, which is measured: who changes it is found.
    """
    words = dict(word.partition("=")[::2] for word in command_line.split())
    wide = words.get("apiCompatibility", "FALSE").upper() == "TRUE"
    return {API_COMPATIBILITY: "TRUE" if wide else "FALSE"}


def check(name: str, value: str) -> str:
    """Return the value as it is stored. Raises ArgumentError."""
    option = OPTIONS.get(name)
    if option is None:
        raise ArgumentError(f"there is no option {name:.100}", argument="key", component=name)
    if option.read_only:
        raise ArgumentError(f"{name} cannot be changed", argument=name, component=name)
    if not option.number:
        if len(value) > TEXT_LIMIT or not value.replace("\n", "").replace("\t", "").isprintable():
            raise ArgumentError(
                f"{name} is printable text of at most {TEXT_LIMIT} characters",
                argument=name,
                component=name,
            )
        if option.choices and value not in option.choices:
            choices = ", ".join(option.choices)
            raise ArgumentError(f"{name} is one of {choices}", argument=name, component=name)
        return value
    if not (value.isascii() and value.isdecimal()) or len(value) > 9:  # noqa: PLR2004  (fits into 32 bits)
        raise ArgumentError(f"{name} is a number", argument=name, component=name)
    if not option.low <= int(value) <= option.high:
        raise ArgumentError(_bounds(option), argument=name, component=name)
    return str(int(value))


def _bounds(option: Option) -> str:
    why = f": {option.why}" if option.why else ""
    if option.low == option.high:
        return f"{option.name} is {option.low}{why}"
    return f"{option.name} lies between {option.low} and {option.high}{why}"
