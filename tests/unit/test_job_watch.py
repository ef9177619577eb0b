"""Watching jobs: after an error the next query continues."""

import asyncio
from collections.abc import Collection, Mapping
from typing import cast

import pytest
from structlog.testing import capture_logs

from media_api import job_events
from media_api.job_events import JobWatch
from media_core.errors import Unavailable
from media_core.jobs import Jobs, State

JOB = "job-1"


class Looks:
    """Jobs as the watch sees them: an error, or the job's state."""

    def __init__(self, *looks: State | Exception) -> None:
        self._looks = list(looks)

    async def states(self, job_ids: Collection[str]) -> Mapping[str, State]:
        look = self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]
        if isinstance(look, Exception):
            raise look
        return dict.fromkeys(job_ids, look)


@pytest.mark.parametrize("error", [Unavailable("database", "away"), RuntimeError("a bug"), TimeoutError()])
async def test_a_watcher_waits_on_whatever_one_look_ended_with(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_events, "POLL_SECONDS", 0)
    running = State("running", 0.5, 3)
    watch = JobWatch(cast("Jobs", Looks(error, error, running)))
    polling = asyncio.create_task(watch.poll())
    try:
        with capture_logs() as logged, watch.watched(JOB):
            async with asyncio.timeout(5):
                assert await watch.changed(JOB, None) == running
        assert not polling.done()
    finally:
        polling.cancel()
    assert [line["event"] for line in logged] == ["jobs_not_seen"] * 2
