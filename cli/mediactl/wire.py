"""What differs between a client that blocks and one that awaits: sending, reading, pausing, and work on files.

All else is written once, as coroutines over a `Wire`. Those of `Blocking` never suspend, so `now` and `one_by_one` run
them without an event loop.
"""

import asyncio
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping
from typing import Any, Protocol, TypeVar

import httpcore
import httpx
from httpx_sse import EventSource, ServerSentEvent

from mediactl.errors import Misuse

T = TypeVar("T")

# The answer to an upload comes when its bytes are durable. No other answer takes as long.
TIMEOUT = httpx.Timeout(120, connect=10)


class Wire(Protocol):
    """A pool of HTTP connections."""

    def request(
        self, method: str, url: str, body: Callable[[], AsyncGenerator[bytes, None]] | None, **options: Any
    ) -> httpx.Request:
        """`body` is sent only until the API answers: it refuses a file of gigabytes at the first bytes."""

    async def send(self, request: httpx.Request) -> httpx.Response:
        """The answer, its body not yet read."""

    async def read(self, response: httpx.Response) -> bytes: ...

    def chunks(self, response: httpx.Response, *, raw: bool = False) -> AsyncGenerator[bytes, None]:
        """`raw`: as they came, not decompressed."""

    def events(self, response: httpx.Response) -> AsyncGenerator[ServerSentEvent, None]: ...

    async def close(self, response: httpx.Response) -> None: ...

    async def end(self) -> None: ...

    async def pause(self, seconds: float) -> None: ...

    async def work(self, function: Callable[..., T], *arguments: Any) -> T:
        """`function(*arguments)`, which waits for a file."""


class _Lines:
    """The connections of a pool, to see an answer that comes while its request is still being sent."""

    def __init__(self) -> None:
        self._open: weakref.WeakSet[Any] = weakref.WeakSet()

    def watch(self, url: str) -> "_Line":
        return _Line(self._open, url.startswith("http:"))


class _Line:
    """The connection of one request.

    Over TLS the whole body is sent, since there readable bytes may be no answer.
    """

    def __init__(self, opened: "weakref.WeakSet[Any]", is_plain: bool) -> None:
        self._opened, self._is_plain = opened, is_plain
        self._own: Any = None

    def learn(self, event: str, facts: Mapping[str, Any]) -> None:
        """httpcore's trace of one request."""
        if event == "connection.connect_tcp.complete":
            self._own = facts["return_value"]
            self._opened.add(self._own)

    async def until_answered(self, body: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        try:
            async for chunk in body:
                yield chunk
                line = self._own
                if line is None and len(self._opened) == 1:  # of several, nobody says which one is used again
                    line = next(iter(self._opened))
                if self._is_plain and line is not None and line.get_extra_info("is_readable"):
                    # httpcore takes this for a peer that stopped reading, and then reads the answer.
                    raise httpcore.WriteError
        finally:
            await body.aclose()


def _made(kind: Callable[..., T]) -> T:
    """Raises Misuse."""
    try:
        return kind(timeout=TIMEOUT)
    except (ImportError, ValueError, httpx.InvalidURL):  # of a proxy that the environment names
        raise Misuse(
            "the environment names a proxy that is no HTTP proxy; unset ALL_PROXY, HTTP_PROXY and HTTPS_PROXY, or name "
            "one that is"
        ) from None


class Blocking:
    """`Wire` over an `httpx.Client`."""

    def __init__(self, client: httpx.Client | None) -> None:
        self._client = client or _made(httpx.Client)
        self._lines = _Lines()

    def request(
        self, method: str, url: str, body: Callable[[], AsyncGenerator[bytes, None]] | None, **options: Any
    ) -> httpx.Request:
        line = self._lines.watch(url)
        content = one_by_one(line.until_answered(body())) if body is not None else None
        return self._client.build_request(method, url, content=content, extensions={"trace": line.learn}, **options)

    async def send(self, request: httpx.Request) -> httpx.Response:
        return self._client.send(request, stream=True)

    async def read(self, response: httpx.Response) -> bytes:
        return response.read()

    async def chunks(self, response: httpx.Response, *, raw: bool = False) -> AsyncGenerator[bytes, None]:
        for chunk in response.iter_raw() if raw else response.iter_bytes():
            yield chunk

    async def events(self, response: httpx.Response) -> AsyncGenerator[ServerSentEvent, None]:
        for event in EventSource(response).iter_sse():
            yield event

    async def close(self, response: httpx.Response) -> None:
        response.close()

    async def end(self) -> None:
        self._client.close()

    async def pause(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 (no loop runs it)

    async def work(self, function: Callable[..., T], *arguments: Any) -> T:
        return function(*arguments)


class Awaiting:
    """`Wire` over an `httpx.AsyncClient`."""

    def __init__(self, client: httpx.AsyncClient | None) -> None:
        self._client = client or _made(httpx.AsyncClient)
        self._lines = _Lines()

    def request(
        self, method: str, url: str, body: Callable[[], AsyncGenerator[bytes, None]] | None, **options: Any
    ) -> httpx.Request:
        line = self._lines.watch(url)

        async def learn(event: str, facts: Mapping[str, Any]) -> None:
            line.learn(event, facts)

        content = line.until_answered(body()) if body is not None else None
        return self._client.build_request(method, url, content=content, extensions={"trace": learn}, **options)

    async def send(self, request: httpx.Request) -> httpx.Response:
        return await self._client.send(request, stream=True)

    async def read(self, response: httpx.Response) -> bytes:
        return await response.aread()

    async def chunks(self, response: httpx.Response, *, raw: bool = False) -> AsyncGenerator[bytes, None]:
        async for chunk in response.aiter_raw() if raw else response.aiter_bytes():
            yield chunk

    async def events(self, response: httpx.Response) -> AsyncGenerator[ServerSentEvent, None]:
        async for event in EventSource(response).aiter_sse():
            yield event

    async def close(self, response: httpx.Response) -> None:
        await response.aclose()

    async def end(self) -> None:
        await self._client.aclose()

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def work(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.to_thread(function, *arguments)


def now(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine over `Blocking`."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        result: T = ended.value
        return result
    finally:
        coroutine.close()
    raise RuntimeError("a call that blocks awaited something")


async def _next(items: AsyncGenerator[T, None]) -> T:
    return await anext(items)


async def _end(items: AsyncGenerator[Any, None]) -> None:
    await items.aclose()


def one_by_one(items: AsyncGenerator[T, None]) -> Generator[T, None, None]:
    """The items of an async generator over `Blocking`."""
    try:
        while True:
            try:
                item = now(_next(items))
            except StopAsyncIteration:
                return
            yield item
    finally:
        now(_end(items))
