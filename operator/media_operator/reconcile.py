"""One pass over one tenant: observe, plan, carry out, until there is nothing left to do.

The same for every trigger and every target. It remembers nothing: a step that failed is left out for the rest of this
pass and is due again in the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import structlog

from media_operator.plan.observed import Failure, ObservedState
from media_operator.plan.planner import Plan, plan
from media_operator.plan.steps import Step
from media_operator.tenant.spec import MediaTenant

MOST_ROUNDS = 10

_log = structlog.stdlib.get_logger("media.reconcile")


class StepFailed(Exception):
    """A step could not be carried out; the text is a sentence without secrets, fit for a condition.

    `reason`: one CamelCase word for programs, default `<Step>Failed`.
    """

    def __init__(self, detail: str, reason: str = "") -> None:
        super().__init__(detail)
        self.reason = reason


class StepUnfinished(Exception):
    """A long step has come so far and goes on in the next pass; the text says how far."""


class Target(Protocol):
    """Where tenants run: this machine, or a cluster."""

    async def observe(self, tenant: MediaTenant) -> ObservedState:
        """One look. What cannot be asked is `Unreachable`, never a guess."""

    async def apply(self, tenant: MediaTenant, step: Step) -> None:
        """Idempotent. Raises StepFailed, StepUnfinished."""


async def reconcile(
    tenant: MediaTenant, target: Target, plan: Callable[[MediaTenant, ObservedState], Plan] = plan
) -> Plan:
    """Brings the target as close to what `plan` says as it goes now; the plan that is left, with its conditions."""
    failures: dict[str, Failure] = {}
    unfinished: dict[str, str] = {}
    for _ in range(MOST_ROUNDS):
        seen = await target.observe(tenant)
        current = plan(tenant, replace(seen, failures=failures, unfinished=unfinished))
        if not current.steps:
            return current
        for step in current.steps:
            name = type(step).__name__
            try:
                await target.apply(tenant, step)
            except StepFailed as error:
                failures[name] = Failure(str(error), error.reason)
                _log.warning("step_failed", tenant=tenant.tenant_id, step=name, reason=str(error))
                break  # later steps may need this one: look again first
            except StepUnfinished as error:
                unfinished[name] = str(error)
                break
            _log.info("step_done", tenant=tenant.tenant_id, step=name)
    return current
