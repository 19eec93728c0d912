"""Which image runs, which one boots next, and whether a change may be made now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from casemate.errors import HostError, StateError
from casemate.formats.bootcfg import BootCfg, BootState
from casemate.formats.imgdb import ImageDb, parse_imgdb
from casemate.kernel.boot.bank import read_banks
from casemate.kernel.home import Home
from casemate.policy.banks import Bank

DATABASE_LIMIT: Final = 64 << 20
"""Bytes of a packed image database: what it may unpack to."""


@dataclass(frozen=True, slots=True)
class Image:
    """A bank's content; ``next`` tells that it boots next and does not run."""

    bank: str
    config: BootCfg
    database: ImageDb
    next: bool = False


@dataclass(frozen=True, slots=True)
class Situation:
    """The running image, the one to start a change from, and where the result goes."""

    running: Image
    base: Image
    target: str
    serial: int


class Images:
    """The banks of a home as the kernel that booted from ``bank`` sees them."""

    def __init__(self, home: Home, bank: str) -> None:
        self._home = home
        self._bank = bank

    def running(self) -> Image:
        """Return the running image. Raises StateError when its bank was changed underneath."""
        return self._image(self._find(self._bank))

    def upcoming(self) -> Image:
        """Return the image that boots next: a staged one, else the running one."""
        running = self._find(self._bank)
        newer = [
            bank
            for bank in read_banks(self._home)
            if bank.name != self._bank
            and bank.config is not None
            and bank.config.bootstate in (BootState.UPGRADING, BootState.VALID)
            and (
                bank.config.updated > (running.config.updated if running.config else 0)
                or (running.config is not None and running.config.bootstate is BootState.INVALID)
            )
        ]
        if not newer:
            return self._image(running)
        return self._image(newer[0], upcoming=True)

    def situation(self) -> Situation:
        """Return what a change starts from.

        Raises:
            StateError: The boot is not complete, or was rolled back.
        """
        banks = read_banks(self._home)
        running = self._find(self._bank)
        state = running.config.bootstate if running.config else BootState.UNDEFINED
        if state is BootState.INVALID:
            raise StateError(
                "The running image was rolled back: the other one boots next.",
                code="rollback-pending",
                component=self._bank,
                remedy="Restart the host, then change its software.",
            )
        if state is not BootState.VALID:
            raise StateError(
                "The boot is not complete yet.",
                code="boot-incomplete",
                component=self._bank,
                remedy="Wait until the host is up.",
            )
        target = next(bank.name for bank in banks if bank.name != self._bank)
        return Situation(self.running(), self.upcoming(), target, 1 + max(map(_serial, banks)))

    def _find(self, name: str) -> Bank:
        return next(bank for bank in read_banks(self._home) if bank.name == name)

    def _image(self, bank: Bank, *, upcoming: bool = False) -> Image:
        if bank.config is None:
            raise StateError(
                f"{bank.name} has no usable boot.cfg.",
                code="bank-empty",
                component=bank.name,
                remedy="Restart the host; the other bank boots then.",
            )
        path = self._home.path / bank.name / "imgdb.tgz"
        try:
            with path.open("rb") as file:
                data = file.read(DATABASE_LIMIT)
        except OSError as error:
            raise HostError(
                f"The image database of {bank.name} cannot be read: {error.strerror}.",
                component=str(path),
            ) from error
        return Image(bank.name, bank.config, parse_imgdb(data), upcoming)


def _serial(bank: Bank) -> int:
    return 0 if bank.config is None else bank.config.updated
