"""A tenant's own keys to S3: one IAM user with one policy, which reaches this tenant's prefix and nothing else.

The user has at most two keys (AWS's limit), so a key can be replaced while the previous one still works. The user's
name contains a hash of the cluster, so that two clusters at one S3 service never touch each other's users. The user's
path allows a permission of the operator that is limited to `user/media-platform/*`.

Where the server has no IAM API, every tenant gets the platform's own key (`SharedKey`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from media_core.errors import Unavailable
from media_core.store.base import tenant_prefix
from media_operator.backends.boto import Threads, code, open_client, outages
from media_operator.settings import StoreAdminSettings

if TYPE_CHECKING:
    from types_boto3_iam import IAMClient

PATH = "/media-platform/"
POLICY = "own-prefix"
KEYS_PER_USER = 2
"""IAM's limit."""
OBJECT_ACTIONS = (
    "s3:GetObject",
    "s3:PutObject",
    "s3:DeleteObject",
    "s3:AbortMultipartUpload",
    "s3:ListMultipartUploadParts",
)
"""What `S3Store` calls on objects. A copy needs only to read one object and to write the other."""


@dataclass(frozen=True)
class Key:
    access_key_id: str
    secret: str = field(repr=False)


def open_store_keys(settings: StoreAdminSettings, cluster: str = "") -> StoreKeys | SharedKey:
    """`cluster`: uid of the kube-system namespace."""
    return StoreKeys(settings, cluster) if settings.credentials == "iam" else SharedKey(settings)


class StoreKeys:
    """All tenants' keys. The constructor makes no request.

    Every method raises `Unavailable("iam", sentence)` while IAM does not serve, and may be cut anywhere and repeated.
    On AWS a change takes some seconds to reach S3; on versitygw it holds at once.
    """

    shared = False

    def __init__(self, settings: StoreAdminSettings, cluster: str = "") -> None:
        self._settings = settings
        self._cluster = cluster
        self._iam: IAMClient = open_client("iam", settings)
        self._threads = Threads("iam")

    def user(self, tenant_id: str, cluster: str | None = None) -> str:
        """Name of the tenant's user: at most 55 characters, of the 64 that IAM allows."""
        cluster = self._cluster if cluster is None else cluster
        return f"media-{tenant_id}" + (f"-{hashlib.sha256(cluster.encode()).hexdigest()[:8]}" if cluster else "")

    async def observe(self, tenant_id: str) -> tuple[str, ...]:
        """Ids of the keys that work; none if there is no user."""
        user = self.user(tenant_id)
        with outages("iam", self._settings, user):
            return tuple(key for key, active in (await self._keys(user) or {}).items() if active)

    async def make(self, tenant_id: str, bucket: str, *, keep: Collection[str] = ()) -> Key:
        """A new key. User and policy are made or corrected first. Raises ValueError if `keep` leaves no room.

        If the user has two keys already, those not in `keep` are deleted first: nobody has them.
        """
        if len(set(keep)) >= KEYS_PER_USER:
            raise ValueError(f"a user has at most {KEYS_PER_USER} keys: one of {sorted(keep)} has to be deleted first")
        user = self.user(tenant_id)
        with outages("iam", self._settings, user):
            keys = await self._keys(user)
            if keys is None:
                await self._create_user(user)
                keys = await self._keys(user)
            document = json.dumps(iam_policy(tenant_id, bucket), separators=(",", ":"))
            await self._threads.run(
                self._iam.put_user_policy, UserName=user, PolicyName=POLICY, PolicyDocument=document
            )
            if keys and len(keys) >= KEYS_PER_USER:
                await self._delete_keys(user, set(keys) - set(keep))
            made = (await self._threads.run(self._iam.create_access_key, UserName=user))["AccessKey"]
            return Key(made["AccessKeyId"], made["SecretAccessKey"])

    async def revoke(self, tenant_id: str, *, keep: Collection[str]) -> None:
        """Deletes all keys of the tenant except `keep`. Does nothing if there is no user."""
        user = self.user(tenant_id)
        with outages("iam", self._settings, user):
            await self._delete_keys(user, set(await self._keys(user) or ()) - set(keep))

    async def remove(self, tenant_id: str, *, cluster: str | None = None) -> None:
        """Deletes keys, policies and user. Does nothing if there is no user.

        `cluster`: the cluster that an adopted tenant came from, as its owner mark says; its keys still work.
        """
        user = self.user(tenant_id, cluster)
        with outages("iam", self._settings, user):
            keys = await self._keys(user)
            if keys is None:
                return
            await self._delete_keys(user, set(keys))
            for name in (await self._threads.run(self._iam.list_user_policies, UserName=user))["PolicyNames"]:
                await self._unless_gone(self._iam.delete_user_policy, UserName=user, PolicyName=name)
            try:
                await self._unless_gone(self._iam.delete_user, UserName=user)
            except ClientError as error:
                if code(error) != "DeleteConflict":
                    raise
                raise Unavailable(
                    "iam", f"user {user} has no key any more, but IAM does not delete it: detach what was added to it"
                ) from None

    async def aclose(self) -> None:
        self._threads.close()
        self._iam.close()

    async def _keys(self, user: str) -> dict[str, bool] | None:
        """Key id -> whether it is active; None: there is no user."""
        try:
            found = await self._threads.run(self._iam.list_access_keys, UserName=user)
        except ClientError as error:
            if code(error) == "NoSuchEntity":
                return None
            raise
        return {key["AccessKeyId"]: key.get("Status") == "Active" for key in found["AccessKeyMetadata"]}

    async def _create_user(self, user: str) -> None:
        try:
            await self._threads.run(self._iam.create_user, UserName=user, Path=PATH)
        except ClientError as error:
            if code(error) != "EntityAlreadyExists":
                raise

    async def _delete_keys(self, user: str, keys: Collection[str]) -> None:
        for key in sorted(keys):
            await self._unless_gone(self._iam.delete_access_key, UserName=user, AccessKeyId=key)

    async def _unless_gone(self, work: Any, **request: str) -> None:
        try:
            await self._threads.run(work, **request)
        except ClientError as error:
            if code(error) != "NoSuchEntity":
                raise


class SharedKey:
    """The platform's own key, for every tenant. In place of `StoreKeys` for a server without IAM API."""

    shared = True

    def __init__(self, settings: StoreAdminSettings) -> None:
        self._key = Key(settings.access_key_id, settings.secret_access_key.get_secret_value())

    async def observe(self, tenant_id: str) -> tuple[str, ...]:
        return (self._key.access_key_id,)

    async def make(self, tenant_id: str, bucket: str, *, keep: Collection[str] = ()) -> Key:
        return self._key

    async def revoke(self, tenant_id: str, *, keep: Collection[str]) -> None:
        """Does nothing: the operator and all other tenants use the key."""

    async def remove(self, tenant_id: str, *, cluster: str | None = None) -> None:
        """Does nothing, like `revoke`."""

    async def aclose(self) -> None:
        """Does nothing: nothing is open."""


def iam_policy(tenant_id: str, bucket: str) -> dict[str, Any]:
    """Allows the tenant's prefix in its bucket and nothing else: not the owner mark, not the bucket's settings.

    The condition on listing holds only if the request names a prefix (`IfExists`). S3 answers 403 instead of 404 for an
    absent object if the key may not list it, and Ceph before 2026 checks that without a prefix. Listing unfinished
    uploads knows no such condition. Without a prefix, both list only this tenant's own bucket.
    """
    prefix = tenant_prefix(tenant_id)
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": list(OBJECT_ACTIONS), "Resource": f"arn:aws:s3:::{bucket}/{prefix}*"},
            {
                "Effect": "Allow",
                "Action": ["s3:ListBucket", "s3:ListBucketMultipartUploads"],
                "Resource": f"arn:aws:s3:::{bucket}",
                "Condition": {"StringLikeIfExists": {"s3:prefix": f"{prefix}*"}},
            },
        ],
    }
