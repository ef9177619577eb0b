"""How a tenant's pods share the connections of its database role."""

from __future__ import annotations

from media_operator.plan.desired import most_workers_of
from media_operator.tenant.spec import MediaTenant

MOST_CONNECTIONS, MOST_WORKER_CONNECTIONS = 10, 4
"""Of one api pod, and of one worker. More are of no use to them."""
OPERATOR_CONNECTIONS = 2
"""Kept for the operator, which connects as the tenant's role to send a canary."""


def connections(tenant: MediaTenant, limit: int) -> tuple[int, int]:
    """(connections of one api pod, of one worker), so that all of a tenant's pods stay within its role's `limit`.

    api x (most api pods, plus the quarter, at least one, that a roll adds)
      + worker x (most workers of all kinds, sweep and rescan)
      + 2 for the operator                                                               <= limit
    Workers get at most half. Each pod gets at least one. If `limit` is too small for that, PostgreSQL refuses
    connections at the peak, and the work is tried again. A suspended tenant counts as if it was not suspended, so that
    suspending it rolls no pods.
    """
    api = tenant.spec.api
    most = api.autoscaling.max if api.autoscaling else api.replicas
    pods = most + max(1, -(-most // 4))
    workers = sum(most_workers_of(tenant).values()) + 1  # the sweep
    workers += 1 if tenant.spec.scan.enabled else 0  # the rescan
    free = max(0, limit - OPERATOR_CONNECTIONS)
    for_worker = min(MOST_WORKER_CONNECTIONS, max(1, free // 2 // workers))
    for_api = min(MOST_CONNECTIONS, max(1, (free - workers * for_worker) // pods))
    return for_api, for_worker
