"""`/v1/events`: what happens to files, page by page, or as it happens."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event

from media_api.answers import problems
from media_api.answers.event_stream import (
    EVENT_STREAM_CONTENT,
    KEEP_ALIVE_SECONDS,
    LastEventIdInQuery,
    event_stream,
    is_asked_for,
)
from media_api.auth import Reader
from media_api.models import Event, EventPage
from media_api.requests.headers import listed
from media_api.requests.identifiers import known_id
from media_api.routes.parameters import KnownOnly, next_cursor, not_a_cursor, read_cursor
from media_api.services import Services, Wired
from media_core.auth.tokens import Claims
from media_core.errors import Unavailable
from media_core.events.feed import TYPES, EventPosition, Type, is_wanted

router = APIRouter(tags=["Events"])

_MOST: Final = 2**63


@router.get(
    "/v1/events",
    response_model=EventPage,
    responses={
        200: {
            "description": "A page of events; or, if the request has `Accept: text/event-stream`, the events as they "
            "happen, each with its type, and with a cursor as its id.",
            "content": EVENT_STREAM_CONTENT,
        },
        **problems.described("invalid_request", "not_found", "cursor_expired"),
    },
)
async def list_events(
    caller: Reader,
    _known: KnownOnly,
    services: Wired,
    request: Request,
    cursor: Annotated[
        str | None,
        Query(
            description="`next_cursor` of the page before, or a streamed event's id.",
            json_schema_extra={"format": "cursor"},
        ),
    ] = None,
    start: Annotated[
        Literal["oldest", "now"] | None,
        Query(description="Where to begin without a cursor. By default a list begins with the oldest, a stream now."),
    ] = None,
    types: Annotated[
        list[Type],
        Query(alias="type", max_length=len(TYPES), description="Only events of this type, and each further."),
    ] = [],  # noqa: B006 (FastAPI copies it)
    media_id: Annotated[
        str | None, Query(description="Only events of this file.", json_schema_extra={"format": "med-id"})
    ] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="Most events in a page, 1 to 200.")] = 50,
    last_event_id: Annotated[
        str | None,
        Header(
            description="Of a stream: go on after this event. Browsers send it.",
            json_schema_extra={"format": "cursor"},
        ),
    ] = None,
    last_event_id_in_query: LastEventIdInQuery = None,
) -> EventPage | StreamingResponse:
    """What happened to the files that you may see: `stored`, `scanned` with each verdict, `thumbnail`, `transcript`,
    `changed` (name, labels or tenant_scope), `attached`, `removed`, `deleted`.

    Events are kept for a week by default. An infected file's events are told to its uploader and to admins. A
    `transcript` is told to whoever asked for it. Every event of a file comes once, in order; none is missed by who goes
    on with the cursor.
    """
    streamed = is_asked_for(listed(request, "accept"))
    if media_id is not None:
        media_id = known_id(media_id)
    known = ((last_event_id or last_event_id_in_query) if streamed else None) or cursor
    if known:
        begin = await services.events.checked(_read(known))
    elif (start or ("now" if streamed else "oldest")) == "now":
        begin = await services.events.now()
    else:
        begin = await services.events.first()
    if streamed:
        return event_stream(_stream(services, caller, begin, types, media_id))
    page = await services.events.page(caller, begin, limit=limit, types=types, media_id=media_id)
    return EventPage(data=[Event.of(event) for event in page.events], next_cursor=_written(page.after), more=page.more)


def _written(at: EventPosition) -> str:
    return next_cursor(str(at.incarnation), str(at.position))


def _read(written: str) -> EventPosition:
    incarnation, position = read_cursor(written, 2)
    if not (incarnation.isdecimal() and position.isdecimal() and max(int(incarnation), int(position)) < _MOST):
        raise not_a_cursor()
    return EventPosition(int(incarnation), int(position))


async def _stream(
    services: Services, caller: Claims, begin: EventPosition, types: Sequence[Type], media_id: str | None
) -> AsyncIterator[bytes]:
    """Once the stream has begun no problem can be sent: if the database is away the stream ends, and the client
    connects again.
    """
    position = begin.position
    # An id without data is no event for a client, but where it goes on after it has connected again.
    yield _still_here(begin)
    silent_since = time.monotonic()
    with services.feed.listening(), contextlib.suppress(Unavailable):
        while time.time() < caller.expires.timestamp():
            try:
                async with asyncio.timeout(KEEP_ALIVE_SECONDS):
                    events = await services.feed.after(position)
            except TimeoutError:
                yield _still_here(EventPosition(begin.incarnation, position))
                silent_since = time.monotonic()
                continue
            if not events or time.time() >= caller.expires.timestamp():
                return
            if (await services.policy.current()).suspended:
                return
            for event in events:
                position = event.position
                if is_wanted(event, caller, types, media_id):
                    yield format_sse_event(
                        event=event.type,
                        id=_written(EventPosition(begin.incarnation, position)),
                        data_str=json.dumps(Event.of(event).model_dump(mode="json"), ensure_ascii=False),
                    )
                    silent_since = time.monotonic()
            if time.monotonic() - silent_since >= KEEP_ALIVE_SECONDS:  # all that happens is of others
                yield _still_here(EventPosition(begin.incarnation, position))
                silent_since = time.monotonic()


def _still_here(at: EventPosition) -> bytes:
    return format_sse_event(comment="still here", id=_written(at))
