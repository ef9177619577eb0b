"""The deletion of a tenant: what stays, what is deleted, what blocks it and how to go on, in any order of events."""

import pytest

from media_operator.backends.databases import COMMENT
from media_operator.cluster import kinds
from media_operator.cluster.kinds import Object
from tests.cluster.control_plane.api import another_namespace, gone
from tests.cluster.control_plane.fault_proxy import FaultProxy
from tests.cluster.control_plane.operator_process import Bench, Replica, Team, condition_of, until
from tests.cluster.without_pods.test_operator import cluster_id, settled, tenant_id
from tests.stopwatch import Stopwatch

pytestmark = [pytest.mark.control_plane, pytest.mark.usefixtures("crd")]

DELETE = {"deletionPolicy": "Delete"}
RETAIN = {"spec": {"storage": {"deletionPolicy": "Retain"}}}


@pytest.fixture
async def working(own: Bench) -> Bench:
    await own.operator()
    return own


async def delete(team: Team, name: str) -> None:
    await team.bench.api.delete(team.path(kinds.MEDIA_TENANT, name))


async def is_gone(team: Team, name: str, within: float = 60) -> None:
    deleted = Stopwatch()
    await gone(team.bench.api, team.path(kinds.MEDIA_TENANT, name))
    assert deleted.seconds() < within


async def mark_of(bench: Bench, id_: str) -> str | None:
    rows = await bench.backends.sql("SELECT obj_description(oid) FROM pg_namespace WHERE nspname = %s", f"tenant_{id_}")
    return rows[0][0].removeprefix(COMMENT) if rows else None


async def may_log_in(bench: Bench, id_: str) -> bool:
    return bool(
        (await bench.backends.sql("SELECT rolcanlogin FROM pg_roles WHERE rolname = %s", f"tenant_{id_}"))[0][0]
    )


def put_objects(bench: Bench, bucket: str, count: int) -> None:
    client = bench.backends.buckets._s3
    for number in range(count):
        client.put_object(Bucket=bucket, Key=f"tenant/x/{number}", Body=b"x")


async def test_a_tenant_whose_namespace_was_finalized_by_force_is_left_alone(own: Bench, namespace: str) -> None:
    operator = await own.operator()
    team, id_ = Team(own, namespace), tenant_id(namespace)
    await settled(team, "acme", tenantId=id_, storage=DELETE)
    operator.stop()
    await own.api.delete(f"/api/v1/namespaces/{namespace}")
    left = await team.seen(kinds.MEDIA_TENANT, "acme", lambda body: "deletionTimestamp" in body["metadata"])
    await until(lambda: _has_no_children(team), own.last_words)
    forced = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}, "spec": {"finalizers": []}}
    await own.api.put(f"/api/v1/namespaces/{namespace}/finalize", forced)
    await gone(own.api, f"/api/v1/namespaces/{namespace}")
    assert left["metadata"]["finalizers"]
    assert await team.get(kinds.MEDIA_TENANT, "acme")

    operator.start()
    await until(lambda: _said(operator, "namespace_gone"), own.last_words)
    for _ in range(2):  # meanwhile it works for others
        async with another_namespace(own.api) as elsewhere:
            await settled(Team(own, elsewhere), "acme", tenantId=tenant_id(elsewhere))
    # A change that the operator hears while it looks for the first time makes it look once more.
    assert operator.log.read_text().count("namespace_gone") <= 2, own.last_words()

    # In a new namespace of that name it can be written again, and goes.
    await own.api.create("/api/v1/namespaces", {"metadata": {"name": namespace}})
    await own.api.patch(team.path(kinds.MEDIA_TENANT, "acme"), {"metadata": {"annotations": {"seen": "again"}}})
    await is_gone(team, "acme")


async def _has_no_children(team: Team) -> bool:
    """A child that goes makes the operator look at its tenant again."""
    return not [each for kind in kinds.CHILDREN if kind != kinds.HTTP_ROUTE for each in await team.list(kind)]


async def _said(operator: Replica, event: str) -> bool:
    return event in operator.log.read_text()


async def test_retain_keeps_the_data_and_takes_the_keys(working: Bench, namespace: str) -> None:
    team, id_ = Team(working, namespace), tenant_id(namespace)
    await settled(team, "acme", tenantId=id_)
    put_objects(working, f"media-{id_}", 3)
    await delete(team, "acme")
    await is_gone(team, "acme", 5)

    async def retired() -> bool:
        return " retained" in (await mark_of(working, id_) or "")

    await until(retired, working.last_words)
    seen = await working.backends.buckets.observe(f"media-{id_}")
    assert seen.mark is not None
    assert seen.mark.retained
    assert not await may_log_in(working, id_)
    assert await working.backends.store_keys(await cluster_id(working)).observe(id_) == ()


async def test_the_same_name_gets_back_what_was_retained(working: Bench, namespace: str) -> None:
    team, id_ = Team(working, namespace), tenant_id(namespace)
    await settled(team, "acme", tenantId=id_)
    await working.backends.rows(id_, "INSERT INTO blob (sha256, size, mime_type) VALUES ('00', 7, 'text/plain')")
    await delete(team, "acme")
    await is_gone(team, "acme", 5)
    await settled(team, "acme", tenantId=id_)
    assert await working.backends.rows(id_, "SELECT size FROM blob") == [(7,)]
    assert await may_log_in(working, id_)
    tenant = await team.get(kinds.MEDIA_TENANT, "acme")
    assert tenant
    assert (await mark_of(working, id_) or "").startswith(tenant["metadata"]["uid"])


async def test_another_namespace_gets_nothing_of_it(working: Bench, namespace: str) -> None:
    team, id_ = Team(working, namespace), tenant_id(namespace)
    await settled(team, "acme", tenantId=id_)
    before = await mark_of(working, id_)
    other = Team(working, "default")
    await other.apply(f"acme-{id_}", tenantId=id_, storage={"bucket": f"other-{id_}", **DELETE})
    try:
        said = await other.condition(f"acme-{id_}", "Accepted", status="False", reason="Conflict")
        assert f"MediaTenant {namespace}/acme was created earlier" in said["message"]
        tenant = await other.get(kinds.MEDIA_TENANT, f"acme-{id_}")
        assert tenant
        assert "finalizers" not in tenant["metadata"]
        assert not (await working.backends.buckets.observe(f"other-{id_}")).exists
        assert not [each for each in await other.list(kinds.SECRET) if id_ in each["metadata"]["name"]]
    finally:
        await delete(other, f"acme-{id_}")
    await is_gone(other, f"acme-{id_}", 10)
    assert await mark_of(working, id_) == before
    await team.condition("acme", "Accepted", status="True")


async def test_delete_takes_everything_of_this_tenant_and_nothing_else(working: Bench, namespace: str) -> None:
    team, id_ = Team(working, namespace), tenant_id(namespace)
    await settled(team, "acme", tenantId=id_, storage=DELETE)
    await settled(team, "other", tenantId=f"{id_}x")
    put_objects(working, f"media-{id_}", 30)
    await delete(team, "acme")
    await is_gone(team, "acme")
    assert not (await working.backends.buckets.observe(f"media-{id_}")).exists
    assert await mark_of(working, id_) is None
    assert await working.backends.sql("SELECT FROM pg_roles WHERE rolname = %s", f"tenant_{id_}") == []
    assert await working.backends.store_keys(await cluster_id(working)).observe(id_) == ()
    assert (await working.backends.buckets.observe(f"media-{id_}x")).exists
    assert await mark_of(working, f"{id_}x") is not None


async def test_the_finalizer_is_there_only_while_the_policy_is_delete(working: Bench, namespace: str) -> None:
    team, id_ = Team(working, namespace), tenant_id(namespace)
    await settled(team, "acme", tenantId=id_, storage=DELETE)
    await team.seen(kinds.MEDIA_TENANT, "acme", lambda new: new["metadata"].get("finalizers") == [kinds.FINALIZER])
    await team.apply("acme", tenantId=id_, storage={"deletionPolicy": "Retain"})
    await team.seen(kinds.MEDIA_TENANT, "acme", lambda new: not new["metadata"].get("finalizers"))


async def test_what_blocks_a_deletion_is_said_and_retain_is_the_way_out(own: Bench, namespace: str) -> None:
    await own.operator()
    team, id_ = Team(own, namespace), tenant_id(namespace)
    await settled(team, "acme", tenantId=id_, storage=DELETE)
    own.backends.s3.stop()
    await delete(team, "acme")
    said = await team.condition("acme", "DeletionBlocked", status="True", reason="StoreUnreachable")
    assert "set spec.storage.deletionPolicy to Retain" in said["message"]
    await own.api.patch(team.path(kinds.MEDIA_TENANT, "acme"), RETAIN)
    await is_gone(team, "acme")
    assert await mark_of(own, id_) is not None


async def test_a_deletion_whose_policy_changed_unseen_deletes_nothing(
    own: Bench, namespace: str, faults: FaultProxy
) -> None:
    await own.operator(url=faults.url)
    team, id_ = Team(own, namespace), tenant_id(namespace)
    await settled(team, "acme", tenantId=id_, storage=DELETE)
    put_objects(own, f"media-{id_}", 3)
    own.backends.s3.stop()
    await delete(team, "acme")
    await team.condition("acme", "DeletionBlocked", status="True", reason="StoreUnreachable")
    unseen = faults.answer(500, r"GET .*/mediatenants\?")
    faults.cut_watches()
    await own.api.patch(team.path(kinds.MEDIA_TENANT, "acme"), RETAIN)
    await own.backends.restart_s3()
    await is_gone(team, "acme", 90)
    assert unseen.answered > 0
    assert (await own.backends.buckets.observe(f"media-{id_}")).exists
    assert await mark_of(own, id_) is not None


async def test_what_the_finalizer_of_somebody_else_holds_says_so(working: Bench, namespace: str) -> None:
    team, id_ = Team(working, namespace), tenant_id(namespace)
    for name, policy in (("kept", "Retain"), ("deleted", "Delete")):
        of = f"{id_}{name[0]}"
        await settled(team, name, tenantId=of, storage={"deletionPolicy": policy})
        await working.api.patch(
            team.path(kinds.MEDIA_TENANT, name), {"metadata": {"finalizers": ["example.com/audit"]}}
        )
        if policy == "Delete":
            both = ["example.com/audit", kinds.FINALIZER]
            await team.seen(kinds.MEDIA_TENANT, name, lambda new: new["metadata"]["finalizers"] == both)  # noqa: B023
        await delete(team, name)

        def is_said(body: Object) -> bool:
            ready = condition_of(body, "Ready") or {}
            return ready.get("reason") == "Deleting" and "waits for example.com/audit" in ready["message"]

        await team.seen(kinds.MEDIA_TENANT, name, is_said)
        assert (await mark_of(working, of) is None) is (policy == "Delete")
        await working.api.patch(team.path(kinds.MEDIA_TENANT, name), {"metadata": {"finalizers": None}})
        await is_gone(team, name, 10)


async def test_a_blocked_deletion_goes_on_when_the_store_is_back(own: Bench, namespace: str) -> None:
    await own.operator()
    team, id_ = Team(own, namespace), tenant_id(namespace)
    await settled(team, "acme", tenantId=id_, storage=DELETE)
    own.backends.s3.stop()
    await delete(team, "acme")
    await team.condition("acme", "DeletionBlocked", status="True", reason="StoreUnreachable")
    await own.backends.restart_s3()
    await is_gone(team, "acme", 120)
    assert not (await own.backends.buckets.observe(f"media-{id_}")).exists


async def test_objects_under_a_legal_hold_block_it_by_name(working: Bench, namespace: str) -> None:
    team, id_ = Team(working, namespace), tenant_id(namespace)
    client = working.backends.buckets._s3
    client.create_bucket(Bucket=f"media-{id_}", ObjectLockEnabledForBucket=True)
    await settled(team, "acme", tenantId=id_, storage=DELETE)
    key = f"tenant/{id_}/evidence"
    client.put_object(Bucket=f"media-{id_}", Key=key, Body=b"x")
    client.put_object_legal_hold(Bucket=f"media-{id_}", Key=key, LegalHold={"Status": "ON"})
    await delete(team, "acme")
    said = await team.condition("acme", "DeletionBlocked", status="True", reason="ObjectsLocked")
    assert key in said["message"]
    client.put_object_legal_hold(Bucket=f"media-{id_}", Key=key, LegalHold={"Status": "OFF"})
    await is_gone(team, "acme", 120)


async def test_a_namespace_goes_with_its_tenants(own: Bench, namespace: str) -> None:
    await own.operator()
    team, id_ = Team(own, namespace), tenant_id(namespace)
    await settled(team, "kept", tenantId=id_)
    await settled(team, "deleted", tenantId=f"{id_}d", storage=DELETE)
    await own.api.delete(f"/api/v1/namespaces/{namespace}")
    await gone(own.api, f"/api/v1/namespaces/{namespace}")
    assert await mark_of(own, id_) is not None
    assert await mark_of(own, f"{id_}d") is None


async def test_without_an_operator_retain_lets_go_at_once_and_the_next_one_retires(own: Bench, namespace: str) -> None:
    first = await own.operator("first")
    team, id_ = Team(own, namespace), tenant_id(namespace)
    await settled(team, "acme", tenantId=id_)
    first.kill()
    await delete(team, "acme")
    await is_gone(team, "acme", 5)
    assert await may_log_in(own, id_)

    await own.free_lease()
    await own.operator("second")

    async def retired() -> bool:
        return " retained" in (await mark_of(own, id_) or "")

    await until(retired, own.last_words)
    assert not await may_log_in(own, id_)


async def test_without_an_operator_delete_waits_for_one_or_for_the_documented_way_out(
    own: Bench, namespace: str
) -> None:
    first = await own.operator("first")
    team, id_ = Team(own, namespace), tenant_id(namespace)
    await settled(team, "acme", tenantId=id_, storage=DELETE)
    await settled(team, "other", tenantId=f"{id_}o", storage=DELETE)
    first.kill()
    await delete(team, "acme")
    await delete(team, "other")
    await own.api.patch(team.path(kinds.MEDIA_TENANT, "other"), {"metadata": {"finalizers": None}})
    await is_gone(team, "other", 5)
    assert await team.get(kinds.MEDIA_TENANT, "acme") is not None
    await own.free_lease()
    await own.operator("second")
    await is_gone(team, "acme", 60)
    assert await mark_of(own, id_) is None
