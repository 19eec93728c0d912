"""The plug-ins that VIBs bring: which there are, which are loaded, and who may use them."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from casemate.calls.modules import Module
from casemate.errors import (
    AcceptanceError,
    CasemateError,
    NotFoundError,
    NotSupportedError,
    VerificationError,
)
from casemate.formats.imgdb import DbVib
from casemate.formats.pluginmanifest import MANIFEST, PluginKind, PluginManifest
from casemate.kernel.loading import Gate, Settings
from casemate.kernel.plugins.code import PLACE, PluginCode, plugin_of, read_plugin
from casemate.kernel.plugins.runner import Running, Session, Start
from casemate.policy.acceptance import VibVerdict
from casemate.policy.hardening import Waiver
from casemate.policy.levels import Level

INTERFACES: Final[Mapping[PluginKind, int]] = dict.fromkeys(PluginKind, 1)
"""The version of each interface that this kernel has."""
WATCH_SECONDS: Final = 10.0
"""Between two looks whether what carries frames still may."""
Uplink = Callable[[str, Mapping[str, str]], AbstractContextManager[Mapping[str, int]]]
LOOSEST: Final = Level.PARTNER
"""The loosest level of a VIB whose plug-ins are loaded: somebody must stand for what runs."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """A plug-in of a VIB that is in use: its files, and the ids of all VIBs that claim it."""

    name: str
    vib: DbVib
    paths: tuple[str, ...]
    vibs: tuple[str, ...]


class Plugins:
    """Lists, loads and lends plug-ins; for several threads at once.

    Args:
        root: where the visor root is now.
        vibs: the VIBs that are in use.
        gate: what a VIB passes again.
        waivers: reads the hardening waivers in force.
        uplink: makes what a network plug-in works with.
        start: starts a plug-in's process.
    """

    kind: Final = "plug-in"

    def __init__(
        self,
        root: Callable[[], Path],
        vibs: Callable[[], Iterable[DbVib]],
        gate: Gate,
        waivers: Callable[[], Sequence[Waiver]],
        uplink: Uplink,
        start: Start = Running,
    ) -> None:
        self._root = root
        self._vibs = vibs
        self._gate = gate
        self._waivers = waivers
        self._start = start
        self._uplink = uplink
        self._lasting: dict[str, Session] = {}
        self._changed: Callable[[], object] = lambda: None
        self._loaded: dict[str, tuple[str, PluginManifest]] = {}
        self._lock = threading.Lock()
        # One at a time: two loads at once would leave a process that nobody ends.
        self._loading = threading.Lock()

    def refusal(self) -> str:
        """Return why nothing can be loaded: plug-ins always can."""
        return ""

    def names(self) -> tuple[str, ...]:
        """Return the names of the plug-ins of VIBs that are in use."""
        return tuple(found.name for found in self._all())

    def at_start(self, own: Mapping[str, object]) -> bool:
        """Tell whether a plug-in with these settings is loaded when the kernel starts."""
        return own.get("enabled") is not False

    def load(self, name: str, settings: Settings) -> None:
        """Verify a plug-in and try it: its entry is imported behind all its walls.

        Raises:
            CasemateError: It may not be loaded, or does not start.
        """
        with self._loading:
            self._load(name, settings)

    def _load(self, name: str, settings: Settings) -> None:
        found = self._find(name)
        with self._verified(found) as code:
            if code.manifest.kind is PluginKind.NETWORK:
                self._let_go(name)
                self._carry(code, _options(settings.get(name, {})))
            else:
                with self._start(code, self._root(), {}, {}):
                    pass
            self._note(found, code.manifest)
        _log.info("plug-in %s of %s loaded", name, found.vib.descriptor.vib_id)

    def describe(self, names: Collection[str], settings: Settings) -> Iterator[Module]:
        """Yield what is known of plug-ins, and of who stands for them."""
        for found in self._all():
            if found.name in names:
                yield self._describe(found, settings.get(found.name, {}))

    def _describe(self, found: Found, own: Mapping[str, object]) -> Module:
        descriptor = found.vib.descriptor
        status, issuer, fingerprint, digest = "Signed", "", "", ""
        manifest: PluginManifest | None = None
        try:
            verdict = self._judge(found, self._gate.judge)
            issuer = verdict.signer
            fingerprint = hashlib.sha256(verdict.signer_certificate_der).hexdigest()
            with self._read(found, verdict) as code:
                manifest, digest = code.manifest, code.digest
        except CasemateError as error:
            status = f"Refused: {error.reason}"
        return Module(
            name=found.name,
            file=f"/{PLACE}{found.name}/{MANIFEST}",
            loaded=self._is_loaded(found),
            enabled=self.at_start(own),
            license=manifest.license if manifest else "",
            version=manifest.version if manifest else "",
            depends=(),
            vib=descriptor.name,
            vib_version=descriptor.version,
            level=Level(descriptor.acceptance_level).display_name,
            status=status,
            issuer=issuer,
            digest=digest,
            fingerprint=fingerprint,
            parameters=(),
            options=str(own.get("options", "")),
            kind=f"{manifest.kind} {self.kind}" if manifest else self.kind,
            provides=(f"{manifest.kind}-{manifest.interface}",) if manifest else (),
        )

    def storage(self, suffix: str) -> str | None:
        """Return the loaded plug-in that reads files with this suffix."""
        found = self._serving(PluginKind.STORAGE, lambda one: suffix.lower() in one.suffixes)
        return found[0] if found else None

    def tpm(self, maker: str) -> tuple[str, str] | None:
        """Return the loaded plug-in that knows TPMs of this maker, and the id of its VIB."""
        return self._serving(PluginKind.TPM, lambda one: maker in one.makers)

    def uplinks(self) -> frozenset[str]:
        """Return the interfaces that network plug-ins serve."""
        with self._lock:
            return frozenset(self._lasting)

    def follow(self, changed: Callable[[], object]) -> None:
        """Call this when a network plug-in has a new interface."""
        self._changed = changed

    async def run(self) -> None:
        """End network plug-ins that may not run any more, until cancelled; then all of them."""
        try:
            while True:
                await asyncio.sleep(WATCH_SECONDS)
                await asyncio.to_thread(self.check)
        finally:
            for name in self.uplinks():
                self._let_go(name)

    def check(self) -> None:
        """End network plug-ins whose process ended, or whose VIB is no longer to be trusted."""
        for name in self.uplinks():
            with self._loading:
                self._check(name)

    def _check(self, name: str) -> None:
        with self._lock:
            session = self._lasting.get(name)
        if session is None:
            return
        try:
            found = self._find(name)
            if self._is_loaded(found) and session.alive():
                self._judge(found, self._gate.judge)
                return
            reason = "its process or its VIB is gone"
        except CasemateError as error:
            reason = error.reason
        _log.warning("the plug-in %s is ended: %s", name, reason)
        self._let_go(name)
        with self._lock:
            self._loaded.pop(name, None)

    def _carry(self, code: PluginCode, options: Mapping[str, str]) -> None:
        name = code.manifest.name
        with self._uplink(name, options) as files:
            session = self._start(code, self._root(), {"options": dict(options)}, files)
        with self._lock:
            self._lasting[name] = session
        self._changed()

    def _let_go(self, name: str) -> None:
        with self._lock:
            session = self._lasting.pop(name, None)
        if session is not None:
            session.__exit__(None, None, None)

    @contextmanager
    def use(
        self, name: str, told: Mapping[str, Any], files: Mapping[str, int] = MappingProxyType({})
    ) -> Iterator[Session]:
        """Run a loaded plug-in, verified anew, until the block ends.

        Args:
            name: As ``storage`` or ``tpm`` gave it.
            told: What its process is told.
            files: The open files that it gets, by name.

        Raises:
            CasemateError: It is no longer to be trusted, or does not start.
        """
        found = self._find(name)
        root = self._root()
        with self._verified(found) as code, self._start(code, root, told, files) as session:
            yield session

    def _serving(
        self, kind: PluginKind, suits: Callable[[PluginManifest], bool]
    ) -> tuple[str, str] | None:
        in_use = {found.name: found.vib.descriptor.vib_id for found in self._all()}
        with self._lock:
            for name, (vib_id, manifest) in sorted(self._loaded.items()):
                if in_use.get(name) == vib_id and manifest.kind is kind and suits(manifest):
                    return name, vib_id
        return None

    def _note(self, found: Found, manifest: PluginManifest) -> None:
        with self._lock:
            self._loaded[found.name] = (found.vib.descriptor.vib_id, manifest)

    def _is_loaded(self, found: Found) -> bool:
        with self._lock:
            vib_id, _ = self._loaded.get(found.name, ("", None))
        return vib_id == found.vib.descriptor.vib_id

    def _verified(self, found: Found) -> PluginCode:
        """Judge everything about a plug-in that will be run now, and return its code."""
        return self._read(found, self._judge(found, self._gate.admit))

    def _read(self, found: Found, verdict: VibVerdict) -> PluginCode:
        code = read_plugin(self._root(), found.name, found.paths, verdict.level, self._waivers())
        manifest = code.manifest
        offered = INTERFACES.get(manifest.kind)
        if manifest.interface != offered:
            code.close()
            raise NotSupportedError(
                f"The plug-in {found.name} needs the interface {manifest.kind}"
                f" {manifest.interface}; this kernel has "
                f"{manifest.kind} {offered}.",
                code="plugin-interface",
                component=found.name,
                remedy="Install a version of the VIB that was made for this host.",
            )
        return code

    def _judge(self, found: Found, judge: Callable[[DbVib], VibVerdict]) -> VibVerdict:
        verdict = judge(found.vib)
        if not LOOSEST.admits(verdict.level):
            raise AcceptanceError(
                f"VIB {found.vib.descriptor.vib_id}'s acceptance level is {verdict.level}, and "
                f"plug-ins of the kernel are loaded from {LOOSEST} VIBs or better alone.",
                code="level-too-low",
                component=found.name,
                remedy="Ask the provider for a VIB that is signed at a stricter level.",
            )
        if len(found.vibs) > 1:
            raise VerificationError(
                f"The plug-in {found.name} is brought by more than one VIB: "
                f"{', '.join(found.vibs)}.",
                code="file-conflict",
                component=found.name,
                remedy="Remove all of them but one.",
            )
        return verdict

    def _all(self) -> Iterator[Found]:
        bringing: dict[str, list[DbVib]] = {}
        for vib in self._vibs():
            for name in {plugin_of(path) for path in vib.descriptor.files} - {""}:
                bringing.setdefault(name, []).append(vib)
        for name, vibs in sorted(bringing.items()):
            prefix = f"{PLACE}{name}/"
            paths = tuple(path for path in vibs[0].descriptor.files if path.startswith(prefix))
            yield Found(name, vibs[0], paths, tuple(one.descriptor.vib_id for one in vibs))

    def _find(self, name: str) -> Found:
        for found in self._all():
            if found.name == name:
                return found
        raise NotFoundError(
            f"There is no plug-in {name[:64]!r}.",
            code="no-module",
            component=name[:64],
            remedy="List them: esxcli system module list; install the VIB that brings it.",
        )


def _options(own: Mapping[str, object]) -> dict[str, str]:
    """Return options as ``esxcli system module parameters set`` took them."""
    words = str(own.get("options", "")).split()
    return {name: value for name, _, value in (word.partition("=") for word in words)}
