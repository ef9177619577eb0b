"""Actions of integration tests on a tenant's core, and checks afterwards."""

from datetime import timedelta
from typing import Literal

from media_core.auth.tokens import Claims
from media_core.contents.life import Verdict
from media_core.contents.quota import Usage
from media_core.database import Database
from media_core.items.library import Library
from media_core.jobs.queue import Lease, LeaseLost, Queue
from media_core.store.folder import FolderStore
from media_core.uploads.claims import Declared
from media_core.uploads.upload import Uploaded, Uploads
from tests.integration.tenancy import ALICE


async def usage(database: Database) -> Usage:
    (row,) = await database.call("SELECT stored_bytes, reserved_bytes, max_bytes FROM usage", ())
    return Usage(*row)


async def upload(
    uploads: Uploads,
    data: bytes,
    *,
    caller: Claims = ALICE,
    chunk: int = 64 * 1024,
    digest: str | None = None,
    filename: str = "a.bin",
    tenant_scope: bool = False,
    room_id: str | None = None,
    idempotency_key: str | None = None,
    operation: Literal["upload", "transcribe"] = "upload",
) -> Uploaded:
    declared = Declared(filename, tenant_scope=tenant_scope, room_id=room_id)
    async with await uploads.start(announced=len(data) + 300, digest=digest) as one:
        for start in range(0, len(data), chunk):
            await one.write(data[start : start + chunk])
        return await one.commit(caller, declared, idempotency_key=idempotency_key, operation=operation)


async def left_behind(database: Database, store: FolderStore) -> tuple[int, int, int, int, int]:
    """Numbers of rows in blob and media, reservations, objects (without the bucket's birth), and staged objects."""
    async with database.transaction() as tx:
        counts = await tx.first(
            "SELECT (SELECT count(*) FROM blob) AS blobs, (SELECT count(*) FROM media) AS media,"
            " (SELECT count(*) FROM reservation) AS reservations"
        )
    objects = [entry async for entry in store.list() if not entry.key.endswith("/.birth")]
    staged = await store.sweep_staging(older_than=timedelta(0))
    return (*counts, len(objects), staged)


async def verdict(library: Library, lease: Lease, status: str, detail: str | None = None, engine: str = "test") -> None:
    """Writes a verdict, as a scan worker does after clamd's answer. Raises LeaseLost."""
    one = Verdict(lease.job_id, lease.token, lease.payload["sha256"], status, detail, engine)
    if not await library.contents.record_verdicts([one]):
        raise LeaseLost(lease.job_id)


async def judge(library: Library, database: Database, uploaded: Uploaded, status: str) -> None:
    """Gives the verdict through the queue, as a worker does."""
    queue = Queue(database)
    while lease := await queue.lease("scan", worker="test", seconds=30):
        if lease.payload["sha256"] == uploaded.sha256:
            await verdict(library, lease, status)
            return
    raise AssertionError("no scan job for this content")


async def minutes_pass(database: Database) -> None:
    """Makes claims, reservations and leases expire."""
    await _pass(database, _MINUTES)


async def days_pass(database: Database) -> None:
    """Lets more than a week pass: objects that were kept for some days may be removed."""
    await _pass(database, (*_MINUTES, *_DAYS))


_MINUTES = (
    "UPDATE blob SET removing_until = now() - interval '1 second' WHERE removing_until IS NOT NULL",
    "UPDATE reservation SET expires_at = now() - interval '1 second'",
    "UPDATE job SET lease_until = now() - interval '1 second' WHERE status = 'running'",
)
_DAYS = (
    "UPDATE blob SET doomed_at = doomed_at - interval '8 days', remove_after = remove_after - interval '8 days'",
    "UPDATE orphan SET first_seen = first_seen - interval '8 days'",
)


async def _pass(database: Database, statements: tuple[str, ...]) -> None:
    async with database.transaction() as tx:
        for statement in statements:
            await tx.execute(statement)
