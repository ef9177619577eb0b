"""The tenant's two Secrets, and whether they hold what was written."""

from __future__ import annotations

import base64
from collections.abc import Mapping

from media_operator.cluster import kinds
from media_operator.cluster.kinds import Object
from media_operator.render.objects import hash_of, tenant_object
from media_operator.settings import StoreAdminSettings
from media_operator.tenant.annotations import ROTATE_KEYS
from media_operator.tenant.spec import MediaTenant

DATABASE_URL = "database-url"
S3_KEY_ID = "s3-access-key-id"
S3_SECRET = "s3-secret-access-key"  # noqa: S105  a name
S3_FILE = "s3-credentials.json"
"""A key as `media_core.store.credentials` reads it from a file, which running pods see anew."""
SIGNING_KEYS = "signing-keys.json"


def credentials_secret(tenant: MediaTenant, values: Mapping[str, str], *, rotation: str = "") -> Object:
    return _secret(tenant, "credentials", values, rotation)


def signing_keys_secret(tenant: MediaTenant, keys: str, *, rotation: str = "") -> Object:
    """The private keys, for whoever issues tokens. No pod of the tenant mounts this Secret."""
    return _secret(tenant, "signing-keys", {SIGNING_KEYS: keys}, rotation)


def _secret(tenant: MediaTenant, part: str, values: Mapping[str, str], rotation: str) -> Object:
    body = tenant_object(tenant, kinds.SECRET, part)
    body["metadata"]["annotations"] = {kinds.CHECKSUM: hash_of(dict(values)), ROTATE_KEYS: rotation}
    encoded = {name: base64.b64encode(value.encode()).decode() for name, value in values.items()}
    return {**body, "type": "Opaque", "data": encoded}


def secret_values(secret: Object) -> dict[str, str]:
    return {name: base64.b64decode(value).decode() for name, value in (secret.get("data") or {}).items()}


def secret_is_intact(secret: Object) -> bool:
    """Whether its data is as we wrote it."""
    try:
        values = secret_values(secret)
    except ValueError:
        return False
    return bool(secret["metadata"].get("annotations", {}).get(kinds.CHECKSUM) == hash_of(values))


def in_environment(store: StoreAdminSettings) -> tuple[str, ...]:
    """What pods get of the Secret as environment variables, so that only new pods see a change.

    A temporary key is none of it: running pods read it from a file.
    """
    return (DATABASE_URL,) if store.credentials == "role" else (DATABASE_URL, S3_KEY_ID, S3_SECRET)


def needed(store: StoreAdminSettings) -> set[str]:
    """What the Secret has to hold before a pod can start."""
    return {*in_environment(store), *([S3_FILE] if store.credentials == "role" else [])}


def credentials_hash(credentials: Mapping[str, str], store: StoreAdminSettings) -> str:
    return hash_of({name: credentials[name] for name in in_environment(store) if name in credentials})
