"""What to do for a tenant: `plan(tenant, observed)`, a pure function, level-triggered.

Every trigger (start, edit, timer, a child that died, a queue event) observes anew and calls it; nobody remembers what
changed. It walks one ordered chain of checks, each of which says one condition and the steps that would make it true.
Within a check the first guard that applies wins. Rules: what could not be observed (`Unreachable`) is Unknown and
starts nothing; what bears another tenant's mark is never touched; every step may be carried out twice; a step that has
failed in this pass is reported, not planned again.

`plan_deletion` is the same for a tenant that is being deleted together with its data.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

from media_core.births import Birth, may_be_marked, relation
from media_core.policy import Policy
from media_core.quota import MIB
from media_operator.tenant.ownership import Mark
from media_operator.tenant.spec import GROUP, Condition, MediaTenant, Oidc, Resources

ROTATE_KEYS = f"{GROUP}/rotate-keys"
"""Annotation of a MediaTenant: a value that the keys were not made for yet asks for new ones."""
ADOPT = f"{GROUP}/adopt"
"""Annotation of a MediaTenant: "true" vouches that the cluster that left its bucket and schema behind is gone."""
ACCEPT_DATA = f"{GROUP}/accept-data"
"""Annotation of a MediaTenant: the schema is right, and this memory of the bucket is given up. Its value names what is
given up, the birth that the bucket's mark says, or `UNMARKED`: so it decides no later disagreement."""
UNMARKED = "unmarked"
"""The value of `ACCEPT_DATA` for a bucket with content and without a mark."""
TRUST_SIGNATURE = f"{GROUP}/trust-signature"
"""Annotation of a MediaTenant: signatures, separated by commas, that are right although they find much."""
REMOVE_ORPHANS = f"{GROUP}/remove-orphans"
"""Annotation of a MediaTenant: objects without a row that were first seen up to this time (ISO 8601) may go."""

THUMBNAIL_WORKERS = 2
"""Most thumbnail workers at a time. Not in the spec: images get theirs in the api, only videos come this way."""


Status = Literal["True", "False", "Unknown"]

# --- what is seen ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unreachable:
    """The dependency could not be asked; `detail` is a sentence without secrets."""

    detail: str


@dataclass(frozen=True)
class Bucket:
    exists: bool
    owner: Mark | None = None
    """The mark it bears; None: none."""
    empty: bool = False
    """Without a mark: whether there is nothing in it either, so that it may be claimed."""
    capabilities: Mapping[str, bool] | None = None
    """What the store behind it was seen to do; empty: its creation has not come so far; None: there is nothing to
    try."""
    birth: Birth | None = None
    """The schema that it belongs to, as it remembers; None: it says nothing."""
    contents: int = 0
    """Where it says nothing: how many contents were looked at, the first ones; 0: it holds none."""


@dataclass(frozen=True)
class StoreKey:
    """The key with which the tenant's pods reach the store."""

    current: bool
    """The one that the pods are told is one that the store knows."""
    others: int = 0
    """Keys of this tenant beside it."""
    others_in_use: bool = False
    """There may be pods that still work with one of those."""
    rotation: str = ""
    """The value of `ROTATE_KEYS` that it was made for."""
    shared: bool = False
    """It is the platform's own, for all tenants."""


@dataclass(frozen=True)
class SigningKeys:
    """The tenant's own keys for tokens."""

    count: int
    rotation: str = ""
    """The value of `ROTATE_KEYS` that the newest was made for."""


@dataclass(frozen=True)
class Database:
    exists: bool
    """There is a schema or a role of this tenant's name."""
    complete: bool = False
    """Both are there, and the role's password is known."""
    owner: Mark | None = None
    """The mark they bear; None: one of them bears none, or they disagree."""
    revision: str | None = None
    """Newest migration applied; None: none."""
    known_revisions: tuple[str, ...] = ()
    """Migrations of this version of the code, oldest first."""
    is_new: bool = False
    """It holds no table: there is no schema, or nobody has migrated it yet."""
    birth: Birth | None = None
    """None: it is new, or of a version that had no births."""
    known: int = 0
    """How many of `Bucket.contents` it has rows for."""


@dataclass(frozen=True)
class Suspicion:
    """A signature that found more contents that were open before than can be believed."""

    signature: str
    since: datetime
    held: int
    """Contents that it found and that are still there; counted up to a bound."""


@dataclass(frozen=True)
class Orphans:
    """Objects that have no row, as the last sweep saw them."""

    swept_at: datetime
    listed: int
    """Objects in all."""
    count: int
    bytes: int
    kept: bool
    """They are too many to be removed without a person's word."""
    since: datetime | None = None
    """When the first of those that are kept was seen."""
    released_at: datetime | None = None
    """What was first seen up to then may go: a person has said so."""


@dataclass(frozen=True)
class Notes:
    """What sweeps and scan workers have written down for a person."""

    suspicions: tuple[Suspicion, ...] = ()
    """The oldest few of those that nobody has said to be right."""
    orphans: Orphans | None = None
    """None: nothing was swept yet."""


@dataclass(frozen=True)
class Api:
    shape: ApiShape | None
    """What it was started with; None: it was not started, or not all that belongs to it is as declared."""
    wanted: int = 0
    ready: int = 0
    """Replicas that answer."""
    trouble: str | None = None
    """Why replicas keep ending, when they do."""
    rolling: bool = False
    """Replicas of an earlier shape are still being replaced."""


@dataclass(frozen=True)
class Scanner:
    """`status` and `reason` as in a condition."""

    status: Status
    reason: str
    detail: str
    """What it is and which signatures it has, or why there is none."""
    canary_due: bool = False
    """It is time to send the test virus through this tenant's own path again."""


@dataclass(frozen=True)
class Workers:
    shape: WorkerShape | None
    """What they were last told; None: nothing yet."""
    trouble: Mapping[str, str] = field(default_factory=dict)
    """Kind of work -> why its workers keep failing."""
    waiting: Mapping[str, str] = field(default_factory=dict)
    """Kind of work -> why none of its workers has come up for minutes, or none is let in."""
    outdated: tuple[str, ...] = ()
    """Names of those that never came up and would be made otherwise now."""


@dataclass(frozen=True)
class Failure:
    """Of a step in this pass; `detail` is a sentence without secrets."""

    detail: str
    reason: str = ""
    """One CamelCase word for the condition; default `<Step>Failed`."""


@dataclass(frozen=True)
class Observed:
    """One look at everything."""

    bucket: Bucket | Unreachable
    database: Database | Unreachable
    signing_keys: SigningKeys
    policy: Policy | Unreachable | None
    """As last applied; None: none."""
    scanner: Scanner
    api: Api | Unreachable
    workers: Workers | Unreachable
    notes: Notes | Unreachable = Notes()
    store_key: StoreKey | Unreachable | None = None
    """None: the store needs none."""
    cluster: str = ""
    """The uid of its kube-system namespace; empty on a single machine."""
    rival: str | None = None
    """Another tenant, declared earlier, that has the same id or bucket."""
    host_rival: str | None = None
    """Another tenant that is served at the same host."""
    held: bool | None = None
    """Whether the resource bears our finalizer; None: there is no such thing here."""
    stopped: bool | Unreachable = False
    """While deleting: none of its pods is left."""
    failures: Mapping[str, Failure] = field(default_factory=dict)
    """Step name -> why it has just failed."""
    unfinished: Mapping[str, str] = field(default_factory=dict)
    """Step name -> how far it has just come; it goes on in the next pass."""

    @property
    def is_certain(self) -> bool:
        seen = (self.bucket, self.database, self.policy, self.api, self.workers, self.store_key, self.stopped)
        return not self.failures and not any(isinstance(each, Unreachable) for each in seen)


# --- what can be done ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HoldDeletion:
    """The resource gets our finalizer: its data has to go before it may."""


@dataclass(frozen=True)
class ReleaseDeletion:
    """The resource loses our finalizer."""


@dataclass(frozen=True)
class CreateBucket:
    """Also takes over one that may be adopted."""

    bucket: str
    owner: Mark
    adopt: bool = False


@dataclass(frozen=True)
class MakeStoreKey:
    """A new key, limited to this tenant's prefix; those that are out keep working."""

    tenant_id: str
    bucket: str
    rotation: str


@dataclass(frozen=True)
class RevokeStoreKeys:
    """All of the tenant's keys but the current one."""

    tenant_id: str


@dataclass(frozen=True)
class CreateDatabase:
    """Schema and role `schema`, the role seeing this schema only. Also takes over what may be adopted."""

    schema: str
    owner: Mark
    adopt: bool = False


@dataclass(frozen=True)
class MigrateDatabase:
    schema: str


@dataclass(frozen=True)
class WriteBirth:
    """The bucket takes this schema for its own. `renew`: the schema is another one from now on, so that a mark which
    is given up is never taken for its own again."""

    schema: str
    bucket: str
    tenant_id: str
    renew: bool = False


@dataclass(frozen=True)
class MakeSigningKey:
    """A new key signs from now on; the one before it is believed until the next is made."""

    tenant_id: str
    rotation: str = ""


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


@dataclass(frozen=True)
class DropWorkers:
    """Workers that never came up, so that others can be made as declared."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class SendCanary:
    """The test virus, through the tenant's own store, rows, queue and worker."""

    tenant_id: str


@dataclass(frozen=True)
class TrustSignatures:
    """What these find is infected, however much it is."""

    schema: str
    signatures: tuple[str, ...]


@dataclass(frozen=True)
class ReleaseOrphans:
    """The next sweep may remove what was first seen without a row up to `until`."""

    schema: str
    until: datetime


@dataclass(frozen=True)
class StopWorkloads:
    """Api and workers, before what they write to goes."""

    tenant_id: str


@dataclass(frozen=True)
class DeleteBucket:
    """With all that is in it; may take several passes."""

    bucket: str
    owner: Mark


@dataclass(frozen=True)
class DropDatabase:
    """Schema, role, and the store's keys."""

    schema: str
    owner: Mark


Step = (
    HoldDeletion
    | ReleaseDeletion
    | CreateBucket
    | MakeStoreKey
    | RevokeStoreKeys
    | CreateDatabase
    | MigrateDatabase
    | WriteBirth
    | MakeSigningKey
    | ApplyPolicy
    | RunApi
    | ShapeWorkers
    | DropWorkers
    | SendCanary
    | TrustSignatures
    | ReleaseOrphans
    | StopWorkloads
    | DeleteBucket
    | DropDatabase
)


@dataclass(frozen=True)
class Plan:
    steps: tuple[Step, ...]
    """In this order; later ones may need earlier ones."""
    is_certain: bool
    """No step has failed and everything could be seen; else another look soon may say more."""
    conditions: tuple[Condition, ...]
    """`Ready` first, then one per check; without transition times, see `with_transitions`."""


# --- what the spec asks for ------------------------------------------------------------------------------------------


def claim_of(tenant: MediaTenant, cluster: str) -> Mark:
    """The mark on bucket and schema. Where resources have no uid (a single machine) it is the tenant's id."""
    metadata = tenant.metadata
    if not metadata.uid:
        return Mark(tenant.tenant_id)
    return Mark(metadata.uid, f"{metadata.namespace}/{metadata.name}", cluster, bucket=tenant.bucket)


def may_adopt(tenant: MediaTenant) -> bool:
    return tenant.metadata.annotations.get(ADOPT) == "true"


def rotation_of(tenant: MediaTenant) -> str:
    return tenant.metadata.annotations.get(ROTATE_KEYS, "")


def trusted_signatures(tenant: MediaTenant) -> set[str]:
    return {each.strip() for each in tenant.metadata.annotations.get(TRUST_SIGNATURE, "").split(",")} - {""}


def orphans_released(tenant: MediaTenant, seen: Orphans) -> datetime | None:
    """Up to when objects that were first seen without a row may go, as a person says; None: nobody says.

    A time after the last sweep counts only once a sweep has come after it: nobody can have judged what is not seen yet.
    """
    try:
        until = datetime.fromisoformat(tenant.metadata.annotations.get(REMOVE_ORPHANS, ""))
    except ValueError:
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return until if until <= _next_second(seen.swept_at) else None


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

    @property
    def claim(self) -> Mark:
        return claim_of(self.tenant, self.observed.cluster)

    def waiting_for(self, *conditions: str) -> Finding | None:
        """The finding while an earlier condition, which this one needs, is not true."""
        for name in conditions:
            if name in self.found and self.found[name].status != "True":
                what_is_wrong = self.found[name].message.partition(". ")[0]
                return Finding("False", f"WaitingFor{name.removesuffix('Ready')}", what_is_wrong)
        return None

    def is_ours(self, seen: Bucket | Database) -> bool:
        return seen.exists and seen.owner is not None and seen.owner.relation(self.claim) == "ours"

    def is_claimed(self) -> bool:
        """Bucket or schema is ours already, or both were seen and may be had."""
        seen = self._seen_halves()
        return len(seen) == 2 or any(self.is_ours(half) for half in seen)

    def is_heir(self) -> bool:
        """Bucket or schema bears this tenant's own mark, or its namesake's: so it was here before any rival."""
        return any(half.exists and half.owner and not self.is_foreign(half) for half in self._seen_halves())

    def _seen_halves(self) -> list[Bucket | Database]:
        halves = (self.observed.bucket, self.observed.database)
        return [half for half in halves if not isinstance(half, Unreachable)]

    def is_foreign(self, seen: Bucket | Database) -> bool:
        """It is there, and neither ours nor to be had."""
        if not seen.exists:
            return False
        if seen.owner is None:
            # Ours before its mark was written, or an empty one of somebody who is asked here whether it may be had.
            may_be_ours = self.tenant.spec.storage.bucket is None or may_adopt(self.tenant)
            return not (isinstance(seen, Bucket) and seen.empty and may_be_ours)
        return seen.owner.relation(self.claim, adopt=may_adopt(self.tenant)) == "foreign"


def attempt(case: Case, step: Step, reason: str, message: str, *, status: Status = "False") -> Finding:
    """The step is due; when it has just failed, its failure is the news."""
    name = type(step).__name__
    if failure := case.observed.failures.get(name):
        return Finding(status, failure.reason or f"{name}Failed", failure.detail)
    if progress := case.observed.unfinished.get(name):
        return Finding(status, reason, progress)
    return Finding(status, reason, message, (step,))


def accepted(case: Case) -> Finding:
    """Whether this resource may have the names it claims; nothing at all is done for one that may not."""
    tenant, seen = case.tenant, case.observed
    if seen.rival is not None and not case.is_heir():
        return Finding("False", "Conflict", f"{seen.rival}; nothing is done for this one: rename or delete it")
    if seen.host_rival is not None:
        return Finding("False", "Conflict", f"{seen.host_rival}; nothing is done for this one: choose another host")
    for what, thing in ((f"bucket {tenant.bucket}", seen.bucket), (f"schema {tenant.schema_name}", seen.database)):
        if not isinstance(thing, Unreachable) and case.is_foreign(thing):
            whose = f"belongs to {thing.owner.describe()}" if thing.owner else "exists and bears nobody's mark"
            if isinstance(thing, Bucket) and thing.owner is None and thing.empty:
                whose += f" (where it may be had: annotate {ADOPT}=true)"
            return Finding("False", "Conflict", f"{what} {whose}; it is left alone, and nothing is done for this one")
    delete = tenant.spec.storage.deletion_policy == "Delete"
    if seen.held is not None and seen.held != delete:
        step = HoldDeletion() if delete else ReleaseDeletion()
        return attempt(case, step, "Accepted", "names are free or this tenant's own", status="True")
    return Finding("True", "Accepted", "names are free or this tenant's own")


def bucket(case: Case) -> Finding:
    seen, name = case.observed.bucket, case.tenant.bucket
    if isinstance(seen, Unreachable):
        return Finding("Unknown", "StoreUnreachable", seen.detail)
    if not case.is_ours(seen) or seen.capabilities == {}:
        if isinstance(case.observed.database, Unreachable):  # it may show that this tenant's id is taken
            return Finding("Unknown", "WaitingForDatabase", case.observed.database.detail)
        step = CreateBucket(name, case.claim, may_adopt(case.tenant))
        return attempt(case, step, "BucketMissing", f"bucket {name} is being {'adopted' if seen.owner else 'made'}")
    return Finding("True", "BucketExists", f"bucket {name}")


def store_key(case: Case) -> Finding | None:
    seen, tenant = case.observed.store_key, case.tenant
    if seen is None:
        return None
    if isinstance(seen, Unreachable):
        return Finding("Unknown", "IamUnreachable", seen.detail)
    if not case.is_claimed():
        return Finding("False", "WaitingForBucket", "whether the names are free is not known yet")
    asked = rotation_of(tenant)
    step = MakeStoreKey(tenant.tenant_id, tenant.bucket, asked)
    if not seen.current:
        return attempt(case, step, "StoreKeyMissing", "a key for this tenant's prefix is being made")
    rotating = asked not in ("", seen.rotation)
    if rotating and not (seen.others and seen.others_in_use):  # a third key has no room beside two in use
        return attempt(case, step, "StoreKeyRotating", "a new key is being made", status="True")
    if seen.shared:
        words = "the platform's own key, which reaches every tenant's objects: the store has no IAM"
        return Finding("True", "StoreKeyShared", words)
    if seen.others and seen.others_in_use:
        return Finding("True", "StoreKeyRotating", "the key before this one works until no pod uses it any more")
    if seen.others:
        words = f"{seen.others} key(s) before this one are being revoked"
        return attempt(case, RevokeStoreKeys(tenant.tenant_id), "StoreKeyRotating", words, status="True")
    return Finding("True", "StoreKeyPresent", f"a key for tenant/{tenant.tenant_id}/ in bucket {tenant.bucket} alone")


def database(case: Case) -> Finding:
    seen, schema = case.observed.database, case.tenant.schema_name
    if isinstance(seen, Unreachable):
        return Finding("Unknown", "DatabaseUnreachable", seen.detail)
    # Whether it is taken, or was lost, only the bucket can say.
    if isinstance(case.observed.bucket, Unreachable) and (seen.is_new or not case.is_ours(seen)):
        return Finding("Unknown", "WaitingForBucket", case.observed.bucket.detail)
    if (doubt := disagreement(case)) and not gives_up_the_buckets_memory(case):
        return Finding("False", "DataMismatch", doubt + what_to_do(case))
    if not (case.is_ours(seen) and seen.complete):
        step = CreateDatabase(schema, case.claim, may_adopt(case.tenant))
        return attempt(case, step, "SchemaMissing", f"schema {schema} is being made")
    if seen.revision is not None and seen.revision not in seen.known_revisions:
        return Finding("False", "SchemaNewer", f"schema {schema} was migrated to {seen.revision} by a newer version")
    if seen.revision != seen.known_revisions[-1]:
        return attempt(case, MigrateDatabase(schema), "SchemaOutdated", f"schema {schema} is being migrated")
    if (mark := birth_to_write(case)) is not None:
        return attempt(
            case, mark, "BucketUnmarked", f"bucket {mark.bucket} is being told that it is of schema {schema}"
        )
    return Finding("True", "SchemaCurrent", f"schema {schema} at revision {seen.revision}")


def disagreement(case: Case) -> str:
    """What speaks against the schema being the other half of this bucket; nothing does, or it cannot be seen: empty.

    What the bucket holds is never taken for garbage because a schema does not know it: the schema may be the wrong one.
    """
    seen, there = case.observed.database, case.observed.bucket
    if isinstance(seen, Unreachable) or isinstance(there, Unreachable):
        return ""
    schema, bucket, of = f"schema {case.tenant.schema_name}", f"bucket {case.tenant.bucket}", there.birth
    if of is None:
        if may_be_marked(there.contents, seen.known):
            return ""
        if seen.is_new:
            return f"{bucket} holds files, and {schema} is new: it knows none of them"
        return f"{bucket} holds files that {schema} does not know: of {there.contents} it has rows for {seen.known}"
    if seen.is_new:
        return f"{schema} is new, but {bucket} belongs to another ({of.birth_id}), which is not there"
    if seen.birth is None:
        return f"{schema} is of an older version of the platform than the one that {bucket} belongs to"
    match relation(seen.birth, of):
        case "another":
            return f"{schema} ({seen.birth.birth_id}) is not the one that {bucket} belongs to ({of.birth_id})"
        case "older":
            times = f"it was swept {seen.birth.epoch} times, and the bucket has seen {of.epoch}"
            return f"{schema} is older than {bucket} has seen it ({times}): what came after has no rows"
        case "restored":
            return f"{schema} was restored from a dump: what came to {bucket} after that dump has no rows"
    return ""


def gives_up_the_buckets_memory(case: Case) -> bool:
    return case.tenant.metadata.annotations.get(ACCEPT_DATA) == _memory(case.observed.bucket)


def _memory(bucket: Bucket | Unreachable) -> str:
    """The name of what a bucket knows, for `ACCEPT_DATA`."""
    return UNMARKED if isinstance(bucket, Unreachable) or bucket.birth is None else bucket.birth.birth_id


def what_to_do(case: Case) -> str:
    given_up = annotating(case.tenant, ACCEPT_DATA, _memory(case.observed.bucket))
    return (
        ". Nothing is made, swept or removed until it is decided which of the two is right. Either bring the database "
        "back that has these rows (its address, its volume, a newer backup). Or go on with this schema: files that it "
        f"does not know are out of reach then, and are removed days later unless they are many. For that {given_up}"
    )


def annotating(tenant: MediaTenant, name: str, value: str) -> str:
    """How a person sets this annotation: the end of a sentence, and a command that can be pasted where there is one."""
    at = tenant.metadata
    if not at.uid:
        return f'write into the manifest: metadata: {{annotations: {{{name}: "{value}"}}}}'
    words = ["kubectl", "--namespace", at.namespace, "annotate", "--overwrite", "mediatenant", at.name]
    return "run: " + shlex.join([*words, f"{name}={value}"])


def birth_to_write(case: Case) -> WriteBirth | None:
    """Due where the bucket says nothing yet, or where a person has given up what it says."""
    tenant, seen, there = case.tenant, case.observed.database, case.observed.bucket
    if isinstance(seen, Unreachable) or isinstance(there, Unreachable) or seen.birth is None or not case.is_ours(there):
        return None
    if relation(seen.birth, there.birth) == "same":
        return None
    renew = there.birth is not None and there.birth.birth_id == seen.birth.birth_id
    return WriteBirth(tenant.schema_name, tenant.bucket, tenant.tenant_id, renew)


def keys(case: Case) -> Finding:
    seen, tenant, asked = case.observed.signing_keys, case.tenant, rotation_of(case.tenant)
    if tenant.spec.auth.oidc is not None:
        return Finding("True", "OidcIssuer", f"tokens of {tenant.spec.auth.oidc.issuer}")
    step = MakeSigningKey(tenant.tenant_id, asked)
    if seen.count == 0:
        return attempt(case, step, "SigningKeyMissing", "a signing key is being made")
    if asked not in ("", seen.rotation):
        return attempt(case, step, "SigningKeyRotating", "a new signing key is being made", status="True")
    return Finding("True", "SigningKeyPresent", f"{seen.count} signing key(s) of this tenant's own")


def policy(case: Case) -> Finding:
    seen, wanted = case.observed.policy, policy_of(case.tenant)
    if blocked := case.waiting_for("DatabaseReady"):
        return blocked
    if isinstance(seen, Unreachable):
        return Finding("Unknown", "DatabaseUnreachable", seen.detail)
    if seen != wanted:
        return attempt(case, ApplyPolicy(wanted), "PolicyOutdated", "limits and rules are being written")
    return Finding("True", "PolicyCurrent", f"{case.tenant.spec.quota.max_storage_mb} MiB of storage allowed")


def api(case: Case) -> Finding:
    seen, wanted = case.observed.api, api_shape_of(case.tenant)
    if isinstance(seen, Unreachable):
        return Finding("Unknown", "ApiUnknown", seen.detail)
    if seen.shape != wanted:
        blocked = case.waiting_for("BucketReady", "StoreKeyReady", "DatabaseReady", "KeysReady", "PolicyApplied")
        return blocked or attempt(case, RunApi(wanted), "ApiStarting", "the api is being started")
    if seen.wanted == 0:
        return Finding("False", "ScaledToZero", "spec.api.replicas is 0")
    if seen.ready == 0:
        return (
            Finding("False", "CrashLoop", seen.trouble)
            if seen.trouble
            else Finding("False", "ApiStarting", "no replica answers yet")
        )
    words = f"{seen.ready} of {seen.wanted} replica(s) answer"
    if seen.rolling:
        return Finding("True", "ApiRolling", f"{words}; others are being replaced{_because(seen.trouble)}")
    return Finding("True", "ApiAnswers", words)


def _because(trouble: str | None) -> str:
    return f", but: {trouble}" if trouble else ""


def workers(case: Case) -> Finding:
    seen, wanted = case.observed.workers, worker_shape_of(case.tenant)
    if isinstance(seen, Unreachable):
        return Finding("Unknown", "WorkersUnknown", seen.detail)
    if seen.shape != wanted:
        blocked = case.waiting_for("BucketReady", "StoreKeyReady", "DatabaseReady", "PolicyApplied")
        return blocked or attempt(case, ShapeWorkers(wanted), "WorkersOutdated", "the dispatcher is being told")
    if seen.outdated:
        message = f"{', '.join(seen.outdated)} never came up and is not as declared now: it goes"
        return attempt(case, DropWorkers(seen.outdated), "WorkersOutdated", message)
    if case.tenant.spec.suspended:
        return Finding("True", "Suspended", "spec.suspended is true: no worker starts")
    if seen.trouble:
        return Finding("False", "CrashLoop", "; ".join(seen.trouble.values()))
    if seen.waiting:
        return Finding("False", "WorkersPending", "; ".join(seen.waiting.values()))
    return Finding("True", "OnDemand", "up to " + ", ".join(f"{n} {kind}" for kind, n in wanted.parallel.items() if n))


def scanner(case: Case) -> Finding:
    """A scanner that finds nothing is worse than one that finds too much, so the canary speaks first."""
    found, seen = canary(case), case.observed.notes
    suspicions = () if isinstance(seen, Unreachable) else seen.suspicions
    if not suspicions or (found.status == case.observed.scanner.status == "False"):
        return found
    named = ", ".join(f"{each.signature} (finds {each.held} files)" for each in suspicions)
    words = (
        f"more is found than can be believed in what was clean: {named}. Nobody can read these files, and none of "
        "them is removed; the rescan has stopped, everything else goes on. If the signature is wrong, correct it or "
        "have clamd ignore it: the next rescan with other signatures gives the files back. If it is right, "
        + annotating(case.tenant, TRUST_SIGNATURE, suspicions[0].signature)
    )
    trusted = tuple(each.signature for each in suspicions if each.signature in trusted_signatures(case.tenant))
    if not trusted:
        return Finding("False", "ScanSuspicious", words, found.steps)
    step = TrustSignatures(case.tenant.schema_name, trusted)
    due = attempt(case, step, "ScanSuspicious", f"{', '.join(trusted)}: trusted from now on")
    return replace(due, steps=(*found.steps, *due.steps))


def canary(case: Case) -> Finding:
    seen = case.observed.scanner
    if not case.tenant.spec.scan.enabled:
        return Finding("True", "ScanningDisabled", "spec.scan.enabled is false: files are readable unscanned")
    if case.tenant.spec.suspended:
        return Finding("True", "Suspended", "spec.suspended is true: nothing is scanned")
    if not seen.canary_due:
        return Finding(seen.status, seen.reason, seen.detail)
    blocked = case.waiting_for("StoreKeyReady", "PolicyApplied", "ApiReady")
    if blocked and seen.status == "Unknown":
        return blocked
    if blocked:
        return Finding(seen.status, seen.reason, seen.detail)
    return attempt(case, SendCanary(case.tenant.tenant_id), seen.reason, seen.detail, status=seen.status)


def orphans(case: Case) -> Finding | None:
    notes, tenant = case.observed.notes, case.tenant
    if isinstance(notes, Unreachable):
        return Finding("Unknown", "DatabaseUnreachable", notes.detail)
    seen = notes.orphans
    if seen is None:
        return None
    if not seen.kept:
        return Finding("True", "Consistent", "no more objects are without a row than interrupted uploads leave behind")
    words = (
        f"{seen.count} of {seen.listed} objects ({seen.bytes / MIB:.1f} MiB) have no row, the first of them since "
        f"{_written(seen.since or seen.swept_at)}: more than interrupted uploads leave behind, so none of them is "
        "removed. If their rows were lost, restore a newer database. If nobody needs these objects, "
        + annotating(tenant, REMOVE_ORPHANS, _written(_next_second(seen.swept_at)))
    )
    until = orphans_released(tenant, seen)
    if until is None and REMOVE_ORPHANS in tenant.metadata.annotations:
        words = f"{REMOVE_ORPHANS} has to be a time up to the last sweep, which this is not or not yet. {words}"
    released = seen.released_at
    if until is not None and (released is None or until > released):
        said = f"what was without a row by {_written(until)} may go"
        return attempt(case, ReleaseOrphans(tenant.schema_name, until), "OrphansKept", said)
    if released is not None and released >= seen.swept_at:
        return Finding("False", "OrphansKept", f"what was without a row by {_written(released)} goes in the next sweep")
    return Finding("False", "OrphansKept", words)


def _next_second(time: datetime) -> datetime:
    """So that a time which is written to the second is none before it."""
    return time if time.microsecond == 0 else time.replace(microsecond=0) + timedelta(seconds=1)


def _written(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def capabilities(case: Case) -> Finding | None:
    seen = case.observed.bucket
    if isinstance(seen, Unreachable):
        return Finding("Unknown", "StoreUnreachable", seen.detail)
    if not seen.capabilities:
        return None
    has, lacks = (
        ", ".join(sorted(name for name, present in seen.capabilities.items() if present is wanted))
        for wanted in (True, False)
    )
    if not lacks:
        return Finding("True", "AllPresent", f"has {has}")
    return Finding("False", "SomeMissing", f"lacks {lacks} (nothing depends on it); has {has or 'none of the others'}")


Check = Callable[[Case], Finding | None]

CHAIN: tuple[tuple[str, Check], ...] = (
    ("Accepted", accepted),
    ("BucketReady", bucket),
    ("StoreKeyReady", store_key),
    ("DatabaseReady", database),
    ("KeysReady", keys),
    ("PolicyApplied", policy),
    ("ApiReady", api),
    ("WorkersReady", workers),
    ("ScannerReady", scanner),
    ("DataConsistent", orphans),
    ("S3Capabilities", capabilities),
)
"""In the order in which a tenant comes to life. A check that says None does not apply here."""
INFORMATIONAL = {"DataConsistent", "S3Capabilities"}
"""Said, and no part of `Ready`."""


def plan(tenant: MediaTenant, observed: Observed) -> Plan:
    """The steps that are due now, and the conditions as they are now. No steps: nothing to do until a trigger."""
    case = Case(tenant, observed, {})
    for name, check in CHAIN:
        finding = check(case)
        if finding is not None:
            case.found[name] = finding
        if name == "Accepted" and case.found[name].status != "True":
            break
    return _plan(case, {"Ready": ready(tenant, case.found), **case.found})


def plan_deletion(tenant: MediaTenant, observed: Observed) -> Plan:
    """One step at a time until the resource may go: pods, bucket, schema, and only then the finalizer.

    Retain, or a tenant that never had bucket or schema, is released at once. Turning `deletionPolicy` to Retain while
    it is being deleted is the way out of whatever blocks it.
    """
    case = Case(tenant, observed, {})
    finding = deletion(case)
    blocked = finding.status == "True"
    leaving = Finding("False", "DeletionBlocked" if blocked else "Deleting", finding.message)
    return _plan(case, {"Ready": leaving, "DeletionBlocked": finding})


def deletion(case: Case) -> Finding:
    seen, tenant = case.observed, case.tenant
    out = "; set spec.storage.deletionPolicy to Retain to let it go without deleting data"
    release = Finding("False", "Releasing", "nothing is left to delete")
    if seen.held:
        failed: Status = "True" if "ReleaseDeletion" in seen.failures else "False"
        release = attempt(case, ReleaseDeletion(), release.reason, release.message, status=failed)
    if tenant.spec.storage.deletion_policy == "Retain":
        return release
    for what, thing in (("StoreUnreachable", seen.bucket), ("DatabaseUnreachable", seen.database)):
        if isinstance(thing, Unreachable):
            return Finding("True", what, thing.detail + out)
    assert not isinstance(seen.bucket, Unreachable)  # noqa: S101
    assert not isinstance(seen.database, Unreachable)  # noqa: S101
    has_bucket, has_schema = case.is_ours(seen.bucket), case.is_ours(seen.database)
    cut_short = seen.bucket.exists and seen.bucket.owner is None and seen.bucket.empty  # the mark went, the bucket not
    if not has_bucket and not has_schema:
        return release
    if not seen.stopped or isinstance(seen.stopped, Unreachable):
        found = attempt(case, StopWorkloads(tenant.tenant_id), "StoppingWorkloads", "api and workers are being stopped")
    elif has_bucket or cut_short:
        step = DeleteBucket(tenant.bucket, case.claim)
        found = attempt(case, step, "DeletingBucket", f"bucket {tenant.bucket} is being emptied")
    elif seen.bucket.exists:
        words = f"bucket {tenant.bucket} does not bear this tenant's mark and is not deleted"
        return Finding("True", "BucketNotOwned", words + out)
    else:
        last = DropDatabase(tenant.schema_name, case.claim)
        found = attempt(case, last, "DroppingDatabase", f"schema {tenant.schema_name} is being dropped")
    stuck = any(name in seen.failures for name in ("StopWorkloads", "DeleteBucket", "DropDatabase"))
    return Finding("True", found.reason, found.message + out) if stuck else found


def _plan(case: Case, findings: Mapping[str, Finding]) -> Plan:
    return Plan(
        is_certain=case.observed.is_certain,
        steps=tuple(step for finding in findings.values() for step in finding.steps),
        conditions=tuple(
            Condition(
                type=name,
                status=finding.status,
                reason=finding.reason,
                message=finding.message[:1024],
                observedGeneration=case.tenant.metadata.generation,
            )
            for name, finding in findings.items()
        ),
    )


def ready(tenant: MediaTenant, found: Mapping[str, Finding]) -> Finding:
    """The summary: the first condition that isn't true says why not."""
    for name, finding in found.items():
        if finding.status != "True" and name not in INFORMATIONAL:
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
