"""What the search in transcripts reads. `transcripts.passages` writes these rows."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Column, ForeignKey, Identity, Index, Text, text
from sqlalchemy.dialects.postgresql import JSONB, TSVECTOR
from sqlmodel import Field, SQLModel

from media_core.tables.columns import time
from media_core.transcripts.passages import SPANS


class TranscriptRow(SQLModel, table=True):
    """A transcript that can be searched: the newest of an item for each way of hearing it. It stays as long as the
    item, also when its job is gone. `transcripts.passages` writes it.
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
    created_at: datetime = Field(sa_column=time(default_now=True))


class PassageRow(SQLModel, table=True):
    """About a minute of a transcript, as the search finds it. `transcripts.search` reads it."""

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
