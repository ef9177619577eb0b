"""Answers that are streams of server-sent events, for all routes that have one."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

from fastapi import Query
from fastapi.responses import StreamingResponse

from media_api.requests.headers import weight

EVENT_STREAM: Final = "text/event-stream"
EVENT_STREAM_CONTENT: Final[dict[str, Any]] = {
    EVENT_STREAM: {
        "schema": {
            "type": "object",
            "description": "One event of the stream.",
            "required": ["event", "data"],
            "properties": {
                "event": {"type": "string"},
                "id": {"type": "string"},
                "data": {"type": "string", "contentMediaType": "application/json"},
            },
        }
    }
}
"""OpenAPI's."""
LastEventIdInQuery = Annotated[
    str | None,
    Query(
        alias="lastEventId",
        description="As the header `Last-Event-ID`: libraries in place of a browser's EventSource send it here.",
        json_schema_extra={"format": "cursor"},
    ),
]
KEEP_ALIVE_SECONDS: Final = 15.0
"""Time between comments on an idle stream. Proxies end a connection that is silent for about a minute."""


def is_asked_for(accept: str | None) -> bool:
    """Whether `Accept` names event streams, and does not prefer JSON. `*/*` alone asks for JSON."""
    given = weight(accept, EVENT_STREAM)
    return EVENT_STREAM in (accept or "").lower() and given > 0 and given >= weight(accept, "application/json")


def event_stream(events: AsyncIterator[bytes]) -> StreamingResponse:
    # Some proxies buffer answers; this asks nginx not to.
    return StreamingResponse(events, media_type=EVENT_STREAM, headers={"X-Accel-Buffering": "no"})
