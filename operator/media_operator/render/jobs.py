"""Workers: Jobs that drain one kind of work, and the CronJobs of sweep and rescan."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from media_core.jobs.kinds import JOB_KINDS
from media_operator.cluster import kinds
from media_operator.cluster.kinds import Object
from media_operator.render.database_connections import connections
from media_operator.render.environment import common_environment, container_env, store_key_volume, trust_volume
from media_operator.render.network import is_folder
from media_operator.render.objects import (
    SECURITY,
    Inputs,
    labels_of,
    pod_defaults,
    pod_security,
    tenant_object,
    tolerations_of,
    with_further,
)
from media_operator.render.resources import GPU, is_extended, quantity, with_defaults
from media_operator.render.secrets import credentials_hash
from media_operator.settings import PlatformSettings, StoreAdminSettings
from media_operator.tenant.spec import MediaTenant, Resources, Transcription

MODEL_PARAMETERS = {"tiny": 39, "base": 74, "small": 244, "medium": 769, "turbo": 809, "large": 1550}
"""Parameters of Whisper's models, in millions. The first name that is part of the model's name counts."""
SHORT_JOBS = Resources.model_validate({"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}})
SHORT_GRACE_SECONDS = 30
"""Of sweep and rescan."""
LINGER_SECONDS = 5
"""So long an idle worker waits for more, so that a second file soon after the first finds it warm."""
MISSED_SECONDS = 3600
"""How late a CronJob may start after an outage of the control plane. A rescan that is left out is a day lost."""
MODELS, MODELS_SIZE = "/models-cache", "20Gi"
RETRYABLE = 75
"""EX_TEMPFAIL: exit status of a worker when a dependency is away."""
LOST = 255
"""Exit status that the container runtime gives to a container that is gone after the node was restarted."""


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
    body = tenant_object(tenant, kinds.JOB)
    body["metadata"]["name"] = name
    body["metadata"]["labels"] = labels_of(tenant, "worker") | {kinds.WORK_LABEL: kind}
    body["metadata"]["annotations"] = {kinds.CREDENTIALS: credentials_hash(credentials, store)}
    spec = _job_spec(tenant, platform, store, kind, connection_limit) | {
        "ttlSecondsAfterFinished": platform.job_ttl_seconds
    }
    if platform.kueue_queue:
        body["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = platform.kueue_queue
        spec["suspend"] = True  # until Kueue admits it
    return with_further(platform, body | {"spec": spec})


def cron_job(
    tenant: MediaTenant,
    platform: PlatformSettings,
    store: StoreAdminSettings,
    inputs: Inputs,
    kind: str,
    schedule: str,
) -> Object:
    annotations = {kinds.CREDENTIALS: credentials_hash(inputs.credentials, store)}
    template = {
        "metadata": {"labels": labels_of(tenant, "worker"), "annotations": annotations},
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
    return tenant_object(tenant, kinds.CRON_JOB, kind) | {"spec": spec}


def sweep_minute(tenant: MediaTenant) -> int:
    """Spread over the hour, so that not all tenants are swept in the same minute."""
    return int(hashlib.sha256(tenant.tenant_id.encode()).hexdigest(), 16) % 60


def _job_spec(
    tenant: MediaTenant, platform: PlatformSettings, store: StoreAdminSettings, kind: str, connection_limit: int
) -> Object:
    """A Job has two more tries, unless it would fail again. The queue's rows say what is done.

    A pod lost by a disruption is replaced and not counted. A pod is tried again if a dependency was away (75), if it
    was killed for memory or by a signal (137, 143), or if it was gone when its node came back (255). Any other exit
    status is a bug: the Job fails at once, and the dispatcher waits longer each time before it makes the next one.
    """
    rules = [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {
            "action": "FailJob",
            "onExitCodes": {"containerName": "worker", "operator": "NotIn", "values": [RETRYABLE, 137, 143, LOST]},
        },
    ]
    metadata: Object = {"labels": {**platform.worker_pod_labels, **labels_of(tenant, "worker"), kinds.WORK_LABEL: kind}}
    if platform.worker_pod_annotations:
        metadata["annotations"] = dict(platform.worker_pod_annotations)
    return {
        "backoffLimit": 2,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": rules},
        "activeDeadlineSeconds": platform.job_deadline_seconds,
        "template": {
            "metadata": metadata,
            "spec": _worker_pod(tenant, platform, store, kind, connection_limit),
        },
    }


def _worker_pod(
    tenant: MediaTenant, platform: PlatformSettings, store: StoreAdminSettings, kind: str, connection_limit: int
) -> Object:
    environment = {
        **common_environment(tenant, platform, store),
        "MEDIA_DATABASE_POOL": str(connections(tenant, connection_limit)[1]),
        "MEDIA_WORKER_LINGER_SECONDS": str(LINGER_SECONDS),
    }
    if kind in ("scan", "rescan"):
        environment |= {"MEDIA_CLAMD_HOST": platform.clamd_host, "MEDIA_CLAMD_PORT": str(platform.clamd_port)}
    environment |= _scan_and_sweep_settings(platform, kind)
    job_kind = JOB_KINDS.get(kind)  # None for sweep and rescan, which are no jobs of the queue
    resources = job_kind.resources if job_kind else None
    default_resources = Resources.model_validate(dict(resources)) if resources else SHORT_JOBS
    container: Object = {
        "name": "worker",
        "image": platform.worker_image,
        "imagePullPolicy": platform.image_pull_policy,
        "args": [kind],
        "resources": with_defaults(_asked_resources(tenant, platform, kind), default_resources),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": SECURITY,
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108  a volume of the pod's own
    }
    pod: Object = {
        **pod_defaults(tenant, platform, platform.job_priority_class),
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": job_kind.grace_seconds if job_kind else SHORT_GRACE_SECONDS,
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}],
    }
    if platform.job_runtime_class:
        pod["runtimeClassName"] = platform.job_runtime_class
    if kind == "transcribe":
        environment |= _prepare_transcription(tenant.spec.transcription, platform, pod, container)
    trust_volume(platform, pod, container)
    store_key_volume(tenant, store, pod, container)
    container["env"] = container_env(tenant, store, environment)
    return pod


def _asked_resources(tenant: MediaTenant, platform: PlatformSettings, kind: str) -> Resources:
    match kind:
        case "scan":
            return tenant.spec.scan.resources
        case "thumbnail":
            return tenant.spec.thumbnails.resources
        case "transcribe":
            return tenant.spec.transcription.resources
    return platform.sweep_resources


def _scan_and_sweep_settings(platform: PlatformSettings, kind: str) -> dict[str, str]:
    """Limits of what scan workers and sweeps may do by themselves; a person decides the rest."""
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
                "MEDIA_RETENTION_EVENT_DAYS": f"{platform.retention_event_days:g}",
            }
    return {}


def _prepare_transcription(
    asked: Transcription, platform: PlatformSettings, pod: Object, container: Object
) -> dict[str, str]:
    """Where it runs, with what, and where its model is kept; returns its part of the environment."""
    resources = with_defaults(asked.resources, _transcription_resources(asked))
    container["resources"] = resources
    environment = {
        "MEDIA_WHISPER_MODEL": asked.model,
        "MEDIA_WHISPER_DEVICE": asked.device,
        "MEDIA_WHISPER_COMPUTE_TYPE": asked.compute_type,
    }
    cores = quantity(asked.resources.limits.get("cpu") or asked.resources.requests.get("cpu"))
    if cores is not None:  # more threads would only wait for each other
        environment["MEDIA_WHISPER_CPU_THREADS"] = str(max(1, int(cores)))
    if asked.model_cache or not is_folder(asked.model):
        # The downloader's own files go there, too: /tmp is too small for them.
        environment |= {"MEDIA_WHISPER_DOWNLOAD_ROOT": MODELS, "HF_HOME": MODELS}
        claim = {"persistentVolumeClaim": {"claimName": asked.model_cache}}
        kept = claim if asked.model_cache else {"emptyDir": {"sizeLimit": MODELS_SIZE}}
        pod["volumes"].append({"name": "models", **kept})
        container["volumeMounts"].append({"name": "models", "mountPath": MODELS})
    if asked.model_cache:
        pod["securityContext"] = pod_security(platform, shares_volume=True)
    if asked.node_selector:
        pod["nodeSelector"] = pod.get("nodeSelector", {}) | asked.node_selector
    if asked.tolerations:
        pod["tolerations"] = pod.get("tolerations", []) + tolerations_of(asked.tolerations)
    if asked.runtime_class:
        pod["runtimeClassName"] = asked.runtime_class
    return environment


def _transcription_resources(asked: Transcription) -> Resources:
    """Memory: for the model its file, two bytes a parameter while it is read, plus its form in memory; 768 MiB for all
    else (one window of decoded audio). The request equals the limit, so that other pods' memory cannot end an hour of
    work.
    """
    size = next((size for name, size in MODEL_PARAMETERS.items() if name in asked.model), MODEL_PARAMETERS["medium"])
    bytes_each = {"int8": 1, "int8_float16": 1, "float16": 2}.get(asked.compute_type, 4)
    memory = f"{768 + size * (2 + bytes_each)}Mi"
    # A slice of a GPU, or a GPU of another make, is asked for in place of a whole one.
    has_device = any(is_extended(name) for name in (*asked.resources.requests, *asked.resources.limits))
    gpu = {GPU: "1"} if asked.device == "cuda" and not has_device else {}
    return Resources.model_validate({"requests": {"cpu": "1", "memory": memory}, "limits": {"memory": memory, **gpu}})
