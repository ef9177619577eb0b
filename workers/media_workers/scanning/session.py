"""One connection to clamd, on which it answers one command after another (its IDSESSION), each with its number.

Invariant: there is one command at a time, and its reply has to have that command's number. Any other reply, and one
that breaks off or is late, ends the connection, so no reply can be taken for another content's. Commands are not
pipelined: clamd works on a session's commands in parallel, so it could scan a test virus before the content sent
earlier.

The `clamd` package's client does not do: it connects without a timeout, sends 1 KiB chunks, and reads only after the
last one, so it sees a broken pipe instead of clamd's reason. It also blocks; here a cancelled scan ends at once.
"""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Final

from media_core.errors import Unavailable, Unfinished
from media_core.store import Chunk
from media_workers.settings import ClamdSettings

IDLE_SECONDS: Final = 10.0
"""A connection that was idle for longer is not used any more: clamd, or a proxy before it, may be about to close it."""
_LONGEST_REPLY: Final = 4096
_BEGIN: Final = b"zINSTREAM\0"
_END: Final = bytes(4)
_QUICKACK: Final = getattr(socket, "TCP_QUICKACK", None)


class ClamdSession:
    """Methods raise `Unavailable` when clamd does not answer, and `Unfinished` when it breaks off during a content."""

    def __init__(self, connection: socket.socket, settings: ClamdSettings) -> None:
        self.is_open = True
        self._is_spoilt = False
        self._connection = connection
        self._connect_timeout = settings.connect_timeout
        self._reply_timeout = settings.reply_timeout
        self._loop = asyncio.get_running_loop()
        self._commands = 0
        self._received = b""
        self._answer: asyncio.Future[str] | None = None
        """The answer to the last command. It may come before all of a content is sent."""
        self._used_at = time.monotonic()
        self._loop.add_reader(connection, self._read)

    @classmethod
    async def open(cls, settings: ClamdSettings) -> "ClamdSession":
        loop = asyncio.get_running_loop()
        with outages():
            async with asyncio.timeout(settings.connect_timeout):
                found = await loop.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
                connection = await _connected(found)
        session = cls(connection, settings)
        if not await session._send(b"zIDSESSION\0"):
            session.close()
            raise Unavailable("clamd", "closed the connection at once")
        return session

    def is_usable(self) -> bool:
        """Whether it is open, was used recently, and has received nothing unrequested."""
        if not self.is_open or self._is_spoilt or time.monotonic() - self._used_at > IDLE_SECONDS:
            return False
        try:
            self._connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """May be repeated."""
        if self.is_open:
            self.is_open = False
            self._loop.remove_reader(self._connection)
            self._connection.close()
        if self._answer is not None and not self._answer.cancel() and not self._answer.cancelled():
            self._answer.exception()  # retrieved, or asyncio would log it

    async def version(self) -> str:
        """Engine, signature number and date: `ClamAV 1.4.6/27812/Mon Nov 23 08:25:11 2026`."""
        with self._closed_by_any_error(), outages():
            answer = self._expect()
            await self._send(b"zVERSION\0")
            if _QUICKACK is not None:
                # clamd writes this reply in two parts, and sends the second one after the first is acknowledged.
                self._connection.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
            async with asyncio.timeout(self._connect_timeout):
                line = await answer
        if not line.startswith("ClamAV "):
            self.close()
            raise Unavailable("clamd", f"answered VERSION with {line[:200]!r}")
        return line

    async def scan(self, content: bytes) -> str:
        """Sends a small content in one write. Returns clamd's reply without its number."""
        with self._closed_by_any_error():
            answer = self._expect()
            length = len(content).to_bytes(4, "big") if content else b""
            sent = await self._send(b"".join((_BEGIN, length, content, _END)))
            return await self._scanned(answer, sent=sent)

    async def scan_stream(self, chunks: AsyncIterator[Chunk]) -> str:
        """As `scan`, for a content in chunks; 1 MiB is a good size. Also raises what `chunks` raises."""
        with self._closed_by_any_error():
            answer = self._expect()
            sent = await self._send(_BEGIN)
            async for chunk in chunks:
                if not chunk:  # its length, 0, would end the stream here
                    continue
                sent = sent and await self._send(len(chunk).to_bytes(4, "big")) and await self._send(chunk)
                if answer.done() or not sent:
                    return await self._scanned(answer, sent=False)
            sent = sent and await self._send(_END)
            return await self._scanned(answer, sent=sent)

    async def _scanned(self, answer: "asyncio.Future[str]", *, sent: bool) -> str:
        try:
            async with asyncio.timeout(self._reply_timeout):
                line = await answer
        except TimeoutError:
            raise Unfinished("clamd", "did not answer in time") from None
        except OSError as error:
            raise Unfinished("clamd", _sentence(error)) from error
        if line.endswith("ERROR"):
            self.close()  # it has not read the rest of the stream
        elif not sent:
            raise Unfinished("clamd", f"answered {line[:200]!r} before the end of the stream")
        self._used_at = time.monotonic()
        return line

    async def _send(self, part: Chunk) -> bool:
        """False when clamd has closed the connection. Its last reply can still be read."""
        try:
            sent = self._connection.send(part)
        except BlockingIOError:
            sent = 0
        except OSError:
            return False
        return sent == len(part) or await self._send_rest(memoryview(part)[sent:])

    async def _send_rest(self, part: memoryview) -> bool:
        """Waits until all is sent, or clamd has answered: then it may neither read on nor close the connection."""
        sending = asyncio.ensure_future(self._loop.sock_sendall(self._connection, part))
        either: set[asyncio.Future[Any]] = {sending} if self._answer is None else {sending, self._answer}
        try:
            done, _ = await asyncio.wait(either, timeout=self._reply_timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        if not done:
            raise Unfinished("clamd", "did not take the content in time")
        return not sending.cancelled() and sending.exception() is None

    def _expect(self) -> "asyncio.Future[str]":
        self._commands += 1
        self._received = b""
        self._answer = self._loop.create_future()
        return self._answer

    def _read(self) -> None:
        """Called when there is something to read, or the connection has ended."""
        try:
            part = self._connection.recv(_LONGEST_REPLY)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(error)
            return
        self._received += part
        if self._answer is None or self._answer.done():
            # Unrequested, or the end of the connection. In that case a send under way ends by itself.
            self._spoil()
        elif not part or len(self._received) > _LONGEST_REPLY:
            self._lost(ConnectionResetError(0, f"closed the connection after {self._received[:200]!r}"))
        elif self._received.endswith(b"\0"):
            line = self._received[:-1].decode(errors="replace")
            number, colon, answer = line.partition(": ")
            if colon and number == str(self._commands) and "\0" not in answer:
                self._answer.set_result(answer)
            else:
                self._lost(ConnectionResetError(0, f"answered {line[:200]!r} to command {self._commands}"))

    def _lost(self, error: OSError) -> None:
        self._spoil()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    def _spoil(self) -> None:
        self._is_spoilt = True
        self._loop.remove_reader(self._connection)

    @contextlib.contextmanager
    def _closed_by_any_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise


async def _connected(found: Sequence[Any]) -> socket.socket:
    """A connection to the first address that accepts one. Raises OSError."""
    last = OSError(0, "has no address")
    for family, kind, protocol, _, address in found:
        connection = socket.socket(family, kind, protocol)
        connection.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(connection, address)
        except OSError as error:
            last = error
            connection.close()
        except BaseException:
            connection.close()
            raise
        else:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection
    raise last


@contextlib.contextmanager
def outages() -> Iterator[None]:
    """Turns what a socket raises into `Unavailable`."""
    try:
        yield
    except TimeoutError:
        raise Unavailable("clamd", "did not answer in time") from None
    except OSError as error:
        raise Unavailable("clamd", _sentence(error)) from error


def _sentence(error: OSError) -> str:
    """The error's text without the address: a job's owner reads what the job waits for."""
    if error.errno and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or "closed the connection"
