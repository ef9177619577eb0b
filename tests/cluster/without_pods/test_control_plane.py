"""The control plane for tests behaves like a real one, and fails on demand like a real one."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster.control_plane.api import PATIENCE, Api, ApiError, gone, seen
from tests.cluster.control_plane.fault_proxy import FaultProxy
from tests.cluster.control_plane.server import ControlPlane
from tests.stopwatch import Stopwatch

pytestmark = pytest.mark.control_plane

WIDGETS: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.tests.example.com"},
    "spec": {
        "group": "tests.example.com",
        "names": {"kind": "Widget", "plural": "widgets", "singular": "widget"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "properties": {"id": {"type": "string", "maxLength": 40}, "size": {"type": "integer"}},
                                "x-kubernetes-validations": [
                                    {"rule": "self.id == oldSelf.id", "message": "id is immutable"},
                                    {"rule": "!has(self.size) || self.size > 0", "message": "size must be positive"},
                                ],
                            },
                            "status": {"type": "object", "properties": {"ready": {"type": "boolean"}}},
                        },
                    }
                },
            }
        ],
    },
}


@pytest.fixture(scope="module")
async def widgets(control_plane: ControlPlane) -> None:
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.tests.example.com"
    async with Api(control_plane) as api:
        await api.apply(path, WIDGETS, manager="tests")
        await seen(api, path, established)


def established(definition: dict[str, Any]) -> bool:
    conditions = definition.get("status", {}).get("conditions") or []  # null at first
    return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def config_maps(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps"


def jobs(namespace: str) -> str:
    return f"/apis/batch/v1/namespaces/{namespace}/jobs"


def job(name: str, **spec: Any) -> dict[str, Any]:
    pod = {"restartPolicy": "Never", "containers": [{"name": "work", "image": "localhost/none:1"}]}
    spec = {"template": {"spec": pod}, **spec}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}


async def test_it_is_ready_within_5_seconds_and_leaves_nothing(tmp_path: Path) -> None:
    another = ControlPlane(tmp_path / "another")
    started = Stopwatch()
    async with another:
        took = started.seconds()
        async with Api(another) as api:
            assert (await api.get("/version"))["gitVersion"].startswith("v1.")
    assert took < 5
    with pytest.raises(httpx.ConnectError):
        async with Api(another) as api:
            await api.get("/version")


async def test_server_side_apply_keeps_what_other_managers_own(api: Api, namespace: str) -> None:
    path = f"{config_maps(namespace)}/shared"
    await api.apply(path, config_map("shared", ours="1"), manager="operator")
    await api.apply(path, config_map("shared", theirs="2"), manager="someone-else")

    applied = await api.apply(path, config_map("shared", ours="3"), manager="operator")

    assert applied["data"] == {"ours": "3", "theirs": "2"}


async def test_server_side_apply_names_a_conflict_and_force_ends_it(api: Api, namespace: str) -> None:
    path = f"{config_maps(namespace)}/shared"
    await api.apply(path, config_map("shared", size="1"), manager="someone-else")

    with pytest.raises(ApiError, match=r'409 Conflict.*conflict with "someone-else".*\.data\.size'):
        await api.apply(path, config_map("shared", size="2"), manager="operator")

    taken = await api.apply(path, config_map("shared", size="2"), manager="operator", force=True)
    assert taken["data"] == {"size": "2"}


async def test_a_field_that_is_no_longer_applied_is_removed(api: Api, namespace: str) -> None:
    path = f"{config_maps(namespace)}/shared"
    await api.apply(path, config_map("shared", kept="1", dropped="1"), manager="operator")
    assert (await api.apply(path, config_map("shared", kept="1"), manager="operator"))["data"] == {"kept": "1"}


@pytest.mark.usefixtures("widgets")
async def test_cel_rules_of_a_crd_are_enforced(api: Api, namespace: str) -> None:
    path = f"/apis/tests.example.com/v1/namespaces/{namespace}/widgets/one"
    widget = {"apiVersion": "tests.example.com/v1", "kind": "Widget", "metadata": {"name": "one"}}
    with pytest.raises(ApiError, match=r"422 Invalid.*size must be positive"):
        await api.apply(path, {**widget, "spec": {"id": "a", "size": 0}}, manager="tests")
    await api.apply(path, {**widget, "spec": {"id": "a"}}, manager="tests")
    with pytest.raises(ApiError, match=r"422 Invalid.*id is immutable"):
        await api.apply(path, {**widget, "spec": {"id": "b"}}, manager="tests")


@pytest.mark.usefixtures("widgets")
async def test_status_is_written_through_its_subresource_only(api: Api, namespace: str) -> None:
    path = f"/apis/tests.example.com/v1/namespaces/{namespace}/widgets/one"
    widget = {"apiVersion": "tests.example.com/v1", "kind": "Widget", "metadata": {"name": "one"}}
    created = await api.apply(path, {**widget, "spec": {"id": "a"}, "status": {"ready": True}}, manager="tests")
    assert "status" not in created
    await api.apply(f"{path}/status", {**widget, "status": {"ready": True}}, manager="tests")
    assert (await api.get(path))["status"] == {"ready": True}


async def test_rbac_allows_what_a_role_grants_and_no_more(
    api: Api, control_plane: ControlPlane, namespace: str
) -> None:
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
    await api.create(f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": "reader"}})
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}]
    await api.create(f"{rbac}/roles", {"metadata": {"name": "reader"}, "rules": rules})
    binding = {
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": namespace}],
    }
    await api.create(f"{rbac}/rolebindings", binding)
    token = await api.create(f"/api/v1/namespaces/{namespace}/serviceaccounts/reader/token", {"spec": {}})

    async with Api(control_plane, token=token["status"]["token"]) as reader:
        assert "items" in await reader.get(config_maps(namespace))
        with pytest.raises(ApiError, match=r'403 Forbidden.*cannot create resource "configmaps"'):
            await reader.create(config_maps(namespace), config_map("mine"))
        with pytest.raises(ApiError, match="403 Forbidden"):
            await reader.get(f"/api/v1/namespaces/{namespace}/secrets")


async def test_what_an_object_owns_goes_with_it(api: Api, namespace: str) -> None:
    owner = await api.create(config_maps(namespace), config_map("owner"))
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    owned = config_map("owned")
    owned["metadata"]["ownerReferences"] = [reference]
    await api.create(config_maps(namespace), owned)
    await api.create(config_maps(namespace), config_map("free"))

    await api.delete(f"{config_maps(namespace)}/owner")

    await gone(api, f"{config_maps(namespace)}/owned")
    assert (await api.get(f"{config_maps(namespace)}/free"))["metadata"]["name"] == "free"


async def test_a_finished_job_goes_after_its_ttl_and_its_pod_with_it(api: Api, namespace: str) -> None:
    await api.create(jobs(namespace), job("short", ttlSecondsAfterFinished=1, backoffLimit=0))
    pods = f"/api/v1/namespaces/{namespace}/pods"
    async with asyncio.timeout(PATIENCE):
        async for event in api.watch(pods, labelSelector="batch.kubernetes.io/job-name=short"):
            pod = f"{pods}/{event['object']['metadata']['name']}"
            break
    await api.patch(f"{pod}/status", {"status": {"phase": "Succeeded"}})  # the kubelet's part

    await seen(api, f"{jobs(namespace)}/short", lambda job: job["status"].get("succeeded") == 1)
    await gone(api, f"{jobs(namespace)}/short")
    await gone(api, pod)


async def test_a_quota_refuses_what_is_over_it_and_counts_what_there_is(api: Api, namespace: str) -> None:
    quotas = f"/api/v1/namespaces/{namespace}/resourcequotas"
    quota = {"metadata": {"name": "few"}, "spec": {"hard": {"count/jobs.batch": "1"}}}
    await api.create(quotas, quota)
    await seen(api, f"{quotas}/few", lambda quota: quota.get("status", {}).get("used") == {"count/jobs.batch": "0"})
    await api.create(jobs(namespace), job("first"))

    with pytest.raises(ApiError, match=r"403 Forbidden.*exceeded quota: few.*used: count/jobs.batch=1"):
        await api.create(jobs(namespace), job("second"))


async def test_a_restart_of_the_api_server_breaks_watches_and_loses_nothing(
    api: Api, control_plane: ControlPlane, namespace: str
) -> None:
    await api.create(config_maps(namespace), config_map("before"))
    watch = asyncio.create_task(last_event(api, config_maps(namespace)))
    await asyncio.sleep(0)

    await control_plane.restart_apiserver()

    with pytest.raises(httpx.TransportError):
        await asyncio.wait_for(watch, PATIENCE)
    assert (await api.get(f"{config_maps(namespace)}/before"))["metadata"]["name"] == "before"
    await api.create(config_maps(namespace), config_map("after"))


async def last_event(api: Api, path: str) -> dict[str, Any] | None:
    event = None
    async for each in api.watch(path):
        event = each
    return event


async def test_after_compaction_an_old_watch_is_told_410_gone(
    api: Api, control_plane: ControlPlane, namespace: str
) -> None:
    # Read before the API server is restarted: its watch cache would serve what etcd has forgotten.
    old = (await api.create(config_maps(namespace), config_map("one")))["metadata"]["resourceVersion"]
    for number in range(3):
        await api.patch(f"{config_maps(namespace)}/one", {"data": {"number": str(number)}})

    await control_plane.compact_etcd()
    await control_plane.restart_apiserver()

    async for event in api.watch(config_maps(namespace), resourceVersion=old):
        assert event["type"] == "ERROR"
        assert event["object"]["code"] == 410
        break


async def test_refusals_come_as_often_as_asked_for_and_as_the_server_words_them(
    control_plane: ControlPlane, faults: FaultProxy, namespace: str
) -> None:
    async with Api(control_plane, url=faults.url) as api:
        faults.answer(429, "POST .*/configmaps", times=2, retry_after=3)
        for _ in range(2):
            with pytest.raises(ApiError, match="429 TooManyRequests"):
                await api.create(config_maps(namespace), config_map("one"))
        await api.create(config_maps(namespace), config_map("one"))

        fault = faults.answer(500)
        with pytest.raises(ApiError, match="500 InternalError"):
            await api.get(config_maps(namespace))
        assert fault.answered == 1
        faults.heal()
        assert len((await api.get(config_maps(namespace)))["items"]) == 2  # and the root certificates

    async with httpx.AsyncClient(base_url=faults.url, verify=control_plane.trust(), timeout=120) as client:
        faults.answer(429, retry_after=3)
        assert (await client.get("/")).headers["Retry-After"] == "3"


async def test_cut_watches_end_in_the_middle_while_other_requests_pass(
    control_plane: ControlPlane, faults: FaultProxy, namespace: str
) -> None:
    async with Api(control_plane, url=faults.url) as api:
        events = api.watch(config_maps(namespace))
        assert (await anext(events))["type"] == "ADDED"

        assert faults.cut_watches() == 1

        with pytest.raises(httpx.TransportError):
            await anext(events)
        assert "items" in await api.get(config_maps(namespace))
        assert any(request.startswith("GET") and "watch=true" in request for request in faults.requests)


async def test_the_audit_log_names_every_change_that_was_asked_for_and_by_whom(
    api: Api, control_plane: ControlPlane, namespace: str
) -> None:
    path = f"{config_maps(namespace)}/one"
    await api.create(config_maps(namespace), config_map("before"))
    mark = control_plane.mark()

    await api.get(config_maps(namespace))
    await api.create(config_maps(namespace), config_map("one"))
    with pytest.raises(ApiError, match="409"):
        await api.create(config_maps(namespace), config_map("one"))
    await api.patch(path, {"data": {"a": "1"}})
    await api.delete(path)

    def written() -> list[str]:
        return [
            f"{each.verb} {each.code}" for each in control_plane.writes("admin", since=mark) if namespace in each.uri
        ]

    async with asyncio.timeout(PATIENCE):
        while len(written()) < 4:  # noqa: ASYNC110  an answer may be there a moment before its line
            await asyncio.sleep(0.01)
    assert written() == ["create 201", "create 409", "patch 200", "delete 200"]
    assert control_plane.writes("somebody", since=mark) == []
    assert control_plane.writes("admin", since=mark, but=f"/{namespace}/") == []
    assert repr(control_plane.writes("admin", since=mark)[0]) == f"<create {config_maps(namespace)} by admin: 201>"
