"""One tenant's objects in the cluster, for one pass: those that exist, those that are wanted, and writes."""

from __future__ import annotations

import json
from collections.abc import Sequence

import structlog

from media_core.auth import tokens
from media_operator import render
from media_operator.backends.issuers import is_issuer_url, jwks_uri
from media_operator.cluster import kinds
from media_operator.cluster.cache import NamespacedName, key_of
from media_operator.cluster.kinds import Kind, Object
from media_operator.cluster.kube import KubeError
from media_operator.kubernetes_target.children import Children, annotation
from media_operator.kubernetes_target.cluster import Cluster
from media_operator.plan.observed import Unreachable
from media_operator.tenant.spec import MediaTenant

STARTS_PODS = (kinds.DEPLOYMENT, kinds.HPA, kinds.CRON_JOB)
"""Kinds of objects that start pods, or would start them again."""

_log = structlog.stdlib.get_logger("media.target")


class TenantObjects:
    """Existing objects are read once a look, and again after each write of ours. Wanted ones are rendered once.

    Admission may change what we apply: policy engines rewrite the registry of images. What it made of an object is as
    wanted, as long as the same is wanted. To apply it again would change nothing, for ever. The cache remembers it.
    """

    def __init__(self, cluster: Cluster, tenant: MediaTenant) -> None:
        self.tenant = tenant
        self.key = key_of(tenant)
        self._cluster = cluster
        self._kube, self._cache = cluster.kube, cluster.cache
        self._children: Children | None = None
        self._rendered: tuple[render.Inputs, list[Object]] | None = None

    # --- what is there ----------------------------------------------------------------------------------------------

    @property
    def children(self) -> Children:
        if self._children is None:
            self._children = Children(self._cache, self.tenant, self._cluster.jobs.store)
        return self._children

    def look_again(self) -> None:
        self._children = None

    def jobs(self) -> list[Object]:
        return list(self._cache.jobs(self.key))

    async def pods(self) -> list[Object]:
        """Asked of the API server: no watch follows pods. Raises KubeError."""
        selector = f"{kinds.TENANT_LABEL}={self.tenant.tenant_id}"
        return (await self._kube.list(kinds.POD, self.tenant.metadata.namespace, selector=selector))[0]

    async def stopped(self) -> bool | Unreachable:
        """No pod of the tenant is left, and no object that starts one."""
        if any(kind in STARTS_PODS for kind, _ in self.children.all) or self.jobs():
            return False
        try:
            return not await self.pods()
        except KubeError as error:
            return Unreachable(str(error))

    @property
    def finalizers(self) -> list[str]:
        """As they are now. `tenant` has those of the time when this pass began."""
        body = self._cache.tenants().get(self.key, {})
        found: list[str] = body.get("metadata", {}).get("finalizers", [])
        return found

    # --- what is wanted ---------------------------------------------------------------------------------------------

    def workloads(self, jwks_uri: str | None) -> Sequence[Object]:
        """Rendered again only when their inputs have changed."""
        jwks = json.dumps(tokens.public_jwks(self.children.signing_keys), sort_keys=True)
        inputs = render.Inputs(self.children.credentials, jwks, jwks_uri, self._cluster.connection_limit)
        if self._rendered is None or self._rendered[0] != inputs:
            made = render.workloads(self.tenant, self._cluster.platform, self._cluster.jobs.store, inputs)
            self._rendered = inputs, [render.stamped(each) for each in made]
        return self._rendered[1]

    async def jwks_uri(self, *, fetch: bool) -> str | None:
        """From the spec, else as the issuer said for the running Deployment: so an issuer that is away stops nothing.

        `fetch`: the issuer is asked instead. Empty: not known. None: the tenant has no issuer. Raises StepFailed.
        """
        oidc = self.tenant.spec.auth.oidc
        if oidc is None:
            return None
        if oidc.jwks_uri is not None:
            return oidc.jwks_uri
        if fetch:
            return await jwks_uri(oidc)
        same = self.children.api_environment.get("MEDIA_OIDC_ISSUER") == oidc.issuer
        said = annotation(self.children.deployment, kinds.DISCOVERED_JWKS_URI)
        return said if same and is_issuer_url(said) else ""

    def drifted(self, wanted: Sequence[Object]) -> list[Object]:
        """Those of `wanted` that do not exist or differ."""
        return [each for each in wanted if (found := self._found(each)) is None or not self._as_wanted(each, found)]

    def _as_wanted(self, wanted: Object, found: Object) -> bool:
        if render.matches(wanted, found):
            return True
        admitted = self._cache.admitted.get(self._place(wanted))
        return admitted is not None and admitted == (wanted, render.in_place_of(wanted, found))

    def surplus(self, wanted: Sequence[Object]) -> list[tuple[Kind, str]]:
        """Children that only an earlier spec wanted. Secrets are left out."""
        names = {(kinds.of(each), each["metadata"]["name"]) for each in wanted}
        return [(kind, name) for kind, name in self.children.all if kind != kinds.SECRET and (kind, name) not in names]

    def _found(self, body: Object) -> Object | None:
        return self.children.all.get((kinds.of(body), body["metadata"]["name"]))

    @staticmethod
    def _place(body: Object) -> tuple[Kind, NamespacedName]:
        return kinds.of(body), NamespacedName(body["metadata"]["namespace"], body["metadata"]["name"])

    # --- writes -----------------------------------------------------------------------------------------------------

    async def apply_workloads(self, wanted: Sequence[Object]) -> None:
        """Applies what differs and deletes what is surplus. Raises KubeError."""
        for each in self.drifted(wanted):
            found = self._found(each)
            if found is not None and (handed := render.replicas_handed_over(each, found)) is not None:
                await self._kube.apply(kinds.of(handed), handed, manager=render.HANDOVER)
            made = await self.apply(each)
            if not render.matches(each, made):
                if self._place(each) not in self._cache.admitted:
                    _log.info("changed_by_admission", kind=each["kind"], **self._place(each)[1]._asdict())
                self._cache.admitted[self._place(each)] = (each, render.in_place_of(each, made))
        for kind, name in self.surplus(wanted):
            await self.delete(kind, name)

    async def apply(self, body: Object) -> Object:
        """Returns what the API server made of it."""
        body = render.with_further(self._cluster.platform, body)
        made = await self._kube.apply(kinds.of(body), body)
        self._written(kinds.of(body), made)
        return made

    async def suspend(self, cron_job: str) -> None:
        namespace, patch = self.tenant.metadata.namespace, {"spec": {"suspend": True}}
        self._written(kinds.CRON_JOB, await self._kube.merge_patch(kinds.CRON_JOB, namespace, cron_job, patch))

    async def delete(self, kind: Kind, name: str) -> None:
        body = self.children.all.get((kind, name))
        await self._kube.delete(kind, self.tenant.metadata.namespace, name)
        if body is not None:
            self._cache.see(kind, "DELETED", body)
            self.look_again()

    async def delete_job(self, job: Object) -> None:
        """Only this Job, by its uid: never a later one of the same name."""
        metadata = job["metadata"]
        if await self._kube.delete(kinds.JOB, metadata["namespace"], metadata["name"], uid=metadata["uid"]):
            self._cache.see(kinds.JOB, "DELETED", job)

    async def set_finalizers(self, finalizers: list[str]) -> None:
        """Fails if the resource has changed since it was seen, so that a finalizer of somebody else is not lost."""
        seen = self._cache.tenants().get(self.key)
        if seen is None:
            return
        metadata = {"resourceVersion": seen["metadata"]["resourceVersion"], "finalizers": finalizers}
        patch = {"metadata": metadata}
        body = await self._kube.merge_patch(kinds.MEDIA_TENANT, self.key.namespace, self.key.name, patch)
        self._written(kinds.MEDIA_TENANT, body)

    def _written(self, kind: Kind, answer: Object) -> None:
        self._cache.applied(kind, answer)
        self.look_again()
