"""What a stranger may send to lists, searches, changes and signatures: each is answered, and nothing breaks."""

import base64
import json
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from tests.integration.servers.api import Api, anybody, upload

LISTS = {
    "/v1/media": ("cursor", "sort", "created_after", "created_before", "name", "owner", "room_id", "label", "type"),
    "/v1/jobs": ("cursor", "kind", "status", "media_id"),
    "/v1/rooms/garden/files": ("cursor", "type"),
    "/v1/events": ("cursor", "type", "media_id", "lastEventId"),
    "/v1/transcripts/search": ("cursor", "q", "owner", "room_id", "label", "language"),
}
"""Each list, with the parameters that it takes beside numbers."""
TIMES = (
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00",
    "2026-01-01T00:00:00.123456789Z",
    "2026-01-01T00:00:60Z",
    "2026-01-01",
    "0.5",
    "1e400",
)


def cursor(*parts: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


CURSORS = (
    *("=", "====", "a", "AAAA", "W10", "-_-_", "\u00e9", "\0", "0" * 100_000),
    base64.urlsafe_b64encode(b"[" * 1500).decode(),
    cursor("-created", "0001-01-01T00:00:00+23:59", "x"),
    cursor("-created", "9999-12-31T23:59:59-23:59", "x"),
    cursor("-created", "2026-01-01T00:00:00+00:00", "\ud800"),
    cursor("size", str(2**63), "x"),
    cursor("name", "ff", "x"),
    *(cursor("1", "1", rank, "1", "1", "1") for rank in ("nan", "inf", "1e999", "-5")),
    cursor("1", "1", "0.1", str(2**63 - 1), str(2**31 - 1), "9" * 20),
    *(cursor(each, each) for each in ("0", str(2**63 - 1), str(2**63), "\u00b2", "\u0663", "-1")),
)


def answered(answer: httpx.Response, what: object) -> None:
    assert answer.status_code in {200, 400, 403, 404, 410, 422}, (what, answer.status_code, answer.text)


@pytest.mark.parametrize("path", LISTS)
async def test_no_cursor_time_or_text_breaks_a_list(api: Api, path: str) -> None:
    needed = {"q": "x"} if "q" in LISTS[path] else {}
    async with api.client() as client:
        for given in CURSORS:
            for sort in ("-created", "size", "name"):
                query = {"cursor": given, "sort": sort} if "sort" in LISTS[path] else {"cursor": given}
                try:
                    answered(await client.get(path, params=query | needed), given[:60])
                except httpx.InvalidURL:
                    assert len(given) > 65_000
        for moment in TIMES:
            for side in {"created_after", "created_before"} & {*LISTS[path]}:
                answered(await client.get(path, params={side: moment}), moment)
        for text in (
            "%00",
            "%ED%A0%80",
            "%FF%FE",
            "%25",
            "_",
            "%5C",
            "x" * 10_000,
            "%27",
            "%3D",
            "*",
            "%22",
            "%E2%80%8D",
        ):
            for name in LISTS[path]:
                answered(
                    await client.get(f"{path}?{name}={text}&{'' if name == 'q' else urlencode(needed)}"),
                    (name, text[:20]),
                )
                answered(await client.get(f"{path}?{text}={name}"), (name, text[:20]))


async def test_wildcards_of_sql_are_letters_of_a_name(api: Api) -> None:
    async with api.client("wildcards") as client:
        odd = await upload(client, b"odd name", "a%_b\\.txt")
        await upload(client, b"plain name", "axxb.txt")
        for part in ("%", "_", "\\", "a%", "a%_b\\"):
            listed = (await client.get("/v1/media", params={"name": part})).json()["data"]
            assert [item["media_id"] for item in listed] == [odd["media_id"]], part


@pytest.mark.parametrize(
    "body",
    [
        *(b'{"filename": "%s"}' % name for name in (rb"\ud800", rb"a\u0000b", rb"\u202e", b"/", b"..")),
        *(b'{"labels": {%s}}' % labels for labels in (rb'"a": "\ud800"', rb'"a": "\u0000"', b'"": "x"', b'"a": 1')),
        *(b"", b"null", b"[]", b"\xff", b"\xef\xbb\xbf{}", b"[" * 60_000, b'{"filename": NaN}', b'{"x": 1}'),
        b'{"filename": "x"' + b" " * 70_000 + b"}",
    ],
    ids=lambda body: repr(body[:30]),
)
async def test_no_body_breaks_a_change_or_a_signature(api: Api, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    async with api.client() as client:
        media_id = (await upload(client, b"to be changed"))["media_id"]
        answered(await client.patch(f"/v1/media/{media_id}", content=body, headers=headers), body[:40])
        answered(await client.post("/v1/media/sign", content=body, headers=headers), body[:40])
        kept = (await client.get(f"/v1/media/{media_id}/info")).json()["data"]["filename"]
        assert kept.isprintable()
        assert "/" not in kept
        assert kept not in {"", ".", ".."}


async def test_a_url_of_the_api_with_anything_changed_opens_nothing(api: Api) -> None:
    async with api.client() as client, anybody() as nobody:
        files = [await upload(client, b"of a url %d" % number) for number in range(2)]
        for file in files:
            await api.verdict(file["sha256"])
        wanted = {"media_ids": [files[0]["media_id"]], "via": "api"}
        url = httpx.URL((await client.post("/v1/media/sign", json=wanted)).json()["data"][0]["url"])
        assert (await nobody.get(url)).content == b"of a url 0"
        for name, value in url.params.items():
            for other in ("", f"{value}0", "-1", "9" * 30, "\u0663", "\0", "\u00e9"):
                assert (await nobody.get(url.copy_set_param(name, other))).status_code in {403, 422}, (name, other)
            assert (await nobody.get(url.copy_remove_param(name))).status_code in {403, 422}
        elsewhere = str(url).replace(files[0]["media_id"], files[1]["media_id"])
        assert (await nobody.get(elsewhere)).status_code == 403
