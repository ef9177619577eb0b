"""A tenant's clients notice no change of the tenant. And how long a file waits for its verdict."""

import statistics
import time

import pytest

from tests.cluster.installation import Installation
from tests.cluster.load import Clients
from tests.cluster.machine import slowness
from tests.cluster.namespace import Namespace

pytestmark = pytest.mark.node


def id_of(namespace: Namespace) -> str:
    """Its own: `make demo` may have left an acme on this cluster."""
    return f"acme-{namespace.name[-6:]}"


def declare(namespace: Namespace, **spec: object) -> None:
    version = "media.scaiwave.io/v1alpha1"
    wanted = {
        "tenantId": id_of(namespace),
        "scan": {"pendingAccess": "All"},
        "transcription": {"enabled": False},
        **spec,
    }
    namespace.apply({"apiVersion": version, "kind": "MediaTenant", "metadata": {"name": "acme"}, "spec": wanted})


def generation(namespace: Namespace) -> int:
    return int(namespace.get(f"deployment/mt-{id_of(namespace)}")["metadata"]["generation"])


def until_rolled(namespace: Namespace, before: int) -> None:
    namespace.until(f"deployment/mt-{id_of(namespace)}", ".metadata.generation", lambda it: int(it) > before)
    namespace.kubectl("rollout", "status", f"deployment/mt-{id_of(namespace)}", "--timeout=180s")
    namespace.wait("mediatenant/acme", "condition=Ready", seconds=60)


def test_changes_of_resources_keys_and_auth_fail_no_request(platform: Installation, team: Namespace) -> None:
    declare(team, api={"replicas": 2})
    team.wait("mediatenant/acme", "condition=Ready", seconds=180)
    clients = Clients(team, id_of(team))
    clients.start()

    before = generation(team)
    declare(team, api={"replicas": 2, "resources": {"requests": {"cpu": "60m"}}})
    until_rolled(team, before)

    before = generation(team)
    one = {"replicas": 1, "resources": {"requests": {"cpu": "60m"}}}  # one pod only: the new one has to stand first
    declare(team, api=one)
    team.kubectl("rollout", "status", f"deployment/mt-{id_of(team)}", "--timeout=180s")
    team.kubectl("annotate", "mediatenant", "acme", "media.scaiwave.io/rotate-keys=again")
    until_rolled(team, before)

    # Tokens of another issuer alone are good for a while: refused, as was declared, but answered all the time.
    issuer = {"issuer": "https://login.example", "jwksUri": "https://login.example/keys"}
    for auth in ({"oidc": issuer}, {}):
        before = generation(team)
        declare(team, api=one, auth=auth)
        until_rolled(team, before)

    report = clients.report()
    assert not report.errors.keys() - {"upload: 401", "download: 401"}, report.errors
    assert report.lost == []
    assert report.uploaded > 10


def test_a_small_file_has_its_verdict_within_six_seconds(platform: Installation, team: Namespace) -> None:
    declare(team)
    team.wait("mediatenant/acme", "condition=Ready", seconds=180)
    took = []
    with team.reaching(f"mt-{id_of(team)}") as acme:
        for number in range(3):
            team.kubectl("wait", "job", "--all", "--for=condition=Complete", "--timeout=60s", check=False)
            team.until_none("job", "--field-selector", "status.successful=0")  # so that each one needs a new Job
            began = time.monotonic()
            file = acme.upload(f"a small file, {number}".encode(), "small.txt", "text/plain")
            acme.until(file, lambda about: about["scan_status"] == "clean")
            took.append(time.monotonic() - began)
    print(f"upload to verdict: {', '.join(f'{seconds:.1f} s' for seconds in took)}")
    assert statistics.median(took) < 6 * slowness()
