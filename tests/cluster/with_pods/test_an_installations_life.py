"""An installation's life: two isolated tenants, an upgrade under load, a killed operator, a restarted node, a rollback.

The steps come in the order in which a platform team would see them. Clients that never pause (`load.py`) count
failures. The last step uninstalls the platform and installs it again.
"""

import base64
import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.machine import slowness
from tests.cluster.node import images, kind
from tests.cluster.node.client import Client
from tests.cluster.node.installation import CHART, HERE, OPERATOR, RELEASE, Installation
from tests.cluster.node.load import Clients
from tests.cluster.node.namespace import PLATFORM, Namespace
from tests.cluster.node.waiting import wait_until

pytestmark = pytest.mark.node

RECORDING = images.SPEECH_MODEL / "samples" / "greeting_en.wav"
SAID = json.loads((images.SPEECH_MODEL / "samples" / "transcripts.json").read_text())[RECORDING.name]["text"]
NEXT = "next"
"""Tag of the version that is upgraded to: the same images, which a Deployment cannot know."""


@dataclass(frozen=True)
class Tenant:
    """One of a team's own namespace. Its id is its own too: `make demo` may have left an acme on this cluster."""

    namespace: Namespace
    name: str

    @contextlib.contextmanager
    def reached(self) -> Iterator[Client]:
        with self.namespace.reaching(f"mt-{self.name}") as client:
            yield client

    def declare(self) -> None:
        transcription = {
            "model": "/models/tiny-words",
            "resources": {"requests": {"cpu": "50m"}},
            "maxParallel": 1,
        }
        spec = {  # little of the node, where all of it has to find room twice over
            "api": {"replicas": 2, "resources": {"requests": {"cpu": "20m", "memory": "128Mi"}}},
            "scan": {"pendingAccess": "All", "maxParallel": 1},
            "transcription": transcription,
        }
        version = "media.scaiwave.io/v1alpha1"
        metadata = {"name": self.name}
        self.namespace.apply({"apiVersion": version, "kind": "MediaTenant", "metadata": metadata, "spec": spec})

    def until_ready(self) -> None:
        self.namespace.wait(f"mediatenant/{self.name}", "condition=Ready", seconds=180)

    def until_rolled(self, tag: str) -> None:
        deployment, image = f"deployment/mt-{self.name}", ".spec.template.spec.containers[0].image"
        self.namespace.until(deployment, image, lambda it: it.endswith(f":{tag}"), 120 * slowness())
        self.namespace.kubectl("rollout", "status", deployment, "--timeout=180s")
        self.until_ready()

    def credentials(self) -> dict[str, str]:
        found = self.namespace.get(f"secret/mt-{self.name}-credentials")["data"]
        held = {key: base64.b64decode(value).decode() for key, value in found.items()}
        return {
            "id": self.name,
            "key": held["s3-access-key-id"],
            "secret": held["s3-secret-access-key"],
            "url": held["database-url"],
        }


@pytest.fixture
def teams(platform: Installation) -> Iterator[tuple[Tenant, Tenant]]:
    with platform.namespace("team-acme") as acme, platform.namespace("team-globex") as globex:
        yield (Tenant(acme, acme.name.removeprefix("team-")), Tenant(globex, globex.name.removeprefix("team-")))


@pytest.fixture
def next_version(platform: Installation, tmp_path: Path) -> Path:
    """The chart's next version, and its images on the node."""
    for name in ("api", "operator", images.WITH_MODEL):
        tag = images.tag(name)
        platform.cluster.node(*kind.CTR, "images", "tag", "--force", tag, tag.replace(":dev", f":{NEXT}"))
    chart = tmp_path / "media-platform"
    shutil.copytree(CHART, chart)
    about = (chart / "Chart.yaml").read_text()
    (chart / "Chart.yaml").write_text(about.replace("\nversion: 0.", "\nversion: 1."))
    return chart


def containers_that_are_ready(namespace: Namespace) -> set[str]:
    pods = json.loads(namespace.kubectl("get", "pods", "--output", "json"))["items"]
    known = (each for pod in pods for each in pod["status"].get("containerStatuses", ()))
    return {each["containerID"] for each in known if each["ready"]}


def until_all_has_started_anew(namespace: Namespace, before: set[str]) -> None:
    """Until the kubelet has told of its restart: the API server calls the containers before it ready until then."""
    wait_until(
        lambda: not containers_that_are_ready(namespace) & before,
        240 * slowness(),
        lambda: f"{namespace.name} has containers from before\n{namespace.describe('pods')}",
    )
    for workload in namespace.kubectl("get", "deployments,statefulsets", "--output", "name").split():
        namespace.kubectl("rollout", "status", workload, "--timeout=240s")


def leader(platform: Installation) -> str:
    return str(platform.own.get("lease/media-operator")["spec"]["holderIdentity"])


TRESPASS = """
import json, sys
import boto3, psycopg
from botocore.config import Config
from media_operator.tenant.spec import schema_of
from media_operator.settings import StoreAdminSettings
mine, theirs = json.load(sys.stdin)
admin = StoreAdminSettings()
s3 = boto3.client("s3", endpoint_url=admin.endpoint, region_name=admin.region,
    aws_access_key_id=mine["key"], aws_secret_access_key=mine["secret"], config=Config(s3={"addressing_style": "path"}))
def tried(act):
    try:
        act()
    except Exception as error:
        return getattr(error, "response", {}).get("Error", {}).get("Code") or type(error).__name__
    return "done"
def of(whose):
    bucket, prefix, schema = f"media-{whose}", f"tenant/{whose}/", schema_of(whose)
    with psycopg.connect(mine["url"].replace("postgresql+psycopg", "postgresql"), autocommit=True) as database:
        return {
            "put": tried(lambda: s3.put_object(Bucket=bucket, Key=prefix + "trespass", Body=b"1")),
            "get": tried(lambda: s3.get_object(Bucket=bucket, Key=prefix + "trespass")),
            "list": tried(lambda: s3.list_objects_v2(Bucket=bucket, Prefix=prefix)),
            "delete": tried(lambda: s3.delete_object(Bucket=bucket, Key=prefix + "trespass")),
            "select": tried(lambda: database.execute(f"SELECT count(*) FROM {schema}.media")),
            "write": tried(lambda: database.execute(f"DELETE FROM {schema}.idempotency")),
            "quota": tried(lambda: database.execute(f"UPDATE {schema}.usage SET max_bytes = 1 << 40")),
            "role": tried(lambda: database.execute(f"SET ROLE {schema}")) if whose != mine["id"] else "done",
        }
print(json.dumps({whose: of(whose) for whose in (mine["id"], theirs)}))
"""


def assert_apart(platform: Installation, acme: Tenant, globex: Tenant) -> None:
    """Neither can read, write or list the other's data: by its token, by its S3 key, or as its database role."""
    with acme.reached() as at_acme, globex.reached() as at_globex:
        secret = at_acme.upload(b"of acme", "plan.txt", "text/plain")
        assert at_globex.get(f"/v1/media/download/{secret}").status_code == 404
        at_globex.http.headers["Authorization"] = at_acme.http.headers["Authorization"]
        assert at_globex.get(f"/v1/media/download/{secret}").status_code == 401

    for mine, theirs in ((acme, globex), (globex, acme)):
        could = platform.python(TRESPASS, [mine.credentials(), theirs.name])
        assert could[mine.name].pop("quota") == "InsufficientPrivilege", could
        assert set(could[mine.name].values()) == {"done"}, could
        assert set(could[theirs.name].values()) == {"AccessDenied", "InsufficientPrivilege"}, could


def test_an_installations_life(platform: Installation, teams: tuple[Tenant, Tenant], next_version: Path) -> None:
    # 1. Two teams declare a tenant each, and neither reaches what is the other's.
    acme, globex = teams
    for tenant in teams:
        tenant.declare()
    for tenant in teams:
        tenant.until_ready()
    assert_apart(platform, acme, globex)

    # 2. The chart is upgraded while clients upload and download, recordings wait for their text, and the operator that
    #    leads is killed half-way.
    clients = Clients(acme.namespace, acme.name)
    clients.start()
    with globex.reached() as at_globex:
        recordings = [at_globex.transcribe(RECORDING.read_bytes(), RECORDING.name) for _ in range(6)]
    before = leader(platform)
    tags = {f"{part}.image.tag": NEXT for part in ("api", "workers", "operator")}
    with ThreadPoolExecutor(1) as beside:
        upgrade = beside.submit(platform.install, next_version, **tags)
        platform.own.until("lease/media-operator", ".spec.holderIdentity", lambda it: it not in ("", before), 120)
        platform.own.kubectl("delete", "pod", leader(platform), "--grace-period=0", "--force")
        upgrade.result()
    for tenant in teams:
        tenant.until_rolled(NEXT)
    upgraded = clients.report()
    print(f"upgrade: {upgraded}")
    assert upgraded.errors == {}
    assert upgraded.lost == []
    assert upgraded.uploaded > 10
    with globex.reached() as at_globex:
        for job in recordings:
            assert at_globex.transcript(job).strip() == SAID

    # 3. The node is restarted while files wait for their verdict and a recording for its text. Nobody helps.
    with acme.reached() as at_acme:
        kept = {at_acme.upload(f"file {number}".encode(), "f.txt", "text/plain"): number for number in range(20)}
        recording = at_acme.transcribe(RECORDING.read_bytes(), RECORDING.name)
    began = time.monotonic()
    namespaces = (platform.own, acme.namespace, globex.namespace)
    before = set().union(*map(containers_that_are_ready, namespaces))
    platform.cluster.docker.run("restart", "--time", "5", kind.NODE)
    wait_until(lambda: kind.current() is not None, 180 * slowness(), lambda: "the API server does not come back")
    for namespace in namespaces:
        until_all_has_started_anew(namespace, before)
    with acme.reached() as at_acme:
        for media_id, number in kept.items():
            at_acme.until(media_id, lambda about: about["scan_status"] == "clean", seconds=120)
            assert at_acme.download(media_id) == f"file {number}".encode()
        assert at_acme.transcript(recording).strip() == SAID
    for tenant in teams:
        tenant.until_ready()
    print(f"node restart: all as before after {time.monotonic() - began:.0f} s")

    # 4. The upgrade is taken back, with clients there again.
    clients.start()
    platform.cluster.helm("rollback", RELEASE, "--namespace", PLATFORM, "--wait", "--timeout", "240s")
    for tenant in teams:
        tenant.until_rolled(HERE["image.tag"])
    rolled_back = clients.report()
    print(f"rollback: {rolled_back}")
    assert rolled_back.errors == {}
    assert rolled_back.lost == []

    # 5. Everything is uninstalled; the tenants' data is to be kept, as is the default. The way back finds it all.
    for tenant in teams:
        tenant.namespace.kubectl("delete", "mediatenant", tenant.name, "--timeout=120s")
    # That it is refused while there are tenants is tested elsewhere; here somebody's `make demo` must not matter.
    arguments = ("--namespace", PLATFORM, "--no-hooks", "--wait", "--timeout", "240s")
    platform.cluster.helm("uninstall", RELEASE, *arguments)
    platform.own.until_none("pods", "--selector", OPERATOR)
    platform.install()
    acme.declare()
    acme.until_ready()
    with acme.reached() as at_acme:
        for media_id, number in kept.items():
            assert at_acme.download(media_id) == f"file {number}".encode()
        assert at_acme.transcript(recording).strip() == SAID
