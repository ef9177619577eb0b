"""The rescan: contents whose open verdict (clean, unscannable) is of other signatures than today's are scanned again.

It only queues jobs; scan workers do the rest, after all other jobs. A content keeps its old verdict until the new one,
so clean content stays readable.

First come contents that were open before, were found infected, and still have their objects: newer signatures may
recall them. Those of a suspicious signature are scanned each time, since removing a signature of our own does not
change the version. While a signature is suspicious (it found more than a few open contents) nothing else is queued,
until a person or newer signatures end the suspicion.
"""

import asyncio
import contextlib
import time
from datetime import datetime
from typing import Final

import structlog

from media_core.database import Database
from media_core.errors import Unavailable
from media_core.ids import new_job_id
from media_core.policy import PolicyReader
from media_workers.scanning.clamd import Clamd

PRIORITY = -2
"""After new uploads (0) and contents that the sweep found unscanned (-1). `contents/life.sql` and an index contain the
number too."""
BATCH = 200
MOST_OPEN = 1000
"""Most of its jobs that wait or run at a time."""
POLL_SECONDS = 2.0
STUCK_SECONDS = 900.0
"""The rescan gives up if it waits for room in the queue for so long, and none of its jobs ends."""

_log = structlog.stdlib.get_logger("media.rescan")

_NOW: Final = "SELECT now()"
_OPEN: Final = "SELECT count(*) FROM job WHERE kind = 'scan' AND priority = -2 AND status IN ('queued','running')"
# The oldest verdicts first, since a rescan that is cut short starts anew. Each content once, however its job ends.
# A batch of rows at a time, outdated or not: so no statement reads through all rows that are up to date.
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
    """One pass over the tenant. `stop` ends it early; the next one continues, as it selects by the verdicts."""

    def __init__(self, database: Database, policy: PolicyReader, clamd: Clamd) -> None:
        self.stop = asyncio.Event()
        self._database = database
        self._policy = policy
        self._clamd = clamd

    async def run(self) -> int:
        """Returns how many scans were queued. Raises Unavailable, also after `STUCK_SECONDS`."""
        queued = 0
        if await self._wanted():
            engine = await self._clamd.version()
            ((started,),) = await self._database.call(_NOW, ())
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
        """Whether a signature is suspicious; then the rescan ends."""
        found = await self._database.call(_SUSPICIOUS, ())
        if found:
            _log.error("rescan_stopped", signature=found[0].signature, see="the runbook, ScanSuspicious")
        return bool(found)

    async def _wanted(self) -> bool:
        policy = await self._policy.current()
        return policy.scan_enabled and not policy.suspended

    async def _room(self) -> int:
        """Waits until jobs may be queued, and returns how many; 0 when it is told to stop."""
        fewest, since = MOST_OPEN * 2, time.monotonic()
        while not self.stop.is_set():
            ((count,),) = await self._database.call(_OPEN, ())
            opened = int(count)
            if opened < MOST_OPEN:
                return min(BATCH, MOST_OPEN - opened)
            if opened < fewest:
                fewest, since = opened, time.monotonic()
            if time.monotonic() - since > STUCK_SECONDS:
                raise Unavailable("scan workers", f"{opened} rescans wait, and none ended in {STUCK_SECONDS:g} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), POLL_SECONDS)
        return 0
