"""What is asked for all the time and need not be newer than a second: read by one, for all who ask meanwhile."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")

FRESH_SECONDS = 1.0


class Fresh(Generic[T]):
    """The last answer of `read`, at most `FRESH_SECONDS` old.

    Who asks while it is being read gets the same answer, or the same error: when a dependency is away nobody waits for
    anybody else to find that out first. An error is not kept.
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
        # Whoever goes away does not take the answer from the others.
        return await asyncio.shield(self._reading)

    def forget(self) -> None:
        """The next one who asks is told anew."""
        self._read_at = float("-inf")

    async def _read_now(self) -> T:
        began = time.monotonic()
        answer = await self._read()
        self._answer, self._read_at = answer, began
        return answer


def _seen(reading: "asyncio.Task[T]") -> None:
    """Where all who asked have gone, nobody is left to hear of an error."""
    if not reading.cancelled():
        reading.exception()
