"""One tenant's database, through the driver: transactions and single statements.

Nothing relies on session state, so everything works behind PgBouncer in transaction mode with PgBouncer's defaults:
search_path and limits belong to the tenant's role, locks end with their transaction, statements are prepared by name
only where a setting allows it, and a connection starts with no parameter but user and database.

Whoever holds a connection must not take a second one: with a pool of one, that would wait for itself.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Final, LiteralString
from urllib.parse import parse_qs, urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import ExecStatus
from psycopg.rows import namedtuple_row

from media_core.connections import Connection, Connections
from media_core.errors import NotNow, Unavailable
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
_DISK_FULL: Final = "53100"
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
    "53": "PostgreSQL is short of connections or memory",
    "55P03": "rows stayed locked",
    "57014": "PostgreSQL took too long, and gave up",
    "57": "PostgreSQL is ending or starting",
    "58": "PostgreSQL has trouble with its own files",
}
"""By the first characters of a SQLSTATE: the errors of the server, not of the statement. A later try may succeed."""

Arguments = Sequence[Any] | Mapping[str, Any]


class Transaction:
    """The statements of one transaction, on a connection of the driver. It begins and ends elsewhere.

    Placeholders are `%s` or `%(name)s`; rows are named tuples. Every method raises psycopg's errors.
    """

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection
        self.has_queued = False

    async def execute(self, query: LiteralString, arguments: Arguments = ()) -> list[Any]:
        """The statement's rows; none where it returns none."""
        return await _rows(self._connection, query, arguments)

    async def first(self, query: LiteralString, arguments: Arguments = ()) -> Any:
        """The first row, or None."""
        rows = await self.execute(query, arguments)
        return rows[0] if rows else None

    async def value(self, query: LiteralString, arguments: Arguments = ()) -> Any:
        """The first column of the first row, or None."""
        row = await self.first(query, arguments)
        return None if row is None else row[0]

    def savepoint(self) -> AbstractAsyncContextManager[Any]:
        """What fails in its block is undone by itself; the transaction goes on if the error is caught outside."""
        return self._connection.transaction()

    def announce(self) -> None:
        """To be called when a job was queued: it is announced after the commit."""
        self.has_queued = True


async def _rows(connection: psycopg.AsyncConnection[Any], query: LiteralString, arguments: Arguments) -> list[Any]:
    cursor = connection.cursor(row_factory=namedtuple_row)
    await cursor.execute(query, arguments)
    result = cursor.pgresult  # of the last statement, where there are several
    return await cursor.fetchall() if result is not None and result.status == ExecStatus.TUPLES_OK else []


class Database:
    """At most `pool_size` connections as one tenant's role.

    `url` is `postgresql+psycopg://role:password@host/database`, with several hosts and `target_session_attrs` as in
    libpq. `relaxed` turns synchronous_commit off for transactions. That is right for workers, whose lost commit only
    repeats work (at least once), and wrong for the api, whose 201 is a promise. `prepare`: repeated statements are
    prepared by name. It needs a direct connection, or PgBouncer from 1.21 with `max_prepared_statements`.
    """

    def __init__(self, url: str, *, pool_size: int = 10, relaxed: bool = False, prepare: bool = False) -> None:
        self._begin: LiteralString = "BEGIN; SET LOCAL synchronous_commit = off" if relaxed else "BEGIN"
        self._connecting: dict[str, Any] = {
            **CONNECTING,
            **connection_arguments(url),
            "autocommit": True,
            "prepare_threshold": PREPARED_AFTER if prepare else None,
        }
        self._connections = Connections(self._connect, pool_size)
        self._probed = Fresh(self._probe)
        self._news = False
        self._announcing: asyncio.Task[None] | None = None
        self._ending = asyncio.Event()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Commits at the end of the block, rolls back on any exception. Raises Unavailable when PostgreSQL is away.

        Jobs that were queued in it (`Transaction.announce`) are announced after the commit.
        """
        async with self._lending(await self._connections.take()) as connection:
            await connection.execute(self._begin, prepare=False)
            tx = Transaction(connection)
            try:
                yield tx
            except Exception:
                with suppress(psycopg.Error):  # its connection is ended when it comes back
                    await connection.rollback()
                raise
            await connection.commit()
        if tx.has_queued:
            self.announce()

    async def call(self, query: LiteralString, arguments: Arguments) -> list[Any]:
        """The rows of one statement that commits by itself, as named tuples; its placeholders are `%s` or `%(name)s`.

        There is no round trip for BEGIN and COMMIT. After a deadlock it tries once more, a moment later. Raises
        Unavailable, and psycopg's other errors.
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

    async def _call(self, query: LiteralString, arguments: Arguments) -> list[Any]:
        connection = await self._connections.take()
        try:
            return await _rows(connection, query, arguments)
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
        taken = await self._connections.take(at_once=True, seconds=PROBE_SECONDS)
        async with self._lending(taken) as connection:
            ((read_only, has_tables),) = await connection.ask(_PROBE, PROBE_SECONDS)
        if read_only:
            self._connections.retire()
            raise NotNow("database", _AWAY[_READ_ONLY])
        if not has_tables:
            raise Unavailable("database", "the tenant's tables are not there")

    async def aclose(self) -> None:
        """Ends all connections; those that are lent are ended when they come back."""
        self._ending.set()
        if self._announcing is not None:
            await asyncio.wait((self._announcing,), timeout=ENDING_SECONDS)
            self._announcing.cancel()
        self._connections.close()

    @asynccontextmanager
    async def _lending(self, connection: Connection) -> AsyncIterator[Connection]:
        """Gives the connection back after the block. Raises Unavailable for an error of the server or the network."""
        try:
            yield connection
        except psycopg.Error as error:
            if (away := self._away(error)) is not None:
                raise away from error
            raise
        except asyncio.CancelledError:
            connection.end()  # as in `_call`
            raise
        finally:
            self._connections.give(connection)

    async def _connect(self) -> Connection:
        try:
            return await Connection.connect(**self._connecting)
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            self._probed.forget()
            raise Unavailable("database", _AWAY["08"]) from error

    def _away(self, error: psycopg.Error) -> Unavailable | None:
        """The Unavailable for an error of the server or the network. None: the error is the statement's."""
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
        if state == _DISK_FULL:
            return NotNow.disk_full("database")
        return (NotNow if state == _READ_ONLY else Unavailable)("database", why)


def connection_arguments(url: str) -> dict[str, Any]:
    """The driver's arguments for `postgresql+psycopg://…`; several hosts as in libpq, or as `?host=a:1&host=b:2`.

    Raises psycopg.ProgrammingError for a URL that libpq cannot read.
    """
    plain = "postgresql" + url[url.index("://") :]
    arguments = conninfo_to_dict(plain)
    hosts = parse_qs(urlsplit(plain).query).get("host", [])
    if len(hosts) > 1:
        places = [host.rpartition(":") if ":" in host else (host, "", "5432") for host in hosts]
        arguments["host"] = ",".join(host for host, _, _ in places)
        arguments["port"] = ",".join(port for _, _, port in places)
    return dict(arguments)
