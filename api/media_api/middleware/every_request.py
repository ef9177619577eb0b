"""For every request: its id, its line in the log, its metrics, and an answer after an unexpected exception.

Pure ASGI, because it must neither buffer nor slow down a stream of bytes.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import structlog
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from media_api.answers import problems
from media_api.metrics import Metrics
from media_api.requests.body import ClientGone
from media_api.requests.request_ids import REQUEST_ID, offered_or_new
from media_api.requests.socket_body import READ_BY_SOCKET
from media_core import logs

CLIENT_GONE: Final = 499
"""The status in the log when the client went away before it had an answer. It is never sent."""

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_QUIET: Final = frozenset({"/healthz", "/readyz"})

_log = structlog.stdlib.get_logger("media.api")


class InFlight:
    """The requests under way: services may be closed once they have ended."""

    def __init__(self) -> None:
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()

    @contextmanager
    def one(self) -> Iterator[None]:
        self._count += 1
        self._none.clear()
        try:
            yield
        finally:
            self._count -= 1
            if not self._count:
                self._none.set()

    async def ended(self) -> None:
        await self._none.wait()


class RequestMiddleware:
    """The outermost layer of the app, but for `Cors`."""

    def __init__(self, app: ASGIApp, metrics: Metrics, in_flight: InFlight) -> None:
        self._app = app
        self._metrics = metrics
        self._in_flight = in_flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        with (
            self._in_flight.one(),
            self._metrics.in_flight.track_inprogress(),
            logs.bound(request_id=exchange.request_id),
        ):
            try:
                await self._app(scope, exchange.receive, exchange.send)
            except ClientGone:
                exchange.status = exchange.status or CLIENT_GONE
            except Exception:
                _log.exception("unforeseen", method=scope["method"], path=scope["path"])
                if exchange.status:
                    raise  # too late for an answer: the server cuts the connection, so that the client notices
                await problems.internal_error()(scope, exchange.receive, exchange.send)
            finally:
                self._count(scope, exchange)

    def _count(self, scope: Scope, exchange: "_Exchange") -> None:
        seconds = time.perf_counter() - exchange.began
        route = getattr(scope.get("route"), "path", None) or "unmatched"
        method = scope["method"] if scope["method"] in _METHODS else "other"
        received = exchange.received + scope["state"].get(READ_BY_SOCKET, 0)
        metrics, labels = self._metrics, (method, route)
        metrics.requests.labels(*labels, str(exchange.status)).inc()
        metrics.seconds.labels(*labels).observe(seconds)
        metrics.received.labels(*labels).inc(received)
        metrics.sent.labels(*labels).inc(exchange.sent)
        reason = scope["state"].get(problems.REASON)
        write = _log.warning if reason else _log.debug if route in _QUIET else _log.info
        write(
            "request",
            method=scope["method"],
            path=scope["path"],
            route=route,
            status=exchange.status,
            milliseconds=round(seconds * 1000, 1),
            received=received,
            sent=exchange.sent,
            subject=scope["state"].get("subject"),
            client=scope["client"][0] if scope.get("client") else None,
            **({"reason": reason} if reason else {}),
        )


class _Exchange:
    """One request and its response, counted as they pass."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.began = time.perf_counter()
        self.received = 0
        self.sent = 0
        self.status = 0
        self._receive, self._send = receive, send
        headers = dict(scope["headers"])
        self.request_id = offered_or_new(headers.get(REQUEST_ID.lower().encode(), b"").decode("latin-1"))
        self._body_awaited = b"expect" in headers
        scope.setdefault("state", {})

    async def receive(self) -> Message:
        self._body_awaited = False
        message = await self._receive()
        self.received += len(message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers[REQUEST_ID] = self.request_id
            for name, value in problems.UNLESS_SAID.items():
                headers.setdefault(name, value)
            if self._body_awaited:
                # The client waits for "100 Continue" and gets this answer instead. It may send its body or not, so the
                # next bytes must not be read as a request.
                headers["Connection"] = "close"
        else:
            self.sent += len(message.get("body", b""))
        await self._send(message)
