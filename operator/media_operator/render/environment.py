"""The environment of api and workers."""

from __future__ import annotations

from collections.abc import Mapping

from media_operator.cluster.kinds import Object, child_name
from media_operator.render.secrets import DATABASE_URL, S3_KEY_ID, S3_SECRET
from media_operator.settings import PlatformSettings, StoreAdminSettings
from media_operator.tenant.spec import MediaTenant


def common_environment(tenant: MediaTenant, platform: PlatformSettings, store: StoreAdminSettings) -> dict[str, str]:
    """Variables of both api and workers. Secret ones come from the Secret, see `container_env`."""
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


def container_env(tenant: MediaTenant, plain: Mapping[str, str]) -> list[Object]:
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
