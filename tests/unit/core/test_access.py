"""Who may read what: the whole table, on one item."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from media_core.auth.tokens import ALL, Claims
from media_core.errors import Refused
from media_core.items.access import Item, Purpose, require, rooms_for
from media_core.policy import Policy

NOW = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = Policy(max_bytes=1, max_upload_bytes=1, max_transcription_seconds_per_day=1)
ITEM = Item(
    media_id="med-1", sha256="0" * 64, filename="a.jpg", uploaded_by="alice", tenant_scope=False, created_at=NOW,
    size=1, mime_type="image/jpeg", width=1, height=1, duration=None, scan_status="clean", scan_detail=None,
    thumbnail_status="ready", thumbnail_sha256=None, details={}, lost=False, rooms=("garden",),
)  # fmt: skip


def claims(subject: str, *rooms: str, scopes: frozenset[str] = frozenset({"media:read"})) -> Claims:
    return Claims(subject, scopes, frozenset(rooms), NOW)


UPLOADER = claims("alice")
MEMBER = claims("bob", "garden")
STRANGER = claims("eve", "cellar")
ADMIN = claims("root", scopes=frozenset({"admin"}))


def outcome(caller: Claims, item: Item, policy: Policy = POLICY, purpose: Purpose = "read") -> str:
    try:
        require(caller, item, policy, purpose)
    except Refused as refused:
        return refused.code
    return "allowed"


@pytest.mark.parametrize(
    ("caller", "item", "expected"),
    [
        (UPLOADER, ITEM, "allowed"),
        (MEMBER, ITEM, "allowed"),
        (ADMIN, ITEM, "allowed"),
        (STRANGER, ITEM, "not_found"),
        (STRANGER, replace(ITEM, tenant_scope=True), "allowed"),
        (MEMBER, replace(ITEM, rooms=()), "not_found"),
        (Claims("eve", frozenset(), ALL, NOW), ITEM, "allowed"),
        (Claims("eve", frozenset(), ALL, NOW), replace(ITEM, rooms=()), "not_found"),
    ],
)
def test_an_item_is_seen_by_its_uploader_its_rooms_its_tenant_if_shared_and_admins(
    caller: Claims, item: Item, expected: str
) -> None:
    assert outcome(caller, item) == expected
    assert outcome(caller, item, purpose="see") == expected


def test_an_unknown_id_is_refused_like_an_invisible_one() -> None:
    with pytest.raises(Refused) as unknown:
        require(ADMIN, None, POLICY, "see")
    with pytest.raises(Refused) as invisible:
        require(STRANGER, ITEM, POLICY, "see")
    assert (unknown.value.code, unknown.value.detail, unknown.value.facts) == (
        invisible.value.code,
        invisible.value.detail,
        invisible.value.facts,
    )


@pytest.mark.parametrize("caller", [UPLOADER, MEMBER, ADMIN])
@pytest.mark.parametrize("purpose", ["see", "read"])
@pytest.mark.parametrize("pending_access", ["None", "Uploader", "All"])
def test_infected_content_exists_for_nobody(caller: Claims, purpose: Purpose, pending_access: str) -> None:
    policy = replace(POLICY, pending_access=pending_access, unscannable="Allow", scan_enabled=False)  # type: ignore[arg-type]  # a Literal, from the list above
    assert outcome(caller, replace(ITEM, scan_status="infected"), policy, purpose) == "not_found"


@pytest.mark.parametrize(
    ("pending_access", "caller", "expected"),
    [
        ("None", UPLOADER, "scan_pending"),
        ("None", ADMIN, "scan_pending"),
        ("Uploader", UPLOADER, "allowed"),
        ("Uploader", MEMBER, "scan_pending"),
        ("Uploader", ADMIN, "scan_pending"),
        ("All", MEMBER, "allowed"),
        ("All", STRANGER, "not_found"),
    ],
)
def test_bytes_without_a_verdict_go_to_whom_the_policy_names(
    pending_access: str, caller: Claims, expected: str
) -> None:
    policy = replace(POLICY, pending_access=pending_access)  # type: ignore[arg-type]  # a Literal, from the list above
    item = replace(ITEM, scan_status="pending")
    assert outcome(caller, item, policy) == expected
    if expected != "not_found":
        assert outcome(caller, item, policy, "see") == "allowed"


def test_a_failed_scan_stays_closed_even_where_pending_content_is_open() -> None:
    policy = replace(POLICY, pending_access="All", scan_enabled=False)
    assert outcome(UPLOADER, replace(ITEM, scan_status="error"), policy) == "scan_pending"


def test_unscannable_bytes_follow_their_own_policy() -> None:
    item = replace(ITEM, scan_status="unscannable")
    assert outcome(UPLOADER, item) == "unscannable"
    assert outcome(UPLOADER, item, replace(POLICY, pending_access="All")) == "unscannable"
    assert outcome(UPLOADER, item, replace(POLICY, unscannable="Allow")) == "allowed"


def test_a_caller_learns_only_of_rooms_it_has() -> None:
    assert rooms_for(MEMBER, ("cellar", "garden")) == ["garden"]
    assert rooms_for(ADMIN, ("cellar", "garden")) == ["cellar", "garden"]


@pytest.mark.parametrize(
    ("scan_status", "pending_access", "expected"),
    [
        ("clean", "None", "allowed"),
        ("pending", "Uploader", "scan_pending"),
        ("pending", "All", "allowed"),
        ("unscannable", "All", "unscannable"),
        ("error", "All", "scan_pending"),
    ],
)
def test_a_url_that_anybody_can_open_is_given_only_for_bytes_that_everybody_may_read(
    scan_status: str, pending_access: str, expected: str
) -> None:
    policy = replace(POLICY, pending_access=pending_access)  # type: ignore[arg-type]  # a Literal, from the list above
    assert outcome(UPLOADER, replace(ITEM, scan_status=scan_status), policy, "share") == expected
