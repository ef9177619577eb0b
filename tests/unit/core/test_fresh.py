"""Concurrent callers share one read."""

import asyncio

import pytest

from media_core import fresh
from media_core.fresh import Fresh


class Source:
    """Answers with the number of its reads, once it is allowed to."""

    def __init__(self) -> None:
        self.reads = 0
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.error: Exception | None = None

    async def read(self) -> int:
        self.reads += 1
        self.asked.set()
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return self.reads


async def test_all_who_ask_meanwhile_get_the_one_answer() -> None:
    source = Source()
    one = Fresh(source.read)
    asking = [asyncio.create_task(one.current()) for _ in range(5)]
    await source.asked.wait()
    source.may_answer.set()
    assert await asyncio.gather(*asking) == [1] * 5
    assert await one.current() == 1


async def test_all_who_ask_meanwhile_get_the_one_error_and_the_next_one_asks_again() -> None:
    source = Source()
    one = Fresh(source.read)
    source.error = ConnectionError()
    asking = [asyncio.create_task(one.current()) for _ in range(5)]
    await source.asked.wait()
    source.may_answer.set()
    got = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(each) for each in got] == [ConnectionError] * 5
    assert source.reads == 1
    source.error = None
    assert await one.current() == 2


async def test_whoever_goes_away_takes_the_answer_from_nobody() -> None:
    source = Source()
    one = Fresh(source.read)
    first, second = asyncio.create_task(one.current()), asyncio.create_task(one.current())
    await source.asked.wait()
    first.cancel()
    source.may_answer.set()
    assert await second == 1
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_an_old_or_forgotten_answer_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source()
    source.may_answer.set()
    one = Fresh(source.read)
    assert [await one.current(), await one.current()] == [1, 1]
    one.forget()
    assert await one.current() == 2
    monkeypatch.setattr(fresh, "FRESH_SECONDS", -1.0)
    assert await one.current() == 3
