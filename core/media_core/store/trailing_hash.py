"""A hash that a thread computes some MiB behind the bytes that arrive.

While a request waits for a disk, a database or its client, the hash catches up. To hash 1 GiB takes 0.65 s of a core
with SHA instructions, about as long as all waits of an upload of 1 GiB in 128 requests.
"""

import asyncio
import hashlib
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Final

BUFFER_BYTES: Final = 1024 * 1024
MOST_BEHIND: Final = 8
"""Buffers that wait to be hashed: with half as many an upload in pieces of 8 MiB is slower by a sixth."""
MEMORY_BYTES: Final = MOST_BEHIND * BUFFER_BYTES
SMALL_BYTES: Final = 64 * 1024
"""A smaller chunk is hashed at once if none waits: a thread would cost as much."""

_THREADS: Final = ThreadPoolExecutor(16, "trailing-hash")
_FREE: Final[deque[memoryview]] = deque(maxlen=MOST_BEHIND)
"""Buffers to use again: the kernel has to clear new ones, which takes as long as the copy of bytes into them."""


class TrailingHash:
    """One task at a time gives it bytes. `of`: the hash; None: the bytes are only passed on.

    `most_behind`: buffers that may wait to be hashed.
    """

    def __init__(self, of: "hashlib._Hash | None" = None, *, most_behind: int = MOST_BEHIND) -> None:
        self.beside: hashlib._Hash | None = None
        """A second hash, of the bytes that are given while it is set."""
        self._of = of
        self._most_behind = most_behind
        self._waiting: deque[tuple[tuple[hashlib._Hash, ...], bytes | memoryview, memoryview | None]] = deque()
        self._changed = threading.Condition()
        self._is_hashing = False

    def buffer(self) -> memoryview:
        """`BUFFER_BYTES` for the next bytes. `take` takes it back. For a thread: it waits while the hash is behind."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < self._most_behind)
        try:
            return _FREE.pop()
        except IndexError:
            return memoryview(bytearray(BUFFER_BYTES))

    def take(self, buffer: memoryview, size: int) -> None:
        """The first `size` bytes of a buffer come next. The caller does not use it any more."""
        self._add(buffer[:size], buffer)

    async def update(self, data: bytes) -> None:
        """A chunk of at most 1 MiB comes next."""
        if len(self._waiting) >= self._most_behind:
            await self.settle()
        if self._waiting or len(data) >= SMALL_BYTES:
            self._add(data, None)
            return
        for digest in self._hashes:
            digest.update(data)

    async def settle(self) -> None:
        """Returns once all bytes are hashed."""
        if self._waiting:
            await asyncio.to_thread(self._settle)

    async def hexdigest(self) -> str:
        """Of all bytes so far."""
        if self._of is None:
            raise ValueError("no hash is computed here")
        await self.settle()
        return self._of.hexdigest()

    @property
    def _hashes(self) -> "tuple[hashlib._Hash, ...]":
        return tuple(each for each in (self._of, self.beside) if each is not None)

    def _settle(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting)

    def _add(self, data: bytes | memoryview, buffer: memoryview | None) -> None:
        with self._changed:
            self._waiting.append((self._hashes, data, buffer))
            if self._is_hashing:
                return
            self._is_hashing = True
        _THREADS.submit(self._hash)

    def _hash(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._is_hashing = False
                    return
                hashes, data, buffer = self._waiting[0]
            for digest in hashes:
                digest.update(data)
            if buffer is not None:
                _FREE.append(buffer)
            with self._changed:
                self._waiting.popleft()
                self._changed.notify_all()
