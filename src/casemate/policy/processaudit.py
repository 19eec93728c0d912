"""Judges a running process by what Linux tells of it: the texts of /proc in, findings out.

What cannot be seen from outside (MDWE) is seen by its effect: memory that is writable and
executable at once. Layouts: proc(5).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from casemate.errors import Finding, FormatError

AT_PHDR: Final = 3
AT_BASE: Final = 7
AT_ENTRY: Final = 9
AT_SYSINFO_EHDR: Final = 33
ADDR_NO_RANDOMIZE: Final = 0x0040000
READ_IMPLIES_EXEC: Final = 0x0400000
LOWEST_RANDOM: Final = 1 << 32
"""Addresses of a position-independent program on 64-bit Linux lie far above; fixed ones below."""
VIOLATION: Final = "hardeningViolation"
"""The security option by which a host measures what it found in a running process."""
MAX_TEXT: Final = 32 << 20
"""Characters of a list of mappings: 65,530 mappings, the limit of Linux, take 10 million."""

_LINE: Final = re.compile(
    r"^([0-9a-f]+)-([0-9a-f]+) ([r-][w-][x-][ps]) [0-9a-f]+ (\S+) (\d+) *(.*)$", re.MULTILINE
)
_SKIPPED: Final = frozenset({"[vdso]", "[vsyscall]", "[uprobes]"})
_FILTERED: Final = "2"
_STATUS: Final = re.compile(r"^(\w+):\t(.*)$", re.MULTILINE)
_CAPABILITIES: Final = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


class MemoryMap(NamedTuple):
    """One mapping; ``device`` is ``major:minor`` in hex, ``path`` may be empty."""

    start: int
    end: int
    writable: bool
    executable: bool
    shared: bool
    device: str
    inode: int
    path: str


class MemoryMaps(NamedTuple):
    """What matters of a list of mappings: those that are executable, shared or special.

    ``first`` gives the first address (hex) at which each path is mapped.
    """

    telling: tuple[MemoryMap, ...]
    first: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ProcessTexts:
    """What /proc/PID holds: maps, status, personality, limits, auxv, and links of ns/."""

    pid: int
    maps: str
    status: str
    personality: str
    limits: str
    auxv: bytes
    namespaces: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Expected:
    """What a process should be like.

    Attributes:
        name: for findings.
        domain: name of its security domain.
        uid: its user, None for root.
        devices: where code may come from (``major:minor``); empty: the program's own device.
        dual_mapped: memory files that may be mapped writable and executable, at two addresses.
        apart: kinds of namespaces (``mnt``, ``pid``...) that must not be ``host``'s.
        host: the namespaces of the host.
    """

    name: str
    domain: str
    uid: int | None
    devices: frozenset[str] = frozenset()
    dual_mapped: frozenset[str] = frozenset()
    apart: frozenset[str] = frozenset()
    host: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RuleResult:
    """One rule over one process; ``reason`` is empty where it is kept."""

    rule: str
    reason: str = ""

    @property
    def kept(self) -> bool:
        """Whether the process keeps the rule."""
        return not self.reason


@dataclass(frozen=True, slots=True)
class ProcessReport:
    """All rules over one process, and where its regions begin."""

    pid: int
    name: str
    domain: str
    results: tuple[RuleResult, ...]
    bases: Mapping[str, int] = field(default_factory=dict)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong; codes are ``process-RULE``."""
        return tuple(
            Finding(f"process-{one.rule}", self.name, one.reason, REMEDIES[one.rule])
            for one in self.results
            if not one.kept
        )


REMEDIES: Final = {
    "writable-code": "End the process; keep its memory for the investigation.",
    "alias": "End the process: code was written through a second mapping.",
    "code-origin": "End the process; find out who made it load this, and from where.",
    "random-addresses": "Start the host again without setarch -R, from an image of its own.",
    "no-new-privileges": "Start the process again through the kernel.",
    "call-filter": "Use a Linux kernel with CONFIG_SECCOMP_FILTER; start the process again.",
    "identity": "End the process: it is not who it was started as.",
    "capabilities": "End the process: it has privileges that it was not given.",
    "namespaces": "End the process: it is not in the namespaces that it was started in.",
    "not-traced": "Find out who traces it; a debugger has no place on a host.",
    "no-core-dumps": "Start the process again through the kernel.",
}
"""The rules, in the order in which they are reported, and what to do where one is broken."""


def parse_maps(text: str) -> MemoryMaps:
    """Return the mappings of /proc/PID/maps.

    Raises:
        FormatError: a line is not understood, or there are more than Linux allows.
    """
    if len(text) > MAX_TEXT:
        raise FormatError("more mappings than a process can have", code="maps-limit")
    rows = _LINE.findall(text)
    if len(rows) != text.count("\n") or (text and not text.endswith("\n")):
        raise FormatError("the list of mappings has a line that is none", code="maps-malformed")
    telling = tuple(
        MemoryMap(
            int(start, 16),
            int(stop, 16),
            access[1] == "w",
            access[2] == "x",
            access[3] == "s",
            device,
            int(inode),
            path,
        )
        for start, stop, access, device, inode, path in rows
        if access[2] == "x" or access[3] == "s" or path[:1] == "["
    )
    return MemoryMaps(telling, {row[5]: row[0] for row in reversed(rows)})


def parse_auxv(data: bytes) -> dict[int, int]:
    """Return the auxiliary vector of a 64-bit process; an incomplete pair at the end is cut off."""
    pairs = struct.iter_unpack("=QQ", data[: len(data) // 16 * 16])
    return {kind: value for kind, value in pairs if kind}


def audit_process(texts: ProcessTexts, expected: Expected) -> ProcessReport:
    """Apply every rule to a process.

    Raises:
        FormatError: the texts are not what Linux writes.
    """
    mappings = parse_maps(texts.maps)
    vector = parse_auxv(texts.auxv)
    status = dict(_STATUS.findall(texts.status))
    seen = _Seen(mappings.telling, vector, status, texts, expected)
    results = tuple(RuleResult(rule, broken(seen)) for rule, broken in _RULES.items())
    return ProcessReport(
        texts.pid, expected.name, expected.domain, results, bases(mappings, vector)
    )


def bases(mappings: MemoryMaps, vector: Mapping[int, int]) -> dict[str, int]:
    """Return where the regions of a process begin: program, heap, stack, libraries, vdso.

    The stack's is its upper end: it grows downwards.
    """
    found: dict[str, int] = {}
    entry = vector.get(AT_ENTRY, 0)
    for one in mappings.telling:
        if one.start <= entry < one.end and one.path:
            found["exe"] = int(mappings.first[one.path], 16)
        elif one.path == "[heap]":
            found["heap"] = one.start
        elif one.path == "[stack]":
            found["stack"] = one.end
        elif one.executable and "/libc.so" in one.path:
            found["mmap"] = int(mappings.first[one.path], 16)
    for name, kind in (("loader", AT_BASE), ("vdso", AT_SYSINFO_EHDR)):
        if vector.get(kind):
            found[name] = vector[kind]
    return found


class _Seen(NamedTuple):
    maps: tuple[MemoryMap, ...]
    vector: Mapping[int, int]
    status: Mapping[str, str]
    texts: ProcessTexts
    expected: Expected


def _where(one: MemoryMap) -> str:
    return f"{one.start:#x}-{one.end:#x} ({one.path or 'anonymous memory'})"


def _writable_code(seen: _Seen) -> str:
    for one in seen.maps:
        if one.writable and one.executable:
            return f"Memory at {_where(one)} is writable and executable."
    return ""


def _alias(seen: _Seen) -> str:
    """A shared file that is writable at one address and executable at another."""
    executable = {(one.device, one.inode): one for one in seen.maps if one.executable and one.inode}
    for one in seen.maps:
        twin = executable.get((one.device, one.inode))
        if one.writable and one.shared and twin and twin.path not in seen.expected.dual_mapped:
            return f"What is executable at {_where(twin)} is writable at {one.start:#x}."
    return ""


def _code_origin(seen: _Seen) -> str:
    allowed = seen.expected.devices or frozenset(_device_of_program(seen))
    for one in seen.maps:
        if not one.executable or one.path in _SKIPPED:
            continue
        if one.path in seen.expected.dual_mapped and one.shared:
            continue
        if not one.inode:
            return f"Code in memory that is no file: {_where(one)}."
        if one.path.startswith("/memfd:"):
            return f"Code in a memory file: {_where(one)}."
        if one.path.endswith(" (deleted)"):
            return f"Code of a file that was deleted: {_where(one)}."
        if one.device not in allowed:
            return f"Code from outside of the visor root: {_where(one)}."
    return ""


def _device_of_program(seen: _Seen) -> Iterator[str]:
    entry = seen.vector.get(AT_ENTRY, 0)
    for one in seen.maps:
        if one.start <= entry < one.end and one.path.startswith("/usr/"):
            yield one.device


def _random_addresses(seen: _Seen) -> str:
    try:
        personality = int(seen.texts.personality, 16)
    except ValueError as error:
        raise FormatError("no personality", code="personality-malformed") from error
    if personality & ADDR_NO_RANDOMIZE:
        return "It was started with random addresses switched off (setarch -R)."
    if personality & READ_IMPLIES_EXEC:
        return "Everything that it can read it can execute (READ_IMPLIES_EXEC)."
    entry = seen.vector.get(AT_ENTRY, 0)
    if entry < LOWEST_RANDOM:
        return f"Its program is not position-independent: it begins at {entry:#x}."
    return ""


def _no_new_privileges(seen: _Seen) -> str:
    return "" if seen.status.get("NoNewPrivs") == "1" else "It could gain privileges by exec."


def _call_filter(seen: _Seen) -> str:
    return "" if seen.status.get("Seccomp") == _FILTERED else "It has no filter of system calls."


def _identity(seen: _Seen) -> str:
    uid = seen.expected.uid or 0
    for kind, wanted in (("Uid", uid), ("Gid", uid)):
        found = seen.status.get(kind, "").split()
        if found != [str(wanted)] * 4:
            return f"Its {kind.lower()}s are {' '.join(found)}, not {wanted}."
    return ""


def _capabilities(seen: _Seen) -> str:
    if seen.expected.uid is None:
        return ""
    for name in _CAPABILITIES:
        value = seen.status.get(name, "")
        if value.strip("0") or not value:
            return f"It has capabilities: {name} {value}."
    return ""


def _namespaces(seen: _Seen) -> str:
    for kind in sorted(seen.expected.apart):
        own = seen.texts.namespaces.get(kind, "")
        if not own or own == seen.expected.host.get(kind):
            return f"It is in the host's own {kind} namespace."
    return ""


def _not_traced(seen: _Seen) -> str:
    tracer = seen.status.get("TracerPid", "0")
    return "" if tracer == "0" else f"Process {tracer} traces it."


def _no_core_dumps(seen: _Seen) -> str:
    found = re.search(r"^Max core file size +(\d+|unlimited)", seen.texts.limits, re.MULTILINE)
    return "" if found and found[1] == "0" else "Its memory would be written out when it fails."


_RULES: Final[dict[str, Callable[[_Seen], str]]] = {
    "writable-code": _writable_code,
    "alias": _alias,
    "code-origin": _code_origin,
    "random-addresses": _random_addresses,
    "no-new-privileges": _no_new_privileges,
    "call-filter": _call_filter,
    "identity": _identity,
    "capabilities": _capabilities,
    "namespaces": _namespaces,
    "not-traced": _not_traced,
    "no-core-dumps": _no_core_dumps,
}
