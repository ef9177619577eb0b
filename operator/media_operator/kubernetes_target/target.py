"""The target of the operator: a Kubernetes cluster, one S3 service, one PostgreSQL.

What the cluster holds is read from the cache that the watches feed, never asked for; what S3 and PostgreSQL hold is
asked at every look, each behind its breaker, so that one that is away costs a pass nothing. Nothing is remembered
between two looks.

Secrets are the only copy of what they hold. A new password is written there before PostgreSQL hears of it, which each
look compares; a new S3 key, which S3 makes, right after. A Secret that is gone, or whose data somebody edited, is made
anew.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import structlog

from media_core import tokens
from media_core.errors import Unavailable
from media_core.policy import Policy
from media_operator import render
from media_operator.backends import buckets, databases, notes
from media_operator.backends import scanner_canary as canary
from media_operator.backends.breaker import Breaker
from media_operator.backends.issuers import is_key_source, key_source
from media_operator.backends.store_keys import SharedKey, StoreKeys
from media_operator.cluster import kinds
from media_operator.cluster.cache import Cache, TenantKey, claims, key_of
from media_operator.cluster.kinds import Kind, Object
from media_operator.cluster.kube import Forbidden, Kube, KubeError
from media_operator.jobs.worker_jobs import WorkerJobs, is_finished
from media_operator.plan import desired, observed, steps
from media_operator.reconcile import StepFailed, StepUnfinished
from media_operator.settings import OperatorSettings, PlatformSettings
from media_operator.tenant.annotations import ROTATE_KEYS
from media_operator.tenant.ownership import Mark
from media_operator.tenant.spec import MediaTenant

LIVE_SIGNING_KEYS = 2
"""The newest signs; the one before it is believed, so that tokens that are out outlive one rotation."""


LATE_SECONDS = 120.0
"""A worker's pod that takes longer to come up is worth a word: a node that is added for it takes a minute or two."""

LOST_SECONDS = 60.0
"""A worker's pod that stays for so long after its kill time is lost with its node. No migration waits for it."""

_log = structlog.stdlib.get_logger("media.target")


@dataclass(frozen=True)
class Backends:
    """What lies outside of the cluster, each with the breaker that guards it."""

    databases: databases.Databases
    buckets: buckets.Buckets
    store_keys: StoreKeys | SharedKey
    database_breaker: Breaker = field(default_factory=lambda: Breaker("database"))
    store_breaker: Breaker = field(default_factory=lambda: Breaker("store"))
    iam_breaker: Breaker = field(default_factory=lambda: Breaker("iam"))


class KubernetesTarget:
    """`reconcile.Target` for every tenant of the cluster."""

    def __init__(
        self,
        cluster: str,
        kube: Kube,
        cache: Cache,
        backends: Backends,
        jobs: WorkerJobs,
        platform: PlatformSettings,
        operator: OperatorSettings,
        connection_limit: int,
    ) -> None:
        self._cluster = cluster
        self._kube = kube
        self._cache = cache
        self._backends = backends
        self._jobs = jobs
        self._platform = platform
        self._operator = operator
        self._connection_limit = connection_limit

    # --- observe ----------------------------------------------------------------------------------------------------

    async def observe(self, tenant: MediaTenant) -> observed.ObservedState:
        held = Held(self._cache, tenant)
        deleting = tenant.metadata.deletion_timestamp is not None
        (bucket, contents), store_key, (database, policy, latest, said) = await asyncio.gather(
            self._observe_bucket(tenant),
            self._observe_store_key(tenant, held),
            self._observe_database(tenant, held),
        )
        if contents and isinstance(database, observed.Database):
            database = await self._observe_known(tenant, database, contents)
        return observed.ObservedState(
            bucket=bucket,
            database=database,
            signing_keys=observed.SigningKeys(len(held.signing_keys), held.signing_rotation),
            policy=policy,
            scanner=self._scanner(latest),
            api=await self._observe_api(tenant, held),
            workers=observed.Workers(
                desired.worker_shape_of(tenant),
                self._jobs.trouble(tenant),
                await self._late_workers(tenant),
                self._jobs.outdated(tenant, held.credentials) if held.is_complete(tenant) else (),
            ),
            notes=said,
            store_key=store_key,
            cluster=self._cluster,
            rival=self._rival(tenant),
            host_rival=self._host_rival(tenant),
            held=kinds.FINALIZER in self._finalizers(tenant),
            stopped=await self._observe_stopped(tenant) if deleting else False,
        )

    async def _observe_bucket(
        self, tenant: MediaTenant
    ) -> tuple[observed.Bucket | observed.Unreachable, Sequence[str]]:
        """And the first of its contents, where it does not say to which schema they belong."""
        there = self._backends

        async def look() -> tuple[buckets.BucketFacts, buckets.Born]:
            return await asyncio.gather(
                there.buckets.observe(tenant.bucket), there.buckets.born(tenant.bucket, tenant.tenant_id)
            )

        try:
            seen, born = await there.store_breaker.call(look)
        except Unavailable as error:
            return observed.Unreachable(f"S3: {error.detail}"), ()
        facts = observed.Bucket(seen.exists, seen.mark, seen.empty, seen.capabilities, born.birth, len(born.contents))
        return facts, born.contents

    async def _observe_store_key(self, tenant: MediaTenant, held: Held) -> observed.StoreKey | observed.Unreachable:
        try:
            known = await self._backends.iam_breaker.call(lambda: self._backends.store_keys.observe(tenant.tenant_id))
        except Unavailable as error:
            return observed.Unreachable(f"IAM: {error.detail}")
        current = held.credentials.get(render.S3_KEY_ID, "")
        return observed.StoreKey(
            current=current in known and render.S3_SECRET in held.credentials,
            others=len(set(known) - {current}),
            others_in_use=not held.has_rolled or self._jobs.any_with_other_credentials(tenant, held.credentials),
            rotation=held.rotation,
            shared=self._backends.store_keys.shared,
        )

    async def _observe_database(
        self, tenant: MediaTenant, held: Held
    ) -> tuple[
        observed.Database | observed.Unreachable,
        Policy | observed.Unreachable | None,
        canary.Canary | None,
        observed.Notes | observed.Unreachable,
    ]:
        there, schema = self._backends.databases, tenant.schema_name

        async def look() -> tuple[observed.Database, Policy | None, canary.Canary | None, observed.Notes]:
            url = held.credentials.get(render.DATABASE_URL)
            facts = await there.observe(schema, databases.password_of(url) if url else None)
            if url != self._database_url(tenant, held):
                facts = replace(facts, complete=False)  # the settings say another address by now
            if facts.revision is None or facts.revision not in facts.known_revisions:
                return facts, None, None, observed.Notes()
            async with there.within(schema) as tx:
                return facts, await databases.read_policy(tx), await canary.latest(tx), await notes.read(tx)

        try:
            return await self._backends.database_breaker.call(look)
        except Unavailable as error:
            away = _postgresql_is_away(error)
            return away, away, None, away

    async def _observe_known(
        self, tenant: MediaTenant, facts: observed.Database, contents: Sequence[str]
    ) -> observed.Database | observed.Unreachable:
        there, schema = self._backends, tenant.schema_name
        try:
            known = await there.database_breaker.call(lambda: there.databases.known(schema, contents))
        except Unavailable as error:
            return _postgresql_is_away(error)
        return replace(facts, known=known)

    def _scanner(self, latest: canary.Canary | None) -> observed.Scanner:
        return canary.judge(
            latest,
            datetime.now(UTC),
            every=self._operator.canary_seconds,
            timeout=self._operator.canary_timeout,
        )

    async def _observe_api(self, tenant: MediaTenant, held: Held) -> observed.Api:
        deployment = held.deployment
        if deployment is None or not held.is_complete(tenant):
            return observed.Api(None)
        wanted = self._workloads(tenant, held, await self._jwks_uri(tenant, held, fetch=False))
        status = deployment.get("status", {})
        current = status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
        replicas = deployment["spec"].get("replicas", 0)
        ready = status.get("availableReplicas", 0)
        complete = current and status.get("updatedReplicas", 0) == status.get("replicas", 0) == ready == replicas
        as_declared = not self._drifted(tenant, wanted) and not self._surplus(tenant, wanted)
        return observed.Api(
            shape=desired.api_shape_of(tenant) if as_declared else None,
            wanted=replicas,
            ready=ready,
            trouble=None if complete else await self._trouble(tenant, deployment),
            rolling=not complete,
        )

    async def _observe_stopped(self, tenant: MediaTenant) -> bool | observed.Unreachable:
        if any(kind in _RUNNING for kind, _ in self._cache.children(key_of(tenant))):
            return False
        if self._cache.jobs(key_of(tenant)):
            return False
        try:
            return not await self._pods(tenant)
        except KubeError as error:
            return observed.Unreachable(str(error))

    async def _pods(self, tenant: MediaTenant) -> list[Object]:
        selector = f"{kinds.TENANT_LABEL}={tenant.tenant_id}"
        return (await self._kube.list(kinds.POD, tenant.metadata.namespace, selector=selector))[0]

    async def _trouble(self, tenant: MediaTenant, deployment: Object) -> str | None:
        """Why pods of the api do not come up, in the words of whoever says so first: kubelet, scheduler, quota."""
        for condition in deployment.get("status", {}).get("conditions", []):
            if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
                return str(condition.get("message", condition.get("reason")))
        if deployment.get("status", {}).get("unavailableReplicas", 0) == 0:
            return None
        try:
            pods = await self._pods(tenant)
        except KubeError:
            return None  # a guess is worth less than silence
        return next((words for pod in pods if (words := _pod_trouble(pod))), None)

    def workers_starting(self, tenant: MediaTenant) -> list[float]:
        """How many seconds ago."""
        return list(self._jobs.starting(tenant).values())

    async def _late_workers(self, tenant: MediaTenant) -> dict[str, str]:
        refused = dict(self._jobs.refused(tenant))
        late = {kind for kind, seconds in self._jobs.starting(tenant).items() if seconds >= LATE_SECONDS}
        if not late:
            return refused
        try:
            pods = await self._pods(tenant)
        except KubeError:
            return refused
        said = {pod["metadata"]["labels"].get(kinds.WORK_LABEL): words for pod in pods if (words := _pod_trouble(pod))}
        return refused | {kind: said.get(kind) or self._jobs.unstarted(tenant, kind) for kind in late}

    def _rival(self, tenant: MediaTenant) -> str | None:
        """Who has the same id or bucket and was there first."""
        mine = tenant.metadata
        for key, other in self._cache.tenants().items():
            metadata = other["metadata"]
            if metadata["uid"] == mine.uid:
                continue
            theirs = claims(other)
            same = [f"tenantId {theirs.tenant_id}"] if theirs.tenant_id == tenant.tenant_id else []
            same += [f"bucket {theirs.bucket}"] if theirs.bucket == tenant.bucket else []
            first = (metadata["creationTimestamp"], metadata["uid"]) < (mine.creation_timestamp or "", mine.uid)
            if same and first:
                return f"MediaTenant {key.namespace}/{key.name} was there first and has {' and '.join(same)}"
        return None

    def _host_rival(self, tenant: MediaTenant) -> str | None:
        """Who is served at the same host already. Anybody may declare one at any time: being first at it is nothing."""
        host, key = tenant.spec.api.host, key_of(tenant)
        if host is None or self._serves(key, host):
            return None
        for other, body in self._cache.tenants().items():
            if other != key and claims(body).host == host and self._serves(other, host):
                return f"MediaTenant {other.namespace}/{other.name} is served at {host}"
        return None

    def _serves(self, key: TenantKey, host: str) -> bool:
        for (kind, _), body in self._cache.children(key).items():
            spec = body.get("spec", {})
            hosts = spec.get("hostnames", []) if kind == kinds.HTTP_ROUTE else []
            if kind == kinds.INGRESS:
                hosts = [rule.get("host") for rule in spec.get("rules", [])]
            if host in hosts:
                return True
        return False

    # --- what the children have to be -------------------------------------------------------------------------------

    async def _jwks_uri(self, tenant: MediaTenant, held: Held, *, fetch: bool) -> str | None:
        """As declared, else as its issuer said for the running Deployment: an issuer that is away stops nothing."""
        oidc = tenant.spec.auth.oidc
        if oidc is None:
            return None
        if oidc.jwks_uri is not None:
            return oidc.jwks_uri
        if fetch:
            return await key_source(oidc)
        same = held.environment.get("MEDIA_OIDC_ISSUER") == oidc.issuer
        said = _annotation(held.deployment, kinds.DISCOVERED_JWKS_URI)
        return said if same and is_key_source(said) else ""

    def _workloads(self, tenant: MediaTenant, held: Held, jwks_uri: str | None) -> list[Object]:
        jwks = json.dumps(tokens.public_jwks(held.signing_keys), sort_keys=True)
        inputs = render.Inputs(held.credentials, jwks, jwks_uri, self._connection_limit)
        return [render.stamped(each) for each in render.workloads(tenant, self._platform, self._jobs.store, inputs)]

    def _drifted(self, tenant: MediaTenant, wanted: Sequence[Object]) -> list[Object]:
        live = self._cache.children(key_of(tenant))
        return [
            each
            for each in wanted
            if (found := live.get((kinds.of(each), each["metadata"]["name"]))) is None
            or not render.matches(each, found)
        ]

    def _surplus(self, tenant: MediaTenant, wanted: Sequence[Object]) -> list[tuple[Kind, str]]:
        """Children of an earlier spec; Secrets have their own life."""
        names = {(kinds.of(each), each["metadata"]["name"]) for each in wanted}
        return [
            (kind, name)
            for kind, name in self._cache.children(key_of(tenant))
            if kind != kinds.SECRET and (kind, name) not in names
        ]

    # --- carry out --------------------------------------------------------------------------------------------------

    async def apply(self, tenant: MediaTenant, step: steps.Step) -> None:
        try:
            await self._carry_out(tenant, step)
        except Forbidden as error:
            raise StepFailed(str(error), "PermissionMissing") from error
        except KubeError as error:
            raise StepFailed(str(error)) from error
        except buckets.ObjectsLocked as error:
            raise StepFailed(str(error), "ObjectsLocked") from error
        except (buckets.NotOwned, databases.NotOwned) as error:
            raise StepFailed(str(error), "NotOwned") from error
        except Unavailable as error:
            raise StepFailed(f"{error.dependency}: {error.detail}") from error

    async def _carry_out(self, tenant: MediaTenant, step: steps.Step) -> None:
        there = self._backends
        match step:
            case steps.HoldDeletion():
                await self._set_finalizers(tenant, [*self._finalizers(tenant), kinds.FINALIZER])
            case steps.ReleaseDeletion():
                left = [each for each in self._finalizers(tenant) if each != kinds.FINALIZER]
                await self._set_finalizers(tenant, left)
            case steps.CreateBucket(bucket, owner, adopt):
                await self._create_bucket(tenant.tenant_id, bucket, owner, adopt)
            case steps.MakeStoreKey(tenant_id, bucket, rotation):
                await self._make_store_key(tenant, tenant_id, bucket, rotation)
            case steps.RevokeStoreKeys(tenant_id):
                current = Held(self._cache, tenant).credentials[render.S3_KEY_ID]
                await there.iam_breaker.call(lambda: there.store_keys.revoke(tenant_id, keep=[current]))
            case steps.CreateDatabase(schema, owner, adopt):
                await self._create_database(tenant, schema, owner, adopt)
            case steps.MigrateDatabase(schema):
                if await there.database_breaker.call(lambda: there.databases.is_outdated(schema)):
                    await self._end_workers(tenant)
                await there.databases.migrate(schema)  # takes too long for a breaker's one try
            case steps.WriteBirth(schema, bucket, tenant_id, renew):
                birth = await there.database_breaker.call(lambda: there.databases.birth(schema, renew=renew))
                await there.store_breaker.call(lambda: there.buckets.write_birth(bucket, tenant_id, birth))
            case steps.MakeSigningKey(_, rotation):
                keys = [tokens.generate_key(), *Held(self._cache, tenant).signing_keys][:LIVE_SIGNING_KEYS]
                await self._apply(render.signing_keys_secret(tenant, json.dumps({"keys": keys}), rotation=rotation))
            case steps.ApplyPolicy(policy):
                await there.database_breaker.call(lambda: there.databases.apply_policy(tenant.schema_name, policy))
            case steps.RunApi():
                await self._apply_workloads(tenant)
            case steps.SendCanary():
                await self._send_canary(tenant)
            case steps.TrustSignatures(schema, signatures):
                await there.database_breaker.call(lambda: there.databases.trust(schema, signatures))
            case steps.ReleaseOrphans(schema, until):
                await there.database_breaker.call(lambda: there.databases.release_orphans(schema, until))
            case steps.StopWorkloads():
                await self._stop_workloads(tenant)
            case steps.DeleteBucket(bucket, owner):
                emptied = await there.store_breaker.call(lambda: there.buckets.empty_and_delete(bucket, owner))
                if not emptied.done:
                    raise StepUnfinished(f"bucket {bucket} is being emptied: {emptied.deleted} objects in this pass")
                await there.iam_breaker.call(lambda: there.store_keys.remove(tenant.tenant_id))
            case steps.DropDatabase(schema, owner):
                await there.iam_breaker.call(lambda: there.store_keys.remove(tenant.tenant_id))
                await there.database_breaker.call(lambda: there.databases.drop(schema, owner))
            case steps.DropWorkers(names):
                for job in list(self._cache.jobs(key_of(tenant))):
                    metadata = job["metadata"]
                    if metadata["name"] in names and await self._kube.delete(
                        kinds.JOB, metadata["namespace"], metadata["name"], uid=metadata["uid"]
                    ):
                        self._cache.see(kinds.JOB, "DELETED", job)
            case steps.ShapeWorkers():
                pass  # every Job is made from the spec of its moment

    def _finalizers(self, tenant: MediaTenant) -> list[str]:
        """As they are now; `tenant` is what was declared when this pass began."""
        body = self._cache.tenants().get(key_of(tenant), {})
        found: list[str] = body.get("metadata", {}).get("finalizers", [])
        return found

    async def _set_finalizers(self, tenant: MediaTenant, finalizers: list[str]) -> None:
        """Only over what was seen: another's finalizer that came meanwhile is not lost."""
        key = key_of(tenant)
        seen = self._cache.tenants().get(key)
        if seen is None:
            return
        metadata = {"resourceVersion": seen["metadata"]["resourceVersion"], "finalizers": finalizers}
        body = await self._kube.merge_patch(kinds.MEDIA_TENANT, key.namespace, key.name, {"metadata": metadata})
        self._cache.applied(kinds.MEDIA_TENANT, body)

    async def _create_bucket(self, tenant_id: str, bucket: str, owner: Mark, adopt: bool) -> None:
        there = self._backends
        before = (await there.store_breaker.call(lambda: there.buckets.observe(bucket))).mark
        if (
            before is not None
            and before.cluster not in ("", owner.cluster)
            and before.relation(owner, adopt=adopt) != "foreign"
        ):
            # Adopted from a cluster that is gone: its keys would open the bucket for ever.
            await there.iam_breaker.call(lambda: there.store_keys.remove(tenant_id, cluster=before.cluster))
        await there.store_breaker.call(lambda: there.buckets.create(bucket, owner, tenant_id=tenant_id, adopt=adopt))

    async def _make_store_key(self, tenant: MediaTenant, tenant_id: str, bucket: str, rotation: str) -> None:
        held = Held(self._cache, tenant)
        current = held.credentials.get(render.S3_KEY_ID)
        keep = [current] if current else []
        made = await self._backends.iam_breaker.call(
            lambda: self._backends.store_keys.make(tenant_id, bucket, keep=keep)
        )
        values = {**held.credentials, render.S3_KEY_ID: made.access_key_id, render.S3_SECRET: made.secret}
        # Both are made for a new tenant, and one write of the Secret is enough.
        values.setdefault(render.DATABASE_URL, self._database_url(tenant, held))
        await self._apply(render.credentials_secret(tenant, values, rotation=rotation))

    async def _create_database(self, tenant: MediaTenant, schema: str, owner: Mark, adopt: bool) -> None:
        held = Held(self._cache, tenant)
        there = self._backends
        url = self._database_url(tenant, held)
        if url != held.credentials.get(render.DATABASE_URL):
            values = {**held.credentials, render.DATABASE_URL: url}
            await self._apply(render.credentials_secret(tenant, values, rotation=held.rotation))
        password = databases.password_of(url)
        await there.database_breaker.call(lambda: there.databases.create(schema, owner, password, adopt=adopt))

    def _database_url(self, tenant: MediaTenant, held: Held) -> str:
        """With the password that the Secret holds, else with a new one."""
        url = held.credentials.get(render.DATABASE_URL)
        password = databases.password_of(url) if url else secrets.token_urlsafe(24)
        return self._backends.databases.tenant_url(tenant.schema_name, password)

    async def _apply_workloads(self, tenant: MediaTenant) -> None:
        held = Held(self._cache, tenant)
        if not held.is_complete(tenant):
            raise StepFailed("its Secrets are not there yet", "WaitingForSecrets")
        jwks_uri = await self._jwks_uri(tenant, held, fetch=False) or await self._jwks_uri(tenant, held, fetch=True)
        wanted = self._workloads(tenant, held, jwks_uri)
        live = self._cache.children(key_of(tenant))
        for each in self._drifted(tenant, wanted):
            there = live.get((kinds.of(each), each["metadata"]["name"]))
            if there is not None and (handed := render.replicas_handed_over(each, there)) is not None:
                await self._kube.apply(kinds.of(handed), handed, manager=render.HANDOVER)
            await self._apply(each)
        for kind, name in self._surplus(tenant, wanted):
            await self._delete(tenant, kind, name)

    async def _apply(self, body: Object) -> None:
        kind = kinds.of(body)
        self._cache.applied(kind, await self._kube.apply(kind, body))

    async def _delete(self, tenant: MediaTenant, kind: Kind, name: str) -> None:
        namespace = tenant.metadata.namespace
        body = self._cache.children(key_of(tenant)).get((kind, name))
        await self._kube.delete(kind, namespace, name)
        if body is not None:
            self._cache.see(kind, "DELETED", body)

    async def _end_workers(self, tenant: MediaTenant) -> None:
        """Of the version before, whose rules are others. Returns once none is left and no CronJob starts one; until
        then it raises StepUnfinished. `RunApi` sets the CronJobs right again.

        A worker that is told to end hands its work back. A Job that a CronJob made is owned by that and not by the
        tenant, so they are found by their labels.
        """
        namespace, pausing = tenant.metadata.namespace, False
        for (kind, name), body in list(self._cache.children(key_of(tenant)).items()):
            if kind == kinds.CRON_JOB and not body["spec"].get("suspend"):
                paused = await self._kube.merge_patch(kind, namespace, name, {"spec": {"suspend": True}})
                self._cache.applied(kind, paused)
                pausing = True  # one may be starting right now, and is seen in the next pass
        selector = f"{kinds.OURS},{kinds.TENANT_LABEL}={tenant.tenant_id}"
        listed, _ = await self._kube.list(kinds.JOB, namespace, selector=selector)
        ending = []
        for job in listed:
            metadata = job["metadata"]
            if not is_finished(job) and "deletionTimestamp" not in metadata:
                await self._kube.delete(kinds.JOB, namespace, metadata["name"], uid=metadata["uid"])
                _log.info("job_ended", tenant=tenant.tenant_id, job=metadata["name"], reason="the schema is migrated")
                ending.append(metadata["name"])
        ending = ending or [pod["metadata"]["name"] for pod in await self._pods(tenant) if _is_working(pod)]
        if pausing or ending:
            named = f": {', '.join(sorted(ending)[:3])}" if ending else ""
            raise StepUnfinished(f"before the schema is migrated, workers of the version before end{named}")

    async def _send_canary(self, tenant: MediaTenant) -> None:
        credentials = Held(self._cache, tenant).credentials
        await canary.send(
            tenant.tenant_id, credentials[render.DATABASE_URL], self._jobs.store_settings(tenant.bucket, credentials)
        )

    async def _stop_workloads(self, tenant: MediaTenant) -> None:
        for kind, name in list(self._cache.children(key_of(tenant))):
            if kind in _RUNNING:
                await self._delete(tenant, kind, name)
        for job in list(self._cache.jobs(key_of(tenant))):
            await self._kube.delete(kinds.JOB, tenant.metadata.namespace, job["metadata"]["name"])
        if await self._observe_stopped(tenant) is not True:
            raise StepUnfinished("api and workers are ending")

    # --- what a tenant that is gone left behind ---------------------------------------------------------------------

    async def retire(self, schema: str, mark: Mark) -> None:
        """Bucket and schema say that they are kept for their owner's namesake; its keys stop working.

        Only over this very mark: a namesake that adopts them meanwhile keeps them, and makes itself another S3 key.
        Raises Unavailable.
        """
        there = self._backends
        tenant_id = databases.tenant_id_of(schema)
        await there.iam_breaker.call(lambda: there.store_keys.remove(tenant_id))
        if mark.bucket:
            await there.store_breaker.call(lambda: there.buckets.retire(mark.bucket, mark))
        await there.database_breaker.call(lambda: there.databases.retire(schema, mark))


_RUNNING = (kinds.DEPLOYMENT, kinds.HPA, kinds.CRON_JOB)
"""What starts pods, and what would undo their end."""


class Held:
    """What the cluster holds of one tenant, as the cache has it now."""

    def __init__(self, cache: Cache, tenant: MediaTenant) -> None:
        children: Mapping[tuple[Kind, str], Object] = cache.children(key_of(tenant))
        name = kinds.child_name(tenant.tenant_id)
        credentials = _intact(children.get((kinds.SECRET, kinds.child_name(tenant.tenant_id, "credentials"))))
        signing = _intact(children.get((kinds.SECRET, kinds.child_name(tenant.tenant_id, "signing-keys"))))
        self.deployment = children.get((kinds.DEPLOYMENT, name))
        self.credentials: Mapping[str, str] = render.secret_values(credentials) if credentials else {}
        self.rotation = _annotation(credentials, ROTATE_KEYS)
        self.signing_keys: list[tokens.Jwk] = _signing_keys(signing)
        self.signing_rotation = _annotation(signing, ROTATE_KEYS)

    def is_complete(self, tenant: MediaTenant) -> bool:
        needed = {render.DATABASE_URL, render.S3_KEY_ID, render.S3_SECRET}
        return needed <= self.credentials.keys() and (bool(self.signing_keys) or tenant.spec.auth.oidc is not None)

    @property
    def has_rolled(self) -> bool:
        """Every api pod was started with the credentials of now."""
        if self.deployment is None:
            return True
        status, generation = self.deployment.get("status", {}), self.deployment["metadata"].get("generation", 0)
        told = render.credentials_hash(self.credentials)
        template = self.deployment["spec"]["template"]["metadata"].get("annotations", {})
        return bool(
            template.get(kinds.CREDENTIALS) == told
            and status.get("observedGeneration", 0) >= generation
            and status.get("updatedReplicas", 0) == status.get("replicas", 0)
        )

    @property
    def environment(self) -> Mapping[str, str]:
        """Plain variables of the api's container."""
        if self.deployment is None:
            return {}
        containers = self.deployment["spec"]["template"]["spec"]["containers"]
        return {each["name"]: each.get("value", "") for container in containers for each in container.get("env", [])}


def _postgresql_is_away(error: Unavailable) -> observed.Unreachable:
    return observed.Unreachable(f"PostgreSQL: {error.detail.removeprefix('PostgreSQL ')}")


def _intact(secret: Object | None) -> Object | None:
    return secret if secret is not None and render.secret_is_intact(secret) else None


def _annotation(body: Object | None, name: str) -> str:
    return str((body or {}).get("metadata", {}).get("annotations", {}).get(name, ""))


def _signing_keys(secret: Object | None) -> list[tokens.Jwk]:
    if secret is None:
        return []
    keys: list[tokens.Jwk] = json.loads(render.secret_values(secret)[render.SIGNING_KEYS])["keys"]
    return keys


def _is_working(pod: Object) -> bool:
    """Whether it is a worker's and may still do something."""
    metadata = pod["metadata"]
    if metadata["labels"].get("app.kubernetes.io/component") != "worker":
        return False
    if pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return False
    killed = metadata.get("deletionTimestamp")  # when its time to end by itself is over
    return killed is None or (datetime.now(UTC) - datetime.fromisoformat(killed)).total_seconds() < LOST_SECONDS


def _pod_trouble(pod: Object) -> str | None:
    name, status = pod["metadata"]["name"], pod.get("status", {})
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        waiting = container.get("state", {}).get("waiting", {})
        ended = container.get("lastState", {}).get("terminated", {})
        if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            said = (ended.get("message") or waiting.get("message") or "").strip().splitlines()
            return f"pod {name}: {waiting['reason']}" + (f": {said[-1]}" if said else "")
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"pod {name} finds no node: {condition.get('message', condition.get('reason'))}"
    return None
