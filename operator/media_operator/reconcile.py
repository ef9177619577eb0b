"""One pass over one tenant: observe, plan, apply, until nothing is left to do.

It is the same for every trigger and every target. It keeps no state between two passes. A step that failed is left out
for the rest of the pass and is due again in the next.
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
        """One look. A dependency that cannot be asked is `Unreachable`; nothing is guessed."""

    async def apply(self, step: Step) -> None:
        """Idempotent. Raises StepFailed, StepUnfinished."""


async def reconcile(target: Target, plan: Planner = plan) -> Plan:
    """Applies the steps of `plan` as far as possible now. Returns the last plan: its conditions, and steps not done."""
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
