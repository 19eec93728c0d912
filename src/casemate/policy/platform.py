"""What the machine's Linux kernel and CPU must offer and have switched on, as rules over texts.

Each rule looks at one file of /proc or /sys. A file that is absent fails its rule: a protection
that is not built in does not protect. The values are those that hardened distributions set
(Kernel Self Protection Project; the sysctls also in Talos and Bottlerocket).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from casemate.policy.hardening import Weight
from casemate.policy.hardeningreport import Area, Outcome, Row

DEFAULT_KERNEL_BASE: Final = 0xFFFF_FFFF_8100_0000
"""Where x86-64 Linux begins when nothing moved it (CONFIG_PHYSICAL_START)."""
_UNPRIVILEGED_ADDRESS: Final = 0
_FLAGS: Final = ("nx", "smep", "smap", "umip")


@dataclass(frozen=True, slots=True)
class Sysctl:
    """A setting with its least good value; ``exact`` when only that one is good."""

    name: str
    wanted: int
    why: str
    exact: bool = False
    weight: Weight = Weight.ADVISORY

    @property
    def path(self) -> str:
        """Its file."""
        return "/proc/sys/" + self.name.replace(".", "/")

    def good(self, value: int) -> bool:
        """Tell whether a value is good enough."""
        return value == self.wanted if self.exact else value >= self.wanted


_ALWAYS: Final = Weight.REQUIRED
SYSCTLS: Final = (
    Sysctl("kernel.randomize_va_space", 2, "addresses are random, the heap's too", weight=_ALWAYS),
    Sysctl("vm.mmap_rnd_bits", 28, "how random they are", weight=_ALWAYS),
    Sysctl("vm.mmap_min_addr", 4096, "null pointers of Linux hit nothing", weight=_ALWAYS),
    Sysctl("kernel.kptr_restrict", 1, "addresses of Linux are not told"),
    Sysctl("kernel.dmesg_restrict", 1, "nor found in its log"),
    Sysctl("kernel.perf_event_paranoid", 2, "nor measured"),
    Sysctl("kernel.unprivileged_bpf_disabled", 1, "no programs in Linux by users"),
    Sysctl("net.core.bpf_jit_harden", 2, "what is compiled in Linux cannot be aimed"),
    Sysctl("vm.unprivileged_userfaultfd", 0, "page faults of Linux cannot be held", exact=True),
    Sysctl("kernel.io_uring_disabled", 2, "no interface that filters do not see"),
    Sysctl("kernel.yama.ptrace_scope", 1, "no tracing of strangers"),
    Sysctl("fs.protected_symlinks", 1, "no links planted in /tmp"),
    Sysctl("fs.protected_hardlinks", 1, "nor hard ones"),
    Sysctl("fs.protected_fifos", 2, "nor pipes"),
    Sysctl("fs.protected_regular", 2, "nor files"),
    Sysctl("fs.suid_dumpable", 0, "no memory of privileged programs on disk", exact=True),
    Sysctl("dev.tty.ldisc_autoload", 0, "no modules loaded by terminals", exact=True),
    Sysctl("dev.tty.legacy_tiocsti", 0, "no typing into other terminals", exact=True),
)
"""The baseline. A value that is stricter already is left."""

_BETTER: Final = {"vm.mmap_rnd_bits": 32}
"""What is set where a value is changed at all: the strictest that costs nothing."""

CPUINFO: Final = "/proc/cpuinfo"
KALLSYMS: Final = "/proc/kallsyms"
KSM: Final = "/sys/kernel/mm/ksm/run"
LANDLOCK: Final = "landlock"
"""No file: the version of Landlock's interface, as the kernel answers when asked."""
LOCKDOWN: Final = "/sys/kernel/security/lockdown"
TAINTED: Final = "/proc/sys/kernel/tainted"
MEMFD: Final = "/proc/sys/vm/memfd_noexec"
VULNERABILITIES: Final = "/sys/devices/system/cpu/vulnerabilities/"
FILES: Final = (
    *(CPUINFO, KALLSYMS, KSM, LOCKDOWN, TAINTED, MEMFD),
    *(sysctl.path for sysctl in SYSCTLS),
)
"""What the rules look at, besides everything below ``VULNERABILITIES``."""


def judge(texts: Mapping[str, str]) -> tuple[Row, ...]:
    """Apply every rule. ``texts`` maps paths to contents; what is absent has no entry."""
    return tuple(_rows(texts))


def to_set(texts: Mapping[str, str]) -> dict[str, int]:
    """Return the sysctls that are weaker than the baseline, and the value to set."""
    wanted = {}
    for sysctl in SYSCTLS:
        value = _number(texts.get(sysctl.path, ""))
        if value is not None and not sysctl.good(value):
            wanted[sysctl.path] = _BETTER.get(sysctl.name, sysctl.wanted)
        elif value is not None and value < _BETTER.get(sysctl.name, value):
            wanted[sysctl.path] = _BETTER[sysctl.name]
    return wanted


def _rows(texts: Mapping[str, str]) -> Iterator[Row]:
    for group, rule, weight, broken, remedy in _RULES:
        reason = broken(texts)
        yield _row(group, rule, weight, reason, remedy)
    for sysctl in SYSCTLS:
        value = _number(texts.get(sysctl.path, ""))
        if value is None:
            reason = "This Linux kernel does not have it."
            remedy = "Use a Linux kernel that is built with it."
        else:
            least = "" if sysctl.exact else "at least "
            good = sysctl.good(value)
            reason = "" if good else f"It is {value}; with {least}{sysctl.wanted}: {sysctl.why}."
            remedy = "Run casemate hardening audit --apply as root."
        yield _row("sysctl", sysctl.name, sysctl.weight, reason, remedy)
    for path in sorted(path for path in texts if path.startswith(VULNERABILITIES)):
        state = texts[path].strip()
        reason = f"Linux says: {state}" if state.startswith("Vulnerable") else ""
        remedy = "Update microcode and Linux; do not boot with mitigations=off."
        name = path.removeprefix(VULNERABILITIES)
        yield _row("mitigations", name, Weight.ADVISORY, reason, remedy)


def _row(group: str, rule: str, weight: Weight, reason: str, remedy: str) -> Row:
    outcome = Outcome.FAILED if reason else Outcome.PASSED
    return Row(Area.PLATFORM, group, group, rule, weight, outcome, reason, remedy if reason else "")


def _number(text: str) -> int | None:
    text = text.strip()
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text, re.ASCII) else None


def _flag(name: str) -> Callable[[Mapping[str, str]], str]:
    def broken(texts: Mapping[str, str]) -> str:
        found = re.search(r"^flags\s*:(.*)$", texts.get(CPUINFO, ""), re.MULTILINE)
        return "" if found and name in found[1].split() else f"The CPU does not offer {name}."

    return broken


def _kernel_base(texts: Mapping[str, str]) -> str:
    found = re.search(r"^([0-9a-f]{16}) [Tt] _text$", texts.get(KALLSYMS, ""), re.MULTILINE)
    base = int(found[1], 16) if found else _UNPRIVILEGED_ADDRESS
    if base == _UNPRIVILEGED_ADDRESS:
        return "Where Linux lies is hidden from this process, so it cannot be judged."
    if base == DEFAULT_KERNEL_BASE:
        return f"Linux lies where every Linux does without randomisation: {base:#x}."
    return ""


def _ksm(texts: Mapping[str, str]) -> str:
    return "" if texts.get(KSM, "0").strip() == "0" else "Linux merges equal pages of processes."


def _lockdown(texts: Mapping[str, str]) -> str:
    state = texts.get(LOCKDOWN)
    if state is None:
        return "Whether root may change the running Linux cannot be read: no securityfs is mounted."
    good = "[integrity]" in state or "[confidentiality]" in state
    return "" if good else "Root may change the running Linux: lockdown is off."


def _landlock(texts: Mapping[str, str]) -> str:
    return "" if _number(texts.get(LANDLOCK, "")) else "Landlock is not active."


def _untainted(texts: Mapping[str, str]) -> str:
    value = _number(texts.get(TAINTED, ""))
    unsigned = value is None or value & 1 << 13 or value & 1 << 12
    return "Unsigned or foreign modules are in Linux." if unsigned else ""


def _memfd(texts: Mapping[str, str]) -> str:
    found = texts.get(MEMFD, "").strip()
    return "" if found == "2" else "Memory files can be made executable here."


_NEWER: Final = "Use Linux 6.3 or newer, and start the host with casemate up."
_RULES: Final[tuple[tuple[str, str, Weight, Callable[[Mapping[str, str]], str], str], ...]] = (
    *(
        ("cpu", name, Weight.REQUIRED, _flag(name), "Switch it on in the firmware, or change CPUs.")
        for name in _FLAGS
    ),
    (
        "kernel",
        "random-base",
        Weight.REQUIRED,
        _kernel_base,
        "Boot Linux as a compressed image, without nokaslr.",
    ),
    (
        "kernel",
        "no-page-merging",
        Weight.REQUIRED,
        _ksm,
        "Write 2, then 0, to /sys/kernel/mm/ksm/run.",
    ),
    ("kernel", "memfd-noexec", Weight.REQUIRED, _memfd, _NEWER),
    ("kernel", "lockdown", Weight.ADVISORY, _lockdown, "Boot Linux with lockdown=integrity."),
    ("kernel", "landlock", Weight.ADVISORY, _landlock, "Boot Linux with landlock among lsm=."),
    ("kernel", "untainted", Weight.REQUIRED, _untainted, "Load signed modules only; restart."),
)
