"""A process with one connection to PostgreSQL: no code takes a second one while it holds the first.

Code that did would wait for itself for ten seconds, and answer 503.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from media_core.database import Database
from media_core.decoding.pool import DecodingPool
from media_core.examination.examination import Examination
from media_core.items.library import Library
from media_core.jobs.queue import Queue
from media_core.policy import PolicyReader
from media_core.store.folder import FolderStore
from media_core.upkeep.canary import EICAR, send
from media_core.upkeep.sweep import sweep
from media_core.uploads.upload import Uploads
from media_operator.local.clamd import ClamdAddress
from media_operator.local.postgres import EmbeddedPostgres
from media_workers.drain import Drain, Work
from media_workers.scanning.clamd import Clamd
from media_workers.scanning.rescan import Rescan
from media_workers.scanning.scan import JOBS_AT_ONCE, Scanner
from media_workers.settings import DrainSettings
from tests.fixtures.media import photo, recording
from tests.integration.acting import upload as upload_to
from tests.integration.servers.api import Api, serving, upload
from tests.integration.servers.clamd import settings_for
from tests.integration.tenancy import GENEROUS, MIB, TenantDatabase
from tests.stopwatch import Stopwatch

CLIENTS = 8


@pytest.fixture
async def api(postgres: EmbeddedPostgres, tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(postgres, tmp_path, database_pool=1) as one:
        yield one


async def everything(api: Api, number: int) -> list[int]:
    """Makes all of one client's calls, one after the other. Returns the answers' statuses."""
    answers: list[httpx.Response] = []
    async with api.client(f"user{number}") as client:

        async def asked(method: str, path: str, **more: Any) -> Any:
            answers.append(await client.request(method, path, **more))
            return answers[-1].json().get("data") if answers[-1].content else None

        def file(data: bytes, **fields: str) -> dict[str, Any]:
            return {"files": {"file": ("a.bin", data)}, "data": fields}

        small = await asked("POST", "/v1/media/upload", **file(b"small %d" % number, room_id="garden"))
        await asked("POST", "/v1/media/upload", **file(photo(200, 100)))
        large = await asked("POST", "/v1/media/upload", **file(bytes([number]) * (9 * MIB)))
        key = {"Idempotency-Key": f"key-{number}"}
        for _ in range(2):
            once = await asked("POST", "/v1/media/upload", **file(b"once %d" % number), headers=key)
        await asked("POST", "/v1/rooms/garden/files", json={"media_id": once["media_id"]})
        await asked("GET", "/v1/rooms/garden/files")
        await asked("DELETE", f"/v1/rooms/garden/files/{once['media_id']}")
        talk = {"files": {"file": ("a.wav", recording([440 + number], "wav", "pcm_s16le"))}}
        job = await asked("POST", "/v1/transcribe", **talk)
        await asked("GET", f"/v1/jobs/{job['job_id']}")
        async with client.stream("GET", f"/v1/jobs/{job['job_id']}/events") as events:
            lines = events.aiter_lines()
            assert await anext(lines) == "event: progress"
            await asked("DELETE", f"/v1/jobs/{job['job_id']}")
            assert any([line.startswith("data:") and "cancelled" in line async for line in lines])
        await asked("GET", "/v1/jobs")
        await asked("GET", "/v1/usage")
        for one in (small, large, once):
            await asked("GET", f"/v1/media/{one['media_id']}/info")
            await asked("DELETE", f"/v1/media/{one['media_id']}")
    return [answer.status_code for answer in answers]


async def test_eight_clients_do_everything_over_one_connection(api: Api) -> None:
    began = Stopwatch()
    statuses = await asyncio.gather(*(everything(api, number) for number in range(CLIENTS)))
    assert {status for each in statuses for status in each} <= {200, 201, 202, 204}, statuses
    assert began.seconds() < 60


async def test_streams_that_wait_hold_no_connection(api: Api) -> None:
    async with api.client() as client:
        talk = {"files": {"file": ("a.wav", recording([440], "wav", "pcm_s16le"))}}
        job = (await client.post("/v1/transcribe", **talk)).json()["data"]
        async with AsyncExitStack() as streams:
            for _ in range(CLIENTS):
                events = client.stream("GET", f"/v1/jobs/{job['job_id']}/events")
                stream = await streams.enter_async_context(events)
                assert await anext(stream.aiter_lines()) == "event: progress"
            await upload(client, b"meanwhile")


async def test_readiness_goes_before_those_who_wait_for_a_connection(api: Api) -> None:
    """A busy pool is no outage of the database, so the pod stays in its Service."""

    async def load(number: int, until: asyncio.Event) -> None:
        async with api.client(f"user{number}") as client:
            while not until.is_set():
                await upload(client, b"%d %d" % (number, time.monotonic_ns()))

    enough = asyncio.Event()
    loading = [asyncio.create_task(load(number, enough)) for number in range(CLIENTS * 3)]
    try:
        async with httpx.AsyncClient(base_url=api.base, timeout=120) as kubelet:
            started = time.monotonic()
            while time.monotonic() - started < 2.5:  # its answer may be a second old
                began = Stopwatch()
                assert (await kubelet.get("/readyz")).status_code == 200
                assert began.seconds() < 3
    finally:
        enough.set()
        await asyncio.gather(*loading)


# -- workers, with one connection --------------------------------------------------------------------------------------


@pytest.fixture
async def only(tenant_database: TenantDatabase) -> AsyncIterator[Database]:
    await tenant_database.declare(GENEROUS)
    database = Database(tenant_database.url, pool_size=1, relaxed=True)
    yield database
    await database.aclose()


@pytest.fixture
def work(
    only: Database, tenant_database: TenantDatabase, folder_store: FolderStore, decoding_pool: DecodingPool
) -> Work:
    policy = PolicyReader(only)
    library = Library(tenant_id=tenant_database.tenant_id, database=only, store=folder_store, policy=policy)
    return Work(only, Queue(only), library, folder_store, decoding_pool, policy)


async def test_a_scanner_a_rescan_a_canary_and_a_sweep_need_one_connection(
    work: Work, clamd: ClamdAddress, folder_store: FolderStore
) -> None:
    def uploads(*, canary: bool = False) -> Uploads:
        return Uploads(
            tenant_id=work.library.tenant_id,
            database=work.database,
            store=folder_store,
            examiner=Examination(work.decoder),
            policy=work.policy,
            canary=canary,
        )

    scanner = Scanner(settings_for(clamd))
    drain = Drain("scan", scanner, work, DrainSettings(linger_seconds=0, lease_seconds=2), at_once=JOBS_AT_ONCE)
    await asyncio.gather(*(upload_to(uploads(), b"%d" % number) for number in range(20)))
    await upload_to(uploads(), EICAR)
    await send(uploads(canary=True), work.library)
    await drain.run()
    await work.database.call("UPDATE blob SET scan_engine = 'an older one'", ())
    await Rescan(work.database, work.policy, Clamd(settings_for(clamd))).run()
    await drain.run()
    await sweep(work.library)
    async with work.database.transaction() as tx:
        rows = await tx.execute("SELECT scan_status, count(*) FROM blob GROUP BY 1")
    found = dict(tuple(row) for row in rows)
    assert found == {"clean": 20, "infected": 1}  # nothing stays of the canary
