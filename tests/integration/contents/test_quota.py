"""No set of concurrent requests gets a tenant over its quota."""

import asyncio
import secrets
from collections import Counter
from dataclasses import replace

import pytest

from media_core.contents import quota
from media_core.contents.life import Again, Contents, Facts, NewItem, Reservation
from media_core.contents.quota import Usage
from media_core.database import Database
from media_core.errors import Refused
from media_core.ids import new_media_id
from media_core.jobs.queue import enqueue
from media_core.policy import PolicyReader
from media_core.store.folder import FolderStore
from media_core.uploads.claims import Declared
from media_core.uploads.upload import Uploads
from tests.integration.acting import upload, usage
from tests.integration.tenancy import ALICE, GENEROUS, TenantDatabase


async def allow(tenant: TenantDatabase, max_bytes: int) -> None:
    await tenant.declare(replace(GENEROUS, max_bytes=max_bytes))


@pytest.fixture
def contents(uploads: Uploads) -> Contents:
    return uploads.contents


SHA256 = "5" * 64


async def commit(contents: Contents, reservation: Reservation, size: int) -> None:
    """Commits an upload of `size` bytes, without storing any."""
    item = NewItem(new_media_id(), "a.bin", None, "alice", False, None, None, "")
    await contents.commit(reservation, SHA256, Facts(size, "application/octet-stream"), item)


async def test_a_reservation_grows_settles_and_gives_back_the_rest(
    database: Database, tenant_database: TenantDatabase, contents: Contents
) -> None:
    await allow(tenant_database, 1000)
    reservation = contents.reservation()
    await reservation.grow_to(300)
    await reservation.grow_to(800, SHA256)
    await reservation.grow_to(500)
    assert await usage(database) == Usage(stored=0, reserved=800, maximum=1000)
    await commit(contents, reservation, 600)
    await reservation.release()
    assert await usage(database) == Usage(stored=600, reserved=0, maximum=1000)


async def test_what_does_not_fit_is_refused_with_the_numbers_that_a_client_needs(
    tenant_database: TenantDatabase, contents: Contents
) -> None:
    await allow(tenant_database, 1000)
    await contents.reservation().grow_to(800)
    with pytest.raises(Refused) as refused:
        await contents.reservation().grow_to(201)
    assert refused.value.code == "quota_exceeded"
    assert refused.value.facts == {"max_storage_mb": 0, "used": 0, "reserved": 800, "limit": 1000}
    await contents.reservation().grow_to(200)


def test_what_is_reserved_is_told_only_where_something_is() -> None:
    full = Usage(stored=900, reserved=0, maximum=1000)
    assert quota.exceeded(full, 200).detail.startswith("200 bytes do not fit: this tenant stores 900 of 1,000 bytes. ")
    told = quota.exceeded(replace(full, reserved=50), 200).detail
    assert "stores 900 of 1,000 bytes, and uploads under way have reserved 50 more. Delete" in told


async def expire(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.execute("UPDATE reservation SET expires_at = now() - interval '1 second'")


async def test_what_a_killed_process_reserved_is_given_back_when_someone_needs_it(
    database: Database, tenant_database: TenantDatabase, contents: Contents
) -> None:
    await allow(tenant_database, 1000)
    await contents.reservation().grow_to(900)
    await expire(database)
    await contents.reservation().grow_to(500)
    assert await usage(database) == Usage(stored=0, reserved=500, maximum=1000)


async def test_an_upload_whose_reservation_is_over_begins_anew_and_is_not_told_that_the_quota_is_full(
    database: Database, tenant_database: TenantDatabase, contents: Contents
) -> None:
    await allow(tenant_database, 1000)
    late = contents.reservation()
    await late.grow_to(900, SHA256)
    await expire(database)
    assert (await database.call("SELECT content_release_expired() AS n", ()))[0].n == 1
    with pytest.raises(Again):
        await commit(contents, late, 900)
    assert await usage(database) == Usage(stored=0, reserved=0, maximum=1000)
    await late.grow_to(901, SHA256)
    await commit(contents, late, 900)
    assert await usage(database) == Usage(stored=900, reserved=0, maximum=1000)


async def test_a_limit_lowered_below_what_is_stored_stops_growth_only(
    database: Database, tenant_database: TenantDatabase, contents: Contents
) -> None:
    await allow(tenant_database, 1000)
    reservation = contents.reservation()
    await reservation.grow_to(900, SHA256)
    await commit(contents, reservation, 900)
    await allow(tenant_database, 500)
    assert (await usage(database)).stored == 900
    with pytest.raises(Refused):
        await contents.reservation().grow_to(1)


async def test_100_parallel_uploads_against_a_nearly_full_quota_end_with_0_bytes_over(
    database: Database, tenant_database: TenantDatabase, uploads: Uploads, folder_store: FolderStore
) -> None:
    size, room_for = 10_000, 7
    await allow(tenant_database, size * room_for + size // 2)
    uploads.policy = PolicyReader(database)

    async def upload() -> str:
        try:
            async with await uploads.start(announced=size + 200) as one:
                await one.write(secrets.token_bytes(size))
                return (await one.commit(ALICE, Declared("x.bin"))).sha256
        except Refused as refused:
            return refused.code

    ends = await asyncio.gather(*(upload() for _ in range(100)))
    kept = {end for end in ends if end != "quota_exceeded"}
    assert len(kept) == room_for
    assert await usage(database) == Usage(size * room_for, 0, size * room_for + size // 2)
    objects = {entry.key.rpartition("/")[2] async for entry in folder_store.list()}
    assert objects == kept  # what was refused is gone
    async with database.transaction() as tx:
        assert await tx.value("SELECT count(*) FROM blob") == room_for
        assert await tx.value("SELECT count(*) FROM reservation") == 0


@pytest.mark.parametrize("same", [True, False], ids=["of the same bytes", "of different bytes"])
async def test_100_parallel_uploads_never_make_more_files_than_the_tenant_may_have(
    database: Database, tenant_database: TenantDatabase, uploads: Uploads, folder_store: FolderStore, same: bool
) -> None:
    await tenant_database.declare(replace(GENEROUS, max_items=7))
    uploads.policy = PolicyReader(database)
    bytes_of_all = secrets.token_bytes(1000)

    async def one() -> str:
        try:
            return (await upload(uploads, bytes_of_all if same else secrets.token_bytes(1000))).sha256
        except Refused as refused:
            return f"{refused.code} {refused.facts}"

    ends = Counter(await asyncio.gather(*(one() for _ in range(100))))
    assert ends.pop("file_quota_exceeded {'max_files': 7, 'used': 7, 'limit': 7}") == 93
    assert sum(ends.values()) == 7
    assert {entry.key.rpartition("/")[2] async for entry in folder_store.list()} == set(ends)  # no other was kept
    async with database.transaction() as tx:
        assert await tx.value("SELECT count(*) FROM media") == 7
        assert await tx.value("SELECT count(*) FROM reservation") == 0
        assert await tx.value("SELECT reserved_bytes FROM usage") == 0


async def test_the_last_file_that_a_tenant_may_have_still_gets_its_thumbnail(
    tenant_database: TenantDatabase, contents: Contents, uploads: Uploads
) -> None:
    await tenant_database.declare(replace(GENEROUS, max_items=1))
    stored = await upload(uploads, b"a film, of which a worker makes a thumbnail")
    await contents.reservation().grow_to(1000, stored.sha256)
    with pytest.raises(Refused) as refused:
        await contents.reservation().grow_to(1000, SHA256)
    assert refused.value.code == "file_quota_exceeded"


async def test_a_tenant_that_is_full_in_both_ways_is_told_of_the_one_that_stops_the_upload(
    tenant_database: TenantDatabase, contents: Contents, uploads: Uploads
) -> None:
    stored = b"the same bytes again need no room, but a file"
    await upload(uploads, stored)
    await tenant_database.declare(replace(GENEROUS, max_bytes=len(stored), max_items=1))
    for data, code in ((stored, "file_quota_exceeded"), (b"others", "quota_exceeded")):
        with pytest.raises(Refused) as refused:
            await upload(uploads, data)
        assert refused.value.code == code


async def test_transcription_is_charged_once_per_job_and_never_beyond_the_day(database: Database) -> None:
    async def job() -> str:
        async with database.transaction() as tx:
            return await enqueue(tx, "transcribe", {"sha256": "0" * 64})

    async def charge(job_id: str, seconds: int) -> None:
        async with database.transaction() as tx:
            await quota.charge_transcription(tx, job_id, seconds, 100)

    first = await job()
    await charge(first, 60)
    await charge(first, 60)  # the same job, tried again
    with pytest.raises(Refused) as refused:
        await charge(await job(), 41)
    assert refused.value.code == "transcription_limit_exceeded"
    await charge(await job(), 40)
    with pytest.raises(Refused):
        await charge(await job(), 1)


async def test_what_was_charged_before_midnight_is_given_back_to_the_day_before(database: Database) -> None:
    async with database.transaction() as tx:
        late = await enqueue(tx, "transcribe", {"sha256": "0" * 64})
        await quota.charge_transcription(tx, late, 100, 100)
        await tx.execute("UPDATE transcription_day SET day = day - 1")
        await tx.execute("UPDATE job SET started_at = now() - interval '1 day'")
    async with database.transaction() as tx:
        await quota.charge_transcription(tx, await enqueue(tx, "transcribe", {"sha256": "0" * 64}), 100, 100)
        await quota.settle_transcription(tx, late, 10)
    days = await database.call("SELECT seconds FROM transcription_day ORDER BY day", ())
    assert [day.seconds for day in days] == [10, 100]


async def test_parallel_transcriptions_never_pass_the_day_limit(database: Database) -> None:
    async def attempt() -> int:
        async with database.transaction() as tx:
            job_id = await enqueue(tx, "transcribe", {"sha256": "0" * 64})
        try:
            async with database.transaction() as tx:
                await quota.charge_transcription(tx, job_id, 10, 55)
        except Refused:
            return 0
        return 10

    assert sum(await asyncio.gather(*(attempt() for _ in range(20)))) == 50
