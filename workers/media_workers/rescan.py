"""Rescans: what other signatures than today's called clean, or could not look into, goes through clamd again.

Only jobs are queued here; scan workers do the rest, after everything else that waits. Until its new verdict a file
keeps the old one, so what is clean stays readable. First comes what earlier signatures found in content that was open
before, while its objects are still there: newer ones may let it go. What a suspicious signature found is looked at each
time, since one that was taken away on our side changes no version. Where one signature is suspicious (it found more
than a few of what was clean) nothing else is queued, until a person has decided or newer signatures have.
"""

import asyncio
import contextlib
import time
from datetime import datetime
from typing import Final

import structlog
from sqlalchemy import text

from media_core.database import Database
from media_core.errors import Unavailable
from media_core.ids import new_job_id
from media_core.policy import PolicyReader
from media_workers.clamd import Clamd

PRIORITY = -2
"""After new uploads (0) and what the sweep found unscanned (-1). `contents.sql` and an index know the number too."""
BATCH = 200
MOST_OPEN = 1000
"""Of its own jobs that wait or run."""
POLL_SECONDS = 2.0
STUCK_SECONDS = 900.0
"""Without the end of any of its jobs, while there are too many of them."""

_log = structlog.stdlib.get_logger("media.rescan")

_NOW = text("SELECT now()")
_OPEN = text("SELECT count(*) FROM job WHERE kind = 'scan' AND priority = -2 AND status IN ('queued','running')")
# The oldest verdicts first, since a run that is cut short starts anew; each content once, whatever becomes of its job.
# A window of rows at a time, outdated or not: a statement never looks through all that is up to date.
_SCANNED: Final = """
SELECT sha256, scanned_at, scan_engine IS DISTINCT FROM %s AS outdated FROM blob
WHERE doomed_at IS NULL AND scan_status IN ('clean','unscannable')
  AND scanned_at < %s AND (scanned_at, sha256) > (%s, %s)
ORDER BY scanned_at, sha256 LIMIT %s
"""
_FOUND: Final = """
SELECT sha256 FROM blob
WHERE scan_status = 'infected' AND doomed_at IS NOT NULL AND removing_until IS NULL AND remove_after > doomed_at
  AND (scan_engine IS DISTINCT FROM %s
       OR EXISTS (SELECT FROM suspicion WHERE signature = scan_detail AND trusted_at IS NULL))
  AND sha256 > %s
ORDER BY sha256 LIMIT %s
"""
_QUEUE: Final = """
INSERT INTO job (job_id, kind, priority, dedupe_key, payload)
SELECT job_id, 'scan', %s, sha256, jsonb_build_object('sha256', sha256)
FROM unnest(%s::text[], %s::text[]) AS wanted(job_id, sha256) ORDER BY sha256
ON CONFLICT (kind, dedupe_key) WHERE status IN ('queued','running') DO NOTHING
"""
_SUSPICIOUS: Final = "SELECT signature FROM suspicion WHERE trusted_at IS NULL LIMIT 1"
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
            queued = await self._queue_found(engine)
            at, after = _BEGINNING, ""
            while await self._wanted() and not await self._suspicious() and (room := await self._room()):
                rows = await self._database.call(_SCANNED, (engine, started, at, after, room))
                if not rows:
                    break
                queued += await self._queue([row.sha256 for row in rows if row.outdated])
                at, after = rows[-1].scanned_at, rows[-1].sha256
            _log.info("rescan_queued", scans=queued, engine=engine)
        return queued

    async def _queue_found(self, engine: str) -> int:
        queued, after = 0, ""
        while room := await self._room():
            rows = await self._database.call(_FOUND, (engine, after, room))
            if not rows:
                break
            queued += await self._queue([row.sha256 for row in rows])
            after = rows[-1].sha256
        return queued

    async def _queue(self, contents: list[str]) -> int:
        if contents:
            ids = [new_job_id() for _ in contents]
            await self._database.call(_QUEUE, (PRIORITY, ids, contents))
            self._database.announce()
        return len(contents)

    async def _suspicious(self) -> bool:
        """Whether some signature finds too much to be believed; the run ends then."""
        found = await self._database.call(_SUSPICIOUS, ())
        if found:
            _log.error("rescan_stopped", signature=found[0].signature, reason="ScanSuspicious; see the runbook")
        return bool(found)

    async def _wanted(self) -> bool:
        policy = await self._policy.current()
        return policy.scan_enabled and not policy.suspended

    async def _room(self) -> int:
        """How many may be queued now, once some may; 0 when it is told to stop."""
        fewest, since = MOST_OPEN * 2, time.monotonic()
        while not self.stop.is_set():
            async with self._database.statement() as tx:
                opened = int((await tx.execute(_OPEN)).scalar_one())
            if opened < MOST_OPEN:
                return min(BATCH, MOST_OPEN - opened)
            if opened < fewest:
                fewest, since = opened, time.monotonic()
            if time.monotonic() - since > STUCK_SECONDS:
                raise Unavailable("scan workers", f"{opened} rescans wait, and none ended in {STUCK_SECONDS:g} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), POLL_SECONDS)
        return 0
