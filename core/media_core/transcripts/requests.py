"""Jobs as their owners see them: asking for a transcript, watching, cancelling. The workers' side is `jobs.queue`.

A job belongs to the subject that asked for it. For all others but admins it does not exist.
"""

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Final, Literal

from media_core.auth.tokens import Claims
from media_core.contents import quota
from media_core.database import Database
from media_core.errors import Refused, not_found
from media_core.examination import media_types
from media_core.items.access import Item
from media_core.items.library import Library
from media_core.jobs import queue
from media_core.transcripts.speech_models import cannot_translate, translates

OPEN: Final = frozenset({"queued", "running"})

MAX_OPEN_JOBS: Final = 100
"""Most jobs that one subject may have waiting or running."""

MOST_TRACKS: Final = 16
"""The last sound track that can be chosen; `media_core.decoding` hears no more of them."""
MOST_CHANNELS: Final = 64
MOST_SPLIT: Final = 8
"""Most channels of a track that are heard one by one."""

_COLUMNS = """
    job_id, kind, status, progress, owner, media_id, created_at, started_at, finished_at, error_code, error_detail,
    cancel_requested
"""
# For one job only: a list would read the queue once per row.
_POSITION = """
    CASE WHEN status = 'queued' THEN (
        SELECT 1 + count(*) FROM job AS other
        WHERE other.kind = job.kind AND other.status = 'queued'
          AND (other.priority > job.priority
               OR (other.priority = job.priority AND (other.run_after, other.job_id) < (job.run_after, job.job_id)))
    ) END AS queue_position
"""
# When a recording is found infected, its transcripts do not exist any more either.
_STANDING = """
    NOT (kind = 'transcribe' AND EXISTS (
        SELECT FROM blob WHERE sha256 = job.payload ->> 'sha256' AND scan_status = 'infected'))
"""
_FIND: Final = f"""
SELECT {_COLUMNS}, {_POSITION}, result FROM job WHERE job_id = %(job_id)s AND {_STANDING}
"""  # noqa: S608 (only constants are put in)
_LIST: Final = f"""
SELECT {_COLUMNS}, CAST(NULL AS integer) AS queue_position, CAST(NULL AS jsonb) AS result FROM job
WHERE owner = %(owner)s AND {_STANDING} AND (CAST(%(before)s AS text) IS NULL OR job_id < %(before)s)
  AND (CAST(%(kind)s AS text) IS NULL OR kind = %(kind)s)
  AND (CAST(%(statuses)s AS text[]) = '{{}}' OR status = ANY(%(statuses)s))
  AND (CAST(%(media_id)s AS text) IS NULL OR media_id = %(media_id)s)
ORDER BY job_id DESC LIMIT %(limit)s
"""  # noqa: S608 (only constants are put in)
_ASKED_BEFORE: Final = """
SELECT job_id FROM job
WHERE kind = 'transcribe' AND owner = %(owner)s AND media_id = %(media_id)s AND payload = CAST(%(payload)s AS jsonb)
  AND created_at > now() - interval '24 hours'
ORDER BY job_id LIMIT 1
"""
_OPEN_OF: Final = "SELECT count(*) FROM job WHERE owner = %(owner)s AND status IN ('queued','running')"
# Of many jobs at once, the columns that change while a job is watched.
_STATES: Final = """
SELECT job_id, status, progress, (SELECT max(number) FROM segment WHERE segment.job_id = job.job_id) AS last_segment
FROM job WHERE job_id = ANY(%(job_ids)s)
"""


@dataclass(frozen=True)
class Job:
    """`progress` is 0 to 1; `result` is there once completed; `queue_position` is 1 for the next one, None in lists."""

    job_id: str
    kind: str
    status: str
    progress: float
    owner: str | None
    media_id: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error_code: str | None
    error_detail: str | None
    result: dict[str, Any] | None
    cancel_requested: bool
    queue_position: int | None

    @property
    def ended(self) -> bool:
        return self.status not in OPEN

    @property
    def waits_for(self) -> str | None:
        """The dependency that is away, with the reason, if the job was queued again for that. It is no failure."""
        return self.error_detail if self.status == "queued" and self.error_code == queue.WAITING else None

    @property
    def has_failed(self) -> bool:
        """The job failed, or its last attempt did."""
        return self.error_code not in (None, queue.WAITING)


@dataclass(frozen=True)
class TranscriptionRequest:
    """What a client asks for. The job's payload holds it."""

    language: str | None = None
    """None: it is detected."""
    task: Literal["transcribe", "translate"] = "transcribe"
    word_timestamps: bool = False
    prompt: str | None = None
    hotwords: str | None = None
    vad: bool = True
    track: int | None = None
    """Which of the sound tracks, from 1. None: the first that speaks."""
    channel: int | None = None
    """Which channel of it, from 1. None: all of them."""
    channels: Literal["mix", "split"] = "mix"
    """`split`: each channel is heard by itself, as one speaker."""
    multilingual: bool = False
    """The language is found again and again, and each segment has its own."""

    @classmethod
    def of(cls, payload: Mapping[str, Any]) -> "TranscriptionRequest":
        """The request in a job's payload; a field that is missing there has its default."""
        return cls(**{wish.name: payload[wish.name] for wish in fields(cls) if payload.get(wish.name) is not None})


@dataclass(frozen=True)
class State:
    """What a watcher compares: while the state stays equal, there is nothing new to send."""

    status: str
    progress: float
    last_segment: int | None


class Jobs:
    """One tenant's jobs. `max_seconds`: the longest recording that is accepted. `model`: the workers' speech model."""

    def __init__(self, *, database: Database, library: Library, max_seconds: float, model: str = "small") -> None:
        self.database = database
        self.library = library
        self.max_seconds = max_seconds
        self.model = model

    async def transcribe(
        self, caller: Claims, media_id: str, wanted: TranscriptionRequest, *, once: bool = False
    ) -> Job:
        """Queues a transcription of an item that the caller may see; the job waits for a clean verdict.

        `once`: the same request of the last 24 hours is answered with its job. Raises Refused `not_found`,
        `not_audio_or_video`, `duration_exceeds_limit`, `transcription_limit_exceeded`, `transcription_disabled`,
        `too_many_jobs`.
        """
        item = await self.library.find(caller, media_id, "see")
        payload = {"sha256": item.sha256, "media_id": media_id, **asdict(wanted)}
        if once:
            parameters = {"owner": caller.subject, "media_id": media_id, "payload": json.dumps(payload)}
            for earlier in await self.database.call(_ASKED_BEFORE, parameters):
                return await self.find(caller, earlier.job_id)
        await self._check(item)
        await self._check_share(caller)
        wish = hashlib.sha256(json.dumps([caller.subject, payload]).encode()).hexdigest()
        async with self.database.transaction() as tx:
            job_id = await queue.enqueue(
                tx,
                "transcribe",
                payload,
                owner=caller.subject,
                media_id=media_id,
                dedupe_key=wish if once else None,
            )
            row = await tx.first(_FIND, {"job_id": job_id})
            if row is None:  # the file was found infected meanwhile
                raise not_found()
            return _job(row)

    async def require_enabled(self) -> None:
        """Raises Refused `transcription_disabled`."""
        if not (await self.library.policy.current()).transcription_enabled:
            raise Refused("transcription_disabled", "This tenant does not offer transcription.")

    def require_translation(self) -> None:
        """Raises Refused `translation_unavailable`."""
        if not translates(self.model):
            raise Refused("translation_unavailable", cannot_translate(self.model))

    async def _check(self, item: Item) -> None:
        """Refuses what can be refused now. A duration that the file's header does not give is checked by the worker."""
        await self.require_enabled()
        if not media_types.transcribable(item.mime_type):
            raise Refused(
                "not_audio_or_video",
                f"This is {media_types.named(item.mime_type)}; nothing in it can be transcribed.",
            )
        if item.duration is None:
            return
        if item.duration > self.max_seconds:
            raise Refused(
                "duration_exceeds_limit",
                f"This recording has {math.ceil(item.duration):,} seconds; {self.max_seconds:,.10g} are the most here.",
                limit=self.max_seconds,
                duration=item.duration,
            )
        limit = (await self.library.policy.current()).max_transcription_seconds_per_day
        async with self.database.transaction() as tx:
            await quota.check_transcription(tx, item.duration, limit)

    async def _check_share(self, caller: Claims) -> None:
        """Keeps one caller from filling the queue. Raises Refused `too_many_jobs`."""
        (waiting,) = await self.database.call(_OPEN_OF, {"owner": caller.subject})
        if waiting.count >= MAX_OPEN_JOBS:
            raise Refused(
                "too_many_jobs",
                f"You have {waiting.count} jobs waiting or running, and {MAX_OPEN_JOBS} is the most; wait until some "
                "have ended, or cancel some.",
                limit=MAX_OPEN_JOBS,
                retry_after=60,
            )

    async def find(self, caller: Claims, job_id: str) -> Job:
        """Raises Refused `not_found`, also for another subject's job."""
        for row in await self.database.call(_FIND, {"job_id": job_id}):
            if row.owner == caller.subject or "admin" in caller.scopes:
                return _job(row)
        raise not_found()

    async def list_own(
        self,
        caller: Claims,
        *,
        before: str | None,
        limit: int,
        kind: str | None = None,
        statuses: Collection[str] = (),
        media_id: str | None = None,
    ) -> list[Job]:
        """Newest first, without their results; `before` is the id of the last one seen. No `statuses`: with any."""
        parameters = {
            "owner": caller.subject,
            "before": before,
            "limit": limit,
            "kind": kind,
            "statuses": list(statuses),
            "media_id": media_id,
        }
        return [_job(row) for row in await self.database.call(_LIST, parameters)]

    async def cancel(self, caller: Claims, job_id: str) -> Job:
        """Ends a queued job at once, a running one at its next segment, and leaves an ended one as it is.

        Raises as `find`.
        """
        await self.find(caller, job_id)
        async with self.database.transaction() as tx:
            await queue.cancel(tx, job_id)
        return await self.find(caller, job_id)

    async def segments(self, job_id: str, after: int = -1) -> list[dict[str, Any]]:
        """The segments of a job numbered above `after`. The caller has checked with `find` that it may see the job."""
        return await queue.segments_of(self.database, job_id, after)

    async def states(self, job_ids: Collection[str]) -> Mapping[str, State]:
        """The states of many jobs in one query; a job that does not exist is left out."""
        rows = await self.database.call(_STATES, {"job_ids": list(job_ids)})
        return {row.job_id: State(row.status, row.progress, row.last_segment) for row in rows}


def _job(row: Any) -> Job:
    return Job(**row._asdict())
