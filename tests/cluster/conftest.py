"""The two kinds of cluster: a control plane without nodes for tests without pods, and kind for tests with pods."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.cluster.control_plane.api import Api, another_namespace
from tests.cluster.control_plane.fault_proxy import FaultProxy
from tests.cluster.control_plane.operator_process import Backends, Bench, bench, install_crd
from tests.cluster.control_plane.server import ControlPlane
from tests.cluster.node import images, kind
from tests.cluster.node.docker import Missing
from tests.cluster.node.installation import Installation
from tests.cluster.node.namespace import Namespace
from tests.tools.build import BuildFailed


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes the cluster down comes last."""
    items.sort(key=lambda item: item.path.name == "test_teardown.py")


@pytest.fixture(scope="package")
async def control_plane(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ControlPlane]:
    """One for all tests that need it. It ends before the other tiers, of whose time it would take some, though idle."""
    async with ControlPlane(tmp_path_factory.mktemp("control-plane")) as control_plane:
        yield control_plane


@pytest.fixture
async def api(control_plane: ControlPlane) -> AsyncIterator[Api]:
    async with Api(control_plane) as api:
        yield api


@pytest.fixture(scope="package")
async def crd(control_plane: ControlPlane) -> None:
    """MediaTenant is a kind that the API server knows."""
    async with Api(control_plane) as api:
        await install_crd(api)


@pytest.fixture
async def namespace(api: Api) -> AsyncIterator[str]:
    """The name of a namespace of the test's own, in which pods could be made."""
    async with another_namespace(api) as name:
        yield name


@pytest.fixture
async def faults(control_plane: ControlPlane, tmp_path: Path) -> AsyncIterator[FaultProxy]:
    """A way to the API server on which it can be made to fail."""
    async with FaultProxy(control_plane, tmp_path) as faults:
        yield faults


@pytest.fixture(scope="module")
async def backends(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Backends]:
    """Tests may end them; the next one has them again."""
    started = await Backends.start(tmp_path_factory.mktemp("backends"))
    yield started
    started.stop()


@pytest.fixture
async def own(control_plane: ControlPlane, backends: Backends, tmp_path: Path) -> AsyncIterator[Bench]:
    """The test's own replicas of the operator, on these backends."""
    async with bench(control_plane, tmp_path, backends=backends) as made:
        yield made


@pytest.fixture(scope="session")
def loaded(cluster: kind.Cluster) -> kind.Cluster:
    """With the images of the project and of the services beside it."""
    cluster.load(*images.make(cluster.docker), *images.make(cluster.docker, images.WITH_MODEL))
    return cluster


@pytest.fixture(scope="session")
def platform(loaded: kind.Cluster) -> Installation:
    """The chart installed on kind as on a laptop."""
    platform = Installation(loaded)
    platform.install()
    return platform


@pytest.fixture
def team(platform: Installation) -> Iterator[Namespace]:
    """A namespace on kind of the test's own."""
    with platform.namespace("team-acme") as namespace:
        yield namespace


@pytest.fixture(scope="session")
def kept_cluster() -> bool:
    """Whether the cluster was there before the tests, or is to stay after them."""
    return kind.current() is not None or "MEDIA_KEEP_CLUSTER" in os.environ


@pytest.fixture(scope="session")
def cluster(kept_cluster: bool) -> Iterator[kind.Cluster]:
    """A running kind cluster. If there can be none, the tests are skipped with the reason; in CI they fail."""
    try:
        cluster = kind.up()
    except (Missing, BuildFailed) as missing:
        if "CI" in os.environ:
            raise
        pytest.skip(str(missing))
    yield cluster
    if not kept_cluster:
        kind.down()
