"""One upload from the first byte to the row: what is stored, what is not, and what a failure leaves."""

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import replace

import pytest

from media_core.contents.quota import Usage
from media_core.database import Database
from media_core.decoding import DecodingFailed
from media_core.decoding.pool import DecodingPool
from media_core.errors import Refused, Unavailable
from media_core.items.library import Library
from media_core.jobs.queue import Queue
from media_core.policy import Policy, PolicyReader
from media_core.store.folder import FolderStore
from media_core.store.object_keys import content_key, thumbnail_key
from media_core.uploads.capacity import Capacity
from media_core.uploads.claims import Declared
from media_core.uploads.upload import BUFFER_BYTES, Uploaded, Uploads
from tests.fixtures.media import film, photo, png_bomb
from tests.fixtures.sources import Held
from tests.integration.acting import judge, left_behind, upload, usage
from tests.integration.tenancy import ALICE, BOB, GENEROUS, MIB, STRANGER, TenantDatabase


@pytest.mark.parametrize("size", [1, 10_000, BUFFER_BYTES, BUFFER_BYTES + 1, 3 * BUFFER_BYTES + 12345])
async def test_what_was_sent_is_what_is_stored_under_its_hash(
    uploads: Uploads, database: Database, folder_store: FolderStore, size: int
) -> None:
    data = secrets.token_bytes(size)
    uploaded = await upload(uploads, data)
    assert uploaded.sha256 == hashlib.sha256(data).hexdigest()
    assert (uploaded.size, uploaded.scan_status, uploaded.thumbnail_id) == (size, "pending", None)
    key = content_key(uploads.tenant_id, uploaded.sha256)
    assert b"".join([chunk async for chunk in folder_store.stream(key)]) == data
    assert await usage(database) == Usage(size, 0, GENEROUS.max_bytes)
    assert await left_behind(database, folder_store) == (1, 1, 0, 1, 0)


@pytest.mark.parametrize("announces_digest", [False, True])
@pytest.mark.parametrize("size", [MIB, BUFFER_BYTES, BUFFER_BYTES + 1, 3 * BUFFER_BYTES + 12345])
async def test_bytes_that_a_source_has_are_stored_as_if_they_had_been_written(
    uploads: Uploads, database: Database, folder_store: FolderStore, size: int, announces_digest: bool
) -> None:
    data = secrets.token_bytes(size)
    digest = hashlib.sha256(data).hexdigest() if announces_digest else None
    for copies in (1, 2):
        uploaded, taken = await upload_from_a_source(uploads, data, announced=size + 200, digest=digest)
        assert (uploaded.sha256, uploaded.size) == (hashlib.sha256(data).hexdigest(), size)
        assert taken > size // 2
        key = content_key(uploads.tenant_id, uploaded.sha256)
        assert b"".join([chunk async for chunk in folder_store.stream(key)]) == data
        assert await usage(database) == Usage(size, 0, GENEROUS.max_bytes)
        assert await left_behind(database, folder_store) == (1, copies, 0, 1, 0)


async def upload_from_a_source(
    uploads: Uploads, data: bytes, *, announced: int, digest: str | None = None
) -> tuple[Uploaded, int]:
    """As from a fast client: chunks of 64 KiB, and behind each one a source. Also how many bytes were taken from it."""
    source, taken = Held(data), 0
    async with await uploads.start(announced=announced, digest=digest) as one:
        while source.left:
            chunk = bytearray(64 * 1024)
            await one.write(bytes(chunk[: source.read_into(memoryview(chunk))]))
            before = source.left
            await one.take(source)
            taken += before - source.left
        return await one.commit(ALICE, Declared("a.bin")), taken


FORM_BYTES = 40_000
"""Of a form beside its file: what it announces does not tell whether the file fits."""


@pytest.mark.parametrize("limit", [5 * MIB, 20 * MIB])
@pytest.mark.parametrize(
    ("policy", "code"),
    [
        (lambda limit: replace(GENEROUS, max_upload_bytes=limit), "file_too_large"),
        (lambda limit: replace(GENEROUS, max_bytes=limit, max_upload_bytes=limit + FORM_BYTES), "quota_exceeded"),
    ],
    ids=["of a file", "of the tenant"],
)
async def test_a_source_is_taken_up_to_the_limit_and_not_a_byte_further(
    uploads: Uploads,
    tenant_database: TenantDatabase,
    database: Database,
    folder_store: FolderStore,
    policy: Callable[[int], Policy],
    limit: int,
    code: str,
) -> None:
    await tenant_database.declare(policy(limit))
    with pytest.raises(Refused) as refused:
        await upload_from_a_source(uploads, secrets.token_bytes(limit + 1), announced=limit + FORM_BYTES)
    assert refused.value.code == code
    assert await left_behind(database, folder_store) == (0, 0, 0, 0, 0)
    await upload_from_a_source(uploads, secrets.token_bytes(limit), announced=limit + FORM_BYTES)
    assert (await usage(database)).stored == limit


@pytest.mark.parametrize("size", [5_000, BUFFER_BYTES + 5_000])
async def test_the_same_bytes_again_get_a_new_id_and_no_second_object(
    uploads: Uploads, database: Database, folder_store: FolderStore, size: int
) -> None:
    data = secrets.token_bytes(size)
    first = await upload(uploads, data)
    modified = await folder_store.head(content_key(uploads.tenant_id, first.sha256))
    second = await upload(uploads, data, caller=BOB)
    assert second.media_id != first.media_id
    assert second.sha256 == first.sha256
    assert await folder_store.head(content_key(uploads.tenant_id, first.sha256)) == modified
    assert await usage(database) == Usage(size, 0, GENEROUS.max_bytes)
    assert await left_behind(database, folder_store) == (1, 2, 0, 1, 0)


async def test_a_full_tenant_still_takes_what_it_has_and_large_content_by_its_announced_digest(
    uploads: Uploads, tenant_database: TenantDatabase
) -> None:
    small, large = secrets.token_bytes(5_000), secrets.token_bytes(BUFFER_BYTES + 5_000)
    await upload(uploads, small)
    await upload(uploads, large)
    await tenant_database.declare(replace(GENEROUS, max_bytes=1))
    await upload(uploads, small)
    await upload(uploads, large, digest=hashlib.sha256(large).hexdigest())
    with pytest.raises(Refused) as refused:
        await upload(uploads, secrets.token_bytes(10))
    assert refused.value.code == "quota_exceeded"


async def test_ten_uploads_of_one_content_at_once_store_it_once(
    uploads: Uploads, database: Database, folder_store: FolderStore
) -> None:
    data = secrets.token_bytes(200_000)
    ids = {one.media_id for one in await asyncio.gather(*(upload(uploads, data) for _ in range(10)))}
    assert len(ids) == 10
    assert await usage(database) == Usage(200_000, 0, GENEROUS.max_bytes)
    assert await left_behind(database, folder_store) == (1, 10, 0, 1, 0)


@pytest.mark.parametrize("sent", [0, 1, 100_000, BUFFER_BYTES, BUFFER_BYTES + 1, 2 * BUFFER_BYTES])
async def test_an_upload_that_breaks_off_leaves_nothing(
    uploads: Uploads, database: Database, folder_store: FolderStore, sent: int
) -> None:
    with pytest.raises(ConnectionResetError):
        async with await uploads.start(announced=3 * BUFFER_BYTES) as one:
            for start in range(0, sent, MIB):
                await one.write(b"x" * min(MIB, sent - start))
            raise ConnectionResetError
    assert await left_behind(database, folder_store) == (0, 0, 0, 0, 0)
    assert await usage(database) == Usage(0, 0, GENEROUS.max_bytes)


async def test_a_cancelled_request_leaves_nothing_either(
    uploads: Uploads, database: Database, folder_store: FolderStore
) -> None:
    entered = asyncio.Event()

    async def request() -> None:
        async with await uploads.start(announced=3 * BUFFER_BYTES) as one:
            await one.write(b"x" * (BUFFER_BYTES + 1))
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(request())
    await entered.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await left_behind(database, folder_store) == (0, 0, 0, 0, 0)


async def test_a_store_that_goes_away_in_the_middle_leaves_nothing(
    uploads: Uploads, database: Database, folder_store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(key: str, data: bytes) -> None:
        raise Unavailable("object store", "connection refused")

    monkeypatch.setattr(folder_store, "put", away)
    with pytest.raises(Unavailable):
        await upload(uploads, secrets.token_bytes(1000))
    assert await left_behind(database, folder_store) == (0, 0, 0, 0, 0)
    assert await usage(database) == Usage(0, 0, GENEROUS.max_bytes)


async def test_a_file_over_the_limit_is_refused_before_a_byte_is_read_when_it_says_so(
    uploads: Uploads, tenant_database: TenantDatabase
) -> None:
    await tenant_database.declare(replace(GENEROUS, max_upload_bytes=MIB))
    with pytest.raises(Refused) as early:
        await uploads.start(announced=2 * MIB)
    async with await uploads.start(announced=None) as one:
        await one.write(b"x" * MIB)
        with pytest.raises(Refused) as late:
            await one.write(b"x")
    assert early.value.code == late.value.code == "file_too_large"
    assert early.value.facts == {"limit": MIB}


async def test_empty_files_wrong_digests_and_foreign_rooms_are_refused(
    uploads: Uploads, database: Database, folder_store: FolderStore
) -> None:
    for expected, arguments in (
        ("empty_file", {"data": b""}),
        ("digest_mismatch", {"data": b"abc", "digest": "0" * 64}),
        ("not_found", {"data": b"abc", "room_id": "cellar"}),
    ):
        with pytest.raises(Refused) as refused:
            await upload(uploads, **arguments)  # type: ignore[arg-type]  # a table of arguments
        assert refused.value.code == expected
    assert await left_behind(database, folder_store) == (0, 0, 0, 0, 0)


async def test_a_photo_gets_dimensions_and_a_thumbnail_that_counts_against_the_quota(
    uploads: Uploads, database: Database, folder_store: FolderStore
) -> None:
    data = photo(1920, 1080)
    uploaded = await upload(uploads, data, filename="photo.jpg")
    assert (uploaded.mime_type, uploaded.width, uploaded.height) == ("image/jpeg", 1920, 1080)
    assert uploaded.thumbnail_id == uploaded.media_id.replace("med-", "med-thumb-")
    thumbnail = await folder_store.head(thumbnail_key(uploads.tenant_id, uploaded.sha256))
    assert thumbnail is not None
    assert (await usage(database)).stored == len(data) + thumbnail.size


async def test_without_room_for_the_thumbnail_the_photo_goes_without(
    uploads: Uploads, database: Database, tenant_database: TenantDatabase
) -> None:
    data = photo(1920, 1080)
    await tenant_database.declare(replace(GENEROUS, max_bytes=len(data) + 10))
    uploaded = await upload(uploads, data, filename="photo.jpg")
    assert uploaded.thumbnail_id is None
    assert (await usage(database)).stored == len(data)


async def test_a_picture_too_large_to_decode_is_kept_with_its_size_and_no_thumbnail(uploads: Uploads) -> None:
    uploaded = await upload(uploads, png_bomb(13_000, 13_000), filename="huge.png")
    assert (uploaded.width, uploaded.height, uploaded.thumbnail_id) == (13_000, 13_000, None)


async def test_a_damaged_photo_is_kept_as_a_file_without_a_picture(uploads: Uploads) -> None:
    uploaded = await upload(uploads, photo(800, 600)[:100], filename="photo.jpg")  # it ends before any picture
    assert uploaded.mime_type == "image/jpeg"
    assert uploaded.thumbnail_id is None


async def test_a_scan_job_is_queued_with_the_first_upload_of_a_content_only(
    uploads: Uploads, database: Database
) -> None:
    data = secrets.token_bytes(100)
    await upload(uploads, data)
    await upload(uploads, data)
    assert (await Queue(database).depth())["scan"].ready == 1


async def test_an_idempotency_key_gives_the_first_answer_again_and_stores_nothing(
    uploads: Uploads, database: Database, folder_store: FolderStore
) -> None:
    data = secrets.token_bytes(100)
    first = await upload(uploads, data, idempotency_key="k1")
    assert await upload(uploads, data, idempotency_key="k1") == first
    assert await upload(uploads, data, idempotency_key="k1", caller=BOB) != first
    with pytest.raises(Refused) as refused:
        await upload(uploads, b"other", idempotency_key="k1")
    assert refused.value.code == "idempotency_key_reused"
    assert await left_behind(database, folder_store) == (1, 2, 0, 1, 0)


async def test_the_same_idempotency_key_at_once_stores_one_item(uploads: Uploads, database: Database) -> None:
    data = secrets.token_bytes(100)
    answers = await asyncio.gather(*(upload(uploads, data, idempotency_key="k") for _ in range(8)))
    assert len({answer.media_id for answer in answers}) == 1
    async with database.transaction() as tx:
        assert await tx.value("SELECT count(*) FROM media") == 1


async def test_uploading_and_deleting_one_content_in_a_storm_never_leaves_a_row_without_its_object(
    uploads: Uploads, library: Library, database: Database, folder_store: FolderStore
) -> None:
    data = secrets.token_bytes(3_000)
    key = content_key(uploads.tenant_id, hashlib.sha256(data).hexdigest())

    async def churn() -> None:
        for _ in range(6):
            uploaded = await upload(uploads, data)
            assert await folder_store.head(key) is not None
            await library.delete(ALICE, uploaded.media_id)

    await asyncio.gather(*(churn() for _ in range(6)))
    assert await left_behind(database, folder_store) == (0, 0, 0, 0, 0)
    assert await usage(database) == Usage(0, 0, GENEROUS.max_bytes)
    survivor = await upload(uploads, data)
    assert await folder_store.head(key) is not None
    assert survivor.size == 3_000


async def test_a_tenant_without_a_policy_takes_nothing(
    uploads: Uploads, database: Database, tenant_database: TenantDatabase
) -> None:
    async with tenant_database.as_owner() as tx:
        await tx.execute("DELETE FROM policy")
    uploads.policy = PolicyReader(database)
    with pytest.raises(Refused) as refused:
        await upload(uploads, b"x")
    assert refused.value.code == "file_too_large"


async def test_a_stranger_to_the_room_can_not_attach_by_uploading(uploads: Uploads) -> None:
    with pytest.raises(Refused) as refused:
        await upload(uploads, b"x", caller=STRANGER, room_id="garden")
    assert refused.value.code == "not_found"


async def test_a_body_of_unknown_size_that_fits_is_taken_to_the_last_byte(
    uploads: Uploads, database: Database, tenant_database: TenantDatabase
) -> None:
    size = BUFFER_BYTES + MIB
    await tenant_database.declare(replace(GENEROUS, max_bytes=size))
    data = secrets.token_bytes(size)
    async with await uploads.start() as one:
        for start in range(0, size, MIB):
            await one.write(data[start : start + MIB])
        await one.commit(ALICE, Declared("a.bin"))
    assert await usage(database) == Usage(size, 0, size)


@pytest.mark.parametrize("status", ["clean", "infected"])
async def test_a_digest_of_content_that_stands_here_tells_nothing_to_who_has_not_sent_it(
    uploads: Uploads, library: Library, database: Database, status: str
) -> None:
    stored = await upload(uploads, secrets.token_bytes(BUFFER_BYTES + 10))
    await judge(library, database, stored, status)
    before = (await usage(database)).reserved

    async def reserved_for(digest: str) -> int:
        async with await uploads.start(announced=3 * BUFFER_BYTES, digest=digest) as one:
            for _ in range(9):
                await one.write(bytes(MIB))
            return (await usage(database)).reserved - before

    assert await reserved_for(stored.sha256) == await reserved_for("0" * 64) > 0


async def test_one_idempotency_key_does_not_serve_two_operations(uploads: Uploads) -> None:
    await upload(uploads, b"x", idempotency_key="k")
    with pytest.raises(Refused) as refused:
        await upload(uploads, b"x", idempotency_key="k", operation="transcribe")
    assert refused.value.code == "idempotency_key_reused"


async def test_a_picture_that_takes_too_long_is_kept_and_its_thumbnail_left_to_a_worker(
    uploads: Uploads, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("media_core.examination.examination.THUMBNAIL_SECONDS", 0.0)
    uploaded = await upload(uploads, photo(640, 480), filename="slow.jpg")
    assert uploaded.thumbnail_id is not None
    assert (await Queue(database).depth())["thumbnail"].ready == 1


@pytest.mark.parametrize("data", [photo(640, 480), film(1)], ids=["picture", "film"])
@pytest.mark.parametrize("code", ["crashed", "timeout"])
async def test_where_the_machine_may_be_the_cause_the_thumbnail_is_left_to_a_worker(
    uploads: Uploads, database: Database, monkeypatch: pytest.MonkeyPatch, data: bytes, code: str
) -> None:
    """The kernel ends a decoder in a pod that is short of memory; on a busy node one gets no CPU in time."""

    async def failed(*_: object, **__: object) -> None:
        raise DecodingFailed(code, "no answer")

    monkeypatch.setattr(DecodingPool, "run", failed)
    uploaded = await upload(uploads, data)
    assert uploaded.thumbnail_id is not None
    assert (await Queue(database).depth())["thumbnail"].ready == 1


async def test_an_upload_takes_its_memory_when_it_starts_and_who_finds_none_is_asked_to_come_again(
    uploads: Uploads,
) -> None:
    uploads.capacity = Capacity(20 * MIB)
    async with await uploads.start(announced=7 * MIB), await uploads.start(announced=7 * MIB):
        assert uploads.capacity.taken > 14 * MIB  # nothing has been sent yet
        with pytest.raises(Unavailable, match="too many uploads"):
            async with await uploads.start(announced=7 * MIB):
                pass
        async with await uploads.start(announced=MIB):
            pass
    assert uploads.capacity.taken == 0


async def test_a_full_tenant_decodes_nothing_that_it_refuses(
    uploads: Uploads, tenant_database: TenantDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def decoded(*_: object, **__: object) -> None:
        raise AssertionError("decoded before the quota was asked")

    await tenant_database.declare(replace(GENEROUS, max_bytes=1))
    monkeypatch.setattr(DecodingPool, "run", decoded)
    with pytest.raises(Refused, match="do not fit"):
        await upload(uploads, photo(640, 480))
