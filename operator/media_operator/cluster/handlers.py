"""All that triggers a look at a tenant. Beside `main` it is the only module that knows kopf.

kopf watches. The objects that it sees go into the cache, and the tenants that they belong to into the work queue.
kopf's create, update and timer handlers are not used: they act on changes and write annotations. A pass here looks at
the state, and writes nothing if nothing is to be done.
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
"""An API server that starts answers 403 and 429 for a while. kopf's own delays grow to 21 s, too late for drift that is
to be repaired within 10 s. Then kopf gives up, too early for an outage of minutes."""


def registry(
    cache: Cache,
    queue: WorkQueue[TenantKey],
    heard: Callable[[], None],
    listed: Callable[[], None],
    job_ended: Callable[[], None],
    children: tuple[Kind, ...],
) -> kopf.OperatorRegistry:
    """kopf's registry with our handlers, which call these:

    `heard`: the watches are alive. `listed`: a watch began again, and does not tell of objects deleted meanwhile.
    `job_ended`: a slot of the cluster-wide limit may be free.
    """
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

    # A watch shows each renewal of the Lease by this process. If none comes, the watches are dead.
    @kopf.on.event(kinds.LEASE.group, kinds.LEASE.version, kinds.LEASE.plural, registry=registry)
    async def heartbeat(**_: Any) -> None:
        heard()

    @kopf.on.login(registry=registry)
    async def login(**arguments: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)

    return registry


def settings(children: tuple[Kind, ...]) -> kopf.OperatorSettings:
    """kopf's settings: nothing is posted or scanned, and only our objects are watched."""
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
