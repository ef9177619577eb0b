"""Real pods: tests of the test cluster itself, with the project's images and services."""

import json
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.node import images, kind
from tests.cluster.node.kind import Cluster
from tests.cluster.node.namespace import Namespace, body, pod, pod_spec

pytestmark = pytest.mark.node

SERVICES = Path(__file__).parents[1] / "services"


@pytest.fixture(scope="module")
def workspace(loaded: Cluster) -> Iterator[Namespace]:
    """One for all tests: each name in it is of one test. To make and remove one costs more than most tests do."""
    with Namespace.new(loaded, "test") as workspace:
        yield workspace


def test_a_deployment_is_answered_by_its_services_name_from_another_pod(workspace: Namespace) -> None:
    server = ("python3", "-m", "http.server", "8080", "--directory", "/opt/app")
    probe = {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}
    spec = pod_spec(*server, readinessProbe=probe)
    spec["restartPolicy"] = "Always"
    template = {"metadata": {"labels": {"app": "web"}}, "spec": spec}
    selector = {"matchLabels": {"app": "web"}}
    workspace.apply(
        body(
            "apps/v1", "Deployment", {"name": "web"}, spec={"replicas": 2, "selector": selector, "template": template}
        ),
        body(
            "v1",
            "Service",
            {"name": "web"},
            spec={"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
        ),
    )
    workspace.wait("deployment/web", "condition=Available")

    names = ("web", f"web.{workspace.name}", f"web.{workspace.name}.svc.cluster.local")
    fetch = "import os, urllib.request\nfor name in os.environ['NAMES'].split():\n    "
    fetch += "print(urllib.request.urlopen(f'http://{name}/', timeout=10).status)"
    assert workspace.run(fetch, NAMES=" ".join(names)).split() == ["200"] * 3
    assert "media_api" in workspace.kubectl("exec", "deployment/web", "--", "ls", "/opt/app")
    assert "GET / HTTP" in workspace.kubectl("logs", "--selector", "app=web", "--tail", "-1")


def test_a_job_runs_and_goes_after_its_ttl(workspace: Namespace) -> None:
    template = {"spec": pod_spec("python3", "-c", "print('done')")}
    spec = {"ttlSecondsAfterFinished": 2, "backoffLimit": 0, "template": template}
    workspace.apply(body("batch/v1", "Job", {"name": "short"}, spec=spec))
    workspace.wait("job/short", "condition=Complete")
    assert workspace.kubectl("logs", "job/short").strip() == "done"
    workspace.wait("job/short", "delete", 30)


def test_a_container_that_takes_too_much_memory_is_seen_as_oomkilled(workspace: Namespace) -> None:
    greedy = ("python3", "-c", "taken = bytearray(200 << 20); print(len(taken))")
    seen: list[tuple[str, int]] = []
    # The runtime learns of the kill by an event. If the event comes after the exit, the reason is Error.
    while ("OOMKilled", 137) not in seen and len(seen) < 5:
        name = f"greedy-{len(seen)}"
        workspace.apply(pod(name, *greedy, resources={"limits": {"memory": "64Mi"}}))
        workspace.wait(f"pod/{name}", "jsonpath={.status.phase}=Failed")
        ended = workspace.get(f"pod/{name}")["status"]["containerStatuses"][0]["state"]["terminated"]
        seen.append((ended["reason"], ended["exitCode"]))
    assert ("OOMKilled", 137) in seen
    assert {code for _, code in seen} == {137}


def test_what_a_claim_holds_outlives_the_pod_that_wrote_it(workspace: Namespace) -> None:
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Mi"}}}
    workspace.apply(body("v1", "PersistentVolumeClaim", {"name": "data"}, spec=claim))

    def visit(name: str, script: str) -> str:
        visitor = pod(name, "python3", "-c", script, volumeMounts=[{"name": "data", "mountPath": "/data"}])
        visitor["spec"]["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]
        workspace.apply(visitor)
        workspace.wait(f"pod/{name}", "jsonpath={.status.phase}=Succeeded")
        said = workspace.kubectl("logs", name).strip()
        workspace.kubectl("delete", "pod", name)
        return said

    visit("writer", "open('/data/kept', 'w').write('kept')")
    assert visit("reader", "print(open('/data/kept').read())") == "kept"


def test_helm_installs_a_chart(loaded: Cluster, workspace: Namespace, tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text("apiVersion: v2\nname: trivial\nversion: 0.1.0\nkubeVersion: '>=1.30.0-0'\n")
    (tmp_path / "templates/greeting.yaml").write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}}\n"
        "data: {greeting: {{ .Values.greeting }}}\n"
    )
    loaded.helm("install", "hello", str(tmp_path), "--namespace", workspace.name, "--set", "greeting=hi")
    assert workspace.get("configmap/hello")["data"] == {"greeting": "hi"}
    loaded.helm("uninstall", "hello", "--namespace", workspace.name, "--wait")
    assert "hello" not in workspace.kubectl("get", "configmaps", "--output", "name")


@pytest.mark.parametrize(
    ("image", "module"),
    [("api", "media_api.app"), ("workers", "media_workers.drain"), ("operator", "media_operator.reconcile")],
)
def test_the_projects_images_hold_what_they_run_and_no_compiler(workspace: Namespace, image: str, module: str) -> None:
    look = f"""
import importlib, os, pathlib, shutil
importlib.import_module({module!r})
print(os.getuid() != 0, [tool for tool in ('cc', 'gcc', 'make', 'pip') if shutil.which(tool)])
print([str(path) for path in pathlib.Path('/root').glob('.cache/*')] if os.access('/root', os.R_OK) else [])
"""
    workspace.apply(pod(f"look-{image}", "python3", "-c", look, image=images.tag(image)))
    workspace.wait(f"pod/look-{image}", "jsonpath={.status.phase}=Succeeded")
    assert workspace.kubectl("logs", f"look-{image}").split("\n")[:2] == ["True []", "[]"]


def test_a_changed_source_changes_one_small_layer_and_runs_in_the_cluster(
    workspace: Namespace, loaded: Cluster, tmp_path: Path
) -> None:
    for part in ("core", "api", "page"):
        left_out = shutil.ignore_patterns("__pycache__", "node_modules")
        shutil.copytree(images.ROOT / part, tmp_path / part, ignore=left_out)
    for file in ("Dockerfile", ".dockerignore"):
        shutil.copy(images.ROOT / file, tmp_path)
    change = secrets.token_hex(8)
    (tmp_path / "api/media_api/__init__.py").open("a").write(f"CHANGE = {change!r}\n")

    before = layers(loaded, images.tag("api"))
    on_node = (*kind.CTR, "images", "list", f"name=={images.tag('api')}")
    unchanged = loaded.node(*on_node)
    # The life of an installation leaves it under a second name.
    second = f"{images.tag('api')}-before"
    loaded.node(*kind.CTR, "images", "tag", "--force", images.tag("api"), second)
    try:
        loaded.load(*images.make(loaded.docker, "api", root=tmp_path))
        after = layers(loaded, images.tag("api"))
        assert len(after) == len(before)
        assert [old == new for old, new in zip(before, after, strict=True)].count(False) == 1  # no dependency anew
        assert workspace.run("import media_api; print(media_api.CHANGE)").strip() == change
    finally:
        loaded.load(*images.make(loaded.docker, "api"))
    assert loaded.node(*on_node) == unchanged
    loaded.node(*kind.CTR, "images", "rm", second)


def layers(cluster: Cluster, image: str) -> list[str]:
    found: list[str] = json.loads(cluster.docker.run("image", "inspect", "--format", "{{json .RootFS.Layers}}", image))
    return found


def test_versitygw_gives_a_key_to_a_user_for_one_prefix_alone(workspace: Namespace) -> None:
    workspace.kubectl("apply", "--filename", str(SERVICES / "s3.yaml"))
    workspace.wait("deployment/s3", "condition=Available")
    script = """
import json, boto3
from botocore.config import Config
root = dict(aws_access_key_id="root", aws_secret_access_key="root-secret-of-the-tests", region_name="us-east-1")
def s3(keys):
    return boto3.client("s3", endpoint_url="http://s3:7070", config=Config(s3={"addressing_style": "path"}), **keys)
def once(act, **request):  # the pod starts again while kube-proxy does not know every port yet
    try:
        act(**request)
    except Exception as error:
        if "Already" not in type(error).__name__: raise
once(s3(root).create_bucket, Bucket="acme")
iam = boto3.client("iam", endpoint_url="http://s3:7076", **root)
once(iam.create_user, UserName="acme")
resource = ["arn:aws:s3:::acme/tenant/acme/*"]
policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": resource}]}
iam.put_user_policy(UserName="acme", PolicyName="own", PolicyDocument=json.dumps(policy))
key = iam.create_access_key(UserName="acme")["AccessKey"]
scoped = s3(dict(root, aws_access_key_id=key["AccessKeyId"], aws_secret_access_key=key["SecretAccessKey"]))
scoped.put_object(Bucket="acme", Key="tenant/acme/one", Body=b"1")
print(scoped.get_object(Bucket="acme", Key="tenant/acme/one")["Body"].read())
try:
    scoped.put_object(Bucket="acme", Key="tenant/other/one", Body=b"1")
except scoped.exceptions.ClientError as error:
    print(error.response["Error"]["Code"])
"""
    assert workspace.run(script).split("\n") == ["b'1'", "AccessDenied"]


def test_minio_takes_its_place_by_a_switch(workspace: Namespace) -> None:
    workspace.cluster.load(*images.make(workspace.cluster.docker, "minio"))
    workspace.kubectl("apply", "--filename", str(SERVICES / "minio.yaml"))
    workspace.kubectl("rollout", "status", "deployment/s3", "--timeout=60s")  # versitygw's pod goes first
    script = """
import boto3
root = dict(aws_access_key_id="root", aws_secret_access_key="root-secret-of-the-tests", region_name="us-east-1")
s3 = boto3.client("s3", endpoint_url="http://s3:7070", **root)
try:
    s3.create_bucket(Bucket="acme")
except s3.exceptions.BucketAlreadyOwnedByYou:
    pass  # the pod was started again
s3.put_object(Bucket="acme", Key="one", Body=b"1")
print(s3.get_object(Bucket="acme", Key="one")["Body"].read())
"""
    assert workspace.run(script) == "b'1'"


def test_postgres_is_the_version_that_make_run_embeds(workspace: Namespace) -> None:
    workspace.kubectl("apply", "--filename", str(SERVICES / "postgres.yaml"))
    workspace.wait("deployment/postgres", "condition=Available")
    script = """
import psycopg
with psycopg.connect("postgresql://postgres:password-of-the-tests@postgres/postgres") as connection:
    print(connection.execute("SHOW server_version").fetchone()[0].split(".")[0])
"""
    assert workspace.run(script) == "18"


def test_clamd_finds_the_test_virus_and_nothing_else(workspace: Namespace) -> None:
    workspace.kubectl("apply", "--filename", str(SERVICES / "clamd.yaml"))
    workspace.wait("deployment/clamd", "condition=Available")
    script = r"""
import socket
def scan(data):
    with socket.create_connection(("clamd", 3310), 10) as clamd:
        clamd.sendall(b"zINSTREAM\0" + len(data).to_bytes(4, "big") + data + bytes(4))
        return clamd.recv(200).strip(b"\0").decode()
print(scan(b"harmless"))
print(scan(rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-STAND" + rb"ARD-ANTIVIRUS-TEST-FILE!$H+H*"))
"""
    assert workspace.run(script).split("\n") == ["stream: OK", "stream: Eicar-Test-Signature.UNOFFICIAL FOUND"]
