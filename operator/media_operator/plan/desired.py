"""What the spec asks for: whose bucket and schema have to be, the limits, and what api and workers are started with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from media_core.policy import Policy
from media_core.quota import MIB
from media_operator.tenant.ownership import OwnerMark
from media_operator.tenant.spec import MediaTenant, Oidc, Resources

THUMBNAIL_WORKERS = 2
"""Most thumbnail workers at a time. Not in the spec: images get theirs in the api, only videos come this way."""


@dataclass(frozen=True)
class ApiShape:
    """What the api is started with; another shape means starting it anew."""

    replicas: int
    """0: the autoscaler's number."""
    host: str | None
    oidc: Oidc | None
    resources: Resources


@dataclass(frozen=True)
class WorkerShape:
    """How many workers of each kind may run, and what the next ones are started with."""

    parallel: Mapping[str, int]
    model: str
    device: str
    compute_type: str


def owner_mark_of(tenant: MediaTenant, cluster: str) -> OwnerMark:
    """The mark on bucket and schema. Where resources have no uid (a single machine) it is the tenant's id."""
    metadata = tenant.metadata
    if not metadata.uid:
        return OwnerMark(tenant.tenant_id)
    return OwnerMark(metadata.uid, f"{metadata.namespace}/{metadata.name}", cluster, bucket=tenant.bucket)


def policy_of(tenant: MediaTenant) -> Policy:
    spec = tenant.spec
    return Policy(
        max_bytes=spec.quota.max_storage_mb * MIB,
        max_upload_bytes=spec.quota.max_upload_mb * MIB,
        max_transcription_seconds_per_day=spec.quota.max_transcription_minutes_per_day * 60,
        scan_enabled=spec.scan.enabled,
        pending_access=spec.scan.pending_access,
        unscannable=spec.scan.unscannable,
        transcription_enabled=spec.transcription.enabled,
        suspended=spec.suspended,
        generation=tenant.metadata.generation,
    )


def api_shape_of(tenant: MediaTenant) -> ApiShape:
    api = tenant.spec.api
    return ApiShape(0 if api.autoscaling else api.replicas, api.host, tenant.spec.auth.oidc, api.resources)


def worker_shape_of(tenant: MediaTenant) -> WorkerShape:
    scan, transcription = tenant.spec.scan, tenant.spec.transcription
    parallel = {
        "scan": scan.max_parallel if scan.enabled else 0,
        "transcribe": transcription.max_parallel if transcription.enabled else 0,
        "thumbnail": THUMBNAIL_WORKERS,
    }
    if tenant.spec.suspended:
        parallel = dict.fromkeys(parallel, 0)
    return WorkerShape(parallel, transcription.model, transcription.device, transcription.compute_type)
