"""HTTP clients that cost as little CPU as possible: each has a plain blocking socket, and one request at a time."""

import base64
import hashlib
import json
import os
import secrets
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self, TypeVar

from bench.resources import MIB

UPLOAD = "/v1/media/upload"
TIMEOUT_SECONDS = 120.0
ONE_PACKET = 60_000
"""Loopback's MTU is 64 KiB; a request that fits is sent at once."""

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")


class Content:
    """New content of `size` bytes, in pieces of a MiB: one random MiB, repeated, with a new beginning."""

    _BLOCK = os.urandom(MIB)

    def __init__(self, size: int) -> None:
        self.size = size
        self._first = secrets.token_bytes(32) + self._BLOCK[32:]
        self._sha256: bytes | None = None

    def __iter__(self) -> Iterator[memoryview]:
        yield memoryview(self._first)[: self.size]
        block = memoryview(self._BLOCK)
        for left in range(self.size - MIB, 0, -MIB):
            yield block[:left]

    def sha256(self) -> bytes:
        """Computed once."""
        if self._sha256 is None:
            digest = hashlib.sha256()
            for piece in self:
                digest.update(piece)
            self._sha256 = digest.digest()
        return self._sha256


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


def name_in(answer: Answer) -> str:
    """Of what was uploaded: the media id; with the bare server and FastAPI, the file's name."""
    if not answer.body.startswith((b"{", b'"')):
        return answer.body.decode()
    body = json.loads(answer.body)
    return str(body["data"]["media_id"] if isinstance(body, dict) else body)


class Client:
    """One connection that is kept alive. Every method blocks, and raises RuntimeError if the answer is no success."""

    def __init__(self, address: tuple[str, int], token: str = "") -> None:
        self._socket = socket.create_connection(address, TIMEOUT_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._host = f"{address[0]}:{address[1]}"
        self._token = token
        self._buffer = bytearray(MIB)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def upload(
        self, pieces: Iterable[bytes | memoryview], size: int, *, path: str = UPLOAD, sha256: bytes | None = None
    ) -> Answer:
        """Sends `pieces`, `size` bytes in all, as the form's file; `sha256` announces their digest."""
        boundary = b"----bench"
        before = b'--%b\r\nContent-Disposition: form-data; name="file"; filename="bench.bin"\r\n\r\n' % boundary
        after = b"\r\n--%b--\r\n" % boundary
        headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary.decode()}",
            "Content-Length": str(len(before) + size + len(after)),
        }
        if sha256 is not None:
            headers["Repr-Digest"] = f"sha-256=:{base64.b64encode(sha256).decode()}:"
        return self._exchange(self._head("POST", path, headers) + before, pieces, size, after)

    def send(
        self,
        method: str,
        path: str,
        pieces: Iterable[bytes | memoryview] = (),
        size: int = 0,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Sends `pieces`, `size` bytes in all, as the bare body."""
        headers = {"Content-Length": str(size), **(headers or {})}
        return self._exchange(self._head(method, path, headers), pieces, size)

    def _exchange(self, head: bytes, pieces: Iterable[bytes | memoryview], size: int, after: bytes = b"") -> Answer:
        parts = chain([head], pieces, [after])
        for part in [b"".join(parts)] if size <= ONE_PACKET else parts:
            self._socket.sendall(part)
        return self._answer()

    def download(self, path: str) -> int:
        """How many bytes came; they are thrown away."""
        self._socket.sendall(self._head("GET", path, {}))
        status, headers, start = self._answer_head()
        length = int(headers["content-length"])
        left = length - len(start)
        while left:
            received = self._socket.recv_into(self._buffer, min(left, MIB))
            if not received:
                raise RuntimeError(f"the server closed the connection {left} bytes before the end")
            left -= received
        return _successful(Answer(status, headers, b"")) and length

    def request(self, method: str, path: str) -> Answer:
        self._socket.sendall(self._head(method, path, {}))
        return self._answer()

    def _head(self, method: str, path: str, headers: Mapping[str, str]) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host}"]
        lines += [f"Authorization: Bearer {self._token}"] * bool(self._token)
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode()

    def _answer(self) -> Answer:
        status, headers, body = self._answer_head()
        chunked = headers.get("transfer-encoding") == "chunked"
        length = int(headers.get("content-length", 0))
        while not body.endswith(b"0\r\n\r\n") if chunked else len(body) < length:
            received = self._socket.recv_into(self._buffer)
            if not received:
                raise RuntimeError("the server closed the connection in the middle of its answer")
            body += self._buffer[:received]
        answer = Answer(status, headers, _joined(body) if chunked else body)
        _successful(answer)
        return answer

    def _answer_head(self) -> tuple[int, dict[str, str], bytes]:
        received = b""
        while b"\r\n\r\n" not in received:
            count = self._socket.recv_into(self._buffer)
            if not count:
                raise RuntimeError("the server closed the connection without an answer")
            received += self._buffer[:count]
        head, _, rest = received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}, rest


def _joined(chunks: bytes) -> bytes:
    """The content of a chunked body (RFC 9112, 7.1)."""
    content = b""
    while chunks:
        size, _, rest = chunks.partition(b"\r\n")
        content += rest[: int(size, 16)]
        chunks = rest[int(size, 16) + 2 :]
    return content


def _successful(answer: Answer) -> bool:
    if not 200 <= answer.status < 300:
        raise RuntimeError(f"answered {answer.status}: {answer.body[:500]!r}")
    return True


class Crowd:
    """`size` clients, each in its own thread. Together they cost as much CPU as a server; `bench.load` costs less."""

    def __init__(self, size: int, connect: Callable[[], Client]) -> None:
        self._clients = [connect() for _ in range(size)]
        self._threads = ThreadPoolExecutor(size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._threads.shutdown()
        for client in self._clients:
            client.__exit__()

    def share(self, jobs: Iterable[Job], work: Callable[[Client, Job], Outcome]) -> list[Outcome]:
        """Works off `jobs`, as many at once as there are clients, each on a connection that is its own meanwhile."""
        left: Iterator[Job] = iter(list(jobs))

        def one(client: Client) -> list[Outcome]:
            return [work(client, job) for job in left]

        done: Any = self._threads.map(one, self._clients)
        return [outcome for part in done for outcome in part]
