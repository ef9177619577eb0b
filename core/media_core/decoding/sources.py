"""The sources of decoding tasks. The parent reads them in ranges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from media_core.store.base import ObjectStore


class Source(Protocol):
    """Random access to one object's bytes."""

    @property
    def size(self) -> int:
        """In bytes."""

    async def read(self, start: int, length: int) -> bytes:
        """`length` bytes from `start`; fewer only at the end."""


class BytesSource:
    """Bytes that are in memory already."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data = data
        self.size = len(data)

    async def read(self, start: int, length: int) -> bytes:
        return bytes(self._data[start : start + length])


class StoreSource:
    """One object of a store."""

    def __init__(self, store: ObjectStore, key: str, size: int) -> None:
        self._store = store
        self._key = key
        self.size = size

    async def read(self, start: int, length: int) -> bytes:
        """See `ObjectStore.read`; raises its ObjectMissing and Unavailable."""
        return await self._store.read(self._key, start, length)
