"""A tenant's manifests.

`MEDIA_UPDATE_GOLDEN=1 pytest tests/unit/operator/test_render.py` writes golden/render/ anew: the default tenant's
manifests, and for every other tenant the difference. Read the changes before you commit them.
"""

import base64
import copy
import difflib
import functools
import itertools
import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from media_api.settings import Settings as ApiSettings
from media_core.settings import EnvironmentSettings, RetentionSettings
from media_operator import render
from media_operator.cluster import kinds
from media_operator.cluster.cache import Cache
from media_operator.cluster.kinds import Object
from media_operator.kubernetes_target.children import Children
from media_operator.render.api import DRAIN_SECONDS
from media_operator.render.database_connections import OPERATOR_CONNECTIONS, connections
from media_operator.render.jobs import LOST
from media_operator.settings import PlatformSettings
from media_operator.tenant.annotations import ROTATE_KEYS
from media_workers.settings import ClamdSettings
from media_workers.settings import Settings as WorkerSettings
from tests.unit.operator.render_cases import CASES, CREDENTIALS, HIDDEN, JWKS, LONGEST, SESSION, STORE, WORK, Case

OF_LIBRARIES = {"SSL_CERT_FILE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"}
OF_LIBRARIES |= {"HTTPS_PROXY", "NO_PROXY", "https_proxy", "no_proxy"}
GOLDEN = Path(__file__).parent / "golden" / "render"
EVERY = {**CASES, "longest-name": LONGEST}


def made(case: Case) -> list[Object]:
    """All objects but Secrets."""
    tenant = case.tenant()
    return case.workloads(tenant) + case.jobs(tenant)


def one(case: Case, kind: str, part: str = "") -> Object:
    (found,) = (each for each in made(case) if each["kind"] == kind and each["metadata"]["name"].endswith(part))
    return found


def worker(case: Case, kind: str) -> Object:
    """The pod of a worker."""
    (job,) = (each for each in made(case) if each["metadata"]["labels"].get(kinds.WORK_LABEL) == kind)
    return dict(job["spec"]["template"]["spec"])


def api(case: Case) -> Object:
    """The pod of the api."""
    return dict(one(case, "Deployment")["spec"]["template"]["spec"])


def environment(pod: Object) -> dict[str, str]:
    """The container's environment, with the values of Secrets."""
    (container,) = pod["containers"]
    return {
        each["name"]: each["value"] if "value" in each else CREDENTIALS[each["valueFrom"]["secretKeyRef"]["key"]]
        for each in container["env"]
    }


def pods(case: Case) -> Iterator[Object]:
    for each in made(case):
        spec = each.get("spec", {})
        template = spec.get("template") or spec.get("jobTemplate", {}).get("spec", {}).get("template")
        if template:
            yield template["spec"]


# --- golden ----------------------------------------------------------------------------------------------------------


@functools.cache
def lines_of(name: str) -> list[str]:
    documents = (json.loads(json.dumps(each)) for each in made(CASES[name]))  # without YAML's anchors
    form = {"width": 110, "sort_keys": False, "default_flow_style": None}
    told = [yaml.dump(each, Dumper=yaml.CSafeDumper, **form) for each in documents]
    return "---\n".join(told).splitlines(keepends=True)


@pytest.mark.parametrize("name", CASES)
def test_tenants_are_what_the_golden_files_say(name: str) -> None:
    lines = lines_of(name)
    if name != "default":
        lines = list(difflib.unified_diff(lines_of("default"), lines, "default", name, n=4))
    golden = GOLDEN / ("default.yaml" if name == "default" else f"{name}.diff")
    if "MEDIA_UPDATE_GOLDEN" in os.environ:
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text("".join(lines), encoding="utf-8")
    assert golden.read_text(encoding="utf-8") == "".join(lines), "look at the difference, then MEDIA_UPDATE_GOLDEN=1"


# --- what holds for all ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_objects_come_in_the_order_of_children_and_bear_owner_and_labels(name: str) -> None:
    case = EVERY[name]
    order = [kinds.CHILDREN.index(kinds.of(each)) for each in case.workloads(case.tenant())]
    assert order == sorted(order)
    for each in made(case):
        metadata = each["metadata"]
        assert metadata["namespace"] == "team-acme"
        assert metadata["labels"][kinds.MANAGED_BY] == kinds.MANAGER
        assert metadata["labels"][kinds.TENANT_LABEL] == case.tenant().tenant_id
        (owner,) = metadata["ownerReferences"]
        assert (owner["kind"], owner["controller"], owner["blockOwnerDeletion"]) == ("MediaTenant", True, False)


@pytest.mark.parametrize("name", EVERY)
def test_no_secret_value_is_in_anything_but_secrets(name: str) -> None:
    case = EVERY[name]
    told = json.dumps(made(case))
    assert not [each for each in HIDDEN if each in told]
    hidden = b"".join(
        base64.b64decode(value) for each in case.secrets(case.tenant()) for value in each["data"].values()
    )
    assert b"hidden-password" in hidden
    assert b"hidden-private-key" in hidden


def test_no_pod_gets_the_signing_keys() -> None:
    assert not [each for case in EVERY.values() for each in made(case) if "signing-keys" in json.dumps(each)]


@pytest.mark.parametrize("name", EVERY)
def test_names_are_short_enough_for_what_kubernetes_makes_of_them(name: str) -> None:
    for each in made(EVERY[name]) + EVERY[name].secrets(EVERY[name].tenant()):
        assert len(each["metadata"]["name"]) <= {"CronJob": 52}.get(each["kind"], 63)
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", each["metadata"]["name"])  # DNS-1035, as Services need it
        assert all(len(value) <= 63 for value in each["metadata"]["labels"].values())


@pytest.mark.parametrize("name", EVERY)
def test_every_pod_is_restricted_and_has_requests(name: str) -> None:
    for pod in pods(EVERY[name]):
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        (container,) = pod["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]
        assert container["resources"]["requests"].keys() >= {"cpu", "memory"}


@pytest.mark.parametrize("name", EVERY)
def test_api_and_workers_understand_their_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = EVERY[name]
    told = environment(api(case))
    with monkeypatch.context() as patched:
        for variable, value in told.items():
            patched.setenv(variable, value)
        settings = ApiSettings()
        assert settings.store.s3.bucket == case.tenant().bucket
        assert settings.tenant.database_url.get_secret_value() == CREDENTIALS[render.DATABASE_URL]
        assert settings.store.public_url == render.endpoint(case.tenant(), case.platform_settings)
        grace = api(case)["terminationGracePeriodSeconds"]
        assert grace > DRAIN_SECONDS + settings.server.shutdown_seconds
    for kind in WORK:
        with monkeypatch.context() as patched:
            for variable, value in environment(worker(case, kind)).items():
                patched.setenv(variable, value)
            settings_of_worker = WorkerSettings()
            s3 = settings_of_worker.store.s3
            if case.store_settings.credentials == "role":
                assert str(s3.credentials_file) == "/etc/media/store/s3-credentials.json"
            else:
                assert s3.access_key_id == CREDENTIALS[render.S3_KEY_ID]
            assert settings_of_worker.whisper.model == (
                case.tenant().spec.transcription.model if kind == "transcribe" else "small"
            )


@pytest.mark.parametrize("name", EVERY)
def test_every_variable_is_one_that_its_process_knows(name: str) -> None:
    known = {
        f"{cls.model_config['env_prefix']}{field}".upper()
        for cls in EnvironmentSettings.__subclasses__()
        for field in cls.model_fields
    }
    for pod in pods(EVERY[name]):
        assert environment(pod).keys() - known <= {"HF_HOME", *OF_LIBRARIES}


# --- the api ---------------------------------------------------------------------------------------------------------


def test_new_credentials_roll_the_pods_and_rotated_keys_do_not() -> None:
    case = CASES["default"]
    tenant = case.tenant()

    def template(**inputs: Any) -> Object:
        (found,) = (each for each in case.workloads(tenant, **inputs) if each["kind"] == "Deployment")
        return dict(found["spec"]["template"])

    assert template(jwks='{"keys": []}') == template(jwks=JWKS)
    assert template(credentials={**CREDENTIALS, render.S3_SECRET: "another"}) != template()


def test_a_temporary_key_reaches_running_pods_by_a_file_and_rolls_none() -> None:
    case = CASES["role"]
    tenant = case.tenant()
    renewed = {**SESSION, render.S3_FILE: '{"Version": 1, "AccessKeyId": "NEXT"}'}
    assert case.workloads(tenant, credentials=renewed) == case.workloads(tenant)
    assert case.workloads(tenant, credentials=renewed | {render.DATABASE_URL: "another"}) != case.workloads(tenant)
    told = render.credentials_hash(SESSION, case.store_settings)
    assert render.credentials_hash(renewed, case.store_settings) == told
    assert render.credentials_hash({**CREDENTIALS, **SESSION}, case.store_settings) == told
    assert render.credentials_hash({**CREDENTIALS, **SESSION}, CASES["default"].store_settings) != told
    for pod in (api(case), *(worker(case, kind) for kind in WORK)):
        (mount,) = (each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "store-key")
        assert mount == {"name": "store-key", "mountPath": "/etc/media/store", "readOnly": True}  # no subPath
        from_secret = {each["name"] for each in pod["containers"][0]["env"] if "valueFrom" in each}
        assert from_secret == {"MEDIA_DATABASE_URL"}


def test_pods_wait_for_the_key_of_their_kind() -> None:
    assert render.needed(CASES["default"].store_settings) == CREDENTIALS.keys()
    assert render.needed(CASES["role"].store_settings) == SESSION.keys()


def test_a_suspended_tenant_keeps_one_pod_of_the_same_shape_that_nothing_scales() -> None:
    spec = {"api": {"autoscaling": {"min": 2, "max": 8}}}
    suspended = Case({**spec, "suspended": True})
    assert one(suspended, "Deployment")["spec"]["replicas"] == 1
    assert api(suspended) == api(Case(spec))
    assert not {"HorizontalPodAutoscaler", "PodDisruptionBudget"} & {each["kind"] for each in made(suspended)}
    assert all(each["spec"]["suspend"] for each in made(suspended) if each["kind"] == "CronJob")


def test_an_autoscaler_has_the_replicas_to_itself() -> None:
    case = CASES["autoscaling"]
    assert "replicas" not in one(case, "Deployment")["spec"]
    assert one(case, "HorizontalPodAutoscaler")["spec"]["maxReplicas"] == 8


@pytest.mark.parametrize(
    ("api", "budget"),
    [
        ({"replicas": 0}, False),
        ({"replicas": 1}, False),
        ({"replicas": 2}, True),
        ({"autoscaling": {"min": 1, "max": 1}}, False),
        ({"autoscaling": {"min": 1, "max": 2}}, True),
    ],
)
def test_a_disruption_budget_is_there_only_where_a_drain_can_keep_it(api: dict[str, Any], budget: bool) -> None:
    assert ("PodDisruptionBudget" in {each["kind"] for each in made(Case({"api": api}))}) is budget


def test_an_outage_elsewhere_restarts_no_api_pod() -> None:
    (container,) = api(CASES["default"])["containers"]
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["startupProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


@pytest.mark.parametrize(
    ("spec", "platform", "endpoint"),
    [
        ({}, {}, "http://mt-acme.team-acme.svc"),
        ({"api": {"host": "m.example"}}, {}, "http://m.example"),
        ({"api": {"host": "m.example"}}, {"cluster_issuer": "ca"}, "https://m.example"),
        ({"api": {"host": "m.example"}}, {"gateway": "edge/public"}, "https://m.example"),
        ({}, {"gateway": "edge/public"}, "http://mt-acme.team-acme.svc"),
    ],
)
def test_the_endpoint_is_the_public_host_else_the_service(
    spec: dict[str, Any], platform: dict[str, Any], endpoint: str
) -> None:
    case = Case(spec, platform)
    assert render.endpoint(case.tenant(), case.platform_settings) == endpoint


@pytest.mark.parametrize(
    ("asked", "resources"),
    [
        ({}, {"requests": {"cpu": "100m", "memory": "160Mi"}, "limits": {"memory": "2Gi"}}),
        ({"limits": {"memory": "256Mi"}}, {"requests": {"cpu": "100m"}, "limits": {"memory": "256Mi"}}),
        (
            {"requests": {"memory": "3000Mi"}},
            {"requests": {"memory": "3000Mi", "cpu": "100m"}, "limits": {"memory": "3000Mi"}},
        ),
        ({"limits": {"cpu": 2}}, {"requests": {"memory": "160Mi"}, "limits": {"cpu": "2", "memory": "2Gi"}}),
    ],
)
def test_defaults_fill_in_what_is_not_asked_for_and_never_contradict_it(
    asked: dict[str, Any], resources: dict[str, Any]
) -> None:
    (container,) = api(Case({"api": {"resources": asked}}))["containers"]
    assert container["resources"] == resources


@pytest.mark.parametrize(
    ("limit", "processes"), [("512Mi", "1"), ("1Gi", "1"), ("2Gi", "2"), ("3Gi", "3"), ("16Gi", "4")]
)
def test_only_as_many_pictures_are_decoded_at_once_as_fit_into_memory(limit: str, processes: str) -> None:
    told = environment(api(Case({"api": {"resources": {"limits": {"memory": limit}}}})))
    assert told["MEDIA_DECODING_PROCESSES"] == processes


@pytest.mark.parametrize(
    ("replicas", "scans", "transcriptions", "limit"), list(itertools.product((1, 2, 10), (1, 4), (2,), (40, 60, 200)))
)
def test_all_connections_together_stay_within_the_roles_limit(
    replicas: int, scans: int, transcriptions: int, limit: int
) -> None:
    tenant = Case(
        {
            "api": {"replicas": replicas},
            "scan": {"maxParallel": scans},
            "transcription": {"maxParallel": transcriptions},
        }
    ).tenant()
    for_api, for_worker = connections(tenant, limit)
    pods = replicas + max(1, (replicas + 3) // 4)
    workers = scans + transcriptions + 2 + 2
    assert pods * for_api + workers * for_worker + OPERATOR_CONNECTIONS <= limit
    assert 1 <= for_api <= 10
    assert 1 <= for_worker <= 4


def test_a_tenant_that_is_too_large_for_its_limit_still_gets_a_connection_for_each() -> None:
    assert connections(Case({"api": {"replicas": 100}}).tenant(), 60) == (1, 2)
    assert connections(Case({"scan": {"maxParallel": 50}}).tenant(), 10) == (1, 1)


# --- workers ---------------------------------------------------------------------------------------------------------


def test_a_lost_node_and_an_outage_are_tried_again_and_a_bug_is_not() -> None:
    spec = one(CASES["default"], "Job", "scan-0a1b2c3d")["spec"]
    lost, ended = spec["podFailurePolicy"]["rules"]
    assert (lost["action"], lost["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
    assert (ended["action"], ended["onExitCodes"]["operator"]) == ("FailJob", "NotIn")
    assert ended["onExitCodes"]["values"] == [os.EX_TEMPFAIL, 128 + 9, 128 + 15, LOST]
    assert spec["backoffLimit"] == 2


def test_only_what_scans_knows_the_scanner() -> None:
    case = CASES["default"]
    assert {kind: "MEDIA_CLAMD_HOST" in environment(worker(case, kind)) for kind in WORK} == {
        "scan": True,
        "transcribe": False,
        "thumbnail": False,
    }


def test_what_scans_and_sweeps_may_decide_alone_is_as_the_operator_is_told() -> None:
    told = {
        "clamd_at_once": 5,
        "clamd_heuristics": "infected",
        "retention_orphan_days": 30.5,
        "retention_orphans_few": 3,
        "retention_orphan_share": 0.1,
        "retention_found_days": 14,
        "retention_found_few": 9,
        "retention_event_days": 30,
    }
    case = Case(platform=told)
    scan, sweep = environment(worker(case, "scan")), environment(cron_job(case, "sweep"))
    for name, value in told.items():
        variable = f"MEDIA_{name.upper()}"
        pod = sweep if "ORPHAN" in variable or "EVENT" in variable else scan
        assert pod[variable] == f"{value}"


def test_who_tells_nothing_has_the_workers_own_defaults() -> None:
    defaults = {
        f"{prefix}{name}": field.default
        for prefix, cls in (("retention_", RetentionSettings), ("clamd_", ClamdSettings))
        for name, field in cls.model_fields.items()
    }
    fields = PlatformSettings.model_fields
    shared = fields.keys() & defaults.keys() - {"clamd_host", "clamd_port"}
    assert len(shared) == 8
    assert {name: fields[name].default for name in shared} == {name: defaults[name] for name in shared}


def cron_job(case: Case, part: str) -> Object:
    """A CronJob's pod."""
    return dict(one(case, "CronJob", part)["spec"]["jobTemplate"]["spec"]["template"]["spec"])


@pytest.mark.parametrize(
    ("asked", "memory"),
    [
        ({}, "1500Mi"),
        ({"model": "medium"}, "3075Mi"),
        ({"model": "Systran/faster-whisper-large-v3", "computeType": "float32"}, "10068Mi"),
        ({"model": "/models/ours"}, "3075Mi"),
        ({"resources": {"limits": {"memory": "5Gi"}}}, "5Gi"),
    ],
)
def test_a_transcription_gets_memory_for_its_model(asked: dict[str, Any], memory: str) -> None:
    (container,) = worker(Case({"transcription": asked}), "transcribe")["containers"]
    assert container["resources"]["limits"]["memory"] == memory


@pytest.mark.parametrize(
    ("asked", "limits"),
    [
        ({}, {"nvidia.com/gpu": "1"}),
        ({"requests": {"nvidia.com/gpu": 2}}, {"nvidia.com/gpu": "2"}),
        ({"limits": {"nvidia.com/gpu": 4}}, {"nvidia.com/gpu": "4"}),
        ({"requests": {"amd.com/gpu": 1}}, {"amd.com/gpu": "1"}),
        ({"limits": {"nvidia.com/mig-1g.10gb": 1}}, {"nvidia.com/mig-1g.10gb": "1"}),
    ],
)
def test_a_gpu_is_asked_for_as_a_limit(asked: dict[str, Any], limits: dict[str, str]) -> None:
    (container,) = worker(Case({"transcription": {"device": "cuda", "resources": asked}}), "transcribe")["containers"]
    assert {name: each for name, each in container["resources"]["limits"].items() if "/" in name} == limits


def all_pods(case: Case) -> dict[str, Object]:
    kept = {part: cron_job(case, part) for part in ("sweep", "rescan")}
    return {"api": api(case)} | {kind: worker(case, kind) for kind in WORK} | kept


def test_every_pod_can_have_a_limit_of_cpu() -> None:
    for pod in all_pods(CASES["openshift"]).values():
        (container,) = pod["containers"]
        assert "cpu" in container["resources"]["limits"]
        assert container["resources"]["limits"]["memory"]


def test_every_pod_trusts_whom_it_is_told_and_asks_no_proxy_for_the_cluster() -> None:
    for pod in all_pods(CASES["openshift"]).values():
        told = environment(pod)
        (container,) = pod["containers"]
        mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
        (volume,) = (each for each in pod["volumes"] if each["name"] == "trust")
        (item,) = volume["configMap"]["items"]
        assert volume["configMap"]["name"] == "authorities"
        file = f"{mounts['trust']}/{item['path']}"
        assert {told[name] for name in ("SSL_CERT_FILE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")} == {file}
        assert told["HTTPS_PROXY"] == told["https_proxy"] == "http://proxy.example:3128"
        assert "HTTP_PROXY" not in told
        assert told["NO_PROXY"] == "localhost,127.0.0.1,::1,.svc,.cluster.local,.corp.example,10.0.0.7"
    for part in ("api", "workers"):
        ports = one(CASES["openshift"], "NetworkPolicy", part)["spec"]["egress"][1]["ports"]
        assert {"protocol": "TCP", "port": 3128} in ports


def test_every_pod_goes_where_the_platform_says_and_transcription_has_the_last_word() -> None:
    for kind, pod in all_pods(CASES["openshift"]).items():
        assert pod["nodeSelector"] == {"pool": "media", "gpu": "a100" if kind == "transcribe" else "none"}
        keys = [each["key"] for each in pod["tolerations"]]
        assert keys == (["dedicated", "nvidia.com/gpu"] if kind == "transcribe" else ["dedicated"])


def test_no_pod_names_a_user_where_the_cluster_picks_it() -> None:
    for pod in all_pods(CASES["openshift"]).values():
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & pod["securityContext"].keys()
        assert pod["securityContext"]["runAsNonRoot"] is True
    assert api(Case(platform={"run_as_user": 1001}))["securityContext"]["runAsUser"] == 1001


def test_further_labels_never_change_what_selects_a_pod() -> None:
    case = CASES["openshift"]
    deployment = one(case, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert labels["team"] == "media"
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert labels["app.kubernetes.io/component"] == "api"
    templates = [each["spec"]["template"] for each in made(case) if each["kind"] == "Job"]
    templates += [each["spec"]["jobTemplate"]["spec"]["template"] for each in made(case) if each["kind"] == "CronJob"]
    assert len(templates) == 5
    for template in templates:
        assert template["metadata"]["labels"]["sidecar.istio.io/inject"] == "false"
        assert template["metadata"]["annotations"] == {"example.com/owner": "media"}


def test_every_pod_may_ask_dns_where_a_service_and_where_openshift_has_it() -> None:
    for part in ("api", "workers"):
        dns = one(CASES["default"], "NetworkPolicy", part)["spec"]["egress"][0]["ports"]
        told = {(each["protocol"], each["port"]) for each in dns}
        assert told == set(itertools.product(("UDP", "TCP"), (53, 5353)))


def test_a_gateway_has_a_timeout_of_ours_only_where_it_is_told() -> None:
    (rule,) = one(CASES["openshift"], "HTTPRoute")["spec"]["rules"]
    assert rule["timeouts"] == {"request": "0s"}
    (rule,) = one(CASES["gateway"], "HTTPRoute")["spec"]["rules"]
    assert "timeouts" not in rule


@pytest.mark.parametrize(
    ("asked", "volume"),
    [
        ({}, {"name": "models", "emptyDir": {"sizeLimit": "20Gi"}}),
        ({"modelCache": "kept"}, {"name": "models", "persistentVolumeClaim": {"claimName": "kept"}}),
        ({"model": "/models/ours"}, None),
        (
            {"model": "/models-cache/ours", "modelCache": "kept"},
            {"name": "models", "persistentVolumeClaim": {"claimName": "kept"}},
        ),
    ],
)
def test_models_are_kept_where_the_tenant_says(asked: dict[str, Any], volume: dict[str, Any] | None) -> None:
    pod = worker(Case({"transcription": asked}), "transcribe")
    found = next((each for each in pod["volumes"] if each["name"] == "models"), None)
    assert found == volume
    assert ("MEDIA_WHISPER_DOWNLOAD_ROOT" in environment(pod)) is (volume is not None)


PATHS_TO_METADATA = ((), ("spec", "template"), ("spec", "jobTemplate"), ("spec", "jobTemplate", "spec", "template"))


def test_labels_and_annotations_that_a_policy_asks_for_are_on_every_object_and_pod() -> None:
    labels, annotations = {"team": "media", "app.kubernetes.io/part-of": "theirs"}, {"contact": "us"}
    further = {"labels": json.dumps(labels), "annotations": json.dumps(annotations)}
    for case in CASES.values():
        decorated = made(replace(case, platform={**case.platform, **further}))
        for before, after in zip(made(case), decorated, strict=True):
            for path in PATHS_TO_METADATA:
                old, new = (functools.reduce(lambda at, name: at.get(name, {}), path, each) for each in (before, after))
                if "metadata" in old:
                    old, new = old["metadata"], new["metadata"]
                    assert new["labels"] == {**labels, **old["labels"]}
                    assert new["annotations"] == {**annotations, **old.get("annotations", {})}
            assert before.get("spec", {}).get("selector") == after.get("spec", {}).get("selector")


@pytest.mark.parametrize(
    ("platform", "scheme"),
    [
        ({}, "http"),
        ({"public_scheme": "https"}, "https"),
        ({"cluster_issuer": "letsencrypt"}, "https"),
        ({"gateway": "edge/public"}, "https"),
        ({"gateway": "edge/public", "public_scheme": "http"}, "http"),
    ],
)
def test_links_have_the_scheme_that_clients_use_wherever_tls_ends(platform: dict[str, str], scheme: str) -> None:
    case = Case({"api": {"host": "media.acme.example"}}, platform)
    assert environment(api(case))["MEDIA_PUBLIC_URL"] == f"{scheme}://media.acme.example"


def test_policies_let_through_the_ports_of_all_hosts_of_postgresql() -> None:
    tenant = CASES["default"].tenant()
    url = "postgresql+psycopg://tenant_acme:x@/media?host=a:5433&host=b:6432"
    objects = CASES["default"].workloads(tenant, credentials={**CREDENTIALS, "database-url": url})
    for policy in (each for each in objects if each["kind"] == "NetworkPolicy"):
        assert {5433, 6432} < {each["port"] for each in policy["spec"]["egress"][1]["ports"]}


def test_a_job_waits_for_kueue_where_there_is_one() -> None:
    queued, plain = one(CASES["gpu-kueue"], "Job", "scan-0a1b2c3d"), one(CASES["default"], "Job", "scan-0a1b2c3d")
    assert queued["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "media"
    assert queued["spec"]["suspend"] is True
    assert "suspend" not in plain["spec"]


def test_workers_reach_the_hub_only_for_models_that_are_not_there() -> None:
    def ports(case: Case) -> set[int]:
        _, reached = one(case, "NetworkPolicy", "-workers")["spec"]["egress"]
        return {each["port"] for each in reached["ports"]}

    assert ports(CASES["default"]) == {7070, 5432, 3310, 443}
    assert ports(CASES["everything"]) == {7070, 5432, 3311}


# --- secrets ---------------------------------------------------------------------------------------------------------


def test_a_secret_that_somebody_edited_is_told_from_ours() -> None:
    tenant = CASES["default"].tenant()
    secret = render.credentials_secret(tenant, CREDENTIALS, rotation="2026-11")
    assert render.secret_is_intact(secret)
    assert render.secret_values(secret) == CREDENTIALS
    assert secret["metadata"]["annotations"][ROTATE_KEYS] == "2026-11"
    edited = copy.deepcopy(secret)
    edited["data"][render.S3_SECRET] = base64.b64encode(b"theirs").decode()
    emptied = {**secret, "data": None}
    unreadable = {**secret, "data": {**secret["data"], render.S3_SECRET: "/w=="}}
    foreign = {**secret, "metadata": {"name": "mt-acme-credentials"}}
    assert not any(render.secret_is_intact(each) for each in (edited, emptied, unreadable, foreign))


def test_a_secret_of_an_earlier_mediatenant_counts_as_missing_since_it_is_about_to_go() -> None:
    case, cache = CASES["default"], Cache()
    earlier, tenant = case.tenant(), case.tenant(uid="11111111-0000-4000-8000-000000000000")
    for each in case.secrets(earlier):
        each["metadata"]["resourceVersion"] = "1"
        cache.see(kinds.SECRET, None, each)
    assert Children(cache, earlier, STORE).has_secrets
    seen = Children(cache, tenant, STORE)
    assert not seen.has_secrets
    assert (seen.credentials, seen.signing_keys) == ({}, [])


# --- drift -----------------------------------------------------------------------------------------------------------


def config(**fields: Any) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}, **fields}


def in_place(wanted: Object, live: Object) -> bool:
    """`matches` for a live object with the right hash."""
    stamped = render.stamped(wanted)
    metadata = {**live["metadata"], "annotations": stamped["metadata"]["annotations"]}
    return render.matches(stamped, {**live, "metadata": metadata})


def container(**fields: Any) -> Object:
    return config(spec={"containers": [{"name": "api", **fields}]})


@pytest.mark.parametrize(
    ("wanted", "live"),
    [
        (config(data={"a": "1"}), config(data={"a": "1", "b": "2"})),
        (config(spec={"value": ""}), config(spec={})),
        (config(spec={"ingress": []}), config(spec={})),
        (config(spec={"ingress": []}), config()),
        (
            container(resources={"limits": {"cpu": "1000m", "memory": "1024Mi"}}),
            container(resources={"limits": {"cpu": "1", "memory": "1Gi"}}),
        ),
        (container(resources={"limits": {"cpu": "0.0001"}}), container(resources={"limits": {"cpu": "100u"}})),
        (
            container(env=[{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]),
            container(env=[{"name": "B", "value": "2"}, {"name": "C"}, {"name": "A", "value": "1"}]),
        ),
        (
            container(ports=[{"containerPort": 80, "protocol": "TCP"}]),
            container(ports=[{"containerPort": 1}, {"containerPort": 80, "protocol": "TCP", "name": "http"}]),
        ),
    ],
)
def test_what_the_server_writes_differently_and_what_others_add_is_no_drift(wanted: Object, live: Object) -> None:
    assert in_place(wanted, live)


@pytest.mark.parametrize(
    ("wanted", "live"),
    [
        (config(data={"a": "1"}), config(data={"a": "2"})),
        (config(data={"a": "1"}), config()),
        (config(data={"a": "1000m"}), config(data={"a": "1"})),  # no quantities
        (config(spec={"automount": False}), config(spec={})),  # whose default is true
        (config(spec={"replicas": 0}), config(spec={})),
        (config(spec={"flag": True}), config(spec={"flag": 1})),
        (config(spec={"ingress": []}), config(spec={"ingress": [{}]})),
        (config(spec={"ports": [{"port": 443}]}), config(spec={"ports": [{"port": 443}, {"port": 22}]})),
        (config(spec={"podSelector": {"a": "1"}}), config(spec={"podSelector": {"a": "1", "b": "2"}})),
        (config(spec={"drop": ["ALL"]}), config(spec={"drop": ["ALL", "SYS_ADMIN"]})),
        (container(env=[{"name": "A", "value": "1"}]), container(env=[{"name": "A", "value": "2"}])),
        (container(env=[{"name": "A", "value": "1"}]), config(spec={"containers": [{"name": "theirs"}]})),
        (container(resources={"limits": {"cpu": "1"}}), container(resources={"limits": {"cpu": "1001m"}})),
    ],
)
def test_what_somebody_changed_is_drift(wanted: Object, live: Object) -> None:
    assert not in_place(wanted, live)


def test_a_field_that_is_not_wanted_any_more_is_drift_by_the_hash() -> None:
    before, now = render.stamped(config(data={"a": "1", "b": "2"})), render.stamped(config(data={"a": "1"}))
    assert not render.matches(now, before)
    assert render.matches(before, before)
    assert not render.matches(now, config(data={"a": "1"}))


def test_the_hash_is_of_the_content_not_of_the_order_of_its_keys() -> None:
    body = config(data={"a": "1", "b": "2"})
    turned = dict(reversed(body.items())) | {"data": {"b": "2", "a": "1"}}
    assert render.stamped(body)["metadata"] == render.stamped(turned)["metadata"]
    assert kinds.APPLIED not in body["metadata"].get("annotations", {})


def test_rendering_twice_is_the_same() -> None:
    for case in EVERY.values():
        assert made(case) == made(case)


def test_tenants_are_swept_at_minutes_of_their_own() -> None:
    minutes = {one(Case(name=f"tenant-{number}"), "CronJob", "sweep")["spec"]["schedule"] for number in range(40)}
    assert len(minutes) > 20
    assert all(0 <= int(each.split()[0]) < 60 for each in minutes)


def test_the_tenant_may_be_called_otherwise_than_its_resource() -> None:
    service = one(Case({"tenantId": "acme"}, name="files"), "Service")["metadata"]
    assert (service["name"], service["ownerReferences"][0]["name"]) == ("mt-acme", "files")
