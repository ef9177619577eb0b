"""An operator that manages some namespaces only: the chart's `watchNamespaces`."""

from pathlib import Path

import pytest

from media_operator.cluster import kinds
from tests.cluster.control_plane.api import Api
from tests.cluster.control_plane.operator_process import NAMESPACE, USER, Team, bench, install_crd
from tests.cluster.control_plane.server import ControlPlane
from tests.cluster.without_pods.test_operator import settled

pytestmark = pytest.mark.control_plane


async def test_with_roles_in_its_namespaces_alone_it_serves_them_and_no_other(tmp_path: Path) -> None:
    # This control plane is the test's own. On a shared one, rights of other tests would hide that some are missing.
    async with ControlPlane(tmp_path / "control-plane") as control_plane:
        async with Api(control_plane) as api:
            await install_crd(api)
            for name in (NAMESPACE, "team-a", "team-b"):
                await api.create("/api/v1/namespaces", {"metadata": {"name": name}})
        async with bench(control_plane, tmp_path, "watchNamespaces={team-a}") as made:
            await made.operator(watch_namespaces=f"{NAMESPACE},team-a")
            ours, others = Team(made, "team-a"), Team(made, "team-b")
            await others.apply("stranger")
            await settled(ours, "acme")
            await ours.act_as_kubelet("mt-acme")
            await ours.condition("acme", "ApiReady", status="True")

            await made.api.delete(ours.path(kinds.SERVICE, "mt-acme"))
            await ours.seen(kinds.SERVICE, "mt-acme", lambda _: True)

            stranger = await others.get(kinds.MEDIA_TENANT, "stranger")
            assert stranger is not None
            assert "conditions" not in stranger.get("status", {})
            assert await others.list(kinds.DEPLOYMENT) == []
            refused = {each.uri for each in control_plane.writes(USER) if each.code == 403}
            assert refused == set()
