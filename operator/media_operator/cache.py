"""What the watches said of the cluster: MediaTenants, their children, their worker Jobs.

Fed by watch events, by our own writes (so that the next pass sees them before any watch tells), and by whole lists,
which alone tell of an object that went while its watch was down. An older word never replaces a newer one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from media_operator.kinds import JOB, MEDIA_TENANT, Kind, Object


class TenantKey(NamedTuple):
    namespace: str
    name: str


class _Place(NamedTuple):
    kind: Kind
    namespace: str
    name: str


class Cache:
    def __init__(self) -> None:
        self._tenants: dict[TenantKey, Object] = {}
        self._objects: dict[_Place, Object] = {}
        self._owned: defaultdict[TenantKey, set[_Place]] = defaultdict(set)
        self._gone: dict[_Place, int] = {}
        """Version at which we saw it deleted: a straggling event must not bring it back."""

    # --- what is said -----------------------------------------------------------------------------------------------

    def see(self, kind: Kind, event: str | None, body: Object) -> set[TenantKey]:
        """Takes a watch event; returns the MediaTenants to look at because of it, none if it says nothing new."""
        place = _place(kind, body)
        if event == "DELETED":
            return self._remove(place, _version(body))
        return self._store(place, body)

    def applied(self, kind: Kind, body: Object) -> None:
        """What the API server answered to a write of ours; nobody need look because of it."""
        self._store(_place(kind, body), body)

    def replace(
        self, kind: Kind, listed: Sequence[Object], resource_version: str, *, namespace: str | None = None
    ) -> set[TenantKey]:
        """A whole list (of one namespace, or of all): what is not in it, and is not newer than it, is gone."""
        keys: set[TenantKey] = set()
        there = set()
        for body in listed:
            there.add(_place(kind, body))
            keys |= self._store(_place(kind, body), body)
        known = (
            [_Place(kind, key.namespace, key.name) for key in self._tenants]
            if kind == MEDIA_TENANT
            else [place for place in self._objects if place.kind == kind]
        )
        at = int(resource_version) if resource_version.isdigit() else 0
        for place in known:
            if place not in there and namespace in (None, place.namespace):
                body = self._tenants[TenantKey(*place[1:])] if kind == MEDIA_TENANT else self._objects[place]
                if _version(body) <= at:
                    keys |= self._remove(place, at)
        return keys

    # --- what is known ----------------------------------------------------------------------------------------------

    def tenants(self) -> Mapping[TenantKey, Object]:
        return self._tenants

    def children(self, key: TenantKey) -> Mapping[tuple[Kind, str], Object]:
        """(kind, name) -> object; Jobs are apart."""
        return {
            (place.kind, place.name): self._objects[place] for place in self._owned.get(key, ()) if place.kind != JOB
        }

    def jobs(self, key: TenantKey) -> list[Object]:
        return [self._objects[place] for place in self._owned.get(key, ()) if place.kind == JOB]

    def all_jobs(self) -> Iterator[Object]:
        yield from (body for place, body in self._objects.items() if place.kind == JOB)

    # --- bookkeeping ------------------------------------------------------------------------------------------------

    def _store(self, place: _Place, body: Object) -> set[TenantKey]:
        version = _version(body)
        if self._gone.get(place, -1) >= version:
            return set()
        self._gone.pop(place, None)
        metadata = {name: value for name, value in body["metadata"].items() if name != "managedFields"}
        body = {**body, "metadata": metadata}
        if place.kind == MEDIA_TENANT:
            key = TenantKey(place.namespace, place.name)
            before = self._tenants.get(key)
            if before is not None and _version(before) >= version:
                return set()
            self._tenants[key] = body
            return {key} if before is None or _declared(before) != _declared(body) else set()
        before = self._objects.get(place)
        if before is not None and _version(before) >= version:
            return set()
        keys = set(_owners(body))
        if before is not None:
            for key in set(_owners(before)) - keys:
                self._disown(key, place)
            keys |= set(_owners(before))
        self._objects[place] = body
        for key in _owners(body):
            self._owned[key].add(place)
        return keys

    def _remove(self, place: _Place, version: int) -> set[TenantKey]:
        if place.kind == MEDIA_TENANT:
            key = TenantKey(place.namespace, place.name)
            before = self._tenants.get(key)
            if before is None or _version(before) > version:
                return set()
            del self._tenants[key]
            return {key}
        before = self._objects.get(place)
        if before is None or _version(before) > version:
            return set()
        self._gone[place] = version
        if len(self._gone) > 10_000:  # stragglers come within seconds
            for old in list(self._gone)[:5_000]:
                del self._gone[old]
        del self._objects[place]
        keys = set(_owners(before))
        for key in keys:
            self._disown(key, place)
        return keys

    def _disown(self, key: TenantKey, place: _Place) -> None:
        self._owned[key].discard(place)
        if not self._owned[key]:
            del self._owned[key]


def _place(kind: Kind, body: Object) -> _Place:
    return _Place(kind, body["metadata"].get("namespace", ""), body["metadata"]["name"])


def _version(body: Object) -> int:
    """Comparable within one API server, as Kubernetes promises since 1.35 and always did."""
    version = str(body["metadata"].get("resourceVersion", ""))
    return int(version) if version.isdigit() else 0


def _owners(body: Object) -> Iterable[TenantKey]:
    for owner in body["metadata"].get("ownerReferences", []):
        if owner["kind"] == MEDIA_TENANT.kind and owner["apiVersion"].startswith(MEDIA_TENANT.group):
            yield TenantKey(body["metadata"].get("namespace", ""), owner["name"])


def _declared(body: Object) -> Any:
    """What people and other controllers say; the status is our own word."""
    metadata = body["metadata"]
    return (
        metadata.get("uid"),
        metadata.get("generation"),
        metadata.get("annotations"),
        metadata.get("deletionTimestamp"),
        metadata.get("finalizers"),
    )
