"""The chart: its objects for several sets of values, that an API server takes them, and that they agree with the code.

`MEDIA_UPDATE_GOLDEN=1 pytest tests/cluster/chart/test_chart.py` writes the golden files again: all objects of the
default values, and for every other set of values the difference.
"""

from __future__ import annotations

import asyncio
import copy
import difflib
import functools
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from media_core.settings import LogSettings
from media_operator import render
from media_operator.cluster import kinds
from media_operator.helm_hooks import install_check
from media_operator.local import clamd as embedded
from media_operator.settings import DatabaseSettings, OperatorSettings, PlatformSettings, StoreAdminSettings
from media_operator.tenant.spec import MediaTenant
from tests.cluster.control_plane.api import Api, Object, seen
from tests.cluster.control_plane.server import ControlPlane
from tests.ports import free_port
from tests.tools import build

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts" / "media-platform"
GOLDEN = CHART / "ci" / "golden"
CASES = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))
OPERATOR_SETTINGS = (OperatorSettings, DatabaseSettings, StoreAdminSettings, PlatformSettings, LogSettings)
SERVED_ELSEWHERE = ("monitoring.coreos.com",)
"""Groups that a plain API server does not know."""


def helm(*arguments: str | Path, kubeconfig: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [build.provide(build.TOOLS["helm"]), *arguments]
    environment = os.environ | {"KUBECONFIG": str(kubeconfig or os.devnull)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@functools.cache
def rendered(case: str = "default", *settings: str, namespace: str = "media-system") -> str:
    values = CHART / "ci" / f"{case}-values.yaml"
    sets = [argument for setting in settings for argument in ("--set", setting)]
    ran = helm("template", "media", CHART, "--namespace", namespace, "--values", values, *sets)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def objects(case: str = "default", *settings: str, namespace: str = "media-system") -> list[Object]:
    """The caller's own."""
    return copy.deepcopy(_objects(case, *settings, namespace=namespace))


@functools.cache
def _objects(*case_and_settings: str, namespace: str) -> list[Object]:
    return [each for each in yaml.safe_load_all(rendered(*case_and_settings, namespace=namespace)) if each]


def one(kind: str, name: str, case: str = "default", *settings: str) -> Object:
    (found,) = (each for each in objects(case, *settings) if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


def pod_templates(case: str) -> Iterator[tuple[str, Object]]:
    """Every pod that comes of it: (what makes it, the template)."""
    for each in objects(case):
        name = f"{each['kind']} {each['metadata']['name']}"
        if each["kind"] == "Pod":
            yield name, each
        elif "template" in each.get("spec", {}):
            yield name, each["spec"]["template"]


# --- what it renders --------------------------------------------------------------------------------------------------


@functools.cache
def canonical(case: str) -> list[str]:
    """Lines that a person compares: objects by name, the labels that all bear and the generated CRD left out."""
    ordered = sorted(objects(case), key=lambda each: (each["kind"], each["metadata"]["name"], _namespace(each)))
    told = [
        yaml.safe_dump(_without_noise(each), width=1000, default_flow_style=None)
        for each in ordered
        if each["kind"] != "CustomResourceDefinition"
    ]
    return "---\n".join(told).splitlines(keepends=True)


def _namespace(each: Object) -> str:
    return str(each["metadata"].get("namespace", ""))


def _without_noise(value: Any) -> Any:
    if isinstance(value, dict):
        everywhere = (
            "app.kubernetes.io/managed-by",
            "app.kubernetes.io/part-of",
            "helm.sh/chart",
            "app.kubernetes.io/version",
        )
        kept = {key: _without_noise(inner) for key, inner in value.items() if key not in everywhere}
        return {key: "…" if key.startswith("checksum/") else inner for key, inner in kept.items()}
    if isinstance(value, list):
        return [_without_noise(inner) for inner in value]
    return value


def test_no_pod_bears_the_charts_version_or_each_upgrade_would_restart_all_of_them() -> None:
    for case in CASES:
        for name, template in pod_templates(case):
            assert not {"helm.sh/chart", "app.kubernetes.io/version"} & template["metadata"]["labels"].keys() or (
                name.startswith("Pod ")  # of `helm test`, made anew each time
            ), name


@pytest.mark.parametrize("case", CASES)
def test_the_chart_renders_what_the_golden_files_say(case: str) -> None:
    lines = canonical(case)
    if case != "default":
        told = difflib.unified_diff(canonical("default"), lines, "default", case, n=2)
        lines = ["@@\n" if line.startswith("@@") else line for line in told]  # line numbers would only be noise
    golden = GOLDEN / ("default.yaml" if case == "default" else f"{case}.diff")
    if "MEDIA_UPDATE_GOLDEN" in os.environ:
        golden.parent.mkdir(exist_ok=True)
        golden.write_text("".join(lines), encoding="utf-8")
    assert golden.read_text(encoding="utf-8") == "".join(lines), "look at the difference, then MEDIA_UPDATE_GOLDEN=1"


@pytest.mark.parametrize("case", CASES)
def test_helm_has_no_complaint(case: str) -> None:
    ran = helm("lint", "--strict", CHART, "--values", CHART / "ci" / f"{case}-values.yaml")
    assert ran.returncode == 0, ran.stdout


@pytest.mark.parametrize("case", CASES)
def test_every_object_says_what_it_belongs_to_and_where_it_is(case: str) -> None:
    cluster_wide = ("ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition")
    for each in objects(case):
        metadata = each["metadata"]
        assert {"app.kubernetes.io/name", "app.kubernetes.io/instance"} <= metadata["labels"].keys(), metadata["name"]
        assert metadata["labels"]["app.kubernetes.io/part-of"] == "media-platform"
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "Helm", "the operator would take it for its own"
        assert ("namespace" in metadata) != (each["kind"] in cluster_wide), metadata["name"]


@pytest.mark.control_plane
async def test_an_api_server_takes_every_object(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    """All fields known, all values valid, nothing deprecated."""
    for case in CASES:
        known = [
            each
            for each in objects(case)
            if each["apiVersion"].partition("/")[0] not in SERVED_ELSEWHERE
            and each["kind"] != "Pod"  # admitted only once its account is there; the next test makes pods
        ]
        for each in known:
            if "namespace" in each["metadata"]:
                each["metadata"]["namespace"] = namespace
        file = tmp_path / f"{case}.yaml"
        file.write_text(yaml.safe_dump_all(known))
        dry = ("--server-side", "--dry-run=server", "--validate=strict", "--filename", file)
        ran = await asyncio.to_thread(kubectl, control_plane, "apply", *dry)
        assert ran.returncode == 0, f"{case}: {ran.stderr}"
        assert "Warning" not in ran.stderr, f"{case}: {ran.stderr}"


@pytest.mark.control_plane
async def test_every_pod_is_one_that_a_restricted_namespace_admits(
    control_plane: ControlPlane, api: Api, namespace: str
) -> None:
    label = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    await api.patch(f"/api/v1/namespaces/{namespace}", label)
    for case in CASES:
        for made_by, template in pod_templates(case):
            spec = {**template["spec"], "serviceAccountName": "default"}
            spec.pop("priorityClassName", None)
            pod = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"generateName": "probe-"},
                "spec": _with_volumes(spec),
            }
            try:
                await api.create(f"/api/v1/namespaces/{namespace}/pods", pod)
            except Exception as error:
                raise AssertionError(f"{case}, {made_by}: {error}") from None


def _with_volumes(spec: Object) -> Object:
    """A StatefulSet's claims as volumes, as its controller adds them."""
    named = {each["name"] for each in spec.get("volumes", [])}
    mounted = {mount["name"] for container in spec["containers"] for mount in container.get("volumeMounts", [])}
    return {
        **spec,
        "volumes": [*spec.get("volumes", []), *({"name": name, "emptyDir": {}} for name in mounted - named)],
    }


@pytest.mark.parametrize("case", CASES)
def test_every_container_has_an_amount_of_memory_and_a_root_it_cannot_write(case: str) -> None:
    for made_by, template in pod_templates(case):
        for container in [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]:
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), made_by
            assert "memory" in container["resources"]["limits"], made_by
            assert container["securityContext"]["readOnlyRootFilesystem"], made_by
            assert template["spec"]["enableServiceLinks"] is False, f"{made_by}: variables like S3_PORT are settings"


def kubectl(
    control_plane: ControlPlane, *arguments: str | Path, given: str | None = None
) -> subprocess.CompletedProcess[str]:
    tool = build.provide(build.TOOLS["kubectl"])
    environment = os.environ | {"KUBECONFIG": str(control_plane.kubeconfig)}
    command = [tool, *arguments]
    return subprocess.run(command, env=environment, input=given, capture_output=True, text=True, check=False)


# --- values -----------------------------------------------------------------------------------------------------------


def values() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    return loaded


def schema() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    return loaded


def paths_of_values(value: Mapping[str, Any], known: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Leaves, and objects whose keys are the user's own."""
    for name, inner in value.items():
        below = f"{path}.{name}" if path else name
        described = known.get("properties", {}).get(name, {})
        if isinstance(inner, dict) and "properties" in (described := resolved(described)):
            yield from paths_of_values(inner, described, below)
        else:
            yield below


def paths_of_schema(known: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for name, inner in known.get("properties", {}).items():
        below = f"{path}.{name}" if path else name
        described = resolved(inner)
        if "properties" in described:
            assert described.get("additionalProperties") is False, f"{below} lets a typo pass"
            yield from paths_of_schema(described, below)
        else:
            yield below


def resolved(described: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = described.get("$ref")
    return schema()["$defs"][reference.rpartition("/")[2]] if reference else described


def test_what_policies_ask_of_volumes_and_services_is_there() -> None:
    for case in CASES:
        for name, template in pod_templates(case):
            for volume in template["spec"].get("volumes", []):
                assert "hostPath" not in volume, name
                assert "sizeLimit" in volume.get("emptyDir", {"sizeLimit": ""}), (name, volume)
    labels = "clamd.signatures.persistence.labels.team=media"
    (claim,) = one("StatefulSet", "media-clamd", "default", labels)["spec"]["volumeClaimTemplates"]
    assert claim["metadata"]["labels"] == {"team": "media"}
    for name, protocol in (("media-operator", "http"), ("media-clamd", "tcp")):
        assert {port["appProtocol"] for port in one("Service", name)["spec"]["ports"]} == {protocol}


def test_the_schema_knows_every_value_and_no_other() -> None:
    of_helm = {"global"}
    optional = {f"{path}.claims" for path in paths_with_resources(values())}
    assert set(paths_of_values(values(), schema())) == set(paths_of_schema(schema())) - of_helm - optional


def paths_with_resources(value: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for name, inner in value.items():
        below = f"{path}.{name}" if path else name
        if name.lower().endswith("resources"):
            yield below
        elif isinstance(inner, dict):
            yield from paths_with_resources(inner, below)


def refusal(option: str, setting: str) -> str:
    """What helm says of a value that the chart does not take."""
    ran = helm("template", "media", CHART, option, setting)
    assert ran.returncode != 0
    return ran.stderr


def test_every_value_is_explained_where_it_comes_first() -> None:
    """On its line, or with those it stands among."""
    self_evident = {"enabled", "accessKey", "secretKey", "repository", "requests", "maxUnavailable"}
    self_evident |= {"port", "nodeSelector", "tolerations", "affinity", "podLabels", "podAnnotations"}
    explained: set[str] = set()
    for line in (CHART / "values.yaml").read_text(encoding="utf-8").splitlines():
        if match := re.match(r"\s*(\w+):(.*)", line):
            name, rest = match.groups()
            if "#" in rest:
                explained.add(name)
            elif rest.strip():
                assert name in explained | self_evident, line


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("operator.replica=3", "replica"),
        ("s3.endpiont=https://s3.example", "endpiont"),
        ("clamd.limits.contentMb=1", "contentMb"),
        ("s3.credentials=sts", "credentials"),
        ("s3.endpoint=s3.example", "endpoint"),
        ("clamd.limits.contentMib=4000", "contentMib"),
        ("installCheck.transcription.modle=tiny", "modle"),
        ("image.registry=https://registry.example", "registry"),
        ("clamd.signatures=null", "'/clamd': missing property 'signatures'"),
        ("rbac.create=null", "'/rbac': missing property 'create'"),
        ("commonLabels.app\\.kubernetes\\.io/part-of=suite", "app.kubernetes.io/part-of"),
        ("operator.podLabels.app\\.kubernetes\\.io/name=mine", "app.kubernetes.io/name"),
    ],
)
def test_a_value_that_is_wrong_is_refused_by_its_name(setting: str, named: str) -> None:
    assert named in refusal("--set", setting)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (
            'tenants.labels={"app.kubernetes.io/name":"x"}',
            "tenants.labels cannot have the label app.kubernetes.io/name",
        ),
        (
            'commonLabels={"helm.sh/chart":"x"}',
            "commonLabels cannot have the label helm.sh/chart, which is set already",
        ),
        (
            'clamd.podLabels={"app.kubernetes.io/instance":"x"}',
            "clamd.podLabels cannot have the label app.kubernetes.io",
        ),
        ('s3.endpoint="s3.example"', "s3.endpoint must be an http or https URL without user, path and query"),
        ('proxy.http="proxy:3128"', "proxy.http must be an http or https URL"),
    ],
)
def test_what_a_schema_has_no_words_for_is_refused_in_a_sentence(setting: str, words: str) -> None:
    assert words in refusal("--set-json", setting)


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ('tenants.webhookAllowNetworks=["10.20.0.0/99"]', 'tenants.webhookAllowNetworks: "10.20.0.0/99" is no network'),
        ('tenants.webhookAllowNetworks=["fd00::/129"]', 'tenants.webhookAllowNetworks: "fd00::/129" is no network'),
        ('tenants.webhookAllowNetworks=["all"]', "such as 10.20.0.0/16 or fd00::/8"),
        ('tenants.tolerations=[{"key":"gpu","effect":"NoSchdule"}]', "/tenants/tolerations/0/effect"),
        ('tenants.tolerations=[{"effect":"NoSchdule"}]', "value must be one of '', 'NoSchedule', 'PreferNoSchedule'"),
        ('tenants.labels={"BAD KEY":"x"}', 'tenants.labels: "BAD KEY" is no key of a label: it has up to 63 letters'),
        ('tenants.labels={"Example/team":"x"}', "a DNS name and '/' may stand before it"),
        (
            'tenants.nodeSelector={"pool":"a b"}',
            'tenants.nodeSelector: "a b", the value of pool, is no value of a label',
        ),
        ('tenants.apiPodLabels={"pool":"-"}', 'tenants.apiPodLabels: "-", the value of pool,'),
        ('tenants.workerPodLabels={"pool":"' + 64 * "a" + '"}', "tenants.workerPodLabels: "),
        ('tenants.gateway="public"', 'tenants.gateway: "public" must be namespace and name of a Gateway'),
        ('tenants.gatewayRequestTimeout="5 min"', "must be a time in h, m, s or ms"),
        ('postgres.tenantAddress="pooler"', 'postgres.tenantAddress: "pooler" must be host and port'),
        ('s3.roleArn="media"', 's3.roleArn: "media" must be the ARN of a role'),
        (
            'tenants.sweepResources={"limits":{"memory":"512m"}}',
            "tenants.sweepResources.limits.memory must be in bytes",
        ),
        ('s3.kmsKeyId="key"', "s3.kmsKeyId needs s3.encryption to be aws:kms"),
    ],
)
def test_what_the_operator_would_refuse_at_its_start_is_refused_before(setting: str, named: str) -> None:
    assert named in refusal("--set-json", setting)


def test_networks_and_amounts_in_every_form_that_the_operator_takes_are_taken() -> None:
    networks = ["10.20.0.0/16", "10.1.1.1", "fd00::/8", "::1", "::ffff:10.0.0.0/104", "0.0.0.0/00"]
    sweep = {"requests": {"memory": "1288490188800m", "cpu": 1}, "limits": {"memory": "2Gi"}}
    values = {"webhookAllowNetworks": networks, "sweepResources": sweep, "tolerations": [{"operator": "Exists"}]}
    ran = helm("template", "media", CHART, "--set-json", f"tenants={json.dumps(values)}")
    assert ran.returncode == 0, ran.stderr


def empty_values(values: Object, path: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from empty_values(value, f"{path}{name}.")
        elif value in ("", {}, []):
            yield f"{path}{name}"


def test_null_is_as_good_as_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """By null Helm removes a default."""
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    nulls = [f"{path}=null" for path in [*empty_values(values), "tenants.ingressAnnotations", "podSecurity.runAsUser"]]
    assert "<nil>" not in rendered("default", *nulls)
    told = environment("default", *nulls)
    assert told["MEDIA_OPERATOR_INGRESS_ANNOTATIONS"] == "{}"
    for variable, value in told.items():
        monkeypatch.setenv(variable, value if isinstance(value, str) else "postgresql://role:secret@host/database")
    for cls in OPERATOR_SETTINGS:
        cls()


def test_an_autoscaler_of_clamd_keeps_its_replicas() -> None:
    assert one("StatefulSet", "media-clamd", "default", "clamd.replicas=null")["spec"]["replicas"] is None


def test_a_label_stands_once_and_that_of_a_component_has_the_last_word() -> None:
    settings = ("commonLabels.team=media", "commonLabels.tier=backend", "operator.podLabels.team=operators")
    text = rendered("default", *settings)
    assert not re.search(r"^( +)team: .*(\n\1[^ ].*)*\n\1team: ", text, re.MULTILINE)
    deployment = one("Deployment", "media-operator", "default", *settings)
    assert deployment["metadata"]["labels"]["team"] == "media"
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert (labels["team"], labels["tier"]) == ("operators", "backend")


def test_pods_may_have_a_version_which_the_charts_own_labels_of_pods_leave_out() -> None:
    deployment = one("Deployment", "media-operator", "default", r"operator.podLabels.app\.kubernetes\.io/version=v2")
    assert deployment["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/version"] == "v2"


@pytest.mark.parametrize("release", ["team.media", "3rd-party", f"9.{'a' * 50}", "a" * 53])
def test_every_name_that_helm_takes_for_a_release_gives_names_that_kubernetes_takes(release: str) -> None:
    ran = helm("template", release, CHART, "--namespace", "media-system")
    assert ran.returncode == 0, ran.stderr
    for each in yaml.safe_load_all(ran.stdout):
        if each["kind"] in ("Service", "StatefulSet", "Deployment", "Job"):
            assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", each["metadata"]["name"])


def environment(case: str = "default", *settings: str) -> dict[str, Any]:
    """Of the operator's container: plain values, and where from for others."""
    name = "platform-operator" if case == "everything" else "media-operator"
    (container,) = one("Deployment", name, case, *settings)["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}


def settings_by_variable() -> dict[str, tuple[type[BaseSettings], str]]:
    return {
        f"{cls.model_config['env_prefix']}{name}".upper(): (cls, name)
        for cls in OPERATOR_SETTINGS
        for name in cls.model_fields
    }


def test_every_setting_of_the_operator_can_be_set_and_no_other_is() -> None:
    template = (CHART / "templates" / "operator.yaml").read_text(encoding="utf-8")
    told = set(re.findall(r"\bMEDIA_[A-Z0-9_]+", template))
    assert told == settings_by_variable().keys()


def test_the_default_values_are_the_defaults_of_the_settings() -> None:
    of_the_chart = {
        "MEDIA_OPERATOR_NAMESPACE",
        "MEDIA_OPERATOR_IDENTITY",
        "MEDIA_OPERATOR_HTTP_HOST",
        "MEDIA_OPERATOR_LEASE_NAME",
    }
    told = environment()
    for variable, (cls, name) in settings_by_variable().items():
        default = cls.model_fields[name].default
        of_a_secret = isinstance(told.get(variable), dict)
        if default is PydanticUndefined or variable in of_the_chart or of_a_secret:
            continue
        if variable.endswith("_ANNOTATIONS"):
            assert json.loads(told[variable]) == json.loads(default)
        elif variable in told:
            assert told[variable] == f"{default:g}" if isinstance(default, float) else str(default), variable
        else:
            assert default in ("", None), f"{variable} is not told, and its default is {default!r}"


def test_what_the_operator_is_told_it_understands(monkeypatch: pytest.MonkeyPatch) -> None:
    for case in CASES:
        for variable, value in environment(case).items():
            monkeypatch.setenv(variable, value if isinstance(value, str) else "postgresql://role:secret@host/database")
        for cls in OPERATOR_SETTINGS:
            cls()


def test_pull_secrets_are_names_or_as_in_a_pod() -> None:
    settings = ("imagePullSecrets[0]=one", "imagePullSecrets[1].name=two")
    assert environment("default", *settings)["MEDIA_OPERATOR_IMAGE_PULL_SECRETS"] == "one,two"
    pod = one("Deployment", "media-operator", "default", *settings)["spec"]["template"]["spec"]
    assert pod["imagePullSecrets"] == [{"name": "one"}, {"name": "two"}]


@pytest.mark.parametrize("address", ["pgbouncer.databases.svc:5432", "10.0.0.5:6432", "[fd00::5]:6432"])
def test_tenants_reach_postgresql_by_a_name_or_an_address_of_either_family(address: str) -> None:
    told = environment("default", f"postgres.tenantAddress={address}")
    assert told["MEDIA_OPERATOR_DATABASE_TENANT_ADDRESS"] == address


def test_on_eks_the_operator_has_no_key_and_its_service_account_has_a_role() -> None:
    told = environment("eks")
    assert not [name for name in told if "ACCESS_KEY" in name]
    assert told["MEDIA_OPERATOR_S3_CREDENTIALS"] == "role"
    account = one("ServiceAccount", "media-operator", "eks")
    assert "eks.amazonaws.com/role-arn" in account["metadata"]["annotations"]
    assert environment("eks", "s3.credentials=iam").keys() >= {"MEDIA_OPERATOR_S3_CREDENTIALS"}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (("s3.credentials=role",), "s3.roleArn is needed"),
        (("s3.credentials=shared", "s3.existingSecret="), "s3.existingSecret is needed"),
        (("s3.roleSeconds=899",), "roleSeconds"),
        (("s3.roleSeconds=43201",), "roleSeconds"),
        (("s3.roleArn=media",), "roleArn"),
    ],
)
def test_what_a_role_needs_is_asked_for(settings: tuple[str, ...], named: str) -> None:
    ran = helm("template", "media", CHART, *(part for each in settings for part in ("--set", each)))
    assert ran.returncode != 0
    assert named in ran.stderr


def test_two_secrets_with_the_usual_names_are_all_it_needs() -> None:
    told = environment()
    assert told["MEDIA_OPERATOR_DATABASE_URL"] == {"secretKeyRef": {"name": "media-postgres", "key": "url"}}
    assert told["MEDIA_OPERATOR_S3_ACCESS_KEY_ID"] == {"secretKeyRef": {"name": "media-s3", "key": "access-key"}}
    assert told["MEDIA_OPERATOR_S3_SECRET_ACCESS_KEY"] == {"secretKeyRef": {"name": "media-s3", "key": "secret-key"}}
    assert not [each for each in objects() if each["kind"] == "Secret"]


def test_without_values_no_secret_is_rendered_and_in_development_each_is_referred_to() -> None:
    made = {each["metadata"]["name"]: set(each["stringData"]) for each in objects("dev") if each["kind"] == "Secret"}
    for _, template in pod_templates("dev"):
        for container in template["spec"]["containers"]:
            for variable in container.get("env", []):
                if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                    assert reference["key"] in made[reference["name"]]


@pytest.mark.control_plane
async def test_an_upgrade_keeps_the_passwords_that_the_first_installation_made(
    control_plane: ControlPlane, api: Api, namespace: str
) -> None:
    settings = f"dev.enabled=true,crds.enabled=false,rbac.create=false,fullnameOverride={namespace}"
    arguments = (namespace, CHART, "--namespace", namespace, "--set", settings)

    async def passwords() -> list[Object]:
        names = (f"{namespace}-dev-s3", f"{namespace}-dev-postgres")
        return [(await api.get(f"/api/v1/namespaces/{namespace}/secrets/{name}"))["data"] for name in names]

    made = []
    for action in ("install", "upgrade"):
        ran = await asyncio.to_thread(helm, action, *arguments, kubeconfig=control_plane.kubeconfig)
        assert ran.returncode == 0, ran.stderr
        made.append(await passwords())
    assert made[0] == made[1]


# --- rights -----------------------------------------------------------------------------------------------------------


def rules_of(role: Object) -> set[tuple[str, str, str, str]]:
    """(group, resource, verb, name) of everything that a role allows."""
    return {
        (group, resource, verb, name)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", [""])
    }


def roles_of_the_operator(case: str) -> list[Object]:
    """All roles that are bound to its service account."""
    made = objects(case)
    (account,) = (
        each for each in made if each["kind"] == "ServiceAccount" and each["metadata"]["name"].endswith("operator")
    )
    roles = {(each["kind"], _namespace(each), each["metadata"]["name"]): each for each in made if "rules" in each}
    return [
        roles[each["roleRef"]["kind"], _namespace(each), each["roleRef"]["name"]]
        for each in made
        if each["kind"].endswith("RoleBinding") and each["subjects"][0]["name"] == account["metadata"]["name"]
    ]


def needed() -> set[tuple[str, str, str, str]]:
    """What the code does with each kind."""
    watched = {"get", "list", "watch"}
    applied = watched | {"create", "patch", "delete"}
    verbs = dict.fromkeys(kinds.CHILDREN, applied)
    verbs |= {
        kinds.JOB: watched | {"create", "delete"},
        kinds.POD: {"get", "list"},
        kinds.EVENT: {"create", "list", "patch"},
        kinds.MEDIA_TENANT: watched | {"patch"},
        kinds.LEASE: {"list", "watch"},
    }
    rules = {(kind.group, kind.plural, verb, "") for kind, each in verbs.items() for verb in each}
    return rules | {(kinds.MEDIA_TENANT.group, f"{kinds.MEDIA_TENANT.plural}/status", "patch", "")}


CLUSTER = {("", "namespaces", "get", "kube-system")}
LEADER = {("coordination.k8s.io", "leases", "create", "")} | {
    ("coordination.k8s.io", "leases", verb, "media-operator") for verb in ("get", "update")
}


def test_the_operator_may_do_what_its_code_does_and_nothing_else() -> None:
    cluster_wide: set[tuple[str, str, str, str]] = set()
    for role in roles_of_the_operator("default"):
        if role["kind"] == "ClusterRole":
            cluster_wide |= rules_of(role)
        else:
            assert (role["metadata"]["namespace"], rules_of(role)) == ("media-system", LEADER)
    assert cluster_wide == needed() | CLUSTER


def test_with_namespaces_it_may_do_the_same_there_and_in_its_own() -> None:
    allowed: dict[str, set[tuple[str, str, str, str]]] = {}
    for role in roles_of_the_operator("namespaced"):
        allowed.setdefault(_namespace(role), set()).update(rules_of(role))
    assert allowed == {"": CLUSTER, "team-a": needed(), "team-b": needed(), "media-system": needed() | LEADER}
    assert environment("namespaced")["MEDIA_OPERATOR_WATCH_NAMESPACES"] == "media-system,team-a,team-b"


@pytest.mark.parametrize("case", CASES)
def test_no_right_is_a_wildcard_or_a_way_to_more_rights(case: str) -> None:
    for role in (each for each in objects(case) if "rules" in each):
        for group, resource, verb, _ in rules_of(role):
            assert "*" not in (group, resource, verb)
            assert group != "rbac.authorization.k8s.io"
            assert resource not in ("pods/exec", "pods/attach", "serviceaccounts/token", "nodes")
            assert verb not in ("escalate", "bind", "impersonate")


@pytest.mark.control_plane
async def test_who_may_edit_a_namespace_may_edit_its_tenants(control_plane: ControlPlane, api: Api) -> None:
    names = ("aggregated-mediatenants-view", "aggregated-mediatenants-edit")
    for name in names:
        role = one("ClusterRole", name, "default", "fullnameOverride=aggregated")
        await api.create("/apis/rbac.authorization.k8s.io/v1/clusterroles", role)
    try:
        for role, verbs in {"view": {"get", "list", "watch"}, "edit": {"create", "delete", "get"}}.items():

            def has_all(body: Object, verbs: set[str] = verbs) -> bool:
                given = {verb for group, resource, verb, _ in rules_of(body) if resource == "mediatenants"}
                return verbs <= given

            await seen(api, f"/apis/rbac.authorization.k8s.io/v1/clusterroles/{role}", has_all)
    finally:
        for name in names:
            await api.delete(f"/apis/rbac.authorization.k8s.io/v1/clusterroles/{name}")


# --- the CRD ----------------------------------------------------------------------------------------------------------


def test_the_chart_carries_the_crd_of_the_repository() -> None:
    repository = ROOT / "crds" / "mediatenants.yaml"
    copy = CHART / "files" / "mediatenants.yaml"
    assert copy.read_text(encoding="utf-8") == repository.read_text(encoding="utf-8"), "make docs"


@pytest.mark.parametrize(("case", "kept"), [("default", True), ("everything", False)])
def test_uninstalling_leaves_the_crd_unless_told_otherwise(case: str, kept: bool) -> None:
    (crd,) = (each for each in objects(case) if each["kind"] == "CustomResourceDefinition")
    annotations = crd["metadata"].pop("annotations", {})
    assert (annotations.pop("helm.sh/resource-policy", None) == "keep") == kept
    del crd["metadata"]["labels"]
    repository = yaml.safe_load((ROOT / "crds" / "mediatenants.yaml").read_text(encoding="utf-8"))
    assert annotations == repository["metadata"].pop("annotations", {})
    repository["metadata"].pop("labels", None)
    assert crd == repository


# --- before it is removed ---------------------------------------------------------------------------------------------


@pytest.fixture
async def tenants_crd(api: Api) -> None:
    crd = yaml.safe_load((ROOT / "crds" / "mediatenants.yaml").read_text(encoding="utf-8"))
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{crd['metadata']['name']}"
    await api.apply(path, crd, manager="tests", force=True)
    await seen(
        api, path, lambda body: any(each["type"] == "Established" for each in body["status"]["conditions"] or [])
    )


@pytest.mark.control_plane
async def test_uninstalling_is_refused_with_the_names_of_the_tenants(
    control_plane: ControlPlane, api: Api, namespace: str, tenants_crd: None, tmp_path: Path
) -> None:
    """With the rights of the hook's own service account."""
    account = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    for each in objects("default", f"watchNamespaces={{{namespace}}}", namespace=namespace):
        if each["metadata"]["name"] == "media-uninstall-check" and each["kind"] != "Job":
            group = "/api/v1" if each["apiVersion"] == "v1" else f"/apis/{each['apiVersion']}"
            await api.create(f"{group}/namespaces/{namespace}/{each['kind'].lower()}s", each)
    token = (await api.create(f"{account}/media-uninstall-check/token", {"spec": {}}))["status"]["token"]
    kubeconfig = control_plane.write_kubeconfig(tmp_path / "kubeconfig", token=token)
    environment = os.environ | {"KUBECONFIG": str(kubeconfig), "MEDIA_OPERATOR_WATCH_NAMESPACES": namespace}

    async def checked() -> tuple[int, str]:
        command = (sys.executable, "-m", "media_operator.helm_hooks.uninstall_check", "media", "media-system", "7")
        process = await asyncio.create_subprocess_exec(*command, env=environment, stderr=asyncio.subprocess.PIPE)
        _, said = await process.communicate()
        return process.returncode or 0, said.decode()

    assert await checked() == (0, "")
    tenants = kinds.MEDIA_TENANT.path(namespace)
    tenant = {"apiVersion": kinds.MEDIA_TENANT.api_version, "kind": "MediaTenant", "metadata": {"name": "acme"}}
    await api.create(tenants, tenant | {"spec": {}})
    status, said = await checked()
    assert status == 1
    assert f"1 MediaTenant is still there: {namespace}/acme." in said
    assert "helm uninstall media --namespace media-system --no-hooks" in said
    assert "helm rollback media 7 --namespace media-system" in said
    await api.delete(f"{tenants}/acme")
    assert await checked() == (0, "")


# --- helm test --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "enabled", "model"),
    [
        ((), True, "small"),
        (("installCheck.transcription.model=/models/tiny-words",), True, "/models/tiny-words"),
        (("installCheck.transcription.enabled=false",), False, "small"),
    ],
)
def test_values_say_whether_helm_test_transcribes_and_with_what(
    settings: tuple[str, ...], enabled: bool, model: str
) -> None:
    (container,) = one("Pod", "media-test", "default", *settings)["spec"]["containers"]
    asked = install_check.arguments([*container["command"][3:], *container.get("args", [])])
    tenant = MediaTenant.model_validate(install_check.manifest(**vars(asked)))
    assert (tenant.metadata.namespace, tenant.metadata.name) == ("media-system", "media-test")
    assert (tenant.spec.transcription.enabled, tenant.spec.transcription.model) == (enabled, model)


# --- clamd ------------------------------------------------------------------------------------------------------------


def configured(text: str) -> dict[str, str]:
    return {name: value for line in text.splitlines() for name, _, value in [line.partition(" ")]}


def clamd_files(case: str = "default", *settings: str) -> dict[str, str]:
    data: dict[str, str] = one("ConfigMap", "media-clamd", case, *settings)["data"]
    return data


@pytest.mark.parametrize("case", ["default", "dev", "ha"])
def test_clamd_is_configured_as_the_one_that_make_run_starts(case: str) -> None:
    own = configured(embedded.configuration(3310, embedded.ScanLimits()))
    charts = configured(clamd_files(case)["clamd.conf"])
    assert own.keys() - charts.keys() == {"TCPAddr"}, "other pods send it files, over IPv4 or IPv6"
    assert {name: charts[name] for name in charts if charts[name] != own[name]} == {
        "DatabaseDirectory": "/var/lib/clamav",
        "TemporaryDirectory": "/tmp",
        "ConcurrentDatabaseReload": "yes",
    }


def test_its_limits_are_values() -> None:
    limits = embedded.ScanLimits(content_mib=100, files=5, recursion=3, seconds=7, threads=2)
    sets = ("contentMib=100", "files=5", "recursion=3", "seconds=7", "threads=2")
    charts = configured(clamd_files("default", *(f"clamd.limits.{each}" for each in sets))["clamd.conf"])
    own = configured(embedded.configuration(3310, limits))
    places = {"TCPAddr", "DatabaseDirectory", "TemporaryDirectory", "ConcurrentDatabaseReload"}
    assert {name: charts[name] for name in own.keys() - places} == {name: own[name] for name in own.keys() - places}


@pytest.mark.parametrize(("case", "unrar"), [("default", False), ("ha", True)])
def test_it_reports_what_libclamav_passes_over(case: str, unrar: bool) -> None:
    eicar, *rules = clamd_files(case)["local.ndb"].splitlines()
    assert eicar.startswith("Eicar-Test-Signature:0:*:58354f21")
    assert rules == [*embedded.SKIPPED, *([] if unrar else [embedded.SKIPPED_RAR])]


def test_in_development_there_are_no_signatures_but_its_own_and_the_notes_say_so_loudly() -> None:
    pod = one("StatefulSet", "media-clamd", "dev")["spec"]["template"]["spec"]
    assert [each["name"] for each in pod["containers"]] == ["clamd"]
    assert "initContainers" not in pod
    assert "Viruses are NOT found" in notes("dev")
    assert "Viruses" not in notes("default")


def test_in_production_clamd_does_not_start_before_its_signatures_are_there() -> None:
    spec = one("StatefulSet", "media-clamd")["spec"]["template"]["spec"]
    assert [each["name"] for each in spec["initContainers"]] == ["signatures"]
    assert [each["name"] for each in spec["containers"]] == ["clamd", "freshclam"]


def test_a_first_start_without_a_mirror_is_a_failure_and_not_an_empty_scanner(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    freshclam = tmp_path / "bin" / "freshclam"
    freshclam.write_text("#!/bin/sh\nexit 0\n")  # as it ends when the mirror says "try again tomorrow"
    freshclam.chmod(0o755)
    script = clamd_files()["first-signatures"].replace("/var/lib/clamav", str(tmp_path))

    def run() -> int:
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        return subprocess.run(["sh", "-c", script], env={"PATH": path}, check=False).returncode

    assert run() == 1
    (tmp_path / "main.cvd").write_text("signatures")
    assert run() == 1
    (tmp_path / "daily.cld").write_text("signatures")
    assert run() == 0


def test_a_real_clamd_takes_the_configuration_and_the_probe_tells_when_it_answers(tmp_path: Path) -> None:
    found = embedded.EmbeddedClamd.find()
    if found is None:
        pytest.skip(embedded.HOW_TO_INSTALL)
    port = free_port()
    files = clamd_files("default", f"clamd.port={port}")
    (tmp_path / "tmp").mkdir()
    for name, text in files.items():
        here = text.replace("Directory /tmp", f"Directory {tmp_path / 'tmp'}").replace("/var/lib/clamav", str(tmp_path))
        (tmp_path / name).write_text(here)

    def answers() -> bool:
        return subprocess.run(["sh", tmp_path / "ping"], check=False).returncode == 0

    assert not answers()
    clamd = subprocess.Popen([found, f"--config-file={tmp_path / 'clamd.conf'}"], stdout=subprocess.DEVNULL)
    try:
        while not answers():
            assert clamd.poll() is None, "clamd ended"
        assert scanned(port, b"harmless") == "stream: OK"
        assert "Eicar-Test-Signature" in scanned(port, embedded._EICAR.encode())
    finally:
        clamd.kill()
        clamd.wait()


def scanned(port: int, content: bytes) -> str:
    with socket.create_connection(("127.0.0.1", port), 10) as clamd:
        clamd.sendall(b"zINSTREAM\0" + len(content).to_bytes(4, "big") + content + bytes(4))
        return clamd.recv(200).strip(b"\0").decode()


# --- what it says to people -------------------------------------------------------------------------------------------


def notes(case: str, *settings: str) -> str:
    values = CHART / "ci" / f"{case}-values.yaml"
    sets = [argument for setting in settings for argument in ("--set", setting)]
    ran = helm("install", "media", CHART, "--namespace", "media-system", "--dry-run=client", "--values", values, *sets)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.partition("NOTES:")[2]


@pytest.mark.parametrize("case", CASES)
def test_the_notes_wait_for_all_pods_and_name_the_secrets_that_are_missing(case: str) -> None:
    (selector,) = re.findall(r"wait pod --selector (\S+)", notes(case))
    key, _, value = selector.partition("=")
    for made_by, template in pod_templates(case):
        assert template["metadata"]["labels"][key] == value, made_by
    if case == "dev":
        assert "create secret" not in notes(case)
    else:
        wanted = {each["secretKeyRef"]["name"] for each in environment(case).values() if "secretKeyRef" in each}
        assert set(re.findall(r"create secret generic (\S+)", notes(case))) == wanted


@pytest.mark.parametrize(
    ("settings", "is_told"),
    [
        ((), False),
        (("s3.endpoint=https://s3.example",), True),
        (("s3.endpoint=https://s3.example", "s3.iamEndpoint=https://iam.example"), False),
        (("s3.endpoint=https://s3.example", "s3.credentials=shared"), False),
        (("s3.endpoint=https://s3.eu-central-1.amazonaws.com",), False),
        (("s3.endpoint=https://s3.example", "dev.enabled=true"), False),
    ],
)
def test_the_notes_say_when_a_server_of_ones_own_has_keys_of_aws(settings: tuple[str, ...], is_told: bool) -> None:
    assert ("set s3.iamEndpoint" in notes("default", *settings)) is is_told


def test_the_notes_say_how_to_call_a_tenant() -> None:
    assert re.search(r'docs/install.md, "Use it"', notes("default"))
    assert "**Use it**" in (ROOT / "docs" / "install.md").read_text()


@pytest.mark.control_plane
async def test_the_tenant_of_the_notes_can_be_pasted(
    control_plane: ControlPlane, namespace: str, tenants_crd: None
) -> None:
    (manifest,) = re.findall(r"<<'EOF'\n(.*?)\nEOF\n", notes("default"), re.DOTALL)
    kubectl_apply = ("--namespace", namespace, "apply", "--dry-run=server", "--validate=strict", "--filename", "-")
    ran = await asyncio.to_thread(kubectl, control_plane, *kubectl_apply, given=manifest)
    assert ran.returncode == 0, ran.stderr


def images(case: str) -> set[str]:
    used = {
        container["image"]
        for _, template in pod_templates(case)
        for container in [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]
    }
    return used | {value for name, value in environment(case).items() if name.endswith("_IMAGE")}


def test_the_installation_page_lists_every_image() -> None:
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    for image in images("default") | images("dev"):
        assert f"| `{image.removeprefix('localhost/').removesuffix(':dev')}` |" in page, image


# --- monitoring -------------------------------------------------------------------------------------------------------


def alerts() -> list[Object]:
    (rule,) = (each for each in objects("monitoring") if each["kind"] == "PrometheusRule")
    return [alert for group in rule["spec"]["groups"] for alert in group["rules"]]


def dashboards() -> dict[str, Any]:
    (found,) = (each for each in objects("monitoring") if each["metadata"]["name"].endswith("-dashboards"))
    return {name: json.loads(text) for name, text in found["data"].items()}


def expressions() -> Iterator[tuple[str, str]]:
    """(where, PromQL)"""
    for alert in alerts():
        yield alert["alert"], alert["expr"]
    for name, dashboard in dashboards().items():
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                yield f"{name}: {panel['title']}", target["expr"]


def test_every_metric_that_alerts_and_dashboards_name_is_one_of_the_codes() -> None:
    from media_api import metrics as api_metrics
    from media_operator import metrics as operator_metrics

    sources = "".join(Path(each.__file__ or "").read_text(encoding="utf-8") for each in (api_metrics, operator_metrics))
    known = set(re.findall(r'"(media_[a-z_]+)"', sources))
    found = 0
    for where, expression in expressions():
        for name in re.findall(r"\bmedia_[a-z_]+", expression):
            found += 1
            family = re.sub(r"_(total|bucket|sum|count)$", "", name)
            assert name in known or family in known, f"{where}: {name}"
    assert found > 20


def test_every_alert_names_a_page_of_the_runbook() -> None:
    page = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    anchors = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    }
    for alert in alerts():
        address, _, anchor = alert["annotations"]["runbook_url"].partition("#")
        assert address == "docs/runbook.md"
        assert anchor in anchors, alert["alert"]


def test_the_pod_monitor_finds_the_pods_of_every_tenants_api() -> None:
    (monitor,) = (each for each in objects("monitoring") if each["kind"] == "PodMonitor")
    tenant = MediaTenant.read(yaml.safe_load((ROOT / "samples" / "acme.yaml").read_text(encoding="utf-8")))
    store = StoreAdminSettings(endpoint="http://s3:7070", access_key_id="key", secret_access_key=SecretStr("secret"))
    platform = PlatformSettings(api_image="api", worker_image="workers", clamd_host="clamd")
    keys = (render.DATABASE_URL, render.S3_KEY_ID, render.S3_SECRET)
    inputs = render.Inputs(credentials=dict.fromkeys(keys, "postgresql://a:b@c/d"), jwks="{}", oidc_jwks_uri=None)
    made = render.workloads(tenant, platform, store, inputs)
    (template,) = (each["spec"]["template"] for each in made if each["kind"] == "Deployment")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    ports = {port["name"] for container in template["spec"]["containers"] for port in container["ports"]}
    assert {each["port"] for each in monitor["spec"]["podMetricsEndpoints"]} <= ports


def test_monitoring_is_off_unless_asked_for() -> None:
    assert not [each for each in objects("default") if each["apiVersion"].startswith("monitoring.coreos.com")]
