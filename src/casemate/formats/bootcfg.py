"""``boot.cfg`` of a boot bank: what to load, in which order, and the state of the bank.

``bootstate`` must end within the first 512 bytes, so that it can be rewritten in one sector and a
power cut leaves the old state or the new one.
Source: the keys of ESXi's boot loader; unknown keys are kept and written back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from casemate.errors import FormatError, LimitError

MAX_SIZE: Final = 64 << 10
"""Bytes of a boot.cfg; real ones are about 5 KiB."""
MAX_MODULES: Final = 1_024
MAX_LINE: Final = 32 << 10
"""Characters of one line; the modules stand on one."""
STATE_WINDOW: Final = 512
"""Bytes at the start of the file within which the bootstate line must end."""
SEPARATOR: Final = " --- "

_FILE_NAME: Final = re.compile(r"[0-9A-Za-z_-]{1,8}(\.[0-9A-Za-z_-]{1,3})?", re.ASCII)
_KEY: Final = re.compile(r"[a-z][a-z0-9]{0,31}", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
_STATE_LINE: Final = re.compile(rb"(?:^|\n)bootstate=([0-3])(?=\n)", re.ASCII)
_UNPRINTABLE: Final = re.compile(r"[^\x20-\x7e]")
"""Options are words between spaces: nothing else may part them for one reader and not another."""


class BootState(IntEnum):
    """State of a bank; ``UNDEFINED`` when boot.cfg says nothing."""

    UNDEFINED = -1
    VALID = 0
    UPGRADING = 1
    DIRTY = 2
    INVALID = 3


@dataclass(frozen=True, slots=True)
class BootModule:
    """A file to load, and its options."""

    name: str
    options: str = ""

    def __post_init__(self) -> None:
        check_file_name(self.name)
        if (
            _UNPRINTABLE.search(self.options)
            or self.options != self.options.strip()
            or "---" in self.options
        ):
            raise FormatError(
                f"The options of {self.name} do not fit on one line.", code="bootcfg-value"
            )


@dataclass(frozen=True, slots=True)
class BootCfg:
    """The values of a boot.cfg.

    ``updated`` is the bank's serial number: the highest one is the newest. ``timeout`` is in
    seconds. ``extra`` holds the other keys in file order.
    """

    kernel: str
    modules: tuple[BootModule, ...] = ()
    title: str = ""
    kernelopt: str = ""
    build: str = ""
    updated: int = 0
    bootstate: BootState = BootState.VALID
    timeout: int = 5
    prefix: str = ""
    extra: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        check_file_name(self.kernel)
        names = [self.kernel, *(module.name for module in self.modules)]
        if len(names) > MAX_MODULES:
            raise LimitError(f"It lists more than {MAX_MODULES} modules.", code="bootcfg-limit")
        if len({name.lower() for name in names}) != len(names):
            raise FormatError("It lists a file twice.", code="bootcfg-duplicate")
        for value in (self.title, self.kernelopt, self.build, self.prefix):
            _check_value(value)
        for key, value in self.extra:
            if not _KEY.fullmatch(key) or key in _MODELLED:
                raise FormatError(f"{key[:64]!r} cannot be another key.", code="bootcfg-key")
            _check_value(value)
        if self.updated < 0 or self.timeout < 0:
            raise FormatError("It counts below zero.", code="bootcfg-value")

    @property
    def files(self) -> tuple[BootModule, ...]:
        """Everything to load in order: the kernel with its options first."""
        return (BootModule(self.kernel, self.kernelopt), *self.modules)


_MODELLED: Final = (
    "bootstate",
    "title",
    "timeout",
    "prefix",
    "kernel",
    "kernelopt",
    "modules",
    "build",
    "updated",
)
"""The keys with a field of their own, in the order they are written."""


def check_file_name(name: str) -> None:
    """Raise unless this is a plain 8.3 file name, as a FAT boot bank needs.

    Raises:
        FormatError: Code ``boot-file-name``.
    """
    if not _FILE_NAME.fullmatch(name):
        raise FormatError(
            f"{name[:64]!r} is not an 8.3 name of a boot file.", code="boot-file-name"
        )


def parse_bootcfg(data: bytes, *, component: str = "boot.cfg") -> BootCfg:
    """Return the values of a boot.cfg.

    Raises:
        FormatError: A line, key or value that makes no sense, a key that stands twice, no kernel,
            or a bootstate past the first sector (codes ``bootcfg-*``, ``boot-file-name``).
        LimitError: The file is larger than any real one.
    """
    try:
        return _parse(data)
    except FormatError as error:
        error.component = error.component or component
        raise


def write_bootcfg(config: BootCfg) -> bytes:
    """Return the file: same values, same bytes; bootstate comes first."""
    values = {
        "bootstate": str(int(config.bootstate)),
        "title": config.title,
        "timeout": str(config.timeout),
        "prefix": config.prefix,
        "kernel": config.kernel,
        "kernelopt": config.kernelopt,
        "modules": SEPARATOR.join(
            f"{module.name} {module.options}".rstrip() for module in config.modules
        ),
        "build": config.build,
        "updated": str(config.updated),
    }
    if config.bootstate is BootState.UNDEFINED:
        del values["bootstate"]
    return "".join(f"{key}={value}\n" for key, value in (*values.items(), *config.extra)).encode()


def patch_state(data: bytes, state: BootState) -> bytes:
    """Return the same file with another bootstate: one byte in the first sector changes.

    Raises:
        FormatError: The file has no bootstate in its first sector, or ``state`` is undefined.
    """
    found = _STATE_LINE.search(data[: STATE_WINDOW + 1])
    if found is None or state is BootState.UNDEFINED:
        raise FormatError("There is no bootstate to set in the first sector.", code="bootcfg-state")
    return data[: found.start(1)] + str(int(state)).encode() + data[found.end(1) :]


def _parse(data: bytes) -> BootCfg:
    if len(data) > MAX_SIZE:
        raise LimitError(f"It has more than {MAX_SIZE} bytes.", code="bootcfg-limit")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError("It is not UTF-8 text.", code="bootcfg-line") from error
    values: dict[str, str] = {}
    for line in text.split("\n"):
        stripped = line.strip(" \t\r")
        if not stripped or stripped.startswith("#"):
            continue
        key, separator, value = stripped.partition("=")
        key = key.rstrip(" \t")
        if not separator or not _KEY.fullmatch(key) or len(stripped) > MAX_LINE:
            raise FormatError(f"{stripped[:64]!r} is not key=value.", code="bootcfg-line")
        if key in values:
            raise FormatError(f"The key {key} stands twice.", code="bootcfg-duplicate")
        values[key] = value.strip(" \t")
    if "kernel" not in values:
        raise FormatError("It names no kernel.", code="bootcfg-kernel")
    return BootCfg(
        kernel=values["kernel"],
        modules=_modules(values.get("modules", "")),
        title=values.get("title", ""),
        kernelopt=values.get("kernelopt", ""),
        build=values.get("build", ""),
        updated=_number(values, "updated", 0),
        bootstate=_state(values, data),
        timeout=_number(values, "timeout", 5),
        prefix=values.get("prefix", ""),
        extra=tuple((key, value) for key, value in values.items() if key not in _MODELLED),
    )


def _modules(text: str) -> tuple[BootModule, ...]:
    if not text:
        return ()
    modules = []
    for part in text.split("---"):
        name, _, options = part.strip().partition(" ")
        modules.append(BootModule(name, options.strip()))
    return tuple(modules)


def _number(values: dict[str, str], key: str, default: int) -> int:
    text = values.get(key)
    if text is None:
        return default
    if not _NUMBER.fullmatch(text):
        raise FormatError(f"{key} is {text[:64]!r}, not a number.", code="bootcfg-value")
    return int(text)


def _state(values: dict[str, str], data: bytes) -> BootState:
    if "bootstate" not in values:
        return BootState.UNDEFINED
    if not _STATE_LINE.search(data[: STATE_WINDOW + 1]):
        raise FormatError(
            "Its bootstate is not 0 to 3 on a line of its own in the first sector.",
            code="bootcfg-state",
        )
    return BootState(int(values["bootstate"]))


def _check_value(value: str) -> None:
    if _UNPRINTABLE.search(value) or value != value.strip() or len(value) > MAX_LINE:
        raise FormatError(f"{value[:64]!r} does not fit on one line.", code="bootcfg-value")
