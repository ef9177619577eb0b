"""One pass over one tenant: observe, plan, apply, until there is nothing left to do.

The same for every trigger and every target. It remembers nothing: a step that failed is left out for the rest of this
pass and is due again in the next.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import structlog

from media_operator.plan.observed import Failure, ObservedState
from media_operator.plan.planner import Plan, Planner, plan
from media_operator.plan.steps import Step, StepFailed, StepUnfinished
from media_operator.tenant.spec import MediaTenant

MOST_ROUNDS = 10

_log = structlog.stdlib.get_logger("media.reconcile")


class Target(Protocol):
    """One tenant where it runs, on this machine or on a cluster, for one pass."""

    @property
    def tenant(self) -> MediaTenant: ...

    async def observe(self) -> ObservedState:
        """One look. What cannot be asked is `Unreachable`, never a guess."""

    async def apply(self, step: Step) -> None:
        """Idempotent. Raises StepFailed, StepUnfinished."""


async def reconcile(target: Target, plan: Planner = plan) -> Plan:
    """Brings the target as close to what `plan` says as it goes now; the plan that is left, with its conditions."""
    tenant = target.tenant
    failures: dict[str, Failure] = {}
    unfinished: dict[str, str] = {}
    for _ in range(MOST_ROUNDS):
        seen = await target.observe()
        current = plan(tenant, replace(seen, failures=failures, unfinished=unfinished))
        if not current.steps:
            return current
        for step in current.steps:
            name = type(step).__name__
            try:
                await target.apply(step)
            except StepFailed as error:
                failures[name] = Failure(str(error), error.reason)
                _log.warning("step_failed", tenant=tenant.tenant_id, step=name, reason=str(error))
                break  # later steps may need this one: look again first
            except StepUnfinished as error:
                unfinished[name] = str(error)
                break
            _log.info("step_done", tenant=tenant.tenant_id, step=name)
    return current
