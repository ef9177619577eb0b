"""`python -m media_workers rescan`: a real PostgreSQL, a clamd whose signatures change, and workers as processes."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from media_core import policy
from media_core.database import Database
from media_core.decoding.pool import DecodingPool
from media_core.errors import Refused, Unavailable
from media_core.items.library import Library
from media_core.jobs.kinds import JOB_KINDS
from media_core.jobs.queue import Queue
from media_core.settings import RetentionSettings
from media_core.store import FolderStore
from media_core.store.object_keys import content_key
from media_core.upkeep.sweep import sweep
from media_core.uploads.upload import Uploaded, Uploads
from media_operator.local.clamd import HOW_TO_INSTALL, EmbeddedClamd
from media_workers.drain import Drain, Work
from media_workers.scanning import rescan
from media_workers.scanning.clamd import Clamd
from media_workers.scanning.rescan import Rescan
from media_workers.scanning.scan import Scanner
from media_workers.settings import ClamdSettings, DrainSettings
from tests.integration.acting import upload
from tests.integration.servers.clamd import LIMITS, encrypted_zip, settings_for, zipped
from tests.integration.tenancy import ADMIN, ALICE, GENEROUS, TenantDatabase
from tests.ports import free_port
from tests.preloaded import WORKERS, Program

NEW_VIRUS = b"a text that only tomorrow's signatures know"


class ChangingClamd:
    """A real clamd. This process puts a number of its signatures into VERSION, as the official ones have."""

    def __init__(self, folder: Path) -> None:
        self.number = 27500
        self._folder = folder
        self._real = EmbeddedClamd(limits=LIMITS, official=None, mirror=None)
        self._front: asyncio.Server | None = None

    async def start(self) -> None:
        await self._real.start(self._folder)
        self._front = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def stop(self) -> None:
        if self._front is not None:
            self._front.close()
        await self._real.stop()

    @property
    def settings(self) -> ClamdSettings:
        assert self._front is not None
        host, port = self._front.sockets[0].getsockname()
        return ClamdSettings(host=host, port=port)

    @property
    def version(self) -> str:
        return f"ClamAV 1.4.3/{self.number}/Sun Mar  1 08:25:11 2026"

    async def learn(self, content: bytes) -> None:
        """Adds signatures. clamd is restarted, since a reload would make scans wait for half a minute."""
        await self._real.stop()
        rule = f"Test.Tomorrow:0:*:{content.hex()}"
        self._real = EmbeddedClamd(limits=LIMITS, rules=[rule], official=None, mirror=None)
        await self._real.start(self._folder)
        self.number += 1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(1 << 16)
        if first == b"nVERSION\n":
            writer.write(f"{self.version}\n".encode())
        else:
            up, down = await asyncio.open_connection(self._real.address.host, self._real.address.port)
            down.write(first)
            copying = asyncio.create_task(_copy(reader, down))
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:  # a session: each reply after its number
                    number, _, reply = (await up.readuntil(b"\0")).partition(b": ")
                    if reply.startswith(b"ClamAV "):
                        reply = f"{self.version}\0".encode()
                    writer.write(number + b": " + reply)
            copying.cancel()
            down.close()
        writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()


@pytest.fixture
async def clamd(tmp_path: Path) -> AsyncIterator[ChangingClamd]:
    if EmbeddedClamd.find() is None:
        pytest.skip(HOW_TO_INSTALL)
    changing = ChangingClamd(tmp_path)
    await changing.start()
    yield changing
    await changing.stop()


@pytest.fixture
def work(
    database: Database, library: Library, folder_store: FolderStore, decoding_pool: DecodingPool, uploads: Uploads
) -> Work:
    return Work(
        database, Queue(database, retry_base=timedelta(0)), library, folder_store, decoding_pool, uploads.policy
    )


async def scan(work: Work, settings: ClamdSettings) -> int:
    drain = Drain("scan", Scanner(settings), work, DrainSettings(linger_seconds=0))
    await drain.run()
    return drain.handled


async def rescanned(work: Work, clamd: ChangingClamd) -> int:
    return await Rescan(work.database, work.policy, Clamd(clamd.settings)).run()


async def blobs(database: Database) -> dict[str, Any]:
    async with database.transaction() as tx:
        return {row.sha256: row for row in await tx.execute("SELECT * FROM blob")}


async def open_jobs(database: Database) -> set[str]:
    async with database.transaction() as tx:
        rows = await tx.execute("SELECT dedupe_key FROM job WHERE status IN ('queued','running')")
        return {row[0] for row in rows}


async def is_readable(library: Library, item: Uploaded) -> bool:
    try:
        await library.find(ALICE, item.media_id, "read")
    except Refused:
        return False
    return True


async def test_new_signatures_have_every_older_verdict_looked_at_again(
    uploads: Uploads, work: Work, clamd: ChangingClamd
) -> None:
    """Clean files stay readable meanwhile. The one that is found infected now exists for nobody."""
    harmless, infected = await upload(uploads, b"harmless"), await upload(uploads, NEW_VIRUS, room_id="garden")
    closed = await upload(uploads, encrypted_zip(b"secret"))
    await scan(work, clamd.settings)
    assert await rescanned(work, clamd) == 0

    await clamd.learn(NEW_VIRUS)
    later = await upload(uploads, b"scanned with the new signatures already")
    await scan(work, clamd.settings)

    assert await rescanned(work, clamd) == 3
    assert await open_jobs(work.database) == {harmless.sha256, infected.sha256, closed.sha256}
    assert [await is_readable(work.library, each) for each in (harmless, infected, later)] == [True, True, True]
    await rescanned(work, clamd)
    assert len(await open_jobs(work.database)) == 3  # asked twice, queued once

    assert await scan(work, clamd.settings) == 3
    assert [await is_readable(work.library, each) for each in (harmless, infected, later)] == [True, False, True]
    with pytest.raises(Refused) as refused:
        await work.library.find(ALICE, infected.media_id, "see")
    assert refused.value.code == "not_found"
    assert await work.library.list_room(ALICE, "garden") == []
    rows = await blobs(work.database)
    assert rows[closed.sha256].scan_status == "unscannable"
    assert {row.scan_engine for row in rows.values()} == {clamd.version}
    assert await rescanned(work, clamd) == 0


async def test_a_new_upload_is_scanned_before_all_that_is_scanned_again(
    uploads: Uploads, work: Work, clamd: ChangingClamd
) -> None:
    await upload(uploads, b"old")
    await scan(work, clamd.settings)
    clamd.number += 1
    await rescanned(work, clamd)
    fresh = await upload(uploads, b"new")
    lease = await work.queue.lease("scan", worker="test", seconds=30)
    assert lease is not None
    assert lease.payload["sha256"] == fresh.sha256


async def test_the_queue_never_holds_more_than_so_many_rescans(
    uploads: Uploads, work: Work, clamd: ChangingClamd, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(7):
        await upload(uploads, b"file %d" % number)
    await scan(work, clamd.settings)
    clamd.number += 1
    monkeypatch.setattr(rescan, "BATCH", 2)
    monkeypatch.setattr(rescan, "MOST_OPEN", 3)
    monkeypatch.setattr(rescan, "POLL_SECONDS", 0.01)
    running = asyncio.create_task(rescanned(work, clamd))
    scanned, most = 0, 0
    while not running.done() or await open_jobs(work.database):
        most = max(most, len(await open_jobs(work.database)))
        scanned += await scan(work, clamd.settings)
    assert (await running, scanned) == (7, 7)
    assert most <= 3


async def test_rescans_that_fail_leave_clean_files_clean_and_are_queued_once_a_run(
    uploads: Uploads, work: Work, clamd: ChangingClamd, tmp_path: Path
) -> None:
    item = await upload(uploads, b"harmless")
    await scan(work, clamd.settings)
    clamd.number += 1
    assert await rescanned(work, clamd) == 1
    os.truncate(tmp_path / "bucket" / content_key(uploads.tenant_id, item.sha256), 3)
    assert await scan(work, clamd.settings) == JOB_KINDS["scan"].max_attempts
    assert await is_readable(work.library, item)
    assert await rescanned(work, clamd) == 1  # tomorrow


async def test_a_rescan_whose_scans_never_end_gives_up(
    uploads: Uploads, work: Work, clamd: ChangingClamd, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        await upload(uploads, b"file %d" % number)
    await scan(work, clamd.settings)
    clamd.number += 1
    monkeypatch.setattr(rescan, "MOST_OPEN", 1)
    monkeypatch.setattr(rescan, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(rescan, "STUCK_SECONDS", 0.1)
    with pytest.raises(Unavailable, match="1 rescans wait"):
        await rescanned(work, clamd)


@pytest.mark.parametrize("change", [{"scan_enabled": False}, {"suspended": True}], ids=["disabled", "suspended"])
async def test_nothing_is_scanned_again_while_nothing_is_scanned(
    uploads: Uploads, work: Work, tenant_database: TenantDatabase, clamd: ChangingClamd, change: dict[str, bool]
) -> None:
    await upload(uploads, b"harmless")
    await scan(work, clamd.settings)
    clamd.number += 1
    await tenant_database.declare(replace(GENEROUS, **change))  # type: ignore[arg-type]  # a test's options
    await asyncio.sleep(policy.FRESH_SECONDS)  # by definition: a policy may be this old
    assert await rescanned(work, clamd) == 0
    assert await open_jobs(work.database) == set()


# --- a bad signature --------------------------------------------------------------------------------------------------

ZIP = bytes.fromhex("504b0304")
"""The first bytes of each zip: a signature of these finds them all."""
FEW = RetentionSettings().found_few
AT_ONCE = 8


async def scan_several(work: Work, settings: ClamdSettings) -> int:
    drain = Drain("scan", Scanner(settings), work, DrainSettings(linger_seconds=0), at_once=AT_ONCE)
    await drain.run()
    return drain.handled


async def suspicions(database: Database) -> list[str]:
    async with database.transaction() as tx:
        return [row[0] for row in await tx.execute("SELECT signature FROM suspicion WHERE trusted_at IS NULL")]


async def readable(library: Library, items: list[Uploaded]) -> int:
    return sum([await is_readable(library, item) for item in items])


async def objects(store: FolderStore) -> int:
    return len([entry async for entry in store.list() if not entry.key.endswith("/.birth")])


async def recount(database: Database) -> tuple[int, ...]:
    """The usage, counted from the rows."""
    async with database.transaction() as tx:
        row = await tx.first(
            "SELECT coalesce(sum(size), 0)::bigint, count(*) FROM blob"
            " WHERE doomed_at IS NULL AND scan_status <> 'infected'"
        )
        return tuple(row)


async def counted(database: Database) -> tuple[int, ...]:
    async with database.transaction() as tx:
        return tuple(await tx.first("SELECT stored_bytes, objects FROM usage"))


async def some_zips(uploads: Uploads, count: int) -> list[Uploaded]:
    return [await upload(uploads, zipped(b"zip %d" % number)) for number in range(count)]


async def test_a_signature_that_finds_every_zip_deletes_none_and_stops_the_rescan(
    uploads: Uploads, work: Work, clamd: ChangingClamd, folder_store: FolderStore
) -> None:
    zips = await some_zips(uploads, 50)
    texts = [await upload(uploads, b"text %d" % number) for number in range(5)]
    await scan_several(work, clamd.settings)
    everything = await counted(work.database)
    assert await readable(work.library, zips + texts) == 55

    await clamd.learn(ZIP)
    assert await rescanned(work, clamd) == 55
    await scan_several(work, clamd.settings)
    held = 50 - await readable(work.library, zips)
    assert FEW < held <= FEW + AT_ONCE
    assert await readable(work.library, texts) == 5
    assert await suspicions(work.database) == ["Test.Tomorrow.UNOFFICIAL"]
    assert await open_jobs(work.database) == set()  # what waited was withdrawn
    assert await counted(work.database) == await recount(work.database) != everything
    await sweep(work.library)
    assert await objects(folder_store) == 55
    # Contents that are held are scanned each time. All others wait until a person or other signatures have decided.
    assert await rescanned(work, clamd) == held
    await scan_several(work, clamd.settings)
    assert await readable(work.library, zips) == 50 - held

    fresh = await upload(uploads, zipped(b"a new zip"))  # new uploads are still scanned, and held too
    text_too = await upload(uploads, b"a new text")
    await scan_several(work, clamd.settings)
    assert await readable(work.library, [fresh, text_too]) == 1
    assert await objects(folder_store) == 57

    await clamd.learn(NEW_VIRUS)  # corrected
    assert await rescanned(work, clamd) >= held + 1
    await scan_several(work, clamd.settings)
    assert await readable(work.library, [*zips, *texts, fresh, text_too]) == 57
    assert await suspicions(work.database) == []
    assert await counted(work.database) == await recount(work.database)
    assert (await counted(work.database))[1] == 57
    await rescanned(work, clamd)
    await scan_several(work, clamd.settings)
    assert {row.scan_engine for row in (await blobs(work.database)).values()} == {clamd.version}
    assert await rescanned(work, clamd) == 0


async def test_what_a_signature_found_is_removed_once_a_person_trusts_it_and_the_days_are_over(
    uploads: Uploads, work: Work, clamd: ChangingClamd, folder_store: FolderStore
) -> None:
    zips = await some_zips(uploads, 10)
    await scan_several(work, clamd.settings)
    await clamd.learn(ZIP)
    await rescanned(work, clamd)
    await scan_several(work, clamd.settings)
    held = 10 - await readable(work.library, zips)

    async def days_go_by() -> None:
        async with work.database.transaction() as tx:
            week = "interval '8 days'"
            await tx.execute(
                f"UPDATE blob SET doomed_at = doomed_at - {week}, remove_after = remove_after - {week}"  # noqa: S608
            )

    await days_go_by()
    await sweep(work.library)
    assert await objects(folder_store) == 10  # nobody has said that the signature is right
    async with work.database.transaction() as tx:
        await tx.execute("UPDATE suspicion SET trusted_at = now()")
    await sweep(work.library)
    assert await objects(folder_store) == 10 - held

    # The rescan continues, and contents that it finds now are held for the usual days.
    assert await rescanned(work, clamd) == 10 - held
    await scan_several(work, clamd.settings)
    assert await readable(work.library, zips) == 0
    await sweep(work.library)
    assert await objects(folder_store) == 10 - held
    await days_go_by()
    await sweep(work.library)
    assert await objects(folder_store) == 0
    assert await counted(work.database) == (0, 0)
    with pytest.raises(Refused) as refused:
        await upload(uploads, zipped(b"zip 0"))
    assert refused.value.code == "infected"


async def test_a_signature_that_finds_a_few_is_believed_but_what_it_finds_stays_for_days(
    uploads: Uploads, work: Work, clamd: ChangingClamd, folder_store: FolderStore
) -> None:
    zips = await some_zips(uploads, FEW)
    texts = [await upload(uploads, b"text %d" % number) for number in range(20)]
    await scan_several(work, clamd.settings)
    await clamd.learn(ZIP)
    assert await rescanned(work, clamd) == 20 + FEW
    assert await scan_several(work, clamd.settings) == 20 + FEW
    assert (await readable(work.library, zips), await readable(work.library, texts)) == (0, 20)
    assert await suspicions(work.database) == []
    await sweep(work.library)
    assert await objects(folder_store) == 20 + FEW


async def test_older_signatures_do_not_open_what_newer_ones_have_found(
    uploads: Uploads, work: Work, clamd: ChangingClamd
) -> None:
    """As where a clamd is started from an old image, or a mirror lags behind."""
    item = await upload(uploads, NEW_VIRUS)
    await scan(work, clamd.settings)
    await clamd.learn(NEW_VIRUS)
    await rescanned(work, clamd)
    await scan(work, clamd.settings)
    assert not await is_readable(work.library, item)
    await clamd.learn(b"something else")
    clamd.number -= 2
    assert await rescanned(work, clamd) == 1
    await scan(work, clamd.settings)
    assert not await is_readable(work.library, item)
    clamd.number += 1
    assert await rescanned(work, clamd) == 0  # as new as those that found it, and no other signature of our own
    clamd.number += 1
    assert await rescanned(work, clamd) == 1
    await scan(work, clamd.settings)
    assert await is_readable(work.library, item)


async def test_a_guess_of_clamds_own_closes_a_newsletter_and_removes_nothing(
    uploads: Uploads, work: Work, tmp_path: Path, folder_store: FolderStore
) -> None:
    """`Heuristics.Phishing.*` finds links whose text is another address, as newsletters have them."""
    newsletter = b"Subject: news\n\n<a href='https://track.example.net/1'>https://www.example.com</a>"
    name = "Heuristics.Phishing.Email.SpoofedDomain"
    guessing = EmbeddedClamd(
        limits=LIMITS, rules=[f"{name}:0:*:{b'track.example.net'.hex()}"], official=None, mirror=None
    )
    try:
        address = await guessing.start(tmp_path)
        item = await upload(uploads, newsletter)
        await scan(work, settings_for(address))
        (row,) = (await blobs(work.database)).values()
        assert (row.scan_status, row.scan_detail) == ("unscannable", f"{name}.UNOFFICIAL")
        with pytest.raises(Refused) as refused:
            await work.library.find(ALICE, item.media_id, "read")
        assert refused.value.code == "unscannable"
        assert await objects(folder_store) == 1

        believing = settings_for(address).model_copy(update={"heuristics": "infected"})
        await work.library.rescan(ADMIN, item.media_id)
        await scan(work, believing)
        (row,) = (await blobs(work.database)).values()
        assert row.scan_status == "infected"
    finally:
        await guessing.stop()


# --- as processes: what a Job sees ----------------------------------------------------------------------------------


class Processes:
    """Worker processes of this tenant."""

    def __init__(self, tenant: TenantDatabase, folder: Path) -> None:
        self._log = folder.with_name("worker.log")
        self.environment = {
            "PATH": os.environ["PATH"],
            "MEDIA_TENANT_ID": tenant.tenant_id,
            "MEDIA_DATABASE_URL": tenant.url,
            "MEDIA_STORE": "folder",
            "MEDIA_STORE_FOLDER": str(folder),
        }

    def start(self, kind: str, **more: str) -> Program:
        self._log.unlink(missing_ok=True)
        return Program(WORKERS, self.environment | more, self._log, kind)

    async def end(self, process: Program) -> tuple[int, str]:
        """Waits for it. Its exit status, and what it said."""
        status = await asyncio.to_thread(process.wait, 60)
        return status, self._log.read_text()

    async def run(self, kind: str, **more: str) -> tuple[int, str]:
        return await self.end(self.start(kind, **more))


@pytest.fixture
def workers(tenant_database: TenantDatabase, tmp_path: Path) -> Processes:
    return Processes(tenant_database, tmp_path / "bucket")


def at(settings: ClamdSettings) -> dict[str, str]:
    return {"MEDIA_CLAMD_HOST": settings.host, "MEDIA_CLAMD_PORT": str(settings.port)}


async def test_a_rescan_that_is_done_exits_0_and_says_how_many(
    uploads: Uploads, work: Work, clamd: ChangingClamd, workers: Processes
) -> None:
    await upload(uploads, b"harmless")
    await scan(work, clamd.settings)
    clamd.number += 1
    status, said = await workers.run("rescan", **at(clamd.settings))
    assert status == 0, said
    assert '"scans": 1' in said
    assert clamd.version in said


async def test_a_dependency_that_is_away_is_exit_75(workers: Processes, database: Database) -> None:
    port = free_port()
    status, said = await workers.run("rescan", MEDIA_CLAMD_PORT=str(port))
    assert (status, '"dependency": "clamd"' in said) == (75, True), said
    nowhere = f"postgresql+psycopg://a:b@127.0.0.1:{port}/c"
    for kind in ("scan", "sweep", "rescan"):
        status, said = await workers.run(kind, MEDIA_DATABASE_URL=nowhere)
        assert (status, '"dependency": "database"' in said) == (75, True), said


async def test_wrong_settings_are_exit_2(workers: Processes) -> None:
    assert (await workers.run("scan", MEDIA_STORE="s3"))[0] == 2
    assert (await workers.run("scna"))[0] == 2


async def test_a_worker_that_is_told_to_end_hands_its_jobs_back_and_exits_0(
    uploads: Uploads, work: Work, workers: Processes
) -> None:
    """clamd accepts connections and does not answer, so that the jobs are under way when the signal comes."""
    taken = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.set()
        await reader.read()
        writer.close()

    for number in range(10):
        await upload(uploads, b"harmless %d" % number)
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    process = workers.start("scan", **at(ClamdSettings(host=host, port=port, connect_timeout=5)))
    await asyncio.wait_for(taken.wait(), 60)
    process.send_signal(signal.SIGTERM)
    status, said = await workers.end(process)
    server.close()
    assert status == 0, said
    async with work.database.transaction() as tx:
        jobs = [tuple(row) for row in await tx.execute("SELECT status, attempts, lease_token FROM job")]
    assert jobs == [("queued", 0, None)] * 10
