"""Whether bucket and schema are two halves of the same data, and what to do where they are not."""

from __future__ import annotations

from media_core.births import may_be_marked, relation
from media_operator.plan.finding import Context
from media_operator.plan.observed import Bucket, Unreachable
from media_operator.plan.steps import WriteBirth
from media_operator.tenant.annotations import ACCEPT_DATA, UNMARKED, how_to_annotate


def disagreement(context: Context) -> str:
    """What speaks against the schema being the other half of this bucket; nothing does, or it cannot be seen: empty.

    What the bucket holds is never taken for garbage because a schema does not know it: the schema may be the wrong one.
    """
    seen, there = context.observed.database, context.observed.bucket
    if isinstance(seen, Unreachable) or isinstance(there, Unreachable):
        return ""
    schema, bucket, of = f"schema {context.tenant.schema_name}", f"bucket {context.tenant.bucket}", there.birth
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


def is_data_accepted(context: Context) -> bool:
    """A person says that the schema is right, and gives up what this bucket remembers."""
    return context.tenant.metadata.annotations.get(ACCEPT_DATA) == _remembered(context.observed.bucket)


def _remembered(bucket: Bucket | Unreachable) -> str:
    """What the bucket remembers, as `ACCEPT_DATA` names it."""
    return UNMARKED if isinstance(bucket, Unreachable) or bucket.birth is None else bucket.birth.birth_id


def what_to_do(context: Context) -> str:
    given_up = how_to_annotate(context.tenant, ACCEPT_DATA, _remembered(context.observed.bucket))
    return (
        ". Nothing is made, swept or removed until it is decided which of the two is right. Either bring the database "
        "back that has these rows (its address, its volume, a newer backup). Or go on with this schema: files that it "
        f"does not know are out of reach then, and are removed days later unless they are many. For that {given_up}"
    )


def birth_to_write(context: Context) -> WriteBirth | None:
    """Due where the bucket says nothing yet, or where a person has given up what it says."""
    tenant, seen, there = context.tenant, context.observed.database, context.observed.bucket
    if isinstance(seen, Unreachable) or isinstance(there, Unreachable):
        return None
    if seen.birth is None or not context.is_ours(there):
        return None
    if relation(seen.birth, there.birth) == "same":
        return None
    renew = there.birth is not None and there.birth.birth_id == seen.birth.birth_id
    return WriteBirth(tenant.schema_name, tenant.bucket, tenant.tenant_id, renew)
