"""Storage and transcription quotas.

Invariant: stored_bytes + reserved_bytes <= max_bytes, whatever runs concurrently. Every growth is one conditional
UPDATE of the one `usage` row (`content_reserve` in `life.sql`), never a read and a later insert. Bytes are reserved
before they are stored; the upload's commit turns the reservation into stored bytes. A limit that is lowered below what
is stored stops growth and deletes nothing. Exceptions: the canary (`upkeep.canary`), 128 bytes while its scan lasts,
since a full tenant's scanner has to be watched too; bytes that were counted before, of lost content and of a final
upload that failed (`Reservation.over_quota`); and content that is recalled (`contents.life`, rule 3).

A tenant may have a limit of items, too: the same bytes again take no room, but a row. Each is counted in the UPDATE of
`usage` that adds it anyway (`content_add_item`), under the same condition and with the same exceptions.

Each reservation is a row with an expiry that its upload moves forward. When a process was killed, its reservation
expires, and is given back by the next upload that finds the quota full, or by the sweep.
"""

import math
import time
from dataclasses import dataclass
from typing import Final

from media_core.database import Transaction
from media_core.errors import Refused

MIB = 1024 * 1024

_CHARGE: Final = """
WITH due AS (
    SELECT job_id, %(seconds)s - coalesce(charged_seconds, 0) AS seconds FROM job
    WHERE job_id = %(job_id)s AND coalesce(charged_seconds, 0) < %(seconds)s FOR UPDATE
), granted AS (
    INSERT INTO transcription_day (day, seconds)
    SELECT (now() AT TIME ZONE 'UTC')::date, due.seconds FROM due WHERE due.seconds <= %(limit)s
    ON CONFLICT (day) DO UPDATE SET seconds = transcription_day.seconds + excluded.seconds
    WHERE transcription_day.seconds + excluded.seconds <= %(limit)s
    RETURNING 1
), marked AS (
    UPDATE job SET charged_seconds = %(seconds)s FROM granted WHERE job.job_id = %(job_id)s RETURNING 1
)
SELECT (SELECT count(*) FROM due) AS due, (SELECT count(*) FROM marked) AS marked
"""
# What a header announced too much was charged when the job began, which may have been on another day than today.
_SETTLE: Final = """
WITH over AS (
    SELECT job_id, charged_seconds - %(seconds)s AS seconds,
        (coalesce(started_at, now()) AT TIME ZONE 'UTC')::date AS charged_on
    FROM job WHERE job_id = %(job_id)s AND charged_seconds > %(seconds)s FOR UPDATE
), given_back AS (
    UPDATE transcription_day SET seconds = GREATEST(transcription_day.seconds - over.seconds, 0) FROM over
    WHERE day = over.charged_on
)
UPDATE job SET charged_seconds = %(seconds)s FROM over WHERE job.job_id = over.job_id
"""
CHARGED_TODAY: Final = "SELECT seconds FROM transcription_day WHERE day = (now() AT TIME ZONE 'UTC')::date"


USAGE: Final = "stored_bytes, reserved_bytes, max_bytes, items, max_items"
"""Columns of the table `usage`, in the order of `Usage`."""


@dataclass(frozen=True)
class Usage:
    """Bytes and items, as in the `usage` row."""

    stored: int
    reserved: int
    maximum: int
    items: int = 0
    most_items: int | None = None
    """None: as many as there is room for."""

    def has_room_for(self, more_bytes: int) -> bool:
        return self.stored + self.reserved + more_bytes <= self.maximum

    @property
    def has_all_items(self) -> bool:
        return self.most_items is not None and self.items >= self.most_items

    @property
    def items_percent(self) -> int:
        return 0 if self.most_items is None else round(100 * self.items / self.most_items)


async def charge_transcription(tx: Transaction, job_id: str, seconds: int, limit: int) -> None:
    """Counts `seconds` of audio against the `limit` of today (UTC), once per job however often it is retried.

    Raises Refused `transcription_limit_exceeded`, and counts nothing, when the day's limit would be passed.
    """
    row = await tx.first(_CHARGE, {"job_id": job_id, "seconds": seconds, "limit": limit})
    if row.due and not row.marked:
        raise _day_exceeded(await _charged_today(tx), seconds, limit)


async def settle_transcription(tx: Transaction, job_id: str, seconds: int) -> None:
    """Gives back what a job was charged above `seconds`: its recording was shorter than its header said."""
    await tx.execute(_SETTLE, {"job_id": job_id, "seconds": seconds})


async def check_transcription(tx: Transaction, seconds: float, limit: int) -> None:
    """Raises as `charge_transcription` would now, and counts nothing."""
    used = await _charged_today(tx)
    if used + seconds > limit:
        raise _day_exceeded(used, seconds, limit)


async def _charged_today(tx: Transaction) -> int:
    return (await tx.value(CHARGED_TODAY)) or 0


def seconds_left_today() -> int:
    """Until the count of transcribed seconds starts anew, at 00:00 UTC."""
    return 24 * 3600 - int(time.time()) % (24 * 3600)


def _day_exceeded(used: int, seconds: float, limit: int) -> Refused:
    said = (
        f"This tenant may transcribe {limit // 60} minutes of audio a day; {max(limit - used, 0)} seconds are left, "
        f"and this recording has {math.ceil(seconds)}. The count starts anew at 00:00 UTC."
    )
    return Refused(
        "transcription_limit_exceeded",
        said if limit else "This tenant may transcribe no audio: its limit is 0 minutes a day.",
        limit=limit // 60,
        used=used // 60,
        retry_after=seconds_left_today(),
    )


def exceeded(usage: Usage, wanted: int) -> Refused:
    """The error of a full tenant, with the numbers that a client needs to act (http-api.md: 413)."""
    reserved = f", and uploads under way have reserved {usage.reserved:,} more" if usage.reserved else ""
    return Refused(
        "quota_exceeded",
        f"{wanted:,} bytes do not fit: this tenant stores {usage.stored:,} of {usage.maximum:,} bytes{reserved}. "
        "Delete something or ask for a larger quota.",
        max_storage_mb=usage.maximum // MIB,
        used=usage.stored,
        reserved=usage.reserved,
        limit=usage.maximum,
    )


def files_exceeded(usage: Usage) -> Refused:
    """The error of a tenant that may have no more items. As `exceeded`, in files."""
    return Refused(
        "file_quota_exceeded",
        f"This tenant has {usage.items:,} files, of {usage.most_items:,} that it may have. "
        "Delete some or ask for a larger quota.",
        max_files=usage.most_items,
        used=usage.items,
        limit=usage.most_items,
    )
