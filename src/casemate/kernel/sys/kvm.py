"""Runs a tiny guest through /dev/kvm and measures it: a device node alone proves nothing.

Source: Documentation/virt/kvm/api.rst of Linux; x86-64 only.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct
import time
from typing import Final

from casemate.errors import HostError
from casemate.kernel.sys.libc import LIBC, from_os_error

_KVM_GET_API_VERSION: Final = 0xAE00
_KVM_CREATE_VM: Final = 0xAE01
_KVM_GET_VCPU_MMAP_SIZE: Final = 0xAE04
_KVM_CREATE_VCPU: Final = 0xAE41
_KVM_SET_USER_MEMORY_REGION: Final = 0x4020AE46
_KVM_SET_TSS_ADDR: Final = 0xAE47
_KVM_RUN: Final = 0xAE80
_KVM_SET_REGS: Final = 0x4090AE82
_KVM_GET_SREGS: Final = 0x8138AE83
_KVM_SET_SREGS: Final = 0x4138AE84
_API_VERSION: Final = 12
_EXIT_HLT: Final = 5
_EXIT_REASON: Final = slice(8, 12)
_TSS_ADDRESS: Final = 0xFFFBD000

_MEMORY: Final = 2 << 20
_PML4, _PDPT, _PD, _CODE = 0x1000, 0x2000, 0x3000, 0x10000
# Present and writable; bit 7: a page of 2 MiB.
_TABLE, _LARGE_PAGE = 0x3, 0x83
# struct kvm_segment: base, limit, selector, then type, present, dpl, db, s, l, g, avl, unusable.
_SEGMENT: Final = struct.Struct("<QIH10B")
_CODE_SEGMENT: Final = _SEGMENT.pack(0, 0xFFFFFFFF, 8, 11, 1, 0, 0, 1, 1, 1, 0, 0, 0)
_DATA_SEGMENT: Final = _SEGMENT.pack(0, 0xFFFFFFFF, 16, 3, 1, 0, 1, 1, 0, 1, 0, 0, 0)
_SREGS_SIZE: Final = 312
# In struct kvm_sregs: after eight segments and two tables.
_CONTROL: Final = 8 * _SEGMENT.size + 2 * 16
# PE, ET, NE, PG; PAE; LME, LMA, NXE.
_CR0, _CR4, _EFER = 0x80000031, 0x20, 0xD00
_REGS: Final = struct.Struct("<18Q")


def measure(iterations: int) -> float:
    """Run a loop of two instructions in long mode under KVM.

    May never come back where KVM is broken: run it in a child with a time limit.

    Returns:
        Millions of instructions per second.

    Raises:
        HostError: KVM is missing, refuses, or the guest did not end with HLT.
    """
    try:
        device = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
        version = fcntl.ioctl(device, _KVM_GET_API_VERSION)
        if version != _API_VERSION:
            raise HostError(f"KVM has API version {version}, not {_API_VERSION}", code="kvm-api")
        machine = fcntl.ioctl(device, _KVM_CREATE_VM, 0)
        # fcntl.ioctl takes signed numbers only.
        LIBC.ioctl(machine, ctypes.c_ulong(_KVM_SET_TSS_ADDR), ctypes.c_ulong(_TSS_ADDRESS))
        memory = _guest_memory(machine, iterations)
        vcpu = fcntl.ioctl(machine, _KVM_CREATE_VCPU, 0)
        run = mmap.mmap(vcpu, fcntl.ioctl(device, _KVM_GET_VCPU_MMAP_SIZE))
        _set_registers(vcpu)
        begin = time.perf_counter()
        fcntl.ioctl(vcpu, _KVM_RUN, 0)
        elapsed = time.perf_counter() - begin
    except OSError as error:
        raise from_os_error("KVM cannot run a guest", error, component="/dev/kvm") from error
    reason = int.from_bytes(run[_EXIT_REASON], "little")
    memory.close()
    if reason != _EXIT_HLT:
        raise HostError(f"the test guest ended with exit reason {reason}", code="kvm-exit")
    return 2 * iterations / max(elapsed, 1e-9) / 1e6


def _guest_memory(machine: int, iterations: int) -> mmap.mmap:
    """Map 2 MiB with page tables and the loop: mov ecx, n; dec ecx; jnz; hlt."""
    memory = mmap.mmap(-1, _MEMORY)
    for place, entry in ((_PML4, _PDPT | _TABLE), (_PDPT, _PD | _TABLE), (_PD, _LARGE_PAGE)):
        memory[place : place + 8] = entry.to_bytes(8, "little")
    code = b"\xb9" + iterations.to_bytes(4, "little") + b"\xff\xc9\x75\xfc\xf4"
    memory[_CODE : _CODE + len(code)] = code
    anchor = ctypes.c_char.from_buffer(memory)
    address = ctypes.addressof(anchor)
    del anchor
    fcntl.ioctl(
        machine, _KVM_SET_USER_MEMORY_REGION, struct.pack("<IIQQQ", 0, 0, 0, _MEMORY, address)
    )
    return memory


def _set_registers(vcpu: int) -> None:
    """Put the vCPU straight into long mode at the code."""
    state = bytearray(_SREGS_SIZE)
    fcntl.ioctl(vcpu, _KVM_GET_SREGS, state)
    segments = _CODE_SEGMENT + 5 * _DATA_SEGMENT
    state[: len(segments)] = segments
    cr0, cr2, cr3, cr4, cr8, efer = _CR0, 0, _PML4, _CR4, 0, _EFER
    struct.pack_into("<6Q", state, _CONTROL, cr0, cr2, cr3, cr4, cr8, efer)
    fcntl.ioctl(vcpu, _KVM_SET_SREGS, bytes(state))
    registers = [0] * 18
    registers[16], registers[17] = _CODE, 2
    fcntl.ioctl(vcpu, _KVM_SET_REGS, _REGS.pack(*registers))
