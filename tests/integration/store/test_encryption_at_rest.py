"""Every write names the encryption that it is told to name: on a MinIO with a key, which says of each object how it is
encrypted."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import ValidationError

from media_core.store import S3Settings, S3Store
from media_core.store import s3 as s3_module
from media_operator.backends.boto import open_client
from media_operator.settings import StoreAdminSettings
from tests.integration.servers import s3_servers
from tests.integration.servers.s3_servers import KMS_KEY, S3Server

MIB = 1024 * 1024
PREFIX = "tenant/acme/"
KINDS: list[dict[str, Any]] = [{}, {"sse": "AES256"}, {"sse": "aws:kms"}, {"sse": "aws:kms", "sse_kms_key_id": KMS_KEY}]


@pytest.fixture(scope="module")
async def minio(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[S3Server]:
    server = await s3_servers.start("minio", tmp_path_factory.mktemp("minio"))
    yield server
    server.stop()


@pytest.mark.parametrize("told", KINDS, ids=lambda told: "-".join(told.values()) or "none")
async def test_every_way_to_write_names_it(
    minio: S3Server, told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = S3Store(minio.settings.model_copy(update=told), "acme")
    admin = open_client("s3", minio.admin().model_copy(update=told))
    written = []

    async def upload(name: str, size: int, *, known: bool) -> None:
        key = f"{PREFIX}{name}"
        staged = await store.stage(name, at_most=size, key=key if known else None)
        await staged.write(bytes(size))
        await staged.finish()
        await staged.promote(key)
        await staged.discard()
        written.append(key)

    await store.put(f"{PREFIX}put", b"x")
    await upload("at-once", 7 * MIB, known=True)
    await upload("copied", 7 * MIB, known=False)
    monkeypatch.setattr(s3_module, "COPY_PART_BYTES", 5 * MIB)
    await upload("copied-in-parts", 12 * MIB, known=False)
    admin.put_object(Bucket=minio.settings.bucket, Key=f"{PREFIX}by-the-operator", Body=b"x")
    for key in (*written, f"{PREFIX}put", f"{PREFIX}by-the-operator"):
        seen = admin.head_object(Bucket=minio.settings.bucket, Key=key)
        assert seen.get("ServerSideEncryption") == told.get("sse"), key
        if "sse_kms_key_id" in told:
            assert seen["SSEKMSKeyId"].endswith(KMS_KEY), key
        assert set(await store.read(key, 0, 100)) <= {0, ord("x")}
    await store.delete(*written, f"{PREFIX}put", f"{PREFIX}by-the-operator")
    await store.aclose()


@pytest.mark.parametrize("cls", [S3Settings, StoreAdminSettings])
def test_a_key_without_its_encryption_is_refused(cls: type[S3Settings] | type[StoreAdminSettings]) -> None:
    known: dict[str, Any] = {"endpoint": "http://s3", "access_key_id": "a", "secret_access_key": "b"}
    if cls is S3Settings:
        known["bucket"] = "media-acme"
    with pytest.raises(ValidationError, match="needs the encryption aws:kms"):
        cls(**known, sse="AES256", sse_kms_key_id="mine")
    assert cls(**known, sse="aws:kms", sse_kms_key_id="mine").sse == "aws:kms"
