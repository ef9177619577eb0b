"""A store that loses an object which it has acknowledged: who meets it, what is noted, and how the bytes come back."""

import asyncio
import base64
import hashlib
import os
import secrets
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from media_core.contents.life import NewItem
from media_core.database import Database
from media_core.decoding.pool import DecodingPool
from media_core.errors import Lost, NotNow, Refused, Unavailable
from media_core.items.library import Library
from media_core.jobs.queue import Queue
from media_core.store import FolderStore
from media_core.store.object_keys import content_key, thumbnail_key
from media_core.upkeep import sweep as sweeping
from media_core.upkeep.sweep import sweep
from media_core.uploads.claims import Declared
from media_core.uploads.resumable import Resumables
from media_core.uploads.upload import Uploads
from media_operator.local.postgres import EmbeddedPostgres
from media_workers.drain import Drain, Work
from media_workers.settings import DrainSettings
from media_workers.thumbnail import make_video_thumbnail
from tests.fixtures.media import film, photo
from tests.integration.acting import judge, upload, usage
from tests.integration.invariants import broken
from tests.integration.servers.api import Api, anybody, problem, process
from tests.integration.servers.api import upload as post
from tests.integration.tenancy import ALICE, GENEROUS, MIB, TenantDatabase

DATA = b"bytes that somebody still has"


async def lose(store: FolderStore, sha256: str, *, thumbnail: bool = True, content: bool = True) -> None:
    """As a bucket that is restored from an older backup, or a disk that is lost."""
    tenant_id = store._tenant_id
    keys = (content_key(tenant_id, sha256),) * content + (thumbnail_key(tenant_id, sha256),) * thumbnail
    await store.delete(*keys)


async def lost(database: Database) -> set[str]:
    return {row.sha256 for row in await database.call("SELECT sha256 FROM blob WHERE lost_at IS NOT NULL", ())}


async def make_thumbnails(api: Api, pool: DecodingPool) -> None:
    """As a worker does, where one is to be made."""
    library = api.library
    work = Work(api.database, Queue(api.database), library, library.store, pool, library.policy)
    one = Drain("thumbnail", make_video_thumbnail, work, DrainSettings(linger_seconds=0))
    await one.run()
    assert one.handled == 1


async def statement_counts(uploads: Uploads, act: Callable[[], Awaitable[Any]]) -> tuple[int, int]:
    """Statements of `contents.life`, and requests to the store, that `act` takes."""
    counts = [0, 0]
    call, store = uploads.database.call, uploads.store

    async def counted(*arguments: Any) -> Any:
        counts[0] += "content_" in arguments[0]  # not the policy, which is read again now and then
        return await call(*arguments)

    class Counting:
        def __getattr__(self, name: str) -> Any:
            counts[1] += name not in ("memory_of",)
            return getattr(store, name)

    uploads.database.call = counted  # type: ignore[method-assign]
    uploads.store = Counting()  # type: ignore[assignment]
    try:
        await act()
    finally:
        uploads.database.call = call  # type: ignore[method-assign]
        uploads.store = store
    return counts[0], counts[1]


# -- by HTTP -----------------------------------------------------------------------------------------------------------


async def test_whoever_meets_the_loss_gets_one_answer_and_the_same_bytes_bring_every_file_of_them_back(
    fresh_api: Api,
) -> None:
    picture = photo(640, 480)
    async with fresh_api.client() as client, fresh_api.client("root") as admin, anybody() as outsider:
        first = await post(client, picture, "a.jpg")
        second = await post(client, picture, "b.jpg")
        await fresh_api.verdict(first["sha256"])
        signed = f"/v1/media/signed/{first['media_id']}"
        urls = [(await client.get(signed, params={"via": via})).json()["data"]["url"] for via in ("api", "store")]
        await lose(fresh_api.store, first["sha256"])
        download = f"/v1/media/download/{first['media_id']}"
        for path in (download, download + "/thumbnail", f"/v1/media/download/{second['media_id']}"):
            said = problem(await client.get(path), 503, "file_lost")
            assert "upload it again" in said["detail"]
        assert await lost(fresh_api.database) == {first["sha256"]}
        assert (await client.head(download)).status_code == 503
        problem(await client.get(signed), 503, "file_lost")
        many = await client.post("/v1/media/sign", json={"media_ids": [first["media_id"]]})
        assert many.json()["data"][0]["error"]["code"] == "file_lost"
        for url in urls:
            problem(await outsider.get(url), 503, "file_lost")
        # A copy that a browser has is as good as before.
        revalidated = await client.get(download, headers={"If-None-Match": f'"{first["sha256"]}"'})
        assert revalidated.status_code == 304
        # What is known of it is still shown.
        assert (await client.get(f"/v1/media/{first['media_id']}/info")).status_code == 200

        third = await post(client, picture, "c.jpg")
        assert await lost(fresh_api.database) == set()
        for uploaded in (first, second, third):
            answer = await client.get(f"/v1/media/download/{uploaded['media_id']}")
            assert answer.content == picture
            assert (await client.get(f"/v1/media/download/{uploaded['media_id']}/thumbnail")).status_code == 200
        for url in urls:
            assert (await outsider.get(url)).content == picture
        assert (await admin.get(f"/v1/media/{third['media_id']}/info")).json()["data"]["scan_status"] == "clean"
    assert await broken(fresh_api.database, fresh_api.store, fresh_api.tenant.tenant_id) == []


async def test_a_file_that_was_deleted_is_not_found_and_not_lost(fresh_api: Api) -> None:
    async with fresh_api.client() as client:
        uploaded = await post(client, DATA)
        await fresh_api.verdict(uploaded["sha256"])
        await client.delete(f"/v1/media/{uploaded['media_id']}")
        problem(await client.get(f"/v1/media/download/{uploaded['media_id']}"), 404, "not_found")
    assert await lost(fresh_api.database) == set()


async def test_an_object_that_is_there_again_is_read_again_and_the_note_goes(fresh_api: Api) -> None:
    async with fresh_api.client() as client:
        uploaded = await post(client, DATA)
        await fresh_api.verdict(uploaded["sha256"])
        download = f"/v1/media/download/{uploaded['media_id']}"
        for method in ("GET", "HEAD"):
            await lose(fresh_api.store, uploaded["sha256"])
            problem(await client.get(download), 503, "file_lost")
            await fresh_api.store.put(content_key(fresh_api.tenant.tenant_id, uploaded["sha256"]), DATA)
            assert (await client.request(method, download)).status_code == 200
            assert await lost(fresh_api.database) == set()


async def test_an_object_that_has_become_empty_is_lost(fresh_api: Api) -> None:
    async with fresh_api.client() as client:
        uploaded = await post(client, DATA)
        await fresh_api.verdict(uploaded["sha256"])
        path = fresh_api.store._root / content_key(fresh_api.tenant.tenant_id, uploaded["sha256"])
        os.truncate(path, 5)
        download = f"/v1/media/download/{uploaded['media_id']}"
        problem(await client.get(download, headers={"Range": "bytes=10-"}), 503, "file_lost")
        os.truncate(path, 0)
        problem(await client.get(download), 503, "file_lost")
        await post(client, DATA)
        assert (await client.get(download)).content == DATA


async def test_a_thumbnail_stays_where_what_comes_is_not_what_the_store_has(
    fresh_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a proxy before the store that answers with a page of its own."""

    async def read(*_: object) -> bytes:
        return b"<html>Try again later</html>"

    async with fresh_api.client() as client:
        uploaded = await post(client, photo(640, 480), "a.jpg")
        await fresh_api.verdict(uploaded["sha256"])
        thumbnail = f"/v1/media/download/{uploaded['media_id']}/thumbnail"
        with monkeypatch.context() as patch:
            patch.setattr(FolderStore, "read", read)
            problem(await client.get(thumbnail), 503, "unavailable")
        assert (await client.get(thumbnail)).status_code == 200


async def test_an_object_that_was_cut_is_not_whole_by_a_url_of_the_folder_either(fresh_api: Api) -> None:
    async with fresh_api.client() as client, anybody() as nobody:
        uploaded = await post(client, DATA)
        await fresh_api.verdict(uploaded["sha256"])
        url = (await client.get(f"/v1/media/signed/{uploaded['media_id']}")).json()["data"]["url"]
        os.truncate(fresh_api.store._root / content_key(fresh_api.tenant.tenant_id, uploaded["sha256"]), 5)
        for method in ("GET", "HEAD"):
            assert (await nobody.request(method, url)).status_code == 503
        assert await lost(fresh_api.database) == {uploaded["sha256"]}
        await post(client, DATA)
        assert (await nobody.get(url)).content == DATA


@pytest.mark.parametrize("size", [1000, 3 * MIB])
async def test_who_reads_an_object_that_was_cut_does_not_take_it_for_whole_and_notes_the_loss(
    postgres: EmbeddedPostgres, tmp_path: Path, size: int
) -> None:
    data = os.urandom(size)
    async with process(postgres, tmp_path) as api, api.client() as client:
        uploaded = await post(client, data)
        await api.verdict(uploaded["sha256"])
        os.truncate(api.store._root / content_key(api.tenant.tenant_id, uploaded["sha256"]), size // 2)
        download = f"/v1/media/download/{uploaded['media_id']}"
        if size < MIB:
            problem(await client.get(download), 503, "file_lost")
        else:  # the status was sent before
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get(download)
        assert await lost(api.database) == {uploaded["sha256"]}
        await post(client, data)
        assert (await client.get(download)).content == data


async def test_a_thumbnail_that_is_lost_alone_is_made_again(fresh_api: Api, decoding_pool: DecodingPool) -> None:
    async with fresh_api.client() as client:
        uploaded = await post(client, photo(640, 480), "a.jpg")
        await fresh_api.verdict(uploaded["sha256"])
        thumbnail = f"/v1/media/download/{uploaded['media_id']}/thumbnail"
        signed = await client.get(f"/v1/media/signed/{uploaded['media_id']}", params={"thumbnail": True})
        await lose(fresh_api.store, uploaded["sha256"], content=False)
        problem(await client.get(thumbnail), 425, "thumbnail_pending")
        problem(await client.get(thumbnail), 425, "thumbnail_pending")
        problem(await client.get(signed.json()["data"]["url"]), 425, "thumbnail_pending")
        assert await broken(fresh_api.database, fresh_api.store, fresh_api.tenant.tenant_id) == []
        await make_thumbnails(fresh_api, decoding_pool)
        assert (await client.get(thumbnail)).status_code == 200
    assert await lost(fresh_api.database) == set()
    assert await broken(fresh_api.database, fresh_api.store, fresh_api.tenant.tenant_id) == []


@pytest.mark.parametrize("spoilt", [b"", b"RIFF", bytes(5000)], ids=["empty", "cut", "of other bytes"])
async def test_a_thumbnail_that_the_store_has_spoilt_is_not_served_and_is_made_again(
    fresh_api: Api, decoding_pool: DecodingPool, spoilt: bytes
) -> None:
    async with fresh_api.client() as client:
        uploaded = await post(client, photo(640, 480), "a.jpg")
        await fresh_api.verdict(uploaded["sha256"])
        key = thumbnail_key(fresh_api.tenant.tenant_id, uploaded["sha256"])
        download = f"/v1/media/download/{uploaded['media_id']}"
        signed = f"/v1/media/signed/{uploaded['thumbnail_id']}?via="
        urls = [(await client.get(signed + via)).json()["data"]["url"] for via in ("api", "store")]
        by_id = f"/v1/media/download/{uploaded['thumbnail_id']}"
        for way in (f"{download}/thumbnail", f"{download}/thumbnail?size=160", by_id, *urls):
            whole = (await client.get(way)).content
            await fresh_api.store.put(key, spoilt)
            problem(await client.get(way), 425, "thumbnail_pending")
            await make_thumbnails(fresh_api, decoding_pool)
            again = await client.get(way)
            assert (again.status_code, again.content) == (200, whole)
    assert await lost(fresh_api.database) == set()
    assert await broken(fresh_api.database, fresh_api.store, fresh_api.tenant.tenant_id) == []


async def test_a_thumbnail_that_is_made_again_with_other_bytes_has_another_etag_by_a_url_of_the_folder(
    fresh_api: Api,
) -> None:
    """As by another release of the encoder. A client that goes on with `If-Range` would mix the two pictures."""
    async with fresh_api.client() as client, anybody() as nobody:
        uploaded = await post(client, photo(640, 480), "a.jpg")
        await fresh_api.verdict(uploaded["sha256"])
        url = (await client.get(f"/v1/media/signed/{uploaded['thumbnail_id']}")).json()["data"]["url"]
        before = await nobody.get(url)
        await fresh_api.store.delete(thumbnail_key(fresh_api.tenant.tenant_id, uploaded["sha256"]))
        problem(await nobody.get(url), 425, "thumbnail_pending")
        await fresh_api.thumbnail(uploaded["sha256"], before.content + b"other")
        after = await nobody.get(url, headers={"Range": "bytes=100-", "If-Range": before.headers["etag"]})
        assert (after.status_code, after.content) == (200, before.content + b"other")
        by_id = await client.get(f"/v1/media/download/{uploaded['thumbnail_id']}")
        assert after.headers["etag"] == by_id.headers["etag"]


# -- the same bytes again ----------------------------------------------------------------------------------------------


async def by_form(client: httpx.AsyncClient, data: bytes) -> None:
    await post(client, data)


async def by_digest(client: httpx.AsyncClient, data: bytes) -> None:
    digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
    headers = {"Repr-Digest": f"sha-256=:{digest}:"}
    answer = await client.post("/v1/media/upload", files={"file": ("a.bin", data)}, headers=headers)
    assert answer.status_code == 201, answer.text


async def by_tus(client: httpx.AsyncClient, data: bytes) -> None:
    tus = {"Tus-Resumable": "1.0.0"}
    made = await client.post("/v1/media/uploads", headers={**tus, "Upload-Length": str(len(data))})
    assert made.status_code == 201, made.text
    for start in range(0, len(data), 6 * MIB):
        part = data[start : start + 6 * MIB]
        headers = {**tus, "Upload-Offset": str(start), "Content-Type": "application/offset+octet-stream"}
        answer = await client.patch(made.headers["location"], content=part, headers=headers)
        assert answer.status_code == 204, answer.text


async def by_transcribing(client: httpx.AsyncClient, data: bytes) -> None:
    answer = await client.post("/v1/transcribe", files={"file": ("a.wav", data)})
    assert answer.status_code == 202, answer.text


async def with_the_same_key(client: httpx.AsyncClient, data: bytes) -> None:
    answer = await client.post(
        "/v1/media/upload", files={"file": ("keyed.bin", data)}, headers={"Idempotency-Key": "the same"}
    )
    assert answer.status_code == 201, answer.text


@pytest.mark.parametrize("size", [1000, 9 * MIB], ids=["small", "large"])
@pytest.mark.parametrize("again", [by_form, by_digest, by_tus, by_transcribing, with_the_same_key])
async def test_lost_bytes_are_stored_again_however_they_come(
    api: Api, again: Callable[[httpx.AsyncClient, bytes], Awaitable[None]], size: int
) -> None:
    """In a WAV file, which can be transcribed; by nobody whose subject another test uses."""
    body = secrets.token_bytes(size)
    head = b"RIFF" + (36 + size).to_bytes(4, "little") + b"WAVEfmt \x10\0\0\0\x01\0\x01\0"
    rate = (16000).to_bytes(4, "little") + (32000).to_bytes(4, "little") + b"\x02\0\x10\0data"
    data = head + rate + size.to_bytes(4, "little") + body
    async with api.client(f"loser-{secrets.token_hex(4)}") as client:
        if again is with_the_same_key:
            await with_the_same_key(client, data)
        uploaded = await post(client, data)
        await api.verdict(uploaded["sha256"])
        await lose(api.store, uploaded["sha256"])
        problem(await client.get(f"/v1/media/download/{uploaded['media_id']}"), 503, "file_lost")
        before = (await client.get("/v1/usage")).json()["data"]["objects"]
        await again(client, data)
        assert (await client.get(f"/v1/media/download/{uploaded['media_id']}")).content == data
        assert (await client.get("/v1/usage")).json()["data"]["objects"] == before
    assert uploaded["sha256"] not in await lost(api.database)


async def test_lost_bytes_are_stored_again_in_a_tenant_that_is_full(
    uploads: Uploads, tenant_database: TenantDatabase, database: Database, folder_store: FolderStore
) -> None:
    small, large = secrets.token_bytes(1000), secrets.token_bytes(9 * MIB)
    kept = [await upload(uploads, data) for data in (small, large)]
    await tenant_database.declare(replace(GENEROUS, max_bytes=1))
    for one, data in zip(kept, (small, large), strict=True):
        await lose(folder_store, one.sha256)
        assert isinstance(await uploads.contents.missed(one.sha256), Lost)
        await upload(uploads, data, digest=one.sha256)
    assert await lost(database) == set()
    assert await broken(database, folder_store, uploads.tenant_id) == []
    with pytest.raises(Refused, match="do not fit"):
        await upload(uploads, secrets.token_bytes(10))


async def test_a_film_that_is_stored_again_gets_a_thumbnail_again(
    uploads: Uploads, database: Database, folder_store: FolderStore, library: Library, decoding_pool: DecodingPool
) -> None:
    data = film()
    one = await upload(uploads, data, filename="a.mp4")
    queue = Queue(database)
    work = Work(database, queue, library, folder_store, decoding_pool, uploads.policy)
    await Drain("thumbnail", make_video_thumbnail, work, DrainSettings(linger_seconds=0)).run()
    before = await usage(database)
    await lose(folder_store, one.sha256)
    assert isinstance(await uploads.contents.missed(one.sha256), Lost)
    again = await upload(uploads, data, filename="a.mp4")
    assert again.thumbnail_id is not None
    await Drain("thumbnail", make_video_thumbnail, work, DrainSettings(linger_seconds=0)).run()
    assert await broken(database, folder_store, uploads.tenant_id) == []
    assert await usage(database) == before


async def test_content_that_had_no_verdict_yet_is_scanned_once_it_is_there_again(
    uploads: Uploads, database: Database, folder_store: FolderStore, library: Library
) -> None:
    one = await upload(uploads, DATA)
    await lose(folder_store, one.sha256)
    assert isinstance(await uploads.contents.missed(one.sha256), Lost)
    await database.call("UPDATE job SET status = 'failed', finished_at = now() WHERE kind = 'scan' RETURNING 1", ())
    await sweep(library)
    assert not await database.call("SELECT FROM job WHERE kind = 'scan' AND status = 'queued'", ())
    again = await upload(uploads, DATA)
    await judge(library, database, again, "clean")


async def test_an_upload_of_known_bytes_takes_a_look_more_and_a_new_one_no_step(uploads: Uploads) -> None:
    data = secrets.token_bytes(500)
    assert await statement_counts(uploads, lambda: upload(uploads, data)) == (2, 1)  # begin, put, commit
    assert await statement_counts(uploads, lambda: upload(uploads, data)) == (1, 1)


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("size", [500, 9 * MIB])
async def test_known_bytes_are_put_again_although_nobody_has_noticed_their_loss(
    uploads: Uploads, database: Database, folder_store: FolderStore, size: int, announced: bool
) -> None:
    data = secrets.token_bytes(size)
    one = await upload(uploads, data)
    await lose(folder_store, one.sha256)
    two = await upload(uploads, data, digest=one.sha256 if announced else None)
    assert two.media_id != one.media_id
    assert await folder_store.read(content_key(uploads.tenant_id, one.sha256), 0, size) == data
    assert await lost(database) == set()
    assert await broken(database, folder_store, uploads.tenant_id) == []
    assert (await usage(database)).reserved == 0


async def test_an_upload_in_several_requests_puts_known_bytes_again_too(
    uploads: Uploads, database: Database, folder_store: FolderStore
) -> None:
    data = secrets.token_bytes(MIB)
    one = await upload(uploads, data)
    await lose(folder_store, one.sha256)
    resumables = Resumables(uploads, lifetime=timedelta(days=1))
    begun = await resumables.create(ALICE, Declared("a.bin"), len(data))
    async with resumables.receiving(ALICE, begun.upload_id, 0) as receiving:
        await receiving.write(data)
        assert (await receiving.end()).uploaded is not None
    assert await folder_store.read(content_key(uploads.tenant_id, one.sha256), 0, MIB) == data
    assert await lost(database) == set()
    assert await broken(database, folder_store, uploads.tenant_id) == []
    assert (await usage(database)).reserved == 0


@pytest.mark.parametrize("how", ["away", "slow"])
async def test_a_store_that_does_not_say_soon_whether_it_has_known_bytes_does_not_keep_them_from_being_taken(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    async def head(_key: str) -> None:
        if how == "away":
            raise Unavailable("object store", "it is away")
        await asyncio.Event().wait()

    one = await upload(uploads, DATA)
    monkeypatch.setattr(uploads.store, "head", head)
    monkeypatch.setattr("media_core.uploads.upload.LOOK_SECONDS", 0.05)
    assert (await upload(uploads, DATA)).sha256 == one.sha256


@pytest.mark.parametrize("how", ["the disk is full", "does not have"])
async def test_known_bytes_that_are_lost_and_cannot_be_put_are_not_acknowledged(
    uploads: Uploads, database: Database, folder_store: FolderStore, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    async def put(*_: object) -> None:
        if how == "the disk is full":
            raise Unavailable("object store", how)

    one = await upload(uploads, DATA)
    await lose(folder_store, one.sha256)
    with monkeypatch.context() as broken_off:
        broken_off.setattr(uploads.store, "put", put)
        with pytest.raises(Unavailable, match=how):
            await upload(uploads, DATA)
    assert await lost(database) == {one.sha256}
    assert (await usage(database)).reserved == 0
    await upload(uploads, DATA)
    assert await broken(database, folder_store, uploads.tenant_id) == []


# -- races -------------------------------------------------------------------------------------------------------------


async def test_a_loss_that_is_noted_while_the_bytes_come_again_does_not_stay(
    uploads: Uploads, database: Database, folder_store: FolderStore
) -> None:
    one = await upload(uploads, DATA)
    await lose(folder_store, one.sha256)
    assert isinstance(await uploads.contents.missed(one.sha256), Lost)
    await upload(uploads, DATA)
    # A reader whose look was before the put comes late with its note.
    assert isinstance(await uploads.contents.missed(one.sha256), Unavailable)
    assert await lost(database) == set()


async def test_large_bytes_whose_loss_is_noted_while_they_come_are_asked_for_once_more(
    uploads: Uploads, database: Database, folder_store: FolderStore
) -> None:
    data = secrets.token_bytes(9 * MIB)
    one = await upload(uploads, data)
    with pytest.raises(NotNow, match="this content went while it was being sent again"):
        async with await uploads.start(announced=len(data) + 300, digest=one.sha256) as second:
            await second.write(data[: 8 * MIB])
            await lose(folder_store, one.sha256)
            await uploads.contents.missed(one.sha256)
            await second.write(data[8 * MIB :])
            await second.commit(ALICE, Declared("b.bin"))
    await upload(uploads, data, digest=one.sha256)
    assert await lost(database) == set()
    assert await broken(database, folder_store, uploads.tenant_id) == []


async def test_an_upload_that_has_begun_keeps_lost_content_from_being_removed_under_it(
    uploads: Uploads, database: Database, folder_store: FolderStore
) -> None:
    one = await upload(uploads, DATA)
    await lose(folder_store, one.sha256)
    await uploads.contents.missed(one.sha256)
    reservation = uploads.contents.reservation()
    item = NewItem("med-second", "b", None, "alice", False, None, None, "")
    assert (await reservation.begin(one.sha256, len(DATA), item)).state == "reserved"
    await folder_store.put(content_key(uploads.tenant_id, one.sha256), DATA)
    await uploads.contents.delete_item(one.media_id)
    assert not await uploads.contents.remove(one.sha256)
    await reservation.release()
    assert await uploads.contents.remove(one.sha256)


# -- the sweep ---------------------------------------------------------------------------------------------------------


async def test_a_sweep_notes_what_is_lost_deletes_nothing_and_sees_what_is_there_again(
    uploads: Uploads, library: Library, database: Database, folder_store: FolderStore
) -> None:
    await sweep(library)
    kept = [await upload(uploads, secrets.token_bytes(100)) for _ in range(40)]
    gone = {one.sha256 for one in kept[:7]}
    contents = {sha256: await folder_store.read(content_key(uploads.tenant_id, sha256), 0, 100) for sha256 in gone}
    for sha256 in gone:
        await lose(folder_store, sha256)
    assert (await sweep(library)).lost == 7
    assert await lost(database) == gone
    assert (await sweep(library)).lost == 7
    (rows,) = await database.call("SELECT count(*) FROM media JOIN blob USING (sha256)", ())
    assert rows[0] == 40
    for sha256 in gone:
        await folder_store.put(content_key(uploads.tenant_id, sha256), contents[sha256])
    assert (await sweep(library)).lost == 0
    assert await lost(database) == set()
    assert await broken(database, folder_store, uploads.tenant_id) == []


async def test_a_store_that_says_404_of_everything_has_nothing_deleted_and_all_is_there_when_it_is_back(
    uploads: Uploads, library: Library, database: Database, folder_store: FolderStore
) -> None:
    kept = [await upload(uploads, secrets.token_bytes(100)) for _ in range(5)]
    await sweep(library)
    root = folder_store._root / "tenant"
    root.rename(root.with_name("elsewhere"))
    for one in kept[:3]:
        assert isinstance(await library.contents.missed(one.sha256), Lost)
    assert (await sweep(library)).lost == 5
    assert len(await lost(database)) == 5
    (rows,) = await database.call("SELECT count(*) FROM media JOIN blob USING (sha256) WHERE doomed_at IS NULL", ())
    assert rows[0] == 5
    shutil.rmtree(root)
    root.with_name("elsewhere").rename(root)
    assert (await sweep(library)).lost == 0
    assert await lost(database) == set()
    assert await broken(database, folder_store, uploads.tenant_id) == []


@pytest.mark.parametrize("left", [0, 40])
async def test_an_object_of_which_only_a_part_is_left_is_lost_and_comes_back(
    uploads: Uploads, library: Library, database: Database, folder_store: FolderStore, left: int
) -> None:
    one, whole = await upload(uploads, DATA * 3), await upload(uploads, DATA)
    path = folder_store._root / content_key(uploads.tenant_id, one.sha256)
    os.truncate(path, left)
    assert (await sweep(library)).lost == 1
    assert await lost(database) == {one.sha256}
    await upload(uploads, DATA * 3)
    assert path.read_bytes() == DATA * 3
    assert (await sweep(library)).lost == 0
    assert whole.sha256 not in await lost(database)
    assert await broken(database, folder_store, uploads.tenant_id) == []


async def test_a_listing_that_shows_too_little_notes_nothing(
    uploads: Uploads, library: Library, database: Database, folder_store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "LISTING_LIES", 20)
    for _ in range(60):
        await upload(uploads, secrets.token_bytes(10))
    asked = []
    head = folder_store.head

    async def counted(key: str) -> Any:
        asked.append(key)
        return await head(key)

    async def nothing(prefix: str = "") -> Any:
        for _ in ():
            yield _

    monkeypatch.setattr(folder_store, "head", counted)
    await sweep(library)
    monkeypatch.setattr(folder_store, "list", nothing)
    assert (await sweep(library)).lost == 0
    assert await lost(database) == set()
    assert 20 <= len(asked) <= 20 + sweeping.LOOKS_AT_ONCE


# -- workers -----------------------------------------------------------------------------------------------------------


async def test_a_thumbnail_of_lost_content_is_tried_again_and_made_once_the_content_is_there(
    uploads: Uploads, database: Database, folder_store: FolderStore, library: Library, decoding_pool: DecodingPool
) -> None:
    data = film()
    one = await upload(uploads, data, filename="a.mp4")
    await lose(folder_store, one.sha256)
    queue = Queue(database, retry_base=timedelta(0))
    work = Work(database, queue, library, folder_store, decoding_pool, uploads.policy)

    async def drained() -> None:
        await Drain("thumbnail", make_video_thumbnail, work, DrainSettings(linger_seconds=0)).run()

    await drained()
    (job,) = await database.call("SELECT status, error_code FROM job WHERE kind = 'thumbnail'", ())
    assert (job.status, job.error_code) == ("failed", "file_lost")
    assert await lost(database) == {one.sha256}
    await sweep(library)
    await drained()
    await folder_store.put(content_key(uploads.tenant_id, one.sha256), data)
    await sweep(library)  # sees that it is there
    await sweep(library)  # queues its thumbnail
    await drained()
    assert await broken(database, folder_store, uploads.tenant_id) == []
    (row,) = await database.call("SELECT thumbnail_status FROM blob", ())
    assert row.thumbnail_status == "ready"


async def test_a_film_that_the_store_has_cut_is_lost_and_its_thumbnail_is_not_given_up(
    uploads: Uploads, database: Database, folder_store: FolderStore, library: Library, decoding_pool: DecodingPool
) -> None:
    data = film()
    one = await upload(uploads, data, filename="a.mp4")
    path = folder_store._root / content_key(uploads.tenant_id, one.sha256)
    os.truncate(path, len(data) // 2)
    work = Work(
        database, Queue(database, retry_base=timedelta(0)), library, folder_store, decoding_pool, uploads.policy
    )
    await Drain("thumbnail", make_video_thumbnail, work, DrainSettings(linger_seconds=0)).run()
    (job,) = await database.call("SELECT status, error_code FROM job WHERE kind = 'thumbnail'", ())
    assert (job.status, job.error_code) == ("failed", "file_lost")
    assert await lost(database) == {one.sha256}
    (row,) = await database.call("SELECT thumbnail_status FROM blob", ())
    assert row.thumbnail_status == "pending"
