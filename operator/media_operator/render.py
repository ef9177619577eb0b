"""What a tenant is on a cluster, as plain dicts: pure functions of its spec, the settings and its secrets.

Exactly the fields that we mean are here, nothing that the API server would fill in: what is not here belongs to others
(an autoscaler's replicas, a mesh's sidecar). `matches` tells without a write whether an object is as it has to be.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from kubernetes.utils.quantity import parse_quantity

from media_core.plan import THUMBNAIL_WORKERS
from media_core.spec import MediaTenant, Resources, Transcription
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
MIB = 1 << 20
GPU = "nvidia.com/gpu"
API_RESOURCES = Resources.model_validate(
    # 75 MiB at rest; what pictures and uploads take beside that comes and goes, up to the limit.
    {"requests": {"cpu": "100m", "memory": "160Mi"}, "limits": {"memory": "2Gi"}}
)
API_MEMORY, DECODING_MEMORY = 320 * MIB, 704 * MIB
"""Of the process, and of each of its decoding children at most: as many are started as fit the memory limit, since the
kernel ends the whole pod when one of them goes beyond it."""
WORKER_RESOURCES = {
    "scan": Resources.model_validate({"requests": {"cpu": "100m", "memory": "160Mi"}, "limits": {"memory": "512Mi"}}),
    "thumbnail": Resources.model_validate(
        # One decoding child.
        {"requests": {"cpu": "250m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}
    ),
}
MODEL_PARAMETERS = {"tiny": 39, "base": 74, "small": 244, "medium": 769, "turbo": 809, "large": 1550}
"""Of Whisper's models, in millions; the first name that is part of the model's says its size."""
SHORT_JOBS = Resources.model_validate({"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}})
"""Of sweep and rescan."""
WORKER_GRACE = {"transcribe": 60, "scan": 30, "thumbnail": 30}
"""After SIGTERM a worker hands its job back."""
LINGER_SECONDS = 5
"""An idle worker waits so long for more: a second file right after the first finds it warm."""
MISSED_SECONDS = 3600
"""How late a CronJob may still start, after an outage of the control plane: a rescan that is left out is a day lost."""
JWKS = "/etc/media/jwks"
MODELS, MODELS_SIZE = "/models-cache", "20Gi"
RETRYABLE = 75
"""EX_TEMPFAIL: what a worker ends with when a dependency is away."""
LOST = 255
"""What the container runtime says of a container that it does not find any more after the node was restarted."""
MOST_CONNECTIONS, MOST_WORKER_CONNECTIONS = 10, 4
"""Of one api pod, of one worker: more are of no use to them."""
OPERATOR_CONNECTIONS = 2
"""What the operator itself opens as the tenant's role: for the policy, a migration, a canary."""
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
        _api_policy(tenant, store, inputs),
        _worker_policy(tenant, platform, store, inputs),
        _deployment(tenant, platform, store, inputs, None if scaled else most),
        _service(tenant),
    ]
    if tenant.spec.auth.oidc is None:
        objects.append(_object(tenant, kinds.CONFIG_MAP) | {"data": {"jwks.json": inputs.jwks}})
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
) -> Object:
    """Replicas are left to the autoscaler where there is one."""
    labels = _selector(tenant)
    resources = _resources(tenant.spec.api.resources, API_RESOURCES)
    environment = {
        **_environment(tenant, platform, store),
        "MEDIA_API_HOST": "0.0.0.0",  # noqa: S104  in a pod
        "MEDIA_API_PORT": str(PORT),
        "MEDIA_API_METRICS_HOST": "0.0.0.0",  # noqa: S104
        "MEDIA_API_METRICS_PORT": str(METRICS_PORT),
        "MEDIA_API_SHUTDOWN_SECONDS": str(SHUTDOWN_SECONDS),
        "MEDIA_DATABASE_POOL": str(connections(tenant, inputs.connection_limit)[0]),
        "MEDIA_DECODING_PROCESSES": str(_decoding_processes(resources)),
        "MEDIA_PUBLIC_URL": endpoint(tenant, platform),
        **_auth(tenant, inputs),
    }
    container: Object = {
        "name": "api",
        "image": platform.api_image,
        "imagePullPolicy": platform.image_pull_policy,
        "ports": [
            {"name": "http", "containerPort": PORT, "protocol": "TCP"},
            {"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"},
        ],
        "env": _variables(tenant, environment),
        "resources": resources,
        "startupProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1, "failureThreshold": 60},
        # It gives its dependencies 5 seconds to answer; less here would hide which one does not.
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": "http"},
            "periodSeconds": 3,
            "timeoutSeconds": 6,
            "failureThreshold": 2,
        },
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
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108  a volume of the pod's own
    }
    volumes: list[Object] = [{"name": "tmp", "emptyDir": {"sizeLimit": "256Mi"}}]
    if tenant.spec.auth.oidc is None:  # a folder, not a subPath: rotated keys reach running pods
        container["volumeMounts"].append({"name": "jwks", "mountPath": JWKS, "readOnly": True})
        volumes.append({"name": "jwks", "configMap": {"name": child_name(tenant.tenant_id)}})
    pod = {
        **_pod(tenant, platform, platform.api_priority_class),
        "terminationGracePeriodSeconds": DRAIN_SECONDS + SHUTDOWN_SECONDS + 10,
        "containers": [container],
        "volumes": volumes,
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": key,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": labels},
                "matchLabelKeys": ["pod-template-hash"],  # what a roll is about to end does not count
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
        "minReadySeconds": 3,
        "revisionHistoryLimit": 3,
        "progressDeadlineSeconds": 600,
        "template": template,
    }
    if replicas is not None:
        spec["replicas"] = replicas
    made = _object(tenant, kinds.DEPLOYMENT) | {"spec": spec}
    oidc = tenant.spec.auth.oidc
    if oidc is not None and oidc.jwks_uri is None:
        made["metadata"]["annotations"] = {kinds.DISCOVERED_JWKS_URI: inputs.oidc_jwks_uri or ""}
    return made


def connections(tenant: MediaTenant, limit: int) -> tuple[int, int]:
    """Of one api pod and of one worker, so that all of a tenant's together stay within its role's `limit`.

    api x (most pods there may be, and the quarter more, at least one, that a roll adds)
      + worker x (all kinds' most workers, sweep and rescan)
      + 2 for the operator                                                               <= limit
    Workers get at most half. Each gets at least one, so a limit of less than one for each does not hold: PostgreSQL
    then refuses connections at the peak, and what wanted one is tried again. As if not suspended, so that suspending a
    tenant rolls no pods.
    """
    api, scan, transcription = tenant.spec.api, tenant.spec.scan, tenant.spec.transcription
    most = api.autoscaling.max if api.autoscaling else api.replicas
    pods = most + max(1, -(-most // 4))
    workers = THUMBNAIL_WORKERS + 1  # and the sweep
    workers += scan.max_parallel + 1 if scan.enabled else 0  # and the rescan
    workers += transcription.max_parallel if transcription.enabled else 0
    free = max(0, limit - OPERATOR_CONNECTIONS)
    for_worker = min(MOST_WORKER_CONNECTIONS, max(1, free // 2 // workers))
    for_api = min(MOST_CONNECTIONS, max(1, (free - workers * for_worker) // pods))
    return for_api, for_worker


def _decoding_processes(resources: Object) -> int:
    limit = _quantity(resources.get("limits", {}).get("memory"))
    return 2 if limit is None else max(1, min(4, int(limit - API_MEMORY) // DECODING_MEMORY))


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
        # Of our container alone: what a mesh adds to the pod neither counts nor needs a request.
        "metrics": [
            {"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "api", "target": target}}
        ],
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
    annotations = dict(platform.ingress_annotations)
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


def _api_policy(tenant: MediaTenant, store: StoreAdminSettings, inputs: Inputs) -> Object:
    """The ports of S3 and PostgreSQL have to be their pods' own: policies see what a Service's port was turned into."""
    ports = {_port(store.endpoint), _port(inputs.credentials[DATABASE_URL])}
    if tenant.spec.auth.oidc is not None:
        ports.add(_port(inputs.oidc_jwks_uri or "https://"))
    return _object(tenant, kinds.NETWORK_POLICY, "api") | {
        "spec": {
            "podSelector": {"matchLabels": _selector(tenant)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"ports": [_tcp(PORT), _tcp(METRICS_PORT)]}],
            "egress": [_DNS, {"ports": [_tcp(port) for port in sorted(ports)]}],
        }
    }


def _worker_policy(
    tenant: MediaTenant, platform: PlatformSettings, store: StoreAdminSettings, inputs: Inputs
) -> Object:
    ports = {_port(store.endpoint), _port(inputs.credentials[DATABASE_URL]), platform.clamd_port}
    if tenant.spec.transcription.enabled and not _is_folder(tenant.spec.transcription.model):
        ports.add(443)  # models are downloaded
    selector = {kinds.TENANT_LABEL: tenant.tenant_id, "app.kubernetes.io/component": "worker"}
    return _object(tenant, kinds.NETWORK_POLICY, "workers") | {
        "spec": {
            "podSelector": {"matchLabels": selector},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [],
            "egress": [_DNS, {"ports": [_tcp(port) for port in sorted(ports)]}],
        }
    }


_DNS: Object = {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}


def _tcp(port: int) -> Object:
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
    connection_limit: int = 60,
) -> Object:
    """A worker that drains one kind of work and ends by itself."""
    body = _object(tenant, kinds.JOB)
    body["metadata"]["name"] = name
    body["metadata"]["labels"] = _labels(tenant, "worker") | {kinds.WORK_LABEL: kind}
    body["metadata"]["annotations"] = {kinds.CREDENTIALS: credentials_hash(credentials)}
    spec = _job_spec(tenant, platform, store, kind, connection_limit) | {
        "ttlSecondsAfterFinished": platform.job_ttl_seconds
    }
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
        "spec": _job_spec(tenant, platform, store, kind, inputs.connection_limit),
    }
    spec = {
        "schedule": schedule,
        "timeZone": "Etc/UTC",
        "suspend": tenant.spec.suspended,
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": MISSED_SECONDS,
        "successfulJobsHistoryLimit": 1,
        "failedJobsHistoryLimit": 1,
        "jobTemplate": template,
    }
    return _object(tenant, kinds.CRON_JOB, kind) | {"spec": spec}


def _job_spec(
    tenant: MediaTenant, platform: PlatformSettings, store: StoreAdminSettings, kind: str, connection_limit: int
) -> Object:
    """The queue's row is the truth; a Job is worth two more tries, and none where it would fail again.

    A pod that its node lost (disruption) is replaced and not counted. One that says that a dependency is away (75), was
    killed for memory or by a signal (137, 143), or was gone when its node came back (255), is tried again. Any other
    end is a bug: the Job fails at once, and the dispatcher waits longer each time before it makes the next one.
    """
    rules = [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {
            "action": "FailJob",
            "onExitCodes": {"containerName": "worker", "operator": "NotIn", "values": [RETRYABLE, 137, 143, LOST]},
        },
    ]
    labels = _labels(tenant, "worker") | {kinds.WORK_LABEL: kind}
    return {
        "backoffLimit": 2,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": rules},
        "activeDeadlineSeconds": platform.job_deadline_seconds,
        "template": {
            "metadata": {"labels": labels},
            "spec": _worker_pod(tenant, platform, store, kind, connection_limit),
        },
    }


def _worker_pod(
    tenant: MediaTenant, platform: PlatformSettings, store: StoreAdminSettings, kind: str, connection_limit: int
) -> Object:
    environment = {
        **_environment(tenant, platform, store),
        "MEDIA_DATABASE_POOL": str(connections(tenant, connection_limit)[1]),
        "MEDIA_WORKER_LINGER_SECONDS": str(LINGER_SECONDS),
    }
    if kind in ("scan", "rescan"):
        environment |= {"MEDIA_CLAMD_HOST": platform.clamd_host, "MEDIA_CLAMD_PORT": str(platform.clamd_port)}
    environment |= _policies(platform, kind)
    container: Object = {
        "name": "worker",
        "image": platform.worker_image,
        "imagePullPolicy": platform.image_pull_policy,
        "args": [kind],
        "resources": _resources(Resources(), WORKER_RESOURCES.get(kind, SHORT_JOBS)),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": SECURITY,
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108  a volume of the pod's own
    }
    pod: Object = {
        **_pod(tenant, platform, platform.job_priority_class),
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": WORKER_GRACE.get(kind, 30),
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}],
    }
    if platform.job_runtime_class:
        pod["runtimeClassName"] = platform.job_runtime_class
    if kind == "transcribe":
        environment |= _prepare_transcription(tenant.spec.transcription, pod, container)
    container["env"] = _variables(tenant, environment)
    return pod


def _policies(platform: PlatformSettings, kind: str) -> dict[str, str]:
    """What a person has to decide of what automatic hands could do, and what they may do by themselves."""
    match kind:
        case "scan":
            return {
                "MEDIA_CLAMD_AT_ONCE": str(platform.clamd_at_once),
                "MEDIA_CLAMD_HEURISTICS": platform.clamd_heuristics,
                "MEDIA_RETENTION_FOUND_DAYS": f"{platform.retention_found_days:g}",
                "MEDIA_RETENTION_FOUND_FEW": str(platform.retention_found_few),
            }
        case "sweep":
            return {
                "MEDIA_RETENTION_ORPHAN_DAYS": f"{platform.retention_orphan_days:g}",
                "MEDIA_RETENTION_ORPHANS_FEW": str(platform.retention_orphans_few),
                "MEDIA_RETENTION_ORPHAN_SHARE": f"{platform.retention_orphan_share:g}",
            }
    return {}


def _prepare_transcription(asked: Transcription, pod: Object, container: Object) -> dict[str, str]:
    """Where it runs, with what, and where its model is kept; returns its part of the environment."""
    resources = _resources(asked.resources, _transcription_resources(asked))
    container["resources"] = resources
    environment = {
        "MEDIA_WHISPER_MODEL": asked.model,
        "MEDIA_WHISPER_DEVICE": asked.device,
        "MEDIA_WHISPER_COMPUTE_TYPE": asked.compute_type,
    }
    cores = _quantity(asked.resources.limits.get("cpu") or asked.resources.requests.get("cpu"))
    if cores is not None:  # more threads than that would only wait for each other
        environment["MEDIA_WHISPER_CPU_THREADS"] = str(max(1, int(cores)))
    if asked.model_cache or not _is_folder(asked.model):
        # Also for what the downloader keeps beside the models: /tmp is too small for that.
        environment |= {"MEDIA_WHISPER_DOWNLOAD_ROOT": MODELS, "HF_HOME": MODELS}
        claim = {"persistentVolumeClaim": {"claimName": asked.model_cache}}
        kept = claim if asked.model_cache else {"emptyDir": {"sizeLimit": MODELS_SIZE}}
        pod["volumes"].append({"name": "models", **kept})
        container["volumeMounts"].append({"name": "models", "mountPath": MODELS})
    if asked.model_cache:
        pod["securityContext"] = {**POD_SECURITY, "fsGroup": USER, "fsGroupChangePolicy": "OnRootMismatch"}
    if asked.node_selector:
        pod["nodeSelector"] = dict(asked.node_selector)
    if asked.tolerations:
        pod["tolerations"] = [
            {name: value for name, value in each.model_dump(by_alias=True).items() if value not in ("", None)}
            for each in asked.tolerations
        ]
    if asked.runtime_class:
        pod["runtimeClassName"] = asked.runtime_class
    return environment


def _transcription_resources(asked: Transcription) -> Resources:
    """Memory for the model: its file's two bytes a parameter while it is read, beside what it becomes, and 768 MiB for
    everything else (one window of decoded audio). Requested whole: an hour's work must not end for a neighbour's sake.
    """
    size = next((size for name, size in MODEL_PARAMETERS.items() if name in asked.model), MODEL_PARAMETERS["medium"])
    bytes_each = {"int8": 1, "int8_float16": 1, "float16": 2}.get(asked.compute_type, 4)
    memory = f"{768 + size * (2 + bytes_each)}Mi"
    gpu = {GPU: "1"} if asked.device == "cuda" else {}
    return Resources.model_validate({"requests": {"cpu": "1", "memory": memory}, "limits": {"memory": memory, **gpu}})


def _is_folder(model: str) -> bool:
    """A model that is there already, in the image or in the cache's volume."""
    return model.startswith(("/", "."))


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
        return {"MEDIA_JWKS_FILE": f"{JWKS}/jwks.json"}
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
    """What is asked for, and the default of what is not: under a ResourceQuota nothing may be left open.

    A default never contradicts: no request beside a limit alone (it counts as the request), no limit below a request.
    """
    requests: dict[str, str] = dict(asked.requests.items())
    limits: dict[str, str] = dict(asked.limits.items())
    for name, value in default.requests.items():
        if name not in requests and name not in limits:
            requests[name] = value
    for name, value in default.limits.items():
        if name not in limits:
            limits[name] = max(value, requests.get(name, value), key=lambda each: _quantity(each) or Decimal(0))
    if (gpu := requests.get(GPU)) is not None:
        limits.setdefault(GPU, gpu)  # an extended resource needs its limit
    return {name: values for name, values in (("requests", requests), ("limits", limits)) if values}


def _minute(tenant: MediaTenant) -> int:
    """So that not all tenants are swept in the same minute."""
    return int(hashlib.sha256(tenant.tenant_id.encode()).hexdigest(), 16) % 60


# --- hand-over -------------------------------------------------------------------------------------------------------

HANDOVER = f"{kinds.MANAGER}-handover"
"""Field manager of `replicas_handed_over`."""


def replicas_handed_over(wanted: Object, live: Object) -> Object | None:
    """What is to be applied, as `HANDOVER`, before a Deployment that leaves its replicas to the autoscaler from now on.

    A field that its only manager does not apply any more falls back to its default, which is 1 here, until the
    autoscaler's next look. None: nothing to hand over.
    """
    if wanted["kind"] != kinds.DEPLOYMENT.kind or "replicas" in wanted["spec"]:
        return None
    replicas = live["spec"].get("replicas")
    if replicas is None:
        return None
    names = {name: live["metadata"][name] for name in ("name", "namespace")}
    return {
        "apiVersion": wanted["apiVersion"],
        "kind": wanted["kind"],
        "metadata": names,
        "spec": {"replicas": replicas},
    }


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
    return _contains(live, wanted, "")


def _contains(live: Any, wanted: Any, field: str) -> bool:
    match wanted:
        case dict():
            there = live if isinstance(live, dict) else {}
            of_quantities = field in _QUANTITIES
            if field in _WHOLE and any(there[key] for key in there.keys() - wanted.keys()):
                return False
            return all(
                _same_quantity(there.get(key), value) if of_quantities else _contains(there.get(key), value, key)
                for key, value in wanted.items()
            )
        case list():
            return _contains_list(live or [], wanted, field)
        case None | "":  # the API server leaves these out
            return live in (None, "")
        case bool():
            return live is wanted
        case _ if field in _QUANTITIES:
            return _same_quantity(live, wanted)
        case _:
            return bool(live == wanted)


def _contains_list(live: Sequence[Any], wanted: Sequence[Any], field: str) -> bool:
    """A list whose elements have an identity, as the API's schema says, may hold others' beside ours."""
    keys = _identity(field, wanted)
    if not keys:
        return len(live) == len(wanted) and all(
            _contains(one, another, field) for one, another in zip(live, wanted, strict=True)
        )
    there = {tuple(each.get(key) for key in keys): each for each in live if isinstance(each, dict)}
    return all(_contains(there.get(tuple(each.get(key) for key in keys)), each, field) for each in wanted)


_WHOLE = ("selector", "podSelector", "labelSelector", "matchLabels", "nodeSelector")
"""Maps that belong to one manager as a whole: a label more selects something else."""
_IDENTITIES: Mapping[str, tuple[str, ...]] = {
    "ownerReferences": ("uid",),
    "containers": ("name",),
    "volumes": ("name",),
    "imagePullSecrets": ("name",),
    "env": ("name",),
    "volumeMounts": ("mountPath",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
}
"""`x-kubernetes-list-map-keys`; all other lists belong to one manager as a whole, such as the rules of a
NetworkPolicy, where an element more is a hole."""


def _identity(field: str, wanted: Sequence[Any]) -> tuple[str, ...]:
    if field != "ports":
        return _IDENTITIES.get(field, ())
    of_container = any("containerPort" in each for each in wanted)
    of_service = any("targetPort" in each for each in wanted)
    return ("containerPort", "protocol") if of_container else ("port", "protocol") if of_service else ()


_QUANTITIES = ("requests", "limits", "hard", "sizeLimit")
"""Fields that the API server writes in a form of its own: 0.5 as 500m, 1024Mi as 1Gi."""


def _quantity(value: Any) -> Decimal | None:
    try:
        return Decimal(parse_quantity(str(value)))
    except ValueError:
        return None


def _same_quantity(live: Any, wanted: Any) -> bool:
    return bool(live == wanted) or (_quantity(live) == _quantity(wanted) is not None)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
