"""Tenants in PostgreSQL: one schema and one role each, in one database.

Everything that a tenant's connection needs (search_path, limits) is set on its role, nothing on the session. Schema and
role have their owner mark in a comment, which the tenant cannot change. A schema or role without this owner's mark is
reported and never changed. Every statement may be repeated. Passwords are sent as SCRAM verifiers, so neither a
statement nor a log that quotes one holds a secret.

The operator's role is no superuser. It needs CREATEROLE, and CREATE on the database. It owns every table; a tenant's
role only reads and writes rows (`media_core.schema.grants`). The owner of a table can add a trigger, a view or an
index whose code runs as the role that uses the table, and the operator uses them. So tenants own none. The operator's
role may become each tenant's role, and inherits nothing from them.

PostgreSQL lets every role CONNECT to every database of its server. There a tenant's role may do what PUBLIC may. Only
the owner of such a database (`REVOKE CONNECT ... FROM PUBLIC`) or pg_hba.conf can keep it out.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from functools import cache, partial
from importlib.resources import files
from typing import Any, LiteralString, NamedTuple

import psycopg
from alembic.script import ScriptDirectory
from psycopg import sql
from sqlalchemy import URL, Row, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from media_core import policy
from media_core.contents.life import LOST, STANDS
from media_core.contents.quota import USAGE, Usage
from media_core.database import Arguments, Transaction
from media_core.errors import Unavailable
from media_core.jobs import backfill
from media_core.jobs.depth import Depth, by_kind, depth_query
from media_core.policy import read as read_policy
from media_core.schema import SESSION, SESSION_OPTIONS, grants, migrate
from media_core.upkeep import births
from media_core.upkeep.births import Birth
from media_operator import postgres_url
from media_operator.backends.breaker import RequestRefused
from media_operator.backends.engine import open_engine
from media_operator.plan import observed
from media_operator.settings import DatabaseSettings
from media_operator.tenant.ownership import NotOwned, OwnerMark

__all__ = [
    "Concerns",
    "Databases",
    "known_revisions",
    "password_of",
    "read_policy",
]

COMMENT = "media.scaiwave.io/owner="
"""Start of a comment that holds an owner mark."""
FINGERPRINT = "\npassword="
"""Comes after the owner mark in a role's comment, before a hash of the role's password and oid. Only superusers can
read PostgreSQL's own hash. So a Secret with a password that PostgreSQL does not have is noticed, and a role that came
back from a dump without passwords."""
TENANT_SETTINGS = {**SESSION, "statement_timeout": "60s", "idle_in_transaction_session_timeout": "60s"}
ADMIN_OPTIONS = f"{SESSION_OPTIONS} -c search_path=pg_catalog,pg_temp -c statement_timeout=0"
PATIENT, IMPATIENT = "5s", "500ms"
"""How long a read may take. The short time is for a schema that could not be read the last time; it is then read by a
statement of its own."""
READER_OPTIONS = (
    f"{ADMIN_OPTIONS} -c default_transaction_read_only=on -c statement_timeout={PATIENT} -c lock_timeout=100ms"
)
"""With limits, so that a tenant that locks or fills its queue does not keep other tenants waiting."""
BATCH = 100
"""How many tenants one statement reads."""
SESSION_END_MS = 5000
LOCK_TIMEOUT = "10s"
BACKFILLED = 50
"""Batches of contents that a change of the policy queues at most. A sweep queues the rest."""
POLICY_LOCK_TIMEOUT = "250ms"
"""Uploads lock the row only for a moment. If it is locked for longer, the operator tries again later: it has few
connections."""
SHARED_PARAMETERS = {"host", "port", "sslmode", "sslnegotiation", "target_session_attrs"}
"""Parameters of the operator's URL that a tenant's URL gets, too. They hold no secret and no path in the operator's
pod."""
TAKES_NO_WRITES = "PostgreSQL takes no writes: it is a standby, or it is set to read-only"
DEAD_AFTER = {"keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "3", "tcp_user_timeout": "25000"}
"""So that a server that vanished is noticed within half a minute."""


class Concerns(NamedTuple):
    """`orphans`: objects without a row, `orphan_bytes` together; `orphans_kept`: they wait for a person. `suspicious`:
    how many signatures wait for a person. `lost`: contents whose object the store has lost."""

    orphans: int = 0
    orphan_bytes: int = 0
    orphans_kept: bool = False
    suspicious: int = 0
    lost: int = 0


class Databases:
    """All tenants' schemas, over at most `settings.pool` connections.

    Every method raises Unavailable("database", sentence) when PostgreSQL is away or refuses. The sentence holds no
    secret.
    """

    def __init__(self, settings: DatabaseSettings) -> None:
        self._settings = settings
        self._url = postgres_url.parsed(settings.url.get_secret_value())
        readers = settings.pool - max(1, settings.pool // 2)
        self._admin = self._engine(ADMIN_OPTIONS, pool_size=max(1, settings.pool // 2))
        self._readers = self._engine(READER_OPTIONS, pool_size=readers)
        self._troubled: set[tuple[str, str]] = set()
        """(schema, table) pairs that could not be read the last time."""
        self._locks = sql.Identifier(f"{self._url.username}_locks")
        self._has_locks = False
        self._making_locks = asyncio.Lock()
        self._migrating = ThreadPoolExecutor(1)  # its own: waiting migrations take no thread of the shared pool

    def _engine(self, options: str, *, pool_size: int) -> AsyncEngine:
        options = f"{self._url.query.get('options', '')} {options}".strip()
        url = self._url.update_query_dict({**DEAD_AFTER, "options": options})
        return open_engine(_text(url), pool_size=pool_size)

    async def aclose(self) -> None:
        await self._admin.dispose()
        await self._readers.dispose()
        self._migrating.shutdown(wait=False)

    # --- schema and role ------------------------------------------------------------------------------------------

    async def observe(self, schema: str, password: str | None) -> observed.Database:
        """The facts that `plan` needs. `password`: that of the tenant's Secret; None: there is none.

        `complete` also means: the role was not retired, has its settings and its grants on the tables, may log in
        with `password`, and has the connection limit of the settings.
        """
        async with self._administering() as tx:
            marks = await _marks(tx, schema)
            others = sql.SQL(_ANOTHERS_TABLES).format(schema)
            needed = [f"{name}={value}" for name, value in {"search_path": schema, **SESSION}.items()]
            rows = await _execute(tx, _ROLE, others, schema, f"{schema}.media", needed, schema)
            (tables,) = await _execute(tx, _HAS_TABLES, schema)
            if tables.read_only:
                raise Unavailable("database", TAKES_NO_WRITES)
        owner = next(iter(marks.values())) if len(set(marks.values())) == 1 else None
        fits = (
            len(marks) == 2
            and rows[0].is_complete
            and rows[0].rolconnlimit == self._settings.connection_limit
            and password is not None
            and (rows[0].comment or "").endswith(_fingerprint(rows[0].oid, password))
        )
        birth, holds = await self._birth_and_holds(schema) if owner is not None and tables.there else (None, False)
        return observed.Database(
            exists=bool(marks),
            complete=fits and owner is not None and not owner.retained,
            owner=owner,
            revision=await self._revision(schema) if owner is not None else None,
            known_revisions=known_revisions(),
            is_new=not tables.there,
            birth=birth,
            holds=holds,
        )

    async def known(self, schema: str, contents: Sequence[str]) -> int:
        """How many of these contents have a row in the schema; 0 also if it has no table yet."""
        async with self.within(schema) as tx:
            if not await tx.value("SELECT to_regclass('blob') IS NOT NULL"):
                return 0
            return int(await tx.value(births.KNOWN, (list(contents),)))

    async def create(self, schema: str, mark: OwnerMark, password: str, *, adopt: bool = False) -> None:
        """Makes schema and role, completes existing ones, takes over those that may be adopted. Raises NotOwned.

        Afterwards the role may log in with `password` and has the connection limit of the settings.
        """
        role = name = sql.Identifier(schema)
        async with self._administering() as tx:
            marks = await self._locked_marks(tx, schema)
            for there in marks.values():
                if there is None or there.relation(mark, adopt=adopt) == "foreign":
                    raise NotOwned(_whose(schema, there))
            for table in await _execute(tx, _ANOTHERS_TABLES, schema):
                raise NotOwned(f"table {schema}.{table.name} is owned by role {table.owner}, not by the operator's")
            if "schema" not in marks:
                await _refuse_unfit_databases(tx)
            if "role" not in marks:
                await _execute(tx, "CREATE ROLE {}", role)
                await _execute(tx, "GRANT {} TO CURRENT_USER WITH INHERIT FALSE, SET TRUE", role)
            await _set_password(tx, schema, password)
            limit = self._settings.connection_limit
            await _execute(tx, "ALTER ROLE {} LOGIN CONNECTION LIMIT {} VALID UNTIL 'infinity'", role, limit)
            (server,) = await _execute(tx, _HAS_TRANSACTION_TIMEOUT)
            further = {"transaction_timeout": "0"} if server.has_it else {}
            await _set(tx, role, {"search_path": schema, **TENANT_SETTINGS, **further})
            await _let_in(tx, schema, self._locks)
            if "schema" not in marks:  # owned by the operator: the tenant can neither drop it nor change its mark
                await _execute(tx, "CREATE SCHEMA {}", name)
            await _execute(tx, "GRANT USAGE ON SCHEMA {} TO {}", name, role)
            await _write_marks(tx, schema, mark, ("schema",))
            (made,) = await _execute(tx, _OID, schema)
            await _write_marks(tx, schema, mark, ("role",), _fingerprint(made.oid, password))
            for statement in grants(schema, schema) if await self._has_tables(tx, schema) else ():
                await _execute(tx, statement)  # a restored dump has lost the grants of the tenant's role

    async def migrate(self, schema: str) -> None:
        """Migrates the schema to the newest revision, over a connection of its own; one tenant at a time."""
        url = _text(self._url.update_query_dict(DEAD_AFTER))
        async with _answering():
            await asyncio.get_running_loop().run_in_executor(self._migrating, migrate, url, schema, schema)

    async def birth(self, schema: str, *, renew: bool = False) -> Birth:
        """The schema's birth, to be written to its bucket. `renew`: the schema gets a new id first."""
        async with self._writing_into(schema) as tx:
            if renew:
                await _execute(tx, births.RENEW)
            (row,) = await _execute(tx, births.READ)
            return Birth(row.birth_id, row.epoch, row.incarnation)

    async def retire(self, schema: str, claimant: OwnerMark) -> None:
        """The role cannot log in any more, its sessions end, schema and role are marked `retained`. Rows stay.

        A schema or role that does not have `claimant`'s owner mark, or no longer has it, stays as it is.
        """
        async with self._administering() as tx:
            marks = await self._locked_marks(tx, schema)
            if not _ours(marks, claimant):
                return
            if "role" in marks:
                await _execute(tx, "ALTER ROLE {} NOLOGIN PASSWORD NULL", sql.Identifier(schema))
        await self._end_sessions(schema, marks)
        async with self._administering() as tx:  # last: the next look takes a retained mark for done
            marks = await self._locked_marks(tx, schema)
            if _ours(marks, claimant):
                await _write_marks(tx, schema, claimant.as_retained(), marks)

    async def drop(self, schema: str, claimant: OwnerMark) -> None:
        """Drops schema and role with all they hold. Does nothing if neither exists. Raises NotOwned."""
        role = sql.Identifier(schema)
        async with self._administering() as tx:
            marks = await self._own_marks(tx, schema, claimant)
            if "role" in marks:
                await _execute(tx, "ALTER ROLE {} NOLOGIN", role)
        await self._end_sessions(schema, marks)
        async with self._administering() as tx:
            if "schema" in await self._own_marks(tx, schema, claimant):
                await _execute(tx, "DROP SCHEMA {} CASCADE", role)
        async with self._administering() as tx:  # apart: objects in another database keep the role, not the rows
            if "role" in await self._own_marks(tx, schema, claimant):
                if let_into := await _execute(tx, _LET_INTO, schema):
                    await _execute(tx, _LOCK, self._locks, _CONNECT)
                await _execute(tx, "SET LOCAL ROLE {}", role)
                await _execute(tx, "DROP OWNED BY CURRENT_USER CASCADE")
                await _execute(tx, "RESET ROLE")
                for database in let_into:  # as the operator, who granted it
                    await _execute(tx, "REVOKE CONNECT ON DATABASE {} FROM {}", sql.Identifier(database.name), role)
                await _execute(tx, "DROP ROLE {}", role)

    async def marks(self, cluster: str) -> Mapping[str, OwnerMark]:
        """Schema -> owner mark, of all tenants that this cluster ever had here."""
        async with self._administering() as tx:
            rows = await _execute(tx, _ALL_MARKS)
        marks = {row.name: _parse(row.comment) for row in rows}
        return {name: mark for name, mark in marks.items() if mark is not None and mark.cluster == cluster}

    def tenant_url(self, schema: str, password: str) -> str:
        """The URL with which the tenant's pods connect: `postgresql+psycopg://`."""
        query = {name: value for name, value in self._url.query.items() if name in SHARED_PARAMETERS}
        if query.get("sslmode") == "verify-full":
            query["sslrootcert"] = "system"  # SSL_CERT_FILE: the operator's file is not in the tenant's pods
        url = self._url.set(username=schema, password=password, query=query)
        if self._settings.tenant_address:
            host, port = _split(self._settings.tenant_address)
            url = url.set(host=host, port=port).difference_update_query(["host", "port"])
        return _text(url)

    # --- what is in the schemas -------------------------------------------------------------------------------------

    @asynccontextmanager
    async def within(self, schema: str) -> AsyncIterator[Transaction]:
        """A read-only transaction with the schema as search_path."""
        async with self._reading() as tx:
            await _execute(tx, "SET LOCAL search_path = {}", sql.Identifier(schema))
            yield Transaction(await _driver(tx))

    async def apply_policy(self, schema: str, wanted: policy.Policy) -> None:
        """Once scanning is on, what was stored before is queued for it: the first contents here, others by a sweep."""
        async with self._writing_into(schema) as tx:
            tables = Transaction(await _driver(tx))
            before = await policy.read(tables)
            await policy.apply(tables, wanted)
        if before is not None and wanted.scan_enabled and not before.scan_enabled:
            # Uploads that have read the old rule are committed first. VACUUM may hold the table: then the sweep queues
            # what they store.
            with suppress(RequestRefused):
                await self._ask(schema, "LOCK TABLE blob IN SHARE MODE", ())
            await backfill.queue(partial(self._ask, schema), backfill.SCANS, batches=BACKFILLED)

    async def _ask(self, schema: str, statement: LiteralString, arguments: Arguments) -> list[Any]:
        async with self._writing_into(schema) as tx:
            return await Transaction(await _driver(tx)).execute(statement, arguments)

    async def trust(self, schema: str, signatures: Sequence[str]) -> None:
        """Contents that these signatures find are infected, however many they are."""
        await self._note(schema, _TRUST, sql.Literal(list(signatures)))

    async def release_orphans(self, schema: str, until: datetime) -> None:
        """The next sweep may remove orphans that were first seen up to `until`."""
        await self._note(schema, _RELEASE_ORPHANS, until)

    async def _note(self, schema: str, statement: str, what: object) -> None:
        async with self._writing_into(schema) as tx:
            await _execute(tx, statement, what)

    async def usage(self, schema: str) -> Usage:
        usage = (await self.usages_of([schema])).get(schema)
        if usage is None:
            raise _unreadable(schema)
        return usage

    async def usages_of(self, schemas: Iterable[str]) -> Mapping[str, Usage]:
        """Schema -> usage, of the schemas that can be read."""
        query = f"SELECT {USAGE} FROM {{}}".format  # noqa: S608 (a constant)
        found = await self._read_all(schemas, "usage", query)
        return {schema: Usage(*tuple(rows[0])[1:]) for schema, rows in found.items() if rows}

    async def concerns_of(self, schemas: Iterable[str]) -> Mapping[str, Concerns]:
        """Schema -> what waits for a person, of the schemas that can be read."""
        schemas = list(schemas)
        swept = await self._read_all(schemas, "swept", _SWEPT.format)
        suspicions = await self._read_all(schemas, "suspicion", _SUSPICIONS.format)
        lost = await self._read_all(schemas, "blob", _LOST.format)
        found = {}
        for schema in swept.keys() & suspicions.keys() & lost.keys():
            concerns = Concerns(*swept[schema][0][1:]) if swept[schema] else Concerns()
            found[schema] = concerns._replace(
                suspicious=suspicions[schema][0].signatures, lost=lost[schema][0].contents
            )
        return found

    async def depths(self, schema: str) -> Mapping[str, Depth]:
        depths = (await self.depths_of([schema]))[schema]
        if depths is None:
            raise _unreadable(schema)
        return depths

    async def depths_of(self, schemas: Iterable[str]) -> Mapping[str, Mapping[str, Depth] | None]:
        """Schema -> kind -> depth, by one statement for each `BATCH` of schemas; None: it cannot be read now."""
        schemas = list(schemas)
        found = await self._read_all(schemas, "job", depth_query)
        return {schema: by_kind(found[schema]) if schema in found else None for schema in schemas}

    async def _birth_and_holds(self, schema: str) -> tuple[Birth | None, bool]:
        async with self.within(schema) as tx:
            if not await tx.value("SELECT to_regclass('birth') IS NOT NULL"):
                return None, False
            row = await tx.first(births.READ)
            birth = None if row is None else Birth(row.birth_id, row.epoch, row.incarnation)
            return birth, bool(await tx.value(_HOLDS))

    async def _revision(self, schema: str) -> str | None:
        found = await self._read_all([schema], "alembic_version", "SELECT version_num FROM {}".format)
        return str(found[schema][0].version_num) if found.get(schema) else None

    async def _read_all(
        self, schemas: Iterable[str], table: str, query: Callable[[str], str]
    ) -> dict[str, list[Row[Any]]]:
        """Schema -> the rows of `query`. Schemas that cannot be read, now or ever, are left out."""
        async with self._reading() as tx:
            names = [row.name for row in await _execute(tx, _WITH_TABLE, list(schemas), table)]
        found: dict[str, list[Row[Any]]] = {}
        well = [name for name in names if (name, table) not in self._troubled]
        for start in range(0, len(well), BATCH):
            found |= await self._read_batch(well[start : start + BATCH], table, query)
        for name in set(names) - set(well):
            found |= await self._read_batch([name], table, query, patience=IMPATIENT)
        self._troubled -= {(name, table) for name in found}
        self._troubled |= {(name, table) for name in set(names) - found.keys()}
        return found

    async def _read_batch(
        self, schemas: list[str], table: str, query: Callable[[str], str], *, patience: str = ""
    ) -> dict[str, list[Row[Any]]]:
        """One statement. If it fails each half is read by itself, so that only the broken schema is left out."""
        parts = [
            _OF_ONE.format(number, query(sql.Identifier(schema, table).as_string(None)))
            for number, schema in enumerate(schemas)
        ]
        try:
            async with self._reading() as tx:
                if patience:
                    await _execute(tx, "SET LOCAL statement_timeout = {}", patience)
                rows = await _execute(tx, " UNION ALL ".join(parts))
        except RequestRefused:
            if len(schemas) == 1:
                return {}
            middle = len(schemas) // 2
            return {
                **await self._read_batch(schemas[:middle], table, query),
                **await self._read_batch(schemas[middle:], table, query),
            }
        found: dict[str, list[Row[Any]]] = {schema: [] for schema in schemas}
        for row in rows:
            found[schemas[row.tenant]].append(row)
        return found

    # --- connections ------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _administering(self) -> AsyncIterator[AsyncConnection]:
        async with self._making_locks:
            if not self._has_locks:
                async with _answering(), self._admin.begin() as tx:
                    await _execute(tx, "CREATE SCHEMA IF NOT EXISTS {}", self._locks)
                    await _execute(tx, "CREATE TABLE IF NOT EXISTS {}.lock (name text PRIMARY KEY)", self._locks)
                self._has_locks = True
        async with _answering(), self._admin.begin() as tx:
            yield tx

    @asynccontextmanager
    async def _writing_into(self, schema: str) -> AsyncIterator[AsyncConnection]:
        async with self._administering() as tx:
            await _execute(tx, "SET LOCAL lock_timeout = {}", POLICY_LOCK_TIMEOUT)
            await _execute(tx, "SET LOCAL search_path = {}", sql.Identifier(schema))
            yield tx

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[AsyncConnection]:
        async with _answering(), self._readers.connect() as tx:
            yield tx

    async def _own_marks(self, tx: AsyncConnection, schema: str, claimant: OwnerMark) -> Mapping[str, OwnerMark | None]:
        """Raises NotOwned."""
        marks = await self._locked_marks(tx, schema)
        if not _ours(marks, claimant):
            raise NotOwned(_whose(schema, *marks.values()))
        return marks

    async def _has_tables(self, tx: AsyncConnection, schema: str) -> bool:
        return bool(await _execute(tx, _WITH_TABLE, [schema], "alembic_version"))

    async def _locked_marks(self, tx: AsyncConnection, name: str) -> dict[str, OwnerMark | None]:
        """`_marks`, locked against other operators until the end of the transaction.

        The lock is a row of the operator's own table. Any role may take advisory locks, and `pg_locks` shows their
        numbers.
        """
        await _execute(tx, "SET LOCAL lock_timeout = {}", LOCK_TIMEOUT)
        await _execute(tx, _LOCK, self._locks, name)
        return await _marks(tx, name)

    async def _end_sessions(self, schema: str, marks: Iterable[str]) -> None:
        """Ends the role's sessions, as the role itself, which needs no privilege for that."""
        if "role" in marks:
            async with self._administering() as tx:
                await _execute(tx, "SET LOCAL ROLE {}", sql.Identifier(schema))
                await _execute(tx, _END_SESSIONS, SESSION_END_MS, schema)


def password_of(url: str) -> str:
    return str(make_url(url).password or "")


@cache
def known_revisions() -> tuple[str, ...]:
    """The revisions of this version of the code, oldest first."""
    scripts = ScriptDirectory(str(files("media_core") / "migrations"))
    return tuple(reversed([script.revision for script in scripts.walk_revisions()]))


# --- statements ------------------------------------------------------------------------------------------------------

_MARKS = """
SELECT 'schema' AS part, obj_description(oid, 'pg_namespace') AS comment FROM pg_namespace WHERE nspname = {0}
UNION ALL SELECT 'role', shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = {0}
"""
_LOCK = "INSERT INTO {}.lock AS there VALUES ({}) ON CONFLICT (name) DO UPDATE SET name = there.name"
_ALL_MARKS = """
SELECT nspname AS name, obj_description(oid, 'pg_namespace') AS comment FROM pg_namespace
WHERE starts_with(nspname, 'tenant_')
"""
_ANOTHERS_TABLES = """
SELECT relname AS name, pg_get_userbyid(relowner) AS owner FROM pg_class
WHERE relnamespace = to_regnamespace(quote_ident({})) AND relkind IN ('r','p','v','m','f')
    AND pg_get_userbyid(relowner) <> current_user
"""
_ROLE = """
SELECT rolcanlogin AND NOT EXISTS ({}) AND coalesce(has_schema_privilege(oid, to_regnamespace({}), 'USAGE'), true)
    AND coalesce(has_table_privilege(oid, to_regclass({}), 'INSERT'), true)
    AND has_database_privilege(oid, current_database(), 'CONNECT') AND coalesce(rolconfig @> {}, false)
    AND (current_setting('transaction_timeout', true) IS NULL OR 'transaction_timeout=0' = ANY(rolconfig))
    AND coalesce(rolvaliduntil, 'infinity') = 'infinity' AS is_complete,
    oid, rolconnlimit, shobj_description(oid, 'pg_authid') AS comment
FROM pg_roles WHERE rolname = {}
"""
_HAS_TRANSACTION_TIMEOUT = "SELECT current_setting('transaction_timeout', true) IS NOT NULL AS has_it"
"""From PostgreSQL 17 on."""
_OID = "SELECT oid FROM pg_roles WHERE rolname = {}"
_WITH_TABLE = """
SELECT nspname AS name FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE nspname = ANY({}) AND relname = {} AND relkind = 'r' AND pg_get_userbyid(relowner) = current_user
"""
_HAS_TABLES = """
SELECT EXISTS (
    SELECT FROM pg_class WHERE relnamespace = to_regnamespace(quote_ident({})) AND relkind IN ('r','p')
) AS there, current_setting('transaction_read_only')::boolean AS read_only
"""
_SWEPT = "SELECT orphans, orphan_bytes, orphans_kept FROM {}"
_LOST = f"SELECT count(*) AS contents FROM {{}} WHERE {LOST}"  # noqa: S608 (a constant)
_HOLDS = f"SELECT EXISTS (SELECT FROM blob WHERE {STANDS})"  # noqa: S608 (a constant)
_SUSPICIONS = "SELECT count(*) AS signatures FROM (SELECT FROM {} WHERE trusted_at IS NULL LIMIT 100) AS these"
_TRUST = "UPDATE suspicion SET trusted_at = now() WHERE signature = ANY({}) AND trusted_at IS NULL"
_RELEASE_ORPHANS = "UPDATE swept SET orphans_released_at = {}"
_OF_ONE = "SELECT {} AS tenant, found.* FROM ({}) AS found"
_END_SESSIONS = """
SELECT pg_terminate_backend(pid, {}) FROM pg_stat_activity WHERE usename = {}
"""


OLDEST = 16
"""The oldest version of PostgreSQL that will do: an older one knows no GRANT of a role WITH INHERIT FALSE."""
_DATABASE = """
SELECT current_database() AS name, pg_encoding_to_char(encoding) AS encoding,
    current_setting('server_version_num')::integer / 10000 AS version
FROM pg_database WHERE datname = current_database()
"""


async def _refuse_unfit_databases(tx: AsyncConnection) -> None:
    """Of a database with another encoding, as initdb makes it in the locale C, no name beyond ASCII would come back."""
    (database,) = await _execute(tx, _DATABASE)
    if database.version < OLDEST:
        raise RequestRefused("database", f"PostgreSQL {OLDEST} or newer is needed, and this is {database.version}")
    if database.encoding != "UTF8":
        raise RequestRefused(
            "database",
            f"the encoding of database {database.name} is {database.encoding}, and names of files need UTF8: make a "
            "database for the platform with ENCODING 'UTF8' TEMPLATE template0",
        )


_LET_INTO = """
SELECT datname AS name FROM pg_database, aclexplode(datacl) AS entry
WHERE datname = current_database() AND entry.grantee = to_regrole(quote_ident({}))
"""
_CONNECT = "connect"
"""A lock beside those of schemas: PostgreSQL refuses a change of a database's rights beside another one."""
_MAY_CONNECT = "SELECT has_database_privilege({}, current_database(), 'CONNECT') AS may, current_database() AS name"


async def _let_in(tx: AsyncConnection, role: str, locks: sql.Identifier) -> None:
    """Lets the role connect where PUBLIC may not, which its owner or somebody with the grant option can."""
    (before,) = await _execute(tx, _MAY_CONNECT, role)
    if before.may:
        return
    await _execute(tx, _LOCK, locks, _CONNECT)
    database = sql.Identifier(before.name)
    await _execute(tx, "GRANT CONNECT ON DATABASE {} TO {}", database, sql.Identifier(role))
    (after,) = await _execute(tx, _MAY_CONNECT, role)
    if not after.may:
        (own,) = await _execute(tx, "SELECT current_user AS role")
        raise RequestRefused(
            "database",
            f"tenants' roles may not connect to database {before.name}, nor may the operator let them: its owner has "
            f"to run GRANT CONNECT ON DATABASE {before.name} TO {own.role} WITH GRANT OPTION",
        )


@asynccontextmanager
async def _answering() -> AsyncIterator[None]:
    try:
        yield
    except PoolTimeout as error:
        raise Unavailable("database", "all connections are busy") from error
    except (DBAPIError, psycopg.Error) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        state = getattr(cause, "sqlstate", None)
        if isinstance(cause, psycopg.DataError) and state is None:
            raise RequestRefused("database", "a value there that cannot be read") from error
        if isinstance(cause, psycopg.errors.ReadOnlySqlTransaction):
            raise Unavailable("database", TAKES_NO_WRITES) from error
        invalidated = isinstance(error, DBAPIError) and error.connection_invalidated
        if invalidated or state is None or state.startswith(("08", "53", "57P")):
            # The driver's message names hosts and roles; it goes to the log through __cause__, not into a condition.
            raise Unavailable("database", _why_away(f"{state} {cause}")) from error
        raise RequestRefused("database", f"PostgreSQL refuses: {_sentence(cause)}") from error


_AWAY: Sequence[tuple[str, str]] = (
    ("password authentication failed|no password supplied", "PostgreSQL does not accept the operator's password"),
    ("not permitted to log in|no pg_hba.conf entry|does not exist", "PostgreSQL does not let the operator's role in"),
    ("too many (connections|clients)|connection slots", "PostgreSQL has no free connection for the operator"),
    ("certificate|SSL", "PostgreSQL's certificate is not accepted, or sslmode in its URL does not fit the server"),
    ("^53100|No space left|disk full", "PostgreSQL's disk is full: make room there"),
    ("unrecognized configuration parameter", f"PostgreSQL {OLDEST} or newer is needed, and this is older"),
    ("unsupported startup parameter", "that is PgBouncer, and the operator needs a direct connection to PostgreSQL"),
    ("starting up|shutting down|recovery", "PostgreSQL is starting or ending"),
    ("resolve|not known|translate host", "the host in PostgreSQL's URL has no address"),
    ("refused|timeout|unreachable|No such file", "nobody answers at PostgreSQL's address"),
)
"""What SQLSTATE and message of the driver contain, in English, and what it means. The first that fits wins."""


def _why_away(error: str) -> str:
    for pattern, words in _AWAY:
        if re.search(pattern, error):
            return words
    return "PostgreSQL does not answer, or does not let the operator in"


def _sentence(error: BaseException | None) -> str:
    if not isinstance(error, psycopg.Error):
        return "no reason given"
    where = error.diag.message_detail if isinstance(error, psycopg.errors.DependentObjectsStillExist) else None
    return f"{error.diag.message_primary}" + (f" ({where})" if where else "")


async def _execute(tx: AsyncConnection, statement: str, *parts: object) -> Sequence[Row[Any]]:
    """The statement's rows. `parts` fill its braces: names as `sql.Identifier`, everything else as a literal."""
    filled = sql.SQL(statement).format(
        *(part if isinstance(part, sql.Composable) else sql.Literal(part) for part in parts)
    )
    done = await tx.exec_driver_sql(filled.as_string(None).replace("%", "%%"))
    return done.all() if done.returns_rows else []


async def _marks(tx: AsyncConnection, name: str) -> dict[str, OwnerMark | None]:
    """Part ("schema", "role") -> owner mark, of the parts that exist."""
    return {row.part: _parse(row.comment) for row in await _execute(tx, _MARKS, name)}


async def _write_marks(tx: AsyncConnection, name: str, mark: OwnerMark, parts: Iterable[str], more: str = "") -> None:
    for part in parts:
        await _execute(tx, f"COMMENT ON {part.upper()} {{}} IS {{}}", sql.Identifier(name), f"{COMMENT}{mark}{more}")


async def _driver(tx: AsyncConnection) -> psycopg.AsyncConnection[Any]:
    driver = (await tx.get_raw_connection()).driver_connection
    assert isinstance(driver, psycopg.AsyncConnection)  # noqa: S101  the only driver
    return driver


async def _set_password(tx: AsyncConnection, role: str, password: str) -> None:
    driver = await _driver(tx)
    verifier = driver.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
    await _execute(tx, "ALTER ROLE {} PASSWORD {}", sql.Identifier(role), verifier)


async def _set(tx: AsyncConnection, role: sql.Identifier, settings: Mapping[str, str]) -> None:
    for setting, value in settings.items():
        await _execute(tx, "ALTER ROLE {} SET {} = {}", role, sql.Identifier(setting), value)


def _fingerprint(oid: int, password: str) -> str:
    return FINGERPRINT + hashlib.sha256(f"{oid}:{password}".encode()).hexdigest()[:16]


def _parse(comment: str | None) -> OwnerMark | None:
    if comment is None or not comment.startswith(COMMENT):
        return None
    return OwnerMark.parse(comment.removeprefix(COMMENT).partition("\n")[0])


def _ours(marks: Mapping[str, OwnerMark | None], claimant: OwnerMark) -> bool:
    return all(mark is not None and mark.relation(claimant) == "ours" for mark in marks.values())


def _whose(name: str, *marks: OwnerMark | None) -> str:
    known = [mark.describe() for mark in marks if mark is not None]
    return f"{name} belongs to {known[0]}" if known else f"{name} exists and has no owner mark"


def _unreadable(schema: str) -> Unavailable:
    return Unavailable("database", f"schema {schema} cannot be read")


def _split(address: str) -> tuple[str, int | None]:
    """`host:port`, `host`, `[v6]:port`."""
    host, colon, port = address.rpartition(":")
    return (host.strip("[]"), int(port)) if colon and port.isdecimal() else (address.strip("[]"), None)


def _text(url: URL) -> str:
    return url.render_as_string(hide_password=False)
