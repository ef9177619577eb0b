"""An item with the facts of its content, as every read path loads it."""

from typing import Any, Final, LiteralString

from media_core.access import Item

ITEM_COLUMNS: Final = """
    media.media_id, media.sha256, media.filename, media.uploaded_by, media.tenant_scope, media.created_at,
    blob.size, blob.mime_type, blob.width, blob.height, blob.duration, blob.scan_status, blob.scan_detail,
    blob.thumbnail_status, blob.thumbnail_sha256, blob.details, blob.lost_at IS NOT NULL AS lost,
    ARRAY(SELECT room_id FROM room_file WHERE room_file.media_id = media.media_id ORDER BY room_id) AS rooms,
    (SELECT jsonb_object_agg(key, value) FROM label WHERE label.media_id = media.media_id) AS labels
"""
"""Of a statement that joins `media` and `blob`, in the order of Item's fields."""

_COLUMNS: Final = len(Item.__dataclass_fields__)


def is_in(table: LiteralString, condition: LiteralString) -> LiteralString:
    """A condition of a statement that has `media`: a row of `table` (`label`, `room_file`) is the item's, and meets
    `condition`.
    """
    # Not EXISTS: of that the planner could make a join that reads the whole table.
    return f"(SELECT true FROM {table} WHERE {table}.media_id = media.media_id AND {condition} LIMIT 1)"  # noqa: S608


def item_of(row: Any) -> Item:
    """The item of a row that begins with `ITEM_COLUMNS`."""
    columns: list[Any] = list(row[:_COLUMNS])
    columns[-2] = tuple(columns[-2])
    columns[-1] = dict(sorted((columns[-1] or {}).items()))
    return Item(*columns)
