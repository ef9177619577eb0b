"""`python -m media_workers KIND`: drains one kind of job for the tenant in the environment, or runs a sweep or rescan.

Exit codes:
0: done, or told to end, with all jobs handed back.
2: wrong settings; a retry does not help.
75 (EX_TEMPFAIL): a dependency is away; a later worker may succeed.
143: told to end before it had a job, or during a sweep, which the next sweep repeats.
All others are bugs.
"""

import argparse
import asyncio
import os
import pkgutil
import signal
import sys

import structlog
from pydantic import ValidationError

from media_core import logs, variables
from media_core.database import Database
from media_core.decoding.pool import DecodingPool
from media_core.errors import Unavailable
from media_core.items.library import Library
from media_core.jobs.kinds import JOB_KINDS, KINDS, JobKind
from media_core.jobs.queue import Queue
from media_core.policy import PolicyReader
from media_core.settings import complaints
from media_core.store import open_store
from media_core.upkeep.sweep import sweep
from media_workers import metrics
from media_workers.drain import Drain, Handler, Work, stop_on_signals
from media_workers.settings import Settings


def handler_of(kind: JobKind, settings: Settings) -> Handler:
    """The handler of this kind. No other kind's module is imported."""
    handler: Handler = pkgutil.resolve_name(kind.handler)(settings)
    return handler


async def run(kind: str, settings: Settings) -> None:
    tenant = settings.tenant
    database = Database(
        tenant.database_url.get_secret_value(),
        pool_size=min(4, tenant.database_pool),
        relaxed=True,
        prepare=tenant.database_prepare,
    )
    store = open_store(settings.store, tenant.tenant_id)
    policy = PolicyReader(database)
    library = Library(tenant_id=tenant.tenant_id, database=database, store=store, policy=policy)
    try:
        if kind == "sweep":
            await sweep(library, settings.retention)
            return
        if kind == "rescan":
            from media_workers.scanning.clamd import Clamd
            from media_workers.scanning.rescan import Rescan

            rescan = Rescan(database, policy, Clamd(settings.clamd))
            stop_on_signals(rescan.stop)
            await rescan.run()
            return
        handler = handler_of(JOB_KINDS[kind], settings)
        async with DecodingPool(processes=1) as decoder:
            work = Work(database, Queue(database), library, store, decoder, policy)
            drain = Drain(kind, handler, work, settings.drain, at_once=JOB_KINDS[kind].jobs_at_once)
            stop_on_signals(drain.stop)
            await drain.run()
    finally:
        await store.aclose()
        await database.aclose()


def main() -> int:
    # In a container this is process 1, for which the kernel ignores SIGTERM unless it has a handler.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    parser = argparse.ArgumentParser(prog="media_workers", description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=[*KINDS, "sweep", "rescan"])
    kind = parser.parse_args().kind
    try:
        settings = Settings()
        if settings.store.store == "s3":
            _ = settings.store.s3  # so that missing S3 settings are reported now
    except ValidationError as error:
        print("\n".join(complaints(error)), file=sys.stderr)
        return 2
    logs.configure(settings.log.format, settings.log.level)
    variables.warn_of_unknown()
    metrics.serve(settings.metrics.port)
    try:
        asyncio.run(run(kind, settings))
    except Unavailable as error:
        # The launcher starts another worker while there are jobs; nothing is lost.
        structlog.stdlib.get_logger("media.worker").error(
            "worker_gave_up", dependency=error.dependency, detail=error.detail
        )
        return os.EX_TEMPFAIL
    return 0
