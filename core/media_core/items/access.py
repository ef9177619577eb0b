"""Who may read what: one ordered chain of checks. Every path that shows an item or its bytes asks it.

The order: visibility (an item that a caller may not see does not exist for them), then infection (infected content
does not exist for anybody), then whether bytes may leave without a clean verdict. The first check that objects wins.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from media_core.auth.tokens import ALL, CANARY, Claims
from media_core.errors import Refused, not_found
from media_core.jobs.queue import NotYet
from media_core.policy import Policy

Purpose = Literal["see", "read", "share"]
"""`see`: facts about the item. `read`: its bytes, its thumbnail. `share`: a URL with which anybody may read them."""

RETRY_AFTER_SECONDS = 5

VERDICT_DUE = timedelta(minutes=1)
"""How long a job waits for content that has no verdict yet. The verdict ends the wait earlier (`contents.life`); on a
cluster each look without one starts a pod."""


@dataclass(frozen=True)
class Item:
    """One item with the facts of its content, as every read path loads it."""

    media_id: str
    sha256: str
    filename: str
    uploaded_by: str
    tenant_scope: bool
    created_at: datetime
    size: int
    mime_type: str
    width: int | None
    height: int | None
    duration: float | None
    scan_status: str
    scan_detail: str | None
    thumbnail_status: str
    thumbnail_sha256: str | None
    details: Mapping[str, Any]
    """See `contents.life.Facts`."""
    lost: bool
    """Somebody has noted that the store has lost its object. It may be there again."""
    rooms: tuple[str, ...]
    """Those that the caller may know of for whom it was loaded."""
    labels: Mapping[str, str] = field(default_factory=dict)
    more_rooms: bool = False
    """`rooms` has the first of them only (`item.MOST_ROOMS`)."""


Check = Callable[[Claims, Item, Policy, Purpose], Refused | None]


def has_room(caller: Claims, room_id: str) -> bool:
    return "admin" in caller.scopes or caller.rooms is ALL or room_id in caller.rooms


def has_one_of(caller: Claims, rooms: Collection[str]) -> bool:
    """Whether the caller has one of these rooms at least. Of two sets the smaller one is looked through."""
    if "admin" in caller.scopes or caller.rooms is ALL:
        return bool(rooms)
    return not caller.rooms.isdisjoint(rooms)


def require_room(caller: Claims, room_id: str | None) -> None:
    """Raises Refused `not_found` for a room that the caller's token does not name. None: no room, nothing to check."""
    if room_id is not None and not has_room(caller, room_id):
        raise not_found()


def rooms_for(caller: Claims, rooms: Iterable[str]) -> list[str]:
    """The `rooms` that the caller may know of."""
    return [room for room in rooms if has_room(caller, room)]


def open_to_all(scan_status: str, policy: Policy) -> bool:
    """Whether all who may see the item may read its bytes: by the verdict, or by the policy while there is none."""
    match scan_status:
        case "clean":
            return True
        case "pending":
            return not policy.scan_enabled or policy.pending_access == "All"
        case "unscannable":
            return policy.unscannable == "Allow"
        case _:
            return False


def may_change(caller: Claims, uploaded_by: str) -> bool:
    """Whether the caller may change, label or delete an item: its uploader, and admins."""
    return "admin" in caller.scopes or caller.subject == uploaded_by


def require_may_change(caller: Claims, item: Item, what: str) -> None:
    """`what`: the verb of the sentence. Raises Refused `not_yours`."""
    if not may_change(caller, item.uploaded_by):
        raise Refused("not_yours", f"Only its uploader or an admin may {what} this file.")


def hears(caller: Claims, owner: str, tenant_scope: bool, rooms: Collection[str]) -> bool:
    """Whether an event of an item is told to the caller. Its owner and admins hear of an infected one, too: then
    `tenant_scope` is false and `rooms` are none. Nobody gets its bytes.
    """
    return may_change(caller, owner) or tenant_scope or has_one_of(caller, rooms)


def _for_people(caller: Claims, item: Item, policy: Policy, purpose: Purpose) -> Refused | None:
    return not_found() if item.uploaded_by == CANARY else None


def _visible(caller: Claims, item: Item, policy: Policy, purpose: Purpose) -> Refused | None:
    seen = (
        caller.subject == item.uploaded_by
        or item.tenant_scope
        or "admin" in caller.scopes
        or has_one_of(caller, item.rooms)
    )
    return None if seen else not_found()


def _not_infected(caller: Claims, item: Item, policy: Policy, purpose: Purpose) -> Refused | None:
    return not_found() if item.scan_status == "infected" else None


def _bytes_have_a_verdict(caller: Claims, item: Item, policy: Policy, purpose: Purpose) -> Refused | None:
    if purpose == "see" or item.scan_status not in ("pending", "error"):
        return None
    own = caller.subject == item.uploaded_by and purpose == "read"
    if open_to_all(item.scan_status, policy) or (
        item.scan_status == "pending" and policy.pending_access == "Uploader" and own
    ):
        return None
    why = "has not been scanned yet" if item.scan_status == "pending" else "could not be scanned so far"
    return Refused(
        "scan_pending",
        f"This file {why}; it can be read once the scan finds it clean. Try again in {RETRY_AFTER_SECONDS} seconds.",
        retry_after=RETRY_AFTER_SECONDS,
        scan_status=item.scan_status,
    )


def _bytes_are_scannable(caller: Claims, item: Item, policy: Policy, purpose: Purpose) -> Refused | None:
    if purpose == "see" or item.scan_status != "unscannable" or policy.unscannable == "Allow":
        return None
    return Refused(
        "unscannable",
        "The scanner could not look inside this file (encrypted, or over its limits), and this tenant does not "
        "release such files.",
        scan_status=item.scan_status,
    )


CHAIN: tuple[Check, ...] = (_for_people, _visible, _not_infected, _bytes_have_a_verdict, _bytes_are_scannable)


def require(caller: Claims, item: Item | None, policy: Policy, purpose: Purpose) -> Item:
    """The item, if the caller may use it for `purpose`. Raises Refused `not_found`, `scan_pending`, `unscannable`."""
    if item is None:
        raise not_found()
    for check in CHAIN:
        objection = check(caller, item, policy, purpose)
        if objection is not None:
            raise objection
    return item


def require_by_url(item: Item | None, policy: Policy) -> Item:
    """The item, for whoever has a URL that was signed for a caller to whom it was visible. Raises as `require`."""
    if item is None:
        raise not_found()
    for check in CHAIN:
        objection = None if check is _visible else check(WHOEVER, item, policy, "share")
        if objection is not None:
            raise objection
    return item


WHOEVER = Claims("", frozenset(), frozenset(), datetime.min)
"""The caller of a signed URL: it has no token, and knows of no room."""


def shows(caller: Claims, item: Item, policy: Policy) -> bool:
    """Whether a list shows the item to the caller."""
    return all(check(caller, item, policy, "see") is None for check in CHAIN)


def require_admin(caller: Claims, why: str) -> None:
    """Raises Refused `insufficient_scope`, with the sentence `why`."""
    if "admin" not in caller.scopes:
        raise Refused("insufficient_scope", why, scope="admin")


def require_workable(scan_status: str, policy: Policy, *, being_scanned: bool) -> None:
    """Whether the verdict lets a worker open content for a caller.

    Raises NotYet while a verdict is due. Raises Refused: `not_found` (infected), `unscannable`, and `scan_failed` when
    the scan failed and no other is queued.
    """
    if scan_status == "infected":
        raise not_found()
    if scan_status == "unscannable" and policy.unscannable == "Block":
        raise Refused("unscannable", "The scanner could not look inside this file, so it is not opened here either.")
    if scan_status == "error" and not being_scanned:
        raise Refused(
            "scan_failed", "This file could not be scanned, so it is not opened; an admin can have it rescanned."
        )
    if scan_status == "error" or (scan_status == "pending" and policy.scan_enabled):
        raise NotYet(VERDICT_DUE)
