"""Settings that api and workers share. The docs' configuration reference is generated from the settings classes."""

from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class TenantSettings(BaseSettings):
    """Which tenant this process serves, and where its rows are."""

    model_config = SettingsConfigDict(env_prefix="MEDIA_")

    tenant_id: str = Field(min_length=1)
    """The tenant's id, as in `spec.tenantId`. It is part of every object key and the audience of every token."""

    database_url: SecretStr
    """`postgresql+psycopg://role:password@host/database`, as the tenant's own role, whose search_path is its schema."""

    database_pool: int = Field(default=10, ge=1)
    """Connections that one process opens at most. The role's connection limit must hold for all of a tenant's pods."""


class LogSettings(BaseSettings):
    """What the process writes to stderr."""

    model_config = SettingsConfigDict(env_prefix="MEDIA_LOG_")

    format: Literal["json", "text"] = "json"
    """`json`: one object a line, for machines. `text`: for a terminal."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe level that is written."""


class DecodingSettings(BaseSettings):
    """The limited child processes in which untrusted bytes are decoded."""

    model_config = SettingsConfigDict(env_prefix="MEDIA_DECODING_")

    processes: int = Field(default=2, ge=1)
    """How many at once; each takes about 60 MB when warm, and up to its memory limit on a large picture."""


class TranscriptionSettings(BaseSettings):
    """What is accepted for transcription."""

    model_config = SettingsConfigDict(env_prefix="MEDIA_TRANSCRIPTION_")

    max_seconds: float = Field(default=4 * 3600, gt=0)
    """The longest recording that is transcribed, in seconds. A longer one is refused with `duration_exceeds_limit`, by
    what its header says before anything is decoded, and by what is there to hear where the header lies."""
