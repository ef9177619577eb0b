"""The parent's end of the zygote and of the children it forks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from media_core.decoding.results import CODES, DecodingFailed
from media_core.decoding.sources import Source
from media_core.decoding.wire import BLOCK, LENGTHS, ORDER, STATUS, WireError, frame, header, lengths

START_SECONDS = 60.0
"""Longest start of the zygote. Usually it takes a quarter of a second, more from a slow disk."""

READY_SECONDS = 15.0
"""Longest start of a child. Usually it takes 5 ms, more on an overloaded machine."""

END_SECONDS = 5.0
"""How long the zygote may take to end a child or itself."""

ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20), "MALLOC_ARENA_MAX": "1"}
"""The zygote's whole environment: nothing of this process's. With these two, glibc returns a picture's memory at once,
and a thread reserves no address space of its own."""

SMALLEST_READ = 64 << 10
"""Bytes that every read counts for at least, so that a child cannot keep a store busy with single bytes."""


class Ended(Exception):
    """The process has ended, or did not start in time."""


@dataclass(frozen=True)
class Contract:
    """What a task may read and answer. The parent enforces it against a hostile child."""

    result: Callable[[dict[str, Any], bytes], Any]
    most_read: Callable[[int], int]
    """Most bytes read, for a source of the given size."""

    most_answered: Callable[[dict[str, Any]], int]
    """Most bytes of the answer, for the given arguments."""


@dataclass(frozen=True)
class Order:
    task: str
    arguments: dict[str, Any]
    source: Source
    contract: Contract


class Zygote:
    """The process that has loaded the decoders and forks children. It runs `media_core.decoding.zygote`."""

    def __init__(self, process: asyncio.subprocess.Process, orders: socket.socket) -> None:
        self._process = process
        self._orders = orders
        self.retired = False
        """Whether it must fork no more children."""

    @classmethod
    async def start(cls) -> Self:
        """Starts a zygote and waits until it is warm. Raises Ended."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with contextlib.ExitStack() as undo:
            undo.callback(ours.close)
            try:
                with theirs:
                    process = await asyncio.create_subprocess_exec(
                        *(sys.executable, "-I", "-m", "media_core.decoding.zygote", str(os.getpid())),
                        stdin=theirs.fileno(),
                        stdout=asyncio.subprocess.DEVNULL,
                        env=ENVIRONMENT,
                    )
                zygote = cls(process, ours)
                undo.callback(zygote.kill)
                async with asyncio.timeout(START_SECONDS):
                    if not await asyncio.get_running_loop().sock_recv(ours, 1):
                        raise Ended
            except OSError as error:
                raise Ended from error
            undo.pop_all()
        return zygote

    @property
    def forks(self) -> bool:
        """Whether it may be asked for a child. Its socket shows its death at once, the event loop later."""
        if self.retired:
            return False
        try:
            return bool(self._orders.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False

    @property
    def gone(self) -> bool:
        return self._process.returncode is not None

    async def fork(self, memory_bytes: int) -> Child:
        """A child that is confined and ready. Raises Ended."""
        wire, childs_wire = socket.socketpair()
        leash, zygotes_leash = socket.socketpair()
        leash.setblocking(False)
        with contextlib.ExitStack() as undo:
            try:
                with childs_wire, zygotes_leash:
                    child = Child(self, leash, *await asyncio.open_unix_connection(sock=wire, limit=2 * BLOCK))
                    undo.callback(child.kill)
                    sent = [childs_wire.fileno(), zygotes_leash.fileno()]
                    socket.send_fds(self._orders, [ORDER.pack(memory_bytes)], sent)
                async with asyncio.timeout(READY_SECONDS):
                    await child.become_ready()
            except TimeoutError as error:
                self.kill()  # it may not have read the order
                raise Ended from error
            except OSError as error:
                raise Ended from error
            undo.pop_all()
        return child

    def kill(self) -> None:
        """Ends the process at once, and with it the children; the event loop reaps it."""
        # Not `Process.kill`: that polls the process first, and so takes its exit status from the event loop, which then
        # logs a warning.
        if not self.gone:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
        self.dismiss()

    def dismiss(self) -> None:
        """Tells it to end its children and itself."""
        self._orders.close()

    async def end(self) -> None:
        """Ends it and its children, and waits for that."""
        self.dismiss()
        try:
            async with asyncio.timeout(END_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()


class Child:
    """One confined process. The wire carries its messages; closing the leash makes the zygote end it."""

    def __init__(
        self, zygote: Zygote, leash: socket.socket, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.zygote = zygote
        self._leash: socket.socket | None = leash
        self._reader = reader
        self._writer = writer
        self.missing: list[str] = []
        self.tasks = 0
        self.heard = False
        """Whether it has sent anything for its latest task."""

    async def become_ready(self) -> None:
        """Raises Ended."""
        try:
            ready, _ = await self._receive(0)
            self.missing = list(ready["ready"])
        except (WireError, LookupError) as error:
            raise Ended from error

    async def perform(self, order: Order, cpu_seconds: int) -> Any:
        """Gives the child a task, and serves its reads until it answers. After a cancellation, `kill` the child."""
        self.tasks += 1
        self.heard = False
        unread = order.contract.most_read(order.source.size)
        await self._send(
            {"task": order.task, "arguments": order.arguments, "size": order.source.size, "cpu_seconds": cpu_seconds}
        )
        while True:
            message, payload = await self._receive(order.contract.most_answered(order.arguments))
            self.heard = True
            match message:
                case {"read": [int(start), int(length)]} if start >= 0 and 0 < length <= BLOCK:
                    unread -= max(length, SMALLEST_READ)
                    if unread < 0:
                        await self._send({"refused": "decoding it needs more reads than this task may make"})
                    else:
                        await self._send({}, await order.source.read(start, length))
                case {"done": dict(facts)}:
                    try:
                        return order.contract.result(facts, payload)
                    except (TypeError, ValueError) as error:
                        raise WireError("an answer of the wrong form") from error
                case {"failed": str(code), "detail": str(detail)} if code in CODES:
                    raise DecodingFailed(code, detail)
                case _:
                    raise WireError("a message that is not understood")

    def kill(self) -> None:
        """Ends the process at once; the zygote reaps it."""
        self._writer.close()
        if self._leash is not None:
            self._leash.close()

    async def end(self) -> int | None:
        """Ends the process, and returns its exit status, negative for a signal. None: the zygote has ended."""
        leash, self._leash = self._leash, None  # `kill` must not close it while it is read
        self.kill()
        if leash is None:
            return None
        with leash:
            try:
                leash.shutdown(socket.SHUT_WR)
                async with asyncio.timeout(END_SECONDS):
                    status = await asyncio.get_running_loop().sock_recv(leash, STATUS.size)
            except OSError:
                return None
        return STATUS.unpack(status)[0] if status else None

    async def _send(self, message: dict[str, Any], payload: bytes = b"") -> None:
        try:
            for buffer in frame(message, payload):
                self._writer.write(buffer)
            await self._writer.drain()
        except ConnectionError as error:
            raise Ended from error

    async def _receive(self, most_payload: int) -> tuple[dict[str, Any], bytes]:
        try:
            header_length, payload_length = lengths(await self._reader.readexactly(LENGTHS.size))
            if payload_length > most_payload:
                raise WireError("a payload longer than this task's answer")
            encoded = await self._reader.readexactly(header_length)
            return header(encoded), await self._reader.readexactly(payload_length)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise Ended from error
