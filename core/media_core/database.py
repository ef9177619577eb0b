"""One tenant's database: transactions, migrations, and what the tenant's role may do.

Nothing here or above relies on session state: search_path and limits hang on the tenant's role, statements are not
prepared by name, locks live as long as their transaction. So the api works behind PgBouncer in transaction mode.
"""

import math
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.resources import files
from typing import Any

from alembic import command
from alembic.config import Config
from psycopg import sql
from sqlalchemy import create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError, DisconnectionError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from media_core.errors import Unavailable

DURABLE = text("SET LOCAL synchronous_commit = on")
"""For a transaction whose commit precedes something that can't be taken back, also in a `relaxed` worker."""

TRUSTED_SECONDS = 1.0
"""A connection that answered so long ago is asked whether it is still there before it is used."""


class Database:
    """A pool of connections as one tenant's role.

    `url` is `postgresql+psycopg://role:password@host/database`. `relaxed` turns synchronous_commit off: right for
    workers, whose lost commit only repeats work (at least once), wrong for the api, whose 201 is a promise.
    """

    def __init__(self, url: str, *, pool_size: int = 10, relaxed: bool = False) -> None:
        options = {"options": "-c synchronous_commit=off"} if relaxed else {}
        self.engine: AsyncEngine = create_async_engine(
            url,
            pool_size=pool_size,
            max_overflow=0,
            hide_parameters=True,  # file names and prompts stay out of logged tracebacks
            pool_timeout=10,
            connect_args={"prepare_threshold": None, "connect_timeout": 5, **options},
        )
        self._single = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        dialect = self.engine.dialect

        @event.listens_for(self.engine.sync_engine, "checkin")
        def _returned(connection: Any, record: Any) -> None:
            record.info["returned"] = time.monotonic()

        @event.listens_for(self.engine.sync_engine, "checkout")
        def _taken(connection: Any, record: Any, proxy: Any) -> None:
            if time.monotonic() - record.info.get("returned", math.inf) > TRUSTED_SECONDS:
                try:
                    dialect.do_ping(connection)
                except dialect.loaded_dbapi.Error as error:
                    raise DisconnectionError from error

    def transaction(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """Commits at the end of the block, rolls back on any exception. Raises Unavailable when Postgres is away."""
        return _available(self.engine.begin())

    def statement(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """Each statement commits by itself, without a BEGIN and COMMIT to wait for. Raises Unavailable likewise."""
        return _available(self._single.connect())

    async def aclose(self) -> None:
        await self.engine.dispose()


@asynccontextmanager
async def _available(opening: AbstractAsyncContextManager[AsyncConnection]) -> AsyncIterator[AsyncConnection]:
    try:
        async with opening as connection:
            yield connection
    except PoolTimeout as error:
        raise Unavailable("database", "all connections are busy") from error
    except DBAPIError as error:
        if isinstance(error, OperationalError) or error.connection_invalidated:
            # The driver's message names hosts and roles; it goes to the log through __cause__, not to a client.
            raise Unavailable("database", "PostgreSQL does not answer") from error
        raise


_MIGRATING = threading.Lock()
"""Alembic keeps the migration under way in a module's globals: two at once would migrate each other's schemas."""


def migrate(url: str, schema: str, tenant: str) -> None:
    """Brings the schema to the newest version as the role of `url`, which owns its tables, and lets the role `tenant`
    work in it. Safe to call from several threads; of several processes, by one at a time for one schema.
    """
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
    names = {"schema": sql.Identifier(schema), "tenant": sql.Identifier(tenant)}
    return [sql.SQL(each).format(**names).as_string(None) for each in _GRANTS]


_GRANTS = (
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {tenant}",
    "REVOKE ALL ON {schema}.alembic_version FROM {tenant}",
    "REVOKE INSERT, UPDATE, DELETE ON {schema}.policy, {schema}.usage FROM {tenant}",
    "GRANT UPDATE (stored_bytes, reserved_bytes) ON {schema}.usage TO {tenant}",
)
