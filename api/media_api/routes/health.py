"""Health for those who run the process: alive, and ready to serve. Neither needs a token or says more."""

import asyncio
from typing import Final

import structlog
from fastapi import APIRouter

from media_api.answers import problems
from media_api.models import Health
from media_api.services import Wired
from media_core.errors import NotNow, Unavailable

router = APIRouter(tags=["Health"])

PROBE_SECONDS: Final = 5.0
"""Longest wait for the answers of all dependencies. Kubernetes waits a little longer (`render.py`)."""

_log = structlog.stdlib.get_logger("media.api")


@router.get("/healthz")
async def health() -> Health:
    """The process runs. Says nothing of what it depends on, so that an outage elsewhere restarts nothing here."""
    return Health()


@router.get("/readyz", responses=problems.described_alone("unavailable"))
async def readiness(services: Wired) -> Health:
    """The database takes writes, the object store can be read, and the process is not ending."""
    if services.draining:
        raise NotNow("api", "this process is ending")
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            await asyncio.gather(services.database.probe(), services.store.probe())
    except (Unavailable, TimeoutError) as error:
        _log.warning("not_ready", detail=str(error) or "no answer in time")
        if isinstance(error, Unavailable):
            raise
        raise Unavailable("database or object store", "no answer in time") from error
    return Health()
