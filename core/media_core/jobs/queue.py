"""The queue: one table, leased with SKIP LOCKED.

    queued --lease--> running --finish--> completed
      ^  \\              |  |----fail----> failed      (not retryable, or attempts used up)
      |   \\--cancel---> | --cancelled--> cancelled
      '---retry/release--'

A job runs at least once. Only the holder of the lease token may write: every write says `WHERE lease_token = ...`, so
a worker that lost its lease (killed, stalled, partitioned) cannot change its successor's work. `reap`, which every
worker calls from time to time, ends a lease that ran out, and the job goes to the next worker that asks. A job that
used up its attempts ends as failed with the reason.

An outage is not an attempt. `postpone` hands back a job whose dependency is away. The job says what it waits for, and
is tried again at most half a minute after the dependency is back, however long the outage lasts.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, LiteralString

from media_core import logs
from media_core.database import Database, Transaction
from media_core.errors import Unavailable
from media_core.ids import new_job_id, new_ulid
from media_core.jobs.depth import Depth, by_kind, depth_query
from media_core.jobs.kinds import JOB_KINDS

WAITING: Final = "waiting"
"""`error_code` of a queued job whose dependency is away; `error_detail` names the dependency."""
POSTPONED_SECONDS = 30.0
"""Longest wait of a job between two tries while a dependency is away."""
SERVER_BACK = timedelta(seconds=20)
"""How long a lease that ran out during an outage stays with its holder after PostgreSQL has started or can be reached
again."""
REAP_SECONDS = 5.0
"""How often a worker with other work looks for leases that ran out."""

_ENQUEUE: Final = """
INSERT INTO job (job_id, kind, priority, owner, media_id, dedupe_key, payload, request_id)
VALUES (%(job_id)s, %(kind)s, %(priority)s, %(owner)s, %(media_id)s, %(dedupe_key)s, CAST(%(payload)s AS jsonb),
    %(request_id)s)
ON CONFLICT (kind, dedupe_key) WHERE status IN ('queued','running') DO NOTHING
RETURNING job_id
"""
_OPEN: Final = """
SELECT job_id FROM job WHERE kind = %(kind)s AND dedupe_key = %(dedupe_key)s AND status IN ('queued','running')
"""
# A job whose lease ran out goes back to the queue, unless its attempts are used up (`over`). Then it ends, and its
# content is locked first, as the lock order says. A lease that ran out during an outage could not be renewed, so it
# stays with its holder for `grace`.
_RAN_OUT: Final = """
SELECT job_id, kind, payload ->> 'sha256' AS sha256, cancel_requested OR attempts >= %(max_attempts)s AS over FROM job
WHERE status = 'running' AND kind = %(kind)s AND lease_until < now()
  AND (lease_until > pg_postmaster_start_time() OR pg_postmaster_start_time() < now() - %(grace)s)
ORDER BY lease_until LIMIT 100
"""
_TAKE_BACK: Final = """
UPDATE job SET status = 'queued', lease_token = NULL, lease_until = NULL, run_after = least(run_after, now())
WHERE job_id IN (
    SELECT job_id FROM job
    WHERE job_id = ANY(%(job_ids)s) AND status = 'running' AND lease_until < now()
    ORDER BY job_id FOR UPDATE SKIP LOCKED
)
"""
_REAP: Final = """
UPDATE job SET
    status = CASE WHEN cancel_requested THEN 'cancelled' ELSE 'failed' END,
    error_code = CASE WHEN cancel_requested THEN NULL ELSE 'worker_lost' END,
    error_detail = CASE WHEN cancel_requested THEN NULL
                   ELSE 'The worker died or stalled ' || attempts || ' times while it had this job.' END,
    finished_at = now(), lease_token = NULL, lease_until = NULL
WHERE job_id = %(job_id)s AND status = 'running' AND lease_until < now()
RETURNING kind, status, dedupe_key, error_code, error_detail
"""
_LOCK_CONTENT: Final = "SELECT FROM blob WHERE sha256 = %(sha256)s FOR UPDATE"
_LEASE: Final = """
WITH taken AS (
    UPDATE job SET status = 'running', attempts = attempts + 1, lease_token = %(token)s, worker = %(worker)s,
        lease_until = now() + %(seconds)s * interval '1 second', started_at = coalesce(started_at, now())
    WHERE job_id = ANY(ARRAY(
        SELECT job_id FROM job
        WHERE kind = %(kind)s AND status = 'queued' AND run_after <= now()
          AND NOT EXISTS (
              SELECT FROM policy
              WHERE suspended OR NOT coalesce((to_jsonb(policy) ->> %(switch)s)::boolean, true)
          )
        ORDER BY priority DESC, run_after, job_id
        FOR UPDATE OF job SKIP LOCKED
        LIMIT %(most)s
    ))
    RETURNING job_id, kind, payload, attempts, owner, request_id, postponed, priority, run_after
)
SELECT job_id, kind, payload, attempts, owner, request_id, postponed, blob.sha256, blob.size, blob.mime_type,
    blob.scan_status, blob.doomed_at IS NOT NULL AS marked,
    set_config('synchronous_commit', 'off', true) AS relaxed
FROM taken LEFT JOIN blob ON blob.sha256 = taken.payload ->> 'sha256'
ORDER BY taken.priority DESC, taken.run_after, taken.job_id
"""
_RENEW: Final = """
UPDATE job SET lease_until = now() + %(seconds)s * interval '1 second', progress = coalesce(%(progress)s, progress)
WHERE job_id = %(job_id)s AND lease_token = %(token)s AND status = 'running'
RETURNING cancel_requested
"""
_RENEW_ALL: Final = """
WITH held AS (
    SELECT job.job_id FROM job JOIN unnest(%(job_ids)s::text[], %(tokens)s::text[]) AS lease(job_id, token)
        ON lease.job_id = job.job_id AND lease.token = job.lease_token
    WHERE status = 'running' ORDER BY job.job_id FOR UPDATE OF job
), renewed AS (
    UPDATE job SET lease_until = now() + %(seconds)s * interval '1 second'
    FROM held WHERE job.job_id = held.job_id
    RETURNING job.job_id, cancel_requested
)
SELECT job_id, NOT cancel_requested AS wanted, set_config('synchronous_commit', 'off', true) FROM renewed
"""
_FINISH: Final = """
UPDATE job SET status = %(status)s, result = CAST(%(result)s AS jsonb), finished_at = now(), lease_token = NULL,
    lease_until = NULL, place = NULL, progress = CASE WHEN %(status)s = 'completed' THEN 1 ELSE progress END,
    error_code = NULL, error_detail = NULL
WHERE job_id = %(job_id)s AND lease_token = %(token)s AND status = 'running'
RETURNING job_id
"""
_FAIL: Final = """
UPDATE job SET
    status = CASE WHEN cancel_requested THEN 'cancelled'
             WHEN %(retry)s AND attempts < %(max_attempts)s THEN 'queued' ELSE 'failed' END,
    run_after = now() + least(3600, %(base_seconds)s * power(2, attempts - 1)) * (0.5 + random()) * interval '1 second',
    error_code = %(code)s, error_detail = %(detail)s,
    finished_at = CASE WHEN %(retry)s AND attempts < %(max_attempts)s AND NOT cancel_requested THEN NULL ELSE now() END,
    postponed = 0, lease_token = NULL, lease_until = NULL
WHERE job_id = %(job_id)s AND lease_token = %(token)s AND status = 'running'
RETURNING kind, status, dedupe_key, error_code, error_detail
"""
_RELEASE: Final = """
UPDATE job SET status = CASE WHEN cancel_requested THEN 'cancelled' ELSE 'queued' END, attempts = attempts - 1,
    finished_at = CASE WHEN cancel_requested THEN now() END, run_after = now() + %(after)s, lease_token = NULL,
    lease_until = NULL, error_code = CASE WHEN %(waits_for)s::text IS NULL THEN error_code ELSE 'waiting' END,
    error_detail = coalesce(%(waits_for)s, error_detail)
WHERE job_id = %(job_id)s AND lease_token = %(token)s AND status = 'running'
RETURNING set_config('synchronous_commit', 'off', true)
"""
_POSTPONE: Final = """
UPDATE job SET status = CASE WHEN cancel_requested THEN 'cancelled' ELSE 'queued' END, attempts = attempts - 1,
    postponed = postponed + 1,
    run_after = now() + least(%(most_seconds)s, %(base_seconds)s * power(2, least(postponed, 20)))
        * (0.5 + random() / 2) * interval '1 second',
    error_code = 'waiting', error_detail = %(detail)s, finished_at = CASE WHEN cancel_requested THEN now() END,
    lease_token = NULL, lease_until = NULL
WHERE job_id = %(job_id)s AND lease_token = %(token)s AND status = 'running'
RETURNING set_config('synchronous_commit', 'off', true)
"""
_CANCEL: Final = """
UPDATE job SET
    status = CASE WHEN status = 'queued' THEN 'cancelled' ELSE status END,
    finished_at = CASE WHEN status = 'queued' THEN now() ELSE finished_at END,
    cancel_requested = true
WHERE job_id = %(job_id)s AND status IN ('queued','running')
"""
_APPEND: Final = """
WITH held AS (
    SELECT job_id FROM job WHERE job_id = %(job_id)s AND lease_token = %(token)s AND status = 'running' FOR UPDATE
), written AS (
    INSERT INTO segment (job_id, number, start, "end", text, words, channel, language)
    SELECT held.job_id, s.number, s.start, s."end", s.text, s.words, s.channel, s.language
    FROM held, jsonb_to_recordset(CAST(%(segments)s AS jsonb))
        AS s(number int, start float, "end" float, text text, words jsonb, channel int,
            language text)
    ON CONFLICT (job_id, number) DO NOTHING
), noted AS (
    UPDATE job SET place = CAST(%(place)s AS jsonb) FROM held
    WHERE job.job_id = held.job_id AND CAST(%(place)s AS jsonb) IS NOT NULL
)
SELECT job_id FROM held
"""
_SEGMENTS: Final = """
SELECT number, start, "end", text, words, channel, language FROM segment
WHERE job_id = %(job_id)s AND number > %(after)s ORDER BY number
"""
_OF_SOME = frozenset({"channel", "language"})
"""Columns of segments that most have not."""
_PLACE: Final = "SELECT place FROM job WHERE job_id = %(job_id)s"


class Cancelled(Exception):
    """The client asked for this job to stop; the worker acknowledges with `Queue.cancelled`."""


class LeaseLost(Exception):
    """The job is no longer held by this token: stop at once and write nothing."""


class NotYet(Exception):
    """The job has to wait for a verdict or the like: hand it back for `after`, without counting an attempt.

    `waits_for`: the reason that the job's owner reads meanwhile.
    """

    def __init__(self, after: timedelta, waits_for: str | None = "scan: this file has no verdict yet") -> None:
        super().__init__(f"again in {after}")
        self.after = after
        self.waits_for = waits_for


@dataclass(frozen=True)
class Content:
    """What a worker needs to know of a content. `size` in bytes."""

    sha256: str
    size: int
    mime_type: str
    scan_status: str
    found_by: str | None = None
    """Engine and signatures that found it infected, while its objects are still there: newer ones may recall it."""


@dataclass(frozen=True)
class Lease:
    job_id: str
    kind: str
    token: str = field(repr=False)
    payload: dict[str, Any]
    attempts: int
    """This one included."""
    owner: str | None = None
    request_id: str | None = None
    postponed: int = 0
    """How often in a row it was handed back because a dependency was away."""
    content: Content | None = None
    """The content of `payload["sha256"]` when the job was leased. None: it is marked, or has no row."""


async def enqueue(
    tx: Transaction,
    kind: str,
    payload: dict[str, Any],
    *,
    owner: str | None = None,
    media_id: str | None = None,
    dedupe_key: str | None = None,
    priority: int = 0,
) -> str:
    """Queues a job in the caller's transaction. Returns its id, or the id of an open job with the same `dedupe_key`."""
    while True:
        row = await tx.first(
            _ENQUEUE,
            {
                "job_id": new_job_id(),
                "kind": JOB_KINDS[kind].name,
                "priority": priority,
                "owner": owner,
                "media_id": media_id,
                "dedupe_key": dedupe_key,
                "payload": json.dumps(payload),
                "request_id": logs.request_id(),
            },
        )
        if row:
            tx.announce()
        row = row or await tx.first(_OPEN, {"kind": kind, "dedupe_key": dedupe_key})
        if row:  # otherwise the open job ended between the two statements: queue again
            return str(row.job_id)


async def enqueue_scan(
    tx: Transaction,
    sha256: str,
    *,
    owner: str | None = None,
    media_id: str | None = None,
    priority: int = 0,
) -> str:
    """As `enqueue`. A content has at most one open scan: if there is one, its id is returned."""
    return await enqueue(
        tx, "scan", {"sha256": sha256}, owner=owner, media_id=media_id, dedupe_key=sha256, priority=priority
    )


async def cancel(tx: Transaction, job_id: str) -> None:
    """Cancels a queued job at once, a running one at its next renewal, and leaves an ended one as it is."""
    await tx.execute(_CANCEL, {"job_id": job_id})


async def segments_of(database: Database, job_id: str, after: int = -1) -> list[dict[str, Any]]:
    """Stored segments numbered above `after`, in order: `number, start, end, text, words` (seconds), `channel` where
    channels are split, and `language` where the job found one for each.
    """
    rows = await database.call(_SEGMENTS, {"job_id": job_id, "after": after})
    return [
        {name: value for name, value in row._asdict().items() if name not in _OF_SOME or value is not None}
        for row in rows
    ]


class Queue:
    """The worker's side. `retry_base` is the first retry's mean delay; it doubles with each attempt, up to an hour.

    Every method with a `lease` parameter raises LeaseLost, and has written nothing, when its token no longer holds the
    job.
    """

    def __init__(self, database: Database, *, retry_base: timedelta = timedelta(seconds=2)) -> None:
        self._database = database
        self._retry_base = retry_base.total_seconds()
        self._reaped_at = time.monotonic()
        self._away_at = float("-inf")
        """When this process last failed to reach PostgreSQL. Others could not renew their leases then either."""

    async def lease(self, kind: str, *, worker: str, seconds: float) -> Lease | None:
        """The next job of this kind, held for `seconds` unless renewed; None when there is nothing to do now."""
        leases = await self.lease_many(kind, worker=worker, seconds=seconds, most=1)
        return leases[0] if leases else None

    async def lease_many(self, kind: str, *, worker: str, seconds: float, most: int) -> list[Lease]:
        """Up to `most` jobs in the queue's order; each is renewed and ended by itself. Empty: nothing to do."""
        if time.monotonic() - self._reaped_at > REAP_SECONDS:
            await self.reap(kind)
        leases = await self._lease_many(kind, worker, seconds, most)
        if not leases and await self.reap(kind):
            leases = await self._lease_many(kind, worker, seconds, most)
        return leases

    async def _lease_many(self, kind: str, worker: str, seconds: float, most: int) -> list[Lease]:
        token = new_ulid()
        wanted = {
            "kind": kind,
            "switch": JOB_KINDS[kind].switch,
            "token": token,
            "worker": worker,
            "seconds": seconds,
            "most": most,
        }
        with self._noting_outages():
            return [_leased(row, token) for row in await self._database.call(_LEASE, wanted)]

    @contextmanager
    def _noting_outages(self) -> Iterator[None]:
        try:
            yield
        except Unavailable:
            self._away_at = time.monotonic()
            raise

    async def reap(self, kind: str) -> bool:
        """Takes back jobs whose leases ran out, at most 100. Returns whether there were any."""
        self._reaped_at = time.monotonic()
        if self._reaped_at - self._away_at < SERVER_BACK.total_seconds():
            return False
        async with self._database.transaction() as tx:
            wanted = {"kind": kind, "max_attempts": JOB_KINDS[kind].max_attempts, "grace": SERVER_BACK}
            ran_out = await tx.execute(_RAN_OUT, wanted)
            over = sorted((job for job in ran_out if job.over), key=lambda job: (job.sha256 or "", job.job_id))
            for job in over:
                await tx.execute(_LOCK_CONTENT, {"sha256": job.sha256})
            for job in over:
                for lost in await tx.execute(_REAP, {"job_id": job.job_id}):
                    await _left_behind(tx, lost)
            await tx.execute(_TAKE_BACK, {"job_ids": [job.job_id for job in ran_out if not job.over]})
        return bool(ran_out)

    async def renew(self, lease: Lease, *, seconds: float, progress: float | None = None) -> None:
        """Holds the job for `seconds` from now. Raises Cancelled when the client asked for it."""
        renewed = {"job_id": lease.job_id, "token": lease.token, "seconds": seconds, "progress": progress}
        row = _held(lease, await self._database.call(_RENEW, renewed))
        if row.cancel_requested:
            raise Cancelled(lease.job_id)

    async def renew_all(self, leases: Sequence[Lease], *, seconds: float) -> dict[str, bool]:
        """Holds many jobs for `seconds` from now. The jobs still held, by id: False if the client asked to cancel it.

        Does not raise LeaseLost.
        """
        if not leases:
            return {}
        wanted = {
            "job_ids": [lease.job_id for lease in leases],
            "tokens": [lease.token for lease in leases],
            "seconds": seconds,
        }
        with self._noting_outages():
            return {row.job_id: row.wanted for row in await self._database.call(_RENEW_ALL, wanted)}

    async def finish(self, lease: Lease, result: dict[str, Any]) -> None:
        """Completes a job whose result is in no other row. For others, see the function of this name."""
        async with self._database.transaction() as tx:
            await finish(tx, lease, result)

    async def cancelled(self, lease: Lease) -> None:
        async with self._database.transaction() as tx:
            await _end(tx, lease, "cancelled", None)

    async def fail(self, lease: Lease, code: str, detail: str, *, retry: bool) -> None:
        """Ends the job as failed. With `retry`, and while attempts are left, queues it again after a growing, jittered
        delay.
        """
        async with self._database.transaction() as tx:
            await tx.execute(_LOCK_CONTENT, {"sha256": lease.payload.get("sha256")})
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
                        "max_attempts": JOB_KINDS[lease.kind].max_attempts,
                        "base_seconds": self._retry_base,
                    },
                ),
            )
            await _left_behind(tx, ended)

    async def release(self, lease: Lease, after: timedelta = timedelta(0), *, waits_for: str | None = None) -> None:
        """Hands the job back without counting the attempt: on SIGTERM, or to wait for a verdict."""
        await self._fenced(_RELEASE, lease, after=after, waits_for=waits_for)
        if not after:
            self._database.announce()

    async def postpone(self, lease: Lease, dependency: str, detail: str) -> None:
        """Hands the job back because a dependency is away, without counting the attempt.

        The job says what it waits for. It is tried again after a growing, jittered delay of at most
        `POSTPONED_SECONDS`.
        """
        await self._fenced(
            _POSTPONE,
            lease,
            detail=f"{dependency}: {detail}"[:1000],
            base_seconds=self._retry_base,
            most_seconds=POSTPONED_SECONDS,
        )

    async def _fenced(self, statement: LiteralString, lease: Lease, **arguments: Any) -> None:
        _held(lease, await self._database.call(statement, {"job_id": lease.job_id, "token": lease.token, **arguments}))

    async def append_segments(
        self, lease: Lease, segments: Sequence[dict[str, Any]], *, place: dict[str, Any] | None = None
    ) -> None:
        """Stores segments `{number, start, end, text, words, channel, language}` (seconds; the last two may be left
        out). A number already stored keeps its segment.

        `place`: where the next worker goes on, if this one ends here. It is stored with the segments, or neither is.
        """
        parameters = {
            "job_id": lease.job_id,
            "token": lease.token,
            "segments": json.dumps(list(segments)),
            "place": None if place is None else json.dumps(place),
        }
        async with self._database.transaction() as tx:
            _held(lease, await tx.execute(_APPEND, parameters))

    async def place(self, job_id: str) -> dict[str, Any] | None:
        """Where the last worker that stored segments would have gone on."""
        rows = await self._database.call(_PLACE, {"job_id": job_id})
        return rows[0].place if rows else None

    async def segments(self, job_id: str, after: int = -1) -> list[dict[str, Any]]:
        return await segments_of(self._database, job_id, after)

    async def depth(self) -> Mapping[str, Depth]:
        """By kind. Raises Unavailable when the database is away."""
        return by_kind(await self._database.call(depth_query(), ()))


async def finish(tx: Transaction, lease: Lease, result: dict[str, Any]) -> None:
    """Completes the job in the transaction that writes its result elsewhere. Raises LeaseLost; then roll back."""
    await _end(tx, lease, "completed", result)


async def _end(tx: Transaction, lease: Lease, status: str, result: dict[str, Any] | None) -> None:
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


def _leased(row: Any, token: str) -> Lease:
    content = None
    if row.sha256 is not None and not row.marked:
        content = Content(row.sha256, row.size, row.mime_type, row.scan_status)
    return Lease(
        job_id=row.job_id,
        kind=row.kind,
        token=token,
        payload=row.payload,
        attempts=row.attempts,
        owner=row.owner,
        request_id=row.request_id,
        postponed=row.postponed,
        content=content,
    )


def _held(lease: Lease, written: Sequence[Any]) -> Any:
    """The row that a fenced statement wrote. Raises LeaseLost if there is none: the token no longer holds the job."""
    if not written:
        raise LeaseLost(lease.job_id)
    return written[0]


async def _left_behind(tx: Transaction, ended: Any) -> None:
    """Runs the kind's `on_failure` for a job that failed.

    A job without its dedupe_key belongs to a content that was deleted meanwhile. If the same bytes were uploaded again,
    it says nothing of them.
    """
    on_failure = JOB_KINDS[ended.kind].on_failure
    if ended.status == "failed" and on_failure is not None and ended.dedupe_key is not None:
        said = {"sha256": ended.dedupe_key, "code": ended.error_code, "detail": ended.error_detail}
        await tx.execute(on_failure, said)
