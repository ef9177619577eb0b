"""The operator in outages: leaders die, servers go and come back, permissions are missing."""

import asyncio
import base64
import os
import signal

import psycopg
import pytest

from media_operator.cluster import kinds
from media_operator.cluster.kinds import Object
from tests.cluster.control_plane.fault_proxy import FaultProxy
from tests.cluster.control_plane.operator_process import NAMESPACE, USER, Bench, Team, until
from tests.cluster.without_pods.test_operator import settled, tenant_id
from tests.stopwatch import Stopwatch

pytestmark = [pytest.mark.control_plane, pytest.mark.usefixtures("crd")]
OUTAGE_SECONDS = float(os.environ.get("MEDIA_OUTAGE_SECONDS", "0"))
"""How long S3 and PostgreSQL stay away once that is said."""


async def holder(own: Bench) -> str:
    lease = await own.api.get(kinds.LEASE.path(NAMESPACE, "media-operator"))
    return str(lease["spec"].get("holderIdentity", ""))


async def test_when_the_leader_is_killed_another_acts_within_15_seconds(own: Bench, namespace: str) -> None:
    team, id_ = Team(own, namespace), tenant_id(namespace)
    replicas = {name: await own.operator(name, lease_seconds=None) for name in ("one", "two")}
    await settled(team, "acme", tenantId=id_)
    leader = await holder(own)
    replicas[leader].kill()
    killed = Stopwatch()
    await own.api.delete(team.path(kinds.SERVICE, f"mt-{id_}"))
    await team.seen(kinds.SERVICE, f"mt-{id_}", lambda _: True)
    assert killed.seconds() < 15
    assert await holder(own) != leader


async def test_a_leader_that_is_stopped_hands_over_at_once(own: Bench, namespace: str) -> None:
    team, id_ = Team(own, namespace), tenant_id(namespace)
    replicas = {name: await own.operator(name) for name in ("one", "two")}
    await settled(team, "acme", tenantId=id_)
    leader = await holder(own)
    told = Stopwatch()
    assert replicas[leader].stop() == 0
    assert told.seconds() < 3  # kopf by itself waits 5 s for what else runs
    ended = Stopwatch()
    await own.api.delete(team.path(kinds.SERVICE, f"mt-{id_}"))
    await team.seen(kinds.SERVICE, f"mt-{id_}", lambda _: True)
    assert ended.seconds() < 8


async def test_a_pass_with_nothing_to_do_writes_nothing(own: Bench, namespace: str) -> None:
    await own.operator(resync_seconds="1")
    team, id_ = Team(own, namespace), tenant_id(namespace)
    await settled(team, "acme", tenantId=id_)

    async def is_quiet() -> bool:
        since = own.control_plane.mark()
        await asyncio.sleep(1.5)
        return own.control_plane.writes(USER, since=since, but="leases", namespace=namespace) == []

    await until(is_quiet, own.last_words)  # the last of the Deployment's own changes has been told
    mark = own.control_plane.mark()

    await asyncio.sleep(5)  # the absence of something: several passes

    assert own.control_plane.writes(USER, since=mark, but="leases", namespace=namespace) == []


async def test_labels_that_a_policy_asks_for_are_on_every_object_and_are_written_once(
    own: Bench, namespace: str
) -> None:
    await own.operator(labels='{"team": "media"}', annotations='{"contact": "us"}', resync_seconds="1")
    team, id_ = Team(own, namespace), tenant_id(namespace)
    await settled(team, "acme", tenantId=id_)
    made = [each for kind in kinds.CHILDREN if kind != kinds.HTTP_ROUTE for each in await team.list(kind)]
    ours = [each["metadata"] for each in made if each["metadata"].get("labels", {}).get(kinds.TENANT_LABEL) == id_]
    assert len(ours) == 11
    assert all((each["labels"]["team"], each["annotations"]["contact"]) == ("media", "us") for each in ours)

    async def is_quiet() -> bool:
        since = own.control_plane.mark()
        await asyncio.sleep(3)  # the absence of something: several passes
        return own.control_plane.writes(USER, since=since, but="leases", namespace=namespace) == []

    await until(is_quiet, own.last_words)


async def test_a_restart_writes_nothing(own: Bench, namespace: str) -> None:
    team, id_ = Team(own, namespace), tenant_id(namespace)
    first = await own.operator("first")
    await settled(team, "acme", tenantId=id_)
    await asyncio.sleep(2)  # the last of the Deployment's own changes is told
    assert first.stop() == 0
    mark = own.control_plane.mark()
    second = await own.operator("second", resync_seconds="1")

    async def leads() -> bool:
        return "leading" in second.log.read_text()

    await until(leads, own.last_words)
    await asyncio.sleep(6)  # the absence of something: several passes
    assert own.control_plane.writes(USER, since=mark, but="leases", namespace=namespace) == []


async def test_watches_survive_a_restart_of_the_api_server_and_a_compaction(own: Bench, namespace: str) -> None:
    team, id_ = Team(own, namespace), tenant_id(namespace)
    await own.operator()
    await settled(team, "acme", tenantId=id_)
    for round_ in range(2):
        await own.control_plane.restart_apiserver(down_seconds=1)
        await own.control_plane.compact_etcd()
        await own.api.delete(team.path(kinds.SERVICE, f"mt-{id_}"))
        await team.seen(kinds.SERVICE, f"mt-{id_}", lambda _: True)
        await team.apply("acme", tenantId=id_, quota={"maxStorageMb": 30 + round_})
        await team.condition("acme", "PolicyApplied", status="True")


async def test_cut_watches_and_a_storm_of_429_only_delay(own: Bench, namespace: str, faults: FaultProxy) -> None:
    team, id_ = Team(own, namespace), tenant_id(namespace)
    await own.operator(url=faults.url)
    await settled(team, "acme", tenantId=id_)
    assert faults.cut_watches() > 10
    faults.answer(429, "(PATCH|POST) .*/(services|deployments|mediatenants)", times=10, retry_after=1)
    faults.answer(410, "GET .*watch=true.*services", times=2)
    await own.api.delete(team.path(kinds.SERVICE, f"mt-{id_}"))
    await team.seen(kinds.SERVICE, f"mt-{id_}", lambda _: True)


async def test_a_deletion_that_no_watch_told_is_found(own: Bench, namespace: str, faults: FaultProxy) -> None:
    """An object is deleted while the watch is away. The next list does not have it."""
    team, id_ = Team(own, namespace), tenant_id(namespace)
    await own.operator(url=faults.url, relist_seconds="5")
    await settled(team, "acme", tenantId=id_)
    faults.answer(500, "GET .*watch=true.*|GET .*/services")
    faults.cut_watches()
    await own.api.delete(team.path(kinds.SERVICE, f"mt-{id_}"))
    await asyncio.sleep(2)
    faults.heal()
    await team.seen(kinds.SERVICE, f"mt-{id_}", lambda _: True)


async def test_while_s3_is_away_it_is_said_and_it_converges_by_itself(own: Bench, namespace: str) -> None:
    team, id_ = Team(own, namespace), tenant_id(namespace)
    await own.operator(resync_seconds="3")
    await settled(team, "acme", tenantId=id_)
    own.backends.s3.stop()
    await team.condition("acme", "BucketReady", status="Unknown", reason="StoreUnreachable")
    await team.apply("later", tenantId=f"{id_}b")
    await team.condition("later", "BucketReady", status="Unknown", reason="StoreUnreachable")
    await asyncio.sleep(OUTAGE_SECONDS)
    assert await team.get(kinds.DEPLOYMENT, f"mt-{id_}b") is None
    await own.backends.restart_s3()
    await team.condition("acme", "BucketReady", status="True")
    await team.condition("later", "ApiReady", reason="ApiStarting")


async def test_while_postgresql_is_away_it_is_said_and_it_converges_by_itself(own: Bench, namespace: str) -> None:
    team, id_ = Team(own, namespace), tenant_id(namespace)
    await own.operator(resync_seconds="3")
    await settled(team, "acme", tenantId=id_)
    pid = own.backends.postgres.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)  # it starts again at its address
    await team.condition("acme", "DatabaseReady", status="Unknown", reason="DatabaseUnreachable")
    await team.apply("later", tenantId=f"{id_}b")
    await asyncio.sleep(OUTAGE_SECONDS)
    assert await team.get(kinds.DEPLOYMENT, f"mt-{id_}") is not None
    own.backends.postgres.start()
    await team.condition("acme", "DatabaseReady", status="True")
    await team.condition("later", "ApiReady", reason="ApiStarting")


async def test_credentials_that_were_lost_while_postgresql_was_away_work_once_it_is_back(
    own: Bench, namespace: str
) -> None:
    team, id_ = Team(own, namespace), tenant_id(namespace)
    await own.operator(resync_seconds="3")
    await settled(team, "acme", tenantId=id_)
    name = f"mt-{id_}-credentials"
    before = await team.get(kinds.SECRET, name)
    assert before is not None
    pid = own.backends.postgres.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)  # it starts again at its address
    await team.condition("acme", "DatabaseReady", status="Unknown", reason="DatabaseUnreachable")
    await own.api.delete(team.path(kinds.SECRET, name))
    await team.seen(kinds.SECRET, name, lambda body: body["metadata"]["uid"] != before["metadata"]["uid"])
    own.backends.postgres.start()

    async def gets_in() -> bool:
        secret = await team.get(kinds.SECRET, name)
        assert secret is not None
        url = base64.b64decode(secret["data"]["database-url"]).decode().replace("+psycopg", "")
        try:
            async with await psycopg.AsyncConnection.connect(url, connect_timeout=5):
                return True
        except psycopg.OperationalError:
            return False

    await until(gets_in, own.last_words)


async def test_another_address_of_postgresql_reaches_tenants_that_are_there(own: Bench, namespace: str) -> None:
    team, id_ = Team(own, namespace), tenant_id(namespace)
    first = await own.operator()
    await settled(team, "acme", tenantId=id_)
    first.stop()
    await own.operator("second", database_tenant_address="pgbouncer.example:5432")

    def leads_there(secret: Object) -> bool:
        return "@pgbouncer.example:5432/" in base64.b64decode(secret["data"].get("database-url", "")).decode()

    await team.seen(kinds.SECRET, f"mt-{id_}-credentials", leads_there)


async def test_a_missing_permission_is_said_in_the_condition(own: Bench, namespace: str) -> None:
    team, id_ = Team(own, namespace), tenant_id(namespace)
    path = "/apis/rbac.authorization.k8s.io/v1/clusterroles/media-operator-workloads"
    role = await own.api.get(path)
    for rule in role["rules"]:
        if "networkpolicies" in rule["resources"]:
            rule["verbs"] = ["get", "list", "watch"]
    await own.api.patch(path, {"rules": role["rules"]})
    await own.operator()
    await team.apply("acme", tenantId=id_)
    said = await team.condition("acme", "ApiReady", reason="PermissionMissing")
    assert "networkpolicies" in said["message"]
    assert "patch" in said["message"]
