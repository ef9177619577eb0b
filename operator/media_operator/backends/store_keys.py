"""A tenant's own keys to S3: one IAM user with one policy, which reaches this tenant's prefix and nothing else.

The user has at most two keys (AWS's limit), so a key can be replaced while the previous one still works. The user's
name contains a hash of the cluster, so that two clusters at one S3 service never touch each other's users. The user's
path allows a permission of the operator that is limited to `user/media-platform/*`.

Where no user may have keys, each tenant gets temporary keys by sts:AssumeRole, with the same policy (`RoleSessions`).
Where the server has no IAM API, every tenant gets the platform's own key (`SharedKey`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from media_core.errors import Unavailable
from media_core.store import credentials
from media_core.store.base import tenant_prefix
from media_core.store.credentials import S3Key
from media_operator.backends.boto import NoSuchApi, Threads, code, open_client, outages
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

LIST, LIST_UPLOADS = "s3:ListBucket", "s3:ListBucketMultipartUploads"


@dataclass(frozen=True)
class Key:
    access_key_id: str
    secret: str = field(repr=False)


def open_store_keys(settings: StoreAdminSettings, cluster: str) -> StoreKeys | RoleSessions | SharedKey:
    """`cluster`: uid of the kube-system namespace."""
    match settings.credentials:
        case "iam":
            return StoreKeys(settings, cluster)
        case "role":
            return RoleSessions(settings, cluster)
    return SharedKey(settings)


def user_of(tenant_id: str, cluster: str) -> str:
    """Name of the tenant's user, or of its sessions: at most 55 characters, of the 64 that IAM allows."""
    return f"media-{tenant_id}" + (f"-{hashlib.sha256(cluster.encode()).hexdigest()[:8]}" if cluster else "")


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
        return user_of(tenant_id, self._cluster if cluster is None else cluster)

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


RENEWED_WITH_LEFT = timedelta(minutes=10)
"""A key with less left is replaced, however long it lives: a signed URL lives 5 minutes, a pod sees another key in its
Secret after up to two, and the rest is for an STS that is away for a moment."""


@dataclass(frozen=True)
class Session:
    """A temporary key, as the tenant's Secret holds it."""

    key: S3Key
    made_at: datetime
    """By the operator's clock."""
    role: str
    """ARN of its role."""

    def __post_init__(self) -> None:
        if self.key.expires_at is None or self.key.session_token is None:
            raise ValueError("a session's key has an end and a token")

    @property
    def ends(self) -> datetime:
        assert self.key.expires_at is not None  # noqa: S101 (checked above)
        return self.key.expires_at

    @property
    def due(self) -> datetime:
        """When it is time for another one: at half its life, or earlier if less than `RENEWED_WITH_LEFT` is left.

        Not in the first quarter of its life, which looks short if the clocks of STS and of this machine differ.
        """
        life = self.ends - self.made_at
        return max(self.made_at + life / 4, min(self.made_at + life / 2, self.ends - RENEWED_WITH_LEFT))

    @property
    def late(self) -> datetime:
        """From when on it is likely that something is wrong: half of the time between `due` and the end is over."""
        return self.due + (self.ends - self.due) / 2

    def as_text(self) -> str:
        """For the Secret, and for the pods that read it (`media_core.store.credentials`)."""
        notes = {"Issued": self.made_at.astimezone(UTC).isoformat(timespec="seconds"), "RoleArn": self.role}
        return credentials.as_text(self.key, notes)


def session_in(text: str | None) -> Session | None:
    """None: there is none, or the key has no end, or nobody knows when it was made."""
    if not text:
        return None
    try:
        key, notes = credentials.parsed(text), json.loads(text)
        return Session(key, datetime.fromisoformat(notes["Issued"]), str(notes["RoleArn"]))
    except (ValueError, KeyError, TypeError):
        return None


class RoleSessions:
    """Temporary keys of one role, each limited to one tenant's prefix by its session's policy.

    STS keeps nothing that could be looked at or deleted: a session works until its end. So the tenant's Secret alone
    says which one there is. Raises like `StoreKeys`, with "sts".
    """

    def __init__(self, settings: StoreAdminSettings, cluster: str = "") -> None:
        self._settings = settings
        self._cluster = cluster
        self._sts: Any = open_client("sts", settings)
        self._threads = Threads("sts")
        self._users: StoreKeys | None = None

    @property
    def role(self) -> str:
        return self._settings.role_arn

    async def begin(self, tenant_id: str, bucket: str) -> Session:
        role = self._settings.role_arn
        on_aws = self._settings.sts_endpoint is None or "amazonaws.com" in self._settings.sts_endpoint
        policy = session_policy(tenant_id, bucket, on_aws=on_aws)
        before = datetime.now(UTC)
        with outages("sts", self._settings, role):
            answer = await self._threads.run(
                self._sts.assume_role,
                RoleArn=role,
                RoleSessionName=user_of(tenant_id, self._cluster),
                DurationSeconds=self._settings.role_seconds,
                Policy=json.dumps(policy, separators=(",", ":")),
            )
        made = answer["Credentials"]
        if (made["Expiration"] - before).total_seconds() < self._settings.role_seconds / 2:
            raise Unavailable("sts", "the clocks of STS and of the operator differ too much")
        key = S3Key(made["AccessKeyId"], made["SecretAccessKey"], made["SessionToken"], made["Expiration"])
        return Session(key, before, role)

    async def remove(self, tenant_id: str, *, cluster: str | None = None) -> None:
        """Does nothing: a session ends by itself, within `role_seconds`."""

    async def remove_user(self, tenant_id: str, key_id: str) -> None:
        """Removes the user that the tenant had with `credentials: iam`. `key_id`: a key of before, which may have been
        the platform's own. Does nothing if there is no user, or no IAM. Raises like `StoreKeys`."""
        if key_id == self._settings.access_key_id:
            return
        self._users = self._users or StoreKeys(self._settings, self._cluster)
        with contextlib.suppress(NoSuchApi):
            await self._users.remove(tenant_id)

    async def aclose(self) -> None:
        self._threads.close()
        self._sts.close()
        if self._users is not None:
            await self._users.aclose()


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
    condition = {"StringLikeIfExists": {"s3:prefix": f"{tenant_prefix(tenant_id)}*"}}
    return _policy(_objects(tenant_id, bucket), _listing(bucket, [LIST, LIST_UPLOADS], condition))


def session_policy(tenant_id: str, bucket: str, *, on_aws: bool) -> dict[str, Any]:
    """The same for a session, in words that MinIO knows there too: no `IfExists`, no condition on unfinished uploads.

    A session may do what both its role and this policy allow. So on AWS it leaves it to the role which keys of KMS S3
    may use for it; other servers know no such actions. A user is allowed that by the key's own policy.
    """
    statements = [
        _objects(tenant_id, bucket),
        _listing(bucket, [LIST], {"StringLike": {"s3:prefix": f"{tenant_prefix(tenant_id)}*"}}),
        _listing(bucket, [LIST], {"Null": {"s3:prefix": "true"}}),
        _listing(bucket, [LIST_UPLOADS]),
    ]
    if on_aws:
        via_s3 = {"StringLike": {"kms:ViaService": "s3.*.amazonaws.com*"}}
        actions = ["kms:Decrypt", "kms:GenerateDataKey"]
        statements.append({"Effect": "Allow", "Action": actions, "Resource": "*", "Condition": via_s3})
    return _policy(*statements)


def _policy(*statements: dict[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def _objects(tenant_id: str, bucket: str) -> dict[str, Any]:
    resource = f"arn:aws:s3:::{bucket}/{tenant_prefix(tenant_id)}*"
    return {"Effect": "Allow", "Action": list(OBJECT_ACTIONS), "Resource": resource}


def _listing(bucket: str, actions: list[str], condition: dict[str, Any] | None = None) -> dict[str, Any]:
    statement = {"Effect": "Allow", "Action": actions, "Resource": f"arn:aws:s3:::{bucket}"}
    return statement | ({"Condition": condition} if condition else {})
