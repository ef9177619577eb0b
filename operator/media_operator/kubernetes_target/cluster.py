"""What all tenants' passes share: the cluster, the backends, and how the operator is set up."""

from __future__ import annotations

from dataclasses import dataclass

from media_operator.backends.backends import Backends
from media_operator.cluster.cache import Cache
from media_operator.cluster.kube import Kube
from media_operator.jobs.worker_jobs import WorkerJobs
from media_operator.settings import OperatorSettings, PlatformSettings


@dataclass(frozen=True)
class Cluster:
    id: str
    """Uid of its kube-system namespace."""
    kube: Kube
    cache: Cache
    backends: Backends
    jobs: WorkerJobs
    platform: PlatformSettings
    operator: OperatorSettings
    connection_limit: int
    """Of each tenant's database role."""
