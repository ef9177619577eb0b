"""One tenant's pass, and what has to be done for all of them together.

Every trigger ends in `handle(key)`: read the resource as the watches last showed it, reconcile, write its status if it
says anything new, tell the dispatcher whether its queue may be served. What it returns says when to look again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from media_core.errors import Unavailable
from media_core.queue import Depth
from media_core.quota import MIB
from media_operator import render
from media_operator.backends.databases import Concerns, Usage, tenant_id_of
from media_operator.cluster import kinds
from media_operator.cluster.cache import TenantKey, key_of, unique_names
from media_operator.cluster.kinds import Object
from media_operator.cluster.kube import KubeError, NotFound
from media_operator.jobs.dispatch import TenantQueue
from media_operator.jobs.fleet import Served
from media_operator.kubernetes_target.children import Children
from media_operator.kubernetes_target.cluster import Cluster
from media_operator.kubernetes_target.observe import LATE_SECONDS
from media_operator.kubernetes_target.target import KubernetesTarget
from media_operator.metrics import Metrics, TenantFacts
from media_operator.plan import desired
from media_operator.plan.planner import Plan, plan_deletion, with_transitions
from media_operator.reconcile import reconcile
from media_operator.tenant.annotations import PAUSED
from media_operator.tenant.ownership import OwnerMark
from media_operator.tenant.spec import (
    API_VERSION,
    KIND,
    Condition,
    MediaTenant,
    SpecInvalid,
    TenantStatus,
    UsageStatus,
)

_log = structlog.stdlib.get_logger("media.controller")

CONVERGING_SECONDS = 5.0
"""When nothing is wrong and something is under way, events usually say so first."""
NEEDS_A_PERSON_SECONDS = 30.0
"""When somebody has to decide or to bring something back, of which no event may tell."""
NEEDS_A_PERSON = frozenset({"DataMismatch", "ScanSuspicious"})
RETIRE_DEBOUNCE = 1.0
QUEUE_NEEDS = ("Accepted", "BucketReady", "StoreKeyReady", "DatabaseReady", "PolicyApplied")
"""What has to be true before workers can do anything."""


class NotSettled(Exception):
    """Something failed or could not be seen; the queue waits longer each time before the next look."""


@dataclass
class Controller:
    """`handle` is the work queue's; `served` is what the dispatcher reads."""

    cluster: Cluster
    metrics: Metrics
    on_served: Callable[[str], None] = lambda _: None
    """Told of a schema whose queue may be served from now on."""
    served: dict[str, Served] = field(default_factory=dict)
    """By schema."""
    _usage: dict[TenantKey, tuple[float, Usage]] = field(default_factory=dict)
    _concerns: dict[TenantKey, Concerns] = field(default_factory=dict)
    _schemas: dict[TenantKey, str] = field(default_factory=dict)
    _gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, key: TenantKey) -> float | None:
        """Seconds until the next look, None for a tenant that is gone. Raises NotSettled, KubeError."""
        body = self.cluster.cache.tenants().get(key)
        if body is None:
            self._forget(key)
            self._gone.set()
            return None
        if body["metadata"].get("annotations", {}).get(PAUSED) == "disabled":
            self._forget(key)
            await self._say_paused(body)
            return None
        started = time.monotonic()
        try:
            tenant = MediaTenant.read({**body, "status": None})
        except SpecInvalid as error:
            self._forget(key)
            await self._write_status(body, _spec_invalid(body, error), TenantStatus())
            self.metrics.reconciled("invalid", time.monotonic() - started)
            return None
        if tenant.metadata.deletion_timestamp is not None:
            return await self._delete(key, body, tenant)
        target = KubernetesTarget(self.cluster, tenant)
        current = await reconcile(target)
        outcome = _outcome(current)
        self._serve(key, tenant, current, target.children)
        facts = await self._facts(key, tenant, current, target.children.deployment)
        await self._write_status(body, current.conditions, facts)
        self.metrics.reconciled(outcome, time.monotonic() - started)
        if outcome == "unsettled":
            raise NotSettled(_summary(current).message)
        return self._next_look(tenant, current)

    async def _delete(self, key: TenantKey, body: Object, tenant: MediaTenant) -> float | None:
        self._forget(key)
        if kinds.FINALIZER not in tenant.metadata.finalizers:
            return None  # another one's finalizer, or none: it goes by itself
        current = await reconcile(KubernetesTarget(self.cluster, tenant), plan_deletion)
        if self.cluster.cache.tenants().get(key, body)["metadata"].get("finalizers", []) != []:
            await self._write_status(body, current.conditions, TenantStatus(bucket=tenant.bucket))
        blocked = any(each.type == "DeletionBlocked" and each.status == "True" for each in current.conditions)
        if blocked:
            raise NotSettled(_summary(current).message)
        return 1.0

    # --- the dispatcher's view --------------------------------------------------------------------------------------

    def _serve(self, key: TenantKey, tenant: MediaTenant, current: Plan, children: Children) -> None:
        status = {condition.type: condition.status for condition in current.conditions}
        if status["Accepted"] != "True":  # what bears its id is somebody else's
            self._forget(key)
            return
        self._schemas[key] = tenant.schema_name
        if all(status.get(name) == "True" for name in QUEUE_NEEDS) and children.has_secrets:
            limits = desired.worker_shape_of(tenant).parallel
            queue = TenantQueue(tenant.tenant_id, limits)
            is_new = tenant.schema_name not in self.served
            self.served[tenant.schema_name] = Served(tenant, children.credentials, queue)
            if is_new:
                self.on_served(tenant.schema_name)
        elif all(status.get(name) != "Unknown" for name in QUEUE_NEEDS):
            self._unserve(key, tenant.schema_name)
        # else: what cannot be seen now stays as it was; the dispatcher itself finds the queue unreadable

    def _forget(self, key: TenantKey) -> None:
        self._unserve(key, self._schemas.pop(key, ""))
        self._usage.pop(key, None)
        self._concerns.pop(key, None)

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
            usage=await self._coarse_usage(key, tenant, conditions["PolicyApplied"].status == "True"),
            replicas=_replicas(deployment, before.get("replicas", 0)),
            selector=f"{kinds.TENANT_LABEL}={tenant.tenant_id},app.kubernetes.io/component=api",
        )

    async def _coarse_usage(self, key: TenantKey, tenant: MediaTenant, readable: bool) -> UsageStatus:
        """Read at most every `usage_seconds`; between that the last one, after a restart the one in the status."""
        if (
            readable
            and time.monotonic() - self._usage.get(key, (float("-inf"), None))[0] >= self.cluster.operator.usage_seconds
        ):
            try:
                usage = await self.cluster.backends.databases.usage(tenant.schema_name)
                self._usage[key] = (time.monotonic(), usage)
            except Unavailable:
                pass
        seen = self._usage.get(key)
        quota = tenant.spec.quota.max_storage_mb
        if seen is None:
            before = self.cluster.cache.tenants().get(key, {}).get("status", {}).get("usage") or {}
            empty = {"used": human(0) if readable else ""}
            return UsageStatus.model_validate({**empty, **before, "quota": human(quota * MIB)})
        stored = seen[1].stored_bytes
        return UsageStatus(
            storedMb=stored // MIB,
            percent=round(100 * stored / (quota * MIB)),
            used=human(stored),
            quota=human(quota * MIB),
        )

    def usage_changed(self, usages: Mapping[str, Usage]) -> list[TenantKey]:
        """Takes what a poll of all tenants saw; those whose status would say something else now."""
        changed = []
        for key, schema in self._schemas.items():
            if (usage := usages.get(schema)) is None:
                continue
            before = self._usage.get(key)
            self._usage[key] = (time.monotonic(), usage)
            if before is None or human(before[1].stored_bytes) != human(usage.stored_bytes):
                changed.append(key)
        return changed

    def concerns_changed(self, concerns: Mapping[str, Concerns]) -> list[TenantKey]:
        """Takes what a poll of all tenants saw; those of which a condition would say something else now."""
        changed = []
        for key, schema in self._schemas.items():
            if (now := concerns.get(schema)) is None:
                continue
            before = self._concerns.get(key, Concerns())
            self._concerns[key] = now
            if (before.orphans_kept, before.suspicious) != (now.orphans_kept, now.suspicious):
                changed.append(key)
        return changed

    def schemas(self) -> list[str]:
        return list(self._schemas.values())

    async def _say_paused(self, body: Object) -> None:
        """In Ready, whose status and everything else stay as they were last seen."""
        seen = {condition.type: condition for condition in _conditions(body)}
        seen["Ready"] = Condition(
            type="Ready",
            status=seen["Ready"].status if "Ready" in seen else "Unknown",
            reason="Paused",
            message=f"{PAUSED}: disabled; the operator looks at nothing and does nothing until it is removed",
            observedGeneration=body["metadata"].get("generation", 1),
        )
        facts = TenantStatus.model_validate({**body.get("status", {}), "conditions": []})
        await self._write_status(body, tuple(seen.values()), facts)

    async def _write_status(self, body: Object, conditions: tuple[Condition, ...], facts: TenantStatus) -> None:
        """Only if it says something else than what is there; then events for what flipped."""
        before = _conditions(body)
        stamped = with_transitions(before, conditions, datetime.now(UTC))
        status = facts.model_copy(
            update={"conditions": stamped, "observed_generation": body["metadata"].get("generation", 1)}
        ).model_dump(mode="json", by_alias=True)
        for condition in status["conditions"]:
            condition["lastTransitionTime"] = _timestamp(condition["lastTransitionTime"])
        if status == body.get("status"):
            return
        metadata = body["metadata"]
        applied = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
            "status": status,
        }
        try:
            self.cluster.cache.applied(
                kinds.MEDIA_TENANT, await self.cluster.kube.apply(kinds.MEDIA_TENANT, applied, subresource="status")
            )
        except NotFound:
            return
        await self._tell(body, before, stamped)

    async def _tell(self, body: Object, before: list[Condition], now: list[Condition]) -> None:
        """One Event a transition of a condition that was known before; a first look is no transition."""
        old = {condition.type: condition for condition in before}
        for condition in now:
            was = old.get(condition.type)
            if was is None or was.status == condition.status:
                continue
            good = condition.status == ("False" if condition.type == "DeletionBlocked" else "True")
            good |= condition.reason in AS_ASKED
            try:
                await self.cluster.kube.create(kinds.EVENT, _event(body, condition, "Normal" if good else "Warning"))
            except KubeError as error:
                _log.warning("event_lost", reason=str(error))

    # --- metrics ----------------------------------------------------------------------------------------------------

    def facts(
        self, depths: Mapping[str, Mapping[str, Depth]], jobs: Mapping[tuple[str, str, str], int]
    ) -> Iterator[TenantFacts]:
        """Of every MediaTenant that there is, as last said."""
        now = datetime.now(UTC)
        jobs_of: dict[str, dict[tuple[str, str], int]] = defaultdict(dict)
        for (tenant, kind, state), count in jobs.items():
            jobs_of[tenant][kind, state] = count
        for key, body in self.cluster.cache.tenants().items():
            id_ = unique_names(body).tenant_id
            seen, concerns = self._usage.get(key), self._concerns.get(key)
            conditions = body.get("status", {}).get("conditions", [])
            yield TenantFacts(
                namespace=key.namespace,
                tenant=id_,
                conditions={each["type"]: each["status"] for each in conditions},
                reasons={each["type"]: each["reason"] for each in conditions if each["status"] != "True"},
                orphans=(concerns.orphans, concerns.orphan_bytes) if concerns else None,
                used_bytes=seen[1].stored_bytes if seen else None,
                quota_bytes=seen[1].max_bytes if seen else None,
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

    # --- when to look again -----------------------------------------------------------------------------------------

    def _next_look(self, tenant: MediaTenant, current: Plan) -> float:
        if _summary(current).reason in NEEDS_A_PERSON:
            return NEEDS_A_PERSON_SECONDS * random.uniform(1, 2)  # noqa: S311  jitter, not a secret
        if _summary(current).status != "True" and _summary(current).reason not in ("Suspended", "ScaledToZero"):
            return CONVERGING_SECONDS * random.uniform(1, 2)  # noqa: S311  jitter, not a secret
        operator = self.cluster.operator
        usual = min(operator.resync_seconds, operator.canary_seconds) * random.uniform(0.8, 1.0)  # noqa: S311
        # Of a pod that does not come up no event tells.
        return min([usual, *(max(LATE_SECONDS - age, 1.0) for age in self.cluster.jobs.starting(tenant).values())])

    # --- what tenants that are gone left behind ---------------------------------------------------------------------

    async def retire_gone(self) -> None:
        """Until cancelled: at the start, soon after a tenant went, and regularly: some go while nobody watches."""
        self._gone.set()
        while True:
            try:
                async with asyncio.timeout(self.cluster.operator.resync_seconds):
                    await self._gone.wait()
                await asyncio.sleep(RETIRE_DEBOUNCE)
            except TimeoutError:
                pass
            self._gone.clear()
            try:
                await self.retire_once()
            except (Unavailable, KubeError) as error:
                _log.warning("not_retired", reason=str(error))
                self._gone.set()
                await asyncio.sleep(CONVERGING_SECONDS)

    async def retire_once(self) -> None:
        """Raises Unavailable, KubeError."""
        there = self.cluster.backends
        marks = await there.database_breaker.call(lambda: there.databases.marks(self.cluster.id))
        failed: Unavailable | None = None
        for schema, mark in marks.items():
            if not mark.retained and await self._is_gone(schema, mark):
                _log.info("retiring", schema=schema, resource=mark.resource)
                try:
                    await there.retire(schema, mark)
                except Unavailable as error:  # the others' turn comes all the same
                    failed = error
        if failed is not None:
            raise failed

    async def _is_gone(self, schema: str, mark: OwnerMark) -> bool:
        """Asked of the API server itself: a cache that misses something must not cost a tenant its keys."""
        namespace, _, name = mark.resource.partition("/")
        watched = self.cluster.operator.namespaces
        if watched and namespace not in watched:
            return False
        known = self.cluster.cache.tenants().get(TenantKey(namespace, name))
        if known is not None and known["metadata"]["uid"] == mark.uid:
            return False
        found = await self.cluster.kube.get(kinds.MEDIA_TENANT, namespace, name)
        if found is None:
            return True
        # One of the same name and id that is there now adopts them itself.
        return bool(found["metadata"]["uid"] != mark.uid and unique_names(found).tenant_id != tenant_id_of(schema))


def _replicas(deployment: Object | None, before: int) -> int:
    """Pods that there are; while they come and go, what was said before: not each of them is worth a write."""
    if deployment is None:
        return 0
    replicas = deployment.get("status", {}).get("replicas", 0)
    return int(replicas if replicas == deployment["spec"].get("replicas") else before)


def _outcome(current: Plan) -> str:
    """ "unsettled": a look soon is worth it, and ever later if that does not help."""
    if current.steps or not current.is_certain:
        return "unsettled"
    return "ready" if _summary(current).status == "True" else "converging"


def _summary(current: Plan) -> Condition:
    return next(condition for condition in current.conditions if condition.type == "Ready")


def _spec_invalid(body: Object, error: SpecInvalid) -> tuple[Condition, ...]:
    """The CRD refuses what the model refuses; this is for what was stored under an older CRD."""
    generation = body["metadata"].get("generation", 1)
    return tuple(
        Condition(
            type=name, status="False", reason="SpecInvalid", message=str(error)[:1024], observedGeneration=generation
        )
        for name in ("Ready", "Accepted")
    )


def _conditions(body: Object) -> list[Condition]:
    found = []
    for each in body.get("status", {}).get("conditions", []):
        when = datetime.fromisoformat(each["lastTransitionTime"]) if each.get("lastTransitionTime") else None
        found.append(Condition.model_validate({**each, "lastTransitionTime": when}))
    return found


def _timestamp(value: str) -> str:
    """RFC 3339 in UTC to the second, as Kubernetes writes it."""
    return datetime.fromisoformat(value).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


AS_ASKED = frozenset({"Suspended", "Deleting", "CanaryPending"})
"""Reasons that are nobody's trouble: somebody declared it, or it only takes its time."""


def _event(body: Object, condition: Condition, kind: str) -> Object:
    metadata, now = body["metadata"], datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{metadata['name'][:200]}.", "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
        },
        "type": kind,
        "reason": condition.reason,
        "message": f"{condition.type} is {condition.status}: {condition.message}"[:1024],
        "source": {"component": kinds.MANAGER},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }


def human(size: int) -> str:
    """Three digits at most: `0 B`, `812 KiB`, `1.5 GiB`."""
    value, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1000:
            break
        value, unit = value / 1024, larger
    return f"{value:.1f} {unit}" if value < 10 and unit != "B" and value != int(value) else f"{value:.0f} {unit}"
