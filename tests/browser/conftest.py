"""Fixtures of the tests in a browser: one Chromium and one web app a session, beside those of the integration tier."""

from collections.abc import AsyncIterator, Iterator

import pytest
from playwright.async_api import Browser

from tests.browser.chromium import WebApp, chromium, clients, web_app
from tests.integration.conftest import postgres  # noqa: F401  (a fixture)


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as one:
        yield one


@pytest.fixture(scope="session")
def app() -> Iterator[WebApp]:
    with web_app(clients()) as one:
        yield one
