"""How a tenant is reached, and which addresses its pods may reach."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

from media_operator.cluster import kinds
from media_operator.cluster.kinds import Object, child_name
from media_operator.render.objects import Inputs, api_selector, tenant_object
from media_operator.render.secrets import DATABASE_URL
from media_operator.settings import PlatformSettings, StoreAdminSettings
from media_operator.tenant.spec import MediaTenant

PORT, METRICS_PORT = 8080, 9090
_DNS: Object = {"ports": [{"protocol": protocol, "port": port} for port in (53, 5353) for protocol in ("UDP", "TCP")]}
"""Policies see the port of the DNS pods, which is 5353 on OpenShift."""


def endpoint(tenant: MediaTenant, platform: PlatformSettings) -> str:
    """Base URL of the api: its public host, else the Service's name in the cluster."""
    host = tenant.spec.api.host
    if host is None:
        return f"http://{child_name(tenant.tenant_id)}.{tenant.metadata.namespace}.svc"
    scheme = platform.public_scheme or ("https" if platform.cluster_issuer or platform.gateway else "http")
    return f"{scheme}://{host}"


def ingress(tenant: MediaTenant, platform: PlatformSettings) -> Object:
    name, host = child_name(tenant.tenant_id), tenant.spec.api.host
    body = tenant_object(tenant, kinds.INGRESS)
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


def http_route(tenant: MediaTenant, platform: PlatformSettings) -> Object:
    namespace, _, gateway = platform.gateway.partition("/")
    reference = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": namespace, "name": gateway}
    backend = {"group": "", "kind": "Service", "name": child_name(tenant.tenant_id), "port": 80, "weight": 1}
    match = {"path": {"type": "PathPrefix", "value": "/"}}
    rule: Object = {"matches": [match], "backendRefs": [backend]}
    if platform.gateway_request_timeout:
        rule["timeouts"] = {"request": platform.gateway_request_timeout}
    spec = {"parentRefs": [reference], "hostnames": [tenant.spec.api.host], "rules": [rule]}
    return tenant_object(tenant, kinds.HTTP_ROUTE) | {"spec": spec}


def api_network_policy(
    tenant: MediaTenant, platform: PlatformSettings, store: StoreAdminSettings, inputs: Inputs
) -> Object:
    """The ports of S3 and PostgreSQL have to be their pods' own: policies see what a Service's port was turned into."""
    ports = {_port(store.endpoint), *_ports_of_postgresql(inputs), *_proxies(platform)}
    if tenant.spec.auth.oidc is not None:
        ports.add(_port(inputs.oidc_jwks_uri or "https://"))
    ports |= {_port(webhook.url) for webhook in tenant.spec.webhooks}
    return tenant_object(tenant, kinds.NETWORK_POLICY, "api") | {
        "spec": {
            "podSelector": {"matchLabels": api_selector(tenant)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"ports": [_tcp(PORT), _tcp(METRICS_PORT)]}],
            "egress": [_DNS, {"ports": [_tcp(port) for port in sorted(ports)]}],
        }
    }


def worker_network_policy(
    tenant: MediaTenant, platform: PlatformSettings, store: StoreAdminSettings, inputs: Inputs
) -> Object:
    ports = {_port(store.endpoint), *_ports_of_postgresql(inputs), platform.clamd_port, *_proxies(platform)}
    if tenant.spec.transcription.enabled and not is_folder(tenant.spec.transcription.model):
        ports.add(443)  # models are downloaded
    selector = {kinds.TENANT_LABEL: tenant.tenant_id, "app.kubernetes.io/component": "worker"}
    return tenant_object(tenant, kinds.NETWORK_POLICY, "workers") | {
        "spec": {
            "podSelector": {"matchLabels": selector},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [],
            "egress": [_DNS, {"ports": [_tcp(port) for port in sorted(ports)]}],
        }
    }


def is_folder(model: str) -> bool:
    """Whether the model is a folder, in the image or in the cache's volume. Otherwise it is downloaded."""
    return model.startswith(("/", "."))


def _ports_of_postgresql(inputs: Inputs) -> set[int]:
    """Of all hosts in the URL, which has several as `?host=a:5432&host=b:5433`, or as `?host=a,b&port=5432,5433`."""
    url = inputs.credentials[DATABASE_URL]
    query = parse_qs(urlsplit(url).query)
    if len(hosts := query.get("host", [])) > 1:
        return {_port(f"postgresql://{host}") for host in hosts}
    ports = ",".join(query.get("port", [])).split(",")
    return {int(port) for port in ports if port.isdecimal()} or {_port(url)}


def _proxies(platform: PlatformSettings) -> set[int]:
    return {_port(url) for url in (platform.https_proxy, platform.http_proxy) if url}


def _tcp(port: int) -> Object:
    return {"protocol": "TCP", "port": port}


def _port(url: str) -> int:
    parts = urlsplit(url)
    return parts.port or {"http": 80, "https": 443}.get(parts.scheme, 5432)
