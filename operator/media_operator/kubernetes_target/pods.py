"""What a pod's status says."""

from __future__ import annotations

from datetime import UTC, datetime

from media_operator.cluster.kinds import Object

LOST_SECONDS = 60.0
"""A worker's pod that still exists this long after its kill time was lost with its node. No migration waits for it."""


def is_working(pod: Object) -> bool:
    """Whether it is a worker's pod and its processes may still run."""
    metadata = pod["metadata"]
    if metadata["labels"].get("app.kubernetes.io/component") != "worker":
        return False
    if pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return False
    killed = metadata.get("deletionTimestamp")  # when its grace period ends
    return killed is None or (datetime.now(UTC) - datetime.fromisoformat(killed)).total_seconds() < LOST_SECONDS


def trouble(pod: Object) -> str | None:
    """Why it does not start, as the kubelet or the scheduler says; None: neither says."""
    name, status = pod["metadata"]["name"], pod.get("status", {})
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        waiting = container.get("state", {}).get("waiting", {})
        ended = container.get("lastState", {}).get("terminated", {})
        if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            said = (ended.get("message") or waiting.get("message") or "").strip().splitlines()
            return f"pod {name}: {waiting['reason']}" + (f": {said[-1]}" if said else "")
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"pod {name} is not scheduled: {condition.get('message', condition.get('reason'))}"
    return None
