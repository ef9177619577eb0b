"""Rescans: what other signatures than today's called clean, or could not look into, goes through clamd again.

Only jobs are queued here; scan workers do the rest, after everything else that waits. Until its new verdict a file
keeps the old one, so what is clean stays readable.
"""

import asyncio
import contextlib
import time
from datetime import datetime

import structlog
from sqlalchemy import text

from media_core.database import Database
from media_core.errors import Unavailable
from media_core.policy import PolicyReader
from media_core.queue import enqueue_for_content
from media_workers.clamd import Clamd

PRIORITY = -2
"""After new uploads (0) and what the sweep found unscanned (-1)."""
BATCH = 200
MOST_OPEN = 1000
"""Of its own jobs that wait or run."""
POLL_SECONDS = 2.0
STUCK_SECONDS = 900.0
"""Without the end of any of its jobs, while there are too many of them."""

_log = structlog.stdlib.get_logger("media.rescan")

_NOW = text("SELECT now()")
_OPEN = text("SELECT count(*) FROM job WHERE kind = 'scan' AND priority = :priority AND status IN ('queued','running')")
# The oldest verdicts first, since a run that is cut short starts anew; each content once, whatever becomes of its job.
_OUTDATED = text("""
SELECT sha256, scanned_at FROM blob
WHERE doomed_at IS NULL AND scan_status IN ('clean','unscannable') AND scan_engine IS DISTINCT FROM :engine
  AND scanned_at < :started AND (scanned_at, sha256) > (:after_time, :after_sha256)
ORDER BY scanned_at, sha256 LIMIT :limit
""")
_BEGINNING = datetime.fromisoformat("0001-01-01T00:00:00+00:00")


class Rescan:
    """One pass over the tenant. `stop` ends it early; nothing is lost, the next one goes by the verdicts again."""

    def __init__(self, database: Database, policy: PolicyReader, clamd: Clamd) -> None:
        self.stop = asyncio.Event()
        self._database = database
        self._policy = policy
        self._clamd = clamd

    async def run(self) -> int:
        """How many scans were queued. Raises Unavailable, also when no scan of it ends any more."""
        queued = 0
        if await self._wanted():
            engine = await self._clamd.version()
            async with self._database.statement() as tx:
                started = (await tx.execute(_NOW)).scalar_one()
            at = {"after_time": _BEGINNING, "after_sha256": ""}
            while (room := await self._room()) and await self._wanted():
                wanted = {**at, "engine": engine, "started": started, "limit": room}
                async with self._database.transaction() as tx:
                    rows = (await tx.execute(_OUTDATED, wanted)).all()
                    for row in rows:
                        await enqueue_for_content(tx, "scan", row.sha256, priority=PRIORITY)
                queued += len(rows)
                if len(rows) < room:
                    break
                at = {"after_time": rows[-1].scanned_at, "after_sha256": rows[-1].sha256}
            _log.info("rescan_queued", scans=queued, engine=engine)
        return queued

    async def _wanted(self) -> bool:
        policy = await self._policy.current()
        return policy.scan_enabled and not policy.suspended

    async def _room(self) -> int:
        """How many may be queued now, once some may; 0 when it is told to stop."""
        fewest, since = MOST_OPEN * 2, time.monotonic()
        while not self.stop.is_set():
            async with self._database.statement() as tx:
                opened = int((await tx.execute(_OPEN, {"priority": PRIORITY})).scalar_one())
            if opened < MOST_OPEN:
                return min(BATCH, MOST_OPEN - opened)
            if opened < fewest:
                fewest, since = opened, time.monotonic()
            if time.monotonic() - since > STUCK_SECONDS:
                raise Unavailable("scan workers", f"{opened} rescans wait, and none ended in {STUCK_SECONDS:g} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), POLL_SECONDS)
        return 0
