"""Workers, for the rows that need one: the one place that knows how one is put together and what its jobs are.

`Worker` runs in this process: the real drain loop, without the second that a process takes to start. `beside` is the
real process, for what it costs others.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.parts import Tenant
from bench.resources import Resources
from media_core.database import Database
from media_core.decoding.pool import DecodingPool
from media_core.items.library import Library
from media_core.jobs.queue import Queue, enqueue
from media_core.policy import PolicyReader
from media_core.settings import TranscriptionSettings
from media_operator.local.clamd import ClamdAddress
from media_operator.local.processes import die_with_parent
from media_workers.drain import Drain, Handler, Work
from media_workers.scanning.scan import JOBS_AT_ONCE, Scanner
from media_workers.settings import ClamdSettings, DrainSettings, WhisperSettings
from media_workers.speech.transcribe import Transcriber
from media_workers.speech.whisper import Whisper

DRAIN_SECONDS = 1800.0


@dataclass(frozen=True)
class Task:
    """What a worker is for, as `python -m media_workers KIND` has it."""

    kind: str
    handler: Handler
    at_once: int = 1


def scans(clamd: ClamdAddress) -> Task:
    return Task("scan", Scanner(ClamdSettings(host=clamd.host, port=clamd.port)), JOBS_AT_ONCE)


def transcriptions(settings: WhisperSettings) -> Task:
    lease_seconds = DrainSettings().lease_seconds
    return Task("transcribe", Transcriber(Whisper(settings), TranscriptionSettings(), lease_seconds=lease_seconds))


class Worker:
    """One tenant's, in this process."""

    def __init__(self, tenant: Tenant, decoder: DecodingPool, used: Resources) -> None:
        api = tenant.api
        self.used = used
        self._database = Database(api.tenant.url, pool_size=4, relaxed=True)
        policy = PolicyReader(self._database)
        library = Library(tenant_id=api.tenant.tenant_id, database=self._database, store=api.store, policy=policy)
        self._work = Work(self._database, Queue(self._database), library, api.store, decoder, policy)

    async def aclose(self) -> None:
        await self._database.aclose()

    async def drain(self, task: Task) -> None:
        """Until nothing is queued. Raises TimeoutError where that takes far too long."""
        settings = DrainSettings(linger_seconds=0)
        async with asyncio.timeout(DRAIN_SECONDS):
            await Drain(task.kind, task.handler, self._work, settings, at_once=task.at_once).run()

    async def queue_scans(self, sha256s: list[str]) -> None:
        """Of these contents, as if each had just come; nothing else is queued then."""
        async with self._database.transaction() as tx:
            await tx.execute("DELETE FROM job")
            await tx.execute(
                "UPDATE blob SET scan_status = 'pending' WHERE sha256 = ANY(%(sha256s)s)", {"sha256s": sha256s}
            )
            for sha256 in sha256s:
                await enqueue(tx, "scan", {"sha256": sha256}, dedupe_key=sha256)

    async def queue_transcription(self, payload: dict[str, Any]) -> None:
        """Of a content that was found clean; nothing else is queued then."""
        async with self._database.transaction() as tx:
            await tx.execute("DELETE FROM job")
            await tx.execute(
                "UPDATE blob SET scan_status = 'clean' WHERE sha256 = %(sha256)s", {"sha256": payload["sha256"]}
            )
            await enqueue(tx, "transcribe", payload, owner="alice", media_id=payload["media_id"])

    async def transcript(self) -> str:
        """Of the one job."""
        async with self._database.transaction() as tx:
            return str(await tx.value("SELECT result ->> 'transcript' FROM job"))

    async def check(self, count: int) -> None:
        """All `count` jobs that were queued are done, and well: else a turn was quick for a wrong reason."""
        async with self._database.transaction() as tx:
            seen = [(row.status, row.jobs) for row in await tx.execute(_STATES)]
        assert seen == [("completed", count)], f"{count} jobs ended as {seen}"


_STATES = "SELECT status, count(*) AS jobs FROM job GROUP BY status"


@asynccontextmanager
async def worker(tenant: Tenant) -> AsyncIterator[Worker]:
    """Its `used` counts this process, which does a worker's part, and the children that decode for it."""
    used = Resources.own()
    async with DecodingPool(processes=1) as decoder:
        one = Worker(tenant, decoder, used)
        yield one
        await one.aclose()


@contextmanager
def beside(tenant: Tenant, clamd: ClamdAddress, log: Path) -> Iterator[None]:
    """A scan worker as a process, at work when the block begins. Blocks; there must be something to scan."""
    api = tenant.api
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "MEDIA_TENANT_ID": api.tenant.tenant_id,
        "MEDIA_DATABASE_URL": api.tenant.url,
        "MEDIA_STORE": "folder",
        "MEDIA_STORE_FOLDER": str(api.store._root),
        "MEDIA_CLAMD_HOST": clamd.host,
        "MEDIA_CLAMD_PORT": str(clamd.port),
        "MEDIA_WORKER_MAX_JOBS": "1000000",
        "MEDIA_WORKER_LINGER_SECONDS": "60",
    }
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "media_workers", "scan"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=die_with_parent(signal.SIGKILL),
        )
    try:
        until = time.monotonic() + 20
        while log.stat().st_size == 0 and child.poll() is None and time.monotonic() < until:
            time.sleep(0.05)  # its first line is of its first job
        if child.poll() is not None:
            raise RuntimeError(f"the scan worker ended: {log.read_text()[-1000:]}")
        yield
    finally:
        child.terminate()
        child.wait()
