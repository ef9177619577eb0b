"""Everything that makes the operator look, on one screen. Beside `main`, the only module that knows kopf.

kopf watches; what it sees goes into the cache, and whose it is goes into the work queue. Its own create, update and
timer handlers are not used: they act on what changed, and note in annotations what they did, while a pass here looks at
what is, and writes nothing when nothing is to be done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kopf

from media_operator.cluster import kinds
from media_operator.cluster.cache import Cache, TenantKey
from media_operator.cluster.kinds import Kind
from media_operator.cluster.workqueue import WorkQueue

WATCHED_IN_TURN = 500
"""Objects in one answer of a list."""
WATCH_BACKOFFS = (0.5, 1.0, *(2.0,) * 150)
"""An API server that starts says 403 and 429 for a while. kopf's own delays grow to 21 s, and then it gives up: late
for drift that is to be repaired within 10 s, and early for an outage of minutes."""


def registry(
    cache: Cache,
    queue: WorkQueue[TenantKey],
    heard: Callable[[], None],
    listed: Callable[[], None],
    job_ended: Callable[[], None],
    children: tuple[Kind, ...],
) -> kopf.OperatorRegistry:
    """`heard`: the watches are alive. `listed`: one began anew, and does not tell what went meanwhile.

    `job_ended`: a place under the cluster-wide cap may be free."""
    registry = kopf.OperatorRegistry()

    def see(kind: Kind, event: str | None, body: kopf.Body) -> None:
        heard()
        if event is None:
            listed()
        for key in cache.see(kind, event, dict(body)):
            queue.add(key)
        if kind == kinds.JOB and (event == "DELETED" or body.get("status", {}).get("conditions")):
            job_ended()

    def watch(kind: Kind) -> None:
        async def seen(type: str | None, body: kopf.Body, **_: Any) -> None:  # noqa: A002  kopf's name for it
            see(kind, type, body)

        kopf.on.event(kind.group, kind.version, kind.plural, id="seen", registry=registry)(seen)

    for kind in (kinds.MEDIA_TENANT, *children, kinds.JOB):
        watch(kind)

    # The Lease that this process renews comes back through a watch: silence means that the watches are dead.
    @kopf.on.event(kinds.LEASE.group, kinds.LEASE.version, kinds.LEASE.plural, registry=registry)
    async def heartbeat(**_: Any) -> None:
        heard()

    @kopf.on.login(registry=registry)
    async def login(**arguments: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)

    return registry


def settings(children: tuple[Kind, ...]) -> kopf.OperatorSettings:
    """kopf's, as few as serve."""
    chosen = kopf.OperatorSettings()
    chosen.posting.enabled = False
    chosen.scanning.disabled = True
    chosen.watching.chunk_size = WATCHED_IN_TURN
    chosen.watching.connect_timeout = 10
    chosen.networking.request_timeout = 30
    chosen.networking.error_backoffs = WATCH_BACKOFFS
    chosen.execution.max_workers = 1
    for kind in (*children, kinds.JOB, kinds.LEASE):
        chosen.watching.label_selectors[kind.group, kind.version, kind.plural] = kinds.OURS
    return chosen
