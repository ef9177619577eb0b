"""Storage and transcription quotas.

Invariant: stored_bytes + reserved_bytes <= max_bytes, whatever runs at once. It holds because every growth is one
conditional UPDATE of the one `usage` row (`content_reserve` in contents.sql); there is never a read that decides and an
insert that follows. Bytes are reserved before they are kept; the upload's commit turns the reservation into stored
bytes or nothing at all. A limit lowered below what is stored stops growth and deletes nothing. The one exception is the
canary (`canary`): 128 bytes for as long as its scan takes, since a full tenant's scanner has to be watched too.

Each reservation is a row with a deadline that its upload moves forward, so that what a killed process had reserved is
given back by the next one that finds the quota full (or by the sweep).
"""

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from media_core.errors import Refused

MIB = 1024 * 1024

_READ = text("SELECT stored_bytes, reserved_bytes, max_bytes FROM usage")
_CHARGE = text("""
WITH due AS (
    SELECT job_id, :seconds - coalesce(charged_seconds, 0) AS seconds FROM job
    WHERE job_id = :job_id AND coalesce(charged_seconds, 0) < :seconds FOR UPDATE
), granted AS (
    INSERT INTO transcription_day (day, seconds)
    SELECT (now() AT TIME ZONE 'UTC')::date, due.seconds FROM due WHERE due.seconds <= :limit
    ON CONFLICT (day) DO UPDATE SET seconds = transcription_day.seconds + excluded.seconds
    WHERE transcription_day.seconds + excluded.seconds <= :limit
    RETURNING 1
), marked AS (
    UPDATE job SET charged_seconds = :seconds FROM granted WHERE job.job_id = :job_id RETURNING 1
)
SELECT (SELECT count(*) FROM due) AS due, (SELECT count(*) FROM marked) AS marked
""")
_CHARGED_TODAY = text("SELECT seconds FROM transcription_day WHERE day = (now() AT TIME ZONE 'UTC')::date")


@dataclass(frozen=True)
class Usage:
    """Bytes, as in the `usage` row."""

    stored: int
    reserved: int
    maximum: int


async def read(tx: AsyncConnection) -> Usage:
    row = (await tx.execute(_READ)).one()
    return Usage(row.stored_bytes, row.reserved_bytes, row.max_bytes)


async def charge_transcription(tx: AsyncConnection, job_id: str, seconds: int, limit: int) -> None:
    """Counts `seconds` of audio against today's limit, once per job however often it is retried.

    Raises Refused `transcription_limit_exceeded` and counts nothing when the day's limit would be passed.
    """
    row = (await tx.execute(_CHARGE, {"job_id": job_id, "seconds": seconds, "limit": limit})).one()
    if row.due and not row.marked:
        raise _day_exceeded(await _charged_today(tx), seconds, limit)


async def check_transcription(tx: AsyncConnection, seconds: float, limit: int) -> None:
    """Refuses early what `charge_transcription` would refuse now; charges nothing."""
    used = await _charged_today(tx)
    if used + seconds > limit:
        raise _day_exceeded(used, seconds, limit)


async def _charged_today(tx: AsyncConnection) -> int:
    return (await tx.execute(_CHARGED_TODAY)).scalar() or 0


def _day_exceeded(used: int, seconds: float, limit: int) -> Refused:
    return Refused(
        "transcription_limit_exceeded",
        f"This tenant may transcribe {limit // 60} minutes of audio a day and has used {used // 60}; "
        f"this recording has {-(-seconds // 60):.0f}. The count starts anew at 00:00 UTC.",
        limit=limit // 60,
        used=used // 60,
    )


def exceeded(usage: Usage, wanted: int) -> Refused:
    """The published 413 of a full tenant, with the numbers that a client needs to act."""
    return Refused(
        "quota_exceeded",
        f"{wanted:,} bytes do not fit: this tenant stores {usage.stored:,} of {usage.maximum:,} bytes "
        f"({usage.reserved:,} more are reserved by uploads under way). Delete something or ask for a larger quota.",
        max_storage_mb=usage.maximum // MIB,
        used=usage.stored,
        reserved=usage.reserved,
        limit=usage.maximum,
    )
