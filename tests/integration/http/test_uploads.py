"""Uploading over HTTP, as clients do it and as they should not."""

import asyncio
import base64
import contextlib
import hashlib
import json
import secrets
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from media_api import server
from media_operator.local.postgres import EmbeddedPostgres
from tests.fixtures.media import photo, recording
from tests.integration.servers.api import Api, Left, anybody, eventually, left, problem, process, serving, upload
from tests.integration.tenancy import GENEROUS, MIB

BOUNDARY = b"xyzzy"
UPLOAD = "/v1/media/upload"


def form(data: bytes, *, filename: str = "a.bin", after: str = "") -> bytes:
    head = f'--xyzzy\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n\r\n'
    return head.encode() + data + f"\r\n{after}--xyzzy--\r\n".encode()


def head_of(api: Api, length: int | None, *more: str, subject: str = "alice") -> bytes:
    sized = f"Content-Length: {length}" if length is not None else "Transfer-Encoding: chunked"
    lines = [
        f"POST {UPLOAD} HTTP/1.1",
        "Host: x",
        f"Authorization: Bearer {api.token(subject)}",
        "Content-Type: multipart/form-data; boundary=xyzzy",
        sized,
        *more,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one response."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return int(head[0].split()[1]), headers, body


# -- upgrades and pipelines --------------------------------------------------------------------------------------------

UPGRADE = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")
"""Headers that `curl --http2` and Java's client send by default."""


@pytest.mark.parametrize("at_once", [True, False], ids=["in one write", "after the head"])
async def test_an_upload_that_offers_an_upgrade_is_an_upload(api: Api, at_once: bool) -> None:
    body = form(secrets.token_bytes(500))
    reader, writer = await asyncio.open_connection(*api.address)
    writer.write(head_of(api, len(body), *UPGRADE))
    if not at_once:
        await writer.drain()
        await asyncio.sleep(0.1)
    writer.write(body)
    assert (await read_answer(reader))[0] == 201
    writer.write(head_of(api, len(body)) + body)  # and the connection goes on
    assert (await read_answer(reader))[0] == 201
    writer.close()


async def test_an_upload_in_chunks_that_offers_an_upgrade_is_an_upload(api: Api) -> None:
    body = form(secrets.token_bytes(500))
    reader, writer = await asyncio.open_connection(*api.address)
    writer.write(head_of(api, None, *UPGRADE) + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
    assert (await read_answer(reader))[0] == 201
    writer.close()


async def test_a_compressed_body_is_refused_and_not_stored_as_the_file(fresh_api: Api) -> None:
    before = await left(fresh_api)
    compressed = {"Content-Encoding": "gzip"}
    tus = {**compressed, "Tus-Resumable": "1.0.0", "Upload-Length": "5"}
    tus["Content-Type"] = "application/offset+octet-stream"
    async with fresh_api.client() as client:
        files = {"file": ("a.txt", b"bytes")}
        for answer in (
            await client.post("/v1/media/upload", files=files, headers=compressed),
            await client.post("/v1/transcribe", files=files, headers=compressed),
            await client.post(
                "/v1/media/upload", files=files, headers=[("Content-Encoding", "identity"), *compressed.items()]
            ),
            await client.post("/v1/media/sign", json={"media_ids": ["x"]}, headers=compressed),
            await client.post("/v1/media/uploads", content=b"bytes", headers=tus),
        ):
            assert "without Content-Encoding" in problem(answer, 415, "unsupported_media_type")["detail"]
        assert await left(fresh_api) == before
        as_it_is = {"Content-Encoding": "identity"}
        assert (await client.post("/v1/media/upload", files=files, headers=as_it_is)).status_code == 201


async def test_the_body_of_a_request_is_never_run_as_one(api: Api) -> None:
    hidden = f"GET /v1/usage HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.token()}\r\n\r\n".encode()
    reader, writer = await asyncio.open_connection(*api.address)
    writer.write(head_of(api, len(hidden), *UPGRADE, "Connection: close") + hidden)
    assert (await read_answer(reader))[0] == 422
    assert await reader.read() == b""
    writer.close()


async def test_requests_of_one_connection_are_answered_in_turn(api: Api) -> None:
    body = form(b"x" * 400)
    reader, writer = await asyncio.open_connection(*api.address)
    get = f"GET /v1/usage HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.token()}\r\n\r\n".encode()
    writer.write(get * 10 + head_of(api, len(body)) + body + get)
    assert [(await read_answer(reader))[0] for _ in range(12)] == [200] * 10 + [201, 200]
    writer.close()


async def test_who_sends_requests_without_end_and_waits_for_no_answer_is_cut_off(api: Api) -> None:
    reader, writer = await asyncio.open_connection(*api.address)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 5000)
    async with asyncio.timeout(60):
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                pass
    writer.close()


# -- what is answered ------------------------------------------------------------------------------------------------


async def test_a_type_that_is_none_is_not_kept(api: Api) -> None:
    part = form(b"x").replace(b"\r\n\r\nx", b"\r\nContent-Type: image/\x00png\r\n\r\nx")
    reader, writer = await asyncio.open_connection(*api.address)
    writer.write(head_of(api, len(part)) + part)
    status, _, _ = await read_answer(reader)
    writer.close()
    assert status == 201


async def test_an_upload_is_answered_as_published(api: Api) -> None:
    data = secrets.token_bytes(1000)
    async with api.client() as client:
        answer = await client.post(UPLOAD, files={"file": ("photo.bin", data)}, data={"tenant_scope": "true"})
    assert answer.status_code == 201
    body = answer.json()
    assert set(body) == {"data"}
    media_id = body["data"].pop("media_id")
    assert media_id.startswith("med-")
    assert answer.headers["location"] == f"/v1/media/{media_id}/info"
    assert body["data"] == {
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": 1000,
        "mime_type": "application/octet-stream",
        "thumbnail_id": None,
        "width": None,
        "height": None,
        "scan_status": "pending",
    }


async def test_a_picture_is_answered_with_its_size_and_thumbnail(api: Api) -> None:
    async with api.client() as client:
        uploaded = await upload(client, photo(640, 480), "photo.jpg")
    assert (uploaded["mime_type"], uploaded["width"], uploaded["height"]) == ("image/jpeg", 640, 480)
    assert uploaded["thumbnail_id"] == uploaded["media_id"].replace("med-", "med-thumb-")


async def test_a_damaged_picture_is_answered_with_its_size_and_thumbnail(api: Api) -> None:
    png = photo(640, 480, "PNG")
    damaged = png[:33] + b"\0\0\0\3tEXta\0b" + bytes(4) + png[33:]
    async with api.client() as client:
        uploaded = await upload(client, damaged, "photo.png")
        assert (uploaded["mime_type"], uploaded["width"], uploaded["height"]) == ("image/png", 640, 480)
        info = (await client.get(f"/v1/media/{uploaded['media_id']}/info")).json()["data"]
    assert uploaded["thumbnail_id"] is not None
    assert info["thumbhash"] is not None


async def test_the_info_holds_the_upload_and_what_came_with_it(api: Api) -> None:
    async with api.client(rooms=["garden", "attic"]) as client:
        uploaded = await upload(client, secrets.token_bytes(50), "Übung 1.bin", room_id="attic", tenant_scope="true")
        info = (await client.get(f"/v1/media/{uploaded['media_id']}/info")).json()["data"]
    assert uploaded.items() <= info.items()
    assert info["created_at"].endswith("Z")
    extra = {name: info[name] for name in info.keys() - uploaded.keys() - {"created_at"}}
    assert extra == {
        "filename": "Übung 1.bin",
        "uploaded_by": "alice",
        "tenant_scope": True,
        "duration": None,
        "rooms": ["attic"],
    }


async def test_the_info_of_a_picture_holds_its_thumbhash(api: Api) -> None:
    async with api.client(rooms=["gallery"]) as client:
        uploaded = await upload(client, photo(640, 480), "photo.jpg", room_id="gallery")
        info = (await client.get(f"/v1/media/{uploaded['media_id']}/info")).json()["data"]
        (listed,) = (await client.get("/v1/rooms/gallery/files")).json()["data"]
    assert "thumbhash" not in uploaded
    hashed = base64.b64decode(info["thumbhash"], validate=True)
    assert 10 < len(hashed) < 30
    assert listed["thumbhash"] == info["thumbhash"]


@pytest.mark.parametrize("order", ["before", "after"])
async def test_fields_may_stand_before_or_after_the_file(api: Api, order: str) -> None:
    scope = '--xyzzy\r\nContent-Disposition: form-data; name="tenant_scope"\r\n\r\ntrue\r\n'
    data = secrets.token_bytes(20)
    body = form(data, after=scope) if order == "after" else scope.encode() + form(data)
    headers = {"Content-Type": "multipart/form-data; boundary=xyzzy"}
    async with api.client() as client:
        uploaded = (await client.post(UPLOAD, content=body, headers=headers)).json()["data"]
        info = (await client.get(f"/v1/media/{uploaded['media_id']}/info")).json()["data"]
    assert info["tenant_scope"] is True


async def test_without_a_length_a_file_of_any_size_streams_in(api: Api) -> None:
    data = secrets.token_bytes(9 * MIB)  # beyond what is kept in memory

    async def chunks() -> AsyncIterator[bytes]:
        body = form(data)
        for start in range(0, len(body), 100_000):
            yield body[start : start + 100_000]

    headers = {"Content-Type": "multipart/form-data; boundary=xyzzy"}
    async with api.client() as client:
        answer = await client.post(UPLOAD, content=chunks(), headers=headers)
    assert answer.json()["data"]["sha256"] == hashlib.sha256(data).hexdigest()


async def test_the_same_bytes_again_are_a_new_file_and_no_new_object(fresh_api: Api) -> None:
    data = secrets.token_bytes(5000)
    async with fresh_api.client() as client:
        first = await upload(client, data)
        before = (await client.get("/v1/usage")).json()["data"]
        second = await upload(client, data, "other.bin")
        after = (await client.get("/v1/usage")).json()["data"]
    assert first["media_id"] != second["media_id"]
    assert first["sha256"] == second["sha256"]
    assert before["stored_bytes"] == after["stored_bytes"] == 5000
    assert (after["objects"], after["files"], after["dedupe_saved_bytes"]) == (1, 2, 5000)
    assert (await left(fresh_api)).objects == 1


async def test_a_room_is_joined_in_the_same_transaction_or_nothing_is_stored(fresh_api: Api) -> None:
    async with fresh_api.client() as client:
        uploaded = await upload(client, b"in the garden", room_id="garden")
        listed = (await client.get("/v1/rooms/garden/files")).json()["data"]
        before = await left(fresh_api)
        refused = await client.post(UPLOAD, files={"file": ("a", b"elsewhere")}, data={"room_id": "cellar"})
        problem(refused, 404, "not_found")
        for room in ("x" * 256, "a\u2028b", "a\tb", "a/b", "a\u202eb"):
            refused = await client.post(UPLOAD, files={"file": ("a", b"elsewhere")}, data={"room_id": room})
            told = problem(refused, 422, "invalid_request")
            assert "1 to 255 printable characters" in told["detail"]
            assert told["errors"][0]["where"] == "room_id"
    assert [entry["media_id"] for entry in listed] == [uploaded["media_id"]]
    assert await left(fresh_api) == before


async def test_a_label_that_is_none_is_named(api: Api) -> None:
    async with api.client() as client:
        for labels, said in (
            ('{"year": 2026}', "labels: the value of 'year' must be a text, such as "),
            ('["year"]', "labels: it must be a JSON object of texts"),
            ('{"year"', "labels: it must be a JSON object of texts"),
            ('{"Year": "2026"}', "labels: 'Year' is no key of a label: it has 1 to 63 characters of a-z, 0-9"),
            ('{"year": "2\\n0"}', "labels: The value of the label year has at most 255 printable characters"),
        ):
            refused = await client.post(UPLOAD, files={"file": ("a", b"x")}, data={"labels": labels})
            assert said in problem(refused, 422, "invalid_request")["detail"]


async def test_a_file_is_stored_with_its_labels_or_not_at_all(fresh_api: Api) -> None:
    data, key = secrets.token_bytes(100), {"Idempotency-Key": secrets.token_hex(8)}
    async with fresh_api.client() as client:

        async def labelled(labels: str, headers: dict[str, str] | None = None) -> httpx.Response:
            return await client.post(UPLOAD, files={"file": ("a", data)}, data={"labels": labels}, headers=headers)

        wanted: list[dict[str, str]] = [{"project": "atlas", "ort": "Köln"}, {"year": "2026"}]
        sent = [await labelled(json.dumps(labels)) for labels in wanted]
        ids = [answer.json()["data"]["media_id"] for answer in sent]
        assert [(await client.get(f"/v1/media/{each}/info")).json()["data"]["labels"] for each in ids] == wanted
        found = (await client.get("/v1/media", params={"label": "project=atlas"})).json()["data"]
        assert [each["media_id"] for each in found] == ids[:1]
        events = (await client.get("/v1/events")).json()["data"]
        assert [event["type"] for event in events] == ["stored", "stored"]
        first, again = await labelled('{"a": "b"}', key), await labelled('{"a": "b"}', key)
        assert (again.status_code, first.json()) == (201, again.json())
        problem(await labelled('{"a": "c"}', key), 422, "idempotency_key_reused")
        before = await left(fresh_api)
        many = json.dumps({f"k{number}": "x" for number in range(17)})
        for wrong in ("project=atlas", "[]", '{"a": 1}', '{"A": "b"}', '{"a": "\\u0000"}', '{"a": "\\ud800"}', many):
            told = problem(await labelled(wrong), 422, "invalid_request")
            assert told["errors"][0]["where"] == "labels"
    assert await left(fresh_api) == before


async def test_empty_fields_are_as_good_as_none(api: Api) -> None:
    async with api.client() as client:
        uploaded = await upload(client, secrets.token_bytes(30), room_id="", tenant_scope="", labels="")
        info = (await client.get(f"/v1/media/{uploaded['media_id']}/info")).json()["data"]
    assert (info["rooms"], info["tenant_scope"]) == ([], False)


# -- digests and idempotency -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["Content-Digest", "Repr-Digest"])
async def test_a_digest_that_was_sent_is_compared(api: Api, header: str) -> None:
    data = secrets.token_bytes(100)
    right = base64.b64encode(hashlib.sha256(data).digest()).decode()
    wrong = base64.b64encode(hashlib.sha256(b"else").digest()).decode()
    async with api.client() as client:

        async def send(value: str) -> httpx.Response:
            return await client.post(UPLOAD, files={"file": ("a", data)}, headers={header: value})

        assert (await send(f"sha-256=:{right}:")).status_code == 201
        assert (await send(f"sha-512=:AAAA:, sha-256=:{right}:")).status_code == 201
        assert (await send("md5=:AAAA:")).status_code == 201
        problem(await send(f"sha-256=:{wrong}:"), 400, "digest_mismatch")
        problem(await send("sha-256=:AAAA:"), 400, "bad_request")
        problem(await send("sha-256=:not base64!:"), 400, "bad_request")
        lines = [(header, "sha-512=:AAAA:"), (header, f"sha-256=:{wrong}:")]
        for path in (UPLOAD, "/v1/transcribe"):
            problem(await client.post(path, files={"file": ("a", data)}, headers=lines), 400, "digest_mismatch")


@pytest.mark.parametrize("size", [100, 9 * MIB])
async def test_a_content_digest_may_be_of_the_whole_body_as_signers_of_requests_send_it(api: Api, size: int) -> None:
    data = secrets.token_bytes(size)
    async with api.client() as client:

        async def send(**digests: bytes | None) -> httpx.Response:
            """A digest of None is one of the body."""
            request = client.build_request("POST", UPLOAD, files={"file": ("a", data)}, data={"tenant_scope": "true"})
            body = request.read()
            for name, of in digests.items():
                digest = base64.b64encode(hashlib.sha256(body if of is None else of).digest()).decode()
                request.headers[name.replace("_", "-")] = f"sha-256=:{digest}:"
            return await client.send(request)

        assert (await send(content_digest=None)).status_code == 201
        assert (await send(content_digest=None, repr_digest=data)).status_code == 201
        assert (await send(content_digest=data, repr_digest=data)).status_code == 201
        problem(await send(repr_digest=None), 400, "digest_mismatch")
        problem(await send(content_digest=b"else"), 400, "digest_mismatch")
        problem(await send(content_digest=None, repr_digest=b"else"), 400, "digest_mismatch")
        problem(await send(content_digest=b"else", repr_digest=data), 400, "digest_mismatch")
        problem(await send(content_digest=data, repr_digest=b"else"), 400, "digest_mismatch")


async def test_a_content_digest_of_a_form_without_a_file_is_compared_with_the_body(api: Api) -> None:
    async with api.client() as client:
        text = (await client.post(UPLOAD, files={"file": ("a", b"no recording")})).json()["data"]
        for path, form, code in (
            ("/v1/transcribe", {"media_id": text["media_id"]}, "not_audio_or_video"),
            (UPLOAD, {"tenant_scope": "true"}, "missing_file"),
        ):
            request = client.build_request("POST", path, data=form)
            digest = base64.b64encode(hashlib.sha256(request.read()).digest()).decode()
            request.headers["Content-Digest"] = f"sha-256=:{digest}:"
            assert (await client.send(request)).json()["code"] == code
            wrong = base64.b64encode(hashlib.sha256(b"else").digest()).decode()
            request.headers["Content-Digest"] = f"sha-256=:{wrong}:"
            said = problem(await client.send(request), 400, "digest_mismatch")
            assert said["detail"].startswith(f"The body that arrived has sha-256 {base64.b64decode(digest).hex()}")


async def test_an_idempotency_key_gives_the_same_answer_again_and_no_second_file(api: Api) -> None:
    data, key = secrets.token_bytes(100), {"Idempotency-Key": secrets.token_hex(8)}
    async with api.client() as client, api.client("bob") as bob:
        first = await client.post(UPLOAD, files={"file": ("a", data)}, headers=key)
        again = await client.post(UPLOAD, files={"file": ("a", data)}, headers=key)
        other = await client.post(UPLOAD, files={"file": ("a", b"other")}, headers=key)
        others = await bob.post(UPLOAD, files={"file": ("a", b"other")}, headers=key)
        too_long = await client.post(UPLOAD, files={"file": ("a", data)}, headers={"Idempotency-Key": "k" * 256})
    assert (first.status_code, first.json()) == (again.status_code, again.json())
    problem(other, 422, "idempotency_key_reused")
    assert others.status_code == 201
    problem(too_long, 422, "invalid_request")


# -- what is refused -------------------------------------------------------------------------------------------------


async def test_requests_that_are_no_upload_are_told_what_to_send(fresh_api: Api) -> None:
    before = await left(fresh_api)
    async with fresh_api.client() as client:
        problem(await client.post(UPLOAD, json={"file": "x"}), 415, "unsupported_media_type")
        # http-api.md: no `file` part is a 422, however a client library sends a form without files.
        problem(await client.post(UPLOAD), 422, "missing_file")
        problem(await client.post(UPLOAD, data={"tenant_scope": "true"}), 422, "missing_file")
        problem(await client.post(UPLOAD, data={"file": "x"}), 422, "missing_file")
        headers = {"Content-Type": "multipart/form-data"}
        problem(await client.post(UPLOAD, content=form(b"x"), headers=headers), 422, "invalid_request")
        headers = {"Content-Type": "multipart/form-data; boundary=xyzzy"}
        for garbage in (b"", b"garbage", form(b"x")[:-10], b"\x00" * 1000):
            problem(await client.post(UPLOAD, content=garbage, headers=headers), 422, "invalid_request")
        problem(await client.post(UPLOAD, files={"other": ("a", b"x")}), 422, "invalid_request")
        two = [("file", ("a", b"x")), ("file", ("b", b"y"))]
        problem(await client.post(UPLOAD, files=two), 422, "invalid_request")
        scope = {"tenant_scope": "perhaps"}
        problem(await client.post(UPLOAD, files={"file": ("a", b"x")}, data=scope), 422, "invalid_request")
        problem(await client.post(UPLOAD, files={"tenant_scope": (None, b"true")}), 422, "missing_file")
        wrong = await client.post(UPLOAD, files={"file": ("a", b"x")}, data={"roomid": "garden"})
        assert "did you mean `room_id`?" in problem(wrong, 422, "invalid_request")["detail"]
        problem(await client.post(UPLOAD, files={"file": ("a", b"")}), 422, "empty_file")
    assert await left(fresh_api) == before


async def test_a_file_over_the_limit_is_refused_with_the_limit_and_leaves_nothing(
    postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    small = replace(GENEROUS, max_upload_bytes=2 * MIB)
    async with serving(postgres, tmp_path, applied=small) as api, api.client() as client:
        before = await left(api)
        fits = await client.post(UPLOAD, files={"file": ("a", b"x" * 2 * MIB)})
        assert fits.status_code == 201
        before = await left(api)
        announced = await client.post(UPLOAD, files={"file": ("a", b"y" * (2 * MIB + 1))})
        assert problem(announced, 413, "file_too_large")["limit"] == 2 * MIB

        async def chunks() -> AsyncIterator[bytes]:
            yield form(b"z" * (2 * MIB + 1))

        headers = {"Content-Type": "multipart/form-data; boundary=xyzzy"}
        problem(await client.post(UPLOAD, content=chunks(), headers=headers), 413, "file_too_large")
        assert await left(api) == before


async def test_a_full_tenant_says_how_full_it_is_and_keeps_nothing(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    small = replace(GENEROUS, max_bytes=10 * MIB, max_upload_bytes=64 * MIB)
    async with serving(postgres, tmp_path, applied=small) as api, api.client() as client:
        kept = secrets.token_bytes(6 * MIB)
        await upload(client, kept)
        before = await left(api)
        for size in (5 * MIB, 12 * MIB):
            refused = await client.post(UPLOAD, files={"file": ("a", secrets.token_bytes(size))})
            facts = problem(refused, 413, "quota_exceeded")
            assert (facts["max_storage_mb"], facts["used"], facts["reserved"]) == (10, 6 * MIB, 0)
        assert await left(api) == before
        await upload(client, kept)  # what is stored already needs no room


async def test_a_tenant_with_all_its_files_takes_no_other_in_any_way(
    postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    tus = {"Tus-Resumable": "1.0.0"}
    pieces = {**tus, "Content-Type": "application/offset+octet-stream"}
    three = replace(GENEROUS, max_items=3)
    async with (
        process(postgres, tmp_path, applied=three, MEDIA_UPLOAD_DRAFT="true") as api,
        api.client(rooms=["garden"]) as client,
    ):
        stored = secrets.token_bytes(100)
        first = await upload(client, stored)
        begun = await client.post("/v1/media/uploads", headers={**tus, "Upload-Length": "5"})
        await upload(client, secrets.token_bytes(8 * MIB))
        await upload(client, stored, tenant_scope="true")
        assert (await client.get("/v1/usage")).json()["data"]["limits"]["max_files"] == 3
        before = await left(api)

        new, digest = secrets.token_bytes(100), base64.b64encode(hashlib.sha256(stored).digest()).decode()
        for refused in (
            await client.post(UPLOAD, files={"file": ("a", new)}),
            await client.post(UPLOAD, files={"file": ("a", stored)}),
            await client.post(UPLOAD, files={"file": ("a", stored)}, headers={"Repr-Digest": f"sha-256=:{digest}:"}),
            await client.post(UPLOAD, files={"file": ("a", secrets.token_bytes(8 * MIB))}),
            await client.post("/v1/media/uploads", headers={**tus, "Upload-Length": "5"}),
            await client.post(
                "/v1/media/uploads", headers={"Upload-Draft-Interop-Version": "6", "Upload-Complete": "?1"}, content=new
            ),
            await client.post("/v1/transcribe", files={"file": ("a.wav", recording([440], "wav", "pcm_s16le"))}),
            await client.patch(begun.headers["location"], headers={**pieces, "Upload-Offset": "0"}, content=b"whole"),
        ):
            facts = problem(refused, 413, "file_quota_exceeded")
            assert (facts["max_files"], facts["used"], facts["limit"]) == (3, 3, 3)
        asked = {"file": ("a.wav", recording([550], "wav", "pcm_s16le")), "model": (None, "whisper-1")}
        refused = await client.post("/v1/audio/transcriptions", files=asked)
        assert (refused.status_code, refused.json()["error"]["code"]) == (413, "file_quota_exceeded")
        attached = await client.post("/v1/rooms/garden/files", json={"media_id": first["media_id"]})
        assert attached.status_code == 201  # that makes no file
        now = await left(api)
        assert (now.blobs, now.media, now.objects) == (before.blobs, before.media, before.objects)

        assert (await client.delete(f"/v1/media/{first['media_id']}")).status_code == 204
        gone_on = await client.head(begun.headers["location"], headers=tus)
        assert gone_on.headers["upload-media-id"].startswith("med-")  # its bytes had come
        problem(await client.post(UPLOAD, files={"file": ("a", stored)}), 413, "file_quota_exceeded")


async def test_content_that_was_found_infected_is_refused_when_it_comes_again(api: Api) -> None:
    data = secrets.token_bytes(64)
    async with api.client() as client:
        uploaded = await upload(client, data)
        await api.verdict(uploaded["sha256"], "infected")
        problem(await client.post(UPLOAD, files={"file": ("a", data)}), 422, "infected")


# -- connections -----------------------------------------------------------------------------------------------------


async def test_a_connection_that_breaks_at_any_byte_leaves_nothing(fresh_api: Api) -> None:
    body = form(secrets.token_bytes(20 * MIB))
    before = await left(fresh_api)

    async def clean() -> bool:
        return await left(fresh_api) == before and not await _in_flight(fresh_api)

    at_the_end = len(body) - 1
    for length in (len(body), None):
        for cut in (0, 1, 60, 5 * MIB, 12 * MIB, at_the_end - 12, at_the_end):
            _, writer = await asyncio.open_connection(*fresh_api.address)
            writer.write(head_of(fresh_api, length))
            if length is None and cut:
                writer.write(b"%x\r\n" % len(body))
            writer.write(body[:cut])
            await writer.drain()
            if cut == 12 * MIB:
                await eventually(lambda: _reserves(fresh_api))
            writer.transport.abort()
            await eventually(clean)


async def _reserves(api: Api) -> bool:
    return (await left(api)).reserved > 0


async def _in_flight(api: Api) -> float:
    """Requests under way, without the one that reads the metrics."""
    async with anybody() as client:
        text = (await client.get(f"{api.metrics_base}/metrics")).text
    line = next(line for line in text.splitlines() if line.startswith("media_api_requests_in_flight "))
    return float(line.split()[1])


async def test_a_client_that_stops_sending_is_ended_and_leaves_nothing(
    postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    async with serving(postgres, tmp_path, body_idle_seconds=0.3) as api:
        reader, writer = await asyncio.open_connection(*api.address)
        writer.write(head_of(api, 20 * MIB) + form(b"x" * 9 * MIB)[: 9 * MIB])
        status, headers, body = await read_answer(reader)
        assert (status, json.loads(body)["code"]) == (408, "request_timeout")
        assert headers["connection"] == "close"
        assert await reader.read() == b""
        writer.close()
        assert await left(api) == Left(0, 0, 0, 0, 0, 0)


async def test_a_client_that_drips_is_ended(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    async with serving(postgres, tmp_path, body_idle_seconds=0.3) as api:
        reader, writer = await asyncio.open_connection(*api.address)
        writer.write(head_of(api, 20 * MIB) + form(b"x" * 100)[:90])
        answer = asyncio.create_task(read_answer(reader))
        async with asyncio.timeout(60):
            while not answer.done():
                writer.write(b"x")
                await asyncio.wait({answer}, timeout=0.05)
        status, _, body = await answer
        assert (status, json.loads(body)["code"]) == (408, "request_timeout")
        writer.close()
        assert await left(api) == Left(0, 0, 0, 0, 0, 0)


async def test_a_small_body_that_does_not_come_is_not_waited_for(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    async with serving(postgres, tmp_path, body_idle_seconds=0.3) as api:
        reader, writer = await asyncio.open_connection(*api.address)
        head = f"POST /v1/rooms/garden/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.token()}\r\n"
        writer.write(f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode())
        async with asyncio.timeout(60):
            status, _, body = await read_answer(reader)
        assert (status, json.loads(body)["code"]) == (408, "request_timeout")
        writer.close()


async def test_an_announced_upload_that_can_not_pass_is_refused_before_it_is_sent(api: Api) -> None:
    reader, writer = await asyncio.open_connection(*api.address)
    writer.write(head_of(api, 10**12))
    status, headers, body = await read_answer(reader)
    assert (status, json.loads(body)["code"]) == (413, "file_too_large")
    assert headers["x-request-id"]
    writer.close()


async def test_the_connection_serves_on_after_a_refusal_when_the_client_sends_its_body_anyway(api: Api) -> None:
    reader, writer = await asyncio.open_connection(*api.address)
    body = form(b"x" * 3 * MIB)
    writer.write(head_of(api, len(body), "Idempotency-Key: " + "k" * 300))
    status, headers, _ = await read_answer(reader)
    assert status == 422
    assert "connection" not in headers
    writer.write(body)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    status, _, body = await read_answer(reader)
    assert (status, json.loads(body)["status"]) == (200, "ok")
    writer.close()


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
async def test_a_client_that_reads_only_after_sending_everything_still_gets_the_refusal(api: Api, version: str) -> None:
    """Proxies and simple clients say Connection: close and send all first. After a reset they would lose the answer."""
    body = form(b"x" * 9 * MIB)
    head = head_of(api, len(body), "Idempotency-Key: " + "k" * 300, "Connection: close")
    reader, writer = await asyncio.open_connection(*api.address)
    writer.write(head.replace(b"HTTP/1.1", version.encode(), 1))
    for start in range(0, len(body), MIB):
        writer.write(body[start : start + MIB])
        await writer.drain()
        await asyncio.sleep(0.01)
    status, headers, answer = await read_answer(reader)
    assert (status, headers["connection"], json.loads(answer)["code"]) == (422, "close", "invalid_request")
    assert await reader.read() == b""
    writer.close()


async def test_the_rest_of_a_refused_body_is_not_read_for_ever(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LINGER_SECONDS", 0.2)
    for more in ((), ("Connection: close",)):
        reader, writer = await asyncio.open_connection(*api.address)
        writer.write(head_of(api, 10**12, *more))
        assert (await read_answer(reader))[0] == 413
        async with asyncio.timeout(60):
            with pytest.raises(ConnectionError):
                while True:
                    writer.write(b"x" * 65536)
                    await writer.drain()
                    await asyncio.sleep(0.01)


async def test_a_client_that_waits_for_100_continue_gets_it_or_the_refusal(api: Api) -> None:
    body = form(secrets.token_bytes(100))
    reader, writer = await asyncio.open_connection(*api.address)
    writer.write(head_of(api, len(body), "Expect: 100-continue"))
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(body)
    assert (await read_answer(reader))[0] == 201
    writer.write(head_of(api, 10**12, "Expect: 100-continue"))
    status, headers, _ = await read_answer(reader)
    assert (status, headers["connection"]) == (413, "close")
    assert await reader.read() == b""
    writer.close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_curl_shows_the_413_and_not_a_reset(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    small = replace(GENEROUS, max_upload_bytes=2 * MIB)
    file = tmp_path / "big.bin"
    async with serving(postgres, tmp_path, applied=small) as api:
        for size in (3 * MIB, 80 * MIB):
            file.write_bytes(b"x" * size)
            for expect in ("Expect: 100-continue", "Expect:"):
                curl = await asyncio.create_subprocess_exec(
                    *("curl", "-sS", "-H", f"Authorization: Bearer {api.token()}", "-H", expect),
                    *("-F", f"file=@{file}", "-w", "\n%{http_code}", f"{api.base}{UPLOAD}"),
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                )
                out, err = await curl.communicate()
                body, _, status = out.decode().rpartition("\n")
                assert (status, err, curl.returncode) == ("413", b"", 0)
                assert json.loads(body)["code"] == "file_too_large"


async def test_thirty_two_slow_clients_hold_up_nobody(api: Api) -> None:
    """They send their forms byte by byte. Others are served meanwhile, and in the end all are stored."""

    async def drip(number: int, go_on: asyncio.Event) -> tuple[int, bytes]:
        body = form(f"drop {number}".encode() * 3)
        reader, writer = await asyncio.open_connection(*api.address)
        writer.write(head_of(api, len(body), subject=f"slow{number}"))
        for index in range(len(body)):
            if index == len(body) // 2:
                await go_on.wait()
            writer.write(body[index : index + 1])
            await writer.drain()
            await asyncio.sleep(0)
        status, _, answer = await read_answer(reader)
        writer.close()
        return status, answer

    go_on = asyncio.Event()
    slow = [asyncio.create_task(drip(number, go_on)) for number in range(32)]

    async def all_under_way() -> bool:
        return await _in_flight(api) >= 32

    await eventually(all_under_way)
    async with api.client() as client:
        await upload(client, b"in between")
    assert not any(task.done() for task in slow)
    go_on.set()
    answers = await asyncio.gather(*slow)
    assert [status for status, _ in answers] == [201] * 32
    assert len({json.loads(answer)["data"]["media_id"] for _, answer in answers}) == 32


async def test_a_hundred_uploads_at_once_never_exceed_the_quota(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    small = replace(GENEROUS, max_bytes=2 * MIB)
    async with serving(postgres, tmp_path, applied=small) as api, api.client() as client:
        files = [secrets.token_bytes(100_000) for _ in range(100)]
        answers = await asyncio.gather(*(client.post(UPLOAD, files={"file": ("a", data)}) for data in files))
        kept = [answer for answer in answers if answer.status_code == 201]
        for answer in answers:
            if answer.status_code != 201:
                problem(answer, 413, "quota_exceeded")
        usage = (await client.get("/v1/usage")).json()["data"]
        assert 0 < len(kept) <= 2 * MIB // 100_000
        assert usage["stored_bytes"] == len(kept) * 100_000
        assert await left(api) == Left(len(kept), len(kept), 0, 0, len(kept), 0)
