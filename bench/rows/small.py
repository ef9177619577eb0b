"""The rows of small files: many requests at once, against Synapse, which does the same work for a chat.

Scanning off: nothing is queued. Scanning on: each new content queues a job, which nothing takes up. A third row has the
worker that does the jobs, and clamd, on the same cores.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

from bench import worker
from bench.clients import Content, name_in
from bench.contenders.synapse import Synapse
from bench.load import CLIENTS, SIZE, Load, Target
from bench.measure import ITEMS, Contender, Effort, Figures, Goal, Row, compare
from bench.parts import POLICY, Parts, Tenant
from bench.resources import Resources
from media_operator.local.clamd import ClamdAddress

UPLOADS = Goal(must=1.1, aim=1.4)
DOWNLOADS = Goal(must=1.5, aim=2)
DUPLICATES = Goal(must=1.5, aim=2)
FILES = 100
"""Downloaded in turn, so that no server is measured on its cache of one file."""
EACH = f"{SIZE // 1024} KiB, {CLIENTS} at once"
OFF, ON, WORKED = "scanning off", "scanning on", "scanning on, a worker beside"
SYNAPSE, BARE, NEW = "Synapse", "bare", "new ones"


async def small(parts: Parts, effort: Effort) -> list[Row]:
    with parts.synapse() as peer:
        async with _tenants(parts) as (off, on), parts.clamd() as clamd:
            # Before thousands of scans wait, among which those of the files to download would have to be found.
            downloads = await _downloads(parts, effort, off, on, peer)
            return [*await _uploads(parts, effort, off, on, peer, clamd), *downloads]


async def duplicates(parts: Parts, effort: Effort) -> list[Row]:
    """The same small content again and again, against new ones: both ours, in turns."""
    async with _tenants(parts) as (off, on):
        return [
            *await _duplicates(parts, effort, off, OFF),
            *await _duplicates(parts, effort, on, ON),
        ]


async def _duplicates(parts: Parts, effort: Effort, tenant: Tenant, scanning: str) -> list[Row]:
    load, content, target = Load(effort.seconds), Content(SIZE), tenant.target
    again, announced = f"duplicate, {EACH}, {scanning}", f"duplicate, digest announced, {EACH}, {scanning}"
    works: dict[str, Callable[[], float]] = {
        NEW: lambda: load.new(target),
        again: lambda: load.same(target, content),
        announced: lambda: load.same(target, content, announced=True),
    }
    seen = await compare(
        effort.turns,
        {name: Contender(work, tenant.used, beside=parts.database_used) for name, work in works.items()},
    )
    legend = "uploads of contents that nobody has stored before, ours as well. CPU: the server + PostgreSQL"
    return [Row(what, ITEMS, seen[what], NEW, seen[NEW], legend, DUPLICATES) for what in (again, announced)]


@asynccontextmanager
async def _tenants(parts: Parts) -> AsyncIterator[tuple[Tenant, Tenant]]:
    """One without scanning, one with."""
    async with parts.another(replace(POLICY, scan_enabled=False)) as off, parts.another() as on:
        yield off, on


async def _uploads(
    parts: Parts, effort: Effort, off: Tenant, on: Tenant, peer: Synapse | None, clamd: ClamdAddress | None
) -> list[Row]:
    load, database = Load(effort.seconds), parts.database_used

    def uploads(target: Target, used: Resources, **more: Any) -> Contender:
        return Contender(lambda: load.new(target), used, **more)

    contenders = {
        OFF: uploads(off.target, off.used, beside=database),
        ON: uploads(on.target, on.used, beside=database),
    }
    if clamd:
        working = ExitStack()

        def begin() -> None:
            working.enter_context(worker.beside(on, clamd, parts.folder / "worker.log"))

        contenders[WORKED] = uploads(on.target, on.used, beside=database, prepare=begin, tidy=working.close)
    if peer:
        contenders[SYNAPSE] = uploads(peer.target, peer.used, beside=database)
    contenders[BARE] = uploads(Target(parts.bare.address, path="/store", form=False), parts.bare.used)
    seen = await compare(effort.turns, contenders)
    legends = {
        SYNAPSE: "a token, a file, a row, by one process; no fsync of the file, no scan. CPU: the server + PostgreSQL",
        BARE: "raw bytes to a file, fsync, rename; no check of the caller",
    }
    return _rows(f"upload, {EACH}", seen, legends, UPLOADS)


async def _downloads(parts: Parts, effort: Effort, off: Tenant, on: Tenant, peer: Synapse | None) -> list[Row]:
    load, database = Load(effort.seconds), parts.database_used

    def downloads(target: Target, used: Resources, paths: list[str], **more: Any) -> Contender:
        return Contender(lambda: load.downloads(target, paths), used, **more)

    contents = [Content(SIZE) for _ in range(FILES)]
    contenders = {
        OFF: downloads(off.target, off.used, _ours(off, contents), beside=database),
        ON: downloads(on.target, on.used, _ours(on, contents), beside=database),
    }
    for content in contents:
        await on.api.verdict(content.sha256().hex())
    if peer:
        with peer.target.client() as client:
            paths = [peer.download_path(peer.target.upload(client, content)) for content in contents]
        contenders[SYNAPSE] = downloads(peer.target, peer.used, paths, beside=database)
    for number, content in enumerate(contents):
        (parts.bare.folder / str(number)).write_bytes(b"".join(content))
    files = [f"/{number}" for number in range(FILES)]
    contenders[BARE] = downloads(Target(parts.bare.address), parts.bare.used, files)
    seen = await compare(effort.turns, contenders)
    legends = {
        SYNAPSE: f"its authenticated download; {FILES} files in turn. CPU: the server + PostgreSQL",
        BARE: "sendfile; no check of the caller",
    }
    return _rows(f"download, {EACH}", seen, legends, DOWNLOADS)


def _ours(tenant: Tenant, contents: list[Content]) -> list[str]:
    with tenant.client() as client:
        return [f"/v1/media/download/{name_in(client.upload(content, content.size))}" for content in contents]


def _rows(what: str, seen: Mapping[str, Figures], legends: Mapping[str, str], goal: Goal) -> list[Row]:
    """Each of ours against each of the others. The goal is against Synapse, with the machine to itself."""
    return [
        Row(
            f"{what}, {scanning}",
            ITEMS,
            seen[scanning],
            against,
            seen.get(against),
            legend,
            goal if against == SYNAPSE and scanning != WORKED else None,
        )
        for scanning in (OFF, ON, WORKED)
        if scanning in seen
        for against, legend in legends.items()
    ]
