"""One tenant's pass, and which queues the dispatcher may serve.

Every trigger ends in `handle(key)`. It reads the resource as the watches last showed it, reconciles, writes the status
if it has changed, and tells the dispatcher whether the tenant's queue may be served. It returns when to look again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from media_operator import render
from media_operator.cluster import kinds
from media_operator.cluster.cache import TenantKey, key_of
from media_operator.cluster.kinds import Object
from media_operator.cluster.kube import NamespaceGone
from media_operator.controller.figures import Figures
from media_operator.controller.retirement import Retirement
from media_operator.controller.status import StatusWriter, conditions_of, spec_invalid
from media_operator.jobs.dispatch import TenantQueue
from media_operator.jobs.fleet import Served
from media_operator.kubernetes_target.children import Children
from media_operator.kubernetes_target.cluster import Cluster
from media_operator.kubernetes_target.observe import LATE_SECONDS
from media_operator.kubernetes_target.target import KubernetesTarget
from media_operator.metrics import Metrics
from media_operator.plan import desired
from media_operator.plan.planner import Plan, plan_deletion, waiting_to_go
from media_operator.reconcile import reconcile
from media_operator.tenant.annotations import PAUSED
from media_operator.tenant.spec import MediaTenant
from media_operator.tenant.spec_errors import SpecInvalid
from media_operator.tenant.status import TenantStatus

_log = structlog.stdlib.get_logger("media.controller")

CONVERGING_SECONDS = 5.0
"""The next look while something is under way without an error. Mostly an event comes earlier."""
MOST_CONVERGING_SECONDS = 30.0
"""The same where that has lasted for five minutes. Hundreds of tenants whose pods do not start would take a whole core.
What an outage held up goes on within a minute of its end."""
NEEDS_A_PERSON_SECONDS = 30.0
"""The next look while a person has to decide something or to bring something back. There may be no event of that."""
NEEDS_A_PERSON = frozenset({"BucketLost", "DataMismatch", "ScanSuspicious"})
QUEUE_NEEDS = ("Accepted", "BucketReady", "StoreKeyReady", "DatabaseReady", "PolicyApplied")
"""Conditions that have to be true before workers can do anything."""


class NotSettled(Exception):
    """Something failed or could not be seen. The work queue waits longer each time before the next look."""


@dataclass
class Controller:
    """The work queue calls `handle`; the dispatcher reads `served`."""

    cluster: Cluster
    metrics: Metrics
    on_served: Callable[[str], None] = lambda _: None
    """Called with a schema whose queue may be served from now on."""
    served: dict[str, Served] = field(default_factory=dict)
    """By schema."""

    def __post_init__(self) -> None:
        self.figures = Figures(self.cluster)
        self.retirement = Retirement(self.cluster)
        self._status = StatusWriter(self.cluster)

    async def handle(self, key: TenantKey) -> float | None:
        """Seconds until the next look, None for a tenant that is gone. Raises NotSettled, KubeError."""
        try:
            return await self._look_after(key)
        except NamespaceGone:
            # Somebody finalized the namespace by force. Its objects stay stored for ever, and can be neither written
            # nor deleted. The next look comes when they change, which takes a new namespace of that name.
            self._forget(key)
            _log.warning("namespace_gone", namespace=key.namespace, name=key.name)
            return None

    async def _look_after(self, key: TenantKey) -> float | None:
        body = self.cluster.cache.tenants().get(key)
        if body is None:
            self._forget(key)
            self.retirement.tenant_went()
            return None
        if body["metadata"].get("annotations", {}).get(PAUSED) == "disabled":
            self._forget(key)
            await self._status.say_paused(body)
            return None
        started = time.monotonic()
        try:
            tenant = MediaTenant.read({**body, "status": None}, stored=True)
        except SpecInvalid as error:
            self._forget(key)
            await self._status.write(body, spec_invalid(body, error), TenantStatus())
            self.metrics.reconciled("invalid", time.monotonic() - started)
            return None
        if tenant.metadata.deletion_timestamp is not None:
            return await self._delete(key, body, tenant)
        target = KubernetesTarget(self.cluster, tenant)
        current = await reconcile(target)
        outcome = _outcome(current)
        self._serve(key, tenant, current, target.children)
        facts = await self._facts(key, tenant, current, target.children.deployment)
        await self._status.write(body, current.conditions, facts)
        self.metrics.reconciled(outcome, time.monotonic() - started)
        if outcome == "unsettled":
            raise NotSettled(current.ready.message)
        return self._next_look(tenant, current, target.children, _seconds_like_this(body))

    async def _delete(self, key: TenantKey, body: Object, tenant: MediaTenant) -> float | None:
        self._forget(key)
        if kinds.FINALIZER not in tenant.metadata.finalizers:
            if tenant.metadata.finalizers:
                await self._status.write(body, waiting_to_go(tenant), TenantStatus(bucket=tenant.bucket))
            return None
        current = await reconcile(KubernetesTarget(self.cluster, tenant), plan_deletion)
        if self.cluster.cache.tenants().get(key, body)["metadata"].get("finalizers", []) != []:
            await self._status.write(body, current.conditions, TenantStatus(bucket=tenant.bucket))
        blocked = any(each.type == "DeletionBlocked" and each.status == "True" for each in current.conditions)
        if blocked:
            raise NotSettled(current.ready.message)
        return 1.0

    # --- the dispatcher's view --------------------------------------------------------------------------------------

    def _serve(self, key: TenantKey, tenant: MediaTenant, current: Plan, children: Children) -> None:
        status = {condition.type: condition.status for condition in current.conditions}
        if status["Accepted"] != "True":  # its id belongs to another MediaTenant
            self._forget(key)
            return
        self.figures.follow(key, tenant.schema_name)
        if all(status.get(name) == "True" for name in QUEUE_NEEDS) and children.has_secrets:
            limits = desired.worker_shape_of(tenant).parallel
            queue = TenantQueue(tenant.tenant_id, limits)
            is_new = tenant.schema_name not in self.served
            self.served[tenant.schema_name] = Served(tenant, children.credentials, queue)
            if is_new:
                self.on_served(tenant.schema_name)
        elif all(status.get(name) != "Unknown" for name in QUEUE_NEEDS):
            self._unserve(key, tenant.schema_name)
        # Else something cannot be seen now: all stays as it was. The dispatcher itself finds a queue unreadable.

    def _forget(self, key: TenantKey) -> None:
        self._unserve(key, self.figures.forget(key))

    def _unserve(self, key: TenantKey, schema: str) -> None:
        served = self.served.get(schema)
        if served is not None and key_of(served.tenant) == key:
            del self.served[schema]

    # --- status -----------------------------------------------------------------------------------------------------

    async def _facts(
        self, key: TenantKey, tenant: MediaTenant, current: Plan, deployment: Object | None
    ) -> TenantStatus:
        conditions = {condition.type: condition for condition in current.conditions}
        if conditions["Accepted"].status != "True":
            return TenantStatus()
        before = self.cluster.cache.tenants().get(key, {}).get("status", {})
        return TenantStatus(
            endpoint=render.endpoint(tenant, self.cluster.platform),
            bucket=tenant.bucket,
            usage=await self.figures.usage(key, tenant, readable=conditions["PolicyApplied"].status == "True"),
            replicas=_replicas(deployment, before.get("replicas", 0)),
            selector=f"{kinds.TENANT_LABEL}={tenant.tenant_id},app.kubernetes.io/component=api",
        )

    # --- when to look again -----------------------------------------------------------------------------------------

    def _next_look(self, tenant: MediaTenant, current: Plan, children: Children, lasted: float) -> float:
        """`lasted`: seconds since the tenant became ready, or ceased to be."""
        if current.ready.reason in NEEDS_A_PERSON:
            return NEEDS_A_PERSON_SECONDS * random.uniform(1, 2)  # noqa: S311  jitter, not a secret
        if current.ready.status != "True" and current.ready.reason not in ("Suspended", "ScaledToZero"):
            usual = min(max(CONVERGING_SECONDS, lasted / 10), MOST_CONVERGING_SECONDS)
            return usual * random.uniform(1, 2)  # noqa: S311  jitter, not a secret
        operator = self.cluster.operator
        usual = min(operator.resync_seconds, operator.canary_seconds) * random.uniform(0.8, 1.0)  # noqa: S311
        # No event tells that a pod does not start, or that it is time for another temporary key.
        waits = [LATE_SECONDS - age for age in self.cluster.jobs.starting(tenant).values()]
        if children.session is not None:
            waits.append((children.session.due - datetime.now(UTC)).total_seconds())
        return min([usual, *(max(wait, 1.0) for wait in waits)])


def _seconds_like_this(body: Object) -> float:
    """How long `Ready` has had its status, as far as it was written."""
    ready = next((each for each in conditions_of(body) if each.type == "Ready"), None)
    if ready is None or ready.last_transition_time is None:
        return 0.0
    return (datetime.now(UTC) - ready.last_transition_time).total_seconds()


def _replicas(deployment: Object | None, before: int) -> int:
    """How many pods exist. While they come and go, the number before: not every change is worth a write."""
    if deployment is None:
        return 0
    replicas = deployment.get("status", {}).get("replicas", 0)
    return int(replicas if replicas == deployment["spec"].get("replicas") else before)


def _outcome(current: Plan) -> str:
    """ "unsettled": look again soon, and later each time if that does not help."""
    if current.steps or not current.is_certain:
        return "unsettled"
    return "ready" if current.ready.status == "True" else "converging"
