"""Loading what VIBs bring into the running system: Linux modules, and plug-ins of the kernel.

Whatever its kind, a VIB is judged again at that moment, by the rules of its installation: what was
revoked, or is signed by somebody who is not trusted any more, is refused in the same words.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from cryptography.x509 import Certificate

from casemate.calls import modules as m
from casemate.calls.messages import Empty
from casemate.errors import ArgumentError, CasemateError, NotFoundError
from casemate.formats.imgdb import DbVib
from casemate.kernel.accounts import Session
from casemate.kernel.store import Store
from casemate.policy.acceptance import VibVerdict

SETTINGS: Final = "modules"
"""Name in the store: JSON, module to ``enabled`` and ``options``."""
MAX_OPTIONS: Final = 1024
_OPTIONS: Final = re.compile(r"(?:[A-Za-z0-9_]{1,64}=[!-~]{0,256}(?: |$))*", re.ASCII)

Settings = Mapping[str, Mapping[str, object]]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Gate:
    """What everything that is loaded passes; both raise CasemateError.

    Attributes:
        judge: judges a VIB that is in use: signature, revocation, level.
        confirm: asks whether the layers of these names still are what was measured.
        measure_key: measures a key that a module is signed by, unless this boot already has.
    """

    judge: Callable[[DbVib], VibVerdict]
    confirm: Callable[[Collection[str]], None]
    measure_key: Callable[[Certificate], None]

    def admit(self, vib: DbVib) -> VibVerdict:
        """Judge a VIB of which something will be loaded now."""
        verdict = self.judge(vib)
        self.confirm(vib.files.values())
        return verdict


class Family(Protocol):
    """One kind of what can be loaded."""

    def refusal(self) -> str:
        """Return why this machine loads none; nothing when it can be tried."""

    def names(self) -> tuple[str, ...]:
        """Return the names of all that are there."""

    def at_start(self, own: Mapping[str, object]) -> bool:
        """Tell whether one with these settings is loaded when the kernel starts."""

    def load(self, name: str, settings: Settings) -> None:
        """Load one."""

    def describe(self, names: Collection[str], settings: Settings) -> Iterator[m.Module]:
        """Yield what is known of those."""


class Loading:
    """Answers the requests about modules. ``store`` keeps their settings."""

    def __init__(self, families: Sequence[Family], store: Store) -> None:
        self._families = tuple(families)
        self._store = store
        self._lock = asyncio.Lock()

    def handlers(self) -> dict[type, Callable[..., Awaitable[object]]]:
        """Return the handlers of this topic."""
        return {m.ModuleList: self._list, m.ModuleLoad: self._load, m.ModuleSet: self._set}

    async def load_enabled(self) -> None:
        """Load what is set to be loaded at every start; what fails is logged."""
        settings = self._settings()
        for family in self._families:
            for name in family.names():
                if not family.at_start(settings.get(name, {})):
                    continue
                try:
                    async with self._lock:
                        await asyncio.to_thread(family.load, name, settings)
                except CasemateError as error:
                    _log.warning("the module %s was not loaded: %s", name, error.reason)

    async def _list(self, request: m.ModuleList, _session: Session) -> m.ModulesReply:
        return await asyncio.to_thread(self._describe, request.name, self._settings())

    def _describe(self, name: str, settings: Settings) -> m.ModulesReply:
        wanted, one = self._find(name) if name else (None, "")
        rows = [
            row
            for each in self._families
            if wanted in (None, each)
            for row in each.describe([one] if name else each.names(), settings)
        ]
        refusals = [family.refusal() for family in self._families]
        return m.ModulesReply(
            tuple(sorted(rows, key=lambda row: row.name)), " ".join(filter(None, refusals))
        )

    async def _load(self, request: m.ModuleLoad, _session: Session) -> Empty:
        family, name = self._find(request.name)
        async with self._lock:
            await asyncio.to_thread(family.load, name, self._settings())
        return Empty()

    async def _set(self, request: m.ModuleSet, _session: Session) -> Empty:
        _, name = self._find(request.name)
        if request.options is not None and (
            len(request.options) > MAX_OPTIONS or not _OPTIONS.fullmatch(request.options)
        ):
            raise ArgumentError(
                f"{request.options[:100]!r} are no options: they are name=value, apart by spaces.",
                argument="parameter-string",
                component=name,
            )
        settings = {one: dict(own) for one, own in self._settings().items()}
        own = settings.setdefault(name, {})
        if request.enabled is not None:
            own["enabled"] = request.enabled
        if request.options is not None:
            own["options"] = request.options
        self._store.set_value(SETTINGS, json.dumps(settings))
        return Empty()

    def _find(self, name: str) -> tuple[Family, str]:
        for family in self._families:
            for one in family.names():
                if plain(one) == plain(name):
                    return family, one
        raise NotFoundError(
            f"There is no module {name[:64]!r}.",
            code=m.NO_MODULE,
            component=name[:64],
            remedy="List them: esxcli system module list; install the VIB that brings it.",
        )

    def _settings(self) -> Settings:
        found = json.loads(self._store.value(SETTINGS) or "{}")
        return {str(name): dict(own) for name, own in found.items()}


def plain(name: str) -> str:
    """Return a module's name as Linux writes it: with underscores."""
    return name.replace("-", "_")
