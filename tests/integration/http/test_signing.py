"""URLs that need no token: of one file and of many, of the object store and of the api itself, for how long."""

import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from media_core.items.signed_urls import Shared, SharedUrls
from media_operator.local.postgres import EmbeddedPostgres
from tests.fixtures.media import film, photo
from tests.integration.servers.api import Api, anybody, problem, serving, upload

DAY = 86400
UNKNOWN = "med-01JD0Z3V5QH7W8K2M4N6P8R0T2"


@pytest.fixture(scope="module")
async def patient_api(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """Its URLs may be valid for a day."""
    async with serving(postgres, tmp_path_factory.mktemp("api"), signed_url_max_seconds=DAY) as api:
        yield api


async def clean(api: Api, client: httpx.AsyncClient, data: bytes, name: str = "a.bin", **fields: str) -> dict[str, Any]:
    uploaded = await upload(client, data, name, **fields)
    await api.verdict(uploaded["sha256"])
    return uploaded


async def sign(client: httpx.AsyncClient, media_id: str, **params: Any) -> dict[str, Any]:
    answer = await client.get(f"/v1/media/signed/{media_id}", params=params)
    assert answer.status_code == 200, answer.text
    signed: dict[str, Any] = answer.json()["data"]
    return signed


async def sign_all(client: httpx.AsyncClient, *media_ids: str, **fields: Any) -> list[dict[str, Any]]:
    answer = await client.post("/v1/media/sign", json={"media_ids": media_ids, **fields})
    assert answer.status_code == 200, answer.text
    signed: list[dict[str, Any]] = answer.json()["data"]
    assert [each["media_id"] for each in signed] == [*media_ids]
    return signed


def seconds_left(signed: dict[str, Any]) -> float:
    return (datetime.fromisoformat(signed["expires_at"]) - datetime.now(UTC)).total_seconds()


@pytest.mark.parametrize("via", ["store", "api"])
async def test_a_url_is_valid_as_long_as_asked_for_up_to_what_the_tenant_allows(patient_api: Api, via: str) -> None:
    async with patient_api.client() as client:
        media_id = (await clean(patient_api, client, secrets.token_bytes(30)))["media_id"]
        for given, wanted in ((None, 300), (1, 1), (DAY, DAY)):
            params = {} if given is None else {"expires_in": given}
            one = await sign(client, media_id, via=via, **params)
            (many,) = await sign_all(client, media_id, via=via, **params)
            for signed in (one, many):
                assert wanted - 10 < seconds_left(signed) <= wanted
        for wrong in (0, -1, DAY + 1, "soon"):
            answer = await client.get(f"/v1/media/signed/{media_id}", params={"expires_in": wrong, "via": via})
            problem(answer, 422, "invalid_request")
            body = {"media_ids": [media_id], "expires_in": wrong, "via": via}
            problem(await client.post("/v1/media/sign", json=body), 422, "invalid_request")


async def test_without_more_leave_a_url_is_valid_for_five_minutes_at_most(api: Api) -> None:
    async with api.client() as client:
        media_id = (await clean(api, client, secrets.token_bytes(31)))["media_id"]
        assert seconds_left(await sign(client, media_id, expires_in=300)) > 290
        answer = await client.get(f"/v1/media/signed/{media_id}", params={"expires_in": 301})
        assert problem(answer, 422, "invalid_request")["limit"] == 300
        problem(await client.get(f"/v1/media/signed/{media_id}", params={"via": "mail"}), 422, "invalid_request")


@pytest.mark.parametrize("via", ["store", "api"])
async def test_many_are_signed_at_once_and_a_bad_id_fails_nothing_else(api: Api, via: str) -> None:
    async with api.client() as client, api.client("bob", rooms=[]) as bob, anybody() as nobody:
        picture, words = photo(44, 30 + len(via)), secrets.token_bytes(60)
        one = await clean(api, client, picture, "a.jpg")
        two = await clean(api, client, words)
        pending = await upload(client, secrets.token_bytes(61))
        foreign = await clean(api, bob, secrets.token_bytes(62))
        infected = await upload(client, secrets.token_bytes(63))
        await api.verdict(infected["sha256"], "infected")
        ids = [
            *(two["media_id"], UNKNOWN, one["media_id"], pending["media_id"], "nonsense", foreign["media_id"]),
            *(infected["media_id"], one["thumbnail_id"], two["media_id"]),
        ]
        signed = await sign_all(client, *ids, via=via)
        errors = [each["error"] and each["error"]["code"] for each in signed]
        missing = "not_found"
        assert errors == [None, missing, None, "scan_pending", missing, missing, missing, None, None]
        for each, data in ((signed[0], words), (signed[2], picture), (signed[8], words)):
            assert (await nobody.get(each["url"])).content == data
        assert (await nobody.get(signed[7]["url"])).headers["content-type"] == "image/webp"
        thumbnails = await sign_all(client, one["media_id"], two["media_id"], thumbnail=True, via=via)
        assert (await nobody.get(thumbnails[0]["url"])).headers["content-type"] == "image/webp"
        assert thumbnails[1]["error"]["code"] == "no_thumbnail"
        assert len(await sign_all(client, *[one["media_id"]] * 200, via=via)) == 200


async def test_what_can_not_be_signed_is_refused(api: Api) -> None:
    async with api.client() as client:
        for wrong in (
            {"media_ids": []},
            {"media_ids": [UNKNOWN] * 201},
            {"media_ids": UNKNOWN},
            {"media_ids": [7]},
            {"media_ids": ["x" * 65]},
            {"media_ids": [UNKNOWN], "via": "mail"},
            {"media_ids": [UNKNOWN], "thumbnail": "yes"},
            {"media_ids": [UNKNOWN], "size": 161, "via": "api"},
            {"media_ids": [UNKNOWN], "more": 1},
            {},
        ):
            problem(await client.post("/v1/media/sign", json=wrong), 422, "invalid_request")
        problem(await client.post("/v1/media/sign", data={"media_ids": UNKNOWN}), 415, "unsupported_media_type")


async def test_a_gallery_gets_its_thumbnails_in_the_size_that_it_shows(api: Api) -> None:
    async with api.client() as client, anybody() as nobody:
        media_id = (await clean(api, client, photo(1200, 600), "a.jpg"))["media_id"]
        (many,) = await sign_all(client, media_id, size=320)
        one = await sign(client, media_id, size=320, via="api", thumbnail=True)
        for signed in (many, one):
            small = await nobody.get(signed["url"])
            assert Image.open(BytesIO(small.content)).size == (320, 160)
            assert small.headers["cross-origin-resource-policy"] == "cross-origin"
        url = httpx.URL(many["url"])
        seen = {"If-None-Match": small.headers["etag"]}
        assert (await nobody.get(url, headers=seen)).status_code == 304
        assert (await nobody.head(url)).headers["etag"] == small.headers["etag"]
        smaller = await nobody.get(url.copy_set_param("size", "160"), headers=seen)
        assert Image.open(BytesIO(smaller.content)).size == (160, 80)
        problem(await nobody.get(url.copy_set_param("size", "161")), 422, "invalid_request")
        problem(await nobody.get(url.copy_remove_param("thumbnail")), 403, "signature_invalid")
        largest = await sign(client, media_id, size=1024)
        assert Image.open(BytesIO((await nobody.get(largest["url"])).content)).size == (1024, 512)


async def test_a_url_of_the_api_gives_the_file_with_its_conditions_ranges_and_head(api: Api) -> None:
    data = photo(50, 40)
    async with api.client() as client, anybody() as nobody:
        uploaded = await clean(api, client, data, "me & you.jpg")
        url = (await sign(client, uploaded["media_id"], via="api"))["url"]
        assert url.startswith(f"{api.base}/shared/{uploaded['media_id']}?")
        whole = await nobody.get(url)
        assert (whole.status_code, whole.content) == (200, data)
        assert whole.headers["content-type"] == "image/jpeg"
        assert whole.headers["content-disposition"].startswith("inline; ")
        assert whole.headers["cross-origin-resource-policy"] == "cross-origin"
        assert whole.headers["content-security-policy"] == "sandbox; default-src 'none'"
        head = await nobody.head(url)
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(data)))
        part = await nobody.get(url, headers={"Range": "bytes=3-9"})
        assert (part.status_code, part.content) == (206, data[3:10])
        assert (await nobody.get(url, headers={"Range": f"bytes={len(data)}-"})).status_code == 416
        assert (await nobody.get(url, headers={"If-None-Match": whole.headers["etag"]})).status_code == 304
        small = (await sign(client, uploaded["media_id"], via="api", thumbnail=True))["url"]
        assert (await nobody.get(small)).headers["content-type"] == "image/webp"
        assert (await nobody.head(small)).headers["content-type"] == "image/webp"
        assert (await nobody.post(url)).status_code == 405


async def test_a_url_of_the_api_ends_with_its_file_its_verdict_and_its_time(api: Api) -> None:
    async with api.client() as client, anybody() as nobody:
        first = await clean(api, client, secrets.token_bytes(70))
        again = await upload(client, b"other name of the same")
        await api.verdict(again["sha256"])
        same = await upload(client, b"other name of the same")
        urls = {
            each["media_id"]: (await sign(client, each["media_id"], via="api"))["url"] for each in (first, again, same)
        }
        await client.delete(f"/v1/media/{again['media_id']}")
        problem(await nobody.get(urls[again["media_id"]]), 404, "not_found")
        assert (await nobody.get(urls[same["media_id"]])).status_code == 200
        async with api.client("root", scopes=["admin"]) as admin:
            assert (await admin.post(f"/v1/media/{first['media_id']}/rescan")).status_code == 202
        await api.verdict(first["sha256"], "infected")
        problem(await nobody.get(urls[first["media_id"]]), 404, "not_found")
        assert (await nobody.head(urls[first["media_id"]])).status_code == 404
        signer = await SharedUrls(api.tenant.tenant_id, api.database, api.base).signer(timedelta(seconds=-1))
        old = signer.sign(Shared(same["media_id"], thumbnail=False))
        problem(await nobody.get(old.url), 403, "signature_expired")


async def test_a_url_of_the_api_outlives_its_signers_rights_and_ends_with_what_the_tenant_releases(
    fresh_api: Api,
) -> None:
    api = fresh_api
    async with api.client() as owner, api.client("bob") as signer, anybody() as nobody:
        shared = await clean(api, owner, secrets.token_bytes(80), room_id="garden", tenant_scope="true")
        media_id = shared["media_id"]
        url = (await sign(signer, media_id, via="api"))["url"]
        assert (await owner.patch(f"/v1/media/{media_id}", json={"tenant_scope": False})).status_code == 200
        by_room = (await sign(signer, media_id, via="api"))["url"]
        assert (await owner.delete(f"/v1/rooms/garden/files/{media_id}")).status_code == 204
        problem(await signer.get(f"/v1/media/signed/{media_id}", params={"via": "api"}), 404, "not_found")
        for each in (url, by_room):
            assert (await nobody.get(each)).status_code == 200
        async with api.database.transaction() as tx:
            await tx.execute("UPDATE blob SET scan_status = 'unscannable' WHERE sha256 = %(sha256)s", shared)
        etag = {"If-None-Match": f'"{shared["sha256"]}"', "Range": "bytes=0-1"}
        problem(await nobody.get(url, headers=etag), 403, "unscannable")
        assert (await owner.delete(f"/v1/media/{media_id}")).status_code == 204
        problem(await nobody.get(by_room, headers=etag), 404, "not_found")


async def test_a_url_of_the_api_that_was_changed_opens_nothing(
    api: Api, postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    async with api.client() as client, anybody() as nobody, serving(postgres, tmp_path) as other_tenant:
        uploaded = await clean(api, client, film(), "film.mp4")
        other = await clean(api, client, secrets.token_bytes(81))
        url = httpx.URL((await sign(client, uploaded["media_id"], via="api"))["url"])
        assert (await nobody.get(url)).status_code == 200
        changed = [
            url.copy_set_param("expires", str(int(url.params["expires"]) + 1)),
            url.copy_set_param("expires", "soon"),
            url.copy_set_param("expires", ""),
            url.copy_set_param("signature", "0" * 64),
            url.copy_set_param("signature", "ü"),
            url.copy_remove_param("signature"),
            url.copy_set_param("thumbnail", "true"),
            url.copy_with(path=url.path.replace(uploaded["media_id"], other["media_id"])),
            url.copy_with(path="/shared/x"),
            url.copy_with(query=None),
            url.copy_with(port=other_tenant.address[1]),
        ]
        for forged in changed:
            problem(await nobody.get(forged), 403, "signature_invalid")


async def test_another_key_ends_all_urls_of_the_api(fresh_api: Api) -> None:
    async with fresh_api.client() as client, anybody() as nobody:
        media_id = (await clean(fresh_api, client, b"shared"))["media_id"]
        before = (await sign(client, media_id, via="api"))["url"]
        assert (await nobody.get(before)).status_code == 200
        async with fresh_api.tenant.as_owner() as tx:
            await tx.execute("UPDATE url_key SET secret = repeat('a1', 32)")
        await fresh_api.apply(await fresh_api.library.policy.current())  # waits as long as a value is kept
        problem(await nobody.get(before), 403, "signature_invalid")
        assert (await nobody.get((await sign(client, media_id, via="api"))["url"])).status_code == 200
