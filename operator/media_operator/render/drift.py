"""Whether an object in the cluster is as it has to be."""

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
"""Maps that belong to one manager as a whole: a label more selects something else."""
_IDENTITIES: Mapping[str, tuple[str, ...]] = {
    "ownerReferences": ("uid",),
    "containers": ("name",),
    "volumes": ("name",),
    "imagePullSecrets": ("name",),
    "env": ("name",),
    "volumeMounts": ("mountPath",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
}
"""`x-kubernetes-list-map-keys`; all other lists belong to one manager as a whole, such as the rules of a
NetworkPolicy, where an element more is a hole."""
_QUANTITIES = ("requests", "limits", "hard", "sizeLimit")
"""Fields that the API server writes in a form of its own: 0.5 as 500m, 1024Mi as 1Gi."""


def stamped(wanted: Object) -> Object:
    """With the hash by which `matches` knows that it is what was applied last."""
    metadata = wanted["metadata"]
    annotations = {**metadata.get("annotations", {}), kinds.APPLIED: hash_of(wanted)}
    return {**wanted, "metadata": {**metadata, "annotations": annotations}}


def matches(wanted: Object, live: Object) -> bool:
    """Whether all of `wanted` (stamped) is in `live`, whatever else is there.

    The hash tells of fields that are not wanted any more; the comparison of those that somebody changed.
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
    """A list whose elements have an identity, as the API's schema says, may hold others' beside ours."""
    keys = _identity(field, wanted)
    if not keys:
        return len(live) == len(wanted) and all(
            _contains(one, another, field) for one, another in zip(live, wanted, strict=True)
        )
    there = {tuple(each.get(key) for key in keys): each for each in live if isinstance(each, dict)}
    return all(_contains(there.get(tuple(each.get(key) for key in keys)), each, field) for each in wanted)


def _identity(field: str, wanted: Sequence[Any]) -> tuple[str, ...]:
    if field != "ports":
        return _IDENTITIES.get(field, ())
    of_container = any("containerPort" in each for each in wanted)
    of_service = any("targetPort" in each for each in wanted)
    return ("containerPort", "protocol") if of_container else ("port", "protocol") if of_service else ()


def replicas_handed_over(wanted: Object, live: Object) -> Object | None:
    """What is to be applied, as `HANDOVER`, before a Deployment that leaves its replicas to the autoscaler from now on.

    A field that its only manager does not apply any more falls back to its default, which is 1 here, until the
    autoscaler's next look. None: nothing to hand over.
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
