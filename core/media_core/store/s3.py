"""Objects in one bucket of any S3: AWS, versitygw, MinIO, Ceph ...

obstore moves the bytes, with a fraction of boto3's CPU. boto3 does what obstore cannot (`s3_calls`). A large object is
a multipart upload to its staging key; then a server-side copy gives it its final key. If the final key is known before,
the multipart upload goes to that. S3 shows neither before it is whole.

Before the multipart upload an empty object, the marker, is put under the staging key. `sweep_staging` finds it on every
server; MinIO lists unfinished uploads only by their exact key.

The payload of a single put is signed: if the connection of an unsigned one breaks, versitygw keeps the bytes that
arrived under the final key. Parts are not signed, because their SHA-256 would cost more CPU than sending them, and the
ETag of a broken part is never used. Use https if the network to S3 is not trusted.

S3 takes 10,000 parts of 5 MiB to 5 GiB, 5 TiB in all. So the most bytes that may come decide the size of the parts
(`part_bytes_for`), and thereby the memory of an upload (`S3Store.memory_of`).
"""

import asyncio
import contextlib
import re
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store as Bucket
from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from media_core.settings import EnvironmentSettings
from media_core.store.base import (
    CHUNK_BYTES,
    DELETE_SECONDS,
    STAGING,
    USUAL_MOST,
    Chunk,
    ObjectInfo,
    ObjectMissing,
    SignedUrl,
    checked_expiry,
    checked_key,
    checked_most,
    staging_key,
    tenant_prefix,
    unavailable,
)
from media_core.store.encryption import Encryption, checked
from media_core.store.presign import presigned_get

if TYPE_CHECKING:
    from obstore import BytesStream, GetOptions
    from obstore.store import S3Config, S3Credential

    from media_core.store.s3_calls import S3Calls

_T = TypeVar("_T")

PART_BYTES = 5 * 1024 * 1024
"""S3's smallest part."""
MOST_PARTS = 9_900
"""S3 takes 10,000."""
MOST_BYTES = 5 * 1024**4
"""S3's largest object."""
PARTS_IN_FLIGHT = 2
"""One is sent while another fills, or two are sent. More are no faster if S3 is near."""
BLOCKS_BYTES = 4 * CHUNK_BYTES
"""Memory of an upload beside its parts: the block that is gathered, the one that waits, and those that become a part.
Measured with eight uploads at a time: 13.6 MiB each, of which two parts are 10."""
COPY_PART_BYTES = 128 * 1024 * 1024
"""A larger object is copied in parts of this size, four at a time. versitygw on two cores takes 0.3 s for one, and up
to 1.3 s for each of four. A smaller object is faster in one request there, since nothing has to be joined."""

CONNECT_TIMEOUT = timedelta(seconds=3)
ANSWER_TIMEOUT = timedelta(seconds=20)
"""Longest silence of a server. Two parts of 5 MiB, or a small object of 8 MiB, have to be sent in this time, which
needs 4.2 Mbit/s."""
COPY_TIMEOUT = timedelta(seconds=90)
JOINED_BYTES_A_SECOND = 16 * 1024 * 1024
"""Lowest speed that is expected of a server that joins parts. One on a file system copies all parts into one file
before it answers that the upload is complete, which may take longer than any other answer."""
RETRY_TIMEOUT = timedelta(seconds=5)
PROBE_TIMEOUT = timedelta(seconds=3)
SETTLING = timedelta(milliseconds=20)


def part_bytes_for(at_most: int) -> int:
    """The size in bytes of parts of which `MOST_PARTS` hold `at_most` bytes: whole MiB, at least S3's smallest."""
    return max(PART_BYTES, -(-at_most // (MOST_PARTS * CHUNK_BYTES)) * CHUNK_BYTES)


class S3Settings(EnvironmentSettings):
    """Environment variables `MEDIA_S3_*`."""

    model_config = SettingsConfigDict(env_prefix="MEDIA_S3_")

    endpoint: str = Field(pattern=r"^https?://[^/@?#\s]+/?$")
    """URL of the S3 service for this process, e.g. `http://versitygw.storage.svc:7070`. Requests are path-style."""

    public_endpoint: str | None = Field(None, pattern=r"^https?://[^/@?#\s]+/?$")
    """URL of the same service for clients; signed URLs begin with it. Default: `endpoint`."""

    bucket: str = Field(min_length=3, max_length=63)
    """The tenant's bucket. It must exist."""

    region: str = "us-east-1"
    """Region in signatures. Most servers other than AWS accept any."""

    access_key_id: str
    """Access key. It must be allowed to get, put, delete and list under `tenant/{tenant_id}/`, and to list and abort
    multipart uploads."""

    secret_access_key: SecretStr
    """Secret of the access key."""

    sse: Encryption | None = None
    """Encryption at rest that every write names (`x-amz-server-side-encryption`): `AES256` or `aws:kms`. Default: none
    is named, and the bucket's own default holds."""

    sse_kms_key_id: str | None = None
    """Key of KMS for `aws:kms`. Default: the one that S3 uses by itself."""

    @model_validator(mode="after")
    def _key_and_encryption_fit(self) -> "S3Settings":
        checked(self.sse, self.sse_kms_key_id)
        return self


class S3Store:
    """`ObjectStore` on one bucket. Opening it makes no request."""

    def __init__(self, settings: S3Settings, tenant_id: str) -> None:
        self._settings = settings
        self._bucket = settings.bucket
        self._tenant_id = tenant_id
        self._prefix = tenant_prefix(tenant_id)
        self._staging = f"{self._prefix}{STAGING}/"
        self._objects = _open_objects(settings)
        self._whole = _open_objects(settings, signed=True)
        self._prober = _open_objects(settings, answer_timeout=PROBE_TIMEOUT, retries=0)
        self._patient = _open_objects(settings, answer_timeout=timedelta(days=1))
        """For requests that may take longer than others. Their callers set a time limit themselves."""
        self._threads = ThreadPoolExecutor(16, "s3-store")
        """For boto3's calls: they may take minutes, and must not occupy asyncio's few threads."""

    async def put(self, key: str, data: bytes | bytearray | memoryview) -> None:
        await self._put(checked_key(self._tenant_id, key), data)

    async def stage(self, name: str, *, at_most: int = USUAL_MOST, key: str | None = None) -> "S3StagedObject":
        if at_most > MOST_BYTES:
            raise ValueError(f"S3 takes no object of more than {MOST_BYTES:,} bytes")
        staging = staging_key(self._tenant_id, name)
        if key is not None:
            return S3StagedObject(self, checked_key(self._tenant_id, key), at_most, final=True)
        await self._put(staging, b"")
        return S3StagedObject(self, staging, at_most, final=False)

    def memory_of(self, at_most: int = USUAL_MOST) -> int:
        return min(at_most, PARTS_IN_FLIGHT * part_bytes_for(at_most)) + BLOCKS_BYTES

    async def read(self, key: str, start: int, length: int) -> bytes:
        return await self._read(checked_key(self._tenant_id, key), start, length)

    async def stream(self, key: str, start: int = 0, length: int | None = None) -> AsyncGenerator[Chunk, None]:
        checked_key(self._tenant_id, key)
        options: GetOptions = {}
        if length is not None:
            options["range"] = (start, start + length)
        elif start:
            options["range"] = {"offset": start}
        with _outages(key):
            if length == 0:
                await obstore.head_async(self._objects, key)
                return
            try:
                found = await obstore.get_async(self._objects, key, options=options)
            except BaseError as error:
                if _beyond_the_end(error):
                    return
                raise
            chunks = found.stream(CHUNK_BYTES)
            coming = asyncio.ensure_future(_next(chunks))
            try:
                while (chunk := await coming) is not None:
                    coming = asyncio.ensure_future(_next(chunks))  # the next one comes while this one is used
                    yield chunk
            finally:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)

    async def head(self, key: str) -> ObjectInfo | None:
        checked_key(self._tenant_id, key)
        with _outages():
            try:
                found = await obstore.head_async(self._objects, key)
            except FileNotFoundError:
                return None
        return ObjectInfo(key, found["size"], found["last_modified"])

    async def delete(self, *keys: str) -> None:
        await self._delete(*(checked_key(self._tenant_id, key) for key in keys))

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        async for entry in self._list(prefix):
            if not entry.key.startswith(self._staging):
                yield entry

    def sign(self, key: str, *, expires_in: timedelta, content_type: str, content_disposition: str) -> SignedUrl:
        seconds = checked_expiry(expires_in)
        now = _now()
        url = presigned_get(
            (self._settings.public_endpoint or self._settings.endpoint).rstrip("/"),
            self._bucket,
            checked_key(self._tenant_id, key),
            region=self._settings.region,
            access_key_id=self._settings.access_key_id,
            secret_access_key=self._settings.secret_access_key.get_secret_value(),
            now=now,
            seconds=seconds,
            answered_with={"content-type": content_type, "content-disposition": content_disposition},
        )
        return SignedUrl(url, now + timedelta(seconds=seconds))

    async def sweep_staging(self, older_than: timedelta) -> int:
        before = _now() - older_than
        stale = [entry.key async for entry in self._list(self._staging) if entry.modified <= before]
        for key in stale:
            await self._discard(key)
        # And unfinished copies, if the server lists uploads by prefix. MinIO does not, and drops them itself.
        return len(stale) + await self._call(lambda calls: calls.abort_uploads(self._prefix, before))

    async def probe(self) -> None:
        # A prefix without objects keeps the answer short: obstore cannot limit a listing to one entry.
        nothing = f"{self._staging}probe/"
        async with _ended_within(PROBE_TIMEOUT):
            await obstore.list(self._prober, nothing).collect_async()

    async def aclose(self) -> None:
        # obstore's threads may still be releasing Python objects; a process that ends at that moment is aborted.
        await asyncio.sleep(SETTLING.total_seconds())
        self._threads.shutdown(wait=False)
        if "_calls" in vars(self):
            self._calls.close()

    async def ensure_bucket(self) -> None:
        """Creates the bucket unless this account has it. Raises Unavailable, also if another account has it."""
        await self._call(lambda calls: calls.make_bucket())

    async def _put(self, key: str, data: bytes | bytearray | memoryview) -> None:
        with _outages():
            await obstore.put_async(self._whole, key, data, use_multipart=False)

    async def _read(self, key: str, start: int, length: int) -> bytes:
        with _outages(key):
            if length == 0:
                await obstore.head_async(self._objects, key)
                return b""
            try:
                return bytes(await obstore.get_range_async(self._objects, key, start=start, length=length))
            except BaseError as error:
                if _beyond_the_end(error):
                    return b""
                raise

    async def _list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        # obstore lists by whole path segments: so list the folder that holds the prefix, at most the tenant's own.
        folder = max(prefix[: prefix.rfind("/") + 1], self._prefix, key=len)
        if not folder.startswith(self._prefix):
            return
        with _outages():
            async for batch in obstore.list(self._objects, folder, chunk_size=1000):
                for found in batch:
                    if found["path"].startswith(prefix):
                        yield ObjectInfo(found["path"], found["size"], found["last_modified"])

    async def _copy(self, source: str, key: str, size: int, stopped: threading.Event) -> None:
        if size <= COPY_PART_BYTES:
            async with _ended_within(COPY_TIMEOUT):
                await obstore.copy_async(self._patient, source, key)
        else:
            part_bytes = max(COPY_PART_BYTES, part_bytes_for(size))
            joined_in = COPY_TIMEOUT + _joining(size)
            await self._call(
                lambda calls: calls.copy_in_parts(source, key, size, part_bytes, COPY_TIMEOUT, joined_in, stopped)
            )

    async def _discard(self, key: str) -> None:
        """Aborts the unfinished upload of a staging key, then deletes the marker, without which nothing finds it."""
        await self._call(lambda calls: calls.abort_uploads(key, None))
        await self._delete(key)

    async def _delete(self, *keys: str) -> None:
        async with _ended_within(timedelta(seconds=DELETE_SECONDS)):
            await obstore.delete_async(self._objects, keys)

    async def _call(self, work: "Callable[[S3Calls], _T]") -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(self._calls))

    @cached_property
    def _calls(self) -> "S3Calls":
        from media_core.store.s3_calls import S3Calls

        return S3Calls(self._settings, CONNECT_TIMEOUT, ANSWER_TIMEOUT)


class _Discarded(Exception):
    """Raised into obstore's multipart upload, so that obstore aborts it."""


class S3StagedObject:
    """A multipart upload under way: `write` hands over blocks of 1 MiB, and obstore makes parts of them.

    `final`: it goes to its final key, not to staging. S3 has to answer in time, but there is no limit on the time
    between two blocks of the client.
    """

    def __init__(self, store: S3Store, key: str, at_most: int, *, final: bool) -> None:
        self.size = 0
        self._store = store
        self._key = key
        self._at_most = at_most
        self._part_bytes = part_bytes_for(at_most)
        self._part_timeout = ANSWER_TIMEOUT * (self._part_bytes / PART_BYTES)
        self._limit = asyncio.timeout(None)
        self._final = final
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._blocks: asyncio.Queue[bytes | _Discarded | None] = asyncio.Queue(1)
        self._sending: asyncio.Task[None] | None = None
        self._ended = False
        """All blocks have been handed over."""
        self._finished = False

    async def write(self, chunk: bytes | memoryview) -> None:
        checked_most(self._at_most, self.size + len(chunk))
        left = memoryview(chunk)
        while left:
            # obstore keeps a reference until the part is sent, so memory that the caller may change is copied.
            block = chunk if isinstance(chunk, bytes) and len(chunk) <= CHUNK_BYTES else bytes(left[:CHUNK_BYTES])
            left = left[CHUNK_BYTES:]
            self._gathered.append(block)
            self._gathered_bytes += len(block)
            self.size += len(block)
            if self._gathered_bytes >= CHUNK_BYTES:
                await self._hand_over()

    async def finish(self) -> None:
        if self._gathered_bytes:
            await self._hand_over()
        if self._sending:
            await self._put(self._sending, None)
            self._ended = True
            await asyncio.shield(self._sending)  # after a cancellation `discard` ends it
        elif self._final:  # otherwise the empty marker is the object
            await self._store._put(self._key, b"")
        self._finished = True

    async def promote(self, key: str) -> None:
        if not self._finished:
            raise RuntimeError("a staged object is promoted after finish()")
        if checked_key(self._store._tenant_id, key) == self._key:
            found = await self._store.head(key)
            if found is None or found.size != self.size:
                raise unavailable("what was uploaded has been removed since; it has to be sent again")
            return
        stopped = threading.Event()
        try:
            await self._store._copy(self._key, key, self.size, stopped)
        except asyncio.CancelledError:
            stopped.set()  # the threads run on until they see it
            raise

    async def read(self, start: int, length: int) -> bytes:
        return await self._store._read(self._key, start, length)

    async def discard(self) -> None:
        if self._sending and not self._sending.done():
            if self._ended:
                self._sending.cancel()  # S3 joins the parts, which may take minutes
            else:
                while not self._blocks.empty():
                    self._blocks.get_nowait()
                self._blocks.put_nowait(_Discarded())
        if self._sending:
            await asyncio.gather(self._sending, return_exceptions=True)  # its result no longer matters
        if self._final:
            # Either it is visible and may belong to a row by now, or obstore has aborted it. A part that S3 took after
            # that is left to the sweep: it cannot be told from another upload to this key.
            return
        if self._sending and not self._finished:
            await self._store._discard(self._key)
        else:
            await self._store._delete(self._key)

    async def _hand_over(self) -> None:
        block = b"".join(self._gathered)
        self._gathered, self._gathered_bytes = [], 0
        if not self._sending:
            self._sending = asyncio.create_task(self._send())
        await self._put(self._sending, block)

    async def _put(self, sending: "asyncio.Task[None]", block: bytes | None) -> None:
        """Waits for room in the queue, or raises the upload's error."""
        putting = asyncio.create_task(self._blocks.put(block))
        try:
            await asyncio.wait({putting, sending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            putting.cancel()
        if sending.done():
            sending.result()

    async def _send(self) -> None:
        try:
            async with self._limit:
                self._ends_in(self._part_timeout)
                with _outages():
                    await obstore.put_async(
                        self._store._patient,
                        self._key,
                        self._in_order(),
                        use_multipart=True,
                        chunk_size=self._part_bytes,
                        max_concurrency=PARTS_IN_FLIGHT,
                    )
        except TimeoutError:
            raise unavailable("S3 did not answer: it takes too long to store the object") from None

    async def _in_order(self) -> AsyncIterator[bytes]:
        while True:
            self._ends_in(None)
            block = await self._blocks.get()
            self._ends_in(self._part_timeout)
            if block is None:
                break
            if isinstance(block, _Discarded):
                raise block
            yield block
        self._ends_in(self._part_timeout + _joining(self.size))

    def _ends_in(self, limit: timedelta | None) -> None:
        now = asyncio.get_running_loop().time()
        with contextlib.suppress(RuntimeError):  # it has ended already
            self._limit.reschedule(None if limit is None else now + limit.total_seconds())


def _now() -> datetime:
    return datetime.now(UTC)


def _joining(size: int) -> timedelta:
    """How long a server may take to join parts."""
    return timedelta(seconds=size / JOINED_BYTES_A_SECOND)


async def _next(chunks: "BytesStream") -> memoryview | None:
    """A view of what obstore has received, not a copy. None at the end."""
    try:
        return memoryview(await anext(chunks))
    except StopAsyncIteration:
        return None


def _open_objects(
    settings: S3Settings, *, signed: bool = False, answer_timeout: timedelta | None = None, retries: int = 3
) -> Bucket:
    def credentials() -> "S3Credential":
        return {
            "access_key_id": settings.access_key_id,
            "secret_access_key": settings.secret_access_key.get_secret_value(),
            "token": None,
            "expires_at": None,
        }

    encryption: S3Config = {}
    if settings.sse:
        encryption["server_side_encryption"] = settings.sse
    if settings.sse_kms_key_id:
        encryption["sse_kms_key_id"] = settings.sse_kms_key_id
    return Bucket(
        settings.bucket,
        config=encryption,
        endpoint=settings.endpoint,
        region=settings.region,
        virtual_hosted_style_request=False,
        unsigned_payload=not signed,
        disable_bulk_delete=True,  # not every S3 has it, and nothing deletes many objects at once
        # A provider, not the two keys: with the keys alone, a session token in the environment would be sent too.
        credential_provider=credentials,
        client_options={
            "allow_http": settings.endpoint.startswith("http://"),
            "connect_timeout": CONNECT_TIMEOUT,
            "read_timeout": answer_timeout or ANSWER_TIMEOUT,
            "timeout": timedelta(days=1),  # of a whole download by a slow client; `read_timeout` notices a dead server
        },
        retry_config={
            "max_retries": retries,
            "retry_timeout": RETRY_TIMEOUT,
            "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2), "base": 2},
        },
    )


@contextlib.contextmanager
def _outages(key: str | None = None) -> Iterator[None]:
    """Turns obstore's errors into the contract's: ObjectMissing if `key` is given, otherwise Unavailable.

    Their text is not passed on, since it quotes the server's whole answer.
    """
    try:
        yield
    except FileNotFoundError as error:
        if key and "NoSuchBucket" not in str(error):
            raise ObjectMissing(key) from None
        raise unavailable(_sentence(error)) from None
    except BaseError as error:
        raise unavailable(_sentence(error)) from None


@contextlib.asynccontextmanager
async def _ended_within(limit: timedelta) -> AsyncIterator[None]:
    """Cancels the block after `limit`, whatever retries and keys are left, and raises Unavailable."""
    seconds = limit.total_seconds()
    try:
        async with asyncio.timeout(seconds):
            with _outages():
                yield
    except TimeoutError:
        raise unavailable(f"S3 did not answer: it was not done after {seconds:g} seconds") from None


def _sentence(error: Exception) -> str:
    text = str(error)
    if code := re.search(r"<Code>(\w+)</Code>", text):
        return f"S3 answered {code[1]}"
    if status := re.search(r"status code: (\d{3}[ \w]*)", text):
        return f"S3 answered {status[1].strip()}"
    return f"S3 did not answer: {text.splitlines()[0].rpartition(' - ')[2]}"


def _beyond_the_end(error: BaseError) -> bool:
    return "status code: 416" in str(error)
