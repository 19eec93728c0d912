"""The guest's TPM 2.0: a swtpm in a cell of its own, connected to the VM's QEMU by one socket.

It ends when QEMU does, for then the socket is closed.
"""

from __future__ import annotations

from typing import Final

from casemate.machine.cellplan import (
    CellPlan,
    Hardening,
    Isolation,
    Limit,
    Peer,
    Scratch,
    ShownFile,
)
from casemate.machine.facts import VmConfig
from casemate.machine.planaudit import TPM_ARGV, TPM_DOMAIN, TPM_FD, TPM_STATE, checked

TPM_PEER: Final = "tpm"
"""The socket between QEMU and the TPM, by its name in both plans."""
QEMU_TPM_FD: Final = 5
"""QEMU's end of it."""
TPM_UID_OFFSET: Final = 0x1000_0000
"""From the uid of a VM's QEMU to that of its TPM."""
_ENTRY: Final = "vtpm.present"
_PLACE: Final = "/run/tpm"
_RUN_SIZE: Final = 1 << 20
# Bytes: the state of a TPM with all its storage full has some 200 KiB.
_STATE_LIMIT: Final = 4 << 20
_DESCRIPTORS: Final = 32
_THREADS: Final = 8


def has_vtpm(config: VmConfig) -> bool:
    """Tell whether a VM has a TPM, by VMware's own entry."""
    return any(name.lower() == _ENTRY and value.lower() == "true" for name, value in config.extra)


def state_file(config: VmConfig) -> str:
    """Return the file of the TPM's state, in the VM's directory."""
    return config.vmx_path.rpartition("/")[2].removesuffix(".vmx") + ".vtpm"


def vtpm_options(config: VmConfig) -> tuple[str, ...]:
    """Return QEMU's options for the TPM."""
    if not has_vtpm(config):
        return ()
    return (
        *("-chardev", f"socket,id=tpm,fd={QEMU_TPM_FD}"),
        *("-tpmdev", "emulator,id=tpm,chardev=tpm"),
        *("-device", "tpm-crb,tpmdev=tpm"),
    )


def plan_vtpm(vm: CellPlan, config: VmConfig) -> CellPlan:
    """Plan the TPM of a VM whose own plan is made.

    Raises:
        HostError: The plan lacks hardening (``plan-...``): a defect, and never carried out.
    """
    uid = vm.uid + TPM_UID_OFFSET
    plan = CellPlan(
        vm=vm.vm,
        domain=TPM_DOMAIN,
        accelerator="",
        argv=TPM_ARGV,
        env=(("LC_ALL", "C"),),
        uid=uid,
        gid=uid,
        cwd=_PLACE,
        isolation=frozenset(Isolation),
        hardening=frozenset(Hardening),
        scratch=(
            Scratch("/tmp", _RUN_SIZE, 0o1777),  # noqa: S108 (the cell's own, empty)
            Scratch("/run", _RUN_SIZE, 0o755),
        ),
        devices=("null", "zero", "urandom"),
        shown=(ShownFile(state_file(config), TPM_STATE, writable=True),),
        passed=(),
        listeners=(),
        rlimits=(
            (Limit.CORE, 0),
            (Limit.NOFILE, _DESCRIPTORS),
            (Limit.NPROC, _THREADS),
            (Limit.FSIZE, _STATE_LIMIT),
            (Limit.MEMLOCK, 0),
        ),
        cgroup=vm.cgroup,
        peers=(Peer(TPM_FD, TPM_PEER),),
    )
    return checked(plan, config.name)
