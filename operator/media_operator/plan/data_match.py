"""Whether bucket and schema belong together, and what to do if they do not."""

from __future__ import annotations

from media_core.upkeep.births import may_belong, relation
from media_operator.plan.finding import Context
from media_operator.plan.observed import Unreachable
from media_operator.plan.steps import WriteBirth
from media_operator.tenant.annotations import ACCEPT_DATA, UNMARKED, how_to_annotate


def disagreement(context: Context) -> str:
    """Why schema and bucket do not belong together. Empty: they do, or one of them cannot be seen.

    Objects that a schema does not know are no reason to delete them: the schema may be the wrong one.
    """
    seen, there = context.observed.database, context.observed.bucket
    if isinstance(seen, Unreachable) or isinstance(there, Unreachable):
        return ""
    schema, bucket, of = f"schema {context.tenant.schema_name}", f"bucket {context.tenant.bucket}", there.birth
    if of is None:
        if may_belong(there.contents, seen.known):
            return ""
        if seen.is_new:
            return f"{bucket} holds files, but {schema} is new and has no row of them"
        return f"{bucket} holds files without a row: of the first {there.contents}, {schema} has rows for {seen.known}"
    if seen.is_new:
        return f"{schema} is new, but {bucket} belongs to another schema ({of.birth_id}), which is gone"
    if seen.birth is None:
        return f"{schema} was made by an older version of the platform than the schema that {bucket} belongs to"
    match relation(seen.birth, of):
        case "another":
            return f"{schema} ({seen.birth.birth_id}) is not the schema that {bucket} belongs to ({of.birth_id})"
        case "older":
            times = f"{seen.birth.epoch} sweeps in its rows, {of.epoch} noted in the bucket"
            return f"{schema} is older than {bucket} ({times}): files uploaded since then have no rows"
        case "restored":
            return f"{schema} was restored from a dump: files uploaded to {bucket} after that dump have no rows"
    return ""


def lost_bucket(context: Context) -> str:
    """Why no bucket may be made: this tenant's files were in another one. Empty: there are none, one of both cannot be
    seen, or a person says that it may. The store's address may be wrong, or the bucket may come back.
    """
    seen, there = context.observed.database, context.observed.bucket
    if isinstance(seen, Unreachable) or isinstance(there, Unreachable) or not seen.holds or seen.birth is None:
        return ""
    if (there.exists and not (there.owner is None and there.empty)) or _accepts(context, seen.birth.birth_id):
        return ""
    state = "is empty" if there.exists else "does not exist"
    return (
        f"bucket {context.tenant.bucket} {state}, but schema {context.tenant.schema_name} has files. Nothing is made "
        "until a person decides. Either bring back the bucket with these files (correct the store's address or the "
        "operator's key, restore a backup). Or go on with a new bucket: then these files are lost. For that "
        + how_to_annotate(context.tenant, ACCEPT_DATA, seen.birth.birth_id)
    )


def _accepts(context: Context, birth_id: str) -> bool:
    return context.tenant.metadata.annotations.get(ACCEPT_DATA) == birth_id


def is_data_accepted(context: Context) -> bool:
    """Whether a person says that the schema is right and the birth in this bucket is to be given up."""
    return _accepts(context, _remembered(context))


def _remembered(context: Context) -> str:
    """What is to be given up, as a value of `ACCEPT_DATA`: the bucket's birth; where it has none, that of a schema that
    was swept before, which then gets another one.
    """
    seen, there = context.observed.database, context.observed.bucket
    if not isinstance(there, Unreachable) and there.birth is not None:
        return there.birth.birth_id
    if not isinstance(seen, Unreachable) and seen.birth is not None and seen.birth.epoch > 0:
        return seen.birth.birth_id
    return UNMARKED


def what_to_do(context: Context) -> str:
    given_up = how_to_annotate(context.tenant, ACCEPT_DATA, _remembered(context))
    return (
        ". Nothing is made, swept or removed until a person decides. Either bring back the database that has these "
        "rows (correct its address, attach its volume, restore a newer backup). Or go on with this schema: then files "
        "that have no row in it cannot be read, and are removed days later unless they are many. For that "
        f"{given_up}"
    )


def birth_to_write(context: Context) -> WriteBirth | None:
    """Due where the bucket has no birth yet, or where a person gave its birth up."""
    tenant, seen, there = context.tenant, context.observed.database, context.observed.bucket
    if isinstance(seen, Unreachable) or isinstance(there, Unreachable):
        return None
    if seen.birth is None or not context.is_ours(there):
        return None
    if relation(seen.birth, there.birth) == "same":
        return None
    given_up = _accepts(context, seen.birth.birth_id)
    renew = given_up or (there.birth is not None and there.birth.birth_id == seen.birth.birth_id)
    return WriteBirth(tenant.schema_name, tenant.bucket, tenant.tenant_id, renew)
