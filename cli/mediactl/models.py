"""What the API answers, as dicts. Generated from its OpenAPI document by `make docs`; do not edit.

Times are RFC 3339 texts. A newer API may answer with more members than are named here.
"""

from typing import Generic, Literal, NotRequired, TypedDict, TypeVar

T = TypeVar("T")


class Page(TypedDict, Generic[T]):
    """A page of a list."""

    data: list[T]
    next_cursor: str | None
    """Asks for the next one; None on the last."""


class Event(TypedDict):
    """Something that happened to a file."""

    event_id: str
    """The same whenever the event is told."""
    type: Literal["stored", "scanned", "thumbnail", "transcript", "changed", "attached", "removed", "deleted"]
    media_id: str
    created_at: str
    data: dict[str, object]
    """By type. `stored`: `filename` (as the file is called now), `mime_type`, `size`, `sha256`. `scanned`:
    `scan_status`. `thumbnail`: `thumbnail_status` (`ready` or `failed`), `thumbnail_id`. `transcript`: `job_id`,
    `status` (`completed` or `failed`). `changed`: nothing, ask for the file. `attached`: `room_id`, `added_by`.
    `removed`: `room_id`. `deleted`: nothing."""


class EventPage(TypedDict):
    """A page of events."""

    data: list["Event"]
    next_cursor: str
    """Asks for later events. Never null: keep it, and ask again."""
    more: bool
    """There are further events already. A page can be empty and this be true."""


class Job(TypedDict):
    """A job. Once completed, its result's fields stand beside the others: for a transcription `transcript` and those
    after it, for a rescan `scan_status`, `scan_detail` and `scan_engine`."""

    job_id: str
    kind: Literal["scan", "transcribe", "thumbnail"]
    status: Literal["queued", "running", "completed", "failed", "cancelled"]
    progress: float
    """0 to 1."""
    queue_position: int | None
    """1: next. Null unless queued, and in lists."""
    media_id: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    error: "JobError | None"
    waits_for: str | None
    """What a queued job waits for; it goes on by itself. Null if it waits for nothing."""
    transcript: NotRequired[str]
    """The whole text."""
    segments: NotRequired[list["Segment"]]
    language: NotRequired[str | None]
    """ISO 639. Null if nobody speaks and the request names no language."""
    duration: NotRequired[float]
    """Seconds."""
    tracks: NotRequired[list["SoundTrack"]]
    """The recording's sound tracks."""
    track: NotRequired[int | None]
    """The number of the one that was heard."""
    channel: NotRequired[int | None]
    """The channel of it that was heard; null: all of them."""
    channels: NotRequired[int | None]
    """With `channels=split` only: how many there are; a mono file has one. Segments are in the order of their times."""
    scan_status: NotRequired[Literal["pending", "clean", "infected", "unscannable", "error"]]
    """A rescan's verdict."""
    scan_detail: NotRequired[str | None]
    """What was found, or why it could not be scanned."""
    scan_engine: NotRequired[str | None]
    """The scanner, and its signatures."""


class JobAccepted(TypedDict):
    """A job that was just queued."""

    job_id: str
    status: Literal["queued", "running", "completed", "failed", "cancelled"]


class JobError(TypedDict):
    """Why a job failed, or why its last attempt did."""

    code: str
    detail: str


class Limits(TypedDict):
    """What the tenant's operator allows."""

    max_storage_mb: int
    max_files: int | None
    """Null: as many as there is room for."""
    max_upload_mb: float
    max_transcription_minutes_per_day: int


class Media(TypedDict):
    """One uploaded file, as the upload answers it."""

    media_id: str
    sha256: str
    """Of the content, in hex."""
    size: int
    """Bytes."""
    mime_type: str
    """Found in the content, whatever the client claimed."""
    thumbnail_id: str | None
    """Null where the type has no thumbnail."""
    width: int | None
    """Pixels, as shown: upright, and with square pixels. Of a PDF: points of its first page."""
    height: int | None
    scan_status: Literal["pending", "clean", "infected", "unscannable", "error"]
    """The virus scan's verdict so far."""


class MediaInfo(TypedDict):
    """All metadata of one file. `thumbhash`, `labels` and `more_rooms` are there only where the file has them."""

    media_id: str
    sha256: str
    """Of the content, in hex."""
    size: int
    """Bytes."""
    mime_type: str
    """Found in the content, whatever the client claimed."""
    thumbnail_id: str | None
    """Null where the type has no thumbnail."""
    width: int | None
    """Pixels, as shown: upright, and with square pixels. Of a PDF: points of its first page."""
    height: int | None
    scan_status: Literal["pending", "clean", "infected", "unscannable", "error"]
    """The virus scan's verdict so far."""
    filename: str
    created_at: str
    uploaded_by: str
    """The uploader's `sub`."""
    tenant_scope: bool
    """Whether everybody of the tenant may see it."""
    duration: float | None
    """Seconds; null for what does not play."""
    rooms: list[str]
    """The rooms it is attached to, as far as you may see them."""
    thumbhash: NotRequired[str]
    """ThumbHash in base64, a blurred picture to show until the thumbnail has come; absent where there is none."""
    labels: NotRequired[dict[str, str]]
    """What its uploader noted of it; absent where there is nothing."""
    more_rooms: NotRequired[bool]
    """`rooms` has the first 100 only, as in lists of your files and of hits; absent where it has all, as in `info`."""


class RoomFile(TypedDict):
    """One file of a room's index."""

    media_id: str
    sha256: str
    """Of the content, in hex."""
    size: int
    """Bytes."""
    mime_type: str
    """Found in the content, whatever the client claimed."""
    thumbnail_id: str | None
    """Null where the type has no thumbnail."""
    width: int | None
    """Pixels, as shown: upright, and with square pixels. Of a PDF: points of its first page."""
    height: int | None
    scan_status: Literal["pending", "clean", "infected", "unscannable", "error"]
    """The virus scan's verdict so far."""
    filename: str
    created_at: str
    uploaded_by: str
    """The uploader's `sub`."""
    tenant_scope: bool
    """Whether everybody of the tenant may see it."""
    duration: float | None
    """Seconds; null for what does not play."""
    rooms: list[str]
    """The rooms it is attached to, as far as you may see them."""
    thumbhash: NotRequired[str]
    """ThumbHash in base64, a blurred picture to show until the thumbnail has come; absent where there is none."""
    labels: NotRequired[dict[str, str]]
    """What its uploader noted of it; absent where there is nothing."""
    more_rooms: NotRequired[bool]
    """`rooms` has the first 100 only, as in lists of your files and of hits; absent where it has all, as in `info`."""
    added_by: str
    added_at: str


class SearchHit(TypedDict):
    """A place in a recording where something was said."""

    media_id: str
    filename: str
    mime_type: str
    uploaded_by: str
    rooms: list[str]
    """The rooms it is attached to, as far as you may see them."""
    job_id: str | None
    """The transcription, if it is yours and still there."""
    task: Literal["transcribe", "translate"]
    language: str | None
    """Of the text."""
    segment: int
    """The segment's `id`; of several, the first one's."""
    start: float
    """Seconds."""
    end: float
    """Seconds."""
    speaker: str | None
    """With `channels=split` only."""
    rank: float
    """Higher is better, within a part of the list."""
    snippet: list["SnippetPart"]
    """The text around the first mark; joined, the parts are the text."""
    more_rooms: NotRequired[bool]
    """`rooms` has the first 100 only, as in lists of your files and of hits; absent where it has all, as in `info`."""


class Segment(TypedDict):
    """What was said between `start` and `end`, in seconds."""

    id: int
    start: float
    end: float
    text: str
    words: NotRequired[list["Word"] | None]
    """With `word_timestamps` only."""
    channel: NotRequired[int | None]
    """With `channels=split` only: which one, from 1."""
    speaker: NotRequired[str | None]
    """With `channels=split` only: `channel 1` and so on."""
    language: NotRequired[str | None]
    """With `multilingual`, and with `channels=split` if no language was asked for."""


class SignError(TypedDict):
    """Why a file has no URL."""

    code: str
    """As of a problem."""
    detail: str


class Signed(TypedDict):
    """A URL that needs no header, for image tags and embedded players."""

    url: str
    expires_at: str


class SignedOne(TypedDict):
    """One file's URL, or its error."""

    media_id: str
    """As it was asked for."""
    url: str | None
    expires_at: str | None
    error: "SignError | None"


class SnippetPart(TypedDict):
    """A piece of a snippet. It is plain text, never markup."""

    text: str
    marked: bool
    """It is what was searched for."""


class SoundTrack(TypedDict):
    """One of a recording's sound tracks, as the file describes it."""

    number: int
    codec: str | None
    channels: int | None
    language: str | None
    """As the file names it."""
    title: str | None
    decodes: bool
    """False: it can't be heard here."""


class SpeechModel(TypedDict):
    """The speech model, in the shape of OpenAI's API."""

    id: str
    object: str
    created: int
    """Seconds since 1970."""
    owned_by: str


class SpeechModels(TypedDict):
    """The tenant's speech models, in the shape of OpenAI's API."""

    object: str
    data: list["SpeechModel"]


class Transcript(TypedDict):
    """A completed transcription's result."""

    transcript: str
    """The whole text."""
    segments: list["Segment"]
    language: str | None
    """ISO 639. Null if nobody speaks and the request names no language."""
    duration: float
    """Seconds."""


class UploadProgress(TypedDict):
    """How far an upload in several requests is."""

    upload_id: str
    offset: int
    """Bytes that have come: send what follows them."""
    length: int | None
    """Bytes of the whole file; null until it is told."""
    expires_at: str
    """Until when it can go on."""
    media: "Media | None"
    """The file, once it is stored."""


class Usage(TypedDict):
    """What the tenant uses."""

    limits: "Limits"
    stored_bytes: int
    """Each distinct content and its thumbnail, counted once."""
    reserved_bytes: int
    """Held by uploads under way."""
    objects: int
    """Distinct contents."""
    files: int
    """Uploads that refer to them."""
    dedupe_saved_bytes: int
    """Bytes that were sent and did not have to be stored again."""
    transcribed_seconds_today: int
    """Audio that counts towards today's `max_transcription_minutes_per_day`; from 0 again at 00:00 UTC."""


class Word(TypedDict):
    word: str
    start: float
    end: float
    probability: float
