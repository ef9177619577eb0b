"""The end of uploads that nobody goes on with: what the sweep does about uploads that come in several requests."""

import contextlib
from typing import Final

from media_core.database import Database
from media_core.errors import Refused
from media_core.items.library import Library
from media_core.uploads.claims import RESERVED_LONGER
from media_core.uploads.rows import remove

# Of uploads whose process ended between the commit and the note in the row.
_NOTE_ANSWERS: Final = """
UPDATE upload SET answer = idempotency.answer FROM idempotency
WHERE subject = owner AND key = 'upload ' || upload_id AND received = length AND upload.answer IS NULL
    AND idempotency.answer IS NOT NULL
"""
# Of parts whose final upload was killed: their reservations had gone to it.
_RESERVE_AGAIN: Final = """
WITH uncounted AS (
    SELECT upload_id, greatest(received, coalesce(length, 0)) AS bytes, expires_at FROM upload
    WHERE answer IS NULL AND NOT ending AND (claim IS NULL OR claimed_until <= now())
        AND greatest(received, coalesce(length, 0)) > 0
        AND NOT EXISTS (SELECT FROM reservation WHERE reservation_id = upload_id)
    ORDER BY upload_id LIMIT 200 FOR UPDATE SKIP LOCKED
), reserved AS (
    INSERT INTO reservation (reservation_id, bytes, expires_at)
    SELECT upload_id, bytes, expires_at + %s FROM uncounted ON CONFLICT DO NOTHING RETURNING bytes
), counted AS (
    UPDATE usage SET reserved_bytes = reserved_bytes + (SELECT sum(bytes) FROM reserved)
    WHERE EXISTS (SELECT FROM reserved)
)
SELECT count(*) AS n FROM reserved
"""
_ENDED: Final = """
SELECT upload_id FROM upload
WHERE (expires_at <= now() OR ending) AND (claim IS NULL OR claimed_until <= now()) AND upload_id > %s
ORDER BY upload_id LIMIT 200
"""
# A request whose claim has run out, or that goes on with a remembered one, adds nothing from here on.
_EXPIRE: Final = """
UPDATE upload SET ending = true, claim = NULL, claimed_until = NULL
WHERE upload_id = %s AND (expires_at <= now() OR ending) AND (claim IS NULL OR claimed_until <= now()) RETURNING 1
"""
_ALIVE: Final = "SELECT upload_id FROM upload WHERE NOT ending"


async def expire(library: Library) -> int:
    """Ends the uploads that have expired, and those whose end was interrupted. Returns how many."""
    ended, after = 0, ""
    while rows := await library.database.call(_ENDED, (after,)):
        for row in rows:
            with contextlib.suppress(Refused):  # somebody has taken it up
                await _expire(library, row.upload_id)
                ended += 1
        after = rows[-1].upload_id
    return ended


async def settle(database: Database) -> None:
    """Notes in the rows what killed processes did not.

    Answers: their Idempotency-Keys are forgotten after a day, and an upload may stay for longer. Reservations, however
    full the tenant is: the bytes are in staging.
    """
    await database.call(_NOTE_ANSWERS, ())
    while (await database.call(_RESERVE_AGAIN, (RESERVED_LONGER,)))[0].n:
        pass


async def alive(database: Database) -> set[str]:
    """The names in staging of uploads under way."""
    return {row.upload_id for row in await database.call(_ALIVE, ())}


async def _expire(library: Library, upload_id: str) -> None:
    marked = await library.database.call(_EXPIRE, (upload_id,))
    if not marked:
        return
    await remove(library.database, library.store, upload_id)
