"""What a tenant is on a cluster, as plain dicts: pure functions of its spec, the settings and its secrets.

Exactly the fields that we mean are here, nothing that the API server would fill in: what is not here belongs to others
(an autoscaler's replicas, a mesh's sidecar). `matches` tells without a write whether an object is as it has to be.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from media_core.plan import THUMBNAIL_WORKERS
from media_core.spec import MediaTenant, Resources
from media_operator import kinds
from media_operator.kinds import Kind, Object, child_name
from media_operator.settings import PlatformSettings, StoreAdminSettings

DATABASE_URL = "database-url"
S3_KEY_ID = "s3-access-key-id"
S3_SECRET = "s3-secret-access-key"  # noqa: S105  a name
SIGNING_KEYS = "signing-keys.json"

PORT, METRICS_PORT = 8080, 9090
USER = 65532
"""Of the images."""
DRAIN_SECONDS = 5
"""Between a pod's leaving the Service and its SIGTERM, so that no request meets a closed port."""
SHUTDOWN_SECONDS = 60
"""What uploads in flight get after that."""
DECODING_PROCESSES = 2
API_RESOURCES = Resources.model_validate(
    # One process of about 250 MiB, and two decoding children of at most 700 MiB each on the largest pictures.
    {"requests": {"cpu": "100m", "memory": "384Mi"}, "limits": {"memory": "2Gi"}}
)
WORKER_RESOURCES = {
    "scan": Resources.model_validate({"requests": {"cpu": "100m", "memory": "160Mi"}, "limits": {"memory": "512Mi"}}),
    "thumbnail": Resources.model_validate(
        {"requests": {"cpu": "250m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}
    ),
    # faster-whisper's `small` in int8, and one window of decoded audio.
    "transcribe": Resources.model_validate({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}),
}
SHORT_JOBS = Resources.model_validate({"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}})
"""Of sweep and rescan."""
WORKER_GRACE = {"transcribe": 60, "scan": 30, "thumbnail": 30}
"""After SIGTERM a worker hands its job back."""
LINGER_SECONDS = 5
"""An idle worker waits so long for more: a second file right after the first finds it warm."""
MODELS, MODELS_SIZE = "/models-cache", "20Gi"
RETRYABLE = 75
"""EX_TEMPFAIL: what a worker ends with when a dependency is away."""
WORKER_POOL = 4
"""Connections that one worker opens at most."""
SECURITY = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}


@dataclass(frozen=True)
class Inputs:
    """What is known of a tenant beside its spec."""

    credentials: Mapping[str, str] = field(repr=False)
    """`DATABASE_URL`, `S3_KEY_ID`, `S3_SECRET`."""
    jwks: str
    """Public keys, a JWK Set."""
    oidc_jwks_uri: str | None = None
    connection_limit: int = 60
    """Of the tenant's database role."""


# --- secrets ---------------------------------------------------------------------------------------------------------


def credentials_secret(tenant: MediaTenant, values: Mapping[str, str], *, rotation: str = "") -> Object:
    return _secret(tenant, "credentials", values, rotation)


def signing_keys_secret(tenant: MediaTenant, keys: str, *, rotation: str = "") -> Object:
    """Private keys: for whoever issues tokens. No pod of the tenant mounts it."""
    return _secret(tenant, "signing-keys", {SIGNING_KEYS: keys}, rotation)


def _secret(tenant: MediaTenant, part: str, values: Mapping[str, str], rotation: str) -> Object:
    body = _object(tenant, kinds.SECRET, part)
    body["metadata"]["annotations"] = {kinds.CHECKSUM: _hash(dict(values)), kinds.ROTATE_KEYS: rotation}
    encoded = {name: base64.b64encode(value.encode()).decode() for name, value in values.items()}
    return {**body, "type": "Opaque", "data": encoded}


def secret_values(secret: Object) -> dict[str, str]:
    return {name: base64.b64decode(value).decode() for name, value in (secret.get("data") or {}).items()}


def secret_is_intact(secret: Object) -> bool:
    """Whether its data is what we wrote."""
    try:
        values = secret_values(secret)
    except ValueError:
        return False
    return bool(secret["metadata"].get("annotations", {}).get(kinds.CHECKSUM) == _hash(values))


def credentials_hash(credentials: Mapping[str, str]) -> str:
    return _hash(dict(credentials))


# --- the tenant's objects --------------------------------------------------------------------------------------------


def endpoint(tenant: MediaTenant, platform: PlatformSettings) -> str:
    """Base URL of the api: its public host, else the Service's name in the cluster."""
    host = tenant.spec.api.host
    if host is None:
        return f"http://{child_name(tenant.tenant_id)}.{tenant.metadata.namespace}.svc"
    return f"{'https' if platform.cluster_issuer or platform.gateway else 'http'}://{host}"


def workloads(
    tenant: MediaTenant, platform: PlatformSettings, store: StoreAdminSettings, inputs: Inputs
) -> list[Object]:
    """All but Secrets and Jobs, in the order of `kinds.CHILDREN`."""
    api, suspended = tenant.spec.api, tenant.spec.suspended
    scaled = api.autoscaling is not None and not suspended
    most = api.autoscaling.max if scaled and api.autoscaling else 1 if suspended else api.replicas
    objects = [
        _object(tenant, kinds.SERVICE_ACCOUNT) | {"automountServiceAccountToken": False},
        _object(tenant, kinds.CONFIG_MAP) | {"data": {"jwks.json": inputs.jwks}},
        _api_policy(tenant, platform, store, inputs),
        _worker_policy(tenant, platform, store, inputs),
        _deployment(tenant, platform, store, inputs, None if scaled else most, most),
        _service(tenant),
    ]
    if tenant.spec.namespace_quota is not None:
        objects.append(_resource_quota(tenant))
    if most >= 2:  # a budget over a single pod would only block drains
        objects.append(_budget(tenant))
    if scaled:
        objects.append(_autoscaler(tenant))
    if api.host is not None:
        objects.append(_http_route(tenant, platform) if platform.gateway else _ingress(tenant, platform))
    objects.append(_cron_job(tenant, platform, store, inputs, "sweep", f"{_minute(tenant)} * * * *"))
    if tenant.spec.scan.enabled:
        objects.append(_cron_job(tenant, platform, store, inputs, "rescan", tenant.spec.scan.rescan_schedule))
    order = {kind: number for number, kind in enumerate(kinds.CHILDREN)}
    return sorted(objects, key=lambda each: order[kinds.of(each)])


def _deployment(
    tenant: MediaTenant,
    platform: PlatformSettings,
    store: StoreAdminSettings,
    inputs: Inputs,
    replicas: int | None,
    most: int,
) -> Object:
    """Replicas are left to the autoscaler where there is one."""
    labels = _selector(tenant)
    environment = {
        **_environment(tenant, platform, store),
        "MEDIA_API_HOST": "0.0.0.0",  # noqa: S104  in a pod
        "MEDIA_API_PORT": str(PORT),
        "MEDIA_API_METRICS_HOST": "0.0.0.0",  # noqa: S104
        "MEDIA_API_METRICS_PORT": str(METRICS_PORT),
        "MEDIA_API_SHUTDOWN_SECONDS": str(SHUTDOWN_SECONDS),
        "MEDIA_DATABASE_POOL": str(api_pool(tenant, most, inputs.connection_limit)),
        "MEDIA_DECODING_PROCESSES": str(DECODING_PROCESSES),
        "MEDIA_PUBLIC_URL": endpoint(tenant, platform),
        **_auth(tenant, inputs),
    }
    probe = {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 3, "timeoutSeconds": 3}
    container = {
        "name": "api",
        "image": platform.api_image,
        "imagePullPolicy": platform.image_pull_policy,
        "ports": [
            {"name": "http", "containerPort": PORT, "protocol": "TCP"},
            {"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"},
        ],
        "env": _variables(tenant, environment),
        "resources": _resources(tenant.spec.api.resources, API_RESOURCES),
        "startupProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1, "failureThreshold": 60},
        "readinessProbe": {**probe, "failureThreshold": 2},
        # Whether the process itself lives; a dependency that is away is no reason to restart it.
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": "http"},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
        "lifecycle": {"preStop": {"sleep": {"seconds": DRAIN_SECONDS}}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": SECURITY,
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  a volume of the pod's own
            {"name": "jwks", "mountPath": "/etc/media/jwks", "readOnly": True},
        ],
    }
    pod = {
        **_pod(tenant, platform, platform.api_priority_class),
        "terminationGracePeriodSeconds": DRAIN_SECONDS + SHUTDOWN_SECONDS + 10,
        "containers": [container],
        "volumes": [
            {"name": "tmp", "emptyDir": {"sizeLimit": "256Mi"}},
            # A folder, not a subPath: rotated keys reach running pods.
            {"name": "jwks", "configMap": {"name": child_name(tenant.tenant_id)}},
        ],
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": key,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": labels},
            }
            for key in ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
        ],
    }
    # The JWKS is read again by itself; new credentials need new pods.
    annotations = {kinds.CREDENTIALS: credentials_hash(inputs.credentials)}
    template = {"metadata": {"labels": _labels(tenant, "api"), "annotations": annotations}, "spec": pod}
    spec: Object = {
        "selector": {"matchLabels": labels},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "25%"}},
        "revisionHistoryLimit": 3,
        "progressDeadlineSeconds": 600,
        "template": template,
    }
    if replicas is not None:
        spec["replicas"] = replicas
    return _object(tenant, kinds.DEPLOYMENT) | {"spec": spec}


def api_pool(tenant: MediaTenant, most: int, limit: int) -> int:
    """Connections of one api pod, so that all pods together stay within the role's limit.

    What workers may take at most (4 each) goes first, but never more than half; the rest is shared by the most api pods
    that there may be, and the quarter more that a roll adds. At least 2, at most 10.
    """
    scan, transcription = tenant.spec.scan, tenant.spec.transcription
    workers = WORKER_POOL * (scan.max_parallel + transcription.max_parallel + THUMBNAIL_WORKERS + 1)
    pods = most + max(1, -(-most // 4))
    return max(2, min(10, (limit - min(workers, limit // 2)) // pods))


def _service(tenant: MediaTenant) -> Object:
    ports = [
        {"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP", "appProtocol": "http"},
        {"name": "metrics", "port": METRICS_PORT, "targetPort": "metrics", "protocol": "TCP", "appProtocol": "http"},
    ]
    return _object(tenant, kinds.SERVICE) | {
        "spec": {"type": "ClusterIP", "selector": _selector(tenant), "ports": ports}
    }


def _budget(tenant: MediaTenant) -> Object:
    spec = {
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": _selector(tenant)},
    }
    return _object(tenant, kinds.PDB) | {"spec": spec}


def _autoscaler(tenant: MediaTenant) -> Object:
    scaling = tenant.spec.api.autoscaling
    assert scaling is not None  # noqa: S101 (the caller asked)
    name = child_name(tenant.tenant_id)
    target = {"type": "Utilization", "averageUtilization": scaling.target_cpu}
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
        "minReplicas": scaling.min,
        "maxReplicas": scaling.max,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        "behavior": {
            "scaleDown": {
                "stabilizationWindowSeconds": 300,
                "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
            }
        },
    }
    return _object(tenant, kinds.HPA) | {"spec": spec}


def _ingress(tenant: MediaTenant, platform: PlatformSettings) -> Object:
    name, host = child_name(tenant.tenant_id), tenant.spec.api.host
    body = _object(tenant, kinds.INGRESS)
    annotations: dict[str, str] = json.loads(platform.ingress_annotations or "{}")
    backend = {"service": {"name": name, "port": {"name": "http"}}}
    spec: Object = {
        "rules": [{"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}]
    }
    if platform.ingress_class:
        spec["ingressClassName"] = platform.ingress_class
    if platform.cluster_issuer:
        annotations["cert-manager.io/cluster-issuer"] = platform.cluster_issuer
        spec["tls"] = [{"hosts": [host], "secretName": child_name(tenant.tenant_id, "tls")}]
    if annotations:
        body["metadata"]["annotations"] = annotations
    return body | {"spec": spec}


def _http_route(tenant: MediaTenant, platform: PlatformSettings) -> Object:
    namespace, _, gateway = platform.gateway.partition("/")
    reference = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": namespace, "name": gateway}
    backend = {"group": "", "kind": "Service", "name": child_name(tenant.tenant_id), "port": 80, "weight": 1}
    match = {"path": {"type": "PathPrefix", "value": "/"}}
    spec = {
        "parentRefs": [reference],
        "hostnames": [tenant.spec.api.host],
        "rules": [{"matches": [match], "backendRefs": [backend]}],
    }
    return _object(tenant, kinds.HTTP_ROUTE) | {"spec": spec}


def _resource_quota(tenant: MediaTenant) -> Object:
    asked = tenant.spec.namespace_quota
    assert asked is not None  # noqa: S101 (the caller asked)
    hard = {
        "requests.cpu": asked.cpu,
        "requests.memory": asked.memory,
        "pods": None if asked.pods is None else str(asked.pods),
        "count/jobs.batch": None if asked.jobs is None else str(asked.jobs),
    }
    given = {name: value for name, value in hard.items() if value is not None}
    return _object(tenant, kinds.RESOURCE_QUOTA) | {"spec": {"hard": given}}


def _api_policy(tenant: MediaTenant, platform: PlatformSettings, store: StoreAdminSettings, inputs: Inputs) -> Object:
    ports = {_port(store.endpoint), _port(inputs.credentials[DATABASE_URL])}
    if tenant.spec.auth.oidc is not None:
        ports.add(_port(inputs.oidc_jwks_uri or "https://"))
    return _object(tenant, kinds.NETWORK_POLICY, "api") | {
        "spec": {
            "podSelector": {"matchLabels": _selector(tenant)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"ports": [_tcp("http"), _tcp("metrics")]}],
            "egress": [_DNS, {"ports": [_tcp(port) for port in sorted(ports)]}],
        }
    }


def _worker_policy(
    tenant: MediaTenant, platform: PlatformSettings, store: StoreAdminSettings, inputs: Inputs
) -> Object:
    ports = {_port(store.endpoint), _port(inputs.credentials[DATABASE_URL]), platform.clamd_port}
    if tenant.spec.transcription.enabled:
        ports.add(443)  # models are downloaded
    selector = {kinds.TENANT_LABEL: tenant.tenant_id, "app.kubernetes.io/component": "worker"}
    return _object(tenant, kinds.NETWORK_POLICY, "workers") | {
        "spec": {
            "podSelector": {"matchLabels": selector},
            "policyTypes": ["Ingress", "Egress"],
            "egress": [_DNS, {"ports": [_tcp(port) for port in sorted(ports)]}],
        }
    }


_DNS: Object = {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}


def _tcp(port: int | str) -> Object:
    return {"protocol": "TCP", "port": port}


def _port(url: str) -> int:
    parts = urlsplit(url)
    return parts.port or {"http": 80, "https": 443}.get(parts.scheme, 5432)


# --- workers ---------------------------------------------------------------------------------------------------------


def job(
    tenant: MediaTenant,
    platform: PlatformSettings,
    store: StoreAdminSettings,
    *,
    kind: str,
    name: str,
    credentials: Mapping[str, str],
) -> Object:
    """A worker that drains one kind of work and ends by itself."""
    body = _object(tenant, kinds.JOB)
    body["metadata"]["name"] = name
    body["metadata"]["labels"] = _labels(tenant, "worker") | {kinds.WORK_LABEL: kind}
    body["metadata"]["annotations"] = {kinds.CREDENTIALS: credentials_hash(credentials)}
    spec = _job_spec(tenant, platform, store, kind)
    if platform.kueue_queue:
        body["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = platform.kueue_queue
        spec["suspend"] = True  # until Kueue admits it
    return body | {"spec": spec}


def _cron_job(
    tenant: MediaTenant,
    platform: PlatformSettings,
    store: StoreAdminSettings,
    inputs: Inputs,
    kind: str,
    schedule: str,
) -> Object:
    annotations = {kinds.CREDENTIALS: credentials_hash(inputs.credentials)}
    template = {
        "metadata": {"labels": _labels(tenant, "worker"), "annotations": annotations},
        "spec": _job_spec(tenant, platform, store, kind),
    }
    spec = {
        "schedule": schedule,
        "timeZone": "Etc/UTC",
        "suspend": tenant.spec.suspended,
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": 600,
        "successfulJobsHistoryLimit": 1,
        "failedJobsHistoryLimit": 1,
        "jobTemplate": template,
    }
    return _object(tenant, kinds.CRON_JOB, kind) | {"spec": spec}


def _job_spec(tenant: MediaTenant, platform: PlatformSettings, store: StoreAdminSettings, kind: str) -> Object:
    """The queue's row is the truth; a Job is worth two more tries, and none where it would fail again.

    A pod that its node lost (disruption) is replaced and not counted. One that says that a dependency is away (75), or
    was killed for memory or by a signal (137, 143), is tried again. Any other end is a bug: the Job fails at once, and
    the dispatcher waits longer each time before it makes the next one.
    """
    rules = [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {
            "action": "FailJob",
            "onExitCodes": {"containerName": "worker", "operator": "NotIn", "values": [RETRYABLE, 137, 143]},
        },
    ]
    labels = _labels(tenant, "worker") | {kinds.WORK_LABEL: kind}
    return {
        "backoffLimit": 2,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": rules},
        "activeDeadlineSeconds": platform.job_deadline_seconds,
        "ttlSecondsAfterFinished": platform.job_ttl_seconds,
        "template": {"metadata": {"labels": labels}, "spec": _worker_pod(tenant, platform, store, kind)},
    }


def _worker_pod(tenant: MediaTenant, platform: PlatformSettings, store: StoreAdminSettings, kind: str) -> Object:
    transcription = tenant.spec.transcription
    environment = {
        **_environment(tenant, platform, store),
        "MEDIA_DATABASE_POOL": str(WORKER_POOL),
        "MEDIA_WORKER_LINGER_SECONDS": str(LINGER_SECONDS),
    }
    mounts = [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108  a volume of the pod's own
    volumes: list[Object] = [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}]
    pod = _pod(tenant, platform, platform.job_priority_class)
    runtime = platform.job_runtime_class
    resources = WORKER_RESOURCES.get(kind, SHORT_JOBS)
    if kind in ("scan", "rescan"):
        environment |= {"MEDIA_CLAMD_HOST": platform.clamd_host, "MEDIA_CLAMD_PORT": str(platform.clamd_port)}
    if kind == "transcribe":
        environment |= {
            "MEDIA_WHISPER_MODEL": transcription.model,
            "MEDIA_WHISPER_DEVICE": transcription.device,
            "MEDIA_WHISPER_COMPUTE_TYPE": transcription.compute_type,
            "MEDIA_WHISPER_DOWNLOAD_ROOT": MODELS,
        }
        mounts.append({"name": "models", "mountPath": MODELS})
        claim = transcription.model_cache
        kept = {"persistentVolumeClaim": {"claimName": claim}} if claim else {"emptyDir": {"sizeLimit": MODELS_SIZE}}
        volumes.append({"name": "models", **kept})
        if claim:
            pod["securityContext"] = {**POD_SECURITY, "fsGroup": USER, "fsGroupChangePolicy": "OnRootMismatch"}
        if transcription.node_selector:
            pod["nodeSelector"] = dict(transcription.node_selector)
        if transcription.tolerations:
            pod["tolerations"] = [
                {name: value for name, value in each.model_dump(by_alias=True).items() if value not in ("", None)}
                for each in transcription.tolerations
            ]
        runtime = transcription.runtime_class or runtime
    if runtime:
        pod["runtimeClassName"] = runtime
    container = {
        "name": "worker",
        "image": platform.worker_image,
        "imagePullPolicy": platform.image_pull_policy,
        "args": [kind],
        "env": _variables(tenant, environment),
        "resources": _resources(transcription.resources if kind == "transcribe" else Resources(), resources),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": SECURITY,
        "volumeMounts": mounts,
    }
    return {
        **pod,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": WORKER_GRACE.get(kind, 30),
        "containers": [container],
        "volumes": volumes,
    }


# --- parts -----------------------------------------------------------------------------------------------------------


def _object(tenant: MediaTenant, kind: Kind, part: str = "") -> Object:
    component = "worker" if part in ("workers", "sweep", "rescan") else "api"
    owner = {
        "apiVersion": kinds.MEDIA_TENANT.api_version,
        "kind": kinds.MEDIA_TENANT.kind,
        "name": tenant.metadata.name,
        "uid": tenant.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": False,  # a tenant that is deleted waits for nothing but its data
    }
    return {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": {
            "name": child_name(tenant.tenant_id, part),
            "namespace": tenant.metadata.namespace,
            "labels": _labels(tenant, component),
            "ownerReferences": [owner],
        },
    }


def _labels(tenant: MediaTenant, component: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": f"media-{component}",
        "app.kubernetes.io/instance": tenant.tenant_id,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/part-of": "media-platform",
        kinds.MANAGED_BY: kinds.MANAGER,
        kinds.TENANT_LABEL: tenant.tenant_id,
    }


def _selector(tenant: MediaTenant) -> dict[str, str]:
    """Of the api's pods."""
    return {kinds.TENANT_LABEL: tenant.tenant_id, "app.kubernetes.io/component": "api"}


def _pod(tenant: MediaTenant, platform: PlatformSettings, priority_class: str) -> Object:
    pod: Object = {
        "serviceAccountName": child_name(tenant.tenant_id),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": POD_SECURITY,
    }
    if secrets := [name for each in platform.image_pull_secrets.split(",") if (name := each.strip())]:
        pod["imagePullSecrets"] = [{"name": name} for name in secrets]
    if priority_class:
        pod["priorityClassName"] = priority_class
    return pod


def _environment(tenant: MediaTenant, platform: PlatformSettings, store: StoreAdminSettings) -> dict[str, str]:
    """Of api and workers alike; what is secret comes from the Secret, see `_variables`."""
    public = {"MEDIA_S3_PUBLIC_ENDPOINT": store.public_endpoint} if store.public_endpoint else {}
    return {
        "MEDIA_TENANT_ID": tenant.tenant_id,
        "MEDIA_STORE": "s3",
        "MEDIA_S3_ENDPOINT": store.endpoint,
        **public,
        "MEDIA_S3_BUCKET": tenant.bucket,
        "MEDIA_S3_REGION": store.region,
        "MEDIA_LOG_LEVEL": platform.log_level,
    }


def _auth(tenant: MediaTenant, inputs: Inputs) -> dict[str, str]:
    oidc = tenant.spec.auth.oidc
    if oidc is None:
        return {"MEDIA_JWKS_FILE": "/etc/media/jwks/jwks.json"}
    return {
        "MEDIA_OIDC_ISSUER": oidc.issuer,
        "MEDIA_OIDC_AUDIENCE": oidc.audience or tenant.tenant_id,
        "MEDIA_OIDC_JWKS_URI": inputs.oidc_jwks_uri or "",
    }


def _variables(tenant: MediaTenant, plain: Mapping[str, str]) -> list[Object]:
    secret = child_name(tenant.tenant_id, "credentials")
    hidden = {
        "MEDIA_DATABASE_URL": DATABASE_URL,
        "MEDIA_S3_ACCESS_KEY_ID": S3_KEY_ID,
        "MEDIA_S3_SECRET_ACCESS_KEY": S3_SECRET,
    }
    return [
        *({"name": name, "value": value} for name, value in plain.items()),
        *({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}} for name, key in hidden.items()),
    ]


def _resources(asked: Resources, default: Resources) -> Object:
    chosen = asked if asked.requests or asked.limits else default
    both = {"requests": dict(chosen.requests), "limits": dict(chosen.limits)}
    return {name: values for name, values in both.items() if values}


def _minute(tenant: MediaTenant) -> int:
    """So that not all tenants are swept in the same minute."""
    return int(hashlib.sha256(tenant.tenant_id.encode()).hexdigest(), 16) % 60


# --- drift -----------------------------------------------------------------------------------------------------------


def stamped(wanted: Object) -> Object:
    """With the hash by which `matches` knows that it is what was applied last."""
    metadata = wanted["metadata"]
    annotations = {**metadata.get("annotations", {}), kinds.APPLIED: _hash(wanted)}
    return {**wanted, "metadata": {**metadata, "annotations": annotations}}


def matches(wanted: Object, live: Object) -> bool:
    """Whether all of `wanted` (stamped) is in `live`, whatever else is there.

    The hash tells of fields that are not wanted any more; the comparison of those that somebody changed.
    """
    return _contains(live, wanted)


_MERGE_KEYS = ("name", "containerPort", "port", "type", "topologyKey", "uid")
_QUANTITY = re.compile(r"^([0-9]+(?:\.[0-9]+)?)(m|k|Ki|M|Mi|G|Gi|T|Ti|)$")
_FACTORS = {
    "m": Decimal("0.001"),
    "": Decimal(1),
    "k": Decimal(10) ** 3,
    "M": Decimal(10) ** 6,
    "G": Decimal(10) ** 9,
    "T": Decimal(10) ** 12,
    "Ki": Decimal(2) ** 10,
    "Mi": Decimal(2) ** 20,
    "Gi": Decimal(2) ** 30,
    "Ti": Decimal(2) ** 40,
}


def _contains(live: Any, wanted: Any) -> bool:
    match wanted:
        case dict():
            return all(
                _contains(live.get(key), value) if isinstance(live, dict) else _is_empty(value)
                for key, value in wanted.items()
            )
        case list():
            return _contains_list(live or [], wanted)
        case _ if _is_empty(wanted):
            return _is_empty(live)
        case bool():
            return bool(live is wanted)
        case _:
            return live == wanted or _quantity(live) == _quantity(wanted) is not None


def _contains_list(live: Sequence[Any], wanted: Sequence[Any]) -> bool:
    """Lists of named things may hold others' beside ours; all others are as they are."""
    if len(live) == len(wanted) and all(map(_contains, live, wanted)):
        return True
    merge_key = next((key for key in _MERGE_KEYS if wanted and all(_has(each, key) for each in wanted)), None)
    if merge_key is None:
        return False
    there = {str(each.get(merge_key)): each for each in live if isinstance(each, dict)}
    return all(_contains(there.get(str(each[merge_key])), each) for each in wanted)


def _has(value: Any, key: str) -> bool:
    return isinstance(value, dict) and key in value


def _is_empty(value: Any) -> bool:
    """What the API server leaves out, or says explicitly, as it likes."""
    return value in (None, "", 0, False, [], {})


def _quantity(value: Any) -> Decimal | None:
    found = _QUANTITY.match(str(value)) if isinstance(value, str | int) and not isinstance(value, bool) else None
    return Decimal(found[1]) * _FACTORS[found[2]] if found else None


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
