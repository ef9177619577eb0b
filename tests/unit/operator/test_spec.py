from ipaddress import IPv6Address
from typing import Any
from urllib.parse import urlsplit

import pytest

from media_operator.tenant.spec import MediaTenant, changes, refuse_immutable_changes
from media_operator.tenant.spec_errors import FieldError, SpecInvalid


def manifest(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "media.scaiwave.io/v1alpha1",
        "kind": "MediaTenant",
        "metadata": {"name": "acme"},
        "spec": spec,
    }


def complaints(document: object) -> list[str]:
    with pytest.raises(SpecInvalid) as caught:
        MediaTenant.read(document)
    return [str(error) for error in caught.value.errors]


def hooks(**changed: Any) -> dict[str, Any]:
    return {"webhooks": [{"url": "https://a.example/h?k=v", "secretRef": {"name": "app-hook"}} | changed]}


@pytest.mark.parametrize("url", ["https://a.example", "https://[2001:db8::1]:8443/h", "http://app.team.svc:8080/h?a=b"])
def test_a_webhook_is_known_by_its_url(url: str) -> None:
    (hook,) = MediaTenant.read(manifest(**hooks(url=url))).spec.webhooks
    assert (hook.url, hook.events, hook.secret_ref.name, hook.secret_ref.key) == (url, [], "app-hook", "secret")


def test_an_empty_spec_gets_every_default() -> None:
    tenant = MediaTenant.read(manifest())
    assert (tenant.tenant_id, tenant.bucket, tenant.schema_name) == ("acme", "media-acme", "tenant_acme")
    assert tenant.spec.quota.max_storage_mb == 10_240
    assert tenant.spec.scan.pending_access == "None"
    assert tenant.spec.storage.deletion_policy == "Retain"
    assert tenant.spec.scan.unscannable == "Block"


def test_a_manifest_without_spec_is_a_tenant_of_defaults() -> None:
    document = manifest()
    del document["spec"]
    assert MediaTenant.read(document) == MediaTenant.read(manifest())


def test_fields_are_written_in_camel_case_only() -> None:
    assert MediaTenant.read(manifest(quota={"maxStorageMb": 5})).spec.quota.max_storage_mb == 5
    assert complaints(manifest(quota={"max_storage_mb": 5})) == [
        "spec.quota.max_storage_mb: is not a known field; did you mean maxStorageMb?"
    ]


def test_a_field_in_another_place_is_told_where_it_belongs() -> None:
    assert complaints(manifest() | {"quota": {}}) == ["quota: is not a known field here; did you mean spec.quota?"]
    assert complaints(manifest(maxStorageMb=5, issuer="https://id.example", resources={})) == [
        "spec.maxStorageMb: is not a known field here; did you mean spec.quota.maxStorageMb?",
        "spec.issuer: is not a known field here; did you mean spec.auth.oidc.issuer?",
        complaints(manifest(resources={}))[0],  # there are several
    ]
    assert complaints(manifest(resources={}))[0].startswith("spec.resources: is not a known field; known here: ")


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ({"quota": {"maxStorageMb": 0}}, "spec.quota.maxStorageMb: must be at least 1, not 0"),
        ({"quota": {"maxStorageMb": "ten"}}, "spec.quota.maxStorageMb: must be a whole number, not 'ten'"),
        ({"quota": {"maxStorageMb": "10"}}, "spec.quota.maxStorageMb: must be a whole number, not '10'"),
        ({"quota": {"maxStorageMb": True}}, "spec.quota.maxStorageMb: must be a whole number, not true"),
        ({"quota": {"maxStorageMb": 1.5}}, "spec.quota.maxStorageMb: must be a whole number, not 1.5"),
        ({"quota": {"maxUploadMb": 80_001}}, "spec.quota.maxUploadMb: must be at most 80000, not 80001"),
        ({"quota": []}, "spec.quota: must be an object, not a list"),
        ({"quota": None}, "spec.quota: must be an object, not null"),
        ({"qouta": {}}, "spec.qouta: is not a known field; did you mean quota?"),
        (
            {"scan": {"pendingAcces": "All"}},
            "spec.scan.pendingAcces: is not a known field; did you mean pendingAccess?",
        ),
        (
            {"scan": {"pendingAccess": "all"}},
            "spec.scan.pendingAccess: must be one of None, Uploader, All, not 'all'; did you mean All?",
        ),
        (
            {"scan": {"pendingAccess": None}},
            "spec.scan.pendingAccess: must be one of None, Uploader, All, not null; did you mean None?",
        ),
        ({"scan": {"rescanSchedule": "daily"}}, "spec.scan.rescanSchedule: must be a cron schedule of five fields"),
        ({"suspended": "yes"}, "spec.suspended: must be true or false, not 'yes'"),
        ({"tenantId": "Acme"}, "spec.tenantId: must be lower-case letters, digits and inner hyphens, not 'Acme'"),
        ({"tenantId": "a" * 41}, "spec.tenantId: must be at most 40 characters long"),
        ({"tenantId": "a\n"}, "spec.tenantId: must be lower-case letters, digits and inner hyphens"),
        ({"storage": {"bucket": "x"}}, "spec.storage.bucket: must be at least 3 characters long"),
        ({"auth": {"oidc": {}}}, "spec.auth.oidc.issuer: is required"),
        ({"webhooks": [{"url": "https://a.example/"}]}, "spec.webhooks[0].secretRef: is required"),
        (
            hooks(url="http://a.example/"),
            "spec.webhooks[0].url: must be an https URL, with a port of 1 to 65535 if any",
        ),
        (hooks(url="https://a.example/$(MEDIA_DATABASE_URL)"), "spec.webhooks[0].url: must be an https URL"),
        (hooks(url="https://user@a.example/"), "spec.webhooks[0].url: must be an https URL"),
        (hooks(events=["exploded"]), "spec.webhooks[0].events[0]: must be one of stored, scanned"),
        (hooks(secretRef={}), "spec.webhooks[0].secretRef.name: is required"),
        (hooks(secretRef={"name": "a", "key": "../b"}), "spec.webhooks[0].secretRef.key: must be a key of a Secret"),
        ({"webhooks": [*hooks()["webhooks"], *hooks()["webhooks"]]}, "spec.webhooks: must have each url once"),
        ({"auth": {"oidc": {"issuer": "http://login.example"}}}, "spec.auth.oidc.issuer: must be an https URL"),
        (
            {"api": {"autoscaling": {"min": 5, "max": 2}}},
            "spec.api.autoscaling.max: must be at least min, which is 2 where it is not given",
        ),
        ({"api": {"host": "10.0.0.1"}}, "spec.api.host: must be a lower-case host name such as media.acme.example"),
        ({"auth": {"oidc": {"issuer": "https://a:b@login.example"}}}, "spec.auth.oidc.issuer: must be an https URL"),
        (
            {"auth": {"oidc": {"issuer": "https://login.example", "jwksUri": "https://login.example:99999/k"}}},
            "spec.auth.oidc.jwksUri: must be an https URL without query, with a port of 1 to 65535 if any",
        ),
        ({"scan": {"rescanSchedule": "0 24 * * *"}}, "spec.scan.rescanSchedule: must be a cron schedule"),
        (
            {"transcription": {"nodeSelector": {"a b": "c"}}},
            "spec.transcription.nodeSelector.a b: must be the key of a node label",
        ),
        (
            {"transcription": {"tolerations": [{"value": "x"}]}},
            "spec.transcription.tolerations[0].key: must be set unless operator is Exists",
        ),
        (
            {"transcription": {"tolerations": [{"operator": "Exists", "value": "x"}]}},
            "spec.transcription.tolerations[0].value: must be empty where operator is Exists",
        ),
        (
            {"transcription": {"tolerations": [{"key": "gpu", "tolerationSeconds": 5}]}},
            "spec.transcription.tolerations[0].effect: must be NoExecute where tolerationSeconds is set",
        ),
        ({"namespaceQuota": {"cpu": "lots"}}, "spec.namespaceQuota.cpu: must be a Kubernetes quantity"),
        ({"namespaceQuota": {"pods": 0}}, "spec.namespaceQuota.pods: must be at least 1, not 0"),
        (
            {"api": {"resources": {"limits": {"memory": "much"}}}},
            "spec.api.resources.limits.memory: must be a Kubernetes quantity such as 500m or 2Gi, not 'much'",
        ),
        (
            {"api": {"resources": {"requests": {"cpu": 0.5}}}},
            'spec.api.resources.requests.cpu: must be a text, not 0.5: write it in quotes, "0.5"',
        ),
        (
            {"transcription": {"nodeSelector": {"gpu": True}}},
            'spec.transcription.nodeSelector.gpu: must be a text, not true: write it in quotes, "true"',
        ),
        (
            {"api": {"resources": {"limits": {"memoryy": "1Gi"}}}},
            "spec.api.resources.limits.memoryy: must be one of cpu, memory,",
        ),
        (
            {"transcription": {"tolerations": [{"kee": "gpu"}]}},
            "spec.transcription.tolerations[0].kee: is not a known field; did you mean key?",
        ),
    ],
)
def test_what_is_wrong_is_said_with_the_path_as_it_was_written(spec: dict[str, Any], complaint: str) -> None:
    (found,) = complaints(manifest(**spec))
    assert found.startswith(complaint)


@pytest.mark.parametrize("secret", ["c2VjcmV0", "c2Vj/cmV0", "c2Vj@cmV0"])
def test_a_secret_in_the_wrong_place_is_not_repeated(secret: str) -> None:
    wrong = hooks(url=f"https://ann:{secret}@a.example/", secretRef="whsec_c2VjcmV0")
    url, reference = sorted(complaints(manifest(**wrong)), reverse=True)
    assert url.endswith(", not 'https://…@a.example/'")
    assert reference.endswith("secretRef: must be an object, not 'whsec_…'")


def test_a_value_is_compared_with_one_that_is_clearly_close_and_with_no_other() -> None:
    assert complaints(manifest(transcription={"device": "gpu"}, scan={"pendingAccess": "Owner"})) == [
        "spec.scan.pendingAccess: must be one of None, Uploader, All, not 'Owner'",
        "spec.transcription.device: must be one of cpu, cuda, not 'gpu'",
    ]
    toleration = {"key": "gpu", "effect": "NoSchdule"}
    (found,) = complaints(manifest(transcription={"tolerations": [toleration]}))
    assert found.endswith("; did you mean NoSchedule?")


def test_a_field_that_resembles_nothing_is_answered_with_what_is_known_there() -> None:
    assert complaints(manifest(quota={"zzz": 1})) == [
        "spec.quota.zzz: is not a known field; known here: maxStorageMb, maxFiles, maxUploadMb, "
        "maxTranscriptionMinutesPerDay"
    ]


def test_all_complaints_come_at_once() -> None:
    assert len(complaints(manifest(quota={"maxStorageMb": 0, "maxUploadMb": 0}, suspended=1))) == 3


ISSUER_URLS = """
    https://login.example https://Login.example:8443/realms/acme/ https://10.0.0.7/keys
    http://localhost:8080/a http://127.0.0.1/keys http://keys.acme.svc:8080 http://k.a.svc.cluster.local/x
    https://[::1] https://[::] https://[a::] https://[1::8] https://[fd00::1]:443/a https://[1:2:3:4:5:6:7:8]/
    https://[1:2:3:4:5:6:7::] https://[::2:3:4:5:6:7:8] https://[1:2::4:5:6:7:8]
"""
NO_ISSUER_URLS = """
    http://x.svc.evil.example http://x.svc.cluster.local.evil.example http://svc http://.svc/ http://a..svc
    http://x.svcs http://xsvc http://localhost.evil.example http://127.0.0.1.evil.example http://[::1]
    http://169.254.169.254/keys ftp://login.example https://me:secret@login.example https://a?b https://a#b
    https://[1:2] https://[:::] https://[:] https://[1::2::3] https://[1:2:3:4:5:6:7:8:9] https://[12345::]
    https://[::1 https://::1 https://[1:2:3:4:5:6:7:8::] https://[1:2:3:4:5:6:7:]
"""
PORTS = (1, 443, 9999, 10000, 59999, 64999, 65499, 65529, 65535)
NO_PORTS = ("", 0, "0443", 65536, 65540, 65600, 66000, 70000, 99999, 100000)


@pytest.mark.parametrize("url", [*ISSUER_URLS.split(), *(f"https://login.example:{port}/k" for port in PORTS)])
def test_an_issuer_and_its_keys_are_https_urls_or_near(url: str) -> None:
    oidc = MediaTenant.read(manifest(auth={"oidc": {"issuer": url, "jwksUri": url}})).spec.auth.oidc
    assert oidc is not None
    assert (oidc.issuer, oidc.jwks_uri) == (url, url)
    host = urlsplit(url).hostname or ""
    assert (urlsplit(url).port or 443) in range(1, 65536)
    assert ":" not in host or IPv6Address(host)


@pytest.mark.parametrize(
    "url",
    [*NO_ISSUER_URLS.split(), *(f"https://login.example:{port}/k" for port in NO_PORTS), "https://login.example\n"],
)
def test_an_issuer_or_its_keys_elsewhere_are_refused(url: str) -> None:
    for oidc in ({"issuer": url}, {"issuer": "https://login.example", "jwksUri": url}):
        (complaint,) = complaints(manifest(auth={"oidc": oidc}))
        assert "must be an https URL without query" in complaint


@pytest.mark.parametrize("document", [None, "text", [], 7])
def test_what_is_no_object_is_refused_in_words(document: object) -> None:
    (found,) = complaints(document)
    assert found.startswith("must be a MediaTenant object, not ")


def test_another_kind_is_refused() -> None:
    assert complaints({**manifest(), "kind": "Deployment"}) == ["kind: must be MediaTenant, not 'Deployment'"]


def test_a_name_that_cannot_be_a_tenant_id_needs_one_of_its_own() -> None:
    document = manifest()
    document["metadata"]["name"] = "acme.example"
    (found,) = complaints(document)
    assert found.startswith("metadata.name: must be lower-case letters")
    document["spec"] = {"tenantId": "acme"}
    assert MediaTenant.read(document).tenant_id == "acme"


def test_what_the_api_server_adds_to_metadata_is_left_alone() -> None:
    document = manifest()
    document["metadata"] |= {"resourceVersion": "7", "managedFields": [], "generation": 3, "uid": "u-1"}
    document["metadata"] |= {"creationTimestamp": "2026-11-27T10:00:00Z", "finalizers": ["example.com/hold"]}
    read = MediaTenant.read(document).metadata
    assert (read.generation, read.creation_timestamp, read.deletion_timestamp) == (3, "2026-11-27T10:00:00Z", None)
    assert (read.resource_version, read.finalizers, read.annotations) == ("7", ["example.com/hold"], {})


def test_two_tenant_ids_never_share_a_schema() -> None:
    names = {
        MediaTenant.read(manifest(tenantId=name)).schema_name
        for name in ("a-b", "ab", "a-b-", "a--b")
        if name[-1] != "-"
    }
    assert names == {"tenant_a_b", "tenant_ab", "tenant_a__b"}


def test_quantities_may_be_written_as_numbers() -> None:
    tenant = MediaTenant.read(manifest(api={"resources": {"requests": {"cpu": 2, "memory": "1.5Gi"}}}))
    assert tenant.spec.api.resources.requests == {"cpu": "2", "memory": "1.5Gi"}


@pytest.mark.parametrize(
    "resources",
    [
        {"limits": {"memory": "512m"}},
        {"requests": {"ephemeral-storage": "1500m"}},
        {"requests": {"cpu": 2}, "limits": {"cpu": 1}},
    ],
)
def test_a_tenant_that_was_stored_before_a_rule_is_served_further(resources: dict[str, Any]) -> None:
    document = manifest(transcription={"resources": resources})
    assert complaints(document)
    assert MediaTenant.read(document, stored=True).tenant_id == "acme"


def test_memory_may_be_written_as_kubernetes_own_clients_write_it() -> None:
    resources = {"requests": {"memory": "1288490188800m"}, "limits": {"memory": "1.2Gi"}}
    assert MediaTenant.read(manifest(api={"resources": resources}))


@pytest.mark.parametrize(
    ("field", "edited"),
    [
        ("spec.tenantId", manifest(tenantId="other")),
        ("spec.storage.bucket", manifest(storage={"bucket": "elsewhere"})),
        ("metadata.name", {**manifest(tenantId="acme"), "metadata": {"name": "renamed"}}),
    ],
)
def test_names_that_data_is_filed_under_are_immutable(field: str, edited: dict[str, Any]) -> None:
    with pytest.raises(SpecInvalid) as caught:
        refuse_immutable_changes(MediaTenant.read(manifest()), MediaTenant.read(edited))
    assert field in [error.path for error in caught.value.errors]


def test_spelling_out_a_default_is_no_change() -> None:
    old, new = MediaTenant.read(manifest()), MediaTenant.read(manifest(tenantId="acme", quota={"maxUploadMb": 512}))
    refuse_immutable_changes(old, new)
    assert [path for path, _, _ in changes(old, new)] == ["spec.tenantId"]


def test_changes_are_listed_leaf_by_leaf() -> None:
    old = MediaTenant.read(manifest())
    new = MediaTenant.read(manifest(quota={"maxStorageMb": 20}, suspended=True))
    assert list(changes(old, new)) == [("spec.quota.maxStorageMb", 10_240, 20), ("spec.suspended", False, True)]


def test_a_field_error_reads_as_one_sentence() -> None:
    assert str(FieldError("spec.x", "is required")) == "spec.x: is required"
