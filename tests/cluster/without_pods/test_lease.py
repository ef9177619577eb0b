"""On a real API server: at most one replica leads, and when it is gone another one does."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from media_operator.cluster import kinds
from media_operator.cluster.kinds import LEASE
from media_operator.cluster.kube import Kube
from media_operator.cluster.lease import Election, LeaseLost
from tests.cluster.control_plane.api import Api, seen
from tests.cluster.control_plane.fault_proxy import FaultProxy
from tests.cluster.control_plane.server import ControlPlane
from tests.stopwatch import Stopwatch

pytestmark = pytest.mark.control_plane

SECONDS = 3.0
PATIENT = 10.0
"""Seconds of a Lease that is not to be lost, though this process may stand still for some of them."""
Candidate = Callable[..., Election]


@pytest.fixture
async def client(control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kube]:
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))
    async with await Kube.connect() as client:
        yield client


@pytest.fixture
def candidate(client: Kube, namespace: str) -> Candidate:
    """Makes one, for the same Lease."""

    def make(identity: str, *, kube: Kube = client, seconds: float = SECONDS, **how: Any) -> Election:
        return Election(kube, namespace, "operator", identity, seconds, **how)

    return make


async def spec(api: Api, namespace: str) -> dict[str, Any]:
    return dict((await api.get(LEASE.path(namespace, "operator")))["spec"])


async def renewed(api: Api, namespace: str) -> dict[str, Any]:
    """The Lease, once it has been renewed from now on."""
    before = await spec(api, namespace)
    return await seen(
        api, LEASE.path(namespace, "operator"), lambda new: new["spec"]["renewTime"] > before["renewTime"]
    )


@contextlib.asynccontextmanager
async def holding(election: Election) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(election.hold())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_of_many_that_want_it_at_once_one_gets_it(candidate: Candidate, api: Api, namespace: str) -> None:
    tasks = {name: asyncio.create_task(candidate(name, seconds=60).acquire()) for name in "abcdefgh"}
    done, pending = await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_COMPLETED)
    # The Lease expires after a minute, since nobody renews it. Until then each of the others asks for it about once.
    more, pending = await asyncio.wait(pending, timeout=SECONDS * 0.6)
    assert len(done | more) == 1
    for task in pending:
        task.cancel()
    (winner,) = (name for name, task in tasks.items() if task in done)
    assert (await spec(api, namespace))["holderIdentity"] == winner


async def test_the_lease_bears_the_label_that_our_own_watch_selects(
    candidate: Candidate, api: Api, namespace: str
) -> None:
    """So that the operator's watches see each renewal."""
    await candidate("one").acquire()
    found = await api.get(LEASE.path(namespace), labelSelector=kinds.OURS)
    assert [each["metadata"]["name"] for each in found["items"]] == ["operator"]


async def test_whoever_holds_it_keeps_it(candidate: Candidate, api: Api, namespace: str) -> None:
    one, two = candidate("one", seconds=PATIENT), candidate("two", seconds=PATIENT)
    await one.acquire()
    first = await spec(api, namespace)
    async with holding(one) as hold:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(PATIENT + SECONDS):
                await two.acquire()
        assert not hold.done()
    last = await spec(api, namespace)
    assert last["holderIdentity"] == "one"
    assert last["renewTime"] > first["renewTime"]
    assert last["leaseTransitions"] == first["leaseTransitions"] == 0


async def test_when_the_leader_is_killed_another_has_it_within_15_seconds(
    candidate: Candidate, api: Api, namespace: str
) -> None:
    one, two = candidate("one", seconds=PATIENT), candidate("two", seconds=PATIENT)
    await one.acquire()
    waiting = asyncio.create_task(two.acquire())
    async with holding(one):
        before = time.monotonic()
        await renewed(api, namespace)
    killed = Stopwatch()
    await waiting
    assert time.monotonic() - before > PATIENT
    assert killed.seconds() < 15
    found = await spec(api, namespace)
    assert (found["holderIdentity"], found["leaseTransitions"]) == ("two", 1)


async def test_after_a_clean_release_another_has_it_at_once(candidate: Candidate, api: Api, namespace: str) -> None:
    one, two = candidate("one", seconds=60), candidate("two", seconds=60)
    await one.acquire()
    waiting = asyncio.create_task(two.acquire())
    async with holding(one):
        await asyncio.sleep(0.5)
    released = Stopwatch()
    await one.release()
    await waiting
    assert released.seconds() < 2
    assert (await spec(api, namespace))["leaseTransitions"] == 1


async def test_a_leader_that_was_paused_does_not_renew_after_it_was_replaced(
    candidate: Candidate, api: Api, namespace: str, control_plane: ControlPlane
) -> None:
    paused, two = candidate("paused"), candidate("two")
    await paused.acquire()
    await two.acquire()
    mark = control_plane.mark()
    with pytest.raises(LeaseLost, match="this process was not running"):
        await paused.hold()
    await paused.release()
    ours = [each for each in control_plane.writes("admin", since=mark) if namespace in each.uri and each.code < 300]
    assert ours == []
    assert (await spec(api, namespace))["holderIdentity"] == "two"


async def test_a_leader_that_was_replaced_while_its_clock_stood_still_notices(
    candidate: Candidate, api: Api, namespace: str
) -> None:
    """On a machine that was suspended no time has passed, so only the server can tell."""
    stopped = candidate("stopped", clock=lambda: 0.0)
    await stopped.acquire()
    await candidate("two").acquire()
    with pytest.raises(LeaseLost):
        await stopped.hold()
    assert (await spec(api, namespace))["holderIdentity"] == "two"


@pytest.mark.parametrize("renewed", ["1970-01-01T00:00:00.000000Z", "2999-01-01T00:00:00.000000Z"])
async def test_nobodys_wall_clock_counts(candidate: Candidate, api: Api, namespace: str, renewed: str) -> None:
    held = {"holderIdentity": "odd-clock", "leaseDurationSeconds": 3, "renewTime": renewed}
    await api.create(LEASE.path(namespace), {"metadata": {"name": "operator"}, "spec": held})
    began, stopwatch = time.monotonic(), Stopwatch()
    await candidate("one").acquire()
    assert time.monotonic() - began >= 3
    assert stopwatch.seconds() < 6


async def test_a_label_is_no_sign_of_life(candidate: Candidate, api: Api, namespace: str) -> None:
    await candidate("gone").acquire()
    stopwatch = Stopwatch()
    waiting = asyncio.create_task(candidate("one").acquire())
    number = 0
    while not waiting.done():
        number += 1
        await api.patch(LEASE.path(namespace, "operator"), {"metadata": {"labels": {"touched": str(number)}}})
        await asyncio.sleep(0.3)
        assert stopwatch.seconds() < SECONDS * 4


async def test_a_label_that_somebody_sets_costs_nobody_the_lease(
    candidate: Candidate, api: Api, namespace: str
) -> None:
    one = candidate("one", seconds=PATIENT)
    await one.acquire()
    async with holding(one) as hold:
        await api.patch(LEASE.path(namespace, "operator"), {"metadata": {"labels": {"touched": "yes"}}})
        found = await renewed(api, namespace)
        assert not hold.done()
    assert found["metadata"]["labels"] == {"touched": "yes", kinds.MANAGED_BY: kinds.MANAGER}


async def test_a_leader_that_cannot_renew_ends_before_another_may_begin(
    candidate: Candidate, faults: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(faults.kubeconfig))
    async with await Kube.connect() as cut_off:
        one, two = candidate("one", kube=cut_off), candidate("two")
        began = Stopwatch()
        await one.acquire()
        faults.answer(503, "leases")
        ended: dict[str, float] = {}

        async def lose() -> None:
            with pytest.raises(LeaseLost, match="not renewed in time"):
                await one.hold()
            ended["one"] = time.monotonic()
            assert began.seconds() < SECONDS

        async def win() -> None:
            await two.acquire()
            ended["two"] = time.monotonic()

        await asyncio.gather(lose(), win())
    assert ended["two"] > ended["one"]


async def test_one_failed_renewal_costs_nobody_the_lease(
    candidate: Candidate, faults: FaultProxy, api: Api, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(faults.kubeconfig))
    async with await Kube.connect() as faulty:
        one = candidate("one", kube=faulty, seconds=PATIENT)
        await one.acquire()
        failed = faults.answer(503, "PUT .*leases", times=2)
        async with holding(one) as hold:
            await renewed(api, namespace)
            assert failed.answered == 2
            assert not hold.done()


async def test_a_lease_that_was_deleted_is_lost(candidate: Candidate, api: Api, namespace: str) -> None:
    one = candidate("one")
    await one.acquire()
    await api.delete(LEASE.path(namespace, "operator"))
    with pytest.raises(LeaseLost):
        await one.hold()
