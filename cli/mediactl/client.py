"""The platform's HTTP API for a client: envelope, problems, retries, pages, server-sent events.

Every failure is an exception with a sentence for people: `Problem` (the API refused), `Failed` (the work itself
failed), `Unreachable` (no answer, or the connection broke), `Misuse` (the request cannot be made). None of them
contains the token.
"""

import email.utils
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlsplit

import httpcore
import httpx
from httpx_sse import EventSource

PATIENCE = 60.0
"""Seconds that one call may spend waiting because the API said "later" (425, 429, 503)."""
LIMIT_OF_A_PROBLEM = 64 * 1024
FINAL = frozenset({"completed", "failed", "cancelled"})
"""A job's last states."""


class Misuse(Exception):
    """The command cannot be carried out as given: exit code 2."""


class Unreachable(Exception):
    """Nothing answers at BASE, or the connection broke: exit code 3."""


class Failed(Exception):
    """The API accepted the work, and the work failed: exit code 1."""


class Problem(Exception):
    """The API refused (RFC 9457 problem+json): exit code 1.

    `facts`: the problem's other members (`limit`, `used`, `retry_after` …); `retry_after`: seconds.
    """

    def __init__(self, status: int, members: Mapping[str, Any], retry_after: float | None, request_id: str | None):
        self.status = status
        self.code = str(members.get("code") or "")
        self.detail = str(
            members.get("detail") or members.get("title") or f"the API answered {status}, no reason given"
        )
        self.facts = {k: v for k, v in members.items() if k not in {"type", "title", "status", "detail", "code"}}
        self.retry_after = retry_after
        self.request_id = request_id
        super().__init__(self.detail)


def room_id(text: str) -> str:
    """`text`, if it can be a room's id in the API's paths. Raises Misuse otherwise."""
    # httpx would resolve `.` and `..` before it sends the request.
    if not 0 < len(text) <= 255 or not text.isprintable() or "/" in text or text in {".", ".."}:
        raise Misuse(f"{text!r} is no room id: a room id has 1-255 printable characters and no /")
    return text


def path_of(*segments: str) -> str:
    """`/v1/…` with each segment quoted, so that any id is one segment."""
    return "/v1/" + "/".join(quote(segment, safe="") for segment in segments)


class Api:
    """One tenant's API at `base`, called with `token`. `on_wait(problem, seconds)` is called before each pause.

    Raises Misuse if `base` is no address or `token` cannot be one.
    """

    def __init__(self, base: str, token: str | None, on_wait: Callable[[Problem, float], None] = lambda *_: None):
        try:
            address = urlsplit(base)
        except ValueError:
            address = urlsplit("")
        if address.scheme not in {"http", "https"} or not address.hostname:
            raise Misuse(f"BASE is {base!r}; it must be an address such as http://127.0.0.1:8080")
        if address.path.rstrip("/").endswith("/v1"):
            raise Misuse(f"BASE must be given without /v1: {base.rstrip('/').removesuffix('/v1')}")
        if token is not None and not re.fullmatch(r"[A-Za-z0-9._~+/=-]+", token):
            raise Misuse("TOKEN has characters that no token has; was it copied whole?")
        self.base = base.rstrip("/")
        self._on_wait = on_wait
        self._line: Any = None
        self._http = httpx.Client(
            headers={"User-Agent": "mediactl", **({"Authorization": f"Bearer {token}"} if token else {})},
            # The answer to an upload comes when its bytes are durable. No other answer takes as long.
            timeout=httpx.Timeout(120, connect=10),
        )

    def close(self) -> None:
        self._http.close()

    def get(self, *segments: str, **params: Any) -> Any:
        """The `data` of the answer."""
        return self.call("GET", path_of(*segments), params={k: v for k, v in params.items() if v is not None})

    def call(self, method: str, path: str, **request: Any) -> Any:
        """The `data` of the answer; None if the answer has no body. Arguments as for `open`."""
        with self.open(method, path, **request) as response:
            with self._naming_failures():
                body = response.read()
            if not body:
                return None
            try:
                return json.loads(body)["data"]
            except (ValueError, LookupError, TypeError):
                raise Unreachable(f"the server at {self.base} is not the media API") from None

    @contextmanager
    def open(
        self,
        method: str,
        path: str,
        *,
        body: Callable[[], Iterable[bytes]] | None = None,
        repeatable: bool = True,
        **request: Any,
    ) -> Iterator[httpx.Response]:
        """A successful answer, its body not yet read.

        If the API answers "later" (425, 429, 503), the request is sent again after Retry-After, within `PATIENCE` and
        only if it is `repeatable`. `body` makes the same bytes for each try. Raises Problem and Unreachable.
        """
        waited, tries = 0.0, 0
        while True:
            with self._naming_failures():
                content = self._until_answered(body()) if body is not None else None
                attempt = self._http.build_request(
                    method, self.base + path, content=content, extensions={"trace": self._learn_line}, **request
                )
                response = self._http.send(attempt, stream=True)
            try:
                if response.is_success:
                    yield response
                    return
                problem = self._problem(response)
            finally:
                response.close()
            pause = self._pause(problem, tries)
            if pause is None or not repeatable or waited + pause > PATIENCE:
                raise problem
            self._on_wait(problem, pause)
            time.sleep(pause)
            waited, tries = waited + pause, tries + 1

    def _learn_line(self, event: str, facts: Mapping[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            self._line = facts["return_value"]

    def _until_answered(self, body: Iterable[bytes]) -> Iterator[bytes]:
        """`body`, only until the API answers: it refuses a file of gigabytes at the first bytes.

        Over TLS the whole body is sent, since there readable bytes may be no answer.
        """
        for chunk in body:
            yield chunk
            if self._line is not None and self._line.get_extra_info("is_readable") and self.base.startswith("http:"):
                # httpcore takes this for a peer that stopped reading, and then reads the answer.
                raise httpcore.WriteError

    def pages(self, *segments: str, limit: int, **params: Any) -> Iterator[tuple[list[dict[str, Any]], bool]]:
        """Pages of a list, each with whether another follows. At most 200 items a page, `limit` in all (0: all)."""
        cursor: str | None = None
        left = limit
        while True:
            query = {"limit": min(left, 200) if limit else 200, "cursor": cursor, **params}
            with (
                self.open(
                    "GET", path_of(*segments), params={k: v for k, v in query.items() if v is not None}
                ) as response,
                self._naming_failures(),
            ):
                answer = json.loads(response.read())
            items, cursor = answer["data"], answer.get("next_cursor")
            yield items, cursor is not None
            left -= len(items)
            if cursor is None or (limit and left <= 0):
                return

    def items(self, *segments: str, limit: int, **params: Any) -> tuple[list[dict[str, Any]], bool]:
        """All items of `pages`, and whether the API has more."""
        pages = list(self.pages(*segments, limit=limit, **params))
        return [item for items, _ in pages for item in items], pages[-1][1]

    def follow(self, job_id: str) -> Iterator[dict[str, Any]]:
        """A job's states and segments as they come, until it has ended: by server-sent events, else one GET a second.

        Yields the job's fields (with `status`) or a segment (with `text`). The last item has a final status.
        """
        silent_since: float | None = None
        streams = True
        last_event: str | None = None
        while True:
            if streams:
                try:
                    for event_id, update in self._events(job_id, last_event):
                        last_event = event_id or last_event
                        if update.get("status") not in FINAL:
                            yield update
                except Problem:
                    streams = False
                except Unreachable:
                    pass
            try:
                job: dict[str, Any] = self.get("jobs", job_id)
            except Unreachable:
                # The API may be restarting. The job goes on.
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since > PATIENCE:
                    raise
            else:
                silent_since = None
                yield job
                if job["status"] in FINAL:
                    return
            time.sleep(1)

    def events(self, *, types: Iterable[str], media_id: str | None, from_start: bool) -> Iterator[dict[str, Any]]:
        """Events as they come, without end. After a broken connection it goes on behind the last one.

        Raises Problem, also where events were missed (`cursor_expired`), and Unreachable after `PATIENCE` seconds.
        """
        query: dict[str, Any] = {"type": list(types), "start": "oldest" if from_start else "now"}
        if media_id is not None:
            query["media_id"] = media_id
        last: str | None = None
        silent_since: float | None = None
        while True:
            try:
                for event_id, event in self._streamed("/v1/events", last, query):
                    last, silent_since = event_id or last, None
                    if event is not None:
                        yield event
            except Unreachable:
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since > PATIENCE:
                    raise
            time.sleep(1)

    def _events(self, job_id: str, last_event: str | None) -> Iterator[tuple[str | None, dict[str, Any]]]:
        for event_id, update in self._streamed(path_of("jobs", job_id, "events"), last_event):
            if update is not None:
                yield event_id, update

    def _streamed(
        self, path: str, last_event: str | None, query: Mapping[str, Any] | None = None
    ) -> Iterator[tuple[str | None, dict[str, Any] | None]]:
        """Server-sent events: their ids and their data. An id without data is one to go on from."""
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last_event} if last_event else {})}
        timeout = httpx.Timeout(30, connect=10)
        with self.open("GET", path, headers=headers, timeout=timeout, params=query) as response:
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                return
            with self._naming_failures():
                for event in EventSource(response).iter_sse():
                    try:
                        update = event.json() if event.data else None
                    except ValueError:
                        continue
                    if update is None or isinstance(update, dict):
                        yield event.id or None, update

    @contextmanager
    def _naming_failures(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            raise Unreachable(f"nothing answers at {self.base} ({_reason(error)})") from error
        except httpx.TimeoutException as error:
            raise Unreachable(f"{self.base} did not answer in time") from error
        except httpx.TransportError as error:
            raise Unreachable(f"the connection to {self.base} broke ({_reason(error)})") from error
        except (httpx.InvalidURL, UnicodeError) as error:
            raise Misuse(f"BASE is {self.base!r}, which is not a valid address") from error

    def _problem(self, response: httpx.Response) -> Problem:
        retry_after = seconds_of(response.headers.get("retry-after"))
        request_id = response.headers.get("x-request-id")
        if response.is_redirect:
            detail = f"{self.base} redirects to {response.headers.get('location')}; set BASE to that address"
            return Problem(response.status_code, {"detail": detail}, None, request_id)
        body = b""
        with self._naming_failures():
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > LIMIT_OF_A_PROBLEM:
                    break
        try:
            members = json.loads(body)
        except ValueError:
            members = None
        if not isinstance(members, dict):
            members = {"detail": f"{self.base} answered {response.status_code} {response.reason_phrase}"}
        return Problem(response.status_code, members, retry_after, request_id)

    @staticmethod
    def _pause(problem: Problem, tries: int) -> float | None:
        # A tenant stays suspended until somebody edits it. Waiting would only hide the reason.
        if problem.status not in {425, 429, 503} or problem.code == "suspended":
            return None
        return max(problem.retry_after, 0.1) if problem.retry_after is not None else float(min(2**tries, 16))


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
    """httpx's message without errno and source line."""
    text = re.sub(r"^\[(Errno -?\d+|SSL[^]]*)\] ", "", str(error)) or type(error).__name__
    return text.split(" (_ssl.c")[0].lower() if "refused" in text else text.split(" (_ssl.c")[0]
