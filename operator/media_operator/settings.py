"""Settings of `make run`. The docs' configuration reference is generated from this file."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from media_core.settings import EnvironmentSettings


class RunSettings(EnvironmentSettings):
    """Where a single machine serves its tenant. The tenant itself is declared in its manifest."""

    model_config = SettingsConfigDict(env_prefix="MEDIA_", env_ignore_empty=False)  # an empty mirror means none

    run_folder: Path = Path(".run")
    """Holds all data, keys and logs. Removing it, while nothing runs, removes the tenant."""

    host: str = "127.0.0.1"
    """Address the api listens on. `0.0.0.0` lets other machines in, with tokens but without TLS."""

    port: int = Field(default=8080, ge=1, le=65535)
    """Port of the api."""

    metrics_port: int = Field(default=8081, ge=1, le=65535)
    """Port of the api's Prometheus metrics."""

    signatures_mirror: str = "database.clamav.net"
    """Where the official virus signatures are fetched from when the machine has none. Empty: nowhere; the scanner then
    knows nothing but the EICAR test file."""
