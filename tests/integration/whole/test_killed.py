"""kill -9 at every step of an upload, a deletion, a verdict and a sweep: of the process, of PostgreSQL, of the store.

Afterwards all that was acknowledged is there with its bytes, nothing else is charged, and a sweep leaves nothing over.
"""

import asyncio
import hashlib
import json
import secrets
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from media_core.database import Database
from media_core.errors import Unavailable
from media_core.examination.examination import Examination
from media_core.items.library import Library
from media_core.policy import PolicyReader
from media_core.store import FolderStore, ObjectStore, S3Store
from media_core.store.object_keys import content_key
from media_core.upkeep import births
from media_core.upkeep.sweep import sweep
from media_core.uploads.claims import Declared
from media_core.uploads.final import Finals
from media_core.uploads.resumable import Resumables
from media_core.uploads.upload import BUFFER_BYTES, Uploads
from media_operator.local.postgres import EmbeddedPostgres
from tests.integration.acting import judge, upload
from tests.integration.invariants import Left, broken, later_and_swept, left
from tests.integration.servers import s3_servers
from tests.integration.servers.api import eventually, mortal_postgres, new_tenant
from tests.integration.tenancy import ADMIN, ALICE, GENEROUS, TenantDatabase

SMALL = 5_000
LARGE = BUFFER_BYTES + 100_000
MOST_STEPS = 200
"""Far more steps than any order has. The test asserts that each run ends before."""


class Deaths:
    """A process of `dying`, which takes orders."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def order(self, **order: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        async with asyncio.timeout(60):
            answer: dict[str, Any] = json.loads(await self._process.stdout.readline())
        assert "failed" not in answer, answer
        return answer


@pytest.fixture(scope="module")
async def deaths() -> AsyncIterator[Deaths]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.integration.whole.dying"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    yield Deaths(process)
    process.kill()
    await process.wait()


@pytest.fixture(scope="module")
def mortal() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL that may be killed, and keeps what was committed."""
    with mortal_postgres() as server:
        yield server


@dataclass
class Place:
    """A tenant, the process that dies in it, and how it comes back."""

    tenant: TenantDatabase
    store: ObjectStore
    where: dict[str, Any]
    """The part of an order that says how to reach the tenant."""

    def library(self, database: Database) -> Library:
        return Library(
            tenant_id=self.tenant.tenant_id, database=database, store=self.store, policy=PolicyReader(database)
        )

    def uploads(self, database: Database) -> Uploads:
        return Uploads(
            tenant_id=self.tenant.tenant_id,
            database=database,
            store=self.store,
            examiner=Examination(None),  # type: ignore[arg-type]  # nothing here is a picture
            policy=PolicyReader(database),
        )


@asynccontextmanager
async def place(postgres: EmbeddedPostgres, store: ObjectStore, tenant: TenantDatabase, **where: Any) -> Any:
    await tenant.declare(GENEROUS)
    yield Place(tenant, store, {"url": tenant.url, "tenant_id": tenant.tenant_id, **where})


async def prepared(at: Place, database: Database, what: str) -> dict[str, Any]:
    """Prepares the content that an order needs, without dying."""
    data = secrets.token_hex(SMALL // 2).encode()
    uploads, library = at.uploads(database), at.library(database)
    match what:
        case "upload small":
            return {"do": "upload", "size": SMALL, "seed": secrets.token_hex(8)}
        case "upload large":
            return {"do": "upload", "size": LARGE, "seed": secrets.token_hex(8)}
        case "upload again":
            seed = secrets.token_hex(8)
            await upload(uploads, hashlib.shake_128(seed.encode()).digest(SMALL))
            return {"do": "upload", "size": SMALL, "seed": seed}
        case "delete":
            return {"do": "delete", "media_id": (await upload(uploads, data)).media_id}
        case "verdict clean" | "verdict infected":
            stored = await upload(uploads, data)
            return {"do": "verdict", "sha256": stored.sha256, "status": what.split()[1]}
        case "verdict of what was clean":
            stored = await upload(uploads, data)
            await judge(library, database, stored, "clean")
            await library.rescan(ADMIN, stored.media_id)
            return {"do": "verdict", "sha256": stored.sha256, "status": "infected"}
        case "sweep":
            await at.store.put(content_key(at.tenant.tenant_id, secrets.token_hex(32)), b"nobody's")
            stored = await upload(uploads, data)
            await database.call("DELETE FROM media WHERE media_id = %s", (stored.media_id,))
            await database.call(
                "UPDATE blob SET doomed_at = now(), remove_after = now() WHERE sha256 = %s", (stored.sha256,)
            )
            await database.call(
                "UPDATE usage SET stored_bytes = stored_bytes - %s, objects = objects - 1,"
                " object_bytes = object_bytes - %s, items = items - 1, item_bytes = item_bytes - %s",
                (SMALL, SMALL, SMALL),
            )
            return {"do": "sweep"}
    raise ValueError(what)


async def whole(at: Place, database: Database, items: dict[str, str]) -> None:
    """Asserts that every rule holds, and that acknowledged items have their bytes."""
    assert await broken(database, at.store, at.tenant.tenant_id) == []
    library = at.library(database)
    for media_id, sha256 in items.items():
        item = await library.find(ALICE, media_id, "see")
        key = content_key(at.tenant.tenant_id, sha256)
        data = b"".join([chunk async for chunk in at.store.stream(key)])
        assert (item.sha256, hashlib.sha256(data).hexdigest()) == (sha256, sha256)


async def killed_at_every_step(at: Place, deaths: Deaths, what: str, **victim: Any) -> int:
    """Kills the order's process, or the `victim` (asked anew each time), at each step. Returns the number of steps.

    For a victim the end of a call is the same as the beginning of the next, so only the beginnings are steps. It is so
    for a sweep too, which does nothing between two calls and acknowledges nothing.
    """
    only_beginnings = bool(victim) or what == "sweep"
    database = Database(at.tenant.url, pool_size=2)
    owner = Database(at.tenant.owner_url, pool_size=1)
    witness = await upload(at.uploads(database), secrets.token_hex(SMALL // 2).encode(), room_id="garden")
    assert await births.meet(database, at.store, at.tenant.tenant_id) == "same"
    acknowledged = {witness.media_id: witness.sha256}
    try:
        for step in range(0, MOST_STEPS, 2 if only_beginnings else 1):
            order = await prepared(at, database, what)
            who = {"victim": victim["pid"](), "steps_of": victim["steps_of"]} if victim else {}
            answer = await deaths.order(**at.where, **order, at=step, **who)
            if victim and answer["happened"]:
                await victim["revive"]()
                await back(database)
            if "media_id" in answer:
                acknowledged[answer["media_id"]] = answer["sha256"]
            await whole(at, database, acknowledged)
            await later_and_swept(at.library(database), owner, at.tenant.schema)
            await whole(at, database, acknowledged)
            # Staged objects wait a day for the sweep; `left` removes them.
            assert replace(await left(database, at.store, at.tenant.tenant_id), staged=0) == Left(0, 0, 0, 0, 0)
            if answer.get("happened") is False:
                return step
    finally:
        await database.aclose()
        await owner.aclose()
    raise AssertionError("it has no end")


async def _ended(server: EmbeddedPostgres) -> bool:
    return not server.running


async def back(database: Database) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                return await database.probe()
            except Unavailable:
                await asyncio.sleep(0.02)


WHAT = [
    "upload small",
    "upload large",
    "upload again",
    "delete",
    "verdict clean",
    "verdict infected",
    "verdict of what was clean",
    "sweep",
]


@pytest.mark.parametrize("what", WHAT)
async def test_a_process_that_is_killed_at_any_step_loses_nothing_and_leaves_nothing(
    postgres: EmbeddedPostgres, tmp_path: Path, deaths: Deaths, what: str
) -> None:
    with new_tenant(postgres) as tenant:
        store = FolderStore(tmp_path / "bucket", tenant.tenant_id, b"", "http://127.0.0.1:1")
        async with place(postgres, store, tenant, folder=str(tmp_path / "bucket")) as at:
            assert await killed_at_every_step(at, deaths, what) >= 2


_AN_HOUR_LATER = (
    "UPDATE reservation SET expires_at = expires_at - interval '1 hour'",
    "UPDATE upload SET claimed_until = claimed_until - interval '1 hour'",
)


async def test_parts_count_in_the_quota_at_whatever_step_their_final_upload_is_killed_and_it_can_be_repeated(
    postgres: EmbeddedPostgres, tmp_path: Path, deaths: Deaths
) -> None:
    sizes = 300_000, LARGE
    with new_tenant(postgres) as tenant:
        store = FolderStore(tmp_path / "bucket", tenant.tenant_id, b"", "http://127.0.0.1:1")
        async with place(postgres, store, tenant, folder=str(tmp_path / "bucket")) as at:
            database = Database(tenant.url, pool_size=2)
            library, resumables = at.library(database), Resumables(at.uploads(database), lifetime=timedelta(days=1))
            await births.meet(database, store, tenant.tenant_id)

            async def counted() -> tuple[int, int, int]:
                """Stored, reserved, and what came of uploads that have no answer."""
                (row,) = await database.call(
                    "SELECT stored_bytes, reserved_bytes, (SELECT coalesce(sum(received), 0)::bigint FROM upload"
                    " WHERE answer IS NULL) AS came FROM usage",
                    (),
                )
                return tuple(row)  # type: ignore[return-value]

            for step in range(0, MOST_STEPS, 2):  # the end of a call is as good as the beginning of the next
                stored_before = (await counted())[0]
                parts = [await part_of(resumables, size) for size in sizes]
                answer = await deaths.order(**at.where, do="concatenate", parts=parts, at=step)
                stored, reserved, came = await counted()
                assert stored + reserved >= stored_before + sum(sizes)
                for statement in _AN_HOUR_LATER:
                    await database.call(statement, ())
                await sweep(library)
                stored, reserved, came = await counted()
                assert stored + reserved >= stored_before + came
                assert reserved >= came
                made = await Finals(resumables).concatenate(ALICE, "final", parts, Declared("a.bin"))
                assert made.uploaded is not None
                assert await counted() == (stored_before + sum(sizes), 0, 0)
                assert await broken(database, store, tenant.tenant_id) == []
                if answer.get("happened") is False:
                    break
                await database.call("DELETE FROM upload", ())  # the next final upload is another
            await database.aclose()
    assert 10 < step < MOST_STEPS


async def part_of(resumables: Resumables, size: int) -> str:
    part = await resumables.create(ALICE, Declared("a.bin"), size, partial=True)
    async with resumables.receiving(ALICE, part.upload_id, 0) as receiving:
        await receiving.write(secrets.token_bytes(size))
        await receiving.end()
    return part.upload_id


@pytest.mark.parametrize("what", WHAT)
async def test_so_does_postgresql(mortal: EmbeddedPostgres, tmp_path: Path, deaths: Deaths, what: str) -> None:
    async def revive() -> None:
        await eventually(lambda: _ended(mortal))
        await asyncio.to_thread(mortal.start)

    with new_tenant(mortal) as tenant:
        store = FolderStore(tmp_path / "bucket", tenant.tenant_id, b"", "http://127.0.0.1:1")
        async with place(mortal, store, tenant, folder=str(tmp_path / "bucket")) as at:
            victim = {"steps_of": "Database", "pid": lambda: mortal.pid, "revive": revive}
            assert await killed_at_every_step(at, deaths, what, **victim) >= 2


@pytest.mark.parametrize("what", ["upload small", "upload large", "delete", "verdict infected", "sweep"])
async def test_so_does_the_store(postgres: EmbeddedPostgres, tmp_path: Path, deaths: Deaths, what: str) -> None:
    server = await s3_servers.start("versitygw", tmp_path)

    async def revive() -> None:
        nonlocal server
        assert server.process
        await asyncio.to_thread(server.process.wait)
        server = await s3_servers.start("versitygw", tmp_path, server)
        await at.store.aclose()
        at.store = S3Store(server.settings, tenant.tenant_id)

    settings = {
        **server.settings.model_dump(),
        "secret_access_key": server.settings.secret_access_key.get_secret_value(),
    }
    with new_tenant(postgres) as tenant:
        try:
            async with place(postgres, S3Store(server.settings, tenant.tenant_id), tenant, s3=settings) as at:
                victim = {
                    "steps_of": "S3Store",
                    "pid": lambda: server.process.pid if server.process else None,
                    "revive": revive,
                }
                assert await killed_at_every_step(at, deaths, what, **victim) >= 2
                await at.store.aclose()
        finally:
            server.stop()
