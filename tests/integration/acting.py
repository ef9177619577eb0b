"""What integration tests do to a tenant's core, and what they look at afterwards."""

from datetime import timedelta

from sqlalchemy import text

from media_core import quota
from media_core.database import Database
from media_core.library import Library
from media_core.queue import Queue
from media_core.quota import Usage
from media_core.store.folder import FolderStore
from media_core.uploads import Uploaded, Uploads
from tests.integration.tenancy import ALICE


async def usage(database: Database) -> Usage:
    async with database.transaction() as tx:
        return await quota.read(tx)


async def upload(
    uploads: Uploads, data: bytes, *, chunk: int = 64 * 1024, digest: str | None = None, **options: object
) -> Uploaded:
    async with await uploads.start(announced=len(data) + 300, digest=digest) as one:
        for start in range(0, len(data), chunk):
            await one.write(data[start : start + chunk])
        return await one.commit(**{"caller": ALICE, "filename": "a.bin", **options})  # type: ignore[arg-type]  # a test's options


async def left_behind(database: Database, store: FolderStore) -> tuple[int, int, int, int, int]:
    """Rows in blob and media, reservations, objects, staged objects."""
    async with database.transaction() as tx:
        counts = (
            await tx.execute(
                text(
                    "SELECT (SELECT count(*) FROM blob), (SELECT count(*) FROM media),"
                    " (SELECT count(*) FROM reservation)"
                )
            )
        ).one()
    objects = [entry async for entry in store.list()]
    staged = await store.sweep_staging(older_than=timedelta(0))
    return (*counts, len(objects), staged)


async def judge(library: Library, database: Database, uploaded: Uploaded, status: str) -> None:
    """Gives the verdict through the queue, as a worker does."""
    queue = Queue(database)
    while lease := await queue.lease("scan", worker="test", seconds=30):
        if lease.payload["sha256"] == uploaded.sha256:
            await library.record_verdict(lease, status=status, detail=None, engine="test")
            return
    raise AssertionError("no scan job for this content")
