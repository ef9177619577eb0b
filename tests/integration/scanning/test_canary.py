"""The test virus on a tenant's own path: PostgreSQL, versitygw, the queue, a worker's scan and clamd, all real."""

import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from media_core.database import Database
from media_core.decoding.pool import DecodingPool
from media_core.errors import Refused, Unavailable
from media_core.examination.examination import Examination
from media_core.items.library import Library
from media_core.jobs.kinds import JOB_KINDS
from media_core.jobs.queue import Queue
from media_core.policy import PolicyReader
from media_core.store import S3Store
from media_core.upkeep.sweep import sweep
from media_core.uploads.upload import Uploads
from media_operator.backends import scanner_canary as canary
from media_operator.backends.databases import Databases
from media_operator.backends.scanner_canary import Canary, judge
from media_operator.local.clamd import ClamdAddress, EmbeddedClamd
from media_operator.local.postgres import EmbeddedPostgres
from media_operator.settings import DatabaseSettings
from media_operator.tenant.ownership import OwnerMark
from media_workers import drain as drain_loop
from media_workers.drain import Drain, Work
from media_workers.scanning.scan import Scanner
from media_workers.settings import ClamdSettings, DrainSettings
from tests.integration.acting import upload, usage
from tests.integration.servers import s3_servers
from tests.integration.servers.clamd import LIMITS, settings_for
from tests.integration.servers.s3_servers import S3Server
from tests.integration.tenancy import ADMIN, ALICE, GENEROUS, TenantDatabase
from tests.ports import free_port


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[S3Server]:
    running = await s3_servers.start("versitygw", tmp_path_factory.mktemp("versitygw"))
    yield running
    running.stop()


class Tenant:
    """A tenant as its worker and the operator see it."""

    def __init__(self, rows: TenantDatabase, database: Database, server: S3Server, decoder: DecodingPool) -> None:
        self.database = database
        self.store = S3Store(server.settings, rows.tenant_id)
        reader = PolicyReader(database)
        self.library = Library(tenant_id=rows.tenant_id, database=database, store=self.store, policy=reader)
        self.uploads = Uploads(
            tenant_id=rows.tenant_id, database=database, store=self.store, examiner=Examination(decoder), policy=reader
        )
        self._work = Work(database, Queue(database, retry_base=timedelta(0)), self.library, self.store, decoder, reader)
        self._sending = (rows.tenant_id, rows.url, server.settings)

    async def send(self) -> None:
        await canary.send(*self._sending)

    async def scan(self, clamd: ClamdSettings, tries: int = 1000) -> int:
        """Empties the queue, and returns how many attempts that took."""
        drain = Drain("scan", Scanner(clamd), self._work, DrainSettings(linger_seconds=0, max_jobs=tries))
        await drain.run()
        return drain.handled

    async def latest(self) -> Canary | None:
        async with self.database.transaction() as tx:
            return await canary.latest(tx)

    async def condition(self, timeout: float = 600) -> tuple[str, str]:
        scanner = judge(await self.latest(), every=3600, timeout=timeout)
        return scanner.status, scanner.reason

    async def rows(self, table: str) -> list[Any]:
        async with self.database.transaction() as tx:
            return list(await tx.execute(f"TABLE {table}"))

    async def leaves_nothing(self) -> bool:
        """Only its row in `canary` is left: no item, content, object, tombstone, reservation or byte of the quota."""
        tables = [await self.rows(table) for table in ("media", "blob", "media_tombstone", "reservation", "room_file")]
        now = await usage(self.database)
        return not any(tables) and (now.stored, now.reserved) == (0, 0) and await self.objects() == []

    async def objects(self) -> list[str]:
        return [entry.key async for entry in self.store.list()]


@pytest.fixture
async def tenant(
    tenant_database: TenantDatabase, database: Database, server: S3Server, decoding_pool: DecodingPool
) -> AsyncIterator[Tenant]:
    tenant = Tenant(tenant_database, database, server, decoding_pool)
    yield tenant
    await tenant.store.aclose()


@pytest.fixture
def working(clamd: ClamdAddress) -> ClamdSettings:
    return settings_for(clamd)


@pytest.fixture
def nowhere() -> ClamdSettings:
    """A clamd that is down."""
    return ClamdSettings(port=free_port())


async def test_a_canary_that_is_found_leaves_nothing_but_its_record(tenant: Tenant, working: ClamdSettings) -> None:
    assert await tenant.condition() == ("Unknown", "CanaryPending")
    await tenant.send()
    assert await tenant.condition() == ("Unknown", "CanaryPending")
    assert len(await tenant.objects()) == 1
    await tenant.scan(working)
    assert await tenant.condition() == ("True", "CanaryFound")
    found = await tenant.latest()
    assert found is not None
    assert found.engine is not None
    assert found.engine.startswith("ClamAV ")
    assert found.detail == "Eicar-Test-Signature.UNOFFICIAL"
    assert await tenant.leaves_nothing()


async def test_each_canary_is_new_content_and_the_last_record_is_the_only_one(
    tenant: Tenant, working: ClamdSettings
) -> None:
    for _ in range(3):
        await tenant.send()
        await tenant.scan(working)
        assert await tenant.condition() == ("True", "CanaryFound")
    await tenant.send()
    assert len(await tenant.rows("canary")) == 2  # the one under way and the one before
    assert await tenant.condition() == ("True", "CanaryFound")


async def test_nobody_can_read_a_canary_whatever_pending_access_says(
    tenant: Tenant, tenant_database: TenantDatabase, working: ClamdSettings
) -> None:
    await tenant_database.declare(replace(GENEROUS, pending_access="All"))
    await tenant.send()
    (item,) = await tenant.rows("media")
    for caller in (ADMIN, ALICE, replace(ALICE, subject="system:canary")):
        for ask in (
            tenant.library.find(caller, item.media_id, "see"),
            tenant.library.find(caller, item.media_id, "read"),
            tenant.library.attach(caller, "garden", item.media_id),
            tenant.library.delete(caller, item.media_id),
        ):
            with pytest.raises(Refused) as refused:
                await ask
            assert refused.value.code == "not_found"
    await tenant.scan(working)
    assert await tenant.leaves_nothing()


@pytest.mark.parametrize(
    ("limit", "code"), [({"max_bytes": 100}, "quota_exceeded"), ({"max_items": 0}, "file_quota_exceeded")]
)
async def test_a_full_tenants_scanner_is_watched_too_and_nothing_else_gets_in(
    tenant: Tenant, tenant_database: TenantDatabase, working: ClamdSettings, limit: dict[str, int], code: str
) -> None:
    await tenant_database.declare(replace(GENEROUS, **limit))
    await tenant.send()
    with pytest.raises(Refused) as refused:
        await upload(tenant.uploads, b"one more")
    assert refused.value.code == code
    await tenant.scan(working)
    assert await tenant.condition() == ("True", "CanaryFound")
    assert await tenant.leaves_nothing()


async def test_a_canary_overtakes_the_tenants_own_backlog(tenant: Tenant, working: ClamdSettings) -> None:
    await upload(tenant.uploads, b"waits its turn")
    await tenant.send()
    lease = await Queue(tenant.database).lease("scan", worker="test", seconds=30)
    assert lease is not None
    assert lease.owner == "system:canary"


async def test_a_scanner_that_calls_the_canary_clean_is_seen_and_the_canary_is_gone(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch, working: ClamdSettings, tmp_path: Path
) -> None:
    """A clamd without signatures. The worker's own check would notice it too; this test leaves that out."""
    blind = EmbeddedClamd(limits=LIMITS, official=None, mirror=None)

    async def no_check(*_: object) -> None:
        return

    monkeypatch.setattr("media_workers.scanning.clamd.Clamd._check", no_check)
    monkeypatch.setattr("media_operator.local.clamd._EICAR", "another text, which nobody sends")
    try:
        await tenant.send()
        await tenant.scan(settings_for(await blind.start(tmp_path)))
    finally:
        await blind.stop()
    assert await tenant.condition() == ("False", "CanaryMissed")
    assert await tenant.leaves_nothing()
    monkeypatch.undo()
    await tenant.send()
    assert await tenant.condition() == ("False", "CanaryMissed")  # until it is known better
    await tenant.scan(working)
    assert await tenant.condition() == ("True", "CanaryFound")


async def test_a_clamd_that_is_down_is_seen_and_the_next_canary_removes_what_is_left(
    tenant: Tenant, nowhere: ClamdSettings, working: ClamdSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage of clamd fails no scan, however long it is. The canary is overdue then, and says what it waits for."""
    monkeypatch.setattr(drain_loop, "AWAY_SECONDS", 0.0)
    await tenant.send()
    await tenant.scan(nowhere, tries=2 * JOB_KINDS["scan"].max_attempts)
    assert await tenant.condition() == ("Unknown", "CanaryPending")
    assert await tenant.condition(timeout=0) == ("False", "CanaryOverdue")
    overdue = await tenant.latest()
    assert overdue is not None
    assert "clamd" in overdue.detail
    await tenant.send()
    assert len(await tenant.objects()) == 1
    await tenant.scan(working)
    assert await tenant.condition() == ("True", "CanaryFound")
    assert await tenant.leaves_nothing()


async def test_a_canary_that_gets_no_verdict_is_seen_and_the_next_one_removes_what_is_left(
    tenant: Tenant, working: ClamdSettings
) -> None:
    await tenant.send()
    (key,) = await tenant.objects()
    await tenant.store.put(key, b"cut short")
    assert await tenant.scan(working) == JOB_KINDS["scan"].max_attempts
    assert await tenant.condition() == ("False", "CanaryFailed")
    failed = await tenant.latest()
    assert failed is not None
    assert "9 bytes" in failed.detail
    await tenant.send()
    assert len(await tenant.objects()) == 1
    await tenant.scan(working)
    assert await tenant.condition() == ("True", "CanaryFound")
    assert await tenant.leaves_nothing()


async def test_a_canary_that_nobody_scans_is_overdue_and_the_next_one_takes_its_place(
    tenant: Tenant, working: ClamdSettings
) -> None:
    await tenant.send()
    assert await tenant.condition(timeout=0) == ("False", "CanaryOverdue")
    await tenant.send()
    assert len(await tenant.objects()) == 1
    assert await tenant.scan(working) == 1  # the first one's job was withdrawn
    assert await tenant.condition() == ("True", "CanaryFound")
    assert await tenant.leaves_nothing()


async def test_a_canary_is_as_old_as_postgresqls_clock_says(tenant: Tenant) -> None:
    await tenant.send()
    async with tenant.database.transaction() as tx:
        await tx.execute("UPDATE canary SET sent_at = now() - interval '11 minutes'")
    assert await tenant.condition(timeout=660) == ("False", "CanaryOverdue")
    assert await tenant.condition(timeout=720) == ("Unknown", "CanaryPending")


async def test_a_sweep_does_not_disturb_a_canary(tenant: Tenant, working: ClamdSettings) -> None:
    await tenant.send()
    await sweep(tenant.library)
    assert await tenant.scan(working) == 1
    await sweep(tenant.library)
    assert await tenant.condition() == ("True", "CanaryFound")


async def test_a_store_that_is_away_is_said_and_leaves_no_canary(
    tenant: Tenant, tenant_database: TenantDatabase
) -> None:
    with pytest.raises(Unavailable, match="object store"):
        await canary.send(tenant_database.tenant_id, tenant_database.url, s3_servers.nobody())
    assert await tenant.latest() is None
    assert await tenant.leaves_nothing()


async def test_a_database_that_refuses_the_password_is_said_without_a_secret(
    tenant_database: TenantDatabase, server: S3Server
) -> None:
    password = secrets.token_hex(8)
    wrong = f"postgresql+psycopg://{tenant_database.schema}:{password}@127.0.0.1:1/postgres"
    with pytest.raises(Unavailable) as error:
        await canary.send(tenant_database.tenant_id, wrong, server.settings)
    assert error.value.dependency == "database"
    assert password not in str(error.value)


async def test_the_operator_sees_what_became_of_it(
    postgres: EmbeddedPostgres, server: S3Server, decoding_pool: DecodingPool, working: ClamdSettings
) -> None:
    databases = Databases(DatabaseSettings(url=SecretStr(postgres.admin_url), pool=4))
    tenant_id = f"t{secrets.token_hex(6)}"
    schema, password, mark = f"tenant_{tenant_id}", secrets.token_hex(16), OwnerMark(tenant_id)
    try:
        await databases.create(schema, mark, password)
        url = databases.tenant_url(schema, password)
        await databases.migrate(schema)
        await databases.apply_policy(schema, GENEROUS)
        database = Database(url)
        tenant = Tenant(TenantDatabase(tenant_id, schema, url, postgres.admin_url), database, server, decoding_pool)

        async def seen() -> str | None:
            async with databases.within(schema) as tx:
                latest = await canary.latest(tx)
            return latest.state if latest else None

        assert await seen() is None
        await tenant.send()
        assert await seen() == "pending"
        await tenant.scan(working)
        assert await seen() == "found"
        await tenant.store.aclose()
        await database.aclose()
    finally:
        await databases.drop(schema, mark)
        await databases.aclose()
