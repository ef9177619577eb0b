"""All objects of a tenant on a cluster except Secrets and Jobs."""

from __future__ import annotations

from media_operator.cluster import kinds
from media_operator.cluster.kinds import Object
from media_operator.render.api import api_deployment, api_service, autoscaler, budget
from media_operator.render.jobs import cron_job, sweep_minute
from media_operator.render.network import api_network_policy, http_route, ingress, worker_network_policy
from media_operator.render.objects import Inputs, tenant_object, with_further
from media_operator.settings import PlatformSettings, StoreAdminSettings
from media_operator.tenant.spec import MediaTenant


def workloads(
    tenant: MediaTenant, platform: PlatformSettings, store: StoreAdminSettings, inputs: Inputs
) -> list[Object]:
    """All objects except Secrets and Jobs, in the order of `kinds.CHILDREN`."""
    api, suspended = tenant.spec.api, tenant.spec.suspended
    scaled = api.autoscaling is not None and not suspended
    most = api.autoscaling.max if scaled and api.autoscaling else 1 if suspended else api.replicas
    objects = [
        tenant_object(tenant, kinds.SERVICE_ACCOUNT) | {"automountServiceAccountToken": False},
        api_network_policy(tenant, platform, store, inputs),
        worker_network_policy(tenant, platform, store, inputs),
        api_deployment(tenant, platform, store, inputs, None if scaled else most),
        api_service(tenant),
    ]
    if tenant.spec.auth.oidc is None:
        objects.append(tenant_object(tenant, kinds.CONFIG_MAP) | {"data": {"jwks.json": inputs.jwks}})
    if tenant.spec.namespace_quota is not None:
        objects.append(_resource_quota(tenant))
    if most >= 2:  # a disruption budget for a single pod would only block drains
        objects.append(budget(tenant))
    if scaled:
        objects.append(autoscaler(tenant))
    if api.host is not None:
        objects.append(http_route(tenant, platform) if platform.gateway else ingress(tenant, platform))
    objects.append(cron_job(tenant, platform, store, inputs, "sweep", f"{sweep_minute(tenant)} * * * *"))
    if tenant.spec.scan.enabled:
        objects.append(cron_job(tenant, platform, store, inputs, "rescan", tenant.spec.scan.rescan_schedule))
    order = {kind: number for number, kind in enumerate(kinds.CHILDREN)}
    objects = [with_further(platform, each) for each in objects]
    return sorted(objects, key=lambda each: order[kinds.of(each)])


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
    return tenant_object(tenant, kinds.RESOURCE_QUOTA) | {"spec": {"hard": given}}
