"""Items, who finds them where, and what remains of them. `contents.life` and `items.library` write these rows."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Column, ForeignKey, Index, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from media_core.tables.columns import time


class MediaRow(SQLModel, table=True):
    """One row per upload."""

    __tablename__ = "media"
    __table_args__ = (
        Index("media_sha256", "sha256"),
        # The orders of `items.listing`, for one uploader and for all.
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
    created_at: datetime = Field(sa_column=time(default_now=True))
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
    added_at: datetime = Field(sa_column=time(default_now=True))
    category: str = Field(sa_type=Text)
    """Of the item's content: `image`, `audio`, `video` or `document`. A trigger fills it in if the insert does not."""


class MediaTombstoneRow(SQLModel, table=True):
    """A deleted item, for 30 days, so that a repeated DELETE gets the same answer as the first."""

    __tablename__ = "media_tombstone"
    __table_args__ = (Index("media_tombstone_deleted", "deleted_at"),)

    media_id: str = Field(primary_key=True, sa_type=Text)
    uploaded_by: str = Field(sa_type=Text)
    deleted_at: datetime = Field(sa_column=time(default_now=True))


class IdempotencyRow(SQLModel, table=True):
    """The answer that was given under an Idempotency-Key, for 24 hours."""

    __tablename__ = "idempotency"
    __table_args__ = (Index("idempotency_created", "created_at"),)

    subject: str = Field(primary_key=True, sa_type=Text)
    key: str = Field(primary_key=True, sa_type=Text)
    fingerprint: str = Field(sa_type=Text)
    """Of the request; the same key with another fingerprint is refused."""
    answer: dict[str, Any] | None = Field(default=None, sa_type=JSONB)
    created_at: datetime = Field(sa_column=time(default_now=True))


class UrlKeyRow(SQLModel, table=True):
    """One row: the secret that signs the api's own URLs. See `items.signed_urls`."""

    __tablename__ = "url_key"
    __table_args__ = (
        CheckConstraint("id = 1", name="url_key_one_row"),
        CheckConstraint("length(secret) >= 64", name="url_key_secret_length"),
    )

    id: int = Field(primary_key=True, default=1)
    secret: str = Field(sa_type=Text)
