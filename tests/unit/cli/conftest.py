"""These tests make once what every call of mediactl makes anew. That halves their time."""

import functools
from collections.abc import Iterator

import httpx
import pytest
import typer


@pytest.fixture(scope="package", autouse=True)
def made_once() -> Iterator[None]:
    """The tree of commands and the list of certificate authorities are made once. No test uses an authority."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.testing._get_command", functools.cache(typer.main.get_command))
        patch.setattr("httpx._transports.default.create_ssl_context", functools.cache(httpx.create_ssl_context))
        yield
