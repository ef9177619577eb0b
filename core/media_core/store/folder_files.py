"""Calls on files that may wait for the disk, each in a thread, and what makes their effects survive a crash."""

import asyncio
import errno
import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import ParamSpec, TypeVar

from media_core.errors import NotNow, Unavailable
from media_core.store.base import ObjectMissing, unavailable

_P = ParamSpec("_P")
_T = TypeVar("_T")

ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
TAKEN_BYTES = 8 * 1024 * 1024
"""Most bytes that a thread takes from a source before the event loop looks at the upload again."""
_THREADS = ThreadPoolExecutor(16, "folder-store")
"""Threads apart from asyncio's. Those are few and hash, for example; waits for the disk must not occupy them."""


@contextmanager
def outages_told() -> Iterator[None]:
    """Raises Unavailable for an OSError of the block."""
    try:
        yield
    except OSError as error:
        raise _outage(error) from error


async def in_thread(work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Raises Unavailable for an OSError of `work`, beside what else that raises."""
    with outages_told():
        return await asyncio.get_running_loop().run_in_executor(_THREADS, functools.partial(work, *args, **kwargs))


def _outage(error: OSError) -> Unavailable:
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return NotNow.disk_full("object store")
        case errno.EROFS:
            why = "the folder of the object store is read-only; whoever runs it has to make it writable"
            return NotNow("object store", why)
        case _:
            return unavailable(f"the folder failed: {error.strerror}")


def open_file(key: str, path: Path) -> FileIO:
    """The object `key`. Raises ObjectMissing."""
    try:
        return FileIO(path)
    except ABSENT:
        raise ObjectMissing(key) from None


def read_file(key: str, path: Path, start: int, length: int) -> bytes:
    """As `ObjectStore.read`, without a thread. Raises ObjectMissing."""
    with open_file(key, path) as file:
        rest = os.fstat(file.fileno()).st_size - start
        return os.pread(file.fileno(), min(length, rest), start) if rest > 0 else b""


def write_all(file: int, data: bytes | bytearray | memoryview) -> None:
    """write(2) may take fewer bytes than it is given."""
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]


def fsync_folder(path: Path) -> None:
    """Makes creations, renames and removals in the folder survive a crash."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
