"""`plan(tenant, observed)` and `plan_deletion`: the checks, put together to steps and conditions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from media_operator.plan.checks import CHECKS, INFORMATIONAL
from media_operator.plan.deletion import deletion
from media_operator.plan.finding import Context, Finding
from media_operator.plan.observed import ObservedState
from media_operator.plan.steps import Step
from media_operator.tenant.spec import MediaTenant
from media_operator.tenant.status import Condition


@dataclass(frozen=True)
class Plan:
    steps: tuple[Step, ...]
    """In this order; later ones may need earlier ones."""
    is_certain: bool
    """No step has failed and everything could be seen. Otherwise another look soon may help."""
    conditions: tuple[Condition, ...]
    """`Ready` first, then one per check; without transition times, see `with_transitions`."""

    @property
    def ready(self) -> Condition:
        return self.conditions[0]


Planner = Callable[[MediaTenant, ObservedState], Plan]


def plan(tenant: MediaTenant, observed: ObservedState) -> Plan:
    """The steps that are due now, and the conditions of now. No steps: nothing to do until the next trigger."""
    context = Context(tenant, observed, {})
    for name, check in CHECKS:
        finding = check(context)
        if finding is not None:
            context.found[name] = finding
        if name == "Accepted" and context.found[name].status != "True":
            break
    return _plan(context, {"Ready": ready(tenant, context.found), **context.found})


def plan_deletion(tenant: MediaTenant, observed: ObservedState) -> Plan:
    """One step at a time until the resource may go: pods, bucket, schema, and only then the finalizer.

    A tenant with Retain, or one that never had bucket or schema, is released at once. Setting `deletionPolicy` to
    Retain during the deletion ends it, whatever blocks it.
    """
    context = Context(tenant, observed, {})
    finding = deletion(context)
    blocked = finding.status == "True"
    leaving = Finding("False", "DeletionBlocked" if blocked else "Deleting", finding.message)
    return _plan(context, {"Ready": leaving, "DeletionBlocked": finding})


def waiting_to_go(tenant: MediaTenant) -> tuple[Condition, ...]:
    """The conditions of a tenant that is being deleted and that only the finalizers of others still hold."""
    others = ", ".join(tenant.metadata.finalizers)
    words = f"its deletion waits for {others}, a finalizer of somebody else. Its data is not looked after any more"
    return _conditions(tenant, {"Ready": Finding("False", "Deleting", words)})


def _plan(context: Context, findings: Mapping[str, Finding]) -> Plan:
    return Plan(
        is_certain=context.observed.is_certain,
        steps=tuple(step for finding in findings.values() for step in finding.steps),
        conditions=_conditions(context.tenant, findings),
    )


def _conditions(tenant: MediaTenant, findings: Mapping[str, Finding]) -> tuple[Condition, ...]:
    return tuple(
        Condition(
            type=name,
            status=finding.status,
            reason=finding.reason,
            message=finding.message[:1024],
            observedGeneration=tenant.metadata.generation,
        )
        for name, finding in findings.items()
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
    """`now` with `lastTransitionTime`: kept from `before` unless the status changed, as Kubernetes defines it."""
    known = {condition.type: condition for condition in before}
    stamped = []
    for condition in now:
        old = known.get(condition.type)
        since = old.last_transition_time if old is not None and old.status == condition.status else None
        stamped.append(condition.model_copy(update={"last_transition_time": since or at}))
    return stamped
