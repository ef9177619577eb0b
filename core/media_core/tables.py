"""The tables of one tenant's schema.

No table names its schema: the tenant's role has it as its search_path. So the same code serves every tenant, and a bug
cannot reach another tenant's rows. `contents`, `library`, `quota` and `queue` keep the invariants that span tables.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from typing import Any, Final, get_args

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TSVECTOR
from sqlmodel import Field, SQLModel

from media_core import policy
from media_core.passages import SPANS

NOW = text("now()")


def _time(*, nullable: bool = False, default_now: bool = False) -> Any:
    return Column(DateTime(timezone=True), nullable=nullable, server_default=NOW if default_now else None)


class BlobRow(SQLModel, table=True):
    """One row per distinct content. The row of an infected one stays: the same bytes are refused for ever.

    `contents` writes it and describes its states.
    """

    __tablename__ = "blob"
    __table_args__ = (
        CheckConstraint("scan_status IN ('pending','clean','infected','unscannable','error')", name="blob_scan_status"),
        CheckConstraint("thumbnail_status IN ('none','pending','ready','failed')", name="blob_thumbnail_status"),
        Index(
            "blob_doomed",
            text("coalesce(remove_after, doomed_at)"),
            "sha256",
            postgresql_where=text("doomed_at IS NOT NULL"),
        ),
        Index("blob_open_verdict", "sha256", postgresql_where=text("scan_status IN ('pending','error')")),
        Index("blob_pending_thumbnail", "sha256", postgresql_where=text("thumbnail_status = 'pending'")),
        Index(
            "blob_scanned",
            "scanned_at",
            "sha256",
            postgresql_where=text("doomed_at IS NULL AND scan_status IN ('clean','unscannable')"),
        ),
        Index(
            "blob_found",
            "scan_detail",
            postgresql_where=text("scan_status = 'infected' AND doomed_at IS NOT NULL"),
        ),
        Index("blob_lost", "sha256", postgresql_where=text("lost_at IS NOT NULL")),
    )

    sha256: str = Field(primary_key=True, sa_type=Text)
    size: int = Field(sa_type=BigInteger)
    mime_type: str = Field(sa_type=Text)
    width: int | None = None
    height: int | None = None
    duration: float | None = None
    """Seconds, as the container's header says."""
    details: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False, server_default="{}"))
    """More that some contents have: see `contents.Facts`."""
    scan_status: str = Field(sa_column=Column(Text, nullable=False, server_default="pending"))
    scan_detail: str | None = Field(default=None, sa_type=Text)
    scan_engine: str | None = Field(default=None, sa_type=Text)
    scanned_at: datetime | None = Field(sa_column=_time(nullable=True))
    thumbnail_status: str = Field(sa_column=Column(Text, nullable=False, server_default="none"))
    thumbnail_sha256: str | None = Field(default=None, sa_type=Text)
    thumbnail_size: int = Field(sa_column=Column(BigInteger, nullable=False, server_default="0"))
    doomed_at: datetime | None = Field(sa_column=_time(nullable=True))
    """When it was marked: its last item was deleted, or it was found infected."""
    remove_after: datetime | None = Field(sa_column=_time(nullable=True))
    """Of marked content: when its objects may be removed."""
    removing_until: datetime | None = Field(sa_column=_time(nullable=True))
    """End of the claim of somebody who removes its objects now."""
    created_at: datetime = Field(sa_column=_time(default_now=True))
    lost_at: datetime | None = Field(sa_column=_time(nullable=True))
    """When somebody first noticed that the store has lost its object. Null: it is there, as far as is known."""


class MediaRow(SQLModel, table=True):
    """One row per upload."""

    __tablename__ = "media"
    __table_args__ = (
        Index("media_sha256", "sha256"),
        # The orders of `listing`, for one uploader and for all.
        Index("media_newest", "uploaded_by", "created_at", "media_id"),
        Index("media_newest_of", "uploaded_by", "category", "created_at", "media_id"),
        Index("media_by_name", "uploaded_by", "folded", "media_id"),
        Index("media_by_size", "uploaded_by", "content_size", "media_id"),
        Index("media_all_newest", "created_at", "media_id"),
        Index("media_all_by_name", "folded", "media_id"),
        Index("media_all_by_size", "content_size", "media_id"),
        Index(
            "media_recordings_for_all",
            "media_id",
            postgresql_where=text("tenant_scope AND category IN ('audio','video')"),
        ),
    )

    media_id: str = Field(primary_key=True, sa_type=Text)
    sha256: str = Field(sa_column=Column(Text, ForeignKey("blob.sha256"), nullable=False))
    filename: str = Field(sa_type=Text)
    claimed_type: str | None = Field(default=None, sa_type=Text)
    uploaded_by: str = Field(sa_type=Text)
    tenant_scope: bool = False
    created_at: datetime = Field(sa_column=_time(default_now=True))
    content_size: int = Field(sa_type=BigInteger)
    """`blob.size`. A trigger fills in this and the two that follow if the insert does not. Not named `size`: in the
    statements of pods of the version before that would be ambiguous."""
    category: str = Field(sa_type=Text)
    """As in `room_file`."""
    folded: str = Field(sa_column=Column(Text(collation="C"), nullable=False))
    """The file name as lists compare it (`folding`). Its order is that of code points, whatever the server's locale."""


class LabelRow(SQLModel, table=True):
    """A label of an item, which its uploader gave it; at most 16 an item."""

    __tablename__ = "label"
    __table_args__ = (Index("label_value", "key", "value", "media_id"),)

    media_id: str = Field(sa_column=Column(Text, ForeignKey("media.media_id", ondelete="CASCADE"), primary_key=True))
    key: str = Field(sa_type=Text, primary_key=True)
    value: str = Field(sa_type=Text)


class UrlKeyRow(SQLModel, table=True):
    """One row: the secret that signs the api's own URLs. See `signed_urls`."""

    __tablename__ = "url_key"
    __table_args__ = (
        CheckConstraint("id = 1", name="url_key_one_row"),
        CheckConstraint("length(secret) >= 64", name="url_key_secret_length"),
    )

    id: int = Field(primary_key=True, default=1)
    secret: str = Field(sa_type=Text)


class MediaTombstoneRow(SQLModel, table=True):
    """A deleted item, for 30 days, so that a repeated DELETE gets the same answer as the first."""

    __tablename__ = "media_tombstone"
    __table_args__ = (Index("media_tombstone_deleted", "deleted_at"),)

    media_id: str = Field(primary_key=True, sa_type=Text)
    uploaded_by: str = Field(sa_type=Text)
    deleted_at: datetime = Field(sa_column=_time(default_now=True))


class RoomFileRow(SQLModel, table=True):
    __tablename__ = "room_file"
    __table_args__ = (
        Index("room_file_newest", "room_id", "added_at", "media_id"),
        Index("room_file_newest_of", "room_id", "category", "added_at", "media_id"),
        Index("room_file_of_media", "media_id", "room_id"),
    )

    room_id: str = Field(primary_key=True, sa_type=Text)
    media_id: str = Field(sa_column=Column(Text, ForeignKey("media.media_id", ondelete="CASCADE"), primary_key=True))
    added_by: str = Field(sa_type=Text)
    added_at: datetime = Field(sa_column=_time(default_now=True))
    category: str = Field(sa_type=Text)
    """Of the item's content: `image`, `audio`, `video` or `document`. A trigger fills it in if the insert does not."""


class UsageRow(SQLModel, table=True):
    """One row. `stored_bytes` counts each content and thumbnail once; `reserved_bytes` is the sum of `reservation`."""

    __tablename__ = "usage"
    __table_args__ = (
        CheckConstraint("id = 1", name="usage_one_row"),
        CheckConstraint("stored_bytes >= 0 AND reserved_bytes >= 0", name="usage_not_negative"),
    )

    id: int = Field(primary_key=True, default=1)
    stored_bytes: int = Field(sa_column=Column(BigInteger, nullable=False, server_default="0"))
    reserved_bytes: int = Field(sa_column=Column(BigInteger, nullable=False, server_default="0"))
    max_bytes: int = Field(sa_column=Column(BigInteger, nullable=False, server_default="0"))
    objects: int = Field(sa_column=Column(BigInteger, nullable=False, server_default="0"))
    """Contents that are neither marked nor infected. `object_bytes`: their bytes; `items`: uploads of them;
    `item_bytes`: the bytes of these uploads."""
    object_bytes: int = Field(sa_column=Column(BigInteger, nullable=False, server_default="0"))
    items: int = Field(sa_column=Column(BigInteger, nullable=False, server_default="0"))
    item_bytes: int = Field(sa_column=Column(BigInteger, nullable=False, server_default="0"))


class ReservationRow(SQLModel, table=True):
    """Bytes that an upload in flight may still store. One that is past `expires_at` belongs to a dead process.

    Until then the objects of `sha256`, which is set once the upload knows it, are not removed.
    """

    __tablename__ = "reservation"
    __table_args__ = (
        Index("reservation_expires", "expires_at"),
        Index("reservation_sha256", "sha256", postgresql_where=text("sha256 IS NOT NULL")),
    )

    reservation_id: str = Field(primary_key=True, sa_type=Text)
    sha256: str | None = Field(default=None, sa_type=Text)
    bytes: int = Field(sa_type=BigInteger)
    expires_at: datetime = Field(sa_column=_time())


_POLICY_TYPES: Final[Mapping[Any, type[Boolean] | type[BigInteger]]] = {bool: Boolean, int: BigInteger}


def _policy_columns() -> Iterator[Column[Any] | CheckConstraint]:
    """Columns for the fields of `policy.Policy`. A Literal becomes text with a check of its values."""
    for each in dataclasses.fields(policy.Policy):
        if each.name in policy.IN_USAGE:
            continue
        values = get_args(each.type)
        kind = Text if values else _POLICY_TYPES[each.type]
        default = None if each.default is dataclasses.MISSING else text(repr(each.default).lower())
        if values:
            default = text(repr(each.default))
            yield CheckConstraint(f"{each.name} IN ({', '.join(map(repr, values))})", name=f"policy_{each.name}")
        yield Column(each.name, kind, nullable=False, server_default=default)


POLICY = Table(
    "policy",
    SQLModel.metadata,
    Column("id", Integer, primary_key=True),
    CheckConstraint("id = 1", name="policy_one_row"),
    *_policy_columns(),
)
"""One row: the MediaTenant's limits and rules, written by the operator, read by api and workers."""


class IdempotencyRow(SQLModel, table=True):
    """The answer that was given under an Idempotency-Key, for 24 hours."""

    __tablename__ = "idempotency"
    __table_args__ = (Index("idempotency_created", "created_at"),)

    subject: str = Field(primary_key=True, sa_type=Text)
    key: str = Field(primary_key=True, sa_type=Text)
    fingerprint: str = Field(sa_type=Text)
    """Of the request; the same key with another fingerprint is refused."""
    answer: dict[str, Any] | None = Field(default=None, sa_type=JSONB)
    created_at: datetime = Field(sa_column=_time(default_now=True))


class JobRow(SQLModel, table=True):
    """A job. See `queue` for its states."""

    __tablename__ = "job"
    __table_args__ = (
        CheckConstraint("status IN ('queued','running','completed','failed','cancelled')", name="job_status"),
        CheckConstraint("length(job_id) <= 100", name="job_id_length"),
        Index(
            "job_ready",
            "kind",
            text("priority DESC"),
            "run_after",
            "job_id",
            postgresql_where=text("status IN ('queued','running')"),
        ),
        Index(
            "job_once",
            "kind",
            "dedupe_key",
            unique=True,
            postgresql_where=text("status IN ('queued','running')"),
        ),
        Index("job_owner", "owner", "job_id"),
        Index("job_failed", "finished_at", postgresql_where=text("status = 'failed'")),
        Index("job_due", "kind", "run_after", postgresql_where=text("status = 'queued'")),
        Index("job_finished", "kind", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
        Index("job_leased", "lease_until", postgresql_where=text("status = 'running'")),
        Index(
            "job_awaiting_verdict",
            text("(payload ->> 'sha256')"),
            postgresql_where=text("kind = 'transcribe' AND status = 'queued'"),
        ),
        Index(
            "job_unsearchable",
            "finished_at",
            "job_id",
            postgresql_where=text("kind = 'transcribe' AND status = 'completed' AND NOT searchable"),
        ),
        Index(
            "job_rescans",
            "job_id",
            postgresql_where=text("kind = 'scan' AND priority = -2 AND status IN ('queued','running')"),
        ),
    )

    job_id: str = Field(primary_key=True, sa_type=Text)
    kind: str = Field(sa_type=Text)
    status: str = Field(sa_column=Column(Text, nullable=False, server_default="queued"))
    priority: int = Field(default=0, sa_column_kwargs={"server_default": text("0")})
    owner: str | None = Field(default=None, sa_type=Text)
    media_id: str | None = Field(default=None, sa_type=Text)
    dedupe_key: str | None = Field(default=None, sa_type=Text)
    """While a job of this kind with this key is open, no other one is queued."""
    payload: dict[str, Any] = Field(sa_type=JSONB)
    result: dict[str, Any] | None = Field(default=None, sa_type=JSONB)
    error_code: str | None = Field(default=None, sa_type=Text)
    error_detail: str | None = Field(default=None, sa_type=Text)
    progress: float = Field(default=0, sa_column_kwargs={"server_default": text("0")})
    place: dict[str, Any] | None = Field(default=None, sa_type=JSONB)
    """Where the next worker goes on (`media_workers.transcribe.Place`)."""
    attempts: int = Field(default=0, sa_column_kwargs={"server_default": text("0")})
    postponed: int = Field(default=0, sa_column_kwargs={"server_default": text("0")})
    """How often in a row it was handed back because a dependency was away. That counts as no attempt."""
    charged_seconds: int | None = None
    """Audio seconds counted against the day's transcription limit; None until counted."""
    cancel_requested: bool = Field(default=False, sa_column_kwargs={"server_default": text("false")})
    searchable: bool = Field(default=False, sa_column_kwargs={"server_default": text("false")})
    """The transcript of this completed job has been taken into the search (`passages`), or there was none to take."""
    request_id: str | None = Field(default=None, sa_type=Text)
    """X-Request-Id of the request that queued it, so that the worker's log lines can be found by it."""
    worker: str | None = Field(default=None, sa_type=Text)
    lease_token: str | None = Field(default=None, sa_type=Text)
    lease_until: datetime | None = Field(sa_column=_time(nullable=True))
    run_after: datetime = Field(sa_column=_time(default_now=True))
    created_at: datetime = Field(sa_column=_time(default_now=True))
    started_at: datetime | None = Field(sa_column=_time(nullable=True))
    finished_at: datetime | None = Field(sa_column=_time(nullable=True))


class SegmentRow(SQLModel, table=True):
    """One segment of a transcript that is being made. An interrupted job continues from them, and `/events` streams
    them.
    """

    __tablename__ = "segment"

    job_id: str = Field(sa_column=Column(Text, ForeignKey("job.job_id", ondelete="CASCADE"), primary_key=True))
    number: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    start: float
    end: float
    text: str = Field(sa_type=Text)
    words: list[dict[str, Any]] | None = Field(default=None, sa_type=JSONB)
    language: str | None = Field(default=None, sa_type=Text)
    """Where the job was asked for a language of each segment."""
    channel: int | None = None
    """Of a job with split channels: which one, from 1."""


class TranscriptRow(SQLModel, table=True):
    """A transcript that can be searched: the newest of an item for each way of hearing it. It stays as long as the
    item, also when its job is gone. `passages` writes it.
    """

    __tablename__ = "transcript"
    __table_args__ = (Index("transcript_heard", "media_id", "task", "track", "channel", unique=True),)

    number: int = Field(sa_column=Column(BigInteger, Identity(), primary_key=True))
    media_id: str = Field(sa_column=Column(Text, ForeignKey("media.media_id", ondelete="CASCADE"), nullable=False))
    job_id: str = Field(sa_type=Text)
    """No foreign key: the sweep deletes jobs, and this row stays."""
    task: str = Field(sa_type=Text)
    """`transcribe` or `translate`."""
    track: int
    channel: int
    """0: all of them."""
    created_at: datetime = Field(sa_column=_time(default_now=True))


class PassageRow(SQLModel, table=True):
    """About a minute of a transcript, as the search finds it. `search` reads it."""

    __tablename__ = "passage"
    __table_args__ = (
        # Without the list of pending entries: a search would read all of it.
        Index(
            "passage_words",
            "words",
            text(f"({SPANS})"),
            postgresql_using="gin",
            postgresql_with={"fastupdate": "off"},
        ),
    )

    transcript: int = Field(
        sa_column=Column(BigInteger, ForeignKey("transcript.number", ondelete="CASCADE"), primary_key=True)
    )
    number: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    language: str | None = Field(default=None, sa_type=Text)
    stemmer: str = Field(sa_type=Text)
    """The search configuration of PostgreSQL whose stemmer made `words`; `simple`: none did."""
    segments: list[Any] = Field(sa_column=Column(JSONB, nullable=False))
    """`[number, start, end, text, speaker]` of each, in seconds."""
    own: int
    """How many of them are the passage's own. What follows is the next one's first, so that a phrase across both is
    found."""
    words: Any = Field(sa_column=Column(TSVECTOR, nullable=False))


class VocabularyRow(SQLModel, table=True):
    """A word that a transcript has or had, and its stem: what begins with `budg`, a search asks here."""

    __tablename__ = "vocabulary"

    stemmer: str = Field(sa_type=Text, primary_key=True)
    word: str = Field(sa_column=Column(Text(collation="C"), primary_key=True))
    stem: str = Field(sa_type=Text)


class CanaryRow(SQLModel, table=True):
    """A canary (`canary`): the one under way, and the last one before it."""

    __tablename__ = "canary"
    __table_args__ = (
        CheckConstraint("verdict IN ('clean','infected','unscannable','error')", name="canary_verdict"),
        CheckConstraint("length(sha256) = 64", name="canary_sha256_length"),
    )

    sha256: str = Field(primary_key=True, sa_type=Text)
    job_id: str | None = Field(default=None, sa_type=Text)
    """The job of its scan. No foreign key: the sweep deletes jobs, and this row stays."""
    sent_at: datetime = Field(sa_column=_time(default_now=True))
    verdict: str | None = Field(default=None, sa_type=Text)
    """Null: none yet; once the canary has ended: none came."""
    detail: str | None = Field(default=None, sa_type=Text)
    engine: str | None = Field(default=None, sa_type=Text)
    ended_at: datetime | None = Field(sa_column=_time(nullable=True))


class TranscriptionDayRow(SQLModel, table=True):
    __tablename__ = "transcription_day"

    day: date = Field(primary_key=True)
    seconds: int = Field(sa_column=Column(BigInteger, nullable=False, server_default="0"))


class BirthRow(SQLModel, table=True):
    """One row: the schema's id, and how often it was swept. See `births`."""

    __tablename__ = "birth"
    __table_args__ = (
        CheckConstraint("id = 1", name="birth_one_row"),
        CheckConstraint("length(birth_id) <= 100", name="birth_id_length"),
    )

    id: int = Field(primary_key=True, default=1)
    birth_id: str = Field(sa_type=Text)
    epoch: int = Field(sa_column=Column(BigInteger, nullable=False, server_default="0"))


class OrphanRow(SQLModel, table=True):
    """An object without a row: it was put and never committed, or its row was lost when the database was restored."""

    __tablename__ = "orphan"

    sha256: str = Field(primary_key=True, sa_type=Text)
    size: int = Field(sa_type=BigInteger)
    first_seen: datetime = Field(sa_column=_time(default_now=True))
    seen_in: int = Field(sa_column=Column(BigInteger, nullable=False, server_default="0"))
    """Epoch of the last sweep that saw it."""


class SuspicionRow(SQLModel, table=True):
    """A signature that found more than a few contents that were open before. Their objects stay until `trusted_at`."""

    __tablename__ = "suspicion"
    __table_args__ = (CheckConstraint("length(signature) <= 1000", name="suspicion_signature_length"),)

    signature: str = Field(primary_key=True, sa_type=Text)
    since: datetime = Field(sa_column=_time(default_now=True))
    trusted_at: datetime | None = Field(sa_column=_time(nullable=True))
    """When a person said that the signature is right."""


class UploadRow(SQLModel, table=True):
    """An upload that comes in several requests. `resumable` writes it, and describes its states."""

    __tablename__ = "upload"
    __table_args__ = (Index("upload_expires", "expires_at"), Index("upload_owner", "owner"))

    upload_id: str = Field(primary_key=True, sa_type=Text)
    """Also the id of its reservation."""
    owner: str = Field(sa_type=Text)
    declared: str = Field(sa_type=Text)
    """Upload-Metadata, as it came."""
    filename: str = Field(sa_type=Text)
    claimed_type: str | None = Field(default=None, sa_type=Text)
    tenant_scope: bool = False
    room_id: str | None = Field(default=None, sa_type=Text)
    concat: str | None = Field(default=None, sa_type=Text)
    """Upload-Concat, as it came: `partial`, or `final;` and the parts' URLs."""
    length: int | None = Field(default=None, sa_type=BigInteger)
    """Null until the client has told it."""
    received: int = Field(sa_column=Column(BigInteger, nullable=False, server_default="0"))
    """Bytes that are durable: the Upload-Offset."""
    pieces: int = Field(sa_column=Column(Integer, nullable=False, server_default="0"))
    sealed: int = Field(sa_column=Column(Integer, nullable=False, server_default="0"))
    """Only pods of an earlier release read it: how many pieces somebody who lost the claim may still write to."""
    claim: str | None = Field(default=None, sa_type=Text)
    claimed_until: datetime | None = Field(sa_column=_time(nullable=True))
    ending: bool = Field(sa_column=Column(Boolean, nullable=False, server_default="false"))
    """It is being removed."""
    answer: dict[str, Any] | None = Field(default=None, sa_type=JSONB)
    """The published answer, once the upload has been committed."""
    created_at: datetime = Field(sa_column=_time(default_now=True))
    expires_at: datetime = Field(sa_column=_time())


class UploadPieceRow(SQLModel, table=True):
    """Durable bytes of an upload, in order (`store.Piece`)."""

    __tablename__ = "upload_piece"

    upload_id: str = Field(sa_column=Column(Text, ForeignKey("upload.upload_id", ondelete="CASCADE"), primary_key=True))
    number: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    name: str = Field(sa_type=Text)
    size: int = Field(sa_type=BigInteger)


class EventRow(SQLModel, table=True):
    """Something that happened to an item. Triggers write it (`events.sql`); `events` reads it, and says what holds."""

    __tablename__ = "event"
    __table_args__ = (
        Index("event_unplaced", "number", postgresql_where=text("position IS NULL")),
        Index("event_position", "position", unique=True, postgresql_where=text("position IS NOT NULL")),
        Index("event_changes", "media_id", "created_at", postgresql_where=text("type IN ('attached','changed')")),
    )

    number: int = Field(sa_column=Column(BigInteger, Identity(), primary_key=True))
    """In the order of the insertions, which is not that of the commits."""
    position: int | None = Field(default=None, sa_type=BigInteger)
    """Its place in the order in which events are told. Null until somebody reads."""
    type: str = Field(sa_type=Text)
    media_id: str = Field(sa_type=Text)
    owner: str = Field(sa_type=Text)
    """The item's uploader; of a transcript: whoever asked for it."""
    rooms: list[str] | None = Field(default=None, sa_column=Column(ARRAY(Text)))
    """Of `attached` and `removed`: the room. Of `deleted`: those that the item was in."""
    tenant_scope: bool = Field(sa_column=Column(Boolean, nullable=False, server_default="false"))
    """Of `deleted`: whether everybody of the tenant could see the item."""
    data: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    created_at: datetime = Field(sa_column=_time(default_now=True))


class EventHeadRow(SQLModel, table=True):
    """One row: the last position that was given to an event. Whoever gives positions locks it."""

    __tablename__ = "event_head"
    __table_args__ = (CheckConstraint("id = 1", name="event_head_one_row"),)

    id: int = Field(primary_key=True, default=1)
    placed: int = Field(sa_column=Column(BigInteger, nullable=False, server_default="0"))


class WebhookRow(SQLModel, table=True):
    """A webhook of the MediaTenant: how far it has been told, and whether it answers. `webhooks` writes it."""

    __tablename__ = "webhook"

    webhook_id: str = Field(primary_key=True, sa_type=Text)
    """A hash of its URL."""
    host: str = Field(sa_type=Text)
    position: int = Field(sa_type=BigInteger)
    """Events up to here were delivered, or are in `webhook_delivery`."""
    claim: str | None = Field(default=None, sa_type=Text)
    claimed_until: datetime | None = Field(sa_column=_time(nullable=True))
    """Until when the process that delivers to it has it for itself."""
    failures: int = Field(default=0, sa_column_kwargs={"server_default": text("0")})
    """Failed attempts in a row, of whatever events."""
    failing_since: datetime | None = Field(sa_column=_time(nullable=True))
    retry_at: datetime | None = Field(sa_column=_time(nullable=True))
    """When the next attempt is made, if the last ones all failed."""
    error: str | None = Field(default=None, sa_type=Text)
    seen_at: datetime = Field(sa_column=_time(default_now=True))
    """When a process last had it in its settings."""


class WebhookDeliveryRow(SQLModel, table=True):
    """An event that a webhook has not taken."""

    __tablename__ = "webhook_delivery"
    __table_args__ = (
        Index(
            "webhook_delivery_due",
            "webhook_id",
            "due_at",
            postgresql_where=text("dead_at IS NULL AND due_at IS NOT NULL"),
        ),
        Index(
            "webhook_delivery_of_file",
            "webhook_id",
            "media_id",
            "position",
            postgresql_where=text("dead_at IS NULL"),
        ),
        Index("webhook_delivery_dead", "webhook_id", "dead_at", postgresql_where=text("dead_at IS NOT NULL")),
        Index("webhook_delivery_open", "webhook_id", "first_at", postgresql_where=text("dead_at IS NULL")),
    )

    webhook_id: str = Field(
        sa_column=Column(Text, ForeignKey("webhook.webhook_id", ondelete="CASCADE"), primary_key=True)
    )
    position: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    """Of the event."""
    media_id: str = Field(sa_type=Text)
    attempts: int = Field(default=0, sa_column_kwargs={"server_default": text("0")})
    first_at: datetime = Field(sa_column=_time(default_now=True))
    """When it was first tried, or first waited."""
    due_at: datetime | None = Field(sa_column=_time(nullable=True))
    """When it is tried again. Null: it waits for an earlier event of the same file."""
    dead_at: datetime | None = Field(sa_column=_time(nullable=True))
    """When it was given up."""
    error: str | None = Field(default=None, sa_type=Text)


class SweptRow(SQLModel, table=True):
    """One row: what the last sweep saw. `orphans_kept`: there are too many to remove before a person decides."""

    __tablename__ = "swept"
    __table_args__ = (CheckConstraint("id = 1", name="swept_one_row"),)

    id: int = Field(primary_key=True, default=1)
    swept_at: datetime = Field(sa_column=_time(default_now=True))
    listed: int = Field(sa_type=BigInteger)
    orphans: int = Field(sa_type=BigInteger)
    orphan_bytes: int = Field(sa_type=BigInteger)
    orphans_kept: bool = Field(sa_column=Column(Boolean, nullable=False))
    orphans_since: datetime | None = Field(sa_column=_time(nullable=True))
    """When the oldest of them was first seen."""
    orphans_released_at: datetime | None = Field(sa_column=_time(nullable=True))
    """A person has released the orphans that were first seen up to this time. Written by the operator."""
