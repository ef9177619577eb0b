"""Scans with clamd: a content's bytes become a verdict.

Invariants:
- A content is clean only if clamd replied exactly `stream: OK` after every byte was sent, and the same clamd, on the
  same connection, found the test virus afterwards.
- A content is infected only if the same clamd, on the same connection, said OK of a harmless one afterwards.
- A content that clamd skipped (its limits, encryption) is unscannable.
- A reply that is not understood is an error.
- A clamd that is down, slow, dies or cannot be believed raises `Unavailable`, and decides nothing.
- A connection carries one scan at a time (`session`).

A clean verdict waits for the test virus. Scans of small contents share one. It is sent after `CONFIRMED_AT_ONCE` of
them, after `CONFIRM_SECONDS`, or when nobody wants the connection, whichever comes first. One address may lead to
several clamds with different signatures, so the version is asked on the connection of the scan.
"""

import asyncio
import contextlib
import re
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final, Literal

import clamd
import structlog

from media_core.errors import Unavailable, Unfinished
from media_core.store import Chunk
from media_workers.scanning.known_verdicts import HARMLESS, KNOWN_CONTENTS, TEST_VIRUS, KnownContent
from media_workers.scanning.session import IDLE_SECONDS, ClamdSession, outages
from media_workers.settings import ClamdSettings

SMALL_BYTES: Final = 256 * 1024
"""Up to this size a content is read and sent whole."""
ENGINE_SECONDS: Final = 1.0
"""How long an answer to VERSION is used for later scans."""
CONFIRMED_AT_ONCE: Final = 16
"""Scans of one connection that share a test virus."""
CONFIRM_SECONDS: Final = 0.25
"""How long the first of them waits for others."""
QUICK_SECONDS: Final = 0.05
"""After a scan that took longer, the test virus is sent before the next scan."""
LONGEST_NAME: Final = 1000
"""Characters of a signature's name that are kept."""
CONFIRMED_SECONDS: Final = 2.0
"""A content that waits longer for the test virus, behind a slow scan on its connection, is scanned again alone."""

_log = structlog.stdlib.get_logger("media.scan")

_FOUND = re.compile(r"stream: (\S+) FOUND")
_GUESSED = ("Heuristics.", "PUA.")
"""PUA: programs that somebody may not want (ClamAV, `DetectPUA`)."""

# Findings that mean "not scanned": of libclamav's own heuristics, and of the rules that our clamd has in addition.
_SKIPPED = ("Heuristics.Limits.Exceeded", "Heuristics.Encrypted.", "Heuristics.XZ.DicSizeLimit", "Heuristics.Skipped.")


@dataclass(frozen=True)
class ClamdVerdict:
    """`status` as in `blob.scan_status`; `detail`: the reason; `engine`: clamd's version and its signatures' date."""

    status: Literal["clean", "infected", "unscannable", "error"]
    detail: str | None
    engine: str


def interpret(reply: str, engine: str, heuristics: Literal["unscannable", "infected"] = "infected") -> ClamdVerdict:
    """Maps one INSTREAM reply, without its end, to a verdict.

    `heuristics`: the status for a mere guess of clamd (`Heuristics.*`, `PUA.*`) that does not mean "not scanned".
    """
    if reply == "stream: OK":
        return ClamdVerdict("clean", None, engine)
    if found := _FOUND.fullmatch(reply):
        name = found[1][:LONGEST_NAME]
        if name.startswith(_SKIPPED):
            return ClamdVerdict("unscannable", name, engine)
        return ClamdVerdict(heuristics if name.startswith(_GUESSED) else "infected", name, engine)
    if reply == "INSTREAM size limit exceeded. ERROR":
        return ClamdVerdict("unscannable", "larger than clamd's StreamMaxLength", engine)
    return ClamdVerdict("error", f"clamd answered {reply[:200]!r}", engine)


def signatures_of(engine: str) -> int:
    """The number of an engine's signatures, which only grows; 0 if it has none but our own."""
    number = engine.split("/")[1:2]
    return int(number[0]) if number and number[0].isdecimal() else 0


class _NotFound(Unavailable):
    """clamd says something else of a content whose verdict is known."""


class Clamd:
    """The clamd that `settings` name, over a few connections that are kept for `IDLE_SECONDS`. Tasks share it.

    `scan` raises `Unavailable("clamd", ...)` when clamd is down, slow or wrong about a content whose verdict is known,
    and `Unfinished` when it breaks off in the midst of a content, which may be that content's fault.
    """

    def __init__(self, settings: ClamdSettings) -> None:
        self._settings = settings
        self._free = settings.at_once
        """How many more connections may be opened."""
        self._open: set[_Connection] = set()
        self._idle: list[_Connection] = []
        self._waiters: deque[asyncio.Future[_Connection | Unavailable | None]] = deque()
        self._large = asyncio.Semaphore(max(1, settings.at_once - 1))
        """Leaves one connection to small contents."""
        self._confirming: set[asyncio.Task[None]] = set()

    async def ping(self) -> None:
        if (reply := await self._ask("PING")) != "PONG":
            raise Unavailable("clamd", f"answered PING with {reply[:200]!r}")

    async def version(self) -> str:
        """Engine, signature number and date in clamd's form: `ClamAV 1.4.6/27812/Mon Nov 23 08:25:11 2026`."""
        reply = await self._ask("VERSION")
        if not reply.startswith("ClamAV "):
            raise Unavailable("clamd", f"answered VERSION with {reply[:200]!r}")
        return reply

    async def scan(self, content: bytes | AsyncIterator[Chunk], size: int) -> ClamdVerdict:
        """clamd's verdict on `content`, which must be `size` bytes long. Give it whole up to `SMALL_BYTES`.

        Raises what `content` raises, and `Unfinished("object store", ...)` when its length is not `size`: then clamd
        never gets the end of the stream, and decides nothing.
        """
        if size > (limit := self._settings.max_bytes):
            async with self._connection() as connection:
                engine = await connection.engine()
            return ClamdVerdict("unscannable", f"{size} bytes, more than the {limit} that are scanned", engine)
        if isinstance(content, bytes) and len(content) != size:
            raise _another_size(len(content), size)
        try:
            if isinstance(content, bytes):
                # A second time if the connection of the first scan has ended, or is busy with a slow scan.
                verdict = await self._scan_among_others(content) or await self._scan_alone(_one(content), size)
            else:
                async with self._large:
                    verdict = await self._scan_alone(content, size)
        except Unfinished as error:
            if error.dependency == "clamd":
                await self._blame_itself()
            raise
        if verdict.status == "error":
            await self._blame_itself()
        return verdict

    async def _scan_alone(self, content: AsyncIterator[Chunk], size: int) -> ClamdVerdict:
        """Scans alone on a connection. The test virus is sent before, for scans that wait for one, and after it."""
        seconds = self._settings.scan_timeout
        async with self._connection() as connection:
            try:
                async with asyncio.timeout(seconds), contextlib.aclosing(_whole(content, size)) as chunks:
                    await self._confirm(connection)
                    engine = await connection.engine()
                    verdict = self._interpret(await connection.session.scan_stream(chunks), engine)
                    if verdict.status == "clean":
                        await self._check(connection.session, TEST_VIRUS)
                    elif verdict.status == "infected":
                        await self._check(connection.session, HARMLESS)
                    return verdict
            except TimeoutError:
                raise Unfinished("clamd", f"no verdict within {seconds:g} s") from None

    async def _scan_among_others(self, content: bytes) -> ClamdVerdict | None:
        """Scans, and shares the test virus with other scans. None: it was never sent, so there is no verdict."""
        async with self._connection() as connection:
            engine = await connection.engine()
            began = time.monotonic()
            verdict = self._interpret(await connection.session.scan(content), engine)
            connection.scan_seconds = time.monotonic() - began
            if verdict.status == "infected":
                await self._check(connection.session, HARMLESS)
            if verdict.status != "clean":
                return verdict
            outcome = connection.to_be_confirmed()
        error = await outcome
        if error is _NEVER:
            return None
        if error is not None:
            raise type(error)(error.dependency, error.detail) from error
        return verdict

    def _interpret(self, reply: str, engine: str) -> ClamdVerdict:
        return interpret(reply, engine, self._settings.heuristics)

    # --- the test virus -----------------------------------------------------------------------------------------

    async def _check(self, session: ClamdSession, known: KnownContent) -> None:
        """Raises `_NotFound`, and closes the connection, unless clamd says of this content what it has to say.

        "infected" is accepted for every archive: a signature, even a wrong one, may find them all.
        """
        try:
            reply = await session.scan(known.content)
        except Unfinished as error:
            raise _NotFound(error.dependency, error.detail) from error
        status = interpret(reply, "").status
        if status != known.status and (status != "infected" or known is HARMLESS):
            session.close()
            raise _NotFound("clamd", f"{known.otherwise} (it answered {reply[:200]!r})")

    async def _blame_itself(self) -> None:
        """Raises `Unavailable` if clamd answers and does not find the test virus: then the content is not to blame.

        If clamd does not answer, the content may have crashed it.
        """
        try:
            async with self._connection() as connection:
                await connection.session.version()
                await self._check(connection.session, TEST_VIRUS)
        except _NotFound:
            raise
        except Unavailable as error:
            _log.warning("clamd_gone_after_a_scan", detail=error.detail)

    async def _confirm(self, connection: "_Connection") -> None:
        """Sends the test virus, if clean verdicts of this connection wait for it, and settles them.

        Raises `Unavailable`.
        """
        if not connection.unconfirmed:
            return
        try:
            await self._check(connection.session, TEST_VIRUS)
        except Unavailable as error:
            connection.settle(error)
            raise
        connection.settle(None)

    async def _confirm_and_give_back(self, connection: "_Connection") -> None:
        try:
            with contextlib.suppress(Unavailable):  # the waiting scans have got it
                await self._confirm(connection)
        except BaseException:
            connection.session.close()
            raise
        finally:
            self._hand_on(connection)

    # --- connections --------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _connection(self) -> "AsyncIterator[_Connection]":
        """A connection for this block alone. An exception closes it."""
        connection = await self._take()
        try:
            yield connection
        except BaseException:
            connection.session.close()
            raise
        finally:
            self._give_back(connection)

    async def _take(self) -> "_Connection":
        connection: _Connection | None = None
        if self._idle:
            connection = self._idle.pop()
            connection.wanted()
        elif self._free:
            self._free -= 1
        else:
            connection = await self._wait_for_one()
        if connection is not None and connection.session.is_usable():
            return connection
        if connection is not None:
            self._drop(connection)
        try:
            connection = await self._opened()
        except BaseException as error:
            if isinstance(error, Unavailable) and not self._open:
                self._tell_all(error)
            self._hand_on(None)
            raise
        self._open.add(connection)
        return connection

    async def _wait_for_one(self) -> "_Connection | None":
        waiter: asyncio.Future[_Connection | Unavailable | None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            given = await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and not isinstance(given := waiter.result(), Unavailable):
                self._hand_on(given)
            raise
        if isinstance(given, Unavailable):
            raise type(given)(given.dependency, given.detail) from given
        return given

    def _tell_all(self, error: Unavailable) -> None:
        """Raises the error for all who wait for a connection: there is none, and none can be opened."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(error)
        self._waiters.clear()

    def _drop(self, connection: "_Connection") -> None:
        self._open.discard(connection)
        connection.close()

    async def _opened(self) -> "_Connection":
        connection = _Connection(await ClamdSession.open(self._settings))
        try:
            await connection.engine()  # it answers at once, or is away
            for known in KNOWN_CONTENTS:
                await self._check(connection.session, known)
        except BaseException:
            connection.close()
            raise
        return connection

    def _give_back(self, connection: "_Connection") -> None:
        """Gives the connection back. Its clean verdicts are confirmed before if they are due, or if nobody waits."""
        if connection.session.is_open and connection.unconfirmed and (connection.is_due() or not self._waiters):
            task = asyncio.create_task(self._confirm_and_give_back(connection))
            self._confirming.add(task)
            task.add_done_callback(self._confirming.discard)
        else:
            self._hand_on(connection)

    def _hand_on(self, connection: "_Connection | None") -> None:
        """Gives the connection to the task that has waited longest. None: the right to open another one."""
        if connection is not None and not connection.session.is_open:
            self._drop(connection)
            connection = None
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        if connection is None:
            self._free += 1
        elif connection.unconfirmed:
            self._give_back(connection)
        else:
            self._idle.append(connection)
            connection.idle_for(IDLE_SECONDS, self._expire)

    def _expire(self, connection: "_Connection") -> None:
        """Closes an idle connection. clamd limits them (MaxQueue), also idle ones, and other workers may need it."""
        self._idle.remove(connection)
        self._drop(connection)
        self._hand_on(None)

    async def _ask(self, command: Literal["PING", "VERSION"]) -> str:
        client = clamd.ClamdNetworkSocket(
            self._settings.host, self._settings.port, timeout=self._settings.connect_timeout
        )
        try:
            with outages():
                return str(await asyncio.to_thread(client.ping if command == "PING" else client.version))
        except clamd.ClamdError as error:
            raise Unavailable("clamd", "did not take the connection, or closed it") from error


class _Connection:
    """A connection, and its clean verdicts since clamd last found the test virus on it."""

    def __init__(self, session: ClamdSession) -> None:
        self.session = session
        self.unconfirmed: list[asyncio.Future[Unavailable | None]] = []
        self.scan_seconds = 0.0
        """Duration of the last scan."""
        self._due_at = 0.0
        self._patience: asyncio.TimerHandle | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._engine = ""
        self._engine_asked = float("-inf")

    async def engine(self) -> str:
        """clamd's version for a scan that begins now. If clamd reloads its signatures meanwhile, it may be too old, but
        never too new."""
        if time.monotonic() - self._engine_asked > ENGINE_SECONDS:
            asked = time.monotonic()
            self._engine = await self.session.version()
            self._engine_asked = asked
        return self._engine

    def to_be_confirmed(self) -> "asyncio.Future[Unavailable | None]":
        """Resolves to None once the test virus has been found after this call, and otherwise to the error."""
        loop = asyncio.get_running_loop()
        if not self.unconfirmed:
            self._due_at = time.monotonic() + CONFIRM_SECONDS
            self._patience = loop.call_later(CONFIRMED_SECONDS, self.settle, _NEVER)
        outcome: asyncio.Future[Unavailable | None] = loop.create_future()
        self.unconfirmed.append(outcome)
        return outcome

    def is_due(self) -> bool:
        """Whether the test virus has to be sent before the next scan: they are many or old, or scans are slow."""
        return (
            len(self.unconfirmed) >= CONFIRMED_AT_ONCE
            or time.monotonic() > self._due_at
            or self.scan_seconds > QUICK_SECONDS
        )

    def settle(self, error: Unavailable | None) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        for outcome in self.unconfirmed:
            if not outcome.done():  # otherwise its scan was cancelled
                outcome.set_result(error)
        self.unconfirmed.clear()

    def idle_for(self, seconds: float, expire: "Callable[[_Connection], None]") -> None:
        self._expiry = asyncio.get_running_loop().call_later(seconds, expire, self)

    def wanted(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    def close(self) -> None:
        self.session.close()
        self.settle(_NEVER)


_NEVER: Final = Unavailable("clamd", "the test virus never came")


async def _one(content: bytes) -> AsyncGenerator[Chunk]:
    yield content


async def _whole(content: AsyncIterator[Chunk], size: int) -> AsyncGenerator[Chunk]:
    sent = 0
    try:
        async for chunk in content:
            sent += len(chunk)
            yield chunk
    finally:
        if isinstance(content, AsyncGenerator):  # a store's stream holds a file or a connection until it is closed
            await content.aclose()
    if sent != size:
        raise _another_size(sent, size)


def _another_size(found: int, size: int) -> Unfinished:
    return Unfinished("object store", f"the object has {found} bytes where {size} were stored")
