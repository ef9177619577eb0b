"""Objects in one bucket of S3 that come in pieces: each piece is an object in staging, and S3 joins them by copies."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING

from media_core.errors import Unavailable
from media_core.store.base import (
    BodySource,
    Chunk,
    Complete,
    Durable,
    ObjectMissing,
    Piece,
    PieceGone,
    checked_key,
    pass_on,
    staging_key,
    to_its_end,
    unavailable,
)
from media_core.store.s3_outages import PartsRefused
from media_core.store.trailing_hash import TrailingHash

if TYPE_CHECKING:
    from media_core.store.s3 import S3Store

TRY_AGAIN_SECONDS = (0.1, 0.3, 1.0)
"""Pauses before a piece is put again that S3 did not take."""
TRIES_END_AFTER_SECONDS = 5.0
"""Then it is not put again."""
DELETED_AT_ONCE = 200
"""Objects that one `delete` has to manage within its time."""
LOOKED_AT_ONCE = 16
"""How many pieces are looked for at the same time."""


class S3Appending:
    """Each piece is an object in staging, put once and never changed. All but the last have a part's size or more, so
    that S3 can join them; a smaller one is read again, and replaced by a larger. So the last one of a request takes its
    rest, up to two parts.

    Not parts of a multipart upload: those cannot be read before they are joined, nor joined twice, and a part that a
    process sends late takes the place of one that was acknowledged.
    """

    def __init__(self, store: "S3Store", name: str, count: int, last: Piece | None, part_bytes: int) -> None:
        self._store = store
        self._object = name
        self._part_bytes = part_bytes
        self._replaced = last if last is not None and last.size < part_bytes else None
        self._to_read = self._replaced
        self._first = count if self._replaced is None else count - 1
        self._gathered = bytearray()
        self._putting: asyncio.Task[Piece] | None = None
        self._put: list[Piece] = []
        self._told = 0

    @property
    def is_due(self) -> bool:
        return bool(self._put)

    async def write(self, chunk: bytes | memoryview) -> None:
        await self._take_up()
        self._gathered += chunk
        if len(self._gathered) >= self._part_bytes:
            await self._hand_over()

    async def take(self, source: BodySource, hashing: TrailingHash) -> int:
        await self._take_up()
        at_most = self._part_bytes - len(self._gathered)
        if at_most < source.left < at_most + self._part_bytes:
            # The rest of the request is less than a part: by itself it would have to be read and put again.
            await self._settle()  # so that no more than two parts are in memory
            at_most = source.left
        taken = await to_its_end(asyncio.to_thread(pass_on, source, hashing, at_most, self._gathered.extend))
        if taken == at_most:
            await self._hand_over()
        return taken

    async def durable(self, *, to_the_end: bool = False) -> Durable:
        if to_the_end:
            if self._gathered:
                await self._hand_over()
            await self._settle()
        self._told = len(self._put)
        return Durable(self._first, tuple(self._put), replaces=bool(self._put) and self._replaced is not None)

    async def kept(self) -> None:
        replaced = self._replaced if self._told else None
        self._first += self._told
        del self._put[: self._told]
        self._told = 0
        if replaced is not None:
            self._replaced = None
            with contextlib.suppress(Unavailable):  # the sweep removes it
                await self._store._delete(self._key(replaced))

    async def close(self, *, leave: bool = False) -> None:
        if self._putting is not None:
            with contextlib.suppress(Unavailable):
                await self._settle()
        if self._put and not leave:
            with contextlib.suppress(Unavailable):
                await self._store._delete(*map(self._key, self._put))

    async def _take_up(self) -> None:
        if self._to_read is not None:
            self._gathered += await self._read(self._to_read)
            self._to_read = None

    async def _hand_over(self) -> None:
        await self._settle()
        data, self._gathered = self._gathered, bytearray()
        self._putting = asyncio.create_task(self._send(data))

    async def _settle(self) -> None:
        """Waits for the piece that is being put. Not cancelled with its caller, since its bytes may be there then."""
        if self._putting is not None:
            putting = self._putting
            await asyncio.wait((putting,))
            self._putting = None
            self._put.append(putting.result())

    async def _send(self, data: bytearray) -> Piece:
        until = time.monotonic() + TRIES_END_AFTER_SECONDS
        for pause in TRY_AGAIN_SECONDS:
            try:
                return await self._try(data)
            except Unavailable:
                if time.monotonic() > until:
                    raise
            await asyncio.sleep(pause)
        return await self._try(data)

    async def _try(self, data: bytearray) -> Piece:
        """Each try has a name of its own. Some servers keep the bytes of a try that broke, and may write them
        after those of the next try.
        """
        piece = Piece(f"{self._object}.{secrets.token_hex(8)}", len(data))
        await self._store._put(self._key(piece), data, once=True)
        return piece

    async def _read(self, piece: Piece) -> bytes:
        key, data = self._key(piece), b""
        with contextlib.suppress(ObjectMissing):
            data = await self._store._read(key, 0, piece.size)
        if len(data) != piece.size:
            raise await _missed(self._store, self._first, key, piece.size)
        return data

    def _key(self, piece: Piece) -> str:
        return staging_key(self._store._tenant_id, piece.name)


class S3GatheredObject(Complete):
    """Pieces that S3 copies into one object under their final key. Where it does not, they are sent to it again."""

    def __init__(self, store: "S3Store", pieces: Sequence[Piece]) -> None:
        self.size = sum(piece.size for piece in pieces)
        self._store = store
        self._pieces = [(staging_key(store._tenant_id, piece.name), piece.size) for piece in pieces]

    async def finish(self) -> None:
        pass

    async def promote(self, key: str) -> None:
        checked_key(self._store._tenant_id, key)
        try:
            if len(self._pieces) == 1:
                await self._store._copy(self._pieces[0][0], key, self.size)
            else:
                await self._joined(key)
        except Unavailable:
            await self._require_pieces()
            raise

    async def _require_pieces(self) -> None:
        """Raises as `_missed` for the first piece that is not there."""
        for start in range(0, len(self._pieces), LOOKED_AT_ONCE):
            some = self._pieces[start : start + LOOKED_AT_ONCE]
            are_there = await asyncio.gather(*(_is_there(self._store, *piece) for piece in some))
            if not all(are_there):
                number = start + are_there.index(False)
                raise await _missed(self._store, number, *self._pieces[number]) from None

    async def _joined(self, key: str) -> None:
        try:
            await self._store._join([(piece, 0, size) for piece, size in self._pieces], key, self.size)
        except PartsRefused:
            again = await self._store.stage(secrets.token_hex(8), at_most=self.size, key=key)
            try:
                async with contextlib.aclosing(self.stream()) as chunks:
                    async for chunk in chunks:
                        await again.write(chunk)
                await again.finish()
                await again.promote(key)
            finally:
                await again.discard()

    async def read(self, start: int, length: int) -> bytes:
        found = bytearray()
        at = 0
        for number, (key, size) in enumerate(self._pieces):
            begin, end = max(start, at), min(start + length, at + size)
            if begin < end:
                try:
                    found += await self._store._read(key, begin - at, end - begin)
                except ObjectMissing:
                    raise await _missed(self._store, number, key, size) from None
            at += size
        return bytes(found)

    async def stream(self) -> AsyncGenerator[Chunk, None]:
        for number, (key, size) in enumerate(self._pieces):
            sent = 0
            with contextlib.suppress(ObjectMissing):
                async with contextlib.aclosing(self._store._stream(key)) as chunks:
                    async for chunk in chunks:
                        sent += len(chunk)
                        yield chunk
            if sent != size:
                raise await _missed(self._store, number, key, size)

    async def discard(self) -> None:
        keys = [key for key, _ in self._pieces]
        for start in range(0, len(keys), DELETED_AT_ONCE):
            await self._store._delete(*keys[start : start + DELETED_AT_ONCE])


async def _is_there(store: "S3Store", key: str, size: int) -> bool:
    found = await store._head(key)
    return found is not None and found.size == size


async def _missed(store: "S3Store", number: int, key: str, size: int) -> Unavailable:
    """What to raise for a piece that S3 did not give. Raises Unavailable where S3 does not list the bucket either: the
    404 of a missing bucket, or of a gateway, says nothing of a piece.
    """
    if await _is_there(store, key, size):
        return unavailable("S3 has a piece of this upload, and did not give it")
    await store.probe()
    return PieceGone(number)
