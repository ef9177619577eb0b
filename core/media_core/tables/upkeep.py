"""What sweep, rescan and operator note of a tenant."""

from datetime import datetime

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, Text
from sqlmodel import Field, SQLModel

from media_core.tables.columns import time


class BirthRow(SQLModel, table=True):
    """One row: the schema's id, and how often it was swept. See `upkeep.births`."""

    __tablename__ = "birth"
    __table_args__ = (
        CheckConstraint("id = 1", name="birth_one_row"),
        CheckConstraint("length(birth_id) <= 100", name="birth_id_length"),
    )

    id: int = Field(primary_key=True, default=1)
    birth_id: str = Field(sa_type=Text)
    epoch: int = Field(sa_column=Column(BigInteger, nullable=False, server_default="0"))


class SweptRow(SQLModel, table=True):
    """One row: what the last sweep saw. `orphans_kept`: there are too many to remove before a person decides."""

    __tablename__ = "swept"
    __table_args__ = (CheckConstraint("id = 1", name="swept_one_row"),)

    id: int = Field(primary_key=True, default=1)
    swept_at: datetime = Field(sa_column=time(default_now=True))
    listed: int = Field(sa_type=BigInteger)
    orphans: int = Field(sa_type=BigInteger)
    orphan_bytes: int = Field(sa_type=BigInteger)
    orphans_kept: bool = Field(sa_column=Column(Boolean, nullable=False))
    orphans_since: datetime | None = Field(sa_column=time(nullable=True))
    """When the oldest of them was first seen."""
    orphans_released_at: datetime | None = Field(sa_column=time(nullable=True))
    """A person has released the orphans that were first seen up to this time. Written by the operator."""


class OrphanRow(SQLModel, table=True):
    """An object without a row: it was put and never committed, or its row was lost when the database was restored."""

    __tablename__ = "orphan"

    sha256: str = Field(primary_key=True, sa_type=Text)
    size: int = Field(sa_type=BigInteger)
    first_seen: datetime = Field(sa_column=time(default_now=True))
    seen_in: int = Field(sa_column=Column(BigInteger, nullable=False, server_default="0"))
    """Epoch of the last sweep that saw it."""


class SuspicionRow(SQLModel, table=True):
    """A signature that found more than a few contents that were open before. Their objects stay until `trusted_at`."""

    __tablename__ = "suspicion"
    __table_args__ = (CheckConstraint("length(signature) <= 1000", name="suspicion_signature_length"),)

    signature: str = Field(primary_key=True, sa_type=Text)
    since: datetime = Field(sa_column=time(default_now=True))
    trusted_at: datetime | None = Field(sa_column=time(nullable=True))
    """When a person said that the signature is right."""


class CanaryRow(SQLModel, table=True):
    """A canary (`upkeep.canary`): the one under way, and the last one before it."""

    __tablename__ = "canary"
    __table_args__ = (
        CheckConstraint("verdict IN ('clean','infected','unscannable','error')", name="canary_verdict"),
        CheckConstraint("length(sha256) = 64", name="canary_sha256_length"),
    )

    sha256: str = Field(primary_key=True, sa_type=Text)
    job_id: str | None = Field(default=None, sa_type=Text)
    """The job of its scan. No foreign key: the sweep deletes jobs, and this row stays."""
    sent_at: datetime = Field(sa_column=time(default_now=True))
    verdict: str | None = Field(default=None, sa_type=Text)
    """Null: none yet; once the canary has ended: none came."""
    detail: str | None = Field(default=None, sa_type=Text)
    engine: str | None = Field(default=None, sa_type=Text)
    ended_at: datetime | None = Field(sa_column=time(nullable=True))
