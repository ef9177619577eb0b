"""The pool of decoding children.

Nothing runs until there is something to decode. The first task starts a zygote, a process that has loaded the decoders
and never reads a source. It forks a confined child when a task finds none at rest. A child that rests for a while ends,
and so does a zygote without children: an api that decodes nothing uses no memory for it.

A task has a child to itself. A task that fails for any reason but its source's bytes (a limit, a crash, a protocol
error, a cancelled request, a source that cannot be read) ends its child, so that no later task finds its remains. After
a failure because of the bytes the child is used again. A child serves a limited number of tasks.

Children of one zygote have the same address layout. A child that crashed or hung may have been probing it, so its
zygote forks no more, and ends when the tasks of its other children have ended.
"""

from __future__ import annotations

import asyncio
import math
import signal
from dataclasses import dataclass
from typing import Any, Self

import structlog

from media_core.decoding.children import Child, Contract, Ended, Order, Zygote
from media_core.decoding.results import FAILURES_OF_THE_SOURCE, DecodingFailed, ImageFacts, MediaFacts, Thumbnail
from media_core.decoding.sources import Source
from media_core.decoding.wire import BLOCK, LONGEST_PAYLOAD, WireError

_log = structlog.stdlib.get_logger("media.decoding")

TASKS_PER_CHILD = 200
SAMPLE_BYTES_PER_SECOND = 32_000


@dataclass(frozen=True)
class ChildLimits:
    """The limits of one task."""

    memory_bytes: int = 640 << 20
    """Address space in addition to a new child's own, which is about 210 MiB. 35 of them are resident, most of those
    shared with the zygote."""

    cpu_seconds: int = 15
    """Whole seconds of CPU; after them the kernel ends the child."""

    wall_seconds: float = 30.0
    """Seconds from the moment that a child is free. Reading the source is included."""


def _whole(size: int) -> int:
    return 2 * size + 16 * BLOCK


_TASKS = {
    "inspect_image": Contract(lambda facts, _: ImageFacts(**facts), _whole, lambda _: 0),
    "thumbnail": Contract(lambda facts, data: Thumbnail(data, **facts), _whole, lambda _: 8 << 20),
    "resize_thumbnail": Contract(lambda _, data: data, _whole, lambda _: 8 << 20),
    "page": Contract(lambda facts, data: Thumbnail(data, **facts), _whole, lambda _: 8 << 20),
    "probe": Contract(lambda facts, _: MediaFacts.of(facts), lambda _: 160 * BLOCK, lambda _: 0),
    "video_frame": Contract(lambda facts, data: Thumbnail(data, **facts), lambda _: 96 * BLOCK, lambda _: 8 << 20),
    "audio_window": Contract(
        lambda _, data: data,
        _whole,
        lambda a: (math.ceil(a["seconds"] * SAMPLE_BYTES_PER_SECOND) + 2) * (2 if a.get("layout") == "stereo" else 1),
    ),
}


class _NotBegun(DecodingFailed):
    """The child ended before it had read a byte, so neither source nor task is at fault."""


class DecodingPool:
    """At most `processes` children at once, each with one task at a time; further tasks wait their turn.

    A child ends after `child_idle_seconds` without a task, the zygote after `zygote_idle_seconds` without a child. The
    pool belongs to one event loop and its thread: the kernel ends the zygote with that thread, and the children with
    the zygote.
    """

    def __init__(
        self,
        processes: int = 2,
        limits: ChildLimits | None = None,
        *,
        child_idle_seconds: float = 60.0,
        zygote_idle_seconds: float = 300.0,
    ) -> None:
        self._limits = limits or ChildLimits()
        self._child_idle_seconds = child_idle_seconds
        self._zygote_idle_seconds = zygote_idle_seconds
        self._turn = asyncio.Semaphore(processes)
        self._forking = asyncio.Lock()
        self._zygotes: list[Zygote] = []
        """The last one forks; the others have children left, or are about to end."""

        self._starting: asyncio.Task[Zygote] | None = None
        self._zygote_clock: asyncio.TimerHandle | None = None
        self._children: set[Child] = set()
        self._resting: dict[Child, asyncio.TimerHandle] = {}
        """Children without a task, the last used at the end, each with the timer that ends it."""

        self._missing: set[str] = set()
        self._open = False

    async def __aenter__(self) -> Self:
        """Starts no process: see `warm`."""
        self._open = True
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._open = False
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait([self._starting])
        async with self._forking:
            for child in list(self._children):
                self._let_go(child)
            if self._zygote_clock is not None:
                self._zygote_clock.cancel()
            await asyncio.gather(*(zygote.end() for zygote in self._zygotes))

    async def warm(self) -> None:
        """Starts the zygote, so that the first task does not wait for it. Raises DecodingFailed("crashed")."""
        async with self._forking:
            await self._warm_zygote()

    async def run(self, task: str, source: Source, **arguments: Any) -> Any:
        """Carries out one task. Its names, arguments and results are those of the functions in `child.TASKS`.

        Raises DecodingFailed, the errors of `source.read`, and ValueError if the answer could exceed 64 MiB.
        """
        contract = _TASKS[task]
        if contract.most_answered(arguments) > LONGEST_PAYLOAD:
            raise ValueError(f"{task}: the answer would be longer than {LONGEST_PAYLOAD} bytes")
        order = Order(task, arguments, source, contract)
        async with self._turn:
            try:
                return await self._carry_out(order, self._rested() or await self._fork())
            except _NotBegun:  # the child had died at rest, or with its zygote
                return await self._carry_out(order, await self._fork())

    async def _carry_out(self, order: Order, child: Child) -> Any:
        reusable = False
        try:
            result = await self._perform(child, order)
            reusable = True
        except DecodingFailed as failed:
            reusable = failed.code in FAILURES_OF_THE_SOURCE
            if failed.code in ("crashed", "timeout"):
                self._retire(child.zygote)
            raise
        finally:
            if reusable and child.tasks < TASKS_PER_CHILD and self._open and not child.zygote.retired:
                self._rest(child)
            else:
                self._let_go(child)
        return result

    async def _perform(self, child: Child, order: Order) -> Any:
        try:
            async with asyncio.timeout(self._limits.wall_seconds) as clock:
                return await child.perform(order, self._limits.cpu_seconds)
        except TimeoutError as error:
            if not clock.expired():
                raise
            raise DecodingFailed("timeout", f"not decoded within {self._limits.wall_seconds:g} s") from error
        except (Ended, WireError) as error:
            if await child.end() == -signal.SIGXCPU:
                detail = f"not decoded within {self._limits.cpu_seconds} s of CPU"
                raise DecodingFailed("timeout", detail) from error
            failure = DecodingFailed if child.heard else _NotBegun
            raise failure("crashed", "the decoding process ended without an answer") from error

    def _rest(self, child: Child) -> None:
        clock = asyncio.get_running_loop().call_later(self._child_idle_seconds, self._let_go, child)
        self._resting[child] = clock

    def _rested(self) -> Child | None:
        """The child that has rested for the shortest time, so that those not needed reach their idle limit."""
        if not self._resting:
            return None
        child, clock = self._resting.popitem()
        clock.cancel()
        return child

    def _let_go(self, child: Child) -> None:
        if clock := self._resting.pop(child, None):
            clock.cancel()
        child.kill()
        self._children.discard(child)
        if self._open:
            self._dismiss_retired()
            self._restart_zygote_clock()

    async def _fork(self) -> Child:
        """A new child, ready for a task. Raises DecodingFailed("crashed")."""
        try:
            async with self._forking:
                zygote = await self._warm_zygote()
                child = await zygote.fork(self._limits.memory_bytes)
                self._children.add(child)
        except Ended as error:
            raise _NotBegun("crashed", "a decoding process did not become ready; see its messages") from error
        finally:
            self._dismiss_retired()
        for layer in sorted(set(child.missing) - self._missing):
            _log.warning("decoding_less_confined", missing=layer)
        self._missing.update(child.missing)
        return child

    async def _warm_zygote(self) -> Zygote:
        if not self._open:
            raise DecodingFailed("crashed", "the decoding pool is closed")
        self._restart_zygote_clock()
        if self._zygotes and self._zygotes[-1].forks:
            return self._zygotes[-1]
        if self._starting is None or self._starting.done():
            self._starting = asyncio.create_task(self._start_zygote())
            self._starting.add_done_callback(_seen)
        # On a busy machine a start takes longer than an upload waits for its picture. The next one finds it further on.
        return await asyncio.shield(self._starting)

    async def _start_zygote(self) -> Zygote:
        try:
            zygote = await Zygote.start()
        except Ended as error:
            raise DecodingFailed("crashed", "no decoding process could be started; see its messages") from error
        self._zygotes = [*(earlier for earlier in self._zygotes if not earlier.gone), zygote]
        self._restart_zygote_clock()
        return zygote

    def _restart_zygote_clock(self) -> None:
        if self._zygote_clock is not None:
            self._zygote_clock.cancel()
        loop = asyncio.get_running_loop()
        self._zygote_clock = loop.call_later(self._zygote_idle_seconds, self._retire_idle_zygote)

    def _retire_idle_zygote(self) -> None:
        if self._children or self._forking.locked():
            self._restart_zygote_clock()
        elif self._zygotes:
            self._retire(self._zygotes[-1])
            self._dismiss_retired()

    def _retire(self, zygote: Zygote) -> None:
        zygote.retired = True
        for child in [child for child in self._resting if child.zygote is zygote]:
            self._let_go(child)

    def _dismiss_retired(self) -> None:
        """Ends the retired zygotes without children, but not while a fork is under way."""
        in_use = {child.zygote for child in self._children}
        for zygote in self._zygotes:
            if zygote.retired and zygote not in in_use and not self._forking.locked():
                zygote.dismiss()


def _seen(starting: asyncio.Task[Zygote]) -> None:
    """Retrieves the error. If all callers have given up, asyncio would log an error that nobody retrieved."""
    if not starting.cancelled():
        starting.exception()
