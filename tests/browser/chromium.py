"""Chromium as Debian has it, driven by Playwright, and a web app of another origin for it to open.

The one without windows takes a fifth of the CPU for a page of a new profile. `MEDIA_TEST_CHROMIUM` names another
program. Playwright downloads none.
"""

import contextlib
import os
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from page.build import BuildFailed, packages
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

CLIENTS = Path(__file__).with_name("clients")
PATIENCE = 120_000
"""Milliseconds that Playwright waits for anything."""
PROGRAMS = ("chromium-headless-shell", "chromium")
"""The first one that is there."""
STOPS_AT_ONCE = (
    "addEventListener('play', event => { event.target.pause(); window.hasPlayed = true }, {capture: true, once: true})"
)
"""The next player that plays stops where it begins. What it shows there would be over before a busy machine looks."""
FLAGS = (
    "--disable-gpu",  # there is none, and a program that acts as one takes longer than none
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Skips the test where there is no Chromium; with `CI` set it fails."""
    program = os.environ.get("MEDIA_TEST_CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        missing("there is no Chromium here: `make chromium`")
    # Its sandbox needs a user other than root, or namespaces. What it opens here is our own.
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=FLAGS, chromium_sandbox=False)
        try:
            yield browser
        finally:
            await browser.close()


def missing(what: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


def clients() -> bytes:
    """tus-js-client and Uppy as one script. Skips the test where they cannot be had."""
    try:
        bundle = packages(CLIENTS, "bundle") / ".bundle.js"
    except BuildFailed as error:
        missing(f"tus-js-client and Uppy cannot be had here: {str(error).splitlines()[0]}")
    return bundle.read_bytes()


@dataclass(frozen=True)
class WebApp:
    """An app of no content. Any name below `localhost` is another origin of it, which Chromium finds by itself."""

    port: int

    def origin(self, host: str = "localhost") -> str:
        return f"http://{host}:{self.port}"


@contextlib.contextmanager
def web_app(script: bytes) -> Iterator[WebApp]:
    """`/`: an empty page; `/clients`: one that has run `script`."""
    pages = {
        "/": ("text/html", b"<!doctype html><title>An app</title>"),
        "/clients": ("text/html", b"<!doctype html><title>An app</title><script src=/clients.js></script>"),
        "/clients.js": ("text/javascript", script),
    }

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            kind, body = pages.get(self.path, ("text/plain", b""))
            self.send_response(200 if self.path in pages else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield WebApp(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()


@contextlib.asynccontextmanager
async def opened(browser: Browser, url: str) -> AsyncIterator[Page]:
    """A page in a profile of its own."""
    context: BrowserContext = await browser.new_context()
    context.set_default_timeout(PATIENCE)
    try:
        page = await context.new_page()
        await page.goto(url)
        yield page
    finally:
        await context.close()
