"""One look at a tenant: its children from the cache, bucket and key from S3 and IAM, its schema from PostgreSQL.

Each backend is asked behind its breaker, so that a backend that is away does not hold up a pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from media_core.errors import Unavailable
from media_core.policy import Policy
from media_operator import render
from media_operator.backends import buckets, databases, notes, scanner_canary
from media_operator.backends.store_keys import RoleSessions
from media_operator.cluster import kinds
from media_operator.cluster.kinds import Object
from media_operator.cluster.kube import KubeError
from media_operator.kubernetes_target import pods, rivals
from media_operator.kubernetes_target.cluster import Cluster
from media_operator.kubernetes_target.objects import TenantObjects
from media_operator.plan.desired import api_shape_of, worker_shape_of
from media_operator.plan.observed import (
    Api,
    Bucket,
    Database,
    Notes,
    ObservedState,
    Scanner,
    SigningKeys,
    StoreKey,
    Unreachable,
    Workers,
)

LATE_SECONDS = 120.0
"""A worker's pod that takes longer to start is reported. A node that is added for it takes a minute or two."""


@dataclass(frozen=True)
class _InSchema:
    """What one look at PostgreSQL says."""

    database: Database | Unreachable
    policy: Policy | Unreachable | None = None
    canary: scanner_canary.Canary | None = None
    notes: Notes | Unreachable = field(default_factory=Notes)


class Observer:
    def __init__(self, cluster: Cluster, objects: TenantObjects) -> None:
        self._cluster = cluster
        self._backends = cluster.backends
        self._jobs = cluster.jobs
        self._objects = objects
        self._tenant = objects.tenant

    async def observe(self) -> ObservedState:
        self._objects.look_again()
        tenant, children = self._tenant, self._objects.children
        (bucket, contents), store_key, schema = await asyncio.gather(self._bucket(), self._store_key(), self._schema())
        database = schema.database
        if contents and isinstance(database, Database):
            database = await self._with_known(database, contents)
        return ObservedState(
            bucket=bucket,
            database=database,
            signing_keys=SigningKeys(len(children.signing_keys), children.signing_rotation),
            policy=schema.policy,
            scanner=self._scanner(schema.canary),
            api=await self._api(),
            workers=Workers(
                worker_shape_of(tenant),
                self._jobs.trouble(tenant),
                await self._late_workers(),
                self._jobs.outdated(tenant, children.credentials) if children.has_secrets else (),
            ),
            notes=schema.notes,
            store_key=store_key,
            cluster=self._cluster.id,
            rival=rivals.rival(self._cluster.cache, tenant),
            host_rival=rivals.host_rival(self._cluster.cache, tenant),
            has_finalizer=kinds.FINALIZER in self._objects.finalizers,
            stopped=await self._objects.stopped() if tenant.metadata.deletion_timestamp is not None else False,
        )

    async def _bucket(self) -> tuple[Bucket | Unreachable, Sequence[str]]:
        """The bucket, and the hashes of its first contents if it has no birth."""
        there, tenant = self._backends, self._tenant

        async def look() -> tuple[buckets.BucketFacts, buckets.Born]:
            return await asyncio.gather(
                there.buckets.observe(tenant.bucket), there.buckets.born(tenant.bucket, tenant.tenant_id)
            )

        try:
            seen, born = await there.store_breaker.call(look)
        except Unavailable as error:
            return Unreachable(f"S3: {error.detail}"), ()
        facts = Bucket(
            seen.exists,
            seen.mark,
            empty=seen.empty,
            capabilities=seen.capabilities,
            cors=seen.cors,
            birth=born.birth,
            contents=len(born.contents),
        )
        return facts, born.contents

    async def _store_key(self) -> StoreKey | Unreachable:
        there, tenant, children = self._backends, self._tenant, self._objects.children
        keys = there.store_keys
        if isinstance(keys, RoleSessions):
            return self._session(keys.role)
        try:
            known = await there.iam_breaker.call(keys.observe, tenant.tenant_id)
        except Unavailable as error:
            return Unreachable(f"IAM: {error.detail}")
        current = children.credentials.get(render.S3_KEY_ID, "")
        # Pods of the time before, with `credentials: role`, go on with the key of the file until they are replaced.
        file = children.credentials.get(render.S3_FILE)
        return StoreKey(
            current=current in known and render.S3_SECRET in children.credentials and children.session is None,
            others=len(set(known) - {current}) + (file is not None),
            others_in_use=self._others_in_use(),
            rotation=children.credentials_rotation,
            shared=keys.shared,
        )

    def _session(self, role: str) -> StoreKey:
        children, now = self._objects.children, datetime.now(UTC)
        session = children.session
        return StoreKey(
            current=session is not None and now < session.ends,
            others=int(render.S3_KEY_ID in children.credentials),  # that of `credentials: iam`
            others_in_use=self._others_in_use(),
            rotation=children.credentials_rotation,
            ends=session.ends if session else None,
            due=session is not None and (now >= session.due or session.role != role),
            late=session is not None and now >= session.late,
        )

    def _others_in_use(self) -> bool:
        children = self._objects.children
        return not children.has_rolled or self._jobs.any_with_other_credentials(self._tenant, children.credentials)

    async def _schema(self) -> _InSchema:
        there, schema = self._backends.databases, self._tenant.schema_name
        url = self._objects.children.credentials.get(render.DATABASE_URL)
        password = databases.password_of(url) if url else None

        async def look() -> _InSchema:
            facts = await there.observe(schema, password)
            if password is None or url != there.tenant_url(schema, password):
                facts = replace(facts, complete=False)  # PostgreSQL's address in the settings has changed
            if facts.revision is None or facts.revision not in facts.known_revisions:
                return _InSchema(facts)
            async with there.within(schema) as tx:
                policy, canary = await databases.read_policy(tx), await scanner_canary.latest(tx)
                return _InSchema(facts, policy, canary, await notes.read(tx))

        try:
            return await self._backends.database_breaker.call(look)
        except Unavailable as error:
            away = _postgresql_is_away(error)
            return _InSchema(away, away, None, away)

    async def _with_known(self, facts: Database, contents: Sequence[str]) -> Database | Unreachable:
        there, schema = self._backends, self._tenant.schema_name
        try:
            known = await there.database_breaker.call(there.databases.known, schema, contents)
        except Unavailable as error:
            return _postgresql_is_away(error)
        return replace(facts, known=known)

    def _scanner(self, latest: scanner_canary.Canary | None) -> Scanner:
        settings = self._cluster.operator
        return scanner_canary.judge(latest, every=settings.canary_seconds, timeout=settings.canary_timeout)

    async def _api(self) -> Api:
        children = self._objects.children
        deployment = children.deployment
        if deployment is None or not children.has_secrets:
            return Api(None)
        wanted = self._objects.workloads(await self._objects.jwks_uri(fetch=False))
        status = deployment.get("status", {})
        current = status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
        replicas = deployment["spec"].get("replicas", 0)
        ready = status.get("availableReplicas", 0)
        complete = current and status.get("updatedReplicas", 0) == status.get("replicas", 0) == ready == replicas
        as_declared = not self._objects.drifted(wanted) and not self._objects.surplus(wanted)
        return Api(
            shape=api_shape_of(self._tenant) if as_declared else None,
            wanted=replicas,
            ready=ready,
            trouble=None if complete else await self._api_trouble(deployment),
            rolling=not complete,
        )

    async def _api_trouble(self, deployment: Object) -> str | None:
        """Why pods of the api do not start, as the quota, the kubelet or the scheduler says."""
        for condition in deployment.get("status", {}).get("conditions", []):
            if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
                return str(condition.get("message", condition.get("reason")))
        if deployment.get("status", {}).get("unavailableReplicas", 0) == 0:
            return None
        try:
            found = await self._objects.pods()
        except KubeError:
            return None  # not known
        return next((words for pod in found if (words := pods.trouble(pod))), None)

    async def _late_workers(self) -> dict[str, str]:
        tenant = self._tenant
        refused = dict(self._jobs.refused(tenant))
        late = {kind for kind, seconds in self._jobs.starting(tenant).items() if seconds >= LATE_SECONDS}
        if not late:
            return refused
        try:
            found = await self._objects.pods()
        except KubeError:
            return refused
        said = {pod["metadata"]["labels"].get(kinds.WORK_LABEL): words for pod in found if (words := pods.trouble(pod))}
        return refused | {kind: said.get(kind) or await self._jobs.unstarted(tenant, kind) for kind in late}


def _postgresql_is_away(error: Unavailable) -> Unreachable:
    named = error.detail.startswith("PostgreSQL")
    return Unreachable(error.detail if named else f"PostgreSQL: {error.detail}")
