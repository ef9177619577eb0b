"""Uploads in several requests with tus-js-client and Uppy, in a web app of another origin."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, CDPSession, Page

from media_core.store.object_keys import content_key
from media_operator.local.postgres import EmbeddedPostgres
from tests.browser.chromium import PATIENCE, WebApp, opened
from tests.integration.servers.api import Api, preloaded_start, process
from tests.integration.tenancy import MIB

UPLOADS = "/v1/media/uploads"
SIZE, PIECE = 6 * MIB + 7, MIB

MADE = """({size, seed}) => {
  const data = new Uint8Array(size)
  for (let i = 0; i < size; i++) data[i] = (i + seed) % 251
  globalThis.file = new File([data], 'garden tour.bin', {type: 'video/mp4', lastModified: seed})
  globalThis.told = {offset: 0, done: null, failed: null, methods: []}
}"""

WITH_TUS = """({endpoint, token, piece, until, retries}) => {
  const previous = globalThis.upload
  const one = new tus.Upload(file, {
    endpoint, chunkSize: piece, retryDelays: Array(retries).fill(250),
    metadata: {filename: file.name, filetype: file.type, tenant_scope: 'true'},
    headers: {Authorization: `Bearer ${token}`},
    onAfterResponse: (request, response) => {
      told.methods.push(request.getMethod())
      told.media = response.getHeader('Upload-Media-Id') ?? told.media
    },
    onProgress: sent => { told.offset = sent },
    onChunkComplete: (_, accepted) => {
      if (until && !told.paused && accepted >= until) one.abort().then(() => { told.paused = true })
    },
    onError: error => { told.failed = String(error) },
    onSuccess: () => { told.done = one.url },
  })
  globalThis.upload = one
  one.findPreviousUploads().then(found => {
    told.found = found.length
    if (found.length) one.resumeFromPreviousUpload(found[0])
    one.start()
  })
}"""

WITH_UPPY = """({endpoint, token, piece, until, retries}) => {
  const uppy = globalThis.uppy = new Uppy().use(Tus, {
    endpoint, chunkSize: piece, retryDelays: Array(retries).fill(250),
    headers: {Authorization: `Bearer ${token}`}, allowedMetaFields: ['filename', 'filetype', 'tenant_scope'],
    onAfterResponse: (request, response) => {
      told.methods.push(request.getMethod())
      told.media = response.getHeader('Upload-Media-Id') ?? told.media
    },
  })
  uppy.on('upload-progress', (_, progress) => {
    told.offset = progress.bytesUploaded
    if (until && !told.paused && progress.bytesUploaded >= until) { told.paused = true; uppy.pauseAll() }
  })
  uppy.on('upload-error', (_, error) => { told.failed = String(error) })
  uppy.on('upload-success', (_, response) => { told.done = response.uploadURL })
  uppy.addFile({name: file.name, type: file.type, data: file, meta: {filename: file.name, tenant_scope: 'true'}})
  uppy.upload()
}"""


@pytest.fixture(scope="module")
async def api(postgres: EmbeddedPostgres, app: WebApp, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    async with process(postgres, tmp_path_factory.mktemp("api"), MEDIA_CORS_ORIGINS=app.origin()) as one:
        try:
            yield one
        finally:
            assert one.process
            one.process.kill()  # a test may have started another than the one that this ends
            await asyncio.to_thread(one.process.wait)


@pytest.fixture
async def page(browser: Browser, app: WebApp) -> AsyncIterator[Page]:
    async with opened(browser, app.origin() + "/clients") as one:
        yield one


def made(seed: int) -> bytes:
    """The bytes of the file that a page makes from `seed`. No piece is like another."""
    return bytes((index + seed) % 251 for index in range(251)) * (SIZE // 251) + bytes(
        (index + seed) % 251 for index in range(SIZE % 251)
    )


async def begin(page: Page, api: Api, how: str, seed: int, *, until: int = 0, retries: int = 60) -> None:
    await page.evaluate(MADE, {"size": SIZE, "seed": seed})
    await go_on(page, api, how, until=until, retries=retries)


async def go_on(page: Page, api: Api, how: str, *, until: int = 0, retries: int = 60) -> None:
    asked = {"endpoint": api.base + UPLOADS, "token": api.token(), "piece": PIECE, "until": until, "retries": retries}
    await page.evaluate(how, asked)


async def throttle(network: CDPSession, bytes_per_second: int) -> None:
    """Slows what the page sends; -1 ends that, in the same session only."""
    limits = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": bytes_per_second}
    await network.send("Network.enable")
    await network.send("Network.emulateNetworkConditions", limits)


async def told(page: Page, condition: str) -> dict[str, Any]:
    """What the page was told, once the condition over it holds; an error ends the wait."""
    await page.wait_for_function(f"told.failed || ({condition})", timeout=PATIENCE)
    seen: dict[str, Any] = await page.evaluate("told")
    assert seen["failed"] is None, seen
    return seen


async def is_stored(api: Api, seen: dict[str, Any], seed: int) -> None:
    data = made(seed)
    async with api.client() as client:
        info = (await client.get(f"/v1/media/{seen['media']}/info")).json()["data"]
    assert (info["filename"], info["sha256"]) == ("garden tour.bin", hashlib.sha256(data).hexdigest())
    key = content_key(api.tenant.tenant_id, info["sha256"])
    assert b"".join([bytes(chunk) async for chunk in api.store.stream(key)]) == data


async def test_tus_js_client_pauses_and_goes_on_after_a_reload(api: Api, app: WebApp, page: Page) -> None:
    await begin(page, api, WITH_TUS, 11, until=2 * PIECE)
    assert (await told(page, "told.paused"))["offset"] >= 2 * PIECE
    await page.reload()
    await begin(page, api, WITH_TUS, 11)
    seen = await told(page, "told.done")
    assert seen["found"] == 1
    assert seen["methods"][0] == "HEAD"
    assert seen["methods"].count("PATCH") < SIZE / PIECE
    await is_stored(api, seen, 11)


async def test_uppy_pauses_and_goes_on(api: Api, page: Page) -> None:
    await begin(page, api, WITH_UPPY, 22, until=2 * PIECE)
    assert (await told(page, "told.paused"))["done"] is None
    await page.evaluate("uppy.resumeAll()")
    seen = await told(page, "told.done")
    assert "HEAD" in seen["methods"]
    await is_stored(api, seen, 22)


@pytest.mark.parametrize(("how", "seed"), [(WITH_TUS, 33), (WITH_UPPY, 44)], ids=["tus-js-client", "Uppy"])
async def test_an_upload_goes_on_after_the_api_was_killed(
    api: Api, page: Page, tmp_path: Path, how: str, seed: int
) -> None:
    await begin(page, api, how, seed, until=2 * PIECE, retries=400)
    await told(page, "told.paused")
    network = await page.context.new_cdp_session(page)
    await throttle(network, PIECE // 60)  # a minute for a piece, so the kill comes in the middle of one
    await page.evaluate("told.offset = 0; globalThis.uppy ? uppy.resumeAll() : upload.start()")
    await told(page, f"told.offset > {2 * PIECE}")
    assert api.process
    api.process.kill()
    await asyncio.to_thread(api.process.wait)
    assert (await page.evaluate("told"))["done"] is None
    await throttle(network, -1)
    api.process = preloaded_start(api.environment, tmp_path / "api.log")
    await is_stored(api, await told(page, "told.done"), seed)
