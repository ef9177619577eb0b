"""The objects of chart and operator are valid in every Kubernetes minor that the chart allows, by its own OpenAPI.

An API server checks more (test_chart.py, test_render.py), but the tests run only one release of it.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from media_operator.cluster.kinds import MEDIA_TENANT, Object
from tests.cluster.chart import test_chart as chart
from tests.cluster.control_plane.api import Api
from tests.tools import build, openapi_schemas
from tests.unit.operator.render_cases import CASES, LONGEST

ROOT = Path(__file__).parents[3]
CRD = ROOT / "crds" / "mediatenants.yaml"
SAMPLE = ROOT / "samples" / "acme.yaml"
OF_OTHERS = {
    "gateway.networking.k8s.io/v1/HTTPRoute",
    "monitoring.coreos.com/v1/PodMonitor",
    "monitoring.coreos.com/v1/PrometheusRule",
    "monitoring.coreos.com/v1/ServiceMonitor",
}
"""Kinds that Kubernetes has no schema of."""


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that is rendered, one file for each case, and the tenants that it is rendered for."""
    folder = tmp_path_factory.mktemp("manifests")
    for name in chart.CASES:
        (folder / f"chart-{name}.yaml").write_text(chart.rendered(name), encoding="utf-8")
    for name, case in {**CASES, "longest-name": LONGEST}.items():
        rendered = [*case.secrets(case.tenant()), *case.workloads(case.tenant()), *case.jobs(case.tenant())]
        text = _as_yaml(tenant(case.spec, case.name), *rendered)
        (folder / f"tenant-{name}.yaml").write_text(text, encoding="utf-8")
    (folder / "sample.yaml").write_text(SAMPLE.read_text(encoding="utf-8"), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def amount(manifests: Path) -> int:
    """How many objects there are in the folder."""
    texts = (file.read_text(encoding="utf-8") for file in manifests.iterdir())
    return sum(1 for text in texts for each in yaml.load_all(text, yaml.CSafeLoader) if each)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the schemas of the kinds that we declare."""
    folder = tmp_path_factory.mktemp("ours")
    for name, schema in openapi_schemas.of_crd(yaml.safe_load(CRD.read_text(encoding="utf-8"))).items():
        (folder / name).write_text(json.dumps(schema))
    return folder


def _as_yaml(*documents: Object) -> str:
    return "---\n".join(json.dumps(each) + "\n" for each in documents)


def checked(folder: Path, ours: Path, minor: str) -> list[dict[str, Any]]:
    """What kubeconform says of each object in the folder's files."""
    locations = [
        f"-schema-location={each / openapi_schemas.LOCATION}" for each in (openapi_schemas.schemas(minor), ours)
    ]
    options = ["-strict", "-output=json", "-verbose", "-n=2", f"-skip={','.join(OF_OTHERS)}"]
    command: list[str | Path] = [build.provide(build.TOOLS["kubeconform"]), *options, *locations, folder]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.stdout, ran.stderr
    resources: list[dict[str, Any]] = json.loads(ran.stdout)["resources"]
    return [each for each in resources if each["kind"]]  # without a file's empty documents


def with_status(status: str, resources: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for each in resources if each["status"] == status]


@pytest.mark.parametrize("minor", openapi_schemas.MINORS)
def test_all_that_is_rendered_is_valid_in(minor: str, manifests: Path, amount: int, ours: Path) -> None:
    resources = checked(manifests, ours, minor)
    told = [
        f"{Path(each['filename']).stem}: {each['kind']} {each['name']}: {each['msg']}"
        for each in resources
        if each["status"] not in ("statusValid", "statusSkipped")
    ]
    assert not told, "\n".join(told)
    skipped = {f"{each['version']}/{each['kind']}" for each in with_status("statusSkipped", resources)}
    assert skipped == OF_OTHERS
    assert len(resources) == amount


@pytest.mark.parametrize("minor", openapi_schemas.MINORS)
def test_what_is_wrong_is_refused_by_its_name_in(minor: str, tmp_path: Path, ours: Path) -> None:
    named: dict[str, Object] = {
        "at '/spec': additional properties 'replica' not allowed": deployment({"replica": 1}),
        "containers/0': additional properties 'imagePullPolice' not allowed": deployment(imagePullPolice="Always"),
        "ports/0/containerPort': got string, want integer": deployment(ports=[{"containerPort": "http"}]),
        "at '/spec/selector': got null, want object": deployment({"selector": None}),
        "at '/spec/quota': additional properties 'maxStorageMB' not allowed": tenant({"quota": {"maxStorageMB": 1}}),
        "at '/spec/api/replicas': got string, want integer": tenant({"api": {"replicas": "2"}}),
    }
    right = [
        deployment(resources={"limits": {"cpu": 1, "memory": "1Gi"}}),
        deployment(readinessProbe={"tcpSocket": {"port": "http"}}, livenessProbe={"tcpSocket": {"port": 80}}),
        tenant({"api": {"replicas": 2}}),
    ]
    (tmp_path / "right.yaml").write_text(_as_yaml(*right))
    for number, wrong in enumerate(named.values()):
        (tmp_path / f"{number}.yaml").write_text(_as_yaml(wrong))
    resources = checked(tmp_path, ours, minor)
    refused = {Path(each["filename"]).stem: each["msg"] for each in with_status("statusInvalid", resources)}
    for number, message in enumerate(named):
        assert message in refused[str(number)]
    assert len(with_status("statusValid", resources)) == len(right)


def deployment(spec: Mapping[str, Any] | None = None, **container: Any) -> Object:
    labels = {"app": "one"}
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [{"name": "one", "image": "one:1", **container}]},
    }
    whole = {"selector": {"matchLabels": labels}, "template": template, **(spec or {})}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "one"}, "spec": whole}


def tenant(spec: Mapping[str, Any], name: str = "acme") -> Object:
    metadata = {"name": name, "namespace": "team-acme"}
    return {"apiVersion": MEDIA_TENANT.api_version, "kind": MEDIA_TENANT.kind, "metadata": metadata, "spec": spec}


def test_the_minors_are_those_from_the_charts_oldest_to_the_one_that_tests_run() -> None:
    oldest = re.search(r'^kubeVersion: ">=1\.(\d+)\.', (chart.CHART / "Chart.yaml").read_text("utf-8"), re.MULTILINE)
    newest = build.TOOLS["kube-apiserver"].version.split(".")[1]
    assert oldest
    assert list(openapi_schemas.MINORS) == [f"1.{number}" for number in range(int(oldest[1]), int(newest) + 1)]


@pytest.mark.control_plane
async def test_the_newest_schemas_are_what_the_api_server_says_of_itself(api: Api) -> None:
    """But for the values of enumerations, which the published OpenAPI leaves out."""
    folder = await asyncio.to_thread(openapi_schemas.schemas, openapi_schemas.MINORS[-1])
    published = {file.name: json.loads(file.read_text(encoding="utf-8")) for file in folder.iterdir()}
    of_the_server = openapi_schemas.of_swagger(await api.get("/openapi/v2"))
    in_both = published.keys() & of_the_server.keys()  # the published have alpha versions too, the server has CRDs
    assert len(in_both) > 100
    assert [name for name in in_both if published[name] != _without_enumerations(of_the_server[name])] == []


def _without_enumerations(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {
            key: _without_enumerations(inner)
            for key, inner in schema.items()
            if not (key == "enum" and isinstance(inner, list))
        }
    if isinstance(schema, list):
        return [_without_enumerations(each) for each in schema]
    return schema
