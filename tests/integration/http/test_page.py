"""The page of files, as a browser is given it. What it does: `tests/browser`."""

import gzip
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from media_api.settings import AuthSettings, PageSettings
from media_operator.local.postgres import EmbeddedPostgres
from tests.integration.servers.api import Api, anybody, problem, serving

SCRIPT = b"console.log('a page')\n" * 100
INDEX = b'<!doctype html><script type="module" src="./assets/main-1a2b.js"></script>'


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "dist"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_bytes(INDEX)
    (folder / "icon.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (folder / ".built").write_text("not served")
    (folder / "assets" / "main-1a2b.js").write_bytes(SCRIPT)
    (folder / "assets" / "main-1a2b.js.gz").write_bytes(gzip.compress(SCRIPT))
    (folder.parent / "secret.txt").write_text("outside")
    return folder


@pytest.fixture(scope="module")
async def paged(
    postgres: EmbeddedPostgres, built: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Api]:
    page = PageSettings(page=True, page_folder=built)
    async with serving(postgres, tmp_path_factory.mktemp("api"), page=page) as api:
        yield api


def directives(policy: str) -> dict[str, str]:
    return {name: sources for name, _, sources in (part.strip().partition(" ") for part in policy.split(";"))}


async def test_the_root_is_a_page_that_runs_nothing_but_its_own_files(paged: Api) -> None:
    async with anybody(paged.base) as browser:
        answer = await browser.get("/")
    assert (answer.status_code, answer.content) == (200, INDEX)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert (answer.headers["cache-control"], answer.headers["x-content-type-options"]) == ("no-cache", "nosniff")
    assert answer.headers["referrer-policy"] == "no-referrer"
    policy = directives(answer.headers["content-security-policy"])
    nothing = ("default-src", "frame-ancestors", "base-uri", "form-action")
    assert {policy[name] for name in nothing} == {"'none'"}
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["img-src"] == policy["media-src"] == f"'self' blob: data: {paged.base}"
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert "set-cookie" not in answer.headers


async def test_files_with_a_hash_in_their_name_stay_for_ever_and_come_compressed(paged: Api) -> None:
    async with anybody(paged.base) as browser:
        answer = await browser.get("/assets/main-1a2b.js", headers={"Accept-Encoding": "br, gzip;q=0.5"})
        plain = await browser.get("/assets/main-1a2b.js", headers={"Accept-Encoding": "gzip;q=0, br;q=0"})
        head = await browser.head("/assets/main-1a2b.js", headers={"Accept-Encoding": "gzip"})
        lines = await browser.get(
            "/assets/main-1a2b.js", headers=[("Accept-Encoding", "br"), ("Accept-Encoding", "gzip")]
        )
    assert lines.headers["content-encoding"] == "gzip"
    assert answer.content == plain.content == SCRIPT
    assert answer.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    for each in (answer, plain, head):
        assert "immutable" in each.headers["cache-control"]
        assert each.headers["vary"] == "Accept-Encoding"
        assert each.headers["content-type"].startswith("text/javascript")
    assert answer.headers["etag"] == head.headers["etag"] != plain.headers["etag"]
    assert (head.content, int(head.headers["content-length"])) == (b"", int(answer.headers["content-length"]))


@pytest.mark.parametrize("path", ["/", "/index.html", "/icon.svg", "/assets/main-1a2b.js"])
async def test_what_a_browser_has_already_is_not_sent_again(paged: Api, path: str) -> None:
    async with anybody(paged.base) as browser:
        first = await browser.get(path)
        again = await browser.get(path, headers={"If-None-Match": first.headers["etag"]})
        lines = [("If-None-Match", '"x"'), ("If-None-Match", first.headers["etag"])]
        assert (await browser.get(path, headers=lines)).status_code == 304
        head = await browser.head(path)
    assert (first.status_code, again.status_code, again.content) == (200, 304, b"")
    assert (head.status_code, head.content) == (200, b"")
    assert again.headers["content-security-policy"] == first.headers["content-security-policy"]


@pytest.mark.parametrize("path", ["/assets/none.js", "/assets/%2e%2e/%2e%2e/secret.txt", "/.built", "/secret.txt"])
async def test_nothing_else_is_served(paged: Api, path: str) -> None:
    async with anybody(paged.base) as browser:
        request = browser.build_request("GET", "/")
        request.url = request.url.copy_with(raw_path=path.encode())
        problem(await browser.send(request), 404, "not_found")


async def test_the_page_is_told_the_tenant_and_that_a_link_signs_in(paged: Api) -> None:
    async with anybody(paged.base) as browser:
        told = await browser.get("/page.json")
        head = await browser.head("/page.json")
    assert told.json() == {"tenant": paged.tenant.tenant_id, "oidc": None, "store_origins": [paged.base]}
    assert (told.headers["cache-control"], head.status_code, head.content) == ("no-cache", 200, b"")


async def test_the_page_is_told_where_an_issuer_signs_people_in_and_may_call_it(
    postgres: EmbeddedPostgres, built: Path, tmp_path: Path
) -> None:
    auth = AuthSettings(oidc_issuer="https://login.example/realms/acme", oidc_jwks_uri="https://login.example/keys")
    page = PageSettings(
        page=True,
        page_folder=built,
        page_oidc_client_id="files",
        page_oidc_scopes="openid media",
        page_oidc_origins=("https://token.example",),
    )
    async with serving(postgres, tmp_path, auth=auth, page=page) as api, anybody(api.base) as browser:
        told, index = await browser.get("/page.json"), await browser.get("/")
        assert told.json()["oidc"] == {
            "issuer": "https://login.example/realms/acme",
            "client_id": "files",
            "scopes": "openid media",
        }
        connect = directives(index.headers["content-security-policy"])["connect-src"]
        assert connect == f"'self' blob: {api.base} https://login.example https://token.example"


async def test_the_rest_of_the_api_is_as_it_was(paged: Api) -> None:
    async with anybody(paged.base) as browser:
        problem(await browser.post("/"), 405, "method_not_allowed")
        problem(await browser.get("/v1/jobs"), 401, "unauthorized")
        assert (await browser.get("/docs")).status_code == 200
        assert "/page.json" not in (await browser.get("/openapi.json")).json()["paths"]


async def test_without_the_setting_there_is_no_page(api: Api) -> None:
    async with anybody(api.base) as browser:
        for path in ("/", "/page.json", "/index.html"):
            problem(await browser.get(path), 404, "not_found")


async def test_an_api_whose_folder_holds_no_page_serves_all_the_rest(
    postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    page = PageSettings(page=True, page_folder=tmp_path / secrets.token_hex(4))
    async with serving(postgres, tmp_path, page=page) as api, anybody(api.base) as browser:
        problem(await browser.get("/"), 404, "not_found")
        assert (await browser.get("/readyz")).status_code == 200
