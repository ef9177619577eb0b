"""Who leads: a Lease (coordination.k8s.io), as client-go's leader election uses it.

Nobody's wall clock is trusted: a Lease has expired when it has not changed for its duration as measured here. Every
write is over the version that was seen, so of two that take it one fails. A leader that could not renew in time has to
end itself before anybody else may believe that it has: its deadline is shorter than the Lease's duration.
"""

from __future__ import annotations

import asyncio
import random
import time
from datetime import UTC, datetime

import structlog

from media_operator.kinds import LEASE, MANAGED_BY, MANAGER, Object
from media_operator.kube import AlreadyExists, Conflict, Kube, KubeError, NotFound

_log = structlog.stdlib.get_logger("media.lease")

RETRY_SECONDS = 1.0


class LeaseLost(Exception):
    """Somebody else leads, or may: end at once."""


class Election:
    """`seconds`: how long a leader that has gone silent keeps the Lease."""

    def __init__(self, kube: Kube, namespace: str, name: str, identity: str, seconds: float) -> None:
        self._kube = kube
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._seconds = seconds
        self._seen: tuple[str, float] = ("", 0.0)
        """resourceVersion last seen, and when it was new here."""
        self._held: Object | None = None

    async def acquire(self) -> None:
        """Returns when this process leads."""
        while True:
            try:
                if await self._try():
                    return
            except (Conflict, AlreadyExists, NotFound):
                pass  # somebody was faster
            except KubeError as error:
                _log.warning("lease_not_read", reason=str(error))
            await asyncio.sleep(RETRY_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311  jitter, not a secret

    async def hold(self) -> None:
        """Renews for as long as it can. Raises LeaseLost."""
        renewed = time.monotonic()
        while True:
            await asyncio.sleep(self._seconds / 5)
            try:
                async with asyncio.timeout(self._seconds * 0.8 - (time.monotonic() - renewed)):
                    await self._renew()
                renewed = time.monotonic()
            except (Conflict, NotFound) as error:
                raise LeaseLost(str(error)) from error
            except (KubeError, TimeoutError) as error:
                if time.monotonic() - renewed >= self._seconds * 0.8:
                    raise LeaseLost(f"not renewed in time: {error}") from error

    async def release(self) -> None:
        """Lets another take over at once. Best effort: it expires anyway."""
        if self._held is None:
            return
        spec = {**self._held["spec"], "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()}
        try:
            async with asyncio.timeout(2):
                await self._kube.replace(LEASE, {**self._held, "spec": spec})
        except (KubeError, TimeoutError) as error:
            _log.warning("lease_not_released", reason=str(error))
        self._held = None

    async def _try(self) -> bool:
        found = await self._kube.get(LEASE, self._namespace, self._name)
        if found is None:
            self._held = await self._kube.create(LEASE, self._lease({}, transitions=0))
            return True
        spec, version = found.get("spec", {}), found["metadata"]["resourceVersion"]
        if version != self._seen[0]:
            self._seen = (version, time.monotonic())
        holder = spec.get("holderIdentity") or ""
        expired = time.monotonic() - self._seen[1] > float(spec.get("leaseDurationSeconds") or self._seconds)
        if holder not in ("", self._identity) and not expired:
            return False
        transitions = int(spec.get("leaseTransitions") or 0) + (holder != self._identity)
        self._held = await self._kube.replace(LEASE, self._lease(found["metadata"], transitions=transitions))
        return True

    async def _renew(self) -> None:
        assert self._held is not None  # noqa: S101 (acquired before)
        spec = {**self._held["spec"], "renewTime": _now()}
        try:
            self._held = await self._kube.replace(LEASE, {**self._held, "spec": spec})
        except Conflict:
            # An answer of ours that was lost, or a label that somebody set: look before giving up.
            found = await self._kube.get(LEASE, self._namespace, self._name)
            if found is None or found["spec"].get("holderIdentity") != self._identity:
                raise
            self._held = await self._kube.replace(LEASE, {**found, "spec": {**found["spec"], "renewTime": _now()}})

    def _lease(self, metadata: Object, *, transitions: int) -> Object:
        return {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.kind,
            "metadata": {
                "name": self._name,
                "namespace": self._namespace,
                # With this label our own watch sees each renewal: the operator's heartbeat.
                "labels": {**metadata.get("labels", {}), MANAGED_BY: MANAGER},
                **({"resourceVersion": metadata["resourceVersion"]} if metadata else {}),
            },
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": round(self._seconds),
                "acquireTime": _now(),
                "renewTime": _now(),
                "leaseTransitions": transitions,
            },
        }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
