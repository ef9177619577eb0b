"""The queue's rules, on a real PostgreSQL."""

import asyncio
import sys
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from media_core.database import CHANNEL, Database
from media_core.jobs.depth import Depth
from media_core.jobs.kinds import JOB_KINDS
from media_core.jobs.queue import (
    POSTPONED_SECONDS,
    Cancelled,
    Lease,
    LeaseLost,
    Queue,
    cancel,
    enqueue,
)
from tests.integration.tenancy import TenantDatabase


@pytest.fixture
def queue(database: Database) -> Queue:
    return Queue(database, retry_base=timedelta(milliseconds=1))


async def put(database: Database, kind: str = "transcribe", **options: Any) -> str:
    async with database.transaction() as tx:
        return await enqueue(tx, kind, {"sha256": options.pop("sha256", "0" * 64)}, **options)


async def row(database: Database, job_id: str) -> Any:
    async with database.transaction() as tx:
        return await tx.first("SELECT * FROM job WHERE job_id = %(id)s", {"id": job_id})


async def take(queue: Queue, kind: str = "transcribe", seconds: float = 30) -> Lease:
    lease = await queue.lease(kind, worker="test", seconds=seconds)
    assert lease is not None
    return lease


async def delayed(database: Database, job_id: str, act: Awaitable[None]) -> tuple[float, float]:
    """Seconds for which a job is handed back by `act`, from before it and from after it; the job is due afterwards."""
    ((before,),) = await database.call("SELECT now()", ())
    await act
    async with database.transaction() as tx:
        delays = await tx.first(
            "SELECT extract(epoch FROM run_after - %(before)s)::float AS most,"
            " extract(epoch FROM run_after - now())::float AS least FROM job WHERE job_id = %(id)s",
            {"id": job_id, "before": before},
        )
        await tx.execute("UPDATE job SET run_after = now()")
    return delays.most, delays.least


async def expire(database: Database, job_id: str) -> None:
    async with database.transaction() as tx:
        await tx.execute(
            "UPDATE job SET lease_until = now() - interval '1 second' WHERE job_id = %(id)s", {"id": job_id}
        )


async def test_jobs_are_leased_by_priority_then_age(database: Database, queue: Queue) -> None:
    first = await put(database)
    second = await put(database)
    urgent = await put(database, priority=1)
    assert [(await take(queue)).job_id for _ in range(3)] == [urgent, first, second]
    assert await queue.lease("transcribe", worker="test", seconds=30) is None


async def test_a_suspended_tenants_jobs_wait_and_so_do_those_of_what_is_switched_off(
    database: Database, queue: Queue, tenant_database: TenantDatabase
) -> None:
    for kind in ("scan", "transcribe", "thumbnail"):
        await put(database, kind)

    async def leased(**policy: bool) -> set[str]:
        changes = ", ".join(f"{name} = {value}" for name, value in policy.items())
        async with tenant_database.as_owner() as tx:
            await tx.execute(f"UPDATE policy SET {changes}")  # noqa: S608
        taken = {
            kind: await queue.lease(kind, worker="test", seconds=30) for kind in ("scan", "transcribe", "thumbnail")
        }
        for lease in taken.values():
            if lease is not None:
                await queue.release(lease)
        return {kind for kind, lease in taken.items() if lease is not None}

    on = {"suspended": False, "scan_enabled": True, "transcription_enabled": True}
    assert await leased(**{**on, "suspended": True}) == set()
    assert await leased(**{**on, "scan_enabled": False}) == {"transcribe", "thumbnail"}
    assert await leased(**{**on, "transcription_enabled": False}) == {"scan", "thumbnail"}
    assert await leased(**on) == {"scan", "transcribe", "thumbnail"}


async def test_a_job_queued_in_a_rolled_back_transaction_never_was(database: Database, queue: Queue) -> None:
    with pytest.raises(ZeroDivisionError):
        async with database.transaction() as tx:
            await enqueue(tx, "scan", {"sha256": "1" * 64})
            raise ZeroDivisionError
    assert await queue.lease("scan", worker="test", seconds=30) is None


async def test_while_a_job_is_open_its_twin_is_not_queued(database: Database, queue: Queue) -> None:
    job_id = await put(database, "scan", dedupe_key="same")
    assert await put(database, "scan", dedupe_key="same") == job_id
    lease = await take(queue, "scan")
    assert await put(database, "scan", dedupe_key="same") == job_id
    await queue.finish(lease, {})
    assert await put(database, "scan", dedupe_key="same") != job_id


async def test_many_workers_never_lease_one_job_twice(database: Database, queue: Queue) -> None:
    jobs = {await put(database) for _ in range(40)}
    taken: list[str] = []

    async def worker(name: str) -> None:
        while lease := await queue.lease("transcribe", worker=name, seconds=30):
            taken.append(lease.job_id)

    await asyncio.gather(*(worker(f"w{n}") for n in range(8)))
    assert sorted(taken) == sorted(jobs)


async def test_an_expired_lease_is_taken_over_and_its_first_holder_can_write_nothing(
    database: Database, queue: Queue
) -> None:
    job_id = await put(database)
    dead = await take(queue)
    await expire(database, job_id)
    alive = await take(queue)
    assert (alive.job_id, alive.attempts) == (job_id, 2)
    for stale in (
        queue.renew(dead, seconds=30),
        queue.append_segments(dead, [{"number": 0, "start": 0, "end": 1, "text": "stale"}]),
        queue.finish(dead, {"transcript": "stale"}),
        queue.fail(dead, "stale", "stale", retry=False),
        queue.cancelled(dead),
        queue.release(dead),
        queue.postpone(dead, "clamd", "away"),
    ):
        with pytest.raises(LeaseLost):
            await stale
    await queue.finish(alive, {"transcript": "fresh"})
    assert (await row(database, job_id)).result == {"transcript": "fresh"}
    assert await queue.segments(job_id) == []


async def test_a_renewed_lease_is_not_taken_over(database: Database, queue: Queue) -> None:
    await put(database)
    lease = await take(queue, seconds=0.2)
    await queue.renew(lease, seconds=30, progress=0.5)
    async with database.transaction() as tx:
        await tx.execute("SELECT pg_sleep(0.3)")  # past the first deadline, by the database's own clock
    assert await queue.lease("transcribe", worker="other", seconds=30) is None
    assert (await row(database, lease.job_id)).progress == 0.5


async def test_a_failed_job_is_retried_after_a_growing_jittered_delay_then_fails_with_the_reason(
    database: Database,
) -> None:
    queue = Queue(database, retry_base=timedelta(seconds=100))
    job_id = await put(database)
    delays = []
    for attempt in range(1, JOB_KINDS["transcribe"].max_attempts + 1):
        lease = await take(queue)
        assert lease.attempts == attempt
        delays.append(
            await delayed(database, job_id, queue.fail(lease, "unavailable", "object store: away", retry=True))
        )
    for attempt, (most, least) in enumerate(delays[:-1]):
        assert 50 * 2**attempt <= most
        assert least <= 150 * 2**attempt
    ended = await row(database, job_id)
    assert (ended.status, ended.error_code, ended.error_detail) == ("failed", "unavailable", "object store: away")
    assert ended.finished_at is not None


async def test_a_job_that_kills_its_worker_every_time_ends_as_failed_not_in_a_loop(
    database: Database, queue: Queue
) -> None:
    job_id = await put(database)
    for _ in range(JOB_KINDS["transcribe"].max_attempts):
        await take(queue)
        await expire(database, job_id)
    assert await queue.lease("transcribe", worker="test", seconds=30) is None
    ended = await row(database, job_id)
    assert (ended.status, ended.error_code) == ("failed", "worker_lost")


async def test_a_released_job_is_ready_again_and_the_attempt_was_free(database: Database, queue: Queue) -> None:
    await put(database)
    await queue.release(await take(queue))
    again = await take(queue)
    assert again.attempts == 1
    await queue.release(again, timedelta(minutes=5))
    assert await queue.lease("transcribe", worker="test", seconds=30) is None
    assert (await queue.depth())["transcribe"].waiting == 1


async def test_cancelling_stops_a_queued_job_at_once_and_a_running_one_at_its_next_renewal(
    database: Database, queue: Queue
) -> None:
    queued, running = await put(database, priority=-1), await put(database)
    lease = await take(queue)
    async with database.transaction() as tx:
        await cancel(tx, queued)
        await cancel(tx, running)
    assert (await row(database, queued)).status == "cancelled"
    assert (await row(database, running)).status == "running"
    with pytest.raises(Cancelled):
        await queue.renew(lease, seconds=30)
    await queue.cancelled(lease)
    assert (await row(database, running)).status == "cancelled"


async def test_a_cancelled_job_whose_worker_died_ends_as_cancelled(database: Database, queue: Queue) -> None:
    job_id = await put(database)
    await take(queue)
    async with database.transaction() as tx:
        await cancel(tx, job_id)
    await expire(database, job_id)
    assert await queue.lease("transcribe", worker="test", seconds=30) is None
    assert (await row(database, job_id)).status == "cancelled"


async def test_segments_are_stored_once_and_read_in_order(database: Database, queue: Queue) -> None:
    job_id = await put(database)
    lease = await take(queue)
    first = {"number": 0, "start": 0.0, "end": 1.5, "text": "hello", "words": None}
    second = {"number": 1, "start": 1.5, "end": 2.0, "text": "world", "words": [{"word": "world", "start": 1.5}]}
    await queue.append_segments(lease, [second, first])
    await queue.append_segments(lease, [{**first, "text": "again"}])
    assert await queue.segments(job_id) == [first, second]
    assert await queue.segments(job_id, after=0) == [second]


async def test_depth_tells_ready_leased_and_waiting_apart(database: Database, queue: Queue) -> None:
    for _ in range(4):
        await put(database)
    await take(queue)
    await queue.release(await take(queue), timedelta(hours=1))
    stalled = await take(queue)
    await expire(database, stalled.job_id)
    depth = (await queue.depth())["transcribe"]
    assert (depth.ready, depth.leased, depth.waiting) == (2, 1, 1)
    assert (await queue.depth())["scan"].ready == 0


async def test_depth_counts_what_failed_within_the_last_hour_and_nothing_else_that_ended(
    database: Database, queue: Queue
) -> None:
    for _ in range(5):
        await put(database)
    long_ago = await take(queue)
    await queue.fail(long_ago, "corrupt", "no sound in it", retry=False)
    async with database.transaction() as tx:
        await tx.execute("UPDATE job SET finished_at = now() - interval '61 minutes' WHERE status = 'failed'")
    await queue.finish(await take(queue), {})
    await queue.fail(await take(queue), "corrupt", "no sound in it", retry=False)
    await queue.fail(await take(queue), "unavailable", "object store: away", retry=True)
    await take(queue)
    depth = (await queue.depth())["transcribe"]
    assert (depth.failed, depth.leased, depth.ready + depth.waiting) == (1, 1, 1)
    assert (await queue.depth())["scan"].failed == 0


async def test_a_queue_in_which_jobs_only_failed_has_no_work(database: Database, queue: Queue) -> None:
    await put(database)
    await queue.fail(await take(queue), "corrupt", "no sound in it", retry=False)
    assert (await queue.depth())["transcribe"] == Depth(failed=1)


async def test_whoever_listens_hears_of_new_work_when_it_is_committed(
    database: Database, tenant_database: TenantDatabase
) -> None:
    plain = tenant_database.url.replace("postgresql+psycopg", "postgresql")
    async with await psycopg.AsyncConnection.connect(plain, autocommit=True) as listener:
        await listener.execute(f"LISTEN {CHANNEL}")
        await put(database)
        heard = [note.payload async for note in listener.notifies(timeout=10, stop_after=1)]
    assert heard == [tenant_database.schema]


VICTIM = """
import asyncio, sys
from media_core.database import CHANNEL, Database
from media_core.jobs.queue import Queue
async def main():
    lease = await Queue(Database(sys.argv[1])).lease("transcribe", worker="victim", seconds=0.5)
    print(lease.job_id, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


async def test_after_kill_9_the_job_goes_to_the_next_worker_when_the_lease_is_over(
    database: Database, queue: Queue, tenant_database: TenantDatabase
) -> None:
    job_id = await put(database)
    victim = await asyncio.create_subprocess_exec(
        sys.executable, "-c", VICTIM, tenant_database.url, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert victim.stdout is not None
        assert (await victim.stdout.readline()).decode().strip() == job_id
    finally:
        victim.kill()
        await victim.wait()
    async with database.transaction() as tx:
        await tx.execute("SELECT pg_sleep(0.6)")  # the lease ends by the database's clock
    successor = await take(queue)
    assert (successor.job_id, successor.attempts) == (job_id, 2)


async def test_a_cancelled_job_ends_as_cancelled_however_its_worker_lets_go(database: Database, queue: Queue) -> None:
    handed_back, failed = await put(database, priority=1), await put(database)
    first, second = await take(queue), await take(queue)
    async with database.transaction() as tx:
        await cancel(tx, handed_back)
        await cancel(tx, failed)
    await queue.release(first, timedelta(seconds=5))
    await queue.fail(second, "unavailable", "clamd: away", retry=True)
    for job_id in (handed_back, failed):
        ended = await row(database, job_id)
        assert (ended.status, ended.finished_at is not None) == ("cancelled", True)


# --- many at once -----------------------------------------------------------------------------------------------------


async def test_many_are_leased_in_their_order_each_with_the_facts_of_its_content(
    database: Database, queue: Queue
) -> None:
    standing, marked, gone = ("1" * 64, "2" * 64, "3" * 64)
    async with database.transaction() as tx:
        for sha256, doomed_at in ((standing, "NULL"), (marked, "now()")):
            await tx.execute(
                "INSERT INTO blob (sha256, size, mime_type, doomed_at)"  # noqa: S608 (constants)
                f" VALUES ('{sha256}', 7, 'text/plain', {doomed_at})"
            )
    later = [await put(database, sha256=sha256) for sha256 in (standing, marked, gone)]
    first = await put(database, sha256=standing, priority=1)
    leases = await queue.lease_many("transcribe", worker="test", seconds=30, most=3)
    assert [lease.job_id for lease in leases] == [first, *later[:2]]
    assert [lease.content and lease.content.size for lease in leases] == [7, 7, None]
    (last,) = await queue.lease_many("transcribe", worker="test", seconds=30, most=3)
    assert (last.job_id, last.content) == (later[2], None)


async def test_many_are_renewed_together_and_each_says_whether_it_is_still_held_and_wanted(
    database: Database, queue: Queue
) -> None:
    for _ in range(3):
        await put(database)
    kept, cancelled, lost = await queue.lease_many("transcribe", worker="test", seconds=30, most=3)
    async with database.transaction() as tx:
        await cancel(tx, cancelled.job_id)
    await expire(database, lost.job_id)
    assert (await take(queue)).job_id == lost.job_id
    found = await queue.renew_all([kept, cancelled, lost], seconds=3600)
    assert found == {kept.job_id: True, cancelled.job_id: False}
    async with database.transaction() as tx:
        left = await tx.execute("SELECT job_id FROM job WHERE lease_until > now() + interval '59 minutes'")
        assert {row[0] for row in left} == {kept.job_id, cancelled.job_id}
    assert await queue.renew_all([], seconds=30) == {}


# --- an outage is not an attempt ----------------------------------------------------------------------------------


async def test_a_job_that_is_postponed_ever_so_often_is_never_failed_and_is_asked_for_again_soon(
    database: Database,
) -> None:
    """An outage of ten minutes has some twenty tries, four times as many as a job has attempts."""
    queue = Queue(database)
    job_id = await put(database)
    delays = []
    for tries in range(20 * JOB_KINDS["transcribe"].max_attempts):
        lease = await take(queue)
        assert (lease.attempts, lease.postponed) == (1, tries)
        delays.append(await delayed(database, job_id, queue.postpone(lease, "object store", "it does not answer")))
    for tries, (most, least) in enumerate(delays):
        longest = min(POSTPONED_SECONDS, 2.0 * 2**tries)
        assert longest / 2 <= most
        assert least <= longest
    waiting = await row(database, job_id)
    assert (waiting.status, waiting.attempts, waiting.error_code) == ("queued", 0, "waiting")
    assert waiting.error_detail == "object store: it does not answer"
    await queue.finish(await take(queue), {"done": True})
    ended = await row(database, job_id)
    assert (ended.status, ended.error_code, ended.error_detail) == ("completed", None, None)


async def test_attempts_of_before_an_outage_count_after_it(database: Database, queue: Queue) -> None:
    job_id = await put(database)
    for attempt in range(1, JOB_KINDS["transcribe"].max_attempts + 1):
        for _ in range(5):
            await queue.postpone(await take_due(database, queue), "object store", "away")
        lease = await take_due(database, queue)
        assert lease.attempts == attempt
        await queue.fail(lease, "unavailable", "decoder: it crashed", retry=True)
    ended = await row(database, job_id)
    assert (ended.status, ended.error_code, ended.error_detail) == ("failed", "unavailable", "decoder: it crashed")


async def take_due(database: Database, queue: Queue) -> Lease:
    """Leases the next job, even if it is not due yet."""
    async with database.transaction() as tx:
        await tx.execute("UPDATE job SET run_after = now()")
    return await take(queue)


async def test_a_postponed_job_can_be_cancelled(database: Database) -> None:
    queue = Queue(database)
    waiting, running = await put(database, priority=1), await put(database)
    await queue.postpone(await take(queue), "clamd", "away")
    lease = await take(queue)
    assert lease.job_id == running
    async with database.transaction() as tx:
        await cancel(tx, waiting)
        await cancel(tx, running)
    await queue.postpone(lease, "clamd", "away")
    assert [(await row(database, job_id)).status for job_id in (waiting, running)] == ["cancelled", "cancelled"]


async def test_a_lease_that_ran_out_while_the_server_was_away_is_its_holders_for_a_moment_longer(
    database: Database, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await put(database)
    lease = await take(queue)
    async with database.transaction() as tx:
        await tx.execute("UPDATE job SET lease_until = pg_postmaster_start_time() - interval '1 second'")
        up = await tx.value("SELECT now() - pg_postmaster_start_time()")
    monkeypatch.setattr("media_core.jobs.queue.SERVER_BACK", up + timedelta(minutes=1))
    assert not await queue.reap("transcribe")
    await queue.renew(lease, seconds=30)

    async with database.transaction() as tx:
        await tx.execute("UPDATE job SET lease_until = pg_postmaster_start_time() - interval '1 second'")
    monkeypatch.setattr("media_core.jobs.queue.SERVER_BACK", timedelta(0))
    assert await queue.reap("transcribe")
    assert (await take(queue)).job_id == job_id
