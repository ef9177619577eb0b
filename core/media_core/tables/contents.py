"""Contents, and the bytes that they take. `contents.life` writes these rows."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from media_core.tables.columns import time


class BlobRow(SQLModel, table=True):
    """One row per distinct content. The row of an infected one stays: the same bytes are refused for ever.

    `contents.life` writes it and describes its states.
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
    """More that some contents have: see `contents.life.Facts`."""
    scan_status: str = Field(sa_column=Column(Text, nullable=False, server_default="pending"))
    scan_detail: str | None = Field(default=None, sa_type=Text)
    scan_engine: str | None = Field(default=None, sa_type=Text)
    scanned_at: datetime | None = Field(sa_column=time(nullable=True))
    thumbnail_status: str = Field(sa_column=Column(Text, nullable=False, server_default="none"))
    thumbnail_sha256: str | None = Field(default=None, sa_type=Text)
    thumbnail_size: int = Field(sa_column=Column(BigInteger, nullable=False, server_default="0"))
    doomed_at: datetime | None = Field(sa_column=time(nullable=True))
    """When it was marked: its last item was deleted, or it was found infected."""
    remove_after: datetime | None = Field(sa_column=time(nullable=True))
    """Of marked content: when its objects may be removed."""
    removing_until: datetime | None = Field(sa_column=time(nullable=True))
    """End of the claim of somebody who removes its objects now."""
    created_at: datetime = Field(sa_column=time(default_now=True))
    lost_at: datetime | None = Field(sa_column=time(nullable=True))
    """When somebody first noticed that the store has lost its object. Null: it is there, as far as is known."""


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
    expires_at: datetime = Field(sa_column=time())


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
    max_items: int | None = Field(default=None, sa_type=BigInteger)
    objects: int = Field(sa_column=Column(BigInteger, nullable=False, server_default="0"))
    """Contents that are neither marked nor infected. `object_bytes`: their bytes; `items`: uploads of them;
    `item_bytes`: the bytes of these uploads."""
    object_bytes: int = Field(sa_column=Column(BigInteger, nullable=False, server_default="0"))
    items: int = Field(sa_column=Column(BigInteger, nullable=False, server_default="0"))
    item_bytes: int = Field(sa_column=Column(BigInteger, nullable=False, server_default="0"))
