"""Watching jobs to their end: one query at a time for all watched jobs, however many clients watch.

A watcher is woken when its job's state differs from the one that it has seen; it then reads the news itself.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import structlog

from media_core.auth.tokens import Claims
from media_core.errors import Unavailable
from media_core.transcripts.requests import Job, Jobs, State

POLL_SECONDS: Final = 0.5

_log = structlog.stdlib.get_logger("media.api")


class JobWatch:
    """Run `poll` as a task, iterate `follow` for each client, and call `stop` before the process ends."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._watched: Counter[str] = Counter()
        self._states: Mapping[str, State | None] = {}
        self._somebody = asyncio.Event()
        self._looked = asyncio.Event()
        self.stopped = False

    @contextmanager
    def watched(self, job_id: str) -> Iterator[None]:
        self._watched[job_id] += 1
        self._somebody.set()
        try:
            yield
        finally:
            self._watched[job_id] -= 1
            if not self._watched[job_id]:
                del self._watched[job_id]
            if not self._watched:
                self._somebody.clear()

    async def follow(self, caller: Claims, job: Job, *, idle_seconds: float | None = None) -> AsyncGenerator[Job]:
        """Yields the job as it is, and again after each change, until it has ended. The end is yielded, too.

        The same object again: nothing has changed for `idle_seconds`. Stops early when the process ends. Raises Refused
        `not_found` if the job is deleted meanwhile, and Unavailable. Close it (`aclosing`) if you leave before its end.
        """
        seen: State | None = None
        with self.watched(job.job_id):
            yield job
            while not job.ended:
                try:
                    async with asyncio.timeout(idle_seconds):
                        seen = await self.changed(job.job_id, seen)
                except TimeoutError:
                    yield job
                    continue
                if self.stopped:
                    return
                job = await self._jobs.find(caller, job.job_id)
                yield job

    async def changed(self, job_id: str, seen: State | None) -> State | None:
        """Waits until the job's state differs from `seen`. None: the job does not exist, or the watch has stopped."""
        while not self.stopped:
            await self._looked.wait()
            # A job that is watched only since the query began waits for the next one.
            if job_id in self._states and (self._states[job_id] is None or self._states[job_id] != seen):
                return self._states[job_id]
        return None

    async def poll(self) -> None:
        """Runs until it is cancelled. After an error the watchers wait for the next query.

        It catches every error: nobody awaits this task, so an error would end all streams unnoticed.
        """
        while True:
            await self._somebody.wait()
            job_ids = set(self._watched)
            try:
                found = await self._jobs.states(job_ids)
            except Unavailable as error:
                _log.warning("jobs_not_seen", dependency=error.dependency)
            except Exception:
                _log.exception("jobs_not_seen")
            else:
                self._states = {job_id: found.get(job_id) for job_id in job_ids}
                self._looked.set()
                self._looked = asyncio.Event()
            await asyncio.sleep(POLL_SECONDS)

    def stop(self) -> None:
        self.stopped = True
        self._looked.set()
