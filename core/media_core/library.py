"""What is stored: finding, listing, attaching, deleting, and what a verdict does to it.

Invariants: the row decides, the object follows. Content that must go is marked `doomed_at` in the transaction that
makes it unreachable and gives its bytes back to the quota; only then, under the row's lock, are its objects deleted
(`collect`), at once by whoever doomed it, or by the sweep if that process died. Infected content keeps its row.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, text

from media_core import access, queue, quota
from media_core.access import Item, Purpose
from media_core.database import DURABLE, Database
from media_core.errors import Refused, not_found
from media_core.keys import content_key, thumbnail_key
from media_core.media_types import Category
from media_core.policy import PolicyReader
from media_core.queue import Lease
from media_core.store import ObjectStore
from media_core.tokens import Claims

_ITEM_COLUMNS = """
    media.media_id, media.sha256, media.filename, media.uploaded_by, media.tenant_scope, media.created_at,
    blob.size, blob.mime_type, blob.width, blob.height, blob.duration, blob.scan_status, blob.scan_detail,
    blob.thumbnail_status, blob.thumbnail_sha256,
    ARRAY(SELECT room_id FROM room_file WHERE room_file.media_id = media.media_id ORDER BY room_id) AS rooms
"""
_FIND = text(f"SELECT {_ITEM_COLUMNS} FROM media JOIN blob USING (sha256) WHERE media.media_id = :media_id")  # noqa: S608 (only constants are put in)
_SERVABLE = text("SELECT scan_status FROM blob WHERE sha256 = :sha256 AND doomed_at IS NULL")
_LIST_ROOM = text(f"""
SELECT {_ITEM_COLUMNS}, room_file.added_by, room_file.added_at
FROM room_file JOIN media USING (media_id) JOIN blob USING (sha256)
WHERE room_file.room_id = :room_id AND blob.scan_status <> 'infected'
  AND (CAST(:before_time AS timestamptz) IS NULL
       OR (room_file.added_at, room_file.media_id) < (:before_time, :before_id))
  AND (CAST(:category AS text) IS NULL OR :category = CASE
       WHEN blob.mime_type LIKE 'image/%' THEN 'image' WHEN blob.mime_type LIKE 'audio/%' THEN 'audio'
       WHEN blob.mime_type LIKE 'video/%' THEN 'video' ELSE 'document' END)
ORDER BY room_file.added_at DESC, room_file.media_id DESC
LIMIT :limit
""")  # noqa: S608 (only constants are put in)
_ATTACH = text("""
INSERT INTO room_file (room_id, media_id, added_by) VALUES (:room_id, :media_id, :added_by)
ON CONFLICT (room_id, media_id) DO NOTHING
""")
_ROOM_ITEM = text(f"""
SELECT {_ITEM_COLUMNS}, room_file.added_by, room_file.added_at
FROM room_file JOIN media USING (media_id) JOIN blob USING (sha256)
WHERE room_file.room_id = :room_id AND room_file.media_id = :media_id
""")  # noqa: S608 (only constants are put in)
_DETACH = text("""
DELETE FROM room_file USING media, blob
WHERE room_file.room_id = :room_id AND room_file.media_id = :media_id
  AND media.media_id = room_file.media_id AND blob.sha256 = media.sha256 AND blob.scan_status <> 'infected'
RETURNING room_file.media_id
""")
_DELETED_BEFORE = text("SELECT uploaded_by FROM media_tombstone WHERE media_id = :media_id")
_LOCK_BLOB = text("SELECT scan_status FROM blob WHERE sha256 = :sha256 FOR UPDATE")
_DELETE_MEDIA = text("DELETE FROM media WHERE media_id = :media_id RETURNING uploaded_by")
_REMEMBER_DELETED = text("""
INSERT INTO media_tombstone (media_id, uploaded_by) VALUES (:media_id, :uploaded_by) ON CONFLICT DO NOTHING
""")
_FORGET_ANSWER = text("DELETE FROM idempotency WHERE answer ->> 'media_id' = :media_id")
_DOOM_UNREFERENCED = text("""
UPDATE blob SET doomed_at = now()
WHERE sha256 = :sha256 AND doomed_at IS NULL AND scan_status <> 'infected'
  AND NOT EXISTS (SELECT FROM media WHERE media.sha256 = blob.sha256)
RETURNING size + thumbnail_size AS bytes
""")
_DOOMED = text("SELECT scan_status FROM blob WHERE sha256 = :sha256 AND doomed_at IS NOT NULL FOR UPDATE")
_FORGET = text("DELETE FROM blob WHERE sha256 = :sha256")
_TOMBSTONE = text("""
UPDATE blob SET doomed_at = NULL, thumbnail_status = 'none', thumbnail_sha256 = NULL, thumbnail_size = 0
WHERE sha256 = :sha256
""")
_VERDICT = text("""
UPDATE blob SET scan_status = :status, scan_detail = :detail, scan_engine = :engine, scanned_at = now(),
    doomed_at = CASE WHEN :status = 'infected' THEN coalesce(blob.doomed_at, now()) ELSE blob.doomed_at END
FROM (SELECT sha256, doomed_at FROM blob WHERE sha256 = :sha256 FOR UPDATE) AS before
WHERE blob.sha256 = before.sha256 AND blob.scan_status <> 'infected'
RETURNING CASE WHEN :status = 'infected' AND before.doomed_at IS NULL THEN size + thumbnail_size ELSE 0 END AS bytes
""")
_THUMBNAIL_MADE = text("""
UPDATE blob SET thumbnail_status = 'ready', thumbnail_sha256 = :thumbnail_sha256, thumbnail_size = :thumbnail_size,
    width = coalesce(width, :width), height = coalesce(height, :height)
WHERE sha256 = :sha256 AND thumbnail_status = 'pending' AND doomed_at IS NULL AND scan_status <> 'infected'
RETURNING sha256
""")
_TOTALS = text("""
WITH standing AS (SELECT sha256, size FROM blob WHERE doomed_at IS NULL AND scan_status <> 'infected')
SELECT count(DISTINCT standing.sha256) AS objects, count(*) AS items, coalesce(sum(size), 0)::bigint AS uploaded,
    (SELECT coalesce(sum(size), 0)::bigint FROM standing) AS distinct_bytes
FROM media JOIN standing USING (sha256)
""")


_CONTENT = text("""
SELECT sha256, size, mime_type, scan_status FROM blob
WHERE sha256 = :sha256 AND doomed_at IS NULL
""")
_CONTENT_OF = text("""
SELECT blob.sha256, blob.size, blob.mime_type, blob.scan_status, EXISTS (
    SELECT FROM job WHERE kind = 'scan' AND dedupe_key = blob.sha256 AND status IN ('queued','running')
) AS being_scanned
FROM media JOIN blob USING (sha256) WHERE media_id = :media_id AND doomed_at IS NULL
""")
_KEEP_MEDIA = text("SELECT media_id FROM media WHERE media_id = :media_id FOR KEY SHARE")


@dataclass(frozen=True)
class RoomEntry:
    item: Item
    added_by: str
    added_at: datetime


@dataclass(frozen=True)
class Totals:
    """`objects` distinct contents behind `items` uploads; `dedupe_saved` bytes that were sent and not stored again."""

    usage: quota.Usage
    objects: int
    items: int
    dedupe_saved: int


@dataclass(frozen=True)
class Content:
    """What a worker needs to know of one content."""

    sha256: str
    size: int
    mime_type: str
    scan_status: str


class Library:
    """One tenant's stored media. Every method that takes a caller asks `access` before it shows anything."""

    def __init__(self, *, tenant_id: str, database: Database, store: ObjectStore, policy: PolicyReader) -> None:
        self.tenant_id = tenant_id
        self.database = database
        self.store = store
        self.policy = policy

    # -- reading -------------------------------------------------------------------------------------------------

    async def find(self, caller: Claims, media_id: str, purpose: Purpose) -> Item:
        """Raises Refused as `access.require` does."""
        policy = await self.policy.current()
        async with self.database.statement() as tx:
            row = (await tx.execute(_FIND, {"media_id": media_id})).first()
        return access.require(caller, _item(row) if row else None, policy, purpose)

    async def servable(self, sha256: str) -> None:
        """The gate of a URL signed earlier: the content's verdict must still let bytes out. Raises `not_found`."""
        async with self.database.statement() as tx:
            row = (await tx.execute(_SERVABLE, {"sha256": sha256})).first()
        if row is None or not access.open_to_all(row.scan_status, await self.policy.current()):
            raise not_found()

    async def content(self, sha256: str) -> Content | None:
        """For workers; None when the content is gone or going."""
        async with self.database.statement() as tx:
            row = (await tx.execute(_CONTENT, {"sha256": sha256})).first()
        return Content(**row._mapping) if row else None

    async def content_for_work(self, media_id: str) -> Content:
        """For a worker that opens what it is given: the content of an item, once its verdict allows that.

        Raises NotYet while the verdict is due, Refused `not_found` (gone or infected), `unscannable` (and the tenant
        does not release such content), `scan_failed` (no verdict came and nobody is at it).
        """
        async with self.database.statement() as tx:
            row = (await tx.execute(_CONTENT_OF, {"media_id": media_id})).first()
        policy = await self.policy.current()
        if row is None:
            raise not_found()
        *facts, being_scanned = row
        content = Content(*facts)
        access.require_workable(content.scan_status, policy, being_scanned=being_scanned)
        return content

    async def totals(self) -> Totals:
        async with self.database.transaction() as tx:
            usage = await quota.read(tx)
            row = (await tx.execute(_TOTALS)).one()
        return Totals(usage, row.objects, row.items, row.uploaded - row.distinct_bytes)

    # -- rooms ---------------------------------------------------------------------------------------------------

    async def list_room(
        self,
        caller: Claims,
        room_id: str,
        *,
        category: Category | None = None,
        before: tuple[datetime, str] | None = None,
        limit: int = 50,
    ) -> list[RoomEntry]:
        """Newest first; `before` is (added_at, media_id) of the last entry seen. No claim to the room: not_found."""
        if not access.has_room(caller, room_id):
            raise not_found()
        async with self.database.transaction() as tx:
            rows = await tx.execute(
                _LIST_ROOM,
                {
                    "room_id": room_id,
                    "category": category,
                    "before_time": before[0] if before else None,
                    "before_id": before[1] if before else None,
                    "limit": limit,
                },
            )
            return [_entry(row) for row in rows]

    async def attach(self, caller: Claims, room_id: str, media_id: str) -> RoomEntry:
        """Idempotent: an item already in the room keeps its place."""
        if not access.has_room(caller, room_id):
            raise not_found()
        await self.find(caller, media_id, "see")
        async with self.database.transaction() as tx:
            # The item may be deleted between the look and the write; then there is nothing to attach.
            still = (await tx.execute(_KEEP_MEDIA, {"media_id": media_id})).first()
            if still is None:
                raise not_found()
            await tx.execute(_ATTACH, {"room_id": room_id, "media_id": media_id, "added_by": caller.subject})
            return _entry((await tx.execute(_ROOM_ITEM, {"room_id": room_id, "media_id": media_id})).one())

    async def detach(self, caller: Claims, room_id: str, media_id: str) -> None:
        """Raises Refused `not_found` when the item is not in the room's index (or the caller may not see the room)."""
        if not access.has_room(caller, room_id):
            raise not_found()
        async with self.database.transaction() as tx:
            if (await tx.execute(_DETACH, {"room_id": room_id, "media_id": media_id})).first() is None:
                raise not_found()

    # -- deleting ------------------------------------------------------------------------------------------------

    async def delete(self, caller: Claims, media_id: str, *, forget_answer: bool = False) -> None:
        """The bytes go with the last reference. Repeating a delete of one's own is no error (http-api.md).

        `forget_answer`: the upload is undone altogether, so that its Idempotency-Key is as good as new.
        """
        async with self.database.transaction() as tx:
            row = (await tx.execute(_FIND, {"media_id": media_id})).first()
            if row is None:
                before = (await tx.execute(_DELETED_BEFORE, {"media_id": media_id})).first()
                if before is not None and access.may_delete(caller, before.uploaded_by):
                    return
                raise not_found()
            item = access.require(caller, _item(row), await self.policy.current(), "see")
            if not access.may_delete(caller, item.uploaded_by):
                raise Refused("not_yours", "Only its uploader or an admin may delete this file.")
            await tx.execute(_LOCK_BLOB, {"sha256": item.sha256})
            if (await tx.execute(_DELETE_MEDIA, {"media_id": media_id})).first() is None:
                return  # somebody else deleted it a moment ago
            if forget_answer:
                await tx.execute(_FORGET_ANSWER, {"media_id": media_id})
            await tx.execute(_REMEMBER_DELETED, {"media_id": media_id, "uploaded_by": item.uploaded_by})
            doomed = (await tx.execute(_DOOM_UNREFERENCED, {"sha256": item.sha256})).first()
            if doomed is not None:
                await quota.shrink(tx, doomed.bytes)
        if doomed is not None:
            await self.collect(item.sha256)

    async def collect(self, sha256: str) -> None:
        """Deletes the objects of doomed content, then its row; an infected one keeps its row. No-op if revived."""
        async with self.database.transaction() as tx:
            await tx.execute(DURABLE)
            row = (await tx.execute(_DOOMED, {"sha256": sha256})).first()
            if row is None:
                return
            await self.store.delete(content_key(self.tenant_id, sha256), thumbnail_key(self.tenant_id, sha256))
            await tx.execute(_TOMBSTONE if row.scan_status == "infected" else _FORGET, {"sha256": sha256})

    # -- verdicts and thumbnails -----------------------------------------------------------------------------------

    async def record_verdict(self, lease: Lease, *, status: str, detail: str | None, engine: str | None) -> None:
        """Writes the verdict on the content of a scan job and completes the job, in one transaction.

        Fenced by the lease: raises LeaseLost and writes nothing if another worker has the job. From the commit on,
        infected content is 404 on every read path; its objects are deleted right after. Infected is final.
        """
        sha256 = lease.payload["sha256"]
        async with self.database.transaction() as tx:
            await tx.execute(DURABLE)
            row = (
                await tx.execute(_VERDICT, {"sha256": sha256, "status": status, "detail": detail, "engine": engine})
            ).first()
            if row is not None:
                await quota.shrink(tx, row.bytes)
            result: dict[str, Any] = {"scan_status": status, "scan_detail": detail, "scan_engine": engine}
            await queue.finish(tx, lease, result)
            await queue.hurry(tx, sha256)
        if status == "infected":
            await self.collect(sha256)

    async def rescan(self, caller: Claims, media_id: str, request_id: str | None = None) -> str:
        """Queues a scan of the item's content and returns the job's id; one already open is joined. Admins only."""
        item = await self.find(caller, media_id, "see")
        async with self.database.transaction() as tx:
            return await queue.enqueue_for_content(
                tx, "scan", item.sha256, owner=caller.subject, media_id=media_id, priority=1, request_id=request_id
            )

    async def keep_thumbnail(
        self, lease: Lease, *, data: bytes, digest: str, width: int | None, height: int | None
    ) -> None:
        """Stores the thumbnail of a job's content within the quota and completes the job. Raises LeaseLost.

        Raises Refused `quota_exceeded` when the tenant is full; the thumbnail is then given up, the file stays.
        """
        sha256 = lease.payload["sha256"]
        reservation = quota.Reservation(self.database)
        await reservation.grow_to(len(data))
        try:
            async with self.database.transaction() as tx:
                made = await tx.execute(
                    _THUMBNAIL_MADE,
                    {
                        "sha256": sha256,
                        "thumbnail_sha256": digest,
                        "thumbnail_size": len(data),
                        "width": width,
                        "height": height,
                    },
                )
                if made.first() is not None:  # the row is locked now, so the object can't outlive it
                    await self.store.put(thumbnail_key(self.tenant_id, sha256), data)
                    await reservation.settle(tx, len(data))
                await queue.finish(tx, lease, {"thumbnail_sha256": digest})
        finally:
            await reservation.release()


def _item(row: Row[Any]) -> Item:
    return Item(**{name: getattr(row, name) for name in _ITEM_FIELDS} | {"rooms": tuple(row.rooms)})


_ITEM_FIELDS = tuple(name for name in Item.__dataclass_fields__ if name != "rooms")


def _entry(row: Row[Any]) -> RoomEntry:
    return RoomEntry(_item(row), row.added_by, row.added_at)
