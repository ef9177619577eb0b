"""A web app of another origin calls the api, as Chromium lets it."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from urllib.parse import urljoin

import pytest
from playwright.async_api import Browser, Page
from playwright.async_api import Error as BrowserError

from media_api.settings import CorsSettings
from media_operator.local.postgres import EmbeddedPostgres
from tests.browser.chromium import WebApp, opened
from tests.integration.servers.api import Api, serving, upload
from tests.integration.tenancy import GENEROUS

FETCHED = """async ({url, token, method = 'GET', headers = {}, form = null}) => {
  const body = form && new FormData()
  for (const [name, value] of Object.entries(form ?? {})) body.append(name, value)
  if (form) body.append('file', new Blob(['hello from a browser']), 'hello.txt')
  const answer = await fetch(url, {method, body, headers: token ? {...headers, Authorization: `Bearer ${token}`} : headers})
  return {status: answer.status, headers: Object.fromEntries(answer.headers), text: await answer.text()}
}"""  # noqa: E501


@pytest.fixture(scope="module")
async def api(postgres: EmbeddedPostgres, app: WebApp, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    origins = (app.origin(), app.origin("*.preview.localhost"))
    async with serving(postgres, tmp_path_factory.mktemp("api"), cors=CorsSettings(origins=origins)) as one:
        yield one


@pytest.fixture
async def page(browser: Browser, app: WebApp) -> AsyncIterator[Page]:
    async with opened(browser, app.origin()) as one:
        yield one


async def fetched(page: Page, url: str, **how: Any) -> dict[str, Any]:
    """What a script of the page could read of the answer. Raises Playwright's Error if it may not."""
    answer: dict[str, Any] = await page.evaluate(FETCHED, {"url": url, **how})
    return answer


async def test_an_app_uploads_a_form_with_its_token_and_reads_where_it_is(api: Api, page: Page) -> None:
    answer = await fetched(
        page, f"{api.base}/v1/media/upload", method="POST", token=api.token(), form={"room_id": "garden"}
    )
    assert answer["status"] == 201, answer
    assert answer["headers"]["x-request-id"]
    assert "med-" in answer["text"]


async def test_an_app_reads_ranges_of_a_file_and_their_headers(api: Api, page: Page) -> None:
    async with api.client() as client:
        uploaded = await upload(client, b"0123456789", "a.txt")
    await api.verdict(uploaded["sha256"])
    url = f"{api.base}/v1/media/download/{uploaded['media_id']}"
    answer = await fetched(page, url, token=api.token(), headers={"Range": "bytes=2-4"})
    assert (answer["status"], answer["text"]) == (206, "234")
    assert answer["headers"]["content-range"] == "bytes 2-4/10"
    assert answer["headers"]["etag"] == f'"{uploaded["sha256"]}"'
    assert "a.txt" in answer["headers"]["content-disposition"]
    assert (await fetched(page, url, method="HEAD", token=api.token()))["headers"]["accept-ranges"] == "bytes"


async def test_an_app_reads_errors_too(api: Api, page: Page) -> None:
    nobody = await fetched(page, f"{api.base}/v1/jobs")
    assert (nobody["status"], nobody["headers"]["www-authenticate"][:6]) == (401, "Bearer")
    unknown = await fetched(page, f"{api.base}/v1/nothing", token=api.token())
    assert (unknown["status"], "not_found" in unknown["text"]) == (404, True)
    wrong = await fetched(page, f"{api.base}/v1/jobs", method="DELETE", token=api.token())
    assert wrong["status"] == 405
    await api.apply(replace(GENEROUS, suspended=True))
    try:
        away = await fetched(page, f"{api.base}/v1/jobs", token=api.token())
    finally:
        await api.apply(GENEROUS)
    assert (away["status"], away["headers"]["retry-after"]) == (503, "60")


async def test_an_app_reads_the_headers_of_an_upload_in_several_requests(api: Api, page: Page) -> None:
    begun = {"Tus-Resumable": "1.0.0", "Upload-Length": "20"}
    url, token = f"{api.base}/v1/media/uploads", api.token()
    created = await fetched(page, url, method="POST", token=token, headers=begun)
    assert created["status"] == 201
    location = urljoin(url, created["headers"]["location"])
    head = await fetched(page, location, method="HEAD", token=token, headers={"Tus-Resumable": "1.0.0"})
    told = {"upload-offset", "upload-length", "upload-expires", "tus-resumable"}
    assert told <= head["headers"].keys()
    assert (await fetched(page, url, method="OPTIONS"))["headers"]["tus-version"] == "1.0.0"
    ended = await fetched(page, location, method="DELETE", token=token, headers={"Tus-Resumable": "1.0.0"})
    assert ended["status"] == 204


async def test_an_app_of_a_label_that_the_wildcard_stands_for_may_call(api: Api, browser: Browser, app: WebApp) -> None:
    async with opened(browser, app.origin("pr-7.preview.localhost")) as page:
        assert (await fetched(page, f"{api.base}/v1/jobs", token=api.token()))["status"] == 200


@pytest.mark.parametrize("host", ["preview.localhost", "a.b.preview.localhost", "other.localhost", "127.0.0.1"])
async def test_apps_of_other_origins_read_nothing(api: Api, browser: Browser, app: WebApp, host: str) -> None:
    async with opened(browser, app.origin(host)) as page:
        for how in ({"token": api.token()}, {}):  # with a preflight, and without one
            with pytest.raises(BrowserError, match="Failed to fetch"):
                await fetched(page, f"{api.base}/v1/jobs", **how)
