"""The rows of an api with objects in an S3 server: how much it adds to the server's own upload and download.

The same client asks the bare server by presigned URLs, which have all in the query. So both cost the client the same.
"""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from tests.integration.servers import s3_servers
from tests.tools import build

from bench.clients import Client, Content, name_in
from bench.measure import BYTES, Effort, Goal, Row, compare
from bench.parts import POLICY, Parts, Tenant
from bench.resources import MIB, Resources
from bench.rows.large import downloads, our_uploads, uploads
from media_core.store import S3Settings

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

GOAL = Goal(must=0.8, aim=0.95)
SIZE = 128 * MIB
SERVER = "versitygw"


@dataclass(frozen=True)
class Bucket:
    """A bucket of a versitygw of our own, and presigned requests to it."""

    settings: S3Settings
    used: Resources
    _signer: "S3Client"

    @property
    def environment(self) -> dict[str, str]:
        """What an api is told of it."""
        return {
            "MEDIA_STORE": "s3",
            "MEDIA_S3_ENDPOINT": self.settings.endpoint,
            "MEDIA_S3_BUCKET": self.settings.bucket,
            "MEDIA_S3_ACCESS_KEY_ID": self.settings.access_key_id,
            "MEDIA_S3_SECRET_ACCESS_KEY": self.settings.secret_access_key.get_secret_value(),
        }

    def client(self) -> Client:
        url = urlsplit(self.settings.endpoint)
        return Client((url.hostname or "", url.port or 80))

    def put(self, client: Client, content: Content) -> str:
        """The new object's key."""
        key = f"bench/{secrets.token_hex(16)}"
        client.send("PUT", self.path("put_object", key), content, content.size)
        return key

    def remove(self, keys: list[str]) -> None:
        with self.client() as client:
            for key in keys:
                client.send("DELETE", self.path("delete_object", key))

    def path(self, operation: str, key: str) -> str:
        """Path and query of a presigned request."""
        parameters = {"Bucket": self.settings.bucket, "Key": key}
        url = urlsplit(self._signer.generate_presigned_url(operation, parameters, ExpiresIn=3600))
        return f"{url.path}?{url.query}"


@asynccontextmanager
async def bucket(folder: Path) -> AsyncIterator[Bucket | None]:
    """None where versitygw can't be built."""
    try:
        server = await s3_servers.start(SERVER, folder)
    except build.BuildFailed:
        yield None
        return
    try:
        assert server.process
        yield Bucket(server.settings, Resources.tree(server.process.pid), _signer(server.settings))
    finally:
        server.stop()


def _signer(settings: S3Settings) -> "S3Client":
    return boto3.client(
        "s3",
        endpoint_url=settings.endpoint,
        region_name=settings.region,
        aws_access_key_id=settings.access_key_id,
        aws_secret_access_key=settings.secret_access_key.get_secret_value(),
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )


async def s3(parts: Parts, effort: Effort) -> list[Row]:
    async with bucket(parts.place(SERVER)) as server:
        if server is None:
            parts.without(f"{SERVER} could not be built, so there is no row of uploads and downloads on it")
            return []
        async with parts.another(POLICY, **server.environment) as tenant:
            return [*await _uploads(effort, tenant, server), await _downloads(effort, tenant, server)]


async def _uploads(effort: Effort, tenant: Tenant, server: Bucket) -> list[Row]:
    """Where the digest comes first, the parts go to the object's key; else S3 has to copy them there after."""

    def new() -> Content:
        return Content(SIZE)

    def hashed() -> Content:
        content = Content(SIZE)
        content.sha256()  # who has the file on disk can know it before
        return content

    def announce(client: Client, content: Content) -> str:
        return name_in(client.upload(content, content.size, sha256=content.sha256()))

    bare, announced, unknown = "bare", f"upload, {SIZE // MIB} MiB, on {SERVER}, digest announced", "unknown"
    seen = await compare(
        effort.turns,
        {
            unknown: our_uploads(tenant, new, beside=server.used),
            announced: uploads(tenant.client, announce, tenant.delete, hashed, tenant.used, server.used),
            bare: uploads(server.client, server.put, server.remove, new, server.used),
        },
    )
    legend = "PUT by a presigned URL, by the same client; only the server hashes. CPU: the api + the server"
    return [
        Row(what, BYTES, seen[name], SERVER, seen[bare], legend, GOAL)
        for what, name in ((f"upload, {SIZE // MIB} MiB, on {SERVER}", unknown), (announced, announced))
    ]


async def _downloads(effort: Effort, tenant: Tenant, server: Bucket) -> Row:
    content = Content(SIZE)
    with tenant.client() as client:
        media_id = name_in(client.upload(content, content.size))
    with server.client() as client:
        key = server.put(client, content)
    seen = await compare(
        effort.turns,
        {
            "ours": downloads(tenant.client, f"/v1/media/download/{media_id}", tenant.used, server.used),
            "bare": downloads(server.client, server.path("get_object", key), server.used),
        },
    )
    legend = "GET by a presigned URL, by the same client. CPU: the api + the server"
    what = f"download, {SIZE // MIB} MiB, on {SERVER}"
    return Row(what, BYTES, seen["ours"], SERVER, seen["bare"], legend, GOAL)
