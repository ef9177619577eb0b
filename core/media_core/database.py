"""One tenant's database: transactions and migrations.

Nothing here or above relies on session state: search_path and limits hang on the tenant's role, statements are not
prepared by name, locks live as long as their transaction. So the api works behind PgBouncer in transaction mode.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from media_core.errors import Unavailable

MIGRATION_LOCK = 0x6D65646961  # "media"; two pods that start together migrate one after the other


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
            pool_timeout=10,
            pool_pre_ping=True,
            connect_args={"prepare_threshold": None, "connect_timeout": 5, **options},
        )

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Commits at the end of the block, rolls back on any exception. Raises Unavailable when Postgres is away."""
        try:
            async with self.engine.begin() as connection:
                yield connection
        except PoolTimeout as error:
            raise Unavailable("database", "all connections are busy") from error
        except DBAPIError as error:
            if isinstance(error, OperationalError) or error.connection_invalidated:
                # The driver's message names hosts and roles; it goes to the log through __cause__, not to a client.
                raise Unavailable("database", "PostgreSQL does not answer") from error
            raise

    async def aclose(self) -> None:
        await self.engine.dispose()


def migrate(url: str) -> None:
    """Brings the schema of the role in `url` to the newest version. Safe to call from several processes at once."""
    config = Config()
    config.set_main_option("script_location", str(files("media_core") / "migrations"))
    engine = create_engine(url, connect_args={"connect_timeout": 5})
    try:
        with engine.begin() as connection:
            connection.execute(
                text("SELECT pg_advisory_xact_lock(:lock, hashtext(current_schema()))"),
                {"lock": MIGRATION_LOCK & 0x7FFFFFFF},
            )
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        engine.dispose()
