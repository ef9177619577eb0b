"""An API server takes rendered objects without a warning and stores them as meant. Edits of others are repaired."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from media_operator import render
from media_operator.cluster import kinds
from media_operator.cluster.kinds import Object
from media_operator.tenant.spec import MediaTenant
from tests.cluster.control_plane.api import Api, gone, seen
from tests.cluster.control_plane.server import ControlPlane
from tests.unit.operator.render_cases import CASES, LONGEST, Case

pytestmark = [pytest.mark.control_plane, pytest.mark.usefixtures("crd", "gateways")]

EVERY = {**CASES, "longest-name": LONGEST}
ALL_KINDS = Case(
    {
        "api": {"host": "media.acme.example", "autoscaling": {"min": 2, "max": 8}},
        "namespaceQuota": {"cpu": "500m", "pods": 50},
    }
)


def _object(**properties: Any) -> Object:
    return {"type": "object", "properties": properties}


def _list(items: Object) -> Object:
    return {"type": "array", "items": items, "x-kubernetes-list-type": "atomic"}


_TEXT: Object = {"type": "string"}
_ROUTES: Object = _object(
    hostnames=_list(_TEXT),
    parentRefs=_list(
        _object(
            group={**_TEXT, "default": "gateway.networking.k8s.io"},
            kind={**_TEXT, "default": "Gateway"},
            namespace=_TEXT,
            name=_TEXT,
        )
    ),
    rules=_list(
        _object(
            matches=_list(
                _object(path=_object(type={**_TEXT, "default": "PathPrefix"}, value={**_TEXT, "default": "/"}))
            ),
            backendRefs=_list(
                _object(
                    group={**_TEXT, "default": ""},
                    kind={**_TEXT, "default": "Service"},
                    name=_TEXT,
                    port={"type": "integer"},
                    weight={"type": "integer", "default": 1},
                )
            ),
            timeouts=_object(request=_TEXT),
        )
    ),
)
"""Of Gateway API 1.x's HTTPRoute, the fields that we use, with its defaults and list types."""


def established(definition: Object) -> bool:
    conditions = definition.get("status", {}).get("conditions") or []
    return any((each["type"], each["status"]) == ("Established", "True") for each in conditions)


@pytest.fixture(scope="module")
async def gateways(control_plane: ControlPlane) -> AsyncIterator[None]:
    """HTTPRoute is a kind that the API server knows, for this module."""
    kind = kinds.HTTP_ROUTE
    name = f"{kind.plural}.{kind.group}"
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
    approval = "https://github.com/kubernetes-sigs/gateway-api/pull/0"
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": name, "annotations": {"api-approved.kubernetes.io": approval}},
        "spec": {
            "group": kind.group,
            "names": {"kind": kind.kind, "plural": kind.plural},
            "scope": "Namespaced",
            "versions": [
                {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": _object(spec=_ROUTES)}}
            ],
        },
    }
    async with Api(control_plane) as api:
        await api.apply(path, definition, manager="tests", force=True)
        await seen(api, path, established)
        yield
        await api.delete(path)
        await gone(api, path)


@pytest.fixture
async def restricted(api: Api, namespace: str) -> str:
    """A namespace that warns of every breach of Pod Security's strictest profile."""
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
    await api.patch(f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": labels}})
    return namespace


async def declared(api: Api, case: Case, namespace: str) -> MediaTenant:
    """As the API server holds it, with the uid that its children refer to."""
    body = {"apiVersion": kinds.MEDIA_TENANT.api_version, "kind": "MediaTenant", "metadata": {"name": case.name}}
    spec = {"tenantId": case.tenant().tenant_id, **case.spec}
    path = kinds.MEDIA_TENANT.path(namespace, case.name)
    made = await api.apply(path, {**body, "spec": spec}, manager="kubectl", force=True)
    return case.tenant(namespace, made["metadata"]["uid"])


def path_of(body: Object) -> str:
    return kinds.of(body).path(body["metadata"]["namespace"], body["metadata"]["name"])


async def applied(api: Api, body: Object) -> Object:
    return await api.apply(path_of(body), body, manager=kinds.MANAGER, force=True)


def stamped(case: Case, tenant: MediaTenant) -> list[Object]:
    return [render.stamped(each) for each in case.workloads(tenant)]


@pytest.mark.parametrize("name", EVERY)
async def test_a_server_takes_it_without_a_warning_and_gives_it_back_as_it_was_meant(
    api: Api, restricted: str, name: str
) -> None:
    case = EVERY[name]
    tenant = await declared(api, case, restricted)
    wanted = [*stamped(case, tenant), *map(render.stamped, case.secrets(tenant) + case.jobs(tenant))]
    for each in wanted:
        await applied(api, each)
    assert api.warnings == []
    for each in wanted:
        live = await api.get(path_of(each))
        assert render.matches(each, live), (each, live)
        if each["kind"] == "Secret":
            assert render.secret_is_intact(live)


async def test_applying_the_same_again_changes_nothing(api: Api, namespace: str) -> None:
    case = CASES["everything"]
    tenant = await declared(api, case, namespace)
    for each in stamped(case, tenant):
        # The workers' policy has `ingress: []`, so that a rule that somebody adds is removed. The server stores nothing
        # for it, and counts that as a change.
        if not each["metadata"]["name"].endswith("-workers"):
            first, again = await applied(api, each), await applied(api, each)
            assert again["metadata"].get("generation") == first["metadata"].get("generation")
            assert again.get("spec") == first.get("spec")


async def test_an_autoscaler_takes_over_the_number_of_pods_that_there_are(api: Api, namespace: str) -> None:
    """Without the hand-over the API server would set its default: one pod, during full traffic."""
    fixed, scaled = Case({"api": {"replicas": 6}}), CASES["autoscaling"]
    tenant = await declared(api, fixed, namespace)
    (before,) = (each for each in stamped(fixed, tenant) if each["kind"] == "Deployment")
    (wanted,) = (
        each for each in stamped(scaled, scaled.tenant(namespace, tenant.metadata.uid)) if each["kind"] == "Deployment"
    )
    path = path_of(wanted)
    handed_over = render.replicas_handed_over(wanted, await applied(api, before))
    assert handed_over is not None
    await api.apply(path, handed_over, manager=render.HANDOVER, force=True)
    assert (await applied(api, wanted))["spec"]["replicas"] == 6
    await api.patch(f"{path}/scale", {"spec": {"replicas": 4}})
    live = await applied(api, wanted)
    assert live["spec"]["replicas"] == 4
    assert render.matches(wanted, live)
    assert (await applied(api, before))["spec"]["replicas"] == 6  # back to a fixed number
    assert render.replicas_handed_over(before, live) is None


def _in_pod(change: Callable[[Object], object]) -> Callable[[Object], object]:
    return lambda live: change(live["spec"]["template"]["spec"])


def _in_container(**fields: Any) -> Callable[[Object], object]:
    return _in_pod(lambda pod: pod["containers"][0].update(fields))


def _spec(**fields: Any) -> Callable[[Object], object]:
    return lambda live: live["spec"].update(fields)


EDITS: list[tuple[str, str, Callable[[Object], object]]] = [
    ("ServiceAccount", "", lambda live: live.update(automountServiceAccountToken=True)),
    ("ServiceAccount", "", lambda live: live.update(automountServiceAccountToken=None)),
    ("ServiceAccount", "", lambda live: live["metadata"].update(ownerReferences=[])),
    ("ConfigMap", "", lambda live: live["data"].update({"jwks.json": "{}"})),
    ("ConfigMap", "", lambda live: live["metadata"]["labels"].update({kinds.TENANT_LABEL: "other"})),
    ("ConfigMap", "", lambda live: live["metadata"]["annotations"].update({kinds.APPLIED: "0"})),
    ("ResourceQuota", "", lambda live: live["spec"]["hard"].update({"requests.cpu": "5"})),
    ("NetworkPolicy", "-workers", _spec(ingress=[{}])),
    ("NetworkPolicy", "-workers", lambda live: live["spec"]["egress"].append({})),
    ("NetworkPolicy", "-api", lambda live: live["spec"]["egress"][1]["ports"].append({"port": 22, "protocol": "TCP"})),
    ("NetworkPolicy", "-api", _spec(policyTypes=["Ingress"])),
    ("Deployment", "", _spec(paused=True, minReadySeconds=0)),
    ("Deployment", "", _in_container(image="theirs:1")),
    ("Deployment", "", _in_container(resources={"limits": {"memory": "3Gi"}})),
    ("Deployment", "", _in_container(securityContext=None)),
    ("Deployment", "", _in_pod(lambda pod: pod["containers"][0]["env"][0].update(value="other"))),
    ("Deployment", "", _in_pod(lambda pod: pod["containers"][0]["env"].pop())),
    ("Deployment", "", _in_pod(lambda pod: pod["volumes"][0]["emptyDir"].update(sizeLimit="1Ti"))),
    ("Deployment", "", _in_pod(lambda pod: pod.update(enableServiceLinks=True))),
    ("Deployment", "", _in_pod(lambda pod: pod["topologySpreadConstraints"].pop())),
    ("Service", "", lambda live: live["spec"]["ports"][0].update(targetPort=1)),
    ("Service", "", lambda live: live["spec"]["selector"].update(app="theirs")),
    ("PodDisruptionBudget", "", lambda live: live["spec"]["selector"]["matchLabels"].update(app="theirs")),
    ("PodDisruptionBudget", "", _spec(maxUnavailable="50%")),
    ("HorizontalPodAutoscaler", "", _spec(maxReplicas=50)),
    ("HorizontalPodAutoscaler", "", lambda live: live["spec"]["behavior"]["scaleDown"].update(policies=None)),
    ("Ingress", "", lambda live: live["spec"]["rules"][0].update(host="theirs.example")),
    ("HTTPRoute", "", _spec(hostnames=["theirs.example"])),
    ("CronJob", "-sweep", _spec(suspend=True)),
    ("CronJob", "-rescan", _spec(schedule="* * * * *")),
    ("CronJob", "-rescan", lambda live: live["spec"]["jobTemplate"]["spec"].update(podFailurePolicy=None)),
]


def annotated(live: Object) -> None:
    live["metadata"]["annotations"]["theirs"] = "1"
    live["metadata"]["labels"]["theirs"] = "1"


ADDITIONS: list[tuple[str, str, Callable[[Object], object]]] = [
    *((kind.kind, "", annotated) for kind in kinds.CHILDREN if kind != kinds.SECRET),
    ("ServiceAccount", "", lambda live: live.update(imagePullSecrets=[{"name": "theirs"}])),
    ("ConfigMap", "", lambda live: live["data"].update(theirs="1")),
    ("Deployment", "", _spec(replicas=4)),
    ("Deployment", "", _in_pod(lambda pod: pod["containers"].insert(0, {"name": "sidecar", "image": "mesh:1"}))),
    ("Deployment", "", _in_pod(lambda pod: pod["containers"][0]["env"].insert(0, {"name": "THEIRS", "value": "1"}))),
    ("Deployment", "", _in_pod(lambda pod: pod["volumes"].insert(0, {"name": "theirs", "emptyDir": {}}))),
    ("Deployment", "", _in_pod(lambda pod: pod.update(dnsPolicy="Default"))),
    ("Deployment", "", lambda live: live["spec"]["template"]["metadata"]["annotations"].update(restartedAt="now")),
    ("Service", "", lambda live: live["spec"]["ports"].insert(0, {"name": "more", "port": 81, "protocol": "TCP"})),
    ("Service", "", _spec(sessionAffinity="ClientIP")),
    ("ResourceQuota", "", lambda live: live["spec"]["hard"].update(services="10")),
]


def _named(change: tuple[str, str, Callable[[Object], object]]) -> str:
    return change[0]


async def changed_by_another(
    api: Api, namespace: str, change: tuple[str, str, Callable[[Object], object]]
) -> tuple[Object, Object]:
    """What is wanted, and what is there after somebody else's edit."""
    kind, part, edit = change
    case = Case(ALL_KINDS.spec, {"gateway": "edge/public"} if kind == "HTTPRoute" else {})
    tenant = await declared(api, case, namespace)
    wanted = next(
        each for each in stamped(case, tenant) if each["kind"] == kind and each["metadata"]["name"].endswith(part)
    )
    before = await applied(api, wanted)
    assert render.matches(wanted, before)
    after = copy.deepcopy(before)
    edit(after)
    for written_by_the_server in ("managedFields", "resourceVersion", "generation"):
        after["metadata"].pop(written_by_the_server, None)
    await api.patch(path_of(wanted), after)
    live = await api.get(path_of(wanted))
    assert live["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"], "the edit changed nothing"
    return wanted, live


@pytest.mark.parametrize("change", EDITS, ids=_named)
async def test_an_edit_of_ours_is_seen_and_repaired_by_one_write(
    api: Api, namespace: str, change: tuple[str, str, Callable[[Object], object]]
) -> None:
    wanted, live = await changed_by_another(api, namespace, change)
    assert not render.matches(wanted, live)
    assert render.matches(wanted, await applied(api, wanted))


@pytest.mark.parametrize("change", ADDITIONS, ids=_named)
async def test_what_another_adds_is_theirs(
    api: Api, namespace: str, change: tuple[str, str, Callable[[Object], object]]
) -> None:
    wanted, live = await changed_by_another(api, namespace, change)
    assert render.matches(wanted, live)
