"""clamd: bytes in, a verdict out, and nothing clean by accident.

Invariants: one connection a scan, so no reply can be taken for another file's; only the exact reply `stream: OK`, after
every byte of the content was sent, is clean, and only from a clamd that right after still finds the test virus; what
it skipped (its limits, encryption) is unscannable; a reply that is not understood is an error; a clamd that is down,
slow, dies or can't be believed raises `Unavailable` and decides nothing.
"""

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Literal

import clamd

from media_core.errors import Unavailable
from media_workers.canaries import CANARIES, TEST_VIRUS, Canary
from media_workers.settings import ClamdSettings

_LONGEST_REPLY = 4096
_FOUND = re.compile(r"stream: (\S+) FOUND")
# What says "I did not look inside": libclamav's own heuristics, and the rules that our clamd has beside its signatures.
_SKIPPED = ("Heuristics.Limits.Exceeded", "Heuristics.Encrypted.", "Heuristics.XZ.DicSizeLimit", "Heuristics.Skipped.")


@dataclass(frozen=True)
class Verdict:
    """`status` is `blob.scan_status`, `detail` says why, `engine` is clamd's version and the date of its signatures."""

    status: Literal["clean", "infected", "unscannable", "error"]
    detail: str | None
    engine: str


def interpret(reply: str, engine: str) -> Verdict:
    """Maps one INSTREAM reply line, without its end, to a verdict (architecture.md, "Scanning")."""
    if reply == "stream: OK":
        return Verdict("clean", None, engine)
    if found := _FOUND.fullmatch(reply):
        name = found[1]
        return Verdict("unscannable" if name.startswith(_SKIPPED) else "infected", name, engine)
    if reply == "INSTREAM size limit exceeded. ERROR":
        return Verdict("unscannable", "larger than clamd's StreamMaxLength", engine)
    return Verdict("error", f"clamd answered {reply[:200]!r}", engine)


class Clamd:
    """The clamd that `settings` name; tasks may share it.

    Every method raises `Unavailable("clamd", ...)` when clamd is down, slow, breaks off or fails a canary.
    """

    def __init__(self, settings: ClamdSettings) -> None:
        self._settings = settings
        self._believed = False

    async def ping(self) -> None:
        if (reply := await self._ask("PING")) != "PONG":
            raise Unavailable("clamd", f"answered PING with {reply[:200]!r}")

    async def version(self) -> str:
        """Engine, signature number and date, as clamd says them: `ClamAV 1.4.6/27812/Mon Nov 23 08:25:11 2026`."""
        reply = await self._ask("VERSION")
        if not reply.startswith("ClamAV "):
            raise Unavailable("clamd", f"answered VERSION with {reply[:200]!r}")
        return reply

    async def scan(self, content: AsyncIterator[bytes], size: int) -> Verdict:
        """Streams `content`, which must be `size` bytes long, and returns clamd's verdict on it.

        Raises what `content` raises, and `Unavailable("object store", ...)` when its length is another: then clamd
        never learns that the stream ended, and decides nothing.
        """
        # Before the scan: signatures that are reloaded meanwhile may look older than they are, never newer.
        engine = await self.version()
        if size > (limit := self._settings.max_bytes):
            return Verdict("unscannable", f"{size} bytes, more than the {limit} that are scanned", engine)
        if not self._believed:
            for canary in CANARIES:
                await self._check(canary)
            self._believed = True
        verdict = interpret(await self._instream(content, size), engine)
        if verdict.status == "clean":
            await self._check(TEST_VIRUS)
        return verdict

    async def _check(self, canary: Canary) -> None:
        reply = await self._instream(_one(canary.content), len(canary.content))
        if interpret(reply, "").status != canary.status:
            raise Unavailable("clamd", f"{canary.otherwise} (it answered {reply[:200]!r})")

    async def _instream(self, content: AsyncIterator[bytes], size: int) -> str:
        seconds = self._settings.scan_timeout
        try:
            async with asyncio.timeout(seconds), contextlib.aclosing(_whole(content, size)) as chunks:
                return await ClamdSocket(self._settings).instream(chunks)
        except TimeoutError:
            raise Unavailable("clamd", f"no verdict within {seconds:g} s") from None

    async def _ask(self, command: Literal["PING", "VERSION"]) -> str:
        connection = ClamdSocket(self._settings)
        with _unavailable():
            return str(await asyncio.to_thread(connection.ping if command == "PING" else connection.version))


class ClamdSocket(clamd.ClamdNetworkSocket):  # type: ignore[misc]  # the package has no types
    """The `clamd` package's client for one command, with the parts replaced that a stream of any size needs.

    The package connects without a timeout, sends 1 KiB chunks and reads only after the last one, so that it sees a
    broken pipe where clamd said why it refused. It blocks, too: here a scan that is cancelled ends at once.
    """

    def __init__(self, settings: ClamdSettings) -> None:
        super().__init__(settings.host, settings.port, timeout=settings.connect_timeout)
        self._reply_timeout = settings.reply_timeout

    def _init_socket(self) -> None:
        self.clamd_socket = socket.create_connection((self.host, self.port), self.timeout)

    async def instream(self, chunks: AsyncIterator[bytes]) -> str:
        """Sends `chunks` (1 MiB is a good size) and returns the reply line. Raises `Unavailable`."""
        with _unavailable():
            await asyncio.to_thread(self._init_socket)
        connection: socket.socket = self.clamd_socket
        connection.setblocking(False)
        reply = asyncio.create_task(_line(connection))
        try:
            sent = await self._send(connection, b"nINSTREAM\n")
            async for chunk in chunks:
                if not chunk:  # its length, 0, would end the stream here
                    continue
                sent = await self._send(connection, len(chunk).to_bytes(4, "big"), chunk)
                if reply.done() or not sent:
                    sent = False
                    break
            else:
                sent = sent and await self._send(connection, bytes(4))
            with _unavailable():
                async with asyncio.timeout(self._reply_timeout):
                    line = await reply
            if not sent and not line.endswith("ERROR"):
                raise Unavailable("clamd", f"answered {line!r} before the end of the stream")
            return line
        finally:
            reply.cancel()
            await asyncio.gather(reply, return_exceptions=True)
            connection.close()

    async def _send(self, connection: socket.socket, *parts: bytes) -> bool:
        """False when clamd has closed the connection: what it said before that is still there to be read."""
        with _unavailable():
            async with asyncio.timeout(self._reply_timeout):
                for part in parts:
                    try:
                        await asyncio.get_running_loop().sock_sendall(connection, part)
                    except ConnectionError:
                        return False
        return True


async def _line(connection: socket.socket) -> str:
    received = b""
    while not received.endswith(b"\n"):
        part = await asyncio.get_running_loop().sock_recv(connection, _LONGEST_REPLY)
        if not part or len(received) > _LONGEST_REPLY:
            raise clamd.ConnectionError(f"closed the connection after {received[:200]!r}")
        received += part
    return received.decode(errors="replace").removesuffix("\n")


async def _one(content: bytes) -> AsyncGenerator[bytes]:
    yield content


async def _whole(content: AsyncIterator[bytes], size: int) -> AsyncGenerator[bytes]:
    sent = 0
    try:
        async for chunk in content:
            sent += len(chunk)
            yield chunk
    finally:
        if isinstance(content, AsyncGenerator):  # a store's stream, left early: it holds a file or a connection
            await content.aclose()
    if sent != size:
        raise Unavailable("object store", f"the object has {sent} bytes where {size} were stored")


@contextlib.contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise Unavailable("clamd", "did not answer in time") from None
    except (OSError, clamd.ClamdError) as error:
        raise Unavailable("clamd", str(error)) from error
