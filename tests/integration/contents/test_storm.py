"""Many concurrent actors on few contents, on a real PostgreSQL.

Unlike in the walk, statements run at the same time: with locks, snapshots, and rows that appear and disappear while
others wait for them. At the end the invariants are checked, and a ledger of the answers.
"""

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import pytest

from media_core.contents import life
from media_core.contents.life import Verdict
from media_core.database import Database
from media_core.errors import Refused, Unavailable
from media_core.items.library import Library
from media_core.jobs.queue import LeaseLost, Queue, enqueue_scan
from media_core.policy import PolicyReader
from media_core.store.folder import FolderStore
from media_core.upkeep.sweep import sweep
from media_core.uploads.upload import Uploads
from tests.integration.acting import upload
from tests.integration.invariants import AT_ONCE, Left, broken, later_and_swept, left
from tests.integration.tenancy import TenantDatabase

SECONDS = 6.0
CONTENTS = 3
"""Contents at a time. New ones replace them twice a second, since infected ones are refused for ever."""


class Storm:
    def __init__(self, databases: list[Database], store: FolderStore, tenant_id: str, uploads: Uploads) -> None:
        self.ends = time.monotonic() + SECONDS
        self.acknowledged: dict[str, str] = {}
        """Items, with the content of each."""
        self.infected: set[str] = set()
        self.did: dict[str, int] = {}
        self._salt = secrets.token_bytes(8)
        self._places = [
            (
                Uploads(
                    tenant_id=tenant_id,
                    database=database,
                    store=store,
                    examiner=uploads.examiner,
                    policy=PolicyReader(database),
                ),
                Library(tenant_id=tenant_id, database=database, store=store, policy=PolicyReader(database)),
            )
            for database in databases
        ]

    def data(self) -> bytes:
        number = int(time.monotonic() * 2) * CONTENTS + random.randrange(CONTENTS)
        return self._salt + number.to_bytes(8, "big") * 20

    def somewhere(self) -> tuple[Uploads, Library]:
        return random.choice(self._places)

    async def uploading(self) -> None:
        uploads, _ = self.somewhere()
        key = secrets.token_hex(8) if random.random() < 0.3 else None
        digest_room = {"room_id": "garden"} if random.random() < 0.3 else {}
        task = asyncio.ensure_future(upload(uploads, self.data(), idempotency_key=key, **digest_room))
        if random.random() < 0.1:  # its client goes away
            await asyncio.sleep(random.random() * 0.02)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Refused, Unavailable):
                done = await task
                self.acknowledged[done.media_id] = done.sha256
            return
        done = await task
        self.acknowledged[done.media_id] = done.sha256

    async def deleting(self) -> None:
        if not self.acknowledged:
            await asyncio.sleep(0.01)
            return
        media_id = random.choice(list(self.acknowledged))
        del self.acknowledged[media_id]
        _, library = self.somewhere()
        await library.contents.delete_item(media_id)

    async def scanning(self) -> None:
        _, library = self.somewhere()
        queue = Queue(library.database)
        leases = await queue.lease_many("scan", worker="w", seconds=30, most=random.randint(1, 8))
        if not leases:
            await asyncio.sleep(0.005)
        verdicts = []
        for lease in leases:
            found = random.random()
            if found < 0.15:
                await queue.release(lease)
            elif found < 0.25:
                await queue.fail(lease, "broken", "it failed", retry=False)
            else:
                status = "infected" if found < 0.4 else random.choice(("clean", "clean", "unscannable"))
                detail = f"Found.{random.randrange(2)}" if status == "infected" else None
                verdicts.append(Verdict(lease.job_id, lease.token, lease.payload["sha256"], status, detail, "today"))
        random.shuffle(verdicts)
        await library.contents.record_verdicts(verdicts, recall=timedelta(milliseconds=50), few=2)

    async def rescanning(self) -> None:
        _, library = self.somewhere()
        async with library.database.transaction() as tx:
            some = [row[0] for row in await tx.execute("SELECT sha256 FROM blob ORDER BY random() LIMIT 2")]
            for sha256 in sorted(some):
                await enqueue_scan(tx, sha256, priority=-2)
        await asyncio.sleep(0.005)

    async def sweeping(self) -> None:
        _, library = self.somewhere()
        swept = await sweep(library, AT_ONCE)
        assert not swept.mismatch

    async def until_it_is_over(self, what: Callable[[], Awaitable[None]]) -> None:
        while time.monotonic() < self.ends:
            try:
                await what()
            except LeaseLost:
                pass
            except Refused as error:
                if error.code != "infected":
                    raise
            except Unavailable as error:
                if not error.detail.startswith("the same content is being removed"):
                    raise
            self.did[what.__name__] = self.did.get(what.__name__, 0) + 1


@pytest.fixture
async def databases(tenant_database: TenantDatabase, database: Database) -> AsyncIterator[list[Database]]:
    """Databases as of several processes. `database` comes first, so that the policy exists."""
    others = [Database(tenant_database.url, pool_size=8) for _ in range(3)]
    yield [database, *others]
    for other in others:
        await other.aclose()


async def test_uploads_deletions_verdicts_and_sweeps_of_few_contents_at_once_keep_every_rule(
    databases: list[Database],
    tenant_database: TenantDatabase,
    folder_store: FolderStore,
    uploads: Uploads,
    library: Library,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Reservations expire while their uploads are under way: correctness must not depend on their lifetime.
    monkeypatch.setattr(life, "RESERVATION_LIFETIME", timedelta(milliseconds=30))
    storm = Storm(databases, folder_store, tenant_database.tenant_id, uploads)
    many = [storm.uploading] * 12 + [storm.deleting] * 5 + [storm.scanning] * 4 + [storm.rescanning] * 2
    deadlocks = await _deadlocks(databases[0])
    # The bucket gets its birth while empty, as a new tenant's does; later it may hold only contents without rows.
    await storm.sweeping()
    async with asyncio.TaskGroup() as group:
        for what in (*many, storm.sweeping, storm.sweeping):
            group.create_task(storm.until_it_is_over(what))
    print(storm.did, len(storm.acknowledged))
    assert min(storm.did.values()) > 1, storm.did
    assert await _deadlocks(databases[0]) == deadlocks
    assert await broken(databases[0], folder_store, tenant_database.tenant_id) == []
    await _still_there(storm, databases[0])

    owner = Database(tenant_database.owner_url, pool_size=1)
    await later_and_swept(library, owner, tenant_database.schema)
    await owner.aclose()
    assert await broken(databases[0], folder_store, tenant_database.tenant_id) == []
    assert await left(databases[0], folder_store, tenant_database.tenant_id) == Left(0, 0, 0, 0, 0)
    await _still_there(storm, databases[0])


async def _deadlocks(database: Database) -> int:
    async with database.transaction() as tx:
        await tx.execute("SELECT pg_stat_force_next_flush()")
        return int(await tx.value("SELECT sum(deadlocks) FROM pg_stat_database"))


async def _still_there(storm: Storm, database: Database) -> None:
    async with database.transaction() as tx:
        there = {row[0] for row in await tx.execute("SELECT media_id FROM media")}
    assert storm.acknowledged.keys() <= there
