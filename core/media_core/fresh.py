"""A value that is asked for often and may be a second old: concurrent callers share one read."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")

FRESH_SECONDS = 1.0


class Fresh(Generic[T]):
    """The last answer of `read`, at most `FRESH_SECONDS` old.

    Callers who come during a read get its answer or its error: so when a dependency is away, all of them learn it after
    one read. An error is not kept.
    """

    _answer: T

    def __init__(self, read: Callable[[], Awaitable[T]]) -> None:
        self._read = read
        self._read_at = float("-inf")
        self._reading: asyncio.Task[T] | None = None

    async def current(self) -> T:
        """Raises what `read` raises."""
        if time.monotonic() - self._read_at <= FRESH_SECONDS:
            return self._answer
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_now())
            self._reading.add_done_callback(_seen)
        # A caller that is cancelled does not cancel the read of the others.
        return await asyncio.shield(self._reading)

    def forget(self) -> None:
        """The next caller starts a new read."""
        self._read_at = float("-inf")

    async def _read_now(self) -> T:
        began = time.monotonic()
        answer = await self._read()
        self._answer, self._read_at = answer, began
        return answer


def _seen(reading: "asyncio.Task[T]") -> None:
    """Retrieves the error: if all callers were cancelled, asyncio would log that nobody did."""
    if not reading.cancelled():
        reading.exception()
