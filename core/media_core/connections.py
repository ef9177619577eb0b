"""The connections of one process to PostgreSQL: at most so many, the last used first, who waits in the order of coming.

Invariants: a place is given back exactly once, also where whoever waits for it goes away. A connection that comes back
in the midst of anything is ended. None is lent that its server has ended, as far as its socket tells. All are in
autocommit mode: a transaction is a BEGIN that somebody sends, and lives on one connection until its end. Nobody waits
for a server that says nothing at all, however patient a statement may be with one that works on it.

It is a pool of our own because it knows the driver: taking and giving back cost 3 us of CPU here, and 63 us in
SQLAlchemy's, which is more than the statement. For one event loop.
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
"""How long a connection is waited for when all are lent."""
TRUSTED_SECONDS: Final = 1.0
"""A connection that was used so long ago is asked whether it is still there before it is lent."""
ANSWER_SECONDS: Final = 3.0
"""How long it may take to say so."""
DOUBTED_SECONDS: Final = 5.0
"""A connection that is lent for longer starts a check of the server. A stopped server's machine still takes bytes, so
the connection itself tells nothing."""
YOUNG_SECONDS: Final = 1.0
"""`retire` keeps what is younger: a server that stays read-only is not connected to anew for every statement."""


class Connection(psycopg.AsyncConnection[Any]):
    """Its pool ends it. What SQLAlchemy closes, it only uses no longer."""

    def opened(self) -> None:
        """It has just been."""
        self.opened_at = self.used_at = self.lent_at = time.monotonic()
        self._socket = select.poll()
        self._socket.register(self.fileno(), select.POLLIN)

    def has_said_something(self) -> bool:
        """Something came unasked: most of the time, that the server ends it."""
        return bool(self._socket.poll(0))

    def end(self) -> None:
        """Idempotent. The server sees it at once."""
        self.pgconn.finish()

    async def close(self) -> None:
        """What SQLAlchemy calls; see above."""

    def add_notice_handler(self, callback: Any) -> None:
        """SQLAlchemy adds its own each time that it is lent this connection."""
        with suppress(ValueError):
            self.remove_notice_handler(callback)
        super().add_notice_handler(callback)

    async def ask(self, query: psycopg.abc.Query, seconds: float) -> list[Any]:
        """The rows of a statement that has to be answered within `seconds`. Raises psycopg's errors.

        A task that is cancelled waits up to ten seconds for a server that says nothing: the driver wants to have its
        statement cancelled there. Whoever finds the socket ended is told at once.
        """
        deadline = asyncio.get_running_loop().call_later(seconds, self.cut)
        try:
            return await (await self.execute(query, prepare=False)).fetchall()
        finally:
            deadline.cancel()

    def cut(self) -> None:
        """Ends the connection's socket. A statement that waits on it fails now."""
        with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(self.fileno())) as connected:
            connected.shutdown(socket.SHUT_RDWR)


class Connections:
    """At most `most` at a time, opened by `connect` when they are needed; what it raises, `take` raises."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]], most: int) -> None:
        self._connect = connect
        self._places = most
        """Neither lent nor being opened; an idle connection has one too."""
        self._idle: list[Connection] = []
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._lent: dict[Connection, asyncio.TimerHandle] = {}
        self._doubting: asyncio.Task[None] | None = None
        self._oldest = float("-inf")
        """What was opened before is ended."""

    async def take(self, *, at_once: bool = False, seconds: float = WAIT_SECONDS) -> Connection:
        """One that is there, as far as can be told; `give` it back. `at_once`: before all who wait already.

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
                # Those that were used longer ago will not be there either, and each could take seconds to say so.
                self._end_used_before(connection.used_at)
            connection = await self._connect()
        except BaseException:
            self._free()
            raise
        connection.opened()
        return self._lend(connection)

    def give(self, connection: Connection) -> None:
        """Back from whoever took it. Only one that waits for a statement is lent again."""
        self._lent.pop(connection).cancel()
        if connection.pgconn.transaction_status == TransactionStatus.IDLE and connection.opened_at > self._oldest:
            connection.used_at = time.monotonic()
            self._idle.append(connection)
        else:
            connection.end()
        self._free()

    def retire(self) -> None:
        """Their server is not the right one any more: what is opened from here on may find another."""
        self._end_opened_before(time.monotonic() - YOUNG_SECONDS)

    def close(self) -> None:
        """Ends all; those that are lent, when they come back."""
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
        """Asks over another connection. A server that refuses it is there."""
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
            else:  # it was given at the very moment that nobody wanted it any more
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
