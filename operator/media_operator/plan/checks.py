"""The checks, in the order in which a tenant comes to life.

Each reports one condition and the steps that would make it true. Within a check the first guard that applies wins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from media_operator.plan.data_consistent import data_consistent
from media_operator.plan.data_match import birth_to_write, disagreement, is_data_accepted, lost_bucket, what_to_do
from media_operator.plan.desired import api_shape_of, bucket_cors_of, worker_shape_of
from media_operator.plan.finding import Context, Finding, attempt
from media_operator.plan.observed import Bucket, Unreachable
from media_operator.plan.steps import (
    AllowOrigins,
    ApplyPolicy,
    CreateBucket,
    CreateDatabase,
    DropWorkers,
    HoldDeletion,
    MakeSigningKey,
    MakeStoreKey,
    MigrateDatabase,
    ReleaseDeletion,
    RevokeStoreKeys,
    RunApi,
    SendCanary,
    ShapeWorkers,
    TrustSignatures,
)
from media_operator.plan.webhooks import webhooks_delivered
from media_operator.tenant.annotations import (
    ADOPT,
    TRUST_SIGNATURE,
    how_to_annotate,
    may_adopt,
    rotation_of,
    trusted_signatures,
)


def accepted(context: Context) -> Finding:
    """Whether this resource may have the names that it claims. If not, nothing is done for it."""
    tenant, seen = context.tenant, context.observed
    if seen.rival is not None and not context.owns_data():
        return Finding(
            "False", "Conflict", f"{seen.rival}; nothing is done for this one: delete it, or make one with other names"
        )
    if seen.host_rival is not None:
        return Finding("False", "Conflict", f"{seen.host_rival}; nothing is done for this one: choose another host")
    for what, thing in ((f"bucket {tenant.bucket}", seen.bucket), (f"schema {tenant.schema_name}", seen.database)):
        if not isinstance(thing, Unreachable) and context.is_foreign(thing):
            whose = f"belongs to {thing.owner.describe()}" if thing.owner else "exists and has no owner mark"
            if isinstance(thing, Bucket) and thing.owner is None and thing.empty:
                whose += f" (to take it over, annotate {ADOPT}=true)"
            if isinstance(thing, Bucket) and context.has_lost_its_mark(thing):
                whose += f", but holds this tenant's files (if somebody deleted the mark, annotate {ADOPT}=true)"
            return Finding("False", "Conflict", f"{what} {whose}; it stays as it is, and nothing is done for this one")
    delete = tenant.spec.storage.deletion_policy == "Delete"
    if seen.has_finalizer is not None and seen.has_finalizer != delete:
        step = HoldDeletion() if delete else ReleaseDeletion()
        return attempt(context, step, "Accepted", "all names are free or belong to this tenant", status="True")
    return Finding("True", "Accepted", "all names are free or belong to this tenant")


def bucket_ready(context: Context) -> Finding:
    seen, name = context.observed.bucket, context.tenant.bucket
    if isinstance(seen, Unreachable):
        return Finding("Unknown", "StoreUnreachable", seen.detail)
    if not context.is_ours(seen) or seen.capabilities == {}:
        if isinstance(context.observed.database, Unreachable):  # the schema may show that this tenant's id is taken
            return Finding("Unknown", "WaitingForDatabase", context.observed.database.detail)
        if lost := lost_bucket(context):
            return Finding("False", "BucketLost", lost)
        step = CreateBucket(name, context.own_mark, may_adopt(context.tenant), context.has_lost_its_mark(seen))
        return attempt(context, step, "BucketMissing", f"bucket {name} is being {'adopted' if seen.owner else 'made'}")
    if seen.capabilities is not None and seen.cors != (wanted := bucket_cors_of(context.tenant)):
        allow = AllowOrigins(name, context.own_mark, wanted)
        words = f"bucket {name} is being told which web apps may read signed URLs"
        return attempt(context, allow, "OriginsOutdated", words, status="True")
    return Finding("True", "BucketExists", f"bucket {name}")


def store_key_ready(context: Context) -> Finding | None:
    seen, tenant = context.observed.store_key, context.tenant
    if seen is None:
        return None
    if isinstance(seen, Unreachable):
        return Finding("Unknown", "IamUnreachable", seen.detail)
    if not context.is_claimed():
        return Finding("False", "WaitingForBucket", "it is not known yet whether the names are free")
    asked = rotation_of(tenant)
    step = MakeStoreKey(tenant.tenant_id, tenant.bucket, asked)
    if not seen.current:
        if lost := lost_bucket(context):
            return Finding("False", "WaitingForBucket", lost.partition(". ")[0])
        return attempt(context, step, "StoreKeyMissing", "a key for this tenant's prefix is being made")
    rotating = asked not in ("", seen.rotation)
    if seen.ends is not None and (seen.due or rotating):
        return _renewal(context, step, seen.ends, late=seen.late)
    if rotating and not (seen.others and seen.others_in_use):  # a user has at most two keys
        return attempt(context, step, "StoreKeyRotating", "a new key is being made", status="True")
    if seen.others and seen.others_in_use:
        return Finding("True", "StoreKeyRotating", "the previous key works until no pod uses it any more")
    if seen.others:
        words = f"previous keys are being revoked: {seen.others}"
        return attempt(context, RevokeStoreKeys(tenant.tenant_id), "StoreKeyRotating", words, status="True")
    if seen.shared:
        words = "the platform's own key, which reaches the objects of all tenants: no IAM is set up for the store"
        return Finding("True", "StoreKeyShared", words)
    what = "a key" if seen.ends is None else "a temporary key, which is renewed,"
    return Finding("True", "StoreKeyPresent", f"{what} for tenant/{tenant.tenant_id}/ in bucket {tenant.bucket} alone")


def _renewal(context: Context, step: MakeStoreKey, ends: datetime, *, late: bool) -> Finding:
    """Of a temporary key that still works. Pods go on with it, and new ones may start, until it is late."""
    found = attempt(context, step, "StoreKeyRenewing", "a new temporary key is being made", status="True")
    if found.steps:
        return found
    words = f"{found.message}. Pods reach S3 until {ends.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    return replace(found, status="Unknown" if late else "True", message=words)


def database_ready(context: Context) -> Finding:
    seen, schema = context.observed.database, context.tenant.schema_name
    if isinstance(seen, Unreachable):
        return Finding("Unknown", "DatabaseUnreachable", seen.detail)
    # Only the bucket can tell whether the schema is taken or was lost.
    if isinstance(context.observed.bucket, Unreachable) and (seen.is_new or not context.is_ours(seen)):
        return Finding("Unknown", "WaitingForBucket", context.observed.bucket.detail)
    if (doubt := disagreement(context)) and not is_data_accepted(context):
        return Finding("False", "DataMismatch", doubt + what_to_do(context))
    if not (context.is_ours(seen) and seen.complete):
        step = CreateDatabase(schema, context.own_mark, may_adopt(context.tenant))
        return attempt(context, step, "SchemaMissing", f"schema {schema} is being made")
    if seen.revision is not None and seen.revision not in seen.known_revisions:
        words = f"schema {schema} was migrated to {seen.revision} by a newer version: run that one again"
        return Finding("False", "SchemaNewer", f"{words}. What runs of it goes on; no worker is started")
    if seen.revision != seen.known_revisions[-1]:
        return attempt(
            context, MigrateDatabase(schema, first=seen.is_new), "SchemaOutdated", f"schema {schema} is being migrated"
        )
    if (mark := birth_to_write(context)) is not None:
        return attempt(
            context, mark, "BucketUnmarked", f"the birth of schema {schema} is being written to bucket {mark.bucket}"
        )
    return Finding("True", "SchemaCurrent", f"schema {schema} at revision {seen.revision}")


def keys_ready(context: Context) -> Finding:
    seen, tenant, asked = context.observed.signing_keys, context.tenant, rotation_of(context.tenant)
    if tenant.spec.auth.oidc is not None:
        return Finding("True", "OidcIssuer", f"tokens are issued by {tenant.spec.auth.oidc.issuer}")
    step = MakeSigningKey(asked)
    if seen.count == 0:
        return attempt(context, step, "SigningKeyMissing", "a signing key is being made")
    if asked not in ("", seen.rotation):
        return attempt(context, step, "SigningKeyRotating", "a new signing key is being made", status="True")
    return Finding("True", "SigningKeyPresent", f"signing keys of this tenant's own: {seen.count}")


def policy_applied(context: Context) -> Finding:
    seen, wanted = context.observed.policy, context.tenant.policy
    if blocked := context.waiting_for("DatabaseReady"):
        return blocked
    if isinstance(seen, Unreachable):
        return Finding("Unknown", "DatabaseUnreachable", seen.detail)
    if seen != wanted:
        return attempt(context, ApplyPolicy(wanted), "PolicyOutdated", "limits and rules are being written")
    return Finding("True", "PolicyCurrent", f"{context.tenant.spec.quota.max_storage_mb} MiB of storage allowed")


def api_ready(context: Context) -> Finding:
    seen, wanted = context.observed.api, api_shape_of(context.tenant)
    if isinstance(seen, Unreachable):
        return Finding("Unknown", "ApiUnknown", seen.detail)
    if seen.shape != wanted:
        blocked = context.waiting_for("BucketReady", "StoreKeyReady", "DatabaseReady", "KeysReady", "PolicyApplied")
        return blocked or attempt(context, RunApi(wanted), "ApiStarting", "the api is being started")
    if seen.wanted == 0:
        return Finding("False", "ScaledToZero", "spec.api.replicas is 0")
    if seen.ready == 0 and seen.trouble:
        return Finding("False", "CrashLoop", seen.trouble)
    if seen.ready == 0:
        return Finding("False", "ApiStarting", "no replica answers yet")
    words = f"replicas that answer: {seen.ready} of {seen.wanted}"
    if seen.rolling:
        return Finding("True", "ApiRolling", f"{words}; others are being replaced{_because(seen.trouble)}")
    return Finding("True", "ApiAnswers", words)


def _because(trouble: str | None) -> str:
    return f", but: {trouble}" if trouble else ""


def workers_ready(context: Context) -> Finding:
    seen, wanted = context.observed.workers, worker_shape_of(context.tenant)
    if isinstance(seen, Unreachable):
        return Finding("Unknown", "WorkersUnknown", seen.detail)
    if seen.shape != wanted:
        blocked = context.waiting_for("BucketReady", "StoreKeyReady", "DatabaseReady", "PolicyApplied")
        told = "the dispatcher is being told the new spec"
        return blocked or attempt(context, ShapeWorkers(wanted), "WorkersOutdated", told)
    if seen.outdated:
        message = f"{', '.join(seen.outdated)} never started and no longer matches the spec: it is being deleted"
        return attempt(context, DropWorkers(seen.outdated), "WorkersOutdated", message)
    if context.tenant.spec.suspended:
        return Finding("True", "Suspended", "spec.suspended is true: no worker starts")
    if seen.trouble:
        return Finding("False", "CrashLoop", "; ".join(seen.trouble.values()))
    if seen.waiting:
        return Finding("False", "WorkersPending", "; ".join(seen.waiting.values()))
    workers = ", ".join(f"{n} {kind}" for kind, n in wanted.parallel.items() if n)
    return Finding("True", "OnDemand", f"workers at a time, at most: {workers}")


def scanner_ready(context: Context) -> Finding:
    """A scanner that finds nothing is worse than one that finds too much, so the canary is judged first."""
    found, seen = canary(context), context.observed.notes
    suspicions = () if isinstance(seen, Unreachable) else seen.suspicions
    if not suspicions or (found.status == context.observed.scanner.status == "False"):
        return found
    named = ", ".join(f"{each.signature} (finds {each.held} files)" for each in suspicions)
    words = (
        f"a signature finds more files that were readable before than is likely: {named}. Nobody can read these now, "
        "and none of them is removed. The rescan has stopped; everything else goes on. If the signature is wrong, "
        "correct it or make clamd ignore it: the next rescan with other signatures makes the files readable again. "
        "If it is right, " + how_to_annotate(context.tenant, TRUST_SIGNATURE, suspicions[0].signature)
    )
    trusted = tuple(each.signature for each in suspicions if each.signature in trusted_signatures(context.tenant))
    if not trusted:
        return Finding("False", "ScanSuspicious", words, found.steps)
    step = TrustSignatures(context.tenant.schema_name, trusted)
    due = attempt(context, step, "ScanSuspicious", f"{', '.join(trusted)}: being noted as right")
    return replace(due, steps=(*found.steps, *due.steps))


def canary(context: Context) -> Finding:
    seen = context.observed.scanner
    if not context.tenant.spec.scan.enabled:
        return Finding("True", "ScanningDisabled", "spec.scan.enabled is false: files are readable unscanned")
    if context.tenant.spec.suspended:
        return Finding("True", "Suspended", "spec.suspended is true: nothing is scanned")
    if not seen.canary_due:
        return Finding(seen.status, seen.reason, seen.detail)
    blocked = context.waiting_for("StoreKeyReady", "PolicyApplied", "ApiReady")
    if blocked and seen.status == "Unknown":
        return blocked
    if blocked:
        return Finding(seen.status, seen.reason, seen.detail)
    return attempt(context, SendCanary(), seen.reason, seen.detail, status=seen.status)


def s3_capabilities(context: Context) -> Finding | None:
    seen = context.observed.bucket
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
    words = f"lacks {lacks}, which nothing depends on; has {has or 'nothing else'}"
    if seen.capabilities.get("cors") is False:
        words += (
            ". Without cors, scripts of web apps can't read what signed URLs of the bucket answer (images and players "
            "can): ask for URLs with via=api, or set the server's own CORS"
        )
    return Finding("False", "SomeMissing", words)


Check = Callable[[Context], Finding | None]

CHECKS: tuple[tuple[str, Check], ...] = (
    ("Accepted", accepted),
    ("BucketReady", bucket_ready),
    ("StoreKeyReady", store_key_ready),
    ("DatabaseReady", database_ready),
    ("KeysReady", keys_ready),
    ("PolicyApplied", policy_applied),
    ("ApiReady", api_ready),
    ("WorkersReady", workers_ready),
    ("ScannerReady", scanner_ready),
    ("DataConsistent", data_consistent),
    ("WebhooksDelivered", webhooks_delivered),
    ("S3Capabilities", s3_capabilities),
)
"""In the order in which a tenant comes to life. A check that returns None does not apply here."""
INFORMATIONAL = {"DataConsistent", "WebhooksDelivered", "S3Capabilities"}
"""Conditions that are reported and do not count for `Ready`."""
