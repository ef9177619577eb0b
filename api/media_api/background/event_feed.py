"""Events for those who listen: one query at a time of one process, however many clients listen.

While somebody listens the feed asks for the last position, and reads what is new once. A listener takes it from memory
if it is not behind; else it reads the database for itself. While nobody listens the database is not asked.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import structlog

from media_core.errors import Unavailable
from media_core.events.feed import AT_ONCE, Event, Events

POLL_SECONDS: Final = 0.4
KEPT: Final = 5 * AT_ONCE
"""Events in memory, at most."""

_log = structlog.stdlib.get_logger("media.api")


class EventFeed:
    """Run `poll` as a task, enter `listening` while somebody listens, and call `stop` before the process ends."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._listeners = 0
        self._somebody = asyncio.Event()
        self._news = asyncio.Event()
        self._position: int | None = None
        """The last position that the feed has seen; None: it has not looked yet."""
        self._recent: deque[Event] = deque(maxlen=KEPT)
        """All events from the first of these up to `_position`."""
        self.stopped = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        self._listeners += 1
        self._somebody.set()
        try:
            yield
        finally:
            self._listeners -= 1
            if not self._listeners:
                self._somebody.clear()
                self._position = None
                self._recent.clear()

    async def after(self, position: int) -> list[Event]:
        """Waits for events behind this position; returns the next ones, of everybody. Empty: the feed has stopped.

        To be called within `listening`. Raises Unavailable.
        """
        while not self.stopped:
            news = self._news
            if self._position is not None and self._position > position:
                if self._recent and self._recent[0].position <= position + 1:
                    return [event for event in self._recent if event.position > position]
                if found := await self._events.after(position):
                    return found
            await news.wait()
        return []

    async def poll(self) -> None:
        """Runs until it is cancelled. After an error the listeners wait for the next query.

        It catches every error: nobody awaits this task, so an error would end all streams unnoticed.
        """
        while True:
            await self._somebody.wait()
            try:
                while await self._look():
                    pass
            except Unavailable as error:
                _log.warning("events_not_seen", dependency=error.dependency)
            except Exception:
                _log.exception("events_not_seen")
            await asyncio.sleep(POLL_SECONDS)

    async def _look(self) -> bool:
        """Whether there may be more."""
        placed = await self._events.place()
        if not self._listeners or placed == self._position:
            return False
        if self._position is None:
            self._position = placed  # a listener that is behind reads for itself
        else:
            found = await self._events.after(self._position)
            if self._position is None or not found:  # the last listener has left meanwhile
                return False
            self._recent.extend(found)
            self._position = found[-1].position
        news, self._news = self._news, asyncio.Event()
        news.set()
        return True

    def stop(self) -> None:
        self.stopped = True
        self._news.set()
