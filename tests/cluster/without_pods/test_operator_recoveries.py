"""The operator when the cluster itself loses something and gets it back: its CRD, or what etcd has learnt of late."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from media_operator.cluster import kinds
from tests.cluster.control_plane.api import another_namespace, gone, seen
from tests.cluster.control_plane.operator_process import (
    NAMESPACE,
    Backends,
    Bench,
    Team,
    bench,
    condition_of,
    install_crd,
    until,
)
from tests.cluster.control_plane.server import ControlPlane
from tests.cluster.without_pods.test_operator import settled, tenant_id
from tests.cluster.without_pods.test_operator_deletion import DELETE, RETAIN, delete, mark_of, put_objects

pytestmark = pytest.mark.control_plane

CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/mediatenants.media.scaiwave.io"
LEASE = kinds.LEASE.path(NAMESPACE, "media-operator")


@pytest.fixture(scope="module")
async def fragile(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ControlPlane]:
    """A cluster of these tests' own, since no other test can go on in one that loses so much."""
    async with ControlPlane(tmp_path_factory.mktemp("fragile")) as control_plane:
        yield control_plane


@pytest.fixture
async def there(fragile: ControlPlane, backends: Backends, tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench(fragile, tmp_path, backends=backends) as made:
        await install_crd(made.api)
        yield made


@pytest.fixture
async def team(there: Bench) -> AsyncIterator[Team]:
    async with another_namespace(there.api) as namespace:
        yield Team(there, namespace)


async def test_who_deletes_the_crd_deletes_nobodys_data(there: Bench, team: Team) -> None:
    operator, id_ = await there.operator(), tenant_id(team.namespace)
    await settled(team, "kept", tenantId=id_)
    await settled(team, "held", tenantId=f"{id_}h", storage=DELETE)
    put_objects(there, f"media-{id_}h", 3)
    before = await mark_of(there, f"{id_}h")
    await there.api.delete(CRD)
    said = await team.condition("held", "DeletionBlocked", status="True", reason="CrdDeleted")
    assert "set spec.storage.deletionPolicy to Retain" in said["message"]
    assert await team.get(kinds.DEPLOYMENT, f"mt-{id_}h") is not None
    assert await mark_of(there, f"{id_}h") == before

    # The way out. Then the CRD goes, and what comes again under its name gets its data.
    await there.api.patch(team.path(kinds.MEDIA_TENANT, "held"), RETAIN)
    await gone(there.api, CRD)
    operator.process.wait(60)  # its watches have ended, and Kubernetes starts it again
    await install_crd(there.api)
    operator.start()
    for name, of in (("kept", id_), ("held", f"{id_}h")):
        await settled(team, name, tenantId=of)
        tenant = await team.get(kinds.MEDIA_TENANT, name)
        assert tenant is not None
        assert (await mark_of(there, of) or "").startswith(tenant["metadata"]["uid"])
    listed = there.backends.buckets._s3.list_objects_v2(Bucket=f"media-{id_}h", Prefix="tenant/x/")
    assert listed["KeyCount"] == 3


async def test_an_etcd_that_was_set_back_is_followed_and_nothing_is_deleted(there: Bench, team: Team) -> None:
    operator, id_ = await there.operator(), tenant_id(team.namespace)
    await settled(team, "edited", tenantId=id_)
    await settled(team, "spared", tenantId=f"{id_}s", storage=DELETE)
    backup = await there.control_plane.back_up_etcd()
    await team.apply("edited", tenantId=id_, quota={"maxStorageMb": 31})
    await team.condition("edited", "PolicyApplied", status="True")
    await settled(team, "later", tenantId=f"{id_}l")
    renewed = (await there.api.get(LEASE))["spec"]["renewTime"]
    await seen(there.api, LEASE, lambda lease: lease["spec"]["renewTime"] > renewed)
    there.backends.s3.stop()
    await delete(team, "spared")
    await team.condition("spared", "DeletionBlocked", status="True", reason="StoreUnreachable")

    await there.control_plane.restore_etcd(backup)
    await there.backends.restart_s3()
    assert operator.process.wait(60) != 0  # by itself: what it has seen since then may never have been
    await there.free_lease()
    operator.start()

    async def is_as_before() -> bool:
        policy = await there.backends.rows(id_, "SELECT max_bytes FROM usage")
        return policy != [(31 * 1024 * 1024,)] and " retained" in (await mark_of(there, f"{id_}l") or "")

    await until(is_as_before, there.last_words)
    await team.condition("spared", "ApiReady", reason="ApiStarting")
    assert (await there.backends.buckets.observe(f"media-{id_}s")).exists
    assert await mark_of(there, f"{id_}s") is not None
    spared = await team.get(kinds.MEDIA_TENANT, "spared")
    assert spared is not None
    assert condition_of(spared, "DeletionBlocked") is None
