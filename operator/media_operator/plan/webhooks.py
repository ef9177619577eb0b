"""Webhooks that take no events, and events that were given up."""

from __future__ import annotations

from datetime import UTC, datetime

from media_core.events.webhooks import webhook_id
from media_operator.plan.finding import Context, Finding
from media_operator.plan.observed import Unreachable, WebhookNote


def webhooks_delivered(context: Context) -> Finding | None:
    """Names hosts only: a URL may hold a secret."""
    declared = {webhook_id(each.url) for each in context.tenant.spec.webhooks}
    if not declared:
        return None
    notes = context.observed.notes
    if isinstance(notes, Unreachable):
        return Finding("Unknown", "DatabaseUnreachable", notes.detail)
    seen = [each for each in notes.webhooks if each.webhook_id in declared]
    if given_up := [each for each in seen if each.given_up]:
        return Finding("False", "EventsGivenUp", ". ".join([*map(_given_up, given_up), *_failing(seen)]))
    if failing := _failing(seen):
        return Finding("False", "WebhookFailing", ". ".join(failing))
    return Finding("True", "Delivered", f"webhooks: {len(declared)}; none is known to fail")


def _given_up(seen: WebhookNote) -> str:
    return (
        f"{seen.host}: events given up after three days: {seen.given_up}, the last one because of this: "
        f"{seen.given_up_error or 'unknown'}. GET /v1/events tells them as long as they are kept"
    )


def _failing(seen: list[WebhookNote]) -> list[str]:
    return [
        f"{each.host} has taken no event since {_time(each.failing_since)}: {each.error or 'unknown'}; "
        + (f"next attempt: {_time(each.next_attempt)}; " if each.next_attempt is not None else "")
        + "each event is tried for three days"
        for each in seen
        if each.failing_since is not None
    ]


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
