"""PostgreSQL's notifications make the operator read the queue. If one is lost, the next poll finds the job."""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest

from media_core.database import Database
from media_core.jobs.queue import enqueue
from media_operator.jobs.dispatch import listen
from media_operator.local.postgres import EmbeddedPostgres

Wakeups = asyncio.Queue[str | None]


@pytest.fixture
async def wakeups(postgres: EmbeddedPostgres) -> AsyncIterator[Wakeups]:
    heard = Wakeups()
    task = asyncio.create_task(listen(lambda: postgres.admin_url, heard.put_nowait))
    yield heard
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_queued_job_wakes_with_its_schema(wakeups: Wakeups, database: Database) -> None:
    async with asyncio.timeout(60):
        assert await wakeups.get() is None
        async with database.transaction() as tx:
            await enqueue(tx, "scan", {"sha256": "0" * 64})
            schema = await tx.value("SELECT current_schema()")
        assert await wakeups.get() == schema


async def test_a_job_that_was_rolled_back_wakes_nobody(wakeups: Wakeups, database: Database) -> None:
    async with asyncio.timeout(60):
        assert await wakeups.get() is None
        with pytest.raises(ZeroDivisionError):
            async with database.transaction() as tx:
                await enqueue(tx, "scan", {"sha256": "0" * 64})
                raise ZeroDivisionError
        async with database.transaction() as tx:
            await enqueue(tx, "thumbnail", {"sha256": "1" * 64})
        await wakeups.get()
    assert wakeups.empty()


async def test_a_listener_that_lost_its_connection_looks_everywhere_when_it_is_back(
    wakeups: Wakeups, postgres: EmbeddedPostgres
) -> None:
    async with asyncio.timeout(60):
        assert await wakeups.get() is None
        url = postgres.admin_url.replace("+psycopg", "")
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as admin:
            await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN %'")
        assert await wakeups.get() is None
