"""A hash that a thread computes behind the bytes that arrive."""

import asyncio
import hashlib
import secrets
import threading
from typing import Any, cast

from media_core.store.trailing_hash import BUFFER_BYTES, MOST_BEHIND, TrailingHash

SOON = 0.2


class Held:
    """A hash that takes no byte before it is let go."""

    def __init__(self) -> None:
        self.may_go = threading.Event()
        self.of = hashlib.sha256()

    def update(self, data: bytes) -> None:
        assert self.may_go.wait(120)
        self.of.update(data)

    def hexdigest(self) -> str:
        return self.of.hexdigest()


def give(hashing: TrailingHash, data: bytes) -> None:
    buffer = hashing.buffer()
    buffer[: len(data)] = data
    hashing.take(buffer, len(data))


async def test_bytes_are_hashed_in_their_order_however_they_come_and_however_far_behind_the_hash_is() -> None:
    held = Held()
    hashing = TrailingHash(cast("Any", held))
    chunks = [secrets.token_bytes(size) for size in (BUFFER_BYTES, 7, 1000, BUFFER_BYTES, 1)]
    for number, chunk in enumerate(chunks):
        if number % 2:
            await hashing.update(chunk)
        else:
            give(hashing, chunk)
    held.may_go.set()
    assert await hashing.hexdigest() == hashlib.sha256(b"".join(chunks)).hexdigest()
    await hashing.update(b"more")
    assert await hashing.hexdigest() == hashlib.sha256(b"".join([*chunks, b"more"])).hexdigest()


async def test_a_giver_waits_while_the_hash_is_too_far_behind() -> None:
    held = Held()
    hashing = TrailingHash(cast("Any", held))
    for _ in range(MOST_BEHIND):
        give(hashing, b"x")
    giving = asyncio.create_task(asyncio.to_thread(give, hashing, b"y"))
    updating = asyncio.create_task(hashing.update(b""))
    await asyncio.wait((giving, updating), timeout=SOON)
    assert not giving.done()
    assert not updating.done()
    held.may_go.set()
    await asyncio.gather(giving, updating)
    assert await hashing.hexdigest() == hashlib.sha256(b"x" * MOST_BEHIND + b"y").hexdigest()


async def test_the_hash_beside_is_of_the_bytes_that_were_given_while_it_was_set() -> None:
    held, beside = Held(), hashlib.sha1(usedforsecurity=False)
    hashing = TrailingHash(cast("Any", held))
    give(hashing, b"before ")
    hashing.beside = beside
    give(hashing, b"this")
    hashing.beside = None
    give(hashing, b" after")
    held.may_go.set()
    assert await hashing.hexdigest() == hashlib.sha256(b"before this after").hexdigest()
    assert beside.digest() == hashlib.sha1(b"this", usedforsecurity=False).digest()
