"""A content's life. This module writes a content's row, its reservations and its share of the quota.

Two other modules write too: `jobs.queue`, when a job ended without a result; `upkeep.sweep`, when it counts all rows
anew.

    (nothing) --reserve--> reserved, no row yet --commit--> stored, pending --verdict--> clean | unscannable | error
        ^                      |  expires: garbage                |                            |
        |                      '--> an object without a row,      | verdict                    | last item deleted
        |                           see `sweep`                   v                            v
        '---finish removal--- removing (a claim of minutes) <--- marked (doomed_at, remove_after)
                                                                  infected: the row stays, as a tombstone

An upload is *reserve, put, commit*. Reserve and commit are short statements, the functions of `life.sql`. No
transaction or connection is held while the object store works. The statements keep these rules:

1. A row exists only where its object exists. The object is put before `commit`. It is deleted only under a claim
   (`removing_until`); a claim needs a marked row that is due and that no reservation names. The end of a removal, and
   the takeover of an abandoned one, end every reservation of that content. `commit` needs a reservation that names the
   content, and a row without a claim. So an object that was put before a removal ended is always put again.
2. A claim lasts `REMOVAL_LEASE`. Its holder begins to delete within `REMOVAL_BEGINS`, and a store's delete is over
   within 30 s, so nobody deletes after the claim has gone to somebody else. Only this rule depends on clocks.
3. `usage` agrees with the rows: stored_bytes, objects, object_bytes, items and item_bytes with the rows that are
   neither marked nor infected, reserved_bytes with the reservations. Each statement that changes one changes the other.
   Recalled content counts again, even if that exceeds the quota.
4. Rows are locked in this order: idempotency -> content -> reservation -> job -> media, room -> usage. `usage` comes
   last and is held shortest. Several rows of one kind are locked in the order of their keys. A deletion locks its
   content's scan and thumbnail jobs after the media: nobody who holds these waits for it.
5. Content that was open before (clean, unscannable) and is found infected can be recalled: its objects stay for the
   recall time, and longer while its signature is suspicious, which means that it finds more than a few such contents.
6. A store can lose an object. Whoever meets that notes it in the row (`lost_at`); rule 1 then says: a row without its
   object is lost, as soon as somebody has looked. Nothing is deleted for it. An upload of the same bytes puts them
   again, and `commit` ends the loss; so does whoever finds the object.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, Literal

import psycopg
import structlog

from media_core import logs
from media_core.contents.quota import USAGE, Usage, exceeded, files_exceeded
from media_core.database import Database
from media_core.errors import Lost, Refused, Unavailable, not_found
from media_core.folding import folded
from media_core.ids import new_job_id, new_ulid
from media_core.store.base import ObjectStore
from media_core.store.object_keys import content_key, thumbnail_key

RESERVATION_LIFETIME: Final = timedelta(minutes=10)
EXTEND_SECONDS: Final = 60.0
"""How often the expiry of a reservation is moved forward while its upload reads or puts."""
REMOVAL_LEASE: Final = timedelta(minutes=2)
REMOVAL_BEGINS: Final = 30.0
"""Seconds from the claim within which its holder has to begin the deletion, by the holder's clock."""

_log = structlog.stdlib.get_logger("media.contents")

STANDS: Final = "doomed_at IS NULL AND scan_status <> 'infected'"
"""Condition of a row of `blob`: files have this content, and its objects have to be there."""
LOST: Final = f"lost_at IS NOT NULL AND {STANDS}"
"""Condition of a row of `blob`: its objects have to be there, and are not."""

_NOTE_LOSS: Final = f"""
WITH noted AS (
    UPDATE blob SET lost_at = now()
    WHERE sha256 = %(sha256)s AND lost_at IS NULL AND {STANDS} RETURNING 1
)
SELECT size, EXISTS (SELECT FROM noted) AS is_new FROM blob
WHERE sha256 = %(sha256)s AND {STANDS}
"""  # noqa: S608 (only constants are put in)
_BEGIN: Final = "SELECT * FROM content_begin(%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s)"
_COMMIT: Final = (
    "SELECT * FROM content_commit(%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s)"
)
# An answer that is given again changes no labels.
_LABELLED: Final = """
WITH made AS MATERIALIZED ({}), labelled AS (
    INSERT INTO label (media_id, key, value)
    SELECT made.answer ->> 'media_id', key, value FROM made, jsonb_each_text(%s::jsonb)
    WHERE made.state IN ('new', 'stored')
)
SELECT * FROM made
"""
_END_LOSS: Final = "UPDATE blob SET lost_at = NULL WHERE sha256 = %s AND lost_at IS NOT NULL"


class Infected(Exception):
    """These bytes are known to be infected, and are not accepted."""


class Again(Exception):
    """The content is being removed, or the reservation has ended: begin anew, and put the object again."""


class KeyReused(Exception):
    """The Idempotency-Key was used for another request."""


class NoMoreFiles(Exception):
    """The tenant has as many items as it may have."""


_ERRORS: Final = {"MC001": Infected, "MC002": Again, "MC003": KeyReused, "MC004": NoMoreFiles}


@dataclass(frozen=True)
class NewItem:
    """The item that an upload makes. `fingerprint`: of the request, so that a reused Idempotency-Key is noticed."""

    media_id: str
    filename: str
    claimed_type: str | None
    subject: str
    tenant_scope: bool
    room_id: str | None
    key: str | None
    """Idempotency-Key."""
    fingerprint: str
    labels: Mapping[str, str] = field(default_factory=dict)

    def columns(self) -> tuple[str | bool | None, ...]:
        """In the order of the parameters of `content_begin` and `content_commit`."""
        return (
            self.media_id,
            self.filename,
            self.claimed_type,
            self.subject,
            self.tenant_scope,
            self.room_id,
            self.key,
            self.fingerprint,
        )


@dataclass(frozen=True)
class Facts:
    """What the bytes are. Sizes in bytes, width and height in pixels, duration in seconds."""

    size: int
    mime_type: str
    width: int | None = None
    height: int | None = None
    duration: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    """More that some contents have: the `charset` of text, the `thumbhash` of a picture, why a document has
    `no_thumbnail`. Keys and values are JSON."""
    thumbnail_status: str = "none"
    thumbnail_sha256: str | None = None
    thumbnail_size: int = 0


@dataclass(frozen=True)
class Begun:
    """`stored`: the content is there and has the item; `replayed`: the answer to an earlier request with this key. Both
    are done, with the published answer. `reserved`: put the object, then commit. `removing`: the same bytes are being
    removed at this moment; begin again shortly.
    """

    state: Literal["stored", "replayed", "reserved", "removing"]
    answer: dict[str, Any] | None


@dataclass(frozen=True)
class Committed:
    answer: dict[str, Any]
    replayed: bool


@dataclass(frozen=True)
class Verdict:
    """What a scan found, and the lease under which it ran. `status`: `clean`, `unscannable` or `infected`."""

    job_id: str
    token: str = field(repr=False)
    sha256: str
    status: str
    detail: str | None
    engine: str | None


class Contents:
    """One tenant's contents. Every method raises Unavailable when the database is away; some also for the store."""

    def __init__(self, *, tenant_id: str, database: Database, store: ObjectStore) -> None:
        self.tenant_id = tenant_id
        self.database = database
        self.store = store

    # -- uploads -------------------------------------------------------------------------------------------------

    def reservation(
        self,
        reservation_id: str | None = None,
        *,
        held: int = 0,
        lifetime: timedelta = RESERVATION_LIFETIME,
        over_quota: bool = False,
    ) -> "Reservation":
        """A new one, or the one of this id, which holds `held` bytes. `lifetime`: until when it is moved forward."""
        return Reservation(self, reservation_id, held=held, lifetime=lifetime, over_quota=over_quota)

    async def commit(
        self,
        reservation: "Reservation",
        sha256: str,
        facts: Facts,
        item: NewItem,
        *,
        scan_owner: str | None = None,
        scan_priority: int = 0,
    ) -> Committed:
        """After the put: writes the content's row, the item and its jobs in one durable transaction, and ends the
        reservation. Raises Infected, Again, KeyReused, NoMoreFiles; then nothing was written.
        """
        row = await self._made(
            _COMMIT,
            item,
            reservation.id,
            sha256,
            facts.size,
            facts.mime_type,
            facts.width,
            facts.height,
            facts.duration,
            json.dumps(facts.details),
            facts.thumbnail_status,
            facts.thumbnail_sha256,
            facts.thumbnail_size,
            *item.columns(),
            new_job_id(),
            scan_owner,
            scan_priority,
            new_job_id(),
            logs.request_id(),
            folded(item.filename),
        )
        reservation.ended()
        if row.state == "new":
            self.database.announce()
        return Committed(row.answer, replayed=row.state == "replayed")

    async def earlier(self, subject: str, key: str, fingerprint: str) -> Any:
        """The answer given under this Idempotency-Key in the last 24 hours; None: there is none. Raises KeyReused."""
        ((answer,),) = await self._call("SELECT content_earlier(%s, %s, %s)", subject, key, fingerprint)
        return answer

    async def usage(self) -> Usage:
        (row,) = await self._call(f"SELECT {USAGE} FROM usage") or [(0, 0, 0)]  # noqa: S608 (a constant)
        return Usage(*row)

    # -- objects that the store has lost ---------------------------------------------------------------------------

    async def missed(self, sha256: str, *, other_bytes: bool = False) -> Lost | Unavailable | Refused:
        """What to raise when the store has said that it has no object of this content, or has given `other_bytes`.

        Lost: a row that stands names the object. That is noted, durably. Refused `not_found`: the content was deleted
        meanwhile. Unavailable: the store says now that it has the object. Raises Unavailable if store or database is
        away.
        """
        rows = await self.database.call(_NOTE_LOSS, {"sha256": sha256})
        if not rows:
            return not_found()
        # Looked for again after the note: it may have been put between the look before and the note.
        if not other_bytes and await self.is_there(sha256, rows[0].size):
            return Unavailable("object store", "it said that this object is missing, and has it")
        if rows[0].is_new:
            _log.error("object_lost", sha256=sha256, size=rows[0].size, see="the runbook, Lost objects")
        return Lost()

    async def is_there(self, sha256: str, size: int) -> bool:
        """Whether the store has the object, whole. If so, it is lost no more."""
        found = await self.store.head(content_key(self.tenant_id, sha256))
        if found is None or found.size != size:
            return False
        await self._call(_END_LOSS, sha256)
        return True

    async def thumbnail_missed(self, sha256: str) -> Lost | Refused | None:
        """As `missed`, for a thumbnail. None: the store has the content, so a worker makes the thumbnail again."""
        missed = await self.missed(sha256)
        if isinstance(missed, Lost | Refused):
            return missed
        (row,) = await self._call("SELECT content_thumbnail_missing(%s,%s) AS pending", sha256, new_job_id())
        if not row.pending:
            return not_found()
        _log.warning("thumbnail_lost", sha256=sha256)
        self.database.announce()
        return None

    # -- deleting and removing -------------------------------------------------------------------------------------

    async def delete_item(self, media_id: str, *, forget_key: str | None = None) -> bool:
        """Deletes the item, durably. With the last item the content is marked, and its bytes leave the quota.

        False: there was no such item. The objects of a marked content are removed at once if the store is there, and by
        the sweep otherwise; the deletion cannot be undone. `forget_key`: the upload's Idempotency-Key, which may be
        used again afterwards.
        """
        (row,) = await self._call("SELECT * FROM content_delete_item(%s,%s)", media_id, forget_key)
        if row.state == "marked":
            await self.remove_soon(row.content_sha256)
        return bool(row.state != "absent")

    async def remove_soon(self, sha256: str) -> None:
        """`remove`, if database and store are there; otherwise the sweep does it later. Does not raise Unavailable."""
        try:
            await asyncio.shield(asyncio.ensure_future(self.remove(sha256)))
        except Unavailable as error:
            _log.warning("removal_left_to_the_sweep", dependency=error.dependency, detail=error.detail)

    async def remove(self, sha256: str) -> bool:
        """Removes the objects of marked content, then its row; infected content keeps its row.

        False: it must not be removed now (in use again, being uploaded, not due, or being removed by somebody else).
        Raises Unavailable also for the store; the next caller continues a removal that stopped half-way.
        """
        return await self._remove(sha256, "SELECT content_claim_removal(%s,%s) AS until")

    async def remove_orphan(self, sha256: str) -> bool:
        """As `remove`, for objects that have no row."""
        return await self._remove(sha256, "SELECT content_claim_orphan(%s,%s) AS until")

    async def _remove(self, sha256: str, claim: Any) -> bool:
        began = time.monotonic()
        (row,) = await self._call(claim, sha256, REMOVAL_LEASE)
        if row.until is None:
            return False
        if time.monotonic() - began > REMOVAL_BEGINS:
            return False  # the claim may end before the deletion does
        await self.store.delete(content_key(self.tenant_id, sha256), thumbnail_key(self.tenant_id, sha256))
        (row,) = await self._call("SELECT content_finish_removal(%s,%s) AS finished", sha256, row.until)
        return bool(row.finished)

    # -- verdicts and thumbnails -----------------------------------------------------------------------------------

    async def record_verdicts(
        self, verdicts: Iterable[Verdict], *, recall: timedelta = timedelta(days=7), few: int = 5
    ) -> set[str]:
        """Writes verdicts and completes their jobs, durably, in one statement; returns the ids of jobs still held.

        The leases fence it: nothing is written for a job whose lease has passed to somebody else. From then on infected
        content is 404 on every read path. `recall` and `few`: see rule 5.
        """
        by_job = {verdict.job_id: verdict for verdict in verdicts}
        rows = await self._call(
            "SELECT * FROM content_verdicts(%s::jsonb,%s,%s)",
            json.dumps([vars(verdict) for verdict in by_job.values()]),
            recall,
            few,
        )
        with contextlib.suppress(Unavailable):  # the verdicts are written; the waiting jobs look again by themselves
            await self._end_waits([by_job[row.held_job_id].sha256 for row in rows])
        await asyncio.gather(*(self.remove_soon(by_job[row.held_job_id].sha256) for row in rows if row.remove))
        return {row.held_job_id for row in rows}

    async def _end_waits(self, contents: list[str]) -> None:
        """Makes the jobs that wait for the verdicts of these contents due now."""
        due = await self._call(
            """
            UPDATE job SET run_after = now() WHERE job_id IN (
                SELECT job_id FROM job
                WHERE kind = 'transcribe' AND status = 'queued' AND run_after > now() AND attempts = 0
                  AND payload ->> 'sha256' = ANY(%s)
                FOR UPDATE SKIP LOCKED
            ) RETURNING job_id
            """,
            contents,
        )
        if due:
            self.database.announce()

    async def keep_thumbnail(
        self,
        *,
        job_id: str,
        token: str,
        sha256: str,
        data: bytes,
        digest: str,
        width: int | None,
        height: int | None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Stores the thumbnail of a job's content within the quota and completes the job.

        Raises Refused `quota_exceeded` when the tenant is full; Again when the lease or the reservation has ended;
        Unavailable also for the store.
        """
        async with self.reservation() as reservation:
            await reservation.grow_to(len(data), sha256)
            async with reservation.extended():
                await self.store.put(thumbnail_key(self.tenant_id, sha256), data)
            await self._call(
                "SELECT content_thumbnail(%s,%s,%s,%s,%s,%s,%s,%s,%s)",
                job_id,
                token,
                reservation.id,
                sha256,
                digest,
                len(data),
                width,
                height,
                json.dumps(details or {}),
            )
            reservation.ended()

    async def close_canary(self, sha256: str, owner: str) -> None:
        """Keeps a canary's verdict, and removes all else of it. Idempotent."""
        (row,) = await self._call("SELECT content_close_canary(%s,%s) AS marked", sha256, owner)
        if row.marked:
            await self.remove_soon(sha256)
        # Other infected content keeps its row, so that it is refused for ever. A canary's bytes never come again.
        await self._call(
            """
            DELETE FROM blob WHERE sha256 = %s AND scan_status = 'infected' AND doomed_at IS NULL
              AND NOT EXISTS (SELECT FROM media WHERE media.sha256 = blob.sha256)
            """,
            sha256,
        )

    async def _made(self, query: str, item: NewItem, *arguments: Any) -> Any:
        """The row of a statement that may add the item, which has its labels in the same statement."""
        if item.labels:
            query, arguments = _LABELLED.format(query), (*arguments, json.dumps(dict(item.labels)))
        (row,) = await self._call(query, *arguments)
        return row

    async def _call(self, query: Any, *arguments: Any) -> list[Any]:
        try:
            return await self.database.call(query, arguments)
        except psycopg.Error as error:
            if (known := _ERRORS.get(error.sqlstate or "")) is not None:
                raise known from None
            raise


class Reservation:
    """The bytes that one upload may store. From `begin` on it also prevents the removal of its content. A context
    manager: it gives the bytes back unless `commit` has ended it.
    """

    def __init__(
        self,
        contents: Contents,
        reservation_id: str | None,
        *,
        held: int,
        lifetime: timedelta,
        over_quota: bool,
    ) -> None:
        self.id = reservation_id or new_ulid()
        self.bytes = held
        self.over_quota = over_quota
        """Granted however full the tenant is, and counted like any other: for the canary and what stands already."""
        self._contents = contents
        self._lifetime = lifetime
        self._moved_at = time.monotonic()
        self._open = held > 0
        """Its row may exist. That is so also when the answer to the statement was lost."""
        self._sha256: str | None = None
        """The content whose removal it prevents."""

    @property
    def is_open(self) -> bool:
        """Whether there may be bytes to give back."""
        return self._open

    async def __aenter__(self) -> "Reservation":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.shield(asyncio.ensure_future(self.release()))

    async def grow_to(self, total: int, sha256: str | None = None) -> None:
        """Reserves `total` bytes in all; no-op when as many are reserved. Raises Refused `quota_exceeded`,
        `file_quota_exceeded`.
        """
        if total <= self.bytes and sha256 is None:
            return
        self._sha256 = sha256 or self._sha256
        self._open = True
        (row,) = await self._contents._call(
            "SELECT content_reserve(%s,%s,%s,%s,%s) AS granted,"
            " set_config('synchronous_commit', 'off', true) AS relaxed",
            self.id,
            self._sha256,
            total,
            self._lifetime,
            self.over_quota,
        )
        if not row.granted:
            raise await self._exceeded(total)
        self.bytes, self._moved_at = total, time.monotonic()

    async def begin(self, sha256: str, total: int, item: NewItem) -> Begun:
        """To be called when the hash is known: stores the item if the content is there, reserves otherwise (`Begun`).

        Durable where it is `stored`. Raises Refused `quota_exceeded`, `file_quota_exceeded`, Infected, KeyReused,
        NoMoreFiles; Again when the content is marked anew at each of three tries.
        """
        self._open, self._sha256 = True, sha256
        for attempt in range(3):
            try:
                row = await self._contents._made(
                    _BEGIN,
                    item,
                    self.id,
                    sha256,
                    total,
                    self._lifetime,
                    self.over_quota,
                    *item.columns(),
                    folded(item.filename),
                )
                break
            except Again:  # the content was marked between the read and the lock
                if attempt == 2:
                    raise
        if row.state == "full":
            raise await self._exceeded(total)
        if row.state in ("stored", "replayed"):
            self.ended()
        elif row.state == "reserved":
            self.bytes, self._moved_at = max(self.bytes, total), time.monotonic()
        return Begun(row.state, row.answer)

    async def extend(self) -> None:
        """Moves the expiry forward while a slow client is still sending, at most every `EXTEND_SECONDS`."""
        if self.bytes and time.monotonic() - self._moved_at > EXTEND_SECONDS:
            await self._extend()

    async def _extend(self) -> None:
        await self._contents._call(
            "UPDATE reservation SET expires_at = now() + %s WHERE reservation_id = %s", self._lifetime, self.id
        )
        self._moved_at = time.monotonic()

    @contextlib.asynccontextmanager
    async def extended(self) -> AsyncIterator[None]:
        """Keeps the reservation from expiring while the block waits for the store, however long that takes."""

        async def keep() -> None:
            while True:
                await asyncio.sleep(EXTEND_SECONDS)
                with contextlib.suppress(Unavailable):  # if it is away for too long, `commit` raises
                    await self._extend()

        keeping = asyncio.create_task(keep())
        try:
            yield
        finally:
            keeping.cancel()

    def ended(self) -> None:
        """To be called when a statement has ended it: `release` then does nothing."""
        self.bytes, self._open = 0, False

    async def release(self) -> None:
        """Gives the bytes back. Idempotent."""
        if self._open:
            await self._contents._call("SELECT content_release(%s)", self.id)
            self.ended()

    async def _exceeded(self, wanted: int) -> Refused:
        usage = await self._contents.usage()
        if usage.has_all_items and usage.has_room_for(wanted - self.bytes):
            return files_exceeded(usage)
        return exceeded(usage, wanted)
