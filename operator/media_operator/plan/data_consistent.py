"""Objects without a row: more than a few are kept until a person says that they may be removed. Rows without an object:
the store has lost it.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from media_core.contents.quota import MIB
from media_operator.plan.finding import Context, Finding, attempt
from media_operator.plan.observed import Losses, Orphans, Unreachable
from media_operator.plan.steps import ReleaseOrphans
from media_operator.tenant.annotations import REMOVE_ORPHANS, how_to_annotate
from media_operator.tenant.spec import MediaTenant


def data_consistent(context: Context) -> Finding | None:
    notes = context.observed.notes
    if isinstance(notes, Unreachable):
        return Finding("Unknown", "DatabaseUnreachable", notes.detail)
    found = _of_orphans(context, notes.orphans)
    if notes.losses is None:
        return found
    words = _lost(notes.losses)
    if found is None or found.status == "True":
        return Finding("False", "ObjectsLost", words)
    return replace(found, message=f"{words} {found.message}")


def _lost(losses: Losses) -> str:
    contents = "1 content" if losses.count == 1 else f"{losses.count} contents"
    return (
        f"the store has lost the objects of {contents} ({losses.bytes / MIB:.1f} MiB), noticed since "
        f"{_written(losses.since)}. Their files are answered 503 file_lost. Nothing is deleted for it. Put the objects "
        "back from a backup of the bucket; an upload of the same bytes brings them back, too."
    )


def _of_orphans(context: Context, seen: Orphans | None) -> Finding | None:
    tenant = context.tenant
    if seen is None:
        return None
    if not seen.kept:
        return Finding(
            "True",
            "Consistent",
            "no object is known to be lost, and interrupted uploads have left few objects without a row",
        )
    words = (
        f"{seen.count} of {seen.listed} objects ({seen.bytes / MIB:.1f} MiB) have no row, the first of them since "
        f"{_written(seen.since or seen.swept_at)}. Interrupted uploads leave fewer behind, so none of them is "
        "removed. If their rows were lost, restore a newer database. If nobody needs these objects, "
        + how_to_annotate(tenant, REMOVE_ORPHANS, _written(_next_second(seen.swept_at)))
    )
    until = orphans_released(tenant, seen)
    if until is None and REMOVE_ORPHANS in tenant.metadata.annotations:
        words = f"{REMOVE_ORPHANS} has no effect: its value has to be a time up to the last sweep. {words}"
    released = seen.released_at
    if until is not None and (released is None or until > released):
        said = f"objects that had no row by {_written(until)} are being released for removal"
        return attempt(context, ReleaseOrphans(tenant.schema_name, until), "OrphansKept", said)
    if released is not None and released >= seen.swept_at:
        gone = f"the next sweep removes objects that had no row by {_written(released)}"
        return Finding("False", "OrphansKept", gone)
    return Finding("False", "OrphansKept", words)


def orphans_released(tenant: MediaTenant, seen: Orphans) -> datetime | None:
    """The time in `REMOVE_ORPHANS`: orphans first seen up to then may be removed. None: no time that counts.

    A time after the last sweep does not count yet: nobody can have judged orphans that no sweep has seen.
    """
    try:
        until = datetime.fromisoformat(tenant.metadata.annotations.get(REMOVE_ORPHANS, ""))
    except ValueError:
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return until if until <= _next_second(seen.swept_at) else None


def _next_second(time: datetime) -> datetime:
    """Rounded up, so that the time as written, to the second, is not before it."""
    return time if time.microsecond == 0 else time.replace(microsecond=0) + timedelta(seconds=1)


def _written(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
