"""`dispatch.Fleet` on the cluster."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from media_core.jobs.depth import Depth
from media_operator.backends.backends import Backends
from media_operator.cluster.cache import key_of
from media_operator.jobs.dispatch import Running, TenantQueue, share
from media_operator.jobs.worker_jobs import WorkerJobs
from media_operator.tenant.spec import MediaTenant


@dataclass(frozen=True)
class Served:
    """A tenant whose queue may be served. Its Jobs are made from `tenant`."""

    tenant: MediaTenant
    credentials: Mapping[str, str]
    queue: TenantQueue


class ClusterFleet:
    """`served`: schema -> tenant; the controller keeps it up to date."""

    def __init__(self, served: Mapping[str, Served], jobs: WorkerJobs, backends: Backends) -> None:
        self._served = served
        self._jobs = jobs
        self._backends = backends

    def tenants(self) -> Mapping[str, TenantQueue]:
        return {schema: served.queue for schema, served in self._served.items()}

    async def depths_of(self, schemas: Collection[str]) -> Mapping[str, Mapping[str, Depth] | None]:
        return await self._backends.database_breaker.call(self._backends.databases.depths_of, schemas)

    def running(self) -> Running | None:
        counted = self._jobs.open()
        if counted is None:
            return None
        unfinished, slots, most = {}, 0, share(self._jobs.limit)
        for schema, served in self._served.items():
            key, taken = key_of(served.tenant), 0
            for kind, limit in served.queue.limits.items():
                unfinished[schema, kind], taking = counted.get((key, kind), (0, 0))
                taken += min(taking, limit)
            slots += min(taken, most)  # we started no more; Jobs of somebody else must not take others' slots
        return Running({of: count for of, count in unfinished.items() if count}, slots)

    def backs_off(self, schema: str, kind: str) -> bool:
        served = self._served.get(schema)
        return served is None or self._jobs.backs_off(served.tenant, kind)

    async def launch(self, schema: str, kind: str, name: str) -> Literal["created", "exists", "no"]:
        served = self._served.get(schema)
        if served is None:
            return "no"
        return await self._jobs.launch(served.tenant, kind, name, served.credentials)
