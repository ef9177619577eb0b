"""The sweep: finds and repairs what killed processes left behind. Every step is idempotent.

Nothing is done if the schema does not belong to the bucket (`births`), or if PostgreSQL's clock and this machine's
differ: what is to be kept for days would go too early. An orphan (an object without a row) is noted when it is first
seen and removed days later. If there are more orphans than interrupted uploads can explain, they are kept, and the
operator reports them. A content whose object the listing does not show, and the store does not have when
it is asked, is noted as lost (rule 6 of `contents.life`). Each statement that writes looks at a bounded number of rows,
so a sweep of a million rows holds no lock for longer than one of a hundred. Nor does it need much more memory: orphans
are in their table only, and of the objects that were listed a few bits each are kept.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, LiteralString

import structlog

from media_core.contents.life import STANDS
from media_core.errors import Lost, Unavailable
from media_core.events import webhooks
from media_core.events.feed import Events
from media_core.items.library import Library
from media_core.jobs import backfill
from media_core.jobs.kinds import JOB_KINDS
from media_core.settings import RetentionSettings
from media_core.store.object_keys import content_key, names_content, thumbnail_key
from media_core.transcripts import passages
from media_core.upkeep import births
from media_core.uploads import expiry

STALE_STAGING: Final = timedelta(hours=24)
FIRST_SWEEPS: Final = 24
"""The first sweeps of a schema, in which usage is counted anew: a migration added counters, and pods of the previous
version ran on for a while without updating them."""
MOST_APART: Final = timedelta(hours=1)
"""By so much PostgreSQL's clock and this machine's may differ. What is kept for a time is kept for a day or longer."""
BATCH: Final = 200
"""Rows that one statement looks at."""
BITS: Final = 64
"""Bits for each object. A sweep misses one lost object in 64; a later sweep, which looks at other digits, finds it."""
MOST_BITS: Final = 1 << 27
LOOKS_AT_ONCE: Final = 16
LISTING_LIES: Final = 1000
"""After so many objects in a row that the listing did not show, and that are there, the store is asked for no more."""

_log = structlog.stdlib.get_logger("media.sweep")

_BEGINNING: Final = datetime.fromisoformat("0001-01-01T00:00:00+00:00")

_COUNTED: Final = f"""
WITH standing AS (
    SELECT sha256, size, thumbnail_size FROM blob WHERE {STANDS}
), counted AS (
    SELECT * FROM (
        SELECT count(*) AS objects, coalesce(sum(size), 0)::bigint AS object_bytes,
            coalesce(sum(size + thumbnail_size), 0)::bigint AS stored_bytes FROM standing
    ) AS contents, (
        SELECT count(*) AS items, coalesce(sum(size), 0)::bigint AS item_bytes FROM media JOIN standing USING (sha256)
    ) AS uploads
)
"""  # noqa: S608 (only constants are put in)
_MISCOUNTED: Final = f"""
{_COUNTED}
SELECT (usage.objects, usage.object_bytes, usage.stored_bytes, usage.items, usage.item_bytes) IS DISTINCT FROM
    (counted.objects, counted.object_bytes, counted.stored_bytes, counted.items, counted.item_bytes) AS wrong
FROM usage, counted
"""  # noqa: S608 (only constants are put in)
_LOCK_USAGE: Final = "SELECT FROM usage FOR UPDATE"  # first, so that changes under way end before the count
_COUNT_ANEW: Final = f"""
{_COUNTED}
UPDATE usage SET objects = counted.objects, object_bytes = counted.object_bytes, stored_bytes = counted.stored_bytes,
    items = counted.items, item_bytes = counted.item_bytes
FROM counted
"""  # noqa: S608 (only constants are put in)
# Marked contents that are due, the oldest first. Contents that are held for days are not looked at.
_MARKED: Final = """
SELECT sha256, coalesce(remove_after, doomed_at) AS due_at FROM blob
WHERE doomed_at IS NOT NULL AND coalesce(remove_after, doomed_at) <= now()
    AND (coalesce(remove_after, doomed_at), sha256) > (%s, %s)
ORDER BY coalesce(remove_after, doomed_at), sha256 LIMIT %s
"""
_OLD: Final = (
    "DELETE FROM idempotency WHERE ctid = ANY(ARRAY("
    "SELECT ctid FROM idempotency WHERE created_at < now() - interval '24 hours' LIMIT %s))",
    "DELETE FROM media_tombstone WHERE ctid = ANY(ARRAY("
    "SELECT ctid FROM media_tombstone WHERE deleted_at < now() - interval '30 days' LIMIT %s))",
    *(
        f"DELETE FROM job WHERE ctid = ANY(ARRAY(SELECT ctid FROM job WHERE kind = '{kind.name}'"  # noqa: S608 (constants)
        f" AND finished_at < now() - interval '{kind.kept.days} days' LIMIT %s))"
        for kind in JOB_KINDS.values()
    ),
    "DELETE FROM transcription_day WHERE ctid = ANY(ARRAY("
    "SELECT ctid FROM transcription_day WHERE day < now() - interval '90 days' LIMIT %s))",
)
# Times until which something waits or is held. Where the server's clock ran ahead and was set back, they are too far
# off: all that was queued or held meanwhile would stay so for as long as the clock had been wrong.
_WAITS: Final = (
    *(("job", "job_id", "run_after", f"status = 'queued' AND kind = '{kind}'") for kind in JOB_KINDS),
    ("job", "job_id", "lease_until", "status = 'running'"),
    ("upload", "upload_id", "claimed_until", "claim IS NOT NULL"),
    ("webhook", "webhook_id", "claimed_until", "claim IS NOT NULL"),
    ("webhook", "webhook_id", "retry_at", "true"),
    ("webhook_delivery", "webhook_id, position", "due_at", "dead_at IS NULL"),
)
_LONGEST_WAIT: Final = timedelta(hours=2)
"""No job, upload or webhook is made to wait for longer."""
_TOO_FAR_OFF: Final = tuple(
    f"UPDATE {table} SET {column} = now() WHERE ({key}) IN (SELECT {key} FROM {table} WHERE {which}"  # noqa: S608 (constants)
    f" AND {column} > now() + interval '{_LONGEST_WAIT.total_seconds():.0f} seconds'"
    " LIMIT %s FOR UPDATE SKIP LOCKED)"
    for table, key, column, which in _WAITS
)
# The row of infected content whose objects have been removed does not count: an object of it is an orphan.
_HAS_ROW: Final = (
    "EXISTS (SELECT FROM blob WHERE sha256 = {0} AND (scan_status <> 'infected' OR doomed_at IS NOT NULL))"
)
# An orphan that was noted before keeps its size and `first_seen`; so does one that is listed again as a thumbnail.
_NOTE_ORPHANS: Final = f"""
INSERT INTO orphan (sha256, size, seen_in)
SELECT o.sha256, o.size, %s FROM unnest(%s::text[], %s::bigint[]) AS o(sha256, size)
WHERE NOT {_HAS_ROW.format("o.sha256")} ORDER BY o.sha256
ON CONFLICT (sha256) DO UPDATE SET seen_in = excluded.seen_in WHERE orphan.seen_in < excluded.seen_in
"""  # noqa: S608 (only constants are put in)
_FORGET_ORPHANS: Final = f"""
WITH looked_at AS (
    SELECT sha256, seen_in < %s OR {_HAS_ROW.format("orphan.sha256")} AS is_over
    FROM orphan WHERE orphan.sha256 > %s ORDER BY orphan.sha256 LIMIT %s
), forgotten AS (
    DELETE FROM orphan WHERE sha256 = ANY(ARRAY(SELECT sha256 FROM looked_at WHERE is_over))
)
SELECT max(sha256) AS sha256 FROM looked_at HAVING count(*) > 0
"""  # noqa: S608 (only constants are put in)
_STANDING: Final = f"""
SELECT sha256, size, lost_at IS NOT NULL AS lost FROM blob
WHERE {STANDS} AND sha256 > %s ORDER BY sha256 LIMIT %s
"""  # noqa: S608 (only constants are put in)
_RELEASED: Final = "coalesce(first_seen <= (SELECT orphans_released_at FROM swept), false)"
# Reads all rows at once: it takes no lock that anybody waits for.
_COUNT_ORPHANS: Final = f"""
SELECT count(*) AS objects, coalesce(sum(size), 0)::bigint AS bytes, min(first_seen) AS since,
    count(*) FILTER (WHERE NOT {_RELEASED}) AS undecided
FROM orphan
"""  # noqa: S608 (only constants are put in)
_ORPHANS: Final = f"""
SELECT sha256, first_seen <= now() - %s * interval '1 day' AS due, {_RELEASED} AS released
FROM orphan WHERE sha256 > %s ORDER BY sha256 LIMIT %s
"""  # noqa: S608 (only constants are put in)
_REPORT: Final = """
INSERT INTO swept (id, swept_at, listed, orphans, orphan_bytes, orphans_kept, orphans_since)
VALUES (1, now(), %s, %s, %s, %s, %s)
ON CONFLICT (id) DO UPDATE SET swept_at = excluded.swept_at, listed = excluded.listed, orphans = excluded.orphans,
    orphan_bytes = excluded.orphan_bytes, orphans_kept = excluded.orphans_kept, orphans_since = excluded.orphans_since
"""


@dataclass
class Swept:
    """What one sweep did, in numbers. `orphans`: those removed; `orphans_seen`: all that there were."""

    reservations: int = 0
    marked: int = 0
    staging: int = 0
    orphans: int = 0
    orphans_seen: int = 0
    orphans_kept: bool = False
    lost: int = 0
    """Contents whose object the store has lost, those of earlier sweeps included."""
    scans: int = 0
    thumbnails: int = 0
    uploads: int = 0
    """Uploads in several requests that had expired."""
    transcripts: int = 0
    """Older transcripts that can be searched from now on."""
    words: int = 0
    """Words that no transcript has any more."""
    events: int = 0
    """Events that were older than events are kept."""
    mismatch: str = ""
    """The `births.Relation`, if schema and bucket do not belong together; then nothing else was done."""


async def sweep(library: Library, retention: RetentionSettings | None = None) -> Swept:
    """One pass over the tenant. Raises Unavailable; the next sweep does the rest."""
    retention = retention or RetentionSettings()
    swept = Swept()
    found = await births.meet(library.database, library.store, library.tenant_id)
    if found != "same":
        swept.mismatch = found
        _log.error("not_swept", schema_is=found, see="the runbook, DataMismatch")
        return swept
    await _compare_clocks(library)
    epoch = await births.next_epoch(library.database, library.store, library.tenant_id)
    if epoch <= FIRST_SWEEPS:
        await _count_anew(library)
    for statement in _TOO_FAR_OFF:
        await _until_nothing_is_left(library, statement)
    await expiry.settle(library.database)
    swept.reservations = await _end_reservations(library)
    for statement in _OLD:
        await _until_nothing_is_left(library, statement)
    async for sha256 in _due_contents(library):
        swept.marked += await library.contents.remove(sha256)
    if (await library.policy.current()).scan_enabled:
        swept.scans = await _queue(library, backfill.SCANS)
    swept.thumbnails = await _queue(library, backfill.THUMBNAILS)
    swept.uploads = await expiry.expire(library)
    events = Events(library.database)
    await events.place_all()
    swept.events = await events.forget(timedelta(days=retention.event_days))
    await webhooks.forget(library.database, timedelta(days=retention.event_days))
    swept.staging = await library.store.sweep_staging(STALE_STAGING, await expiry.alive(library.database))
    seen = _Seen((await library.totals()).objects, epoch)
    listed = await _note_orphans(library, epoch, seen)
    swept.lost = await _note_losses(library, seen)
    await _remove_orphans(library, retention, epoch, listed, swept)
    swept.transcripts = await passages.fill(library.database)
    swept.words = await passages.forget_words(library.database, epoch)
    _log.info("swept", **asdict(swept))
    return swept


async def _compare_clocks(library: Library) -> None:
    """Raises Unavailable where one of the two clocks is wrong."""
    ((theirs,),) = await library.database.call("SELECT now()", ())
    ours = _now()
    if abs(theirs - ours) > MOST_APART:
        raise Unavailable(
            "database", f"its clock says {theirs.astimezone(UTC):%F %R} UTC, and this machine's {ours:%F %R}"
        )


def _now() -> datetime:
    return datetime.now(UTC)


async def _count_anew(library: Library) -> None:
    """Counts usage anew if it is wrong. The check reads rows and usage in one snapshot, and takes no lock."""
    (row,) = await library.database.call(_MISCOUNTED, ()) or (None,)
    if row is None or not row.wrong:
        return
    async with library.database.transaction() as tx:
        await tx.execute(_LOCK_USAGE)
        await tx.execute(_COUNT_ANEW)


async def _end_reservations(library: Library) -> int:
    given_back = 0
    while True:
        (row,) = await library.database.call("SELECT content_release_expired() AS n", ())
        given_back += int(row.n)
        if row.n == 0:
            return given_back


async def _until_nothing_is_left(library: Library, statement: Any) -> None:
    while await library.database.call(statement + " RETURNING 1", (BATCH,)):
        pass


async def _in_batches(library: Library, statement: Any, *first: Any) -> AsyncIterator[list[Any]]:
    """Rows of `statement` in batches. Its last two parameters: the last sha256 of the previous batch, and a limit."""
    after = ""
    while rows := await library.database.call(statement, (*first, after, BATCH)):
        yield rows
        after = rows[-1].sha256


async def _due_contents(library: Library) -> AsyncIterator[str]:
    at, after = _BEGINNING, ""
    while rows := await library.database.call(_MARKED, (at, after, BATCH)):
        for row in rows:
            yield row.sha256
        at, after = rows[-1].due_at, rows[-1].sha256


async def _queue(library: Library, statement: LiteralString) -> int:
    if queued := await backfill.queue(library.database.call, statement):
        library.database.announce()
    return queued


async def _remove_orphans(
    library: Library, retention: RetentionSettings, epoch: int, listed: int, swept: Swept
) -> None:
    """Removes the orphans that were noted days ago, unless there are too many of `listed` objects, and those that a
    person has released.
    """
    # Orphans that the listing did not show are gone, and those that have a row by now are orphans no more.
    async for _ in _in_batches(library, _FORGET_ORPHANS, epoch):
        pass
    (seen,) = await library.database.call(_COUNT_ORPHANS, ())
    swept.orphans_seen = seen.objects
    most = max(retention.orphans_few, int(retention.orphan_share * listed))
    swept.orphans_kept = seen.undecided > most
    if swept.orphans_kept:
        _log.error("orphans_kept", orphans=seen.undecided, of=listed, more_than=most)
    async for rows in _in_batches(library, _ORPHANS, retention.orphan_days):
        for row in rows:
            may_go = row.released or (row.due and not swept.orphans_kept)
            if may_go and await library.contents.remove_orphan(row.sha256):
                swept.orphans += 1
    (left,) = await library.database.call(_COUNT_ORPHANS, ())
    await library.database.call(_REPORT, (listed, left.objects, left.bytes, swept.orphans_kept, left.since))


class _Seen:
    """Which objects a listing has shown, by hash and size, in a bit each: it may say of one that was not shown that it
    was, never the other way round. Each sweep looks at other digits of the hash.
    """

    def __init__(self, objects: int, epoch: int) -> None:
        self._bits = bytearray(min(max(objects, 1024) * BITS, MOST_BITS) // 8)
        self._from = epoch % 48

    def _bit(self, sha256: str, size: int) -> tuple[int, int]:
        """Raises ValueError for what is no hash."""
        return divmod((int(sha256[self._from : self._from + 16], 16) + size) % (8 * len(self._bits)), 8)

    def add(self, name: str, size: int) -> None:
        with contextlib.suppress(ValueError):
            at, bit = self._bit(name, size)
            self._bits[at] |= 1 << bit

    def has(self, sha256: str, size: int) -> bool:
        with contextlib.suppress(ValueError):
            at, bit = self._bit(sha256, size)
            return bool(self._bits[at] >> bit & 1)
        return False


async def _note_losses(library: Library, seen: _Seen) -> int:
    """Notes the contents whose object is missing, and ends the losses of those that are there again. Deletes nothing.

    Returns how many are lost. The listing only says whom to ask the store for: objects come while it is read.
    """
    lost, there = 0, 0
    async for rows in _in_batches(library, _STANDING):
        # Of what was lost before and is not listed nothing has to be asked.
        lost += sum(row.lost and not seen.has(row.sha256, row.size) for row in rows)
        doubtful = [row for row in rows if row.lost == seen.has(row.sha256, row.size)]
        while doubtful and there < LISTING_LIES:
            some, doubtful = doubtful[:LOOKS_AT_ONCE], doubtful[LOOKS_AT_ONCE:]
            are_lost = await asyncio.gather(*(_is_lost(library, row) for row in some))
            lost += sum(are_lost)
            there = 0 if any(are_lost) else there + len(some)
    if there >= LISTING_LIES:
        _log.error("listing_is_not_whole", contents_not_listed=there)
    return lost


async def _is_lost(library: Library, row: Any) -> bool:
    if await library.contents.is_there(row.sha256, row.size):
        return False
    return isinstance(await library.contents.missed(row.sha256), Lost)


async def _note_orphans(library: Library, epoch: int, seen: _Seen) -> int:
    """Notes the objects that have no row as seen in this sweep. Returns how many objects there are in all."""
    listed = 0
    contents = content_key(library.tenant_id, "")
    for prefix in (contents, thumbnail_key(library.tenant_id, "")):
        async for batch in _batches(library, prefix):
            listed += len(batch)
            if prefix == contents:
                for name, size in batch.items():
                    seen.add(name, size)
            await library.database.call(_NOTE_ORPHANS, (epoch, list(batch), list(batch.values())))
    return listed


async def _batches(library: Library, prefix: str) -> AsyncIterator[dict[str, int]]:
    """The hashes directly below the prefix, with their sizes in bytes. Other names are not of this platform."""
    batch: dict[str, int] = {}
    async for entry in library.store.list(prefix):
        name = entry.key.removeprefix(prefix)
        if not names_content(name):
            continue
        batch[name] = entry.size
        if len(batch) >= BATCH:
            yield batch
            batch = {}
    if batch:
        yield batch
