"""The environment of api and workers."""

from __future__ import annotations

from collections.abc import Mapping

from media_operator.cluster.kinds import Object, child_name
from media_operator.render.secrets import DATABASE_URL, S3_FILE, S3_KEY_ID, S3_SECRET, in_environment
from media_operator.settings import PlatformSettings, StoreAdminSettings
from media_operator.tenant.spec import MediaTenant


def common_environment(tenant: MediaTenant, platform: PlatformSettings, store: StoreAdminSettings) -> dict[str, str]:
    """Of api and workers alike; what is secret comes from the Secret, see `container_env`."""
    optional = {
        "MEDIA_S3_PUBLIC_ENDPOINT": store.public_endpoint,
        "MEDIA_S3_SSE": store.sse,
        "MEDIA_S3_SSE_KMS_KEY_ID": store.sse_kms_key_id,
        "MEDIA_S3_CREDENTIALS_FILE": f"{STORE_KEY}/{S3_FILE}" if store.credentials == "role" else None,
    }
    return {
        "MEDIA_TENANT_ID": tenant.tenant_id,
        "MEDIA_STORE": "s3",
        "MEDIA_S3_ENDPOINT": store.endpoint,
        **{name: value for name, value in optional.items() if value},
        "MEDIA_S3_BUCKET": tenant.bucket,
        "MEDIA_S3_REGION": store.region,
        "MEDIA_LOG_LEVEL": platform.log_level,
        **outside_environment(platform),
    }


TRUST, TRUSTED = "/etc/media/trust", "authorities.pem"
NEAR = ("localhost", "127.0.0.1", "::1", ".svc", ".cluster.local")
"""What no proxy is asked for."""


def outside_environment(platform: PlatformSettings) -> dict[str, str]:
    """Whom to trust, and through which proxy. The names are those of the libraries: OpenSSL and obstore read
    SSL_CERT_FILE, boto3 AWS_CA_BUNDLE, requests REQUESTS_CA_BUNDLE; all read the proxies."""
    environment: dict[str, str] = {}
    if platform.trust_config_map:
        names = ("SSL_CERT_FILE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
        environment |= dict.fromkeys(names, f"{TRUST}/{TRUSTED}")
    proxies = {"HTTPS_PROXY": platform.https_proxy, "HTTP_PROXY": platform.http_proxy}
    if any(proxies.values()):
        further = [name for each in platform.no_proxy.split(",") if (name := each.strip())]
        told = {name: value for name, value in proxies.items() if value} | {"NO_PROXY": ",".join([*NEAR, *further])}
        environment |= {each: value for name, value in told.items() for each in (name, name.lower())}
    return environment


def trust_volume(platform: PlatformSettings, pod: Object, container: Object) -> None:
    """Adds the certificate authorities to a pod. A folder, not a subPath, so that renewed ones reach running pods."""
    if not platform.trust_config_map:
        return
    items = [{"key": platform.trust_key, "path": TRUSTED}]
    pod["volumes"].append({"name": "trust", "configMap": {"name": platform.trust_config_map, "items": items}})
    container["volumeMounts"].append({"name": "trust", "mountPath": TRUST, "readOnly": True})


STORE_KEY = "/etc/media/store"


def store_key_volume(tenant: MediaTenant, store: StoreAdminSettings, pod: Object, container: Object) -> None:
    """Adds the temporary key to a pod. A folder, not a subPath, so that each new one reaches running pods."""
    if store.credentials != "role":
        return
    secret, items = child_name(tenant.tenant_id, "credentials"), [{"key": S3_FILE, "path": S3_FILE}]
    pod["volumes"].append({"name": "store-key", "secret": {"secretName": secret, "items": items}})
    container["volumeMounts"].append({"name": "store-key", "mountPath": STORE_KEY, "readOnly": True})


_VARIABLES = {
    DATABASE_URL: "MEDIA_DATABASE_URL",
    S3_KEY_ID: "MEDIA_S3_ACCESS_KEY_ID",
    S3_SECRET: "MEDIA_S3_SECRET_ACCESS_KEY",
}


def container_env(tenant: MediaTenant, store: StoreAdminSettings, plain: Mapping[str, str]) -> list[Object]:
    secret = child_name(tenant.tenant_id, "credentials")
    hidden = {_VARIABLES[key]: key for key in in_environment(store)}
    return [
        *({"name": name, "value": value} for name, value in plain.items()),
        *({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}} for name, key in hidden.items()),
    ]
