"""A receiver of webhooks on this machine, and what it received."""

import asyncio
import base64
import hashlib
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_PAGE = Path(__file__).parents[3] / "docs" / "webhooks.md"
_BY_HAND = _PAGE.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]


@dataclass(frozen=True)
class Delivered:
    """One request."""

    headers: dict[str, str]
    body: bytes
    at: float
    status: int

    @property
    def event(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def media_id(self) -> str:
        return str(self.event["subject"])

    @property
    def type(self) -> str:
        return str(self.event["type"]).removeprefix("io.scaiwave.media.")


@dataclass
class Receiver:
    """Answers what `answers` says: a status, or a status and headers."""

    port: int = 0
    answers: Callable[[Delivered], int | tuple[int, dict[str, str]]] = lambda _: 204
    requests: list[Delivered] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?of=media"

    @property
    def taken(self) -> list[Delivered]:
        return [each for each in list(self.requests) if 200 <= each.status < 300]

    def told(self) -> list[tuple[str, str]]:
        """(media_id, type) of what was taken, each event once."""
        return list({each.event["id"]: (each.media_id, each.type) for each in self.taken}.values())

    async def until(self, holds: Callable[["Receiver"], object], seconds: float = 180) -> None:
        async with asyncio.timeout(seconds):
            while not holds(self):  # noqa: ASYNC110 (the receiver is in another thread)
                await asyncio.sleep(0.02)


@contextmanager
def receiving(port: int = 0) -> Iterator[Receiver]:
    receiver = Receiver()
    lock = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            with lock:
                receiver.at_once += 1
                receiver.most_at_once = max(receiver.most_at_once, receiver.at_once)
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked = Delivered({name.lower(): value for name, value in self.headers.items()}, body, time.time(), 0)
            answer = receiver.answers(asked)
            status, headers = answer if isinstance(answer, tuple) else (answer, {})
            with lock:
                receiver.at_once -= 1
                receiver.requests.append(Delivered(asked.headers, body, asked.at, status))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        allow_reuse_address = True
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass  # a client that was killed

    server = Server(("127.0.0.1", port), Handler)
    receiver.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def secret(number: int = 0) -> str:
    return "whsec_" + base64.b64encode(hashlib.sha256(f"secret {number}".encode()).digest()).decode()


def write_secret(folder: Path, *numbers: int) -> Path:
    path = folder / "app-hook" / "secret"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(secret(number) for number in numbers) + "\n")
    return path


def verified(delivered: Delivered, number: int) -> bool:
    """As docs/webhooks.md does it by hand, after the specification of Standard Webhooks."""
    names: dict[str, Any] = {}
    exec(_BY_HAND, names)  # noqa: S102 (a page of this repository)
    return bool(names["is_genuine"](secret(number), delivered.headers, delivered.body))
