"""What a check may look at, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass

from media_core.upkeep.births import may_belong, relation
from media_operator.plan.desired import owner_mark_of
from media_operator.plan.observed import Bucket, Database, ObservedState, Status, Unreachable
from media_operator.plan.steps import Step
from media_operator.tenant.annotations import may_adopt
from media_operator.tenant.ownership import OwnerMark
from media_operator.tenant.spec import MediaTenant


@dataclass(frozen=True)
class Finding:
    status: Status
    reason: str
    message: str
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Context:
    """What a check may look at."""

    tenant: MediaTenant
    observed: ObservedState
    found: dict[str, Finding]
    """Condition -> what the checks before this one found."""

    @property
    def own_mark(self) -> OwnerMark:
        return owner_mark_of(self.tenant, self.observed.cluster)

    def waiting_for(self, *conditions: str) -> Finding | None:
        """The finding to return while one of these earlier `conditions` is not true; None: all are true."""
        for name in conditions:
            if name in self.found and self.found[name].status != "True":
                what_is_wrong = self.found[name].message.partition(". ")[0]
                return Finding("False", f"WaitingFor{name.removesuffix('Ready')}", what_is_wrong)
        return None

    def is_ours(self, seen: Bucket | Database) -> bool:
        return seen.exists and seen.owner is not None and seen.owner.relation(self.own_mark) == "ours"

    def is_claimed(self) -> bool:
        """Bucket or schema is ours already, or both were seen and neither belongs to somebody else."""
        seen = self._seen_halves()
        return len(seen) == 2 or any(self.is_ours(half) for half in seen)

    def owns_data(self) -> bool:
        """Bucket or schema has the owner mark of this tenant or of its namesake. So it was here before any rival."""
        return any(half.exists and half.owner and not self.is_foreign(half) for half in self._seen_halves())

    def _seen_halves(self) -> list[Bucket | Database]:
        halves = (self.observed.bucket, self.observed.database)
        return [half for half in halves if not isinstance(half, Unreachable)]

    def has_lost_its_mark(self, bucket: Bucket) -> bool:
        """It has no owner mark, and what it holds belongs to this tenant's own schema."""
        schema = self.observed.database
        if bucket.owner is not None or isinstance(schema, Unreachable) or not self.is_ours(schema):
            return False
        if bucket.birth is not None:
            return schema.birth is not None and relation(schema.birth, bucket.birth) == "same"
        return bucket.contents > 0 and may_belong(bucket.contents, schema.known)

    def is_foreign(self, seen: Bucket | Database) -> bool:
        """It exists, is not ours and may not be adopted."""
        if not seen.exists:
            return False
        if seen.owner is None:
            # Either ours, before its owner mark was written. Or somebody's empty bucket, or our own that has lost its
            # owner mark: both need `ADOPT`.
            if isinstance(seen, Bucket) and may_adopt(self.tenant):
                return not (seen.empty or self.has_lost_its_mark(seen))
            return not (isinstance(seen, Bucket) and seen.empty and self.tenant.spec.storage.bucket is None)
        return seen.owner.relation(self.own_mark, adopt=may_adopt(self.tenant)) == "foreign"


def attempt(context: Context, step: Step, reason: str, message: str, *, status: Status = "False") -> Finding:
    """A finding with `step`, which is due. If the step has just failed, the finding says why and has no step."""
    name = type(step).__name__
    if failure := context.observed.failures.get(name):
        return Finding(status, failure.reason or f"{name}Failed", failure.detail)
    if progress := context.observed.unfinished.get(name):
        return Finding(status, reason, progress)
    return Finding(status, reason, message, (step,))
