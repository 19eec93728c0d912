"""Which system calls a process may issue, as data: lists of names, without a filter's machinery.

Two shapes. The kernel needs most of what Linux offers, so its filter refuses what it never needs.
hostd is the process that strangers talk to, so its filter names what it needs; everything else,
and starting programs above all, does not exist for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

NEVER: Final = (
    *("acct", "add_key", "bpf", "create_module", "fanotify_init", "get_kernel_syms"),
    *("init_module", "io_uring_enter", "io_uring_register", "io_uring_setup", "ioperm", "iopl"),
    *("kcmp", "kexec_file_load", "kexec_load", "keyctl", "lookup_dcookie", "modify_ldt"),
    *("move_pages", "name_to_handle_at", "nfsservctl", "open_by_handle_at", "perf_event_open"),
    *("process_madvise", "process_vm_readv", "process_vm_writev", "ptrace", "query_module"),
    *("quotactl", "quotactl_fd", "remap_file_pages", "request_key", "swapoff", "swapon"),
    *("sysfs", "syslog", "uselib", "userfaultfd", "ustat", "vhangup", "vm86", "vm86old"),
)
"""What no process of a host needs: other processes' memory, loading code into Linux by address,
and interfaces that were a way into Linux more than once."""

_FILES: Final = (
    *("access", "faccessat", "faccessat2", "open", "openat", "close", "close_range", "read"),
    *("readv", "pread64", "preadv", "preadv2", "write", "writev", "pwrite64", "lseek", "fsync"),
    *("stat", "fstat", "lstat", "newfstatat", "statx", "statfs", "fstatfs", "getdents64"),
    *("readlink", "readlinkat", "getcwd", "chdir", "dup", "dup2", "dup3", "fcntl", "flock"),
    *("pipe", "pipe2", "fadvise64", "sendfile", "ftruncate", "unlink", "unlinkat", "umask"),
    *("copy_file_range", "ioctl"),
)
_MEMORY: Final = (
    *("mmap", "munmap", "mprotect", "mremap", "madvise", "brk", "mincore", "membarrier"),
)
_NETWORK: Final = (
    *("socket", "socketpair", "connect", "accept", "accept4", "listen", "getsockname"),
    *("getpeername", "getsockopt", "setsockopt", "recvfrom", "recvmsg", "recvmmsg", "sendto"),
    *("sendmsg", "sendmmsg", "shutdown"),
)
_WAITING: Final = (
    *("poll", "ppoll", "select", "pselect6", "epoll_create", "epoll_create1", "epoll_ctl"),
    *("epoll_wait", "epoll_pwait", "epoll_pwait2", "eventfd", "eventfd2", "timerfd_create"),
    *("timerfd_settime", "timerfd_gettime", "nanosleep", "clock_nanosleep", "clock_gettime"),
    *("clock_getres", "gettimeofday", "time", "times", "getitimer", "setitimer", "alarm"),
    *("pause", "futex", "futex_waitv", "restart_syscall"),
)
_ITSELF: Final = (
    *("exit", "exit_group", "getpid", "gettid", "getppid", "getuid", "geteuid", "getgid"),
    *("getegid", "getresuid", "getresgid", "getgroups", "getpgrp", "getsid", "getrusage"),
    *("getrlimit", "prlimit64", "getcpu", "getrandom", "sysinfo", "uname", "prctl", "arch_prctl"),
    *("set_tid_address", "set_robust_list", "get_robust_list", "rseq", "sched_yield"),
    *("sched_getaffinity", "sched_getparam", "sched_getscheduler", "sigaltstack"),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigsuspend", "rt_sigpending"),
    *("rt_sigtimedwait", "tgkill", "tkill", "kill", "wait4", "capget", "getpriority"),
)


WIRE_COMMANDS: Final = {
    "SIOCSIFHWADDR": 0x8924,
    "TUNSETIFF": 0x400454CA,
    "TUNSETPERSIST": 0x400454CB,
    "TUNSETOWNER": 0x400454CC,
    "TUNSETLINK": 0x400454CD,
    "TUNSETGROUP": 0x400454CE,
    "TUNSETTXFILTER": 0x400454D1,
    "TUNATTACHFILTER": 0x401054D5,
    "TUNDETACHFILTER": 0x401054D6,
    "TUNSETQUEUE": 0x400454D9,
    "TUNSETSTEERINGEBPF": 0x800454E0,
    "TUNSETFILTEREBPF": 0x800454E1,
    "TUNSETCARRIER": 0x400454E2,
}
"""Commands of ioctl(2) that change the interface behind a descriptor, for whoever has one.

With the first a taken over QEMU would make its bridge take the address of another VM for the
host's own; with TUNSETPERSIST its interface would outlive it.
"""


@dataclass(frozen=True, slots=True)
class CallFilter:
    """A filter: ``allowed`` and nothing else where it is not empty, and never ``refused``.

    Whatever the lists say, no filter lets memory become writable and executable at once, and one
    with ``allowed`` lets threads be made but neither processes nor namespaces.
    """

    refused: tuple[str, ...] = NEVER
    allowed: tuple[str, ...] = ()


PRIVILEGED: Final = CallFilter()
LISTENER: Final = CallFilter(allowed=tuple(sorted({*_FILES, *_MEMORY, *_WAITING, *_ITSELF})))
"""For who reads and writes what it was given, and makes no connection of its own."""
FRONT_END: Final = CallFilter(
    allowed=tuple(sorted({*_FILES, *_MEMORY, *_NETWORK, *_WAITING, *_ITSELF}))
)
PLUGIN: Final = CallFilter(
    allowed=tuple(sorted(({*_FILES, *_MEMORY, *_WAITING, *_ITSELF}) - {"kill", "tkill", "ioctl"}))
)
"""For plug-ins: what an interpreter needs to read, compute and answer; no sockets at all."""
