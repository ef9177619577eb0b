"""What the operator does with the previous version's workers before it migrates a tenant's schema."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from media_core.errors import Unavailable
from media_operator import render
from media_operator.backends.backends import Backends
from media_operator.cluster import kinds
from media_operator.cluster.cache import Cache, key_of
from media_operator.cluster.kinds import Kind, Object
from media_operator.cluster.kube import Forbidden, Invalid, KubeError
from media_operator.jobs.worker_jobs import WorkerJobs
from media_operator.kubernetes_target.cluster import Cluster
from media_operator.kubernetes_target.objects import TenantObjects
from media_operator.kubernetes_target.pods import LOST_SECONDS
from media_operator.kubernetes_target.target import KubernetesTarget
from media_operator.plan import steps
from media_operator.plan.steps import StepFailed, StepUnfinished
from media_operator.settings import OperatorSettings
from tests.unit.operator.render_cases import CASES, Case

CASE = Case()
TENANT = CASE.tenant()
OF_TENANT = f"{kinds.MANAGED_BY}={kinds.MANAGER},{kinds.TENANT_LABEL}=acme"
STEP = steps.MigrateDatabase("tenant_acme")
WORKER = {kinds.TENANT_LABEL: "acme", "app.kubernetes.io/component": "worker"}


class Api:
    """Jobs, pods and CronJobs as the API server has them. `done`: the calls to it, without reads."""

    def __init__(self) -> None:
        self.jobs: list[Object] = []
        self.pods: list[Object] = []
        self.cron_jobs: dict[str, Object] = {}
        self.refusal: KubeError | None = None
        self.done: list[tuple[str, ...]] = []

    async def list(self, kind: Kind, namespace: str, *, selector: str) -> tuple[list[Object], str]:
        assert namespace == TENANT.metadata.namespace
        if kind == kinds.JOB:
            assert selector == OF_TENANT
            return list(self.jobs), "9"
        assert (kind, selector) == (kinds.POD, f"{kinds.TENANT_LABEL}=acme")
        return list(self.pods), "9"

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str | None = None) -> bool:
        if self.refusal is not None:
            raise self.refusal
        assert (kind, uid) == (kinds.JOB, f"uid-of-{name}")
        self.done.append(("delete", name))
        self.jobs = [job for job in self.jobs if job["metadata"]["name"] != name]
        return True

    async def merge_patch(self, kind: Kind, namespace: str, name: str, patch: Object) -> Object:
        assert (kind, patch) == (kinds.CRON_JOB, {"spec": {"suspend": True}})
        self.done.append(("suspend", name))
        body = self.cron_jobs[name]
        metadata = {**body["metadata"], "resourceVersion": "2"}
        self.cron_jobs[name] = {**body, "metadata": metadata, "spec": {**body["spec"], "suspend": True}}
        return self.cron_jobs[name]


class Schema:
    def __init__(self, done: list[tuple[str, ...]]) -> None:
        self.away = False
        self._done = done

    async def migrate(self, schema: str) -> None:
        if self.away:
            raise Unavailable("database", "PostgreSQL does not answer")
        self._done.append(("migrate", schema))


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def schema(api: Api) -> Schema:
    return Schema(api.done)


@pytest.fixture
def cache(api: Api) -> Cache:
    """A cache with the CronJobs of a running tenant."""
    cache = Cache()
    for each in CASE.workloads(TENANT):
        if kinds.of(each) == kinds.CRON_JOB:
            body = render.stamped(each)
            body["metadata"]["resourceVersion"] = "1"
            api.cron_jobs[body["metadata"]["name"]] = body
            cache.see(kinds.CRON_JOB, None, body)
    return cache


@pytest.fixture
def cluster(api: Api, cache: Cache, schema: Schema) -> Cluster:
    backends = Backends(schema, None, None)  # type: ignore[arg-type]  neither bucket nor keys are asked for
    platform, store = CASE.platform_settings, CASE.store_settings
    jobs = WorkerJobs(api, cache, platform, store, 60, lambda: True)  # type: ignore[arg-type]
    return Cluster("c", api, cache, backends, jobs, platform, OperatorSettings(), 60)  # type: ignore[arg-type]


def job(name: str, **status: Any) -> Object:
    return {"metadata": {"name": name, "uid": f"uid-of-{name}", "labels": WORKER}, "status": status}


def pod(name: str, *, phase: str = "Running", killed: float | None = None, component: str = "worker") -> Object:
    """`killed`: seconds since its grace period ended."""
    labels = {**WORKER, "app.kubernetes.io/component": component}
    metadata: Object = {"name": name, "labels": labels}
    if killed is not None:
        metadata["deletionTimestamp"] = (datetime.now(UTC) - timedelta(seconds=killed)).isoformat()
    return {"metadata": metadata, "status": {"phase": phase}}


def migrate(cluster: Cluster, step: steps.MigrateDatabase = STEP) -> None:
    """In a pass of its own."""
    asyncio.run(KubernetesTarget(cluster, TENANT).apply(step))


def paused(api: Api, cache: Cache) -> None:
    """The state after the first pass."""
    for body in api.cron_jobs.values():
        body["spec"]["suspend"] = True
        body["metadata"]["resourceVersion"] = "2"
        cache.see(kinds.CRON_JOB, None, body)


def test_what_the_version_before_runs_ends_first(cluster: Cluster, api: Api) -> None:
    ended = job("mt-acme-scan-1", conditions=[{"type": "Complete", "status": "True"}])
    api.jobs = [job("mt-acme-transcribe-1", ready=1), job("mt-acme-sweep-2930", ready=1), ended]
    with pytest.raises(StepUnfinished, match=r"the schema is migrated: mt-acme-sweep-2930, mt-acme-transc"):
        migrate(cluster)
    assert sorted(api.done[:2]) == [("suspend", "mt-acme-rescan"), ("suspend", "mt-acme-sweep")]
    assert api.done[2:] == [("delete", "mt-acme-transcribe-1"), ("delete", "mt-acme-sweep-2930")]
    assert api.jobs == [ended]

    api.pods = [pod("mt-acme-transcribe-1-x", killed=-50), pod("mt-acme-0", component="api")]
    with pytest.raises(StepUnfinished, match=r"migrated: mt-acme-transcribe-1-x$"):
        migrate(cluster)
    api.pods = api.pods[1:]
    migrate(cluster)
    assert api.done[4:] == [("migrate", "tenant_acme")]


def test_a_job_that_a_cronjob_started_while_it_was_suspended_is_seen(cluster: Cluster, api: Api) -> None:
    with pytest.raises(StepUnfinished):
        migrate(cluster)
    api.jobs = [job("mt-acme-sweep-2931")]
    with pytest.raises(StepUnfinished, match="mt-acme-sweep-2931"):
        migrate(cluster)
    migrate(cluster)
    assert api.done[2:] == [("delete", "mt-acme-sweep-2931"), ("migrate", "tenant_acme")]


def test_a_first_schema_ends_nobodys_work(cluster: Cluster, api: Api) -> None:
    api.jobs = [job("mt-acme-scan-1", ready=1)]
    migrate(cluster, steps.MigrateDatabase("tenant_acme", first=True))
    assert api.done == [("migrate", "tenant_acme")]


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (Invalid("Job mt-acme-scan-1: admission webhook denied the request", 403), ""),
        (Forbidden("the operator's service account lacks the permission to delete jobs", 403), "PermissionMissing"),
    ],
)
def test_a_job_that_may_not_be_deleted_is_said_and_tried_again(
    cluster: Cluster, api: Api, cache: Cache, refusal: KubeError, reason: str
) -> None:
    paused(api, cache)
    api.jobs, api.refusal = [job("mt-acme-scan-1", ready=1)], refusal
    with pytest.raises(StepFailed, match=str(refusal)) as failed:
        migrate(cluster)
    assert failed.value.reason == reason
    assert api.done == []
    api.refusal = None
    with pytest.raises(StepUnfinished):
        migrate(cluster)
    migrate(cluster)
    assert api.done == [("delete", "mt-acme-scan-1"), ("migrate", "tenant_acme")]


def test_a_postgresql_that_went_away_since_the_plan_is_said(
    cluster: Cluster, api: Api, cache: Cache, schema: Schema
) -> None:
    paused(api, cache)
    schema.away = True
    with pytest.raises(StepFailed, match="PostgreSQL does not answer"):
        migrate(cluster)
    assert api.done == []


@pytest.mark.parametrize(
    "ended", [pod("a", phase="Succeeded"), pod("a", phase="Failed"), pod("a", killed=LOST_SECONDS + 5)]
)
def test_nobody_waits_for_a_pod_that_has_ended_or_is_lost(
    cluster: Cluster, api: Api, cache: Cache, ended: Object
) -> None:
    paused(api, cache)
    api.pods = [ended]
    migrate(cluster)
    assert api.done == [("migrate", "tenant_acme")]


@pytest.mark.parametrize("name", ["default", "suspended"])
def test_a_suspended_cronjob_is_as_declared_only_where_the_tenant_is(name: str) -> None:
    case = CASES[name]
    (wanted,) = (
        render.stamped(each)
        for each in case.workloads(case.tenant())
        if kinds.of(each) == kinds.CRON_JOB and each["metadata"]["name"].endswith("-sweep")
    )
    live = {**wanted, "spec": {**wanted["spec"], "suspend": True}}
    assert render.matches(wanted, live) == case.tenant().spec.suspended


def test_the_step_after_it_sets_the_cronjobs_right(cluster: Cluster, api: Api, cache: Cache) -> None:
    wanted = [each for each in map(render.stamped, CASE.workloads(TENANT)) if kinds.of(each) == kinds.CRON_JOB]
    assert TenantObjects(cluster, TENANT).drifted(wanted) == []
    with pytest.raises(StepUnfinished):
        migrate(cluster)
    assert [each["spec"]["suspend"] for each in TenantObjects(cluster, TENANT).drifted(wanted)] == [False, False]
    assert all(body["spec"]["suspend"] for body in cache.children(key_of(TENANT)).values())
