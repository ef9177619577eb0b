"""Resumable uploads by the IETF's draft, as iOS sends them: one request first, and others where it broke."""

import asyncio
import base64
import hashlib
import re
import secrets
from collections.abc import AsyncIterator

import httpx
import pytest

from media_core.store.object_keys import content_key
from media_operator.local.postgres import EmbeddedPostgres
from tests.integration.servers.api import Api, eventually, problem, process
from tests.integration.tenancy import GENEROUS, MIB

UPLOADS = "/v1/media/uploads"
VERSIONS = ("3", "4", "5", "6", "7", "8")


@pytest.fixture(scope="module")
async def draft_api(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    async with process(postgres, tmp_path_factory.mktemp("api"), MEDIA_UPLOAD_DRAFT="true") as one:
        yield one


def asks(version: str, *, complete: bool) -> dict[str, str]:
    flag = (
        {"Upload-Incomplete": "?0" if complete else "?1"} if version == "3" else {"Upload-Complete": f"?{complete:d}"}
    )
    return {"Upload-Draft-Interop-Version": version, **flag}


def is_complete(answer: httpx.Response, version: str) -> bool:
    if version == "3":
        return answer.headers["upload-incomplete"] == "?0"
    return answer.headers["upload-complete"] == "?1"


async def is_stored(api: Api, sha256: str, data: bytes) -> None:
    assert sha256 == hashlib.sha256(data).hexdigest()
    key = content_key(api.tenant.tenant_id, sha256)
    assert b"".join([bytes(chunk) async for chunk in api.store.stream(key)]) == data


@pytest.mark.parametrize("version", VERSIONS)
async def test_one_request_is_an_upload_like_every_other(draft_api: Api, version: str) -> None:
    data = secrets.token_bytes(100_000)
    headers = {"Content-Type": "video/mp4", "Content-Disposition": "attachment; filename*=UTF-8''Caf%C3%A9.mp4"}
    async with draft_api.client() as client:
        answer = await client.post(
            UPLOADS,
            params={"room_id": "garden", "labels": '{"a": "b"}'},
            content=data,
            headers=headers | asks(version, complete=True),
        )
        assert answer.status_code == 201, answer.text
        assert is_complete(answer, version)
        assert answer.headers["upload-offset"] == "100000"
        assert answer.headers["upload-draft-interop-version"] == version
        assert ("upload-limit" in answer.headers) is (version >= "5")
        assert "tus-resumable" not in answer.headers
        media = answer.json()["data"]
        info = (await client.get(f"/v1/media/{media['media_id']}/info")).json()["data"]
    assert (info["filename"], info["rooms"], info["labels"]) == ("Café.mp4", ["garden"], {"a": "b"})
    await is_stored(draft_api, media["sha256"], data)


async def test_a_digest_of_the_file_is_compared(draft_api: Api) -> None:
    data = secrets.token_bytes(1000)
    right, wrong = (base64.b64encode(hashlib.sha256(each).digest()).decode() for each in (data, b""))
    async with draft_api.client() as client:
        for name, digest, status in (
            ("Content-Digest", wrong, 400),
            ("Repr-Digest", wrong, 400),
            ("Content-Digest", right, 201),
            ("Repr-Digest", right, 201),
        ):
            headers = asks("8", complete=True) | {name: f"sha-256=:{digest}:"}
            answer = await client.post(UPLOADS, content=data, headers=headers)
            assert answer.status_code == status, answer.text
            if status == 400:
                problem(answer, 400, "digest_mismatch")
        begin = {**asks("8", complete=False), "Repr-Digest": f"sha-256=:{wrong}:"}
        begun = await client.post(UPLOADS, content=data[:500], headers=begin)
        rest = {**asks("8", complete=True), "Upload-Offset": "500"}
        problem(await client.patch(begun.headers["location"], content=data[500:], headers=rest), 400, "digest_mismatch")


async def told_by_104(api: Api, data: bytes, sent: int, version: str) -> str:
    """Begins an upload of `data`, and breaks the connection after `sent` bytes. Returns the URL of the 104."""
    reader, writer = await asyncio.open_connection(*api.address)
    lines = {
        "Host": "{}:{}".format(*api.address),
        "Authorization": f"Bearer {api.token()}",
        "Content-Length": str(len(data)),
        **asks(version, complete=True),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    writer.write(f"POST {UPLOADS} HTTP/1.1\r\n{head}\r\n".encode() + data[:sent])
    await writer.drain()
    informed = (await reader.readuntil(b"\r\n\r\n")).decode()
    assert informed.startswith("HTTP/1.1 104 ")
    fields = dict(line.split(": ", 1) for line in informed.strip().split("\r\n")[1:])
    assert fields["Upload-Draft-Interop-Version"] == version
    writer.transport.abort()
    return fields["Location"]


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_broken_request_goes_on_where_the_104_said(draft_api: Api, version: str) -> None:
    data = secrets.token_bytes(3 * MIB)
    url = await told_by_104(draft_api, data, MIB, version)
    assert url.startswith(f"{draft_api.base}{UPLOADS}/")
    async with draft_api.client() as client:

        async def let_go() -> bool:
            return (await look()).status_code == 204 and int((await look()).headers["upload-offset"]) > 0

        async def look() -> httpx.Response:
            return await client.head(url, headers={"Upload-Draft-Interop-Version": version})

        await eventually(let_go)
        seen = await look()
        assert not is_complete(seen, version)
        offset = int(seen.headers["upload-offset"])
        elsewhere = {"Upload-Offset": "5", **asks(version, complete=True)}
        refused = await client.patch(url, content=data[5:], headers=elsewhere)
        problem(refused, 409, "offset_mismatch")
        assert refused.headers["upload-offset"] == str(offset)
        half = (offset + len(data)) // 2
        go_on = {"Content-Type": "application/partial-upload"}
        some = await client.patch(
            url,
            content=data[offset:half],
            headers={**go_on, "Upload-Offset": str(offset), **asks(version, complete=False)},
        )
        assert (some.status_code, some.headers["upload-offset"]) == (204, str(half)), some.text
        rest = await client.patch(
            url, content=data[half:], headers={**go_on, "Upload-Offset": str(half), **asks(version, complete=True)}
        )
        assert rest.status_code == 200, rest.text
        assert is_complete(rest, version)
        assert is_complete(await look(), version)
    await is_stored(draft_api, rest.json()["data"]["sha256"], data)


async def test_a_body_without_a_length_ends_the_upload_too(draft_api: Api) -> None:
    data = secrets.token_bytes(200_000)

    async def body() -> AsyncIterator[bytes]:
        yield data[:1000]
        yield data[1000:]

    async with draft_api.client() as client:
        answer = await client.post(UPLOADS, content=body(), headers=asks("6", complete=True))
    assert answer.status_code == 201, answer.text
    await is_stored(draft_api, answer.json()["data"]["sha256"], data)


async def test_an_upload_is_given_up_and_wrong_flags_are_said(draft_api: Api) -> None:
    async with draft_api.client() as client:
        begun = await client.post(UPLOADS, content=b"some", headers=asks("6", complete=False))
        assert (begun.status_code, begun.headers["upload-complete"]) == (201, "?0")
        url, version = begun.headers["location"], {"Upload-Draft-Interop-Version": "6"}
        assert (await client.delete(url, headers=version)).status_code == 204
        problem(
            await client.post(UPLOADS, content=b"x", headers={**version, "Upload-Complete": "yes"}), 400, "bad_request"
        )
        problem(await client.get(url), 404, "not_found")
        long = {**asks("6", complete=True), "Content-Disposition": "attachment; filename*=punycode''" + "b" * 100_000}
        problem(await client.post(UPLOADS, content=b"x", headers=long), 400, "bad_request")


async def test_tus_is_spoken_beside_it(draft_api: Api) -> None:
    async with draft_api.client() as client:
        created = await client.post(UPLOADS, headers={"Tus-Resumable": "1.0.0", "Upload-Length": "4"})
        assert (created.status_code, created.headers["tus-resumable"]) == (201, "1.0.0")
        unknown = {"Upload-Draft-Interop-Version": "99", "Upload-Complete": "?1"}
        problem(await client.post(UPLOADS, content=b"x", headers=unknown), 412, "tus_version_unsupported")


async def test_without_the_setting_the_draft_is_not_spoken(api: Api) -> None:
    async with api.client() as client:
        answer = await client.post(UPLOADS, content=b"some", headers=asks("6", complete=True))
    problem(answer, 412, "tus_version_unsupported")


async def test_a_request_that_has_stalled_is_waited_for_and_adds_nothing_later(draft_api: Api) -> None:
    """The connection of a phone that changes its network ends for the phone alone."""
    data = secrets.token_bytes(MIB)
    reader, writer = await asyncio.open_connection(*draft_api.address)
    head = {"Host": "x", "Authorization": f"Bearer {draft_api.token()}", "Content-Length": str(len(data))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in {**head, **asks("8", complete=True)}.items())
    writer.write(f"POST {UPLOADS} HTTP/1.1\r\n{lines}\r\n".encode() + data[:1000])
    informed = (await reader.readuntil(b"\r\n\r\n")).decode()
    assert re.search(r"\r\nUpload-Limit: max-size=\d+, max-age=\d+\r\n", informed)
    url = informed.partition("Location: ")[2].partition("\r\n")[0]
    async with draft_api.client() as client:
        seen = await client.head(url, headers={"Upload-Draft-Interop-Version": "8"})
        offset = int(seen.headers["upload-offset"])
        assert offset == 1000  # what had come counts
        writer.write(data[1000:2000])
        rest = {"Upload-Offset": str(offset), **asks("8", complete=True)}
        answer = await client.patch(url, content=data[offset:], headers=rest)
        assert answer.status_code == 200, answer.text
    writer.close()
    await is_stored(draft_api, answer.json()["data"]["sha256"], data)


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("announces", [True, False])
async def test_an_upload_to_which_more_bytes_come_than_its_length_ends(
    draft_api: Api, complete: bool, announces: bool
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"much more"

    async with draft_api.client() as client:
        for version, there in (("8", 404), ("7", 204)):
            headers = {**asks(version, complete=False), "Upload-Length": "9"}
            url = (await client.post(UPLOADS, content=b"some", headers=headers)).headers["location"]
            headers = {**asks(version, complete=complete), "Upload-Offset": "4"}
            beyond = await client.patch(url, content=b"much more" if announces else chunks(), headers=headers)
            assert beyond.status_code == 400
            assert beyond.json()["type"] == "https://iana.org/assignments/http-problem-types#inconsistent-upload-length"
            seen = await client.head(url, headers={"Upload-Draft-Interop-Version": version})
            assert seen.status_code == there


async def test_the_newest_text_has_a_length_limits_and_types_of_problems(draft_api: Api) -> None:
    version = {"Upload-Draft-Interop-Version": "8"}
    async with draft_api.client() as client:
        offered = await client.options(UPLOADS)
        assert offered.headers["accept-patch"] == "application/partial-upload"
        assert offered.headers["upload-limit"] == f"max-size={GENEROUS.max_upload_bytes}"
        begun = await client.post(UPLOADS, content=b"some", headers={**asks("8", complete=False), "Upload-Length": "9"})
        assert (begun.status_code, begun.headers["upload-length"]) == (201, "9"), begun.text
        assert re.fullmatch(rf"max-size={GENEROUS.max_upload_bytes}, max-age=86\d\d\d", begun.headers["upload-limit"])
        url = begun.headers["location"]
        types = "https://iana.org/assignments/http-problem-types#"

        elsewhere = {**asks("8", complete=True), "Upload-Offset": "7"}
        said = problem(await client.patch(url, content=b"xx", headers=elsewhere), 409, "offset_mismatch")
        assert said["type"] == f"{types}mismatching-upload-offset"
        assert (said["expected-offset"], said["provided-offset"]) == (4, 7)
        for sent in ({"Upload-Offset": "4"}, {"Upload-Offset": "4", "Upload-Length": "8"}):
            other = await client.patch(url, content=b"more", headers={**asks("8", complete=True), **sent})
            assert other.status_code == 400
            assert other.json()["type"] == f"{types}inconsistent-upload-length"
        large = {**asks("8", complete=False), "Upload-Length": str(GENEROUS.max_upload_bytes + 1)}
        refused = await client.post(UPLOADS, content=b"x", headers=large)
        problem(refused, 413, "file_too_large")
        assert refused.headers["upload-limit"] == f"max-size={GENEROUS.max_upload_bytes}"

        all_of_it = await client.patch(
            url, content=b" more", headers={**asks("8", complete=False), "Upload-Offset": "4"}
        )
        assert all_of_it.headers["upload-complete"] == "?1"
        ended = await client.patch(url, content=b"", headers={**asks("8", complete=True), "Upload-Offset": "9"})
        assert (ended.status_code, ended.json()) == (200, all_of_it.json())
        after = await client.patch(url, content=b"!", headers={**asks("8", complete=True), "Upload-Offset": "9"})
        assert (after.status_code, after.json()["type"]) == (400, f"{types}inconsistent-upload-length")
        assert (await client.head(url, headers=version)).headers["cache-control"] == "no-store"
