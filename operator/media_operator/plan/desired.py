"""What the spec asks for: the owner mark of bucket and schema, the limits, how api and workers are started."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from media_core.jobs.kinds import JOB_KINDS, KINDS
from media_core.transcripts.speech_models import translates
from media_operator.tenant.ownership import OwnerMark
from media_operator.tenant.spec import MediaTenant, Oidc, Resources


@dataclass(frozen=True)
class ApiShape:
    """What the api is started with. With another shape the api is started again."""

    replicas: int
    """0: the autoscaler decides."""
    host: str | None
    oidc: Oidc | None
    resources: Resources
    settings: Mapping[str, str]


@dataclass(frozen=True)
class BucketCors:
    """Which web apps may read what signed URLs of the bucket answer."""

    origins: tuple[str, ...]
    """At least one; `*.` stands for the first labels, as S3 has it."""
    max_age_seconds: int


@dataclass(frozen=True)
class WorkerShape:
    """How many workers of each kind may run, and what the next ones are started with."""

    parallel: Mapping[str, int]
    model: str
    device: str
    compute_type: str


def owner_mark_of(tenant: MediaTenant, cluster: str) -> OwnerMark:
    """The owner mark on bucket and schema. Where resources have no uid (a single machine) it is the tenant's id."""
    metadata = tenant.metadata
    if not metadata.uid:
        return OwnerMark(tenant.tenant_id)
    return OwnerMark(metadata.uid, f"{metadata.namespace}/{metadata.name}", cluster, bucket=tenant.bucket)


def api_settings(tenant: MediaTenant) -> dict[str, str]:
    """Environment variables of the api that follow from the spec alone, on a cluster as on one machine."""
    api, oidc, transcription = tenant.spec.api, tenant.spec.auth.oidc, tenant.spec.transcription
    settings = {"MEDIA_TRANSCRIPTION_SYNC_SECONDS": str(transcription.sync_seconds)}
    if api.cors.origins:
        settings["MEDIA_CORS_ORIGINS"] = ",".join(api.cors.origins)
        settings["MEDIA_CORS_MAX_AGE_SECONDS"] = str(api.cors.max_age_seconds)
    if api.signed_url_max_seconds != 300:
        settings["MEDIA_API_SIGNED_URL_MAX_SECONDS"] = str(api.signed_url_max_seconds)
    if api.upload_hours != 24:
        settings["MEDIA_UPLOAD_HOURS"] = str(api.upload_hours)
    if api.upload_draft:
        settings["MEDIA_UPLOAD_DRAFT"] = "true"
    if api.page:
        settings["MEDIA_PAGE"] = "true"
    if oidc is not None and oidc.page is not None and api.page:
        settings["MEDIA_PAGE_OIDC_CLIENT_ID"] = oidc.page.client_id
        settings["MEDIA_PAGE_OIDC_SCOPES"] = " ".join(oidc.page.scopes)
        if oidc.page.origins:
            settings["MEDIA_PAGE_OIDC_ORIGINS"] = ",".join(oidc.page.origins)
    if webhooks := tenant.spec.webhooks:
        told = [
            {"url": each.url, "events": sorted(each.events), "secret": f"{each.secret_ref.name}/{each.secret_ref.key}"}
            for each in webhooks
        ]
        settings["MEDIA_WEBHOOKS"] = json.dumps(told)
    if oidc is not None:
        named = oidc.claims.model_dump(exclude_defaults=True)
        settings |= {f"MEDIA_OIDC_CLAIM_{claim.upper()}": name for claim, name in named.items()}
    if transcription.enabled and not translates(transcription.model):
        # Only then does the api decide by it; else another model would start it anew for nothing.
        settings["MEDIA_WHISPER_MODEL"] = transcription.model
    return settings


def bucket_cors_of(tenant: MediaTenant) -> BucketCors | None:
    """The origins that may call the api, and that of its page. None: there are none."""
    api = tenant.spec.api
    origins = list(api.cors.origins)
    if api.page and api.host is not None:
        origins.append(f"https://{api.host}")
    return BucketCors(tuple(dict.fromkeys(origins)), api.cors.max_age_seconds) if origins else None


def api_shape_of(tenant: MediaTenant) -> ApiShape:
    api = tenant.spec.api
    return ApiShape(
        0 if api.autoscaling else api.replicas, api.host, tenant.spec.auth.oidc, api.resources, api_settings(tenant)
    )


def most_workers_of(tenant: MediaTenant) -> dict[str, int]:
    """Kind of job -> most workers at a time, as if the tenant was not suspended."""
    most = {}
    for kind in JOB_KINDS.values():
        section = getattr(tenant.spec, kind.section) if kind.section else None
        most[kind.name] = kind.max_workers if section is None else section.max_parallel if section.enabled else 0
    return most


def worker_shape_of(tenant: MediaTenant) -> WorkerShape:
    parallel = dict.fromkeys(KINDS, 0) if tenant.spec.suspended else most_workers_of(tenant)
    transcription = tenant.spec.transcription
    return WorkerShape(parallel, transcription.model, transcription.device, transcription.compute_type)
