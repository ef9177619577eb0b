"""What can be done for a tenant. Every step may be applied twice."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from media_core.policy import Policy
from media_operator.plan.desired import ApiShape, WorkerShape
from media_operator.tenant.ownership import OwnerMark


@dataclass(frozen=True)
class HoldDeletion:
    """The resource gets our finalizer: its data has to go before it may."""


@dataclass(frozen=True)
class ReleaseDeletion:
    """The resource loses our finalizer."""


@dataclass(frozen=True)
class CreateBucket:
    """Also takes over one that may be adopted."""

    bucket: str
    owner: OwnerMark
    adopt: bool = False


@dataclass(frozen=True)
class MakeStoreKey:
    """A new key, limited to this tenant's prefix; those that are out keep working."""

    tenant_id: str
    bucket: str
    rotation: str


@dataclass(frozen=True)
class RevokeStoreKeys:
    """All of the tenant's keys but the current one."""

    tenant_id: str


@dataclass(frozen=True)
class CreateDatabase:
    """Schema and role `schema`, the role seeing this schema only. Also takes over what may be adopted."""

    schema: str
    owner: OwnerMark
    adopt: bool = False


@dataclass(frozen=True)
class MigrateDatabase:
    schema: str
    first: bool = False
    """It holds no table yet, so no worker goes by the rules of an earlier version."""


@dataclass(frozen=True)
class WriteBirth:
    """The bucket takes this schema for its own. `renew`: the schema is another one from now on, so that a mark which
    is given up is never taken for its own again."""

    schema: str
    bucket: str
    tenant_id: str
    renew: bool = False


@dataclass(frozen=True)
class MakeSigningKey:
    """A new key signs from now on; the one before it is believed until the next is made."""

    tenant_id: str
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
    """Workers that never came up, so that others can be made as declared."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class SendCanary:
    """The test virus, through the tenant's own store, rows, queue and worker."""

    tenant_id: str


@dataclass(frozen=True)
class TrustSignatures:
    """What these find is infected, however much it is."""

    schema: str
    signatures: tuple[str, ...]


@dataclass(frozen=True)
class ReleaseOrphans:
    """The next sweep may remove what was first seen without a row up to `until`."""

    schema: str
    until: datetime


@dataclass(frozen=True)
class StopWorkloads:
    """Api and workers, before what they write to goes."""

    tenant_id: str


@dataclass(frozen=True)
class DeleteBucket:
    """With all that is in it; may take several passes."""

    bucket: str
    owner: OwnerMark


@dataclass(frozen=True)
class DropDatabase:
    """Schema, role, and the store's keys."""

    schema: str
    owner: OwnerMark


Step = (
    HoldDeletion
    | ReleaseDeletion
    | CreateBucket
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
    """A long step has come so far and goes on in the next pass; the text says how far."""
