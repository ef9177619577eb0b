"""The workers of `make run`."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from media_operator.local.processes import delay_after, end, ending, last_line, spawn
from media_operator.local.site import Site
from media_operator.plan.desired import WorkerShape

WORKER_GRACE = 15.0
FIRST_SWEEP_SECONDS = 60.0
SWEEP_SECONDS = 900.0


class LocalWorkers:
    """Workers as child processes. Each drains its queue and ends by itself."""

    def __init__(
        self,
        site: Site,
        environment: Callable[[str, WorkerShape], Mapping[str, str]],
        changed: Callable[[], None],
        report: Callable[[str], None],
    ) -> None:
        self.shape: WorkerShape | None = None
        self.trouble: dict[str, str] = {}
        self._site = site
        self._environment = environment
        self._changed = changed
        self._report = report
        self._processes: dict[asyncio.Task[None], tuple[str, asyncio.subprocess.Process]] = {}
        self._dismissed: set[int] = set()
        self._failures: dict[str, int] = {}
        self._held_until: dict[str, float] = {}

    def running(self) -> list[str]:
        """The kind of each running worker."""
        return [kind for kind, _ in self._processes.values()]

    def backs_off(self, kind: str) -> bool:
        """Whether the last worker of this kind failed and the next one has to wait."""
        return time.monotonic() < self._held_until.get(kind, 0)

    def pids(self) -> list[int]:
        return [process.pid for _, process in self._processes.values()]

    async def launch(self, kind: str) -> bool:
        """Starts a worker. False: none may start now."""
        if self.shape is None or self.backs_off(kind):
            return False
        log = self._site.log(kind)
        process = await spawn([sys.executable, "-m", "media_workers", kind], self._environment(kind, self.shape), log)
        task = asyncio.create_task(self._attend(kind, process, log), name=f"{kind} worker")
        self._processes[task] = (kind, process)
        task.add_done_callback(lambda done: self._processes.pop(done, None))
        return True

    async def reshape(self, shape: WorkerShape) -> None:
        """Ends workers that may not run any more or have another model than `shape`. They hand their jobs back."""
        before, self.shape = self.shape, shape
        gone = {kind for kind, limit in shape.parallel.items() if limit == 0}
        if before is not None and replace(before, parallel=shape.parallel) != shape:
            gone.add("transcribe")
        await self._end(gone)

    async def stop(self) -> None:
        self.shape = None
        await self._end({kind for kind, _ in self._processes.values()})

    async def _end(self, kinds: set[str]) -> None:
        leaving = [(task, process) for task, (kind, process) in self._processes.items() if kind in kinds]
        self._dismissed |= {process.pid for _, process in leaving}
        await asyncio.gather(*(end(process, WORKER_GRACE) for _, process in leaving))
        await asyncio.gather(*(task for task, _ in leaving))

    async def _attend(self, kind: str, process: asyncio.subprocess.Process, log: Path) -> None:
        returncode = await process.wait()
        if process.pid in self._dismissed:  # its status says nothing: it may have been told to end while it started
            self._dismissed.discard(process.pid)
        elif returncode == 0:
            self._failures.pop(kind, None)
            self.trouble.pop(kind, None)
        else:
            failures = self._failures[kind] = self._failures.get(kind, 0) + 1
            delay = delay_after(failures)
            self._held_until[kind] = time.monotonic() + delay
            words = last_line(log)
            self.trouble[kind] = f"a {kind} worker {ending(returncode)}" + (f": {words}" if words else "")
            self._report(f"{self.trouble[kind]} (log: {log}); the next one starts in {delay:g} s at the earliest")
        self._changed()


async def sweep_regularly(workers: LocalWorkers) -> None:
    """Runs until cancelled: sweeps soon after the start, since killed processes leave things behind, then regularly."""
    await asyncio.sleep(FIRST_SWEEP_SECONDS)
    while True:
        await workers.launch("sweep")
        await asyncio.sleep(SWEEP_SECONDS)
