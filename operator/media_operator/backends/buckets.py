"""Tenants' buckets: made, marked, hardened, and in the end emptied.

The object `.media-tenant` at the bucket's root is the owner mark. It says whose the bucket is and what the S3 server
was seen to do. It lies outside of `tenant/`, so tenants' keys do not reach it. It is written before any other object
and deleted last, so a bucket is ours if and only if it has this object. A bucket without it is claimed only while it is
empty, or if a person says so of one that holds files of the tenant's own schema. If two operators write it at once,
conditional puts let one win. On a server without those, the loser notices when it reads the mark back or looks next.

Every method may be cut anywhere and repeated.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from botocore.exceptions import ClientError

from media_core.errors import Unavailable
from media_core.store.object_keys import birth_key, content_key
from media_core.upkeep import births
from media_core.upkeep.births import Birth
from media_operator.backends.boto import Threads, code, if_known, is_refusal, open_client, outages
from media_operator.backends.bucket_cors import CorsRules
from media_operator.backends.bucket_emptying import Emptying, ObjectsLocked
from media_operator.backends.bucket_hardening import Hardening
from media_operator.plan.desired import BucketCors
from media_operator.settings import StoreAdminSettings
from media_operator.tenant.ownership import NotOwned, OwnerMark

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import CreateBucketRequestTypeDef

_T = TypeVar("_T", bound=Mapping[str, Any])

MARK_KEY = ".media-tenant"
MARK_BYTES = 64 * 1024
"""At most so much of an owner mark is read; ours have some hundred bytes."""
BUDGET_SECONDS = 20

CORS = "cors"


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
        filled: bool = False,
    ) -> BucketFacts:
        """Makes the bucket, or takes it over if `mark` may claim it. Hardens it. Raises NotOwned.

        `adopt`: see `OwnerMark.relation`. `filled`: also one without an owner mark that holds something.
        """
        with outages("store", self._settings, bucket):
            seen = await self._look(bucket)
            if not seen.facts.exists:
                await self._make(bucket)
                seen = await self._look(bucket)
            if not seen.facts.exists:
                raise Unavailable("store", f"bucket {bucket} was made, but does not exist")
            seen = await self._claim(bucket, seen, mark, adopt, filled)
            tried = await self._threads.run(Hardening(self._s3, bucket, tenant_id).run)
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
            rules = CorsRules(self._s3, bucket, f"{self._settings.endpoint.rstrip('/')}/{bucket}/{MARK_KEY}")
            can = await self._threads.run(rules.allow, cors)
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
            emptying = Emptying(self._s3, self._threads, bucket, kept=MARK_KEY)
            while await emptying.sweep(deadline):
                if time.monotonic() >= deadline:
                    return Emptied(False, emptying.deleted, f"{emptying.deleted} objects deleted, more are left")
            deleted = emptying.deleted
            if not emptying.locked:
                await emptying.delete_kept()
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
            if found.get("ContentType", "").startswith("text/html"):
                raise Unavailable(
                    "store",
                    "what answers at MEDIA_OPERATOR_S3_ENDPOINT is not S3, but perhaps a console: it sent a web page",
                )
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
        versions = await self._threads.run(if_known, self._s3.list_object_versions, Bucket=bucket, MaxKeys=1)
        uploads = await self._threads.run(if_known, self._s3.list_multipart_uploads, Bucket=bucket, MaxUploads=1)
        return not (versions.get("Versions") or versions.get("DeleteMarkers") or uploads.get("Uploads"))

    async def _claim(self, bucket: str, seen: _Seen, mark: OwnerMark, adopt: bool, filled: bool) -> _Seen:
        for _ in range(3):
            found = seen.facts.mark
            if found is None and not (seen.facts.empty or filled):
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


def _listed(answer: _T) -> _T:
    """The answer. Raises Unavailable if it is no list of objects: boto3 takes a page in HTML for an empty one."""
    if "Name" not in answer and "KeyCount" not in answer:
        raise Unavailable("store", "S3 answered a request for a list of objects with something else")
    return answer


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
