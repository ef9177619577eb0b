"""The JSON of requests and answers, as pydantic models. OpenAPI and generated clients are made from them."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field

from media_api.requests.identifiers import LABEL_KEY, MAX_LABELS, checked_labels
from media_core import ids
from media_core.auth.tokens import Claims
from media_core.events import feed
from media_core.examination.thumbnails import ThumbnailSize
from media_core.items import library
from media_core.items.access import Item, rooms_for
from media_core.items.item import MOST_ROOMS
from media_core.jobs.kinds import JOB_KINDS, KINDS
from media_core.transcripts.requests import Job as CoreJob
from media_core.transcripts.search import Hit

T = TypeVar("T")

Instant = Annotated[datetime, AfterValidator(lambda moment: moment.astimezone(UTC))]
ScanStatus = Literal["pending", "clean", "infected", "unscannable", "error"]
JobStatus = Literal["queued", "running", "completed", "failed", "cancelled"]

_SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_MEDIA_ID = "med-01JD0Z3V5QH7W8K2M4N6P8R0T2"
_JOB_ID = "job-01JD0Z3V5QH7W8K2M4N6P8R0T3"

_MORE_ROOMS: Any = Field(
    False,
    description=f"`rooms` has the first {MOST_ROOMS} only, as in lists of your files and of hits; "
    "absent where it has all, as in `info`.",
)


class Data(BaseModel, Generic[T]):
    """Every success: what was asked for, under `data`."""

    data: T


class Page(BaseModel, Generic[T]):
    """A page of a list. `next_cursor` asks for the next one; null on the last."""

    data: list[T]
    next_cursor: str | None


class Problem(BaseModel):
    """RFC 9457. More members, by code: `limit`, `used`, `reserved`, `max_storage_mb`, `retry_after` … `errors` lists
    the parameters and fields that are wrong: `where` is the name, `what` a sentence.
    """

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:media-platform:problem:quota_exceeded"])
    title: str = Field(examples=["Storage quota exceeded"])
    status: int = Field(examples=[413])
    detail: str = Field(description="A sentence for a person: what was wrong, and what to do.")
    code: str = Field(description="Stable, for programs.", examples=["quota_exceeded"])


class Media(BaseModel):
    """One uploaded file, as the upload answers it."""

    media_id: str = Field(examples=[_MEDIA_ID])
    sha256: str = Field(description="Of the content, in hex.", examples=[_SHA256])
    size: int = Field(description="Bytes.", examples=[184234])
    mime_type: str = Field(description="Found in the content, whatever the client claimed.", examples=["image/jpeg"])
    thumbnail_id: str | None = Field(
        description="Null where the type has no thumbnail.", examples=[ids.thumbnail_id(_MEDIA_ID)]
    )
    width: int | None = Field(
        description="Pixels, as shown: upright, and with square pixels. Of a PDF: points of its first page.",
        examples=[1920],
    )
    height: int | None = Field(examples=[1080])
    scan_status: ScanStatus = Field(description="The virus scan's verdict so far.", examples=["clean"])


class UploadProgress(BaseModel):
    """How far an upload in several requests is."""

    upload_id: str = Field(examples=["upl-01JD0Z3V5QH7W8K2M4N6P8R0T4"])
    offset: int = Field(description="Bytes that have come: send what follows them.", examples=[5242880])
    length: int | None = Field(description="Bytes of the whole file; null until it is told.", examples=[184234000])
    expires_at: Instant = Field(description="Until when it can go on.")
    media: Media | None = Field(description="The file, once it is stored.")


class MediaInfo(Media):
    """All metadata of one file. `thumbhash`, `labels` and `more_rooms` are there only where the file has them."""

    # Any other file is answered with the published fields alone (`response_model_exclude_unset`).
    filename: str = Field(examples=["photo.jpg"])
    created_at: Instant = Field(examples=["2026-05-17T14:00:00Z"])
    uploaded_by: str = Field(description="The uploader's `sub`.", examples=["ann"])
    tenant_scope: bool = Field(description="Whether everybody of the tenant may see it.")
    duration: float | None = Field(description="Seconds; null for what does not play.", examples=[None])
    rooms: list[str] = Field(description="The rooms it is attached to, as far as you may see them.")
    thumbhash: str = Field(
        "",
        description="ThumbHash in base64, a blurred picture to show until the thumbnail has come; "
        "absent where there is none.",
        examples=["1QcSHQRnh493V4dIh4eXh1h4kJUI"],
    )
    labels: dict[str, str] = Field(
        {},
        description="What its uploader noted of it; absent where there is nothing.",
        examples=[{"project": "atlas"}],
    )
    more_rooms: bool = _MORE_ROOMS

    @classmethod
    def fields_of(cls, item: Item, caller: Claims) -> dict[str, Any]:
        return {
            "media_id": item.media_id,
            "sha256": item.sha256,
            "size": item.size,
            "mime_type": item.mime_type,
            "thumbnail_id": ids.thumbnail_id_if(item.thumbnail_status, item.media_id),
            "width": item.width,
            "height": item.height,
            "scan_status": item.scan_status,
            "filename": item.filename,
            "created_at": item.created_at,
            "uploaded_by": item.uploaded_by,
            "tenant_scope": item.tenant_scope,
            "duration": item.duration,
            "rooms": rooms_for(caller, item.rooms),
            **({"thumbhash": item.details["thumbhash"]} if item.details.get("thumbhash") else {}),
            **({"labels": dict(item.labels)} if item.labels else {}),
            **({"more_rooms": True} if item.more_rooms else {}),
        }

    @classmethod
    def of(cls, item: Item, caller: Claims) -> "MediaInfo":
        return cls(**cls.fields_of(item, caller))


class RoomFile(MediaInfo):
    """One file of a room's index."""

    added_by: str = Field(examples=["ann"])
    added_at: Instant

    @classmethod
    def of_entry(cls, entry: library.RoomEntry, caller: Claims) -> "RoomFile":
        return cls(**cls.fields_of(entry.item, caller), added_by=entry.added_by, added_at=entry.added_at)


class Attachment(BaseModel):
    """What to attach to a room."""

    model_config = ConfigDict(extra="forbid")

    media_id: str = Field(max_length=64, examples=[_MEDIA_ID])


MOST_SIGNED_SECONDS = 604_800
"""What any tenant can allow."""


LabelValue = Annotated[str, Field(json_schema_extra={"format": "label-value"})]


class Change(BaseModel):
    """What to change of a file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    filename: str | None = Field(
        None,
        min_length=1,
        max_length=1024,
        validation_alias=AliasChoices("filename", "name"),
        description="As with an upload. `name` is taken, too.",
    )
    tenant_scope: bool | None = Field(None, description="Everybody of the tenant may see it.")
    labels: Annotated[dict[str, LabelValue], AfterValidator(checked_labels)] | None = Field(
        None,
        description=f"All its labels: they take the place of those that it has. At most {MAX_LABELS}; a key has 1 to "
        "63 characters of `a-z0-9._-`, a value up to 255 printable ones.",
        json_schema_extra={"maxProperties": MAX_LABELS, "propertyNames": {"pattern": f"^{LABEL_KEY}$"}},
        examples=[{"project": "atlas"}],
    )


SIGNED_SIZE = (
    "Sign the thumbnail in this size instead: its longest side in pixels. For any but "
    f"{ThumbnailSize.LARGEST} it is a URL of this api, as with `via=api`. In such a URL you may write another size, so "
    "one URL fills a `srcset`."
)


class Signed(BaseModel):
    """A URL that needs no header, for image tags and embedded players."""

    url: str
    expires_at: Instant = Field(examples=["2026-05-17T14:05:00Z"])


def _whole(number: Any) -> Any:
    """JSON has one kind of number: 60.0 is the integer 60."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


class SignRequest(BaseModel):
    """Which files to sign."""

    model_config = ConfigDict(extra="forbid", strict=True)

    media_ids: list[Annotated[str, Field(max_length=64)]] = Field(min_length=1, max_length=200, examples=[[_MEDIA_ID]])
    thumbnail: bool = Field(False, description="Sign the thumbnails instead.")
    size: Annotated[ThumbnailSize | None, BeforeValidator(_whole)] = Field(None, description=SIGNED_SIZE)
    expires_in: Annotated[int | None, BeforeValidator(_whole)] = Field(
        None,
        ge=1,
        description="Seconds that the URLs are valid, up to what this tenant allows. Default: 300.",
        json_schema_extra={"maximum": MOST_SIGNED_SECONDS},
    )
    via: Literal["store", "api"] = Field(
        "store",
        description="`store`: URLs of the object store, which nobody can take back. `api`: URLs of this api, which end "
        "early with the file or a verdict against it. Both outlive the caller's own right to see it.",
    )


class SignError(BaseModel):
    """Why a file has no URL."""

    code: str = Field(description="As of a problem.", examples=["not_found"])
    detail: str


class SignedOne(BaseModel):
    """One file's URL, or its error."""

    media_id: str = Field(description="As it was asked for.", examples=[_MEDIA_ID])
    url: str | None
    expires_at: Instant | None = Field(examples=["2026-05-17T14:05:00Z"])
    error: SignError | None


class Event(BaseModel):
    """Something that happened to a file."""

    event_id: str = Field(description="The same whenever the event is told.", examples=["evt-17-64ac2b1f03e80"])
    type: str = Field(json_schema_extra={"enum": [*feed.TYPES]}, examples=["scanned"])
    media_id: str = Field(examples=[_MEDIA_ID])
    created_at: Instant = Field(examples=["2026-05-17T14:00:00Z"])
    data: dict[str, Any] = Field(
        description="By type. `stored`: `filename` (as the file is called now), `mime_type`, `size`, `sha256`. "
        "`scanned`: `scan_status`. `thumbnail`: `thumbnail_status` (`ready` or `failed`), `thumbnail_id`. "
        "`transcript`: `job_id`, `status` (`completed` or `failed`). "
        "`changed`: nothing, ask for the file. `attached`: `room_id`, `added_by`. "
        "`removed`: `room_id`. `deleted`: nothing.",
        examples=[{"scan_status": "clean"}],
    )

    @classmethod
    def of(cls, event: feed.Event) -> "Event":
        return cls(
            event_id=event.event_id,
            type=event.type,
            media_id=event.media_id,
            created_at=event.created_at,
            data=event.facts,
        )


class EventPage(BaseModel):
    """A page of events."""

    data: list[Event]
    next_cursor: str = Field(description="Asks for later events. Never null: keep it, and ask again.")
    more: bool = Field(description="There are further events already. A page can be empty and this be true.")


class Limits(BaseModel):
    """What the tenant's operator allows."""

    max_storage_mb: int
    max_files: int | None = Field(description="Null: as many as there is room for.")
    max_upload_mb: float
    max_transcription_minutes_per_day: int


class Usage(BaseModel):
    """What the tenant uses."""

    limits: Limits
    stored_bytes: int = Field(description="Each distinct content and its thumbnail, counted once.")
    reserved_bytes: int = Field(description="Held by uploads under way.")
    objects: int = Field(description="Distinct contents.")
    files: int = Field(description="Uploads that refer to them.")
    dedupe_saved_bytes: int = Field(description="Bytes that were sent and did not have to be stored again.")
    transcribed_seconds_today: int = Field(
        description="Audio that counts towards today's `max_transcription_minutes_per_day`; from 0 again at 00:00 UTC."
    )


class JobError(BaseModel):
    """Why a job failed, or why its last attempt did."""

    code: str = Field(examples=["duration_exceeds_limit"])
    detail: str


class Word(BaseModel):
    word: str
    start: float
    end: float
    probability: float


class Segment(BaseModel):
    """What was said between `start` and `end`, in seconds."""

    model_config = ConfigDict(extra="allow")

    id: int = Field(examples=[0])
    start: float = Field(examples=[0.0])
    end: float = Field(examples=[3.2])
    text: str = Field(examples=["Hello"])
    words: list[Word] | None = Field(None, description="With `word_timestamps` only.")
    channel: int | None = Field(None, description="With `channels=split` only: which one, from 1.")
    speaker: str | None = Field(None, description="With `channels=split` only: `channel 1` and so on.")
    language: str | None = Field(
        None,
        description="With `multilingual`, and with `channels=split` if no language was asked for.",
        examples=["en"],
    )


class Transcript(BaseModel):
    """A completed transcription's result."""

    model_config = ConfigDict(extra="allow")

    transcript: str = Field(description="The whole text.")
    segments: list[Segment]
    language: str | None = Field(description="ISO 639. Null if nobody speaks and the request names no language.")
    duration: float = Field(description="Seconds.")


class SoundTrack(BaseModel):
    """One of a recording's sound tracks, as the file describes it."""

    number: int = Field(examples=[1])
    codec: str | None = Field(examples=["aac"])
    channels: int | None = Field(examples=[2])
    language: str | None = Field(description="As the file names it.", examples=["eng"])
    title: str | None = Field(examples=["Microphone"])
    decodes: bool = Field(description="False: it can't be heard here.")


class JobAccepted(BaseModel):
    """A job that was just queued."""

    job_id: str = Field(examples=[_JOB_ID])
    status: JobStatus = Field(examples=["queued"])


class Job(BaseModel):
    """A job. Once completed, its result's fields stand beside the others: for a transcription `transcript` and those
    after it, for a rescan `scan_status`, `scan_detail` and `scan_engine`."""

    model_config = ConfigDict(extra="allow")

    job_id: str = Field(examples=[_JOB_ID])
    kind: str = Field(json_schema_extra={"enum": [*KINDS]})
    status: JobStatus
    progress: float = Field(ge=0, le=1, description="0 to 1.", examples=[0.42])
    queue_position: int | None = Field(description="1: next. Null unless queued, and in lists.")
    media_id: str | None = Field(examples=[_MEDIA_ID])
    created_at: Instant
    started_at: Instant | None
    finished_at: Instant | None
    error: JobError | None
    waits_for: str | None = Field(
        description="What a queued job waits for; it goes on by itself. Null if it waits for nothing.",
        examples=[None],
    )
    transcript: str = Field("", description="The whole text.")
    segments: list[Segment] = Field([])
    language: str | None = Field(None, description="ISO 639. Null if nobody speaks and the request names no language.")
    duration: float = Field(0, description="Seconds.")
    tracks: list[SoundTrack] = Field([], description="The recording's sound tracks.")
    track: int | None = Field(None, description="The number of the one that was heard.")
    channel: int | None = Field(None, description="The channel of it that was heard; null: all of them.")
    channels: int | None = Field(
        None,
        description="With `channels=split` only: how many there are; a mono file has one. Segments are in the order "
        "of their times.",
    )
    scan_status: ScanStatus = Field("pending", description="A rescan's verdict.")
    scan_detail: str | None = Field(None, description="What was found, or why it could not be scanned.")
    scan_engine: str | None = Field(None, description="The scanner, and its signatures.")

    @classmethod
    def of(cls, job: CoreJob) -> "Job":
        """Only the fields that were set are sent (`response_model_exclude_unset`)."""
        return cls(
            job_id=job.job_id,
            kind=job.kind,
            status=job.status,
            progress=job.progress,
            queue_position=job.queue_position,
            media_id=job.media_id,
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
            error=JobError(code=job.error_code, detail=job.error_detail or "") if job.has_failed else None,
            waits_for=job.waits_for,
            **(job.result or {} if job.status == "completed" and JOB_KINDS[job.kind].publishes_result else {}),
        )


class SnippetPart(BaseModel):
    """A piece of a snippet. It is plain text, never markup."""

    text: str = Field(examples=["budget"])
    marked: bool = Field(description="It is what was searched for.")


class SearchHit(BaseModel):
    """A place in a recording where something was said."""

    media_id: str = Field(examples=[_MEDIA_ID])
    filename: str = Field(examples=["meeting.m4a"])
    mime_type: str = Field(examples=["audio/mp4"])
    uploaded_by: str = Field(examples=["ann"])
    rooms: list[str] = Field(description="The rooms it is attached to, as far as you may see them.")
    job_id: str | None = Field(description="The transcription, if it is yours and still there.", examples=[_JOB_ID])
    task: Literal["transcribe", "translate"]
    language: str | None = Field(description="Of the text.", examples=["en"])
    segment: int = Field(description="The segment's `id`; of several, the first one's.", examples=[12])
    start: float = Field(description="Seconds.", examples=[73.5])
    end: float = Field(description="Seconds.", examples=[79.0])
    speaker: str | None = Field(description="With `channels=split` only.", examples=[None])
    rank: float = Field(description="Higher is better, within a part of the list.", examples=[0.1])
    snippet: list[SnippetPart] = Field(description="The text around the first mark; joined, the parts are the text.")
    more_rooms: bool = _MORE_ROOMS

    @classmethod
    def of(cls, hit: Hit, caller: Claims) -> "SearchHit":
        return cls(
            media_id=hit.item.media_id,
            filename=hit.item.filename,
            mime_type=hit.item.mime_type,
            uploaded_by=hit.item.uploaded_by,
            rooms=rooms_for(caller, hit.item.rooms),
            job_id=hit.job_id,
            task="translate" if hit.task == "translate" else "transcribe",
            language=hit.language,
            segment=hit.spot.segment,
            start=hit.spot.start,
            end=hit.spot.end,
            speaker=hit.spot.speaker,
            rank=hit.rank,
            snippet=[SnippetPart(text=part.text, marked=part.marked) for part in hit.spot.snippet],
            **({"more_rooms": True} if hit.item.more_rooms else {}),
        )


class Health(BaseModel):
    """The answer of a process that is well. One that is not answers with a problem."""

    status: Literal["ok"] = "ok"
    detail: None = None


class SpeechModel(BaseModel):
    """The speech model, in the shape of OpenAI's API."""

    id: str
    object: Literal["model"]
    created: int = Field(description="Seconds since 1970.")
    owned_by: str


WHISPER: Final = SpeechModel(id="whisper-1", object="model", created=1663718400, owned_by="media-platform")
"""The tenant's one model, by the name that OpenAI's clients know; it answers to every other as well."""


class SpeechModels(BaseModel):
    """The tenant's speech models, in the shape of OpenAI's API."""

    object: Literal["list"]
    data: list[SpeechModel]
