"""What can be an id of a file, an upload, a job or a room, wherever in a request it stands: path, form or body."""

import re
from typing import Final

from media_core.errors import Refused, not_found

_ID: Final = re.compile(r"(?:med|med-thumb|job|upl)-[0-9A-HJKMNP-TV-Z]{26}")

MAX_ROOM_CHARACTERS: Final = 255


def known_id(identifier: str) -> str:
    """What can't be an id is as unknown as an id that doesn't exist; it need not reach the database."""
    if not _ID.fullmatch(identifier):
        raise not_found()
    return identifier


def known_room(room_id: str) -> str:
    """What can be a room on every path. Raises Refused `invalid_request`, which tells nobody whether a room exists."""
    if not 0 < len(room_id) <= MAX_ROOM_CHARACTERS or "/" in room_id or not room_id.isprintable():
        raise Refused(
            "invalid_request",
            f"A room id has 1 to {MAX_ROOM_CHARACTERS} printable characters, none of them `/`.",
        )
    return room_id
