"""Settings that api and workers share. docs/configuration.md is generated from the settings classes."""

from typing import Literal

from pydantic import Field, Json, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict


class EnvironmentSettings(BaseSettings):
    """The base of every settings class: settings are environment variables, and no error shows a value."""

    model_config = SettingsConfigDict(hide_input_in_errors=True, env_ignore_empty=True)


def complaints(error: ValidationError) -> list[str]:
    """One line a wrong variable, such as `MEDIA_PORT: it must be ...`, for the person who starts the process."""
    classes = {cls.__name__: cls for cls in EnvironmentSettings.__subclasses__()}
    settings = classes.get(error.title, EnvironmentSettings)
    found: dict[str, list[str]] = {}
    for wrong in error.errors(include_input=False, include_url=False):
        field, *within = wrong["loc"] or ("",)
        subject = f"{settings.model_config['env_prefix'] or 'MEDIA_'}{field}".upper() if field else error.title
        known = settings.model_fields.get(str(field))
        if known and Json in map(type, known.metadata):  # else `within` is a type of a union
            places = [f"entry {part}" if isinstance(part, int) else part for part in within if part != "[key]"]
            subject += ": " + ", ".join(places) if places else ""
        found.setdefault(subject, []).append(_in_plain_words(wrong["msg"]))
    return [f"{subject}: {' or '.join(words)}" for subject, words in found.items()]


def _in_plain_words(message: str) -> str:
    """pydantic speaks of an input that should be something, and adds how it has tried to read it."""
    said = message.removeprefix("Value error, ").replace("Input should be", "it must be")
    said = said.replace("Field required", "it is needed").replace("a valid integer", "a whole number")
    said = said.replace("a valid string", "a text").replace("String should match pattern", "it must match the pattern")
    said = said.replace("Extra inputs are not permitted", "it is not known here")
    return said.partition(", unable to")[0]


class TenantSettings(EnvironmentSettings):
    """Which tenant this process serves, and where its rows are."""

    model_config = SettingsConfigDict(env_prefix="MEDIA_")

    tenant_id: str = Field(min_length=1)
    """The tenant's id, as in `spec.tenantId`. It is part of every object key and the audience of every token."""

    database_url: SecretStr
    """`postgresql+psycopg://role:password@host/database`, as the tenant's own role, whose search_path is its schema."""

    database_pool: int = Field(default=10, ge=1)
    """Most connections that one process opens. The role's connection limit must allow this for all of a tenant's
    pods."""

    database_prepare: bool = False
    """True: repeated statements are prepared once on each connection, which halves the CPU that database and clients
    use for a read. It needs a direct connection, or PgBouncer from 1.21 with `max_prepared_statements`; behind an older
    PgBouncer in transaction mode such statements fail."""


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
    """Most child processes at once; at rest there is none. Two and their shared memory take about 80 MB while they
    work. A large picture can take each of them to its memory limit."""


class TranscriptionSettings(EnvironmentSettings):
    """What is accepted for transcription."""

    model_config = SettingsConfigDict(env_prefix="MEDIA_TRANSCRIPTION_")

    max_seconds: float = Field(default=4 * 3600, gt=0)
    """The longest recording that is transcribed, in seconds. A longer one is refused with `duration_exceeds_limit`:
    before it is decoded if its header gives the duration, and during the transcription if the header is wrong."""

    sync_seconds: float = Field(default=300, ge=0, le=3600)
    """How long a request to `/v1/audio/transcriptions` waits for its transcript. One that takes longer is answered 202
    with the job. The proxies between the api and its clients have to wait as long."""


class RetentionSettings(EnvironmentSettings):
    """How long the sweep keeps objects that nobody asked to delete."""

    model_config = SettingsConfigDict(env_prefix="MEDIA_RETENTION_")

    orphan_days: float = Field(default=7, ge=0)
    """Days from the first sighting of an orphan (an object without a row) until the sweep removes it."""

    orphans_few: int = Field(default=100, ge=0)
    """Up to this number, orphans are removed whatever their share. More are kept if they exceed `orphan_share`."""

    orphan_share: float = Field(default=0.02, ge=0, le=1)
    """Share of a tenant's objects above which orphans are kept, and reported, until a person decides."""

    found_days: float = Field(default=7, ge=0)
    """Days that the objects stay of content that was open before and is found infected by newer signatures. It cannot
    be read meanwhile, and is open again if still newer signatures find nothing."""

    found_few: int = Field(default=5, ge=1)
    """A signature that finds more than this number of contents that were open before is suspicious: the rescan stops,
    and what it found stays until a person decides."""

    event_days: float = Field(default=7, ge=4, le=90)
    """Days that events are kept for those who read them later. More than the three days for which a webhook is
    tried."""
