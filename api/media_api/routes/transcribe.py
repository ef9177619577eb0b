"""`POST /v1/transcribe`: queues a job for a recording that is sent along or was uploaded before."""

import contextlib
from typing import Any, Final, Literal

from fastapi import APIRouter, Request, Response

from media_api.answers import openapi, problems
from media_api.auth import Transcriber
from media_api.models import Data, JobAccepted
from media_api.requests.identifiers import known_id
from media_api.requests.multipart import Form, wrong_field
from media_api.requests.receiving import (
    FILE_FIELDS,
    HEADERS,
    REFUSALS,
    announced_digests,
    begin_upload,
    declared_of,
    form_request,
    idempotency_key,
    read_form,
    text_field,
)
from media_api.services import Services, Wired
from media_core.auth.tokens import Claims
from media_core.errors import Refused, Unavailable
from media_core.transcripts.formats import LANGUAGES
from media_core.transcripts.requests import MOST_CHANNELS, MOST_SPLIT, MOST_TRACKS, Job, TranscriptionRequest
from media_core.uploads.upload import Upload, Uploaded

router = APIRouter(tags=["Jobs"])

LANGUAGE: Final = {**text_field("ISO 639-1, such as `en`; detected if left out."), "format": "language"}
TRANSCRIPTION_REFUSALS: Final = (
    *REFUSALS,
    "transcription_disabled",
    "not_audio_or_video",
    "translation_unavailable",
    "duration_exceeds_limit",
    "transcription_limit_exceeded",
    "too_many_jobs",
)
"""Codes of the errors that a recording to be transcribed may be answered with."""
RECORDING: Final = {"file": {"contentType": "audio/*, video/*"}}
"""OpenAPI's encoding of a form whose file is a recording."""
_FIELDS: Final[dict[str, Any]] = {
    **FILE_FIELDS,
    "media_id": {**text_field("A file that was uploaded before."), "format": "med-id"},
    "language": LANGUAGE,
    "task": {
        "type": "string",
        "enum": ["transcribe", "translate"],
        "default": "transcribe",
        "description": "`translate`: into English.",
    },
    "word_timestamps": {"type": "boolean", "default": False, "description": "Each word has its time, too."},
    "prompt": text_field("What the recording is about; helps with names."),
    "hotwords": text_field("Words to expect."),
    "vad": {"type": "boolean", "default": True, "description": "Skip where nobody speaks."},
    "multilingual": {
        "type": "boolean",
        "default": False,
        "description": "The language changes within the recording. It is found for every few sentences, and each "
        "segment has its `language`; where it is unclear it stays the same. Takes up to three times as long.",
    },
    "track": {
        "type": "integer",
        "minimum": 1,
        "maximum": MOST_TRACKS,
        "description": "Which of several sound tracks is heard, from 1; the first that speaks if left out.",
    },
    "channel": {
        "type": "integer",
        "minimum": 1,
        "maximum": MOST_CHANNELS,
        "description": "Which channel of it is heard, from 1; all of them, mixed, if left out.",
    },
    "channels": {
        "type": "string",
        "enum": ["mix", "split"],
        "default": "mix",
        "description": "`split`: each channel is heard by itself, as one speaker, and counts as so much audio; "
        f"at most {MOST_SPLIT}. A mono file has one.",
    },
}
_FORM: Final = {
    **form_request("TranscriptionForm", _FIELDS, encoding=RECORDING, description="Either `file` or `media_id`."),
    **HEADERS,
}


@router.post(
    "/v1/transcribe",
    status_code=202,
    openapi_extra=_FORM,
    responses={
        202: {"headers": {"Location": openapi.header("The job.")}},
        **problems.described(*TRANSCRIPTION_REFUSALS),
    },
)
async def transcribe(caller: Transcriber, services: Wired, request: Request, response: Response) -> Data[JobAccepted]:
    """Submit a recording for transcription. Answers at once; the job waits for the file's clean verdict, then runs.

    With `media_id` the form may also be urlencoded. What it says of a file then (`room_id`, `tenant_scope`, `labels`)
    changes nothing: the file is as it was uploaded.
    """
    key = idempotency_key(request)
    await services.jobs.require_enabled()
    of_content, of_file = announced_digests(request)
    async with await begin_upload(services, request, of_file) as upload:
        form = await read_form(services, request, upload, _FIELDS, content_digest=of_content)
        wanted, media_id = _wanted(form), form.text("media_id")
        if form.filename is not None and media_id is not None:
            raise Refused("invalid_request", "Send `file` or `media_id`, not both.")
        if form.filename is None and media_id is None:
            raise Refused("missing_file", "Send either a `file` or the `media_id` of one that was uploaded before.")
        if wanted.task == "translate":
            services.jobs.require_translation()
        if media_id is None:
            uploaded = await upload.commit(caller, declared_of(form), idempotency_key=key, operation="transcribe")
    if media_id is None:
        job = await transcribe_uploaded(services, caller, upload, uploaded, wanted, key)
    else:
        job = await services.jobs.transcribe(caller, known_id(media_id), wanted, once=key is not None)
    response.headers["Location"] = f"/v1/jobs/{job.job_id}"
    # A repeated request has the answer of the first, however far its job is; `Location` has the present state.
    return Data(data=JobAccepted(job_id=job.job_id, status="queued"))


async def transcribe_uploaded(
    services: Services,
    caller: Claims,
    upload: Upload,
    uploaded: Uploaded,
    wanted: TranscriptionRequest,
    key: str | None,
) -> Job:
    """Queues the transcription of a file that this request has sent. Raises as `Jobs.transcribe`.

    A file that was sent to be transcribed is deleted if it cannot be; its key may be used again. After an outage it is
    kept if the request has a key: another request with that key may have got this file in its answer.
    """
    once = key is not None
    try:
        return await services.jobs.transcribe(caller, uploaded.media_id, wanted, once=once)
    except (Refused, Unavailable) as error:
        is_awaited = isinstance(error, Unavailable) and once
        if not upload.replayed and not is_awaited:
            with contextlib.suppress(Unavailable):
                await services.library.delete(caller, uploaded.media_id, forget_key=key)
        raise


def language_of(form: Form, *, by_name: bool = False) -> str | None:
    """The field `language` as an ISO 639-1 code; None: it is to be detected. `by_name`: it may be an English name.

    Raises Refused `invalid_request`.
    """
    text = form.text("language")
    if text is None:
        return None
    for code, name in LANGUAGES.items():
        if text.lower() == code or (by_name and text.lower() == name):
            return code
    raise wrong_field("language", "must be an ISO 639-1 code such as en; leave it out to detect it")


def _wanted(form: Form) -> TranscriptionRequest:
    language = language_of(form)
    channel = form.number("channel", MOST_CHANNELS)
    channels: Literal["mix", "split"] = form.choice("channels", ("mix", "split"))
    if channel is not None and channels == "split":
        raise Refused("invalid_request", "Send either `channel`, for one channel, or `channels=split`, for each.")
    return TranscriptionRequest(
        language=language,
        task=form.choice("task", ("transcribe", "translate")),
        word_timestamps=form.flag("word_timestamps"),
        prompt=form.text("prompt"),
        hotwords=form.text("hotwords"),
        vad=form.flag("vad", default=True),
        multilingual=form.flag("multilingual"),
        track=form.number("track", MOST_TRACKS),
        channel=channel,
        channels=channels,
    )
