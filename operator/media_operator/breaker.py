"""Guards one dependency for all tenants: while it is away, calls fail at once, and only now and then one is let through.

So a thousand tenants do not wait for the same timeout one after the other, nor come all at once when it is back.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from media_core.errors import Unavailable

T = TypeVar("T")

FIRST_DELAY = 1.0
LONGEST_DELAY = 60.0
TOLERATED = 1
"""Failures in a row that open nothing: one broken connection is no outage."""

_log = structlog.stdlib.get_logger("media.breaker")


class Breaker:
    """Only `Unavailable` counts as failure; whatever else a call raises came from a dependency that answers."""

    def __init__(self, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self._clock = clock
        self._failures = 0
        self._opens_at = 0.0
        self._last: Unavailable | None = None
        self._callbacks: list[Callable[[], None]] = []

    @property
    def open(self) -> bool:
        return self._failures > TOLERATED and self._clock() < self._opens_at

    def on_close(self, callback: Callable[[], None]) -> None:
        """Called whenever the dependency answers again after it was taken for away."""
        self._callbacks.append(callback)

    async def call(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """What `attempt()` gives. Raises Unavailable, while open without trying."""
        if self.open and self._last is not None:
            raise Unavailable(self._last.dependency, self._last.detail)
        if self._failures > TOLERATED:
            self._wait()  # the others go on failing at once until this one is through
        try:
            result = await attempt()
        except Unavailable as error:
            self._failures += 1
            self._last = error
            self._wait()
            if self._failures == TOLERATED + 1:
                _log.warning("unavailable", dependency=self.name, reason=error.detail)
            raise
        except Exception:
            self._closed()
            raise
        self._closed()
        return result

    def _wait(self) -> None:
        delay = min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(max(0, self._failures - TOLERATED - 1), 10))
        self._opens_at = self._clock() + delay * random.uniform(0.7, 1)  # noqa: S311  jitter, not a secret

    def _closed(self) -> None:
        was_away, self._failures, self._last = self._failures > TOLERATED, 0, None
        if was_away:
            for callback in self._callbacks:
                callback()
