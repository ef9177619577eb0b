"""Tenants of an S3 server: each has a bucket of its own, with its mark.

A module of tests imports the fixtures, and has a fixture `server`.
"""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import pytest

from media_core.store import S3Store
from media_core.store import s3 as s3_module
from media_core.store.object_keys import content_key
from media_operator.backends.buckets import MARK_KEY, Buckets
from media_operator.tenant.ownership import OwnerMark
from tests.integration.servers.s3_servers import S3Server

MIB = 1024 * 1024
CLUSTER = "cluster-1"


@dataclass
class Tenant:
    id: str
    bucket: str


NewTenant = Callable[[], Awaitable[Tenant]]


@pytest.fixture(name="new_tenant")
async def several_tenants(server: S3Server) -> AsyncIterator[NewTenant]:
    store = Buckets(server.admin())

    async def make() -> Tenant:
        tenant = Tenant(made := f"t{secrets.token_hex(6)}", f"media-{made}")
        await store.create(tenant.bucket, OwnerMark("uid-1", f"media/{made}", CLUSTER), tenant_id=tenant.id)
        return tenant

    yield make
    await store.aclose()


@pytest.fixture(name="tenant")
async def one_tenant(new_tenant: NewTenant) -> Tenant:
    return await new_tenant()


async def check_all_work(store: S3Store, tenant_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store does all that the api and the workers ask of it."""
    monkeypatch.setattr(s3_module, "COPY_PART_BYTES", 5 * MIB)
    small, large, absent = (content_key(tenant_id, secrets.token_hex(32)) for _ in range(3))
    await store.probe()
    await store.put(small, b"small")
    assert await store.read(small, 1, 3) == b"mal"
    assert await store.head(absent) is None  # refused, it would look like an outage
    data = secrets.token_bytes(6 * MIB)
    staged = await store.stage("one")
    await staged.write(data)
    await staged.finish()
    await staged.promote(large)
    assert await staged.read(0, 10) == data[:10]
    await staged.discard()
    assert b"".join([chunk async for chunk in store.stream(large)]) == data
    assert sorted([entry.key async for entry in store.list()]) == sorted([small, large])
    url = store.sign(small, expires_in=timedelta(minutes=1), content_type="text/plain", content_disposition="inline")
    async with httpx.AsyncClient(timeout=120) as anybody:
        assert (await anybody.get(url.url)).content == b"small"
    left = await store.stage("left")
    await left.write(data)
    assert await store.sweep_staging(timedelta(0)) >= 1
    await store.delete(small, large)
    assert [entry async for entry in store.list()] == []


def beyond_its_own(s3: Any, tenant: Tenant, other: Tenant) -> dict[str, Callable[[], object]]:
    """What a tenant's key must not do, by what it is. `s3`: with the key of `tenant`, whose object `1` is there."""
    own = f"tenant/{tenant.id}/1"
    return {
        "read the mark": lambda: s3.get_object(Bucket=tenant.bucket, Key=MARK_KEY),
        "write the mark": lambda: s3.put_object(Bucket=tenant.bucket, Key=MARK_KEY, Body=b"mine"),
        "copy the mark": lambda: s3.copy_object(
            Bucket=tenant.bucket, Key=own, CopySource={"Bucket": tenant.bucket, "Key": MARK_KEY}
        ),
        "a prefix that begins alike": lambda: s3.put_object(
            Bucket=tenant.bucket, Key=f"tenant/{tenant.id}x/1", Body=b"x"
        ),
        "list another prefix": lambda: s3.list_objects_v2(Bucket=tenant.bucket, Prefix=f"tenant/{other.id}/"),
        "read another tenant": lambda: s3.get_object(Bucket=other.bucket, Key=f"tenant/{other.id}/1"),
        "copy from another tenant": lambda: s3.copy_object(
            Bucket=tenant.bucket, Key=own, CopySource={"Bucket": other.bucket, "Key": f"tenant/{other.id}/1"}
        ),
        "write to another tenant": lambda: s3.put_object(Bucket=other.bucket, Key=f"tenant/{tenant.id}/1", Body=b"x"),
        "list another bucket": lambda: s3.list_objects_v2(Bucket=other.bucket, Prefix=f"tenant/{tenant.id}/"),
        "its bucket's settings": lambda: s3.put_bucket_versioning(
            Bucket=tenant.bucket, VersioningConfiguration={"Status": "Enabled"}
        ),
        "delete its bucket": lambda: s3.delete_bucket(Bucket=tenant.bucket),
        "make a bucket": lambda: s3.create_bucket(Bucket=f"{tenant.bucket}-2"),
    }
