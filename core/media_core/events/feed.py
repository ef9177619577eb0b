"""Events: what happened to items, in an order in which nothing is missed.

Triggers (`feed.sql`) write an event's row in the transaction that makes it true. These hold:

1. An event exists exactly if its transaction is committed. Positions are given later, only to committed events, by one
   reader at a time, who holds the row of `event_head` until his commit (`event_place`). So whoever sees a position sees
   every lower one, and no event appears below it afterwards, however late its transaction commits. The numbers of a
   sequence would not do: a transaction that commits late has a low number, and a reader who is past it would miss it.
2. Events of one item have the order in which they became true: a transaction that follows another one takes its
   numbers later, and positions are given in the order of numbers.
3. A position that was shown is durable: `event_place` commits durably, and with it all that committed before.
4. No transaction of another schema or database holds events up, as it would if the order were that of transaction ids.
   A dump has positions and `event_head` in it, so a restored schema goes on. Cursors from before a restoration are
   recognized by the oid of the table, which is in no dump (`Head.incarnation`), and refused: what they have seen may be
   gone, and their positions may be given to other events.
5. Nothing is asked of the database while nobody reads. The sweep gives positions as well, so that the first reader
   finds few events without one.

An event is told to those who may see its item now (`access.hears`), so a page is read together with the items.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal, get_args

from media_core.auth.tokens import Claims
from media_core.database import Database
from media_core.errors import Refused
from media_core.ids import thumbnail_id
from media_core.items import access

Type = Literal["stored", "scanned", "thumbnail", "transcript", "changed", "attached", "removed", "deleted"]
TYPES: Final[tuple[Type, ...]] = get_args(Type)

AT_ONCE: Final = 200
"""Events that one statement reads, or gives positions to."""
EXAMINED: Final = 20 * AT_ONCE
"""Events that a page looks at, at most."""

_PLACE: Final = "SELECT event_place(%s) AS placed"
_HEAD: Final = """
SELECT placed, 'event'::regclass::oid::bigint AS incarnation,
    (SELECT min(position) FROM event WHERE position IS NOT NULL) AS oldest
FROM event_head
"""
# An item's rooms come with the first of its events only: an item that is in thousands has as many events.
_COLUMNS: Final = """
SELECT event.number, event.position, event.type, event.media_id, event.owner, event.rooms, event.tenant_scope,
    event.data, event.created_at, blob.scan_status, media.filename AS item_name, media.tenant_scope AS item_scope,
    CASE WHEN row_number() OVER (PARTITION BY event.media_id ORDER BY event.position) = 1
        THEN ARRAY(SELECT room_id FROM room_file WHERE room_file.media_id = event.media_id) END AS item_rooms
"""
_ITEMS: Final = "LEFT JOIN media USING (media_id) LEFT JOIN blob USING (sha256) ORDER BY event.position"
_AFTER: Final = f"""
{_COLUMNS} FROM (SELECT * FROM event WHERE position > %s ORDER BY position LIMIT %s) AS event {_ITEMS}
"""  # noqa: S608 (only constants are put in)
_AT: Final = f"{_COLUMNS} FROM (SELECT * FROM event WHERE position = ANY(%s)) AS event {_ITEMS}"  # noqa: S608 (as above)
_FORGET: Final = """
DELETE FROM event WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM (SELECT ctid, created_at FROM event ORDER BY number LIMIT %s) AS oldest
    WHERE created_at < now() - %s
)) RETURNING 1
"""


@dataclass(frozen=True)
class Event:
    """An event, with what is true of its item when it is read."""

    number: int
    position: int
    type: Type
    media_id: str
    owner: str
    rooms: Sequence[str] | None
    tenant_scope: bool
    data: Mapping[str, Any]
    created_at: datetime
    scan_status: str | None
    """None: the item was deleted."""
    item_name: str | None
    item_scope: bool | None
    item_rooms: frozenset[str]

    @property
    def event_id(self) -> str:
        """The same whenever it is told; different from all others', also after a dump was restored."""
        return f"evt-{self.number}-{int(self.created_at.timestamp() * 1_000_000):x}"

    @property
    def facts(self) -> dict[str, Any]:
        """What is told of it, beside the item's id. A name that the item had before is told to nobody: who sees the
        item now need not have seen it then.
        """
        if self.type == "stored" and self.item_name is not None:
            return {**self.data, "filename": self.item_name}
        if self.type == "thumbnail":
            made = self.data["thumbnail_status"] == "ready"
            return {**self.data, "thumbnail_id": thumbnail_id(self.media_id) if made else None}
        return dict(self.data)

    def is_told_to(self, caller: Claims) -> bool:
        match self.type:
            case "transcript":
                return access.may_change(caller, self.owner)
            case "deleted":
                return access.hears(caller, self.owner, self.tenant_scope, self.rooms or ())
            case "removed":
                return self.scan_status != "infected" and self._names_room_of(caller)
            case "changed":
                return self._item_is_seen_by(caller) or (
                    self.scan_status != "infected" and access.hears(caller, self.owner, self.tenant_scope, ())
                )
            case "attached":
                return self._names_room_of(caller) and self._item_is_seen_by(caller)
            case _:
                return self._item_is_seen_by(caller)

    def _names_room_of(self, caller: Claims) -> bool:
        return access.has_one_of(caller, self.rooms or ())

    def _item_is_seen_by(self, caller: Claims) -> bool:
        others_see_it = self.scan_status not in (None, "infected")
        return access.hears(
            caller,
            self.owner,
            others_see_it and bool(self.item_scope),
            self.item_rooms if others_see_it else frozenset(),
        )


@dataclass(frozen=True)
class Head:
    """`placed`: the last position. `oldest`: the first that is kept; None: none is."""

    placed: int
    incarnation: int
    oldest: int | None

    @property
    def first(self) -> int:
        """The position before the oldest event that is kept."""
        return self.placed if self.oldest is None else self.oldest - 1


@dataclass(frozen=True)
class EventPosition:
    """Where a reader is: behind the events up to `position`."""

    incarnation: int
    position: int


@dataclass(frozen=True)
class Page:
    """`after`: where the next page begins. `more`: it has been seen that there are further events."""

    events: list[Event]
    after: EventPosition
    more: bool


class Events:
    """One tenant's events. Every method raises Unavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def head(self) -> Head:
        (row,) = await self._database.call(_HEAD, ())
        return Head(row.placed, row.incarnation, row.oldest)

    async def place(self) -> int:
        """Gives positions to events that have none, at most `AT_ONCE`. The last position."""
        (row,) = await self._database.call(_PLACE, (AT_ONCE,))
        return int(row.placed)

    async def place_all(self) -> int:
        """Gives positions to all events that have none."""
        last, before = await self.place(), -1
        while last > before:
            last, before = await self.place(), last
        return last

    async def now(self) -> EventPosition:
        """Behind all events so far."""
        await self.place_all()
        head = await self.head()
        return EventPosition(head.incarnation, head.placed)

    async def first(self) -> EventPosition:
        """Before the oldest event that is kept."""
        head = await self.head()
        return EventPosition(head.incarnation, head.first)

    async def checked(self, after: EventPosition) -> EventPosition:
        """`after`, if no event behind it is missing. Raises Refused `cursor_expired`."""
        head = await self.head()
        if after.incarnation != head.incarnation or not head.first <= after.position <= head.placed:
            raise Refused(
                "cursor_expired",
                "Events after this cursor are not kept any more. Read what you show anew, and start again without "
                "a cursor.",
            )
        return after

    async def after(self, position: int) -> list[Event]:
        """The next events, of everybody, at most `AT_ONCE`. They have positions already."""
        return _with_rooms(await self._database.call(_AFTER, (position, AT_ONCE)))

    async def at(self, positions: Sequence[int]) -> list[Event]:
        """The events at these positions, as far as they are kept."""
        return _with_rooms(await self._database.call(_AT, (list(positions),)))

    async def page(
        self,
        caller: Claims,
        after: EventPosition,
        *,
        limit: int,
        types: Sequence[Type] = (),
        media_id: str | None = None,
    ) -> Page:
        """Events that the caller may see, in order. It looks at `EXAMINED` events at most: the page may be short, or
        empty, and there be `more`.
        """
        found: list[Event] = []
        position = after.position
        for _ in range(EXAMINED // AT_ONCE):
            read = await self.after(position)
            if len(read) < AT_ONCE and await self.place() > (read[-1].position if read else position):
                read = await self.after(position)
            for event in read:
                if is_wanted(event, caller, types, media_id):
                    if len(found) == limit:
                        return Page(found, EventPosition(after.incarnation, position), more=True)
                    found.append(event)
                position = event.position
            if len(read) < AT_ONCE:
                return Page(found, EventPosition(after.incarnation, position), more=False)
        return Page(found, EventPosition(after.incarnation, position), more=True)

    async def forget(self, older_than: timedelta) -> int:
        """Deletes old events, in small batches. Returns how many."""
        gone = 0
        while rows := await self._database.call(_FORGET, (AT_ONCE, older_than)):
            gone += len(rows)
        return gone


def _with_rooms(rows: Sequence[Any]) -> list[Event]:
    rooms = {row.media_id: frozenset(row.item_rooms) for row in rows if row.item_rooms is not None}
    return [Event(**row._asdict() | {"item_rooms": rooms[row.media_id]}) for row in rows]


def is_wanted(event: Event, caller: Claims, types: Sequence[Type], media_id: str | None) -> bool:
    """Whether the event is told to the caller, who asked for these types (empty: all) and this item (None: all)."""
    return (
        (not types or event.type in types)
        and (media_id is None or event.media_id == media_id)
        and event.is_told_to(caller)
    )
