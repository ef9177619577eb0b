"""A tenant's schema and role on the real server: what the role can do, and what it can't."""

import secrets
from collections.abc import AsyncIterator

import psycopg
import pytest
from psycopg import sql

from media_core.database import migrate
from media_operator import databases
from media_operator.embedded.postgres import EmbeddedPostgres


@pytest.fixture
async def admin(postgres: EmbeddedPostgres) -> AsyncIterator[psycopg.AsyncConnection]:
    url = postgres.admin_url.replace("+psycopg", "")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def schema(admin: psycopg.AsyncConnection) -> AsyncIterator[str]:
    name = f"tenant_{secrets.token_hex(6)}"
    yield name
    await admin.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(name)))
    await admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))


async def as_role(postgres: EmbeddedPostgres, role: str, password: str, query: str) -> object:
    url = postgres.url("postgres", role, password).replace("+psycopg", "")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        row = await (await connection.execute(query.encode())).fetchone()
        return row and row[0]


async def test_a_new_tenant_is_seen_step_by_step(
    postgres: EmbeddedPostgres, admin: psycopg.AsyncConnection, schema: str
) -> None:
    newest = databases.known_revisions()[-1]
    before = await databases.observe(admin, schema)
    assert (before.exists, before.owner, before.revision) == (False, None, None)
    await databases.create(admin, schema, "uid-1", "secret")
    made = await databases.observe(admin, schema)
    assert (made.complete, made.owner, made.revision) == (True, "uid-1", None)
    migrate(postgres.url("postgres", schema, "secret"))
    assert (await databases.observe(admin, schema)).revision == newest


async def test_making_it_again_changes_nothing_but_the_password(
    postgres: EmbeddedPostgres, admin: psycopg.AsyncConnection, schema: str
) -> None:
    await databases.create(admin, schema, "uid-1", "first")
    migrate(postgres.url("postgres", schema, "first"))
    await databases.create(admin, schema, "uid-1", "second")
    assert await as_role(postgres, schema, "second", "SELECT count(*) FROM blob") == 0
    with pytest.raises(psycopg.OperationalError):
        await as_role(postgres, schema, "first", "SELECT 1")


async def test_the_role_carries_its_search_path_and_its_limits(
    postgres: EmbeddedPostgres, admin: psycopg.AsyncConnection, schema: str
) -> None:
    await databases.create(admin, schema, "uid-1", "secret")
    assert await as_role(postgres, schema, "secret", "SHOW search_path") == schema
    assert await as_role(postgres, schema, "secret", "SHOW statement_timeout") == "1min"
    limit = await (await admin.execute("SELECT rolconnlimit FROM pg_roles WHERE rolname = %s", [schema])).fetchone()
    assert limit == (databases.CONNECTION_LIMIT,)


async def test_a_tenants_role_cannot_read_another_tenants_rows(
    postgres: EmbeddedPostgres, admin: psycopg.AsyncConnection, schema: str
) -> None:
    other = schema + "_other"
    try:
        for name in (schema, other):
            await databases.create(admin, name, name, "secret")
            migrate(postgres.url("postgres", name, "secret"))
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await as_role(postgres, schema, "secret", f"TABLE {other}.blob")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await as_role(postgres, schema, "secret", "CREATE TABLE public.stray (n int)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await as_role(postgres, schema, "secret", "CREATE SCHEMA more")
    finally:
        await admin.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(other)))
        await admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(other)))


@pytest.mark.parametrize("statement", ["CREATE SCHEMA {}", "CREATE ROLE {}"])
async def test_what_bears_no_mark_is_reported_and_left_alone(
    admin: psycopg.AsyncConnection, schema: str, statement: str
) -> None:
    await admin.execute(sql.SQL(statement).format(sql.Identifier(schema)))
    found = await databases.observe(admin, schema)
    assert (found.exists, found.complete, found.owner) == (True, False, None)
    with pytest.raises(databases.NotOwned):
        await databases.create(admin, schema, "uid-1", "secret")
    assert await databases.observe(admin, schema) == found


async def test_what_bears_another_tenants_mark_keeps_its_password(
    postgres: EmbeddedPostgres, admin: psycopg.AsyncConnection, schema: str
) -> None:
    await databases.create(admin, schema, "first-life", "secret")
    with pytest.raises(databases.NotOwned):
        await databases.create(admin, schema, "second-life", "other")
    assert await as_role(postgres, schema, "secret", "SELECT 1") == 1


async def test_no_statement_holds_the_password(
    postgres: EmbeddedPostgres, admin: psycopg.AsyncConnection, schema: str
) -> None:
    password = secrets.token_hex(16)
    await databases.create(admin, schema, "uid-1", password)
    await admin.execute("SET log_statement = 'all'")
    await databases.set_password(admin, schema, password)
    await admin.execute("SET log_statement = 'none'")
    log = postgres.log.read_text()
    assert f'ALTER ROLE "{schema}" PASSWORD' in log
    assert password not in log
