"""The queue, and transcripts that are being made. `jobs.queue` and `contents.quota` write these rows."""

from datetime import date, datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Column, ForeignKey, Index, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from media_core.tables.columns import time


class JobRow(SQLModel, table=True):
    """A job. See `jobs.queue` for its states."""

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
    """Where the next worker goes on (`media_workers.speech.transcribe.Place`)."""
    attempts: int = Field(default=0, sa_column_kwargs={"server_default": text("0")})
    postponed: int = Field(default=0, sa_column_kwargs={"server_default": text("0")})
    """How often in a row it was handed back because a dependency was away. That counts as no attempt."""
    charged_seconds: int | None = None
    """Audio seconds counted against the day's transcription limit; None until counted."""
    cancel_requested: bool = Field(default=False, sa_column_kwargs={"server_default": text("false")})
    searchable: bool = Field(default=False, sa_column_kwargs={"server_default": text("false")})
    """`transcripts.passages` has taken this completed job's transcript into the search, or there was none to take."""
    request_id: str | None = Field(default=None, sa_type=Text)
    """X-Request-Id of the request that queued it, so that the worker's log lines can be found by it."""
    worker: str | None = Field(default=None, sa_type=Text)
    lease_token: str | None = Field(default=None, sa_type=Text)
    lease_until: datetime | None = Field(sa_column=time(nullable=True))
    run_after: datetime = Field(sa_column=time(default_now=True))
    created_at: datetime = Field(sa_column=time(default_now=True))
    started_at: datetime | None = Field(sa_column=time(nullable=True))
    finished_at: datetime | None = Field(sa_column=time(nullable=True))


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


class TranscriptionDayRow(SQLModel, table=True):
    __tablename__ = "transcription_day"

    day: date = Field(primary_key=True)
    seconds: int = Field(sa_column=Column(BigInteger, nullable=False, server_default="0"))
