"""One tenant's database: transactions, single statements, migrations, and what the tenant's role may do.

Nothing here or above relies on session state: search_path and limits hang on the tenant's role, locks live as long as
their transaction, statements are prepared by name only where a setting says that this works. No parameter beyond user
and database is sent at the start of a connection. So everything works behind PgBouncer in transaction mode, with
PgBouncer's defaults.

Nobody may take a second connection while one is held: where there is one in all, that waits for itself.
"""

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from importlib.resources import files
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import namedtuple_row
from sqlalchemy import NullPool, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from media_core.connections import TRUSTED_SECONDS, Connection, Connections
from media_core.errors import Unavailable
from media_core.fresh import Fresh

DURABLE = text("SET LOCAL synchronous_commit = on")
"""For a transaction whose commit precedes something that can't be taken back, also in a `relaxed` worker."""

CHANNEL: Final = "media_queue"
"""Postgres channel on which the operator hears of new work; the payload is the tenant's schema."""
ANNOUNCE_SECONDS = 0.05
"""New work is announced at most so often by one process."""
ENDING_SECONDS = 2.0
"""How long the end of a process waits for what is still to be announced."""
_ANNOUNCE: Final = "SELECT set_config('synchronous_commit', 'off', true), pg_notify(%s, current_schema())"

PROBE_SECONDS = 3.0
"""How long readiness waits for a connection of a busy pool, and as long again for the answer."""
_PROBE: Final = "SELECT current_setting('transaction_read_only') = 'on', to_regclass('policy') IS NOT NULL"

CONNECTING: Final = {
    "connect_timeout": "5",
    # A server that vanished is noticed within half a minute, instead of being waited for.
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "25000",
}
"""Where the URL says nothing of it. None of this is sent to the server."""

PREPARED_AFTER: Final = 2
"""So often a connection runs a statement before it prepares it, where statements may be prepared."""

_READ_ONLY: Final = "25006"
_TRY_AGAIN: Final = ("40001", "40P01", "0A000")
"""A deadlock; a plan that was made before its tables or functions were changed."""
AGAIN_SECONDS: Final = 0.05
"""So long the other party of a deadlock has to take what it waits for: at once, the same two would meet again."""
_AWAY: Final = {
    "08": "PostgreSQL does not answer",  # also what PgBouncer says of itself, and of a server that it can't reach
    "25P03": "PostgreSQL ended a transaction that lay idle",
    "25P04": "PostgreSQL ended a transaction that took too long",
    _READ_ONLY: "PostgreSQL takes no writes (a standby, or read-only)",
    "40": "others were at the same rows",
    "53": "PostgreSQL is short of connections, memory or disk",
    "55P03": "rows stayed locked",
    "57014": "PostgreSQL took too long, and gave up",
    "57": "PostgreSQL is ending or starting",
    "58": "PostgreSQL has trouble with its own files",
}
"""What a SQLSTATE that begins so says of the server, and not of the statement: trying again later is right."""

_LENT: ContextVar[Connection] = ContextVar("lent")


class Database:
    """At most `pool_size` connections as one tenant's role.

    `url` is `postgresql+psycopg://role:password@host/database`; several hosts, and `target_session_attrs=read-write`,
    as libpq has them. `relaxed` turns synchronous_commit off for transactions: right for workers, whose lost commit
    only repeats work (at least once), wrong for the api, whose 201 is a promise. `prepare`: statements that come again
    are prepared by name, which is for a direct connection, or PgBouncer from 1.21 with `max_prepared_statements`.
    """

    def __init__(self, url: str, *, pool_size: int = 10, relaxed: bool = False, prepare: bool = False) -> None:
        self._begin: LiteralString = "BEGIN; SET LOCAL synchronous_commit = off" if relaxed else "BEGIN"
        self._engine = create_async_engine(
            url,
            poolclass=NullPool,  # what it works with is lent to it
            pool_reset_on_return=None,
            async_creator=_lent,
            hide_parameters=True,  # file names and prompts stay out of logged tracebacks
        )
        _, arguments = self._engine.dialect.create_connect_args(self._engine.url)
        self._connecting: dict[str, Any] = {
            **CONNECTING,
            **arguments,
            "autocommit": True,
            "prepare_threshold": PREPARED_AFTER if prepare else None,
        }
        self._connections = Connections(self._connect, pool_size)
        self._probed = Fresh(self._probe)
        self._news = False
        self._announcing: asyncio.Task[None] | None = None
        self._ending = asyncio.Event()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Commits at the end of the block, rolls back on any exception. Raises Unavailable when Postgres is away.

        Work that was queued in it (`announce_after`) is announced once it is committed.
        """
        async with self._lending() as (lent, connection):
            await lent.execute(self._begin, prepare=False)
            async with connection.begin():
                yield connection
            queued = connection.info.pop("announce", False)
        if queued:
            self.announce()

    @asynccontextmanager
    async def statement(self) -> AsyncIterator[AsyncConnection]:
        """Each statement commits by itself, without a BEGIN and COMMIT to wait for. Raises Unavailable likewise."""
        async with self._lending() as (_, connection):
            yield connection

    async def call(self, query: LiteralString, arguments: Sequence[Any] | Mapping[str, Any]) -> list[Any]:
        """The rows of one statement that commits by itself, as named tuples; its placeholders are `%s` or `%(name)s`.

        It goes to the driver directly, at a seventh of the CPU of `statement`: for what every request does. A deadlock
        is tried once more, a moment later. Raises Unavailable; other errors as psycopg's.
        """
        for last in (False, True):
            try:
                return await self._call(query, arguments)
            except psycopg.Error as error:
                if not last and error.sqlstate in _TRY_AGAIN:
                    await asyncio.sleep(AGAIN_SECONDS)
                    continue
                if (away := self._away(error)) is not None:
                    raise away from error
                raise
        raise AssertionError

    async def _call(self, query: LiteralString, arguments: Sequence[Any] | Mapping[str, Any]) -> list[Any]:
        connection = await self._connections.take()
        try:
            cursor = connection.cursor(row_factory=namedtuple_row)
            await cursor.execute(query, arguments)
            result = cursor.pgresult
            return await cursor.fetchall() if result is not None and result.nfields else []
        except psycopg.Error as error:
            if error.sqlstate == "0A000":
                connection.end()  # its plans go with it
            raise
        except asyncio.CancelledError:
            # The driver has asked the server to stop; that may still be on its way, and would meet the next statement.
            connection.end()
            raise
        finally:
            self._connections.give(connection)

    def announce(self) -> None:
        """Tells whoever listens on `CHANNEL` soon that there is new work; many calls become one notification.

        It is a statement of its own: a NOTIFY holds a lock of the whole server until its transaction is on disk.
        """
        self._news = True
        if self._announcing is None or self._announcing.done():
            self._announcing = asyncio.get_running_loop().create_task(self._announce())

    async def _announce(self) -> None:
        while self._news:
            with suppress(TimeoutError):
                async with asyncio.timeout(ANNOUNCE_SECONDS):
                    await self._ending.wait()
            self._news = False  # what is queued from here on needs another one
            with suppress(Unavailable, psycopg.Error):  # the operator also polls
                await self.call(_ANNOUNCE, (CHANNEL,))

    async def probe(self) -> None:
        """Raises Unavailable unless PostgreSQL answers in time, takes writes and has the tenant's tables.

        It asks at most once a second, whoever wants to know, and goes before those who wait for a connection: however
        busy the pool is, the next one that comes back is the probe's. Where none comes back at all, nobody is served.
        """
        await self._probed.current()

    async def _probe(self) -> None:
        connection = await self._connections.take(at_once=True, seconds=PROBE_SECONDS)
        try:
            ((read_only, has_tables),) = await connection.ask(_PROBE, PROBE_SECONDS)
        except psycopg.Error as error:
            if (away := self._away(error)) is not None:
                raise away from error
            raise
        except asyncio.CancelledError:
            connection.end()  # as in `_call`
            raise
        finally:
            self._connections.give(connection)
        if read_only:
            self._connections.retire()
            raise Unavailable("database", _AWAY[_READ_ONLY])
        if not has_tables:
            raise Unavailable("database", "the tenant's tables are not there")

    async def aclose(self) -> None:
        """What is lent is ended when it comes back."""
        self._ending.set()
        if self._announcing is not None:
            await asyncio.wait((self._announcing,), timeout=ENDING_SECONDS)
            self._announcing.cancel()
        self._connections.close()
        await self._engine.dispose()

    async def _connect(self) -> Connection:
        try:
            return await Connection.connect(**self._connecting)
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            self._probed.forget()
            raise Unavailable("database", _AWAY["08"]) from error

    @asynccontextmanager
    async def _lending(self) -> AsyncIterator[tuple[Connection, AsyncConnection]]:
        """One connection, as the driver has it and as SQLAlchemy sees it."""
        lent = await self._connections.take()
        try:
            before = _LENT.set(lent)
            try:
                connection = await self._engine.connect()
            finally:
                _LENT.reset(before)
            try:
                yield lent, connection
            finally:
                await connection.close()
        except (DBAPIError, psycopg.Error) as error:
            if (away := self._away(error.orig if isinstance(error, DBAPIError) else error)) is not None:
                raise away from error
            raise
        except asyncio.CancelledError:
            lent.end()  # as in `_call`
            raise
        finally:
            self._connections.give(lent)

    def _away(self, error: BaseException | None) -> Unavailable | None:
        """What to say instead of an error that is the server's or the network's. None: the statement is wrong."""
        if not isinstance(error, psycopg.Error):
            return None
        state = error.sqlstate
        if state == _READ_ONLY:
            self._connections.retire()
        if state is not None:
            why = next((_AWAY[begin] for begin in (state, state[:2]) if begin in _AWAY), None)
        else:
            # The driver's own: a connection that broke, or arguments that it does not take, which are ours to mend.
            broke = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
            why = _AWAY["08"] if broke else None
        if why is None:
            return None
        self._probed.forget()
        # The driver's message names hosts and roles; it goes to the log through __cause__, not to a client.
        return Unavailable("database", why)


async def _lent() -> Connection:
    return _LENT.get()


def announce_after(tx: AsyncConnection) -> None:
    """Work was queued in this transaction: it is announced once the transaction is committed."""
    tx.info["announce"] = True


def open_engine(url: str, *, pool_size: int) -> AsyncEngine:
    """SQLAlchemy's own pool, for whoever sends options at the start of a connection: the operator, which is direct."""
    engine = create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        hide_parameters=True,
        pool_timeout=10,
        connect_args={"prepare_threshold": None, "connect_timeout": 5},
    )
    dialect = engine.dialect

    @event.listens_for(engine.sync_engine, "checkin")
    def _returned(connection: Any, record: Any) -> None:
        record.info["returned"] = time.monotonic()

    @event.listens_for(engine.sync_engine, "checkout")
    def _taken(connection: Any, record: Any, proxy: Any) -> None:
        if time.monotonic() - record.info.get("returned", math.inf) > TRUSTED_SECONDS:
            try:
                dialect.do_ping(connection)
            except dialect.loaded_dbapi.Error as error:
                raise DisconnectionError from error

    return engine


_MIGRATING = threading.Lock()
"""Alembic keeps the migration under way in a module's globals: two at once would migrate each other's schemas."""


def migrate(url: str, schema: str, tenant: str) -> None:
    """Brings the schema to the newest version as the role of `url`, which owns its tables, and lets the role `tenant`
    work in it. Safe to call from several threads; of several processes, by one at a time for one schema.
    """
    # What only migrations need: 8 MB that no api holds at rest.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(files("media_core") / "migrations"))
    # The tenant can hold locks, and its rows may be many: nobody else waits for that for ever.
    own = make_url(url).query.get("options", "")
    options = f"{own} -c search_path={schema} -c lock_timeout=1s -c statement_timeout=300s"
    engine = create_engine(url, connect_args={"connect_timeout": 5, "options": options})
    try:
        with _MIGRATING, engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            for statement in grants(schema, tenant):
                connection.exec_driver_sql(statement)
    finally:
        engine.dispose()


def grants(schema: str, tenant: str) -> list[str]:
    """What lets the role `tenant` work in tables that are there: it reads and writes rows, and owns nothing.

    So it can neither raise its limits, nor put code of its own (a trigger, a view, a row policy) in the way of whoever
    else comes along, nor change what a table is. Its usage it counts itself, and whoever has its password can miscount.
    """
    names = {
        "schema": sql.Identifier(schema),
        "tenant": sql.Identifier(tenant),
        "birth": sql.Literal(f'"{schema}".birth'),
    }
    return [sql.SQL(each).format(**names).as_string(None) for each in _GRANTS]


_GRANTS = (
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {tenant}",
    "REVOKE ALL ON {schema}.alembic_version FROM {tenant}",
    "REVOKE INSERT, UPDATE, DELETE ON {schema}.policy, {schema}.usage FROM {tenant}",
    "GRANT UPDATE (stored_bytes, reserved_bytes) ON {schema}.usage TO {tenant}",
    "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} TO {tenant}",  # where a server takes it from everybody
    # What later migrations brought: a dump of an earlier version is restored without it, and migrated after.
    """DO $$ BEGIN
    IF to_regclass({birth}) IS NOT NULL THEN
        REVOKE INSERT, UPDATE, DELETE ON {schema}.birth FROM {tenant};
        GRANT UPDATE (epoch) ON {schema}.birth TO {tenant};
        GRANT UPDATE (objects, object_bytes, items, item_bytes) ON {schema}.usage TO {tenant};
    END IF;
    END $$""",
)
