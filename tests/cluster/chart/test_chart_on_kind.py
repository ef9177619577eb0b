"""The chart on a cluster: `helm test`, and an uninstallation that is refused."""

import re
import subprocess

import pytest

from media_operator.cluster import kinds
from tests.cluster.node.installation import RELEASE, Installation
from tests.cluster.node.namespace import PLATFORM

pytestmark = pytest.mark.node


def test_helm_test_makes_a_tenant_sees_a_virus_refused_and_has_a_recording_transcribed(platform: Installation) -> None:
    said = platform.cluster.helm("test", RELEASE, "--namespace", PLATFORM, "--timeout", "300s", "--logs")
    assert "the EICAR test file is refused" in said
    assert "a recording was transcribed: good evening team please open the new report" in said
    assert "the tenant is deleted" in said


def test_a_refused_uninstallation_removes_nothing_and_says_how_to_go_on(platform: Installation) -> None:
    """After the refusal Helm takes the release for partly removed, and upgrades it only after that rollback."""
    tenant = {"apiVersion": kinds.MEDIA_TENANT.api_version, "kind": "MediaTenant", "metadata": {"name": "kept"}}
    installed = ("get", "deployments,statefulsets,secrets", "--output", "name")
    with platform.namespace("kept") as namespace:
        namespace.apply(tenant | {"spec": {}})
        before = platform.own.kubectl(*installed)
        with pytest.raises(subprocess.CalledProcessError) as refused:
            platform.cluster.helm("uninstall", RELEASE, "--namespace", PLATFORM, "--timeout", "120s")
        said = refused.value.stderr + refused.value.stdout
        (rollback,) = re.findall(r"helm (rollback [\w -]+)", said)
        platform.cluster.helm(*rollback.split())
        assert f"{namespace.name}/kept" in said
        assert set(before.split()) <= set(platform.own.kubectl(*installed).split())
    platform.install()
