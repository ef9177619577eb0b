"""A content's life: the one room that writes its row, its reservations and what it counts in the quota. (Two places
beside it say what only they know: `queue` that a job ended without a result, `sweep` what a new count of all rows is.)

    (nothing) --reserve--> reserved, no row yet --commit--> stored, pending --verdict--> clean | unscannable | error
        ^                      |  expires: garbage                |                            |
        |                      '--> an object without a row,      | verdict                    | last item deleted
        |                           see `sweep`                   v                            v
        '---finish removal--- removing (a claim of minutes) <--- marked (doomed_at, remove_after)
                                                                  infected: the row stays, as a tombstone

An upload is *reserve, put, commit*: two short statements, and no transaction or connection is held while the object
store works. The functions of `contents.sql` are these statements. Rules that they keep:

1. A row stands only where its object is. The object is put before `commit`; it is deleted only under a claim
   (`removing_until`), which is given for a marked row whose time has come and that no reservation names. Whoever ends a
   removal, or takes over one that was left, ends every reservation of that content; `commit` needs a reservation that
   names the content, and a row that nobody has a claim to. So an object that was put before the removal ended is put
   again, whatever became of its reservation and of whoever removes.
2. A claim lasts `REMOVAL_LEASE`. Its holder begins to delete within `REMOVAL_BEGINS`, and a store's delete is over
   within 30 s, so nobody deletes after the claim has gone to somebody else. It is all that hangs on clocks.
3. `usage` is what the rows say: stored_bytes of rows that are neither marked nor infected, reserved_bytes of
   reservations, and objects, object_bytes, items and item_bytes of the same rows. Each statement that changes one
   changes the other. (What is had back counts again, also where others have taken its room meanwhile.)
4. Rows are locked in this order: idempotency -> content -> reservation -> job -> media, room -> usage. `usage` comes
   last and is held shortest. Several rows of one kind are locked in the order of their keys.
5. Content that was open before (clean, unscannable) and is found infected now can be had back: its objects stay for the
   recall time, and stay on while its signature is suspicious, which is one that finds more than a few.
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

from media_core.database import Database
from media_core.errors import Refused, Unavailable
from media_core.ids import new_job_id, new_ulid
from media_core.object_keys import content_key, thumbnail_key
from media_core.quota import Usage, exceeded
from media_core.store.base import ObjectStore

RESERVATION_LIFETIME: Final = timedelta(minutes=10)
EXTEND_SECONDS: Final = 60.0
"""A reservation is moved forward so often while its upload reads or puts."""
REMOVAL_LEASE: Final = timedelta(minutes=2)
REMOVAL_BEGINS: Final = 30.0
"""Seconds from the claim within which the deletion has to begin, by the clock of who holds it."""

_log = structlog.stdlib.get_logger("media.contents")


class Infected(Exception):
    """These bytes are known to be infected, and are not accepted."""


class Again(Exception):
    """The content is being removed, or the reservation is over: begin anew, and put the object again."""


class KeyReused(Exception):
    """The Idempotency-Key was used for another request."""


_ERRORS: Final = {"MC001": Infected, "MC002": Again, "MC003": KeyReused}


@dataclass(frozen=True)
class NewItem:
    """An item to be: who uploads what under which name. `fingerprint`: what the request asks for."""

    media_id: str
    filename: str
    claimed_type: str | None
    subject: str
    tenant_scope: bool
    room_id: str | None
    key: str | None
    """Idempotency-Key."""
    fingerprint: str


@dataclass(frozen=True)
class Facts:
    """What the bytes are. Sizes in bytes, width and height in pixels, duration in seconds."""

    size: int
    mime_type: str
    width: int | None = None
    height: int | None = None
    duration: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    """More that some contents have, such as the `charset` of text. Keys and values are JSON."""
    thumbnail_status: str = "none"
    thumbnail_sha256: str | None = None
    thumbnail_size: int = 0


@dataclass(frozen=True)
class Begun:
    """`stored`, `replayed`: done, with the published answer. `reserved`: put the object, then commit.

    `removing`: the same bytes are being removed at this moment; begin again shortly.
    """

    state: Literal["stored", "replayed", "reserved", "removing"]
    answer: dict[str, Any] | None


@dataclass(frozen=True)
class Committed:
    answer: dict[str, Any]
    replayed: bool
    is_new: bool
    """The content had no row that stood; its jobs are queued."""


@dataclass(frozen=True)
class Verdict:
    """What a scan found, and under which lease. `status`: `clean`, `unscannable` or `infected`."""

    job_id: str
    token: str = field(repr=False)
    sha256: str
    status: str
    detail: str | None
    engine: str | None


class Contents:
    """One tenant's contents. Every method raises Unavailable when the database (or, where said, the store) is away."""

    def __init__(self, *, tenant_id: str, database: Database, store: ObjectStore) -> None:
        self.tenant_id = tenant_id
        self.database = database
        self.store = store

    # -- uploads -------------------------------------------------------------------------------------------------

    def reservation(self, *, over_quota: bool = False) -> "Reservation":
        return Reservation(self, over_quota=over_quota)

    async def commit(
        self,
        reservation: "Reservation",
        sha256: str,
        facts: Facts,
        item: NewItem,
        *,
        scan_owner: str | None = None,
        scan_priority: int = 0,
        request_id: str | None = None,
    ) -> Committed:
        """After the put: the content's row, the item and its jobs, durable, all or nothing. Ends the reservation.

        Raises Infected, Again, KeyReused; then nothing was written.
        """
        (row,) = await self._call(
            "SELECT * FROM content_commit(%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s)",
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
            item.media_id,
            item.filename,
            item.claimed_type,
            item.subject,
            item.tenant_scope,
            item.room_id,
            item.key,
            item.fingerprint,
            new_job_id(),
            scan_owner,
            scan_priority,
            new_job_id(),
            request_id,
        )
        reservation.ended()
        if row.state == "new":
            self.database.announce()
        return Committed(row.answer, replayed=row.state == "replayed", is_new=row.state == "new")

    # -- deleting and removing -------------------------------------------------------------------------------------

    async def delete_item(self, media_id: str, *, forget_key: str | None = None) -> bool:
        """Takes the item away, durably; with the last one the content is marked, and its bytes leave the quota.

        False: there was none. The objects of what was marked are removed at once if the store is there, else by the
        sweep: from here on nothing is undone. `forget_key`: its Idempotency-Key, which is as good as new then.
        """
        (row,) = await self._call("SELECT * FROM content_delete_item(%s,%s)", media_id, forget_key)
        if row.state == "marked":
            await self.remove_soon(row.content_sha256)
        return bool(row.state != "absent")

    async def remove_soon(self, sha256: str) -> None:
        """`remove`, as far as it goes now; what is left of it is the sweep's."""
        try:
            await asyncio.shield(asyncio.ensure_future(self.remove(sha256)))
        except Unavailable as error:
            _log.warning("removal_left_to_the_sweep", dependency=error.dependency, detail=error.detail)

    async def remove(self, sha256: str) -> bool:
        """Removes the objects of marked content, then its row; infected content keeps its row.

        False: it must not be removed now (in use again, being uploaded, not due, or somebody else is at it). Raises
        Unavailable also for the store; a removal that stopped half-way is taken up again by whoever comes next.
        """
        return await self._remove(sha256, "SELECT content_claim_removal(%s,%s) AS until")

    async def remove_orphan(self, sha256: str) -> bool:
        """The same for objects that have no row."""
        return await self._remove(sha256, "SELECT content_claim_orphan(%s,%s) AS until")

    async def _remove(self, sha256: str, claim: Any) -> bool:
        began = time.monotonic()
        (row,) = await self._call(claim, sha256, REMOVAL_LEASE)
        if row.until is None:
            return False
        if time.monotonic() - began > REMOVAL_BEGINS:
            return False  # the claim may be over before the deletion is
        await self.store.delete(content_key(self.tenant_id, sha256), thumbnail_key(self.tenant_id, sha256))
        (row,) = await self._call("SELECT content_finish_removal(%s,%s) AS finished", sha256, row.until)
        return bool(row.finished)

    # -- verdicts and thumbnails -----------------------------------------------------------------------------------

    async def record_verdicts(
        self, verdicts: Iterable[Verdict], *, recall: timedelta = timedelta(days=7), few: int = 5
    ) -> set[str]:
        """Writes verdicts and completes their jobs, durably, in one statement; returns the ids of jobs still held.

        Fenced by the leases: nothing is written for a job that somebody else has. From then on infected content is 404
        on every read path. `recall` and `few`: see rule 5.
        """
        by_job = {verdict.job_id: verdict for verdict in verdicts}
        rows = await self._call(
            "SELECT * FROM content_verdicts(%s::jsonb,%s,%s)",
            json.dumps([vars(verdict) for verdict in by_job.values()]),
            recall,
            few,
        )
        with contextlib.suppress(Unavailable):  # the verdicts stand; what waits for them looks again by itself
            await self._end_waits([by_job[row.held_job_id].sha256 for row in rows])
        await asyncio.gather(*(self.remove_soon(by_job[row.held_job_id].sha256) for row in rows if row.remove))
        return {row.held_job_id for row in rows}

    async def _end_waits(self, contents: list[str]) -> None:
        """What waits for the verdict of these contents need not wait any longer."""
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

        Raises Refused `quota_exceeded` when the tenant is full; Again when the lease or the reservation is over;
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
        """Keeps a canary's verdict, and takes away everything else of it. Idempotent."""
        (row,) = await self._call("SELECT content_close_canary(%s,%s) AS marked", sha256, owner)
        if row.marked:
            await self.remove_soon(sha256)
        # Other infected content keeps its row, so that it is refused for ever; these bytes never come again.
        await self._call(
            """
            DELETE FROM blob WHERE sha256 = %s AND scan_status = 'infected' AND doomed_at IS NULL
              AND NOT EXISTS (SELECT FROM media WHERE media.sha256 = blob.sha256)
            """,
            sha256,
        )

    async def _call(self, query: Any, *arguments: Any) -> list[Any]:
        try:
            return await self.database.call(query, arguments)
        except psycopg.Error as error:
            if (known := _ERRORS.get(error.sqlstate or "")) is not None:
                raise known from None
            raise


class Reservation:
    """The bytes that one upload may store, and from `begin` on the hold on its content. A context manager: what has not
    ended in `commit` is given back.
    """

    def __init__(self, contents: Contents, *, over_quota: bool = False) -> None:
        self.id = new_ulid()
        self.bytes = 0
        self._contents = contents
        self._over_quota = over_quota
        """Granted whatever is stored, and counted like any other. For the canary alone."""
        self._moved_at = time.monotonic()
        self._open = False
        """A row may be there: also where the answer to its statement was never seen."""
        self._sha256: str | None = None
        """The content whose removal it holds off."""

    @property
    def is_open(self) -> bool:
        """There may be something to give back."""
        return self._open

    async def __aenter__(self) -> "Reservation":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.shield(asyncio.ensure_future(self.release()))

    async def grow_to(self, total: int, sha256: str | None = None) -> None:
        """Reserves up to `total` bytes in all; no-op when as many are reserved. Raises Refused `quota_exceeded`."""
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
            RESERVATION_LIFETIME,
            self._over_quota,
        )
        if not row.granted:
            raise await self._exceeded(total)
        self.bytes, self._moved_at = total, time.monotonic()

    async def begin(self, sha256: str, total: int, item: NewItem) -> Begun:
        """The hash is known: what this content is here. Durable where it is `stored`.

        Raises Refused `quota_exceeded`, Infected, KeyReused.
        """
        self._open, self._sha256 = True, sha256
        for attempt in range(3):
            try:
                (row,) = await self._contents._call(
                    "SELECT * FROM content_begin(%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s)",
                    self.id,
                    sha256,
                    total,
                    RESERVATION_LIFETIME,
                    self._over_quota,
                    item.media_id,
                    item.filename,
                    item.claimed_type,
                    item.subject,
                    item.tenant_scope,
                    item.room_id,
                    item.key,
                    item.fingerprint,
                )
                break
            except Again:  # it was marked between the look and the lock
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
        """Moves the deadline forward while a slow client is still sending; does nothing more often than it has to."""
        if self.bytes and time.monotonic() - self._moved_at > EXTEND_SECONDS:
            await self._extend()

    async def _extend(self) -> None:
        await self._contents._call(
            "UPDATE reservation SET expires_at = now() + %s WHERE reservation_id = %s", RESERVATION_LIFETIME, self.id
        )
        self._moved_at = time.monotonic()

    @contextlib.asynccontextmanager
    async def extended(self) -> AsyncIterator[None]:
        """Keeps the reservation alive while the block waits for the store, however long that takes."""

        async def keep() -> None:
            while True:
                await asyncio.sleep(EXTEND_SECONDS)
                with contextlib.suppress(Unavailable):  # `commit` will say if it was away for too long
                    await self._extend()

        keeping = asyncio.create_task(keep())
        try:
            yield
        finally:
            keeping.cancel()

    def ended(self) -> None:
        """A statement has ended it: `release` has nothing left to do."""
        self.bytes, self._open = 0, False

    async def release(self) -> None:
        """Idempotent."""
        if self._open:
            await self._contents._call("SELECT content_release(%s)", self.id)
            self.ended()

    async def _exceeded(self, wanted: int) -> Refused:
        (row,) = await self._contents._call("SELECT stored_bytes, reserved_bytes, max_bytes FROM usage") or [(0, 0, 0)]
        return exceeded(Usage(*row), wanted)
