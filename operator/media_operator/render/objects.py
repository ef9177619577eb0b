"""What all objects of a tenant have in common: owner, labels, and the defaults of every pod."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from media_operator.cluster import kinds
from media_operator.cluster.kinds import Kind, Object, child_name
from media_operator.settings import PlatformSettings
from media_operator.tenant.spec import MediaTenant, Toleration

SECURITY = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


@dataclass(frozen=True)
class Inputs:
    """What a tenant's objects are made of beside its spec."""

    credentials: Mapping[str, str] = field(repr=False)
    """What the tenant's Secret holds, such as `DATABASE_URL`, `S3_KEY_ID`, `S3_SECRET`."""
    jwks: str
    """Public keys, a JWK Set."""
    oidc_jwks_uri: str | None = None
    connection_limit: int = 60
    """Connection limit of the tenant's database role."""


def tenant_object(tenant: MediaTenant, kind: Kind, part: str = "") -> Object:
    component = "worker" if part in ("workers", "sweep", "rescan") else "api"
    owner = {
        "apiVersion": kinds.MEDIA_TENANT.api_version,
        "kind": kinds.MEDIA_TENANT.kind,
        "name": tenant.metadata.name,
        "uid": tenant.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": False,  # the deletion of a tenant waits only for its data
    }
    return {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": {
            "name": child_name(tenant.tenant_id, part),
            "namespace": tenant.metadata.namespace,
            "labels": labels_of(tenant, component),
            "ownerReferences": [owner],
        },
    }


def with_further(platform: PlatformSettings, body: Object) -> Object:
    """With the platform's further labels and annotations, also in its templates. Ours have the last word."""
    made = {name: with_further(platform, value) if name in _TO_PODS else value for name, value in body.items()}
    for name, further in (("labels", platform.labels), ("annotations", platform.annotations)):
        if further and "metadata" in body:
            made["metadata"] = {**made["metadata"], name: {**further, **body["metadata"].get(name, {})}}
    return made


_TO_PODS = ("spec", "jobTemplate", "template")
"""Fields on the way from an object to its pods' metadata."""


def labels_of(tenant: MediaTenant, component: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": f"media-{component}",
        "app.kubernetes.io/instance": tenant.tenant_id,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/part-of": "media-platform",
        kinds.MANAGED_BY: kinds.MANAGER,
        kinds.TENANT_LABEL: tenant.tenant_id,
    }


def api_selector(tenant: MediaTenant) -> dict[str, str]:
    """Labels that select the api's pods."""
    return {kinds.TENANT_LABEL: tenant.tenant_id, "app.kubernetes.io/component": "api"}


def pod_security(platform: PlatformSettings, *, shares_volume: bool = False) -> Object:
    """Of the "restricted" standard. Without a user of ours the cluster picks user and group (OpenShift)."""
    user = platform.run_as_user
    ids: Object = {} if user == "cluster" else {"runAsUser": user, "runAsGroup": user}
    made: Object = {"runAsNonRoot": True, **ids, "seccompProfile": {"type": "RuntimeDefault"}}
    if shares_volume:
        made |= ({} if user == "cluster" else {"fsGroup": user}) | {"fsGroupChangePolicy": "OnRootMismatch"}
    return made


def tolerations_of(asked: Sequence[Toleration]) -> list[Object]:
    return [
        {name: value for name, value in each.model_dump(by_alias=True).items() if value not in ("", None)}
        for each in asked
    ]


def pod_defaults(tenant: MediaTenant, platform: PlatformSettings, priority_class: str) -> Object:
    pod: Object = {
        "serviceAccountName": child_name(tenant.tenant_id),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(platform),
    }
    if secrets := [name for each in platform.image_pull_secrets.split(",") if (name := each.strip())]:
        pod["imagePullSecrets"] = [{"name": name} for name in secrets]
    if priority_class:
        pod["priorityClassName"] = priority_class
    if platform.node_selector:
        pod["nodeSelector"] = dict(platform.node_selector)
    if platform.tolerations:
        pod["tolerations"] = tolerations_of(platform.tolerations)
    return pod


def hash_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
