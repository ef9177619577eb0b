"""A proxy before a real S3 server, that answers some requests itself, and wrongly, as a broken gateway does."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from media_core.store import S3Settings

DATED = 'ETag: "of-a-page"\r\nLast-Modified: Sun, 29 Nov 2026 10:00:00 GMT'
TRICKLE_SECONDS = 0.02


class LyingS3:
    """`settings` lead to it. A request that matches a pattern gets that pattern's answer; all others pass."""

    def __init__(self, behind: S3Settings) -> None:
        self.settings = self._behind = behind
        self.requests: list[str] = []
        """`METHOD /path?query` of each that came."""
        self._answers: list[tuple[re.Pattern[str], str, bytes, bool, bool]] = []

    def answer(
        self,
        requests: str,
        status: str = "200 OK",
        *,
        head: str = DATED,
        body: bytes = b"",
        trickles: bool = False,
        once: bool = False,
    ) -> None:
        """From now on, or `once`. `requests`: a regular expression for `METHOD /path?query`. `trickles`: the body comes
        a byte at a time, and never ends.
        """
        length = 10 * 1024 * 1024 if trickles else len(body)
        text = f"HTTP/1.1 {status}\r\n{head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        self._answers.append((re.compile(requests), text, body, trickles, once))

    def tell_truth(self) -> None:
        self._answers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            size = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            body = await reader.readexactly(int(size[1])) if size else b""
            request = head.partition(b"\r\n")[0].decode("latin-1").rpartition(" ")[0]
            self.requests.append(request)
            for answer in self._answers:
                pattern, text, lie, trickles, once = answer
                if pattern.search(request):
                    if once:
                        self._answers.remove(answer)
                    writer.write(text.encode() + lie)
                    while trickles:
                        await writer.drain()
                        await asyncio.sleep(TRICKLE_SECONDS)
                        writer.write(b" ")
                    break
            else:
                await self._pass_on(head, body, writer)
            await writer.drain()
        writer.close()

    async def _pass_on(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        at = urlsplit(self._behind.endpoint)
        answer, server = await asyncio.open_connection(at.hostname, at.port)
        kept = re.sub(rb"(?i)\r\nconnection:[^\r]*", b"", head).removesuffix(b"\r\n")
        server.write(kept + b"Connection: close\r\n\r\n" + body)
        while data := await answer.read(65536):
            writer.write(data)
            await writer.drain()
        server.close()


@asynccontextmanager
async def lying(behind: S3Settings) -> AsyncIterator[LyingS3]:
    proxy = LyingS3(behind)
    server = await asyncio.start_server(proxy._serve, "127.0.0.1", 0, limit=1024 * 1024)
    port = server.sockets[0].getsockname()[1]
    proxy.settings = behind.model_copy(update={"endpoint": f"http://127.0.0.1:{port}"})
    try:
        yield proxy
    finally:
        server.close()
