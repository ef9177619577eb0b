"""The cluster's objects as the watches show them: MediaTenants, their children, their worker Jobs.

The cache is fed by watch events, by the answers to our own writes (so that the next pass sees them before a watch shows
them), and by whole lists. Only a list shows that an object was deleted while its watch was down. An older version of an
object never replaces a newer one.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from media_operator.cluster.kinds import DEPLOYMENT, JOB, MEDIA_TENANT, Kind, Object, is_older
from media_operator.tenant.spec import MediaTenant

REMEMBERED = 10_000
"""How many deletions are remembered. Late events come within seconds."""
_COMMON = re.compile(r"\D{1,64}")
"""Strings that many objects share. Strings with digits are mostly unique: versions, times, uids, hashes."""
STATUS_MATTERS = (DEPLOYMENT, JOB)
"""Kinds whose status is read. That of the others may change all the time: an autoscaler's metrics do every 15 s."""


class NamespacedName(NamedTuple):
    """Identifies an object among those of its kind."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


TenantKey = NamespacedName
"""Identifies a MediaTenant."""


def key_of(tenant: MediaTenant) -> TenantKey:
    return TenantKey(tenant.metadata.namespace, tenant.metadata.name)


class UniqueNames(NamedTuple):
    """Names of which each may belong to one MediaTenant only."""

    tenant_id: str
    bucket: str
    host: str | None


def unique_names(body: Object) -> UniqueNames:
    """The names that a MediaTenant claims, valid or not. The model's defaults fill in what it leaves out."""
    spec = body.get("spec", {})
    tenant_id = spec.get("tenantId") or body["metadata"]["name"]
    bucket = spec.get("storage", {}).get("bucket") or f"media-{tenant_id}"
    return UniqueNames(tenant_id, bucket, spec.get("api", {}).get("host"))


class Cache:
    def __init__(self) -> None:
        self._objects: defaultdict[Kind, dict[NamespacedName, Object]] = defaultdict(dict)
        self._owned: defaultdict[TenantKey, set[tuple[Kind, NamespacedName]]] = defaultdict(set)
        self._told: dict[TenantKey, Any] = {}
        """`_declared` of each MediaTenant when its key was last queued. The stored object does not serve for this: the
        answer to our own write of a status may contain a change of somebody else, whose event comes only later."""
        self._gone: dict[tuple[Kind, NamespacedName], str] = {}
        """Version at which an object was seen deleted. A late event or answer must not bring it back."""
        self.admitted: dict[tuple[Kind, NamespacedName], Any] = {}
        """What admission made of an object that we applied, where it changed that: see `TenantObjects`."""

    # --- changes ----------------------------------------------------------------------------------------------------

    def see(self, kind: Kind, event: str | None, body: Object) -> set[TenantKey]:
        """Takes a watch event. Returns the MediaTenants to look at because of it; none if nothing has changed.

        A MediaTenant's status does not count: the operator writes it, and the next pass overwrites what others write.
        """
        name = _name_of(body)
        if event == "DELETED":
            return self._remove(kind, name, _version(body))
        concerned = self._store(kind, name, body)
        return self._declares_anew(name) if kind == MEDIA_TENANT else concerned

    def applied(self, kind: Kind, body: Object) -> None:
        """Takes the API server's answer to a write of ours. No MediaTenant has to be looked at because of it."""
        self._store(kind, _name_of(body), body)

    def replace(
        self, kind: Kind, listed: Sequence[Object], resource_version: str, *, namespace: str | None = None
    ) -> set[TenantKey]:
        """Takes a whole list, of one namespace or of all. An object that is neither in it nor newer than it is gone."""
        keys: set[TenantKey] = set()
        for body in listed:
            keys |= self.see(kind, None, body)
        there = {_name_of(body) for body in listed}
        for name in [name for name in self._objects[kind] if name not in there]:
            if namespace in (None, name.namespace):
                keys |= self._remove(kind, name, resource_version)
        return keys

    # --- reads ------------------------------------------------------------------------------------------------------

    def tenants(self) -> Mapping[TenantKey, Object]:
        return self._objects[MEDIA_TENANT]

    def children(self, key: TenantKey) -> Mapping[tuple[Kind, str], Object]:
        """(kind, name) -> object, without Jobs."""
        owned = self._owned.get(key, ())
        return {(kind, name.name): self._objects[kind][name] for kind, name in owned if kind != JOB}

    def jobs(self, key: TenantKey) -> list[Object]:
        return [self._objects[JOB][name] for kind, name in self._owned.get(key, ()) if kind == JOB]

    # --- bookkeeping ------------------------------------------------------------------------------------------------

    def _store(self, kind: Kind, name: NamespacedName, body: Object) -> set[TenantKey]:
        """Returns the owners, also those before. Empty: nothing has changed, or a newer version is known."""
        version = _version(body)
        before = self._objects[kind].get(name)
        for known in (self._gone.get((kind, name)), None if before is None else _version(before)):
            if known is not None and (version == known or is_older(version, known)):
                return set()
        self._gone.pop((kind, name), None)
        metadata = {name: value for name, value in body["metadata"].items() if name != "managedFields"}
        body = self._objects[kind][name] = _interned({**body, "metadata": metadata})
        if before is not None and _said(kind, body) == _said(kind, before):
            return set()
        owners, past = _owners(body), _owners(before) if before is not None else set()
        for key in past - owners:
            self._disown(key, kind, name)
        for key in owners:
            self._owned[key].add((kind, name))
        return owners | past

    def _remove(self, kind: Kind, name: NamespacedName, version: str) -> set[TenantKey]:
        before = self._objects[kind].get(name)
        if before is not None and is_older(version, _version(before)):
            return set()
        self.admitted.pop((kind, name), None)
        self._remember_gone(kind, name, version)  # also if unknown: the answer to our write of it may come later
        if before is None:
            return set()
        del self._objects[kind][name]
        if kind == MEDIA_TENANT:
            self._told.pop(name, None)
            return {name}
        keys = _owners(before)
        for key in keys:
            self._disown(key, kind, name)
        return keys

    def _declares_anew(self, key: TenantKey) -> set[TenantKey]:
        body = self._objects[MEDIA_TENANT].get(key)
        if body is None or self._told.get(key) == _declared(body):
            return set()
        self._told[key] = _declared(body)
        return {key}

    def _disown(self, key: TenantKey, kind: Kind, name: NamespacedName) -> None:
        self._owned[key].discard((kind, name))
        if not self._owned[key]:
            del self._owned[key]

    def _remember_gone(self, kind: Kind, name: NamespacedName, version: str) -> None:
        known = self._gone.pop((kind, name), version)
        self._gone[kind, name] = known if is_older(version, known) else version
        if len(self._gone) > REMEMBERED:
            for oldest in list(self._gone)[: REMEMBERED // 2]:
                del self._gone[oldest]


def _name_of(body: Object) -> NamespacedName:
    return NamespacedName(body["metadata"].get("namespace", ""), body["metadata"]["name"])


def _version(body: Object) -> str:
    return str(body["metadata"].get("resourceVersion", ""))


def _said(kind: Kind, body: Object) -> Object:
    """The parts of an object whose change matters."""
    metadata = {name: value for name, value in body["metadata"].items() if name != "resourceVersion"}
    said = {**body, "metadata": metadata}
    return said if kind in STATUS_MATTERS else {**said, "status": None}


def _interned(value: Any) -> Any:
    """A copy in which equal strings are one object. This halves the memory: all tenants' objects are nearly equal."""
    match value:
        case dict():
            return {sys.intern(key): _interned(each) for key, each in value.items()}
        case list():
            return [_interned(each) for each in value]
        case str() if _COMMON.fullmatch(value):
            return sys.intern(value)
        case _:
            return value


def _owners(body: Object) -> set[TenantKey]:
    namespace = body["metadata"].get("namespace", "")
    return {
        TenantKey(namespace, owner["name"])
        for owner in body["metadata"].get("ownerReferences", [])
        if owner.get("controller")
        and owner["kind"] == MEDIA_TENANT.kind
        and owner["apiVersion"].startswith(f"{MEDIA_TENANT.group}/")
    }


def _declared(body: Object) -> Any:
    """The parts of a MediaTenant that people and other controllers write. The operator itself writes the status."""
    metadata = body["metadata"]
    return (
        metadata.get("uid"),
        metadata.get("generation"),
        metadata.get("annotations"),
        metadata.get("deletionTimestamp"),
        metadata.get("finalizers"),
    )
