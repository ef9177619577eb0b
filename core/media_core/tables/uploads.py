"""Uploads that come in several requests. `uploads.rows` and `uploads.claims` write these rows."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Index, Integer, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from media_core.tables.columns import time


class UploadRow(SQLModel, table=True):
    """An upload that comes in several requests. `uploads.resumable` describes its states."""

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
    labels: dict[str, str] | None = Field(default=None, sa_type=JSONB)
    concat: str | None = Field(default=None, sa_type=Text)
    """Upload-Concat, as it came: `partial`, or `final;` and the parts' URLs."""
    digest: str | None = Field(default=None, sa_type=Text)
    """The file's sha256 in hex, if the request that began the upload had it."""
    length: int | None = Field(default=None, sa_type=BigInteger)
    """Null until the client has told it."""
    received: int = Field(sa_column=Column(BigInteger, nullable=False, server_default="0"))
    """Bytes that have come and are durable: the Upload-Offset."""
    pieces: int = Field(sa_column=Column(Integer, nullable=False, server_default="0"))
    sealed: int = Field(sa_column=Column(Integer, nullable=False, server_default="0"))
    """Only pods of an earlier release read it: how many pieces somebody who lost the claim may still write to."""
    claim: str | None = Field(default=None, sa_type=Text)
    claimed_until: datetime | None = Field(sa_column=time(nullable=True))
    ending: bool = Field(sa_column=Column(Boolean, nullable=False, server_default="false"))
    """It is being removed."""
    answer: dict[str, Any] | None = Field(default=None, sa_type=JSONB)
    """The published answer, once the upload has been committed."""
    created_at: datetime = Field(sa_column=time(default_now=True))
    expires_at: datetime = Field(sa_column=time())


class UploadPieceRow(SQLModel, table=True):
    """Durable bytes of an upload, in order (`store.Piece`)."""

    __tablename__ = "upload_piece"

    upload_id: str = Field(sa_column=Column(Text, ForeignKey("upload.upload_id", ondelete="CASCADE"), primary_key=True))
    number: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    name: str = Field(sa_type=Text)
    size: int = Field(sa_type=BigInteger)
