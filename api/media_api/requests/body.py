"""A request's body as it arrives, from a client that may stall or go away."""

import asyncio
import math
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Final, overload

from fastapi import Request
from starlette.types import Receive

from media_api.requests.headers import listed
from media_api.requests.socket_body import EXTENSION, READ_BY_SOCKET, SocketBody
from media_core.errors import Refused

SLOWEST_BYTES_A_SECOND: Final = 1024
"""Lowest average speed over the time that a body was waited for, as a request holds memory and quota until its end."""

PAUSE_SECONDS: Final = 2.0
"""What has come of an upload in several requests counts after so long a silence, before it loses its claim."""
FAST_CHUNK_BYTES: Final = 64 * 1024
"""A client whose bytes come in such chunks fills the socket's buffer as fast as it is read."""


class ClientGone(Exception):
    """The client closed the connection before it had its answer, so none is sent."""


def media_type_of(request: Request) -> str:
    """The request's Content-Type without parameters, in small letters; empty if it has none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def require_plain(request: Request) -> None:
    """Raises Refused `unsupported_media_type` for a compressed body: its bytes would be stored as the file."""
    encodings = listed(request, "content-encoding") or ""
    if {each.strip().lower() for each in encodings.split(",")} - {"", "identity"}:
        raise Refused("unsupported_media_type", "Send the body without Content-Encoding, as it is.")


async def chunks(request: Request, idle_seconds: float) -> AsyncGenerator[bytes]:
    """The body's bytes. Raises ClientGone, and Refused as `require_plain`, and `request_timeout`: no byte for
    `idle_seconds`, or too slow.
    """
    arriving = _Arriving(request, idle_seconds)
    while arriving.more:
        if chunk := await arriving.next():
            yield chunk
        del chunk  # frees it while the next one is waited for


async def chunks_or_socket(request: Request, idle_seconds: float) -> AsyncGenerator[bytes | SocketBody | None]:
    """As `chunks`; behind a chunk of a fast client the socket, from which the consumer may read what follows. None:
    nothing has come for `PAUSE_SECONDS`.
    """
    arriving = _Arriving(request, idle_seconds)
    socket_body = request.scope.get("extensions", {}).get(EXTENSION, lambda: None)
    while arriving.more:
        if (chunk := await arriving.next(PAUSE_SECONDS)) is None:
            yield None
            chunk = await arriving.next()
        is_fast = len(chunk) >= FAST_CHUNK_BYTES
        if chunk:
            yield chunk
        del chunk
        if is_fast and arriving.more and (rest := socket_body()) is not None:
            try:
                yield rest
            finally:
                rest.end()
                state = request.scope.setdefault("state", {})
                state[READ_BY_SOCKET] = state.get(READ_BY_SOCKET, 0) + rest.taken
            arriving.received += rest.taken


class _Arriving:
    """A body under way, and how long it was waited for."""

    def __init__(self, request: Request, idle_seconds: float) -> None:
        require_plain(request)
        self.more = True
        self.received = 0
        self._waited = 0.0
        self._receive = request.receive
        self._idle_seconds = idle_seconds
        self._clock = asyncio.get_running_loop().time

    @overload
    async def next(self) -> bytes: ...
    @overload
    async def next(self, pause: float) -> bytes | None: ...
    async def next(self, pause: float = math.inf) -> bytes | None:
        """The bytes that come next; empty if there are none any more. None: nothing has come for `pause` seconds."""
        idle_seconds = self._idle_seconds
        # Bytes that have come allow more time: for a client that is slow at times, not for one that always is.
        left = idle_seconds + self.received / SLOWEST_BYTES_A_SECOND - self._waited
        began = self._clock()
        try:
            async with asyncio.timeout(min(idle_seconds, left, pause)):
                message = await self._receive()
        except TimeoutError:
            if pause < min(idle_seconds, left):
                self._waited += pause
                return None
            raise Refused("request_timeout", _too_slow(left, idle_seconds)) from None
        self._waited += self._clock() - began
        if message["type"] == "http.disconnect":
            raise ClientGone
        self.more = message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        self.received += len(chunk)
        return chunk


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
