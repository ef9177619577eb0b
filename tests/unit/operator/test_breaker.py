"""During an outage there is one call now and then, not one for each of a thousand tenants."""

import asyncio
import itertools
import random

import pytest

from media_core.errors import Refused, Unavailable
from media_operator.backends.breaker import LONGEST_DELAY, TOLERATED, Breaker, RequestRefused
from tests.unit.operator.virtual_time import now, run


class Dependency:
    """`calls`: when it was asked. Takes `takes` seconds to answer, or to fail while `away`."""

    def __init__(self, *, away: bool = True, takes: float = 0.0) -> None:
        self.away = away
        self.takes = takes
        self.calls: list[float] = []

    async def ask(self) -> str:
        self.calls.append(now())
        await asyncio.sleep(self.takes)
        if self.away:
            raise Unavailable("S3", "connection refused")
        return "answer"


async def fails(breaker: Breaker, dependency: Dependency) -> None:
    with pytest.raises(Unavailable):
        await breaker.call(dependency.ask)


async def opened(dependency: Dependency) -> Breaker:
    breaker = Breaker("store", clock=now)
    for _ in range(TOLERATED + 1):
        await fails(breaker, dependency)
    assert breaker.open
    return breaker


def test_what_is_asked_is_answered() -> None:
    async def main() -> None:
        assert await Breaker("store", clock=now).call(Dependency(away=False).ask) == "answer"

    run(main())


def test_what_one_tenant_is_refused_keeps_nobody_else_waiting() -> None:
    async def refuse() -> str:
        raise RequestRefused("S3", "bucket theirs belongs to another account")

    async def main() -> None:
        breaker = Breaker("store", clock=now)
        for _ in range(10):
            with pytest.raises(RequestRefused):
                await breaker.call(refuse)
        assert not breaker.open
        assert await breaker.call(Dependency(away=False).ask) == "answer"

    run(main())


def test_one_broken_connection_is_no_outage() -> None:
    async def main() -> None:
        breaker, dependency = Breaker("store", clock=now), Dependency()
        for _ in range(5):
            dependency.away = True
            await fails(breaker, dependency)
            dependency.away = False
            assert await breaker.call(dependency.ask) == "answer"

    run(main())


def test_while_open_calls_fail_at_once_with_the_reason_and_nobody_is_asked() -> None:
    async def main() -> None:
        dependency = Dependency()
        breaker = await opened(dependency)
        asked = len(dependency.calls)
        for _ in range(1000):
            with pytest.raises(Unavailable, match="connection refused") as raised:
                await breaker.call(dependency.ask)
            assert raised.value.detail == "connection refused"
        assert len(dependency.calls) == asked

    run(main())


def test_tries_come_later_and_later_and_at_least_once_a_minute() -> None:
    async def main() -> list[float]:
        dependency = Dependency()
        breaker = await opened(dependency)
        dependency.calls = [now()]
        while now() < 600:
            await asyncio.sleep(0.02)
            await fails(breaker, dependency)
        return dependency.calls

    random.seed(1)
    calls = run(main())
    waits = [later - before for before, later in itertools.pairwise(calls)]
    for number, wait in enumerate(waits):
        most = min(LONGEST_DELAY, 2.0**number)
        assert 0.7 * most <= wait <= most + 0.02
    assert len(waits) > 12


def test_one_call_is_let_through_however_long_it_takes() -> None:
    async def main() -> None:
        dependency = Dependency()
        breaker = await opened(dependency)
        dependency.takes = 100
        await asyncio.sleep(2)
        trying = asyncio.create_task(fails(breaker, dependency))
        await asyncio.sleep(50)
        asked = len(dependency.calls)
        await fails(breaker, dependency)
        assert len(dependency.calls) == asked
        await trying

    run(main())


def test_a_try_that_is_cancelled_leaves_the_next_one_to_somebody_else() -> None:
    async def main() -> None:
        dependency = Dependency()
        breaker = await opened(dependency)
        dependency.takes, dependency.away = 100, False
        await asyncio.sleep(2)
        trying = asyncio.create_task(breaker.call(dependency.ask))
        await asyncio.sleep(1)
        trying.cancel()
        await asyncio.wait([trying])
        assert await breaker.call(dependency.ask) == "answer"

    run(main())


def test_all_calls_that_were_under_way_when_it_went_away_are_one_outage() -> None:
    """Otherwise eight workers that fail together would make the first wait a minute long."""

    async def main() -> None:
        breaker, dependency = Breaker("store", clock=now), Dependency(takes=5)
        await asyncio.gather(*(fails(breaker, dependency) for _ in range(8)))
        dependency.away = False
        await asyncio.sleep(1)
        assert await breaker.call(dependency.ask) == "answer"

    run(main())


def test_when_it_answers_again_everybody_is_told_once() -> None:
    async def main() -> None:
        dependency = Dependency()
        breaker = await opened(dependency)
        told: list[float] = []
        breaker.on_close(lambda: told.append(now()))
        dependency.away = False
        await asyncio.sleep(2)
        for _ in range(3):
            await breaker.call(dependency.ask)
        assert told == [2]
        assert not breaker.open

    run(main())


def test_after_an_outage_the_next_one_begins_with_the_shortest_wait() -> None:
    async def main() -> None:
        dependency = Dependency()
        breaker = await opened(dependency)
        while now() < 300:
            await asyncio.sleep(1)
            await fails(breaker, dependency)
        dependency.away = False
        await asyncio.sleep(LONGEST_DELAY)
        await breaker.call(dependency.ask)
        dependency.away = True
        for _ in range(TOLERATED + 1):
            await fails(breaker, dependency)
        dependency.away = False
        await asyncio.sleep(1)
        assert await breaker.call(dependency.ask) == "answer"

    run(main())


def test_a_refusal_is_an_answer() -> None:
    """An error of another kind shows that the dependency is there."""

    async def refuse() -> None:
        raise Refused("not_owned", "This bucket is somebody else's.")

    async def main() -> None:
        dependency = Dependency()
        breaker = await opened(dependency)
        await asyncio.sleep(2)
        with pytest.raises(Refused):
            await breaker.call(refuse)
        assert not breaker.open
        await fails(breaker, dependency)
        assert not breaker.open

    run(main())
