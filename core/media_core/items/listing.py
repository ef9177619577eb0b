"""Lists of items by who uploaded them, in three orders, with filters: a bounded amount of work a page.

A page looks at `EXAMINED` items of the order at most, or at `EXAMINED_ELSEWHERE` where a filter (verdict, room, label)
looks each of them up in another table. So a page may hold fewer items than asked for, or none, and the list still goes
on (`Listed.goes_on`). Where a label or a room has `FEW` items at most, the page begins with these, and is whole.

Names are searched within these bounds. No index finds a part of a name: `pg_trgm` would, but the PostgreSQL of
`make run` does not have it, and on a server that has it CREATE EXTENSION puts it into one schema for all tenants.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, LiteralString

from media_core.auth.tokens import CANARY, Claims
from media_core.database import Database
from media_core.examination.media_types import Category
from media_core.folding import UNMARKED, folded
from media_core.items.item import is_in, item_arguments, item_columns

Order = Literal["created", "name", "size"]
SortValue = datetime | str | int
"""The value by which an item is sorted: when it was created, its folded name, its bytes."""
Status = Literal["pending", "clean", "unscannable", "error"]
"""Infected items are never listed."""

EXAMINED: Final = 1000
EXAMINED_ELSEWHERE: Final = 300
FEW: Final = 300

_SEARCHED: Final[LiteralString] = "replace(replace(translate(media.folded, 'łøđı', 'lodi'), 'æ', 'ae'), 'œ', 'oe')"
"""A name as it is searched: without `UNMARKED`. The column is sorted by, and keeps them."""

_COLUMN: Final[Mapping[Order, LiteralString]] = {"created": "created_at", "name": "folded", "size": "content_size"}


@dataclass(frozen=True)
class Filter:
    """Which items. `owner`: their uploader's subject; None: everybody's. Times are aware, the later one exclusive."""

    owner: str | None
    category: Category | None = None
    room_id: str | None = None
    scan_status: Status | None = None
    name: str | None = None
    """Part of the file name; case and accents make no difference."""
    created_after: datetime | None = None
    created_before: datetime | None = None
    labels: tuple[tuple[str, str], ...] = ()
    """All of them hold."""


@dataclass(frozen=True)
class Position:
    """An item in an order. Items of the same value are sorted by their ids."""

    value: SortValue
    media_id: str


@dataclass(frozen=True)
class Listed:
    """`rows` begin with `item_columns` and have a `sort_value`. The next page begins after `goes_on`; None: the list
    has ended.
    """

    rows: list[Any]
    goes_on: Position | None


async def listed(
    database: Database,
    caller: Claims,
    wanted: Filter,
    *,
    order: Order,
    descending: bool,
    after: Position | None,
    limit: int,
) -> Listed:
    """A page of at most `limit` items behind `after`. Two statements where there is a label or a room, else one."""
    query = _Query(caller, wanted, order, descending, after, limit)
    ids = await _with_few(database, query)
    if ids is not None:
        rows = await database.call(query.among(ids), query.arguments)
        return _page(rows, limit, None)
    rows = await database.call(query.along_the_order(), query.arguments)
    edge = None if rows[0].edge_id is None else Position(rows[0].edge_value, rows[0].edge_id)
    return _page([row for row in rows if row.media_id is not None], limit, edge)


def _page(rows: list[Any], limit: int, edge: Position | None) -> Listed:
    if len(rows) <= limit:
        return Listed(rows, edge)
    return Listed(rows[:limit], Position(rows[limit - 1].sort_value, rows[limit - 1].media_id))


async def _with_few(database: Database, query: "_Query") -> LiteralString | None:
    """The sub-select of a label or the room that has the fewest items, if these are few."""
    if not query.sets:
        return None
    counts: list[LiteralString] = [
        f"(SELECT count(*) FROM ({ids} LIMIT {FEW + 1}) AS counted)"  # noqa: S608 (constants)
        for ids in query.sets
    ]
    (row,) = await database.call(f"SELECT ARRAY[{', '.join(counts)}] AS counts", query.arguments)
    fewest = min(row.counts)
    return query.sets[row.counts.index(fewest)] if fewest <= FEW else None


class _Query:
    """The statements of one page. Conditions are added only where they apply: a prepared plan for
    `(:x IS NULL OR ...)` would use no index.
    """

    def __init__(
        self, caller: Claims, wanted: Filter, order: Order, descending: bool, after: Position | None, limit: int
    ) -> None:
        way: LiteralString = "DESC" if descending else "ASC"
        self.arguments: dict[str, Any] = {"limit": limit + 1, **item_arguments(caller)}
        self._columns = item_columns(every_room=False)
        self.sets: list[LiteralString] = []
        """Sub-selects of the ids of one label, or of the room."""
        self._sort_value: LiteralString = f"media.{_COLUMN[order]}"
        self._sorted: LiteralString = f"ORDER BY {self._sort_value} {way}, media.media_id {way}"
        self._sorted_again: LiteralString = f"ORDER BY found.sort_value {way}, found.media_id {way}"
        walked: list[LiteralString] = []
        """What an index of the order can tell."""
        examined: list[LiteralString] = ["blob.scan_status <> 'infected'"]
        if wanted.owner is None:
            examined.append("media.uploaded_by <> %(canary)s")
            self.arguments["canary"] = CANARY
        else:
            walked.append("media.uploaded_by = %(owner)s")
            self.arguments["owner"] = wanted.owner
        if after is not None:
            walked.append(
                f"({self._sort_value}, media.media_id) {'<' if descending else '>'} (%(sort_value)s, %(after)s)"
            )
            self.arguments |= {"sort_value": after.value, "after": after.media_id}
        times = walked if order == "created" else examined
        if wanted.created_after is not None:
            times.append("media.created_at >= %(created_after)s")
            self.arguments["created_after"] = wanted.created_after
        if wanted.created_before is not None:
            times.append("media.created_at < %(created_before)s")
            self.arguments["created_before"] = wanted.created_before
        if wanted.category is not None:
            in_index = order == "created" and wanted.owner is not None
            (walked if in_index else examined).append("media.category = %(category)s")
            self.arguments["category"] = wanted.category
        if wanted.scan_status is not None:
            examined.append("blob.scan_status = %(scan_status)s")
            self.arguments["scan_status"] = wanted.scan_status
        if wanted.name is not None:
            examined.append(f"strpos({_SEARCHED}, %(name)s) > 0")
            self.arguments["name"] = folded(wanted.name).translate(UNMARKED)
        if wanted.room_id is not None:
            examined.append(self._within("room_file", "room_id = %(room_id)s"))
            self.arguments["room_id"] = wanted.room_id
        for number, (key, value) in enumerate(wanted.labels):
            examined.append(self._within("label", f"key = %(key_{number})s AND value = %(value_{number})s"))
            self.arguments |= {f"key_{number}": key, f"value_{number}": value}
        elsewhere = self.sets or wanted.scan_status is not None
        self._steps = EXAMINED_ELSEWHERE if elsewhere else EXAMINED
        self._walked: LiteralString = " AND ".join(walked) or "true"
        self._examined: LiteralString = " AND ".join(examined)

    def _within(self, table: LiteralString, condition: LiteralString) -> LiteralString:
        self.sets.append(f"SELECT media_id FROM {table} WHERE {condition}")  # noqa: S608 (constants)
        return is_in(table, condition)

    def among(self, ids: LiteralString) -> LiteralString:
        """All items of a sub-select that has few."""
        return f"""
            SELECT {self._columns}, {self._sort_value} AS sort_value FROM media JOIN blob USING (sha256)
            WHERE media.media_id = ANY(ARRAY({ids})) AND {self._walked} AND {self._examined}
            {self._sorted} LIMIT %(limit)s
        """  # noqa: S608 (only constants are put in)

    def along_the_order(self) -> LiteralString:
        """What is found among the items that a page looks at. Beside each, or alone, is the edge: the last that was
        examined, where there are so many.
        """
        return f"""
            SELECT found.*, edge.sort_value AS edge_value, edge.media_id AS edge_id FROM (SELECT) AS always
            LEFT JOIN (
                SELECT {self._sort_value} AS sort_value, media.media_id FROM media WHERE {self._walked}
                {self._sorted} OFFSET {self._steps - 1} LIMIT 1
            ) AS edge ON true
            LEFT JOIN (
                SELECT {self._columns}, {self._sort_value} AS sort_value
                FROM (SELECT media.* FROM media WHERE {self._walked} {self._sorted} LIMIT {self._steps}) AS media
                JOIN blob USING (sha256) WHERE {self._examined} {self._sorted} LIMIT %(limit)s
            ) AS found ON true
            {self._sorted_again}
        """  # noqa: S608 (only constants are put in)
