"""Objects in one bucket of any S3: AWS, versitygw, MinIO, Ceph ...

obstore moves the bytes, with a fraction of boto3's CPU. boto3 does what obstore cannot (`s3_calls`). A large object is
a multipart upload to its staging key; then a server-side copy gives it its final key. If the final key is known before,
the multipart upload goes to that. S3 shows neither before it is whole.

Before the multipart upload an empty object, the marker, is put under the staging key. `sweep_staging` finds it on every
server; MinIO lists unfinished uploads only by their exact key.

The payload of a single put is signed: if the connection of an unsigned one breaks, versitygw keeps the bytes that
arrived under the final key. Parts are not signed, because their SHA-256 would cost more CPU than sending them, and the
ETag of a broken part is never used. Nor are pieces (`s3_pieces`), since the name of a broken one is never used. Use
https if the network to S3 is not trusted.

S3 takes 10,000 parts of 5 MiB to 5 GiB, 5 TiB in all. So the most bytes that may come decide the size of the parts
(`part_bytes_for`), and thereby the memory of an upload (`S3Store.memory_of`).
"""

import asyncio
import contextlib
import re
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store as Bucket

from media_core.errors import Unavailable
from media_core.store.base import (
    CHUNK_BYTES,
    DELETE_SECONDS,
    STAGING,
    USUAL_MOST,
    BodySource,
    Chunk,
    ObjectInfo,
    Piece,
    SignedUrl,
    checked_expiry,
    checked_key,
    checked_most,
    may_be_in_a_key,
    name_in_staging,
    pass_on,
    staging_key,
    tenant_prefix,
    to_its_end,
    unavailable,
)
from media_core.store.credentials import S3Keys
from media_core.store.presign import presigned_get
from media_core.store.s3_outages import beyond_the_end, ended_within, outages
from media_core.store.s3_pieces import S3Appending, S3GatheredObject
from media_core.store.s3_settings import S3Settings
from media_core.store.trailing_hash import MEMORY_BYTES, TrailingHash
from media_core.trust import authorities

if TYPE_CHECKING:
    from obstore import BytesStream, GetOptions
    from obstore.store import S3Config, S3Credential

    from media_core.store.s3_calls import S3Calls

_T = TypeVar("_T")

_ETAG = re.compile(r'"?[0-9a-f]{32}"?', re.IGNORECASE)
"""Of an object that was put in one request, on every S3 we know: 32 hex digits, though not always an MD5."""

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
LEAST_BLOCK_BYTES = CHUNK_BYTES // 2
"""Smaller ones are gathered. To join larger ones costs more than to hand over each."""
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
_INVALID_PATH = "object with invalid path"
"""In obstore's error for a key that it does not take."""
TRICKLE_TIMEOUT = timedelta(seconds=60)
"""Longest time for one page of a listing, and for a chunk of a stream. An answer that goes on coming, a byte now and
then, is never silent for `ANSWER_TIMEOUT`."""
RETRY_TIMEOUT = timedelta(seconds=5)
PROBE_TIMEOUT = timedelta(seconds=3)
SETTLING = timedelta(milliseconds=20)
KEY_KEPT = timedelta(minutes=6)
"""How long obstore may take a key of a file for good. It asks again when less than 5 minutes are left, so after one: a
key that was replaced before its end is not used for much longer."""


def part_bytes_for(at_most: int) -> int:
    """The size in bytes of parts of which `MOST_PARTS` hold `at_most` bytes: whole MiB, at least S3's smallest."""
    return max(PART_BYTES, -(-at_most // (MOST_PARTS * CHUNK_BYTES)) * CHUNK_BYTES)


class S3Store:
    """`ObjectStore` on one bucket. Opening it makes no request."""

    def __init__(self, settings: S3Settings, tenant_id: str) -> None:
        self._settings = settings
        self._bucket = settings.bucket
        self._tenant_id = tenant_id
        self._prefix = tenant_prefix(tenant_id)
        self._staging = f"{self._prefix}{STAGING}/"
        self._keys = settings.keys()
        self._opened = _Clients(settings, self._keys)
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

    def append(self, name: str, count: int, last: Piece | None, *, at_most: int = USUAL_MOST) -> "S3Appending":
        return S3Appending(self, name, count, last, part_bytes_for(at_most))

    def memory_of_append(self, at_most: int = USUAL_MOST) -> int:
        return PARTS_IN_FLIGHT * (part_bytes_for(at_most) + CHUNK_BYTES) + MEMORY_BYTES

    def gathered(self, name: str, pieces: Sequence[Piece]) -> "S3GatheredObject":
        return S3GatheredObject(self, pieces)

    async def read(self, key: str, start: int, length: int) -> bytes:
        return await self._read(checked_key(self._tenant_id, key), start, length)

    async def stream(self, key: str, start: int = 0, length: int | None = None) -> AsyncGenerator[Chunk, None]:
        async with contextlib.aclosing(self._stream(checked_key(self._tenant_id, key), start, length)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _stream(self, key: str, start: int = 0, length: int | None = None) -> AsyncGenerator[Chunk, None]:
        options: GetOptions = {}
        if length is not None:
            options["range"] = (start, start + length)
        elif start:
            options["range"] = {"offset": start}
        with outages(key):
            if length == 0:
                await obstore.head_async(self._clients.objects, key)
                return
            try:
                found = await obstore.get_async(self._clients.objects, key, options=options)
            except BaseError as error:
                if beyond_the_end(error):
                    return
                raise
            chunks = found.stream(CHUNK_BYTES)
            coming = asyncio.ensure_future(_next(chunks))
            try:
                while (chunk := await _in_time(coming)) is not None:
                    coming = asyncio.ensure_future(_next(chunks))  # the next one comes while this one is used
                    yield chunk
            finally:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)

    async def head(self, key: str) -> ObjectInfo | None:
        return await self._head(checked_key(self._tenant_id, key))

    async def delete(self, *keys: str) -> None:
        await self._delete(*(checked_key(self._tenant_id, key) for key in keys))

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        async for entry in self._list(prefix):
            if not entry.key.startswith(self._staging):
                yield entry

    def sign(self, key: str, *, expires_in: timedelta, content_type: str, content_disposition: str) -> SignedUrl:
        key_to_s3, now = self._keys.current(), _now()
        # S3 refuses the URL of a key that has ended, however long the URL says that it lives.
        seconds = min(checked_expiry(expires_in), key_to_s3.seconds_left(now))
        if seconds < 1:
            raise unavailable("the key to S3 is about to end, and no other has come")
        url = presigned_get(
            (self._settings.public_endpoint or self._settings.endpoint).rstrip("/"),
            self._bucket,
            checked_key(self._tenant_id, key),
            region=self._settings.region,
            signer=key_to_s3,
            now=now,
            seconds=seconds,
            answered_with={"content-type": content_type, "content-disposition": content_disposition},
        )
        return SignedUrl(url, now + timedelta(seconds=seconds))

    async def sweep_staging(self, older_than: timedelta, keep: Collection[str] = ()) -> int:
        before = _now() - older_than
        stale = [
            entry.key
            async for entry in self._list(self._staging)
            if entry.modified <= before and name_in_staging(entry.key.removeprefix(self._staging)) not in keep
        ]
        for key in stale:
            await self._discard(key)
        # And unfinished copies, if the server lists uploads by prefix. MinIO does not, and drops them itself.
        return len(stale) + await self._call(lambda calls: calls.abort_uploads(self._prefix, before))

    async def probe(self) -> None:
        # A prefix without objects keeps the answer short: obstore cannot limit a listing to one entry.
        nothing = f"{self._staging}probe/"
        async with ended_within(PROBE_TIMEOUT):
            await obstore.list(self._clients.prober, nothing).collect_async()

    async def aclose(self) -> None:
        # obstore's threads may still be releasing Python objects; a process that ends at that moment is aborted.
        await asyncio.sleep(SETTLING.total_seconds())
        self._threads.shutdown(wait=False)
        if "_calls" in vars(self):
            self._calls.close()

    async def _put(self, key: str, data: bytes | bytearray | memoryview, *, once: bool = False) -> None:
        """`once`: the payload is not signed, and nothing is sent again."""
        with outages():
            client = self._clients.once if once else self._clients.whole
            done = await obstore.put_async(client, key, data, use_multipart=False)
        if not _ETAG.fullmatch(done["e_tag"] or ""):
            # Perhaps a page of a gateway, to which a redirect has led (obstore follows 303 with a GET).
            await self._require(key, len(data))

    async def _head(self, key: str) -> ObjectInfo | None:
        with outages():
            try:
                found = await obstore.head_async(self._clients.objects, key)
            except FileNotFoundError:
                return None
        return ObjectInfo(key, found["size"], found["last_modified"])

    async def _require(self, key: str, size: int) -> None:
        """Raises Unavailable unless S3 has this object, whole: not every gateway that answers 200 has made one."""
        found = await self._head(key)
        if found is None or found.size != size:
            raise unavailable("S3 does not have what was uploaded; it has to be sent again")

    async def _read(self, key: str, start: int, length: int) -> bytes:
        async with ended_within(TRICKLE_TIMEOUT + ANSWER_TIMEOUT * (length / PART_BYTES), key):
            if length == 0:
                await obstore.head_async(self._clients.objects, key)
                return b""
            try:
                return bytes(await obstore.get_range_async(self._clients.objects, key, start=start, length=length))
            except BaseError as error:
                if beyond_the_end(error):
                    return b""
                raise

    async def _list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        # obstore lists by whole path segments: so list the folder that holds the prefix, at most the tenant's own.
        folder = max(prefix[: prefix.rfind("/") + 1], self._prefix, key=len)
        if not folder.startswith(self._prefix):
            return
        async with contextlib.aclosing(self._pages(folder)) as pages:
            async for page in pages:
                for found in page:
                    if found.key.startswith(prefix):
                        yield found

    async def _pages(self, folder: str) -> AsyncGenerator[Sequence[ObjectInfo], None]:
        """All objects below a folder. obstore takes no key with an empty segment or a line break: where somebody else
        has put such an object, boto3 goes on from there.
        """
        batches, after = aiter(obstore.list(self._clients.objects, folder, chunk_size=1000)), ""
        try:
            while True:
                async with ended_within(TRICKLE_TIMEOUT):
                    batch = await anext(batches, None)
                if batch is None:
                    return
                page: Sequence[ObjectInfo] = [
                    ObjectInfo(found["path"], found["size"], found["last_modified"]) for found in batch
                ]
                yield page
                after = page[-1].key if page else after
        except Unavailable as error:
            if _INVALID_PATH not in error.detail:
                raise
        while page := await self._objects_after(folder, after):
            yield [found for found in page if all(map(may_be_in_a_key, found.key.split("/")))]
            after = page[-1].key

    async def _objects_after(self, folder: str, after: str) -> Sequence[ObjectInfo]:
        return await self._call(lambda calls: calls.objects_after(folder, after))

    async def _copy(self, source: str, key: str, size: int) -> None:
        if size <= COPY_PART_BYTES:
            async with ended_within(COPY_TIMEOUT):
                await obstore.copy_async(self._clients.patient, source, key)
            await self._require(key, size)
        else:
            part_bytes = max(COPY_PART_BYTES, part_bytes_for(size))
            starts = range(0, size, part_bytes)
            await self._join([(source, start, min(start + part_bytes, size)) for start in starts], key, size)

    async def _join(self, sources: Sequence[tuple[str, int, int]], key: str, size: int) -> None:
        """Makes one object of parts of others: their keys, and from where to where."""
        joined_in = COPY_TIMEOUT + _joining(size)
        stopped = threading.Event()

        def join(calls: "S3Calls") -> None:
            from media_core.store.s3_calls import CopiedPart

            parts = [CopiedPart(*source) for source in sources]
            calls.copy_in_parts(parts, key, COPY_TIMEOUT, joined_in, stopped)

        try:
            await self._call(join)
        except asyncio.CancelledError:
            stopped.set()  # the threads run on until they see it
            raise
        await self._require(key, size)

    async def _discard(self, key: str) -> None:
        """Aborts the unfinished upload of a staging key, then deletes the marker, without which nothing finds it."""
        await self._call(lambda calls: calls.abort_uploads(key, None))
        await self._delete(key)

    async def _delete(self, *keys: str) -> None:
        async with ended_within(timedelta(seconds=DELETE_SECONDS)):
            try:
                await obstore.delete_async(self._clients.objects, keys)
            except FileNotFoundError as error:
                # Google's S3 says it of what is absent; AWS answers as if it had removed that. The 404 of a gateway and
                # that of a missing bucket have another code.
                if "<Code>NoSuchKey</Code>" not in str(error):
                    raise
                for key in keys if len(keys) > 1 else ():
                    await self._delete(key)

    async def _call(self, work: "Callable[[S3Calls], _T]") -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(self._calls))

    @property
    def _clients(self) -> "_Clients":
        if self._opened.trusting != authorities():
            self._opened = _Clients(self._settings, self._keys)
        return self._opened

    @cached_property
    def _calls(self) -> "S3Calls":
        from media_core.store.s3_calls import S3Calls

        return S3Calls(self._settings, self._keys, CONNECT_TIMEOUT, ANSWER_TIMEOUT)


class _Clients:
    """obstore's clients. Each loads the root certificates, for some milliseconds: one is opened when it is needed."""

    def __init__(self, settings: S3Settings, keys: S3Keys) -> None:
        self.trusting = authorities()
        self.objects = _open_objects(settings, keys)
        self._settings = settings
        self._keys = keys

    @cached_property
    def whole(self) -> Bucket:
        return _open_objects(self._settings, self._keys, signed=True)

    @cached_property
    def once(self) -> Bucket:
        return _open_objects(self._settings, self._keys, retries=0)

    @cached_property
    def prober(self) -> Bucket:
        return _open_objects(self._settings, self._keys, answer_timeout=PROBE_TIMEOUT, retries=0)

    @cached_property
    def patient(self) -> Bucket:
        """For requests that may take longer than others. Their callers set a time limit themselves."""
        return _open_objects(self._settings, self._keys, answer_timeout=timedelta(days=1))


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
            if self._gathered_bytes >= LEAST_BLOCK_BYTES:
                await self._hand_over()

    async def take(self, source: BodySource, hashing: TrailingHash, at_most: int) -> int:
        parts: list[bytes] = []
        at_most = min(at_most, CHUNK_BYTES, self._at_most - self.size)
        taken = await to_its_end(
            asyncio.to_thread(pass_on, source, hashing, at_most, lambda part: parts.append(bytes(part)))
        )
        for part in parts:
            await self.write(part)
        return taken

    async def finish(self) -> None:
        if self._gathered_bytes:
            await self._hand_over()
        if self._sending:
            await self._enqueue(self._sending, None)
            self._ended = True
            await asyncio.shield(self._sending)  # after a cancellation `discard` ends it
        elif self._final:  # otherwise the empty marker is the object
            await self._store._put(self._key, b"")
        self._finished = True

    async def promote(self, key: str) -> None:
        if not self._finished:
            raise RuntimeError("a staged object is promoted after finish()")
        if checked_key(self._store._tenant_id, key) == self._key:
            await self._store._require(key, self.size)
        else:
            await self._store._copy(self._key, key, self.size)

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
        await self._enqueue(self._sending, block)

    async def _enqueue(self, sending: "asyncio.Task[None]", block: bytes | None) -> None:
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
                with outages():
                    await obstore.put_async(
                        self._store._clients.patient,
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
    settings: S3Settings,
    keys: S3Keys,
    *,
    signed: bool = False,
    answer_timeout: timedelta | None = None,
    retries: int = 3,
) -> Bucket:
    def credentials() -> "S3Credential":
        key = keys.current()
        until = key.expires_at
        if settings.credentials_file is not None:
            until = min(_now() + KEY_KEPT, until or datetime.max.replace(tzinfo=UTC))
        return {
            "access_key_id": key.access_key_id,
            "secret_access_key": key.secret_access_key,
            "token": key.session_token,
            "expires_at": until,
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


async def _in_time(coming: "asyncio.Future[_T]") -> _T:
    """Raises Unavailable if it has not come soon."""
    async with ended_within(TRICKLE_TIMEOUT):
        await asyncio.wait((coming,))
    return coming.result()
