"""Parameters that several routes take, and how lists are paged."""

import base64
import binascii
import json
from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request
from pydantic import AfterValidator, Field

from media_api.requests import wrong_input
from media_api.requests.identifiers import MAX_LABELS, ROOM_SCHEMA, known_id, known_room, visitable_room
from media_core.errors import Refused
from media_core.examination.media_types import Category


def _id(kind: str, last: str) -> Any:
    """An id in an address. `last`: the last character of its example."""
    example = f"{kind}-01JD0Z3V5QH7W8K2M4N6P8R0T{last}"
    return Path(description=f"`{kind}-…`", examples=[example], json_schema_extra={"format": f"{kind}-id"})


# The functions refuse what cannot be an id, as unknown and not as an invalid parameter. A route has its caller as a
# dependency, so the token is checked first.
MediaId = Annotated[str, _id("med", "2"), AfterValidator(known_id)]
JobId = Annotated[str, _id("job", "3"), AfterValidator(known_id)]
UploadId = Annotated[str, _id("upl", "4"), AfterValidator(known_id)]
RoomId = Annotated[
    str,
    Path(description="The room's id, as in a token's `rooms`.", examples=["lobby"], json_schema_extra=ROOM_SCHEMA),
    AfterValidator(visitable_room),
]

CategoryFilter = Annotated[Category | None, Query(alias="type", description="Only files of this kind.")]


def _room_filter(
    room_id: Annotated[
        str | None,
        Query(
            description="Only files that are attached in this room. `room` is taken, too.",
            json_schema_extra=ROOM_SCHEMA,
        ),
    ] = None,
    room: Annotated[str | None, Query(include_in_schema=False)] = None,
) -> str | None:
    if room_id is not None and room is not None:
        raise wrong_input.refused("room", "it is another name of `room_id`; send one of the two")
    wanted = room if room_id is None else room_id
    return None if wanted is None else known_room(wanted)


RoomFilter = Annotated[str | None, Depends(_room_filter)]
LabelFilters = Annotated[
    list[Annotated[str, Field(json_schema_extra={"format": "label"})]],
    Query(max_length=MAX_LABELS, description="`key=value`: only files with this label, and each further."),
]


async def _known_only(request: Request) -> None:
    wrong_input.require_known(request)


KnownOnly = Annotated[None, Depends(_known_only)]
"""After the caller: see `wrong_input.require_known`. Not of the calls that the published page has, of tus, and of those
in OpenAI's shapes: there it is open what clients add.
"""

MAX_CURSOR_CHARACTERS = 2048
"""The longest name is 512 bytes, which are 1024 digits."""
Cursor = Annotated[
    str | None,
    Query(description="`next_cursor` of the page before.", json_schema_extra={"format": "cursor"}),
]


def next_cursor(*last_seen: str) -> str:
    """A cursor, opaque to clients, for the page after the entry `last_seen`."""
    return base64.urlsafe_b64encode(json.dumps(last_seen).encode()).decode().rstrip("=")


def read_cursor(cursor: str, parts: int) -> list[str]:
    """The arguments of `next_cursor`, from its result. Raises Refused `invalid_request` for anything else."""
    if len(cursor) > MAX_CURSOR_CHARACTERS:
        raise not_a_cursor()
    try:
        seen: Any = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        seen = None
    if (
        not isinstance(seen, list)
        or len(seen) != parts
        or not all(isinstance(p, str) and p.isprintable() for p in seen)
    ):
        raise not_a_cursor()
    return seen


def not_a_cursor() -> Refused:
    return wrong_input.refused("cursor", "not one that this list gave out; start again without it")
