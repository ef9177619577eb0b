"""Tenants' buckets: made, marked, hardened, and in the end emptied.

The object `.media-tenant` at the bucket's root is the owner mark. It says whose the bucket is and what the S3 server
was seen to do. It lies outside of `tenant/`, so tenants' keys do not reach it. It is written before any other object
and deleted last, so a bucket is ours if and only if it has this object. A bucket without it is claimed only while it is
empty. If two operators write it at once, conditional puts let one win. On a server without those, the loser notices
when it reads the mark back or looks next.

Every method may be cut anywhere and repeated.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from botocore.exceptions import ClientError

from media_core import births
from media_core.births import Birth
from media_core.errors import Unavailable
from media_core.object_keys import birth_key, content_key
from media_core.store.base import STAGING, staging_key, tenant_prefix
from media_operator.backends.boto import (
    ANSWER_TIMEOUT,
    BAD_KEY,
    Threads,
    code,
    is_refusal,
    open_client,
    outages,
    status,
)
from media_operator.backends.breaker import RequestRefused
from media_operator.plan.desired import BucketCors
from media_operator.settings import StoreAdminSettings
from media_operator.tenant.ownership import NotOwned, OwnerMark

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import CreateBucketRequestTypeDef, ObjectIdentifierTypeDef

_T = TypeVar("_T", bound=Mapping[str, Any])

MARK_KEY = ".media-tenant"
MARK_BYTES = 64 * 1024
"""At most so much of an owner mark is read; ours have some hundred bytes."""
ABORT_UPLOADS_DAYS = 1
EXPIRE_STAGING_DAYS = 7
PAGE = 500
"""How many objects one request lists or deletes. Each answer has to come within `boto.ANSWER_TIMEOUT`."""
BUDGET_SECONDS = 20

CORS = "cors"
EXPOSED = ("Accept-Ranges", "Content-Disposition", "Content-Length", "Content-Range", "ETag", "Last-Modified")
"""Headers of a signed URL's answer that scripts of web apps may read beside those that every script may."""

_ALLOW_ORIGINS = "media-platform-allow-origins"
_ABORT_UPLOADS = "media-platform-abort-uploads"
_EXPIRE_STAGING = "media-platform-expire-staging"
_PASSING = ("InternalError", "SlowDown", "ServiceUnavailable", "RequestTimeout", "OperationAborted")
_PUBLIC_ACCESS = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")


class ObjectsLocked(Exception):
    """S3 does not delete some objects (object lock, legal hold, a policy). All others in the bucket are deleted."""


@dataclass(frozen=True)
class BucketFacts:
    exists: bool
    mark: OwnerMark | None = None
    """None: it has no owner mark."""
    capabilities: Mapping[str, bool] = field(default_factory=dict)
    """Name -> whether it worked when the bucket was made. Empty: not tried yet.

    publicAccessBlock   the bucket cannot be made public by a policy or an ACL
    lifecycle           objects that died uploads left in staging expire by themselves
    abortUploads        parts of unfinished multipart uploads expire by themselves
    conditionalWrites   a put is refused if the object exists; without it, two claims of a bucket are told apart late
    multipartCopy       objects beyond 512 MiB can be kept
    cors                web apps of other origins can read signed URLs; only if the spec names such apps
    """
    empty: bool = False
    """It exists and holds no object, no older version and no unfinished upload."""
    cors: BucketCors | None = None
    """What `allow_origins` was told last."""


@dataclass(frozen=True)
class Born:
    """The birth in a bucket. Its object lies within `tenant/`, since sweeps write it, too."""

    birth: Birth | None = None
    """None: the bucket has none."""
    contents: tuple[str, ...] = ()
    """Of a bucket without a birth: the hashes of its first contents, at most `births.LOOKED_AT`."""


@dataclass(frozen=True)
class Emptied:
    done: bool
    """The bucket is gone."""
    deleted: int = 0
    """Objects and versions deleted by this call."""
    left: str = ""
    """Why it is not done, as a sentence."""


class Buckets:
    """All tenants' buckets. The constructor makes no request.

    Every method raises `Unavailable("store", sentence)` while S3 does not serve.
    """

    def __init__(self, settings: StoreAdminSettings) -> None:
        self._settings = settings
        self._s3: S3Client = open_client("s3", settings)
        self._threads = Threads("s3")

    async def observe(self, bucket: str) -> BucketFacts:
        """One GET, unless the bucket has no owner mark."""
        with outages("store", self._settings, bucket):
            return (await self._look(bucket)).facts

    async def create(
        self,
        bucket: str,
        mark: OwnerMark,
        *,
        tenant_id: str,
        adopt: bool = False,
        capabilities: Mapping[str, bool] | None = None,
    ) -> BucketFacts:
        """Makes the bucket, or takes it over if `mark` may claim it (`adopt`: see `OwnerMark.relation`). Hardens it.

        `capabilities`: more that the caller has tried; they are stored in the owner mark. Raises NotOwned.
        """
        with outages("store", self._settings, bucket):
            seen = await self._look(bucket)
            if not seen.facts.exists:
                await self._make(bucket)
                seen = await self._look(bucket)
            if not seen.facts.exists:
                raise Unavailable("store", f"bucket {bucket} was made, but does not exist")
            seen = await self._claim(bucket, seen, mark, adopt)
            tried = await self._threads.run(_Hardening(self._s3, bucket, tenant_id).run)
            tried.update(capabilities or {})
            if CORS in seen.facts.capabilities:
                tried[CORS] = seen.facts.capabilities[CORS]
            if seen.facts.capabilities != tried:
                await self._write_mark(bucket, mark, tried, instead_of=seen)
            return BucketFacts(True, mark, tried, cors=seen.facts.cors)

    async def allow_origins(self, bucket: str, claimant: OwnerMark, cors: BucketCors | None) -> BucketFacts:
        """Makes this the bucket's only rule of ours for web apps; None: there is none. Rules of others stay.

        A server without such rules is no error: the capability `cors` says whether such an app may read. Raises
        NotOwned, and RequestRefused where the rules of others may not be looked at.
        """
        with outages("store", self._settings, bucket):
            seen = await self._look(bucket)
            if seen.facts.mark is None or seen.facts.mark.relation(claimant) != "ours":
                raise NotOwned(f"bucket {bucket} is not this tenant's: it was not changed")
            sharing = _Sharing(self._s3, self._settings.endpoint, bucket)
            can = await self._threads.run(sharing.allow, cors)
            capabilities = {name: had for name, had in seen.facts.capabilities.items() if name != CORS}
            if can is not None:
                capabilities[CORS] = can
            await self._write_mark(bucket, seen.facts.mark, capabilities, instead_of=seen, cors=cors)
            return BucketFacts(True, seen.facts.mark, capabilities, cors=cors)

    async def born(self, bucket: str, tenant_id: str) -> Born:
        """The bucket's birth. One GET, unless it has none. Empty for a bucket that does not exist."""
        with outages("store", self._settings, bucket):
            try:
                return await self._threads.run(self._born, bucket, tenant_id)
            except ClientError as error:
                if code(error) == "NoSuchBucket":
                    return Born()
                raise

    async def write_birth(self, bucket: str, tenant_id: str, birth: Birth) -> None:
        """From now on the bucket belongs to this schema."""
        with outages("store", self._settings, bucket):
            await self._threads.run(self._s3.put_object, Bucket=bucket, Key=birth_key(tenant_id), Body=birth.dumps())

    async def retire(self, bucket: str, claimant: OwnerMark) -> None:
        """Marks the bucket as retained. Does nothing if it is gone or not ours."""
        with outages("store", self._settings, bucket):
            seen = await self._look(bucket)
            found = seen.facts.mark
            if found and found.relation(claimant) == "ours" and not found.retained:
                await self._write_mark(bucket, found.as_retained(), seen.facts.capabilities, instead_of=seen)

    async def empty_and_delete(
        self, bucket: str, claimant: OwnerMark, *, budget_seconds: float = BUDGET_SECONDS
    ) -> Emptied:
        """Deletes all objects, versions and unfinished uploads, then the owner mark, then the bucket.

        It ends after about `budget_seconds`; call it again until `done`. Raises NotOwned unless the owner mark is the
        claimant's own (an adoptable one is not enough). Raises ObjectsLocked once all objects are deleted that S3
        allows to delete. An empty bucket without an owner mark is deleted, too: a call that was cut leaves one.
        """
        deadline = time.monotonic() + budget_seconds
        with outages("store", self._settings, bucket):
            seen = await self._look(bucket)
            if not seen.facts.exists:
                return Emptied(True)
            if seen.facts.mark is None and not seen.facts.empty:
                raise NotOwned(f"bucket {bucket} has no owner mark and is not empty: it was not changed")
            if seen.facts.mark and seen.facts.mark.relation(claimant) != "ours":
                raise NotOwned(f"bucket {bucket} belongs to {seen.facts.mark.describe()}: it was not changed")
            emptying = _Emptying(self._s3, self._threads, bucket)
            while await emptying.sweep(deadline):
                if time.monotonic() >= deadline:
                    return Emptied(False, emptying.deleted, f"{emptying.deleted} objects deleted, more are left")
            deleted = emptying.deleted
            if not emptying.locked:
                await emptying.delete_mark()
            if emptying.locked:
                raise ObjectsLocked(emptying.complaint())
            try:
                await self._threads.run(self._s3.delete_bucket, Bucket=bucket)
            except ClientError as error:
                if code(error) == "BucketNotEmpty":
                    if seen.facts.mark:
                        await self._write_mark(bucket, seen.facts.mark, seen.facts.capabilities, instead_of=_Seen())
                    return Emptied(False, deleted, "somebody still writes into the bucket")
                if code(error) != "NoSuchBucket":
                    raise
            return Emptied(True, deleted)

    async def aclose(self) -> None:
        self._threads.close()
        self._s3.close()

    # --- the owner mark

    async def _look(self, bucket: str) -> _Seen:
        try:
            body, etag = await self._threads.run(self._read_mark, bucket)
        except ClientError as error:
            if code(error) == "NoSuchBucket":
                return _Seen(BucketFacts(False))
            if code(error) != "NoSuchKey":
                raise
            try:
                return _Seen(BucketFacts(True, empty=await self._is_empty(bucket)))
            except ClientError as gone:
                if code(gone) == "NoSuchBucket":
                    return _Seen(BucketFacts(False))
                raise
        mark, capabilities, cors = _parsed(body)
        return _Seen(BucketFacts(True, mark, capabilities, cors=cors), etag)

    def _read_mark(self, bucket: str) -> tuple[bytes, str]:
        found = self._s3.get_object(Bucket=bucket, Key=MARK_KEY)
        try:
            return found["Body"].read(MARK_BYTES), found.get("ETag", "")
        finally:
            found["Body"].close()

    def _born(self, bucket: str, tenant_id: str) -> Born:
        try:
            found = self._s3.get_object(Bucket=bucket, Key=birth_key(tenant_id))
        except ClientError as error:
            if code(error) != "NoSuchKey":
                raise
        else:
            try:
                return Born(Birth.loads(found["Body"].read(births.MOST_BYTES)))
            finally:
                found["Body"].close()
        prefix = content_key(tenant_id, "")
        listed = _listed(
            self._s3.list_objects_v2(Bucket=bucket, Prefix=prefix, Delimiter="/", MaxKeys=births.LOOKED_AT)
        )
        names = (each["Key"].removeprefix(prefix) for each in listed.get("Contents", []))
        return Born(None, tuple(births.compared(names)))

    async def _is_empty(self, bucket: str) -> bool:
        """Three requests: a server without versions may answer a list of versions with an empty one."""
        if _listed(await self._threads.run(self._s3.list_objects_v2, Bucket=bucket, MaxKeys=1)).get("Contents"):
            return False
        versions = await self._threads.run(_if_known, self._s3.list_object_versions, Bucket=bucket, MaxKeys=1)
        uploads = await self._threads.run(_if_known, self._s3.list_multipart_uploads, Bucket=bucket, MaxUploads=1)
        return not (versions.get("Versions") or versions.get("DeleteMarkers") or uploads.get("Uploads"))

    async def _claim(self, bucket: str, seen: _Seen, mark: OwnerMark, adopt: bool) -> _Seen:
        for _ in range(3):
            found = seen.facts.mark
            if found is None and not seen.facts.empty:
                raise NotOwned(
                    f"bucket {bucket} exists, is not empty and has no owner mark: choose another "
                    "spec.storage.bucket, or empty it"
                )
            if found and found.relation(mark, adopt=adopt) == "foreign":
                raise NotOwned(f"bucket {bucket} belongs to {found.describe()}: choose another spec.storage.bucket")
            if found == mark:
                return seen
            await self._write_mark(bucket, mark, {}, instead_of=seen)
            seen = await self._look(bucket)
        raise Unavailable(
            "store", f"the owner mark of bucket {bucket} changes after each write: somebody else writes it, too"
        )

    async def _write_mark(
        self,
        bucket: str,
        mark: OwnerMark,
        capabilities: Mapping[str, bool],
        *,
        instead_of: _Seen,
        cors: BucketCors | Literal["as before"] | None = "as before",
    ) -> None:
        """Writes nothing if the owner mark has changed since it was seen, where the server knows conditional puts."""
        document: dict[str, Any] = {"mark": str(mark), "capabilities": dict(capabilities)}
        told = instead_of.facts.cors if cors == "as before" else cors
        if told is not None:
            document["cors"] = {"origins": list(told.origins), "maxAgeSeconds": told.max_age_seconds}
        wanted: dict[str, Any] = {
            "Bucket": bucket,
            "Key": MARK_KEY,
            "Body": json.dumps(document).encode(),
            "ContentType": "application/json",
        }
        condition = {"IfMatch": instead_of.etag} if instead_of.etag else {"IfNoneMatch": "*"}
        try:
            await self._threads.run(self._s3.put_object, **wanted, **cast("Any", condition))
        except ClientError as error:
            if code(error) in ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "412", "409"):
                return
            if not is_refusal(error) or code(error) in ("AccessDenied", "NoSuchBucket"):
                raise
            await self._threads.run(self._s3.put_object, **wanted)

    async def _make(self, bucket: str) -> None:
        request: CreateBucketRequestTypeDef = {"Bucket": bucket}
        if self._settings.region != "us-east-1":  # the default, which S3 refuses as a LocationConstraint
            request["CreateBucketConfiguration"] = {"LocationConstraint": cast("Any", self._settings.region)}
        try:
            await self._threads.run(self._s3.create_bucket, **request)
        except ClientError as error:
            if code(error) == "BucketAlreadyExists":
                raise NotOwned(
                    f"bucket {bucket} belongs to another account of this S3: choose another spec.storage.bucket"
                ) from None
            if code(error) != "BucketAlreadyOwnedByYou":
                raise


@dataclass(frozen=True)
class _Seen:
    facts: BucketFacts = BucketFacts(False)
    etag: str = ""
    """Of the owner mark."""


class _Hardening:
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
        _attempt(self._s3.put_public_access_block, Bucket=self._bucket, PublicAccessBlockConfiguration=everything)
        found = _attempt(self._s3.get_public_access_block, Bucket=self._bucket)
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
            if all(before.get(rule["ID"]) == rule for rule in rules) or _attempt(
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
        copied = _attempt(
            self._s3.upload_part_copy, **upload, PartNumber=1, CopySource={"Bucket": self._bucket, "Key": source}
        )
        parts = [{"PartNumber": 1, "ETag": copied.get("CopyPartResult", {}).get("ETag", "")}]
        if _attempt(self._s3.complete_multipart_upload, **upload, MultipartUpload={"Parts": parts}):
            return self._s3.head_object(Bucket=self._bucket, Key=key)["ContentLength"] == len(b"probe")
        _attempt(self._s3.abort_multipart_upload, **upload)
        return False


class _Sharing:
    """A bucket's rules for web apps of other origins (CORS)."""

    def __init__(self, s3: S3Client, endpoint: str, bucket: str) -> None:
        self._s3 = s3
        self._url = f"{endpoint.rstrip('/')}/{bucket}/{MARK_KEY}"
        self._bucket = bucket

    def allow(self, cors: BucketCors | None) -> bool | None:
        """Whether these apps may read now; None if there are none.

        Raises RequestRefused, and sets nothing, where the rules that are there may not be looked at.
        """
        before = self._rules()
        rules = [rule for rule in before if rule.get("ID") != _ALLOW_ORIGINS]
        if cors is None:
            if rules:
                _if_known(self._s3.put_bucket_cors, Bucket=self._bucket, CORSConfiguration={"CORSRules": rules})
            elif before:
                _if_known(self._s3.delete_bucket_cors, Bucket=self._bucket)
            return None
        rule: dict[str, Any] = {
            "ID": _ALLOW_ORIGINS,
            "AllowedOrigins": list(cors.origins),
            "AllowedMethods": ["GET", "HEAD"],
            "AllowedHeaders": ["*"],
            "ExposeHeaders": list(EXPOSED),
            "MaxAgeSeconds": cors.max_age_seconds,
        }
        _if_known(self._s3.put_bucket_cors, Bucket=self._bucket, CORSConfiguration={"CORSRules": [*rules, rule]})
        kept = any(each.get("AllowedOrigins") == rule["AllowedOrigins"] for each in self._rules())
        # MinIO has no such rules: the server itself lets all origins read, or those of its own settings.
        return kept or self._answers(cors.origins[0].replace("*", "any"))

    def _rules(self) -> list[dict[str, Any]]:
        """Empty if the server knows no such rules. What is put takes the place of all rules, those of others too."""
        try:
            found = self._s3.get_bucket_cors(Bucket=self._bucket)
        except ClientError as error:
            if status(error) == 403 and code(error) not in BAD_KEY:
                raise RequestRefused(
                    "store",
                    f"S3 does not let the operator look at the CORS rules of bucket {self._bucket} ({code(error)} to "
                    "GetBucketCors), so it sets none, which could replace rules of others: grant it s3:GetBucketCORS",
                ) from None
            if not is_refusal(error) or code(error) == "NoSuchBucket" or status(error) == 403:
                raise
            return []
        return cast("list[dict[str, Any]]", found.get("CORSRules", []))

    def _answers(self, origin: str) -> bool:
        """Whether a browser's question before a GET is answered with this origin."""
        asked = {"Origin": origin, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "range"}
        request = urllib.request.Request(self._url, method="OPTIONS", headers=asked)  # noqa: S310 (S3's own address)
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_TIMEOUT) as answer:  # noqa: S310
                return answer.headers.get("Access-Control-Allow-Origin") in (origin, "*")
        except OSError:
            return False


def _attempt(work: Callable[..., Any], **request: Any) -> dict[str, Any]:
    """The answer; empty if the server refuses for any reason, except that the bucket is gone."""
    try:
        answer: dict[str, Any] = work(**request)
    except ClientError as error:
        if not is_refusal(error) or code(error) == "NoSuchBucket":
            raise
        return {}
    return answer


def _if_known(work: Callable[..., Any], **request: Any) -> dict[str, Any]:
    """The answer; empty if the server does not know this request. Raises if it denies it (403, 404)."""
    try:
        answer: dict[str, Any] = work(**request)
    except ClientError as error:
        if not is_refusal(error) or status(error) in (403, 404):
            raise
        return {}
    return answer


def _listed(answer: _T) -> _T:
    """The answer. Raises Unavailable if it is no list of objects: boto3 takes a page in HTML for an empty one."""
    if "Name" not in answer and "KeyCount" not in answer:
        raise Unavailable("store", "S3 answered a request for a list of objects with something else")
    return answer


class _Emptying:
    """Deletes all objects of a bucket except its owner mark, page by page."""

    def __init__(self, s3: S3Client, threads: Threads, bucket: str) -> None:
        self._s3 = s3
        self._threads = threads
        self._bucket = bucket
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

    async def delete_mark(self) -> None:
        """Deletes older versions first: none of them may become the current one again."""
        answer = await self._list_versions(Prefix=MARK_KEY)
        marks = sorted(
            (entry for entry in _versions_in(answer) if entry["Key"] == MARK_KEY),
            key=lambda entry: bool(entry.get("IsLatest")),
        )
        for mark in marks or [{"Key": MARK_KEY}]:
            await self._delete_one(_identifier(mark))

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
            self._has_versions = bool(entries or start)  # a server with versions lists at least the owner mark
        if not self._has_versions:
            plain: Callable[..., Any] = self._s3.list_objects_v2
            answer = await self._threads.run(plain, **self._one_page, **start)
            entries = answer.get("Contents", [])
            following = _following(answer, "ContinuationToken")
        return [_identifier(entry) for entry in entries if entry["Key"] != MARK_KEY], following

    async def _list_versions(self, **more: str) -> dict[str, Any]:
        return await self._threads.run(_if_known, self._s3.list_object_versions, **self._one_page, **more)

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
                _if_known, self._s3.list_multipart_uploads, Bucket=self._bucket, MaxUploads=PAGE, **start
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


def _parsed(body: bytes) -> tuple[OwnerMark, dict[str, bool], BucketCors | None]:
    """Never fails: an owner mark that cannot be read is somebody else's."""
    try:
        document = json.loads(body)
        mark, capabilities = document["mark"], document.get("capabilities", {})
        cors = document.get("cors")
        told = cors and BucketCors(tuple(map(str, cors["origins"])), int(cors["maxAgeSeconds"]))
        known = {name: value for name, value in capabilities.items() if isinstance(value, bool)}
        return OwnerMark.parse(mark), known, told or None
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        return OwnerMark("its mark can't be read"), {}, None
