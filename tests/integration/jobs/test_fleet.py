"""The fleet dispatcher over real queues: how soon a job has its worker, and what a crash meanwhile costs."""

import asyncio
import contextlib
import secrets
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

import pytest
from pydantic import SecretStr

from media_core.database import Database
from media_core.jobs.depth import Depth
from media_core.jobs.queue import Queue, enqueue
from media_operator.backends.databases import Databases
from media_operator.jobs.dispatch import FleetDispatcher, Running, TenantQueue, listen
from media_operator.local.postgres import EmbeddedPostgres
from media_operator.settings import DatabaseSettings
from tests.cluster.machine import slowness
from tests.integration.servers.api import new_tenant
from tests.integration.tenancy import TenantDatabase
from tests.stopwatch import Stopwatch

LIMITS = {"scan": 4, "transcribe": 2, "thumbnail": 2}


@dataclass
class Jobs:
    """The worker Jobs of a cluster, by name, shared by all operators."""

    names: dict[str, tuple[str, str]] = field(default_factory=dict)
    made: asyncio.Queue[tuple[str, float]] = field(default_factory=asyncio.Queue)


class Killed(BaseException):
    """Stands for kill -9: no code runs after it."""


@dataclass
class Fleet:
    """One operator's view: real queues, and Jobs as its cache knows them (`sees`). It dies after `dies_after` Jobs."""

    databases: Databases
    tenants_: dict[str, TenantQueue]
    jobs: Jobs
    sees: dict[str, tuple[str, str]] = field(default_factory=dict)
    dies_after: int | None = None
    looked: asyncio.Event = field(default_factory=asyncio.Event)

    def tenants(self) -> Mapping[str, TenantQueue]:
        return self.tenants_

    async def depths_of(self, schemas: Collection[str]) -> Mapping[str, Mapping[str, Depth] | None]:
        try:
            return await self.databases.depths_of(schemas)
        finally:
            self.looked.set()

    def running(self) -> Running:
        return Running(Counter(self.sees.values()), len(self.sees))

    def backs_off(self, schema: str, kind: str) -> bool:
        return False

    async def launch(self, schema: str, kind: str, name: str) -> Literal["created", "exists", "no"]:
        if self.dies_after is not None and len(self.jobs.names) >= self.dies_after:
            raise Killed
        known = name in self.jobs.names
        self.sees[name] = self.jobs.names[name] = (schema, kind)
        if known:
            return "exists"
        self.jobs.made.put_nowait((schema, time.monotonic()))
        return "created"


@pytest.fixture
async def databases(postgres: EmbeddedPostgres) -> AsyncIterator[Databases]:
    databases = Databases(DatabaseSettings(url=SecretStr(postgres.admin_url.replace("+psycopg", ""))))
    yield databases
    await databases.aclose()


@pytest.fixture
def tenants(postgres: EmbeddedPostgres) -> Iterator[list[TenantDatabase]]:
    with ExitStack() as stack:
        yield [stack.enter_context(new_tenant(postgres)) for _ in range(3)]


@pytest.fixture
async def fleet(databases: Databases, tenants: list[TenantDatabase]) -> Fleet:
    for tenant in tenants:
        await databases.migrate(tenant.schema)
    return Fleet(databases, {tenant.schema: TenantQueue(tenant.tenant_id, LIMITS) for tenant in tenants}, Jobs())


@asynccontextmanager
async def dispatching(postgres: EmbeddedPostgres, fleet: Fleet) -> AsyncIterator[FleetDispatcher]:
    """A running dispatcher that has polled once and listens; the next poll is seconds away."""
    dispatcher, listening = FleetDispatcher(fleet, limit=50), asyncio.Event()

    def wake(schema: str | None) -> None:
        listening.set()
        dispatcher.wake(schema)

    tasks = [asyncio.create_task(dispatcher.run()), asyncio.create_task(listen(lambda: postgres.admin_url, wake))]
    try:
        async with asyncio.timeout(60):
            await listening.wait()
            await fleet.looked.wait()
        yield dispatcher
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def queue(tenant: TenantDatabase, count: int = 1, kind: str = "scan") -> float:
    """Queues a job. Returns the time of the commit."""
    database = Database(tenant.url, pool_size=1)
    try:
        async with database.transaction() as tx:
            for _ in range(count):
                await enqueue(tx, kind, {"sha256": secrets.token_hex(32)})
        return time.monotonic()
    finally:
        await database.aclose()


async def test_a_queued_job_has_its_worker_at_once(
    postgres: EmbeddedPostgres, fleet: Fleet, tenants: list[TenantDatabase]
) -> None:
    async with dispatching(postgres, fleet):
        took = []
        for tenant in tenants * 3:
            fleet.sees.clear()
            async with asyncio.timeout(60):
                committed = await queue(tenant, kind="transcribe")
                schema, made = await fleet.jobs.made.get()
            assert schema == tenant.schema
            took.append(made - committed)
            lease = await lease_one(tenant)
            assert lease is not None
    assert statistics.median(took) < 0.3 * slowness(), took  # one may meet what else the machine does


async def lease_one(tenant: TenantDatabase, kind: str = "transcribe") -> str | None:
    """Takes a job and completes it, as a worker."""
    database = Database(tenant.url, pool_size=1)
    try:
        working = Queue(database)
        lease = await working.lease(kind, worker="w", seconds=30)
        if lease is not None:
            await working.finish(lease, {})
        return lease and lease.job_id
    finally:
        await database.aclose()


@pytest.mark.parametrize("lags", [False, True])
async def test_a_dispatcher_that_was_killed_in_the_midst_leaves_no_duplicates(
    fleet: Fleet, tenants: list[TenantDatabase], lags: bool
) -> None:
    for tenant in tenants:
        await queue(tenant, 61)  # four workers each
    fleet.dies_after = 5
    with pytest.raises(Killed):
        await FleetDispatcher(fleet, limit=50).look(fleet.tenants_)
    assert len(fleet.jobs.names) == 5
    seen = {} if lags else dict(fleet.jobs.names)
    successor = Fleet(fleet.databases, fleet.tenants_, fleet.jobs, sees=seen)
    await FleetDispatcher(successor, limit=50).look(successor.tenants_)
    assert Counter(fleet.jobs.names.values()) == {(tenant.schema, "scan"): 4 for tenant in tenants}


async def test_two_dispatchers_at_once_make_each_job_once(fleet: Fleet, tenants: list[TenantDatabase]) -> None:
    await queue(tenants[0], 61)
    other = Fleet(fleet.databases, fleet.tenants_, fleet.jobs)
    await asyncio.gather(*(FleetDispatcher(each, limit=50).look(fleet.tenants_) for each in (fleet, other)))
    assert len(fleet.jobs.names) == 4


async def test_a_tenant_that_locks_its_queue_keeps_nobody_waiting(
    postgres: EmbeddedPostgres, fleet: Fleet, tenants: list[TenantDatabase]
) -> None:
    first, second, _ = tenants
    async with dispatching(postgres, fleet):
        database = Database(first.url, pool_size=1)
        with contextlib.suppress(ZeroDivisionError):
            async with database.transaction() as tx:
                await tx.execute("LOCK TABLE job")
                await queue(second)
                committed = Stopwatch()
                async with asyncio.timeout(60):
                    schema, _ = await fleet.jobs.made.get()
                assert committed.seconds() < 2
                raise ZeroDivisionError
        await database.aclose()
    assert schema == second.schema
