"""Which modules a machine needs, and loading them: from verified files, by an index beside them.

The index is JSON, one file a VIB: name → ``file``, ``depends``, ``aliases`` (patterns for the
modalias of devices). Nothing else loads modules: there is no modprobe in the image.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import translate
from pathlib import Path

from casemate.errors import CasemateError, HostError
from casemate.kernel.sys.modules import load_module

INDEX = Path("/usr/lib/casemate/drivers")
DEVICES = Path("/sys/bus")


@dataclass(frozen=True, slots=True)
class Driver:
    """A module: its file, what must be loaded before it, and a pattern of devices."""

    name: str
    file: Path
    depends: tuple[str, ...]
    aliases: re.Pattern[str] | None


class Drivers:
    """The modules below a root. ``load`` hands a file to Linux.

    Raises HostError where an index cannot be read.
    """

    def __init__(self, index: Path = INDEX, load: Callable[[Path], object] = load_module) -> None:
        self._load = load
        self._loaded: set[str] = set()
        self.known: dict[str, Driver] = {}
        try:
            for path in sorted(index.glob("*.json")):
                for name, facts in json.loads(path.read_bytes()).items():
                    self.known[name] = _driver(name, facts)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HostError(
                f"the index of drivers cannot be read: {error}", component=str(index)
            ) from error

    def need(self, *names: str) -> None:
        """Load modules that must be there; those built into Linux are not listed and pass."""
        for name in names:
            if name in self.known:
                self._ensure(name)

    def match(self, modaliases: Iterable[str]) -> tuple[str, ...]:
        """Load what drives these devices; return the names of what failed to load.

        A driver that finds its device broken is no reason to stop.
        """
        failed = []
        for modalias in sorted(set(modaliases)):
            for driver in self.known.values():
                if driver.aliases is not None and driver.aliases.match(modalias):
                    try:
                        self._ensure(driver.name)
                    except CasemateError as error:
                        failed.append(f"{driver.name}: {error.reason}")
        return tuple(failed)

    def _ensure(self, name: str) -> None:
        if name in self._loaded or name not in self.known:
            return
        self._loaded.add(name)
        driver = self.known[name]
        for need in driver.depends:
            self._ensure(need)
        self._load(driver.file)


def present(devices: Path = DEVICES) -> Iterator[str]:
    """Yield the modalias of every device that Linux has found."""
    for path in devices.glob("*/devices/*/modalias"):
        try:
            yield path.read_text().strip()
        except OSError:
            continue  # the device went away


def _driver(name: str, facts: dict[str, object]) -> Driver:
    aliases = [str(one) for one in _words(facts["aliases"])]
    pattern = re.compile("|".join(map(translate, aliases))) if aliases else None
    return Driver(name, Path(str(facts["file"])), tuple(_words(facts["depends"])), pattern)


def _words(value: object) -> list[str]:
    if not isinstance(value, list):
        raise TypeError("a list was expected")
    return [str(one) for one in value]
