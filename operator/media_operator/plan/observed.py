"""What is seen of a tenant in one look. What could not be asked is `Unreachable`, never a guess."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from media_core.births import Birth
from media_core.policy import Policy
from media_operator.plan.desired import ApiShape, WorkerShape
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
    """The mark it bears; None: none."""
    empty: bool = False
    """Without a mark: whether there is nothing in it either, so that it may be claimed."""
    capabilities: Mapping[str, bool] | None = None
    """What the store behind it was seen to do; empty: its creation has not come so far; None: there is nothing to
    try."""
    birth: Birth | None = None
    """The schema that it belongs to, as it remembers; None: it says nothing."""
    contents: int = 0
    """Where it says nothing: how many contents were looked at, the first ones; 0: it holds none."""


@dataclass(frozen=True)
class StoreKey:
    """The key with which the tenant's pods reach the store."""

    current: bool
    """The one that the pods are told is one that the store knows."""
    others: int = 0
    """Keys of this tenant beside it."""
    others_in_use: bool = False
    """There may be pods that still work with one of those."""
    rotation: str = ""
    """The value of `ROTATE_KEYS` that it was made for."""
    shared: bool = False
    """It is the platform's own, for all tenants."""


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
    """The mark they bear; None: one of them bears none, or they disagree."""
    revision: str | None = None
    """Newest migration applied; None: none."""
    known_revisions: tuple[str, ...] = ()
    """Migrations of this version of the code, oldest first."""
    is_new: bool = False
    """It holds no table: there is no schema, or nobody has migrated it yet."""
    birth: Birth | None = None
    """None: it is new, or of a version that had no births."""
    known: int = 0
    """How many of `Bucket.contents` it has rows for."""


@dataclass(frozen=True)
class Suspicion:
    """A signature that found more contents that were open before than can be believed."""

    signature: str
    since: datetime
    held: int
    """Contents that it found and that are still there; counted up to a bound."""


@dataclass(frozen=True)
class Orphans:
    """Objects that have no row, as the last sweep saw them."""

    swept_at: datetime
    listed: int
    """Objects in all."""
    count: int
    bytes: int
    kept: bool
    """They are too many to be removed without a person's word."""
    since: datetime | None = None
    """When the first of those that are kept was seen."""
    released_at: datetime | None = None
    """What was first seen up to then may go: a person has said so."""


@dataclass(frozen=True)
class Notes:
    """What sweeps and scan workers have written down for a person."""

    suspicions: tuple[Suspicion, ...] = ()
    """The oldest few of those that nobody has said to be right."""
    orphans: Orphans | None = None
    """None: nothing was swept yet."""


@dataclass(frozen=True)
class Api:
    shape: ApiShape | None
    """What it was started with; None: it was not started, or not all that belongs to it is as declared."""
    wanted: int = 0
    ready: int = 0
    """Replicas that answer."""
    trouble: str | None = None
    """Why replicas keep ending, when they do."""
    rolling: bool = False
    """Replicas of an earlier shape are still being replaced."""


@dataclass(frozen=True)
class Scanner:
    """`status` and `reason` as in a condition."""

    status: Status
    reason: str
    detail: str
    """What it is and which signatures it has, or why there is none."""
    canary_due: bool = False
    """It is time to send the test virus through this tenant's own path again."""


@dataclass(frozen=True)
class Workers:
    shape: WorkerShape | None
    """What they were last told; None: nothing yet."""
    trouble: Mapping[str, str] = field(default_factory=dict)
    """Kind of work -> why its workers keep failing."""
    waiting: Mapping[str, str] = field(default_factory=dict)
    """Kind of work -> why none of its workers has come up for minutes, or none is let in."""
    outdated: tuple[str, ...] = ()
    """Names of those that never came up and would be made otherwise now."""


@dataclass(frozen=True)
class Failure:
    """Of a step in this pass; `detail` is a sentence without secrets."""

    detail: str
    reason: str = ""
    """One CamelCase word for the condition; default `<Step>Failed`."""


@dataclass(frozen=True)
class ObservedState:
    """One look at everything."""

    bucket: Bucket | Unreachable
    database: Database | Unreachable
    signing_keys: SigningKeys
    policy: Policy | Unreachable | None
    """As last applied; None: none."""
    scanner: Scanner
    api: Api | Unreachable
    workers: Workers | Unreachable
    notes: Notes | Unreachable = Notes()
    store_key: StoreKey | Unreachable | None = None
    """None: the store needs none."""
    cluster: str = ""
    """The uid of its kube-system namespace; empty on a single machine."""
    rival: str | None = None
    """Another tenant, declared earlier, that has the same id or bucket."""
    host_rival: str | None = None
    """Another tenant that is served at the same host."""
    has_finalizer: bool | None = None
    """Whether the resource bears our finalizer; None: there is no such thing here."""
    stopped: bool | Unreachable = False
    """While deleting: none of its pods is left."""
    failures: Mapping[str, Failure] = field(default_factory=dict)
    """Step name -> why it has just failed."""
    unfinished: Mapping[str, str] = field(default_factory=dict)
    """Step name -> how far it has just come; it goes on in the next pass."""

    @property
    def is_certain(self) -> bool:
        seen = (self.bucket, self.database, self.policy, self.api, self.workers, self.store_key, self.stopped)
        return not self.failures and not any(isinstance(each, Unreachable) for each in seen)
