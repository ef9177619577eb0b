"""The check of a tenant that is being deleted together with its data."""

from __future__ import annotations

from media_operator.plan.finding import Context, Finding, attempt
from media_operator.plan.observed import Status, Unreachable
from media_operator.plan.steps import DeleteBucket, DropDatabase, ReleaseDeletion, StopWorkloads


def deletion(context: Context) -> Finding:
    seen, tenant = context.observed, context.tenant
    out = "; set spec.storage.deletionPolicy to Retain to release the MediaTenant without deleting data"
    release = Finding("False", "Releasing", "nothing is left to delete")
    if seen.has_finalizer:
        failed: Status = "True" if "ReleaseDeletion" in seen.failures else "False"
        release = attempt(context, ReleaseDeletion(), release.reason, release.message, status=failed)
    if tenant.spec.storage.deletion_policy == "Retain":
        return release
    for what, thing in (("StoreUnreachable", seen.bucket), ("DatabaseUnreachable", seen.database)):
        if isinstance(thing, Unreachable):
            return Finding("True", what, thing.detail + out)
    assert not isinstance(seen.bucket, Unreachable)  # noqa: S101
    assert not isinstance(seen.database, Unreachable)  # noqa: S101
    has_bucket, has_schema = context.is_ours(seen.bucket), context.is_ours(seen.database)
    # The owner mark was deleted already, the bucket not yet.
    cut_short = seen.bucket.exists and seen.bucket.owner is None and seen.bucket.empty
    if not has_bucket and not has_schema:
        return release
    if not seen.stopped or isinstance(seen.stopped, Unreachable):
        stop = StopWorkloads()
        found = attempt(context, stop, "StoppingWorkloads", "api and workers are being stopped")
    elif has_bucket or cut_short:
        step = DeleteBucket(tenant.bucket, context.own_mark)
        found = attempt(context, step, "DeletingBucket", f"bucket {tenant.bucket} is being emptied")
    elif seen.bucket.exists:
        words = f"bucket {tenant.bucket} does not have this tenant's owner mark and is not deleted"
        return Finding("True", "BucketNotOwned", words + out)
    else:
        last = DropDatabase(tenant.schema_name, context.own_mark)
        found = attempt(context, last, "DroppingDatabase", f"schema {tenant.schema_name} is being dropped")
    stuck = any(name in seen.failures for name in ("StopWorkloads", "DeleteBucket", "DropDatabase"))
    return Finding("True", found.reason, found.message + out) if stuck else found
