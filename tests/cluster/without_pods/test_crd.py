"""MediaTenant on a real API server, through kubectl.

Every rule exists twice, in the model and in the CRD. Each manifest here is given to both, and they have to agree.
"""

from __future__ import annotations

import asyncio
import copy
import random
import re
import subprocess
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from media_operator.cluster.kinds import CRON_JOB, INGRESS, MEDIA_TENANT, POD
from media_operator.tenant import patterns
from media_operator.tenant.spec import MediaTenant, TenantSpec, refuse_immutable_changes
from media_operator.tenant.spec_errors import SpecInvalid
from media_operator.tenant.status import Condition, TenantStatus, UsageStatus
from tests.cluster.control_plane.api import Api, ApiError, Object, another_namespace
from tests.cluster.control_plane.server import ControlPlane
from tests.tools import build

pytestmark = [pytest.mark.control_plane, pytest.mark.usefixtures("crd")]

ROOT = Path(__file__).parents[3]
Kubectl = Callable[..., "subprocess.CompletedProcess[str]"]


def manifest(name: str = "acme", **spec: Any) -> Object:
    return {
        "apiVersion": MEDIA_TENANT.api_version,
        "kind": "MediaTenant",
        "metadata": {"name": name},
        "spec": spec,
    }


async def refusal(api: Api, namespace: str, document: Object) -> list[tuple[str, str]]:
    """(field, sentence) of all that the API server refuses. It stores nothing (dry run)."""
    try:
        await api.create(MEDIA_TENANT.path(namespace), document, dryRun="All", fieldValidation="Strict")
    except ApiError as error:
        if error.causes:
            return [(cause["field"], cause["message"]) for cause in error.causes if cause["field"] != "<nil>"]
        return [("", str(error))]  # what strict decoding finds comes as one sentence
    return []


def complaints(document: Object) -> list[tuple[str, str]]:
    """The same of the model."""
    try:
        MediaTenant.read(document)
    except SpecInvalid as invalid:
        return [(error.path, error.sentence) for error in invalid.errors]
    return []


@pytest.fixture(scope="module")
async def unchanged(control_plane: ControlPlane) -> AsyncIterator[str]:
    """The name of a namespace for tests that store nothing."""
    async with Api(control_plane) as api, another_namespace(api) as name:
        yield name


@pytest.fixture
def kubectl(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Kubectl:
    program = build.provide(build.TOOLS["kubectl"])

    def run(*arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        common = (f"--kubeconfig={control_plane.kubeconfig}", f"--cache-dir={tmp_path}", f"--namespace={namespace}")
        command = [program, *arguments, *common]
        return subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=60)

    return run


# --- what it takes ----------------------------------------------------------------------------------------------------


async def test_the_api_server_has_nothing_against_the_schema(api: Api) -> None:
    definition = await api.get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/mediatenants.media.scaiwave.io")
    conditions = {each["type"]: each["status"] for each in definition["status"]["conditions"]}
    assert conditions == {"NamesAccepted": "True", "Established": "True"}  # NonStructuralSchema would be a third


async def test_a_tenant_without_spec_is_stored_with_the_models_defaults(api: Api, namespace: str) -> None:
    document = manifest()
    del document["spec"]
    stored = await api.create(MEDIA_TENANT.path(namespace), document)

    assert stored["spec"]["quota"] == {
        "maxStorageMb": 10_240,
        "maxUploadMb": 512,
        "maxTranscriptionMinutesPerDay": 600,
    }
    assert "autoscaling" not in stored["spec"]["api"]
    assert MediaTenant.read(stored).spec == TenantSpec()
    assert stored["spec"] == _filled_in(TenantSpec().model_dump(by_alias=True))


def _filled_in(value: Any) -> Any:
    """Without what is absent or empty by default."""
    if not isinstance(value, dict):
        return value
    inner = {key: _filled_in(each) for key, each in value.items()}
    return {key: each for key, each in inner.items() if each not in (None, {}, [])}


async def test_defaults_are_filled_in_around_what_is_given(api: Api, namespace: str) -> None:
    given = manifest(api={"autoscaling": {"max": 4}}, transcription={"tolerations": [{"key": "gpu"}]})
    stored = await api.create(MEDIA_TENANT.path(namespace), given)
    assert stored["spec"]["api"] == {
        "replicas": 2,
        "autoscaling": {"min": 2, "max": 4, "targetCpu": 70},
        "cors": {"maxAgeSeconds": 600},
        "signedUrlMaxSeconds": 300,
        "uploadHours": 24,
        "uploadDraft": False,
        "page": False,
    }
    assert stored["spec"]["transcription"]["tolerations"] == [
        {"key": "gpu", "operator": "Equal", "value": "", "effect": ""}
    ]
    assert MediaTenant.read(stored).spec == MediaTenant.read(given).spec


def documents() -> dict[str, Object]:
    page = (ROOT / "docs" / "mediatenant.md").read_text(encoding="utf-8")
    found = {"docs/mediatenant.md": re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[0]}
    found |= {f"samples/{path.name}": path.read_text(encoding="utf-8") for path in (ROOT / "samples").glob("*.yaml")}
    return {name: yaml.safe_load(text) for name, text in found.items()}


@pytest.mark.parametrize("name", documents())
async def test_published_manifests_mean_the_same_on_a_cluster(api: Api, namespace: str, name: str) -> None:
    document = documents()[name]
    document["metadata"]["namespace"] = namespace
    stored = await api.create(MEDIA_TENANT.path(namespace), document, fieldValidation="Strict")
    assert MediaTenant.read(stored).spec == MediaTenant.read(document).spec


async def test_null_means_absent(api: Api, namespace: str) -> None:
    """`make run` is stricter: a key without a value in a file is mostly a mistake."""
    stored = await api.create(MEDIA_TENANT.path(namespace), manifest(quota=None, tenantId=None, api={"host": None}))
    assert MediaTenant.read(stored).spec == TenantSpec()


# --- what it refuses --------------------------------------------------------------------------------------------------

TENANT_ID = "must be lower-case letters, digits and inner hyphens"
CRON = 'must be a cron schedule of five fields such as "0 3 * * *" (minute 0-59'
ORIGIN = "must be an origin: scheme, host and port, such as https://app.example or https://*.preview.example"
HOST = "must be a lower-case host name such as media.acme.example (a name, no address, no port)"
URL = "must be an https URL without query, with a port of 1 to 65535 if any"
QUANTITY = "must be a Kubernetes quantity such as 500m or 2Gi"
RESOURCE = "each key must be one of cpu, memory, ephemeral-storage or an extended resource such as nvidia.com/gpu"
WHOLE = "must be of type integer"

WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"tenantId": "Acme"}, "spec.tenantId", TENANT_ID),
    ({"tenantId": "acme-"}, "spec.tenantId", TENANT_ID),
    ({"tenantId": "acme\n"}, "spec.tenantId", TENANT_ID),
    ({"tenantId": ""}, "spec.tenantId", "should be at least 1 chars long"),
    ({"tenantId": "a" * 41}, "spec.tenantId", "may not be more than 40"),
    ({"tenantId": 7}, "spec.tenantId", "must be of type string"),
    ({"quota": {"maxStorageMb": 0}}, "spec.quota.maxStorageMb", "should be greater than or equal to 1"),
    (
        {"quota": {"maxStorageMb": 1_000_000_001}},
        "spec.quota.maxStorageMb",
        "less than or equal to 1000000000",
    ),
    ({"quota": {"maxUploadMb": 80_001}}, "spec.quota.maxUploadMb", "should be less than or equal to 80000"),
    ({"quota": {"maxUploadMb": "512"}}, "spec.quota.maxUploadMb", WHOLE),
    ({"quota": {"maxUploadMb": 1.5}}, "spec.quota.maxUploadMb", WHOLE),
    ({"quota": []}, "spec.quota", "must be of type object"),
    (
        {"quota": {"maxTranscriptionMinutesPerDay": -1}},
        "spec.quota.maxTranscriptionMinutesPerDay",
        "should be greater than or equal to 0",
    ),
    ({"storage": {"bucket": "x"}}, "spec.storage.bucket", "should be at least 3 chars long"),
    ({"storage": {"bucket": "x" * 64}}, "spec.storage.bucket", "may not be more than 63"),
    ({"storage": {"bucket": "My_Bucket"}}, "spec.storage.bucket", TENANT_ID),
    ({"storage": {"bucket": "my.bucket"}}, "spec.storage.bucket", TENANT_ID),
    ({"storage": {"deletionPolicy": "Keep"}}, "spec.storage.deletionPolicy", 'supported values: "Retain", "Delete"'),
    ({"api": {"replicas": 101}}, "spec.api.replicas", "should be less than or equal to 100"),
    ({"api": {"autoscaling": {"min": 0}}}, "spec.api.autoscaling.min", "should be greater than or equal to 1"),
    (
        {"api": {"autoscaling": {"min": 5, "max": 4}}},
        "spec.api.autoscaling.max",
        "must be at least min, which is 2 where it is not given",
    ),
    (
        {"api": {"autoscaling": {"max": 1}}},
        "spec.api.autoscaling.max",
        "must be at least min, which is 2 where it is not given",
    ),
    ({"api": {"autoscaling": {"targetCpu": 101}}}, "spec.api.autoscaling.targetCpu", "less than or equal to 100"),
    ({"api": {"host": "Media.acme.example"}}, "spec.api.host", HOST),
    ({"api": {"host": "media.acme.example:443"}}, "spec.api.host", HOST),
    ({"api": {"host": "https://media.acme.example"}}, "spec.api.host", HOST),
    ({"api": {"host": "10.0.0.1"}}, "spec.api.host", HOST),
    ({"api": {"host": ""}}, "spec.api.host", HOST),
    *(
        ({"api": {"cors": {"origins": [wrong]}}}, "spec.api.cors.origins[0]", ORIGIN)
        for wrong in (
            "*",
            "app.example",
            "https://app.example/",
            "https://*",
            "https://*.*.example",
            "HTTPS://a.example",
        )
    ),
    ({"api": {"host": "*.acme.example"}}, "spec.api.host", HOST),
    ({"api": {"host": "a" * 254}}, "spec.api.host", "may not be more than 253"),
    ({"api": {"resources": {"limits": {"memory": "much"}}}}, "spec.api.resources.limits[memory]", QUANTITY),
    ({"api": {"resources": {"limits": {"memory": "1 Gi"}}}}, "spec.api.resources.limits[memory]", QUANTITY),
    ({"api": {"resources": {"requests": {"cpu": -1}}}}, "spec.api.resources.requests[cpu]", QUANTITY),
    ({"api": {"resources": {"requests": {"cpu": "-1"}}}}, "spec.api.resources.requests[cpu]", QUANTITY),
    ({"api": {"resources": {"requests": {"cpu": "1" * 33}}}}, "spec.api.resources.requests[cpu]", "32"),
    ({"api": {"resources": {"limits": {"memoryy": "1Gi"}}}}, "spec.api.resources.limits", RESOURCE),
    ({"api": {"resources": {"limits": {"nvidia.com/": 1}}}}, "spec.api.resources.limits", RESOURCE),
    ({"api": {"resources": {"limits": {"amd.com/gpu": "500m"}}}}, "spec.api.resources.limits", "whole number"),
    ({"api": {"resources": {"requests": {"kubernetes.io/gpu": 1}}}}, "spec.api.resources.requests", "kubernetes.io"),
    (
        {"scan": {"resources": {"requests": {"a.example/b": 1}, "limits": {"a.example/b": 2}}}},
        "spec.scan.resources.limits",
        "the same number as requests",
    ),
    ({"auth": {"oidc": {}}}, "spec.auth.oidc.issuer", "Required value"),
    ({"auth": {"oidc": {"issuer": "http://login.example"}}}, "spec.auth.oidc.issuer", URL),
    ({"auth": {"oidc": {"issuer": "login.example"}}}, "spec.auth.oidc.issuer", URL),
    ({"auth": {"oidc": {"issuer": "https://login.example?tenant=1"}}}, "spec.auth.oidc.issuer", URL),
    ({"auth": {"oidc": {"issuer": "https://me:secret@login.example"}}}, "spec.auth.oidc.issuer", URL),
    ({"auth": {"oidc": {"issuer": "https://[1:2]/realms/acme"}}}, "spec.auth.oidc.issuer", URL),
    ({"auth": {"oidc": {"issuer": "http://login.svc.acme.example"}}}, "spec.auth.oidc.issuer", URL),
    (
        {"auth": {"oidc": {"issuer": "https://login.example", "jwksUri": "http://login.example/keys"}}},
        "spec.auth.oidc.jwksUri",
        URL,
    ),
    (
        {"auth": {"oidc": {"issuer": "https://login.example", "jwksUri": "https://login.example:99999/keys"}}},
        "spec.auth.oidc.jwksUri",
        URL,
    ),
    (
        {"auth": {"oidc": {"issuer": "https://login.example", "audience": ""}}},
        "spec.auth.oidc.audience",
        "should be at least 1 chars long",
    ),
    ({"scan": {"enabled": "yes"}}, "spec.scan.enabled", "must be of type boolean"),
    ({"scan": {"pendingAccess": "all"}}, "spec.scan.pendingAccess", 'supported values: "None", "Uploader", "All"'),
    ({"scan": {"unscannable": "block"}}, "spec.scan.unscannable", 'supported values: "Block", "Allow"'),
    ({"scan": {"maxParallel": 0}}, "spec.scan.maxParallel", "should be greater than or equal to 1"),
    ({"scan": {"rescanSchedule": "daily"}}, "spec.scan.rescanSchedule", CRON),
    ({"scan": {"rescanSchedule": "@daily"}}, "spec.scan.rescanSchedule", CRON),
    ({"scan": {"rescanSchedule": "60 3 * * *"}}, "spec.scan.rescanSchedule", CRON),
    ({"scan": {"rescanSchedule": "0 24 * * *"}}, "spec.scan.rescanSchedule", CRON),
    ({"scan": {"rescanSchedule": "0 3 0 * *"}}, "spec.scan.rescanSchedule", CRON),
    ({"scan": {"rescanSchedule": "0 3 * 13 *"}}, "spec.scan.rescanSchedule", CRON),
    ({"scan": {"rescanSchedule": "0 3 * * 7"}}, "spec.scan.rescanSchedule", CRON),
    ({"scan": {"rescanSchedule": "0 3 * *"}}, "spec.scan.rescanSchedule", CRON),
    ({"scan": {"rescanSchedule": "0 3 * * * *"}}, "spec.scan.rescanSchedule", CRON),
    ({"scan": {"rescanSchedule": "*/0 3 * * *"}}, "spec.scan.rescanSchedule", CRON),
    ({"transcription": {"model": ""}}, "spec.transcription.model", "should be at least 1 chars long"),
    ({"transcription": {"device": "gpu"}}, "spec.transcription.device", 'supported values: "cpu", "cuda"'),
    (
        {"transcription": {"computeType": "int4"}},
        "spec.transcription.computeType",
        'supported values: "int8", "int8_float16", "float16", "float32"',
    ),
    ({"transcription": {"maxParallel": 51}}, "spec.transcription.maxParallel", "less than or equal to 50"),
    (
        {"transcription": {"nodeSelector": {"a pool": "x"}}},
        "spec.transcription.nodeSelector",
        "each key must be the key of a node label such as disk or example.com/pool",
    ),
    (
        {"transcription": {"nodeSelector": {"pool": "a b"}}},
        "spec.transcription.nodeSelector[pool]",
        "must be letters, digits and inner hyphens, dots or underscores",
    ),
    (
        {"transcription": {"nodeSelector": {str(number): "" for number in range(17)}}},
        "spec.transcription.nodeSelector",
        "must have at most 16 items",
    ),
    (
        {"transcription": {"tolerations": [{"key": "gpu"}] * 17}},
        "spec.transcription.tolerations",
        "must have at most 16 items",
    ),
    (
        {"transcription": {"tolerations": [{"key": "gpu", "effect": "Evict"}]}},
        "spec.transcription.tolerations[0].effect",
        'supported values: "", "NoSchedule", "PreferNoSchedule", "NoExecute"',
    ),
    ({"api": {"resources": {"limits": {"memory": "512m"}}}}, "spec.api.resources.limits", "512m is half a byte"),
    (
        {"scan": {"resources": {"requests": {"ephemeral-storage": "1500m"}}}},
        "spec.scan.resources.requests",
        "must give memory and ephemeral-storage in bytes",
    ),
    (
        {"api": {"resources": {"requests": {"cpu": "1500m"}, "limits": {"cpu": 1}}}},
        "spec.api.resources.requests",
        "must not be more than limits",
    ),
    (
        {"transcription": {"resources": {"requests": {"memory": "1.5Gi"}, "limits": {"memory": "1500M"}}}},
        "spec.transcription.resources.requests",
        "must not be more than limits",
    ),
    (
        {"transcription": {"tolerations": [{"key": "a key"}]}},
        "spec.transcription.tolerations[0].key",
        "must be the key of a taint such as gpu or nvidia.com/gpu",
    ),
    (
        {"transcription": {"tolerations": [{"value": "x"}]}},
        "spec.transcription.tolerations[0].key",
        "must be set unless operator is Exists",
    ),
    (
        {"transcription": {"tolerations": [{"key": "gpu", "operator": "Exists", "value": "x"}]}},
        "spec.transcription.tolerations[0].value",
        "must be empty where operator is Exists",
    ),
    (
        {"transcription": {"tolerations": [{"key": "gpu", "tolerationSeconds": 60}]}},
        "spec.transcription.tolerations[0].effect",
        "must be NoExecute where tolerationSeconds is set",
    ),
    ({"transcription": {"runtimeClass": "gVisor"}}, "spec.transcription.runtimeClass", TENANT_ID),
    ({"transcription": {"modelCache": "my cache"}}, "spec.transcription.modelCache", TENANT_ID),
    ({"namespaceQuota": {"memory": "32 GB"}}, "spec.namespaceQuota.memory", QUANTITY),
    ({"namespaceQuota": {"pods": 0}}, "spec.namespaceQuota.pods", "should be greater than or equal to 1"),
    ({"suspended": "yes"}, "spec.suspended", "must be of type boolean"),
]


def _as_kubernetes_writes_it(path: str) -> str:
    """The API server files a wrong key under its map, and a wrong value there by its key."""
    forms = ((".nodeSelector", patterns.LABEL_KEY), (".requests", patterns.RESOURCE), (".limits", patterns.RESOURCE))
    for part, form in forms:
        around, found, key = path.partition(f"{part}.")
        if found:
            return f"{around}{part}[{key}]" if re.fullmatch(form, key) else f"{around}{part}"
    return path


@pytest.mark.parametrize(("given", "field", "sentence"), WRONG, ids=[str(given)[:60] for given, _, _ in WRONG])
async def test_a_wrong_value_is_refused_with_what_to_write_instead(
    api: Api, unchanged: str, given: dict[str, Any], field: str, sentence: str
) -> None:
    document = manifest(**given)
    refused = await refusal(api, unchanged, document)
    assert {_as_kubernetes_writes_it(path) for path, _ in refused} == {field}, refused
    assert any(sentence in words for _, words in refused), refused

    found = complaints(document)
    assert {_as_kubernetes_writes_it(path) for path, _ in found} == {field}, found
    if sentence in (TENANT_ID, CRON, HOST, URL, QUANTITY):
        assert all(words.startswith(sentence) for _, words in found), found


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("acme.example", f"{TENANT_ID}, unless spec.tenantId is set"),
        ("a" * 41, "must be at most 40 characters long, unless spec.tenantId is set"),
    ],
)
async def test_a_name_that_cannot_be_a_tenant_id_needs_one_of_its_own(
    api: Api, unchanged: str, name: str, sentence: str
) -> None:
    ((field, words),) = await refusal(api, unchanged, manifest(name))
    assert (field, words.endswith(sentence)) == ("metadata.name", True), words
    ((field, words),) = complaints(manifest(name))
    assert (field, words.replace(f", not '{name}'", "")) == ("metadata.name", sentence)

    assert await refusal(api, unchanged, manifest(name, tenantId="acme")) == []
    assert complaints(manifest(name, tenantId="acme")) == []


async def test_all_that_is_wrong_is_said_at_once(api: Api, unchanged: str) -> None:
    document = manifest(
        "acme.example", api={"host": "10.0.0.1"}, scan={"rescanSchedule": "daily"}, storage={"bucket": "My_Bucket"}
    )
    assert {field for field, _ in await refusal(api, unchanged, document)} == {
        *("metadata.name", "spec.api.host", "spec.scan.rescanSchedule", "spec.storage.bucket")
    }


@pytest.mark.parametrize(
    ("given", "typo"),
    [
        ({"scan": {"pendingAcces": "All"}}, "spec.scan.pendingAcces"),
        ({"qouta": {"maxStorageMb": 5}}, "spec.qouta"),
        ({"api": {"resources": {"limit": {"memory": "1Gi"}}}}, "spec.api.resources.limit"),
    ],
)
def test_kubectl_apply_names_a_field_that_there_is_not(kubectl: Kubectl, given: dict[str, Any], typo: str) -> None:
    applied = kubectl("apply", "--filename=-", given=yaml.safe_dump(manifest(**given)))
    assert applied.returncode != 0
    assert f'unknown field "{typo}"' in applied.stderr
    assert complaints(manifest(**given))[0][0] == typo


# --- both validators agree --------------------------------------------------------------------------------------------


def _page(scope: str) -> Object:
    return {"clientId": "page", "scopes": [scope]}


FORMED: dict[str, tuple[Callable[[Any], dict[str, Any]], list[str]]] = {
    "tenantId": (lambda text: {"tenantId": text}, ["acme", "a--b-1", "a" * 40]),
    "bucket": (lambda text: {"storage": {"bucket": text}}, ["media-acme", "abc", "9" * 63]),
    "host": (lambda text: {"api": {"host": text}}, ["media.acme.example", "localhost", "a-1.b"]),
    "issuer": (
        lambda text: {"auth": {"oidc": {"issuer": text}}},
        [
            *("https://login.example", "https://Login.example:8443/realms/acme/", "http://localhost:8080/a"),
            *("http://127.0.0.1/keys", "http://keys.acme.svc.cluster.local/x", "https://[fd00::1]:443/a"),
            *("https://login.example:65535", "https://[1:2::6:7:8]"),
        ],
    ),
    "scope": (
        lambda text: {"auth": {"oidc": {"issuer": "https://login.example", "page": _page(text)}}},
        ["openid", "media:read", "api://acme/media.read", "!#[]~"],
    ),
    "schedule": (
        lambda text: {"scan": {"rescanSchedule": text}},
        ["0 3 * * *", "*/15 0-6,22 1,15 jan-MAR mon-fri", "5/10 03 31 12 SUN", "59  23 1-31/2 * 0,6"],
    ),
    "quantity": (
        lambda text: {"namespaceQuota": {"memory": text}},
        ["1", "0.5", "500m", "2Gi", "10k", "1.25T"],
    ),
    "label key": (
        lambda text: {"transcription": {"nodeSelector": {text: "x"}}},
        ["disk", "example.com/pool", "A_b.c-9", "a.b-c/d"],
    ),
    "label value": (lambda text: {"transcription": {"nodeSelector": {"a": text}}}, ["", "ssd", "A_b.c-9", "a" * 63]),
    "taint key": (
        lambda text: {"transcription": {"tolerations": [{"key": text, "operator": "Exists"}]}},
        ["", "gpu", "nvidia.com/gpu"],
    ),
    "runtimeClass": (lambda text: {"transcription": {"runtimeClass": text}}, ["gvisor", "kata-1"]),
}
MUTATIONS = [
    *"aZ09-_./:*, ?#@%&'\"\\[]",
    "\n",
    "\t",
    "\u00e9",
    "\u00a0",
    "\u0660",
    "\u212a",
    "a" * 40,
    "svc",
    "https://",
]
"""Also what only some regular expressions take for space, digit or letter k."""


@pytest.mark.parametrize("form", FORMED)
async def test_the_model_and_the_api_server_agree_about(api: Api, unchanged: str, form: str) -> None:
    as_spec, valid = FORMED[form]
    chance = random.Random(form)
    texts = dict.fromkeys(valid, True)
    while len(texts) < 120:
        text = chance.choice(valid)
        for _ in range(chance.randint(1, 2)):
            start = chance.randint(0, len(text))
            end = min(len(text), start + chance.randint(0, 2))
            text = text[:start] + chance.choice(["", *MUTATIONS]) + text[end:]
        texts[text] = False

    async def compared(text: str) -> bool:
        refused, found = await refusal(api, unchanged, manifest(**as_spec(text))), complaints(manifest(**as_spec(text)))
        assert bool(refused) == bool(found), (text, refused, found)
        return not found

    accepted = await _in_batches([compared(text) for text in texts])
    assert all(accepted[: len(valid)])
    assert not all(accepted)


async def _in_batches(waiting: list[Any], size: int = 10) -> list[bool]:
    found: list[bool] = []
    for start in range(0, len(waiting), size):
        found += await asyncio.gather(*waiting[start : start + size])
    return found


# --- what is taken here is taken where it ends up ---------------------------------------------------------------------

CONTAINER = {"name": "c", "image": "c"}


@pytest.mark.parametrize("schedule", FORMED["schedule"][1])
async def test_a_schedule_is_one_that_a_cron_job_takes(api: Api, unchanged: str, schedule: str) -> None:
    template = {"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [CONTAINER]}}}}
    body = {"metadata": {"name": "c"}, "spec": {"schedule": schedule, "jobTemplate": template}}
    await api.create(CRON_JOB.path(unchanged), body, dryRun="All")


@pytest.mark.parametrize("host", FORMED["host"][1])
async def test_a_host_is_one_that_an_ingress_takes(api: Api, unchanged: str, host: str) -> None:
    backend = {"service": {"name": "a", "port": {"number": 80}}}
    rule = {"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}
    await api.create(INGRESS.path(unchanged), {"metadata": {"name": "c"}, "spec": {"rules": [rule]}}, dryRun="All")


async def test_quantities_selectors_and_tolerations_are_what_a_pod_takes(api: Api, unchanged: str) -> None:
    keys, values, quantities = (FORMED[form][1] for form in ("label key", "label value", "quantity"))
    tolerations: list[Object] = [{"key": key, "operator": "Exists"} for key in FORMED["taint key"][1]]
    tolerations += [{"key": "gpu", "value": value} for value in values]
    tolerations += [{"key": "gpu", "effect": "NoExecute", "tolerationSeconds": 60}]
    tenant = MediaTenant.read(manifest(transcription={"tolerations": tolerations})).spec.transcription
    pod = {
        "containers": [
            CONTAINER | {"name": f"c{number}", "resources": {"requests": {"cpu": quantity}}}
            for number, quantity in enumerate(quantities)
        ],
        "nodeSelector": {key: values[number % len(values)] for number, key in enumerate(keys)},
        "tolerations": [each.model_dump(by_alias=True, exclude_none=True) for each in tenant.tolerations],
    }
    await api.create(POD.path(unchanged), {"metadata": {"name": "c"}, "spec": pod}, dryRun="All")


# --- what may never change --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "refused"),
    [
        ({"tenantId": "one"}, {"tenantId": "two"}, {"spec.tenantId": ("one", "two")}),
        ({}, {"tenantId": "other"}, {"spec.tenantId": ("acme", "other")}),
        ({"tenantId": "one"}, {}, {"spec.tenantId": ("one", "acme")}),
        ({}, {"tenantId": "acme"}, {}),
        ({"tenantId": "acme"}, {}, {}),
        ({"storage": {"bucket": "one"}}, {"storage": {"bucket": "two"}}, {"spec.storage.bucket": ("one", "two")}),
        ({}, {"storage": {"bucket": "other"}}, {"spec.storage.bucket": ("media-acme", "other")}),
        ({"storage": {"bucket": "one"}}, {}, {"spec.storage.bucket": ("one", "media-acme")}),
        ({}, {"storage": {"bucket": "media-acme"}}, {}),
        ({"storage": {"bucket": "media-acme"}}, {}, {}),
        ({}, {"quota": {"maxStorageMb": 1}, "suspended": True, "storage": {"deletionPolicy": "Delete"}}, {}),
    ],
)
async def test_names_that_data_is_filed_under_never_change(
    api: Api, namespace: str, before: dict[str, Any], after: dict[str, Any], refused: dict[str, tuple[str, str]]
) -> None:
    path = MEDIA_TENANT.path(namespace, "acme")
    old, new = manifest(**before), manifest(**after)
    if "storage" not in before and "storage" not in after:  # else the bucket would change with the id
        for document in (old, new):
            document["spec"]["storage"] = {"bucket": "fixed"}
    await api.apply(path, copy.deepcopy(old), manager="tests")
    found = {}
    try:
        await api.apply(path, new, manager="tests")
    except ApiError as error:
        found = {cause["field"]: cause["message"].removeprefix("Forbidden: ") for cause in error.causes}
    expected = {field: f"is immutable: it is '{a}' and cannot become '{b}'" for field, (a, b) in refused.items()}
    assert found == expected

    said = {}
    try:
        refuse_immutable_changes(MediaTenant.read(old), MediaTenant.read(new))
    except SpecInvalid as invalid:
        said = {error.path: error.sentence for error in invalid.errors}
    assert said == expected


# --- subresources -----------------------------------------------------------------------------------------------------


def status() -> TenantStatus:
    stated = (
        ("Ready", "False", "ScannerUnreachable", "clamd does not answer"),
        ("WebhooksDelivered", "True", "Delivered", "webhooks: 1; none is known to fail"),
    )
    at = {"observedGeneration": 1, "lastTransitionTime": datetime(2026, 11, 27, 10, tzinfo=UTC)}
    names = ("type", "status", "reason", "message")
    return TenantStatus(
        conditions=[Condition.model_validate(dict(zip(names, each, strict=True)) | at) for each in stated],
        observedGeneration=1,
        endpoint="https://media.acme.example",
        bucket="media-acme",
        usage=UsageStatus(storedMb=3, percent=0, used="3 MiB", quota="10 GiB"),
        replicas=2,
        selector="media.scaiwave.io/tenant=acme",
    )


async def report(api: Api, namespace: str) -> Object:
    """A tenant `acme` with a status."""
    await api.create(MEDIA_TENANT.path(namespace), manifest())
    said = status().model_dump(mode="json", by_alias=True)
    return await api.patch(MEDIA_TENANT.path(namespace, "acme", "status"), {"status": said})


async def test_every_field_of_a_status_is_kept(api: Api, namespace: str) -> None:
    stored = await report(api, namespace)
    assert stored["status"] == status().model_dump(mode="json", by_alias=True)


async def test_a_status_is_written_through_its_subresource_only(api: Api, namespace: str) -> None:
    forged = manifest() | {"status": status().model_dump(mode="json", by_alias=True)}
    assert "status" not in await api.create(MEDIA_TENANT.path(namespace), forged)
    edited = {"spec": {"suspended": True}, "status": {"bucket": "x"}}
    stored = await api.patch(MEDIA_TENANT.path(namespace, "acme", "status"), edited)
    assert (stored["spec"]["suspended"], stored["status"]) == (False, {"bucket": "x"})
    assert stored["metadata"]["generation"] == 1


async def test_kubectl_scale_and_autoscalers_find_what_they_need(api: Api, namespace: str, kubectl: Kubectl) -> None:
    await report(api, namespace)
    scale = await api.get(MEDIA_TENANT.path(namespace, "acme", "scale"))
    assert scale["spec"] == {"replicas": 2}
    assert scale["status"] == {"replicas": 2, "selector": "media.scaiwave.io/tenant=acme"}

    assert kubectl("scale", "mt", "acme", "--replicas=5").returncode == 0
    assert (await api.get(MEDIA_TENANT.path(namespace, "acme")))["spec"]["api"]["replicas"] == 5
    refused = kubectl("scale", "mt", "acme", "--replicas=101")
    assert "spec.api.replicas in body should be less than or equal to 100" in refused.stderr


# --- kubectl ----------------------------------------------------------------------------------------------------------


async def test_kubectl_get_shows_how_the_tenant_is(api: Api, namespace: str, kubectl: Kubectl) -> None:
    await report(api, namespace)
    shown = {
        "NAME": "acme",
        "READY": "False",
        "REASON": "ScannerUnreachable",
        "USED": "3 MiB",
        "QUOTA": "10 GiB",
        "ENDPOINT": "https://media.acme.example",
    }
    wide = {"MESSAGE": "clamd does not answer", "BUCKET": "media-acme"}
    wide |= {"WEBHOOKS": "Delivered", "SUSPENDED": "false"}
    for arguments, expected in ((("mt",), shown), (("media", "--output=wide"), shown | wide)):
        header, row = (re.split(r"\s{2,}", line.strip()) for line in kubectl("get", *arguments).stdout.splitlines())
        assert header == [*list(shown), "AGE", *([] if expected is shown else wide)]
        table = dict(zip(header, row, strict=True))
        del table["AGE"]
        assert table == expected


async def test_a_tenant_that_nobody_has_looked_at_yet_is_shown_too(api: Api, namespace: str, kubectl: Kubectl) -> None:
    await api.create(MEDIA_TENANT.path(namespace), manifest())
    header, row = kubectl("get", "mt").stdout.splitlines()
    assert row.split()[0] == "acme"
    assert header.split() == ["NAME", "READY", "REASON", "USED", "QUOTA", "ENDPOINT", "AGE"]


def test_kubectl_explain_reads_like_documentation(kubectl: Kubectl) -> None:
    said = " ".join(kubectl("explain", "mt.spec.scan").stdout.split())
    assert "Virus scanning, and who may read a file before its verdict." in said
    assert (
        "pendingAccess <string> enum: None, Uploader, All Who may read a file before its verdict. None: nobody, "
        "requests are answered 425 with Retry-After. Uploader: who uploaded it. All: everybody who may read it "
        "afterwards. Default: None."
    ) in said
    assert "One tenant of the media platform" in kubectl("explain", "mt").stdout
