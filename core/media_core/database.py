"""One tenant's database: transactions, single statements, migrations, and what the tenant's role may do.

Nothing relies on session state, so everything works behind PgBouncer in transaction mode with PgBouncer's defaults:
search_path and limits belong to the tenant's role, locks end with their transaction, statements are prepared by name
only where a setting allows it, and a connection starts with no parameter but user and database.

Whoever holds a connection must not take a second one: with a pool of one, that would wait for itself.
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
from sqlalchemy import NullPool, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from media_core.connections import TRUSTED_SECONDS, Connection, Connections
from media_core.errors import Unavailable
from media_core.fresh import Fresh

CHANNEL: Final = "media_queue"
"""PostgreSQL channel on which the operator hears of new jobs; the payload is the tenant's schema."""
ANNOUNCE_SECONDS = 0.05
"""Least time between two announcements of one process."""
ENDING_SECONDS = 2.0
"""How long `aclose` waits for an announcement that is under way."""
_ANNOUNCE: Final = "SELECT set_config('synchronous_commit', 'off', true), pg_notify(%s, current_schema())"

PROBE_SECONDS = 3.0
"""How long readiness waits for a connection of a busy pool, and as long again for the answer."""
_PROBE: Final = "SELECT current_setting('transaction_read_only') = 'on', to_regclass('policy') IS NOT NULL"

CONNECTING: Final = {
    "connect_timeout": "5",
    # So a server that vanished is noticed within half a minute.
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "25000",
}
"""Defaults for what the URL does not set. None of them is sent to the server."""

PREPARED_AFTER: Final = 2
"""How often a connection runs a statement before it prepares it, where statements may be prepared."""

_READ_ONLY: Final = "25006"
_TRY_AGAIN: Final = ("40001", "40P01", "0A000")
"""SQLSTATEs of a deadlock, and of a plan that was made before its tables or functions were changed."""
AGAIN_SECONDS: Final = 0.05
"""Wait before the second try. The other party of a deadlock takes its lock meanwhile; else the same two would meet."""
_AWAY: Final = {
    "08": "PostgreSQL does not answer",  # also from PgBouncer, of itself or of a server that it can't reach
    "25P03": "PostgreSQL ended a transaction that lay idle",
    "25P04": "PostgreSQL ended a transaction that took too long",
    _READ_ONLY: "PostgreSQL takes no writes (a standby, or read-only)",
    "40": "others changed the same rows",
    "53": "PostgreSQL is short of connections, memory or disk",
    "55P03": "rows stayed locked",
    "57014": "PostgreSQL took too long, and gave up",
    "57": "PostgreSQL is ending or starting",
    "58": "PostgreSQL has trouble with its own files",
}
"""By the first characters of a SQLSTATE: the errors of the server, not of the statement. A later try may succeed."""

_LENT: ContextVar[Connection] = ContextVar("lent")


class Database:
    """At most `pool_size` connections as one tenant's role.

    `url` is `postgresql+psycopg://role:password@host/database`, with several hosts and `target_session_attrs` as in
    libpq. `relaxed` turns synchronous_commit off for transactions. That is right for workers, whose lost commit only
    repeats work (at least once), and wrong for the api, whose 201 is a promise. `prepare`: repeated statements are
    prepared by name. It needs a direct connection, or PgBouncer from 1.21 with `max_prepared_statements`.
    """

    def __init__(self, url: str, *, pool_size: int = 10, relaxed: bool = False, prepare: bool = False) -> None:
        self._begin: LiteralString = "BEGIN; SET LOCAL synchronous_commit = off" if relaxed else "BEGIN"
        self._engine = create_async_engine(
            url,
            poolclass=NullPool,  # `_lending` gives it its connection
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
        """Commits at the end of the block, rolls back on any exception. Raises Unavailable when PostgreSQL is away.

        Jobs that were queued in it (`announce_after`) are announced after the commit.
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
        """Each statement commits by itself, without round trips for BEGIN and COMMIT. Raises as `transaction`."""
        async with self._lending() as (_, connection):
            yield connection

    async def call(self, query: LiteralString, arguments: Sequence[Any] | Mapping[str, Any]) -> list[Any]:
        """The rows of one statement that commits by itself, as named tuples; its placeholders are `%s` or `%(name)s`.

        It calls the driver directly, at a seventh of the CPU of `statement`: for statements of every request. After a
        deadlock it tries once more, a moment later. Raises Unavailable, and psycopg's other errors.
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
            # The driver has asked the server to cancel the statement. That may arrive late and hit the next one.
            connection.end()
            raise
        finally:
            self._connections.give(connection)

    def announce(self) -> None:
        """Soon notifies the listeners on `CHANNEL` of new jobs; many calls become one notification.

        It is a statement of its own, because a NOTIFY holds a server-wide lock until its transaction is on disk.
        """
        self._news = True
        if self._announcing is None or self._announcing.done():
            self._announcing = asyncio.get_running_loop().create_task(self._announce())

    async def _announce(self) -> None:
        while self._news:
            with suppress(TimeoutError):
                async with asyncio.timeout(ANNOUNCE_SECONDS):
                    await self._ending.wait()
            self._news = False  # jobs that are queued from here on need another notification
            with suppress(Unavailable, psycopg.Error):  # the operator also polls
                await self.call(_ANNOUNCE, (CHANNEL,))

    async def probe(self) -> None:
        """Raises Unavailable unless PostgreSQL answers in time, takes writes and has the tenant's tables.

        It asks at most once a second for all callers. It goes before all who wait for a connection: in a busy pool it
        gets the next one that comes back. If none comes back in time, no request is served either, and it raises.
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
        """Ends all connections; those that are lent are ended when they come back."""
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
        """One connection, as the driver's object and as SQLAlchemy's."""
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
        """The Unavailable for an error of the server or the network. None: the error is the statement's."""
        if not isinstance(error, psycopg.Error):
            return None
        state = error.sqlstate
        if state == _READ_ONLY:
            self._connections.retire()
        if state is not None:
            why = next((_AWAY[begin] for begin in (state, state[:2]) if begin in _AWAY), None)
        else:
            # The driver's own errors: a broken connection, or arguments that it does not take, which is our bug.
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
    """To be called when a job was queued in this transaction: it is announced after the commit."""
    tx.info["announce"] = True


def open_engine(url: str, *, pool_size: int) -> AsyncEngine:
    """SQLAlchemy's own pool, for the operator, which connects directly and sends options when a connection starts."""
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
"""Alembic keeps the current migration in a module's globals: two at once would migrate each other's schemas."""


def migrate(url: str, schema: str, tenant: str) -> None:
    """Migrates the schema to the newest version as the role of `url`, which owns its tables, and grants the role
    `tenant` its rights. Threads may call it at the same time; for one schema, only one process at a time may.
    """
    # Imported here because it takes 8 MB of memory, which the api saves.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(files("media_core") / "migrations"))
    # The tenant can hold locks or have many rows. The timeouts keep other tenants from waiting for it.
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
    """The statements that let the role `tenant` use the existing tables: it reads and writes rows, and owns nothing.

    So it cannot raise its limits, change a table, or add code of its own (a trigger, a view, a row policy) that others
    would run. It counts its own usage, so a leaked password lets somebody falsify that count.
    """
    names = {
        "schema": sql.Identifier(schema),
        "tenant": sql.Identifier(tenant),
        "birth": sql.Literal(f'"{schema}".birth'),
        "url_key": sql.Literal(f'"{schema}".url_key'),
    }
    return [sql.SQL(each).format(**names).as_string(None) for each in _GRANTS]


_GRANTS = (
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {tenant}",
    "REVOKE ALL ON {schema}.alembic_version FROM {tenant}",
    "REVOKE INSERT, UPDATE, DELETE ON {schema}.policy, {schema}.usage FROM {tenant}",
    "GRANT UPDATE (stored_bytes, reserved_bytes) ON {schema}.usage TO {tenant}",
    "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} TO {tenant}",  # where a server takes it from everybody
    # Of later migrations. A dump of an earlier version is restored without these, and then migrated.
    """DO $$ BEGIN
    IF to_regclass({birth}) IS NOT NULL THEN
        REVOKE INSERT, UPDATE, DELETE ON {schema}.birth FROM {tenant};
        GRANT UPDATE (epoch) ON {schema}.birth TO {tenant};
        GRANT UPDATE (objects, object_bytes, items, item_bytes) ON {schema}.usage TO {tenant};
    END IF;
    IF to_regclass({url_key}) IS NOT NULL THEN
        REVOKE INSERT, UPDATE, DELETE ON {schema}.url_key FROM {tenant};
    END IF;
    END $$""",
)
