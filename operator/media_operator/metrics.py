"""What the operator tells Prometheus. Tenants' series come from a snapshot, so those of one that is gone go too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric


@dataclass(frozen=True)
class TenantFacts:
    """`conditions`: type -> status; `queues`: kind -> (ready, leased, waiting, seconds that the oldest waits)."""

    namespace: str
    tenant: str
    conditions: Mapping[str, str] = field(default_factory=dict)
    used_bytes: int | None = None
    quota_bytes: int | None = None
    queues: Mapping[str, tuple[int, int, int, float]] = field(default_factory=dict)
    jobs: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(kind, running | failed) -> how many."""


@dataclass(frozen=True)
class Snapshot:
    leads: bool
    heard_seconds: float
    """Since the last watch event."""
    tenants: Iterable[TenantFacts] = ()


class Metrics:
    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self.registry = CollectorRegistry()
        self._snapshot = snapshot
        self._outcomes = Counter(
            "media_reconcile_total", "Passes over a tenant, by outcome.", ["outcome"], registry=self.registry
        )
        self._seconds = Histogram(
            "media_reconcile_seconds",
            "Wall time of one pass over a tenant.",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            registry=self.registry,
        )
        self._requests = Counter(
            "media_kubernetes_requests_total",
            "Requests to the Kubernetes API; code 0 is no answer.",
            ["verb", "kind", "code"],
            registry=self.registry,
        )
        self.registry.register(self)

    def reconciled(self, outcome: str, seconds: float) -> None:
        self._outcomes.labels(outcome).inc()
        self._seconds.observe(seconds)

    def requested(self, verb: str, kind: str, status: int) -> None:
        self._requests.labels(verb, kind, str(status)).inc()

    def describe(self) -> list[Metric]:
        return []  # so that registering does not take a snapshot

    def collect(self) -> Iterator[Metric]:
        now = self._snapshot()
        yield GaugeMetricFamily("media_leader", "1 for the replica that leads.", value=now.leads)
        yield GaugeMetricFamily(
            "media_watch_last_event_age_seconds", "Since the last watch event.", value=now.heard_seconds
        )
        at = ["tenant", "namespace"]
        conditions = GaugeMetricFamily(
            "media_tenant_condition", "1 for the status that a condition has.", labels=[*at, "type", "status"]
        )
        used = GaugeMetricFamily("media_tenant_usage_bytes", "Stored bytes.", labels=at)
        quota = GaugeMetricFamily("media_tenant_quota_bytes", "Bytes that may be stored.", labels=at)
        depth = GaugeMetricFamily("media_queue_depth", "Jobs in the queue.", labels=[*at, "kind", "state"])
        oldest = GaugeMetricFamily(
            "media_queue_oldest_seconds", "How long the oldest ready job has waited.", labels=[*at, "kind"]
        )
        jobs = GaugeMetricFamily("media_jobs", "Worker Jobs on the cluster.", labels=[*at, "kind", "state"])
        for facts in now.tenants:
            who = [facts.tenant, facts.namespace]
            for kind, is_status in facts.conditions.items():
                for status in ("True", "False", "Unknown"):
                    conditions.add_metric([*who, kind, status], status == is_status)
            if facts.used_bytes is not None:
                used.add_metric(who, facts.used_bytes)
            if facts.quota_bytes is not None:
                quota.add_metric(who, facts.quota_bytes)
            for kind, (ready, leased, waiting, age) in facts.queues.items():
                for state, count in (("ready", ready), ("leased", leased), ("waiting", waiting)):
                    depth.add_metric([*who, kind, state], count)
                oldest.add_metric([*who, kind], age)
            for (kind, state), count in facts.jobs.items():
                jobs.add_metric([*who, kind, state], count)
        yield from (conditions, used, quota, depth, oldest, jobs)
