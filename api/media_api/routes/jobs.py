"""`/v1/jobs`: a job's progress, its result, and cancelling it."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Any, Final, Literal, get_args

from fastapi import APIRouter, Header, Path, Query, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event

from media_api.answers import downloads, problems
from media_api.answers.event_stream import EVENT_STREAM_CONTENT, KEEP_ALIVE_SECONDS, LastEventIdInQuery, event_stream
from media_api.auth import JobOwner
from media_api.models import Data, Job, JobStatus, Page, Segment
from media_api.requests.identifiers import known_id
from media_api.routes.parameters import Cursor, JobId, KnownOnly, next_cursor, read_cursor
from media_api.services import Services, Wired
from media_core.auth.tokens import Claims
from media_core.errors import Refused, Unavailable, not_found
from media_core.transcripts import formats
from media_core.transcripts.formats import published
from media_core.transcripts.requests import Job as CoreJob
from media_core.transcripts.subtitles import BROADCAST

router = APIRouter(tags=["Jobs"])

Kind = Literal["scan", "transcribe", "thumbnail"]


@router.get("/v1/jobs", responses=problems.described("invalid_request", "not_found"), response_model_exclude_unset=True)
async def list_jobs(
    caller: JobOwner,
    services: Wired,
    _known: KnownOnly,
    kind: Annotated[Kind | None, Query(description="Only jobs of this kind.")] = None,
    statuses: Annotated[
        list[JobStatus],
        Query(
            alias="status",
            max_length=len(get_args(JobStatus)),
            description="Only jobs with this status, and each further.",
        ),
    ] = [],  # noqa: B006 (FastAPI copies it)
    media_id: Annotated[
        str | None, Query(description="Only jobs about this file.", json_schema_extra={"format": "med-id"})
    ] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="Most jobs in the answer, 1 to 200.")] = 50,
    cursor: Cursor = None,
) -> Page[Job]:
    """Your jobs, newest first, without their results."""
    before = read_cursor(cursor, 1)[0] if cursor else None
    found = await services.jobs.list_own(
        caller,
        before=before,
        limit=limit + 1,
        kind=kind,
        statuses=statuses,
        media_id=None if media_id is None else known_id(media_id),
    )
    page = found[:limit]
    return Page(
        data=[Job.of(job) for job in page],
        next_cursor=next_cursor(page[-1].job_id) if len(found) > limit else None,
    )


@router.get("/v1/jobs/{job_id}", responses=problems.described("not_found"), response_model=Data[Job])
async def get_job(caller: JobOwner, services: Wired, job_id: JobId) -> Response:
    """A job of yours. Once it is completed, its result's fields stand beside the others."""
    return await answer_of(await services.jobs.find(caller, job_id))


@router.delete(
    "/v1/jobs/{job_id}",
    status_code=202,
    responses=problems.described("not_found", "invalid_request"),
    response_model=Data[Job],
)
async def cancel_job(caller: JobOwner, services: Wired, _known: KnownOnly, job_id: JobId) -> Response:
    """Cancel a job: at once while queued, at its next segment while running. Repeatable; an ended job stays so."""
    return await answer_of(await services.jobs.cancel(caller, job_id), 202)


async def answer_of(job: CoreJob, status: int = 200) -> Response:
    """The job with its result. Hours of speech with their words take seconds to write, in a thread."""
    return Response(await asyncio.to_thread(_written, job), status, media_type="application/json")


def _written(job: CoreJob) -> bytes:
    """Segment by segment: the event loop cannot run while pydantic is at one value."""
    result = dict(job.result or {})
    segments = result.pop("segments", None)
    written = Data(data=Job.of(replace(job, result=result))).model_dump_json(exclude_unset=True).encode()
    if segments is None:
        return written
    each = (Segment(**segment).model_dump_json(exclude_unset=True).encode() for segment in segments)
    return b'%b,"segments":[%b]}}' % (written.removesuffix(b"}}"), b",".join(each))


@router.get(
    "/v1/jobs/{job_id}/transcript.{extension}",
    response_class=Response,
    responses={
        200: {
            "description": "The transcript.",
            "content": {
                media_type.partition(";")[0]: {
                    "schema": {"$ref": "#/components/schemas/Transcript"} if name == "json" else {"type": "string"}
                }
                for name, (media_type, _) in formats.FORMATS.items()
            },
        },
        **problems.described("not_found", "not_completed", "invalid_request"),
    },
)
async def get_transcript(
    caller: JobOwner,
    services: Wired,
    _known: KnownOnly,
    job_id: JobId,
    extension: Annotated[str, Path(json_schema_extra={"enum": list(formats.FORMATS)})],
    max_chars: Annotated[
        int | None,
        Query(
            ge=10,
            le=200,
            description="SubRip, WebVTT: most columns of a line. Chinese, Japanese and Korean characters take two.",
        ),
    ] = None,
    max_lines: Annotated[int | None, Query(ge=1, le=10, description="Most lines of a cue.")] = None,
    max_seconds: Annotated[
        float | None, Query(ge=0.5, le=60, description="Most seconds of a cue.", allow_inf_nan=False)
    ] = None,
    word_highlights: Annotated[
        bool,
        Query(
            description="Of WebVTT: each word begins with its time, so that a player can mark what is said "
            "(`::cue(:past)`). Without effect for a job without `word_timestamps`."
        ),
    ] = False,
) -> Response:
    """A completed transcription as JSON, plain text, SubRip or WebVTT.

    In SubRip and WebVTT each segment is a cue. If a segment lasts more than seven seconds, all cues have at most two
    lines of 42 columns and seven seconds. If you ask for a shape (`max_chars`, `max_lines`, `max_seconds`; what you
    leave out is 42, 2 or 7), all cues have that. A longer segment is divided between its words: with `word_timestamps`
    at their times, else in proportion to the letters. A word that is longer than a line is not divided. With
    `channels=split` each cue names its speaker.
    """
    job = await services.jobs.find(caller, job_id)
    if job.kind != "transcribe":
        raise not_found()
    if extension not in formats.FORMATS:
        raise Refused("not_found", f"A transcript is there as {', '.join(formats.FORMATS)}, and as nothing else.")
    if job.status != "completed" or job.result is None:
        raise Refused("not_completed", f"This job is {job.status}; it has no transcript.", job_status=job.status)
    media_type, render = formats.FORMATS[extension]
    asked_for: dict[str, Any] = {"columns": max_chars, "lines": max_lines, "seconds": max_seconds}
    given = {name: most for name, most in asked_for.items() if most is not None}
    cues: dict[str, Any] = {"shape": replace(BROADCAST, **given) if given else None}
    options = {"srt": cues, "vtt": {**cues, "highlights": word_highlights}}.get(extension, {})
    text = await asyncio.to_thread(render, job.result, **options)
    headers = {
        "Content-Type": media_type,
        "Content-Disposition": downloads.content_disposition(f"{job_id}.{extension}", inline=True),
        **downloads.SAFETY_HEADERS,
    }
    return Response(text.encode(), headers=headers)


@router.get(
    "/v1/jobs/{job_id}/events",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Server-sent events: `progress` with the job, `segment` as they are heard (their number is "
            "the event's id). The stream ends with the job.",
            "content": EVENT_STREAM_CONTENT,
        },
        **problems.described("not_found", "invalid_request"),
    },
)
async def watch_job(
    caller: JobOwner,
    services: Wired,
    _known: KnownOnly,
    job_id: JobId,
    last_event_id: Annotated[str | None, Header(description="Go on after this segment.")] = None,
    last_event_id_in_query: LastEventIdInQuery = None,
) -> StreamingResponse:
    """Watch a job. May end early when the service restarts or the token expires; connect again with `Last-Event-ID`."""
    job = await services.jobs.find(caller, job_id)
    known = last_event_id or last_event_id_in_query or ""
    after = int(known) if known.isdecimal() and len(known) < 10 else -1
    return event_stream(_events(services, caller, job, after))


async def _events(services: Services, caller: Claims, job: CoreJob, after: int) -> AsyncIterator[bytes]:
    """Not FastAPI's `EventSourceResponse`: with it a watcher takes four tasks and 40 KiB, here two and 17."""
    told: CoreJob | None = None
    # Once the stream has begun no problem can be sent: if the job is deleted or the database is away the stream ends,
    # and the client connects again.
    with contextlib.suppress(Refused, Unavailable):
        async with aclosing(services.watch.follow(caller, job, idle_seconds=KEEP_ALIVE_SECONDS)) as states:
            async for state in states:
                if told is not None and time.time() >= caller.expires.timestamp():
                    return
                if state is told:
                    yield format_sse_event(comment="still here")
                    continue
                if (await services.policy.current()).suspended:
                    return
                told = state
                for stored in await services.jobs.segments(job.job_id, after):
                    after = stored["number"]
                    yield _event("segment", _segment(stored), after)
                yield _event("progress", _progress(state))


def _progress(job: CoreJob) -> dict[str, Any]:
    return Job.of(replace(job, result=None)).model_dump(mode="json", include=_PROGRESS)


_PROGRESS: Final = {
    *("job_id", "kind", "status", "progress", "queue_position", "error", "waits_for", "started_at", "finished_at"),
}


def _segment(stored: dict[str, Any]) -> dict[str, Any]:
    return Segment(**published(stored)).model_dump(mode="json", exclude_unset=True)


def _event(name: str, data: dict[str, Any], number: int | None = None) -> bytes:
    identifier = str(number) if number is not None else None
    return format_sse_event(event=name, id=identifier, data_str=json.dumps(data, ensure_ascii=False))
