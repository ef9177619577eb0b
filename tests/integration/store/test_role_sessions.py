"""Temporary keys of one role, on MinIO: what they may do, what not, and how a store goes on over renewals."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import httpx
import pytest
from botocore.exceptions import ClientError
from pydantic import SecretStr

from media_core.errors import Unavailable
from media_core.store import S3Settings, S3Store
from media_core.store.credentials import S3Key, as_text
from media_core.store.object_keys import content_key
from media_operator.backends import boto
from media_operator.backends.breaker import RequestRefused
from media_operator.backends.store_keys import RoleSessions, Session, open_store_keys, session_in
from media_operator.local.postgres import EmbeddedPostgres
from media_operator.settings import StoreAdminSettings
from tests.integration.servers import s3_servers
from tests.integration.servers.api import anybody, process, upload
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


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[S3Server]:
    running = await s3_servers.start("minio", tmp_path_factory.mktemp("minio"))
    yield running
    running.stop()


@pytest.fixture
async def sessions(server: S3Server) -> AsyncIterator[RoleSessions]:
    opened = open_store_keys(server.admin("role"), CLUSTER)
    assert isinstance(opened, RoleSessions)
    yield opened
    await opened.aclose()


class Pod:
    """A tenant's store, with its key in a file as a Secret is mounted."""

    def __init__(self, server: S3Server, tenant: Tenant, folder: Path) -> None:
        self.file = folder / "s3-credentials.json"
        settings = S3Settings(endpoint=server.settings.endpoint, bucket=tenant.bucket, credentials_file=self.file)
        self.store = S3Store(settings, tenant.id)

    def give(self, session: Session, *, ends_in: timedelta | None = None) -> None:
        """`ends_in`: what the file says of its end; S3 itself knows better."""
        key = session.key if ends_in is None else replace(session.key, expires_at=datetime.now(UTC) + ends_in)
        new = self.file.with_name("..new")
        new.write_text(as_text(key))
        new.replace(self.file)


@pytest.fixture
async def pod(server: S3Server, tenant: Tenant, tmp_path: Path) -> AsyncIterator[Pod]:
    made = Pod(server, tenant, tmp_path)
    yield made
    await made.store.aclose()


def client(server: S3Server, session: Session) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=server.settings.endpoint,
        region_name="us-east-1",
        aws_access_key_id=session.key.access_key_id,
        aws_secret_access_key=session.key.secret_access_key,
        aws_session_token=session.key.session_token,
    )


async def test_the_tenants_store_does_all_its_work_with_a_session(
    sessions: RoleSessions, monkeypatch: pytest.MonkeyPatch, tenant: Tenant, pod: Pod
) -> None:
    pod.give(await sessions.begin(tenant.id, tenant.bucket))
    await check_all_work(pod.store, tenant.id, monkeypatch)


async def test_a_session_reaches_nothing_else(
    server: S3Server, sessions: RoleSessions, new_tenant: NewTenant, tenant: Tenant
) -> None:
    other = await new_tenant()
    theirs = client(server, await sessions.begin(other.id, other.bucket))
    theirs.put_object(Bucket=other.bucket, Key=f"tenant/{other.id}/1", Body=b"theirs")
    s3 = client(server, await sessions.begin(tenant.id, tenant.bucket))
    own = f"tenant/{tenant.id}/1"
    s3.put_object(Bucket=tenant.bucket, Key=own, Body=b"own")
    for what, attempt in beyond_its_own(s3, tenant, other).items():
        with pytest.raises(ClientError) as raised:
            attempt()
        assert raised.value.response["Error"]["Code"] == "AccessDenied", (what, raised.value.response["Error"])


async def test_a_store_goes_on_over_renewed_keys_without_a_failed_request(
    sessions: RoleSessions, tenant: Tenant, pod: Pod
) -> None:
    """All three users of the key: obstore, boto3, signed URLs. The last key is wrong, which shows that it is used."""
    store, key = pod.store, content_key(tenant.id, secrets.token_hex(32))
    renewals, done = 4, asyncio.Event()
    rounds: asyncio.Queue[None] = asyncio.Queue()
    pod.give(await sessions.begin(tenant.id, tenant.bucket), ends_in=timedelta(minutes=1))
    await store.put(key, b"content")

    async def use() -> None:
        while not done.is_set():
            assert await store.read(key, 0, 7) == b"content"
            assert await store.sweep_staging(timedelta(hours=1)) == 0  # with boto3
            await store.put(key, b"content")
            rounds.put_nowait(None)

    using = [asyncio.create_task(use()) for _ in range(3)]
    for _ in range(renewals):
        session = await sessions.begin(tenant.id, tenant.bucket)
        pod.give(session, ends_in=timedelta(minutes=1))  # less than obstore keeps a key for
        assert token_of(url_of(store, key)) == session.key.session_token
        for _ in range(6):
            turn = asyncio.create_task(rounds.get())
            ended, _ = await asyncio.wait([*using, turn], return_when=asyncio.FIRST_COMPLETED)
            assert ended == {turn}, "a request failed"
    done.set()
    await asyncio.gather(*using)
    pod.give(replace(session, key=replace(session.key, secret_access_key="wrong")), ends_in=timedelta(minutes=1))
    with pytest.raises(Unavailable, match="SignatureDoesNotMatch"):
        await store.sweep_staging(timedelta(hours=1))
    async with asyncio.timeout(60):
        with pytest.raises(Unavailable, match="SignatureDoesNotMatch"):
            while True:  # obstore asks for a key that ends soon again, but not more often than every 100 ms
                await store.read(key, 0, 7)


async def test_an_ended_key_is_said_and_the_next_one_is_taken(sessions: RoleSessions, tenant: Tenant, pod: Pod) -> None:
    session, key = await sessions.begin(tenant.id, tenant.bucket), content_key(tenant.id, secrets.token_hex(32))
    pod.give(session, ends_in=timedelta(seconds=-1))
    for attempt in (
        lambda: pod.store.put(key, b"x"),
        lambda: pod.store.probe(),
        lambda: pod.store.sweep_staging(timedelta(0)),
    ):
        with pytest.raises(Unavailable, match="ended at"):
            await attempt()
    with pytest.raises(Unavailable, match="ended at"):
        url_of(pod.store, key)
    pod.give(session)
    await pod.store.put(key, b"x")
    await pod.store.probe()


def url_of(store: S3Store, key: str, seconds: int = 300) -> Any:
    return store.sign(
        key, expires_in=timedelta(seconds=seconds), content_type="text/plain", content_disposition="inline"
    )


def token_of(signed: Any) -> str:
    return parse_qs(urlsplit(signed.url).query)["X-Amz-Security-Token"][0]


async def test_a_signed_url_works_and_ends_with_its_key(sessions: RoleSessions, tenant: Tenant, pod: Pod) -> None:
    session, key = await sessions.begin(tenant.id, tenant.bucket), content_key(tenant.id, secrets.token_hex(32))
    pod.give(session)
    await pod.store.put(key, b"small")
    async with httpx.AsyncClient(timeout=120) as anybody:
        answer = await anybody.get(url_of(pod.store, key).url)
        assert (answer.content, answer.headers["content-type"]) == (b"small", "text/plain")
        forged = url_of(pod.store, key).url.replace("X-Amz-Security-Token=", "X-Amz-Security-Token=x")
        assert (await anybody.get(forged)).status_code == 403
    assert url_of(pod.store, key, 7 * 24 * 3600).expires_at <= session.ends
    pod.give(session, ends_in=timedelta(seconds=60))
    short = url_of(pod.store, key)
    assert 1 <= int(parse_qs(urlsplit(short.url).query)["X-Amz-Expires"][0]) <= 60


async def test_the_api_serves_on_with_renewed_keys_and_answers_503_once_the_last_has_ended(
    server: S3Server, sessions: RoleSessions, postgres: EmbeddedPostgres, pod: Pod, tmp_path: Path
) -> None:
    bucket = server.settings.bucket
    environment = {"MEDIA_S3_ENDPOINT": server.settings.endpoint, "MEDIA_S3_BUCKET": bucket}
    environment |= {"MEDIA_STORE": "s3", "MEDIA_S3_CREDENTIALS_FILE": str(pod.file)}
    first = S3Key(server.settings.access_key_id, server.settings.secret_access_key.get_secret_value())
    pod.file.write_text(as_text(first))  # the tenant's id, and so its session, comes with the process
    async with process(postgres, tmp_path, **environment) as api, api.client() as client, anybody() as outsider:
        for _ in range(2):
            session = await sessions.begin(api.tenant.tenant_id, bucket)
            pod.give(session)
            data = secrets.token_bytes(1000)
            uploaded = await upload(client, data)
            await api.verdict(uploaded["sha256"])
            assert (await client.get(f"/v1/media/download/{uploaded['media_id']}")).content == data
            signed = (await client.get(f"/v1/media/signed/{uploaded['media_id']}")).json()["data"]
            assert parse_qs(urlsplit(signed["url"]).query)["X-Amz-Security-Token"] == [session.key.session_token]
            assert (await outsider.get(signed["url"])).content == data
            assert datetime.fromisoformat(signed["expires_at"]) - datetime.now(UTC) > timedelta(seconds=240)
        pod.give(session, ends_in=timedelta(seconds=-1))
        signed_late = await client.get(f"/v1/media/signed/{uploaded['media_id']}")
        assert (signed_late.status_code, signed_late.json()["code"]) == (503, "unavailable")
        pod.give(session)
        assert (await client.get(f"/v1/media/signed/{uploaded['media_id']}")).status_code == 200


async def test_a_secret_tells_its_session_and_when_it_is_due(sessions: RoleSessions, tenant: Tenant) -> None:
    session = await sessions.begin(tenant.id, tenant.bucket)
    again = session_in(session.as_text())
    assert again is not None
    assert (again.key, again.ends, again.role) == (session.key, session.ends, sessions.role)
    left = again.ends - again.due
    assert timedelta(minutes=9, seconds=58) <= left <= timedelta(minutes=10, seconds=2)  # of 15
    assert again.due < again.late < again.ends
    assert json.loads(session.as_text())["Version"] == 1


@pytest.mark.parametrize("trouble", ["nobody listens", "wrong secret", "no STS"])
async def test_trouble_is_said_without_secrets(
    server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trouble: str
) -> None:
    monkeypatch.setattr(boto, "CONNECT_TIMEOUT", 1)
    given = server.admin("role").model_dump()
    if trouble == "nobody listens":
        given["sts_endpoint"] = "http://127.0.0.1:9"
    elif trouble == "wrong secret":
        given["secret_access_key"] = SecretStr("hidden-secret")
    other = await s3_servers.start("versitygw", tmp_path) if trouble == "no STS" else None
    if other is not None:
        given |= {"sts_endpoint": other.settings.endpoint, "access_key_id": other.settings.access_key_id}
        given["secret_access_key"] = other.settings.secret_access_key
    sessions = RoleSessions(StoreAdminSettings(**given))
    with pytest.raises(Unavailable) as raised:
        await sessions.begin("acme", "media-acme")
    assert not isinstance(raised.value, RequestRefused)  # so the breaker spares the other tenants the wait
    words = str(raised.value.detail)
    assert {"nobody listens": "does not answer", "wrong secret": "of a wrong key", "no STS": "has no STS API"}[
        trouble
    ] in words, words
    assert "hidden" not in words
    await sessions.aclose()
    if other is not None:
        other.stop()


def test_without_a_key_of_its_own_the_operator_takes_the_one_of_its_pod(
    server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As AWS gives it to pods: boto3's own chain, here by its environment variables."""
    boto._session.cache_clear()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.settings.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.settings.secret_access_key.get_secret_value())
    given = server.admin("role").model_copy(update={"access_key_id": "", "secret_access_key": SecretStr("")})
    made = boto.open_client("sts", given).assume_role(
        RoleArn=given.role_arn, RoleSessionName="tests", DurationSeconds=900
    )
    assert made["Credentials"]["SessionToken"]
    boto._session.cache_clear()


async def test_a_pod_without_any_key_is_told_so(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    boto._session.cache_clear()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    given = server.admin("role").model_copy(update={"access_key_id": "", "secret_access_key": SecretStr("")})
    sessions = RoleSessions(given)
    with pytest.raises(Unavailable, match="the operator has no key for STS"):
        await sessions.begin("acme", "media-acme")
    await sessions.aclose()
    boto._session.cache_clear()
