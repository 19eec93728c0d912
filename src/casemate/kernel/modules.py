"""Linux modules that VIBs bring: verified twice, loaded from sealed memory.

A module's file lies in a layer of the visor root, so its VIB was verified and measured. It is
copied into sealed memory; there its own appended signature must be that of one of the keys in
``trust/modules``; and from there Linux takes it, and asks about the signature again. Debian's key
is inside the kernel image and nowhere else: ``casemate trust module-keys`` takes it out.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from casemate.calls.modules import NO_MODULE, Module
from casemate.errors import (
    CasemateError,
    HostError,
    NotFoundError,
    NotSupportedError,
)
from casemate.formats.imgdb import DbVib
from casemate.formats.modinfo import ModuleInfo, parse_modinfo
from casemate.kernel.loading import Gate, Settings, plain
from casemate.kernel.sys.libc import from_os_error
from casemate.kernel.sys.memfd import mapped, sealed_copy
from casemate.kernel.sys.modules import load_sealed
from casemate.policy.kmod import verify_module
from casemate.policy.levels import Level
from casemate.policy.trust import MODULE_KEYS, module_keys, subject_of

PLACES: Final = ("usr/lib/modules/", "usr/lib/vmware/vmkmod/")
"""Where VIBs bring Linux modules."""
MAX_MODULE: Final = 64 << 20
"""Bytes of a module; the largest of Debian's have some 10 MiB."""
MAX_DEPTH: Final = 32
"""Modules that need one another in a row."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """A module's file in the visor root, and the VIB that brings it."""

    name: str
    path: str
    vib: DbVib


@dataclass(frozen=True, slots=True)
class Linux:
    """What of Linux is needed: its view of itself, and loading from sealed memory."""

    proc: Path = Path("/proc")
    load: Callable[[int, str, str], bool] = load_sealed

    def refusal(self) -> str:
        """Return why no module can be loaded; nothing when it can be tried."""
        if not (self.proc / "modules").exists():
            return "This Linux loads no modules: it was built without, or started with nomodule."
        disabled = self.proc / "sys/kernel/modules_disabled"
        if disabled.exists() and disabled.read_text().strip() != "0":
            return "Loading modules was switched off until the next boot (kernel.modules_disabled)."
        return ""

    def loaded(self) -> frozenset[str]:
        """Return the names of the modules that are loaded."""
        try:
            lines = (self.proc / "modules").read_text().splitlines()
        except OSError:
            return frozenset()
        return frozenset(line.partition(" ")[0] for line in lines)


class Modules:
    """Lists and loads Linux modules.

    Args:
        root: where the visor root is now.
        vibs: the VIBs that are in use.
        trust: the trust directory.
        gate: what a VIB passes again.
        linux: the machine's Linux.
    """

    def __init__(
        self,
        root: Callable[[], Path],
        vibs: Callable[[], Iterable[DbVib]],
        trust: Path,
        gate: Gate,
        linux: Linux | None = None,
    ) -> None:
        self._root = root
        self._vibs = vibs
        self._keys_place = trust / MODULE_KEYS
        self._gate = gate
        self._linux = linux or Linux()

    def refusal(self) -> str:
        """Return why this machine loads no modules; nothing when it can be tried."""
        return self._linux.refusal()

    def names(self) -> tuple[str, ...]:
        """Return the names of the modules of VIBs that are in use."""
        return tuple(found.name for found in self._all())

    def at_start(self, own: Mapping[str, object]) -> bool:
        """Tell whether a module with these settings is loaded when the kernel starts."""
        return own.get("enabled") is True

    def load(self, name: str, settings: Settings) -> None:
        """Load a module, after what it needs.

        Raises:
            CasemateError: It may not be loaded, or Linux refuses it.
        """
        if reason := self._linux.refusal():
            raise NotSupportedError(
                reason,
                code="modules-unsupported",
                component=name,
                remedy="Boot a Linux that loads modules: casemate image disk makes such a machine.",
            )
        keys = self.keys()
        if not keys:
            raise NotFoundError(
                "No key is trusted for Linux modules.",
                code="no-module-keys",
                component=str(self._keys_place.name),
                remedy="Trust those of the kernel that the machine boots: casemate trust "
                "module-keys /boot/vmlinuz-VERSION; or the certificate of the provider's key.",
            )
        self._load_with_needs(self._find(name), keys, settings, ())

    def _load_with_needs(
        self,
        found: Found,
        keys: tuple[x509.Certificate, ...],
        settings: Settings,
        above: tuple[str, ...],
    ) -> None:
        if found.name in above or len(above) > MAX_DEPTH:
            raise HostError(
                "Modules need one another in a circle, or too many in a row.",
                code="module-depth",
                component=found.name,
                remedy="Ask the provider of the VIB for modules that fit together.",
            )
        self._gate.admit(found.vib)
        sealed = self._sealed(found)
        try:
            with mapped(sealed) as view:
                signed = verify_module(view, keys, component=found.name)
                info = parse_modinfo(view)
            self._gate.measure_key(signed.certificate)
        except BaseException:
            os.close(sealed)
            raise
        try:
            for need in info.depends:
                if plain(need) not in self._linux.loaded():
                    self._load_with_needs(self._find(need), keys, settings, (*above, found.name))
        except BaseException:
            os.close(sealed)
            raise
        options = str(settings.get(found.name, {}).get("options", ""))
        if self._linux.load(sealed, found.name, options):
            _log.info("module %s of %s loaded", found.name, found.vib.descriptor.vib_id)

    def _sealed(self, found: Found) -> int:
        path = self._root() / found.path
        try:
            source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise HostError(
                f"The module {found.name} cannot be read: {error.strerror}.", component=found.path
            ) from error
        try:
            return sealed_copy(source, found.name, limit=MAX_MODULE)
        finally:
            os.close(source)

    def keys(self) -> tuple[x509.Certificate, ...]:
        """Return the certificates of module keys. Raises FormatError, HostError."""
        try:
            return module_keys(p.read_bytes() for p in sorted(self._keys_place.glob("*.pem")))
        except OSError as error:
            raise from_os_error("cannot read the module keys", error, component="trust") from error

    def _all(self) -> Iterator[Found]:
        for vib in self._vibs():
            for path in vib.descriptor.files:
                if path.startswith(PLACES) and path.endswith(".ko"):
                    yield Found(plain(PurePosixPath(path).stem), path, vib)

    def _find(self, name: str) -> Found:
        for found in self._all():
            if found.name == plain(name):
                return found
        raise NotFoundError(
            f"There is no module {name[:64]!r}.",
            code=NO_MODULE,
            component=name[:64],
            remedy="List them: esxcli system module list; install the VIB that brings it.",
        )

    def describe(self, names: Collection[str], settings: Settings) -> Iterator[Module]:
        """Yield what is known of modules, and of who signed them."""
        keys, loaded = self.keys(), self._linux.loaded()
        refusals: dict[str, str] = {}
        for found in self._all():
            if found.name in names:
                vib_id = found.vib.descriptor.vib_id
                if vib_id not in refusals:
                    refusals[vib_id] = self._refusal_of(found.vib)
                row = self._describe(found, keys, settings.get(found.name, {}), refusals[vib_id])
                yield replace(row, loaded=found.name in loaded)

    def _refusal_of(self, vib: DbVib) -> str:
        try:
            self._gate.judge(vib)
        except CasemateError as error:
            return f"Refused: {error.reason}"
        return ""

    def _describe(
        self,
        found: Found,
        keys: tuple[x509.Certificate, ...],
        own: Mapping[str, object],
        refusal: str,
    ) -> Module:
        descriptor = found.vib.descriptor
        info = ModuleInfo(found.name, (), (), "")
        status, issuer, fingerprint, digest = refusal or "Signed", "", "", ""
        sealed = self._sealed(found)
        try:
            with mapped(sealed) as view:
                digest = hashlib.sha256(view).hexdigest()
                info = parse_modinfo(view)
                signed = verify_module(view, keys, component=found.name)
                issuer = subject_of(signed.certificate)
                fingerprint = signed.certificate.fingerprint(hashes.SHA256()).hex()
        except CasemateError as error:
            status = f"Refused: {error.reason}"
        finally:
            os.close(sealed)
        return Module(
            name=found.name,
            file=f"/{found.path}",
            loaded=False,
            enabled=self.at_start(own),
            license=info.license,
            version=info.version,
            depends=info.depends,
            vib=descriptor.name,
            vib_version=descriptor.version,
            level=Level(descriptor.acceptance_level).display_name,
            status=status,
            issuer=issuer,
            digest=digest,
            fingerprint=fingerprint,
            parameters=info.parameters,
            options=str(own.get("options", "")),
            kind="Linux module",
        )
