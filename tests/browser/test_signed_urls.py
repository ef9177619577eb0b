"""Signed URLs in Chromium: films and sound opened as a tab, and bytes that a web app of another origin reads."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, Literal

import pytest
from playwright.async_api import Browser, Page
from playwright.async_api import Error as BrowserError

from media_operator.backends.buckets import Buckets
from media_operator.local.postgres import EmbeddedPostgres
from media_operator.plan.desired import BucketCors
from media_operator.tenant.ownership import OwnerMark
from tests.browser.chromium import WebApp, opened
from tests.fixtures.media import film, recording
from tests.integration.servers import s3_servers
from tests.integration.servers.api import Api, process, upload
from tests.integration.tenancy import GENEROUS

Store = Literal["folder", "versitygw", "minio"]
SECONDS = 8

PLAYS = """async () => {
  const media = document.querySelector('video, audio')
  media.muted = true
  await media.play()
  const ended = ms => new Promise((_, reject) => setTimeout(() => reject(new Error('it does not play')), ms))
  const moved = from => new Promise(resolve => {
    const look = () => media.currentTime > from + 0.2 ? resolve() : requestAnimationFrame(look)
    look()
  })
  await Promise.race([moved(0), ended(100_000)])
  const sought = new Promise(resolve => media.addEventListener('seeked', resolve, {once: true}))
  media.currentTime = 6
  await Promise.race([sought, ended(100_000)])
  await Promise.race([moved(6), ended(100_000)])
  return {at: media.currentTime, long: media.duration, wide: media.videoWidth ?? 0, error: media.error}
}"""
FETCHED = """async ({url, headers}) => {
  const answer = await fetch(url, {headers})
  return {status: answer.status, headers: Object.fromEntries(answer.headers), text: await answer.text()}
}"""


@pytest.fixture(scope="module")
def tour() -> bytes:
    return film(SECONDS, (160, 120), noise=True)


@pytest.fixture(scope="module")
async def api(
    request: pytest.FixtureRequest,
    postgres: EmbeddedPostgres,
    app: WebApp,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Api]:
    """An api on each store, told of the app as the operator tells api and bucket."""
    kind: Store = request.param
    readable = replace(GENEROUS, scan_enabled=False)
    folder = tmp_path_factory.mktemp(kind)
    origins = (app.origin(), app.origin("*.preview.localhost"))
    if kind == "folder":
        async with process(postgres, folder, applied=readable, MEDIA_CORS_ORIGINS=",".join(origins)) as one:
            yield one
        return
    server = await s3_servers.start(kind, folder)
    buckets = Buckets(server.admin("shared"))
    try:
        settings = server.settings
        async with process(
            postgres,
            folder,
            applied=readable,
            MEDIA_CORS_ORIGINS=",".join(origins),
            MEDIA_STORE="s3",
            MEDIA_S3_ENDPOINT=settings.endpoint,
            MEDIA_S3_BUCKET=settings.bucket,
            MEDIA_S3_ACCESS_KEY_ID=settings.access_key_id,
            MEDIA_S3_SECRET_ACCESS_KEY=settings.secret_access_key.get_secret_value(),
        ) as one:
            mark = OwnerMark(one.tenant.tenant_id)
            await buckets.create(settings.bucket, mark, tenant_id=one.tenant.tenant_id, adopt=True)
            told = await buckets.allow_origins(settings.bucket, mark, BucketCors(origins, 60))
            assert told.capabilities["cors"]
            yield one
    finally:
        await buckets.aclose()
        server.stop()


async def signed(api: Api, data: bytes, name: str, via: str) -> str:
    async with api.client() as client:
        uploaded = await upload(client, data, name)
        answer = await client.get(f"/v1/media/signed/{uploaded['media_id']}", params={"via": via})
    url: str = answer.json()["data"]["url"]
    return url


async def plays(browser: Browser, url: str) -> dict[str, Any]:
    """Opens the URL as a tab, waits until it plays, seeks, and waits until it plays there."""
    statuses: list[int] = []
    async with opened(browser, "about:blank") as page:
        page.on("response", lambda answer: statuses.append(answer.status))
        await page.goto(url)
        seen: dict[str, Any] = await page.evaluate(PLAYS)
    assert 206 in statuses
    assert seen["error"] is None
    return seen


def at(*places: tuple[Store, str]) -> pytest.MarkDecorator:
    """On these stores, by a URL of the store or of the api. URLs of the api are the same on each store."""
    return pytest.mark.parametrize(("api", "via"), places, indirect=["api"], scope="module")


FOLDER: tuple[tuple[Store, str], ...] = (("folder", "store"), ("folder", "api"))
BUCKETS: tuple[tuple[Store, str], ...] = (("versitygw", "store"), ("minio", "store"))


@at(*FOLDER, *BUCKETS)
async def test_a_film_plays_as_a_tab_and_seeks(api: Api, browser: Browser, via: str, tour: bytes) -> None:
    seen = await plays(browser, await signed(api, tour, "tour.mp4", via))
    assert seen["at"] > 6
    assert seen["long"] == pytest.approx(SECONDS, abs=0.5)
    assert seen["wide"] == 160


@at(*FOLDER)
async def test_a_recording_plays_as_a_tab_and_seeks(api: Api, browser: Browser, via: str) -> None:
    data = recording([300 + 50 * second for second in range(SECONDS)], "mp3", "libmp3lame")
    seen = await plays(browser, await signed(api, data, "note.mp3", via))
    assert seen["at"] > 6
    assert seen["long"] == pytest.approx(SECONDS, abs=0.5)


@at(*FOLDER, *BUCKETS)
async def test_an_app_of_another_origin_reads_what_a_signed_url_answers(
    api: Api, browser: Browser, app: WebApp, via: str
) -> None:
    url = await signed(api, b"0123456789", "digits.txt", via)
    for host in ("localhost", "pr-7.preview.localhost"):
        async with opened(browser, app.origin(host)) as page:
            assert (await fetched(page, url))["text"] == "0123456789"
            part = await fetched(page, url, {"Range": "bytes=2-4"})
    assert (part["status"], part["text"]) == (206, "234")
    assert part["headers"]["content-range"] == "bytes 2-4/10"
    assert part["headers"]["etag"]


@at(("folder", "store"), ("versitygw", "store"))  # by default MinIO lets all origins read
async def test_an_app_that_is_not_named_reads_nothing(api: Api, browser: Browser, app: WebApp, via: str) -> None:
    url = await signed(api, b"0123456789", "digits.txt", via)
    async with opened(browser, app.origin("other.localhost")) as page:
        for headers in ({}, {"Range": "bytes=2-4"}):
            with pytest.raises(BrowserError, match="Failed to fetch"):
                await fetched(page, url, headers)


async def fetched(page: Page, url: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    answer: dict[str, Any] = await page.evaluate(FETCHED, {"url": url, "headers": headers or {}})
    return answer
