"""Watching jobs: each change is told once, and after an error the next query continues."""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import cast

import pytest
from structlog.testing import capture_logs

from media_api.background import job_watch
from media_api.background.job_watch import JobWatch
from media_core.auth.tokens import Claims
from media_core.errors import Unavailable
from media_core.transcripts.requests import Job, Jobs, State

JOB = "job-1"
NOW = datetime(2026, 5, 17, tzinfo=UTC)
QUEUED = Job(JOB, "transcribe", "queued", 0.0, "ann", None, NOW, None, None, None, None, None, False, 1)
ANN = Claims("ann", frozenset(), frozenset(), NOW)


class Looks:
    """Jobs as the watch sees them: an error, or the job's state."""

    def __init__(self, *looks: State | Exception) -> None:
        self._looks = list(looks)

    async def states(self, job_ids: Collection[str]) -> Mapping[str, State]:
        look = self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]
        if isinstance(look, Exception):
            raise look
        return dict.fromkeys(job_ids, look)

    async def find(self, caller: Claims, job_id: str) -> Job:
        look = self._looks[0]
        assert isinstance(look, State)
        return replace(QUEUED, status=look.status, progress=look.progress)


@pytest.mark.parametrize("error", [Unavailable("database", "away"), RuntimeError("a bug"), TimeoutError()])
async def test_a_watcher_waits_on_whatever_one_look_ended_with(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_watch, "POLL_SECONDS", 0)
    running = State("running", 0.5, 3)
    watch = JobWatch(cast("Jobs", Looks(error, error, running)))
    polling = asyncio.create_task(watch.poll())
    try:
        with capture_logs() as logged, watch.watched(JOB):
            async with asyncio.timeout(60):
                assert await watch.changed(JOB, None) == running
        assert not polling.done()
    finally:
        polling.cancel()
    assert [line["event"] for line in logged] == ["jobs_not_seen"] * 2


async def test_a_job_is_followed_to_its_end_and_a_silent_one_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_watch, "POLL_SECONDS", 0)
    watch = JobWatch(cast("Jobs", Looks(State("completed", 1.0, 3))))
    told = []
    polling: asyncio.Task[None] | None = None
    async with asyncio.timeout(60):
        async for job in watch.follow(ANN, QUEUED, idle_seconds=0.01):
            told.append(job.status)
            if len(told) == 3:  # nothing was looked at until now
                assert job is QUEUED
                polling = asyncio.create_task(watch.poll())
    assert polling is not None
    polling.cancel()
    assert set(told[:-1]) == {"queued"}
    assert told[-1] == "completed"


async def test_following_ends_with_the_process() -> None:
    watch = JobWatch(cast("Jobs", Looks(State("running", 0.5, 3))))
    watch.stop()
    assert [job async for job in watch.follow(ANN, QUEUED)] == [QUEUED]
