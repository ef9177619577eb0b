"""The sweep: it removes nothing only because a row is missing."""

import hashlib
import os
import secrets
import tracemalloc
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from media_core.contents.quota import Usage
from media_core.database import Database
from media_core.errors import Unavailable
from media_core.items.library import Library
from media_core.jobs.queue import Queue, enqueue, enqueue_scan
from media_core.policy import PolicyReader
from media_core.settings import RetentionSettings
from media_core.store.base import ObjectInfo
from media_core.store.folder import FolderStore
from media_core.store.object_keys import content_key, thumbnail_key
from media_core.upkeep import births
from media_core.upkeep.sweep import BATCH, Swept, sweep
from media_core.uploads.upload import Uploads
from media_operator.local.postgres import EmbeddedPostgres
from tests.integration.acting import days_pass, judge, minutes_pass, upload, usage
from tests.integration.invariants import broken
from tests.integration.servers.api import new_tenant
from tests.integration.tenancy import ALICE, GENEROUS, TenantDatabase

STRICT = RetentionSettings(orphans_few=0, orphan_share=0.02)
"""Settings with which the share decides, however few orphans there are."""


class Died(Exception):
    """Stands for a process that was killed at this point."""


def hash_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def put_without_a_row(store: FolderStore, tenant_id: str, data: bytes) -> str:
    """An object without a row, as left by an upload that died before its commit."""
    sha256 = hash_of(data)
    await store.put(content_key(tenant_id, sha256), data)
    return sha256


async def noted(database: Database) -> set[str]:
    async with database.transaction() as tx:
        return {row[0] for row in await tx.execute("SELECT sha256 FROM orphan")}


async def contents_of(store: FolderStore) -> set[str]:
    return {entry.key.rsplit("/", 1)[-1] async for entry in store.list() if not entry.key.endswith("/.birth")}


@pytest.fixture
async def known(library: Library) -> Swept:
    """A tenant whose bucket has its schema's mark, as after the first sweep."""
    return await sweep(library)


@pytest.mark.usefixtures("known")
async def test_an_object_without_a_row_is_noted_when_it_is_seen_and_removed_days_later(
    uploads: Uploads, library: Library, database: Database, folder_store: FolderStore
) -> None:
    kept = await upload(uploads, b"x" * 100)
    orphan = await put_without_a_row(folder_store, uploads.tenant_id, b"put by a process that died before its commit")
    await folder_store.put(thumbnail_key(uploads.tenant_id, orphan), b"its thumbnail")
    for _ in range(3):
        swept = await sweep(library)
        assert (swept.orphans_seen, swept.orphans, swept.orphans_kept) == (1, 0, False)
        assert await noted(database) == {orphan}
    await days_pass(database)
    swept = await sweep(library)
    assert (swept.orphans_seen, swept.orphans) == (1, 1)
    assert await contents_of(folder_store) == {kept.sha256}
    assert await noted(database) == set()
    async with database.transaction() as tx:
        assert await tx.value("SELECT count(*) FROM blob") == 1


@pytest.mark.usefixtures("known")
async def test_what_others_have_put_among_the_objects_is_neither_removed_nor_in_the_way(
    uploads: Uploads, library: Library, database: Database, tmp_path: Path
) -> None:
    kept = await upload(uploads, b"x" * 100)
    folder = tmp_path / "bucket" / "tenant" / uploads.tenant_id
    names = {b"notes.txt", b"with a space", b"no utf-8 \xff", b"pipe"}
    for within in (folder, folder / ".staging", folder / ".thumbnails"):
        within.mkdir(exist_ok=True)
        for name in names - {b"pipe"}:
            (within / os.fsdecode(name)).write_bytes(b"of somebody else")
        os.mkfifo(within / "pipe")
    (folder / ".staging" / "folder").mkdir()
    os.utime(folder / ".staging" / "folder", (0, 0))
    for _ in range(2):
        swept = await sweep(library)
        assert (swept.orphans_seen, swept.orphans, swept.lost) == (0, 0, 0)
        await days_pass(database)
    for within in (folder, folder / ".thumbnails"):
        assert {os.fsencode(path.name) for path in within.iterdir()} >= names
    assert (folder / kept.sha256).is_file()


@pytest.mark.usefixtures("known")
async def test_an_orphan_whose_bytes_are_uploaded_is_one_no_more_and_its_note_is_forgotten(
    uploads: Uploads, library: Library, database: Database, folder_store: FolderStore
) -> None:
    orphan = await put_without_a_row(folder_store, uploads.tenant_id, b"the same bytes")
    await sweep(library)
    uploaded = await upload(uploads, b"the same bytes")
    assert uploaded.sha256 == orphan
    await days_pass(database)
    assert (await sweep(library)).orphans_seen == 0
    assert await noted(database) == set()
    assert await contents_of(folder_store) == {orphan}


@pytest.mark.usefixtures("known")
async def test_the_days_of_an_orphan_begin_anew_when_it_was_none_meanwhile(
    uploads: Uploads, library: Library, database: Database, folder_store: FolderStore
) -> None:
    orphan = await put_without_a_row(folder_store, uploads.tenant_id, b"comes and goes")
    await sweep(library)
    await folder_store.delete(content_key(uploads.tenant_id, orphan))
    await days_pass(database)
    await sweep(library)
    assert await noted(database) == set()
    await put_without_a_row(folder_store, uploads.tenant_id, b"comes and goes")
    assert (await sweep(library)).orphans == 0


@pytest.mark.usefixtures("known")
async def test_orphans_that_are_more_than_a_share_stay_and_the_sweep_says_so(
    uploads: Uploads, library: Library, database: Database, folder_store: FolderStore
) -> None:
    for number in range(49):
        await upload(uploads, b"kept %d" % number)
    one = await put_without_a_row(folder_store, uploads.tenant_id, b"one of fifty")
    await sweep(library, STRICT)
    await days_pass(database)
    two = await put_without_a_row(folder_store, uploads.tenant_id, b"and another")
    swept = await sweep(library, STRICT)
    assert (swept.orphans_seen, swept.orphans, swept.orphans_kept) == (2, 0, True)
    async with database.transaction() as tx:
        said = await tx.first("SELECT listed, orphans, orphan_bytes, orphans_kept FROM swept")
    assert tuple(said) == (51, 2, len(b"one of fifty" + b"and another"), True)
    assert {one, two} <= await contents_of(folder_store)
    await folder_store.delete(content_key(uploads.tenant_id, two))
    swept = await sweep(library, STRICT)
    assert (swept.orphans_seen, swept.orphans, swept.orphans_kept) == (1, 1, False)
    async with database.transaction() as tx:
        assert await tx.value("SELECT orphans_kept FROM swept") is False


class ListedOnly:
    """A store that only has `list`, with many contents."""

    def __init__(self, tenant_id: str, many: int) -> None:
        self.many = many
        self._contents = content_key(tenant_id, "")
        self._modified = datetime.now(UTC)

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        if prefix == self._contents:
            for number in range(self.many):
                yield ObjectInfo(f"{prefix}{number:064x}", 10, self._modified)


@pytest.mark.usefixtures("known")
async def test_the_memory_of_a_sweep_does_not_grow_with_the_orphans_and_what_vanished_is_forgotten(
    library: Library, database: Database, folder_store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = 50_000
    bucket = ListedOnly(library.tenant_id, many)
    monkeypatch.setattr(folder_store, "list", bucket.list)
    tracemalloc.start()
    try:
        swept = await sweep(library)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (swept.orphans_seen, swept.orphans, swept.orphans_kept) == (many, 0, True)
    assert peak < 1024 * 1024  # 20 bytes an orphan
    (said,) = await database.call("SELECT listed, orphans, orphan_bytes, orphans_kept FROM swept", ())
    assert said == (many, many, many * 10, True)

    (before,) = await database.call("SELECT max(first_seen) AS first_seen FROM orphan", ())
    bucket.many = 3
    assert (await sweep(library)).orphans_seen == 3
    assert await noted(database) == {f"{number:064x}" for number in range(3)}
    (after,) = await database.call("SELECT max(first_seen) AS first_seen FROM orphan", ())
    assert after.first_seen <= before.first_seen


@pytest.mark.usefixtures("known")
async def test_what_a_person_released_goes_beside_what_is_kept_and_the_report_says_what_is_left(
    uploads: Uploads, library: Library, database: Database, folder_store: FolderStore
) -> None:
    await put_without_a_row(folder_store, uploads.tenant_id, b"released")
    await sweep(library, STRICT)
    await database.call("UPDATE swept SET orphans_released_at = now()", ())
    kept = await put_without_a_row(folder_store, uploads.tenant_id, b"seen later")
    swept = await sweep(library, STRICT)
    assert (swept.orphans_seen, swept.orphans, swept.orphans_kept) == (2, 1, True)
    assert await contents_of(folder_store) == await noted(database) == {kept}
    (said,) = await database.call(
        "SELECT listed, orphans, orphan_bytes, orphans_kept,"
        " orphans_since = (SELECT first_seen FROM orphan) AS since FROM swept",
        (),
    )
    assert said == (2, 1, len(b"seen later"), True, True)


@pytest.mark.usefixtures("known")
async def test_a_sweep_that_ended_before_it_had_listed_all_forgets_nothing(
    uploads: Uploads,
    library: Library,
    database: Database,
    folder_store: FolderStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    orphan = await put_without_a_row(folder_store, uploads.tenant_id, b"seen before")
    await sweep(library)

    others = ListedOnly(uploads.tenant_id, BATCH)

    async def dies(prefix: str = "") -> AsyncIterator[ObjectInfo]:
        async for entry in others.list(prefix):
            yield entry
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(folder_store, "list", dies)
        with pytest.raises(Died):
            await sweep(library)
    assert len(await noted(database) - {orphan}) == BATCH
    assert orphan in await noted(database)
    await days_pass(database)
    swept = await sweep(library)
    assert (swept.orphans_seen, swept.orphans) == (1, 1)
    assert await noted(database) == set()


@pytest.mark.usefixtures("known")
async def test_an_orphan_that_is_being_uploaded_is_not_removed(
    uploads: Uploads, library: Library, database: Database, folder_store: FolderStore
) -> None:
    data = b"put, and not yet committed"
    orphan = await put_without_a_row(folder_store, uploads.tenant_id, data)
    await sweep(library)
    await days_pass(database)
    async with uploads.contents.reservation() as reservation:
        await reservation.grow_to(len(data), orphan)
        assert (await sweep(library)).orphans == 0
        assert orphan in await contents_of(folder_store)
    assert (await sweep(library)).orphans == 1


@pytest.mark.usefixtures("known")
async def test_bytes_that_come_while_their_orphan_is_removed_are_whole_and_counted(
    uploads: Uploads,
    library: Library,
    database: Database,
    folder_store: FolderStore,
    tenant_database: TenantDatabase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sweep dies between claiming an orphan and removing it. The same bytes are uploaded before the next."""
    data = b"an orphan that is wanted after all"
    orphan = await put_without_a_row(folder_store, uploads.tenant_id, data)
    await sweep(library)
    await days_pass(database)

    async def dies(*keys: str) -> None:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(folder_store, "delete", dies)
        with pytest.raises(Died):
            await sweep(library)
    await minutes_pass(database)
    uploaded = await upload(uploads, data)
    assert uploaded.sha256 == orphan
    assert uploaded.size == len(data)
    await judge(library, database, uploaded, "clean")
    item = await library.find(ALICE, uploaded.media_id, "read")
    assert (item.size, item.mime_type, item.scan_status) == (len(data), "text/plain", "clean")
    key = content_key(uploads.tenant_id, orphan)
    assert b"".join([chunk async for chunk in folder_store.stream(key)]) == data
    assert await usage(database) == Usage(len(data), 0, GENEROUS.max_bytes)
    assert await broken(database, folder_store, tenant_database.tenant_id) == []
    await sweep(library)
    assert await folder_store.head(key) is not None
    await library.delete(ALICE, uploaded.media_id)
    assert await usage(database) == Usage(0, 0, GENEROUS.max_bytes)
    assert await contents_of(folder_store) == set()


@pytest.mark.usefixtures("known")
async def test_what_lies_under_infected_content_after_its_removal_is_an_orphan_too(
    uploads: Uploads, library: Library, database: Database, folder_store: FolderStore
) -> None:
    uploaded = await upload(uploads, b"infected, and sent twice")
    await judge(library, database, uploaded, "infected")
    assert await contents_of(folder_store) == set()
    await put_without_a_row(folder_store, uploads.tenant_id, b"infected, and sent twice")
    assert (await sweep(library)).orphans_seen == 1
    await days_pass(database)
    assert (await sweep(library)).orphans == 1
    assert await contents_of(folder_store) == set()
    async with database.transaction() as tx:
        row = await tx.first("SELECT scan_status, doomed_at, removing_until FROM blob")
    assert tuple(row) == ("infected", None, None)


# -- the server's clock ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("known")
async def test_what_was_held_or_queued_while_the_servers_clock_ran_a_day_ahead_goes_on_after_the_next_sweep(
    library: Library, database: Database
) -> None:
    queue = Queue(database)
    async with database.transaction() as tx:
        queued = {await enqueue(tx, "scan", {"sha256": digit * 64}) for digit in "12"}
    assert await queue.lease("scan", worker="killed", seconds=30)
    for statement in (
        "UPDATE job SET lease_until = lease_until + interval '1 day'",
        "UPDATE job SET run_after = run_after + interval '1 day' WHERE status = 'queued'",
        "INSERT INTO webhook (webhook_id, host, position, claim, claimed_until, retry_at)"
        " VALUES ('hook', 'example.com', 1, 'killed', now() + interval '1 day', now() + interval '1 day')",
        "INSERT INTO webhook_delivery (webhook_id, position, media_id, due_at)"
        " VALUES ('hook', 1, 'med-1', now() + interval '1 day'), ('hook', 2, 'med-2', now() + interval '1 hour')",
        "INSERT INTO upload (upload_id, owner, declared, filename, tenant_scope, claim, claimed_until, expires_at)"
        " VALUES ('upl-1', 'alice', '', 'a', false, 'killed', now() + interval '1 day', now() + interval '1 day')",
    ):
        await database.call(statement, ())
    assert not await queue.lease_many("scan", worker="next", seconds=30, most=2)
    await sweep(library)
    taken = [await queue.lease("scan", worker="next", seconds=30) for _ in range(2)]
    assert {lease and lease.job_id for lease in taken} == queued
    due = await database.call(
        "SELECT claimed_until <= now() AND retry_at <= now() AS due FROM webhook"
        " UNION ALL SELECT due_at <= now() FROM webhook_delivery WHERE position = 1"
        " UNION ALL SELECT due_at > now() FROM webhook_delivery WHERE position = 2"
        " UNION ALL SELECT claimed_until <= now() FROM upload",
        (),
    )
    assert [row.due for row in due] == [True] * 4


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("ahead", [timedelta(days=8), -timedelta(days=8)], ids=["server ahead", "server behind"])
async def test_what_is_kept_for_days_stays_while_the_servers_clock_and_the_sweeps_differ(
    uploads: Uploads,
    library: Library,
    database: Database,
    folder_store: FolderStore,
    monkeypatch: pytest.MonkeyPatch,
    ahead: timedelta,
) -> None:
    """For the server eight days have passed since a rescan found something, an orphan was noted and a job ended."""
    held = await upload(uploads, b"found by a wrong signature, perhaps")
    await judge(library, database, held, "clean")
    async with database.transaction() as tx:
        await enqueue_scan(tx, held.sha256)
    await judge(library, database, held, "infected")
    orphan = await put_without_a_row(folder_store, uploads.tenant_id, b"of a schema that was restored, perhaps")
    await sweep(library)
    async with database.transaction() as tx:
        await tx.execute("UPDATE job SET finished_at = finished_at - interval '100 days'")
    await days_pass(database)
    (jobs,) = await database.call("SELECT count(*) AS n FROM job", ())
    with monkeypatch.context() as patch:
        patch.setattr("media_core.upkeep.sweep._now", lambda: datetime.now(UTC) - ahead)
        with pytest.raises(Unavailable, match="clock"):
            await sweep(library)
    assert await contents_of(folder_store) == {held.sha256, orphan}
    assert await database.call("SELECT count(*) AS n FROM job", ()) == [jobs]
    await sweep(library)
    assert await contents_of(folder_store) == set()
    assert await database.call("SELECT count(*) AS n FROM job", ()) == [(0,)]


# -- schema and bucket -------------------------------------------------------------------------------------------------


@pytest.fixture
async def lost(postgres: EmbeddedPostgres, library: Library, folder_store: FolderStore) -> AsyncIterator[Library]:
    """The tenant's bucket with a new and empty schema, as after the loss of the database's volume."""
    with new_tenant(postgres) as another:
        await another.declare(GENEROUS)
        database = Database(another.url)
        yield Library(tenant_id=library.tenant_id, database=database, store=folder_store, policy=PolicyReader(database))
        await database.aclose()


@pytest.mark.parametrize("marked", [True, False])
async def test_a_lost_schema_costs_no_object(
    uploads: Uploads, library: Library, lost: Library, folder_store: FolderStore, marked: bool
) -> None:
    """Five files, and then a new, empty schema: none is noted or removed, however much time passes."""
    uploaded = {(await upload(uploads, secrets.token_bytes(100))).sha256 for _ in range(5)}
    if marked:
        await sweep(library)
    for _ in range(3):
        swept = await sweep(lost, RetentionSettings(orphan_days=0))
        assert swept == Swept(mismatch="another" if marked else "unmarked")
        assert await noted(lost.database) == set()
        await days_pass(lost.database)
    assert await contents_of(folder_store) == uploaded


@pytest.mark.parametrize("theirs", ["notes.txt", "A" * 64, "f" * 62, "f" * 65])
async def test_what_somebody_else_keeps_in_a_bucket_neither_fits_a_schema_nor_counts_among_its_contents(
    uploads: Uploads, library: Library, folder_store: FolderStore, theirs: str
) -> None:
    for number in range(3):
        await folder_store.put(content_key(uploads.tenant_id, f"{number}{theirs}"), b"of somebody else")
    assert (await sweep(library)).mismatch == "unmarked"
    await upload(uploads, b"one of ours")
    assert (await sweep(library)).mismatch == ""


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(
    ("what_happened", "mismatch"),
    [
        ("UPDATE birth SET epoch = epoch - 1", "older"),
        ("CREATE TABLE birth_again (LIKE birth); INSERT INTO birth_again SELECT * FROM birth;"
         " DROP TABLE birth; ALTER TABLE birth_again RENAME TO birth", "restored"),
        ("UPDATE birth SET birth_id = 'another'", "another"),
    ],
    ids=["set back", "restored from a dump", "another"],
)  # fmt: skip
async def test_what_an_older_schema_does_not_know_stays(
    uploads: Uploads,
    library: Library,
    folder_store: FolderStore,
    tenant_database: TenantDatabase,
    what_happened: str,
    mismatch: str,
) -> None:
    uploaded = await upload(uploads, b"uploaded after the dump was made")
    await library.contents.delete_item(uploaded.media_id)
    after_it = await put_without_a_row(folder_store, uploads.tenant_id, b"another that the dump does not know")
    async with tenant_database.as_owner() as tx:
        for statement in what_happened.split(";"):
            await tx.execute(statement)
        await tx.execute(f"GRANT SELECT, UPDATE ON birth TO {tenant_database.schema}")
    for _ in range(2):
        assert await sweep(library, RetentionSettings(orphan_days=0)) == Swept(mismatch=mismatch)
    assert after_it in await contents_of(folder_store)
    assert await noted(library.database) == set()


async def test_a_bucket_that_is_empty_or_mostly_known_gets_the_mark_of_its_schema(
    uploads: Uploads, library: Library, database: Database, folder_store: FolderStore
) -> None:
    await upload(uploads, b"one")
    await upload(uploads, b"two")
    await put_without_a_row(folder_store, uploads.tenant_id, b"three")
    assert (await sweep(library)).mismatch == ""
    mark = await births.of_bucket(folder_store, uploads.tenant_id)
    assert mark == await births.of_schema(database)
