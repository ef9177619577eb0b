"""Settings of the api, one class per concern. docs/configuration.md is generated from this file."""

from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, Json, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from media_core.auth.tokens import ClaimNames
from media_core.events.feed import Type
from media_core.events.outgoing import Network
from media_core.events.webhooks import Webhook
from media_core.origins import is_origin
from media_core.settings import (
    DecodingSettings,
    EnvironmentSettings,
    LogSettings,
    TenantSettings,
    TranscriptionSettings,
)
from media_core.store import StoreSettings


class ServerSettings(EnvironmentSettings):
    """Where the api listens, and how it ends."""

    model_config = SettingsConfigDict(env_prefix="MEDIA_API_")

    host: str = "127.0.0.1"
    """Address to listen on; `::` in a container: all addresses, IPv6 and IPv4, or IPv4 alone where the kernel has no
    IPv6. `0.0.0.0`: IPv4 alone."""

    port: int = Field(default=8000, ge=0, le=65535)
    """Port of the API. 0: any free one, which the log names."""

    processes: int | None = Field(default=None, ge=1, le=16)
    """Processes that serve the port together; each uses one core. Default: as many as the container's CPU limit has
    whole cores, at most 4; one without a limit. They divide memory, connections and decoding processes among them."""

    metrics_host: str = "127.0.0.1"
    """Address of the metrics port; `::` as for `host`."""

    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    """Port of `/metrics`, for Prometheus only; none by default. 0: any free one, which the log names."""

    trusted_proxies: str = ""
    """Addresses or networks, separated by commas, whose X-Forwarded-For and -Proto are believed; `*` for all. Empty
    (default): none, so that no client can put a false address into the log."""

    shutdown_seconds: int = Field(default=60, ge=0)
    """How long requests under way may take to finish after SIGTERM. Uploads that take longer are cut off and leave
    nothing behind. Give the process at least this long (in Kubernetes: terminationGracePeriodSeconds)."""

    body_idle_seconds: float = Field(default=60, gt=0)
    """An upload from which no byte arrives for this long is ended with 408. So is one that comes at less than 1 KiB a
    second on average."""

    signed_url_max_seconds: int = Field(default=300, ge=1, le=604800)
    """Most seconds that a signed URL may be valid."""


class UploadSettings(EnvironmentSettings):
    """Uploads in several requests (tus)."""

    model_config = SettingsConfigDict(env_prefix="MEDIA_UPLOAD_")

    hours: float = Field(default=24, gt=0, le=24 * 30)
    """How long an upload stays that is not complete, from its last bytes on. Until then its bytes are reserved."""

    draft: bool = False
    """Whether `/v1/media/uploads` also speaks the IETF's draft of resumable uploads
    (draft-ietf-httpbis-resumable-upload), as iOS does. The draft changes until it is a standard."""


class AuthSettings(EnvironmentSettings):
    """Whose tokens are accepted: the tenant's own keys, or those of an OIDC issuer."""

    model_config = SettingsConfigDict(env_prefix="MEDIA_")

    jwks_file: Path | None = None
    """File with the tenant's public keys, a JWK Set (RFC 7517). It is read again whenever it changes, so keys rotate
    without a restart."""

    oidc_jwks_uri: str | None = None
    """URL of the issuer's JWK Set, instead of `jwks_file`."""

    oidc_issuer: str | None = None
    """Required `iss` of a token; needed with `oidc_jwks_uri`."""

    oidc_audience: str | None = None
    """Required `aud` of a token. Default: the tenant's id."""

    oidc_claim_subject: str = "sub"
    """Name of the claim that says who it is. A name with dots leads into claims: `realm_access.roles`."""

    oidc_claim_scopes: str = "scope"
    """Name of the claim with the scopes: words, or a list. A token without `scope` may have them in `scp`."""

    oidc_claim_rooms: str = "rooms"
    """Name of the claim with the rooms: a list, or words; `*`: every room."""

    oidc_claim_tenant_role: str | None = None
    """Name of a claim with roles, a list or words: a role that is named like a scope grants it. Default: none."""

    @property
    def claims(self) -> ClaimNames:
        return ClaimNames(
            self.oidc_claim_subject, self.oidc_claim_scopes, self.oidc_claim_rooms, self.oidc_claim_tenant_role
        )

    @model_validator(mode="after")
    def _one_source(self) -> "AuthSettings":
        if (self.jwks_file is None) == (self.oidc_jwks_uri is None):
            raise ValueError("set either MEDIA_JWKS_FILE or MEDIA_OIDC_JWKS_URI")
        if self.oidc_jwks_uri is not None and self.oidc_issuer is None:
            raise ValueError("MEDIA_OIDC_JWKS_URI needs MEDIA_OIDC_ISSUER")
        return self


def _words(value: object) -> object:
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


def _origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    """Raises ValueError."""
    for origin in origins:
        if not is_origin(origin):
            raise ValueError(
                "an origin is scheme, host and port as browsers write them, such as https://app.example or "
                "https://*.preview.example, without a path"
            )
    return origins


class CorsSettings(EnvironmentSettings):
    """Which web apps of other origins may call the API from a browser."""

    model_config = SettingsConfigDict(env_prefix="MEDIA_CORS_")

    origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins, separated by commas: `https://app.example`, or `https://*.preview.example` for any one label in that
    place. Empty (default): no app of another origin may."""

    max_age_seconds: int = Field(default=600, ge=0, le=86400)
    """How long a browser may keep the answer to a preflight."""

    @field_validator("origins", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return _words(value)

    @field_validator("origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        return _origins(origins)


class PageSettings(EnvironmentSettings):
    """The page of files at `/`, for people."""

    model_config = SettingsConfigDict(env_prefix="MEDIA_")

    page: bool = False
    """Whether `/` serves the page."""

    page_folder: Path | None = None
    """Folder of the built page. The image has one and names it. Without a page in it the api runs, and `/` is 404."""

    page_oidc_client_id: str | None = None
    """Client id with which the page signs people in at the OIDC issuer, by code and PKCE. Default: nobody is signed in
    there, and the page takes the token of the link that it was opened with."""

    page_oidc_scopes: str = "openid"
    """Scopes that it asks for, separated by spaces."""

    page_oidc_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Further origins that it may call to sign in, separated by commas: that of the issuer's token endpoint, where it
    is not the issuer's own."""

    @field_validator("page_oidc_origins", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return _words(value)

    @field_validator("page_oidc_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        return _origins(origins)


class WebhookEntry(BaseModel):
    """One of `MEDIA_WEBHOOKS`."""

    url: str = Field(pattern="^https?://[^/@]+")
    events: list[Type] = []
    secret: str = Field(pattern=r"^[^/.][^/]*/[^/.][^/]*$")


class WebhookSettings(EnvironmentSettings):
    """Who is told of events (`spec.webhooks`)."""

    model_config = SettingsConfigDict(env_prefix="MEDIA_")

    webhooks: Json[list[WebhookEntry]] = Field("[]", validate_default=True)
    """A JSON list of `url`, `events` (types; empty: all) and `secret`: a file in `webhook_secrets`, written
    `name/key`."""

    webhook_secrets: Path | None = None
    """Folder with the secrets of the webhooks. They are read at every delivery, so they can be changed without a
    restart."""

    webhook_allow_networks: Annotated[tuple[Network, ...], NoDecode] = ()
    """Networks, separated by commas, that webhooks may reach although they are not public, such as `10.20.0.0/16`, or
    `127.0.0.0/8` for a receiver on this machine. Empty (default): none, so no private, loopback, link-local or metadata
    address."""

    @field_validator("webhook_allow_networks", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return tuple(map(ip_network, value.replace(",", " ").split())) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _has_secrets(self) -> "WebhookSettings":
        if self.webhooks and self.webhook_secrets is None:
            raise ValueError("MEDIA_WEBHOOKS needs MEDIA_WEBHOOK_SECRETS")
        return self

    def entries(self) -> list[Webhook]:
        folder = self.webhook_secrets or Path()
        return [Webhook(each.url, frozenset(each.events), folder / each.secret) for each in self.webhooks]


class SpeechModelSettings(EnvironmentSettings):
    """The speech model of the tenant's workers, as far as the api has to know it."""

    model_config = SettingsConfigDict(env_prefix="MEDIA_WHISPER_")

    model: str = "small"
    """As the workers have it. A translation that this model can't make is refused (422) before a job is queued; where
    the api is not told, or a folder's name does not say what is in it, the job fails with the same code."""


@dataclass(frozen=True)
class Settings:
    """All that the api reads from its environment, `MEDIA_*`. Raises pydantic's ValidationError."""

    tenant: TenantSettings = field(default_factory=TenantSettings)
    store: StoreSettings = field(default_factory=StoreSettings)
    auth: AuthSettings = field(default_factory=AuthSettings)
    server: ServerSettings = field(default_factory=ServerSettings)
    upload: UploadSettings = field(default_factory=UploadSettings)
    cors: CorsSettings = field(default_factory=CorsSettings)
    page: PageSettings = field(default_factory=PageSettings)
    webhooks: WebhookSettings = field(default_factory=WebhookSettings)
    decoding: DecodingSettings = field(default_factory=DecodingSettings)
    log: LogSettings = field(default_factory=LogSettings)
    transcription: TranscriptionSettings = field(default_factory=TranscriptionSettings)
    whisper: SpeechModelSettings = field(default_factory=SpeechModelSettings)

    def __post_init__(self) -> None:
        if self.store.store == "folder" and not self.store.store_signing_key.get_secret_value():
            raise ValueError("folder needs MEDIA_STORE_SIGNING_KEY, which signs the download URLs")
