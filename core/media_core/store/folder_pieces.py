"""Objects in a folder that come in pieces: each piece is a file in staging, and the only one gets the object's name."""

import asyncio
import contextlib
import fcntl
import os
import secrets
import threading
from collections.abc import AsyncGenerator, Sequence
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from media_core.errors import Unavailable
from media_core.store import page_cache
from media_core.store.base import (
    CHUNK_BYTES,
    BodySource,
    Chunk,
    Complete,
    Durable,
    Piece,
    PieceGone,
    pass_on,
    to_its_end,
)
from media_core.store.folder_files import TAKEN_BYTES, fsync_folder, in_thread, outages_told, read_file, write_all
from media_core.store.trailing_hash import TrailingHash

if TYPE_CHECKING:
    from media_core.store.folder import FolderStore

_SYNCED_BYTES = 16 * 1024 * 1024
"""Most bytes of an object in pieces that a killed process loses: each fsync costs milliseconds."""


class FolderAppending:
    """Appends to the last file of the upload `name`, which has `count` of them, or to a new one.

    Whoever writes to a file has its lock, and leaves no byte in it that does not count. So a file is gone on with only
    if its lock is free and its size is what was recorded, also by one whose claim to the upload is lost. Bytes are
    written while the next ones come. An error is told by the call that follows.
    """

    def __init__(self, store: "FolderStore", name: str, count: int, last: Piece | None) -> None:
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

    async def take(self, source: BodySource, hashing: TrailingHash) -> int:
        await self._settle()
        gathered, self._gathered = self._gathered, bytearray()
        until_due = _SYNCED_BYTES - (self._taken - self._kept)
        at_most = min(until_due, TAKEN_BYTES) if until_due > 0 else TAKEN_BYTES
        taken = await to_its_end(in_thread(self._take, gathered, source, at_most, hashing))
        self._taken += taken
        return taken

    async def durable(self, *, to_the_end: bool = False) -> Durable:
        if to_the_end and self._gathered:
            await self._hand_over()
        await self._settle()
        if self._synced < self._written:
            await in_thread(self._sync)
        changed = (Piece(self._name, self._size + self._synced),) if self._synced > self._kept else ()
        return Durable(self._number, changed)

    async def kept(self) -> None:
        self._kept = self._synced

    async def close(self, *, leave: bool = False) -> None:
        with contextlib.suppress(Unavailable):  # what was not made durable does not count
            await self._settle()
        if self._closed:
            return
        if self._written == self._kept and not self._lock.locked():  # neither the disk nor a thread is waited for
            with outages_told():
                self._close(leave)
        else:
            await in_thread(self._close, leave)

    async def _hand_over(self) -> None:
        await self._settle()
        gathered, self._gathered = self._gathered, bytearray()
        self._writing = asyncio.ensure_future(in_thread(self._write, gathered))

    async def _settle(self) -> None:
        """Waits for the write that is under way. Raises as `write`."""
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing

    def _write(self, data: bytearray) -> None:
        with self._lock:
            self._append(data)

    def _take(self, gathered: bytearray, source: BodySource, at_most: int, hashing: TrailingHash) -> int:
        with self._lock:
            self._append(gathered)
            taken = pass_on(source, hashing, at_most, self._append)
            if not source.left:  # `durable` comes next; it would need a thread again
                self._fsync()
            return taken

    def _append(self, data: bytearray | memoryview) -> None:
        if self._closed:
            raise ValueError("an append that was closed takes no more bytes")
        if self._file is None:
            self._file = self._open()
        write_all(self._file, data)
        page_cache.write_back(self._file, self._size + self._written, len(data))
        self._written += len(data)

    def _open(self) -> int:
        if self._size:
            if (free := _free(self._path, self._size, self._number)) is not None:
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
            self._fsync()

    def _fsync(self) -> None:
        if self._file is not None:
            os.fsync(self._file)
            if not self._size and not self._synced:
                fsync_folder(self._path.parent)
            self._synced = self._written

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


class FolderGatheredObject(Complete):
    """A single piece whose lock is free gets its key by a link. Otherwise all pieces are copied into a new file."""

    def __init__(self, store: "FolderStore", name: str, pieces: Sequence[Piece]) -> None:
        self.size = sum(piece.size for piece in pieces)
        self._store = store
        self._pieces = [(store._staged(piece.name), piece.size) for piece in pieces]
        self._copy = store._staged(f"{name}.whole-{secrets.token_hex(8)}")
        self._path: Path | None = None
        self._locked: FileIO | None = None
        """The single piece, locked, so that it does not grow while it gets its key."""

    async def finish(self) -> None:
        if self._path is None:
            self._path = await in_thread(self._finish)

    async def promote(self, key: str) -> None:
        path = self._store._path(key)
        if self._path is None:
            raise RuntimeError("a staged object is promoted after finish()")
        await in_thread(self._store._link, self._path, path)

    async def read(self, start: int, length: int) -> bytes:
        if self._path is None:
            raise RuntimeError("a staged object is read after finish()")
        return await in_thread(read_file, self._path.name, self._path, start, length)

    async def stream(self) -> AsyncGenerator[Chunk, None]:
        for number, (path, size) in enumerate(self._pieces):
            with await in_thread(_opened, path, number) as file:
                at = 0
                while at < size:
                    chunk = await in_thread(os.pread, file.fileno(), min(CHUNK_BYTES, size - at), at)
                    if not chunk:
                        raise PieceGone(number)
                    yield chunk
                    at += len(chunk)

    async def discard(self) -> None:
        await in_thread(self._discard)

    def _finish(self) -> Path:
        if len(self._pieces) == 1:
            path, size = self._pieces[0]
            if (free := _free(path, size, 0)) is not None:
                self._locked = FileIO(free)
                return path
        file = self._store._create(self._copy)
        try:
            for number, (path, size) in enumerate(self._pieces):
                self._append_from(file, path, size, number)
            os.fsync(file)
        except BaseException:
            self._copy.unlink(missing_ok=True)
            raise
        finally:
            os.close(file)
        fsync_folder(self._copy.parent)
        return self._copy

    def _append_from(self, file: int, path: Path, size: int, number: int) -> None:
        with _opened(path, number) as source:
            at = 0
            while at < size:
                chunk = os.pread(source.fileno(), min(CHUNK_BYTES, size - at), at)
                if not chunk:
                    raise PieceGone(number)
                write_all(file, chunk)
                at += len(chunk)

    def _discard(self) -> None:
        for path in (self._copy, *(path for path, _ in self._pieces)):
            path.unlink(missing_ok=True)
        if self._locked is not None:
            self._locked.close()


def _opened(path: Path, number: int) -> FileIO:
    try:
        return FileIO(path)
    except FileNotFoundError:
        raise PieceGone(number) from None


def _free(path: Path, size: int, number: int) -> int | None:
    """Opens the last piece, of this size, and locks it. None: somebody writes to it, or it has bytes that do not count,
    or an object's name as well. Raises PieceGone.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise PieceGone(number) from None
    locked, found = _lock(file), os.fstat(file)
    if locked and found.st_size == size and found.st_nlink == 1:
        return file
    os.close(file)
    if found.st_size < size:
        raise PieceGone(number)
    return None


def _lock(file: int) -> bool:
    """Until the file is closed, or the process ends. False also where a file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
