"""Rules of `contents.life` that the walk over whole statements does not test: full quotas, concurrent statements."""

import asyncio
import secrets
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from media_core.contents.life import Again, Contents, Facts, NewItem, Verdict
from media_core.contents.quota import Usage
from media_core.database import Database
from media_core.errors import Refused
from media_core.items.library import Library
from media_core.jobs.queue import Lease, Queue, enqueue_scan
from media_core.policy import PolicyReader
from media_core.store.folder import FolderStore
from media_core.store.object_keys import content_key
from media_core.upkeep import canary
from media_core.upkeep.sweep import sweep
from media_core.uploads.upload import Uploaded, Uploads
from tests.integration.acting import judge, minutes_pass, upload, usage, verdict
from tests.integration.invariants import broken
from tests.integration.tenancy import ALICE, GENEROUS, TenantDatabase

TEN = replace(GENEROUS, max_bytes=10)
NOBODY = NewItem("med-nobody", "a", None, "nobody", False, None, None, "{}")


async def test_a_reservation_that_expired_and_grows_in_a_full_tenant_is_counted_once(
    contents: Contents, database: Database, tenant_database: TenantDatabase
) -> None:
    await tenant_database.declare(TEN)
    async with contents.reservation() as slow:
        await slow.grow_to(8)
        await minutes_pass(database)
        await slow.grow_to(10)
        assert await usage(database) == Usage(0, 10, 10)
        with pytest.raises(Refused):
            await slow.grow_to(11)
        assert await usage(database) == Usage(0, 10, 10)
        assert await broken(database, contents.store, contents.tenant_id) == []  # type: ignore[arg-type]
    assert await usage(database) == Usage(0, 0, 10)


async def test_what_expired_makes_room_for_whoever_finds_the_tenant_full(
    contents: Contents, database: Database, tenant_database: TenantDatabase
) -> None:
    await tenant_database.declare(TEN)
    dead, alive = contents.reservation(), contents.reservation()
    await dead.grow_to(10)
    with pytest.raises(Refused):
        await alive.grow_to(1)
    await minutes_pass(database)
    await alive.grow_to(1)
    assert await usage(database) == Usage(0, 1, 10)


async def test_two_statements_of_one_upload_that_meet_count_its_bytes_once(
    contents: Contents, database: Database, tenant_database: TenantDatabase
) -> None:
    """The first one's answer was lost, and it is still under way when the upload asks again."""
    reserve = b"SELECT content_reserve('one upload', NULL, 100, interval '10 minutes', false)"
    url = tenant_database.url.replace("+psycopg", "")
    async with (
        await psycopg.AsyncConnection.connect(url) as first,
        await psycopg.AsyncConnection.connect(url) as second,
    ):
        await first.execute(reserve)
        meeting = asyncio.create_task(second.execute(reserve))
        await _waits(database, second)
        await first.commit()
        await meeting
        await second.commit()
    assert await usage(database) == Usage(0, 100, GENEROUS.max_bytes)
    assert await broken(database, contents.store, contents.tenant_id) == []  # type: ignore[arg-type]


async def test_bytes_that_are_put_under_a_reservation_that_does_not_name_them_are_not_committed(
    contents: Contents, database: Database
) -> None:
    """That reservation has not prevented their removal, so they may have been removed."""
    async with contents.reservation() as reservation:
        await reservation.grow_to(10)
        with pytest.raises(Again):
            await contents.commit(reservation, "a" * 64, Facts(10, "text/plain"), NOBODY)
    assert await usage(database) == Usage(0, 0, GENEROUS.max_bytes)


async def test_a_reservation_that_was_given_back_while_its_upload_slept_names_its_content_when_it_comes_again(
    contents: Contents, database: Database
) -> None:
    async with contents.reservation() as reservation:
        await reservation.begin("a" * 64, 10, NOBODY)
        await minutes_pass(database)
        await contents.database.call("SELECT content_release_expired()", ())
        await reservation.grow_to(20)
        async with database.transaction() as tx:
            row = await tx.first("SELECT sha256, bytes FROM reservation")
        assert tuple(row) == ("a" * 64, 20)


async def test_a_commit_that_waits_for_the_deletion_of_the_last_item_brings_the_content_back(
    uploads: Uploads, library: Library, database: Database, tenant_database: TenantDatabase, folder_store: FolderStore
) -> None:
    first = await upload(uploads, b"x" * 100)
    url = tenant_database.url.replace("+psycopg", "")
    async with await psycopg.AsyncConnection.connect(url) as deleting:
        await deleting.execute("SELECT content_delete_item(%s, NULL)", (first.media_id,))
        # It finds the content's row unmarked, and waits for its lock.
        again = asyncio.create_task(upload(uploads, b"x" * 100))
        await _somebody_waits(database)
        await deleting.commit()
        second = await again
    assert not await library.contents.remove(first.sha256)
    assert (await library.find(ALICE, second.media_id, "see")).size == 100
    assert await usage(database) == Usage(100, 0, GENEROUS.max_bytes)
    assert await broken(database, folder_store, tenant_database.tenant_id) == []


async def test_a_claim_that_waits_for_a_revival_removes_nothing(
    uploads: Uploads,
    library: Library,
    database: Database,
    tenant_database: TenantDatabase,
    folder_store: FolderStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = await upload(uploads, b"x" * 100)

    async def later(sha256: str) -> None:
        return

    with monkeypatch.context() as patch:
        patch.setattr(library.contents, "remove_soon", later)
        await library.delete(ALICE, first.media_id)
    url = tenant_database.url.replace("+psycopg", "")
    async with await psycopg.AsyncConnection.connect(url) as reviving:
        await reviving.execute("SELECT FROM blob WHERE sha256 = %s FOR UPDATE", (first.sha256,))
        removing = asyncio.create_task(library.contents.remove(first.sha256))
        await _somebody_waits(database)
        await reviving.execute(
            "UPDATE blob SET doomed_at = NULL, remove_after = NULL WHERE sha256 = %s", (first.sha256,)
        )
        await reviving.commit()
    assert await removing is False
    assert await folder_store.head(content_key(uploads.tenant_id, first.sha256)) is not None


# -- verdicts ---------------------------------------------------------------------------------------------------------


async def scanned(library: Library, database: Database, sha256: str, status: str, detail: str | None = None) -> None:
    async with database.transaction() as tx:
        await enqueue_scan(tx, sha256, priority=-2)
    while lease := await Queue(database).lease("scan", worker="test", seconds=30):
        if lease.payload["sha256"] == sha256:
            await verdict(library, lease, status, detail)
            return
    raise AssertionError("no scan of this content")


async def clean(uploads: Uploads, library: Library, database: Database, data: bytes) -> Uploaded:
    uploaded = await upload(uploads, data)
    await judge(library, database, uploaded, "clean")
    return uploaded


async def test_one_signature_that_finds_more_than_a_few_is_suspicious_and_what_waits_for_a_rescan_does_not_go_on(
    uploads: Uploads, library: Library, database: Database, folder_store: FolderStore, tenant_database: TenantDatabase
) -> None:
    some = [await clean(uploads, library, database, b"zip %d" % number) for number in range(8)]
    async with database.transaction() as tx:
        for one in some:
            await enqueue_scan(tx, one.sha256, priority=-2)
    leases = await Queue(database).lease_many("scan", worker="test", seconds=30, most=6)
    held = await library.contents.record_verdicts([_found(lease) for lease in leases])
    assert len(held) == 6
    async with database.transaction() as tx:
        suspicious = await tx.execute("SELECT signature, trusted_at FROM suspicion")
        waiting = await tx.value("SELECT count(*) FROM job WHERE status = 'queued'")
    assert [tuple(row) for row in suspicious] == [("Bad.Rule", None)]
    assert waiting == 0
    assert (await library.totals()).usage.items == 2
    assert await broken(database, folder_store, tenant_database.tenant_id) == []
    async with database.transaction() as tx:
        await tx.execute("UPDATE blob SET doomed_at = doomed_at - interval '9 days',"
                              " remove_after = remove_after - interval '9 days'")  # fmt: skip
    assert (await sweep(library)).marked == 0  # until a person decides
    for lease in leases:
        await scanned(library, database, lease.payload["sha256"], "clean")
    assert (await library.totals()).usage.items == 8
    async with database.transaction() as tx:
        assert (await tx.first("SELECT FROM suspicion")) is None
    assert await broken(database, folder_store, tenant_database.tenant_id) == []


def _found(lease: Lease) -> Verdict:
    return Verdict(lease.job_id, lease.token, lease.payload["sha256"], "infected", "Bad.Rule", "today")


async def test_a_canary_is_never_held_however_suspicious_its_signature(
    uploads: Uploads, library: Library, database: Database, folder_store: FolderStore
) -> None:
    async with database.transaction() as tx:
        await tx.execute("INSERT INTO suspicion (signature) VALUES ('Eicar-Test-Signature')")
    birds = Uploads(
        tenant_id=uploads.tenant_id,
        database=database,
        store=folder_store,
        examiner=uploads.examiner,
        policy=PolicyReader(database),
        canary=True,
    )
    await canary.send(birds, library)
    async with database.transaction() as tx:
        sha256 = str(await tx.value("SELECT sha256 FROM canary"))
    lease = await Queue(database).lease("scan", worker="test", seconds=30)
    assert lease is not None
    await verdict(library, lease, "infected", "Eicar-Test-Signature")
    await canary.close(library, sha256)
    async with database.transaction() as tx:
        assert (await tx.first("SELECT FROM blob")) is None
        assert await tx.value("SELECT verdict FROM canary") == "infected"
    assert [entry async for entry in folder_store.list()] == []
    assert await usage(database) == Usage(0, 0, GENEROUS.max_bytes)


async def test_two_batches_of_verdicts_that_meet_and_find_two_signatures_suspicious_do_not_wait_for_each_other_for_ever(
    uploads: Uploads, library: Library, database: Database, folder_store: FolderStore, tenant_database: TenantDatabase
) -> None:
    some = [await clean(uploads, library, database, b"file %d" % number) for number in range(40)]
    async with database.transaction() as tx:
        for one in sorted(some, key=lambda one: one.sha256):
            await enqueue_scan(tx, one.sha256, priority=-2)
    queue = Queue(database)
    batches = [await queue.lease_many("scan", worker="test", seconds=30, most=10) for _ in range(3)]
    await asyncio.gather(
        *(
            library.contents.record_verdicts(
                [
                    Verdict(lease.job_id, lease.token, lease.payload["sha256"], "infected", f"Rule.{number}", "today")
                    for lease in batch
                ],
                few=1,
            )
            for number, batch in enumerate(batches)
        )
    )
    assert (await library.totals()).usage.items == 10
    assert await broken(database, folder_store, tenant_database.tenant_id) == []


async def test_an_undone_upload_leaves_its_idempotency_key_as_good_as_new_and_no_other(
    uploads: Uploads, library: Library, database: Database
) -> None:
    keys = [secrets.token_hex(4) for _ in range(2)]
    undone, other = [await upload(uploads, b"x", idempotency_key=key) for key in keys]
    await library.delete(ALICE, undone.media_id, forget_key=keys[0])
    assert (await upload(uploads, b"x", idempotency_key=keys[0])).media_id != undone.media_id
    assert (await upload(uploads, b"x", idempotency_key=keys[1])).media_id == other.media_id


async def test_a_verdict_of_a_content_that_is_being_removed_stays_with_it_and_nothing_comes_back(
    uploads: Uploads, library: Library, database: Database, folder_store: FolderStore, tenant_database: TenantDatabase
) -> None:
    uploaded = await clean(uploads, library, database, b"it is found, and its days are over")
    await scanned(library, database, uploaded.sha256, "infected", "Found")
    async with database.transaction() as tx:
        await tx.execute("UPDATE blob SET removing_until = now() + interval '1 minute'")
    await scanned(library, database, uploaded.sha256, "clean")
    async with database.transaction() as tx:
        assert await tx.value("SELECT scan_status FROM blob") == "infected"
    assert (await library.totals()).usage.items == 0
    assert await broken(database, folder_store, tenant_database.tenant_id) == []


# -- waiting ----------------------------------------------------------------------------------------------------------


async def _waits(database: Database, connection: psycopg.AsyncConnection[Any]) -> None:
    """Waits until this connection waits for a lock."""
    await _until(database, f"pid = {connection.info.backend_pid}")


async def _somebody_waits(database: Database) -> None:
    await _until(database, "usename = current_user")


async def _until(database: Database, who: str) -> None:
    async with asyncio.timeout(60):
        while True:
            rows = await database.call(
                f"SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND {who}",  # type: ignore[arg-type]  # noqa: S608 (ours)
                (),
            )
            if rows:
                return
            await asyncio.sleep(0.005)


async def test_recall_days_of_none_remove_at_once(
    uploads: Uploads, library: Library, database: Database, folder_store: FolderStore
) -> None:
    uploaded = await clean(uploads, library, database, b"found, with a recall of no days")
    async with database.transaction() as tx:
        await enqueue_scan(tx, uploaded.sha256)
    lease = await Queue(database).lease("scan", worker="test", seconds=30)
    assert lease is not None
    await library.contents.record_verdicts([_found(lease)], recall=timedelta(0))
    assert [entry async for entry in folder_store.list()] == []
