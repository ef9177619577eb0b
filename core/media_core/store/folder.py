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
import os
import secrets
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from stat import S_ISREG
from typing import TypeVar

from media_core.store import page_cache
from media_core.store.base import (
    CHUNK_BYTES,
    DELETE_SECONDS,
    STAGING,
    USUAL_MOST,
    BodySource,
    Chunk,
    ObjectInfo,
    ObjectMissing,
    Piece,
    SignedUrl,
    checked_expiry,
    checked_key,
    checked_most,
    may_be_in_a_key,
    name_in_staging,
    pass_on,
    staging_key,
    tenant_prefix,
    to_its_end,
    unavailable,
)
from media_core.store.folder_files import (
    ABSENT,
    TAKEN_BYTES,
    fsync_folder,
    in_thread,
    open_file,
    read_file,
    write_all,
)
from media_core.store.folder_pieces import FolderAppending, FolderGatheredObject
from media_core.store.folder_urls import FolderUrls, SignedRequest
from media_core.store.trailing_hash import MEMORY_BYTES, TrailingHash

_T = TypeVar("_T")

_LISTED_AT_ONCE = 1000
_PROBE_SECONDS = 3.0
_AT_HAND_BYTES = 256 * 1024
"""Most bytes that are read without a thread: copying more would block the event loop for too long."""


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
        await in_thread(self._put, self._path(key), data)

    async def stage(self, name: str, *, at_most: int = USUAL_MOST, key: str | None = None) -> "FolderStagedObject":
        if key is not None:
            self._path(key)  # only checked: a link costs nothing, so the key saves nothing here
        return await in_thread(FolderStagedObject, self, self._staged(name), at_most)

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
        return await in_thread(read_file, key, path, start, length)

    async def stream(self, key: str, start: int = 0, length: int | None = None) -> AsyncGenerator[Chunk, None]:
        path = self._path(key)
        if (data := _at_hand(key, path, start, length)) is not None:
            if data:
                yield data
            return
        with await in_thread(open_file, key, path) as file:
            size = os.fstat(file.fileno()).st_size
            end = size if length is None else min(size, start + length)
            while start < end:
                chunk = await in_thread(os.pread, file.fileno(), min(CHUNK_BYTES, end - start), start)
                if not chunk:  # somebody has cut it meanwhile
                    return
                yield chunk
                start += len(chunk)

    async def head(self, key: str) -> ObjectInfo | None:
        return await in_thread(_info, key, self._path(key))

    async def delete(self, *keys: str) -> None:
        paths = [self._path(key) for key in keys]
        try:
            async with asyncio.timeout(DELETE_SECONDS):
                await in_thread(_delete, paths, time.monotonic() + DELETE_SECONDS)
        except TimeoutError:  # the thread ends at the same time, unless it hangs in the kernel
            raise unavailable("the folder does not answer") from None

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        found = self._walk(prefix)
        while batch := await in_thread(lambda: list(islice(found, _LISTED_AT_ONCE))):
            for entry in batch:
                yield entry

    def sign(self, key: str, *, expires_in: timedelta, content_type: str, content_disposition: str) -> SignedUrl:
        allowed = SignedRequest(checked_key(self._tenant_id, key), content_type, content_disposition)
        return self.urls.sign(allowed, _now(), checked_expiry(expires_in))

    async def sweep_staging(self, older_than: timedelta, keep: Collection[str] = ()) -> int:
        return await in_thread(self._sweep_staging, _now().timestamp() - older_than.total_seconds(), keep)

    async def probe(self) -> None:
        def check() -> None:
            self._ensure(self._staging, again=not self._staging.is_dir())
            if not os.access(self._staging, os.R_OK | os.X_OK):
                raise unavailable("the folder of the object store can't be read")

        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                await in_thread(check)
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
                write_all(file, data)
                os.fsync(file)
            finally:
                os.close(file)
            self._rename(unfinished, path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        fsync_folder(path.parent)

    def _link(self, staged: Path, path: Path) -> None:
        second_name = self._staging / f"link-{secrets.token_hex(16)}"
        second_name.hardlink_to(staged)
        try:
            os.utime(second_name)  # `modified` is the time of the promotion, not of the last write
            self._rename(second_name, path)
        finally:
            # rename(2) keeps both names if they are the same file already, which happens when a promote is repeated.
            second_name.unlink(missing_ok=True)
        fsync_folder(path.parent)

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
            fsync_folder(folder.parent)

    def _walk(self, prefix: str) -> Iterator[ObjectInfo]:
        folders = [self._root / self._prefix]
        while folders:
            with contextlib.suppress(*ABSENT), os.scandir(folders.pop()) as entries:
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
        await in_thread(self._write, chunk)
        self.size += len(chunk)

    async def take(self, source: BodySource, hashing: TrailingHash, at_most: int) -> int:
        at_most = min(at_most, TAKEN_BYTES, self._at_most - self.size)
        taken = await to_its_end(in_thread(pass_on, source, hashing, at_most, self._write))
        self.size += taken
        return taken

    async def finish(self) -> None:
        await in_thread(self._finish)

    async def promote(self, key: str) -> None:
        path = self._store._path(key)
        if not self._finished:
            raise RuntimeError("a staged object is promoted after finish()")
        await in_thread(self._store._link, self._path, path)

    async def read(self, start: int, length: int) -> bytes:
        return await in_thread(read_file, self._path.name, self._path, start, length)

    async def discard(self) -> None:
        await in_thread(self._discard)

    def _write(self, chunk: bytes | memoryview) -> None:
        with self._lock:
            if self._file is None:
                raise ValueError("a staged object that was finished or discarded takes no more bytes")
            write_all(self._file, chunk)
            page_cache.write_back(self._file, self._written, len(chunk))
            self._written += len(chunk)

    def _finish(self) -> None:
        with self._lock:
            if self._file is not None:
                os.fsync(self._file)
            self._close()
        fsync_folder(self._path.parent)
        self._finished = True

    def _discard(self) -> None:
        with self._lock:
            self._close()
        self._path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _now() -> datetime:
    return datetime.now(UTC)


def _at_hand(key: str, path: Path, start: int, length: int | None) -> bytes | None:
    """As `read_file`, without a wait for the disk; None if it would have to wait, or for more than `_AT_HAND_BYTES`."""
    try:
        return page_cache.read(path, start, length, at_most=_AT_HAND_BYTES)
    except ABSENT:
        raise ObjectMissing(key) from None


def _info(key: str, path: Path) -> ObjectInfo | None:
    try:
        found = path.stat()
    except ABSENT:
        return None
    if not S_ISREG(found.st_mode):
        return None
    return ObjectInfo(key, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))


def _delete(paths: list[Path], deadline: float) -> None:
    folders = set()
    for path in paths:
        if time.monotonic() > deadline:
            raise TimeoutError(errno.ETIMEDOUT, "it takes too long")
        with contextlib.suppress(*ABSENT):
            path.unlink()
            folders.add(path.parent)
    for folder in folders:
        fsync_folder(folder)
