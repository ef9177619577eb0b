"""Web apps of other origins: what a browser is told before and with an answer. In Chromium: `browser/test_cors.py`."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from media_api.settings import CorsSettings
from media_operator.local.postgres import EmbeddedPostgres
from tests.integration.servers.api import Api, anybody, problem, serving, upload
from tests.integration.tenancy import GENEROUS

APP, PREVIEW = "https://app.example", "https://pr-7.preview.example"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,tus-resumable"}
STRANGERS = (
    "https://evil.example",
    "http://app.example",
    "https://app.example:8443",
    "https://app.example.evil.example",
    "https://preview.example",
    "https://a.b.preview.example",
    "https://evil.example/.preview.example",
    "null",
)


@pytest.fixture(scope="module")
async def open_api(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    cors = CorsSettings(origins=(APP, "https://*.preview.example"), max_age_seconds=77)
    async with serving(postgres, tmp_path_factory.mktemp("open"), cors=cors) as api:
        yield api


@pytest.mark.parametrize("origin", [APP, PREVIEW])
@pytest.mark.parametrize("path", ["/v1/media/upload", "/v1/jobs", "/v1/nothing", "/openapi.json"])
async def test_a_preflight_of_an_origin_that_is_allowed_is_a_204(open_api: Api, origin: str, path: str) -> None:
    async with anybody(open_api.base) as browser:
        answer = await browser.options(path, headers={"Origin": origin, **PREFLIGHT})
    assert (answer.status_code, answer.content) == (204, b"")
    headers = answer.headers
    assert headers["access-control-allow-origin"] == origin
    assert headers["access-control-max-age"] == "77"
    assert {"PATCH", "DELETE", "HEAD"} <= set(headers["access-control-allow-methods"].split(", "))
    assert headers["access-control-allow-headers"] == "authorization,tus-resumable"
    assert "access-control-allow-credentials" not in headers
    assert "origin" in headers["vary"].lower()


@pytest.mark.parametrize("origin", STRANGERS)
async def test_other_origins_are_told_so_and_get_no_leave(open_api: Api, origin: str) -> None:
    async with anybody(open_api.base) as browser:
        answer = await browser.options("/v1/jobs", headers={"Origin": origin, **PREFLIGHT})
        assert "spec.api.cors.origins" in answer.json()["detail"]
        assert (answer.status_code, answer.json()["code"]) == (403, "origin_not_allowed")
        assert "access-control-allow-origin" not in answer.headers
        simple = await browser.get("/v1/jobs", headers={"Origin": origin})
    assert (answer.headers["cache-control"], answer.headers["x-content-type-options"]) == ("no-store", "nosniff")
    assert "access-control-allow-origin" not in simple.headers
    assert "origin" in simple.headers["vary"].lower()


@pytest.mark.parametrize("origin", [APP, STRANGERS[0]])
async def test_a_preflight_has_a_request_id_like_every_answer(open_api: Api, origin: str) -> None:
    async with anybody(open_api.base) as browser:
        asked = {"Origin": origin, **PREFLIGHT}
        first, second = [await browser.options("/v1/jobs", headers=asked) for _ in range(2)]
        with capture_logs() as logged:
            named = await browser.options("/v1/jobs", headers={**asked, "X-Request-Id": "mine-1"})
            method = {"Access-Control-Request-Method": "TRACE", "X-Request-Id": "mine-2"}
            other_method = await browser.options("/v1/jobs", headers={**asked, **method})
    assert len(first.headers["x-request-id"]) == len(second.headers["x-request-id"]) == 26
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert named.headers["x-request-id"] == "mine-1"
    assert other_method.json()["code"] == "origin_not_allowed"
    refused = [(each["origin"], each["request_id"]) for each in logged if each["event"] == "origin_refused"]
    assert refused == ([] if origin == APP else [(origin, "mine-1"), (origin, "mine-2")])


async def test_an_api_at_a_private_address_can_be_called_by_the_origins_that_are_named(open_api: Api) -> None:
    private = {**PREFLIGHT, "Access-Control-Request-Private-Network": "true"}
    async with anybody(open_api.base) as browser:
        answer = await browser.options("/v1/media/upload", headers={"Origin": APP, **private})
        other = await browser.options("/v1/media/upload", headers={"Origin": "https://evil.example", **private})
        plain = await browser.options("/v1/media/upload", headers={"Origin": APP, **PREFLIGHT})
    assert (answer.status_code, answer.headers["access-control-allow-private-network"]) == (204, "true")
    problem(other, 403, "origin_not_allowed")
    for each in (other, plain):
        assert "access-control-allow-private-network" not in each.headers


async def test_every_answer_can_be_read_errors_included(open_api: Api) -> None:
    async with open_api.client() as client, anybody(open_api.base) as nobody:
        client.headers["Origin"] = nobody.headers["Origin"] = APP
        uploaded = await upload(client, b"hello", "a.txt", room_id="garden")
        await open_api.verdict(uploaded["sha256"])
        ranged = await client.get(f"/v1/media/download/{uploaded['media_id']}", headers={"Range": "bytes=0-1"})
        answers = [ranged, await nobody.get("/v1/jobs"), await client.get("/v1/nothing"), await client.put("/v1/jobs")]
        await open_api.apply(replace(GENEROUS, suspended=True))
        answers.append(await client.get("/v1/jobs"))
    await open_api.apply(GENEROUS)
    assert [answer.status_code for answer in answers] == [206, 401, 404, 405, 503]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == APP
        exposed = answer.headers["access-control-expose-headers"].lower().split(", ")
        assert {"etag", "location", "content-range", "retry-after", "x-request-id"} <= set(exposed)
        assert {"tus-resumable", "tus-extension", "upload-offset", "upload-length", "upload-media-id"} <= set(exposed)
        assert {"allow", "x-should-retry"} <= set(exposed)


@pytest.mark.parametrize(("origin", "allowed"), [(APP, True), (STRANGERS[0], False)])
async def test_what_the_server_refuses_without_the_app_can_be_read_as_well(
    open_api: Api, origin: str, allowed: bool
) -> None:
    async with anybody(open_api.base) as browser:
        answer = await browser.get("/v1/jobs", headers={"Origin": origin, "Upload-Metadata": "x" * 140_000})
    problem(answer, 431, "headers_too_large")
    assert answer.headers.get("access-control-allow-origin") == (origin if allowed else None)
    assert "x-request-id" in answer.headers["access-control-expose-headers"].lower()
    assert answer.headers["vary"] == "Origin"


async def test_uploads_in_several_requests_are_described_beside_preflights(open_api: Api) -> None:
    async with anybody(open_api.base) as browser:
        preflight = await browser.options("/v1/media/uploads", headers={"Origin": APP, **PREFLIGHT})
        described = await browser.options("/v1/media/uploads", headers={"Origin": APP})
    assert "tus-version" not in preflight.headers
    assert described.headers["tus-version"] == "1.0.0"
    assert described.headers["access-control-allow-origin"] == APP


async def test_without_origins_no_answer_says_a_word_about_them(api: Api) -> None:
    async with anybody(api.base) as browser:
        problem(await browser.options("/v1/jobs", headers={"Origin": APP, **PREFLIGHT}), 405, "method_not_allowed")
        answer = await browser.get("/v1/jobs", headers={"Origin": APP})
    assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize(
    "origins", ["*", "https://app.example/", "app.example", "https://*.*.example", "https://a*.example"]
)
def test_what_is_no_origin_is_refused_at_the_start(origins: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDIA_CORS_ORIGINS", f"https://app.example, {origins}")
    with pytest.raises(ValueError, match="without a path"):
        CorsSettings()
