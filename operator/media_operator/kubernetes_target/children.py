"""A tenant's children (the objects that the operator made for it), as the cache has them at one moment."""

from __future__ import annotations

import json
from collections.abc import Mapping

from media_core.auth import tokens
from media_operator import render
from media_operator.backends.store_keys import Session, session_in
from media_operator.cluster import kinds
from media_operator.cluster.cache import Cache, key_of
from media_operator.cluster.kinds import Kind, Object, child_name
from media_operator.settings import StoreAdminSettings
from media_operator.tenant.annotations import ROTATE_KEYS
from media_operator.tenant.spec import MediaTenant


class Children:
    """`all`: (kind, name) -> object, without Jobs.

    A Secret counts as missing if somebody edited it, or if it is of an earlier MediaTenant of this name: Kubernetes'
    garbage collector is about to delete that one, and its keys would be gone while pods use them.
    """

    def __init__(self, cache: Cache, tenant: MediaTenant, store: StoreAdminSettings) -> None:
        self.all: Mapping[tuple[Kind, str], Object] = cache.children(key_of(tenant))
        self._tenant = tenant
        self._store = store
        credentials, signing = self._secret("credentials"), self._secret("signing-keys")
        self.deployment = self.all.get((kinds.DEPLOYMENT, child_name(tenant.tenant_id)))
        self.credentials: Mapping[str, str] = render.secret_values(credentials) if credentials else {}
        self.credentials_rotation = annotation(credentials, ROTATE_KEYS)
        self.signing_keys: list[tokens.Jwk] = _signing_keys(signing)
        self.signing_rotation = annotation(signing, ROTATE_KEYS)

    def _secret(self, part: str) -> Object | None:
        found = self.all.get((kinds.SECRET, child_name(self._tenant.tenant_id, part)))
        if found is None or not render.secret_is_intact(found):
            return None
        owners = found["metadata"].get("ownerReferences", [])
        return found if any(owner["uid"] == self._tenant.metadata.uid for owner in owners) else None

    @property
    def has_secrets(self) -> bool:
        """The Secrets hold all that the tenant's pods need."""
        has_issuer = bool(self.signing_keys) or self._tenant.spec.auth.oidc is not None
        return render.needed(self._store) <= self.credentials.keys() and has_issuer

    @property
    def session(self) -> Session | None:
        """The temporary key that the Secret holds."""
        return session_in(self.credentials.get(render.S3_FILE))

    @property
    def has_rolled(self) -> bool:
        """Every api pod was started with the current credentials."""
        if self.deployment is None:
            return True
        status, generation = self.deployment.get("status", {}), self.deployment["metadata"].get("generation", 0)
        told = render.credentials_hash(self.credentials, self._store)
        template = self.deployment["spec"]["template"]["metadata"].get("annotations", {})
        return bool(
            template.get(kinds.CREDENTIALS) == told
            and status.get("observedGeneration", 0) >= generation
            and status.get("updatedReplicas", 0) == status.get("replicas", 0)
        )

    @property
    def api_environment(self) -> Mapping[str, str]:
        """The environment variables of the api's container that have a plain value."""
        if self.deployment is None:
            return {}
        containers = self.deployment["spec"]["template"]["spec"]["containers"]
        return {each["name"]: each.get("value", "") for container in containers for each in container.get("env", [])}


def annotation(body: Object | None, name: str) -> str:
    """Empty where there is none."""
    return str((body or {}).get("metadata", {}).get("annotations", {}).get(name, ""))


def _signing_keys(secret: Object | None) -> list[tokens.Jwk]:
    if secret is None:
        return []
    keys: list[tokens.Jwk] = json.loads(render.secret_values(secret)[render.SIGNING_KEYS])["keys"]
    return keys
