"""Scan jobs from the upload to the row: PostgreSQL, an object store and clamd, all real."""

import asyncio
import os
from collections.abc import AsyncGenerator, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from media_core.contents.life import Verdict
from media_core.database import Database
from media_core.decoding.pool import DecodingPool
from media_core.errors import Refused, Unfinished
from media_core.items.library import Library
from media_core.jobs.kinds import JOB_KINDS
from media_core.jobs.queue import Lease, LeaseLost, Queue
from media_core.store import FolderStore
from media_core.store.object_keys import content_key, thumbnail_key
from media_core.upkeep.canary import EICAR
from media_core.upkeep.sweep import sweep
from media_core.uploads.upload import Uploaded, Uploads
from media_operator.local.clamd import ClamdAddress, EmbeddedClamd
from media_workers import drain as drain_loop
from media_workers.drain import Drain, Work
from media_workers.scanning.clamd import SMALL_BYTES
from media_workers.scanning.scan import JOBS_AT_ONCE, Scanner
from media_workers.settings import ClamdSettings, DrainSettings
from tests.fixtures.media import photo
from tests.integration.acting import upload, usage
from tests.integration.servers.clamd import LIMITS, MARKER, encrypted_zip, nested, settings_for, zipped
from tests.integration.tenancy import ADMIN, ALICE, BOB
from tests.ports import free_port

TEXT = b"An ordinary text."


@pytest.fixture
def work(
    database: Database, library: Library, folder_store: FolderStore, decoding_pool: DecodingPool, uploads: Uploads
) -> Work:
    queue = Queue(database, retry_base=timedelta(0))
    return Work(database, queue, library, folder_store, decoding_pool, uploads.policy)


@pytest.fixture
def scanner(clamd: ClamdAddress) -> Scanner:
    return Scanner(settings_for(clamd))


@pytest.fixture
def nowhere() -> ClamdSettings:
    """A clamd that is down."""
    return ClamdSettings(port=free_port())


async def drain(scanner: Scanner, work: Work, tries: int = 1000) -> int:
    """Empties the queue. Returns how many attempts that took."""
    one = Drain("scan", scanner, work, DrainSettings(linger_seconds=0, max_jobs=tries))
    await one.run()
    return one.handled


async def blob(database: Database, sha256: str) -> Any:
    async with database.transaction() as tx:
        return await tx.first("SELECT * FROM blob WHERE sha256 = %(sha256)s", {"sha256": sha256})


async def last_job(database: Database) -> Any:
    async with database.transaction() as tx:
        return await tx.first("SELECT * FROM job ORDER BY created_at DESC, job_id DESC LIMIT 1")


async def leased(work: Work) -> Lease:
    lease = await work.queue.lease("scan", worker="test", seconds=30)
    assert lease is not None
    return lease


async def readable(library: Library, item: Uploaded) -> bool:
    try:
        await library.find(ALICE, item.media_id, "read")
    except Refused:
        return False
    return True


# --- verdicts -----------------------------------------------------------------------------------------------------


async def test_clean_content_becomes_readable_and_says_by_whom_it_was_scanned(
    uploads: Uploads, work: Work, scanner: Scanner
) -> None:
    item = await upload(uploads, TEXT)
    assert not await readable(work.library, item)
    await drain(scanner, work)
    assert await readable(work.library, item)
    row = await blob(work.database, item.sha256)
    assert (row.scan_status, row.scan_detail, row.scan_engine[:7]) == ("clean", None, "ClamAV ")
    assert row.scanned_at is not None


@pytest.mark.parametrize("content", [EICAR, nested(EICAR, 3), photo(320, 240) + EICAR], ids=["plain", "zips", "photo"])
async def test_infected_content_is_gone_from_everywhere_and_refused_when_it_comes_again(
    uploads: Uploads, work: Work, scanner: Scanner, folder_store: FolderStore, content: bytes
) -> None:
    items = [await upload(uploads, content, room_id="garden"), await upload(uploads, content, caller=BOB)]
    await drain(scanner, work)
    for caller, item in ((ALICE, items[0]), (BOB, items[1]), (ADMIN, items[0])):
        for purpose in ("see", "read"):
            with pytest.raises(Refused, match="nothing here"):
                await work.library.find(caller, item.media_id, purpose)
    assert await work.library.list_room(ALICE, "garden") == []
    sha256 = items[0].sha256
    assert await folder_store.head(content_key(uploads.tenant_id, sha256)) is None
    assert await folder_store.head(thumbnail_key(uploads.tenant_id, sha256)) is None
    assert (await usage(work.database)).stored == 0
    assert (await blob(work.database, sha256)).scan_detail == "Eicar-Test-Signature.UNOFFICIAL"
    with pytest.raises(Refused) as again:
        await upload(uploads, content)
    assert again.value.code == "infected"


async def test_content_that_clamd_can_not_look_into_is_unscannable_and_stays_closed(
    uploads: Uploads, work: Work, scanner: Scanner
) -> None:
    item = await upload(uploads, encrypted_zip(TEXT))
    await drain(scanner, work)
    with pytest.raises(Refused) as closed:
        await work.library.find(ALICE, item.media_id, "read")
    assert closed.value.code == "unscannable"
    assert (await blob(work.database, item.sha256)).scan_detail == "Heuristics.Encrypted.Zip"


async def test_many_scans_by_two_workers_each_get_their_own_verdict(
    uploads: Uploads, work: Work, clamd: ClamdAddress
) -> None:
    expected = {}
    for number in range(12):
        content, status = [(TEXT, "clean"), (MARKER, "infected"), (encrypted_zip(TEXT), "unscannable")][number % 3]
        expected[(await upload(uploads, content + b" %d" % number)).sha256] = status
    handled = await asyncio.gather(*(drain(Scanner(settings_for(clamd)), work) for _ in range(2)))
    assert sum(handled) == len(expected)
    assert {sha256: (await blob(work.database, sha256)).scan_status for sha256 in expected} == expected


async def test_many_large_files_keep_neither_a_small_one_nor_another_worker_waiting(
    uploads: Uploads, work: Work, clamd: ClamdAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(clamd)
    large = [await upload(uploads, b"%d" % number * 500_000) for number in range(20)]
    stream, never, streaming = work.store.stream, asyncio.Event(), list[str]()

    async def slow(key: str, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes]:
        streaming.append(key)
        await never.wait()
        async for chunk in stream(key, start, length):
            yield chunk

    monkeypatch.setattr(work.store, "stream", slow)
    worker = Drain("scan", Scanner(settings), work, DrainSettings(poll_seconds=0.02), at_once=16)
    working = asyncio.create_task(worker.run())
    async with asyncio.timeout(60):
        while len(streaming) < settings.at_once - 1:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        small = [await upload(uploads, TEXT + b"%d" % number) for number in range(20)]
        while not all([await readable(work.library, item) for item in small]):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    async with work.database.transaction() as tx:
        held = await tx.value("SELECT count(*) FROM job WHERE status = 'running'")
        assert held <= 2 * settings.at_once
        await tx.execute("UPDATE job SET run_after = now() WHERE status = 'queued'")
    assert await work.queue.lease("scan", worker="another", seconds=30) is not None
    worker.stop.set()
    await working
    assert [await readable(work.library, item) for item in large] == [False] * 20


async def test_new_signatures_find_at_the_rescan_what_the_old_ones_passed(
    uploads: Uploads, work: Work, scanner: Scanner, tmp_path: Path
) -> None:
    item = await upload(uploads, zipped(MARKER))
    old = EmbeddedClamd(limits=LIMITS, official=None, mirror=None)
    try:
        await drain(Scanner(settings_for(await old.start(tmp_path))), work)
    finally:
        await old.stop()
    assert await readable(work.library, item)
    await work.library.rescan(ADMIN, item.media_id)
    await drain(scanner, work)
    assert not await readable(work.library, item)
    assert (await blob(work.database, item.sha256)).scan_status == "infected"


# --- no verdict -------------------------------------------------------------------------------------------------


async def test_without_clamd_content_stays_closed_and_is_scanned_once_clamd_is_back(
    uploads: Uploads, work: Work, scanner: Scanner, nowhere: ClamdSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain_loop, "AWAY_SECONDS", 0.0)
    item = await upload(uploads, TEXT)
    tries = 2 * JOB_KINDS["scan"].max_attempts
    assert await drain(Scanner(nowhere), work, tries) == tries
    assert not await readable(work.library, item)
    assert (await blob(work.database, item.sha256)).scan_status == "pending"
    job = await last_job(work.database)
    assert (job.status, job.attempts, job.error_code) == ("queued", 0, "waiting")
    assert job.error_detail == "clamd: Connection refused"

    await drain(scanner, work)
    assert await readable(work.library, item)
    job = await last_job(work.database)
    assert (job.status, job.attempts, job.error_code) == ("completed", 1, None)


async def test_a_scan_that_fails_by_itself_ends_as_failed_and_the_sweep_has_it_tried_again(
    uploads: Uploads, work: Work, scanner: Scanner, folder_store: FolderStore, tmp_path: Path
) -> None:
    item = await upload(uploads, TEXT)
    file = tmp_path / "bucket" / content_key(uploads.tenant_id, item.sha256)
    os.truncate(file, 5)
    assert await drain(scanner, work) == JOB_KINDS["scan"].max_attempts
    assert not await readable(work.library, item)
    assert (await blob(work.database, item.sha256)).scan_status == "error"
    job = await last_job(work.database)
    assert (job.status, job.error_code) == ("failed", "unavailable")
    assert "5 bytes" in job.error_detail

    file.write_bytes(TEXT)
    async with work.database.transaction() as tx:
        past = "now() - interval '1 hour'"
        await tx.execute(f"UPDATE blob SET created_at = {past}, scanned_at = {past}")  # noqa: S608 (constants)
    assert (await sweep(work.library)).scans == 1
    await drain(scanner, work)
    assert await readable(work.library, item)


async def test_an_object_cut_short_in_the_store_is_not_clean(
    uploads: Uploads, work: Work, scanner: Scanner, folder_store: FolderStore, tmp_path: Path
) -> None:
    item = await upload(uploads, TEXT)
    os.truncate(tmp_path / "bucket" / content_key(uploads.tenant_id, item.sha256), 5)
    with pytest.raises(Unfinished, match="5 bytes"):
        await scanner(await leased(work), work)
    assert (await blob(work.database, item.sha256)).scan_status == "pending"


@pytest.mark.parametrize("size", [1000, SMALL_BYTES + 1])
async def test_bytes_of_another_object_get_no_verdict_and_the_same_bytes_may_be_stored_again(
    uploads: Uploads, work: Work, scanner: Scanner, folder_store: FolderStore, size: int
) -> None:
    """A store that mixes its objects up, or a disk that changes bytes: as many bytes, but not those of the row."""
    data = MARKER.ljust(size)
    item = await upload(uploads, data[::-1])
    await folder_store.put(content_key(work.library.tenant_id, item.sha256), data)
    await drain(scanner, work, tries=1)
    assert not await readable(work.library, item)
    job = await last_job(work.database)
    assert (job.status, job.error_code) == ("queued", "file_lost")
    await upload(uploads, data[::-1])
    await drain(scanner, work)
    assert await readable(work.library, item)


async def test_an_object_missing_under_its_row_is_not_clean(
    uploads: Uploads, work: Work, scanner: Scanner, folder_store: FolderStore
) -> None:
    item = await upload(uploads, TEXT)
    await folder_store.delete(content_key(uploads.tenant_id, item.sha256))
    with pytest.raises(Unfinished, match="missing"):
        await scanner(await leased(work), work)
    assert (await blob(work.database, item.sha256)).scan_status == "pending"


async def test_a_worker_that_lost_its_lease_writes_no_verdict(uploads: Uploads, work: Work, scanner: Scanner) -> None:
    item = await upload(uploads, TEXT)
    lost = await leased(work)
    async with work.database.transaction() as tx:
        await tx.execute("UPDATE job SET lease_until = now() - interval '1 second'")
    await leased(work)
    with pytest.raises(LeaseLost):
        await scanner(lost, work)
    assert (await blob(work.database, item.sha256)).scan_status == "pending"


# --- nothing left to scan -----------------------------------------------------------------------------------------


async def test_content_deleted_before_its_scan_is_no_failure(uploads: Uploads, work: Work, scanner: Scanner) -> None:
    item = await upload(uploads, TEXT)
    await work.library.delete(ALICE, item.media_id)
    await drain(scanner, work)
    assert (await last_job(work.database)).status == "cancelled"
    assert await blob(work.database, item.sha256) is None


async def test_content_deleted_while_its_scan_begins_is_no_failure(
    uploads: Uploads, work: Work, scanner: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = await upload(uploads, TEXT)
    read = work.store.read

    async def deleted_first(key: str, start: int, length: int) -> bytes:
        await work.library.delete(ALICE, item.media_id)
        return await read(key, start, length)

    monkeypatch.setattr(work.store, "read", deleted_first)
    await drain(scanner, work)
    assert (await last_job(work.database)).status == "completed"


async def test_infected_content_is_not_scanned_again(uploads: Uploads, work: Work, scanner: Scanner) -> None:
    """Its row stays, its object is gone. A job left over from before must not fail on that, or revive the content."""
    item = await upload(uploads, EICAR)
    await drain(scanner, work)
    async with work.database.transaction() as tx:
        await tx.execute("UPDATE job SET status = 'queued', run_after = now(), finished_at = NULL")
    await drain(scanner, work)
    assert (await last_job(work.database)).status == "completed"
    assert (await blob(work.database, item.sha256)).scan_status == "infected"


# --- being told to end ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["before", "while", "after"])
async def test_a_worker_that_is_told_to_end_around_the_moment_it_writes_loses_nothing_and_ends(
    uploads: Uploads, work: Work, scanner: Scanner, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """It waits for verdicts that are being written. Other jobs are handed back without their verdict."""
    items = [await upload(uploads, TEXT + b"%d" % number) for number in range(5)]
    worker = Drain("scan", scanner, work, DrainSettings(linger_seconds=60), at_once=JOBS_AT_ONCE)
    record = work.library.contents.record_verdicts

    async def told_to_end(verdicts: Iterable[Verdict], **options: Any) -> set[str]:
        if moment == "before":
            worker.stop.set()
            await asyncio.sleep(0)  # the signal is handled
        writing = asyncio.ensure_future(record(verdicts, **options))
        if moment == "while":
            await asyncio.sleep(0)
            worker.stop.set()
        held = await writing
        if moment == "after":
            worker.stop.set()
        return held

    monkeypatch.setattr(work.library.contents, "record_verdicts", told_to_end)
    async with asyncio.timeout(60):
        await worker.run()
    async with work.database.transaction() as tx:
        left = [tuple(row) for row in await tx.execute("SELECT status, lease_token FROM job")]
    assert set(left) <= {("completed", None), ("queued", None)}
    assert ("completed", None) in left
    monkeypatch.undo()
    await drain(scanner, work)
    assert all([await readable(work.library, item) for item in items])
