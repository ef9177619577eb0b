import asyncio
from collections.abc import Mapping

import pytest

from media_core.errors import Unavailable
from media_core.queue import Depth
from media_operator.dispatch import BATCH, Dispatcher, workers_to_start


def start(ready: int = 0, leased: int = 0, running: int | None = 0, batch: int = 20, limit: int = 4) -> int:
    return workers_to_start(Depth(ready=ready, leased=leased), running, batch=batch, limit=limit)


def test_one_job_is_worth_one_worker() -> None:
    assert start(ready=1) == 1


@pytest.mark.parametrize(("ready", "workers"), [(20, 1), (21, 2), (40, 2), (41, 3), (1_000_000, 4)])
def test_a_batch_is_worth_one_worker_up_to_the_limit(ready: int, workers: int) -> None:
    assert start(ready=ready) == workers


def test_what_already_runs_is_not_started_again() -> None:
    assert start(ready=21, running=2) == 0
    assert start(ready=21, running=1) == 1


def test_more_running_than_wanted_starts_none() -> None:
    assert start(ready=1, running=9, limit=4) == 0


def test_an_empty_queue_starts_none_whatever_is_leased() -> None:
    assert start(ready=0, leased=3, running=3) == 0
    assert start(ready=0, leased=3, running=0) == 0


def test_a_long_recording_does_not_keep_the_next_one_waiting() -> None:
    assert start(ready=1, leased=1, running=1, batch=1, limit=2) == 1


def test_leases_of_workers_that_are_gone_call_for_nobody() -> None:
    assert start(ready=1, leased=5, running=0, batch=1, limit=4) == 1


def test_an_unknown_count_starts_none() -> None:
    assert start(ready=100, running=None) == 0


def test_a_limit_of_zero_starts_none() -> None:
    assert start(ready=100, limit=0) == 0


class Launcher:
    """Counts; real ones are exercised by the integration tests."""

    def __init__(self, running: int | None = 0, room: int = 100) -> None:
        self.count = running
        self.room = room
        self.launched: list[str] = []

    async def running(self, kind: str) -> int | None:
        return None if self.count is None else self.count + self.launched.count(kind)

    async def launch(self, kind: str) -> bool:
        await asyncio.sleep(0)
        if len(self.launched) >= self.room:
            return False
        self.launched.append(kind)
        return True


def dispatcher(launcher: Launcher, limits: Mapping[str, int] | None = None, **ready: int) -> Dispatcher:
    async def depths() -> Mapping[str, Depth]:
        await asyncio.sleep(0)
        return {kind: Depth(ready=ready.get(kind, 0)) for kind in BATCH}

    allowed = {"scan": 4, "transcribe": 2, "thumbnail": 2} if limits is None else limits
    return Dispatcher("acme", depths, lambda: allowed, launcher)


async def test_each_kind_gets_its_own_workers() -> None:
    launcher = Launcher()
    assert await dispatcher(launcher, scan=30, transcribe=1).dispatch() == {"scan": 2, "transcribe": 1}
    assert sorted(launcher.launched) == ["scan", "scan", "transcribe"]


async def test_two_looks_at_once_start_no_worker_twice() -> None:
    launcher = Launcher()
    looking = dispatcher(launcher, scan=1)
    await asyncio.gather(looking.dispatch(), looking.dispatch(), looking.dispatch())
    assert launcher.launched == ["scan"]


async def test_an_unreadable_queue_starts_nothing() -> None:
    async def depths() -> Mapping[str, Depth]:
        raise Unavailable("database", "PostgreSQL does not answer")

    launcher = Launcher()
    assert await Dispatcher("acme", depths, lambda: {"scan": 4}, launcher).dispatch() == {}
    assert launcher.launched == []


async def test_a_launcher_that_cannot_count_starts_nothing() -> None:
    launcher = Launcher(running=None)
    assert await dispatcher(launcher, scan=30).dispatch() == {}


async def test_a_launcher_without_room_is_asked_once_per_look() -> None:
    launcher = Launcher(room=1)
    assert await dispatcher(launcher, scan=80).dispatch() == {"scan": 1}


async def test_a_suspended_tenant_gets_no_workers() -> None:
    launcher = Launcher()
    assert await dispatcher(launcher, limits=dict.fromkeys(BATCH, 0), scan=30, transcribe=3).dispatch() == {}


async def test_a_wake_up_is_answered_without_waiting_for_the_next_poll() -> None:
    looked = asyncio.Queue[None]()

    async def depths() -> Mapping[str, Depth]:
        looked.put_nowait(None)
        return {}

    looking = Dispatcher("acme", depths, dict, Launcher())
    task = asyncio.create_task(looking.run())
    try:
        async with asyncio.timeout(1):  # less than POLL_SECONDS
            await looked.get()
            looking.wake()
            await looked.get()
    finally:
        task.cancel()
