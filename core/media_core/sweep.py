"""The safety net: what a killed process left behind is found and put right. Every step is idempotent and repeatable."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy import text

from media_core import quota
from media_core.keys import content_key, thumbnail_key
from media_core.library import Library
from media_core.queue import enqueue_for_content

STALE_STAGING = timedelta(hours=24)
GRACE = timedelta(hours=1)
"""An object without a row is left alone this long: an upload puts its object moments before its row is committed."""

_log = structlog.stdlib.get_logger("media.sweep")

_DOOMED = text("SELECT sha256 FROM blob WHERE doomed_at IS NOT NULL")
_OPEN_VERDICTS = text("""
SELECT sha256 FROM blob
WHERE doomed_at IS NULL
  AND (scan_status = 'pending'
       OR (scan_status = 'error' AND scanned_at < now() - interval '15 minutes'))
  AND NOT EXISTS (SELECT FROM job WHERE kind = 'scan' AND dedupe_key = blob.sha256 AND status IN ('queued','running'))
""")
_PENDING_THUMBNAILS = text("""
SELECT sha256 FROM blob
WHERE doomed_at IS NULL AND thumbnail_status = 'pending'
  AND NOT EXISTS (
      SELECT FROM job WHERE kind = 'thumbnail' AND dedupe_key = blob.sha256 AND status IN ('queued','running'))
""")
_OLD = (
    text("DELETE FROM idempotency WHERE created_at < now() - interval '24 hours'"),
    text("DELETE FROM media_tombstone WHERE deleted_at < now() - interval '30 days'"),
    text("DELETE FROM job WHERE kind <> 'transcribe' AND finished_at < now() - interval '7 days'"),
    text("DELETE FROM job WHERE kind = 'transcribe' AND finished_at < now() - interval '90 days'"),
    text("DELETE FROM transcription_day WHERE day < now() - interval '90 days'"),
)
# An orphan gets a doomed row, and then goes through the same door as all content that must go: an upload of the same
# bytes that arrives meanwhile finds the row, waits for its lock and puts the object again.
_DOOM_ROWLESS = text("""
INSERT INTO blob (sha256, size, mime_type, doomed_at)
SELECT name, 0, 'application/octet-stream', now() FROM unnest(CAST(:names AS text[])) AS name
ON CONFLICT (sha256) DO NOTHING RETURNING sha256
""")
BATCH = 500


@dataclass
class Swept:
    """How many of each were put right."""

    reservations: int = 0
    doomed: int = 0
    staging: int = 0
    orphans: int = 0
    scans: int = 0
    thumbnails: int = 0


async def sweep(library: Library) -> Swept:
    """One pass over the tenant."""
    swept = Swept()
    policy = await library.policy.current()
    async with library.database.transaction() as tx:
        swept.reservations = await quota.release_expired(tx)
        for statement in _OLD:
            await tx.execute(statement)
        doomed = list((await tx.execute(_DOOMED)).scalars())
        if policy.scan_enabled:
            for sha256 in (await tx.execute(_OPEN_VERDICTS)).scalars().all():
                await enqueue_for_content(tx, "scan", sha256, priority=-1)
                swept.scans += 1
        for sha256 in (await tx.execute(_PENDING_THUMBNAILS)).scalars().all():
            await enqueue_for_content(tx, "thumbnail", sha256, priority=-1)
            swept.thumbnails += 1
    for sha256 in doomed:
        await library.collect(sha256)
        swept.doomed += 1
    swept.staging = await library.store.sweep_staging(STALE_STAGING)
    swept.orphans = await _orphans(library)
    _log.info("swept", **vars(swept))
    return swept


async def _orphans(library: Library) -> int:
    """Deletes objects that have no row: what a process put before it died without committing."""
    removed = 0
    batch: list[str] = []
    before = datetime.now(UTC) - GRACE
    for prefix in (content_key(library.tenant_id, ""), thumbnail_key(library.tenant_id, "")):
        async for entry in library.store.list(prefix):
            name = entry.key.removeprefix(prefix)
            if "/" not in name and entry.modified < before:
                batch.append(name)
            if len(batch) >= BATCH:
                removed += await _remove_rowless(library, batch)
                batch = []
        removed += await _remove_rowless(library, batch)
        batch = []
    return removed


async def _remove_rowless(library: Library, names: list[str]) -> int:
    if not names:
        return 0
    async with library.database.transaction() as tx:
        rowless = list((await tx.execute(_DOOM_ROWLESS, {"names": names})).scalars())
    for sha256 in rowless:
        await library.collect(sha256)
    return len(rowless)
