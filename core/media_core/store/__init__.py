"""One tenant's objects; see `base` for the contract. `open_store` picks the driver that the settings name."""

from pathlib import Path
from typing import Literal

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from media_core.store.base import ObjectInfo, ObjectMissing, ObjectStore, SignedUrl, StagedObject
from media_core.store.folder import FolderStore, SignedRequest
from media_core.store.s3 import S3Settings, S3Store

__all__ = [
    "FolderStore",
    "ObjectInfo",
    "ObjectMissing",
    "ObjectStore",
    "S3Settings",
    "S3Store",
    "SignedRequest",
    "SignedUrl",
    "StagedObject",
    "StoreSettings",
    "open_store",
]


class StoreSettings(BaseSettings):
    """Where the tenant's objects lie. With `store=s3`, `S3Settings` says which bucket."""

    model_config = SettingsConfigDict(env_prefix="MEDIA_")

    store: Literal["folder", "s3"] = "folder"
    """A local folder, for a single machine, or a bucket."""

    store_folder: Path | None = None
    """The folder; needed with `store=folder`. Made if it does not exist. Its file system has to know hard links."""

    store_signing_key: SecretStr = SecretStr("")
    """Secret of at least 32 bytes that signs the folder's download URLs. Changing it ends all URLs that are out.
    Only the api needs it: without it nothing can be signed or verified."""

    public_url: str = "http://127.0.0.1:8000"
    """Where clients reach the api; the folder's signed URLs lead there."""


def open_store(settings: StoreSettings, tenant_id: str) -> ObjectStore:
    """The tenant's store; `MEDIA_S3_*` is read where it is S3. Makes no request and no folder yet.

    Raises ValueError for settings that can't be: one that is missing, an impossible tenant id, a short signing key.
    """
    if settings.store == "s3":
        return S3Store(S3Settings(), tenant_id)
    if settings.store_folder is None:
        raise ValueError("store=folder needs store_folder (MEDIA_STORE_FOLDER)")
    key = settings.store_signing_key.get_secret_value().encode()
    return FolderStore(settings.store_folder, tenant_id, key, settings.public_url)
