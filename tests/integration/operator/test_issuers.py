"""The operator asks a tenant's issuer for one small document, with limits on time and memory, and trusts it no more
than the tenant itself."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from media_operator.backends import issuers
from media_operator.plan.steps import StepFailed
from media_operator.tenant.spec import Oidc

KEYS = "https://login.example/keys"
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def issuer(answer: Answer, status: str = "200 OK", host: str = "127.0.0.1") -> AsyncIterator[Oidc]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(f"HTTP/1.1 {status}\r\n".encode())
            writer.write(b"Content-Type: application/json\r\nConnection: close\r\n\r\n")
            await answer(writer)
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield Oidc.model_validate({"issuer": f"http://{host}:{port}"})


def saying(document: object) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(document if isinstance(document, bytes) else json.dumps(document).encode())

    return answer


async def test_an_issuer_names_its_keys() -> None:
    async with issuer(saying({"jwks_uri": KEYS})) as oidc:
        assert await issuers.jwks_uri(oidc, local=True) == KEYS


async def test_keys_that_are_declared_need_no_issuer() -> None:
    oidc = Oidc.model_validate({"issuer": "https://no.example", "jwksUri": KEYS})
    assert await issuers.jwks_uri(oidc) == KEYS


# --- what it may send -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "named",
    [
        *("https://login.example:99999/k", "http://login.example/keys", "http://169.254.169.254/latest", "file:///etc"),
        *("https://[1:2]/k", "https://a/" + "k" * 512, "https://a/\ud800", "", None, 7, ["https://login.example"]),
    ],
)
async def test_keys_that_no_manifest_could_declare_are_refused_from_the_issuer_too(named: object) -> None:
    async with issuer(saying({"jwks_uri": named})) as oidc:
        with pytest.raises(StepFailed, match=r"jwks_uri .* must be an https URL without query") as failed:
            await issuers.jwks_uri(oidc, local=True)
    assert "latest" not in str(failed.value)  # what it says is not shown


@pytest.mark.parametrize(
    "document", [b"", b"[", b"[" * 60_000, b"\xff", b"{}", b"[1]", b"null", b'"jwks_uri"', b"9" * 5000]
)
async def test_whatever_is_no_such_document_is_said_in_a_sentence(document: bytes) -> None:
    async with issuer(saying(document)) as oidc:
        with pytest.raises(StepFailed, match=r"does not say where the keys are \(.*\): set spec.auth.oidc.jwksUri"):
            await issuers.jwks_uri(oidc, local=True)


@pytest.mark.parametrize("status", ["404 Not Found", "500 Oops"])
async def test_an_issuer_that_refuses_is_quoted_with_its_status(status: str) -> None:
    async with issuer(saying({"jwks_uri": KEYS}), status) as oidc:
        with pytest.raises(StepFailed, match=f"does not say where the keys are .{status[:3]}"):
            await issuers.jwks_uri(oidc, local=True)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
async def test_no_redirect_is_followed(status: str) -> None:
    async with issuer(saying({"jwks_uri": KEYS})) as elsewhere:
        with_location = f"{status}\r\nLocation: {elsewhere.issuer}/.well-known/openid-configuration"
        async with issuer(saying({"jwks_uri": KEYS}), with_location) as oidc:
            with pytest.raises(StepFailed, match=r"a redirect, which is not followed: set spec\.auth\.oidc\.jwksUri"):
                await issuers.jwks_uri(oidc, local=True)


# --- where it may be --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_cluster_asks_nobody_on_the_operators_own_machine(host: str) -> None:
    asked = False

    async def answer(writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked = True

    async with issuer(answer, host=host) as oidc:
        with pytest.raises(StepFailed, match="loopback"):
            await issuers.jwks_uri(oidc)
    assert not asked


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.9.9.9", "169.254.169.254", "0.0.0.0", "224.0.0.1", "0x7f000001"),  # noqa: S104
        *("[::1]", "[::]", "[fe80::1]", "[ff02::1]", "[::ffff:7f00:1]", "[::ffff:a9fe:a9fe]"),
    ],
)
async def test_a_cluster_connects_to_no_such_address_however_it_is_written(host: str) -> None:
    with pytest.raises(StepFailed, match="loopback"):
        await issuers.jwks_uri(Oidc.model_validate({"issuer": f"https://{host}"}))


async def test_a_name_is_judged_by_where_it_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        addresses = ("169.254.169.254", "127.0.0.1")
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (each, port)) for each in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(StepFailed, match="loopback"):
        await issuers.jwks_uri(Oidc.model_validate({"issuer": "https://login.example"}))


@pytest.mark.parametrize("address", ["10.0.0.7", "172.16.0.1", "192.168.1.1", "93.184.215.14", "fd00::1", "2a00::1"])
def test_an_issuer_in_a_companys_network_is_asked(address: str) -> None:
    assert issuers.may_be_asked(address)


@pytest.mark.parametrize("host", ["a..b", "-.-", ".", "2130706433", "a" * 70, "no-such-issuer.invalid"])
async def test_a_name_that_is_none_is_said_in_a_sentence(host: str) -> None:
    with pytest.raises(StepFailed, match="does not say where the keys are"):
        await issuers.jwks_uri(Oidc.model_validate({"issuer": f"https://{host}"}))


# --- what it may cost -------------------------------------------------------------------------------------------------


async def test_an_endless_document_is_given_up_early() -> None:
    sent = 0

    async def answer(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while True:
            writer.write(b" " * 65536)
            await writer.drain()
            sent += 65536

    async with issuer(answer) as oidc:
        with pytest.raises(StepFailed, match="does not say where the keys are"):
            await issuers.jwks_uri(oidc, local=True)
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
            await issuers.jwks_uri(oidc, local=True)
