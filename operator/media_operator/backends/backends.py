"""The services outside of the cluster, each with its breaker."""

from __future__ import annotations

from dataclasses import dataclass, field

from media_operator.backends.breaker import Breaker
from media_operator.backends.buckets import Buckets
from media_operator.backends.databases import Databases
from media_operator.backends.store_keys import RoleSessions, SharedKey, StoreKeys
from media_operator.tenant.ownership import OwnerMark
from media_operator.tenant.spec import tenant_id_of


@dataclass(frozen=True)
class Backends:
    databases: Databases
    buckets: Buckets
    store_keys: StoreKeys | RoleSessions | SharedKey
    database_breaker: Breaker = field(default_factory=lambda: Breaker("database"))
    store_breaker: Breaker = field(default_factory=lambda: Breaker("store"))
    iam_breaker: Breaker = field(default_factory=lambda: Breaker("iam"))
    sts_breaker: Breaker = field(default_factory=lambda: Breaker("sts"))

    async def retire(self, schema: str, mark: OwnerMark) -> None:
        """Retires a tenant that is gone: its keys stop working, bucket and schema are marked as retained.

        Nothing is changed that no longer has `mark`. A namesake that adopts bucket and schema meanwhile keeps them, and
        makes itself a new S3 key. Raises Unavailable.
        """
        await self.iam_breaker.call(self.store_keys.remove, tenant_id_of(schema))
        if mark.bucket:
            await self.store_breaker.call(self.buckets.retire, mark.bucket, mark)
        await self.database_breaker.call(self.databases.retire, schema, mark)
