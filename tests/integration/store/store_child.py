"""A process that uses a store, and is killed meanwhile or reports its memory. test_object_stores runs it."""

import asyncio
import os
import re
import sys
from datetime import timedelta
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
    await _through(store, key, MIB)
    for size in (30 * MIB, 120 * MIB):
        before = _peak()
        await _through(store, key, size)
        print(_peak() - before, flush=True)


async def loaded(store: ObjectStore, key: str) -> None:
    await store.probe()
    await store.put(key, b"x")
    await store.read(key, 0, 1)
    store.sign(key, expires_in=timedelta(minutes=1), content_type="a/b", content_disposition="inline")
    assert [entry.key async for entry in store.list()] == [key]
    await _through(store, key, 12 * MIB)
    await store.delete(key)
    await store.aclose()
    print(*sorted({"boto3", "botocore", "obstore"} & sys.modules.keys()), flush=True)


async def leave(store: ObjectStore, key: str) -> None:
    async for _ in store.stream(key):
        pass
    await store.aclose()


async def _through(store: ObjectStore, key: str, size: int) -> None:
    upload = await store.stage("upload", at_most=size)
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
    # Not getrusage: its peak begins with that of the parent process.
    (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(peak) * 1024


if __name__ == "__main__":
    what, argument = sys.argv[1:]
    asyncio.run(
        {"stage": stage, "put": put, "measure": measure, "loaded": loaded, "leave": leave}[what](
            open_store(StoreSettings(), os.environ["MEDIA_TENANT_ID"]), argument
        )
    )
