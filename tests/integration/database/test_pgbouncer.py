"""The whole data plane behind a real PgBouncer in transaction mode: two server connections, many clients.

Code that relies on a session fails there: another client's transaction runs in it a moment later.
"""

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from media_core.database import CHANNEL, Database
from media_core.errors import Unavailable
from media_core.jobs.queue import Queue, enqueue
from media_operator.backends.databases import Databases, password_of
from media_operator.local.clamd import ClamdAddress
from media_operator.local.postgres import EmbeddedPostgres
from tests.fixtures.media import photo
from tests.integration.database.test_databases import settings_for
from tests.integration.servers.api import Api, eventually, new_tenant, problem, serving, upload
from tests.integration.servers.failing_over import kill, server_that_may_fail
from tests.integration.servers.pgbouncer import SERVER_CONNECTIONS, PgBouncer, pgbouncer, pooled  # noqa: F401
from tests.integration.servers.postgres_folder import postgres_folder
from tests.integration.store.test_private_authority import made
from tests.integration.tenancy import FIXTURES, GENEROUS, MIB, TenantDatabase
from tests.preloaded import WORKERS, Program

CLIENTS = 12
WORDS = FIXTURES / "whisper-tiny-words"


def plain(url: str) -> str:
    return url.replace("+psycopg", "")


@pytest.fixture
async def api(postgres: EmbeddedPostgres, pgbouncer: PgBouncer, tmp_path: Path) -> AsyncIterator[Api]:  # noqa: F811
    async with serving(postgres, tmp_path, through=pgbouncer.url) as one:
        yield one


@pytest.fixture
async def pooled_database(
    tenant_database: TenantDatabase,
    pgbouncer: PgBouncer,  # noqa: F811
) -> AsyncIterator[Database]:
    await tenant_database.declare(GENEROUS)
    database = Database(pgbouncer.url(tenant_database.url), relaxed=True)
    yield database
    await database.aclose()


async def worker(kind: str, api: Api, pgbouncer: PgBouncer, folder: Path, **more: str) -> str:  # noqa: F811
    """Runs a worker as a Job does, from start to end. Returns its log."""
    environment = {
        "PATH": os.environ["PATH"],
        "MEDIA_TENANT_ID": api.tenant.tenant_id,
        "MEDIA_DATABASE_URL": pgbouncer.url(api.tenant.url),
        "MEDIA_STORE": "folder",
        "MEDIA_STORE_FOLDER": str(api.store._root),
        "MEDIA_WORKER_LINGER_SECONDS": "0",
        "MEDIA_DATABASE_POOL": "1",
        **more,
    }
    log = folder / f"{kind}-{secrets.token_hex(4)}.log"
    status = await asyncio.to_thread(Program(WORKERS, environment, log, kind).wait)
    assert status == 0, log.read_text()
    return log.read_text()


async def sessions(api: Api, pgbouncer: PgBouncer) -> list[Any]:  # noqa: F811
    """The session state that is left in each server connection of the tenant's clients."""
    url = plain(pgbouncer.url(api.tenant.url))
    left = []
    clients = [await psycopg.AsyncConnection.connect(url, prepare_threshold=None) for _ in range(SERVER_CONNECTIONS)]
    try:
        for client in clients:  # each is in a transaction, so each has a server connection of its own
            asked = await client.execute(
                "SELECT pg_backend_pid() AS pid, (SELECT count(*) FROM pg_prepared_statements) AS prepared,"
                " (SELECT count(*) FROM pg_listening_channels()) AS listening,"
                " (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()) AS locks,"
                " (SELECT count(*) FROM pg_cursors WHERE name <> '') AS cursors,"
                " (SELECT count(*) FROM pg_settings WHERE source = 'session') AS settings"
            )
            left.append(await asked.fetchone())
    finally:
        for client in clients:
            await client.close()
    assert len({one[0] for one in left}) == SERVER_CONNECTIONS
    return [one[1:] for one in left]


async def test_a_startup_parameter_would_be_refused(
    tenant_database: TenantDatabase,
    pgbouncer: PgBouncer,  # noqa: F811
) -> None:
    """So all clients that connect in these tests send none."""
    url = plain(pgbouncer.url(tenant_database.url))
    with pytest.raises(psycopg.OperationalError, match="unsupported startup parameter"):
        await psycopg.AsyncConnection.connect(url, options="-c synchronous_commit=off")


async def test_many_clients_do_everything_at_once_and_leave_nothing_in_the_sessions(
    api: Api,
    pgbouncer: PgBouncer,  # noqa: F811
) -> None:
    picture = photo(300, 200)

    async def one_client(number: int) -> None:
        subject = f"user{number}"
        small, large = b"small %d" % number, os.urandom(9 * MIB)
        async with api.client(subject) as client:
            mine = await upload(client, small, "a.txt", room_id="garden")
            same = await upload(client, picture, "a.jpg")
            big = await upload(client, large, "a.bin")
            key = {"Idempotency-Key": f"key-{number}"}
            files = {"file": ("b.txt", b"once %d" % number)}
            once = await client.post("/v1/media/upload", files=files, headers=key)
            again = await client.post("/v1/media/upload", files=files, headers=key)
            assert (once.status_code, again.json()) == (201, once.json())
            listed = (await client.get("/v1/rooms/garden/files", params={"limit": 200})).json()["data"]
            assert mine["media_id"] in {entry["media_id"] for entry in listed}
            assert (await client.get(f"/v1/media/{same['media_id']}/info")).status_code == 200
            for media_id in (mine["media_id"], big["media_id"], once.json()["data"]["media_id"]):
                assert (await client.delete(f"/v1/media/{media_id}")).status_code == 204

    await asyncio.gather(*(one_client(number) for number in range(CLIENTS)))
    async with api.client("root", scopes=["admin"]) as admin:
        used = (await admin.get("/v1/usage")).json()["data"]
    assert (used["files"], used["objects"], used["reserved_bytes"]) == (CLIENTS, 1, 0), used
    assert await sessions(api, pgbouncer) == [(0, 0, 0, 0, 0)] * SERVER_CONNECTIONS


async def test_workers_behind_it_scan_transcribe_and_sweep(
    api: Api,
    pgbouncer: PgBouncer,  # noqa: F811
    clamd: ClamdAddress,
    tmp_path: Path,
) -> None:
    async with api.client() as client:
        uploaded = [await upload(client, b"harmless %d" % number) for number in range(20)]
        spoken = (WORDS / "samples" / "greeting_en.wav").read_bytes()
        asked = await client.post("/v1/transcribe", files={"file": ("a.wav", spoken)})
        job = f"/v1/jobs/{asked.json()['data']['job_id']}"
        at = {"MEDIA_CLAMD_HOST": clamd.host, "MEDIA_CLAMD_PORT": str(clamd.port)}
        await asyncio.gather(*(worker("scan", api, pgbouncer, tmp_path, **at) for _ in range(2)))
        for one, number in zip(uploaded, range(20), strict=True):
            assert (await client.get(f"/v1/media/download/{one['media_id']}")).content == b"harmless %d" % number
        await worker("transcribe", api, pgbouncer, tmp_path, MEDIA_WHISPER_MODEL=str(WORDS / "model"))
        heard = (await client.get(job)).json()["data"]
        assert heard["status"] == "completed", heard
        assert heard["transcript"]
        assert (await client.get(f"{job}/transcript.srt")).text.startswith("1\n")
        for one in uploaded:
            assert (await client.delete(f"/v1/media/{one['media_id']}")).status_code == 204
    assert '"mismatch": ""' in await worker("sweep", api, pgbouncer, tmp_path)
    assert await sessions(api, pgbouncer) == [(0, 0, 0, 0, 0)] * SERVER_CONNECTIONS


async def test_a_change_of_policy_is_seen_within_a_second(api: Api) -> None:
    async with api.client() as client:
        await upload(client, b"x" * 2000)
        await api.apply(replace(GENEROUS, max_upload_bytes=1000))
        refused = await client.post("/v1/media/upload", files={"file": ("a", b"y" * 2000)})
        problem(refused, 413, "file_too_large")


async def test_whoever_listens_directly_hears_what_is_queued_through_it(
    api: Api,
    postgres: EmbeddedPostgres,
) -> None:
    async with await psycopg.AsyncConnection.connect(plain(postgres.admin_url), autocommit=True) as operator:
        await operator.execute(f"LISTEN {CHANNEL}")
        async with api.client() as client:
            await upload(client, b"to be scanned")
        async with asyncio.timeout(60):
            async for heard in operator.notifies():
                if heard.payload == api.tenant.schema:
                    return


async def test_leases_of_many_workers_exclude_each_other(pooled_database: Database) -> None:
    async with pooled_database.transaction() as tx:
        queued = {await enqueue(tx, "scan", {"sha256": f"{number:064}"}) for number in range(60)}
    queues = [Queue(pooled_database) for _ in range(6)]
    taken = await asyncio.gather(*(queue.lease_many("scan", worker="w", seconds=30, most=10) for queue in queues))
    leases = [lease for each in taken for lease in each]
    assert len(leases) == len({lease.job_id for lease in leases})
    assert {lease.job_id for lease in leases} <= queued
    await asyncio.gather(*(queues[0].renew(lease, seconds=30) for lease in leases))
    await asyncio.gather(*(queues[0].finish(lease, {}) for lease in leases))


async def test_what_a_relaxed_process_loses_is_only_its_own(pooled_database: Database) -> None:
    """`synchronous_commit` is turned off for a transaction, not for the session, which clients share."""
    async with pooled_database.transaction() as tx:
        assert (await tx.value("SHOW synchronous_commit")) == "off"
    ((outside,),) = await pooled_database.call("SELECT source FROM pg_settings WHERE name = 'synchronous_commit'", ())
    assert outside != "session"


async def test_statements_may_be_prepared_where_pgbouncer_keeps_them(
    postgres: EmbeddedPostgres,
    pgbouncer: PgBouncer,  # noqa: F811
    tenant_database: TenantDatabase,
) -> None:
    """Our setting for that is off by default."""
    keeps_them = pgbouncer.version() >= (1, 21)
    with pooled(postgres, **({"max_prepared_statements": 100} if keeps_them else {})) as bouncer:
        database = Database(bouncer.url(tenant_database.url), prepare=True)

        async def many(number: int) -> None:
            for again in range(20):
                assert await database.call("SELECT %s::int + %s::int AS n", (number, again)) == [(number + again,)]

        with contextlib.nullcontext() if keeps_them else pytest.raises(psycopg.Error):
            await asyncio.gather(*(many(number) for number in range(10)))
        await database.aclose()


# -- what PgBouncer itself says ----------------------------------------------------------------------------------------


async def test_a_pgbouncer_that_takes_no_more_clients_is_an_outage(
    postgres: EmbeddedPostgres, tenant_database: TenantDatabase
) -> None:
    with pooled(postgres, max_client_conn=1) as full:
        url = full.url(tenant_database.url)
        async with await psycopg.AsyncConnection.connect(plain(url)) as only:
            await only.execute("SELECT 1")
            database = Database(url)
            with pytest.raises(Unavailable):
                await database.call("SELECT 1", ())
            with pytest.raises(Unavailable):
                async with database.transaction():
                    pass
            await database.aclose()


async def test_a_pgbouncer_without_a_free_connection_is_an_outage_and_then_is_none(
    postgres: EmbeddedPostgres, tenant_database: TenantDatabase
) -> None:
    with pooled(postgres, default_pool_size=1, query_wait_timeout=1) as busy:
        url = busy.url(tenant_database.url)
        database = Database(url)
        async with await psycopg.AsyncConnection.connect(plain(url)) as holder:
            await holder.execute("SELECT 1")  # its transaction stays open
            with pytest.raises(Unavailable):
                await database.call("SELECT 1", ())
            with pytest.raises(Unavailable):
                async with database.transaction() as tx:
                    await tx.execute("SELECT 1")
        assert await database.call("SELECT 1 AS n", ()) == [(1,)]
        await database.aclose()


async def test_a_pgbouncer_whose_server_is_away_is_an_outage_and_then_is_none() -> None:
    """By default PgBouncer holds a statement for two minutes while there is no server (`query_wait_timeout`)."""
    sooner = {"server_login_retry": 1, "query_wait_timeout": 2}
    with server_that_may_fail() as server, new_tenant(server) as tenant, pooled(server, **sooner) as bouncer:
        database = Database(bouncer.url(tenant.url))
        assert await database.call("SELECT 1 AS n", ()) == [(1,)]
        kill(server)
        for _ in range(2):
            with pytest.raises(Unavailable):
                await database.call("SELECT 1", ())
            with pytest.raises(Unavailable):
                async with database.transaction() as tx:
                    await tx.execute("SELECT 1")
            with pytest.raises(Unavailable):
                await database.probe()
        server.start()

        async def answers() -> bool:
            with contextlib.suppress(Unavailable):
                await database.probe()
                return True
            return False

        await eventually(answers)
        assert await database.call("SELECT 1 AS n", ()) == [(1,)]
        await database.aclose()


async def test_a_tenant_checks_its_servers_certificate_by_the_authorities_that_its_pod_trusts(
    postgres: EmbeddedPostgres, tenant_database: TenantDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, another = (made(tmp_path / name, name) for name in ("theirs", "another"))
    trusted = tmp_path / "trusted.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    with postgres_folder() as readable:
        pem = readable / "server.pem"
        pem.write_bytes(theirs.with_name("server.pem").read_bytes())
        with pooled(postgres, client_tls_sslmode="require", client_tls_key_file=pem, client_tls_cert_file=pem) as tls:
            url = f"postgresql://operator@localhost:{tls.port}/postgres?sslmode=verify-full&sslrootcert=/not/here"
            databases = Databases(settings_for(url))
            database = Database(databases.tenant_url(tenant_database.schema, password_of(tenant_database.url)))
            trusted.write_bytes(another.read_bytes())
            with pytest.raises(Unavailable):
                await database.call("SELECT 1", ())
            trusted.write_bytes(another.read_bytes() + theirs.read_bytes())
            assert await database.call("SELECT 1 AS n", ()) == [(1,)]
            await database.aclose()
            await databases.aclose()
