"""Objects in one bucket of any S3: AWS, versitygw, MinIO, Ceph ...

obstore moves the bytes (a fraction of boto3's CPU); boto3 presigns, copies and administers. A large object is a
multipart upload to its staging key, and a server-side copy gives it its final key. S3 shows neither before it is whole.

Before the multipart upload an empty object is put under the staging key: MinIO lists unfinished uploads only by their
exact key, so this marker is what `sweep_staging` can find everywhere.

The payload of a single put is signed: versitygw keeps what arrived of an unsigned one whose connection breaks, under
the final key. Parts are not signed (the body's SHA-256 would cost more CPU than sending it), since a part that was cut
has an ETag nobody asks for: use https where the network between here and S3 is not trusted.

Limit: S3's 10,000 parts make 48 GiB per object.
"""

import asyncio
import contextlib
import functools
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ParamSpec, TypedDict, TypeVar, cast

import boto3
import obstore
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from obstore.exceptions import BaseError
from obstore.store import S3Store as Bucket
from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from media_core.settings import EnvironmentSettings
from media_core.store.base import (
    CHUNK_BYTES,
    STAGING,
    ObjectInfo,
    ObjectMissing,
    SignedUrl,
    checked_expiry,
    checked_key,
    staging_key,
    tenant_prefix,
    unavailable,
)

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import S3Credential
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import CompletedPartTypeDef, CreateBucketRequestTypeDef

_P = ParamSpec("_P")
_T = TypeVar("_T")

PART_BYTES = 5 * 1024 * 1024
"""S3's smallest. An upload keeps about 8 MiB in memory with it; 19 MiB with two parts of 8 MiB in flight."""
PARTS_IN_FLIGHT = 1
COPY_PART_BYTES = 512 * 1024 * 1024
"""A larger object is copied in parts of this size, so that one request stays short (S3 itself allows 5 GiB at once)."""

CONNECT_TIMEOUT = timedelta(seconds=3)
ANSWER_TIMEOUT = timedelta(seconds=20)
"""How long a server may say nothing. A part, or a small object of 8 MiB, has to be sent in it: 3.4 Mbit/s at least."""
COPY_TIMEOUT = timedelta(seconds=90)
RETRY_TIMEOUT = timedelta(seconds=5)
PROBE_TIMEOUT = timedelta(seconds=3)


class S3Settings(EnvironmentSettings):
    """Environment variables `MEDIA_S3_*`."""

    model_config = SettingsConfigDict(env_prefix="MEDIA_S3_")

    endpoint: str = Field(pattern=r"^https?://[^/@?#\s]+/?$")
    """URL of the S3 service as seen from here, e.g. `http://versitygw.storage.svc:7070`. Requests are path-style."""

    public_endpoint: str | None = Field(None, pattern=r"^https?://[^/@?#\s]+/?$")
    """URL of the same service as clients reach it; signed URLs lead there. Default: `endpoint`."""

    bucket: str = Field(min_length=3, max_length=63)
    """The tenant's bucket; it has to exist."""

    region: str = "us-east-1"
    """Region to sign for; most servers other than AWS take any."""

    access_key_id: str
    """Key allowed to get, put, delete and list under `tenant/{tenant_id}/` and to list and abort multipart uploads."""

    secret_access_key: SecretStr
    """Its secret."""


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
        self._copier = _open_client(settings, settings.endpoint, COPY_TIMEOUT, attempts=2)
        self._prober = _open_client(settings, settings.endpoint, PROBE_TIMEOUT, attempts=1)
        self._signer = _open_client(settings, settings.public_endpoint or settings.endpoint, PROBE_TIMEOUT, attempts=1)

    async def put(self, key: str, data: bytes | bytearray | memoryview) -> None:
        await self._put(checked_key(self._tenant_id, key), data)

    async def stage(self, name: str) -> "S3StagedObject":
        key = staging_key(self._tenant_id, name)
        await self._put(key, b"")
        return S3StagedObject(self, key)

    async def read(self, key: str, start: int, length: int) -> bytes:
        return await self._read(checked_key(self._tenant_id, key), start, length)

    async def stream(self, key: str, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes, None]:
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
            async for chunk in found.stream(CHUNK_BYTES):
                yield bytes(chunk)

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
        expires_at = datetime.now(UTC) + timedelta(seconds=seconds)
        url = self._signer.generate_presigned_url(
            "get_object",
            Params={
                "Bucket": self._bucket,
                "Key": checked_key(self._tenant_id, key),
                "ResponseContentType": content_type,
                "ResponseContentDisposition": content_disposition,
            },
            ExpiresIn=seconds,
        )
        return SignedUrl(url, expires_at)

    async def sweep_staging(self, older_than: timedelta) -> int:
        before = datetime.now(UTC) - older_than
        stale = [entry.key async for entry in self._list(self._staging) if entry.modified <= before]
        for key in stale:
            await self._discard(key)
        # And copies that died: known where the server lists uploads by prefix. MinIO does not, and drops them itself.
        return len(stale) + await _in_thread(self._abort_uploads, self._prefix, before)

    async def probe(self) -> None:
        await _in_thread(self._prober.list_objects_v2, Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)

    async def aclose(self) -> None:
        for client in (self._copier, self._prober, self._signer):
            client.close()

    async def ensure_bucket(self) -> None:
        """Creates the bucket unless this account has it. Raises Unavailable, also where another account has it."""
        await _in_thread(self._ensure_bucket)

    def _ensure_bucket(self) -> None:
        request: CreateBucketRequestTypeDef = {"Bucket": self._bucket}
        if self._settings.region != "us-east-1":  # S3 refuses this one by name: it is the default
            request["CreateBucketConfiguration"] = {"LocationConstraint": cast("Any", self._settings.region)}
        try:
            self._copier.create_bucket(**request)
        except ClientError as error:
            if _code(error) != "BucketAlreadyOwnedByYou":
                raise

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
        # obstore lists by whole path segments: ask for the folder that holds the prefix, at least the tenant's own.
        folder = max(prefix[: prefix.rfind("/") + 1], self._prefix, key=len)
        if not folder.startswith(self._prefix):
            return
        with _outages():
            async for batch in obstore.list(self._objects, folder, chunk_size=1000):
                for found in batch:
                    if found["path"].startswith(prefix):
                        yield ObjectInfo(found["path"], found["size"], found["last_modified"])

    async def _copy(self, source: str, key: str, size: int) -> None:
        await _in_thread(self._copy_at_once if size <= COPY_PART_BYTES else self._copy_in_parts, source, key, size)

    def _copy_at_once(self, source: str, key: str, _size: int) -> None:
        self._copier.copy_object(Bucket=self._bucket, Key=key, CopySource={"Bucket": self._bucket, "Key": source})

    def _copy_in_parts(self, source: str, key: str, size: int) -> None:
        target: _Target = {"Bucket": self._bucket, "Key": key}
        upload_id = self._copier.create_multipart_upload(**target)["UploadId"]
        try:
            parts: list[CompletedPartTypeDef] = []
            for number, start in enumerate(range(0, size, COPY_PART_BYTES), start=1):
                copied = self._copier.upload_part_copy(
                    **target,
                    UploadId=upload_id,
                    PartNumber=number,
                    CopySource={"Bucket": self._bucket, "Key": source},
                    CopySourceRange=f"bytes={start}-{min(start + COPY_PART_BYTES, size) - 1}",
                )
                parts.append({"PartNumber": number, "ETag": copied["CopyPartResult"]["ETag"]})
            self._copier.complete_multipart_upload(**target, UploadId=upload_id, MultipartUpload={"Parts": parts})
        except BaseException:
            with contextlib.suppress(BotoCoreError, ClientError):
                self._copier.abort_multipart_upload(**target, UploadId=upload_id)
            raise

    async def _discard(self, key: str) -> None:
        """Ends what is unfinished under a staging key before its marker goes: nothing could find it after."""
        await _in_thread(self._abort_uploads, key, None)
        await self._delete(key)

    async def _delete(self, *keys: str) -> None:
        with _outages():
            await obstore.delete_async(self._objects, keys)

    def _abort_uploads(self, prefix: str, before: datetime | None) -> int:
        aborted = 0
        for page in self._copier.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=prefix):
            for upload in page.get("Uploads", []):
                if before is None or upload["Initiated"] <= before:
                    try:
                        self._copier.abort_multipart_upload(
                            Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                        )
                    except ClientError as error:
                        if _code(error) != "NoSuchUpload":  # ended by itself meanwhile
                            raise
                    else:
                        aborted += 1
        return aborted


class _Target(TypedDict):
    Bucket: str
    Key: str


class _Discarded(Exception):
    """Raised into obstore's multipart upload, which aborts it."""


class S3StagedObject:
    """A multipart upload on its way: `write` hands over blocks of 1 MiB, obstore makes parts of them."""

    def __init__(self, store: S3Store, key: str) -> None:
        self.size = 0
        self._store = store
        self._key = key
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._blocks: asyncio.Queue[bytes | _Discarded | None] = asyncio.Queue(1)
        self._sending: asyncio.Task[None] | None = None
        self._finished = False

    async def write(self, chunk: bytes | memoryview) -> None:
        self._gathered.append(bytes(chunk))  # obstore keeps a reference until the part is sent: it must not change
        self._gathered_bytes += len(chunk)
        self.size += len(chunk)
        if self._gathered_bytes >= CHUNK_BYTES:
            await self._hand_over()

    async def finish(self) -> None:
        if self._gathered_bytes:
            await self._hand_over()
        if self._sending:  # else the marker is the object: an empty one
            await self._put(self._sending, None)
            await self._sending
        self._finished = True

    async def promote(self, key: str) -> None:
        if not self._finished:
            raise RuntimeError("a staged object is promoted after finish()")
        await self._store._copy(self._key, checked_key(self._store._tenant_id, key), self.size)

    async def read(self, start: int, length: int) -> bytes:
        return await self._store._read(self._key, start, length)

    async def discard(self) -> None:
        if self._sending:
            if not self._sending.done():
                while not self._blocks.empty():
                    self._blocks.get_nowait()
                self._blocks.put_nowait(_Discarded())
            await asyncio.wait({self._sending})
            self._sending.exception()  # how it ended no longer matters
        await self._store._discard(self._key)

    async def _hand_over(self) -> None:
        block = b"".join(self._gathered)
        self._gathered, self._gathered_bytes = [], 0
        if not self._sending:
            self._sending = asyncio.create_task(self._send())
        await self._put(self._sending, block)

    async def _put(self, sending: "asyncio.Task[None]", block: bytes | None) -> None:
        """Waits for room, or for the upload's failure, which it raises."""
        putting = asyncio.create_task(self._blocks.put(block))
        try:
            await asyncio.wait({putting, sending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            putting.cancel()
        if sending.done():
            sending.result()

    async def _send(self) -> None:
        with _outages():
            await obstore.put_async(
                self._store._objects,
                self._key,
                self._in_order(),
                use_multipart=True,
                chunk_size=PART_BYTES,
                max_concurrency=PARTS_IN_FLIGHT,
            )

    async def _in_order(self) -> AsyncIterator[bytes]:
        while (block := await self._blocks.get()) is not None:
            if isinstance(block, _Discarded):
                raise block
            yield block


def _open_objects(settings: S3Settings, *, signed: bool = False) -> Bucket:
    def credentials() -> "S3Credential":
        return {
            "access_key_id": settings.access_key_id,
            "secret_access_key": settings.secret_access_key.get_secret_value(),
            "token": None,
            "expires_at": None,
        }

    return Bucket(
        settings.bucket,
        endpoint=settings.endpoint,
        region=settings.region,
        virtual_hosted_style_request=False,
        unsigned_payload=not signed,
        disable_bulk_delete=True,  # not every S3 has it, and nothing here deletes many at once
        # A provider, not the two keys: with those alone a session token in the environment would be sent along.
        credential_provider=credentials,
        client_options={
            "allow_http": settings.endpoint.startswith("http://"),
            "connect_timeout": CONNECT_TIMEOUT,
            "read_timeout": ANSWER_TIMEOUT,
            "timeout": timedelta(days=1),  # a whole download, at the client's pace; `read_timeout` sees a dead server
        },
        retry_config={
            "max_retries": 3,
            "retry_timeout": RETRY_TIMEOUT,
            "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2), "base": 2},
        },
    )


@functools.cache
def _session() -> boto3.session.Session:
    """One for all: it parses S3's service description once, which takes as long as a hundred requests."""
    return boto3.session.Session()


def _open_client(settings: S3Settings, endpoint: str, timeout: timedelta, attempts: int) -> "S3Client":
    return _session().client(
        "s3",
        endpoint_url=endpoint,
        region_name=settings.region,
        aws_access_key_id=settings.access_key_id,
        aws_secret_access_key=settings.secret_access_key.get_secret_value(),
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path", "payload_signing_enabled": False},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            connect_timeout=CONNECT_TIMEOUT.total_seconds(),
            read_timeout=timeout.total_seconds(),
            retries={"mode": "standard", "total_max_attempts": attempts},
        ),
    )


@contextlib.contextmanager
def _outages(key: str | None = None) -> Iterator[None]:
    """obstore's errors as the contract's: ObjectMissing only where `key` was asked for.

    Their own text goes no further: it quotes the server's whole answer.
    """
    try:
        yield
    except FileNotFoundError as error:
        if key and "NoSuchBucket" not in str(error):
            raise ObjectMissing(key) from None
        raise unavailable(_sentence(error)) from None
    except BaseError as error:
        raise unavailable(_sentence(error)) from None


def _sentence(error: Exception) -> str:
    text = str(error)
    if code := re.search(r"<Code>(\w+)</Code>", text):
        return f"S3 answered {code[1]}"
    if status := re.search(r"status code: (\d{3}[ \w]*)", text):
        return f"S3 answered {status[1].strip()}"
    return f"S3 did not answer: {text.splitlines()[0].rpartition(' - ')[2]}"


def _beyond_the_end(error: BaseError) -> bool:
    return "status code: 416" in str(error)


async def _in_thread(work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    try:
        return await asyncio.to_thread(work, *args, **kwargs)
    except ClientError as error:
        raise unavailable(f"S3 answered {_code(error)}") from None
    except BotoCoreError as error:
        raise unavailable(f"S3 did not answer: {error}") from None


def _code(error: ClientError) -> str:
    return error.response.get("Error", {}).get("Code", "nothing that it should")
