"""Tenants' schemas and roles on the real server, made by an operator that is no superuser."""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr
from sqlalchemy import make_url

from media_core.contents.life import Contents, Facts, NewItem
from media_core.contents.quota import Usage
from media_core.database import Database
from media_core.errors import Unavailable
from media_core.jobs import backfill
from media_core.jobs.depth import Depth
from media_core.jobs.kinds import KINDS
from media_core.jobs.queue import enqueue
from media_core.schema import grants
from media_core.store import ObjectStore
from media_operator.backends import databases as backend
from media_operator.backends import notes
from media_operator.backends.breaker import RequestRefused
from media_operator.backends.databases import (
    TAKES_NO_WRITES,
    Concerns,
    Databases,
    known_revisions,
    password_of,
    read_policy,
)
from media_operator.jobs.dispatch import listen
from media_operator.local.postgres import EmbeddedPostgres
from media_operator.plan.observed import Losses, Notes
from media_operator.settings import DatabaseSettings
from media_operator.tenant.ownership import NotOwned, OwnerMark
from media_operator.tenant.spec import tenant_id_of
from tests.integration.database.revisions import migrate_to
from tests.integration.servers.api import eventually
from tests.integration.servers.failing_over import Name
from tests.integration.servers.migrating import make_tables
from tests.integration.servers.pgbouncer import PgBouncer, pgbouncer  # noqa: F401
from tests.integration.tenancy import GENEROUS

ACME = OwnerMark("uid-1", "media/acme", "cluster-a", bucket="media-acme")
NAMESAKE = replace(ACME, uid="uid-2")
PASSWORD = "secret"
STRANGER = OwnerMark("uid-3", "shop/acme", "cluster-a")


def settings_for(url: str, pool: int = 4, **more: object) -> DatabaseSettings:
    return DatabaseSettings(url=SecretStr(url.replace("+psycopg", "")), pool=pool, **more)  # type: ignore[arg-type]


@contextmanager
def operators_role(postgres: EmbeddedPostgres) -> Iterator[str]:
    """The URL of a role with exactly the privileges that the settings ask for."""
    role, password = f"operator_{secrets.token_hex(4)}", secrets.token_hex(16)
    with psycopg.connect(plain(postgres.admin_url), autocommit=True) as superuser:
        superuser.execute(f"CREATE ROLE {role} LOGIN CREATEROLE PASSWORD '{password}'")
        superuser.execute(f"GRANT CREATE ON DATABASE postgres TO {role}")
        yield postgres.url("postgres", role, password)
        superuser.execute(f"DROP OWNED BY {role} CASCADE")
        superuser.execute(f"DROP ROLE {role}")


@pytest.fixture(scope="module")
def operator_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    with operators_role(postgres) as url:
        yield url


@pytest.fixture
async def databases(operator_url: str) -> AsyncIterator[Databases]:
    databases = Databases(settings_for(operator_url))
    yield databases
    await databases.aclose()


@pytest.fixture
async def superuser(postgres: EmbeddedPostgres) -> AsyncIterator[psycopg.AsyncConnection]:
    async with await psycopg.AsyncConnection.connect(plain(postgres.admin_url), autocommit=True) as connection:
        yield connection


@pytest.fixture
async def schema(superuser: psycopg.AsyncConnection) -> AsyncIterator[str]:
    name = f"tenant_{secrets.token_hex(6)}"
    yield name
    for schema in (name, f"{name}_other"):
        await superuser.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(schema)))
        if await exists(superuser, "role", schema):
            await superuser.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(schema)))
            await superuser.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(schema)))


async def exists(superuser: psycopg.AsyncConnection, part: str, name: str) -> bool:
    query = {"role": "SELECT FROM pg_roles WHERE rolname = %s", "schema": "SELECT FROM pg_namespace WHERE nspname = %s"}
    return (await superuser.execute(query[part].encode(), [name])).rowcount == 1


def plain(url: str) -> str:
    return url.replace("+psycopg", "")


@asynccontextmanager
async def as_tenant(
    databases: Databases, schema: str, password: str = PASSWORD
) -> AsyncIterator[psycopg.AsyncConnection]:
    url = plain(databases.tenant_url(schema, password))
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        yield connection


async def ask(databases: Databases, schema: str, query: str, password: str = PASSWORD) -> object:
    async with as_tenant(databases, schema, password) as connection:
        row = await (await connection.execute(query.encode())).fetchone()
        return row and row[0]


async def make(databases: Databases, schema: str, mark: OwnerMark = ACME, *, migrated: bool = False) -> str:
    """A tenant that is ready; the URL of its role. Unless it is `migrated`, its tables are made by `make_tables`."""
    await databases.create(schema, mark, "secret")
    if migrated:
        await databases.migrate(schema)
    else:
        url = databases._url.render_as_string(hide_password=False)
        with psycopg.connect(plain(url), autocommit=True) as operator:
            make_tables(operator, url, schema)
    await databases.apply_policy(schema, GENEROUS)
    return databases.tenant_url(schema, "secret")


async def queue(url: str, kind: str = "scan", priority: int = 0) -> str:
    database = Database(url, pool_size=1)
    try:
        async with database.transaction() as tx:
            return await enqueue(tx, kind, {"sha256": secrets.token_hex(32)}, priority=priority)
    finally:
        await database.aclose()


# --- a tenant's life -------------------------------------------------------------------------------------------------


async def test_a_new_tenant_is_seen_step_by_step(databases: Databases, schema: str) -> None:
    before = await databases.observe(schema, PASSWORD)
    assert (before.exists, before.owner, before.revision) == (False, None, None)
    await databases.create(schema, ACME, "secret")
    made = await databases.observe(schema, PASSWORD)
    assert (made.complete, made.owner, made.revision) == (True, ACME, None)
    await databases.migrate(schema)
    assert (await databases.observe(schema, PASSWORD)).revision == known_revisions()[-1]


async def test_a_schema_is_new_until_it_is_migrated_and_then_says_its_birth(databases: Databases, schema: str) -> None:
    assert (await databases.observe(schema, PASSWORD)).is_new
    await databases.create(schema, ACME, "secret")
    assert (await databases.observe(schema, PASSWORD)).is_new
    await databases.migrate(schema)
    seen = await databases.observe(schema, PASSWORD)
    assert not seen.is_new
    assert seen.birth == await databases.birth(schema)
    await databases.migrate(schema)
    assert (await databases.observe(schema, PASSWORD)).birth == seen.birth
    renewed = await databases.birth(schema, renew=True)
    assert renewed == replace(seen.birth or renewed, birth_id=renewed.birth_id)
    assert renewed.birth_id != (seen.birth or renewed).birth_id
    assert (await databases.observe(schema, PASSWORD)).birth == renewed


async def test_a_schema_that_was_dropped_under_its_role_is_new(
    databases: Databases, schema: str, superuser: psycopg.AsyncConnection
) -> None:
    await make(databases, schema)
    await superuser.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)))
    seen = await databases.observe(schema, PASSWORD)
    assert (seen.exists, seen.owner, seen.is_new, seen.birth) == (True, ACME, True, None)


async def test_a_schema_is_asked_how_many_contents_it_has_rows_for(databases: Databases, schema: str) -> None:
    await databases.create(schema, ACME, "secret")
    assert await databases.known(schema, ["aa"]) == 0
    await make(databases, schema)
    await ask(databases, schema, f"INSERT INTO blob (sha256, size, mime_type) {THREE_CONTENTS} RETURNING 1")
    assert await databases.known(schema, ["aa", "bb", "dd"]) == 2
    assert await databases.known(schema, []) == 0


THREE_CONTENTS = "SELECT sha256, 1, 'text/plain' FROM unnest(ARRAY['aa', 'bb', 'cc']) AS sha256"


async def test_a_tenant_may_call_its_functions_on_a_server_that_lets_nobody(
    databases: Databases, schema: str, operator_url: str, superuser: psycopg.AsyncConnection
) -> None:
    role = sql.Identifier(operator_url.split("//")[1].split(":")[0])
    defaults = sql.SQL("ALTER DEFAULT PRIVILEGES FOR ROLE {} {} EXECUTE ON FUNCTIONS {} PUBLIC")
    await superuser.execute(defaults.format(role, sql.SQL("REVOKE"), sql.SQL("FROM")))
    try:
        await make(databases, schema, migrated=True)
        assert await ask(databases, schema, "SELECT content_release_expired()") == 0
    finally:
        await superuser.execute(defaults.format(role, sql.SQL("GRANT"), sql.SQL("TO")))


async def test_a_tenant_counts_its_sweeps_and_cannot_be_another(databases: Databases, schema: str) -> None:
    await make(databases, schema)
    assert await ask(databases, schema, "UPDATE birth SET epoch = epoch + 1 RETURNING epoch") == 1
    for statement in ("UPDATE birth SET birth_id = 'x'", "DELETE FROM birth", "INSERT INTO birth (id) VALUES (1)"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await ask(databases, schema, statement)


async def test_a_tenant_reads_the_key_of_its_urls_and_cannot_change_it(databases: Databases, schema: str) -> None:
    await make(databases, schema)
    secret = await ask(databases, schema, "SELECT secret FROM url_key")
    assert len(secret) >= 64
    for statement in ("UPDATE url_key SET secret = repeat('x', 64)", "DELETE FROM url_key"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await ask(databases, schema, statement)


async def test_making_it_again_changes_nothing_but_the_password(databases: Databases, schema: str) -> None:
    await make(databases, schema)
    await databases.create(schema, ACME, "second")
    assert await ask(databases, schema, "SELECT max_bytes FROM usage", "second") == GENEROUS.max_bytes
    with pytest.raises(psycopg.OperationalError):
        await ask(databases, schema, "SELECT 1", "secret")


async def test_the_policy_is_written_and_read(databases: Databases, schema: str) -> None:
    await make(databases, schema)
    wanted = replace(GENEROUS, suspended=True, generation=7)
    await databases.apply_policy(schema, wanted)
    async with databases.within(schema) as tx:
        assert await read_policy(tx) == wanted
    assert await databases.usage(schema) == Usage(0, 0, wanted.max_bytes)


async def test_what_was_stored_while_scanning_was_off_is_queued_for_it_once_it_is_on(
    databases: Databases, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill, "BATCH", 2)
    monkeypatch.setattr(backend, "BACKFILLED", 2)
    await make(databases, schema)
    stored = "INSERT INTO blob (sha256, size, mime_type, scan_status) SELECT 'hash ' || n, 1, 'text/plain', 'pending'"

    async def queued() -> int:
        found: int = await ask(databases, schema, "SELECT count(*) FROM job WHERE kind = 'scan'")
        return found

    await databases.apply_policy(schema, replace(GENEROUS, scan_enabled=False))
    await ask(databases, schema, f"{stored} FROM generate_series(1, 3) AS n RETURNING 1")
    await databases.apply_policy(schema, replace(GENEROUS, scan_enabled=False, generation=1))
    assert await queued() == 0
    await databases.apply_policy(schema, GENEROUS)
    assert await queued() == 3
    await databases.apply_policy(schema, replace(GENEROUS, scan_enabled=False))
    await ask(databases, schema, f"{stored} FROM generate_series(4, 9) AS n RETURNING 1")
    await databases.apply_policy(schema, GENEROUS)
    assert await queued() == 4  # two batches were looked at; the sweep does the rest


async def test_what_is_being_stored_at_the_moment_at_which_scanning_is_switched_on_is_queued_for_it(
    databases: Databases, schema: str, superuser: psycopg.AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has read the old rule, and is committed after the new one was written."""
    monkeypatch.setattr(backend, "POLICY_LOCK_TIMEOUT", "30s")
    url = await make(databases, schema)
    await databases.apply_policy(schema, replace(GENEROUS, scan_enabled=False))
    database = Database(url, pool_size=1)
    contents = Contents(tenant_id=tenant_id_of(schema), database=database, store=cast(ObjectStore, None))
    item = NewItem("med-1", "a.txt", None, "alice", False, None, None, "")

    async def waits_for(table: str) -> bool:
        query = "SELECT FROM pg_locks WHERE NOT granted AND relation = to_regclass(%s)"
        return (await superuser.execute(query, [f"{schema}.{table}"])).rowcount > 0

    try:
        reservation = contents.reservation()
        await reservation.begin("5" * 64, 1, item)
        async with superuser.transaction():
            await superuser.execute(sql.SQL("LOCK TABLE {} IN SHARE MODE").format(sql.Identifier(schema, "media")))
            storing = asyncio.create_task(contents.commit(reservation, "5" * 64, Facts(1, "text/plain"), item))
            await eventually(lambda: waits_for("media"))
            switching = asyncio.create_task(databases.apply_policy(schema, GENEROUS))

            async def is_over_or_waits() -> bool:
                return switching.done() or await waits_for("blob")

            await eventually(is_over_or_waits)
        await asyncio.gather(storing, switching)
    finally:
        await database.aclose()
    assert await ask(databases, schema, "SELECT count(*) FROM job WHERE kind = 'scan'") == 1


async def test_scanning_is_switched_on_while_a_table_is_vacuumed(
    databases: Databases, schema: str, superuser: psycopg.AsyncConnection
) -> None:
    await make(databases, schema)
    await databases.apply_policy(schema, replace(GENEROUS, scan_enabled=False))
    await ask(
        databases, schema, "INSERT INTO blob (sha256, size, mime_type) VALUES (repeat('6', 64), 1, 'x') RETURNING 1"
    )
    async with superuser.transaction():
        lock = sql.SQL("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE")  # as VACUUM does
        await superuser.execute(lock.format(sql.Identifier(schema, "blob")))
        await databases.apply_policy(schema, GENEROUS)
        assert await ask(databases, schema, "SELECT scan_enabled FROM policy") is True
        assert await ask(databases, schema, "SELECT count(*) FROM job WHERE kind = 'scan'") == 1


async def test_a_secret_that_postgresql_never_heard_of_is_noticed(databases: Databases, schema: str) -> None:
    await make(databases, schema)
    assert (await databases.observe(schema, PASSWORD)).complete
    assert not (await databases.observe(schema, "another")).complete
    assert not (await databases.observe(schema, None)).complete


@pytest.mark.parametrize("change", ["RESET ALL", "RESET search_path", "VALID UNTIL '2020-01-01'", "NOLOGIN"])
async def test_a_role_that_somebody_changed_is_noticed_and_put_right(
    databases: Databases, superuser: psycopg.AsyncConnection, schema: str, change: str
) -> None:
    await make(databases, schema)
    await superuser.execute(sql.SQL(f"ALTER ROLE {{}} {change}").format(sql.Identifier(schema)))  # type: ignore[arg-type]
    assert not (await databases.observe(schema, PASSWORD)).complete
    await databases.create(schema, ACME, PASSWORD)
    assert (await databases.observe(schema, PASSWORD)).complete
    assert await ask(databases, schema, "SELECT to_regclass('blob') IS NOT NULL")


async def test_a_role_that_came_back_without_its_password_is_noticed_and_put_right(
    databases: Databases, superuser: psycopg.AsyncConnection, operator_url: str, schema: str
) -> None:
    """As by `pg_dumpall --no-role-passwords`, which is all that a managed server allows."""
    await make(databases, schema)
    role = sql.Identifier(schema)
    (comment, settings, limit), *_ = await (
        await superuser.execute(
            "SELECT shobj_description(oid, 'pg_authid'), rolconfig, rolconnlimit FROM pg_roles WHERE rolname = %s",
            [schema],
        )
    ).fetchall()
    statements = [
        sql.SQL("DROP OWNED BY {}").format(role),
        sql.SQL("DROP ROLE {}").format(role),
        sql.SQL("CREATE ROLE {} LOGIN CONNECTION LIMIT {}").format(role, limit),
        sql.SQL("COMMENT ON ROLE {} IS {}").format(role, comment),
        sql.SQL("GRANT {} TO {} WITH ADMIN OPTION, INHERIT FALSE").format(
            role, sql.Identifier(make_url(operator_url).username or "")
        ),
        sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(role, role),
        *(sql.SQL("ALTER ROLE {} SET {} = {}").format(role, *_setting(each)) for each in settings),
        *(sql.SQL(each).format() for each in grants(schema, schema)),  # type: ignore[arg-type]
    ]
    for statement in statements:
        await superuser.execute(statement)
    assert not (await databases.observe(schema, PASSWORD)).complete
    await databases.create(schema, ACME, PASSWORD)
    assert (await databases.observe(schema, PASSWORD)).complete
    assert await ask(databases, schema, "SELECT to_regclass('blob') IS NOT NULL")


def _setting(text: str) -> tuple[sql.Identifier, str]:
    name, _, value = text.partition("=")
    return sql.Identifier(name), value


async def test_another_connection_limit_reaches_tenants_that_are_there(
    databases: Databases, operator_url: str, schema: str
) -> None:
    await make(databases, schema)
    changed = Databases(settings_for(operator_url, connection_limit=7))
    try:
        assert not (await changed.observe(schema, PASSWORD)).complete
        await changed.create(schema, ACME, PASSWORD)
        assert (await changed.observe(schema, PASSWORD)).complete
    finally:
        await changed.aclose()


async def test_a_tenant_that_has_used_up_its_connections_gets_its_policy_nevertheless(
    operator_url: str, schema: str
) -> None:
    databases = Databases(settings_for(operator_url, connection_limit=2))
    try:
        await make(databases, schema)
        async with as_tenant(databases, schema), as_tenant(databases, schema):
            await databases.apply_policy(schema, replace(GENEROUS, generation=5))
            async with databases.within(schema) as tx:
                assert (await read_policy(tx) or GENEROUS).generation == 5
    finally:
        await databases.aclose()


async def test_the_role_carries_its_search_path_and_its_limits(operator_url: str, schema: str) -> None:
    databases = Databases(settings_for(operator_url, connection_limit=2))
    await databases.create(schema, ACME, "secret")
    try:
        assert await ask(databases, schema, "SHOW search_path") == schema
        assert await ask(databases, schema, "SHOW statement_timeout") == "1min"
        async with as_tenant(databases, schema), as_tenant(databases, schema):
            with pytest.raises(psycopg.OperationalError, match="too many connections for role"):
                await ask(databases, schema, "SELECT 1")
    finally:
        await databases.aclose()


async def test_a_tenant_that_is_gone_keeps_its_rows_but_nobody_gets_in(databases: Databases, schema: str) -> None:
    await make(databases, schema)
    async with as_tenant(databases, schema) as session:
        await databases.retire(schema, ACME)
        with pytest.raises(psycopg.OperationalError):
            await session.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        await ask(databases, schema, "SELECT 1")
    seen = await databases.observe(schema, PASSWORD)
    assert (seen.owner, seen.complete, seen.revision) == (ACME.as_retained(), False, known_revisions()[-1])
    await databases.retire(schema, ACME)
    assert await databases.observe(schema, PASSWORD) == seen


async def test_a_namesake_takes_over_what_was_retained(databases: Databases, schema: str) -> None:
    await make(databases, schema)
    await databases.retire(schema, ACME)
    elsewhere = replace(NAMESAKE, cluster="cluster-b")
    await databases.create(schema, elsewhere, "second")
    seen = await databases.observe(schema, "second")
    assert (seen.owner, seen.complete) == (elsewhere, True)
    assert await ask(databases, schema, "SELECT max_bytes FROM usage", "second") == GENEROUS.max_bytes
    await databases.retire(schema, ACME)  # by an operator that is late
    assert await databases.observe(schema, "second") == seen


async def test_dropping_leaves_nothing_and_may_be_repeated(
    databases: Databases, schema: str, superuser: psycopg.AsyncConnection
) -> None:
    await make(databases, schema)
    async with as_tenant(databases, schema) as session:
        await session.execute("SELECT lo_create(0)")
        await session.execute("BEGIN")
        await session.execute("LOCK TABLE job")
        await databases.drop(schema, ACME)
        with pytest.raises(psycopg.OperationalError):
            await session.execute("COMMIT")
    assert not await exists(superuser, "role", schema)
    assert not await exists(superuser, "schema", schema)
    await databases.drop(schema, ACME)


async def test_what_a_role_owns_in_another_database_keeps_it_and_not_the_rows(
    databases: Databases, schema: str, superuser: psycopg.AsyncConnection
) -> None:
    await make(databases, schema)
    url = plain(databases.tenant_url(schema, PASSWORD)).replace("/postgres", "/template1")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as elsewhere:
        await elsewhere.execute("SELECT lo_create(4711)")
    with pytest.raises(Unavailable, match="1 object in database template1"):
        await databases.drop(schema, ACME)
    assert not await exists(superuser, "schema", schema)
    assert (await databases.observe(schema, PASSWORD)).owner == ACME
    with pytest.raises(psycopg.OperationalError, match="not permitted to log in"):
        await ask(databases, schema, "SELECT 1")
    there = f"host={superuser.info.host} port={superuser.info.port} password={superuser.info.password}"
    async with await psycopg.AsyncConnection.connect(
        f"{there} dbname=template1 user={superuser.info.user}", autocommit=True
    ) as way_out:
        await way_out.execute(f"DROP OWNED BY {schema}")
    await databases.drop(schema, ACME)
    assert not await exists(superuser, "role", schema)


ODD = {
    "client_encoding": "SQL_ASCII",
    "datestyle": "SQL, DMY",
    "intervalstyle": "sql_standard",
    "timezone": "Asia/Kolkata",
    "bytea_output": "escape",
    "default_transaction_isolation": "serializable",
    "statement_timeout": "1ms",
    "lock_timeout": "1ms",
    "idle_session_timeout": "1ms",
    "transaction_timeout": "100ms",  # a migration takes longer
    "quote_all_identifiers": "on",
}


async def test_what_a_server_sets_for_all_its_roles_reaches_neither_operator_nor_tenants(
    operator_url: str, schema: str, superuser: psycopg.AsyncConnection
) -> None:
    alter = sql.SQL("ALTER DATABASE postgres {} {}")
    databases = Databases(settings_for(operator_url))
    try:
        for name, value in ODD.items():
            await superuser.execute(alter.format(sql.SQL("SET"), sql.SQL(f"{name} = '{value}'")))
        url = await make(databases, schema, migrated=True)
        assert (await databases.observe(schema, PASSWORD)).complete
        assert await queue(url)
        depth = (await databases.depths(schema))["scan"]
        assert depth.ready == 1
        async with as_tenant(databases, schema) as tenant:
            shown = {
                name: (await (await tenant.execute(f"SHOW {name}".encode())).fetchone() or [""])[0] for name in ODD
            }
            row = await (await tenant.execute("SELECT '-infinity'::timestamptz < now(), now(), 'ü会'")).fetchone()
        assert row
        assert (row[0], row[1].utcoffset().total_seconds(), row[2]) == (True, 0, "ü会")
    finally:
        await superuser.execute(alter.format(sql.SQL("RESET ALL"), sql.SQL("")))
        await databases.aclose()
    assert not {name for name, value in ODD.items() if shown[name] == value} - {"quote_all_identifiers"}


async def test_the_settings_of_a_tenants_role_hold_behind_pgbouncer(
    databases: Databases,
    schema: str,
    superuser: psycopg.AsyncConnection,
    pgbouncer: PgBouncer,  # noqa: F811
) -> None:
    reported = ("datestyle", "intervalstyle", "timezone", "default_transaction_isolation", "lock_timeout")
    try:
        for name in reported:
            await superuser.execute(f"ALTER DATABASE postgres SET {name} = '{ODD[name]}'".encode())
        url = plain(pgbouncer.url(await make(databases, schema)))
        for _ in range(2):  # the second client meets the server connection of the first
            async with await psycopg.AsyncConnection.connect(url, autocommit=True, prepare_threshold=None) as tenant:
                for name in reported:
                    shown = await (await tenant.execute(f"SHOW {name}".encode())).fetchone()
                    assert shown
                    assert shown[0] != ODD[name]
    finally:
        await superuser.execute("ALTER DATABASE postgres RESET ALL")


async def test_a_tenant_of_before_gets_the_settings_that_its_role_lacks(
    databases: Databases, schema: str, superuser: psycopg.AsyncConnection
) -> None:
    await make(databases, schema)
    for setting in ("timezone", "transaction_timeout"):
        reset = sql.SQL("ALTER ROLE {} RESET {}").format(sql.Identifier(schema), sql.Identifier(setting))
        await superuser.execute(reset)
        assert not (await databases.observe(schema, PASSWORD)).complete
        await databases.create(schema, ACME, "secret")
        assert (await databases.observe(schema, PASSWORD)).complete


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
async def test_a_database_that_cannot_store_every_name_is_refused_with_words(
    operator_url: str, schema: str, superuser: psycopg.AsyncConnection, encoding: str
) -> None:
    name, role = f"odd_{secrets.token_hex(4)}", make_url(operator_url).username
    await superuser.execute(f"CREATE DATABASE {name} OWNER {role} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    databases = Databases(settings_for(make_url(operator_url).set(database=name).render_as_string(False)))
    try:
        with pytest.raises(RequestRefused, match=f"encoding of database {name} is {encoding}.* ENCODING 'UTF8'"):
            await databases.create(schema, ACME, "secret")
    finally:
        await databases.aclose()
        await superuser.execute(f"DROP DATABASE {name} WITH (FORCE)")
    assert not await exists(superuser, "role", schema)


@asynccontextmanager
async def closed_database(superuser: psycopg.AsyncConnection, rights: str) -> AsyncIterator[str]:
    """The name of a database to which only those may connect who are told."""
    name = f"closed_{secrets.token_hex(4)}"
    await superuser.execute(f"CREATE DATABASE {name}".encode())
    await superuser.execute(f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC".encode())
    await superuser.execute(rights.format(name).encode())
    try:
        yield name
    finally:
        await superuser.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.mark.parametrize(
    "rights",
    ["ALTER DATABASE {{}} OWNER TO {0}", "GRANT CREATE, CONNECT ON DATABASE {{}} TO {0} WITH GRANT OPTION"],
)
async def test_a_database_that_is_closed_to_others_lets_each_tenant_in(
    operator_url: str, schema: str, superuser: psycopg.AsyncConnection, rights: str
) -> None:
    role = make_url(operator_url)
    async with closed_database(superuser, rights.format(role.username)) as name:
        databases = Databases(settings_for(role.set(database=name).render_as_string(False)))
        await databases.create(schema, ACME, "secret")
        assert (await databases.observe(schema, PASSWORD)).complete
        assert await ask(databases, schema, "SELECT 1") == 1
        await superuser.execute(f"REVOKE CONNECT ON DATABASE {name} FROM {schema}".encode())
        async with await psycopg.AsyncConnection.connect(
            plain(role.set(database=name).render_as_string(False)), autocommit=True
        ) as owner:
            await owner.execute(f"REVOKE CONNECT ON DATABASE {name} FROM {schema}".encode())
        assert not (await databases.observe(schema, PASSWORD)).complete
        await databases.create(schema, ACME, "secret")
        assert await ask(databases, schema, "SELECT 1") == 1
        await databases.drop(schema, ACME)
        assert not await exists(superuser, "role", schema)
        await databases.aclose()


async def test_many_tenants_are_let_into_a_closed_database_and_out_again_at_once(
    operator_url: str, schema: str, superuser: psycopg.AsyncConnection
) -> None:
    role = make_url(operator_url)
    names = [f"{schema}_{number}" for number in range(12)]
    async with closed_database(superuser, f"ALTER DATABASE {{}} OWNER TO {role.username}") as name:
        databases = Databases(settings_for(role.set(database=name).render_as_string(False)))
        await asyncio.gather(*(databases.create(each, ACME, "secret") for each in names))
        assert all([(await databases.observe(each, PASSWORD)).complete for each in names])
        await asyncio.gather(*(databases.drop(each, ACME) for each in names))
        assert not any([await exists(superuser, "role", each) for each in names])
        await databases.aclose()


async def test_a_database_to_which_the_operator_can_let_nobody_is_said(
    operator_url: str, schema: str, superuser: psycopg.AsyncConnection
) -> None:
    role = make_url(operator_url)
    async with closed_database(superuser, f"GRANT CREATE, CONNECT ON DATABASE {{}} TO {role.username}") as name:
        databases = Databases(settings_for(role.set(database=name).render_as_string(False)))
        words = f"GRANT CONNECT ON DATABASE {name} TO {role.username} WITH GRANT OPTION"
        with pytest.raises(RequestRefused, match=words):
            await databases.create(schema, ACME, "secret")
        await databases.aclose()
    assert not await exists(superuser, "role", schema)


async def test_a_server_that_is_too_old_is_refused_with_words(
    databases: Databases, schema: str, monkeypatch: pytest.MonkeyPatch, superuser: psycopg.AsyncConnection
) -> None:
    monkeypatch.setattr(backend, "OLDEST", 99)
    with pytest.raises(RequestRefused, match="PostgreSQL 99 or newer is needed, and this is 1"):
        await databases.create(schema, ACME, "secret")
    assert not await exists(superuser, "role", schema)


async def test_a_schema_that_came_back_without_its_role_is_completed(
    databases: Databases, schema: str, superuser: psycopg.AsyncConnection
) -> None:
    await make(databases, schema)
    await superuser.execute(f"DROP OWNED BY {schema}")
    await superuser.execute(f"DROP ROLE {schema}")
    seen = await databases.observe(schema, "second")
    assert (seen.owner, seen.complete) == (ACME, False)
    await databases.create(schema, ACME, "second")
    assert (await databases.observe(schema, "second")).complete
    assert await ask(databases, schema, "UPDATE usage SET stored_bytes = 1 RETURNING max_bytes", "second")


async def test_tables_that_another_role_owns_are_said_and_not_touched(
    databases: Databases, schema: str, superuser: psycopg.AsyncConnection
) -> None:
    await make(databases, schema)
    await superuser.execute(f"ALTER TABLE {schema}.policy OWNER TO {schema}")
    assert not (await databases.observe(schema, PASSWORD)).complete
    with pytest.raises(NotOwned, match=f"table {schema}.policy is owned by role {schema}"):
        await databases.create(schema, ACME, PASSWORD)


# --- whose it is -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statement", ["CREATE SCHEMA {}", "CREATE ROLE {}"])
async def test_what_bears_no_mark_is_reported_and_left_alone(
    databases: Databases, superuser: psycopg.AsyncConnection, schema: str, statement: str
) -> None:
    await superuser.execute(sql.SQL(statement).format(sql.Identifier(schema)))
    found = await databases.observe(schema, PASSWORD)
    assert (found.exists, found.complete, found.owner) == (True, False, None)
    with pytest.raises(NotOwned, match="no owner mark"):
        await databases.create(schema, ACME, "secret", adopt=True)
    with pytest.raises(NotOwned, match="no owner mark"):
        await databases.drop(schema, ACME)
    await databases.retire(schema, ACME)
    assert await databases.observe(schema, PASSWORD) == found


@pytest.mark.parametrize("claimant", [STRANGER, replace(NAMESAKE, cluster="cluster-b")])
async def test_what_bears_anothers_mark_keeps_its_password_and_its_rows(
    databases: Databases, schema: str, claimant: OwnerMark
) -> None:
    await make(databases, schema)
    with pytest.raises(NotOwned, match="MediaTenant media/acme"):
        await databases.create(schema, claimant, "other")
    with pytest.raises(NotOwned, match="MediaTenant media/acme"):
        await databases.drop(schema, claimant)
    await databases.retire(schema, claimant)
    assert await ask(databases, schema, "SELECT max_bytes FROM usage") == GENEROUS.max_bytes


@pytest.mark.parametrize(("namesake", "adopt"), [(NAMESAKE, False), (replace(NAMESAKE, cluster="cluster-b"), True)])
async def test_a_namesake_adopts(databases: Databases, schema: str, namesake: OwnerMark, adopt: bool) -> None:
    await databases.create(schema, ACME, "secret")
    await databases.create(schema, namesake, "second", adopt=adopt)
    assert (await databases.observe(schema, PASSWORD)).owner == namesake


async def test_a_mark_of_the_first_kind_is_still_ours(databases: Databases, schema: str) -> None:
    await databases.create(schema, OwnerMark("uid-1"), "secret")
    assert (await databases.observe(schema, PASSWORD)).owner == OwnerMark("uid-1")
    await databases.create(schema, ACME, "secret")
    assert (await databases.observe(schema, PASSWORD)).owner == ACME


async def test_a_tenant_cannot_change_whose_it_is(databases: Databases, schema: str) -> None:
    await make(databases, schema)
    for statement in (
        f"COMMENT ON SCHEMA {schema} IS 'media.scaiwave.io/owner=uid-9'",
        f"COMMENT ON ROLE {schema} IS 'media.scaiwave.io/owner=uid-9'",
        f"DROP SCHEMA {schema} CASCADE",
        f"ALTER ROLE {schema} CONNECTION LIMIT 1000",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await ask(databases, schema, statement)


async def test_all_marks_of_a_cluster_are_found_at_once(databases: Databases, schema: str) -> None:
    other = f"{schema}_other"
    await databases.create(schema, ACME, "secret")
    await databases.create(other, replace(STRANGER, cluster="cluster-b"), "secret")
    marks = await databases.marks("cluster-a")
    assert marks[schema] == ACME
    assert other not in marks


# --- who may do what -------------------------------------------------------------------------------------------------


async def test_a_tenants_role_reaches_nothing_but_its_own(databases: Databases, schema: str, operator_url: str) -> None:
    other, operator = f"{schema}_other", operator_url.split("//")[1].split(":")[0]
    await make(databases, schema)
    await make(databases, other, replace(ACME, uid="uid-7"))
    for statement in (
        f"TABLE {other}.blob",
        "CREATE TABLE public.stray (n int)",
        "CREATE SCHEMA more",
        "CREATE ROLE more",
        f"SET ROLE {operator}",
        f"SET ROLE {other}",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await ask(databases, schema, statement)


async def test_a_tenants_role_cannot_change_its_limits(databases: Databases, schema: str) -> None:
    await make(databases, schema)
    await refused(
        databases,
        schema,
        "UPDATE usage SET max_bytes = 1",
        "INSERT INTO usage (id) VALUES (2)",
        "DELETE FROM usage",
        "UPDATE policy SET max_upload_bytes = 1",
        "DELETE FROM policy",
        "TABLE alembic_version",
        "TRUNCATE job",
    )


async def refused(databases: Databases, schema: str, *statements: str) -> None:
    """Asserts that the tenant's role may execute none of them."""
    async with as_tenant(databases, schema) as session:
        for statement in statements:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await session.execute(statement.encode())
                pytest.fail(statement)


async def test_no_code_of_a_tenant_gets_in_the_operators_way(databases: Databases, schema: str) -> None:
    await make(databases, schema)
    await refused(
        databases,
        schema,
        "ALTER TABLE policy RENAME TO was",
        "ALTER TABLE job ALTER run_after TYPE timestamp",
        "CREATE VIEW more AS TABLE policy",
        "CREATE FUNCTION spy() RETURNS int RETURN 1",
        "CREATE TABLE more (n int)",
        "CREATE TRIGGER spy BEFORE UPDATE ON usage FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "CREATE RULE spy AS ON UPDATE TO usage DO ALSO SELECT 1",
        "ALTER TABLE usage ENABLE ROW LEVEL SECURITY",
        "CREATE INDEX spy ON job ((kind || 'x'))",
        "COMMENT ON TABLE policy IS 'mine'",
    )


async def test_values_that_no_operator_expects_are_left_out_and_hide_no_other(
    databases: Databases, schema: str
) -> None:
    other = f"tenant_{secrets.token_hex(6)}"
    try:
        await make(databases, schema)
        await queue(await make(databases, other))
        async with as_tenant(databases, schema) as session:
            await session.execute(
                "INSERT INTO job (job_id, kind, status, payload, run_after) "
                "VALUES ('job-1', 'scan', 'queued', '{}', '-infinity')"
            )
        depths = await databases.depths_of([schema, other])
        assert depths[schema] is None
        assert depths[other] is not None
        assert depths[other]["scan"].ready == 1
    finally:
        await databases.drop(other, ACME)


async def test_nothing_can_be_written_where_tenants_rows_are_read(databases: Databases, schema: str) -> None:
    await make(databases, schema)
    with pytest.raises(Unavailable, match="read-only"):
        async with databases.within(schema) as tx:
            await tx.execute("UPDATE usage SET max_bytes = 1")


async def test_a_table_that_a_tenant_locks_holds_up_nobody_for_ever(databases: Databases, schema: str) -> None:
    await make(databases, schema)
    async with as_tenant(databases, schema) as session:
        await session.execute("BEGIN")
        await session.execute("LOCK TABLE job IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(RequestRefused, match="lock timeout"):
            async with databases.within(schema) as tx:
                await tx.execute("SELECT count(*) FROM job")


async def test_a_tenant_that_holds_its_usage_row_waits_for_its_policy_and_nobody_else_does(
    databases: Databases, schema: str
) -> None:
    other = f"{schema}_other"
    await make(databases, schema)
    await make(databases, other, replace(ACME, uid="uid-7"))
    async with as_tenant(databases, schema) as session:
        await session.execute("BEGIN")
        await session.execute("UPDATE usage SET stored_bytes = 1")
        tries = [databases.apply_policy(schema, GENEROUS) for _ in range(8)]  # more than the pool holds
        ends = await asyncio.gather(*tries, databases.apply_policy(other, GENEROUS), return_exceptions=True)
    assert [type(end) for end in ends[:-1]] == [RequestRefused] * 8
    assert ends[-1] is None


async def test_no_lock_that_a_tenant_can_see_and_take_holds_up_a_deletion(
    databases: Databases, schema: str, superuser: psycopg.AsyncConnection
) -> None:
    await make(databases, schema)
    assert await ask(databases, schema, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0
    found = await (await superuser.execute("SELECT nspname FROM pg_namespace WHERE nspname ~ '_locks$'")).fetchall()
    for (locks,) in found:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await ask(databases, schema, f"TABLE {locks}.lock")


async def test_what_the_page_takes_from_every_role_keeps_locks_and_large_objects_from_tenants(
    databases: Databases, schema: str, superuser: psycopg.AsyncConnection
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "install.md").read_text(encoding="utf-8")
    documented = page.partition("```sql\n")[2].partition("```")[0].replace("DATABASE media", "DATABASE postgres")
    try:
        await superuser.execute(documented.encode())
        await make(databases, schema, migrated=True)
        for statement in ("SELECT pg_advisory_lock(1)", "SELECT lo_create(0)", "CREATE TEMPORARY TABLE t ()"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await ask(databases, schema, statement)
        assert await ask(databases, schema, "SELECT max_bytes FROM usage") == GENEROUS.max_bytes
    finally:
        await superuser.execute(documented.replace("REVOKE", "GRANT").replace("FROM PUBLIC", "TO PUBLIC").encode())


async def test_what_would_count_less_than_nothing_is_refused(databases: Databases, schema: str) -> None:
    await make(databases, schema)
    with pytest.raises(psycopg.errors.CheckViolation):
        await ask(databases, schema, "UPDATE usage SET stored_bytes = -1")


async def test_tenants_that_hold_their_tables_in_an_upgrade_take_no_thread_from_anybody(
    databases: Databases, operator_url: str
) -> None:
    others = [f"tenant_{secrets.token_hex(6)}" for _ in range(8)]
    try:
        for other in others:
            await databases.create(other, ACME, PASSWORD)
            migrate_to("0004", operator_url, other, other)  # the next one alters `job`
        async with AsyncExitStack() as stack:
            for other in others:
                session = await stack.enter_async_context(as_tenant(databases, other))
                await session.execute("BEGIN")
                await session.execute("LOCK TABLE job")
            stuck = [asyncio.create_task(databases.migrate(other)) for other in others]
            await asyncio.sleep(0)  # they begin
            await asyncio.to_thread(lambda: None)
            assert not any(each.done() for each in stuck)  # eight waiting threads would fill the default executor
            ends = await asyncio.gather(*stuck, return_exceptions=True)
        assert {type(end) for end in ends} == {RequestRefused}
        await databases.migrate(others[0])
    finally:
        for other in others:
            await databases.drop(other, ACME)


# --- queues ----------------------------------------------------------------------------------------------------------


async def test_many_queues_are_read_together_and_a_broken_one_hides_no_other(databases: Databases, schema: str) -> None:
    other = f"{schema}_other"
    first, second = await make(databases, schema), await make(databases, other, replace(ACME, uid="uid-7"))
    low = await queue(first)
    high = await queue(first, priority=5)
    await queue(second, "transcribe")
    seen = await databases.depths_of([schema, other, "tenant_nowhere"])
    assert list(seen) == [schema, other, "tenant_nowhere"]
    assert seen["tenant_nowhere"] is None
    assert (seen[schema] or {})["scan"].ready == 2
    assert str((seen[schema] or {})["scan"].head).startswith(high)
    assert (seen[schema] or {})["thumbnail"] == Depth()
    assert (seen[other] or {})["transcribe"].ready == 1
    async with as_tenant(databases, schema) as session:
        await session.execute("BEGIN")
        await session.execute("LOCK TABLE job")
        seen = await databases.depths_of([schema, other])
        assert seen[schema] is None
        assert (seen[other] or {})["transcribe"].ready == 1
        with pytest.raises(Unavailable, match="cannot be read"):
            await databases.depths(schema)
    assert low != high
    assert (await databases.depths(schema))["scan"].ready == 2


async def test_a_queue_that_could_not_be_read_is_asked_by_itself_the_next_time(
    databases: Databases, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = f"{schema}_other"
    await make(databases, schema)
    await make(databases, other, replace(ACME, uid="uid-7"))
    read, asked = databases._read_batch, list[list[str]]()

    async def recorded(schemas: list[str], *more: Any, **options: Any) -> Any:
        asked.append(schemas)
        return await read(schemas, *more, **options)

    async def look() -> list[list[str]]:
        asked.clear()
        await databases.depths_of([schema, other])
        return sorted(map(sorted, asked))

    monkeypatch.setattr(databases, "_read_batch", recorded)
    together, apart = [[schema, other]], [[schema], [other]]
    async with as_tenant(databases, schema) as session:
        await session.execute("BEGIN")
        await session.execute("LOCK TABLE job")
        assert await look() == [[schema], [schema, other], [other]]
        assert await look() == apart
    assert await look() == apart
    assert await look() == together


async def test_the_reader_counts_failed_jobs_of_kinds_without_open_ones(databases: Databases, schema: str) -> None:
    await queue(await make(databases, schema), "transcribe")
    await ask(databases, schema, "UPDATE job SET status = 'failed', finished_at = now() RETURNING 1")
    assert (await databases.depths(schema)) == {"scan": Depth(), "transcribe": Depth(failed=1), "thumbnail": Depth()}


async def test_a_job_that_was_handed_back_is_another_head(databases: Databases, schema: str) -> None:
    await queue(await make(databases, schema))
    before = (await databases.depths(schema))["scan"].head
    assert (await databases.depths(schema))["scan"].head == before
    await ask(databases, schema, "UPDATE job SET run_after = now() RETURNING 1")
    assert (await databases.depths(schema))["scan"].head not in (None, before)


async def test_the_usage_of_many_is_read_together(databases: Databases, schema: str) -> None:
    await make(databases, schema)
    await ask(databases, schema, "UPDATE usage SET stored_bytes = 5 RETURNING 1")
    assert await databases.usages_of([schema, "tenant_nowhere"]) == {schema: Usage(5, 0, GENEROUS.max_bytes)}


# --- connections -----------------------------------------------------------------------------------------------------


NOTES = """
INSERT INTO swept (id, listed, orphans, orphan_bytes, orphans_kept, orphans_since)
    VALUES (1, 1000, 412, 4096, true, now());
INSERT INTO suspicion (signature, since) VALUES ('Win.Zip-1', now()), ('Win.Old-1', now() - interval '1 day');
INSERT INTO blob (sha256, size, mime_type, scan_status, scan_detail, doomed_at, remove_after)
    SELECT n::text, 1, 'text/plain', 'infected', 'Win.Zip-1', now(), now() + interval '7 days'
    FROM generate_series(1, 50) AS n;
INSERT INTO blob (sha256, size, mime_type, scan_status, scan_detail)
    VALUES ('gone', 1, 'text/plain', 'infected', 'Win.Zip-1');
"""


async def note(databases: Databases, schema: str) -> None:
    """Writes results of a sweep and of a rescan down."""
    async with as_tenant(databases, schema) as connection:
        await connection.execute(NOTES.encode())


async def read_notes(databases: Databases, schema: str) -> Notes:
    async with databases.within(schema) as tx:
        return await notes.read(tx)


async def test_what_sweeps_and_rescans_wrote_down_is_read(databases: Databases, schema: str) -> None:
    await make(databases, schema)
    assert await read_notes(databases, schema) == Notes()
    assert await databases.concerns_of([schema]) == {schema: Concerns()}
    await note(databases, schema)
    found = await read_notes(databases, schema)
    assert [(each.signature, each.held) for each in found.suspicions] == [("Win.Old-1", 0), ("Win.Zip-1", 50)]
    assert found.orphans is not None
    assert (found.orphans.count, found.orphans.listed, found.orphans.bytes, found.orphans.kept) == (
        412,
        1000,
        4096,
        True,
    )
    assert found.orphans.since == found.orphans.swept_at
    assert found.orphans.released_at is None
    assert await databases.concerns_of([schema, f"{schema}_other"]) == {schema: Concerns(412, 4096, True, 2)}


async def test_lost_contents_are_read_but_those_that_are_marked(databases: Databases, schema: str) -> None:
    await make(databases, schema)
    async with databases._administering() as tx:
        await tx.exec_driver_sql(f"SET LOCAL search_path = {schema}")
        await tx.exec_driver_sql(
            "INSERT INTO blob (sha256, size, mime_type, lost_at, doomed_at) VALUES ('a', 5, 'x/y', '2026-11-24Z',"
            " NULL), ('b', 7, 'x/y', now(), NULL), ('c', 9, 'x/y', now(), now()), ('d', 11, 'x/y', NULL, NULL)"
        )
    assert (await read_notes(databases, schema)).losses == Losses(2, 12, datetime(2026, 11, 24, tzinfo=UTC))
    assert (await databases.concerns_of([schema]))[schema].lost == 2


async def test_how_webhooks_stand_is_read(databases: Databases, schema: str) -> None:
    await make(databases, schema)
    async with databases._administering() as tx:
        await tx.exec_driver_sql(f"SET LOCAL search_path = {schema}")
        await tx.exec_driver_sql(WEBHOOKS.replace("%", "%%"))
    found = (await read_notes(databases, schema)).webhooks
    assert [(each.host, each.failing_since is not None, each.error) for each in found] == [
        ("a.example", True, "answered 503"),
        ("b.example", False, "answered 500"),
    ]
    assert found[0].failing_since is not None
    assert found[0].next_attempt == found[0].failing_since + timedelta(minutes=5)
    assert found[1].next_attempt is None
    assert [(each.given_up, each.given_up_error) for each in found] == [(0, None), (2, "answered 400")]


WEBHOOKS = """
INSERT INTO webhook (webhook_id, host, position, failures, failing_since, retry_at, error) VALUES
    ('a', 'a.example', 0, 9, now(), now() + interval '5 minutes', 'answered 503'),
    ('b', 'b.example', 0, 1, now(), now(), 'answered 500');
INSERT INTO webhook_delivery (webhook_id, position, media_id, attempts, due_at, dead_at, error) VALUES
    ('b', 1, 'med-1', 9, NULL, now() - interval '1 hour', 'answered 404'),
    ('b', 2, 'med-2', 9, NULL, now(), 'answered 400'), ('b', 3, 'med-3', 1, now(), NULL, 'answered 500');
"""


async def test_what_a_person_decides_reaches_the_schema(databases: Databases, schema: str) -> None:
    await make(databases, schema)
    await note(databases, schema)
    await databases.trust(schema, ["Win.Zip-1", "Win.Unheard-1"])
    until = datetime(2026, 11, 24, tzinfo=UTC)
    await databases.release_orphans(schema, until)
    found = await read_notes(databases, schema)
    assert [each.signature for each in found.suspicions] == ["Win.Old-1"]
    assert found.orphans is not None
    assert found.orphans.released_at == until
    assert (await databases.concerns_of([schema]))[schema].suspicious == 1


async def test_much_that_a_tenant_writes_down_is_not_all_read(databases: Databases, schema: str) -> None:
    await make(databases, schema)
    many = (
        "INSERT INTO suspicion (signature) SELECT repeat('x', 900) || n FROM generate_series(1, 5000) AS n RETURNING 1"
    )
    await ask(databases, schema, many)
    found = await read_notes(databases, schema)
    assert len(found.suspicions) == notes.MOST_SUSPICIONS
    assert max(len(each.signature) for each in found.suspicions) == 150
    assert (await databases.concerns_of([schema]))[schema].suspicious == 100


async def test_it_holds_no_more_connections_than_its_pool(
    operator_url: str, schema: str, superuser: psycopg.AsyncConnection
) -> None:
    databases = Databases(settings_for(operator_url, pool=2))
    try:
        await make(databases, schema)
        await asyncio.gather(
            *(databases.depths(schema) for _ in range(20)), *(databases.observe(schema, PASSWORD) for _ in range(20))
        )
        role = operator_url.split("//")[1].split(":")[0]
        rows = await superuser.execute("SELECT FROM pg_stat_activity WHERE usename = %s", [role])
        assert rows.rowcount <= 2
    finally:
        await databases.aclose()


async def test_a_server_that_is_away_is_said_without_a_secret(schema: str, caplog: pytest.LogCaptureFixture) -> None:
    databases = Databases(settings_for("postgresql://operator:hush@127.0.0.1:1/postgres"))
    with caplog.at_level(logging.DEBUG), pytest.raises(Unavailable) as raised:
        await databases.observe(schema, PASSWORD)
    assert raised.value.dependency == "database"
    for call in (
        databases.depths_of([schema]),
        databases.marks("a"),
        databases.usage(schema),
        databases.drop(schema, ACME),
    ):
        with pytest.raises(Unavailable):
            await call
    assert "hush" not in str(raised.value) + caplog.text


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ("another password", "does not accept the operator's password"),
        ("NOLOGIN", "does not let the operator's role in"),
        ("CONNECTION LIMIT 0", "has no free connection for the operator"),
        ("sslmode=require", "certificate is not accepted, or sslmode in its URL does not fit"),
        ("nobody listens", "nobody answers at PostgreSQL's address"),
        ("no such host", "the host in PostgreSQL's URL has no address"),
        ("an older one", "PostgreSQL 16 or newer is needed, and this is older"),
    ],
)
async def test_why_the_operator_does_not_get_in_is_said_in_words_that_tell_what_to_do(
    postgres: EmbeddedPostgres, superuser: psycopg.AsyncConnection, trouble: str, words: str
) -> None:

    async def no_tls(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"N")  # as a server without a certificate answers

    with operators_role(postgres) as own:
        url, plain_server = make_url(own), await asyncio.start_server(no_tls, "127.0.0.1", 0)
        if trouble.isupper() or trouble.endswith("0"):
            await superuser.execute(f"ALTER ROLE {url.username} {trouble}".encode())
        changed = {
            "another password": url.set(password="hush"),
            "sslmode=require": url.set(
                host="127.0.0.1", port=plain_server.sockets[0].getsockname()[1], query={"sslmode": "require"}
            ),
            "nobody listens": url.set(host="127.0.0.1", port=1, query={}),
            "no such host": url.set(host="postgres.invalid", query={}),
            "an older one": url.update_query_dict({"options": "-c setting_of_a_newer_one=on"}),
        }.get(trouble, url)
        databases = Databases(settings_for(changed.render_as_string(hide_password=False)))
        with pytest.raises(Unavailable, match=words) as raised:
            await databases.observe("tenant_acme", PASSWORD)
        assert "operator_" not in raised.value.detail
        await databases.aclose()
        plain_server.close()


async def test_with_several_hosts_the_one_that_answers_is_found_by_operator_tenants_and_the_listener(
    operator_url: str, postgres: EmbeddedPostgres, schema: str
) -> None:
    service, heard = Name(), asyncio.Queue[str | None]()
    service.lead_to(postgres)
    await service.start()
    role = make_url(operator_url)
    url = f"postgresql://{role.username}:{role.password}@127.0.0.1:1,127.0.0.1:{service.port}/postgres"
    databases = Databases(settings_for(f"{url}?target_session_attrs=read-write"))
    listening = asyncio.create_task(listen(lambda: url, heard.put_nowait))
    try:
        async with asyncio.timeout(30):
            assert await heard.get() is None
            assert await queue(await make(databases, schema, migrated=True))
            assert await heard.get() == schema
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await databases.aclose()
        await service.stop()


async def test_a_pgbouncer_in_front_of_the_operator_is_named(
    operator_url: str,
    pgbouncer: PgBouncer,  # noqa: F811
) -> None:
    databases = Databases(settings_for(pgbouncer.url(operator_url)))
    with pytest.raises(Unavailable, match="PgBouncer, and the operator needs a direct connection"):
        await databases.observe("tenant_acme", PASSWORD)
    await databases.aclose()


async def test_a_full_disk_is_said_whatever_the_servers_language(
    databases: Databases, superuser: psycopg.AsyncConnection, schema: str
) -> None:
    await make(databases, schema)
    full = f"FUNCTION {schema}.full_disk()"
    raises = "$$ BEGIN RAISE 'kein Platz' USING ERRCODE = 'disk_full'; END $$"
    await superuser.execute(f"CREATE {full} RETURNS trigger LANGUAGE plpgsql AS {raises}".encode())
    trigger = f"TRIGGER full_disk BEFORE INSERT OR UPDATE ON {schema}.policy"
    await superuser.execute(f"CREATE {trigger} EXECUTE {full}".encode())
    with pytest.raises(Unavailable, match="PostgreSQL's disk is full: make room there"):
        await databases.apply_policy(schema, replace(GENEROUS, generation=5))


async def test_a_server_that_takes_no_writes_is_said_until_it_does(
    databases: Databases, operator_url: str, superuser: psycopg.AsyncConnection, schema: str
) -> None:
    await make(databases, schema)
    begun_later = Databases(settings_for(operator_url))

    async def both_say(words: str) -> bool:
        said = set()
        for each in (databases, begun_later):
            try:
                await each.observe(schema, PASSWORD)
                said.add("all is well")
            except Unavailable as error:
                said.add(error.detail)
        return said == {words}

    await superuser.execute("SET default_transaction_read_only = off")
    try:
        await superuser.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await superuser.execute("SELECT pg_reload_conf()")
        await eventually(lambda: both_say(TAKES_NO_WRITES))
    finally:
        await superuser.execute("ALTER SYSTEM RESET default_transaction_read_only")
        await superuser.execute("SELECT pg_reload_conf()")
    await eventually(lambda: both_say("all is well"))
    await begun_later.aclose()


async def test_a_connection_that_died_is_replaced(
    databases: Databases, schema: str, superuser: psycopg.AsyncConnection
) -> None:
    await make(databases, schema)
    await superuser.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename LIKE 'operator_%'"
    )
    for _ in range(6):  # each of the pool once, at most
        try:
            await databases.observe(schema, PASSWORD)
            await databases.depths(schema)
            break
        except Unavailable:
            continue
    assert (await databases.depths(schema)).keys() == set(KINDS)


async def test_an_operator_that_may_not_says_what_it_lacks(
    databases: Databases, schema: str, postgres: EmbeddedPostgres
) -> None:
    await databases.create(schema, ACME, PASSWORD)
    await databases.retire(schema, ACME)
    with operators_role(postgres) as url:
        another = Databases(settings_for(url))
        with pytest.raises(Unavailable, match="permission denied to"):
            await another.create(schema, NAMESAKE, "second")
        await another.aclose()


async def test_no_statement_holds_the_password(
    databases: Databases, schema: str, superuser: psycopg.AsyncConnection, postgres: EmbeddedPostgres, operator_url: str
) -> None:
    password, role = secrets.token_hex(16), operator_url.split("//")[1].split(":")[0]
    await superuser.execute(f"ALTER ROLE {role} SET log_statement = 'all'")
    try:
        fresh = Databases(settings_for(operator_url))
        await fresh.create(schema, ACME, password)
        await fresh.migrate(schema)
        await fresh.aclose()
    finally:
        await superuser.execute(f"ALTER ROLE {role} RESET log_statement")
    log = postgres.log.read_text()
    assert f'ALTER ROLE "{schema}" PASSWORD' in log
    assert password not in log


# --- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "address", "expected"),
    [
        ("postgresql://a:b@db:5433/media", "", "postgresql+psycopg://tenant_x:s%2Fx@db:5433/media"),
        ("postgresql://a:b@db:5433/media", "pool:6432", "postgresql+psycopg://tenant_x:s%2Fx@pool:6432/media"),
        ("postgresql://a:b@db/media", "[fd00::1]:6432", "postgresql+psycopg://tenant_x:s%2Fx@[fd00::1]:6432/media"),
        (
            "postgresql://a:b@db/media?sslmode=require&sslpassword=p&passfile=/secret&options=-c%20x=1",
            "pool",
            "postgresql+psycopg://tenant_x:s%2Fx@pool/media?sslmode=require",
        ),
        (
            "postgresql://a:b@db/media?sslmode=verify-full&sslrootcert=/etc/own/ca.crt",
            "",
            "postgresql+psycopg://tenant_x:s%2Fx@db/media?sslmode=verify-full&sslrootcert=system",
        ),
    ],
)
def test_a_tenant_gets_the_address_and_none_of_the_operators_secrets(url: str, address: str, expected: str) -> None:
    made = Databases(settings_for(url, tenant_address=address)).tenant_url("tenant_x", "s/x")
    assert made == expected
    assert password_of(made) == "s/x"


def test_a_schema_names_its_tenant() -> None:
    assert tenant_id_of("tenant_acme_eu") == "acme-eu"
