"""CPU and memory: what is asked for, what is the default of the rest, and quantities that are written in many ways."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from media_operator.cluster.kinds import Object
from media_operator.tenant.spec import Resources

GPU = "nvidia.com/gpu"


def with_defaults(asked: Resources, default: Resources) -> Object:
    """What is asked for, and the default of what is not: under a ResourceQuota nothing may be left open.

    A default never contradicts: no request beside a limit alone (it counts as the request), no limit below a request.
    """
    requests: dict[str, str] = dict(asked.requests.items())
    limits: dict[str, str] = dict(asked.limits.items())
    for name, value in default.requests.items():
        if name not in requests and name not in limits:
            requests[name] = value
    for name, value in default.limits.items():
        if name not in limits:
            limits[name] = max(value, requests.get(name, value), key=lambda each: quantity(each) or Decimal(0))
    for name in filter(is_extended, requests):
        limits.setdefault(name, requests[name])  # it needs a limit, which is what it requests
    return {name: values for name, values in (("requests", requests), ("limits", limits)) if values}


def is_extended(name: str) -> bool:
    """A device such as nvidia.com/gpu: it is given whole, and to one container alone."""
    return "/" in name


def quantity(value: Any) -> Decimal | None:
    try:
        return Decimal(parse_quantity(str(value)))
    except ValueError:
        return None


def same_quantity(live: Any, wanted: Any) -> bool:
    return bool(live == wanted) or (quantity(live) == quantity(wanted) is not None)
