"""The operator as the chart runs it: its own process, with its service account's rights and real backends."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import yaml

from media_operator.backends.buckets import Buckets
from media_operator.backends.store_keys import StoreKeys
from media_operator.cluster import kinds
from media_operator.cluster.kinds import Kind, Object
from media_operator.local.postgres import EmbeddedPostgres
from media_operator.tenant.spec import schema_of
from tests.cluster.control_plane.api import PATIENCE, Api, ApiError, seen
from tests.cluster.control_plane.server import ControlPlane
from tests.integration.servers import s3_servers
from tests.integration.servers.postgres_folder import CopiedPostgres, postgres_folder
from tests.integration.servers.s3_servers import S3Server
from tests.preloaded import OPERATOR, Program
from tests.stopwatch import Stopwatch
from tests.tools import build

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts" / "media-platform"
NAMESPACE = "media-system"
ACCOUNT = "media-operator"
USER = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"
"""What the audit log calls it."""


def rbac(*values: str) -> list[Object]:
    """What the chart gives the operator, for a release named `media` with these values."""
    return [each for each in yaml.safe_load_all(_rbac(*values)) if each]


@functools.cache
def _rbac(*values: str) -> str:
    return subprocess.run(
        [
            *(build.provide(build.TOOLS["helm"]), "template", "media", str(CHART)),
            *("--namespace", NAMESPACE, "--show-only", "templates/rbac.yaml"),
            *(part for value in values for part in ("--set", value)),
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


async def install_crd(api: Api) -> None:
    """Returns once the API server serves MediaTenants."""
    definition = yaml.safe_load((ROOT / "crds" / "mediatenants.yaml").read_bytes())
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{definition['metadata']['name']}"
    await api.apply(path, definition, manager="tests", force=True)
    await seen(api, path, _is_established)


def _is_established(definition: Object) -> bool:
    conditions = definition.get("status", {}).get("conditions") or []
    return any((each["type"], each["status"]) == ("Established", "True") for each in conditions)


@dataclass
class Backends:
    """S3 with IAM, and PostgreSQL: real ones, which a test may stop and start again."""

    home: contextlib.ExitStack
    postgres: EmbeddedPostgres
    s3: S3Server

    @classmethod
    async def start(cls, folder: Path) -> Backends:
        home = contextlib.ExitStack()
        postgres = CopiedPostgres(home.enter_context(postgres_folder()) / "data")
        postgres.start()
        return cls(home, postgres, await s3_servers.start("versitygw", folder / "s3", iam=True))

    def stop(self) -> None:
        self.s3.stop()
        self.postgres.stop()
        self.home.close()

    async def stand(self) -> None:
        """Starts what a test has ended."""
        self.postgres.start()
        assert self.s3.process is not None
        assert self.s3.iam is not None
        if self.s3.process.poll() is not None or self.s3.iam.poll() is not None:
            self.s3.stop()
            await self.restart_s3()

    async def restart_s3(self) -> None:
        assert self.s3.folder is not None
        self.s3 = await s3_servers.start("versitygw", self.s3.folder, self.s3, iam=True)

    @property
    def buckets(self) -> Buckets:
        return Buckets(self.s3.admin())

    def store_keys(self, cluster: str) -> StoreKeys:
        return StoreKeys(self.s3.admin(), cluster)

    async def sql(self, query: str, *parameters: Any) -> list[Any]:
        """Rows, as the superuser."""
        url = self.postgres.admin_url.replace("postgresql+psycopg", "postgresql")
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            answer = await connection.execute(query.encode(), parameters)
            return await answer.fetchall() if answer.description else []

    async def rows(self, tenant_id: str, query: str) -> list[Any]:
        """Of a tenant's own schema."""
        url = self.postgres.admin_url.replace("postgresql+psycopg", "postgresql")
        schema = schema_of(tenant_id)
        async with await psycopg.AsyncConnection.connect(url, options=f"-c search_path={schema}") as connection:
            answer = await connection.execute(query.encode())
            return await answer.fetchall() if answer.description else []

    @property
    def environment(self) -> dict[str, str]:
        admin = self.s3.admin()
        return {
            "MEDIA_OPERATOR_DATABASE_URL": self.postgres.admin_url,
            "MEDIA_OPERATOR_S3_ENDPOINT": admin.endpoint,
            "MEDIA_OPERATOR_S3_IAM_ENDPOINT": str(admin.iam_endpoint),
            "MEDIA_OPERATOR_S3_ACCESS_KEY_ID": admin.access_key_id,
            "MEDIA_OPERATOR_S3_SECRET_ACCESS_KEY": admin.secret_access_key.get_secret_value(),
            "MEDIA_OPERATOR_API_IMAGE": "localhost/media-api:dev",
            "MEDIA_OPERATOR_WORKER_IMAGE": "localhost/media-workers:dev",
            "MEDIA_OPERATOR_CLAMD_HOST": "clamd.media-system.svc",
        }


@dataclass
class Replica:
    """One operator process. `log` is what it wrote."""

    name: str
    environment: dict[str, str]
    log: Path
    process: Program = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.process = Program(OPERATOR, self.environment | {"MEDIA_OPERATOR_IDENTITY": self.name}, self.log)

    def kill(self) -> None:
        """As kill -9, or a node that is gone."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """As Kubernetes ends a pod; returns the exit status."""
        told = Stopwatch()
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"it did not end:\n{self.log.read_text()[-3000:]}") from None
        assert told.seconds() < 20
        return status


class Bench:
    """A control plane with the CRD and the operator's rights, the backends, and operators to start on them."""

    def __init__(self, control_plane: ControlPlane, api: Api, backends: Backends, folder: Path) -> None:
        self.control_plane = control_plane
        self.api = api
        self.backends = backends
        self._folder = folder
        self._replicas: list[Replica] = []

    async def operator(
        self, name: str = "one", *, url: str | None = None, lease_seconds: str | None = "60", **settings: str
    ) -> Replica:
        """Starts one, with the service account's token; `settings` are environment variables without their prefix.

        `lease_seconds`: on a busy machine one of 10 s is lost now and then, and nobody starts the operator again.
        """
        if lease_seconds is not None:
            settings |= {"lease_seconds": lease_seconds}
        path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{ACCOUNT}/token"
        token = (await self.api.create(path, {"spec": {"expirationSeconds": 3600}}))["status"]["token"]
        kubeconfig = self._folder / f"{name}.kubeconfig"
        kubeconfig.unlink(missing_ok=True)
        self.control_plane.write_kubeconfig(kubeconfig, token=token, url=url)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self._folder),
            "KUBECONFIG": str(kubeconfig),
            "MEDIA_LOG_FORMAT": "text",
            "MEDIA_OPERATOR_NAMESPACE": NAMESPACE,
            "MEDIA_OPERATOR_HTTP_PORT": "0",
            **self.backends.environment,
            **{f"MEDIA_OPERATOR_{key.upper()}": value for key, value in settings.items()},
        }
        replica = Replica(name, environment, self._folder / f"{name}.log")
        self._replicas.append(replica)
        return replica

    def end_operators(self) -> None:
        for replica in self._replicas:
            replica.kill()
        self._replicas.clear()

    async def free_lease(self) -> None:
        """As when the time of a leader that was killed is over, for which the next one would wait 15 s."""
        with contextlib.suppress(ApiError):  # there is none
            await self.api.delete(kinds.LEASE.path(NAMESPACE, "media-operator"))

    def last_words(self) -> str:
        return "\n".join(f"--- {each.name}\n{each.log.read_text()[-6000:]}" for each in self._replicas)


@dataclass(frozen=True)
class Team:
    """One namespace with tenants in it."""

    bench: Bench
    namespace: str

    def path(self, kind: Kind, name: str = "", subresource: str = "") -> str:
        return kind.path(self.namespace, name, subresource)

    async def apply(self, name: str, *, annotations: dict[str, str] | None = None, **spec: Any) -> Object:
        """As `kubectl apply --server-side` of this manifest would."""
        body = {
            "apiVersion": kinds.MEDIA_TENANT.api_version,
            "kind": "MediaTenant",
            "metadata": {"name": name, **({"annotations": annotations} if annotations else {})},
            "spec": spec,
        }
        return await self.bench.api.apply(self.path(kinds.MEDIA_TENANT, name), body, manager="kubectl", force=True)

    async def get(self, kind: Kind, name: str) -> Object | None:
        try:
            return await self.bench.api.get(self.path(kind, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def list(self, kind: Kind) -> list[Object]:
        found: list[Object] = (await self.bench.api.get(self.path(kind), labelSelector=kinds.OURS))["items"]
        return found

    async def seen(self, kind: Kind, name: str, wanted: Callable[[Object], bool]) -> Object:
        """The object, once it is as wanted."""
        try:
            return await seen(self.bench.api, self.path(kind, name), wanted)
        except TimeoutError:
            found = await self.get(kind, name)
            raise AssertionError(f"{yaml.safe_dump(found)}\n{self.bench.last_words()}") from None

    async def condition(self, name: str, kind: str, *, status: str = "", reason: str = "") -> dict[str, Any]:
        """A condition of a tenant, once it says this of the newest spec."""

        def as_wanted(tenant: Object) -> bool:
            found = condition_of(tenant, kind)
            return bool(
                found
                and (not status or found["status"] == status)
                and (not reason or found["reason"] == reason)
                and found["observedGeneration"] == tenant["metadata"]["generation"]
            )

        found = condition_of(await self.seen(kinds.MEDIA_TENANT, name, as_wanted), kind)
        assert found is not None
        return found

    async def act_as_kubelet(self, name: str) -> None:
        """Says of the Deployment's pods what would be true if they ran, until all of them are of the newest shape."""

        async def rolled() -> bool:
            for pod in (await self.bench.api.get(self.path(kinds.POD)))["items"]:
                if pod["metadata"]["name"].startswith(f"{name}-") and pod["status"]["phase"] == "Pending":
                    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
                    status = {"phase": "Running", "conditions": [ready]}
                    with contextlib.suppress(ApiError):  # it went meanwhile
                        await self.bench.api.patch(
                            self.path(kinds.POD, pod["metadata"]["name"], "status"), {"status": status}
                        )
            new = await self.bench.api.get(self.path(kinds.DEPLOYMENT, name))
            status, wanted = new.get("status", {}), new["spec"]["replicas"]
            counts = {status.get(count, 0) for count in ("replicas", "updatedReplicas", "availableReplicas")}
            return counts == {wanted} and status.get("observedGeneration") == new["metadata"]["generation"]

        await until(rolled, self.bench.last_words)


def condition_of(tenant: Object, kind: str) -> dict[str, Any] | None:
    conditions: list[dict[str, Any]] = tenant.get("status", {}).get("conditions", [])
    return next((each for each in conditions if each["type"] == kind), None)


@asynccontextmanager
async def bench(
    control_plane: ControlPlane, folder: Path, *values: str, backends: Backends | None = None
) -> AsyncIterator[Bench]:
    """With the CRD established and the rights given that the chart gives with these values.

    `backends`: those that several benches share, one after the other; without them it has its own.
    """
    async with Api(control_plane) as api:
        with contextlib.suppress(ApiError):
            await api.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        for body in rbac(*values):
            kind = body["kind"]
            namespace = body["metadata"].get("namespace")
            group = "/api/v1" if kind == "ServiceAccount" else f"/apis/{body['apiVersion']}"
            inside = f"/namespaces/{namespace}" if namespace else ""
            path = f"{group}{inside}/{kind.lower()}s/{body['metadata']['name']}"
            await api.apply(path, body, manager="helm", force=True)
        own = backends is None
        backends = backends or await Backends.start(folder)
        made = Bench(control_plane, api, backends, folder)
        try:
            await backends.stand()
            await made.free_lease()
            yield made
        finally:
            made.end_operators()
            if own:
                backends.stop()


async def until(look: Callable[[], Awaitable[bool]], otherwise: Callable[[], str]) -> None:
    """For what no watch tells: rows, buckets, processes."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while not await look():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            return
    raise AssertionError(otherwise())
