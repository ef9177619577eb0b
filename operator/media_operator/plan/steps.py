"""What can be done for a tenant. Every step may be applied twice."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from media_core.policy import Policy
from media_operator.plan.desired import ApiShape, BucketCors, WorkerShape
from media_operator.tenant.ownership import OwnerMark


@dataclass(frozen=True)
class HoldDeletion:
    """The resource gets our finalizer, so that its data is deleted before it."""


@dataclass(frozen=True)
class ReleaseDeletion:
    """The resource loses our finalizer."""


@dataclass(frozen=True)
class CreateBucket:
    """Also takes over a bucket that may be adopted."""

    bucket: str
    owner: OwnerMark
    adopt: bool = False
    filled: bool = False
    """A bucket without an owner mark is taken although it holds something, which belongs to the tenant's schema."""


@dataclass(frozen=True)
class AllowOrigins:
    """Lets web apps of these origins, and of no others that we let before, read signed URLs of the bucket."""

    bucket: str
    owner: OwnerMark
    cors: BucketCors | None


@dataclass(frozen=True)
class MakeStoreKey:
    """A new key, limited to this tenant's prefix. The keys before it keep working, a temporary one until its end."""

    tenant_id: str
    bucket: str
    rotation: str


@dataclass(frozen=True)
class RevokeStoreKeys:
    """All of the tenant's keys but the current one, and what the Secret holds for pods that are gone."""

    tenant_id: str


@dataclass(frozen=True)
class CreateDatabase:
    """Makes the schema and a role of that name, which sees this schema only. Also takes over what may be adopted."""

    schema: str
    owner: OwnerMark
    adopt: bool = False


@dataclass(frozen=True)
class MigrateDatabase:
    schema: str
    first: bool = False
    """The schema holds no table yet, so no worker of an earlier version has to end first."""


@dataclass(frozen=True)
class WriteBirth:
    """Writes the schema's birth to the bucket. `renew`: the schema gets a new birth first, so that the birth which was
    given up never matches again."""

    schema: str
    bucket: str
    tenant_id: str
    renew: bool = False


@dataclass(frozen=True)
class MakeSigningKey:
    """A new key signs from now on. Tokens of the key before it are accepted until the next key is made."""

    rotation: str = ""


@dataclass(frozen=True)
class ApplyPolicy:
    policy: Policy


@dataclass(frozen=True)
class RunApi:
    shape: ApiShape


@dataclass(frozen=True)
class ShapeWorkers:
    shape: WorkerShape


@dataclass(frozen=True)
class DropWorkers:
    """Deletes Jobs that never started, so that new ones can be made by the spec of now."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class SendCanary:
    """Sends the test virus through the tenant's own store, rows, queue and worker."""


@dataclass(frozen=True)
class TrustSignatures:
    """Contents that these find are infected, however many they are."""

    schema: str
    signatures: tuple[str, ...]


@dataclass(frozen=True)
class ReleaseOrphans:
    """The next sweep may remove orphans that were first seen up to `until`."""

    schema: str
    until: datetime


@dataclass(frozen=True)
class StopWorkloads:
    """Ends api and workers, before bucket and schema are deleted."""


@dataclass(frozen=True)
class DeleteBucket:
    """With all its objects; may take several passes."""

    bucket: str
    owner: OwnerMark


@dataclass(frozen=True)
class DropDatabase:
    """Drops schema and role, and removes the tenant's keys of the store."""

    schema: str
    owner: OwnerMark


Step = (
    HoldDeletion
    | ReleaseDeletion
    | CreateBucket
    | AllowOrigins
    | MakeStoreKey
    | RevokeStoreKeys
    | CreateDatabase
    | MigrateDatabase
    | WriteBirth
    | MakeSigningKey
    | ApplyPolicy
    | RunApi
    | ShapeWorkers
    | DropWorkers
    | SendCanary
    | TrustSignatures
    | ReleaseOrphans
    | StopWorkloads
    | DeleteBucket
    | DropDatabase
)


class StepFailed(Exception):
    """A step could not be applied; the text is a sentence without secrets, fit for a condition.

    `reason`: one CamelCase word for programs, default `<Step>Failed`.
    """

    def __init__(self, detail: str, reason: str = "") -> None:
        super().__init__(detail)
        self.reason = reason


class StepUnfinished(Exception):
    """A long step is not finished and goes on in the next pass; the text says how far it is."""
