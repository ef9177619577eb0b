"""The operator's client on a real API server that is slow, refuses, restarts and forgets, as in production."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from kubernetes.aio.config import incluster_config

from media_operator.cluster import kinds, kube
from media_operator.cluster.kinds import CONFIG_MAP, DEPLOYMENT, NAMESPACE, SECRET, Kind, Object
from media_operator.cluster.kube import (
    TRIES,
    AlreadyExists,
    Conflict,
    Forbidden,
    Invalid,
    KindNotServed,
    Kube,
    NotFound,
    ServerUnavailable,
    Undeclared,
)
from media_operator.jobs.worker_jobs import refused_pod
from tests.cluster.control_plane.api import PATIENCE, Api, seen
from tests.cluster.control_plane.fault_proxy import FaultProxy
from tests.cluster.control_plane.server import ControlPlane
from tests.stopwatch import Stopwatch

pytestmark = pytest.mark.control_plane

UNKNOWN = Kind("example.com", "v1", "gadgets", "Gadget")


@pytest.fixture
async def client(control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kube]:
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))
    async with await Kube.connect() as client:
        yield client


@pytest.fixture
async def faulty(faults: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kube]:
    monkeypatch.setenv("KUBECONFIG", str(faults.kubeconfig))
    async with await Kube.connect() as client:
        yield client


@pytest.fixture
async def powerless(
    control_plane: ControlPlane, api: Api, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Kube]:
    """As a service account without any right."""
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default/token"
    token = (await api.create(path, {"spec": {"expirationSeconds": 3600}}))["status"]["token"]
    monkeypatch.setenv("KUBECONFIG", str(control_plane.write_kubeconfig(tmp_path / "powerless", token=token)))
    async with await Kube.connect() as client:
        yield client


def config_map(namespace: str, name: str = "one", **data: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace, "labels": {kinds.MANAGED_BY: kinds.MANAGER}},
        "data": data,
    }


# --- reading and writing ---------------------------------------------------------------------------------------------


async def test_apply_makes_an_object_and_then_makes_exactly_our_fields_as_they_are(
    client: Kube, api: Api, namespace: str
) -> None:
    made = await client.apply(CONFIG_MAP, config_map(namespace, ours="1", dropped="1"))
    assert made["metadata"]["managedFields"][0]["manager"] == kinds.MANAGER
    await api.patch(CONFIG_MAP.path(namespace, "one"), {"data": {"theirs": "2", "ours": "of somebody else"}})
    assert (await client.apply(CONFIG_MAP, config_map(namespace, ours="3")))["data"] == {"ours": "3", "theirs": "2"}


async def test_apply_of_what_is_there_changes_nothing(client: Kube, namespace: str) -> None:
    first = await client.apply(CONFIG_MAP, config_map(namespace, a="1"))
    second = await client.apply(CONFIG_MAP, config_map(namespace, a="1"))
    assert first["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]


async def test_what_is_not_there_is_none_and_is_not_deleted(client: Kube, namespace: str) -> None:
    assert await client.get(CONFIG_MAP, namespace, "nothing") is None
    assert await client.get(CONFIG_MAP, "no-such-namespace", "nothing") is None
    assert await client.get(NAMESPACE, None, "no-such-namespace") is None
    assert not await client.delete(CONFIG_MAP, namespace, "nothing")
    with pytest.raises(NotFound):
        await client.merge_patch(CONFIG_MAP, namespace, "nothing", {})


async def test_of_a_kind_that_is_not_served_nothing_is_known(client: Kube, namespace: str) -> None:
    """A server that is starting gives the same answer. If it was taken for "gone", tenants would lose their keys."""
    with pytest.raises(KindNotServed, match=r"serves no gadgets\.example\.com"):
        await client.get(UNKNOWN, namespace, "one")
    with pytest.raises(KindNotServed):
        await client.list(UNKNOWN)


async def test_a_list_has_every_object_and_says_when(
    client: Kube, api: Api, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube, "PAGE", 2)
    made = [await client.apply(CONFIG_MAP, config_map(namespace, f"n{number}")) for number in range(5)]
    await api.create(CONFIG_MAP.path(namespace), {"metadata": {"name": "of-somebody-else"}})
    found, version = await client.list(CONFIG_MAP, namespace, selector=kinds.OURS)
    assert [each["metadata"]["name"] for each in found] == [f"n{number}" for number in range(5)]
    assert {(each["apiVersion"], each["kind"]) for each in found} == {("v1", "ConfigMap")}
    assert int(version) >= int(made[-1]["metadata"]["resourceVersion"])
    everywhere, _ = await client.list(CONFIG_MAP, selector=kinds.OURS)
    assert {each["metadata"]["namespace"] for each in everywhere} >= {namespace}


async def test_a_list_whose_first_page_was_forgotten_begins_anew(
    faulty: Kube, faults: FaultProxy, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube, "PAGE", 2)
    for number in range(5):
        await faulty.apply(CONFIG_MAP, config_map(namespace, f"n{number}"))
    forgotten = faults.answer(410, "GET .*continue=", times=1)
    found, _ = await faulty.list(CONFIG_MAP, namespace, selector=kinds.OURS)
    assert forgotten.answered == 1
    assert [each["metadata"]["name"] for each in found] == [f"n{number}" for number in range(5)]


async def test_delete_means_this_very_object_and_not_its_successor(client: Kube, namespace: str) -> None:
    first = await client.create(CONFIG_MAP, config_map(namespace))
    assert await client.delete(CONFIG_MAP, namespace, "one", uid=first["metadata"]["uid"])
    await client.create(CONFIG_MAP, config_map(namespace))
    assert not await client.delete(CONFIG_MAP, namespace, "one", uid=first["metadata"]["uid"])
    assert await client.get(CONFIG_MAP, namespace, "one") is not None


async def test_a_write_over_what_was_seen_fails_when_it_is_not_so_any_more(client: Kube, namespace: str) -> None:
    found = await client.create(CONFIG_MAP, config_map(namespace))
    with pytest.raises(AlreadyExists):
        await client.create(CONFIG_MAP, config_map(namespace))
    version = {"resourceVersion": found["metadata"]["resourceVersion"]}
    changed = await client.merge_patch(CONFIG_MAP, namespace, "one", {"metadata": version, "data": {"a": "1"}})
    assert changed["data"] == {"a": "1"}
    with pytest.raises(Conflict):
        await client.merge_patch(CONFIG_MAP, namespace, "one", {"metadata": version, "data": {"a": "2"}})
    with pytest.raises(Conflict):
        await client.replace(CONFIG_MAP, found)
    assert (await client.replace(CONFIG_MAP, {**changed, "data": {"b": "1"}}))["data"] == {"b": "1"}


async def test_a_refused_object_is_refused_in_the_servers_words(client: Kube, namespace: str) -> None:
    with pytest.raises(Invalid, match="selector"):
        await client.create(DEPLOYMENT, {"metadata": {"name": "no-selector", "namespace": namespace}, "spec": {}})


async def test_fields_that_a_kind_does_not_have_here_are_named_and_are_no_outage(client: Kube, namespace: str) -> None:
    body = config_map(namespace) | {"newer": 1}
    body["metadata"]["later"] = {"still": 2}
    named = set()
    while len(named) < 2:  # the server goes through the fields in any order, and may end at the first that it lacks
        with pytest.raises(Undeclared, match=r"configmaps\. do not have .*: their CRD is older") as refused:
            await client.apply(CONFIG_MAP, body)
        named |= set(refused.value.fields)
        body.pop("newer", None)
    assert named == {"newer", "metadata.later"}


async def test_every_answer_is_told_for_the_metrics(client: Kube, namespace: str) -> None:
    told = Counter[tuple[str, str, int]]()
    client.observer = lambda verb, kind, status: told.update([(verb, kind, status)])
    await client.apply(CONFIG_MAP, config_map(namespace))
    await client.get(CONFIG_MAP, namespace, "nothing")
    await client.list(SECRET, namespace)
    await client.delete(CONFIG_MAP, namespace, "one")
    assert told == {
        ("patch", "ConfigMap", 201): 1,
        ("get", "ConfigMap", 404): 1,
        ("list", "Secret", 200): 1,
        ("delete", "ConfigMap", 200): 1,
    }


# --- permissions -----------------------------------------------------------------------------------------------------


async def test_a_missing_permission_is_a_sentence_that_says_which(powerless: Kube, namespace: str) -> None:
    lacks = "the operator's service account lacks the permission to"
    with pytest.raises(Forbidden) as raised:
        await powerless.list(DEPLOYMENT, namespace)
    assert str(raised.value) == f"{lacks} list deployments (API group apps) in namespace {namespace}"
    with pytest.raises(Forbidden) as raised:
        await powerless.list(SECRET)
    assert str(raised.value) == f"{lacks} list secrets in the whole cluster"
    with pytest.raises(Forbidden) as raised:
        body = {"metadata": {"name": "acme", "namespace": namespace}}
        await powerless.apply(DEPLOYMENT, body, subresource="status")
    assert str(raised.value) == f"{lacks} patch deployments/status (API group apps) in namespace {namespace}"


async def test_to_create_by_apply_is_a_permission_of_its_own(powerless: Kube, api: Api, namespace: str) -> None:
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["patch"]}]
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
    await api.create(f"{rbac}/roles", {"metadata": {"name": "patcher"}, "rules": rules})
    binding = {
        "metadata": {"name": "patcher"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "patcher"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": namespace}],
    }
    await api.create(f"{rbac}/rolebindings", binding)
    async with asyncio.timeout(PATIENCE):
        while True:
            with pytest.raises(Forbidden) as raised:
                await powerless.apply(CONFIG_MAP, config_map(namespace))
            if "patch" not in str(raised.value):  # the binding has come to be known
                break
            await asyncio.sleep(0.05)
    assert str(raised.value).endswith(f"lacks the permission to create configmaps in namespace {namespace}")


async def test_a_quota_that_is_used_up_is_not_a_missing_permission(client: Kube, api: Api, namespace: str) -> None:
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"count/secrets": "0"}}}
    path = f"/api/v1/namespaces/{namespace}/resourcequotas"
    await api.create(path, quota)
    await seen(api, f"{path}/none", lambda quota: "hard" in quota.get("status", {}))
    with pytest.raises(Invalid, match="exceeded quota"):
        await client.create(SECRET, {"metadata": {"name": "one", "namespace": namespace}})


# --- servers that do not answer --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503])
async def test_who_is_told_to_wait_waits(faulty: Kube, faults: FaultProxy, namespace: str, status: int) -> None:
    refused = faults.answer(status, "PATCH", times=2, retry_after=1)
    began, stopwatch = time.monotonic(), Stopwatch()
    await faulty.apply(CONFIG_MAP, config_map(namespace))
    assert refused.answered == 2
    assert time.monotonic() - began >= 2
    assert stopwatch.seconds() < 5


async def test_after_some_tries_it_is_said_that_the_api_does_not_serve(faulty: Kube, faults: FaultProxy) -> None:
    refused = faults.answer(429, "GET", retry_after=0)
    with pytest.raises(ServerUnavailable, match=r"does not serve now \(429 TooManyRequests\)"):
        await faulty.list(CONFIG_MAP)
    assert refused.answered == TRIES


async def test_who_is_told_to_wait_for_long_is_told_so_at_once(faulty: Kube, faults: FaultProxy) -> None:
    refused = faults.answer(503, "GET", retry_after=3600)
    with pytest.raises(ServerUnavailable):
        await faulty.list(CONFIG_MAP)
    assert refused.answered == 1


async def test_after_a_restart_of_the_api_server_it_goes_on(
    client: Kube, control_plane: ControlPlane, namespace: str
) -> None:
    await client.apply(CONFIG_MAP, config_map(namespace))
    restart = asyncio.create_task(control_plane.restart_apiserver())
    while not restart.done():
        with contextlib.suppress(ServerUnavailable):
            await client.apply(CONFIG_MAP, config_map(namespace, during="1"))
        await asyncio.sleep(0)
    await restart
    assert (await client.apply(CONFIG_MAP, config_map(namespace, after="1")))["data"] == {"after": "1"}


async def test_a_server_that_accepts_and_says_nothing_is_given_up(
    control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube, "TIMEOUT", kube.aiohttp.ClientTimeout(total=0.2))
    silent = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{silent.sockets[0].getsockname()[1]}"
    monkeypatch.setenv("KUBECONFIG", str(control_plane.write_kubeconfig(tmp_path / "silent", url=url)))
    async with silent, await Kube.connect() as client:
        with pytest.raises(ServerUnavailable, match="does not answer"):
            await client.list(CONFIG_MAP)


# --- credentials -----------------------------------------------------------------------------------------------------


async def test_replaced_credentials_in_a_kubeconfig_are_read_again(
    control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = control_plane.write_kubeconfig(tmp_path / "rotated", token="expired")
    monkeypatch.setenv("KUBECONFIG", str(path))
    async with await Kube.connect() as client:
        control_plane.write_kubeconfig(path)
        assert await client.get(NAMESPACE, None, "kube-system") is not None


async def test_a_rotated_service_account_token_is_read_again(
    control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text("expired")
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", control_plane.url.rpartition(":")[2])
    monkeypatch.setattr(kube, "SERVICE_ACCOUNT", token)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(control_plane.authority.certificate))
    async with await Kube.connect() as client:
        with pytest.raises(ServerUnavailable, match="does not accept the operator's credentials"):
            await client.get(NAMESPACE, None, "kube-system")
        token.write_text(control_plane.token)
        assert await client.get(NAMESPACE, None, "kube-system") is not None


# --- pods that the server refuses ------------------------------------------------------------------------------------

TOO_LARGE: Object = {"limits": {"memory": "1Gi"}}


@pytest.mark.parametrize(
    ("hindrance", "words"),
    [
        (
            {"kind": "LimitRange", "spec": {"limits": [{"type": "Container", "max": {"memory": "64Mi"}}]}},
            "is forbidden: maximum memory usage per Container is 64Mi, but limit is 1Gi",
        ),
        ({"kind": "ResourceQuota", "spec": {"hard": {"pods": "0"}}}, "is forbidden: exceeded quota: hindrance"),
        (None, 'is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false'),
    ],
)
async def test_why_a_job_gets_no_pod_is_read_from_its_events(
    client: Kube, api: Api, namespace: str, hindrance: Object | None, words: str
) -> None:
    if hindrance is None:
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        await api.patch(NAMESPACE.path(None, namespace), {"metadata": {"labels": labels}})
    else:
        path = f"/api/v1/namespaces/{namespace}/{hindrance['kind'].lower()}s"
        await api.create(path, {"metadata": {"name": "hindrance"}, **hindrance})
        if hindrance["kind"] == "ResourceQuota":
            await seen(api, f"{path}/hindrance", lambda quota: "hard" in quota.get("status", {}))
    container = {"name": "work", "image": "localhost/none:1", "resources": TOO_LARGE}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    job = {"metadata": {"name": "one"}, "spec": {"template": template}}
    made = await api.create(kinds.JOB.path(namespace), job)
    async with asyncio.timeout(PATIENCE):
        async for event in api.watch(kinds.EVENT.path(namespace), fieldSelector="reason=FailedCreate"):
            assert event["object"]["involvedObject"]["uid"] == made["metadata"]["uid"]
            break
    why = await refused_pod(client, made) or ""
    assert words in why
    assert why.startswith('pods "one-')
    assert "\n" not in why


async def test_without_the_right_to_list_events_nothing_is_known_of_them(powerless: Kube, namespace: str) -> None:
    assert await refused_pod(powerless, {"metadata": {"namespace": namespace, "uid": "u"}}) is None
