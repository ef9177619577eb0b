"""`plan` against a world that obeys: what it orders, in which order, and where it stops."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from media_core.plan import (
    Api,
    ApiShape,
    ApplyPolicy,
    Bucket,
    CreateBucket,
    CreateDatabase,
    Database,
    MakeSigningKey,
    MigrateDatabase,
    Observed,
    Plan,
    RunApi,
    Scanner,
    ShapeWorkers,
    Step,
    Unreachable,
    Workers,
    plan,
    policy_of,
    with_transitions,
    worker_shape_of,
)
from media_core.spec import Condition, MediaTenant

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def tenant(generation: int = 1, **spec: Any) -> MediaTenant:
    return MediaTenant.read(
        {
            "apiVersion": "media.scaiwave.io/v1alpha1",
            "kind": "MediaTenant",
            "metadata": {"name": "acme", "generation": generation},
            "spec": spec,
        }
    )


EMPTY = Observed(
    bucket=Bucket(exists=False),
    database=Database(exists=False, known_revisions=("0001", "0002")),
    signing_keys=0,
    policy=None,
    scanner=Scanner(ready=True, detail="clamd 1.4.6"),
    api=Api(shape=None),
    workers=Workers(shape=None),
)


@dataclass
class World:
    """Does what steps say, and counts them."""

    seen: Observed = EMPTY
    done: list[Step] = field(default_factory=list)

    def carry_out(self, step: Step) -> None:
        self.done.append(step)
        match step:
            case CreateBucket(_, owner):
                self.seen = replace(self.seen, bucket=Bucket(True, owner))
            case CreateDatabase(_, owner):
                assert isinstance(self.seen.database, Database)
                self.seen = replace(
                    self.seen, database=replace(self.seen.database, exists=True, complete=True, owner=owner)
                )
            case MigrateDatabase():
                assert isinstance(self.seen.database, Database)
                newest = self.seen.database.known_revisions[-1]
                self.seen = replace(self.seen, database=replace(self.seen.database, revision=newest))
            case MakeSigningKey():
                self.seen = replace(self.seen, signing_keys=1)
            case ApplyPolicy(policy):
                self.seen = replace(self.seen, policy=policy)
            case RunApi(shape):
                self.seen = replace(self.seen, api=Api(shape, wanted=2, ready=2))
            case ShapeWorkers(shape):
                self.seen = replace(self.seen, workers=Workers(shape))

    def settle(self, declared: MediaTenant) -> Plan:
        for _ in range(10):
            current = plan(declared, self.seen)
            if not current.steps:
                return current
            for step in current.steps:
                self.carry_out(step)
        raise AssertionError("it never comes to rest")


def said(current: Plan, name: str) -> Condition:
    return next(condition for condition in current.conditions if condition.type == name)


def settled(**spec: Any) -> World:
    world = World()
    world.settle(tenant(**spec))
    world.done.clear()
    return world


def test_a_tenant_comes_to_life_from_nothing_in_order() -> None:
    world = World()
    current = world.settle(tenant())
    assert [type(step) for step in world.done] == [
        CreateBucket,
        CreateDatabase,
        MakeSigningKey,
        MigrateDatabase,
        ApplyPolicy,
        RunApi,
        ShapeWorkers,
    ]
    assert {condition.status for condition in current.conditions} == {"True"}
    assert said(current, "Ready").reason == "Serving"


def test_a_settled_tenant_needs_nothing() -> None:
    assert plan(tenant(), settled().seen).steps == ()


def test_every_condition_is_said_in_the_first_pass_about_this_generation() -> None:
    current = plan(tenant(generation=7), EMPTY)
    assert [condition.type for condition in current.conditions] == [
        "Ready",
        "BucketReady",
        "DatabaseReady",
        "KeysReady",
        "PolicyApplied",
        "ScannerReady",
        "ApiReady",
        "WorkersReady",
    ]
    assert {condition.observed_generation for condition in current.conditions} == {7}


def test_a_new_quota_is_one_step_and_restarts_nothing() -> None:
    world = settled()
    declared = tenant(generation=2, quota={"maxStorageMb": 20})
    world.settle(declared)
    assert world.done == [ApplyPolicy(policy_of(declared))]
    assert policy_of(declared).max_bytes == 20 * 1024 * 1024


@pytest.mark.parametrize("spec", [{"scan": {"pendingAccess": "All"}}, {"scan": {"unscannable": "Allow"}}])
def test_a_new_rule_is_one_step_and_restarts_nothing(spec: dict[str, Any]) -> None:
    world = settled()
    world.settle(tenant(**spec))
    assert [type(step) for step in world.done] == [ApplyPolicy]


def test_a_suspended_tenant_keeps_its_api_and_loses_its_workers() -> None:
    world = settled()
    current = world.settle(tenant(suspended=True))
    assert [type(step) for step in world.done] == [ApplyPolicy, ShapeWorkers]
    assert isinstance(world.seen.workers, Workers)
    assert world.seen.workers.shape is not None
    assert set(world.seen.workers.shape.parallel.values()) == {0}
    assert (said(current, "Ready").status, said(current, "Ready").reason) == ("False", "Suspended")
    assert said(current, "ApiReady").status == "True"


def test_disabling_a_kind_of_work_stops_its_workers_only() -> None:
    shape = worker_shape_of(tenant(scan={"enabled": False}, transcription={"maxParallel": 3}))
    assert shape.parallel == {"scan": 0, "transcribe": 3, "thumbnail": 2}


def test_another_issuer_starts_the_api_anew() -> None:
    world = settled()
    current = world.settle(tenant(auth={"oidc": {"issuer": "https://login.example"}}))
    assert [type(step) for step in world.done] == [RunApi]
    assert said(current, "KeysReady").reason == "OidcIssuer"


def test_a_migration_waits_and_runs_before_the_policy_is_written() -> None:
    world = settled()
    assert isinstance(world.seen.database, Database)
    world.seen = replace(world.seen, database=replace(world.seen.database, revision="0001"))
    current = plan(tenant(generation=2, quota={"maxStorageMb": 20}), world.seen)
    assert [type(step) for step in current.steps] == [MigrateDatabase]
    assert said(current, "PolicyApplied").reason == "WaitingForDatabase"


def test_a_schema_that_a_newer_version_migrated_is_left_alone() -> None:
    world = settled()
    assert isinstance(world.seen.database, Database)
    world.seen = replace(world.seen, database=replace(world.seen.database, revision="9999"))
    current = plan(tenant(generation=2), world.seen)
    assert current.steps == ()
    assert said(current, "DatabaseReady").reason == "SchemaNewer"


def test_what_bears_another_tenants_mark_is_never_touched() -> None:
    taken = replace(
        EMPTY,
        bucket=Bucket(True, "somebody-else"),
        database=Database(True, True, "somebody-else", None, ("0001",)),
    )
    current = plan(tenant(), taken)
    assert [type(step) for step in current.steps] == [MakeSigningKey]
    assert said(current, "BucketReady").reason == said(current, "DatabaseReady").reason == "NotOwned"


def test_a_bucket_without_any_mark_is_not_ours() -> None:
    assert said(plan(tenant(), replace(EMPTY, bucket=Bucket(True, None))), "BucketReady").reason == "NotOwned"


def test_a_schema_without_any_mark_is_not_ours() -> None:
    seen = replace(EMPTY, database=Database(True, False, None, None, ("0001",)))
    assert said(plan(tenant(), seen), "DatabaseReady").reason == "NotOwned"


def test_a_role_whose_password_was_lost_gets_a_new_one() -> None:
    seen = replace(EMPTY, database=Database(True, False, "acme", "0001", ("0001",)))
    assert CreateDatabase("tenant_acme", "acme") in plan(tenant(), seen).steps


def test_a_schema_of_the_same_name_but_another_uid_is_not_inherited() -> None:
    document = {
        "apiVersion": "media.scaiwave.io/v1alpha1",
        "kind": "MediaTenant",
        "metadata": {"name": "acme", "uid": "second-life"},
    }
    seen = replace(EMPTY, database=Database(True, True, "first-life", "0001", ("0001",)))
    assert said(plan(MediaTenant.read(document), seen), "DatabaseReady").reason == "NotOwned"


@pytest.mark.parametrize(
    ("part", "condition"),
    [("bucket", "BucketReady"), ("database", "DatabaseReady"), ("api", "ApiReady"), ("workers", "WorkersReady")],
)
def test_what_cannot_be_seen_is_unknown_and_starts_nothing(part: str, condition: str) -> None:
    seen = replace(settled().seen, **{part: Unreachable("connection refused")})
    current = plan(tenant(), seen)
    assert current.steps == ()
    assert said(current, condition).status == "Unknown"
    assert said(current, "Ready").status == "Unknown"


def test_nothing_that_needs_the_database_starts_while_it_cannot_be_seen() -> None:
    current = plan(tenant(), replace(EMPTY, database=Unreachable("connection refused"), policy=Unreachable("same")))
    assert [type(step) for step in current.steps] == [CreateBucket, MakeSigningKey]
    assert said(current, "ApiReady").reason == "WaitingForBucket"


def test_a_step_that_has_just_failed_is_reported_and_not_planned_again() -> None:
    current = plan(tenant(), replace(EMPTY, failures={"CreateBucket": "the disk is full"}))
    assert CreateBucket not in [type(step) for step in current.steps]
    assert said(current, "BucketReady").reason == "CreateBucketFailed"
    assert said(current, "BucketReady").message == "the disk is full"


def test_a_missing_scanner_is_said_and_stops_nothing_else() -> None:
    world = World(replace(EMPTY, scanner=Scanner(False, "clamd is not installed")))
    current = world.settle(tenant())
    assert said(current, "ApiReady").status == "True"
    assert (said(current, "Ready").status, said(current, "Ready").reason) == ("False", "ScannerMissing")


def test_without_scanning_no_scanner_is_missed() -> None:
    world = World(replace(EMPTY, scanner=Scanner(False, "clamd is not installed")))
    assert said(world.settle(tenant(scan={"enabled": False})), "Ready").status == "True"


def test_an_api_that_keeps_ending_says_why() -> None:
    world = settled()
    assert isinstance(world.seen.api, Api)
    world.seen = replace(world.seen, api=replace(world.seen.api, ready=0, trouble="exited with 1, 4 times"))
    ready = said(plan(tenant(), world.seen), "Ready")
    assert (ready.status, ready.reason, ready.message) == ("False", "CrashLoop", "exited with 1, 4 times")


def test_workers_that_keep_failing_say_which_and_why() -> None:
    world = settled()
    assert isinstance(world.seen.workers, Workers)
    world.seen = replace(world.seen, workers=replace(world.seen.workers, trouble={"scan": "scan workers exit with 1"}))
    assert said(plan(tenant(), world.seen), "WorkersReady").reason == "CrashLoop"


def test_an_autoscaled_api_is_not_started_anew_for_its_replica_count() -> None:
    world = settled(api={"replicas": 2, "autoscaling": {"min": 1, "max": 4}})
    assert plan(tenant(api={"replicas": 9, "autoscaling": {"min": 1, "max": 4}}), world.seen).steps == ()
    assert isinstance(world.seen.api, Api)
    assert isinstance(world.seen.api.shape, ApiShape)


def test_a_transition_time_moves_only_when_the_status_flips() -> None:
    before = with_transitions([], plan(tenant(), EMPTY).conditions, NOW)
    later = NOW + timedelta(minutes=1)
    after = with_transitions(before, plan(tenant(), settled().seen).conditions, later)
    times = {condition.type: condition.last_transition_time for condition in after}
    assert times["ScannerReady"] == NOW  # true before and after
    assert times["Ready"] == later
