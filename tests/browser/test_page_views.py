"""Every view of the page: for everybody (axe, narrow and wide screens, right to left), with 10,000 files, and drawn.

`MEDIA_SCREENSHOTS=docs/screenshots` writes a picture of each view there.
"""

import asyncio
import io
import json
import os
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from page.build import DIST, BuildFailed, build, packages
from PIL import Image, ImageDraw, ImageFilter
from playwright.async_api import Browser, Page, expect

from media_api.settings import PageSettings
from media_core.auth.tokens import ALL
from media_core.jobs.queue import Queue
from media_core.transcripts import formats
from media_operator.local.postgres import EmbeddedPostgres
from tests.browser.chromium import CLIENTS, PATIENCE, STOPS_AT_ONCE, missing
from tests.integration.servers.api import USER, Api, serving, upload

SPEECH = Path(__file__).parents[1] / "fixtures" / "whisper-tiny-words" / "samples" / "two_phrases_en.wav"
SHOTS = os.environ.get("MEDIA_SCREENSHOTS")
MOST_BYTES = 150_000
"""Of one screenshot."""
AXE = "() => axe.run({resultTypes: ['violations'], selectors: false}).then(result => result.violations)"
"""All rules, and details only of what breaks one: those of the others take half of the time."""
MANY = 10_000
MOST_DRAWN = 400
"""Elements of files in the document, however many files there are and however large the screen."""
MOST_MILLISECONDS = 1500
"""Median of the time between two frames while one scrolls: sixteen where a graphics card draws, alone."""
SEGMENTS: list[dict[str, Any]] = [
    {"id": 0, "start": 0.0, "end": 1.4, "text": "and the today clean five"},
    {"id": 1, "start": 2.0, "end": 3.2, "text": "blue thank you please"},
]
SCREENS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light", "locale": "en-GB"},
    "dark": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark", "locale": "de-DE"},
    "narrow": {"viewport": {"width": 320, "height": 640}, "color_scheme": "light", "locale": "de-DE"},
    "rtl": {"viewport": {"width": 900, "height": 700}, "color_scheme": "dark", "locale": "en-GB"},
    "4k": {"viewport": {"width": 3840, "height": 2160}, "color_scheme": "light", "locale": "en-GB"},
}

expect.set_options(timeout=PATIENCE)


def picture(number: int, width: int, height: int) -> bytes:
    """Hills in the evening, another one by each number."""
    sky = Image.linear_gradient("L").resize((width, height))
    colours = [((38, 70, 120), (250, 190, 130)), ((90, 150, 210), (230, 240, 250)), ((30, 26, 70), (240, 120, 90))]
    top, bottom = colours[number % len(colours)]
    image = Image.composite(Image.new("RGB", sky.size, bottom), Image.new("RGB", sky.size, top), sky)
    draw = ImageDraw.Draw(image)
    x, y = width * (0.2 + 0.17 * (number % 4)), height * 0.22
    draw.ellipse([x, y, x + height / 9, y + height / 9], fill=(255, 238, 205))
    for ridge in range(4):
        base = height * (0.5 + 0.13 * ridge)
        peaks = [
            (step * width / 8, base - height * 0.02 * ((step * 7 + number * 3 + ridge * 5) % 9)) for step in range(9)
        ]
        shade = tuple(int(value * (0.9 - 0.2 * ridge)) for value in (70 + number * 9 % 40, 105, 100))
        draw.polygon([(0, height), *peaks, (width, height)], fill=shade)
    out = io.BytesIO()
    image.filter(ImageFilter.GaussianBlur(width / 900)).save(out, "JPEG", quality=88)
    return out.getvalue()


@pytest.fixture(scope="module")
async def api(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    try:
        build()
    except BuildFailed as error:
        missing(f"the page can't be built here: {str(error).splitlines()[0]}")
    page = PageSettings(page=True, page_folder=DIST)
    async with serving(postgres, tmp_path_factory.mktemp("api"), page=page) as one:
        yield one


@pytest.fixture(scope="module")
async def files(api: Api) -> dict[str, str]:
    """Names and ids of some files as people have them, two of them with no verdict or a bad one."""
    found: dict[str, str] = {}
    sizes = [(1600, 1067), (1067, 1600), (2000, 800), (1200, 1200)]
    async with api.client(rooms=ALL) as client:

        async def put(name: str, data: bytes, verdict: str | None = "clean", room: str | None = "lobby") -> None:
            stored = await upload(client, data, name, **({"room_id": room} if room else {}))
            found[name] = stored["media_id"]
            if verdict is not None:
                await api.verdict(stored["sha256"], verdict)

        for number, name in enumerate(
            ("Abend am See", "Morning hike", "IMG_4031", "Küste bei Nacht", "Panorama", "تل")
        ):
            await put(f"{name}.jpg", picture(number, *sizes[number % 4]), room="lobby" if number % 2 else "team")
        await put("Minutes of the meeting.md", b"# Minutes\n\n- The page shows files.\n- It is calm.\n" * 9)
        await put(
            "a very long name that somebody gave to a file, with words to its very end (3).csv", b"a,b\n1,2\n" * 99
        )
        await put("encrypted.zip", b"PK\x05\x06" + b"\0" * 18, "unscannable", None)
        await put("meeting.wav", SPEECH.read_bytes())
        answer = await client.post("/v1/transcribe", files={"media_id": (None, found["meeting.wav"])})
        lease = await api.lease(answer.json()["data"]["job_id"])
        heard = formats.result([dict(segment) for segment in SEGMENTS], "en", 3.9)
        await Queue(api.database).finish(lease, heard)
        await put("just uploaded.png", picture(8, 900, 600), None)
    # On a busy machine some pictures are left to a worker, and none runs here.
    small = io.BytesIO()
    Image.new("RGB", (64, 48)).save(small, "WEBP")
    for (sha256,) in await api.database.call("SELECT sha256 FROM blob WHERE thumbnail_status = 'pending'", ()):
        await api.thumbnail(sha256, small.getvalue())
    return found


@pytest.fixture
async def page(browser: Browser, screen: str) -> AsyncIterator[Page]:
    context = await browser.new_context(**SCREENS[screen], reduced_motion="reduce")
    context.set_default_timeout(PATIENCE)
    yield await context.new_page()
    await context.close()


async def open_anew(page: Page, api: Api, screen: str) -> None:
    """As somebody who comes for the first time."""
    if page.url != "about:blank":
        await page.evaluate("localStorage.clear(); sessionStorage.clear()")
        await page.goto("about:blank")
    await page.goto(f"{api.base}/#token={api.token(scopes=USER, rooms=['lobby', 'team'])}")
    await expect(page.locator("main h2")).to_be_visible()
    if screen == "rtl":
        await page.evaluate("document.documentElement.dir = 'rtl'")
    await page.evaluate("location.hash = '#/'")


async def thumbnails(page: Page) -> None:
    """Waits for all in sight that can be had: nobody reads a file without its verdict here."""
    await expect(page.locator(".files li").first).to_be_visible()
    await page.wait_for_function(
        "() => [...document.querySelectorAll('li[data-status=clean] .thumb.image')]"
        ".every(one => 'loaded' in one.dataset)"
    )


View = Callable[[Page, dict[str, str]], Awaitable[None]]


async def grid(page: Page, _: dict[str, str]) -> None:
    await thumbnails(page)


async def table(page: Page, _: dict[str, str]) -> None:
    await page.locator(".tools .segments button").nth(1).click()
    await expect(page.locator(".files .row").first).to_be_visible()
    await thumbnails(page)


async def looked_at(page: Page, files: dict[str, str]) -> None:
    await page.evaluate("id => { location.hash = `#/files/${id}` }", files["Panorama.jpg"])
    await page.wait_for_function("() => document.querySelector('[data-testid=full]')?.complete")


async def heard(page: Page, files: dict[str, str]) -> None:
    await page.evaluate(STOPS_AT_ONCE)
    await page.evaluate("id => { location.hash = `#/files/${id}?at=2.2` }", files["meeting.wav"])
    await expect(page.get_by_test_id("caption")).to_have_text("blue thank you please")


async def read(page: Page, files: dict[str, str]) -> None:
    await page.evaluate("id => { location.hash = `#/files/${id}` }", files["Minutes of the meeting.md"])
    await expect(page.get_by_test_id("text")).to_be_visible()


async def unscannable(page: Page, files: dict[str, str]) -> None:
    await page.evaluate("id => { location.hash = `#/files/${id}` }", files["encrypted.zip"])
    await expect(page.locator(".no-preview")).to_be_visible()


async def room(page: Page, _: dict[str, str]) -> None:
    await page.evaluate("location.hash = '#/rooms/lobby'")
    await expect(page.locator("main h2")).to_have_text("lobby")
    await thumbnails(page)


async def jobs(page: Page, _: dict[str, str]) -> None:
    await page.evaluate("location.hash = '#/jobs'")
    await expect(page.locator(".job")).to_have_count(1)


async def nothing(page: Page, _: dict[str, str]) -> None:
    await page.locator("#search").fill("nobody has this")
    await expect(page.locator(".empty")).to_be_visible()


async def menu(page: Page, _: dict[str, str]) -> None:
    await thumbnails(page)
    await page.locator(".file-menu").first.click()
    await expect(page.get_by_role("menu")).to_be_visible()


async def dialog(page: Page, _: dict[str, str]) -> None:
    await page.keyboard.press("?")
    await expect(page.locator("dialog[open]")).to_be_visible()


async def sending(page: Page, _: dict[str, str]) -> None:
    chosen = {"name": "new.txt", "mimeType": "text/plain", "buffer": b"new"}
    await page.get_by_test_id("files").set_input_files([chosen])  # type: ignore[list-item]
    await expect(page.locator(".upload.done")).to_be_visible()


async def signing_in(page: Page, _: dict[str, str]) -> None:
    await page.evaluate("sessionStorage.clear()")
    await page.goto(page.url.split("#", maxsplit=1)[0] + "#/")
    await page.reload()
    await expect(page.locator("dialog[open]")).to_be_visible()


VIEWS: dict[str, View] = {
    "grid": grid,
    "menu": menu,
    "keys": dialog,
    "picture": looked_at,
    "recording": heard,
    "text": read,
    "unscannable": unscannable,
    "room": room,
    "jobs": jobs,
    "nothing": nothing,
    "list": table,
    "uploads": sending,
    "sign-in": signing_in,
}
OPENED_ANEW = ("grid", "list", "uploads")
"""Views that what stands before them would change. To load the page takes longer than most views."""


@pytest.fixture(scope="module")
def axe() -> str:
    try:
        return (packages(CLIENTS) / "axe-core" / "axe.min.js").read_text()
    except BuildFailed as error:
        missing(f"axe can't be had here: {str(error).splitlines()[0]}")
        raise


@pytest.mark.parametrize("screen", SCREENS)
async def test_axe_finds_nothing_in_any_view_and_nothing_is_wider_than_the_screen(
    api: Api, files: dict[str, str], page: Page, axe: str, screen: str
) -> None:
    for name, view in VIEWS.items():
        if name in OPENED_ANEW:
            await open_anew(page, api, screen)
        else:
            await page.keyboard.press("Escape")
            await page.evaluate("location.hash = '#/'")
        await view(page, files)
        if not await page.evaluate("'axe' in window"):
            await page.evaluate(axe)
        problems = await page.evaluate(AXE)
        assert not problems, f"{name}: {described(problems)}"
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        if SHOTS and screen in ("light", "dark", "narrow"):
            shot(await page.screenshot(), Path(SHOTS) / f"{name}-{screen}.webp")


def described(problems: list[dict[str, Any]]) -> str:
    return json.dumps(
        [(each["id"], [(node["html"][:160], node["failureSummary"]) for node in each["nodes"]]) for each in problems],
        indent=1,
    )


def shot(png: bytes, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.open(io.BytesIO(png)).convert("RGB")
    for quality in (88, 75, 60, 45):
        image.save(path, "WEBP", quality=quality, method=6)
        if path.stat().st_size <= MOST_BYTES:
            return


async def test_letters_of_twice_the_size_cut_and_cover_nothing(
    api: Api, files: dict[str, str], browser: Browser
) -> None:
    context = await browser.new_context(**SCREENS["light"], reduced_motion="reduce")
    context.set_default_timeout(PATIENCE)
    page = await context.new_page()
    letters = await context.new_cdp_session(page)
    await letters.send("Page.setFontSizes", {"fontSizes": {"standard": 32, "fixed": 26}})
    await open_anew(page, api, "light")
    cut = """selector => [...document.querySelectorAll(selector)].filter(one =>
      one.scrollWidth > one.clientWidth + 1 || one.scrollHeight > one.clientHeight + 1).map(one => one.textContent)"""
    await grid(page, files)
    assert await page.evaluate("parseFloat(getComputedStyle(document.documentElement).fontSize)") > 28
    assert await page.evaluate(cut, ".tile-said") == []
    await table(page, files)
    assert await page.evaluate(cut, ".row > .end, .row .verdict") == []
    await page.locator(".file-menu").first.click()
    assert await page.evaluate(cut, ".menu button") == []
    await page.keyboard.press("Escape")
    await heard(page, files)
    time, said = (page.locator(".segment > span").nth(at) for at in (0, 1))
    boxes = [await each.bounding_box() for each in (time, said)]
    assert boxes[0] is not None
    assert boxes[1] is not None
    assert boxes[0]["x"] + await time.evaluate("time => time.scrollWidth") <= boxes[1]["x"]
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await context.close()


SCROLLED = """async () => {
  const box = document.querySelector('[data-testid=files-box]')
  const frames = []
  let [most, last] = [0, performance.now()]
  while (frames.length < 120) {
    await new Promise(requestAnimationFrame)
    const now = performance.now()
    frames.push(now - last)
    last = now
    box.scrollTop += 300
    most = Math.max(most, box.querySelectorAll('li').length)
  }
  return {frames, most, top: box.scrollTop}
}"""


async def test_ten_thousand_files_scroll_with_few_of_them_in_the_document(
    api: Api, browser: Browser, record_property: Callable[[str, object], None]
) -> None:
    async with api.tenant.as_owner() as tx:
        await tx.execute(
            "INSERT INTO blob (sha256, size, mime_type, scan_status, thumbnail_status, thumbnail_size, created_at)"
            " VALUES (repeat('ab', 32), 5, 'text/plain', 'clean', 'none', 0, now())"
        )
        await tx.execute(
            "INSERT INTO media (media_id, sha256, filename, claimed_type, uploaded_by, tenant_scope, created_at,"
            " content_size, category, folded) SELECT 'med-' || lpad(n::text, 26, '0'), repeat('ab', 32),"
            " n || '.txt', 'text/plain', 'many', false, now() - n * interval '1 second', 5, 'document',"
            " n || '.txt' FROM generate_series(1, %(many)s) AS n",
            {"many": MANY},
        )
    context = await browser.new_context(**SCREENS["light"])
    context.set_default_timeout(PATIENCE)
    page = await context.new_page()
    await page.goto(f"{api.base}/#token={api.token('many', scopes=USER, rooms=())}")
    await expect(page.locator(".files li").first).to_be_visible()
    box = page.get_by_test_id("files-box")
    async with asyncio.timeout(PATIENCE / 1000):
        while await page.locator(".toolbar [role=status]").inner_text() != f"{MANY:,} files":
            await box.evaluate("box => { box.scrollTop = box.scrollHeight }")  # to the end of what has come
            await page.wait_for_timeout(50)
    await expect(page.locator(".toolbar [role=status]")).to_have_text(f"{MANY:,} files")
    await box.evaluate("box => { box.scrollTop = box.scrollHeight }")  # the last ones came behind the last scroll
    await expect(page.get_by_text(f"{MANY}.txt", exact=True)).to_be_visible()
    await box.evaluate("box => { box.scrollTop = 0 }")
    scrolled = await page.evaluate(SCROLLED)
    assert scrolled["top"] > 20_000
    assert scrolled["most"] < MOST_DRAWN
    median = statistics.median(scrolled["frames"])
    record_property("median_milliseconds_between_frames", median)
    print(f"{MANY} files: {median:.0f} ms between two frames, {scrolled['most']} files drawn at most")
    assert median < MOST_MILLISECONDS
    await context.close()


def test_the_script_of_packages_that_were_installed_without_it_runs_once(tmp_path: Path) -> None:
    """The tests of views and those of clients share the packages, and either may come first."""
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "package.json").write_text('{"name": "one", "version": "1.0.0"}')
    count = "require('fs').appendFileSync('node_modules/.ran', 'x')"
    wanted = {"dependencies": {"one": "file:one"}}
    (tmp_path / "package.json").write_text(json.dumps({**wanted, "scripts": {"count": f'node -e "{count}"'}}))
    locked = {"": wanted, "node_modules/one": {"resolved": "one", "link": True}, "one": {"version": "1.0.0"}}
    (tmp_path / "package-lock.json").write_text(json.dumps({"lockfileVersion": 3, "packages": locked}))
    try:
        packages(tmp_path)
    except BuildFailed as error:
        missing(f"there is no npm here: {str(error).splitlines()[0]}")
    for _ in range(2):
        assert (packages(tmp_path, "count") / ".ran").read_text() == "x"
