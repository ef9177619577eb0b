"""The memory in which an upload is gathered: a small file as a whole, a large one step by step."""

import hashlib
import mmap

from media_core.contents.quota import MIB
from media_core.store import BodySource

STEP_BYTES = MIB
"""Most that is hashed, or staged, at once."""
SMALL_BYTES = 64 * 1024
"""A buffer up to this size comes from the heap; larger ones are mappings of their own."""


class Buffer:
    """Room for `capacity` bytes. It takes memory only for what is written, and gives all of it back at its end.

    A buffer that grows and shrinks on the heap would fragment it, or have every page faulted in anew: 0.9 s of CPU a
    GiB.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._memory: mmap.mmap | bytearray | None = None
        self._hashed = 0
        self.size = 0

    @property
    def full(self) -> bool:
        return self.size == self._capacity

    @property
    def unhashed(self) -> int:
        return self.size - self._hashed

    def take(self, chunk: memoryview) -> int:
        """Copies as much of `chunk` as there is room for, and returns how many bytes that is."""
        if self._memory is None:
            if self._capacity <= SMALL_BYTES:
                self._memory = bytearray(self._capacity)
            else:
                self._memory = mmap.mmap(-1, self._capacity, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        taken = min(len(chunk), self._capacity - self.size)
        self._memory[self.size : self.size + taken] = chunk[:taken]
        self.size += taken
        return taken

    def fill(self, source: BodySource, at_most: int, digest: "hashlib._Hash") -> int:
        """Takes what `source` has at hand and there is room for, in a thread, and hashes it. Returns how many bytes.
        Some bytes have been taken before.
        """
        end = min(self._capacity, self.size + at_most)
        before, read = self.size, 1
        while read and source.left and self.size < end:
            with memoryview(self._memory or b"") as memory:
                read = source.read_into(memory[self.size : min(end, self.size + STEP_BYTES)])
            self.size += read
            self.hash_into(digest)
        return self.size - before

    def hash_into(self, digest: "hashlib._Hash") -> None:
        digest.update(self.view()[self._hashed :])
        self._hashed = self.size

    def view(self) -> memoryview:
        return memoryview(self._memory or b"")[: self.size]

    def clear(self) -> None:
        self.size = self._hashed = 0
