"""What is measured where: the steps of a boot, and the events that each of them leaves.

``policy.bootsteps`` lists the steps of a boot in order, from VIBs, boot.cfg and trust anchors
alone; ``BootMeasurer`` turns each step into events. The loader extends and logs those events;
``policy.predict`` writes them down as reference values: both walk the same code.

Two layouts, both ESXi's, from the same digests:

=====================================  ==========  ===========  ====  =========================
what                                   static PCR  D-RTM PCR    tag   measured bytes
=====================================  ==========  ===========  ====  =========================
the loader, by the D-RTM launch        -           17           2     the file
trust anchor                           14          18           11    levels NUL certificate DER
command line, module options           14          21           4     the string, no NUL
security option                        14          21           5     ``KEY = VALUE`` NUL
signer of a VIB, at its first use      14          18           7     certificate DER
version of a core module               13          20           8     the packed record
module b                               12          (17)         2     the file
modules k, s, sb                       12          19           2     the file
module esxupdt                         11          19           2     the file
any other module (a VIB's payload)     13          20           2     the file
option file (``*.gz``)                 14          21           3     the file
asset tag                              14          22           6     the tag
system version                         13          20           10    the string NUL
boot complete                          14          21           9     ``Boot Complete`` NUL
=====================================  ==========  ===========  ====  =========================

"The file" is its uncompressed content, and a single zero byte where that is empty (so the option
files of the D-RTM layout differ from ESXi 6.7's when empty, and agree with ESXi 7's). Each event
is an EV_EVENT_TAG whose data is ESXi's: file name NUL for modules and option files, the measured
bytes for everything else. Tags 5, 9, 10 and 11 are ours: ESXi's own numbers are not public.

The launch differs in two ways. Its event is of type HASH_START (0x402, Intel TXT's name for what
the hash interface at locality 4 puts into PCR 17), because a verifier expects exactly that type
first in PCR 17; its data is the tagged event of the module, so the component stays named. The
TPM itself resets PCR 17-22 and extends PCR 17 with it: the loader logs it and must not extend it.

A machine that firmware boots has execInstalledOnly in PCR 15 once more. Nothing else is there, so
no update changes it, and the key of the state can be sealed to it.

PCR 17-22 are extended at locality 2. Trust anchors, command line and security options come before
the modules (ESXi: after them): what decides on the modules is measured before it decides.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from casemate.errors import FormatError, LimitError
from casemate.formats.algorithms import digest
from casemate.formats.eventlog import Event, write_header
from casemate.formats.eventtypes import EV_EVENT_TAG, TXT_HASH_START
from casemate.formats.tagged import (
    TAG_BOOT_COMPLETE,
    TAG_BOOT_OPT,
    TAG_CMD_OPT,
    TAG_MOD,
    TAG_SECURITY_OPTION,
    TAG_SIGNER,
    TAG_SYSTEM_VERSION,
    TAG_TAG,
    TAG_TRUST_ANCHOR,
    TAG_VERSION,
    TaggedEvent,
    VersionRecord,
    write_tagged,
    write_version,
)
from casemate.policy.bootsteps import EXEC_INSTALLED_ONLY, boot_steps
from casemate.policy.steps import (
    BootComplete,
    CommandLine,
    Component,
    Launch,
    Option,
    SecurityOption,
    Signer,
    Step,
    SystemVersion,
    TrustAnchor,
    Version,
    VibIdentity,
)

__all__ = [
    "BANKS",
    "BOOT_COMPLETE",
    "DRTM_PCRS",
    "EXEC_PCR",
    "LOCALITY_LAUNCH",
    "LOCALITY_LAUNCHED",
    "LOCALITY_STATIC",
    "STATIC_PCRS",
    "TAG_TRUST_ANCHOR",
    "BootComplete",
    "BootMeasurer",
    "CommandLine",
    "Component",
    "Launch",
    "Option",
    "PlannedEvent",
    "SecurityOption",
    "Signer",
    "Step",
    "SystemVersion",
    "TrustAnchor",
    "Version",
    "VibIdentity",
    "boot_steps",
    "measured_digests",
    "module_pcrs",
]

BANKS = ("sha256", "sha384")
"""The banks that are measured into unless asked otherwise."""

STATIC_PCRS = (11, 12, 13, 14)
EXEC_PCR = 15
"""Holds execInstalledOnly alone; PCR 14, which is appraised, says the same."""
DRTM_PCRS = (17, 18, 19, 20, 21, 22)

LOCALITY_STATIC = 0
LOCALITY_LAUNCHED = 2
LOCALITY_LAUNCH = 4

BOOT_COMPLETE = b"Boot Complete\0"

UNCOMPRESSED_LIMIT = 4 << 30
"""Bytes of one component, uncompressed: far above the largest payload, below any memory bomb."""

_GZIP_MAGIC = b"\x1f\x8b\x08"
_CHUNK = 1 << 20
_ASSET_TAG_LIMIT = 512  # bytes: what ESXi reads from NV index 0x01C10110


@dataclass(frozen=True, slots=True)
class PlannedEvent:
    """An event and the locality it is extended from; 4 means the TPM's hash interface did it."""

    locality: int
    event: Event


def measured_digests(data: bytes | memoryview, algorithms: Sequence[str]) -> dict[str, bytes]:
    """Hash one component as the layout demands: uncompressed, and never as nothing.

    Raises FormatError (``bad-gzip``) or LimitError for a compressed file that cannot be unpacked.
    """
    hashes = {name: hashlib.new(name) for name in algorithms}
    size = 0
    for chunk in _uncompressed(data):
        size += len(chunk)
        if size > UNCOMPRESSED_LIMIT:
            raise LimitError(f"a component unpacks to more than {UNCOMPRESSED_LIMIT} bytes")
        for running in hashes.values():
            running.update(chunk)
    if size == 0:
        for running in hashes.values():
            running.update(b"\0")
    return {name: running.digest() for name, running in hashes.items()}


def _uncompressed(data: bytes | memoryview) -> Iterator[bytes | memoryview]:
    view = memoryview(data)
    if bytes(view[: len(_GZIP_MAGIC)]) != _GZIP_MAGIC:
        yield view
        return
    inflater = zlib.decompressobj(wbits=31)
    waiting: bytes | memoryview = view
    try:
        while not inflater.eof:
            chunk = inflater.decompress(waiting, _CHUNK)
            waiting = inflater.unconsumed_tail
            if not chunk and not waiting and not inflater.eof:
                raise FormatError("the gzip data ends too early", code="bad-gzip")
            yield chunk
    except zlib.error as error:
        raise FormatError(f"not gzip data: {error}", code="bad-gzip") from error
    if inflater.unused_data:
        raise FormatError("bytes follow the gzip data", code="bad-gzip")


class BootMeasurer:
    """Turns what happens during a boot into events, in both layouts, for the given banks.

    With ``drtm`` false (no launch took place) only the static layout is written.
    """

    def __init__(self, algorithms: Sequence[str] = BANKS, *, drtm: bool = True) -> None:
        self.algorithms = tuple(algorithms)
        self._drtm = drtm

    def header(self) -> bytes:
        """Return the first bytes of the log: the Spec ID event naming the banks.

        PCR 0 is the firmware's, so no StartupLocality event is needed.
        """
        return write_header(self.algorithms)

    def measure(  # noqa: C901, PLR0911 (one line a step of the closed list)
        self, step: Step, digests: Mapping[str, bytes] | None = None
    ) -> tuple[PlannedEvent, ...]:
        """Return the events of one step. Launch, Component and Option need the file's digests."""
        match step:
            case Launch(file_name=name):
                return self.launch(name, _needed(name, digests))
            case Component(file_name=name):
                return self.component(name, _needed(name, digests))
            case Option(file_name=name):
                return self.option(name, _needed(name, digests))
            case TrustAnchor(levels, certificate):
                return self.trust_anchor(levels, certificate)
            case CommandLine(text):
                return self.command_line(text)
            case SecurityOption(text):
                return self.security_option(text)
            case Signer(certificate):
                return self.signer(certificate)
            case Version(name, component, product, product_version):
                return self.version(name, component, product, product_version)
            case SystemVersion(text):
                return self.system_version(text)
            case BootComplete():
                return self.boot_complete()

    def launch(self, file_name: str, digests: Mapping[str, bytes]) -> tuple[PlannedEvent, ...]:
        """The D-RTM launch of the loader: logged, extended by the TPM itself."""
        if not self._drtm:
            return ()
        event = Event(17, TXT_HASH_START, self._pick(file_name, digests), _module(file_name))
        return (PlannedEvent(LOCALITY_LAUNCH, event),)

    def trust_anchor(self, levels: Sequence[str], certificate: bytes) -> tuple[PlannedEvent, ...]:
        """A certificate that the loader trusts, and for which acceptance levels."""
        data = ",".join(sorted(levels)).encode() + b"\0" + certificate
        return self._both(14, 18, TAG_TRUST_ANCHOR, data, self._hash(data))

    def command_line(self, text: str) -> tuple[PlannedEvent, ...]:
        """The loader's or a module's options: ``file options``."""
        data = text.encode()
        return self._both(14, 21, TAG_CMD_OPT, data, self._hash(data))

    def security_option(self, text: str) -> tuple[PlannedEvent, ...]:
        """An option that decides what may run: ``KEY = VALUE``."""
        data = text.encode() + b"\0"
        return self._both(14, 21, TAG_SECURITY_OPTION, data, self._hash(data))

    def sealed_option(self, text: str) -> tuple[PlannedEvent, ...]:
        """A security option that the state can be sealed to, once more and alone; nothing else."""
        if not text.startswith(f"{EXEC_INSTALLED_ONLY} = "):
            return ()
        event = self.security_option(text)[0].event._replace(pcr=EXEC_PCR)
        return (PlannedEvent(LOCALITY_STATIC, event),)

    def signer(self, certificate: bytes) -> tuple[PlannedEvent, ...]:
        """The certificate (DER) that signed a VIB."""
        return self._both(14, 18, TAG_SIGNER, certificate, self._hash(certificate))

    def version(
        self, file_name: str, component: str, product: str, product_version: str
    ) -> tuple[PlannedEvent, ...]:
        """The version record of a core module, before the module itself."""
        data = write_version(VersionRecord(component, product, product_version, file_name))
        return self._both(13, 20, TAG_VERSION, data, self._hash(data))

    def component(self, file_name: str, digests: Mapping[str, bytes]) -> tuple[PlannedEvent, ...]:
        """A module. The loader ``b`` is in PCR 17 already, by the launch."""
        static, drtm = module_pcrs(file_name)
        data = file_name.encode() + b"\0"
        return self._both(static, drtm, TAG_MOD, data, self._pick(file_name, digests))

    def runtime_component(
        self, file_name: str, digests: Mapping[str, bytes]
    ) -> tuple[PlannedEvent, ...]:
        """A file loaded after Boot Complete: a VIB installed live, a Linux module."""
        data = file_name.encode() + b"\0"
        return self._both(13, 20, TAG_MOD, data, self._pick(file_name, digests))

    def option(self, file_name: str, digests: Mapping[str, bytes]) -> tuple[PlannedEvent, ...]:
        """An option file."""
        data = file_name.encode() + b"\0"
        return self._both(14, 21, TAG_BOOT_OPT, data, self._pick(file_name, digests))

    def asset_tag(self, tag: bytes) -> tuple[PlannedEvent, ...]:
        """The owner's tag of this host. Raises LimitError above 512 bytes."""
        if len(tag) > _ASSET_TAG_LIMIT:
            raise LimitError(f"asset tag of {len(tag)} bytes: the limit is {_ASSET_TAG_LIMIT}")
        return self._both(14, 22, TAG_TAG, tag, self._hash(tag))

    def system_version(self, text: str) -> tuple[PlannedEvent, ...]:
        """The image profile and build in one line."""
        data = text.encode() + b"\0"
        return self._both(13, 20, TAG_SYSTEM_VERSION, data, self._hash(data))

    def boot_complete(self) -> tuple[PlannedEvent, ...]:
        """The end of the boot."""
        return self._both(14, 21, TAG_BOOT_COMPLETE, BOOT_COMPLETE, self._hash(BOOT_COMPLETE))

    def _both(
        self, static: int, drtm: int, tag: int, data: bytes, digests: tuple[tuple[str, bytes], ...]
    ) -> tuple[PlannedEvent, ...]:
        tagged = write_tagged(TaggedEvent(tag, data))
        planned = [
            PlannedEvent(LOCALITY_STATIC, Event(static, EV_EVENT_TAG, digests, tagged)),
        ]
        if self._drtm and drtm != 17:  # noqa: PLR2004  (extended by the launch, never by a caller)
            event = Event(drtm, EV_EVENT_TAG, digests, tagged)
            planned.append(PlannedEvent(LOCALITY_LAUNCHED, event))
        return tuple(planned)

    def _hash(self, data: bytes) -> tuple[tuple[str, bytes], ...]:
        return tuple((name, digest(name, data)) for name in self.algorithms)

    def _pick(self, file_name: str, digests: Mapping[str, bytes]) -> tuple[tuple[str, bytes], ...]:
        if lacking := [name for name in self.algorithms if name not in digests]:
            raise FormatError(
                f"no {lacking[0]} digest of {file_name}", component=file_name, code="digest-missing"
            )
        return tuple((name, digests[name]) for name in self.algorithms)


def module_pcrs(file_name: str) -> tuple[int, int]:
    """Return the static and the D-RTM PCR of a module, by its name without extension."""
    match file_name.partition(".")[0]:
        case "b":
            return 12, 17
        case "k" | "s" | "sb":
            return 12, 19
        case "esxupdt":
            return 11, 19
        case _:
            return 13, 20


def _module(file_name: str) -> bytes:
    return write_tagged(TaggedEvent(TAG_MOD, file_name.encode() + b"\0"))


def _needed(name: str, digests: Mapping[str, bytes] | None) -> Mapping[str, bytes]:
    if digests is None:
        raise FormatError(f"{name} was not hashed", component=name, code="digest-missing")
    return digests
