"""Files in the kernel's memory: reads without a wait for the disk, and writes on their way to it.

openat2(2) opens a path only if the kernel has all of its entries (RESOLVE_CACHED), preadv2(2) reads only what it has
(RWF_NOWAIT). Where a kernel or a file system has neither, nothing is read here.
"""

import ctypes
import errno
import os
import sys
from pathlib import Path
from stat import S_ISREG


def read(path: Path, start: int, length: int | None, *, at_most: int) -> bytes | None:
    """`length` bytes of a file from `start` on (None: all that follow), fewer at its end.

    None if the disk would be waited for, for more than `at_most` bytes, and for what is no file. Raises
    FileNotFoundError, NotADirectoryError, IsADirectoryError.
    """
    try:
        file = _open(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise
    except OSError:
        return None
    try:
        found = os.fstat(file)
        rest = max(0, found.st_size - start)
        wanted = rest if length is None else min(length, rest)
        if not S_ISREG(found.st_mode) or wanted > at_most:
            return None
        data = bytearray(wanted)
        # Fewer bytes than wanted: the kernel has only some of them in memory.
        return bytes(data) if not wanted or os.preadv(file, [data], start, os.RWF_NOWAIT) == wanted else None
    except OSError:
        return None
    finally:
        os.close(file)


def write_back(file: int, start: int, length: int) -> None:
    """The kernel begins to write these bytes of an open file to the disk, so that an fsync later waits for less. It is
    no fsync: an error of the disk is told by that.
    """
    if _sync_file_range is not None:
        _sync_file_range(file, start, length, _SYNC_FILE_RANGE_WRITE)


class _OpenHow(ctypes.Structure):
    """openat2(2)'s `struct open_how`."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_OPENAT2 = 437
_AT_FDCWD = -100
_RESOLVE_CACHED = 0x20
_HOW = _OpenHow(os.O_RDONLY | os.O_CLOEXEC, 0, _RESOLVE_CACHED)
_LIBC = ctypes.CDLL(None, use_errno=True)
_SYNC_FILE_RANGE_WRITE = 2
_sync_file_range = getattr(_LIBC, "sync_file_range", None)  # only Linux has it
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def _open(path: Path) -> int:
    """open(2), if it needs no disk access; otherwise OSError: EAGAIN, or the error of a kernel before 5.12.

    Python has no call for it. The number of openat2 is the same on all of Linux's architectures but Alpha.
    """
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, "no openat2 here")
    file = int(_LIBC.syscall(_OPENAT2, _AT_FDCWD, os.fsencode(path), ctypes.byref(_HOW), ctypes.sizeof(_HOW)))
    if file < 0:
        raise OSError(ctypes.get_errno(), "openat2", path)
    return file
