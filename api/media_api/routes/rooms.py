"""`/v1/rooms/{room}/files`: the files attached in a room."""

from datetime import datetime
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response

from media_api.answers import problems
from media_api.auth import Reader, Writer
from media_api.models import Attachment, Data, Page, RoomFile
from media_api.requests.identifiers import known_id
from media_api.requests.json_bodies import json_request, read_json
from media_api.routes.parameters import (
    CategoryFilter,
    Cursor,
    KnownOnly,
    MediaId,
    RoomId,
    next_cursor,
    not_a_cursor,
    read_cursor,
)
from media_api.services import Wired

router = APIRouter(tags=["Rooms"])

MAX_BODY_BYTES: Final = 4096


@router.get(
    "/v1/rooms/{room_id}/files",
    responses=problems.described("not_found", "invalid_request"),
    response_model_exclude_unset=True,
)
async def list_room_files(
    caller: Reader,
    services: Wired,
    room_id: RoomId,
    category: CategoryFilter = None,
    limit: Annotated[int, Query(ge=1, le=200, description="Most files in the answer, 1 to 200.")] = 50,
    cursor: Cursor = None,
) -> Page[RoomFile]:
    """The files attached in a room, newest first. Infected ones are never listed."""
    before = _before(cursor) if cursor else None
    # One more entry than asked for tells whether there is a next page.
    entries = await services.library.list_room(caller, room_id, category=category, before=before, limit=limit + 1)
    page = entries[:limit]
    goes_on = len(entries) > limit
    return Page(
        data=[RoomFile.of_entry(entry, caller) for entry in page],
        next_cursor=next_cursor(page[-1].added_at.isoformat(), page[-1].item.media_id) if goes_on else None,
    )


def _before(cursor: str) -> tuple[datetime, str]:
    added_at, media_id = read_cursor(cursor, 2)
    try:
        moment = datetime.fromisoformat(added_at)
    except ValueError:
        raise not_a_cursor() from None
    if moment.tzinfo is None:
        raise not_a_cursor()
    return moment, media_id


@router.post(
    "/v1/rooms/{room_id}/files",
    status_code=201,
    openapi_extra=json_request(Attachment),
    responses=problems.described(
        "not_found", "unsupported_media_type", "invalid_request", "request_timeout", "too_many_changes"
    ),
    response_model_exclude_unset=True,
)
async def attach_room_file(
    caller: Writer, services: Wired, _known: KnownOnly, request: Request, room_id: RoomId
) -> Data[RoomFile]:
    """Attach a file that you can see and that was uploaded before. One that is in the room already keeps its place."""
    attachment = await read_json(services, request, Attachment, shape='{"media_id": "med-…"}', at_most=MAX_BODY_BYTES)
    entry = await services.library.attach(caller, room_id, known_id(attachment.media_id))
    return Data(data=RoomFile.of_entry(entry, caller))


@router.delete(
    "/v1/rooms/{room_id}/files/{media_id}",
    status_code=204,
    response_class=Response,
    responses=problems.described("not_found"),
)
async def detach_room_file(caller: Writer, services: Wired, room_id: RoomId, media_id: MediaId) -> None:
    """Take a file out of the room's index. The file itself stays."""
    await services.library.detach(caller, room_id, media_id)
