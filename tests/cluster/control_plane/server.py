"""A Kubernetes control plane without nodes: etcd, kube-apiserver and kube-controller-manager on loopback, as any user.

All that needs no running pod is real here: validation and CEL, server-side apply, RBAC, garbage collection, quota,
Jobs and their pods as objects. Pods stay Pending; a test that needs a finished one writes its status, as a kubelet
would. Everything lies in one folder and ends with the test process, however that ends. The audit log has all requests
for changes, so that a test can see that there was none.
"""

import asyncio
import base64
import json
import secrets
import shutil
import signal
import ssl
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import httpx
import yaml

from media_operator.local.processes import die_with_parent
from tests.cluster.control_plane.certificates import Authority, write_key
from tests.cluster.machine import slowness
from tests.ports import free_port
from tests.tools import build

TOOLS = ("etcd", "kube-apiserver", "kube-controller-manager")
START_SECONDS = 60.0
"""Far more than it takes (3 s on an idle machine): two cores may be busy with other tests."""


AUDIT_POLICY: dict[str, Any] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted"],
    "rules": [
        {"level": "Metadata", "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
        {"level": "None"},
    ],
}


@dataclass(frozen=True)
class AuditEntry:
    """A request for a change that was answered, with success or not: `code` is the answer's."""

    verb: str
    uri: str
    user: str
    code: int

    def __repr__(self) -> str:
        return f"<{self.verb} {self.uri} by {self.user}: {self.code}>"


@dataclass(frozen=True)
class _Ports:
    etcd: int
    etcd_peer: int
    apiserver: int
    controller_manager: int


class ControlPlane:
    """Runs inside its `async with`, which may be entered once. `kubeconfig` names an administrator."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ports = _Ports(*(free_port() for _ in range(4)))
        self._token = secrets.token_urlsafe(24)
        self.url = f"https://127.0.0.1:{self._ports.apiserver}"
        self.kubeconfig = folder / "kubeconfig"
        self._audit_log = folder / "audit.jsonl"
        self._data = folder / "etcd"

    async def __aenter__(self) -> Self:
        """Returns when the API answers and the controllers run."""
        for tool in TOOLS:
            await asyncio.to_thread(build.provide, build.TOOLS[tool])
        self._write_files()
        try:
            await self._start_all()
        except BaseException:
            self._kill_all()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._kill_all()

    # --- outages ----------------------------------------------------------------------------------------------------

    async def restart_apiserver(self, *, down_seconds: float = 0) -> None:
        """Kills it: connections break, watches end, and nothing listens for `down_seconds`. Returns when it is back."""
        self._kill("kube-apiserver")
        await asyncio.sleep(down_seconds)
        self._start_apiserver()
        await self._ready()

    async def compact_etcd(self) -> None:
        """Forgets every older revision: a watch resumed from before gets 410 Gone, as after five busy minutes."""
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self._ports.etcd}", timeout=120) as etcd:
            status = (await etcd.post("/v3/maintenance/status", json={})).json()
            compacted = await etcd.post("/v3/kv/compaction", json={"revision": status["header"]["revision"]})
            compacted.raise_for_status()

    async def back_up_etcd(self) -> Path:
        """A copy of all that the cluster holds, for `restore_etcd`."""
        return await self._with_etcd_down(lambda: self._copied(self._data, self._folder / "etcd-backup"))

    async def restore_etcd(self, backup: Path) -> None:
        """All is as it was when the copy was made. Versions of objects are given out a second time."""
        await self._with_etcd_down(lambda: self._copied(backup, self._data))

    # --- for clients ------------------------------------------------------------------------------------------------

    @property
    def token(self) -> str:
        return self._token

    @property
    def authority(self) -> Authority:
        return self._authority

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self._authority.certificate))

    def write_kubeconfig(self, path: Path, *, url: str | None = None, token: str | None = None) -> Path:
        """For another address of the same API (a proxy), or another user."""
        path.touch(mode=0o600)
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "tests", "cluster": self._cluster(url or self.url)}],
                    "users": [{"name": "tests", "user": {"token": token or self._token}}],
                    "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tests"}}],
                    "current-context": "tests",
                }
            )
        )
        return path

    def log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    # --- what was asked of it ---------------------------------------------------------------------------------------

    def mark(self) -> int:
        """This moment, for `writes`: microseconds of the wall clock, which the API server shares."""
        return time.time_ns() // 1000

    def writes(self, user: str, *, since: int = 0, but: str = "", namespace: str = "") -> list[AuditEntry]:
        """Changes that `user` asked for and that were answered, in the order of the answers.

        `since`: only of requests that came after that mark. `but`: leaves out those whose URI contains it. `namespace`:
        leaves out those in the namespaces of other tests, whose tenants go on their own.
        """
        found = []
        for line in self._audit_log.read_text().splitlines(keepends=True):
            if not line.endswith("\n"):
                break  # just being written
            if user not in line:
                continue
            event = json.loads(line)
            came_at = datetime.fromisoformat(event["requestReceivedTimestamp"])
            if (
                event["stage"] == "ResponseComplete"
                and event["user"]["username"] == user
                and came_at.timestamp() * 1e6 >= since
                and not (but and but in event["requestURI"])
                and not (
                    namespace and "/namespaces/test-" in event["requestURI"] and namespace not in event["requestURI"]
                )
            ):
                found.append(AuditEntry(event["verb"], event["requestURI"], user, event["responseStatus"]["code"]))
        return found

    # --- parts ------------------------------------------------------------------------------------------------------

    def _cluster(self, url: str) -> dict[str, str]:
        authority = base64.b64encode(self._authority.certificate.read_bytes()).decode()
        return {"server": url, "certificate-authority-data": authority}

    def _write_files(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._authority = Authority(self._folder)
        self._certificate, self._key = self._authority.issue_server("kube-apiserver", "localhost", "kubernetes")
        self._signing_key = write_key(self._folder / "service-accounts.key")
        (self._folder / "audit-policy.yaml").write_text(yaml.safe_dump(AUDIT_POLICY))
        self._audit_log.touch()
        tokens = self._folder / "tokens.csv"
        tokens.touch(mode=0o600)
        controllers_token = secrets.token_urlsafe(24)
        tokens.write_text(
            f"{self._token},admin,admin,system:masters\n"
            f"{controllers_token},system:kube-controller-manager,system:kube-controller-manager\n"
        )
        self.write_kubeconfig(self.kubeconfig)
        self.write_kubeconfig(self._folder / "controllers.kubeconfig", token=controllers_token)

    async def _start_all(self) -> None:
        self._start_etcd()
        self._start_apiserver()
        await self._ready()
        self._start_controller_manager()
        await self._answers(f"https://127.0.0.1:{self._ports.controller_manager}/healthz", "kube-controller-manager")

    def _start_etcd(self) -> None:
        clients, peers = (f"http://127.0.0.1:{port}" for port in (self._ports.etcd, self._ports.etcd_peer))
        self._run(
            "etcd",
            "--name=tests",
            f"--data-dir={self._data}",
            f"--listen-client-urls={clients}",
            f"--advertise-client-urls={clients}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=tests={peers}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        )

    def _start_apiserver(self) -> None:
        self._run(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._ports.etcd}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._ports.apiserver}",
            "--endpoint-reconciler-type=none",  # the kubernetes Service would need an address that is not loopback
            f"--tls-cert-file={self._certificate}",
            f"--tls-private-key-file={self._key}",
            f"--token-auth-file={self._folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self._signing_key}",
            f"--service-account-signing-key-file={self._signing_key}",
            "--allow-privileged=true",
            f"--audit-policy-file={self._folder / 'audit-policy.yaml'}",
            f"--audit-log-path={self._audit_log}",
        )

    def _start_controller_manager(self) -> None:
        kubeconfig = self._folder / "controllers.kubeconfig"
        self._run(
            "kube-controller-manager",
            f"--kubeconfig={kubeconfig}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._ports.controller_manager}",
            f"--tls-cert-file={self._certificate}",
            f"--tls-private-key-file={self._key}",
            "--leader-elect=false",
            "--horizontal-pod-autoscaler-sync-period=1s",  # by default a Deployment waits 15 s for its first replicas
            "--use-service-account-credentials",
            f"--root-ca-file={self._authority.certificate}",
            f"--service-account-private-key-file={self._signing_key}",
            # What has no nodes, clouds or volumes to look after.
            "--controllers=*,-node-ipam-controller,-node-lifecycle-controller,-cloud-node-lifecycle-controller,"
            "-node-route-controller,-service-lb-controller,-persistentvolume-attach-detach-controller,"
            "-persistentvolume-binder-controller,-persistentvolume-expander-controller,-ttl-controller",
        )

    def _run(self, tool: str, *arguments: str) -> None:
        with self.log(tool).open("ab") as log:
            self._processes[tool] = subprocess.Popen(
                [build.provide(build.TOOLS[tool]), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGKILL),
            )

    async def _with_etcd_down(self, work: Callable[[], Path]) -> Path:
        self._kill_all()
        done = await asyncio.to_thread(work)
        await self._start_all()
        return done

    @staticmethod
    def _copied(source: Path, target: Path) -> Path:
        shutil.rmtree(target, ignore_errors=True)
        return Path(shutil.copytree(source, target))

    def _kill_all(self) -> None:
        for name in reversed(list(self._processes)):
            self._kill(name)

    def _kill(self, name: str) -> None:
        process = self._processes.pop(name)
        process.kill()  # a clean end of the API server takes 5 s, and nothing here is worth keeping
        process.wait()

    async def _ready(self) -> None:
        await self._answers(f"{self.url}/readyz", "kube-apiserver")

    async def _answers(self, url: str, tool: str) -> None:
        headers = {"Authorization": f"Bearer {self._token}"}
        patience = asyncio.timeout(START_SECONDS * slowness())
        async with httpx.AsyncClient(verify=self.trust(), headers=headers) as client, patience:
            while True:
                for name, process in self._processes.items():
                    if process.poll() is not None:
                        raise RuntimeError(f"{name} ended:\n{self.log(name).read_text()[-3000:]}")
                try:
                    if (await client.get(url)).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.05)  # neither tells when it is ready
