"""Jobs in the cache: which run, which wait, which failed, and the name of the next one."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from media_operator.cluster import kinds
from media_operator.cluster.cache import Cache, TenantKey
from media_operator.cluster.kinds import Kind, Object
from media_operator.cluster.kube import AlreadyExists, Forbidden
from media_operator.jobs.dispatch import TenantQueue, share
from media_operator.jobs.fleet import ClusterFleet, Served
from media_operator.jobs.worker_jobs import WorkerJobs
from media_operator.settings import PlatformSettings, StoreAdminSettings
from media_operator.tenant.spec import MediaTenant

TENANT = MediaTenant.read(
    {
        "apiVersion": "media.scaiwave.io/v1alpha1",
        "kind": "MediaTenant",
        "metadata": {"name": "acme", "namespace": "team", "uid": "u"},
        "spec": {},
    }
)
CREDENTIALS = {
    "database-url": "postgresql+psycopg://a:b@c/d",
    "s3-access-key-id": "k",
    "s3-secret-access-key": "s",
}


class Api:
    """Accepts Jobs whose name is free, as the API server does."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.events: list[Object] | None = []
        self.asked: list[tuple[Kind, str, str]] = []

    async def list(self, kind: Kind, namespace: str, *, fields: str) -> tuple[list[Object], str]:
        self.asked.append((kind, namespace, fields))
        if self.events is None:
            raise Forbidden("the operator's service account lacks the permission to list events")
        return self.events, "1"

    async def create(self, kind: Kind, body: Object) -> Object:
        name = body["metadata"]["name"]
        if name in self.names:
            raise AlreadyExists(name)
        self.names.append(name)
        return {**body, "metadata": {**body["metadata"], "uid": f"uid-of-{name}", "resourceVersion": "1"}}


def resource(namespace: str = "team", tenant_id: str = "acme") -> Object:
    return {
        "apiVersion": "media.scaiwave.io/v1alpha1",
        "kind": "MediaTenant",
        "metadata": {"name": "acme", "namespace": namespace, "uid": f"u-{namespace}", "resourceVersion": "1"},
        "spec": {"tenantId": tenant_id},
    }


@pytest.fixture
def cache() -> Cache:
    cache = Cache()
    cache.see(kinds.MEDIA_TENANT, None, resource())
    return cache


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def jobs(cache: Cache, api: Api) -> WorkerJobs:
    platform = PlatformSettings(api_image="api", worker_image="workers", clamd_host="clamd")
    store = StoreAdminSettings(endpoint="http://s3", access_key_id="k", secret_access_key="s")  # type: ignore[arg-type]
    return WorkerJobs(api, cache, platform, store, 60, lambda: True)  # type: ignore[arg-type]


def job(name: str, kind: str = "scan", *, age: float = 0.0, namespace: str = "team", **status: Any) -> Object:
    made = (datetime.now(UTC) - timedelta(seconds=age)).isoformat()
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-of-{name}",
            "creationTimestamp": made,
            "labels": {kinds.TENANT_LABEL: "acme", kinds.WORK_LABEL: kind},
            "ownerReferences": [
                {"apiVersion": "media.scaiwave.io/v1alpha1", "kind": "MediaTenant", "name": "acme", "controller": True}
            ],
        },
        "spec": {},
        "status": status,
    }


def ended(name: str, how: str, *, age: float) -> Object:
    when = (datetime.now(UTC) - timedelta(seconds=age)).isoformat()
    return job(name, age=age, conditions=[{"type": how, "status": "True", "lastTransitionTime": when}])


def test_a_job_whose_name_was_used_up_again_and_again_gets_one_that_is_free(
    jobs: WorkerJobs, cache: Cache, api: Api
) -> None:
    for number in range(6):  # each ends without having taken the job that it was launched for
        assert asyncio.run(jobs.launch(TENANT, "scan", "mt-acme-scan-00000000", CREDENTIALS)) == "created"
        cache.see(kinds.JOB, None, ended(api.names[-1], "Failed", age=60 - number))
    assert len(set(api.names)) == 6


def test_failures_are_counted_until_one_succeeds(jobs: WorkerJobs, cache: Cache) -> None:
    for each in (ended("a", "Failed", age=30), ended("b", "Failed", age=20)):
        cache.see(kinds.JOB, None, each)
    assert jobs.by_state() == {("acme", "scan", "failed"): 2}
    cache.see(kinds.JOB, None, ended("c", "Complete", age=10))
    assert jobs.by_state() == {}


def test_a_job_counts_for_its_owner_whatever_its_labels_say(jobs: WorkerJobs, cache: Cache) -> None:
    cache.see(kinds.MEDIA_TENANT, None, resource("elsewhere", "globex"))
    cache.see(kinds.JOB, None, job("forged", namespace="elsewhere"))  # labelled as acme's
    assert jobs.open() == {}
    cache.see(kinds.JOB, None, job("own"))
    assert jobs.open() == {(TenantKey("team", "acme"), "scan"): (1, 1)}


def test_a_job_that_never_comes_up_takes_nobodys_slot(jobs: WorkerJobs, cache: Cache) -> None:
    cache.see(kinds.JOB, None, job("new", age=10, active=1, ready=0))
    cache.see(kinds.JOB, None, job("stuck", age=100, active=1, ready=0))
    cache.see(kinds.JOB, None, job("long", age=1000, active=1, ready=1))
    assert jobs.open() == {(TenantKey("team", "acme"), "scan"): (3, 2)}


def test_jobs_that_a_tenant_made_itself_take_no_more_than_its_share_of_the_slots(
    jobs: WorkerJobs, cache: Cache
) -> None:
    queue = TenantQueue("acme", {"scan": 50, "transcribe": 50})
    served = {TENANT.schema_name: Served(TENANT, CREDENTIALS, queue)}
    fleet = ClusterFleet(served, jobs, None)  # type: ignore[arg-type]  the queues are not asked
    for number in range(80):
        cache.see(kinds.JOB, None, job(f"own-{number}", "scan" if number % 2 else "transcribe", age=100, ready=1))
    running = fleet.running()
    assert running is not None
    assert running.slots == share(50)
    assert sum(running.unfinished.values()) == 80


async def test_a_kind_of_which_no_job_runs_is_late_whatever_keeps_it(jobs: WorkerJobs, cache: Cache) -> None:
    suspended = job("queued", "transcribe", age=300)
    suspended["spec"]["suspend"] = True
    cache.see(kinds.JOB, None, suspended)  # no pod, and none active
    cache.see(kinds.JOB, None, job("pending", age=200, active=1, ready=0))
    late = jobs.starting(TENANT)
    assert (round(late["transcribe"], -1), round(late["scan"], -1)) == (300, 200)
    assert "no queue has admitted it" in await jobs.unstarted(TENANT, "transcribe")
    cache.see(kinds.JOB, None, job("running", age=100, active=1, ready=1))
    assert "scan" not in jobs.starting(TENANT)


REFUSED = 'Error creating: pods "one-4x2p" is forbidden: maximum memory usage per Container is 64Mi, but limit is 1Gi'


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([("2026-11-24T00:00:00Z", "exceeded quota: few"), ("2026-11-24T00:01:00Z", REFUSED)], REFUSED[16:]),
        ([("2026-11-24T00:01:00Z", "exceeded\nquota: few. Ask the owners of the cluster")], "exceeded quota: few"),
        ([("2026-11-24T00:01:00Z", "long " * 200)], ("long " * 60)[:299] + "…"),
        ([(None, "no time")], "no time"),
        ([], "kubectl describe job one says why"),
        (None, "kubectl describe job one says why"),
    ],
)
async def test_what_refuses_the_pods_of_a_job_is_told_in_one_sentence(
    jobs: WorkerJobs, cache: Cache, api: Api, events: list[tuple[str | None, str]] | None, words: str
) -> None:
    """None: the operator may not list events."""
    cache.see(kinds.JOB, None, job("one", age=300))
    api.events = events and [{"lastTimestamp": when, "message": said} for when, said in events]
    assert (await jobs.unstarted(TENANT, "scan")).endswith(words)
    assert api.asked == [(kinds.EVENT, "team", "involvedObject.uid=uid-of-one,reason=FailedCreate")]


def test_a_job_that_is_refused_is_said_until_one_is_taken(
    jobs: WorkerJobs, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[TenantKey] = []
    jobs.refusal_changed = told.append

    async def refuse(kind: Kind, body: Object) -> Object:
        raise Forbidden("exceeded quota")

    with monkeypatch.context() as refusing:
        refusing.setattr(api, "create", refuse)
        for _ in range(2):
            assert asyncio.run(jobs.launch(TENANT, "scan", "mt-acme-scan-0", CREDENTIALS)) == "no"
    assert jobs.refused(TENANT) == {"scan": "the API server refuses the tenant's scan Job: exceeded quota"}
    assert len(told) == 1
    assert asyncio.run(jobs.launch(TENANT, "scan", "mt-acme-scan-0", CREDENTIALS)) == "created"
    assert jobs.refused(TENANT) == {}
    assert len(told) == 2


def test_a_job_that_never_came_up_is_outdated_once_it_would_be_made_otherwise(
    jobs: WorkerJobs, cache: Cache, api: Api
) -> None:
    bodies: list[Object] = []

    async def keep(kind: Kind, body: Object) -> Object:
        bodies.append(body)
        return await Api.create(api, kind, body)

    api.create = keep  # type: ignore[method-assign]
    asyncio.run(jobs.launch(TENANT, "transcribe", "mt-acme-transcribe-0", CREDENTIALS))
    made = job("mt-acme-transcribe-0", "transcribe", age=90)
    made["metadata"]["annotations"] = bodies[0]["metadata"]["annotations"]
    cache.see(kinds.JOB, None, made)
    assert jobs.outdated(TENANT, CREDENTIALS) == ()
    other = MediaTenant.read(
        {
            "apiVersion": "media.scaiwave.io/v1alpha1",
            "kind": "MediaTenant",
            "metadata": {"name": "acme", "namespace": "team", "uid": "u"},
            "spec": {"transcription": {"resources": {"requests": {"cpu": "100m"}}}},
        }
    )
    assert jobs.outdated(other, CREDENTIALS) == ("mt-acme-transcribe-0",)
    cache.see(kinds.JOB, "DELETED", made)
    cache.see(kinds.JOB, None, {**job("mt-acme-transcribe-1", "transcribe", age=90), "status": {"ready": 1}})
    assert jobs.outdated(other, CREDENTIALS) == ()
