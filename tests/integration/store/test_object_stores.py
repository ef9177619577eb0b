"""One contract, every store: a folder, versitygw, MinIO and, if the environment names one, an S3 server of yours."""

import asyncio
import contextlib
import errno
import hashlib
import http.server
import os
import secrets
import shutil
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import boto3
import httpx
import pytest
from botocore.config import Config

from media_core.errors import NotNow, Refused, Unavailable
from media_core.store import (
    Appending,
    FolderStore,
    GatheredObject,
    ObjectMissing,
    ObjectStore,
    Piece,
    PieceGone,
    S3Store,
    StagedObject,
    StoreSettings,
    folder_pieces,
    open_store,
    page_cache,
)
from media_core.store import folder as folder_module
from media_core.store import s3 as s3_module
from media_core.store.base import USUAL_MOST
from media_core.store.credentials import S3Key
from media_core.store.object_keys import content_key, thumbnail_key
from media_core.store.presign import presigned_get
from media_core.store.trailing_hash import TrailingHash
from tests.fixtures.sources import Held
from tests.integration.servers import s3_servers
from tests.integration.servers.api import eventually
from tests.integration.servers.lying_s3 import LyingS3, lying
from tests.integration.servers.s3_servers import S3Server
from tests.stopwatch import Stopwatch

MIB = 1024 * 1024
CHILD = Path(__file__).with_name("store_child.py")
NOW = timedelta(0)


@dataclass
class Opened:
    """A tenant's store, and what a child process needs to open the same one."""

    store: ObjectStore
    tenant_id: str
    environment: dict[str, str] = field(default_factory=dict)

    def key(self, name: str = "") -> str:
        return content_key(self.tenant_id, hashlib.sha256(name.encode()).hexdigest())

    def again(self, tenant_id: str | None = None) -> ObjectStore:
        """The same store, or another tenant's in the same place, opened as a process opens it."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            return open_store(StoreSettings(), tenant_id or self.tenant_id)

    def everything(self, staging_name: str) -> list[str]:
        """All that the backend holds of the tenant: objects, files, unfinished uploads."""
        prefix = f"tenant/{self.tenant_id}/"
        if "MEDIA_STORE_FOLDER" in self.environment:
            root = Path(self.environment["MEDIA_STORE_FOLDER"])
            return sorted(str(path.relative_to(root)) for path in (root / prefix).rglob("*") if path.is_file())
        objects = self.client.list_objects_v2(Bucket=self.bucket, Prefix=prefix).get("Contents", [])
        return sorted([found["Key"] for found in objects] + self.unfinished(f"{prefix}.staging/{staging_name}"))

    def unfinished(self, key: str) -> list[str]:
        """Unfinished multipart uploads to this key; none in a folder."""
        if "MEDIA_STORE_FOLDER" in self.environment:
            return []
        uploads = self.client.list_multipart_uploads(Bucket=self.bucket, Prefix=key).get("Uploads", [])
        return [f"unfinished {upload['Key']}" for upload in uploads]

    @property
    def bucket(self) -> str:
        return self.environment["MEDIA_S3_BUCKET"]

    @property
    def client(self) -> Any:
        named = ("ENDPOINT", "REGION", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY")
        return _boto3(*(self.environment[f"MEDIA_S3_{name}"] for name in named))


@cache
def _boto3(endpoint: str, region: str, access_key_id: str, secret_access_key: str) -> Any:
    """One for all tests with a server: to make one takes 50 ms."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=region,
        aws_access_key_id=access_key_id,
        aws_secret_access_key=secret_access_key,
    )


@pytest.fixture(scope="session")
async def servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, S3Server]]:
    """S3 servers, each started by the first test that needs it, and ended with the session."""
    running: dict[str, S3Server] = {}
    yield running
    for server in running.values():
        server.stop()


async def the_server(servers: dict[str, S3Server], kind: str, folders: pytest.TempPathFactory) -> S3Server:
    if kind not in servers:
        servers[kind] = await s3_servers.start(kind, folders.mktemp(kind))
    return servers[kind]


def opened_s3(server: S3Server, tenant_id: str) -> Opened:
    settings = server.settings
    return Opened(
        S3Store(settings, tenant_id),
        tenant_id,
        {
            "MEDIA_STORE": "s3",
            "MEDIA_S3_ENDPOINT": settings.endpoint,
            "MEDIA_S3_BUCKET": settings.bucket,
            "MEDIA_S3_REGION": settings.region,
            "MEDIA_S3_ACCESS_KEY_ID": settings.access_key_id,
            "MEDIA_S3_SECRET_ACCESS_KEY": settings.secret_access_key.get_secret_value(),
        },
    )


@pytest.fixture(params=["folder", *s3_servers.KINDS])
async def opened(
    request: pytest.FixtureRequest,
    servers: dict[str, S3Server],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Opened]:
    tenant_id = f"t{secrets.token_hex(6)}"
    if request.param == "folder":
        signing_key = secrets.token_hex(16)
        with served_folder() as front:
            store = FolderStore(tmp_path / "objects", tenant_id, signing_key.encode(), front.url)
            front.store = store
            environment = {
                "MEDIA_STORE_FOLDER": str(tmp_path / "objects"),
                "MEDIA_STORE_SIGNING_KEY": signing_key,
                "MEDIA_PUBLIC_URL": front.url,
            }
            yield Opened(store, tenant_id, environment)
        return
    made = opened_s3(await the_server(servers, request.param, tmp_path_factory), tenant_id)
    yield made
    await made.store.delete(*[entry.key async for entry in made.store.list()])
    await made.store.sweep_staging(NOW)
    await made.store.aclose()


@pytest.fixture
def store(opened: Opened) -> ObjectStore:
    return opened.store


@pytest.fixture(params=s3_servers.KINDS)
async def s3(
    request: pytest.FixtureRequest, servers: dict[str, S3Server], tmp_path_factory: pytest.TempPathFactory
) -> S3Server:
    return await the_server(servers, request.param, tmp_path_factory)


class ServedFolder(http.server.ThreadingHTTPServer):
    """A server for signed URLs, with a few lines in place of the api."""

    store: FolderStore

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class ObjectRequest(http.server.BaseHTTPRequestHandler):
    server: ServedFolder

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        try:
            request = self.server.store.urls.verify(
                parts.path.removeprefix("/objects/"), dict(parse_qsl(parts.query)), datetime.now(UTC)
            )
        except Refused:
            return self.send_error(403)
        data = asyncio.run(self.server.store.read(request.key, 0, 64 * MIB))
        self.send_response(200)
        self.send_header("Content-Type", request.content_type)
        self.send_header("Content-Disposition", request.content_disposition)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        return None

    def log_message(self, *_: object) -> None:
        pass


class served_folder:  # noqa: N801 - used as a context manager, like a function
    def __enter__(self) -> ServedFolder:
        self._server = ServedFolder(("127.0.0.1", 0), ObjectRequest)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self._server

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


async def stop(server: S3Server) -> None:
    """Stops the process, and returns once none of its threads runs any more."""
    assert server.process
    server.process.send_signal(signal.SIGSTOP)
    while runs(server.process.pid):  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.005)


def runs(pid: int) -> bool:
    return any(") T " not in (thread / "stat").read_text() for thread in Path(f"/proc/{pid}/task").iterdir())


def go_on(server: S3Server) -> None:
    assert server.process
    server.process.send_signal(signal.SIGCONT)


async def everything_in(stream: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in stream])


async def listed(store: ObjectStore, prefix: str = "") -> list[str]:
    return sorted([entry.key async for entry in store.list(prefix)])


# --- small objects


async def test_what_was_put_is_there(opened: Opened, store: ObjectStore) -> None:
    key, data = opened.key(), secrets.token_bytes(100_000)
    before = datetime.now(UTC)
    await store.put(key, data)
    info = await store.head(key)
    assert info
    assert (info.key, info.size) == (key, len(data))
    assert abs(info.modified - before) < timedelta(minutes=1)
    assert await store.read(key, 0, len(data)) == data
    assert await everything_in(store.stream(key)) == data
    (entry,) = [entry async for entry in store.list()]
    assert (entry.key, entry.size, entry.modified.replace(microsecond=0)) == (
        info.key,
        info.size,
        info.modified.replace(microsecond=0),
    )


async def test_a_second_put_replaces_the_first(opened: Opened, store: ObjectStore) -> None:
    await store.put(opened.key(), b"a longer first version")
    await store.put(opened.key(), b"second")
    assert await everything_in(store.stream(opened.key())) == b"second"
    assert await listed(store) == [opened.key()]


async def test_an_empty_object_is_an_object(opened: Opened, store: ObjectStore) -> None:
    await store.put(opened.key(), b"")
    info = await store.head(opened.key())
    assert info
    assert info.size == 0
    assert await store.read(opened.key(), 0, 10) == b""
    assert await everything_in(store.stream(opened.key())) == b""
    assert await everything_in(store.stream(opened.key(), 0, 10)) == b""


@pytest.mark.parametrize(
    ("start", "length"), [(0, 1), (0, 0), (3, 0), (999, 1), (990, 100), (1000, 10), (5000, 10), (0, 1000), (0, 5000)]
)
async def test_a_range_is_what_slicing_gives(opened: Opened, store: ObjectStore, start: int, length: int) -> None:
    data = secrets.token_bytes(1000)
    await store.put(opened.key(), data)
    assert await store.read(opened.key(), start, length) == data[start : start + length]
    assert await everything_in(store.stream(opened.key(), start, length)) == data[start : start + length]
    assert await everything_in(store.stream(opened.key(), start)) == data[start:]


@pytest.mark.parametrize("size", [256 * 1024 - 1, 256 * 1024, 256 * 1024 + 1, MIB, MIB + 1])
async def test_objects_around_the_sizes_at_which_reading_changes_are_read_whole(
    opened: Opened, store: ObjectStore, size: int
) -> None:
    data = secrets.token_bytes(size)
    await store.put(opened.key(), data)
    assert await store.read(opened.key(), 0, size) == data
    assert await store.read(opened.key(), 0, size + 1) == data
    assert await store.read(opened.key(), 5, size) == data[5:]
    assert await everything_in(store.stream(opened.key())) == data
    assert await everything_in(store.stream(opened.key(), size - 3)) == data[-3:]


async def test_a_large_object_is_streamed_in_chunks(opened: Opened, store: ObjectStore) -> None:
    data = secrets.token_bytes(5 * MIB + 17)
    await store.put(opened.key(), data)
    chunks = [chunk async for chunk in store.stream(opened.key(), 5, 5 * MIB)]
    assert b"".join(chunks) == data[5 : 5 + 5 * MIB]
    assert all(MIB / 2 < len(chunk) < 3 * MIB for chunk in chunks[:-1])


async def test_a_stream_may_be_left_early(opened: Opened, store: ObjectStore) -> None:
    data = secrets.token_bytes(4 * MIB)
    await store.put(opened.key(), data)
    async with aclosing(store.stream(opened.key())) as stream:
        async for chunk in stream:
            assert data.startswith(chunk)
            break
    assert await store.read(opened.key(), 0, 10) == data[:10]


async def test_an_absent_object_is_missing_and_deleting_it_is_a_no_op(opened: Opened, store: ObjectStore) -> None:
    key = opened.key()
    assert await store.head(key) is None
    for length in (0, 10):
        with pytest.raises(ObjectMissing):
            await store.read(key, 0, length)
        with pytest.raises(ObjectMissing):
            await anext(store.stream(key, 0, length))
    with pytest.raises(ObjectMissing):
        await anext(store.stream(key))
    await store.delete(key)
    await store.delete()


async def test_deleting_removes_what_it_names_and_nothing_else(opened: Opened, store: ObjectStore) -> None:
    thumbnail = thumbnail_key(opened.tenant_id, "ab" * 32)
    for key in (opened.key("a"), opened.key("b"), opened.key("c"), thumbnail):
        await store.put(key, b"x")
    await store.delete(opened.key("a"), opened.key("absent"), thumbnail)
    assert await listed(store) == sorted([opened.key("b"), opened.key("c")])
    assert await store.head(opened.key("a")) is None


async def test_one_tenant_neither_lists_nor_reaches_another(opened: Opened, store: ObjectStore) -> None:
    other = opened.again(f"{opened.tenant_id}x")  # its id begins with ours: a wrong prefix would list it
    theirs = content_key(f"{opened.tenant_id}x", "ab" * 32)
    await other.put(theirs, b"theirs")
    await store.put(opened.key(), b"ours")
    assert await listed(store) == [opened.key()]
    assert await listed(store, theirs) == []
    for call in (store.put(theirs, b""), store.read(theirs, 0, 1), store.head(theirs), store.delete(theirs)):
        with pytest.raises(ValueError, match="not a key of tenant"):
            await call
    with pytest.raises(ValueError, match="not a key of tenant"):
        await anext(store.stream(theirs))
    with pytest.raises(ValueError, match="not a key of tenant"):
        store.sign(theirs, expires_in=timedelta(minutes=1), content_type="a/b", content_disposition="inline")
    await other.delete(theirs)
    await other.aclose()


async def test_a_listing_is_by_the_keys_first_characters(opened: Opened, store: ObjectStore) -> None:
    prefix = f"tenant/{opened.tenant_id}/"
    keys = [f"{prefix}{name}" for name in ("aa1", "aa2", "ab", ".thumbnails/aa1", ".thumbnails/ab")]
    for key in keys:
        await store.put(key, b"x")
    await store.stage("waiting")
    assert await listed(store) == sorted(keys)
    assert await listed(store, "tenant/") == sorted(keys)
    assert await listed(store, prefix) == sorted(keys)
    assert await listed(store, f"{prefix}aa") == keys[:2]
    assert await listed(store, keys[0]) == [keys[0]]
    assert await listed(store, f"{prefix}.thumbnails/") == sorted(keys[3:])
    assert await listed(store, f"{prefix}.thumbnails/aa") == [keys[3]]
    assert await listed(store, f"{prefix}.staging/") == []
    assert await listed(store, f"{prefix}zz/y") == []


async def test_a_listing_goes_on_after_a_thousand_keys(opened: Opened, store: ObjectStore) -> None:
    keys = [opened.key(str(number)) for number in range(1005)]
    turns = asyncio.Semaphore(16)

    async def put(key: str) -> None:
        async with turns:
            await store.put(key, b"x")

    await asyncio.gather(*map(put, keys))
    assert await listed(store) == sorted(keys)
    await store.delete(*keys)
    assert await listed(store) == []


async def test_a_listing_passes_over_keys_that_only_others_use(s3: S3Server) -> None:
    opened = opened_s3(s3, f"t{secrets.token_hex(6)}")
    ours = sorted(opened.key(str(number)) for number in range(5))
    for key in ours:
        await opened.store.put(key, b"x")
    opened.client.put_object(Bucket=opened.bucket, Key=f"{ours[2]}\nz", Body=b"of somebody else")
    assert await listed(opened.store) == ours
    opened.client.delete_object(Bucket=opened.bucket, Key=f"{ours[2]}\nz")
    await opened.store.delete(*ours)
    await opened.store.aclose()


async def test_puts_of_one_key_at_the_same_time_leave_one_of_them_whole(opened: Opened, store: ObjectStore) -> None:
    versions = [bytes([number]) * (2 * MIB) for number in range(8)]
    await asyncio.gather(*(store.put(opened.key(), version) for version in versions))
    assert await everything_in(store.stream(opened.key())) in versions
    assert opened.everything("") == [opened.key()]


async def test_a_removal_ends_in_time_and_leaves_what_it_did_not_come_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await s3_servers.start("versitygw", tmp_path)
    opened = opened_s3(server, "tslow")
    keys = [opened.key(str(number)) for number in range(60)]
    try:
        for key in keys:
            await opened.store.put(key, b"x")
        await stop(server)
        started = Stopwatch()
        with monkeypatch.context() as patch:
            patch.setattr(s3_module, "DELETE_SECONDS", 0.5)
            with pytest.raises(Unavailable, match=r"S3 did not answer: it was not done after 0\.5 seconds"):
                await opened.store.delete(*keys)
        assert started.seconds() < 2
        go_on(server)
        await asyncio.sleep(1)  # the request under way when it stopped is carried out now
        assert len(await listed(opened.store)) >= 30
        await opened.store.delete(*keys)
        assert await listed(opened.store) == []
    finally:
        server.stop()


async def test_a_removal_from_a_folder_ends_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FolderStore(tmp_path, "tslow", b"", "http://127.0.0.1:1")
    key = content_key("tslow", "ab" * 32)
    await store.put(key, b"x")
    with monkeypatch.context() as patch:
        patch.setattr(folder_module, "DELETE_SECONDS", -1.0)
        with pytest.raises(Unavailable, match="the folder does not answer"):
            await store.delete(key)
    await asyncio.sleep(0.1)  # the thread that was given up
    assert await listed(store) == [key]


async def test_a_folder_reads_what_the_kernel_does_not_have_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_cached(path: Path) -> int:
        raise BlockingIOError(errno.EAGAIN, "not cached", str(path))

    store = FolderStore(tmp_path, "tcold", b"", "http://127.0.0.1:1")
    key, data = content_key("tcold", "ab" * 32), secrets.token_bytes(100_000)
    await store.put(key, data)
    with (tmp_path / key).open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # the bytes have to come from the disk
    assert await store.read(key, 0, len(data)) == data
    monkeypatch.setattr(page_cache, "_open", not_cached)
    assert await store.read(key, 10, 20) == data[10:30]
    assert await everything_in(store.stream(key)) == data
    with pytest.raises(ObjectMissing):
        await store.read(f"{key}0", 0, 1)


async def test_an_append_whose_write_was_cancelled_is_closed_without_holding_up_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderStore(tmp_path, "tslow", b"", "http://127.0.0.1:1")
    begun, goes_on, write_all = threading.Event(), threading.Event(), folder_pieces.write_all
    went_on = []

    def slow(file: int, data: bytes | bytearray | memoryview) -> None:
        begun.set()
        went_on.append(goes_on.wait(3))
        write_all(file, data)

    monkeypatch.setattr(folder_pieces, "write_all", slow)
    append = store.append("upload", 0, None)
    await append.write(bytes(folder_pieces.CHUNK_BYTES))
    waiting = asyncio.create_task(append.durable())
    assert await asyncio.to_thread(begun.wait, 10)
    waiting.cancel()
    await asyncio.wait((waiting,))
    closing = asyncio.create_task(append.close())
    asyncio.get_running_loop().call_later(0, goes_on.set)
    await closing
    assert went_on == [True]
    assert list((tmp_path / "tenant" / "tslow" / ".staging").iterdir()) == []


async def test_a_folder_whose_files_are_cut_short_gives_no_other_bytes_for_those_that_are_gone(tmp_path: Path) -> None:
    store = FolderStore(tmp_path, "tcut", b"", "http://127.0.0.1:1")
    first = store.append("upload", 0, None)
    await first.write(b"x" * 1000)
    (piece,) = (await first.durable(to_the_end=True)).pieces
    await first.kept()
    await first.close()
    os.truncate(tmp_path / "tenant" / "tcut" / ".staging" / piece.name, 500)
    then = store.append("upload", 1, piece)
    with pytest.raises(Unavailable, match="shorter than what was recorded"):
        await then.write(b"x" * MIB)
        await then.durable(to_the_end=True)
    await then.close()

    key = content_key("tcut", "ab" * 32)
    await store.put(key, bytes(3 * MIB))
    got = 0
    async for chunk in store.stream(key):
        got += len(chunk)
        os.truncate(tmp_path / key, MIB)
    assert got == MIB


async def test_a_folder_that_was_removed_is_made_again(tmp_path: Path) -> None:
    root = tmp_path / "objects"
    store = FolderStore(root, "tgone", b"", "http://127.0.0.1:1")
    key = content_key("tgone", "ab" * 32)
    await store.put(key, b"x")
    for remove in (root / "tenant" / "tgone" / ".staging", root / "tenant", root):
        shutil.rmtree(remove)
        await store.put(key, b"y")
        assert await store.read(key, 0, 1) == b"y"
    shutil.rmtree(root)
    await store.probe()
    assert root.is_dir()


# --- large objects


async def staged(
    store: ObjectStore, data: bytes, name: str = "upload", chunk: int = 300_000, key: str | None = None
) -> Any:
    upload = await store.stage(name, at_most=len(data), key=key)
    for start in range(0, len(data), chunk):
        await upload.write(data[start : start + chunk])
    return upload


@pytest.mark.parametrize(
    ("size", "chunk"), [(40 * MIB + 1, 300_000), (16 * MIB, 16 * MIB), (9 * MIB, 64 * 1024), (3, 1)]
)
async def test_a_large_object_appears_whole_when_it_is_promoted(
    opened: Opened, store: ObjectStore, size: int, chunk: int
) -> None:
    data = secrets.token_bytes(size)
    upload = await staged(store, data, chunk=chunk)
    assert upload.size == size
    assert await listed(store) == []
    await upload.finish()
    assert await listed(store) == []
    assert await store.head(opened.key()) is None
    await upload.promote(opened.key())
    await upload.discard()
    digest = hashlib.sha256()
    async for part in store.stream(opened.key()):
        digest.update(part)
    assert digest.digest() == hashlib.sha256(data).digest()
    assert opened.everything("upload") == [opened.key()]


async def test_a_large_object_may_be_taken_from_a_source_in_between(opened: Opened, store: ObjectStore) -> None:
    data = secrets.token_bytes(21 * MIB + 5)
    upload, hashing = await store.stage("upload", at_most=len(data)), TrailingHash(hashlib.sha256(), most_behind=2)
    await upload.write(data[: MIB - 1])
    source = Held(data[MIB - 1 : -100])
    while source.left > 3:
        before = source.left
        assert 0 < await upload.take(source, hashing, before - 3) == before - source.left
    assert await upload.take(source, hashing, 0) == 0
    assert await upload.take(source, hashing, 100) == 3
    await upload.write(data[-100:])
    assert upload.size == len(data)
    await upload.finish()
    await upload.promote(opened.key())
    await upload.discard()
    assert await everything_in(store.stream(opened.key())) == data
    assert await hashing.hexdigest() == hashlib.sha256(data[MIB - 1 : -100]).hexdigest()


async def test_promoting_is_repeatable_until_it_is_discarded(opened: Opened, store: ObjectStore) -> None:
    await store.put(opened.key("a"), b"what was there before")
    upload = await staged(store, b"staged" * 1000)
    await upload.finish()
    for name in ("a", "a", "b"):
        await upload.promote(opened.key(name))
    await upload.discard()
    await upload.discard()
    for name in ("a", "b"):
        assert await everything_in(store.stream(opened.key(name))) == b"staged" * 1000
    assert opened.everything("upload") == sorted([opened.key("a"), opened.key("b")])


async def test_the_moment_of_promotion_is_when_the_object_was_modified(opened: Opened, store: ObjectStore) -> None:
    upload = await staged(store, b"x")
    await upload.finish()
    await asyncio.sleep(1.1)  # S3 tells whole seconds
    await store.put(opened.key("before"), b"x")
    await upload.promote(opened.key("a"))
    await store.put(opened.key("after"), b"x")
    before, promoted, after = [await store.head(opened.key(name)) for name in ("before", "a", "after")]
    await upload.discard()
    assert before
    assert promoted
    assert after
    assert before.modified <= promoted.modified <= after.modified


async def test_finished_staged_bytes_can_be_read_before_they_have_a_key(opened: Opened, store: ObjectStore) -> None:
    data = secrets.token_bytes(9 * MIB)
    upload = await staged(store, data)
    await upload.finish()
    assert await upload.read(8 * MIB - 5, 10) == data[8 * MIB - 5 : 8 * MIB + 5]
    assert await upload.read(len(data) - 5, 10) == data[-5:]
    await upload.discard()


async def test_an_empty_staged_object_is_an_empty_object(opened: Opened, store: ObjectStore) -> None:
    upload = await store.stage("upload")
    await upload.write(b"")
    await upload.finish()
    await upload.promote(opened.key())
    await upload.discard()
    info = await store.head(opened.key())
    assert info
    assert info.size == 0


async def test_an_unfinished_object_is_not_promoted(opened: Opened, store: ObjectStore) -> None:
    upload = await staged(store, b"x" * 100)
    with pytest.raises(RuntimeError, match="after finish"):
        await upload.promote(opened.key())
    await upload.discard()


@pytest.mark.parametrize("size", [0, 100, 20 * MIB])
async def test_discarding_before_the_end_leaves_nothing(opened: Opened, store: ObjectStore, size: int) -> None:
    upload = await staged(store, bytes(size))
    await upload.discard()
    await upload.discard()
    assert opened.everything("upload") == []


async def test_an_upload_that_is_cancelled_in_a_write_can_be_discarded(opened: Opened, store: ObjectStore) -> None:
    upload = await store.stage("upload")
    await upload.write(bytes(9 * MIB))
    writing = asyncio.create_task(upload.write(bytes(30 * MIB)))
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.wait({writing})
    await upload.discard()
    assert opened.everything("upload") == []


async def test_uploads_at_the_same_time_do_not_mix(opened: Opened, store: ObjectStore) -> None:
    async def one(number: int) -> None:
        upload = await staged(store, bytes([number]) * (9 * MIB), name=f"upload-{number}")
        await upload.finish()
        await upload.promote(opened.key(str(number)))
        await upload.discard()

    await asyncio.gather(*map(one, range(6)))
    for number in range(6):
        data = await everything_in(store.stream(opened.key(str(number))))
        assert data == bytes([number]) * (9 * MIB)


async def test_memory_is_what_the_store_says_and_does_not_grow_with_the_object(opened: Opened) -> None:
    """The child stages and streams 1 MiB, 30 MiB, 120 MiB, and reports how far its peak memory rose each time."""
    async with child(opened, "measure", opened.key()) as running:
        first, then = [int(await line(running)) for _ in range(2)]
    assert first < opened.store.memory_of(30 * MIB) + 10 * MIB, f"{first / MIB:.0f} MiB more"
    # 90 MiB more of the object. The first one may have had fewer parts on their way at a time: a part has 5 MiB.
    assert then < 15 * MIB, f"{then / MIB:.0f} MiB more"


async def test_more_than_was_announced_is_refused(opened: Opened, store: ObjectStore) -> None:
    upload = await store.stage("upload", at_most=1000)
    await upload.write(bytes(600))
    with pytest.raises(ValueError, match="more than the 1,000 bytes"):
        await upload.write(bytes(401))
    await upload.write(bytes(400))
    await upload.finish()
    assert upload.size == 1000
    await upload.discard()


@pytest.mark.parametrize(
    ("at_most", "part_bytes"),
    [
        (0, 5 * MIB),
        (512 * MIB, 5 * MIB),
        (USUAL_MOST, 5 * MIB),
        (9_900 * 5 * MIB, 5 * MIB),
        (9_900 * 5 * MIB + 1, 6 * MIB),
        (80_000 * MIB, 9 * MIB),
        (5 * 1024**4, 530 * MIB),
    ],
)
def test_parts_are_as_small_as_they_can_be(at_most: int, part_bytes: int) -> None:
    assert s3_module.part_bytes_for(at_most) == part_bytes
    assert part_bytes * 9_900 >= at_most
    assert part_bytes == 5 * MIB or (part_bytes - MIB) * 9_900 < at_most


async def test_s3_takes_nothing_larger_than_it_can_hold() -> None:
    store = S3Store(s3_servers.nobody(), "tlarge")
    with pytest.raises(ValueError, match="S3 takes no object of more than 5,497,558,138,880 bytes"):
        await store.stage("upload", at_most=5 * 1024**4 + 1)
    assert store.memory_of(3 * MIB) == 7 * MIB
    assert store.memory_of() == 14 * MIB
    assert store.memory_of(80_000 * MIB) == 22 * MIB


async def test_an_object_that_may_be_large_is_made_of_larger_parts(s3: S3Server) -> None:
    opened = opened_s3(s3, f"t{secrets.token_hex(6)}")
    data = secrets.token_bytes(20 * MIB)
    upload = await opened.store.stage("upload", at_most=9_900 * 8 * MIB)
    await upload.write(data)
    await upload.finish()
    staging = f"tenant/{opened.tenant_id}/.staging/upload"
    made_of = (await asyncio.to_thread(opened.client.head_object, Bucket=opened.bucket, Key=staging))["ETag"]
    assert made_of.endswith('-3"'), made_of  # two parts of 8 MiB and a rest; of 5 MiB it would be four
    await upload.promote(opened.key())
    await upload.discard()
    assert await everything_in(opened.store.stream(opened.key())) == data
    await opened.store.delete(opened.key())
    await opened.store.aclose()


async def test_a_copy_beyond_one_requests_size_is_made_in_parts(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_module, "COPY_PART_BYTES", 5 * MIB)  # S3's smallest; really 128 MiB
    opened = opened_s3(s3, f"t{secrets.token_hex(6)}")
    data = secrets.token_bytes(42 * MIB + 5)
    upload = await staged(opened.store, data)
    await upload.finish()
    await upload.promote(opened.key())
    await upload.promote(opened.key())
    await upload.discard()
    assert await everything_in(opened.store.stream(opened.key())) == data
    assert opened.everything("upload") == [opened.key()]
    await opened.store.delete(opened.key())
    await opened.store.aclose()


async def test_a_copy_that_fails_or_is_cut_leaves_no_parts_and_can_be_made_again(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_module, "COPY_PART_BYTES", 5 * MIB)
    opened = opened_s3(s3, f"t{secrets.token_hex(6)}")
    data = secrets.token_bytes(60 * MIB)
    upload = await staged(opened.store, data)
    await upload.finish()
    await upload.promote(opened.key("warm"))  # boto3 is loaded
    for patience in (0.0, 0.005, 0.02, 0.05):
        promoting = asyncio.create_task(upload.promote(opened.key()))
        await asyncio.sleep(patience)
        promoting.cancel()
        await asyncio.wait({promoting})
    async with asyncio.timeout(60):
        while await asyncio.to_thread(opened.unfinished, opened.key()):  # noqa: ASYNC110 - the threads tell nobody
            await asyncio.sleep(0.05)
    await upload.promote(opened.key())
    assert await everything_in(opened.store.stream(opened.key())) == data

    staging = f"tenant/{opened.tenant_id}/.staging/upload"
    await asyncio.to_thread(opened.client.delete_object, Bucket=opened.bucket, Key=staging)
    with pytest.raises(Unavailable, match="S3 answered NoSuchKey"):
        await upload.promote(opened.key("b"))
    assert opened.unfinished(opened.key("b")) == []
    assert await opened.store.head(opened.key("b")) is None
    await upload.discard()
    await opened.store.delete(opened.key(), opened.key("warm"))
    await opened.store.aclose()


async def test_a_server_may_take_its_time_to_join_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = await s3_servers.start("versitygw", tmp_path)
    opened = opened_s3(server, "tjoins")
    try:
        for joined_a_second, patient in ((64 * MIB, False), (MIB // 4, True)):
            monkeypatch.setattr(s3_module, "JOINED_BYTES_A_SECOND", joined_a_second)
            upload = staged_by_s3(await staged(opened.store, bytes(6 * MIB)))
            await asyncio.sleep(0.2)
            await stop(server)
            upload._part_timeout = timedelta(milliseconds=400)
            finishing = asyncio.create_task(upload.finish())
            await asyncio.sleep(1.5)
            go_on(server)
            if patient:
                await finishing
            else:
                with pytest.raises(Unavailable, match="S3 did not answer: it takes too long"):
                    await finishing
            await upload.discard()
        assert opened.everything("upload") == []
    finally:
        server.stop()


async def test_a_server_that_hangs_under_an_upload_is_noticed_and_a_client_that_pauses_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await s3_servers.start("versitygw", tmp_path)
    opened = opened_s3(server, "thangs")
    soon = timedelta(seconds=1)
    try:
        upload = staged_by_s3(await opened.store.stage("upload"))
        patiently = upload._part_timeout
        await upload.write(bytes(6 * MIB))
        upload._part_timeout = soon
        await upload.write(bytes(MIB))
        await asyncio.sleep(2)  # a slow client
        upload._part_timeout = patiently
        await upload.write(bytes(7 * MIB))
        await stop(server)
        upload._part_timeout = soon
        async with asyncio.timeout(60):
            with pytest.raises(Unavailable, match="S3 did not answer: it takes too long"):
                await upload.write(bytes(40 * MIB))
            with pytest.raises(Unavailable, match="S3 did not answer: it takes too long"):
                await upload.finish()
        go_on(server)

        async def is_gone() -> bool:
            """A part that the server still takes keeps an upload alive that was aborted, as in AWS' S3."""
            with contextlib.suppress(Unavailable):
                await upload.discard()
            return opened.everything("upload") == []

        await eventually(is_gone)

        upload = staged_by_s3(await opened.store.stage("upload"))
        await stop(server)
        upload._part_timeout = soon
        async with asyncio.timeout(60):
            await upload.write(bytes(MIB))
            with pytest.raises(Unavailable, match="S3 did not answer: it takes too long"):
                await upload.finish()
        go_on(server)
        await upload.discard()

        upload = staged_by_s3(await opened.again().stage("upload"))
        await upload.write(bytes(7 * MIB))
        await asyncio.sleep(0.5)
        await stop(server)
        upload._part_timeout = soon
        monkeypatch.setattr(s3_module, "ANSWER_TIMEOUT", soon)
        async with asyncio.timeout(60):
            with pytest.raises(Unavailable, match="S3 did not answer"):
                await upload.discard()
        go_on(server)
        await eventually(is_gone)
    finally:
        server.stop()


def staged_by_s3(upload: StagedObject) -> s3_module.S3StagedObject:
    assert isinstance(upload, s3_module.S3StagedObject)
    return upload


# --- large objects whose key is known before


@pytest.mark.parametrize("size", [0, 100, 12 * MIB])
async def test_an_object_whose_key_is_known_needs_no_copy(opened: Opened, store: ObjectStore, size: int) -> None:
    data = secrets.token_bytes(size)
    upload = await staged(store, data, key=opened.key())
    assert await listed(store) == []
    await upload.finish()
    assert await upload.read(0, 10) == data[:10]
    await upload.promote(opened.key())
    await upload.promote(opened.key())
    await upload.discard()
    await upload.discard()
    assert await everything_in(store.stream(opened.key())) == data
    assert opened.everything("upload") == [opened.key()]


async def test_an_object_goes_to_another_key_than_it_was_begun_for(opened: Opened, store: ObjectStore) -> None:
    upload = await staged(store, b"x" * 100, key=opened.key("a"))
    await upload.finish()
    await upload.promote(opened.key("b"))
    await upload.discard()
    assert await store.read(opened.key("b"), 0, 3) == b"xxx"


async def test_an_upload_that_ends_early_takes_nothing_from_another_to_the_same_key(
    opened: Opened, store: ObjectStore
) -> None:
    data = secrets.token_bytes(12 * MIB)
    await store.put(opened.key(), data)
    first = await staged(store, data, name="first", key=opened.key())
    second = await staged(store, data, name="second", key=opened.key())
    await first.discard()
    assert await everything_in(store.stream(opened.key())) == data
    await second.finish()
    await second.promote(opened.key())
    await second.discard()
    assert await everything_in(store.stream(opened.key())) == data
    assert opened.everything("") == [opened.key()]


async def test_what_an_upload_to_a_known_key_leaves_is_swept_where_the_server_lists_it(
    servers: dict[str, S3Server], tmp_path_factory: pytest.TempPathFactory
) -> None:
    server = await the_server(servers, "versitygw", tmp_path_factory)  # MinIO does not, and drops it itself
    opened = opened_s3(server, f"t{secrets.token_hex(6)}")
    upload = await staged(opened.store, bytes(12 * MIB), key=opened.key())
    assert opened.unfinished(opened.key()) != []
    assert await opened.store.sweep_staging(timedelta(hours=1)) == 0
    assert await opened.store.sweep_staging(NOW) == 1
    with pytest.raises(Unavailable):
        await upload.finish()
    await upload.discard()
    await opened.store.sweep_staging(NOW)
    assert opened.everything("") == opened.unfinished(opened.key()) == []
    await opened.store.aclose()


async def test_an_object_that_was_removed_before_it_was_promoted_is_no_object(s3: S3Server) -> None:
    opened = opened_s3(s3, f"t{secrets.token_hex(6)}")
    upload = await staged(opened.store, bytes(100), key=opened.key())
    await upload.finish()
    await opened.store.delete(opened.key())
    with pytest.raises(Unavailable, match="has to be sent again"):
        await upload.promote(opened.key())
    await upload.discard()
    await opened.store.aclose()


# --- objects that come in pieces


class Pieces:
    """What a caller has recorded of one object."""

    def __init__(self, store: ObjectStore, name: str = "upl-1") -> None:
        self.store = store
        self.name = name
        self.recorded: list[Piece] = []

    def begin(self) -> Appending:
        last = self.recorded[-1] if self.recorded else None
        return self.store.append(self.name, len(self.recorded), last, at_most=64 * MIB)

    async def record(self, append: Appending, *, to_the_end: bool = True) -> None:
        durable = await append.durable(to_the_end=to_the_end)
        self.recorded[durable.first :] = durable.pieces or self.recorded[durable.first :]
        await append.kept()

    async def add(self, data: bytes) -> None:
        append = self.begin()
        for start in range(0, len(data), 256 * 1024):
            await append.write(data[start : start + 256 * 1024])
            if append.is_due:
                await self.record(append, to_the_end=False)
        await self.record(append)
        await append.close()

    async def add_from_source(self, data: bytes) -> None:
        append, hashing = self.begin(), TrailingHash(hashlib.sha256())
        begin, source = data[:10], Held(data[10:])
        await append.write(begin)
        while source.left:
            before = source.left
            assert await append.take(source, hashing) == before - source.left
            if append.is_due:
                await self.record(append, to_the_end=False)
        await self.record(append)
        await append.close()
        assert await hashing.hexdigest() == hashlib.sha256(data[10:]).hexdigest()

    @property
    def whole(self) -> GatheredObject:
        return self.store.gathered(self.name, self.recorded)


@pytest.mark.parametrize(
    "sizes",
    [(10,), (1, 2, 3), (6 * MIB,), (1, 20 * MIB, 1), (3 * MIB, 3 * MIB, 3 * MIB, 5), (5 * MIB, 5 * MIB)],
    ids=["small", "tiny ones", "one", "large between tiny ones", "pieces smaller than a part", "whole parts"],
)
@pytest.mark.parametrize("from_source", [False, True], ids=["written", "from a source"])
async def test_an_object_in_pieces_is_what_was_appended(
    opened: Opened, store: ObjectStore, sizes: tuple[int, ...], from_source: bool
) -> None:
    parts = [secrets.token_bytes(size) for size in sizes]
    data = b"".join(parts)
    pieces = Pieces(store)
    for part in parts:
        await (pieces.add_from_source(part) if from_source else pieces.add(part))
    whole = pieces.whole
    assert whole.size == len(data)
    assert b"".join([bytes(chunk) async for chunk in whole.stream()]) == data
    assert await listed(store) == []
    await whole.finish()
    for start in {0, len(data) // 2, max(0, len(data) - 5)}:
        assert await whole.read(start, 10) == data[start : start + 10]
    for _ in range(2):
        await whole.promote(opened.key())
    assert await everything_in(store.stream(opened.key())) == data
    await whole.discard()
    await whole.discard()
    assert opened.everything("upl-1") == [opened.key()]


@pytest.mark.parametrize("chunk", [61_440, 250_001, MIB])
async def test_of_what_comes_at_most_16_mib_wait_to_be_recorded_in_chunks_of_any_size(
    store: ObjectStore, chunk: int
) -> None:
    pieces = Pieces(store)
    append = pieces.begin()
    came = 0
    while came <= 40 * MIB:
        await append.write(bytes(chunk))
        came += chunk
        if append.is_due:
            await pieces.record(append, to_the_end=False)
        assert came - sum(piece.size for piece in pieces.recorded) < 16 * MIB
    await append.close()
    await pieces.whole.discard()


async def test_of_what_a_source_has_at_most_16_mib_wait_to_be_recorded(store: ObjectStore) -> None:
    pieces = Pieces(store)
    append, came, source = pieces.begin(), 3 * MIB - 7, Held(bytes(40 * MIB))
    await append.write(bytes(MIB))
    await append.write(bytes(2 * MIB - 7))
    while source.left:
        came += await append.take(source, TrailingHash())
        assert came - sum(piece.size for piece in pieces.recorded) <= 16 * MIB
        if append.is_due:
            await pieces.record(append, to_the_end=False)
    await append.close()
    await pieces.whole.discard()


async def test_bytes_that_were_not_recorded_do_not_count_and_are_not_left(opened: Opened, store: ObjectStore) -> None:
    first, wrong, second = (secrets.token_bytes(size) for size in (7 * MIB, 12 * MIB, 6 * MIB))
    pieces = Pieces(store)
    for recorded in (first, second):
        append = pieces.begin()
        for start in range(0, len(wrong), MIB):
            await append.write(wrong[start : start + MIB])
        await append.durable(to_the_end=True)
        await append.close()
        await pieces.add(recorded)
    assert b"".join([bytes(chunk) async for chunk in pieces.whole.stream()]) == first + second
    await pieces.whole.discard()
    assert opened.everything("upl-1") == []


async def test_an_append_to_a_full_disk_is_told_so_and_what_was_durable_before_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int, data: bytes) -> None:
        os.write(file, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    pieces = Pieces(FolderStore(tmp_path, "tfull", b"", "http://127.0.0.1:1"))
    begin, rest = secrets.token_bytes(3 * MIB), secrets.token_bytes(2 * MIB)
    await pieces.add(begin)
    with monkeypatch.context() as patch:
        patch.setattr(folder_pieces, "write_all", full)
        append = pieces.begin()
        with pytest.raises(NotNow, match="the disk of the object store is full"):
            for start in range(0, len(rest), MIB):
                await append.write(rest[start : start + MIB])
            await append.durable(to_the_end=True)
        await append.close()
        append = pieces.begin()
        await append.write(rest)  # it is under way when its caller gives up
        await append.close()
    await pieces.add(rest)
    gathered = pieces.store.gathered(pieces.name, pieces.recorded)
    assert await everything_in(gathered.stream()) == begin + rest


@pytest.mark.parametrize("before", [2 * MIB, 0], ids=["has begun", "has not begun"])
async def test_one_that_appends_too_late_changes_no_byte_of_its_successors(
    opened: Opened, store: ObjectStore, before: int
) -> None:
    first, late, second = (secrets.token_bytes(6 * MIB) for _ in range(3))
    pieces = Pieces(store)
    await pieces.add(first)
    slow = pieces.begin()
    if before:
        await slow.write(late[:before])
    await pieces.add(second[: 2 * MIB])
    with contextlib.suppress(PieceGone):  # S3's, which was replaced
        await slow.write(late[before:])
        await slow.durable(to_the_end=True)
    await pieces.add(second[2 * MIB :])
    await slow.close()
    whole = pieces.whole
    await whole.finish()
    await whole.promote(opened.key())
    assert await everything_in(store.stream(opened.key())) == first + second
    await whole.discard()
    assert opened.everything("upl-1") == [opened.key()]


@pytest.mark.parametrize("before", [2 * MIB, 0], ids=["has begun", "has not begun"])
async def test_one_that_appends_too_late_changes_no_byte_of_what_has_its_key(
    opened: Opened, store: ObjectStore, before: int
) -> None:
    data, late = secrets.token_bytes(6 * MIB), secrets.token_bytes(6 * MIB)
    pieces = Pieces(store)
    await pieces.add(data)
    slow = pieces.begin()
    if before:
        await slow.write(late[:before])
    whole = pieces.whole
    await whole.finish()
    await whole.promote(opened.key())
    await slow.write(late[before:])
    await slow.durable(to_the_end=True)
    assert await everything_in(store.stream(opened.key())) == data
    await slow.close()
    await whole.discard()
    assert opened.everything("upl-1") == [opened.key()]


async def test_pieces_of_what_is_alive_are_not_swept(opened: Opened, store: ObjectStore) -> None:
    alive, dead = Pieces(store, "upl-1"), Pieces(store, "upl-2")
    for pieces in (alive, dead):
        await pieces.add(b"bytes")
    assert await store.sweep_staging(NOW, {"upl-1"}) == 1
    assert b"".join([bytes(chunk) async for chunk in alive.whole.stream()]) == b"bytes"
    with pytest.raises(Unavailable):
        await anext(dead.whole.stream())
    assert await store.sweep_staging(NOW) == 1


# --- processes that die


@asynccontextmanager
async def child(opened: Opened, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        CHILD,
        *arguments,
        env={**os.environ, **opened.environment, "MEDIA_TENANT_ID": opened.tenant_id},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()


async def line(running: asyncio.subprocess.Process) -> str:
    assert running.stdout
    return (await asyncio.wait_for(running.stdout.readline(), 60)).decode().strip()


@pytest.mark.parametrize("state", ["writing", "finished"])
async def test_what_a_killed_upload_leaves_is_not_visible_and_is_swept(
    opened: Opened, store: ObjectStore, state: str
) -> None:
    async with child(opened, "stage", state) as running:
        assert await line(running) == state
        running.kill()
        await running.wait()
    await store.put(opened.key(), b"bystander")
    assert await listed(store) == [opened.key()]
    assert await store.sweep_staging(timedelta(hours=1)) == 0
    assert len(opened.everything("upload")) > 1
    assert await store.sweep_staging(NOW) >= 1
    assert opened.everything("upload") == [opened.key()]
    assert await store.sweep_staging(NOW) == 0


async def test_a_put_cut_by_kill_9_leaves_the_old_bytes_or_the_new(opened: Opened, store: ObjectStore) -> None:
    versions = {bytes([byte]) * (8 * MIB) for byte in b"ab"}
    for patience in (0.005, 0.03):
        async with child(opened, "put", opened.key()) as running:
            assert await line(running) == "started"
            await asyncio.sleep(patience)  # somewhere inside one of its puts, which never end
            running.kill()
            await running.wait()
        assert await everything_in(store.stream(opened.key())) in versions
    await store.sweep_staging(NOW)
    assert opened.everything("") == [opened.key()]


# --- signed URLs


def the_clock_goes_wrong(monkeypatch: pytest.MonkeyPatch, by: timedelta) -> None:
    """Signs URLs as if it were another time, so that a test need not wait for their expiry."""
    for module in (folder_module, s3_module):
        monkeypatch.setattr(module, "_now", lambda: datetime.now(UTC) + by)


@pytest.fixture
def fetch() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=120) as client:
        yield client


DISPOSITION = "attachment; filename=\"na_ve.png\"; filename*=UTF-8''na%C3%AFve%20%26%20more.png"


async def test_a_plain_client_gets_the_bytes_under_the_signed_type_and_disposition(
    opened: Opened, store: ObjectStore, fetch: httpx.Client
) -> None:
    data = secrets.token_bytes(300_000)
    await store.put(opened.key(), data)
    signed = store.sign(
        opened.key(), expires_in=timedelta(minutes=5), content_type="image/png", content_disposition=DISPOSITION
    )
    answer = await asyncio.to_thread(fetch.get, signed.url)
    assert answer.status_code == 200
    assert answer.content == data
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-disposition"] == DISPOSITION
    assert timedelta(minutes=4, seconds=50) < signed.expires_at - datetime.now(UTC) <= timedelta(minutes=5)


async def test_a_url_that_was_tampered_with_is_refused(opened: Opened, store: ObjectStore, fetch: httpx.Client) -> None:
    await store.put(opened.key("a"), b"ours to give")
    await store.put(opened.key("b"), b"not signed for")
    url = store.sign(
        opened.key("a"), expires_in=timedelta(minutes=5), content_type="image/png", content_disposition="inline"
    ).url
    parts = httpx.URL(url)
    tampered = {
        "another key": url.replace(opened.key("a"), opened.key("b")),
        "no query": str(parts.copy_with(query=None)),
        **{
            f"{name} changed": str(parts.copy_set_param(name, changed(value)))
            for name, value in parts.params.items()
            if name != "X-Amz-Algorithm"
        },
        **{f"{name} gone": str(parts.copy_remove_param(name)) for name in parts.params},
    }
    for change, address in tampered.items():
        answer = await asyncio.to_thread(fetch.get, address)
        assert answer.status_code in (400, 403), f"{change}: {answer.status_code}"
        assert b"ours to give" not in answer.content
    assert (await asyncio.to_thread(fetch.get, url)).content == b"ours to give"


def changed(value: str) -> str:
    return "text/html" if "/" in value and value.count("/") == 1 else value[:-1] + ("1" if value[-1] != "1" else "2")


async def test_an_expired_url_is_refused(
    opened: Opened, store: ObjectStore, fetch: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put(opened.key(), b"too late")
    the_clock_goes_wrong(monkeypatch, -timedelta(minutes=6))
    url = store.sign(
        opened.key(), expires_in=timedelta(minutes=5), content_type="image/png", content_disposition="inline"
    ).url
    answer = await asyncio.to_thread(fetch.get, url)
    assert answer.status_code == 403
    assert b"too late" not in answer.content


async def test_urls_are_signed_for_the_public_endpoint(s3: S3Server, fetch: httpx.Client) -> None:
    public = s3.settings.endpoint.replace("127.0.0.1", "localhost")
    if public == s3.settings.endpoint:
        pytest.skip("this server is not known by a second name")
    store = S3Store(s3.settings.model_copy(update={"public_endpoint": public}), "tpublic")
    key = content_key("tpublic", "ab" * 32)
    await store.put(key, b"seen from outside")
    url = store.sign(key, expires_in=timedelta(minutes=5), content_type="a/b", content_disposition="inline").url
    assert url.startswith(f"{public}/")
    assert (await asyncio.to_thread(fetch.get, url)).content == b"seen from outside"
    wrong_host = url.replace("localhost", "127.0.0.1")
    assert (await asyncio.to_thread(fetch.get, wrong_host)).status_code == 403
    await store.delete(key)
    await store.aclose()


@cache
def _boto3_that_signs(endpoint: str, token: str | None) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="eu-central-1",
        aws_access_key_id="AKIA/EXAMPLE",
        aws_secret_access_key="secret+/=",
        aws_session_token=token,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://127.0.0.1:9000",
        "https://s3.eu-central-1.amazonaws.com",
        "https://S3.example:443",
        "http://s3.example:80",
    ],
)
@pytest.mark.parametrize("disposition", ["inline", DISPOSITION, "a b+c/d~e&f=g?h#i", "żółć"])
@pytest.mark.parametrize("token", [None, "IQoJ//+b3J=="])
def test_a_url_is_the_one_that_botocore_signs(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, disposition: str, token: str | None
) -> None:
    now = datetime(2026, 11, 28, 1, 2, 3, tzinfo=UTC)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: now.replace(tzinfo=None))
    key = content_key("a-tenant_1.x", "ab" * 32)
    theirs = _boto3_that_signs(endpoint, token).generate_presigned_url(
        "get_object",
        Params={
            "Bucket": "media-tests",
            "Key": key,
            "ResponseContentType": "text/plain; charset=utf-8",
            "ResponseContentDisposition": disposition,
        },
        ExpiresIn=300,
    )
    ours = presigned_get(
        endpoint,
        "media-tests",
        key,
        region="eu-central-1",
        signer=S3Key("AKIA/EXAMPLE", "secret+/=", token),
        now=now,
        seconds=300,
        answered_with={"content-type": "text/plain; charset=utf-8", "content-disposition": disposition},
    )
    assert urlsplit(ours).path == urlsplit(theirs).path
    assert dict(parse_qsl(urlsplit(ours).query)) == dict(parse_qsl(urlsplit(theirs).query))


# --- outages


async def every_call_is_unavailable(store: ObjectStore, key: str, wanted: str = "") -> None:
    """None of them takes minutes: the bound is far above the measured times, and far below a client's timeout."""
    async with asyncio.timeout(60):
        for call in (
            store.put(key, b"x"),
            store.stage("upload"),
            store.read(key, 0, 1),
            anext(store.stream(key)),
            store.head(key),
            store.delete(key),
            anext(store.list()),
            store.sweep_staging(NOW),
            store.probe(),
        ):
            with pytest.raises(Unavailable, match=wanted) as outage:
                await call
            assert outage.value.dependency == "object store"
            assert len(outage.value.detail) < 300


async def test_a_server_that_is_not_there_is_unavailable_within_seconds() -> None:
    store = S3Store(s3_servers.nobody(), "tdown")
    await every_call_is_unavailable(store, content_key("tdown", "ab" * 32), "S3 did not answer")


async def test_a_server_that_says_nothing_is_unavailable_within_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await s3_servers.start("versitygw", tmp_path)
    await S3Store(server.settings, "thung").put(content_key("thung", "ab" * 32), b"x")
    for name in ("ANSWER_TIMEOUT", "COPY_TIMEOUT", "PROBE_TIMEOUT"):
        monkeypatch.setattr(s3_module, name, timedelta(milliseconds=300))
    monkeypatch.setattr(s3_module, "RETRY_TIMEOUT", timedelta(milliseconds=500))
    store = S3Store(server.settings, "thung")
    await stop(server)
    try:
        await every_call_is_unavailable(store, content_key("thung", "ab" * 32), "S3 did not answer")
    finally:
        server.stop()


async def test_a_server_that_dies_under_an_upload_ends_it_and_the_rest_is_swept_later(tmp_path: Path) -> None:
    server = await s3_servers.start("versitygw", tmp_path)
    assert server.process
    assert server.folder
    opened = opened_s3(server, "tdies")
    upload = await opened.store.stage("upload")
    await upload.write(bytes(20 * MIB))
    server.process.kill()
    server.process.wait()
    async with asyncio.timeout(60):
        with pytest.raises(Unavailable):
            for _ in range(100):
                await upload.write(bytes(MIB))
        with pytest.raises(Unavailable):
            await upload.finish()
        with pytest.raises(Unavailable):
            await upload.discard()
    back = await s3_servers.start("versitygw", server.folder, like=server)
    try:
        await opened.store.probe()
        assert await opened.store.sweep_staging(NOW) >= 1
        assert opened.everything("upload") == []
    finally:
        back.stop()


@pytest.fixture
async def liar(
    servers: dict[str, S3Server], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[LyingS3, S3Store]]:
    """A gateway before versitygw, and a store that goes through it."""
    async with lying((await the_server(servers, "versitygw", tmp_path_factory)).settings) as proxy:
        store = S3Store(proxy.settings, f"t{secrets.token_hex(6)}")
        yield proxy, store
        await store.aclose()


async def test_what_a_gateway_answers_in_place_of_s3_does_not_pass_for_a_piece_in_staging(
    liar: tuple[LyingS3, S3Store],
) -> None:
    gateway, store = liar
    gateway.answer(r"PUT .*/\.staging/", body=b"<html>")
    append = Pieces(store).begin()
    await append.write(b"small")
    with pytest.raises(Unavailable, match="S3 does not have what was uploaded"):
        await append.durable(to_the_end=True)
    await append.close()


async def test_a_piece_that_s3_did_not_take_is_put_again_under_another_name(liar: tuple[LyingS3, S3Store]) -> None:
    """Since what came of the first try may appear later than the second."""
    gateway, store = liar
    gateway.answer(r"PUT .*/\.staging/", "503 Slow Down", once=True)
    pieces = Pieces(store)
    await pieces.add(b"bytes")
    first, second = gateway.requests
    assert first != second
    assert second.endswith(pieces.recorded[0].name)
    assert b"".join([bytes(chunk) async for chunk in pieces.whole.stream()]) == b"bytes"


@pytest.mark.parametrize("size", [5 * MIB, 8 * MIB, 12 * MIB])
async def test_what_a_request_put_on_s3_is_not_read_again_by_the_next(liar: tuple[LyingS3, S3Store], size: int) -> None:
    gateway, store = liar
    pieces, requests = Pieces(store), 3
    for _ in range(requests):
        await pieces.add_from_source(bytes(size))
    assert len(gateway.requests) == len(pieces.recorded) == requests * (size // (5 * MIB))
    assert sum(piece.size for piece in pieces.recorded) == requests * size


async def test_what_a_gateway_answers_in_place_of_s3_does_not_pass_for_a_stored_object(
    liar: tuple[LyingS3, S3Store],
) -> None:
    gateway, store = liar
    key = content_key(store._tenant_id, "ab" * 32)

    async def refused(*, put: bool) -> None:
        upload = await staged(store, bytes(9 * MIB), name=secrets.token_hex(4))
        await upload.finish()
        with pytest.raises(Unavailable, match="S3 does not have what was uploaded"):
            await (store.put(key, b"small") if put else upload.promote(key))
        gateway.tell_truth()
        await upload.discard()
        assert await store.head(key) is None or put is False

    # A redirect to a page, which obstore follows with a GET; a page in place of a copy; a join that was never made.
    gateway.answer(f"PUT .*/{key}$", "303 See Other", head="Location: /sign-in")
    gateway.answer("GET /sign-in", body=b"<html>")
    await refused(put=True)
    gateway.answer(f"PUT .*/{key}$", body=b"<html>")
    await refused(put=False)
    made = b'<CompleteMultipartUploadResult><ETag>"ab-2"</ETag></CompleteMultipartUploadResult>'
    gateway.answer("POST .*uploadId=", body=made)
    await refused(put=False)


@pytest.mark.parametrize("body", [b"<html>", b"<Error><Code>NoSuchBucket</Code></Error>"], ids=["gateway", "bucket"])
async def test_a_server_that_answers_404_to_everything_has_lost_no_piece(
    liar: tuple[LyingS3, S3Store], body: bytes
) -> None:
    """Else the bytes of all uploads under way would have to come again."""
    gateway, store = liar
    pieces, key = Pieces(store), content_key(store._tenant_id, "13" * 32)
    for size in (6 * MIB, 7 * MIB, 10):
        await pieces.add_from_source(bytes(size))
    gateway.answer(".", "404 Not Found", body=body)
    append, whole = pieces.begin(), pieces.whole
    await whole.finish()
    for call in (whole.promote(key), whole.read(0, 10), anext(whole.stream()), append.write(b"more")):
        with pytest.raises(Unavailable) as raised:
            await call
        assert not isinstance(raised.value, PieceGone)
    gateway.tell_truth()
    await whole.promote(key)


async def test_pieces_that_a_server_does_not_join_are_sent_to_it_again(liar: tuple[LyingS3, S3Store]) -> None:
    """As Cloudflare's R2, which wants all parts but the last to have one size."""
    gateway, store = liar
    key, data, pieces = content_key(store._tenant_id, "12" * 32), os.urandom(14 * MIB), Pieces(store)
    for start, end in ((0, 6 * MIB), (6 * MIB, len(data))):
        await pieces.add_from_source(data[start:end])
    gateway.answer("POST .*uploadId=", "400 Bad Request", body=b"<Error><Code>InvalidPart</Code></Error>", once=True)
    whole = pieces.whole
    await whole.finish()
    await whole.promote(key)
    assert await store.read(key, 0, len(data) + 1) == data
    await whole.discard()
    assert [entry.key async for entry in store._list(store._prefix)] == [key]


async def test_a_server_that_answers_404_to_the_removal_of_what_is_absent_removes_the_rest(
    liar: tuple[LyingS3, S3Store],
) -> None:
    """As Google's does. A gateway's own 404 is an outage."""
    gateway, store = liar
    absent, there = (content_key(store._tenant_id, digit * 64) for digit in "12")
    await store.put(there, b"bytes")
    gateway.answer(f"DELETE .*/{absent}$", "404 Not Found", body=b"<Error><Code>NoSuchKey</Code></Error>")
    await store.delete(absent, there)
    await store.delete(there, absent)
    assert await store.head(there) is None
    gateway.tell_truth()
    gateway.answer("DELETE ", "404 Not Found", body=b"<html>")
    with pytest.raises(Unavailable, match="S3 answered 404 Not Found"):
        await store.delete(absent, there)


async def test_an_answer_that_comes_a_byte_at_a_time_is_not_waited_for(
    liar: tuple[LyingS3, S3Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_module, "TRICKLE_TIMEOUT", timedelta(milliseconds=300))
    gateway, store = liar
    key = content_key(store._tenant_id, "ab" * 32)
    gateway.answer("GET .*list-type", trickles=True)
    gateway.answer(f"GET .*/{key}$", trickles=True)
    async with asyncio.timeout(60):
        for call in (anext(store.list()), anext(store.stream(key))):
            with pytest.raises(Unavailable, match="not done after"):
                await call


async def test_a_wrong_secret_is_unavailable_and_stays_a_secret(s3: S3Server) -> None:
    wrong = s3.settings.model_copy(update={"secret_access_key": type(s3.settings.secret_access_key)("wrong-secret")})
    store = S3Store(wrong, "twrong")
    with pytest.raises(Unavailable, match="S3 answered SignatureDoesNotMatch") as outage:
        await store.put(content_key("twrong", "ab" * 32), b"x")
    assert "wrong-secret" not in str(outage.value)
    assert outage.value.__cause__ is None
    with pytest.raises(Unavailable, match="S3 answered SignatureDoesNotMatch"):
        await store.probe()
    assert "wrong-secret" not in repr(wrong)


@pytest.mark.parametrize("code", ["InsufficientStorage", "XMinioStorageFull"])
async def test_s3_on_a_full_disk_is_told_so(liar: tuple[LyingS3, S3Store], code: str) -> None:
    proxy, store = liar
    proxy.answer("^PUT ", "507 Insufficient Storage", body=f"<Error><Code>{code}</Code></Error>".encode())
    with pytest.raises(NotNow, match="the disk of the object store is full"):
        await store.put(content_key(store._tenant_id, "ab" * 32), b"x")


async def test_a_missing_bucket_is_an_outage_not_a_missing_object(s3: S3Server) -> None:
    store = S3Store(s3.settings.model_copy(update={"bucket": f"absent-{secrets.token_hex(4)}"}), "tabsent")
    key = content_key("tabsent", "ab" * 32)
    calls = (store.put(key, b"x"), store.read(key, 0, 1), anext(store.stream(key)), store.delete(key), store.probe())
    for call in calls:
        with pytest.raises(Unavailable, match="S3 answered NoSuchBucket"):
            await call


async def test_credentials_in_the_environment_are_not_sent(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "of-somebody-else")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    store = S3Store(s3.settings, "tenv")
    key = content_key("tenv", "ab" * 32)
    await store.put(key, b"x")
    await store.probe()
    await store.delete(key)


async def test_a_folder_that_can_not_be_used_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "objects").write_text("a file where the folder should be")
    store = FolderStore(tmp_path / "objects", "tfile", b"", "http://127.0.0.1:1")
    key = content_key("tfile", "ab" * 32)
    for call in (store.put(key, b"x"), store.stage("upload"), store.probe()):
        with pytest.raises(Unavailable, match="the folder failed"):
            await call


async def test_a_folder_that_has_become_read_only_takes_nothing_and_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    store = FolderStore(tmp_path, "tread", b"", "http://127.0.0.1:1")
    key = content_key("tread", "ab" * 32)
    await store.put(key, b"x")
    real, to_write = os.access, os.W_OK
    monkeypatch.setattr(FolderStore, "_create", read_only)
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & to_write and real(path, mode))
    for call in (store.put(key, b"x"), store.stage("upload")):
        with pytest.raises(NotNow, match="the folder of the object store is read-only"):
            await call
    await store.probe()
    assert await store.read(key, 0, 1) == b"x"


async def test_a_store_that_answers_passes_the_probe(store: ObjectStore) -> None:
    await store.probe()


async def test_a_probe_ends_after_three_seconds(tmp_path: Path) -> None:
    server = await s3_servers.start("versitygw", tmp_path)
    store = S3Store(server.settings, "tprobe")
    await store.probe()
    await stop(server)
    try:
        started = Stopwatch()
        with pytest.raises(Unavailable, match="S3 did not answer"):
            await store.probe()
        assert started.seconds() < 3.5
    finally:
        server.stop()


# --- what a process loads, and how it ends


async def test_a_process_loads_no_more_than_it_uses(opened: Opened) -> None:
    """The child does all that an api does at rest and with small files, and reports which libraries it has loaded."""
    async with child(opened, "loaded", opened.key()) as running:
        assert await line(running) == ("" if "MEDIA_STORE_FOLDER" in opened.environment else "obstore")


async def test_a_process_that_closed_its_store_ends_well(opened: Opened, store: ObjectStore) -> None:
    await store.put(opened.key(), bytes(3 * MIB))
    for _ in range(5):
        async with child(opened, "leave", opened.key()) as running:
            assert await running.wait() == 0


# --- settings


def test_settings_that_can_not_be_are_refused_when_the_store_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDIA_STORE", "folder")
    with pytest.raises(ValueError, match="MEDIA_STORE_FOLDER"):
        open_store(StoreSettings(), "acme")
    monkeypatch.setenv("MEDIA_STORE", "s3")
    with pytest.raises(ValueError, match="endpoint"):
        open_store(StoreSettings(), "acme")
    monkeypatch.setenv("MEDIA_S3_ENDPOINT", "http://key:secret@127.0.0.1:1")
    with pytest.raises(ValueError, match="endpoint"):
        open_store(StoreSettings(), "acme")


async def test_a_store_opened_from_the_environment_is_the_same_store(opened: Opened, store: ObjectStore) -> None:
    await store.put(opened.key(), b"x")
    again = opened.again()
    assert await again.read(opened.key(), 0, 1) == b"x"
    await again.aclose()
