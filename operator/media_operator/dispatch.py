"""From the queue to workers: how many to start, and when to look.

Invariant: what is not known starts nothing. A queue that can't be read or a launcher that can't count means "unknown",
never "zero" (counting zero after a failed list is how comparable systems started thousands of Jobs). Looks at one
tenant's queue are serialised, so that two triggers never start the same worker twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import psycopg
import structlog

from media_core.errors import Unavailable
from media_core.queue import CHANNEL, Depth

BATCH: Mapping[str, int] = {"scan": 20, "transcribe": 1, "thumbnail": 10}
"""Jobs that justify one worker: a scan takes moments, a transcription minutes to hours."""
POLL_SECONDS = 5.0
"""How often a queue is looked at without a notification: retries fall due silently, and a notification can be lost."""
LONGEST_RECONNECT = 10.0

_log = structlog.stdlib.get_logger("media.dispatch")


class JobLauncher(Protocol):
    """Starts workers that drain one kind of work and end by themselves."""

    async def running(self, kind: str) -> int | None:
        """Workers of this kind that run or are about to; None: it cannot be told now."""

    async def launch(self, kind: str) -> bool:
        """Starts one. False: not now (backing off, no room)."""


def workers_to_start(depth: Depth, running: int | None, *, batch: int, limit: int) -> int:
    """`min(ceil(work / batch), limit) - running`, never negative; 0 while nothing is ready or `running` is unknown.

    The work is what is ready plus what running workers have in hand: were it only what is ready, one worker busy with
    a long recording would keep the next recording waiting although `limit` allows another worker.
    """
    if running is None or depth.ready == 0:
        return 0
    work = depth.ready + min(depth.leased, running)  # a worker holds one lease at a time
    return max(0, min(math.ceil(work / batch), limit) - running)


class Dispatcher:
    """Looks after one tenant's queue. `depths` raises Unavailable while it can't be read."""

    def __init__(
        self,
        tenant_id: str,
        depths: Callable[[], Awaitable[Mapping[str, Depth]]],
        limits: Callable[[], Mapping[str, int]],
        launcher: JobLauncher,
    ) -> None:
        self._tenant_id = tenant_id
        self._depths = depths
        self._limits = limits
        self._launcher = launcher
        self._looking = asyncio.Lock()
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Look now: work was queued, or a worker ended."""
        self._woken.set()

    async def dispatch(self) -> Mapping[str, int]:
        """One look; how many workers of each kind it started."""
        async with self._looking:
            started: dict[str, int] = {}
            try:
                depths = await self._depths()
            except Unavailable as error:
                _log.warning("queue_unreadable", tenant=self._tenant_id, reason=error.detail)
                return started
            for kind, limit in self._limits().items():
                depth = depths.get(kind)
                if depth is None or limit == 0:
                    continue
                running = await self._launcher.running(kind)
                for _ in range(workers_to_start(depth, running, batch=BATCH[kind], limit=limit)):
                    if not await self._launcher.launch(kind):
                        break
                    started[kind] = started.get(kind, 0) + 1
            return started

    async def run(self) -> None:
        """Until cancelled: a look at every wake-up and every `POLL_SECONDS`."""
        while True:
            self._woken.clear()
            await self.dispatch()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), POLL_SECONDS)


async def listen(url: Callable[[], str], wake: Callable[[str | None], None]) -> None:
    """Until cancelled: `wake(payload)` for each notification on the queue's channel.

    A notification sent while nobody listened is gone, so `wake(None)` (look everywhere) follows every connect. Needs a
    direct connection: PgBouncer in transaction mode loses LISTEN.
    """
    delay = 0.1
    while True:
        try:
            plain = url().replace("postgresql+psycopg://", "postgresql://", 1)
            async with await psycopg.AsyncConnection.connect(plain, autocommit=True, connect_timeout=5) as connection:
                await connection.execute(f"LISTEN {CHANNEL}")
                wake(None)
                delay = 0.1
                async for notification in connection.notifies():
                    wake(notification.payload)
        except psycopg.Error as error:
            _log.warning("not_listening", reason=type(error).__name__, again_in=round(delay, 1))
        await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311  jitter, not a secret
        delay = min(LONGEST_RECONNECT, delay * 2)
