"""The page of files on a cluster: from the api's image, through the tenant's Service, in a real Chromium."""

import pytest
from playwright.async_api import expect

from tests.browser.chromium import PATIENCE, chromium, opened
from tests.cluster.installation import Installation
from tests.cluster.namespace import Namespace
from tests.cluster.with_pods.test_changes_under_load import declare, id_of
from tests.fixtures import media

pytestmark = pytest.mark.node


async def test_a_photo_given_to_the_page_becomes_clean_and_shows_its_thumbnail(
    platform: Installation, team: Namespace
) -> None:
    declare(team, api={"page": True})
    team.wait("mediatenant/acme", "condition=Ready", seconds=180)
    id_ = id_of(team)
    with team.forwarded(f"mt-{id_}") as base:
        async with chromium() as browser, opened(browser, f"{base}/#token={team.token(id_)}") as page:
            photo = {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": media.photo(640, 480)}
            await page.get_by_test_id("files").set_input_files(photo)  # type: ignore[arg-type]
            tile = page.locator(".files li", has=page.get_by_text("photo.jpg", exact=True))
            await expect(tile).to_have_attribute("data-status", "clean", timeout=PATIENCE)
            await expect(tile.locator("img")).to_be_visible(timeout=PATIENCE)
            shown = "tile => tile.querySelector('img')?.naturalWidth > 0"
            await page.wait_for_function(f"({shown})(document.querySelector('.files li'))", timeout=PATIENCE)
