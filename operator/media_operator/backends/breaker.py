"""Guards one dependency for all tenants: while it is away calls fail at once, and now and then one call is tried.

So a thousand tenants neither wait for the same timeout one after the other, nor all come at once when it is back.
"""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

import structlog

from media_core.errors import Unavailable

P = ParamSpec("P")
T = TypeVar("T")

FIRST_DELAY = 1.0
LONGEST_DELAY = 60.0
TOLERATED = 1
"""So many failures in a row do not open the breaker: one broken connection is no outage."""

_log = structlog.stdlib.get_logger("media.breaker")


class RequestRefused(Unavailable):
    """The dependency answers and refuses this request. One tenant has to wait; the others go on."""


class Breaker:
    """Only `Unavailable` counts as a failure. Any other exception comes from a dependency that answers."""

    def __init__(self, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self._clock = clock
        self._failures = 0
        """In a row, while closed."""
        self._cause: Unavailable | None = None
        """Why it is open; None while it is closed."""
        self._tries = 0
        self._next_try = 0.0
        self._trying = False
        self._callbacks: list[Callable[[], None]] = []

    @property
    def open(self) -> bool:
        """Whether a call would fail at once."""
        return self._cause is not None and (self._trying or self._clock() < self._next_try)

    def on_close(self, callback: Callable[[], None]) -> None:
        """`callback` is called when the dependency answers again after the breaker was open."""
        self._callbacks.append(callback)

    async def call(self, ask: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of `ask` with these arguments. Raises Unavailable; while open, without asking."""
        attempt = functools.partial(ask, *args, **kwargs)
        if self._cause is None:
            return await self._watch(attempt)
        if self.open:
            raise Unavailable(self._cause.dependency, self._cause.detail)
        self._trying = True  # other calls fail at once until this try has ended
        try:
            return await self._watch(attempt, is_try=True)
        finally:
            self._trying = False  # also if it was cancelled: then the next call tries

    async def _watch(self, attempt: Callable[[], Awaitable[T]], *, is_try: bool = False) -> T:
        try:
            result = await attempt()
        except RequestRefused:
            self._answered()
            raise
        except Unavailable as error:
            self._failed(error, is_try)
            raise
        except Exception:
            self._answered()
            raise
        self._answered()
        return result

    def _failed(self, error: Unavailable, is_try: bool) -> None:
        if self._cause is None:
            self._failures += 1
            if self._failures <= TOLERATED:
                return
            self._tries = 0
            _log.warning("unavailable", dependency=self.name, reason=error.detail)
        elif is_try:
            self._tries += 1
        else:
            return  # it began before the breaker opened: the same outage, no reason to wait longer
        self._cause = error
        delay = min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(self._tries, 10))
        self._next_try = self._clock() + delay * random.uniform(0.7, 1)  # noqa: S311  jitter, not a secret

    def _answered(self) -> None:
        was_away, self._cause, self._failures = self._cause is not None, None, 0
        if was_away:
            for callback in self._callbacks:
                callback()
