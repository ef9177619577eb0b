"""A process that uses a store and is killed in the middle, or says what it needed. Run by test_object_stores."""

import asyncio
import os
import re
import sys
from pathlib import Path

from media_core.store import ObjectStore, StoreSettings, open_store

MIB = 1024 * 1024


async def stage(store: ObjectStore, state: str) -> None:
    upload = await store.stage("upload")
    for _ in range(20):
        await upload.write(bytes(MIB))
    if state == "finished":
        await upload.finish()
    print(state, flush=True)
    await asyncio.Event().wait()


async def put(store: ObjectStore, key: str) -> None:
    await store.put(key, b"a" * (8 * MIB))
    print("started", flush=True)
    while True:
        for byte in (b"b", b"a"):
            await store.put(key, byte * (8 * MIB))


async def measure(store: ObjectStore, key: str) -> None:
    await _through(store, key, 8 * MIB)
    before = _peak()
    await _through(store, key, 160 * MIB)
    print(_peak() - before, flush=True)


async def _through(store: ObjectStore, key: str, size: int) -> None:
    upload = await store.stage("upload")
    block = bytes(64 * 1024)
    for _ in range(size // len(block)):
        await upload.write(block)
    await upload.finish()
    await upload.promote(key)
    await upload.discard()
    total = 0
    async for chunk in store.stream(key):
        total += len(chunk)
    assert total == size


def _peak() -> int:
    # Not getrusage: there a process begins with the peak of the one that started it.
    (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(peak) * 1024


if __name__ == "__main__":
    what, argument = sys.argv[1:]
    asyncio.run(
        {"stage": stage, "put": put, "measure": measure}[what](
            open_store(StoreSettings(), os.environ["MEDIA_TENANT_ID"]), argument
        )
    )
