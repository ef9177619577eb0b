"""A tenant's S3 keys on versitygw and its IAM server: what they may do, what not, and how they are replaced."""

import json
import statistics
import time
import traceback
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from pydantic import SecretStr

from media_core.errors import Unavailable
from media_core.store import S3Settings, S3Store
from media_operator.backends import boto
from media_operator.backends.buckets import MARK_KEY
from media_operator.backends.store_keys import Key, SharedKey, StoreKeys, open_store_keys
from media_operator.settings import StoreAdminSettings
from media_operator.tenant.ownership import OwnerMark
from tests.cluster.machine import slowness
from tests.integration.servers import s3_servers
from tests.integration.servers.s3_servers import S3Server
from tests.integration.servers.store_tenants import (  # noqa: F401  (the last two are fixtures)
    CLUSTER,
    NewTenant,
    Tenant,
    beyond_its_own,
    check_all_work,
    one_tenant,
    several_tenants,
)
from tests.stopwatch import Stopwatch


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[S3Server]:
    running = await s3_servers.start("versitygw", tmp_path_factory.mktemp("versitygw"), iam=True)
    yield running
    running.stop()


@pytest.fixture
async def keys(server: S3Server) -> AsyncIterator[StoreKeys]:
    opened = open_store_keys(server.admin(), CLUSTER)
    assert isinstance(opened, StoreKeys)
    yield opened
    await opened.aclose()


def settings_of(server: S3Server, tenant: Tenant, key: Key) -> S3Settings:
    return S3Settings(
        endpoint=server.settings.endpoint,
        bucket=tenant.bucket,
        access_key_id=key.access_key_id,
        secret_access_key=SecretStr(key.secret),
    )


def client(server: S3Server, key: Key, service: str = "s3") -> Any:
    return boto3.client(
        service,
        endpoint_url=server.settings.endpoint if service == "s3" else server.iam_endpoint,
        region_name="us-east-1",
        aws_access_key_id=key.access_key_id,
        aws_secret_access_key=key.secret,
    )


def root_key(server: S3Server) -> Key:
    return Key(server.settings.access_key_id, server.settings.secret_access_key.get_secret_value())


def works(server: S3Server, tenant: Tenant, key: Key) -> bool:
    """Whether S3 accepts the key. Raises all other errors."""
    try:
        client(server, key).list_objects_v2(Bucket=tenant.bucket, Prefix=f"tenant/{tenant.id}/")
    except ClientError as error:
        if error.response["Error"]["Code"] != "InvalidAccessKeyId":
            raise
        return False
    return True


# --- what a key reaches


async def test_the_tenants_store_does_all_its_work_with_the_key(
    server: S3Server, keys: StoreKeys, monkeypatch: pytest.MonkeyPatch, tenant: Tenant
) -> None:
    store = S3Store(settings_of(server, tenant, await keys.make(tenant.id, tenant.bucket)), tenant.id)
    await check_all_work(store, tenant.id, monkeypatch)
    await store.aclose()


async def test_the_key_reaches_nothing_else(
    server: S3Server, keys: StoreKeys, new_tenant: NewTenant, tenant: Tenant
) -> None:
    other = await new_tenant()
    theirs = client(server, await keys.make(other.id, other.bucket))
    theirs.put_object(Bucket=other.bucket, Key=f"tenant/{other.id}/1", Body=b"theirs")
    made = await keys.make(tenant.id, tenant.bucket)
    s3, iam = client(server, made), client(server, made, "iam")
    own = f"tenant/{tenant.id}/1"
    s3.put_object(Bucket=tenant.bucket, Key=own, Body=b"own")
    user = keys.user(tenant.id)
    policy = json.dumps(
        {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    )
    public = json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Principal": "*",
                    "Action": "s3:GetObject",
                    "Resource": f"arn:aws:s3:::{tenant.bucket}/*",
                }
            ],
        }
    )
    refused: dict[str, Callable[[], object]] = {
        **beyond_its_own(s3, tenant, other),
        "ask for the mark": lambda: s3.head_object(Bucket=tenant.bucket, Key=MARK_KEY),
        "delete the mark": lambda: s3.delete_object(Bucket=tenant.bucket, Key=MARK_KEY),
        "copy over the mark": lambda: s3.copy_object(
            Bucket=tenant.bucket, Key=MARK_KEY, CopySource={"Bucket": tenant.bucket, "Key": own}
        ),
        "an upload over the mark": lambda: s3.create_multipart_upload(Bucket=tenant.bucket, Key=MARK_KEY),
        "another prefix of its bucket": lambda: s3.put_object(
            Bucket=tenant.bucket, Key=f"tenant/{other.id}/1", Body=b"x"
        ),
        "a way out of the prefix": lambda: s3.put_object(
            Bucket=tenant.bucket, Key=f"tenant/{tenant.id}/../../{MARK_KEY}", Body=b"x"
        ),
        "a bucket policy": lambda: s3.put_bucket_policy(Bucket=tenant.bucket, Policy=public),
        "the list of buckets": lambda: s3.list_buckets(),
        "a key of its own": lambda: iam.create_access_key(UserName=user),
        "a policy of its own": lambda: iam.put_user_policy(UserName=user, PolicyName="more", PolicyDocument=policy),
        "a user": lambda: iam.create_user(UserName="more"),
        "the list of users": lambda: iam.list_users(),
    }
    for what, attempt in refused.items():
        with pytest.raises(ClientError) as raised:
            attempt()
        answer = raised.value.response
        assert answer["ResponseMetadata"]["HTTPStatusCode"] in (400, 403), (what, answer["Error"])
        assert answer["Error"]["Code"] in ("AccessDenied", "403", "BadRequest", "InvalidURI"), (what, answer["Error"])
    batch = s3.delete_objects(Bucket=tenant.bucket, Delete={"Objects": [{"Key": MARK_KEY}, {"Key": own}]})
    assert [(failed["Key"], failed["Code"]) for failed in batch["Errors"]] == [(MARK_KEY, "AccessDenied")]
    root = client(server, root_key(server))
    assert (
        str(OwnerMark("uid-1", f"media/{tenant.id}", CLUSTER))
        in root.get_object(Bucket=tenant.bucket, Key=MARK_KEY)["Body"].read().decode()
    )
    assert root.get_object(Bucket=other.bucket, Key=f"tenant/{other.id}/1")["Body"].read() == b"theirs"


# --- two at a time


async def test_a_key_is_replaced_while_the_one_before_still_works(
    server: S3Server, keys: StoreKeys, tenant: Tenant
) -> None:
    assert await keys.observe(tenant.id) == ()
    old = await keys.make(tenant.id, tenant.bucket)
    new = await keys.make(tenant.id, tenant.bucket, keep=[old.access_key_id])
    assert set(await keys.observe(tenant.id)) == {old.access_key_id, new.access_key_id}
    assert works(server, tenant, old)
    assert works(server, tenant, new)
    for _ in range(2):
        await keys.revoke(tenant.id, keep=[new.access_key_id])
        assert await keys.observe(tenant.id) == (new.access_key_id,)
    assert not works(server, tenant, old)
    assert works(server, tenant, new)


async def test_keys_that_nobody_holds_make_room_and_the_one_in_use_stays(
    server: S3Server, keys: StoreKeys, tenant: Tenant
) -> None:
    """Such keys are left when the operator dies between making a key and storing it."""
    used = await keys.make(tenant.id, tenant.bucket)
    lost = await keys.make(tenant.id, tenant.bucket, keep=[used.access_key_id])
    new = await keys.make(tenant.id, tenant.bucket, keep=[used.access_key_id])
    assert set(await keys.observe(tenant.id)) == {used.access_key_id, new.access_key_id}
    assert not works(server, tenant, lost)
    fresh = await keys.make(tenant.id, tenant.bucket)
    assert await keys.observe(tenant.id) == (fresh.access_key_id,)
    with pytest.raises(ValueError, match="at most 2 keys"):
        await keys.make(tenant.id, tenant.bucket, keep=["one", "two"])


async def test_a_policy_that_was_changed_is_put_right(server: S3Server, keys: StoreKeys, tenant: Tenant) -> None:
    first = await keys.make(tenant.id, tenant.bucket)
    root = client(server, root_key(server), "iam")
    user = keys.user(tenant.id)
    (name,) = root.list_user_policies(UserName=user)["PolicyNames"]
    before = root.get_user_policy(UserName=user, PolicyName=name)["PolicyDocument"]
    wide = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    root.put_user_policy(UserName=user, PolicyName=name, PolicyDocument=json.dumps(wide))
    await keys.make(tenant.id, tenant.bucket, keep=[first.access_key_id])
    assert root.get_user_policy(UserName=user, PolicyName=name)["PolicyDocument"] == before
    assert root.get_user(UserName=user)["User"]["Path"] == "/media-platform/"


async def test_a_removed_tenants_keys_are_dead(server: S3Server, keys: StoreKeys, tenant: Tenant) -> None:
    made = [await keys.make(tenant.id, tenant.bucket) for _ in range(2)]
    root = client(server, root_key(server), "iam")
    root.put_user_policy(
        UserName=keys.user(tenant.id),
        PolicyName="added",
        PolicyDocument=json.dumps(
            {"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "s3:*", "Resource": "arn:aws:s3:::x"}]}
        ),
    )
    for _ in range(2):
        await keys.remove(tenant.id)
        assert await keys.observe(tenant.id) == ()
    await keys.revoke(tenant.id, keep=[])
    assert not any(works(server, tenant, key) for key in made)
    with pytest.raises(root.exceptions.NoSuchEntityException):
        root.get_user(UserName=keys.user(tenant.id))
    assert works(server, tenant, await keys.make(tenant.id, tenant.bucket))


async def test_two_clusters_at_one_iam_leave_each_others_users_alone(
    server: S3Server, keys: StoreKeys, tenant: Tenant
) -> None:
    elsewhere = StoreKeys(server.admin(), "cluster-2")
    ours, theirs = await keys.make(tenant.id, tenant.bucket), await elsewhere.make(tenant.id, tenant.bucket)
    await elsewhere.revoke(tenant.id, keep=[theirs.access_key_id])
    assert await keys.observe(tenant.id) == (ours.access_key_id,)
    assert await elsewhere.observe(tenant.id) == (theirs.access_key_id,)
    await keys.remove(tenant.id, cluster="cluster-2")  # an adopted tenant's: that cluster is gone
    assert await elsewhere.observe(tenant.id) == ()
    assert works(server, tenant, ours)
    await elsewhere.aclose()


async def test_many_users_stay_fast(server: S3Server, keys: StoreKeys, tmp_path: Path) -> None:
    """versitygw has all users in one file, which it reads for every request with a tenant's key."""
    bucket, took = "media-many", []
    for number in range(200):
        started = time.monotonic()
        await keys.make(f"many-{number}", bucket)
        took.append(time.monotonic() - started)
    started = Stopwatch()
    await keys.observe("many-0")
    assert started.seconds() < 3
    assert statistics.median(took[100:]) < slowness()


# --- no IAM, and trouble


async def test_a_shared_key_is_the_platforms_own(server: S3Server) -> None:
    shared = open_store_keys(server.admin("shared"), CLUSTER)
    assert isinstance(shared, SharedKey)
    assert (shared.shared, StoreKeys.shared) == (True, False)
    root = root_key(server)
    assert await shared.observe("acme") == (root.access_key_id,)
    assert await shared.make("acme", "media-acme", keep=[root.access_key_id]) == root
    await shared.revoke("acme", keep=[])
    await shared.remove("acme")
    assert await shared.observe("acme") == (root.access_key_id,)
    await shared.aclose()


def test_a_key_never_shows_its_secret() -> None:
    assert "hidden" not in repr(Key("AKIA", "hidden"))


@pytest.mark.parametrize("trouble", ["nobody listens", "wrong secret", "S3 and no IAM"])
async def test_trouble_is_said_soon_and_without_secrets(
    server: S3Server, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    settings = server.admin()
    secret = "not-the-secret" if trouble == "wrong secret" else settings.secret_access_key.get_secret_value()
    endpoint, sentence = {
        "nobody listens": (s3_servers.nobody().endpoint, r"IAM at http://127.0.0.1:\d+ does not answer"),
        "wrong secret": (settings.iam_endpoint, "IAM does not accept the operator's key .*MEDIA_OPERATOR_S3_IAM"),
        "S3 and no IAM": (settings.endpoint, "no IAM API .*MEDIA_OPERATOR_S3_CREDENTIALS=shared"),
    }[trouble]
    keys = StoreKeys(
        StoreAdminSettings.model_validate(
            {**settings.model_dump(), "secret_access_key": secret, "iam_endpoint": endpoint}
        )
    )
    started = Stopwatch()
    for work in (
        keys.observe("acme"),
        keys.make("acme", "media-acme"),
        keys.revoke("acme", keep=[]),
        keys.remove("acme"),
    ):
        with pytest.raises(Unavailable, match=sentence) as raised:
            await work
        assert raised.value.dependency == "iam"
        assert secret not in "".join(traceback.format_exception(raised.value))
    assert started.seconds() < 4 * boto.ATTEMPTS * boto.CONNECT_TIMEOUT
    await keys.aclose()


async def test_minio_has_no_iam_and_the_sentence_says_what_to_set(tmp_path: Path) -> None:
    minio = await s3_servers.start("minio", tmp_path)
    try:
        settings = StoreAdminSettings.model_validate(
            {**minio.admin().model_dump(), "iam_endpoint": minio.settings.endpoint}
        )
        keys = StoreKeys(settings)
        with pytest.raises(Unavailable, match=r"no IAM .*MEDIA_OPERATOR_S3_CREDENTIALS=shared"):
            await keys.make("acme", "media-acme")
        await keys.aclose()
    finally:
        minio.stop()
