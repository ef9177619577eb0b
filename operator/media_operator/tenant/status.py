"""The status of a MediaTenant: what the operator has observed."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from media_operator.tenant.structural import Structural


class Condition(Structural):
    """One observation, in the form of Kubernetes' conditions."""

    type: str = Field(max_length=316)
    """What is observed, such as Ready or BucketReady."""
    status: Literal["True", "False", "Unknown"]
    """True: as it should be. False: it is not, see message. Unknown: the dependency could not be asked."""
    reason: str = Field(max_length=128)
    """One CamelCase word for programs; docs/runbook.md says what to do about each."""
    message: str = Field("", max_length=1024)
    """A sentence for people."""
    observed_generation: int = Field(ge=0)
    """The metadata.generation that this condition is about."""
    last_transition_time: datetime | None = None
    """When status last changed, UTC."""


class UsageStatus(Structural):
    """Coarse use of the quota; exact numbers are the api's `GET /v1/usage` and the metrics."""

    stored_mb: int = Field(0, ge=0)
    """MiB of stored content."""
    percent: int = Field(0, ge=0)
    """Stored content in percent of spec.quota.maxStorageMb; above 100 after the quota was lowered."""
    files_percent: int = Field(0, ge=0)
    """Files in percent of spec.quota.maxFiles; 0 without this limit."""
    used: str = Field("", max_length=32)
    """Stored content for people, such as 3 MiB; empty until it could be read."""
    quota: str = Field("", max_length=32)
    """spec.quota.maxStorageMb for people, such as 10 GiB."""


class TenantStatus(Structural):
    """What was observed last; written by the operator only."""

    conditions: list[Condition] = Field(
        [], max_length=16, json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
    )
    """One observation per type; Ready has reason and message of the first one that is not True."""
    observed_generation: int = Field(0, ge=0)
    """The metadata.generation that the conditions are about."""
    endpoint: str = Field("", max_length=512)
    """Base URL of the api."""
    bucket: str = Field("", max_length=63)
    """Name of the bucket."""
    usage: UsageStatus = UsageStatus()
    """Coarse use of the quota; GET /v1/usage has exact numbers."""
    replicas: int = Field(0, ge=0)
    """Number of existing api pods, for kubectl scale and autoscalers."""
    selector: str = Field("", max_length=512)
    """Label selector of the api pods, for autoscalers."""
