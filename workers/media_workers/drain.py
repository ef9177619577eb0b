"""The drain loop of one worker: lease, handle, repeat; linger a little for more, then exit.

    python -m media_workers scan|transcribe|thumbnail|sweep|rescan

A worker leases one job at a time and renews the lease in the background for as long as the handler runs. Whoever lost
the lease stops at once and writes nothing (results are fenced by its token anyway). SIGTERM hands the job back.
"""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from media_core.database import Database
from media_core.decoding import DecodingPool
from media_core.errors import Refused, Unavailable
from media_core.library import Library
from media_core.logs import bound
from media_core.policy import PolicyReader
from media_core.queue import Cancelled, Lease, LeaseLost, NotYet, Queue
from media_core.store import ObjectStore
from media_workers import metrics
from media_workers.settings import DrainSettings

_log = structlog.stdlib.get_logger("media.worker")


@dataclass
class Work:
    """What a handler works with; one for the whole drain."""

    database: Database
    queue: Queue
    library: Library
    store: ObjectStore
    decoder: DecodingPool
    policy: PolicyReader


Handler = Callable[[Lease, Work], Awaitable[None]]
"""Does the job and completes it, fenced by the lease. May raise:

`NotYet` (hand it back for a while), `Refused` (fails, final), `Unavailable` (fails, retried), `Cancelled`, `LeaseLost`;
anything else is a bug: it is logged with its traceback, and the job retried until its attempts are used up.
"""


class Drain:
    """Works off one kind of job until there is nothing more, the limits are reached, or `stop` is set."""

    def __init__(self, kind: str, handler: Handler, work: Work, settings: DrainSettings) -> None:
        self.kind = kind
        self.handled = 0
        self.stop = asyncio.Event()
        self._handler = handler
        self._work = work
        self._settings = settings
        self._name = f"{socket.gethostname()}/{os.getpid()}"

    async def run(self) -> None:
        started = time.monotonic()
        idle_since: float | None = None
        while not self.stop.is_set() and not self._done(started):
            lease = await self._lease()
            if lease is not None:
                idle_since = None
                await self._handle(lease)
                self.handled += 1
                continue
            idle_since = idle_since or time.monotonic()
            if time.monotonic() - idle_since >= self._settings.linger_seconds:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), self._settings.poll_seconds)

    def _done(self, started: float) -> bool:
        return self.handled >= self._settings.max_jobs or time.monotonic() - started >= self._settings.max_seconds

    async def _lease(self) -> Lease | None:
        return await self._work.queue.lease(self.kind, worker=self._name, seconds=self._settings.lease_seconds)

    async def _handle(self, lease: Lease) -> None:
        began = time.monotonic()
        with bound(job_id=lease.job_id, kind=lease.kind, request_id=lease.request_id):
            try:
                outcome = await self._settle(lease)
            except LeaseLost:
                outcome = "lease_lost"
            except Unavailable as error:
                # Not even the outcome could be written: the lease runs out and somebody takes the job over.
                outcome = "unavailable"
                _log.warning("job_left_to_expire", dependency=error.dependency, detail=error.detail)
            seconds = time.monotonic() - began
            metrics.job_ended(lease.kind, outcome, seconds)
            _log.info("job", outcome=outcome, attempt=lease.attempts, seconds=round(seconds, 3))

    async def _settle(self, lease: Lease) -> str:
        """Runs the handler and writes what became of the job; returns the outcome in one word."""
        queue = self._work.queue
        try:
            await self._attend(lease)
        except NotYet as wait:
            await queue.release(lease, wait.after)
            return "waiting"
        except Refused as error:
            await queue.fail(lease, error.code, error.detail, retry=False)
            return error.code
        except Unavailable as error:
            await queue.fail(lease, "unavailable", f"{error.dependency}: {error.detail}", retry=True)
            return "unavailable"
        except Cancelled:
            await queue.cancelled(lease)
            return "cancelled"
        except LeaseLost:
            raise
        except asyncio.CancelledError:
            if not self.stop.is_set():
                raise
            await queue.release(lease)
            return "handed_back"
        except Exception:
            _log.exception("job_crashed")
            await queue.fail(lease, "internal", "The worker failed on this job; its log says why.", retry=True)
            return "crashed"
        return "completed"

    async def _attend(self, lease: Lease) -> None:
        """The handler, with its lease kept alive beside it; whichever ends first ends the other."""
        handling = asyncio.ensure_future(self._handler(lease, self._work))
        renewing = asyncio.ensure_future(self._renew(lease))
        stopping = asyncio.ensure_future(self.stop.wait())
        tasks = (handling, renewing, stopping)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not handling.done():
                handling.cancel()
                await asyncio.wait((handling,))
            if renewing.done() and handling.cancelled():
                renewing.result()  # raises what it found: Cancelled or LeaseLost
            handling.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _renew(self, lease: Lease) -> None:
        """Until cancelled; raises Cancelled or LeaseLost. A database that is away is asked until the lease is over."""
        held_until = time.monotonic() + self._settings.lease_seconds
        while True:
            await asyncio.sleep(self._settings.lease_seconds / 4)
            try:
                await self._work.queue.renew(lease, seconds=self._settings.lease_seconds)
                held_until = time.monotonic() + self._settings.lease_seconds
            except Unavailable as error:
                if time.monotonic() >= held_until:
                    raise LeaseLost(lease.job_id) from error


def stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
