"""The S3 calls that obstore does not have: copies in parts, the list of unfinished uploads, making a bucket.

They use boto3, whose import takes 25 MB and half a second: `s3` imports this module with the first of these calls. All
of them block, so call them in a thread. They raise Unavailable.
"""

import contextlib
import functools
import itertools
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypedDict

import boto3
import botocore.loaders
import botocore.session
from botocore.config import Config
from botocore.credentials import Credentials, ReadOnlyCredentials
from botocore.exceptions import BotoCoreError, ClientError

from media_core.store import redirects
from media_core.store.base import ObjectInfo, unavailable
from media_core.store.encryption import name_in_writes
from media_core.store.s3_outages import answered

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import CompletedPartTypeDef

    from media_core.store.credentials import S3Keys
    from media_core.store.s3_settings import S3Settings

COPIES_IN_FLIGHT = 4
"""Parts of one object that S3 copies at a time."""


class ObjectAddress(TypedDict):
    Bucket: str
    Key: str


class Stopped(Exception):
    """The caller no longer wants the copy."""


class S3Calls:
    """Calls on one bucket, from any thread."""

    def __init__(
        self, settings: "S3Settings", keys: "S3Keys", connect_timeout: timedelta, answer_timeout: timedelta
    ) -> None:
        self._settings = settings
        self._bucket = settings.bucket
        self._connect_timeout = connect_timeout
        self._session = _session(keys)
        self._opening = threading.Lock()
        self._client = self._open(answer_timeout)

    def close(self) -> None:
        self._client.close()

    def copy_in_parts(
        self,
        sources: "Sequence[CopiedPart]",
        key: str,
        part_timeout: timedelta,
        join_timeout: timedelta,
        stopped: threading.Event,
    ) -> None:
        """Makes one object of these parts of others, in their order. All but the last have 5 MiB or more.

        `part_timeout`: how long S3 may take for one part; `join_timeout`: how long to join them. If it fails or
        `stopped` is set, no part is left, unless S3 is away: then the sweep finds them. Raises Stopped.
        """
        target: ObjectAddress = {"Bucket": self._bucket, "Key": key}
        with _outages():
            upload_id = self._client.create_multipart_upload(**target)["UploadId"]
            try:
                copy = _PartsCopy(sources, target, upload_id, stopped)
                with contextlib.closing(self._open(part_timeout)) as copier:
                    parts = copy.made_by(copier)
                with contextlib.closing(self._open(join_timeout)) as joiner:
                    joiner.complete_multipart_upload(**target, UploadId=upload_id, MultipartUpload={"Parts": parts})
            except BaseException:
                with contextlib.suppress(BotoCoreError, ClientError):
                    self._client.abort_multipart_upload(**target, UploadId=upload_id)
                raise

    def objects_after(self, prefix: str, after: str) -> list[ObjectInfo]:
        """The first objects with this prefix whose keys come after `after`, in the order of their keys."""
        with _outages():
            answer = self._client.list_objects_v2(Bucket=self._bucket, Prefix=prefix, StartAfter=after)
        return [ObjectInfo(each["Key"], each["Size"], each["LastModified"]) for each in answer.get("Contents", [])]

    def abort_uploads(self, prefix: str, before: datetime | None) -> int:
        """Aborts the unfinished uploads of keys with this prefix, only those begun until `before` if given. Returns how
        many.
        """
        aborted = 0
        with _outages():
            pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=prefix)
            for upload in (upload for page in pages for upload in page.get("Uploads", [])):
                if before is None or upload["Initiated"] <= before:
                    try:
                        self._client.abort_multipart_upload(
                            Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                        )
                    except ClientError as error:
                        if _code(error) != "NoSuchUpload":  # it has ended meanwhile
                            raise
                    else:
                        aborted += 1
        return aborted

    def _open(self, answer_timeout: timedelta) -> "S3Client":
        with self._opening:  # the session is not thread-safe
            client = self._session.client(
                "s3",
                endpoint_url=self._settings.endpoint,
                region_name=self._settings.region,
                config=Config(
                    signature_version="s3v4",
                    s3={"addressing_style": "path", "payload_signing_enabled": False},
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                    connect_timeout=self._connect_timeout.total_seconds(),
                    read_timeout=answer_timeout.total_seconds(),
                    retries={"mode": "standard", "total_max_attempts": 2},
                    max_pool_connections=16,
                ),
            )
        name_in_writes(client, self._settings.sse, self._settings.sse_kms_key_id)
        redirects.follow_none(client)
        return client


class _Signer(Credentials):
    """botocore asks it for the key at each request."""

    def __init__(self, keys: "S3Keys") -> None:
        super().__init__("", "")
        self._keys = keys

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        key = self._keys.current()
        return ReadOnlyCredentials(key.access_key_id, key.secret_access_key, key.session_token)


class _Provider:
    """In place of botocore's chain, which looks at environment variables and files of others."""

    def __init__(self, keys: "S3Keys") -> None:
        self._keys = keys

    def load_credentials(self) -> Credentials:
        return _Signer(self._keys)


@functools.cache
def _descriptions() -> botocore.loaders.Loader:
    """Of the services, for all sessions of this process: to parse them takes a tenth of a second."""
    return botocore.loaders.create_loader()


def _session(keys: "S3Keys") -> boto3.session.Session:
    session = botocore.session.get_session()
    session.register_component("data_loader", _descriptions())
    session.register_component("credential_provider", _Provider(keys))
    return boto3.session.Session(botocore_session=session)


@dataclass(frozen=True, slots=True)
class CopiedPart:
    """Bytes `start` to `end` (exclusive) of the object `key`."""

    key: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _PartsCopy:
    sources: Sequence[CopiedPart]
    target: ObjectAddress
    upload_id: str
    stopped: threading.Event

    def made_by(self, client: "S3Client") -> "list[CompletedPartTypeDef]":
        threads = ThreadPoolExecutor(COPIES_IN_FLIGHT, "s3-copy")
        try:
            return list(threads.map(functools.partial(self._part, client), itertools.count(1), self.sources))
        finally:
            # Waits for the parts under way: a part that S3 finishes after the abort would stay.
            threads.shutdown(cancel_futures=True)

    def _part(self, client: "S3Client", number: int, source: CopiedPart) -> "CompletedPartTypeDef":
        if self.stopped.is_set():
            raise Stopped
        answer = client.upload_part_copy(
            **self.target,
            UploadId=self.upload_id,
            PartNumber=number,
            CopySource={"Bucket": self.target["Bucket"], "Key": source.key},
            CopySourceRange=f"bytes={source.start}-{source.end - 1}",
        )
        return {"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]}


@contextlib.contextmanager
def _outages() -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        raise answered(_code(error)) from None
    except BotoCoreError as error:
        raise unavailable(f"S3 did not answer: {error}") from None


def _code(error: ClientError) -> str:
    return error.response.get("Error", {}).get("Code", "without an error code")
