"""A request's body as it arrives, from a client that may stall or go away."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Final

from fastapi import Request
from starlette.types import Receive

from media_core.errors import Refused

SLOWEST_BYTES_A_SECOND: Final = 1024
"""Lowest average speed over the time that a body was waited for, as a request holds memory and quota until its end."""


class ClientGone(Exception):
    """The client closed the connection before it had its answer, so none is sent."""


def media_type_of(request: Request) -> str:
    """The request's Content-Type without parameters, in small letters; empty if it has none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def require_plain(request: Request) -> None:
    """Raises Refused `unsupported_media_type` for a compressed body: its bytes would be stored as the file."""
    if request.headers.get("content-encoding", "").strip().lower() not in {"", "identity"}:
        raise Refused("unsupported_media_type", "Send the body without Content-Encoding, as it is.")


async def chunks(request: Request, idle_seconds: float) -> AsyncGenerator[bytes]:
    """The body's bytes. Raises ClientGone, and Refused as `require_plain`, and `request_timeout`: no byte for
    `idle_seconds`, or too slow.
    """
    require_plain(request)
    receive, clock = request.receive, asyncio.get_running_loop().time
    more, received, waited = True, 0, 0.0
    while more:
        # Bytes that have come allow more time: for a client that is slow at times, not for one that always is.
        left = idle_seconds + received / SLOWEST_BYTES_A_SECOND - waited
        began = clock()
        try:
            async with asyncio.timeout(min(idle_seconds, left)):
                message = await receive()
        except TimeoutError:
            raise Refused("request_timeout", _too_slow(left, idle_seconds)) from None
        waited += clock() - began
        received += len(message.get("body", b""))
        if message["type"] == "http.disconnect":
            raise ClientGone
        more = message.get("more_body", False)
        if message.get("body"):
            yield message.pop("body")


@contextmanager
def disconnection(receive: Receive) -> Iterator[asyncio.Future[None]]:
    """For a block after the body has been read: a future that is done once the client has closed the connection, or has
    its answer.
    """
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        yield gone
    finally:
        gone.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _too_slow(left: float, idle_seconds: float) -> str:
    if left < idle_seconds:
        return f"The body came at less than {SLOWEST_BYTES_A_SECOND} bytes a second; send the request again."
    return f"No byte arrived for {idle_seconds:g} seconds; send the request again."
