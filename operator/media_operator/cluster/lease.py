"""Leader election by a Lease (coordination.k8s.io), as in client-go.

The Kubernetes client's own `leaderelection` measures with `time.time()`. A clock that is set forward takes the Lease
from a live leader. A clock that is set back lets a leader work on that has lost it.

So no wall clock is trusted. A Lease has expired if it has not changed for its duration, as measured here. Every write
names the version that was seen, so if two replicas take the Lease one of them fails. A leader that could not renew has
to end itself before another replica may take the Lease. So its deadline is shorter than the Lease's duration, and
counts from before the last renewal was sent: others may have seen the renewal at any time after that.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import structlog

from media_operator.cluster.kinds import LEASE, MANAGED_BY, MANAGER, Object, is_older
from media_operator.cluster.kube import AlreadyExists, Conflict, Kube, KubeError, NotFound

_log = structlog.stdlib.get_logger("media.lease")

RETRY_SECONDS = 1.0
# Fractions of the Lease's duration:
DEADLINE = 0.8
INTERVAL = 0.2
PATIENCE = 0.3
"""Time limit of one try, whatever the client's own timeouts and retries. The next try takes another connection, perhaps
to another API server."""


class LeaseLost(Exception):
    """Another replica leads or may lead. This process has to end at once."""


class Election:
    """`seconds`: how long a leader that does not renew keeps the Lease. `clock`: monotonic seconds."""

    def __init__(
        self,
        kube: Kube,
        namespace: str,
        name: str,
        identity: str,
        seconds: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube = kube
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._seconds = seconds
        self._clock = clock
        self._seen: tuple[Any, float] = (None, 0.0)
        """The Lease's last spec, and when it was seen first. Its version does not count: a new label is no renewal."""
        self._held: Object | None = None
        self._renewed_at = 0.0

    async def acquire(self) -> None:
        """Returns when this process leads."""
        trouble = ""
        while True:
            try:
                async with asyncio.timeout(self._seconds * PATIENCE):
                    if await self._try():
                        return
            except (Conflict, AlreadyExists):
                pass  # another replica was faster
            except (KubeError, TimeoutError) as error:
                if trouble != (trouble := str(error) or "no answer in time"):
                    _log.warning("lease_not_read", reason=trouble)
            else:
                trouble = ""
            await asyncio.sleep(RETRY_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311  jitter, not a secret

    async def hold(self) -> None:
        """Renews for as long as it can. Raises LeaseLost."""
        deadline, trouble = self._renewed_at + self._seconds * DEADLINE, ""
        while True:
            await asyncio.sleep(min(self._seconds * (INTERVAL / 4 if trouble else INTERVAL), deadline - self._clock()))
            began = self._clock()
            if began >= deadline:  # nothing may be sent any more: it could still take effect
                raise LeaseLost(f"not renewed in time: {trouble or 'this process was not running'}")
            try:
                async with asyncio.timeout(min(self._seconds * PATIENCE, deadline - began)):
                    await self._write(renewTime=_now())
            except (Conflict, NotFound) as error:
                raise LeaseLost(str(error)) from error
            except (KubeError, TimeoutError) as error:
                trouble = str(error) or "no answer in time"
                _log.warning("lease_not_renewed", reason=trouble)
            else:
                deadline, trouble = began + self._seconds * DEADLINE, ""

    async def release(self) -> None:
        """Lets another replica take over at once. If this fails, the Lease expires."""
        if self._held is None:
            return
        try:
            async with asyncio.timeout(2):
                await self._write(holderIdentity="", leaseDurationSeconds=1, renewTime=_now())
        except (KubeError, TimeoutError) as error:
            _log.warning("lease_not_released", reason=str(error) or "no answer in time")
        self._held = None

    async def _try(self) -> bool:
        began = self._clock()
        found = await self._kube.get(LEASE, self._namespace, self._name)
        if found is None:
            self._held = await self._kube.create(LEASE, self._lease({}, transitions=0))
        else:
            spec = found.get("spec") or {}
            if spec != self._seen[0]:
                self._seen = (spec, self._clock())
            holder = spec.get("holderIdentity") or ""
            expired = self._clock() - self._seen[1] > float(spec.get("leaseDurationSeconds") or self._seconds)
            if holder not in ("", self._identity) and not expired:
                return False
            transitions = int(spec.get("leaseTransitions") or 0) + (holder != self._identity)
            self._held = await self._kube.replace(LEASE, self._lease(found["metadata"], transitions=transitions))
        self._renewed_at = began
        return True

    async def _write(self, **changes: Any) -> None:
        """Changes the Lease's spec. Raises Conflict if another replica holds it by now, or if the Lease is older than
        this process knows it: then etcd was set back, and all that this process has seen may be wrong."""
        assert self._held is not None  # noqa: S101 (acquired before)
        try:
            self._held = await self._kube.replace(LEASE, {**self._held, "spec": {**self._held["spec"], **changes}})
        except Conflict:
            # Perhaps the answer to our own write was lost, or somebody set a label. So look before giving up.
            found = await self._kube.get(LEASE, self._namespace, self._name)
            if found is None or (found.get("spec") or {}).get("holderIdentity") != self._identity:
                raise
            if is_older(*(each["metadata"]["resourceVersion"] for each in (found, self._held))):
                raise
            self._held = await self._kube.replace(LEASE, {**found, "spec": {**found["spec"], **changes}})

    def _lease(self, metadata: Object, *, transitions: int) -> Object:
        return {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.kind,
            "metadata": {
                "name": self._name,
                "namespace": self._namespace,
                # With this label our own watch sees each renewal, which is the operator's heartbeat.
                "labels": {**metadata.get("labels", {}), MANAGED_BY: MANAGER},
                **({"resourceVersion": metadata["resourceVersion"]} if metadata else {}),
            },
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": math.ceil(self._seconds),
                "acquireTime": _now(),
                "renewTime": _now(),
                "leaseTransitions": transitions,
            },
        }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
