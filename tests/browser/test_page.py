"""The page of files in Chromium, over a whole `make run`: real scanner, real speech model, real store."""

import asyncio
import base64
import hashlib
import os
import random
import re
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from page.build import DIST, HERE, BuildFailed, build, node
from playwright.async_api import Browser, BrowserContext, Locator, Page, Route, expect

from media_core.auth import tokens
from tests.browser.chromium import PATIENCE, STOPS_AT_ONCE, missing
from tests.integration.whole.test_make_run import EICAR, SAMPLE, MakeRun, new_home

ROOT = Path(__file__).parents[2]
PHOTO = ROOT / "samples" / "photo.jpg"
SPEECH = ROOT / "tests" / "fixtures" / "whisper-tiny-words" / "samples" / "two_phrases_en.wav"
MIB = 1024 * 1024
PIECE = 16 * MIB
"""Most that the page sends in one request."""

SLOW = {"offline": False, "latency": 1, "downloadThroughput": -1, "uploadThroughput": MIB // 4}
"""A minute for a piece: what a test does meanwhile comes in the middle of one."""

MOST_COMPRESSED = 150_000
"""Bytes of the page's own files, as they are sent."""

BY_AN_EVENT = 20_000
"""Milliseconds, fewer than those after which the page looks at everything again."""

expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def run() -> Iterator[MakeRun]:
    try:
        build()
    except BuildFailed as error:
        missing(f"the page can't be built here: {str(error).splitlines()[0]}")
    home = new_home()
    shutil.copy(SAMPLE, home / "acme.yaml")
    one = MakeRun(home)
    try:
        one.ready()
        one.said(r"^Files in the browser: ")
        yield one
    finally:
        one.process.terminate()
        one.process.wait(PATIENCE / 1000)
        shutil.rmtree(home)


def link(run: MakeRun, token: str | None = None) -> str:
    exports = run.exports()
    return f"{exports['BASE']}/#token={token or exports['TOKEN']}"


def short_token(run: MakeRun, seconds: float, subject: str = "demo") -> str:
    """One that the api takes for about so long: it allows clocks that differ by its leeway."""
    key = tokens.load_signing_keys(run.folder / "acme" / "signing-keys.json")[0]
    lifetime = timedelta(seconds=seconds) - tokens.LEEWAY
    return tokens.mint(
        key, tenant_id="acme", subject=subject, scopes=sorted(tokens.SCOPES), rooms=tokens.ALL, lifetime=lifetime
    )


@asynccontextmanager
async def profile(browser: Browser, locale: str = "en-GB") -> AsyncIterator[BrowserContext]:
    context = await browser.new_context(locale=locale, viewport={"width": 1280, "height": 800})
    context.set_default_timeout(PATIENCE)
    try:
        yield context
    finally:
        await context.close()


@pytest.fixture
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    async with profile(browser) as one:
        yield one


async def signed_in(context: BrowserContext, run: MakeRun, token: str | None = None) -> Page:
    page = await context.new_page()
    await page.goto(link(run, token))
    await expect(page.get_by_role("heading", name="All files")).to_be_visible()
    return page


def tile(page: Page, name: str) -> Locator:
    return page.locator(".files li", has=page.get_by_text(name, exact=True))


async def drop(page: Page, *files: tuple[str, str, bytes]) -> None:
    """Drops files (name, type, bytes) on the page, as the desktop would."""
    given = [{"name": name, "type": kind, "data": base64.b64encode(data).decode()} for name, kind, data in files]
    await page.evaluate(
        """files => {
          const carried = new DataTransfer()
          for (const {name, type, data} of files)
            carried.items.add(new File([Uint8Array.from(atob(data), c => c.charCodeAt(0))], name, {type}))
          for (const type of ['dragenter', 'dragover', 'drop'])
            document.body.dispatchEvent(new DragEvent(type, {bubbles: true, cancelable: true, dataTransfer: carried}))
        }""",
        given,
    )


async def choose(page: Page, *files: Path | dict[str, Any]) -> None:
    await page.get_by_test_id("files").set_input_files(list(files))  # type: ignore[arg-type]


async def eventually(holds: Callable[[], Awaitable[Any]]) -> Any:
    until = time.monotonic() + PATIENCE / 1000
    while not (found := await holds()):
        assert time.monotonic() < until
        await asyncio.sleep(0.1)
    return found


def text_file(name: str, text: str) -> dict[str, Any]:
    return {"name": name, "mimeType": "text/plain", "buffer": text.encode()}


def stored(run: MakeRun, name: str) -> None:
    """Uploads a file by that name, beside the page."""
    with run.client() as client:
        client.post("/v1/media/upload", files={"file": (name, name.encode(), "text/plain")}).raise_for_status()


async def menu(page: Page, name: str, entry: str) -> None:
    await tile(page, name).get_by_role("button", name=f"Actions for {name}").click()
    await page.get_by_role("menuitem", name=entry).click()


async def test_the_link_signs_in_and_leaves_the_token_nowhere(run: MakeRun, context: BrowserContext) -> None:
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page = await signed_in(context, run)
    token = run.exports()["TOKEN"]
    assert page.url == f"{run.exports()['BASE']}/#/"
    kept = await page.evaluate("JSON.stringify([{...localStorage}, document.cookie, history.state])")
    assert token not in kept
    assert await context.cookies() == []
    assert not [url for url in asked if token in url or not url.startswith(run.exports()["BASE"])]
    await page.go_back()
    assert token not in page.url
    await page.go_forward()
    await expect(page.get_by_role("heading", name="All files")).to_be_visible()


def test_the_page_is_small(run: MakeRun) -> None:
    sent = [file.with_name(f"{file.name}.br") for file in DIST.rglob("*") if file.suffix in (".js", ".css", ".html")]
    assert sum(file.stat().st_size for file in sent if file.exists()) < MOST_COMPRESSED


def test_the_pure_logic_of_the_page_holds() -> None:
    try:
        program = node()
    except BuildFailed as error:
        missing(f"Node.js can't be had here: {str(error).splitlines()[0]}")
    ran = subprocess.run([program, "--test", "tests/*.test.ts"], cwd=HERE, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


async def test_a_dropped_photo_appears_with_its_thumbnail_and_becomes_clean(
    run: MakeRun, context: BrowserContext
) -> None:
    page = await signed_in(context, run)
    await drop(page, ("Évening.jpg", "image/jpeg", PHOTO.read_bytes()))
    one = tile(page, "Évening.jpg")
    await expect(one).to_be_visible()
    await expect(one).to_have_attribute("data-status", "clean")
    await expect(one.locator(".thumb[data-loaded]")).to_be_visible()
    await one.get_by_role("link").click()
    shown = page.get_by_test_id("full")
    await eventually(lambda: shown.evaluate("image => image.complete && image.naturalWidth === 1920"))
    await page.keyboard.press("+")
    assert "scale(1.5)" in str(await page.locator(".sheet").get_attribute("style"))


async def test_of_a_folder_what_cannot_be_read_is_told_and_the_rest_is_uploaded(
    run: MakeRun, context: BrowserContext
) -> None:
    page = await signed_in(context, run)
    await page.evaluate(
        """() => {
          const file = name => ({name, isFile: true, file: done => done(new File([name], name, {type: 'text/plain'}))})
          const locked = {name: 'locked.txt', isFile: true, file: (_, failed) => failed(new DOMException('no'))}
          const folder = (name, ...entries) => ({
            name, isDirectory: true,
            createReader: () => ({readEntries: (done, failed) =>
              name === 'shut' ? failed(new DOMException('no')) : done(entries.splice(0))}),
          })
          const all = folder('all', locked, folder('shut'), file('first of all.txt'), folder('deep', file('deep.txt')))
          const event = new DragEvent('drop', {bubbles: true, cancelable: true})
          const items = [{webkitGetAsEntry: () => all}]
          Object.defineProperty(event, 'dataTransfer', {value: {types: ['Files'], items, files: []}})
          document.body.dispatchEvent(event)
        }"""
    )
    for name in ("locked.txt", "shut"):
        await expect(page.get_by_text(f"{name} cannot be read, and is left out.")).to_be_visible()
    for name in ("first of all.txt", "deep.txt"):
        await expect(tile(page, name)).to_be_visible()


async def test_a_virus_vanishes_with_a_sentence_and_is_refused_with_another(
    run: MakeRun, context: BrowserContext
) -> None:
    page = await signed_in(context, run)
    await choose(page, text_file("eicar.txt", EICAR))
    await expect(page.get_by_role("alert")).to_contain_text("A virus was found in eicar.txt. It was deleted")
    await expect(tile(page, "eicar.txt")).to_have_count(0)
    await expect(page.locator(".upload.infected")).to_contain_text("Infected, deleted")
    await choose(page, text_file("again.txt", EICAR))
    await expect(page.locator(".upload.failed")).to_contain_text("found infected before and is not accepted")


async def test_refused_uploads_say_why_in_their_colour_and_make_way_for_a_file(
    run: MakeRun, context: BrowserContext
) -> None:
    page = await signed_in(context, run)
    await choose(page, text_file("empty.txt", ""), text_file("taken.txt", "taken"), text_file("void.txt", ""))
    await expect(page.locator(".upload.failed")).to_have_count(2)
    await expect(page.locator(".upload.done")).to_have_count(1)
    colour = "all => all.map(one => getComputedStyle(one).color)"
    refused = await page.locator(".upload.failed .upload-said").evaluate_all(colour)
    (taken,) = await page.locator(".upload.done .upload-said").evaluate_all(colour)
    assert len(set(refused)) == 1
    assert taken not in refused
    await page.locator(".upload").get_by_role("link", name="taken.txt").click()
    await expect(page.locator(".upload")).to_have_count(0)
    await page.get_by_role("button", name="Unfold").click()
    await expect(page.locator(".upload")).to_have_count(3)


async def test_a_recording_is_transcribed_and_its_caption_and_text_follow(
    run: MakeRun, context: BrowserContext
) -> None:
    page = await signed_in(context, run)
    await choose(page, SPEECH)
    await expect(tile(page, SPEECH.name)).to_have_attribute("data-status", "clean")
    await menu(page, SPEECH.name, "Transcribe")
    await page.get_by_label("Language").select_option("en")
    await page.get_by_role("button", name="Start").click()
    await tile(page, SPEECH.name).get_by_role("link").click()
    lines = page.get_by_test_id("transcript").get_by_role("button")
    await expect(lines).to_have_count(2)
    await expect(lines.nth(1)).to_contain_text("blue thank you please")
    await page.evaluate(STOPS_AT_ONCE)
    await lines.nth(1).click()
    await page.wait_for_function("window.hasPlayed")
    player = page.get_by_test_id("player")
    await expect(page.get_by_test_id("caption")).to_have_text("blue thank you please")
    await expect(lines.nth(1)).to_have_attribute("aria-current", "true")
    cues = "player => player.textTracks[0]?.cues?.length"
    await player.evaluate("player => { player.textTracks[0].mode = 'showing' }")
    assert await eventually(lambda: player.evaluate(cues)) == 2
    await player.evaluate("player => { player.pause(); player.currentTime = 0.5 }")
    await expect(page.get_by_test_id("caption")).to_have_text("and the today clean five")


async def test_an_upload_goes_on_after_a_reload_a_restart_of_the_api_and_a_lost_network(
    run: MakeRun, context: BrowserContext, tmp_path: Path
) -> None:
    big = tmp_path / "big.bin"
    data = random.Random(1).randbytes(3 * PIECE)
    big.write_bytes(data)
    page = await signed_in(context, run)
    network = await context.new_cdp_session(page)
    pieces: list[str] = []

    async def slow_down(route: Route) -> None:
        """From the second piece on. At full speed all would be over before anything happens to it."""
        if route.request.method == "PATCH":
            pieces.append(route.request.url)
        if len(pieces) == 2:
            await network.send("Network.emulateNetworkConditions", SLOW)
        await route.continue_()

    await page.route("**/v1/media/uploads/*", slow_down)
    await choose(page, big)
    row = page.locator(".upload", has_text="big.bin")

    async def percent() -> int:
        return int(await row.get_by_role("progressbar").get_attribute("aria-valuenow") or 0)

    async def is_beyond(number: int) -> bool:
        return await percent() > number

    await eventually(lambda: is_beyond(34))
    await page.reload()
    await expect(row).to_be_visible()
    sent = await eventually(percent)
    assert sent >= 33  # the first piece has not to be sent again
    await eventually(lambda: is_beyond(sent))

    old = run.api()
    old.kill()
    await expect(row).to_have_attribute("data-state", "waiting")
    await expect(row).to_have_attribute("data-state", "sending")
    assert run.api().pid != old.pid

    tries: list[str] = []
    page.on("requestfailed", lambda request: tries.append(request.url))

    async def has_tried(times: int) -> bool:
        return len([url for url in tries if "/v1/media/uploads/" in url]) >= times

    await network.send("Network.emulateNetworkConditions", {**SLOW, "offline": True})
    await expect(row).to_have_attribute("data-state", "waiting")
    await eventually(lambda: has_tried(4))
    await network.send("Network.emulateNetworkConditions", {**SLOW, "uploadThroughput": -1})
    await expect(row).to_have_attribute("data-state", "done")
    await expect(tile(page, "big.bin")).to_be_visible()
    with run.client() as client:
        (stored,) = client.get("/v1/media", params={"name": "big.bin"}).json()["data"]
        assert stored["sha256"] == hashlib.sha256(data).hexdigest()
        client.delete(f"/v1/media/{stored['media_id']}").raise_for_status()
    await expect(tile(page, "big.bin")).to_have_count(0)


async def test_an_upload_can_be_paused_and_given_up(run: MakeRun, context: BrowserContext, tmp_path: Path) -> None:
    some = tmp_path / "some.bin"
    some.write_bytes(os.urandom(PIECE))
    page = await signed_in(context, run)
    network = await context.new_cdp_session(page)
    await network.send("Network.emulateNetworkConditions", SLOW)
    await choose(page, some)
    row = page.locator(".upload", has_text="some.bin")
    await row.get_by_role("button", name="Pause").click()
    await expect(row).to_have_attribute("data-state", "paused")
    await row.get_by_role("button", name="Go on").click()
    await expect(row).to_have_attribute("data-state", "sending")
    await row.get_by_role("button", name="Give up").click()
    await expect(row).to_have_count(0)

    async def is_free() -> bool:
        with run.client() as client:
            return client.get("/v1/usage").json()["data"]["reserved_bytes"] == 0

    await eventually(is_free)


async def test_two_tabs_see_each_others_changes(run: MakeRun, context: BrowserContext) -> None:
    first, second = await signed_in(context, run), await signed_in(context, run)
    await choose(first, text_file("shared.txt", "hello"))
    await expect(tile(second, "shared.txt")).to_be_visible()
    await tile(second, "shared.txt").get_by_role("link").focus()
    await second.keyboard.press("F2")
    await second.get_by_label("New name").fill("renamed.txt")
    await second.keyboard.press("Enter")
    await expect(tile(first, "renamed.txt")).to_be_visible(timeout=BY_AN_EVENT)
    await menu(first, "renamed.txt", "Add to a room")
    await first.get_by_label("Name of the room").fill("garden")
    await first.keyboard.press("Enter")
    await expect(second.get_by_role("link", name="garden")).to_be_visible()
    await second.get_by_role("link", name="garden").click()
    await expect(tile(second, "renamed.txt")).to_be_visible()
    await menu(first, "renamed.txt", "Remove from garden")
    await expect(tile(second, "renamed.txt")).to_have_count(0)
    await first.get_by_role("button", name="Undo").last.click()
    await expect(tile(second, "renamed.txt")).to_be_visible()


async def test_a_file_that_comes_while_the_list_is_on_its_way_is_seen(run: MakeRun, context: BrowserContext) -> None:
    page = await context.new_page()
    listed, came = asyncio.Event(), asyncio.Event()

    async def hold(route: Route) -> None:
        answer = await route.fetch()
        if "limit=1&" not in f"{route.request.url}&":  # the first page, not the question whether one may list
            listed.set()
            await came.wait()
        await route.fulfill(response=answer)

    await page.route("**/v1/media?*", hold)
    await page.goto(link(run))
    await listed.wait()
    async with page.expect_response("**/v1/media/*/info"):
        stored(run, "meanwhile.txt")
    came.set()
    await expect(tile(page, "meanwhile.txt")).to_be_visible(timeout=BY_AN_EVENT)


async def test_a_look_that_failed_is_made_again(run: MakeRun, context: BrowserContext) -> None:
    page = await signed_in(context, run)
    await expect(page.get_by_test_id("files-box")).to_have_attribute("aria-busy", "false")
    await page.route("**/v1/media/*/info", lambda route: route.abort(), times=1)
    async with page.expect_event("requestfailed"):
        stored(run, "asked again.txt")
    await expect(tile(page, "asked again.txt")).to_be_visible(timeout=BY_AN_EVENT)


async def away(route: Route) -> None:
    await route.fulfill(status=503, body='{"code": "unavailable", "detail": "The database does not answer."}')


async def test_an_outage_while_the_page_opens_is_told_and_takes_no_right_away(
    run: MakeRun, context: BrowserContext
) -> None:
    page = await context.new_page()
    await page.route("**/v1/media?owner=all&limit=1", away)
    await page.goto(link(run))
    alert = page.get_by_role("alert").filter(has_text="The database does not answer.")
    await expect(alert).to_be_visible()
    async with page.expect_response("**/v1/media?owner=all&limit=1"):
        await alert.get_by_role("button", name="Try again").click()
    await expect(alert).to_be_visible()
    await page.unroute("**/v1/media?owner=all&limit=1")
    await expect(page.get_by_role("heading", name="All files")).to_be_visible()


async def test_a_stream_of_events_that_is_not_read_is_closed(run: MakeRun, context: BrowserContext) -> None:
    page = await context.new_page()
    await page.route("**/v1/usage", away, times=1)
    async with page.expect_event("requestfailed", lambda request: request.url.endswith("/v1/events")):
        await page.goto(link(run))


async def test_the_focus_stays_with_its_file_when_another_comes(run: MakeRun, context: BrowserContext) -> None:
    stored(run, "focused.txt")
    page = await signed_in(context, run)
    await tile(page, "focused.txt").get_by_role("link").focus()
    stored(run, "newer.txt")
    await expect(tile(page, "newer.txt")).to_be_visible()
    assert await page.evaluate("document.activeElement.textContent") == "focused.txt"
    await page.keyboard.press("ArrowLeft")
    assert await page.evaluate("document.activeElement.textContent") == "newer.txt"


async def test_what_is_deleted_comes_back_by_undo_and_else_is_gone(run: MakeRun, context: BrowserContext) -> None:
    page = await signed_in(context, run)
    await choose(page, text_file("mistake.txt", "wanted after all"))
    await menu(page, "mistake.txt", "Delete")
    await expect(tile(page, "mistake.txt")).to_have_count(0)
    await page.get_by_role("button", name="Undo").click()
    await expect(tile(page, "mistake.txt")).to_be_visible()
    await menu(page, "mistake.txt", "Delete")
    await page.locator(".toast", has_text="mistake.txt is deleted").get_by_role("button", name="Dismiss").click()

    async def is_gone() -> bool:
        with run.client() as client:
            return client.get("/v1/media", params={"name": "mistake.txt"}).json()["data"] == []

    await eventually(is_gone)


async def test_a_token_that_ends_asks_to_sign_in_again_and_goes_on(run: MakeRun, context: BrowserContext) -> None:
    page = await signed_in(context, run, short_token(run, 15))
    again = page.get_by_role("dialog", name="Sign in again")
    await expect(again).to_be_visible()
    await choose(page, text_file("patient.txt", "it waits for the sign-in"))
    await again.get_by_label("Link or token").fill("no token")
    await again.get_by_role("button", name="Sign in").click()
    await expect(again.get_by_role("alert")).to_contain_text("neither such a link nor a token")
    await again.get_by_label("Link or token").fill(link(run))
    await again.get_by_role("button", name="Sign in").click()
    await expect(again).to_have_count(0)
    await expect(tile(page, "patient.txt")).to_be_visible()


async def test_a_link_that_was_cut_off_says_so(run: MakeRun, context: BrowserContext) -> None:
    page = await context.new_page()
    await page.goto(link(run, run.exports()["TOKEN"][:40]))
    asks = page.get_by_role("dialog", name="Sign in")
    await expect(asks.get_by_role("alert")).to_contain_text("neither such a link nor a token")
    assert "token=" not in page.url
    await asks.get_by_label("Link or token").fill(link(run))
    await asks.get_by_role("button", name="Sign in").click()
    await expect(asks).to_have_count(0)


async def test_a_link_of_somebody_else_asks_before_it_signs_in(run: MakeRun, context: BrowserContext) -> None:
    own, stranger = run.exports()["TOKEN"], short_token(run, 600, subject="mallory")
    kept = "sessionStorage.getItem('media-token')"
    page = await signed_in(context, run)
    asks = page.get_by_role("dialog", name="Sign in as mallory?")
    for elsewhere in (False, True):
        if elsewhere:
            await page.goto("about:blank")
        await page.goto(link(run, stranger))
        await expect(asks).to_contain_text("You are signed in as demo")
        assert await page.evaluate(kept) == own
        assert stranger not in page.url
        await asks.get_by_role("button", name="Stay signed in").click()
        await expect(asks).to_have_count(0)
        await page.reload()
        await expect(page.get_by_role("heading", name="All files")).to_be_visible()
        assert await page.evaluate(kept) == own
    await page.goto(link(run, again := short_token(run, 600)))
    await page.wait_for_function(f"token => {kept} === token", arg=again)
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await page.goto(link(run, stranger))
    await asks.get_by_role("button", name="Sign in as mallory").click()
    await page.wait_for_function(f"token => {kept} === token", arg=stranger)
    await expect(page.get_by_role("heading", name="All files")).to_be_visible()
    await expect(asks).to_have_count(0)


async def test_a_file_gets_a_label_and_a_room_and_a_wrong_name_is_explained(
    run: MakeRun, context: BrowserContext
) -> None:
    page = await signed_in(context, run)
    await choose(page, text_file("labelled.txt", "with a label"))
    await menu(page, "labelled.txt", "Add a label")
    field = page.get_by_label("Label", exact=True)
    await field.fill("My project")
    await page.keyboard.press("Enter")
    assert await field.evaluate("field => field.validationMessage") == (
        "Small letters from a to z, digits and . _ -, such as project."
    )
    await field.fill("project")
    await page.get_by_label("Value").fill("Küste")
    await page.keyboard.press("Enter")
    await tile(page, "labelled.txt").get_by_role("link").click()
    viewer = page.get_by_role("dialog", name="labelled.txt")
    await expect(viewer.get_by_text("project: Küste")).to_be_visible()
    await viewer.get_by_role("button", name="Remove the label project").click()
    await expect(viewer.get_by_text("project: Küste")).to_have_count(0)
    await page.get_by_role("button", name="Undo").last.click()
    await expect(viewer.get_by_text("project: Küste")).to_be_visible()
    await page.keyboard.press("Escape")
    await page.get_by_role("button", name="Open a room").click()
    field = page.get_by_label("Name of the room")
    for wrong in ("my/room", "..", "  "):
        await field.fill(wrong)
        await page.keyboard.press("Enter")
        assert "and no /" in await field.evaluate("field => field.validationMessage")
    await field.fill("Küche 2 (oben)")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Küche 2 (oben)")).to_be_visible()
    await eventually(lambda: page.evaluate("document.activeElement.id === 'content'"))


async def test_what_is_selected_goes_into_a_room_and_is_deleted_together(run: MakeRun, context: BrowserContext) -> None:
    page = await signed_in(context, run)
    names = [f"many {number}.txt" for number in range(4)]
    await choose(page, *(text_file(name, name) for name in names))
    await page.get_by_label("Search names and speech").fill("many")
    shown = page.locator(".files li")
    await expect(shown).to_have_count(4)
    for name in names:  # then the order stays
        await expect(tile(page, name)).to_have_attribute("data-status", "clean")
    await shown.nth(0).hover()
    await shown.nth(0).get_by_role("checkbox").click()
    await shown.nth(2).get_by_role("link").click(modifiers=["Shift"])
    bar = page.get_by_role("region", name="Selected files")
    await expect(bar.get_by_role("status")).to_have_text("3 selected")
    await bar.get_by_role("button", name="Add to a room").click()
    await page.get_by_label("Name of the room").fill("together")
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("3 files are in together")).to_be_visible()
    await shown.nth(2).get_by_role("link").focus()
    await page.keyboard.press("Space")
    await expect(bar.get_by_role("status")).to_have_text("2 selected")
    await bar.get_by_role("button", name="Delete").click()
    await expect(shown).to_have_count(2)
    await expect(bar).to_have_count(0)
    await eventually(lambda: page.evaluate("document.activeElement.matches('.file-open')"))
    note = page.locator(".toast", has_text="2 files are deleted")
    await note.get_by_role("button", name="Undo").click()
    await expect(shown).to_have_count(4)
    await page.keyboard.press("Tab")
    await shown.nth(0).get_by_role("link").focus()
    await page.keyboard.press("Control+a")
    await expect(bar.get_by_role("status")).to_have_text("4 selected")
    await bar.get_by_role("button", name="Delete").click()
    await page.locator(".toast", has_text="4 files are deleted").get_by_role("button", name="Dismiss").click()

    async def are_gone() -> bool:
        with run.client() as client:
            found = client.get("/v1/media", params={"owner": "all", "name": "many"}).json()["data"]
        return not found

    await eventually(are_gone)


async def test_back_does_not_open_a_file_that_was_closed(run: MakeRun, context: BrowserContext) -> None:
    page = await signed_in(context, run)
    await choose(page, text_file("back one.txt", "1"), text_file("back two.txt", "2"))
    await page.locator(".below nav").get_by_role("link", name="Jobs").click()
    await page.locator(".below nav").get_by_role("link", name="All files").click()
    for leaves in ("Escape", "reload"):
        await tile(page, "back one.txt").get_by_role("link").click()
        await expect(page.get_by_role("dialog", name="back one.txt")).to_be_visible()
        await page.locator(".turn").first.click()
        await expect(page.get_by_role("dialog", name="back one.txt")).to_have_count(0)
        if leaves == "reload":
            await page.reload()
        await expect(page.locator(".viewer h2")).not_to_be_empty()
        await page.keyboard.press("Escape")
        await expect(page.locator(".viewer")).to_have_count(0)
    await page.go_back()
    await expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()
    await expect(page.locator(".viewer")).to_have_count(0)


async def test_the_keyboard_alone_is_enough(run: MakeRun, context: BrowserContext) -> None:
    page = await signed_in(context, run)
    await choose(page, text_file("keys one.txt", "first"), text_file("keys two.txt", "second"))
    await page.keyboard.press("/")
    await page.keyboard.type("keys")
    await expect(page.locator(".files li")).to_have_count(2)
    for name in ("keys one.txt", "keys two.txt"):  # then the order stays
        await expect(tile(page, name)).to_have_attribute("data-status", "clean")
    while not await page.evaluate("document.activeElement.matches('.file-open')"):
        await page.keyboard.press("Tab")
    first = await page.evaluate("document.activeElement.textContent")
    await page.keyboard.press("ArrowRight")
    second = await page.evaluate("document.activeElement.textContent")
    assert {first, second} == {"keys one.txt", "keys two.txt"}
    await page.keyboard.press("Enter")
    viewer = page.get_by_role("dialog", name=second)
    await expect(viewer.get_by_test_id("text")).to_have_text("first" if "one" in second else "second")
    await page.keyboard.press("ArrowLeft")
    await expect(page.get_by_role("dialog", name=first)).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await eventually(lambda: page.evaluate("document.activeElement.matches('.file-open')"))
    await page.keyboard.press("m")
    await expect(page.get_by_role("menuitem", name="Open")).to_be_focused()
    await page.keyboard.press("ArrowDown")
    await expect(page.get_by_role("menuitem", name="Download")).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("menu")).to_have_count(0)
    assert await page.evaluate("document.activeElement.matches('.file-menu')")


async def test_keys_change_no_file_of_others(run: MakeRun, context: BrowserContext) -> None:
    with run.client() as client:
        form = {"room_id": "lobby"}
        client.post("/v1/media/upload", files={"file": ("of demo.txt", b"demo's own")}, data=form).raise_for_status()
    signing = tokens.load_signing_keys(run.folder / "acme" / "signing-keys.json")[0]
    scopes = ["media:read", "media:write"]
    guest = tokens.mint(
        signing, tenant_id="acme", subject="guest", scopes=scopes, rooms=["lobby"], lifetime=timedelta(hours=1)
    )
    page = await context.new_page()
    await page.goto(link(run, guest))
    await page.get_by_role("link", name="lobby").click()
    shown = tile(page, "of demo.txt").get_by_role("link")
    await shown.focus()
    for where in ("list", "viewer"):
        for key in ("F2", "Delete"):
            await page.keyboard.press(key)
            await page.evaluate("() => new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
            assert await page.locator("dialog[open], .toast").count() == 0, (where, key)
        if where == "list":
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("dialog", name="of demo.txt")).to_be_visible()


async def test_a_link_for_five_minutes_reads_the_file_without_a_token(run: MakeRun, context: BrowserContext) -> None:
    page = await signed_in(context, run)
    await choose(page, text_file("linked.txt", "by its link"))
    await expect(tile(page, "linked.txt")).to_have_attribute("data-status", "clean")
    await menu(page, "linked.txt", "Link for five minutes")
    address = page.get_by_label("Link", exact=True)
    await expect(address).to_have_value(re.compile("^http"))
    async with httpx.AsyncClient(timeout=120) as anybody:
        assert (await anybody.get(await address.input_value())).text == "by its link"
    await page.keyboard.press("Escape")
    async with page.expect_download() as started:
        await menu(page, "linked.txt", "Download")
    download = await started.value
    assert (download.suggested_filename, (await download.path()).read_text()) == ("linked.txt", "by its link")


async def test_camera_and_microphone_upload_what_they_take(run: MakeRun, context: BrowserContext) -> None:
    await context.grant_permissions(["camera", "microphone"])
    page = await signed_in(context, run)
    await page.get_by_role("button", name="Camera or microphone").click()
    await page.get_by_role("button", name="Take a photo").click()
    await expect(page.locator(".files li", has_text=re.compile(r"Photo .*\.jpg"))).to_be_visible()
    await page.get_by_role("button", name="Camera or microphone").click()
    await page.get_by_role("button", name="Microphone", exact=True).click()
    await page.get_by_role("button", name="Record sound").click()
    await expect(page.get_by_role("status").filter(has_text="Recording, 0:02")).to_be_visible()
    await page.get_by_role("button", name="Stop and upload").click()
    await expect(page.locator(".files li", has_text=re.compile(r"Recording .*\.webm"))).to_be_visible()


async def test_the_page_speaks_german(run: MakeRun, browser: Browser) -> None:
    async with profile(browser, locale="de-DE") as context:
        page = await context.new_page()
        await page.goto(link(run))
        await expect(page.get_by_role("heading", name="Alle Dateien")).to_be_visible()
        assert await page.evaluate("document.documentElement.lang") == "de"
