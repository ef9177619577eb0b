"""`mediactl` as a library, with the real api: what it answers has the types that the library names."""

import asyncio
import hashlib
import io
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_type_hints

import httpx
import pytest

from mediactl import AsyncClient, Client, MediaError, models
from tests.fixtures.media import photo
from tests.integration.servers.api import Api
from tests.integration.tenancy import MIB


@pytest.fixture
async def media(api: Api) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(api.base, api.token(f"user-{secrets.token_hex(4)}")) as media:
        yield media


def is_as_typed(answer: Any, kind: type) -> None:
    assert answer.keys() - kind.__optional_keys__ == kind.__required_keys__, kind  # type: ignore[attr-defined]
    assert answer.keys() <= get_type_hints(kind).keys()


async def test_what_the_api_answers_is_what_the_types_say(api: Api, media: AsyncClient) -> None:
    labels = {"project": "atlas", "ort": "Köln"}
    sent = await media.upload(photo(300, 200), filename="a.jpg", room_id="garden", labels=labels)
    is_as_typed(sent, models.Media)
    await api.verdict(sent["sha256"])
    info = await media.info(sent["media_id"])
    is_as_typed(info, models.MediaInfo)
    assert info["labels"] == labels
    [page] = [page async for page in media.room_files("garden", limit=1)]
    is_as_typed(page, models.Page)
    is_as_typed(page["data"][0], models.RoomFile)
    is_as_typed(await media.signed(sent["media_id"]), models.Signed)
    for one in await media.sign([sent["media_id"], "med-none"]):
        is_as_typed(one, models.SignedOne)
        if one["error"] is not None:
            is_as_typed(one["error"], models.SignError)
    usage = await media.usage()
    is_as_typed(usage, models.Usage)
    is_as_typed(usage["limits"], models.Limits)
    async with AsyncClient(api.base, api.token("root", scopes=["admin"])) as admin:
        accepted = await admin.rescan(sent["media_id"])
        is_as_typed(accepted, models.Job)
        is_as_typed(await admin.job(accepted["job_id"]), models.Job)
        await api.verdict(sent["sha256"])
        scanned = await admin.wait(accepted["job_id"])
        is_as_typed(scanned, models.Job)
        assert scanned["scan_status"] == "clean"


async def test_my_files_are_found_changed_and_deleted(api: Api, media: AsyncClient) -> None:
    for number in range(3):
        await media.upload(b"%d" % number * 9, filename=f"{number}.txt")
    ids = [item["media_id"] async for page in media.files(sort="name") for item in page["data"]]
    assert len(ids) == 3
    assert (await media.change(ids[0], filename="Grüße.txt", tenant_scope=True))["filename"] == "Grüße.txt"
    await media.label(ids[1], {"project": "atlas", "x": "1"})
    assert (await media.label(ids[1], {"y": "ü=?"}, remove=["x"]))["labels"] == {"project": "atlas", "y": "ü=?"}
    found = media.files(labels={"project": "atlas", "y": "ü=?"}, created_after=datetime.now(UTC) - timedelta(hours=1))
    assert [item["media_id"] async for page in found for item in page["data"]] == [ids[1]]
    await media.attach("garden", ids[2])
    await media.detach("garden", ids[2])
    await media.delete(ids[2])
    with pytest.raises(MediaError) as gone:
        await media.info(ids[2])
    assert (gone.value.type, gone.value.title) == ("urn:media-platform:problem:not_found", "Not found")
    assert gone.value.request_id
    with pytest.raises(MediaError) as refused:
        await media.label(ids[1], {"K": "v"})
    assert (refused.value.status, refused.value.code) == (422, "invalid_request")


async def test_events_go_on_at_a_kept_cursor_and_none_is_missed_or_told_twice(api: Api, media: AsyncClient) -> None:
    sent = await media.upload(secrets.token_bytes(9), filename="a.bin", room_id="garden")
    await api.verdict(sent["sha256"])
    await media.delete(sent["media_id"])
    page = await media.events(media_id=sent["media_id"], limit=1)
    is_as_typed(page, models.EventPage)
    is_as_typed(page["data"][0], models.Event)
    told = page["data"]
    while page["more"]:
        page = await media.events(cursor=page["next_cursor"], media_id=sent["media_id"], limit=1)
        told += page["data"]
    types = [event["type"] for event in told]
    assert (types[0], types[-1], len(types)) == ("stored", "deleted", len(set(types)))
    again = await media.events(cursor=page["next_cursor"], media_id=sent["media_id"])
    assert (again["data"], again["more"]) == ([], False)
    assert (await media.events(start="now"))["data"] == []
    found = await media.events(types=["attached", "removed"], media_id=sent["media_id"])
    assert {event["type"] for event in found["data"]} == {"attached"}


async def test_a_large_file_goes_up_in_several_requests_and_comes_down_whole_or_in_part(
    api: Api, media: AsyncClient, tmp_path: Path
) -> None:
    data = secrets.token_bytes(17 * MIB + 3)
    path = tmp_path / "large.bin"
    path.write_bytes(data)
    sizes: list[int] = []
    sent = await media.upload(path, on_bytes=sizes.append)
    assert (sent["sha256"], sum(sizes)) == (hashlib.sha256(data).hexdigest(), len(data))
    [row] = await api.database.call("SELECT received FROM upload WHERE length = %s", (len(data),))
    assert row.received == len(data)
    await api.verdict(sent["sha256"])
    with pytest.raises(MediaError, match="exists"):
        path.write_bytes(b"mine")
        await media.download(sent["media_id"], tmp_path)
    done = await media.download(sent["media_id"], tmp_path / "again.bin")
    assert (done.path.read_bytes() == data, done.size, done.outcome) == (True, len(data), "verified")
    stream = io.BytesIO()
    assert await media.download_to(stream, sent["media_id"]) == len(data)
    assert stream.getvalue() == data
    assert await media.read(sent["media_id"], 5, 9) == data[5:10]
    assert await media.read(sent["media_id"], len(data) - 2) == data[-2:]


async def test_a_url_of_the_api_ends_with_the_file(api: Api, media: AsyncClient) -> None:
    sent = await media.upload(secrets.token_bytes(9), filename="a.bin")
    await api.verdict(sent["sha256"])
    [signed] = await media.sign([sent["media_id"]], via="api", expires_in=60)
    async with httpx.AsyncClient(timeout=120) as nobody:
        assert (await nobody.get(signed["url"] or "")).status_code == 200
        await media.delete(sent["media_id"])
        assert (await nobody.get(signed["url"] or "")).status_code == 404


async def test_the_client_that_blocks_does_the_same(api: Api) -> None:
    def calls() -> None:
        with Client(api.base, api.token(f"user-{secrets.token_hex(4)}")) as media:
            sent = media.upload(io.BytesIO(b"hello blocking"), filename="a.txt")
            [page] = media.files()
            assert [item["media_id"] for item in page["data"]] == [sent["media_id"]]
            assert media.info(sent["media_id"])["filename"] == "a.txt"
            media.delete(sent["media_id"])
            with pytest.raises(MediaError) as gone:
                media.info(sent["media_id"])
            assert gone.value.status == 404

    await asyncio.to_thread(calls)
