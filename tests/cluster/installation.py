"""The platform installed from its chart on the tests' kind cluster, and the commands that people would give it."""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import yaml

from media_core import tokens
from tests.cluster import images
from tests.cluster.images import ROOT
from tests.cluster.kind import Cluster
from tests.tools import build

CHART = ROOT / "charts" / "media-platform"
NAMESPACE = "media-system"
RELEASE = "media"
HERE = {"image.registry": "localhost", "image.tag": "dev", "image.pullPolicy": "IfNotPresent"}
FAST = {"operator.canarySeconds": "3600", "workers.image.repository": f"media-{images.WITH_MODEL}"}


@dataclass(frozen=True)
class Client:
    """A tenant's API as its users see it; `http` bears an administrator's token."""

    http: httpx.Client

    def get(self, path: str) -> httpx.Response:
        return self.http.get(path)

    def upload(self, content: bytes, name: str, mime_type: str, room: str = "lobby") -> str:
        """The id of the new item."""
        answer = self.http.post("/v1/media/upload", files={"file": (name, content, mime_type)}, data={"room_id": room})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["data"]["media_id"])

    def download(self, media_id: str) -> bytes:
        answer = self.http.get(f"/v1/media/download/{media_id}")
        assert answer.status_code == 200, answer.text
        return answer.content

    def until(self, media_id: str, wanted: Callable[[dict[str, Any]], bool], seconds: float = 60) -> dict[str, Any]:
        """What the API says of an item, once it is as wanted."""
        about: dict[str, Any] = {}

        def look() -> bool:
            answer = self.http.get(f"/v1/media/{media_id}/info")
            about.clear()
            about.update(answer.json().get("data", {}))
            return answer.status_code == 200 and wanted(about)

        wait_until(look, seconds, lambda: f"{media_id} is {about}")
        return about

    def until_gone(self, media_id: str, seconds: float = 60) -> None:
        wait_until(
            lambda: self.http.get(f"/v1/media/download/{media_id}").status_code == 404,
            seconds,
            lambda: f"{media_id} is still there: {self.http.get(f'/v1/media/{media_id}').text}",
        )

    def transcribe(self, content: bytes, name: str) -> str:
        answer = self.http.post(
            "/v1/transcribe", files={"file": (name, content, "audio/wav")}, data={"room_id": "lobby"}
        )
        assert answer.status_code == 202, answer.text
        return str(answer.json()["data"]["job_id"])

    def transcript(self, job_id: str, seconds: float = 120) -> str:
        job: dict[str, Any] = {}

        def look() -> bool:
            job.clear()
            job.update(self.http.get(f"/v1/jobs/{job_id}").json()["data"])
            assert job["status"] not in ("failed", "cancelled"), job
            return bool(job["status"] == "completed")

        wait_until(look, seconds, lambda: f"{job_id} is {job}")
        return str(job["transcript"])


@dataclass(frozen=True)
class Namespace:
    """One namespace of the cluster, that admits restricted pods only."""

    cluster: Cluster
    name: str

    def kubectl(self, *arguments: str, given: str | None = None, check: bool = True) -> str:
        return self.cluster.kubectl("--namespace", self.name, *arguments, given=given, check=check)

    def apply(self, *objects: dict[str, Any]) -> None:
        self.kubectl("apply", "--filename", "-", given=yaml.safe_dump_all(objects))

    def get(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", name, "--output", "json"))
        return found

    def wait(self, name: str, condition: str, seconds: int = 60) -> None:
        """Raises with what is known about the object when that never comes."""
        try:
            self.kubectl("wait", name, f"--for={condition}", f"--timeout={seconds}s")
        except subprocess.CalledProcessError as failed:
            raise AssertionError(f"{failed.stderr}\n{self.describe(name)}") from None

    def describe(self, name: str) -> str:
        said = [self.kubectl("get", name, "--output", "yaml", check=False)]
        said += [self.kubectl("get", "pods,jobs,deployments", "--output", "wide", check=False)]
        said += [self.kubectl("get", "events", "--sort-by=.lastTimestamp", check=False)[-6000:]]
        said += [self.cluster.kubectl("--namespace", NAMESPACE, "get", "pods", "--output", "wide", check=False)]
        operator = ("logs", "--selector", "app.kubernetes.io/component=operator", "--tail", "60", "--prefix")
        said += [self.cluster.kubectl("--namespace", NAMESPACE, *operator, check=False)]
        said += [
            self.kubectl("logs", "--selector", "media.scaiwave.io/tenant", "--tail", "20", "--prefix", check=False)
        ]
        return "\n".join(said)

    def until_none(self, kind: str, *selecting: str, seconds: float = 60) -> None:
        """Until there is no object of this kind."""

        def left() -> str:
            return self.kubectl("get", kind, *selecting, "--output", "name").strip()

        wait_until(lambda: not left(), seconds, lambda: f"still there: {left()}")

    @contextlib.contextmanager
    def reaching(self, service: str, tenant_id: str | None = None) -> Iterator[Client]:
        """Its API through the Service, with a token that the tenant's own key signed."""
        tenant_id = tenant_id or service.removeprefix("mt-")
        with self.forwarded(service) as base, httpx.Client(base_url=base, timeout=60) as http:
            http.headers["Authorization"] = f"Bearer {self.token(tenant_id)}"
            yield Client(http)

    def token(self, tenant_id: str) -> str:
        encoded = self.get(f"secret/mt-{tenant_id}-signing-keys")["data"]["signing-keys.json"]
        keys = json.loads(base64.b64decode(encoded))["keys"]
        return tokens.mint(
            keys[0],
            tenant_id=tenant_id,
            subject="tests",
            scopes=sorted(tokens.SCOPES),
            rooms=tokens.ALL,
            lifetime=timedelta(hours=1),
        )

    @contextlib.contextmanager
    def forwarded(self, service: str) -> Iterator[str]:
        """The Service's address on this machine."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        kubectl = build.provide(build.TOOLS["kubectl"])
        command = [kubectl, "--namespace", self.name, "port-forward", f"service/{service}", f"{port}:80"]
        with subprocess.Popen(
            command, env=self.cluster.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        ) as forwarding:
            base = f"http://127.0.0.1:{port}"
            try:
                wait_until(lambda: _answers(base), 30, lambda: f"{service} does not answer at {base}")
                yield base
            finally:
                forwarding.kill()


def _answers(base: str) -> bool:
    try:
        return httpx.get(f"{base}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def wait_until(look: Callable[[], bool], seconds: float, otherwise: Callable[[], str]) -> None:
    """Looks every now and then: what happens on a cluster tells nobody here."""
    deadline = time.monotonic() + seconds
    while not look():
        if time.monotonic() > deadline:
            raise AssertionError(otherwise())
        time.sleep(0.2)


@dataclass(frozen=True)
class Installation:
    """The chart's release in its namespace."""

    cluster: Cluster

    @property
    def own(self) -> Namespace:
        return Namespace(self.cluster, NAMESPACE)

    def install(self, **values: str) -> None:
        """Installs or upgrades, and returns when everything that the chart brings is ready."""
        settings = {"dev.enabled": "true", **HERE, **FAST, **values}
        arguments = [argument for name, value in settings.items() for argument in ("--set", f"{name}={value}")]
        try:
            self.cluster.helm(
                *("upgrade", "--install", RELEASE, str(CHART), "--namespace", NAMESPACE, "--create-namespace"),
                *("--wait", "--timeout", "240s", *arguments),
            )
        except subprocess.CalledProcessError as failed:
            raise AssertionError(f"{failed.stderr}\n{self.own.describe('deployments')}") from None

    @contextlib.contextmanager
    def namespace(self, name: str) -> Iterator[Namespace]:
        """A new one; afterwards it goes, with all that is in it."""
        name = f"{name}-{secrets.token_hex(3)}"
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        self.cluster.kubectl("create", "--filename", "-", given=yaml.safe_dump(body))
        try:
            yield Namespace(self.cluster, name)
        finally:
            self.cluster.kubectl("delete", "namespace", name, "--timeout=120s")

    def psql(self, query: str) -> list[str]:
        """Rows of one column, as the superuser of the chart's own PostgreSQL."""
        pod = self.own.kubectl("get", "pods", "--selector", "app.kubernetes.io/component=postgres", "--output", "name")
        said = self.own.kubectl(
            "exec", pod.split()[0], "--", "psql", "--no-psqlrc", "--tuples-only", "--no-align", "--command", query
        )
        return [line for line in said.splitlines() if line]

    def schemas(self) -> list[str]:
        return self.psql("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'tenant\\_%'")

    def buckets(self) -> list[str]:
        """Of tenants, in the S3 that the operator works on, as the operator itself sees it."""
        pod = self.own.kubectl("get", "pods", "--selector", "app.kubernetes.io/component=operator", "--output", "name")
        said = self.own.kubectl("exec", pod.split()[0], "--", "python3", "-c", _LIST_BUCKETS)
        return [name for name in said.split() if name.startswith("media-")]


_LIST_BUCKETS = """
from media_operator.boto import open_client
from media_operator.settings import StoreAdminSettings
for bucket in open_client("s3", StoreAdminSettings()).list_buckets()["Buckets"]:
    print(bucket["Name"])
"""
