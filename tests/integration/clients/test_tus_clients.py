"""Uploads in several requests with the clients that people use: tuspy, and tus-js-client in Node."""

import asyncio
import hashlib
import json
import secrets
import subprocess
from pathlib import Path
from typing import Any

import pytest
from page.build import BuildFailed, node, packages

from media_core.store.object_keys import content_key
from tests.integration.servers.api import Api
from tests.integration.tenancy import MIB

UPLOADS = "/v1/media/uploads"
JAVASCRIPT = Path(__file__).parents[2] / "tools" / "tus-js"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tour.bin"
    path.write_bytes(secrets.token_bytes(12 * MIB + 7))
    return path


@pytest.fixture(scope="module")
def script() -> Path:
    try:
        packages(JAVASCRIPT)
    except BuildFailed as error:
        pytest.skip(f"tus-js-client cannot be had here: {error}")
    return JAVASCRIPT / "upload.mjs"


async def is_stored(api: Api, media: dict[str, Any], file: Path) -> None:
    data = await asyncio.to_thread(file.read_bytes)
    assert media["sha256"] == hashlib.sha256(data).hexdigest()
    key = content_key(api.tenant.tenant_id, media["sha256"])
    assert b"".join([bytes(chunk) async for chunk in api.store.stream(key)]) == data


async def media_of(api: Api, url: str) -> dict[str, Any]:
    async with api.client() as client:
        media: dict[str, Any] = (await client.get(url)).json()["data"]["media"]
        info = (await client.get(f"/v1/media/{media['media_id']}/info")).json()["data"]
        assert (info["filename"], info["tenant_scope"]) == ("garden tour.bin", True)
    return media


async def test_tuspy_uploads_with_checksums_and_goes_on_in_another_process(
    api: Api, file: Path, tmp_path: Path
) -> None:
    tusclient = pytest.importorskip("tusclient.client", reason="tuspy is not installed")
    storage = pytest.importorskip("tusclient.storage.filestorage").FileStorage(str(tmp_path / "urls"))
    client = tusclient.TusClient(api.base + UPLOADS, headers={"Authorization": f"Bearer {api.token()}"})

    def uploader() -> Any:
        return client.uploader(
            str(file),
            chunk_size=5 * MIB,
            metadata={"filename": "garden tour.bin", "filetype": "video/mp4", "tenant_scope": "true"},
            store_url=True,
            url_storage=storage,
            upload_checksum=True,
        )

    begun = await asyncio.to_thread(uploader)
    await asyncio.to_thread(begun.upload, stop_at=5 * MIB)
    again = await asyncio.to_thread(uploader)
    assert (again.url, again.offset) == (begun.url, 5 * MIB)
    await asyncio.to_thread(again.upload)
    assert again.request.response_headers["upload-media-id"].startswith("med-")
    await is_stored(api, await media_of(api, again.url), file)


@pytest.mark.parametrize(
    "how",
    [
        {"chunkSize": 100 * MIB},
        {"chunkSize": 3 * MIB, "abortAfter": 6 * MIB},
        {"chunkSize": 100 * MIB, "parallelUploads": 3},
        {"chunkSize": 5 * MIB, "uploadDataDuringCreation": True, "overridePatchMethod": True},
        {"chunkSize": 5 * MIB, "uploadLengthDeferred": True},
    ],
    ids=["one request", "aborted and resumed", "parallel", "from the creation on, without PATCH", "of unknown length"],
)
async def test_tus_js_client_uploads(api: Api, file: Path, script: Path, how: dict[str, int]) -> None:
    asked = {"endpoint": api.base + UPLOADS, "token": api.token(), "path": str(file), **how}
    ran = await asyncio.to_thread(
        subprocess.run,
        [node(), script, json.dumps(asked)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    media = await media_of(api, told["url"])
    assert told["mediaId"] == media["media_id"]
    assert ("HEAD" in told["methods"]) is ("abortAfter" in how)
    await is_stored(api, media, file)
