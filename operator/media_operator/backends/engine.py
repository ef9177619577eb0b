"""SQLAlchemy's connections, for the operator."""

import math
import time
from typing import Any

from sqlalchemy import event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from media_core.connections import TRUSTED_SECONDS
from media_core.schema import lift_transaction_timeout


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
    lift_transaction_timeout(engine.sync_engine)
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
