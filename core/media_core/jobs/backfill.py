"""Queues the jobs of contents that wait for one and have none."""

from collections.abc import Awaitable, Callable
from typing import Any, Final, LiteralString

from media_core.database import Arguments
from media_core.ids import new_job_id

BATCH: Final = 200
"""Rows that one statement looks at."""

# A batch of rows at a time, with or without a job, so that no row is read twice. The insertion finds out which have a
# job: it always uses the right index, however wrong the statistics are.
_QUEUE: Final = """
WITH looked_at AS (
    SELECT sha256, row_number() OVER (ORDER BY sha256) AS number, {due} AS due FROM (
        SELECT * FROM blob WHERE {open} AND sha256 > %s ORDER BY sha256 LIMIT %s
    ) AS opened
), queued AS (
    INSERT INTO job (job_id, kind, priority, dedupe_key, payload)
    SELECT (%s::text[])[number], '{kind}', -1, sha256, jsonb_build_object('sha256', sha256)
    FROM looked_at WHERE due ORDER BY sha256
    ON CONFLICT (kind, dedupe_key) WHERE status IN ('queued','running') DO NOTHING RETURNING 1
)
SELECT (SELECT max(sha256) FROM looked_at) AS sha256, (SELECT count(*) FROM queued) AS queued
"""
SCANS: Final = _QUEUE.format(
    kind="scan",
    open="scan_status IN ('pending','error')",
    due="doomed_at IS NULL AND lost_at IS NULL"
    " AND (scan_status = 'pending' OR scanned_at < now() - interval '15 minutes')",
)
THUMBNAILS: Final = _QUEUE.format(
    kind="thumbnail", open="thumbnail_status = 'pending'", due="doomed_at IS NULL AND lost_at IS NULL"
)

Ask = Callable[[LiteralString, Arguments], Awaitable[list[Any]]]
"""A function that runs one statement in a transaction of its own, and returns its rows."""


async def queue(ask: Ask, statement: LiteralString, *, batches: int | None = None) -> int:
    """Queues `SCANS` or `THUMBNAILS`, and returns how many. `batches`: most that are looked at; None: all."""
    queued, after, looked = 0, "", 0
    ids = _job_ids()
    while batches is None or looked < batches:
        (row,) = await ask(statement, (after, BATCH, ids))
        if row.sha256 is None:
            break
        after, looked = row.sha256, looked + 1
        if row.queued:
            queued += int(row.queued)
            ids = _job_ids()
    return queued


def _job_ids() -> list[str]:
    return [new_job_id() for _ in range(BATCH)]
