"""A process that kills itself, or a server that it works with, at a numbered step.

    python -m tests.integration.whole.dying    one order a line on standard input, one answer a line on standard output

Each order is carried out in a fork of this process, which saves the start of an interpreter. The steps are the
product's calls to PostgreSQL and to the store: there is one step before each call, and one after it. They are counted
from the outside, so the product has no code for them.
"""

import asyncio
import functools
import hashlib
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from media_core import logs
from media_core.contents.life import Verdict
from media_core.database import Database
from media_core.decoding.pool import DecodingPool
from media_core.errors import Unavailable
from media_core.examination.examination import Examination
from media_core.items.library import Library
from media_core.jobs.queue import Queue
from media_core.policy import PolicyReader
from media_core.store import FolderStore, S3Settings, S3Store
from media_core.upkeep.sweep import sweep
from media_core.uploads.claims import Declared
from media_core.uploads.final import Finals
from media_core.uploads.resumable import Resumables
from media_core.uploads.upload import Uploads
from tests.integration.invariants import AT_ONCE
from tests.integration.tenancy import ALICE

STEPS: dict[type[Any], tuple[str, ...]] = {
    Database: ("call",),
    FolderStore: ("put", "stage", "delete"),
    S3Store: ("put", "stage", "delete"),
}
STAGED = ("finish", "promote", "discard")


class Deadly:
    """Kills `victim` at step `at`; without a victim, this process itself."""

    def __init__(self, at: int, victim: int | None) -> None:
        self._at = at
        self._victim = victim
        self._reached = 0
        self.counting = False

    def step(self) -> None:
        if not self.counting:
            return
        if self._reached == self._at:
            os.kill(self._victim or os.getpid(), signal.SIGKILL)
        self._reached += 1

    @property
    def happened(self) -> bool:
        return self._reached > self._at

    def around(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(call)
        async def numbered(*args: Any, **options: Any) -> Any:
            self.step()
            result = await call(*args, **options)
            for name in STAGED:
                if (inner := getattr(result, name, None)) is not None and name != "discard":
                    setattr(result, name, self.around(inner))
            self.step()
            return result

        return numbered


async def carry_out(order: dict[str, Any], deadly: Deadly) -> dict[str, Any]:
    """Raises Unavailable if a server was killed."""
    tenant_id = order["tenant_id"]
    database = Database(order["url"], pool_size=2)
    store = (
        S3Store(S3Settings(**order["s3"]), tenant_id)
        if order.get("s3")
        else FolderStore(Path(order["folder"]), tenant_id, b"", "http://127.0.0.1:1")
    )
    policy = PolicyReader(database)
    library = Library(tenant_id=tenant_id, database=database, store=store, policy=policy)
    uploads = Uploads(
        tenant_id=tenant_id,
        database=database,
        store=store,
        examiner=Examination(DecodingPool(processes=1)),
        policy=policy,
    )
    await policy.current()
    for kind, names in STEPS.items():
        for name in names if kind.__name__ in order.get("steps_of", kind.__name__) else ():
            setattr(kind, name, deadly.around(getattr(kind, name)))
    deadly.counting = True
    match order["do"]:
        case "upload":
            data = hashlib.shake_128(order["seed"].encode()).digest(order["size"])
            async with await uploads.start(announced=len(data) + 300) as upload:
                for start in range(0, len(data), 1 << 20):
                    await upload.write(data[start : start + (1 << 20)])
                stored = await upload.commit(ALICE, Declared("a.bin", room_id="garden"))
            return {"media_id": stored.media_id, "sha256": stored.sha256}
        case "concatenate":
            resumables = Resumables(uploads, lifetime=timedelta(days=1))
            made = await Finals(resumables).concatenate(ALICE, "final", order["parts"], Declared("a.bin"))
            return {"upload_id": made.upload_id}
        case "delete":
            await library.delete(ALICE, order["media_id"])
            return {}
        case "verdict":
            lease = await Queue(database).lease("scan", worker="dying", seconds=30)
            while lease is not None and lease.payload["sha256"] != order["sha256"]:
                lease = await Queue(database).lease("scan", worker="dying", seconds=30)
            assert lease is not None, "no such scan job"
            verdict = Verdict(lease.job_id, lease.token, order["sha256"], order["status"], None, "test")
            return {"held": len(await library.contents.record_verdicts([verdict]))}
        case "sweep":
            await sweep(library, AT_ONCE)
            return {}
    raise ValueError(order)


def in_a_fork(order: dict[str, Any]) -> None:
    deadly = Deadly(order["at"], order.get("victim"))
    try:
        answer = asyncio.run(carry_out(order, deadly))
    except Unavailable as error:
        answer = {"unavailable": error.detail}
    answer["happened"] = deadly.happened
    print(json.dumps(answer), flush=True)
    os._exit(0)


def main() -> None:
    logs.configure("text", "error")  # to standard error: standard output is for the answers
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            in_a_fork(json.loads(line))
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            print(json.dumps({"killed": os.WTERMSIG(status)}), flush=True)
        elif os.waitstatus_to_exitcode(status):
            print(json.dumps({"failed": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    main()
