"""Tenants for tests: a schema, a generous policy, and callers as verified tokens describe them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from media_core import policy
from media_core.auth.tokens import ALL, Claims
from media_core.database import Database, Transaction
from media_core.policy import Policy

MIB = 1024 * 1024
FIXTURES = Path(__file__).parent.parent / "fixtures"

GENEROUS = Policy(max_bytes=2048 * MIB, max_upload_bytes=1536 * MIB, max_transcription_seconds_per_day=36000)


@dataclass(frozen=True)
class TenantDatabase:
    """A migrated schema, the role that works in it (`url`), and the one that owns its tables (`owner_url`)."""

    tenant_id: str
    schema: str
    url: str
    owner_url: str

    @asynccontextmanager
    async def as_owner(self) -> AsyncIterator[Transaction]:
        """A transaction of the tables' owner, who may do what the tenant's role may not."""
        database = Database(self.owner_url, pool_size=1)
        try:
            async with database.transaction() as tx:
                await tx.execute(f"SET LOCAL search_path = {self.schema}")
                yield tx
        finally:
            await database.aclose()

    async def declare(self, wanted: Policy) -> None:
        """Applies a policy, as the operator does."""
        async with self.as_owner() as tx:
            await policy.apply(tx, wanted)


_NEVER = datetime(2100, 1, 1, tzinfo=UTC)
_USER = frozenset({"media:read", "media:write", "transcribe"})


def person(subject: str, *rooms: str) -> Claims:
    return Claims(subject, _USER, frozenset(rooms), _NEVER)


ALICE = person("alice", "garden")
BOB = person("bob", "garden")
STRANGER = person("stranger", "cellar")
ADMIN = Claims("root", frozenset({"admin"}), ALL, _NEVER)
