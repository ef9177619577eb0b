"""Stored items with their access rules: rooms, deleting, verdicts, the sweep."""

import secrets
from typing import Any, LiteralString

import pytest

from media_core.auth.tokens import Claims
from media_core.contents import quota
from media_core.contents.quota import Usage
from media_core.database import Database, Transaction
from media_core.errors import Refused, Unavailable
from media_core.items.library import Library
from media_core.jobs.queue import Lease, LeaseLost, NotYet, Queue, enqueue, enqueue_scan
from media_core.store.folder import FolderStore
from media_core.store.object_keys import content_key, thumbnail_key
from media_core.upkeep.sweep import sweep
from media_core.uploads.upload import Uploads
from tests.fixtures.media import photo
from tests.integration.acting import days_pass, judge, left_behind, minutes_pass, upload, usage, verdict
from tests.integration.servers.api import Api
from tests.integration.servers.api import upload as upload_to
from tests.integration.tenancy import ADMIN, ALICE, BOB, GENEROUS, STRANGER


async def refusal(coroutine: object) -> str:
    with pytest.raises(Refused) as refused:
        await coroutine  # type: ignore[misc]  # any awaitable
    return refused.value.code


async def test_infected_content_is_gone_from_every_path_and_from_the_quota_and_refused_when_it_comes_again(
    uploads: Uploads, library: Library, database: Database, folder_store: FolderStore
) -> None:
    picture = photo(640, 480)
    uploaded = await upload(uploads, picture, room_id="garden", tenant_scope=True)
    again = await upload(uploads, picture, caller=BOB)
    await judge(library, database, uploaded, "infected")
    for caller, media_id in ((ALICE, uploaded.media_id), (BOB, again.media_id), (ADMIN, uploaded.media_id)):
        assert await refusal(library.find(caller, media_id, "see")) == "not_found"
        assert await refusal(library.find(caller, media_id, "read")) == "not_found"
    assert await refusal(library.require_servable(uploaded.sha256)) == "not_found"
    assert await library.list_room(ALICE, "garden") == []
    assert await refusal(library.rescan(ADMIN, uploaded.media_id)) == "not_found"
    assert await refusal(upload(uploads, picture)) == "infected"
    assert [entry async for entry in folder_store.list()] == []
    assert await usage(database) == Usage(0, 0, GENEROUS.max_bytes)


async def test_a_verdict_needs_the_lease(uploads: Uploads, library: Library, database: Database) -> None:
    uploaded = await upload(uploads, b"x")
    queue = Queue(database)
    lease = await queue.lease("scan", worker="first", seconds=30)
    assert lease is not None
    stale = Lease(lease.job_id, "scan", "another token", lease.payload, 1)
    with pytest.raises(LeaseLost):
        await verdict(library, stale, "clean")
    assert await refusal(library.find(ALICE, uploaded.media_id, "read")) == "scan_pending"
    await verdict(library, lease, "clean")
    assert (await library.find(ALICE, uploaded.media_id, "read")).scan_status == "clean"


async def test_a_later_rescan_can_find_clean_content_infected_which_is_held_and_gone_when_its_days_are_over(
    uploads: Uploads, library: Library, database: Database, folder_store: FolderStore
) -> None:
    uploaded = await upload(uploads, b"slept for a month")
    await judge(library, database, uploaded, "clean")
    await library.rescan(ADMIN, uploaded.media_id)
    assert (await library.find(ALICE, uploaded.media_id, "read")).scan_status == "clean"
    await judge(library, database, uploaded, "infected")
    assert await refusal(library.find(ALICE, uploaded.media_id, "see")) == "not_found"
    assert await refusal(library.require_servable(uploaded.sha256)) == "not_found"
    assert await refusal(upload(uploads, b"slept for a month")) == "infected"
    assert await usage(database) == Usage(0, 0, GENEROUS.max_bytes)
    key = content_key(uploads.tenant_id, uploaded.sha256)
    assert (await sweep(library)).marked == 0
    assert await folder_store.head(key) is not None
    await days_pass(database)
    assert (await sweep(library)).marked == 1
    assert await folder_store.head(key) is None
    assert await refusal(upload(uploads, b"slept for a month")) == "infected"


async def test_what_a_rescan_found_wrongly_is_back_as_it_was_once_newer_signatures_let_it_go(
    uploads: Uploads, library: Library, database: Database, folder_store: FolderStore
) -> None:
    data = photo(640, 480)
    uploaded = await upload(uploads, data, room_id="garden")
    second = await upload(uploads, data, caller=BOB)
    await judge(library, database, uploaded, "clean")
    before = await library.totals()
    await library.rescan(ADMIN, uploaded.media_id)
    await judge(library, database, uploaded, "infected")
    assert (await library.totals()).usage.items == 0
    async with database.transaction() as tx:
        await enqueue_scan(tx, uploaded.sha256)
    await judge(library, database, uploaded, "clean")
    assert await library.totals() == before
    assert (await library.find(BOB, second.media_id, "read")).scan_status == "clean"
    assert [entry.item.media_id for entry in await library.list_room(ALICE, "garden")] == [uploaded.media_id]
    key = content_key(uploads.tenant_id, uploaded.sha256)
    assert b"".join([chunk async for chunk in folder_store.stream(key)]) == data
    await days_pass(database)
    assert (await sweep(library)).marked == 0


async def test_a_scan_that_fails_for_good_leaves_the_content_closed_and_the_sweep_tries_again(
    uploads: Uploads, library: Library, database: Database
) -> None:
    uploaded = await upload(uploads, b"x")
    queue = Queue(database)
    lease = await queue.lease("scan", worker="test", seconds=30)
    assert lease is not None
    await queue.fail(lease, "broken", "clamd said something odd", retry=False)
    assert (await library.find(ALICE, uploaded.media_id, "see")).scan_status == "error"
    assert await refusal(library.find(ALICE, uploaded.media_id, "read")) == "scan_pending"
    async with database.transaction() as tx:
        await tx.execute("UPDATE blob SET scanned_at = now() - interval '1 hour'")
    assert (await sweep(library)).scans == 1
    await judge(library, database, uploaded, "clean")
    assert (await library.find(ALICE, uploaded.media_id, "read")).scan_status == "clean"


async def test_bytes_go_with_the_last_reference_and_quota_follows(
    uploads: Uploads, library: Library, database: Database, folder_store: FolderStore
) -> None:
    picture = photo(640, 480)
    first = await upload(uploads, picture)
    second = await upload(uploads, picture, caller=BOB)
    before = await usage(database)
    await library.delete(ALICE, first.media_id)
    assert await usage(database) == before
    assert await folder_store.head(content_key(uploads.tenant_id, first.sha256)) is not None
    await library.delete(BOB, second.media_id)
    assert await left_behind(database, folder_store) == (0, 0, 0, 0, 0)
    assert await folder_store.head(thumbnail_key(uploads.tenant_id, first.sha256)) is None
    assert await usage(database) == Usage(0, 0, GENEROUS.max_bytes)


async def test_deleting_twice_is_like_deleting_once_for_its_uploader_only(uploads: Uploads, library: Library) -> None:
    uploaded = await upload(uploads, b"x", tenant_scope=True)
    assert await refusal(library.delete(BOB, uploaded.media_id)) == "not_yours"
    await library.delete(ALICE, uploaded.media_id)
    await library.delete(ALICE, uploaded.media_id)
    await library.delete(ADMIN, uploaded.media_id)
    assert await refusal(library.delete(BOB, uploaded.media_id)) == "not_found"
    assert await refusal(library.delete(ALICE, "med-01ARZ3NDEKTSV4RRFFQ69G5FAV")) == "not_found"


async def test_a_room_lists_newest_first_page_by_page(uploads: Uploads, library: Library) -> None:
    names = [f"{number}.txt" for number in range(5)]
    for name in names:
        await upload(uploads, secrets.token_bytes(10), filename=name, room_id="garden")
    first = await library.list_room(BOB, "garden", limit=3)
    rest = await library.list_room(BOB, "garden", limit=3, before=(first[-1].added_at, first[-1].item.media_id))
    assert [entry.item.filename for entry in first + rest] == names[::-1]
    assert await refusal(library.list_room(STRANGER, "garden")) == "not_found"


async def test_a_room_can_be_asked_for_pictures_only(uploads: Uploads, library: Library) -> None:
    await upload(uploads, photo(64, 64), filename="a.jpg", room_id="garden")
    await upload(uploads, b"notes", filename="a.txt", room_id="garden")
    assert [e.item.filename for e in await library.list_room(BOB, "garden", category="image")] == ["a.jpg"]
    assert [e.item.filename for e in await library.list_room(BOB, "garden", category="document")] == ["a.txt"]


async def test_attaching_shows_an_item_to_the_room_and_detaching_hides_it_and_keeps_it(
    uploads: Uploads, library: Library
) -> None:
    uploaded = await upload(uploads, b"x")
    assert await refusal(library.attach(BOB, "garden", uploaded.media_id)) == "not_found"
    entry = await library.attach(ALICE, "garden", uploaded.media_id)
    assert (await library.attach(ALICE, "garden", uploaded.media_id)).added_at == entry.added_at
    assert (await library.find(BOB, uploaded.media_id, "see")).rooms == ("garden",)
    assert await refusal(library.detach(STRANGER, "garden", uploaded.media_id)) == "not_found"
    await library.detach(BOB, "garden", uploaded.media_id)
    assert await refusal(library.detach(BOB, "garden", uploaded.media_id)) == "not_found"
    assert await refusal(library.find(BOB, uploaded.media_id, "see")) == "not_found"
    assert (await library.find(ALICE, uploaded.media_id, "see")).rooms == ()


async def test_an_entry_is_not_detached_while_it_is_attached_again(
    uploads: Uploads, library: Library, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploaded = await upload(uploads, b"x", room_id="garden")
    execute = Transaction.execute

    async def detached_behind(tx: Transaction, query: LiteralString, arguments: Any = ()) -> list[Any]:
        rows = await execute(tx, query, arguments)
        if "INSERT INTO room_file" in query:
            detach = "DELETE FROM room_file WHERE ctid IN (SELECT ctid FROM room_file FOR UPDATE SKIP LOCKED)"
            await database.call(detach, ())
        return rows

    monkeypatch.setattr(Transaction, "execute", detached_behind)
    assert (await library.attach(ALICE, "garden", uploaded.media_id)).item.media_id == uploaded.media_id
    assert [each.item.media_id for each in await library.list_room(BOB, "garden")] == [uploaded.media_id]


async def test_totals_tell_what_dedupe_saved(uploads: Uploads, library: Library) -> None:
    for caller in (ALICE, BOB, ALICE):
        await upload(uploads, b"x" * 1000, caller=caller)
    totals = await library.totals()
    assert (totals.objects, totals.usage.items, totals.dedupe_saved, totals.usage.stored) == (1, 3, 2000, 1000)


async def test_totals_tell_how_much_was_transcribed_today(library: Library, database: Database) -> None:
    assert (await library.totals()).transcribed_today == 0
    async with database.transaction() as tx:
        for seconds in (60, 40):
            job_id = await enqueue(tx, "transcribe", {"sha256": "0" * 64})
            await quota.charge_transcription(tx, job_id, seconds, 1000)
    assert (await library.totals()).transcribed_today == 100
    async with database.transaction() as tx:
        await tx.execute("UPDATE transcription_day SET day = day - 1")
    assert (await library.totals()).transcribed_today == 0


class Died(Exception):
    """Stands for a process that was killed at this point."""


async def test_the_sweep_finishes_a_deletion_that_died_half_way(
    uploads: Uploads, library: Library, database: Database, folder_store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploaded = await upload(uploads, b"x")

    async def dies(sha256: str) -> None:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(library.contents, "remove", dies)
        with pytest.raises(Died):
            await library.delete(ALICE, uploaded.media_id)
    assert await usage(database) == Usage(0, 0, GENEROUS.max_bytes)
    assert (await sweep(library)).marked == 1
    assert await left_behind(database, folder_store) == (0, 0, 0, 0, 0)


async def test_content_that_is_uploaded_again_before_it_was_removed_stays(
    uploads: Uploads, library: Library, database: Database, folder_store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploaded = await upload(uploads, b"x" * 100)

    async def later(sha256: str) -> None:
        return

    with monkeypatch.context() as patch:
        patch.setattr(library.contents, "remove_soon", later)
        await library.delete(ALICE, uploaded.media_id)
    await upload(uploads, b"x" * 100)
    assert not await library.contents.remove(uploaded.sha256)
    assert await folder_store.head(content_key(uploads.tenant_id, uploaded.sha256)) is not None
    assert (await usage(database)).stored == 100


async def test_a_deletion_is_done_once_it_is_committed_wherever_the_store_is_and_the_sweep_finishes_it(
    fresh_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(self: FolderStore, *keys: str) -> None:
        raise Unavailable("object store", "connection refused")

    async with fresh_api.client() as client:
        uploaded = await upload_to(client, b"x" * 1000)
        with monkeypatch.context() as patch:
            patch.setattr(FolderStore, "delete", away)
            assert (await client.delete(f"/v1/media/{uploaded['media_id']}")).status_code == 204
        assert (await client.get(f"/v1/media/{uploaded['media_id']}/info")).status_code == 404
        assert (await client.delete(f"/v1/media/{uploaded['media_id']}")).status_code == 204
    assert (await usage(fresh_api.database)).stored == 0
    assert (await sweep(fresh_api.library)).marked == 0  # its claim may still be held
    await minutes_pass(fresh_api.database)
    assert (await sweep(fresh_api.library)).marked == 1
    assert [entry.key async for entry in fresh_api.store.list() if not entry.key.endswith("/.birth")] == []


async def test_callers_see_only_their_own_rooms_of_an_item(uploads: Uploads, library: Library) -> None:
    both = Claims("both", ALICE.scopes, frozenset({"garden", "cellar"}), ALICE.expires)
    uploaded = await upload(uploads, b"x", caller=both, room_id="garden")
    await library.attach(both, "cellar", uploaded.media_id)
    assert (await library.find(BOB, uploaded.media_id, "see")).media_id == uploaded.media_id


async def test_a_verdict_ends_the_wait_of_the_transcription_that_needs_it(
    uploads: Uploads, library: Library, database: Database
) -> None:
    uploaded = await upload(uploads, b"x")
    queue = Queue(database)
    async with database.transaction() as tx:
        await enqueue(tx, "transcribe", {"sha256": uploaded.sha256, "media_id": uploaded.media_id})
    waiting = await queue.lease("transcribe", worker="test", seconds=30)
    assert waiting is not None
    with pytest.raises(NotYet) as wait:
        await library.content_for_work(uploaded.media_id)
    await queue.release(waiting, wait.value.after)
    assert await queue.lease("transcribe", worker="test", seconds=30) is None
    await judge(library, database, uploaded, "clean")
    assert await queue.lease("transcribe", worker="test", seconds=30) is not None
    assert (await library.content_for_work(uploaded.media_id)).size == 1
