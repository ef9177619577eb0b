"""Warm decoding children, and the one place that talks to them.

A task has a child to itself. Whatever ends badly - a limit, a crash, a protocol error, a cancelled request, a source
that cannot be read - ends that child, so no later task can meet another one's remains. A task that fails because of
its bytes leaves the child clean and warm. A child serves a limited number of tasks and its successor is started before
anybody waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import structlog

from media_core.decoding.results import ImageFacts, MediaFacts, Thumbnail
from media_core.decoding.sources import Source
from media_core.decoding.wire import BLOCK, LENGTHS, LONGEST_PAYLOAD, WireError, frame, header, lengths

_log = structlog.stdlib.get_logger("media.decoding")

START_SECONDS = 60.0
TASKS_PER_CHILD = 200
SAMPLE_BYTES_PER_SECOND = 32_000
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20), "MALLOC_ARENA_MAX": "1"}
"""Nothing of ours. glibc returns a picture's memory at once, and a thread reserves no address space of its own."""

SMALLEST_READ = 64 << 10
"""Bytes that any read counts for at least, so that a child cannot keep a store busy with single bytes."""

FAILURES_OF_THE_SOURCE = ("unsupported", "corrupt", "too_large")
CODES = (*FAILURES_OF_THE_SOURCE, "memory", "crashed")


@dataclass(frozen=True)
class Limits:
    """What one task may take."""

    memory_bytes: int = 640 << 20
    """Address space beyond a warm child's own (about 200 MiB, 60 of them resident)."""

    cpu_seconds: int = 15
    """Whole seconds of CPU; the kernel ends the child beyond them."""

    wall_seconds: float = 30.0
    """Seconds from the moment a child is free, reading the source included."""


class DecodingFailed(Exception):
    """One source could not be decoded.

    `code`: "unsupported", "corrupt", "too_large" (pixels, bytes), "timeout", "memory" or "crashed"; `detail` is for a
    person and may quote a decoder's message, never the source's bytes.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


@dataclass(frozen=True)
class _Contract:
    """What a task may read and answer, however its child behaves."""

    result: Callable[[dict[str, Any], bytes], Any]
    most_read: Callable[[int], int]
    """Bytes, given the source's size."""

    most_answered: Callable[[dict[str, Any]], int]
    """Bytes, given the arguments."""


def _whole(size: int) -> int:
    return 2 * size + 16 * BLOCK


_TASKS = {
    "inspect_image": _Contract(lambda facts, _: ImageFacts(**facts), _whole, lambda _: 0),
    "thumbnail": _Contract(lambda facts, data: Thumbnail(data, **facts), _whole, lambda _: 8 << 20),
    "resize_thumbnail": _Contract(lambda _, data: data, _whole, lambda _: 8 << 20),
    "probe": _Contract(lambda facts, _: MediaFacts(**facts), lambda _: 160 * BLOCK, lambda _: 0),
    "video_frame": _Contract(lambda facts, data: Thumbnail(data, **facts), lambda _: 96 * BLOCK, lambda _: 8 << 20),
    "audio_window": _Contract(
        lambda _, data: data, _whole, lambda a: math.ceil(a["seconds"] * SAMPLE_BYTES_PER_SECOND) + 2
    ),
}


class DecodingPool:
    """`processes` warm children, each with one task at a time; further tasks wait their turn.

    Belongs to one event loop and to the thread that runs it: the kernel ends the children with that thread.
    """

    def __init__(self, processes: int = 2, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._processes = processes
        self._slots: set[asyncio.Task[_Child]] = set()
        self._idle: asyncio.LifoQueue[asyncio.Task[_Child]] = asyncio.LifoQueue()
        self._closed = False

    async def __aenter__(self) -> Self:
        """Starts the children. Raises DecodingFailed("crashed") where they cannot run at all."""
        for _ in range(self._processes):
            self._idle.put_nowait(self._slot())
        try:
            children = await asyncio.gather(*self._slots)
        except BaseException:
            await self.__aexit__()
            raise
        for layer in sorted({layer for child in children for layer in child.missing}):
            _log.warning("decoding_less_confined", missing=layer)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._closed = True
        for slot in self._slots:
            slot.cancel()
        for child in await asyncio.gather(*self._slots, return_exceptions=True):
            if isinstance(child, _Child):
                await child.end()

    async def run(self, task: str, source: Source, **arguments: Any) -> Any:
        """Carries out one task (names, arguments and results: the functions in `child.TASKS`).

        Raises DecodingFailed; whatever `source.read` raises; ValueError for an answer that would exceed 64 MiB.
        """
        contract = _TASKS[task]
        if contract.most_answered(arguments) > LONGEST_PAYLOAD:
            raise ValueError(f"{task}: the answer would be longer than {LONGEST_PAYLOAD} bytes")
        slot = await self._idle.get()
        reusable = True
        try:
            child = await asyncio.shield(slot)
            reusable = False
            result = await self._perform(child, _Order(task, arguments, source, contract))
            reusable = child.tasks < TASKS_PER_CHILD
        except DecodingFailed as failed:
            reusable = failed.code in FAILURES_OF_THE_SOURCE and child.tasks < TASKS_PER_CHILD
            raise
        finally:
            self._idle.put_nowait(slot if reusable else self._replaced(slot))
        return result

    async def _perform(self, child: _Child, order: _Order) -> Any:
        try:
            async with asyncio.timeout(self._limits.wall_seconds) as clock:
                return await child.perform(order, self._limits.cpu_seconds)
        except TimeoutError as error:
            if not clock.expired():
                raise
            raise DecodingFailed("timeout", f"not decoded within {self._limits.wall_seconds:g} s") from error
        except (_Ended, WireError) as error:
            if await child.end() == -signal.SIGXCPU:
                detail = f"not decoded within {self._limits.cpu_seconds} s of CPU"
                raise DecodingFailed("timeout", detail) from error
            raise DecodingFailed("crashed", "the decoding process ended without an answer") from error

    def _slot(self) -> asyncio.Task[_Child]:
        slot = asyncio.create_task(_Child.start(self._limits.memory_bytes))
        self._slots.add(slot)
        return slot

    def _replaced(self, slot: asyncio.Task[_Child]) -> asyncio.Task[_Child]:
        if self._closed:
            return slot
        self._slots.discard(slot)
        if slot.exception() is None:
            slot.result().kill()
        return self._slot()


@dataclass(frozen=True)
class _Order:
    task: str
    arguments: dict[str, Any]
    source: Source
    contract: _Contract


class _Ended(Exception):
    """The child is gone, or no longer understands."""


class _Child:
    """One process and the parent's end of its wire."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self.missing: list[str] = []
        self.tasks = 0

    @classmethod
    async def start(cls, memory_bytes: int) -> _Child:
        """A child that is confined and ready. Raises DecodingFailed("crashed")."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-I", "-m", "media_core.decoding.child", str(os.getpid()), str(memory_bytes)),
                    stdin=theirs.fileno(),
                    stdout=asyncio.subprocess.DEVNULL,
                    env=ENVIRONMENT,
                )
        except OSError as error:
            ours.close()
            raise DecodingFailed("crashed", "no decoding process could be started") from error
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=2 * BLOCK)
        child = cls(process, reader, writer)
        try:
            async with asyncio.timeout(START_SECONDS):
                ready, _ = await child._receive(0)
                child.missing = list(ready["ready"])
        except (TimeoutError, _Ended, WireError, LookupError) as error:
            await child.end()
            raise DecodingFailed("crashed", "a decoding process did not become ready; see its messages") from error
        except BaseException:
            child.kill()
            raise
        return child

    async def perform(self, order: _Order, cpu_seconds: int) -> Any:
        """Serves the child's reads until it answers. Cancelled halfway, the child is of no further use."""
        self.tasks += 1
        unread = order.contract.most_read(order.source.size)
        await self._send(
            {"task": order.task, "arguments": order.arguments, "size": order.source.size, "cpu_seconds": cpu_seconds}
        )
        while True:
            message, payload = await self._receive(order.contract.most_answered(order.arguments))
            match message:
                case {"read": [int(start), int(length)]} if start >= 0 and 0 < length <= BLOCK:
                    unread -= max(length, SMALLEST_READ)
                    if unread < 0:
                        await self._send({"refused": "it takes more reading than this task may do"})
                    else:
                        await self._send({}, await order.source.read(start, length))
                case {"done": dict(facts)}:
                    try:
                        return order.contract.result(facts, payload)
                    except (TypeError, ValueError) as error:
                        raise WireError("an answer that is none") from error
                case {"failed": str(code), "detail": str(detail)} if code in CODES:
                    raise DecodingFailed(code, detail)
                case _:
                    raise WireError("a message that is not understood")

    def kill(self) -> None:
        """Ends the process at once; the event loop reaps it."""
        # Not `Process.kill`: that looks first whether the process has ended, and so takes its exit status away from the
        # event loop, which then says 255 where the kernel had said SIGXCPU.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
        self._writer.close()

    async def end(self) -> int:
        """Ends the process unless it has ended; its exit status, negative for a signal."""
        self.kill()
        return await self._process.wait()

    async def _send(self, message: dict[str, Any], payload: bytes = b"") -> None:
        try:
            for buffer in frame(message, payload):
                self._writer.write(buffer)
            await self._writer.drain()
        except ConnectionError as error:
            raise _Ended from error

    async def _receive(self, most_payload: int) -> tuple[dict[str, Any], bytes]:
        try:
            header_length, payload_length = lengths(await self._reader.readexactly(LENGTHS.size))
            if payload_length > most_payload:
                raise WireError("a payload longer than this task's answer")
            encoded = await self._reader.readexactly(header_length)
            return header(encoded), await self._reader.readexactly(payload_length)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise _Ended from error
