"""`/v1/rooms/{room}/files`: the files attached in a room."""

import asyncio
from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from pydantic import ValidationError

from media_api import problems
from media_api.auth import Reader, Writer
from media_api.body import ClientGone
from media_api.identifiers import known_id
from media_api.models import Attachment, Data, Page, RoomFile
from media_api.routes.parameters import MediaId, RoomId, next_cursor, not_a_cursor, read_cursor
from media_api.services import Wired
from media_core.errors import Refused
from media_core.media_types import Category

router = APIRouter(tags=["Rooms"])

MAX_BODY_BYTES: Final = 4096

_ATTACHMENT: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": Attachment.model_json_schema()}},
    }
}


@router.get("/v1/rooms/{room_id}/files", responses=problems.described("not_found", "invalid_request"))
async def list_room_files(
    caller: Reader,
    services: Wired,
    room_id: RoomId,
    category: Annotated[Category | None, Query(alias="type", description="Only files of this kind.")] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="Most files in the answer, 1 to 200.")] = 50,
    cursor: Annotated[str | None, Query(max_length=512, description="`next_cursor` of the page before.")] = None,
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
    openapi_extra=_ATTACHMENT,
    responses=problems.described("not_found", "unsupported_media_type", "invalid_request", "request_timeout"),
)
async def attach_room_file(caller: Writer, services: Wired, request: Request, room_id: RoomId) -> Data[RoomFile]:
    """Attach a file that you can see and that was uploaded before. One that is in the room already keeps its place."""
    seconds = services.settings.server.body_idle_seconds
    try:
        async with asyncio.timeout(seconds):
            attachment = await _attachment(request)
    except TimeoutError:
        raise Refused(
            "request_timeout", f"The body did not come within {seconds:g} seconds; send the request again."
        ) from None
    entry = await services.library.attach(caller, room_id, known_id(attachment.media_id))
    return Data(data=RoomFile.of_entry(entry, caller))


async def _attachment(request: Request) -> Attachment:
    """The small JSON body.

    Not FastAPI's `max_body_size`: what is announced too long it answers with plain text, past every handler of ours.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused("unsupported_media_type", 'Send JSON, Content-Type: application/json: {"media_id": "med-…"}.')
    body = bytearray()
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BODY_BYTES:
            raise Refused("invalid_request", f"The body may have {MAX_BODY_BYTES} bytes.")
    try:
        return Attachment.model_validate_json(bytes(body))
    except ValidationError:
        raise Refused("invalid_request", 'The body must be {"media_id": "med-…"}.') from None


@router.delete(
    "/v1/rooms/{room_id}/files/{media_id}",
    status_code=204,
    responses=problems.described("not_found", "invalid_request"),
)
async def detach_room_file(caller: Writer, services: Wired, room_id: RoomId, media_id: MediaId) -> None:
    """Take a file out of the room's index. The file itself stays."""
    await services.library.detach(caller, room_id, media_id)
