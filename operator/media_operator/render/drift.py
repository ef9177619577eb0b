"""Whether an object in the cluster is as wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from media_operator.cluster import kinds
from media_operator.cluster.kinds import Object
from media_operator.render.objects import hash_of
from media_operator.render.resources import same_quantity

HANDOVER = f"{kinds.MANAGER}-handover"
"""Field manager of `replicas_handed_over`."""
_WHOLE = ("selector", "podSelector", "labelSelector", "matchLabels", "nodeSelector")
"""Maps that belong to one manager as a whole: one more label selects other objects."""
_IDENTITIES: Mapping[str, tuple[str, ...]] = {
    "ownerReferences": ("uid",),
    "containers": ("name",),
    "volumes": ("name",),
    "imagePullSecrets": ("name",),
    "env": ("name",),
    "volumeMounts": ("mountPath",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
}
"""`x-kubernetes-list-map-keys` of lists. All other lists belong to one manager as a whole, such as the rules of a
NetworkPolicy: one more rule there is a hole."""
_QUANTITIES = ("requests", "limits", "hard", "sizeLimit")
"""Fields whose values the API server rewrites: 0.5 as 500m, 1024Mi as 1Gi."""


def stamped(wanted: Object) -> Object:
    """`wanted` with its hash as an annotation, by which `matches` knows what was applied last."""
    metadata = wanted["metadata"]
    annotations = {**metadata.get("annotations", {}), kinds.APPLIED: hash_of(wanted)}
    return {**wanted, "metadata": {**metadata, "annotations": annotations}}


def matches(wanted: Object, live: Object) -> bool:
    """Whether `live` has all fields of `wanted`, which is stamped. Other fields do not matter.

    The hash differs if a field is no longer wanted. The comparison finds fields that somebody changed.
    """
    return _contains(live, wanted, "")


def _contains(live: Any, wanted: Any, field: str) -> bool:
    match wanted:
        case dict():
            there = live if isinstance(live, dict) else {}
            of_quantities = field in _QUANTITIES
            if field in _WHOLE and any(there[key] for key in there.keys() - wanted.keys()):
                return False
            return all(
                same_quantity(there.get(key), value) if of_quantities else _contains(there.get(key), value, key)
                for key, value in wanted.items()
            )
        case list():
            return _contains_list(live or [], wanted, field)
        case None | "":  # the API server leaves these out
            return live in (None, "")
        case bool():
            return live is wanted
        case _ if field in _QUANTITIES:
            return same_quantity(live, wanted)
        case _:
            return bool(live == wanted)


def _contains_list(live: Sequence[Any], wanted: Sequence[Any], field: str) -> bool:
    """A list whose elements have an identity, as the API's schema says, may hold elements of others beside ours."""
    keys = _identity(field, wanted)
    if not keys:
        return len(live) == len(wanted) and all(
            _contains(one, another, field) for one, another in zip(live, wanted, strict=True)
        )
    there = {tuple(each.get(key) for key in keys): each for each in live if isinstance(each, dict)}
    return all(_contains(there.get(tuple(each.get(key) for key in keys)), each, field) for each in wanted)


def in_place_of(wanted: Any, live: Any, field: str = "") -> Any:
    """What `live` has in all places of `wanted`, in the same shape. Other fields are left out."""
    keys = _identity(field, wanted) if isinstance(wanted, list) else ()
    if isinstance(wanted, dict) and field not in _WHOLE:
        there = live if isinstance(live, dict) else {}
        return {key: in_place_of(value, there.get(key), key) for key, value in wanted.items()}
    if keys:
        named = {tuple(each.get(key) for key in keys): each for each in live or []}
        return [in_place_of(each, named.get(tuple(each.get(key) for key in keys))) for each in wanted]
    return live


def _identity(field: str, wanted: Sequence[Any]) -> tuple[str, ...]:
    if field != "ports":
        return _IDENTITIES.get(field, ())
    of_container = any("containerPort" in each for each in wanted)
    of_service = any("targetPort" in each for each in wanted)
    return ("containerPort", "protocol") if of_container else ("port", "protocol") if of_service else ()


def replicas_handed_over(wanted: Object, live: Object) -> Object | None:
    """An object to apply as manager `HANDOVER` before a Deployment that leaves its replicas to the autoscaler.

    A field that its only manager no longer applies falls back to its default. For replicas that is 1, until the
    autoscaler looks again. None: nothing to hand over.
    """
    if wanted["kind"] != kinds.DEPLOYMENT.kind or "replicas" in wanted["spec"]:
        return None
    replicas = live["spec"].get("replicas")
    if replicas is None:
        return None
    names = {name: live["metadata"][name] for name in ("name", "namespace")}
    return {
        "apiVersion": wanted["apiVersion"],
        "kind": wanted["kind"],
        "metadata": names,
        "spec": {"replicas": replicas},
    }
