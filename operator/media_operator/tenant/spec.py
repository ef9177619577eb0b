"""The MediaTenant resource, `media.scaiwave.io/v1alpha1`: what a platform team may declare about one tenant.

This model is the only definition: `make run` reads manifests with it and the CRD is generated from it. So it stays
structural: plain objects with known fields, every string, number and list bounded, enums as literals, defaults that
need no webhook, and no rule that CEL could not state. Unknown fields are refused, never dropped, and every complaint
names the field the way the author wrote it: `spec.quota.maxStorageMb: must be at least 1, not 0`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from media_core.contents.quota import MIB
from media_core.policy import Policy
from media_operator.tenant.patterns import (
    CRON,
    HOST,
    KEY_OF_A_SECRET,
    LABEL_VALUE,
    NAME,
    SCOPE,
    TAINT_KEY,
    WEBHOOK_URL,
    IssuerUrl,
    LabelKey,
    LabelValue,
    Origin,
    Quantity,
    ResourceList,
    amount,
)
from media_operator.tenant.spec_errors import FieldError, SpecInvalid, field_error, sentence, shown
from media_operator.tenant.status import TenantStatus
from media_operator.tenant.structural import Rule, Structural

GROUP = "media.scaiwave.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "MediaTenant"


class Quota(Structural):
    """What the tenant may use."""

    max_storage_mb: int = Field(10_240, ge=1, le=1_000_000_000)
    """MiB of stored content; each distinct content counts once, thumbnails included. Uploads beyond it are answered
    413."""
    max_files: int | None = Field(None, ge=1, le=1_000_000_000)
    """Most files, each upload counted, also of the same bytes. Uploads beyond it are answered 413. Default: as many as
    there is room for."""
    max_upload_mb: int = Field(512, ge=1, le=80_000)
    """MiB of one uploaded file. The bound is S3's: 10,000 parts of 8 MiB."""
    max_transcription_minutes_per_day: int = Field(600, ge=0, le=1_000_000)
    """Minutes of audio per UTC day. 0 refuses every transcription."""


class Storage(Structural):
    """Where the objects lie."""

    bucket: str | None = Field(None, min_length=3, max_length=63, pattern=NAME)
    """Name of the bucket; default media-<tenantId>. Immutable. A bucket with another tenant's owner mark is never
    touched."""
    deletion_policy: Literal["Retain", "Delete"] = "Retain"
    """What happens to the bucket and the database schema when the MediaTenant is deleted. Retain: both stay, marked as
    retained, and the tenant's credentials stop working. Delete: both are removed with everything in them, and the
    MediaTenant is gone only when they are. May still be changed while the deletion waits."""


class Autoscaling(Structural):
    """A HorizontalPodAutoscaler for the api."""

    rules = (
        Rule(
            "max",
            "must be at least min, which is 2 where it is not given",
            "self.max >= self.min",
            lambda own: own.max >= own.min,
        ),
    )

    min: int = Field(2, ge=1, le=100)
    """Fewest replicas."""
    max: int = Field(10, ge=1, le=100)
    """Most replicas; at least min."""
    target_cpu: int = Field(70, ge=1, le=100)
    """Average CPU use to aim at, percent of what the pods request."""


def _countable(resources: Mapping[str, str]) -> bool:
    extended = {name: number for name, number in resources.items() if "/" in name}
    return all("kubernetes.io/" not in name and number.isdecimal() for name, number in extended.items())


def _countable_rule(field: str) -> str:
    return (
        f"!has(self.{field}) || self.{field}.all(name, !name.contains('/') || "
        f"(!name.contains('kubernetes.io/') && string(self.{field}[name]).matches('^[0-9]+$')))"
    )


def _in_bytes(resources: Mapping[str, str]) -> bool:
    """Kubernetes' own clients write 1.2Gi as 1288490188800m: that is meant."""
    given = (resources.get(name, "") for name in ("memory", "ephemeral-storage"))
    return not any(each.endswith("m") and amount(each) < amount("1Mi") for each in given)


def _in_bytes_rule(field: str) -> str:
    return (
        f"!has(self.{field}) || !['memory', 'ephemeral-storage'].exists(name, "
        f"name in self.{field} && string(self.{field}[name]).endsWith('m') && "
        f"quantity(string(self.{field}[name])).isLessThan(quantity('1Mi')))"
    )


_IN_BYTES = "must give memory and ephemeral-storage in bytes, such as 512Mi: 512m is half a byte"


def _within_limits(requests: Mapping[str, str], limits: Mapping[str, str]) -> bool:
    return all(amount(number) <= amount(limits[name]) for name, number in requests.items() if name in limits)


_COUNTABLE = "must give each extended resource as a whole number, and none of kubernetes.io"


class Resources(Structural):
    """CPU, memory and devices of one container, as Kubernetes takes them."""

    rules = (
        Rule("requests", _COUNTABLE, _countable_rule("requests"), lambda own: _countable(own.requests)),
        Rule("limits", _COUNTABLE, _countable_rule("limits"), lambda own: _countable(own.limits)),
        Rule(
            "limits",
            "must give an extended resource the same number as requests",
            "!has(self.requests) || !has(self.limits) || self.requests.all(name, !name.contains('/') || "
            "!(name in self.limits) || string(self.requests[name]) == string(self.limits[name]))",
            lambda own: all(
                own.limits.get(name, number) == number for name, number in own.requests.items() if "/" in name
            ),
        ),
        Rule("requests", _IN_BYTES, _in_bytes_rule("requests"), lambda own: _in_bytes(own.requests), ratcheting=True),
        Rule("limits", _IN_BYTES, _in_bytes_rule("limits"), lambda own: _in_bytes(own.limits), ratcheting=True),
        Rule(
            "requests",
            "must not be more than limits",
            "!has(self.requests) || !has(self.limits) || self.requests.all(name, !(name in self.limits) || "
            "quantity(string(self.requests[name])).compareTo(quantity(string(self.limits[name]))) <= 0)",
            lambda own: _within_limits(own.requests, own.limits),
            ratcheting=True,
        ),
    )

    requests: ResourceList = Field({})
    """What the scheduler sets aside for each pod. cpu: cores, such as 2, or 500m for half of one. memory: bytes, such
    as 512Mi or 2Gi. ephemeral-storage: bytes of the node's disk for temporary files. Any extended resource, such as
    nvidia.com/gpu, nvidia.com/mig-1g.10gb or amd.com/gpu: a whole number; its limit is the same."""
    limits: ResourceList = Field({})
    """What each pod may use at most, of the same resources."""


class Cors(Structural):
    """Web apps of other origins that may call the api from a browser, with a token. Cookies are never looked at."""

    origins: list[Origin] = Field([], max_length=50)
    """Origins as browsers write them: scheme, host and port, such as https://app.example, or https://*.preview.example
    for any one label in that place. Default: none, so a browser lets no app of another origin read an answer."""
    max_age_seconds: int = Field(600, ge=0, le=86400)
    """How long a browser may keep the answer to a preflight."""


class Api(Structural):
    """The tenant's HTTP api."""

    replicas: int = Field(2, ge=0, le=100)
    """Number of api pods, unless autoscaling is set; kubectl scale changes it. On one machine there is one process."""
    autoscaling: Autoscaling | None = None
    """Scale on CPU use instead of a fixed number of replicas. Default: off."""
    resources: Resources = Resources()
    """CPU and memory of one api pod. With neither requests nor limits given, the operator's default."""
    host: str | None = Field(None, max_length=253, pattern=HOST)
    """Public host name, such as media.acme.example. With it the tenant gets an Ingress or HTTPRoute, and links and
    status.endpoint use it. Only one tenant can have it. Default: reachable inside the cluster only."""
    cors: Cors = Cors()
    """Web apps of other origins. Default: none."""
    signed_url_max_seconds: int = Field(300, ge=1, le=604_800)
    """Most seconds that a signed URL may be valid, where a client asks for more than five minutes. A URL of the object
    store can't be taken back meanwhile; one of the api ends early with its file or a verdict against it."""
    upload_hours: int = Field(24, ge=1, le=720)
    """Hours that an upload in several requests (tus) stays when it is not complete, from its last bytes on. Until then
    its bytes count in the quota."""
    upload_draft: bool = False
    """True: uploads in several requests also by the IETF's draft (draft-ietf-httpbis-resumable-upload), as iOS sends
    them. The draft changes until it is a standard."""
    page: bool = False
    """True: the api's root serves a page where people see and upload their files. It signs them in at auth.oidc.page;
    without that it takes the token of a link, https://HOST/#token=TOKEN."""


ClaimName = Annotated[str, StringConstraints(min_length=1, max_length=255)]


ScopeName = Annotated[str, StringConstraints(pattern=SCOPE, max_length=255)]


class OidcClaims(Structural):
    """Names of the claims that say who may do what. A name with dots leads into claims, such as realm_access.roles."""

    subject: ClaimName = "sub"
    """Who it is, 1 to 255 characters; the same person has to have the same in every token."""
    scopes: ClaimName = "scope"
    """What it may do: words or a list, of media:read, media:write, transcribe and admin. A token without scope may have
    them in scp. They may begin with the audience or the tenant's id and a slash."""
    rooms: ClaimName = "rooms"
    """Whose files it may see: a list of room ids, or words; * is every room."""
    tenant_role: ClaimName | None = None
    """Roles, a list or words, such as roles or cognito:groups: a role that is named like a scope grants it. Default:
    no role grants anything."""


class OidcPage(Structural):
    """How the page of api.page signs people in at the issuer: by code and PKCE, as a public client without a secret."""

    client_id: str = Field(min_length=1, max_length=255)
    """The client that is registered for the page, with the page's address as redirect URI."""
    scopes: list[ScopeName] = Field(["openid"], max_length=32)
    """What it asks for; the access token that it gets must be one that the api accepts."""
    origins: list[Origin] = Field([], max_length=10)
    """Origins that the page may call beside the issuer's, such as https://oauth2.googleapis.com: that of the token
    endpoint, where it is another one. Default: none."""


class Oidc(Structural):
    """Tokens of an OpenID Connect issuer."""

    issuer: IssuerUrl
    """The iss that tokens must have, exactly: an https URL without query."""
    audience: str | None = Field(None, min_length=1, max_length=255)
    """The aud that tokens must bear, or the client_id where they have no aud; default the tenant id."""
    jwks_uri: IssuerUrl | None = None
    """Where the issuer's keys are; default: what the issuer's /.well-known/openid-configuration says."""
    claims: OidcClaims = OidcClaims()
    """Names of the claims, where the issuer's differ."""
    page: OidcPage | None = None
    """How the page of api.page signs people in. Default: it does not."""


class Auth(Structural):
    """Whose tokens the api accepts."""

    oidc: Oidc | None = None
    """An external OpenID Connect issuer. Only its tokens are accepted then. Default: a signing key of this tenant's
    own."""


class Scan(Structural):
    """Virus scanning."""

    enabled: bool = True
    """False: nothing is scanned or waits for a verdict. What is stored meanwhile is scanned once it is true."""
    pending_access: Literal["None", "Uploader", "All"] = "None"
    """Who may read a file before its verdict. None: nobody, requests are answered 425 with Retry-After. Uploader: who
    uploaded it. All: everybody who may read it afterwards."""
    unscannable: Literal["Block", "Allow"] = "Block"
    """Content that cannot be scanned: encrypted, or beyond the scanner's limits. Block: nobody can read it. Allow: it
    is served like clean content."""
    max_parallel: int = Field(4, ge=1, le=50)
    """Most scan workers of this tenant at a time."""
    rescan_schedule: str = Field("0 3 * * *", max_length=100, pattern=CRON)
    """When stored content is scanned again if the signatures have changed since. Cron, five fields, UTC: minute 0-59,
    hour 0-23, day 1-31, month 1-12, weekday 0-6 (0 is Sunday)."""
    resources: Resources = Resources()
    """CPU and memory of one scan worker. What is not given is the operator's default."""


class Thumbnails(Structural):
    """Thumbnails of videos, which workers make. Those of pictures are made by the api."""

    resources: Resources = Resources()
    """CPU and memory of one thumbnail worker. What is not given is the operator's default."""


class Toleration(Structural):
    """A Kubernetes toleration."""

    rules = (
        Rule(
            "key",
            "must be set unless operator is Exists",
            "self.key != '' || self.operator == 'Exists'",
            lambda own: bool(own.key) or own.operator == "Exists",
        ),
        Rule(
            "value",
            "must be empty where operator is Exists",
            "self.value == '' || self.operator != 'Exists'",
            lambda own: not own.value or own.operator != "Exists",
        ),
        Rule(
            "effect",
            "must be NoExecute where tolerationSeconds is set",
            "!has(self.tolerationSeconds) || self.effect == 'NoExecute'",
            lambda own: own.toleration_seconds is None or own.effect == "NoExecute",
        ),
    )

    key: str = Field("", max_length=317, pattern=TAINT_KEY)
    """Taint key; empty with operator Exists matches all."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """How the taint's value is compared. Exists: any value matches. Equal: only this value."""
    value: str = Field("", max_length=63, pattern=LABEL_VALUE)
    """Taint value, for operator Equal."""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    """Taint effect that is tolerated; empty matches all. NoSchedule: nodes that take no new pods. PreferNoSchedule:
    nodes that are avoided. NoExecute: nodes that end running pods too."""
    toleration_seconds: int | None = Field(None, ge=0, le=86_400)
    """How many seconds a NoExecute taint is tolerated; default for ever."""


class Transcription(Structural):
    """Speech to text by faster-whisper."""

    enabled: bool = True
    """False: POST /v1/transcribe is refused; jobs that are queued wait."""
    model: str = Field("small", min_length=1, max_length=512)
    """A faster-whisper model name (tiny, base, small, medium, large-v3, ...), or the path of a model folder that the
    workers can read."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the model runs. cpu: on any node. cuda: on a GPU; one nvidia.com/gpu, unless resources.limits
    name another device such as nvidia.com/mig-1g.10gb."""
    compute_type: Literal["int8", "int8_float16", "float16", "float32"] = "int8"
    """Number format of the model's weights; smaller is faster, takes less memory and is a little less exact. int8:
    smallest, for CPUs. int8_float16 and float16: for GPUs. float32: exact, largest."""
    max_parallel: int = Field(2, ge=1, le=50)
    """Most transcription workers of this tenant at a time."""
    sync_seconds: int = Field(300, ge=0, le=3600)
    """How long a call of /v1/audio/transcriptions waits for its transcript. One that takes longer is answered 202 with
    the job. The Ingress or Gateway has to wait as long."""
    resources: Resources = Resources()
    """CPU and memory of one transcription pod. With neither requests nor limits given, the operator's default."""
    node_selector: dict[LabelKey, LabelValue] = Field({}, max_length=16)
    """Labels of the nodes where transcription may run. Default: any node."""
    tolerations: list[Toleration] = Field([], max_length=16)
    """Taints that transcription pods tolerate."""
    runtime_class: str | None = Field(None, min_length=1, max_length=253, pattern=NAME)
    """RuntimeClass of transcription pods, such as nvidia or gvisor; default: the one that the operator uses for all
    workers."""
    model_cache: str | None = Field(None, min_length=1, max_length=253, pattern=NAME)
    """PersistentVolumeClaim in the tenant's namespace that keeps downloaded models; default: each worker downloads its
    model again."""


class NamespaceQuota(Structural):
    """A ResourceQuota."""

    cpu: Quantity | None = None
    """Cores that the requests of all pods may add up to, such as 8 or 500m."""
    memory: Quantity | None = None
    """Bytes that the memory requests of all pods may add up to, such as 32Gi."""
    pods: int | None = Field(None, ge=1, le=10_000)
    """Most pods that have not ended, api and workers together."""
    jobs: int | None = Field(None, ge=1, le=10_000)
    """Most Jobs, including ended ones that are still kept."""


EventType = Annotated[
    Literal["stored", "scanned", "thumbnail", "transcript", "changed", "attached", "removed", "deleted"],
    Field(
        description="stored: a file was uploaded. scanned: it has a verdict. thumbnail: it is made, or cannot be. "
        "transcript: a transcription has ended. changed: its name, labels or tenant_scope. attached, removed: in or "
        "from a room. deleted: by whoever may."
    ),
]


class SecretRef(Structural):
    """A Secret in the tenant's namespace."""

    name: str = Field(min_length=1, max_length=253, pattern=NAME)
    """Name of the Secret. With make run: a folder in .run/<tenantId>/webhooks/."""
    key: str = Field("secret", min_length=1, max_length=253, pattern=KEY_OF_A_SECRET)
    """The key in it. Its value: whsec_ and the base64 of 24 to 64 random bytes; while secrets are exchanged two of
    them, each on a line of its own. Both sign then. A change needs no restart."""


class Webhook(Structural):
    """A receiver of events."""

    url: str = Field(min_length=1, max_length=1024, pattern=WEBHOOK_URL)
    """Where events are posted. Each webhook has its own. An address that is private, loopback, link-local or of a
    metadata service is refused, unless the platform allows its network."""
    events: list[EventType] = Field([], max_length=16)
    """Types of events. Default: all."""
    secret_ref: SecretRef
    """The secret that signs."""


class TenantSpec(Structural):
    """What the platform team wants."""

    rules = (
        Rule(
            "webhooks",
            "must have each url once",
            "!has(self.webhooks) || self.webhooks.all(one, self.webhooks.exists_one(other, other.url == one.url))",
            lambda own: len({each.url for each in own.webhooks}) == len(own.webhooks),
        ),
    )

    tenant_id: str | None = Field(None, min_length=1, max_length=40, pattern=NAME)
    """The tenant's name in object keys, schema, bucket and tokens: lower-case letters, digits and inner hyphens.
    Default metadata.name. Immutable, and unique in the cluster."""
    quota: Quota = Quota()
    """Limits of storage, upload size and transcription. Changes take effect at once, without restarting anything.
    Lowering a limit below the use deletes nothing; new uploads are refused."""
    storage: Storage = Storage()
    """The bucket, and what becomes of the data when the tenant is deleted."""
    api: Api = Api()
    """The tenant's own HTTP api: size and public name."""
    auth: Auth = Auth()
    """Whose tokens the api accepts. Default: those signed with a key that the operator makes for this tenant."""
    scan: Scan = Scan()
    """Virus scanning, and who may read a file before its verdict."""
    thumbnails: Thumbnails = Thumbnails()
    """Thumbnails of videos."""
    transcription: Transcription = Transcription()
    """Speech to text by faster-whisper, and where its workers run."""
    webhooks: list[Webhook] = Field([], max_length=16)
    """Receivers of events, as CloudEvents with signatures of Standard Webhooks. Default: none."""
    namespace_quota: NamespaceQuota | None = None
    """A ResourceQuota for the whole namespace of this MediaTenant; use it where one namespace holds one tenant.
    Default: none."""
    suspended: bool = False
    """True: requests are answered 503 with Retry-After, no worker starts, and nothing is deleted."""


class Metadata(BaseModel):
    """The part of Kubernetes' ObjectMeta that is read here. The API server checks the rest."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, alias_generator=to_camel)

    name: str = Field(min_length=1, max_length=253)
    namespace: str = Field("default", min_length=1, max_length=63)
    generation: int = Field(1, ge=1)
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    annotations: dict[str, str] = {}
    finalizers: list[str] = []


def schema_of(tenant_id: str) -> str:
    """PostgreSQL schema and role: `tenant_<id>`, with underscores for hyphens. Ids have no underscore: it is unique."""
    return "tenant_" + tenant_id.replace("-", "_")


def tenant_id_of(schema: str) -> str:
    """The inverse of `schema_of`."""
    return schema.removeprefix("tenant_").replace("_", "-")


class MediaTenant(Structural):
    """One tenant of the media platform: a bucket, a database schema, an HTTP api of its own, and workers that scan,
    transcribe and make thumbnails whenever there is work."""

    api_version: Literal["media.scaiwave.io/v1alpha1"]
    """Group and version of this resource: media.scaiwave.io/v1alpha1."""
    kind: Literal["MediaTenant"]
    """MediaTenant."""
    metadata: Metadata
    """Name, namespace, labels and annotations, as of every Kubernetes object."""
    spec: TenantSpec = TenantSpec()
    """What the platform team wants. Every field has a default, so an empty spec is a whole tenant."""
    status: TenantStatus | None = None
    """What the operator saw last. Nobody else writes it."""

    @model_validator(mode="after")
    def _name_fits_as_tenant_id(self) -> Self:
        if self.spec.tenant_id is None:
            try:
                TenantSpec(tenantId=self.metadata.name)
            except ValidationError as error:
                words = sentence(error.errors()[0], TenantSpec)
                raise PydanticCustomError(
                    "field:metadata.name", "{words}, unless spec.tenantId is set", {"words": words}
                ) from None
        return self

    @property
    def tenant_id(self) -> str:
        return self.spec.tenant_id or self.metadata.name

    @property
    def bucket(self) -> str:
        return self.spec.storage.bucket or f"media-{self.tenant_id}"

    @property
    def schema_name(self) -> str:
        return schema_of(self.tenant_id)

    @property
    def policy(self) -> Policy:
        """The rules that take effect at once, without a restart: they are written into the tenant's schema."""
        spec = self.spec
        return Policy(
            max_bytes=spec.quota.max_storage_mb * MIB,
            max_items=spec.quota.max_files,
            max_upload_bytes=spec.quota.max_upload_mb * MIB,
            max_transcription_seconds_per_day=spec.quota.max_transcription_minutes_per_day * 60,
            scan_enabled=spec.scan.enabled,
            pending_access=spec.scan.pending_access,
            unscannable=spec.scan.unscannable,
            transcription_enabled=spec.transcription.enabled,
            suspended=spec.suspended,
            generation=self.metadata.generation,
        )

    @classmethod
    def read(cls, document: object, *, stored: bool = False) -> Self:
        """A MediaTenant from a parsed manifest, or as the API server has stored it. Raises `SpecInvalid` with all
        errors."""
        if not isinstance(document, Mapping):
            raise SpecInvalid([FieldError("", f"must be a {KIND} object, not {shown(document)}")])
        try:
            return cls.model_validate(document, context={"stored": stored})
        except ValidationError as error:
            raise SpecInvalid([field_error(details, cls) for details in error.errors()]) from None


def refuse_immutable_changes(old: MediaTenant, new: MediaTenant) -> None:
    """Raises `SpecInvalid` if a name differs under which data is stored."""
    pairs = {
        "metadata.name": (old.metadata.name, new.metadata.name),
        "spec.tenantId": (old.tenant_id, new.tenant_id),
        "spec.storage.bucket": (old.bucket, new.bucket),
    }
    errors = [
        FieldError(path, f"is immutable: it is {before!r} and cannot become {after!r}")
        for path, (before, after) in pairs.items()
        if before != after
    ]
    if errors:
        raise SpecInvalid(errors)


def changes(old: MediaTenant, new: MediaTenant) -> Iterator[tuple[str, object, object]]:
    """(path, before, after) of each leaf of the spec that differs, defaults filled in."""
    before, after = (dict(_leaves("spec", tenant.spec.model_dump(by_alias=True))) for tenant in (old, new))
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) != after.get(path):
            yield path, before.get(path), after.get(path)


def _leaves(path: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _leaves(f"{path}.{name}", inner)
    else:
        yield path, value
