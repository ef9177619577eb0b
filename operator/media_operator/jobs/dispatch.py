"""From the queues to workers: how many to start, whose turn it is, and when to look.

Invariants:

- Unknown starts nothing. A queue that cannot be read, or a fleet that cannot count, is "unknown" and never "zero".
  Comparable systems started thousands of Jobs because they counted zero after a failed list.
- A worker is named after the job that it is for. So whoever sees the same queue again after a crash finds the same
  names.
- Under the cluster-wide limit no tenant gets a second worker before every tenant has a first.
- A worker may run for hours, so slots are kept for tenants that come later. The more workers a tenant has, the more
  slots have to be free for one more.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import math
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol

import psycopg
import structlog

from media_core.database import CHANNEL, CONNECTING, connection_arguments
from media_core.errors import Unavailable
from media_core.jobs.depth import Depth
from media_core.jobs.kinds import JOB_KINDS, KINDS
from media_operator.cluster.kinds import child_name

POLL_SECONDS = 10.0
"""How often all queues are looked at without a notification. No notification tells of a retry that falls due, and one
can be lost."""
LAUNCH_SECONDS = 10.0
"""A launch that takes longer counts as failed. Its name prevents that it is launched twice."""
LONGEST_RECONNECT = 10.0

_log = structlog.stdlib.get_logger("media.dispatch")


# --- decisions, pure -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TenantQueue:
    tenant_id: str
    limits: Mapping[str, int]
    """Kind -> most workers at a time."""


@dataclass(frozen=True)
class Demand:
    """`count` more workers of one kind for one tenant, beside `running` ones. `head`: id of the queue's first job."""

    schema: str
    tenant_id: str
    kind: str
    head: str
    running: int
    count: int


@dataclass(frozen=True)
class Launch:
    schema: str
    tenant_id: str
    kind: str
    name: str


def workers_to_start(depth: Depth, running: int | None, *, batch: int, limit: int) -> int:
    """`min(ceil(work / batch), limit) - running`, never negative; 0 while nothing is ready or `running` is unknown.

    The work is the ready jobs plus those that running workers have leased. With the ready jobs alone, one worker busy
    with a long recording would keep the next recording waiting although `limit` allows another worker.
    """
    if running is None or depth.ready == 0:
        return 0
    work = depth.ready + min(depth.leased, running)  # one lease a worker counts: dead workers have leases, too
    return max(0, min(math.ceil(work / batch), limit) - running)


def share(limit: int) -> int:
    """How many slots one tenant may hold: half of all, rounded up."""
    return math.ceil(limit / 2)


def reserve(limit: int) -> int:
    """How many slots are kept for tenants' first workers: a tenth of all, at least one."""
    return math.ceil(limit / 10)


def _may_have_another(running: int, free: int, limit: int) -> bool:
    """Whether a tenant with `running` workers may have one more. If not, no tenant with more workers may."""
    if running == 0:
        return free > 0
    return running < share(limit) and free >= running + reserve(limit)


def allot(wanted: Sequence[Demand], running_by_tenant: Mapping[str, int], free: int, limit: int) -> list[Launch]:
    """Gives out the `free` slots of `limit`, in order: each to the tenant with the fewest workers, ties by id.

    A tenant's first worker may take any free slot. A tenant with n workers gets one more only while n slots plus the
    `reserve` are free, and at most its `share`. So a tenant that is alone leaves about half of the slots free
    (dynamic threshold: Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2), 1998). With one or two slots in
    all, each tenant has one worker at a time. A tenant's kinds take turns, in the order of `KINDS`.
    """
    of_tenant: dict[str, list[Demand]] = {}
    for demand in wanted:
        of_tenant.setdefault(demand.tenant_id, []).append(demand)
    turns = {tenant: _turns(demands) for tenant, demands in of_tenant.items()}
    waiting = [(running_by_tenant.get(tenant, 0), tenant) for tenant in turns]
    heapq.heapify(waiting)
    launches: list[Launch] = []
    while waiting and _may_have_another(waiting[0][0], free - len(launches), limit):
        running, tenant = waiting[0]
        launch = next(turns[tenant], None)
        if launch is None:
            heapq.heappop(waiting)
            continue
        launches.append(launch)
        heapq.heapreplace(waiting, (running + 1, tenant))
    return launches


def _turns(demands: Sequence[Demand]) -> Iterator[Launch]:
    """One tenant's launches, its kinds by turns."""
    ordered = sorted(demands, key=lambda demand: KINDS.index(demand.kind))
    for turn in range(max(demand.count for demand in ordered)):
        for each in ordered:
            if turn < each.count:
                name = job_name(each.tenant_id, each.kind, each.head, each.running + turn)
                yield Launch(each.schema, each.tenant_id, each.kind, name)


def job_name(tenant_id: str, kind: str, head: str, slot: int) -> str:
    """The name of a worker: the same for the same head of the queue and the same `slot`. At most 63 characters.

    A worker that ends without having leased the head leaves its Job behind. The next worker of that name waits until
    the Job is removed.
    """
    digest = hashlib.sha256(f"{head}\n{slot}".encode()).hexdigest()
    return f"{child_name(tenant_id, kind)}-{digest[:8]}"


# --- looking ---------------------------------------------------------------------------------------------------------


class Running(NamedTuple):
    unfinished: Mapping[tuple[str, str], int]
    """(schema, kind) -> workers that run or are starting."""
    slots: int
    """Slots of the cluster-wide limit that are taken. A worker that does not start gives its slot back."""


class Fleet(Protocol):
    """All tenants' queues and workers. A schema stands for its tenant."""

    def tenants(self) -> Mapping[str, TenantQueue]:
        """Schema -> queue, of the tenants that may be served now."""

    async def depths_of(self, schemas: Collection[str]) -> Mapping[str, Mapping[str, Depth] | None]:
        """Schema -> kind -> depth; None: it cannot be read. Raises Unavailable when none can."""

    def running(self) -> Running | None:
        """Counts a launch at once; None: not known now."""

    def backs_off(self, schema: str, kind: str) -> bool:
        """Whether its last workers failed and the next one has to wait."""

    async def launch(self, schema: str, kind: str, name: str) -> Literal["created", "exists", "no"]:
        """Starts a worker that drains this kind of work and ends by itself."""


class FleetDispatcher:
    """At most `limit` workers at a time. `depths`: as last seen, of the queues that could be read."""

    def __init__(self, fleet: Fleet, *, limit: int) -> None:
        self.depths: dict[str, Mapping[str, Depth]] = {}
        self._fleet = fleet
        self._limit = limit
        self._dirty: set[str] = set()
        self._woken = asyncio.Event()
        self._filling = asyncio.Lock()

    def wake(self, schema: str | None = None) -> None:
        """Look at this queue now: work was queued, or the tenant changed. None: look at all."""
        self._dirty |= self._fleet.tenants().keys() if schema is None else {schema}
        self._woken.set()

    def job_ended(self) -> None:
        """A slot is free: look at all queues that had ready jobs when last seen."""
        self._dirty |= {schema for schema, depths in self.depths.items() if any(each.ready for each in depths.values())}
        self._woken.set()

    async def run(self) -> None:
        """Runs until cancelled. A queue that was woken does not wait for a poll of all."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._answer())
            tasks.create_task(self._poll())

    async def _answer(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            dirty, self._dirty = self._dirty, set()
            await self.look(dirty)

    async def _poll(self) -> None:
        while True:
            await self.look(self._fleet.tenants())
            await asyncio.sleep(POLL_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311  jitter, not a secret

    async def look(self, schemas: Iterable[str]) -> list[Launch]:
        """One look at these queues. Returns what it started."""
        tenants = self._fleet.tenants()
        for gone in self.depths.keys() - tenants.keys():
            del self.depths[gone]
        schemas = sorted(tenants.keys() & set(schemas))
        if not schemas:
            return []
        seen: Mapping[str, Mapping[str, Depth] | None] = {}
        try:
            seen = await self._fleet.depths_of(schemas)
        except Unavailable as error:
            _log.warning("queues_unreadable", reason=error.detail)
        for schema in schemas:
            depths = seen.get(schema)
            if depths is not None:
                self.depths[schema] = depths
            elif self.depths.pop(schema, None) is not None and seen:  # else it was said of all
                _log.warning("queue_unreadable", schema=schema)
        async with self._filling:  # two looks at the same queue must not start the same worker
            return await self._fill({schema: depths for schema, depths in seen.items() if depths is not None})

    async def _fill(self, seen: Mapping[str, Mapping[str, Depth]]) -> list[Launch]:
        now = self._fleet.running()
        if now is None:
            return []
        tenants, running = self._fleet.tenants(), now.unfinished
        free = self._limit - now.slots
        busy = Counter[str]()
        for (schema, _), count in running.items():
            if schema in tenants:
                busy[tenants[schema].tenant_id] += count
        wanted = [demand for schema in seen if schema in tenants for demand in self._demands(schema, seen, running)]
        started: list[Launch] = []
        while launches := allot(wanted, busy, free, self._limit):
            outcomes = await asyncio.gather(*(self._launch(launch) for launch in launches))
            tried = Counter((launch.schema, launch.kind) for launch in launches)
            refused = set()
            for launch, outcome in zip(launches, outcomes, strict=True):
                if outcome == "no":
                    refused.add((launch.schema, launch.kind))
                    continue
                busy[launch.tenant_id] += 1
                free -= 1
                if outcome == "created":
                    started.append(launch)
            if not refused:
                break
            wanted = [  # a slot whose launch failed goes to the others
                replace(each, running=each.running + tried[at], count=each.count - tried[at])
                for each in wanted
                if (at := (each.schema, each.kind)) not in refused and each.count > tried[at]
            ]
        return started

    def _demands(
        self, schema: str, seen: Mapping[str, Mapping[str, Depth]], running: Mapping[tuple[str, str], int]
    ) -> Iterator[Demand]:
        queue = self._fleet.tenants()[schema]
        for kind, limit in queue.limits.items():
            depth, there = seen[schema].get(kind, Depth()), running.get((schema, kind), 0)
            count = workers_to_start(depth, there, batch=JOB_KINDS[kind].jobs_a_worker, limit=limit)
            if count and depth.head is not None and not self._fleet.backs_off(schema, kind):
                yield Demand(schema, queue.tenant_id, kind, depth.head, there, count)

    async def _launch(self, launch: Launch) -> Literal["created", "exists", "no"]:
        """A launch that fails does not affect the others."""
        try:
            async with asyncio.timeout(LAUNCH_SECONDS):
                return await self._fleet.launch(launch.schema, launch.kind, launch.name)
        except Exception as error:
            _log.warning("not_launched", tenant=launch.tenant_id, kind=launch.kind, reason=type(error).__name__)
            return "no"


async def listen(url: Callable[[], str], wake: Callable[[str | None], None]) -> None:
    """Runs until cancelled: calls `wake(payload)` for each notification on the queue's channel.

    A notification that is sent while nobody listens is lost. So each connect calls `wake(None)` (look at all). It needs
    a direct connection: PgBouncer in transaction mode loses LISTEN.
    """
    delay = 0.1
    while True:
        try:
            arguments = {**CONNECTING, **connection_arguments(url())}
            async with await psycopg.AsyncConnection.connect(**arguments, autocommit=True) as connection:
                await connection.execute(f"LISTEN {CHANNEL}")
                wake(None)
                delay = 0.1
                async for notification in connection.notifies():
                    wake(notification.payload)
        except psycopg.Error as error:
            _log.warning("not_listening", reason=type(error).__name__, again_in=round(delay, 1))
        await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311  jitter, not a secret
        delay = min(LONGEST_RECONNECT, delay * 2)
