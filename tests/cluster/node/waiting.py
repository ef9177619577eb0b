"""Waiting for what happens on a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(look: Callable[[], bool], seconds: float, otherwise: Callable[[], str]) -> None:
    """Looks again and again until it is true, since no event comes from the cluster."""
    deadline = time.monotonic() + seconds
    while not look():
        if time.monotonic() > deadline:
            raise AssertionError(otherwise())
        time.sleep(0.2)
