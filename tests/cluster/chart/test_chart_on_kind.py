"""The chart on a cluster: `helm test`. An uninstallation that is refused is in `test_a_running_tenant.py`."""

import pytest

from tests.cluster.node.installation import RELEASE, Installation
from tests.cluster.node.namespace import PLATFORM

pytestmark = pytest.mark.node


def test_helm_test_makes_a_tenant_sees_a_virus_refused_and_has_a_recording_transcribed(platform: Installation) -> None:
    said = platform.cluster.helm("test", RELEASE, "--namespace", PLATFORM, "--timeout", "300s", "--logs")
    assert "the EICAR test file is refused" in said
    assert "a recording was transcribed: good evening team please open the new report" in said
    assert "the tenant is deleted" in said
