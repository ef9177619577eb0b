"""`python -m media_workers KIND`: drains one kind of job (or runs one sweep) for the tenant in the environment."""

import argparse
import asyncio
import sys

import structlog

from media_core import logs
from media_core.database import Database
from media_core.decoding import DecodingPool
from media_core.errors import Unavailable
from media_core.library import Library
from media_core.policy import PolicyReader
from media_core.queue import KINDS, Queue
from media_core.settings import LogSettings, TenantSettings, TranscriptionSettings
from media_core.store import StoreSettings, open_store
from media_core.sweep import sweep
from media_workers import metrics
from media_workers.main import Drain, Handler, Work, stop_on_signals
from media_workers.settings import ClamdSettings, DrainSettings, MetricsSettings, WhisperSettings


def handler_of(kind: str) -> Handler:
    """Imports only what this kind needs: a scan worker never loads a speech model."""
    if kind == "scan":
        from media_workers.scan import Scanner

        return Scanner(ClamdSettings())
    if kind == "transcribe":
        from media_workers.transcribe import Transcriber
        from media_workers.whisper import Whisper

        lease_seconds = DrainSettings().lease_seconds
        return Transcriber(Whisper(WhisperSettings()), TranscriptionSettings(), lease_seconds=lease_seconds)
    from media_workers.frames import make_video_thumbnail

    return make_video_thumbnail


async def run(kind: str) -> None:
    tenant = TenantSettings()
    database = Database(tenant.database_url.get_secret_value(), pool_size=min(4, tenant.database_pool), relaxed=True)
    store = open_store(StoreSettings(), tenant.tenant_id)
    policy = PolicyReader(database)
    library = Library(tenant_id=tenant.tenant_id, database=database, store=store, policy=policy)
    try:
        if kind == "sweep":
            await sweep(library)
            return
        handler = handler_of(kind)
        async with DecodingPool(processes=1) as decoder:
            work = Work(database, Queue(database), library, store, decoder, policy)
            drain = Drain(kind, handler, work, DrainSettings())
            stop_on_signals(drain.stop)
            await drain.run()
    finally:
        await store.aclose()
        await database.aclose()


def main() -> int:
    parser = argparse.ArgumentParser(prog="media_workers", description=__doc__)
    parser.add_argument("kind", choices=[*KINDS, "sweep"])
    kind = parser.parse_args().kind
    log = LogSettings()
    logs.configure(log.format, log.level)
    metrics.serve(MetricsSettings().port)
    try:
        asyncio.run(run(kind))
    except Unavailable as error:
        # The launcher starts another one while there is work; nothing is lost.
        structlog.stdlib.get_logger("media.worker").error(
            "worker_gave_up", dependency=error.dependency, detail=error.detail
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
