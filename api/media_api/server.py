"""uvicorn with httptools and uvloop, and with limits that it leaves to a proxy: request heads are limited in size and
time, and a client that is refused while it still sends gets its answer before the connection ends.
"""

import asyncio
import json
import logging
import socket
from collections.abc import Callable, Mapping
from functools import partial
from types import FrameType
from typing import Any, Final, cast

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from media_api.answers import problems
from media_api.requests import draft
from media_api.requests.socket_body import EXTENSION, LEAST_BYTES, SocketBody
from media_core.ids import new_ulid
from media_core.listening import plain

MAX_HEAD_BYTES: Final = 128 * 1024
"""Most bytes of request line and headers. A token alone may have 8 KiB; proxies allow 8 to 64 KiB in all."""
HEAD_SECONDS: Final = 30.0
"""From a connection's or a request's first byte to the end of its headers."""
MAX_PIPELINED: Final = 32
"""Most requests of one connection that wait for the answer to an earlier one. Each takes some KiB, and hundreds fit
into one read. Browsers do not pipeline."""
LINGER_SECONDS: Final = 30.0
"""How long the rest of a refused request's body is read and dropped. Closing at once would reset the connection, and
the client might lose the answer."""
STALLED_SECONDS: Final = 300.0
"""A client that takes no byte of its answer for this long is cut off. A download can be continued with a Range."""

HELD_BYTES: Final = 4096
"""Most bytes of a write that waits for the next one."""

_ASKS_FOR_104: Final = draft.INTEROP.lower().encode()


class _Gentle:
    """A connection's transport. Its first `close` while the client is still sending only ends our side.

    A small write is held until the next one of the same turn of the event loop: uvicorn writes an answer's head and its
    body apart, and each would be a system call, and most of the time a packet.
    """

    def __init__(self, transport: asyncio.Transport, protocol: "BoundedProtocol") -> None:
        self._transport = transport
        self._protocol = protocol
        self._held = b""
        self.lingering = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self.lingering or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        if self._held:
            held, self._held = self._held, b""
            self._transport.writelines((held, data))
        elif len(data) <= HELD_BYTES:
            self._held = data
            self._protocol.loop.call_soon(self._flush)
        else:
            self._transport.write(data)

    def _flush(self) -> None:
        held, self._held = self._held, b""
        if held and not self._transport.is_closing():
            self._transport.write(held)

    def close(self) -> None:
        self._flush()
        if self.lingering or not self._protocol.still_sending or not self._transport.can_write_eof():
            self._transport.close()
            return
        self.lingering = True
        self._transport.write_eof()
        self._protocol.flow.resume_reading()
        self._protocol.begin_deadline(LINGER_SECONDS)


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    still_sending = False
    """Whether the client has begun a request and not ended it."""
    _in_head = False
    _head_bytes = 0
    _trailer_bytes = 0
    _body_in_chunk = 0
    _body_left = 0
    """Bytes of the body under way that are still to come; 0 if that is not known."""
    _deadline: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None
    _is_told_again = False
    """Whether a new parser is being fed the head of the request under way."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        if self.client is not None:  # `trusted_proxies` and the log know IPv4 addresses as such
            self.client = (plain(self.client[0]), self.client[1])
        self.transport = cast("asyncio.Transport", _Gentle(transport, self))
        self.begin_deadline(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_deadline()
        self._end_stall()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._begin_stall()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._end_stall()

    def _begin_stall(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        self._stall = self.loop.call_later(STALLED_SECONDS, self._check_stall, unsent)

    def _check_stall(self, unsent: int) -> None:
        # `close` would wait for the bytes to be taken, so the connection would stay.
        if self.transport.get_write_buffer_size() < unsent:
            self._begin_stall()
        else:
            self.transport.abort()

    def _end_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing() and self._in_head:
            return  # bytes after a head that was refused
        self._body_in_chunk = 0
        self._parse(data)
        if self.still_sending and not self._in_head:
            self._check_trailer(len(data))
        if self._in_head:
            self._head_bytes += len(data) - self._body_in_chunk
            self._check_head(self._head_bytes)

    def _parse(self, data: bytes) -> None:
        """As uvicorn, but ignores `Upgrade`, as RFC 9110, 7.8 allows.

        For the parser a request with `Upgrade` ends with its head, so its body would be read as further requests.
        """
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
            self._parse_anew(self._framing())
            if rest and not self.transport.is_closing():
                self._parse(rest)
        except httptools.HttpParserError:
            self.send_400_response("")

    def _parse_anew(self, framing: bytes) -> None:
        """A new parser, for a body that begins here, or for the next request if `framing` is empty."""
        self.parser = httptools.HttpRequestParser(self)
        if framing:
            self._is_told_again = True
            self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % framing)
            self._is_told_again = False

    def _framing(self) -> bytes:
        """The header that says where the body of the current request ends; empty if there is no body."""
        framing = b""
        for name, value in self.headers:
            if name == b"transfer-encoding":
                return b"Transfer-Encoding: " + value
            if name == b"content-length" and value.strip() != b"0":
                framing = b"Content-Length: " + value
        return framing

    def on_message_begin(self) -> None:
        if self._is_told_again:
            return
        super().on_message_begin()
        self.still_sending = self._in_head = True
        self._head_bytes = self._trailer_bytes = 0
        self.begin_deadline(HEAD_SECONDS)

    def on_url(self, url: bytes) -> None:
        if not self._is_told_again:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # otherwise it is a trailer, which is ignored
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._is_told_again:
            return
        if len(self.pipeline) >= MAX_PIPELINED:
            self.transport.abort()
        elif (
            self._check_head(len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers))
            and self._check_fields()
        ):
            self._in_head = False
            self._end_deadline()
            extensions: dict[str, Any] = {}
            if any(name == _ASKS_FOR_104 for name, _ in self.headers):
                extensions[draft.INFORM] = self._inform
            framing = self._framing()
            self._body_left = int(framing.partition(b":")[2]) if framing.startswith(b"Content-Length") else 0
            if self._body_left > LEAST_BYTES and not self.pipeline and self.scheme == "http":
                extensions[EXTENSION] = partial(self._socket_body, self.scope)
            if extensions:
                self.scope["extensions"] = extensions
            super().on_headers_complete()

    def _socket_body(self, of: object) -> SocketBody | None:
        """Stops reading, and gives the rest of the body of the request with the scope `of` to the application. None
        while that is not possible.
        """
        if (
            self.cycle.scope is not of  # its body has come whole, and a later request's comes now
            or self.cycle.body  # the application has to take that first
            or self.cycle.disconnected
            or self.cycle.response_started
            or self.transport.is_closing()
            or self._body_left < LEAST_BYTES
        ):
            return None
        self.flow.pause_reading()
        return SocketBody(self.transport.get_extra_info("socket").fileno(), self._body_left, self._go_on_behind)

    def _go_on_behind(self, body: SocketBody) -> None:
        """The parser has not seen the bytes that `body` has read: a new one goes on behind them."""
        self._body_left = body.left
        if self.parser is None or not body.taken:  # the connection has ended; or nothing was read
            return
        self._parse_anew(b"Content-Length: %d" % body.left if body.left else b"")
        if not body.left:
            self.on_message_complete()

    def _inform(self, headers: Mapping[str, str]) -> None:
        """Sends 104 before the answer of the request under way, to a client that knows it."""
        if self.cycle.response_started or self.transport.is_closing() or self.scope["http_version"] == "1.0":
            return
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.transport.write(f"HTTP/1.1 104 Upload Resumption Supported\r\n{lines}\r\n".encode("latin-1"))

    def on_body(self, body: bytes) -> None:
        self._body_in_chunk += len(body)
        self._body_left -= len(body)
        if self.transport.is_closing():
            return
        held = cast("bytes | bytearray", self.cycle.body)
        if not held and not self.cycle.response_complete:
            # As it is: uvicorn copies it into a bytearray, and that into the message for the application.
            self.cycle.body, body = cast("bytearray", body), b""
        elif isinstance(held, bytes):
            self.cycle.body = bytearray(held)  # many small chunks may follow
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser is not None and self.parser.should_upgrade() and self._framing():
            return  # see `_parse`: its body is still to come
        self.still_sending = False
        if self.transport.is_closing():
            self.transport.close()
        else:
            self._end_deadline()
            super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.pipeline:
            self.flow.pause_reading()
        # The answered request may be an earlier one than the request that is still being sent.
        if self.still_sending and self.cycle.response_complete and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self.begin_deadline(LINGER_SECONDS)

    def shutdown(self) -> None:
        super().shutdown()
        if self.transport.is_closing():
            self.transport.close()  # the process ends: no lingering

    def send_400_response(self, msg: str) -> None:
        self._refuse("bad_request", "This is not an HTTP request that could be understood.")

    def begin_deadline(self, seconds: float) -> None:
        """Cuts the connection after `seconds`, unless `_end_deadline` or another deadline comes first."""
        self._end_deadline()
        self._deadline = self.loop.call_later(seconds, self.transport.abort)

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _check_head(self, size: int) -> bool:
        if size > MAX_HEAD_BYTES:
            self._refuse("headers_too_large", f"The request line and headers may have {MAX_HEAD_BYTES} bytes in all.")
        return size <= MAX_HEAD_BYTES

    def _check_fields(self) -> bool:
        """Refuses what no server may take: RFC 9112, 3.2 and 6.1. The parser lets it pass."""
        version = self.parser.get_http_version()
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and version != "1.0"):
            self._refuse("bad_request", "Send one Host header.")
            return False
        if any(name == b"transfer-encoding" and value.strip().lower() != b"chunked" for name, value in self.headers):
            self._refuse("bad_request", "A body may have the Transfer-Encoding `chunked`, and no other.")
            return False
        if version == "1.0":
            self.expect_100_continue = False  # RFC 9110, 10.1.1
        return True

    def _check_trailer(self, received: int) -> None:
        """Limits the bytes after the head that are no body: chunk lengths and the trailer. Many are an attack."""
        self._trailer_bytes = 0 if self._body_in_chunk else self._trailer_bytes + received
        if self._trailer_bytes > MAX_HEAD_BYTES:
            self.transport.abort()

    def _refuse(self, code: str, detail: str) -> None:
        """Answers before the app does, with a problem as the app's; not if the app's answer has begun."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            kind = problems.PROBLEM_TYPES[code]
            body = json.dumps(problems.problem(code, detail)).encode()
            origin = next((value for name, value in self.headers or () if name == b"origin"), None)
            marks = {} if origin is None else cast("Config", self.config).marks(origin.decode("latin-1"))
            others = {**problems.UNLESS_SAID, **marks}
            head = (
                f"HTTP/1.1 {kind.status} {kind.title}\r\nContent-Type: {problems.MEDIA_TYPE}\r\n"
                f"Content-Length: {len(body)}\r\nX-Request-Id: {new_ulid()}\r\nConnection: close\r\n"
                + "".join(f"{name}: {value}\r\n" for name, value in others.items())
                + "\r\n"
            )
            self.transport.write(head.encode() + body)
        self._in_head = True  # later bytes are not read as a request
        self.transport.close()
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()


class Server(uvicorn.Server):
    """On SIGTERM or SIGINT it finishes the requests under way, then exits 0. A second signal ends the wait.

    `on_drain` is called first, in the event loop.
    """

    def __init__(self, config: uvicorn.Config, on_drain: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_drain = on_drain

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_drain()
        await super().shutdown(sockets)


class Config(uvicorn.Config):
    """uvicorn's, and what an answer that the app does not give says to a web app of another origin."""

    marks: Callable[[str], Mapping[str, str]]


def config(
    app: Any,
    *,
    shutdown_seconds: int = 60,
    trusted_proxies: str = "",
    marks: Callable[[str], Mapping[str, str]] = lambda _origin: {},
) -> Config:
    """`trusted_proxies`: addresses whose X-Forwarded-* headers are believed, comma-separated; empty for none. `marks`:
    headers for a web app of this origin.
    """
    # An exception after the answer has begun is in the log already, with its request id.
    logging.getLogger("uvicorn.error").addFilter(lambda record: not str(record.msg).startswith("Exception in ASGI"))
    made = Config(
        app,
        http=BoundedProtocol,
        loop="uvloop",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=trusted_proxies or None,
        timeout_graceful_shutdown=shutdown_seconds,
        timeout_keep_alive=75,
    )
    made.marks = marks
    return made
