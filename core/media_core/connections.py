"""A pool of connections to PostgreSQL, for one event loop. It lends the last used first, and serves waiters in order.

Invariants:
- A place is given back exactly once, also when the task that waits for it is cancelled.
- A connection that comes back inside a transaction, or in any state but idle, is ended.
- A connection that its server has ended is not lent, as far as its socket shows that.
- All connections are in autocommit mode. A transaction begins with an explicit BEGIN and stays on one connection.
- Nobody waits for a server that does not answer at all. A statement on which the server works may take long.

It is not SQLAlchemy's pool because of the cost: taking and giving back take 3 us of CPU here and 63 us there, which is
more than a statement.
"""

import asyncio
import os
import select
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import psycopg
from psycopg.pq import TransactionStatus

from media_core.errors import Unavailable

WAIT_SECONDS: Final = 10.0
"""How long `take` waits when all connections are lent."""
TRUSTED_SECONDS: Final = 1.0
"""A connection that has been idle for longer is tested before it is lent."""
ANSWER_SECONDS: Final = 3.0
"""How long that test may take."""
DOUBTED_SECONDS: Final = 5.0
"""A connection that is lent for longer starts a check of the server over another connection. Its own socket shows
nothing: the machine of a stopped server still takes bytes."""
YOUNG_SECONDS: Final = 1.0
"""`retire` keeps younger connections. Otherwise each statement to a read-only server would open a new one."""


class Connection(psycopg.AsyncConnection[Any]):
    """Only its pool ends it."""

    def opened(self) -> None:
        """To be called once, right after it was opened."""
        self.opened_at = self.used_at = self.lent_at = time.monotonic()
        self._socket = select.poll()
        self._socket.register(self.fileno(), select.POLLIN)

    def has_said_something(self) -> bool:
        """Unrequested bytes have come: most of the time, the server's message that it ends the connection."""
        return bool(self._socket.poll(0))

    def end(self) -> None:
        """Idempotent. The server notices at once."""
        self.pgconn.finish()

    async def ask(self, query: psycopg.abc.Query, seconds: float) -> list[Any]:
        """The rows of a statement that has to be answered within `seconds`. Raises psycopg's errors.

        At the deadline it shuts the socket down. It does not cancel the task: the driver would then ask the server to
        cancel the statement, and wait up to ten seconds for a server that does not answer.
        """
        deadline = asyncio.get_running_loop().call_later(seconds, self.cut)
        try:
            return await (await self.execute(query, prepare=False)).fetchall()
        finally:
            deadline.cancel()

    def cut(self) -> None:
        """Shuts the connection's socket down. A statement that waits on it fails at once."""
        with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(self.fileno())) as connected:
            connected.shutdown(socket.SHUT_RDWR)


class Connections:
    """At most `most` connections at a time. `connect` opens them when they are needed; `take` raises its errors."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]], most: int) -> None:
        self._connect = connect
        self._places = most
        """How many more connections may be lent, idle ones included."""
        self._idle: list[Connection] = []
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._lent: dict[Connection, asyncio.TimerHandle] = {}
        self._doubting: asyncio.Task[None] | None = None
        self._oldest = float("-inf")
        """Connections that were opened before this time are ended."""

    async def take(self, *, at_once: bool = False, seconds: float = WAIT_SECONDS) -> Connection:
        """A connection that works, as far as can be seen; `give` it back. `at_once`: go before all who already wait.

        Raises Unavailable when none is free within `seconds`.
        """
        if self._places:
            self._places -= 1
        else:
            await self._place(at_once, seconds)
        try:
            while self._idle:
                connection = self._idle.pop()
                if await self._is_there(connection):
                    return self._lend(connection)
                connection.end()
                # Those that were used longer ago are most likely dead too, and each could take seconds to show it.
                self._end_used_before(connection.used_at)
            connection = await self._connect()
        except BaseException:
            self._free()
            raise
        connection.opened()
        return self._lend(connection)

    def give(self, connection: Connection) -> None:
        """Takes the connection back. Only one that is outside of any transaction is lent again."""
        self._lent.pop(connection).cancel()
        if connection.pgconn.transaction_status == TransactionStatus.IDLE and connection.opened_at > self._oldest:
            connection.used_at = time.monotonic()
            self._idle.append(connection)
        else:
            connection.end()
        self._free()

    def retire(self) -> None:
        """Ends all connections: their server is the wrong one now. New ones may reach another server."""
        self._end_opened_before(time.monotonic() - YOUNG_SECONDS)

    def close(self) -> None:
        """Ends all connections; those that are lent are ended when they come back."""
        if self._doubting is not None:
            self._doubting.cancel()
        self._end_opened_before(float("inf"))

    def _lend(self, connection: Connection) -> Connection:
        connection.lent_at = time.monotonic()
        self._lent[connection] = asyncio.get_running_loop().call_later(DOUBTED_SECONDS, self._doubt)
        return connection

    def _doubt(self) -> None:
        if self._doubting is None or self._doubting.done():
            self._doubting = asyncio.get_running_loop().create_task(self._cut_if_silent())

    async def _cut_if_silent(self) -> None:
        """Tests the server over another connection. If it does not answer, cuts all that were lent before the test."""
        began = time.monotonic()
        try:
            other = await self._connect()
        except Unavailable as error:
            silent = isinstance(error.__cause__, psycopg.errors.ConnectionTimeout)
        else:
            try:
                await other.ask("SELECT", ANSWER_SECONDS)
                silent = False
            except psycopg.Error as error:
                silent = error.sqlstate is None  # cut, or the server is gone
            finally:
                other.end()
        if silent:
            for connection in self._lent:
                if connection.lent_at < began:
                    connection.cut()

    def _end_opened_before(self, oldest: float) -> None:
        self._oldest = max(self._oldest, oldest)
        self._keep_idle(lambda one: one.opened_at > self._oldest)

    def _end_used_before(self, last: float) -> None:
        self._keep_idle(lambda one: one.used_at > last)

    def _keep_idle(self, wanted: Callable[[Connection], bool]) -> None:
        idle, self._idle = self._idle, []
        for one in idle:
            if wanted(one):
                self._idle.append(one)
            else:
                one.end()

    async def _is_there(self, connection: Connection) -> bool:
        if time.monotonic() - connection.used_at < TRUSTED_SECONDS and not connection.has_said_something():
            return True
        try:
            await connection.ask("SELECT", ANSWER_SECONDS)
        except psycopg.Error:
            return False
        except BaseException:
            connection.end()
            raise
        return True

    async def _place(self, at_once: bool, seconds: float) -> None:
        place = asyncio.get_running_loop().create_future()
        (self._waiting.appendleft if at_once else self._waiting.append)(place)
        try:
            async with asyncio.timeout(seconds):
                await place
        except BaseException as error:
            if place.cancelled():
                with suppress(ValueError):
                    self._waiting.remove(place)
            else:  # the place was given at the moment of the cancellation
                self._free()
            if isinstance(error, TimeoutError):
                raise Unavailable("database", "all connections are busy") from None
            raise

    def _free(self) -> None:
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._places += 1
