"""What is seen of a tenant in one look. A dependency that could not be asked is `Unreachable`; nothing is guessed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from media_core.policy import Policy
from media_core.upkeep.births import Birth
from media_operator.plan.desired import ApiShape, BucketCors, WorkerShape
from media_operator.tenant.ownership import OwnerMark

Status = Literal["True", "False", "Unknown"]


@dataclass(frozen=True)
class Unreachable:
    """The dependency could not be asked; `detail` is a sentence without secrets."""

    detail: str


@dataclass(frozen=True)
class Bucket:
    exists: bool
    owner: OwnerMark | None = None
    """None: it has no owner mark."""
    empty: bool = False
    """Of a bucket without an owner mark: whether it holds no object, so that it may be claimed."""
    capabilities: Mapping[str, bool] | None = None
    """What the store was seen to do when the bucket was made. Empty: not tried yet; None: there is nothing to try."""
    cors: BucketCors | None = None
    """The origins that the store was told last; None: none."""
    birth: Birth | None = None
    """The birth of the schema that it belongs to; None: it has none."""
    contents: int = 0
    """Of a bucket without a birth: how many contents, the first ones, were looked at; 0: it holds none."""


@dataclass(frozen=True)
class StoreKey:
    """The key with which the tenant's pods reach the store."""

    current: bool
    """The store knows the key that the pods are given."""
    others: int = 0
    """How many more keys this tenant has."""
    others_in_use: bool = False
    """Pods may still use one of the others."""
    rotation: str = ""
    """The value of `ROTATE_KEYS` that the key was made for."""
    shared: bool = False
    """It is the platform's own key, which all tenants share."""
    ends: datetime | None = None
    """When a temporary key ends. None: it has no end, or there is none."""
    due: bool = False
    """It is time for another temporary key."""
    late: bool = False
    """It has been time for so long that something is wrong: half of the time that was left then is over."""


@dataclass(frozen=True)
class SigningKeys:
    """The tenant's own keys for tokens."""

    count: int
    rotation: str = ""
    """The value of `ROTATE_KEYS` that the newest was made for."""


@dataclass(frozen=True)
class Database:
    exists: bool
    """There is a schema or a role of this tenant's name."""
    complete: bool = False
    """Both are there, and the role's password is known."""
    owner: OwnerMark | None = None
    """None: schema or role has no owner mark, or their owner marks differ."""
    revision: str | None = None
    """Newest migration applied; None: none."""
    known_revisions: tuple[str, ...] = ()
    """Migrations of this version of the code, oldest first."""
    is_new: bool = False
    """There is no schema, or it holds no table because it was never migrated."""
    birth: Birth | None = None
    """None: the schema is new, or was made by a version that had no births."""
    known: int = 0
    """How many of `Bucket.contents` it has rows for."""
    holds: bool = False
    """It has rows of contents whose objects have to be there."""


@dataclass(frozen=True)
class Suspicion:
    """A signature that found more open contents than is likely."""

    signature: str
    since: datetime
    held: int
    """Contents that it found and that still exist; counted up to a bound."""


@dataclass(frozen=True)
class Orphans:
    """Orphans, as the last sweep saw them."""

    swept_at: datetime
    listed: int
    """All objects in the bucket."""
    count: int
    bytes: int
    kept: bool
    """They are so many that they are removed only when a person says so."""
    since: datetime | None = None
    """When the first of them was seen, if they are kept."""
    released_at: datetime | None = None
    """A person has said that orphans first seen up to this time may be removed."""


@dataclass(frozen=True)
class Losses:
    """Contents whose objects the store has lost."""

    count: int
    bytes: int
    since: datetime
    """When the first of them was noticed."""


@dataclass(frozen=True)
class WebhookNote:
    """How a webhook stands, as the api that delivers to it has noted."""

    webhook_id: str
    host: str
    failing_since: datetime | None
    """None: it takes its events."""
    error: str | None
    given_up: int
    """Events that were given up and are still kept; counted up to a bound."""
    given_up_error: str | None
    """Why the last of them was not taken."""
    next_attempt: datetime | None = None
    """Where it takes nothing: when it is tried again."""


@dataclass(frozen=True)
class Notes:
    """What sweeps, scan workers and the api have written into the schema for a person to decide."""

    suspicions: tuple[Suspicion, ...] = ()
    """The oldest few of those that no person has confirmed."""
    orphans: Orphans | None = None
    """None: no sweep has run yet."""
    webhooks: tuple[WebhookNote, ...] = ()
    losses: Losses | None = None


@dataclass(frozen=True)
class Api:
    shape: ApiShape | None
    """What it was started with. None: it was not started, or one of its objects differs from the spec."""
    wanted: int = 0
    ready: int = 0
    """Replicas that answer."""
    trouble: str | None = None
    """Why replicas do not come up; None: they do, or nobody says."""
    rolling: bool = False
    """Replicas of an earlier shape are still being replaced."""


@dataclass(frozen=True)
class Scanner:
    """`status` and `reason` as in a condition."""

    status: Status
    reason: str
    detail: str
    """What the last canary showed, as a sentence."""
    canary_due: bool = False
    """It is time to send the next canary."""


@dataclass(frozen=True)
class Workers:
    shape: WorkerShape | None
    """What they were last told; None: they were told nothing yet."""
    trouble: Mapping[str, str] = field(default_factory=dict)
    """Kind of work -> why its workers keep failing."""
    waiting: Mapping[str, str] = field(default_factory=dict)
    """Kind of work -> why none of its workers has come up for minutes, or why the API server refuses its Jobs."""
    outdated: tuple[str, ...] = ()
    """Names of Jobs that never started and that the spec of now would make differently."""


@dataclass(frozen=True)
class Failure:
    """Why a step failed in this pass; `detail` is a sentence without secrets."""

    detail: str
    reason: str = ""
    """One CamelCase word for the condition; default `<Step>Failed`."""


@dataclass(frozen=True)
class ObservedState:
    """All that one look at a tenant has seen."""

    bucket: Bucket | Unreachable
    database: Database | Unreachable
    signing_keys: SigningKeys
    policy: Policy | Unreachable | None
    """As last applied; None: none was."""
    scanner: Scanner
    api: Api | Unreachable
    workers: Workers | Unreachable
    notes: Notes | Unreachable = Notes()
    store_key: StoreKey | Unreachable | None = None
    """None: the store needs no key."""
    cluster: str = ""
    """Uid of the kube-system namespace; empty on a single machine."""
    rival: str | None = None
    """Another tenant, declared earlier, that has the same id or bucket."""
    host_rival: str | None = None
    """Another tenant that is served at the same host."""
    has_finalizer: bool | None = None
    """Whether the resource has our finalizer; None: resources have none here."""
    stopped: bool | Unreachable = False
    """During a deletion: no pod of the tenant is left."""
    failures: Mapping[str, Failure] = field(default_factory=dict)
    """Step name -> why it has just failed."""
    unfinished: Mapping[str, str] = field(default_factory=dict)
    """Step name -> how far it has come in this pass; it goes on in the next."""

    @property
    def is_certain(self) -> bool:
        seen = (self.bucket, self.database, self.policy, self.api, self.workers, self.store_key, self.stopped)
        return not self.failures and not any(isinstance(each, Unreachable) for each in seen)
