"""`plan` with a simulated world: the steps that it asks for, their order, and where it stops."""

import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from media_core.events.webhooks import webhook_id
from media_core.upkeep.births import UNREADABLE, Birth
from media_operator.plan.desired import ApiShape, BucketCors, api_shape_of, bucket_cors_of, worker_shape_of
from media_operator.plan.observed import (
    Api,
    Bucket,
    Database,
    Failure,
    Losses,
    Notes,
    ObservedState,
    Orphans,
    Scanner,
    SigningKeys,
    StoreKey,
    Suspicion,
    Unreachable,
    WebhookNote,
    Workers,
)
from media_operator.plan.planner import Plan, plan, plan_deletion, with_transitions
from media_operator.plan.steps import (
    AllowOrigins,
    ApplyPolicy,
    CreateBucket,
    CreateDatabase,
    DeleteBucket,
    DropDatabase,
    DropWorkers,
    HoldDeletion,
    MakeSigningKey,
    MakeStoreKey,
    MigrateDatabase,
    ReleaseDeletion,
    ReleaseOrphans,
    RevokeStoreKeys,
    RunApi,
    SendCanary,
    ShapeWorkers,
    Step,
    StopWorkloads,
    TrustSignatures,
    WriteBirth,
)
from media_operator.tenant.annotations import ACCEPT_DATA, REMOVE_ORPHANS, TRUST_SIGNATURE
from media_operator.tenant.ownership import OwnerMark
from media_operator.tenant.spec import MediaTenant
from media_operator.tenant.status import Condition

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


BIRTH = Birth("born-1", 0, 16384)
EMPTY = ObservedState(
    bucket=Bucket(exists=False),
    database=Database(exists=False, known_revisions=("0001", "0002"), is_new=True),
    signing_keys=SigningKeys(0),
    policy=None,
    scanner=Scanner("True", "ScannerAnswers", "clamd 1.4.6"),
    api=Api(shape=None),
    workers=Workers(shape=None),
)


@dataclass
class World:
    """Carries out steps, and counts them."""

    seen: ObservedState = EMPTY
    done: list[Step] = field(default_factory=list)

    def apply(self, step: Step) -> None:
        self.done.append(step)
        match step:
            case CreateBucket(_, owner):
                assert isinstance(self.seen.bucket, Bucket)
                self.seen = replace(self.seen, bucket=replace(self.seen.bucket, exists=True, owner=owner))
            case CreateDatabase(_, owner, _):
                assert isinstance(self.seen.database, Database)
                self.seen = replace(
                    self.seen, database=replace(self.seen.database, exists=True, complete=True, owner=owner)
                )
            case MigrateDatabase():
                assert isinstance(self.seen.database, Database)
                there = self.seen.database
                birth = there.birth or BIRTH
                migrated = replace(there, revision=there.known_revisions[-1], is_new=False, birth=birth)
                self.seen = replace(self.seen, database=migrated)
            case WriteBirth(_, _, _, renew):
                assert isinstance(self.seen.database, Database)
                assert isinstance(self.seen.bucket, Bucket)
                birth = self.seen.database.birth or BIRTH
                if renew:
                    birth = replace(birth, birth_id="born-again")
                self.seen = replace(
                    self.seen,
                    database=replace(self.seen.database, birth=birth),
                    bucket=replace(self.seen.bucket, birth=birth),
                )
            case MakeSigningKey():
                self.seen = replace(self.seen, signing_keys=SigningKeys(1))
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
                self.apply(step)
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
        WriteBirth,
        ApplyPolicy,
        RunApi,
        ShapeWorkers,
    ]
    assert MigrateDatabase("tenant_acme", first=True) in world.done
    assert {condition.status for condition in current.conditions} == {"True"}
    assert said(current, "Ready").reason == "Serving"


def test_workers_that_never_came_up_and_are_not_as_declared_now_go() -> None:
    world = settled()
    assert isinstance(world.seen.workers, Workers)
    world.seen = replace(world.seen, workers=replace(world.seen.workers, outdated=("mt-acme-scan-1",)))
    current = plan(tenant(), world.seen)
    assert current.steps == (DropWorkers(("mt-acme-scan-1",)),)
    assert said(current, "WorkersReady").reason == "WorkersOutdated"


def test_a_settled_tenant_needs_nothing() -> None:
    assert plan(tenant(), settled().seen).steps == ()


def test_every_condition_is_said_in_the_first_pass_about_this_generation() -> None:
    current = plan(tenant(generation=7), EMPTY)
    assert [condition.type for condition in current.conditions] == [
        "Ready",
        "Accepted",
        "BucketReady",
        "DatabaseReady",
        "KeysReady",
        "PolicyApplied",
        "ApiReady",
        "WorkersReady",
        "ScannerReady",
    ]
    assert {condition.observed_generation for condition in current.conditions} == {7}


def test_a_new_quota_is_one_step_and_restarts_nothing() -> None:
    world = settled()
    declared = tenant(generation=2, quota={"maxStorageMb": 20})
    world.settle(declared)
    assert world.done == [ApplyPolicy(declared.policy)]
    assert declared.policy.max_bytes == 20 * 1024 * 1024


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
    assert shape.parallel["transcribe"] == 3
    assert {kind for kind, workers in shape.parallel.items() if workers == 0} == {"scan"}


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
    assert current.steps == (MigrateDatabase("tenant_acme", first=False),)
    assert said(current, "PolicyApplied").reason == "WaitingForDatabase"


def test_a_schema_that_a_newer_version_migrated_is_left_alone() -> None:
    world = settled()
    assert isinstance(world.seen.database, Database)
    world.seen = replace(world.seen, database=replace(world.seen.database, revision="9999"))
    current = plan(tenant(generation=2), world.seen)
    assert current.steps == ()
    assert said(current, "DatabaseReady").reason == "SchemaNewer"


THEIRS = OwnerMark("first-life", "team-a/acme", "cluster-1")
OURS = OwnerMark("acme")
HALF_MADE = Database(True, False, OURS, "0001", ("0001",))


def resource(namespace: str = "team-a", *, annotations: dict[str, str] | None = None, **spec: Any) -> MediaTenant:
    """A resource as on a cluster, with a uid of its own."""
    metadata = {"name": "acme", "namespace": namespace, "uid": "second-life", "annotations": annotations or {}}
    document = {"apiVersion": "media.scaiwave.io/v1alpha1", "kind": "MediaTenant", "metadata": metadata, "spec": spec}
    return MediaTenant.read(document)


@pytest.mark.parametrize(
    "taken",
    [
        {"bucket": Bucket(True, THEIRS)},
        {"database": Database(True, True, THEIRS, None, ("0001",))},
        {"bucket": Bucket(True, None)},
        {"database": Database(True, False, None, None, ("0001",))},
        {"rival": "MediaTenant team-a/acme has tenantId acme"},
    ],
)
def test_what_is_not_ours_makes_a_conflict_and_nothing_at_all_is_done(taken: dict[str, Any]) -> None:
    current = plan(resource("team-b"), replace(EMPTY, cluster="cluster-1", **taken))
    assert current.steps == ()
    assert [(c.type, c.status, c.reason) for c in current.conditions] == [
        ("Ready", "False", "Conflict"),
        ("Accepted", "False", "Conflict"),
    ]


def test_an_empty_bucket_that_somebody_names_is_taken_only_with_a_word() -> None:
    seen = replace(EMPTY, bucket=Bucket(True, None, empty=True))
    refused = said(plan(tenant(storage={"bucket": "prod-backups"}), seen), "Accepted")
    assert (refused.reason, "adopt=true" in refused.message) == ("Conflict", True)
    vouched = resource(annotations={"media.scaiwave.io/adopt": "true"}, storage={"bucket": "prod-backups"})
    assert said(plan(vouched, seen), "Accepted").status == "True"


@pytest.mark.parametrize(
    ("holds", "is_known"),
    [
        ({"birth": BIRTH}, True),
        ({"contents": 3}, True),
        ({"contents": 4}, False),
        ({"birth": Birth("born-2", 0, 1)}, False),
        ({}, False),
    ],
)
@pytest.mark.parametrize("bucket", [None, "prod-media"])
def test_a_bucket_that_lost_its_mark_is_marked_again_with_a_word_if_it_holds_the_tenants_files(
    holds: dict[str, Any], is_known: bool, bucket: str | None
) -> None:
    storage = {"storage": {"bucket": bucket}} if bucket else {}
    vouched = resource(annotations={"media.scaiwave.io/adopt": "true"}, **storage)
    for declared in (resource(**storage), vouched):
        seen = alive(declared)
        assert isinstance(seen.database, Database)
        seen = replace(seen, bucket=Bucket(True, **holds), database=replace(seen.database, known=2))
        current = plan(declared, seen)
        taken = [step.filled for step in current.steps if isinstance(step, CreateBucket)]
        assert taken == ([True] if is_known and declared is vouched else [])
        if not taken:
            assert current.steps == ()
            assert ("annotate media.scaiwave.io/adopt=true" in said(current, "Accepted").message) is is_known


def test_an_empty_bucket_without_a_mark_may_be_claimed() -> None:
    current = plan(tenant(), replace(EMPTY, bucket=Bucket(True, None, empty=True)))
    assert CreateBucket("media-acme", OURS) in current.steps


def test_a_role_whose_password_was_lost_gets_a_new_one() -> None:
    assert CreateDatabase("tenant_acme", OURS) in plan(tenant(), replace(EMPTY, database=HALF_MADE)).steps


LEFT_BEHIND = replace(
    EMPTY,
    cluster="cluster-1",
    bucket=Bucket(True, THEIRS),
    database=Database(True, True, THEIRS, "0001", ("0001",)),
)


@pytest.mark.parametrize(
    ("namespace", "cluster", "retained", "annotations", "adopted"),
    [
        ("team-a", "cluster-1", False, {}, True),
        ("team-a", "cluster-2", True, {}, True),
        ("team-a", "cluster-2", False, {}, False),
        ("team-a", "cluster-2", False, {"media.scaiwave.io/adopt": "true"}, True),
        ("team-b", "cluster-1", True, {"media.scaiwave.io/adopt": "true"}, False),
    ],
)
def test_what_a_namesake_left_is_adopted_by_the_rules(
    namespace: str, cluster: str, retained: bool, annotations: dict[str, str], adopted: bool
) -> None:
    mark = replace(THEIRS, retained=retained)
    seen = replace(
        LEFT_BEHIND, cluster=cluster, bucket=Bucket(True, mark), database=Database(True, True, mark, "0001", ("0001",))
    )
    current = plan(resource(namespace, annotations=annotations), seen)
    ours = OwnerMark("second-life", f"{namespace}/acme", cluster, bucket="media-acme")
    adopt = bool(annotations)
    wanted = [CreateBucket("media-acme", ours, adopt), CreateDatabase("tenant_acme", ours, adopt)]
    assert [step for step in wanted if step in current.steps] == (wanted if adopted else [])


def test_a_mark_reads_back_as_it_was_written_and_an_old_one_is_a_bare_id() -> None:
    assert OwnerMark.parse(str(THEIRS.as_retained())) == THEIRS.as_retained()
    assert OwnerMark.parse(str(THEIRS)) == THEIRS
    assert OwnerMark.parse("acme") == OURS


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


@pytest.mark.parametrize("unseen", ["bucket", "database"])
def test_nothing_is_claimed_while_one_half_cannot_be_seen(unseen: str) -> None:
    current = plan(tenant(), replace(EMPTY, **{unseen: Unreachable("connection refused")}))
    assert [type(step) for step in current.steps] == [MakeSigningKey]
    assert said(current, "ApiReady").reason == "WaitingForBucket"


def test_a_step_that_has_just_failed_is_reported_and_not_planned_again() -> None:
    current = plan(tenant(), replace(EMPTY, failures={"CreateBucket": Failure("the disk is full")}))
    assert CreateBucket not in [type(step) for step in current.steps]
    assert said(current, "BucketReady").reason == "CreateBucketFailed"
    assert said(current, "BucketReady").message == "the disk is full"


def test_a_missing_scanner_is_said_and_stops_nothing_else() -> None:
    world = World(replace(EMPTY, scanner=Scanner("False", "ScannerMissing", "clamd is not installed")))
    current = world.settle(tenant())
    assert said(current, "ApiReady").status == "True"
    assert (said(current, "Ready").status, said(current, "Ready").reason) == ("False", "ScannerMissing")


def test_without_scanning_no_scanner_is_missed() -> None:
    world = World(replace(EMPTY, scanner=Scanner("False", "ScannerMissing", "clamd is not installed")))
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


def test_workers_that_find_no_node_are_said() -> None:
    world, words = settled(), "pod mt-acme-scan-1 is not scheduled: Insufficient cpu"
    assert isinstance(world.seen.workers, Workers)
    world.seen = replace(world.seen, workers=replace(world.seen.workers, waiting={"scan": words}))
    found = said(plan(tenant(), world.seen), "WorkersReady")
    assert (found.status, found.reason, found.message) == ("False", "WorkersPending", words)


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


ON_CLUSTER = replace(
    EMPTY,
    cluster="cluster-1",
    store_key=StoreKey(current=False),
    has_finalizer=False,
    scanner=Scanner("Unknown", "CanaryPending", "no canary yet", canary_due=True),
)


def alive(declared: MediaTenant) -> ObservedState:
    """A tenant of a cluster to which nothing has to be done."""
    mine = OwnerMark("second-life", f"{declared.metadata.namespace}/acme", "cluster-1")
    return replace(
        ON_CLUSTER,
        bucket=Bucket(True, mine, capabilities={"lifecycle": True}, birth=BIRTH),
        database=Database(True, True, mine, "0002", ("0001", "0002"), birth=BIRTH),
        store_key=StoreKey(current=True),
        signing_keys=SigningKeys(1),
        policy=declared.policy,
        api=Api(api_shape_of(declared), wanted=2, ready=2),
        workers=Workers(worker_shape_of(declared)),
        scanner=Scanner("True", "CanaryFound", "found"),
    )


def test_the_pods_wait_for_their_store_key() -> None:
    seen = replace(alive(resource()), store_key=StoreKey(current=False), api=Api(None))
    current = plan(resource(), seen)
    assert [type(step) for step in current.steps] == [MakeStoreKey]
    assert said(current, "ApiReady").reason == "WaitingForStoreKey"


def test_asking_for_new_keys_makes_both_once_and_stops_nobody() -> None:
    declared = resource(annotations={"media.scaiwave.io/rotate-keys": "2026-11"})
    current = plan(declared, alive(declared))
    assert [type(step) for step in current.steps] == [MakeStoreKey, MakeSigningKey]
    assert said(current, "Ready").status == "True"
    done = replace(
        alive(declared), store_key=StoreKey(True, rotation="2026-11"), signing_keys=SigningKeys(2, "2026-11")
    )
    assert plan(declared, done).steps == ()


def test_new_keys_wait_while_the_last_ones_are_on_their_way() -> None:
    declared = resource(annotations={"media.scaiwave.io/rotate-keys": "second"})
    seen = replace(alive(declared), signing_keys=SigningKeys(2, "second"))
    rolling = replace(seen, store_key=StoreKey(True, others=1, others_in_use=True, rotation="first"))
    assert plan(declared, rolling).steps == ()  # a third key would replace the one that pods use
    rolled = replace(seen, store_key=StoreKey(True, others=1, rotation="first"))
    assert [type(step) for step in plan(declared, rolled).steps] == [MakeStoreKey]


def test_asking_no_more_for_new_keys_makes_none() -> None:
    seen = replace(
        alive(resource()), store_key=StoreKey(True, rotation="2026-11"), signing_keys=SigningKeys(2, "2026-11")
    )
    assert plan(resource(), seen).steps == ()


def test_an_old_store_key_is_revoked_once_no_pod_uses_it() -> None:
    rolling = replace(alive(resource()), store_key=StoreKey(True, others=1, others_in_use=True))
    assert plan(resource(), rolling).steps == ()
    rolled = replace(rolling, store_key=StoreKey(True, others=1))
    assert plan(resource(), rolled).steps == (RevokeStoreKeys("acme"),)


# --- temporary keys (credentials: role)

ENDS = datetime(2026, 11, 29, 14, 5, tzinfo=UTC)


def with_session(declared: MediaTenant, **changed: Any) -> ObservedState:
    return replace(alive(declared), store_key=replace(StoreKey(current=True, ends=ENDS), **changed))


def test_a_temporary_key_is_left_alone_until_it_is_due() -> None:
    fresh = plan(resource(), with_session(resource()))
    assert fresh.steps == ()
    assert said(fresh, "StoreKeyReady").reason == "StoreKeyPresent"
    due = plan(resource(), with_session(resource(), due=True))
    assert due.steps == (MakeStoreKey("acme", "media-acme", ""),)
    assert said(due, "Ready").status == "True"  # pods go on with the one that they have


def test_an_outage_of_sts_only_delays_and_is_said_before_the_key_ends() -> None:
    failures = {"MakeStoreKey": Failure("sts: STS at https://sts.example does not answer")}
    due = replace(with_session(resource(), due=True), failures=failures)
    current = plan(resource(), due)
    condition = said(current, "StoreKeyReady")
    assert (condition.status, condition.reason) == ("True", "MakeStoreKeyFailed")
    assert condition.message.endswith("does not answer. Pods reach S3 until 2026-11-29 14:05 UTC")
    assert said(current, "Ready").status == "True"
    assert not current.is_certain  # so it is tried again soon

    late = plan(resource(), replace(with_session(resource(), due=True, late=True), failures=failures))
    assert said(late, "StoreKeyReady").status == said(late, "Ready").status == "Unknown"
    assert "until 2026-11-29 14:05 UTC" in said(late, "Ready").message
    assert late.steps == ()  # nothing is stopped

    ended = plan(resource(), replace(with_session(resource(), current=False, due=True), failures=failures))
    assert said(ended, "StoreKeyReady").status == "False"


def test_asking_for_new_keys_makes_a_new_session_at_once() -> None:
    declared = resource(annotations={"media.scaiwave.io/rotate-keys": "2026-11"})
    seen = replace(with_session(declared, rotation="first"), signing_keys=SigningKeys(2, "2026-11"))
    assert plan(declared, seen).steps == (MakeStoreKey("acme", "media-acme", "2026-11"),)
    done = replace(seen, store_key=StoreKey(True, ends=ENDS, rotation="2026-11"))
    assert plan(declared, done).steps == ()


def test_a_former_user_is_removed_once_no_pod_uses_its_key() -> None:
    rolling = with_session(resource(), others=1, others_in_use=True)
    assert plan(resource(), rolling).steps == ()
    assert said(plan(resource(), rolling), "StoreKeyReady").reason == "StoreKeyRotating"
    # A session is due meanwhile, too: sessions have no limit of two.
    assert plan(resource(), with_session(resource(), others=1, others_in_use=True, due=True)).steps != ()
    assert plan(resource(), with_session(resource(), others=1)).steps == (RevokeStoreKeys("acme"),)


def test_a_canary_is_sent_when_it_is_due_and_all_that_it_needs_is_there() -> None:
    due = Scanner("True", "CanaryFound", "found a while ago", canary_due=True)
    assert plan(resource(), replace(alive(resource()), scanner=due)).steps == (SendCanary(),)
    asleep = replace(alive(resource()), scanner=due, api=Api(api_shape_of(resource()), wanted=2, ready=0))
    assert plan(resource(), asleep).steps == ()
    assert said(plan(resource(), asleep), "ScannerReady").status == "True"  # the last findings still hold


def test_a_canary_does_not_wait_for_workers_of_another_kind() -> None:
    due = Scanner("True", "CanaryFound", "found a while ago", canary_due=True)
    broken = Workers(worker_shape_of(resource()), trouble={"transcribe": "OOMKilled"})
    assert plan(resource(), replace(alive(resource()), scanner=due, workers=broken)).steps == (SendCanary(),)


def test_who_claims_a_name_first_does_not_win_it_from_its_owner() -> None:
    words = "MediaTenant squatters/acme was created earlier and has tenantId acme"
    seen = replace(alive(resource()), rival=words)
    assert said(plan(resource(), seen), "Accepted").status == "True"
    new = replace(seen, bucket=Bucket(False), database=Database(False))
    assert said(plan(resource(), new), "Accepted").reason == "Conflict"


def test_a_host_at_which_another_is_served_is_refused() -> None:
    seen = replace(alive(resource()), host_rival="MediaTenant team-a/acme is already served at media.example")
    accepted = said(plan(resource(), seen), "Accepted")
    assert (accepted.status, accepted.reason) == ("False", "Conflict")


def test_what_failed_or_could_not_be_seen_is_worth_another_look_soon() -> None:
    seen = alive(resource())
    assert plan(resource(), seen).is_certain
    assert not plan(resource(), replace(seen, database=Unreachable("connection refused"))).is_certain
    failed = {"HoldDeletion": Failure("the object has been modified")}
    assert not plan(resource(), replace(seen, failures=failed)).is_certain


def test_what_the_store_lacks_is_said_and_holds_nothing_back() -> None:
    seen = alive(resource())
    assert isinstance(seen.bucket, Bucket)
    seen = replace(seen, bucket=replace(seen.bucket, capabilities={"lifecycle": False, "publicAccessBlock": True}))
    current = plan(resource(), seen)
    assert said(current, "S3Capabilities").status == "False"
    assert "lacks lifecycle" in said(current, "S3Capabilities").message
    assert said(current, "Ready").status == "True"


APPS = {"cors": {"origins": ["https://app.example", "https://*.preview.example"], "maxAgeSeconds": 60}}


def test_the_bucket_is_told_which_web_apps_may_read_signed_urls() -> None:
    told = BucketCors(("https://app.example", "https://*.preview.example"), 60)
    declared, plain = resource(api=APPS), resource()
    seen = alive(declared)
    assert isinstance(seen.bucket, Bucket)
    current = plan(declared, seen)
    (step,) = current.steps
    assert isinstance(step, AllowOrigins)
    assert step.cors == told
    assert said(current, "Ready").status == "True"
    settled = replace(seen, bucket=replace(seen.bucket, cors=told))
    assert plan(declared, settled).steps == ()
    (step,) = plan(plain, replace(settled, api=Api(api_shape_of(plain), wanted=2, ready=2))).steps
    assert isinstance(step, AllowOrigins)
    assert step.cors is None


def test_the_page_of_a_public_host_reads_signed_urls_too() -> None:
    assert bucket_cors_of(resource(api={"page": True})) is None
    declared = resource(api={"page": True, "host": "media.acme.example", **APPS})
    assert bucket_cors_of(declared) == BucketCors((*APPS["cors"]["origins"], "https://media.acme.example"), 60)


def test_a_bucket_that_web_apps_cannot_read_is_said_and_holds_nothing_back() -> None:
    declared = resource(api=APPS)
    seen = alive(declared)
    assert isinstance(seen.bucket, Bucket)
    refused = replace(seen, failures={"AllowOrigins": Failure("S3 denies it")})
    assert said(plan(declared, refused), "BucketReady").reason == "AllowOriginsFailed"
    assert said(plan(declared, refused), "Ready").status == "True"
    lacking = replace(seen, bucket=replace(seen.bucket, cors=bucket_cors_of(declared), capabilities={"cors": False}))
    assert "via=api" in said(plan(declared, lacking), "S3Capabilities").message


def test_only_a_tenant_whose_data_is_to_go_holds_its_deletion_up() -> None:
    deleting = resource(storage={"deletionPolicy": "Delete"})
    assert plan(deleting, alive(deleting)).steps == (HoldDeletion(),)
    assert plan(resource(), replace(alive(resource()), has_finalizer=True)).steps == (ReleaseDeletion(),)


DELETE = {"storage": {"deletionPolicy": "Delete"}}


def test_deletion_goes_step_by_step_from_the_pods_to_the_finalizer() -> None:
    declared = resource(**DELETE)
    seen = replace(alive(declared), has_finalizer=True)
    steps = []
    for _ in range(6):
        current = plan_deletion(declared, seen)
        steps += [type(step) for step in current.steps]
        match current.steps:
            case (StopWorkloads(),):
                seen = replace(seen, stopped=True)
            case (DeleteBucket(),):
                seen = replace(seen, bucket=Bucket(False))
            case (DropDatabase(),):
                seen = replace(seen, database=Database(False))
            case (ReleaseDeletion(),):
                seen = replace(seen, has_finalizer=False)
    assert steps == [StopWorkloads, DeleteBucket, DropDatabase, ReleaseDeletion]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bucket": Unreachable("connection refused")}, "StoreUnreachable"),
        ({"database": Unreachable("connection refused")}, "DatabaseUnreachable"),
        ({"bucket": Bucket(True, THEIRS)}, "BucketNotOwned"),
        ({"failures": {"DeleteBucket": Failure("3 objects are locked", "ObjectsLocked")}}, "ObjectsLocked"),
    ],
)
def test_what_blocks_a_deletion_is_said_with_the_way_out(change: dict[str, Any], reason: str) -> None:
    declared = resource(**DELETE)
    current = plan_deletion(declared, replace(alive(declared), has_finalizer=True, stopped=True, **change))
    blocked = said(current, "DeletionBlocked")
    assert (blocked.status, blocked.reason) == ("True", reason)
    assert "deletionPolicy to Retain" in blocked.message
    assert current.steps == ()
    let_go = plan_deletion(resource(), replace(alive(declared), has_finalizer=True, stopped=True, **change))
    assert let_go.steps == (ReleaseDeletion(),)


def test_a_finalizer_that_cannot_be_taken_off_is_said_and_not_tried_again_in_this_pass() -> None:
    failed = replace(alive(resource()), has_finalizer=True, failures={"ReleaseDeletion": Failure("no permission")})
    current = plan_deletion(resource(), failed)
    blocked = said(current, "DeletionBlocked")
    assert (blocked.status, blocked.reason, blocked.message) == ("True", "ReleaseDeletionFailed", "no permission")
    assert current.steps == ()


def test_a_tenant_that_never_had_anything_takes_nothing_with_it() -> None:
    declared = resource("team-b", **DELETE)
    seen = replace(LEFT_BEHIND, bucket=Bucket(True, THEIRS), has_finalizer=True)
    assert plan_deletion(declared, seen).steps == (ReleaseDeletion(),)


def test_a_long_deletion_says_how_far_it_is() -> None:
    declared = resource(**DELETE)
    seen = replace(
        alive(declared), has_finalizer=True, stopped=True, unfinished={"DeleteBucket": "12000 objects deleted"}
    )
    current = plan_deletion(declared, seen)
    assert current.steps == ()
    assert (said(current, "DeletionBlocked").status, said(current, "Ready").message) == (
        "False",
        "12000 objects deleted",
    )


# --- schema and bucket belong together -------------------------------------------------------------------------------


def met(*, schema: Birth | None = BIRTH, bucket: Birth | None = BIRTH, contents: int = 0, known: int = 0) -> World:
    """A tenant with these births of schema and bucket (None: there is no schema, or the bucket has no mark). Nothing
    runs in it, so that the test sees what would be started.
    """
    world = settled()
    assert isinstance(world.seen.bucket, Bucket)
    assert isinstance(world.seen.database, Database)
    there = replace(world.seen.database, birth=schema, known=known)
    if schema is None:
        there = Database(False, known_revisions=there.known_revisions, is_new=True)
    marked = replace(world.seen.bucket, birth=bucket, contents=contents)
    world.seen = replace(
        world.seen, bucket=marked, database=there, policy=None, api=Api(None), workers=Workers(shape=None)
    )
    return world


SWEPT = replace(BIRTH, epoch=7)
DISAGREEMENTS: dict[str, dict[str, Any]] = {
    "schema tenant_acme is new, but bucket media-acme belongs to another schema (born-1)": {"schema": None},
    "bucket media-acme holds files, but schema tenant_acme is new": {"schema": None, "bucket": None, "contents": 3},
    "schema tenant_acme (born-2) is not the schema that bucket media-acme belongs to (born-1)": {
        "schema": replace(BIRTH, birth_id="born-2")
    },
    "schema tenant_acme is older than bucket media-acme (0 sweeps in its rows, 7 ": {"bucket": SWEPT},
    "schema tenant_acme was restored from a dump": {"schema": replace(BIRTH, incarnation=9)},
    "bucket media-acme holds files without a row: of the first 200, schema tenant_acme has rows for 100": {
        "bucket": None,
        "contents": 200,
        "known": 100,
    },
    "(born-1) is not the schema that bucket media-acme belongs to (unreadable)": {"bucket": UNREADABLE},
}


@pytest.mark.parametrize("there", [Bucket(False), Bucket(True, empty=True)], ids=["gone", "emptied"])
def test_a_bucket_that_is_lost_with_its_files_is_made_anew_only_with_a_word(there: Bucket) -> None:
    world = met()
    assert isinstance(world.seen.database, Database)
    key = StoreKey(current=False)
    world.seen = replace(world.seen, bucket=there, database=replace(world.seen.database, holds=True), store_key=key)
    current = plan(tenant(), world.seen)
    assert [type(step) for step in current.steps] == [ApplyPolicy]
    lost = said(current, "BucketReady")
    assert (lost.status, lost.reason) == ("False", "BucketLost")
    assert lost.message.endswith('annotations: {media.scaiwave.io/accept-data: "born-1"}}')
    for waiting in ("StoreKeyReady", "ApiReady", "WorkersReady"):
        assert said(current, waiting).reason == "WaitingForBucket"
    (made, *_) = plan(accepting("born-1"), world.seen).steps
    assert isinstance(made, CreateBucket)
    ours = replace(world.seen, bucket=Bucket(True, OURS, capabilities={"lifecycle": True}))
    assert WriteBirth("tenant_acme", "media-acme", "acme", renew=True) in plan(accepting("born-1"), ours).steps


def accepting(what: str) -> MediaTenant:
    metadata = {"name": "acme", "annotations": {ACCEPT_DATA: what}}
    return MediaTenant.read({"apiVersion": "media.scaiwave.io/v1alpha1", "kind": "MediaTenant", "metadata": metadata})


@pytest.mark.parametrize("words", DISAGREEMENTS)
def test_a_schema_that_is_not_the_buckets_stops_everything_until_a_person_decides(words: str) -> None:
    world = met(**DISAGREEMENTS[words])
    current = plan(tenant(), world.seen)
    assert current.steps == ()
    doubt = said(current, "DatabaseReady")
    assert (doubt.status, doubt.reason) == ("False", "DataMismatch")
    assert words in doubt.message
    assert said(current, "Ready").reason == "DataMismatch"
    for waiting in ("PolicyApplied", "ApiReady", "WorkersReady"):
        assert said(current, waiting).reason == "WaitingForDatabase"


@pytest.mark.parametrize("words", DISAGREEMENTS)
def test_who_gives_up_what_the_bucket_remembers_is_served_and_the_bucket_is_the_schemas(words: str) -> None:
    world = met(**DISAGREEMENTS[words])
    assert isinstance(world.seen.bucket, Bucket)
    given_up = world.seen.bucket.birth.birth_id if world.seen.bucket.birth else "unmarked"
    assert f'{ACCEPT_DATA}: "{given_up}"' in said(plan(tenant(), world.seen), "DatabaseReady").message
    assert said(plan(accepting("born-0"), world.seen), "DatabaseReady").reason == "DataMismatch"
    current = world.settle(accepting(given_up))
    assert said(current, "Ready").status == "True"
    assert isinstance(world.seen.bucket, Bucket)
    assert isinstance(world.seen.database, Database)
    assert world.seen.bucket.birth == world.seen.database.birth is not None


def test_what_was_given_up_once_decides_no_later_disagreement() -> None:
    world = met(bucket=SWEPT)
    world.settle(accepting("born-1"))
    assert isinstance(world.seen.bucket, Bucket)
    assert isinstance(world.seen.database, Database)
    swept = replace(world.seen.bucket.birth or BIRTH, epoch=12)
    world.seen = replace(world.seen, bucket=replace(world.seen.bucket, birth=swept))
    assert said(plan(accepting("born-1"), world.seen), "DatabaseReady").reason == "DataMismatch"
    dumped = replace(world.seen, database=replace(world.seen.database, birth=BIRTH))
    assert said(plan(accepting("born-1"), dumped), "DatabaseReady").reason == "DataMismatch"


def test_a_bucket_without_a_birth_that_was_accepted_once_is_not_accepted_again() -> None:
    world = met(schema=SWEPT, bucket=None, contents=200, known=100)
    (given_up,) = re.findall(r'accept-data: "(.*)"', said(plan(tenant(), world.seen), "DatabaseReady").message)
    world.settle(accepting(given_up))
    assert isinstance(world.seen.bucket, Bucket)
    world.seen = replace(world.seen, bucket=replace(world.seen.bucket, birth=None, contents=200))
    assert said(plan(accepting(given_up), world.seen), "DatabaseReady").reason == "DataMismatch"


@pytest.mark.parametrize("facts", [{}, {"contents": 200, "known": 101}, {"contents": 1, "known": 1}])
def test_a_bucket_of_before_there_were_births_is_marked_where_it_is_empty_or_known(facts: dict[str, int]) -> None:
    world = met(bucket=None, **facts)
    assert plan(tenant(), world.seen).steps == (WriteBirth("tenant_acme", "media-acme", "acme"),)
    assert said(world.settle(tenant()), "Ready").status == "True"


def test_a_schema_of_before_there_were_births_is_migrated_and_then_marks_its_bucket() -> None:
    world = met(bucket=None, contents=3, known=3)
    assert isinstance(world.seen.database, Database)
    world.seen = replace(world.seen, database=replace(world.seen.database, birth=None, revision="0001"))
    world.settle(tenant())
    assert [type(step) for step in world.done[:2]] == [MigrateDatabase, WriteBirth]


def test_a_dump_of_before_there_were_births_is_not_migrated_beside_a_bucket_that_has_one() -> None:
    world = met()
    assert isinstance(world.seen.database, Database)
    world.seen = replace(world.seen, database=replace(world.seen.database, birth=None, revision="0001"))
    current = plan(tenant(), world.seen)
    assert current.steps == ()
    assert "was made by an older version of the platform" in said(current, "DatabaseReady").message
    assert said(world.settle(accepting("born-1")), "Ready").status == "True"


def test_a_schema_that_is_gone_is_not_made_anew_while_the_bucket_cannot_be_seen() -> None:
    role_alone = Database(True, False, OURS, None, ("0001", "0002"), is_new=True)
    current = plan(tenant(), replace(met().seen, database=role_alone, bucket=Unreachable("connection refused")))
    assert current.steps == ()
    assert said(current, "DatabaseReady").reason == "WaitingForBucket"


def test_a_retained_schema_that_was_dropped_is_not_made_anew_beside_its_bucket() -> None:
    kept = THEIRS.as_retained()
    role_alone = Database(True, False, kept, None, ("0001",), is_new=True)
    current = plan(resource(), replace(LEFT_BEHIND, bucket=Bucket(True, kept, birth=SWEPT), database=role_alone))
    assert said(current, "DatabaseReady").reason == "DataMismatch"
    assert not [step for step in current.steps if isinstance(step, CreateDatabase)]


def lost(seen: ObservedState) -> Bucket:
    """The bucket, if it belonged to another schema."""
    assert isinstance(seen.bucket, Bucket)
    return replace(seen.bucket, birth=Birth("born-0", 99, 1))


def test_on_a_cluster_the_way_out_is_a_command_to_paste() -> None:
    current = plan(resource(), replace(alive(resource()), bucket=lost(alive(resource()))))
    doubt = said(current, "DatabaseReady").message
    command = "kubectl --namespace team-a annotate --overwrite mediatenant acme media.scaiwave.io/accept-data=born-0"
    assert doubt.endswith(f"For that run: {command}")
    assert len(doubt) < 1000
    assert said(current, "PolicyApplied").message == doubt.partition(". ")[0]


def test_a_tenant_whose_data_disagrees_can_still_be_deleted_with_it() -> None:
    declared = resource(**DELETE)
    seen = replace(alive(declared), bucket=lost(alive(declared)), has_finalizer=True, stopped=True)
    assert [type(step) for step in plan_deletion(declared, seen).steps] == [DeleteBucket]


# --- webhooks --------------------------------------------------------------------------------------------------------

HOOK = {"url": "https://hooks.example/secret-path", "secretRef": {"name": "app-hook"}}
CALM = WebhookNote(webhook_id(str(HOOK["url"])), "hooks.example", None, None, 0, None)


@pytest.mark.parametrize(
    ("note", "status", "reason", "words"),
    [
        (CALM, "True", "Delivered", "webhooks: 1; none is known to fail"),
        (
            replace(CALM, failing_since=NOW, error="answered 503"),
            "False",
            "WebhookFailing",
            "hooks.example has taken no event since 2026-11-24T00:00:00Z: answered 503; each event is tried for three",
        ),
        (
            replace(CALM, failing_since=NOW, error="answered 503", next_attempt=NOW + timedelta(minutes=4)),
            "False",
            "WebhookFailing",
            ": answered 503; next attempt: 2026-11-24T00:04:00Z; each event is tried for three days",
        ),
        (
            replace(CALM, given_up=7, given_up_error="answered 400"),
            "False",
            "EventsGivenUp",
            "hooks.example: events given up after three days: 7, the last one because of this: answered 400",
        ),
    ],
)
def test_a_webhook_that_takes_no_events_is_named_by_its_host(
    note: WebhookNote, status: str, reason: str, words: str
) -> None:
    of_before = replace(CALM, webhook_id="of a spec of before", given_up=3)
    declared = resource(webhooks=[HOOK])
    current = plan(declared, replace(alive(declared), notes=Notes(webhooks=(note, of_before))))
    found = said(current, "WebhooksDelivered")
    assert (found.status, found.reason) == (status, reason)
    assert words in found.message
    assert "secret-path" not in found.message
    assert said(current, "Ready").status == "True"


def test_without_webhooks_nothing_is_said_of_them() -> None:
    assert "WebhooksDelivered" not in [each.type for each in plan(resource(), alive(resource())).conditions]


# --- what sweeps and scan workers have written down ------------------------------------------------------------------

ZIP = Suspicion("Win.Zip-1", NOW, 50)
KEPT = Orphans(NOW + timedelta(microseconds=1), listed=1000, count=412, bytes=3 << 20, kept=True, since=NOW)


def test_a_signature_that_finds_too_much_is_said_and_all_else_goes_on() -> None:
    current = plan(tenant(), replace(settled().seen, notes=Notes((ZIP,))))
    assert current.steps == ()
    suspicious = said(current, "ScannerReady")
    assert (suspicious.status, suspicious.reason) == ("False", "ScanSuspicious")
    assert "Win.Zip-1 (finds 50 files)" in suspicious.message
    assert said(current, "ApiReady").status == said(current, "WorkersReady").status == "True"


def test_a_signature_is_trusted_by_its_name() -> None:
    seen = replace(alive(resource()), notes=Notes((ZIP, replace(ZIP, signature="Win.Odd'1"))))
    asked = said(plan(resource(), seen), "ScannerReady").message
    assert asked.endswith("annotate --overwrite mediatenant acme media.scaiwave.io/trust-signature=Win.Zip-1")
    trusting = resource(annotations={TRUST_SIGNATURE: "Win.Other-1, Win.Odd'1"})
    assert plan(trusting, seen).steps == (TrustSignatures("tenant_acme", ("Win.Odd'1",)),)


def test_a_scanner_that_misses_the_test_virus_is_worse_than_one_that_finds_too_much() -> None:
    missed = Scanner("False", "CanaryMissed", "called it clean", canary_due=True)
    current = plan(resource(), replace(alive(resource()), scanner=missed, notes=Notes((ZIP,))))
    assert said(current, "ScannerReady").reason == "CanaryMissed"
    found = Scanner("True", "CanaryFound", "found a while ago", canary_due=True)
    current = plan(resource(), replace(alive(resource()), scanner=found, notes=Notes((ZIP,))))
    assert (said(current, "ScannerReady").reason, current.steps) == ("ScanSuspicious", (SendCanary(),))


def test_orphans_that_are_kept_are_said_and_hold_nothing_back() -> None:
    current = plan(resource(), replace(alive(resource()), notes=Notes(orphans=KEPT)))
    found = said(current, "DataConsistent")
    assert (found.status, found.reason) == ("False", "OrphansKept")
    assert "412 of 1000 objects (3.0 MiB) have no row, the first of them since 2026-11-24T00:00:00Z" in found.message
    assert found.message.endswith("mediatenant acme media.scaiwave.io/remove-orphans=2026-11-24T00:00:01Z")
    assert said(current, "Ready").status == "True"
    calm = said(
        plan(resource(), replace(alive(resource()), notes=Notes(orphans=replace(KEPT, kept=False)))), found.type
    )
    assert (calm.status, calm.reason) == ("True", "Consistent")


def test_lost_objects_are_said_also_before_the_first_sweep_and_beside_orphans_and_hold_nothing_back() -> None:
    losses = Losses(3, 2 * 1024 * 1024, NOW)
    current = plan(resource(), replace(alive(resource()), notes=Notes(losses=losses)))
    found = said(current, "DataConsistent")
    assert (found.status, found.reason) == ("False", "ObjectsLost")
    assert "lost the objects of 3 contents (2.0 MiB), noticed since 2026-11-24T00:00:00Z" in found.message
    assert (said(current, "Ready").status, current.steps) == ("True", ())
    both = said(plan(resource(), replace(alive(resource()), notes=Notes(orphans=KEPT, losses=losses))), found.type)
    assert (both.status, both.reason) == ("False", "OrphansKept")
    assert "lost the objects of 3 contents" in both.message
    assert both.message.endswith("mediatenant acme media.scaiwave.io/remove-orphans=2026-11-24T00:00:01Z")


def test_before_the_first_sweep_nothing_is_said_of_orphans() -> None:
    assert "DataConsistent" not in [condition.type for condition in plan(resource(), alive(resource())).conditions]


def test_what_cannot_be_read_of_sweeps_is_unknown_and_not_forgotten() -> None:
    away = Unreachable("connection refused")
    current = plan(resource(), replace(alive(resource()), database=away, policy=away, notes=away))
    assert (said(current, "DataConsistent").status, current.steps) == ("Unknown", ())


def removing(until: str, seen: Orphans = KEPT) -> Plan:
    declared = resource(annotations={REMOVE_ORPHANS: until})
    return plan(declared, replace(alive(declared), notes=Notes(orphans=seen)))


def test_orphans_go_up_to_the_time_that_a_person_names_and_no_further() -> None:
    until = NOW + timedelta(seconds=1)
    assert removing("2026-11-24T00:00:01Z").steps == (ReleaseOrphans("tenant_acme", until),)
    done = removing("2026-11-24T00:00:01Z", replace(KEPT, released_at=until))
    assert done.steps == ()
    assert "the next sweep removes" in said(done, "DataConsistent").message
    later = removing("2026-11-24T00:00:01Z", replace(KEPT, released_at=until, swept_at=NOW + timedelta(days=30)))
    assert later.steps == ()  # an earlier decision does not hold for later ones
    assert "2026-12-24" in said(later, "DataConsistent").message


@pytest.mark.parametrize("until", ["all", "412", "", "2099-01-01", "2026-11-24T00:00:02Z"])
def test_what_is_no_time_up_to_the_last_sweep_releases_nothing(until: str) -> None:
    current = removing(until)
    assert current.steps == ()
    assert "has to be a time up to the last sweep" in said(current, "DataConsistent").message
