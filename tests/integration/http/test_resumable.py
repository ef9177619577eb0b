"""Uploads in several requests (tus 1.0.0) over the real api, on a folder and on S3, and what is left of them."""

import asyncio
import base64
import hashlib
import json
import re
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from media_core.store import S3Store
from media_core.store.object_keys import content_key
from media_core.uploads import expiry
from media_operator.local.postgres import EmbeddedPostgres
from tests.fixtures.media import photo
from tests.integration.invariants import broken
from tests.integration.servers import s3_servers
from tests.integration.servers.api import Api, anybody, beside, eventually, problem, process, upload
from tests.integration.servers.s3_servers import S3Server
from tests.integration.tenancy import GENEROUS, MIB

TUS = {"Tus-Resumable": "1.0.0"}
BODY = {**TUS, "Content-Type": "application/offset+octet-stream"}
UPLOADS = "/v1/media/uploads"


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[S3Server]:
    running = await s3_servers.start("versitygw", tmp_path_factory.mktemp("versitygw"))
    yield running
    running.stop()


@pytest.fixture(params=["folder", "s3"])
async def api(
    request: pytest.FixtureRequest, server: S3Server, postgres: EmbeddedPostgres, tmp_path: Path
) -> AsyncIterator[Api]:
    settings = server.settings
    on_s3 = {
        "MEDIA_STORE": "s3",
        "MEDIA_S3_ENDPOINT": settings.endpoint,
        "MEDIA_S3_BUCKET": settings.bucket,
        "MEDIA_S3_ACCESS_KEY_ID": settings.access_key_id,
        "MEDIA_S3_SECRET_ACCESS_KEY": settings.secret_access_key.get_secret_value(),
    }
    async with process(postgres, tmp_path, **(on_s3 if request.param == "s3" else {})) as one:
        if request.param == "s3":
            one.store = S3Store(settings, one.tenant.tenant_id)  # type: ignore[assignment]
        yield one
        await one.store.aclose()


def metadata(**values: str) -> str:
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in values.items())


async def begin(client: httpx.AsyncClient, length: int | None, **headers: str) -> str:
    announced = {"Upload-Defer-Length": "1"} if length is None else {"Upload-Length": str(length)}
    answer = await client.post(UPLOADS, headers={**TUS, **announced, **headers})
    assert answer.status_code == 201, answer.text
    assert answer.headers["tus-resumable"] == "1.0.0"
    return answer.headers["location"]


async def send(
    client: httpx.AsyncClient, where: str, data: bytes, offset: int, base: str = "", **headers: str
) -> httpx.Response:
    return await client.patch(
        base + where, content=data, headers={**BODY, "Upload-Offset": str(offset), **headers}, timeout=60
    )


async def offset_of(client: httpx.AsyncClient, where: str) -> int:
    answer = await client.head(where, headers=TUS)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    return int(answer.headers["upload-offset"])


async def stored(client: httpx.AsyncClient, where: str) -> dict[str, Any]:
    """The file that an upload has become."""
    media: dict[str, Any] = (await client.get(where)).json()["data"]["media"]
    return media


async def reserved(api: Api) -> int:
    (row,) = await api.database.call("SELECT reserved_bytes FROM usage", ())
    return int(row.reserved_bytes)


async def staged(api: Api) -> int:
    """Removes what is in staging, and says how much that was."""
    (row,) = await api.database.call("SELECT count(*) AS n FROM upload_piece", ())
    assert row.n == 0
    return await api.store.sweep_staging(timedelta(0))


async def holds(api: Api, sha256: str, data: bytes) -> None:
    key = content_key(api.tenant.tenant_id, sha256)
    assert sha256 == hashlib.sha256(data).hexdigest()
    assert b"".join([bytes(chunk) async for chunk in api.store.stream(key)]) == data
    assert await broken(api.database, api.store, api.tenant.tenant_id) == []


async def test_a_file_in_pieces_of_any_size_becomes_a_file_like_any_other(api: Api) -> None:
    data = secrets.token_bytes(14 * MIB + 3)
    async with api.client() as client:
        name, labels = "C:\\films\\träume.bin", {"project": "atlas"}
        fields = {"room_id": "garden", "tenant_scope": "true", "labels": json.dumps(labels)}
        told = metadata(filename=name, filetype="video/mp4", **fields)
        where = await begin(client, len(data), **{"Upload-Metadata": told})
        assert await reserved(api) == len(data)
        at = 0
        for size in (1, 700_000, 6 * MIB, 5, 2 * MIB, len(data)):
            answer = await send(client, where, data[at : at + size], at)
            assert answer.status_code == 204, answer.text
            at = min(at + size, len(data))
            assert answer.headers["upload-offset"] == str(at)
            seen = await client.head(where, headers=TUS)
            assert (seen.headers["upload-offset"], seen.headers["upload-length"]) == (str(at), str(len(data)))
            assert seen.headers["upload-metadata"] == told
            assert seen.headers["upload-expires"].endswith("GMT")
        media = await stored(client, where)
        assert answer.headers["upload-media-id"] == seen.headers["upload-media-id"] == media["media_id"]
        info = (await client.get(f"/v1/media/{media['media_id']}/info")).json()["data"]
        assert (info["filename"], info["size"], info["rooms"]) == ("träume.bin", len(data), ["garden"])
        assert (info["tenant_scope"], info["labels"]) == (True, labels)
        await holds(api, info["sha256"], data)
        assert (await reserved(api), await staged(api)) == (0, 0)
        again = await send(client, where, b"", len(data))
        assert (again.status_code, again.headers["upload-media-id"]) == (204, media["media_id"])
        problem(await send(client, where, b"x", len(data)), 413, "file_too_large")


@pytest.mark.parametrize("size", [10, 9 * MIB], ids=["small", "large"])
async def test_a_file_may_come_with_its_creation(api: Api, size: int) -> None:
    data = secrets.token_bytes(size)
    async with api.client() as client:
        answer = await client.post(
            UPLOADS, content=data, headers={**BODY, "Upload-Length": str(size), "Upload-Metadata": metadata(name="a")}
        )
        assert answer.status_code == 201, answer.text
        assert answer.headers["upload-offset"] == str(size)
        media = await stored(client, answer.headers["location"])
        assert media["media_id"] == answer.headers["upload-media-id"]
        await holds(api, media["sha256"], data)


async def test_a_creation_whose_bytes_are_not_taken_holds_nothing(api: Api) -> None:
    """Its client does not know where it is: it begins anew."""
    announced = {**BODY, "Upload-Length": str(12 * MIB)}
    wrong = {"Upload-Checksum": f"sha1 {base64.b64encode(bytes(20)).decode()}"}
    async with api.client() as client:
        for headers, status, code in (
            (announced | wrong, 460, "checksum_mismatch"),
            (BODY | {"Upload-Length": "5"}, 413, "file_too_large"),
        ):
            problem(await client.post(UPLOADS, content=bytes(7 * MIB), headers=headers), status, code)
            assert (await reserved(api), await staged(api)) == (0, 0)
        _, writer = await asyncio.open_connection(*api.address)
        head = "".join(f"{name}: {value}\r\n" for name, value in {**client.headers, **announced}.items())
        writer.write(f"POST {UPLOADS} HTTP/1.1\r\nHost: a\r\nContent-Length: {12 * MIB}\r\n{head}\r\n".encode())
        writer.write(bytes(7 * MIB))
        await writer.drain()
        await eventually(lambda: _holds_some(api))
        writer.close()
        await eventually(lambda: _holds_nothing(api))
        assert await staged(api) == 0


async def test_a_creation_whose_answer_was_lost_is_made_again_with_its_key(api: Api) -> None:
    data = secrets.token_bytes(3 * MIB)
    await api.apply(replace(GENEROUS, max_bytes=5 * MIB))
    key = {"Idempotency-Key": secrets.token_hex(16)}
    announced = {**TUS, "Upload-Length": str(len(data)), "Upload-Metadata": metadata(filename="a.bin")}
    async with api.client() as client:
        first, again = [await client.post(UPLOADS, headers=announced | key) for _ in range(2)]
        where = first.headers["location"]
        assert (again.status_code, again.headers["location"], again.headers["upload-offset"]) == (201, where, "0")
        assert await reserved(api) == len(data)
        other = announced | key | {"Upload-Length": "7"}
        problem(await client.post(UPLOADS, headers=other), 422, "idempotency_key_reused")
        problem(await client.post(UPLOADS, headers=announced | key | {"Upload-Concat": "final;x"}), 404, "not_found")
        problem(await client.post(UPLOADS, headers=announced | {"Idempotency-Key": "k"}), 413, "quota_exceeded")

        await send(client, where, data[:MIB], 0)
        with_bytes = BODY | announced | key
        going_on = await client.post(UPLOADS, content=data, headers=with_bytes)
        assert (going_on.headers["location"], going_on.headers["upload-offset"]) == (where, str(MIB))
        await send(client, where, data[MIB:], MIB)
        ended = await client.post(UPLOADS, headers=announced | key)
        assert ended.headers["upload-media-id"] == (await stored(client, where))["media_id"]
        await holds(api, (await stored(client, where))["sha256"], data)
        assert (await reserved(api), await staged(api)) == (0, 0)


async def test_what_came_with_a_creation_that_broke_off_is_kept_for_its_key(api: Api) -> None:
    data = secrets.token_bytes(12 * MIB)
    announced = {**BODY, "Upload-Length": str(len(data)), "Idempotency-Key": secrets.token_hex(16)}
    async with api.client() as client:
        wrong = {"Upload-Checksum": f"sha1 {base64.b64encode(bytes(20)).decode()}"}
        refused = await client.post(UPLOADS, content=data, headers=announced | wrong)
        problem(refused, 460, "checksum_mismatch")
        assert (await reserved(api), await staged(api)) == (0, 0)
        _, writer = await asyncio.open_connection(*api.address)
        head = "".join(f"{name}: {value}\r\n" for name, value in {**client.headers, **announced}.items())
        writer.write(f"POST {UPLOADS} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(data)}\r\n{head}\r\n".encode())
        writer.write(data[: 7 * MIB])
        await writer.drain()
        await eventually(lambda: _holds_some(api))
        writer.close()

        async def is_kept() -> bool:
            (row,) = await api.database.call("SELECT received, claimed_until <= now() AS is_free FROM upload", ())
            return row.received > 0 and bool(row.is_free)

        await eventually(is_kept)
        again = await client.post(UPLOADS, content=data, headers=announced, timeout=60)
        assert again.status_code == 201, again.text
        offset, where = int(again.headers["upload-offset"]), again.headers["location"]
        assert 0 < offset <= 7 * MIB
        assert (await send(client, where, data[offset:], offset)).status_code == 204
        await holds(api, (await stored(client, where))["sha256"], data)


async def _holds_some(api: Api) -> bool:
    return await reserved(api) > 0


async def _holds_nothing(api: Api) -> bool:
    (row,) = await api.database.call("SELECT count(*) AS n FROM upload", ())  # the last to go
    return row.n == 0 and await reserved(api) == 0


async def test_a_length_that_comes_late_is_reserved_as_bytes_come(api: Api) -> None:
    data = secrets.token_bytes(8 * MIB)
    async with api.client() as client:
        where = await begin(client, None)
        assert await reserved(api) == 0
        assert (await client.head(where, headers=TUS)).headers["upload-defer-length"] == "1"
        assert (await send(client, where, data[: 6 * MIB], 0)).status_code == 204
        assert await reserved(api) >= 6 * MIB
        last = await send(client, where, data[6 * MIB :], 6 * MIB, **{"Upload-Length": str(len(data))})
        assert last.status_code == 204, last.text
        await holds(api, (await stored(client, where))["sha256"], data)
        assert await reserved(api) == 0


async def test_an_upload_goes_on_at_another_process_after_its_own_was_killed(api: Api, tmp_path: Path) -> None:
    data = secrets.token_bytes(40 * MIB)
    assert api.process is not None
    async with api.client() as client, beside(api, tmp_path) as other:
        where = await begin(client, len(data))
        assert (await send(client, where, data[: 7 * MIB], 0)).status_code == 204
        killed = asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            for start in range(7 * MIB, 39 * MIB, MIB):
                yield data[start : start + MIB]
            await killed.wait()  # httpx looks at the connection when it has sent what there is

        headers = {**BODY, "Upload-Offset": str(7 * MIB)}
        sending = asyncio.ensure_future(client.patch(where, content=slowly(), headers=headers))
        await eventually(lambda: _has_more(client, other + where, 20 * MIB))
        problem(await send(client, where, b"x", await offset_of(client, other + where), other), 423, "upload_locked")
        api.process.kill()
        killed.set()
        with pytest.raises(httpx.TransportError):
            await sending
        at = await offset_of(client, other + where)
        assert 20 * MIB <= at <= 39 * MIB

        async def taken() -> bool:
            return (await send(client, where, data[at : at + 100], at, other)).status_code == 204

        await eventually(taken)  # the claim of the process that was killed runs out
        answer = await send(client, where, data[at + 100 :], at + 100, other)
        assert answer.status_code == 204, answer.text
        await holds(api, (await stored(client, other + where))["sha256"], data)
        assert await reserved(api) == 0


async def _has_more(client: httpx.AsyncClient, where: str, size: int) -> bool:
    return await offset_of(client, where) >= size


async def test_the_metrics_count_every_byte_that_comes_however_it_is_read(api: Api) -> None:
    data = secrets.token_bytes(20 * MIB)
    async with api.client() as client, anybody(api.metrics_base or "") as metrics:
        where = await begin(client, len(data))
        assert (await send(client, where, data, 0)).status_code == 204
        told = (await metrics.get("/metrics")).text
    (counted,) = re.findall(r'^media_api_received_bytes_total\{method="PATCH".*\} (.+)$', told, re.MULTILINE)
    assert float(counted) == len(data)


def head_of_patch(client: httpx.AsyncClient, where: str, length: int) -> bytes:
    return (
        f"PATCH {where} HTTP/1.1\r\nHost: a\r\nAuthorization: {client.headers['authorization']}\r\n"
        f"Tus-Resumable: 1.0.0\r\nContent-Type: application/offset+octet-stream\r\n"
        f"Upload-Offset: 0\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


async def test_what_has_come_of_a_request_that_falls_silent_counts_and_the_request_may_go_on(api: Api) -> None:
    data = secrets.token_bytes(3 * MIB)
    async with api.client() as client:
        where = await begin(client, len(data))
        reader, writer = await asyncio.open_connection(*api.address)
        writer.write(head_of_patch(client, where, len(data)))
        for first, behind in ((0, 1_000_000), (1_000_000, 2_000_001)):
            writer.write(data[first:behind])
            await writer.drain()
            await eventually(lambda behind=behind: _has_more(client, where, behind))
            assert await offset_of(client, where) == behind
        writer.write(data[2_000_001:])
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 204 ")
        writer.close()
        await holds(api, (await stored(client, where))["sha256"], data)
    assert await staged(api) == 0


async def test_what_has_come_of_a_request_that_breaks_off_counts(api: Api) -> None:
    data = secrets.token_bytes(3 * MIB)
    async with api.client() as client:
        where = await begin(client, len(data))
        reader, writer = await asyncio.open_connection(*api.address)
        writer.write(head_of_patch(client, where, len(data)) + data[:2_000_000])
        await writer.drain()
        await asyncio.sleep(0.5)
        writer.close()
        del reader
        await eventually(lambda: _has_more(client, where, 2_000_000))
        assert await offset_of(client, where) == 2_000_000

        async def goes_on() -> bool:
            return (await send(client, where, data[2_000_000:], 2_000_000)).status_code == 204

        await eventually(goes_on)
        await holds(api, (await stored(client, where))["sha256"], data)


async def test_bytes_with_a_wrong_checksum_do_not_count(api: Api) -> None:
    data = secrets.token_bytes(7 * MIB)
    async with api.client() as client:
        where = await begin(client, len(data))
        first = data[: 6 * MIB]
        wrong = {"Upload-Checksum": f"sha1 {base64.b64encode(bytes(20)).decode()}"}
        problem(await send(client, where, first, 0, **wrong), 460, "checksum_mismatch")
        assert await offset_of(client, where) == 0
        at = 0
        for algorithm, part in (("sha1", data[:1000]), ("md5", data[1000 : 6 * MIB]), ("sha256", data[6 * MIB :])):
            problem(await send(client, where, part, at, **wrong), 460, "checksum_mismatch")
            right = base64.b64encode(hashlib.new(algorithm, part).digest()).decode()
            answer = await send(client, where, part, at, **{"Upload-Checksum": f"{algorithm} {right}"})
            assert answer.status_code == 204, answer.text
            at += len(part)
        await holds(api, (await stored(client, where))["sha256"], data)
        assert await staged(api) == 0


def sha_256(data: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


async def test_a_digest_of_the_body_or_of_the_file_is_compared_as_with_the_form(api: Api) -> None:
    data = secrets.token_bytes(1000)
    async with api.client() as client:
        where = await begin(client, len(data))
        for digest in (sha_256(b""), sha_256(data)):  # that of the file is not the body's
            problem(await send(client, where, data[:500], 0, **{"Content-Digest": digest}), 400, "digest_mismatch")
        assert await offset_of(client, where) == 0
        problem(await send(client, where, data[:500], 0, **{"Content-Digest": "sha-256=x"}), 400, "bad_request")
        right = {"Content-Digest": sha_256(data[:500]), "Repr-Digest": sha_256(data)}
        assert (await send(client, where, data[:500], 0, **right)).status_code == 204
        problem(await send(client, where, data[500:], 500, **{"Repr-Digest": sha_256(b"")}), 400, "digest_mismatch")
        assert (await client.get(where)).status_code == 404, "its bytes would be wrong again"
        where = await begin(client, len(data))
        assert (await send(client, where, data, 0, **{"Repr-Digest": sha_256(data)})).status_code == 204
        await holds(api, (await stored(client, where))["sha256"], data)
        where = await begin(client, len(data), **{"Repr-Digest": sha_256(b"")})
        problem(await send(client, where, data, 0), 400, "digest_mismatch")
        assert await staged(api) == 0


async def test_partial_uploads_become_one_file(api: Api) -> None:
    parts = [secrets.token_bytes(size) for size in (6 * MIB + 1, 10, 8 * MIB)]
    key = {"Idempotency-Key": secrets.token_hex(16)}  # a client's parts have the headers of its final upload
    async with api.client() as client:
        wheres = [await begin(client, len(part), **{"Upload-Concat": "partial"}, **key) for part in parts]
        final = {**TUS, **key, "Upload-Concat": f"final;{wheres[0]} {api.base}{wheres[1]} {wheres[2]}"}
        assert (await client.head(wheres[0], headers=TUS)).headers["upload-concat"] == "partial"
        problem(await client.post(UPLOADS, headers=final), 400, "bad_request")
        await asyncio.gather(*(send(client, where, part, 0) for where, part in zip(wheres, parts, strict=True)))
        assert await stored(client, wheres[0]) is None
        assert await reserved(api) == sum(map(len, parts))
        final["Upload-Metadata"] = metadata(filename="one.bin", labels='{"a": "b"}')
        made = await client.post(UPLOADS, headers=final)
        assert made.status_code == 201, made.text
        again = await client.post(UPLOADS, headers=final)
        assert again.headers["location"] == made.headers["location"]
        media = await stored(client, made.headers["location"])
        await holds(api, media["sha256"], b"".join(parts))
        assert (await client.get(f"/v1/media/{media['media_id']}/info")).json()["data"]["labels"] == {"a": "b"}
        seen = await client.head(made.headers["location"], headers=TUS)
        assert seen.headers["upload-length"] == seen.headers["upload-offset"] == str(media["size"])
        assert seen.headers["upload-concat"] == final["Upload-Concat"]
        problem(await send(client, made.headers["location"], b"", media["size"]), 403, "upload_final")
        problem(await client.get(wheres[0]), 404, "not_found")
        assert (await reserved(api), await staged(api)) == (0, 0)


async def test_what_does_not_fit_is_refused_when_it_is_created(api: Api) -> None:
    await api.apply(replace(GENEROUS, max_bytes=10 * MIB, max_upload_bytes=20 * MIB))
    async with api.client() as client:
        where = await begin(client, 6 * MIB)
        headers = {**TUS, "Upload-Length": str(6 * MIB)}
        problem(await client.post(UPLOADS, headers=headers), 413, "quota_exceeded")
        assert (await client.delete(where, headers=TUS)).status_code == 204
        assert (await client.head(where, headers=TUS)).status_code == 404
        assert (await client.post(UPLOADS, headers=headers)).status_code == 201
        problem(await client.post(UPLOADS, headers={**TUS, "Upload-Length": str(21 * MIB)}), 413, "file_too_large")
        problem(await client.post(UPLOADS, headers={**TUS, "Upload-Length": "0"}), 422, "empty_file")
        late = await begin(client, None)
        problem(await send(client, late, bytes(5 * MIB), 0), 413, "quota_exceeded")
        assert await reserved(api) <= 10 * MIB


async def test_ending_an_upload_gives_everything_back(api: Api) -> None:
    async with api.client() as client:
        where = await begin(client, 12 * MIB)
        assert (await send(client, where, bytes(7 * MIB), 0)).status_code == 204
        assert (await client.delete(where, headers=TUS)).status_code == 204
        assert (await reserved(api), await staged(api)) == (0, 0)
        problem(await send(client, where, b"x", 7 * MIB), 404, "not_found")


async def test_an_upload_that_expires_is_swept(api: Api) -> None:
    async with api.client() as client:
        where, done = await begin(client, 12 * MIB), await begin(client, 3)
        assert (await send(client, where, bytes(7 * MIB), 0)).status_code == 204
        assert (await send(client, done, b"abc", 0)).status_code == 204
        media = await stored(client, done)
        assert await expiry.expire(api.library) == 0
        assert await api.store.sweep_staging(timedelta(0), await expiry.alive(api.database)) == 0
        async with api.database.transaction() as tx:
            await tx.execute("UPDATE upload SET expires_at = now()")
        problem(await client.get(where), 410, "upload_expired")
        problem(await send(client, where, b"x", 7 * MIB), 410, "upload_expired")
        assert await expiry.expire(api.library) == 2
        problem(await client.get(where), 404, "not_found")
        assert (await reserved(api), await staged(api)) == (0, 0)
        assert (await client.get(f"/v1/media/{media['media_id']}/info")).status_code == 200


async def test_known_content_is_not_stored_again_and_infected_content_is_refused_at_the_end(api: Api) -> None:
    data, bad = secrets.token_bytes(6 * MIB), secrets.token_bytes(6 * MIB)
    async with api.client() as client:
        first = await upload(client, data)
        where = await begin(client, len(data))
        assert (await send(client, where, data[:100], 0)).status_code == 204
        assert (await send(client, where, data[100:], 100)).status_code == 204
        media = await stored(client, where)
        assert (media["sha256"], media["media_id"] == first["media_id"]) == (first["sha256"], False)
        assert (await client.get("/v1/usage")).json()["data"]["objects"] == 1

        await api.verdict((await upload(client, bad))["sha256"], "infected")
        where = await begin(client, len(bad))
        problem(await send(client, where, bad, 0), 422, "infected")
        assert (await client.head(where, headers=TUS)).status_code == 404
        assert (await reserved(api), await staged(api)) == (0, 0)


async def test_pictures_have_their_thumbnail(api: Api) -> None:
    picture = photo(320, 200)
    async with api.client() as client:
        where = await begin(client, len(picture), **{"Upload-Metadata": metadata(filename="a.jpg")})
        assert (await send(client, where, picture[:1000], 0)).status_code == 204
        assert (await send(client, where, picture[1000:], 1000)).status_code == 204
        media = await stored(client, where)
        assert (media["mime_type"], media["width"], media["height"]) == ("image/jpeg", 320, 200)
        assert media["thumbnail_id"]
        await holds(api, media["sha256"], picture)


async def test_two_requests_at_once_add_no_byte_twice(api: Api, tmp_path: Path) -> None:
    async with api.client() as client, beside(api, tmp_path) as other:
        for _ in range(5):
            one, two = secrets.token_bytes(6 * MIB), secrets.token_bytes(6 * MIB)
            where = await begin(client, len(one))
            answers = await asyncio.gather(send(client, where, one, 0), send(client, where, two, 0, other))
            codes = sorted(answer.status_code for answer in answers)
            assert codes in ([204, 409], [204, 413], [204, 423]), [answer.text for answer in answers]
            await holds(api, (await stored(client, where))["sha256"], one if answers[0].is_success else two)


async def test_only_who_began_an_upload_can_see_it_or_go_on_with_it(api: Api) -> None:
    unknown = f"{UPLOADS}/upl-01JD0Z3V5QH7W8K2M4N6P8R0T2"
    async with api.client() as alice, api.client("bob") as bob, api.client("root") as root:
        where = await begin(alice, 10)
        for client in (bob, root):
            answers = [
                (
                    await client.get(path),
                    await client.head(path, headers=TUS),
                    await client.delete(path, headers=TUS),
                    await send(client, path, b"0123456789", 0),
                    await client.post(UPLOADS, headers={**TUS, "Upload-Concat": f"final;{path}"}),
                )
                for path in (where, unknown, f"{UPLOADS}/x", f"{UPLOADS}/%00")
            ]
            for same in zip(*answers, strict=True):
                assert {(answer.status_code, answer.content) for answer in same} == {(404, same[0].content)}
        assert await offset_of(alice, where) == 0
        headers = {**TUS, "Upload-Length": "5", "Upload-Metadata": metadata(room_id="cellar")}
        problem(await alice.post(UPLOADS, headers=headers), 404, "not_found")


async def test_metadata_in_several_lines_is_one_list_and_no_other_header_of_tus_comes_twice(api: Api) -> None:
    def headers(name: str, *values: str) -> list[tuple[str, str]]:
        told = {**BODY, "Upload-Length": "3", "Upload-Offset": "0"}
        return [(each, told[each]) for each in told if each != name] + [(name, value) for value in values]

    names, room = metadata(filename="a.txt", tenant_scope="true"), metadata(room_id="garden")
    async with api.client() as client:
        begun = await client.post(UPLOADS, headers=headers("Upload-Metadata", names, room), content=b"abc")
        assert begun.status_code == 201, begun.text
        info = (await client.get(f"/v1/media/{begun.headers['upload-media-id']}/info")).json()["data"]
        assert (info["filename"], info["tenant_scope"], info["rooms"]) == ("a.txt", True, ["garden"])
        told = await client.head(begun.headers["location"], headers=TUS)
        assert told.headers["upload-metadata"].replace(" ", "") == f"{names},{room}".replace(" ", "")
        where = await begin(client, 3)
        for name, values in (("Upload-Offset", ("0", "0")), ("Tus-Resumable", ("1.0.0", "0.2.2"))):
            body = problem(
                await client.patch(where, headers=headers(name, *values), content=b"abc"), 400, "bad_request"
            )
            assert name in body["detail"]
        twice = headers("Upload-Length", "3", "5")
        problem(await client.post(UPLOADS, headers=twice, content=b"abc"), 400, "bad_request")
        assert await offset_of(client, where) == 0


async def test_what_is_not_as_tus_has_it_is_refused(api: Api) -> None:
    async with api.client() as client, anybody(api.base) as nobody:
        for path in (UPLOADS, f"{UPLOADS}/upl-01JD0Z3V5QH7W8K2M4N6P8R0T2"):
            spoken = await nobody.options(path)
            assert (spoken.status_code, spoken.headers["tus-version"]) == (204, "1.0.0")
            assert spoken.headers["tus-max-size"] == str(GENEROUS.max_upload_bytes)
            assert spoken.headers["tus-checksum-algorithm"] == "sha1,sha256,md5"
            assert spoken.headers["tus-extension"].split(",") == [
                "creation",
                "creation-with-upload",
                "creation-defer-length",
                "expiration",
                "checksum",
                "termination",
                "concatenation",
            ]
        for headers in ({}, {"Tus-Resumable": "0.2.2"}):
            refused = await client.post(UPLOADS, headers={**headers, "Upload-Length": "3"})
            problem(refused, 412, "tus_version_unsupported")
            assert (refused.headers["tus-version"], refused.headers["tus-resumable"]) == ("1.0.0", "1.0.0")
        for wrong in (
            {},
            {"Upload-Length": "3", "Upload-Defer-Length": "1"},
            {"Upload-Defer-Length": "2"},
            {"Upload-Length": "-3"},
            {"Upload-Length": "3", "Upload-Metadata": "filename ä"},
            {"Upload-Length": "3", "Upload-Concat": "final"},
        ):
            sent = {name: value.encode() for name, value in {**TUS, **wrong}.items()}
            problem(await client.post(UPLOADS, headers=sent), 400, "bad_request")
        where = await begin(client, 3)
        unseen = await client.head(where, headers={"Tus-Resumable": "0.2.2"})
        assert (unseen.status_code, unseen.headers["tus-version"]) == (412, "1.0.0")
        assert "upload-offset" not in unseen.headers
        for method, path, allowed in (("PUT", where, "DELETE, GET, HEAD, PATCH"), ("GET", UPLOADS, "POST")):
            refused = await client.request(method, path, headers=TUS)
            problem(refused, 405, "method_not_allowed")
            assert (refused.headers["tus-resumable"], refused.headers["allow"]) == ("1.0.0", allowed)
        problem(await client.patch(where, headers={**TUS, "Upload-Offset": "0"}), 415, "unsupported_media_type")
        problem(await client.patch(where, headers=BODY), 400, "bad_request")
        refused = await send(client, where, b"x", 1)
        assert problem(refused, 409, "offset_mismatch")["offset"] == int(refused.headers["upload-offset"]) == 0
        problem(await send(client, where, b"xxxx", 0), 413, "file_too_large")
        problem(await send(client, where, b"x", 0, **{"Upload-Checksum": "crc32 AAAA"}), 400, "bad_request")
        overridden = {**BODY, "Upload-Offset": "0", "X-HTTP-Method-Override": "PATCH"}
        assert (await client.post(where, content=b"xyz", headers=overridden)).status_code == 204
        assert (await stored(client, where))["size"] == 3
        problem(await client.post(where), 405, "method_not_allowed")
