"""The worker's drain loop, with handlers of all kinds."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from media_core.database import Database
from media_core.decoding.pool import DecodingPool
from media_core.errors import Refused, Unavailable, Unfinished
from media_core.items.library import Library
from media_core.jobs.queue import Lease, NotYet, Queue, cancel, enqueue
from media_core.policy import PolicyReader
from media_core.store.folder import FolderStore
from media_workers.drain import Drain, Handler, Work
from media_workers.settings import DrainSettings

QUICK = DrainSettings(lease_seconds=60, linger_seconds=0.05, poll_seconds=0.01)
"""No lease runs out on a busy machine."""


@pytest.fixture(autouse=True)
def often_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("media_workers.drain.RENEW_SECONDS", 0.1)


@pytest.fixture
def drain(
    database: Database, library: Library, folder_store: FolderStore, decoding_pool: DecodingPool
) -> Callable[..., Drain]:
    work = Work(database, Queue(database), library, folder_store, decoding_pool, PolicyReader(database))
    return lambda handler, settings=QUICK: Drain("transcribe", handler, work, settings)


async def put(database: Database, count: int = 1) -> list[str]:
    async with database.transaction() as tx:
        return [await enqueue(tx, "transcribe", {"sha256": "0" * 64}) for _ in range(count)]


async def job(database: Database, job_id: str) -> Any:
    async with database.transaction() as tx:
        return await tx.first("SELECT * FROM job WHERE job_id = %(id)s", {"id": job_id})


async def finish(lease: Lease, work: Work) -> None:
    await work.queue.finish(lease, {"done": True})


async def test_a_worker_drains_what_is_there_lingers_and_ends(
    database: Database, drain: Callable[[Handler], Drain]
) -> None:
    jobs = await put(database, 5)
    one = drain(finish)
    await one.run()
    assert one.handled == 5
    assert {(await job(database, job_id)).status for job_id in jobs} == {"completed"}


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Refused("duration_exceeds_limit", "too long"), "failed", "duration_exceeds_limit"),
        (Unfinished("decoder", "crashed"), "queued", "unavailable"),
        (RuntimeError("a bug"), "queued", "internal"),
    ],
)
async def test_what_a_handler_raises_decides_what_becomes_of_the_job(
    database: Database, drain: Callable[[Handler], Drain], error: Exception, status: str, code: str
) -> None:
    (job_id,) = await put(database)

    async def handler(lease: Lease, work: Work) -> None:
        raise error

    await drain(handler).run()
    ended = await job(database, job_id)
    assert (ended.status, ended.error_code, ended.attempts) == (status, code, 1)


async def test_an_outage_is_no_attempt_and_the_job_says_what_it_waits_for(
    database: Database, drain: Callable[[Handler], Drain]
) -> None:
    (job_id,) = await put(database)

    async def handler(lease: Lease, work: Work) -> None:
        raise Unavailable("object store", "it does not answer")

    await drain(handler).run()
    ended = await job(database, job_id)
    assert (ended.status, ended.error_code, ended.attempts) == ("queued", "waiting", 0)
    assert ended.error_detail == "object store: it does not answer"


async def test_a_bug_never_shows_its_message_to_a_client(database: Database, drain: Callable[[Handler], Drain]) -> None:
    (job_id,) = await put(database)

    async def handler(lease: Lease, work: Work) -> None:
        raise RuntimeError("password=hunter2")

    await drain(handler).run()
    assert "hunter2" not in (await job(database, job_id)).error_detail


async def test_a_job_that_must_wait_is_handed_back_without_an_attempt(
    database: Database, drain: Callable[[Handler], Drain]
) -> None:
    (job_id,) = await put(database)

    async def handler(lease: Lease, work: Work) -> None:
        raise NotYet(timedelta(minutes=1))

    await drain(handler).run()
    ended = await job(database, job_id)
    assert (ended.status, ended.attempts, ended.error_code) == ("queued", 0, "waiting")
    assert "verdict" in ended.error_detail


async def test_a_lease_is_renewed_while_its_handler_runs(database: Database, drain: Callable[..., Drain]) -> None:
    (job_id,) = await put(database)

    async def handler(lease: Lease, work: Work) -> None:
        async with work.database.transaction() as tx:
            await tx.execute("SELECT pg_sleep(4)")  # longer than the lease, by the database's clock
        assert await work.queue.lease("transcribe", worker="other", seconds=30) is None
        await finish(lease, work)

    await drain(handler, QUICK.model_copy(update={"lease_seconds": 3})).run()
    assert (await job(database, job_id)).status == "completed"


async def test_whoever_lost_its_lease_is_stopped_and_writes_nothing(
    database: Database, drain: Callable[[Handler], Drain]
) -> None:
    (job_id,) = await put(database)
    reached_the_end = False

    async def handler(lease: Lease, work: Work) -> None:
        nonlocal reached_the_end
        async with work.database.transaction() as tx:
            await tx.execute("UPDATE job SET lease_token = 'stolen', lease_until = now() + interval '1 hour'")
        await asyncio.Event().wait()
        reached_the_end = True

    await drain(handler).run()
    ended = await job(database, job_id)
    assert (ended.status, ended.lease_token, reached_the_end) == ("running", "stolen", False)


async def test_a_cancelled_job_stops_its_handler(database: Database, drain: Callable[[Handler], Drain]) -> None:
    (job_id,) = await put(database)

    async def handler(lease: Lease, work: Work) -> None:
        async with work.database.transaction() as tx:
            await cancel(tx, lease.job_id)
        await asyncio.Event().wait()

    await drain(handler).run()
    assert (await job(database, job_id)).status == "cancelled"


async def test_stopping_hands_the_job_back_at_once(database: Database, drain: Callable[[Handler], Drain]) -> None:
    (job_id,) = await put(database)

    async def handler(lease: Lease, work: Work) -> None:
        one.stop.set()
        await asyncio.Event().wait()

    one = drain(handler)
    await one.run()
    ended = await job(database, job_id)
    assert (ended.status, ended.attempts, ended.lease_token) == ("queued", 0, None)


# --- many jobs at once ----------------------------------------------------------------------------------------------


class WatchedQueue(Queue):
    """The real queue. It counts how often it was read."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, retry_base=timedelta(0))
        self.leasings: list[int] = []
        self.renewals: list[int] = []

    async def lease_many(self, kind: str, *, worker: str, seconds: float, most: int) -> list[Lease]:
        leases = await super().lease_many(kind, worker=worker, seconds=seconds, most=most)
        self.leasings.append(len(leases))
        return leases

    async def renew_all(self, leases: Sequence[Lease], *, seconds: float) -> dict[str, bool]:
        self.renewals.append(len(leases))
        return await super().renew_all(leases, seconds=seconds)


@pytest.fixture
def queue(database: Database) -> WatchedQueue:
    return WatchedQueue(database)


@pytest.fixture
def wide(
    database: Database, queue: WatchedQueue, library: Library, folder_store: FolderStore, decoding_pool: DecodingPool
) -> Callable[..., Drain]:
    """A drain with eight jobs at a time."""
    work = Work(database, queue, library, folder_store, decoding_pool, PolicyReader(database))
    return lambda handler, settings=QUICK: Drain("transcribe", handler, work, settings, at_once=8)


async def states(database: Database) -> Counter[str]:
    async with database.transaction() as tx:
        return Counter([row[0] for row in await tx.execute("SELECT status FROM job")])


async def test_many_jobs_are_leased_and_renewed_together(
    database: Database, queue: WatchedQueue, wide: Callable[[Handler], Drain]
) -> None:
    await put(database, 20)
    together = asyncio.Barrier(4)

    async def handler(lease: Lease, work: Work) -> None:
        await together.wait()
        async with work.database.transaction() as tx:
            await tx.execute("SELECT pg_sleep(0.2)")
        await finish(lease, work)

    await wide(handler).run()
    assert await states(database) == {"completed": 20}
    assert queue.leasings[0] == 8
    assert len([leased for leased in queue.leasings if leased]) <= 5  # never less than half of the eight
    assert max(queue.renewals) > 1


async def test_a_job_that_takes_long_keeps_none_that_comes_later_waiting(
    database: Database, queue: WatchedQueue, wide: Callable[..., Drain]
) -> None:
    """The queue is not polled without pause meanwhile either."""
    (slow,) = await put(database)
    begun, others_done = asyncio.Event(), asyncio.Event()

    async def handler(lease: Lease, work: Work) -> None:
        if lease.job_id == slow:
            begun.set()
            await others_done.wait()
        await finish(lease, work)

    one = wide(handler)
    running = asyncio.create_task(one.run())
    await begun.wait()
    later = set(await put(database, 20))
    async with asyncio.timeout(60):
        while await states(database) != {"completed": 20, "running": 1}:  # noqa: ASYNC110 (rows tell nobody)
            await asyncio.sleep(0.01)
    queue.leasings.clear()
    await asyncio.sleep(20 * QUICK.poll_seconds)  # by definition: how often the queue is asked
    assert len(queue.leasings) <= 21
    others_done.set()
    await running
    assert (await states(database), len(later)) == ({"completed": 21}, 20)


async def test_one_that_lost_its_lease_or_is_cancelled_is_stopped_and_the_others_go_on(
    database: Database, wide: Callable[[Handler], Drain]
) -> None:
    lost, cancelled, *_ = await put(database, 5)
    together = asyncio.Barrier(5)

    async def handler(lease: Lease, work: Work) -> None:
        await together.wait()
        async with work.database.transaction() as tx:
            if lease.job_id == lost:
                await tx.execute("UPDATE job SET lease_token = 'stolen' WHERE job_id = %(id)s", {"id": lost})
            if lease.job_id == cancelled:
                await cancel(tx, cancelled)
        if lease.job_id in (lost, cancelled):
            await asyncio.Event().wait()
        await finish(lease, work)

    one = wide(handler)
    running = asyncio.create_task(one.run())
    async with asyncio.timeout(60):
        while await states(database) != {"running": 1, "cancelled": 1, "completed": 3}:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert (await job(database, lost)).lease_token == "stolen"
    one.stop.set()
    await running


async def test_stopping_hands_back_all_jobs_at_once(database: Database, wide: Callable[[Handler], Drain]) -> None:
    await put(database, 20)
    together = asyncio.Barrier(8)

    async def handler(lease: Lease, work: Work) -> None:
        await together.wait()
        one.stop.set()
        await asyncio.Event().wait()

    one = wide(handler)
    before = asyncio.all_tasks()
    await one.run()
    async with database.transaction() as tx:
        rows = [tuple(row) for row in await tx.execute("SELECT status, attempts, lease_token FROM job")]
    assert rows == [("queued", 0, None)] * 20
    behind = {task.get_coro().__qualname__ for task in asyncio.all_tasks() - before}  # type: ignore[union-attr]
    assert behind <= {"Database._announce"}


async def test_while_a_dependency_is_away_the_worker_asks_ever_less_often(
    database: Database, queue: WatchedQueue, wide: Callable[[Handler], Drain], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That holds however many jobs there are, and however soon they are due. Once it is back, no job waits any more."""
    await put(database, 200)
    away, tries, pauses = True, 0, list[float]()

    async def handler(lease: Lease, work: Work) -> None:
        nonlocal tries
        tries += 1
        if away:
            raise Unavailable("clamd", "away")
        await finish(lease, work)

    one = wide(handler)

    async def paused(seconds: float) -> None:
        nonlocal away
        pauses.append(seconds)
        away = len(pauses) < 8

    monkeypatch.setattr(one, "_stopped_within", paused)
    await one.run()
    assert await states(database) == {"completed": 200}
    assert pauses[:8] == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0]
    assert tries <= 200 + 8 * 8


async def test_a_bug_in_one_job_ends_no_other(database: Database, wide: Callable[[Handler], Drain]) -> None:
    broken, *_ = await put(database, 10)

    async def handler(lease: Lease, work: Work) -> None:
        if lease.job_id == broken:
            raise RuntimeError("a bug")
        await finish(lease, work)

    await wide(handler).run()
    assert await states(database) == {"completed": 9, "failed": 1}
