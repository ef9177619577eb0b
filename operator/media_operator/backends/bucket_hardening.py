"""What keeps a bucket private and clean, and what its server was seen to do."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, cast

from botocore.exceptions import ClientError

from media_core.store.base import STAGING, staging_key, tenant_prefix
from media_operator.backends.boto import attempt, code, is_refusal

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

ABORT_UPLOADS_DAYS = 1
EXPIRE_STAGING_DAYS = 7

_ABORT_UPLOADS = "media-platform-abort-uploads"
_EXPIRE_STAGING = "media-platform-expire-staging"
_PUBLIC_ACCESS = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")


class Hardening:
    """Hardens a bucket. Each setting is read back, since some servers answer 200 to requests that they do not know."""

    def __init__(self, s3: S3Client, bucket: str, tenant_id: str) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._tenant_id = tenant_id

    def run(self) -> dict[str, bool]:
        """The capabilities. Leaves only settings behind; if it is cut, objects in staging, which are swept."""
        blocked = self._block_public_access()
        expires, aborts = self._set_lifecycle()
        name = f"probe-{secrets.token_hex(8)}"
        source, copy = staging_key(self._tenant_id, name), staging_key(self._tenant_id, f"{name}-copy")
        self._s3.put_object(Bucket=self._bucket, Key=source, Body=b"probe")
        try:
            return {
                "publicAccessBlock": blocked,
                "lifecycle": expires,
                "abortUploads": aborts,
                "conditionalWrites": self._refuses_overwriting(source),
                "multipartCopy": self._copies_parts(source, copy),
            }
        finally:
            for key in (source, copy):
                self._s3.delete_object(Bucket=self._bucket, Key=key)

    def _block_public_access(self) -> bool:
        everything = dict.fromkeys(_PUBLIC_ACCESS, True)
        attempt(self._s3.put_public_access_block, Bucket=self._bucket, PublicAccessBlockConfiguration=everything)
        found = attempt(self._s3.get_public_access_block, Bucket=self._bucket)
        return bool(found.get("PublicAccessBlockConfiguration") == everything)

    def _set_lifecycle(self) -> tuple[bool, bool]:
        """Whether staging expires, and whether uploads are aborted. Other rules stay."""
        expire: dict[str, Any] = {
            "ID": _EXPIRE_STAGING,
            "Status": "Enabled",
            "Filter": {"Prefix": f"{tenant_prefix(self._tenant_id)}{STAGING}/"},
            "Expiration": {"Days": EXPIRE_STAGING_DAYS},
        }
        abort: dict[str, Any] = {
            "ID": _ABORT_UPLOADS,
            "Status": "Enabled",
            "Filter": {"Prefix": ""},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": ABORT_UPLOADS_DAYS},
        }
        before = self._lifecycle()
        if before is None:
            return False, False
        foreign = [rule for name, rule in before.items() if name not in (_EXPIRE_STAGING, _ABORT_UPLOADS)]
        for rules in ([expire, abort], [expire]):  # MinIO refuses a rule that only aborts
            if all(before.get(rule["ID"]) == rule for rule in rules) or attempt(
                self._s3.put_bucket_lifecycle_configuration,
                Bucket=self._bucket,
                LifecycleConfiguration={"Rules": [*foreign, *rules]},
            ):
                break
        after = self._lifecycle() or {}
        return (
            after.get(_EXPIRE_STAGING, {}).get("Expiration") == expire["Expiration"],
            "AbortIncompleteMultipartUpload" in after.get(_ABORT_UPLOADS, {}),
        )

    def _lifecycle(self) -> dict[str, dict[str, Any]] | None:
        """Rule id -> rule; None: the server knows no lifecycle rules."""
        try:
            found = self._s3.get_bucket_lifecycle_configuration(Bucket=self._bucket)
        except ClientError as error:
            if code(error) == "NoSuchLifecycleConfiguration":
                return {}
            if not is_refusal(error):
                raise
            return None
        rules = cast("list[dict[str, Any]]", found.get("Rules", []))
        return {rule.get("ID", f"rule {number}"): rule for number, rule in enumerate(rules)}

    def _refuses_overwriting(self, key: str) -> bool:
        try:
            self._s3.put_object(Bucket=self._bucket, Key=key, Body=b"probe", IfNoneMatch="*")
        except ClientError as error:
            if not is_refusal(error):
                raise
            return code(error) in ("PreconditionFailed", "412")
        return False

    def _copies_parts(self, source: str, key: str) -> bool:
        upload_id = self._s3.create_multipart_upload(Bucket=self._bucket, Key=key)["UploadId"]
        upload = {"Bucket": self._bucket, "Key": key, "UploadId": upload_id}
        copied = attempt(
            self._s3.upload_part_copy, **upload, PartNumber=1, CopySource={"Bucket": self._bucket, "Key": source}
        )
        parts = [{"PartNumber": 1, "ETag": copied.get("CopyPartResult", {}).get("ETag", "")}]
        if attempt(self._s3.complete_multipart_upload, **upload, MultipartUpload={"Parts": parts}):
            return self._s3.head_object(Bucket=self._bucket, Key=key)["ContentLength"] == len(b"probe")
        attempt(self._s3.abort_multipart_upload, **upload)
        return False
