"""What `make run` keeps running on this machine: PostgreSQL, clamd, the api, the workers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Literal

from pydantic import SecretStr

from media_core import variables
from media_core.auth import tokens
from media_core.jobs.depth import Depth
from media_operator.backends.databases import Databases
from media_operator.backends.issuers import jwks_uri
from media_operator.jobs.dispatch import Running, TenantQueue
from media_operator.local.clamd import ClamdFailed, EmbeddedClamd
from media_operator.local.manifest import short
from media_operator.local.postgres import EmbeddedPostgres
from media_operator.local.processes import Service
from media_operator.local.site import Site
from media_operator.local.workers import LocalWorkers
from media_operator.plan.desired import ApiShape, WorkerShape
from media_operator.plan.observed import Scanner
from media_operator.settings import DatabaseSettings, RunSettings
from media_operator.tenant.spec import MediaTenant

OWN_SETTINGS = {f"MEDIA_{name.upper()}" for name in RunSettings.model_fields}
"""Not passed to api and workers: a worker would take `MEDIA_METRICS_PORT` for its own."""
MOST_API_PROCESSES = 4
"""There is one for each core of this machine, but at most so many."""
API_SHUTDOWN_SECONDS = 30
"""Time for uploads in flight at the end."""
API_GRACE = API_SHUTDOWN_SECONDS + 10.0
API_START_SECONDS = 30
BUILT_PAGE = Path(__file__).parents[3] / "page" / "dist"
"""Where `make page` leaves the page of files."""
SCANNER_RETRY_SECONDS = 30.0


class Machine:
    """Serves one tenant. It is also the `dispatch.Fleet` of this tenant.

    `changed` is called when the tenant has to be observed again; `report` gets one line for the person at the terminal.
    """

    def __init__(
        self,
        site: Site,
        postgres: EmbeddedPostgres,
        clamd: EmbeddedClamd,
        changed: Callable[[], None],
        report: Callable[[str], None],
    ) -> None:
        self.site = site
        self.postgres = postgres
        self.databases = Databases(DatabaseSettings(url=SecretStr(postgres.admin_url), pool=4))
        self.workers = LocalWorkers(site, self._worker_environment, changed, report)
        self.api = Service("api", site.log("api"), grace=API_GRACE, changed=changed, report=report)
        self.api_shape: ApiShape | None = None
        """The shape that the api was last started with."""
        self._clamd = clamd
        self._changed = changed
        self._scanner = _no_scanner("clamd is being started")
        self._scanner_task: asyncio.Task[None] | None = None
        self._served: MediaTenant | None = None
        self._environment: dict[str, str] = {}

    def scanner(self) -> Scanner:
        """The first call starts clamd."""
        if self._scanner_task is None:
            self._scanner_task = asyncio.create_task(self._start_scanner(), name="clamd")
        if self._scanner.status == "True" and self._clamd.pid is None:
            return _no_scanner("clamd has ended and is being started again")
        return self._scanner

    async def _start_scanner(self) -> None:
        """Tries until clamd runs: it may be installed meanwhile."""
        while self._scanner.status != "True":
            try:
                address = await self._clamd.start(self.site.folder)
            except ClamdFailed as error:
                self._scanner = _no_scanner(str(error))
                self._changed()
                await asyncio.sleep(SCANNER_RETRY_SECONDS)
            else:
                known = "the official signatures"
                if address.signatures == "local":
                    known = only_eicar(self.site.folder / "clamd" / "freshclam.log")
                self._scanner = Scanner("True", "ScannerAnswers", f"clamd on port {address.port} knows {known}")
                self._changed()

    async def api_ready(self) -> int:
        """How many replicas answer: 1 or 0."""
        if self.api.pid is None or not await asyncio.to_thread(_answers, f"{self.site.base}/readyz"):
            return 0
        self.api.steady()
        return 1

    async def run_api(self, tenant: MediaTenant, shape: ApiShape) -> None:
        """Starts the api, again if its shape changed. Returns when it answers, has ended, or takes too long."""
        oidc, before = shape.oidc, self.api_shape
        if before is None or (before.oidc, before.settings) != (oidc, shape.settings):
            tokens.save_public_jwks(self.site.jwks(tenant), tokens.load_signing_keys(self.site.signing_keys(tenant)))
            environment: dict[str, str] = (
                {"MEDIA_PAGE_FOLDER": str(BUILT_PAGE)}
                | dict(shape.settings)
                | self._tenant_environment(tenant)
                | {
                    "MEDIA_API_HOST": self.site.host,
                    "MEDIA_API_PORT": str(self.site.port),
                    "MEDIA_API_METRICS_PORT": str(self.site.metrics_port),
                    "MEDIA_API_SHUTDOWN_SECONDS": str(API_SHUTDOWN_SECONDS),
                    "MEDIA_API_PROCESSES": str(min(MOST_API_PROCESSES, len(os.sched_getaffinity(0)))),
                    "MEDIA_STORE_SIGNING_KEY": self._secret(tenant, "store_signing_key"),
                    "MEDIA_WEBHOOK_SECRETS": str(self.site.webhook_secrets(tenant)),
                }
            )
            if oidc is None:
                environment["MEDIA_JWKS_FILE"] = str(self.site.jwks(tenant))
            else:
                environment["MEDIA_OIDC_ISSUER"] = oidc.issuer
                environment["MEDIA_OIDC_AUDIENCE"] = oidc.audience or tenant.tenant_id
                environment["MEDIA_OIDC_JWKS_URI"] = await jwks_uri(oidc, local=True)
            await self.api.start([sys.executable, "-m", "media_api"], environment)
        self.api_shape = shape
        for _ in range(API_START_SECONDS * 10):
            if self.api.trouble is not None or await self.api_ready():
                return
            await asyncio.sleep(0.1)

    async def shape_workers(self, tenant: MediaTenant, shape: WorkerShape) -> None:
        self._environment, self._served = self._tenant_environment(tenant), tenant
        await self.workers.reshape(shape)

    async def stop(self) -> None:
        """Ends everything except PostgreSQL, which `main` stops last."""
        await self.workers.stop()
        await self.api.stop()
        if self._scanner_task is not None:
            self._scanner_task.cancel()
            await asyncio.gather(self._scanner_task, return_exceptions=True)
        await self._clamd.stop()
        await self.databases.aclose()

    def kill(self) -> None:
        """Kills api and workers at once, also with uploads in flight. The kernel signals PostgreSQL and clamd."""
        for pid in (self.api.pid, *self.workers.pids()):
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)

    # --- for the dispatcher -------------------------------------------------------------------------------------

    def tenants(self) -> Mapping[str, TenantQueue]:
        """The spec's limits. Without a scanner no scan worker starts: scan jobs wait and lose no attempt."""
        shape, tenant = self.workers.shape, self._served
        if shape is None or tenant is None:
            return {}
        limits = shape.parallel if self.scanner().status == "True" else {**shape.parallel, "scan": 0}
        return {tenant.schema_name: TenantQueue(tenant.tenant_id, limits)}

    async def depths_of(self, schemas: Collection[str]) -> Mapping[str, Mapping[str, Depth] | None]:
        return await self.databases.depths_of(schemas)

    def running(self) -> Running:
        counted = Counter(self.workers.running())
        unfinished = {(schema, kind): count for schema in self.tenants() for kind, count in counted.items()}
        return Running(unfinished, sum(unfinished.values()))

    def backs_off(self, schema: str, kind: str) -> bool:
        return self.workers.backs_off(kind)

    async def launch(self, schema: str, kind: str, name: str) -> Literal["created", "exists", "no"]:
        return "created" if await self.workers.launch(kind) else "no"

    # --- the processes' environment -----------------------------------------------------------------------------

    def _tenant_environment(self, tenant: MediaTenant) -> dict[str, str]:
        dropped = OWN_SETTINGS.union(variables.unknown())  # of an unknown one `make run` has said so
        inherited = {name: value for name, value in os.environ.items() if name not in dropped}
        return inherited | {
            "PYTHONUNBUFFERED": "1",
            # Nothing stands before our own server that could not take prepared statements.
            "MEDIA_DATABASE_PREPARE": os.environ.get("MEDIA_DATABASE_PREPARE", "true"),
            "MEDIA_LOG_FORMAT": os.environ.get("MEDIA_LOG_FORMAT", "text"),
            "MEDIA_TENANT_ID": tenant.tenant_id,
            "MEDIA_DATABASE_URL": self._database_url(tenant),
            "MEDIA_STORE": "folder",
            "MEDIA_STORE_FOLDER": str(self.site.bucket(tenant)),
            "MEDIA_PUBLIC_URL": os.environ.get("MEDIA_PUBLIC_URL", self.site.base),
        }

    def _worker_environment(self, kind: str, shape: WorkerShape) -> Mapping[str, str]:
        told = dict(self._environment)
        if kind == "scan":
            address = self._clamd.address
            told |= {"MEDIA_CLAMD_HOST": address.host, "MEDIA_CLAMD_PORT": str(address.port)}
        if kind == "transcribe":
            wanted = {
                "MEDIA_WHISPER_MODEL": shape.model,
                "MEDIA_WHISPER_DEVICE": shape.device,
                "MEDIA_WHISPER_COMPUTE_TYPE": shape.compute_type,
            }
            told = wanted | told  # variables in the environment of `make run` win over the manifest
        return told

    def _database_url(self, tenant: MediaTenant) -> str:
        return self.postgres.url("postgres", tenant.schema_name, self.saved_secrets(tenant).get("database_password"))

    def _secret(self, tenant: MediaTenant, name: str) -> str:
        if name not in self.saved_secrets(tenant):
            self.save_secrets(tenant, **{name: secrets.token_urlsafe(48)})
        return self.saved_secrets(tenant)[name]

    def saved_secrets(self, tenant: MediaTenant) -> dict[str, str]:
        path = self.site.of(tenant) / "secrets.json"
        known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        return known

    def save_secrets(self, tenant: MediaTenant, **added: str) -> None:
        path = self.site.of(tenant) / "secrets.json"
        path.parent.mkdir(mode=0o700, exist_ok=True)
        known = self.saved_secrets(tenant) | added
        fresh = path.with_name(".secrets.json")
        fresh.unlink(missing_ok=True)
        fresh.touch(mode=0o600)
        fresh.write_text(json.dumps(known))
        fresh.replace(path)


def only_eicar(freshclam_log: Path) -> str:
    """What clamd knows without official signatures, and what to do. There is no log if freshclam was not started."""
    why = f"{short(freshclam_log)} says why; " if freshclam_log.exists() else "freshclam fetches them; "
    return (
        "ONLY THE EICAR TEST FILE: it has no official signatures, so real viruses pass as clean. "
        f"{why}MEDIA_SIGNATURES_MIRROR names the place that they come from"
    )


def _no_scanner(why: str) -> Scanner:
    return Scanner("False", "ScannerMissing", why)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310  our own address
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False
