"""An item with the facts of its content, as every read path loads it."""

from typing import Any, Final, LiteralString

from media_core.auth.tokens import ALL, Claims
from media_core.items.access import Item

MOST_ROOMS: Final = 100
"""Rooms of an item that a list tells, at most. An item can be in thousands."""

_FACTS: Final = """
    (media).media_id, (media).sha256, (media).filename, (media).uploaded_by, (media).tenant_scope, (media).created_at,
    (blob).size, (blob).mime_type, (blob).width, (blob).height, (blob).duration, (blob).scan_status, (blob).scan_detail,
    (blob).thumbnail_status, (blob).thumbnail_sha256, (blob).details, (blob).lost_at IS NOT NULL AS lost
"""
_COLUMNS: Final = 20
"""How many those of `item_columns` are."""

FIND: Final[LiteralString] = (
    f"SELECT {_FACTS}, labels, rooms, NULL::integer AS most_rooms"  # noqa: S608 (only constants are put in)
    " FROM item_find(%(media_id)s, %(caller_rooms)s)"
)
"""Finds the item `media_id`, in the columns that `item_of` takes. It gets `item_arguments`, too."""


def item_columns(*, every_room: bool = True) -> LiteralString:
    """The columns that `item_of` takes, for a statement that joins `media` and `blob` and gets `item_arguments`.

    They tell only the rooms that the caller may know of. Unless `every_room`, these are at most `MOST_ROOMS`, and one
    more that shows whether there are more.
    """
    at_most: LiteralString = "NULL" if every_room else f"{MOST_ROOMS}"
    return f"""{_FACTS},
    (SELECT jsonb_object_agg(key, value) FROM label WHERE label.media_id = media.media_id) AS labels, ARRAY(
        SELECT room_id FROM room_file WHERE room_file.media_id = media.media_id
            AND (%(caller_rooms)s::text[] IS NULL OR room_id = ANY(%(caller_rooms)s))
        ORDER BY room_id LIMIT {at_most} + 1
    ) AS rooms, {at_most}::integer AS most_rooms"""  # noqa: S608 (only constants are put in)


def item_arguments(caller: Claims) -> dict[str, Any]:
    """The rooms that the caller may know of; None: all."""
    rooms = None if "admin" in caller.scopes or caller.rooms is ALL else sorted(caller.rooms)
    return {"caller_rooms": rooms}


def is_in(table: LiteralString, condition: LiteralString) -> LiteralString:
    """A condition for a statement that reads `media`: the item has a row of `table` (`label`, `room_file`) that meets
    `condition`.
    """
    # Not EXISTS: of that the planner could make a join that reads the whole table.
    return f"(SELECT true FROM {table} WHERE {table}.media_id = media.media_id AND {condition} LIMIT 1)"  # noqa: S608


def item_of(row: Any) -> Item:
    """The item of a row that begins with `item_columns`, or comes from `FIND`."""
    *facts, labels, rooms, most_rooms = row[:_COLUMNS]
    is_cut = most_rooms is not None and len(rooms) > most_rooms
    columns: list[Any] = [*facts, tuple(rooms[:most_rooms]), dict(sorted((labels or {}).items())), is_cut]
    return Item(*columns)
