"""Which keys to handle, and when: coalesced, one key at a time, later after each failure.

The work queue that controllers are built on (client-go's, in asyncio): adding a key that waits is nothing new, adding
one that is being handled has it handled once more, and what fails comes back after a delay that grows and is jittered.
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
    """`quiet`: exceptions that are said in one line, since they are no bugs. `clock`: monotonic seconds."""

    def __init__(self, *, quiet: tuple[type[Exception], ...] = (), clock: Callable[[], float] = time.monotonic) -> None:
        self._quiet = quiet
        self._clock = clock
        self._due: dict[K, float] = {}
        """Key -> when it became due; in order, so the first waits longest."""
        self._later: dict[K, float] = {}
        self._alarms: list[tuple[float, int, K]] = []
        self._working: dict[K, float] = {}
        self._failures: dict[K, int] = {}
        self._numbers = itertools.count()
        self._wakeup = asyncio.Event()

    def __len__(self) -> int:
        return len(self._due) + len(self._working)

    def add(self, key: K) -> None:
        """As soon as somebody is free."""
        self._later.pop(key, None)
        if key not in self._due:
            self._due[key] = self._clock()
        self._wakeup.set()

    def add_after(self, key: K, seconds: float) -> None:
        """Unless it is due before by what was said already."""
        if key in self._due:
            return
        at = self._clock() + seconds
        if at < self._later.get(key, float("inf")):
            self._later[key] = at
            heapq.heappush(self._alarms, (at, next(self._numbers), key))
            self._wakeup.set()

    def oldest_age(self) -> float:
        """Seconds since the key that waits or is worked on longest became due; 0 if there is none."""
        times = [*itertools.islice(self._due.values(), 1), *self._working.values()]
        return max(0.0, self._clock() - min(times)) if times else 0.0

    async def run(self, handle: Callable[[K], Awaitable[float | None]], workers: int) -> None:
        """Until cancelled. What `handle` returns says in how many seconds to look again; None: not by itself."""
        async with asyncio.TaskGroup() as tasks:
            free = asyncio.Semaphore(workers)
            while True:
                await free.acquire()
                key = await self._next()
                self._working[key] = self._due.pop(key)
                tasks.create_task(self._work(key, handle, free))

    async def _next(self) -> K:
        while True:
            self._wakeup.clear()
            now = self._clock()
            while self._alarms and self._alarms[0][0] <= now:
                at, _, key = heapq.heappop(self._alarms)
                if self._later.get(key) == at:  # else it was cancelled, or made due earlier
                    del self._later[key]
                    self._due.setdefault(key, at)
            for key in self._due:
                if key not in self._working:
                    return key
            timeout = self._alarms[0][0] - now if self._alarms else None
            try:
                await asyncio.wait_for(self._wakeup.wait(), timeout)
            except TimeoutError:
                pass

    async def _work(self, key: K, handle: Callable[[K], Awaitable[float | None]], free: asyncio.Semaphore) -> None:
        try:
            again = await handle(key)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            delay = min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(failures - 1, 20)) * random.uniform(0.5, 1)  # noqa: S311
            if isinstance(error, self._quiet):
                _log.info("again_later", key=str(key), seconds=round(delay, 1), reason=str(error))
            else:
                _log.exception("handling_failed", key=str(key), seconds=round(delay, 1))
            self.add_after(key, delay)
        else:
            self._failures.pop(key, None)
            if again is not None:
                self.add_after(key, again)
        finally:
            del self._working[key]
            free.release()
            self._wakeup.set()
