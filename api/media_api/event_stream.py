"""Answers that are streams of server-sent events, for all routes that have one."""

from collections.abc import AsyncIterator
from typing import Any, Final

from fastapi.responses import StreamingResponse

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
KEEP_ALIVE_SECONDS: Final = 15.0
"""Time between comments on an idle stream. Proxies end a connection that is silent for about a minute."""


def event_stream(events: AsyncIterator[bytes]) -> StreamingResponse:
    # Some proxies buffer answers; this asks nginx not to.
    return StreamingResponse(events, media_type=EVENT_STREAM, headers={"X-Accel-Buffering": "no"})
