"""The bare limit: a server that does only the least that the task needs.

    python -m bench.contenders.bare FOLDER        prints its port

Each connection has a blocking socket in its own thread. There is no framework, and only the header's length is parsed:
`POST /store` writes the body to a file that survives a power cut (fsync, rename, fsync of the folder), `POST /discard`
reads it, `POST /hash` reads and hashes it, `GET /name` sends a file by sendfile(2).
"""

import contextlib
import hashlib
import os
import secrets
import socket
import socketserver
import sys
from collections.abc import Callable
from pathlib import Path

from bench.resources import MIB

FOLDER = Path(sys.argv[1]) if __name__ == "__main__" else Path()


class Bare(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(MIB)
        self._view = memoryview(self._buffer)
        with contextlib.suppress(ConnectionError):  # a load generator leaves in the middle when its time is over
            while head := self._head():
                line, _, headers = head.partition(b"\r\n")
                method, path, _ = line.decode().split(" ", 2)
                if method == "GET":
                    self._send_file(FOLDER / Path(path).name)
                else:
                    self._receive(path, _length(headers))

    def _head(self) -> bytes:
        self._rest = b""
        while b"\r\n\r\n" not in self._rest:
            count = self.request.recv_into(self._buffer)
            if not count:
                return b""
            self._rest += self._view[:count]
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        return head

    def _send_file(self, path: Path) -> None:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            sent = 0
            while sent < size:
                sent += os.sendfile(self.request.fileno(), file.fileno(), sent, size - sent)

    def _receive(self, path: str, length: int) -> None:
        if path == "/store":
            unfinished, name = FOLDER / f"unfinished-{secrets.token_hex(8)}", secrets.token_hex(16)
            with unfinished.open("wb", buffering=0) as file:
                self._body(length, file.write)
                os.fsync(file.fileno())
            unfinished.rename(FOLDER / name)
            folder = os.open(FOLDER, os.O_RDONLY | os.O_DIRECTORY)
            os.fsync(folder)
            os.close(folder)
            answer = name.encode()
        elif path == "/hash":
            digest = hashlib.sha256()
            self._body(length, digest.update)
            answer = digest.hexdigest().encode()
        else:
            self._body(length, len)
            answer = b"taken"
        self.request.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer)

    def _body(self, length: int, take: Callable[[bytes | memoryview], object]) -> None:
        take(self._rest)
        left = length - len(self._rest)
        while left:
            count = self.request.recv_into(self._buffer, min(left, MIB))
            if not count:
                raise ConnectionError("the client left")
            take(self._view[:count])
            left -= count


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128


def _length(headers: bytes) -> int:
    for header in headers.split(b"\r\n"):
        name, _, value = header.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


if __name__ == "__main__":
    with _Server(("127.0.0.1", 0), Bare) as server:
        print(server.server_address[1], flush=True)
        with contextlib.suppress(KeyboardInterrupt):  # of the terminal that the bench runs in
            server.serve_forever()
