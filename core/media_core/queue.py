"""The queue: one table, leased with SKIP LOCKED.

    queued --lease--> running --finish--> completed
      ^  \\              |  |----fail----> failed      (not retryable, or attempts used up)
      |   \\--cancel---> | --cancelled--> cancelled
      '---retry/release--'

At least once, made harmless: whoever holds the lease token may write; every write says `WHERE lease_token = ...`, so a
worker that lost its lease (killed, stalled, partitioned) can't change what its successor does. A lease that ran out is
taken over by the next `lease`. A job that used up its attempts ends as failed with the reason, never in a loop.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import CursorResult, Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from media_core.database import Database
from media_core.ids import new_job_id, new_ulid

CHANNEL = "media_queue"
"""Postgres channel on which the operator hears of new work; the payload is the tenant's schema."""

MAX_ATTEMPTS = {"scan": 8, "transcribe": 4, "thumbnail": 3}
KINDS = tuple(MAX_ATTEMPTS)

_ENQUEUE = text("""
WITH queued AS (
    INSERT INTO job (job_id, kind, priority, owner, media_id, dedupe_key, payload, request_id)
    VALUES (:job_id, :kind, :priority, :owner, :media_id, :dedupe_key, CAST(:payload AS jsonb), :request_id)
    ON CONFLICT (kind, dedupe_key) WHERE status IN ('queued','running') DO NOTHING
    RETURNING job_id
)
SELECT job_id, pg_notify(:channel, current_schema()) FROM queued
""")
_OPEN = text(
    "SELECT job_id FROM job WHERE kind = :kind AND dedupe_key = :dedupe_key AND status IN ('queued','running')"
)
_REAP = text("""
UPDATE job SET
    status = CASE WHEN cancel_requested THEN 'cancelled' ELSE 'failed' END,
    error_code = CASE WHEN cancel_requested THEN NULL ELSE 'worker_lost' END,
    error_detail = CASE WHEN cancel_requested THEN NULL
                   ELSE 'The worker died or stalled ' || attempts || ' times while it had this job.' END,
    finished_at = now(), lease_token = NULL, lease_until = NULL
WHERE job_id IN (
    SELECT job_id FROM job
    WHERE kind = :kind AND status = 'running' AND lease_until < now()
      AND (cancel_requested OR attempts >= :max_attempts)
    FOR UPDATE SKIP LOCKED
)
RETURNING kind, status, payload, error_detail
""")
_LEASE = text("""
UPDATE job SET status = 'running', attempts = attempts + 1, lease_token = :token, worker = :worker,
    lease_until = now() + :seconds * interval '1 second', started_at = coalesce(started_at, now())
WHERE job_id = (
    SELECT job_id FROM job
    WHERE kind = :kind
      AND ((status = 'queued' AND run_after <= now()) OR (status = 'running' AND lease_until < now()))
      AND NOT EXISTS (
          SELECT FROM policy
          WHERE suspended OR NOT CASE :kind WHEN 'scan' THEN scan_enabled WHEN 'transcribe' THEN transcription_enabled
              ELSE true END
      )
    ORDER BY priority DESC, run_after, job_id
    FOR UPDATE OF job SKIP LOCKED
    LIMIT 1
)
RETURNING job_id, kind, payload, attempts, progress, owner, media_id, request_id
""")
_RENEW = text("""
UPDATE job SET lease_until = now() + :seconds * interval '1 second', progress = coalesce(:progress, progress)
WHERE job_id = :job_id AND lease_token = :token AND status = 'running'
RETURNING cancel_requested
""")
_FINISH = text("""
UPDATE job SET status = :status, result = CAST(:result AS jsonb), finished_at = now(), lease_token = NULL,
    lease_until = NULL, progress = CASE WHEN :status = 'completed' THEN 1 ELSE progress END
WHERE job_id = :job_id AND lease_token = :token AND status = 'running'
RETURNING job_id
""")
_FAIL = text("""
UPDATE job SET
    status = CASE WHEN cancel_requested THEN 'cancelled'
             WHEN :retry AND attempts < :max_attempts THEN 'queued' ELSE 'failed' END,
    run_after = now() + least(3600, :base_seconds * power(2, attempts - 1)) * (0.5 + random()) * interval '1 second',
    error_code = :code, error_detail = :detail,
    finished_at = CASE WHEN :retry AND attempts < :max_attempts AND NOT cancel_requested THEN NULL ELSE now() END,
    lease_token = NULL, lease_until = NULL
WHERE job_id = :job_id AND lease_token = :token AND status = 'running'
RETURNING kind, status, payload, error_detail
""")
_RELEASE = text("""
UPDATE job SET status = CASE WHEN cancel_requested THEN 'cancelled' ELSE 'queued' END, attempts = attempts - 1,
    finished_at = CASE WHEN cancel_requested THEN now() END, run_after = now() + :after, lease_token = NULL,
    lease_until = NULL
WHERE job_id = :job_id AND lease_token = :token AND status = 'running'
RETURNING pg_notify(:channel, current_schema())
""")
_CANCEL = text("""
UPDATE job SET
    status = CASE WHEN status = 'queued' THEN 'cancelled' ELSE status END,
    finished_at = CASE WHEN status = 'queued' THEN now() ELSE finished_at END,
    cancel_requested = true
WHERE job_id = :job_id AND status IN ('queued','running')
""")
_HURRY = text("""
WITH due AS (
    UPDATE job SET run_after = now()
    WHERE kind = 'transcribe' AND status = 'queued' AND run_after > now() AND attempts = 0
      AND payload ->> 'sha256' = :sha256
    RETURNING job_id
)
SELECT pg_notify(:channel, current_schema()) FROM due LIMIT 1
""")
_APPEND = text("""
WITH held AS (
    SELECT job_id FROM job WHERE job_id = :job_id AND lease_token = :token AND status = 'running' FOR UPDATE
), written AS (
    INSERT INTO segment (job_id, number, start, "end", text, words)
    SELECT held.job_id, s.number, s.start, s."end", s.text, s.words
    FROM held, jsonb_to_recordset(CAST(:segments AS jsonb))
        AS s(number int, start float, "end" float, text text, words jsonb)
    ON CONFLICT (job_id, number) DO NOTHING
)
SELECT job_id FROM held
""")
_SEGMENTS = text("""
SELECT number, start, "end", text, words FROM segment WHERE job_id = :job_id AND number > :after ORDER BY number
""")
_READY = "((status = 'queued' AND run_after <= now()) OR (status = 'running' AND lease_until < now()))"
_DEPTH = """
SELECT kind,
    count(*) FILTER (WHERE {ready}) AS ready,
    count(*) FILTER (WHERE status = 'running' AND lease_until >= now()) AS leased,
    count(*) FILTER (WHERE status = 'queued' AND run_after > now()) AS waiting,
    min(run_after) FILTER (WHERE status = 'queued' AND run_after <= now()) AS oldest,
    (
        SELECT concat_ws(' ', job_id, attempts, extract(epoch FROM run_after)) FROM {job} AS next
        WHERE next.kind = job.kind AND status IN ('queued','running') AND {ready}
        ORDER BY priority DESC, run_after, job_id LIMIT 1
    ) AS head,
    count(*) FILTER (WHERE status = 'failed') AS failed
FROM {job} AS job
WHERE status IN ('queued','running') OR (status = 'failed' AND finished_at > now() - interval '1 hour')
GROUP BY kind
"""
# What the rest of the schema must know when a job ends without its result: nothing stays "being made" for ever, and
# content whose scan failed is closed with the reason "error".
_LEFT_BEHIND = {
    "scan": text("""
        UPDATE blob SET scan_status = 'error', scan_detail = :detail, scanned_at = now()
        WHERE sha256 = :sha256 AND scan_status IN ('pending','error')
    """),
    "thumbnail": text(
        "UPDATE blob SET thumbnail_status = 'failed' WHERE sha256 = :sha256 AND thumbnail_status = 'pending'"
    ),
}


class Cancelled(Exception):
    """The client asked for this job to stop; the worker acknowledges with `Queue.cancelled`."""


class LeaseLost(Exception):
    """Somebody else has this job now: stop at once and write nothing."""


class NotYet(Exception):
    """What this job needs (a verdict) is not there yet; hand it back for `after`, without counting an attempt."""

    def __init__(self, after: timedelta) -> None:
        super().__init__(f"again in {after}")
        self.after = after


@dataclass(frozen=True)
class Lease:
    job_id: str
    kind: str
    token: str = field(repr=False)
    payload: dict[str, Any]
    attempts: int
    """This one included."""
    progress: float
    owner: str | None = None
    media_id: str | None = None
    request_id: str | None = None


@dataclass(frozen=True)
class Depth:
    """Jobs of one kind: `ready` to be leased now, `leased` by live workers, `waiting` for a retry that is due later."""

    ready: int = 0
    leased: int = 0
    waiting: int = 0
    oldest: datetime | None = None
    head: str | None = None
    """Which job would be leased next, and which turn of it: each attempt, and each hand-back, is another one."""
    failed: int = 0
    """Ended as failed within the last hour."""


def depth_query(job: str = "job") -> str:
    """SQL for one row a kind that has open jobs or lately failed ones: `kind` and the fields of `Depth`.

    `job` is the table, quoted.
    """
    return _DEPTH.format(job=job, ready=_READY)


async def enqueue(
    tx: AsyncConnection,
    kind: str,
    payload: dict[str, Any],
    *,
    owner: str | None = None,
    media_id: str | None = None,
    dedupe_key: str | None = None,
    priority: int = 0,
    request_id: str | None = None,
) -> str:
    """Queues a job in the caller's transaction and returns its id; with `dedupe_key`, that of the one already open."""
    while True:
        row = (
            await tx.execute(
                _ENQUEUE,
                {
                    "job_id": new_job_id(),
                    "kind": kind,
                    "priority": priority,
                    "owner": owner,
                    "media_id": media_id,
                    "dedupe_key": dedupe_key,
                    "payload": json.dumps(payload),
                    "request_id": request_id,
                    "channel": CHANNEL,
                },
            )
        ).first()
        row = row or (await tx.execute(_OPEN, {"kind": kind, "dedupe_key": dedupe_key})).first()
        if row:  # else the open one ended between the two statements: queue again
            return str(row.job_id)


async def enqueue_for_content(
    tx: AsyncConnection,
    kind: Literal["scan", "thumbnail"],
    sha256: str,
    *,
    owner: str | None = None,
    media_id: str | None = None,
    priority: int = 0,
    request_id: str | None = None,
) -> str:
    """A job that a content needs once, however often it is asked for; the id of the one already open, if any."""
    return await enqueue(
        tx,
        kind,
        {"sha256": sha256},
        owner=owner,
        media_id=media_id,
        dedupe_key=sha256,
        priority=priority,
        request_id=request_id,
    )


async def cancel(tx: AsyncConnection, job_id: str) -> None:
    """A queued job is cancelled at once, a running one at its next renewal; an ended one stays as it is."""
    await tx.execute(_CANCEL, {"job_id": job_id})


async def segments_of(tx: AsyncConnection, job_id: str, after: int = -1) -> list[dict[str, Any]]:
    """Stored segments numbered above `after`, in order: `number, start, end, text, words` (seconds)."""
    return [dict(row._mapping) for row in await tx.execute(_SEGMENTS, {"job_id": job_id, "after": after})]


class Queue:
    """The worker's side. `retry_base` is the first retry's mean delay; it doubles with each attempt, up to an hour.

    Whatever takes a lease raises LeaseLost, and has written nothing, when the job is no longer held by its token.
    """

    def __init__(self, database: Database, *, retry_base: timedelta = timedelta(seconds=2)) -> None:
        self._database = database
        self._retry_base = retry_base.total_seconds()

    async def lease(self, kind: str, *, worker: str, seconds: float) -> Lease | None:
        """The next job of this kind, held for `seconds` unless renewed; None when there is nothing to do now."""
        token = new_ulid()
        async with self._database.transaction() as tx:
            for lost in await tx.execute(_REAP, {"kind": kind, "max_attempts": MAX_ATTEMPTS[kind]}):
                await _left_behind(tx, lost)
            row = (
                await tx.execute(_LEASE, {"kind": kind, "token": token, "worker": worker, "seconds": seconds})
            ).first()
        return Lease(token=token, **row._mapping) if row else None

    async def renew(self, lease: Lease, *, seconds: float, progress: float | None = None) -> None:
        """Holds the job for `seconds` from now. Raises Cancelled when the client asked for it."""
        async with self._database.statement() as tx:
            row = _held(
                lease,
                await tx.execute(
                    _RENEW, {"job_id": lease.job_id, "token": lease.token, "seconds": seconds, "progress": progress}
                ),
            )
        if row.cancel_requested:
            raise Cancelled(lease.job_id)

    async def finish(self, lease: Lease, result: dict[str, Any]) -> None:
        """Completes a job whose result touches no other row; else see the function of this name."""
        async with self._database.transaction() as tx:
            await finish(tx, lease, result)

    async def cancelled(self, lease: Lease) -> None:
        async with self._database.transaction() as tx:
            await _end(tx, lease, "cancelled", None)

    async def fail(self, lease: Lease, code: str, detail: str, *, retry: bool) -> None:
        """Ends the job, or with `retry` queues it again after a growing, jittered delay while attempts are left."""
        async with self._database.transaction() as tx:
            ended = _held(
                lease,
                await tx.execute(
                    _FAIL,
                    {
                        "job_id": lease.job_id,
                        "token": lease.token,
                        "code": code,
                        "detail": detail,
                        "retry": retry,
                        "max_attempts": MAX_ATTEMPTS[lease.kind],
                        "base_seconds": self._retry_base,
                    },
                ),
            )
            await _left_behind(tx, ended)

    async def release(self, lease: Lease, after: timedelta = timedelta(0)) -> None:
        """Hands the job back as if it had not been taken: on SIGTERM, or to wait for a verdict."""
        async with self._database.transaction() as tx:
            _held(
                lease,
                await tx.execute(
                    _RELEASE, {"job_id": lease.job_id, "token": lease.token, "after": after, "channel": CHANNEL}
                ),
            )

    async def append_segments(self, lease: Lease, segments: Sequence[dict[str, Any]]) -> None:
        """Stores segments `{number, start, end, text, words}`; numbers already stored stay."""
        async with self._database.transaction() as tx:
            _held(
                lease,
                await tx.execute(
                    _APPEND, {"job_id": lease.job_id, "token": lease.token, "segments": json.dumps(list(segments))}
                ),
            )

    async def segments(self, job_id: str, after: int = -1) -> list[dict[str, Any]]:
        async with self._database.statement() as tx:
            return await segments_of(tx, job_id, after)

    async def depth(self) -> dict[str, Depth]:
        """For each kind; raises Unavailable rather than answering zero when the database is away."""
        async with self._database.transaction() as tx:
            rows = await tx.execute(text(depth_query()))
            found = {
                row.kind: Depth(row.ready, row.leased, row.waiting, row.oldest, row.head, row.failed) for row in rows
            }
        return {kind: found.get(kind, Depth()) for kind in KINDS}


async def finish(tx: AsyncConnection, lease: Lease, result: dict[str, Any]) -> None:
    """Completes the job in the transaction that writes its result elsewhere. Raises LeaseLost: roll back."""
    await _end(tx, lease, "completed", result)


async def hurry(tx: AsyncConnection, sha256: str) -> None:
    """What waits for the verdict of this content need not wait any longer."""
    await tx.execute(_HURRY, {"sha256": sha256, "channel": CHANNEL})


async def _end(tx: AsyncConnection, lease: Lease, status: str, result: dict[str, Any] | None) -> None:
    _held(
        lease,
        await tx.execute(
            _FINISH,
            {
                "job_id": lease.job_id,
                "token": lease.token,
                "status": status,
                "result": None if result is None else json.dumps(result),
            },
        ),
    )


def _held(lease: Lease, written: CursorResult[Any]) -> Row[Any]:
    """The row that a fenced statement wrote; none means that the token is no longer the job's."""
    row = written.first()
    if row is None:
        raise LeaseLost(lease.job_id)
    return row


async def _left_behind(tx: AsyncConnection, ended: Row[Any]) -> None:
    if ended.status == "failed" and ended.kind in _LEFT_BEHIND:
        await tx.execute(_LEFT_BEHIND[ended.kind], {"sha256": ended.payload["sha256"], "detail": ended.error_detail})
