"""The drain loop of one worker: lease, handle, repeat; linger a little for more, then exit.

    python -m media_workers scan|transcribe|thumbnail|sweep|rescan

A worker leases as many jobs as its handler works on at the same time. It renews all its leases together, in the
background. A handler whose lease is lost is stopped at once and writes nothing; the lease's token fences its results
anyway. SIGTERM hands the jobs back. An outage of a dependency hands a job back too, and never counts as an attempt.
After each round that an outage ended, the worker waits longer before it takes more, at most `AWAY_SECONDS`.
"""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, ParamSpec

import structlog

from media_core.database import Database
from media_core.decoding.pool import DecodingPool
from media_core.errors import Lost, Refused, Unavailable, Unfinished
from media_core.items.library import Library
from media_core.jobs.queue import Cancelled, Lease, LeaseLost, NotYet, Queue
from media_core.logs import bound
from media_core.policy import PolicyReader
from media_core.store import ObjectStore
from media_workers import metrics
from media_workers.settings import DrainSettings

AWAY_SECONDS: Final = 5.0
"""Longest wait between two tries while a dependency is away."""
RENEW_SECONDS: Final = 2.0
"""Longest time between two renewals of the leases. So soon a worker learns that a job was cancelled."""
_FIRST_PAUSE: Final = 0.25

_P = ParamSpec("_P")

_log = structlog.stdlib.get_logger("media.worker")


@dataclass
class Work:
    """What handlers work with; one for the whole drain."""

    database: Database
    queue: Queue
    library: Library
    store: ObjectStore
    decoder: DecodingPool
    policy: PolicyReader


Handler = Callable[[Lease, Work], Awaitable[None]]
"""Does the job and completes it, fenced by the lease. It may raise:

`NotYet`: the job is handed back for a while. `Refused`: it fails for good. `Unavailable`: a dependency is away; the job
is handed back, however often. `Unfinished`, also `Lost`: it is retried while attempts are left. `Cancelled`,
`LeaseLost`. All else is a bug: it is logged with its traceback, and the job is retried while attempts are left.
"""


class Drain:
    """Handles jobs of one kind until there are no more, the limits are reached, or `stop` is set.

    `at_once`: how many jobs are handled at the same time.
    """

    def __init__(self, kind: str, handler: Handler, work: Work, settings: DrainSettings, *, at_once: int = 1) -> None:
        self.kind = kind
        self.handled = 0
        self.stop = asyncio.Event()
        self._handler = handler
        self._work = work
        self._settings = settings
        self._at_once = at_once
        self._name = f"{socket.gethostname()}/{os.getpid()}"
        self._held: dict[str, _Held] = {}
        self._enough_ended = asyncio.Event()
        self._enough = 0
        """`_enough_ended` is set once no more jobs than this are under way."""
        self._away = False
        """Whether the job that ended last was handed back because a dependency is away."""
        self._pause = 0.0
        self._queue_seen = float("-inf")

    async def run(self) -> None:
        """Raises Unavailable when the queue's database stays away and no job is under way."""
        beside = (asyncio.create_task(self._renew()), asyncio.create_task(self._stop_all()))
        away: Unavailable | None = None
        try:
            try:
                await self._drain()
            except Unavailable as error:
                away = error
            if self._held:
                await asyncio.wait([held.task for held in self._held.values()])
        finally:
            left = [*beside, *(held.task for held in self._held.values())]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        if away is not None:
            raise away

    async def _drain(self) -> None:
        started = time.monotonic()
        idle_since: float | None = None
        while not self.stop.is_set():
            if self._away:
                self._away = False
                self._pause = min(max(2 * self._pause, _FIRST_PAUSE), AWAY_SECONDS)
                await self._stopped_within(self._pause)
                continue
            room = self._room(started)
            leases = await self._lease(room) if room else []
            for lease in leases:
                self._begin(lease)
            if self._held:
                idle_since = None
                await self._some_end(may_be_more=len(leases) == room)
                continue
            idle_since = idle_since or time.monotonic()
            if not room or time.monotonic() - idle_since >= self._settings.linger_seconds:
                return
            await self._stopped_within(self._settings.poll_seconds)

    def _room(self, started: float) -> int:
        """How many more jobs may be taken now."""
        if time.monotonic() - started >= self._settings.max_seconds:
            return 0
        return min(self._at_once - len(self._held), self._settings.max_jobs - self.handled)

    async def _lease(self, most: int) -> list[Lease]:
        """Up to `most` jobs; none during a short outage of the queue's database.

        Raises Unavailable when that is away for long, or was never reached.
        """
        try:
            leases = await self._work.queue.lease_many(
                self.kind, worker=self._name, seconds=self._settings.lease_seconds, most=most
            )
        except Unavailable:
            if not self._held and time.monotonic() - self._queue_seen >= self._settings.linger_seconds:
                raise
            self._away = True
            return []
        self._queue_seen = time.monotonic()
        self.handled += len(leases)
        return leases

    async def _stopped_within(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stop.wait(), seconds)

    async def _some_end(self, *, may_be_more: bool) -> None:
        """Waits until the queue should be read again.

        `may_be_more`: once half of the slots are free, so that one statement leases many. Otherwise: once all jobs
        have ended, or after `poll_seconds`.
        """
        self._enough = min(self._at_once // 2, len(self._held) - 1) if may_be_more else 0
        self._enough_ended.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._enough_ended.wait(), None if may_be_more else self._settings.poll_seconds)

    # --- one job ------------------------------------------------------------------------------------------------

    def _begin(self, lease: Lease) -> None:
        held = _Held(lease)
        self._held[lease.job_id] = held
        held.task = asyncio.create_task(self._handle(held))
        held.task.add_done_callback(lambda _: self._ended(held))

    def _ended(self, held: "_Held") -> None:
        del self._held[held.lease.job_id]
        if len(self._held) <= self._enough:
            self._enough_ended.set()

    async def _handle(self, held: "_Held") -> None:
        began, lease = time.monotonic(), held.lease
        with bound(job_id=lease.job_id, kind=lease.kind, request_id=lease.request_id):
            try:
                outcome = await self._settle(held)
            except LeaseLost:
                outcome = "lease_lost"
            except Unavailable as error:
                # Not even the outcome could be written: the lease runs out, and another worker takes the job over.
                outcome = "unavailable"
                _log.warning("job_left_to_expire", dependency=error.dependency, detail=error.detail)
            except Exception:
                outcome = "crashed"
                _log.exception("job_left_to_expire")
            if outcome == "postponed":
                self._away = True
            else:
                self._away, self._pause = False, 0.0
            seconds = time.monotonic() - began
            metrics.job_ended(lease.kind, outcome, seconds)
            _log.info("job", outcome=outcome, attempt=lease.attempts, seconds=round(seconds, 3))

    async def _settle(self, held: "_Held") -> str:
        """Runs the handler and writes the job's outcome, which it returns in one word."""
        lease, queue = held.lease, self._work.queue
        if self.stop.is_set():
            await queue.release(lease)
            return "handed_back"
        try:
            await held.attend(self._handler(lease, self._work))
        except _Stopped:
            await self._patiently(queue.release, lease)
            return "handed_back"
        except NotYet as wait:
            await self._patiently(queue.release, lease, wait.after, waits_for=wait.waits_for)
            return "waiting"
        except Refused as error:
            await self._patiently(queue.fail, lease, error.code, error.detail, retry=False)
            return error.code
        except Lost as error:
            await self._patiently(queue.fail, lease, error.code, error.detail, retry=True)
            return error.code
        except Unfinished as error:
            detail = f"{error.dependency}: {error.detail}"
            await self._patiently(queue.fail, lease, "unavailable", detail, retry=True)
            return "unfinished"
        except Unavailable as error:
            await self._patiently(queue.postpone, lease, error.dependency, error.detail)
            return "postponed"
        except Cancelled:
            await self._patiently(queue.cancelled, lease)
            return "cancelled"
        except LeaseLost:
            raise
        except Exception:
            _log.exception("job_crashed")
            detail = "The worker failed on this job; its log says why."
            await self._patiently(queue.fail, lease, "internal", detail, retry=True)
            return "crashed"
        return "completed"

    async def _patiently(self, write: Callable[_P, Awaitable[None]], *arguments: _P.args, **options: _P.kwargs) -> None:
        """Writes a job's outcome. Waits while the database is away, so that its outage uses no attempt up.

        The lease is renewed meanwhile, and the write is fenced. Raises Unavailable once the worker is told to end.
        """
        wait = _FIRST_PAUSE
        while True:
            try:
                return await write(*arguments, **options)
            except Unavailable:
                if self.stop.is_set():
                    raise
            await self._stopped_within(wait)
            wait = min(wait * 2, AWAY_SECONDS)

    # --- beside them --------------------------------------------------------------------------------------------

    async def _renew(self) -> None:
        """Renews all leases until it is cancelled. It goes on while the database is away: nobody else can lease the
        jobs then, and the tokens are still valid afterwards."""
        while True:
            await asyncio.sleep(min(self._settings.lease_seconds / 4, RENEW_SECONDS))
            all_held = list(self._held.values())
            try:
                wanted = await self._work.queue.renew_all(
                    [held.lease for held in all_held], seconds=self._settings.lease_seconds
                )
            except Unavailable:
                continue
            except Exception:
                _log.exception("leases_not_renewed")
                continue
            for held in all_held:
                if held.lease.job_id not in wanted:
                    held.interrupt(LeaseLost(held.lease.job_id))
                elif not wanted[held.lease.job_id]:
                    held.interrupt(Cancelled(held.lease.job_id))

    async def _stop_all(self) -> None:
        await self.stop.wait()
        for held in self._held.values():
            held.interrupt(_Stopped())


class _Stopped(Exception):
    """The worker was told to end."""


class _Held:
    """A job under way: its lease, its task, and the reason if its handler was interrupted."""

    task: asyncio.Task[None]

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self._is_handled = False
        self._interruption: Exception | None = None

    async def attend(self, handling: Awaitable[None]) -> None:
        """Awaits the handler. Raises the reason if it was interrupted."""
        self._is_handled = True
        try:
            await handling
        except asyncio.CancelledError:
            if self._interruption is None:
                raise
            raise self._interruption from None
        finally:
            self._is_handled = False
            if self._interruption is not None:
                self.task.uncancel()

    def interrupt(self, reason: Exception) -> None:
        """Stops the handler, but not the writing of the outcome after it."""
        if self._is_handled and self._interruption is None:
            self._interruption = reason
            self.task.cancel()


def stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
