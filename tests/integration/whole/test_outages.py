"""An outage is not an attempt: versitygw, clamd and PostgreSQL go away under work, and come back.

Time is compressed: the waits between two tries are a fraction of the real ones. So an outage of a few seconds has more
tries than a real one of hours, and several times as many as a job has attempts.
"""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from media_core.database import Database
from media_core.decoding.pool import ChildLimits, DecodingPool
from media_core.errors import Refused, Unavailable
from media_core.examination.examination import Examination
from media_core.items.library import Library
from media_core.jobs import queue as queue_module
from media_core.jobs.kinds import JOB_KINDS, KINDS
from media_core.jobs.queue import Queue
from media_core.policy import PolicyReader
from media_core.settings import TranscriptionSettings
from media_core.store import S3Store
from media_core.transcripts.requests import Jobs, TranscriptionRequest
from media_core.uploads.upload import Uploaded, Uploads
from media_operator.local.clamd import HOW_TO_INSTALL, ClamdAddress, EmbeddedClamd
from media_workers import drain as drain_module
from media_workers.drain import Drain, Handler, Work
from media_workers.scanning.scan import JOBS_AT_ONCE, READ_AT_ONCE, Scanner
from media_workers.settings import ClamdSettings, DrainSettings, WhisperSettings
from media_workers.speech.transcribe import Transcriber
from media_workers.speech.whisper import Whisper
from media_workers.thumbnail import make_video_thumbnail
from tests.fixtures.media import film
from tests.integration.acting import upload
from tests.integration.servers import s3_servers
from tests.integration.servers.api import new_tenant
from tests.integration.servers.clamd import LIMITS, settings_for
from tests.integration.servers.postgres_folder import CopiedPostgres, postgres_folder
from tests.integration.servers.s3_servers import S3Server
from tests.integration.tenancy import ALICE, FIXTURES, GENEROUS, TenantDatabase

SPEECH = FIXTURES / "whisper-tiny-words"
SAID: str = json.loads((SPEECH / "samples" / "transcripts.json").read_text())["digits_en.wav"]["text"]
MANY = 2
"""A job is handed back this many times its attempts before the outage ends."""
SOON = 120.0
"""Seconds within which all jobs are done, also on a busy machine: the waits are far shorter."""
DRAIN = DrainSettings(linger_seconds=0.2, poll_seconds=0.02)


@pytest.fixture(autouse=True)
def compressed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain_module, "AWAY_SECONDS", 0.02)
    monkeypatch.setattr(queue_module, "POSTPONED_SECONDS", 0.1)


@pytest.fixture(scope="session")
def whisper() -> Whisper:
    return Whisper(WhisperSettings(model=str(SPEECH / "model"), chunk_seconds=12, local_files_only=True))


class S3:
    """A versitygw that can be killed, and started again at its address."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.server: S3Server

    async def start(self) -> None:
        self.server = await s3_servers.start("versitygw", self._folder, getattr(self, "server", None))

    def kill(self) -> None:
        assert self.server.process is not None
        self.server.process.kill()
        self.server.process.wait()

    @contextmanager
    def hanging(self) -> Iterator[None]:
        assert self.server.process is not None
        self.server.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.server.process.send_signal(signal.SIGCONT)


@pytest.fixture
async def s3(tmp_path: Path) -> AsyncIterator[S3]:
    s3 = S3(tmp_path)
    await s3.start()
    yield s3
    s3.server.stop()


class Clamd(EmbeddedClamd):
    """A clamd that stays away when it is killed, until it is started again at its address."""

    def __init__(self) -> None:
        super().__init__(limits=LIMITS, official=None, mirror=None)

    async def kill(self) -> None:
        for task in self._tasks:
            task.cancel()
        assert self.pid is not None
        os.kill(self.pid, signal.SIGKILL)
        assert self._process is not None
        await self._process.wait()

    async def start_again(self) -> None:
        await self._launch()


@pytest.fixture
async def own_clamd(tmp_path: Path) -> AsyncIterator[Clamd]:
    if EmbeddedClamd.find() is None:
        pytest.skip(HOW_TO_INSTALL)
    clamd = Clamd()
    await clamd.start(tmp_path)
    yield clamd
    await clamd.stop()


class Tenant:
    """One tenant, its workers, and its jobs' outcomes."""

    def __init__(
        self, rows: TenantDatabase, database: Database, store: S3Store, decoder: DecodingPool, clamd: ClamdSettings
    ) -> None:
        self.database = database
        reader = PolicyReader(database)
        self.library = Library(tenant_id=rows.tenant_id, database=database, store=store, policy=reader)
        self.uploads = Uploads(
            tenant_id=rows.tenant_id, database=database, store=store, examiner=Examination(decoder), policy=reader
        )
        self.jobs = Jobs(database=database, library=self.library, max_seconds=3600)
        self.work = Work(
            database, Queue(database, retry_base=timedelta(milliseconds=20)), self.library, store, decoder, reader
        )
        self.clamd = clamd
        self.drain = DRAIN
        self._workers: list[asyncio.Task[None]] = []
        self._drains: list[Drain] = []
        self._ended = False

    def start_workers(self, whisper: Whisper, *kinds: str) -> None:
        """Starts a worker of each kind, and another one whenever one ends, as the launcher does."""
        transcriber = Transcriber(whisper, TranscriptionSettings(), lease_seconds=self.drain.lease_seconds)
        handlers: dict[str, tuple[Handler, int]] = {
            "scan": (Scanner(self.clamd), JOBS_AT_ONCE),
            "transcribe": (transcriber, 1),
            "thumbnail": (make_video_thumbnail, 1),
        }
        self._workers += [asyncio.create_task(self._worker(kind, *handlers[kind])) for kind in kinds or KINDS]

    async def _worker(self, kind: str, handler: Handler, at_once: int) -> None:
        while not self._ended:
            drain = Drain(kind, handler, self.work, self.drain, at_once=at_once)
            self._drains.append(drain)
            try:
                await drain.run()
            except Unavailable:
                await asyncio.sleep(0.05)  # what a process takes to start, and more

    async def end_workers(self) -> None:
        self._ended = True
        for drain in self._drains:
            drain.stop.set()
        await asyncio.gather(*self._workers)
        self._workers, self._drains, self._ended = [], [], False

    async def rows(self) -> list[Any]:
        async with self.database.transaction() as tx:
            return list(await tx.execute("SELECT * FROM job ORDER BY job_id"))

    async def until_all_waited(self, *kinds: str) -> list[Any]:
        """Waits until all jobs of these kinds have been handed back more often than they may fail. Returns them."""
        async with asyncio.timeout(SOON * 2):
            while True:
                rows = [row for row in await self.rows() if row.kind in kinds]
                if all(row.postponed > MANY * JOB_KINDS[row.kind].max_attempts for row in rows):
                    return rows
                await asyncio.sleep(0.05)  # rows tell nobody

    async def until_all_ended(self) -> list[Any]:
        async with asyncio.timeout(SOON):
            while True:
                rows = await self.rows()
                if all(row.finished_at is not None for row in rows):
                    return rows
                await asyncio.sleep(0.05)

    async def transcribe(self, item: Uploaded) -> str:
        return (await self.jobs.transcribe(ALICE, item.media_id, TranscriptionRequest())).job_id

    async def readable(self, item: Uploaded) -> bool:
        try:
            await self.library.find(ALICE, item.media_id, "read")
        except Refused:
            return False
        return True


@asynccontextmanager
async def tenant_of(rows: TenantDatabase, s3: S3, decoder: DecodingPool, clamd: ClamdSettings) -> AsyncIterator[Tenant]:
    await rows.declare(GENEROUS)
    database, store = Database(rows.url), S3Store(s3.server.settings, rows.tenant_id)
    tenant = Tenant(rows, database, store, decoder, clamd)
    try:
        yield tenant
    finally:
        await tenant.end_workers()
        await store.aclose()
        await database.aclose()


@pytest.fixture
async def tenant(
    tenant_database: TenantDatabase, s3: S3, decoding_pool: DecodingPool, clamd: ClamdAddress
) -> AsyncIterator[Tenant]:
    async with tenant_of(tenant_database, s3, decoding_pool, settings_for(clamd)) as tenant:
        yield tenant


def recording() -> bytes:
    return (SPEECH / "samples" / "digits_en.wav").read_bytes()


async def some_work(tenant: Tenant) -> tuple[list[Uploaded], str]:
    """Uploads ten files, one of them a video, and a recording that is to be transcribed. Returns that job's id."""
    spoken = await upload(tenant.uploads, recording(), filename="talk.wav")
    items = [spoken, await upload(tenant.uploads, film(), filename="film.mp4")]
    items += [await upload(tenant.uploads, b"file %d" % number) for number in range(8)]
    return items, await tenant.transcribe(spoken)


async def all_done(tenant: Tenant, items: list[Uploaded]) -> None:
    """Waits for all jobs. Asserts that none failed or lost an attempt, and that all results are there."""
    ended = await tenant.until_all_ended()
    assert {(row.kind, row.status, row.error_code) for row in ended} == {
        (kind, "completed", None) for kind in {row.kind for row in ended}
    }
    assert [row.attempts for row in ended] == [1] * len(ended)
    assert [await tenant.readable(item) for item in items] == [True] * len(items)
    for row in ended:
        if row.kind == "transcribe":
            assert row.result["transcript"] == SAID
    async with tenant.database.transaction() as tx:
        thumbnails = await tx.execute("SELECT thumbnail_status FROM blob WHERE mime_type = 'video/mp4'")
        assert {row[0] for row in thumbnails} <= {"ready"}


# --- the object store ---------------------------------------------------------------------------------------------


async def test_whatever_needs_the_object_store_waits_for_it_and_is_done_once_it_is_back(
    tenant: Tenant, s3: S3, whisper: Whisper
) -> None:
    items, job_id = await some_work(tenant)
    async with tenant.database.transaction() as tx:  # so that the transcription, too, gets as far as the store
        await tx.execute("UPDATE blob SET scan_status = 'clean' WHERE mime_type LIKE 'audio/%%'")
    s3.kill()
    tenant.start_workers(whisper)
    for row in await tenant.until_all_waited(*KINDS):
        assert row.status in ("queued", "running")
        assert row.error_code == "waiting"
        assert row.error_detail.startswith("object store: ")
    seen = await tenant.jobs.find(ALICE, job_id)
    assert not seen.has_failed
    assert (seen.waits_for or "object store").startswith("object store")  # None in the moment of a try
    assert not any([await tenant.readable(item) for item in items[1:]])

    await s3.start()
    await all_done(tenant, items)


async def test_an_object_store_that_hangs_is_not_taken_for_a_film_that_can_not_be_decoded_in_time(
    tenant_database: TenantDatabase, s3: S3, decoding_pool: DecodingPool, clamd: ClamdAddress, whisper: Whisper
) -> None:
    async with tenant_of(tenant_database, s3, decoding_pool, settings_for(clamd)) as tenant:
        item = await upload(tenant.uploads, film(), filename="film.mp4")
        with s3.hanging():
            async with DecodingPool(processes=1, limits=ChildLimits(wall_seconds=0.5)) as impatient:
                tenant.work.decoder = impatient
                tenant.start_workers(whisper, "thumbnail")
                (row,) = await tenant.until_all_waited("thumbnail")
                assert row.error_detail == "object store: it sends the file too slowly"
                await tenant.end_workers()
        tenant.work.decoder = decoding_pool
        tenant.start_workers(whisper)
        await all_done(tenant, [item])


# --- clamd --------------------------------------------------------------------------------------------------------


async def test_scans_and_what_waits_for_their_verdicts_outlast_a_clamd_that_was_killed_under_them(
    tenant_database: TenantDatabase, s3: S3, decoding_pool: DecodingPool, own_clamd: Clamd, whisper: Whisper
) -> None:
    async with tenant_of(tenant_database, s3, decoding_pool, settings_for(own_clamd.address)) as tenant:
        items, job_id = await some_work(tenant)
        await own_clamd.kill()
        tenant.start_workers(whisper)
        for row in await tenant.until_all_waited("scan"):
            assert (row.status in ("queued", "running"), row.error_code) == (True, "waiting")
            assert row.error_detail.startswith("clamd: ")
        (waiting,) = [row for row in await tenant.rows() if row.kind == "transcribe"]
        assert (waiting.status in ("queued", "running"), waiting.finished_at) == (True, None)
        assert "verdict" in waiting.error_detail
        assert not any([await tenant.readable(item) for item in items])

        await own_clamd.start_again()
        await all_done(tenant, items)
        assert not (await tenant.jobs.find(ALICE, job_id)).has_failed


async def test_a_clamd_that_is_killed_again_and_again_under_its_scans_costs_no_verdict(
    tenant_database: TenantDatabase, s3: S3, decoding_pool: DecodingPool, own_clamd: Clamd, whisper: Whisper
) -> None:
    """Each time the contents under scan lose an attempt, since they may have been the reason. No others do."""
    async with tenant_of(tenant_database, s3, decoding_pool, settings_for(own_clamd.address)) as tenant:
        items = [await upload(tenant.uploads, b"file %d" % number * 10_000) for number in range(60)]
        tenant.start_workers(whisper, "scan")
        kills = 3
        for kill in range(kills):
            async with asyncio.timeout(SOON):
                while sum(row.status == "completed" for row in await tenant.rows()) < 10 * (kill + 1):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await own_clamd.kill()
            await own_clamd.start_again()
        ended = await tenant.until_all_ended()
        assert {row.status for row in ended} == {"completed"}
        assert [await tenant.readable(item) for item in items] == [True] * len(items)
        assert sum(row.attempts - 1 for row in ended) <= kills * tenant.clamd.at_once


# --- PostgreSQL ---------------------------------------------------------------------------------------------------


class Postgres(CopiedPostgres):
    """A PostgreSQL that can be away for a while, and comes back at its address."""

    async def end(self) -> None:
        assert self.pid is not None
        os.kill(self.pid, signal.SIGINT)
        async with asyncio.timeout(60):
            while self.running:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def start_again(self) -> None:
        await asyncio.to_thread(self.start)


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    with postgres_folder() as folder, Postgres(folder / "data") as server:
        yield server


async def test_work_under_way_outlasts_postgresql_and_no_attempt_is_lost(
    own_postgres: Postgres, s3: S3, decoding_pool: DecodingPool, clamd: ClamdAddress, whisper: Whisper
) -> None:
    """It is away for longer than a lease. Workers with a job wait for it; those without end, and are started again."""
    with new_tenant(own_postgres) as rows:
        async with tenant_of(rows, s3, decoding_pool, settings_for(clamd)) as tenant:
            tenant.drain = DRAIN.model_copy(update={"lease_seconds": 3.0})
            items, _ = await some_work(tenant)
            under_way, go_on = asyncio.Semaphore(0), asyncio.Event()
            read = tenant.work.store.read

            async def held(key: str, start: int, length: int) -> bytes:
                under_way.release()
                await go_on.wait()
                return await read(key, start, length)

            tenant.work.store.read = held  # type: ignore[method-assign]
            tenant.start_workers(whisper)
            for _ in range(READ_AT_ONCE):
                await under_way.acquire()
            await own_postgres.end()
            go_on.set()
            await asyncio.sleep(tenant.drain.lease_seconds + 0.5)  # by definition: the leases are over
            await own_postgres.start_again()
            await all_done(tenant, items)
