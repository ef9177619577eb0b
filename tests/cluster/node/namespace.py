"""A namespace of the tests' kind cluster, and kubectl commands in it."""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import yaml

from media_core.auth import tokens
from tests.cluster.machine import slowness
from tests.cluster.node import images
from tests.cluster.node.client import Client
from tests.cluster.node.kind import Cluster
from tests.cluster.node.waiting import wait_until
from tests.ports import free_port
from tests.tools import build

PLATFORM = "media-system"
"""Where the chart is installed."""
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


@dataclass(frozen=True)
class Namespace:
    """One namespace of the cluster, that admits restricted pods only."""

    cluster: Cluster
    name: str

    @classmethod
    @contextlib.contextmanager
    def new(cls, cluster: Cluster, name: str) -> Iterator[Namespace]:
        """One of its own, named after `name`; afterwards it goes, with all that is in it."""
        name = f"{name}-{secrets.token_hex(3)}"
        cluster.kubectl("create", "--filename", "-", given=restricted(name))
        try:
            # Pods made before their namespace has this account would be refused.
            cluster.kubectl("--namespace", name, "wait", "--for=create", "serviceaccount/default", "--timeout=30s")
            yield cls(cluster, name)
        finally:
            cluster.kubectl("delete", "namespace", name, "--wait=false")

    def kubectl(self, *arguments: str, given: str | None = None, check: bool = True) -> str:
        return self.cluster.kubectl("--namespace", self.name, *arguments, given=given, check=check)

    def apply(self, *objects: dict[str, Any]) -> None:
        self.kubectl("apply", "--filename", "-", given=yaml.safe_dump_all(objects))

    def run(self, script: str, **environment: str) -> str:
        """What a Python script prints in a pod of its own, in the api's image."""
        name = f"run-{secrets.token_hex(3)}"
        running = pod(name, "python3", "-c", script, environment=environment)
        # kube-proxy may not know yet that a Service has pods; a client that is refused tries again.
        running["spec"]["restartPolicy"] = "OnFailure"
        self.apply(running)
        self.wait(f"pod/{name}", "jsonpath={.status.phase}=Succeeded")
        return self.kubectl("logs", name).strip()

    def get(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", name, "--output", "json"))
        return found

    def wait(self, name: str, condition: str, seconds: int = 60) -> None:
        """Raises with what is known about the object when that never comes."""
        try:
            self.kubectl("wait", name, f"--for={condition}", f"--timeout={seconds}s")
        except subprocess.CalledProcessError as failed:
            raise AssertionError(f"{failed.stderr}\n{self.describe(name)}") from None

    def empty(self) -> None:
        """Ends its tenants and pods. A deletion that finds pods looks again after half of the grace that they have."""
        makers = "mediatenants,deployments,replicasets,jobs"
        self.kubectl("delete", makers, "--all", "--timeout=60s", check=False)
        self.kubectl("delete", "pods", "--all", "--grace-period=1", "--timeout=60s", check=False)

    def describe(self, name: str) -> str:
        said = [self.kubectl("get", name, "--output", "yaml", check=False)]
        said += [self.kubectl("get", "pods,jobs,deployments", "--output", "wide", check=False)]
        said += [self.kubectl("get", "events", "--sort-by=.lastTimestamp", check=False)[-6000:]]
        said += [self.cluster.kubectl("--namespace", PLATFORM, "get", "pods", "--output", "wide", check=False)]
        operator = ("logs", "--selector", "app.kubernetes.io/component=operator", "--tail", "60", "--prefix")
        said += [self.cluster.kubectl("--namespace", PLATFORM, *operator, check=False)]
        said += [
            self.kubectl("logs", "--selector", "media.scaiwave.io/tenant", "--tail", "20", "--prefix", check=False)
        ]
        return "\n".join(said)

    def until(self, name: str, field: str, wanted: Callable[[str], bool], seconds: float = 60) -> None:
        """Until a field of an object is as wanted. `field` is a JSONPath; kubectl tells each change of it."""
        deadline, said = time.monotonic() + seconds, ""
        command = [*self._own, "get", name, "--watch", "--output", f"jsonpath={{{field}}}{{'\\n'}}"]
        while (left := deadline - time.monotonic()) > 0:
            with self._started(command, output=subprocess.PIPE) as watching:
                assert watching.stdout
                end = threading.Timer(left, watching.kill)
                end.start()
                try:
                    for line in watching.stdout:
                        said = line.decode().strip()
                        if wanted(said):
                            return
                finally:
                    end.cancel()
                    watching.kill()
            time.sleep(0.2)  # it is not there yet, or the connection broke
        raise AssertionError(f"{name} has {said!r} in {field}\n{self.describe(name)}")

    def until_none(self, kinds: str, *selecting: str, seconds: float = 60) -> None:
        """Until there is no object of these kinds, which are joined by commas."""

        def left() -> str:
            return self.kubectl("get", kinds, *selecting, "--output", "name").strip()

        if left():
            self.kubectl("wait", kinds, *selecting, "--for=delete", f"--timeout={seconds:.0f}s", check=False)
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
        port = free_port()
        command = [*self._own, "port-forward", f"service/{service}", f"{port}:80"]
        base, forwarding = f"http://127.0.0.1:{port}", self._started(command)

        def answers() -> bool:
            nonlocal forwarding
            if forwarding.poll() is not None:  # the kubelet did not know the pod yet, or not any more
                forwarding = self._started(command)
            return _answers(base)

        try:
            wait_until(
                answers,
                60 * slowness(),
                lambda: f"{service} does not answer at {base}\n{self.describe(f'service/{service}')}",
            )
            yield base
        finally:
            forwarding.kill()
            forwarding.wait()

    @property
    def _own(self) -> list[str | Path]:
        """kubectl for this namespace."""
        return [build.provide(build.TOOLS["kubectl"]), "--namespace", self.name]

    def _started(self, command: list[str | Path], output: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        null = subprocess.DEVNULL
        return subprocess.Popen(command, env=self.cluster.environment, stdin=null, stdout=output, stderr=null)


def restricted(name: str) -> str:
    """The manifest of a namespace that admits restricted pods only."""
    metadata = {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}
    return yaml.safe_dump(body("v1", "Namespace", metadata))


def body(version: str, kind: str, metadata: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **more}


def pod_spec(*command: str, environment: dict[str, str] | None = None, **container: Any) -> dict[str, Any]:
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "main",
                "image": images.tag("api"),
                "command": list(command),
                "env": [{"name": name, "value": value} for name, value in (environment or {}).items()],
                "securityContext": RESTRICTED,
                **container,
            }
        ],
    }


def pod(name: str, *command: str, **more: Any) -> dict[str, Any]:
    return body("v1", "Pod", {"name": name}, spec=pod_spec(*command, **more))


def _answers(base: str) -> bool:
    try:
        return httpx.get(f"{base}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False
