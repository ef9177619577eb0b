"""An api's memory at rest, and its growth during uploads, as the kernel counts it."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench.clients import Client, Content, Crowd
from bench.measure import Amount, Effort, Goal
from bench.parts import POLICY, Parts, Tenant
from bench.resources import MIB, Resources, held
from bench.rows.on_s3 import SERVER, bucket
from media_core.uploads.upload import BUFFER_BYTES

CROWD = 32
LARGE_MAY_TAKE = 10_000_000
CROWD_MAY_TAKE = CROWD * 8 * MIB + LARGE_MAY_TAKE
"""Bytes, as the design promises them."""
CROWD_SIZE = BUFFER_BYTES + 4096
"""Too little over it to be known by the request's Content-Length, which covers the form as well."""
AS_IN_THE_IMAGE = Path(__file__).parent / "image"
"""Hides packages that this environment has and the api's image does not."""
CHARGED = "the most that a pod is charged: what others opened first is theirs"
AT_REST = Goal(must=120, aim=80)
"""MB, of 1,000,000 bytes, as the issue counts them."""
MB = 1_000_000


async def memory(parts: Parts, effort: Effort) -> list[Amount]:
    at_rest = await _at_rest(parts, effort)
    # Of one process: the first upload of each maps libmagic's rules, 7 MiB that all share and the kernel can take back.
    # With several, an upload may come to another process than the one before.
    async with parts.another(POLICY, MEDIA_API_PROCESSES="1") as tenant:
        return [*at_rest, *await asyncio.to_thread(_growth, tenant, effort)]


async def _at_rest(parts: Parts, effort: Effort) -> list[Amount]:
    """Of an api as in a pod, with objects in S3; in a folder if no S3 server can be built."""
    async with bucket(parts.place(SERVER)) as server:
        where = f"objects on {SERVER}" if server else "objects in a folder"
        environment = {"MEDIA_API_PROCESSES": "1", "PYTHONPATH": str(AS_IN_THE_IMAGE)}
        async with parts.another(POLICY, **environment, **(server.environment if server else {})) as tenant:
            await asyncio.to_thread(_a_few_requests, tenant)
            await asyncio.sleep(effort.rest_seconds)
            assert tenant.api.process
            seen = held(tenant.api.process.pid)
    processes = "1 process" if seen.processes == 1 else f"{seen.processes} processes"
    what = f"api at rest, {processes}, {where}"
    after = f"{effort.rest_seconds} s after a health check, an upload of 10 KiB and a list"
    return [
        Amount(
            f"{what}: each page once",
            seen.alone / MB,
            "MB",
            f"{after}; {CHARGED}",
            AT_REST,
        ),
        Amount(f"{what}: RSS", seen.rss / MB, "MB", "a page that several processes share counts in each", AT_REST),
        Amount(f"{what}: PSS", seen.pss / MB, "MB", "too low: the bench has a share of the libraries", None),
    ]


def _a_few_requests(tenant: Tenant) -> None:
    with tenant.client() as client:
        client.request("GET", "/readyz")
        content = Content(10 * 1024)
        client.upload(content, content.size)
        client.request("GET", "/v1/jobs")


def _growth(tenant: Tenant, effort: Effort) -> list[Amount]:
    used = tenant.used
    address, token = tenant.api.address, tenant.token
    large_upload(address, token, used, 64 * MIB)
    large = large_upload(address, token, used, effort.gigabyte)
    crowd = crowd_of_uploads(address, token, used)
    legend = "by how much the peak RSS of the api and its children rose"
    return [
        _grown(f"memory, upload of {effort.gigabyte // MIB} MiB", large, LARGE_MAY_TAKE, legend),
        _grown(f"memory, {CROWD} uploads at once", crowd, CROWD_MAY_TAKE, legend),
    ]


def _grown(what: str, grown: int, may: int, legend: str) -> Amount:
    return Amount(what, grown / MIB, "MiB", legend, Goal(round(may / MIB, 1), round(may / MIB, 1)))


def large_upload(address: tuple[str, int], token: str, used: Resources, size: int) -> int:
    """Bytes by which the peak rose during one upload of `size` bytes. Blocks."""
    with Client(address, token) as client:
        used.reset()
        client.upload(Content(size), size)
        return used.peak_growth()


def crowd_of_uploads(address: tuple[str, int], token: str, used: Resources) -> int:
    """Bytes by which the peak rose during CROWD uploads at once, each just over what is buffered. Blocks.

    They wait for each other where their buffers are full to the last byte, so that all are full at one moment.
    """
    full = threading.Barrier(CROWD, action=lambda: _until_taken(address[1]))
    contents = [Content(CROWD_SIZE) for _ in range(CROWD)]
    with Crowd(CROWD, lambda: Client(address, token)) as crowd:
        used.reset()
        crowd.share(contents, lambda client, content: client.upload(_held(content, full), content.size))
        return used.peak_growth()


def _held(content: Content, full: threading.Barrier) -> Iterator[memoryview]:
    sent = 0
    for piece in content:
        room = BUFFER_BYTES - sent
        if 0 < room <= len(piece):
            yield piece[:room]
            full.wait()
            yield piece[room:]
        else:
            yield piece
        sent += len(piece)


def _until_taken(port: int) -> None:
    """Waits until the server has read whatever was sent to it; looks, since nobody tells."""
    while _under_way(port):
        time.sleep(0.01)


def _under_way(port: int) -> int:
    """Bytes in the kernel's queues on connections to `port` of 127.0.0.1 (proc(5), /proc/net/tcp)."""
    end = f":{port:04X}"
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    queues = [row[4] for row in rows if row[1].endswith(end) or row[2].endswith(end)]
    return sum(int(part, 16) for queue in queues for part in queue.split(":"))
