"""The page signs people in at the tenant's issuer, by code and PKCE; its token endpoint is on an origin of its own."""

import base64
import contextlib
import dataclasses
import hashlib
import json
import re
import secrets
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
import pytest
from page import build
from playwright.async_api import Browser, expect

from media_api.settings import AuthSettings, PageSettings
from media_core.auth.tokens import LEEWAY, Jwk, generate_key, public_jwks
from media_operator.local.postgres import EmbeddedPostgres
from tests.browser.chromium import PATIENCE, missing, opened
from tests.integration.servers.api import Api, eventually, serving

CLIENT = "files-page"
AUDIENCE = "https://media.acme.example"


@dataclass
class Issuer:
    """An OpenID Connect issuer that lets everybody in as ann. Its parts have names of their own, so other origins."""

    port: int
    key: Jwk
    lifetime: float = 600
    asked: list[dict[str, str]] = field(default_factory=list)
    """Of each authorization request: its parameters."""
    codes: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://login.localhost:{self.port}/realms/acme"

    @property
    def token_origin(self) -> str:
        return f"http://token.localhost:{self.port}"

    def discovery(self) -> dict[str, str]:
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.token_origin}/token",
            "jwks_uri": f"http://127.0.0.1:{self.port}/keys",
        }

    def authorize(self, asked: dict[str, str]) -> str:
        """Where the browser goes next."""
        self.asked.append(asked)
        code = secrets.token_urlsafe(16)
        self.codes[code] = asked
        return f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}"

    def redeem(self, given: dict[str, str]) -> dict[str, object] | None:
        """The token for a code, once, against the verifier of its challenge (RFC 7636, 4.6)."""
        asked = self.codes.pop(given.get("code", ""), None)
        digest = hashlib.sha256(given.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        if asked is None or challenge != asked["code_challenge"] or given["client_id"] != CLIENT:
            return None
        return {"access_token": self.token("ann"), "token_type": "Bearer"}

    def token(self, subject: str) -> str:
        now = time.time()
        claims = {"iss": self.url, "aud": AUDIENCE, "sub": subject, "iat": int(now), "exp": now + self.lifetime}
        claims |= {"scope": "media:read media:write", "rooms": ["garden"]}
        key = jwt.PyJWK(self.key)
        return jwt.encode(claims, key.key, algorithm=key.algorithm_name, headers={"kid": self.key["kid"]})


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        one = Issuer(server.server_address[1], generate_key())
        server.RequestHandlerClass = _handler(one)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield one
        finally:
            server.shutdown()
            thread.join()


def _handler(issuer: Issuer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            if parts.path.endswith("/openid-configuration"):
                self._answer(issuer.discovery())
            elif parts.path.endswith("/authorize"):
                self.send_response(302)
                self.send_header("Location", issuer.authorize(query))
                self.end_headers()
            else:
                self._answer(public_jwks([issuer.key]))

        def do_POST(self) -> None:
            given = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            answer = issuer.redeem({name: values[0] for name, values in given.items()})
            self._answer(answer or {"error": "invalid_grant"}, 200 if answer else 400)

        def _answer(self, body: object, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None:
            """Nothing."""

    return Handler


@pytest.fixture(scope="module")
async def api(
    postgres: EmbeddedPostgres, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Api]:
    with contextlib.suppress(build.BuildFailed):
        build.build()
    if not (build.DIST / "index.html").exists():
        missing("the page cannot be built here")
    auth = AuthSettings(
        oidc_issuer=issuer.url, oidc_audience=AUDIENCE, oidc_jwks_uri=f"http://127.0.0.1:{issuer.port}/keys"
    )
    page = PageSettings(
        page=True,
        page_folder=build.DIST,
        page_oidc_client_id=CLIENT,
        page_oidc_scopes="openid media",
        page_oidc_origins=(issuer.token_origin,),
    )
    async with serving(postgres, tmp_path_factory.mktemp("api"), auth=auth, page=page) as one:
        yield one


async def test_somebody_signs_in_at_the_issuer_and_sees_the_files(
    api: Api, issuer: Issuer, browser: Browser, tmp_path: Path
) -> None:
    refused: list[str] = []
    async with opened(browser, "about:blank") as page:
        page.on("console", lambda said: refused.append(said.text) if "Content Security Policy" in said.text else None)
        await page.goto(api.base)
        await page.get_by_role("dialog").get_by_role("button", name="Sign in").click()
        await expect(page.get_by_test_id("files")).to_be_attached(timeout=PATIENCE)
        assert not re.search(r"code=|state=|token", page.url)
        asked = issuer.asked[-1]
        assert (asked["response_type"], asked["client_id"], asked["scope"]) == ("code", CLIENT, "openid media")
        assert asked["code_challenge_method"] == "S256"
        note = {"name": "note.txt", "mimeType": "text/plain", "buffer": b"signed in"}
        await page.get_by_test_id("files").set_input_files([note])
        await expect(page.locator('[data-id]:has-text("note.txt")')).to_be_visible(timeout=PATIENCE)
        assert await page.evaluate("document.cookie") == ""
    assert refused == []


async def test_a_code_that_somebody_else_began_signs_nobody_in(api: Api, issuer: Issuer, browser: Browser) -> None:
    stolen = issuer.authorize({"redirect_uri": f"{api.base}/", "state": "theirs", "code_challenge": "x"})
    async with opened(browser, stolen) as page:
        await page.goto(f"{api.base}/")
        await expect(page.get_by_role("dialog").get_by_role("button", name="Sign in")).to_be_visible(timeout=PATIENCE)
        assert await page.evaluate("sessionStorage.getItem('media-token')") is None


async def test_nobody_goes_on_with_uploads_of_another_who_was_signed_in_in_this_browser(
    api: Api, issuer: Issuer, browser: Browser
) -> None:
    def link(subject: str) -> str:
        return f"{api.base}/#token={issuer.token(subject)}"

    def note(name: str, size: int) -> dict[str, Any]:
        return {"name": name, "mimeType": "text/plain", "buffer": name.encode() * size}

    async with opened(browser, link("ann")) as anns:
        await anns.context.route("**/v1/media/uploads/*", lambda _: None)  # no byte leaves this browser
        await anns.get_by_test_id("files").set_input_files([note("private.txt", 400_000)])
        await expect(anns.locator(".upload")).to_have_attribute("data-state", "sending")
        begun = "Object.keys(localStorage).some(key => key.startsWith('tus::'))"
        await eventually(lambda: anns.evaluate(begun))
        await anns.close()
        await anns.context.unroute_all(behavior="ignoreErrors")

        page = await anns.context.new_page()
        await page.goto(link("bob"))
        await page.get_by_test_id("files").set_input_files([note("public.txt", 1)])
        await expect(page.locator(".upload")).to_have_text([re.compile("public.txt")])
        await expect(page.locator(".upload")).to_have_attribute("data-state", "done")
        async with api.client("bob") as client:
            listed = (await client.get("/v1/media", headers={"Authorization": f"Bearer {issuer.token('bob')}"})).json()
        assert [file["filename"] for file in listed["data"]] == ["public.txt"]

        await page.evaluate("token => { location.hash = `#token=${token}` }", issuer.token("ann"))
        await page.get_by_role("dialog").get_by_role("button", name="Sign in as ann").click()
        await expect(page.locator(".upload")).to_have_text([re.compile("private.txt")])
        await expect(page.locator('[data-id]:has-text("public.txt")')).to_have_count(0)


async def test_a_link_whose_token_is_refused_says_why(api: Api, issuer: Issuer, browser: Browser) -> None:
    old = dataclasses.replace(issuer, lifetime=-600).token("ann")
    async with opened(browser, f"{api.base}/#token={old}") as page:
        refused = page.get_by_role("dialog", name="Sign in", exact=True)
        await expect(refused).to_contain_text(
            "The token of this link or sign-in was refused: The token has expired.", timeout=PATIENCE
        )
        await expect(refused).not_to_contain_text("has ended")


async def test_a_sign_in_that_has_ended_is_made_anew_in_a_window_of_its_own_and_the_page_goes_on(
    api: Api, issuer: Issuer, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as short:
        short.setattr(issuer, "lifetime", 15 - LEEWAY.total_seconds())  # the api allows clocks that differ by so much
        token = issuer.token("ann")
    async with opened(browser, f"{api.base}/#token={token}") as page:
        again = page.get_by_role("dialog", name="Sign in again")
        await expect(again).to_be_visible(timeout=PATIENCE)
        note = {"name": "patient.txt", "mimeType": "text/plain", "buffer": b"it waits"}
        await page.get_by_test_id("files").set_input_files([note])
        async with page.expect_popup() as popup:
            await again.get_by_role("button", name="Sign in").click()
        await expect(again).to_have_count(0, timeout=PATIENCE)
        await expect(page.locator('[data-id]:has-text("patient.txt")')).to_be_visible(timeout=PATIENCE)
        window = await popup.value
        if not window.is_closed():
            await window.wait_for_event("close", timeout=PATIENCE)
