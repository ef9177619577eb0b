"""The same bytes again: remains of a content's earlier life do not affect the present one.

Also pods of the previous version, which know neither reservations with a hash nor claims, beside these.
"""

import secrets
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg.errors import SerializationFailure

from media_core.contents.life import Again, Contents, Facts, NewItem
from media_core.database import Database
from media_core.items.library import Library
from media_core.jobs.queue import Queue, enqueue_scan
from media_core.store.object_keys import content_key
from tests.integration.acting import days_pass, minutes_pass, verdict
from tests.integration.invariants import broken
from tests.integration.tenancy import TenantDatabase

SHA = "a" * 64
FILM = Facts(1, "video/mp4", thumbnail_status="pending")
RESCAN = -2


def item() -> NewItem:
    return NewItem("med-" + secrets.token_hex(8), "a", None, "alice", False, None, None, "{}")


async def put(contents: Contents, sha256: str = SHA) -> str:
    """Uploads a content, and returns the id of its new item."""
    async with contents.reservation() as reservation:
        new = item()
        begun = await reservation.begin(sha256, 1, new)
        if begun.answer is None:
            assert begun.state == "reserved"
            await contents.store.put(content_key(contents.tenant_id, sha256), b"x")
            await contents.commit(reservation, sha256, FILM, new)
        return new.media_id


async def rows(database: Database, query: Any) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await database.call(query, ())]


async def scanned(library: Library, status: str, detail: str | None = None) -> None:
    """Gives the verdict on the next content in the queue."""
    lease = await Queue(library.database).lease("scan", worker="w", seconds=30)
    assert lease is not None
    await verdict(library, lease, status, detail)


async def rescanned(library: Library, sha256: str, status: str, detail: str | None = None) -> None:
    async with library.database.transaction() as tx:
        await enqueue_scan(tx, sha256, priority=RESCAN)
    await scanned(library, status, detail)


async def test_a_film_that_comes_again_while_its_thumbnail_is_given_up_gets_one(
    contents: Contents, library: Library, database: Database
) -> None:
    queue = Queue(database)
    first = await put(contents)
    lease = await queue.lease("thumbnail", worker="w", seconds=30)
    assert lease is not None
    await contents.delete_item(first)
    assert await library.content(SHA) is None  # what the worker sees
    await put(contents)
    await queue.fail(lease, "not_found", "gone", retry=False)
    assert await rows(database, "SELECT thumbnail_status FROM blob") == [("pending",)]
    assert await queue.lease("thumbnail", worker="w", seconds=30) is not None


async def test_content_that_comes_again_while_its_scan_is_given_up_is_scanned(
    contents: Contents, library: Library, database: Database
) -> None:
    queue = Queue(database)
    first = await put(contents)
    lease = await queue.lease("scan", worker="w", seconds=30)
    assert lease is not None
    await contents.delete_item(first)
    await put(contents)
    await queue.finish(lease, {})
    await scanned(library, "clean")
    assert await rows(database, "SELECT scan_status FROM blob") == [("clean",)]


async def test_content_that_comes_again_is_scanned_like_a_new_upload_and_no_job_of_before_is_left(
    contents: Contents, library: Library, database: Database
) -> None:
    first = await put(contents)
    await scanned(library, "clean")
    async with database.transaction() as tx:
        await enqueue_scan(tx, SHA, priority=RESCAN)
    await contents.delete_item(first)
    for _ in range(3):
        await contents.delete_item(await put(contents))
    await put(contents)
    assert await rows(database, "SELECT kind, priority FROM job WHERE status = 'queued' ORDER BY kind") == [
        ("scan", 0),
        ("thumbnail", 0),
    ]


# -- pods of the version before ----------------------------------------------------------------------------------------


async def test_what_a_pod_of_the_version_before_removes_under_an_upload_is_put_again(
    contents: Contents, database: Database, tenant_database: TenantDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await put(contents)
    async with contents.reservation() as reservation:
        with monkeypatch.context() as patch:
            patch.setattr(contents, "remove_soon", _later)
            await contents.delete_item(first)
        new = item()
        assert (await reservation.begin(SHA, 1, new)).state == "reserved"
        await contents.store.put(content_key(contents.tenant_id, SHA), b"x")
        async with await _before(tenant_database) as old:
            await old.execute("SELECT FROM blob WHERE sha256 = %s AND doomed_at IS NOT NULL FOR UPDATE", (SHA,))
            await contents.store.delete(content_key(contents.tenant_id, SHA))
            await old.execute("DELETE FROM blob WHERE sha256 = %s", (SHA,))
        with pytest.raises(Again):
            await contents.commit(reservation, SHA, FILM, new)
    assert await broken(database, contents.store, contents.tenant_id) == []  # type: ignore[arg-type]


async def test_a_pod_of_the_version_before_takes_up_nothing_that_is_being_removed(
    contents: Contents, database: Database, tenant_database: TenantDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await put(contents)
    delete = contents.store.delete

    async def meanwhile(*keys: str) -> None:
        with pytest.raises(SerializationFailure):
            async with await _before(tenant_database) as old:
                await old.execute("SELECT FROM blob WHERE sha256 = %s FOR NO KEY UPDATE", (SHA,))
                await old.execute("UPDATE blob SET doomed_at = NULL WHERE sha256 = %s", (SHA,))
        await delete(*keys)

    monkeypatch.setattr(contents.store, "delete", meanwhile)
    await contents.delete_item(first)
    assert await rows(database, "SELECT FROM blob") == []


async def _later(_: str) -> None:
    """A pod that ended."""


async def _before(tenant: TenantDatabase) -> psycopg.AsyncConnection[Any]:
    return await psycopg.AsyncConnection.connect(tenant.url.replace("+psycopg", ""))


# -- suspicion ---------------------------------------------------------------------------------------------------------

MANY = [letter * 64 for letter in "abcdefg"]


async def open_contents(contents: Contents, library: Library) -> None:
    for sha256 in MANY:
        await put(contents, sha256)
        await scanned(library, "clean")


async def suspicions(database: Database) -> list[tuple[Any, ...]]:
    return await rows(database, "SELECT signature FROM suspicion ORDER BY signature")


async def test_a_removal_that_began_before_the_suspicion_is_ended(
    contents: Contents, library: Library, database: Database
) -> None:
    await open_contents(contents, library)
    await rescanned(library, MANY[0], "infected", "Bad")
    await days_pass(database)
    ((until,),) = await database.call("SELECT content_claim_removal(%s, %s)", (MANY[0], timedelta(minutes=2)))
    assert until is not None  # and its holder ends here
    for sha256 in MANY[1:]:
        await rescanned(library, sha256, "infected", "Bad")
    assert await suspicions(database) == [("Bad",)]
    await minutes_pass(database)
    assert await contents.remove(MANY[0])
    for sha256 in MANY[1:]:
        await rescanned(library, sha256, "clean")
    assert await suspicions(database) == []


async def test_what_is_found_under_another_name_is_the_first_ones_no_more(
    contents: Contents, library: Library, database: Database
) -> None:
    await open_contents(contents, library)
    for sha256 in MANY:
        await rescanned(library, sha256, "infected", "Wrong")
    for sha256 in MANY[:-1]:
        await rescanned(library, sha256, "clean")
    await rescanned(library, MANY[-1], "infected", "Right")
    assert await suspicions(database) == []
    assert await rows(database, "SELECT scan_detail FROM blob WHERE scan_status = 'infected'") == [("Right",)]


async def test_a_suspicion_cancels_no_rescan_of_what_it_holds(
    contents: Contents, library: Library, database: Database
) -> None:
    await open_contents(contents, library)
    for sha256 in MANY[:-1]:
        await rescanned(library, sha256, "infected", "Wrong")
    async with database.transaction() as tx:
        await enqueue_scan(tx, MANY[0], priority=RESCAN)
    await put(contents, "1" * 64)
    await scanned(library, "infected", "Wrong")  # the new one goes first
    async with database.transaction() as tx:
        left = await tx.execute("SELECT dedupe_key FROM job WHERE kind = 'scan' AND status = 'queued'")
    assert [row.dedupe_key for row in left] == [MANY[0]]
