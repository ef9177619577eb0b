"""A tenant's place in PostgreSQL: one schema and one role that sees only it.

Everything that a connection needs hangs on the role (search_path, limits), nothing on the session. Both bear their
owner's mark in a comment; what exists without this owner's mark is reported, never changed. Every statement may be
repeated. Passwords travel as SCRAM verifiers, so no statement, and no log that quotes one, holds a secret.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import psycopg
from alembic.script import ScriptDirectory
from psycopg import sql

from media_core import plan

MARK = "media.scaiwave.io/owner="
CONNECTION_LIMIT = 100
STATEMENT_TIMEOUT = "60s"
IDLE_IN_TRANSACTION_TIMEOUT = "60s"


class NotOwned(Exception):
    """Schema or role bears another mark, or none: whose it is is unknown, and it was left alone."""


async def observe(admin: psycopg.AsyncConnection, schema: str) -> plan.Database:
    """The facts `plan` asks for."""
    marks = await _marks(admin, schema)
    revision = None
    if "schema" in marks and await _one(admin, "SELECT to_regclass(%s)::text", f"{schema}.alembic_version") is not None:
        query = sql.SQL("SELECT version_num FROM {}").format(sql.Identifier(schema, "alembic_version"))
        row = await (await admin.execute(query)).fetchone()
        revision = str(row[0]) if row else None
    return plan.Database(
        exists=bool(marks),
        complete=len(marks) == 2,
        owner=next(iter(marks.values())) if len(set(marks.values())) == 1 else None,
        revision=revision,
        known_revisions=known_revisions(),
    )


async def create(admin: psycopg.AsyncConnection, schema: str, owner: str, password: str) -> None:
    """Makes schema and role, or completes what is there; the role's password is `password` afterwards.

    `admin` may create roles and is in autocommit mode. Raises NotOwned, psycopg.Error.
    """
    name, mark = sql.Identifier(schema), sql.Literal(MARK + owner)
    async with admin.transaction():
        await admin.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [MARK + schema])
        marks = await _marks(admin, schema)
        if set(marks.values()) - {owner}:
            raise NotOwned(f"{schema} exists without this tenant's mark")
        if "role" not in marks:
            await admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(name))
            await admin.execute(sql.SQL("COMMENT ON ROLE {} IS {}").format(name, mark))
        await set_password(admin, schema, password)
        await admin.execute(
            sql.SQL("ALTER ROLE {} NOSUPERUSER NOCREATEDB NOCREATEROLE CONNECTION LIMIT {}").format(
                name, sql.Literal(CONNECTION_LIMIT)
            )
        )
        for setting, value in (
            ("search_path", name),
            ("statement_timeout", sql.Literal(STATEMENT_TIMEOUT)),
            ("idle_in_transaction_session_timeout", sql.Literal(IDLE_IN_TRANSACTION_TIMEOUT)),
        ):
            await admin.execute(sql.SQL("ALTER ROLE {} SET {} = {}").format(name, sql.SQL(setting), value))
        if "schema" not in marks:
            await admin.execute(sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(name, name))
            await admin.execute(sql.SQL("COMMENT ON SCHEMA {} IS {}").format(name, mark))


async def set_password(admin: psycopg.AsyncConnection, role: str, password: str) -> None:
    verifier = admin.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
    await admin.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(verifier)))


@cache
def known_revisions() -> tuple[str, ...]:
    """The migrations that this version of the code brings, oldest first."""
    scripts = ScriptDirectory(str(files("media_core") / "migrations"))
    return tuple(reversed([script.revision for script in scripts.walk_revisions()]))


async def _marks(admin: psycopg.AsyncConnection, schema: str) -> dict[str, str | None]:
    """What of "schema" and "role" exists, and whose mark it bears."""
    rows = await admin.execute(
        "SELECT 'schema', obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = %(name)s "
        "UNION ALL SELECT 'role', shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = %(name)s",
        {"name": schema},
    )
    return {
        part: comment.removeprefix(MARK) if comment is not None and comment.startswith(MARK) else None
        for part, comment in await rows.fetchall()
    }


async def _one(admin: psycopg.AsyncConnection, query: str, *parameters: str) -> str | None:
    row = await (await admin.execute(query.encode(), parameters)).fetchone()
    return None if row is None or row[0] is None else str(row[0])
