"""Judges a cell's plan: what is missing of the hardening that every cell has, as findings.

The kernel refuses to carry out a plan with findings, so a mistake in planning cannot start a VM
that is less confined than promised.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from casemate.errors import Finding, HostError
from casemate.machine.cellplan import CellPlan, Hardening, Isolation, Limit

UID_BASE: Final = 0x6000_0000
"""Uids of cells lie from here on: far above those of people and of services."""
UID_END: Final = 0x7000_0000
SANDBOX: Final = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
UEFI_CODE: Final = {
    False: "/usr/share/OVMF/OVMF_CODE_4M.fd",
    True: "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd",
}
"""UEFI firmware in the visor root, without and with Secure Boot."""
TPM_DOMAIN: Final = "tpm2emuDom"
"""The security domain of guests' TPMs, as ESXi names it."""
TPM_UID_END: Final = 0x8000_0000
TPM_STATE: Final = "/run/tpm/state"
TPM_FD: Final = 3
TPM_ARGV: Final = (
    *("/usr/bin/swtpm", "socket", "--tpm2"),
    *("--tpmstate", f"backend-uri=file://{TPM_STATE}"),
    *("--ctrl", f"type=unixio,clientfd={TPM_FD}"),
    *("--seccomp", "action=kill", "--terminate"),
)
"""The whole command of a guest's TPM; it has no options that depend on the VM."""
_FIRMWARE_NODE: Final = (
    '{{"driver":"raw","node-name":"uefi","read-only":true,'
    '"file":{{"driver":"file","filename":"{}","read-only":true}}}}'
)
_FIRMWARE_NODES: Final = frozenset(_FIRMWARE_NODE.format(path) for path in UEFI_CODE.values())
_FLAGS: Final = frozenset({"-nodefaults", "-no-user-config", "-S"})
# The screen is shown to nobody but by a connection that the kernel hands over.
_REQUIRED: Final = {
    "-sandbox": SANDBOX,
    "-nodefaults": "",
    "-no-user-config": "",
    "-S": "",
    "-display": "none",
    "-vnc": "none",
}
# Options by which QEMU reads further options, opens what we did not pass, or loses protection.
_FORBIDDEN: Final = frozenset(
    {"-readconfig", "-drive", "-hda", "-cdrom", "-monitor", "-qmp", "-gdb", "-s", "-daemonize"}
    | {"-plugin", "-runas", "-chroot", "-virtfs", "-fsdev", "-enable-kvm", "-loadvm"}
    | {"-spice"}
)
_ACCELERATORS: Final = {"tcg": "split-wx=on", "kvm": "kvm"}
_MACHINE_FLAGS: Final = ("mem-merge=off", "dump-guest-core=off")
_PROTECTIONS: Final = ("nx", "smep", "smap", "umip")
_LIMITS: Final = frozenset(Limit)


def audit(plan: CellPlan) -> tuple[Finding, ...]:
    """Return what is wrong with the plan; nothing, if it may be carried out."""
    return tuple(
        Finding(code, plan.vm, reason, "Report this as a defect: the plan was made wrongly.")
        for code, reason in _problems(plan)
    )


def checked(plan: CellPlan, component: str) -> CellPlan:
    """Return the plan if it may be carried out.

    Raises:
        HostError: It lacks hardening (``plan-...``).
    """
    for finding in audit(plan):
        raise HostError(
            finding.reason, code=finding.code, component=component, remedy=finding.remedy
        )
    return plan


def _problems(plan: CellPlan) -> Iterator[tuple[str, str]]:
    tpm = plan.domain == TPM_DOMAIN
    for isolation in sorted(set(Isolation) - plan.isolation):
        yield "plan-namespace", f"the plan lacks a {isolation} namespace"
    for item in sorted(set(Hardening) - plan.hardening):
        yield "plan-hardening", f"the plan lacks {item}"
    uids = range(UID_END, TPM_UID_END) if tpm else range(UID_BASE, UID_END)
    if plan.uid not in uids or plan.gid != plan.uid:
        yield "plan-identity", f"uid {plan.uid}, gid {plan.gid} is not an identity of cells"
    yield from _limit_problems(plan)
    for device in sorted(set(plan.devices) - {"null", "zero", "urandom", "kvm"}):
        yield "plan-device", f"the plan gives the device {device}"
    if "kvm" in plan.devices and plan.accelerator != "kvm":
        yield "plan-device", "the plan gives /dev/kvm to a cell that does not use it"
    yield from _tpm_problems(plan) if tpm else _argument_problems(plan)


def _limit_problems(plan: CellPlan) -> Iterator[tuple[str, str]]:
    """Judge resource limits."""
    limits = dict(plan.rlimits)
    for limit in sorted(_LIMITS - set(limits)):
        yield "plan-limit", f"the plan lacks the limit {limit}"
    if limits.get(Limit.CORE, 0) != 0:
        yield "plan-limit", "the plan allows core dumps"
    if plan.cgroup.memory_bytes <= 0 or plan.cgroup.pids <= 0:
        yield "plan-cgroup", "the plan sets no limit of memory or of threads"


def _tpm_problems(plan: CellPlan) -> Iterator[tuple[str, str]]:
    """Judge what a guest's TPM runs and gets."""
    if plan.argv != TPM_ARGV:
        yield "plan-argument", "the command is not that of a guest's TPM"
    if (
        plan.passed
        or plan.listeners
        or plan.taps
        or [file.target for file in plan.shown] != [TPM_STATE]
    ):
        yield "plan-files", "the plan gives a guest's TPM more than its state"


def _argument_problems(plan: CellPlan) -> Iterator[tuple[str, str]]:
    """Judge the options of a QEMU, one by one and as a whole."""
    if any(file.writable for file in plan.shown):
        yield "plan-files", "the plan shows a file for writing"
    options: dict[str, list[str]] = {}
    words = iter(plan.argv[1:])
    for word in words:
        if not word.startswith("-"):
            yield "plan-argument", f"{word!r} is not an option"
            continue
        value = "" if word in _FLAGS else next(words, "")
        options.setdefault(word, []).append(value)
    yield from _option_problems(options)
    if options.get("-incoming", ["defer"]) != ["defer"]:
        yield "plan-argument", "memory is read from a place of the plan's choice"
    nodes = set(options.get("-blockdev", [])) - _FIRMWARE_NODES
    if any('"/dev/fdset/' not in value for value in nodes):
        yield "plan-disk", "a disk is opened by path"
    yield from _network_problems(plan, options)
    yield from _machine_problems(plan, options)
    for model in options.get("-cpu", [""]):
        yield from _cpu_problems(model.lower().split(","))


def _option_problems(options: dict[str, list[str]]) -> Iterator[tuple[str, str]]:
    """Judge which options there are."""
    for option in sorted(_FORBIDDEN & set(options)):
        yield "plan-argument", f"the option {option} is not allowed"
    for option, required in _REQUIRED.items():
        if options.get(option) != [required]:
            yield "plan-argument", f"{option} {required} is missing"


def _network_problems(plan: CellPlan, options: dict[str, list[str]]) -> Iterator[tuple[str, str]]:
    """Judge what network cards are connected to."""
    passed = {f"tap,id=net{tap.card},fd={tap.fd}" for tap in plan.taps}
    for value in options.get("-netdev", []):
        if value not in passed and not value.startswith("hubport,"):
            yield "plan-network", "a network card is connected to what the host did not pass"
    if set(options.get("-nic", [])) - {"none"}:
        yield "plan-network", "a network card is connected by other means than a plan's"


def _machine_problems(plan: CellPlan, options: dict[str, list[str]]) -> Iterator[tuple[str, str]]:
    """Judge accelerator and board."""
    accelerators = options.get("-accel", [])
    mark = _ACCELERATORS.get(plan.accelerator, "")
    if len(accelerators) != 1 or not mark or mark not in accelerators[0].split(","):
        yield "plan-accelerator", f"the accelerator is not {plan.accelerator} with {mark}"
    machines = options.get("-machine", [])
    for flag in _MACHINE_FLAGS:
        if len(machines) != 1 or flag not in machines[0].split(","):
            yield "plan-machine", f"the machine lacks {flag}"


def _cpu_problems(words: list[str]) -> Iterator[tuple[str, str]]:
    """Judge the guest's CPU: model, then features."""
    if words[0] not in {"max", "host"}:
        yield "plan-cpu", f"the CPU model {words[0]!r} is not one with memory protection"
    for protection in _PROTECTIONS:
        if f"-{protection}" in words or f"{protection}=off" in words:
            yield "plan-cpu", f"the CPU lacks {protection}"
