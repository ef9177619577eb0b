"""The decoding children: what they read, what they answer, and what they cannot do."""

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import psutil
import pytest
import structlog

from media_core.decoding import BytesSource, DecodingFailed, ImageFacts, MediaFacts, Thumbnail
from media_core.decoding import children as children_module
from media_core.decoding import pool as pool_module
from media_core.decoding.children import Zygote
from media_core.decoding.pool import ChildLimits, DecodingPool
from media_core.decoding.wire import LENGTHS, LONGEST_PAYLOAD, WireError, header, lengths
from media_core.errors import Unavailable
from tests.fixtures import media
from tests.integration.examination.decoding_processes import Processes

PICTURE = media.photo(64, 48)
PITCHES = range(300, 1_300, 100)


class Watched(BytesSource):
    """A source that records its reads, and lets a test act during one."""

    def __init__(self, data: bytes, on_read: Callable[[], Awaitable[None]] | None = None) -> None:
        super().__init__(data)
        self.ranges: list[tuple[int, int]] = []
        self._on_read = on_read

    @property
    def bytes_read(self) -> int:
        return sum(length for _, length in self.ranges)

    async def read(self, start: int, length: int) -> bytes:
        self.ranges.append((start, length))
        if self._on_read is not None:
            await self._on_read()
        return await super().read(start, length)


@pytest.fixture
def processes() -> Processes:
    return Processes()


@pytest.fixture
async def pool(processes: Processes) -> AsyncIterator[DecodingPool]:
    """A pool with one child, for one test, which may break it."""
    async with DecodingPool(processes=1, limits=ChildLimits(cpu_seconds=1, wall_seconds=600)) as pool:
        await assert_it_still_works(pool)
        yield pool


def note(what: Callable[[], None]) -> Callable[[], Awaitable[None]]:
    async def act() -> None:
        what()

    return act


class Slow(Watched):
    """A source that answers when it is told to."""

    def __init__(self) -> None:
        super().__init__(PICTURE, self._wait)
        self.asked, self.answer = asyncio.Event(), asyncio.Event()

    async def _wait(self) -> None:
        self.asked.set()
        await self.answer.wait()


async def assert_it_still_works(pool: DecodingPool) -> None:
    assert await pool.run("inspect_image", BytesSource(PICTURE)) == ImageFacts(64, 48, "JPEG", False)


# A task's failure does not affect others


async def test_a_child_that_dies_fails_its_task_and_nobody_elses(pool: DecodingPool, processes: Processes) -> None:
    doomed = processes.child

    async def kill() -> None:
        doomed.kill()

    with pytest.raises(DecodingFailed) as failed:
        await pool.run("thumbnail", Watched(PICTURE, kill))
    assert failed.value.code == "crashed"
    await assert_it_still_works(pool)
    assert processes.child.pid != doomed.pid


async def test_a_child_that_hangs_is_ended_by_the_clock(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    async with DecodingPool(processes=1) as pool:
        await assert_it_still_works(pool)
        sleeper = processes.child

        async def suspend() -> None:
            sleeper.suspend()

        monkeypatch.setattr(pool, "_limits", ChildLimits(wall_seconds=0.5))
        with pytest.raises(DecodingFailed) as failed:
            await pool.run("thumbnail", Watched(PICTURE, suspend))
        assert failed.value.code == "timeout"
        monkeypatch.undo()
        await assert_it_still_works(pool)


async def test_a_picture_that_costs_endless_cpu_is_ended_by_the_kernel(pool: DecodingPool) -> None:
    endless = media.endless_jpeg(side=7_000, scans=5_000)
    assert len(endless) < 100_000
    with pytest.raises(DecodingFailed) as failed:
        await pool.run("thumbnail", BytesSource(endless))
    assert failed.value.code == "timeout"
    assert "CPU" in failed.value.detail
    await assert_it_still_works(pool)


async def test_a_picture_that_needs_too_much_memory_is_refused() -> None:
    async with DecodingPool(processes=1, limits=ChildLimits(memory_bytes=64 << 20)) as pool:
        with pytest.raises(DecodingFailed) as failed:
            await pool.run("thumbnail", BytesSource(media.png_bomb(6_000, 6_000)))
        assert failed.value.code == "memory"
        await assert_it_still_works(pool)


async def test_a_cancelled_request_leaves_no_answer_for_the_next_one(pool: DecodingPool) -> None:
    slow = Slow()
    request = asyncio.create_task(pool.run("thumbnail", slow))
    await slow.asked.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    await assert_it_still_works(pool)


async def test_many_cancelled_requests_leave_a_working_pool(pool: DecodingPool) -> None:
    requests = [asyncio.create_task(pool.run("thumbnail", BytesSource(PICTURE))) for _ in range(20)]
    for index, request in enumerate(requests):
        await asyncio.sleep(0)
        if index % 3 == 0:
            request.cancel()
    answers = await asyncio.gather(*requests, return_exceptions=True)
    assert {type(answer) for answer in answers} <= {Thumbnail, asyncio.CancelledError}
    await assert_it_still_works(pool)


async def test_a_source_that_is_away_fails_as_itself(pool: DecodingPool) -> None:
    async def away() -> None:
        raise Unavailable("object store", "no answer")

    with pytest.raises(Unavailable):
        await pool.run("thumbnail", Watched(PICTURE, away))
    await assert_it_still_works(pool)


async def test_an_object_shorter_than_recorded_is_corrupt(pool: DecodingPool) -> None:
    source = BytesSource(PICTURE)
    source.size += 5_000_000
    with pytest.raises(DecodingFailed) as failed:
        await pool.run("thumbnail", source)
    assert failed.value.code == "corrupt"
    await assert_it_still_works(pool)


async def test_damaged_bytes_leave_the_child_warm(pool: DecodingPool, processes: Processes) -> None:
    child = processes.child
    for damaged in (PICTURE[:200], b"no picture at all", b"\x89PNG\r\n\x1a\n" + bytes(100), b""):
        with pytest.raises(DecodingFailed) as failed:
            await pool.run("thumbnail", BytesSource(damaged))
        assert failed.value.code in ("corrupt", "unsupported")
    assert processes.child.pid == child.pid


async def test_a_child_is_replaced_after_a_number_of_tasks(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "TASKS_PER_CHILD", 3)
    served_by = []
    async with DecodingPool(processes=1) as pool:
        for _ in range(6):
            source = Watched(PICTURE, note(lambda: served_by.append(processes.child.pid)))
            await pool.run("inspect_image", source)
    assert len(set(served_by[:3])) == len(set(served_by[3:])) == 1
    assert served_by[2] != served_by[3]


async def test_more_tasks_than_children_wait_their_turn(processes: Processes) -> None:
    sizes = range(40, 100)
    at_once = []
    async with DecodingPool(processes=2) as pool:
        facts = await asyncio.gather(
            *(
                pool.run(
                    "inspect_image",
                    Watched(media.photo(size, 30), note(lambda: at_once.append(len(processes.children)))),
                )
                for size in sizes
            )
        )
        assert [fact.width for fact in facts] == list(sizes)
        assert max(at_once) == 2
        assert len(processes.zygotes) == 1


async def test_no_more_children_than_allowed_even_while_they_die(processes: Processes) -> None:
    at_once = []

    async def kill_one() -> None:
        at_once.append(len(processes.children))
        processes.children[0].kill()

    async with DecodingPool(processes=2) as pool:
        answers = await asyncio.gather(
            *(pool.run("thumbnail", Watched(PICTURE, kill_one)) for _ in range(10)), return_exceptions=True
        )
        assert {type(answer) for answer in answers} <= {Thumbnail, DecodingFailed}
        assert max(at_once) <= 2
        await assert_it_still_works(pool)


async def test_an_answer_above_the_cap_is_never_asked_for(pool: DecodingPool) -> None:
    with pytest.raises(ValueError, match="longer than"):
        await pool.run("audio_window", BytesSource(PICTURE), start=0.0, seconds=3_000.0)


# A child is not trusted


@pytest.mark.parametrize(
    "lie",
    [
        lambda: ImageFacts(1 << 40, 1, "JPEG", False),
        lambda: ImageFacts("64", 48, "JPEG", False),  # type: ignore[arg-type]
        lambda: ImageFacts(True, 48, "JPEG", False),
        lambda: MediaFacts(float("nan"), None, None, True, False),
        lambda: MediaFacts(-1.0, None, None, True, False),
        lambda: MediaFacts(1.0, None, None, 1, False),  # type: ignore[arg-type]
        lambda: Thumbnail(b"<html>", 1, 1, 1, 1),
    ],
)
def test_facts_that_cannot_be_are_refused(lie: Callable[[], object]) -> None:
    with pytest.raises(ValueError):
        lie()


def test_frames_have_length_caps_and_plain_headers() -> None:
    with pytest.raises(WireError):
        lengths(LENGTHS.pack(10, LONGEST_PAYLOAD + 1))
    with pytest.raises(WireError):
        lengths(LENGTHS.pack(1 << 20, 0))
    for encoded in (b"\x80\x04N.", b"[1]", b"[" * 5_000):
        with pytest.raises(WireError):
            header(encoded)


# A child can do nothing but decode


def test_a_confined_process_can_only_compute_and_talk() -> None:
    program = """
import os, socket, sys, ctypes, threading, _posixsubprocess
from media_core.decoding.confinement import confine
link = socket.socket(fileno=0)
missing = confine(parent=os.getppid(), memory_bytes=256 << 20)
def attempt(deed):
    try:
        deed()
    except (OSError, MemoryError, RuntimeError) as error:
        return type(error).__name__
    return "allowed"
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    if getattr(libc, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)
deeds = {
    "open": lambda: open("/etc/hostname"),
    "environ": lambda: os.open(f"/proc/{os.getppid()}/environ", os.O_RDONLY),
    "listdir": lambda: os.listdir("/"),
    "write": lambda: open("/tmp/decoded", "w"),
    "unlink": lambda: os.unlink("/tmp/decoded"),
    "socket": lambda: socket.socket(),
    "fork": lambda: os.fork() or os._exit(0),
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "kill": lambda: os.kill(os.getppid(), 0),
    "ptrace": lambda: call("ptrace", 16, os.getppid(), 0, 0),
    "limits": lambda: call("prlimit", os.getppid(), 7, 0, 0),
    "memory": lambda: bytearray(512 << 20),
}
results = {name: attempt(deed) for name, deed in deeds.items()}
thread = threading.Thread(target=lambda: results.update(thread="ran"))
thread.start(); thread.join()
link.sendall(repr((missing, results)).encode())
"""
    missing, results = eval(_said_by(program))  # noqa: S307 - our own program's repr
    assert missing == []
    assert results.pop("thread") == "ran"
    assert set(results.values()) <= {"PermissionError", "OSError", "MemoryError"}, results


async def test_a_child_holds_no_secret_and_no_way_out(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDIA_S3_SECRET_ACCESS_KEY", "do-not-leak")
    async with DecodingPool(processes=2) as pool:
        await two_at_once(pool)
        assert len(processes.children) == 2  # the second one was forked by a zygote that held a leash already
        for child in processes.children:
            folder = Path(f"/proc/{child.pid}")
            lines = (folder / "status").read_text().splitlines()
            status = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
            assert (status["Seccomp"], status["NoNewPrivs"], status["Threads"]) == ("2", "1", "1")
            assert [entry.name for entry in (folder / "fd").iterdir()] == ["0"]
            assert set(child.environ()) <= set(children_module.ENVIRONMENT) | {"LC_CTYPE"}
            if os.geteuid() == 0:
                assert child.uids().real not in (0, 65_534)
                networks = {os.readlink(f"/proc/{pid}/ns/net") for pid in (os.getpid(), child.pid)}  # noqa: PTH115
                assert len(networks) == 2
        wires = {os.readlink(f"/proc/{child.pid}/fd/0") for child in processes.children}  # noqa: PTH115
        assert len(wires) == 2


async def two_at_once(pool: DecodingPool) -> None:
    """Runs two tasks, neither of which ends before the other has begun."""
    both = asyncio.Barrier(2)

    async def meet() -> None:
        await both.wait()

    await asyncio.gather(*(pool.run("inspect_image", Watched(PICTURE, meet)) for _ in range(2)))


def test_a_confined_process_may_lower_and_lift_its_memory_but_never_above_its_limit() -> None:
    program = """
import os, socket
from media_core.decoding.confinement import allow_memory, confine
link = socket.socket(fileno=0)
allow_memory(0)  # not confined yet
confine(parent=os.getppid(), memory_bytes=256 << 20)
def granted(mebibytes):
    try:
        return bool(bytearray(mebibytes << 20))
    except MemoryError:
        return False
results = [granted(64)]
for allowed in (128 << 20, 32 << 20, None, 1 << 40, 32 << 20):
    allow_memory(allowed)
    results += [granted(64), granted(512)]
link.sendall(repr(results).encode())
"""
    assert eval(_said_by(program)) == [True, True, False, False, False, True, False, True, False, False, False]  # noqa: S307


def _said_by(program: str) -> str:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = subprocess.Popen([sys.executable, "-c", program], stdin=theirs.fileno())
        theirs.close()
        answer = b"".join(iter(lambda: ours.recv(65_536), b"")).decode()
        child.wait()
    return answer


async def test_a_missing_layer_is_said_once(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = children_module.Child.become_ready

    async def ready_without(child: children_module.Child) -> None:
        await ready(child)
        child.missing = ["seccomp"]

    monkeypatch.setattr(children_module.Child, "become_ready", ready_without)
    with structlog.testing.capture_logs() as logs:
        async with DecodingPool(processes=2) as pool:
            assert logs == []
            await two_at_once(pool)
            assert len(processes.children) == 2
    assert [(line["event"], line["missing"]) for line in logs] == [("decoding_less_confined", "seccomp")]


def test_zygote_and_children_end_with_their_parent() -> None:
    program = """
import asyncio
from media_core.decoding import BytesSource
from media_core.decoding.pool import DecodingPool
class Endless(BytesSource):
    async def read(self, start, length):
        print("asked", flush=True)
        await asyncio.Event().wait()
async def main():
    async with DecodingPool(processes=2) as pool:
        await asyncio.gather(*(pool.run("thumbnail", Endless(bytes(1_000))) for _ in range(2)))
asyncio.run(main())
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert [parent.stdout.readline() for _ in range(2)] == [b"asked\n"] * 2
    orphans = psutil.Process(parent.pid).children(recursive=True)
    assert len(orphans) == 3
    parent.kill()
    parent.wait()
    parent.stdout.close()
    _, alive = psutil.wait_procs(orphans, timeout=60)
    assert alive == []


async def test_a_pool_leaves_no_process_behind(processes: Processes) -> None:
    async with DecodingPool(processes=2) as pool:
        await two_at_once(pool)
        slow = Slow()
        request = asyncio.create_task(pool.run("thumbnail", slow))
        await slow.asked.wait()
        assert (len(processes.zygotes), len(processes.children)) == (1, 2)
    assert (processes.zygotes, processes.children) == ([], [])
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    with pytest.raises(DecodingFailed):
        await pool.run("thumbnail", BytesSource(PICTURE))
    assert processes.zygotes == []


# Processes end when they are not needed


def test_the_parent_loads_no_decoder() -> None:
    program = """
import asyncio, sys
from media_core.decoding import BytesSource
from media_core.decoding.pool import DecodingPool
async def main():
    async with DecodingPool() as pool:
        await pool.warm()
asyncio.run(main())
print(sorted({"PIL", "av", "pillow_heif", "numpy"} & set(sys.modules)))
"""
    assert subprocess.check_output([sys.executable, "-c", program]) == b"[]\n"


def test_a_child_has_no_readers_of_formats_that_it_refuses() -> None:
    code = """
from media_core.decoding import images
from PIL import Image

images.warm_up()
print(*sorted(Image.OPEN.keys() - images.FORMATS))
"""
    printed = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["ICO", "JXL"]  # of which it reads the bytes itself


async def test_an_open_pool_is_nothing_until_its_first_task(processes: Processes) -> None:
    async with DecodingPool(processes=2) as pool:
        assert (processes.zygotes, processes.children) == ([], [])
        await assert_it_still_works(pool)
        assert (len(processes.zygotes), len(processes.children)) == (1, 1)


async def test_a_pool_that_was_warmed_has_its_zygote_and_no_child(processes: Processes) -> None:
    async with DecodingPool(processes=2, zygote_idle_seconds=0.3) as pool:
        await pool.warm()
        assert (len(processes.zygotes), len(processes.children)) == (1, 0)
        await processes.become(zygotes=0, children=0)
        await asyncio.gather(pool.warm(), pool.warm())
        assert len(processes.zygotes) == 1


async def test_a_start_that_its_caller_gave_up_is_there_for_the_next_task(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine an upload waits for less time than a start takes."""
    begun, go_on, starts = asyncio.Event(), asyncio.Event(), 0
    start = Zygote.start

    async def slowly() -> Zygote:
        nonlocal starts
        starts += 1
        begun.set()
        await go_on.wait()
        return await start()

    monkeypatch.setattr(Zygote, "start", slowly)
    async with DecodingPool(processes=2) as pool:
        upload = asyncio.create_task(pool.run("thumbnail", BytesSource(PICTURE)))
        await begun.wait()
        upload.cancel()
        await asyncio.wait([upload])
        go_on.set()
        await assert_it_still_works(pool)
        assert (starts, len(processes.zygotes)) == (1, 1)

        processes.zygotes[0].kill()
        await processes.become(zygotes=0, children=0)
        go_on.clear()
        begun.clear()
        given_up = asyncio.create_task(pool.warm())
        await begun.wait()
        given_up.cancel()
    assert (starts, processes.zygotes) == (2, [])  # the end of the pool is that of a start, too


async def test_what_has_nothing_to_do_ends_and_comes_back_when_needed(processes: Processes) -> None:
    async with DecodingPool(processes=2, child_idle_seconds=1.0, zygote_idle_seconds=2.0) as pool:
        for _ in range(2):
            await two_at_once(pool)
            assert (len(processes.zygotes), len(processes.children)) == (1, 2)
            await processes.become(zygotes=1, children=0)
            await processes.become(zygotes=0, children=0)


async def test_of_two_children_the_one_that_is_not_needed_ends(processes: Processes) -> None:
    async with DecodingPool(processes=2, child_idle_seconds=0.5) as pool:
        await two_at_once(pool)
        async with asyncio.timeout(60):
            while len(processes.children) != 1:
                await asyncio.sleep(0.1)
                await assert_it_still_works(pool)


async def test_a_child_at_work_outlasts_the_clocks(processes: Processes) -> None:
    async def linger() -> None:
        await asyncio.sleep(0.5)

    async with DecodingPool(processes=1, child_idle_seconds=0.1, zygote_idle_seconds=0.1) as pool:
        for _ in range(2):
            await pool.run("thumbnail", Watched(PICTURE, linger))
        assert len(processes.zygotes) == 1


# A zygote that dies


async def test_a_zygote_that_is_killed_takes_its_children_and_their_tasks_with_it(processes: Processes) -> None:
    async def kill() -> None:
        processes.zygotes[0].kill()
        await processes.become(zygotes=0, children=0)

    async with DecodingPool(processes=2) as pool:
        await two_at_once(pool)
        with pytest.raises(DecodingFailed) as failed:
            await pool.run("thumbnail", Watched(PICTURE, kill))
        assert failed.value.code == "crashed"
        await two_at_once(pool)
        assert (len(processes.zygotes), len(processes.children)) == (1, 2)


async def test_a_child_that_crashes_leaves_nobody_with_its_address_layout(processes: Processes) -> None:
    async with DecodingPool(processes=2) as pool:
        slow = Slow()
        other = asyncio.create_task(pool.run("thumbnail", slow))
        await slow.asked.wait()
        (first,), others_child = processes.zygotes, processes.child

        async def crash() -> None:
            (child,) = (child for child in processes.children if child != others_child)
            child.send_signal(signal.SIGSEGV)

        with pytest.raises(DecodingFailed):
            await pool.run("thumbnail", Watched(PICTURE, crash))
        await assert_it_still_works(pool)
        assert sorted(child.ppid() == first.pid for child in processes.children) == [False, True]
        slow.answer.set()
        assert isinstance(await other, Thumbnail)
        await processes.become(zygotes=1, children=1)
        assert first not in processes.zygotes


async def test_a_child_that_hangs_leaves_nobody_with_its_address_layout(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with DecodingPool(processes=2) as pool:
        await two_at_once(pool)
        first = processes.zygotes

        async def hang() -> None:
            for child in processes.children:
                child.suspend()

        monkeypatch.setattr(pool, "_limits", ChildLimits(wall_seconds=1))
        with pytest.raises(DecodingFailed):
            await pool.run("thumbnail", Watched(PICTURE, hang))
        monkeypatch.undo()
        await processes.become(zygotes=0, children=0)
        await assert_it_still_works(pool)
        assert processes.zygotes != first


def wait_for_the_end_of(processes: list[psutil.Process]) -> None:
    """Waits without the event loop, so that the pool cannot notice the end before its next task."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            while process.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.01)


async def test_a_zygote_that_is_killed_between_tasks_is_not_missed(processes: Processes) -> None:
    async with DecodingPool(processes=2) as pool:
        await two_at_once(pool)
        for _ in range(3):
            gone = [*processes.zygotes, *processes.children]
            assert len(gone) == 3
            gone[0].kill()
            wait_for_the_end_of(gone)
            await two_at_once(pool)


async def test_children_that_are_killed_at_rest_are_not_missed(processes: Processes) -> None:
    async with DecodingPool(processes=2) as pool:
        await two_at_once(pool)
        gone = processes.children
        for child in gone:
            child.kill()
        wait_for_the_end_of(gone)
        await two_at_once(pool)
        await processes.become(zygotes=1, children=2)


async def test_a_zygote_that_hangs_is_replaced(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    start = Zygote.start

    async def patiently() -> Zygote:
        monkeypatch.setattr(children_module, "READY_SECONDS", 60.0)
        return await start()

    async with DecodingPool(processes=1) as pool:
        await pool.warm()
        (hung,) = processes.zygotes
        hung.suspend()
        monkeypatch.setattr(children_module, "READY_SECONDS", 0.5)
        monkeypatch.setattr(Zygote, "start", patiently)
        await assert_it_still_works(pool)
        assert hung not in processes.zygotes


def test_the_apis_event_loop_serves_as_well() -> None:
    program = """
import asyncio, sys, uvloop
from media_core.decoding import BytesSource
from media_core.decoding.pool import DecodingPool
from tests.integration.examination.decoding_processes import Processes
async def main():
    processes, source = Processes(), BytesSource(sys.stdin.buffer.read())
    async with DecodingPool(processes=2, child_idle_seconds=0.3, zygote_idle_seconds=0.3) as pool:
        for _ in range(3):
            await asyncio.gather(*(pool.run("inspect_image", source) for _ in range(10)))
            processes.zygotes[0].kill()
            await processes.become(zygotes=0, children=0)
        await pool.run("inspect_image", source)
        await processes.become(zygotes=0, children=0)
        await pool.run("inspect_image", source)
    assert not processes.zygotes
uvloop.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], input=PICTURE, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


async def test_decoders_that_cannot_be_loaded_fail_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    async with DecodingPool(processes=1) as pool:
        for executable in ("/bin/false", "/nowhere/python"):
            monkeypatch.setattr(sys, "executable", executable)
            with pytest.raises(DecodingFailed) as failed:
                await pool.run("inspect_image", BytesSource(PICTURE))
            assert failed.value.code == "crashed"
        monkeypatch.undo()
        await assert_it_still_works(pool)


# Probing

RECORDINGS = {
    "m4a": lambda: media.recording(PITCHES, "ipod", "aac", rate=44_100),
    "mp3": lambda: media.recording(PITCHES, "mp3", "libmp3lame", rate=44_100),
    "mp3 without its Xing header": lambda: media.recording(
        PITCHES, "mp3", "libmp3lame", rate=44_100, write_xing="0", id3v2_version="0"
    ),
    "opus": lambda: media.recording(PITCHES, "ogg", "libopus", rate=48_000),
    "wav": lambda: media.recording(PITCHES, "wav", "pcm_s16le"),
    "flac": lambda: media.recording(PITCHES, "flac", "flac"),
    "aac": lambda: media.recording(PITCHES, "adts", "aac", rate=44_100),
    "webm": lambda: media.recording(PITCHES, "webm", "libopus", rate=48_000),
    "amr": lambda: media.recording(PITCHES, "amr", "libopencore_amrnb", rate=8_000),
    "mp4": lambda: media.film(10, size=(64, 48)),
}


def without_duration(webm: bytes) -> bytes:
    """A recording as browsers make it: its duration element is voided (ids 0x4489 and 0xEC)."""
    at = webm.index(b"\x44\x89\x88")
    return webm[:at] + b"\xec\x89" + bytes(9) + webm[at + 11 :]


@pytest.mark.parametrize("name", RECORDINGS)
async def test_a_recordings_headers_say_what_and_how_long(decoding_pool: DecodingPool, name: str) -> None:
    facts: MediaFacts = await decoding_pool.run("probe", BytesSource(RECORDINGS[name]()))
    assert facts.has_audio
    assert facts.has_video == (name == "mp4")
    assert (facts.width, facts.height) == ((64, 48) if name == "mp4" else (None, None))
    assert facts.duration == pytest.approx(10, abs=0.25)


@pytest.mark.parametrize("degrees", [90, 180, 270])
async def test_a_film_held_sideways_is_measured_as_it_is_shown(decoding_pool: DecodingPool, degrees: int) -> None:
    film = media.turned(media.film(1, size=(320, 240)), degrees)
    facts: MediaFacts = await decoding_pool.run("probe", BytesSource(film))
    assert (facts.width, facts.height) == ((320, 240) if degrees == 180 else (240, 320))


async def test_a_missing_duration_is_counted_from_the_packets(decoding_pool: DecodingPool) -> None:
    facts: MediaFacts = await decoding_pool.run("probe", BytesSource(without_duration(RECORDINGS["webm"]())))
    assert facts.duration == pytest.approx(10, abs=0.1)


async def test_a_wav_that_was_streamed_is_as_long_as_its_bytes(decoding_pool: DecodingPool) -> None:
    wav = RECORDINGS["wav"]()
    at = wav.index(b"data") + 4
    wav = wav[:4] + b"\xff\xff\xff\xff" + wav[8:at] + b"\xff\xff\xff\xff" + wav[at + 4 :]
    facts: MediaFacts = await decoding_pool.run("probe", BytesSource(wav))
    assert facts.duration == pytest.approx(10, abs=0.1)


async def test_a_lying_duration_does_not_bend_the_window(decoding_pool: DecodingPool) -> None:
    m4a = RECORDINGS["m4a"]()
    at = m4a.index(b"mvhd") + 4
    timescale = struct.unpack(">I", m4a[at + 12 : at + 16])[0]
    for claimed in (1, 86_400):
        lying = m4a[: at + 16] + struct.pack(">I", claimed * timescale) + m4a[at + 20 :]
        window = await decoding_pool.run("audio_window", BytesSource(lying), start=8.0, seconds=60.0)
        assert pitches(window) == [1_100, 1_200]


async def test_cover_art_is_not_a_film(decoding_pool: DecodingPool) -> None:
    art = media.encoded(media.quadrants(60, 60), "JPEG")
    picture = b"APIC" + struct.pack(">IH", len(art) + 14, 0) + b"\0image/jpeg\0\3\0" + art
    size = len(picture)
    synchsafe = bytes((size >> shift) & 0x7F for shift in (21, 14, 7, 0))
    mp3 = b"ID3\x03\0\0" + synchsafe + picture + RECORDINGS["mp3 without its Xing header"]()
    facts: MediaFacts = await decoding_pool.run("probe", BytesSource(mp3))
    assert (facts.has_audio, facts.has_video, facts.width) == (True, False, None)
    with pytest.raises(DecodingFailed) as failed:
        await decoding_pool.run("video_frame", BytesSource(mp3))
    assert failed.value.code == "unsupported"


@pytest.mark.parametrize("name", ["picture", "text", "zip", "nothing", "cut film"])
async def test_what_is_no_recording_is_refused(decoding_pool: DecodingPool, name: str) -> None:
    data = {
        "picture": PICTURE,
        "text": b"hello " * 1_000,
        "zip": b"PK\x03\x04" + bytes(2_000),
        "nothing": b"",
        "cut film": media.film(2)[:5_000],
    }[name]
    with pytest.raises(DecodingFailed) as failed:
        await decoding_pool.run("probe", BytesSource(data))
    assert failed.value.code in ("unsupported", "corrupt")


async def test_no_container_can_reach_for_another_file(decoding_pool: DecodingPool) -> None:
    reached = asyncio.Event()

    async def record(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        writer.close()

    server = await asyncio.start_server(record, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/x.ts"
    dash = (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period><AdaptationSet>'
        f'<Representation id="1" mimeType="video/mp4"><BaseURL>{url}</BaseURL></Representation>'
        "</AdaptationSet></Period></MPD>"
    )
    for container in (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{url}\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile '{url}'\n",
        "ffconcat version 1.0\nfile /etc/passwd\n",
        f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=control:{url}\n",
        dash,
        f"RTSPtext{url}",
    ):
        for task in ("probe", "video_frame"):
            with pytest.raises(DecodingFailed) as failed:
                await decoding_pool.run(task, BytesSource(container.encode()))
            assert failed.value.code in ("unsupported", "corrupt")
    # A track whose samples are said to lie elsewhere (ISO 14496-12, 8.7.2): read as its own bytes or refused.
    film = media.film(1).replace(b"url \0\0\0\1", b"url \0\0\0\0")
    with contextlib.suppress(DecodingFailed):
        await decoding_pool.run("video_frame", BytesSource(film))
    server.close()
    assert not reached.is_set()


# Windows of sound


def pitches(pcm: bytes, block: int = 16_000) -> list[int]:
    """The pitch of each block by its zero crossings, to the nearest 100 Hz; 0 where it is silent."""
    samples = array("h", pcm)
    found = []
    for start in range(0, len(samples) - block // 2, block):
        part = samples[start + block // 10 : start + block - block // 10]
        crossings = sum(1 for a, b in itertools.pairwise(part) if a < 0 <= b)
        loud = max(part) > 1_000
        found.append(round(crossings * 16_000 / len(part) / 100) * 100 if loud else 0)
    return found


@pytest.mark.parametrize("name", RECORDINGS)
async def test_a_window_is_exactly_the_sound_at_its_place(decoding_pool: DecodingPool, name: str) -> None:
    source = BytesSource(RECORDINGS[name]())
    whole = list(PITCHES)
    assert pitches(await decoding_pool.run("audio_window", source, start=0.0, seconds=3.0)) == whole[:3]
    assert pitches(await decoding_pool.run("audio_window", source, start=6.0, seconds=2.0)) == whole[6:8]
    ending = await decoding_pool.run("audio_window", source, start=8.0, seconds=30.0)
    assert pitches(ending) == whole[8:]
    assert len(ending) == pytest.approx(2 * 32_000, abs=0.25 * 32_000)
    # The pitch changes at second 5: 50 ms blocks on either side of it differ.
    change = await decoding_pool.run("audio_window", source, start=4.9, seconds=0.2)
    assert len(change) == 0.2 * 32_000
    assert pitches(change, block=1_600) == [700, 800]
    assert await decoding_pool.run("audio_window", source, start=60.0, seconds=5.0) == b""


async def test_windows_join_without_a_seam(decoding_pool: DecodingPool) -> None:
    source = BytesSource(RECORDINGS["wav"]())
    parts = [await decoding_pool.run("audio_window", source, start=at / 2, seconds=0.5) for at in range(20)]
    assert b"".join(parts) == media.tone(PITCHES)


async def test_a_pause_in_the_timestamps_is_silence(decoding_pool: DecodingPool) -> None:
    recording = media.recording_with_pause(before=[500, 600], pause=3, after=[700])
    whole = await decoding_pool.run("audio_window", BytesSource(recording), start=0.0, seconds=10.0)
    assert pitches(whole) == [500, 600, 0, 0, 0, 700]
    after = await decoding_pool.run("audio_window", BytesSource(recording), start=4.0, seconds=10.0)
    assert pitches(after) == [0, 700]


async def test_long_silence_is_read_in_flat_memory(pool: DecodingPool, processes: Processes) -> None:
    hours = media.long_silence(2)
    facts: MediaFacts = await pool.run("probe", BytesSource(hours))
    assert facts.duration == pytest.approx(7_200, abs=1)
    child = processes.child
    await pool.run("audio_window", BytesSource(hours), start=0.0, seconds=30.0)
    before = child.memory_info().rss
    source = Watched(hours)
    for start in (600.0, 3_600.0, 7_100.0):
        window = array("h", await pool.run("audio_window", source, start=start, seconds=30.0))
        assert len(window) == 30 * 16_000
        assert max(window) < 10
    assert source.bytes_read <= 3 * len(hours)
    assert processes.child.pid == child.pid
    assert child.memory_info().rss - before < 8 << 20


async def test_a_film_without_sound_has_no_window(decoding_pool: DecodingPool) -> None:
    with pytest.raises(DecodingFailed) as failed:
        await decoding_pool.run("audio_window", BytesSource(media.film(1, sound=False)), start=0.0, seconds=1.0)
    assert failed.value.code == "unsupported"


async def test_a_damaged_stretch_does_not_cost_the_rest(decoding_pool: DecodingPool) -> None:
    mp3 = bytearray(RECORDINGS["mp3"]())
    middle = len(mp3) // 2
    mp3[middle : middle + 2_000] = os.urandom(2_000)
    whole = pitches(await decoding_pool.run("audio_window", BytesSource(bytes(mp3)), start=0.0, seconds=10.0))
    assert whole[:4] == list(PITCHES)[:4]
    assert list(PITCHES)[-1] in whole
