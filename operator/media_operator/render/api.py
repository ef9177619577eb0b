"""The api: its Deployment, Service, budget and autoscaler."""

from __future__ import annotations

from media_core.contents.quota import MIB
from media_core.listening import EVERY
from media_operator.cluster import kinds
from media_operator.cluster.kinds import Object, child_name
from media_operator.plan.desired import api_settings
from media_operator.render.database_connections import connections
from media_operator.render.environment import common_environment, container_env, store_key_volume, trust_volume
from media_operator.render.network import METRICS_PORT, PORT, endpoint
from media_operator.render.objects import SECURITY, Inputs, api_selector, labels_of, pod_defaults, tenant_object
from media_operator.render.resources import quantity, with_defaults
from media_operator.render.secrets import credentials_hash
from media_operator.settings import PlatformSettings, StoreAdminSettings
from media_operator.tenant.spec import MediaTenant, Resources

DRAIN_SECONDS = 10
"""Time between a pod's leaving the Service and its SIGTERM, so that no request meets a closed port. On a node without
a free core kube-proxy still led requests to the pod 7 s after that."""
SHUTDOWN_SECONDS = 60
"""Time for uploads in flight after that."""
API_RESOURCES = Resources.model_validate(
    # 59 MiB at rest. Pictures and uploads take more for a time, up to the limit.
    {"requests": {"cpu": "100m", "memory": "160Mi"}, "limits": {"memory": "2Gi"}}
)
API_MEMORY, DECODING_MEMORY = 320 * MIB, 704 * MIB
"""Most memory of the process and of each decoding child. Only as many children are started as fit the memory limit: if
it is exceeded, the kernel ends the whole pod."""
JWKS = "/etc/media/jwks"
WEBHOOKS = "/etc/media/webhooks"
_PROBES: Object = {
    "startupProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1, "failureThreshold": 60},
    # The api waits 5 seconds for its dependencies. A shorter timeout would hide which one does not answer.
    "readinessProbe": {
        "httpGet": {"path": "/readyz", "port": "http"},
        "periodSeconds": 3,
        "timeoutSeconds": 6,
        "failureThreshold": 2,
    },
    # Only whether the process lives: a dependency that is away is no reason to restart it.
    "livenessProbe": {
        "httpGet": {"path": "/healthz", "port": "http"},
        "periodSeconds": 10,
        "timeoutSeconds": 5,
        "failureThreshold": 6,
    },
}


def api_deployment(
    tenant: MediaTenant,
    platform: PlatformSettings,
    store: StoreAdminSettings,
    inputs: Inputs,
    replicas: int | None,
) -> Object:
    """`replicas`: None leaves them to the autoscaler."""
    labels = api_selector(tenant)
    container = _container(tenant, platform, store, inputs)
    volumes: list[Object] = [{"name": "tmp", "emptyDir": {"sizeLimit": "256Mi"}}]
    if tenant.spec.auth.oidc is None:  # a folder, not a subPath: rotated keys reach running pods
        container["volumeMounts"].append({"name": "jwks", "mountPath": JWKS, "readOnly": True})
        volumes.append({"name": "jwks", "configMap": {"name": child_name(tenant.tenant_id)}})
    pod: Object = {
        **pod_defaults(tenant, platform, platform.api_priority_class),
        "terminationGracePeriodSeconds": DRAIN_SECONDS + SHUTDOWN_SECONDS + 10,
        "containers": [container],
        "volumes": volumes,
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": key,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": labels},
                "matchLabelKeys": ["pod-template-hash"],  # pods that a roll is about to end do not count
            }
            for key in ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
        ],
    }
    _webhook_secrets(tenant, pod, container)
    trust_volume(platform, pod, container)
    store_key_volume(tenant, store, pod, container)
    # The JWKS is read again by itself, like a temporary key; new credentials need new pods.
    annotations = {**platform.api_pod_annotations, kinds.CREDENTIALS: credentials_hash(inputs.credentials, store)}
    pod_labels = {**platform.api_pod_labels, **labels_of(tenant, "api")}
    template = {"metadata": {"labels": pod_labels, "annotations": annotations}, "spec": pod}
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
    made = tenant_object(tenant, kinds.DEPLOYMENT) | {"spec": spec}
    oidc = tenant.spec.auth.oidc
    if oidc is not None and oidc.jwks_uri is None:
        made["metadata"]["annotations"] = {kinds.DISCOVERED_JWKS_URI: inputs.oidc_jwks_uri or ""}
    return made


def _container(tenant: MediaTenant, platform: PlatformSettings, store: StoreAdminSettings, inputs: Inputs) -> Object:
    resources = with_defaults(tenant.spec.api.resources, API_RESOURCES)
    environment = {
        **common_environment(tenant, platform, store),
        "MEDIA_API_HOST": EVERY,  # in a pod, of whatever family its cluster gives it
        "MEDIA_API_PORT": str(PORT),
        "MEDIA_API_METRICS_HOST": EVERY,
        "MEDIA_API_METRICS_PORT": str(METRICS_PORT),
        "MEDIA_API_SHUTDOWN_SECONDS": str(SHUTDOWN_SECONDS),
        "MEDIA_DATABASE_POOL": str(connections(tenant, inputs.connection_limit)[0]),
        "MEDIA_DECODING_PROCESSES": str(_decoding_processes(resources)),
        "MEDIA_PUBLIC_URL": endpoint(tenant, platform),
        **_auth(tenant, inputs),
        **_webhooks(tenant, platform),
        **api_settings(tenant),
    }
    return {
        "name": "api",
        "image": platform.api_image,
        "imagePullPolicy": platform.image_pull_policy,
        "ports": [
            {"name": "http", "containerPort": PORT, "protocol": "TCP"},
            {"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"},
        ],
        "env": container_env(tenant, store, environment),
        "resources": resources,
        **_PROBES,
        "lifecycle": {"preStop": {"sleep": {"seconds": DRAIN_SECONDS}}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": SECURITY,
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108  a volume of the pod's own
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


def _webhooks(tenant: MediaTenant, platform: PlatformSettings) -> dict[str, str]:
    if not tenant.spec.webhooks:
        return {}
    networks = platform.webhook_allow_networks
    return {"MEDIA_WEBHOOK_SECRETS": WEBHOOKS} | ({"MEDIA_WEBHOOK_ALLOW_NETWORKS": networks} if networks else {})


def _webhook_secrets(tenant: MediaTenant, pod: Object, container: Object) -> None:
    """A folder with a file for each secret, so that a changed one reaches running pods. A Secret that is missing keeps
    no pod from starting: the webhook says so.
    """
    keys = sorted({(each.secret_ref.name, each.secret_ref.key) for each in tenant.spec.webhooks})
    if not keys:
        return
    sources = [
        {"secret": {"name": name, "items": [{"key": key, "path": f"{name}/{key}"}], "optional": True}}
        for name, key in keys
    ]
    pod["volumes"].append({"name": "webhooks", "projected": {"sources": sources}})
    container["volumeMounts"].append({"name": "webhooks", "mountPath": WEBHOOKS, "readOnly": True})


def _decoding_processes(resources: Object) -> int:
    limit = quantity(resources.get("limits", {}).get("memory"))
    return 2 if limit is None else max(1, min(4, int(limit - API_MEMORY) // DECODING_MEMORY))


def api_service(tenant: MediaTenant) -> Object:
    ports = [
        {"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP", "appProtocol": "http"},
        {"name": "metrics", "port": METRICS_PORT, "targetPort": "metrics", "protocol": "TCP", "appProtocol": "http"},
    ]
    return tenant_object(tenant, kinds.SERVICE) | {
        "spec": {
            "type": "ClusterIP",
            "ipFamilyPolicy": "PreferDualStack",
            "selector": api_selector(tenant),
            "ports": ports,
        }
    }


def budget(tenant: MediaTenant) -> Object:
    spec = {
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": api_selector(tenant)},
    }
    return tenant_object(tenant, kinds.PDB) | {"spec": spec}


def autoscaler(tenant: MediaTenant) -> Object:
    scaling = tenant.spec.api.autoscaling
    assert scaling is not None  # noqa: S101 (the caller asked)
    name = child_name(tenant.tenant_id)
    target = {"type": "Utilization", "averageUtilization": scaling.target_cpu}
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
        "minReplicas": scaling.min,
        "maxReplicas": scaling.max,
        # Only our container: a mesh's sidecar does not count, and needs no CPU request.
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
    return tenant_object(tenant, kinds.HPA) | {"spec": spec}
