"""One pass over one tenant: observe, plan, carry out, until there is nothing left to do.

The same for every trigger and every target. It remembers nothing: a step that failed is left out for the rest of this
pass and is due again in the next.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import structlog

from media_core.plan import Observed, Plan, Step, plan
from media_core.spec import MediaTenant

MOST_ROUNDS = 10

_log = structlog.stdlib.get_logger("media.reconcile")


class StepFailed(Exception):
    """A step could not be carried out; the text is a sentence without secrets, fit for a condition."""


class Target(Protocol):
    """Where tenants run: this machine, or a cluster."""

    async def observe(self, tenant: MediaTenant) -> Observed:
        """One look. What cannot be asked is `Unreachable`, never a guess."""

    async def carry_out(self, tenant: MediaTenant, step: Step) -> None:
        """Idempotent. Raises StepFailed."""


async def reconcile(tenant: MediaTenant, target: Target) -> Plan:
    """Brings the target as close to the spec as it goes now; the plan that is left, with its conditions."""
    failures: dict[str, str] = {}
    for _ in range(MOST_ROUNDS):
        current = plan(tenant, replace(await target.observe(tenant), failures=failures))
        if not current.steps:
            return current
        for step in current.steps:
            name = type(step).__name__
            try:
                await target.carry_out(tenant, step)
            except StepFailed as error:
                failures[name] = str(error)
                _log.warning("step_failed", tenant=tenant.tenant_id, step=name, reason=str(error))
                break  # later steps may need this one: look again first
            _log.info("step_done", tenant=tenant.tenant_id, step=name)
    return current
