"""The platform's HTTP API, seen from a client: envelope, problems, retries, pages, server-sent events."""

import email.utils
import json
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from mediactl.characters import is_shown
from mediactl.errors import MediaError, Misuse, Problem, Unreachable
from mediactl.wire import Wire

PATIENCE = 60.0
"""Seconds that one call may spend waiting because the API said "later" (425, 429, 503)."""
LIMIT_OF_A_PROBLEM = 64 * 1024
_DESCRIPTION = re.compile(r'error_description="([^"]*)"')
MOST_OF_A_PAGE = 200
_OF_A_STREAM = httpx.Timeout(30, connect=10)
"""A stream counts as broken after so many seconds without a byte."""

Body = Callable[[], AsyncGenerator[bytes, None]]
OnWait = Callable[[MediaError, float], None]


def known_room(text: str) -> str:
    """`text`, if it can be a room's id in the API's paths. Raises Misuse otherwise."""
    # httpx would resolve `.` and `..` before it sends the request.
    if not 0 < len(text) <= 255 or not all(map(is_shown, text)) or "/" in text or text in {".", ".."}:
        raise Misuse(f"{text!r} is no room id: a room id has 1-255 printable characters and no /")
    return text


def is_media_id(text: str) -> bool:
    """Whether `text` looks like the id of a file."""
    return re.fullmatch(r"med-[0-9A-HJKMNP-TV-Z]{26}", text) is not None


def path_of(*segments: str) -> str:
    """`/v1/…` with each segment quoted, so that any id is one segment. Raises Misuse."""
    try:
        return "/v1/" + "/".join(quote(segment, safe="") for segment in segments)
    except UnicodeEncodeError:
        raise _no_text() from None


def _no_text() -> Misuse:
    return Misuse("an argument has bytes that are no UTF-8; the API takes text only")


def _headers_of(token: str | None) -> dict[str, str]:
    """Raises Misuse if `token` cannot be one."""
    if token is not None and not re.fullmatch(r"[A-Za-z0-9._~+/=-]+", token):
        what = "has characters that no token has; was it copied whole?" if token else "is empty"
        raise Misuse(f"TOKEN {what}")
    return {"User-Agent": "mediactl", **({"Authorization": f"Bearer {token}"} if token else {})}


class Exchange:
    """One tenant's API at `base`. `on_wait(why, seconds)` is called before each pause that the API
    asks for, and once where nothing answers.

    Raises Misuse if `base` is no address or `token` cannot be one.
    """

    def __init__(self, base: str, token: str | None, wire: Wire, on_wait: OnWait | None) -> None:
        base = base.strip()
        try:
            address = urlsplit(base)
        except ValueError:
            address = urlsplit("")
        if address.scheme not in {"http", "https"} or not address.hostname:
            raise Misuse(f"BASE is {base!r}; it must be an address such as http://127.0.0.1:8080")
        if address.username is not None or address.query or address.fragment:
            raise Misuse("BASE must be an address alone, such as http://127.0.0.1:8080, without a user name, ? and #")
        if address.path.rstrip("/").endswith("/v1"):
            raise Misuse(f"BASE must be given without /v1: {base.rstrip('/').removesuffix('/v1')}")
        self.base = base.rstrip("/")
        self.wire = wire
        self._headers = _headers_of(token)
        self._on_wait = on_wait or (lambda *_: None)

    async def get(self, *segments: str, **params: Any) -> Any:
        """The `data` of the answer."""
        return await self.call("GET", path_of(*segments), params=given(params))

    async def call(self, method: str, path: str, **request: Any) -> Any:
        """The `data` of the answer; None if the answer has no body. Arguments as for `open`."""
        body = await self.read(method, path, **request)
        return self._member(body, "data") if body else None

    async def read(self, method: str, path: str, **request: Any) -> bytes:
        """The body of the answer."""
        async with self.open(method, path, **request) as response:
            with self.naming_failures():
                return await self.wire.read(response)

    def _member(self, body: bytes, name: str) -> Any:
        try:
            return json.loads(body)[name]
        except (ValueError, LookupError, TypeError):
            raise Unreachable(f"the server at {self.base} is not the media API") from None

    @asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        *,
        body: Body | None = None,
        repeatable: bool = True,
        headers: dict[str, str] | None = None,
        **request: Any,
    ) -> AsyncIterator[httpx.Response]:
        """A successful answer, its body not yet read.

        If the API answers "later" (425, 429, 503), the request is sent again after Retry-After, within `PATIENCE` and
        only if it is `repeatable`. `body` makes the same bytes for each try. Raises Problem and Unreachable.
        """
        waited, tries = 0.0, 0
        while True:
            with self.naming_failures():
                attempt = self.wire.request(
                    method, self.base + path, body, headers={**self._headers, **(headers or {})}, **request
                )
                response = await self.wire.send(attempt)
            try:
                if response.is_success:
                    yield response
                    return
                problem = await self._problem(response)
            finally:
                await self.wire.close(response)
            pause = _pause(problem, tries)
            if pause is None or not repeatable or waited + pause > PATIENCE:
                raise problem
            await self.wait(problem, pause)
            waited, tries = waited + pause, tries + 1

    async def page(self, path: str, params: Mapping[str, Any]) -> Any:
        """A page of a list. A parameter that is None is not sent."""
        body = await self.read("GET", path, params=given(params))
        self._member(body, "next_cursor")
        return json.loads(body)

    async def pages(self, *segments: str, limit: int | None, **params: Any) -> AsyncGenerator[Any, None]:
        """Pages of a list: at most 200 items a page, `limit` in all (None: all)."""
        left = limit
        while True:
            query = {"limit": MOST_OF_A_PAGE if left is None else min(left, MOST_OF_A_PAGE), **params}
            page = await self.page(path_of(*segments), query)
            yield page
            params["cursor"] = page["next_cursor"]
            left = None if left is None else left - len(page["data"])
            if params["cursor"] is None or (left is not None and left <= 0):
                return

    async def events(
        self, path: str, last: str | None, params: Mapping[str, Any] | None = None
    ) -> AsyncGenerator[tuple[str | None, str, dict[str, Any]], None]:
        """The events of one connection: id, name and data. None where the API does not stream. Where the data is empty,
        the id is one to go on from.
        """
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last} if last else {})}
        options: dict[str, Any] = {"headers": headers, "timeout": _OF_A_STREAM, "params": params}
        async with self.open("GET", path, **options) as response:
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                return
            with self.naming_failures():
                async with aclosing(self.wire.events(response)) as events:
                    async for event in events:
                        try:
                            data = event.json() if event.data else {}
                        except ValueError:
                            continue
                        if isinstance(data, dict):
                            yield event.id or None, event.event, data

    @contextmanager
    def naming_failures(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            raise Unreachable(f"nothing answers at {self.base} ({_reason(error)})") from error
        except httpx.TimeoutException as error:
            raise Unreachable(f"{self.base} did not answer in time") from error
        except httpx.TransportError as error:
            raise Unreachable(f"the connection to {self.base} broke ({_reason(error)})") from error
        except (httpx.InvalidURL, UnicodeError) as error:
            if isinstance(error, UnicodeEncodeError) and error.encoding == "utf-8":
                raise _no_text() from None
            raise Misuse(f"BASE is {self.base!r}, which is not a valid address") from error

    async def _problem(self, response: httpx.Response) -> Problem:
        retry_after = seconds_of(response.headers.get("retry-after"))
        request_id = response.headers.get("x-request-id")
        if response.is_redirect:
            detail = f"{self.base} redirects to {response.headers.get('location')}; set BASE to that address"
            return Problem(response.status_code, {"detail": detail}, None, request_id)
        body = b""
        with self.naming_failures():
            async with aclosing(self.wire.chunks(response)) as chunks:
                async for chunk in chunks:
                    body += chunk
                    if len(body) > LIMIT_OF_A_PROBLEM:
                        break
        try:
            members = json.loads(body)
        except ValueError:
            members = None
        if not isinstance(members, dict):
            members = {"detail": f"{self.base} answered {response.status_code} {response.reason_phrase}"}
            # The answer to HEAD has no body. Of a token it says what is wrong in a header, too (RFC 6750).
            if told := _DESCRIPTION.search(response.headers.get("www-authenticate", "")):
                members = {"detail": told[1], "code": "unauthorized"}
        return Problem(response.status_code, members, retry_after, request_id)

    async def wait(self, why: MediaError, seconds: float) -> None:
        """Says why it pauses, and pauses."""
        self._on_wait(why, seconds)
        await self.wire.pause(seconds)


class Silence:
    """Nothing answers, again and again. That is said once."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._since: float | None = None

    def ends(self) -> None:
        self._since = None

    async def lasts(self, why: MediaError, seconds: float, *, patience: float = PATIENCE) -> None:
        """Pauses. Raises `why` if it has lasted longer than `patience`."""
        if self._since is None:
            self._since = time.monotonic()
            await self._exchange.wait(why, seconds)
            return
        if time.monotonic() - self._since > patience:
            raise why
        await self._exchange.wire.pause(seconds)


def is_later(problem: Problem) -> bool:
    """Whether the API said "later"."""
    # A tenant stays suspended until somebody edits it. Waiting would only hide the reason.
    # So does a file that the store has lost, until somebody brings its bytes.
    return problem.status in {425, 429, 503} and problem.code not in {"suspended", "file_lost"}


def _pause(problem: Problem, tries: int) -> float | None:
    if not is_later(problem):
        return None
    return max(problem.retry_after, 0.1) if problem.retry_after is not None else float(min(2**tries, 16))


def given(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


def seconds_of(retry_after: str | None) -> float | None:
    """A Retry-After header in seconds; None: it is missing or cannot be parsed."""
    if retry_after is None:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", retry_after.strip()):
        return float(retry_after)
    try:
        return max(email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time(), 0.0)
    except ValueError:
        return None


def _reason(error: Exception) -> str:
    """httpx's message without errno and source line, or what it means."""
    if "WRONG_VERSION_NUMBER" in str(error):  # OpenSSL's word for an answer that is not TLS
        return "it does not answer by TLS: give its address with http://"
    if "without sending complete message body" in str(error):
        return "in the middle of an answer"
    text = re.sub(r"^\[(Errno -?\d+|SSL[^]]*)\] ", "", str(error)) or type(error).__name__
    return text.split(" (_ssl.c")[0].lower() if "refused" in text else text.split(" (_ssl.c")[0]
