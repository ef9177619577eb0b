"""The target of `make run`: this machine. Embedded PostgreSQL, folders for buckets, api and workers as child processes.

Everything of it lies in one folder, so that a second run finds the first one's data:

    postgres/  clamd/  logs/  buckets/<bucket>/          the machine's parts
    <tenant>/signing-keys.json  jwks.json  secrets.json  what belongs to one tenant, 0700
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import SecretStr

from media_core import births, tokens
from media_core.errors import Unavailable
from media_core.policy import Policy
from media_core.queue import Depth
from media_core.store.folder import FolderStore
from media_operator.backends import notes
from media_operator.backends.databases import Databases, NotOwned, read_policy
from media_operator.backends.issuers import key_source
from media_operator.jobs.dispatch import Running, TenantQueue
from media_operator.local.clamd import ClamdFailed, EmbeddedClamd
from media_operator.local.postgres import EmbeddedPostgres, PostgresFailed
from media_operator.local.processes import Service, delay_after, end, ending, last_line, spawn
from media_operator.plan import desired, observed, steps
from media_operator.reconcile import StepFailed
from media_operator.settings import DatabaseSettings, RunSettings
from media_operator.tenant.annotations import rotation_of
from media_operator.tenant.ownership import Mark
from media_operator.tenant.spec import MediaTenant

RESERVED = ("postgres", "clamd", "logs", "buckets")
"""Names in the run folder that no tenant can have."""
OWN_SETTINGS = {f"MEDIA_{name.upper()}" for name in RunSettings.model_fields}
"""Not passed on: to a worker `MEDIA_METRICS_PORT` would mean its own."""
MOST_API_PROCESSES = 4
"""One a core of this machine, up to so many."""
API_SHUTDOWN_SECONDS = 30
"""What uploads in flight get at the end."""
API_GRACE = API_SHUTDOWN_SECONDS + 10.0
WORKER_GRACE = 15.0
API_START_SECONDS = 30
SCANNER_RETRY_SECONDS = 30.0
FIRST_SWEEP_SECONDS = 60.0
SWEEP_SECONDS = 900.0


@dataclass(frozen=True)
class Place:
    """Where the one tenant is served: run folder and addresses."""

    folder: Path
    host: str
    port: int
    metrics_port: int

    @property
    def base(self) -> str:
        """For this machine."""
        return f"http://{'127.0.0.1' if self.host == '0.0.0.0' else self.host}:{self.port}"  # noqa: S104  not bound here

    def bucket(self, tenant: MediaTenant) -> Path:
        return self.folder / "buckets" / tenant.bucket

    def of(self, tenant: MediaTenant) -> Path:
        return self.folder / tenant.tenant_id

    def signing_keys(self, tenant: MediaTenant) -> Path:
        return self.of(tenant) / "signing-keys.json"

    def jwks(self, tenant: MediaTenant) -> Path:
        return self.of(tenant) / "jwks.json"

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"


class LocalTarget:
    """`reconcile.Target` for one tenant, and `dispatch.Fleet` of one.

    `changed`: observe again; `report`: one line for the person.
    """

    def __init__(
        self,
        place: Place,
        postgres: EmbeddedPostgres,
        clamd: EmbeddedClamd,
        changed: Callable[[], None],
        report: Callable[[str], None],
    ) -> None:
        self.place = place
        self.workers = LocalWorkers(place, self._worker_environment, changed, report)
        self._postgres = postgres
        self._clamd = clamd
        self._changed = changed
        self._report = report
        self._scanner = _no_scanner("clamd is being started")
        self._scanner_task: asyncio.Task[None] | None = None
        self._api = Service("api", place.log("api"), grace=API_GRACE, changed=changed, report=report)
        self._api_shape: desired.ApiShape | None = None
        self._served: MediaTenant | None = None
        self._databases = Databases(DatabaseSettings(url=SecretStr(postgres.admin_url), pool=4))
        self._environment: dict[str, str] = {}

    # --- observe ------------------------------------------------------------------------------------------------

    async def observe(self, tenant: MediaTenant) -> observed.ObservedState:
        database, applied, said = await self._observe_database(tenant)
        bucket, contents = await self._observe_bucket(tenant)
        if contents and isinstance(database, observed.Database):
            database = await self._observe_known(tenant, database, contents)
        return observed.ObservedState(
            bucket=bucket,
            database=database,
            notes=said,
            signing_keys=observed.SigningKeys(
                len(tokens.load_signing_keys(self.place.signing_keys(tenant))), rotation_of(tenant)
            ),
            policy=applied,
            scanner=self._observe_scanner(),
            api=observed.Api(self._api_shape, wanted=1, ready=await self._api_ready(), trouble=self._api.trouble),
            workers=observed.Workers(self.workers.shape, dict(self.workers.trouble)),
        )

    async def _observe_bucket(
        self, tenant: MediaTenant
    ) -> tuple[observed.Bucket | observed.Unreachable, Sequence[str]]:
        """And the first of its contents, where it does not say to which schema they belong."""
        folder, mark, store = self.place.bucket(tenant), _mark(self.place.bucket(tenant)), self._store(tenant)
        try:
            owner = Mark.parse(mark.read_text()) if mark.exists() else None
            birth = await births.of_bucket(store, tenant.tenant_id)
            contents = [] if birth else await births.first_contents(store, tenant.tenant_id)
        except OSError as error:
            return observed.Unreachable(f"{folder}: {error.strerror}"), ()
        except Unavailable as error:
            return observed.Unreachable(f"{folder}: {error.detail}"), ()
        return observed.Bucket(folder.is_dir(), owner, birth=birth, contents=len(contents)), contents

    def _store(self, tenant: MediaTenant) -> FolderStore:
        return FolderStore(self.place.bucket(tenant), tenant.tenant_id, b"", "")

    async def _observe_database(
        self, tenant: MediaTenant
    ) -> tuple[
        observed.Database | observed.Unreachable,
        Policy | observed.Unreachable | None,
        observed.Notes | observed.Unreachable,
    ]:
        try:
            self._postgres.start()  # a server that has died starts again at its address
            facts = await self._databases.observe(tenant.schema_name, self._secrets(tenant).get("database_password"))
            if facts.revision not in facts.known_revisions:
                return facts, None, observed.Notes()
            async with self._databases.within(tenant.schema_name) as tx:
                return facts, await read_policy(tx), await notes.read(tx)
        except (Unavailable, PostgresFailed) as error:
            away = observed.Unreachable(error.detail if isinstance(error, Unavailable) else str(error))
            return away, away, away

    async def _observe_known(
        self, tenant: MediaTenant, facts: observed.Database, contents: Sequence[str]
    ) -> observed.Database | observed.Unreachable:
        try:
            return replace(facts, known=await self._databases.known(tenant.schema_name, contents))
        except Unavailable as error:
            return observed.Unreachable(error.detail)

    def _observe_scanner(self) -> observed.Scanner:
        if self._scanner_task is None:
            self._scanner_task = asyncio.create_task(self._start_scanner(), name="clamd")
        if self._scanner.status == "True" and self._clamd.pid is None:
            return _no_scanner("clamd has ended and is being started again")
        return self._scanner

    async def _start_scanner(self) -> None:
        """Until it runs: clamd may be installed meanwhile."""
        while self._scanner.status != "True":
            try:
                address = await self._clamd.start(self.place.folder)
            except ClamdFailed as error:
                self._scanner = _no_scanner(str(error))
                self._changed()
                await asyncio.sleep(SCANNER_RETRY_SECONDS)
            else:
                known = "the official signatures"
                if address.signatures == "local":
                    known = "ONLY THE EICAR TEST FILE: no official signatures could be had, real viruses pass as clean"
                self._scanner = observed.Scanner(
                    "True", "ScannerAnswers", f"clamd on port {address.port} knows {known}"
                )
                self._changed()

    async def _api_ready(self) -> int:
        if self._api.pid is None or not await asyncio.to_thread(_answers, f"{self.place.base}/readyz"):
            return 0
        self._api.steady()
        return 1

    # --- carry out ----------------------------------------------------------------------------------------------

    async def apply(self, tenant: MediaTenant, step: steps.Step) -> None:
        try:
            await self._carry_out(tenant, step)
        except NotOwned as error:
            raise StepFailed(f"database: {error}") from error
        except Unavailable as error:
            raise StepFailed(str(error)) from error
        except OSError as error:
            raise StepFailed(f"{error.filename}: {error.strerror}") from error

    async def _carry_out(self, tenant: MediaTenant, step: steps.Step) -> None:
        match step:
            case steps.CreateBucket(_, owner, _):
                _mark(self.place.bucket(tenant)).parent.mkdir(mode=0o700, exist_ok=True)
                _mark(self.place.bucket(tenant)).write_text(str(owner))
                self.place.bucket(tenant).mkdir(mode=0o700, exist_ok=True)
            case steps.CreateDatabase(schema, owner, adopt):
                password = secrets.token_urlsafe(24)
                await self._databases.create(schema, owner, password, adopt=adopt)
                self._save_secrets(tenant, database_password=password)
            case steps.MigrateDatabase(schema):
                await self._databases.migrate(schema)
            case steps.WriteBirth(schema, _, tenant_id, renew):
                birth = await self._databases.birth(schema, renew=renew)
                await births.write(self._store(tenant), tenant_id, birth)
            case steps.TrustSignatures(schema, signatures):
                await self._databases.trust(schema, signatures)
            case steps.ReleaseOrphans(schema, until):
                await self._databases.release_orphans(schema, until)
            case steps.MakeSigningKey():
                self.place.of(tenant).mkdir(mode=0o700, exist_ok=True)
                keys = [tokens.generate_key()]
                tokens.save_signing_keys(self.place.signing_keys(tenant), keys)
            case steps.ApplyPolicy(wanted):
                await self._databases.apply_policy(tenant.schema_name, wanted)
            case steps.RunApi(shape):
                await self._run_api(tenant, shape)
            case steps.ShapeWorkers(shape):
                self._environment, self._served = self._tenant_environment(tenant), tenant
                await self.workers.reshape(shape)

    async def _run_api(self, tenant: MediaTenant, shape: desired.ApiShape) -> None:
        """Starts the api, or starts it anew; returns when it answers, or has ended, or takes too long."""
        oidc = shape.oidc
        if self._api_shape is None or self._api_shape.oidc != oidc:
            tokens.save_public_jwks(self.place.jwks(tenant), tokens.load_signing_keys(self.place.signing_keys(tenant)))
            environment: dict[str, str] = self._tenant_environment(tenant) | {
                "MEDIA_API_HOST": self.place.host,
                "MEDIA_API_PORT": str(self.place.port),
                "MEDIA_API_METRICS_PORT": str(self.place.metrics_port),
                "MEDIA_API_SHUTDOWN_SECONDS": str(API_SHUTDOWN_SECONDS),
                "MEDIA_API_PROCESSES": str(min(MOST_API_PROCESSES, len(os.sched_getaffinity(0)))),
                "MEDIA_STORE_SIGNING_KEY": self._secret(tenant, "store_signing_key"),
            }
            if oidc is None:
                environment["MEDIA_JWKS_FILE"] = str(self.place.jwks(tenant))
            else:
                environment["MEDIA_OIDC_ISSUER"] = oidc.issuer
                environment["MEDIA_OIDC_AUDIENCE"] = oidc.audience or tenant.tenant_id
                environment["MEDIA_OIDC_JWKS_URI"] = await key_source(oidc, local=True)
            await self._api.start([sys.executable, "-m", "media_api"], environment)
        self._api_shape = shape
        for _ in range(API_START_SECONDS * 10):
            if self._api.trouble is not None or await self._api_ready():
                return
            await asyncio.sleep(0.1)

    async def stop(self) -> None:
        """Ends everything but PostgreSQL, which its owner stops last."""
        await self.workers.stop()
        await self._api.stop()
        if self._scanner_task is not None:
            self._scanner_task.cancel()
            await asyncio.gather(self._scanner_task, return_exceptions=True)
        await self._clamd.stop()
        await self._databases.aclose()

    def kill(self) -> None:
        """At once, uploads in flight or not; PostgreSQL and clamd hear from the kernel."""
        for pid in (self._api.pid, *self.workers.pids()):
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)

    # --- for the dispatcher -------------------------------------------------------------------------------------

    def tenants(self) -> Mapping[str, TenantQueue]:
        """What the spec allows, minus what cannot work now: without a scanner, scan jobs wait and lose no attempt."""
        shape, tenant = self.workers.shape, self._served
        if shape is None or tenant is None:
            return {}
        limits = shape.parallel if self._observe_scanner().status == "True" else {**shape.parallel, "scan": 0}
        return {tenant.schema_name: TenantQueue(tenant.tenant_id, limits)}

    async def depths_of(self, schemas: Collection[str]) -> Mapping[str, Mapping[str, Depth] | None]:
        return await self._databases.depths_of(schemas)

    def running(self) -> Running:
        counted = Counter(self.workers.running())
        unfinished = {(schema, kind): count for schema in self.tenants() for kind, count in counted.items()}
        return Running(unfinished, sum(unfinished.values()))

    def held(self, schema: str, kind: str) -> bool:
        return self.workers.held(kind)

    async def launch(self, schema: str, kind: str, name: str) -> Literal["created", "exists", "no"]:
        return "created" if await self.workers.launch(kind) else "no"

    # --- what the processes are told ----------------------------------------------------------------------------

    def _tenant_environment(self, tenant: MediaTenant) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if name not in OWN_SETTINGS}
        return inherited | {
            "PYTHONUNBUFFERED": "1",
            "MEDIA_LOG_FORMAT": os.environ.get("MEDIA_LOG_FORMAT", "text"),
            "MEDIA_TENANT_ID": tenant.tenant_id,
            "MEDIA_DATABASE_URL": self._url(tenant),
            "MEDIA_STORE": "folder",
            "MEDIA_STORE_FOLDER": str(self.place.bucket(tenant)),
            "MEDIA_PUBLIC_URL": os.environ.get("MEDIA_PUBLIC_URL", self.place.base),
        }

    def _worker_environment(self, kind: str, shape: desired.WorkerShape) -> Mapping[str, str]:
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
            told = wanted | told  # who sets it in the environment of `make run` means it for this machine
        return told

    def _url(self, tenant: MediaTenant) -> str:
        return self._postgres.url("postgres", tenant.schema_name, self._secrets(tenant).get("database_password"))

    def _secret(self, tenant: MediaTenant, name: str) -> str:
        if name not in self._secrets(tenant):
            self._save_secrets(tenant, **{name: secrets.token_urlsafe(48)})
        return self._secrets(tenant)[name]

    def _secrets(self, tenant: MediaTenant) -> dict[str, str]:
        path = self.place.of(tenant) / "secrets.json"
        known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        return known

    def _save_secrets(self, tenant: MediaTenant, **added: str) -> None:
        path = self.place.of(tenant) / "secrets.json"
        path.parent.mkdir(mode=0o700, exist_ok=True)
        known = self._secrets(tenant) | added
        fresh = path.with_name(".secrets.json")
        fresh.unlink(missing_ok=True)
        fresh.touch(mode=0o600)
        fresh.write_text(json.dumps(known))
        fresh.replace(path)


class LocalWorkers:
    """Workers as child processes that drain their queue and end by themselves."""

    def __init__(
        self,
        place: Place,
        environment: Callable[[str, desired.WorkerShape], Mapping[str, str]],
        changed: Callable[[], None],
        report: Callable[[str], None],
    ) -> None:
        self.shape: desired.WorkerShape | None = None
        self.trouble: dict[str, str] = {}
        self._place = place
        self._environment = environment
        self._changed = changed
        self._report = report
        self._processes: dict[asyncio.Task[None], tuple[str, asyncio.subprocess.Process]] = {}
        self._dismissed: set[int] = set()
        self._failures: dict[str, int] = {}
        self._held_until: dict[str, float] = {}

    def running(self) -> list[str]:
        """Their kinds."""
        return [kind for kind, _ in self._processes.values()]

    def held(self, kind: str) -> bool:
        """The last one failed, and the next one has to wait."""
        return time.monotonic() < self._held_until.get(kind, 0)

    def pids(self) -> list[int]:
        return [process.pid for _, process in self._processes.values()]

    async def launch(self, kind: str) -> bool:
        """False: not now."""
        if self.shape is None or self.held(kind):
            return False
        log = self._place.log(kind)
        process = await spawn([sys.executable, "-m", "media_workers", kind], self._environment(kind, self.shape), log)
        task = asyncio.create_task(self._attend(kind, process, log), name=f"{kind} worker")
        self._processes[task] = (kind, process)
        task.add_done_callback(lambda done: self._processes.pop(done, None))
        return True

    async def reshape(self, shape: desired.WorkerShape) -> None:
        """Workers that may not run any more, or have another model than wanted, hand their job back and end."""
        before, self.shape = self.shape, shape
        gone = {kind for kind, limit in shape.parallel.items() if limit == 0}
        if before is not None and replace(before, parallel=shape.parallel) != shape:
            gone.add("transcribe")
        await self._end(gone)

    async def stop(self) -> None:
        self.shape = None
        await self._end({kind for kind, _ in self._processes.values()})

    async def _end(self, kinds: set[str]) -> None:
        leaving = [(task, process) for task, (kind, process) in self._processes.items() if kind in kinds]
        self._dismissed |= {process.pid for _, process in leaving}
        await asyncio.gather(*(end(process, WORKER_GRACE) for _, process in leaving))
        await asyncio.gather(*(task for task, _ in leaving))

    async def _attend(self, kind: str, process: asyncio.subprocess.Process, log: Path) -> None:
        returncode = await process.wait()
        if process.pid in self._dismissed:  # a worker that is told to end before it is up has no status worth a word
            self._dismissed.discard(process.pid)
        elif returncode == 0:
            self._failures.pop(kind, None)
            self.trouble.pop(kind, None)
        else:
            failures = self._failures[kind] = self._failures.get(kind, 0) + 1
            delay = delay_after(failures)
            self._held_until[kind] = time.monotonic() + delay
            words = last_line(log)
            self.trouble[kind] = f"a {kind} worker {ending(returncode)}" + (f": {words}" if words else "")
            self._report(f"{self.trouble[kind]} (log: {log}); the next one starts in {delay:g} s at the earliest")
        self._changed()


async def sweep_regularly(target: LocalTarget) -> None:
    """Until cancelled: what killed processes left behind is put right, soon after the start and then regularly."""
    await asyncio.sleep(FIRST_SWEEP_SECONDS)
    while True:
        await target.workers.launch("sweep")
        await asyncio.sleep(SWEEP_SECONDS)


def _no_scanner(why: str) -> observed.Scanner:
    return observed.Scanner("False", "ScannerMissing", why)


def _mark(bucket: Path) -> Path:
    """Beside the bucket, not in it: objects of ours only."""
    return bucket.with_name(bucket.name + ".owner")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310  our own address
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False
