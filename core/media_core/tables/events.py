"""Events, and the webhooks that they are sent to. `events/feed.sql` and `events.webhooks` write these rows."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, ForeignKey, Identity, Index, Text, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field, SQLModel

from media_core.tables.columns import time


class EventRow(SQLModel, table=True):
    """Something that happened to an item. Triggers write it; `events.feed` reads it, and says what holds."""

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
    created_at: datetime = Field(sa_column=time(default_now=True))


class EventHeadRow(SQLModel, table=True):
    """One row: the last position that an event got. A transaction that gives positions locks it."""

    __tablename__ = "event_head"
    __table_args__ = (CheckConstraint("id = 1", name="event_head_one_row"),)

    id: int = Field(primary_key=True, default=1)
    placed: int = Field(sa_column=Column(BigInteger, nullable=False, server_default="0"))


class WebhookRow(SQLModel, table=True):
    """A webhook of the MediaTenant: how far it has been told, and whether it answers. `events.webhooks` writes it."""

    __tablename__ = "webhook"

    webhook_id: str = Field(primary_key=True, sa_type=Text)
    """A hash of its URL."""
    host: str = Field(sa_type=Text)
    position: int = Field(sa_type=BigInteger)
    """Events up to here were delivered, or are in `webhook_delivery`."""
    claim: str | None = Field(default=None, sa_type=Text)
    claimed_until: datetime | None = Field(sa_column=time(nullable=True))
    """Until when the process that delivers to it has it for itself."""
    failures: int = Field(default=0, sa_column_kwargs={"server_default": text("0")})
    """Failed attempts in a row, of whatever events."""
    failing_since: datetime | None = Field(sa_column=time(nullable=True))
    retry_at: datetime | None = Field(sa_column=time(nullable=True))
    """When the next attempt is made, if the last ones all failed."""
    error: str | None = Field(default=None, sa_type=Text)
    seen_at: datetime = Field(sa_column=time(default_now=True))
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
    first_at: datetime = Field(sa_column=time(default_now=True))
    """When it was first tried, or first waited."""
    due_at: datetime | None = Field(sa_column=time(nullable=True))
    """When it is tried again. Null: it waits for an earlier event of the same file."""
    dead_at: datetime | None = Field(sa_column=time(nullable=True))
    """When it was given up."""
    error: str | None = Field(default=None, sa_type=Text)
