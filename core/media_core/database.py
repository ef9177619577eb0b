"""One tenant's database: transactions and migrations.

Nothing here or above relies on session state: search_path and limits hang on the tenant's role, statements are not
prepared by name, locks live as long as their transaction. So the api works behind PgBouncer in transaction mode.
"""

import hashlib
import math
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.resources import files
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, event, text
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


def migrate(url: str) -> None:
    """Brings the schema of the role in `url` to the newest version. Safe to call from several threads and processes."""
    config = Config()
    config.set_main_option("script_location", str(files("media_core") / "migrations"))
    engine = create_engine(url, connect_args={"connect_timeout": 5})
    try:
        with _MIGRATING, engine.begin() as connection:
            # A role may change its own timeouts and lock its own tables: nobody else waits for that for ever.
            connection.execute(text("SET LOCAL statement_timeout = '300s'"))
            connection.execute(text("SET LOCAL lock_timeout = '10s'"))
            # Everybody may take advisory locks; of the password's hash only who has it knows the number.
            number = int.from_bytes(hashlib.sha256(url.encode()).digest()[:8], signed=True)
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        engine.dispose()
