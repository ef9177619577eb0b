"""A tenant's issuer on a real API server: the status says if it cannot be asked, and what runs goes on."""

import json
from collections.abc import AsyncIterator

import pytest

from media_operator.cluster import kinds
from tests.cluster.control_plane.operator_process import Bench, Team, bench
from tests.cluster.control_plane.server import ControlPlane

pytestmark = [pytest.mark.control_plane, pytest.mark.usefixtures("crd")]

DECLARED = {"issuer": "https://no-such-issuer.invalid", "jwksUri": "https://no-such-issuer.invalid/keys"}


@pytest.fixture(scope="module")
async def shared(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    async with bench(control_plane, tmp_path_factory.mktemp("operator")) as made:
        await made.operator(resync_seconds="3600")
        yield made


@pytest.mark.parametrize("host", ["127.0.0.1:6443", "169.254.169.254", "[::1]:8080"])
async def test_an_issuer_on_the_operators_own_machine_is_not_asked(shared: Bench, namespace: str, host: str) -> None:
    team, id_ = Team(shared, namespace), f"t{namespace.removeprefix('test-')}"
    await team.apply("acme", tenantId=id_, auth={"oidc": {"issuer": f"https://{host}"}})
    said = await team.condition("acme", "ApiReady", reason="RunApiFailed")
    assert "has a loopback, link-local" in said["message"]


async def test_an_issuer_is_asked_anew_when_the_declared_url_is_removed(shared: Bench, namespace: str) -> None:
    team, id_ = Team(shared, namespace), f"t{namespace.removeprefix('test-')}"
    await team.apply("acme", tenantId=id_, auth={"oidc": DECLARED})
    await team.condition("acme", "ApiReady", reason="ApiStarting")
    before = await team.get(kinds.DEPLOYMENT, f"mt-{id_}")
    assert before
    assert DECLARED["jwksUri"] in json.dumps(before["spec"])

    await team.apply("acme", tenantId=id_, auth={"oidc": {"issuer": DECLARED["issuer"]}})
    said = await team.condition("acme", "ApiReady", reason="RunApiFailed")
    assert "does not say where the keys are" in said["message"]
    after = await team.get(kinds.DEPLOYMENT, f"mt-{id_}")
    assert after
    assert after["metadata"]["generation"] == before["metadata"]["generation"]  # what runs goes on
