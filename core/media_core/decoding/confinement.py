"""The confinement of a decoding child, before it reads the first hostile byte.

An attacker who takes over a decoder has a process that can compute, allocate up to its limit and talk to its parent
over file descriptor 0. It cannot open, connect, fork, execute or signal anything. Two independent layers enforce this:
resource limits (no second file descriptor, no file growth) and a seccomp list of the few system calls that decoding
needs. The child also changes from root to a uid that nothing else uses, and leaves the network if the kernel allows it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import resource
import signal
import struct
from pathlib import Path

UID = 65_533
"""Not "nobody": other services (an embedded PostgreSQL) run as that, and processes of one uid may signal each other."""

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_CLONE_NEWNET, _CLONE_THREAD = 0x4000_0000, 0x0001_0000
_SECCOMP_MODE_FILTER = 2
_MACHINES = {"x86_64": (0, 0xC000_003E), "aarch64": (1, 0xC000_00B7)}
"""Column in the tables below, and the kernel's number of the architecture (linux/audit.h)."""

_ALLOWED = {
    # x86_64, aarch64: linux/arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h
    "read": (0, 63),
    "write": (1, 64),
    "writev": (20, 66),
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "close": (3, 57),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "brk": (12, 214),
    "futex": (202, 98),
    "set_robust_list": (273, 99),
    "membarrier": (324, 283),
    "rseq": (334, 293),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "getrandom": (318, 278),
    "getrusage": (98, 165),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
_PRLIMIT64 = (302, 261)
_CLONE = (56, 220)
_CLONE3 = (435, 435)

_libc = ctypes.CDLL(None, use_errno=True)


_warm_bytes: int | None = None
"""Address space of this process when it was confined; None before."""


def confine(*, parent: int, memory_bytes: int) -> list[str]:
    """Confines this process for good; call it after the imports. Returns the layers that the kernel did not grant.

    `memory_bytes` may be allocated in addition to what is mapped now. Raises OSError if a limit that needs no privilege
    is refused. Exits if the parent has ended already.
    """
    global _warm_bytes
    missing = []
    _libc.unshare(_CLONE_NEWNET)  # granted to root only; seccomp, below, refuses sockets in any case
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if os.geteuid() == 0:
        try:
            os.setgroups([])
            os.setgid(UID)
            os.setuid(UID)
        except OSError:
            missing.append("a uid of its own")
    end_with(parent)  # after setuid, which clears it
    _warm_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _limit(resource.RLIMIT_AS, _warm_bytes + memory_bytes)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _limit(resource.RLIMIT_NOFILE, 1)
    if not _filter_system_calls():
        missing.append("seccomp")
    return missing


def end_with(parent: int) -> None:
    """Makes the kernel end this process when the thread that started it ends. Exits if `parent` has ended already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def allow_cpu(seconds: int) -> None:
    """Lets this process use `seconds` of CPU from now on; then SIGXCPU ends it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def allow_memory(byte_count: int | None = None) -> None:
    """Lets this process map `byte_count` bytes more than when it was confined; by default, all that its limit allows.

    Does nothing in a process that is not confined.
    """
    if _warm_bytes is not None:
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        wanted = most if byte_count is None else min(most, _warm_bytes + byte_count)
        resource.setrlimit(resource.RLIMIT_AS, (wanted, most))


def _limit(which: int, value: int) -> None:
    resource.setrlimit(which, (value, value))


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) was refused")


def _filter_system_calls() -> bool:
    if platform.machine() not in _MACHINES:
        return False
    program = _program(*_MACHINES[platform.machine()])
    code = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    argument = Program(len(program) // 8, ctypes.addressof(code))
    return bool(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(argument), 0, 0) == 0)


def _program(column: int, architecture: int) -> bytes:
    """Classic BPF over struct seccomp_data: number at 0, architecture at 4, argument 0 at 16 (low) and 20 (high)."""

    def line(code: int, k: int, on_true: int = 0, on_false: int = 0) -> bytes:
        return struct.pack("=HBBI", code, on_true, on_false, k)

    def load(offset: int) -> bytes:
        return line(0x20, offset)

    def unless(k: int, skip: int) -> bytes:
        return line(0x15, k, 0, skip)

    allow, refuse = line(0x06, 0x7FFF_0000), line(0x06, 0x0005_0000 | errno.EPERM)
    lines = [load(4), line(0x15, architecture, 1, 0), refuse, load(0)]
    for numbers in _ALLOWED.values():
        lines += [unless(numbers[column], 1), allow]
    # A thread (HEIC's decoder insists on them), never a process.
    lines += [unless(_CLONE[column], 4), load(16), line(0x45, _CLONE_THREAD, 0, 1), allow, refuse]
    # A filter cannot read clone3's flags, which are in memory: "not implemented" makes the C library use clone.
    lines += [unless(_CLONE3[column], 1), line(0x06, 0x0005_0000 | errno.ENOSYS)]
    # prlimit for this process only (pid 0): `allow_cpu` and `allow_memory` need it.
    lines += [unless(_PRLIMIT64[column], 6), load(16), unless(0, 3), load(20), unless(0, 1), allow, refuse]
    return b"".join([*lines, refuse])
