"""The kinds of Kubernetes objects that the operator reads or writes, and the names it gives them.

The client's paths, the watches and the cache use this table. A test compares it with the RBAC rules of the chart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from media_operator.tenant.spec import GROUP, VERSION

Object = dict[str, Any]
"""A Kubernetes object as plain JSON."""

MANAGER = "media-operator"
"""Field manager of all that we apply, and the value of the managed-by label."""
MANAGED_BY = "app.kubernetes.io/managed-by"
OURS = f"{MANAGED_BY}={MANAGER}"
"""Label selector of all objects that we made. Watches ask the server for these only."""
TENANT_LABEL = f"{GROUP}/tenant"
"""Label of every child and pod: the tenant's id."""
WORK_LABEL = f"{GROUP}/work"
"""Label of worker Jobs and their pods: the kind of work (scan, transcribe, thumbnail)."""
APPLIED = f"{GROUP}/applied"
"""Annotation of a child: hash of what we applied, so that a pass with nothing to do writes nothing."""
CHECKSUM = f"{GROUP}/checksum"
"""Annotation of a Secret: hash of its data. Data that does not match was edited by somebody else and is made again."""
CREDENTIALS = f"{GROUP}/credentials"
"""Annotation of a pod template and of a Job: hash of the credentials that its pods start with."""
DISCOVERED_JWKS_URI = f"{GROUP}/discovered-jwks-uri"
"""Annotation of a Deployment: the URL of the keys, as the issuer said. Only if the spec does not give it."""
FINALIZER = f"{GROUP}/delete-data"
"""Only on tenants with `deletionPolicy: Delete`, so that their data is deleted before them."""


@dataclass(frozen=True)
class Kind:
    """`group` is empty for the core API."""

    group: str
    version: str
    plural: str
    kind: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
        """URL path of a collection, an object or a subresource. Without `namespace`: of all namespaces."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        parts = [root, f"namespaces/{namespace}" if namespace else "", self.plural, name, subresource]
        return "/".join(part for part in parts if part)

    def __str__(self) -> str:
        return self.kind


MEDIA_TENANT = Kind(GROUP, VERSION, "mediatenants", "MediaTenant")
DEPLOYMENT = Kind("apps", "v1", "deployments", "Deployment")
SERVICE = Kind("", "v1", "services", "Service")
SERVICE_ACCOUNT = Kind("", "v1", "serviceaccounts", "ServiceAccount")
SECRET = Kind("", "v1", "secrets", "Secret")
CONFIG_MAP = Kind("", "v1", "configmaps", "ConfigMap")
RESOURCE_QUOTA = Kind("", "v1", "resourcequotas", "ResourceQuota")
PDB = Kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
HPA = Kind("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
NETWORK_POLICY = Kind("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
INGRESS = Kind("networking.k8s.io", "v1", "ingresses", "Ingress")
HTTP_ROUTE = Kind("gateway.networking.k8s.io", "v1", "httproutes", "HTTPRoute")
CRON_JOB = Kind("batch", "v1", "cronjobs", "CronJob")
JOB = Kind("batch", "v1", "jobs", "Job")
POD = Kind("", "v1", "pods", "Pod")
EVENT = Kind("", "v1", "events", "Event")
LEASE = Kind("coordination.k8s.io", "v1", "leases", "Lease")
NAMESPACE = Kind("", "v1", "namespaces", "Namespace")

CHILDREN = (
    SERVICE_ACCOUNT,
    SECRET,
    CONFIG_MAP,
    RESOURCE_QUOTA,
    NETWORK_POLICY,
    DEPLOYMENT,
    SERVICE,
    PDB,
    HPA,
    INGRESS,
    HTTP_ROUTE,
    CRON_JOB,
)
"""Kinds of a tenant's objects in its namespace, in the order in which they are applied."""


def child_name(tenant_id: str, part: str = "") -> str:
    """`mt-acme`, `mt-acme-credentials`. At most 63 characters: tenant ids end at 40, parts at 18."""
    return f"mt-{tenant_id}-{part}" if part else f"mt-{tenant_id}"


_BY_NAME = {(kind.api_version, kind.kind): kind for kind in (*CHILDREN, JOB, MEDIA_TENANT, LEASE, POD, EVENT)}


def of(body: Object) -> Kind:
    """The kind of an object, by its `apiVersion` and `kind`."""
    return _BY_NAME[(body["apiVersion"], body["kind"])]


def is_older(version: str, than: str) -> bool:
    """Compares growing numbers, which Kubernetes promises since 1.35. Of other versions the last one seen is newest."""
    return version.isdigit() and than.isdigit() and int(version) < int(than)
