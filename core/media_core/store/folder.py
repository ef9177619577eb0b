"""Objects as files in one folder, for `make run` and single machines.

An object's path is its key, below the root. Its bytes are first written to a file in the tenant's `.staging` and
fsynced. Then the file gets its name by rename(2) or link(2), and the folder is fsynced. So after kill -9 or a power
loss an object is whole or absent, and a reader keeps the version that it opened. The file system must have hard links.

Calls that may wait for the disk run in a thread. Only a small object that the kernel has in memory is read directly: a
thread would take five times as long as the read, and more while the event loop is busy. The kernel tells when a read
would have to wait (`page_cache`).

Signed URLs lead to the api itself (`folder_urls`).
"""

import asyncio
import contextlib
import errno
import fcntl
import functools
import os
import secrets
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from io import FileIO
from itertools import islice
from pathlib import Path
from stat import S_ISREG
from typing import ParamSpec, TypeVar

from media_core.errors import Unavailable
from media_core.store import page_cache
from media_core.store.base import (
    CHUNK_BYTES,
    DELETE_SECONDS,
    STAGING,
    USUAL_MOST,
    Chunk,
    Durable,
    ObjectInfo,
    ObjectMissing,
    Piece,
    SignedUrl,
    Source,
    checked_expiry,
    checked_key,
    checked_most,
    may_be_in_a_key,
    name_in_staging,
    staging_key,
    tenant_prefix,
    to_its_end,
    unavailable,
)
from media_core.store.folder_urls import FolderUrls, SignedRequest
from media_core.trailing_hash import MEMORY_BYTES, TrailingHash

_P = ParamSpec("_P")
_T = TypeVar("_T")

_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_LISTED_AT_ONCE = 1000
_SHORTER = "a piece of this upload is shorter than what was recorded"
_PROBE_SECONDS = 3.0
_AT_HAND_BYTES = 256 * 1024
"""Most bytes that are read without a thread: copying more would block the event loop for too long."""
_SYNCED_BYTES = 16 * 1024 * 1024
"""Most bytes of an object in pieces that a killed process loses: each fsync costs milliseconds."""
_TAKEN_BYTES = 8 * 1024 * 1024
"""Most bytes that a thread takes from a source before the event loop looks at the upload again."""
_THREADS = ThreadPoolExecutor(16, "folder-store")
"""Threads of its own: waits for the disk must not occupy asyncio's few threads, which hash, for example."""


class FolderStore:
    """`ObjectStore` on a local folder.

    `signing_key`: at least 32 secret bytes; empty in processes that neither sign nor serve URLs (workers).
    `public_url`: the api's URL for clients, e.g. `https://media.acme.example`.
    """

    def __init__(self, root: Path, tenant_id: str, signing_key: bytes, public_url: str) -> None:
        self.urls = FolderUrls(tenant_id, signing_key, public_url)
        self._root = root
        self._tenant_id = tenant_id
        self._prefix = tenant_prefix(tenant_id)
        self._staging = root / self._prefix / STAGING
        self._ensured: set[Path] = set()
        self._making = threading.Lock()

    async def put(self, key: str, data: bytes | bytearray | memoryview) -> None:
        await _in_thread(self._put, self._path(key), data)

    async def stage(self, name: str, *, at_most: int = USUAL_MOST, key: str | None = None) -> "FolderStagedObject":
        if key is not None:
            self._path(key)  # only checked: a link costs nothing, so the key saves nothing here
        return await _in_thread(FolderStagedObject, self, self._staged(name), at_most)

    def memory_of(self, at_most: int = USUAL_MOST) -> int:
        return 0  # a chunk is written before `write` returns

    def append(self, name: str, count: int, last: Piece | None, *, at_most: int = USUAL_MOST) -> "FolderAppending":
        return FolderAppending(self, name, count, last)

    def memory_of_append(self, at_most: int = USUAL_MOST) -> int:
        return 2 * CHUNK_BYTES + MEMORY_BYTES  # gathered bytes, bytes that are being written, and `take`

    def gathered(self, name: str, pieces: Sequence[Piece]) -> "FolderGatheredObject":
        return FolderGatheredObject(self, name, pieces)

    async def read(self, key: str, start: int, length: int) -> bytes:
        path = self._path(key)
        if length <= _AT_HAND_BYTES and (data := _at_hand(key, path, start, length)) is not None:
            return data
        return await _in_thread(_read, key, path, start, length)

    async def stream(self, key: str, start: int = 0, length: int | None = None) -> AsyncGenerator[Chunk, None]:
        path = self._path(key)
        if (data := _at_hand(key, path, start, length)) is not None:
            if data:
                yield data
            return
        with await _in_thread(_open, key, path) as file:
            size = os.fstat(file.fileno()).st_size
            end = size if length is None else min(size, start + length)
            while start < end:
                chunk = await _in_thread(os.pread, file.fileno(), min(CHUNK_BYTES, end - start), start)
                if not chunk:  # somebody has cut it meanwhile
                    return
                yield chunk
                start += len(chunk)

    async def head(self, key: str) -> ObjectInfo | None:
        return await _in_thread(_info, key, self._path(key))

    async def delete(self, *keys: str) -> None:
        paths = [self._path(key) for key in keys]
        try:
            async with asyncio.timeout(DELETE_SECONDS):
                await _in_thread(_delete, paths, time.monotonic() + DELETE_SECONDS)
        except TimeoutError:  # the thread ends at the same time, unless it hangs in the kernel
            raise unavailable("the folder does not answer") from None

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        found = self._walk(prefix)
        while batch := await _in_thread(lambda: list(islice(found, _LISTED_AT_ONCE))):
            for entry in batch:
                yield entry

    def sign(self, key: str, *, expires_in: timedelta, content_type: str, content_disposition: str) -> SignedUrl:
        allowed = SignedRequest(checked_key(self._tenant_id, key), content_type, content_disposition)
        return self.urls.sign(allowed, _now(), checked_expiry(expires_in))

    async def sweep_staging(self, older_than: timedelta, keep: Collection[str] = ()) -> int:
        return await _in_thread(self._sweep_staging, _now().timestamp() - older_than.total_seconds(), keep)

    async def probe(self) -> None:
        def check() -> None:
            self._ensure(self._staging, again=not self._staging.is_dir())
            if not os.access(self._staging, os.R_OK | os.W_OK | os.X_OK):
                raise unavailable("the folder of the object store can't be written")

        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                await _in_thread(check)
        except TimeoutError:
            raise unavailable("the folder does not answer") from None

    async def aclose(self) -> None:
        pass

    def _staged(self, name: str) -> Path:
        return self._root / staging_key(self._tenant_id, name)

    def _piece_name(self, name: str, number: int) -> str:
        return f"{name}.{number}-{secrets.token_hex(8)}"

    def _path(self, key: str) -> Path:
        return self._root / checked_key(self._tenant_id, key)

    def _put(self, path: Path, data: bytes | bytearray | memoryview) -> None:
        unfinished = self._staging / f"put-{secrets.token_hex(16)}"
        file = self._create(unfinished)
        try:
            try:
                _write(file, data)
                os.fsync(file)
            finally:
                os.close(file)
            self._rename(unfinished, path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        _fsync_folder(path.parent)

    def _link(self, staged: Path, path: Path) -> None:
        second_name = self._staging / f"link-{secrets.token_hex(16)}"
        second_name.hardlink_to(staged)
        try:
            os.utime(second_name)  # `modified` is the time of the promotion, not of the last write
            self._rename(second_name, path)
        finally:
            # rename(2) keeps both names if they are the same file already, which happens when a promote is repeated.
            second_name.unlink(missing_ok=True)
        _fsync_folder(path.parent)

    def _create(self, path: Path) -> int:
        """Makes a new file in staging, and returns its descriptor."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return self._in_folder(path.parent, lambda: os.open(path, flags, 0o600))

    def _rename(self, unfinished: Path, path: Path) -> None:
        self._in_folder(path.parent, lambda: unfinished.rename(path))

    def _in_folder(self, folder: Path, work: Callable[[], _T]) -> _T:
        """Calls `work`, and makes the folder before if it is missing."""
        self._ensure(folder)
        try:
            return work()
        except FileNotFoundError:  # somebody has removed the folder meanwhile
            self._ensure(folder, again=True)
            return work()

    def _ensure(self, folder: Path, *, again: bool = False) -> None:
        """Makes sure once that the folder exists and survives a crash. Concurrent callers wait for that."""
        if again or folder not in self._ensured:
            with self._making:
                if again or folder not in self._ensured:
                    self._make(folder)
                    self._ensured.add(folder)

    def _make(self, folder: Path) -> None:
        # Below the root also if it exists: another process may have made it, but not have fsynced it yet.
        if self._root in folder.parents or not folder.is_dir():
            self._make(folder.parent)
            folder.mkdir(mode=0o700, exist_ok=True)
            _fsync_folder(folder.parent)

    def _walk(self, prefix: str) -> Iterator[ObjectInfo]:
        folders = [self._root / self._prefix]
        while folders:
            with contextlib.suppress(*_ABSENT), os.scandir(folders.pop()) as entries:
                for entry in entries:
                    path = Path(entry.path)
                    if path == self._staging or not may_be_in_a_key(entry.name):
                        continue
                    key = path.relative_to(self._root).as_posix()
                    if entry.is_dir(follow_symlinks=False):
                        if f"{key}/".startswith(prefix) or prefix.startswith(f"{key}/"):
                            folders.append(path)
                    elif key.startswith(prefix) and (info := _info(key, path)):
                        yield info

    def _sweep_staging(self, before: float, keep: Collection[str]) -> int:
        swept = 0
        with contextlib.suppress(FileNotFoundError), os.scandir(self._staging) as entries:
            for entry in entries:
                if not may_be_in_a_key(entry.name) or not entry.is_file(follow_symlinks=False):
                    continue
                with contextlib.suppress(FileNotFoundError):  # its upload ended just now
                    if entry.stat().st_mtime <= before and name_in_staging(entry.name) not in keep:
                        Path(entry.path).unlink()
                        swept += 1
        return swept


class FolderStagedObject:
    """A file in staging. Its lock separates `discard` from a write that was cancelled and still runs in its thread."""

    def __init__(self, store: FolderStore, path: Path, at_most: int) -> None:
        self.size = 0
        self._store = store
        self._path = path
        self._at_most = at_most
        self._file: int | None = store._create(path)
        self._written = 0
        self._finished = False
        self._lock = threading.Lock()

    async def write(self, chunk: bytes | memoryview) -> None:
        checked_most(self._at_most, self.size + len(chunk))
        await _in_thread(self._write, chunk)
        self.size += len(chunk)

    async def finish(self) -> None:
        await _in_thread(self._finish)

    async def promote(self, key: str) -> None:
        path = self._store._path(key)
        if not self._finished:
            raise RuntimeError("a staged object is promoted after finish()")
        await _in_thread(self._store._link, self._path, path)

    async def read(self, start: int, length: int) -> bytes:
        return await _in_thread(_read, self._path.name, self._path, start, length)

    async def discard(self) -> None:
        await _in_thread(self._discard)

    def _write(self, chunk: bytes | memoryview) -> None:
        with self._lock:
            if self._file is None:
                raise ValueError("a staged object that was finished or discarded takes no more bytes")
            _write(self._file, chunk)
            page_cache.write_back(self._file, self._written, len(chunk))
            self._written += len(chunk)

    def _finish(self) -> None:
        with self._lock:
            if self._file is not None:
                os.fsync(self._file)
            self._close()
        _fsync_folder(self._path.parent)
        self._finished = True

    def _discard(self) -> None:
        with self._lock:
            self._close()
        self._path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


class FolderAppending:
    """Appends to the last file of the upload `name`, which has `count` of them, or to a new one.

    Whoever writes to a file has its lock, and leaves no byte in it that does not count. So a file is gone on with only
    if its lock is free and its size is what was recorded, also by one whose claim to the upload is lost. Bytes are
    written while the next ones come. An error is told by the call that follows.
    """

    def __init__(self, store: FolderStore, name: str, count: int, last: Piece | None) -> None:
        self._store = store
        self._object = name
        self._number = count if last is None else count - 1
        self._name = store._piece_name(name, count) if last is None else last.name
        self._size = 0 if last is None else last.size
        """Of the file, before this one wrote to it. What follows is counted from there on."""
        self._taken = self._written = self._synced = self._kept = 0
        self._file: int | None = None
        self._gathered = bytearray()
        self._writing: asyncio.Future[None] | None = None
        self._lock = threading.Lock()
        self._closed = False

    @property
    def is_due(self) -> bool:
        return self._taken - self._kept >= _SYNCED_BYTES

    async def write(self, chunk: bytes | memoryview) -> None:
        self._gathered += chunk
        self._taken += len(chunk)
        if len(self._gathered) >= CHUNK_BYTES:
            await self._hand_over()

    async def take(self, source: Source, hashing: TrailingHash) -> int:
        await self._settle()
        gathered, self._gathered = self._gathered, bytearray()
        until_due = _SYNCED_BYTES - (self._taken - self._kept)
        at_most = min(until_due, _TAKEN_BYTES) if until_due > 0 else _TAKEN_BYTES
        taken = await to_its_end(_in_thread(self._take, gathered, source, at_most, hashing))
        self._taken += taken
        return taken

    async def durable(self, *, to_the_end: bool = False) -> Durable:
        if to_the_end and self._gathered:
            await self._hand_over()
        await self._settle()
        if self._synced < self._written:
            await _in_thread(self._sync)
        changed = (Piece(self._name, self._size + self._synced),) if self._synced > self._kept else ()
        return Durable(self._number, changed)

    async def kept(self) -> None:
        self._kept = self._synced

    async def close(self, *, leave: bool = False) -> None:
        with contextlib.suppress(Unavailable):  # what was not made durable does not count
            await self._settle()
        await _in_thread(self._close, leave)

    async def _hand_over(self) -> None:
        await self._settle()
        gathered, self._gathered = self._gathered, bytearray()
        self._writing = asyncio.ensure_future(_in_thread(self._write, gathered))

    async def _settle(self) -> None:
        """Waits for the write that is under way. Raises as `write`."""
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing

    def _write(self, data: bytearray) -> None:
        with self._lock:
            self._append(data)

    def _take(self, gathered: bytearray, source: Source, at_most: int, hashing: TrailingHash) -> int:
        taken = 0
        with self._lock:
            self._append(gathered)
            while source.left and taken < at_most:
                buffer = hashing.buffer()
                read = source.read_into(buffer[: at_most - taken])
                self._append(buffer[:read])
                hashing.take(buffer, read)
                if not read:
                    break
                taken += read
        return taken

    def _append(self, data: bytearray | memoryview) -> None:
        if self._closed:
            raise ValueError("an append that was closed takes no more bytes")
        if self._file is None:
            self._file = self._open()
        _write(self._file, data)
        page_cache.write_back(self._file, self._size + self._written, len(data))
        self._written += len(data)

    def _open(self) -> int:
        if self._size:
            if (free := _free(self._path, self._size)) is not None:
                os.lseek(free, 0, os.SEEK_END)
                return free
            self._number, self._size = self._number + 1, 0
            self._name = self._store._piece_name(self._object, self._number)
        file = self._store._create(self._path)
        _lock(file)
        return file

    @property
    def _path(self) -> Path:
        return self._store._staged(self._name)

    def _sync(self) -> None:
        with self._lock:
            if self._file is not None:
                written = self._written
                os.fsync(self._file)
                if not self._size and not self._synced:
                    _fsync_folder(self._path.parent)
                self._synced = written

    def _close(self, leave: bool) -> None:
        with self._lock:
            self._closed = True
            if self._file is None:
                return
            file, self._file = self._file, None
            try:
                counts = self._size + self._kept
                if not leave and not counts:
                    self._path.unlink(missing_ok=True)
                elif not leave and os.fstat(file).st_size > counts:
                    os.ftruncate(file, counts)
            finally:
                os.close(file)


class FolderGatheredObject:
    """One file that nobody writes to any more gets its key by a link. Else all pieces are copied into a new file."""

    def __init__(self, store: FolderStore, name: str, pieces: Sequence[Piece]) -> None:
        self.size = sum(piece.size for piece in pieces)
        self._store = store
        self._pieces = [(store._staged(piece.name), piece.size) for piece in pieces]
        self._copy = store._staged(f"{name}.whole-{secrets.token_hex(8)}")
        self._path: Path | None = None
        self._locked: FileIO | None = None
        """The only piece: nobody appends to it while it gets its key."""

    async def write(self, chunk: bytes | memoryview) -> None:
        raise ValueError("an object that has come whole takes no more bytes")

    async def finish(self) -> None:
        if self._path is None:
            self._path = await _in_thread(self._finish)

    async def promote(self, key: str) -> None:
        path = self._store._path(key)
        if self._path is None:
            raise RuntimeError("a staged object is promoted after finish()")
        await _in_thread(self._store._link, self._path, path)

    async def read(self, start: int, length: int) -> bytes:
        if self._path is None:
            raise RuntimeError("a staged object is read after finish()")
        return await _in_thread(_read, self._path.name, self._path, start, length)

    async def stream(self) -> AsyncGenerator[Chunk, None]:
        for path, size in self._pieces:
            with await _in_thread(FileIO, path) as file:
                at = 0
                while at < size:
                    chunk = await _in_thread(os.pread, file.fileno(), min(CHUNK_BYTES, size - at), at)
                    if not chunk:
                        raise unavailable(_SHORTER)
                    yield chunk
                    at += len(chunk)

    async def discard(self) -> None:
        await _in_thread(self._discard)

    def _finish(self) -> Path:
        if len(self._pieces) == 1:
            path, size = self._pieces[0]
            if (free := _free(path, size)) is not None:
                self._locked = FileIO(free)
                return path
        file = self._store._create(self._copy)
        try:
            for path, size in self._pieces:
                _append_from(file, path, size)
            os.fsync(file)
        except BaseException:
            self._copy.unlink(missing_ok=True)
            raise
        finally:
            os.close(file)
        _fsync_folder(self._copy.parent)
        return self._copy

    def _discard(self) -> None:
        for path in (self._copy, *(path for path, _ in self._pieces)):
            path.unlink(missing_ok=True)
        if self._locked is not None:
            self._locked.close()


def _free(path: Path, size: int) -> int | None:
    """Opens a piece of this size, and locks it. None: somebody writes to it, or it has bytes that do not count, or an
    object's name as well. Raises Unavailable if it is shorter.
    """
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    locked, found = _lock(file), os.fstat(file)
    if locked and found.st_size == size and found.st_nlink == 1:
        return file
    os.close(file)
    if found.st_size < size:
        raise unavailable(_SHORTER)
    return None


def _lock(file: int) -> bool:
    """Until the file is closed, or the process ends. False also where a file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _append_from(file: int, path: Path, size: int) -> None:
    with FileIO(path) as source:
        at = 0
        while at < size:
            chunk = os.pread(source.fileno(), min(CHUNK_BYTES, size - at), at)
            if not chunk:
                raise unavailable(_SHORTER)
            _write(file, chunk)
            at += len(chunk)


async def _in_thread(work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    try:
        return await asyncio.get_running_loop().run_in_executor(_THREADS, functools.partial(work, *args, **kwargs))
    except OSError as error:
        raise unavailable(f"the folder failed: {error.strerror}") from error


def _now() -> datetime:
    return datetime.now(UTC)


def _open(key: str, path: Path) -> FileIO:
    try:
        return FileIO(path)
    except _ABSENT:
        raise ObjectMissing(key) from None


def _read(key: str, path: Path, start: int, length: int) -> bytes:
    with _open(key, path) as file:
        rest = os.fstat(file.fileno()).st_size - start
        return os.pread(file.fileno(), min(length, rest), start) if rest > 0 else b""


def _at_hand(key: str, path: Path, start: int, length: int | None) -> bytes | None:
    """As `_read`, without a wait for the disk; None if it would have to wait, or for more than `_AT_HAND_BYTES`."""
    try:
        return page_cache.read(path, start, length, at_most=_AT_HAND_BYTES)
    except _ABSENT:
        raise ObjectMissing(key) from None


def _info(key: str, path: Path) -> ObjectInfo | None:
    try:
        found = path.stat()
    except _ABSENT:
        return None
    if not S_ISREG(found.st_mode):
        return None
    return ObjectInfo(key, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))


def _delete(paths: list[Path], deadline: float) -> None:
    folders = set()
    for path in paths:
        if time.monotonic() > deadline:
            raise TimeoutError(errno.ETIMEDOUT, "it takes too long")
        with contextlib.suppress(*_ABSENT):
            path.unlink()
            folders.add(path.parent)
    for folder in folders:
        _fsync_folder(folder)


def _write(file: int, data: bytes | bytearray | memoryview) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]


def _fsync_folder(path: Path) -> None:
    """Makes creations, renames and removals in the folder survive a crash."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
