"""The rest of a large body, which a thread reads from the socket, over a real server and a real connection."""

import asyncio
import hashlib
import json
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import pytest
from fastapi import Request
from starlette.types import Receive, Scope, Send

from media_api import server
from media_api.requests.body import ClientGone, chunks_or_socket
from media_api.requests.socket_body import SocketBody
from tests.integration.tenancy import MIB

CONTENT = secrets.token_bytes(24 * MIB)


class Reading:
    """An application that takes bodies as uploads do, and answers with what it saw."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.came = threading.Semaphore(0)
        self.ended = threading.Semaphore(0)
        self.stop_after: int | None = None
        """Answers once so many bytes have come."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for what in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{what}.complete"})
            return
        digest, size, from_socket, gone = hashlib.sha256(), 0, 0, False
        buffer = bytearray(MIB)
        try:
            async with aclosing(chunks_or_socket(Request(scope, receive), 30)) as chunks:
                async for chunk in chunks:
                    while read := await self._next(chunk, buffer):
                        digest.update(read)
                        size += len(read)
                        self.came.release()
                        from_socket += len(read) if isinstance(chunk, SocketBody) else 0
                        if not isinstance(chunk, SocketBody) or self._has_enough(size):
                            break
                    if self._has_enough(size):
                        break
        except ClientGone:
            gone = True
        said = {"size": size, "sha256": digest.hexdigest(), "from_socket": from_socket, "gone": gone}
        self.seen.append(said)
        self.ended.release()
        if not gone:
            answer = json.dumps(said).encode()
            head = [(b"content-length", b"%d" % len(answer))]
            await send({"type": "http.response.start", "status": 200, "headers": head})
            await send({"type": "http.response.body", "body": answer})

    async def _next(self, chunk: bytes | SocketBody, buffer: bytearray) -> bytes:
        if isinstance(chunk, bytes):
            return chunk
        view = memoryview(buffer)
        return bytes(view[: await asyncio.to_thread(chunk.read_into, view)])

    def _has_enough(self, size: int) -> bool:
        return self.stop_after is not None and size >= self.stop_after


@pytest.fixture
def app() -> Reading:
    return Reading()


@pytest.fixture
def address(app: Reading) -> Iterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        running = server.Server(server.config(app), on_drain=lambda: None)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        yield listening.getsockname()
        running.should_exit = True
        thread.join()


def head(length: int, *, more: str = "") -> bytes:
    return f"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: {length}\r\n{more}\r\n".encode()


def answer(connection: socket.socket) -> dict[str, Any]:
    """The next answer. Reads no byte of the one after it."""
    said = b""
    while not said.endswith(b"\r\n\r\n"):
        said += connection.recv(1)
    length = int(said.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    body = connection.recv(length, socket.MSG_WAITALL)
    found: dict[str, Any] = json.loads(body)
    return found


def of(content: bytes) -> dict[str, Any]:
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "gone": False}


def test_a_fast_client_is_read_from_the_socket_and_each_byte_comes_once(address: tuple[str, int]) -> None:
    with socket.create_connection(address, 30) as connection:
        for content in (CONTENT, CONTENT[: 3 * MIB + 17], CONTENT):
            connection.sendall(head(len(content)) + content)
            said = answer(connection)
            assert said.pop("from_socket") > 0
            assert said == of(content)


def test_the_next_request_on_the_connection_is_not_read_as_part_of_the_body(address: tuple[str, int]) -> None:
    with socket.create_connection(address, 30) as connection:
        sending = threading.Thread(
            target=connection.sendall, args=((head(len(CONTENT)) + CONTENT) * 2 + head(5) + b"hello",)
        )
        sending.start()
        for content in (CONTENT, CONTENT, b"hello"):
            said = answer(connection)
            del said["from_socket"]
            assert said == of(content)
        sending.join()


def test_a_body_that_pauses_goes_on_where_it_was(address: tuple[str, int], app: Reading) -> None:
    with socket.create_connection(address, 30) as connection:
        connection.sendall(head(2 * len(CONTENT)) + CONTENT)
        connection.sendall(CONTENT[: MIB + 1])
        with socket.create_connection(address, 30) as other:  # answered once the first one is waited for
            other.sendall(head(2) + b"hi")
            assert answer(other)["size"] == 2
        connection.sendall(CONTENT[MIB + 1 :])
        said = answer(connection)
        assert said.pop("from_socket") > 0
        assert said == of(CONTENT * 2)


@pytest.mark.parametrize("how", ["closed", "reset"])
def test_a_client_that_goes_away_is_told_as_gone(address: tuple[str, int], app: Reading, how: str) -> None:
    with socket.create_connection(address, 30) as connection:
        connection.sendall(head(2 * len(CONTENT)) + CONTENT)
        if how == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    assert app.ended.acquire(timeout=30)
    (said,) = app.seen
    assert said["gone"]
    assert said["size"] == len(CONTENT) if how == "closed" else said["size"] <= len(CONTENT)


def test_an_answer_before_the_end_of_the_body_reaches_the_client(address: tuple[str, int], app: Reading) -> None:
    app.stop_after = 9 * MIB
    with socket.create_connection(address, 30) as connection:
        sending = threading.Thread(target=connection.sendall, args=(head(len(CONTENT)) + CONTENT,))
        sending.start()
        assert 9 * MIB <= answer(connection)["size"] < len(CONTENT)
        sending.join()
        app.stop_after = None
        connection.sendall(head(2) + b"hi")  # what was left of the body is not read as a request
        assert answer(connection)["size"] == 2


def test_a_body_in_chunks_and_one_with_an_upgrade_arrive_whole(address: tuple[str, int]) -> None:
    chunked = b"POST / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunked += b"%x\r\n%b\r\n0\r\n\r\n" % (len(CONTENT), CONTENT)
    upgrade = head(len(CONTENT), more="Connection: Upgrade\r\nUpgrade: h2c\r\n") + CONTENT
    with socket.create_connection(address, 30) as connection:
        for request in (chunked, upgrade, chunked):
            connection.sendall(request)
            said = answer(connection)
            del said["from_socket"]
            assert said == of(CONTENT)


def test_a_slow_client_is_left_to_the_event_loop(address: tuple[str, int], app: Reading) -> None:
    with socket.create_connection(address, 30) as connection:
        connection.sendall(head(MIB))
        for start in range(0, MIB, 32_768):
            connection.sendall(CONTENT[start : start + 32_768])
            assert app.came.acquire(timeout=30)
        assert answer(connection) == of(CONTENT[:MIB]) | {"from_socket": 0}
