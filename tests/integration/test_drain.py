"""The worker's drain loop, whatever its handlers do."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from media_core.database import Database
from media_core.decoding import DecodingPool
from media_core.errors import Refused, Unavailable
from media_core.library import Library
from media_core.policy import PolicyReader
from media_core.queue import Lease, NotYet, Queue, cancel, enqueue
from media_core.store.folder import FolderStore
from media_workers.drain import Drain, Handler, Work
from media_workers.settings import DrainSettings

QUICK = DrainSettings(lease_seconds=0.4, linger_seconds=0.05, poll_seconds=0.01)


@pytest.fixture
def drain(
    database: Database, library: Library, folder_store: FolderStore, decoding_pool: DecodingPool
) -> Callable[[Handler], Drain]:
    work = Work(database, Queue(database), library, folder_store, decoding_pool, PolicyReader(database))
    return lambda handler: Drain("transcribe", handler, work, QUICK)


async def put(database: Database, count: int = 1) -> list[str]:
    async with database.transaction() as tx:
        return [await enqueue(tx, "transcribe", {"sha256": "0" * 64}) for _ in range(count)]


async def job(database: Database, job_id: str) -> Any:
    async with database.transaction() as tx:
        return (await tx.execute(text("SELECT * FROM job WHERE job_id = :id"), {"id": job_id})).one()


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
        (Unavailable("clamd", "away"), "queued", "unavailable"),
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
    assert (ended.status, ended.attempts) == ("queued", 0)


async def test_a_lease_is_renewed_while_its_handler_runs(database: Database, drain: Callable[[Handler], Drain]) -> None:
    (job_id,) = await put(database)

    async def handler(lease: Lease, work: Work) -> None:
        async with work.database.transaction() as tx:
            await tx.execute(text("SELECT pg_sleep(1)"))  # longer than the lease, by the database's clock
        assert await work.queue.lease("transcribe", worker="other", seconds=30) is None
        await finish(lease, work)

    await drain(handler).run()
    assert (await job(database, job_id)).status == "completed"


async def test_whoever_lost_its_lease_is_stopped_and_writes_nothing(
    database: Database, drain: Callable[[Handler], Drain]
) -> None:
    (job_id,) = await put(database)
    reached_the_end = False

    async def handler(lease: Lease, work: Work) -> None:
        nonlocal reached_the_end
        async with work.database.transaction() as tx:
            await tx.execute(text("UPDATE job SET lease_token = 'stolen', lease_until = now() + interval '1 hour'"))
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
