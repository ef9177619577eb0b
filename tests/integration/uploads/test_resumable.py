"""Uploads in several requests: what a process that ends at the wrong moment leaves, and who may add bytes."""

import asyncio
import contextlib
import hashlib
import os
import secrets
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from media_core.auth.tokens import Claims
from media_core.database import Database
from media_core.errors import Refused, Unavailable
from media_core.items.library import Library
from media_core.store import FolderStore, S3Store, folder_pieces
from media_core.store.base import staging_key
from media_core.store.folder_pieces import FolderGatheredObject
from media_core.store.object_keys import content_key
from media_core.upkeep.sweep import sweep
from media_core.uploads import expiry, resumable
from media_core.uploads.claims import Claim, Declared
from media_core.uploads.final import Finals
from media_core.uploads.resumable import Checksum, Resumables
from media_core.uploads.rows import Progress, Rows
from media_core.uploads.upload import Upload, Uploaded, Uploads
from tests.integration.acting import upload, usage
from tests.integration.invariants import broken
from tests.integration.servers import s3_servers
from tests.integration.servers.api import eventually
from tests.integration.tenancy import ALICE, BOB, MIB

FILE = Declared("a.bin")


@pytest.fixture
def resumables(uploads: Uploads) -> Resumables:
    return Resumables(uploads, lifetime=timedelta(days=1))


@pytest.fixture
def elsewhere(uploads: Uploads) -> Resumables:
    """Another process."""
    return Resumables(uploads, lifetime=timedelta(days=1))


async def add(at: Resumables, upload_id: str, data: bytes, offset: int, **how: Any) -> Progress:
    async with at.receiving(ALICE, upload_id, offset, **how) as receiving:
        for start in range(0, len(data), 200_000):
            await receiving.write(data[start : start + 200_000])
        return await receiving.end()


async def lose_the_newest(database: Database, upload_id: str, *, left: int) -> None:
    """Makes the rows of an upload with one piece those of a server that knows only of its first `left` bytes."""
    await database.call("UPDATE upload SET received = %s, answer = NULL WHERE upload_id = %s", (left, upload_id))
    await database.call("UPDATE upload_piece SET size = %s WHERE upload_id = %s", (left, upload_id))


async def staged(store: FolderStore | S3Store) -> set[str]:
    if isinstance(store, FolderStore):
        return {path.name for path in store._staging.iterdir()}
    return {entry.key.removeprefix(store._staging) async for entry in store._list(store._staging)}


@pytest.fixture
def pieces_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the locks of the folder away, so that each request makes a piece of its own."""
    monkeypatch.setattr(folder_pieces, "_lock", lambda _: False)


async def end_whole(at: Resumables, upload_id: str, data: bytes, offset: int) -> None:
    """Sends `data` from `offset` on; then the store has all of it."""
    uploaded = (await add(at, upload_id, data[offset:], offset)).uploaded
    assert uploaded is not None
    assert uploaded.sha256 == hashlib.sha256(data).hexdigest()
    key = content_key(at.uploads.tenant_id, uploaded.sha256)
    assert await at.uploads.store.read(key, 0, len(data)) == data


async def run_out(database: Database) -> None:
    """As if a claim's time had passed, and its holder did not move it forward."""
    async with database.transaction() as tx:
        await tx.execute("UPDATE upload SET claimed_until = now()")


@pytest.mark.parametrize("lost", ["_ANSWER", "_FORGET_PIECES"])
async def test_a_process_that_ends_after_the_commit_leaves_an_upload_that_is_not_committed_twice(
    resumables: Resumables, elsewhere: Resumables, uploads: Uploads, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    data = secrets.token_bytes(3 * MIB)
    made = await resumables.create(ALICE, FILE, len(data))
    with monkeypatch.context() as broken_off:
        broken_off.setattr(resumable, lost, "SELECT 1 / 0 WHERE %s IS NOT NULL AND %s IS NOT NULL")
        with pytest.raises(Exception):  # noqa: B017 (whatever ends it)
            await add(resumables, made.upload_id, data, 0)
    settled = await elsewhere.settled(ALICE, made.upload_id)
    assert settled.uploaded is not None
    assert settled.uploaded.sha256 == hashlib.sha256(data).hexdigest()
    rows = await uploads.database.call("SELECT media_id FROM media", ())
    assert [row.media_id for row in rows] == [settled.uploaded.media_id]
    assert await broken(uploads.database, uploads.store, uploads.tenant_id) == []


async def test_an_upload_whose_answer_was_lost_is_not_committed_again_after_its_key_is_forgotten(
    resumables: Resumables, elsewhere: Resumables, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = secrets.token_bytes(1000)
    made = await resumables.create(ALICE, FILE, len(data))
    with monkeypatch.context() as broken_off:
        broken_off.setattr(resumable, "_ANSWER", "SELECT 1 / 0 WHERE %s IS NOT NULL AND %s IS NOT NULL")
        with pytest.raises(Exception):  # noqa: B017 (whatever ends it)
            await add(resumables, made.upload_id, data, 0)
    await sweep(library)
    await library.database.call("DELETE FROM idempotency", ())
    settled = await elsewhere.settled(ALICE, made.upload_id)
    rows = await library.database.call("SELECT media_id FROM media", ())
    assert settled.uploaded is not None
    assert [row.media_id for row in rows] == [settled.uploaded.media_id]


async def test_a_holder_that_lost_its_claim_cannot_change_what_its_successor_has_written(
    resumables: Resumables, elsewhere: Resumables, uploads: Uploads, database: Database
) -> None:
    first, late, second = (secrets.token_bytes(2 * MIB) for _ in range(3))
    made = await resumables.create(ALICE, FILE, 6 * MIB)
    await add(resumables, made.upload_id, first, 0)
    with pytest.raises(Refused) as refused:
        async with resumables.receiving(ALICE, made.upload_id, 2 * MIB) as slow:
            await slow.write(late[:MIB])
            await slow.write(late[MIB:])
            await run_out(database)
            assert (await add(elsewhere, made.upload_id, second, 2 * MIB)).received == 4 * MIB
            await slow.write(late)
            await slow.end()
    assert refused.value.code == "upload_locked"
    ended = await add(elsewhere, made.upload_id, first, 4 * MIB)
    assert ended.uploaded is not None
    assert ended.uploaded.sha256 == hashlib.sha256(first + second + first).hexdigest()


async def test_one_who_takes_over_and_adds_nothing_keeps_others_away_from_the_piece(
    resumables: Resumables, elsewhere: Resumables, database: Database
) -> None:
    data = secrets.token_bytes(2 * MIB)
    made = await resumables.create(ALICE, FILE, 4 * MIB)
    await add(resumables, made.upload_id, data[:MIB], 0)
    async with resumables.receiving(ALICE, made.upload_id, MIB) as slow:
        await slow.write(bytes(MIB))
        await run_out(database)
        await add(elsewhere, made.upload_id, b"", MIB)
        await add(elsewhere, made.upload_id, data[MIB:], MIB)
        await slow.write(bytes(MIB))
        await slow.close()
    ended = await add(elsewhere, made.upload_id, data, 2 * MIB)
    assert ended.uploaded is not None
    assert ended.uploaded.sha256 == hashlib.sha256(data + data).hexdigest()


async def test_a_file_has_its_hash_where_a_crash_of_the_database_took_back_bytes_and_others_came_in_their_place(
    resumables: Resumables, elsewhere: Resumables, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("media_core.uploads.rows.REMEMBERED_SECONDS", 0.0)
    begin, lost, other, end = (secrets.token_bytes(MIB) for _ in range(4))
    made = await resumables.create(ALICE, FILE, 3 * MIB)
    await add(resumables, made.upload_id, begin, 0)
    await add(resumables, made.upload_id, lost, MIB)
    async with database.transaction() as tx:
        await tx.execute("UPDATE upload SET received = %s", (MIB,))
        await tx.execute("UPDATE upload_piece SET size = %s", (MIB,))
    assert (await elsewhere.find(ALICE, made.upload_id)).received == MIB
    await add(elsewhere, made.upload_id, other, MIB)
    uploaded = (await add(resumables, made.upload_id, end, 2 * MIB)).uploaded
    assert uploaded is not None
    assert uploaded.sha256 == hashlib.sha256(begin + other + end).hexdigest()


async def test_bytes_of_a_remembered_claim_count_if_nobody_has_claimed_the_upload_meanwhile(
    resumables: Resumables, elsewhere: Resumables, database: Database
) -> None:
    begin, other, end = (secrets.token_bytes(MIB) for _ in range(3))
    made = await resumables.create(ALICE, FILE, 3 * MIB)
    await add(resumables, made.upload_id, begin, 0)
    async with elsewhere.receiving(ALICE, made.upload_id, MIB) as receiving:
        await receiving.write(other)
        with pytest.raises(Refused) as refused:
            await add(resumables, made.upload_id, end, MIB)
        assert refused.value.code == "upload_locked"
        assert (await receiving.end()).received == 2 * MIB
    uploaded = (await add(resumables, made.upload_id, end, 2 * MIB)).uploaded
    assert uploaded is not None
    assert uploaded.sha256 == hashlib.sha256(begin + other + end).hexdigest()

    ended = await resumables.create(ALICE, FILE, 3 * MIB)
    await add(resumables, ended.upload_id, begin, 0)
    await elsewhere.terminate(ALICE, ended.upload_id)
    with pytest.raises(Refused) as refused:
        await add(resumables, ended.upload_id, end, MIB)
    assert refused.value.code == "not_found"

    lost = await resumables.create(ALICE, FILE, 3 * MIB)
    await add(resumables, lost.upload_id, begin, 0)
    async with database.transaction() as tx:  # as a crash of the server does
        await tx.execute("UPDATE upload SET received = 0, pieces = 0 WHERE upload_id = %s", (lost.upload_id,))
        await tx.execute("DELETE FROM upload_piece WHERE upload_id = %s", (lost.upload_id,))
    with pytest.raises(Refused) as refused:
        await add(resumables, lost.upload_id, end, MIB)
    assert refused.value.code == "upload_locked"
    with pytest.raises(Refused) as refused:
        await add(resumables, lost.upload_id, end, MIB)
    assert refused.value.code == "offset_mismatch"


async def test_a_remembered_claim_is_at_once_as_good_as_a_new_one_here_and_soon_elsewhere(
    resumables: Resumables, elsewhere: Resumables, database: Database
) -> None:
    made = await resumables.create(ALICE, FILE, 3 * MIB)
    await add(resumables, made.upload_id, bytes(MIB), 0)
    async with resumables.receiving(ALICE, made.upload_id, MIB) as receiving:
        with pytest.raises(Refused) as refused:
            await add(resumables, made.upload_id, bytes(MIB), MIB)
        assert refused.value.code == "upload_locked"
        await receiving.write(bytes(10))
        assert (await receiving.end()).received == MIB + 10
    async with resumables.receiving(ALICE, made.upload_id, MIB + 10) as receiving:
        await eventually(lambda: _is_claimed(database))
        with pytest.raises(Refused) as refused:
            await add(elsewhere, made.upload_id, bytes(MIB), MIB + 10)
        assert refused.value.code == "upload_locked"
        await receiving.write(bytes(MIB))
        assert (await receiving.end()).received == 2 * MIB + 10


async def test_a_claim_that_is_renewed_while_its_request_ends_ends_with_it(
    resumables: Resumables, elsewhere: Resumables, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("media_core.uploads.claims.RENEW_REMEMBERED_SECONDS", 60.0)

    async def wait(count: int) -> bool:
        where = "usename = current_user AND wait_event_type = 'Lock'"
        (row,) = await database.call(f"SELECT count(*) AS n FROM pg_stat_activity WHERE {where}", ())  # noqa: S608
        return bool(row.n == count)

    made = await resumables.create(ALICE, FILE, 3 * MIB)
    await add(resumables, made.upload_id, bytes(MIB), 0)
    async with resumables.receiving(ALICE, made.upload_id, MIB) as receiving:
        await receiving.write(bytes(MIB))
        async with database.transaction() as tx:
            await tx.execute("SELECT FROM upload FOR UPDATE")
            ending = asyncio.create_task(receiving.end())
            await eventually(lambda: wait(1))
            beside = asyncio.create_task(resumables.settled(ALICE, made.upload_id, patience=0.001))  # it renews first
            await eventually(lambda: wait(2))
        assert (await ending).received == (await beside).received == 2 * MIB
    assert (await add(elsewhere, made.upload_id, bytes(MIB), 2 * MIB)).uploaded is not None


async def test_a_claim_is_not_remembered_once_another_request_of_the_process_has_taken_it(
    resumables: Resumables, database: Database
) -> None:
    made = await resumables.create(ALICE, FILE, 3 * MIB)
    await add(resumables, made.upload_id, bytes(MIB), 0)
    async with resumables.receiving(ALICE, made.upload_id, MIB) as receiving:
        looking = asyncio.create_task(resumables.settled(ALICE, made.upload_id, patience=60))
        await eventually(lambda: _is_claimed(database))
        await receiving.write(bytes(MIB))
        await receiving.end()
    assert (await looking).received == 2 * MIB
    assert (await add(resumables, made.upload_id, bytes(MIB), 2 * MIB)).uploaded is not None


async def test_an_upload_that_has_ended_elsewhere_reserves_nothing_any_more(
    resumables: Resumables, elsewhere: Resumables, database: Database
) -> None:
    made = await resumables.create(ALICE, FILE, None)
    await add(resumables, made.upload_id, bytes(MIB), 0)
    await elsewhere.terminate(ALICE, made.upload_id)
    with pytest.raises(Refused) as refused:
        await add(resumables, made.upload_id, bytes(MIB), MIB, length=32 * MIB)
    assert refused.value.code == "not_found"
    (used,) = await database.call("SELECT reserved_bytes FROM usage", ())
    assert used.reserved_bytes == 0


async def _is_claimed(database: Database) -> bool:
    return bool(await database.call("SELECT 1 FROM upload WHERE claimed_until > now()", ()))


async def test_the_claim_of_a_request_that_goes_on_is_not_taken(resumables: Resumables, elsewhere: Resumables) -> None:
    made = await resumables.create(ALICE, FILE, 10)
    async with resumables.receiving(ALICE, made.upload_id, 0) as receiving:
        await receiving.write(b"12345")
        for attempt in (add(elsewhere, made.upload_id, b"x", 0), elsewhere.terminate(ALICE, made.upload_id)):
            with pytest.raises(Refused) as refused:
                await attempt
            assert refused.value.code == "upload_locked"
        await receiving.end()
    assert (await add(elsewhere, made.upload_id, b"67890", 5)).uploaded is not None


async def test_the_reservation_lives_as_long_as_the_upload(
    resumables: Resumables, library: Library, database: Database
) -> None:
    made = await resumables.create(ALICE, FILE, 4 * MIB)
    for _ in range(2):
        (row,) = await database.call(
            "SELECT reservation.expires_at > upload.expires_at + interval '59 minutes' AS longer, bytes"
            " FROM reservation JOIN upload ON reservation_id = upload_id",
            (),
        )
        assert (row.longer, row.bytes) == (True, 4 * MIB)
        async with database.transaction() as tx:
            await tx.execute("UPDATE upload SET expires_at = now() + interval '1 minute'")
            await tx.execute("UPDATE reservation SET expires_at = now() + interval '1 minute'")
        await add(resumables, made.upload_id, b"x", (await resumables.find(ALICE, made.upload_id)).received)
    with pytest.raises(Refused):
        await resumables.find(BOB, made.upload_id)
    async with database.transaction() as tx:
        await tx.execute("UPDATE upload SET expires_at = now()")
    assert await expiry.expire(library) == 1
    (usage,) = await database.call("SELECT reserved_bytes FROM usage", ())
    assert usage.reserved_bytes == 0


async def test_a_request_whose_bytes_count_renews_its_claim_no_more(resumables: Resumables, database: Database) -> None:
    made = await resumables.create(ALICE, FILE, 4 * MIB)
    async with resumables.receiving(ALICE, made.upload_id, 0) as receiving:
        await receiving.write(b"x")
        await receiving.end()
        await receiving._claim.renew()  # a timer may do so at this moment
    (row,) = await database.call("SELECT claimed_until <= now() AS is_free FROM upload", ())
    assert row.is_free


async def test_an_end_that_was_interrupted_is_taken_up_by_the_sweep(
    resumables: Resumables, library: Library, database: Database, folder_store: FolderStore
) -> None:
    made = await resumables.create(ALICE, FILE, 4 * MIB)
    await add(resumables, made.upload_id, b"x", 0)
    async with database.transaction() as tx:
        await tx.execute("UPDATE upload SET ending = true")
    with pytest.raises(Refused):
        await resumables.find(ALICE, made.upload_id)
    assert await expiry.expire(library) == 1
    assert await folder_store.sweep_staging(timedelta(0)) == 0
    assert await database.call("SELECT FROM upload", ()) == []


async def test_an_upload_that_ends_gives_back_what_a_sweep_has_reserved_for_it(
    resumables: Resumables, uploads: Uploads, database: Database
) -> None:
    (part,) = await partials(resumables, MIB)
    await database.call("DELETE FROM reservation", ())
    await database.call("UPDATE usage SET reserved_bytes = 0", ())  # as a final upload leaves it that was killed
    await expiry.settle(database)
    assert (await usage(database)).reserved == MIB
    await resumables.terminate(ALICE, part)
    assert (await usage(database)).reserved == 0
    assert await broken(uploads.database, uploads.store, uploads.tenant_id) == []


async def test_the_sweep_leaves_pieces_of_uploads_that_are_alive(
    resumables: Resumables, library: Library, folder_store: FolderStore
) -> None:
    made = await resumables.create(ALICE, FILE, 2 * MIB)
    await add(resumables, made.upload_id, bytes(MIB), 0)
    staging = folder_store._staging
    (piece,) = staging.iterdir()
    (staging / "01JD0Z3V5QH7W8K2M4N6P8R0T2").write_bytes(b"of a process that was killed")
    for old in staging.iterdir():
        os.utime(old, (0, 0))
    swept = await sweep(library)
    assert (swept.uploads, swept.staging) == (0, 1)
    assert [*staging.iterdir()] == [piece]
    assert (await add(resumables, made.upload_id, bytes(MIB), MIB)).uploaded is not None


async def test_nobody_has_more_than_so_many_uploads_under_way(
    resumables: Resumables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumable, "MOST_OPEN", 2)
    for _ in range(2):
        await resumables.create(ALICE, FILE, None)
    with pytest.raises(Refused) as refused:
        await resumables.create(ALICE, FILE, None)
    assert refused.value.code == "too_many_uploads"
    await resumables.create(BOB, FILE, None)


async def test_an_idempotency_key_begins_one_upload_however_often_and_at_once_it_comes(
    resumables: Resumables, elsewhere: Resumables, uploads: Uploads, database: Database
) -> None:
    async def begun(how_often: int, key: str) -> str:
        tries = (at.create(ALICE, FILE, MIB, idempotency_key=key) for at in (resumables, elsewhere) * how_often)
        (upload_id,) = {made.upload_id for made in await asyncio.gather(*tries)}
        return upload_id

    upload_id = await begun(3, "k")
    assert (await usage(database)).reserved == MIB
    await add(elsewhere, upload_id, bytes(1000), 0)
    assert (await resumables.create(ALICE, FILE, MIB, idempotency_key="k")).received == 1000
    for declared, length, how in (
        (FILE, MIB + 1, {}),
        (FILE, None, {}),
        (Declared("", "b.bin"), MIB, {}),
        (FILE, MIB, {"partial": True}),
        (FILE, MIB, {"digest": "0" * 64}),
    ):
        with pytest.raises(Refused) as refused:
            await resumables.create(ALICE, declared, length, idempotency_key="k", **how)  # type: ignore[arg-type]
        assert refused.value.code == "idempotency_key_reused"
    assert (await resumables.create(BOB, FILE, MIB, idempotency_key="k")).upload_id != upload_id

    await resumables.terminate(ALICE, upload_id)
    assert await begun(3, "k") != upload_id, "it is gone"
    assert (await usage(database)).reserved == 2 * MIB
    assert await broken(uploads.database, uploads.store, uploads.tenant_id) == []


async def test_an_idempotency_key_of_a_file_in_one_request_begins_no_upload(
    resumables: Resumables, uploads: Uploads
) -> None:
    await upload(uploads, b"x", idempotency_key="k")
    with pytest.raises(Refused) as refused:
        await resumables.create(ALICE, FILE, 1, idempotency_key="k")
    assert refused.value.code == "idempotency_key_reused"
    await resumables.create(ALICE, FILE, 1, idempotency_key="l")
    with pytest.raises(Refused) as refused:
        await upload(uploads, b"x", idempotency_key="l")
    assert refused.value.code == "idempotency_key_reused"


async def test_a_key_that_is_sent_again_commits_what_has_come_and_could_not_be_committed(
    resumables: Resumables, elsewhere: Resumables, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object, **__: object) -> None:
        raise Unavailable("object store", "it is away")

    made = await resumables.create(ALICE, FILE, 1000, idempotency_key="k")
    with monkeypatch.context() as away:
        away.setattr(Upload, "commit", fails)
        with pytest.raises(Unavailable):
            await add(resumables, made.upload_id, bytes(1000), 0)
    assert (await elsewhere.create(ALICE, FILE, 1000, idempotency_key="k")).uploaded is not None


async def test_the_digest_that_an_upload_was_begun_with_is_compared_at_its_end(
    resumables: Resumables, elsewhere: Resumables, uploads: Uploads, database: Database, folder_store: FolderStore
) -> None:
    data = secrets.token_bytes(1000)
    right, wrong = (hashlib.sha256(each).hexdigest() for each in (data, b""))
    for begun_with, ended_with in ((wrong, None), (wrong, right), (right, wrong), (right, None), (right, right)):
        made = await resumables.create(ALICE, FILE, 1000, digest=begun_with)
        await add(elsewhere, made.upload_id, data[:500], 0)
        ending = add(resumables, made.upload_id, data[500:], 500, digest=ended_with)
        if wrong in (begun_with, ended_with):
            with pytest.raises(Refused) as refused:
                await ending
            assert refused.value.code == "digest_mismatch"
            with pytest.raises(Refused):
                await resumables.find(ALICE, made.upload_id)
        else:
            assert (await ending).uploaded is not None

    parts = await partials(resumables, 500, 500)
    with pytest.raises(Refused) as refused:
        await Finals(resumables).concatenate(ALICE, "final", parts, FILE, digest=wrong)
    assert refused.value.code == "digest_mismatch"
    assert (await usage(database)).reserved == 1000, "the parts are still there"
    assert await broken(uploads.database, uploads.store, uploads.tenant_id) == []


async def partials(at: Resumables, *sizes: int) -> list[str]:
    parts = [(await at.create(ALICE, FILE, size, partial=True)).upload_id for size in sizes]
    for part, size in zip(parts, sizes, strict=True):
        await add(at, part, secrets.token_bytes(size), 0)
    return parts


@pytest.mark.parametrize("where", ["no memory", "commit", "cancelled", "note"])
async def test_parts_of_a_final_upload_that_fails_count_in_the_quota_until_they_end(
    resumables: Resumables,
    uploads: Uploads,
    database: Database,
    folder_store: FolderStore,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    async def fails(*_: object, **__: object) -> None:
        if where == "cancelled":
            raise asyncio.CancelledError
        raise Unavailable("memory", "there is none")

    async def reserved() -> int:
        (usage,) = await database.call("SELECT reserved_bytes FROM usage", ())
        return int(usage.reserved_bytes)

    parts = await partials(resumables, 3 * MIB, MIB)
    with monkeypatch.context() as broken_off:
        for _ in range(2):
            if where == "note":
                broken_off.setattr(resumables.rows, "insert", fails)
            else:
                broken_off.setattr(Upload, "__aenter__" if where == "no memory" else "commit", fails)
            with pytest.raises((Unavailable, asyncio.CancelledError)):
                await Finals(resumables).concatenate(ALICE, "final", parts, FILE)
            assert await reserved() == 4 * MIB
            assert await broken(uploads.database, uploads.store, uploads.tenant_id) == []
    made = await Finals(resumables).concatenate(ALICE, "final", parts, FILE)
    assert made.uploaded is not None
    assert made.uploaded.size == 4 * MIB
    assert await reserved() == 0
    assert await broken(uploads.database, uploads.store, uploads.tenant_id) == []
    assert await folder_store.sweep_staging(timedelta(0)) == 0


async def test_parallel_final_uploads_of_the_same_parts_make_one_file_and_reserve_nothing(
    resumables: Resumables, elsewhere: Resumables, uploads: Uploads, database: Database
) -> None:
    parts = await partials(resumables, 2 * MIB, MIB, 5)

    async def final(at: Resumables, order: list[str], concat: str) -> str:
        try:
            made = await Finals(at).concatenate(ALICE, concat, order, FILE)
        except Refused as refused:
            return refused.code
        assert made.uploaded is not None
        return "made"

    async def ended(at: Resumables, part: str) -> str:
        try:
            await at.terminate(ALICE, part)
        except Refused as refused:
            return refused.code
        return "ended"

    answers = await asyncio.gather(
        *(final(at, parts, "forwards") for at in (resumables, elsewhere) * 2),
        *(final(at, parts[::-1], "backwards") for at in (resumables, elsewhere)),
        ended(elsewhere, parts[1]),
    )
    assert set(answers) <= {"made", "ended", "upload_locked", "not_found"}
    assert answers.count("ended") + (answers[:4].count("made") > 0) + (answers[4:6].count("made") > 0) == 1
    await asyncio.gather(*(ended(resumables, part) for part in parts))
    (usage,) = await database.call("SELECT reserved_bytes, items FROM usage", ())
    assert (usage.reserved_bytes, usage.items) == (0, 0 if "ended" in answers else 1)
    assert await broken(uploads.database, uploads.store, uploads.tenant_id) == []


async def test_an_upload_that_expires_in_the_middle_gives_its_quota_back_once(
    resumables: Resumables, elsewhere: Resumables, uploads: Uploads, library: Library, database: Database
) -> None:
    async def reserved() -> int:
        assert await broken(uploads.database, uploads.store, uploads.tenant_id) == []
        (usage,) = await database.call("SELECT reserved_bytes FROM usage", ())
        return int(usage.reserved_bytes)

    async def expires() -> None:
        async with database.transaction() as tx:
            await tx.execute("UPDATE upload SET expires_at = now()")

    made = await resumables.create(ALICE, FILE, None)
    async with resumables.receiving(ALICE, made.upload_id, 0) as receiving:
        await receiving.write(bytes(2 * MIB))
        await expires()
        assert await expiry.expire(library) == 0, "its request goes on"
        assert (await receiving.end()).received == 2 * MIB
    assert await reserved() >= 2 * MIB
    with pytest.raises(Refused) as refused:
        async with resumables.receiving(ALICE, made.upload_id, 2 * MIB) as receiving:
            await receiving.write(bytes(MIB))
            await expires()
            await run_out(database)
            assert await expiry.expire(library) == 1
            assert await reserved() == 0
            await receiving.end()
    assert refused.value.code == "upload_locked"
    assert await reserved() == 0

    part = (await resumables.create(ALICE, FILE, None, partial=True)).upload_id
    wrong = Checksum("sha1", bytes(20))
    for _ in range(2):
        with pytest.raises(Refused) as refused:
            await add(resumables, part, bytes(MIB), 0, length=2 * MIB, checksum=wrong)
        assert refused.value.code == "checksum_mismatch"
        assert await reserved() >= MIB
    await add(elsewhere, part, bytes(2 * MIB), 0)
    assert await reserved() >= 2 * MIB
    await expires()
    assert await expiry.expire(library) == 1
    assert await reserved() == 0


async def test_where_the_last_piece_is_gone_its_bytes_come_again(
    uploads: Uploads, library: Library, database: Database, tmp_path: Path
) -> None:
    """As after a failover that lost what was committed last: the piece that the row names was replaced meanwhile."""
    server = await s3_servers.start("versitygw", tmp_path)
    uploads.store = library.store = store = S3Store(server.settings, uploads.tenant_id)
    at, data = Resumables(uploads, lifetime=timedelta(days=1)), os.urandom(6 * MIB + 2000)
    upload_id = (await at.create(ALICE, FILE, len(data))).upload_id
    try:
        await add(at, upload_id, data[: 6 * MIB], 0)
        await add(at, upload_id, data[6 * MIB : -1000], 6 * MIB)
        (*_, last) = await database.call("SELECT name, size FROM upload_piece ORDER BY number", ())
        await store._delete(staging_key(uploads.tenant_id, last.name))
        with pytest.raises(Refused) as refused:
            await add(at, upload_id, data[-1000:], len(data) - 1000)
        offset = len(data) - 1000 - last.size
        assert (refused.value.code, refused.value.facts) == ("offset_mismatch", {"offset": offset})
        assert (await at.find(ALICE, upload_id)).received == offset
        await end_whole(at, upload_id, data, offset)
    finally:
        await store.aclose()
        server.stop()


@pytest.mark.parametrize("forgotten", [True, False], ids=["pieces forgotten", "killed before"])
async def test_who_is_late_to_commit_an_upload_that_is_stored_takes_nothing_back(
    resumables: Resumables,
    elsewhere: Resumables,
    uploads: Uploads,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    forgotten: bool,
) -> None:
    """The one before had stalled and lost its claim, and went on to its end. Its pieces have gone into the file."""
    data, whole, waits, goes_on = os.urandom(2 * MIB), uploads.whole, asyncio.Event(), asyncio.Event()

    async def stalled(*arguments: Any) -> Upload:
        if not waits.is_set():
            waits.set()
            await goes_on.wait()
        return await whole(*arguments)

    monkeypatch.setattr(uploads, "whole", stalled)
    if not forgotten:
        monkeypatch.setattr(resumable, "_FORGET_PIECES", "SELECT %s")
    upload_id = (await resumables.create(ALICE, FILE, len(data))).upload_id
    first = asyncio.create_task(add(resumables, upload_id, data, 0))
    await waits.wait()
    await run_out(database)
    with pytest.raises(Refused) as refused:
        async with elsewhere.receiving(ALICE, upload_id, len(data)) as late:
            goes_on.set()
            stored = await first
            await late.end()
    assert refused.value.code == "upload_locked"
    assert (await elsewhere.settled(ALICE, upload_id)).uploaded == stored.uploaded
    assert (await elsewhere.find(ALICE, upload_id)).received == len(data)


@pytest.mark.parametrize("known", [True, False], ids=["hash known", "hash unknown"])
async def test_a_failover_that_loses_the_last_bytes_before_they_are_committed_makes_no_shorter_file(
    resumables: Resumables, elsewhere: Resumables, database: Database, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """The process goes on at a server that has lost the newest commits."""
    data, finish = os.urandom(3 * MIB), Resumables.finish
    upload_id = (await resumables.create(ALICE, FILE, len(data))).upload_id
    await add(resumables, upload_id, data[:MIB], 0)
    if not known:
        resumables.hashes._kept.clear()

    async def after_the_loss(*arguments: Any, **how: Any) -> None:
        await lose_the_newest(database, upload_id, left=MIB)
        await finish(*arguments, **how)

    with monkeypatch.context() as patch, pytest.raises(Refused) as refused:
        patch.setattr(Resumables, "finish", after_the_loss)
        await add(resumables, upload_id, data[MIB:], MIB)
    assert refused.value.code == "upload_locked"
    await end_whole(elsewhere, upload_id, data, MIB)


@pytest.mark.parametrize("lost", ["commit", "answer"])
async def test_a_failover_that_loses_the_end_of_an_upload_leaves_one_that_comes_whole_again(
    resumables: Resumables,
    elsewhere: Resumables,
    uploads: Uploads,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    lost: str,
) -> None:
    """The process goes on at a server that has lost the newest commits."""
    data, commit, discard = os.urandom(3 * MIB), Upload.commit, FolderGatheredObject.discard
    upload_id = (await resumables.create(ALICE, FILE, len(data))).upload_id
    await add(resumables, upload_id, data[:MIB], 0)
    failovers = 0

    async def fail_over() -> None:
        nonlocal failovers
        failovers += 1
        await database.call("DELETE FROM idempotency", ())
        if lost == "answer":
            await lose_the_newest(database, upload_id, left=MIB)

    async def commit_and_lose(*arguments: Any, **how: Any) -> Uploaded:
        uploaded = await commit(*arguments, **how)
        if lost == "commit" and not failovers:
            await fail_over()
        return uploaded

    async def discard_and_lose(gathered: FolderGatheredObject) -> None:
        await discard(gathered)
        if lost == "answer" and not failovers:
            await fail_over()

    monkeypatch.setattr(Upload, "commit", commit_and_lose)
    monkeypatch.setattr(FolderGatheredObject, "discard", discard_and_lose)
    with contextlib.suppress(Unavailable):
        await add(resumables, upload_id, data[MIB:], MIB)
    assert failovers == 1
    offset = (await elsewhere.find(ALICE, upload_id)).received
    if lost == "answer":
        assert offset == MIB
        with pytest.raises(Refused) as refused:
            await add(elsewhere, upload_id, data[MIB:], MIB)
        assert refused.value.facts == {"offset": 0}
        await end_whole(elsewhere, upload_id, data, 0)
    else:
        uploaded = (await elsewhere.settled(ALICE, upload_id)).uploaded
        assert uploaded is not None
        found = await database.call("SELECT FROM idempotency WHERE answer ->> 'media_id' = %s", (uploaded.media_id,))
        assert len(found) == 1
    assert await broken(database, uploads.store, uploads.tenant_id) == []


async def test_a_failover_that_loses_bytes_of_a_part_makes_no_shorter_final_upload(
    resumables: Resumables, database: Database
) -> None:
    """The process goes on at a server that has lost the newest commits."""
    finals, data = Finals(resumables), [os.urandom(2 * MIB), os.urandom(MIB)]
    parts = [(await resumables.create(ALICE, FILE, len(its), partial=True)).upload_id for its in data]
    await add(resumables, parts[0], data[0][:MIB], 0)
    await add(resumables, parts[0], data[0][MIB:], MIB)
    await add(resumables, parts[1], data[1], 0)
    stored = finals._stored

    async def after_the_loss(*arguments: Any) -> Uploaded:
        await lose_the_newest(database, parts[0], left=MIB)
        return await stored(*arguments)

    finals._stored = after_the_loss  # type: ignore[method-assign]
    with pytest.raises(Refused) as refused:
        await finals.concatenate(ALICE, "final;", parts, FILE)
    assert refused.value.code == "upload_locked"
    await add(resumables, parts[0], data[0][MIB:], MIB)
    uploaded = (await Finals(resumables).concatenate(ALICE, "final;", parts, FILE)).uploaded
    assert uploaded is not None
    assert uploaded.sha256 == hashlib.sha256(b"".join(data)).hexdigest()


@pytest.mark.parametrize("lost", ["file", "file and row"])
async def test_the_parts_of_a_final_upload_that_a_failover_has_lost_stay(
    resumables: Resumables,
    uploads: Uploads,
    library: Library,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    lost: str,
) -> None:
    finals, data, commit, insert = Finals(resumables), [os.urandom(MIB), os.urandom(MIB)], Upload.commit, Rows.insert
    parts = [(await resumables.create(ALICE, FILE, MIB, partial=True)).upload_id for _ in data]
    for part, its in zip(parts, data, strict=True):
        await add(resumables, part, its, 0)

    async def lose(uploaded: Uploaded) -> None:
        await library.contents.delete_item(uploaded.media_id)
        await database.call("DELETE FROM media_tombstone", ())
        await database.call("DELETE FROM idempotency", ())
        await database.call("DELETE FROM upload WHERE concat <> 'partial'", ())

    async def commit_and_lose(*arguments: Any, **how: Any) -> Uploaded:
        uploaded = await commit(*arguments, **how)
        if lost == "file":
            await lose(uploaded)
        return uploaded

    async def insert_and_lose(*arguments: Any, **how: Any) -> bool:
        is_inserted = await insert(*arguments, **how)
        if lost == "file and row":
            await lose(how["uploaded"])
        return is_inserted

    with monkeypatch.context() as patch, pytest.raises((Refused, Unavailable)):
        patch.setattr(Upload, "commit", commit_and_lose)
        patch.setattr(Rows, "insert", insert_and_lose)
        await finals.concatenate(ALICE, "final;", parts, FILE)
    uploaded = (await finals.concatenate(ALICE, "final;", parts, FILE)).uploaded
    assert uploaded is not None
    assert uploaded.sha256 == hashlib.sha256(b"".join(data)).hexdigest()
    assert await broken(database, uploads.store, uploads.tenant_id) == []


@pytest.mark.usefixtures("pieces_apart")
@pytest.mark.parametrize("lost", [[0], [1], [0, 1]], ids=["first", "second", "both"])
async def test_an_upload_without_a_piece_in_its_middle_does_not_become_a_shorter_file(
    resumables: Resumables, database: Database, lost: list[int]
) -> None:
    data = os.urandom(3 * MIB)
    upload_id = (await resumables.create(ALICE, FILE, len(data))).upload_id
    await add(resumables, upload_id, data[:MIB], 0)
    await add(resumables, upload_id, data[MIB : 2 * MIB], MIB)
    await database.call("DELETE FROM upload_piece WHERE number = ANY(%s)", (lost,))
    with pytest.raises(Refused) as refused:
        await add(resumables, upload_id, data[2 * MIB :], 2 * MIB)
    offset = lost[0] * MIB
    assert (refused.value.code, refused.value.facts) == ("offset_mismatch", {"offset": offset})
    await end_whole(resumables, upload_id, data, offset)


async def test_uploads_that_have_expired_do_not_count_among_those_under_way(
    resumables: Resumables, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their owner can neither go on with them nor delete them."""
    monkeypatch.setattr(resumable, "MOST_OPEN", 1)
    await resumables.create(ALICE, FILE, 1000)
    with pytest.raises(Refused) as refused:
        await resumables.create(ALICE, FILE, 1000)
    assert refused.value.code == "too_many_uploads"
    await database.call("UPDATE upload SET expires_at = now()", ())
    await resumables.create(ALICE, FILE, 1000)


@pytest.mark.parametrize("left", [None, 1000], ids=["gone", "cut"])
@pytest.mark.parametrize("sees", ["bytes", "whole"])
async def test_what_a_folder_has_lost_of_a_piece_comes_again(
    uploads: Uploads,
    folder_store: FolderStore,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    left: int | None,
    sees: str,
) -> None:
    """As after the folder's disk was restored. It is met by further bytes, or by whoever asks for a whole upload."""
    at, data = Resumables(uploads, lifetime=timedelta(days=1)), os.urandom(3 * MIB)
    upload_id = (await at.create(ALICE, FILE, len(data))).upload_id
    before = 2 * MIB if sees == "bytes" else len(data)
    with monkeypatch.context() as away:
        away.setattr(uploads, "whole", _away)
        with contextlib.suppress(Unavailable):
            await add(at, upload_id, data[:before], 0)
    ((name,),) = await database.call("SELECT name FROM upload_piece", ())
    piece = folder_store._root / staging_key(uploads.tenant_id, name)
    if left is None:
        piece.unlink()
    else:
        os.truncate(piece, left)
    if sees == "bytes":
        with pytest.raises(Refused) as refused:
            await add(at, upload_id, data[before:], before)
        assert (refused.value.code, refused.value.facts) == ("offset_mismatch", {"offset": 0})
    assert (await at.settled(ALICE, upload_id)).received == 0
    uploaded = (await add(at, upload_id, data, 0)).uploaded
    assert uploaded is not None
    assert await folder_store.read(content_key(uploads.tenant_id, uploaded.sha256), 0, len(data)) == data
    assert await broken(database, folder_store, uploads.tenant_id) == []


@pytest.mark.parametrize(
    ("before", "known"),
    [(6 * MIB, True), (6 * MIB, False), (0, True)],
    ids=["hash known", "hash unknown", "only piece, hash known"],
)
async def test_where_the_last_piece_of_a_whole_upload_is_gone_its_bytes_come_again(
    uploads: Uploads,
    library: Library,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    before: int,
    known: bool,
) -> None:
    server = await s3_servers.start("versitygw", tmp_path)
    uploads.store = library.store = store = S3Store(server.settings, uploads.tenant_id)
    at, data = Resumables(uploads, lifetime=timedelta(days=1)), os.urandom(before + 2000)
    upload_id = (await at.create(ALICE, FILE, len(data))).upload_id
    try:
        if before:
            await add(at, upload_id, data[:before], 0)
        finish = Resumables.finish

        async def after_the_loss(at: Resumables, caller: Claims, claim: Claim, **how: Any) -> None:
            assert claim.last is not None
            await store._delete(staging_key(uploads.tenant_id, claim.last.name))
            if not known:
                at.hashes.take(claim)
            await finish(at, caller, claim, **how)

        with monkeypatch.context() as patch, pytest.raises(Refused) as refused:
            patch.setattr(Resumables, "finish", after_the_loss)
            await add(at, upload_id, data[before:], before)
        assert refused.value.code == "offset_mismatch"
        offset = (await at.settled(ALICE, upload_id)).received
        assert refused.value.facts == {"offset": offset}
        await end_whole(at, upload_id, data, offset)
    finally:
        await store.aclose()
        server.stop()


@pytest.mark.usefixtures("pieces_apart")
@pytest.mark.parametrize("known", [True, False], ids=["hash known", "hash unknown"])
@pytest.mark.parametrize("kind", ["folder", "s3"])
async def test_where_a_piece_before_the_last_is_gone_the_bytes_from_there_on_come_again(
    uploads: Uploads,
    library: Library,
    folder_store: FolderStore,
    database: Database,
    tmp_path: Path,
    kind: str,
    known: bool,
) -> None:
    """As after the disk of the store was lost, or restored from a backup."""
    server = await s3_servers.start("versitygw", tmp_path) if kind == "s3" else None
    store = folder_store if server is None else S3Store(server.settings, uploads.tenant_id)
    uploads.store = library.store = store
    at, data = Resumables(uploads, lifetime=timedelta(days=1)), os.urandom(12 * MIB + 2000)
    upload_id = (await at.create(ALICE, FILE, len(data))).upload_id
    try:
        await add(at, upload_id, data[: 6 * MIB], 0)
        await add(at, upload_id, data[6 * MIB : 12 * MIB], 6 * MIB)
        first, second, *_ = await database.call("SELECT name, size FROM upload_piece ORDER BY number", ())
        if isinstance(store, S3Store):
            offset = first.size
            await store._delete(staging_key(uploads.tenant_id, second.name))
        else:  # the second is the last one there
            offset = 0
            (store._root / staging_key(uploads.tenant_id, first.name)).unlink()
        if not known:
            at.hashes._kept.clear()
        with pytest.raises(Refused) as refused:
            await add(at, upload_id, data[12 * MIB :], 12 * MIB)
        assert (refused.value.code, refused.value.facts) == ("offset_mismatch", {"offset": offset})
        assert (await at.settled(ALICE, upload_id)).received == offset
        left = await database.call("SELECT name FROM upload_piece", ())
        assert await staged(store) == {row.name for row in left}
        await end_whole(at, upload_id, data, offset)
        assert await broken(database, store, uploads.tenant_id) == []
    finally:
        if server is not None:
            await store.aclose()
            server.stop()


@pytest.mark.parametrize("lost", ["file", "row"])
async def test_a_part_whose_bytes_are_lost_is_complete_no_more_and_its_bytes_come_again(
    resumables: Resumables, uploads: Uploads, folder_store: FolderStore, database: Database, lost: str
) -> None:
    finals, data = Finals(resumables), [os.urandom(MIB), os.urandom(MIB)]
    parts = [(await resumables.create(ALICE, FILE, MIB, partial=True)).upload_id for _ in data]
    for part, its in zip(parts, data, strict=True):
        await add(resumables, part, its, 0)
    if lost == "file":
        ((name,),) = await database.call("SELECT name FROM upload_piece WHERE upload_id = %s", (parts[1],))
        (folder_store._root / staging_key(uploads.tenant_id, name)).unlink()
    else:
        await database.call("DELETE FROM upload_piece WHERE upload_id = %s", (parts[1],))
    concat = f"final;{parts[0]} {parts[1]}"
    with pytest.raises(Refused) as refused:
        await finals.concatenate(ALICE, concat, parts, FILE)
    assert refused.value.code == "bad_request"
    assert [(await resumables.find(ALICE, part)).received for part in parts] == [MIB, 0]
    assert (await usage(database)).reserved == 2 * MIB
    await add(resumables, parts[1], data[1], 0)
    uploaded = (await finals.concatenate(ALICE, concat, parts, FILE)).uploaded
    assert uploaded is not None
    assert uploaded.sha256 == hashlib.sha256(b"".join(data)).hexdigest()
    assert await broken(database, folder_store, uploads.tenant_id) == []


async def test_a_part_whose_bytes_are_lost_before_another_final_upload_claims_it_makes_no_shorter_file(
    resumables: Resumables, elsewhere: Resumables, folder_store: FolderStore, database: Database, uploads: Uploads
) -> None:
    """The other one has seen that all parts are complete."""
    data = os.urandom(MIB)
    parts = [(await resumables.create(ALICE, FILE, MIB, partial=True)).upload_id for _ in range(2)]
    for part in parts:
        await add(resumables, part, data, 0)
    ((name,),) = await database.call("SELECT name FROM upload_piece WHERE upload_id = %s", (parts[1],))
    (folder_store._root / staging_key(uploads.tenant_id, name)).unlink()
    concat, later = f"final;{parts[0]} {parts[1]}", Finals(elsewhere)
    size_of = later._size

    async def then_lost(caller: Claims, parts: Sequence[str]) -> int:
        size = await size_of(caller, parts)
        with pytest.raises(Refused):
            await Finals(resumables).concatenate(caller, concat, parts, FILE)
        return size

    later._size = then_lost  # type: ignore[method-assign]
    with pytest.raises(Refused) as refused:
        await later.concatenate(ALICE, concat, parts, FILE)
    assert refused.value.code == "bad_request"
    assert (await usage(database)).reserved == 2 * MIB
    assert await broken(database, folder_store, uploads.tenant_id) == []


async def _away(*_: object) -> None:
    raise Unavailable("database", "it is away when the upload is to be stored")
