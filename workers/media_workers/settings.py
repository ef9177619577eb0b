"""Settings of the workers, one class per concern. docs/configuration.md is generated from this file."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from media_core.settings import (
    EnvironmentSettings,
    LogSettings,
    RetentionSettings,
    TenantSettings,
    TranscriptionSettings,
)
from media_core.store import StoreSettings


class WhisperSettings(EnvironmentSettings):
    """The speech-to-text model. If it cannot be loaded, jobs fail with `model_unavailable`; the worker runs on."""

    model_config = SettingsConfigDict(env_prefix="MEDIA_WHISPER_")

    model: str = "small"
    """A folder with a faster-whisper (CTranslate2) model, a name that faster-whisper knows (`tiny`, `base`, `small`,
    `medium`, `large-v3`, `turbo` ...) or a model hub id (`owner/name`); the last two are downloaded once, at the first
    transcription. Default `small`: about 0.5 GB to download. Larger models are more accurate and slower."""

    device: Literal["cpu", "cuda", "auto"] = "cpu"
    """Device for the computation. With `cuda` and no usable GPU jobs fail; `auto` takes a GPU if there is one."""

    compute_type: str = "int8"
    """CTranslate2's number type: `int8` (default; smallest), `float16` (GPU), `float32`, `default` (as the model was
    saved) or `auto` (the fastest that the device has)."""

    cpu_threads: int = Field(default=0, ge=0)
    """CPU threads of one transcription. 0 (default): as many as there are cores, at most 4."""

    chunk_seconds: float = Field(default=30, ge=5, le=30)
    """Seconds of speech that the model hears at once; Whisper was trained with 30. Fewer cost more time."""

    download_root: Path | None = None
    """Folder that keeps downloaded models. Default: the Hugging Face cache in the home folder."""

    local_files_only: bool = False
    """True: never download; a named model must be in `download_root` already."""


class DrainSettings(EnvironmentSettings):
    """How long a worker process lives and how it holds its leases."""

    model_config = SettingsConfigDict(env_prefix="MEDIA_WORKER_")

    lease_seconds: float = Field(default=30, gt=0)
    """How long a job stays with a worker that has stopped renewing its lease. A shorter time notices a dead worker
    sooner, but takes the job from one that only stalls. It is renewed four times in that time, and at least every two
    seconds: so soon a worker learns that a job was cancelled."""

    linger_seconds: float = Field(default=10, ge=0)
    """How long an idle worker waits for more jobs before it exits 0."""

    poll_seconds: float = Field(default=0.25, gt=0)
    """How often an idle worker reads the queue."""

    max_jobs: int = Field(default=1000, ge=1)
    """A worker exits after this many jobs, which bounds memory leaks."""

    max_seconds: float = Field(default=3600, gt=0)
    """A worker takes no new job after this time."""


class ClamdSettings(EnvironmentSettings):
    """The scanner that all tenants share."""

    model_config = SettingsConfigDict(env_prefix="MEDIA_CLAMD_")

    host: str = "127.0.0.1"
    """clamd's host."""

    port: int = 3310
    """clamd's TCP port."""

    connect_timeout: float = Field(default=5, gt=0)
    """Seconds to wait for a connection; then the scan is tried again later."""

    reply_timeout: float = Field(default=240, gt=0)
    """Seconds without progress (a MiB taken, or the answer given) after which clamd counts as stalled. It should be
    more than clamd's MaxScanTime (120 s), so that clamd gives up first, with a verdict."""

    scan_timeout: float = Field(default=1800, gt=0)
    """Seconds for one scan from the first byte to the verdict, reading the object included."""

    at_once: int = Field(default=4, ge=1, le=32)
    """Scans of one worker at the same time, each over a connection of its own that is kept. If there are two or more,
    one is reserved for small files (256 KiB). More than clamd's MaxThreads gain nothing."""

    heuristics: Literal["unscannable", "infected"] = "unscannable"
    """The verdict for a guess of clamd (`Heuristics.Phishing.*`, `Heuristics.Broken.*`, `PUA.*` ...), which may be
    wrong. With `unscannable` the content is kept, and the tenant's `spec.scan.unscannable` says who may read it."""

    max_bytes: int = Field(default=2000 * 1024 * 1024, ge=1)
    """Larger content is not sent, and is unscannable. At most clamd's StreamMaxLength and MaxFileSize, which end at
    2 GiB; a smaller value saves sending content that clamd would refuse."""


class MetricsSettings(EnvironmentSettings):
    """A worker's Prometheus metrics."""

    model_config = SettingsConfigDict(env_prefix="MEDIA_METRICS_")

    port: int | None = None
    """Port that serves Prometheus metrics; none by default."""


@dataclass(frozen=True)
class Settings:
    """All that a worker reads from its environment. Raises pydantic's ValidationError."""

    tenant: TenantSettings = field(default_factory=TenantSettings)
    store: StoreSettings = field(default_factory=StoreSettings)
    drain: DrainSettings = field(default_factory=DrainSettings)
    clamd: ClamdSettings = field(default_factory=ClamdSettings)
    whisper: WhisperSettings = field(default_factory=WhisperSettings)
    transcription: TranscriptionSettings = field(default_factory=TranscriptionSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    log: LogSettings = field(default_factory=LogSettings)
    retention: RetentionSettings = field(default_factory=RetentionSettings)
