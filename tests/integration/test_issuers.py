"""Whom a tenant names as its issuer is asked for one small document, and takes little time and memory for it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from media_core.spec import Oidc
from media_operator import issuers
from media_operator.reconcile import StepFailed

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def issuer(answer: Answer) -> AsyncIterator[Oidc]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n")
            await answer(writer)
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield Oidc.model_validate({"issuer": f"http://127.0.0.1:{port}"})


async def test_an_issuer_names_its_keys() -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(json.dumps({"jwks_uri": "https://login.example/keys"}).encode())

    async with issuer(answer) as oidc:
        assert await issuers.key_source(oidc) == "https://login.example/keys"


async def test_an_endless_document_is_given_up_early() -> None:
    sent = 0

    async def answer(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while True:
            writer.write(b" " * 65536)
            await writer.drain()
            sent += 65536

    async with issuer(answer) as oidc:
        with pytest.raises(StepFailed, match="does not name the keys"):
            await issuers.key_source(oidc)
    assert sent < 16 << 20  # what fits the sockets' buffers


async def test_an_issuer_that_drips_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(issuers, "SECONDS", 0.5)

    async def answer(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with issuer(answer) as oidc:
        with pytest.raises(StepFailed, match="TimeoutError"):
            await issuers.key_source(oidc)
