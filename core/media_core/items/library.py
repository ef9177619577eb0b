"""A tenant's items, as callers see them: finding, listing, attaching, deleting.

`access` decides, `contents.life` writes.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, LiteralString

from media_core.auth.tokens import Claims
from media_core.contents import quota
from media_core.contents.life import Contents
from media_core.database import Database, Transaction
from media_core.errors import Refused, not_found
from media_core.examination.media_types import Category
from media_core.folding import folded
from media_core.items import access, listing
from media_core.items.access import Item, Purpose
from media_core.items.item import FIND, item_arguments, item_columns, item_of
from media_core.jobs import queue
from media_core.jobs.queue import Content
from media_core.policy import PolicyReader
from media_core.store import ObjectStore

MOST_CHANGES: Final = 5000
"""How often one person may attach a file within a day, and how often its uploader and admins may change it. Each time
is an event. A file is detached as often as it was attached, at most.
"""

_FIND_ALL: Final = " FROM media JOIN blob USING (sha256) WHERE media.media_id = ANY(%(media_ids)s)"
_SERVABLE: Final = "SELECT scan_status, size, thumbnail_sha256 FROM blob WHERE sha256 = %s AND doomed_at IS NULL"
_LIST_ROOM: Final = """
, room_file.added_by, room_file.added_at
FROM room_file JOIN media USING (media_id) JOIN blob USING (sha256)
WHERE room_file.room_id = %(room_id)s AND blob.scan_status <> 'infected'
"""
# Added only where they apply: a prepared plan for `(:x IS NULL OR ...)` would use no index.
_OF_CATEGORY: Final = " AND room_file.category = %(category)s"
_BEFORE: Final = " AND (room_file.added_at, room_file.media_id) < (%(before_time)s, %(before_id)s)"
_NEWEST: Final = " ORDER BY room_file.added_at DESC, room_file.media_id DESC LIMIT %(limit)s"
# An entry may be there already. It is locked and not changed. So nobody detaches it before it is read.
_ATTACH: Final = """
INSERT INTO room_file (room_id, media_id, added_by) VALUES (%(room_id)s, %(media_id)s, %(added_by)s)
ON CONFLICT (room_id, media_id) DO UPDATE SET added_by = room_file.added_by WHERE false RETURNING media_id
"""
_ROOM_ITEM: Final = """
, room_file.added_by, room_file.added_at
FROM room_file JOIN media USING (media_id) JOIN blob USING (sha256)
WHERE room_file.room_id = %(room_id)s AND room_file.media_id = %(media_id)s
"""
_DETACH: Final = """
DELETE FROM room_file USING media, blob
WHERE room_file.room_id = %(room_id)s AND room_file.media_id = %(media_id)s
  AND media.media_id = room_file.media_id AND blob.sha256 = media.sha256 AND blob.scan_status <> 'infected'
RETURNING room_file.media_id
"""
_CHANGE: Final = """
UPDATE media SET filename = coalesce(%(filename)s, filename), folded = coalesce(%(folded)s, folded),
    tenant_scope = coalesce(%(tenant_scope)s, tenant_scope)
WHERE media_id = %(media_id)s RETURNING media_id
"""
# The latest event that is one too many within a day, if there is one. A file is changed by its uploader and admins;
# attached by anybody who sees it, so nobody uses up what others may do.
_ONE_TOO_MANY: Final = """
SELECT extract(epoch FROM created_at + interval '1 day' - now())::float8 AS seconds FROM event
WHERE media_id = %(media_id)s AND created_at > now() - interval '1 day' AND {}
ORDER BY created_at DESC OFFSET %(most)s LIMIT 1
"""
_MANY: Final[Mapping[Literal["attached", "changed"], str]] = {
    "attached": _ONE_TOO_MANY.format("type = 'attached' AND data ->> 'added_by' = %(subject)s"),
    "changed": _ONE_TOO_MANY.format("type = 'changed'"),
}
_UNLABEL: Final = "DELETE FROM label WHERE media_id = %(media_id)s AND NOT key = ANY(%(keys)s)"
_LABEL: Final = """
INSERT INTO label (media_id, key, value) SELECT %(media_id)s, * FROM unnest(%(keys)s::text[], %(values)s::text[])
ON CONFLICT (media_id, key) DO UPDATE SET value = excluded.value
"""
_DELETED_BEFORE: Final = "SELECT uploaded_by FROM media_tombstone WHERE media_id = %s"
_TOTALS: Final = f"""
SELECT objects, item_bytes - object_bytes AS dedupe_saved, coalesce(({quota.CHARGED_TODAY}), 0), {quota.USAGE}
FROM usage
"""  # noqa: S608 (a constant)
_CONTENT: Final = """
SELECT sha256, size, mime_type, scan_status FROM blob
WHERE sha256 = %(sha256)s AND doomed_at IS NULL
"""
_TO_RECALL: Final = """
SELECT sha256, size, mime_type, scan_status, coalesce(scan_engine, '') AS found_by FROM blob
WHERE sha256 = %s AND scan_status = 'infected' AND doomed_at IS NOT NULL AND removing_until IS NULL
"""
_CONTENT_OF: Final = """
SELECT blob.sha256, blob.size, blob.mime_type, blob.scan_status, EXISTS (
    SELECT FROM job WHERE kind = 'scan' AND dedupe_key = blob.sha256 AND status IN ('queued','running')
) AS being_scanned
FROM media JOIN blob USING (sha256) WHERE media_id = %(media_id)s AND doomed_at IS NULL
"""
_KEEP_MEDIA: Final = "SELECT media_id FROM media WHERE media_id = %(media_id)s FOR KEY SHARE"


@dataclass(frozen=True)
class RoomEntry:
    item: Item
    added_by: str
    added_at: datetime


@dataclass(frozen=True)
class Servable:
    """What the store is to have of a content: an object of `size` bytes, and a thumbnail with this hash."""

    size: int
    thumbnail_sha256: str | None


@dataclass(frozen=True)
class Totals:
    """`objects`: distinct contents; `dedupe_saved`: bytes sent, but not stored again; `transcribed_today`: seconds of
    audio, as they count towards the day's limit."""

    objects: int
    dedupe_saved: int
    transcribed_today: int
    usage: quota.Usage


class Library:
    """One tenant's items and contents. Every method that takes a caller asks `access` before it shows anything."""

    def __init__(self, *, tenant_id: str, database: Database, store: ObjectStore, policy: PolicyReader) -> None:
        self.tenant_id = tenant_id
        self.database = database
        self.store = store
        self.policy = policy
        self.contents = Contents(tenant_id=tenant_id, database=database, store=store)

    # -- reading -------------------------------------------------------------------------------------------------

    async def find(self, caller: Claims, media_id: str, purpose: Purpose) -> Item:
        """Raises Refused as `access.require` does."""
        policy = await self.policy.current()
        return access.require(caller, await self._find(caller, media_id), policy, purpose)

    async def _find(self, caller: Claims, media_id: str) -> Item | None:
        rows = await self.database.call(FIND, {"media_id": media_id, **item_arguments(caller)})
        return item_of(rows[0]) if rows else None

    async def find_all(self, caller: Claims, media_ids: Iterable[str], purpose: Purpose) -> dict[str, Item | Refused]:
        """By id, the item or why the caller may not use it (`access.require`), in one statement. Each with `MOST_ROOMS`
        of its rooms at most.
        """
        policy = await self.policy.current()
        wanted = list(media_ids)
        query = f"SELECT {item_columns(every_room=False)}{_FIND_ALL}"
        rows = await self.database.call(query, {"media_ids": wanted, **item_arguments(caller)})
        items = {row.media_id: item_of(row) for row in rows}
        found: dict[str, Item | Refused] = {}
        for media_id in wanted:
            try:
                found[media_id] = access.require(caller, items.get(media_id), policy, purpose)
            except Refused as refused:
                found[media_id] = refused
        return found

    async def find_by_url(self, media_id: str) -> Item:
        """For a URL that was signed earlier. Raises Refused as `access.require_by_url` does."""
        policy = await self.policy.current()
        return access.require_by_url(await self._find(access.WHOEVER, media_id), policy)

    async def list_files(
        self,
        caller: Claims,
        wanted: listing.Filter,
        *,
        order: listing.Order,
        descending: bool,
        after: listing.Position | None,
        limit: int = 50,
    ) -> tuple[list[Item], listing.Position | None]:
        """A page, and after which position the next one begins (None: this is the last one). See `listing`: a page may
        have less than `limit` items, or none, and the list go on. An item has `MOST_ROOMS` of its rooms at most.

        Raises Refused `insufficient_scope` where the caller asks for others' files and is no admin, `not_found` for a
        room that the caller's token does not name.
        """
        if wanted.owner != caller.subject:
            access.require_admin(caller, "Only admins may list the files of others.")
        access.require_room(caller, wanted.room_id)
        policy = await self.policy.current()
        page = await listing.listed(
            self.database, caller, wanted, order=order, descending=descending, after=after, limit=limit
        )
        items = [item_of(row) for row in page.rows]
        return [item for item in items if access.shows(caller, item, policy)], page.goes_on

    async def require_servable(self, sha256: str) -> Servable:
        """For a URL signed earlier. Raises Refused `not_found` unless the content's verdict still lets bytes out."""
        rows = await self.database.call(_SERVABLE, (sha256,))
        if not rows or not access.open_to_all(rows[0].scan_status, await self.policy.current()):
            raise not_found()
        return Servable(rows[0].size, rows[0].thumbnail_sha256)

    async def content(self, sha256: str) -> Content | None:
        """For workers; None when the content is marked or has no row."""
        rows = await self.database.call(_CONTENT, {"sha256": sha256})
        return Content(**rows[0]._asdict()) if rows else None

    async def content_to_recall(self, sha256: str) -> Content | None:
        """Content that was found infected and whose objects are still there: newer signatures may recall it."""
        rows = await self.database.call(_TO_RECALL, (sha256,))
        return Content(**rows[0]._asdict()) if rows else None

    async def content_for_work(self, media_id: str) -> Content:
        """For a worker that opens content: the content of an item, if its verdict allows that.

        Raises NotYet while the verdict is due, Refused `not_found` (no such item, or infected), `unscannable` (and the
        tenant does not release such content), `scan_failed` (the scan failed and no other is queued).
        """
        rows = await self.database.call(_CONTENT_OF, {"media_id": media_id})
        policy = await self.policy.current()
        if not rows:
            raise not_found()
        *facts, being_scanned = rows[0]
        content = Content(*facts)
        access.require_workable(content.scan_status, policy, being_scanned=being_scanned)
        return content

    async def totals(self) -> Totals:
        (row,) = await self.database.call(_TOTALS, ())
        objects, dedupe_saved, transcribed_today, *usage = row
        return Totals(objects, dedupe_saved, transcribed_today, quota.Usage(*usage))

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
        """Newest first; `before` is (added_at, media_id) of the last entry seen.

        Raises Refused `not_found` if the caller's token does not name the room.
        """
        access.require_room(caller, room_id)
        wanted: dict[str, Any] = {"room_id": room_id, "limit": limit, **item_arguments(caller)}
        query: LiteralString = f"SELECT {item_columns()}{_LIST_ROOM}"
        if category is not None:
            query += _OF_CATEGORY
            wanted["category"] = category
        if before is not None:
            query += _BEFORE
            wanted["before_time"], wanted["before_id"] = before
        return [_entry(row) for row in await self.database.call(query + _NEWEST, wanted)]

    async def attach(self, caller: Claims, room_id: str, media_id: str) -> RoomEntry:
        """Idempotent: an item already in the room keeps its place.

        Raises Refused `not_found` if the caller may not see the room or the item, `too_many_changes`.
        """
        access.require_room(caller, room_id)
        await self.find(caller, media_id, "see")
        async with self.database.transaction() as tx:
            # The item may be deleted between the check and the write; then there is nothing to attach.
            if await tx.first(_KEEP_MEDIA, {"media_id": media_id}) is None:
                raise not_found()
            attached = {"room_id": room_id, "media_id": media_id, "added_by": caller.subject}
            if await tx.first(_ATTACH, attached) is not None:
                await _check_changes(tx, "attached", media_id, caller)
            query = f"SELECT {item_columns()}{_ROOM_ITEM}"
            row = await tx.first(query, {"room_id": room_id, "media_id": media_id, **item_arguments(caller)})
            return _entry(row)

    async def detach(self, caller: Claims, room_id: str, media_id: str) -> None:
        """Raises Refused `not_found` when the item is not in the room's index (or the caller may not see the room)."""
        access.require_room(caller, room_id)
        if not await self.database.call(_DETACH, {"room_id": room_id, "media_id": media_id}):
            raise not_found()

    # -- changing ------------------------------------------------------------------------------------------------

    async def change(
        self,
        caller: Claims,
        media_id: str,
        *,
        filename: str | None = None,
        tenant_scope: bool | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Item:
        """Changes what is given, all or nothing; `labels` take the place of those that were. Returns the item.

        Where everything is so already, nothing is written and no event told. Raises Refused `not_found`, `not_yours`,
        `too_many_changes`; but a file can always be hidden.
        """
        item = await self.find(caller, media_id, "see")
        access.require_may_change(caller, item, "change")
        is_so = (
            filename in (None, item.filename),
            tenant_scope in (None, item.tenant_scope),
            labels in (None, item.labels),
        )
        if all(is_so):
            return item
        changed = {
            "media_id": media_id,
            "filename": filename,
            "folded": None if filename is None else folded(filename),
            "tenant_scope": tenant_scope,
            "keys": list(labels or {}),
            "values": list((labels or {}).values()),
        }
        async with self.database.transaction() as tx:
            # The item may be deleted between the check and the write.
            if await tx.first(_CHANGE, changed) is None:
                raise not_found()
            if labels is not None:
                await tx.execute(_UNLABEL, changed)
                await tx.execute(_LABEL, changed)
            if not (item.tenant_scope and tenant_scope is False):
                await _check_changes(tx, "changed", media_id, caller)
        return await self.find(caller, media_id, "see")

    # -- deleting ------------------------------------------------------------------------------------------------

    async def delete(self, caller: Claims, media_id: str, *, forget_key: str | None = None) -> None:
        """Deletes an item; the content goes with its last item. A repeated deletion is no error (http-api.md).

        `forget_key`: the upload's Idempotency-Key, which may be used again afterwards. The deletion is durable when
        this returns; objects that the store cannot delete now are removed by the sweep. Raises Refused `not_found`,
        `not_yours`.
        """
        policy = await self.policy.current()
        item = await self._find(caller, media_id)
        if item is None:
            before = await self.database.call(_DELETED_BEFORE, (media_id,))
            if before and access.may_change(caller, before[0].uploaded_by):
                return
            raise not_found()
        access.require(caller, item, policy, "see")
        access.require_may_change(caller, item, "delete")
        await self.contents.delete_item(media_id, forget_key=forget_key)

    # -- scanning ------------------------------------------------------------------------------------------------

    async def rescan(self, caller: Claims, media_id: str) -> str:
        """Queues a scan of the item's content and returns the id of the job, or of one already open. For admins only:
        the caller of this method has to check that.
        """
        item = await self.find(caller, media_id, "see")
        async with self.database.transaction() as tx:
            return await queue.enqueue_scan(tx, item.sha256, owner=caller.subject, media_id=media_id, priority=1)


async def _check_changes(tx: Transaction, how: Literal["attached", "changed"], media_id: str, caller: Claims) -> None:
    """Keeps a loop from filling the log of events. Raises Refused `too_many_changes`."""
    asked = {"media_id": media_id, "subject": caller.subject, "most": MOST_CHANGES}
    one_too_many = await tx.first(_MANY[how], asked)
    if one_too_many is not None:
        raise Refused(
            "too_many_changes",
            f"This file was {how} {MOST_CHANGES} times within a day, which is the most; try again later.",
            limit=MOST_CHANGES,
            retry_after=math.ceil(max(one_too_many.seconds, 1)),
        )


def _entry(row: Any) -> RoomEntry:
    return RoomEntry(item_of(row), row.added_by, row.added_at)
