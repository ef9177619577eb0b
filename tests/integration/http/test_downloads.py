"""Downloads: whole, in part, conditional, thumbnails, signed URLs; and when they are refused."""

import asyncio
import io
import secrets
import socket
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from media_api import server
from media_core.examination.thumbnails import ThumbnailSize
from media_operator.local.postgres import EmbeddedPostgres
from tests.fixtures.media import film, oriented, photo, recording
from tests.integration.servers.api import Api, anybody, eventually, left, problem, serving, upload
from tests.integration.tenancy import GENEROUS, MIB

SAFETY = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "sandbox; default-src 'none'",
    "referrer-policy": "no-referrer",
    "cache-control": "private, no-cache",
}


ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\x3e\x00\x01\x00\x00\x00" + bytes(60)


def path_of(uploaded: dict[str, Any], rest: str = "") -> str:
    return f"/v1/media/download/{uploaded['media_id']}{rest}"


async def clean(api: Api, client: httpx.AsyncClient, data: bytes, name: str = "a.bin", **fields: str) -> dict[str, Any]:
    uploaded = await upload(client, data, name, **fields)
    await api.verdict(uploaded["sha256"])
    return uploaded


# -- bytes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "name", "content_type"),
    [
        ("Grüße 会\n".encode(), "a.txt", "text/plain; charset=utf-8"),
        (b"plain\n", "a.md", "text/markdown"),
        ("schön\n".encode(), "a.md", "text/markdown; charset=utf-8"),
        ("Grüße 会".encode("utf-16"), "a.txt", "text/plain; charset=utf-16"),
        ("Grüße\n".encode("latin-1"), "a.txt", "text/plain"),
        (b"x" * MIB + "ü".encode("latin-1"), "a.txt", "text/plain; charset=utf-8"),
        (b"%PDF-1.7\n", "a.pdf", "application/pdf"),
    ],
)
async def test_text_says_its_character_set_where_the_bytes_do(
    api: Api, data: bytes, name: str, content_type: str
) -> None:
    async with api.client() as client:
        uploaded = await upload(client, data, name)
        await api.verdict(uploaded["sha256"])
        answer = await client.get(path_of(uploaded))
        signed = (await client.get(f"/v1/media/signed/{uploaded['media_id']}")).json()["data"]
        shared = await client.get(signed["url"])
    assert uploaded["mime_type"] == content_type.partition(";")[0]
    assert answer.headers["content-type"] == shared.headers["content-type"] == content_type


@pytest.mark.parametrize("size", [1, 70_000, 9 * MIB + 1])
async def test_what_was_uploaded_comes_back(api: Api, size: int) -> None:
    data = secrets.token_bytes(size)
    async with api.client() as client:
        uploaded = await clean(api, client, data, "a b.bin")
        answer = await client.get(path_of(uploaded))
        head = await client.head(path_of(uploaded))
    assert answer.status_code == head.status_code == 200
    assert answer.content == data
    assert head.content == b""
    for headers in (answer.headers, head.headers):
        assert SAFETY.items() <= dict(headers).items()
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["content-length"] == str(size)
        assert headers["content-type"] == uploaded["mime_type"]
        assert headers["etag"] == f'"{uploaded["sha256"]}"'
        assert headers["accept-ranges"] == "bytes"
        assert headers["content-disposition"] == "attachment; filename=\"a b.bin\"; filename*=UTF-8''a%20b.bin"
        assert headers["x-request-id"]


async def test_a_range_is_answered_with_just_that(api: Api) -> None:
    data = secrets.token_bytes(9 * MIB)
    async with api.client() as client:
        uploaded = await clean(api, client, data)

        async def get(**headers: str) -> httpx.Response:
            return await client.get(
                path_of(uploaded), headers={name.replace("_", "-"): v for name, v in headers.items()}
            )

        etag = f'"{uploaded["sha256"]}"'
        for wanted, start, end in (
            ("bytes=0-0", 0, 1),
            ("bytes=5-1048580", 5, 1048581),
            (f"bytes={9 * MIB - 3}-", 9 * MIB - 3, 9 * MIB),
            ("bytes=-10", 9 * MIB - 10, 9 * MIB),
            ("bytes=7-8, 100-200", 7, 9),
        ):
            answer = await get(range=wanted)
            assert (answer.status_code, answer.content) == (206, data[start:end])
            assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{9 * MIB}"
            assert answer.headers["content-length"] == str(end - start)
            assert answer.headers["etag"] == etag
        beyond = await get(range=f"bytes={9 * MIB}-")
        problem(beyond, 416, "range_not_satisfiable")
        assert beyond.headers["content-range"] == f"bytes */{9 * MIB}"
        for ignored in ({"range": "items=0-1"}, {"range": "bytes=9-3"}, {"range": "bytes=0-1", "if_range": '"old"'}):
            answer = await get(**ignored)
            assert (answer.status_code, len(answer.content)) == (200, 9 * MIB)
        assert (await get(range="bytes=0-1", if_range=etag)).status_code == 206
        ranged_head = await client.head(path_of(uploaded), headers={"Range": "bytes=0-1"})
        assert (ranged_head.status_code, ranged_head.headers["content-length"]) == (200, str(9 * MIB))
        documented = (await client.get("/openapi.json")).json()["paths"]["/v1/media/download/{media_id}"]
        assert {"206", "416"} == documented["get"]["responses"].keys() - documented["head"]["responses"].keys()


async def test_a_client_that_has_it_already_is_told_so(api: Api) -> None:
    async with api.client() as client:
        uploaded = await clean(api, client, secrets.token_bytes(30))
        for tag in (f'"{uploaded["sha256"]}"', f'W/"{uploaded["sha256"]}"', "*", f'"x", "{uploaded["sha256"]}"'):
            answer = await client.get(path_of(uploaded), headers={"If-None-Match": tag})
            assert (answer.status_code, answer.content) == (304, b"")
            assert answer.headers["etag"] == f'"{uploaded["sha256"]}"'
        assert (await client.get(path_of(uploaded), headers={"If-None-Match": '"x"'})).status_code == 200
        lines = [("If-None-Match", '"x"'), ("If-None-Match", f'"{uploaded["sha256"]}"')]
        assert (await client.get(path_of(uploaded), headers=lines)).status_code == 304


async def test_a_client_that_goes_on_with_a_file_that_is_another_one_is_told_so(api: Api) -> None:
    async with api.client() as client:
        picture = await clean(api, client, photo(40, 30), "p.jpg")
        for path in (path_of(picture), f"{path_of(picture)}/thumbnail"):
            etag = (await client.get(path)).headers["etag"]
            for met in (etag, "*", f'"x", {etag}'):
                assert (await client.get(path, headers={"If-Match": met})).status_code == 200
            for unmet in ('"x"', f"W/{etag}"):
                for condition in ({}, {"If-None-Match": etag}, {"Range": "bytes=0-1"}):
                    answer = await client.get(path, headers={"If-Match": unmet, **condition})
                    problem(answer, 412, "precondition_failed")
                    assert answer.headers["etag"] == etag


@pytest.mark.parametrize(
    ("data", "name", "mime_type", "kind"),
    [
        (photo(20, 20), "p.jpg", "image/jpeg", "inline"),
        (b"just words\n", "w.txt", "text/plain", "inline"),
        (b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n", "d.pdf", "application/pdf", "inline"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>", "s.jpg", "image/svg+xml", "attachment"),
        (b"<!doctype html><html><script>alert(1)</script></html>", "h.txt", "text/html", "attachment"),
        (ELF, "x.png", "application/x-sharedlib", "attachment"),
    ],
)
async def test_a_browser_shows_only_what_can_not_run(
    api: Api, data: bytes, name: str, mime_type: str, kind: str
) -> None:
    async with api.client() as client:
        uploaded = await clean(api, client, data, name)
        answer = await client.get(path_of(uploaded))
    assert answer.headers["content-type"] == uploaded["mime_type"] == mime_type
    assert answer.headers["content-disposition"].startswith(kind)
    assert SAFETY.items() <= dict(answer.headers).items()


async def test_a_client_that_leaves_in_the_middle_harms_nobody(api: Api) -> None:
    async with api.client() as client:
        uploaded = await clean(api, client, secrets.token_bytes(20 * MIB))
        async with client.stream("GET", path_of(uploaded)) as answer:
            async for _ in answer.aiter_raw():
                break

        async def nothing_in_flight() -> bool:
            async with anybody() as plain:
                return "media_api_requests_in_flight 0.0" in (await plain.get(f"{api.metrics_base}/metrics")).text

        await eventually(nothing_in_flight)
        assert (await client.head(path_of(uploaded))).status_code == 200


# -- verdicts --------------------------------------------------------------------------------------------------------


async def read_paths(client: httpx.AsyncClient, uploaded: dict[str, Any]) -> dict[str, httpx.Response]:
    """Every way to an item's bytes."""
    return {
        "download": await client.get(path_of(uploaded)),
        "range": await client.get(path_of(uploaded), headers={"Range": "bytes=0-1"}),
        "known": await client.get(path_of(uploaded), headers={"If-None-Match": "*"}),
        "thumbnail": await client.get(path_of(uploaded, "/thumbnail")),
        "thumbnail id": await client.get(f"/v1/media/download/{uploaded['thumbnail_id']}"),
        "signed": await client.get(f"/v1/media/signed/{uploaded['media_id']}"),
        "signed thumbnail": await client.get(f"/v1/media/signed/{uploaded['media_id']}", params={"thumbnail": True}),
    }


async def test_a_client_that_takes_no_byte_of_its_answer_loses_its_connection(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: asyncio.Queue[int] = asyncio.Queue()
    here, connection_lost = asyncio.get_running_loop(), server.BoundedProtocol.connection_lost

    def noted(connection: server.BoundedProtocol, error: Exception | None) -> None:
        connection_lost(connection, error)
        assert connection.client is not None
        here.call_soon_threadsafe(lost.put_nowait, connection.client[1])

    monkeypatch.setattr(server, "STALLED_SECONDS", 0.5)
    monkeypatch.setattr(server.BoundedProtocol, "connection_lost", noted)
    async with api.client() as client:
        uploaded = await clean(api, client, secrets.token_bytes(40 * MIB))
    with socket.socket() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        stalled.connect(api.address)
        head = f"GET {path_of(uploaded)} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.token()}\r\n\r\n"
        stalled.sendall(head.encode())
        async with asyncio.timeout(60):
            while await lost.get() != stalled.getsockname()[1]:
                pass


async def test_before_its_verdict_a_file_can_be_seen_and_not_read(api: Api) -> None:
    async with api.client() as client:
        uploaded = await upload(client, photo(30, 21))
        for answer in (await read_paths(client, uploaded)).values():
            facts = problem(answer, 425, "scan_pending")
            assert answer.headers["retry-after"] == str(facts["retry_after"])
        assert (await client.head(path_of(uploaded))).status_code == 425
        info = (await client.get(f"/v1/media/{uploaded['media_id']}/info")).json()["data"]
        assert info["scan_status"] == "pending"
        await api.verdict(uploaded["sha256"])
        assert {a.status_code for a in (await read_paths(client, uploaded)).values()} == {200, 206, 304}


async def test_infected_content_is_gone_from_every_path_at_once(api: Api) -> None:
    async with api.client() as client, api.client("root") as admin:
        uploaded = await clean(api, client, photo(30, 22), tenant_scope="true", room_id="garden")
        signed = [
            (await client.get(f"/v1/media/signed/{uploaded['media_id']}", params={"thumbnail": thumbnail})).json()
            for thumbnail in (False, True)
        ]
        rescanned = await admin.post(f"/v1/media/{uploaded['media_id']}/rescan")
        assert rescanned.status_code == 202
        await api.verdict(uploaded["sha256"], "infected")
        for who in (client, admin):
            for answer in (await read_paths(who, uploaded)).values():
                problem(answer, 404, "not_found")
            problem(await who.get(f"/v1/media/{uploaded['media_id']}/info"), 404, "not_found")
            assert (await who.head(path_of(uploaded))).status_code == 404
            listed = (await who.get("/v1/rooms/garden/files")).json()["data"]
            assert uploaded["media_id"] not in [entry["media_id"] for entry in listed]
        async with anybody() as nobody:
            for one in signed:
                problem(await nobody.get(one["data"]["url"]), 404, "not_found")
        # It was clean before: its objects stay for the recall time, but nobody can read them.
        assert await api.store.head(f"tenant/{api.tenant.tenant_id}/{uploaded['sha256']}") is not None


async def test_what_the_scanner_could_not_open_stays_closed_unless_the_policy_allows_it(
    postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    async with serving(postgres, tmp_path) as api, api.client() as client, api.client("bob") as bob:
        uploaded = await upload(client, photo(30, 23), tenant_scope="true")
        await api.apply(replace(GENEROUS, pending_access="Uploader"))
        assert (await client.get(path_of(uploaded))).status_code == 200
        problem(await bob.get(path_of(uploaded)), 425, "scan_pending")
        await api.apply(replace(GENEROUS, pending_access="All"))
        assert (await bob.get(path_of(uploaded))).status_code == 200
        await api.verdict(uploaded["sha256"], "unscannable")
        for answer in (await read_paths(client, uploaded)).values():
            problem(answer, 403, "unscannable")
        await api.apply(replace(GENEROUS, unscannable="Allow"))
        assert (await client.get(path_of(uploaded))).status_code == 200


# -- thumbnails ------------------------------------------------------------------------------------------------------


def picture(answer: httpx.Response) -> Image.Image:
    assert answer.status_code == 200, answer.text
    return Image.open(io.BytesIO(answer.content))


async def test_a_thumbnail_comes_in_the_sizes_and_formats_that_there_are(api: Api) -> None:
    async with api.client() as client:
        uploaded = await clean(api, client, photo(2000, 1000))
        path = path_of(uploaded, "/thumbnail")
        for size in ThumbnailSize:
            for accept, image_format in (("image/webp", "WEBP"), ("image/jpeg", "JPEG"), ("*/*", "WEBP")):
                answer = await client.get(path, params={"size": size}, headers={"Accept": accept})
                shown = picture(answer)
                assert (shown.format, shown.size) == (image_format, (size, size // 2))
                assert answer.headers["content-type"] == f"image/{image_format.lower()}"
                assert answer.headers["vary"] == "Accept"
                assert SAFETY.items() <= dict(answer.headers).items()
                known = {"Accept": accept, "If-None-Match": answer.headers["etag"]}
                assert (await client.get(path, params={"size": size}, headers=known)).status_code == 304
        problem(await client.get(path, params={"size": 161}), 422, "invalid_request")
        lines = [("Accept", "text/html"), ("Accept", "image/jpeg")]
        assert picture(await client.get(path, headers=lines)).format == "JPEG"
        default = picture(await client.get(path))
        by_id = await client.get(f"/v1/media/download/{uploaded['thumbnail_id']}")
        assert default.size == picture(by_id).size == (1024, 512)
        part = await client.get(f"/v1/media/download/{uploaded['thumbnail_id']}", headers={"Range": "bytes=0-3"})
        assert (part.status_code, part.content) == (206, b"RIFF")


async def test_a_thumbnail_is_upright_and_says_nothing_of_where_it_was_taken(api: Api) -> None:
    async with api.client() as client:
        uploaded = await clean(api, client, oriented(6, "JPEG"))
        shown = picture(await client.get(path_of(uploaded, "/thumbnail")))
    assert shown.size == (uploaded["width"], uploaded["height"])
    assert not shown.getexif()


async def test_a_type_without_a_thumbnail_has_none(api: Api) -> None:
    async with api.client() as client:
        uploaded = await clean(api, client, b"just words, no picture\n", "a.txt")
        assert uploaded["thumbnail_id"] is None
        problem(await client.get(path_of(uploaded, "/thumbnail")), 404, "no_thumbnail")
        made_up = uploaded["media_id"].replace("med-", "med-thumb-")
        problem(await client.get(f"/v1/media/download/{made_up}"), 404, "no_thumbnail")
        signed = await client.get(f"/v1/media/signed/{uploaded['media_id']}", params={"thumbnail": True})
        problem(signed, 404, "no_thumbnail")


@pytest.mark.parametrize(
    ("data", "name", "sentence"),
    [
        (b"%PDF-1.7\n%%EOF\n", "a.pdf", "This is a PDF document (application/pdf); it is damaged, or has no page; it"),
        (b"a;b\n1;2\n", "a.csv", "This is a table as text (text/csv); it"),
    ],
)
async def test_it_is_said_why_there_is_no_thumbnail(api: Api, data: bytes, name: str, sentence: str) -> None:
    async with api.client() as client:
        uploaded = await clean(api, client, data, name)
        refused = problem(await client.get(path_of(uploaded, "/thumbnail")), 404, "no_thumbnail")
    assert refused["detail"] == f"{sentence} is kept, and has no thumbnail."


async def test_a_videos_thumbnail_is_early_until_it_is_made(api: Api) -> None:
    webp = io.BytesIO()
    Image.new("RGB", (64, 48)).save(webp, "WEBP")
    async with api.client() as client:
        uploaded = await clean(api, client, film(1), "film.mp4")
        assert uploaded["thumbnail_id"] is not None
        early = await client.get(path_of(uploaded, "/thumbnail"))
        assert early.headers["retry-after"] == str(problem(early, 425, "thumbnail_pending")["retry_after"])
        await api.thumbnail(uploaded["sha256"], webp.getvalue())
        assert picture(await client.get(path_of(uploaded, "/thumbnail"))).size == (64, 48)


# -- signed URLs -----------------------------------------------------------------------------------------------------


async def sign(client: httpx.AsyncClient, media_id: str, **params: Any) -> dict[str, Any]:
    answer = await client.get(f"/v1/media/signed/{media_id}", params=params)
    assert answer.status_code == 200, answer.text
    signed: dict[str, Any] = answer.json()["data"]
    return signed


async def test_a_signed_url_needs_no_token_for_five_minutes(api: Api) -> None:
    data = photo(40, 30)
    async with api.client() as client, anybody() as nobody:
        uploaded = await clean(api, client, data, "me & you.jpg")
        signed = await sign(client, uploaded["media_id"])
        left_over = datetime.fromisoformat(signed["expires_at"]) - datetime.now(UTC)
        assert timedelta(minutes=4, seconds=50) < left_over <= timedelta(minutes=5)
        assert signed["expires_at"].endswith("Z")
        answer = await nobody.get(signed["url"])
        assert answer.content == data
        assert answer.headers["content-type"] == "image/jpeg"
        wanted = "inline; filename=\"me & you.jpg\"; filename*=UTF-8''me%20%26%20you.jpg"
        assert answer.headers["content-disposition"] == wanted
        assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
        assert SAFETY.items() <= dict(answer.headers).items()
        part = await nobody.get(signed["url"], headers={"Range": "bytes=2-5"})
        assert (part.status_code, part.content) == (206, data[2:6])
        assert (await nobody.head(signed["url"])).headers["content-length"] == str(len(data))
        for by in ({"media_id": uploaded["media_id"], "thumbnail": True}, {"media_id": uploaded["thumbnail_id"]}):
            small = await nobody.get((await sign(client, **by))["url"])
            assert (picture(small).format, small.headers["content-type"]) == ("WEBP", "image/webp")


async def test_every_download_has_the_published_policy_whatever_its_type(api: Api) -> None:
    """http-api.md: always `Content-Security-Policy: sandbox; default-src 'none'`."""
    samples = {
        "a.mp4": film(2, (144, 96)),
        "a.wav": recording([2, 1], "wav", "pcm_s16le"),
        "a.txt": b"words that are always sandboxed",
    }
    async with api.client() as client:
        for name, data in samples.items():
            path = path_of(await clean(api, client, data, name))
            for answer in (
                await client.get(path),
                await client.head(path),
                await client.get(path, headers={"Range": "bytes=0-1"}),
                await client.get(path, headers={"If-None-Match": "*"}),
            ):
                assert SAFETY.items() <= dict(answer.headers).items(), name


async def test_what_plays_may_load_itself_into_a_browsers_player_by_a_signed_url_and_nothing_else_may(api: Api) -> None:
    plays, rests = "default-src 'none'; media-src 'self'", SAFETY["content-security-policy"]
    samples = {
        "a.mp4": (film(2, (144, 96)), plays),
        "a.wav": (recording([2, 1], "wav", "pcm_s16le"), plays),
        "a.jpg": (photo(43, 37), rests),
        "a.mp4.html": (b"<!doctype html><video src=x>", rests),
        "a.txt": (b"words, not a film", rests),
    }
    async with api.client() as client, anybody() as nobody:
        for name, (data, policy) in samples.items():
            uploaded = await clean(api, client, data, name)
            stored = (await sign(client, uploaded["media_id"]))["url"]
            for answer in (
                await nobody.get(stored),
                await nobody.head(stored),
                await nobody.get(stored, headers={"Range": "bytes=0-1"}),
                await nobody.get((await sign(client, uploaded["media_id"], via="api"))["url"]),
            ):
                assert answer.headers["content-security-policy"] == policy, name
                assert answer.headers["x-content-type-options"] == "nosniff"


async def test_a_signed_url_that_was_changed_opens_nothing(api: Api) -> None:
    async with api.client() as client, anybody() as nobody:
        uploaded = await clean(api, client, secrets.token_bytes(40))
        other = await clean(api, client, secrets.token_bytes(41))
        url = httpx.URL((await sign(client, uploaded["media_id"]))["url"])
        changed = [
            url.copy_set_param("X-Amz-Expires", str(int(url.params["X-Amz-Expires"]) + 1)),
            url.copy_set_param("response-content-type", "text/html"),
            url.copy_set_param("response-content-disposition", "inline"),
            url.copy_set_param("X-Amz-Signature", "0" * 64),
            url.copy_remove_param("X-Amz-Signature"),
            url.copy_with(path=url.path.replace(uploaded["sha256"], other["sha256"])),
            url.copy_with(path="/objects/tenant/other/" + uploaded["sha256"]),
            url.copy_with(path="/objects/../../etc/passwd"),
            url.copy_with(query=None),
            url.copy_set_param("X-Amz-Expires", "soon"),
            url.copy_set_param("X-Amz-Date", "soon"),
        ]
        for forged in changed:
            assert (await nobody.get(forged)).status_code in (403, 404), forged
        for seconds in (1, 20, 60):  # on a busy machine it is asked for late
            old = api.store.sign(
                f"tenant/{api.tenant.tenant_id}/{uploaded['sha256']}",
                expires_in=timedelta(seconds=seconds),
                content_type="text/plain",
                content_disposition="inline",
            )
            if (in_time := await nobody.get(old.url)).status_code == 200:
                break
        assert in_time.status_code == 200

        async def expired() -> bool:
            return (await nobody.get(old.url)).status_code == 403

        await eventually(expired)
        problem(await nobody.get(old.url), 403, "signature_expired")


# -- deleting --------------------------------------------------------------------------------------------------------


async def test_deleting_is_for_the_uploader_and_admins_and_can_be_repeated(fresh_api: Api) -> None:
    async with fresh_api.client() as client, fresh_api.client("bob") as bob, fresh_api.client("root") as admin:
        uploaded = await clean(fresh_api, client, photo(50, 50), tenant_scope="true")
        path = f"/v1/media/{uploaded['media_id']}"
        url = (await sign(client, uploaded["media_id"]))["url"]
        problem(await bob.delete(path), 403, "not_yours")
        gone = await client.delete(path)
        assert (gone.status_code, gone.headers.get("content-type")) == (204, None)
        assert (await client.delete(path)).status_code == 204
        assert (await admin.delete(path)).status_code == 204
        problem(await bob.delete(path), 404, "not_found")
        problem(await client.get(path_of(uploaded)), 404, "not_found")
        problem(await client.get(f"{path}/info"), 404, "not_found")
        async with anybody() as nobody:
            problem(await nobody.get(url), 404, "not_found")
        held = await left(fresh_api)
        assert (held.blobs, held.media, held.objects) == (0, 0, 0)
        assert (await client.get("/v1/usage")).json()["data"]["stored_bytes"] == 0


async def test_shared_bytes_go_with_the_last_file_that_needs_them(api: Api) -> None:
    data = secrets.token_bytes(77)
    async with api.client() as client, api.client("bob") as bob:
        mine = await clean(api, client, data)
        his = await upload(bob, data)
        await client.delete(f"/v1/media/{mine['media_id']}")
        assert (await bob.get(path_of(his))).content == data
        problem(await client.get(path_of(his)), 404, "not_found")


async def test_a_rescan_is_for_admins_and_joins_the_one_under_way(api: Api) -> None:
    async with api.client() as client, api.client("root") as admin:
        uploaded = await clean(api, client, secrets.token_bytes(78))
        path = f"/v1/media/{uploaded['media_id']}/rescan"
        problem(await client.post(path), 403, "insufficient_scope")
        first = await admin.post(path)
        assert first.status_code == 202
        job = first.json()["data"]
        assert (job["kind"], job["status"], job["media_id"]) == ("scan", "queued", uploaded["media_id"])
        assert first.headers["location"] == f"/v1/jobs/{job['job_id']}"
        assert job == (await admin.get(first.headers["location"])).json()["data"]
        assert (await admin.post(path)).json()["data"]["job_id"] == job["job_id"]
        await api.verdict(uploaded["sha256"])
        done = (await admin.get(f"/v1/jobs/{job['job_id']}")).json()["data"]
    assert (done["kind"], done["status"], done["scan_status"]) == ("scan", "completed", "clean")


async def test_many_downloads_at_once_are_all_right(api: Api) -> None:
    data = secrets.token_bytes(2 * MIB)
    async with api.client() as client:
        uploaded = await clean(api, client, data)
        answers = await asyncio.gather(*(client.get(path_of(uploaded)) for _ in range(24)))
    assert all(answer.content == data for answer in answers)
