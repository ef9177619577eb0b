"""A MediaTenant's status, written only if it has changed, and an Event for each condition that has news."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import reduce
from operator import getitem

import structlog

from media_operator.cluster import kinds
from media_operator.cluster.kinds import Object
from media_operator.cluster.kube import KubeError, NamespaceGone, NotFound, Undeclared
from media_operator.kubernetes_target.cluster import Cluster
from media_operator.plan.planner import with_transitions
from media_operator.tenant.annotations import PAUSED
from media_operator.tenant.spec import API_VERSION, KIND
from media_operator.tenant.spec_errors import SpecInvalid
from media_operator.tenant.status import Condition, TenantStatus

_log = structlog.stdlib.get_logger("media.controller")

AS_ASKED = frozenset({"Suspended", "Deleting", "CanaryPending"})
"""Reasons that need no action: somebody asked for it, or it only takes time."""
REFUSALS = frozenset({"Conflict", "SpecInvalid"})
"""Reasons for which nothing is done for a tenant."""


class StatusWriter:
    def __init__(self, cluster: Cluster) -> None:
        self._kube = cluster.kube
        self._cache = cluster.cache

    async def say_paused(self, body: Object) -> None:
        """Sets the reason of Ready. Its status, and everything else, stays as last seen."""
        seen = {condition.type: condition for condition in conditions_of(body)}
        seen["Ready"] = Condition(
            type="Ready",
            status=seen["Ready"].status if "Ready" in seen else "Unknown",
            reason="Paused",
            message=f"{PAUSED}: disabled; the operator neither looks nor acts until this annotation is removed",
            observedGeneration=body["metadata"].get("generation", 1),
        )
        facts = TenantStatus.model_validate({**body.get("status", {}), "conditions": []}, extra="ignore")
        await self.write(body, tuple(seen.values()), facts)

    async def write(self, body: Object, conditions: tuple[Condition, ...], facts: TenantStatus) -> None:
        """Writes the status if it has changed; then the Events."""
        before = conditions_of(body)
        stamped = with_transitions(before, conditions, datetime.now(UTC))
        status = facts.model_copy(
            update={"conditions": stamped, "observed_generation": body["metadata"].get("generation", 1)}
        ).model_dump(mode="json", by_alias=True)
        for condition in status["conditions"]:
            condition["lastTransitionTime"] = _timestamp(condition["lastTransitionTime"])
        if status == body.get("status"):
            return
        metadata = body["metadata"]
        applied = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
            "status": status,
        }
        try:
            self._cache.applied(kinds.MEDIA_TENANT, await self._apply(applied))
        except NamespaceGone:
            raise
        except NotFound:
            return
        await self._tell(body, before, stamped)

    async def _apply(self, applied: Object) -> Object:
        """Without what an older CRD does not have: the server would refuse all of the status. It names one field of an
        object, or more."""
        while True:
            try:
                return await self._kube.apply(kinds.MEDIA_TENANT, applied, subresource="status")
            except Undeclared as error:
                _log.warning("crd_outdated", lacks=error.fields, see="crds/mediatenants.yaml of this version")
                for path in error.fields:
                    *parents, last = path.split(".")
                    del reduce(getitem, parents, applied)[last]

    async def _tell(self, body: Object, before: list[Condition], now: list[Condition]) -> None:
        """One Event for each condition whose status changed, or that is new and says that something failed."""
        old = {condition.type: condition for condition in before}
        for condition in now:
            if not _is_news(condition, old.get(condition.type)):
                continue
            good = condition.status == ("False" if condition.type == "DeletionBlocked" else "True")
            good |= condition.reason in AS_ASKED
            try:
                await self._kube.create(kinds.EVENT, _event(body, condition, "Normal" if good else "Warning"))
            except KubeError as error:
                _log.warning("event_lost", reason=str(error))


def spec_invalid(body: Object, error: SpecInvalid) -> tuple[Condition, ...]:
    """Conditions of a resource that the model refuses. The CRD refuses it too, so it was stored under an older CRD."""
    generation = body["metadata"].get("generation", 1)
    return tuple(
        Condition(
            type=name, status="False", reason="SpecInvalid", message=str(error)[:1024], observedGeneration=generation
        )
        for name in ("Ready", "Accepted")
    )


def conditions_of(body: Object) -> list[Condition]:
    found = []
    for each in body.get("status", {}).get("conditions", []):
        when = datetime.fromisoformat(each["lastTransitionTime"]) if each.get("lastTransitionTime") else None
        # A newer version may have written more, before this one came back.
        found.append(Condition.model_validate({**each, "lastTransitionTime": when}, extra="ignore"))
    return found


def _timestamp(value: str) -> str:
    """RFC 3339 in UTC to the second, as Kubernetes writes it."""
    return datetime.fromisoformat(value).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _is_news(condition: Condition, before: Condition | None) -> bool:
    if before is not None:
        return condition.status != before.status
    return condition.status == "False" and (condition.reason in REFUSALS or condition.reason.endswith("Failed"))


def _event(body: Object, condition: Condition, kind: str) -> Object:
    metadata, now = body["metadata"], datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{metadata['name'][:200]}.", "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
        },
        "type": kind,
        "reason": condition.reason,
        "message": f"{condition.type} is {condition.status}: {condition.message}"[:1024],
        "source": {"component": kinds.MANAGER},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }


def human(size: int) -> str:
    """Three digits at most: `0 B`, `812 KiB`, `1.5 GiB`."""
    value, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1000:
            break
        value, unit = value / 1024, larger
    return f"{value:.1f} {unit}" if value < 10 and unit != "B" and value != int(value) else f"{value:.0f} {unit}"
