"""The cache keeps the newest version of each object, in whatever order they come, and wakes only those concerned."""

import itertools
import json
import tracemalloc
from typing import Any

import pytest

from media_operator.cluster.cache import Cache, TenantKey
from media_operator.cluster.kinds import (
    CONFIG_MAP,
    CRON_JOB,
    DEPLOYMENT,
    HPA,
    JOB,
    MEDIA_TENANT,
    RESOURCE_QUOTA,
    SERVICE,
    Kind,
    Object,
)

ACME = TenantKey("team", "acme")
OTHER = TenantKey("team", "other")


def tenant(key: TenantKey = ACME, *, version: int = 1, **changes: Any) -> Object:
    metadata = {"generation": 1, "uid": f"uid-{key.name}", "managedFields": [{"manager": "kubectl"}]}
    return _object(MEDIA_TENANT, key.namespace, key.name, version, metadata, changes)


def child(
    kind: Kind, name: str = "mt-acme", *, of: TenantKey | None = ACME, version: int = 1, **changes: Any
) -> Object:
    namespace = of.namespace if of else "team"
    owner = {"apiVersion": MEDIA_TENANT.api_version, "kind": "MediaTenant", "controller": True}
    owners = {"ownerReferences": [{**owner, "name": of.name, "uid": f"uid-{of.name}"}]} if of else {}
    return _object(kind, namespace, name, version, {**owners, "managedFields": [{"manager": "x"}]}, changes)


def _object(
    kind: Kind, namespace: str, name: str, version: int, metadata: Object, changes: dict[str, Any]
) -> dict[str, Any]:
    changed = changes.pop("metadata", {})
    return {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": {"namespace": namespace, "name": name, "resourceVersion": str(version), **metadata, **changed},
        **changes,
    }


@pytest.fixture
def cache() -> Cache:
    cache = Cache()
    cache.see(MEDIA_TENANT, None, tenant())
    return cache


# --- whom it concerns ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", [None, "ADDED", "MODIFIED"])
def test_a_new_object_concerns_its_owner(cache: Cache, event: str | None) -> None:
    assert cache.see(SERVICE, event, child(SERVICE)) == {ACME}
    assert cache.children(ACME)[SERVICE, "mt-acme"]["kind"] == "Service"


def test_a_new_tenant_concerns_itself() -> None:
    cache = Cache()
    assert cache.see(MEDIA_TENANT, "ADDED", tenant()) == {ACME}
    assert cache.tenants().keys() == {ACME}


@pytest.mark.parametrize(
    "owner",
    [
        {"apiVersion": MEDIA_TENANT.api_version, "kind": "MediaTenant", "name": "acme", "controller": False},
        {"apiVersion": "batch/v1", "kind": "CronJob", "name": "acme", "controller": True},
        {"apiVersion": "example.com/v1", "kind": "MediaTenant", "name": "acme", "controller": True},
    ],
)
def test_who_does_not_control_an_object_is_not_concerned(cache: Cache, owner: dict[str, Any]) -> None:
    body = child(CONFIG_MAP, of=None, metadata={"ownerReferences": [owner]})
    assert cache.see(CONFIG_MAP, "ADDED", body) == set()
    assert not cache.children(ACME)


def test_an_object_that_changes_hands_concerns_both_owners(cache: Cache) -> None:
    cache.see(SERVICE, "ADDED", child(SERVICE))
    assert cache.see(SERVICE, "MODIFIED", child(SERVICE, of=OTHER, version=2)) == {ACME, OTHER}
    assert not cache.children(ACME)
    assert cache.children(OTHER)
    assert cache.see(SERVICE, "MODIFIED", child(SERVICE, of=None, version=3)) == {OTHER}
    assert not cache.children(OTHER)


def test_a_deployment_s_readiness_concerns_its_owner(cache: Cache) -> None:
    cache.see(DEPLOYMENT, "ADDED", child(DEPLOYMENT))
    ready = child(DEPLOYMENT, version=2, status={"readyReplicas": 1})
    assert cache.see(DEPLOYMENT, "MODIFIED", ready) == {ACME}
    assert cache.children(ACME)[DEPLOYMENT, "mt-acme"]["status"] == {"readyReplicas": 1}


@pytest.mark.parametrize("kind", [HPA, RESOURCE_QUOTA, CRON_JOB])
def test_a_status_that_nobody_reads_concerns_nobody_but_is_kept(cache: Cache, kind: Kind) -> None:
    cache.see(kind, "ADDED", child(kind))
    assert cache.see(kind, "MODIFIED", child(kind, version=2, status={"observed": 7})) == set()
    assert cache.children(ACME)[kind, "mt-acme"]["status"] == {"observed": 7}


def test_a_new_version_that_says_the_same_concerns_nobody(cache: Cache) -> None:
    cache.see(SERVICE, "ADDED", child(SERVICE))
    again = child(SERVICE, version=2, metadata={"managedFields": [{"manager": "somebody"}]})
    assert cache.see(SERVICE, "MODIFIED", again) == set()
    assert cache.children(ACME)[SERVICE, "mt-acme"]["metadata"]["resourceVersion"] == "2"


@pytest.mark.parametrize(
    "change",
    [
        {"generation": 2},
        {"annotations": {"media.scaiwave.io/reconcile": "disabled"}},
        {"deletionTimestamp": "2026-01-01T00:00:00Z"},
        {"finalizers": ["example.com/mine"]},
        {"uid": "of its successor"},
    ],
)
def test_what_is_declared_of_a_tenant_concerns_it(cache: Cache, change: dict[str, Any]) -> None:
    assert cache.see(MEDIA_TENANT, "MODIFIED", tenant(version=2, metadata=change)) == {ACME}


def test_a_tenant_s_status_concerns_nobody_but_is_kept(cache: Cache) -> None:
    assert cache.see(MEDIA_TENANT, "MODIFIED", tenant(version=2, status={"bucket": "b"})) == set()
    assert cache.tenants()[ACME]["status"] == {"bucket": "b"}


# --- our own writes --------------------------------------------------------------------------------------------------


def test_the_echo_of_our_own_write_concerns_nobody(cache: Cache) -> None:
    cache.applied(DEPLOYMENT, child(DEPLOYMENT, version=5))
    assert cache.children(ACME)
    assert cache.see(DEPLOYMENT, "ADDED", child(DEPLOYMENT, version=5)) == set()


def test_a_change_by_others_that_came_with_the_answer_to_our_write_is_not_lost(cache: Cache) -> None:
    """Somebody edits the spec, then we write the status. The answer has both changes, and the edit's event is older."""
    cache.applied(MEDIA_TENANT, tenant(version=3, metadata={"generation": 2}, status={"bucket": "b"}))
    assert cache.see(MEDIA_TENANT, "MODIFIED", tenant(version=2, metadata={"generation": 2})) == {ACME}
    assert cache.tenants()[ACME]["metadata"]["resourceVersion"] == "3"
    assert cache.see(MEDIA_TENANT, "MODIFIED", tenant(version=3, metadata={"generation": 2})) == set()


# --- old words -------------------------------------------------------------------------------------------------------


def test_an_older_word_never_replaces_a_newer_one(cache: Cache) -> None:
    cache.see(SERVICE, "ADDED", child(SERVICE, version=10))
    assert cache.see(SERVICE, "MODIFIED", child(SERVICE, version=9, spec={"old": True})) == set()
    assert cache.see(SERVICE, "DELETED", child(SERVICE, version=9)) == set()
    assert "spec" not in cache.children(ACME)[SERVICE, "mt-acme"]


def test_versions_are_numbers(cache: Cache) -> None:
    cache.see(SERVICE, "ADDED", child(SERVICE, version=9))
    assert cache.see(SERVICE, "MODIFIED", child(SERVICE, version=10, spec={})) == {ACME}


def test_of_versions_that_are_no_numbers_the_last_word_counts(cache: Cache) -> None:
    for version in ("z", "a"):
        body = child(SERVICE, spec={"said": version}, metadata={"resourceVersion": version})
        assert cache.see(SERVICE, "MODIFIED", body) == {ACME}
    assert cache.see(SERVICE, "DELETED", child(SERVICE, metadata={"resourceVersion": "b"})) == {ACME}


@pytest.mark.parametrize("kind", [SERVICE, MEDIA_TENANT])
@pytest.mark.parametrize("known", [True, False])
def test_a_straggler_does_not_bring_back_what_was_deleted(kind: Kind, known: bool) -> None:
    cache = Cache()
    made = child if kind is SERVICE else lambda _, **changes: tenant(**changes)
    if known:
        cache.see(kind, "ADDED", made(kind, version=4))
    cache.see(kind, "DELETED", made(kind, version=6))
    assert cache.see(kind, "MODIFIED", made(kind, version=5)) == set()
    cache.applied(kind, made(kind, version=5))
    assert not cache.tenants()
    assert not cache.children(ACME)
    assert cache.see(kind, "ADDED", made(kind, version=7)) == {ACME}


def test_whatever_the_order_of_events_and_answers_the_end_is_the_same() -> None:
    told = [
        ("see", "ADDED", tenant(version=1)),
        ("see", "MODIFIED", tenant(version=2, metadata={"generation": 2})),
        ("applied", None, tenant(version=3, metadata={"generation": 2}, status={"bucket": "b"})),
        ("see", "MODIFIED", tenant(version=4, metadata={"generation": 3}, status={"bucket": "b"})),
    ]
    for order in itertools.permutations(told):
        cache = Cache()
        woken = [cache.see(MEDIA_TENANT, event, body) for how, event, body in order if how == "see"]
        for how, _, body in order:
            if how == "applied":
                cache.applied(MEDIA_TENANT, body)
        assert cache.tenants()[ACME]["metadata"]["resourceVersion"] == "4"
        assert any(woken)


# --- lists -----------------------------------------------------------------------------------------------------------


def test_a_list_finds_what_went_while_no_watch_told(cache: Cache) -> None:
    cache.see(SERVICE, "ADDED", child(SERVICE, version=2))
    cache.see(DEPLOYMENT, "ADDED", child(DEPLOYMENT, version=3))
    assert cache.replace(SERVICE, [], "10") == {ACME}
    assert cache.children(ACME).keys() == {(DEPLOYMENT, "mt-acme")}
    assert cache.see(SERVICE, "MODIFIED", child(SERVICE, version=4)) == set()


def test_a_list_finds_tenants_that_went(cache: Cache) -> None:
    cache.see(MEDIA_TENANT, "ADDED", tenant(OTHER, version=2))
    assert cache.replace(MEDIA_TENANT, [tenant(OTHER, version=2)], "10") == {ACME}
    assert cache.tenants().keys() == {OTHER}


def test_a_list_does_not_remove_what_came_after_it(cache: Cache) -> None:
    cache.applied(SERVICE, child(SERVICE, version=11))
    assert cache.replace(SERVICE, [], "10") == set()
    assert cache.children(ACME)


def test_a_list_tells_what_is_new_and_nothing_else(cache: Cache) -> None:
    cache.see(SERVICE, "ADDED", child(SERVICE, version=2))
    listed = [child(SERVICE, version=2), child(SERVICE, "mt-other", of=OTHER, version=3)]
    assert cache.replace(SERVICE, listed, "10") == {OTHER}
    assert cache.replace(SERVICE, listed, "12") == set()


def test_the_list_of_one_namespace_says_nothing_of_others(cache: Cache) -> None:
    elsewhere = TenantKey("elsewhere", "acme")
    cache.see(SERVICE, "ADDED", child(SERVICE, of=elsewhere))
    assert cache.replace(SERVICE, [], "10", namespace="team") == set()
    assert cache.replace(SERVICE, [], "10", namespace="elsewhere") == {elsewhere}


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_jobs_are_apart_from_children_and_those_of_nobody_are_nobodys(cache: Cache) -> None:
    cache.see(JOB, "ADDED", child(JOB, "mt-acme-scan-1"))
    cache.see(JOB, "ADDED", child(JOB, "mt-acme-sweep-1", of=None))
    assert not cache.children(ACME)
    assert [job["metadata"]["name"] for job in cache.jobs(ACME)] == ["mt-acme-scan-1"]
    assert cache.see(JOB, "DELETED", child(JOB, "mt-acme-scan-1", version=2)) == {ACME}
    assert cache.jobs(ACME) == []


def test_managed_fields_are_not_kept(cache: Cache) -> None:
    cache.see(SERVICE, "ADDED", child(SERVICE))
    assert "managedFields" not in cache.children(ACME)[SERVICE, "mt-acme"]["metadata"]
    assert "managedFields" not in cache.tenants()[ACME]["metadata"]


def test_a_thousand_tenants_that_came_and_went_leave_next_to_nothing() -> None:
    keys = [TenantKey("team", f"t{number}-{round_}") for round_ in range(8) for number in range(1000)]
    seen = [
        (change, json.dumps(child(SERVICE, of=key, version=version)))
        for key in keys
        for change, version in (("ADDED", 1), ("DELETED", 2))
    ]
    tracemalloc.start()  # from here on all takes a multiple of its time
    try:
        cache = Cache()
        before = tracemalloc.get_traced_memory()[0]
        for change, body in seen:
            cache.see(SERVICE, change, json.loads(body))
        assert tracemalloc.get_traced_memory()[0] - before < 6_000_000  # the last deletions
    finally:
        tracemalloc.stop()
