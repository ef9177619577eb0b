"""Measures how long something takes, without what other work on this machine adds to it."""

import threading
import time
import weakref

from tests.cluster.machine import slowness

TICK = 0.05


class Stopwatch:
    """Measures from its making on. Time in which this process stood still does not count."""

    def __init__(self) -> None:
        self._slowness = slowness()
        self._ran = 0.0
        threading.Thread(target=_tick, args=(weakref.ref(self),), daemon=True).start()

    def seconds(self) -> float:
        """As many as it would have taken with a core of one's own."""
        self._slowness = max(self._slowness, slowness())
        return self._ran / self._slowness


def _tick(of: "weakref.ref[Stopwatch]") -> None:
    last = time.monotonic()
    while True:
        time.sleep(TICK)
        if (stopwatch := of()) is None:
            return
        now = time.monotonic()
        stopwatch._ran += min(now - last, 2 * TICK)
        last = now
        del stopwatch
