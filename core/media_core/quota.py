"""Storage and transcription quotas.

Invariant: stored_bytes + reserved_bytes <= max_bytes, whatever runs at once. It holds because every growth is one
conditional UPDATE of the one `usage` row; there is never a read that decides and an insert that follows. Bytes are
reserved before they are kept; the upload's transaction turns the reservation into stored bytes or nothing at all.
A limit lowered below what is stored stops growth and deletes nothing. The one exception is the canary (`canary`): 128
bytes for as long as its scan takes, since a full tenant's scanner has to be watched too.

Each reservation is a row with a deadline that its upload moves forward, so that what a killed process had reserved is
given back by the next one that finds the quota full (or by the sweep).
"""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from media_core.database import Database
from media_core.errors import Refused
from media_core.ids import new_ulid

RESERVATION_LIFETIME = timedelta(minutes=10)
MIB = 1024 * 1024

_RESERVE = text("""
WITH granted AS (
    UPDATE usage SET reserved_bytes = reserved_bytes + :bytes
    WHERE CAST(:over_quota AS boolean) OR stored_bytes + reserved_bytes + :bytes <= max_bytes
    RETURNING id
)
INSERT INTO reservation (reservation_id, bytes, expires_at)
SELECT :reservation_id, :bytes, now() + :lifetime FROM granted
ON CONFLICT (reservation_id) DO UPDATE
SET bytes = reservation.bytes + excluded.bytes, expires_at = excluded.expires_at
RETURNING reservation_id
""")
_RELEASE = text("""
WITH gone AS (DELETE FROM reservation WHERE reservation_id = :reservation_id RETURNING bytes)
UPDATE usage SET reserved_bytes = reserved_bytes - gone.bytes FROM gone
""")
_RELEASE_EXPIRED = text("""
WITH stale AS (
    SELECT reservation_id FROM reservation WHERE expires_at < now() ORDER BY reservation_id FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM reservation USING stale WHERE reservation.reservation_id = stale.reservation_id RETURNING bytes
), total AS (
    SELECT count(*) AS n, coalesce(sum(bytes), 0)::bigint AS bytes FROM gone
)
UPDATE usage SET reserved_bytes = reserved_bytes - total.bytes FROM total WHERE total.n > 0 RETURNING total.n
""")
_EXTEND = text("UPDATE reservation SET expires_at = now() + :lifetime WHERE reservation_id = :reservation_id")
_SETTLE = text("""
WITH gone AS (DELETE FROM reservation WHERE reservation_id = :reservation_id RETURNING bytes)
UPDATE usage SET stored_bytes = stored_bytes + :bytes, reserved_bytes = reserved_bytes - gone.bytes
FROM gone WHERE gone.bytes >= :bytes
RETURNING stored_bytes
""")
_SHRINK = text("UPDATE usage SET stored_bytes = stored_bytes - :bytes")
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


class Reservation:
    """The bytes that one upload may store. Grows while the upload is read; ends in `settle` or `release`.

    `over_quota`: granted whatever is stored, and counted like any other. For the canary alone.
    """

    def __init__(self, database: Database, *, over_quota: bool = False) -> None:
        self._database = database
        self._over_quota = over_quota
        self._id = new_ulid()
        self.bytes = 0

    async def grow_to(self, total: int) -> None:
        """Reserves up to `total` bytes in all; no-op when as many are reserved. Raises Refused `quota_exceeded`."""
        wanted = total - self.bytes
        if wanted <= 0:
            return
        parameters = {
            "bytes": wanted,
            "reservation_id": self._id,
            "lifetime": RESERVATION_LIFETIME,
            "over_quota": self._over_quota,
        }
        # Statements of their own: others wait for the usage row only as long as one of them takes.
        async with self._database.statement() as tx:
            granted = (await tx.execute(_RESERVE, parameters)).first()
            if granted is None and (await tx.execute(_RELEASE_EXPIRED)).first() is not None:
                granted = (await tx.execute(_RESERVE, parameters)).first()
            if granted is None:
                raise exceeded(await read(tx), total)
        self.bytes = total

    async def extend(self) -> None:
        """Moves the deadline forward while a slow client is still sending."""
        if self.bytes:
            async with self._database.statement() as tx:
                await tx.execute(_EXTEND, {"reservation_id": self._id, "lifetime": RESERVATION_LIFETIME})

    async def settle(self, tx: AsyncConnection, stored: int) -> None:
        """Inside the upload's transaction: `stored` bytes are kept, the rest is given back.

        Raises Refused `quota_exceeded` when the reservation has expired meanwhile or is smaller than `stored`.
        """
        if stored == 0:
            if self.bytes:
                await tx.execute(_RELEASE, {"reservation_id": self._id})
            return
        settled = (await tx.execute(_SETTLE, {"reservation_id": self._id, "bytes": stored})).first()
        if settled is None:
            raise exceeded(await read(tx), stored)

    def forget(self) -> None:
        """After the commit of the transaction that settled it: `release` has nothing left to do."""
        self.bytes = 0

    async def release(self) -> None:
        """Idempotent; also after `settle`, whose transaction may have failed."""
        if self.bytes:
            async with self._database.statement() as tx:
                await tx.execute(_RELEASE, {"reservation_id": self._id})
            self.bytes = 0


async def shrink(tx: AsyncConnection, stored: int) -> None:
    """Gives back stored bytes; in the transaction that makes them unreachable."""
    if stored:
        await tx.execute(_SHRINK, {"bytes": stored})


async def release_expired(tx: AsyncConnection) -> int:
    """How many reservations of dead processes were given back."""
    row = (await tx.execute(_RELEASE_EXPIRED)).first()
    return int(row.n) if row else 0


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
