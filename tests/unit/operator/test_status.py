"""A tenant's status, as it is written where CRD and operator are not of the same version."""

import copy
from types import SimpleNamespace
from typing import Any

from media_operator.cluster.kinds import Kind, Object
from media_operator.cluster.kube import Undeclared
from media_operator.controller.status import StatusWriter
from media_operator.tenant.status import Condition, TenantStatus, UsageStatus

BODY: Object = {"metadata": {"name": "acme", "namespace": "team", "uid": "u", "generation": 3}}
READY = Condition(type="Ready", status="True", reason="Serving", message="it is served", observedGeneration=3)


class Kube:
    """A server whose CRD does not have `lacks`, and which names one of them at a time, as servers may. `stored`: the
    status that it took last.
    """

    def __init__(self, *lacks: str) -> None:
        self._lacks = set(lacks)
        self.stored: Object = {}

    async def apply(self, kind: Kind, body: Object, *, subresource: str) -> Object:
        assert subresource == "status"
        if refused := sorted(self._lacks & _paths(body)):
            raise Undeclared("their CRD is older", 500, "", (refused[0],))
        self.stored = copy.deepcopy(body["status"])
        return body

    async def create(self, kind: Kind, body: Object) -> Object:
        return body


def _paths(body: Object, before: str = "") -> set[str]:
    return {before + name for name in body}.union(
        *(_paths(value, f"{before}{name}.") for name, value in body.items() if isinstance(value, dict))
    )


def writer(kube: Kube) -> StatusWriter:
    cluster: Any = SimpleNamespace(kube=kube, cache=SimpleNamespace(applied=lambda kind, body: None))
    return StatusWriter(cluster)


async def test_a_status_is_told_without_the_fields_that_an_older_crd_does_not_have() -> None:
    kube = Kube("status.usage.filesPercent", "status.bucket")
    facts = TenantStatus(bucket="media-acme", endpoint="https://acme", usage=UsageStatus(percent=7))
    await writer(kube).write(BODY, (READY,), facts)
    assert (kube.stored["endpoint"], kube.stored["usage"]["percent"]) == ("https://acme", 7)
    assert kube.stored["conditions"][0]["reason"] == "Serving"
    assert "bucket" not in kube.stored
    assert "filesPercent" not in kube.stored["usage"]


async def test_what_a_newer_version_wrote_into_a_status_keeps_no_tenant_from_being_paused() -> None:
    kube = Kube()
    later = {"status": {"endpoint": "https://acme", "later": 1, "usage": {"percent": 7, "later": 1}, "conditions": []}}
    told = {**READY.model_dump(mode="json", by_alias=True), "later": 1}
    later["status"]["conditions"] = [{**told, "type": "BucketReady"}]
    await writer(kube).say_paused({**BODY, **later})
    assert (kube.stored["endpoint"], kube.stored["usage"]["percent"]) == ("https://acme", 7)
    assert {each["type"]: each["reason"] for each in kube.stored["conditions"]} == {
        "BucketReady": "Serving",
        "Ready": "Paused",
    }
