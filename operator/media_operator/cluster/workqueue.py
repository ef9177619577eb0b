"""Which keys to handle, and when: coalesced, each key by one worker at a time, later after each failure.

It is client-go's work queue in asyncio. Adding a key that waits changes nothing. A key that is added while it is being
handled is handled once more. A key whose handling failed comes back after a delay, which grows and is jittered.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import structlog

K = TypeVar("K")

FIRST_DELAY = 0.5
LONGEST_DELAY = 60.0

_log = structlog.stdlib.get_logger("media.workqueue")


class WorkQueue(Generic[K]):
    """`quiet`: exceptions that are logged in one line, since they are no bugs. `clock`: monotonic seconds."""

    def __init__(self, *, quiet: tuple[type[Exception], ...] = (), clock: Callable[[], float] = time.monotonic) -> None:
        self._quiet = quiet
        self._clock = clock
        self._due: dict[K, float] = {}
        """Key -> when it became due; in the order of these times."""
        self._later: dict[K, float] = {}
        self._alarms: list[tuple[float, int, K]] = []
        """A heap of the entries of `_later`; it also holds outdated ones."""
        self._working: dict[K, float] = {}
        """Key -> when it had become due."""
        self._failures: dict[K, int] = {}
        self._numbers = itertools.count()
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        """How many keys are due or being handled."""
        self._ripen()
        return len(self._due.keys() | self._working.keys())

    def add(self, key: K) -> None:
        """Has `key` handled as soon as a worker is free."""
        self._ripen()  # keys that became due before go first
        self._later.pop(key, None)
        self._due.setdefault(key, self._clock())
        self._changed.set()

    def add_after(self, key: K, seconds: float) -> None:
        """Has `key` handled after so many seconds, unless it is due earlier already."""
        at = self._clock() + seconds
        if key not in self._due and at < self._later.get(key, float("inf")):
            self._later[key] = at
            heapq.heappush(self._alarms, (at, next(self._numbers), key))
            self._changed.set()

    def oldest_age(self) -> float:
        """Seconds since the oldest key that waits or is being handled became due; 0: there is none."""
        self._ripen()
        times = [*itertools.islice(self._due.values(), 1), *self._working.values()]
        return max(0.0, self._clock() - min(times)) if times else 0.0

    async def run(self, handle: Callable[[K], Awaitable[float | None]], workers: int) -> None:
        """Runs until cancelled. `handle` returns the seconds until the next time; None: only when it is added again."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(workers):
                tasks.create_task(self._work(handle))

    async def _work(self, handle: Callable[[K], Awaitable[float | None]]) -> None:
        while True:
            key = await self._next()
            self._working[key] = self._due.pop(key)
            try:
                await self._handle(key, handle)
            finally:
                del self._working[key]

    async def _next(self) -> K:
        while True:
            # Nothing is awaited between this and the wait, so a key that is added later ends the wait.
            self._changed.clear()
            self._ripen()
            for key in self._due:
                if key not in self._working:
                    return key
            try:
                # Not wait_for, which may swallow a cancellation in Python 3.11.
                async with asyncio.timeout(self._alarms[0][0] - self._clock() if self._alarms else None):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def _ripen(self) -> None:
        """Moves keys of `_later` whose time has come to `_due`."""
        now = self._clock()
        while self._alarms and self._alarms[0][0] <= now:
            at, _, key = heapq.heappop(self._alarms)
            if self._later.get(key) == at:  # else the entry is outdated
                del self._later[key]
                self._due.setdefault(key, at)

    async def _handle(self, key: K, handle: Callable[[K], Awaitable[float | None]]) -> None:
        try:
            again = await handle(key)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            self._failed(key, error)  # not this task was cancelled, but something that it waited for
        except Exception as error:
            self._failed(key, error)
        else:
            self._failures.pop(key, None)
            if again is not None:
                self.add_after(key, again)

    def _failed(self, key: K, error: BaseException) -> None:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        delay = min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(failures - 1, 20)) * random.uniform(0.5, 1)  # noqa: S311  jitter, not a secret
        if isinstance(error, self._quiet):
            _log.info("again_later", key=str(key), seconds=round(delay, 1), reason=str(error))
        else:
            _log.error("handling_failed", key=str(key), seconds=round(delay, 1), exc_info=error)
        self.add_after(key, delay)
