"""Retires tenants that are gone: bucket and schema are marked as retained, and the credentials stop working."""

from __future__ import annotations

import asyncio

import structlog

from media_core.errors import Unavailable
from media_operator.cluster import kinds
from media_operator.cluster.cache import TenantKey, unique_names
from media_operator.cluster.kube import KubeError
from media_operator.kubernetes_target.cluster import Cluster
from media_operator.tenant.ownership import OwnerMark
from media_operator.tenant.spec import tenant_id_of

DEBOUNCE_SECONDS = 1.0
RETRY_SECONDS = 5.0

_log = structlog.stdlib.get_logger("media.controller")


class Retirement:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._changed = asyncio.Event()

    def tenant_went(self) -> None:
        self._changed.set()

    async def run(self) -> None:
        """Runs until cancelled: at the start, soon after a tenant went, and regularly. Some go while nobody watches."""
        self._changed.set()
        while True:
            try:
                async with asyncio.timeout(self._cluster.operator.resync_seconds):
                    await self._changed.wait()
                await asyncio.sleep(DEBOUNCE_SECONDS)
            except TimeoutError:
                pass
            self._changed.clear()
            try:
                await self.retire_once()
            except (Unavailable, KubeError) as error:
                _log.warning("not_retired", reason=str(error))
                self._changed.set()
                await asyncio.sleep(RETRY_SECONDS)

    async def retire_once(self) -> None:
        """Raises Unavailable, KubeError."""
        there = self._cluster.backends
        marks = await there.database_breaker.call(there.databases.marks, self._cluster.id)
        failed: Unavailable | None = None
        for schema, mark in marks.items():
            if not mark.retained and await self._is_gone(schema, mark):
                _log.info("retiring", schema=schema, resource=mark.resource)
                try:
                    await there.retire(schema, mark)
                except Unavailable as error:  # go on with the others
                    failed = error
        if failed is not None:
            raise failed

    async def _is_gone(self, schema: str, mark: OwnerMark) -> bool:
        """Asks the API server itself: a tenant must not lose its keys because the cache misses it."""
        namespace, _, name = mark.resource.partition("/")
        watched = self._cluster.operator.namespaces
        if watched and namespace not in watched:
            return False
        known = self._cluster.cache.tenants().get(TenantKey(namespace, name))
        if known is not None and known["metadata"]["uid"] == mark.uid:
            return False
        found = await self._cluster.kube.get(kinds.MEDIA_TENANT, namespace, name)
        if found is None:
            return True
        # A new tenant of the same name and id adopts bucket and schema itself.
        return bool(found["metadata"]["uid"] != mark.uid and unique_names(found).tenant_id != tenant_id_of(schema))
