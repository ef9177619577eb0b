"""The operator's metrics. Tenants' series come from a snapshot, so the series of a tenant that is gone end, too.

A thousand tenants are 50,000 series, which take half a second to write. So the snapshot is taken on the event loop,
where nothing changes meanwhile, and written in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric

_AMOUNTS: Final = {
    "media_tenant_orphan_objects": "Objects that had no row in the last sweep.",
    "media_tenant_orphan_bytes": "Bytes of these.",
    "media_tenant_lost_objects": "Contents whose object the store has lost, as far as is known.",
    "media_tenant_usage_bytes": "Stored bytes.",
    "media_tenant_quota_bytes": "Bytes that may be stored.",
    "media_tenant_usage_files": "Files, each upload counted.",
    "media_tenant_quota_files": "Files that the tenant may have.",
}
"""Gauges of a tenant that are one number."""


@dataclass(frozen=True)
class TenantFacts:
    """`conditions`: type -> status; `queues`: kind -> (ready, leased, waiting, seconds for which the oldest has waited,
    failed in the last hour)."""

    namespace: str
    tenant: str
    conditions: Mapping[str, str] = field(default_factory=dict)
    used_bytes: int | None = None
    quota_bytes: int | None = None
    queues: Mapping[str, tuple[int, int, int, float, int]] = field(default_factory=dict)
    jobs: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(kind, running | failed) -> how many."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Type -> reason, of the conditions that are not True."""
    orphans: tuple[int, int] | None = None
    """Objects without a row, and their bytes."""
    lost: int | None = None
    """Contents whose object the store has lost."""
    files: int | None = None
    quota_files: int | None = None

    def amounts(self) -> dict[str, int | None]:
        """Those of `_AMOUNTS`, as far as they are known."""
        orphans, orphan_bytes = self.orphans or (None, None)
        return {
            "media_tenant_orphan_objects": orphans,
            "media_tenant_orphan_bytes": orphan_bytes,
            "media_tenant_lost_objects": self.lost,
            "media_tenant_usage_bytes": self.used_bytes,
            "media_tenant_quota_bytes": self.quota_bytes,
            "media_tenant_usage_files": self.files,
            "media_tenant_quota_files": self.quota_files,
        }


@dataclass(frozen=True)
class Snapshot:
    leads: bool
    heard_seconds: float
    """Seconds since the last watch event."""
    tenants: Iterable[TenantFacts] = ()
    clamd_up: bool | None = None
    """None: this replica has not asked it."""
    signatures_age_seconds: float | None = None
    """Seconds since clamd's virus signatures were built; None: not known."""


class Metrics:
    """`snapshot` is called on the event loop, at each scrape."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot
        self._own = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._own)
        self._outcomes = Counter(
            "media_reconcile_total", "Passes over a tenant, by outcome.", ["outcome"], registry=self._own
        )
        self._seconds = Histogram(
            "media_reconcile_seconds",
            "Wall time of one pass over a tenant.",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            registry=self._own,
        )
        self._requests = Counter(
            "media_kubernetes_requests_total",
            "Requests to the Kubernetes API; code 0 is no answer.",
            ["verb", "kind", "code"],
            registry=self._own,
        )

    def reconciled(self, outcome: str, seconds: float) -> None:
        self._outcomes.labels(outcome).inc()
        self._seconds.observe(seconds)

    def requested(self, verb: str, kind: str, status: int) -> None:
        self._requests.labels(verb, kind, str(status)).inc()

    async def text(self) -> bytes:
        """All of it, in Prometheus' text format 0.0.4."""
        now = self._snapshot()
        return await asyncio.to_thread(generate_latest, _All(self._own, replace(now, tenants=list(now.tenants))))


@dataclass(frozen=True)
class _All:
    """A collector, as prometheus_client calls it."""

    own: CollectorRegistry
    now: Snapshot

    def collect(self) -> Iterator[Metric]:
        yield from self.own.collect()
        yield from _of_the_operator(self.now)
        yield from _of_tenants(self.now)


def _of_the_operator(now: Snapshot) -> Iterator[Metric]:
    yield GaugeMetricFamily("media_leader", "1 for the replica that leads.", value=now.leads)
    yield GaugeMetricFamily(
        "media_watch_last_event_age_seconds", "Since the last watch event.", value=now.heard_seconds
    )
    if now.clamd_up is not None:
        yield GaugeMetricFamily("media_clamd_up", "1 if clamd says its version.", value=now.clamd_up)
    if now.signatures_age_seconds is not None:
        yield GaugeMetricFamily(
            "media_clamd_signatures_age_seconds",
            "Since the virus signatures were built that clamd works with; of several replicas, one's.",
            value=now.signatures_age_seconds,
        )


def _of_tenants(now: Snapshot) -> Iterator[Metric]:
    at = ["tenant", "namespace"]
    conditions = GaugeMetricFamily(
        "media_tenant_condition", "1 for the status that a condition has.", labels=[*at, "type", "status"]
    )
    reasons = GaugeMetricFamily(
        "media_tenant_condition_reason",
        "1 for the reason of a condition that is not True.",
        labels=[*at, "type", "reason"],
    )
    amounts = {name: GaugeMetricFamily(name, description, labels=at) for name, description in _AMOUNTS.items()}
    depth = GaugeMetricFamily("media_queue_depth", "Jobs in the queue.", labels=[*at, "kind", "state"])
    oldest = GaugeMetricFamily(
        "media_queue_oldest_seconds", "How long the oldest ready job has waited.", labels=[*at, "kind"]
    )
    failed_jobs = GaugeMetricFamily(
        "media_queue_failed_last_hour", "Jobs that ended as failed within the last hour.", labels=[*at, "kind"]
    )
    jobs = GaugeMetricFamily("media_jobs", "Worker Jobs on the cluster.", labels=[*at, "kind", "state"])
    told = set()
    for facts in sorted(now.tenants, key=lambda each: each.conditions.get("Accepted") != "True"):
        who = [facts.tenant, facts.namespace]
        if tuple(who) in told:
            continue  # a second MediaTenant of this id, which is not accepted: the series are the first one's
        told.add(tuple(who))
        for kind, is_status in facts.conditions.items():
            for status in ("True", "False", "Unknown"):
                conditions.add_metric([*who, kind, status], status == is_status)
        for kind, reason in facts.reasons.items():
            reasons.add_metric([*who, kind, reason], 1)
        for name, amount in facts.amounts().items():
            if amount is not None:
                amounts[name].add_metric(who, amount)
        for kind, (ready, leased, waiting, age, failed) in facts.queues.items():
            for state, count in (("ready", ready), ("leased", leased), ("waiting", waiting)):
                depth.add_metric([*who, kind, state], count)
            oldest.add_metric([*who, kind], age)
            failed_jobs.add_metric([*who, kind], failed)
        for (kind, state), count in facts.jobs.items():
            jobs.add_metric([*who, kind, state], count)
    yield from (conditions, reasons, *amounts.values(), depth, oldest, failed_jobs, jobs)
