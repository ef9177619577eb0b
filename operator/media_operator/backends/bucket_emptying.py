"""Deletes everything in a bucket: objects, older versions, unfinished uploads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from botocore.exceptions import ClientError

from media_core.errors import Unavailable
from media_operator.backends.boto import Threads, code, if_known, is_refusal

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import ObjectIdentifierTypeDef

PAGE = 500
"""How many objects one request lists or deletes. Each answer has to come within `boto.ANSWER_TIMEOUT`."""

_PASSING = ("InternalError", "SlowDown", "ServiceUnavailable", "RequestTimeout", "OperationAborted")


class ObjectsLocked(Exception):
    """S3 does not delete some objects (object lock, legal hold, a policy). All others in the bucket are deleted."""


class Emptying:
    """Deletes all objects of a bucket except the one that is `kept`, page by page. That is deleted last."""

    def __init__(self, s3: S3Client, threads: Threads, bucket: str, *, kept: str) -> None:
        self._s3 = s3
        self._threads = threads
        self._bucket = bucket
        self._kept = kept
        self._one_page: dict[str, Any] = {"Bucket": bucket, "MaxKeys": PAGE}
        self._has_versions = True
        self._has_bulk = True
        self.deleted = 0
        self.locked: dict[tuple[str, str], str] = {}
        """Key and version -> why S3 did not delete it."""

    async def sweep(self, deadline: float) -> bool:
        """Goes once through the bucket, or until the deadline. Returns whether more may be left."""
        self.locked.clear()
        before = self.deleted
        await self._abort_uploads()
        start: dict[str, str] | None = {}
        while start is not None:
            page, start = await self._page(start)
            await self._delete(page)
            if start is not None and time.monotonic() >= deadline:
                if self.locked and self.deleted == before:  # the next call would not get further
                    raise ObjectsLocked(self.complaint())
                return True
        return self.deleted > before

    async def delete_kept(self) -> None:
        """Deletes older versions first: none of them may become the current one again."""
        answer = await self._list_versions(Prefix=self._kept)
        versions = sorted(
            (entry for entry in _versions_in(answer) if entry["Key"] == self._kept),
            key=lambda entry: bool(entry.get("IsLatest")),
        )
        for version in versions or [{"Key": self._kept}]:
            await self._delete_one(_identifier(version))

    def complaint(self) -> str:
        (key, _), reason = next(iter(self.locked.items()))
        return (
            f"S3 does not delete {len(self.locked)} objects of bucket {self._bucket} ({reason}), such as {key}: end "
            "their retention or legal hold, or let the operator's key delete them"
        )

    async def _page(self, start: dict[str, str]) -> tuple[list[ObjectIdentifierTypeDef], dict[str, str] | None]:
        """What to delete, and where the next page starts; None after the last."""
        if self._has_versions:
            answer = await self._list_versions(**start)
            entries = _versions_in(answer)
            following = _following(answer, "KeyMarker", "VersionIdMarker")
            self._has_versions = bool(entries or start)  # a server with versions lists at least the one that is kept
        if not self._has_versions:
            plain: Callable[..., Any] = self._s3.list_objects_v2
            answer = await self._threads.run(plain, **self._one_page, **start)
            entries = answer.get("Contents", [])
            following = _following(answer, "ContinuationToken")
        return [_identifier(entry) for entry in entries if entry["Key"] != self._kept], following

    async def _list_versions(self, **more: str) -> dict[str, Any]:
        return await self._threads.run(if_known, self._s3.list_object_versions, **self._one_page, **more)

    async def _delete(self, page: list[ObjectIdentifierTypeDef]) -> None:
        if page and self._has_bulk:
            try:
                answer = await self._threads.run(
                    self._s3.delete_objects, Bucket=self._bucket, Delete={"Objects": page, "Quiet": True}
                )
            except ClientError as error:
                if not is_refusal(error) or code(error) == "NoSuchBucket":
                    raise
                self._has_bulk = False
            else:
                failures = answer.get("Errors", [])
                self.deleted += len(page) - len(failures)
                for failure in failures:
                    self._judge(failure.get("Key", ""), failure.get("VersionId", ""), failure.get("Code", ""))
                return
        await asyncio.gather(*(self._delete_one(identifier) for identifier in page))

    async def _delete_one(self, identifier: ObjectIdentifierTypeDef) -> None:
        try:
            await self._threads.run(self._s3.delete_object, Bucket=self._bucket, **cast("Any", identifier))
            self.deleted += 1
        except ClientError as error:
            if not is_refusal(error) or code(error) == "NoSuchBucket":
                raise
            self._judge(identifier["Key"], identifier.get("VersionId", ""), code(error))

    def _judge(self, key: str, version: str, reason: str) -> None:
        if reason in _PASSING:
            raise Unavailable("store", f"S3 answered {reason} to a deletion of objects")
        if reason not in ("NoSuchKey", "NoSuchVersion"):
            self.locked[key, version] = reason

    async def _abort_uploads(self) -> None:
        start: dict[str, str] | None = {}
        while start is not None:
            answer = await self._threads.run(
                if_known, self._s3.list_multipart_uploads, Bucket=self._bucket, MaxUploads=PAGE, **start
            )
            for upload in answer.get("Uploads", []):
                try:
                    await self._threads.run(
                        self._s3.abort_multipart_upload,
                        Bucket=self._bucket,
                        Key=upload["Key"],
                        UploadId=upload["UploadId"],
                    )
                except ClientError as error:
                    if code(error) != "NoSuchUpload":
                        raise
            start = _following(answer, "KeyMarker", "UploadIdMarker")


def _following(answer: Mapping[str, Any], *names: str) -> dict[str, str] | None:
    """Where the next page starts; None after the last."""
    known = {name: answer[f"Next{name}"] for name in names if answer.get(f"Next{name}")}
    return known if answer.get("IsTruncated") and known else None


def _versions_in(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [*answer.get("Versions", []), *answer.get("DeleteMarkers", [])]


def _identifier(entry: Mapping[str, Any]) -> ObjectIdentifierTypeDef:
    if version := entry.get("VersionId"):
        return {"Key": entry["Key"], "VersionId": version}
    return {"Key": entry["Key"]}
