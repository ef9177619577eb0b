"""Settings of the operator and of `make run`. The docs' configuration reference is generated from this file."""

import ipaddress
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, Json, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from media_core.settings import EnvironmentSettings
from media_core.store.encryption import Encryption, checked
from media_operator import postgres_url
from media_operator.tenant.patterns import LabelKey, LabelValue
from media_operator.tenant.spec import Resources, Toleration


class RunSettings(EnvironmentSettings):
    """How `make run` serves a tenant on a single machine. The manifest declares the tenant itself."""

    model_config = SettingsConfigDict(env_prefix="MEDIA_", env_ignore_empty=False)  # an empty mirror means none

    run_folder: Path = Path(".run")
    """Holds all data, keys and logs. Removing it, while nothing runs, removes the tenant."""

    host: str = "127.0.0.1"
    """Address the api listens on. `::` (or `0.0.0.0`: by IPv4 alone) lets other machines in, with tokens but without
    TLS."""

    port: int = Field(default=8080, ge=1, le=65535)
    """Port of the api."""

    metrics_port: int = Field(default=8081, ge=1, le=65535)
    """Port of the api's Prometheus metrics."""

    resync_seconds: float = Field(default=10, gt=0)
    """At the latest after so long the tenant is looked at again, without any event."""

    signatures_mirror: str = "database.clamav.net"
    """Where the official virus signatures are fetched from if the machine has none. Empty: they are not fetched; the
    scanner then knows only the EICAR test file."""


class OperatorSettings(EnvironmentSettings):
    """How the operator itself runs on a cluster."""

    model_config = SettingsConfigDict(env_prefix="MEDIA_OPERATOR_")

    watch_namespaces: str = ""
    """Namespaces whose MediaTenants it manages, separated by commas. Empty (default): all."""

    namespace: str = "default"
    """The operator's own namespace, where its Lease is."""

    identity: str = ""
    """Name of this replica in the Lease, such as the pod's name. Default: host name and process id."""

    lease_name: str = "media-operator"
    """Two operators with different Lease names must watch different namespaces."""

    lease_seconds: float = Field(default=10, ge=3)
    """A leader that has not renewed for so long has lost the Lease; another replica takes over soon after."""

    http_host: str = "127.0.0.1"
    """Address of `/healthz`, `/readyz` and `/metrics`; `::` in a container: all addresses, IPv6 and IPv4, or IPv4 alone
    where the kernel has no IPv6."""

    http_port: int = Field(default=8080, ge=0, le=65535)
    """Port of the same. 0: any free port, which the log names."""

    concurrency: int = Field(default=8, ge=1, le=100)
    """Tenants that are reconciled at the same time."""

    resync_seconds: float = Field(default=600, ge=1)
    """At the latest after so long each tenant is looked at again (with jitter), without any event."""

    relist_seconds: float = Field(default=300, ge=1)
    """How often all objects are listed: only a list shows what was deleted while a watch was down."""

    usage_seconds: float = Field(default=60, ge=1)
    """Least time between two writes of the quota's use to a tenant's status."""

    canary_seconds: float = Field(default=6 * 3600, ge=10)
    """How often the EICAR test file is sent through each tenant's own path. If it is not found, ScannerReady is
    False."""

    canary_timeout: float = Field(default=600, ge=10)
    """A canary without a verdict after so many seconds counts as failed."""

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Of `watch_namespaces`; empty: all."""
        return tuple(name for each in self.watch_namespaces.split(",") if (name := each.strip()))


class DatabaseSettings(EnvironmentSettings):
    """PostgreSQL, as the operator and as the tenants reach it."""

    model_config = SettingsConfigDict(env_prefix="MEDIA_OPERATOR_DATABASE_")

    url: SecretStr
    """`postgresql://role:password@host:5432/database` of PostgreSQL 16 or newer. Several hosts
    are `host:5432,other:5432`, with `?target_session_attrs=read-write`. The role may create roles and schemas
    (CREATEROLE, and CREATE on the database); it will own the tables of all tenants. The connection has to be direct:
    PgBouncer in transaction mode loses notifications."""

    tenant_address: str = ""
    """`host:port` that the tenants' pods connect to, e.g. PgBouncer. Default: that of `url`."""

    connection_limit: int = Field(default=60, ge=2)
    """Connections that one tenant's role may hold; its pods share them."""

    pool: int = Field(default=8, ge=2)
    """Connections of the operator itself, beside the one that listens."""

    @field_validator("url")
    @classmethod
    def _can_be_read(cls, url: SecretStr) -> SecretStr:
        postgres_url.parsed(url.get_secret_value())
        return SecretStr(url.get_secret_value().strip())  # many a Secret ends with a newline


class StoreAdminSettings(EnvironmentSettings):
    """The S3 service, as the operator administers it."""

    model_config = SettingsConfigDict(env_prefix="MEDIA_OPERATOR_S3_")

    endpoint: str = Field(pattern=r"^https?://[^/@?#\s]+/?$")
    """URL of S3 as pods of the cluster reach it."""

    public_endpoint: str | None = Field(None, pattern=r"^https?://[^/@?#\s]+/?$")
    """URL of the same service as clients reach it; signed download URLs lead there. Default: `endpoint`."""

    region: str = "us-east-1"
    """Region to sign for and to create buckets in."""

    access_key_id: str = ""
    """Key that may create buckets (and, with `credentials=iam`, users; with `role`, assume the role). Default: the one
    that AWS gives to the pod by its service account (IRSA, Pod Identity)."""

    secret_access_key: SecretStr = SecretStr("")
    """Its secret."""

    credentials: Literal["iam", "role", "shared"] = "iam"
    """`iam`: each tenant gets a user with one policy for its prefix, and its own keys. `role`: each tenant gets
    temporary keys, by sts:AssumeRole of `role_arn` with that policy. `shared`: every tenant gets the operator's key,
    for servers without AWS's IAM API; a condition of each tenant says so."""

    iam_endpoint: str | None = Field(None, pattern=r"^https?://[^/@?#\s]+/?$")
    """URL of the IAM API. Default: AWS's own; versitygw serves it on a port of its own."""

    role_arn: str = Field("", max_length=2048, pattern=r"^(arn:[!-~]{16,})?$")
    """With `credentials=role`, the role that the operator assumes for each tenant. It may reach all tenants' objects;
    a tenant's keys reach only its own."""

    role_seconds: int = Field(3600, ge=900, le=43200)
    """How long a tenant's temporary key lives; it is replaced at half its life. AWS allows no more than an hour if the
    operator's own key is that of a role."""

    sts_endpoint: str | None = Field(None, pattern=r"^https?://[^/@?#\s]+/?$")
    """URL of the STS API. Default: AWS's own in `region`; MinIO serves it at `endpoint`."""

    sse: Encryption | None = None
    """Encryption at rest that every write names, the operator's and the tenants': `AES256` or `aws:kms`, where a policy
    refuses writes that name none. Default: none is named."""

    sse_kms_key_id: str | None = None
    """Key of KMS for `aws:kms`; each tenant's user, or the role, has to be allowed to use it. Default: the one that S3
    uses by itself."""

    @model_validator(mode="after")
    def _keys_and_encryption_fit(self) -> Self:
        checked(self.sse, self.sse_kms_key_id)
        if bool(self.access_key_id) != bool(self.secret_access_key.get_secret_value()):
            names = "MEDIA_OPERATOR_S3_ACCESS_KEY_ID and MEDIA_OPERATOR_S3_SECRET_ACCESS_KEY"
            raise ValueError(f"{names} belong together: give both or none")
        if self.credentials == "shared" and not self.access_key_id:
            raise ValueError("MEDIA_OPERATOR_S3_CREDENTIALS=shared needs MEDIA_OPERATOR_S3_ACCESS_KEY_ID")
        if self.credentials == "role" and not self.role_arn:
            raise ValueError("MEDIA_OPERATOR_S3_CREDENTIALS=role needs MEDIA_OPERATOR_S3_ROLE_ARN")
        return self


class PlatformSettings(EnvironmentSettings):
    """Settings of all tenants' objects on the cluster. None of them is secret."""

    model_config = SettingsConfigDict(env_prefix="MEDIA_OPERATOR_")

    api_image: str
    """Image of the api."""

    worker_image: str
    """Image of the workers."""

    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """For both."""

    image_pull_secrets: str = ""
    """Names of pull secrets, separated by commas; they must be in each tenant's namespace."""

    clamd_host: str
    """clamd's host name for pods of every namespace."""

    clamd_port: int = Field(default=3310, ge=1, le=65535)
    """Its port."""

    clamd_at_once: int = Field(default=4, ge=1, le=32)
    """Scans of one worker at the same time."""

    clamd_heuristics: Literal["unscannable", "infected"] = "unscannable"
    """The verdict if clamd only guesses (`Heuristics.*`, `PUA.*`)."""

    retention_orphan_days: float = Field(default=7, ge=0)
    """Days from when a sweep first sees an object without a row until a sweep removes it."""

    retention_orphans_few: int = Field(default=100, ge=0)
    """Up to so many objects without a row are removed in any case. If they are more than this and more than
    `retention_orphan_share`, they are kept, and a condition of the tenant says so."""

    retention_orphan_share: float = Field(default=0.02, ge=0, le=1)
    """The share of a tenant's objects above which objects without a row are kept until a person decides."""

    retention_found_days: float = Field(default=7, ge=0)
    """Days for which a file is kept that was clean and that newer signatures find infected. Nobody can read it
    meanwhile."""

    retention_found_few: int = Field(default=5, ge=1)
    """A signature that finds more files that were clean before is suspicious. Then the rescan stops, the files are kept
    until a person decides, and a condition of the tenant says so."""

    retention_event_days: float = Field(default=7, ge=4, le=90)
    """Days for which a tenant's events are kept for those who read them later."""

    webhook_allow_networks: str = ""
    """Networks, separated by commas, that tenants' webhooks may reach although they are not public, such as
    `10.20.0.0/16`. Empty: none, so no private, loopback, link-local or metadata address."""

    ingress_class: str = ""
    """IngressClass of the Ingress that a tenant with `api.host` gets. Empty: the cluster's default class."""

    ingress_annotations: Json[dict[str, str]] = Field(
        '{"nginx.ingress.kubernetes.io/proxy-body-size": "0", '
        '"nginx.ingress.kubernetes.io/proxy-request-buffering": "off"}',
        validate_default=True,
    )
    """A JSON object of annotations of every Ingress. Default: nginx takes uploads of any size and streams them."""

    public_scheme: Literal["http", "https"] | None = None
    """Scheme of tenants' public addresses: `https` where TLS ends at a load balancer or by the Ingress controller's own
    certificate, `http` for a Gateway without TLS. Default: `https` with `cluster_issuer` or `gateway`, else `http`."""

    cluster_issuer: str = ""
    """cert-manager ClusterIssuer of the Ingress's certificate (Secret `mt-<id>-tls`). Empty: no TLS at the Ingress."""

    gateway: str = ""
    """`namespace/name` of a Gateway: tenants with `api.host` get an HTTPRoute to it instead of an Ingress."""

    gateway_request_timeout: str = Field("", pattern=r"^([0-9]{1,5}(h|m|s|ms)){0,4}$")
    """`timeouts.request` of HTTPRoutes; `0s`: none, so that long uploads pass a Gateway whose own default is short
    (Envoy's 15 s). Empty: not set, for CRDs older than Gateway API v1.2 and controllers that do not know it."""

    run_as_user: Annotated[int, Field(ge=1, le=2**31 - 1)] | Literal["cluster"] = 65532
    """User and group of the tenants' pods. `cluster`: none is named, where the cluster picks them for each namespace
    (OpenShift's `restricted-v2`)."""

    trust_config_map: str = ""
    """ConfigMap, the same in each tenant's namespace, with the certificate authorities that tenants' pods trust: PEM,
    in place of the public ones, so with them where they are needed too. Empty: the public ones."""

    trust_key: str = "ca.crt"
    """Key of that ConfigMap."""

    https_proxy: str = Field("", pattern=r"^(https?://[^/@\s]+/?)?$")
    """URL of the proxy for https, for the tenants' pods. Empty: none."""

    http_proxy: str = Field("", pattern=r"^(https?://[^/@\s]+/?)?$")
    """URL of the proxy for http, likewise."""

    no_proxy: str = ""
    """Hosts and domains, separated by commas, that the tenants' pods reach without a proxy, beside this machine and the
    cluster's own domains `.svc` and `.cluster.local`."""

    node_selector: Json[dict[LabelKey, LabelValue]] = Field("{}", validate_default=True)
    """A JSON object of labels of the nodes where tenants' pods may run. `spec.transcription.nodeSelector` adds to it
    and has the last word."""

    tolerations: Json[list[Toleration]] = Field("[]", validate_default=True)
    """A JSON list of tolerations of the tenants' pods. `spec.transcription.tolerations` adds to it."""

    labels: Json[dict[LabelKey, LabelValue]] = Field("{}", validate_default=True)
    """A JSON object of further labels of all tenants' objects and pods, such as a policy asks for. A change rolls the
    api; Secrets get it when they are next written."""

    annotations: Json[dict[LabelKey, str]] = Field("{}", validate_default=True)
    """A JSON object of further annotations, likewise."""

    api_pod_labels: Json[dict[LabelKey, LabelValue]] = Field("{}", validate_default=True)
    """A JSON object of further labels of api pods. A change rolls them."""

    api_pod_annotations: Json[dict[LabelKey, str]] = Field("{}", validate_default=True)
    """A JSON object of further annotations of api pods. A change rolls them."""

    worker_pod_labels: Json[dict[LabelKey, LabelValue]] = Field("{}", validate_default=True)
    """A JSON object of further labels of worker pods, such as `sidecar.istio.io/inject: "false"`: a Job with a sidecar
    that never ends would run until its deadline."""

    worker_pod_annotations: Json[dict[LabelKey, str]] = Field("{}", validate_default=True)
    """A JSON object of further annotations of worker pods."""

    sweep_resources: Json[Resources] = Field('{"limits":{},"requests":{}}', validate_default=True)
    """A JSON object of `requests` and `limits` of the hourly sweep and the rescan. What is not in it is as by
    default."""

    max_jobs: int = Field(default=50, ge=1)
    """Most worker Jobs of all tenants at a time; tenants share them fairly. One tenant gets at most half, and a tenth
    is kept for tenants without a Job."""

    job_deadline_seconds: int = Field(default=6 * 3600, ge=60)
    """A worker Job that runs longer is ended; the next one takes up its job of the queue."""

    job_ttl_seconds: int = Field(default=300, ge=300)
    """How long a finished Job is kept, for its log, and since the back-off counts failed Jobs."""

    kueue_queue: str = ""
    """Name of a Kueue LocalQueue, the same in each tenant's namespace, that admits the worker Jobs. Empty: no Kueue."""

    job_priority_class: str = ""
    """PriorityClass of worker pods."""

    api_priority_class: str = ""
    """PriorityClass of api pods."""

    job_runtime_class: str = ""
    """RuntimeClass of worker pods (e.g. gVisor) unless the tenant's `transcription.runtimeClass` says otherwise."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Log level of the tenants' api and workers."""

    @field_validator("webhook_allow_networks")
    @classmethod
    def _are_networks(cls, networks: str) -> str:
        for each in networks.replace(",", " ").split():
            ipaddress.ip_network(each)
        return networks
