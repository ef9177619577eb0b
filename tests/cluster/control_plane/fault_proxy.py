"""A proxy between a client and the API server, which fails like a loaded or restarting server.

It ends TLS on both sides and takes one request a connection, so that it only has to read the head of each. Requests
that are not refused pass unread. A refusal is the Kubernetes Status object that the real server would send.
"""

import asyncio
import contextlib
import json
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from tests.cluster.control_plane.server import ControlPlane

REASONS = {429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable", 504: "Timeout"}
MAX_HEAD = 64 * 1024


@dataclass
class Fault:
    """Requests whose `METHOD /path?query` matches get `status`, `times` times (None: until removed)."""

    status: int
    requests: re.Pattern[str]
    times: int | None
    retry_after: int | None
    answered: int = 0

    def wants(self, request: str) -> bool:
        return (self.times is None or self.answered < self.times) and self.requests.search(request) is not None


class FaultProxy:
    """`async with FaultProxy(control_plane, folder) as faults`: clients use `faults.kubeconfig` or `faults.url`."""

    def __init__(self, control_plane: ControlPlane, folder: Path) -> None:
        self._control_plane = control_plane
        self._folder = folder
        self._server: asyncio.Server | None = None
        self._faults: list[Fault] = []
        self._connections: set[asyncio.Task[None]] = set()
        self._watches: set[asyncio.StreamWriter] = set()
        self.requests: list[str] = []
        """`METHOD /path?query` of everything that came, in order."""
        self.url = ""
        self.kubeconfig = folder / "proxied.kubeconfig"

    def answer(
        self, status: int, requests: str = "", *, times: int | None = None, retry_after: int | None = None
    ) -> Fault:
        """From now on, requests that match the regular expression are refused with `status`."""
        fault = Fault(status, re.compile(requests), times, retry_after)
        self._faults.append(fault)
        return fault

    def heal(self) -> None:
        """Every request passes again."""
        self._faults.clear()

    def cut_watches(self) -> int:
        """Breaks every open watch silently, as a load balancer does. Returns how many there were."""
        cut = len(self._watches)
        for writer in list(self._watches):
            writer.transport.abort()
        return cut

    async def __aenter__(self) -> Self:
        certificate, key = self._control_plane.authority.issue_server("fault-proxy", "localhost")
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate, key)
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=tls, limit=MAX_HEAD)
        self.url = f"https://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self._control_plane.write_kubeconfig(self.kubeconfig, url=self.url)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server
        self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._connections.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
                await self._serve(reader, writer)
        finally:
            self._connections.discard(task)
            self._watches.discard(writer)
            writer.transport.abort()  # what was written has been drained; a TLS farewell would only wait

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        line, _, headers = head.partition(b"\r\n")
        request = line.decode("latin-1").rsplit(" ", 1)[0]
        self.requests.append(request)
        for fault in self._faults:
            if fault.wants(request):
                fault.answered += 1
                return await _refuse(fault, reader, headers, writer)
        target = urlsplit(self._control_plane.url)
        upstream_reader, upstream_writer = await asyncio.open_connection(
            target.hostname, target.port, ssl=self._control_plane.trust(), server_hostname="localhost"
        )
        if re.search(r"[?&]watch=(1|true)", request):
            self._watches.add(writer)
        kept = b"".join(
            header + b"\r\n"
            for header in headers.split(b"\r\n")
            if header and not header.lower().startswith(b"connection:")
        )
        upstream_writer.write(line + b"\r\n" + kept + b"Connection: close\r\n\r\n")
        upload = asyncio.create_task(_copy(reader, upstream_writer))
        try:
            await _copy(upstream_reader, writer)
        finally:
            upload.cancel()
            await asyncio.gather(upload, return_exceptions=True)
            upstream_writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(MAX_HEAD):
        writer.write(data)
        await writer.drain()


async def _refuse(fault: Fault, reader: asyncio.StreamReader, headers: bytes, writer: asyncio.StreamWriter) -> None:
    if length := re.search(rb"(?i)content-length: *(\d+)", headers):
        await reader.readexactly(int(length[1]))  # a client that still sends would not read its answer
    body = json.dumps(
        {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "reason": REASONS.get(fault.status, ""),
            "message": "refused by the tests",
            "code": fault.status,
        }
    ).encode()
    retry = f"Retry-After: {fault.retry_after}\r\n" if fault.retry_after is not None else ""
    writer.write(
        f"HTTP/1.1 {fault.status} Refused\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        f"{retry}Connection: close\r\n\r\n".encode()
        + body
    )
    await writer.drain()
    writer.close()
    with contextlib.suppress(OSError, ssl.SSLError):
        await writer.wait_closed()
