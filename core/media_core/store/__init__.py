"""One tenant's objects; see `base` for the contract. `open_store` picks the driver that the settings name.

The S3 driver is imported on first use, so that a process with a folder does not load its libraries.
"""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from media_core.settings import EnvironmentSettings
from media_core.store.base import (
    Appending,
    BodySource,
    Chunk,
    Durable,
    GatheredObject,
    ObjectInfo,
    ObjectMissing,
    ObjectStore,
    Piece,
    PieceGone,
    SignedUrl,
    StagedObject,
)
from media_core.store.folder import FolderStore
from media_core.store.s3_settings import S3Settings

if TYPE_CHECKING:
    from media_core.store.s3 import S3Store

__all__ = [
    "Appending",
    "BodySource",
    "Chunk",
    "Durable",
    "FolderStore",
    "GatheredObject",
    "ObjectInfo",
    "ObjectMissing",
    "ObjectStore",
    "Piece",
    "PieceGone",
    "S3Settings",
    "S3Store",
    "SignedUrl",
    "StagedObject",
    "StoreSettings",
    "open_store",
]


class StoreSettings(EnvironmentSettings):
    """Where the tenant's objects are stored. With `store=s3`, `S3Settings` names the bucket."""

    model_config = SettingsConfigDict(env_prefix="MEDIA_")

    store: Literal["folder", "s3"] = "folder"
    """`folder`: a local folder, for a single machine. `s3`: a bucket."""

    store_folder: Path | None = None
    """The folder; needed with `store=folder`. It is made if it does not exist. Its file system must have hard links."""

    store_signing_key: SecretStr = SecretStr("")
    """Secret of at least 32 bytes that signs the folder's download URLs. Changing it makes all earlier URLs invalid.
    Only the api needs it; without it no URL can be signed or verified."""

    public_url: str = "http://127.0.0.1:8000"
    """URL at which clients reach the api. The folder's signed URLs begin with it."""

    @cached_property
    def s3(self) -> S3Settings:
        """Read only if the store is S3. Raises pydantic's ValidationError."""
        return S3Settings()

    @model_validator(mode="after")
    def _complete(self) -> "StoreSettings":
        if self.store == "folder" and self.store_folder is None:
            raise ValueError("MEDIA_STORE=folder needs MEDIA_STORE_FOLDER")
        return self


def open_store(settings: StoreSettings, tenant_id: str) -> ObjectStore:
    """The tenant's store. Makes no request and no folder yet.

    Raises ValueError for an invalid tenant id or a short signing key, ValidationError for missing S3 settings.
    """
    if settings.store == "s3":
        from media_core.store.s3 import S3Store

        return S3Store(settings.s3, tenant_id)
    assert settings.store_folder is not None  # noqa: S101 (the settings see to it)
    key = settings.store_signing_key.get_secret_value().encode()
    return FolderStore(settings.store_folder, tenant_id, key, settings.public_url)


def __getattr__(name: str) -> Any:
    if name == "S3Store":
        from media_core.store.s3 import S3Store

        return S3Store
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
