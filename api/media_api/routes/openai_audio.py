"""`/v1/audio/transcriptions`, `/v1/audio/translations` and `/v1/models`: the shapes of OpenAI's API, for clients that
speak it.

A request is the same as `POST /v1/transcribe`, with another form and another answer: the file is uploaded, counted,
scanned and kept like any other, and a job of the queue transcribes it. The answer waits for the job. A recording that
takes longer than `transcription.sync_seconds` is answered 202 with the job, which is beyond OpenAI's shape. The wait
ends where the client goes away; the job goes on.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from typing import Annotated, Any, Final, Literal, cast

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from fastapi.sse import format_sse_event

from media_api.answers import openapi, problems
from media_api.answers.event_stream import EVENT_STREAM_CONTENT, KEEP_ALIVE_SECONDS, event_stream
from media_api.auth import Transcriber
from media_api.models import WHISPER, Data, JobAccepted, SpeechModel, SpeechModels
from media_api.requests.body import ClientGone, disconnection
from media_api.requests.multipart import Form, wrong_field
from media_api.requests.receiving import FILE_FIELDS, begin_upload, declared_of, form_request, read_form, text_field
from media_api.routes.transcribe import LANGUAGE, RECORDING, TRANSCRIPTION_REFUSALS, language_of, transcribe_uploaded
from media_api.services import Services, Wired
from media_core.auth.tokens import Claims
from media_core.contents import quota
from media_core.errors import Refused, Unavailable
from media_core.transcripts import formats
from media_core.transcripts.requests import Job, TranscriptionRequest


class _OpenAiRoute(APIRoute):
    """Its problems have OpenAI's `error` beside their own members: OpenAI's clients show what that says."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answered = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await answered(request)
            except Exception as error:
                return _in_their_shape(await problems.of_error(request, error))

        return handler


async def of_routing(request: Request, error: Exception) -> Response:
    """What the app answers for an HTTPException: here too it has their shape, where the router has no route."""
    refused = await problems.of_error(request, error)
    return _in_their_shape(refused) if request.url.path.startswith(("/v1/audio", "/v1/models")) else refused


def _in_their_shape(refused: Response) -> Response:
    body = json.loads(bytes(refused.body))
    kind = "server_error" if refused.status_code >= 500 else "invalid_request_error"
    about = "file" if body["code"] in _OF_THE_FILE else None
    param = next((each["where"] for each in body.get("errors", ())), about)
    told = {"message": body["detail"], "type": kind, "param": param, "code": body["code"]}
    kept = {name: value for name, value in refused.headers.items() if name not in _OF_THE_BODY}
    if body.get("retry_after", 0) > _MOST_SECONDS_THEY_WAIT:
        kept["x-should-retry"] = "false"
    return problems.written(body | {"error": told}, kept)


_OF_THE_FILE: Final = {"missing_file", "empty_file", "file_too_large"}
_OF_THE_BODY: Final = ("content-length", "content-type")
_MOST_SECONDS_THEY_WAIT: Final = 60
"""A longer Retry-After is ignored by OpenAI's clients: they would send the file twice more within seconds."""

router = APIRouter(tags=["Jobs"], route_class=_OpenAiRoute)

Task = Literal["transcribe", "translate"]

FORMATS: Final = ("json", "text", "srt", "verbose_json", "vtt")
_GRANULARITIES: Final = "timestamp_granularities[]"
_KEYWORDS: Final = "keywords[]"
_UNREAD_LISTS: Final = ("include[]", "known_speaker_names[]", "known_speaker_references[]", "languages[]")
_REPEATABLE: Final = (_GRANULARITIES, _KEYWORDS, *_UNREAD_LISTS)
_CHUNKING: Final = ("type", "threshold", "prefix_padding_ms", "silence_duration_ms")
"""The members of OpenAI's `server_vad`. Its clients send each as a field."""
_FIELDS: Final[dict[str, Any]] = {
    "file": FILE_FIELDS["file"],
    "model": text_field("Not looked at: the tenant has one model."),
    "language": LANGUAGE,
    "prompt": text_field("What the recording is about; helps with names."),
    "response_format": {
        "type": "string",
        "enum": [*FORMATS],
        "default": "json",
        "description": "The answer's format; `json` if left out. `verbose_json` has the segments and their times.",
    },
    "temperature": text_field("Not looked at: the model's own fallback decides."),
    _GRANULARITIES: {
        "type": "array",
        "items": {"type": "string", "enum": ["segment", "word"]},
        "description": "`word`: words with their times, in `verbose_json`.",
    },
    "stream": {"type": "boolean", "default": False, "description": "Segments as events, as they are heard."},
    _KEYWORDS: {"type": "array", "items": {"type": "string"}, "description": "Words to expect."},
    **{name: {"type": "array", "items": {"type": "string"}, "description": "Not looked at."} for name in _UNREAD_LISTS},
    "chunking_strategy": text_field("Not looked at."),
    **{f"chunking_strategy[{name}]": text_field("Not looked at.") for name in _CHUNKING},
}
_OF_HEADERS_NOT_READ: Final = {"digest_mismatch", "idempotency_key_reused"}
_FORM: Final = form_request(
    "AudioForm", _FIELDS, encoding=RECORDING, required=["file"], description="As OpenAI's API has it."
)
_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The transcript, in the format asked for.",
        "content": {
            "application/json": {"schema": {"type": "object", "properties": {"text": {"type": "string"}}}},
            "text/plain": {"schema": {"type": "string"}},
            "application/x-subrip": {"schema": {"type": "string"}},
            "text/vtt": {"schema": {"type": "string"}},
            **EVENT_STREAM_CONTENT,
        },
    },
    202: {
        "description": "It takes longer. The job goes on; its transcript is at `/v1/jobs/{job_id}`.",
        "model": Data[JobAccepted],
        "headers": {"Location": openapi.header("The job.")},
    },
    **problems.described(
        *(code for code in TRANSCRIPTION_REFUSALS if code not in _OF_HEADERS_NOT_READ), "transcription_failed"
    ),
}


@router.post(
    "/v1/audio/transcriptions",
    name="create_transcription",
    openapi_extra=_FORM,
    responses=_RESPONSES,
    response_class=Response,
)
async def create_transcription(caller: Transcriber, services: Wired, request: Request) -> Response:
    """Transcribe a recording, in the shapes of OpenAI's API. Its official clients take this API's `/v1` as base.

    The file is stored, and the job goes on, also if you close the connection; `/v1/jobs` lists it, `DELETE
    /v1/jobs/{job_id}` ends it. An error has OpenAI's `error` beside the members of a problem.
    """
    return await _answer(services, request, caller, "transcribe")


@router.post(
    "/v1/audio/translations",
    name="create_translation",
    openapi_extra=_FORM,
    responses=_RESPONSES,
    response_class=Response,
)
async def create_translation(caller: Transcriber, services: Wired, request: Request) -> Response:
    """Transcribe a recording into English, in the shapes of OpenAI's API."""
    return await _answer(services, request, caller, "translate")


@router.get("/v1/models", responses=problems.described())
async def list_models(_caller: Transcriber, services: Wired) -> SpeechModels:
    """The speech model, in the shape of OpenAI's API. None where the tenant has no transcription."""
    offered = (await services.policy.current()).transcription_enabled
    return SpeechModels(object="list", data=[WHISPER] if offered else [])


@router.get("/v1/models/{model:path}", responses=problems.described("not_found"))
async def get_model(
    caller: Transcriber,
    services: Wired,
    model: Annotated[str, Path(description=f"`{WHISPER.id}`", examples=[WHISPER.id])],
) -> SpeechModel:
    """One model, in the shape of OpenAI's API."""
    for offered in (await list_models(caller, services)).data:
        if offered.id == model:
            return offered
    raise Refused("not_found", "There is no such model here; /v1/models lists those that there are.")


async def _answer(services: Services, request: Request, caller: Claims, task: Task) -> Response:
    await services.jobs.require_enabled()
    if task == "translate":
        services.jobs.require_translation()
    async with await begin_upload(services, request, None) as upload:
        form = await read_form(services, request, upload, _FIELDS, _REPEATABLE)
        wanted, as_stream = _wanted(form, task), form.flag("stream")
        answer_format = form.choice("response_format", FORMATS)
        uploaded = await upload.commit(caller, declared_of(form), operation="transcribe")
    job = await transcribe_uploaded(services, caller, upload, uploaded, wanted, None)
    if as_stream:
        return event_stream(_events(services, caller, job))
    job = await _ended(services, request, caller, job)
    if not job.ended:
        accepted = Data(data=JobAccepted(job_id=job.job_id, status=job.status)).model_dump(mode="json")
        return JSONResponse(accepted, 202, {"Location": f"/v1/jobs/{job.job_id}"})
    return await asyncio.to_thread(_rendered, _result(job), answer_format, task)


def _wanted(form: Form, task: Task) -> TranscriptionRequest:
    language = language_of(form, by_name=True)
    granularities = form.texts(_GRANULARITIES)
    if unknown := set(granularities) - {"segment", "word"}:
        raise wrong_field(_GRANULARITIES, f"knows segment and word, not {min(unknown)[:40]!r}")
    return TranscriptionRequest(
        language=language,
        task=task,
        word_timestamps="word" in granularities,
        prompt=form.text("prompt"),
        hotwords=", ".join(form.texts(_KEYWORDS)) or None,
    )


async def _ended(services: Services, request: Request, caller: Claims, job: Job) -> Job:
    """The job once it has ended; as it is, where it takes longer than a request may wait. Raises ClientGone."""

    async def follow() -> None:
        nonlocal job
        async with aclosing(services.watch.follow(caller, job)) as states:
            async for state in states:
                job = state

    seconds = services.settings.transcription.sync_seconds
    with disconnection(request.receive) as gone:
        following = asyncio.ensure_future(follow())
        try:
            await asyncio.wait({gone, following}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                following.result()
            elif gone.done():
                raise ClientGone
            return job
        finally:
            following.cancel()


async def _events(services: Services, caller: Claims, job: Job) -> AsyncIterator[bytes]:
    """`transcript.text.delta` for each segment, then `transcript.text.done`; after a failure an `error`.

    The job goes on, whoever listens.
    """
    after, said = -1, False
    told: Job | None = None
    try:
        async with aclosing(services.watch.follow(caller, job, idle_seconds=KEEP_ALIVE_SECONDS)) as states:
            async for state in states:
                if state is told:
                    yield format_sse_event(comment="still here")
                    continue
                told = state
                for stored in await services.jobs.segments(job.job_id, after):
                    after = stored["number"]
                    delta = f" {stored['text']}" if said else stored["text"]
                    said = True
                    yield _event({"type": "transcript.text.delta", "delta": delta})
        if told is None or not told.ended:
            return  # the process ends
        yield _event({"type": "transcript.text.done", "text": _result(told)["transcript"]})
    except Refused as error:
        yield _event({"type": "error", "error": {"code": error.code, "message": error.detail}})
    except Unavailable as error:
        message = f"{problems.told(error)} The job goes on: /v1/jobs/{job.job_id}."
        yield _event({"type": "error", "error": {"code": "unavailable", "message": message}})


def _event(data: dict[str, Any]) -> bytes:
    return format_sse_event(event=data["type"], data_str=json.dumps(data, ensure_ascii=False))


def _result(job: Job) -> dict[str, Any]:
    """Raises Refused where the job ended without a transcript."""
    if job.status == "completed" and job.result is not None:
        return job.result
    told = job.error_detail or f"The job was {job.status}."
    if job.error_code == "transcription_limit_exceeded":  # others had used up the day when its turn came
        raise Refused("transcription_limit_exceeded", told, job_id=job.job_id, retry_after=quota.seconds_left_today())
    raise Refused("transcription_failed", told, job_id=job.job_id, job_error=job.error_code)


def _rendered(result: dict[str, Any], answer_format: str, task: Task) -> Response:
    match answer_format:
        case "text":
            return Response(result["transcript"] + "\n", media_type="text/plain; charset=utf-8")
        case "srt" | "vtt":
            media_type, render = formats.FORMATS[answer_format]
            return Response(render(result), media_type=media_type)
        case "verbose_json":
            return JSONResponse(_verbose(result, task))
        case _:
            return JSONResponse({"text": result["transcript"]})


def _verbose(result: dict[str, Any], task: Task) -> dict[str, Any]:
    """As OpenAI's `TranscriptionVerbose`. What its decoder alone could say of a segment is null here."""
    unknown = dict.fromkeys(("avg_logprob", "compression_ratio", "no_speech_prob", "temperature"))
    language = "en" if task == "translate" else result["language"]
    segments = [
        {
            **{name: segment[name] for name in ("id", "start", "end", "text")},
            "seek": round(segment["start"] * 100),
            "tokens": [],
            **unknown,
        }
        for segment in result["segments"]
    ]
    words = [
        {name: word[name] for name in ("word", "start", "end")}
        for segment in result["segments"]
        for word in cast("list[dict[str, Any]]", segment.get("words") or [])
    ]
    verbose = {
        "task": task,
        "language": formats.LANGUAGES.get(language, language) if language else None,
        "duration": result["duration"],
        "text": result["transcript"],
        "segments": segments,
    }
    return verbose | ({"words": words} if words else {})
