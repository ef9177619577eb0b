"""Tenants' buckets on real S3 servers: whose they are, what is done to them, and that no other bucket is touched."""

import http.client
import http.server
import json
import secrets
import threading
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest

from media_core.errors import Unavailable
from media_core.upkeep import births
from media_core.upkeep.births import UNREADABLE, Birth
from media_operator.backends import boto, bucket_emptying, buckets
from media_operator.backends.bucket_emptying import ObjectsLocked
from media_operator.backends.buckets import CORS, MARK_KEY, Born, BucketFacts, Buckets
from media_operator.plan.desired import BucketCors
from media_operator.settings import StoreAdminSettings
from media_operator.tenant.ownership import NotOwned, OwnerMark
from tests.integration.servers import s3_servers
from tests.integration.servers.lying_s3 import lying
from tests.integration.servers.s3_servers import S3Server
from tests.stopwatch import Stopwatch

CAPABILITIES = {
    "versitygw": {"conditionalWrites", "multipartCopy"},
    "minio": {"conditionalWrites", "multipartCopy", "lifecycle"},
}


@pytest.fixture(scope="module", params=["versitygw", "minio"])
async def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[S3Server]:
    kind = request.param
    running = await s3_servers.start(kind, tmp_path_factory.mktemp(kind), iam=kind == "versitygw")
    yield running
    running.stop()


@pytest.fixture
async def store(server: S3Server) -> AsyncIterator[Buckets]:
    opened = Buckets(server.admin())
    yield opened
    await opened.aclose()


@pytest.fixture(scope="module")
def root(server: S3Server) -> Any:
    """A client with the account's key, for changes by others."""
    settings = server.settings
    return boto3.client(
        "s3",
        endpoint_url=settings.endpoint,
        region_name=settings.region,
        aws_access_key_id=settings.access_key_id,
        aws_secret_access_key=settings.secret_access_key.get_secret_value(),
    )


@pytest.fixture
def tenant() -> str:
    return f"t{secrets.token_hex(6)}"


@pytest.fixture
def bucket(tenant: str) -> str:
    return f"media-{tenant}"


@pytest.fixture
def mark(tenant: str, bucket: str) -> OwnerMark:
    return OwnerMark("uid-1", f"media/{tenant}", "cluster-1", bucket=bucket)


def names_in(root: Any, bucket: str) -> list[str]:
    """Keys of objects, versions, delete markers and unfinished uploads."""
    versions = root.list_object_versions(Bucket=bucket)
    uploads = root.list_multipart_uploads(Bucket=bucket)
    found = [*versions.get("Versions", []), *versions.get("DeleteMarkers", []), *uploads.get("Uploads", [])]
    return sorted(entry["Key"] for entry in found)


def exists(root: Any, bucket: str) -> bool:
    return bucket in [found["Name"] for found in root.list_buckets()["Buckets"]]


async def emptied(store: Buckets, bucket: str, mark: OwnerMark) -> int:
    """In as many calls as it takes: each has 20 s, and on a busy machine a few requests take as long."""
    deleted = 0
    while True:
        result = await store.empty_and_delete(bucket, mark)
        deleted += result.deleted
        if result.done:
            return deleted
        assert "more are left" in result.left


# --- made and marked


async def test_a_new_bucket_bears_the_mark_and_what_its_server_can_do(
    store: Buckets, root: Any, request: pytest.FixtureRequest, bucket: str, tenant: str, mark: OwnerMark
) -> None:
    kind = request.node.callspec.params["server"]
    assert await store.observe(bucket) == BucketFacts(exists=False)
    made = await store.create(bucket, mark, tenant_id=tenant)
    assert made == await store.observe(bucket)
    assert (made.exists, made.mark, made.empty) == (True, mark, False)
    assert {name for name, can in made.capabilities.items() if can} == CAPABILITIES[kind]
    assert {name for name, can in made.capabilities.items() if not can} == {
        "publicAccessBlock",
        "lifecycle",
        "abortUploads",
        "conditionalWrites",
        "multipartCopy",
    } - CAPABILITIES[kind]
    assert names_in(root, bucket) == [MARK_KEY]
    assert json.loads(root.get_object(Bucket=bucket, Key=MARK_KEY)["Body"].read())["mark"] == str(mark)


async def test_a_bucket_remembers_the_schema_that_it_belongs_to(
    store: Buckets, root: Any, bucket: str, tenant: str, mark: OwnerMark
) -> None:
    assert await store.born(bucket, tenant) == Born()
    await store.create(bucket, mark, tenant_id=tenant)
    assert await store.born(bucket, tenant) == Born()
    for key in (".staging/1", ".thumbnails/aa", "aa", "bb"):
        root.put_object(Bucket=bucket, Key=f"tenant/{tenant}/{key}", Body=b"kept")
    root.put_object(Bucket=bucket, Key="tenant/another/cc", Body=b"kept")
    assert await store.born(bucket, tenant) == Born(None, ("aa", "bb"))
    birth = Birth("born-1", 7, 16384)
    await store.write_birth(bucket, tenant, birth)
    assert await store.born(bucket, tenant) == Born(birth)
    assert (await store.observe(bucket)).mark == mark
    for scribble in (b"scribbled over" * 1000, b"[" * 4096):
        root.put_object(Bucket=bucket, Key=f"tenant/{tenant}/.birth", Body=scribble)
        assert await store.born(bucket, tenant) == Born(UNREADABLE)
    assert await emptied(store, bucket, mark) == 6


async def test_of_many_contents_only_the_first_are_looked_at(
    store: Buckets, root: Any, bucket: str, tenant: str, mark: OwnerMark
) -> None:
    await store.create(bucket, mark, tenant_id=tenant)
    for number in range(births.LOOKED_AT + 10):
        root.put_object(Bucket=bucket, Key=f"tenant/{tenant}/{number:064}", Body=b"kept")
    found = await store.born(bucket, tenant)
    assert found.contents == tuple(f"{number:064}" for number in range(births.LOOKED_AT))


APPS = BucketCors(("https://app.example", "https://*.preview.example"), 60)


async def test_web_apps_that_are_named_may_read_and_no_longer_when_they_are_not(
    store: Buckets, root: Any, request: pytest.FixtureRequest, bucket: str, tenant: str, mark: OwnerMark
) -> None:
    made = await store.create(bucket, mark, tenant_id=tenant)
    told = await store.allow_origins(bucket, mark, APPS)
    assert (
        told == await store.observe(bucket) == replace(made, cors=APPS, capabilities={**made.capabilities, CORS: True})
    )
    assert await store.create(bucket, mark, tenant_id=tenant) == told
    if request.node.callspec.params["server"] == "versitygw":  # the other has no rules: it lets all origins read
        (rule,) = root.get_bucket_cors(Bucket=bucket)["CORSRules"]
        assert rule["AllowedOrigins"] == list(APPS.origins)
        foreign = {"ID": "theirs", "AllowedOrigins": ["https://other.example"], "AllowedMethods": ["PUT"]}
        root.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [foreign, rule]})
        await store.allow_origins(bucket, mark, BucketCors(("https://new.example",), 5))
        rules = {rule["ID"]: rule for rule in root.get_bucket_cors(Bucket=bucket)["CORSRules"]}
        assert {name: rule["AllowedOrigins"] for name, rule in rules.items()} == {
            "theirs": ["https://other.example"],
            "media-platform-allow-origins": ["https://new.example"],
        }
        await store.allow_origins(bucket, mark, None)
        assert [rule["ID"] for rule in root.get_bucket_cors(Bucket=bucket)["CORSRules"]] == ["theirs"]
    assert await store.allow_origins(bucket, mark, None) == made == await store.observe(bucket)


async def test_rules_that_may_not_be_looked_at_are_not_replaced(
    server: S3Server, root: Any, request: pytest.FixtureRequest, bucket: str, tenant: str, mark: OwnerMark
) -> None:
    with in_between(server) as front:
        store = Buckets(front.settings)
        made = await store.create(bucket, mark, tenant_id=tenant)
        foreign = {"ID": "theirs", "AllowedOrigins": ["https://other.example"], "AllowedMethods": ["PUT"]}
        has_rules = request.node.callspec.params["server"] == "versitygw"
        if has_rules:
            root.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [foreign]})
        front.refuses = lambda asked: asked.command == "GET" and urlsplit(asked.path).query == "cors"
        for cors in (APPS, None):
            for front.refusal in ((403, "AccessDenied"), (403, "")):
                with pytest.raises(Unavailable, match=f"look at the CORS rules of bucket {bucket} .*s3:GetBucketCORS"):
                    await store.allow_origins(bucket, mark, cors)
        assert await store.observe(bucket) == made
        if has_rules:
            assert [rule["ID"] for rule in root.get_bucket_cors(Bucket=bucket)["CORSRules"]] == ["theirs"]
        await store.aclose()


async def test_a_bucket_of_somebody_else_is_told_nothing(
    store: Buckets, root: Any, bucket: str, tenant: str, mark: OwnerMark
) -> None:
    await store.create(bucket, OwnerMark("somebody-else"), tenant_id=tenant)
    with pytest.raises(NotOwned):
        await store.allow_origins(bucket, mark, APPS)


async def test_making_it_again_changes_nothing(
    store: Buckets, root: Any, bucket: str, tenant: str, mark: OwnerMark
) -> None:
    await store.create(bucket, mark, tenant_id=tenant)
    root.put_object(Bucket=bucket, Key=f"tenant/{tenant}/1", Body=b"kept")
    before = root.head_object(Bucket=bucket, Key=MARK_KEY)
    assert (await store.create(bucket, mark, tenant_id=tenant)).mark == mark
    assert root.head_object(Bucket=bucket, Key=MARK_KEY)["LastModified"] == before["LastModified"]
    assert names_in(root, bucket) == [MARK_KEY, f"tenant/{tenant}/1"]


async def test_lifecycle_rules_of_somebody_else_stay(
    store: Buckets, root: Any, request: pytest.FixtureRequest, bucket: str, tenant: str, mark: OwnerMark
) -> None:
    if "lifecycle" not in CAPABILITIES[request.node.callspec.params["server"]]:
        pytest.skip("this server has no lifecycle rules")
    root.create_bucket(Bucket=bucket)
    theirs = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "old/"}, "Expiration": {"Days": 3}}
    root.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [theirs]})
    for _ in range(2):
        await store.create(bucket, mark, tenant_id=tenant)
    rules = root.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert {rule["ID"]: (rule["Filter"]["Prefix"], rule["Expiration"]["Days"]) for rule in rules} == {
        "theirs": ("old/", 3),
        "media-platform-expire-staging": (f"tenant/{tenant}/.staging/", 7),
    }


async def test_a_bucket_that_was_made_and_not_yet_marked_is_claimed(
    store: Buckets, root: Any, bucket: str, tenant: str, mark: OwnerMark
) -> None:
    root.create_bucket(Bucket=bucket)
    assert await store.observe(bucket) == BucketFacts(exists=True, empty=True)
    assert (await store.create(bucket, mark, tenant_id=tenant)).mark == mark


@pytest.mark.parametrize("content", ["an object", "an older version", "an unfinished upload"])
async def test_a_bucket_with_anything_in_it_and_no_mark_is_left_alone(
    store: Buckets, root: Any, bucket: str, tenant: str, mark: OwnerMark, content: str
) -> None:
    root.create_bucket(Bucket=bucket)
    if content == "an older version":
        root.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    if content == "an unfinished upload":
        root.create_multipart_upload(Bucket=bucket, Key="theirs")
    else:
        root.put_object(Bucket=bucket, Key="theirs", Body=b"theirs")
    if content == "an older version":
        root.delete_object(Bucket=bucket, Key="theirs")
    before = names_in(root, bucket)
    assert await store.observe(bucket) == BucketFacts(exists=True)
    for adopt in (False, True):
        with pytest.raises(NotOwned, match=f"{bucket} exists, is not empty"):
            await store.create(bucket, mark, tenant_id=tenant, adopt=adopt)
    with pytest.raises(NotOwned):
        await store.empty_and_delete(bucket, mark)
    await store.retire(bucket, mark)
    assert names_in(root, bucket) == before


async def test_a_bucket_that_lost_its_mark_is_marked_again_where_its_content_is_known(
    store: Buckets, root: Any, bucket: str, tenant: str, mark: OwnerMark
) -> None:
    made = await store.create(bucket, mark, tenant_id=tenant)
    root.put_object(Bucket=bucket, Key=f"tenant/{tenant}/aa", Body=b"kept")
    root.delete_object(Bucket=bucket, Key=MARK_KEY)
    assert await store.create(bucket, mark, tenant_id=tenant, filled=True) == made
    assert names_in(root, bucket) == [MARK_KEY, f"tenant/{tenant}/aa"]
    other = OwnerMark("uid-2", "elsewhere/other", "cluster-2", bucket=bucket)
    with pytest.raises(NotOwned):
        await store.create(bucket, other, tenant_id=tenant, filled=True)


ENDLESS_AGE = b'{"mark": "x", "cors": {"origins": ["https://app.example"], "maxAgeSeconds": 1e400}}'


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"\xff\x00", b'{"mark": 1}', b'{"mark": "x", "capabilities": []}', b"[" * 20_000, ENDLESS_AGE],
    ids=["empty", "nothing", "no text", "number", "list", "deep", "endless age"],
)
async def test_a_mark_that_cannot_be_read_is_somebody_elses(
    store: Buckets, root: Any, bucket: str, tenant: str, mark: OwnerMark, body: bytes
) -> None:
    root.create_bucket(Bucket=bucket)
    root.put_object(Bucket=bucket, Key=MARK_KEY, Body=body)
    with pytest.raises(NotOwned):
        await store.create(bucket, mark, tenant_id=tenant, adopt=True)
    with pytest.raises(NotOwned):
        await store.empty_and_delete(bucket, mark)
    assert root.get_object(Bucket=bucket, Key=MARK_KEY)["Body"].read() == body


async def test_another_tenants_bucket_is_left_alone(
    store: Buckets, root: Any, bucket: str, tenant: str, mark: OwnerMark
) -> None:
    await store.create(bucket, mark, tenant_id=tenant)
    root.put_object(Bucket=bucket, Key=f"tenant/{tenant}/1", Body=b"theirs")
    before = await store.observe(bucket)
    for other in (
        OwnerMark("uid-2", "media/other", "cluster-1"),
        OwnerMark("uid-2", mark.resource, "cluster-2"),
        OwnerMark("uid-2", f"elsewhere/{tenant}", "cluster-1"),
    ):
        with pytest.raises(NotOwned, match=f"belongs to MediaTenant media/{tenant}"):
            await store.create(bucket, other, tenant_id=tenant)
        with pytest.raises(NotOwned, match="not changed"):
            await store.empty_and_delete(bucket, other)
        await store.retire(bucket, other)
    assert await store.observe(bucket) == before
    assert names_in(root, bucket) == [MARK_KEY, f"tenant/{tenant}/1"]


async def test_a_namesake_adopts_what_was_left_to_it(
    store: Buckets, root: Any, bucket: str, tenant: str, mark: OwnerMark
) -> None:
    await store.create(bucket, mark, tenant_id=tenant)
    root.put_object(Bucket=bucket, Key=f"tenant/{tenant}/1", Body=b"kept")
    again = OwnerMark("uid-2", mark.resource, "cluster-1", bucket=bucket)
    with pytest.raises(NotOwned):  # adoptable is not ours
        await store.empty_and_delete(bucket, again)
    assert (await store.create(bucket, again, tenant_id=tenant)).mark == again
    elsewhere = OwnerMark("uid-3", mark.resource, "cluster-2", bucket=bucket)
    with pytest.raises(NotOwned):
        await store.create(bucket, elsewhere, tenant_id=tenant)
    assert (await store.create(bucket, elsewhere, tenant_id=tenant, adopt=True)).mark == elsewhere
    assert names_in(root, bucket) == [MARK_KEY, f"tenant/{tenant}/1"]


async def test_a_retired_bucket_waits_for_the_same_name_in_any_cluster(
    store: Buckets, bucket: str, tenant: str, mark: OwnerMark
) -> None:
    made = await store.create(bucket, mark, tenant_id=tenant)
    for _ in range(2):
        await store.retire(bucket, mark)
        assert await store.observe(bucket) == BucketFacts(True, mark.as_retained(), made.capabilities)
    elsewhere = OwnerMark("uid-2", mark.resource, "cluster-2", bucket=bucket)
    assert await store.create(bucket, elsewhere, tenant_id=tenant) == BucketFacts(True, elsewhere, made.capabilities)
    await store.retire(bucket, mark)
    assert (await store.observe(bucket)).mark == elsewhere


async def test_retiring_what_is_gone_or_unmarked_is_a_no_op(
    store: Buckets, root: Any, bucket: str, mark: OwnerMark
) -> None:
    await store.retire(bucket, mark)
    root.create_bucket(Bucket=bucket)
    await store.retire(bucket, mark)
    assert names_in(root, bucket) == []


async def test_of_two_that_claim_a_bucket_at_once_one_gets_it(
    server: S3Server, store: Buckets, root: Any, bucket: str, tenant: str, mark: OwnerMark
) -> None:
    other = OwnerMark("uid-2", "elsewhere/other", "cluster-2", bucket=bucket)
    root.create_bucket(Bucket=bucket)
    with in_between(server) as front:
        late = Buckets(front.settings)
        # It finds an empty bucket. Before it writes its mark, the other one writes its own.
        front.before = lambda request: (
            root.put_object(Bucket=bucket, Key=MARK_KEY, Body=json.dumps({"mark": str(other)}))
            if request.command == "PUT" and not front.seen["PUT"]
            else None
        )
        with pytest.raises(NotOwned, match="elsewhere/other"):
            await late.create(bucket, mark, tenant_id=tenant)
        await late.aclose()
    assert (await store.observe(bucket)).mark == other


# --- emptied


async def test_an_emptied_bucket_is_gone_with_everything_in_it(
    store: Buckets, root: Any, bucket: str, tenant: str, mark: OwnerMark
) -> None:
    await store.create(bucket, mark, tenant_id=tenant)
    for number in range(20):
        root.put_object(Bucket=bucket, Key=f"tenant/{tenant}/{number}", Body=b"x")
    root.put_object(Bucket=bucket, Key="!before the mark", Body=b"x")
    root.put_object(Bucket=bucket, Key=f"{MARK_KEY}-not", Body=b"x")
    upload = root.create_multipart_upload(Bucket=bucket, Key=f"tenant/{tenant}/.staging/u")["UploadId"]
    root.upload_part(Bucket=bucket, Key=f"tenant/{tenant}/.staging/u", UploadId=upload, PartNumber=1, Body=b"x" * 1000)
    assert await emptied(store, bucket, mark) == 22
    assert not exists(root, bucket)
    assert await store.empty_and_delete(bucket, mark) == buckets.Emptied(True)


async def test_older_versions_and_delete_markers_go_too(
    store: Buckets, root: Any, bucket: str, tenant: str, mark: OwnerMark
) -> None:
    root.create_bucket(Bucket=bucket)
    root.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    await store.create(bucket, mark, tenant_id=tenant)
    await store.retire(bucket, mark)
    for number in range(3):
        for _ in range(2):
            root.put_object(Bucket=bucket, Key=f"tenant/{tenant}/{number}", Body=b"x")
    root.delete_object(Bucket=bucket, Key=f"tenant/{tenant}/1")
    assert len(names_in(root, bucket)) >= 9
    assert await emptied(store, bucket, mark) >= 7
    assert not exists(root, bucket)


async def test_emptying_goes_on_where_it_stopped(
    store: Buckets, root: Any, monkeypatch: pytest.MonkeyPatch, bucket: str, tenant: str, mark: OwnerMark
) -> None:
    monkeypatch.setattr(bucket_emptying, "PAGE", 4)
    await store.create(bucket, mark, tenant_id=tenant)
    for number in range(10):
        root.put_object(Bucket=bucket, Key=f"tenant/{tenant}/{number}", Body=b"x")
    deleted, calls = 0, 0
    while True:
        result = await store.empty_and_delete(bucket, mark, budget_seconds=0)
        deleted, calls = deleted + result.deleted, calls + 1
        if result.done:
            break
        assert "more are left" in result.left
        assert (await store.observe(bucket)).mark == mark
    assert deleted == 10
    assert calls > 3
    assert not exists(root, bucket)


async def test_a_locked_object_is_reported_and_everything_else_goes(
    store: Buckets, root: Any, bucket: str, tenant: str, mark: OwnerMark
) -> None:
    root.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    await store.create(bucket, mark, tenant_id=tenant)
    for number in range(3):
        root.put_object(Bucket=bucket, Key=f"tenant/{tenant}/{number}", Body=b"x")
    held = f"tenant/{tenant}/1"
    root.put_object_legal_hold(Bucket=bucket, Key=held, LegalHold={"Status": "ON"})
    for _ in range(2):
        with pytest.raises(ObjectsLocked, match=rf"does not delete 1 objects of bucket {bucket} \(\w+\), such as"):
            await store.empty_and_delete(bucket, mark)
        assert set(names_in(root, bucket)) == {MARK_KEY, held}
    assert (await store.observe(bucket)).mark == mark
    root.put_object_legal_hold(Bucket=bucket, Key=held, LegalHold={"Status": "OFF"})
    await emptied(store, bucket, mark)
    assert not exists(root, bucket)


async def test_who_still_writes_keeps_the_bucket_and_its_mark(
    server: S3Server, store: Buckets, root: Any, bucket: str, tenant: str, mark: OwnerMark
) -> None:
    await store.create(bucket, mark, tenant_id=tenant)
    with in_between(server) as front:
        emptying = Buckets(front.settings)

        def write(request: "Request") -> None:
            if request.command == "DELETE" and request.path.rstrip("/") == f"/{bucket}":
                root.put_object(Bucket=bucket, Key="late", Body=b"x")

        front.before = write
        result = await emptying.empty_and_delete(bucket, mark)
        assert (result.done, result.left) == (False, "somebody still writes into the bucket")
        await emptying.aclose()
    assert (await store.observe(bucket)).mark == mark
    await emptied(store, bucket, mark)


# --- cut anywhere


async def test_creation_that_was_cut_anywhere_is_completed_by_the_next(
    server: S3Server, root: Any, store: Buckets, monkeypatch: pytest.MonkeyPatch, tenant: str
) -> None:
    monkeypatch.setattr(boto, "ATTEMPTS", 1)
    with in_between(server) as front:
        for cut in range(100):
            bucket, front.count = f"media-{tenant}-{cut}", 0
            mark = OwnerMark("uid-1", f"media/{tenant}", "cluster-1", bucket=bucket)
            front.cut_after = cut
            cutting = Buckets(front.settings)
            try:
                whole = await cutting.create(bucket, mark, tenant_id=tenant)
            except Unavailable:
                assert (await store.create(bucket, mark, tenant_id=tenant)).mark == mark
                await emptied(store, bucket, mark)
            else:
                break
            finally:
                await cutting.aclose()
    assert cut > 10
    assert whole.capabilities == (await store.observe(bucket)).capabilities
    await emptied(store, bucket, mark)


async def test_deletion_that_was_cut_anywhere_is_completed_by_the_next(
    server: S3Server, root: Any, store: Buckets, monkeypatch: pytest.MonkeyPatch, tenant: str
) -> None:
    monkeypatch.setattr(boto, "ATTEMPTS", 1)
    with in_between(server) as front:
        for cut in range(100):
            bucket, front.count = f"media-{tenant}-{cut}", 0
            mark = OwnerMark("uid-1", f"media/{tenant}", "cluster-1", bucket=bucket)
            front.cut_after = cut
            cutting = Buckets(front.settings)
            root.create_bucket(Bucket=bucket)
            root.put_object(Bucket=bucket, Key=MARK_KEY, Body=json.dumps({"mark": str(mark)}))
            root.put_object(Bucket=bucket, Key=f"tenant/{tenant}/1", Body=b"x")
            root.create_multipart_upload(Bucket=bucket, Key=f"tenant/{tenant}/.staging/u")
            try:
                await emptied(cutting, bucket, mark)
            except Unavailable:
                await emptied(store, bucket, mark)
                assert not exists(root, bucket)
            else:
                break
            finally:
                await cutting.aclose()
    assert cut > 5
    assert not exists(root, bucket)


# --- lesser servers


@pytest.mark.parametrize("without", ["versions", "batch delete", "conditional puts", "multipart copy"])
async def test_a_server_that_can_do_less_serves_too(
    server: S3Server, root: Any, bucket: str, tenant: str, mark: OwnerMark, without: str
) -> None:
    def refuse(request: "Request") -> bool:
        query = urlsplit(request.path).query
        return {
            "versions": "versions" in query,
            "batch delete": request.command == "POST" and "delete" in query,
            "conditional puts": bool(request.headers.get("If-None-Match") or request.headers.get("If-Match")),
            "multipart copy": "x-amz-copy-source" in request.headers,
        }[without]

    with in_between(server) as front:
        front.refuses = refuse
        store = Buckets(front.settings)
        made = await store.create(bucket, mark, tenant_id=tenant)
        assert made == await store.observe(bucket)
        assert made.capabilities["conditionalWrites"] is (without != "conditional puts")
        assert made.capabilities["multipartCopy"] is (without != "multipart copy")
        for number in range(3):
            root.put_object(Bucket=bucket, Key=f"tenant/{tenant}/{number}", Body=b"x")
        await store.retire(bucket, mark)
        assert await emptied(store, bucket, mark) == 3
        await store.aclose()
    assert not exists(root, bucket)


async def test_a_marked_bucket_is_observed_with_one_request(
    server: S3Server, store: Buckets, bucket: str, tenant: str, mark: OwnerMark
) -> None:
    await store.create(bucket, mark, tenant_id=tenant)
    with in_between(server) as front:
        looking = Buckets(front.settings)
        await looking.observe(bucket)
        await looking.aclose()
    assert dict(front.seen) == {"GET": 1}


# --- away


SOON = 0.3
"""Seconds after which a silent server is given up."""


@pytest.mark.parametrize("trouble", ["nobody listens", "it says nothing", "wrong secret", "wrong key"])
async def test_trouble_is_said_soon_and_without_secrets(
    server: S3Server, monkeypatch: pytest.MonkeyPatch, bucket: str, tenant: str, mark: OwnerMark, trouble: str
) -> None:
    if trouble == "it says nothing":
        monkeypatch.setattr(boto, "ANSWER_TIMEOUT", SOON)
    settings, sentence = server.admin(), r"S3 at http://127.0.0.1:\d+ does not answer \(\w+\)"
    secret = "not-the-secret" if trouble.startswith("wrong") else settings.secret_access_key.get_secret_value()
    with in_between(server) as front:
        front.silent = True
        changes: dict[str, dict[str, str]] = {
            "nobody listens": {"endpoint": s3_servers.nobody().endpoint},
            "it says nothing": {"endpoint": front.settings.endpoint},
            "wrong secret": {},
            "wrong key": {"access_key_id": "AKIANOBODY"},
        }
        if trouble.startswith("wrong"):
            sentence = "S3 does not accept the operator's key .*check MEDIA_OPERATOR_S3_ACCESS_KEY_ID"
        store = Buckets(
            StoreAdminSettings.model_validate(
                {**settings.model_dump(), "secret_access_key": secret, **changes[trouble]}
            )
        )
        started = Stopwatch()
        for work in (
            store.observe(bucket),
            store.create(bucket, mark, tenant_id=tenant),
            store.retire(bucket, mark),
            store.empty_and_delete(bucket, mark),
        ):
            with pytest.raises(Unavailable, match=sentence) as raised:
                await work
            assert raised.value.dependency == "store"
            assert secret not in "".join(traceback.format_exception(raised.value))
        assert started.seconds() < 4 * boto.ATTEMPTS * (SOON + 2)
        await store.aclose()


async def test_a_bucket_of_another_account_is_named_as_such(
    server: S3Server, bucket: str, tenant: str, mark: OwnerMark
) -> None:
    with in_between(server) as front:
        front.refuses, front.refusal = (lambda _: True), (403, "AccessDenied")
        store = Buckets(front.settings)
        with pytest.raises(Unavailable, match=f"bucket {bucket} .*belongs to another account.*spec.storage.bucket"):
            await store.observe(bucket)
        front.refuses, front.refusal = (lambda request: request.command == "PUT"), (409, "BucketAlreadyExists")
        with pytest.raises(NotOwned, match="another account"):
            await store.create(bucket, mark, tenant_id=tenant)
        await store.aclose()


# --- a server in between, which passes on, cuts, refuses or keeps silent


class Front(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, behind: S3Server) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.behind = behind.settings.endpoint.removeprefix("http://")
        endpoint = f"http://127.0.0.1:{self.server_address[1]}"
        self.settings = StoreAdminSettings.model_validate({**behind.admin().model_dump(), "endpoint": endpoint})
        self.seen: Counter[str] = Counter()
        self.count = 0
        self.cut_after = 10_000
        self.silent = False
        self.refuses: Callable[[Request], bool] = lambda _: False
        self.refusal = (501, "NotImplemented")
        self.before: Callable[[Request], object] = lambda _: None
        self.ended = threading.Event()


class Request(http.server.BaseHTTPRequestHandler):
    server: Front
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        front = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        front.count += 1
        if front.silent:
            front.ended.wait(30)
        if front.silent or front.count > front.cut_after:
            self.close_connection = True
            return
        front.before(self)
        front.seen[self.command] += 1
        if front.refuses(self):
            status, code = front.refusal
            self.reply(status, {}, f"<Error><Code>{code}</Code></Error>".encode())
        else:
            self.pass_on(body)

    def pass_on(self, body: bytes) -> None:
        behind = http.client.HTTPConnection(self.server.behind, timeout=20)
        # The Host header stays the client's own: it is signed.
        behind.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("connection", "expect"):
                behind.putheader(name, value)
        behind.endheaders(body)
        answered = behind.getresponse()
        self.reply(answered.status, dict(answered.getheaders()), answered.read())
        behind.close()

    def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "keep-alive"):
                self.send_header(name, value)
        length = next((value for name, value in headers.items() if name.lower() == "content-length"), "0")
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def in_between(server: S3Server) -> Iterator[Front]:
    front = Front(server)
    thread = threading.Thread(target=front.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield front
    finally:
        front.ended.set()
        front.shutdown()
        thread.join()
        front.server_close()


async def test_networks_without_a_proxy_are_those_of_tenants_pods(
    server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", s3_servers.nobody().endpoint)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, ".svc,10.0.0.0/8,127.0.0.0/8")
    store = Buckets(server.admin())
    assert not (await store.observe(bucket)).exists
    await store.aclose()


NO_S3 = "what answers at MEDIA_OPERATOR_S3_ENDPOINT is not S3"


@pytest.mark.parametrize(
    ("request_", "status", "kind", "body", "words"),
    [
        ("GET ", "200 OK", "text/html; charset=utf-8", "<!doctype html><title>Console</title>", NO_S3),
        ("GET ", "404 Not Found", "text/html", "<html>nginx</html>", NO_S3),
        ("GET ", "403 Forbidden", "text/html", "<html>Request blocked</html>", NO_S3),
        ("GET ", "400 Bad Request", "text/plain", "Client sent an HTTP request to an HTTPS server.", NO_S3),
        ("PUT /[^/]*$", "400 Bad Request", "application/xml", "InvalidLocationConstraint", "does not know the region"),
        (
            "PUT /[^/]*$",
            "403 Forbidden",
            "application/xml",
            "AccessDenied",
            "CreateBucket, or make the bucket",
        ),
    ],
)
async def test_what_is_wrong_with_an_address_or_a_key_is_said_in_words(
    server: S3Server,
    bucket: str,
    tenant: str,
    mark: OwnerMark,
    request_: str,
    status: str,
    kind: str,
    body: str,
    words: str,
) -> None:
    text = f"<Error><Code>{body}</Code></Error>" if kind == "application/xml" else body
    async with lying(server.settings) as gateway:
        gateway.answer(request_, status, head=f"Content-Type: {kind}", body=text.encode())
        store = Buckets(
            StoreAdminSettings.model_validate({**server.admin().model_dump(), "endpoint": gateway.settings.endpoint})
        )
        with pytest.raises(Unavailable, match=words):
            await store.create(bucket, mark, tenant_id=tenant)
        await store.aclose()


async def test_a_gateway_that_answers_in_place_of_s3_is_an_outage_and_no_empty_bucket(
    server: S3Server, root: Any, bucket: str, tenant: str, mark: OwnerMark
) -> None:
    root.create_bucket(Bucket=bucket)
    root.put_object(Bucket=bucket, Key="of-somebody-else", Body=b"x")
    async with lying(server.settings) as gateway:
        changed = {**server.admin().model_dump(), "endpoint": gateway.settings.endpoint}
        store = Buckets(StoreAdminSettings.model_validate(changed))
        gateway.answer("GET .*list-type", body=b"<html>Sign in</html>")
        for work in (store.observe(bucket), store.born(bucket, tenant)):
            with pytest.raises(Unavailable, match="with something else"):
                await work
        gateway.answer(".", "302 Found", head="Location: https://elsewhere.example/")
        with pytest.raises(Unavailable, match=r"redirects to another address.*MEDIA_OPERATOR_S3_ENDPOINT"):
            await store.create(bucket, mark, tenant_id=tenant)
        await store.aclose()
    assert names_in(root, bucket) == ["of-somebody-else"]
