"""How many workers start, for which tenants, and when: the decisions, and the dispatcher with a fleet in memory."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media_core.errors import Unavailable
from media_core.jobs.depth import Depth
from media_core.jobs.kinds import KINDS
from media_operator.jobs import dispatch
from media_operator.jobs.dispatch import (
    Demand,
    FleetDispatcher,
    Launch,
    Running,
    TenantQueue,
    allot,
    job_name,
    reserve,
    share,
    workers_to_start,
)


def start(ready: int = 0, leased: int = 0, running: int | None = 0, batch: int = 20, limit: int = 4) -> int:
    return workers_to_start(Depth(ready=ready, leased=leased), running, batch=batch, limit=limit)


def test_one_job_is_worth_one_worker() -> None:
    assert start(ready=1) == 1


@pytest.mark.parametrize(("ready", "workers"), [(20, 1), (21, 2), (40, 2), (41, 3), (1_000_000, 4)])
def test_a_batch_is_worth_one_worker_up_to_the_limit(ready: int, workers: int) -> None:
    assert start(ready=ready) == workers


def test_what_already_runs_is_not_started_again() -> None:
    assert start(ready=21, running=2) == 0
    assert start(ready=21, running=1) == 1


def test_more_running_than_wanted_starts_none() -> None:
    assert start(ready=1, running=9, limit=4) == 0


def test_an_empty_queue_starts_none_whatever_is_leased() -> None:
    assert start(ready=0, leased=3, running=3) == 0
    assert start(ready=0, leased=3, running=0) == 0


def test_a_long_recording_does_not_keep_the_next_one_waiting() -> None:
    assert start(ready=1, leased=1, running=1, batch=1, limit=2) == 1


def test_leases_of_workers_that_are_gone_call_for_nobody() -> None:
    assert start(ready=1, leased=5, running=0, batch=1, limit=4) == 1


def test_an_unknown_count_starts_none() -> None:
    assert start(ready=100, running=None) == 0


def test_a_limit_of_zero_starts_none() -> None:
    assert start(ready=100, limit=0) == 0


# --- whose turn it is ------------------------------------------------------------------------------------------------


def demand(tenant: str, count: int, kind: str = "scan", running: int = 0) -> Demand:
    return Demand(f"tenant_{tenant}", tenant, kind, "job-1", running, count)


def turns(launches: Sequence[Launch]) -> list[tuple[str, str]]:
    return [(launch.tenant_id, launch.kind) for launch in launches]


def test_slots_go_round() -> None:
    launches = allot([demand("a", 9), demand("b", 2), demand("c", 1)], {}, free=6, limit=10)
    assert turns(launches) == [("a", "scan"), ("b", "scan"), ("c", "scan"), ("a", "scan"), ("b", "scan")]


def test_who_has_the_fewest_workers_comes_first() -> None:
    launches = allot([demand("a", 9), demand("b", 9)], {"a": 2, "b": 0}, free=5, limit=10)
    assert turns(launches) == [("b", "scan"), ("b", "scan"), ("a", "scan")]


def test_the_kinds_of_one_tenant_take_turns() -> None:
    launches = allot([demand("a", 1, "thumbnail"), demand("a", 2, "transcribe"), demand("a", 2)], {}, free=7, limit=10)
    assert [kind for _, kind in turns(launches)] == ["scan", "transcribe", "thumbnail", "scan"]


DEMANDS = st.lists(
    st.tuples(st.sampled_from("abcdefg"), st.sampled_from(KINDS), st.integers(1, 6), st.integers(0, 4)),
    max_size=15,
    unique_by=lambda each: each[:2],
).map(lambda found: [demand(tenant, count, kind, running) for tenant, kind, count, running in found])
RUNNING = st.dictionaries(st.sampled_from("abcdefg"), st.integers(0, 5))
FREE = st.integers(-3, 40)
LIMIT = st.integers(1, 60)


@given(DEMANDS, RUNNING, FREE, LIMIT)
def test_no_more_than_the_free_slots_are_given(
    wanted: list[Demand], running: dict[str, int], free: int, limit: int
) -> None:
    assert len(allot(wanted, running, free, limit)) <= max(0, free)


@given(DEMANDS, RUNNING, FREE, LIMIT)
def test_while_a_slot_is_free_whoever_wants_a_worker_has_one(
    wanted: list[Demand], running: dict[str, int], free: int, limit: int
) -> None:
    launches = allot(wanted, running, free, limit)
    has = Counter(running) + Counter(launch.tenant_id for launch in launches)
    assert len(launches) >= free or {each.tenant_id for each in wanted} <= has.keys()


@given(DEMANDS, RUNNING, FREE, LIMIT)
def test_who_has_a_worker_gets_no_further_one_of_the_reserve_nor_beyond_a_share(
    wanted: list[Demand], running: dict[str, int], free: int, limit: int
) -> None:
    has = Counter(running)
    for launch in allot(wanted, running, free, limit):
        has[launch.tenant_id] += 1
        free -= 1
        if has[launch.tenant_id] > 1:
            assert free >= reserve(limit)
            assert has[launch.tenant_id] <= share(limit)


@given(DEMANDS, RUNNING, FREE, LIMIT)
def test_slots_are_kept_only_from_who_has_about_as_many_as_are_free_or_a_share(
    wanted: list[Demand], running: dict[str, int], free: int, limit: int
) -> None:
    launches = allot(wanted, running, free, limit)
    got, asked, left = Counter(launch.tenant_id for launch in launches), Counter[str](), free - len(launches)
    for each in wanted:
        asked[each.tenant_id] += each.count
    for tenant in asked.keys() - {tenant for tenant, count in asked.items() if got[tenant] == count}:
        assert running.get(tenant, 0) + got[tenant] >= min(left - reserve(limit) + 1, share(limit))


@given(DEMANDS, RUNNING, FREE, LIMIT)
def test_nobody_gets_more_than_they_want_nor_a_name_twice(
    wanted: list[Demand], running: dict[str, int], free: int, limit: int
) -> None:
    launches = allot(wanted, running, free, limit)
    asked = Counter({(each.tenant_id, each.kind): each.count for each in wanted})
    assert Counter(turns(launches)) <= asked
    assert len({launch.name for launch in launches}) == len(launches)


@given(DEMANDS, FREE, LIMIT)
def test_nobody_gets_a_second_worker_before_everybody_has_the_first(
    wanted: list[Demand], free: int, limit: int
) -> None:
    launches = allot(wanted, {}, free, limit)
    got = Counter(launch.tenant_id for launch in launches)
    if any(count > 1 for count in got.values()):
        assert got.keys() == {each.tenant_id for each in wanted}


@given(DEMANDS, RUNNING, FREE, LIMIT, st.randoms())
def test_the_same_is_decided_whatever_the_order(
    wanted: list[Demand], running: dict[str, int], free: int, limit: int, random: Random
) -> None:
    shuffled = list(wanted)
    random.shuffle(shuffled)
    assert allot(shuffled, running, free, limit) == allot(wanted, running, free, limit)


def test_a_name_says_whose_and_what_and_fits_a_label() -> None:
    assert job_name("acme", "scan", "job-1", 0).startswith("mt-acme-scan-")
    assert all(len(job_name("a" * 40, kind, "job-1", 0)) <= 63 for kind in KINDS)


def test_a_name_is_the_same_for_the_same_head_and_slot_only() -> None:
    assert job_name("acme", "scan", "job-1", 0) == job_name("acme", "scan", "job-1", 0)
    others = [("acme", "scan", "job-2", 0), ("acme", "scan", "job-1", 1), ("acme", "thumbnail", "job-1", 0)]
    assert job_name("acme", "scan", "job-1", 0) not in {job_name(*each) for each in others}


# --- the dispatcher --------------------------------------------------------------------------------------------------


@dataclass
class Counted:
    """A fleet in memory: queues as they are set, workers by name."""

    queues: dict[str, dict[str, Depth] | None] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=lambda: {"scan": 4, "transcribe": 2, "thumbnail": 2})
    workers: dict[str, tuple[str, str]] = field(default_factory=dict)
    countable: bool = True
    readable: bool = True
    backing_off: set[tuple[str, str]] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    looked: asyncio.Queue[list[str]] = field(default_factory=asyncio.Queue)
    launched: asyncio.Queue[str] = field(default_factory=asyncio.Queue)

    def queue(self, schema: str, **ready: int) -> None:
        self.queues[schema] = {kind: Depth(ready=count, head=f"{schema}-1") for kind, count in ready.items()}

    def tenants(self) -> Mapping[str, TenantQueue]:
        return {schema: TenantQueue(schema.removeprefix("tenant_"), self.limits) for schema in self.queues}

    async def depths_of(self, schemas: Collection[str]) -> Mapping[str, Mapping[str, Depth] | None]:
        await asyncio.sleep(0)
        self.looked.put_nowait(list(schemas))
        if not self.readable:
            raise Unavailable("database", "PostgreSQL does not answer")
        return {schema: self.queues[schema] for schema in schemas}

    def running(self) -> Running | None:
        return Running(Counter(self.workers.values()), len(self.workers)) if self.countable else None

    def backs_off(self, schema: str, kind: str) -> bool:
        return (schema, kind) in self.backing_off

    async def launch(self, schema: str, kind: str, name: str) -> Literal["created", "exists", "no"]:
        await asyncio.sleep(0)
        if schema in self.broken:
            raise ConnectionResetError
        if schema in self.refused:
            return "no"
        if name in self.workers:
            return "exists"
        self.workers[name] = (schema, kind)
        self.launched.put_nowait(schema)
        return "created"

    def started(self) -> dict[tuple[str, str], int]:
        return dict(Counter(self.workers.values()))


async def look(fleet: Counted, *schemas: str, limit: int = 50) -> list[Launch]:
    return await FleetDispatcher(fleet, limit=limit).look(schemas or fleet.queues)


async def test_each_kind_gets_its_own_workers() -> None:
    fleet = Counted()
    fleet.queue("tenant_a", scan=30, transcribe=1)
    await look(fleet)
    assert fleet.started() == {("tenant_a", "scan"): 2, ("tenant_a", "transcribe"): 1}


async def test_only_who_was_asked_for_is_looked_at() -> None:
    fleet = Counted()
    for schema in ("tenant_a", "tenant_b", "tenant_c"):
        fleet.queue(schema, scan=1)
    await look(fleet, "tenant_b", "tenant_unknown")
    assert fleet.looked.get_nowait() == ["tenant_b"]
    assert fleet.started() == {("tenant_b", "scan"): 1}


async def test_two_looks_at_once_start_no_worker_twice() -> None:
    fleet = Counted()
    fleet.queue("tenant_a", scan=1)
    dispatcher = FleetDispatcher(fleet, limit=50)
    await asyncio.gather(*(dispatcher.look(["tenant_a"]) for _ in range(3)))
    assert len(fleet.workers) == 1


async def test_one_who_counts_wrong_comes_upon_the_same_names() -> None:
    fleet = Counted()
    fleet.queue("tenant_a", scan=30)
    await look(fleet)
    names = set(fleet.workers)
    fleet.running = lambda: Running({}, 0)  # type: ignore[method-assign]  a successor whose cache lags behind
    assert await look(fleet) == []
    assert set(fleet.workers) == names


async def test_an_unreadable_queue_starts_nothing_and_hides_no_other() -> None:
    fleet = Counted(queues={"tenant_a": None})
    fleet.queue("tenant_b", scan=1)
    await look(fleet)
    assert fleet.started() == {("tenant_b", "scan"): 1}


async def test_a_database_that_is_away_starts_nothing() -> None:
    fleet = Counted(readable=False)
    fleet.queue("tenant_a", scan=1)
    assert await look(fleet) == []


async def test_a_fleet_that_cannot_count_starts_nothing() -> None:
    fleet = Counted(countable=False)
    fleet.queue("tenant_a", scan=30)
    assert await look(fleet) == []


async def test_a_suspended_tenant_gets_no_workers() -> None:
    fleet = Counted(limits=dict.fromkeys(KINDS, 0))
    fleet.queue("tenant_a", scan=30, transcribe=3)
    assert await look(fleet) == []


async def test_a_kind_that_backs_off_waits_and_the_others_do_not() -> None:
    fleet = Counted(backing_off={("tenant_a", "scan")})
    fleet.queue("tenant_a", scan=1, thumbnail=1)
    await look(fleet)
    assert fleet.started() == {("tenant_a", "thumbnail"): 1}


@pytest.mark.parametrize("trouble", ["refused", "broken"])
async def test_the_slot_of_a_launch_that_failed_goes_to_another(trouble: str) -> None:
    fleet = Counted(**{trouble: {"tenant_a"}})  # type: ignore[arg-type]
    for schema in ("tenant_a", "tenant_b"):
        fleet.queue(schema, scan=80)
    await look(fleet, limit=5)
    assert fleet.started() == {("tenant_b", "scan"): 3}


async def test_workers_of_tenants_that_are_gone_take_slots_too() -> None:
    fleet = Counted(workers={"old": ("tenant_gone", "scan")})
    fleet.queue("tenant_a", scan=80)
    await look(fleet, limit=4)
    assert fleet.started()["tenant_a", "scan"] == 2


def hoarder(fleet: Counted, schema: str) -> None:
    """A tenant whose workers never end, and that takes all it can get."""
    fleet.limits = {"scan": 50, "transcribe": 50, "thumbnail": 2}
    fleet.queue(schema, scan=10_000, transcribe=10_000)


@pytest.mark.parametrize(("limit", "slots"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (50, 23)])
async def test_a_tenant_alone_gets_about_half_of_the_slots_and_at_least_one(limit: int, slots: int) -> None:
    fleet = Counted()
    hoarder(fleet, "tenant_a")
    for _ in range(3):
        await look(fleet, limit=limit)
    assert len(fleet.workers) == slots <= share(limit)


@pytest.mark.parametrize("limit", range(2, 61))
async def test_who_comes_after_as_many_hoarders_as_slots_are_reserved_has_a_worker_at_once(limit: int) -> None:
    fleet = Counted()
    for number in range(reserve(limit)):
        hoarder(fleet, f"tenant_{number}")
        await look(fleet, limit=limit)
    fleet.queue("tenant_new", scan=1)
    await look(fleet, limit=limit)
    assert fleet.started()["tenant_new", "scan"] == 1
    assert len(fleet.workers) <= limit


async def test_slots_that_come_free_fill_the_reserve_before_a_hoarder_has_more() -> None:
    fleet = Counted(workers={f"old-{number}": ("tenant_a", "scan") for number in range(50)})  # under another rule
    hoarder(fleet, "tenant_a")
    for number in range(27):
        del fleet.workers[f"old-{number}"]
        assert await look(fleet, limit=50) == []
    del fleet.workers["old-27"]
    assert len(await look(fleet, limit=50)) == 1


async def test_workers_that_never_came_up_leave_their_slots_to_others_only() -> None:
    fleet = Counted()
    hoarder(fleet, "tenant_a")
    fleet.running = lambda: Running(Counter(fleet.workers.values()), 0)  # type: ignore[method-assign]  none is up
    for _ in range(5):
        await look(fleet, limit=50)
    assert len(fleet.workers) == share(50)
    hoarder(fleet, "tenant_b")
    await look(fleet, limit=50)
    assert fleet.started().keys() > {("tenant_b", "scan"), ("tenant_b", "transcribe")}


async def test_depths_are_kept_for_metrics_until_they_are_unknown_or_the_tenant_is_gone() -> None:
    fleet = Counted()
    for schema in ("tenant_a", "tenant_b", "tenant_c"):
        fleet.queue(schema, scan=1)
    dispatcher = FleetDispatcher(fleet, limit=50)
    await dispatcher.look(fleet.queues)
    fleet.queues["tenant_a"] = None
    del fleet.queues["tenant_b"]
    await dispatcher.look(fleet.queues)
    assert list(dispatcher.depths) == ["tenant_c"]


# --- when it looks ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def dispatching(fleet: Counted, limit: int = 50) -> AsyncIterator[FleetDispatcher]:
    """A running dispatcher that has polled once; the next poll is seconds away."""
    dispatcher = FleetDispatcher(fleet, limit=limit)
    task = asyncio.create_task(dispatcher.run())
    try:
        async with asyncio.timeout(60):
            await fleet.looked.get()
            yield dispatcher
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_wake_up_is_answered_at_once_and_for_its_tenant_alone() -> None:
    fleet = Counted(queues={"tenant_a": {}, "tenant_b": {}})
    async with dispatching(fleet) as dispatcher:
        dispatcher.wake("tenant_b")
        assert await fleet.looked.get() == ["tenant_b"]
        dispatcher.wake()
        assert await fleet.looked.get() == ["tenant_a", "tenant_b"]


async def test_who_went_short_is_looked_at_when_any_job_ends() -> None:
    fleet = Counted(queues={"tenant_idle": {}})
    for schema in ("tenant_a", "tenant_b"):
        fleet.queue(schema, scan=1)
    async with dispatching(fleet, limit=1) as dispatcher:
        assert await fleet.launched.get() == "tenant_a"
        fleet.workers.clear()
        fleet.queue("tenant_a", scan=0)
        dispatcher.job_ended()
        assert await fleet.looked.get() == ["tenant_a", "tenant_b"]
        assert await fleet.launched.get() == "tenant_b"


async def test_all_are_polled_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "POLL_SECONDS", 0.01)
    fleet = Counted(queues={"tenant_a": {}})
    async with dispatching(fleet):
        for _ in range(3):
            assert await fleet.looked.get() == ["tenant_a"]


async def test_a_poll_that_takes_long_keeps_no_wake_up_waiting() -> None:
    class Slow(Counted):
        async def depths_of(self, schemas: Collection[str]) -> Mapping[str, Mapping[str, Depth] | None]:
            if len(schemas) > 1:
                self.looked.put_nowait(["slow"])
                await asyncio.Event().wait()
            return await super().depths_of(schemas)

    fleet = Slow(queues={"tenant_a": {}, "tenant_b": {}})
    async with dispatching(fleet) as dispatcher:
        dispatcher.wake("tenant_a")
        assert await fleet.looked.get() == ["tenant_a"]
