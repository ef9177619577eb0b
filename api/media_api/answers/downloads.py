"""What HTTP says about serving bytes: ranges, conditions, file names, and the headers that keep a browser from running
what somebody uploaded. Everything but `respond` and the stream that it returns is pure.

Not werkzeug.http (3.1): it takes a weak tag for a match in If-Range and an unquoted one in If-None-Match, refuses
`bytes=-5000` of a shorter file, sends everything for `bytes=-0`, and writes no `filename*`. Its import loads the whole
WSGI server: 35 modules and 3.4 MB.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Protocol, cast
from urllib.parse import quote

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from media_api.answers import problems
from media_api.requests.body import ClientGone, disconnection
from media_api.requests.headers import listed, weight
from media_core.errors import Refused
from media_core.examination import media_types
from media_core.items.access import Item
from media_core.store import Chunk, ObjectMissing
from media_core.store.base import CHUNK_BYTES

CORP: Final = "Cross-Origin-Resource-Policy"
CSP: Final = "Content-Security-Policy"

SAFETY_HEADERS: Final[Mapping[str, str]] = {
    "X-Content-Type-Options": "nosniff",
    CSP: "sandbox; default-src 'none'",
    "Referrer-Policy": "no-referrer",
    CORP: "same-origin",
}
"""On every download (http-api.md). Content that a tenant's members upload never runs as a page of this origin."""

PLAYER_POLICY: Final = "default-src 'none'; media-src 'self'"
"""Content-Security-Policy of sound and films by a signed URL. A browser that opens one as a tab makes a page around it,
whose player loads it again. Under `sandbox` that page has an opaque origin, and Chromium plays nothing. Without
`sandbox` no script runs either: `nosniff` keeps the type, and the policy lets in nothing but media of this origin.
Downloads with a token are no tab of a browser, and have the published policy always."""

FOR_ANY_PAGE: Final = "cross-origin"
"""Cross-Origin-Resource-Policy by a signed URL, which is for image tags and players of other sites."""

SHORTEST_CHUNK: Final = CHUNK_BYTES // 2
"""A store's chunks have more bytes, but for the last."""

CACHING: Final = "private, no-cache"
"""A copy may be kept, but must be revalidated each time: who may read it, and its verdict, can change."""

_RANGE: Final = re.compile(r"([0-9]*)-([0-9]*)")
_BEYOND: Final = 10**18
"""A position past the end of every file."""
_ETAG: Final = re.compile(r'(W/)?("[^"]*")')
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$&+.^_`|~-]+")


@dataclass(frozen=True)
class ByteRange:
    """`start` and `length` of the bytes to send, of `size` in all."""

    start: int
    length: int
    size: int

    @property
    def content_range(self) -> str:
        return f"bytes {self.start}-{self.start + self.length - 1}/{self.size}"


def byte_range(header: str | None, size: int) -> ByteRange | None:
    """The first range that `header` asks for and the file has. None: send everything (no header, another unit, or a
    malformed one: RFC 9110, 14.2).

    Raises Refused `range_not_satisfiable` if every range begins after the file's end.
    """
    unit, _, ranges = (header or "").partition("=")
    if unit.strip().lower() != "bytes":
        return None
    # RFC 9110, 5.6.1: empty elements of a list count for nothing.
    asked_for = [_range(text, size) for text in map(str.strip, ranges.split(",")) if text]
    if not asked_for or None in asked_for:
        return None
    for each in asked_for:
        if each is not None and each.length > 0:
            return each
    raise Refused("range_not_satisfiable", f"The file has {size} bytes; nothing lies in that range.", size=size)


def _range(text: str, size: int) -> ByteRange | None:
    """One of the ranges; its length is not positive if the file has none of it. None: it is malformed."""
    match = _RANGE.fullmatch(text)
    start_text, end_text = match.groups() if match else ("", "")
    if not start_text:
        length = min(_position(end_text), size)
        return ByteRange(size - length, length, size) if end_text else None
    start = _position(start_text)
    if end_text and _position(end_text) < start:
        return None
    return ByteRange(start, min(_position(end_text) if end_text else _BEYOND, size - 1) - start + 1, size)


def _position(digits: str) -> int:
    digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= 18 else _BEYOND


def fails(if_match: str | None, etag: str) -> bool:
    """Strong comparison, as RFC 9110 requires it for If-Match: a weak tag never matches."""
    if if_match is None or if_match.strip() == "*":
        return False
    return ("", etag) not in _ETAG.findall(if_match)


def not_modified(if_none_match: str | None, etag: str) -> bool:
    """Weak comparison, as RFC 9110 requires it for If-None-Match."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or any(etag == tag for _, tag in _ETAG.findall(if_none_match))


def range_still_holds(if_range: str | None, etag: str) -> bool:
    """Strong comparison: a weak tag or a date never matches, and the whole file is sent."""
    return if_range is None or if_range.strip() == etag


def content_disposition(filename: str, *, inline: bool) -> str:
    """RFC 6266: an ASCII name for every client, and the real name in UTF-8 if it differs."""
    kind = "inline" if inline else "attachment"
    if _TOKEN.fullmatch(filename):
        return f'{kind}; filename="{filename}"'
    plain = "".join(
        character if " " <= character <= "~" and character not in '"\\%;' else "_" for character in filename
    )
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"


def disposition_of(filename: str, mime_type: str) -> str:
    """Inline only for types that cannot contain a script."""
    return content_disposition(filename, inline=media_types.inline_allowed(mime_type))


def signed_headers(mime_type: str) -> dict[str, str]:
    """The safety headers of content of this type by a signed URL."""
    plays = media_types.inline_allowed(mime_type) and media_types.category(mime_type) in ("audio", "video")
    return {**SAFETY_HEADERS, CORP: FOR_ANY_PAGE, **({CSP: PLAYER_POLICY} if plays else {})}


def content_type_of(item: Item) -> str:
    """With the charset of text where it is known: browsers guess otherwise, and guess wrong."""
    charset = item.details.get("charset")
    return f"{item.mime_type}; charset={charset}" if charset else item.mime_type


def prefers_jpeg(accept: str | None) -> bool:
    """Whether a client prefers JPEG to WebP. In a tie it is WebP, which is smaller."""
    return weight(accept, "image/jpeg") > weight(accept, "image/webp")


@dataclass(frozen=True)
class Representation:
    """What is served: `size` in bytes, the quoted strong `etag`, and how a browser may use it."""

    size: int
    etag: str
    mime_type: str
    disposition: str


class Readable(Protocol):
    """Where the bytes of a representation come from."""

    async def require(self) -> None:
        """Raises if they are known to be missing."""

    def stream(self, start: int, length: int) -> AsyncIterator[Chunk]:
        """`length` bytes from `start`. Raises ObjectMissing before the first."""

    async def missed(self) -> Exception:
        """What to raise after ObjectMissing."""


@dataclass(frozen=True)
class Whole:
    """A Readable of bytes in memory."""

    data: bytes

    async def require(self) -> None:
        pass

    async def stream(self, start: int, length: int) -> AsyncIterator[Chunk]:
        yield self.data[start : start + length]

    async def missed(self) -> Exception:
        raise AssertionError


def without_body(request: Request, etag: str, headers: Mapping[str, str]) -> Response | None:
    """The answer where a condition of the request says that it has no representation: 412 or 304 (RFC 9110, 13.2.2).

    `headers`: those that a 304 has of the 200.
    """
    if fails(listed(request, "if-match"), etag):
        detail = "This is no longer what If-Match names; begin again without it. ETag names what is here now."
        return problems.response("precondition_failed", detail, headers={"ETag": etag})
    if not_modified(listed(request, "if-none-match"), etag):
        return Response(status_code=304, headers=dict(headers))
    return None


async def respond(
    request: Request, content: Representation, source: Readable, *, safety: Mapping[str, str] = SAFETY_HEADERS
) -> Response:
    """The answer to the request's method, conditions and range.

    Raises Refused `range_not_satisfiable`, and as `source` says if the bytes are missing; both before anything is sent.
    """
    headers = {
        "ETag": content.etag,
        "Cache-Control": CACHING,
        **safety,
    }
    if unsent := without_body(request, content.etag, headers):
        return unsent
    await source.require()
    wanted = None
    if request.method == "GET" and range_still_holds(request.headers.get("if-range"), content.etag):
        wanted = byte_range(request.headers.get("range"), content.size)
    sent = wanted or ByteRange(0, content.size, content.size)
    headers |= {
        "Content-Type": content.mime_type,
        "Content-Length": str(sent.length),
        "Content-Disposition": content.disposition,
        "Accept-Ranges": "bytes",
    }
    if request.method == "HEAD":
        return Response(headers=headers)
    if wanted is not None:
        headers["Content-Range"] = wanted.content_range
    # The first chunk is read before the status is sent, so that a missing object or an outage gets its own status. Both
    # kinds of stream are generators.
    chunks = cast("AsyncGenerator[Chunk, None]", source.stream(sent.start, sent.length))
    try:
        first = await anext(chunks)
    except (ObjectMissing, StopAsyncIteration):  # the latter: of the object no byte is left in that range
        raise await source.missed() from None
    if len(first) < min(sent.length, SHORTEST_CHUNK):  # it is the last one, so the object was cut
        await chunks.aclose()
        raise await source.missed()
    return _Streamed(first, chunks, 200 if wanted is None else 206, headers, sent.length, source)


class _Streamed(Response):
    """Sends chunks until the last one, or until the client is gone; the server cuts off one that stalls."""

    def __init__(
        self,
        first: Chunk,
        rest: AsyncGenerator[Chunk, None],
        status: int,
        headers: Mapping[str, str],
        length: int,
        source: Readable,
    ) -> None:
        super().__init__(None, status, headers)
        self._first, self._rest = first, rest
        self._left, self._source = length, source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with disconnection(receive) as gone:
            async with aclosing(self._rest):
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                await self._send(send, self._first)
                async for chunk in self._rest:
                    if gone.done():
                        raise ClientGone
                    await self._send(send, chunk)
            if self._left > 0:  # the loss is noted, and the server cuts the connection
                raise await self._source.missed()
            await send({"type": "http.response.body"})

    async def _send(self, send: Send, chunk: Chunk) -> None:
        self._left -= len(chunk)
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
