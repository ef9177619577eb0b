"""Each key is handled, by one worker at a time. A key that fails is handled again, after growing delays."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from media_operator.cluster.workqueue import FIRST_DELAY, LONGEST_DELAY, WorkQueue
from tests.unit.operator.virtual_time import now, run

Handle = Callable[[str], Awaitable[float | None]]


async def working(queue: WorkQueue[str], handle: Handle, *, seconds: float, workers: int = 2) -> None:
    """Lets the queue work for `seconds`."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await queue.run(handle, workers)


class Diary:
    """A handler that records each key and its time; each takes `takes` seconds."""

    def __init__(self, takes: float = 1.0) -> None:
        self.began: list[tuple[str, float]] = []
        self._takes = takes

    async def handle(self, key: str) -> None:
        self.began.append((key, now()))
        await asyncio.sleep(self._takes)


def test_a_key_that_waits_is_not_queued_twice() -> None:
    async def main() -> list[tuple[str, float]]:
        queue: WorkQueue[str] = WorkQueue(clock=now)
        for key in ("a", "b", "a", "a"):
            queue.add(key)
        assert len(queue) == 2
        diary = Diary()
        await working(queue, diary.handle, seconds=10, workers=1)
        return diary.began

    assert run(main()) == [("a", 0), ("b", 1)]


def test_a_key_that_is_added_while_it_is_handled_is_handled_once_more_and_never_twice_at_once() -> None:
    async def main() -> list[tuple[str, float]]:
        queue: WorkQueue[str] = WorkQueue(clock=now)
        diary = Diary(takes=3)
        queue.add("a")
        for at in (1, 2):
            asyncio.get_running_loop().call_at(at, queue.add, "a")
        await working(queue, diary.handle, seconds=20, workers=5)
        return diary.began

    assert run(main()) == [("a", 0), ("a", 3)]


def test_no_key_is_handled_twice_at_once_whoever_adds_it_however_often() -> None:
    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue(clock=now)
        under_way: Counter[str] = Counter()
        handled: Counter[str] = Counter()

        async def handle(key: str) -> float:
            under_way[key] += 1
            assert under_way[key] == 1
            queue.add(key)
            await asyncio.sleep(0.7)
            under_way[key] -= 1
            handled[key] += 1
            return 0.1

        for key in "abc":
            queue.add(key)
            queue.add_after(key, 0.3)
        await working(queue, handle, seconds=70, workers=8)
        assert all(handled[key] > 90 for key in "abc")

    run(main())


def test_as_many_are_handled_at_once_as_there_are_workers() -> None:
    async def main() -> list[tuple[str, float]]:
        queue: WorkQueue[str] = WorkQueue(clock=now)
        for key in "abcde":
            queue.add(key)
        diary = Diary()
        await working(queue, diary.handle, seconds=10, workers=2)
        return diary.began

    assert run(main()) == [("a", 0), ("b", 0), ("c", 1), ("d", 1), ("e", 2)]


def test_a_busy_key_keeps_nobody_else_waiting() -> None:
    """A key that is added again and again goes to the end each time, behind keys that became due meanwhile."""

    async def main() -> list[str]:
        queue: WorkQueue[str] = WorkQueue(clock=now)
        order = []

        async def handle(key: str) -> None:
            order.append(key)
            if key == "busy":
                queue.add("busy")
            await asyncio.sleep(1)

        queue.add("busy")
        for key in "abc":
            queue.add(key)
        queue.add_after("later", 2.5)
        await working(queue, handle, seconds=8.5, workers=1)
        return order

    assert run(main()) == ["busy", "a", "b", "c", "busy", "later", "busy", "busy", "busy"]


def test_what_became_due_while_all_were_busy_goes_before_what_was_added_after_that() -> None:
    async def main() -> list[tuple[str, float]]:
        queue: WorkQueue[str] = WorkQueue(clock=now)
        diary = Diary(takes=10)
        queue.add("long")
        queue.add_after("first", 2)
        asyncio.get_running_loop().call_at(5, queue.add, "second")
        await working(queue, diary.handle, seconds=25, workers=1)
        return diary.began

    assert run(main()) == [("long", 0), ("first", 10), ("second", 20)]


# --- failures --------------------------------------------------------------------------------------------------------


def test_back_off_grows_up_to_its_limit_and_begins_anew_after_a_success() -> None:
    async def main() -> list[float]:
        queue: WorkQueue[str] = WorkQueue(clock=now, quiet=(ValueError,))
        came: list[float] = []

        async def handle(_: str) -> float | None:
            came.append(now())
            if len(came) == 12:
                return 1000
            raise ValueError("not yet")

        queue.add("a")
        await working(queue, handle, seconds=1500)
        return came

    came = run(main())
    waits = [later - before for before, later in itertools.pairwise(came)]
    for number, wait in enumerate(waits[:11]):
        most = min(LONGEST_DELAY, FIRST_DELAY * 2**number)
        assert most / 2 <= wait <= most + 1e-6
    assert waits[11] == pytest.approx(1000)
    assert FIRST_DELAY / 2 <= waits[12] <= FIRST_DELAY


def test_what_is_added_does_not_wait_for_the_end_of_its_back_off() -> None:
    async def main() -> list[float]:
        queue: WorkQueue[str] = WorkQueue(clock=now)
        came = []

        async def handle(_: str) -> None:
            came.append(now())
            raise RuntimeError("a bug")

        queue.add("a")
        asyncio.get_running_loop().call_at(0.1, queue.add, "a")
        await working(queue, handle, seconds=0.2)
        return came

    assert run(main()) == [0, pytest.approx(0.1)]


def test_the_failure_of_one_key_delays_no_other() -> None:
    async def main() -> Counter[str]:
        queue: WorkQueue[str] = WorkQueue(clock=now)
        came: Counter[str] = Counter()

        async def handle(key: str) -> float:
            came[key] += 1
            if key == "bad":
                raise RuntimeError("a bug")
            return 1

        queue.add("bad")
        queue.add("good")
        await working(queue, handle, seconds=100.5, workers=1)
        return came

    came = run(main())
    assert came["good"] == 101
    assert came["bad"] < 12


def test_something_cancelled_below_a_handler_is_a_failure_like_another() -> None:
    """A connection pool that closes cancels those that wait for it. That ends no worker, and loses no key."""

    async def main() -> int:
        queue: WorkQueue[str] = WorkQueue(clock=now)
        came = 0

        async def handle(_: str) -> None:
            nonlocal came
            came += 1
            if came <= 3:
                cancelled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                cancelled.cancel()
                await cancelled

        queue.add("a")
        await working(queue, handle, seconds=60, workers=1)
        return came

    assert run(main()) == 4


# --- later -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("waits", [(5, 3), (3, 5), (3, 3, 5)])
def test_of_several_later_looks_the_earliest_counts_and_only_that(waits: tuple[int, ...]) -> None:
    async def main() -> list[tuple[str, float]]:
        queue: WorkQueue[str] = WorkQueue(clock=now)
        diary = Diary()
        for seconds in waits:
            queue.add_after("a", seconds)
        assert len(queue) == 0
        await working(queue, diary.handle, seconds=20)
        return diary.began

    assert run(main()) == [("a", 3)]


def test_a_look_now_takes_the_place_of_one_later() -> None:
    async def main() -> list[tuple[str, float]]:
        queue: WorkQueue[str] = WorkQueue(clock=now)
        diary = Diary()
        queue.add_after("a", 5)
        queue.add("a")
        queue.add_after("a", 2)
        await working(queue, diary.handle, seconds=20)
        return diary.began

    assert run(main()) == [("a", 0)]


def test_what_a_handler_returns_is_when_it_looks_again() -> None:
    async def main() -> list[float]:
        queue: WorkQueue[str] = WorkQueue(clock=now)
        came = []

        async def handle(_: str) -> float | None:
            came.append(now())
            return 10 if len(came) < 3 else None

        queue.add("a")
        await working(queue, handle, seconds=100)
        return came

    assert run(main()) == [0, 10, 20]


def test_a_worker_that_waits_for_a_later_key_takes_one_that_comes_before() -> None:
    async def main() -> list[tuple[str, float]]:
        queue: WorkQueue[str] = WorkQueue(clock=now)
        diary = Diary()
        queue.add_after("late", 50)
        asyncio.get_running_loop().call_at(1, queue.add_after, "soon", 2)
        asyncio.get_running_loop().call_at(2, queue.add, "now")
        await working(queue, diary.handle, seconds=60, workers=1)
        return diary.began

    assert run(main()) == [("now", 2), ("soon", 3), ("late", 50)]


# --- how long somebody waits -----------------------------------------------------------------------------------------


def test_oldest_age_is_that_of_whoever_waits_or_is_worked_on_longest() -> None:
    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue(clock=now)
        assert queue.oldest_age() == 0
        queue.add_after("later", 3)
        await asyncio.sleep(2)
        queue.add("a")
        await asyncio.sleep(2)
        assert queue.oldest_age() == 2  # "a"; "later" is due for one second
        worker = asyncio.create_task(queue.run(Diary(takes=5).handle, 1))
        await asyncio.sleep(4)
        assert queue.oldest_age() == 6  # "a", which is being worked on
        await asyncio.sleep(2)
        assert queue.oldest_age() == 7  # "later"
        await asyncio.sleep(5)
        assert queue.oldest_age() == 0
        worker.cancel()

    run(main())


def test_a_stuck_handler_is_seen_though_nothing_else_is_due() -> None:
    async def main() -> float:
        queue: WorkQueue[str] = WorkQueue(clock=now)
        queue.add_after("stuck", 10)
        worker = asyncio.create_task(queue.run(lambda _: asyncio.Event().wait(), 1))  # type: ignore[arg-type, return-value]
        await asyncio.sleep(700)
        worker.cancel()
        return queue.oldest_age()

    assert run(main()) == 690


# --- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 0.5, 1, 1.5])
def test_cancelled_it_leaves_nothing_behind(at: float) -> None:
    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue(clock=now)
        ended: list[str] = []

        async def handle(key: str) -> None:
            try:
                await asyncio.sleep(1)
            finally:
                ended.append(key)

        for key in "abc":
            queue.add(key)
        worker = asyncio.create_task(queue.run(handle, 2))
        await asyncio.sleep(at)
        worker.cancel()
        with pytest.raises(asyncio.CancelledError):
            await worker
        assert asyncio.all_tasks() == {asyncio.current_task()}
        before = len(ended)
        left = len(queue)
        diary = Diary()
        await working(queue, diary.handle, seconds=10)  # the same queue, worked on again
        assert len(diary.began) == left == 3 - before

    run(main())


def test_it_is_cancelled_even_as_something_comes_in() -> None:
    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue(clock=now)
        queue.add_after("later", 1000)
        worker = asyncio.create_task(queue.run(Diary().handle, 1))
        await asyncio.sleep(1)
        queue.add("a")
        worker.cancel()
        async with asyncio.timeout(1):
            await asyncio.wait([worker])
        assert worker.cancelled()

    run(main())


def test_a_bug_is_logged_with_its_traceback_and_the_expected_in_one_line(caplog: Any) -> None:
    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue(clock=now, quiet=(ValueError,))

        async def handle(key: str) -> None:
            raise ValueError("is away") if key == "quiet" else KeyError("oops")

        queue.add("quiet")
        queue.add("bug")
        await working(queue, handle, seconds=0.1)

    import structlog.testing

    with structlog.testing.capture_logs() as logs:
        run(main())
    assert [(each["event"], each["key"]) for each in logs] == [("again_later", "quiet"), ("handling_failed", "bug")]
    assert logs[0]["reason"] == "is away"
    assert isinstance(logs[1]["exc_info"], KeyError)
