"""Other tenants of the cluster that want what one alone may have: an id, a bucket, a host."""

from __future__ import annotations

from media_operator.cluster import kinds
from media_operator.cluster.cache import Cache, TenantKey, key_of, unique_names
from media_operator.tenant.spec import MediaTenant


def rival(cache: Cache, tenant: MediaTenant) -> str | None:
    """Who has the same id or bucket and was there first."""
    mine = tenant.metadata
    for key, other in cache.tenants().items():
        metadata = other["metadata"]
        if metadata["uid"] == mine.uid:
            continue
        theirs = unique_names(other)
        same = [f"tenantId {theirs.tenant_id}"] if theirs.tenant_id == tenant.tenant_id else []
        same += [f"bucket {theirs.bucket}"] if theirs.bucket == tenant.bucket else []
        first = (metadata["creationTimestamp"], metadata["uid"]) < (mine.creation_timestamp or "", mine.uid)
        if same and first:
            return f"MediaTenant {key.namespace}/{key.name} was there first and has {' and '.join(same)}"
    return None


def host_rival(cache: Cache, tenant: MediaTenant) -> str | None:
    """Who is served at the same host already. Anybody may declare one at any time: being first at it is nothing."""
    host, key = tenant.spec.api.host, key_of(tenant)
    if host is None or _serves(cache, key, host):
        return None
    for other, body in cache.tenants().items():
        if other != key and unique_names(body).host == host and _serves(cache, other, host):
            return f"MediaTenant {other.namespace}/{other.name} is served at {host}"
    return None


def _serves(cache: Cache, key: TenantKey, host: str) -> bool:
    for (kind, _), body in cache.children(key).items():
        spec = body.get("spec", {})
        hosts = spec.get("hostnames", []) if kind == kinds.HTTP_ROUTE else []
        if kind == kinds.INGRESS:
            hosts = [rule.get("host") for rule in spec.get("rules", [])]
        if host in hosts:
            return True
    return False
