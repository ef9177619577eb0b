"""A tenant under load whose parts are killed at random, and a ledger of what it acknowledged.

The api, a scan worker, sweeps, PostgreSQL and versitygw are separate processes. Each is killed with SIGKILL and started
again, repeatedly. Clients upload files (small, large, duplicate, infected), read and delete them, and try again with
their Idempotency-Key. The ledger and the invariants are asserted, and nothing about time, so that a busy machine only
does less.

`MEDIA_SOAK_SECONDS` says how long (`make soak`: ten minutes).
"""

import asyncio
import contextlib
import hashlib
import os
import random
import secrets
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from media_core.auth.tokens import generate_key, mint, save_public_jwks
from media_core.database import Database
from media_core.errors import Unavailable
from media_core.items.library import Library
from media_core.policy import PolicyReader
from media_core.store import S3Store
from media_core.store.object_keys import content_key
from media_core.uploads.upload import BUFFER_BYTES
from media_operator.local.clamd import ClamdAddress
from media_operator.local.postgres import EmbeddedPostgres
from tests.integration.invariants import broken, later_and_swept, left
from tests.integration.servers import s3_servers
from tests.integration.servers.api import USER, eventually, mortal_postgres, new_tenant
from tests.integration.servers.clamd import MARKER
from tests.integration.tenancy import GENEROUS, TenantDatabase
from tests.ports import free_port
from tests.preloaded import API, WORKERS, Program

_log = structlog.stdlib.get_logger("soak")

SECONDS = float(os.environ.get("MEDIA_SOAK_SECONDS", "25"))
UPLOADERS, DELETERS, READERS = 4, 2, 2


@dataclass
class Ledger:
    """The acknowledged requests, and those without an answer."""

    stored: dict[str, str] = field(default_factory=dict)
    """Items that were acknowledged and that nobody deletes, with the hash of each."""
    deleted: set[str] = field(default_factory=set)
    """Items whose deletion was acknowledged."""
    unknown: int = 0
    """Uploads and deletions without an answer: their items may exist or not."""
    infected: set[str] = field(default_factory=set)
    """Contents that the scanner will find infected."""
    wrong: list[str] = field(default_factory=list)
    done: dict[str, int] = field(default_factory=dict)

    def count(self, what: str) -> None:
        self.done[what] = self.done.get(what, 0) + 1


class Part:
    """A process that is started again whenever it has ended, until `stop`."""

    def __init__(
        self, module: str, *arguments: str, environment: dict[str, str], log: Path, pause: float = 0.0
    ) -> None:
        self._module = module
        self._arguments = arguments
        self._environment = {**{k: v for k, v in os.environ.items() if not k.startswith("MEDIA_")}, **environment}
        self._log = log
        self._pause = pause
        self._process: Program | None = None
        self._ended = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._keeping = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        while True:
            self._process = Program(self._module, self._environment, self._log, *self._arguments)
            self._ended.clear()
            try:
                await self._process.ended()
            finally:
                self._process.kill()
                self._ended.set()
            await asyncio.sleep(self._pause)

    async def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            await self._ended.wait()

    async def stop(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        if self._process is not None:
            await asyncio.to_thread(self._process.wait)


class Clients:
    """All clients of the tenant."""

    def __init__(self, base: str, token: Callable[[], str], ledger: Ledger, ends: float) -> None:
        self._client = httpx.AsyncClient(base_url=base, timeout=15, verify=False, trust_env=False)  # noqa: S501 (it is http)
        self._token = token
        self._ledger = ledger
        self._ends = ends
        self._seeds: list[bytes] = [secrets.token_bytes(8) for _ in range(4)]

    @property
    def over(self) -> bool:
        return time.monotonic() > self._ends

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _ask(self, method: str, path: str, **options: Any) -> httpx.Response | None:
        """The answer, after retries as a client makes them; None: there was none in time."""
        headers = {"Authorization": f"Bearer {self._token()}", **options.pop("headers", {})}
        for attempt in range(30):
            with contextlib.suppress(httpx.TransportError):
                answer = await self._client.request(method, path, headers=headers, **options)
                if answer.status_code < 500:
                    return answer
            self._ledger.count("tried again")
            if self.over:
                return None
            await asyncio.sleep(min(1.0, 0.05 * 2**attempt))
        return None

    def _data(self) -> bytes:
        chance = random.random()
        if chance < 0.35:
            return random.choice(self._seeds) * 500  # what others upload and delete at the same time
        if chance < 0.42:
            return secrets.token_bytes(8) + MARKER
        if chance < 0.47:
            return secrets.token_bytes(64) * ((BUFFER_BYTES + 100_000) // 64)
        return secrets.token_bytes(random.randint(1, 50_000))

    async def upload(self) -> None:
        data = self._data()
        sha256 = hashlib.sha256(data).hexdigest()
        if MARKER in data:
            self._ledger.infected.add(sha256)
        answer = await self._ask(
            "POST",
            "/v1/media/upload",
            files={"file": ("a.bin", data)},
            data={"room_id": "garden"},
            headers={"Idempotency-Key": secrets.token_hex(16)},
        )
        if answer is None:
            self._ledger.unknown += 1
        elif answer.status_code == 201:
            stored = answer.json()["data"]
            if stored["sha256"] != sha256:
                self._ledger.wrong.append(f"{sha256} was sent and {stored} answered")
            self._ledger.stored[stored["media_id"]] = sha256
            self._ledger.count("stored")
        elif answer.json().get("code") != "infected":
            self._ledger.wrong.append(f"an upload was refused: {answer.text}")

    def _some_item(self) -> tuple[str, str] | None:
        items = [(media_id, sha) for media_id, sha in self._ledger.stored.items() if sha not in self._ledger.infected]
        return random.choice(items) if items else None

    async def delete(self) -> None:
        await asyncio.sleep(random.random() * 0.3)
        item = self._some_item()
        if item is None or self.over:
            return
        del self._ledger.stored[item[0]]
        answer = await self._ask("DELETE", f"/v1/media/{item[0]}")
        if answer is None:
            self._ledger.unknown += 1
        elif answer.status_code == 204:
            self._ledger.deleted.add(item[0])
            self._ledger.count("deleted")
        else:
            self._ledger.wrong.append(f"{item} was acknowledged, and its deletion answered {answer.text}")

    async def read(self) -> None:
        item = self._some_item()
        if item is None:
            await asyncio.sleep(0.1)
            return
        answer = await self._ask("GET", f"/v1/media/download/{item[0]}")
        if answer is None or item[0] not in self._ledger.stored:
            return
        if answer.status_code == 200:
            self._ledger.count("read")
            if hashlib.sha256(answer.content).hexdigest() != item[1]:
                self._ledger.wrong.append(f"{item} was read with other bytes")
        elif answer.json().get("code") == "scan_pending":
            await asyncio.sleep(0.2)
        else:
            self._ledger.wrong.append(f"{item} was acknowledged, and reading it answered {answer.text}")

    async def until_it_is_over(self, what: Callable[[], Awaitable[None]]) -> None:
        while not self.over:
            await what()


@pytest.fixture
def mortal() -> Iterator[EmbeddedPostgres]:
    with mortal_postgres() as server:
        yield server


@pytest.fixture
async def bucket(tmp_path: Path) -> AsyncIterator[list[s3_servers.S3Server]]:
    """The tenant's bucket, on the server that runs now."""
    folder = tmp_path / "versitygw"
    folder.mkdir()
    servers = [await s3_servers.start("versitygw", folder)]
    yield servers
    servers[-1].stop()


async def test_whatever_is_killed_what_was_acknowledged_is_there_and_nothing_else_is_charged(
    mortal: EmbeddedPostgres, bucket: list[s3_servers.S3Server], clamd: ClamdAddress, tmp_path: Path
) -> None:
    with new_tenant(mortal) as tenant:
        await tenant.declare(replace(GENEROUS, max_bytes=1 << 40))  # ten minutes fill the usual one
        await _soak(mortal, bucket, clamd, tenant, tmp_path)


async def _soak(
    mortal: EmbeddedPostgres,
    bucket: list[s3_servers.S3Server],
    clamd: ClamdAddress,
    tenant: TenantDatabase,
    folder: Path,
) -> None:
    key = generate_key()
    save_public_jwks(folder / "jwks.json", [key])
    port = free_port()
    settings = bucket[-1].settings
    environment = {
        "MEDIA_TENANT_ID": tenant.tenant_id,
        "MEDIA_DATABASE_URL": tenant.url,
        "MEDIA_STORE": "s3",
        "MEDIA_S3_ENDPOINT": settings.endpoint,
        "MEDIA_S3_BUCKET": settings.bucket,
        "MEDIA_S3_ACCESS_KEY_ID": settings.access_key_id,
        "MEDIA_S3_SECRET_ACCESS_KEY": settings.secret_access_key.get_secret_value(),
        "MEDIA_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "MEDIA_JWKS_FILE": str(folder / "jwks.json"),
        "MEDIA_API_PORT": str(port),
        "MEDIA_API_METRICS_PORT": "0",
        "MEDIA_API_PROCESSES": "1",
        "MEDIA_METRICS_PORT": "0",
        "MEDIA_CLAMD_HOST": clamd.host,
        "MEDIA_CLAMD_PORT": str(clamd.port),
        "MEDIA_WORKER_LEASE_SECONDS": "3",
        "MEDIA_RETENTION_ORPHAN_DAYS": "0",
        "MEDIA_RETENTION_ORPHANS_FEW": "100000",
    }
    parts = {
        "api": Part(API, environment=environment, log=folder / "api.log"),
        "worker": Part(WORKERS, "scan", environment=environment, log=folder / "worker.log"),
        "sweep": Part(WORKERS, "sweep", environment=environment, log=folder / "sweep.log", pause=2.0),
    }

    async def ended() -> bool:
        return not mortal.running

    async def postgres_dies() -> None:
        assert mortal.pid is not None
        os.kill(mortal.pid, signal.SIGKILL)
        await eventually(ended)
        await asyncio.sleep(random.random())
        await asyncio.to_thread(mortal.start)

    async def store_dies() -> None:
        process = bucket[-1].process
        assert process is not None
        process.kill()
        await asyncio.to_thread(process.wait)
        await asyncio.sleep(random.random())
        bucket.append(await s3_servers.start("versitygw", folder / "versitygw", bucket[-1]))

    deaths: dict[str, Callable[[], Awaitable[None]]] = {
        **{name: part.kill for name, part in parts.items()},
        "postgres": postgres_dies,
        "store": store_dies,
    }
    ledger = Ledger()
    for part in parts.values():
        part.start()
    try:
        async with httpx.AsyncClient(base_url=environment["MEDIA_PUBLIC_URL"], trust_env=False) as asking:
            await eventually(lambda: _answers(asking), 120)
        ends = time.monotonic() + SECONDS
        token = mint(
            key,
            tenant_id=tenant.tenant_id,
            subject="alice",
            scopes=USER,
            rooms=("garden",),
            lifetime=timedelta(seconds=SECONDS + 600),
        )
        clients = Clients(environment["MEDIA_PUBLIC_URL"], lambda: token, ledger, ends)
        async with asyncio.TaskGroup() as group:
            for what, many in ((clients.upload, UPLOADERS), (clients.delete, DELETERS), (clients.read, READERS)):
                for _ in range(many):
                    group.create_task(clients.until_it_is_over(what))
            group.create_task(_killing(deaths, ledger, ends))
        await clients.aclose()
    finally:
        for part in parts.values():
            await part.stop()
    print({**ledger.done, "unknown": ledger.unknown, "kept": len(ledger.stored)})
    assert mortal.running, mortal.last_words()
    await _looked_at(tenant, bucket[-1], ledger)


async def _killing(deaths: dict[str, Callable[[], Awaitable[None]]], ledger: Ledger, ends: float) -> None:
    while time.monotonic() < ends:
        await asyncio.sleep(random.random() * 2.5)
        name = random.choice(list(deaths))
        await deaths[name]()
        ledger.count(f"{name} killed")


async def _answers(client: httpx.AsyncClient) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return (await client.get("/readyz")).status_code == 200
    return False


async def _looked_at(tenant: TenantDatabase, server: s3_servers.S3Server, ledger: Ledger) -> None:
    """Checks the ledger, the rows and the bucket, after all processes have ended."""
    assert ledger.wrong == []
    store = S3Store(server.settings, tenant.tenant_id)
    database, owner = Database(tenant.url, pool_size=2), Database(tenant.owner_url, pool_size=1)
    library = Library(tenant_id=tenant.tenant_id, database=database, store=store, policy=PolicyReader(database))
    try:
        await eventually(lambda: _ready(database))
        assert await broken(database, store, tenant.tenant_id) == []
        await later_and_swept(library, owner, tenant.schema)
        assert await broken(database, store, tenant.tenant_id) == []
        remains = await left(database, store, tenant.tenant_id)
        assert (remains.reservations, remains.marked, remains.orphans, remains.loose_objects) == (0, 0, 0, 0), remains
        async with database.transaction() as tx:
            items = {
                row.media_id: row
                for row in await tx.execute("SELECT media_id, sha256, scan_status FROM media JOIN blob USING (sha256)")
            }
        assert ledger.stored.keys() <= items.keys()
        assert not ledger.deleted & items.keys()
        assert len(items) <= len(ledger.stored) + ledger.unknown
        for media_id, sha256 in ledger.stored.items():
            row = items[media_id]
            assert row.sha256 == sha256
            if row.scan_status == "infected":
                assert sha256 in ledger.infected
                continue
            data = b"".join([chunk async for chunk in store.stream(content_key(tenant.tenant_id, sha256))])
            assert hashlib.sha256(data).hexdigest() == sha256
            assert sha256 not in ledger.infected or row.scan_status != "clean"
    finally:
        await database.aclose()
        await owner.aclose()
        await store.aclose()


async def _ready(database: Database) -> bool:
    try:
        await database.probe()
    except Unavailable as error:
        _log.warning("not_ready", detail=error.detail, cause=repr(error.__cause__))
        return False
    return True
