"""What to do for a tenant: `plan(tenant, observed)`, a pure function, level-triggered.

Every trigger (start, edit, timer, a child that died, a queue event) observes anew and calls it; nobody remembers what
changed. It walks one ordered chain of checks, each of which says one condition and the steps that would make it true.
Within a check the first guard that applies wins. Rules: what could not be observed (`Unreachable`) is Unknown and
starts nothing; what bears another tenant's mark is never touched; every step may be carried out twice; a step that has
failed in this pass is reported, not planned again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from media_core.policy import Policy
from media_core.quota import MIB
from media_core.spec import Condition, MediaTenant, Oidc, Resources

THUMBNAIL_WORKERS = 2
"""Most thumbnail workers at a time. Not in the spec: images get theirs in the api, only videos come this way."""


# --- what is seen ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unreachable:
    """The dependency could not be asked; `detail` is a sentence without secrets."""

    detail: str


@dataclass(frozen=True)
class Bucket:
    exists: bool
    owner: str | None = None
    """The mark it bears, see `owner_of`; None: none."""


@dataclass(frozen=True)
class Database:
    exists: bool
    """There is a schema or a role of this tenant's name."""
    complete: bool = False
    """Both are there, and the role's password is known."""
    owner: str | None = None
    """The mark they bear; None: one of them bears none."""
    revision: str | None = None
    """Newest migration applied; None: none."""
    known_revisions: tuple[str, ...] = ()
    """Migrations of this version of the code, oldest first."""


@dataclass(frozen=True)
class Api:
    shape: ApiShape | None
    """What it was started with; None: it was not started."""
    wanted: int = 0
    ready: int = 0
    """Replicas that answer."""
    trouble: str | None = None
    """Why replicas keep ending, when they do."""


@dataclass(frozen=True)
class Scanner:
    ready: bool
    detail: str
    """What it is and which signatures it has, or why there is none."""


@dataclass(frozen=True)
class Workers:
    shape: WorkerShape | None
    """What they were last told; None: nothing yet."""
    trouble: Mapping[str, str] = field(default_factory=dict)
    """Kind of work -> why its workers keep failing."""


@dataclass(frozen=True)
class Observed:
    """One look at everything. `failures`: step name -> why it has just failed."""

    bucket: Bucket | Unreachable
    database: Database | Unreachable
    signing_keys: int
    policy: Policy | Unreachable | None
    """As last applied; None: none."""
    scanner: Scanner
    api: Api | Unreachable
    workers: Workers | Unreachable
    failures: Mapping[str, str] = field(default_factory=dict)


# --- what can be done ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CreateBucket:
    bucket: str
    owner: str


@dataclass(frozen=True)
class CreateDatabase:
    """Schema and role `schema`, the role seeing this schema only."""

    schema: str
    owner: str


@dataclass(frozen=True)
class MigrateDatabase:
    schema: str


@dataclass(frozen=True)
class MakeSigningKey:
    tenant_id: str


@dataclass(frozen=True)
class ApplyPolicy:
    policy: Policy


@dataclass(frozen=True)
class ApiShape:
    """What the api is started with; another shape means starting it anew."""

    replicas: int
    """0: the autoscaler's number."""
    host: str | None
    oidc: Oidc | None
    resources: Resources


@dataclass(frozen=True)
class RunApi:
    shape: ApiShape


@dataclass(frozen=True)
class WorkerShape:
    """How many workers of each kind may run, and what the next ones are started with."""

    parallel: Mapping[str, int]
    model: str
    device: str
    compute_type: str


@dataclass(frozen=True)
class ShapeWorkers:
    shape: WorkerShape


Step = CreateBucket | CreateDatabase | MigrateDatabase | MakeSigningKey | ApplyPolicy | RunApi | ShapeWorkers


@dataclass(frozen=True)
class Plan:
    steps: tuple[Step, ...]
    """In this order; later ones may need earlier ones."""
    conditions: tuple[Condition, ...]
    """`Ready` first, then one per check; without transition times, see `with_transitions`."""


# --- what the spec asks for ------------------------------------------------------------------------------------------


def owner_of(tenant: MediaTenant) -> str:
    """The mark on bucket and schema: the resource's uid where there is one, so a namesake never inherits data."""
    return tenant.metadata.uid or tenant.tenant_id


def policy_of(tenant: MediaTenant) -> Policy:
    spec = tenant.spec
    return Policy(
        max_bytes=spec.quota.max_storage_mb * MIB,
        max_upload_bytes=spec.quota.max_upload_mb * MIB,
        max_transcription_seconds_per_day=spec.quota.max_transcription_minutes_per_day * 60,
        scan_enabled=spec.scan.enabled,
        pending_access=spec.scan.pending_access,
        unscannable=spec.scan.unscannable,
        transcription_enabled=spec.transcription.enabled,
        suspended=spec.suspended,
        generation=tenant.metadata.generation,
    )


def api_shape_of(tenant: MediaTenant) -> ApiShape:
    api = tenant.spec.api
    return ApiShape(0 if api.autoscaling else api.replicas, api.host, tenant.spec.auth.oidc, api.resources)


def worker_shape_of(tenant: MediaTenant) -> WorkerShape:
    scan, transcription = tenant.spec.scan, tenant.spec.transcription
    parallel = {
        "scan": scan.max_parallel if scan.enabled else 0,
        "transcribe": transcription.max_parallel if transcription.enabled else 0,
        "thumbnail": THUMBNAIL_WORKERS,
    }
    if tenant.spec.suspended:
        parallel = dict.fromkeys(parallel, 0)
    return WorkerShape(parallel, transcription.model, transcription.device, transcription.compute_type)


# --- the chain -------------------------------------------------------------------------------------------------------

Status = Literal["True", "False", "Unknown"]


@dataclass(frozen=True)
class Finding:
    status: Status
    reason: str
    message: str
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Case:
    tenant: MediaTenant
    observed: Observed
    found: dict[str, Finding]
    """Of the checks before this one."""

    def waiting_for(self, *conditions: str) -> Finding | None:
        """The finding while an earlier condition, which this one needs, is not true."""
        for name in conditions:
            if self.found[name].status != "True":
                return Finding("False", f"WaitingFor{name.removesuffix('Ready')}", self.found[name].message)
        return None


def attempt(case: Case, step: Step, reason: str, message: str) -> Finding:
    """The step is due; when it has just failed, its failure is the news."""
    failure = case.observed.failures.get(type(step).__name__)
    return (
        Finding("False", f"{type(step).__name__}Failed", failure)
        if failure
        else Finding("False", reason, message, (step,))
    )


def bucket(case: Case) -> Finding:
    seen, name, owner = case.observed.bucket, case.tenant.bucket, owner_of(case.tenant)
    if isinstance(seen, Unreachable):
        return Finding("Unknown", "StoreUnreachable", seen.detail)
    if not seen.exists:
        return attempt(case, CreateBucket(name, owner), "BucketMissing", f"bucket {name} is being made")
    if seen.owner != owner:
        return Finding(
            "False", "NotOwned", f"bucket {name} exists and does not bear this tenant's mark; it is left alone"
        )
    return Finding("True", "BucketExists", f"bucket {name}")


def database(case: Case) -> Finding:
    seen, schema, owner = case.observed.database, case.tenant.schema_name, owner_of(case.tenant)
    if isinstance(seen, Unreachable):
        return Finding("Unknown", "DatabaseUnreachable", seen.detail)
    if seen.exists and seen.owner != owner:
        return Finding("False", "NotOwned", f"schema {schema} exists without this tenant's mark; it is left alone")
    if not seen.complete:
        return attempt(case, CreateDatabase(schema, owner), "SchemaMissing", f"schema {schema} is being made")
    if seen.revision is not None and seen.revision not in seen.known_revisions:
        return Finding("False", "SchemaNewer", f"schema {schema} was migrated to {seen.revision} by a newer version")
    if seen.revision != seen.known_revisions[-1]:
        return attempt(case, MigrateDatabase(schema), "SchemaOutdated", f"schema {schema} is being migrated")
    return Finding("True", "SchemaCurrent", f"schema {schema} at revision {seen.revision}")


def keys(case: Case) -> Finding:
    oidc = case.tenant.spec.auth.oidc
    if oidc is not None:
        return Finding("True", "OidcIssuer", f"tokens of {oidc.issuer}")
    if case.observed.signing_keys == 0:
        return attempt(case, MakeSigningKey(case.tenant.tenant_id), "SigningKeyMissing", "a signing key is being made")
    return Finding("True", "SigningKeyPresent", f"{case.observed.signing_keys} signing key(s) of this tenant's own")


def policy(case: Case) -> Finding:
    seen, wanted = case.observed.policy, policy_of(case.tenant)
    if blocked := case.waiting_for("DatabaseReady"):
        return blocked
    if isinstance(seen, Unreachable):
        return Finding("Unknown", "DatabaseUnreachable", seen.detail)
    if seen != wanted:
        return attempt(case, ApplyPolicy(wanted), "PolicyOutdated", "limits and rules are being written")
    return Finding("True", "PolicyCurrent", f"{case.tenant.spec.quota.max_storage_mb} MiB of storage allowed")


def scanner(case: Case) -> Finding:
    seen = case.observed.scanner
    if not case.tenant.spec.scan.enabled:
        return Finding("True", "ScanningDisabled", "spec.scan.enabled is false: files are readable unscanned")
    if not seen.ready:
        return Finding("False", "ScannerMissing", seen.detail)
    return Finding("True", "ScannerAnswers", seen.detail)


def api(case: Case) -> Finding:
    seen, wanted = case.observed.api, api_shape_of(case.tenant)
    if isinstance(seen, Unreachable):
        return Finding("Unknown", "ApiUnknown", seen.detail)
    if seen.shape != wanted:
        blocked = case.waiting_for("BucketReady", "DatabaseReady", "KeysReady", "PolicyApplied")
        return blocked or attempt(case, RunApi(wanted), "ApiStarting", "the api is being started")
    if seen.wanted == 0:
        return Finding("False", "ScaledToZero", "spec.api.replicas is 0")
    if seen.ready == 0:
        return (
            Finding("False", "CrashLoop", seen.trouble)
            if seen.trouble
            else Finding("False", "ApiStarting", "no replica answers yet")
        )
    return Finding("True", "ApiAnswers", f"{seen.ready} of {seen.wanted} replica(s) answer")


def workers(case: Case) -> Finding:
    seen, wanted = case.observed.workers, worker_shape_of(case.tenant)
    if isinstance(seen, Unreachable):
        return Finding("Unknown", "WorkersUnknown", seen.detail)
    if seen.shape != wanted:
        blocked = case.waiting_for("BucketReady", "DatabaseReady", "PolicyApplied")
        return blocked or attempt(case, ShapeWorkers(wanted), "WorkersOutdated", "the dispatcher is being told")
    if case.tenant.spec.suspended:
        return Finding("True", "Suspended", "spec.suspended is true: no worker starts")
    if seen.trouble:
        return Finding("False", "CrashLoop", "; ".join(seen.trouble.values()))
    return Finding("True", "OnDemand", "up to " + ", ".join(f"{n} {kind}" for kind, n in wanted.parallel.items()))


Check = Callable[[Case], Finding]

CHAIN: tuple[tuple[str, Check], ...] = (
    ("BucketReady", bucket),
    ("DatabaseReady", database),
    ("KeysReady", keys),
    ("PolicyApplied", policy),
    ("ScannerReady", scanner),
    ("ApiReady", api),
    ("WorkersReady", workers),
)
"""In the order in which a tenant comes to life."""


def plan(tenant: MediaTenant, observed: Observed) -> Plan:
    """The steps that are due now, and the conditions as they are now. No steps: nothing to do until a trigger."""
    case = Case(tenant, observed, {})
    for name, check in CHAIN:
        case.found[name] = check(case)
    findings = {"Ready": ready(tenant, case.found), **case.found}
    return Plan(
        steps=tuple(step for finding in case.found.values() for step in finding.steps),
        conditions=tuple(
            Condition(
                type=name,
                status=finding.status,
                reason=finding.reason,
                message=finding.message[:1024],
                observedGeneration=tenant.metadata.generation,
            )
            for name, finding in findings.items()
        ),
    )


def ready(tenant: MediaTenant, found: Mapping[str, Finding]) -> Finding:
    """The summary: the first condition that isn't true says why not."""
    for finding in found.values():
        if finding.status != "True":
            return Finding(finding.status, finding.reason, finding.message)
    if tenant.spec.suspended:
        return Finding("False", "Suspended", "spec.suspended is true: requests are answered 503")
    return Finding("True", "Serving", f"tenant {tenant.tenant_id} is served")


def with_transitions(before: Iterable[Condition], now: Iterable[Condition], at: datetime) -> list[Condition]:
    """`now` with `lastTransitionTime`: kept from `before` unless the status flipped, as Kubernetes defines it."""
    known = {condition.type: condition for condition in before}
    stamped = []
    for condition in now:
        old = known.get(condition.type)
        since = old.last_transition_time if old is not None and old.status == condition.status else None
        stamped.append(condition.model_copy(update={"last_transition_time": since or at}))
    return stamped
