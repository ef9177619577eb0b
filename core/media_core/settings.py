"""Settings that api and workers share. The docs' configuration reference is generated from the settings classes."""

from typing import Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict


class EnvironmentSettings(BaseSettings):
    """What every settings class stands on: read from the environment, and no value of it in an error."""

    model_config = SettingsConfigDict(hide_input_in_errors=True, env_ignore_empty=True)


def complaints(error: ValidationError) -> list[str]:
    """`MEDIA_PORT: Input should be ...`, one a wrong variable, for a person who starts the process."""
    classes = {cls.__name__: cls for cls in EnvironmentSettings.__subclasses__()}
    prefix = classes[error.title].model_config["env_prefix"] if error.title in classes else "MEDIA_"
    lines = []
    for wrong in error.errors(include_input=False, include_url=False):
        variable = f"{prefix}{'_'.join(str(part) for part in wrong['loc'])}".upper() if wrong["loc"] else error.title
        lines.append(f"{variable}: {wrong['msg'].removeprefix('Value error, ')}")
    return lines


class TenantSettings(EnvironmentSettings):
    """Which tenant this process serves, and where its rows are."""

    model_config = SettingsConfigDict(env_prefix="MEDIA_")

    tenant_id: str = Field(min_length=1)
    """The tenant's id, as in `spec.tenantId`. It is part of every object key and the audience of every token."""

    database_url: SecretStr
    """`postgresql+psycopg://role:password@host/database`, as the tenant's own role, whose search_path is its schema."""

    database_pool: int = Field(default=10, ge=1)
    """Connections that one process opens at most. The role's connection limit must hold for all of a tenant's pods."""

    database_prepare: bool = False
    """True: statements that come again are prepared once on each connection, which halves what the database and its
    clients compute for a read. For a direct connection, or PgBouncer from 1.21 with `max_prepared_statements`; an older
    one in transaction mode fails such statements."""


class LogSettings(EnvironmentSettings):
    """What the process writes to stderr."""

    model_config = SettingsConfigDict(env_prefix="MEDIA_LOG_")

    format: Literal["json", "text"] = "json"
    """`json`: one object a line, for machines. `text`: for a terminal."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe level that is written."""


class DecodingSettings(EnvironmentSettings):
    """The limited child processes in which untrusted bytes are decoded."""

    model_config = SettingsConfigDict(env_prefix="MEDIA_DECODING_")

    processes: int = Field(default=2, ge=1)
    """How many at once. At rest there is none; two, and what they share, take about 80 MB while they work, and each up
    to its memory limit on a large picture."""


class TranscriptionSettings(EnvironmentSettings):
    """What is accepted for transcription."""

    model_config = SettingsConfigDict(env_prefix="MEDIA_TRANSCRIPTION_")

    max_seconds: float = Field(default=4 * 3600, gt=0)
    """The longest recording that is transcribed, in seconds. A longer one is refused with `duration_exceeds_limit`, by
    what its header says before anything is decoded, and by what is there to hear where the header lies."""


class RetentionSettings(EnvironmentSettings):
    """How long what nobody asked to delete stays, before automatic hands may remove it."""

    model_config = SettingsConfigDict(env_prefix="MEDIA_RETENTION_")

    orphan_days: float = Field(default=7, ge=0)
    """Days from when an object without a row was first seen until the sweep removes it."""

    orphans_few: int = Field(default=100, ge=0)
    """So many orphans are removed whatever their share. More are kept where they are more than `orphan_share`."""

    orphan_share: float = Field(default=0.02, ge=0, le=1)
    """The share of a tenant's objects above which orphans are kept, and said, until a person decides."""

    found_days: float = Field(default=7, ge=0)
    """Days that the objects of content stay that was open before and is found infected by newer signatures. It cannot
    be read meanwhile, and is open again if still newer signatures find nothing."""

    found_few: int = Field(default=5, ge=1)
    """One signature that finds more than so many contents that were open before is suspicious: the rescan stops, and
    what it found stays until a person decides."""
