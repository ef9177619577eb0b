"""PostgreSQL fails over under a running api: writes are refused and not lost, and the api needs no restart."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from sqlalchemy import make_url

from media_core.database import Database
from media_core.errors import Unavailable
from media_operator.local.postgres import EmbeddedPostgres
from tests.integration.servers.api import Api, eventually, new_tenant, problem, serving, upload
from tests.integration.servers.failing_over import (
    Name,
    caught_up,
    demote,
    kill,
    name,
    promote,
    restore,
    server_that_may_fail,
)
from tests.stopwatch import Stopwatch

PATIENT = 12.0
"""Seconds after the start of the new primary within which all requests succeed again."""


@pytest.fixture
def primary() -> Iterator[EmbeddedPostgres]:
    with server_that_may_fail() as server:
        yield server


@pytest.fixture
def standby(primary: EmbeddedPostgres) -> Iterator[EmbeddedPostgres]:
    with server_that_may_fail(like=primary) as server:
        yield server


@pytest.fixture
async def service(primary: EmbeddedPostgres) -> AsyncIterator[Name]:
    """A name that leads to the primary."""
    async with name() as one:
        one.lead_to(primary)
        yield one


@pytest.fixture
def tenant_of_primary(primary: EmbeddedPostgres) -> Iterator[str]:
    with new_tenant(primary) as tenant:
        yield tenant.url


async def ready(api: Api) -> int:
    async with httpx.AsyncClient(base_url=api.base, timeout=120) as client:
        return (await client.get("/readyz")).status_code


async def until(api: Api, status: int) -> None:
    waiting = Stopwatch()
    async with asyncio.timeout(120):
        while await ready(api) != status:
            pass
    assert waiting.seconds() < PATIENT


async def sent(client: httpx.AsyncClient, data: bytes) -> httpx.Response:
    return await client.post("/v1/media/upload", files={"file": ("a.bin", data)})


@asynccontextmanager
async def under_writes(api: Api) -> AsyncIterator[list[int]]:
    """Uploads one file after the other during the block. Yields the list of their statuses."""
    statuses: list[int] = []
    over = asyncio.Event()

    async def write() -> None:
        async with api.client() as client:
            while not over.is_set():
                statuses.append((await sent(client, b"%d" % time.monotonic_ns())).status_code)

    writing = asyncio.create_task(write())
    try:
        yield statuses
    finally:
        over.set()
        await writing


def refused(answer: httpx.Response) -> None:
    body = problem(answer, 503, "unavailable")
    assert (body["dependency"], answer.headers["retry-after"]) == ("database", "5")


async def test_a_primary_that_was_fenced_refuses_writes_until_its_name_leads_to_the_new_one(
    primary: EmbeddedPostgres, standby: EmbeddedPostgres, service: Name, tmp_path: Path
) -> None:
    async with serving(primary, tmp_path, through=service.url) as api, api.client() as client:
        kept = await upload(client, b"before")
        media = f"/v1/media/{kept['media_id']}"
        await demote(primary)
        refused(await sent(client, b"during"))
        refused(await client.delete(media))
        assert (await client.get(f"{media}/info")).status_code == 200  # reads still succeed
        assert await ready(api) == 503
        await caught_up(primary, standby)
        await promote(standby)
        assert await ready(api) == 503  # its name still leads to the old one
        service.lead_to(standby)
        await until(api, 200)
        assert (await sent(client, b"during")).status_code == 201
        assert (await client.delete(media)).status_code == 204
        await restore(primary)


async def test_a_write_finds_the_new_primary_also_where_nobody_asks_for_readiness(
    primary: EmbeddedPostgres, standby: EmbeddedPostgres, service: Name, tmp_path: Path
) -> None:
    async with serving(primary, tmp_path, through=service.url) as api, under_writes(api) as statuses:
        await eventually(lambda: _is(statuses, 201))
        await demote(primary)
        await eventually(lambda: _is(statuses, 503))
        await caught_up(primary, standby)
        await promote(standby)
        service.lead_to(standby)
        promoted = Stopwatch()
        await eventually(lambda: _is(statuses, 201))
        assert promoted.seconds() < PATIENT
        await restore(primary)
    assert set(statuses) == {201, 503}


async def test_with_all_hosts_in_the_url_the_one_that_takes_writes_is_found(
    primary: EmbeddedPostgres, standby: EmbeddedPostgres, tmp_path: Path
) -> None:
    def both(url: str) -> str:
        one = make_url(url)
        hosts = ",".join(quote(str(server.socket_folder)) for server in (standby, primary))
        credentials = f"{one.username}:{one.password}"
        return f"{one.drivername}://{credentials}@/postgres?host={hosts}&port=5432,5432&target_session_attrs=read-write"

    async with serving(primary, tmp_path, through=both) as api, under_writes(api) as statuses:
        await eventually(lambda: _is(statuses, 201))
        await caught_up(primary, standby)
        kill(primary)
        await eventually(lambda: _is(statuses, 503))
        assert await ready(api) == 503  # the standby is there, and takes no writes
        await promote(standby)
        promoted = Stopwatch()
        await eventually(lambda: _is(statuses, 201))
        assert promoted.seconds() < PATIENT
        assert await ready(api) == 200
        primary.start()
    assert set(statuses) == {201, 503}


async def test_a_server_that_takes_writes_again_is_used_again(primary: EmbeddedPostgres, tmp_path: Path) -> None:
    async with serving(primary, tmp_path) as api, api.client() as client:
        for _ in range(2):
            await demote(primary)
            refused(await sent(client, b"x"))
            assert await ready(api) == 503
            await restore(primary)
            await until(api, 200)
            assert (await sent(client, b"x")).status_code == 201


async def test_a_restarted_server_costs_no_request_even_right_after(primary: EmbeddedPostgres, tmp_path: Path) -> None:
    """The pool notices that its connections have ended before it lends them."""
    async with serving(primary, tmp_path) as api, api.client() as client:
        await asyncio.gather(*(upload(client, b"%d" % number) for number in range(8)))
        kill(primary)
        primary.start()
        await asyncio.gather(*(upload(client, b"again %d" % number) for number in range(8)))


async def test_a_transaction_and_a_call_say_the_same_of_a_server_that_only_reads(
    primary: EmbeddedPostgres, tenant_of_primary: str
) -> None:
    database = Database(tenant_of_primary, pool_size=2)
    await demote(primary)

    async def in_a_transaction() -> None:
        async with database.transaction() as tx:
            await tx.execute("DELETE FROM idempotency")

    async def in_a_statement() -> None:
        async with database.transaction() as tx:
            await tx.execute("DELETE FROM idempotency")

    async def in_a_call() -> None:
        await database.call("DELETE FROM idempotency", ())

    for write in (in_a_transaction, in_a_statement, in_a_call, database.probe):
        with pytest.raises(Unavailable, match="takes no writes"):
            await write()
    assert await database.call("SELECT count(*) AS n FROM idempotency", ()) == [(0,)]
    await restore(primary)
    await asyncio.sleep(1.1)  # by definition: younger connections are kept
    for write in (in_a_transaction, in_a_statement, in_a_call):
        try:
            await write()
        except Unavailable:
            await write()
    await database.probe()
    await database.aclose()


async def test_a_server_that_vanished_makes_the_api_unready_in_time_and_not_for_long(
    primary: EmbeddedPostgres, service: Name, tmp_path: Path
) -> None:
    async with serving(primary, tmp_path, through=service.url) as api, api.client() as client:
        await upload(client, b"before")
        service.silent = True
        answered = 200
        while answered == 200:
            began = Stopwatch()
            answered = await ready(api)
        assert answered == 503
        assert began.seconds() < 6.5  # Kubernetes waits for 6
        service.silent = False
        service.cut()
        await until(api, 200)
        await upload(client, b"after")


async def _is(statuses: list[Any], wanted: int) -> bool:
    return bool(statuses) and statuses[-1] == wanted
