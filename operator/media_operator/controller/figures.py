"""What each tenant uses, and what its schema tells its operator: as last read, for its status and for the metrics."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from media_core.contents.quota import MIB, Usage
from media_core.errors import Unavailable
from media_core.jobs.depth import Depth
from media_operator.backends.databases import Concerns
from media_operator.cluster.cache import TenantKey, unique_names
from media_operator.controller.status import human
from media_operator.kubernetes_target.cluster import Cluster
from media_operator.metrics import TenantFacts
from media_operator.tenant.spec import MediaTenant
from media_operator.tenant.status import UsageStatus


class Figures:
    """Those of all tenants whose schemas are followed."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._schemas: dict[TenantKey, str] = {}
        self._usage: dict[TenantKey, tuple[float, Usage]] = {}
        """With the time at which it was read."""
        self._concerns: dict[TenantKey, Concerns] = {}

    def follow(self, key: TenantKey, schema: str) -> None:
        self._schemas[key] = schema

    def forget(self, key: TenantKey) -> str:
        """Returns the schema that was followed; empty if there was none."""
        self._usage.pop(key, None)
        self._concerns.pop(key, None)
        return self._schemas.pop(key, "")

    async def usage(self, key: TenantKey, tenant: MediaTenant, *, readable: bool) -> UsageStatus:
        """Read at most every `usage_seconds`; in between the last one, after a restart the one in the status."""
        read_at, _ = self._usage.get(key, (float("-inf"), None))
        if readable and time.monotonic() - read_at >= self._cluster.operator.usage_seconds:
            with contextlib.suppress(Unavailable):
                usage = await self._cluster.backends.databases.usage(tenant.schema_name)
                self._usage[key] = (time.monotonic(), usage)
        seen = self._usage.get(key)
        quota = tenant.spec.quota.max_storage_mb
        if seen is None:
            before = self._cluster.cache.tenants().get(key, {}).get("status", {}).get("usage") or {}
            empty = {"used": human(0) if readable else ""}
            return UsageStatus.model_validate({**empty, **before, "quota": human(quota * MIB)})
        stored = seen[1].stored
        return UsageStatus(
            storedMb=stored // MIB,
            percent=round(100 * stored / (quota * MIB)),
            filesPercent=seen[1].items_percent,
            used=human(stored),
            quota=human(quota * MIB),
        )

    async def poll(self) -> set[TenantKey]:
        """Reads all tenants anew. Returns those whose status has to change. Raises Unavailable."""
        databases = self._cluster.backends.databases
        usages = await databases.usages_of(list(self._schemas.values()))
        concerns = await databases.concerns_of(list(self._schemas.values()))
        return {
            key
            for key, schema in self._schemas.items()
            if self._has_news(key, usages.get(schema), concerns.get(schema))
        }

    def _has_news(self, key: TenantKey, usage: Usage | None, concerns: Concerns | None) -> bool:
        """Notes what was read of a tenant, and whether its status has to change. None: it could not be read."""
        has_news = False
        if usage is not None:
            before = self._usage.get(key)
            has_news = before is None or _coarse(before[1]) != _coarse(usage)
            self._usage[key] = (time.monotonic(), usage)
        if concerns is not None:
            known = self._concerns.get(key, Concerns())
            has_news |= known._replace(orphans=0, orphan_bytes=0) != concerns._replace(orphans=0, orphan_bytes=0)
            self._concerns[key] = concerns
        return has_news

    def facts(
        self, depths: Mapping[str, Mapping[str, Depth]], jobs: Mapping[tuple[str, str, str], int]
    ) -> Iterator[TenantFacts]:
        """Of every MediaTenant that exists, as last known."""
        now = datetime.now(UTC)
        jobs_of: dict[str, dict[tuple[str, str], int]] = defaultdict(dict)
        for (tenant, kind, state), count in jobs.items():
            jobs_of[tenant][kind, state] = count
        for key, body in self._cluster.cache.tenants().items():
            id_ = unique_names(body).tenant_id
            seen, concerns = self._usage.get(key), self._concerns.get(key)
            conditions = body.get("status", {}).get("conditions", [])
            yield TenantFacts(
                namespace=key.namespace,
                tenant=id_,
                conditions={each["type"]: each["status"] for each in conditions},
                reasons={each["type"]: each["reason"] for each in conditions if each["status"] != "True"},
                orphans=(concerns.orphans, concerns.orphan_bytes) if concerns else None,
                lost=concerns.lost if concerns else None,
                used_bytes=seen[1].stored if seen else None,
                quota_bytes=seen[1].maximum if seen else None,
                files=seen[1].items if seen else None,
                quota_files=seen[1].most_items if seen else None,
                queues={
                    kind: (
                        depth.ready,
                        depth.leased,
                        depth.waiting,
                        (now - depth.oldest).total_seconds() if depth.oldest else 0.0,
                        depth.failed,
                    )
                    for kind, depth in depths.get(self._schemas.get(key, ""), {}).items()
                },
                jobs=jobs_of.get(id_, {}),
            )


def _coarse(usage: Usage) -> tuple[str, int]:
    """What of it is in the status and may change from poll to poll."""
    return human(usage.stored), usage.items_percent
