"""Other tenants of the cluster that claim the same id, bucket or host. Only one tenant may have each."""

from __future__ import annotations

from media_operator.cluster import kinds
from media_operator.cluster.cache import Cache, TenantKey, key_of, unique_names
from media_operator.tenant.spec import MediaTenant


def rival(cache: Cache, tenant: MediaTenant) -> str | None:
    """The MediaTenant that has the same id or bucket and was created earlier, as a sentence."""
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
            return f"MediaTenant {key} was created earlier and has {' and '.join(same)}"
    return None


def host_rival(cache: Cache, tenant: MediaTenant) -> str | None:
    """The MediaTenant that is served at the same host already, as a sentence.

    The time of its creation does not count: anybody may add any host to an old MediaTenant.
    """
    host, key = tenant.spec.api.host, key_of(tenant)
    if host is None or _serves(cache, key, host):
        return None
    for other, body in cache.tenants().items():
        if other != key and unique_names(body).host == host and _serves(cache, other, host):
            return f"MediaTenant {other} is already served at {host}"
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
