"""The api on a real S3 server: the same contract, with the bytes in a bucket and URLs that lead there."""

import hashlib
import secrets
from collections.abc import AsyncIterator

import pytest

from media_core.store import S3Store
from media_core.store.object_keys import content_key
from media_operator.local.postgres import EmbeddedPostgres
from tests.fixtures.media import photo
from tests.integration.servers import s3_servers
from tests.integration.servers.api import Api, anybody, problem, process, upload
from tests.integration.servers.s3_servers import S3Server
from tests.integration.tenancy import MIB


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[S3Server]:
    running = await s3_servers.start("versitygw", tmp_path_factory.mktemp("versitygw"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
async def api_on_s3(
    server: S3Server, postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Api]:
    settings = server.settings
    async with process(
        postgres,
        tmp_path_factory.mktemp("api"),
        MEDIA_STORE="s3",
        MEDIA_S3_ENDPOINT=settings.endpoint,
        MEDIA_S3_BUCKET=settings.bucket,
        MEDIA_S3_ACCESS_KEY_ID=settings.access_key_id,
        MEDIA_S3_SECRET_ACCESS_KEY=settings.secret_access_key.get_secret_value(),
    ) as api:
        yield api


async def keys(api: Api, server: S3Server) -> set[str]:
    store = S3Store(server.settings, api.tenant.tenant_id)
    try:
        return {entry.key async for entry in store.list()}
    finally:
        await store.aclose()


@pytest.mark.parametrize("size", [10_000, 9 * MIB + 5], ids=["small", "larger than the buffer"])
async def test_what_is_uploaded_lies_under_its_hash_and_comes_back(api_on_s3: Api, server: S3Server, size: int) -> None:
    data = secrets.token_bytes(size)
    key = content_key(api_on_s3.tenant.tenant_id, hashlib.sha256(data).hexdigest())
    async with api_on_s3.client() as client:
        first = await upload(client, data)
        again = await upload(client, data)
        assert key in await keys(api_on_s3, server)
        await api_on_s3.verdict(first["sha256"])
        assert (await client.get(f"/v1/media/download/{first['media_id']}")).content == data
        part = await client.get(f"/v1/media/download/{again['media_id']}", headers={"Range": "bytes=100-199"})
        assert (part.status_code, part.content) == (206, data[100:200])
        await client.delete(f"/v1/media/{first['media_id']}")
        assert key in await keys(api_on_s3, server)
        await client.delete(f"/v1/media/{again['media_id']}")
        assert key not in await keys(api_on_s3, server)


@pytest.mark.parametrize("size", [10_000, 9 * MIB + 5], ids=["small", "larger than the buffer"])
async def test_an_object_that_the_bucket_has_lost_is_said_to_be_lost_and_comes_back(
    api_on_s3: Api, server: S3Server, size: int
) -> None:
    data = secrets.token_bytes(size)
    store = S3Store(server.settings, api_on_s3.tenant.tenant_id)
    async with api_on_s3.client() as client:
        uploaded = await upload(client, data)
        await api_on_s3.verdict(uploaded["sha256"])
        await store.delete(content_key(api_on_s3.tenant.tenant_id, uploaded["sha256"]))
        download, signed = (f"/v1/media/{way}/{uploaded['media_id']}" for way in ("download", "signed"))
        problem(await client.get(download), 503, "file_lost")
        problem(await client.get(signed), 503, "file_lost")
        await upload(client, data)
        assert (await client.get(download)).content == data
    await store.aclose()


async def test_a_signed_url_leads_to_the_bucket_with_the_type_and_name_it_was_signed_for(
    api_on_s3: Api, server: S3Server
) -> None:
    picture = photo(320, 200)
    async with api_on_s3.client() as client, anybody() as outsider:
        uploaded = await upload(client, picture, "garden.jpg")
        await api_on_s3.verdict(uploaded["sha256"])
        for query, content_type in (("", "image/jpeg"), ("?thumbnail=true", "image/webp")):
            signed = (await client.get(f"/v1/media/signed/{uploaded['media_id']}{query}")).json()["data"]
            assert signed["url"].startswith(server.settings.endpoint)
            assert "X-Amz-Signature=" in signed["url"]
            answer = await outsider.get(signed["url"])
            assert (answer.status_code, answer.headers["content-type"]) == (200, content_type)
            assert "garden" in answer.headers["content-disposition"]
            tampered = signed["url"].replace("garden", "gardem")
            assert (await outsider.get(tampered)).status_code == 403


async def test_while_the_bucket_is_away_uploads_are_503_and_leave_nothing(
    api_on_s3: Api, server: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert server.folder is not None
    server.stop()
    async with api_on_s3.client() as client:
        answer = await client.post("/v1/media/upload", files={"file": ("a.bin", b"x")})
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert int(answer.headers["retry-after"]) > 0
        back = await s3_servers.start("versitygw", server.folder, like=server)
        try:
            assert (await upload(client, b"x"))["size"] == 1
            usage = (await client.get("/v1/usage")).json()["data"]
            assert usage["reserved_bytes"] == 0
        finally:
            back.stop()
