"""The steps of a plan, applied to one tenant.

A Secret is the only copy of what it holds. A new password is written to it before PostgreSQL gets it; each look
compares the two. A new S3 key is written to it as soon as S3 has made the key. A Secret that is gone, or whose data
somebody edited, is made again.
"""

from __future__ import annotations

import json
import secrets

import structlog

from media_core.auth import tokens
from media_core.errors import Unavailable
from media_core.store.credentials import S3Key, as_text
from media_operator import render
from media_operator.backends import databases, scanner_canary
from media_operator.backends.bucket_emptying import ObjectsLocked
from media_operator.backends.store_keys import RoleSessions
from media_operator.cluster import kinds
from media_operator.cluster.kinds import Object
from media_operator.cluster.kube import Forbidden, KubeError, NamespaceGone
from media_operator.jobs.worker_jobs import is_finished
from media_operator.kubernetes_target.cluster import Cluster
from media_operator.kubernetes_target.objects import STARTS_PODS, TenantObjects
from media_operator.kubernetes_target.pods import is_working
from media_operator.plan import steps
from media_operator.plan.steps import StepFailed, StepUnfinished
from media_operator.tenant.ownership import NotOwned, OwnerMark

LIVE_SIGNING_KEYS = 2
"""The newest key signs. Tokens of the key before it are accepted, so that issued tokens outlive one rotation."""

_log = structlog.stdlib.get_logger("media.target")


class Applier:
    def __init__(self, cluster: Cluster, objects: TenantObjects) -> None:
        self._cluster = cluster
        self._kube = cluster.kube
        self._backends = cluster.backends
        self._objects = objects
        self._tenant = objects.tenant

    async def apply(self, step: steps.Step) -> None:
        """Raises StepFailed, StepUnfinished, NamespaceGone."""
        try:
            await self._apply(step)
        except NamespaceGone:
            raise  # it will not come back by itself
        except Forbidden as error:
            raise StepFailed(str(error), "PermissionMissing") from error
        except KubeError as error:
            raise StepFailed(str(error)) from error
        except ObjectsLocked as error:
            raise StepFailed(str(error), "ObjectsLocked") from error
        except NotOwned as error:
            raise StepFailed(str(error), "NotOwned") from error
        except Unavailable as error:
            raise StepFailed(f"{error.dependency}: {error.detail}") from error

    async def _apply(self, step: steps.Step) -> None:
        there, tenant, objects = self._backends, self._tenant, self._objects
        match step:
            case steps.HoldDeletion():
                await objects.set_finalizers([*objects.finalizers, kinds.FINALIZER])
            case steps.ReleaseDeletion():
                await objects.set_finalizers([each for each in objects.finalizers if each != kinds.FINALIZER])
            case steps.CreateBucket(bucket, owner, adopt, filled):
                await self._create_bucket(bucket, owner, adopt, filled)
            case steps.AllowOrigins(bucket, owner, cors):
                await there.store_breaker.call(there.buckets.allow_origins, bucket, owner, cors)
            case steps.MakeStoreKey(tenant_id, bucket, rotation):
                await self._make_store_key(tenant_id, bucket, rotation)
            case steps.RevokeStoreKeys(tenant_id):
                await self._revoke_store_keys(tenant_id)
            case steps.CreateDatabase(schema, owner, adopt):
                await self._create_database(schema, owner, adopt)
            case steps.MigrateDatabase(schema, first):
                if not first:
                    await self._end_workers()
                await there.databases.migrate(schema)  # without the breaker: it takes longer than a breaker allows
            case steps.WriteBirth(schema, bucket, tenant_id, renew):
                birth = await there.database_breaker.call(there.databases.birth, schema, renew=renew)
                await there.store_breaker.call(there.buckets.write_birth, bucket, tenant_id, birth)
            case steps.MakeSigningKey(rotation):
                keys = [tokens.generate_key(), *objects.children.signing_keys][:LIVE_SIGNING_KEYS]
                await objects.apply(render.signing_keys_secret(tenant, json.dumps({"keys": keys}), rotation=rotation))
            case steps.ApplyPolicy(policy):
                await there.database_breaker.call(there.databases.apply_policy, tenant.schema_name, policy)
            case steps.RunApi():
                await self._run_api()
            case steps.SendCanary():
                await self._send_canary()
            case steps.TrustSignatures(schema, signatures):
                await there.database_breaker.call(there.databases.trust, schema, signatures)
            case steps.ReleaseOrphans(schema, until):
                await there.database_breaker.call(there.databases.release_orphans, schema, until)
            case steps.StopWorkloads():
                await self._ask_whether_to_delete()
                await self._stop_workloads()
            case steps.DeleteBucket(bucket, owner):
                await self._ask_whether_to_delete()
                emptied = await there.store_breaker.call(there.buckets.empty_and_delete, bucket, owner)
                if not emptied.done:
                    raise StepUnfinished(f"bucket {bucket} is being emptied: {emptied.left}")
                await self._remove_store_keys()
            case steps.DropDatabase(schema, owner):
                await self._ask_whether_to_delete()
                await self._remove_store_keys()
                await there.database_breaker.call(there.databases.drop, schema, owner)
            case steps.DropWorkers(names):
                for job in objects.jobs():
                    if job["metadata"]["name"] in names:
                        await objects.delete_job(job)
            case steps.ShapeWorkers():
                pass  # every Job is made from the spec of that time

    async def _create_bucket(self, bucket: str, owner: OwnerMark, adopt: bool, filled: bool) -> None:
        there, tenant_id = self._backends, self._tenant.tenant_id
        before = (await there.store_breaker.call(there.buckets.observe, bucket)).mark
        if (
            before is not None
            and before.cluster not in ("", owner.cluster)
            and before.relation(owner, adopt=adopt) != "foreign"
        ):
            # Adopted from a cluster that is gone. Its keys would open the bucket for ever.
            await there.iam_breaker.call(there.store_keys.remove, tenant_id, cluster=before.cluster)
        await there.store_breaker.call(
            there.buckets.create, bucket, owner, tenant_id=tenant_id, adopt=adopt, filled=filled
        )

    async def _make_store_key(self, tenant_id: str, bucket: str, rotation: str) -> None:
        there, credentials = self._backends, self._objects.children.credentials
        keys = there.store_keys
        values = dict(credentials)
        if isinstance(keys, RoleSessions):
            session = await there.sts_breaker.call(keys.begin, tenant_id, bucket)
            values[render.S3_FILE] = session.as_text()
        else:
            current = credentials.get(render.S3_KEY_ID)
            keep = [current] if current else []
            made = await there.iam_breaker.call(keys.make, tenant_id, bucket, keep=keep)
            values |= {render.S3_KEY_ID: made.access_key_id, render.S3_SECRET: made.secret}
            if render.S3_FILE in values:  # pods of the time before read it, and nobody renews a temporary key any more
                values[render.S3_FILE] = as_text(S3Key(made.access_key_id, made.secret))
        # Both are made for a new tenant, and one write of the Secret is enough.
        values.setdefault(render.DATABASE_URL, self._database_url())
        await self._objects.apply(render.credentials_secret(self._tenant, values, rotation=rotation))

    async def _revoke_store_keys(self, tenant_id: str) -> None:
        """Also leaves out of the Secret what only pods of another `credentials` needed."""
        there, children = self._backends, self._objects.children
        keys, credentials = there.store_keys, children.credentials
        if isinstance(keys, RoleSessions):
            await there.iam_breaker.call(keys.remove_user, tenant_id, credentials[render.S3_KEY_ID])
        else:
            await there.iam_breaker.call(keys.revoke, tenant_id, keep=[credentials[render.S3_KEY_ID]])
        wanted = render.needed(self._cluster.jobs.store)
        values = {name: value for name, value in credentials.items() if name in wanted}
        if values != credentials:
            secret = render.credentials_secret(self._tenant, values, rotation=children.credentials_rotation)
            await self._objects.apply(secret)

    async def _remove_store_keys(self) -> None:
        there, tenant_id = self._backends, self._tenant.tenant_id
        keys, former = there.store_keys, self._objects.children.credentials.get(render.S3_KEY_ID)
        if isinstance(keys, RoleSessions) and former is not None:
            await there.iam_breaker.call(keys.remove_user, tenant_id, former)
        await there.iam_breaker.call(keys.remove, tenant_id)

    async def _create_database(self, schema: str, owner: OwnerMark, adopt: bool) -> None:
        there, children, url = self._backends, self._objects.children, self._database_url()
        if url != children.credentials.get(render.DATABASE_URL):
            values = {**children.credentials, render.DATABASE_URL: url}
            secret = render.credentials_secret(self._tenant, values, rotation=children.credentials_rotation)
            await self._objects.apply(secret)
        password = databases.password_of(url)
        await there.database_breaker.call(there.databases.create, schema, owner, password, adopt=adopt)

    def _database_url(self) -> str:
        """With the password that the Secret holds, else with a new one."""
        url = self._objects.children.credentials.get(render.DATABASE_URL)
        password = databases.password_of(url) if url else secrets.token_urlsafe(24)
        return self._backends.databases.tenant_url(self._tenant.schema_name, password)

    async def _run_api(self) -> None:
        objects = self._objects
        if not objects.children.has_secrets:
            raise StepFailed("the tenant's Secrets do not exist yet", "WaitingForSecrets")
        jwks_uri = await objects.jwks_uri(fetch=False) or await objects.jwks_uri(fetch=True)
        await objects.apply_workloads(objects.workloads(jwks_uri))

    async def _end_workers(self) -> None:
        """Ends workers of the version before, which would write by other rules. Suspends the CronJobs, too.

        Raises StepUnfinished until none is left. `RunApi` resumes the CronJobs. A worker that is told to end hands
        its work back. Jobs are found by their labels: a Job of a CronJob is owned by that and not by the tenant.
        """
        tenant, namespace, pausing = self._tenant, self._tenant.metadata.namespace, False
        for (kind, name), body in list(self._objects.children.all.items()):
            if kind == kinds.CRON_JOB and not body["spec"].get("suspend"):
                await self._objects.suspend(name)
                pausing = True  # a Job of it may be starting right now; the next pass sees it
        selector = f"{kinds.OURS},{kinds.TENANT_LABEL}={tenant.tenant_id}"
        listed, _ = await self._kube.list(kinds.JOB, namespace, selector=selector)
        ending = []
        for job in listed:
            metadata = job["metadata"]
            if not is_finished(job) and "deletionTimestamp" not in metadata:
                await self._kube.delete(kinds.JOB, namespace, metadata["name"], uid=metadata["uid"])
                _log.info("job_ended", tenant=tenant.tenant_id, job=metadata["name"], reason="the schema is migrated")
                ending.append(metadata["name"])
        ending = ending or [pod["metadata"]["name"] for pod in await self._objects.pods() if is_working(pod)]
        if pausing or ending:
            named = f": {', '.join(sorted(ending)[:3])}" if ending else ""
            raise StepUnfinished(f"workers of the version before have to end before the schema is migrated{named}")

    async def _send_canary(self) -> None:
        credentials = self._objects.children.credentials
        store = self._cluster.jobs.store_settings(self._tenant.bucket, credentials)
        await scanner_canary.send(self._tenant.tenant_id, credentials[render.DATABASE_URL], store)

    async def _ask_whether_to_delete(self) -> None:
        """Asks the API server itself, before data goes: the cache may be old, and etcd may have been set back.

        Raises StepUnfinished if this MediaTenant is not to be deleted with its data, StepFailed if all of them are
        deleted only because their CRD is.
        """
        tenant = self._tenant
        found = await self._kube.get(kinds.MEDIA_TENANT, tenant.metadata.namespace, tenant.metadata.name)
        if found is not None:
            self._cluster.cache.applied(kinds.MEDIA_TENANT, found)
        if found is None or not _is_to_be_deleted(found, tenant.metadata.uid):
            raise StepUnfinished("the MediaTenant is not what it was: it is looked at again")
        if not await self._kube.takes_new(kinds.MEDIA_TENANT):
            raise StepFailed(
                "the CRD of MediaTenants is being deleted, and all MediaTenants with it. That is not taken for a wish "
                "to delete this tenant's data: nothing is stopped or deleted",
                "CrdDeleted",
            )

    async def _stop_workloads(self) -> None:
        for kind, name in list(self._objects.children.all):
            if kind in STARTS_PODS:
                await self._objects.delete(kind, name)
        for job in self._objects.jobs():
            await self._kube.delete(kinds.JOB, self._tenant.metadata.namespace, job["metadata"]["name"])
        if await self._objects.stopped() is not True:
            raise StepUnfinished("api and workers are ending")


def _is_to_be_deleted(body: Object, uid: str) -> bool:
    """With its data. `uid`: that of the MediaTenant that was."""
    metadata, storage = body["metadata"], body.get("spec", {}).get("storage", {})
    return metadata["uid"] == uid and "deletionTimestamp" in metadata and storage.get("deletionPolicy") == "Delete"
