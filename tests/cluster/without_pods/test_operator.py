"""The operator on a real API server, with its own service account's rights, on real S3, IAM and PostgreSQL.

No pod runs here. A test that needs one writes the status of its Deployment as a kubelet would (`act_as_kubelet`).
"""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from media_operator.backends.databases import known_revisions
from media_operator.cluster import kinds
from media_operator.tenant.annotations import ACCEPT_DATA, ADOPT, PAUSED, ROTATE_KEYS
from media_operator.tenant.ownership import OwnerMark
from tests.cluster.control_plane.mutating_webhook import mutating
from tests.cluster.control_plane.operator_process import USER, Bench, Team, bench, condition_of, until
from tests.cluster.control_plane.server import ControlPlane
from tests.integration.database.revisions import migrate_to
from tests.stopwatch import Stopwatch

pytestmark = [pytest.mark.control_plane, pytest.mark.usefixtures("crd")]


@pytest.fixture(scope="module")
async def shared(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    """One operator for the tests that do it no harm."""
    async with bench(control_plane, tmp_path_factory.mktemp("operator")) as made:
        await made.operator(resync_seconds="3600", usage_seconds="2")
        yield made


def tenant_id(namespace: str) -> str:
    """One of the test's own: ids are unique in the cluster."""
    return f"t{namespace.removeprefix('test-')}"


async def settled(team: Team, name: str, **spec: Any) -> None:
    """A tenant for which the operator has done all that it can do without pods."""
    await team.apply(name, **spec)
    await team.condition(name, "ApiReady", reason="ApiStarting")
    await team.condition(name, "WorkersReady", status="True")
    replicas = 2 if not spec.get("suspended") else 1
    # Kubernetes' own controllers have to follow, which are slow after a CRD has gone.
    await team.seen(kinds.MEDIA_TENANT, name, lambda new: new["status"]["replicas"] == replicas)


def secret(body: dict[str, Any], key: str) -> str:
    return base64.b64decode(body["data"][key]).decode()


# --- coming to life --------------------------------------------------------------------------------------------------


async def test_a_tenant_becomes_bucket_key_schema_and_its_objects(shared: Bench, namespace: str) -> None:
    team, id_ = Team(shared, namespace), tenant_id(namespace)
    await settled(team, "acme", tenantId=id_)

    tenant = await team.get(kinds.MEDIA_TENANT, "acme")
    assert tenant
    assert {each["type"]: each["status"] for each in tenant["status"]["conditions"]} == {
        "Ready": "False",
        "Accepted": "True",
        "BucketReady": "True",
        "StoreKeyReady": "True",
        "DatabaseReady": "True",
        "KeysReady": "True",
        "PolicyApplied": "True",
        "ApiReady": "False",
        "WorkersReady": "True",
        "ScannerReady": "False",
        "S3Capabilities": "False",
    }
    assert condition_of(tenant, "Ready") == {**(condition_of(tenant, "ApiReady") or {}), "type": "Ready"}
    assert tenant["status"]["bucket"] == f"media-{id_}"
    assert tenant["status"]["endpoint"] == f"http://mt-{id_}.{namespace}.svc"
    uid, cluster = tenant["metadata"]["uid"], await cluster_id(shared)
    mark = OwnerMark(uid, f"{namespace}/acme", cluster, bucket=f"media-{id_}")
    assert (await shared.backends.buckets.observe(f"media-{id_}")).mark == mark
    assert len(await shared.backends.store_keys(cluster).observe(id_)) == 1
    names = {(kind.kind, each["metadata"]["name"]) for kind in kinds.CHILDREN for each in await listed(team, kind)}
    assert names == {
        ("ServiceAccount", f"mt-{id_}"),
        ("Secret", f"mt-{id_}-credentials"),
        ("Secret", f"mt-{id_}-signing-keys"),
        ("ConfigMap", f"mt-{id_}"),
        ("NetworkPolicy", f"mt-{id_}-api"),
        ("NetworkPolicy", f"mt-{id_}-workers"),
        ("Deployment", f"mt-{id_}"),
        ("Service", f"mt-{id_}"),
        ("PodDisruptionBudget", f"mt-{id_}"),
        ("CronJob", f"mt-{id_}-sweep"),
        ("CronJob", f"mt-{id_}-rescan"),
    }
    assert "finalizers" not in tenant["metadata"]


async def listed(team: Team, kind: kinds.Kind) -> list[dict[str, Any]]:
    return [] if kind == kinds.HTTP_ROUTE else await team.list(kind)


async def cluster_id(bench: Bench) -> str:
    return str((await bench.api.get("/api/v1/namespaces/kube-system"))["metadata"]["uid"])


async def test_no_secret_is_in_a_status_an_event_or_the_log(shared: Bench, namespace: str) -> None:
    team, id_ = Team(shared, namespace), tenant_id(namespace)
    await settled(team, "acme", tenantId=id_)
    await team.act_as_kubelet(f"mt-{id_}")
    await team.condition("acme", "ApiReady", status="True")

    credentials = await team.get(kinds.SECRET, f"mt-{id_}-credentials")
    signing = await team.get(kinds.SECRET, f"mt-{id_}-signing-keys")
    assert credentials
    assert signing
    url = secret(credentials, "database-url")
    hidden = [
        url.partition("@")[0].rpartition(":")[2],
        secret(credentials, "s3-secret-access-key"),
        *(key["d"] for key in json.loads(secret(signing, "signing-keys.json"))["keys"]),
        shared.backends.environment["MEDIA_OPERATOR_S3_SECRET_ACCESS_KEY"],
    ]
    tenant = await team.get(kinds.MEDIA_TENANT, "acme")
    events = await shared.api.get(team.path(kinds.EVENT))
    said = json.dumps([tenant, events]) + shared.last_words()
    public = [each for kind in kinds.CHILDREN if kind != kinds.SECRET for each in await listed(team, kind)]
    assert not [each for each in hidden if each in said or each in json.dumps(public)]


# --- change and drift ------------------------------------------------------------------------------------------------


async def test_a_quota_takes_effect_without_touching_the_deployment(shared: Bench, namespace: str) -> None:
    team, id_ = Team(shared, namespace), tenant_id(namespace)
    await settled(team, "acme", tenantId=id_)
    before = await team.get(kinds.DEPLOYMENT, f"mt-{id_}")
    await team.apply("acme", tenantId=id_, quota={"maxStorageMb": 20}, scan={"pendingAccess": "All"})
    await team.condition("acme", "PolicyApplied", status="True")
    rows = await shared.backends.rows(id_, "SELECT max_bytes, pending_access FROM usage, policy")
    assert rows == [(20 * 1024 * 1024, "All")]
    after = await team.get(kinds.DEPLOYMENT, f"mt-{id_}")
    assert before
    assert after
    assert after["metadata"]["generation"] == before["metadata"]["generation"]


@pytest.mark.parametrize(
    "kind", [kinds.SERVICE, kinds.DEPLOYMENT, kinds.CONFIG_MAP, kinds.NETWORK_POLICY, kinds.CRON_JOB]
)
async def test_what_somebody_deletes_is_back_within_10_seconds(shared: Bench, namespace: str, kind: kinds.Kind) -> None:
    team, id_ = Team(shared, namespace), tenant_id(namespace)
    await settled(team, "acme", tenantId=id_)
    victim = (await team.list(kind))[0]["metadata"]
    deleted = Stopwatch()
    await shared.api.delete(team.path(kind, victim["name"]))
    await team.seen(kind, victim["name"], lambda new: new["metadata"]["uid"] != victim["uid"])
    assert deleted.seconds() < 10


async def test_what_somebody_edits_is_put_right_and_what_others_own_stays(shared: Bench, namespace: str) -> None:
    team, id_ = Team(shared, namespace), tenant_id(namespace)
    await settled(team, "acme", tenantId=id_)
    path = team.path(kinds.DEPLOYMENT, f"mt-{id_}")
    image = (await shared.api.get(path))["spec"]["template"]["spec"]["containers"][0]["image"]
    edit = {
        "metadata": {"annotations": {"team": "theirs"}},
        "spec": {"replicas": 7, "template": {"spec": {"terminationGracePeriodSeconds": 16}}},
    }
    edited = Stopwatch()
    await shared.api.patch(path, edit)
    put_right = await team.seen(kinds.DEPLOYMENT, f"mt-{id_}", lambda new: new["spec"]["replicas"] == 2)
    assert edited.seconds() < 10
    assert put_right["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > 16
    assert put_right["spec"]["template"]["spec"]["containers"][0]["image"] == image
    assert put_right["metadata"]["annotations"]["team"] == "theirs"


DEPLOYMENTS = {"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]}
CRON_JOBS = {"apiGroups": ["batch"], "apiVersions": ["v1"], "resources": ["cronjobs"]}


def rewritten(body: dict[str, Any]) -> list[dict[str, Any]]:
    """As policy engines have images come from a registry of the company, and be pulled each time."""
    at = "/spec/jobTemplate/spec/template/spec" if body["kind"] == "CronJob" else "/spec/template/spec"
    spec = body["spec"]["jobTemplate"]["spec"] if body["kind"] == "CronJob" else body["spec"]
    image = spec["template"]["spec"]["containers"][0]["image"].rpartition("/")[2]
    return [
        {"op": "replace", "path": f"{at}/containers/0/image", "value": f"registry.corp.example/{image}"},
        {"op": "replace", "path": f"{at}/containers/0/imagePullPolicy", "value": "Always"},
        {"op": "replace", "path": f"{at}/terminationGracePeriodSeconds", "value": 33},
    ]


async def test_what_admission_changes_stays_so_without_a_fight_and_edits_are_still_put_right(
    shared: Bench, control_plane: ControlPlane, namespace: str
) -> None:
    team, id_ = Team(shared, namespace), tenant_id(namespace)
    async with mutating(control_plane, shared.api, namespace, [DEPLOYMENTS, CRON_JOBS], rewritten):
        await settled(team, "acme", tenantId=id_)
        await team.act_as_kubelet(f"mt-{id_}")
        await team.condition("acme", "ApiReady", status="True")
        written = control_plane.writes(USER, but="leases", namespace=namespace)
        applied = [each for each in written if each.uri.partition("?")[0].endswith(f"/deployments/mt-{id_}")]
        assert len(applied) <= 3, applied
        path = team.path(kinds.DEPLOYMENT, f"mt-{id_}")
        pod = (await shared.api.get(path))["spec"]["template"]["spec"]
        assert (pod["containers"][0]["image"][:21], pod["terminationGracePeriodSeconds"]) == (
            "registry.corp.example",
            33,
        )
        await shared.api.patch(path, {"spec": {"minReadySeconds": 99}})
        await team.seen(kinds.DEPLOYMENT, f"mt-{id_}", lambda new: new["spec"]["minReadySeconds"] != 99)
        await team.apply("acme", tenantId=id_, api={"replicas": 3})
        await team.seen(kinds.DEPLOYMENT, f"mt-{id_}", lambda new: new["spec"]["replicas"] == 3)


async def test_an_autoscaler_keeps_its_replicas(shared: Bench, namespace: str) -> None:
    team, id_ = Team(shared, namespace), tenant_id(namespace)
    await settled(team, "acme", tenantId=id_, api={"autoscaling": {"min": 2, "max": 5}})
    path = team.path(kinds.DEPLOYMENT, f"mt-{id_}")
    await shared.api.patch(path + "/scale", {"spec": {"replicas": 4}})
    await team.apply("acme", tenantId=id_, api={"autoscaling": {"min": 2, "max": 6}})
    await team.seen(kinds.HPA, f"mt-{id_}", lambda hpa: hpa["spec"]["maxReplicas"] == 6)
    assert (await shared.api.get(path))["spec"]["replicas"] == 4
    await team.apply("acme", tenantId=id_, api={"replicas": 3})
    await team.seen(kinds.DEPLOYMENT, f"mt-{id_}", lambda new: new["spec"]["replicas"] == 3)
    await until(lambda: missing(team, kinds.HPA, f"mt-{id_}"), lambda: "the autoscaler is still there")


async def missing(team: Team, kind: kinds.Kind, name: str) -> bool:
    return await team.get(kind, name) is None


async def test_lost_credentials_are_made_anew_and_pods_roll(shared: Bench, namespace: str) -> None:
    team, id_ = Team(shared, namespace), tenant_id(namespace)
    # No scan: its Job, which nothing runs here, could have been made with the lost key, and would keep that alive.
    await settled(team, "acme", tenantId=id_, scan={"enabled": False})
    name = f"mt-{id_}-credentials"
    before = await team.get(kinds.SECRET, name)
    deployment = await team.get(kinds.DEPLOYMENT, f"mt-{id_}")
    assert before
    assert deployment
    await shared.api.delete(team.path(kinds.SECRET, name))
    after = await team.seen(
        kinds.SECRET, name, lambda new: "s3-access-key-id" in new["data"] and new["data"] != before["data"]
    )
    assert all(after["data"][key] != before["data"][key] for key in after["data"])
    told = deployment["spec"]["template"]["metadata"]["annotations"]
    await team.seen(
        kinds.DEPLOYMENT, f"mt-{id_}", lambda new: new["spec"]["template"]["metadata"]["annotations"] != told
    )
    await team.act_as_kubelet(f"mt-{id_}")
    keys = shared.backends.store_keys(await cluster_id(shared))

    async def only_the_new_key_is_left() -> bool:
        return await keys.observe(id_) == (secret(after, "s3-access-key-id"),)

    await until(only_the_new_key_is_left, shared.last_words)


async def test_a_secret_that_somebody_edits_is_made_anew(shared: Bench, namespace: str) -> None:
    team, id_ = Team(shared, namespace), tenant_id(namespace)
    await settled(team, "acme", tenantId=id_)
    name = f"mt-{id_}-credentials"
    forged = base64.b64encode(b"postgresql+psycopg://somebody:else@elsewhere/db").decode()
    await shared.api.patch(team.path(kinds.SECRET, name), {"data": {"database-url": forged}})
    await team.seen(kinds.SECRET, name, lambda new: new["data"]["database-url"] != forged)


async def test_rotation_keeps_two_live_keys_until_the_pods_have_rolled(shared: Bench, namespace: str) -> None:
    team, id_ = Team(shared, namespace), tenant_id(namespace)
    await settled(team, "acme", tenantId=id_, scan={"enabled": False})
    await team.act_as_kubelet(f"mt-{id_}")
    await team.condition("acme", "ApiReady", status="True")
    keys, name = shared.backends.store_keys(await cluster_id(shared)), f"mt-{id_}-credentials"
    old = await keys.observe(id_)

    await team.apply("acme", annotations={ROTATE_KEYS: "1"}, tenantId=id_, scan={"enabled": False})
    made = await team.seen(kinds.SECRET, name, lambda new: secret(new, "s3-access-key-id") not in old)
    await team.condition("acme", "StoreKeyReady", reason="StoreKeyRotating")
    assert set(await keys.observe(id_)) == {*old, secret(made, "s3-access-key-id")}
    config = await team.get(kinds.CONFIG_MAP, f"mt-{id_}")
    assert config
    assert len(json.loads(config["data"]["jwks.json"])["keys"]) == 2

    await team.act_as_kubelet(f"mt-{id_}")
    await team.condition("acme", "StoreKeyReady", reason="StoreKeyPresent")
    assert await keys.observe(id_) == (secret(made, "s3-access-key-id"),)


async def test_suspending_ends_the_workers_and_leaves_one_pod_to_say_so(shared: Bench, namespace: str) -> None:
    team, id_ = Team(shared, namespace), tenant_id(namespace)
    await settled(team, "acme", tenantId=id_)
    await team.apply("acme", tenantId=id_, suspended=True)
    await team.seen(kinds.DEPLOYMENT, f"mt-{id_}", lambda new: new["spec"]["replicas"] == 1)
    await team.act_as_kubelet(f"mt-{id_}")
    await team.condition("acme", "Ready", reason="Suspended")
    assert await shared.backends.rows(id_, "SELECT suspended FROM policy") == [(True,)]
    assert await missing(team, kinds.PDB, f"mt-{id_}")
    assert all(each["spec"]["suspend"] for each in await team.list(kinds.CRON_JOB))


async def test_a_tenant_that_is_left_alone_says_so_until_it_is_not(shared: Bench, namespace: str) -> None:
    team, id_ = Team(shared, namespace), tenant_id(namespace)
    await settled(team, "acme", tenantId=id_)
    pause = {"media.scaiwave.io/reconcile": "disabled"}
    await team.apply("acme", annotations=pause, tenantId=id_)
    paused = await team.condition("acme", "Ready", reason="Paused")
    assert paused["status"] == "False"  # as it was: no pod runs here
    assert "media.scaiwave.io/reconcile: disabled" in paused["message"]
    await shared.api.delete(team.path(kinds.SERVICE, f"mt-{id_}"))
    await team.apply("acme", tenantId=id_)
    await team.condition("acme", "Ready", reason="ApiStarting")
    await team.seen(kinds.SERVICE, f"mt-{id_}", lambda _: True)


# --- what a person decides -------------------------------------------------------------------------------------------


async def annotate(team: Team, name: str, value: str) -> None:
    await team.bench.api.patch(team.path(kinds.MEDIA_TENANT, "acme"), {"metadata": {"annotations": {name: value}}})


async def test_a_schema_that_is_lost_is_made_anew_only_when_a_person_says_so(shared: Bench, namespace: str) -> None:
    team, id_ = Team(shared, namespace), tenant_id(namespace)
    await settled(team, "acme", tenantId=id_)
    buckets, bucket, schema = shared.backends.buckets, f"media-{id_}", f"tenant_{id_}"
    born = (await buckets.born(bucket, id_)).birth
    assert born
    buckets._s3.put_object(Bucket=bucket, Key=f"tenant/{id_}/aa", Body=b"kept")
    await shared.backends.sql(f"DROP SCHEMA {schema} CASCADE")
    await annotate(team, "team", "looks again")

    doubt = await team.condition("acme", "DatabaseReady", status="False", reason="DataMismatch")
    command = f"kubectl --namespace {namespace} annotate --overwrite mediatenant acme {ACCEPT_DATA}={born.birth_id}"
    assert doubt["message"].endswith(command)
    await team.condition("acme", "Ready", status="False", reason="DataMismatch")
    assert await shared.backends.sql("SELECT FROM pg_namespace WHERE nspname = %s", schema) == []

    await annotate(team, ACCEPT_DATA, born.birth_id)
    await team.condition("acme", "DatabaseReady", status="True", reason="SchemaCurrent")
    now = (await buckets.born(bucket, id_)).birth
    assert now
    assert now.birth_id != born.birth_id
    assert buckets._s3.get_object(Bucket=bucket, Key=f"tenant/{id_}/aa")["Body"].read() == b"kept"


async def test_a_bucket_that_is_lost_is_made_anew_only_when_a_person_says_so(shared: Bench, namespace: str) -> None:
    team, id_ = Team(shared, namespace), tenant_id(namespace)
    await settled(team, "acme", tenantId=id_)
    buckets, bucket, births = shared.backends.buckets, f"media-{id_}", set()
    await shared.backends.rows(id_, "INSERT INTO blob (sha256, size, mime_type) VALUES ('aa', 7, 'text/plain')")
    for time_ in ("first", "second"):  # the word of the first time decides nothing the second time
        birth = (await buckets.born(bucket, id_)).birth
        assert birth
        births.add(birth.birth_id)
        remove_all(shared, bucket)
        if time_ == "first":
            buckets._s3.delete_bucket(Bucket=bucket)
        await annotate(team, "team", f"looks for the {time_} time")
        lost = await team.condition("acme", "BucketReady", status="False", reason="BucketLost")
        assert lost["message"].endswith(f"annotate --overwrite mediatenant acme {ACCEPT_DATA}={birth.birth_id}")
        assert (await buckets.observe(bucket)).mark is None
        await annotate(team, ACCEPT_DATA, birth.birth_id)
        await team.condition("acme", "BucketReady", status="True", reason="BucketExists")
        await team.condition("acme", "DatabaseReady", status="True", reason="SchemaCurrent")
    assert len(births) == 2


async def test_a_bucket_that_was_emptied_while_files_came_is_marked_again_with_a_word(
    shared: Bench, namespace: str
) -> None:
    team, id_ = Team(shared, namespace), tenant_id(namespace)
    await settled(team, "acme", tenantId=id_)
    buckets, bucket = shared.backends.buckets, f"media-{id_}"
    mark, sha256 = (await buckets.observe(bucket)).mark, "a" * 64
    insert = "INSERT INTO blob (sha256, size, mime_type) VALUES (repeat('a', 64), 7, 'text/plain')"
    await shared.backends.rows(id_, insert)
    remove_all(shared, bucket)
    buckets._s3.put_object(Bucket=bucket, Key=f"tenant/{id_}/{sha256}", Body=b"came by")
    await annotate(team, "team", "looks again")
    said = await team.condition("acme", "Accepted", status="False", reason="Conflict")
    assert "if somebody deleted the mark, annotate media.scaiwave.io/adopt=true" in said["message"]
    await annotate(team, ADOPT, "true")
    await team.condition("acme", "Accepted", status="True")
    await team.condition("acme", "DatabaseReady", status="True", reason="SchemaCurrent")
    assert (await buckets.observe(bucket)).mark == mark


def remove_all(bench: Bench, bucket: str) -> None:
    client = bench.backends.buckets._s3
    for each in client.list_objects_v2(Bucket=bucket).get("Contents", []):
        client.delete_object(Bucket=bucket, Key=each["Key"])


async def test_what_sweeps_and_rescans_found_is_said_and_decided_by_a_word(shared: Bench, namespace: str) -> None:
    team, id_ = Team(shared, namespace), tenant_id(namespace)
    await settled(team, "acme", tenantId=id_)
    await shared.backends.rows(id_, "INSERT INTO suspicion (signature) VALUES ('Win.Zip-1')")
    await shared.backends.rows(id_, "INSERT INTO swept VALUES (1, now(), 1000, 412, 4096, true, now())")

    suspicious = await team.condition("acme", "ScannerReady", status="False", reason="ScanSuspicious")
    assert "Win.Zip-1 (finds 0 files)" in suspicious["message"]
    kept = await team.condition("acme", "DataConsistent", status="False", reason="OrphansKept")
    assert "412 of 1000 objects" in kept["message"]

    await annotate(team, "media.scaiwave.io/trust-signature", "Win.Zip-1")
    await annotate(team, "media.scaiwave.io/remove-orphans", kept["message"].rpartition("=")[2])
    await team.condition("acme", "ScannerReady", reason="WaitingForApi")
    decided = await team.seen(
        kinds.MEDIA_TENANT, "acme", lambda it: "the next sweep removes" in json.dumps(it["status"]["conditions"])
    )
    assert decided
    rows = "SELECT trusted_at IS NOT NULL, orphans_released_at >= swept_at FROM suspicion, swept"
    assert await shared.backends.rows(id_, rows) == [(True, True)]


# --- another version -------------------------------------------------------------------------------------------------

EMPTY = """
DO $$ DECLARE what text; BEGIN
    FOR what IN SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = current_schema::regnamespace
    LOOP EXECUTE 'DROP FUNCTION ' || what || ' CASCADE'; END LOOP;
    FOR what IN SELECT relname FROM pg_class WHERE relnamespace = current_schema::regnamespace AND relkind = 'r'
    LOOP EXECUTE 'DROP TABLE ' || what || ' CASCADE'; END LOOP;
END $$
"""


async def test_what_the_version_before_runs_ends_before_the_schema_is_migrated(shared: Bench, namespace: str) -> None:
    team, id_ = Team(shared, namespace), tenant_id(namespace)
    await settled(team, "acme", tenantId=id_)
    await team.apply("acme", annotations={PAUSED: "disabled"}, tenantId=id_)
    await team.condition("acme", "Ready", reason="Paused")
    await shared.backends.rows(id_, EMPTY)
    url, schema, bucket = shared.backends.postgres.admin_url, f"tenant_{id_}", f"media-{id_}"
    await asyncio.to_thread(migrate_to, known_revisions()[-2], url, schema, schema)
    shared.backends.buckets._s3.delete_object(Bucket=bucket, Key=f"tenant/{id_}/.birth")
    sweep = await team.get(kinds.CRON_JOB, f"mt-{id_}-sweep")
    assert sweep
    owner = {key: sweep[key] for key in ("apiVersion", "kind")}
    owner |= {key: sweep["metadata"][key] for key in ("name", "uid")} | {"controller": True}
    metadata = {"name": f"mt-{id_}-sweep-1", "ownerReferences": [owner]}
    body = sweep["spec"]["jobTemplate"] | {"metadata": sweep["spec"]["jobTemplate"]["metadata"] | metadata}
    await shared.api.create(team.path(kinds.JOB), body)
    selector = f"{kinds.TENANT_LABEL}={id_},app.kubernetes.io/component=worker"

    async def pods() -> int:
        return len((await shared.api.get(team.path(kinds.POD), labelSelector=selector))["items"])

    async def works() -> bool:
        return bool(await pods())

    await until(works, shared.last_words)

    await team.apply("acme", tenantId=id_)
    waiting = await team.condition("acme", "DatabaseReady", status="False", reason="SchemaOutdated")
    words = "workers of the version before have to end before the schema is migrated"
    # Within its minute of the hour the CronJob makes one as well.
    assert re.fullmatch(rf"{words}: mt-{id_}-sweep-\d+", waiting["message"])
    await team.condition("acme", "DatabaseReady", status="True", reason="SchemaCurrent")
    assert await team.list(kinds.JOB) == []
    assert await pods() == 0
    for name in (f"mt-{id_}-sweep", f"mt-{id_}-rescan"):
        again = await team.seen(kinds.CRON_JOB, name, lambda new: not new["spec"]["suspend"])
        assert again["metadata"]["generation"] == sweep["metadata"]["generation"] + 2  # it was suspended


# --- work ------------------------------------------------------------------------------------------------------------

QUEUE = """
INSERT INTO job (job_id, kind, payload) VALUES ('job-' || gen_random_uuid(), 'thumbnail', '{"sha256": "00"}')
"""


async def test_queued_work_becomes_a_job_at_once(shared: Bench, namespace: str) -> None:
    team, id_ = Team(shared, namespace), tenant_id(namespace)
    await settled(team, "acme", tenantId=id_, scan={"enabled": False})
    await team.act_as_kubelet(f"mt-{id_}")
    await team.condition("acme", "Ready", status="True")
    began = Stopwatch()
    await shared.backends.rows(id_, QUEUE)
    await shared.backends.sql("SELECT pg_notify('media_queue', %s)", f"tenant_{id_}")

    async def made() -> bool:
        return bool(await team.list(kinds.JOB))

    await until(made, shared.last_words)
    assert began.seconds() < 0.5
    (job,) = await team.list(kinds.JOB)
    assert job["metadata"]["labels"][kinds.WORK_LABEL] == "thumbnail"
    assert job["metadata"]["ownerReferences"][0]["kind"] == "MediaTenant"


async def test_a_job_that_the_namespace_has_no_room_for_is_said_until_it_has(shared: Bench, namespace: str) -> None:
    team, id_ = Team(shared, namespace), tenant_id(namespace)
    await settled(team, "acme", tenantId=id_, scan={"enabled": False})
    await team.act_as_kubelet(f"mt-{id_}")
    await team.condition("acme", "Ready", status="True")
    quotas = f"/api/v1/namespaces/{namespace}/resourcequotas"
    await shared.api.create(quotas, {"metadata": {"name": "none"}, "spec": {"hard": {"count/jobs.batch": "0"}}})

    async def is_counted() -> bool:
        return "hard" in (await shared.api.get(f"{quotas}/none")).get("status", {})

    await until(is_counted, shared.last_words)
    await shared.backends.rows(id_, QUEUE)
    await shared.backends.sql("SELECT pg_notify('media_queue', %s)", f"tenant_{id_}")
    refused = await team.condition("acme", "WorkersReady", status="False", reason="WorkersPending")
    assert "refuses the tenant's thumbnail Job" in refused["message"]
    assert "exceeded quota: none" in refused["message"]
    await shared.api.delete(f"{quotas}/none")
    await team.condition("acme", "WorkersReady", reason="OnDemand")
    assert len(await team.list(kinds.JOB)) == 1


async def test_a_tenant_that_is_refused_from_the_start_has_events_that_say_so(shared: Bench, namespace: str) -> None:
    team, id_ = Team(shared, namespace), tenant_id(namespace)
    await team.apply("acme", tenantId=id_)
    await team.condition("acme", "Accepted", status="True")
    await team.apply("rival", tenantId=id_)

    async def told() -> bool:
        events = (await shared.api.get(team.path(kinds.EVENT)))["items"]
        said = {each["message"] for each in events if each["involvedObject"]["name"] == "rival"}
        return {each.partition(": ")[0] for each in said} == {"Ready is False", "Accepted is False"}

    await until(told, shared.last_words)


async def test_a_refused_namesake_elsewhere_stops_nobodys_workers(shared: Bench, namespace: str) -> None:
    team, id_ = Team(shared, namespace), tenant_id(namespace)
    await settled(team, "acme", tenantId=id_, scan={"enabled": False})
    await team.act_as_kubelet(f"mt-{id_}")
    await team.condition("acme", "Ready", status="True")
    rival = Team(shared, "default")
    await rival.apply(f"rival-{id_}", tenantId=id_)
    try:
        await rival.condition(f"rival-{id_}", "Accepted", status="False", reason="Conflict")
        await shared.backends.rows(id_, QUEUE)
        await shared.backends.sql("SELECT pg_notify('media_queue', %s)", f"tenant_{id_}")

        async def made() -> bool:
            return bool(await team.list(kinds.JOB))

        await until(made, shared.last_words)
        assert await rival.list(kinds.JOB) == []
    finally:
        await shared.api.delete(rival.path(kinds.MEDIA_TENANT, f"rival-{id_}"))
