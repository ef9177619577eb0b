"""All that lies outside of the cluster, each with the breaker that guards it."""

from __future__ import annotations

from dataclasses import dataclass, field

from media_operator.backends.breaker import Breaker
from media_operator.backends.buckets import Buckets
from media_operator.backends.databases import Databases, tenant_id_of
from media_operator.backends.store_keys import SharedKey, StoreKeys
from media_operator.tenant.ownership import OwnerMark


@dataclass(frozen=True)
class Backends:
    databases: Databases
    buckets: Buckets
    store_keys: StoreKeys | SharedKey
    database_breaker: Breaker = field(default_factory=lambda: Breaker("database"))
    store_breaker: Breaker = field(default_factory=lambda: Breaker("store"))
    iam_breaker: Breaker = field(default_factory=lambda: Breaker("iam"))

    async def retire(self, schema: str, mark: OwnerMark) -> None:
        """Of a tenant that is gone: bucket and schema say that they are kept for their owner's namesake; its keys stop
        working.

        Only over this very mark: a namesake that adopts them meanwhile keeps them, and makes itself another S3 key.
        Raises Unavailable.
        """
        await self.iam_breaker.call(lambda: self.store_keys.remove(tenant_id_of(schema)))
        if mark.bucket:
            await self.store_breaker.call(lambda: self.buckets.retire(mark.bucket, mark))
        await self.database_breaker.call(lambda: self.databases.retire(schema, mark))
