"""The target of the operator: a Kubernetes cluster, one S3 service, one PostgreSQL.

The cluster's objects are read from the cache, which the watches feed. S3 and PostgreSQL are asked at every look. No
state is kept between two passes.
"""

from __future__ import annotations

from media_operator.kubernetes_target.apply import Applier
from media_operator.kubernetes_target.children import Children
from media_operator.kubernetes_target.cluster import Cluster
from media_operator.kubernetes_target.objects import TenantObjects
from media_operator.kubernetes_target.observe import Observer
from media_operator.plan.observed import ObservedState
from media_operator.plan.steps import Step
from media_operator.tenant.spec import MediaTenant


class KubernetesTarget:
    """`reconcile.Target` for one pass over one tenant."""

    def __init__(self, cluster: Cluster, tenant: MediaTenant) -> None:
        self.tenant = tenant
        self._objects = TenantObjects(cluster, tenant)
        self._observer = Observer(cluster, self._objects)
        self._applier = Applier(cluster, self._objects)

    @property
    def children(self) -> Children:
        """As the last look saw them, or as the last write left them."""
        return self._objects.children

    async def observe(self) -> ObservedState:
        return await self._observer.observe()

    async def apply(self, step: Step) -> None:
        await self._applier.apply(step)
