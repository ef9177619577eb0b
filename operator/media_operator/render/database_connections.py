"""How a tenant's pods share the connections of its database role."""

from __future__ import annotations

from media_operator.plan.desired import most_workers_of
from media_operator.tenant.spec import MediaTenant

MOST_CONNECTIONS, MOST_WORKER_CONNECTIONS = 10, 4
"""Of one api pod, of one worker: more are of no use to them."""
OPERATOR_CONNECTIONS = 2
"""What the operator itself opens as the tenant's role: for the policy, a migration, a canary."""


def connections(tenant: MediaTenant, limit: int) -> tuple[int, int]:
    """Of one api pod and of one worker, so that all of a tenant's together stay within its role's `limit`.

    api x (most pods there may be, and the quarter more, at least one, that a roll adds)
      + worker x (all kinds' most workers, sweep and rescan)
      + 2 for the operator                                                               <= limit
    Workers get at most half. Each gets at least one, so a limit of less than one for each does not hold: PostgreSQL
    then refuses connections at the peak, and what wanted one is tried again. As if not suspended, so that suspending a
    tenant rolls no pods.
    """
    api = tenant.spec.api
    most = api.autoscaling.max if api.autoscaling else api.replicas
    pods = most + max(1, -(-most // 4))
    workers = sum(most_workers_of(tenant).values()) + 1  # and the sweep
    workers += 1 if tenant.spec.scan.enabled else 0  # and the rescan
    free = max(0, limit - OPERATOR_CONNECTIONS)
    for_worker = min(MOST_WORKER_CONNECTIONS, max(1, free // 2 // workers))
    for_api = min(MOST_CONNECTIONS, max(1, (free - workers * for_worker) // pods))
    return for_api, for_worker
