"""The real api on a real socket: in a thread (uvloop, httptools, the app), or as the process that a tenant runs.

Both serve a fresh tenant with an embedded PostgreSQL schema and a folder store. The tests do a worker's part (a
verdict, a thumbnail, a transcript) through the same `Library` and `Queue` that workers use.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import secrets
import socket
import ssl
import subprocess
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import IO, Any, Literal

import httpx
import psycopg
import pytest
from pydantic import SecretStr

from media_api import server
from media_api.app import create_app, services_of
from media_api.metrics import Metrics
from media_api.middleware.cors import marks_of
from media_api.settings import AuthSettings, CorsSettings, PageSettings, ServerSettings, Settings
from media_core import policy
from media_core.auth.tokens import ALL, AllRooms, Jwk, generate_key, mint, save_public_jwks
from media_core.database import Database
from media_core.items.library import Library
from media_core.jobs.queue import Lease, Queue
from media_core.policy import Policy, PolicyReader
from media_core.settings import DecodingSettings, TenantSettings, TranscriptionSettings
from media_core.store import FolderStore, StoreSettings
from media_operator.local.postgres import EmbeddedPostgres
from tests.integration.acting import verdict
from tests.integration.servers.migrating import empty_tables, make_tables, shape
from tests.integration.servers.postgres_folder import CopiedPostgres, postgres_folder
from tests.integration.tenancy import GENEROUS, TenantDatabase
from tests.ports import free_port
from tests.preloaded import API, Program

_HAS_VERDICT = """
SELECT sha256 FROM blob WHERE sha256 = %s AND scan_status = %s AND NOT EXISTS (
    SELECT FROM job WHERE kind = 'scan' AND dedupe_key = sha256 AND status IN ('queued','running'))
"""
USER = ("media:read", "media:write", "transcribe")
Rooms = Iterable[str] | Literal[AllRooms.ALL]


_NO_TLS = ssl.create_default_context()
"""Made once: otherwise each client would make its own, which takes longer than most calls here."""


@dataclass
class Api:
    """A tenant's running api, and the tenant's core as a worker would have it."""

    base: str
    metrics_base: str | None
    tenant: TenantDatabase
    key: Jwk
    jwks_file: Path
    database: Database
    store: FolderStore
    process: subprocess.Popen[bytes] | Program | None = None
    environment: dict[str, str] = field(default_factory=dict)
    """Of that process, for another one like it."""

    @property
    def address(self) -> tuple[str, int]:
        url = httpx.URL(self.base)
        return url.host, url.port or 80

    @property
    def library(self) -> Library:
        return Library(
            tenant_id=self.tenant.tenant_id,
            database=self.database,
            store=self.store,
            policy=PolicyReader(self.database),
        )

    def token(
        self,
        subject: str = "alice",
        *,
        rooms: Rooms = ("garden",),
        scopes: Iterable[str] = USER,
        lifetime: timedelta = timedelta(minutes=30),
        tenant_id: str | None = None,
        key: Jwk | None = None,
    ) -> str:
        return mint(
            key or self.key,
            tenant_id=tenant_id or self.tenant.tenant_id,
            subject=subject,
            scopes=scopes,
            rooms=rooms,
            lifetime=lifetime,
        )

    def client(self, subject: str = "alice", **claims: Any) -> httpx.AsyncClient:
        """An HTTP client with a token; `subject="root"` is an admin who has no other scope."""
        if subject == "root":
            claims = {"scopes": ["admin"], "rooms": ALL, **claims}
        headers = {"Authorization": f"Bearer {self.token(subject, **claims)}"}
        return httpx.AsyncClient(base_url=self.base, headers=headers, timeout=120, verify=_NO_TLS)

    async def apply(self, changed: Policy) -> None:
        """Applies a policy, as the operator does, and waits until it takes effect."""
        await self.tenant.declare(changed)
        await asyncio.sleep(policy.FRESH_SECONDS + 0.05)

    async def verdict(self, sha256: str, status: str = "clean") -> None:
        """Records a verdict, as a scan worker does after clamd's answer. An earlier test may have recorded it."""
        known = await self.library.database.call(_HAS_VERDICT, (sha256, status))
        if known:
            return
        lease = await self._lease("scan", sha256)
        detail = "Eicar-Test-Signature" if status == "infected" else None
        await verdict(self.library, lease, status, detail)

    async def thumbnail(self, sha256: str, webp: bytes) -> None:
        """Stores a thumbnail, as a thumbnail worker does for a video."""
        lease = await self._lease("thumbnail", sha256)
        await self.library.contents.keep_thumbnail(
            job_id=lease.job_id,
            token=lease.token,
            sha256=sha256,
            data=webp,
            digest=hashlib.sha256(webp).hexdigest(),
            width=64,
            height=48,
        )

    async def lease(self, job_id: str) -> Lease:
        return await self._lease_of(lambda lease: lease.job_id == job_id, "transcribe")

    async def _lease(self, kind: str, sha256: str) -> Lease:
        return await self._lease_of(lambda lease: lease.payload["sha256"] == sha256, kind)

    async def _lease_of(self, wanted: Callable[[Lease], bool], kind: str) -> Lease:
        queue = Queue(self.database)
        others: list[Lease] = []
        try:
            while True:
                lease = await queue.lease(kind, worker="test", seconds=60)
                assert lease is not None, f"no such {kind} job"
                if wanted(lease):
                    return lease
                others.append(lease)
        finally:
            for other in others:
                await queue.release(other)


def anybody(base: str = "") -> httpx.AsyncClient:
    """An HTTP client without a token."""
    return httpx.AsyncClient(base_url=base, timeout=120, verify=_NO_TLS)


async def upload(client: httpx.AsyncClient, data: bytes, name: str = "a.bin", **fields: str) -> dict[str, Any]:
    """A successful upload's `data`."""
    answer = await client.post("/v1/media/upload", files={"file": (name, data)}, data=fields)
    assert answer.status_code == 201, answer.text
    uploaded: dict[str, Any] = answer.json()["data"]
    return uploaded


@dataclass(frozen=True)
class Left:
    """What a tenant stores. A refused or broken upload must not change it."""

    blobs: int
    media: int
    reserved: int
    reservations: int
    objects: int
    staged: int


async def left(api: Api) -> Left:
    async with api.database.transaction() as tx:
        row = await tx.first(
            "SELECT (SELECT count(*) FROM blob) AS blobs, (SELECT count(*) FROM media) AS media, "
            "(SELECT reserved_bytes FROM usage) AS reserved, (SELECT count(*) FROM reservation) AS reservations"
        )
    objects = sum([1 async for _ in api.store.list()])
    staging = Path(api.store._root) / "tenant" / api.tenant.tenant_id / ".staging"
    return Left(*row, objects, len(list(staging.glob("*"))) if staging.exists() else 0)


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Asserts that the answer is this problem, and returns its body."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    body: dict[str, Any] = answer.json()
    assert body["code"] == code, body
    assert {"type", "title", "status", "detail", "code"} <= body.keys()
    assert body["status"] == status
    assert answer.headers["x-request-id"]
    return body


@contextmanager
def mortal_postgres(prepare: Callable[[EmbeddedPostgres], None] = lambda _: None) -> Iterator[EmbeddedPostgres]:
    """A server for one test, which may be killed and keeps what was committed. `prepare` is called before its start."""
    with postgres_folder() as folder:
        server = CopiedPostgres(folder / "data")
        try:
            prepare(server)
            server.start()
            yield server
        finally:
            server.stop()


def make_tenant(postgres: EmbeddedPostgres) -> TenantDatabase:
    tenant_id = f"t{secrets.token_hex(6)}"
    schema, password = f"tenant_{tenant_id}", secrets.token_hex(16)
    owner = _owner(postgres)
    for statement in (
        f"CREATE ROLE {schema} LOGIN PASSWORD '{password}'",
        f"CREATE SCHEMA {schema}",
        f"GRANT USAGE ON SCHEMA {schema} TO {schema}",
        f"ALTER ROLE {schema} SET search_path = {schema}",
    ):
        owner.execute(statement.encode())
    url = postgres.url("postgres", user=schema, password=password)
    make_tables(owner, postgres.admin_url, schema)
    return TenantDatabase(tenant_id, schema, url, postgres.admin_url)


@contextmanager
def new_tenant(postgres: EmbeddedPostgres, *, anew: bool = False) -> Iterator[TenantDatabase]:
    """A tenant as `make_tenant` makes it. Its name is new.

    Its tables may have been an earlier tenant's, of which only rows had been changed: to empty them takes a fifth of
    the time. With `anew` they are made.
    """
    left = _LEFT.setdefault(postgres, [])
    tenant = _renamed(postgres, left.pop()) if left and not anew else make_tenant(postgres)
    made = shape(_owner(postgres), tenant.schema)
    yield tenant
    owner = _owner(postgres)  # the test may have killed the server
    owner.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [tenant.schema])
    if shape(owner, tenant.schema) == made:
        empty_tables(owner, tenant.schema)
        left.append(tenant.schema)
        return
    owner.execute(f"DROP SCHEMA {tenant.schema} CASCADE".encode())
    owner.execute(f"DROP ROLE {tenant.schema}".encode())


_LEFT: "weakref.WeakKeyDictionary[EmbeddedPostgres, list[str]]" = weakref.WeakKeyDictionary()
"""By server: schemas of earlier tenants, with the rows of new ones."""


def _renamed(postgres: EmbeddedPostgres, old: str) -> TenantDatabase:
    tenant_id = f"t{secrets.token_hex(6)}"
    schema, password = f"tenant_{tenant_id}", secrets.token_hex(16)
    _owner(postgres).execute(
        f"ALTER SCHEMA {old} RENAME TO {schema}; ALTER ROLE {old} RENAME TO {schema}; "
        f"ALTER ROLE {schema} PASSWORD '{password}'; ALTER ROLE {schema} SET search_path = {schema}".encode()
    )
    return TenantDatabase(
        tenant_id, schema, postgres.url("postgres", user=schema, password=password), postgres.admin_url
    )


_OWNERS: "weakref.WeakKeyDictionary[EmbeddedPostgres, psycopg.Connection[Any]]" = weakref.WeakKeyDictionary()


def _owner(postgres: EmbeddedPostgres) -> "psycopg.Connection[Any]":
    """A session of the tables' owner, in autocommit. Shared: a new one would look the whole catalog up again."""
    session = _OWNERS.get(postgres)
    if session is not None:
        with contextlib.suppress(psycopg.OperationalError):
            session.execute("SELECT 1")
            return session
        session.close()
    session = psycopg.connect(postgres.admin_url.replace("+psycopg", ""), autocommit=True)
    weakref.finalize(postgres, session.close)
    _OWNERS[postgres] = session
    return session


@dataclass
class _Place:
    tenant: TenantDatabase
    key: Jwk
    jwks_file: Path
    bucket: Path
    signing_key: str
    port: int

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def _place(postgres: EmbeddedPostgres, folder: Path, port: int) -> AsyncIterator[_Place]:
    with new_tenant(postgres) as tenant:
        key = generate_key()
        jwks_file = folder / "jwks.json"
        save_public_jwks(jwks_file, [key])
        yield _Place(tenant, key, jwks_file, folder / "bucket", secrets.token_hex(32), port)


@asynccontextmanager
async def _api(place: _Place, applied: Policy) -> AsyncIterator[Api]:
    await place.tenant.declare(applied)
    database = Database(place.tenant.url, pool_size=4)
    store = FolderStore(place.bucket, place.tenant.tenant_id, place.signing_key.encode(), place.base)
    yield Api(place.base, None, place.tenant, place.key, place.jwks_file, database, store)
    await database.aclose()


@asynccontextmanager
async def serving(
    postgres: EmbeddedPostgres,
    folder: Path,
    *,
    applied: Policy = GENEROUS,
    auth: AuthSettings | None = None,
    cors: CorsSettings | None = None,
    page: PageSettings | None = None,
    sync_seconds: float = 30,
    database_pool: int = 10,
    through: Callable[[str], str] = str,
    **server_settings: Any,
) -> AsyncIterator[Api]:
    """Runs the api in a thread of this process, with an event loop of its own.

    `through`: makes the database URL that it uses from the direct one.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    async with (
        _place(postgres, folder, listener.getsockname()[1]) as place,
        _api(place, applied) as api,
    ):
        settings = Settings(
            tenant=TenantSettings(
                tenant_id=place.tenant.tenant_id,
                database_url=SecretStr(through(place.tenant.url)),
                database_pool=database_pool,
            ),
            store=StoreSettings(
                store="folder",
                store_folder=place.bucket,
                store_signing_key=SecretStr(place.signing_key),
                public_url=place.base,
            ),
            auth=auth or AuthSettings(jwks_file=place.jwks_file),
            server=ServerSettings(**server_settings),
            cors=cors or CorsSettings(),
            page=page or PageSettings(),
            transcription=TranscriptionSettings(sync_seconds=sync_seconds),
            decoding=DecodingSettings(processes=1),
        )
        metrics = Metrics()
        api.metrics_base = f"http://127.0.0.1:{metrics.serve('127.0.0.1', 0)}"
        app = create_app(settings, metrics)

        def drain() -> None:
            if (services := services_of(app)) is not None:
                services.drain()

        config = server.config(app, shutdown_seconds=5, marks=marks_of(settings.cors.origins))
        running = server.Server(config, drain)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            await _stands(api.base)
            yield api
        finally:
            running.should_exit = True
            await asyncio.to_thread(thread.join)


@pytest.fixture(scope="session")
async def api(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """One api for all tests that do not depend on totals or policy. Their subjects, rooms and contents differ."""
    async with serving(postgres, tmp_path_factory.mktemp("api")) as one:
        yield one


@pytest.fixture
async def fresh_api(postgres: EmbeddedPostgres, tmp_path: Path) -> AsyncIterator[Api]:
    """An api whose tenant is this test's alone."""
    async with serving(postgres, tmp_path) as one:
        yield one


@asynccontextmanager
async def process(
    postgres: EmbeddedPostgres,
    folder: Path,
    *,
    applied: Policy = GENEROUS,
    preloaded: bool = True,
    **environment: str,
) -> AsyncIterator[Api]:
    """The api as a child process, as a tenant runs it. Its log is `api.log` in `folder`.

    `preloaded`: it shares the memory of its modules with others, and stands sooner.
    """
    port = free_port()
    async with _place(postgres, folder, port) as place, _api(place, applied) as api:
        told = {
            "MEDIA_TENANT_ID": place.tenant.tenant_id,
            "MEDIA_DATABASE_URL": place.tenant.url,
            "MEDIA_STORE": "folder",
            "MEDIA_STORE_FOLDER": str(place.bucket),
            "MEDIA_STORE_SIGNING_KEY": place.signing_key,
            "MEDIA_PUBLIC_URL": place.base,
            "MEDIA_JWKS_FILE": str(place.jwks_file),
            "MEDIA_API_PORT": str(port),
            "MEDIA_API_METRICS_PORT": "0",
            "MEDIA_API_PROCESSES": "1",
            **environment,
        }
        child = _start(told, folder / "api.log", preloaded=preloaded)
        api.process, api.environment = child, told
        try:
            await _stands(api.base)
            api.metrics_base = f"http://127.0.0.1:{_listening(folder)['metrics_port']}"
            yield api
        finally:
            child.kill()
            await asyncio.to_thread(child.wait)


@asynccontextmanager
async def beside(api: Api, folder: Path, **changed: str) -> AsyncIterator[str]:
    """The base URL of a second process that serves the same tenant."""
    port = free_port()
    child = _start({**api.environment, "MEDIA_API_PORT": str(port), **changed}, folder / "beside.log")
    try:
        base = f"http://127.0.0.1:{port}"
        await _stands(base)
        yield base
    finally:
        child.kill()
        await asyncio.to_thread(child.wait)


def preloaded_start(environment: dict[str, str], log: Path) -> Program:
    """It shares the memory of its modules with others, and stands sooner."""
    return Program(API, _of_a_pod(environment), log)


def start(environment: dict[str, str], log: IO[bytes] | int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "media_api"]
    return subprocess.Popen(command, env=_of_a_pod(environment), stdout=subprocess.DEVNULL, stderr=log)


def _start(environment: dict[str, str], log: Path, *, preloaded: bool = True) -> subprocess.Popen[bytes] | Program:
    if preloaded:
        return preloaded_start(environment, log)
    with log.open("wb") as written:
        return start(environment, written)


def _of_a_pod(environment: dict[str, str]) -> dict[str, str]:
    """No setting comes from the shell of who runs the tests."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MEDIA_")} | environment


def log_lines(folder: Path) -> list[dict[str, Any]]:
    """What the api process has logged so far."""
    lines = []
    for line in (folder / "api.log").read_text().splitlines():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    return lines


def _listening(folder: Path) -> dict[str, Any]:
    return next(line for line in log_lines(folder) if line["event"] == "listening")


async def _stands(base: str) -> None:
    """Returns once the api at `base` is ready."""

    async def ready() -> bool:
        try:
            return (await client.get("/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    async with anybody(base) as client:
        await eventually(ready)


async def eventually(condition: Callable[[], Awaitable[object]], seconds: float = 180) -> None:
    """Repeats the check until it holds, for changes that another process makes."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 (there is no event to wait for in another process)
            await asyncio.sleep(0.02)
